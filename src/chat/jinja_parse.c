// The parser, statements: tokens to a tree.
// What each node holds: N_TEXT val; N_OUT a; N_IF a = test, b = body, c = the rest (flag: an N_IF, else a body);
// N_FOR a = target, b = items, c = test or NULL, d = else body, list = body, flag = recursive; N_SET a = target, b;
// N_SETBLOCK a = target, b = filters or NULL, list; N_MACRO id, name, a = parameters (N_ARG id, name, a = default or NULL), list, op = SAW_*;
// N_CALLBLOCK a = parameters, b = N_CALL, list, op; N_FILTERBLOCK b = filters, list; N_WITH a = N_SETs, list; N_SCOPE list; N_NSREF id, name.
// Bodies are chains by `next`. Threads: jinja_internal.h.
#include <string.h>

#include "chat/jinja_internal.h"

static jnode *body(jparser *p, const char *const *ends);

static void expect_end(jparser *p) {
    if (p->tok[p->at].kind != T_BLOCK_END) jparse_fail(p, &p->tok[p->at], "'%}'");
    p->at++;
}

// From behind a tag's words to one of the ending tags (comma-separated, NULL-terminated); the end's name is the current token.
static jnode *block(jparser *p, const char *const *ends) {
    jparse_skip_op(p, ":");
    expect_end(p);
    jnode *n = body(p, ends);
    if (p->tok[p->at].kind == T_EOF) {
        char text[64] = "{% ";
        jparse_fail(p, &p->tok[p->at], strcat(strcat(text, ends[0]), " %}"));
    }
    return n;
}

static jnode *block1(jparser *p, const char *end) {
    jnode *n = block(p, (const char *const[]){end, NULL});
    p->at++;
    return n;
}

static void check_target(jparser *p, const jnode *n, const jtok *at, bool loop) {
    if (n->kind == N_TUPLE) {
        for (const jnode *i = n->list; i; i = i->next) check_target(p, i, at, loop);
    } else if (n->kind != N_NAME) {
        jparse_fail(p, at, "a name to assign to");
    } else if (loop && jstr_is(p->t->atoms[n->id], "loop")) {
        jparse_fail(p, at, "a loop variable with another name than 'loop'");
    }
}

static jnode *target(jparser *p, const char *end_name, bool with_ns) {
    const jtok *t = &p->tok[p->at];
    unsigned saw = p->saw; // storing to a name is no use of it
    jnode *n;
    if (with_ns && t->kind == T_NAME && jparse_is_op(t + 1, ".")) {
        n = jparse_node(p, N_NSREF);
        n->id = jparse_atom(p, t->p, t->len);
        p->at += 2;
        t = jparse_name(p);
        n->name = jstr_new(p->j, t->p, t->len, true);
        return n;
    }
    n = jparse_tuple(p, TUPLE_NAMES, end_name, false);
    check_target(p, n, t, end_name != NULL);
    p->saw = saw;
    return n;
}

static jnode *parse_for(jparser *p) {
    jnode *n = jparse_node(p, N_FOR);
    bool soft = p->soft, in_loop = p->in_loop;
    n->a = target(p, "in", false);
    if (!jparse_skip_name(p, "in")) jparse_fail(p, &p->tok[p->at], "'in'");
    n->b = jparse_tuple(p, TUPLE_NOCOND, "recursive", false);
    p->soft = false;
    if (jparse_skip_name(p, "if")) n->c = jparse_expr(p, true);
    n->flag = jparse_skip_name(p, "recursive");
    p->in_loop = true;
    n->list = block(p, (const char *const[]){"endfor", "else", NULL});
    p->in_loop = in_loop;
    if (jparse_skip_name(p, "else")) n->d = block(p, (const char *const[]){"endfor", NULL});
    p->at++;
    p->soft = soft;
    return n;
}

static jnode *parse_if(jparser *p) {
    jnode *first = NULL, **at = &first;
    bool soft = p->soft;
    p->soft = true;
    for (;;) {
        jnode *n = jparse_node(p, N_IF);
        *at = n;
        n->a = jparse_tuple(p, TUPLE_NOCOND, NULL, false);
        n->b = block(p, (const char *const[]){"endif", "elif", "else", NULL});
        if (jparse_skip_name(p, "elif")) {
            n->flag = true;
            at = &n->c;
            continue;
        }
        if (jparse_skip_name(p, "else")) n->c = block(p, (const char *const[]){"endif", NULL});
        p->at++;
        break;
    }
    p->soft = soft;
    return first;
}

static jnode *parse_set(jparser *p) {
    jnode *n = jparse_node(p, N_SET);
    n->a = target(p, NULL, true);
    if (jparse_skip_op(p, "=")) {
        n->b = jparse_tuple(p, TUPLE_FULL, NULL, false);
        return n;
    }
    n->kind = N_SETBLOCK;
    n->b = jparse_filters(p, NULL, false);
    bool soft = p->soft;
    p->soft = false;
    n->list = block1(p, "endset");
    p->soft = soft;
    return n;
}

static jnode *parameters(jparser *p) {
    jnode *first = NULL, **end = &first;
    bool defaults = false;
    jparse_expect_op(p, "(");
    while (!jparse_is_op(&p->tok[p->at], ")")) {
        if (first) jparse_expect_op(p, ",");
        jnode *n = jparse_node(p, N_ARG);
        const jtok *t = jparse_name(p);
        n->id = jparse_atom(p, t->p, t->len);
        n->name = p->t->atoms[n->id];
        for (const jnode *o = first; o; o = o->next)
            if (o->id == n->id) jparse_fail(p, t, "a parameter only once");
        if (jparse_skip_op(p, "=")) {
            n->a = jparse_expr(p, true);
            defaults = true;
        } else if (defaults) {
            jparse_fail(p, t, "a default for this parameter, since one before it has one");
        }
        *end = n;
        end = &n->next;
    }
    jparse_expect_op(p, ")");
    return first;
}

