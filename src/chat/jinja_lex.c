// Template text to tokens, with Jinja2's whitespace rules as transformers sets them (trim_blocks, lstrip_blocks).
// Threads: jinja_internal.h.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "chat/jinja_internal.h"

typedef struct lexer {
    jj         *j;
    const char *p;
    size_t      n, at;
    bool        line_start; // the last thing matched ended with a newline
    jtok       *tok;
    size_t      count, cap;
    char        stack[256]; // open brackets, by what closes them
    size_t      open;
} lexer;

static jtok *emit(lexer *x, jtok_kind kind, size_t from, size_t to) {
    if (x->count == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 256;
        jtok *bigger = jj_array(x->j, cap, sizeof *bigger);
        if (x->count) memcpy(bigger, x->tok, x->count * sizeof *bigger);
        x->tok = bigger;
        x->cap = cap;
    }
    jtok *t = &x->tok[x->count++];
    *t = (jtok){.kind = (uint8_t)kind, .pos = (uint32_t)from, .p = x->p + from, .len = to - from};
    return t;
}

_Noreturn static void fail_at(lexer *x, size_t at, const char *text) {
    x->j->pos = (uint32_t)at;
    jj_fail(x->j, E_INVALID, "%s", text);
}

static size_t skip_space(const lexer *x, size_t at) {
    while (at < x->n) {
        uint32_t cp = (unsigned char)x->p[at];
        size_t len = cp < 128 ? 1 : utf8_decode(x->p + at, x->n - at, &cp);
        if (!juni_space(cp)) break;
        at += len;
    }
    return at;
}

static bool has(const lexer *x, size_t at, const char *text) {
    size_t n = strlen(text);
    return x->n - at >= n && !memcmp(x->p + at, text, n);
}

// The end of a tag at `at`: 0, or the offset behind it with what it swallows. `stop` is "%}", "#}" or "}}".
static size_t tag_end(const lexer *x, size_t at, const char *stop) {
    if (at < x->n && x->p[at] == '-' && has(x, at + 1, stop)) return skip_space(x, at + 3);
    if (at < x->n && x->p[at] == '+' && stop[0] != '}' && has(x, at + 1, stop)) return at + 3;
    if (!has(x, at, stop)) return 0;
    at += 2;
    return stop[0] != '}' && at < x->n && x->p[at] == '\n' ? at + 1 : at;
}

// `{% word %}` at `at` (the brace): 0, or the offset behind it. raw swallows no newline, endraw does.
static size_t word_tag(const lexer *x, size_t at, const char *word, bool trim) {
    at += 2;
    if (at < x->n && (x->p[at] == '-' || x->p[at] == '+')) at++;
    at = skip_space(x, at);
    if (!has(x, at, word)) return 0;
    at = skip_space(x, at + strlen(word));
    if (trim) return tag_end(x, at, "%}");
    if (at < x->n && x->p[at] == '-' && has(x, at + 1, "%}")) return skip_space(x, at + 3);
    return has(x, at, "%}") ? at + 2 : 0;
}

// Text before a tag, shortened by the tag's sign.
static void data(lexer *x, size_t from, size_t to, char sign, bool variable) {
    if (sign == '-') {
        while (to > from) {
            size_t last = to - 1;
            while (last > from && ((unsigned char)x->p[last] & 0xc0) == 0x80) last--;
            uint32_t cp;
            utf8_decode(x->p + last, to - last, &cp);
            if (!juni_space(cp)) break;
            to = last;
        }
    } else if (sign != '+' && !variable) {
        size_t line = to;
        while (line > from && x->p[line - 1] != '\n') line--;
        if ((line > from || x->line_start) && line < to && skip_space(x, line) >= to) to = line;
    }
    if (to > from) emit(x, T_DATA, from, to)->val = j_str(jstr_view(x->j, x->p + from, to - from, true));
}

