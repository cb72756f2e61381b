// Values: errors and limits of a render, lists and dicts, truth, equality, order, membership, iteration.
// Invariants and threads: jinja_internal.h.
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "chat/jinja_internal.h"

void jj_where(const char *source, size_t len, uint32_t pos, unsigned *line, unsigned *col) {
    *line = *col = 1;
    if (pos > len) pos = (uint32_t)len;
    for (uint32_t i = 0; i < pos; i++) {
        if (source[i] == '\n') {
            ++*line;
            *col = 1;
        } else if (((unsigned char)source[i] & 0xc0) != 0x80) {
            ++*col;
        }
    }
}

void jj_fail(jj *j, status code, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t n = strlen(text);
    n = utf8_complete_prefix(text, n); // a long text may have been cut inside a character
    unsigned line, col;
    jj_where(j->source, j->source_len, j->pos, &line, &col);
    error_set(j->err, code, "%.*s (line %u, column %u of the chat template)", (int)n, text, line, col);
    longjmp(j->env, 1); // j->err says what; it is never NULL inside this room
}

void *jj_alloc(jj *j, size_t bytes) {
    size_t total;
    if (add_overflows(j->mem->used, bytes, &total) || add_overflows(total, j->buf_bytes + 64, &total) || total > j->limits.memory)
        jj_fail(j, E_LIMIT, "the template needs more than %zu bytes of memory", j->limits.memory);
    void *p = arena_alloc(j->mem, bytes);
    if (!p) jj_fail(j, E_NOMEM, "no memory for the chat template");
    return p;
}

void *jj_array(jj *j, size_t n, size_t size) {
    size_t bytes;
    if (mul_overflows(n, size, &bytes)) jj_fail(j, E_LIMIT, "the template needs too much memory");
    return jj_alloc(j, bytes);
}

void jj_step(jj *j, uint64_t n) {
    j->steps += n;
    if (j->steps > j->limits.steps) jj_fail(j, E_LIMIT, "the template takes more than %" PRIu64 " steps", j->limits.steps);
}

void jj_enter(jj *j) {
    // Ten levels of the tree and of our own recursion for each level that a template nests: a bound on the C stack.
    if (++j->depth > j->limits.depth * 10) jj_fail(j, E_LIMIT, "nested deeper than the limit of %d", j->limits.depth);
    jj_step(j, 1);
}

void jj_end(jj *j) {
    for (jbuf *lists[2] = {j->bufs, j->free_bufs}, **l = lists; l < lists + 2; l++)
        for (jbuf *b = *l, *next; b; b = next) {
            next = b->next;
            mem_free(b->p);
            mem_free(b->o);
            mem_free(b);
        }
    j->bufs = j->free_bufs = NULL;
}

const char *jj_type(const jval *v) {
    static const char *const views[] = {"dict_keys", "dict_values", "dict_items"};
    switch ((jkind)v->kind) {
    case J_MISSING: case J_UNDEF: return "Undefined";
    case J_NONE: return "NoneType";
    case J_BOOL: return "bool";
    case J_INT: return "int";
    case J_FLOAT: return "float";
    case J_STR: return "str";
    case J_LIST: return "list";
    case J_TUPLE: return "tuple";
    case J_GEN: return "generator";
    case J_VIEW: return views[v->aux];
    case J_DICT: return "dict";
    case J_RANGE: return "range";
    case J_NS: return "Namespace";
    case J_FUNC: return "function";
    case J_METHOD: return "builtin_function_or_method";
    case J_MACRO: return "Macro";
    case J_LOOP: return "LoopContext";
    case J_CYCLER: return "Cycler";
    case J_JOINER: return "Joiner";
    case J_TYPE: return "type";
    }
    return "object";
}

static void grow(jj *j, jval **v, size_t n, size_t *cap) {
    size_t want = *cap ? *cap * 2 : 4;
    jval *bigger = jj_array(j, want, sizeof(jval));
    if (n) memcpy(bigger, *v, n * sizeof(jval));
    *v = bigger;
    *cap = want;
}

jval j_list(jj *j, jkind kind, size_t cap) {
    jlist *l = jj_alloc(j, sizeof *l);
    *l = (jlist){.cap = cap};
    if (cap) l->v = jj_array(j, cap, sizeof(jval));
    return (jval){.kind = (uint8_t)kind, .trusted = true, .u.l = l};
}

void j_push(jj *j, jval list, jval item) {
    jlist *l = list.u.l;
    jj_step(j, 1);
    if (l->n == l->cap) grow(j, &l->v, l->n, &l->cap);
    l->v[l->n++] = item;
}

