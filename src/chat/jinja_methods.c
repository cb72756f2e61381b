// Methods of strings, dicts, lists and tuples. Every name that Python has is known, since `x.name` finds a method before a key; those
// that change their object are refused, as Jinja2's sandbox does.
// Threads: jinja_internal.h.
#include <string.h>

#include "chat/jinja_internal.h"

#define STR(v) ((v)->u.s)

static const jstr *opt_str(jj *j, const jval *v, const char *what) { // None or absent: NULL
    if (v->kind == J_MISSING || v->kind == J_NONE) return NULL;
    return j_need_str(j, v, what);
}
static int64_t opt_int(jj *j, const jval *v, int64_t absent, const char *what) {
    return v->kind == J_MISSING ? absent : j_need_int(j, v, what);
}
static void no_keywords(jj *j, const jargs *a, const char *what) {
    if (a->nkw) jj_fail(j, E_INVALID, "%s takes no keyword arguments", what);
}

static jval m_strip(jj *j, const jval *s, const jargs *a) {
    jval set;
    no_keywords(j, a, "strip()");
    jbind(j, a, "strip()", "chars", 0, &set);
    return j_str(jstr_strip(j, STR(s), opt_str(j, &set, "the argument of strip()"), true, true));
}
static jval m_lstrip(jj *j, const jval *s, const jargs *a) {
    jval set;
    no_keywords(j, a, "lstrip()");
    jbind(j, a, "lstrip()", "chars", 0, &set);
    return j_str(jstr_strip(j, STR(s), opt_str(j, &set, "the argument of lstrip()"), true, false));
}
static jval m_rstrip(jj *j, const jval *s, const jargs *a) {
    jval set;
    no_keywords(j, a, "rstrip()");
    jbind(j, a, "rstrip()", "chars", 0, &set);
    return j_str(jstr_strip(j, STR(s), opt_str(j, &set, "the argument of rstrip()"), false, true));
}

static jval split(jj *j, const jval *s, const jargs *a, bool right) {
    jval v[2];
    jbind(j, a, "split()", "sep maxsplit", 0, v);
    return jstr_split(j, STR(s), opt_str(j, &v[0], "the separator of split()"), opt_int(j, &v[1], -1, "maxsplit"), right);
}
static jval m_split(jj *j, const jval *s, const jargs *a) { return split(j, s, a, false); }
static jval m_rsplit(jj *j, const jval *s, const jargs *a) { return split(j, s, a, true); }
static jval m_splitlines(jj *j, const jval *s, const jargs *a) {
    jval keep;
    jbind(j, a, "splitlines()", "keepends", 0, &keep);
    return jstr_splitlines(j, STR(s), keep.kind != J_MISSING && j_true(&keep));
}

// The bytes [from, to) of `s` that optional character positions v[0], v[1] name, as a slice does. False: past the end.
static bool window(jj *j, const jstr *s, const jval *v, size_t *from, size_t *to) {
    int64_t n = (int64_t)s->chars, lo = v[0].kind == J_MISSING || v[0].kind == J_NONE ? 0 : j_need_int(j, &v[0], "start");
    int64_t hi = v[1].kind == J_MISSING || v[1].kind == J_NONE ? n : j_need_int(j, &v[1], "end");
    if (lo < 0) lo = lo + n < 0 ? 0 : lo + n;
    if (hi < 0) hi = hi + n < 0 ? 0 : hi + n;
    if (hi > n) hi = n;
    if (lo > hi) return false;
    *from = jstr_offset(j, s, (size_t)lo);
    *to = jstr_offset(j, s, (size_t)hi);
    return true;
}

