// Shared searches, and encoders of the plain, 32-element, ternary and FP4 formats. Pure functions.
#include "quant/quant_encode.h"

#include <math.h>

#include "quant/quant_decode.h"

// Every search tries a fan of inverse scales, rounds, and solves for the best scale by least squares; the best pair stays.
float quant_fit_scale(int n, const float *x, const float *w, int lo, int hi, int8_t *q) {
    float amax = 0, peak = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > amax) amax = fabsf(x[i]), peak = x[i];
    if (amax < 1e-30f) {
        memset(q, 0, (size_t)n);
        return 0;
    }
    float best_gain = -1, best_scale = 0, best_inv = 0;
    float edge = (float)(-lo); // |lo| is at least hi: the largest element sits best at the longer end
    int steps = hi <= 1 ? 24 : hi <= 7 ? 18 : 10;
    for (int s = -steps; s <= steps; s++) {
        float reach = edge + 0.1f * (float)s * (hi <= 1 ? 0.5f : 1.0f);
        if (reach <= 0.2f) continue;
        for (int side = 0; side < 2; side++) {
            float inv = (side ? reach : -reach) / peak, num, den, l[QUANT_K];
            quant_round_all(n, x, inv, (float)lo, (float)hi, l);
            quant_sums(n, x, w, l, &num, &den);
            if (den > 0 && num * num > best_gain * den) best_gain = num * num / den, best_scale = num / den, best_inv = inv;
        }
    }
    if (best_gain <= 0) {
        memset(q, 0, (size_t)n);
        return 0;
    }
    for (int i = 0; i < n; i++) q[i] = (int8_t)quant_clamp(quant_round(best_inv * x[i]), lo, hi);
    return best_scale;
}

static float fit_range(int n, const float *x, const float *w, int hi, uint8_t *q, float *offset, bool negative_only) {
    float lo = x[0], top = x[0];
    double sw = 0, sx = 0;
    for (int i = 0; i < n; i++) {
        if (x[i] < lo) lo = x[i];
        if (x[i] > top) top = x[i];
        double wi = w ? w[i] : 1;
        sw += wi, sx += wi * x[i];
    }
    if (negative_only && lo > 0) lo = 0;
    if (top - lo < 1e-30f || sw <= 0) {
        memset(q, 0, (size_t)n);
        *offset = top - lo < 1e-30f ? lo : 0;
        return 0;
    }
    float best_scale = (top - lo) / (float)hi, best_off = lo;
    double best = HUGE_VAL;
    int steps = hi <= 3 ? 15 : 12;
    bool fan = hi <= 3 || !negative_only; // also shift the line
    for (int s = -steps; s <= steps / 2; s++) { // a wider fan inwards: clipping the extremes often pays, widening seldom
        float inv = ((float)hi - 0.1f * (float)s) / (top - lo);
        for (int shift = fan ? -1 : 0; shift <= (fan ? 1 : 0); shift++) {
            float from = lo + 0.25f * (float)shift / inv;
            float y[QUANT_K], l[QUANT_K];
            for (int i = 0; i < n; i++) y[i] = x[i] - from;
            quant_round_all(n, y, inv, 0, (float)hi, l);
            quant_lanes al = {0, 0, 0, 0}, all = {0, 0, 0, 0}, axl = {0, 0, 0, 0};
            for (int i = 0; i < n; i += 4) {
                quant_lanes v = quant_load4(l + i), wl = w ? quant_load4(w + i) * v : v;
                al += wl, all += wl * v, axl += wl * quant_load4(x + i);
            }
            double sl = quant_sum4(al), sll = quant_sum4(all), sxl = quant_sum4(axl);
            double det = sw * sll - sl * sl, scale, off;
            if (det <= 0) continue;
            scale = (sw * sxl - sx * sl) / det;
            off = (sll * sx - sl * sxl) / det;
            if (negative_only && off > 0) off = 0, scale = sll > 0 ? sxl / sll : 0;
            if (scale <= 0) continue;
            // cost without the constant sum w x^2
            double cost = scale * scale * sll + off * off * sw + 2 * scale * off * sl - 2 * scale * sxl - 2 * off * sx;
            if (cost < best) best = cost, best_scale = (float)scale, best_off = (float)off;
        }
    }
    // Rounding once more on the solved line costs at most as much as the grid that led to it, and solving again at most as much as that.
    for (int round = 0; round < 3; round++) {
        double sl = 0, sll = 0, sxl = 0;
        float inv = 1 / best_scale;
        for (int i = 0; i < n; i++) {
            q[i] = (uint8_t)quant_clamp(quant_round((x[i] - best_off) * inv), 0, hi);
            float l = q[i], wl = w ? w[i] * l : l;
            sl += wl, sll += wl * l, sxl += wl * x[i];
        }
        double det = sw * sll - sl * sl;
        if (round == 2 || det <= 0) break;
        double scale = (sw * sxl - sx * sl) / det, off = (sll * sx - sl * sxl) / det;
        if (negative_only && off > 0) off = 0, scale = sxl / sll;
        if (scale <= 0) break;
        best_scale = (float)scale;
        best_off = (float)off;
    }
    *offset = best_off;
    return best_scale;
}

