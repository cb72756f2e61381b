// Arguments of functions of ours, and the functions that every template can call.
// Threads: jinja_internal.h.
#include <string.h>

#include "chat/jinja_internal.h"

void jbind(jj *j, const jargs *a, const char *what, const char *names, size_t need, jval *out) {
    size_t n = 0;
    bool used[16] = {false};
    for (const char *p = names; *p; n++) {
        size_t len = strcspn(p, " ");
        out[n] = n < a->n ? a->v[n] : j_missing();
        for (size_t i = 0; i < a->nkw; i++) {
            if (a->kw[i].name->len != len || memcmp(a->kw[i].name->p, p, len)) continue;
            if (out[n].kind != J_MISSING) jj_fail(j, E_INVALID, "%s got multiple values for argument '%.*s'", what, (int)len, p);
            out[n] = a->kw[i].v;
            if (i < 16) used[i] = true;
        }
        if (out[n].kind == J_MISSING && n < need) jj_fail(j, E_INVALID, "%s needs the argument '%.*s'", what, (int)len, p);
        p += len;
        p += *p == ' ';
    }
    if (a->n > n) jj_fail(j, E_INVALID, "%s takes at most %zu arguments, %zu were given", what, n, a->n);
    for (size_t i = 0; i < a->nkw; i++)
        if (i >= 16 || !used[i]) jj_fail(j, E_INVALID, "%s got an unexpected keyword argument '%.60s'", what, jstr_new(j, a->kw[i].name->p, a->kw[i].name->len, false)->p);
}

const jstr *j_need_str(jj *j, const jval *v, const char *what) {
    if (v->kind == J_UNDEF) jj_fail(j, E_INVALID, "%s is undefined", what);
    if (v->kind != J_STR) jj_fail(j, E_INVALID, "%s must be a string, not %s", what, jj_type(v));
    return v->u.s;
}

jval jfunc_global(const jstr *name) {
    static const struct { const char *name; jfunc f; } all[] = {
        {"range", F_RANGE}, {"dict", F_DICT}, {"namespace", F_NAMESPACE}, {"cycler", F_CYCLER}, {"joiner", F_JOINER},
        {"lipsum", F_LIPSUM}, {"raise_exception", F_RAISE}, {"strftime_now", F_STRFTIME},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (jstr_is(name, all[i].name)) return (jval){.kind = J_FUNC, .trusted = true, .aux = (uint16_t)all[i].f};
    return j_missing();
}

static jval range(jj *j, const jargs *a) {
    jrange *r = jj_alloc(j, sizeof *r);
    *r = (jrange){.step = 1};
    if (a->nkw) jj_fail(j, E_INVALID, "range() takes no keyword arguments");
    if (!a->n || a->n > 3) jj_fail(j, E_INVALID, "range expected 1 to 3 arguments, got %zu", a->n);
    bool trusted = true;
    for (size_t i = 0; i < a->n; i++) {
        j_need_int(j, &a->v[i], "an argument of range()");
        trusted = trusted && a->v[i].trusted;
    }
    r->stop = j_need_int(j, &a->v[a->n > 1], "range()");
    if (a->n > 1) r->start = j_need_int(j, &a->v[0], "range()");
    if (a->n > 2) r->step = j_need_int(j, &a->v[2], "range()");
    if (!r->step) jj_fail(j, E_INVALID, "range() arg 3 must not be zero");
    __int128 span = r->step > 0 ? (__int128)r->stop - r->start : (__int128)r->start - r->stop, step = r->step > 0 ? r->step : -(__int128)r->step;
    __int128 n = span > 0 ? (span + step - 1) / step : 0;
    if (n > 100000) jj_fail(j, E_LIMIT, "a range of more than 100000 numbers");
    r->n = (int64_t)n;
    return (jval){.kind = J_RANGE, .trusted = trusted, .u.r = r};
}

static jval dict(jj *j, const jargs *a, bool ns) {
    jval d = j_dict(j);
    if (a->n > 1) jj_fail(j, E_INVALID, "%s expected at most 1 argument, got %zu", ns ? "namespace" : "dict", a->n);
    if (a->n && a->v[0].kind == J_DICT) {
        for (size_t i = 0; i < a->v[0].u.d->n; i++) j_dict_set(j, d.u.d, a->v[0].u.d->k[i], a->v[0].u.d->v[i]);
    } else if (a->n) {
        jlist pairs = j_iter(j, &a->v[0]);
        for (size_t i = 0; i < pairs.n; i++) {
            jlist pair = j_iter(j, &pairs.v[i]);
            if (pair.n != 2) jj_fail(j, E_INVALID, "dictionary update sequence element #%zu has length %zu; 2 is required", i, pair.n);
            j_dict_set(j, d.u.d, pair.v[0], pair.v[1]);
        }
    }
    for (size_t i = 0; i < a->nkw; i++) j_dict_set(j, d.u.d, j_str(a->kw[i].name), a->kw[i].v);
    if (ns) d.kind = J_NS;
    return d;
}

static jval cycler(jj *j, const jargs *a) {
    if (!a->n) jj_fail(j, E_INVALID, "at least one item has to be provided");
    if (a->nkw) jj_fail(j, E_INVALID, "cycler takes no keyword arguments");
    jcycle *c = jj_alloc(j, sizeof *c);
    *c = (jcycle){.items = {.v = a->v, .n = a->n, .cap = a->n}};
    return (jval){.kind = J_CYCLER, .trusted = true, .u.cycle = c};
}

static jval joiner(jj *j, const jval *self, const jargs *a) {
    jval sep;
    if (!self) {
        jbind(j, a, "joiner", "sep", 0, &sep);
        jcycle *c = jj_alloc(j, sizeof *c);
        *c = (jcycle){.sep = sep.kind == J_MISSING ? j_str(jstr_view(j, ", ", 2, true)) : sep};
        return (jval){.kind = J_JOINER, .trusted = true, .u.cycle = c};
    }
    jbind(j, a, "a joiner", "", 0, &sep);
    if (self->u.cycle->used) return self->u.cycle->sep;
    self->u.cycle->used = true;
    return j_str(jstr_view(j, "", 0, true));
}

jval jfunc_call(jj *j, jfunc f, const jval *self, const jargs *a) {
    jval v;
    switch (f) {
    case F_RANGE: return range(j, a);
    case F_DICT: return dict(j, a, false);
    case F_NAMESPACE: return dict(j, a, true);
    case F_CYCLER: return cycler(j, a);
    case F_JOINER: return joiner(j, self, a);
    case F_CYCLER_NEXT:
        v = self->u.cycle->items.v[self->u.cycle->pos];
        self->u.cycle->pos = (self->u.cycle->pos + 1) % self->u.cycle->items.n;
        return v;
    case F_CYCLER_RESET: self->u.cycle->pos = 0; return j_none();
    case F_RAISE: {
        jbind(j, a, "raise_exception", "message", 1, &v);
        const jstr *s = jprint_string(j, &v);
        jj_fail(j, E_INVALID, "%.*s", s->len > 380 ? 380 : (int)s->len, s->p);
    }
    case F_STRFTIME:
        jbind(j, a, "strftime_now", "format", 1, &v);
        return j_str(jtime_strftime(j, j_need_str(j, &v, "the format of strftime_now")));
    default: jj_fail(j, E_UNSUPPORTED, "this function is not supported in a chat template");
    }
}
