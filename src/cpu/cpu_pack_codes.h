// cpu/pack_codes: panels of short codes out of sixteen whole rows: the part of cpu_pack_rows.h, which includes this, that is theirs. What it asks of its includer serves here
// too. Layouts: cpu_codes.h.
#pragma once

typedef uint8_t row_bytes16[PANEL]; // a byte of each row

// Bit i of each byte as 16 bits.
static inline void put_bit(uint8_t *to, const row_bytes16 x, int i) {
    for (int h = 0; h < 2; h++) to[h] = cpu_bit_of_bytes(x + 8 * h, i);
}

// ---- one to four bits -----------------------------------------------------------------------------------------------------

static void panel_iq4_xs(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_IQ4_XS, k));
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_iq4_xs)) {
        scales_xs(rows, stride, panel + g * 160);
        for (int j = 0; j < 8; j++, area += 256) same_nibbles(rows + offsetof(block_iq4_xs, qs) + j * 16, stride, area);
    }
}

// Eight bytes hold 16 columns of one scale, the first eight in their lower halves.
static void panel_nvfp4(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_NVFP4, k));
    for (int64_t b = 0; b < k / BLOCK; b++, area += 256) {
        const uint8_t *at = rows + b / 2 * (int64_t)sizeof(block_nvfp4);
        rows16 c[4];
        for (int h = 0; h < 2; h++) put_bytes(panel + b * 32 + h * 16, at + b % 2 * 2 + h, stride);
        columns(at + offsetof(block_nvfp4, qs) + b % 2 * 16, stride, c);
        for (int i = 0; i < 2; i++) {
            put(area + i * 64, both_low(c[i], c[2 + i]));
            put(area + 128 + i * 64, both_high(c[i], c[2 + i]));
        }
    }
}

static void panel_q2_k(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q2_K, k)), *to = panel;
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_q2_K), to += 320) {
        rows16 s[4];
        put_halves(to, rows + offsetof(block_q2_K, d), stride);
        put_halves(to + 32, rows + offsetof(block_q2_K, dmin), stride);
        columns(rows + offsetof(block_q2_K, scales), stride, s);
        for (int i = 0; i < 4; i++) put(to + 64 + i * 64, byte_columns(s[i]));
        for (int half = 0; half < 2; half++, area += 4 * 128) pair_panels(rows + offsetof(block_q2_K, qs) + half * 32, stride, area, 128);
    }
}

static void panel_tq2_0(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TQ2_0, k));
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_tq2_0)) {
        put_halves(panel + g * 32, rows + offsetof(block_tq2_0, d), stride);
        for (int half = 0; half < 2; half++, area += 4 * 128) pair_panels(rows + half * 32, stride, area, 128);
    }
}

// Of a row's eight bytes each has four neighbours, in pairs of bits that go to four bytes.
static inline void neighbour_pairs(const rows16 x[2], uint8_t *area) {
    uint32_t from[2][PANEL], to[2][PANEL] = {{0}};
    for (int i = 0; i < 2; i++) put((uint8_t *)from[i], x[i]);
    for (int m = 0; m < 8; m++)
        for (int r = 0; r < PANEL; r++) {
            uint32_t four = from[m / 4][r] >> m % 4 * 8 & 255;
            four |= four << 12;
            four |= four << 6;
            to[m % 2][r] |= (four & 0x03030303) << m / 2 * 2;
        }
    memcpy(area, to, sizeof to);
}

static void panel_q2_0(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q2_0, k));
    for (int64_t g = 0; g < k / 64; g++, rows += sizeof(block_q2_0), area += 2 * 128) {
        rows16 c[4];
        put_halves(panel + g * 32, rows, stride);
        columns(rows + offsetof(block_q2_0, qs), stride, c);
        for (int j = 0; j < 2; j++) neighbour_pairs(c + 2 * j, area + j * 128);
    }
}

static void panel_q1_0(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q1_0, k));
    for (int64_t g = 0; g < k / 128; g++, rows += sizeof(block_q1_0), area += 4 * 64) {
        put_halves(panel + g * 32, rows, stride);
        for (int j = 0; j < 4; j++) cpu_masks_put(area + j * 64, PANEL, rows + offsetof(block_q1_0, qs) + j * 4, stride);
    }
}

