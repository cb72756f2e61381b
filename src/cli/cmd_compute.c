// generate, embed, logits, perplexity, bench, inspect: one model, one job, then done. They print what the reference's tool prints.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/commands.h"

static status generate(altiserve *a, const flags *f, error *err) {
    int32_t *ids = NULL;
    size_t n = 0;
    const char *model = f->positional[0];
    if (cli_load(a, model, err) != OK || cli_prompt(a, f, model, &ids, &n, err) != OK) return err->code;
    altiserve_generate g = {
        .model = model, .tokens = ids, .n_tokens = n, .n = 1, .logprobs = -1,
        .max_tokens = f->given[FLAG_N] ? (uint32_t)f->number[FLAG_N] : 64,
        .ignore_eos = f->number[FLAG_IGNORE_EOS] != 0,
        .sampling = cli_sampling(f), .given = SAMPLING_TEMPERATURE | SAMPLING_TOP_K | SAMPLING_TOP_P | SAMPLING_MIN_P};
    altiserve_request *r = NULL;
    if (g.max_tokens == 0) {
        putchar('\n');
        mem_free(ids);
        return OK;
    }
    status s = altiserve_submit(a, &g, &r, err);
    mem_free(ids);
    if (s != OK) return s;
    altiserve_event e;
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_END) {
        if (e.kind != EVENT_TEXT) continue;
        if (f->number[FLAG_IDS]) {
            for (size_t i = 0; i < e.n_tokens; i++) printf("%d ", e.tokens[i]);
        } else {
            fwrite(e.text, 1, e.text_len, stdout);
        }
        if (fflush(stdout)) altiserve_cancel(r); // nobody reads
    }
    if (e.finish == FINISH_ERROR) *err = e.err;
    putchar('\n');
    altiserve_request_free(r);
    return err->code;
}

int cmd_generate(const flags *f) {
    error err = {0};
    altiserve *a = NULL;
    if (cli_open(f, &a, &err) == OK) generate(a, f, &err);
    altiserve_destroy(a);
    return err.code ? cli_fail(&err) : 0;
}

static status embed(altiserve *a, const flags *f, error *err) {
    int32_t *ids = NULL;
    size_t n = 0;
    const char *model = f->positional[0];
    if (cli_load(a, model, err) != OK || cli_prompt(a, f, model, &ids, &n, err) != OK) return err->code;
    altiserve_embed what = {.model = model, .tokens = ids, .n_tokens = n, .raw = f->number[FLAG_RAW] != 0};
    altiserve_request *r = NULL;
    status s = altiserve_submit_embed(a, &what, &r, err);
    mem_free(ids);
    if (s != OK) return s;
    altiserve_event e;
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_END)
        for (size_t i = 0; i < e.n_embedding; i++) printf("%s%.9g%s", i ? " " : "", (double)e.embedding[i], i + 1 == e.n_embedding ? "\n" : "");
    if (e.finish == FINISH_ERROR) *err = e.err;
    altiserve_request_free(r);
    return err->code;
}

int cmd_embed(const flags *f) {
    error err = {0};
    altiserve *a = NULL;
    if (cli_open(f, &a, &err) == OK) embed(a, f, &err);
    altiserve_destroy(a);
    return err.code ? cli_fail(&err) : 0;
}

struct logits_sink {
    FILE *file;
    const char *path;
    strbuf argmax;
    size_t vocabulary;
};

static status take_logits(void *ctx, size_t index, const float *logits, size_t vocabulary, error *err) {
    struct logits_sink *sink = ctx;
    size_t best = 0;
    for (size_t i = 1; i < vocabulary; i++)
        if (logits[i] > logits[best]) best = i;
    strbuf_addf(&sink->argmax, "%s%zu", index ? ", " : "", best);
    sink->vocabulary = vocabulary;
    if (sink->file && fwrite(logits, sizeof(float), vocabulary, sink->file) != vocabulary)
        return error_errno(err, "cannot write %s", sink->path);
    return OK;
}

