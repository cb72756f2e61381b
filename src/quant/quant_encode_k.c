// Encoders of the K formats: blocks of 256 in sub-blocks whose scales are small integers times one half-precision number. Pure functions.
//
// Every sub-block is fitted alone; the scales are rounded to the integers the block has room for; then in turn the common factors are
// solved by least squares, and each sub-block tries the integers beside its own. Each step can only lower the cost.
#include <math.h>

#include "quant/quant_decode.h"
#include "quant/quant_encode.h"

static void load_block(float *x, const float *src) {
    for (int i = 0; i < QUANT_K; i++) x[i] = quant_finite(src[i]);
}
static float half(float d) { return quant_f16_to_f32(quant_f32_to_f16(d > 65504.0f ? 65504.0f : d < -65504.0f ? -65504.0f : d)); }

// ---- scale and offset: Q2_K (16 x 16, 4 bits), Q4_K and Q5_K (8 x 32, 6 bits)
typedef struct offset_block {
    int     subs, len, hi, top; // sub-blocks, their length, largest q, largest integer scale
    float   d, dmin;
    uint8_t scale[16], min[16], q[QUANT_K];
} offset_block;

static double offset_cost(const offset_block *o, int j, int s, int m, const float *x, const float *w, uint8_t *q) {
    float ds = o->d * (float)s, dm = o->dmin * (float)m, inv = ds > 0 ? 1 / ds : 0, y[32], l[32];
    quant_lanes cost = {0, 0, 0, 0}, step = {ds, ds, ds, ds};
    for (int i = 0; i < o->len; i++) y[i] = x[j * o->len + i] + dm;
    quant_round_all(o->len, y, inv, 0, (float)o->hi, l);
    for (int i = 0; i < o->len; i += 4) {
        quant_lanes e = quant_load4(y + i) - step * quant_load4(l + i);
        cost += w ? e * e * quant_load4(w + j * o->len + i) : e * e;
    }
    for (int i = 0; i < o->len; i++) q[i] = (uint8_t)l[i];
    return quant_sum4(cost);
}

// Least squares for d and dmin with all integers fixed: x ~ d (s q) - dmin (m).
static void offset_solve(offset_block *o, const float *x, const float *w) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int i = 0; i < QUANT_K; i++) {
        int j = i / o->len;
        double a = o->scale[j] * o->q[i], b = -(double)o->min[j], wi = w ? w[i] : 1;
        aa += wi * a * a, ab += wi * a * b, bb += wi * b * b, ax += wi * a * x[i], bx += wi * b * x[i];
    }
    double det = aa * bb - ab * ab;
    if (bb > 0 && det > 1e-12 * aa * bb) {
        double d = (ax * bb - bx * ab) / det, dmin = (bx * aa - ax * ab) / det;
        if (d > 0 && dmin >= 0) o->d = half((float)d), o->dmin = half((float)dmin);
    } else if (bb == 0 && aa > 0 && ax > 0) {
        o->d = half((float)(ax / aa));
    }
}

static double offset_all(offset_block *o, const float *x, const float *w) {
    double total = 0;
    for (int j = 0; j < o->subs; j++) total += offset_cost(o, j, o->scale[j], o->min[j], x, w, o->q + j * o->len);
    return total;
}

static void fit_offset_block(offset_block *o, const float *x, const float *w) {
    float scale[16], min[16], smax = 0, mmax = 0;
    for (int j = 0; j < o->subs; j++) {
        scale[j] = quant_fit_offset(o->len, x + j * o->len, w ? w + j * o->len : NULL, o->hi, o->q + j * o->len, &min[j]);
        smax = fmaxf(smax, scale[j]);
        mmax = fmaxf(mmax, min[j]);
    }
    o->d = half(smax / (float)o->top);
    o->dmin = half(mmax / (float)o->top);
    for (int j = 0; j < o->subs; j++) {
        o->scale[j] = (uint8_t)(o->d > 0 ? quant_clamp(quant_round(scale[j] / o->d), 0, o->top) : 0);
        o->min[j] = (uint8_t)(o->dmin > 0 ? quant_clamp(quant_round(min[j] / o->dmin), 0, o->top) : 0);
    }
    double cost = offset_all(o, x, w);
    for (int round = 0; round < 2; round++) {
        offset_block t = *o;
        offset_solve(&t, x, w);
        for (int j = 0; j < t.subs; j++) {
            uint8_t q[32], s0 = t.scale[j], m0 = t.min[j];
            double best = HUGE_VAL;
            for (int ds = -1; ds <= 1; ds++)
                for (int dm = -1; dm <= 1; dm++) {
                    int s = s0 + ds, m = m0 + dm;
                    if (s < 0 || m < 0 || s > t.top || m > t.top) continue;
                    double c = offset_cost(&t, j, s, m, x, w, q);
                    if (c < best) best = c, t.scale[j] = (uint8_t)s, t.min[j] = (uint8_t)m;
                }
        }
        double c = offset_all(&t, x, w);
        if (c >= cost) break;
        cost = c;
        *o = t;
    }
}