// Of the file's 13 fours of bytes eight have each five fours of columns that are eight fours apart, four such that are four apart, and one the last four fours. A number
// is taken off its byte and added up where the panel has it.
static void panel_tq1_0(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    enum { AREA = 13 * 64 };
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_TQ1_0, k));
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_tq1_0), area += AREA) {
        rows16 x[4];
        uint8_t bytes[64];
        memset(area, 0, AREA);
        put_halves(panel + g * 32, rows + offsetof(block_tq1_0, d), stride);
        for (int c = 0; c < 13; c++) {
            if (c < 12 && c % 4 == 0) columns(rows + c * 4, stride, x);
            if (c < 12) put(bytes, x[c % 4]);
            else
                for (int r = 0; r < PANEL; r++) memcpy(bytes + 4 * r, rows + (size_t)r * stride + offsetof(block_tq1_0, qh), 4);
            for (int t = 0; t < (c < 12 ? 5 : 4); t++) {
                const int n = c < 8 ? 8 * t + c : c < 12 ? 40 + 4 * t + c - 8 : 60 + t;
                const uint8_t one = cpu_pow3[4 - n / 13];
                uint8_t *to = area + n % 13 * 64;
                for (int i = 0; i < 64; i++) {
                    to[i] = (uint8_t)(to[i] + (bytes[i] > 85 ? one : 0) + (bytes[i] > 170 ? one : 0));
                    bytes[i] = (uint8_t)(bytes[i] * 3);
                }
            }
        }
        for (int i = 0; i < AREA; i++) area[i] = code_fraction(area[i]);
    }
}

static void panel_q3_k(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_Q3_K, k)), *to = panel;
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_q3_K), to += 288, area += 8 * 192) {
        rows16 h[8]; // a bit for each block
        put_halves(to, rows + offsetof(block_q3_K, d), stride);
        for (int n = 0; n < 16; n++) {
            row_bytes16 low, high;
            put_bytes(low, rows + offsetof(block_q3_K, scales) + n % 8, stride);
            put_bytes(high, rows + offsetof(block_q3_K, scales) + 8 + n % 4, stride);
            for (int r = 0; r < PANEL; r++) to[32 + n * 16 + r] = (uint8_t)(((low[r] >> n / 8 * 4 & 15) | (high[r] >> n / 4 * 2 & 3) << 4) - 32);
        }
        columns(rows, stride, h);
        columns(rows + 16, stride, h + 4);
        for (int half = 0; half < 2; half++) pair_panels(rows + offsetof(block_q3_K, qs) + half * 32, stride, area + half * 4 * 192, 192);
        for (int j = 0; j < 8; j++) put_masks(area + j * 192 + 128, h, j);
    }
}

// ---- entries of grids -----------------------------------------------------------------------------------------------------

// Seven signs in each of four bytes, and an eighth that makes their number even (quant_even_signs).
static inline uint32_t even_signs(uint32_t seven) {
    uint32_t odd = seven ^ seven >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return seven | (odd & 0x01010101) << 7;
}

// A dword of each row: four times seven signs, and the four bits of a scale, which go to the bytes' lower halves or, beside those, to their upper ones.
static inline void put_seven_signs(uint8_t *to, rows16 x, uint8_t *scale, bool upper) {
    uint32_t words[PANEL];
    put((uint8_t *)words, x);
    for (int r = 0; r < PANEL; r++) {
        const uint32_t w = words[r];
        scale[r] = (uint8_t)(upper ? scale[r] | w >> 28 << 4 : w >> 28);
        words[r] = even_signs((w & 0x7f) | (w << 1 & 0x7f00) | (w << 2 & 0x7f0000) | (w << 3 & 0x7f000000));
    }
    cpu_masks_put(to, PANEL, words, 4);
}

static void panel_iq2_xxs(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_IQ2_XXS, k)), *to = panel;
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_iq2_xxs), to += 96) {
        put_halves(to, rows, stride);
        for (int j = 0; j < 8; j += 2) {
            rows16 c[4];
            columns(rows + offsetof(block_iq2_xxs, qs) + j * 8, stride, c);
            for (int h = 0; h < 2; h++, area += 128) {
                put(area, byte_columns(c[2 * h]));
                put_seven_signs(area + 64, c[2 * h + 1], to + 32 + j / 2 * 16, h);
            }
        }
    }
}

