// cpu/amx/attend: attention over bf16 pages with tiles, for prompts and for single rows alike: what is left over of a tile's 16 queries costs nothing where
// pages come from memory, and there is but one order of sums.
//
// A head of a page: keys as weight tiles [dims / 32][half of the keys][16 pairs of dims][16 keys][2], values [dims / 16][16 pairs of keys][16 dims][2];
// dims are padded, keys' with zeros. Recipe: queries and softmax weights rounded to bf16; scores and sums of values as TDPBF16PS chains; online softmax
// over splits of 4 pages at absolute positions; the chain of a query's sums goes on from split to split, multiplied in between where its greatest score
// rose.
// For 32 queries and one page of 128 dims: 16 TDPBF16PS and 16 tile loads for scores, 16 and 16 for values (512 cycles), 4 tile stores, a quarter of 16
// loads and 16 stores of sums; 64 vectors of weights (11 operations each), made while the tiles work for the groups before and after. Greatest scores of
// 16 queries come from one reduction, sums of weights stay in lanes until the end.
#pragma once
#include "cpu/amx/amx_tile.h"
#include "cpu/cpu_tile.h"
#include "cpu/cpu_vec.h"

enum { SPLIT = 4, SPLIT_KEYS = SPLIT * DEV_PAGE_TOKENS, QUERIES = 2 * TILE_ROWS, SCORE_LD = SPLIT_KEYS + 16 };
#define LOG2E 1.44269504088896341f

// What rows hold 16 of, each four bytes: r[i] becomes number i of each row.
static inline void amx_transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 4) { // of four rows, numbers 4 q + 0, 1, 2, 3 in quarter q
        const __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]), b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        const __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
        t[i] = _mm512_unpacklo_epi64(a, c);
        t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d);
        t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for (int j = 0; j < 4; j++) { // quarters of four rows each, in order of rows
        const __m512i a = _mm512_shuffle_i32x4(t[j], t[j + 4], 0x88), b = _mm512_shuffle_i32x4(t[j + 8], t[j + 12], 0x88);
        const __m512i c = _mm512_shuffle_i32x4(t[j], t[j + 4], 0xdd), d = _mm512_shuffle_i32x4(t[j + 8], t[j + 12], 0xdd);
        r[j] = _mm512_shuffle_i32x4(a, b, 0x88);
        r[j + 8] = _mm512_shuffle_i32x4(a, b, 0xdd);
        r[j + 4] = _mm512_shuffle_i32x4(c, d, 0x88);
        r[j + 12] = _mm512_shuffle_i32x4(c, d, 0xdd);
    }
}

static inline __m512i amx_pairs(const float *x, int32_t left) { // 32 numbers, of which `left` are there
    const uint32_t there = left < 32 ? (1u << left) - 1 : 0xffffffffu;
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps((__mmask16)(there >> 16), x + 16), _mm512_maskz_loadu_ps((__mmask16)there, x));
}

