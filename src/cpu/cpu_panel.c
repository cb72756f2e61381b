// cpu/panel: the one reading of the file's integer blocks that packing has, and how scale areas and numbers in the int8 order lie in a panel, in and out.
#include "cpu/cpu_panel.h"

// ---- out of the file ------------------------------------------------------------------------------------------------------

// The lower halves of n bytes, then their upper halves.
static void nibbles(const uint8_t *qs, int n, uint8_t *q) {
    for (int i = 0; i < n; i++) {
        q[i] = qs[i] & 15;
        q[i + n] = qs[i] >> 4;
    }
}

// One bit of a mask beside each number.
static void fifth_bits(const uint8_t mask[4], uint8_t q[BLOCK]) {
    for (int i = 0; i < BLOCK; i++) q[i] |= (uint8_t)((mask[i / 8] >> i % 8 & 1) << 4);
}

static void get_simple(uint32_t type, const uint8_t *row, int64_t b, cpu_part *o) {
    switch (type) {
    case QUANT_Q8_0: {
        const block_q8_0 *x = (const block_q8_0 *)row + b;
        o->d = x->d;
        for (int i = 0; i < BLOCK; i++) o->q[i] = (uint8_t)(x->qs[i] + 128);
        break;
    }
    case QUANT_Q4_0: case QUANT_IQ4_NL: { // the same fields
        const block_q4_0 *x = (const block_q4_0 *)row + b;
        o->d = x->d;
        nibbles(x->qs, 16, o->q);
        break;
    }
    case QUANT_Q4_1: {
        const block_q4_1 *x = (const block_q4_1 *)row + b;
        o->d = x->d;
        o->m = x->m;
        nibbles(x->qs, 16, o->q);
        break;
    }
    case QUANT_Q5_0: {
        const block_q5_0 *x = (const block_q5_0 *)row + b;
        o->d = x->d;
        nibbles(x->qs, 16, o->q);
        fifth_bits(x->qh, o->q);
        break;
    }
    case QUANT_Q5_1: {
        const block_q5_1 *x = (const block_q5_1 *)row + b;
        o->d = x->d;
        o->m = x->m;
        nibbles(x->qs, 16, o->q);
        fifth_bits(x->qh, o->q);
        break;
    }
    case QUANT_MXFP4: {
        const block_mxfp4 *x = (const block_mxfp4 *)row + b;
        o->s[0] = x->e;
        nibbles(x->qs, 16, o->q);
        break;
    }
    case QUANT_NVFP4: {
        const block_nvfp4 *x = (const block_nvfp4 *)row + b / 2;
        for (int h = 0; h < 2; h++) {
            o->s[h] = x->d[b % 2 * 2 + h];
            nibbles(x->qs + (b % 2 * 2 + h) * 8, 8, o->q + h * 16);
        }
        break;
    }
    case QUANT_Q2_0: {
        const block_q2_0 *x = (const block_q2_0 *)row + b / 2;
        o->d = x->d;
        for (int i = 0; i < BLOCK; i++) o->q[i] = x->qs[b % 2 * 8 + i / 4] >> i % 4 * 2 & 3;
        break;
    }
    default: { // Q1_0
        const block_q1_0 *x = (const block_q1_0 *)row + b / 4;
        o->d = x->d;
        for (int i = 0; i < BLOCK; i++) o->q[i] = x->qs[b % 4 * 4 + i / 8] >> i % 8 & 1;
    }
    }
}

