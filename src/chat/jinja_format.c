// Formatting: `%` of strings, str.format() and format specifications, as Python has them. Literal text and inserted strings keep their
// origin; made-up padding is untrusted.
// Threads: jinja_internal.h.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat/jinja_internal.h"

enum { MAX_WIDTH = 1 << 20, MAX_PRECISION = 300 };

static const jstr *plain(jj *j, const char *text, size_t n, bool trusted) { return jstr_new(j, text, n, trusted); }

// Text of a number in a field: sign first, then zeros or spaces.
static void put_field(jj *j, jbuf *b, const jstr *s, int64_t width, char align, const jstr *fill, size_t sign) {
    size_t gap = width > (int64_t)s->chars ? (size_t)width - s->chars : 0;
    if (align == '=') {
        jbuf_part(j, b, s, 0, sign);
        jbuf_adds(j, b, jstr_pad(j, jstr_slice(j, s, sign, s->len), gap, 0, fill));
        return;
    }
    size_t left = align == '<' ? 0 : align == '^' ? gap / 2 : gap;
    jbuf_adds(j, b, jstr_pad(j, s, left, gap - left, fill));
}

static size_t group(char *text, size_t n, size_t cap, char sep, int every) { // separators into the whole part of a number
    size_t from = text[0] == '-' || text[0] == '+' || text[0] == ' ', end = from;
    while (end < n && ((text[end] >= '0' && text[end] <= '9') || (every == 4 && text[end] >= 'a' && text[end] <= 'f'))) end++;
    for (size_t at = end; at > from + (size_t)every;) {
        at -= (size_t)every;
        if (n + 1 >= cap) break;
        memmove(text + at + 1, text + at, n - at + 1);
        text[at] = sep;
        n++;
    }
    return n;
}

