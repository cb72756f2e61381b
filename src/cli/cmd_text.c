// tokenize, detokenize, template: what needs a file's vocabulary or template, but no weights.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/commands.h"

static status print_ids(altiserve *a, const flags *f, const char *record, size_t len, error *err) {
    int32_t *ids;
    size_t n;
    unsigned how = (f->number[FLAG_SPECIAL] ? TOKENIZE_ADD_SPECIAL : 0) | (f->number[FLAG_NO_PARSE_SPECIAL] ? 0 : TOKENIZE_PARSE_SPECIAL);
    status s = altiserve_tokenize(a, f->positional[0], record, len, how, &ids, &n, err);
    if (s != OK) return s;
    for (size_t i = 0; i < n; i++) printf("%s%d", i ? " " : "", ids[i]);
    putchar('\n');
    mem_free(ids);
    return ferror(stdout) ? error_set(err, E_IO, "the output could not be written") : OK;
}

// Records end at each newline, or with a line that is --separator (whose newline before it belongs to it).
static status tokenize_all(altiserve *a, const flags *f, const char *text, size_t len, error *err) {
    const char *separator = f->text[FLAG_SEPARATOR];
    size_t sep_len = separator ? strlen(separator) : 0, begin = 0;
    bool pending = false;
    for (size_t at = 0; at < len;) {
        const char *newline = memchr(text + at, '\n', len - at);
        size_t end = newline ? (size_t)(newline - text) : len, next = newline ? end + 1 : len;
        bool ends = !separator || (end - at == sep_len && !memcmp(text + at, separator, sep_len));
        pending = !ends;
        if (ends) {
            size_t stop = separator ? (at > begin ? at - 1 : at) : end;
            status s = print_ids(a, f, text + begin, stop - begin, err);
            if (s != OK) return s;
            begin = next;
        }
        at = next;
    }
    if (!pending) return OK;
    size_t stop = len > begin && text[len - 1] == '\n' ? len - 1 : len;
    return print_ids(a, f, text + begin, stop - begin, err);
}

int cmd_tokenize(const flags *f) {
    error err = {0};
    altiserve *a = NULL;
    char *text = NULL;
    size_t len;
    const char *given = f->text[FLAG_TEXT];
    if (cli_open(f, &a, &err) == OK) {
        if (given) print_ids(a, f, given, strlen(given), &err); // one record, newlines and all
        else if (cli_read("-", &text, &len, &err) == OK) tokenize_all(a, f, text, len, &err);
    }
    mem_free(text);
    altiserve_destroy(a);
    return err.code ? cli_fail(&err) : 0;
}

int cmd_detokenize(const flags *f) {
    error err = {0};
    altiserve *a = NULL;
    int32_t *ids = NULL;
    char *text = NULL, *input = NULL;
    size_t n, len;
    if (!f->text[FLAG_TOKENS] && cli_read("-", &input, &len, &err) != OK) return cli_fail(&err);
    if (cli_ids(input ? input : f->text[FLAG_TOKENS], &ids, &n, &err) == OK && cli_open(f, &a, &err) == OK &&
        altiserve_detokenize(a, f->positional[0], ids, n, &text, &len, &err) == OK)
        fwrite(text, 1, len, stdout);
    mem_free(ids);
    mem_free(input);
    mem_free(text);
    altiserve_destroy(a);
    return err.code ? cli_fail(&err) : 0;
}

int cmd_template(const flags *f) {
    error err = {0};
    altiserve *a = NULL;
    char *input = NULL, *source = NULL, *text = NULL;
    size_t input_len, source_len, len;
    const char *what = f->positional[0], *dot = strrchr(what, '.');
    if (!f->text[FLAG_MESSAGES]) {
        error_set(&err, E_USAGE, "template needs --messages FILE");
    } else if (cli_read(f->text[FLAG_MESSAGES], &input, &input_len, &err) == OK) {
        if (dot && !strcmp(dot, ".jinja")) {
            if (cli_read(what, &source, &source_len, &err) == OK)
                altiserve_template_text(source, source_len, input, input_len, &text, &len, &err);
        } else if (cli_open(f, &a, &err) == OK) {
            altiserve_template(a, what, input, input_len, &text, &len, &err);
        }
    }
    if (!err.code && text) fwrite(text, 1, len, stdout);
    mem_free(input);
    mem_free(source);
    mem_free(text);
    altiserve_destroy(a);
    return err.code ? cli_fail(&err) : 0;
}
