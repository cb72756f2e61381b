// Owns the draft model's sequences and steps; see eng_draft.h.
#include "engine/eng_draft.h"

#include <string.h>

#include "base/mem.h"
#include "base/os.h"
#include "obs/obs.h"

enum { READ_ROWS = 128 }; // of texts that the draft model has not read yet, in a step of the served one

struct eng_draft_seq {
    kv_seq *kv;
    eng_choice *of;
    eng_served *in;              // whose pool holds its pages
    eng_draft_seq *prev, *next;  // of that pool
};

struct eng_draft {
    eng_file   *file;            // a reference
    eng_model  *model;           // a reference, unless it is the served model itself
    eng_served *with;            // its scheduler's state; NULL: not loaded
    double      seconds;         // of a step that drafts: a moving average
    eng_choice **of;             // who drafts
    int32_t     n;
    // One step: as many entries as the draft model's has rows.
    int32_t    *tokens, *positions, *wanted;
    dev_seq    *seqs;
    eng_choice **row_of;         // by sequence of the step
};

status eng_draft_fits(const eng_file *target, const eng_file *draft, error *err) {
    int32_t n = tok_size(target->tok), m = tok_size(draft->tok);
    if (n != m) return error_set(err, E_INVALID, "%s cannot draft for %s: its vocabulary has %d tokens, not %d", draft->id, target->id, m, n);
    for (int32_t i = 0; i < n; i++) {
        size_t a, b;
        const char *x = tok_piece(target->tok, i, &a), *y = tok_piece(draft->tok, i, &b);
        if (a != b || memcmp(x, y, a))
            return error_set(err, E_INVALID, "%s cannot draft for %s: token %d is \"%.*s\" there and \"%.*s\" here", draft->id, target->id, i,
                             (int)(b < 40 ? b : 40), y, (int)(a < 40 ? a : 40), x);
    }
    return OK;
}

void eng_draft_create(eng_served *v, eng_file *file) {
    error err = {0};
    status s = eng_file_text(file, &err);
    if (s == OK) s = eng_draft_fits(v->m->file, file, &err);
    if (s == OK && !(v->draft = mem_calloc(1, sizeof *v->draft))) s = error_set(&err, E_NOMEM, "no memory to draft for %s", v->m->file->id);
    if (s != OK) {
        obs_log(OBS_WARN, "%s", err.text);
        return;
    }
    v->draft->file = file;
    atomic_fetch_add(&file->refs, 1);
}

void eng_draft_free(eng_draft *d) {
    if (!d) return;
    eng_model_release(d->model);
    eng_file_release(d->file);
    mem_free(d->of);
    mem_free(d->tokens);
    mem_free(d->positions);
    mem_free(d->wanted);
    mem_free(d->seqs);
    mem_free(d->row_of);
    mem_free(d);
}

static void give_up(eng_served *v, const char *why) {
    obs_log(OBS_WARN, "%s does not draft for %s: %s", v->draft->file->id, v->m->file->id, why);
    for (eng_choice *c = v->running; c; c = c->next) eng_draft_leave(c);
    eng_model_helped_by(v->m, NULL);
    eng_draft_free(v->draft);
    v->draft = NULL;
}

bool eng_draft_ready(eng_served *v) {
    eng_draft *d = v->draft;
    if (!d || !v->sched) return false;
    if (d->with) return true;
    error err = {0};
    eng_model *m = NULL;
    status s = d->file == v->m->file ? OK : eng_sched_helper(v->sched, d->file, &m, &err);
    if (s == E_BUSY) return false;
    d->model = m;
    eng_model_helped_by(v->m, m);
    if (s == OK) s = m ? eng_sched_served(v->sched, m, &d->with, &err) : OK;
    if (s == OK && !m) d->with = v;
    if (s == OK && d->with->m->plan->n_vocab != v->m->plan->n_vocab)
        s = error_set(&err, E_INVALID, "it has %d logits, not %d", d->with->m->plan->n_vocab, v->m->plan->n_vocab);
    size_t rows = s == OK ? (size_t)d->with->m->max_rows : 0;
    if (s == OK) {
        d->of = mem_calloc((size_t)v->parallel, sizeof *d->of);
        d->tokens = mem_calloc(rows, sizeof *d->tokens);
        d->positions = mem_calloc(rows, sizeof *d->positions);
        d->wanted = mem_calloc(rows, sizeof *d->wanted);
        d->seqs = mem_calloc(rows, sizeof *d->seqs);
        d->row_of = mem_calloc(rows, sizeof *d->row_of);
        if (!d->of || !d->tokens || !d->positions || !d->wanted || !d->seqs || !d->row_of) s = error_set(&err, E_NOMEM, "no memory for its steps");
    }
    if (s != OK) give_up(v, err.text);
    return s == OK;
}

double eng_draft_seconds(const eng_draft *d) { return d->seconds; }

// ---- sequences -----------------------------------------------------------------------------------

void eng_draft_leave(eng_choice *c) {
    eng_draft_seq *q = c->draft_seq;
    if (!q) return;
    c->draft_seq = NULL;
    if (q->prev) q->prev->next = q->next;
    else q->in->borrowers = q->next;
    if (q->next) q->next->prev = q->prev;
    kv_seq_free(q->kv);
    eng_served_publish(q->in);
    mem_free(q);
}

bool eng_draft_give_way(eng_served *v) {
    bool any = v->borrowers != NULL;
    while (v->borrowers) eng_draft_leave(v->borrowers->of);
    return any;
}