static bool affix(jj *j, const jstr *s, const jval *what, bool end, size_t from, size_t to) {
    const jstr *w = j_need_str(j, what, end ? "the argument of endswith()" : "the argument of startswith()");
    jj_step(j, 1 + w->len / 64);
    return w->len <= to - from && !memcmp(s->p + (end ? to - w->len : from), w->p, w->len);
}
static jval affixes(jj *j, const jval *s, const jargs *a, bool end) {
    jval v[3];
    size_t from, to;
    const char *what = end ? "endswith()" : "startswith()";
    no_keywords(j, a, what);
    jbind(j, a, what, "prefix start end", 1, v);
    if (!window(j, STR(s), v + 1, &from, &to)) return j_bool(false);
    if (v[0].kind != J_TUPLE) return j_bool(affix(j, STR(s), &v[0], end, from, to));
    bool any = false; // of several
    for (size_t i = 0; i < v[0].u.l->n && !any; i++) any = affix(j, STR(s), &v[0].u.l->v[i], end, from, to);
    return j_bool(any);
}
static jval m_startswith(jj *j, const jval *s, const jargs *a) { return affixes(j, s, a, false); }
static jval m_endswith(jj *j, const jval *s, const jargs *a) { return affixes(j, s, a, true); }

static jval find(jj *j, const jval *self, const jargs *a, bool right, bool must) {
    jval v[3];
    size_t from, to, hit = SIZE_MAX;
    const jstr *s = STR(self);
    jbind(j, a, "find()", "sub start end", 1, v);
    const jstr *w = j_need_str(j, &v[0], "the argument of find()");
    if (window(j, s, v + 1, &from, &to)) {
        jstr part = *s;
        part.len = to;
        for (size_t at = from, h; (h = jstr_find(j, &part, w, at)) != SIZE_MAX; at = h + 1) {
            hit = h;
            if (!right) break;
            if (!w->len) {
                hit = to;
                break;
            }
        }
    }
    if (hit == SIZE_MAX && must) jj_fail(j, E_INVALID, "substring not found");
    if (hit == SIZE_MAX) return j_int(-1);
    jval r = j_int((int64_t)jstr_slice(j, s, 0, hit)->chars);
    r.trusted = s->trusted;
    return r;
}
static jval m_find(jj *j, const jval *s, const jargs *a) { return find(j, s, a, false, false); }
static jval m_rfind(jj *j, const jval *s, const jargs *a) { return find(j, s, a, true, false); }
static jval m_index(jj *j, const jval *s, const jargs *a) { return find(j, s, a, false, true); }
static jval m_rindex(jj *j, const jval *s, const jargs *a) { return find(j, s, a, true, true); }

static jval m_count(jj *j, const jval *s, const jargs *a) {
    jval v[3];
    size_t from, to;
    int64_t n = 0;
    jbind(j, a, "count()", "sub start end", 1, v);
    const jstr *w = j_need_str(j, &v[0], "the argument of count()");
    if (!window(j, STR(s), v + 1, &from, &to)) return j_int(0);
    jstr part = *STR(s);
    part.len = to;
    if (!w->len) return j_int((int64_t)jstr_slice(j, STR(s), from, to)->chars + 1);
    for (size_t h; (h = jstr_find(j, &part, w, from)) != SIZE_MAX; from = h + w->len) n++;
    return j_int(n);
}

static jval m_replace(jj *j, const jval *s, const jargs *a) {
    jval v[3];
    no_keywords(j, a, "replace()");
    jbind(j, a, "replace()", "old new count", 2, v);
    return j_str(jstr_replace(j, STR(s), j_need_str(j, &v[0], "the first argument of replace()"), j_need_str(j, &v[1], "the second argument of replace()"),
                              opt_int(j, &v[2], -1, "count")));
}

