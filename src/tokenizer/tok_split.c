// tok_split: cuts a text into words by the patterns of tok_pre.c, with PCRE2 over one byte a character.
//
// A character below 128 is itself. Any other is 0x0B when it is white space; otherwise, for a pattern with \p{..}, the byte of its
// class (CLASS_*), and for a pattern without, WIDE | mask, mask telling in which sets of the pattern it is named. The patterns are
// rewritten to those bytes when the splitter is made, so PCRE2 never sees Unicode: its own tables may be of any version, and JIT
// runs without UTF checks. Lookaheads see no further than the piece they are in, as the patterns come one after the other.
//
// Invariants: pieces are handed out in order and cover the text; no pattern matches the empty string.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "tokenizer/tok_internal.h"

enum { CLASS_OTHER = 0xD0, CLASS_N, CLASS_L, CLASS_P, CLASS_M, CLASS_S, CLASS_HAN_LETTER, CLASS_HAN_OTHER, WIDE = 0xE0 };
enum { MAX_PATTERNS = 7, MAX_SETS = 4, WIDE_BUFFERS = 3 };

typedef struct wide_range { uint32_t first, last; unsigned mask; } wide_range;

typedef struct pattern {
    enum { BY_CLASS, BY_CHARACTER, BY_HAND } kind;
    int         hand;   // BY_HAND: which
    pcre2_code *code;
    bool        jit;
    int         buffer; // which class buffer it reads
    wide_range *ranges; // BY_CHARACTER, ascending and disjoint
    size_t      range_count;
} pattern;

struct tok_splitter {
    pcre2_general_context *memory;
    pcre2_match_context   *limits; // none: the patterns are linear, a text may be long
    pattern patterns[MAX_PATTERNS];
    int     count;
    bool    han;
};

enum { HAND_HALVES, HAND_TRAILING, HAND_THREES, HAND_GROUPS };
static const char *const hands[] = {"@halves", "@trailing", "@threes", "@groups"};

// ---- patterns over characters -> patterns over bytes

static const char *class_bytes(char name) {
    switch (name) { // the last escapes are for sets; ASCII as the peer divides it
        case 'L': return "\xD2\xD6" "A-Za-z";
        case 'U': return "\xD2\xD6" "A-Z";
        case 'D': return "\xD2\xD6" "a-z";
        case 'K': return "\xD2" "A-Za-z";
        case 'H': return "\xD6\xD7";
        case 'N': return "\xD1" "0-9";
        case 'P': return "\xD3!-#%-*,-/:-;?-@\\[-\\]_\\{\\}";
        case 'M': return "\xD4";
        case 'S': return "\xD5\\$\\+<->\\^`\\|~";
        default: return NULL;
    }
}

// Reads "{4E00}" after \x; returns the character after it.
static const char *read_point(const char *p, uint32_t *cp) {
    *cp = 0;
    for (p++; *p && *p != '}'; p++) *cp = *cp * 16 + (uint32_t)(*p <= '9' ? *p - '0' : (*p | 32) - 'a' + 10);
    return *p ? p + 1 : p;
}

typedef struct named { // the sets of a pattern and what is named in them
    wide_range items[160];
    size_t     count;
    int        sets;
} named;

