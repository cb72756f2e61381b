// Filters on text and numbers, and the table of all filters.
// Not built: pprint, random, striptags, urlize, wordwrap, xmlattr (they are refused as unknown).
// Threads: jinja_internal.h.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat/jinja_internal.h"

static jval none(jj *j, const jargs *a, const char *what) {
    jbind(j, a, what, "", 0, NULL);
    return j_none();
}

static jval f_lower(jj *j, const jval *v, const jargs *a) { none(j, a, "lower"); return j_str(jstr_case(j, jprint_string(j, v), CASE_LOWER)); }
static jval f_upper(jj *j, const jval *v, const jargs *a) { none(j, a, "upper"); return j_str(jstr_case(j, jprint_string(j, v), CASE_UPPER)); }
static jval f_capitalize(jj *j, const jval *v, const jargs *a) { none(j, a, "capitalize"); return j_str(jstr_case(j, jprint_string(j, v), CASE_CAPITALIZE)); }
static jval f_title(jj *j, const jval *v, const jargs *a) { // words begin behind spaces and opening brackets
    none(j, a, "title");
    const jstr *s = jprint_string(j, v);
    jbuf *b = jbuf_new(j);
    size_t at = 0;
    while (at < s->len) {
        uint32_t cp;
        size_t from = at, next, first = at;
        while (at < s->len && (next = jstr_next(s, at, &cp), juni_space(cp) || (cp < 128 && strchr("-({[<", (int)cp) && cp))) at = next;
        jbuf_part(j, b, s, from, at);
        from = at;
        if (at < s->len) first = jstr_next(s, at, &cp);
        while (at < s->len && (next = jstr_next(s, at, &cp), !(juni_space(cp) || (cp < 128 && strchr("-({[<", (int)cp) && cp)))) at = next;
        if (at == from) continue;
        jbuf_adds(j, b, jstr_case(j, jstr_slice(j, s, from, first), CASE_UPPER));
        jbuf_adds(j, b, jstr_case(j, jstr_slice(j, s, first, at), CASE_LOWER));
    }
    return j_str(jbuf_done(j, b));
}

static jval f_trim(jj *j, const jval *v, const jargs *a) {
    jval set;
    jbind(j, a, "trim", "chars", 0, &set);
    const jstr *chars = set.kind == J_MISSING || set.kind == J_NONE ? NULL : j_need_str(j, &set, "the argument of trim");
    return j_str(jstr_strip(j, jprint_string(j, v), chars, true, true));
}

static jval f_replace(jj *j, const jval *v, const jargs *a) {
    jval p[3];
    jbind(j, a, "replace", "old new count", 2, p);
    int64_t count = p[2].kind == J_MISSING || p[2].kind == J_NONE ? -1 : j_need_int(j, &p[2], "count");
    return j_str(jstr_replace(j, jprint_string(j, v), jprint_string(j, &p[0]), jprint_string(j, &p[1]), count));
}

static jval f_string(jj *j, const jval *v, const jargs *a) { none(j, a, "string"); return j_str(jprint_string(j, v)); }
static jval f_escape(jj *j, const jval *v, const jargs *a) {
    none(j, a, "escape");
    return v->kind == J_STR && v->u.s->markup ? *v : j_str(jstr_escape(j, jprint_string(j, v)));
}
static jval f_forceescape(jj *j, const jval *v, const jargs *a) { none(j, a, "forceescape"); return j_str(jstr_escape(j, jprint_string(j, v))); }
static jval f_safe(jj *j, const jval *v, const jargs *a) {
    none(j, a, "safe");
    jstr *s = jj_alloc(j, sizeof *s);
    *s = *jprint_string(j, v);
    s->markup = true;
    return j_str(s);
}

