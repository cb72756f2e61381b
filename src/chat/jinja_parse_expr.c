// The parser, expressions: Jinja2's grammar, level by level.
// What each node holds: N_CONST val; N_NAME id = atom; N_LIST, N_TUPLE, N_CONCAT list; N_DICT list = key, value, key, ...;
// N_ATTR a, name; N_ITEM a, b; N_SLICE a, b, c (NULL when absent); N_CALL a, list = N_ARG; N_FILTER and N_TEST a, id, name, list;
// N_BIN op, a, b; N_CMP a, list = N_ARG with op and a; N_COND a = test, b, c (NULL: undefined); N_ARG op, name, a.
// Threads: jinja_internal.h.
#include <string.h>

#include "chat/jinja_internal.h"

enum { MAX_DEPTH = 200 }; // of nested expressions and blocks

void jparse_enter(jparser *p) {
    p->j->pos = p->tok[p->at].pos;
    if (++p->depth > MAX_DEPTH) jj_fail(p->j, E_LIMIT, "nested deeper than %d", MAX_DEPTH);
}

jnode *jparse_node(jparser *p, jnode_kind kind) {
    jnode *n = jj_alloc(p->j, sizeof *n);
    memset(n, 0, sizeof *n);
    n->kind = (uint8_t)kind;
    n->pos = p->tok[p->at].pos;
    return n;
}

void jparse_fail(jparser *p, const jtok *t, const char *expected) {
    p->j->pos = t->pos;
    if (t->kind == T_EOF) jj_fail(p->j, E_INVALID, "the template ends where %s is expected", expected);
    jj_fail(p->j, E_INVALID, "expected %s, got '%.*s'", expected, t->len > 40 ? 40 : (int)t->len, t->p);
}

bool jparse_is_op(const jtok *t, const char *op) {
    return t->kind == T_OP && t->len == strlen(op) && !memcmp(t->p, op, t->len);
}
bool jparse_is_name(const jtok *t, const char *name) { return t->kind == T_NAME && t->len == strlen(name) && !memcmp(t->p, name, t->len); }
bool jparse_skip_name(jparser *p, const char *name) { return jparse_is_name(&p->tok[p->at], name) && (p->at++, true); }
bool jparse_skip_op(jparser *p, const char *op) { return jparse_is_op(&p->tok[p->at], op) && (p->at++, true); }
void jparse_expect_op(jparser *p, const char *op) {
    char text[8] = "'";
    if (!jparse_skip_op(p, op)) jparse_fail(p, &p->tok[p->at], strcat(strcat(text, op), "'"));
}
const jtok *jparse_name(jparser *p) {
    if (p->tok[p->at].kind != T_NAME) jparse_fail(p, &p->tok[p->at], "a name");
    return &p->tok[p->at++];
}

int32_t jparse_atom(jparser *p, const char *s, size_t n) {
    chat_template *t = p->t;
    for (size_t i = 0; i < t->natoms; i++)
        if (t->atoms[i]->len == n && !memcmp(t->atoms[i]->p, s, n)) return (int32_t)i;
    if (t->natoms == 4096) jj_fail(p->j, E_LIMIT, "more than 4096 different names");
    if (t->natoms == p->atoms_cap) {
        p->atoms_cap = p->atoms_cap ? p->atoms_cap * 2 : 64;
        const jstr **bigger = jj_array(p->j, p->atoms_cap, sizeof *bigger);
        if (t->natoms) memcpy(bigger, t->atoms, t->natoms * sizeof *bigger);
        t->atoms = bigger;
    }
    t->atoms[t->natoms] = jstr_new(p->j, s, n, true);
    return (int32_t)t->natoms++;
}

static jnode *binary(jparser *p, jnode_kind kind, int op, jnode *a, jnode *b) {
    jnode *n = jparse_node(p, kind);
    n->pos = a->pos;
    n->op = (uint8_t)op;
    n->a = a;
    n->b = b;
    // a chain of operators nests to the left: bounded like other nesting
    if (++p->depth > 4 * MAX_DEPTH) jj_fail(p->j, E_LIMIT, "an expression of more than %d parts", 3 * MAX_DEPTH);
    return n;
}

