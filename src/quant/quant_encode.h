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
static inline int quant_clamp(int v, int lo, int hi) { return v < lo ? lo : v > hi ? hi : v; }
// What encoders see of x: NaN and infinities would poison a whole block's scale, and squares must not overflow.
// A half-precision scale times the largest integers reaches 2.7e8: nothing that a format can hold is lost at 1e9.
static inline float quant_finite(float x) { return x != x ? 0.0f : x > 1e9f ? 1e9f : x < -1e9f ? -1e9f : x; }
