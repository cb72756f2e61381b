// Filters on sequences, mappings and whole values.
// Threads: jinja_internal.h.
#include <string.h>

#include "chat/jinja_internal.h"

static bool given(const jval *v) { return v->kind != J_MISSING && v->kind != J_NONE; }

// The value of a dotted attribute path, as Jinja2's make_attrgetter has it: parts of digits are indexes.
static jval attribute(jj *j, const jval *item, const jval *path, const jval *absent) {
    jval v = *item;
    if (!given(path)) return v;
    if (path->kind != J_STR) {
        v = jget_item(j, &v, path);
        return v.kind == J_UNDEF && given(absent) ? *absent : v;
    }
    const jstr *s = path->u.s;
    for (size_t at = 0; at <= s->len;) {
        size_t end = at;
        while (end < s->len && s->p[end] != '.') end++;
        jj_step(j, 1 + (end - at) / 64);
        const jstr *part = jstr_slice(j, s, at, end);
        jval key = j_str(part);
        bool digits = part->len > 0 && part->len < 18;
        int64_t i = 0;
        for (size_t k = 0; k < part->len && digits; k++) {
            digits = part->p[k] >= '0' && part->p[k] <= '9';
            i = i * 10 + (part->p[k] - '0');
        }
        if (digits) key = j_int(i);
        v = jget_item(j, &v, &key);
        if (v.kind == J_UNDEF && given(absent)) v = *absent;
        at = end + 1;
    }
    return v;
}

static jval fold(jj *j, jval v, bool sensitive) { return !sensitive && v.kind == J_STR ? j_str(jstr_case(j, v.u.s, CASE_LOWER)) : v; }
static bool flag(const jval *v) { return v->kind != J_MISSING && j_true(v); }

// The order of n keys, stable; equal ones keep their order when reversed too.
static size_t *sorted(jj *j, const jval *keys, size_t n, bool reverse) {
    size_t *a = jj_array(j, n + 1, sizeof *a), *b = jj_array(j, n + 1, sizeof *b);
    for (size_t i = 0; i < n; i++) a[i] = i;
    for (size_t w = 1; w < n; w *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * w) {
            size_t mid = lo + w < n ? lo + w : n, hi = lo + 2 * w < n ? lo + 2 * w : n, x = lo, y = mid;
            for (size_t k = lo; k < hi; k++) {
                bool right = x >= mid;
                if (!right && y < hi) {
                    int c = reverse ? j_compare(j, &keys[a[x]], &keys[a[y]], "<") : j_compare(j, &keys[a[y]], &keys[a[x]], "<");
                    right = c == -1;
                }
                b[k] = right ? a[y++] : a[x++];
            }
        }
        size_t *t = a;
        a = b;
        b = t;
    }
    return a;
}

static jval f_sort(jj *j, const jval *v, const jargs *a) {
    jval p[3];
    jbind(j, a, "sort", "reverse case_sensitive attribute", 0, p);
    jlist l = j_iter(j, v);
    jval *keys = jj_array(j, l.n, sizeof *keys), out = j_list(j, J_LIST, l.n);
    for (size_t i = 0; i < l.n; i++) { // a key is a list, of one item too: lists compare by equality first
        jval no = j_missing(), parts = j_list(j, J_LIST, 1);
        if (p[2].kind == J_STR && memchr(p[2].u.s->p, ',', p[2].u.s->len)) parts = jstr_split(j, p[2].u.s, jstr_view(j, ",", 1, true), -1, false);
        else j_push(j, parts, p[2]);
        keys[i] = j_list(j, J_LIST, parts.u.l->n);
        for (size_t k = 0; k < parts.u.l->n; k++) j_push(j, keys[i], fold(j, attribute(j, &l.v[i], &parts.u.l->v[k], &no), flag(&p[1])));
    }
    size_t *order = sorted(j, keys, l.n, flag(&p[0]));
    for (size_t i = 0; i < l.n; i++) j_push(j, out, l.v[order[i]]);
    return out;
}

