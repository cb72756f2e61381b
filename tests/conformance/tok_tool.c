// tok_tool: tokenize and detokenize a vocabulary, taking and printing what the peer's commands of the same names do; for tests/conformance/tokens.sh.
//   tok_tool tokenize MODEL [--special] [--no-parse-special] [--separator LINE]      text on stdin -> ids, a line a record
//   tok_tool detokenize MODEL [--exact]      lines of ids on stdin -> texts, the length of each on a line before it
//   tok_tool time MODEL FILE                 MB/s
//   tok_tool specials MODEL                  tokens recognized by their spelling, a NUL after each
//   tok_tool pres                            every tokenizer.ggml.pre that is known
//   tok_tool repre IN OUT PRE                the vocabulary IN with another tokenizer.ggml.pre
//   tok_tool make IN OUT KIND                a vocabulary of another kind with the tokens of IN (SentencePiece)
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "gguf/gguf.h"
#include "tokenizer/tok_internal.h"

static int die(const error *err) {
    fprintf(stderr, "%s\n", err->text);
    return 1;
}

static int encode(const tokenizer *t, const char *s, size_t len, unsigned flags) {
    error   err = {0};
    tok_ids ids = {0};
    if (tok_encode(t, s, len, flags, &ids, &err) != OK) return die(&err);
    for (size_t i = 0; i < ids.count; i++) printf("%s%d", i ? " " : "", ids.ids[i]);
    putchar('\n');
    tok_ids_free(&ids);
    return 0;
}

static int tokenize(const tokenizer *t, unsigned flags, const char *separator) {
    char   *line = NULL;
    size_t  cap = 0;
    ssize_t got;
    strbuf  record = {0};
    bool    pending = false;
    int     rc = 0;
    while (rc == 0 && ((got = getline(&line, &cap, stdin)) >= 0 || pending)) {
        bool newline = got > 0 && line[got - 1] == '\n';
        if (separator) {
            size_t n = got < 0 ? 0 : (size_t)got - newline;
            bool   ends = got < 0 || (n == strlen(separator) && memcmp(line, separator, n) == 0);
            if (!ends) {
                strbuf_add(&record, line, (size_t)got);
                pending = true;
                continue;
            }
            if (record.len && record.data[record.len - 1] == '\n') record.len--;
        } else {
            strbuf_clear(&record);
            strbuf_add(&record, line, (size_t)got - newline);
        }
        rc = encode(t, record.data, record.len, flags);
        strbuf_clear(&record);
        pending = false;
    }
    return rc;
}

static int detokenize(const tokenizer *t, unsigned flags) {
    char  *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) >= 0) {
        tok_ids ids = {0};
        strbuf  text = {0};
        error   err = {0};
        char   *end;
        for (char *p = line;; p = end) {
            long id = strtol(p, &end, 10);
            if (end == p) break;
            tok_ids_push(&ids, (int32_t)id);
        }
        if (tok_decode(t, ids.ids, ids.count, flags, &text, &err) != OK) return die(&err);
        printf("%zu\n", text.len);
        fwrite(text.data ? text.data : "", 1, text.len, stdout);
        tok_ids_free(&ids);
        strbuf_free(&text);
    }
    return 0;
}

static int time_it(const tokenizer *t, const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return 1;
    strbuf  text = {0};
    char    buf[65536];
    size_t  n;
    tok_ids ids = {0};
    error   err = {0};
    while ((n = fread(buf, 1, sizeof buf, f)) > 0) strbuf_add(&text, buf, n);
    fclose(f);
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        struct timespec a, b;
        ids.count = 0;
        clock_gettime(CLOCK_MONOTONIC, &a);
        if (tok_encode(t, text.data, text.len, 0, &ids, &err) != OK) return die(&err);
        clock_gettime(CLOCK_MONOTONIC, &b);
        double s = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
        if (s < best) best = s;
    }
    printf("%zu bytes, %zu tokens, %.2f MB/s\n", text.len, ids.count, (double)text.len / best / 1e6);
    return 0;
}

static void specials(const tokenizer *t) {
    for (int32_t id = 0; id < t->size; id++) {
        size_t      n;
        const char *s = tok_text(t, id, &n);
        tok_type    type = tok_type_of(t, id);
        if (type != TOK_TYPE_CONTROL && type != TOK_TYPE_USER_DEFINED && type != TOK_TYPE_UNKNOWN) continue;
        fwrite(s, 1, n, stdout);
        putchar(0);
    }
}

