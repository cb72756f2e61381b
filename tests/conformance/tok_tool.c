// tok_tool: tokenize and detokenize a vocabulary, taking and printing what the peer's commands of the same names do; for tests/conformance/tokens.sh.
//   tok_tool tokenize MODEL [--special] [--no-parse-special] [--separator LINE]      text on stdin -> ids, a line a record
//   tok_tool detokenize MODEL [--exact]      lines of ids on stdin -> text, a NUL after each
//   tok_tool time MODEL FILE                 MB/s
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tokenizer/tokenizer.h"

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
        fwrite(text.data ? text.data : "", 1, text.len, stdout);
        putchar(0);
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

int main(int argc, char **argv) {
    if (argc < 3) return 2;
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
    if (strcmp(argv[1], "time") == 0 && argc > 3) rc = time_it(t, argv[3]);
    tok_destroy(t);
    return rc;
}