static size_t write_int(int64_t i, char type, char sign, bool alt, char *out, size_t cap) {
    char digits[72];
    size_t n = 0, at = 0;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    unsigned base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
    do digits[n++] = (type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[u % base];
    while (u /= base);
    if (i < 0) out[at++] = '-';
    else if (sign == '+' || sign == ' ') out[at++] = sign;
    if (alt && base != 10) {
        out[at++] = '0';
        out[at++] = type;
    }
    while (n && at + 1 < cap) out[at++] = digits[--n];
    out[at] = 0;
    return at;
}

static size_t write_float(double f, char type, char sign, bool alt, int precision, char *out, size_t cap) {
    char fmt[16], spec[2] = {type, 0};
    if (isnan(f) || isinf(f)) {
        snprintf(out, cap, "%s%s", signbit(f) && !isnan(f) ? "-" : sign == '+' || sign == ' ' ? (sign == '+' ? "+" : " ") : "",
                 isnan(f) ? (type < 'a' ? "NAN" : "nan") : type < 'a' ? "INF" : "inf");
        return strlen(out);
    }
    snprintf(fmt, sizeof fmt, "%%%s%s.*%s", sign == '+' ? "+" : sign == ' ' ? " " : "", alt ? "#" : "", spec);
    int n = snprintf(out, cap, fmt, precision < 0 ? 6 : precision, f);
    return n < 0 ? 0 : (size_t)n < cap ? (size_t)n : cap - 1;
}

// --- % ---
typedef struct percent {
    const jval *args;
    size_t      next, n;
    bool        tuple, used;
} percent;

static const jval *next_arg(jj *j, percent *p) {
    if (!p->tuple) {
        if (p->used) jj_fail(j, E_INVALID, "not enough arguments for format string");
        p->used = true;
        return p->args;
    }
    if (p->next >= p->n) jj_fail(j, E_INVALID, "not enough arguments for format string");
    return &p->args->u.l->v[p->next++];
}

static int64_t read_number(jj *j, const jstr *s, size_t *at, percent *p) {
    int64_t n = 0;
    if (p && *at < s->len && s->p[*at] == '*') {
        ++*at;
        const jval *v = next_arg(j, p);
        n = j_need_int(j, v, "*");
    } else {
        for (; *at < s->len && s->p[*at] >= '0' && s->p[*at] <= '9' && n <= MAX_WIDTH; ++*at) n = n * 10 + (s->p[*at] - '0');
    }
    if (n > MAX_WIDTH || n < -MAX_WIDTH) jj_fail(j, E_LIMIT, "a field of more than %d characters", MAX_WIDTH);
    return n;
}

static void percent_item(jj *j, jbuf *b, const jval *v, char c, const char *flags, int64_t width, int64_t precision) {
    char text[512];
    size_t n = 0, sign;
    const jstr *s;
    bool number = !strchr("sracr", c);
    char sg = strchr(flags, '+') ? '+' : strchr(flags, ' ') ? ' ' : 0;
    static const jstr zero = {.p = "0", .len = 1, .chars = 1};
    if (c == 's' || c == 'r' || c == 'a') {
        jbuf *t = jbuf_new(j);
        c == 's' ? jprint_str(j, t, v) : jprint_repr(j, t, v);
        s = jbuf_done(j, t);
        if (precision >= 0) s = jstr_slice(j, s, 0, jstr_offset(j, s, (size_t)precision));
    } else if (c == 'c') {
        int64_t i;
        if (v->kind == J_STR && v->u.s->chars == 1) s = v->u.s;
        else if (j_integer(v, &i) && i >= 0 && i < 0x110000 && (i < 0xd800 || i > 0xdfff)) s = plain(j, text, utf8_encode((uint32_t)i, text), v->trusted);
        else jj_fail(j, E_INVALID, "%%c requires int or char");
    } else if (strchr("diuxXo", c)) {
        int64_t i;
        if (v->kind == J_FLOAT && !strchr("xXo", c) && fabs(v->u.f) < 9.2e18) i = (int64_t)v->u.f;
        else if (!j_integer(v, &i)) jj_fail(j, E_INVALID, "%%%c format: a real number is required, not %s", c, jj_type(v));
        n = write_int(i, strchr("diu", c) ? 'd' : c, sg, strchr(flags, '#') != NULL, text, sizeof text);
        s = plain(j, text, n, v->trusted);
        sign = n && (text[0] < '0');
        if (precision > (int64_t)(n - sign))
            s = jstr_concat(j, jstr_slice(j, s, 0, sign), jstr_pad(j, jstr_slice(j, s, sign, s->len), (size_t)precision - (n - sign), 0, &zero));
    } else {
        double f;
        if (!j_number(v, &f)) jj_fail(j, E_INVALID, "must be real number, not %s", jj_type(v));
        if (precision > MAX_PRECISION) jj_fail(j, E_LIMIT, "a precision of more than %d", MAX_PRECISION);
        n = write_float(f, c, sg, strchr(flags, '#') != NULL, (int)precision, text, sizeof text);
        s = plain(j, text, n, v->trusted);
    }
    bool zeros = number && strchr(flags, '0') && !strchr(flags, '-');
    put_field(j, b, s, width, strchr(flags, '-') ? '<' : zeros ? '=' : '>', zeros ? &zero : NULL, s->len && s->p[0] < '0' && number);
}

const jstr *jformat_percent(jj *j, const jstr *f, const jval *args) {
    percent p = {.args = args, .tuple = args->kind == J_TUPLE, .n = args->kind == J_TUPLE ? args->u.l->n : 1};
    jbuf *b = jbuf_new(j);
    for (size_t at = 0; at < f->len;) {
        const char *hit = memchr(f->p + at, '%', f->len - at);
        size_t pc = hit ? (size_t)(hit - f->p) : f->len;
        jbuf_part(j, b, f, at, pc);
        if (!hit) break;
        at = pc + 1;
        const jval *v = NULL;
        if (at < f->len && f->p[at] == '(') {
            size_t from = ++at;
            for (int open = 1; at < f->len; at++)
                if ((open += (f->p[at] == '(') - (f->p[at] == ')')) == 0) break;
            if (at >= f->len) jj_fail(j, E_INVALID, "incomplete format key");
            if (args->kind != J_DICT) jj_fail(j, E_INVALID, "format requires a mapping");
            v = j_dict_gets(j, args->u.d, f->p + from, at - from);
            if (!v) jj_fail(j, E_INVALID, "the format names a key that is not there");
            p.used = true;
            at++;
        }
        char flags[8] = "";
        size_t nf = 0;
        while (at < f->len && strchr("#0- +", f->p[at]) && f->p[at]) {
            if (nf < 7) flags[nf++] = f->p[at];
            at++;
        }
        int64_t width = read_number(j, f, &at, &p), precision = -1;
        if (width < 0) {
            width = -width;
            if (nf < 7) flags[nf++] = '-';
        }
        if (at < f->len && f->p[at] == '.') {
            at++;
            precision = read_number(j, f, &at, &p);
        }
        while (at < f->len && strchr("hlL", f->p[at]) && f->p[at]) at++;
        if (at >= f->len) jj_fail(j, E_INVALID, "incomplete format");
        char c = f->p[at++];
        if (c == '%') {
            jbuf_part(j, b, f, at - 1, at);
        } else if (c && strchr("sradiuxXoeEfFgGc", c)) {
            percent_item(j, b, v ? v : next_arg(j, &p), c, flags, width, precision);
        } else {
            jj_fail(j, E_INVALID, "unsupported format character 0x%x", (unsigned char)c);
        }
    }
    bool leftover = p.tuple ? p.next < p.n : !p.used && args->kind != J_DICT && args->kind != J_LIST && args->kind != J_UNDEF && args->kind != J_RANGE;
    if (leftover) jj_fail(j, E_INVALID, "not all arguments converted during string formatting");
    return jbuf_done(j, b);
}

// --- format specifications ---
typedef struct spec {
    const jstr *fill;
    char        align, sign, type, sep;
    bool        alt, zero;
    int64_t     width, precision;
} spec;

static spec parse_spec(jj *j, const jstr *s) {
    spec p = {.precision = -1};
    size_t at = 0;
    uint32_t cp;
    size_t first = s->len ? jstr_next(s, 0, &cp) : 0;
    if (first && first < s->len && strchr("<>=^", s->p[first])) {
        p.fill = jstr_slice(j, s, 0, first);
        p.align = s->p[first];
        at = first + 1;
    } else if (s->len && strchr("<>=^", s->p[0])) {
        p.align = s->p[0];
        at = 1;
    }
    if (at < s->len && strchr("+- ", s->p[at])) p.sign = s->p[at++];
    if (at < s->len && s->p[at] == '#') p.alt = true, at++;
    if (at < s->len && s->p[at] == '0') p.zero = true, at++;
    p.width = read_number(j, s, &at, NULL);
    if (at < s->len && (s->p[at] == ',' || s->p[at] == '_')) p.sep = s->p[at++];
    if (at < s->len && s->p[at] == '.') {
        at++;
        if (at >= s->len || s->p[at] < '0' || s->p[at] > '9') jj_fail(j, E_INVALID, "Format specifier missing precision");
        p.precision = read_number(j, s, &at, NULL);
    }
    if (at < s->len) p.type = s->p[at++];
    if (at < s->len) jj_fail(j, E_INVALID, "Invalid format specifier");
    return p;
}

static size_t spec_float(jj *j, const spec *p, double f, char *text, size_t cap) {
    if (p->precision > MAX_PRECISION) jj_fail(j, E_LIMIT, "a precision of more than %d", MAX_PRECISION);
    size_t n;
    if (p->type == '%') {
        n = write_float(f * 100, 'f', p->sign, p->alt, (int)p->precision, text, cap - 1);
        text[n++] = '%';
        text[n] = 0;
    } else if (!p->type && p->precision < 0) {
        text[0] = p->sign;
        size_t sign = (p->sign == '+' || p->sign == ' ') && !signbit(f);
        jprint_float(f, text + sign);
        n = strlen(text);
    } else {
        n = write_float(f, p->type ? (p->type == 'n' ? 'g' : p->type) : 'g', p->sign, p->alt, (int)p->precision, text, cap);
        if (!p->type && !strpbrk(text, ".einE") && n + 2 < cap) {
            strcpy(text + n, ".0");
            n += 2;
        }
    }
    return p->sep ? group(text, n, cap, p->sep, 3) : n;
}

const jstr *jformat_spec(jj *j, const jval *v, const jstr *s) {
    static const jstr zero = {.p = "0", .len = 1, .chars = 1};
    char text[800];
    if (!s->len) return jprint_string(j, v);
    spec p = parse_spec(j, s);
    jbuf *b = jbuf_new(j);
    int64_t i;
    double f;
    const jstr *t;
    size_t n = 0;
    if (v->kind == J_STR) {
        if ((p.type && p.type != 's') || p.sign || p.sep || p.align == '=' || p.alt) jj_fail(j, E_INVALID, "Invalid format specifier for a string");
        t = v->u.s;
        if (p.precision >= 0) t = jstr_slice(j, t, 0, jstr_offset(j, t, (size_t)p.precision));
        put_field(j, b, t, p.width, p.align ? p.align : '<', p.fill ? p.fill : p.zero ? &zero : NULL, 0);
        return jbuf_done(j, b);
    }
    if (j_integer(v, &i) && (!p.type || strchr("dnxXobc", p.type)) && (v->kind == J_INT || p.type || p.width || p.sep)) {
        if (p.precision >= 0) jj_fail(j, E_INVALID, "Precision not allowed in integer format specifier");
        if (p.type == 'c') {
            if (i < 0 || i > 0x10ffff || (i >= 0xd800 && i < 0xe000)) jj_fail(j, E_INVALID, "%%c arg not in range(0x110000)");
            n = utf8_encode((uint32_t)i, text);
        } else {
            n = write_int(i, p.type && p.type != 'n' ? p.type : 'd', p.sign, p.alt, text, sizeof text);
            if (p.sep) n = group(text, n, sizeof text, p.sep, p.type && strchr("xXob", p.type) ? 4 : 3);
        }
    } else if (j_number(v, &f) && (!p.type || strchr("eEfFgGn%", p.type))) {
        n = spec_float(j, &p, f, text, sizeof text);
    } else {
        jj_fail(j, E_INVALID, "unsupported format string passed to %s.__format__", jj_type(v));
    }
    size_t sign = n && (text[0] == '-' || text[0] == '+' || text[0] == ' ');
    if (p.alt && p.type && strchr("xXob", p.type)) sign += 2;
    char align = p.align ? p.align : p.zero ? '=' : '>';
    if (p.sep && align == '=' && p.zero && (int64_t)n < p.width) jj_fail(j, E_UNSUPPORTED, "zero padding together with separators");
    put_field(j, b, plain(j, text, n, v->trusted), p.width, align, p.fill ? p.fill : p.zero ? &zero : NULL, sign);
    return jbuf_done(j, b);
}

// --- str.format() ---
static jval field_value(jj *j, const jstr *f, size_t from, size_t to, const jargs *a, int64_t *automatic) {
    size_t at = from;
    while (at < to && f->p[at] != '.' && f->p[at] != '[') at++;
    jval v = j_missing();
    bool digits = at > from;
    int64_t index = 0;
    jj_step(j, 1 + a->nkw / 8 + (to - from) / 64);
    for (size_t i = from; i < at; i++) {
        if (f->p[i] < '0' || f->p[i] > '9') digits = false;
        else if (index < 100000) index = index * 10 + (f->p[i] - '0');
    }
    if (at == from || digits) {
        if (at == from ? *automatic < 0 : *automatic > 0) jj_fail(j, E_INVALID, "cannot mix automatic and manual field numbering");
        if (at == from) index = (*automatic)++;
        else *automatic = -1;
        if (index >= (int64_t)a->n) jj_fail(j, E_INVALID, "Replacement index %" PRId64 " out of range for positional args tuple", index);
        v = a->v[index];
    } else {
        for (size_t i = 0; i < a->nkw; i++)
            if (a->kw[i].name->len == at - from && !memcmp(a->kw[i].name->p, f->p + from, at - from)) v = a->kw[i].v;
        if (v.kind == J_MISSING) jj_fail(j, E_INVALID, "the format names an argument that was not given");
    }
    while (at < to) {
        size_t begin = ++at;
        jj_step(j, 1);
        bool item = f->p[begin - 1] == '[';
        while (at < to && (item ? f->p[at] != ']' : f->p[at] != '.' && f->p[at] != '[')) at++;
        if (at == begin || (item && at >= to)) jj_fail(j, E_INVALID, "a malformed field in the format string");
        const jstr *name = jstr_slice(j, f, begin, at);
        jval key = j_str(name);
        if (item && name->len < 10 && strspn(name->p, "0123456789") >= name->len) key = j_int(strtol(jstr_new(j, name->p, name->len, true)->p, NULL, 10));
        v = item ? jget_item(j, &v, &key) : jget_attr(j, &v, name);
        if (item && at < to) at++;
    }
    return v;
}

static const jstr *braces(jj *j, const jstr *f, const jargs *a, int64_t *automatic, int level) {
    if (level > 2) jj_fail(j, E_INVALID, "Max string recursion exceeded");
    jbuf *b = jbuf_new(j);
    for (size_t at = 0; at < f->len;) {
        size_t from = at;
        while (at < f->len && f->p[at] != '{' && f->p[at] != '}') at++;
        jbuf_part(j, b, f, from, at);
        if (at >= f->len) break;
        if (at + 1 < f->len && f->p[at + 1] == f->p[at]) {
            jbuf_part(j, b, f, at, at + 1);
            at += 2;
            continue;
        }
        if (f->p[at] == '}') jj_fail(j, E_INVALID, "Single '}' encountered in format string");
        size_t name = ++at, end, open = 1, spec_at = SIZE_MAX, conv = SIZE_MAX;
        for (; at < f->len; at++) {
            char c = f->p[at];
            if (c == '[' && spec_at == SIZE_MAX) {
                while (at < f->len && f->p[at] != ']') at++;
                if (at == f->len) break;
                continue;
            }
            if (c == '{') open++;
            if (c == '}' && !--open) break;
            if (open == 1 && spec_at == SIZE_MAX && c == ':') spec_at = at;
            if (open == 1 && spec_at == SIZE_MAX && conv == SIZE_MAX && c == '!') conv = at;
        }
        if (at >= f->len) jj_fail(j, E_INVALID, "expected '}' before end of string");
        end = at++;
        jval v = field_value(j, f, name, conv != SIZE_MAX ? conv : spec_at != SIZE_MAX ? spec_at : end, a, automatic);
        if (conv != SIZE_MAX) {
            char c = conv + 1 < end ? f->p[conv + 1] : 0;
            if (c != 'r' && c != 's' && c != 'a') jj_fail(j, E_INVALID, "Unknown conversion specifier");
            jbuf *t = jbuf_new(j);
            c == 's' ? jprint_str(j, t, &v) : jprint_repr(j, t, &v);
            v = j_str(jbuf_done(j, t));
        }
        const jstr *sp = spec_at == SIZE_MAX ? jstr_view(j, "", 0, true) : braces(j, jstr_slice(j, f, spec_at + 1, end), a, automatic, level + 1);
        jbuf_adds(j, b, jformat_spec(j, &v, sp));
    }
    return jbuf_done(j, b);
}

const jstr *jformat_braces(jj *j, const jstr *f, const jargs *a) {
    int64_t automatic = 0;
    return braces(j, f, a, &automatic, 1);
}