static jnode *args(jparser *p) { // behind '('
    jnode *first = NULL, **end = &first;
    bool keys = false, star = false, dstar = false;
    while (!jparse_is_op(&p->tok[p->at], ")")) {
        if (first) {
            jparse_expect_op(p, ",");
            if (jparse_is_op(&p->tok[p->at], ")")) break;
        }
        jnode *n = jparse_node(p, N_ARG);
        const jtok *t = &p->tok[p->at];
        if (jparse_skip_op(p, "*")) {
            if (star || dstar) jparse_fail(p, t, "at most one *argument, before **");
            n->op = ARG_STAR;
            star = true;
        } else if (jparse_skip_op(p, "**")) {
            if (dstar) jparse_fail(p, t, "at most one **argument");
            n->op = ARG_DSTAR;
            dstar = true;
        } else if (t->kind == T_NAME && jparse_is_op(t + 1, "=")) {
            if (dstar) jparse_fail(p, t, "no argument behind **");
            n->op = ARG_KEY;
            n->name = jstr_new(p->j, t->p, t->len, true);
            for (const jnode *o = first; o; o = o->next)
                if (o->op == ARG_KEY && jstr_eq(o->name, n->name)) jparse_fail(p, t, "a keyword argument only once");
            keys = true;
            p->at += 2;
        } else {
            if (keys || star || dstar) jparse_fail(p, t, "no plain argument behind a named one");
            n->op = ARG_POS;
        }
        n->a = jparse_expr(p, true);
        *end = n;
        end = &n->next;
    }
    jparse_expect_op(p, ")");
    return first;
}

static jnode *call(jparser *p, jnode *f) {
    jnode *n = jparse_node(p, N_CALL);
    p->at++;
    n->a = f;
    n->list = args(p);
    return n;
}

static jnode *primary(jparser *p) {
    const jtok *t = &p->tok[p->at];
    jnode *n;
    if (t->kind == T_NAME) {
        bool yes = jparse_is_name(t, "true") || jparse_is_name(t, "True"), no = jparse_is_name(t, "false") || jparse_is_name(t, "False");
        if (yes || no || jparse_is_name(t, "none") || jparse_is_name(t, "None")) {
            n = jparse_node(p, N_CONST);
            n->val = yes || no ? j_bool(yes) : j_none();
        } else {
            n = jparse_node(p, N_NAME);
            n->id = jparse_atom(p, t->p, t->len);
            p->saw |= jparse_is_name(t, "caller") ? SAW_CALLER : jparse_is_name(t, "varargs") ? SAW_VARARGS : jparse_is_name(t, "kwargs") ? SAW_KWARGS : 0;
        }
        p->at++;
    } else if (t->kind == T_STR) {
        n = jparse_node(p, N_CONST);
        n->val = t->val;
        for (p->at++; p->tok[p->at].kind == T_STR; p->at++) n->val = j_str(jstr_concat(p->j, n->val.u.s, p->tok[p->at].val.u.s));
    } else if (t->kind == T_INT || t->kind == T_FLOAT) {
        n = jparse_node(p, N_CONST);
        n->val = t->val;
        p->at++;
    } else if (jparse_skip_op(p, "(")) {
        n = jparse_tuple(p, TUPLE_FULL, NULL, true);
        jparse_expect_op(p, ")");
    } else if (jparse_is_op(t, "[") || jparse_is_op(t, "{")) {
        bool dict = t->p[0] == '{';
        n = jparse_node(p, dict ? N_DICT : N_LIST);
        p->at++;
        for (jnode **end = &n->list; !jparse_is_op(&p->tok[p->at], dict ? "}" : "]");) {
            if (n->list) jparse_expect_op(p, ",");
            if (jparse_is_op(&p->tok[p->at], dict ? "}" : "]")) break;
            *end = jparse_expr(p, true);
            end = &(*end)->next;
            if (dict) {
                jparse_expect_op(p, ":");
                *end = jparse_expr(p, true);
                end = &(*end)->next;
            }
        }
        jparse_expect_op(p, dict ? "}" : "]");
    } else {
        jparse_fail(p, t, "an expression");
    }
    return n;
}

