// tok_unigram: SentencePiece unigram, the kind "t5": normalized text is cut into the tokens whose scores sum highest (Viterbi over a trie).
//
// The normalizer is the file's "precompiled_charsmap": a size, a double array of 32-bit units (XOR-compressed: base in bits 10 to 30, bit
// 9 shifts it by 8 more, bit 8 says that a value hangs below, the low byte is the label), then NUL-terminated replacements. Its indexes
// are checked at every step: a broken map normalizes nothing, it does not crash.
#include "tokenizer/tok_internal.h"

#include <float.h>

typedef struct best {
    double  score;
    uint32_t from;
    int32_t id;
} best;

static status read_charsmap(tokenizer *t, const gguf *g, error *err) {
    const gguf_value *v = gguf_find(g, "tokenizer.ggml.precompiled_charsmap");
    if (!v) return OK;
    if (gguf_value_type(v) != GGUF_ARRAY || (gguf_value_elem(v) != GGUF_U8 && gguf_value_elem(v) != GGUF_I8)) {
        return error_set(err, E_INVALID, "tokenizer.ggml.precompiled_charsmap is %s, expected an array of bytes", gguf_type_name(gguf_value_elem(v)));
    }
    uint64_t n = gguf_value_count(v);
    uint8_t *bytes = mem_alloc(n);
    if (!bytes) return error_set(err, E_NOMEM, "out of memory for the vocabulary");
    for (uint64_t i = 0; i < n; i++) {
        int64_t b = 0;
        gguf_value_i64(v, i, &b);
        bytes[i] = (uint8_t)b;
    }
    status   st = OK;
    uint32_t blob = 0;
    for (int i = 3; n >= 4 && i >= 0; i--) blob = blob << 8 | bytes[i];
    if (n < 4 || (uint64_t)blob + 4 >= n) {
        st = error_set(err, E_INVALID, "tokenizer.ggml.precompiled_charsmap has %llu bytes, too few for its table", (unsigned long long)n);
    } else {
        t->charsmap_len = blob / 4;
        t->replacements_len = (size_t)(n - 4 - blob);
        t->charsmap = mem_alloc(t->charsmap_len * sizeof *t->charsmap);
        t->replacements = mem_strndup((const char *)bytes + 4 + blob, t->replacements_len);
        if (!t->charsmap || !t->replacements) st = error_set(err, E_NOMEM, "out of memory for the vocabulary");
        for (size_t i = 0; i < t->charsmap_len && st == OK; i++) {
            const uint8_t *u = bytes + 4 + 4 * i;
            t->charsmap[i] = u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
        }
    }
    mem_free(bytes);
    return st;
}

status tok_unigram_create(tokenizer *t, const gguf *g, error *err) {
    status st = read_charsmap(t, g, err);
    if (st != OK) return st;
    float least = FLT_MAX;
    for (int32_t id = 0; id < t->size; id++) {
        size_t      n;
        const char *s = tok_strtab_get(&t->text, id, &n);
        bool        normal = tok_has(t, id, TOK_TYPE_NORMAL), user = tok_has(t, id, TOK_TYPE_USER_DEFINED);
        if (normal && t->scores && t->scores[id] < least) least = t->scores[id];
        if (normal && !t->scores && least > 0) least = 0;
        bool ok = true;
        if (normal || user || tok_has(t, id, TOK_TYPE_UNUSED)) ok = tok_trie_add(&t->trie, s, n, id);
        if (user && ok) ok = tok_trie_add(&t->user_trie, s, n, id);
        if (!ok) return error_set(err, E_NOMEM, "out of memory for the vocabulary");
    }
    t->unknown_score = least - 10.0f;
    return OK;
}

static bool unit(const tokenizer *t, uint32_t i, uint32_t *u) {
    if (i >= t->charsmap_len) return false;
    *u = t->charsmap[i];
    return true;
}

