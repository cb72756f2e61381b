// logits and bench: whole-machine jobs that step a model directly on the engine thread, with KV pages of their own (not the pool's).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/os.h"
#include "engine/eng_load.h"
#include "engine/eng_sched.h"
#include "obs/obs.h"

// Sequences with pages given out once, in order: sequence s has pages s * per_seq ... of every group.
typedef struct job_kv {
    dev_kv  *kv;
    int32_t *ids;
    int32_t  per_seq; // pages a sequence
    int32_t  groups;
} job_kv;

static status kv_open(eng_model *m, int32_t sequences, int64_t tokens, job_kv *out, error *err) {
    memset(out, 0, sizeof *out);
    out->groups = m->plan->n_groups;
    out->per_seq = (int32_t)((tokens + DEV_PAGE_TOKENS - 1) / DEV_PAGE_TOKENS);
    if (!out->groups) return OK;
    int32_t n_pages[DEV_MAX_GROUPS], total = sequences * out->per_seq;
    for (int i = 0; i < out->groups; i++) n_pages[i] = m->plan->groups[i].kind == DEV_GROUP_RECURRENT ? sequences : total;
    out->ids = mem_calloc((size_t)total, sizeof *out->ids);
    if (!out->ids) return error_set(err, E_NOMEM, "no memory for %d pages", total);
    for (int32_t i = 0; i < total; i++) out->ids[i] = i;
    status s = dev_kv_create(m->dev, m->plan, n_pages, m->kv_type, &out->kv, err);
    if (s != OK) mem_free(out->ids);
    return s;
}

static void kv_close(eng_model *m, job_kv *kv) {
    if (kv->kv) dev_kv_destroy(m->dev, kv->kv);
    mem_free(kv->ids);
}

// Sequence `s` of a step: its rows [first, first + n), with `start` tokens before.
static dev_seq seq_of(eng_model *m, const job_kv *kv, int32_t s, int32_t first, int32_t n, int32_t start) {
    dev_seq q = {.first_row = first, .n_rows = n, .start = start};
    for (int i = 0; i < kv->groups; i++) {
        bool recurrent = m->plan->groups[i].kind == DEV_GROUP_RECURRENT;
        q.pages[i] = kv->ids + (recurrent ? s : s * kv->per_seq);
        q.n_pages[i] = recurrent ? 1 : kv->per_seq;
    }
    return q;
}

static status run_step(eng_model *m, const job_kv *kv, const dev_step *step, error *err) {
    dev_ticket ticket;
    status s = dev_submit(m->plan, kv->kv, step, &ticket, err);
    return s == OK ? dev_wait(m->plan, ticket, err) : s;
}

// One sequence's rows [at, at + n) of tokens; logits of all of them, or of the last alone.
static status prompt_step(eng_model *m, const job_kv *kv, int32_t s, const int32_t *tokens, int32_t at, int32_t n, bool all, error *err) {
    int32_t *numbers = mem_calloc((size_t)n * 2, sizeof *numbers);
    if (!numbers) return error_set(err, E_NOMEM, "no memory for a step of %d rows", n);
    for (int32_t i = 0; i < n; i++) {
        numbers[i] = at + i;
        numbers[n + i] = i;
    }
    dev_seq seq = seq_of(m, kv, s, 0, n, at);
    dev_step step = {.n_rows = n, .tokens = tokens + at, .positions = numbers, .n_seqs = 1, .seqs = &seq,
                     .n_wanted = all ? n : 1, .wanted = numbers + n + (all ? 0 : n - 1)};
    status st = run_step(m, kv, &step, err);
    mem_free(numbers);
    return st;
}

// ---- logits --------------------------------------------------------------------------------------

struct logits_job {
    const int32_t *tokens;
    size_t n, chunk;
    status (*row)(void *, size_t, const float *, size_t, error *);
    void *ctx;
};

static status check_tokens(const eng_model *m, const int32_t *tokens, size_t n, error *err) {
    uint32_t vocab = model_get_info(m->m)->n_vocab;
    if (n > m->context) return error_set(err, E_INVALID, "%zu tokens are more than the context of %u; see --context", n, m->context);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab) return error_set(err, E_INVALID, "token %d is not in the vocabulary of %u", tokens[i], vocab);
    return OK;
}

static status logits_job(void *ctx, eng_model *m, error *err) {
    struct logits_job *j = ctx;
    const model_info *info = model_get_info(m->m);
    if (!info->generates) return error_set(err, E_INVALID, "%s has no logits: it makes embeddings; see `altiserve embed`", m->file->id);
    size_t most = (size_t)(m->max_wanted < m->max_rows ? m->max_wanted : m->max_rows), chunk = j->chunk && j->chunk < most ? j->chunk : most;
    if (info->whole) {
        if (j->n > most) return error_set(err, E_LIMIT, "this model reads a text as a whole: %zu tokens are more than a step of %zu", j->n, most);
        chunk = j->n;
    }
    job_kv kv;
    status s = check_tokens(m, j->tokens, j->n, err);
    if (s == OK) s = kv_open(m, 1, (int64_t)j->n, &kv, err);
    if (s != OK) return s;
    for (size_t at = 0; s == OK && at < j->n; at += chunk) {
        int32_t n = (int32_t)(j->n - at < chunk ? j->n - at : chunk);
        s = prompt_step(m, &kv, 0, j->tokens, (int32_t)at, n, true, err);
        for (int32_t i = 0; s == OK && i < n; i++) s = j->row(j->ctx, at + (size_t)i, dev_logits(m->plan, i), info->n_vocab, err);
    }
    kv_close(m, &kv);
    return s;
}