static jnode *subscribed(jparser *p) {
    const jtok *t = &p->tok[p->at];
    jnode *first = NULL;
    if (!jparse_is_op(t, ":")) {
        first = jparse_expr(p, true);
        if (!jparse_is_op(&p->tok[p->at], ":")) return first;
    }
    jnode *n = jparse_node(p, N_SLICE);
    n->a = first;
    for (jnode **part = &n->b; jparse_skip_op(p, ":"); part = &n->c) {
        t = &p->tok[p->at];
        if (!jparse_is_op(t, ":") && !jparse_is_op(t, "]") && !jparse_is_op(t, ",")) *part = jparse_expr(p, true);
        if (part == &n->c) break;
    }
    return n;
}

static jnode *subscript(jparser *p, jnode *of) {
    jnode *n = jparse_node(p, N_ITEM);
    n->a = of;
    if (jparse_skip_op(p, ".")) {
        const jtok *t = &p->tok[p->at++];
        if (t->kind == T_NAME) {
            n->kind = N_ATTR;
            n->name = jstr_new(p->j, t->p, t->len, true);
        } else if (t->kind == T_INT) {
            p->at--;
            n->b = jparse_node(p, N_CONST);
            p->at++;
            n->b->val = t->val;
        } else {
            jparse_fail(p, t, "a name or number behind '.'");
        }
        return n;
    }
    jparse_expect_op(p, "[");
    jnode *first = NULL, **end = &first;
    size_t count = 0;
    for (; !jparse_is_op(&p->tok[p->at], "]"); count++) {
        if (first) jparse_expect_op(p, ",");
        *end = subscribed(p);
        end = &(*end)->next;
    }
    if (count == 1) {
        n->b = first;
    } else {
        n->b = jparse_node(p, N_TUPLE);
        n->b->list = first;
    }
    jparse_expect_op(p, "]");
    return n;
}

static jnode *postfix(jparser *p, jnode *n) {
    int depth = p->depth;
    for (;;) {
        const jtok *t = &p->tok[p->at];
        if (jparse_is_op(t, ".") || jparse_is_op(t, "[")) n = subscript(p, n);
        else if (jparse_is_op(t, "(")) n = call(p, n);
        else break;
        if (++p->depth > 4 * MAX_DEPTH) jj_fail(p->j, E_LIMIT, "an expression of more than %d parts", 3 * MAX_DEPTH);
    }
    p->depth = depth;
    return n;
}

static const jstr *dotted(jparser *p) {
    const jtok *t = jparse_name(p);
    const char *from = t->p, *to = t->p + t->len;
    while (jparse_skip_op(p, ".")) {
        t = jparse_name(p);
        to = t->p + t->len;
    }
    return jstr_new(p->j, from, (size_t)(to - from), true);
}

jnode *jparse_filters(jparser *p, jnode *n, bool start) {
    int depth = p->depth;
    while (start || jparse_is_op(&p->tok[p->at], "|")) {
        if (!start) p->at++;
        start = false;
        jnode *f = jparse_node(p, N_FILTER);
        f->a = n;
        f->name = dotted(p);
        f->id = jfilter_find(f->name->p, f->name->len);
        if (f->id < 0 && !p->soft) {
            p->j->pos = f->pos;
            jj_fail(p->j, E_INVALID, "no filter named '%.60s'", f->name->p);
        }
        if (jparse_skip_op(p, "(")) f->list = args(p);
        n = f;
        if (++p->depth > 4 * MAX_DEPTH) jj_fail(p->j, E_LIMIT, "an expression of more than %d parts", 3 * MAX_DEPTH);
    }
    p->depth = depth;
    return n;
}