float quant_fit_offset(int n, const float *x, const float *w, int hi, uint8_t *q, float *min) {
    float off, scale = fit_range(n, x, w, hi, q, &off, true);
    *min = off < 0 ? -off : 0;
    return scale;
}

float quant_fit_affine(int n, const float *x, const float *w, int hi, uint8_t *q, float *offset) {
    return fit_range(n, x, w, hi, q, offset, false);
}

// ---- plain numbers
QUANT_ENCODE(f32) { (void)importance; memcpy(dst, src, n * sizeof *src); }

#define ELEMENTWISE(name, type, expr)                                       \
    QUANT_ENCODE(name) {                                                    \
        (void)importance;                                                   \
        for (size_t i = 0; i < n; i++) {                                    \
            float x = src[i];                                               \
            type v = expr;                                                  \
            memcpy((char *)dst + i * sizeof v, &v, sizeof v);               \
        }                                                                   \
    }
static long long to_int(float x, long long lo, long long hi) {
    if (x != x) return 0;
    return x <= (float)lo ? lo : x >= (float)hi ? hi : llrintf(x);
}
ELEMENTWISE(f16, uint16_t, quant_f32_to_f16(x))
ELEMENTWISE(bf16, uint16_t, quant_f32_to_bf16(x))
ELEMENTWISE(f64, double, x)
ELEMENTWISE(i8, int8_t, (int8_t)to_int(x, INT8_MIN, INT8_MAX))
ELEMENTWISE(i16, int16_t, (int16_t)to_int(x, INT16_MIN, INT16_MAX))
ELEMENTWISE(i32, int32_t, (int32_t)to_int(x, INT32_MIN, INT32_MAX))
ELEMENTWISE(i64, int64_t, to_int(x, INT64_MIN, INT64_MAX))

// Copies a block with what is not finite made harmless.
static void load_block(float *x, const float *src, int n) {
    for (int i = 0; i < n; i++) x[i] = quant_finite(src[i]);
}
// The scale as the file will hold it: later rounding must use this one. Half precision tops out at 65504.
static float half_scale(float d, uint16_t *h) {
    *h = quant_f32_to_f16(d > 65504.0f ? 65504.0f : d < -65504.0f ? -65504.0f : d);
    return quant_f16_to_f32(*h);
}

QUANT_ENCODE(q4_0) {
    block_q4_0 *b = dst;
    for (size_t k = 0; k < n / 32; k++, b++, src += 32) {
        float x[32];
        int8_t q[32];
        load_block(x, src, 32);
        float d = half_scale(quant_fit_scale(32, x, importance ? importance + 32 * k : NULL, -8, 7, q), &b->d);
        for (int i = 0; i < 32; i++) q[i] = (int8_t)(d != 0 ? quant_clamp(quant_round(x[i] / d), -8, 7) + 8 : 8);
        for (int i = 0; i < 16; i++) b->qs[i] = (uint8_t)(q[i] | q[i + 16] << 4);
    }
}

QUANT_ENCODE(q4_1) {
    block_q4_1 *b = dst;
    for (size_t k = 0; k < n / 32; k++, b++, src += 32) {
        float x[32], m;
        uint8_t q[32];
        load_block(x, src, 32);
        float d = half_scale(quant_fit_affine(32, x, importance ? importance + 32 * k : NULL, 15, q, &m), &b->d);
        m = half_scale(m, &b->m);
        for (int i = 0; i < 32; i++) q[i] = (uint8_t)(d > 0 ? quant_clamp(quant_round((x[i] - m) / d), 0, 15) : 0);
        for (int i = 0; i < 16; i++) b->qs[i] = (uint8_t)(q[i] | q[i + 16] << 4);
    }
}

