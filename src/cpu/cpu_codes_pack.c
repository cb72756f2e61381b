// cpu/codes_pack: panels of short codes, and one row of them as float32 again. Layouts: cpu_codes.h. Nothing is rounded. Bits a weight here and in the file:
//   IQ4_NL 4.5 4.5   IQ4_XS 4.31 4.25  MXFP4 4.25 4.25  NVFP4 4.5 4.5     Q2_K 2.63 2.63    Q3_K 3.56 3.44   IQ3_S 3.44 3.44  IQ3_XXS 3.19 3.06
//   IQ2_S 2.56 2.56  IQ2_XS 2.44 2.31  IQ2_XXS 2.19 2.06  IQ1_S 1.69 1.56  IQ1_M 1.81 1.75   TQ1_0 1.69 1.69  TQ2_0 2.06 2.06  Q2_0 2.25 2.25   Q1_0 1.13 1.13
#include "cpu/cpu_codes.h"

const int8_t cpu_code_iq2[16] = {8, 25, 43};
const int8_t cpu_code_iq3_xxs[16] = {4, 12, 20, 28, 36, 44, 52, 62};
const int8_t cpu_code_iq3_s[16] = {1, 3, 5, 7, 9, 11, 13, 15};
const int8_t cpu_code_iq1[16] = {-8, 0, 8};

static size_t scale_area(const code_layout *l, int64_t k) {
    size_t blocks = (size_t)k / BLOCK, groups = blocks / 8;
    switch (l->scale) {
    case SCALE_D: return blocks / (size_t)l->group * 32;
    case SCALE_NIBBLE: return groups * 96;
    case SCALE_BYTE: case SCALE_PAIR: return groups * 160;
    case SCALE_BYTES: return groups * 288;
    case SCALE_MIN: return groups * 320;
    case SCALE_E8: return blocks * 16;
    default: return blocks * 32;
    }
}

size_t cpu_code_scale_bytes(cpu_format f, int64_t k) { return (scale_area(cpu_code(f), k) + 63) & ~(size_t)63; }
size_t cpu_code_panel_bytes(cpu_format f, int64_t k) { return (cpu_code_scale_bytes(f, k) + (size_t)k / BLOCK * (size_t)cpu_code(f)->bytes + 63) & ~(size_t)63; }

// ---- out of the file ------------------------------------------------------------------------------------------------------

// What belongs to 32 columns of a row.
typedef struct part {
    uint8_t q[32];                // codes
    uint16_t index[8];            // of a grid
    uint8_t signs[4], shift[4];   // a bit a column; for each eight columns
    uint16_t d, m;
    uint8_t s[2];                 // as the scale area keeps them
} part;

static void nibbles(const uint8_t *qs, int n, uint8_t *q) {
    for (int i = 0; i < n; i++) {
        q[i] = qs[i] & 15;
        q[i + n] = qs[i] >> 4;
    }
}

static void get_fp4(const code_layout *l, const uint8_t *row, int64_t b, part *o) {
    if (l->type == QUANT_MXFP4) {
        const block_mxfp4 *x = (const block_mxfp4 *)row + b;
        o->s[0] = x->e;
        nibbles(x->qs, 16, o->q);
        return;
    }
    const block_nvfp4 *x = (const block_nvfp4 *)row + b / 2;
    for (int h = 0; h < 2; h++) {
        o->s[h] = x->d[b % 2 * 2 + h];
        nibbles(x->qs + (b % 2 * 2 + h) * 8, 8, o->q + h * 16);
    }
}

static void get_iq4(const code_layout *l, const uint8_t *row, int64_t b, part *o) {
    if (l->type == QUANT_IQ4_NL) {
        const block_iq4_nl *x = (const block_iq4_nl *)row + b;
        o->d = x->d;
        nibbles(x->qs, 16, o->q);
        return;
    }
    const block_iq4_xs *x = (const block_iq4_xs *)row + b / 8;
    int j = (int)(b % 8);
    o->d = x->d;
    o->s[0] = (uint8_t)(((x->scales_l[j / 2] >> j % 2 * 4 & 15) | (x->scales_h >> 2 * j & 3) << 4) - 32);
    nibbles(x->qs + j * 16, 16, o->q);
}

