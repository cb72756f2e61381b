// Expressions.
// Threads: jinja_internal.h.
#include <math.h>
#include <string.h>

#include "chat/jinja_internal.h"

static jval own_attr(jj *j, const jval *v, const jstr *name) { // what Python's getattr finds; J_MISSING when nothing
    if (v->kind == J_NS) {
        const jval *got = j_dict_gets(j, v->u.d, name->p, name->len);
        return got ? *got : j_missing();
    }
    if (v->kind == J_LOOP) return jloop_attr(j, v->u.loop, name);
    if (v->kind == J_MACRO && jstr_is(name, "name")) return j_str(v->u.macro->name);
    if (v->kind == J_CYCLER) {
        if (jstr_is(name, "current")) return v->u.cycle->items.v[v->u.cycle->pos];
        if (!jstr_is(name, "next") && !jstr_is(name, "reset")) return j_missing();
        static const jmethod next = {.name = "next"}, reset = {.name = "reset"};
        jbound *b = jj_alloc(j, sizeof *b);
        *b = (jbound){.self = *v, .method = name->p[0] == 'n' ? &next : &reset};
        return (jval){.kind = J_METHOD, .trusted = true, .aux = name->p[0] == 'n' ? F_CYCLER_NEXT : F_CYCLER_RESET, .u.m = b};
    }
    if (v->kind == J_TUPLE && v->aux && (jstr_is(name, "grouper") || jstr_is(name, "list"))) return v->u.l->v[name->p[0] == 'l'];
    const jmethod *m = jmethod_find(v, name);
    if (!m) return j_missing();
    if (m->kinds >> 31) return j_undef("a method that the sandbox refuses");
    jbound *b = jj_alloc(j, sizeof *b);
    *b = (jbound){.self = *v, .method = m};
    return (jval){.kind = J_METHOD, .trusted = true, .u.m = b};
}

_Noreturn static void fail_undef(jj *j, const jval *v) {
    if (v->u.name) jj_fail(j, E_INVALID, "'%.100s' is undefined", v->u.name);
    jj_fail(j, E_INVALID, "an undefined value is used");
}

jval jget_attr(jj *j, const jval *v, const jstr *name) {
    if (v->kind == J_UNDEF) fail_undef(j, v);
    jval got = own_attr(j, v, name);
    if (got.kind == J_MISSING && v->kind == J_DICT) {
        const jval *item = j_dict_gets(j, v->u.d, name->p, name->len);
        if (item) return *item;
    }
    return got.kind == J_MISSING ? j_undef(name->p) : got;
}

static jval at_index(jj *j, const jval *v, int64_t i) {
    int64_t n = j_length(j, v);
    if (i < 0) i += n;
    if (i < 0 || i >= n) return j_undef("the item past the end");
    if (v->kind == J_RANGE) {
        jval r = j_int(v->u.r->start + i * v->u.r->step);
        r.trusted = v->trusted;
        return r;
    }
    if (v->kind != J_STR) return v->u.l->v[i];
    size_t from = jstr_offset(j, v->u.s, (size_t)i);
    uint32_t cp;
    return j_str(jstr_slice(j, v->u.s, from, jstr_next(v->u.s, from, &cp)));
}

jval jget_item(jj *j, const jval *v, const jval *key) {
    int64_t i;
    if (v->kind == J_UNDEF) fail_undef(j, v);
    if (v->kind == J_DICT && key->kind != J_LIST && key->kind != J_DICT) {
        const jval *item = j_dict_get(j, v->u.d, key);
        if (item) return *item;
    }
    if ((v->kind == J_LIST || v->kind == J_TUPLE || v->kind == J_STR || v->kind == J_RANGE) && j_integer(key, &i)) return at_index(j, v, i);
    jval got = key->kind == J_STR ? own_attr(j, v, key->u.s) : j_missing();
    if (got.kind != J_MISSING) return got;
    return j_undef(key->kind == J_STR ? jstr_new(j, key->u.s->p, key->u.s->len, false)->p : "an item that is not there");
}

