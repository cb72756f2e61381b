// cpu/codes: panels of the file types whose numbers are short codes: 4 bits of a table, 1 to 3 bits, three values, entries of a grid. One layout for all
// tiers, the tile tier too: what unpacks it gives 16 rows x 32 columns of bytes, from which each tier goes on as with its other formats. A code is
// never widened in memory, so that a weight takes what it takes in the file (at most an eighth more, see cpu_codes_pack.c).
//
// Quant area of 16 rows x 32 columns ([c][r][i] and masks over it as in cpu_panel.h):
//   CODE_TABLE, CODE_1, CODE_2, CODE_3  numbers of 4, 1, 2, 3 bits as there
//   CODE_FIVE   per 256 columns, n = 0..63 counting fours of columns: 13 times [r][i], whose byte n % 13 holds numbers n / 13 = 0..4 in base 3 as the file's does
//   CODE_GRID8  [g < 4][r] low bytes of the entry that gives columns 8g..8g+7; masks of signs where there are any; for each g 16-bit masks over r of
//               the index's higher bits, lowest first; where there is a shift, for each g a mask of the rows that are shifted down
//   CODE_GRID4  the same with [c < 8] of four columns each
#pragma once
#include "cpu/cpu_panel.h"

typedef enum code_numbers { CODE_TABLE, CODE_1, CODE_2, CODE_3, CODE_FIVE, CODE_GRID4, CODE_GRID8 } code_numbers;

typedef struct code_layout {
    uint32_t type;          // of the file
    code_numbers numbers;
    cpu_scale scale;
    int group;              // SCALE_D: blocks of 32 that share one
    int bytes;              // quant area of 16 x 32; CODE_FIVE: an eighth of 256 columns'
    int offset;             // unpacked bytes hold value + offset, a power of two
    int most;               // greatest |value|
    float unit;             // d * unit * scale * value
    const int8_t *values;   // [16]: of codes, or of a grid's levels; NULL: the number itself, less offset (CODE_1: twice the bit)
    const uint16_t *grid;
    int high;               // bits of a grid's index above eight
    bool shift;             // grid: values are one more, or one less where the mask says so
} code_layout;

