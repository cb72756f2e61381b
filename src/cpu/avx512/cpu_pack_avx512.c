// cpu/pack_avx512: sixteen whole rows of the file's blocks into panels (cpu_pack_rows.h), and into tiles: every fourth
// byte of a row in a dword (cpu_tile.h), then rows side by side.
#include <immintrin.h>

#include "cpu/cpu_tile.h"

typedef __m512i rows16; // a lane of 16 bytes for each four rows, or a dword for each row

// 16 bytes each of rows first, first + step, first + 2 step, first + 3 step.
static inline __m512i four_rows(const uint8_t *at, size_t stride, int first, int step) {
    const uint8_t *p = at + (size_t)first * stride;
    size_t s = (size_t)step * stride;
    __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + s)), 1);
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + 2 * s)), 2);
    return _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + 3 * s)), 3);
}

// From lanes of rows i, i + 4, i + 8 and i + 12 in r[i]: dword i of each of 16 rows, in the order of rows.
static inline void turn(const __m512i r[4], rows16 c[4]) {
    __m512i a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpacklo_epi32(r[2], r[3]);
    __m512i d = _mm512_unpackhi_epi32(r[0], r[1]), e = _mm512_unpackhi_epi32(r[2], r[3]);
    c[0] = _mm512_unpacklo_epi64(a, b);
    c[1] = _mm512_unpackhi_epi64(a, b);
    c[2] = _mm512_unpacklo_epi64(d, e);
    c[3] = _mm512_unpackhi_epi64(d, e);
}

static inline void columns(const uint8_t *at, size_t stride, rows16 c[4]) {
    __m512i r[4];
    for (int i = 0; i < 4; i++) r[i] = four_rows(at, stride, i, 4);
    turn(r, c);
}

static inline rows16 select_bits(int mask, rows16 a, rows16 b) { return _mm512_ternarylogic_epi32(_mm512_set1_epi8((char)mask), a, b, 0xca); }
static inline rows16 left(rows16 x, int n) { return n < 0 ? _mm512_srli_epi16(x, (unsigned)-n) : _mm512_slli_epi16(x, (unsigned)n); }
static inline rows16 six_bits(rows16 x) { return _mm512_and_si512(x, _mm512_set1_epi8(63)); }
static inline rows16 flip_sign(rows16 x) { return _mm512_xor_si512(x, _mm512_set1_epi8((char)0x80)); }
static inline uint64_t bits(rows16 x, int i) { return _mm512_test_epi8_mask(x, _mm512_set1_epi8((char)(1 << i))); }
static inline void put(uint8_t *to, rows16 x) { _mm512_storeu_si512(to, x); }
static inline void put_lanes(uint8_t *to, rows16 x) {
    _mm_storeu_si128((__m128i *)to, _mm512_castsi512_si128(x));
    _mm_storeu_si128((__m128i *)(to + 32), _mm512_extracti32x4_epi32(x, 1));
    _mm_storeu_si128((__m128i *)(to + 64), _mm512_extracti32x4_epi32(x, 2));
    _mm_storeu_si128((__m128i *)(to + 96), _mm512_extracti32x4_epi32(x, 3));
}
static inline rows16 byte_columns(rows16 x) {
    const __m512i lanes = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), _mm512_shuffle_epi8(x, lanes));
}
static inline rows16 half_columns(rows16 x) {
    const __m512i lanes = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_shuffle_epi8(x, lanes));
}

#include "cpu/cpu_hash.h"
#include "cpu/cpu_pack_rows.h"

// 16 columns of 16 rows, each row's bytes in this order, a dword of them in each vector.
static inline void ordered_columns(const uint8_t *at, size_t stride, __m128i order, rows16 c[4]) {
    __m512i r[4];
    for (int i = 0; i < 4; i++) r[i] = _mm512_shuffle_epi8(four_rows(at, stride, i, 4), _mm512_broadcast_i32x4(order));
    turn(r, c);
}

// Byte t of c[2 s + j] is column 4 t + 2 s + j.
static inline void tile_bytes(const uint8_t *at, size_t stride, rows16 c[4]) {
    ordered_columns(at, stride, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), c);
}

static void tile_16(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) { panel_dwords(k / 2, rows, stride, panel); }

static void tile_q8_0(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TILE_Q8_0, k));
    for (int64_t b = 0; b < k / TILE_K; b++, rows += sizeof(block_q8_0), area += 512) {
        put_halves(panel + b * 32, rows, stride);
        for (int g = 0; g < 2; g++) {
            rows16 c[4];
            tile_bytes(rows + 2 + g * 16, stride, c);
            for (int i = 0; i < 4; i++) put(area + (i % 2 * 4 + g * 2 + i / 2) * 64, flip_sign(c[i]));
        }
    }
}

