// cpu/amx/tile: the tile instructions that the kernels use, and nothing else. Two implementations of one text:
//   the intrinsics (LDTILECFG, TILEZERO, TILELOADD, TILESTORED, TDPBF16PS, TILERELEASE), and, where AMX_EMULATED is defined, plain C over eight tiles
//   of the thread, which computes what the processor does to the bit.
// TDPBF16PS: for each output, one chain of fused multiply-adds over the even k from zero, one over the odd, the two sums added, then that added to the
// accumulator; denormals are read as zero and results that would be denormal are zero. The float unit is set the same way between
// amx_begin and amx_end, so that the emulation, and kernels without tiles, need nothing more for the same bits.
// Threads: each has its own tiles; they are in use between amx_begin and amx_end only.
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// As LDTILECFG reads it: rows and bytes a row of each tile.
typedef struct amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} amx_config;
_Static_assert(sizeof(amx_config) == 64, "LDTILECFG reads 64 bytes");

enum { AMX_FLUSH = 0x8040 }; // MXCSR: denormals are zero, flush to zero

#ifdef AMX_EMULATED
typedef struct amx_tile { float v[16][16]; } amx_tile; // bf16 pairs lie in the same bytes
static _Thread_local amx_tile amx_tiles[8];
static _Thread_local amx_config amx_set;

static void amx_configure(const amx_config *c) {
    amx_set = *c;
    memset(amx_tiles, 0, sizeof amx_tiles);
}
static void amx_release(void) { memset(&amx_set, 0, sizeof amx_set); }

static void amx_load(int t, const void *p, size_t stride) {
    for (int r = 0; r < amx_set.rows[t]; r++) memcpy(amx_tiles[t].v[r], (const uint8_t *)p + (size_t)r * stride, amx_set.bytes[t]);
}

static void amx_store(int t, void *p, size_t stride) {
    for (int r = 0; r < amx_set.rows[t]; r++) memcpy((uint8_t *)p + (size_t)r * stride, amx_tiles[t].v[r], amx_set.bytes[t]);
}

static void amx_dot(int c, int a, int b) {
    for (int m = 0; m < amx_set.rows[c]; m++) {
        float even[16] = {0}, odd[16] = {0};
        for (int k = 0; k < amx_set.rows[b]; k++) {
            uint32_t x, y[16];
            float low[16], high[16], xl, xh;
            memcpy(&x, &amx_tiles[a].v[m][k], 4);
            memcpy(y, amx_tiles[b].v[k], sizeof y);
            uint32_t l = x << 16, h = x & 0xffff0000u;
            memcpy(&xl, &l, 4);
            memcpy(&xh, &h, 4);
            for (int n = 0; n < 16; n++) {
                l = y[n] << 16;
                h = y[n] & 0xffff0000u;
                memcpy(&low[n], &l, 4);
                memcpy(&high[n], &h, 4);
            }
            for (int n = 0; n < 16; n++) {
                even[n] = fmaf(xl, low[n], even[n]);
                odd[n] = fmaf(xh, high[n], odd[n]);
            }
        }
        for (int n = 0; n < 16; n++) amx_tiles[c].v[m][n] += even[n] + odd[n];
    }
}

#define TILE_ZERO(t) memset(&amx_tiles[t], 0, sizeof amx_tiles[t])
#define TILE_LOAD(t, p, stride) amx_load(t, p, stride)
#define TILE_STORE(t, p, stride) amx_store(t, p, stride)
#define TILE_DOT(c, a, b) amx_dot(c, a, b)
#else
// gcc's intrinsics do not say that they read memory (all of it that they read): without the empty statement it may leave out or delay what was written there.
#define AMX_WRITTEN(p) __asm__ volatile("" : : "r"(p) : "memory")
static inline void amx_configure(const amx_config *c) {
    AMX_WRITTEN(c);
    _tile_loadconfig(c);
}
static inline void amx_release(void) { _tile_release(); }
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, p, stride) do { AMX_WRITTEN(p); _tile_loadd(t, p, stride); } while (0)
#define TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define TILE_DOT(c, a, b) _tile_dpbf16ps(c, a, b)
#endif

static inline uint32_t amx_begin(void) {
    uint32_t was = _mm_getcsr();
    _mm_setcsr(was | AMX_FLUSH);
    return was;
}

static inline void amx_end(uint32_t was) {
    amx_release();
    _mm_setcsr(was);
}

// Tiles 0..3 accumulate (0 and 1: rows_a x 16, 2 and 3: rows_b x 16), 4 and 5 hold activations, 6 and 7 weights.
static void amx_shape(int rows_a, int rows_b) {
    amx_config c = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        c.bytes[t] = 64;
        c.rows[t] = (uint8_t)(t >= 6 ? 16 : t < 2 || t == 4 ? rows_a : rows_b);
    }
    amx_configure(&c);
}

// A tile's lines into the first level.
static inline __attribute__((always_inline)) void amx_ask_tile(const uint8_t *p) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm_prefetch((const char *)p + i * 64, _MM_HINT_T0);
}

// A step: 16 or 32 rows x two weight tiles onto tiles 0..3, in four products, 0 to 3 in this order; a1: NULL for 16 rows. `ask`: the tiles that follow each of
// these are asked for into the first level, one operand between two products each; what lies behind the last may be anything.
// A tile that holds zeros takes no register of those that tiles are renamed to, so operands are zeroed after their last use: of these there seem to be few more
// than eight when the other half of a core is in use, and a load then waits for what was there before it (docs/PERFORMANCE.md, "Neighbours"). Where nobody else
// is, it costs nothing.
typedef struct amx_operands { const uint8_t *a0, *a1, *w0, *w1; } amx_operands;

static inline __attribute__((always_inline)) void amx_product(bool ask, int i, const amx_operands *x) {
    switch (i) {
    case 0:
        TILE_LOAD(4, x->a0, 64);
        TILE_LOAD(6, x->w0, 64);
        TILE_DOT(0, 4, 6);
        if (ask) amx_ask_tile(x->w0 + 1024);
        break;
    case 1:
        TILE_LOAD(7, x->w1, 64);
        TILE_DOT(1, 4, 7);
        TILE_ZERO(4);
        if (ask) amx_ask_tile(x->w1 + 1024);
        break;
    case 2:
        if (x->a1) {
            TILE_LOAD(5, x->a1, 64);
            TILE_DOT(2, 5, 6);
        }
        TILE_ZERO(6);
        if (ask && x->a1) amx_ask_tile(x->a0 + 1024);
        break;
    default:
        if (x->a1) {
            TILE_DOT(3, 5, 7);
            TILE_ZERO(5);
            if (ask) amx_ask_tile(x->a1 + 1024);
        }
        TILE_ZERO(7);
    }
}

static inline __attribute__((always_inline)) void amx_step(bool ask, const uint8_t *a0, const uint8_t *a1, const uint8_t *w0, const uint8_t *w1) {
    const amx_operands x = {a0, a1, w0, w1};
    amx_product(ask, 0, &x);
    amx_product(ask, 1, &x);
    amx_product(ask, 2, &x);
    amx_product(ask, 3, &x);
}
