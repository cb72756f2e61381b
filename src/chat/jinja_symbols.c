// Which variables the template's outermost level hides. Jinja2 decides at compile time where a name is read from: one that this level
// assigns before it reads it, and on every path, is its own from the beginning, so that a loop or macro that stands before the
// assignment finds it undefined and not in the context. (Inner levels find the same names at run time as Jinja2 does at compile time.)
// Threads: jinja_internal.h.
#include <string.h>

#include "chat/jinja_internal.h"

enum { UNSEEN, FROM_CONTEXT, OWN };

typedef struct symbols { // by atom
    uint8_t *kind, *stored;
} symbols;

typedef struct walker {
    jj     *j;
    size_t  n;
    symbols level[256][3]; // scratch for the branches of nested ifs
} walker;

static void read_names(walker *w, symbols *s, const jnode *n) {
    for (; n; n = n->next) {
        if (n->kind == N_NAME && s->kind[n->id] == UNSEEN) s->kind[n->id] = FROM_CONTEXT;
        read_names(w, s, n->a);
        read_names(w, s, n->b);
        read_names(w, s, n->c);
        read_names(w, s, n->list);
    }
}

static void read_one(walker *w, symbols *s, const jnode *n) { // an expression, without what follows it in a list
    if (!n) return;
    jnode alone = *n;
    alone.next = NULL;
    read_names(w, s, &alone);
}

static void store(symbols *s, const jnode *target) {
    if (target->kind == N_TUPLE) {
        for (const jnode *n = target->list; n; n = n->next) store(s, n);
    } else if (target->kind == N_NSREF) {
        if (s->kind[target->id] == UNSEEN) s->kind[target->id] = FROM_CONTEXT;
    } else {
        s->stored[target->id] = 1;
        if (s->kind[target->id] == UNSEEN) s->kind[target->id] = OWN;
    }
}

static void walk(walker *w, symbols *s, const jnode *n, int depth);

static symbols *branch(walker *w, const symbols *from, int depth, int which) {
    symbols *s = &w->level[depth][which];
    if (!s->kind) {
        s->kind = jj_alloc(w->j, w->n);
        s->stored = jj_alloc(w->j, w->n);
    }
    memcpy(s->kind, from->kind, w->n);
    memcpy(s->stored, from->stored, w->n);
    jj_step(w->j, 1 + w->n / 64);
    return s;
}

static void walk_if(walker *w, symbols *s, const jnode *n, int depth, bool body_only) {
    read_one(w, s, n->a);
    symbols *b[3];
    for (int i = 0; i < 3; i++) b[i] = branch(w, s, depth, i);
    walk(w, b[0], n->b, depth + 1);
    const jnode *rest = n;
    while (rest->flag && !body_only) { // each elif counts as an if of its own without an else
        rest = rest->c;
        walk_if(w, b[1], rest, depth + 1, true);
    }
    if (!body_only) walk(w, b[2], rest->c, depth + 1);
    for (size_t i = 0; i < w->n; i++) {
        int count = s->stored[i] ? 3 : b[0]->stored[i] + b[1]->stored[i] + b[2]->stored[i];
        uint8_t before = s->kind[i];
        for (int k = 0; k < 3; k++)
            if (b[k]->kind[i] != UNSEEN) s->kind[i] = b[k]->kind[i];
        if (before != UNSEEN) s->kind[i] = before;
        if (count && count < 3) s->kind[i] = FROM_CONTEXT;
        s->stored[i] |= count > 0;
    }
}

static void walk(walker *w, symbols *s, const jnode *n, int depth) {
    if (depth >= 255) return; // deeper than the parser lets through
    for (; n; n = n->next) {
        switch ((jnode_kind)n->kind) {
        case N_OUT: read_one(w, s, n->a); break;
        case N_IF: walk_if(w, s, n, depth, false); break;
        case N_FOR: read_one(w, s, n->b); break;
        case N_SET:
            read_one(w, s, n->b);
            store(s, n->a);
            break;
        case N_SETBLOCK: store(s, n->a); break;
        case N_MACRO:
            s->stored[n->id] = 1;
            if (s->kind[n->id] == UNSEEN) s->kind[n->id] = OWN;
            break;
        case N_CALLBLOCK: case N_FILTERBLOCK: read_one(w, s, n->b); break;
        case N_WITH:
            for (const jnode *v = n->a; v; v = v->next) read_one(w, s, v->b);
            break;
        default: break;
        }
    }
}

void jsymbols(jj *j, chat_template *t) {
    walker *w = jj_alloc(j, sizeof *w);
    memset(w, 0, sizeof *w);
    w->j = j;
    w->n = t->natoms + 1;
    symbols s = {jj_alloc(j, w->n), jj_alloc(j, w->n)};
    memset(s.kind, 0, w->n);
    memset(s.stored, 0, w->n);
    walk(w, &s, t->body, 0);
    bool *hidden = jj_alloc(j, w->n);
    for (size_t i = 0; i < w->n; i++) hidden[i] = s.kind[i] == OWN;
    t->hidden = hidden;
}