// ---- scale alone, of either sign: Q3_K (q -4..3, scales -32..31), Q6_K (q -32..31, scales -128..127). 16 x 16.
typedef struct scale_block {
    int    lo, hi, slo, shi;
    float  d;
    int    scale[16];
    int8_t q[QUANT_K];
} scale_block;

static double scale_cost(const scale_block *b, int j, int s, const float *x, const float *w, int8_t *q) {
    float ds = b->d * (float)s, inv = ds != 0 ? 1 / ds : 0, l[16];
    const float *xj = x + 16 * j;
    quant_lanes cost = {0, 0, 0, 0}, step = {ds, ds, ds, ds};
    quant_round_all(16, xj, inv, (float)b->lo, (float)b->hi, l);
    for (int i = 0; i < 16; i += 4) {
        quant_lanes e = quant_load4(xj + i) - step * quant_load4(l + i);
        cost += w ? e * e * quant_load4(w + 16 * j + i) : e * e;
    }
    for (int i = 0; i < 16; i++) q[i] = (int8_t)l[i];
    return quant_sum4(cost);
}

static double scale_all(scale_block *b, const float *x, const float *w) {
    double total = 0;
    for (int j = 0; j < 16; j++) total += scale_cost(b, j, b->scale[j], x, w, b->q + 16 * j);
    return total;
}

static void fit_scale_block(scale_block *b, const float *x, const float *w) {
    float scale[16], peak = 0;
    for (int j = 0; j < 16; j++) {
        scale[j] = quant_fit_scale(16, x + 16 * j, w ? w + 16 * j : NULL, b->lo, b->hi, b->q + 16 * j);
        if (fabsf(scale[j]) > fabsf(peak)) peak = scale[j];
    }
    b->d = half(peak / (float)b->slo);
    for (int j = 0; j < 16; j++) b->scale[j] = b->d != 0 ? quant_clamp(quant_round(scale[j] / b->d), b->slo, b->shi) : 0;
    double cost = scale_all(b, x, w);
    for (int round = 0; round < 2; round++) {
        scale_block t = *b;
        double num = 0, den = 0;
        for (int i = 0; i < QUANT_K; i++) {
            double a = t.scale[i / 16] * t.q[i], wi = w ? w[i] : 1;
            num += wi * a * x[i], den += wi * a * a;
        }
        if (den > 0 && num != 0) t.d = half((float)(num / den));
        for (int j = 0; j < 16; j++) {
            int8_t q[16];
            int s0 = t.scale[j];
            double best = HUGE_VAL;
            for (int s = s0 - 1; s <= s0 + 1; s++) {
                if (s < t.slo || s > t.shi) continue;
                double c = scale_cost(&t, j, s, x, w, q);
                if (c < best) best = c, t.scale[j] = s;
            }
        }
        double c = scale_all(&t, x, w);
        if (c >= cost) break;
        cost = c;
        *b = t;
    }
}

static void put_k2(uint8_t qs[64], int i, int v) { qs[i / 128 * 32 + i % 32] |= (uint8_t)(v << i % 128 / 32 * 2); }

QUANT_ENCODE(q2_K) {
    block_q2_K *b = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, src += QUANT_K) {
        float x[QUANT_K];
        offset_block o = {.subs = 16, .len = 16, .hi = 3, .top = 15};
        load_block(x, src);
        fit_offset_block(&o, x, importance ? importance + QUANT_K * k : NULL);
        b->d = quant_f32_to_f16(o.d);
        b->dmin = quant_f32_to_f16(o.dmin);
        memset(b->qs, 0, sizeof b->qs);
        for (int j = 0; j < 16; j++) b->scales[j] = (uint8_t)(o.scale[j] | o.min[j] << 4);
        for (int i = 0; i < QUANT_K; i++) put_k2(b->qs, i, o.q[i]);
    }
}

