// cpu/neon_pack: sixteen whole rows of the file's blocks into panels (cpu_pack_rows.h), four rows a vector.
#pragma once
#include <arm_neon.h>

#include "cpu/cpu_internal.h"

typedef struct rows16 { uint8x16_t v[4]; } rows16;

// Dword i of each of four vectors becomes vector i.
static inline rows16 transposed(rows16 x) {
    uint32x4_t r[4];
    for (int i = 0; i < 4; i++) r[i] = vreinterpretq_u32_u8(x.v[i]);
    uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(r[0], r[1])), b = vreinterpretq_u64_u32(vtrn2q_u32(r[0], r[1]));
    uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(r[2], r[3])), d = vreinterpretq_u64_u32(vtrn2q_u32(r[2], r[3]));
    return (rows16){{vreinterpretq_u8_u64(vtrn1q_u64(a, c)), vreinterpretq_u8_u64(vtrn1q_u64(b, d)),
                     vreinterpretq_u8_u64(vtrn2q_u64(a, c)), vreinterpretq_u8_u64(vtrn2q_u64(b, d))}};
}

static inline void columns(const uint8_t *at, size_t stride, rows16 c[4]) {
    for (int q = 0; q < 4; q++) {
        rows16 r;
        for (int i = 0; i < 4; i++) r.v[i] = vld1q_u8(at + (size_t)(4 * q + i) * stride);
        r = transposed(r);
        for (int i = 0; i < 4; i++) c[i].v[q] = r.v[i];
    }
}

static inline rows16 select_bits(int mask, rows16 a, rows16 b) {
    for (int q = 0; q < 4; q++) a.v[q] = vbslq_u8(vdupq_n_u8((uint8_t)mask), a.v[q], b.v[q]);
    return a;
}
static inline rows16 left(rows16 x, int n) {
    for (int q = 0; q < 4; q++) x.v[q] = vshlq_u8(x.v[q], vdupq_n_s8((int8_t)n));
    return x;
}
static inline rows16 six_bits(rows16 x) {
    for (int q = 0; q < 4; q++) x.v[q] = vandq_u8(x.v[q], vdupq_n_u8(63));
    return x;
}
static inline rows16 flip_sign(rows16 x) {
    for (int q = 0; q < 4; q++) x.v[q] = veorq_u8(x.v[q], vdupq_n_u8(0x80));
    return x;
}
static inline uint64_t bits(rows16 x, int i) {
    static const uint8_t places[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint64_t all = 0;
    for (int q = 0; q < 4; q++) {
        uint8x16_t set = vandq_u8(vtstq_u8(x.v[q], vdupq_n_u8((uint8_t)(1 << i))), vld1q_u8(places));
        all |= ((uint64_t)vaddv_u8(vget_low_u8(set)) | (uint64_t)vaddv_u8(vget_high_u8(set)) << 8) << 16 * q;
    }
    return all;
}
static inline rows16 byte_columns(rows16 x) {
    static const uint8_t order[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    for (int q = 0; q < 4; q++) x.v[q] = vqtbl1q_u8(x.v[q], vld1q_u8(order));
    return transposed(x);
}
static inline rows16 half_columns(rows16 x) {
    uint16x8_t r[4];
    for (int q = 0; q < 4; q++) r[q] = vreinterpretq_u16_u8(x.v[q]);
    return (rows16){{vreinterpretq_u8_u16(vuzp1q_u16(r[0], r[1])), vreinterpretq_u8_u16(vuzp1q_u16(r[2], r[3])),
                     vreinterpretq_u8_u16(vuzp2q_u16(r[0], r[1])), vreinterpretq_u8_u16(vuzp2q_u16(r[2], r[3]))}};
}
static inline void put(uint8_t *to, rows16 x) {
    for (int q = 0; q < 4; q++) vst1q_u8(to + 16 * q, x.v[q]);
}
static inline void put_lanes(uint8_t *to, rows16 x) {
    for (int q = 0; q < 4; q++) vst1q_u8(to + 32 * q, x.v[q]);
}

#include "cpu/cpu_pack_rows.h"