// Blocks of 256 columns with scales of 16 or 32; j counts blocks of 32.
static void get_k(uint32_t type, const uint8_t *row, int64_t group, int j, cpu_part *o) {
    switch (type) {
    case QUANT_Q2_K: {
        const block_q2_K *x = (const block_q2_K *)row + group;
        o->d = x->d;
        o->m = x->dmin;
        memcpy(o->s, x->scales + 2 * j, 2);
        for (int i = 0; i < BLOCK; i++) o->q[i] = x->qs[j / 4 * 32 + i] >> j % 4 * 2 & 3;
        break;
    }
    case QUANT_Q3_K: {
        const block_q3_K *x = (const block_q3_K *)row + group;
        o->d = x->d;
        for (int h = 0; h < 2; h++) {
            int n = 2 * j + h;
            o->s[h] = (uint8_t)(((x->scales[n % 8] >> n / 8 * 4 & 15) | (x->scales[8 + n % 4] >> n / 4 * 2 & 3) << 4) - 32);
        }
        for (int i = 0; i < BLOCK; i++) o->q[i] = (uint8_t)((x->qs[j / 4 * 32 + i] >> j % 4 * 2 & 3) | (x->hmask[i] >> j & 1) << 2);
        break;
    }
    case QUANT_Q4_K: {
        const block_q4_K *x = (const block_q4_K *)row + group;
        o->d = x->d;
        o->m = x->dmin;
        quant_k4_scale_min(x->scales, j, &o->s[0], &o->s[1]);
        for (int i = 0; i < BLOCK; i++) o->q[i] = x->qs[j / 2 * 32 + i] >> j % 2 * 4 & 15;
        break;
    }
    case QUANT_Q5_K: {
        const block_q5_K *x = (const block_q5_K *)row + group;
        o->d = x->d;
        o->m = x->dmin;
        quant_k4_scale_min(x->scales, j, &o->s[0], &o->s[1]);
        for (int i = 0; i < BLOCK; i++) o->q[i] = (uint8_t)((x->qs[j / 2 * 32 + i] >> j % 2 * 4 & 15) | (x->qh[i] >> j & 1) << 4);
        break;
    }
    case QUANT_Q6_K: { // halves of 128 columns, four blocks of 32 each
        const block_q6_K *x = (const block_q6_K *)row + group;
        o->d = x->d;
        memcpy(o->s, x->scales + 2 * j, 2);
        for (int i = 0; i < BLOCK; i++) o->q[i] = (uint8_t)((x->ql[j / 4 * 64 + j % 2 * 32 + i] >> j % 4 / 2 * 4 & 15) | (x->qh[j / 4 * 32 + i] >> j % 4 * 2 & 3) << 4);
        break;
    }
    case QUANT_IQ4_XS: {
        const block_iq4_xs *x = (const block_iq4_xs *)row + group;
        o->d = x->d;
        o->s[0] = (uint8_t)(((x->scales_l[j / 2] >> j % 2 * 4 & 15) | (x->scales_h >> 2 * j & 3) << 4) - 32);
        nibbles(x->qs + j * 16, 16, o->q);
        break;
    }
    case QUANT_TQ1_0: { // 32 bytes of five numbers 32 apart, 16 of five 16 apart, 4 of four 4 apart
        const block_tq1_0 *x = (const block_tq1_0 *)row + group;
        o->d = x->d;
        for (int i = 0; i < BLOCK; i++) {
            int e = j * 32 + i, t = e < 160 ? e / 32 : e < 240 ? (e - 160) / 16 : (e - 240) / 4;
            uint8_t byte = e < 160 ? x->qs[e % 32] : e < 240 ? x->qs[32 + (e - 160) % 16] : x->qh[(e - 240) % 4];
            o->q[i] = (uint8_t)((uint8_t)(byte * cpu_pow3[t]) * 3 >> 8);
        }
        break;
    }
    default: { // TQ2_0
        const block_tq2_0 *x = (const block_tq2_0 *)row + group;
        o->d = x->d;
        for (int i = 0; i < BLOCK; i++) o->q[i] = x->qs[j / 4 * 32 + i] >> j % 4 * 2 & 3;
    }
    }
}

