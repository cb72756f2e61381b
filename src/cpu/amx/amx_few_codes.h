// cpu/amx/few_codes: amx_few.h for short codes. A product is the avx512 tier's (avx512_codes.h) and has its bits; only how it ends is a tile format's.
// Activations come in the order of amx_few_order, which is its own inverse: rows are put back into their own order once for all panels of a call.
#pragma once
#include "cpu/amx/amx_few.h"

static inline __attribute__((always_inline)) void few_code_panel(cpu_format format, int R, const gemm_args *g, const int8_t *rows, int64_t p, int32_t row) {
    const uint8_t *panel = g->data + (size_t)p * g->w->panel_bytes, *quants = panel + g->w->scale_bytes;
    const int64_t B = g->k / BLOCK;
    const size_t asked = cpu_ask_share(g->w->panel_bytes, B);
    __m512 y[FEW_ROWS];
    for (int r = 0; r < R; r++) y[r] = _mm512_setzero_ps();
    for (int64_t b = 0; b < B; b++) {
        __m512i w[8];
        code_load(format, quants, b, w);
        code_scales s = code_row_scales(format, panel, b);
        cpu_ask_bytes(panel + PANEL_AHEAD + (size_t)b * asked, asked);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const cpu_aux *a = g->aux + (size_t)g->rows[row + r] * (size_t)B + b;
            y[r] = code_row(format, w, &s, rows + (size_t)(row + r) * (size_t)g->k + b * BLOCK, a->d, a->nsum, a->nhigh, y[r]);
        }
    }
    for (int r = 0; r < R; r++) {
        float out[PANEL];
        _mm512_storeu_ps(out, y[r]);
        amx_put(g, g->scale, row + r, p, out);
    }
}

static inline __attribute__((always_inline)) void amx_few_code(cpu_format format, const gemm_args *g) {
    int8_t *rows = (int8_t *)g->scratch;
    for (int32_t r = 0; r < g->n_rows; r++) {
        memcpy(rows + (size_t)r * (size_t)g->k, g->q + (size_t)g->rows[r] * (size_t)g->k, (size_t)g->k);
        amx_few_order(rows + (size_t)r * (size_t)g->k, g->k);
    }
    for (int64_t p = g->first; p < g->first + g->count; p++) {
        int32_t r = 0;
        for (; r + 4 <= g->n_rows; r += 4) few_code_panel(format, 4, g, rows, p, r);
        for (; r + 2 <= g->n_rows; r += 2) few_code_panel(format, 2, g, rows, p, r);
        if (r < g->n_rows) few_code_panel(format, 1, g, rows, p, r);
    }
}

#define FEW_CODES(X) \
    X(CPU_Q2_K) X(CPU_Q3_K) X(CPU_IQ3_S) X(CPU_IQ3_XXS) X(CPU_IQ2_S) X(CPU_IQ2_XS) X(CPU_IQ2_XXS) X(CPU_IQ1_S) X(CPU_IQ1_M) X(CPU_TQ1_0) X(CPU_TQ2_0) X(CPU_Q2_0) X(CPU_Q1_0)
#define FEW_CODE(format) \
    static void few_##format(const gemm_args *g) { amx_few_code(format, g); }
FEW_CODES(FEW_CODE)

static void amx_fill_few_codes(cpu_kernels *k) {
#define FEW_CODE_FILL(format) k->gemm_few[CPU_TILE_CODE + format - CPU_CODE_FIRST] = few_##format;
    FEW_CODES(FEW_CODE_FILL)
}