// With collect: notes what each set names and writes nothing; without: writes the pattern.
static status translate(const char *p, named *names, bool collect, strbuf *out) {
    bool inside = false, wide_in_set = false;
    int  set = 0;
    for (; *p; p++) {
        if (p[0] == '\\' && p[1] == 'p' && p[2] == '{') {
            const char *bytes = class_bytes(p[3]);
            if (!bytes || p[4] != '}') return E_INTERNAL;
            if (!collect) {
                if (!inside) strbuf_addc(out, '[');
                strbuf_adds(out, bytes);
                if (!inside) strbuf_addc(out, ']');
            }
            p += 4;
        } else if (p[0] == '\\' && p[1] == 'x' && p[2] == '{') {
            wide_range r;
            if (!inside) return E_INTERNAL;
            p = read_point(p + 2, &r.first);
            r.last = r.first;
            if (p[0] == '-' && p[1] == '\\' && p[2] == 'x') p = read_point(p + 3, &r.last);
            p--;
            wide_in_set = true;
            r.mask = 1u << set;
            if (collect && names->count == sizeof names->items / sizeof *names->items) return E_INTERNAL;
            if (collect) names->items[names->count++] = r;
        } else if (p[0] == '\\') {
            if (!collect) strbuf_add(out, p, 2);
            p++;
        } else {
            if (*p == ']' && inside) {
                for (int mask = 1; mask < 1 << MAX_SETS && !collect && wide_in_set; mask++) {
                    if (mask & 1 << set) strbuf_addc(out, (char)(WIDE | mask));
                }
                set += wide_in_set;
                if (set > MAX_SETS) return E_INTERNAL;
                inside = wide_in_set = false;
            } else if (*p == '[' && !inside) {
                inside = true;
            }
            if (!collect) strbuf_addc(out, *p);
        }
    }
    names->sets = set;
    return out && out->failed ? E_NOMEM : OK;
}

status tok_split_translate(const char *p, strbuf *out) {
    named names = {.count = 0};
    return translate(p, &names, false, out);
}

static int by_first(const void *a, const void *b) {
    uint32_t x = ((const wide_range *)a)->first, y = ((const wide_range *)b)->first;
    return x < y ? -1 : x > y;
}

// Cuts what the sets name (ranges may overlap) into ascending disjoint ranges with the mask of the sets each lies in.
static status make_ranges(pattern *pt, const named *names) {
    uint32_t cuts[2 * 160 + 2];
    size_t   n = 0;
    for (size_t i = 0; i < names->count; i++) {
        cuts[n++] = names->items[i].first;
        cuts[n++] = names->items[i].last + 1;
    }
    wide_range *r = mem_alloc((n + 1) * sizeof *r);
    if (!r) return E_NOMEM;
    size_t count = 0;
    for (size_t i = 0; i < n; i++) r[i] = (wide_range){cuts[i], 0, 0};
    qsort(r, n, sizeof *r, by_first);
    for (size_t i = 0; i + 1 < n; i++) {
        if (r[i].first == r[i + 1].first) continue;
        wide_range cut = {r[i].first, r[i + 1].first - 1, 0};
        for (size_t k = 0; k < names->count; k++) {
            if (names->items[k].first <= cut.first && cut.last <= names->items[k].last) cut.mask |= names->items[k].mask;
        }
        if (cut.mask) r[count++] = cut;
    }
    pt->ranges = r;
    pt->range_count = count;
    return OK;
}

static void *pcre_alloc(size_t n, void *ctx) {
    (void)ctx;
    return mem_alloc(n);
}

static void pcre_free(void *p, void *ctx) {
    (void)ctx;
    mem_free(p);
}

static status compile(tok_splitter *sp, pattern *pt, const char *text, error *err) {
    if (text[0] == '@') {
        pt->kind = BY_HAND;
        for (pt->hand = 0; strcmp(hands[pt->hand], text) != 0;) pt->hand++;
        return OK;
    }
    named names = {.count = 0};
    status s = translate(text, &names, true, NULL);
    pt->kind = strstr(text, "\\p{") ? BY_CLASS : BY_CHARACTER;
    if (strstr(text, "\\p{H}")) sp->han = true;
    if (s == OK && pt->kind == BY_CHARACTER) s = make_ranges(pt, &names);
    strbuf bytes = {0};
    if (s == OK) s = translate(text, &names, false, &bytes);
    if (s == OK) {
        int        code;
        PCRE2_SIZE at;
        pcre2_compile_context *cc = pcre2_compile_context_create(sp->memory);
        if (cc) {
            pt->code = pcre2_compile((PCRE2_SPTR)bytes.data, bytes.len, PCRE2_DOLLAR_ENDONLY, &code, &at, cc);
            pcre2_compile_context_free(cc);
            if (!pt->code) s = code == PCRE2_ERROR_HEAP_FAILED ? E_NOMEM : E_INTERNAL;
        }
        if (!cc) s = E_NOMEM;
        else if (pt->code) pt->jit = pcre2_jit_compile(pt->code, PCRE2_JIT_COMPLETE) == 0; // without JIT: slower, the same
    }
    strbuf_free(&bytes);
    if (s == E_NOMEM) return error_set(err, s, "out of memory for the tokenizer's patterns");
    return s == OK ? OK : error_set(err, s, "a pattern of the tokenizer does not compile: %.200s", text);
}

