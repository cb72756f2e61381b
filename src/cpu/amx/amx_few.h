// cpu/amx/few: products of a few rows over the same panels as amx_gemm.h, without tiles: activations in int8 (d, and 32 numbers a block), VPDPBUSD. For up to
// FEW_ROWS rows the unpacking of tiles into bf16 binds (8 to 10 GB/s of weights a core from the cache, on a Sapphire Rapids), this does not (57).
// Recipe, not the tile tier's own, so that it is used without --deterministic alone: exact int32 over a block (16 columns, where those have a scale of their
// own), blocks in ascending order by one chain of fused operations. A row's result does not depend on the other rows, but a step of more than FEW_ROWS rows
// goes through tiles and rounds otherwise.
// An activation block lies as [g][s][j][t], column 16 g + 4 t + 2 s + j: four bytes meet the low (s = 0) or high nibbles of a vector [j][g] of cpu_tile.h.
#pragma once
#include "cpu/amx/amx_gemm.h"

enum { FEW_ROWS = 8 };

static void amx_few_order(int8_t *q, int64_t k) {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (int64_t i = 0; i < k; i += 16) _mm_storeu_si128((__m128i *)(q + i), _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(q + i)), order));
}

// [j][g][s]: unsigned numbers of 16 rows x 4 columns. values: NULL, or 128 + what each of 16 codes stands for.
static inline __attribute__((always_inline)) void few_weights(int bits, const __m512i *values, const uint8_t *area, __m512i w[8]) {
    if (bits == 8) {
        for (int i = 0; i < 8; i++) w[i] = _mm512_loadu_si512(area + i * 64);
        return;
    }
    const __m512i low = _mm512_set1_epi8(15);
    for (int i = 0; i < 4; i++) {
        __m512i v = _mm512_loadu_si512(area + i * 64);
        w[2 * i] = _mm512_and_si512(v, low);
        w[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        if (values) {
            w[2 * i] = _mm512_shuffle_epi8(*values, w[2 * i]);
            w[2 * i + 1] = _mm512_shuffle_epi8(*values, w[2 * i + 1]);
        }
    }
    if (bits == 5)
        for (int i = 0; i < 8; i++) {
            uint64_t mask;
            memcpy(&mask, area + 256 + i * 8, 8);
            w[i] = _mm512_mask_add_epi8(w[i], (__mmask64)mask, w[i], _mm512_set1_epi8(16));
        }
    if (bits == 6)
        for (int j = 0; j < 2; j++) {
            __m512i v = _mm512_loadu_si512(area + 256 + j * 64);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) { // bits 16 g + 4 t + 2 s of each dword to bits 4 and 5 of byte t
                const uint64_t at = i == 0 ? 0x0804003cull : i == 1 ? 0x0a06023eull : i == 2 ? 0x1814100cull : 0x1a16120eull;
                __m512i bit = _mm512_set1_epi64((long long)(at | (((at + 0x20202020ull) & 0x3f3f3f3full) << 32)));
                w[j * 4 + i] = _mm512_ternarylogic_epi32(w[j * 4 + i], _mm512_multishift_epi64_epi8(bit, v), _mm512_set1_epi8(0x30), 0xf8); // w | (bits & 0x30)
            }
        }
}

// Sums begin at the bits of 3 * 2^22, where floats lie one apart: what they end at is, read as a float, that and the sum. One FMA then takes it off and scales,
// where a conversion and a product would be two operations, with the same bits: 3 * 2^22 times a scale is exact, of a half float by six or eight bits. Powers
// of two up to the greatest (SCALE_E8) do not go so far.
enum { FEW_ZERO = 0x4b400000 };
static inline bool few_folds(cpu_scale kind) { return kind != SCALE_E8; }

typedef struct few_scales {
    amx_scales s;
    __m512 zero; // what FEW_ZERO becomes by the first half's scales
} few_scales;

static inline __attribute__((always_inline)) void few_load_scales(cpu_scale kind, const uint8_t *panel, int64_t b, few_scales *f) {
    amx_load_scales(kind, panel, b, &f->s);
    f->zero = _mm512_mul_ps(f->s.d[0], _mm512_castsi512_ps(_mm512_set1_epi32(FEW_ZERO)));
}

// A block of R rows: y += what it adds for 16 rows of weights; what mins take off is few_mins'. Rows go side by side: each has one chain of integers, and a row after
// the other would wait for it.
static inline __attribute__((always_inline)) void few_block(int R, cpu_scale kind, bool two, int offset,
    const __m512i w[8], const few_scales *f, const int8_t *const *q, const cpu_aux *const *aux, int64_t b, __m512 *y) {
    const amx_scales *s = &f->s;
    const bool folds = few_folds(kind);
    __m512i sum[FEW_ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        const cpu_aux *a = &aux[r][b];
        sum[r][0] = _mm512_set1_epi32((folds ? FEW_ZERO : 0) + (two ? a->nsum - a->nhigh : a->nsum) * offset);
        sum[r][1] = _mm512_set1_epi32(two ? a->nhigh * offset : 0);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) // [g][s][j]
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            int32_t x;
            memcpy(&x, q[r] + b * TILE_K + i * 4, 4);
            sum[r][two ? i / 4 : 0] = _mm512_dpbusd_epi32(sum[r][two ? i / 4 : 0], w[i % 2 * 4 + i / 2], _mm512_set1_epi32(x));
        }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        __m512 z = folds ? _mm512_fmsub_ps(_mm512_castsi512_ps(sum[r][0]), s->d[0], f->zero) : _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][0]), s->d[0]);
        if (two) z = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][1]), s->d[1], z);
        y[r] = _mm512_fmadd_ps(z, _mm512_set1_ps(aux[r][b].d), y[r]);
    }
}