static jval in_case(jj *j, const jval *s, const jargs *a, jcase how) {
    jbind(j, a, "this method", "", 0, NULL);
    return j_str(jstr_case(j, STR(s), how));
}
static jval m_lower(jj *j, const jval *s, const jargs *a) { return in_case(j, s, a, CASE_LOWER); }
static jval m_upper(jj *j, const jval *s, const jargs *a) { return in_case(j, s, a, CASE_UPPER); }
static jval m_title(jj *j, const jval *s, const jargs *a) { return in_case(j, s, a, CASE_TITLE); }
static jval m_capitalize(jj *j, const jval *s, const jargs *a) { return in_case(j, s, a, CASE_CAPITALIZE); }
static jval m_swapcase(jj *j, const jval *s, const jargs *a) { return in_case(j, s, a, CASE_SWAP); }
static jval m_casefold(jj *j, const jval *s, const jargs *a) { return in_case(j, s, a, CASE_FOLD); }

static jval m_join(jj *j, const jval *s, const jargs *a) {
    jval items;
    jbind(j, a, "join()", "iterable", 1, &items);
    jlist l = j_iter(j, &items);
    jbuf *b = jbuf_new(j);
    for (size_t i = 0; i < l.n; i++) {
        if (i) jbuf_adds(j, b, STR(s));
        if (l.v[i].kind != J_STR) jj_fail(j, E_INVALID, "sequence item %zu: expected str instance, %s found", i, jj_type(&l.v[i]));
        jbuf_adds(j, b, l.v[i].u.s);
    }
    return j_str(jbuf_done(j, b));
}

static jval m_format(jj *j, const jval *s, const jargs *a) { return j_str(jformat_braces(j, STR(s), a)); }

static jval pad(jj *j, const jval *s, const jargs *a, int left, int right) {
    jval v[2];
    jbind(j, a, "this method", "width fillchar", 1, v);
    int64_t width = j_need_int(j, &v[0], "the width"), n = width - (int64_t)STR(s)->chars;
    const jstr *fill = opt_str(j, &v[1], "the fill character");
    if (fill && fill->chars != 1) jj_fail(j, E_INVALID, "The fill character must be exactly one character long");
    if (n <= 0) return *s;
    int64_t before = left && right ? n / 2 + (n & width & 1) : left ? n : 0;
    return j_str(jstr_pad(j, STR(s), (size_t)before, (size_t)(n - before), fill));
}
static jval m_center(jj *j, const jval *s, const jargs *a) { return pad(j, s, a, 1, 1); }
static jval m_rjust(jj *j, const jval *s, const jargs *a) { return pad(j, s, a, 1, 0); }
static jval m_ljust(jj *j, const jval *s, const jargs *a) { return pad(j, s, a, 0, 1); }
static jval m_zfill(jj *j, const jval *s, const jargs *a) {
    static const jstr zero = {.p = "0", .len = 1, .chars = 1};
    jval w;
    jbind(j, a, "zfill()", "width", 1, &w);
    int64_t n = j_need_int(j, &w, "the width") - (int64_t)STR(s)->chars;
    if (n <= 0) return *s;
    size_t sign = STR(s)->len && (STR(s)->p[0] == '-' || STR(s)->p[0] == '+');
    return j_str(jstr_concat(j, jstr_slice(j, STR(s), 0, sign), jstr_pad(j, jstr_slice(j, STR(s), sign, STR(s)->len), (size_t)n, 0, &zero)));
}

static jval remove_affix(jj *j, const jval *s, const jargs *a, bool end) {
    jval v;
    jbind(j, a, "this method", "affix", 1, &v);
    const jstr *w = j_need_str(j, &v, "the argument");
    if (!affix(j, STR(s), &v, end, 0, STR(s)->len)) return *s;
    return j_str(end ? jstr_slice(j, STR(s), 0, STR(s)->len - w->len) : jstr_slice(j, STR(s), w->len, STR(s)->len));
}
static jval m_removeprefix(jj *j, const jval *s, const jargs *a) { return remove_affix(j, s, a, false); }
static jval m_removesuffix(jj *j, const jval *s, const jargs *a) { return remove_affix(j, s, a, true); }

