// tok_bpe: byte pair merging by rank, over gpt2's byte alphabet or over characters.
//
// Everything happens on raw bytes: the spellings of tokens and merges are taken out of the byte alphabet once, when the tokenizer is
// made ("forms"), so that text needs no translation. A symbol is the number of its form; tokens have the numbers of their ids, and
// spellings that only merges name come after them. Merging takes the pair of least rank, the leftmost of equals, until none is left:
// by looking through all pairs in short words, with a heap in long ones (n log n).
#include "base/utf8.h"
#include "tokenizer/tok_internal.h"

#include <stdio.h>

enum { SHORT_WORD = 32 };

uint32_t tok_byte_letter(unsigned char b) {
    if ((b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD)) return b;
    if (b <= 0x20) return 256u + b;
    return b == 0xAD ? 256u + 67 : 256u + 33 + (b - 0x7Fu);
}

int tok_letter_byte(uint32_t cp) {
    if (cp < 256) return tok_byte_letter((unsigned char)cp) == cp ? (int)cp : -1;
    if (cp <= 256 + 0x20) return (int)(cp - 256);
    if (cp <= 256 + 66) return (int)(cp - 256 - 33 + 0x7F);
    return cp == 256 + 67 ? 0xAD : -1;
}

// Undoes the byte alphabet; false when some character is not of it. out: at least n bytes.
static bool unspell(const char *s, size_t n, char *out, size_t *out_len) {
    size_t m = 0;
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x21 && c <= 0x7E) {
            out[m++] = s[i++];
            continue;
        }
        uint32_t cp;
        i += tok_decode_cp((const unsigned char *)s + i, n - i, &cp);
        int b = tok_letter_byte(cp);
        if (b < 0) return false;
        out[m++] = (char)b;
    }
    *out_len = m;
    return true;
}

static uint64_t pair_key(int32_t left, int32_t right) { return ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1; }

static size_t pair_slot(const tok_merges *m, uint64_t key) { return (size_t)((key * 0x9E3779B97F4A7C15u) >> 24) & m->mask; }

static const struct tok_merge *find_merge(const tok_merges *m, int32_t left, int32_t right) {
    if ((left | right) < 0 || !m->slots) return NULL;
    uint64_t key = pair_key(left, right);
    for (size_t i = pair_slot(m, key);; i = (i + 1) & m->mask) {
        if (m->slots[i].pair1 == key) return &m->slots[i];
        if (!m->slots[i].pair1) return NULL;
    }
}

// The table is made for all merges at once; of equal pairs the first counts.
static void add_merge(tok_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t merged) {
    uint64_t key = pair_key(left, right);
    size_t   i = pair_slot(m, key);
    for (; m->slots[i].pair1; i = (i + 1) & m->mask) {
        if (m->slots[i].pair1 == key) return;
    }
    m->slots[i] = (struct tok_merge){key, rank, merged};
    m->used++;
}

static status no_memory(error *err) { return error_set(err, E_NOMEM, "out of memory for the vocabulary"); }

// Merges are read a few at a time: first their spellings, and the places where the parts will be looked up are asked for; then the parts, and the places of the
// pairs; then the pairs are put there. The tables are larger than the caches next to the core.
enum { MERGES_AT_ONCE = 16 };
typedef struct merge_reader {
    struct { size_t at, left, right; uint32_t rank, hash[2]; int32_t id[3]; } of[MERGES_AT_ONCE]; // left and right: bytes, one after the other from `at` on
    int    n;
    char  *text; // of these
    size_t len, cap;
    int32_t last; // what the last merge gave
} merge_reader;

// The number of what a merge gives. Vocabularies mostly have their tokens in the order of merges, or several merges that give one token in a row.
static bool find_merged(tokenizer *t, merge_reader *r, const char *s, size_t n, int32_t *id) {
    for (int32_t guess = r->last; guess <= r->last + 1 && !t->forms.doubled; guess++) {
        size_t      m;
        const char *form = (size_t)guess < t->forms.count ? tok_strtab_get(&t->forms, guess, &m) : NULL;
        if (!form || m != n || memcmp(form, s, n) != 0) continue;
        r->last = *id = guess;
        return true;
    }
    if (!tok_strtab_intern(&t->forms, s, n, id)) return false;
    r->last = *id;
    return true;
}