static void get_k(const code_layout *l, const uint8_t *row, int64_t b, part *o) {
    int j = (int)(b % 8);
    if (l->type == QUANT_Q2_K) {
        const block_q2_K *x = (const block_q2_K *)row + b / 8;
        o->d = x->d;
        o->m = x->dmin;
        memcpy(o->s, x->scales + 2 * j, 2);
        for (int i = 0; i < 32; i++) o->q[i] = x->qs[j / 4 * 32 + i] >> j % 4 * 2 & 3;
        return;
    }
    const block_q3_K *x = (const block_q3_K *)row + b / 8;
    o->d = x->d;
    for (int h = 0; h < 2; h++) {
        int n = 2 * j + h;
        o->s[h] = (uint8_t)(((x->scales[n % 8] >> n / 8 * 4 & 15) | (x->scales[8 + n % 4] >> n / 4 * 2 & 3) << 4) - 32);
    }
    for (int i = 0; i < 32; i++) o->q[i] = (uint8_t)((x->qs[j / 4 * 32 + i] >> j % 4 * 2 & 3) | (x->hmask[i] >> j & 1) << 2);
}

static void get_small(const code_layout *l, const uint8_t *row, int64_t b, part *o) {
    int j = (int)(b % 8);
    switch (l->type) {
    case QUANT_TQ1_0: {
        static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
        const block_tq1_0 *x = (const block_tq1_0 *)row + b / 8;
        o->d = x->d;
        for (int i = 0; i < 32; i++) { // 32 bytes of five numbers 32 apart, 16 of five 16 apart, 4 of four 4 apart
            int e = j * 32 + i, t = e < 160 ? e / 32 : e < 240 ? (e - 160) / 16 : (e - 240) / 4;
            uint8_t byte = e < 160 ? x->qs[e % 32] : e < 240 ? x->qs[32 + (e - 160) % 16] : x->qh[(e - 240) % 4];
            o->q[i] = (uint8_t)((uint8_t)(byte * pow3[t]) * 3 >> 8);
        }
        break;
    }
    case QUANT_TQ2_0: {
        const block_tq2_0 *x = (const block_tq2_0 *)row + b / 8;
        o->d = x->d;
        for (int i = 0; i < 32; i++) o->q[i] = x->qs[j / 4 * 32 + i] >> j % 4 * 2 & 3;
        break;
    }
    case QUANT_Q2_0: {
        const block_q2_0 *x = (const block_q2_0 *)row + b / 2;
        o->d = x->d;
        for (int i = 0; i < 32; i++) o->q[i] = x->qs[b % 2 * 8 + i / 4] >> i % 4 * 2 & 3;
        break;
    }
    default: { // Q1_0
        const block_q1_0 *x = (const block_q1_0 *)row + b / 4;
        o->d = x->d;
        for (int i = 0; i < 32; i++) o->q[i] = x->qs[b % 4 * 4 + i / 8] >> i % 8 & 1;
    }
    }
}

static void get_iq2(const code_layout *l, const uint8_t *row, int64_t b, part *o) {
    int j = (int)(b % 8);
    if (l->type == QUANT_IQ2_XXS) {
        const block_iq2_xxs *x = (const block_iq2_xxs *)row + b / 8;
        const uint16_t *q = x->qs + 4 * j;
        uint32_t aux = q[2] | (uint32_t)q[3] << 16;
        o->d = x->d;
        o->s[0] = (uint8_t)(aux >> 28);
        for (int g = 0; g < 4; g++) {
            o->index[g] = q[g / 2] >> g % 2 * 8 & 255;
            o->signs[g] = quant_even_signs(aux >> 7 * g & 127);
        }
        return;
    }
    const block_iq2_xs *x = (const block_iq2_xs *)row + b / 8;
    const block_iq2_s *y = (const block_iq2_s *)row + b / 8;
    bool s = l->type == QUANT_IQ2_S;
    o->d = s ? y->d : x->d;
    o->s[0] = s ? y->scales[j] : x->scales[j];
    for (int g = 0; g < 4; g++) {
        int n = 4 * j + g;
        o->index[g] = s ? (uint16_t)(y->qs[n] | (y->qh[j] >> g * 2 & 3) << 8) : x->qs[n] & 511;
        o->signs[g] = s ? y->qs[32 + n] : quant_even_signs(x->qs[n] >> 9);
    }
}

static void get_iq3(const code_layout *l, const uint8_t *row, int64_t b, part *o) {
    int j = (int)(b % 8);
    if (l->type == QUANT_IQ3_XXS) {
        const block_iq3_xxs *x = (const block_iq3_xxs *)row + b / 8;
        uint32_t aux;
        memcpy(&aux, x->qs + 64 + 4 * j, 4);
        o->d = x->d;
        o->s[0] = (uint8_t)(aux >> 28);
        for (int c = 0; c < 8; c++) o->index[c] = x->qs[8 * j + c];
        for (int g = 0; g < 4; g++) o->signs[g] = quant_even_signs(aux >> 7 * g & 127);
        return;
    }
    const block_iq3_s *x = (const block_iq3_s *)row + b / 8;
    o->d = x->d;
    o->s[0] = x->scales[j / 2] >> j % 2 * 4 & 15;
    for (int c = 0; c < 8; c++) o->index[c] = (uint16_t)(x->qs[8 * j + c] | (x->qh[j] >> c & 1) << 8);
    memcpy(o->signs, x->signs + 4 * j, 4);
}