status tok_splitter_create(const tok_pre *pre, tok_splitter **out, error *err) {
    tok_splitter *sp = mem_calloc(1, sizeof *sp);
    if (sp) sp->memory = pcre2_general_context_create(pcre_alloc, pcre_free, NULL);
    if (sp && sp->memory) sp->limits = pcre2_match_context_create(sp->memory);
    if (!sp || !sp->limits) {
        tok_splitter_free(sp);
        return error_set(err, E_NOMEM, "out of memory for the tokenizer's patterns");
    }
    pcre2_set_match_limit(sp->limits, UINT32_MAX);
    int wide = 0;
    for (; sp->count < MAX_PATTERNS && pre->patterns[sp->count]; sp->count++) {
        pattern *pt = &sp->patterns[sp->count];
        status   s = compile(sp, pt, pre->patterns[sp->count], err);
        if (s == OK && pt->kind == BY_CHARACTER && pt->range_count && ++wide > WIDE_BUFFERS) {
            s = error_set(err, E_INTERNAL, "too many patterns over characters");
        }
        if (s != OK) {
            sp->count++;
            tok_splitter_free(sp);
            return s;
        }
        // A pattern that names no character beyond ASCII cannot tell the classes' bytes apart, and reads the classes too.
        pt->buffer = pt->kind == BY_CHARACTER && pt->range_count ? wide : 0;
    }
    *out = sp;
    return OK;
}

void tok_splitter_free(tok_splitter *sp) {
    if (!sp) return;
    for (int i = 0; i < sp->count; i++) {
        pcre2_code_free(sp->patterns[i].code);
        mem_free(sp->patterns[i].ranges);
    }
    pcre2_match_context_free(sp->limits);
    pcre2_general_context_free(sp->memory);
    mem_free(sp);
}

// ---- text -> classes

static uint8_t class_of(const uint8_t *classes, uint32_t cp, bool han) {
    static const uint8_t bytes[] = {CLASS_OTHER, CLASS_L, CLASS_N, CLASS_M, CLASS_P, CLASS_S, CLASS_OTHER, CLASS_OTHER, 0x0B};
    uint8_t b = bytes[classes[cp]];
    if (han && tok_is_han(cp)) return b == CLASS_L ? CLASS_HAN_LETTER : CLASS_HAN_OTHER;
    return b;
}

static uint8_t wide_of(const pattern *pt, const uint8_t *classes, uint32_t cp) {
    if (classes[cp] == TOK_CP_SPACE) return 0x0B;
    size_t lo = 0, hi = pt->range_count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (pt->ranges[mid].last < cp) lo = mid + 1;
        else hi = mid;
    }
    return (uint8_t)(lo < pt->range_count && pt->ranges[lo].first <= cp ? WIDE | pt->ranges[lo].mask : WIDE);
}

