// cpu/avx512: the kernels for AVX-512 with VNNI, which two tiers compile: with and without VBMI, where the same bits come by more instructions. Integer
// formats: VPDPBUSD of unsigned weights (16 rows x 4 columns, in registers for all rows of a tile) with 4 broadcast int8 activations. Weights that are
// stored with an offset begin at -offset * (sum of q), so that the int32 at the end is that of the signed weights, exactly.
#pragma once
#include "cpu/cpu_generic.h"
#include "cpu/cpu_int8.h"
#include "cpu/avx512/avx512_codes.h"

typedef struct scales { __m512 d, m; __m512i s0, s1; } scales;

static inline __attribute__((always_inline)) void load_weights(int format, const uint8_t *a, __m512i w[8]) {
    if (format == CPU_Q8) {
        for (int c = 0; c < 8; c++) w[c] = _mm512_loadu_si512(a + c * 64);
        return;
    }
    const __m512i low = _mm512_set1_epi8(15);
    for (int c = 0; c < 4; c++) {
        __m512i v = _mm512_loadu_si512(a + c * 64);
        w[c] = _mm512_and_si512(v, low);
        w[c + 4] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
    }
    if (format == CPU_Q6_K) {
        const __m512i two = _mm512_set1_epi8(0x30);
        for (int c = 0; c < 2; c++) {
            __m512i h = _mm512_loadu_si512(a + 256 + c * 64);
            w[c] = _mm512_ternarylogic_epi32(w[c], _mm512_slli_epi16(h, 4), two, 0xf8); // w | (h & two)
            w[c + 2] = _mm512_ternarylogic_epi32(w[c + 2], _mm512_slli_epi16(h, 2), two, 0xf8);
            w[c + 4] = _mm512_ternarylogic_epi32(w[c + 4], h, two, 0xf8);
            w[c + 6] = _mm512_ternarylogic_epi32(w[c + 6], _mm512_srli_epi16(h, 2), two, 0xf8);
        }
    } else if (format == CPU_Q5_0 || format == CPU_Q5_1 || format == CPU_Q5_K) {
        const __m512i high = _mm512_set1_epi8(16);
        for (int c = 0; c < 8; c++) {
            uint64_t m;
            memcpy(&m, a + 256 + c * 8, 8);
            w[c] = _mm512_mask_add_epi8(w[c], (__mmask64)m, w[c], high);
        }
    }
}

static inline __attribute__((always_inline)) __m512 half16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline __attribute__((always_inline)) __m512 bytes16(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p))); }

static inline __attribute__((always_inline)) scales load_scales(int format, const uint8_t *area, int64_t b) {
    scales s = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    switch (format) {
    case CPU_Q8: case CPU_Q4_0: case CPU_Q5_0: s.d = half16(area + b * 32); break;
    case CPU_Q4_1: case CPU_Q5_1:
        s.d = half16(area + b * 64);
        s.m = half16(area + b * 64 + 32);
        break;
    case CPU_Q4_K: case CPU_Q5_K: {
        const uint8_t *x = area + b / 8 * 320, *y = x + 64 + b % 8 * 32;
        s.d = _mm512_mul_ps(half16(x), bytes16(y));
        s.m = _mm512_mul_ps(half16(x + 32), bytes16(y + 16));
        break;
    }
    default: {
        const uint8_t *x = area + b / 8 * 288, *y = x + 32 + b % 8 * 32;
        s.d = half16(x);
        s.s0 = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)y));
        s.s1 = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(y + 16)));
    }
    }
    return s;
}

static inline __attribute__((always_inline)) __m512i quad(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, 4);
    return _mm512_set1_epi32(v);
}

// One row's block: y += what it adds, for 16 outputs. By two chains: eight products of one would wait for each other longer than a core looks ahead.
static inline __attribute__((always_inline)) __m512 block_row(int format, const __m512i w[8], const scales *s, const int8_t *q,
    float d, float ds, int32_t nsum, int32_t nhigh, __m512 y) {
    if (format == CPU_Q6_K) {
        __m512i h = _mm512_set1_epi32(nhigh);
        __m512i a = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(nsum), h), 5), b = _mm512_slli_epi32(h, 5);
        for (int c = 0; c < 4; c++) {
            a = _mm512_dpbusd_epi32(a, w[c], quad(q + c * 4));
            b = _mm512_dpbusd_epi32(b, w[c + 4], quad(q + 16 + c * 4));
        }
        a = _mm512_add_epi32(_mm512_mullo_epi32(a, s->s0), _mm512_mullo_epi32(b, s->s1));
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), _mm512_mul_ps(s->d, _mm512_set1_ps(d)), y);
    }
    const int shift = format == CPU_Q8 ? 7 : format == CPU_Q4_0 ? 3 : format == CPU_Q5_0 ? 4 : 0;
    __m512i a = shift ? _mm512_slli_epi32(_mm512_set1_epi32(nsum), (unsigned)shift) : _mm512_setzero_si512();
    __m512i b = _mm512_setzero_si512();
    for (int c = 0; c < 4; c++) {
        a = _mm512_dpbusd_epi32(a, w[c], quad(q + c * 4));
        b = _mm512_dpbusd_epi32(b, w[c + 4], quad(q + 16 + c * 4));
    }
    a = _mm512_add_epi32(a, b);
    y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), _mm512_mul_ps(s->d, _mm512_set1_ps(d)), y);
    if (format == CPU_Q4_1 || format == CPU_Q5_1) y = _mm512_fmadd_ps(s->m, _mm512_set1_ps(ds), y);
    if (format == CPU_Q4_K || format == CPU_Q5_K) y = _mm512_fnmadd_ps(s->m, _mm512_set1_ps(ds), y);
    return y;
}

