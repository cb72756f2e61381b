// cpu/codes_pack: how the numbers of short codes lie in a panel, in and out. Layouts: cpu_codes.h. Bits a weight here and in the file:
//   IQ4_NL 4.5 4.5   IQ4_XS 4.31 4.25  MXFP4 4.25 4.25  NVFP4 4.5 4.5     Q2_K 2.63 2.63    Q3_K 3.56 3.44   IQ3_S 3.44 3.44  IQ3_XXS 3.19 3.06
//   IQ2_S 2.56 2.56  IQ2_XS 2.44 2.31  IQ2_XXS 2.19 2.06  IQ1_S 1.69 1.56  IQ1_M 1.81 1.75   TQ1_0 1.69 1.69  TQ2_0 2.06 2.06  Q2_0 2.25 2.25   Q1_0 1.13 1.13
#include "cpu/cpu_codes.h"

const int8_t cpu_code_iq2[16] = {8, 25, 43};
const int8_t cpu_code_iq3_xxs[16] = {4, 12, 20, 28, 36, 44, 52, 62};
const int8_t cpu_code_iq3_s[16] = {1, 3, 5, 7, 9, 11, 13, 15};
const int8_t cpu_code_iq1[16] = {-8, 0, 8};

static const uint8_t pow3[5] = {1, 3, 9, 27, 81};

// Offsets in a grid's area.
static int grid_signs(const code_layout *l) { return l->numbers == CODE_GRID4 ? 128 : 64; }
static int grid_high(const code_layout *l) { return grid_signs(l) + (l->shift ? 0 : 64); }
static int grid_shift(const code_layout *l) { return grid_high(l) + grid_signs(l) / 16 * l->high * 2; }

static void put_grid(const code_layout *l, uint8_t *area, int r, const cpu_part *x) {
    int n = grid_signs(l) / 16;
    for (int g = 0; g < n; g++) {
        area[g * 16 + r] = (uint8_t)x->index[g];
        for (int i = 0; i < l->high; i++) area[grid_high(l) + (g * l->high + i) * 2 + r / 8] |= (uint8_t)((x->index[g] >> (8 + i) & 1) << r % 8);
        if (l->shift) area[grid_shift(l) + g * 2 + r / 8] |= (uint8_t)(x->shift[g] << r % 8);
    }
    if (l->shift) return;
    for (int c = 0; c < 8; c++) area[grid_signs(l) + c * 8 + r / 2] |= (uint8_t)((x->signs[c / 2] >> c % 2 * 4 & 15) << r % 2 * 4);
}

// Bit `from` of the numbers of row r into masks over [r][i], one for each four columns.
static void put_masks(uint8_t *masks, int r, const uint8_t q[BLOCK], int from) {
    for (int c = 0; c < 8; c++, q += 4)
        masks[c * 8 + r / 2] |= (uint8_t)((q[0] >> from & 1) << r % 2 * 4 | (q[1] >> from & 1) << (r % 2 * 4 + 1)
                                          | (q[2] >> from & 1) << (r % 2 * 4 + 2) | (q[3] >> from & 1) << (r % 2 * 4 + 3));
}

void cpu_code_put(const code_layout *l, uint8_t *quants, int64_t b, int r, const cpu_part *x) {
    uint8_t *area = quants + code_area(l, b);
    const uint8_t *q = x->q;
    switch (l->numbers) {
    case CODE_TABLE:
        for (int i = 0; i < 16; i++) area[i / 4 * 64 + r * 4 + i % 4] = (uint8_t)(q[i] | q[16 + i] << 4);
        break;
    case CODE_1: put_masks(area, r, q, 0); break;
    case CODE_3: put_masks(area + 128, r, q, 2); // fall through
    case CODE_2:
        for (int i = 0; i < 8; i++) area[i / 4 * 64 + r * 4 + i % 4] = (uint8_t)((q[i] & 3) | (q[8 + i] & 3) << 2 | (q[16 + i] & 3) << 4 | (q[24 + i] & 3) << 6);
        break;
    case CODE_FIVE: // summed up here, made a fraction of 256 when all are there
        for (int i = 0; i < BLOCK; i++) {
            int n = (int)(b % 8) * 8 + i / 4;
            uint8_t *to = area + n % 13 * 64 + r * 4 + i % 4;
            *to = (uint8_t)(*to + q[i] * pow3[4 - n / 13]);
        }
        break;
    default: put_grid(l, area, r, x); break;
    }
}

void cpu_code_end(const code_layout *l, uint8_t *quants, int64_t k) {
    if (l->numbers != CODE_FIVE) return;
    for (size_t i = 0; i < (size_t)k / BLOCK * (size_t)l->bytes; i++) quants[i] = (uint8_t)((quants[i] * 256 + 242) / 243);
}

int cpu_code_value(const code_layout *l, const uint8_t *quants, int64_t b, int r, int i) {
    const uint8_t *area = quants + code_area(l, b);
    int c = i / 4, at = r * 4 + i % 4;
    switch (l->numbers) {
    case CODE_TABLE: return l->values[area[c % 4 * 64 + at] >> c / 4 * 4 & 15];
    case CODE_1: return (area[c * 8 + at / 8] >> at % 8 & 1) * 2 - 1;
    case CODE_2: return (area[c % 2 * 64 + at] >> c / 2 * 2 & 3) - l->offset;
    case CODE_3: return ((area[c % 2 * 64 + at] >> c / 2 * 2 & 3) | (area[128 + c * 8 + at / 8] >> at % 8 & 1) << 2) - l->offset;
    case CODE_FIVE: {
        int n = (int)(b % 8) * 8 + c;
        return ((uint8_t)(area[n % 13 * 64 + at] * pow3[n / 13]) * 3 >> 8) - l->offset;
    }
    default: {
        bool four = l->numbers == CODE_GRID4;
        int g = four ? c : c / 2, index = area[g * 16 + r];
        for (int h = 0; h < l->high; h++) index |= (area[grid_high(l) + (g * l->high + h) * 2 + r / 8] >> r % 8 & 1) << (8 + h);
        int v = l->values[four ? l->grid[index] >> i % 4 * 4 & 7 : l->grid[index] >> i % 8 * 2 & 3];
        if (l->shift) return v + (area[grid_shift(l) + g * 2 + r / 8] >> r % 8 & 1 ? -1 : 1);
        return area[grid_signs(l) + c * 8 + at / 8] >> at % 8 & 1 ? -v : v;
    }
    }
}