static void panel_iq2_xs(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_IQ2_XS, k)), *to = panel;
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_iq2_xs), to += 160) {
        put_halves(to, rows, stride);
        for (int j = 0; j < 8; j++, area += 136) {
            rows16 c[4];
            row_bytes16 x[8]; // a low and a high byte for each eight columns: nine bits of an index and seven signs
            uint32_t words[2][PANEL];
            if (j % 2 == 0) columns(rows + offsetof(block_iq2_xs, qs) + j * 8, stride, c);
            for (int h = 0; h < 2; h++) {
                put(x[4 * h], byte_columns(c[j % 2 * 2 + h]));
                put((uint8_t *)words[h], c[j % 2 * 2 + h]);
            }
            put_bytes(to + 32 + j * 16, rows + offsetof(block_iq2_xs, scales) + j, stride);
            for (int i = 0; i < 4; i++) {
                memcpy(area + i * 16, x[2 * i], PANEL);
                put_bit(area + 128 + i * 2, x[2 * i + 1], 0);
            }
            for (int r = 0; r < PANEL; r++) {
                const uint32_t low = words[0][r], high = words[1][r];
                words[0][r] = even_signs((low >> 9 & 0x7f) | (low >> 17 & 0x7f00) | (high << 7 & 0x7f0000) | (high >> 1 & 0x7f000000));
            }
            cpu_masks_put(area + 64, PANEL, words[0], 4);
        }
    }
}

static void panel_iq2_s(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_IQ2_S, k)), *to = panel;
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_iq2_s), to += 160) {
        put_halves(to, rows, stride);
        for (int j = 0; j < 8; j++, area += 144) {
            rows16 c[4];
            row_bytes16 high;
            if (j % 4 == 0) columns(rows + offsetof(block_iq2_s, qs) + j * 4, stride, c);
            put(area, byte_columns(c[j % 4]));
            cpu_masks_put(area + 64, PANEL, rows + offsetof(block_iq2_s, qs) + 32 + j * 4, stride);
            put_bytes(high, rows + offsetof(block_iq2_s, qh) + j, stride);
            for (int i = 0; i < 8; i++) put_bit(area + 128 + i * 2, high, i);
            put_bytes(to + 32 + j * 16, rows + offsetof(block_iq2_s, scales) + j, stride);
        }
    }
}

static void panel_iq3_xxs(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_IQ3_XXS, k)), *to = panel;
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_iq3_xxs), to += 96) {
        put_halves(to, rows, stride);
        for (int j = 0; j < 8; j++, area += 192) {
            rows16 c[4], s[4];
            if (j % 2 == 0) columns(rows + offsetof(block_iq3_xxs, qs) + j * 8, stride, c);
            if (j % 4 == 0) columns(rows + offsetof(block_iq3_xxs, qs) + 64 + j * 4, stride, s);
            for (int h = 0; h < 2; h++) put(area + h * 64, byte_columns(c[j % 2 * 2 + h]));
            put_seven_signs(area + 128, s[j % 4], to + 32 + j / 2 * 16, j % 2);
        }
    }
}

static void panel_iq3_s(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_IQ3_S, k)), *to = panel;
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_iq3_s), to += 96) {
        put_halves(to, rows, stride);
        for (int i = 0; i < 4; i++) put_bytes(to + 32 + i * 16, rows + offsetof(block_iq3_s, scales) + i, stride);
        for (int j = 0; j < 8; j++, area += 208) {
            rows16 c[4];
            row_bytes16 high;
            if (j % 2 == 0) columns(rows + offsetof(block_iq3_s, qs) + j * 8, stride, c);
            for (int h = 0; h < 2; h++) put(area + h * 64, byte_columns(c[j % 2 * 2 + h]));
            cpu_masks_put(area + 128, PANEL, rows + offsetof(block_iq3_s, signs) + j * 4, stride);
            put_bytes(high, rows + offsetof(block_iq3_s, qh) + j, stride);
            for (int i = 0; i < 8; i++) put_bit(area + 192 + i * 2, high, i);
        }
    }
}

