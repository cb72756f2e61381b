// Tests: what stands behind `is`.
// Threads: jinja_internal.h.
#include <string.h>

#include "chat/jinja_internal.h"

typedef enum test_id {
    IS_BOOLEAN, IS_CALLABLE, IS_DEFINED, IS_DIVISIBLE, IS_EQ, IS_ESCAPED, IS_EVEN, IS_FALSE, IS_FILTER, IS_FLOAT, IS_GE, IS_GT, IS_IN,
    IS_INTEGER, IS_ITERABLE, IS_LE, IS_LOWER, IS_LT, IS_MAPPING, IS_NE, IS_NONE, IS_NUMBER, IS_ODD, IS_SAMEAS, IS_SEQUENCE, IS_STRING, IS_TEST,
    IS_TRUE, IS_UNDEFINED, IS_UPPER
} test_id;

static const struct { const char *name; test_id id; } names[] = {
    {"boolean", IS_BOOLEAN}, {"callable", IS_CALLABLE}, {"defined", IS_DEFINED}, {"divisibleby", IS_DIVISIBLE}, {"eq", IS_EQ}, {"equalto", IS_EQ},
    {"==", IS_EQ}, {"escaped", IS_ESCAPED}, {"even", IS_EVEN}, {"false", IS_FALSE}, {"filter", IS_FILTER}, {"float", IS_FLOAT}, {"ge", IS_GE},
    {">=", IS_GE}, {"gt", IS_GT}, {"greaterthan", IS_GT}, {">", IS_GT}, {"in", IS_IN}, {"integer", IS_INTEGER}, {"iterable", IS_ITERABLE},
    {"le", IS_LE}, {"<=", IS_LE}, {"lower", IS_LOWER}, {"lt", IS_LT}, {"lessthan", IS_LT}, {"<", IS_LT}, {"mapping", IS_MAPPING}, {"ne", IS_NE},
    {"!=", IS_NE}, {"none", IS_NONE}, {"number", IS_NUMBER}, {"odd", IS_ODD}, {"sameas", IS_SAMEAS}, {"sequence", IS_SEQUENCE},
    {"string", IS_STRING}, {"test", IS_TEST}, {"true", IS_TRUE}, {"undefined", IS_UNDEFINED}, {"upper", IS_UPPER},
};

int jtest_find(const char *name, size_t n) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i].name) == n && !memcmp(names[i].name, name, n)) return (int)names[i].id;
    return -1;
}

static bool order(jj *j, test_id id, const jval *a, const jval *b) {
    int c = j_compare(j, a, b, id == IS_LT ? "<" : id == IS_LE ? "<=" : id == IS_GT ? ">" : ">=");
    if (c == 2) return false;
    return id == IS_LT ? c < 0 : id == IS_LE ? c <= 0 : id == IS_GT ? c > 0 : c >= 0;
}

static bool same(jj *j, const jval *a, const jval *b) { // identity: of small values it is equality of the same type
    if (a->kind != b->kind) return false;
    switch ((jkind)a->kind) {
    case J_LIST: case J_TUPLE: case J_DICT: case J_NS: case J_MACRO: return a->u.l == b->u.l;
    default: return j_equal(j, a, b);
    }
}

static bool modulo(jj *j, const jval *v, const jval *by, bool odd) {
    jval m = jeval_binary(j, OP_MOD, v, by), want = j_int(odd);
    return j_equal(j, &m, &want);
}

static bool case_is(jj *j, const jval *v, bool upper) {
    jval s = j_str(jprint_string(j, v)), r;
    jargs none = {0};
    const jmethod *m = jmethod_find(&s, upper ? jstr_view(j, "isupper", 7, true) : jstr_view(j, "islower", 7, true));
    r = m->fn(j, &s, &none);
    return r.u.b;
}

bool jtest_call(jj *j, int id, const jval *v, const jargs *a) {
    jval b = j_missing(), two = j_int(2);
    bool binary = id == IS_DIVISIBLE || id == IS_EQ || id == IS_NE || id == IS_IN || id == IS_SAMEAS || (id == IS_GE || id == IS_GT || id == IS_LE || id == IS_LT);
    if (binary) jbind(j, a, "this test", id == IS_DIVISIBLE ? "num" : id == IS_SAMEAS ? "other" : id == IS_IN ? "seq" : "b", 1, &b);
    else jbind(j, a, "this test", "", 0, NULL);
    int k = v->kind;
    switch ((test_id)id) {
    case IS_BOOLEAN: return k == J_BOOL;
    case IS_CALLABLE: return k == J_UNDEF || k == J_FUNC || k == J_METHOD || k == J_MACRO || k == J_JOINER || k == J_LOOP;
    case IS_DEFINED: return k != J_UNDEF;
    case IS_UNDEFINED: return k == J_UNDEF;
    case IS_DIVISIBLE: return modulo(j, v, &b, false);
    case IS_EVEN: return modulo(j, v, &two, false);
    case IS_ODD: return modulo(j, v, &two, true);
    case IS_EQ: return j_equal(j, v, &b);
    case IS_NE: return !j_equal(j, v, &b);
    case IS_GE: case IS_GT: case IS_LE: case IS_LT: return order(j, (test_id)id, v, &b);
    case IS_IN: return j_contains(j, v, &b);
    case IS_ESCAPED: return k == J_STR && v->u.s->markup;
    case IS_TRUE: return k == J_BOOL && v->u.b;
    case IS_FALSE: return k == J_BOOL && !v->u.b;
    case IS_FILTER: return k == J_STR && jfilter_find(v->u.s->p, v->u.s->len) >= 0;
    case IS_TEST: return k == J_STR && jtest_find(v->u.s->p, v->u.s->len) >= 0;
    case IS_FLOAT: return k == J_FLOAT;
    case IS_INTEGER: return k == J_INT;
    case IS_NUMBER: return k == J_INT || k == J_FLOAT || k == J_BOOL;
    case IS_STRING: return k == J_STR;
    case IS_NONE: return k == J_NONE;
    case IS_MAPPING: return k == J_DICT;
    case IS_ITERABLE: return j_iterable(v);
    case IS_SEQUENCE: return k == J_UNDEF || k == J_STR || k == J_LIST || k == J_TUPLE || k == J_DICT || k == J_RANGE;
    case IS_SAMEAS: return same(j, v, &b);
    case IS_LOWER: return case_is(j, v, false);
    case IS_UPPER: return case_is(j, v, true);
    }
    return false;
}
