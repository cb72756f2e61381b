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

// Of four 16-bit parts the lowest 4 bits, side by side; the lowest 2.
static uint32_t gather4(uint64_t x) {
    x &= 0x000f000f000f000f;
    x = (x | x >> 12) & 0x000000ff000000ff;
    return (uint32_t)(x | x >> 24) & 0xffff;
}
static uint32_t gather2(uint64_t x) {
    x &= 0x0003000300030003;
    x = (x | x >> 14) & 0x0000000f0000000f;
    return (uint32_t)(x | x >> 28) & 0xff;
}

// The two words of row r in each group of 4-bit numbers, and of the two further bits of 6: what cpu_tile_value reads, eight numbers at a time.
static void put_words(uint8_t *area, int bits, int r, const uint8_t q[TILE_K]) {
    uint64_t x[4]; // little-endian: column c in byte c % 8
    for (int i = 0; i < 4; i++)
        for (int j = x[i] = 0; j < 8; j++) x[i] |= (uint64_t)q[8 * i + j] << 8 * j;
    for (int j = 0; j < 2; j++) {
        for (int g = 0; g < 2; g++) {
            uint32_t low = gather4(x[2 * g] >> 8 * j) | gather4(x[2 * g + 1] >> 8 * j) << 16;
            memcpy(area + (j * 2 + g) * 64 + r * 4, &low, 4);
        }
        if (bits != 6) continue;
        uint32_t high = 0;
        for (int i = 0; i < 4; i++) high |= gather2(x[i] >> (4 + 8 * j)) << 8 * i;
        memcpy(area + 256 + j * 64 + r * 4, &high, 4);
    }
}

void cpu_tile_put(const tile_layout *l, uint8_t *quants, int64_t b, int n, const cpu_part *rows) {
    uint8_t *area = quants + (size_t)b * l->block_bytes;
    for (int r = 0; r < n; r++) {
        if (l->bits == 4 || l->bits == 6) {
            put_words(area, l->bits, r, rows[r].q);
            continue;
        }
        for (int c = 0; c < TILE_K; c++) {
            int kp = c / 2, j = c % 2, i = j * 4 + kp / 8 * 2 + kp % 2, at = r * 4 + kp % 8 / 2; // see cpu_tile.h
            if (l->bits == 8) {
                area[i * 64 + at] = rows[r].q[c];
                continue;
            }
            area[(j * 2 + kp / 8) * 64 + at] |= (uint8_t)((rows[r].q[c] & 15) << kp % 2 * 4);
            area[256 + i * 8 + at / 8] |= (uint8_t)((rows[r].q[c] >> 4) << at % 8); // the fifth bit
        }
    }
}

int cpu_tile_value(const tile_layout *l, const uint8_t *quants, int64_t b, int r, int c) {
    const uint8_t *area = quants + (size_t)b * l->block_bytes;
    int kp = c / 2, j = c % 2, i = j * 4 + kp / 8 * 2 + kp % 2, at = r * 4 + kp % 8 / 2;
    if (l->bits == 8) return area[i * 64 + at] - 128;
    int q = area[(j * 2 + kp / 8) * 64 + at] >> kp % 2 * 4 & 15;
    if (l->bits == 6) return (q | (area[256 + j * 64 + r * 4 + kp / 4] >> kp % 4 * 2 & 3) << 4) - 32;
    return l->values[q] + (l->bits == 5 ? (area[256 + i * 8 + at / 8] >> at % 8 & 1) << 4 : 0);
}