static jval f_dictsort(jj *j, const jval *v, const jargs *a) {
    jval p[3];
    jbind(j, a, "dictsort", "case_sensitive by reverse", 0, p);
    if (v->kind == J_UNDEF) jj_fail(j, E_INVALID, "'%.100s' is undefined", v->u.name ? v->u.name : "a value");
    if (v->kind != J_DICT) jj_fail(j, E_INVALID, "'%s' object has no attribute 'items'", jj_type(v));
    bool value = false;
    if (p[1].kind != J_MISSING) {
        value = p[1].kind == J_STR && jstr_is(p[1].u.s, "value");
        if (!value && !(p[1].kind == J_STR && jstr_is(p[1].u.s, "key"))) jj_fail(j, E_INVALID, "You can only sort by either \"key\" or \"value\"");
    }
    const jdict *d = v->u.d;
    jval *keys = jj_array(j, d->n, sizeof *keys), out = j_list(j, J_LIST, d->n);
    for (size_t i = 0; i < d->n; i++) keys[i] = fold(j, value ? d->v[i] : d->k[i], flag(&p[0]));
    size_t *order = sorted(j, keys, d->n, flag(&p[2]));
    for (size_t i = 0; i < d->n; i++) {
        jval pair = j_list(j, J_TUPLE, 2);
        j_push(j, pair, d->k[order[i]]);
        j_push(j, pair, d->v[order[i]]);
        j_push(j, out, pair);
    }
    return out;
}

static jval f_unique(jj *j, const jval *v, const jargs *a) {
    jval p[2], seen = j_dict(j), out = j_list(j, J_GEN, 4), no = j_missing();
    jbind(j, a, "unique", "case_sensitive attribute", 0, p);
    jlist l = j_iter(j, v);
    for (size_t i = 0; i < l.n; i++) {
        jval key = fold(j, attribute(j, &l.v[i], &p[1], &no), flag(&p[0]));
        if (j_dict_get(j, seen.u.d, &key)) continue;
        j_dict_set(j, seen.u.d, key, j_none());
        j_push(j, out, l.v[i]);
    }
    return out;
}

static jval extreme(jj *j, const jval *v, const jargs *a, bool max) {
    jval p[2], best_key = j_missing(), best = j_undef("the item of an empty sequence"), no = j_missing();
    jbind(j, a, max ? "max" : "min", "case_sensitive attribute", 0, p);
    jlist l = j_iter(j, v);
    for (size_t i = 0; i < l.n; i++) {
        jval key = fold(j, attribute(j, &l.v[i], &p[1], &no), flag(&p[0]));
        if (i) {
            int c = j_compare(j, &key, &best_key, max ? ">" : "<");
            if (max ? c != 1 : c != -1) continue;
        }
        best_key = key;
        best = l.v[i];
    }
    return best;
}
static jval f_min(jj *j, const jval *v, const jargs *a) { return extreme(j, v, a, false); }
static jval f_max(jj *j, const jval *v, const jargs *a) { return extreme(j, v, a, true); }

static jval f_groupby(jj *j, const jval *v, const jargs *a) {
    jval p[3], out = j_list(j, J_LIST, 4), group = j_missing();
    jbind(j, a, "groupby", "attribute default case_sensitive", 1, p);
    jlist l = j_iter(j, v);
    jval *keys = jj_array(j, l.n, sizeof *keys);
    for (size_t i = 0; i < l.n; i++) keys[i] = fold(j, attribute(j, &l.v[i], &p[0], &p[1]), flag(&p[2]));
    size_t *order = sorted(j, keys, l.n, false);
    for (size_t i = 0; i < l.n; i++) {
        if (!i || !j_equal(j, &keys[order[i - 1]], &keys[order[i]])) {
            jval pair = j_list(j, J_TUPLE, 2);
            pair.aux = 1; // has .grouper and .list
            group = j_list(j, J_LIST, 4);
            j_push(j, pair, attribute(j, &l.v[order[i]], &p[0], &p[1]));
            j_push(j, pair, group);
            j_push(j, out, pair);
        }
        j_push(j, group, l.v[order[i]]);
    }
    return out;
}

static jval f_default(jj *j, const jval *v, const jargs *a) {
    jval p[2];
    jbind(j, a, "default", "default_value boolean", 0, p);
    if (v->kind == J_UNDEF || (flag(&p[1]) && !j_true(v))) return p[0].kind == J_MISSING ? j_str(jstr_view(j, "", 0, true)) : p[0];
    return *v;
}

static jval f_join(jj *j, const jval *v, const jargs *a) {
    jval p[2], no = j_missing();
    jbind(j, a, "join", "d attribute", 0, p);
    jlist l = j_iter(j, v);
    const jstr *sep = p[0].kind == J_MISSING ? jstr_view(j, "", 0, true) : jprint_string(j, &p[0]);
    jbuf *b = jbuf_new(j);
    for (size_t i = 0; i < l.n; i++) {
        jval item = attribute(j, &l.v[i], &p[1], &no);
        jj_step(j, 1); // an undefined item prints nothing
        if (i) jbuf_adds(j, b, sep);
        jprint_str(j, b, &item);
    }
    return j_str(jbuf_done(j, b));
}

