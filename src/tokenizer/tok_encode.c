// tok_encode: from text to ids: finds the tokens that are recognized by their spelling, hands what lies between to the vocabulary's kind, and adds
// the tokens that stand before and after a text.
//
// Which spellings win is the peer's rule: all occurrences of the longest token first, from left to right, then of the next shorter in what
// is left, and so on. One walk over a trie finds the longest candidate at each place; then the candidates are taken by falling length.
// A candidate overlaps something taken before, which is no shorter, only if its first or last byte is taken.
#include "tokenizer/tok_internal.h"

#include <stdlib.h>

#define TEXT_LIMIT ((size_t)1 << 30)

void tok_ids_free(tok_ids *v) {
    mem_free(v->ids);
    *v = (tok_ids){0};
}

bool tok_ids_push(tok_ids *v, int32_t id) {
    if (v->count == v->cap && !mem_grow((void **)&v->ids, &v->cap, v->count + 1, sizeof *v->ids)) return false;
    v->ids[v->count++] = id;
    return true;
}

typedef struct run { size_t begin, end; } run; // of trusted text

typedef struct candidate { uint32_t pos, node; } candidate;

typedef struct found { // a token in the text; [begin, end) with the white space that goes with it
    uint32_t begin, end;
    int32_t  id;
} found;

typedef struct job {
    const tokenizer *t;
    const char      *text;
    size_t           len;
    const run       *runs;
    size_t           run_count;
    candidate       *candidates;
    size_t           candidate_count, candidate_cap;
    uint8_t         *taken;
    found           *tokens;
    size_t           token_count, token_cap;
    tok_scratch      scratch;
} job;

static size_t text_len(const tokenizer *t, int32_t id) { return t->text.off[id + 1] - t->text.off[id]; }

// The longest token at or above `node` that may stand here; trusted_end: where the trusted text around pos ends (0: none).
static uint32_t allowed(const tokenizer *t, uint32_t node, size_t pos, size_t trusted_end) {
    while (node) {
        int32_t id = t->special.value[node];
        if (id >= 0 && (!(t->attr[id] & (TOK_ATTR(TOK_TYPE_CONTROL) | TOK_ATTR(TOK_TYPE_UNKNOWN))) || pos + text_len(t, id) <= trusted_end)) break;
        node = (uint32_t)t->special_shorter[node];
    }
    return node;
}

static size_t trusted_end(const job *j, size_t pos) { // runs are ascending
    size_t lo = 0, hi = j->run_count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (j->runs[mid].end <= pos) lo = mid + 1;
        else hi = mid;
    }
    return lo < j->run_count && j->runs[lo].begin <= pos ? j->runs[lo].end : 0;
}

