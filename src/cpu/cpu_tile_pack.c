// cpu/tile_pack: the formats of the tile tier, and how the numbers of weight tiles lie in a panel, in and out. Layouts: cpu_tile.h.
#include "cpu/cpu_codes.h"
#include "cpu/cpu_tile.h"

static const int8_t minus_8[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
static const int8_t minus_16[16] = {-16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1};
static const int8_t plain[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static const tile_layout layouts[] = {
    [CPU_TILE_RAW - CPU_TILE_RAW] = {QUANT_TYPES, 0, SCALE_NONE, NULL, 0},
    [CPU_TILE_BF16 - CPU_TILE_RAW] = {QUANT_BF16, 16, SCALE_NONE, NULL, 1024},
    [CPU_TILE_F16 - CPU_TILE_RAW] = {QUANT_F16, 16, SCALE_NONE, NULL, 1024},
    [CPU_TILE_Q8_0 - CPU_TILE_RAW] = {QUANT_Q8_0, 8, SCALE_D, NULL, 512},
    [CPU_TILE_Q4_0 - CPU_TILE_RAW] = {QUANT_Q4_0, 4, SCALE_D, minus_8, 256},
    [CPU_TILE_Q4_1 - CPU_TILE_RAW] = {QUANT_Q4_1, 4, SCALE_DM, plain, 256},
    [CPU_TILE_Q5_0 - CPU_TILE_RAW] = {QUANT_Q5_0, 5, SCALE_D, minus_16, 320},
    [CPU_TILE_Q5_1 - CPU_TILE_RAW] = {QUANT_Q5_1, 5, SCALE_DM, plain, 320},
    [CPU_TILE_Q4_K - CPU_TILE_RAW] = {QUANT_Q4_K, 4, SCALE_K4, plain, 256},
    [CPU_TILE_Q5_K - CPU_TILE_RAW] = {QUANT_Q5_K, 5, SCALE_K4, plain, 320},
    [CPU_TILE_Q6_K - CPU_TILE_RAW] = {QUANT_Q6_K, 6, SCALE_BYTES, plain, 384},
    [CPU_TILE_IQ4_NL - CPU_TILE_RAW] = {QUANT_IQ4_NL, 4, SCALE_D, quant_iq4_values, 256},
    [CPU_TILE_IQ4_XS - CPU_TILE_RAW] = {QUANT_IQ4_XS, 4, SCALE_BYTE, quant_iq4_values, 256},
    [CPU_TILE_MXFP4 - CPU_TILE_RAW] = {QUANT_MXFP4, 4, SCALE_E8, quant_fp4_values, 256},
    [CPU_TILE_NVFP4 - CPU_TILE_RAW] = {QUANT_NVFP4, 4, SCALE_E4, quant_fp4_values, 256},
};

const tile_layout *cpu_tile_layout(cpu_format f) { return &layouts[f < CPU_TILE_CODE ? f - CPU_TILE_RAW : 0]; }

cpu_format cpu_tile_format(uint32_t type) {
    if (type == QUANT_F32) return CPU_F32;
    if (type == QUANT_F64 || type == QUANT_I8 || type == QUANT_I16 || type == QUANT_I32 || type == QUANT_I64) return CPU_RAW;
    for (size_t i = 1; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i].type == type) return (cpu_format)(CPU_TILE_RAW + i);
    for (cpu_format f = CPU_TILE_CODE; f < CPU_FORMATS; f++)
        if (cpu_code(f)->type == type) return f;
    return CPU_TILE_RAW;
}

// Where a row has the number of column c, or the part of it that has `width` (8, 4, 2) bits: in which of the area's dwords, and from which bit of it on.
static inline int dword_of(int width, int c) { return width == 8 ? c % 2 * 4 + c / 16 * 2 + c / 2 % 2 : c % 2 * width / 2 + c / 2 * width / 32; }
static inline int bit_of(int width, int c) { return width == 8 ? c / 4 % 4 * 8 : c / 2 * width % 32; }
// And its fifth bit in the row's word of the masks.
static inline int fifth_of(int c) { return dword_of(8, c) * 4 + bit_of(8, c) / 8; }

// A row's numbers into its dwords of the area, or their bits from `from` on.
static inline __attribute__((always_inline)) void put_width(int width, int from, uint8_t *area, int r, const uint8_t q[TILE_K]) {
    uint32_t dwords[8] = {0};
#pragma GCC unroll 32
    for (int c = 0; c < TILE_K; c++) dwords[dword_of(width, c)] |= (q[c] >> from & ((1u << width) - 1)) << bit_of(width, c);
    for (int i = 0; i < width; i++) memcpy(area + i * 64 + r * 4, &dwords[i], 4);
}

void cpu_tile_put(const tile_layout *l, uint8_t *quants, int64_t b, int n, const cpu_part *rows) {
    uint8_t *area = quants + (size_t)b * l->block_bytes;
    uint32_t fifth[PANEL] = {0};
    for (int r = 0; r < n; r++) {
        const uint8_t *q = rows[r].q;
        if (l->bits & 8) put_width(8, 0, area, r, q);
        if (l->bits & 4) put_width(4, 0, area, r, q);
        if (l->bits & 2) put_width(2, 4, area + 256, r, q);
        for (int c = 0; l->bits & 1 && c < TILE_K; c++) fifth[r] |= (uint32_t)(q[c] >> 4) << fifth_of(c);
    }
    if (l->bits & 1) cpu_masks_put(area + 256, n, fifth, 4);
}

// `bits` is a constant, and so is every place when the loop is unrolled.
static inline __attribute__((always_inline)) void get_row(int bits, const tile_layout *l, const uint8_t *area, int r, int8_t v[TILE_K]) {
    uint32_t dwords[8], fifth = bits & 1 ? cpu_masks_get(area + 256, r) : 0;
    for (int i = 0; i < (bits & ~1); i++) memcpy(&dwords[i], area + i * 64 + r * 4, 4);
#pragma GCC unroll 32
    for (int c = 0; c < TILE_K; c++) {
        const int width = bits & 8 ? 8 : 4;
        int q = (int)(dwords[dword_of(width, c)] >> bit_of(width, c) & ((1u << width) - 1));
        if (bits & 2) q |= (int)(dwords[4 + dword_of(2, c)] >> bit_of(2, c) & 3) << 4;
        if (bits & 1) q |= (int)(fifth >> fifth_of(c) & 1) << 4;
        v[c] = (int8_t)(bits == 8 ? q - 128 : bits == 6 ? q - 32 : l->values[q & 15] + (q & 16));
    }
}

void cpu_tile_get(const tile_layout *l, const uint8_t *quants, int64_t b, int r, int8_t v[TILE_K]) {
    const uint8_t *area = quants + (size_t)b * l->block_bytes;
    switch (l->bits) {
    case 8: get_row(8, l, area, r, v); break;
    case 6: get_row(6, l, area, r, v); break;
    case 5: get_row(5, l, area, r, v); break;
    default: get_row(4, l, area, r, v); break;
    }
}
