// Decoders of the 32-element, K, ternary and FP4 formats: slow, plain and exact. Pure functions.
// Each product is formed in the order the format's reference forms it (scale times number, then the offset), so that decoded
// float32 values are the same bits everywhere.
#include "quant/quant_decode.h"

#include "quant/quant.h"

const int8_t quant_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const int8_t quant_fp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

float quant_ue4m3_half(uint8_t x) {
    if (x == 0 || x == 0x7f) return 0;
    int exp = x >> 3 & 15, man = x & 7;
    if (exp == 0) return (float)man * 0x1p-10f;
    return quant_bits_f32((uint32_t)(exp + 119) << 23 | (uint32_t)man << 20); // (1 + man/8) 2^(exp - 8)
}

QUANT_DECODE(f32) { memcpy(dst, src, n * sizeof *dst); }

#define ELEMENTWISE(name, type, expr)                    \
    QUANT_DECODE(name) {                                 \
        for (size_t i = 0; i < n; i++) {                 \
            type v;                                      \
            memcpy(&v, (const char *)src + i * sizeof v, sizeof v); \
            dst[i] = expr;                               \
        }                                                \
    }
ELEMENTWISE(f16, uint16_t, quant_f16_to_f32(v))
ELEMENTWISE(bf16, uint16_t, quant_bf16_to_f32(v))
ELEMENTWISE(f64, double, (float)v)
ELEMENTWISE(i8, int8_t, (float)v)
ELEMENTWISE(i16, int16_t, (float)v)
ELEMENTWISE(i32, int32_t, (float)v)
ELEMENTWISE(i64, int64_t, (float)v)

QUANT_DECODE(q4_0) {
    const block_q4_0 *b = src;
    for (size_t k = 0; k < n / 32; k++, b++, dst += 32) {
        float d = quant_f16_to_f32(b->d);
        for (int i = 0; i < 16; i++) {
            dst[i] = (float)((b->qs[i] & 15) - 8) * d;
            dst[i + 16] = (float)((b->qs[i] >> 4) - 8) * d;
        }
    }
}

QUANT_DECODE(q4_1) {
    const block_q4_1 *b = src;
    for (size_t k = 0; k < n / 32; k++, b++, dst += 32) {
        float d = quant_f16_to_f32(b->d), m = quant_f16_to_f32(b->m);
        for (int i = 0; i < 16; i++) {
            dst[i] = (float)(b->qs[i] & 15) * d + m;
            dst[i + 16] = (float)(b->qs[i] >> 4) * d + m;
        }
    }
}

static inline uint32_t load32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

QUANT_DECODE(q5_0) {
    const block_q5_0 *b = src;
    for (size_t k = 0; k < n / 32; k++, b++, dst += 32) {
        float d = quant_f16_to_f32(b->d);
        uint32_t qh = load32(b->qh);
        for (int i = 0; i < 16; i++) {
            dst[i] = (float)((int)((b->qs[i] & 15) | (qh >> i & 1) << 4) - 16) * d;
            dst[i + 16] = (float)((int)((b->qs[i] >> 4) | (qh >> (i + 16) & 1) << 4) - 16) * d;
        }
    }
}

QUANT_DECODE(q5_1) {
    const block_q5_1 *b = src;
    for (size_t k = 0; k < n / 32; k++, b++, dst += 32) {
        float d = quant_f16_to_f32(b->d), m = quant_f16_to_f32(b->m);
        uint32_t qh = load32(b->qh);
        for (int i = 0; i < 16; i++) {
            dst[i] = (float)((b->qs[i] & 15) | (qh >> i & 1) << 4) * d + m;
            dst[i + 16] = (float)((b->qs[i] >> 4) | (qh >> (i + 16) & 1) << 4) * d + m;
        }
    }
}

QUANT_DECODE(q8_0) {
    const block_q8_0 *b = src;
    for (size_t k = 0; k < n / 32; k++, b++, dst += 32) {
        float d = quant_f16_to_f32(b->d);
        for (int i = 0; i < 32; i++) dst[i] = (float)b->qs[i] * d;
    }
}

QUANT_DECODE(q8_1) {
    const block_q8_1 *b = src;
    for (size_t k = 0; k < n / 32; k++, b++, dst += 32) {
        float d = quant_f16_to_f32(b->d);
        for (int i = 0; i < 32; i++) dst[i] = (float)b->qs[i] * d;
    }
}

QUANT_DECODE(q1_0) {
    const block_q1_0 *b = src;
    for (size_t k = 0; k < n / 128; k++, b++, dst += 128) {
        float d = quant_f16_to_f32(b->d);
        for (int i = 0; i < 128; i++) dst[i] = b->qs[i / 8] >> i % 8 & 1 ? d : -d;
    }
}

QUANT_DECODE(q2_0) { // 2 bits an element in order: -1, 0, 1 or 2 times d
    const block_q2_0 *b = src;
    for (size_t k = 0; k < n / 64; k++, b++, dst += 64) {
        float d = quant_f16_to_f32(b->d);
        for (int i = 0; i < 64; i++) dst[i] = (float)((b->qs[i / 4] >> i % 4 * 2 & 3) - 1) * d;
    }
}

// Element i of a K block of 2-bit numbers: 128 elements share 32 bytes, each byte holding elements 32 apart.
static inline int k2(const uint8_t qs[64], int i) { return qs[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3; }

QUANT_DECODE(q2_K) {
    const block_q2_K *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, dst += QUANT_K) {
        float d = quant_f16_to_f32(b->d), dmin = quant_f16_to_f32(b->dmin);
        for (int i = 0; i < QUANT_K; i++) {
            uint8_t s = b->scales[i / 16];
            dst[i] = d * (float)(s & 15) * (float)k2(b->qs, i) - dmin * (float)(s >> 4);
        }
    }
}