// Keys and values of n tokens, from `slot` of a page on: keys 16 at once where so many lie in one tile, values two at once.
static void amx_kv_put(uint8_t *at, int32_t head_k, int32_t head_v, int32_t slot, int32_t n, const float *k, size_t ldk, const float *v, size_t ldv) {
    for (int32_t t = 0, of; t < n; t += of) {
        const int32_t to = slot + t;
        uint8_t *keys = at + to / 16 * TILE_BYTES + to % 16 * 4;
        of = to % 16 == 0 && n - t >= 16 ? 16 : 1;
        for (int32_t d = 0; d < head_k; d += 32, keys += 2 * TILE_BYTES) {
            __m512i r[16];
            if (of == 16) {
                for (int i = 0; i < 16; i++) r[i] = amx_pairs(k + (size_t)(t + i) * ldk + d, head_k - d);
                amx_transpose(r);
                for (int i = 0; i < 16; i++) _mm512_store_si512(keys + i * 64, r[i]);
            } else {
                uint32_t pairs[16];
                _mm512_storeu_si512(pairs, amx_pairs(k + (size_t)t * ldk + d, head_k - d));
                for (int i = 0; i < 16; i++) memcpy(keys + i * 64, &pairs[i], 4);
            }
        }
    }
    const __m512i both = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int32_t t = 0, of; t < n; t += of) {
        const int32_t to = slot + t;
        of = to % 2 == 0 && n - t >= 2 ? 2 : 1;
        const __mmask32 lanes = of == 2 ? 0xffffffffu : 0x55555555u << to % 2;
        const float *a = v + (size_t)t * ldv, *b = a + (of == 2 ? ldv : 0); // one alone is both
        uint8_t *values = at + cpu_tile_key_bytes(head_k) + to / 2 * 64;
        for (int32_t d = 0; d < head_v; d += 16, values += TILE_BYTES) {
            const __mmask16 there = (__mmask16)(head_v - d < 16 ? (1u << (head_v - d)) - 1 : 0xffff);
            const __m512i x = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(there, b + d), _mm512_maskz_loadu_ps(there, a + d));
            _mm512_mask_storeu_epi16(values, lanes, _mm512_permutexvar_epi16(both, x));
        }
    }
}

// 2^x for what bf16 then rounds: 2^n * p(r), n = floor(x), 0 <= r <= 1, p of degree 3 within 8e-5 (bf16 keeps 2e-3). At most 0 comes in; below -126, and for
// minus infinity, 0 comes out (denormals are flushed); NaN stays.
static inline __m512 amx_exp2(__m512 x) {
    const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.0780245227f), r, _mm512_set1_ps(0.2260671554f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.6958335405f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.9999252186f));
    return _mm512_scalef_ps(p, x); // which takes floor(x)
}

typedef struct attention {
    const attend_args *a;
    int32_t first, n;    // queries
    int32_t low, high;   // keys that one of them sees
    int32_t all_low, all_high; // that all of them see
    bool bends;          // scores need more than a factor
    int32_t kb, vb;      // blocks of 32 key dims, of 16 value dims
    uint8_t *q;          // tiles [2][kb]
    float *o;            // [QUERIES][vb * 16]
    uint8_t *tail;       // value tiles of a page that ends early; groups share it
    float unit;          // what a score is multiplied with to be what the softmax takes
    float top[QUERIES];  // greatest so far
    float shift[QUERIES]; // the same in powers of two, 0 where nothing was seen
    float rescale[QUERIES]; // what was summed before this split is multiplied with
    float sum[QUERIES][16]; // of the weights, by lanes
} attention;

static void amx_queries(attention *t) {
    for (int32_t i = 0; i < t->n; i++) {
        const float *q = t->a->q[t->first + i];
        uint8_t *to = t->q + (size_t)(i / TILE_ROWS) * (size_t)t->kb * TILE_BYTES + i % TILE_ROWS * 64;
        for (int32_t d = 0; d < t->a->head_k; d += 32, to += TILE_BYTES) {
            uint32_t left = t->a->head_k - d < 32 ? (1u << (t->a->head_k - d)) - 1 : 0xffffffffu;
            __m512 x = _mm512_maskz_loadu_ps((__mmask16)left, q + d), y = _mm512_maskz_loadu_ps((__mmask16)(left >> 16), q + d + 16);
            _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(y, x));
        }
    }
}

static inline void amx_ask(const uint8_t *p, int32_t bytes) {
    for (int32_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T1);
}

// A group's scores of a split, made in steps of 32 dims of one page, so that the tiles work while other queries' weights are made.
typedef struct scoring {
    attention *t;
    float *s;                     // [QUERIES][SCORE_LD]
    const uint8_t *keys[SPLIT];   // of the pages that are seen, which follow each other
    const uint8_t *next[SPLIT];   // NULL, or the page to come, which is asked for in step, as are this page's values: pages lie far apart, so that no processor foresees them
    int first, pages;             // the first seen of SPLIT; how many
    int page;                     // where it is
    int32_t block;
} scoring;

