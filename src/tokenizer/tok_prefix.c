// tok_prefix: two kinds that match tokens against what the text begins with: "rwkv", the longest token at each place, and "plamo2", the cut whose
// scores sum best, counted from the end in whole numbers (1e4 times the score, rounded), the longer token of equals.
#include "base/utf8.h"
#include "tokenizer/tok_internal.h"

#include <math.h>

// ---- rwkv. Tokens are spelled with escapes: \t \n \r \xHH, and \ before any other character is that character.

size_t tok_rwkv_unescape(const char *text, size_t len, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\\' || i + 1 >= len) {
            if (text[i] != '\\') out[n++] = text[i];
            continue;
        }
        char c = text[++i];
        if (c == 'x' && i + 2 < len) {
            unsigned v = 0;
            for (int k = 1; k <= 2; k++) {
                char h = text[i + (size_t)k];
                v = v * 16 + (unsigned)(h >= 'a' ? h - 'a' + 10 : h - '0');
            }
            out[n++] = (char)v;
            i += 2;
        } else {
            out[n++] = c == 't' ? '\t' : c == 'n' ? '\n' : c == 'r' ? '\r' : c;
        }
    }
    return n;
}

status tok_rwkv_create(tokenizer *t, error *err) {
    char *raw = mem_alloc(t->max_len + 1);
    bool  ok = raw != NULL;
    for (int32_t id = 0; id < t->size && ok; id++) {
        size_t      n;
        const char *s = tok_strtab_get(&t->text, id, &n);
        size_t      m = tok_rwkv_unescape(s, n, raw);
        ok = m == 0 || tok_trie_add(&t->trie, raw, m, id);
    }
    mem_free(raw);
    return ok ? OK : error_set(err, E_NOMEM, "out of memory for the vocabulary");
}

status tok_rwkv_encode(const tokenizer *t, const char *text, size_t len, tok_ids *out) {
    for (size_t i = 0; i < len;) {
        int32_t  best = t->roles[TOK_UNK];
        size_t   used = 1;
        uint32_t node = 0;
        for (size_t k = i; k < len && t->trie.nodes; k++) {
            node = tok_trie_step(&t->trie, node, (unsigned char)text[k]);
            if (!node) break;
            if (t->trie.value[node] < 0) continue;
            best = t->trie.value[node];
            used = k + 1 - i;
        }
        if (best >= 0 && !tok_ids_push(out, best)) return E_NOMEM;
        i += used;
    }
    return OK;
}

// ---- plamo2

enum { UNKNOWN_COST = 10000000, INVALID_COST = 20000000 };

typedef struct cut {
    int64_t  cost; // of the text from here on
    uint32_t len;
    int32_t  id;   // -1: bytes
} cut;

// No cut is there.
static bool inside(const strbuf *w, size_t at) { return at < w->len && ((unsigned char)w->data[at] & 0xC0) == 0x80; }

status tok_plamo2_create(tokenizer *t, error *err) {
    for (int32_t id = 0; id < t->size; id++) {
        size_t      n;
        const char *s = tok_strtab_get(&t->text, id, &n);
        if (tok_has(t, id, TOK_TYPE_BYTE)) continue;
        if (!tok_trie_add(&t->trie, s, n, id)) return error_set(err, E_NOMEM, "out of memory for the vocabulary");
    }
    for (int b = 0; b < 256; b++) {
        if (t->byte_token[b] < 0) return error_set(err, E_INVALID, "the vocabulary (plamo2) has no token <0x%02X>", (unsigned)b);
    }
    return OK;
}

status tok_plamo2_encode(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_ids *out) {
    strbuf *w = &s->escaped; // well-formed
    strbuf_clear(w);
    bool ok = true;
    for (size_t i = 0; i < len && ok;) {
        uint32_t cp;
        char     utf8[4];
        bool     first = i == 0;
        i += tok_decode_cp((const unsigned char *)text + i, len - i, &cp);
        if (first && cp == 0xFEFF) continue;
        ok = strbuf_add(w, utf8, utf8_encode(cp, utf8));
    }
    if (!ok || w->len >= UINT32_MAX || !mem_grow(&s->cells, &s->cells_cap, w->len + 1, sizeof(cut))) {
        return error_set(s->err, E_NOMEM, "out of memory for %zu bytes of text", len);
    }
    cut *cuts = s->cells;
    cuts[w->len] = (cut){0, 0, -1};
    for (size_t i = w->len; i-- > 0;) {
        if (inside(w, i)) continue;
        size_t step = tok_char_len((unsigned char)w->data[i]);
        cut    best = {(int64_t)1 << 60, (uint32_t)step, -1};
        uint32_t node = 0;
        for (size_t k = i; k < w->len; k++) {
            node = tok_trie_step(&t->trie, node, (unsigned char)w->data[k]);
            if (!node) break;
            int32_t id = t->trie.value[node];
            if (id < 0 || inside(w, k + 1)) continue;
            float score = t->scores ? t->scores[id] : 0;
            if (!isfinite(score)) continue;
            double  rounded = round((double)score * 1e4);
            int64_t cost = rounded < -INT32_MAX ? INT32_MAX : rounded > INT32_MAX ? -INT32_MAX : -(int64_t)rounded;
            if (cost >= INVALID_COST) continue;
            cost += cuts[k + 1].cost;
            if (cost <= best.cost) best = (cut){cost, (uint32_t)(k + 1 - i), id};
        }
        if (cuts[i + step].cost + UNKNOWN_COST < best.cost) best = (cut){cuts[i + step].cost + UNKNOWN_COST, (uint32_t)step, -1};
        cuts[i] = best;
    }
    for (size_t i = 0; i < w->len && ok; i += cuts[i].len) {
        if (cuts[i].id >= 0) ok = tok_ids_push(out, cuts[i].id);
        for (size_t k = 0; cuts[i].id < 0 && k < cuts[i].len && ok; k++) ok = tok_ids_push(out, t->byte_token[(unsigned char)w->data[i + k]]);
    }
    return ok ? OK : error_set(s->err, E_NOMEM, "out of memory for token ids");
}
