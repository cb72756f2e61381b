#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/commands.h"

int cli_fail(const error *err) {
    fprintf(stderr, "altiserve: %s\n", err->text[0] ? err->text : status_name(err->code));
    return err->code == E_USAGE ? 2 : 1;
}

status cli_open(const flags *f, altiserve **out, error *err) {
    altiserve_options o = flags_engine(f);
    struct stat st;
    if (f->given[FLAG_MODELS] && (stat(f->text[FLAG_MODELS], &st) || !S_ISDIR(st.st_mode))) // the default folder may be missing: then there is toy-1
        return error_set(err, E_NOTFOUND, "--models %s: there is no such folder", f->text[FLAG_MODELS]);
    return altiserve_create(&o, out, err);
}

static void progress_bar(void *ctx, uint64_t done, uint64_t total) {
    int *last = ctx, now = total ? (int)(done * 40 / total) : 40;
    if (now == *last) return;
    *last = now;
    fprintf(stderr, "\rloading [%.*s%*s] %3d%%", now, "########################################", 40 - now, "", now * 100 / 40);
    if (now == 40) fprintf(stderr, "\r\033[K");
}

status cli_load(altiserve *a, const char *model, error *err) {
    int last = -1;
    status s = altiserve_check_draft(a, model, err);
    if (s == OK) s = altiserve_load(a, model, isatty(STDERR_FILENO) ? progress_bar : NULL, &last, err);
    if (last >= 0 && last < 40) fputs("\r\033[K", stderr);
    return s;
}

status cli_read(const char *path, char **data, size_t *len, error *err) {
    FILE *file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    if (!file) return error_errno(err, "cannot open %s", path);
    strbuf text = {0};
    char part[65536];
    for (size_t n; (n = fread(part, 1, sizeof part, file)) > 0;) strbuf_add(&text, part, n);
    bool bad = ferror(file) != 0;
    if (file != stdin) fclose(file);
    *len = text.len;
    *data = bad ? NULL : strbuf_take(&text);
    if (bad) {
        strbuf_free(&text);
        return error_errno(err, "cannot read %s", path);
    }
    return *data ? OK : error_set(err, E_NOMEM, "no memory to read %s", path);
}

status cli_ids(const char *list, int32_t **ids, size_t *n, error *err) {
    size_t cap = 0;
    *ids = NULL;
    *n = 0;
    for (const char *s = list; *s;) {
        if (strchr(" ,\r\n\t[]", *s)) {
            s++;
            continue;
        }
        char *end;
        errno = 0;
        long v = strtol(s, &end, 10);
        if (end == s || errno || v < 0 || v > INT32_MAX) {
            mem_free(*ids);
            *ids = NULL;
            return error_set(err, E_USAGE, "token ids are written as \"1 2 3\", not \"%.40s\"", s);
        }
        if (!mem_grow((void **)ids, &cap, *n + 1, sizeof **ids)) {
            mem_free(*ids);
            *ids = NULL;
            return error_set(err, E_NOMEM, "no memory for %zu tokens", *n);
        }
        (*ids)[(*n)++] = (int32_t)v;
        s = end;
    }
    return OK;
}

altiserve_sampling cli_sampling(const flags *f) {
    return (altiserve_sampling){.temperature = (float)f->number[FLAG_TEMP], .top_k = (int)f->number[FLAG_TOP_K], .top_p = (float)f->number[FLAG_TOP_P],
                                .min_p = (float)f->number[FLAG_MIN_P], .seed = (uint64_t)f->number[FLAG_SEED], .has_seed = f->given[FLAG_SEED]};
}

status cli_prompt(altiserve *a, const flags *f, const char *model, int32_t **ids, size_t *n, error *err) {
    const char *text = f->text[FLAG_TEXT], *tokens = f->text[FLAG_TOKENS];
    if (!text == !tokens) return error_set(err, E_USAGE, "give the prompt as --text TEXT or as --tokens \"1 2 3\"");
    status s = tokens ? cli_ids(tokens, ids, n, err)
                      : altiserve_tokenize(a, model, text, strlen(text), TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, ids, n, err);
    if (s != OK) return s;
    return *n ? OK : error_set(err, E_USAGE, "the prompt is empty");
}