// What the minima of a panel's blocks take off R rows: y += minus the minimum times the sum of the block's activations.
static inline __attribute__((always_inline)) void few_mins(int R, cpu_scale kind, const uint8_t *panel, int64_t blocks, const cpu_aux *const *aux, __m512 *y) {
    for (int64_t b = 0; b < blocks; b++) {
        const __m512 m = amx_load_min(kind, panel, b);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) y[r] = _mm512_fmadd_ps(m, _mm512_set1_ps(aux[r][b].ds), y[r]);
    }
}

static inline __attribute__((always_inline)) void few_panel(int R, int bits, cpu_scale kind, const __m512i *values, const gemm_args *g, int64_t p, int32_t row) {
    const size_t bytes = bits == 8 ? 512 : bits == 6 ? 384 : bits == 5 ? 320 : 256;
    const bool two = kind == SCALE_BYTES || kind == SCALE_E4, less = kind == SCALE_DM || kind == SCALE_K4; // has minima
    const int offset = bits == 8 || values ? 128 : bits == 6 ? 32 : less ? 0 : bits == 5 ? 16 : 8;
    const uint8_t *panel = g->data + (size_t)p * g->w->panel_bytes, *area = panel + g->w->scale_bytes;
    const int64_t B = g->k / TILE_K;
    const size_t asked = cpu_ask_share(g->w->panel_bytes, B);
    const int8_t *q[FEW_ROWS];
    const cpu_aux *aux[FEW_ROWS];
    __m512 y[FEW_ROWS];
    for (int r = 0; r < R; r++) {
        q[r] = g->q + (size_t)g->rows[row + r] * (size_t)g->k;
        aux[r] = g->aux + (size_t)g->rows[row + r] * (size_t)B;
        y[r] = _mm512_setzero_ps();
    }
    for (int64_t b = 0; b < B; b++, area += bytes) {
        __m512i w[8];
        few_scales s;
        few_weights(bits, values, area, w);
        few_load_scales(kind, panel, b, &s);
        cpu_ask_bytes(panel + PANEL_AHEAD + (size_t)b * asked, asked);
        few_block(R, kind, two, offset, w, &s, q, aux, b, y);
    }
    __m512 z[FEW_ROWS];
    for (int r = 0; r < R; r++) z[r] = _mm512_setzero_ps();
    if (less) few_mins(R, kind, panel, B, aux, z);
    for (int r = 0; r < R; r++) {
        float out[16];
        _mm512_storeu_ps(out, _mm512_add_ps(z[r], y[r]));
        amx_put(g, g->scale, row + r, p, out);
    }
}

static inline __attribute__((always_inline)) void amx_few(int bits, cpu_scale kind, bool coded, const gemm_args *g) {
    __m512i codes = _mm512_setzero_si512(), *values = coded ? &codes : NULL;
    if (coded) codes = _mm512_xor_si512(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)cpu_tile_layout(g->w->format)->values)), _mm512_set1_epi8((char)0x80));
    for (int64_t p = g->first; p < g->first + g->count; p++) {
        int32_t r = 0;
        if (r + 8 <= g->n_rows) {
            few_panel(8, bits, kind, values, g, p, r);
            r += 8;
        }
        for (; r + 4 <= g->n_rows; r += 4) few_panel(4, bits, kind, values, g, p, r);
        for (; r + 2 <= g->n_rows; r += 2) few_panel(2, bits, kind, values, g, p, r);
        if (r < g->n_rows) few_panel(1, bits, kind, values, g, p, r);
    }
}

#define FEW(name, bits, kind, coded) \
    static void name(const gemm_args *g) { amx_few(bits, kind, coded, g); }
FEW(few_q8_0, 8, SCALE_D, false)
FEW(few_4_d, 4, SCALE_D, false)
FEW(few_4_dm, 4, SCALE_DM, false)
FEW(few_5_d, 5, SCALE_D, false)
FEW(few_5_dm, 5, SCALE_DM, false)
FEW(few_4_k, 4, SCALE_K4, false)
FEW(few_5_k, 5, SCALE_K4, false)
FEW(few_6_k, 6, SCALE_BYTES, false)
FEW(few_4_nl, 4, SCALE_D, true)
FEW(few_4_xs, 4, SCALE_BYTE, true)
FEW(few_4_e8, 4, SCALE_E8, true)
FEW(few_4_nv, 4, SCALE_E4, true)

static void amx_fill_few(cpu_kernels *k) {
    k->few_rows = FEW_ROWS;
    k->few_order = amx_few_order;
    k->gemm_few[CPU_TILE_Q8_0] = few_q8_0;
    k->gemm_few[CPU_TILE_Q4_0] = few_4_d;
    k->gemm_few[CPU_TILE_Q4_1] = few_4_dm;
    k->gemm_few[CPU_TILE_Q5_0] = few_5_d;
    k->gemm_few[CPU_TILE_Q5_1] = few_5_dm;
    k->gemm_few[CPU_TILE_Q4_K] = few_4_k;
    k->gemm_few[CPU_TILE_Q5_K] = few_5_k;
    k->gemm_few[CPU_TILE_Q6_K] = few_6_k;
    k->gemm_few[CPU_TILE_IQ4_NL] = few_4_nl;
    k->gemm_few[CPU_TILE_IQ4_XS] = few_4_xs;
    k->gemm_few[CPU_TILE_MXFP4] = few_4_e8;
    k->gemm_few[CPU_TILE_NVFP4] = few_4_nv;
}