status altiserve_logits(altiserve *a, const char *id, const int32_t *tokens, size_t n, size_t chunk,
                        status (*row)(void *, size_t, const float *, size_t, error *), void *ctx, error *err) {
    struct logits_job j = {tokens, n, chunk, row, ctx};
    eng_file *f;
    if (!n) return error_set(err, E_INVALID, "the prompt is empty");
    status s = eng_models_find(a->models, id, &f, err);
    if (s != OK) return s;
    s = eng_sched_job(a->sched, f, logits_job, &j, err);
    eng_file_release(f);
    return s;
}

// ---- bench ---------------------------------------------------------------------------------------

struct bench_job {
    altiserve_bench_spec spec;
    altiserve_bench_result *out;
};

static double seconds(void) { return (double)os_now_us() / 1e6; }

static status prompt_steps(eng_model *m, const job_kv *kv, int32_t seq, const int32_t *tokens, int32_t from, int32_t upto, error *err) {
    for (int32_t at = from; at < upto; at += m->max_rows) {
        status s = prompt_step(m, kv, seq, tokens, at, upto - at < m->max_rows ? upto - at : m->max_rows, false, err);
        if (s != OK) return s;
    }
    return OK;
}

static status bench_prompt(eng_model *m, const job_kv *kv, const altiserve_bench_spec *spec, const int32_t *tokens, double *rate, error *err) {
    int32_t depth = (int32_t)spec->depth, end = (int32_t)(spec->depth + spec->prompt);
    status s = prompt_steps(m, kv, 0, tokens, 0, depth, err);
    double begin = seconds();
    if (s == OK) s = prompt_steps(m, kv, 0, tokens, depth, end, err);
    *rate = spec->prompt / (seconds() - begin);
    return s;
}