static bool copied(const char *key, const char *kind) {
    static const char *const changed[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.model",
                                          "tokenizer.ggml.pre", "tokenizer.ggml.merges"};
    for (int i = 0; i < 6; i++) {
        if (strcmp(key, changed[i]) == 0 && (kind || i == 4)) return false;
    }
    return !kind || strncmp(key, "tokenizer.", 10) != 0;
}

// Tokens of another kind out of SentencePiece's: what matters is that the peer reads the same file.
static status set_tokens(gguf_writer *w, const gguf *g, const char *kind, error *err) {
    const gguf_value *tokens = gguf_find(g, "tokenizer.ggml.tokens"), *scores = gguf_find(g, "tokenizer.ggml.scores"),
                     *types = gguf_find(g, "tokenizer.ggml.token_type");
    bool      t5 = strncmp(kind, "t5", 2) == 0, rwkv = strcmp(kind, "rwkv") == 0, bert = strcmp(kind, "bert-cased") == 0;
    bool      dna = strcmp(kind, "hybriddna") == 0, white = strcmp(kind, "whitespace") == 0;
    uint64_t  n = gguf_value_count(tokens), m = 0, extra = dna ? 3 + 4096 : 0;
    gguf_str *texts = calloc(2 * n + 600 + extra, sizeof *texts);
    float    *s = calloc(2 * n + 600 + extra, sizeof *s);
    int32_t  *ty = calloc(2 * n + 600 + extra, sizeof *ty);
    char     *blob = malloc(8 << 20), *p = blob;
    tok_strtab seen = {0};
    for (int b = 0; rwkv && b < 256; b++) {
        texts[m] = (gguf_str){p, (size_t)snprintf(p, 8, "\\x%02x", (unsigned)b)};
        p += 8;
        ty[m++] = TOK_TYPE_NORMAL;
    }
    for (int b = 0; white && b < 256; b++) {
        texts[m] = (gguf_str){p, (size_t)snprintf(p, 8, "<0x%02X>", (unsigned)b)};
        p += 8;
        ty[m++] = TOK_TYPE_BYTE;
    }
    for (uint64_t i = 0; i < n; i++) {
        gguf_str text;
        int64_t  type = 1;
        double   score = 0;
        gguf_value_string(tokens, i, &text);
        gguf_value_i64(types, i, &type);
        gguf_value_f64(scores, i, &score);
        if (rwkv && (type != 1 || memchr(text.ptr, '\\', text.len) || text.len < 2)) continue;
        if ((dna || white) && type == 6) continue;
        if (rwkv && i % 3 == 0 && p - blob < 8000000) { // escapes inside tokens
            texts[m] = (gguf_str){p, (size_t)snprintf(p, 600, "\\n%.*s\\t", (int)text.len, text.ptr)};
            p += texts[m].len + 1;
            ty[m++] = (int32_t)type;
        }
        if (t5 && i % 997 == 500) type = 4;
        if (bert && type == 6) type = 1;
        int32_t before = (int32_t)seen.count, id;
        tok_strtab_intern(&seen, text.ptr, text.len, &id);
        if (id < before) continue;
        texts[m] = text;
        s[m] = t5 ? -3.0f - (float)(i % 1000) / 100 : (float)score / 4000;
        ty[m++] = (int32_t)type;
    }
    static const char *const marks[] = {"<dna>", "</dna>", "<oov>"};
    for (int i = 0; dna && i < 3; i++) {
        texts[m] = (gguf_str){marks[i], strlen(marks[i])};
        ty[m++] = TOK_TYPE_NORMAL;
    }
    for (int i = 0; dna && i < 4096; i++) {
        for (int k = 0; k < 6; k++) p[k] = "ACGT"[i >> 2 * k & 3];
        memcpy(p + 6, "\xEE\x80\x80", 3);
        texts[m] = (gguf_str){p, 9};
        p += 9;
        ty[m++] = TOK_TYPE_NORMAL;
    }
    gguf_str model = {t5 ? "t5" : bert ? "bert" : kind, t5 ? 2 : bert ? 4 : strlen(kind)}, one = {"h e", 3};
    gguf_items a = {GGUF_STRING, m, texts}, b = {GGUF_F32, m, s}, c = {GGUF_I32, m, ty}, merges = {GGUF_STRING, 1, &one};
    status st = gguf_writer_set(w, "tokenizer.ggml.tokens", GGUF_ARRAY, &a, err);
    if (st == OK) st = gguf_writer_set(w, "tokenizer.ggml.scores", GGUF_ARRAY, &b, err);
    if (st == OK) st = gguf_writer_set(w, "tokenizer.ggml.token_type", GGUF_ARRAY, &c, err);
    if (st == OK) st = gguf_writer_set(w, "tokenizer.ggml.model", GGUF_STRING, &model, err);
    if (st == OK && strcmp(kind, "t5-merge") == 0) st = gguf_writer_set_bool(w, "tokenizer.ggml.remove_extra_whitespaces", true, err);
    if (st == OK && t5) st = gguf_writer_set_bool(w, "tokenizer.ggml.add_space_prefix", true, err);
    if (st == OK && bert) st = gguf_writer_set_bool(w, "tokenizer.ggml.normalizer.lowercase", false, err);
    if (st == OK && (dna || white)) st = gguf_writer_set(w, "tokenizer.ggml.merges", GGUF_ARRAY, &merges, err);
    if (st == OK && (dna || white)) st = gguf_writer_set_text(w, "tokenizer.ggml.pre", dna ? "gpt-2" : "whitespace", err);
    return st;
}

