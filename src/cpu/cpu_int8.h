// cpu/int8: the driver of products with int8 activations, one text for the tiers that have them. The including file gives
//   int8_rows(format, R, panel, k, src, out): R rows (a constant), one panel; out[r][16]
// Rows are taken 16 at a time, copied into a tile whose every address is a constant away from one pointer; what is left over goes in eights,
// fours, twos and ones through the same code, and one row alone is read where it lies. The order of sums is the same everywhere:
// for each output exact int32 within a block of 32, then blocks in ascending order by one chain of float operations.
#pragma once
#include <float.h>
#include <math.h>

#include "cpu/cpu_panel.h"

// A tile: for each block 16 rows of 32 int8, then 16 each of d, ds and the two sums.
enum { TILE_D = 512, TILE_DS = 576, TILE_NSUM = 640, TILE_NHIGH = 704, TILE_BLOCK = 768 };

// Where R rows' activations are: in a tile, or (tile NULL) one row as it lies.
typedef struct int8_src {
    const uint8_t *tile;
    const int8_t *q;
    const cpu_aux *aux;
} int8_src;

static inline __attribute__((always_inline)) void int8_rows(int format, int R, const cpu_tensor *t, const uint8_t *panel,
    int64_t k, int8_src src, cpu_ask *ask, float (*out)[PANEL]);

typedef int32_t four_words __attribute__((vector_size(16)));
_Static_assert(sizeof(cpu_aux) == sizeof(four_words), "a word each of d, ds and the two sums");

// Four rows' d, ds and sums of a block, each beside its own kind: to + 0, TILE_DS - TILE_D, ...
static inline void turn_aux(const cpu_aux *const aux[4], int64_t b, uint8_t *to) {
    four_words a[4], low[2], high[2];
    for (int i = 0; i < 4; i++) memcpy(&a[i], &aux[i][b], sizeof a[i]);
    for (int i = 0; i < 2; i++) {
        low[i] = __builtin_shufflevector(a[2 * i], a[2 * i + 1], 0, 4, 1, 5);
        high[i] = __builtin_shufflevector(a[2 * i], a[2 * i + 1], 2, 6, 3, 7);
    }
    a[0] = __builtin_shufflevector(low[0], low[1], 0, 1, 4, 5);
    a[1] = __builtin_shufflevector(low[0], low[1], 2, 3, 6, 7);
    a[2] = __builtin_shufflevector(high[0], high[1], 0, 1, 4, 5);
    a[3] = __builtin_shufflevector(high[0], high[1], 2, 3, 6, 7);
    for (int i = 0; i < 4; i++) memcpy(to + i * (TILE_DS - TILE_D), &a[i], sizeof a[i]);
}

// Four rows at a time; where fewer are left, the first of them fills places that nobody reads.
static void fill_tile(uint8_t *tile, const gemm_args *g, int32_t first, int32_t n) {
    const int64_t blocks = g->k / BLOCK;
    for (int32_t r = 0; r < n; r += 4) {
        const int8_t *q[4];
        const cpu_aux *aux[4];
        for (int32_t i = 0; i < 4; i++) {
            size_t row = (size_t)g->rows[first + r + (r + i < n ? i : 0)];
            q[i] = g->q + row * (size_t)g->k;
            aux[i] = g->aux + row * (size_t)blocks;
        }
        for (int64_t b = 0; b < blocks; b++) {
            uint8_t *t = tile + b * TILE_BLOCK;
            for (int32_t i = 0; i < 4; i++) memcpy(t + (r + i) * BLOCK, q[i] + b * BLOCK, BLOCK);
            turn_aux(aux, b, t + TILE_D + 4 * r);
        }
    }
}

static void put_int8(const gemm_args *g, int64_t panel, int32_t row, float (*out)[PANEL], int n) {
    int64_t left = g->w->base.n - panel * PANEL, cols = left < PANEL ? left : PANEL;
    for (int i = 0; i < n; i++) {
        float *y = g->y + (size_t)(row + i) * g->ldy + (panel - g->first) * PANEL;
        if (cols == PANEL) memcpy(y, out[i], PANEL * sizeof(float));
        else memcpy(y, out[i], (size_t)cols * sizeof(float));
    }
}