static status bench_gen(eng_model *m, const job_kv *kv, const altiserve_bench_spec *spec, int32_t *tokens, double *rate, error *err) {
    int32_t par = (int32_t)spec->parallel, depth = (int32_t)spec->depth;
    uint32_t vocab = model_get_info(m->m)->n_vocab;
    dev_seq *seqs = mem_calloc((size_t)par, sizeof *seqs);
    int32_t *numbers = mem_calloc((size_t)par * 3, sizeof *numbers), *row_tokens = numbers, *positions = numbers + par, *wanted = numbers + 2 * par;
    status s = seqs && numbers ? OK : error_set(err, E_NOMEM, "no memory for %d sequences", par);
    for (int32_t i = 0; s == OK && i < par; i++) s = prompt_steps(m, kv, i, tokens, 0, depth, err);
    uint32_t random = 12345;
    double begin = seconds();
    for (uint32_t k = 0; s == OK && k < spec->gen; k++) {
        for (int32_t i = 0; i < par; i++) {
            random = random * 1664525u + 1013904223u;
            row_tokens[i] = (int32_t)((random >> 4) % vocab);
            positions[i] = depth + (int32_t)k;
            wanted[i] = i;
            seqs[i] = seq_of(m, kv, i, i, 1, depth + (int32_t)k);
        }
        dev_step step = {.n_rows = par, .tokens = row_tokens, .positions = positions, .n_seqs = par, .seqs = seqs, .n_wanted = par, .wanted = wanted};
        s = run_step(m, kv, &step, err);
    }
    *rate = (double)spec->gen * par / (seconds() - begin);
    mem_free(seqs);
    mem_free(numbers);
    return s;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarise(double *v, uint32_t n, altiserve_bench_rate *r) {
    qsort(v, n, sizeof *v, by_value);
    r->tok_s = v[n / 2];
    r->low = v[0];
    r->high = v[n - 1];
}

// ---- the limit ----

static void take_better(altiserve_bench_result *out, const dev_limits *l) {
    if (l->read_bytes_s > out->read_bytes_s) out->read_bytes_s = l->read_bytes_s;
    out->n_units = l->n_units;
    for (int i = 0; i < l->n_units; i++) {
        memcpy(out->units[i].name, l->units[i].name, sizeof out->units[i].name);
        if (l->units[i].ops_s > out->units[i].ops_s) out->units[i].ops_s = l->units[i].ops_s;
    }
}

// What steps need, summed up, and the least time that the machine can take for them.
typedef struct bound { dev_work work; double seconds, tokens; } bound;

static void add_step(bound *b, const altiserve_bench_result *r, dev_work w, double tokens) {
    double memory = w.bytes / r->read_bytes_s, unit = w.ops / r->units[0].ops_s;
    b->work.ops += w.ops;
    b->work.bytes += w.bytes;
    b->seconds += memory > unit ? memory : unit;
    b->tokens += tokens;
}

static void put_bound(const bound *b, const altiserve_bench_result *r, altiserve_bench_rate *out) {
    if (!b->tokens) return;
    out->token_ops = b->work.ops / b->tokens;
    out->token_bytes = b->work.bytes / b->tokens;
    out->limit_tok_s = b->tokens / b->seconds;
    out->by_memory = b->work.bytes / r->read_bytes_s > b->work.ops / r->units[0].ops_s;
}

// The steps that bench_prompt and bench_gen time.
static void put_bounds(const eng_model *m, const altiserve_bench_spec *spec, altiserve_bench_result *r) {
    bound pp = {.tokens = 0}, tg = {.tokens = 0};
    if (!r->n_units) return;
    for (int32_t at = 0, n; at < (int32_t)spec->prompt; at += n) {
        n = (int32_t)spec->prompt - at < m->max_rows ? (int32_t)spec->prompt - at : m->max_rows;
        add_step(&pp, r, dev_plan_work(m->plan, m->kv_type, 1, n, (int32_t)spec->depth + at, 1), n);
    }
    for (uint32_t k = 0; k < spec->gen; k++)
        add_step(&tg, r, dev_plan_work(m->plan, m->kv_type, (int32_t)spec->parallel, 1, (int32_t)(spec->depth + k), (int32_t)spec->parallel), spec->parallel);
    put_bound(&pp, r, &r->pp);
    put_bound(&tg, r, &r->tg);
}

static status bench_job(void *ctx, eng_model *m, error *err) {
    struct bench_job *j = ctx;
    const altiserve_bench_spec *spec = &j->spec;
    uint32_t longest = (spec->prompt > spec->gen ? spec->prompt : spec->gen) + spec->depth, vocab = model_get_info(m->m)->n_vocab;
    if (spec->gen && !model_get_info(m->m)->generates) return error_set(err, E_INVALID, "%s writes no text: measure it with --gen 0", m->file->id);
    if (longest > m->context) return error_set(err, E_INVALID, "%u tokens are more than the context of %u; see --context", longest, m->context);
    if ((int32_t)spec->parallel > m->max_wanted) return error_set(err, E_LIMIT, "%u sequences are more than the %d of a step", spec->parallel, m->max_wanted);
    job_kv kv;
    int32_t *tokens = mem_calloc(longest + 1, sizeof *tokens);
    double *pp = mem_calloc(spec->reps, sizeof *pp), *tg = mem_calloc(spec->reps, sizeof *tg);
    status s = tokens && pp && tg ? kv_open(m, (int32_t)spec->parallel, longest + 1, &kv, err) : error_set(err, E_NOMEM, "no memory for the benchmark");
    bool open = s == OK;
    memset(j->out, 0, sizeof *j->out);
    dev_limits limits;
    if (s == OK && (s = dev_measure(m->dev, &limits, err)) == OK) take_better(j->out, &limits);
    if (s == OK) {
        uint32_t random = 1;
        for (uint32_t i = 0; i <= longest; i++) {
            random = random * 1664525u + 1013904223u;
            tokens[i] = (int32_t)((random >> 4) % vocab);
        }
        for (int64_t r = -1; s == OK && r < (int64_t)spec->reps; r++) { // the first warms up and is not counted
            double unused;
            if (spec->prompt) s = bench_prompt(m, &kv, spec, tokens, r < 0 ? &unused : &pp[r], err);
            if (s == OK && spec->gen) s = bench_gen(m, &kv, spec, tokens, r < 0 ? &unused : &tg[r], err);
        }
    }
    if (open) kv_close(m, &kv);
    if (s == OK && (s = dev_measure(m->dev, &limits, err)) == OK) {
        dev_info info;
        dev_get_info(m->dev, &info);
        take_better(j->out, &limits);
        summarise(pp, spec->reps, &j->out->pp);
        summarise(tg, spec->reps, &j->out->tg);
        put_bounds(m, spec, j->out);
        j->out->threads = info.threads;
        snprintf(j->out->device, sizeof j->out->device, "%s", info.name);
        snprintf(j->out->isa, sizeof j->out->isa, "%s", info.isa);
    }
    mem_free(tokens);
    mem_free(pp);
    mem_free(tg);
    return s;
}

status altiserve_bench(altiserve *a, const char *id, const altiserve_bench_spec *spec, altiserve_bench_result *out, error *err) {
    struct bench_job j = {*spec, out};
    if (!spec->reps || !spec->parallel || (!spec->prompt && !spec->gen)) return error_set(err, E_USAGE, "nothing to measure: give --prompt or --gen, and at least one repetition");
    eng_file *f;
    status s = eng_models_find(a->models, id, &f, err);
    if (s != OK) return s;
    s = eng_sched_job(a->sched, f, bench_job, &j, err);
    eng_file_release(f);
    return s;
}