static scoring amx_scoring(attention *t, int32_t base, float *s) {
    const attend_args *a = t->a;
    scoring x = {.t = t, .s = s};
    for (int b = 0; b < SPLIT; b++) {
        int32_t at = base + b * DEV_PAGE_TOKENS;
        if (at + DEV_PAGE_TOKENS <= t->low) x.first = b + 1;
        if (at + DEV_PAGE_TOKENS <= t->low || at >= t->high) continue;
        x.keys[x.pages] = cpu_kv_part(a->kv, a->pages[at / DEV_PAGE_TOKENS], a->part);
        if (t->n <= TILE_ROWS && at + DEV_PAGE_TOKENS < t->high) // with more queries the tiles bind, not memory
            x.next[x.pages] = cpu_kv_part(a->kv, a->pages[at / DEV_PAGE_TOKENS + 1], a->part);
        x.pages++;
    }
    x.s += x.first * DEV_PAGE_TOKENS;
    return x;
}

static inline amx_operands amx_score_begin(const scoring *x) {
    const attention *t = x->t;
    const int32_t b = x->block, kb = t->kb;
    const uint8_t *keys = x->keys[x->page] + b * 2 * TILE_BYTES, *next = x->next[x->page], *q = t->q + b * TILE_BYTES;
    if (b == 0) {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
    if (next) {
        const int32_t part = (t->vb + kb - 1) / kb * TILE_BYTES;
        amx_ask(next + b * 2 * TILE_BYTES, 2 * TILE_BYTES);
        amx_ask(x->keys[x->page] + cpu_tile_key_bytes(t->a->head_k) + b * part, part);
    }
    return (amx_operands){q, t->n > TILE_ROWS ? q + kb * TILE_BYTES : NULL, keys, keys + TILE_BYTES};
}

static inline void amx_score_end(scoring *x) {
    if (++x->block < x->t->kb) return;
    float *s = x->s + x->page++ * DEV_PAGE_TOKENS;
    x->block = 0;
    TILE_STORE(0, s, SCORE_LD * sizeof(float));
    TILE_STORE(1, s + 16, SCORE_LD * sizeof(float));
    if (x->t->n > TILE_ROWS) {
        TILE_STORE(2, s + 16 * SCORE_LD, SCORE_LD * sizeof(float));
        TILE_STORE(3, s + 16 * SCORE_LD + 16, SCORE_LD * sizeof(float));
    }
}

static bool amx_bends(const attend_args *a) { return a->softcap > 0 || a->slope[0] != 0 || !(a->scale > 0); }

// Scores of a split, which some query sees in part or which need more than a factor, in place.
static void amx_bend(const attention *t, int32_t base, float *scores) {
    const attend_args *a = t->a;
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    if (!t->bends && t->all_low <= base && t->all_high >= base + SPLIT_KEYS) return;
    for (int32_t i = 0, n = t->first; i < t->n; i++, n++) {
        float *s = scores + i * SCORE_LD;
        for (int v = 0; v < SPLIT_KEYS / 16; v++, s += 16) {
            const __m512i key = _mm512_add_epi32(lane, _mm512_set1_epi32(base + v * 16));
            const __mmask16 seen = _mm512_cmpge_epi32_mask(key, _mm512_set1_epi32(a->low[n])) & _mm512_cmplt_epi32_mask(key, _mm512_set1_epi32(a->high[n]));
            if (seen && t->bends) { // what nobody sees was not computed, perhaps
                float f[16];
                _mm512_storeu_ps(f, _mm512_mul_ps(_mm512_load_ps(s), _mm512_set1_ps(a->scale)));
                if (a->softcap > 0)
                    for (int j = 0; j < 16; j++) f[j] = seen >> j & 1 ? a->softcap * tanhf(f[j] / a->softcap) : 0;
                const __m512 far = _mm512_cvtepi32_ps(_mm512_abs_epi32(_mm512_sub_epi32(key, _mm512_set1_epi32(a->own[n]))));
                _mm512_store_ps(s, _mm512_sub_ps(_mm512_loadu_ps(f), _mm512_mul_ps(_mm512_set1_ps(a->slope[n]), far)));
            }
            _mm512_mask_store_ps(s, ~seen, _mm512_set1_ps(-INFINITY));
        }
    }
}

// The greatest of each of 16 rows' scores in a split; of rows from n on anything.
static inline __m512 amx_greatest(const float *s, int32_t n) {
    __m512 m[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++, s += SCORE_LD) {
        m[i] = _mm512_setzero_ps();
        if (i >= n) continue;
        m[i] = _mm512_load_ps(s);
#pragma GCC unroll 8
        for (int v = 1; v < SPLIT_KEYS / 16; v++) m[i] = _mm512_max_ps(m[i], _mm512_load_ps(s + v * 16));
    }
    // rows i and i + 4 in halves of a vector, then four rows in its quarters, then two in pairs of a quarter, then one a lane
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const int r = i / 4 * 8 + i % 4;
        m[r] = _mm512_max_ps(_mm512_shuffle_f32x4(m[r], m[r + 4], 0x44), _mm512_shuffle_f32x4(m[r], m[r + 4], 0xee));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) m[i] = _mm512_max_ps(_mm512_shuffle_f32x4(m[i], m[i + 8], 0x88), _mm512_shuffle_f32x4(m[i], m[i + 8], 0xdd));
    const __m512 a = _mm512_max_ps(_mm512_shuffle_ps(m[0], m[1], 0x44), _mm512_shuffle_ps(m[0], m[1], 0xee));
    const __m512 b = _mm512_max_ps(_mm512_shuffle_ps(m[2], m[3], 0x44), _mm512_shuffle_ps(m[2], m[3], 0xee));
    return _mm512_max_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

// Before weights of 16 queries, from i on, are made of their scores of a split: the greatest of each query, and the factors for what was summed
// before: 1 where nothing is greater, 0 where nothing was seen.
static void amx_tops(attention *t, const float *scores, int32_t i) {
    const __m512 was = _mm512_loadu_ps(t->top + i), top = _mm512_max_ps(was, _mm512_mul_ps(amx_greatest(scores + i * SCORE_LD, t->n - i), _mm512_set1_ps(t->unit)));
    const __mmask16 none = _mm512_cmp_ps_mask(top, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
    _mm512_storeu_ps(t->rescale + i, _mm512_mask_mov_ps(vf_exp(_mm512_sub_ps(was, top)), none, _mm512_set1_ps(1)));
    _mm512_storeu_ps(t->shift + i, _mm512_maskz_mul_ps(~none, top, _mm512_set1_ps(LOG2E)));
    _mm512_storeu_ps(t->top + i, top);
}

// One query's scores of a split to softmax weights in bf16. Between them the products of a step of tiles are done one by one, where there is one: tiles at work
// leave one port to vectors, and a row of those that wait fills what a processor looks ahead.
static inline __attribute__((always_inline)) void amx_soften_row(attention *t, const float *scores, int32_t i, uint8_t *weights, const amx_operands *of) {
    _Static_assert(SPLIT == 4, "a product of a step for each part of a row");
    const float *s = scores + i * SCORE_LD;
    const __m512 unit = _mm512_set1_ps(t->unit * LOG2E), shift = _mm512_set1_ps(t->shift[i]);
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    uint8_t *p = weights + i / TILE_ROWS * SPLIT * TILE_BYTES + i % TILE_ROWS * 64;
#pragma GCC unroll 4
    for (int v = 0; v < SPLIT; v++) {
        const __m512 e = amx_exp2(_mm512_fmsub_ps(_mm512_load_ps(s + v * 32), unit, shift)), f = amx_exp2(_mm512_fmsub_ps(_mm512_load_ps(s + v * 32 + 16), unit, shift));
        even = _mm512_add_ps(even, e);
        odd = _mm512_add_ps(odd, f);
        _mm512_store_si512(p + v * TILE_BYTES, (__m512i)_mm512_cvtne2ps_pbh(f, e));
        if (of) amx_product(false, v, of);
    }
    _mm512_storeu_ps(t->sum[i], _mm512_fmadd_ps(_mm512_loadu_ps(t->sum[i]), _mm512_set1_ps(t->rescale[i]), _mm512_add_ps(even, odd)));
}

// The value tiles of a page whose keys from `keys` on nobody has seen, with those as zeros: a weight of zero times what an older page left there must be zero.
static const uint8_t *amx_tail(const attention *t, const uint8_t *values, int32_t keys) {
    for (int32_t r = 0; r < t->vb * 16; r++) {
        int32_t left = keys - r % 16 * 2;
        __m512i keep = _mm512_set1_epi32(left >= 2 ? -1 : left == 1 ? 0xffff : 0);
        _mm512_store_si512(t->tail + r * 64, _mm512_and_si512(_mm512_load_si512(values + r * 64), keep));
    }
    return t->tail;
}

// A group's sums of values of a split, onto what was summed before, in steps of one page and 32 dims, likewise.
typedef struct valuing {
    const attention *t;
    const uint8_t *p;             // its weights of the first page that is seen
    const uint8_t *values[SPLIT]; // of the pages that are seen
    int page, pages;
    int32_t d;                    // of t->vb
} valuing;

// What was summed before is multiplied first, where the greatest score rose: it is what the tiles begin with.
static valuing amx_valuing(const scoring *of, int32_t base, const uint8_t *p) {
    attention *t = of->t;
    valuing x = {.t = t, .p = p + of->first * TILE_BYTES, .pages = of->pages};
    for (int b = 0; b < of->pages; b++) {
        x.values[b] = of->keys[b] + cpu_tile_key_bytes(t->a->head_k);
        const int32_t left = t->high - base - (of->first + b) * DEV_PAGE_TOKENS;
        if (left < DEV_PAGE_TOKENS) x.values[b] = amx_tail(t, x.values[b], left);
    }
    for (int32_t i = 0; i < t->n; i += 16)
        for (uint32_t rose = _mm512_cmp_ps_mask(_mm512_loadu_ps(t->rescale + i), _mm512_set1_ps(1), _CMP_NEQ_UQ); rose; rose &= rose - 1) {
            const int32_t r = i + __builtin_ctz(rose);
            float *o = t->o + r * t->vb * 16;
            for (int32_t d = 0; r < t->n && d < t->vb; d++, o += 16) _mm512_store_ps(o, _mm512_mul_ps(_mm512_load_ps(o), _mm512_set1_ps(t->rescale[r])));
        }
    return x;
}

static inline amx_operands amx_value_begin(const valuing *x) {
    const attention *t = x->t;
    const bool two = t->n > TILE_ROWS;
    const int32_t next = x->d + 1 < t->vb; // a block alone is done twice
    const size_t ld = (size_t)t->vb * 16;
    const uint8_t *values = x->values[x->page] + x->d * TILE_BYTES, *p = x->p + x->page * TILE_BYTES;
    if (x->page == 0) {
        const float *o = t->o + x->d * 16;
        TILE_LOAD(0, o, ld * sizeof(float));
        TILE_LOAD(1, o + next * 16, ld * sizeof(float));
        if (two) {
            TILE_LOAD(2, o + 16 * ld, ld * sizeof(float));
            TILE_LOAD(3, o + 16 * ld + next * 16, ld * sizeof(float));
        }
    }
    return (amx_operands){p, two ? p + SPLIT * TILE_BYTES : NULL, values, values + next * TILE_BYTES};
}

static inline void amx_value_end(valuing *x) {
    const attention *t = x->t;
    const size_t ld = (size_t)t->vb * 16;
    float *o = t->o + x->d * 16;
    if (++x->page < x->pages) return;
    TILE_STORE(0, o, ld * sizeof(float));
    if (x->d + 1 < t->vb) TILE_STORE(1, o + 16, ld * sizeof(float));
    if (t->n > TILE_ROWS) {
        TILE_STORE(2, o + 16 * ld, ld * sizeof(float));
        if (x->d + 1 < t->vb) TILE_STORE(3, o + 16 * ld + 16, ld * sizeof(float));
    }
    x->page = 0;
    x->d += 2;
}

// What the tiles do while a group's weights are made: the sums of values of the group before, then the scores of the one after.
typedef struct beside {
    valuing before;
    scoring next;
    int32_t sums, scores; // steps that are left of each
} beside;

static inline amx_operands amx_beside_begin(const beside *x) { return x->sums > 0 ? amx_value_begin(&x->before) : amx_score_begin(&x->next); }

static inline void amx_beside_end(beside *x) {
    if (x->sums > 0) {
        x->sums--;
        amx_value_end(&x->before);
    } else {
        x->scores--;
        amx_score_end(&x->next);
    }
}

static inline void amx_beside(beside *x) {
    const amx_operands of = amx_beside_begin(x);
    amx_step(false, of.a0, of.a1, of.w0, of.w1);
    amx_beside_end(x);
}

// A group's scores of a split to softmax weights, while so many steps of x are done, evenly between rows; where there is one for each row, within them.
static void amx_soften(attention *t, const float *scores, uint8_t *weights, beside *x, int32_t steps) {
    for (int32_t i = 0, due = 0; i < t->n; i++) {
        if (i % TILE_ROWS == 0) amx_tops(t, scores, i);
        due += steps;
        if (steps < t->n) amx_soften_row(t, scores, i, weights, NULL);
        else {
            const amx_operands of = amx_beside_begin(x);
            amx_soften_row(t, scores, i, weights, &of);
            amx_beside_end(x);
            due -= t->n;
        }
        for (; due >= t->n; due -= t->n) amx_beside(x);
    }
}

static void amx_finish(attention *t) {
    const attend_args *a = t->a;
    for (int32_t i = 0; i < t->n; i++) {
        const int32_t n = t->first + i;
        float f = 1, sum = vf_sum(_mm512_loadu_ps(t->sum[i]));
        if (a->sink) {
            float top = a->sink[n] > t->top[i] ? a->sink[n] : t->top[i];
            f = t->top[i] == -INFINITY ? 0 : expf(t->top[i] - top);
            sum = sum * f + expf(a->sink[n] - top);
        }
        f = sum > 0 ? f / sum : 0;
        for (int32_t d = 0; d < a->head_v; d += 16) {
            const __mmask16 there = (__mmask16)(a->head_v - d < 16 ? (1u << (a->head_v - d)) - 1 : 0xffff);
            _mm512_mask_storeu_ps(a->out[n] + d, there, _mm512_mul_ps(_mm512_load_ps(t->o + i * t->vb * 16 + d), _mm512_set1_ps(f)));
        }
    }
}

static void amx_group_begin(attention *t) {
    const attend_args *a = t->a;
    t->low = t->all_high = INT32_MAX;
    t->high = t->all_low = 0;
    t->bends = amx_bends(a);
    t->unit = t->bends ? 1 : a->scale;
    for (int32_t i = 0; i < QUERIES; i++) t->top[i] = -INFINITY;
    memset(t->sum, 0, sizeof t->sum);
    for (int32_t i = 0; i < t->n; i++) {
        if (a->low[t->first + i] < t->low) t->low = a->low[t->first + i];
        if (a->high[t->first + i] > t->high) t->high = a->high[t->first + i];
        if (a->low[t->first + i] > t->all_low) t->all_low = a->low[t->first + i];
        if (a->high[t->first + i] < t->all_high) t->all_high = a->high[t->first + i];
    }
    memset(t->o, 0, (size_t)(t->n * t->vb) * 16 * sizeof(float));
    amx_queries(t);
}

// From split `base` and group g on, the first that sees something; keys end at `high`.
static bool amx_seen(const attention *t, int n, int32_t high, int32_t *base, int *g) {
    for (; *base < high; *base += SPLIT_KEYS, *g = 0)
        for (; *g < n; ++*g)
            if (*base < t[*g].high && *base + SPLIT_KEYS > t[*g].low) return true;
    return false;
}

// What groups share, twice: one split's is still read while the next one's is made.
typedef struct shared { float *scores[2]; uint8_t *weights[2]; } shared;

// Groups side by side: a split that was read once serves all of them from the second level. While one group's weights are made, the sums of values of the one
// before and the scores of the one after are.
static void amx_groups(attention *t, int n, const shared *sh) {
    int32_t low = INT32_MAX, high = 0;
    for (int g = 0; g < n; g++) {
        amx_group_begin(&t[g]);
        if (t[g].low < low) low = t[g].low;
        if (t[g].high > high) high = t[g].high;
    }
    int32_t base = low / SPLIT_KEYS * SPLIT_KEYS, at = 0;
    scoring now = {0}; // what group `of` has of the split from `at` on
    beside x = {.sums = 0};
    attention *of = NULL;
    for (int turn = 0, g = 0;; turn ^= 1, g++) {
        attention *then = amx_seen(t, n, high, &base, &g) ? &t[g] : NULL;
        const bool one_shape = of && then && of->n == then->n;
        x.next = then ? amx_scoring(then, base, sh->scores[turn]) : (scoring){0};
        x.scores = x.next.pages * t->kb;
        if (of) {
            amx_bend(of, at, sh->scores[turn ^ 1]);
            amx_soften(of, sh->scores[turn ^ 1], sh->weights[turn], &x, x.sums + (one_shape ? x.scores : 0));
            x.before = amx_valuing(&now, at, sh->weights[turn]);
            x.sums = x.before.pages * ((of->vb + 1) / 2);
        }
        if (!one_shape || of->n <= TILE_ROWS) // of few queries the pages come from memory, in the order they were asked for
            while (x.sums > 0) amx_beside(&x);
        if (!then) break;
        if (!one_shape) amx_shape(then->n < TILE_ROWS ? then->n : TILE_ROWS, then->n > TILE_ROWS ? then->n - TILE_ROWS : 1);
        while (x.scores > 0) amx_beside(&x);
        now = x.next;
        of = then;
        at = base;
    }
    for (int g = 0; g < n; g++) amx_finish(&t[g]);
}

static void amx_attend(const attend_args *a) {
    enum { GROUPS = TILE_QUERIES / QUERIES };
    attention t[GROUPS], first = {.a = a, .kb = (a->head_k + 31) / 32, .vb = (a->head_v + 15) / 16};
    const size_t kb = (size_t)first.kb, vb = (size_t)first.vb;
    uint8_t *weights = (uint8_t *)(((uintptr_t)a->scratch + 63) & ~(uintptr_t)63);
    first.tail = weights + 4 * SPLIT * TILE_BYTES;
    float *scores = (float *)(first.tail + vb * TILE_BYTES), *own = scores + 2 * QUERIES * SCORE_LD;
    const shared sh = {{scores, scores + QUERIES * SCORE_LD}, {weights, weights + 2 * SPLIT * TILE_BYTES}};
    uint32_t was = amx_begin();
    for (int32_t at = 0; at < a->n;) {
        int n = 0;
        float *to = own;
        for (; n < GROUPS && at < a->n; n++, at += QUERIES) {
            t[n] = first;
            t[n].first = at;
            t[n].n = a->n - at < QUERIES ? a->n - at : QUERIES;
            t[n].q = (uint8_t *)to;
            t[n].o = to + 2 * kb * TILE_BYTES / sizeof(float);
            to = t[n].o + QUERIES * vb * 16;
        }
        amx_groups(t, n, &sh);
    }
    amx_end(was);
}

static void amx_fill_attend(cpu_kernels *k) {
    k->kv_auto = DEV_KV_BF16;
    k->kv_put = amx_kv_put;
    k->attend_tiles = amx_attend;
}