static bool add_merges(tokenizer *t, merge_reader *r) {
    for (int i = 0; i < r->n; i++) {
        const char *s = r->text + r->of[i].at;
        size_t left = r->of[i].left, right = r->of[i].right;
        int32_t *id = r->of[i].id;
        for (int k = 0; k < 2; k++) {
            const char *part = k ? s + left : s;
            size_t      n = k ? right : left;
            id[k] = tok_strtab_find_hash(&t->forms, part, n, r->of[i].hash[k]);
            if (id[k] < 0 && !tok_strtab_intern(&t->forms, part, n, &id[k])) return false;
        }
        if (!find_merged(t, r, s, left + right, &id[2])) return false;
        __builtin_prefetch(&t->merges.slots[pair_slot(&t->merges, pair_key(id[0], id[1]))], 1);
    }
    for (int i = 0; i < r->n; i++) add_merge(&t->merges, r->of[i].id[0], r->of[i].id[1], r->of[i].rank, r->of[i].id[2]);
    r->n = 0;
    r->len = 0;
    return true;
}

static bool take_merge(tokenizer *t, merge_reader *r, gguf_str s, uint32_t rank, bool bytes) {
    // The first space that is not the first byte parts left and right.
    const char *space = s.len > 1 ? memchr(s.ptr + 1, ' ', s.len - 1) : NULL;
    if (!space) return true;
    size_t left = (size_t)(space - s.ptr), right = s.len - left - 1;
    if (!mem_grow((void **)&r->text, &r->cap, r->len + s.len, 1)) return false;
    char *to = r->text + r->len;
    if (bytes) {
        if (!unspell(s.ptr, left, to, &left) || !unspell(space + 1, right, to + left, &right)) return true;
    } else {
        memcpy(to, s.ptr, left);
        memcpy(to + left, space + 1, right);
    }
    r->of[r->n].at = r->len;
    r->of[r->n].left = left;
    r->of[r->n].right = right;
    r->of[r->n].rank = rank;
    for (int k = 0; k < 2; k++) {
        r->of[r->n].hash[k] = tok_strtab_hash(k ? to + left : to, k ? right : left);
        tok_strtab_expect(&t->forms, r->of[r->n].hash[k]);
    }
    r->len += left + right;
    return ++r->n < MERGES_AT_ONCE || add_merges(t, r);
}

static status read_merges(tokenizer *t, const gguf *g, bool bytes, error *err) {
    const gguf_value *v;
    status st = gguf_get_array(g, "tokenizer.ggml.merges", GGUF_STRING, &v, err);
    if (st == E_NOTFOUND && strcmp(t->pre, "kimi-k2") == 0) {
        if (err) *err = (error){.code = OK};
        return OK;
    }
    if (st != OK) return st;
    uint64_t n = gguf_value_count(v);
    if (n >= INT32_MAX / 8) return error_set(err, E_LIMIT, "tokenizer.ggml.merges has %llu entries", (unsigned long long)n);
    size_t slots = 64;
    while (slots < 2 * n) slots *= 2;
    t->merges.slots = mem_table(slots, sizeof *t->merges.slots);
    if (!t->merges.slots) return no_memory(err);
    t->merges.mask = slots - 1;

    merge_reader *r = mem_calloc(1, sizeof *r);
    bool ok = r != NULL;
    for (uint64_t i = 0; i < n && ok; i++) {
        gguf_str s;
        if (gguf_value_string(v, i, &s)) ok = take_merge(t, r, s, (uint32_t)i, bytes);
    }
    ok = ok && add_merges(t, r);
    if (r) mem_free(r->text);
    mem_free(r);
    return ok ? OK : no_memory(err);
}

status tok_bpe_create(tokenizer *t, const gguf *g, const char *pre_name, error *err) {
    const tok_pre *pre = *pre_name ? tok_pre_find(pre_name, strlen(pre_name)) : tok_pre_default(); // tok_check knows the name
    if (!*pre_name) snprintf(t->warning, sizeof t->warning, "tokenizer.ggml.pre is missing: words are cut the default way, ids may be wrong");
    t->pre_flags = pre->flags;
    t->escape = pre->flags & PRE_ESCAPE;
    t->clean_spaces = !(pre->flags & PRE_KEEP_SPACES);
    if (pre->flags & PRE_ADD_BOS) t->add_bos = true;
    if (pre->flags & PRE_ADD_SEP) t->add_sep = true;
    if (pre->flags & PRE_NO_BOS) t->roles[TOK_BOS] = -1;
    if (pre->flags & PRE_CASED) t->lowercase = false;
    status st = tok_splitter_create(pre, &t->splitter, err);
    if (st != OK) return st;

    bool bytes = !(pre->flags & PRE_TEXT);
    char *form = mem_alloc(t->max_len + 1);
    bool  ok = form && tok_strtab_reserve(&t->forms, (size_t)t->size, t->text.blob_len);
    for (int32_t id = 0; id < t->size && ok; id++) {
        size_t      n, m;
        const char *s = tok_strtab_get(&t->text, id, &n);
        if (!bytes) ok = tok_strtab_append(&t->forms, s, n);
        else ok = unspell(s, n, form, &m) ? tok_strtab_append(&t->forms, form, m) : tok_strtab_append(&t->forms, "", 0);
    }
    mem_free(form);
    ok = ok && tok_strtab_index(&t->forms);
    if (!ok) return no_memory(err);
    st = read_merges(t, g, bytes, err);
    if (st != OK) return st;
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        t->byte_form[b] = tok_strtab_find(&t->forms, &c, 1);
        t->raw_byte[b] = tok_find(t, &c, 1);
    }
    return OK;
}