// Fills the class buffers; *clean: the text stands as it would be written again. Returns the number of characters.
static size_t classify(const tok_splitter *sp, tok_scratch *s, const char *text, size_t len, bool *clean) {
    const unsigned char *p = (const unsigned char *)text;
    const uint8_t       *classes = tok_classes();
    size_t               n = 0;
    *clean = true;
    for (size_t i = 0; i < len; n++) {
        if (p[i] < 0x80) {
            s->classes[0][n] = p[i++];
            continue;
        }
        uint32_t cp;
        size_t   used = tok_decode_cp(p + i, len - i, &cp);
        if (used == 1 || cp < (used == 2 ? 0x80u : used == 3 ? 0x800u : 0x10000u)) *clean = false;
        i += used;
        s->classes[0][n] = cp < 0x80 ? (uint8_t)cp : class_of(classes, cp, sp->han);
    }
    for (int k = 0; k < sp->count; k++) {
        const pattern *pt = &sp->patterns[k];
        if (pt->buffer == 0) continue;
        uint8_t *to = s->classes[pt->buffer];
        for (size_t i = 0, c = 0; i < len; c++) {
            uint32_t cp;
            i += tok_decode_cp(p + i, len - i, &cp);
            to[c] = cp < 0x80 ? (uint8_t)cp : wide_of(pt, classes, cp);
        }
    }
    return n;
}

// ---- pieces

typedef struct walk {
    const tokenizer *t;
    tok_scratch     *s;
    tok_word_fn      fn;
    tok_ids         *out;
    const char      *text; // where the next word begins
    bool             ascii;
} walk;

static status split(walk *w, int level, size_t begin, size_t end);

static status split_if(walk *w, int level, size_t begin, size_t end) { return begin < end ? split(w, level, begin, end) : OK; }

static bool is_digit(uint8_t b) { return b >= '0' && b <= '9'; }
static bool is_number(uint8_t b) { return is_digit(b) || b == CLASS_N; }
static bool is_space(uint8_t b) { return b == ' ' || (b >= 9 && b <= 13); }

// Digits in threes counted from the right. @threes: (?=(\d{3})+(?!\d)), which cuts before a run of a multiple of three too; @groups: numbers
// of any script, and no cut before the first group, so that it keeps what stands before it.
static status split_digits(walk *w, int level, int hand, size_t begin, size_t end) {
    const uint8_t *c = w->s->classes[0];
    bool           groups = hand == HAND_GROUPS;
    size_t         cut = begin;
    status         st = OK;
    for (size_t i = begin; i < end && st == OK;) {
        size_t stop = i;
        while (stop < end && (groups ? is_number(c[stop]) : is_digit(c[stop]))) stop++;
        size_t last = groups ? stop + 1 : stop, at = i + (stop - i) % 3; // cuts lie before `last`
        if (at == i && groups) at += 3;
        for (; stop > i && at < last && st == OK; at += 3) {
            st = split_if(w, level + 1, cut, at);
            cut = at;
        }
        i = stop > i ? stop : i + 1;
    }
    return st == OK ? split_if(w, level + 1, cut, end) : st;
}

static status split_by_hand(walk *w, int level, int hand, size_t begin, size_t end) {
    const uint8_t *c = w->s->classes[0];
    if (hand == HAND_TRAILING) { // \s+$
        size_t cut = end;
        while (cut > begin && is_space(c[cut - 1])) cut--;
        status st = split_if(w, level + 1, begin, cut);
        return st == OK ? split_if(w, level + 1, cut, end) : st;
    }
    if (hand != HAND_HALVES) return split_digits(w, level, hand, begin, end);
    // White space without line ends: \s{512}(?!\S)|\s{256}(?!\S)| ... |\s{1,2}(?!\S)|\s{1} of what \s+(?!\S)|\s+ left.
    bool spaces = true;
    for (size_t i = begin; i < end && spaces; i++) spaces = is_space(c[i]) && c[i] != '\n' && c[i] != '\r';
    if (!spaces) return split(w, level + 1, begin, end);
    status st = OK;
    for (size_t part = 512; begin < end && st == OK;) {
        while (part > end - begin) part /= 2;
        st = split(w, level + 1, begin, begin + part);
        begin += part;
    }
    return st;
}

