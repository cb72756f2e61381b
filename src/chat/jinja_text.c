// Strings that remember, for every byte, whether the template or data spelled it.
// Invariants: text is UTF-8; `chars` counts its characters; `o` is there only when origins are mixed, or differ from `trusted`.
// Threads: jinja_internal.h.
#include <string.h>

#include "chat/jinja_internal.h"

static size_t count_chars(const char *p, size_t n) {
    size_t chars = 0;
    for (size_t i = 0; i < n; i++) chars += ((unsigned char)p[i] & 0xc0) != 0x80;
    return chars;
}

// --- Buffers ---
jbuf *jbuf_new(jj *j) {
    jbuf *b = j->free_bufs;
    if (b) {
        j->free_bufs = b->next;
    } else {
        b = mem_calloc(1, sizeof *b);
        if (!b) jj_fail(j, E_NOMEM, "no memory for the chat template");
    }
    b->len = 0;
    b->trusted = b->mixed = false;
    b->next = j->bufs;
    j->bufs = b;
    return b;
}

void jbuf_drop(jj *j, jbuf *b) {
    jbuf **at = &j->bufs;
    while (*at && *at != b) at = &(*at)->next;
    if (*at) *at = b->next;
    if (b->cap > 1 << 16) { // big ones are not kept
        j->buf_bytes -= b->cap * 2;
        mem_free(b->p);
        mem_free(b->o);
        b->p = NULL;
        b->o = NULL;
        b->cap = 0;
    }
    b->next = j->free_bufs;
    j->free_bufs = b;
}

static void reserve(jj *j, jbuf *b, size_t n) {
    size_t need;
    if (add_overflows(b->len, n, &need) || need > j->limits.output)
        jj_fail(j, E_LIMIT, "the template makes a text of more than %zu bytes", j->limits.output);
    if (need <= b->cap) return;
    size_t cap = b->cap ? b->cap : 256;
    while (cap < need) cap *= 2;
    size_t more = (cap - b->cap) * 2;
    if (j->mem->used + j->buf_bytes + more > j->limits.memory)
        jj_fail(j, E_LIMIT, "the template needs more than %zu bytes of memory", j->limits.memory);
    char *p = mem_realloc(b->p, cap);
    if (p) b->p = p;
    uint8_t *o = p ? mem_realloc(b->o, cap) : NULL;
    if (o) b->o = o;
    if (!p || !o) jj_fail(j, E_NOMEM, "no memory for the chat template");
    j->buf_bytes += more;
    b->cap = cap;
}

void jbuf_add(jj *j, jbuf *b, const char *p, size_t n, bool trusted) {
    jj_step(j, 1 + n / 64);
    if (!n) return;
    reserve(j, b, n);
    if (!b->len) b->trusted = trusted;
    else if (b->trusted != trusted) b->mixed = true;
    memcpy(b->p + b->len, p, n);
    memset(b->o + b->len, trusted, n);
    b->len += n;
}

void jbuf_addz(jj *j, jbuf *b, const char *text) { jbuf_add(j, b, text, strlen(text), false); }

void jbuf_part(jj *j, jbuf *b, const jstr *s, size_t from, size_t to) {
    if (from > to) to = from;
    if (!s->o || from == to) {
        jbuf_add(j, b, s->p + from, to - from, s->trusted);
        return;
    }
    jj_step(j, 1 + (to - from) / 64);
    reserve(j, b, to - from);
    memcpy(b->p + b->len, s->p + from, to - from);
    memcpy(b->o + b->len, s->o + from, to - from);
    b->mixed = true;
    b->len += to - from;
}

void jbuf_adds(jj *j, jbuf *b, const jstr *s) { jbuf_part(j, b, s, 0, s->len); }

const jstr *jbuf_done(jj *j, jbuf *b) {
    jstr *s = jj_alloc(j, sizeof *s);
    char *p = jj_alloc(j, b->len + 1);
    if (b->len) memcpy(p, b->p, b->len);
    p[b->len] = 0;
    *s = (jstr){.p = p, .len = b->len, .chars = count_chars(p, b->len), .trusted = b->trusted || !b->len};
    if (b->mixed) {
        uint8_t *o = jj_alloc(j, b->len);
        memcpy(o, b->o, b->len);
        s->o = o;
        s->trusted = false;
    }
    jbuf_drop(j, b);
    return s;
}

