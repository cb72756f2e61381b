// cpu/panel: what panels of integer formats have in common: 32 columns of a row out of the file's blocks (a part), the area of scales before the quants, and quants of whole
// numbers and of codes. How others lie: cpu_codes.h (grids, base 3), cpu_tile.h (tiles). Nothing is rounded: half floats and small integers stay the file's.
#pragma once
#include "cpu/cpu_internal.h"

// What the scale area holds of 16 rows; of 256 columns their own half floats first. value = d * number - m.
typedef enum cpu_scale {
    SCALE_NONE,
    SCALE_D,      // per 32 columns (or `group` times that): f16 d[16]
    SCALE_DM,     // per 32: f16 d[16], m[16]; m is added
    SCALE_K4,     // per 256: f16 d[16], dmin[16], then 8 of u8 scale[16], min[16]
    SCALE_BYTE,   // per 256: f16 d[16], then 8 of i8 [16]
    SCALE_NIBBLE, // per 256: f16 d[16], then 4 of u8 [16]: s of the even 32 columns low, of the odd ones high; the scale is 2 s + 1
    SCALE_E8,     // per 32: e8m0 [16], halved as quant_e8m0_half
    // For columns 0..15 and 16..31 apart:
    SCALE_PAIR,   // per 256: f16 d[16], then 8 of u8 [16]: s of columns 0..15 low, of 16..31 high; 2 s + 1
    SCALE_BYTES,  // per 256: f16 d[16], then 8 of i8 [2][16]
    SCALE_MIN,    // per 256: f16 d[16], dmin[16], then 8 of u8 [2][16]: scale low, min high
    SCALE_E4      // per 32: e4m3 [2][16], halved as quant_ue4m3_half
} cpu_scale;

// 32 columns of a row: numbers as the file stores them (those of Q8_0 plus 128), or entries of a grid and signs; and what their scale is made of.
typedef struct cpu_part {
    uint8_t  q[BLOCK];
    uint16_t index[8];            // of a grid
    uint8_t  signs[4], shift[4];  // a bit a column; for each eight columns
    uint16_t d, m;                // half floats
    uint8_t  s[2];                // the bytes of the scale area
} cpu_part;

// Block b of a row of a file type that has an integer format; what the type does not have stays as it is.
void cpu_part_get(uint32_t type, const uint8_t *row, int64_t b, cpu_part *to);

// group: of SCALE_D, blocks of 32 columns that share a scale.
size_t cpu_scale_area(cpu_scale kind, int group, int64_t k); // bytes, a multiple of 64
void   cpu_scale_put(cpu_scale kind, int group, uint8_t *area, int64_t b, int n, const cpu_part *rows); // block b of n (1..16) rows, into an area of zeros
void   cpu_scale_get(cpu_scale kind, int group, float unit, const uint8_t *area, int64_t b, int r, float d[2], float m[2]); // of row r, for each half of the columns

// Numbers of `bits` bits in the quant area of 16 rows x 32 columns, 64 bytes a bit: as the powers of two that `bits` is made of, the greatest first, each with the
// next bits of all numbers from the lowest on. [c][r][i] (r < 16, i < 4) is column 4c + i of row r.
//   8, 4, 2  byte [c][r][i] (c < power) holds columns of c, c + power, c + 2 power ... from low to high
//   1        64-bit masks for c = 0..7, bit 4r + i
// So of six bits the lower four lie first, those of c and c + 4 in one byte, then the upper two.
void cpu_numbers_put(int bits, uint8_t *area, int n, const cpu_part *rows);   // of n (1..16) rows, into an area of zeros
void cpu_numbers_get(int bits, const uint8_t *area, int r, uint8_t q[BLOCK]); // of row r

// The masks of n (1..16) words, one of each row and `step` bytes apart, whose bit i is column i's; and row r's word out of them.
static inline void cpu_masks_put(uint8_t *masks, int n, const void *words, size_t step) {
    uint64_t mask[8] = {0};
    for (int r = 0; r < n; r++) {
        uint32_t word;
        memcpy(&word, (const uint8_t *)words + (size_t)r * step, 4);
        for (int c = 0; c < 8; c++) mask[c] |= (uint64_t)(word >> 4 * c & 15) << 4 * r;
    }
    memcpy(masks, mask, sizeof mask);
}
static inline uint32_t cpu_masks_get(const uint8_t *masks, int r) {
    uint32_t word = 0;
    for (int c = 0; c < 8; c++) word |= (uint32_t)(masks[c * 8 + r / 2] >> r % 2 * 4 & 15) << 4 * c;
    return word;
}
// Bit i of each of eight bytes, the first byte's lowest: the product has byte n's at bit 56 + n.
static inline uint8_t cpu_bit_of_bytes(const uint8_t *bytes, int i) {
    uint64_t x;
    memcpy(&x, bytes, 8);
    return (uint8_t)((x >> i & 0x0101010101010101) * 0x0102040810204080 >> 56);
}

// TQ1_0 has five numbers in base 3 to a byte, in the file and here (cpu_codes.h).
static const uint8_t cpu_pow3[5] = {1, 3, 9, 27, 81};

// The int8 formats. Here, and not in a file of its own, so that a kernel for one format knows its layout when it is compiled.
typedef struct int8_layout {
    uint32_t  type;   // of the file
    int       bits;   // of a number
    cpu_scale scale;
    int       offset; // stored numbers are value + offset
} int8_layout;

static const int8_layout cpu_int8_layouts[] = {
    [CPU_Q8 - CPU_INT8_FIRST] = {QUANT_Q8_0, 8, SCALE_D, 128},  [CPU_Q4_0 - CPU_INT8_FIRST] = {QUANT_Q4_0, 4, SCALE_D, 8},
    [CPU_Q4_1 - CPU_INT8_FIRST] = {QUANT_Q4_1, 4, SCALE_DM, 0}, [CPU_Q5_0 - CPU_INT8_FIRST] = {QUANT_Q5_0, 5, SCALE_D, 16},
    [CPU_Q5_1 - CPU_INT8_FIRST] = {QUANT_Q5_1, 5, SCALE_DM, 0}, [CPU_Q4_K - CPU_INT8_FIRST] = {QUANT_Q4_K, 4, SCALE_K4, 0},
    [CPU_Q5_K - CPU_INT8_FIRST] = {QUANT_Q5_K, 5, SCALE_K4, 0}, [CPU_Q6_K - CPU_INT8_FIRST] = {QUANT_Q6_K, 6, SCALE_BYTES, 32},
};

static inline const int8_layout *cpu_int8(cpu_format f) { return &cpu_int8_layouts[f - CPU_INT8_FIRST]; }
static inline size_t cpu_int8_bytes(cpu_format f) { return (size_t)cpu_int8(f)->bits * 64; } // quants of 16 rows x 32 columns