static int64_t bound(jj *j, const jnode *n, int64_t absent, int64_t len, int64_t lo, int64_t hi) {
    if (!n) return absent;
    jval v = jeval(j, n);
    if (v.kind == J_NONE) return absent;
    int64_t i = j_need_int(j, &v, "a slice index");
    if (i < 0) i += len;
    return i < lo ? lo : i > hi ? hi : i;
}

static jval slice(jj *j, const jval *v, const jnode *n) {
    if (v->kind == J_UNDEF) fail_undef(j, v);
    if (v->kind != J_LIST && v->kind != J_TUPLE && v->kind != J_STR && v->kind != J_RANGE)
        jj_fail(j, E_INVALID, "'%s' object cannot be sliced", jj_type(v));
    int64_t len = j_length(j, v), step = 1;
    if (n->c) {
        jval s = jeval(j, n->c);
        if (s.kind != J_NONE) step = j_need_int(j, &s, "a slice step");
        if (!step) jj_fail(j, E_INVALID, "slice step cannot be zero");
    }
    if (step < -len - 1) step = -len - 1; // further is the same
    if (step > len + 1) step = len + 1;
    int64_t from = bound(j, n->a, step > 0 ? 0 : len - 1, len, step > 0 ? 0 : -1, step > 0 ? len : len - 1);
    int64_t to = bound(j, n->b, step > 0 ? len : -1, len, step > 0 ? 0 : -1, step > 0 ? len : len - 1);
    if (v->kind == J_STR && step == 1)
        return j_str(from < to ? jstr_slice(j, v->u.s, jstr_offset(j, v->u.s, (size_t)from), jstr_offset(j, v->u.s, (size_t)to)) : jstr_view(j, "", 0, true));
    if (v->kind == J_RANGE) {
        jrange *r = jj_alloc(j, sizeof *r);
        const jrange *o = v->u.r;
        *r = (jrange){.start = o->start + from * o->step, .stop = o->start + to * o->step, .step = o->step * step};
        r->n = step > 0 ? (from < to ? (to - from - 1) / step + 1 : 0) : (from > to ? (from - to - 1) / -step + 1 : 0);
        return (jval){.kind = J_RANGE, .trusted = v->trusted, .u.r = r};
    }
    jlist all = v->kind == J_STR ? j_iter(j, v) : *v->u.l;
    jbuf *b = v->kind == J_STR ? jbuf_new(j) : NULL;
    jval out = b ? j_none() : j_list(j, (jkind)v->kind, 4);
    for (int64_t i = from; step > 0 ? i < to : i > to; i += step) {
        jj_step(j, 1);
        if (b) jbuf_adds(j, b, all.v[i].u.s);
        else j_push(j, out, all.v[i]);
    }
    return b ? j_str(jbuf_done(j, b)) : out;
}

// --- Operators ---
static jval int_op(jj *j, jop op, int64_t a, int64_t b) {
    int64_t r = 0;
    bool over = false;
    switch (op) {
    case OP_ADD: over = __builtin_add_overflow(a, b, &r); break;
    case OP_SUB: over = __builtin_sub_overflow(a, b, &r); break;
    case OP_MUL: over = __builtin_mul_overflow(a, b, &r); break;
    case OP_DIV:
        if (!b) jj_fail(j, E_INVALID, "division by zero");
        return j_float((double)a / (double)b);
    case OP_FLOORDIV: case OP_MOD:
        if (!b) jj_fail(j, E_INVALID, "integer division or modulo by zero");
        if (b == -1) {
            over = op == OP_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &r);
        } else {
            int64_t q = a / b, m = a % b;
            if (m && (m < 0) != (b < 0)) {
                q--;
                m += b;
            }
            r = op == OP_MOD ? m : q;
        }
        break;
    case OP_POW:
        if (b < 0) {
            if (!a) jj_fail(j, E_INVALID, "0.0 cannot be raised to a negative power");
            return j_float(pow((double)a, (double)b));
        }
        r = 1;
        if (a == 0 || a == 1 || a == -1) {
            r = b == 0 ? 1 : a == -1 && b % 2 == 0 ? 1 : a;
        } else {
            for (; b > 0 && !over; b--) over = __builtin_mul_overflow(r, a, &r);
        }
        break;
    default: break;
    }
    if (over) jj_fail(j, E_LIMIT, "an integer past 64 bits");
    return j_int(r);
}