static jnode *test(jparser *p, jnode *of) { // behind `is`
    bool negated = jparse_skip_name(p, "not");
    jnode *n = jparse_node(p, N_TEST);
    n->a = of;
    n->name = dotted(p);
    n->id = jtest_find(n->name->p, n->name->len);
    if (n->id < 0 && !p->soft) {
        p->j->pos = n->pos;
        jj_fail(p->j, E_INVALID, "no test named '%.60s'", n->name->p);
    }
    const jtok *t = &p->tok[p->at];
    if (jparse_skip_op(p, "(")) {
        n->list = args(p);
    } else if ((t->kind == T_NAME || t->kind == T_STR || t->kind == T_INT || t->kind == T_FLOAT || jparse_is_op(t, "[") || jparse_is_op(t, "{")) &&
               !jparse_is_name(t, "else") && !jparse_is_name(t, "or") && !jparse_is_name(t, "and")) {
        if (jparse_is_name(t, "is")) jparse_fail(p, t, "no chain of tests with `is`");
        n->list = jparse_node(p, N_ARG);
        n->list->op = ARG_POS;
        n->list->a = postfix(p, primary(p));
    }
    if (!negated) return n;
    jnode *not = jparse_node(p, N_NOT);
    not->pos = n->pos;
    not->a = n;
    return not;
}

static jnode *filter_expr(jparser *p, jnode *n) {
    int depth = p->depth;
    for (;;) {
        const jtok *t = &p->tok[p->at];
        if (jparse_is_op(t, "|")) n = jparse_filters(p, n, false);
        else if (jparse_skip_name(p, "is")) n = test(p, n);
        else if (jparse_is_op(t, "(")) n = call(p, n);
        else break;
        if (++p->depth > 4 * MAX_DEPTH) jj_fail(p->j, E_LIMIT, "an expression of more than %d parts", 3 * MAX_DEPTH);
    }
    p->depth = depth;
    return n;
}

static jnode *unary(jparser *p, bool filters) {
    jnode *n;
    const jtok *t = &p->tok[p->at];
    if (jparse_is_op(t, "-") || jparse_is_op(t, "+")) {
        jparse_enter(p);
        n = jparse_node(p, t->p[0] == '-' ? N_NEG : N_POS);
        p->at++;
        n->a = unary(p, false);
        p->depth--;
    } else {
        n = primary(p);
    }
    n = postfix(p, n);
    return filters ? filter_expr(p, n) : n;
}

static jnode *power(jparser *p) {
    jnode *n = unary(p, true);
    while (jparse_skip_op(p, "**")) n = binary(p, N_BIN, OP_POW, n, unary(p, true));
    return n;
}

static jnode *product(jparser *p) {
    jnode *n = power(p);
    for (;;) {
        int op = jparse_skip_op(p, "*") ? OP_MUL : jparse_skip_op(p, "/") ? OP_DIV : jparse_skip_op(p, "//") ? OP_FLOORDIV : jparse_skip_op(p, "%") ? OP_MOD : -1;
        if (op < 0) return n;
        n = binary(p, N_BIN, op, n, power(p));
    }
}

static jnode *concat(jparser *p) {
    jnode *first = product(p);
    if (!jparse_is_op(&p->tok[p->at], "~")) return first;
    jnode *n = jparse_node(p, N_CONCAT), **end = &first->next;
    n->list = first;
    while (jparse_skip_op(p, "~")) {
        *end = product(p);
        end = &(*end)->next;
    }
    return n;
}

static jnode *sum(jparser *p) {
    jnode *n = concat(p);
    for (;;) {
        int op = jparse_skip_op(p, "+") ? OP_ADD : jparse_skip_op(p, "-") ? OP_SUB : -1;
        if (op < 0) return n;
        n = binary(p, N_BIN, op, n, concat(p));
    }
}

static int compare_op(jparser *p) {
    static const char *const ops[] = {"==", "!=", "<", "<=", ">", ">="};
    for (int i = 0; i < 6; i++)
        if (jparse_skip_op(p, ops[i])) return OP_EQ + i;
    if (jparse_skip_name(p, "in")) return OP_IN;
    if (jparse_is_name(&p->tok[p->at], "not") && jparse_is_name(&p->tok[p->at + 1], "in")) {
        p->at += 2;
        return OP_NOTIN;
    }
    return -1;
}