QUANT_ENCODE(q3_K) {
    block_q3_K *b = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, src += QUANT_K) {
        float x[QUANT_K];
        scale_block s = {.lo = -4, .hi = 3, .slo = -32, .shi = 31};
        load_block(x, src);
        fit_scale_block(&s, x, importance ? importance + QUANT_K * k : NULL);
        memset(b, 0, sizeof *b);
        b->d = quant_f32_to_f16(s.d);
        for (int j = 0; j < 16; j++) {
            int v = s.scale[j] + 32;
            b->scales[j % 8] |= (uint8_t)((v & 15) << j / 8 * 4);
            b->scales[8 + j % 4] |= (uint8_t)((v >> 4) << j / 4 * 2);
        }
        for (int i = 0; i < QUANT_K; i++) {
            int v = s.q[i] + 4;
            put_k2(b->qs, i, v & 3);
            if (v >> 2) b->hmask[i % 32] |= (uint8_t)(1 << i / 32);
        }
    }
}

static void put_k4_scales(uint8_t out[12], const uint8_t *scale, const uint8_t *min) {
    for (int j = 0; j < 4; j++) {
        out[j] = (uint8_t)(scale[j] | scale[j + 4] >> 4 << 6);
        out[j + 4] = (uint8_t)(min[j] | min[j + 4] >> 4 << 6);
        out[j + 8] = (uint8_t)((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
    }
}

QUANT_ENCODE(q4_K) {
    block_q4_K *b = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, src += QUANT_K) {
        float x[QUANT_K];
        offset_block o = {.subs = 8, .len = 32, .hi = 15, .top = 63};
        load_block(x, src);
        fit_offset_block(&o, x, importance ? importance + QUANT_K * k : NULL);
        b->d = quant_f32_to_f16(o.d);
        b->dmin = quant_f32_to_f16(o.dmin);
        put_k4_scales(b->scales, o.scale, o.min);
        for (int p = 0; p < 4; p++)
            for (int i = 0; i < 32; i++) b->qs[32 * p + i] = (uint8_t)(o.q[64 * p + i] | o.q[64 * p + 32 + i] << 4);
    }
}

QUANT_ENCODE(q5_K) {
    block_q5_K *b = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, src += QUANT_K) {
        float x[QUANT_K];
        offset_block o = {.subs = 8, .len = 32, .hi = 31, .top = 63};
        load_block(x, src);
        fit_offset_block(&o, x, importance ? importance + QUANT_K * k : NULL);
        b->d = quant_f32_to_f16(o.d);
        b->dmin = quant_f32_to_f16(o.dmin);
        put_k4_scales(b->scales, o.scale, o.min);
        memset(b->qh, 0, sizeof b->qh);
        for (int i = 0; i < QUANT_K; i++)
            if (o.q[i] >> 4) b->qh[i % 32] |= (uint8_t)(1 << i / 32);
        for (int p = 0; p < 4; p++)
            for (int i = 0; i < 32; i++) b->qs[32 * p + i] = (uint8_t)((o.q[64 * p + i] & 15) | (o.q[64 * p + 32 + i] & 15) << 4);
    }
}

QUANT_ENCODE(q6_K) {
    block_q6_K *b = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, b++, src += QUANT_K) {
        float x[QUANT_K];
        scale_block s = {.lo = -32, .hi = 31, .slo = -128, .shi = 127};
        load_block(x, src);
        fit_scale_block(&s, x, importance ? importance + QUANT_K * k : NULL);
        memset(b, 0, sizeof *b);
        b->d = quant_f32_to_f16(s.d);
        for (int j = 0; j < 16; j++) b->scales[j] = (int8_t)s.scale[j];
        for (int i = 0; i < QUANT_K; i++) {
            int h = i / 128, r = i % 128, v = s.q[i] + 32;
            b->ql[h * 64 + r % 64] |= (uint8_t)((v & 15) << r / 64 * 4);
            b->qh[h * 32 + r % 32] |= (uint8_t)((v >> 4) << r / 32 * 2);
        }
    }
}