// ---- words

// The ids of a symbol that came out of the merging: its own, or for one that is no token those of its bytes that are some.
static bool put_symbol(const tokenizer *t, const char *word, const tok_sym *sym, tok_ids *out) {
    if (sym->id >= 0 && sym->id < t->size) return tok_ids_push(out, sym->id);
    for (uint32_t i = sym->begin; i < sym->end; i++) {
        unsigned char b = (unsigned char)word[i];
        if (t->pre_flags & PRE_TEXT) {
            if (t->byte_token[b] >= 0 && !tok_ids_push(out, t->byte_token[b])) return false;
            continue;
        }
        char   letter[4]; // the bytes of its letter, one by one: what the peer looks up
        size_t n = utf8_encode(tok_byte_letter(b), letter);
        for (size_t k = 0; k < n; k++) {
            int32_t id = t->raw_byte[(unsigned char)letter[k]];
            if (id >= 0 && !tok_ids_push(out, id)) return false;
        }
    }
    return true;
}

static void rank_pair(const tokenizer *t, tok_sym *syms, int32_t left) {
    const struct tok_merge *m = syms[left].next < 0 ? NULL : find_merge(&t->merges, syms[left].id, syms[syms[left].next].id);
    syms[left].rank = m ? m->rank : UINT32_MAX;
    syms[left].merged = m ? m->merged : -1;
}

static void merge_next(tok_sym *syms, int32_t left) {
    tok_sym *a = &syms[left], *b = &syms[a->next];
    a->id = a->merged;
    a->end = b->end;
    a->next = b->next;
    b->end = 0;
    b->rank = UINT32_MAX;
    if (b->next >= 0) syms[b->next].prev = left;
}

static void merge_short(const tokenizer *t, tok_sym *syms) {
    for (;;) {
        int32_t  best = -1;
        uint32_t rank = UINT32_MAX;
        for (int32_t i = 0; i >= 0; i = syms[i].next) {
            if (syms[i].rank < rank) {
                rank = syms[i].rank;
                best = i;
            }
        }
        if (best < 0) return;
        merge_next(syms, best);
        rank_pair(t, syms, best);
        if (syms[best].prev >= 0) rank_pair(t, syms, syms[best].prev);
    }
}

// The heap holds rank << 32 | left. An entry is out of date when the pair at `left` has another rank now; then a newer one stands
// in the heap as well.
static bool merge_long(const tokenizer *t, tok_scratch *s, tok_sym *syms, size_t n) {
    s->heap_len = 0;
    for (size_t i = 0; i < n; i++) {
        if (syms[i].rank != UINT32_MAX && !tok_heap_push(s, (uint64_t)syms[i].rank << 32 | i)) return false;
    }
    while (s->heap_len) {
        uint64_t key = tok_heap_pop(s);
        int32_t  left = (int32_t)(key & UINT32_MAX);
        if (syms[left].rank != key >> 32) continue;
        merge_next(syms, left);
        int32_t touched[2] = {left, syms[left].prev};
        for (int k = 0; k < 2; k++) {
            if (touched[k] < 0) continue;
            rank_pair(t, syms, touched[k]);
            uint32_t rank = syms[touched[k]].rank;
            if (rank != UINT32_MAX && !tok_heap_push(s, (uint64_t)rank << 32 | (uint32_t)touched[k])) return false;
        }
    }
    return true;
}