static bool find_candidates(job *j) {
    const tokenizer *t = j->t;
    if (!t->special.nodes) return true;
    for (size_t i = 0; i < j->len; i++) {
        uint32_t node = t->special.first[(unsigned char)j->text[i]], last = 0;
        if (!node) continue;
        for (size_t k = i + 1;; k++) {
            if (t->special.value[node] >= 0) last = node;
            if (k >= j->len || !(node = tok_trie_step(&t->special, node, (unsigned char)j->text[k]))) break;
        }
        if (last) last = allowed(t, last, i, trusted_end(j, i));
        if (!last) continue;
        if (!mem_grow((void **)&j->candidates, &j->candidate_cap, j->candidate_count + 1, sizeof *j->candidates)) return false;
        j->candidates[j->candidate_count++] = (candidate){(uint32_t)i, last};
    }
    return true;
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool take(job *j, size_t pos, int32_t id) {
    size_t n = text_len(j->t, id), begin = pos, end = pos + n;
    if (j->taken[pos] || j->taken[end - 1]) return true;
    while (j->t->attr[id] & TOK_ATTR_LSTRIP && begin > 0 && !j->taken[begin - 1] && is_space(j->text[begin - 1])) begin--;
    while (j->t->attr[id] & TOK_ATTR_RSTRIP && end < j->len && !j->taken[end] && is_space(j->text[end])) end++;
    memset(j->taken + begin, 1, end - begin);
    if (!mem_grow((void **)&j->tokens, &j->token_cap, j->token_count + 1, sizeof *j->tokens)) return false;
    j->tokens[j->token_count++] = (found){(uint32_t)begin, (uint32_t)end, id};
    return true;
}

static int by_begin(const void *a, const void *b) {
    uint32_t x = ((const found *)a)->begin, y = ((const found *)b)->begin;
    return x < y ? -1 : x > y;
}

static int by_id(const void *a, const void *b) {
    const found *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

// Takes the tokens of `len` bytes among the candidates: lower ids first, each from left to right. So the peer goes through its list of tokens, which it sorts by length
// alone; with more than 16 of them std::sort leaves open which of one length comes first, and it shows where two of them overlap.
static bool take_longest(job *j, size_t len) {
    const tokenizer *t = j->t;
    found *all = NULL;
    size_t n = 0, cap = 0;
    bool   ok = true, mixed = false;
    for (size_t i = 0; i < j->candidate_count && ok; i++) {
        int32_t id = t->special.value[j->candidates[i].node];
        if (text_len(t, id) != len) continue;
        ok = mem_grow((void **)&all, &cap, n + 1, sizeof *all);
        if (!ok) break;
        all[n++] = (found){.begin = j->candidates[i].pos, .id = id};
        mixed |= id != all[0].id;
    }
    if (mixed && ok) qsort(all, n, sizeof *all, by_id);
    for (size_t i = 0; i < n && ok; i++) ok = take(j, all[i].begin, all[i].id);
    mem_free(all);
    return ok;
}

static bool find_tokens(job *j) {
    const tokenizer *t = j->t;
    if (!find_candidates(j)) return false;
    if (!j->candidate_count) return true;
    j->taken = mem_calloc(j->len, 1);
    if (!j->taken) return false;
    while (j->candidate_count) {
        size_t longest = 0;
        for (size_t i = 0; i < j->candidate_count; i++) {
            size_t n = text_len(t, t->special.value[j->candidates[i].node]);
            if (n > longest) longest = n;
        }
        if (!take_longest(j, longest)) return false;
        size_t kept = 0;
        for (size_t i = 0; i < j->candidate_count; i++) {
            candidate c = j->candidates[i];
            if (text_len(t, t->special.value[c.node]) == longest) c.node = allowed(t, (uint32_t)t->special_shorter[c.node], c.pos, trusted_end(j, c.pos));
            if (c.node && !j->taken[c.pos]) j->candidates[kept++] = c;
        }
        j->candidate_count = kept;
    }
    qsort(j->tokens, j->token_count, sizeof *j->tokens, by_begin);
    return true;
}

static status encode_fragment(const tokenizer *t, tok_scratch *s, const char *text, size_t len, bool after_special, tok_ids *out) {
    switch (t->kind) {
        case TOK_SPM: return tok_spm_encode(t, s, text, len, t->space_prefix && after_special, out);
        case TOK_BPE: return tok_bpe_encode(t, s, text, len, out);
        case TOK_WORDPIECE: return tok_wordpiece_encode(t, s, text, len, out);
        case TOK_UNIGRAM: return tok_unigram_encode(t, s, text, len, out);
        case TOK_RWKV: {
            status st = tok_rwkv_encode(t, text, len, out);
            return st == OK ? OK : error_set(s->err, st, "out of memory for token ids");
        }
        case TOK_PLAMO2: return tok_plamo2_encode(t, s, text, len, out);
        case TOK_NONE: break;
    }
    return error_set(s->err, E_UNSUPPORTED, "this vocabulary (tokenizer.ggml.model '%.60s') has no way from text to ids: give ids", t->model);
}

// once: a text that spells the tokens that are to be added gets no second ones.
static status encode_job(job *j, unsigned flags, bool once, tok_ids *out, error *err) {
    const tokenizer *t = j->t;
    size_t           before = out->count;
    bool             added = flags & TOK_ADD_SPECIAL && t->kind != TOK_RWKV && t->kind != TOK_PLAMO2 && t->kind != TOK_NONE;
    int32_t          first = t->add_bos || t->kind == TOK_WORDPIECE ? t->roles[TOK_BOS] : -1;
    int32_t          last = t->kind == TOK_WORDPIECE ? t->roles[TOK_SEP] : t->add_eos ? t->roles[TOK_EOS] : -1;
    status           st = OK;
    j->scratch.err = err;
    if (t->kind == TOK_NONE) return encode_fragment(t, &j->scratch, "", 0, false, out);
    bool ok = find_tokens(j);
    bool spelled = once && j->token_count && j->tokens[0].begin == 0 && j->tokens[0].id == first;
    if (ok && added && first >= 0 && !spelled) ok = tok_ids_push(out, first);
    tok_words_open(&j->scratch, j->len);
    bool   after_special = true;
    size_t at = 0;
    for (size_t i = 0; i <= j->token_count && ok && st == OK; i++) {
        size_t stop = i < j->token_count ? j->tokens[i].begin : j->len;
        if (stop > at) {
            st = encode_fragment(t, &j->scratch, j->text + at, stop - at, after_special, out);
            after_special = false;
        }
        if (i == j->token_count || st != OK) break;
        ok = tok_ids_push(out, j->tokens[i].id);
        after_special = true;
        at = j->tokens[i].end;
    }
    if (ok && st == OK && added && last >= 0 && !(once && out->count > before && out->ids[out->count - 1] == last)) ok = tok_ids_push(out, last);
    if (!ok) st = error_set(err, E_NOMEM, "out of memory for the tokens of %zu bytes of text", j->len);
    if (st != OK) out->count = before;
    return st;
}

static void job_free(job *j) {
    mem_free(j->candidates);
    mem_free(j->taken);
    mem_free(j->tokens);
    tok_scratch_free(&j->scratch);
}

static status too_long(size_t len, error *err) {
    return error_set(err, E_LIMIT, "a text of %zu bytes is past the limit of %zu that can be tokenized at once", len, TEXT_LIMIT);
}

status tok_encode(const tokenizer *t, const char *text, size_t len, unsigned flags, tok_ids *out, error *err) {
    if (len > TEXT_LIMIT) return too_long(len, err);
    run    all = {0, len};
    job    j = {.t = t, .text = text, .len = len, .runs = &all, .run_count = flags & TOK_PARSE_CONTROL ? 1 : 0};
    status st = encode_job(&j, flags, false, out, err);
    job_free(&j);
    return st;
}

status tok_encode_spans(const tokenizer *t, const tok_span *spans, size_t count, unsigned flags, tok_ids *out, error *err) {
    size_t len = 0;
    for (size_t i = 0; i < count; i++) {
        if (spans[i].len > TEXT_LIMIT - len) return too_long(len + spans[i].len, err);
        len += spans[i].len;
    }
    char  *text = mem_alloc(len);
    run   *runs = mem_alloc(count * sizeof *runs);
    size_t n = 0, at = 0;
    status st = OK;
    if (!text || !runs) st = error_set(err, E_NOMEM, "out of memory for %zu bytes of text", len);
    for (size_t i = 0; i < count && st == OK; i++) {
        if (!spans[i].len) continue;
        memcpy(text + at, spans[i].text, spans[i].len);
        if (spans[i].trusted && n && runs[n - 1].end == at) runs[n - 1].end += spans[i].len;
        else if (spans[i].trusted) runs[n++] = (run){at, at + spans[i].len};
        at += spans[i].len;
    }
    if (st == OK) {
        job j = {.t = t, .text = text, .len = len, .runs = runs, .run_count = n};
        st = encode_job(&j, flags, true, out, err);
        job_free(&j);
    }
    mem_free(text);
    mem_free(runs);
    return st;
}