static jval float_op(jj *j, jop op, double a, double b) {
    switch (op) {
    case OP_ADD: return j_float(a + b);
    case OP_SUB: return j_float(a - b);
    case OP_MUL: return j_float(a * b);
    case OP_DIV:
        if (b == 0) jj_fail(j, E_INVALID, "float division by zero");
        return j_float(a / b);
    case OP_FLOORDIV: case OP_MOD: {
        if (b == 0) jj_fail(j, E_INVALID, "float floor division or modulo by zero");
        double m = fmod(a, b), q = (a - m) / b;
        if (m != 0 && (m < 0) != (b < 0)) {
            m += b;
            q -= 1;
        }
        if (m == 0) m = copysign(0, b);
        return j_float(op == OP_MOD ? m : q == 0 ? copysign(0, a / b) : floor(q + 0.5) - q > 0.5 ? floor(q) : round(q));
    }
    case OP_POW:
        if (a == 0 && b < 0) jj_fail(j, E_INVALID, "0.0 cannot be raised to a negative power");
        if (a < 0 && b != floor(b)) jj_fail(j, E_UNSUPPORTED, "a negative number to a broken power");
        if (isinf(pow(a, b)) && !isinf(a) && !isinf(b)) jj_fail(j, E_INVALID, "Numerical result out of range");
        return j_float(pow(a, b));
    default: return j_none();
    }
}

static jval repeat(jj *j, const jval *what, int64_t n) {
    if (what->kind == J_STR) return j_str(jstr_repeat(j, what->u.s, n));
    jval out = j_list(j, (jkind)what->kind, 4);
    for (; n > 0 && what->u.l->n; n--)
        for (size_t k = 0; k < what->u.l->n; k++) j_push(j, out, what->u.l->v[k]);
    return out;
}

jval jeval_binary(jj *j, jop op, const jval *a, const jval *b) {
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**"};
    int64_t m, n;
    double x, y;
    if (a->kind == J_UNDEF) fail_undef(j, a);
    if (op == OP_MOD && a->kind == J_STR) return j_str(jformat_percent(j, a->u.s, b));
    if (b->kind == J_UNDEF) fail_undef(j, b);
    if (j_number(a, &x) && j_number(b, &y)) {
        jval r = j_integer(a, &m) && j_integer(b, &n) ? int_op(j, op, m, n) : float_op(j, op, x, y);
        r.trusted = a->trusted && b->trusted;
        return r;
    }
    bool seq_a = a->kind == J_STR || a->kind == J_LIST || a->kind == J_TUPLE, seq_b = b->kind == J_STR || b->kind == J_LIST || b->kind == J_TUPLE;
    if (op == OP_ADD && a->kind == b->kind && a->kind == J_STR) {
        const jstr *s = a->u.s, *t = b->u.s;
        if (!s->markup && !t->markup) return j_str(jstr_concat(j, s, t));
        jstr *sum = jj_alloc(j, sizeof *sum); // safe text escapes what it meets
        *sum = *jstr_concat(j, s->markup ? s : jstr_escape(j, s), t->markup ? t : jstr_escape(j, t));
        sum->markup = true;
        return j_str(sum);
    }
    if (op == OP_ADD && a->kind == b->kind && seq_a) {
        jval out = j_list(j, (jkind)a->kind, a->u.l->n + b->u.l->n);
        for (size_t i = 0; i < a->u.l->n; i++) j_push(j, out, a->u.l->v[i]);
        for (size_t i = 0; i < b->u.l->n; i++) j_push(j, out, b->u.l->v[i]);
        return out;
    }
    if (op == OP_MUL && seq_a && j_integer(b, &n)) return repeat(j, a, n);
    if (op == OP_MUL && seq_b && j_integer(a, &n)) return repeat(j, b, n);
    jj_fail(j, E_INVALID, "unsupported operand type(s) for %s: '%s' and '%s'", names[op], jj_type(a), jj_type(b));
}