static void put_5bit(const uint8_t q[32], uint8_t qs[16], uint8_t qh[4]) {
    memset(qh, 0, 4);
    for (int i = 0; i < 32; i++) qh[i / 8] |= (uint8_t)((q[i] >> 4 & 1) << i % 8);
    for (int i = 0; i < 16; i++) qs[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

QUANT_ENCODE(q5_0) {
    block_q5_0 *b = dst;
    for (size_t k = 0; k < n / 32; k++, b++, src += 32) {
        float x[32];
        int8_t q[32];
        uint8_t u[32];
        load_block(x, src, 32);
        float d = half_scale(quant_fit_scale(32, x, importance ? importance + 32 * k : NULL, -16, 15, q), &b->d);
        for (int i = 0; i < 32; i++) u[i] = (uint8_t)(d != 0 ? quant_clamp(quant_round(x[i] / d), -16, 15) + 16 : 16);
        put_5bit(u, b->qs, b->qh);
    }
}

QUANT_ENCODE(q5_1) {
    block_q5_1 *b = dst;
    for (size_t k = 0; k < n / 32; k++, b++, src += 32) {
        float x[32], m;
        uint8_t q[32];
        load_block(x, src, 32);
        float d = half_scale(quant_fit_affine(32, x, importance ? importance + 32 * k : NULL, 31, q, &m), &b->d);
        m = half_scale(m, &b->m);
        for (int i = 0; i < 32; i++) q[i] = (uint8_t)(d > 0 ? quant_clamp(quant_round((x[i] - m) / d), 0, 31) : 0);
        put_5bit(q, b->qs, b->qh);
    }
}

// Eight bits are plenty: the largest element sets the scale, no search (and activations take this path at speed elsewhere).
static float eight_bits(const float *src, int n, int8_t *qs, bool half) {
    float amax = 0;
    for (int i = 0; i < n; i++) {
        float a = fabsf(quant_finite(src[i]));
        if (a > amax) amax = a;
    }
    float d = amax / 127.0f, inv = d > 0 ? 1.0f / d : 0;
    if (half && d > 65504.0f) d = 65504.0f, inv = 1.0f / d;
    for (int i = 0; i < n; i++) qs[i] = (int8_t)quant_clamp((int)roundf(fminf(fmaxf(quant_finite(src[i]) * inv, -127.f), 127.f)), -127, 127);
    return d;
}

QUANT_ENCODE(q8_0) {
    (void)importance;
    block_q8_0 *b = dst;
    for (size_t k = 0; k < n / 32; k++, b++, src += 32) half_scale(eight_bits(src, 32, b->qs, true), &b->d);
}

QUANT_ENCODE(q8_1) {
    (void)importance;
    block_q8_1 *b = dst;
    for (size_t k = 0; k < n / 32; k++, b++, src += 32) {
        float d = eight_bits(src, 32, b->qs, true);
        int sum = 0;
        for (int i = 0; i < 32; i++) sum += b->qs[i];
        half_scale(d, &b->d);
        half_scale(d * (float)sum, &b->s);
    }
}

QUANT_ENCODE(q8_K) {
    (void)importance;
    block_q8_K *b = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, src += QUANT_K) {
        b->d = eight_bits(src, QUANT_K, b->qs, false);
        for (int j = 0; j < 16; j++) {
            int sum = 0;
            for (int i = 0; i < 16; i++) sum += b->qs[16 * j + i];
            b->bsums[j] = (int16_t)sum;
        }
    }
}

QUANT_ENCODE(q1_0) { // the mean of |x| is the least-squares scale for signs
    block_q1_0 *b = dst;
    for (size_t k = 0; k < n / 128; k++, b++, src += 128) {
        double num = 0, den = 0;
        memset(b->qs, 0, sizeof b->qs);
        for (int i = 0; i < 128; i++) {
            float x = quant_finite(src[i]);
            double w = importance ? importance[128 * k + i] : 1;
            num += w * fabsf(x), den += w;
            if (x >= 0) b->qs[i / 8] |= (uint8_t)(1 << i % 8);
        }
        half_scale(den > 0 ? (float)(num / den) : 0, &b->d);
    }
}

QUANT_ENCODE(q2_0) { // levels -1, 0, 1, 2; fitted as -x on -2..1, which is the shape quant_fit_scale knows
    block_q2_0 *b = dst;
    for (size_t k = 0; k < n / 64; k++, b++, src += 64) {
        float x[64];
        int8_t q[64];
        load_block(x, src, 64);
        for (int i = 0; i < 64; i++) x[i] = -x[i];
        float d = half_scale(quant_fit_scale(64, x, importance ? importance + 64 * k : NULL, -2, 1, q), &b->d);
        memset(b->qs, 0, sizeof b->qs);
        for (int i = 0; i < 64; i++) b->qs[i / 4] |= (uint8_t)((d != 0 ? quant_clamp(quant_round(-x[i] / d), -1, 2) + 1 : 1) << i % 4 * 2);
    }
}

static float ternary(const float *src, const float *w, int8_t q[QUANT_K], uint16_t *h) {
    float x[QUANT_K];
    load_block(x, src, QUANT_K);
    float d = half_scale(quant_fit_scale(QUANT_K, x, w, -1, 1, q), h);
    for (int i = 0; i < QUANT_K; i++) q[i] = (int8_t)(d != 0 ? quant_clamp(quant_round(x[i] / d), -1, 1) + 1 : 1);
    return d;
}

QUANT_ENCODE(tq1_0) {
    block_tq1_0 *b = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, src += QUANT_K) {
        int8_t q[QUANT_K];
        ternary(src, importance ? importance + QUANT_K * k : NULL, q, &b->d);
        // Five digits, first one most significant, then as a fraction of 256 rounded up, so that decoding by multiplication is exact.
        for (int i = 0; i < 52; i++) {
            const int8_t *p = i < 32 ? q + i : i < 48 ? q + 160 + (i - 32) : q + 240 + (i - 48);
            int stride = i < 32 ? 32 : i < 48 ? 16 : 4, digits = i < 48 ? 5 : 4, v = 0;
            for (int t = 0; t < digits; t++) v = v * 3 + p[t * stride];
            if (digits == 4) v *= 3;
            uint8_t byte = (uint8_t)((v * 256 + 242) / 243);
            if (i < 48) b->qs[i] = byte;
            else b->qh[i - 48] = byte;
        }
    }
}