// The lower halves of 16 bytes of 16 rows as one group of a tile, the upper ones as another.
static inline void nibble_tiles(const uint8_t *at, size_t stride, uint8_t *low, uint8_t *high) {
    rows16 c[4];
    tile_bytes(at, stride, c);
    for (int j = 0; j < 2; j++) {
        put(low + j * 128, both_low(c[j], c[2 + j]));
        put(high + j * 128, both_high(c[j], c[2 + j]));
    }
}

static void tile_q4_0(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TILE_Q4_0, k));
    for (int64_t b = 0; b < k / TILE_K; b++, rows += sizeof(block_q4_0), area += 256) {
        put_halves(panel + b * 32, rows, stride);
        nibble_tiles(rows + 2, stride, area, area + 64);
    }
}

static void tile_q4_1(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TILE_Q4_1, k));
    for (int64_t b = 0; b < k / TILE_K; b++, rows += sizeof(block_q4_1), area += 256) {
        put_halves(panel + b * 64, rows, stride);
        put_halves(panel + b * 64 + 32, rows + 2, stride);
        nibble_tiles(rows + 4, stride, area, area + 64);
    }
}

static void tile_mxfp4(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TILE_MXFP4, k));
    for (int64_t b = 0; b < k / TILE_K; b++, rows += sizeof(block_mxfp4), area += 256) {
        put_bytes(panel + b * 16, rows, stride);
        nibble_tiles(rows + 1, stride, area, area + 64);
    }
}

// Of a group's 16 columns eight bytes hold the first eight in their lower halves.
static inline void split_tiles(const uint8_t *at, size_t stride, uint8_t *area) {
    const __m128i order[2] = {_mm_setr_epi8(0, 4, 0, 4, 2, 6, 2, 6, 8, 12, 8, 12, 10, 14, 10, 14), _mm_setr_epi8(1, 5, 1, 5, 3, 7, 3, 7, 9, 13, 9, 13, 11, 15, 11, 15)};
    for (int j = 0; j < 2; j++) {
        rows16 c[4];
        ordered_columns(at, stride, order[j], c);
        for (int g = 0; g < 2; g++) put(area + j * 128 + g * 64, _mm512_mask_blend_epi16(0xaaaaaaaa, both_low(c[2 * g], c[2 * g + 1]), both_high(c[2 * g], c[2 * g + 1])));
    }
}

static void tile_nvfp4(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TILE_NVFP4, k));
    for (int64_t b = 0; b < k / TILE_K; b++, area += 256) {
        const uint8_t *at = rows + b / 2 * (int64_t)sizeof(block_nvfp4);
        for (int h = 0; h < 2; h++) put_bytes(panel + b * 32 + h * 16, at + b % 2 * 2 + h, stride);
        split_tiles(at + offsetof(block_nvfp4, qs) + b % 2 * 16, stride, area);
    }
}

static void tile_iq4_xs(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TILE_IQ4_XS, k));
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_iq4_xs)) {
        scales_xs(rows, stride, panel + g * 160);
        for (int j = 0; j < 8; j++, area += 256) nibble_tiles(rows + offsetof(block_iq4_xs, qs) + j * 16, stride, area, area + 64);
    }
}

// The fifth bits of 32 columns, a dword of each row.
static inline void fifth_tiles(const uint8_t *at, size_t stride, uint8_t *to) {
    uint64_t masks[8] = {0};
    for (int r = 0; r < PANEL; r++) {
        uint32_t word;
        memcpy(&word, at + (size_t)r * stride, 4);
        for (int i = 0; i < 8; i++) masks[i] |= (uint64_t)_pext_u32(word, 0x1111u << (i / 2 % 2 * 16 + i % 2 * 2 + i / 4)) << 4 * r; // i: [j][g][s]
    }
    memcpy(to, masks, sizeof masks);
}

static void tile_q5_0(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TILE_Q5_0, k));
    for (int64_t b = 0; b < k / TILE_K; b++, rows += sizeof(block_q5_0), area += 320) {
        put_halves(panel + b * 32, rows, stride);
        nibble_tiles(rows + offsetof(block_q5_0, qs), stride, area, area + 64);
        fifth_tiles(rows + offsetof(block_q5_0, qh), stride, area + 256);
    }
}