// Short codes: the same over avx512_codes.h.
static inline __attribute__((always_inline)) void code_rows(cpu_format format, int R, const cpu_tensor *t, const uint8_t *panel,
    int64_t k, int8_src src, cpu_ask *ask, float (*out)[PANEL]) {
    const uint8_t *quants = panel + t->scale_bytes;
    const size_t share = cpu_ask_share(t->panel_bytes, k / BLOCK);
    __m512 y[ROW_TILE];
    for (int r = 0; r < R; r++) y[r] = _mm512_setzero_ps();
    for (int64_t b = 0; b < k / BLOCK; b++) {
        __m512i w[8];
        code_load(format, quants, b, w);
        code_scales s = code_row_scales(format, panel, b);
        cpu_ask_next(ask, share);
        if (!src.tile) {
            y[0] = code_row(format, w, &s, src.q + b * BLOCK, src.aux[b].d, src.aux[b].nsum, src.aux[b].nhigh, y[0]);
            continue;
        }
        const cpu_tile_aux *a = src.tile + b;
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) y[r] = code_row(format, w, &s, src.q + b * TILE_BLOCK + r * BLOCK, a->d[r], a->nsum[r], a->nhigh[r], y[r]);
    }
    for (int r = 0; r < R; r++) _mm512_storeu_ps(out[r], y[r]);
}

static inline __attribute__((always_inline)) void int8_rows(int format, int R, const cpu_tensor *t, const uint8_t *panel,
    int64_t k, int8_src src, cpu_ask *ask, float (*out)[PANEL]) {
    if (cpu_format_code((cpu_format)format)) {
        code_rows((cpu_format)format, R, t, panel, k, src, ask, out);
        return;
    }
    const size_t block = cpu_int8_bytes((cpu_format)format);
    const uint8_t *area = panel + t->scale_bytes;
    const size_t share = cpu_ask_share(t->panel_bytes, k / BLOCK);
    __m512 y[ROW_TILE];
    for (int r = 0; r < R; r++) y[r] = _mm512_setzero_ps();
    for (int64_t b = 0; b < k / BLOCK; b++, area += block) {
        __m512i w[8];
        load_weights(format, area, w);
        scales s = load_scales(format, panel, b);
        cpu_ask_next(ask, share);
        if (!src.tile) {
            y[0] = block_row(format, w, &s, src.q + b * BLOCK, src.aux[b].d, src.aux[b].ds, src.aux[b].nsum, src.aux[b].nhigh, y[0]);
            continue;
        }
        const cpu_tile_aux *a = src.tile + b;
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) y[r] = block_row(format, w, &s, src.q + b * TILE_BLOCK + r * BLOCK, a->d[r], a->ds[r], a->nsum[r], a->nhigh[r], y[r]);
    }
    for (int r = 0; r < R; r++) _mm512_storeu_ps(out[r], y[r]);
}

// x = d q, d = max |x| / 127; what is too small for that counts as zero, and a block with something that is no number is none.
static void quantize(const float *x, int64_t k, cpu_int8_place to) {
    const __m512 most = _mm512_set1_ps(FLT_MAX);
    for (int64_t b = 0; b < k / BLOCK; b++, x += BLOCK, quantize_on(&to)) {
        __m512 v0 = _mm512_loadu_ps(x), v1 = _mm512_loadu_ps(x + 16);
        if (_mm512_cmp_ps_mask(_mm512_abs_ps(v0), most, _CMP_NLE_UQ) | _mm512_cmp_ps_mask(_mm512_abs_ps(v1), most, _CMP_NLE_UQ)) {
            quantize_none(&to);
            continue;
        }
        float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(v0), _mm512_abs_ps(v1)));
        bool some = top > 1e-30f;
        float d = some ? top / 127.0f : 0;
        __m512 f = _mm512_set1_ps(some ? 127.0f / top : 0);
        __m512i i0 = _mm512_cvtps_epi32(_mm512_mul_ps(v0, f)), i1 = _mm512_cvtps_epi32(_mm512_mul_ps(v1, f));
        _mm_storeu_si128((__m128i *)to.q, _mm512_cvtsepi32_epi8(i0));
        _mm_storeu_si128((__m128i *)(to.q + 16), _mm512_cvtsepi32_epi8(i1));
        cpu_put_aux(to.aux, to.aux_apart, d, _mm512_reduce_add_epi32(i0), _mm512_reduce_add_epi32(i1));
    }
}

static void fill_avx512(cpu_kernels *k, const char *isa) {
    k->isa = isa;
    fill_generic(k);
    fill_int8(k);
    k->quantize = quantize;
    cpu_pack_avx512(k);
}