jval j_dict(jj *j) {
    jdict *d = jj_alloc(j, sizeof *d);
    *d = (jdict){0};
    return (jval){.kind = J_DICT, .trusted = true, .u.d = d};
}

static uint64_t mix(uint64_t h) {
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t hash_bytes(const char *p, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    return mix(h);
}

static uint64_t hash(jj *j, const jval *v) {
    double f;
    uint64_t h = v->kind;
    jj_step(j, 1);
    switch ((jkind)v->kind) {
    case J_STR: jj_step(j, v->u.s->len / 64); return hash_bytes(v->u.s->p, v->u.s->len);
    case J_BOOL: case J_INT: case J_FLOAT:
        j_number(v, &f);
        if (f == 0) f = 0; // -0.0 and 0.0 are one key
        memcpy(&h, &f, sizeof h);
        return mix(h);
    case J_TUPLE:
        jj_enter(j);
        for (size_t i = 0; i < v->u.l->n; i++) h = mix(h ^ hash(j, &v->u.l->v[i]));
        jj_leave(j);
        return h;
    case J_UNDEF: case J_NONE: return mix(h);
    case J_LIST: case J_DICT: jj_fail(j, E_INVALID, "unhashable type: '%s'", jj_type(v));
    default: return mix((uint64_t)(uintptr_t)v->u.l);
    }
}

static size_t dict_find(jj *j, const jdict *d, const jval *k) {
    if (!d->index) {
        if (k->kind == J_LIST || k->kind == J_DICT) hash(j, k); // fails
        for (size_t i = 0; i < d->n; i++)
            if (j_equal(j, &d->k[i], k)) return i;
        return SIZE_MAX;
    }
    for (size_t at = hash(j, k) & (d->index_cap - 1); d->index[at]; at = (at + 1) & (d->index_cap - 1)) {
        jj_step(j, 1);
        if (j_equal(j, &d->k[d->index[at] - 1], k)) return d->index[at] - 1;
    }
    return SIZE_MAX;
}

static void index_add(jj *j, jdict *d, size_t entry) {
    size_t at = hash(j, &d->k[entry]) & (d->index_cap - 1);
    while (d->index[at]) {
        jj_step(j, 1);
        at = (at + 1) & (d->index_cap - 1);
    }
    d->index[at] = (uint32_t)entry + 1;
}

void j_dict_set(jj *j, jdict *d, jval k, jval v) {
    size_t i = dict_find(j, d, &k);
    jj_step(j, 1);
    if (i != SIZE_MAX) {
        d->v[i] = v;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap;
        grow(j, &d->k, d->n, &cap);
        grow(j, &d->v, d->n, &d->cap);
    }
    d->k[d->n] = k;
    d->v[d->n++] = v;
    if (d->n > 8 && d->n * 2 > d->index_cap) {
        size_t cap = d->index_cap ? d->index_cap * 4 : 64;
        d->index = jj_array(j, cap, sizeof *d->index);
        memset(d->index, 0, cap * sizeof *d->index);
        d->index_cap = cap;
        for (size_t e = 0; e < d->n; e++) index_add(j, d, e);
    } else if (d->index) {
        index_add(j, d, d->n - 1);
    }
}

const jval *j_dict_get(jj *j, const jdict *d, const jval *k) {
    size_t i = dict_find(j, d, k);
    return i == SIZE_MAX ? NULL : &d->v[i];
}

const jval *j_dict_gets(jj *j, const jdict *d, const char *key, size_t len) {
    jj_step(j, 1 + len / 64);
    if (d->index) {
        for (size_t at = hash_bytes(key, len) & (d->index_cap - 1); d->index[at]; at = (at + 1) & (d->index_cap - 1)) {
            jj_step(j, 1);
            const jval *k = &d->k[d->index[at] - 1];
            if (k->kind == J_STR && k->u.s->len == len && !memcmp(k->u.s->p, key, len)) return &d->v[d->index[at] - 1];
        }
        return NULL;
    }
    for (size_t i = 0; i < d->n; i++)
        if (d->k[i].kind == J_STR && d->k[i].u.s->len == len && !memcmp(d->k[i].u.s->p, key, len)) return &d->v[i];
    return NULL;
}

jval j_from_json(jj *j, const json_t *v, bool trusted) {
    jval out = j_none();
    jj_enter(j);
    switch (json_typeof(v)) {
    case JSON_OBJECT: {
        out = j_dict(j);
        const char *key;
        json_t *item;
        // jansson's iteration takes a plain pointer, and only reads
        json_object_foreach((json_t *)(uintptr_t)v, key, item)
            j_dict_set(j, out.u.d, j_str(jstr_view(j, key, strlen(key), trusted)), j_from_json(j, item, trusted));
        break;
    }
    case JSON_ARRAY:
        out = j_list(j, J_LIST, json_array_size(v));
        for (size_t i = 0; i < json_array_size(v); i++) j_push(j, out, j_from_json(j, json_array_get(v, i), trusted));
        break;
    case JSON_STRING: out = j_str(jstr_view(j, json_string_value(v), json_string_length(v), trusted)); break;
    case JSON_INTEGER: out = j_int(json_integer_value(v)); break;
    case JSON_REAL: out = j_float(json_real_value(v)); break;
    case JSON_TRUE: out = j_bool(true); break;
    case JSON_FALSE: out = j_bool(false); break;
    case JSON_NULL: break;
    }
    out.trusted = trusted;
    jj_leave(j);
    return out;
}

bool j_true(const jval *v) {
    switch ((jkind)v->kind) {
    case J_MISSING: case J_UNDEF: case J_NONE: return false;
    case J_BOOL: return v->u.b;
    case J_INT: return v->u.i != 0;
    case J_FLOAT: return v->u.f != 0;
    case J_STR: return v->u.s->len != 0;
    case J_LIST: case J_TUPLE: case J_VIEW: return v->u.l->n != 0;
    case J_DICT: return v->u.d->n != 0;
    case J_RANGE: return v->u.r->n != 0;
    default: return true;
    }
}

bool j_number(const jval *v, double *f) {
    if (v->kind == J_FLOAT) *f = v->u.f;
    else if (v->kind == J_INT) *f = (double)v->u.i;
    else if (v->kind == J_BOOL) *f = v->u.b;
    else return false;
    return true;
}

bool j_integer(const jval *v, int64_t *i) {
    if (v->kind == J_INT) *i = v->u.i;
    else if (v->kind == J_BOOL) *i = v->u.b;
    else return false;
    return true;
}

int64_t j_need_int(jj *j, const jval *v, const char *what) {
    int64_t i;
    if (v->kind == J_UNDEF) jj_fail(j, E_INVALID, "%s is undefined", what);
    if (!j_integer(v, &i)) jj_fail(j, E_INVALID, "%s must be an integer, not %s", what, jj_type(v));
    return i;
}

static bool list_equal(jj *j, const jlist *a, const jlist *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++)
        if (!j_equal(j, &a->v[i], &b->v[i])) return false;
    return true;
}

