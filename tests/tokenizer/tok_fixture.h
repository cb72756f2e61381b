// Small vocabularies in memory, for the tests of this room. Included by one test program at a time.
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "gguf/gguf.h"
#include "tokenizer/tokenizer.h"

enum { FIX_MAX = 1024 };

typedef struct fixture {
    char     text[FIX_MAX][48];
    gguf_str str[FIX_MAX];
    float    score[FIX_MAX];
    int32_t  type[FIX_MAX];
    int      count;
    char     merge_text[256][64];
    gguf_str merge[256];
    int      merges;
    const char *model, *pre, *name;
    struct { const char *key; uint32_t value; } u32[8];
    struct { const char *key; bool value; } flag[8];
    int u32s, flags;
    const uint8_t *charsmap;
    size_t         charsmap_len;
} fixture;

static int fix_token(fixture *f, const char *text, int type, float score) {
    snprintf(f->text[f->count], sizeof f->text[0], "%s", text);
    f->str[f->count] = (gguf_str){f->text[f->count], strlen(f->text[f->count])};
    f->type[f->count] = type;
    f->score[f->count] = score;
    return f->count++;
}

static inline void fix_merge(fixture *f, const char *left, const char *right) {
    snprintf(f->merge_text[f->merges], sizeof f->merge_text[0], "%s %s", left, right);
    f->merge[f->merges] = (gguf_str){f->merge_text[f->merges], strlen(f->merge_text[f->merges])};
    f->merges++;
}

// The letters of gpt2's byte alphabet, written independently of the room's own.
static void fix_letter(int b, char out[4]) {
    int cp = b, n = 0;
    bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
    if (!printable) {
        for (int k = 0; k < b; k++) n += !((k >= 33 && k <= 126) || (k >= 161 && k <= 172) || (k >= 174 && k <= 255));
        cp = 256 + n;
    }
    if (cp < 128) {
        out[0] = (char)cp;
        out[1] = 0;
    } else {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 63));
        out[2] = 0;
    }
}

// Ids 0 to 255 are the bytes.
static inline void fix_bytes(fixture *f) {
    for (int b = 0; b < 256; b++) {
        char letter[4];
        fix_letter(b, letter);
        fix_token(f, letter, TOK_TYPE_NORMAL, 0);
    }
}

static void *fix_file(const fixture *f, size_t *bytes) {
    gguf_writer *w = NULL;
    void        *out = NULL;
    error        e = {0};
    gguf_items   tokens = {GGUF_STRING, (uint64_t)f->count, f->str}, scores = {GGUF_F32, (uint64_t)f->count, f->score},
               types = {GGUF_I32, (uint64_t)f->count, f->type}, merges = {GGUF_STRING, (uint64_t)f->merges, f->merge},
               map = {GGUF_U8, f->charsmap_len, f->charsmap};
    status st = gguf_writer_create(&w, &e);
    if (!st) st = gguf_writer_set_text(w, "general.architecture", "llama", &e);
    if (!st && f->name) st = gguf_writer_set_text(w, "general.name", f->name, &e);
    if (!st && f->model) st = gguf_writer_set_text(w, "tokenizer.ggml.model", f->model, &e);
    if (!st && f->pre) st = gguf_writer_set_text(w, "tokenizer.ggml.pre", f->pre, &e);
    if (!st && f->count) st = gguf_writer_set(w, "tokenizer.ggml.tokens", GGUF_ARRAY, &tokens, &e);
    if (!st && f->count) st = gguf_writer_set(w, "tokenizer.ggml.scores", GGUF_ARRAY, &scores, &e);
    if (!st && f->count) st = gguf_writer_set(w, "tokenizer.ggml.token_type", GGUF_ARRAY, &types, &e);
    if (!st && f->merges) st = gguf_writer_set(w, "tokenizer.ggml.merges", GGUF_ARRAY, &merges, &e);
    if (!st && f->charsmap) st = gguf_writer_set(w, "tokenizer.ggml.precompiled_charsmap", GGUF_ARRAY, &map, &e);
    for (int i = 0; i < f->u32s && !st; i++) st = gguf_writer_set_u32(w, f->u32[i].key, f->u32[i].value, &e);
    for (int i = 0; i < f->flags && !st; i++) st = gguf_writer_set_bool(w, f->flag[i].key, f->flag[i].value, &e);
    if (!st) st = gguf_writer_memory(w, &out, bytes, &e);
    gguf_writer_free(w);
    if (st) {
        fprintf(stderr, "fixture: %s\n", e.text);
        abort();
    }
    return out;
}

static inline void fix_u32(fixture *f, const char *key, int value) {
    f->u32[f->u32s].key = key;
    f->u32[f->u32s++].value = (uint32_t)value;
}

static inline void fix_flag(fixture *f, const char *key, bool value) {
    f->flag[f->flags].key = key;
    f->flag[f->flags++].value = value;
}

static inline status fix_create(const fixture *f, tokenizer **t, error *err) {
    size_t bytes;
    void  *file = fix_file(f, &bytes);
    gguf  *g = NULL;
    status st = gguf_open_memory(file, bytes, "fixture", &g, err);
    if (!st) st = tok_create(g, t, err);
    gguf_close(g);
    mem_free(file);
    return st;
}

// Ids as text, "1 2 3"; the caller frees it with mem_free.
static inline char *fix_ids(const tokenizer *t, const char *text, size_t len, unsigned flags) {
    tok_ids ids = {0};
    error   e = {0};
    strbuf  out = {0};
    strbuf_adds(&out, "");
    if (tok_encode(t, text, len, flags, &ids, &e)) strbuf_addf(&out, "error: %s", e.text);
    for (size_t i = 0; i < ids.count; i++) strbuf_addf(&out, "%s%d", i ? " " : "", ids.ids[i]);
    tok_ids_free(&ids);
    return strbuf_take(&out);
}