// What text[0..len) begins with, normalized: *out (n bytes), for `used` bytes of text.
static size_t normalize_prefix(const tokenizer *t, const char *text, size_t len, const char **out, size_t *n) {
    // Text on the way to a user-defined token stands as it is; the peer does not ask whether the token is there to its end.
    size_t walked = 0;
    for (uint32_t node = 0; t->user_trie.nodes && walked < len; walked++) {
        node = tok_trie_step(&t->user_trie, node, (unsigned char)text[walked]);
        if (!node) break;
    }
    if (walked) {
        *out = text;
        *n = walked;
        return walked;
    }
    size_t   longest = 0;
    uint32_t value = 0, u, at;
    if (unit(t, 0, &u)) {
        at = (u >> 10) << ((u & 1u << 9) >> 6);
        for (size_t i = 0; i < len && text[i]; i++) {
            unsigned char c = (unsigned char)text[i];
            at ^= c;
            if (!unit(t, at, &u) || (u & (1u << 31 | 0xFF)) != c) break;
            bool leaf = u >> 8 & 1;
            at ^= (u >> 10) << ((u & 1u << 9) >> 6);
            if (leaf && unit(t, at, &u)) {
                longest = i + 1;
                value = u & 0x7FFFFFFF;
            }
        }
    }
    if (longest && value < t->replacements_len) {
        *out = t->replacements + value;
        *n = strlen(*out); // the copy is NUL-terminated
        return longest;
    }
    uint32_t cp;
    size_t   used = tok_decode_cp((const unsigned char *)text, len, &cp);
    bool     broken = used == 1 && (unsigned char)text[0] >= 0x80;
    *out = broken ? "\xEF\xBF\xBD" : text;
    *n = broken ? 3 : used;
    return used;
}

static bool normalize(const tokenizer *t, const char *text, size_t len, strbuf *out) {
    const char *space = t->escape ? TOK_SPACE : " ";
    size_t      space_len = strlen(space);
    bool        ok = true, prepended = false, inside = false;
    for (size_t i = 0; i < len && ok;) {
        const char *norm;
        size_t      n, used = normalize_prefix(t, text + i, len - i, &norm, &n);
        for (size_t k = 0; k < n && ok; k++) {
            if (norm[k] == ' ') {
                inside = false;
                if (!t->merge_spaces) ok = strbuf_add(out, space, space_len);
                continue;
            }
            if (!inside && ((t->space_prefix && !prepended) || t->merge_spaces)) {
                ok = strbuf_add(out, space, space_len);
                prepended = true;
            }
            inside = true;
            ok = ok && strbuf_addc(out, norm[k]);
        }
        i += used;
    }
    return ok;
}

static void offer(best *cell, double score, size_t from, int32_t id) {
    if (score > cell->score) *cell = (best){score, (uint32_t)from, id};
}

status tok_unigram_encode(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_ids *out) {
    strbuf *w = &s->escaped;
    strbuf_clear(w);
    if (!normalize(t, text, len, w)) return error_set(s->err, E_NOMEM, "out of memory for %zu bytes of text", len);
    if (w->len == 0) return OK;
    if (w->len >= UINT32_MAX || !mem_grow(&s->cells, &s->cells_cap, w->len + 1, sizeof(best))) {
        return error_set(s->err, E_NOMEM, "out of memory for %zu bytes of text", len);
    }
    best   *cells = s->cells;
    int32_t unknown = t->roles[TOK_UNK];
    for (size_t i = 0; i <= w->len; i++) cells[i] = (best){i ? -DBL_MAX : 0, 0, unknown};
    for (size_t i = 0; i < w->len;) {
        size_t step = tok_char_len((unsigned char)w->data[i]);
        if (step > w->len - i) step = w->len - i;
        bool     single = false;
        uint32_t node = 0;
        for (size_t k = i; k < w->len && t->trie.nodes; k++) {
            node = tok_trie_step(&t->trie, node, (unsigned char)w->data[k]);
            if (!node) break;
            int32_t id = t->trie.value[node];
            if (id < 0) continue;
            if (k + 1 - i == step) single = true;
            double score = tok_has(t, id, TOK_TYPE_USER_DEFINED) || !t->scores ? 0.0 : (double)t->scores[id];
            offer(&cells[k + 1], cells[i].score + score, i, id);
        }
        if (!single) offer(&cells[i + step], cells[i].score + (double)t->unknown_score, i, unknown);
        i += step;
    }
    size_t before = out->count;
    bool   was_unknown = false;
    for (size_t i = w->len;; i = cells[i].from) { // backwards; unknowns in a row are one
        bool is_unknown = cells[i].id == unknown;
        if (!(was_unknown && is_unknown) && !tok_ids_push(out, cells[i].id)) return error_set(s->err, E_NOMEM, "out of memory for token ids");
        was_unknown = is_unknown;
        if (cells[i].from == 0) break;
    }
    for (size_t a = before, b = out->count - 1; a < b; a++, b--) {
        int32_t id = out->ids[a];
        out->ids[a] = out->ids[b];
        out->ids[b] = id;
    }
    return OK;
}
