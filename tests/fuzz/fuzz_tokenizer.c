// Tokenizers: a whole file as the vocabulary (input that begins "GGUF"), or any bytes as text for small vocabularies of every kind. Nothing may crash,
// ids must lie in the vocabulary, and decoding must take what encoding gave.
#include <stdlib.h>

#include "tokenizer/tok_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const tokenizer *t, const char *text, size_t len, unsigned flags) {
    tok_ids ids = {0}, more = {0};
    strbuf  out = {0};
    error   e;
    if (tok_encode(t, text, len, flags & 3, &ids, &e) == OK) {
        for (size_t i = 0; i < ids.count; i++) {
            if (ids.ids[i] < 0 || ids.ids[i] >= tok_size(t)) abort();
        }
        if (tok_decode(t, ids.ids, ids.count, flags & 3, &out, &e)) abort();
        tok_stream s;
        tok_stream_init(&s, t, flags & 1, flags & 2);
        for (size_t i = 0; i < ids.count; i++) {
            if (tok_stream_next(&s, ids.ids[i], &out, &e)) abort();
        }
    }
    size_t   a = len / 3, b = len / 2;
    tok_span spans[] = {{text, a, flags & 4}, {text + a, b - a, flags & 8}, {text + b, len - b, flags & 16}};
    if (tok_encode_spans(t, spans, 3, flags & 1, &more, &e) == OK && (flags & 31) == 28) {
        // All of it trusted: as one text.
        ids.count = 0;
        if (tok_encode(t, text, len, TOK_PARSE_CONTROL, &ids, &e) || ids.count != more.count) abort();
        if (ids.count && memcmp(ids.ids, more.ids, ids.count * sizeof *ids.ids) != 0) abort();
    }
    tok_ids_free(&ids);
    tok_ids_free(&more);
    strbuf_free(&out);
}

static tokenizer *small(int kind) {
    static const char *const models[] = {"gpt2", "llama", "bert", "t5", "rwkv", "gemma4", "gpt2", "gpt2"};
    static const char *const pres[] = {"llama-bpe", "default", "bert-bge", "default", "default", "gemma4", "deepseek-llm", "gpt-4o"};
    static fixture f;
    memset(&f, 0, sizeof f);
    f.model = models[kind];
    f.pre = pres[kind];
    fix_bytes(&f);
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        fix_token(&f, name, TOK_TYPE_BYTE, 0);
    }
    static const char *const words[] = {"▁", "▁a", "ab", "aa", "aaaa", "Ġa", "he", "hell", "hello", "▁hello", "a▁a", "  ", "ĠĠ"};
    for (int i = 0; i < 13; i++) fix_token(&f, words[i], i == 11 ? TOK_TYPE_USER_DEFINED : TOK_TYPE_NORMAL, (float)i);
    fix_token(&f, "<s>", TOK_TYPE_CONTROL, 0);
    fix_token(&f, "<|im_end|>", TOK_TYPE_CONTROL, 0);
    fix_token(&f, "<think>", TOK_TYPE_USER_DEFINED, 0);
    fix_token(&f, "<unk>", TOK_TYPE_UNKNOWN, 0);
    static const char *const merges[][2] = {{"a", "a"}, {"a", "b"}, {"aa", "aa"}, {"Ġ", "a"}, {"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}};
    for (int i = 0; i < 8; i++) fix_merge(&f, merges[i][0], merges[i][1]);
    tokenizer *t;
    error      e;
    if (fix_create(&f, &t, &e)) abort();
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static tokenizer *all[8];
    if (size < 2) return 0;
    if (size > 64 && memcmp(data, "GGUF", 4) == 0) {
        gguf      *g;
        tokenizer *t;
        error      e;
        if (gguf_open_memory(data, size, "input", &g, &e)) return 0;
        if (tok_create(g, &t, &e) == OK) check(t, (const char *)data + size - 64, 64, data[size - 1]);
        if (t) tok_destroy(t);
        gguf_close(g);
        return 0;
    }
    int kind = data[0] & 7;
    if (!all[kind]) all[kind] = small(kind);
    check(all[kind], (const char *)data + 2, size - 2, data[1]);
    return 0;
}