// Blocks of 256 columns that are entries of a grid.
static void get_grid(uint32_t type, const uint8_t *row, int64_t group, int j, cpu_part *o) {
    switch (type) {
    case QUANT_IQ2_XXS: {
        const block_iq2_xxs *x = (const block_iq2_xxs *)row + group;
        const uint16_t *q = x->qs + 4 * j;
        uint32_t aux = q[2] | (uint32_t)q[3] << 16;
        o->d = x->d;
        o->s[0] = (uint8_t)(aux >> 28);
        for (int g = 0; g < 4; g++) {
            o->index[g] = q[g / 2] >> g % 2 * 8 & 255;
            o->signs[g] = quant_even_signs(aux >> 7 * g & 127);
        }
        break;
    }
    case QUANT_IQ2_XS: {
        const block_iq2_xs *x = (const block_iq2_xs *)row + group;
        o->d = x->d;
        o->s[0] = x->scales[j];
        for (int g = 0; g < 4; g++) {
            o->index[g] = x->qs[4 * j + g] & 511;
            o->signs[g] = quant_even_signs(x->qs[4 * j + g] >> 9);
        }
        break;
    }
    case QUANT_IQ2_S: {
        const block_iq2_s *x = (const block_iq2_s *)row + group;
        o->d = x->d;
        o->s[0] = x->scales[j];
        for (int g = 0; g < 4; g++) {
            o->index[g] = (uint16_t)(x->qs[4 * j + g] | (x->qh[j] >> g * 2 & 3) << 8);
            o->signs[g] = x->qs[32 + 4 * j + g];
        }
        break;
    }
    case QUANT_IQ3_XXS: {
        const block_iq3_xxs *x = (const block_iq3_xxs *)row + group;
        uint32_t aux;
        memcpy(&aux, x->qs + 64 + 4 * j, 4);
        o->d = x->d;
        o->s[0] = (uint8_t)(aux >> 28);
        for (int c = 0; c < 8; c++) o->index[c] = x->qs[8 * j + c];
        for (int g = 0; g < 4; g++) o->signs[g] = quant_even_signs(aux >> 7 * g & 127);
        break;
    }
    case QUANT_IQ3_S: {
        const block_iq3_s *x = (const block_iq3_s *)row + group;
        o->d = x->d;
        o->s[0] = x->scales[j / 2] >> j % 2 * 4 & 15;
        for (int c = 0; c < 8; c++) o->index[c] = (uint16_t)(x->qs[8 * j + c] | (x->qh[j] >> c & 1) << 8);
        memcpy(o->signs, x->signs + 4 * j, 4);
        break;
    }
    case QUANT_IQ1_S: {
        const block_iq1_s *x = (const block_iq1_s *)row + group;
        o->d = x->d;
        o->s[0] = x->qh[j] >> 12 & 7;
        for (int g = 0; g < 4; g++) {
            o->index[g] = (uint16_t)(x->qs[4 * j + g] | (x->qh[j] >> g * 3 & 7) << 8);
            o->shift[g] = x->qh[j] >> 15;
        }
        break;
    }
    default: { // IQ1_M
        const block_iq1_m *x = (const block_iq1_m *)row + group;
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
    }
}

void cpu_part_get(uint32_t type, const uint8_t *row, int64_t b, cpu_part *o) {
    switch (type) {
    case QUANT_Q2_K: case QUANT_Q3_K: case QUANT_Q4_K: case QUANT_Q5_K: case QUANT_Q6_K: case QUANT_IQ4_XS: case QUANT_TQ1_0: case QUANT_TQ2_0:
        get_k(type, row, b / 8, (int)(b % 8), o);
        break;
    case QUANT_IQ1_S: case QUANT_IQ1_M: case QUANT_IQ2_XXS: case QUANT_IQ2_XS: case QUANT_IQ2_S: case QUANT_IQ3_XXS: case QUANT_IQ3_S:
        get_grid(type, row, b / 8, (int)(b % 8), o);
        break;
    default: get_simple(type, row, b, o); break;
    }
}

// ---- scale areas ----------------------------------------------------------------------------------------------------------

// For each group of blocks of 32 columns: half floats of 16 rows, so many times; then for each of the blocks bytes of 16 rows, so many times, or (NIBBLE) for two of them once.
static const struct { uint8_t blocks, halves, bytes; } areas[] = {
    [SCALE_NONE] = {1, 0, 0}, [SCALE_D] = {1, 1, 0},    [SCALE_DM] = {1, 2, 0},    [SCALE_K4] = {8, 2, 2},  [SCALE_BYTE] = {8, 1, 1}, [SCALE_NIBBLE] = {8, 1, 1},
    [SCALE_E8] = {1, 0, 1},   [SCALE_PAIR] = {8, 1, 1}, [SCALE_BYTES] = {8, 1, 2}, [SCALE_MIN] = {8, 2, 2}, [SCALE_E4] = {1, 0, 2},
};

static uint32_t blocks_of(cpu_scale kind, int group) { return kind == SCALE_D ? (uint32_t)group : areas[kind].blocks; }
static size_t group_bytes(cpu_scale kind, uint32_t blocks) { return (size_t)areas[kind].halves * 32 + (size_t)blocks * areas[kind].bytes * 16 / (kind == SCALE_NIBBLE ? 2 : 1); }

size_t cpu_scale_area(cpu_scale kind, int group, int64_t k) {
    const uint32_t blocks = blocks_of(kind, group);
    return ((size_t)k / BLOCK / blocks * group_bytes(kind, blocks) + 63) & ~(size_t)63;
}

// Where block b's half floats begin, and in *bytes its bytes.
static size_t place(cpu_scale kind, int group, int64_t b, size_t *bytes) {
    const uint32_t blocks = blocks_of(kind, group), in = (uint32_t)b % blocks; // a row has far fewer than 2^32
    const size_t at = (uint32_t)b / blocks * group_bytes(kind, blocks);
    *bytes = at + (size_t)areas[kind].halves * 32 + (size_t)(kind == SCALE_NIBBLE ? in / 2 : in) * areas[kind].bytes * 16;
    return at;
}

static float half_at(const uint8_t *p, int r) {
    uint16_t v;
    memcpy(&v, p + 2 * r, 2);
    return quant_f16_to_f32(v);
}

void cpu_scale_put(cpu_scale kind, int group, uint8_t *area, int64_t b, int n, const cpu_part *rows) {
    size_t bytes, at = place(kind, group, b, &bytes);
    for (int r = 0; r < n; r++) {
        if (areas[kind].halves > 0) memcpy(area + at + 2 * r, &rows[r].d, 2);
        if (areas[kind].halves > 1) memcpy(area + at + 32 + 2 * r, &rows[r].m, 2);
        if (kind == SCALE_NIBBLE) area[bytes + (size_t)r] |= (uint8_t)(rows[r].s[0] << b % 2 * 4);
        else
            for (int i = 0; i < areas[kind].bytes; i++) area[bytes + (size_t)(16 * i + r)] = rows[r].s[i];
    }
}

void cpu_scale_get(cpu_scale kind, int group, float unit, const uint8_t *area, int64_t b, int r, float d[2], float m[2]) {
    size_t bytes, at = place(kind, group, b, &bytes);
    const uint8_t *s = area + bytes + r;
    const float f = areas[kind].halves > 0 ? half_at(area + at, r) * unit : unit, g = areas[kind].halves > 1 ? half_at(area + at + 32, r) : 0;
    for (int h = 0; h < 2; h++) {
        m[h] = 0;
        switch (kind) {
        case SCALE_NONE: case SCALE_D: d[h] = f; break;
        case SCALE_DM:
            d[h] = f;
            m[h] = -g;
            break;
        case SCALE_K4:
            d[h] = f * s[0];
            m[h] = g * s[16];
            break;
        case SCALE_BYTE: d[h] = f * (int8_t)s[0]; break;
        case SCALE_NIBBLE: d[h] = f * (float)(2 * (s[0] >> b % 2 * 4 & 15) + 1); break;
        case SCALE_E8: d[h] = quant_e8m0_half(s[0]); break;
        case SCALE_PAIR: d[h] = f * (float)(2 * (s[0] >> h * 4 & 15) + 1); break;
        case SCALE_BYTES: d[h] = f * (int8_t)s[16 * h]; break;
        case SCALE_MIN:
            d[h] = f * (float)(s[16 * h] & 15);
            m[h] = g * (float)(s[16 * h] >> 4);
            break;
        case SCALE_E4: d[h] = quant_ue4m3_half(s[16 * h]); break;
        }
    }
}

// ---- numbers in the int8 order --------------------------------------------------------------------------------------------

// Bits from `from` on, `width` (8, 4, 2) of them, of 32 columns of a row.
static inline __attribute__((always_inline)) void put_width(int width, int from, uint8_t *area, int r, const uint8_t q[BLOCK]) {
    for (int i = 0; i < 4 * width; i++) {
        unsigned x = 0;
        for (int t = 0; t < 8 / width; t++) x |= (q[t * 4 * width + i] >> from & ((1u << width) - 1)) << t * width;
        area[i / 4 * 64 + r * 4 + i % 4] = (uint8_t)x;
    }
}

void cpu_numbers_put(int bits, uint8_t *area, int n, const cpu_part *rows) {
    const int two = bits & 4, one = bits & 6; // how many bits of a number lie before its pair, and before its single one
    for (int r = 0; r < n; r++) {
        if (bits & 8) put_width(8, 0, area, r, rows[r].q);
        if (bits & 4) put_width(4, 0, area, r, rows[r].q);
        if (bits & 2) put_width(2, two, area + two * 64, r, rows[r].q);
    }
    if (!(bits & 1)) return;
    uint8_t words[PANEL][4];
    for (int r = 0; r < n; r++)
        for (int i = 0; i < 4; i++) words[r][i] = cpu_bit_of_bytes(rows[r].q + 8 * i, one);
    cpu_masks_put(area + one * 64, n, words, 4);
}

void cpu_numbers_get(int bits, const uint8_t *area, int r, uint8_t q[BLOCK]) {
    const uint32_t word = bits & 1 ? cpu_masks_get(area + (bits & 6) * 64, r) : 0;
    for (int c = 0; c < 8; c++) { // four columns are the bytes of a dword
        uint32_t four = 0, x;
        int from = 0;
        for (int width = 8; width > 1; width /= 2) {
            if (!(bits & width)) continue;
            memcpy(&x, area + (from + c % width) * 64 + r * 4, 4);
            four |= (x >> c / width * width & 0x01010101u * ((1u << width) - 1)) << from;
            from += width;
        }
        if (bits & 1) four |= ((word >> 4 * c & 15) * 0x00204081 & 0x01010101) << from; // bit i to byte i
        memcpy(q + 4 * c, &four, 4);
    }
}