static jval partition(jj *j, const jval *s, const jargs *a, bool right) {
    jval v, out = j_list(j, J_TUPLE, 3), empty = j_str(jstr_view(j, "", 0, true));
    jbind(j, a, "partition()", "sep", 1, &v);
    jval parts = jstr_split(j, STR(s), j_need_str(j, &v, "the separator"), 1, right);
    if (parts.u.l->n == 2) {
        j_push(j, out, parts.u.l->v[0]);
        size_t at = parts.u.l->v[0].u.s->len;
        j_push(j, out, j_str(jstr_slice(j, STR(s), at, at + v.u.s->len)));
        j_push(j, out, parts.u.l->v[1]);
        return out;
    }
    j_push(j, out, right ? empty : *s);
    j_push(j, out, empty);
    j_push(j, out, right ? *s : empty);
    return out;
}
static jval m_partition(jj *j, const jval *s, const jargs *a) { return partition(j, s, a, false); }
static jval m_rpartition(jj *j, const jval *s, const jargs *a) { return partition(j, s, a, true); }

static jval m_expandtabs(jj *j, const jval *s, const jargs *a) {
    jval v;
    jbind(j, a, "expandtabs()", "tabsize", 0, &v);
    int64_t size = opt_int(j, &v, 8, "tabsize"), col = 0;
    if (size > 1 << 20) jj_fail(j, E_LIMIT, "a tab of more than %d characters", 1 << 20);
    jbuf *b = jbuf_new(j);
    for (size_t at = 0, next; at < STR(s)->len; at = next) {
        uint32_t cp;
        next = jstr_next(STR(s), at, &cp);
        if (cp != '\t') {
            jbuf_part(j, b, STR(s), at, next);
            col = cp == '\n' || cp == '\r' ? 0 : col + 1;
            continue;
        }
        for (int64_t n = size > 0 ? size - col % size : 0; n > 0; n--, col++) jbuf_add(j, b, " ", 1, jstr_trusted_at(STR(s), at));
    }
    return j_str(jbuf_done(j, b));
}

// --- is...() ---
static jval all_of(jj *j, const jval *s, const jargs *a, bool (*is)(uint32_t)) {
    jbind(j, a, "this method", "", 0, NULL);
    uint32_t cp;
    jj_step(j, STR(s)->len / 16);
    for (size_t at = 0; at < STR(s)->len;) {
        at = jstr_next(STR(s), at, &cp);
        if (!is(cp)) return j_bool(false);
    }
    return j_bool(STR(s)->len > 0);
}
static bool alnum(uint32_t c) { return juni_alpha(c) || juni_digit(c); }
static bool ascii(uint32_t c) { return c < 128; }
static jval m_isdigit(jj *j, const jval *s, const jargs *a) { return all_of(j, s, a, juni_digit); }
static jval m_isalpha(jj *j, const jval *s, const jargs *a) { return all_of(j, s, a, juni_alpha); }
static jval m_isalnum(jj *j, const jval *s, const jargs *a) { return all_of(j, s, a, alnum); }
static jval m_isspace(jj *j, const jval *s, const jargs *a) { return all_of(j, s, a, juni_space); }
static jval m_isascii(jj *j, const jval *s, const jargs *a) { return STR(s)->len ? all_of(j, s, a, ascii) : j_bool(true); }
static jval m_isprintable(jj *j, const jval *s, const jargs *a) { return STR(s)->len ? all_of(j, s, a, juni_print) : j_bool(true); }
static jval cased(jj *j, const jval *s, const jargs *a, bool upper, bool title) {
    jbind(j, a, "this method", "", 0, NULL);
    bool any = false, inside = false;
    uint32_t cp;
    jj_step(j, STR(s)->len / 16);
    for (size_t at = 0; at < STR(s)->len;) {
        at = jstr_next(STR(s), at, &cp);
        bool up = juni_upper(cp), low = juni_lower(cp);
        if (title ? (up && inside) || (low && !inside) : upper ? low : up) return j_bool(false);
        any = any || up || low;
        inside = up || low;
    }
    return j_bool(any);
}
static jval m_isupper(jj *j, const jval *s, const jargs *a) { return cased(j, s, a, true, false); }
static jval m_islower(jj *j, const jval *s, const jargs *a) { return cased(j, s, a, false, false); }
static jval m_istitle(jj *j, const jval *s, const jargs *a) { return cased(j, s, a, false, true); }
static jval m_isidentifier(jj *j, const jval *s, const jargs *a) {
    jval r = j_bool(STR(s)->len && !juni_digit((unsigned char)STR(s)->p[0]));
    const jstr *plain = jstr_replace(j, STR(s), jstr_view(j, "_", 1, true), jstr_view(j, "a", 1, true), -1);
    jval v = j_str(plain), all = all_of(j, &v, a, alnum);
    r.u.b = r.u.b && all.u.b;
    return r;
}