static void escape(lexer *x, jbuf *b, size_t *at, size_t end) {
    static const char from[] = "nrtabfv\\'\"", to[] = "\n\r\t\a\b\f\v\\'\"";
    jj *j = x->j;
    char c = x->p[*at], text[4];
    const char *simple = c ? strchr(from, c) : NULL;
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (c == '\n') {
        ++*at;
    } else if (simple) {
        jbuf_add(j, b, &to[simple - from], 1, true);
        ++*at;
    } else if (digits || (c >= '0' && c <= '7')) {
        uint64_t cp = 0;
        size_t i = *at + (digits ? 1 : 0), stop = digits ? i + (size_t)digits : i + 3;
        for (; i < stop; i++) {
            char h = i < end ? x->p[i] : 0;
            int d = h >= '0' && h <= (digits ? '9' : '7') ? h - '0' : digits && h >= 'a' && h <= 'f' ? h - 'a' + 10 : digits && h >= 'A' && h <= 'F' ? h - 'A' + 10 : -1;
            if (d < 0 && digits) fail_at(x, *at, "truncated escape in a string");
            if (d < 0) break;
            cp = cp * (digits ? 16 : 8) + (uint64_t)d;
        }
        if (cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) fail_at(x, *at, "a string's escape is no Unicode character");
        jbuf_add(j, b, text, utf8_encode((uint32_t)cp, text), true);
        *at = i;
    } else if (c == 'N') {
        fail_at(x, *at, "\\N{...} in a string is not supported");
    } else { // an unknown escape stays as it is
        jbuf_add(j, b, "\\", 1, true);
        if ((unsigned char)c >= 128) { // as Python's codec does: its own escape of the character, whose backslash is eaten
            uint32_t cp;
            char hex[12];
            *at += utf8_decode(x->p + *at, end - *at, &cp);
            int n = snprintf(hex, sizeof hex, cp < 0x100 ? "x%02x" : cp < 0x10000 ? "u%04x" : "U%08x", cp);
            jbuf_add(j, b, hex, (size_t)n, true);
        }
    }
}

static void string(lexer *x) {
    size_t from = x->at, at = from + 1;
    char quote = x->p[from];
    while (at < x->n && x->p[at] != quote) at += x->p[at] == '\\' ? 2 : 1;
    if (at >= x->n) fail_at(x, from, "a string that does not end");
    size_t end = at;
    jbuf *b = jbuf_new(x->j);
    for (at = from + 1; at < end;) {
        size_t stop = at;
        while (stop < end && x->p[stop] != '\\') stop++;
        jbuf_add(x->j, b, x->p + at, stop - at, true);
        at = stop;
        if (at < end) {
            at++;
            escape(x, b, &at, end);
        }
    }
    emit(x, T_STR, from, end + 1)->val = j_str(jbuf_done(x->j, b));
    x->at = end + 1;
}

static size_t digits(const lexer *x, size_t at) { // (\d+_)*\d+ ; returns at when there are none
    size_t i = at;
    while (i < x->n && ((x->p[i] >= '0' && x->p[i] <= '9') || (x->p[i] == '_' && i > at && x->p[i - 1] != '_'))) i++;
    while (i > at && x->p[i - 1] == '_') i--;
    return i;
}

static void number(lexer *x) {
    size_t from = x->at, end = digits(x, from), to = end;
    char text[64];
    bool real = false;
    if (!from || x->p[from - 1] != '.') {
        if (end < x->n && x->p[end] == '.' && digits(x, end + 1) > end + 1) {
            to = digits(x, end + 1);
            real = true;
        }
        if (to < x->n && (x->p[to] == 'e' || x->p[to] == 'E')) {
            size_t e = to + 1;
            if (e < x->n && (x->p[e] == '+' || x->p[e] == '-')) e++;
            if (digits(x, e) > e) {
                to = digits(x, e);
                real = true;
            }
        }
    }
    int base = 10;
    if (!real && x->p[from] == '0' && from + 2 < x->n && strchr("xXoObB", x->p[from + 1])) {
        int b = strchr("xX", x->p[from + 1]) ? 16 : strchr("oO", x->p[from + 1]) ? 8 : 2;
        size_t i = from + 2;
        while (i < x->n && (x->p[i] == '_' || (x->p[i] >= '0' && x->p[i] <= '9') || (b == 16 && ((x->p[i] | 32) >= 'a' && (x->p[i] | 32) <= 'f')))) i++;
        if (i > from + 2) {
            base = b;
            to = i;
        }
    } else if (!real && x->p[from] == '0') { // only zeros begin with a zero
        to = from;
        while (to < end && (x->p[to] == '0' || x->p[to] == '_')) to++;
    }
    size_t n = 0;
    for (size_t i = base == 10 ? from : from + 2; i < to; i++) {
        if (x->p[i] == '_') continue;
        if (n + 1 == sizeof text) fail_at(x, from, "a number with too many digits");
        text[n++] = x->p[i];
    }
    text[n] = 0;
    jtok *t = emit(x, real ? T_FLOAT : T_INT, from, to);
    char *rest;
    errno = 0;
    if (real) t->val = j_float(strtod(text, &rest));
    else t->val = j_int(strtoll(text, &rest, base));
    if (*rest) fail_at(x, from, "a malformed number");
    if (!real && errno) fail_at(x, from, "an integer past 64 bits");
    x->at = to;
}