static jnode *comparison(jparser *p) {
    jnode *a = sum(p), *n = NULL, **end = NULL;
    for (int op; (op = compare_op(p)) >= 0;) {
        if (!n) {
            n = jparse_node(p, N_CMP);
            n->pos = a->pos;
            n->a = a;
            end = &n->list;
        }
        *end = jparse_node(p, N_ARG);
        (*end)->op = (uint8_t)op;
        (*end)->a = sum(p);
        end = &(*end)->next;
    }
    return n ? n : a;
}

static jnode *negation(jparser *p) {
    if (!jparse_is_name(&p->tok[p->at], "not")) return comparison(p);
    jparse_enter(p);
    jnode *n = jparse_node(p, N_NOT);
    p->at++;
    n->a = negation(p);
    p->depth--;
    return n;
}

static jnode *conjunction(jparser *p) {
    jnode *n = negation(p);
    while (jparse_skip_name(p, "and")) n = binary(p, N_AND, 0, n, negation(p));
    return n;
}

static jnode *disjunction(jparser *p) {
    jnode *n = conjunction(p);
    while (jparse_skip_name(p, "or")) n = binary(p, N_OR, 0, n, conjunction(p));
    return n;
}

// A filter that does not exist is refused when compiling, but inside a conditional only when it is reached. The parser learns too
// late that `a|f if b` is one: so names are looked at again for what stands before an `if`.
jnode *jparse_expr(jparser *p, bool with_cond) {
    int depth = p->depth;
    bool soft = p->soft;
    jparse_enter(p);
    if (with_cond && !soft) { // is there an `if` before this expression ends?
        int open = 0;
        for (size_t i = p->at; p->tok[i].kind != T_EOF && p->tok[i].kind != T_VAR_END && p->tok[i].kind != T_BLOCK_END && i < p->at + 512; i++) {
            const jtok *t = &p->tok[i];
            if (jparse_is_op(t, "(") || jparse_is_op(t, "[") || jparse_is_op(t, "{")) open++;
            if ((jparse_is_op(t, ")") || jparse_is_op(t, "]") || jparse_is_op(t, "}")) && --open < 0) break;
            if (!open && jparse_is_op(t, ",")) break;
            if (!open && jparse_is_name(t, "if")) p->soft = true;
        }
        jj_step(p->j, 1);
    }
    jnode *n = disjunction(p);
    while (with_cond && jparse_skip_name(p, "if")) {
        jnode *cond = jparse_node(p, N_COND);
        cond->pos = n->pos;
        cond->b = n;
        cond->a = disjunction(p);
        if (jparse_skip_name(p, "else")) cond->c = jparse_expr(p, true);
        n = cond;
        if (++p->depth > 4 * MAX_DEPTH) jj_fail(p->j, E_LIMIT, "an expression of more than %d parts", 3 * MAX_DEPTH);
    }
    p->soft = soft;
    p->depth = depth;
    return n;
}

static bool tuple_end(const jtok *t, const char *name) {
    return t->kind == T_VAR_END || t->kind == T_BLOCK_END || jparse_is_op(t, ")") || (name && jparse_is_name(t, name));
}

jnode *jparse_tuple(jparser *p, jtuple_mode mode, const char *end_name, bool parens) {
    jnode *tuple = jparse_node(p, N_TUPLE), **end = &tuple->list;
    bool is_tuple = false;
    jparse_enter(p);
    for (;;) {
        if (tuple->list) jparse_expect_op(p, ",");
        if (tuple_end(&p->tok[p->at], end_name)) break;
        *end = mode == TUPLE_NAMES ? primary(p) : jparse_expr(p, mode == TUPLE_FULL);
        end = &(*end)->next;
        if (!jparse_is_op(&p->tok[p->at], ",")) break;
        is_tuple = true;
    }
    p->depth--;
    if (is_tuple) return tuple;
    if (tuple->list) return tuple->list;
    if (!parens) jparse_fail(p, &p->tok[p->at], "an expression");
    return tuple;
}
