// tok_spm: SentencePiece BPE, the kind "llama": spaces become U+2581, then the pair of neighbours whose joined spelling is the token of
// the highest score is joined, the leftmost of equals first, until no joined spelling is a token; what is no token then goes out byte by byte.
//
// In the vocabularies of practice no token has a U+2581 after something else, so no merge crosses from one word to the next: then
// words are taken one by one, through the cache. Otherwise the whole fragment is one word; both give the same ids.
#include "tokenizer/tok_internal.h"

// Scores as integers that order the same way, highest first; -0 and 0 are equal.
static uint32_t rank_of(float score) {
    uint32_t bits;
    if (score == 0) score = 0;
    memcpy(&bits, &score, 4);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u; // ascending
    return ~bits;
}

status tok_spm_create(tokenizer *t, error *err) {
    (void)err;
    t->spm_words = true;
    for (int32_t id = 0; id < t->size && t->spm_words; id++) {
        size_t      n;
        const char *s = tok_strtab_get(&t->text, id, &n);
        for (size_t i = 0; i + 3 < n; i++) { // something else at i, a space after it
            if (memcmp(s + i, TOK_SPACE, 3) == 0) {
                i += 2;
                continue;
            }
            size_t step = tok_char_len((unsigned char)s[i]);
            if (i + step + 3 <= n && memcmp(s + i + step, TOK_SPACE, 3) == 0) {
                t->spm_words = false;
                break;
            }
            i += step - 1;
        }
    }
    return OK;
}

static void rank_pair(const tokenizer *t, const char *word, tok_sym *syms, int32_t left) {
    tok_sym *a = &syms[left];
    a->rank = UINT32_MAX;
    if (a->next < 0) return;
    size_t n = syms[a->next].end - a->begin;
    if (n > t->max_len) return;
    a->merged = tok_find(t, word + a->begin, n);
    if (a->merged < 0) return;
    a->rank = rank_of(t->scores ? t->scores[a->merged] : 0);
    if (a->rank == UINT32_MAX) a->rank--; // a NaN would look like no pair
}

static status encode_word(const tokenizer *t, tok_scratch *s, const char *word, size_t len, tok_ids *out) {
    if (len > INT32_MAX || !mem_grow((void **)&s->syms, &s->syms_cap, len, sizeof *s->syms)) {
        return error_set(s->err, E_NOMEM, "out of memory for a word of %zu bytes", len);
    }
    tok_sym *syms = s->syms;
    size_t   n = 0;
    for (size_t i = 0, step; i < len; i += step, n++) {
        step = tok_char_len((unsigned char)word[i]);
        if (step > len - i) step = len - i;
        syms[n] = (tok_sym){-1, (uint32_t)i, (uint32_t)(i + step), (int32_t)n - 1, (int32_t)n + 1, UINT32_MAX, -1};
    }
    if (n == 0) return OK;
    syms[n - 1].next = -1;
    s->heap_len = 0;
    bool ok = true;
    for (size_t i = 0; i + 1 < n && ok; i++) {
        rank_pair(t, word, syms, (int32_t)i);
        if (syms[i].rank != UINT32_MAX) ok = tok_heap_push(s, (uint64_t)syms[i].rank << 32 | i);
    }
    // An entry is out of date when the pair at `left` has another rank now. Unlike ranks of merges, scores may be equal by chance; then
    // the entry stands for the pair that is there now, which has an entry of that very key anyway.
    while (s->heap_len && ok) {
        uint64_t key = tok_heap_pop(s);
        int32_t  left = (int32_t)(key & UINT32_MAX);
        tok_sym *a = &syms[left];
        if (a->end == 0 || a->rank != key >> 32) continue;
        tok_sym *b = &syms[a->next];
        a->id = a->merged;
        a->end = b->end;
        a->next = b->next;
        b->end = 0;
        b->rank = UINT32_MAX;
        if (b->next >= 0) syms[b->next].prev = left;
        int32_t touched[2] = {left, a->prev};
        for (int k = 0; k < 2 && ok; k++) {
            if (touched[k] < 0) continue;
            rank_pair(t, word, syms, touched[k]);
            uint32_t rank = syms[touched[k]].rank;
            if (rank != UINT32_MAX) ok = tok_heap_push(s, (uint64_t)rank << 32 | (uint32_t)touched[k]);
        }
    }
    for (int32_t i = 0; i >= 0 && ok; i = syms[i].next) {
        const tok_sym *sym = &syms[i];
        int32_t        id = sym->id >= 0 ? sym->id : tok_find(t, word + sym->begin, sym->end - sym->begin);
        if (id >= 0) {
            ok = tok_ids_push(out, id);
            continue;
        }
        for (uint32_t k = sym->begin; k < sym->end && ok; k++) {
            id = t->byte_token[(unsigned char)word[k]];
            if (id < 0) id = t->raw_byte[(unsigned char)word[k]];
            if (id < 0) id = t->roles[TOK_UNK];
            if (id >= 0) ok = tok_ids_push(out, id);
        }
    }
    return ok ? OK : error_set(s->err, E_NOMEM, "out of memory for token ids");
}

status tok_spm_encode(const tokenizer *t, tok_scratch *s, const char *text, size_t len, bool space_before, tok_ids *out) {
    strbuf *e = &s->escaped;
    strbuf_clear(e);
    bool ok = !space_before || strbuf_add(e, TOK_SPACE, 3);
    for (size_t i = 0; i < len && ok;) {
        const char *space = memchr(text + i, ' ', len - i);
        size_t      n = space ? (size_t)(space - text) - i : len - i;
        ok = strbuf_add(e, text + i, n) && (!space || strbuf_add(e, TOK_SPACE, 3));
        i += n + (space != NULL);
    }
    if (!ok) return error_set(s->err, E_NOMEM, "out of memory for %zu bytes of text", len);
    if (!t->spm_words) return encode_word(t, s, e->data, e->len, out);

    // Words: spaces, then characters up to the next space. Characters are stepped as encode_word steps them, so that a broken one which
    // claims bytes of a space keeps them.
    bool   rest = false; // something other than spaces was seen in this word
    size_t begin = 0;
    for (size_t i = 0; i < e->len;) {
        bool space = e->len - i >= 3 && memcmp(e->data + i, TOK_SPACE, 3) == 0;
        if (space && rest) {
            status st = tok_word_cached(t, s, e->data + begin, i - begin, encode_word, out);
            if (st != OK) return st;
            begin = i;
            rest = false;
        }
        rest = rest || !space;
        size_t step = tok_char_len((unsigned char)e->data[i]);
        i += step < e->len - i ? step : e->len - i;
    }
    return tok_word_cached(t, s, e->data + begin, e->len - begin, encode_word, out);
}