static jval f_center(jj *j, const jval *v, const jargs *a) {
    jval w;
    jbind(j, a, "center", "width", 0, &w);
    const jstr *s = jprint_string(j, v);
    int64_t width = w.kind == J_MISSING ? 80 : j_need_int(j, &w, "width"), n = width - (int64_t)s->chars;
    if (n <= 0) return j_str(s);
    size_t left = (size_t)(n / 2 + (n & width & 1));
    return j_str(jstr_pad(j, s, left, (size_t)n - left, NULL));
}

static jval f_indent(jj *j, const jval *v, const jargs *a) {
    jval p[3];
    jbind(j, a, "indent", "width first blank", 0, p);
    const jstr *s = j_need_str(j, v, "what indent takes"), *by, *nl = jstr_view(j, "\n", 1, true);
    bool first = p[1].kind != J_MISSING && j_true(&p[1]), blank = p[2].kind != J_MISSING && j_true(&p[2]);
    if (p[0].kind == J_STR) by = p[0].u.s;
    else by = jstr_repeat(j, jstr_view(j, " ", 1, false), p[0].kind == J_MISSING ? 4 : j_need_int(j, &p[0], "width"));
    jval lines = jstr_splitlines(j, jstr_concat(j, s, nl), false);
    jbuf *b = jbuf_new(j);
    if (first) jbuf_adds(j, b, by);
    for (size_t i = 0; i < lines.u.l->n; i++) {
        const jstr *line = lines.u.l->v[i].u.s;
        if (i) jbuf_add(j, b, "\n", 1, false);
        if (i && (line->len || blank)) jbuf_adds(j, b, by);
        jbuf_adds(j, b, line);
    }
    return j_str(jbuf_done(j, b));
}

static jval f_truncate(jj *j, const jval *v, const jargs *a) {
    jval p[4];
    jbind(j, a, "truncate", "length killwords end leeway", 0, p);
    const jstr *s, *end = p[2].kind == J_MISSING ? jstr_view(j, "...", 3, true) : j_need_str(j, &p[2], "end");
    int64_t length = p[0].kind == J_MISSING ? 255 : j_need_int(j, &p[0], "length");
    int64_t leeway = p[3].kind == J_MISSING || p[3].kind == J_NONE ? 5 : j_need_int(j, &p[3], "leeway");
    if (length < (int64_t)end->chars) jj_fail(j, E_INVALID, "truncate: length is less than that of the ending");
    if (leeway < 0) jj_fail(j, E_INVALID, "truncate: leeway is negative");
    int64_t chars = j_length(j, v);
    if (chars <= length || chars - length <= leeway) return *v;
    s = j_need_str(j, v, "what truncate takes");
    const jstr *cut = jstr_slice(j, s, 0, jstr_offset(j, s, (size_t)length - end->chars));
    if (p[1].kind == J_MISSING || !j_true(&p[1])) cut = jstr_split(j, cut, jstr_view(j, " ", 1, true), 1, true).u.l->v[0].u.s;
    return j_str(jstr_concat(j, cut, end));
}

static jval f_wordcount(jj *j, const jval *v, const jargs *a) {
    none(j, a, "wordcount");
    const jstr *s = jprint_string(j, v);
    int64_t n = 0;
    bool inside = false;
    jj_step(j, s->len / 16);
    for (size_t at = 0; at < s->len;) {
        uint32_t cp;
        at = jstr_next(s, at, &cp);
        bool word = juni_alpha(cp) || juni_digit(cp) || cp == '_';
        n += word && !inside;
        inside = word;
    }
    return j_int(n);
}

static jval f_format(jj *j, const jval *v, const jargs *a) {
    if (a->n && a->nkw) jj_fail(j, E_INVALID, "format can't handle positional and keyword arguments at the same time");
    jval args = a->nkw ? j_dict(j) : j_list(j, J_TUPLE, a->n);
    for (size_t i = 0; i < a->nkw; i++) j_dict_set(j, args.u.d, j_str(a->kw[i].name), a->kw[i].v);
    for (size_t i = 0; i < a->n; i++) j_push(j, args, a->v[i]);
    return j_str(jformat_percent(j, jprint_string(j, v), &args));
}