// --- dict, list, tuple ---
static jval view(jj *j, const jval *s, const jargs *a, int what) {
    const jdict *d = s->u.d;
    jbind(j, a, "this method", "", 0, NULL);
    jval out = j_list(j, J_VIEW, d->n);
    out.aux = (uint16_t)what;
    for (size_t i = 0; i < d->n; i++) {
        if (what < 2) {
            j_push(j, out, what ? d->v[i] : d->k[i]);
            continue;
        }
        jval pair = j_list(j, J_TUPLE, 2);
        j_push(j, pair, d->k[i]);
        j_push(j, pair, d->v[i]);
        j_push(j, out, pair);
    }
    return out;
}
static jval m_keys(jj *j, const jval *s, const jargs *a) { return view(j, s, a, 0); }
static jval m_values(jj *j, const jval *s, const jargs *a) { return view(j, s, a, 1); }
static jval m_items(jj *j, const jval *s, const jargs *a) { return view(j, s, a, 2); }
static jval m_get(jj *j, const jval *s, const jargs *a) {
    jval v[2];
    no_keywords(j, a, "get()");
    jbind(j, a, "get()", "key default", 1, v);
    const jval *got = j_dict_get(j, s->u.d, &v[0]);
    return got ? *got : v[1].kind == J_MISSING ? j_none() : v[1];
}
static jval m_copy(jj *j, const jval *s, const jargs *a) {
    (void)j;
    jbind(j, a, "copy()", "", 0, NULL);
    return *s; // nothing changes a dict or list
}
static jval m_list_count(jj *j, const jval *s, const jargs *a) {
    jval v;
    int64_t n = 0;
    jbind(j, a, "count()", "value", 1, &v);
    for (size_t i = 0; i < s->u.l->n; i++) n += j_equal(j, &s->u.l->v[i], &v);
    return j_int(n);
}
static jval m_list_index(jj *j, const jval *s, const jargs *a) {
    jval v[3];
    int64_t n = (int64_t)s->u.l->n;
    jbind(j, a, "index()", "value start stop", 1, v);
    int64_t from = opt_int(j, &v[1], 0, "start"), to = opt_int(j, &v[2], n, "stop");
    if (from < 0) from = from + n < 0 ? 0 : from + n;
    if (to < 0) to += n;
    for (int64_t i = from; i < to && i < n; i++)
        if (j_equal(j, &s->u.l->v[i], &v[0])) return j_int(i);
    jj_fail(j, E_INVALID, "the value is not in the list");
}
static jval m_is_integer(jj *j, const jval *s, const jargs *a) {
    jbind(j, a, "is_integer()", "", 0, NULL);
    return j_bool(s->u.f == (double)(int64_t)s->u.f);
}

