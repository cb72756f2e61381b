// Owns the matching of stop strings across the borders of tokens.
//
// Invariant between calls: `held` contains no stop string, and is either a proper prefix of one or the unfinished end of a character.
#include <string.h>

#include "base/utf8.h"
#include "sampling/sampling.h"

status samp_stop_init(samp_stop *s, const char *const *strings, size_t n, error *err) {
    *s = (samp_stop){0};
    if (!n) return OK;
    s->strings = mem_calloc(n, sizeof *s->strings);
    s->lens = mem_calloc(n, sizeof *s->lens);
    if (!s->strings || !s->lens) goto nomem;
    for (size_t i = 0; i < n; i++) {
        if (!strings[i] || !*strings[i]) {
            samp_stop_free(s);
            return error_set(err, E_INVALID, "stop string %zu is empty", i);
        }
        s->lens[i] = strlen(strings[i]);
        if (!(s->strings[i] = mem_strndup(strings[i], s->lens[i]))) goto nomem;
        s->n++;
    }
    return OK;
nomem:
    samp_stop_free(s);
    return error_set(err, E_NOMEM, "no memory for %zu stop strings", n);
}

void samp_stop_free(samp_stop *s) {
    for (size_t i = 0; i < s->n; i++) mem_free(s->strings[i]);
    mem_free(s->strings);
    mem_free(s->lens);
    strbuf_free(&s->held);
    *s = (samp_stop){0};
}

// Whether the bytes from `at` on are the beginning of string i (all of it: *whole).
static bool begins(const samp_stop *s, size_t i, size_t at, bool *whole) {
    size_t left = s->held.len - at;
    *whole = left >= s->lens[i];
    return memcmp(s->held.data + at, s->strings[i], *whole ? s->lens[i] : left) == 0;
}

static void drop(strbuf *b, size_t n) {
    if (!n) return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
    b->data[b->len] = 0;
}

status samp_stop_feed(samp_stop *s, const char *text, size_t len, strbuf *out, error *err) {
    if (s->matched || !len) return OK;
    if (!strbuf_add(&s->held, text, len)) return error_set(err, E_NOMEM, "no memory for held text");
    size_t at = 0;
    for (; at < s->held.len; at++) {
        bool maybe = false;
        for (size_t i = 0; i < s->n; i++) {
            bool whole;
            if (!begins(s, i, at, &whole)) continue;
            if (whole) {
                s->matched = true;
                s->which = i;
                break;
            }
            maybe = true;
        }
        if (s->matched || maybe) break;
    }
    // A shorter string may be complete behind the beginning of a longer one that is still open: look on.
    for (size_t k = at; !s->matched && s->n && k < s->held.len; k++)
        for (size_t i = 0; i < s->n; i++) {
            bool whole;
            if (begins(s, i, k, &whole) && whole) {
                s->matched = true;
                s->which = i;
                at = k;
                break;
            }
        }
    size_t give = s->matched ? at : utf8_complete_prefix(s->held.data, at);
    if (!strbuf_add(out, s->held.data, give)) return error_set(err, E_NOMEM, "no memory for text");
    if (s->matched) strbuf_clear(&s->held);
    else drop(&s->held, give);
    return OK;
}

status samp_stop_end(samp_stop *s, strbuf *out, error *err) {
    if (!s->matched && s->held.len && !strbuf_add(out, s->held.data, s->held.len)) return error_set(err, E_NOMEM, "no memory for text");
    strbuf_clear(&s->held);
    return OK;
}