extern const int8_t cpu_code_iq2[16], cpu_code_iq3_xxs[16], cpu_code_iq3_s[16], cpu_code_iq1[16];
// Here, and not in a file of its own, so that a kernel for one format knows its layout when it is compiled.
static const code_layout cpu_code_layouts[] = {
    [CPU_IQ4_NL - CPU_CODE_FIRST] = {QUANT_IQ4_NL, CODE_TABLE, SCALE_D, 1, 256, 128, 127, 1, quant_iq4_values, NULL, 0, false},
    [CPU_IQ4_XS - CPU_CODE_FIRST] = {QUANT_IQ4_XS, CODE_TABLE, SCALE_BYTE, 8, 256, 128, 127, 1, quant_iq4_values, NULL, 0, false},
    [CPU_MXFP4 - CPU_CODE_FIRST] = {QUANT_MXFP4, CODE_TABLE, SCALE_E8, 1, 256, 16, 12, 1, quant_fp4_values, NULL, 0, false},
    [CPU_NVFP4 - CPU_CODE_FIRST] = {QUANT_NVFP4, CODE_TABLE, SCALE_E4, 1, 256, 16, 12, 1, quant_fp4_values, NULL, 0, false},
    [CPU_Q2_K - CPU_CODE_FIRST] = {QUANT_Q2_K, CODE_2, SCALE_MIN, 8, 128, 0, 3, 1, NULL, NULL, 0, false},
    [CPU_Q3_K - CPU_CODE_FIRST] = {QUANT_Q3_K, CODE_3, SCALE_BYTES, 8, 192, 4, 4, 1, NULL, NULL, 0, false},
    [CPU_IQ3_S - CPU_CODE_FIRST] = {QUANT_IQ3_S, CODE_GRID4, SCALE_NIBBLE, 8, 208, 16, 15, 1, cpu_code_iq3_s, quant_grid_iq3_s, 1, false},
    [CPU_IQ3_XXS - CPU_CODE_FIRST] = {QUANT_IQ3_XXS, CODE_GRID4, SCALE_NIBBLE, 8, 192, 64, 62, 0.25f, cpu_code_iq3_xxs, quant_grid_iq3_xxs, 0, false},
    [CPU_IQ2_S - CPU_CODE_FIRST] = {QUANT_IQ2_S, CODE_GRID8, SCALE_PAIR, 8, 144, 64, 43, 0.125f, cpu_code_iq2, quant_grid_iq2_s, 2, false},
    [CPU_IQ2_XS - CPU_CODE_FIRST] = {QUANT_IQ2_XS, CODE_GRID8, SCALE_PAIR, 8, 136, 64, 43, 0.125f, cpu_code_iq2, quant_grid_iq2_xs, 1, false},
    [CPU_IQ2_XXS - CPU_CODE_FIRST] = {QUANT_IQ2_XXS, CODE_GRID8, SCALE_NIBBLE, 8, 128, 64, 43, 0.125f, cpu_code_iq2, quant_grid_iq2_xxs, 0, false},
    [CPU_IQ1_S - CPU_CODE_FIRST] = {QUANT_IQ1_S, CODE_GRID8, SCALE_NIBBLE, 8, 96, 16, 9, 0.125f, cpu_code_iq1, quant_grid_iq1, 3, true},
    [CPU_IQ1_M - CPU_CODE_FIRST] = {QUANT_IQ1_M, CODE_GRID8, SCALE_PAIR, 8, 96, 16, 9, 0.125f, cpu_code_iq1, quant_grid_iq1, 3, true},
    [CPU_TQ1_0 - CPU_CODE_FIRST] = {QUANT_TQ1_0, CODE_FIVE, SCALE_D, 8, 104, 1, 1, 1, NULL, NULL, 0, false},
    [CPU_TQ2_0 - CPU_CODE_FIRST] = {QUANT_TQ2_0, CODE_2, SCALE_D, 8, 128, 1, 2, 1, NULL, NULL, 0, false},
    [CPU_Q2_0 - CPU_CODE_FIRST] = {QUANT_Q2_0, CODE_2, SCALE_D, 2, 128, 1, 2, 1, NULL, NULL, 0, false},
    [CPU_Q1_0 - CPU_CODE_FIRST] = {QUANT_Q1_0, CODE_1, SCALE_D, 4, 64, 1, 1, 1, NULL, NULL, 0, false},
};

static inline bool cpu_format_code(cpu_format f) { return (f >= CPU_CODE_FIRST && f <= CPU_CODE_LAST) || f >= CPU_TILE_CODE; }
static inline const code_layout *cpu_code(cpu_format f) { return &cpu_code_layouts[f - (f >= CPU_TILE_CODE ? CPU_TILE_CODE : CPU_CODE_FIRST)]; }
// Scales for columns 0..15 and 16..31 apart.
static inline bool code_two(const code_layout *l) { return l->scale >= SCALE_PAIR; }
// Sums of 16 products fit int16, so that both halves are scaled by one multiplication of pairs.
static inline bool code_pairs(const code_layout *l) { return code_two(l) && l->most <= 16 && l->scale != SCALE_E4; }
static inline size_t code_area(const code_layout *l, int64_t b) { return (size_t)(l->numbers == CODE_FIVE ? b / 8 * 8 : b) * (size_t)l->bytes; }

void cpu_code_put(const code_layout *l, uint8_t *quants, int64_t b, int n, const cpu_part *rows); // the numbers of block b of n (1..16) rows, into quants of zeros
void cpu_code_end(const code_layout *l, uint8_t *quants, int64_t k);                                 // when all are there
void cpu_code_get(const code_layout *l, const uint8_t *quants, int64_t b, int r, int8_t v[BLOCK]);   // the values of row r, without their scale
// CODE_FIVE: five numbers in base 3 as a fraction of 256, rounded up: three times that is the first of them and a fraction for the others.
static inline uint8_t code_fraction(uint8_t sum) { return (uint8_t)((sum * 256 + 242) / 243); }
