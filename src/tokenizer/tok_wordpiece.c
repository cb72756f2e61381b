// tok_wordpiece: the kind "bert". Text is normalized (accents off, lower case, controls dropped), cut at white space and around punctuation
// and Chinese characters; each word is the longest token at each place, or the unknown token as a whole. In the file a word's
// first piece begins with U+2581 and the others stand bare.
#include "base/utf8.h"
#include "tokenizer/tok_internal.h"

status tok_wordpiece_create(tokenizer *t, error *err) {
    for (int32_t id = 0; id < t->size; id++) {
        size_t      n;
        const char *s = tok_strtab_get(&t->text, id, &n);
        if (tok_find(t, s, n) == id && !tok_trie_add(&t->trie, s, n, id)) return error_set(err, E_NOMEM, "out of memory for the vocabulary");
    }
    return OK;
}

static bool is_chinese(uint32_t c) { // 2B920 is what the published normalizer has
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
           (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// The word in s->escaped, U+2581 before it already; emptied.
static status put_word(const tokenizer *t, tok_scratch *s, tok_ids *out) {
    strbuf *w = &s->escaped;
    size_t  before = out->count;
    bool    ok = true;
    if (w->len <= 3) return OK;
    for (size_t i = 0; i < w->len && ok;) {
        int32_t  best = -1;
        size_t   used = 0;
        uint32_t node = 0;
        for (size_t k = i; k < w->len && t->trie.nodes; k++) {
            node = tok_trie_step(&t->trie, node, (unsigned char)w->data[k]);
            if (!node) break;
            if (t->trie.value[node] < 0) continue;
            best = t->trie.value[node];
            used = k + 1 - i;
        }
        if (best < 0) {
            out->count = before;
            break;
        }
        ok = tok_ids_push(out, best);
        i += used;
    }
    if (ok && out->count == before && t->roles[TOK_UNK] >= 0) ok = tok_ids_push(out, t->roles[TOK_UNK]);
    strbuf_clear(w);
    ok = ok && strbuf_add(w, TOK_SPACE, 3);
    return ok ? OK : error_set(s->err, E_NOMEM, "out of memory for token ids");
}

status tok_wordpiece_encode(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_ids *out) {
    const uint8_t *classes = tok_classes();
    strbuf        *w = &s->escaped;
    strbuf_clear(w);
    bool ok = strbuf_add(w, TOK_SPACE, 3);
    for (size_t i = 0; i < len && ok;) {
        uint32_t cp;
        char     utf8[4];
        i += tok_decode_cp((const unsigned char *)text + i, len - i, &cp);
        if (t->strip_accents) cp = tok_nfd_first(cp);
        uint8_t c = classes[cp];
        status  st = OK;
        if (c == TOK_CP_SPACE) {
            st = put_word(t, s, out);
        } else if (cp == 0 || cp == 0xFFFD || c == TOK_CP_CONTROL || (t->strip_accents && c == TOK_CP_MARK)) {
            continue;
        } else {
            bool alone = c == TOK_CP_PUNCTUATION || (cp < 0x7F && c == TOK_CP_SYMBOL) || is_chinese(cp);
            if (alone) st = put_word(t, s, out);
            ok = strbuf_add(w, utf8, utf8_encode(t->lowercase ? tok_lower(cp) : cp, utf8));
            if (alone && ok && st == OK) st = put_word(t, s, out);
        }
        if (st != OK) return st;
    }
    if (!ok) return error_set(s->err, E_NOMEM, "out of memory for %zu bytes of text", len);
    return put_word(t, s, out);
}