static status emit(walk *w, size_t begin, size_t end) {
    const char *word = w->text;
    size_t      len = end - begin;
    if (!w->ascii) {
        const char *p = word;
        for (size_t i = begin; i < end; i++) p += tok_char_len((unsigned char)*p);
        len = (size_t)(p - word);
    }
    w->text += len;
    return tok_word_cached(w->t, w->s, word, len, w->fn, w->out);
}

static status split(walk *w, int level, size_t begin, size_t end) {
    const tok_splitter *sp = w->t->splitter;
    if (level == sp->count) return emit(w, begin, end);
    const pattern *pt = &sp->patterns[level];
    if (pt->kind == BY_HAND) return split_by_hand(w, level, pt->hand, begin, end);

    const uint8_t    *text = w->s->classes[pt->buffer] + begin;
    pcre2_match_data *md = w->s->match[level];
    size_t            len = end - begin, at = 0;
    PCRE2_SIZE       *found = pcre2_get_ovector_pointer(md);
    while (at < len) {
        int rc = pt->jit ? pcre2_jit_match(pt->code, text, len, at, 0, md, sp->limits)
                         : pcre2_match(pt->code, text, len, at, 0, md, sp->limits);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) {
            return rc == PCRE2_ERROR_NOMEMORY || rc == PCRE2_ERROR_HEAPLIMIT
                       ? error_set(w->s->err, E_NOMEM, "out of memory while splitting text")
                       : error_set(w->s->err, E_LIMIT, "splitting text into words hit a limit of PCRE2 (%d)", rc);
        }
        size_t from = found[0], to = found[1];
        if (to == from) break;
        status st = split_if(w, level + 1, begin + at, begin + from);
        if (st == OK) st = split(w, level + 1, begin + from, begin + to);
        if (st != OK) return st;
        at = to;
    }
    return split_if(w, level + 1, begin + at, end);
}

status tok_split(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_word_fn fn, tok_ids *out) {
    const tok_splitter *sp = t->splitter;
    for (int i = 0; i < sp->count; i++) {
        const pattern *pt = &sp->patterns[i];
        if (!mem_grow((void **)&s->classes[pt->buffer], &s->classes_cap[pt->buffer], len, 1)) goto no_memory;
        if (pt->code && !s->match[i]) s->match[i] = pcre2_match_data_create_from_pattern(pt->code, sp->memory);
        if (pt->code && !s->match[i]) goto no_memory;
    }
    if (!mem_grow((void **)&s->classes[0], &s->classes_cap[0], len, 1)) goto no_memory;
    bool   clean;
    size_t n = classify(sp, s, text, len, &clean);
    if (!clean) { // words are of well-formed text
        strbuf_clear(&s->clean);
        for (size_t i = 0; i < len;) {
            uint32_t cp;
            char     utf8[4];
            i += tok_decode_cp((const unsigned char *)text + i, len - i, &cp);
            if (!strbuf_add(&s->clean, utf8, utf8_encode(cp, utf8))) goto no_memory;
        }
        text = s->clean.data;
        len = s->clean.len;
    }
    walk w = {t, s, fn, out, text, n == len};
    return n ? split(&w, 0, 0, n) : OK;
no_memory:
    return error_set(s->err, E_NOMEM, "out of memory while splitting %zu bytes of text", len);
}

void tok_scratch_free(tok_scratch *s) {
    strbuf_free(&s->escaped);
    strbuf_free(&s->clean);
    for (size_t i = 0; i < sizeof s->classes / sizeof *s->classes; i++) mem_free(s->classes[i]);
    for (int i = 0; i < MAX_PATTERNS; i++) pcre2_match_data_free(s->match[i]);
    mem_free(s->syms);
    mem_free(s->heap);
    mem_free(s->cells);
    mem_free(s->words);
}
