// cpu/pack_rows: panels out of sixteen whole rows of the file's blocks, one text for the tiers that have vectors; for what stands here cpu_pack_panel is the reference, to
// the bit. The includer brings rows16, 64 bytes, and what is done to them:
//   columns(at, stride, c[4])   dword i of the 16 bytes at `at` of each of 16 rows, in the order of rows, for i = 0..3
//   byte_columns(x)             byte 0 of all 16 dwords, then byte 1, 2, 3
//   half_columns(x)             the lower halves of all 16 dwords, then the upper ones
//   select_bits(mask, a, b)     in each byte, mask ? a : b
//   left(x, n)                  bytes shifted by n (right where it is negative); bits that leave their byte may be anything's
//   flip_sign(x), six_bits(x)   bytes + 128; their lowest six bits
//   bits(x, i)                  bit i of each byte, the first byte's lowest
//   put(to, x), put_lanes(to, x) all 64 bytes; 16 of them at a time, 32 apart
#pragma once
#include "cpu/cpu_codes.h"

// The lower halves of the bytes of a and b in one, and the upper halves.
static inline rows16 both_low(rows16 a, rows16 b) { return select_bits(15, a, left(b, 4)); }
static inline rows16 both_high(rows16 a, rows16 b) { return select_bits(15, left(a, -4), b); }
// Two bits each from bit 2 j on of the bytes of four.
static inline __attribute__((always_inline)) rows16 four_pairs(const rows16 x[4], int j) {
    rows16 low = select_bits(3, left(x[0], -2 * j), left(x[1], 2 - 2 * j)), high = select_bits(0x30, left(x[2], 4 - 2 * j), left(x[3], 6 - 2 * j));
    return select_bits(15, low, high);
}

// Where the quants of a panel begin; what the scales before them do not fill is zero.
static inline uint8_t *quants(uint8_t *panel, size_t scale_bytes) {
    memset(panel + scale_bytes - 64, 0, 64);
    return panel + scale_bytes;
}

// ---- scales ---------------------------------------------------------------------------------------------------------------

static inline void put_halves(uint8_t *to, const uint8_t *at, size_t stride) {
    for (int r = 0; r < PANEL; r++) memcpy(to + 2 * r, at + (size_t)r * stride, 2);
}

static inline void put_bytes(uint8_t *to, const uint8_t *at, size_t stride) {
    for (int r = 0; r < PANEL; r++) to[r] = at[(size_t)r * stride];
}

// d, dmin and 8 pairs of 6 bits: as quant_k4_scale_min.
static inline void scales_k4(const uint8_t *at, size_t stride, uint8_t *to) {
    rows16 h[4];
    put_halves(to, at, stride);
    put_halves(to + 32, at + 2, stride);
    columns(at, stride, h);
    rows16 s4 = select_bits(15, h[3], left(h[1], -2)), m4 = select_bits(15, left(h[3], -4), left(h[2], -2)); // two bits of each stand above one of the first four
    put_lanes(to + 64, byte_columns(six_bits(h[1])));
    put_lanes(to + 80, byte_columns(six_bits(h[2])));
    put_lanes(to + 192, byte_columns(six_bits(s4)));
    put_lanes(to + 208, byte_columns(six_bits(m4)));
}

static inline void scales_k6(const uint8_t *at, size_t stride, uint8_t *to) {
    rows16 s[4];
    put_halves(to, at + offsetof(block_q6_K, d), stride);
    columns(at + offsetof(block_q6_K, scales), stride, s);
    for (int i = 0; i < 4; i++) put(to + 32 + i * 64, byte_columns(s[i]));
}

// d and 8 of 6 bits, less 32.
static inline void scales_xs(const uint8_t *at, size_t stride, uint8_t *to) {
    put_halves(to, at, stride);
    for (int r = 0; r < PANEL; r++) {
        block_iq4_xs x;
        memcpy(&x, at + (size_t)r * stride, offsetof(block_iq4_xs, qs));
        for (int j = 0; j < 8; j++) to[32 + j * 16 + r] = (uint8_t)(((x.scales_l[j / 2] >> j % 2 * 4 & 15) | (x.scales_h >> 2 * j & 3) << 4) - 32);
    }
}

// ---- int8 panels ----------------------------------------------------------------------------------------------------------

static void panel_q8(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q8, k));
    for (int64_t b = 0; b < k / BLOCK; b++, rows += sizeof(block_q8_0), area += 512) {
        rows16 c[8];
        put_halves(panel + b * 32, rows, stride);
        columns(rows + 2, stride, c);
        columns(rows + 18, stride, c + 4);
        for (int i = 0; i < 8; i++) put(area + i * 64, flip_sign(c[i]));
    }
}

// 16 bytes of a row whose pairs of 4 bits are the panel's.
static inline void same_nibbles(const uint8_t *at, size_t stride, uint8_t *area) {
    rows16 c[4];
    columns(at, stride, c);
    for (int i = 0; i < 4; i++) put(area + i * 64, c[i]);
}

static void panel_q4_0(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q4_0, k));
    for (int64_t b = 0; b < k / BLOCK; b++, rows += sizeof(block_q4_0), area += 256) {
        put_halves(panel + b * 32, rows, stride);
        same_nibbles(rows + 2, stride, area);
    }
}

static void panel_q4_1(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q4_1, k));
    for (int64_t b = 0; b < k / BLOCK; b++, rows += sizeof(block_q4_1), area += 256) {
        put_halves(panel + b * 64, rows, stride);
        put_halves(panel + b * 64 + 32, rows + 2, stride);
        same_nibbles(rows + 4, stride, area);
    }
}