static eng_draft_seq *sequence_of(eng_draft *d, eng_choice *c) {
    if (c->draft_seq) return c->draft_seq;
    eng_draft_seq *q = mem_calloc(1, sizeof *q);
    if (!q || eng_served_seq(d->with, c, &q->kv, NULL) != OK) {
        mem_free(q);
        return NULL;
    }
    q->of = c;
    q->in = d->with;
    q->next = d->with->borrowers;
    if (q->next) q->next->prev = q;
    d->with->borrowers = q;
    c->draft_seq = q;
    kv_seq_match(q->kv, c->tokens, c->n_tokens);
    return q;
}

// ---- steps ---------------------------------------------------------------------------------------

typedef struct rows { int32_t n, seqs, wanted; } rows;

// Tokens [at, at + n) of c; the logits of the last are wanted.
static void add(eng_draft *d, rows *r, eng_choice *c, size_t at, size_t n) {
    dev_seq *s = &d->seqs[r->seqs];
    *s = (dev_seq){.first_row = r->n, .n_rows = (int32_t)n, .start = (int32_t)at};
    for (int32_t g = 0; g < d->with->m->plan->n_groups; g++) s->pages[g] = kv_seq_pages(c->draft_seq->kv, g, &s->n_pages[g]);
    d->row_of[r->seqs++] = c;
    for (size_t i = 0; i < n; i++) {
        d->tokens[r->n] = c->tokens[at + i];
        d->positions[r->n++] = (int32_t)(at + i);
    }
    d->wanted[r->wanted++] = r->n - 1;
}

static bool compute(eng_served *v, const rows *r) {
    eng_draft *d = v->draft;
    eng_model *m = d->with->m;
    dev_step step = {.n_rows = r->n, .tokens = d->tokens, .positions = d->positions, .n_seqs = r->seqs, .seqs = d->seqs, .n_wanted = r->wanted, .wanted = d->wanted};
    dev_ticket ticket;
    error err = {0};
    int64_t begin = os_now_us();
    status s = dev_submit(m->plan, m->kv, &step, &ticket, &err);
    if (s == OK) s = dev_wait(m->plan, ticket, &err);
    if (s != OK) {
        give_up(v, err.text);
        return false;
    }
    double seconds = (double)(os_now_us() - begin) / 1e6;
    if (r->n < 2 * r->seqs + 8) d->seconds = d->seconds > 0 ? .9 * d->seconds + .1 * seconds : seconds;
    return true;
}

// c's text as far as the draft model has not read it, as much as there is room for. What is read whole is ready to draft.
static bool read_on(eng_draft *d, rows *r, eng_choice *c, int32_t *room) {
    eng_draft_seq *q = sequence_of(d, c);
    if (!q || r->wanted >= d->with->m->max_wanted) return false;
    size_t at = kv_seq_len(q->kv), n = c->n_tokens - at;
    bool whole = n <= (size_t)*room;
    if (!whole) n = (size_t)*room;
    if (!n || c->n_tokens + (size_t)c->n_drafts > d->with->m->context) return false;
    if (kv_seq_reserve(q->kv, whole ? c->n_tokens + (size_t)c->n_drafts : at + n, NULL) != OK) {
        eng_draft_leave(c);
        return false;
    }
    add(d, r, c, at, n);
    *room -= (int32_t)n;
    return whole;
}

// The draft of c after `made` others, from the logits of its last row. False: c has enough.
static bool take(eng_draft *d, eng_choice *c, int32_t row, int32_t made, samp_scratch *scratch) {
    int32_t token;
    const samp_row logits = {dev_logits(d->with->m->plan, row), dev_peaks(d->with->m->plan, row)};
    if (samp_draw(c->samp, scratch, logits, NULL, c->n_out + (size_t)made, &token, NULL) != OK) return false;
    c->tokens[c->n_tokens + (size_t)made] = token;
    c->drafted = made + 1;
    return c->drafted < c->n_drafts && (c->r->ignore_eos || !tok_is_end(c->r->file->tok, token));
}

void eng_draft_run(eng_served *v, samp_scratch *scratch) {
    eng_draft *d = v->draft;
    rows r = {0};
    if (!d || !d->with) return;
    int32_t room = d->with->m->max_rows < READ_ROWS ? d->with->m->max_rows : READ_ROWS;
    d->n = 0;
    for (eng_choice *c = v->running; c; c = c->next) {
        if (!c->from_model || !c->n_drafts) continue;
        c->drafted = 0;
        c->drafts_on = read_on(d, &r, c, &room);
        d->of[d->n++] = c;
    }
    for (int32_t made = 0; r.seqs; made++) {
        if (!compute(v, &r)) break;
        int32_t n = r.seqs;
        for (int32_t i = 0; i < n && !made; i++) { // what was read is the text; what is drafted from here on is not
            eng_choice *c = d->row_of[i];
            kv_seq_commit(c->draft_seq->kv, c->tokens, (size_t)(d->seqs[i].start + d->seqs[i].n_rows));
            if (c->drafts_on && c->n_drafts > 1 && kv_seq_mark(c->draft_seq->kv, NULL) != OK) c->n_drafts = 1;
        }
        for (int32_t i = 0; i < n; i++)
            if (d->row_of[i]->drafts_on) d->row_of[i]->drafts_on = take(d, d->row_of[i], i, made, scratch);
        r = (rows){0};
        for (int32_t i = 0; i < d->n; i++)
            if (d->of[i]->drafts_on) add(d, &r, d->of[i], d->of[i]->n_tokens + (size_t)made, 1);
    }
    for (eng_choice *c = v->running; c; c = c->next) {
        if (!c->from_model) continue;
        if (c->n_drafts) c->n_drafts = c->drafted;
        if (c->draft_seq) kv_seq_unmark(c->draft_seq->kv, true);
    }
    if (v->draft) eng_served_publish(d->with);
}
