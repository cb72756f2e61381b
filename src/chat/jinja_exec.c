// Statements: scopes, loops, macros, captured blocks.
// Invariants: a scope is never changed by anything but the frame it belongs to; a loop's body gets a new one each time round, as
// Jinja2's does. Output goes to j->out, which blocks that capture exchange for their own.
// Threads: jinja_internal.h.
#include <string.h>

#include "chat/jinja_internal.h"

typedef enum flow { GO_ON, GO_BREAK, GO_CONTINUE } flow;
static flow exec(jj *j, const jnode *n);

// --- Scopes ---
static jscope *scope_new(jj *j, jscope *up) {
    jscope *s = jj_alloc(j, sizeof *s);
    *s = (jscope){.up = up};
    return s;
}

jval jscope_get(jj *j, int32_t atom) {
    for (const jscope *s = j->scope; s; s = s->up) {
        jj_step(j, s->n / 16);
        for (uint32_t i = 0; i < s->n; i++)
            if (s->atoms[i] == atom) return s->v[i];
    }
    return j->globals[atom];
}

static void put(jj *j, jscope *s, int32_t atom, jval v) {
    jj_step(j, s->n / 16);
    for (uint32_t i = 0; i < s->n; i++)
        if (s->atoms[i] == atom) {
            s->v[i] = v;
            return;
        }
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 4;
        int32_t *atoms = jj_array(j, cap, sizeof *atoms);
        jval *values = jj_array(j, cap, sizeof *values);
        if (s->n) {
            memcpy(atoms, s->atoms, s->n * sizeof *atoms);
            memcpy(values, s->v, s->n * sizeof *values);
        }
        s->atoms = atoms;
        s->v = values;
        s->cap = cap;
    }
    s->atoms[s->n] = atom;
    s->v[s->n++] = v;
}

void jscope_set(jj *j, int32_t atom, jval v) {
    if (j->scope) put(j, j->scope, atom, v);
    else j->globals[atom] = v;
}

static void assign(jj *j, const jnode *to, const jval *v) {
    j->pos = to->pos;
    if (to->kind == N_NAME) {
        jscope_set(j, to->id, *v);
    } else if (to->kind == N_NSREF) {
        jval ns = jscope_get(j, to->id);
        if (ns.kind != J_NS) jj_fail(j, E_INVALID, "cannot assign attribute on non-namespace object");
        j_dict_set(j, ns.u.d, j_str(to->name), *v);
    } else {
        if (!j_iterable(v)) jj_fail(j, E_INVALID, "cannot unpack non-iterable %s object", jj_type(v));
        jlist l = j_iter(j, v);
        size_t want = 0;
        for (const jnode *n = to->list; n; n = n->next) want++;
        if (l.n != want) jj_fail(j, E_INVALID, "%zu values to unpack, %zu expected", l.n, want);
        size_t i = 0;
        for (const jnode *n = to->list; n; n = n->next) assign(j, n, &l.v[i++]);
    }
}

// --- Bodies ---
static flow exec_list(jj *j, const jnode *n) {
    for (; n; n = n->next) {
        flow f = exec(j, n);
        if (f != GO_ON) return f;
    }
    return GO_ON;
}

void jexec_body(jj *j, const jnode *n) { exec_list(j, n); }

// Runs a body in a new scope with its output caught.
static const jstr *capture(jj *j, const jnode *list, flow *f) {
    jbuf *out = j->out;
    jscope *scope = j->scope;
    j->out = jbuf_new(j);
    j->scope = scope_new(j, scope);
    *f = exec_list(j, list);
    j->scope = scope;
    const jstr *s = jbuf_done(j, j->out);
    j->out = out;
    return s;
}

static flow exec_items(jj *j, const jnode *n, jlist items, int depth0, jscope *outer) {
    jscope *back = j->scope;
    if (n->c) { // the test sees the target, not `loop`
        jval kept = j_list(j, J_LIST, 4);
        for (size_t i = 0; i < items.n; i++) {
            j->scope = scope_new(j, outer);
            assign(j, n->a, &items.v[i]);
            jval yes = jeval(j, n->c);
            if (j_true(&yes)) j_push(j, kept, items.v[i]);
        }
        items = *kept.u.l;
    }
    flow f = GO_ON;
    bool whole = false; // some body ran to its end: Jinja2's else is for when none did
    jloop *l = jj_alloc(j, sizeof *l);
    *l = (jloop){.v = items.v, .n = items.n, .depth0 = depth0, .last_changed = j_missing(), .node = n, .scope = outer};
    for (; l->i < l->n; l->i++) {
        jj_step(j, 1);
        j->scope = scope_new(j, outer);
        put(j, j->scope, j->atom_loop, (jval){.kind = J_LOOP, .trusted = true, .u.loop = l});
        assign(j, n->a, &l->v[l->i]);
        f = exec_list(j, n->list);
        if (f == GO_BREAK) break;
        whole = whole || f == GO_ON;
    }
    if (!whole && n->d) { // a break in here belongs to the loop outside
        j->scope = scope_new(j, outer);
        f = exec_list(j, n->d);
        j->scope = back;
        return f;
    }
    j->scope = back;
    return GO_ON;
}