static void quote(jj *j, jbuf *b, const jstr *s, bool slash) {
    for (size_t i = 0; i < s->len; i++) {
        unsigned char c = (unsigned char)s->p[i];
        char hex[4];
        bool keep = (c < 128 && (juni_alpha(c) || juni_digit(c))) || strchr("_.-~", c ? c : ' ') || (slash && c == '/');
        if (keep) {
            jbuf_part(j, b, s, i, i + 1);
            continue;
        }
        snprintf(hex, sizeof hex, "%%%02X", c);
        if (!slash && c == ' ') strcpy(hex, "+");
        jbuf_add(j, b, hex, strlen(hex), jstr_trusted_at(s, i));
    }
}

static jval f_urlencode(jj *j, const jval *v, const jargs *a) {
    none(j, a, "urlencode");
    jbuf *b = jbuf_new(j);
    if (v->kind == J_STR || !j_iterable(v) || v->kind == J_UNDEF) {
        quote(j, b, jprint_string(j, v), true);
        return j_str(jbuf_done(j, b));
    }
    jlist l = j_iter(j, v);
    for (size_t i = 0; i < l.n; i++) {
        jval k = l.v[i], x;
        if (v->kind == J_DICT) {
            x = v->u.d->v[i];
        } else {
            jlist pair = j_iter(j, &l.v[i]);
            if (pair.n != 2) jj_fail(j, E_INVALID, "urlencode takes pairs");
            k = pair.v[0];
            x = pair.v[1];
        }
        if (i) jbuf_addz(j, b, "&");
        quote(j, b, jprint_string(j, &k), false);
        jbuf_addz(j, b, "=");
        quote(j, b, jprint_string(j, &x), false);
    }
    return j_str(jbuf_done(j, b));
}

static jval f_tojson(jj *j, const jval *v, const jargs *a) {
    jval p[4];
    jbind(j, a, "tojson", "ensure_ascii indent separators sort_keys", 0, p);
    jjson o = {.ascii = p[0].kind != J_MISSING && j_true(&p[0]), .sort = p[3].kind != J_MISSING && j_true(&p[3])};
    if (p[1].kind == J_STR) o.indent = p[1].u.s;
    else if (p[1].kind != J_MISSING && p[1].kind != J_NONE) o.indent = jstr_repeat(j, jstr_view(j, " ", 1, false), j_need_int(j, &p[1], "indent"));
    o.item_sep = o.indent ? jstr_view(j, ",", 1, false) : jstr_view(j, ", ", 2, false);
    o.key_sep = jstr_view(j, ": ", 2, false);
    if (p[2].kind != J_MISSING && p[2].kind != J_NONE) {
        jlist l = j_iter(j, &p[2]);
        if (l.n != 2) jj_fail(j, E_INVALID, "separators must be a pair");
        o.item_sep = j_need_str(j, &l.v[0], "a separator");
        o.key_sep = j_need_str(j, &l.v[1], "a separator");
    }
    jbuf *b = jbuf_new(j);
    jprint_json(j, b, v, &o, 0);
    return j_str(jbuf_done(j, b));
}

// --- Numbers ---
// A number's text as Python reads it: spaces around, single underscores between digits. False: none.
static bool clean_number(jj *j, const jstr *s, char out[400]) {
    s = jstr_strip(j, s, NULL, true, true);
    size_t n = 0;
    if (!s->len || s->len > 399) return false;
    for (size_t i = 0; i < s->len; i++) {
        char c = s->p[i];
        if (c == '_') {
            if (!i || i + 1 == s->len || !juni_digit((unsigned char)s->p[i - 1]) || !juni_digit((unsigned char)s->p[i + 1])) return false;
            continue;
        }
        if ((unsigned char)c <= ' ' || c == 'x' || c == 'X' || c == 'p' || c == 'P' || c == '(') return false; // C reads more than Python does
        out[n++] = c;
    }
    out[n] = 0;
    return true;
}