int cmd_logits(const flags *f) {
    error err = {0};
    altiserve *a = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    const char *model = f->positional[0];
    struct logits_sink sink = {.path = f->text[FLAG_OUT]};
    if (cli_open(f, &a, &err) == OK && cli_load(a, model, &err) == OK && cli_prompt(a, f, model, &ids, &n, &err) == OK) {
        if (sink.path && !(sink.file = fopen(sink.path, "wb"))) error_errno(&err, "cannot write %s", sink.path);
        else altiserve_logits(a, model, ids, n, (size_t)f->number[FLAG_CHUNK], take_logits, &sink, &err);
    }
    if (sink.file && fclose(sink.file) && !err.code) error_errno(&err, "cannot write %s", sink.path);
    if (!err.code) printf("{\"n_tokens\": %zu, \"n_vocab\": %zu, \"argmax\": [%s]}\n", n, sink.vocabulary, sink.argmax.data ? sink.argmax.data : "");
    strbuf_free(&sink.argmax);
    mem_free(ids);
    altiserve_destroy(a);
    return err.code ? cli_fail(&err) : 0;
}

struct perplexity_sink {
    const int32_t *tokens; // of the chunk
    size_t n;
    double nll;
    size_t count;
};

// The second half of each chunk is scored, as llama.cpp does: token j + 1 given the tokens up to j.
static status score(void *ctx, size_t j, const float *logits, size_t vocabulary, error *err) {
    struct perplexity_sink *sink = ctx;
    (void)err;
    if (j < sink->n / 2 || j + 1 >= sink->n) return OK;
    double top = logits[0], sum = 0;
    for (size_t k = 1; k < vocabulary; k++)
        if (logits[k] > top) top = logits[k];
    for (size_t k = 0; k < vocabulary; k++) sum += exp(logits[k] - top);
    sink->nll += top + log(sum) - logits[sink->tokens[j + 1]];
    sink->count++;
    return OK;
}

static status perplexity(altiserve *a, const flags *f, error *err) {
    char *text = NULL;
    size_t len, n = 0, bos_n = 0, chunk = f->given[FLAG_CONTEXT] ? (size_t)f->number[FLAG_CONTEXT] : 512;
    int32_t *ids = NULL, *bos = NULL;
    const char *model = f->positional[0];
    struct perplexity_sink sink = {0};
    if (!f->text[FLAG_FILE]) return error_set(err, E_USAGE, "give the text as --file FILE");
    if (chunk < 3) return error_set(err, E_USAGE, "the second half of each chunk is scored: --context is at least 3 here, not %zu", chunk);
    if (cli_load(a, model, err) != OK || cli_read(f->text[FLAG_FILE], &text, &len, err) != OK) return err->code;
    status s = altiserve_tokenize(a, model, text, len, TOKENIZE_ADD_SPECIAL, &ids, &n, err);
    if (s == OK) s = altiserve_tokenize(a, model, "", 0, TOKENIZE_ADD_SPECIAL, &bos, &bos_n, err);
    if (s == OK && n < 2 * chunk)
        s = error_set(err, E_INVALID, "%s has %zu tokens; perplexity needs two chunks of %zu: give more text or a smaller --context", f->text[FLAG_FILE], n, chunk);
    for (size_t i = 0; s == OK && i + chunk <= n; i += chunk) {
        int32_t keep = ids[i];
        if (bos_n) ids[i] = bos[0];
        sink.tokens = ids + i;
        sink.n = chunk;
        s = altiserve_logits(a, model, ids + i, chunk, 0, score, &sink, err);
        ids[i] = keep;
    }
    if (s == OK) printf("{\"tokens\": %zu, \"perplexity\": %.6f}\n", sink.count, exp(sink.nll / (double)sink.count));
    mem_free(text);
    mem_free(ids);
    mem_free(bos);
    return s;
}

int cmd_perplexity(const flags *f) {
    error err = {0};
    altiserve *a = NULL;
    if (cli_open(f, &a, &err) == OK) perplexity(a, f, &err);
    altiserve_destroy(a);
    return err.code ? cli_fail(&err) : 0;
}