jval jloop_recurse(jj *j, jloop *l, const jval *items) {
    if (!l->node->flag) jj_fail(j, E_INVALID, "The loop must have the 'recursive' marker to be called recursively.");
    if (++j->calls > j->limits.depth) jj_fail(j, E_LIMIT, "loops nested deeper than the limit of %d", j->limits.depth);
    jj_enter(j);
    jbuf *out = j->out;
    j->out = jbuf_new(j);
    exec_items(j, l->node, j_iter(j, items), l->depth0 + 1, l->scope);
    const jstr *s = jbuf_done(j, j->out);
    j->out = out;
    j->calls--;
    jj_leave(j);
    return j_str(s);
}

static jval loop_func(jj *j, jloop *l, jfunc f) {
    static const jmethod cycle = {.name = "cycle"}, changed = {.name = "changed"};
    jbound *b = jj_alloc(j, sizeof *b);
    *b = (jbound){.self = {.kind = J_LOOP, .trusted = true, .u.loop = l}, .method = f == F_LOOP_CYCLE ? &cycle : &changed};
    return (jval){.kind = J_METHOD, .trusted = true, .aux = (uint16_t)f, .u.m = b};
}

jval jloop_attr(jj *j, jloop *l, const jstr *name) {
    static const char *const names[] = {"index", "index0", "revindex", "revindex0", "length", "depth", "depth0", NULL};
    int64_t i = (int64_t)l->i, n = (int64_t)l->n;
    const int64_t values[] = {i + 1, i, n - i, n - i - 1, n, l->depth0 + 1, l->depth0};
    for (size_t k = 0; names[k]; k++)
        if (jstr_is(name, names[k])) return j_int(values[k]);
    if (jstr_is(name, "first")) return j_bool(i == 0);
    if (jstr_is(name, "last")) return j_bool(i + 1 >= n);
    if (jstr_is(name, "previtem")) return i > 0 ? l->v[i - 1] : j_undef("there is no previous item");
    if (jstr_is(name, "nextitem")) return i + 1 < n ? l->v[i + 1] : j_undef("there is no next item");
    if (jstr_is(name, "cycle")) return loop_func(j, l, F_LOOP_CYCLE);
    if (jstr_is(name, "changed")) return loop_func(j, l, F_LOOP_CHANGED);
    return j_missing();
}

jval jloop_call(jj *j, jloop *l, bool changed, const jargs *a) {
    if (a->nkw) jj_fail(j, E_INVALID, "loop.%s takes no keyword arguments", changed ? "changed" : "cycle");
    if (!changed) {
        if (!a->n) jj_fail(j, E_INVALID, "no items for cycling given");
        return a->v[l->i % a->n];
    }
    jval now = j_list(j, J_TUPLE, a->n);
    for (size_t i = 0; i < a->n; i++) j_push(j, now, a->v[i]);
    bool same = l->last_changed.kind != J_MISSING && j_equal(j, &l->last_changed, &now);
    l->last_changed = now;
    return j_bool(!same);
}

static jval make_macro(jj *j, const jnode *n) {
    jmacro *m = jj_alloc(j, sizeof *m);
    *m = (jmacro){.node = n, .scope = j->scope, .name = n->name};
    return (jval){.kind = J_MACRO, .trusted = true, .u.macro = m};
}

// What is left of the arguments once the parameters have theirs.
static void bind_rest(jj *j, const jmacro *m, const jargs *a, size_t nparams, const bool *kw_used) {
    jval rest = j_list(j, J_TUPLE, 0), keys = j_dict(j), caller = j_undef("No caller defined");
    bool with_caller = false;
    for (size_t i = nparams; i < a->n; i++) j_push(j, rest, a->v[i]);
    for (size_t i = 0; i < a->nkw; i++) {
        if (kw_used[i]) continue;
        if (jstr_is(a->kw[i].name, "caller") && m->node->op & SAW_CALLER) {
            caller = a->kw[i].v;
            with_caller = true;
            continue;
        }
        if (!(m->node->op & SAW_KWARGS))
            jj_fail(j, E_INVALID, "macro '%.60s' takes no keyword argument '%.60s'", m->name->p, a->kw[i].name->p);
        j_dict_set(j, keys.u.d, j_str(a->kw[i].name), a->kw[i].v);
    }
    if (a->n > nparams && !(m->node->op & SAW_VARARGS))
        jj_fail(j, E_INVALID, "macro '%.60s' takes not more than %zu argument(s)", m->name->p, nparams);
    if (m->node->op & SAW_CALLER || with_caller) put(j, j->scope, j->atom_caller, caller);
    if (m->node->op & SAW_VARARGS) put(j, j->scope, j->atom_varargs, rest);
    if (m->node->op & SAW_KWARGS) put(j, j->scope, j->atom_kwargs, keys);
}

