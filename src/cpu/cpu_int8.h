// cpu/int8: the driver of products with int8 activations, one text for the tiers that have them. The including file gives
//   int8_rows(format, R, panel, k, src, out): R rows (a constant), one panel; out[r][16]
// Rows are taken 16 at a time, from a tile, in which each is a constant away from the first. Where all rows of an op are read in order they were quantized into
// tiles; what is left over, and the rows of experts, are copied into one, and left-overs go in eights, fours, twos and ones through the same code. One row alone is
// read where it lies. The order of sums is the same everywhere:
// for each output exact int32 within a block of 32, then blocks in ascending order by one chain of float operations.
#pragma once
#include <float.h>
#include <math.h>

#include "cpu/cpu_panel.h"

enum { TILE_BLOCK = ROW_TILE * BLOCK }; // numbers of a tile's block

// Where R rows' activations are: in a tile, or (tile NULL) one row as it lies.
typedef struct int8_src {
    const int8_t *q;
    const cpu_tile_aux *tile;
    const cpu_aux *aux;
} int8_src;

static inline __attribute__((always_inline)) void int8_rows(int format, int R, const cpu_tensor *t, const uint8_t *panel,
    int64_t k, int8_src src, cpu_ask *ask, float (*out)[PANEL]);

typedef int32_t four_words __attribute__((vector_size(16)));
_Static_assert(sizeof(cpu_aux) == sizeof(four_words), "a word each of d, ds and the two sums");

// Four rows' d, ds and sums of a block, from row r of the tile on.
static inline void turn_aux(const cpu_aux *const aux[4], int64_t b, cpu_tile_aux *to, int32_t r) {
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
    memcpy(to->d + r, &a[0], sizeof a[0]);
    memcpy(to->ds + r, &a[1], sizeof a[1]);
    memcpy(to->nsum + r, &a[2], sizeof a[2]);
    memcpy(to->nhigh + r, &a[3], sizeof a[3]);
}

// Four rows at a time; where fewer are left, the first of them fills places that nobody reads.
static void fill_tile(int8_t *tile, cpu_tile_aux *tile_aux, const gemm_args *g, int32_t first, int32_t n) {
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
            for (int32_t i = 0; i < 4; i++) memcpy(tile + b * TILE_BLOCK + (r + i) * BLOCK, q[i] + b * BLOCK, BLOCK);
            turn_aux(aux, b, tile_aux + b, r);
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
        int8_src s = {.q = g->q + row * (size_t)g->k, .aux = g->aux + row * (size_t)(g->k / BLOCK)};
        for (int64_t p = g->first; p < g->first + g->count; p++) {
            int8_rows(format, 1, g->w, data + (size_t)p * g->w->panel_bytes, g->k, s, &ask, out);
            put_int8(g, p, 0, out, 1);
        }
        return;
    }
    int8_t *copy = (int8_t *)g->scratch;
    cpu_tile_aux *copy_aux = (cpu_tile_aux *)(copy + ROW_TILE * g->k);
    for (int32_t r = 0; r < g->n_rows;) {
        int32_t left = g->n_rows - r, R = left >= 16 ? 16 : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1, row = g->rows[r];
        int8_src s = {.q = copy, .tile = copy_aux};
        if (row < g->tiled) s = (int8_src){.q = g->q + row * g->k, .tile = (const cpu_tile_aux *)(g->aux + row * (g->k / BLOCK))};
        else fill_tile(copy, copy_aux, g, r, R);
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
static inline void quantize_none(const cpu_int8_place *to) {
    memset(to->q, 0, BLOCK);
    cpu_put_aux(to->aux, to->aux_apart, NAN, 0, 0);
}
static inline void quantize_on(cpu_int8_place *to) {
    to->q += to->q_step;
    to->aux += to->aux_step;
}

static void fill_int8(cpu_kernels *k) {
    k->packed = true;
    k->kv_auto = DEV_KV_F16;
#define INT8_FILL(name, format) k->gemm[format] = gemm_##name;
    INT8_FORMATS(INT8_FILL)
}