static jval f_first(jj *j, const jval *v, const jargs *a) {
    jbind(j, a, "first", "", 0, NULL);
    if (v->kind == J_GEN && v->u.l->n) {
        v->u.l->n--;
        return *v->u.l->v++;
    }
    jlist l = j_iter(j, v);
    return l.n ? l.v[0] : j_undef("the first item of an empty sequence");
}

static jval f_last(jj *j, const jval *v, const jargs *a) {
    jbind(j, a, "last", "", 0, NULL);
    if (v->kind == J_GEN || v->kind == J_LOOP) jj_fail(j, E_INVALID, "'%s' object is not reversible", jj_type(v));
    jlist l = j_iter(j, v);
    return l.n ? l.v[l.n - 1] : j_undef("the last item of an empty sequence");
}

static jval f_length(jj *j, const jval *v, const jargs *a) {
    jbind(j, a, "length", "", 0, NULL);
    return j_int(j_length(j, v));
}

static jval f_list(jj *j, const jval *v, const jargs *a) {
    jbind(j, a, "list", "", 0, NULL);
    jlist l = j_iter(j, v);
    jval out = j_list(j, J_LIST, l.n);
    for (size_t i = 0; i < l.n; i++) j_push(j, out, l.v[i]);
    return out;
}

static jval f_items(jj *j, const jval *v, const jargs *a) {
    jbind(j, a, "items", "", 0, NULL);
    jval out = j_list(j, J_GEN, 4);
    if (v->kind == J_UNDEF) return out;
    if (v->kind != J_DICT) jj_fail(j, E_INVALID, "Can only get item pairs from a mapping.");
    for (size_t i = 0; i < v->u.d->n; i++) {
        jval pair = j_list(j, J_TUPLE, 2);
        j_push(j, pair, v->u.d->k[i]);
        j_push(j, pair, v->u.d->v[i]);
        j_push(j, out, pair);
    }
    return out;
}

static jval f_reverse(jj *j, const jval *v, const jargs *a) {
    jbind(j, a, "reverse", "", 0, NULL);
    if (v->kind == J_UNDEF) return j_list(j, J_GEN, 0);
    jlist l = j_iter(j, v);
    if (v->kind == J_STR) {
        jbuf *b = jbuf_new(j);
        for (size_t i = l.n; i-- > 0;) jbuf_adds(j, b, l.v[i].u.s);
        return j_str(jbuf_done(j, b));
    }
    jval out = j_list(j, v->kind == J_GEN ? J_LIST : J_GEN, l.n);
    for (size_t i = l.n; i-- > 0;) j_push(j, out, l.v[i]);
    return out;
}

static jval f_attr(jj *j, const jval *v, const jargs *a) {
    jval name;
    jbind(j, a, "attr", "name", 1, &name);
    const jstr *s = j_need_str(j, &name, "the name of an attribute");
    jval plain = *v, empty = j_dict(j);
    if (v->kind == J_DICT) { // methods, never keys
        jval m = jget_attr(j, &empty, s);
        return m.kind == J_METHOD ? jget_attr(j, &plain, s) : j_undef(s->p);
    }
    return jget_attr(j, &plain, s);
}

static jval f_sum(jj *j, const jval *v, const jargs *a) {
    jval p[2], no = j_missing();
    jbind(j, a, "sum", "attribute start", 0, p);
    jval total = p[1].kind == J_MISSING ? j_int(0) : p[1];
    if (total.kind == J_STR) jj_fail(j, E_INVALID, "sum() can't sum strings [use ''.join(seq) instead]");
    jlist l = j_iter(j, v);
    for (size_t i = 0; i < l.n; i++) {
        jj_step(j, 1);
        jval item = attribute(j, &l.v[i], &p[0], &no);
        total = jeval_binary(j, OP_ADD, &total, &item);
    }
    return total;
}

static jval f_batch(jj *j, const jval *v, const jargs *a) {
    jval p[2], out = j_list(j, J_GEN, 4), row = j_missing();
    jbind(j, a, "batch", "linecount fill_with", 1, p);
    int64_t n = j_need_int(j, &p[0], "linecount");
    jlist l = j_iter(j, v);
    for (size_t i = 0; i < l.n; i++) {
        if (row.kind == J_MISSING || (int64_t)row.u.l->n == n) j_push(j, out, row = j_list(j, J_LIST, 4));
        j_push(j, row, l.v[i]);
    }
    if (row.kind != J_MISSING && given(&p[1]))
        while ((int64_t)row.u.l->n < n) j_push(j, row, p[1]);
    return out;
}

