// Values as text: Python's str() and repr(), and json.dumps as transformers' tojson calls it.
// Text that is made up here (brackets, quotes, escapes) is untrusted; digits and True, False, None are as their value is.
// Threads: jinja_internal.h.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat/jinja_internal.h"

// The shortest digits that read back as f, laid out as Python does: an exponent below 1e-4 and from 1e16.
void jprint_float(double f, char out[40]) {
    if (isnan(f) || isinf(f)) {
        strcpy(out, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char digits[32], all[32];
    int precision = 0;
    do snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (strtod(digits, NULL) != f && ++precision < 17);
    char *e = strchr(digits, 'e');
    int exponent = atoi(e + 1), n = 0, at = 0;
    for (const char *p = digits; p < e; p++)
        if (*p >= '0' && *p <= '9') all[n++] = *p;
    if (digits[0] == '-') out[at++] = '-';
    if (exponent < -4 || exponent >= 16) {
        out[at++] = all[0];
        if (n > 1) out[at++] = '.';
        for (int i = 1; i < n; i++) out[at++] = all[i];
        snprintf(out + at, 16, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    if (exponent < 0) {
        out[at++] = '0';
        out[at++] = '.';
        for (int i = -1; i > exponent; i--) out[at++] = '0';
        for (int i = 0; i < n; i++) out[at++] = all[i];
    } else {
        for (int i = 0; i < n || i <= exponent + 1; i++) {
            if (i == exponent + 1) out[at++] = '.';
            out[at++] = i < n ? all[i] : '0';
        }
    }
    out[at] = 0;
}

static void repr_str(jj *j, jbuf *b, const jstr *s) {
    bool single = memchr(s->p, '\'', s->len) != NULL, both = single && memchr(s->p, '"', s->len) != NULL;
    char quote = single && !both ? '"' : '\'';
    jj_step(j, s->len / 16);
    jbuf_add(j, b, &quote, 1, false);
    size_t from = 0;
    for (size_t at = 0, next; at < s->len; at = next) {
        uint32_t cp;
        next = jstr_next(s, at, &cp);
        char e[16] = "";
        if (cp == (uint32_t)quote || cp == '\\') snprintf(e, sizeof e, "\\%c", (char)cp);
        else if (cp == '\n' || cp == '\r' || cp == '\t') snprintf(e, sizeof e, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
        else if (!juni_print(cp)) snprintf(e, sizeof e, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        else continue;
        jbuf_part(j, b, s, from, at);
        jbuf_add(j, b, e, strlen(e), jstr_trusted_at(s, at));
        from = next;
    }
    jbuf_part(j, b, s, from, s->len);
    jbuf_add(j, b, &quote, 1, false);
}

static void repr_items(jj *j, jbuf *b, const jlist *l, const char *open, const char *close, bool tuple) {
    jbuf_addz(j, b, open);
    for (size_t i = 0; i < l->n; i++) {
        if (i) jbuf_addz(j, b, ", ");
        jprint_repr(j, b, &l->v[i]);
    }
    if (tuple && l->n == 1) jbuf_addz(j, b, ",");
    jbuf_addz(j, b, close);
}

static void repr_dict(jj *j, jbuf *b, const jdict *d) {
    jbuf_addz(j, b, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) jbuf_addz(j, b, ", ");
        jprint_repr(j, b, &d->k[i]);
        jbuf_addz(j, b, ": ");
        jprint_repr(j, b, &d->v[i]);
    }
    jbuf_addz(j, b, "}");
}

static void scalar(jj *j, jbuf *b, const jval *v) {
    char text[128];
    if (v->kind == J_NONE) strcpy(text, "None");
    else if (v->kind == J_BOOL) strcpy(text, v->u.b ? "True" : "False");
    else if (v->kind == J_INT) snprintf(text, sizeof text, "%" PRId64, v->u.i);
    else if (v->kind == J_FLOAT) jprint_float(v->u.f, text);
    else if (v->u.r->step == 1) snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ")", v->u.r->start, v->u.r->stop);
    else snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", v->u.r->start, v->u.r->stop, v->u.r->step);
    jbuf_add(j, b, text, strlen(text), v->trusted);
}

void jprint_repr(jj *j, jbuf *b, const jval *v) {
    static const char *const views[] = {"dict_keys([", "dict_values([", "dict_items(["};
    char text[96];
    jj_enter(j);
    switch ((jkind)v->kind) {
    case J_MISSING: case J_UNDEF: jbuf_addz(j, b, "Undefined"); break;
    case J_NONE: case J_BOOL: case J_INT: case J_FLOAT: case J_RANGE: scalar(j, b, v); break;
    case J_STR:
        if (v->u.s->markup) jbuf_addz(j, b, "Markup(");
        repr_str(j, b, v->u.s);
        if (v->u.s->markup) jbuf_addz(j, b, ")");
        break;
    case J_LIST: repr_items(j, b, v->u.l, "[", "]", false); break;
    case J_TUPLE: repr_items(j, b, v->u.l, "(", ")", true); break;
    case J_VIEW: repr_items(j, b, v->u.l, views[v->aux], "])", false); break;
    case J_DICT: repr_dict(j, b, v->u.d); break;
    case J_NS:
        jbuf_addz(j, b, "<Namespace ");
        repr_dict(j, b, v->u.d);
        jbuf_addz(j, b, ">");
        break;
    case J_MACRO:
        if (v->u.macro->node->kind == N_CALLBLOCK) {
            jbuf_addz(j, b, "<Macro anonymous>");
            break;
        }
        jbuf_addz(j, b, "<Macro '");
        jbuf_adds(j, b, v->u.macro->name);
        jbuf_addz(j, b, "'>");
        break;
    case J_LOOP:
        snprintf(text, sizeof text, "<LoopContext %zu/%zu>", v->u.loop->i + 1, v->u.loop->n);
        jbuf_addz(j, b, text);
        break;
    default: // Python prints an address here; ours shows none
        snprintf(text, sizeof text, "<%s object>", jj_type(v));
        jbuf_addz(j, b, text);
    }
    jj_leave(j);
}

void jprint_str(jj *j, jbuf *b, const jval *v) {
    if (v->kind == J_STR) jbuf_adds(j, b, v->u.s);
    else if (v->kind != J_UNDEF) jprint_repr(j, b, v);
}

const jstr *jprint_string(jj *j, const jval *v) {
    if (v->kind == J_STR) return v->u.s;
    jbuf *b = jbuf_new(j);
    jprint_str(j, b, v);
    return jbuf_done(j, b);
}

static void json_str(jj *j, jbuf *b, const jstr *s, bool ascii) {
    jbuf_add(j, b, "\"", 1, false);
    size_t from = 0;
    for (size_t at = 0, next; at < s->len; at = next) {
        uint32_t cp;
        next = jstr_next(s, at, &cp);
        char e[16] = "";
        if (cp == '"' || cp == '\\') snprintf(e, sizeof e, "\\%c", (char)cp);
        else if (cp >= 8 && cp <= 13 && cp != 11) snprintf(e, sizeof e, "\\%c", "btn\0fr"[cp - 8]);
        else if (cp < 0x20 || (ascii && cp >= 0x7f && cp < 0x10000 && cp != 0x7f)) snprintf(e, sizeof e, "\\u%04x", cp);
        else if (ascii && cp >= 0x10000) snprintf(e, sizeof e, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10), 0xdc00 + ((cp - 0x10000) & 0x3ff));
        else continue;
        jbuf_part(j, b, s, from, at);
        jbuf_add(j, b, e, strlen(e), jstr_trusted_at(s, at));
        from = next;
    }
    jbuf_part(j, b, s, from, s->len);
    jbuf_add(j, b, "\"", 1, false);
}

static void json_scalar(jj *j, jbuf *b, const jval *v) {
    char text[48];
    if (v->kind == J_NONE) strcpy(text, "null");
    else if (v->kind == J_BOOL) strcpy(text, v->u.b ? "true" : "false");
    else if (v->kind == J_INT) snprintf(text, sizeof text, "%" PRId64, v->u.i);
    else if (isnan(v->u.f)) strcpy(text, "NaN");
    else if (isinf(v->u.f)) strcpy(text, v->u.f < 0 ? "-Infinity" : "Infinity");
    else jprint_float(v->u.f, text);
    jbuf_add(j, b, text, strlen(text), v->trusted);
}

static void json_line(jj *j, jbuf *b, const jjson *opt, int level) {
    if (!opt->indent) return;
    jbuf_addz(j, b, "\n");
    for (int i = 0; i < level; i++) jbuf_adds(j, b, opt->indent);
}

static void json_key(jj *j, jbuf *b, const jval *k, const jjson *opt) {
    if (k->kind == J_STR) {
        json_str(j, b, k->u.s, opt->ascii);
    } else if (k->kind == J_NONE || k->kind == J_BOOL || k->kind == J_INT || k->kind == J_FLOAT) {
        jbuf_addz(j, b, "\"");
        json_scalar(j, b, k);
        jbuf_addz(j, b, "\"");
    } else {
        jj_fail(j, E_INVALID, "keys must be str, int, float, bool or None, not %s", jj_type(k));
    }
}

static void json_dict(jj *j, jbuf *b, const jdict *d, const jjson *opt, int level) {
    size_t *order = jj_array(j, d->n + 1, sizeof *order);
    for (size_t i = 0; i < d->n; i++) {
        size_t at = i;
        order[i] = i;
        if (!opt->sort) continue;
        size_t lo = 0;
        for (size_t hi = i; lo < hi;) { // where key i goes, behind equal ones
            size_t mid = (lo + hi) / 2;
            if (j_compare(j, &d->k[i], &d->k[order[mid]], "<") < 0) hi = mid;
            else lo = mid + 1;
        }
        jj_step(j, 1 + (i - lo) / 8);
        for (; at > lo; at--) order[at] = order[at - 1];
        order[lo] = i;
    }
    jbuf_addz(j, b, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) jbuf_adds(j, b, opt->item_sep);
        json_line(j, b, opt, level + 1);
        json_key(j, b, &d->k[order[i]], opt);
        jbuf_adds(j, b, opt->key_sep);
        jprint_json(j, b, &d->v[order[i]], opt, level + 1);
    }
    if (d->n) json_line(j, b, opt, level);
    jbuf_addz(j, b, "}");
}

void jprint_json(jj *j, jbuf *b, const jval *v, const jjson *opt, int level) {
    jj_enter(j);
    switch ((jkind)v->kind) {
    case J_NONE: case J_BOOL: case J_INT: case J_FLOAT: json_scalar(j, b, v); break;
    case J_STR: json_str(j, b, v->u.s, opt->ascii); break;
    case J_LIST: case J_TUPLE:
        jbuf_addz(j, b, "[");
        for (size_t i = 0; i < v->u.l->n; i++) {
            if (i) jbuf_adds(j, b, opt->item_sep);
            json_line(j, b, opt, level + 1);
            jprint_json(j, b, &v->u.l->v[i], opt, level + 1);
        }
        if (v->u.l->n) json_line(j, b, opt, level);
        jbuf_addz(j, b, "]");
        break;
    case J_DICT: json_dict(j, b, v->u.d, opt, level); break;
    default: jj_fail(j, E_INVALID, "Object of type %s is not JSON serializable", jj_type(v));
    }
    jj_leave(j);
}