static int remake(const char *in, const char *out, const char *pre, const char *kind) {
    error        err = {0};
    gguf        *g;
    gguf_writer *w;
    if (gguf_open(in, &g, &err) != OK || gguf_writer_create(&w, &err) != OK) return die(&err);
    status st = OK;
    for (size_t i = 0; i < gguf_kv_count(g) && st == OK; i++) {
        const char *key = gguf_kv_key(g, i);
        if (copied(key, kind)) st = gguf_writer_copy(w, key, gguf_kv_value(g, i), &err);
    }
    if (st == OK && pre) st = gguf_writer_set_text(w, "tokenizer.ggml.pre", pre, &err);
    if (st == OK && pre) st = gguf_writer_set_text(w, "tokenizer.ggml.model", "gpt2", &err);
    if (st == OK && kind) st = set_tokens(w, g, kind, &err);
    if (st == OK) st = gguf_writer_path(w, out, &err);
    return st == OK ? 0 : die(&err);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "pres") == 0) {
        const char *names;
        for (size_t i = 0; (names = tok_pre_names(i)); i++) printf("%s\n", names);
        return 0;
    }
    if (argc < 3) return 2;
    if (argc > 4 && strcmp(argv[1], "repre") == 0) return remake(argv[2], argv[3], argv[4], NULL);
    if (argc > 4 && strcmp(argv[1], "make") == 0) return remake(argv[2], argv[3], NULL, argv[4]);
    error      err = {0};
    gguf      *g;
    tokenizer *t;
    if (gguf_open(argv[2], &g, &err) != OK || tok_create(g, &t, &err) != OK) return die(&err);
    gguf_close(g);
    if (*tok_warning(t)) fprintf(stderr, "%s\n", tok_warning(t));
    unsigned    flags = TOK_PARSE_CONTROL, decode = TOK_SPELL_SPECIAL | TOK_TIDY_SPACES;
    const char *separator = NULL;
    for (int i = 3; i < argc; i++) {
        if (strcmp(argv[i], "--special") == 0) flags |= TOK_ADD_SPECIAL;
        if (strcmp(argv[i], "--no-parse-special") == 0) flags &= ~(unsigned)TOK_PARSE_CONTROL;
        if (strcmp(argv[i], "--separator") == 0 && i + 1 < argc) separator = argv[++i];
        if (strcmp(argv[i], "--exact") == 0) decode = TOK_SPELL_SPECIAL;
    }
    int rc = 2;
    if (strcmp(argv[1], "tokenize") == 0) rc = tokenize(t, flags, separator);
    if (strcmp(argv[1], "detokenize") == 0) rc = detokenize(t, decode);
    if (strcmp(argv[1], "specials") == 0) {
        specials(t);
        rc = 0;
    }
    if (strcmp(argv[1], "time") == 0 && argc > 3) rc = time_it(t, argv[3]);
    tok_destroy(t);
    return rc;
}