jval jmacro_call(jj *j, jmacro *m, const jargs *a) {
    if (++j->calls > j->limits.depth) jj_fail(j, E_LIMIT, "macros nested deeper than the limit of %d", j->limits.depth);
    jj_enter(j);
    jbuf *out = j->out;
    jscope *back = j->scope;
    bool *kw_used = jj_alloc(j, a->nkw + 1);
    memset(kw_used, 0, a->nkw + 1);
    j->scope = scope_new(j, m->scope);
    size_t nparams = 0;
    for (const jnode *p = m->node->a; p; p = p->next, nparams++) {
        jval v = nparams < a->n ? a->v[nparams] : j_missing();
        jj_step(j, 1 + a->nkw / 8);
        for (size_t i = 0; i < a->nkw; i++) {
            if (!jstr_eq(a->kw[i].name, p->name) || nparams < a->n) continue;
            v = a->kw[i].v;
            kw_used[i] = true;
        }
        if (v.kind == J_MISSING) v = p->a ? jeval(j, p->a) : j_undef(p->name->p);
        put(j, j->scope, p->id, v);
    }
    bind_rest(j, m, a, nparams, kw_used);
    j->out = jbuf_new(j);
    exec_list(j, m->node->list);
    const jstr *s = jbuf_done(j, j->out);
    j->out = out;
    j->scope = back;
    j->calls--;
    jj_leave(j);
    return j_str(s);
}

static void exec_call(jj *j, const jnode *n) {
    jval f = jeval(j, n->b->a);
    jargs a = jeval_args(j, n->b->list);
    jkw *kw = jj_array(j, a.nkw + 1, sizeof *kw);
    if (a.nkw) memcpy(kw, a.kw, a.nkw * sizeof *kw);
    kw[a.nkw] = (jkw){.name = n->name, .v = make_macro(j, n)};
    a.kw = kw;
    a.nkw++;
    j->pos = n->b->pos;
    jval v = jcall(j, &f, &a);
    jprint_str(j, j->out, &v);
}

static jval filtered(jj *j, const jnode *filters, const jstr *text) {
    if (!filters) return j_str(text);
    j->filter_in = j_str(text);
    return jeval(j, filters);
}

static flow exec_scope(jj *j, const jnode *n) {
    jscope *back = j->scope, *inner = scope_new(j, back);
    for (const jnode *s = n->kind == N_WITH ? n->a : NULL; s; s = s->next) { // values are of the scope outside
        jval v = jeval(j, s->b);
        j->scope = inner;
        assign(j, s->a, &v);
        j->scope = back;
    }
    j->scope = inner;
    flow f = exec_list(j, n->list);
    j->scope = back;
    return f;
}

static flow exec(jj *j, const jnode *n) {
    flow f = GO_ON;
    jval v;
    jj_enter(j);
    j->pos = n->pos;
    switch ((jnode_kind)n->kind) {
    case N_TEXT: jbuf_adds(j, j->out, n->val.u.s); break;
    case N_OUT:
        v = jeval(j, n->a);
        jprint_str(j, j->out, &v);
        break;
    case N_IF:
        for (;; n = n->c) {
            v = jeval(j, n->a);
            if (j_true(&v)) {
                f = exec_list(j, n->b);
                break;
            }
            if (n->flag) continue;
            f = exec_list(j, n->c);
            break;
        }
        break;
    case N_FOR: {
        v = jeval(j, n->b);
        j->pos = n->pos;
        f = exec_items(j, n, j_iter(j, &v), 0, j->scope);
        break;
    }
    case N_SET:
        v = jeval(j, n->b);
        assign(j, n->a, &v);
        break;
    case N_SETBLOCK: {
        const jstr *s = capture(j, n->list, &f);
        if (f != GO_ON) break;
        v = filtered(j, n->b, s);
        assign(j, n->a, &v);
        break;
    }
    case N_MACRO: jscope_set(j, n->id, make_macro(j, n)); break;
    case N_CALLBLOCK: exec_call(j, n); break;
    case N_FILTERBLOCK: {
        const jstr *s = capture(j, n->list, &f);
        if (f != GO_ON) break;
        v = filtered(j, n->b, s);
        jprint_str(j, j->out, &v);
        break;
    }
    case N_WITH: case N_SCOPE: f = exec_scope(j, n); break;
    case N_BREAK: f = GO_BREAK; break;
    case N_CONTINUE: f = GO_CONTINUE; break;
    default: jj_fail(j, E_INTERNAL, "an expression where a statement belongs");
    }
    jj_leave(j);
    return f;
}