// 6-bit scale j (0..15) of a Q3_K block: low 4 bits in bytes 0..7, high 2 bits in bytes 8..11.
static inline int k3_scale(const uint8_t s[12], int j) { return ((s[j % 8] >> j / 8 * 4 & 15) | (s[8 + j % 4] >> j / 4 * 2 & 3) << 4) - 32; }

QUANT_DECODE(q3_K) {
    const block_q3_K *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, dst += QUANT_K) {
        float d = quant_f16_to_f32(b->d);
        for (int i = 0; i < QUANT_K; i++) {
            int q = k2(b->qs, i) - (b->hmask[i % 32] >> i / 32 & 1 ? 0 : 4); // the high bit is stored as "not minus four"
            dst[i] = d * (float)k3_scale(b->scales, i / 16) * (float)q;
        }
    }
}

QUANT_DECODE(q4_K) {
    const block_q4_K *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, dst += QUANT_K) {
        float d = quant_f16_to_f32(b->d), dmin = quant_f16_to_f32(b->dmin);
        for (int j = 0; j < 8; j++) { // sub-blocks 2p and 2p+1 are the low and high nibbles of bytes 32p..32p+31
            uint8_t s, m;
            quant_k4_scale_min(b->scales, j, &s, &m);
            float ds = d * (float)s, dm = dmin * (float)m;
            for (int i = 0; i < 32; i++) dst[j * 32 + i] = ds * (float)(b->qs[j / 2 * 32 + i] >> j % 2 * 4 & 15) - dm;
        }
    }
}

QUANT_DECODE(q5_K) {
    const block_q5_K *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, dst += QUANT_K) {
        float d = quant_f16_to_f32(b->d), dmin = quant_f16_to_f32(b->dmin);
        for (int j = 0; j < 8; j++) { // as Q4_K, with bit 4 of sub-block j in bit j of qh
            uint8_t s, m;
            quant_k4_scale_min(b->scales, j, &s, &m);
            float ds = d * (float)s, dm = dmin * (float)m;
            for (int i = 0; i < 32; i++)
                dst[j * 32 + i] = ds * (float)((b->qs[j / 2 * 32 + i] >> j % 2 * 4 & 15) | (b->qh[i] >> j & 1) << 4) - dm;
        }
    }
}

QUANT_DECODE(q6_K) {
    const block_q6_K *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, dst += QUANT_K) {
        float d = quant_f16_to_f32(b->d);
        for (int i = 0; i < QUANT_K; i++) { // per half of 128: 64 bytes of nibbles (i and i + 64), 32 bytes of bit pairs (32 apart)
            int h = i / 128, r = i % 128;
            int q = (b->ql[h * 64 + r % 64] >> r / 64 * 4 & 15) | (b->qh[h * 32 + r % 32] >> r / 32 * 2 & 3) << 4;
            dst[i] = d * (float)b->scales[i / 16] * (float)(q - 32);
        }
    }
}

QUANT_DECODE(q8_K) {
    const block_q8_K *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, dst += QUANT_K)
        for (int i = 0; i < QUANT_K; i++) dst[i] = b->d * (float)b->qs[i];
}

QUANT_DECODE(tq1_0) {
    // A byte holds five base-3 digits as a fraction of 256: times 3^t, the digit t is the integer part of three times what is left.
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
    const block_tq1_0 *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++) {
        float d = quant_f16_to_f32(b->d);
        for (int t = 0; t < 5; t++)
            for (int i = 0; i < 32; i++) *dst++ = (float)(((uint8_t)(b->qs[i] * pow3[t]) * 3 >> 8) - 1) * d;
        for (int t = 0; t < 5; t++)
            for (int i = 32; i < 48; i++) *dst++ = (float)(((uint8_t)(b->qs[i] * pow3[t]) * 3 >> 8) - 1) * d;
        for (int t = 0; t < 4; t++)
            for (int i = 0; i < 4; i++) *dst++ = (float)(((uint8_t)(b->qh[i] * pow3[t]) * 3 >> 8) - 1) * d;
    }
}

QUANT_DECODE(tq2_0) {
    const block_tq2_0 *b = src;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, dst += QUANT_K) {
        float d = quant_f16_to_f32(b->d);
        for (int i = 0; i < QUANT_K; i++) dst[i] = (float)(k2(b->qs, i) - 1) * d;
    }
}

QUANT_DECODE(mxfp4) {
    const block_mxfp4 *b = src;
    for (size_t k = 0; k < n / 32; k++, b++, dst += 32) {
        float d = quant_e8m0_half(b->e);
        for (int i = 0; i < 16; i++) {
            dst[i] = (float)quant_fp4_values[b->qs[i] & 15] * d;
            dst[i + 16] = (float)quant_fp4_values[b->qs[i] >> 4] * d;
        }
    }
}

QUANT_DECODE(nvfp4) {
    const block_nvfp4 *b = src;
    for (size_t k = 0; k < n / 64; k++, b++)
        for (int s = 0; s < 4; s++, dst += 16) {
            float d = quant_ue4m3_half(b->d[s]);
            for (int i = 0; i < 8; i++) {
                dst[i] = (float)quant_fp4_values[b->qs[s * 8 + i] & 15] * d;
                dst[i + 8] = (float)quant_fp4_values[b->qs[s * 8 + i] >> 4] * d;
            }
        }
}