static bool to_float(jj *j, const jval *v, double *f) {
    char text[400], *end;
    if (j_number(v, f)) return true;
    if (v->kind != J_STR || !clean_number(j, v->u.s, text)) return false;
    *f = strtod(text, &end);
    return !*end;
}

static jval int_of(jj *j, double f) {
    if (isnan(f)) return j_missing();
    if (isinf(f)) jj_fail(j, E_INVALID, "cannot convert float infinity to integer");
    if (fabs(f) >= 9.2e18) jj_fail(j, E_LIMIT, "an integer past 64 bits");
    return j_int((int64_t)f);
}

static jval f_int(jj *j, const jval *v, const jargs *a) {
    jval p[2], r = j_missing();
    char text[400], *end;
    double f;
    int64_t i, base = 10;
    jbind(j, a, "int", "default base", 0, p);
    if (p[1].kind != J_MISSING) base = j_need_int(j, &p[1], "base");
    if (v->kind == J_UNDEF) jj_fail(j, E_INVALID, "'%.100s' is undefined", v->u.name ? v->u.name : "a value");
    if (j_integer(v, &i)) {
        r = j_int(i);
    } else if (v->kind == J_FLOAT) {
        r = int_of(j, v->u.f);
    } else if (v->kind == J_STR) {
        const jstr *s = jstr_strip(j, v->u.s, NULL, true, true);
        int mark = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : 0; // of the base, behind a 0
        if (base != 10 && s->len > 2 && s->len < 70 && s->p[0] == '0' && (s->p[1] | 32) == mark) s = jstr_slice(j, s, 2, s->len);
        if (base < 2 || base > 36) jj_fail(j, E_UNSUPPORTED, "int: a base other than 2 to 36");
        if (clean_number(j, s, text)) {
            errno = 0;
            i = strtoll(text, &end, (int)base);
            if (!*end && errno) jj_fail(j, E_LIMIT, "an integer past 64 bits");
            if (!*end) r = j_int(i);
        }
        if (r.kind == J_MISSING && to_float(j, v, &f)) r = int_of(j, f);
    }
    if (r.kind == J_MISSING) return p[0].kind == J_MISSING ? j_int(0) : p[0];
    r.trusted = v->trusted;
    return r;
}

static jval f_float(jj *j, const jval *v, const jargs *a) {
    jval d;
    double f;
    jbind(j, a, "float", "default", 0, &d);
    if (v->kind == J_UNDEF) jj_fail(j, E_INVALID, "'%.100s' is undefined", v->u.name ? v->u.name : "a value");
    if (!to_float(j, v, &f)) return d.kind == J_MISSING ? j_float(0) : d;
    jval r = j_float(f);
    r.trusted = v->trusted;
    return r;
}

static jval f_abs(jj *j, const jval *v, const jargs *a) {
    none(j, a, "abs");
    int64_t i;
    jval r = *v;
    if (v->kind == J_FLOAT) r.u.f = fabs(v->u.f);
    else if (!j_integer(v, &i)) jj_fail(j, E_INVALID, "bad operand type for abs(): '%s'", jj_type(v));
    else if (i == INT64_MIN) jj_fail(j, E_LIMIT, "an integer past 64 bits");
    else r = j_int(i < 0 ? -i : i);
    r.trusted = v->trusted;
    return r;
}