// --- Strings ---
const jstr *jstr_view(jj *j, const char *p, size_t n, bool trusted) {
    jstr *s = jj_alloc(j, sizeof *s);
    jj_step(j, n / 64);
    *s = (jstr){.p = p, .len = n, .chars = count_chars(p, n), .trusted = trusted};
    return s;
}

const jstr *jstr_new(jj *j, const char *p, size_t n, bool trusted) {
    char *copy = jj_alloc(j, n + 1);
    if (n) memcpy(copy, p, n);
    copy[n] = 0;
    return jstr_view(j, copy, n, trusted);
}

const jstr *jstr_slice(jj *j, const jstr *s, size_t from, size_t to) {
    if (from == 0 && to == s->len) return s;
    if (from > to) from = to;
    jstr *part = jj_alloc(j, sizeof *part);
    jj_step(j, (to - from) / 64);
    *part = (jstr){.p = s->p + from, .o = s->o ? s->o + from : NULL, .len = to - from, .trusted = s->trusted};
    part->chars = s->chars == s->len ? to - from : count_chars(part->p, part->len);
    return part;
}

size_t jstr_offset(jj *j, const jstr *s, size_t chr) {
    if (s->chars == s->len || chr >= s->chars) return chr >= s->chars ? s->len : chr;
    size_t at = 0;
    jj_step(j, chr / 16);
    for (; chr; chr--) {
        at++;
        while (at < s->len && ((unsigned char)s->p[at] & 0xc0) == 0x80) at++;
    }
    return at;
}

size_t jstr_next(const jstr *s, size_t at, uint32_t *cp) {
    if ((unsigned char)s->p[at] < 0x80) {
        *cp = (unsigned char)s->p[at];
        return at + 1;
    }
    return at + utf8_decode(s->p + at, s->len - at, cp);
}

bool jstr_eq(const jstr *a, const jstr *b) { return a->len == b->len && !memcmp(a->p, b->p, a->len); }
bool jstr_is(const jstr *a, const char *b) { return a->len == strlen(b) && !memcmp(a->p, b, a->len); }

int jstr_cmp(const jstr *a, const jstr *b) { // the order of UTF-8 is that of code points
    size_t n = a->len < b->len ? a->len : b->len;
    int c = n ? memcmp(a->p, b->p, n) : 0;
    return c ? (c < 0 ? -1 : 1) : a->len < b->len ? -1 : a->len > b->len;
}

size_t jstr_find(jj *j, const jstr *s, const jstr *needle, size_t from) {
    if (from > s->len) return SIZE_MAX;
    if (!needle->len) return from;
    const char *hit = memmem(s->p + from, s->len - from, needle->p, needle->len);
    size_t at = hit ? (size_t)(hit - s->p) : SIZE_MAX, seen = (hit ? at + needle->len : s->len) - from;
    jj_step(j, 1 + seen / 64 * (1 + (needle->len < 256 ? needle->len : 256) / 16)); // up to that length memmem may look at all of it at each place
    return at;
}

static bool in_set(jj *j, uint32_t cp, const jstr *set) {
    jj_step(j, set ? 1 + set->len / 16 : 1);
    if (!set) return juni_space(cp);
    for (size_t at = 0; at < set->len;) {
        uint32_t c;
        at = jstr_next(set, at, &c);
        if (c == cp) return true;
    }
    return false;
}

const jstr *jstr_strip(jj *j, const jstr *s, const jstr *set, bool left, bool right) {
    size_t from = 0, to = s->len;
    uint32_t cp;
    while (left && from < to) {
        size_t next = jstr_next(s, from, &cp);
        if (!in_set(j, cp, set)) break;
        from = next;
    }
    while (right && to > from) {
        size_t last = to - 1;
        while (last > from && ((unsigned char)s->p[last] & 0xc0) == 0x80) last--;
        jstr_next(s, last, &cp);
        if (!in_set(j, cp, set)) break;
        to = last;
    }
    return jstr_slice(j, s, from, to);
}