static void get_iq1(const code_layout *l, const uint8_t *row, int64_t b, part *o) {
    int j = (int)(b % 8);
    if (l->type == QUANT_IQ1_S) {
        const block_iq1_s *x = (const block_iq1_s *)row + b / 8;
        o->d = x->d;
        o->s[0] = x->qh[j] >> 12 & 7;
        for (int g = 0; g < 4; g++) {
            o->index[g] = (uint16_t)(x->qs[4 * j + g] | (x->qh[j] >> g * 3 & 7) << 8);
            o->shift[g] = x->qh[j] >> 15;
        }
        return;
    }
    const block_iq1_m *x = (const block_iq1_m *)row + b / 8;
    uint16_t sc[4];
    memcpy(sc, x->scales, 8);
    o->d = (uint16_t)(sc[0] >> 12 | (sc[1] >> 8 & 0xf0) | (sc[2] >> 4 & 0xf00) | (sc[3] & 0xf000));
    o->s[0] = (uint8_t)((sc[j / 2] >> j % 2 * 6 & 7) | (sc[j / 2] >> (j % 2 * 6 + 3) & 7) << 4);
    for (int g = 0; g < 4; g++) {
        int h = x->qh[2 * j + g / 2] >> g % 2 * 4 & 15;
        o->index[g] = (uint16_t)(x->qs[4 * j + g] | (h & 7) << 8);
        o->shift[g] = (uint8_t)(h >> 3);
    }
}

static void get_part(const code_layout *l, const uint8_t *row, int64_t b, part *o) {
    switch (l->type) {
    case QUANT_IQ4_NL: case QUANT_IQ4_XS: get_iq4(l, row, b, o); break;
    case QUANT_MXFP4: case QUANT_NVFP4: get_fp4(l, row, b, o); break;
    case QUANT_Q2_K: case QUANT_Q3_K: get_k(l, row, b, o); break;
    case QUANT_IQ2_XXS: case QUANT_IQ2_XS: case QUANT_IQ2_S: get_iq2(l, row, b, o); break;
    case QUANT_IQ3_XXS: case QUANT_IQ3_S: get_iq3(l, row, b, o); break;
    case QUANT_IQ1_S: case QUANT_IQ1_M: get_iq1(l, row, b, o); break;
    default: get_small(l, row, b, o); break;
    }
}

// ---- into a panel and back ------------------------------------------------------------------------------------------------

static void put16(uint8_t *p, int r, uint16_t v) { memcpy(p + 2 * r, &v, 2); }
static uint16_t get16(const uint8_t *p, int r) {
    uint16_t v;
    memcpy(&v, p + 2 * r, 2);
    return v;
}

// Where the half floats of a block's rows lie (NULL: there are none), and its bytes.
static size_t scale_place(const code_layout *l, int64_t b, size_t *bytes) {
    size_t group = (size_t)b / 8, in = (size_t)b % 8;
    switch (l->scale) {
    case SCALE_D: *bytes = 0; return (size_t)b / (size_t)l->group * 32;
    case SCALE_NIBBLE: *bytes = group * 96 + 32 + in / 2 * 16; return group * 96;
    case SCALE_BYTE: case SCALE_PAIR: *bytes = group * 160 + 32 + in * 16; return group * 160;
    case SCALE_BYTES: *bytes = group * 288 + 32 + in * 32; return group * 288;
    case SCALE_MIN: *bytes = group * 320 + 64 + in * 32; return group * 320;
    case SCALE_E8: *bytes = (size_t)b * 16; return 0;
    default: *bytes = (size_t)b * 32; return 0;
    }
}

static void put_scales(const code_layout *l, uint8_t *panel, int64_t b, int r, const part *x) {
    size_t bytes, d = scale_place(l, b, &bytes);
    if (l->scale != SCALE_E8 && l->scale != SCALE_E4) put16(panel + d, r, x->d);
    if (l->scale == SCALE_MIN) put16(panel + d + 32, r, x->m);
    if (l->scale == SCALE_NIBBLE) panel[bytes + (size_t)r] |= (uint8_t)(x->s[0] << b % 2 * 4);
    else if (l->scale != SCALE_D) panel[bytes + (size_t)r] = x->s[0];
    if (l->scale == SCALE_BYTES || l->scale == SCALE_MIN || l->scale == SCALE_E4) panel[bytes + 16 + (size_t)r] = x->s[1];
}