static jval f_round(jj *j, const jval *v, const jargs *a) {
    jval p[2], r;
    char text[400];
    double f;
    int64_t i;
    jbind(j, a, "round", "precision method", 0, p);
    int64_t digits = p[0].kind == J_MISSING ? 0 : j_need_int(j, &p[0], "precision");
    const jstr *how = p[1].kind == J_MISSING ? jstr_view(j, "common", 6, true) : j_need_str(j, &p[1], "method");
    bool common = jstr_is(how, "common");
    if (!common && !jstr_is(how, "ceil") && !jstr_is(how, "floor")) jj_fail(j, E_INVALID, "method must be common, ceil or floor");
    if (!j_number(v, &f)) jj_fail(j, E_INVALID, "round takes a number, not %s", jj_type(v));
    if (digits > 300 || digits < -300) jj_fail(j, E_LIMIT, "round: a precision past 300");
    double scale = pow(10, (double)digits);
    if (common && j_integer(v, &i)) {
        if (digits < 0) { // to the even multiple when it lies in the middle
            double q = (double)i / pow(10, (double)-digits);
            i = (int64_t)(nearbyint(q) * pow(10, (double)-digits));
        }
        r = j_int(i);
    } else if (common && digits >= 0 && fabs(f) < 1e60) {
        snprintf(text, sizeof text, "%.*f", (int)digits, f);
        r = j_float(strtod(text, NULL));
    } else if (common) {
        r = j_float(digits >= 0 ? f : nearbyint(f * scale) / scale);
    } else {
        if (!isfinite(f)) jj_fail(j, E_INVALID, "cannot convert float infinity to integer");
        r = j_float((jstr_is(how, "ceil") ? ceil(f * scale) : floor(f * scale)) / scale);
        if (r.u.f == 0) r.u.f = 0; // an integer on its way: no negative zero
    }
    r.trusted = v->trusted;
    return r;
}

static jval f_filesizeformat(jj *j, const jval *v, const jargs *a) {
    static const char *const units[2][8] = {{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}, {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}};
    jval p;
    double f;
    char text[64];
    jbind(j, a, "filesizeformat", "binary", 0, &p);
    bool binary = p.kind != J_MISSING && j_true(&p);
    if (!to_float(j, v, &f)) jj_fail(j, E_INVALID, "filesizeformat takes a number");
    double base = binary ? 1024 : 1000, unit = base * base;
    if (f == 1) strcpy(text, "1 Byte");
    else if (f < base) snprintf(text, sizeof text, "%.0f Bytes", trunc(f) + 0.0); // + 0: no negative zero
    else {
        int i = 0;
        for (; i < 7 && f >= unit; i++) unit *= base;
        snprintf(text, sizeof text, "%.1f %s", base * f / unit, units[binary][i]);
    }
    return j_str(jstr_new(j, text, strlen(text), v->trusted));
}

const jfilter jfilters_text[] = {
    {"abs", f_abs}, {"capitalize", f_capitalize}, {"center", f_center}, {"e", f_escape}, {"escape", f_escape}, {"filesizeformat", f_filesizeformat},
    {"float", f_float}, {"forceescape", f_forceescape}, {"format", f_format}, {"indent", f_indent}, {"int", f_int}, {"lower", f_lower},
    {"replace", f_replace}, {"round", f_round}, {"safe", f_safe}, {"string", f_string}, {"title", f_title}, {"tojson", f_tojson}, {"trim", f_trim},
    {"truncate", f_truncate}, {"upper", f_upper}, {"urlencode", f_urlencode}, {"wordcount", f_wordcount}, {NULL, NULL},
};

int jfilter_find(const char *name, size_t n) {
    for (int i = 0; jfilters_text[i].name; i++)
        if (strlen(jfilters_text[i].name) == n && !memcmp(jfilters_text[i].name, name, n)) return i;
    for (int i = 0; jfilters_seq[i].name; i++)
        if (strlen(jfilters_seq[i].name) == n && !memcmp(jfilters_seq[i].name, name, n)) return 1000 + i;
    return -1;
}

jval jfilter_call(jj *j, int id, const jval *v, const jargs *a) {
    return (id >= 1000 ? jfilters_seq[id - 1000] : jfilters_text[id]).fn(j, v, a);
}