static void macro_body(jparser *p, jnode *n, const char *end) {
    unsigned saw = p->saw;
    bool soft = p->soft, in_loop = p->in_loop;
    p->saw = 0;
    p->soft = p->in_loop = false;
    n->list = block1(p, end);
    n->op = (uint8_t)p->saw;
    p->saw |= saw;
    p->soft = soft;
    p->in_loop = in_loop;
}

static jnode *parse_macro(jparser *p) {
    jnode *n = jparse_node(p, N_MACRO);
    const jtok *t = jparse_name(p);
    n->id = jparse_atom(p, t->p, t->len);
    n->name = p->t->atoms[n->id];
    n->a = parameters(p);
    macro_body(p, n, "endmacro");
    return n;
}

static jnode *parse_call(jparser *p) {
    jnode *n = jparse_node(p, N_CALLBLOCK);
    const jtok *t = &p->tok[p->at];
    if (jparse_is_op(t, "(")) n->a = parameters(p);
    t = &p->tok[p->at];
    n->b = jparse_expr(p, true);
    if (n->b->kind != N_CALL) jparse_fail(p, t, "a call");
    n->name = jstr_view(p->j, "caller", 6, true);
    macro_body(p, n, "endcall");
    return n;
}

static jnode *parse_with(jparser *p) {
    jnode *n = jparse_node(p, N_WITH), **end = &n->a;
    while (p->tok[p->at].kind != T_BLOCK_END) {
        if (n->a) jparse_expect_op(p, ",");
        *end = jparse_node(p, N_SET);
        (*end)->a = target(p, NULL, false);
        jparse_expect_op(p, "=");
        (*end)->b = jparse_expr(p, true);
        end = &(*end)->next;
    }
    bool soft = p->soft;
    p->soft = false;
    n->list = block1(p, "endwith");
    p->soft = soft;
    return n;
}

static jnode *parse_print(jparser *p) {
    jnode *first = NULL, **end = &first;
    while (p->tok[p->at].kind != T_BLOCK_END) {
        if (first) jparse_expect_op(p, ",");
        *end = jparse_node(p, N_OUT);
        (*end)->a = jparse_expr(p, true);
        end = &(*end)->next;
    }
    return first;
}

static jnode *simple_block(jparser *p, jnode_kind kind, const char *end) {
    jnode *n = jparse_node(p, kind);
    bool soft = p->soft;
    if (kind == N_FILTERBLOCK) n->b = jparse_filters(p, NULL, true);
    p->soft = false;
    n->list = block1(p, end);
    p->soft = soft;
    return n;
}

static jnode *statement(jparser *p) {
    static const char *const known[] = {"include", "import", "from", "extends", "block", "autoescape"};
    const jtok *t = jparse_name(p);
    if (jparse_is_name(t, "for")) return parse_for(p);
    if (jparse_is_name(t, "if")) return parse_if(p);
    if (jparse_is_name(t, "set")) return parse_set(p);
    if (jparse_is_name(t, "macro")) return parse_macro(p);
    if (jparse_is_name(t, "call")) return parse_call(p);
    if (jparse_is_name(t, "with")) return parse_with(p);
    if (jparse_is_name(t, "print")) return parse_print(p);
    if (jparse_is_name(t, "filter")) return simple_block(p, N_FILTERBLOCK, "endfilter");
    if (jparse_is_name(t, "generation")) return simple_block(p, N_SCOPE, "endgeneration");
    if (jparse_is_name(t, "break") || jparse_is_name(t, "continue")) {
        if (!p->in_loop) jparse_fail(p, t, "a loop around it");
        p->at--;
        jnode *n = jparse_node(p, t->p[0] == 'b' ? N_BREAK : N_CONTINUE);
        p->at++;
        return n;
    }
    p->j->pos = t->pos;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (jparse_is_name(t, known[i])) jj_fail(p->j, E_UNSUPPORTED, "the tag '%s' is not supported: a chat template stands alone", known[i]);
    jj_fail(p->j, E_INVALID, "unknown tag '%.*s'", t->len > 40 ? 40 : (int)t->len, t->p);
}

static jnode *body(jparser *p, const char *const *ends) {
    jnode *first = NULL, **end = &first;
    jparse_enter(p);
    for (;;) {
        const jtok *t = &p->tok[p->at];
        jnode *n;
        if (t->kind == T_DATA) {
            n = jparse_node(p, N_TEXT);
            n->val = t->val;
            p->at++;
        } else if (t->kind == T_VAR_BEGIN) {
            p->at++;
            n = jparse_node(p, N_OUT);
            n->a = jparse_tuple(p, TUPLE_FULL, NULL, false);
            if (p->tok[p->at].kind != T_VAR_END) jparse_fail(p, &p->tok[p->at], "'}}'");
            p->at++;
        } else if (t->kind == T_BLOCK_BEGIN) {
            p->at++;
            for (size_t i = 0; ends && ends[i]; i++)
                if (jparse_is_name(&p->tok[p->at], ends[i])) {
                    p->depth--;
                    return first;
                }
            n = statement(p);
            expect_end(p);
        } else {
            p->depth--;
            return first;
        }
        *end = n;
        while (*end) end = &(*end)->next;
    }
}

jnode *jparse(jparser *p) {
    jnode *n = body(p, NULL);
    if (p->tok[p->at].kind != T_EOF) jparse_fail(p, &p->tok[p->at], "the end of the template");
    return n;
}