static bool name_char(const lexer *x, size_t at, size_t *next) {
    unsigned char c = (unsigned char)x->p[at];
    *next = at + 1;
    if (c < 128) return c == '_' || juni_alpha(c) || juni_digit(c);
    uint32_t cp;
    *next = at + utf8_decode(x->p + at, x->n - at, &cp);
    return juni_alpha(cp) || juni_digit(cp);
}

static void operator_(lexer *x) {
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    char c = x->p[x->at];
    size_t len = 1;
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (has(x, x->at, two[i])) len = 2;
    if (len == 1 && (!c || !strchr("+-/*%~[](){}><=.:|,;", c))) fail_at(x, x->at, "unexpected character in a tag");
    if (len == 1 && strchr("([{", c)) {
        if (x->open == sizeof x->stack) {
            x->j->pos = (uint32_t)x->at;
            jj_fail(x->j, E_LIMIT, "more than %zu brackets open", sizeof x->stack);
        }
        x->stack[x->open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (len == 1 && strchr(")]}", c)) {
        if (!x->open || x->stack[--x->open] != c) fail_at(x, x->at, "a closing bracket that matches no opening one");
    }
    jtok *t = emit(x, T_OP, x->at, x->at + len);
    t->op = (uint16_t)((unsigned char)c | (len == 2 ? (unsigned char)x->p[x->at + 1] << 8 : 0));
    x->at += len;
}

// The inside of {{ }} or {% %}, to its end.
static void tag(lexer *x, const char *stop, jtok_kind end_kind, size_t begin) {
    x->open = 0;
    for (;;) {
        x->at = skip_space(x, x->at);
        if (x->at >= x->n) fail_at(x, begin, "a tag that does not end");
        size_t end = x->open ? 0 : tag_end(x, x->at, stop), next;
        jj_step(x->j, 1);
        if (end) {
            emit(x, end_kind, x->at, end);
            x->line_start = x->p[end - 1] == '\n';
            x->at = end;
            return;
        }
        char c = x->p[x->at];
        if (c == '"' || c == '\'') {
            string(x);
        } else if (c >= '0' && c <= '9') {
            number(x);
        } else if (name_char(x, x->at, &next)) {
            size_t from = x->at;
            while (x->at < x->n && name_char(x, x->at, &next)) x->at = next;
            emit(x, T_NAME, from, x->at);
        } else {
            operator_(x);
        }
    }
}

static void comment(lexer *x, size_t begin) {
    for (size_t at = x->at; at < x->n; at++) {
        size_t end = x->p[at] == '#' || x->p[at] == '-' || x->p[at] == '+' ? tag_end(x, at, "#}") : 0;
        if (!end) continue;
        x->line_start = x->p[end - 1] == '\n';
        x->at = end;
        return;
    }
    fail_at(x, begin, "a comment that does not end");
}

static void raw(lexer *x, size_t begin) {
    x->line_start = x->p[x->at - 1] == '\n';
    for (size_t at = x->at; at + 1 < x->n; at++) {
        size_t end = x->p[at] == '{' && x->p[at + 1] == '%' ? word_tag(x, at, "endraw", true) : 0;
        if (!end) continue;
        data(x, x->at, at, x->p[at + 2], false);
        x->line_start = x->p[end - 1] == '\n';
        x->at = end;
        return;
    }
    fail_at(x, begin, "a raw block that does not end");
}

void jlex(jj *j, const char *p, size_t n, jtok **out, size_t *count) {
    lexer x = {.j = j, .p = p, .n = n, .line_start = true};
    while (x.at < n) {
        size_t at = x.at;
        while (at + 1 < n && !(p[at] == '{' && (p[at + 1] == '%' || p[at + 1] == '{' || p[at + 1] == '#'))) at++;
        if (at + 1 >= n) {
            data(&x, x.at, n, '+', false);
            break;
        }
        char sign = at + 2 < n && (p[at + 2] == '-' || p[at + 2] == '+') ? p[at + 2] : 0;
        size_t is_raw = p[at + 1] == '%' ? word_tag(&x, at, "raw", false) : 0;
        data(&x, x.at, at, sign, p[at + 1] == '{');
        x.line_start = false;
        if (is_raw) {
            x.at = is_raw;
            raw(&x, at);
            continue;
        }
        x.at = at + (sign ? 3 : 2);
        if (p[at + 1] == '#') {
            comment(&x, at);
        } else if (p[at + 1] == '{') {
            emit(&x, T_VAR_BEGIN, at, x.at);
            tag(&x, "}}", T_VAR_END, at);
        } else {
            emit(&x, T_BLOCK_BEGIN, at, x.at);
            tag(&x, "%}", T_BLOCK_END, at);
        }
    }
    emit(&x, T_EOF, n, n);
    *out = x.tok;
    *count = x.count;
}