static status encode_word(const tokenizer *t, tok_scratch *s, const char *word, size_t len, tok_ids *out) {
    if (len == 0) return OK;
    bool whole = t->pre_flags & PRE_IGNORE_MERGES;
    if (t->pre_flags & PRE_NEWLINES) whole = whole || (word[0] == '\n' && word[len - 1] == '\n');
    if (whole) {
        int32_t id = tok_strtab_find(&t->forms, word, len);
        if (id >= 0 && id < t->size) return tok_ids_push(out, id) ? OK : error_set(s->err, E_NOMEM, "out of memory for token ids");
    }
    tok_sym  few[SHORT_WORD];
    tok_sym *syms = few;
    if (len > SHORT_WORD) {
        if (len > INT32_MAX || !mem_grow((void **)&s->syms, &s->syms_cap, len, sizeof *s->syms)) {
            return error_set(s->err, E_NOMEM, "out of memory for a word of %zu bytes", len);
        }
        syms = s->syms;
    }
    size_t n = 0;
    for (size_t i = 0, step; i < len; i += step, n++) {
        step = 1;
        int32_t id = t->byte_form[(unsigned char)word[i]];
        if (t->pre_flags & PRE_TEXT) {
            step = tok_char_len((unsigned char)word[i]);
            if (step > len - i) step = len - i;
            if (step > 1) id = tok_strtab_find(&t->forms, word + i, step);
        }
        syms[n] = (tok_sym){id, (uint32_t)i, (uint32_t)(i + step), (int32_t)n - 1, (int32_t)n + 1, UINT32_MAX, -1};
    }
    syms[n - 1].next = -1;
    for (size_t i = 0; i + 1 < n; i++) rank_pair(t, syms, (int32_t)i);
    bool ok = true;
    if (n <= SHORT_WORD) merge_short(t, syms);
    else ok = merge_long(t, s, syms, n);
    for (int32_t i = 0; i >= 0 && ok; i = syms[i].next) ok = put_symbol(t, word, &syms[i], out);
    return ok ? OK : error_set(s->err, E_NOMEM, "out of memory for token ids");
}

// ---- fragments

// The model "hybriddna": between <dna> and </dna> six letters are a token, spelled with a mark after them in the file.
static status encode_dna(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_ids *out) {
    int32_t open = tok_find(t, "<dna>", 5), close = tok_find(t, "</dna>", 6), oov = tok_find(t, "<oov>", 5);
    if (open < 0 || close < 0 || oov < 0) return tok_split(t, s, text, len, encode_word, out);
    while (len) {
        const char *at = memmem(text, len, "<dna>", 5);
        size_t      plain = at ? (size_t)(at - text) : len;
        if (plain) {
            status st = tok_split(t, s, text, plain, encode_word, out);
            if (st != OK) return st;
        }
        if (!at) break;
        text += plain + 5;
        len -= plain + 5;
        const char *end = memmem(text, len, "</dna>", 6);
        size_t      bases = end ? (size_t)(end - text) : len;
        bool        ok = tok_ids_push(out, open);
        for (size_t i = 0; i < bases && ok; i += 6) {
            char kmer[9] = {'A', 'A', 'A', 'A', 'A', 'A', '\xEE', '\x80', '\x80'};
            for (size_t k = 0; k < 6 && i + k < bases; k++) {
                char c = text[i + k];
                kmer[k] = c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
            }
            int32_t id = tok_find(t, kmer, 9);
            ok = tok_ids_push(out, id >= 0 ? id : oov);
        }
        if (ok && end) ok = tok_ids_push(out, close);
        if (!ok) return error_set(s->err, E_NOMEM, "out of memory for token ids");
        text += end ? bases + 6 : len;
        len -= end ? bases + 6 : len;
    }
    return OK;
}

// The model "whitespace": words between white space, which is dropped.
static status encode_dropping_spaces(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_ids *out) {
    const uint8_t *classes = tok_classes();
    strbuf_clear(&s->escaped);
    for (size_t i = 0; i <= len;) {
        uint32_t cp = ' ';
        char     utf8[4];
        if (i < len) i += tok_decode_cp((const unsigned char *)text + i, len - i, &cp);
        else i++;
        if (classes[cp] == TOK_CP_SPACE) {
            status st = s->escaped.len ? tok_split(t, s, s->escaped.data, s->escaped.len, encode_word, out) : OK;
            if (st != OK) return st;
            strbuf_clear(&s->escaped);
        } else if (!strbuf_add(&s->escaped, utf8, utf8_encode(t->lowercase ? tok_lower(cp) : cp, utf8))) {
            return error_set(s->err, E_NOMEM, "out of memory for %zu bytes of text", len);
        }
    }
    return OK;
}

status tok_bpe_encode(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_ids *out) {
    if (t->dna) return encode_dna(t, s, text, len, out);
    if (t->drop_spaces) return encode_dropping_spaces(t, s, text, len, out);
    if (t->escape) {
        strbuf_clear(&s->escaped);
        for (size_t i = 0; i < len;) {
            const char *space = memchr(text + i, ' ', len - i);
            size_t      n = space ? (size_t)(space - text) - i : len - i;
            bool        ok = strbuf_add(&s->escaped, text + i, n) && (!space || strbuf_add(&s->escaped, TOK_SPACE, 3));
            if (!ok) return error_set(s->err, E_NOMEM, "out of memory for %zu bytes of text", len);
            i += n + (space != NULL);
        }
        text = s->escaped.data;
        len = s->escaped.len;
    }
    return tok_split(t, s, text, len, encode_word, out);
}