static void tile_q5_1(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TILE_Q5_1, k));
    for (int64_t b = 0; b < k / TILE_K; b++, rows += sizeof(block_q5_1), area += 320) {
        put_halves(panel + b * 64, rows, stride);
        put_halves(panel + b * 64 + 32, rows + 2, stride);
        nibble_tiles(rows + offsetof(block_q5_1, qs), stride, area, area + 64);
        fifth_tiles(rows + offsetof(block_q5_1, qh), stride, area + 256);
    }
}

static void tile_q4_k(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TILE_Q4_K, k));
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_q4_K), area += 8 * 256) {
        scales_k4(rows, stride, panel + g * 320);
        for (int j = 0; j < 8; j++) nibble_tiles(rows + offsetof(block_q4_K, qs) + j * 16, stride, area + j / 2 * 512 + j % 2 * 64, area + j / 2 * 512 + 256 + j % 2 * 64);
    }
}

static void tile_q5_k(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TILE_Q5_K, k));
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_q5_K), area += 8 * 320) {
        scales_k4(rows, stride, panel + g * 320);
        for (int j = 0; j < 8; j++) nibble_tiles(rows + offsetof(block_q5_K, qs) + j * 16, stride, area + j / 2 * 640 + j % 2 * 64, area + j / 2 * 640 + 320 + j % 2 * 64);
        for (int half = 0; half < 2; half++) { // of the columns: a bit for each block
            rows16 c[4];
            tile_bytes(rows + offsetof(block_q5_K, qh) + half * 16, stride, c);
            for (int b = 0; b < 8; b++)
                for (int j = 0; j < 2; j++) {
                    uint64_t masks[2] = {bits(c[j], b), bits(c[2 + j], b)};
                    memcpy(area + b * 320 + 256 + (j * 2 + half) * 16, masks, 16);
                }
        }
    }
}

// The two upper bits of 128 columns into four tiles. A byte of t[j][i] holds, two bits for each tile, column 8 m + 2 i + j of row r, r in the order of dwords, then m.
static inline void pair_tiles(const uint8_t *at, size_t stride, uint8_t *to) {
    const __m128i order = _mm_setr_epi8(0, 8, 2, 10, 4, 12, 6, 14, 1, 9, 3, 11, 5, 13, 7, 15); // [j][i][m]
    rows16 low[4], high[4], t[2][4]; // m = 0, 1 and 2, 3
    ordered_columns(at, stride, order, low);
    ordered_columns(at + 16, stride, order, high);
    for (int i = 0; i < 4; i++) {
        t[i / 2][i % 2 * 2] = _mm512_mask_blend_epi16(0xaaaaaaaa, low[i], _mm512_slli_epi32(high[i], 16));
        t[i / 2][i % 2 * 2 + 1] = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(low[i], 16), high[i]);
    }
#pragma GCC unroll 4
    for (int b = 0; b < 4; b++)
        for (int j = 0; j < 2; j++) put(to + b * 384 + j * 64, four_pairs(t[j], b));
}

static void tile_q6_k(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TILE_Q6_K, k));
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_q6_K)) {
        scales_k6(rows, stride, panel + g * 288);
        for (int half = 0; half < 2; half++, area += 4 * 384) {
            for (int j = 0; j < 4; j++) nibble_tiles(rows + half * 64 + j * 16, stride, area + j / 2 * 384 + j % 2 * 64, area + (j / 2 + 2) * 384 + j % 2 * 64);
            pair_tiles(rows + offsetof(block_q6_K, qh) + half * 32, stride, area + 256);
        }
    }
}

void cpu_pack_avx512(cpu_kernels *k) {
    fill_pack(k);
    k->hash = hash_bytes;
    k->pack[CPU_TILE_BF16] = k->pack[CPU_TILE_F16] = tile_16;
    k->pack[CPU_TILE_Q8_0] = tile_q8_0;
    k->pack[CPU_TILE_Q4_0] = k->pack[CPU_TILE_IQ4_NL] = tile_q4_0; // the same fields
    k->pack[CPU_TILE_Q4_1] = tile_q4_1;
    k->pack[CPU_TILE_Q5_0] = tile_q5_0;
    k->pack[CPU_TILE_Q5_1] = tile_q5_1;
    k->pack[CPU_TILE_MXFP4] = tile_mxfp4;
    k->pack[CPU_TILE_NVFP4] = tile_nvfp4;
    k->pack[CPU_TILE_IQ4_XS] = tile_iq4_xs;
    k->pack[CPU_TILE_Q4_K] = tile_q4_k;
    k->pack[CPU_TILE_Q5_K] = tile_q5_k;
    k->pack[CPU_TILE_Q6_K] = tile_q6_k;
}
