// Decoders of the IQ formats: vectors of a grid, signs and small scales. Pure functions.
#include "quant/quant.h"
#include "quant/quant_decode.h"
#include "quant/quant_grids.h"

const uint8_t quant_grid_levels_iq2[4] = {8, 25, 43, 0};
const uint8_t quant_grid_levels_iq3_xxs[8] = {4, 12, 20, 28, 36, 44, 52, 62};

// 8 elements: d * grid value, the sign from bit i.
static void put_iq2(float *dst, float d, uint16_t grid, uint8_t signs) {
    for (int i = 0; i < 8; i++) {
        float v = d * (float)quant_grid_levels_iq2[grid >> 2 * i & 3];
        dst[i] = signs >> i & 1 ? -v : v;
    }
}

QUANT_DECODE(iq2_xxs) {
    const block_iq2_xxs *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++) {
        float d = quant_f16_to_f32(b->d);
        for (int j = 0; j < 8; j++) { // 32 elements in 8 bytes: four grid indices, then 4 x 7 bits of signs and 4 bits of scale
            const uint16_t *q = b->qs + 4 * j;
            uint32_t aux = q[2] | (uint32_t)q[3] << 16;
            float db = d * (0.5f + (float)(aux >> 28)) * 0.25f;
            for (int l = 0; l < 4; l++, dst += 8)
                put_iq2(dst, db, quant_grid_iq2_xxs[q[l / 2] >> l % 2 * 8 & 255], quant_even_signs(aux >> 7 * l & 127));
        }
    }
}

QUANT_DECODE(iq2_xs) {
    const block_iq2_xs *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++) {
        float d = quant_f16_to_f32(b->d);
        for (int l = 0; l < 32; l++, dst += 8) { // 9 bits of index, 7 of signs
            float db = d * (0.5f + (float)(b->scales[l / 4] >> l % 4 / 2 * 4 & 15)) * 0.25f;
            put_iq2(dst, db, quant_grid_iq2_xs[b->qs[l] & 511], quant_even_signs(b->qs[l] >> 9));
        }
    }
}

QUANT_DECODE(iq2_s) {
    const block_iq2_s *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++) {
        float d = quant_f16_to_f32(b->d);
        for (int l = 0; l < 32; l++, dst += 8) { // qs: 32 low index bytes, then 32 sign bytes
            float db = d * (0.5f + (float)(b->scales[l / 4] >> l % 4 / 2 * 4 & 15)) * 0.25f;
            put_iq2(dst, db, quant_grid_iq2_s[b->qs[l] | (b->qh[l / 4] >> l % 4 * 2 & 3) << 8], b->qs[32 + l]);
        }
    }
}

QUANT_DECODE(iq3_xxs) {
    const block_iq3_xxs *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++) {
        float d = quant_f16_to_f32(b->d);
        for (int j = 0; j < 8; j++) {
            uint32_t aux;
            memcpy(&aux, b->qs + 64 + 4 * j, 4);
            float db = d * (0.5f + (float)(aux >> 28)) * 0.5f;
            for (int i = 0; i < 32; i++) {
                uint16_t grid = quant_grid_iq3_xxs[b->qs[8 * j + i / 4]];
                float v = db * (float)quant_grid_levels_iq3_xxs[grid >> i % 4 * 4 & 7];
                *dst++ = quant_even_signs(aux >> i / 8 * 7 & 127) >> i % 8 & 1 ? -v : v;
            }
        }
    }
}

QUANT_DECODE(iq3_s) {
    const block_iq3_s *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++) {
        float d = quant_f16_to_f32(b->d);
        for (int i = 0; i < QUANT_K; i++) {
            float db = d * (float)(1 + 2 * (b->scales[i / 64] >> i % 64 / 32 * 4 & 15));
            uint16_t grid = quant_grid_iq3_s[b->qs[i / 4] | (b->qh[i / 32] >> i % 32 / 4 & 1) << 8];
            float v = db * (float)(1 + 2 * (grid >> i % 4 * 4 & 7));
            *dst++ = b->signs[i / 8] >> i % 8 & 1 ? -v : v;
        }
    }
}

static void put_iq1(float *dst, float d, uint16_t grid, float delta) {
    for (int i = 0; i < 8; i++) dst[i] = d * ((float)((grid >> 2 * i & 3) - 1) + delta);
}

QUANT_DECODE(iq1_s) {
    const block_iq1_s *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++) {
        float d = quant_f16_to_f32(b->d);
        for (int l = 0; l < 32; l++, dst += 8) {
            uint16_t h = b->qh[l / 4];
            put_iq1(dst, d * (float)(2 * (h >> 12 & 7) + 1), quant_grid_iq1[b->qs[l] | (h >> l % 4 * 3 & 7) << 8], h & 0x8000 ? -0.125f : 0.125f);
        }
    }
}

QUANT_DECODE(iq1_m) {
    const block_iq1_m *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++) {
        uint16_t sc[4];
        memcpy(sc, b->scales, 8);
        // The block's half-precision scale lies in the top 4 bits of the four scale words.
        float d = quant_f16_to_f32((uint16_t)(sc[0] >> 12 | (sc[1] >> 8 & 0xf0) | (sc[2] >> 4 & 0xf00) | (sc[3] & 0xf000)));
        for (int l = 0; l < 32; l++, dst += 8) {
            int h = b->qh[l / 2] >> l % 2 * 4 & 15;
            float dl = d * (float)(2 * (sc[l / 8] >> l % 8 / 2 * 3 & 7) + 1);
            put_iq1(dst, dl, quant_grid_iq1[b->qs[l] | (h & 7) << 8], h & 8 ? -0.125f : 0.125f);
        }
    }
}

QUANT_DECODE(iq4_nl) {
    const block_iq4_nl *b = src;
    for (size_t k = 0; k < n / 32; k++, b++, dst += 32) {
        float d = quant_f16_to_f32(b->d);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)quant_iq4_values[b->qs[i] & 15];
            dst[i + 16] = d * (float)quant_iq4_values[b->qs[i] >> 4];
        }
    }
}

QUANT_DECODE(iq4_xs) {
    const block_iq4_xs *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++)
        for (int j = 0; j < 8; j++, dst += 32) {
            int s = (b->scales_l[j / 2] >> j % 2 * 4 & 15) | (b->scales_h >> 2 * j & 3) << 4;
            float d = quant_f16_to_f32(b->d) * (float)(s - 32);
            for (int i = 0; i < 16; i++) {
                dst[i] = d * (float)quant_iq4_values[b->qs[16 * j + i] & 15];
                dst[i + 16] = d * (float)quant_iq4_values[b->qs[16 * j + i] >> 4];
            }
        }
}