static void panel_iq1_s(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_IQ1_S, k)), *to = panel;
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_iq1_s), to += 96) {
        rows16 h[4];
        put_halves(to, rows, stride);
        columns(rows + offsetof(block_iq1_s, qh), stride, h);
        for (int j = 0; j < 8; j++, area += 96) {
            rows16 c[4];
            row_bytes16 x[4]; // 16 bits of two blocks: three for each eight columns, the scale, the shift
            if (j % 4 == 0) columns(rows + offsetof(block_iq1_s, qs) + j * 4, stride, c);
            put(area, byte_columns(c[j % 4]));
            put(x[0], byte_columns(h[j / 2]));
            const row_bytes16 *own = &x[j % 2 * 2];
            for (int i = 0; i < 12; i++) put_bit(area + 64 + i * 2, own[i / 8], i % 8);
            for (int i = 0; i < 4; i++) put_bit(area + 88 + i * 2, own[1], 7);
            uint8_t *scale = to + 32 + j / 2 * 16;
            for (int r = 0; r < PANEL; r++) scale[r] = (uint8_t)(j % 2 ? scale[r] | (own[1][r] & 0x70) : own[1][r] >> 4 & 7);
        }
    }
}

static void panel_iq1_m(int64_t k, const uint8_t *rows, size_t stride, uint8_t *panel) {
    uint8_t *area = quants(panel, cpu_scale_bytes(CPU_IQ1_M, k)), *to = panel;
    for (int64_t g = 0; g < k / 256; g++, rows += sizeof(block_iq1_m), to += 160) {
        rows16 h[4];
        for (int r = 0; r < PANEL; r++) { // 4 times four scales of three bits, and four bits of d
            uint16_t s[4], d = 0;
            memcpy(s, rows + offsetof(block_iq1_m, scales) + (size_t)r * stride, 8);
            for (int i = 0; i < 4; i++) d = (uint16_t)(d | s[i] >> 12 << 4 * i);
            memcpy(to + 2 * r, &d, 2);
            for (int j = 0; j < 8; j++) to[32 + j * 16 + r] = (uint8_t)((s[j / 2] >> j % 2 * 6 & 7) | (s[j / 2] >> (j % 2 * 6 + 3) & 7) << 4);
        }
        columns(rows + offsetof(block_iq1_m, qh), stride, h);
        for (int j = 0; j < 8; j++, area += 96) {
            rows16 c[4];
            row_bytes16 x[4]; // of two blocks: three bits and a shift for each eight columns
            if (j % 4 == 0) columns(rows + j * 4, stride, c);
            put(area, byte_columns(c[j % 4]));
            put(x[0], byte_columns(h[j / 2]));
            for (int i = 0; i < 4; i++) {
                const uint8_t *own = x[j % 2 * 2 + i / 2];
                for (int b = 0; b < 3; b++) put_bit(area + 64 + (i * 3 + b) * 2, own, i % 2 * 4 + b);
                put_bit(area + 88 + i * 2, own, i % 2 * 4 + 3);
            }
        }
    }
}

static void fill_pack_codes(cpu_kernels *k) {
    k->pack[CPU_IQ4_NL] = panel_q4_0; // the same fields
    k->pack[CPU_MXFP4] = panel_mxfp4;
    k->pack[CPU_IQ4_XS] = panel_iq4_xs;
    k->pack[CPU_NVFP4] = panel_nvfp4;
    k->pack[CPU_Q2_K] = panel_q2_k;
    k->pack[CPU_TQ1_0] = panel_tq1_0;
    k->pack[CPU_TQ2_0] = panel_tq2_0;
    k->pack[CPU_Q2_0] = panel_q2_0;
    k->pack[CPU_Q1_0] = panel_q1_0;
    k->pack[CPU_Q3_K] = panel_q3_k;
    k->pack[CPU_IQ2_XXS] = panel_iq2_xxs;
    k->pack[CPU_IQ2_XS] = panel_iq2_xs;
    k->pack[CPU_IQ2_S] = panel_iq2_s;
    k->pack[CPU_IQ3_XXS] = panel_iq3_xxs;
    k->pack[CPU_IQ3_S] = panel_iq3_s;
    k->pack[CPU_IQ1_S] = panel_iq1_s;
    k->pack[CPU_IQ1_M] = panel_iq1_m;
    for (cpu_format f = CPU_CODE_FIRST; f <= CPU_CODE_LAST; f++) k->pack[CPU_TILE_CODE + f - CPU_CODE_FIRST] = k->pack[f]; // tiles keep them in the same order
}
