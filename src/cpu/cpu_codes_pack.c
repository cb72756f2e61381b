// cpu/codes_pack: how the numbers of short codes lie in a panel, in and out. Layouts: cpu_codes.h. Bits a weight here and in the file:
//   IQ4_NL 4.5 4.5   IQ4_XS 4.31 4.25  MXFP4 4.25 4.25  NVFP4 4.5 4.5     Q2_K 2.63 2.63    Q3_K 3.56 3.44   IQ3_S 3.44 3.44  IQ3_XXS 3.19 3.06
//   IQ2_S 2.56 2.56  IQ2_XS 2.44 2.31  IQ2_XXS 2.19 2.06  IQ1_S 1.69 1.56  IQ1_M 1.81 1.75   TQ1_0 1.69 1.69  TQ2_0 2.06 2.06  Q2_0 2.25 2.25   Q1_0 1.13 1.13
#include "cpu/cpu_codes.h"

const int8_t cpu_code_iq2[16] = {8, 25, 43};
const int8_t cpu_code_iq3_xxs[16] = {4, 12, 20, 28, 36, 44, 52, 62};
const int8_t cpu_code_iq3_s[16] = {1, 3, 5, 7, 9, 11, 13, 15};
const int8_t cpu_code_iq1[16] = {-8, 0, 8};

// Entries of a grid for 32 columns; and offsets in the area.
static int grid_entries(const code_layout *l) { return l->numbers == CODE_GRID4 ? 8 : 4; }
static int grid_signs(const code_layout *l) { return grid_entries(l) * 16; }
static int grid_high(const code_layout *l) { return grid_signs(l) + (l->shift ? 0 : 64); }
static int grid_shift(const code_layout *l) { return grid_high(l) + grid_entries(l) * l->high * 2; }

static void put_grid(const code_layout *l, uint8_t *area, int n, const cpu_part *rows) {
    for (int g = 0; g < grid_entries(l); g++) {
        uint32_t high[3] = {0}, shift = 0;
        for (int r = 0; r < n; r++) {
            const uint32_t index = rows[r].index[g];
            area[g * 16 + r] = (uint8_t)index;
            for (int i = 0; i < 3; i++) high[i] |= (index >> (8 + i) & 1) << r;
            if (l->shift) shift |= (uint32_t)rows[r].shift[g] << r;
        }
        for (int i = 0; i < l->high; i++) memcpy(area + grid_high(l) + (g * l->high + i) * 2, &high[i], 2);
        if (l->shift) memcpy(area + grid_shift(l) + g * 2, &shift, 2);
    }
    if (!l->shift) cpu_masks_put(area + grid_signs(l), n, rows[0].signs, sizeof *rows);
}

void cpu_code_put(const code_layout *l, uint8_t *quants, int64_t b, int n, const cpu_part *rows) {
    uint8_t *area = quants + code_area(l, b);
    switch (l->numbers) {
    case CODE_TABLE: case CODE_1: case CODE_2: case CODE_3: cpu_numbers_put(l->bytes / 64, area, n, rows); break;
    case CODE_FIVE: // summed up here, made a fraction of 256 when all are there
        for (int i = 0; i < BLOCK; i++) {
            const int at = (int)(b % 8) * 8 + i / 4;
            for (int r = 0; r < n; r++) {
                uint8_t *to = area + at % 13 * 64 + r * 4 + i % 4;
                *to = (uint8_t)(*to + rows[r].q[i] * cpu_pow3[4 - at / 13]);
            }
        }
        break;
    default: put_grid(l, area, n, rows); break;
    }
}

void cpu_code_end(const code_layout *l, uint8_t *quants, int64_t k) {
    if (l->numbers != CODE_FIVE) return;
    for (size_t i = 0; i < (size_t)k / BLOCK * (size_t)l->bytes; i++) quants[i] = code_fraction(quants[i]);
}

static void get_grid(const code_layout *l, const uint8_t *area, int r, int8_t v[BLOCK]) {
    const int entries = grid_entries(l), columns = BLOCK / entries, bits = 16 / columns; // of a column
    for (int g = 0; g < entries; g++) {
        int index = area[g * 16 + r];
        for (int h = 0; h < l->high; h++) index |= (area[grid_high(l) + (g * l->high + h) * 2 + r / 8] >> r % 8 & 1) << (8 + h);
        const int up = !l->shift ? 0 : area[grid_shift(l) + g * 2 + r / 8] >> r % 8 & 1 ? -1 : 1;
        for (int i = 0; i < columns; i++) v[g * columns + i] = (int8_t)(l->values[l->grid[index] >> i * bits & (bits == 4 ? 7 : 3)] + up);
    }
    if (l->shift) return;
    const uint32_t signs = cpu_masks_get(area + grid_signs(l), r);
    for (int i = 0; i < BLOCK; i++)
        if (signs >> i & 1) v[i] = (int8_t)-v[i];
}

void cpu_code_get(const code_layout *l, const uint8_t *quants, int64_t b, int r, int8_t v[BLOCK]) {
    const uint8_t *area = quants + code_area(l, b);
    uint8_t q[BLOCK];
    switch (l->numbers) {
    case CODE_TABLE: case CODE_1: case CODE_2: case CODE_3:
        cpu_numbers_get(l->bytes / 64, area, r, q);
        for (int i = 0; i < BLOCK; i++) v[i] = (int8_t)(l->numbers == CODE_TABLE ? l->values[q[i]] : l->numbers == CODE_1 ? 2 * q[i] - 1 : q[i] - l->offset);
        break;
    case CODE_FIVE:
        for (int i = 0; i < BLOCK; i++) {
            const int n = (int)(b % 8) * 8 + i / 4;
            v[i] = (int8_t)(((uint8_t)(area[n % 13 * 64 + r * 4 + i % 4] * cpu_pow3[n / 13]) * 3 >> 8) - l->offset);
        }
        break;
    default: get_grid(l, area, r, v); break;
    }
}