static void panel_mxfp4(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_MXFP4, k));
    for (int64_t b = 0; b < k / BLOCK; b++, rows += sizeof(block_mxfp4), area += 256) {
        put_bytes(panel + b * 16, rows, stride);
        same_nibbles(rows + 1, stride, area);
    }
}

static void panel_q5_0(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q5_0, k));
    for (int64_t b = 0; b < k / BLOCK; b++, rows += sizeof(block_q5_0), area += 320) {
        put_halves(panel + b * 32, rows, stride);
        same_nibbles(rows + offsetof(block_q5_0, qs), stride, area);
        cpu_masks_put(area + 256, PANEL, rows + offsetof(block_q5_0, qh), stride);
    }
}

static void panel_q5_1(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q5_1, k));
    for (int64_t b = 0; b < k / BLOCK; b++, rows += sizeof(block_q5_1), area += 320) {
        put_halves(panel + b * 64, rows, stride);
        put_halves(panel + b * 64 + 32, rows + 2, stride);
        same_nibbles(rows + offsetof(block_q5_1, qs), stride, area);
        cpu_masks_put(area + 256, PANEL, rows + offsetof(block_q5_1, qh), stride);
    }
}

// 32 bytes of a row hold two blocks, one in their lower halves, the other in their upper ones.
static inline void nibble_panels(const uint8_t *at, size_t stride, uint8_t *low, uint8_t *high) {
    rows16 a[4], b[4];
    columns(at, stride, a);
    columns(at + 16, stride, b);
    for (int i = 0; i < 4; i++) {
        put(low + i * 64, both_low(a[i], b[i]));
        put(high + i * 64, both_high(a[i], b[i]));
    }
}

// 32 bytes of a row hold four blocks, two bits each: `step` bytes apart.
static inline void pair_panels(const uint8_t *at, size_t stride, uint8_t *area, size_t step) {
    rows16 x[8];
    columns(at, stride, x);
    columns(at + 16, stride, x + 4);
    const rows16 even[4] = {x[0], x[2], x[4], x[6]}, odd[4] = {x[1], x[3], x[5], x[7]};
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        put(area + (size_t)j * step, four_pairs(even, j));
        put(area + (size_t)j * step + 64, four_pairs(odd, j));
    }
}

// 32 bytes of a row hold eight blocks, a bit each: block j's.
static inline void put_masks(uint8_t *masks, const rows16 x[8], int j) {
    for (int c = 0; c < 8; c++) {
        const uint64_t mask = bits(x[c], j);
        memcpy(masks + c * 8, &mask, 8);
    }
}

static void panel_q4_k(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q4_K, k));
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_q4_K), area += 8 * 256) {
        scales_k4(rows, stride, panel + g * 320);
        for (int j = 0; j < 4; j++) nibble_panels(rows + offsetof(block_q4_K, qs) + j * 32, stride, area + j * 512, area + j * 512 + 256);
    }
}

static void panel_q5_k(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q5_K, k));
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_q5_K), area += 8 * 320) {
        rows16 h[8]; // a bit for each block
        scales_k4(rows, stride, panel + g * 320);
        columns(rows + offsetof(block_q5_K, qh), stride, h);
        columns(rows + offsetof(block_q5_K, qh) + 16, stride, h + 4);
        for (int j = 0; j < 4; j++) nibble_panels(rows + offsetof(block_q5_K, qs) + j * 32, stride, area + j * 640, area + j * 640 + 320);
        for (int j = 0; j < 8; j++) put_masks(area + j * 320 + 256, h, j);
    }
}

static void panel_q6_k(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q6_K, k));
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_q6_K)) {
        scales_k6(rows, stride, panel + g * 288);
        for (int half = 0; half < 2; half++, area += 4 * 384) {
            for (int j = 0; j < 2; j++) nibble_panels(rows + half * 64 + j * 32, stride, area + j * 384, area + (j + 2) * 384);
            pair_panels(rows + offsetof(block_q6_K, qh) + half * 32, stride, area + 256, 384);
        }
    }
}

// k columns of four bytes, a multiple of 4: [k][16] floats, or whole tiles of pairs of 16-bit numbers.
static void panel_dwords(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    for (int64_t j = 0; j < k / 4; j++, rows += 16, panel += 256) {
        rows16 c[4];
        columns(rows, stride, c);
        for (int i = 0; i < 4; i++) put(panel + i * 64, c[i]);
    }
}

static void panel_f32(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) { panel_dwords(k, rows, stride, panel); }

static void panel_16(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    for (int64_t j = 0; j < k / 8; j++, rows += 16, panel += 256) {
        rows16 c[4];
        columns(rows, stride, c);
        for (int i = 0; i < 4; i++) put(panel + i * 64, half_columns(c[i]));
    }
}

#include "cpu/cpu_pack_codes.h"

static void fill_pack(cpu_kernels *k) {
    k->pack[CPU_F32] = panel_f32;
    k->pack[CPU_F16] = k->pack[CPU_BF16] = panel_16;
    k->pack[CPU_Q8] = panel_q8;
    k->pack[CPU_Q4_0] = panel_q4_0;
    k->pack[CPU_Q4_1] = panel_q4_1;
    k->pack[CPU_Q5_0] = panel_q5_0;
    k->pack[CPU_Q5_1] = panel_q5_1;
    k->pack[CPU_Q4_K] = panel_q4_k;
    k->pack[CPU_Q5_K] = panel_q5_k;
    k->pack[CPU_Q6_K] = panel_q6_k;
    fill_pack_codes(k);
}