const jstr *jstr_replace(jj *j, const jstr *s, const jstr *from, const jstr *to, int64_t count) {
    if (!count) return s;
    jbuf *b = jbuf_new(j);
    size_t at = 0;
    if (!from->len) { // before every character and at the end
        for (uint32_t cp; count && at < s->len; count -= count > 0) {
            size_t next = jstr_next(s, at, &cp);
            jbuf_adds(j, b, to);
            jbuf_part(j, b, s, at, next);
            at = next;
        }
        if (count) jbuf_adds(j, b, to);
    } else {
        for (size_t hit; count && (hit = jstr_find(j, s, from, at)) != SIZE_MAX; count -= count > 0) {
            jbuf_part(j, b, s, at, hit);
            jbuf_adds(j, b, to);
            at = hit + from->len;
        }
    }
    jbuf_part(j, b, s, at, s->len);
    return jbuf_done(j, b);
}

const jstr *jstr_repeat(jj *j, const jstr *s, int64_t n) {
    size_t total;
    if (n <= 0 || !s->len) return jstr_view(j, "", 0, true);
    if (mul_overflows(s->len, (size_t)n, &total) || total > j->limits.output)
        jj_fail(j, E_LIMIT, "the template makes a text of more than %zu bytes", j->limits.output);
    jbuf *b = jbuf_new(j);
    for (int64_t i = 0; i < n; i++) jbuf_adds(j, b, s);
    return jbuf_done(j, b);
}

const jstr *jstr_pad(jj *j, const jstr *s, size_t left, size_t right, const jstr *fill) {
    static const jstr space = {.p = " ", .len = 1, .chars = 1};
    if (!left && !right) return s;
    if (!fill) fill = &space;
    jbuf *b = jbuf_new(j);
    if (left > j->limits.output || right > j->limits.output)
        jj_fail(j, E_LIMIT, "the template makes a text of more than %zu bytes", j->limits.output);
    for (size_t i = 0; i < left; i++) jbuf_adds(j, b, fill);
    jbuf_adds(j, b, s);
    for (size_t i = 0; i < right; i++) jbuf_adds(j, b, fill);
    return jbuf_done(j, b);
}

const jstr *jstr_escape(jj *j, const jstr *s) {
    jbuf *b = jbuf_new(j);
    size_t from = 0;
    for (size_t i = 0; i < s->len; i++) {
        const char *e = s->p[i] == '&' ? "&amp;" : s->p[i] == '<' ? "&lt;" : s->p[i] == '>' ? "&gt;"
                      : s->p[i] == '\'' ? "&#39;" : s->p[i] == '"' ? "&#34;" : NULL;
        if (!e) continue;
        jbuf_part(j, b, s, from, i);
        jbuf_add(j, b, e, strlen(e), jstr_trusted_at(s, i));
        from = i + 1;
    }
    jbuf_part(j, b, s, from, s->len);
    jstr *out = (jstr *)(uintptr_t)jbuf_done(j, b);
    out->markup = true;
    return out;
}

const jstr *jstr_concat(jj *j, const jstr *a, const jstr *b) {
    if (!a->len) return b;
    if (!b->len) return a;
    jbuf *out = jbuf_new(j);
    jbuf_adds(j, out, a);
    jbuf_adds(j, out, b);
    return jbuf_done(j, out);
}

const jstr *jstr_case(jj *j, const jstr *s, jcase how) {
    jbuf *b = jbuf_new(j);
    bool inside = false, first = true; // inside a word; at the first character
    for (size_t at = 0, next; at < s->len; at = next) {
        uint32_t cp, out[3];
        next = jstr_next(s, at, &cp);
        bool cased = juni_lower(cp) || juni_upper(cp);
        bool upper = how == CASE_UPPER || (how == CASE_TITLE && !inside) || (how == CASE_CAPITALIZE && first) || (how == CASE_SWAP && juni_lower(cp));
        size_t n = juni_case(cp, upper, out);
        bool title = upper && how != CASE_UPPER && how != CASE_SWAP;
        for (size_t i = 0; i < n; i++) { // in a title only the first of several letters is a capital
            char text[4];
            uint32_t low[3];
            if (i && title && juni_case(out[i], false, low) == 1) out[i] = low[0];
            jbuf_add(j, b, text, utf8_encode(out[i], text), jstr_trusted_at(s, at));
        }
        inside = cased;
        first = false;
    }
    return jbuf_done(j, b);
}