static jval f_slice(jj *j, const jval *v, const jargs *a) {
    jval p[2], out = j_list(j, J_GEN, 4);
    jbind(j, a, "slice", "slices fill_with", 1, p);
    int64_t n = j_need_int(j, &p[0], "slices");
    jlist l = j_iter(j, v);
    if (!n) jj_fail(j, E_INVALID, "integer division or modulo by zero");
    size_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        jval row = j_list(j, J_LIST, 4);
        size_t end = at + l.n / (size_t)n + (i < (int64_t)(l.n % (size_t)n));
        for (; at < end; at++) j_push(j, row, l.v[at]);
        if (given(&p[1]) && i >= (int64_t)(l.n % (size_t)n)) j_push(j, row, p[1]);
        j_push(j, out, row);
    }
    return out;
}

static jval f_map(jj *j, const jval *v, const jargs *a) {
    jval out = j_list(j, J_GEN, 4), p[2];
    if (!j_true(v)) return out;
    if (!a->n && a->nkw) {
        jargs named = *a;
        jbind(j, &named, "map", "attribute default", 1, p);
        jlist l = j_iter(j, v);
        for (size_t i = 0; i < l.n; i++) j_push(j, out, attribute(j, &l.v[i], &p[0], &p[1]));
        return out;
    }
    if (!a->n) jj_fail(j, E_INVALID, "map requires a filter argument");
    const jstr *name = j_need_str(j, &a->v[0], "the name of a filter");
    int id = jfilter_find(name->p, name->len);
    if (id < 0) jj_fail(j, E_INVALID, "no filter named '%.*s'", name->len > 60 ? 60 : (int)name->len, name->p);
    jargs rest = {.v = a->v + 1, .n = a->n - 1, .kw = a->kw, .nkw = a->nkw};
    jlist l = j_iter(j, v);
    jj_enter(j);
    for (size_t i = 0; i < l.n; i++) j_push(j, out, jfilter_call(j, id, &l.v[i], &rest));
    jj_leave(j);
    return out;
}

static jval select_items(jj *j, const jval *v, const jargs *a, bool want, bool by_attr) {
    jval out = j_list(j, J_GEN, 4), path = j_missing(), no = j_missing();
    if (!j_true(v)) return out;
    size_t off = by_attr;
    if (by_attr) {
        if (!a->n) jj_fail(j, E_INVALID, "Missing parameter for attribute name");
        path = a->v[0];
    }
    int id = -1;
    jargs rest = {.kw = a->kw, .nkw = a->nkw};
    if (a->n > off) {
        const jstr *name = j_need_str(j, &a->v[off], "the name of a test");
        id = jtest_find(name->p, name->len);
        if (id < 0) jj_fail(j, E_INVALID, "no test named '%.*s'", name->len > 60 ? 60 : (int)name->len, name->p);
        rest.v = a->v + off + 1;
        rest.n = a->n - off - 1;
    }
    jlist l = j_iter(j, v);
    for (size_t i = 0; i < l.n; i++) {
        jj_step(j, 1);
        jval item = attribute(j, &l.v[i], &path, &no);
        if ((id < 0 ? j_true(&item) : jtest_call(j, id, &item, &rest)) == want) j_push(j, out, l.v[i]);
    }
    return out;
}
static jval f_select(jj *j, const jval *v, const jargs *a) { return select_items(j, v, a, true, false); }
static jval f_reject(jj *j, const jval *v, const jargs *a) { return select_items(j, v, a, false, false); }
static jval f_selectattr(jj *j, const jval *v, const jargs *a) { return select_items(j, v, a, true, true); }
static jval f_rejectattr(jj *j, const jval *v, const jargs *a) { return select_items(j, v, a, false, true); }

const jfilter jfilters_seq[] = {
    {"attr", f_attr}, {"batch", f_batch}, {"count", f_length}, {"d", f_default}, {"default", f_default}, {"dictsort", f_dictsort}, {"first", f_first},
    {"groupby", f_groupby}, {"items", f_items}, {"join", f_join}, {"last", f_last}, {"length", f_length}, {"list", f_list}, {"map", f_map},
    {"max", f_max}, {"min", f_min}, {"reject", f_reject}, {"rejectattr", f_rejectattr}, {"reverse", f_reverse}, {"select", f_select},
    {"selectattr", f_selectattr}, {"slice", f_slice}, {"sort", f_sort}, {"sum", f_sum}, {"unique", f_unique}, {NULL, NULL},
};