static bool compare(jj *j, jop op, const jval *a, const jval *b) {
    static const char *const names[] = {"<", "<=", ">", ">="};
    if (op == OP_EQ) return j_equal(j, a, b);
    if (op == OP_NE) return !j_equal(j, a, b);
    if (op == OP_IN) return j_contains(j, a, b);
    if (op == OP_NOTIN) return !j_contains(j, a, b);
    int c = j_compare(j, a, b, names[op - OP_LT]);
    if (c == 2) return false;
    return op == OP_LT ? c < 0 : op == OP_LE ? c <= 0 : op == OP_GT ? c > 0 : c >= 0;
}

static jval chain(jj *j, const jnode *n) {
    jval a = jeval(j, n->a);
    for (const jnode *o = n->list; o; o = o->next) {
        jval b = jeval(j, o->a);
        j->pos = n->pos;
        if (!compare(j, (jop)o->op, &a, &b)) return j_bool(false);
        a = b;
    }
    return j_bool(true);
}

static jval negate(jj *j, const jval *v, bool minus) {
    int64_t i;
    if (v->kind == J_UNDEF) fail_undef(j, v);
    jval r = *v;
    if (v->kind == J_FLOAT) {
        r.u.f = minus ? -v->u.f : v->u.f;
    } else if (j_integer(v, &i)) {
        r = j_int(i);
        if (minus && __builtin_sub_overflow((int64_t)0, i, &r.u.i)) jj_fail(j, E_LIMIT, "an integer past 64 bits");
        r.trusted = v->trusted;
    } else {
        jj_fail(j, E_INVALID, "bad operand type for unary %c: '%s'", minus ? '-' : '+', jj_type(v));
    }
    return r;
}

// --- Calls ---
jargs jeval_args(jj *j, const jnode *list) {
    jargs a = {0};
    size_t cap = 0, kw_cap = 0;
    for (const jnode *n = list; n; n = n->next) n->op == ARG_KEY ? kw_cap++ : cap++;
    a.v = jj_array(j, cap, sizeof *a.v);
    a.kw = jj_array(j, kw_cap, sizeof *a.kw);
    for (const jnode *n = list; n; n = n->next) {
        jval v = jeval(j, n->a);
        if (n->op == ARG_POS) {
            a.v[a.n++] = v;
        } else if (n->op == ARG_KEY) {
            a.kw[a.nkw++] = (jkw){n->name, v};
        } else if (n->op == ARG_STAR) {
            jlist l = j_iter(j, &v);
            jj_step(j, l.n);
            jval *all = jj_array(j, cap + l.n, sizeof *all);
            if (a.n) memcpy(all, a.v, a.n * sizeof *all);
            if (l.n) memcpy(all + a.n, l.v, l.n * sizeof *all);
            a.v = all;
            a.n += l.n;
        } else {
            if (v.kind != J_DICT) jj_fail(j, E_INVALID, "argument after ** must be a mapping, not %s", jj_type(&v));
            jkw *all = jj_array(j, kw_cap + v.u.d->n, sizeof *all);
            if (a.nkw) memcpy(all, a.kw, a.nkw * sizeof *all);
            jj_step(j, v.u.d->n);
            for (size_t i = 0; i < v.u.d->n; i++) {
                if (v.u.d->k[i].kind != J_STR) jj_fail(j, E_INVALID, "keywords must be strings");
                all[a.nkw++] = (jkw){v.u.d->k[i].u.s, v.u.d->v[i]};
            }
            a.kw = all;
        }
    }
    return a;
}

jval jcall(jj *j, const jval *f, const jargs *a) {
    switch ((jkind)f->kind) {
    case J_UNDEF: fail_undef(j, f);
    case J_FUNC: return jfunc_call(j, (jfunc)f->aux, NULL, a);
    case J_MACRO: return jmacro_call(j, f->u.macro, a);
    case J_JOINER: return jfunc_call(j, F_JOINER, f, a);
    case J_LOOP: {
        jval items;
        jbind(j, a, "loop", "iterable", 1, &items);
        return jloop_recurse(j, f->u.loop, &items);
    }
    case J_METHOD: {
        jbound *b = f->u.m;
        if (b->self.kind == J_LOOP) return jloop_call(j, b->self.u.loop, f->aux == F_LOOP_CHANGED, a);
        if (b->self.kind == J_CYCLER) return jfunc_call(j, (jfunc)f->aux, &b->self, a);
        if (!b->method->fn) jj_fail(j, E_INVALID, "calling '%s' of a %s is not allowed", b->method->name, jj_type(&b->self));
        return b->method->fn(j, &b->self, a);
    }
    default: jj_fail(j, E_INVALID, "'%s' object is not callable", jj_type(f));
    }
}

