// Searches that the encoders share: the scale (and offset) that costs least. Pure functions, no allocation.
//
// "Cost" is sum w (x - decoded)^2 with w the importance of the column (1 without): what the reported NMSE measures.
#pragma once
#include <stddef.h>

#include "quant/quant.h"

// Least-cost scale for x ~ scale * q with integer q in [lo, hi]; fills q, returns the scale (0 when all x are 0). n <= 256.
float quant_fit_scale(int n, const float *x, const float *w, int lo, int hi, int8_t *q);
// Least-cost scale >= 0 and *min >= 0 for x ~ scale * q - *min, q in [0, hi]. n <= 256.
float quant_fit_offset(int n, const float *x, const float *w, int hi, uint8_t *q, float *min);
// As quant_fit_offset, with an offset of either sign.
float quant_fit_affine(int n, const float *x, const float *w, int hi, uint8_t *q, float *offset);
// To the nearest integer, ties to even; what is out of range (or NaN) is held to a million. Adding 1.5 * 2^23 leaves the integer in
// the low bits of the sum: unlike rintf this needs no instruction beyond the base of any processor, and loops over it vectorize.
static inline int quant_round(float x) {
    float y = (x < 1e6f ? x > -1e6f ? x : -1e6f : 1e6f) + 12582912.0f;
    return (int)(quant_f32_bits(y) & 0x7fffff) - 0x400000;
}
// Four floats at a time, in what gcc and clang make of it on any processor. Sums over lanes keep one order everywhere.
typedef float quant_lanes __attribute__((vector_size(16)));
static inline quant_lanes quant_load4(const float *p) {
    quant_lanes v;
    memcpy(&v, p, 16);
    return v;
}
static inline float quant_sum4(quant_lanes v) { return (v[0] + v[1]) + (v[2] + v[3]); }
// l[i] = x[i] * inv rounded and held in [lo, hi], as floats. The bounds come first, so that adding 1.5 * 2^23 rounds exactly.
static inline void quant_round_all(int n, const float *x, float inv, float lo, float hi, float *l) {
    for (int i = 0; i < n; i++) {
        float y = x[i] * inv;
        y = y < hi ? y : hi;
        y = y > lo ? y : lo;
        l[i] = (y + 12582912.0f) - 12582912.0f;
    }
}
// num = sum w l x, den = sum w l l; n a multiple of 4.
static inline void quant_sums(int n, const float *x, const float *w, const float *l, float *num, float *den) {
    quant_lanes a = {0, 0, 0, 0}, b = {0, 0, 0, 0};
    for (int i = 0; i < n; i += 4) {
        quant_lanes v = quant_load4(l + i), wl = w ? quant_load4(w + i) * v : v;
        a += wl * quant_load4(x + i);
        b += wl * v;
    }
    *num = quant_sum4(a);
    *den = quant_sum4(b);
}

static inline int quant_clamp(int v, int lo, int hi) { return v < lo ? lo : v > hi ? hi : v; }
// What encoders see of x: NaN and infinities would poison a whole block's scale, and squares must not overflow.
// A half-precision scale times the largest integers reaches 2.7e8: nothing that a format can hold is lost at 1e9.
static inline float quant_finite(float x) { return x != x ? 0.0f : x > 1e9f ? 1e9f : x < -1e9f ? -1e9f : x; }