static bool dict_equal(jj *j, const jdict *a, const jdict *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        const jval *other = j_dict_get(j, b, &a->k[i]);
        if (!other || !j_equal(j, &a->v[i], other)) return false;
    }
    return true;
}

bool j_equal(jj *j, const jval *a, const jval *b) {
    double x, y;
    int64_t m, n;
    jj_step(j, 1);
    if (j_integer(a, &m) && j_integer(b, &n)) return m == n;
    if (j_number(a, &x) && j_number(b, &y)) return x == y;
    if (a->kind != b->kind) return false;
    bool same;
    jj_enter(j);
    switch ((jkind)a->kind) {
    case J_UNDEF: case J_NONE: same = true; break;
    case J_STR:
        if (a->u.s->len == b->u.s->len) jj_step(j, a->u.s->len / 64);
        same = jstr_eq(a->u.s, b->u.s);
        break;
    case J_LIST: case J_TUPLE: same = list_equal(j, a->u.l, b->u.l); break;
    case J_DICT: same = dict_equal(j, a->u.d, b->u.d); break;
    case J_RANGE:
        same = a->u.r->n == b->u.r->n && (!a->u.r->n || (a->u.r->start == b->u.r->start && (a->u.r->n == 1 || a->u.r->step == b->u.r->step)));
        break;
    case J_FUNC: same = a->aux == b->aux; break;
    default: same = a->u.l == b->u.l; break;
    }
    jj_leave(j);
    return same;
}

int j_compare(jj *j, const jval *a, const jval *b, const char *op) {
    double x, y;
    int64_t m, n;
    jj_step(j, 1);
    if (j_integer(a, &m) && j_integer(b, &n)) return m < n ? -1 : m > n;
    if (j_number(a, &x) && j_number(b, &y)) return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2; // 2: not a number
    if (a->kind == J_UNDEF || b->kind == J_UNDEF)
        jj_fail(j, E_INVALID, "'%s' is undefined", (a->kind == J_UNDEF ? a : b)->u.name ? (a->kind == J_UNDEF ? a : b)->u.name : "a value");
    if (a->kind == J_STR && b->kind == J_STR) {
        jj_step(j, (a->u.s->len < b->u.s->len ? a->u.s->len : b->u.s->len) / 64);
        return jstr_cmp(a->u.s, b->u.s);
    }
    if ((a->kind == J_LIST || a->kind == J_TUPLE) && a->kind == b->kind) {
        int order = 0;
        jj_enter(j);
        for (size_t i = 0; !order && i < a->u.l->n && i < b->u.l->n; i++)
            if (!j_equal(j, &a->u.l->v[i], &b->u.l->v[i])) order = j_compare(j, &a->u.l->v[i], &b->u.l->v[i], op);
        jj_leave(j);
        return order ? order : a->u.l->n < b->u.l->n ? -1 : a->u.l->n > b->u.l->n;
    }
    jj_fail(j, E_INVALID, "'%s' not supported between instances of '%s' and '%s'", op, jj_type(a), jj_type(b));
}