static jval split_space(jj *j, const jstr *s, int64_t max, bool right) {
    jval out = j_list(j, J_LIST, 4);
    uint32_t cp;
    jj_step(j, s->len / 16);
    if (!right) {
        for (size_t at = 0, next; at < s->len;) {
            next = jstr_next(s, at, &cp);
            if (juni_space(cp)) {
                at = next;
                continue;
            }
            size_t end = at;
            if (max == 0) { // the rest, without the spaces that end it
                j_push(j, out, j_str(jstr_strip(j, jstr_slice(j, s, at, s->len), NULL, false, true)));
                break;
            }
            while (end < s->len && (next = jstr_next(s, end, &cp), !juni_space(cp))) end = next;
            j_push(j, out, j_str(jstr_slice(j, s, at, end)));
            at = end;
            max -= max > 0;
        }
        return out;
    }
    for (const jstr *rest = jstr_strip(j, s, NULL, false, true); rest->len; rest = jstr_strip(j, rest, NULL, false, true)) {
        size_t from = rest->len;
        while (from && max) {
            size_t last = from - 1;
            while (last && ((unsigned char)rest->p[last] & 0xc0) == 0x80) last--;
            jstr_next(rest, last, &cp);
            if (juni_space(cp)) break;
            from = last;
        }
        if (!max) {
            j_push(j, out, j_str(jstr_strip(j, rest, NULL, true, false)));
            if (!out.u.l->v[out.u.l->n - 1].u.s->len) out.u.l->n--;
            break;
        }
        j_push(j, out, j_str(jstr_slice(j, rest, from, rest->len)));
        rest = jstr_slice(j, rest, 0, from);
        max -= max > 0;
    }
    return out;
}

static void reverse(jlist *l) {
    for (size_t a = 0, b = l->n; a + 1 < b; a++) {
        jval t = l->v[a];
        l->v[a] = l->v[--b];
        l->v[b] = t;
    }
}

jval jstr_split(jj *j, const jstr *s, const jstr *sep, int64_t max, bool from_right) {
    if (!sep) {
        jval words = split_space(j, s, max, from_right);
        if (from_right) reverse(words.u.l);
        return words;
    }
    if (!sep->len) jj_fail(j, E_INVALID, "empty separator");
    jval out = j_list(j, J_LIST, 4);
    size_t at = 0;
    if (!from_right) {
        for (size_t hit; max && (hit = jstr_find(j, s, sep, at)) != SIZE_MAX; max -= max > 0) {
            j_push(j, out, j_str(jstr_slice(j, s, at, hit)));
            at = hit + sep->len;
        }
        j_push(j, out, j_str(jstr_slice(j, s, at, s->len)));
        return out;
    }
    size_t end = s->len;
    while (max) {
        size_t hit = SIZE_MAX;
        for (size_t i = end >= sep->len ? end - sep->len + 1 : 0; i-- > 0;) {
            if (!(i & 63)) jj_step(j, 1);
            if (s->p[i] != sep->p[0]) continue;
            jj_step(j, 1 + sep->len / 64);
            if (!memcmp(s->p + i, sep->p, sep->len)) {
                hit = i;
                break;
            }
        }
        if (hit == SIZE_MAX) break;
        j_push(j, out, j_str(jstr_slice(j, s, hit + sep->len, end)));
        end = hit;
        max -= max > 0;
    }
    j_push(j, out, j_str(jstr_slice(j, s, 0, end)));
    reverse(out.u.l);
    return out;
}

static bool line_end(uint32_t cp) {
    return (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}

jval jstr_splitlines(jj *j, const jstr *s, bool keep) {
    jval out = j_list(j, J_LIST, 4);
    size_t from = 0;
    jj_step(j, s->len / 16);
    for (size_t at = 0, next; at < s->len; at = next) {
        uint32_t cp;
        next = jstr_next(s, at, &cp);
        if (!line_end(cp)) continue;
        if (cp == '\r' && next < s->len && s->p[next] == '\n') next++;
        j_push(j, out, j_str(jstr_slice(j, s, from, keep ? next : at)));
        from = next;
    }
    if (from < s->len) j_push(j, out, j_str(jstr_slice(j, s, from, s->len)));
    return out;
}
