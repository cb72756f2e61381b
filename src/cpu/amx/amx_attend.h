// cpu/amx/attend: attention over bf16 pages with tiles, for prompts and for single rows alike: what is left over of a tile's 16 queries costs nothing where
// pages come from memory, and there is but one order of sums.
//
// A head of a page: keys as weight tiles [dims / 32][half of the keys][16 pairs of dims][16 keys][2], values [dims / 16][16 pairs of keys][16 dims][2]; dims
// are padded, keys' with zeros. Recipe: queries and softmax weights rounded to bf16; scores and sums of values as TDPBF16PS chains; online softmax over
// splits of 4 pages at absolute positions, the sum of a split in one accumulator, then out = out * rescale + it.
// For 32 queries and one page of 128 dims: 16 TDPBF16PS and 16 tile loads for scores, 16 and 16 for values (512 cycles); 64 vectors of weights (11 operations each on two
// ports, 350 cycles), made while the tiles work for the groups before and after; the rescaling is a quarter of what it would be page by page. Greatest scores of 16 queries come from
// one reduction, sums of weights stay in lanes until the end.
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
        const __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]), b = _mm512_unpackhi_epi32(r[i], r[i + 1]), c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
        t[i] = _mm512_unpacklo_epi64(a, c);
        t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d);
        t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for (int j = 0; j < 4; j++) { // quarters of four rows each, in order of rows
        const __m512i a = _mm512_shuffle_i32x4(t[j], t[j + 4], 0x88), b = _mm512_shuffle_i32x4(t[j + 8], t[j + 12], 0x88), c = _mm512_shuffle_i32x4(t[j], t[j + 4], 0xdd), d = _mm512_shuffle_i32x4(t[j + 8], t[j + 12], 0xdd);
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

// 2^x for what bf16 then rounds: 2^n * p(r), n = floor(x), 0 <= r <= 1, p of degree 3 within 8e-5 (bf16 keeps 2e-3). At most 0 comes in; below -126, and for minus infinity, 0 comes out
// (denormals are flushed); NaN stays.
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
    int32_t kb, vb;      // blocks of 32 key dims, of 16 value dims
    uint8_t *q;          // tiles [2][kb]
    float *o;            // [QUERIES][vb * 16]
    float *part;         // what groups share: 4 tiles,
    uint8_t *tail;       // value tiles of a page that ends early
    float unit;          // what a score is multiplied with to be what the softmax takes
    float top[QUERIES];  // greatest so far
    float shift[QUERIES]; // the same in powers of two, 0 where nothing was seen
    float rescale[2][QUERIES]; // what was summed before a split is multiplied with: of this split, and of the last one whose values are summed beside it
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

// A group's scores of a split, made in steps of 32 dims of one page, so that the tiles work while other queries' weights are made: the softmax keeps two vector ports
// busy as long as the tiles take, and no processor looks so far ahead.
typedef struct scoring {
    const attention *t;
    float *s;                     // [QUERIES][SCORE_LD]
    const uint8_t *keys[SPLIT];   // of pages that are seen, else NULL
    const uint8_t *next[SPLIT];   // NULL, or the page to come, which is asked for in step, as are this page's values: pages lie far apart, so that no processor foresees them
    int slot, pages;              // where it is; how many are seen
    int32_t block;
} scoring;

static scoring amx_scoring(const attention *t, int32_t base, float *s) {
    const attend_args *a = t->a;
    scoring x = {.t = t, .s = s};
    for (int b = 0; b < SPLIT; b++) {
        int32_t at = base + b * DEV_PAGE_TOKENS;
        if (at + DEV_PAGE_TOKENS <= t->low || at >= t->high) continue;
        x.pages++;
        x.keys[b] = a->base + (size_t)a->pages[at / DEV_PAGE_TOKENS] * a->page_stride;
        if (t->n <= TILE_ROWS && at + DEV_PAGE_TOKENS < t->high) x.next[b] = a->base + (size_t)a->pages[at / DEV_PAGE_TOKENS + 1] * a->page_stride; // with more queries the tiles bind, not memory
    }
    return x;
}

static void amx_score(scoring *x) {
    const attention *t = x->t;
    while (!x->keys[x->slot]) x->slot++;
    const int32_t b = x->block, part = (t->vb + t->kb - 1) / t->kb * TILE_BYTES;
    const uint8_t *keys = x->keys[x->slot], *next = x->next[x->slot], *q = t->q + b * TILE_BYTES;
    if (b == 0) {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
    if (next) {
        amx_ask(next + b * 2 * TILE_BYTES, 2 * TILE_BYTES);
        amx_ask(keys + cpu_tile_key_bytes(t->a->head_k) + b * part, part);
    }
    amx_step(false, q, t->n > TILE_ROWS ? q + t->kb * TILE_BYTES : NULL, keys + b * 2 * TILE_BYTES, keys + b * 2 * TILE_BYTES + TILE_BYTES);
    if (++x->block < t->kb) return;
    float *s = x->s + x->slot++ * DEV_PAGE_TOKENS;
    x->block = 0;
    TILE_STORE(0, s, SCORE_LD * sizeof(float));
    TILE_STORE(1, s + 16, SCORE_LD * sizeof(float));
    if (t->n > TILE_ROWS) {
        TILE_STORE(2, s + 16 * SCORE_LD, SCORE_LD * sizeof(float));
        TILE_STORE(3, s + 16 * SCORE_LD + 16, SCORE_LD * sizeof(float));
    }
}

static bool amx_bends(const attend_args *a) { return a->softcap > 0 || a->slope[0] != 0 || !(a->scale > 0); }

// One query's scores of a split, which it sees in part or which need more than a factor, in place.
static void amx_bend(const attention *t, int32_t n, int32_t base, float *s) {
    const attend_args *a = t->a;
    const bool bends = amx_bends(a);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int v = 0; v < SPLIT_KEYS / 16; v++, s += 16) {
        const __m512i key = _mm512_add_epi32(lane, _mm512_set1_epi32(base + v * 16));
        const __mmask16 seen = _mm512_cmpge_epi32_mask(key, _mm512_set1_epi32(a->low[n])) & _mm512_cmplt_epi32_mask(key, _mm512_set1_epi32(a->high[n]));
        if (seen && bends) { // what nobody sees was not computed, perhaps
            float f[16];
            _mm512_storeu_ps(f, _mm512_mul_ps(_mm512_load_ps(s), _mm512_set1_ps(a->scale)));
            if (a->softcap > 0)
                for (int j = 0; j < 16; j++) f[j] = seen >> j & 1 ? a->softcap * tanhf(f[j] / a->softcap) : 0;
            _mm512_store_ps(s, _mm512_add_ps(_mm512_loadu_ps(f), _mm512_mul_ps(_mm512_set1_ps(a->slope[n]), _mm512_cvtepi32_ps(_mm512_sub_epi32(key, _mm512_set1_epi32(a->own[n]))))));
        }
        _mm512_mask_store_ps(s, ~seen, _mm512_set1_ps(-INFINITY));
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

// Before a split's weights are made: scores that need it bent, the greatest of each query, and the factors for what was summed before: 1 where nothing is greater, 0 where nothing was seen.
static void amx_tops(attention *t, float *scores, int32_t base, float rescale[QUERIES]) {
    const attend_args *a = t->a;
    const bool bends = amx_bends(a);
    for (int32_t i = 0; i < t->n; i++)
        if (bends || a->low[t->first + i] > base || a->high[t->first + i] < base + SPLIT_KEYS) amx_bend(t, t->first + i, base, scores + i * SCORE_LD);
    for (int32_t i = 0; i < t->n; i += 16) {
        const __m512 was = _mm512_loadu_ps(t->top + i), top = _mm512_max_ps(was, _mm512_mul_ps(amx_greatest(scores + i * SCORE_LD, t->n - i), _mm512_set1_ps(t->unit)));
        const __mmask16 none = _mm512_cmp_ps_mask(top, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
        _mm512_storeu_ps(rescale + i, _mm512_mask_mov_ps(vf_exp(_mm512_sub_ps(was, top)), none, _mm512_set1_ps(1)));
        _mm512_storeu_ps(t->shift + i, _mm512_maskz_mul_ps(~none, top, _mm512_set1_ps(LOG2E)));
        _mm512_storeu_ps(t->top + i, top);
    }
}

// One query's scores of a split to softmax weights in bf16.
static void amx_soften(attention *t, const float *scores, int32_t i, float rescale, uint8_t *weights) {
    const float *s = scores + i * SCORE_LD;
    const __m512 unit = _mm512_set1_ps(t->unit * LOG2E), shift = _mm512_set1_ps(t->shift[i]);
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    uint8_t *p = weights + i / TILE_ROWS * SPLIT * TILE_BYTES + i % TILE_ROWS * 64;
#pragma GCC unroll 4
    for (int v = 0; v < SPLIT_KEYS / 16; v += 2) {
        const __m512 e = amx_exp2(_mm512_fmsub_ps(_mm512_load_ps(s + v * 16), unit, shift)), f = amx_exp2(_mm512_fmsub_ps(_mm512_load_ps(s + v * 16 + 16), unit, shift));
        even = _mm512_add_ps(even, e);
        odd = _mm512_add_ps(odd, f);
        _mm512_store_si512(p + v / 2 * TILE_BYTES, (__m512i)_mm512_cvtne2ps_pbh(f, e));
    }
    _mm512_storeu_ps(t->sum[i], _mm512_fmadd_ps(_mm512_loadu_ps(t->sum[i]), _mm512_set1_ps(rescale), _mm512_add_ps(even, odd)));
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

// A group's sums of values of a split, in steps of one page and 32 dims, likewise.
typedef struct valuing {
    const attention *t;
    const uint8_t *p;             // its weights
    const float *rescale;
    const uint8_t *values[SPLIT]; // NULL where nothing is seen
    int slot, pages;
    int32_t d;                    // of t->vb
} valuing;

static valuing amx_valuing(const scoring *of, int32_t base, const uint8_t *p, const float *rescale) {
    const attention *t = of->t;
    valuing x = {.t = t, .p = p, .rescale = rescale, .pages = of->pages};
    for (int b = 0; b < SPLIT; b++) {
        if (!of->keys[b]) continue;
        x.values[b] = of->keys[b] + cpu_tile_key_bytes(t->a->head_k);
        const int32_t left = t->high - base - b * DEV_PAGE_TOKENS;
        if (left < DEV_PAGE_TOKENS) x.values[b] = amx_tail(t, x.values[b], left);
    }
    return x;
}

static void amx_value(valuing *x) {
    const attention *t = x->t;
    const bool two = t->n > TILE_ROWS;
    while (!x->values[x->slot]) x->slot++;
    const int b = x->slot++;
    const int32_t d = x->d, next = d + 1 < t->vb ? TILE_BYTES : 0; // a block alone is done twice
    const uint8_t *values = x->values[b] + d * TILE_BYTES;
    bool first = true, last = true;
    for (int i = 0; i < b; i++) first &= !x->values[i];
    for (int i = b + 1; i < SPLIT; i++) last &= !x->values[i];
    if (first) {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
    amx_step(false, x->p + b * TILE_BYTES, two ? x->p + (SPLIT + b) * TILE_BYTES : NULL, values, values + next);
    if (!last) return;
    x->slot = 0;
    x->d += 2;
    TILE_STORE(0, t->part, 64);
    TILE_STORE(1, t->part + 512, 64);
    if (two) {
        TILE_STORE(2, t->part + 256, 64);
        TILE_STORE(3, t->part + 768, 64);
    }
    for (int32_t i = 0; i < t->n; i++) {
        float *o = t->o + i * t->vb * 16 + d * 16;
        __m512 f = _mm512_set1_ps(x->rescale[i]);
        _mm512_store_ps(o, _mm512_fmadd_ps(_mm512_load_ps(o), f, _mm512_load_ps(t->part + i * 16)));
        if (next) _mm512_store_ps(o + 16, _mm512_fmadd_ps(_mm512_load_ps(o + 16), f, _mm512_load_ps(t->part + 512 + i * 16)));
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
    t->low = INT32_MAX;
    t->high = 0;
    t->unit = amx_bends(a) ? 1 : a->scale;
    for (int32_t i = 0; i < QUERIES; i++) t->top[i] = -INFINITY;
    memset(t->sum, 0, sizeof t->sum);
    for (int32_t i = 0; i < t->n; i++) {
        if (a->low[t->first + i] < t->low) t->low = a->low[t->first + i];
        if (a->high[t->first + i] > t->high) t->high = a->high[t->first + i];
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
    valuing before = {0};
    attention *of = NULL;
    int32_t sums = 0; // steps that `before` takes
    for (int turn = 0, g = 0;; turn ^= 1, g++) {
        attention *then = amx_seen(t, n, high, &base, &g) ? &t[g] : NULL;
        scoring next = {0};
        if (then) next = amx_scoring(then, base, sh->scores[turn]);
        const int32_t steps = next.pages * t->kb, beside = of && then && of->n == then->n ? steps : 0; // tiles of one shape
        int32_t done = 0;
        if (of) {
            float *rescale = of->rescale[turn];
            amx_tops(of, now.s, at, rescale);
            for (int32_t i = 0; i < of->n; i++) {
                amx_soften(of, now.s, i, rescale[i], sh->weights[turn]);
                for (; done < (sums + beside) * (i + 1) / of->n; done++) {
                    if (done < sums) amx_value(&before);
                    else amx_score(&next);
                }
            }
            done -= sums;
            before = amx_valuing(&now, at, sh->weights[turn], rescale);
            sums = before.pages * ((t->vb + 1) / 2);
        }
        if (!beside || of->n <= TILE_ROWS) // of few queries the pages come from memory, in the order they were asked for
            for (; sums > 0; sums--) amx_value(&before);
        if (!then) break;
        if (done == 0) amx_shape(then->n < TILE_ROWS ? then->n : TILE_ROWS, then->n > TILE_ROWS ? then->n - TILE_ROWS : 1);
        for (; done < steps; done++) amx_score(&next);
        now = next;
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
    first.part = (float *)(first.tail + vb * TILE_BYTES);
    float *scores = first.part + 1024, *own = scores + 2 * QUERIES * SCORE_LD;
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