static jval collect(jj *j, const jnode *n) {
    if (n->kind == N_DICT) {
        jval d = j_dict(j);
        for (const jnode *i = n->list; i; i = i->next->next) {
            jval k = jeval(j, i), v = jeval(j, i->next);
            j_dict_set(j, d.u.d, k, v);
        }
        return d;
    }
    jval l = j_list(j, n->kind == N_LIST ? J_LIST : J_TUPLE, 4);
    for (const jnode *i = n->list; i; i = i->next) j_push(j, l, jeval(j, i));
    return l;
}

static jval eval_filter(jj *j, const jnode *n) {
    jval v = n->a ? jeval(j, n->a) : j->filter_in;
    jargs a = jeval_args(j, n->list);
    j->pos = n->pos;
    if (n->id < 0) jj_fail(j, E_INVALID, "no %s named '%.60s'", n->kind == N_FILTER ? "filter" : "test", n->name->p);
    if (n->kind == N_FILTER) return jfilter_call(j, n->id, &v, &a);
    return j_bool(jtest_call(j, n->id, &v, &a));
}

static jval eval_concat(jj *j, const jnode *n) {
    jval parts = j_list(j, J_LIST, 4);
    for (const jnode *i = n->list; i; i = i->next) j_push(j, parts, jeval(j, i));
    jbuf *b = jbuf_new(j);
    for (size_t i = 0; i < parts.u.l->n; i++) jprint_str(j, b, &parts.u.l->v[i]);
    return j_str(jbuf_done(j, b));
}

static jval eval_name(jj *j, const jnode *n) {
    jval v = jscope_get(j, n->id);
    return v.kind == J_MISSING ? j_undef(j->t->atoms[n->id]->p) : v;
}

jval jeval(jj *j, const jnode *n) {
    jval a, b, r = j_none();
    jj_enter(j);
    j->pos = n->pos;
    switch ((jnode_kind)n->kind) {
    case N_CONST: r = n->val; break;
    case N_NAME: r = eval_name(j, n); break;
    case N_LIST: case N_TUPLE: case N_DICT: r = collect(j, n); break;
    case N_ATTR:
        a = jeval(j, n->a);
        j->pos = n->pos;
        r = jget_attr(j, &a, n->name);
        break;
    case N_ITEM:
        a = jeval(j, n->a);
        if (n->b->kind == N_SLICE) {
            j->pos = n->pos;
            r = slice(j, &a, n->b);
            break;
        }
        b = jeval(j, n->b);
        j->pos = n->pos;
        r = jget_item(j, &a, &b);
        break;
    case N_SLICE: jj_fail(j, E_UNSUPPORTED, "a slice inside a tuple");
    case N_CALL: {
        a = jeval(j, n->a);
        jargs args = jeval_args(j, n->list);
        j->pos = n->pos;
        r = jcall(j, &a, &args);
        break;
    }
    case N_FILTER: case N_TEST: r = eval_filter(j, n); break;
    case N_NOT:
        a = jeval(j, n->a);
        r = j_bool(!j_true(&a));
        break;
    case N_NEG: case N_POS:
        a = jeval(j, n->a);
        r = negate(j, &a, n->kind == N_NEG);
        break;
    case N_BIN:
        a = jeval(j, n->a);
        b = jeval(j, n->b);
        j->pos = n->pos;
        r = jeval_binary(j, (jop)n->op, &a, &b);
        break;
    case N_AND: case N_OR:
        r = jeval(j, n->a);
        if (j_true(&r) == (n->kind == N_AND)) r = jeval(j, n->b);
        break;
    case N_CMP: r = chain(j, n); break;
    case N_CONCAT: r = eval_concat(j, n); break;
    case N_COND:
        a = jeval(j, n->a);
        r = j_true(&a) ? jeval(j, n->b) : n->c ? jeval(j, n->c) : j_undef("the inline if without else");
        break;
    default: jj_fail(j, E_INTERNAL, "a statement where an expression belongs");
    }
    jj_leave(j);
    return r;
}