bool j_contains(jj *j, const jval *item, const jval *in) {
    if (in->kind == J_STR) {
        if (item->kind != J_STR) jj_fail(j, E_INVALID, "'in <string>' requires string as left operand, not %s", jj_type(item));
        return jstr_find(j, in->u.s, item->u.s, 0) != SIZE_MAX;
    }
    if (in->kind == J_DICT) return j_dict_get(j, in->u.d, item) != NULL;
    if (in->kind == J_RANGE) {
        int64_t i;
        double f;
        if (!j_number(item, &f) || f != floor(f) || fabs(f) > 9e18) return false;
        i = item->kind == J_FLOAT ? (int64_t)f : item->kind == J_BOOL ? item->u.b : item->u.i;
        const jrange *r = in->u.r;
        __int128 off = (__int128)i - r->start;
        return r->n && off % r->step == 0 && off / r->step >= 0 && off / r->step < r->n;
    }
    if (!j_iterable(in)) jj_fail(j, E_INVALID, "argument of type '%s' is not iterable", jj_type(in));
    jlist l = j_iter(j, in);
    for (size_t i = 0; i < l.n; i++)
        if (j_equal(j, &l.v[i], item)) return true;
    return false;
}

bool j_iterable(const jval *v) {
    switch ((jkind)v->kind) {
    case J_UNDEF: case J_STR: case J_LIST: case J_TUPLE: case J_GEN: case J_VIEW: case J_DICT: case J_RANGE: case J_LOOP: return true;
    default: return false;
    }
}

jlist j_iter(jj *j, const jval *v) {
    jlist out = {0};
    switch ((jkind)v->kind) {
    case J_UNDEF: return out;
    case J_LIST: case J_TUPLE: case J_VIEW: return *v->u.l;
    case J_GEN:
        out = *v->u.l;
        *v->u.l = (jlist){0};
        return out;
    case J_DICT: return (jlist){.v = v->u.d->k, .n = v->u.d->n, .cap = v->u.d->n};
    case J_LOOP: { // what is left of it
        jloop *l = v->u.loop;
        size_t from = l->i + 1 < l->n ? l->i + 1 : l->n;
        return (jlist){.v = l->n ? l->v + from : NULL, .n = l->n - from};
    }
    case J_STR: {
        const jstr *s = v->u.s;
        jval chars = j_list(j, J_LIST, s->chars);
        jj_step(j, s->chars);
        for (size_t at = 0, next; at < s->len; at = next) {
            uint32_t cp;
            next = jstr_next(s, at, &cp);
            j_push(j, chars, j_str(jstr_slice(j, s, at, next)));
        }
        return *chars.u.l;
    }
    case J_RANGE: {
        jval items = j_list(j, J_LIST, (size_t)v->u.r->n);
        jj_step(j, (uint64_t)v->u.r->n);
        for (int64_t i = 0; i < v->u.r->n; i++) {
            jval n = j_int(v->u.r->start + i * v->u.r->step);
            n.trusted = v->trusted;
            j_push(j, items, n);
        }
        return *items.u.l;
    }
    default: jj_fail(j, E_INVALID, "'%s' object is not iterable", jj_type(v));
    }
}

bool j_has_length(const jval *v) {
    switch ((jkind)v->kind) {
    case J_UNDEF: case J_STR: case J_LIST: case J_TUPLE: case J_VIEW: case J_DICT: case J_RANGE: case J_LOOP: return true;
    default: return false;
    }
}

int64_t j_length(jj *j, const jval *v) {
    switch ((jkind)v->kind) {
    case J_UNDEF: return 0;
    case J_STR: return (int64_t)v->u.s->chars;
    case J_LIST: case J_TUPLE: case J_VIEW: return (int64_t)v->u.l->n;
    case J_DICT: return (int64_t)v->u.d->n;
    case J_RANGE: return v->u.r->n;
    case J_LOOP: return (int64_t)v->u.loop->n;
    default: jj_fail(j, E_INVALID, "object of type '%s' has no len()", jj_type(v));
    }
}