// Offsets in a grid's area.
static int grid_signs(const code_layout *l) { return l->numbers == CODE_GRID4 ? 128 : 64; }
static int grid_high(const code_layout *l) { return grid_signs(l) + (l->shift ? 0 : 64); }
static int grid_shift(const code_layout *l) { return grid_high(l) + grid_signs(l) / 16 * l->high * 2; }

static void put_grid(const code_layout *l, uint8_t *area, int r, const part *x) {
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
static void put_masks(uint8_t *masks, int r, const uint8_t q[32], int from) {
    for (int c = 0; c < 8; c++, q += 4)
        masks[c * 8 + r / 2] |= (uint8_t)((q[0] >> from & 1) << r % 2 * 4 | (q[1] >> from & 1) << (r % 2 * 4 + 1) | (q[2] >> from & 1) << (r % 2 * 4 + 2) | (q[3] >> from & 1) << (r % 2 * 4 + 3));
}

static void put_numbers(const code_layout *l, uint8_t *area, int64_t b, int r, const part *x) {
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
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
        for (int i = 0; i < 32; i++) {
            int n = (int)(b % 8) * 8 + i / 4;
            uint8_t *to = area + n % 13 * 64 + r * 4 + i % 4;
            *to = (uint8_t)(*to + q[i] * pow3[4 - n / 13]);
        }
        break;
    default: put_grid(l, area, r, x); break;
    }
}

void cpu_code_pack_panel(cpu_format f, int64_t k, int n, const uint8_t *rows, size_t row_bytes, uint8_t *panel) {
    const code_layout *l = cpu_code(f);
    uint8_t *quants = panel + cpu_code_scale_bytes(f, k);
    memset(panel, 0, cpu_code_panel_bytes(f, k));
    for (int64_t b = 0; b < k / BLOCK; b++)
        for (int r = 0; r < n; r++) {
            part x = {.d = 0};
            get_part(l, rows + (size_t)r * row_bytes, b, &x);
            put_scales(l, panel, b, r, &x);
            put_numbers(l, quants + code_area(l, b), b, r, &x);
        }
    if (l->numbers == CODE_FIVE)
        for (size_t i = 0; i < (size_t)k / BLOCK * (size_t)l->bytes; i++) quants[i] = (uint8_t)((quants[i] * 256 + 242) / 243);
}

// The value of row r's column i of block b, without its scale.
static int value_at(const code_layout *l, const uint8_t *area, int64_t b, int r, int i) {
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
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

void cpu_code_unpack_row(cpu_format f, int64_t k, const uint8_t *panel, int r, float *dst) {
    const code_layout *l = cpu_code(f);
    const uint8_t *quants = panel + cpu_code_scale_bytes(f, k);
    for (int64_t b = 0; b < k / BLOCK; b++, dst += BLOCK) {
        size_t at, d_at = scale_place(l, b, &at);
        const uint8_t *s = panel + at + r;
        float d = quant_f16_to_f32(get16(panel + d_at, r)) * l->unit, two[2] = {d, d}, m = 0;
        switch (l->scale) {
        case SCALE_D: break;
        case SCALE_BYTE: two[0] = two[1] = d * (float)(int8_t)s[0]; break;
        case SCALE_NIBBLE: two[0] = two[1] = d * (float)(2 * (s[0] >> b % 2 * 4 & 15) + 1); break;
        case SCALE_E8: two[0] = two[1] = quant_e8m0_half(s[0]); break;
        default:
            for (int h = 0; h < 2; h++)
                two[h] = l->scale == SCALE_PAIR ? d * (float)(2 * (s[0] >> h * 4 & 15) + 1) : l->scale == SCALE_BYTES ? d * (float)(int8_t)s[16 * h] : l->scale == SCALE_MIN ? d * (float)(s[16 * h] & 15) : quant_ue4m3_half(s[16 * h]);
        }
        for (int i = 0; i < BLOCK; i++) {
            if (l->scale == SCALE_MIN) m = quant_f16_to_f32(get16(panel + d_at + 32, r)) * (float)(s[i / 16 * 16] >> 4);
            dst[i] = two[i / 16] * (float)value_at(l, quants + code_area(l, b), b, r, i) - m;
        }
    }
}