QUANT_ENCODE(tq2_0) {
    block_tq2_0 *b = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, src += QUANT_K) {
        int8_t q[QUANT_K];
        ternary(src, importance ? importance + QUANT_K * k : NULL, q, &b->d);
        memset(b->qs, 0, sizeof b->qs);
        for (int i = 0; i < QUANT_K; i++) b->qs[i / 128 * 32 + i % 32] |= (uint8_t)(q[i] << i % 128 / 32 * 2);
    }
}

static uint8_t fp4(float x) { // nearest of the doubled E2M1 numbers; their magnitudes rise with the index
    static const float half[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10};
    float a = fabsf(x);
    uint8_t q = 0;
    while (q < 7 && a > half[q]) q++;
    return x < 0 && q ? q | 8 : q;
}

static double fp4_cost(int n, const float *x, const float *w, float d) {
    double cost = 0;
    for (int i = 0; i < n; i++) {
        float e = x[i] - d * (float)quant_fp4_values[d > 0 ? fp4(x[i] / d) : 0];
        cost += (double)e * e * (w ? w[i] : 1);
    }
    return cost;
}

QUANT_ENCODE(mxfp4) {
    block_mxfp4 *b = dst;
    for (size_t k = 0; k < n / 32; k++, b++, src += 32) {
        float x[32], amax = 0;
        const float *w = importance ? importance + 32 * k : NULL;
        load_block(x, src, 32);
        for (int i = 0; i < 32; i++) amax = fmaxf(amax, fabsf(x[i]));
        int e = 0;
        if (amax > 0) {
            // The largest E2M1 number is 6 = 1.5 * 2^2. One binade up or down can cost less: try.
            int guess = (int)floorf(log2f(amax)) - 2 + 127;
            double best = HUGE_VAL;
            for (int t = guess - 1; t <= guess + 1; t++) {
                if (t < 0 || t > 254) continue;
                double cost = fp4_cost(32, x, w, quant_e8m0_half((uint8_t)t));
                if (cost < best) best = cost, e = t;
            }
        }
        b->e = (uint8_t)e;
        float d = quant_e8m0_half(b->e);
        for (int i = 0; i < 16; i++) b->qs[i] = (uint8_t)(fp4(x[i] / d) | fp4(x[i + 16] / d) << 4);
    }
}

QUANT_ENCODE(nvfp4) {
    block_nvfp4 *b = dst;
    for (size_t k = 0; k < n / 64; k++, b++)
        for (int s = 0; s < 4; s++, src += 16) {
            float x[16], amax = 0;
            const float *w = importance ? importance + 64 * k + 16 * s : NULL;
            load_block(x, src, 16);
            for (int i = 0; i < 16; i++) amax = fmaxf(amax, fabsf(x[i]));
            int guess = 0, best_code = 0;
            while (guess < 126 && quant_ue4m3_half((uint8_t)guess) * 12 < amax) guess++;
            double best = HUGE_VAL;
            for (int t = guess - 8; t <= guess + 2; t++) {
                if (t < 0 || t > 126) continue;
                double cost = fp4_cost(16, x, w, quant_ue4m3_half((uint8_t)t));
                if (cost < best) best = cost, best_code = t;
            }
            b->d[s] = (uint8_t)best_code;
            float d = quant_ue4m3_half(b->d[s]);
            for (int i = 0; i < 8; i++)
                b->qs[8 * s + i] = d > 0 ? (uint8_t)(fp4(x[i] / d) | fp4(x[i + 8] / d) << 4) : 0;
        }
}