enum { ON_STR = 1 << J_STR, ON_DICT = 1 << J_DICT, ON_LIST = 1 << J_LIST, ON_TUPLE = 1 << J_TUPLE, ON_INT = 1 << J_INT | 1 << J_BOOL, ON_FLOAT = 1 << J_FLOAT };
#define REFUSED (1u << 31)
static const jmethod methods[] = {
    {"capitalize", ON_STR, m_capitalize}, {"casefold", ON_STR, m_casefold}, {"center", ON_STR, m_center}, {"count", ON_STR, m_count},
    {"endswith", ON_STR, m_endswith}, {"expandtabs", ON_STR, m_expandtabs}, {"find", ON_STR, m_find}, {"format", ON_STR, m_format},
    {"index", ON_STR, m_index}, {"isalnum", ON_STR, m_isalnum}, {"isalpha", ON_STR, m_isalpha}, {"isascii", ON_STR, m_isascii},
    {"isdecimal", ON_STR, m_isdigit}, {"isdigit", ON_STR, m_isdigit}, {"isidentifier", ON_STR, m_isidentifier}, {"islower", ON_STR, m_islower},
    {"isnumeric", ON_STR, m_isdigit}, {"isprintable", ON_STR, m_isprintable}, {"isspace", ON_STR, m_isspace}, {"istitle", ON_STR, m_istitle},
    {"isupper", ON_STR, m_isupper}, {"join", ON_STR, m_join}, {"ljust", ON_STR, m_ljust}, {"lower", ON_STR, m_lower}, {"lstrip", ON_STR, m_lstrip},
    {"partition", ON_STR, m_partition}, {"removeprefix", ON_STR, m_removeprefix}, {"removesuffix", ON_STR, m_removesuffix},
    {"replace", ON_STR, m_replace}, {"rfind", ON_STR, m_rfind}, {"rindex", ON_STR, m_rindex}, {"rjust", ON_STR, m_rjust},
    {"rpartition", ON_STR, m_rpartition}, {"rsplit", ON_STR, m_rsplit}, {"rstrip", ON_STR, m_rstrip}, {"split", ON_STR, m_split},
    {"splitlines", ON_STR, m_splitlines}, {"startswith", ON_STR, m_startswith}, {"strip", ON_STR, m_strip}, {"swapcase", ON_STR, m_swapcase},
    {"title", ON_STR, m_title}, {"upper", ON_STR, m_upper}, {"zfill", ON_STR, m_zfill},
    {"encode", ON_STR, NULL}, {"format_map", ON_STR, NULL}, {"maketrans", ON_STR, NULL}, {"translate", ON_STR, NULL},
    {"get", ON_DICT, m_get}, {"items", ON_DICT, m_items}, {"keys", ON_DICT, m_keys}, {"values", ON_DICT, m_values}, {"copy", ON_DICT | ON_LIST, m_copy},
    {"fromkeys", ON_DICT, NULL},
    {"count", ON_LIST | ON_TUPLE, m_list_count}, {"index", ON_LIST | ON_TUPLE, m_list_index},
    {"is_integer", ON_FLOAT, m_is_integer},
};
// Methods that change their object: the sandbox makes them undefined values, which are an error once they are called.
static const jmethod refused[] = {
    {"clear", (ON_DICT | ON_LIST) | REFUSED, NULL}, {"pop", (ON_DICT | ON_LIST) | REFUSED, NULL},
    {"popitem", (ON_DICT) | REFUSED, NULL}, {"setdefault", (ON_DICT) | REFUSED, NULL}, {"update", (ON_DICT) | REFUSED, NULL},
    {"append", (ON_LIST) | REFUSED, NULL}, {"extend", (ON_LIST) | REFUSED, NULL}, {"insert", (ON_LIST) | REFUSED, NULL},
    {"remove", (ON_LIST) | REFUSED, NULL}, {"reverse", (ON_LIST) | REFUSED, NULL}, {"sort", (ON_LIST) | REFUSED, NULL},
};

const jmethod *jmethod_find(const jval *self, const jstr *name) {
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (methods[i].kinds >> self->kind & 1 && jstr_is(name, methods[i].name)) return &methods[i];
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (refused[i].kinds >> self->kind & 1 && jstr_is(name, refused[i].name)) return &refused[i];
    return NULL;
}