static void bench_json(const altiserve_bench_spec *spec, const altiserve_bench_result *r) {
    printf("{\"engine\": \"altiserve\", \"prompt\": %u, \"gen\": %u, \"depth\": %u, \"parallel\": %u, \"threads\": %d, \"device\": \"%s\", "
           "\"isa\": \"%s\", \"pp_tok_s\": %.2f, \"tg_tok_s\": %.2f, \"pp_min\": %.2f, \"pp_max\": %.2f, \"tg_min\": %.2f, \"tg_max\": %.2f, \"read_gb_s\": %.2f, \"units\": {",
           spec->prompt, spec->gen, spec->depth, spec->parallel, r->threads, r->device, r->isa,
           r->pp.tok_s, r->tg.tok_s, r->pp.low, r->pp.high, r->tg.low, r->tg.high, r->read_bytes_s / 1e9);
    for (int i = 0; i < r->n_units; i++) printf("%s\"%s\": %.4f", i ? ", " : "", r->units[i].name, r->units[i].ops_s / 1e12);
    printf("}");
    for (int i = 0; i < 2; i++) {
        const altiserve_bench_rate *v = i ? &r->tg : &r->pp;
        if (v->limit_tok_s > 0)
            printf(", \"%s_limit\": {\"token_gop\": %.5g, \"token_mb\": %.5g, \"tok_s\": %.2f, \"share\": %.4f, \"binds\": \"%s\"}", i ? "tg" : "pp",
                   v->token_ops / 1e9, v->token_bytes / 1e6, v->limit_tok_s, v->tok_s / v->limit_tok_s, v->by_memory ? "memory" : r->units[0].name);
    }
    printf("}\n");
}

static void bench_text(const char *model, const altiserve_bench_spec *spec, const altiserve_bench_result *r) {
    printf("%s on %s (%s, %d threads)\n", model, r->device, r->isa, r->threads);
    for (int i = 0; i < 2; i++) {
        const altiserve_bench_rate *v = i ? &r->tg : &r->pp;
        if (v->tok_s <= 0) continue;
        if (i) printf("generation %u x %u", spec->parallel, spec->gen);
        else printf("prompt %u", spec->prompt);
        if (spec->depth) printf(" at depth %u", spec->depth);
        printf(": %.1f tokens/s (%.1f to %.1f)", v->tok_s, v->low, v->high);
        if (v->limit_tok_s > 0)
            printf(", %.0f %% of the limit of %.1f: %s binds (a token: %.1f MB, %.2f G operations)", 100 * v->tok_s / v->limit_tok_s, v->limit_tok_s,
                   v->by_memory ? "memory" : r->units[0].name, v->token_bytes / 1e6, v->token_ops / 1e9);
        printf("\n");
    }
    printf("this machine: memory read at %.1f GB/s", r->read_bytes_s / 1e9);
    for (int i = 0; i < r->n_units; i++) printf("; %s %.2f T operations/s", r->units[i].name, r->units[i].ops_s / 1e12);
    printf("\n");
}

int cmd_bench(const flags *f) {
    error err = {0};
    altiserve *a = NULL;
    altiserve_bench_result r;
    altiserve_bench_spec spec = {(uint32_t)f->number[FLAG_PROMPT], (uint32_t)f->number[FLAG_GEN], (uint32_t)f->number[FLAG_DEPTH],
                                 f->number[FLAG_PARALLEL] ? (uint32_t)f->number[FLAG_PARALLEL] : 1, (uint32_t)f->number[FLAG_REPS]};
    if (cli_open(f, &a, &err) == OK && cli_load(a, f->positional[0], &err) == OK && altiserve_bench(a, f->positional[0], &spec, &r, &err) == OK) {
        if (f->number[FLAG_JSON]) bench_json(&spec, &r);
        else bench_text(f->positional[0], &spec, &r);
    }
    altiserve_destroy(a);
    return err.code ? cli_fail(&err) : 0;
}