static inline __attribute__((always_inline)) void gemm_int8(int format, const gemm_args *g) {
    float out[ROW_TILE][PANEL];
    const uint8_t *data = g->data;
    const size_t bytes = (size_t)g->count * g->w->panel_bytes;
    if (g->n_rows == 1) {
        cpu_ask ask = cpu_ask_from(data + (size_t)g->first * g->w->panel_bytes, bytes, g->then);
        size_t row = (size_t)g->rows[0];
        int8_src s = {NULL, g->q + row * (size_t)g->k, g->aux + row * (size_t)(g->k / BLOCK)};
        for (int64_t p = g->first; p < g->first + g->count; p++) {
            int8_rows(format, 1, g->w, data + (size_t)p * g->w->panel_bytes, g->k, s, &ask, out);
            put_int8(g, p, 0, out, 1);
        }
        return;
    }
    uint8_t *tile = (uint8_t *)g->scratch;
    for (int32_t r = 0; r < g->n_rows;) {
        int32_t left = g->n_rows - r, R = left >= 16 ? 16 : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        fill_tile(tile, g, r, R);
        int8_src s = {tile, NULL, NULL};
        cpu_ask ask = cpu_ask_from(data + (size_t)g->first * g->w->panel_bytes, bytes, g->then);
        for (int64_t p = g->first; p < g->first + g->count; p++) {
            const uint8_t *panel = data + (size_t)p * g->w->panel_bytes;
            switch (R) {
            case 16: int8_rows(format, 16, g->w, panel, g->k, s, &ask, out); break;
            case 8: int8_rows(format, 8, g->w, panel, g->k, s, &ask, out); break;
            case 4: int8_rows(format, 4, g->w, panel, g->k, s, &ask, out); break;
            case 2: int8_rows(format, 2, g->w, panel, g->k, s, &ask, out); break;
            default: int8_rows(format, 1, g->w, panel, g->k, s, &ask, out); break;
            }
            put_int8(g, p, r, out, R);
        }
        r += R;
    }
}

#define INT8_GEMM(name, format) \
    static void gemm_##name(const gemm_args *g) { gemm_int8(format, g); }
#define INT8_FORMATS(X) \
    X(q8, CPU_Q8) X(q4_0, CPU_Q4_0) X(q4_1, CPU_Q4_1) X(q5_0, CPU_Q5_0) X(q5_1, CPU_Q5_1) X(q4_k, CPU_Q4_K) X(q5_k, CPU_Q5_K) X(q6_k, CPU_Q6_K) \
    X(iq4_nl, CPU_IQ4_NL) X(iq4_xs, CPU_IQ4_XS) X(mxfp4, CPU_MXFP4) X(nvfp4, CPU_NVFP4) X(q2_k, CPU_Q2_K) X(q3_k, CPU_Q3_K) X(iq3_s, CPU_IQ3_S) X(iq3_xxs, CPU_IQ3_XXS) \
    X(iq2_s, CPU_IQ2_S) X(iq2_xs, CPU_IQ2_XS) X(iq2_xxs, CPU_IQ2_XXS) X(iq1_s, CPU_IQ1_S) X(iq1_m, CPU_IQ1_M) X(tq1_0, CPU_TQ1_0) X(tq2_0, CPU_TQ2_0) \
    X(q2_0, CPU_Q2_0) X(q1_0, CPU_Q1_0)
INT8_FORMATS(INT8_GEMM)

// A block of activations with an infinity or a NaN in it: what it is multiplied with becomes NaN, on every tier.
static inline void quantize_none(int8_t *q, cpu_aux *aux) {
    memset(q, 0, BLOCK);
    *aux = (cpu_aux){NAN, NAN, 0, 0};
}

static void fill_int8(cpu_kernels *k) {
    k->packed = true;
    k->kv_auto = DEV_KV_F16;
#define INT8_FILL(name, format) k->gemm[format] = gemm_##name;
    INT8_FORMATS(INT8_FILL)
}
