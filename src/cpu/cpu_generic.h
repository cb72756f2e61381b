// cpu/generic: the kernels that are one text for every tier, over cpu_vec.h: norms, rotary, activations, elementwise ops, float products,
// attention. Each tier's file includes it once and gets them under its own instruction set; the order of sums is the tier's recipe.
#pragma once
#include <float.h>

#include "cpu/cpu_internal.h"
#include "cpu/cpu_vec.h"

// For each vector of n floats at index i: BODY with `w` lanes (VW, or fewer in the last). LOAD and STORE as fits.
#define EACH(n, i, w) for (int32_t i = 0, w; w = (n) - i < VW ? (int32_t)((n) - i) : VW, i < (n); i += VW)
#define LOAD(p, w) ((w) == VW ? vf_load(p) : vf_loadn(p, w))
#define STORE(p, v, w) ((w) == VW ? vf_store(p, v) : vf_storen(p, v, w))

// Sums go over 4 vectors in turn, so that lanes stay short chains: BODY adds the vector of w lanes at index i to acc[j]. Unrolled, so that no chain waits for memory.
#define CHAINS(n, i, j, w)                                  \
    for (int32_t at = 0; at < (n); at += 4 * VW)            \
        _Pragma("GCC unroll 4")                             \
        for (int32_t j = 0, i = at, w; j < 4; j++, i += VW) \
            if ((w = (n) - i < VW ? (int32_t)((n) - i) : VW) > 0)

static float sum_of_chains(const vf acc[4]) { return vf_sum((acc[0] + acc[1]) + (acc[2] + acc[3])); }

static float dot_self(const float *x, int32_t n, vf minus) {
    vf acc[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
    CHAINS(n, i, j, w) {
        vf v = LOAD(x + i, w) - minus;
        if (w < VW) { // lanes past the end hold -minus
            float t[VW];
            vf_store(t, v);
            v = vf_loadn(t, w);
        }
        acc[j] = vf_fma(v, v, acc[j]);
    }
    return sum_of_chains(acc);
}

static float sum_of(const float *x, int32_t n) {
    vf acc[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
    CHAINS(n, i, j, w) acc[j] = acc[j] + LOAD(x + i, w);
    return sum_of_chains(acc);
}

static float dot_product(const float *a, const float *b, int32_t n) {
    vf acc[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
    CHAINS(n, i, j, w) acc[j] = vf_fma(LOAD(a + i, w), LOAD(b + i, w), acc[j]);
    return sum_of_chains(acc);
}

static void softmax(float *y, const float *x, int32_t n) {
    float top = x[0], sum = 0;
    for (int32_t i = 1; i < n; i++) top = x[i] > top ? x[i] : top;
    for (int32_t i = 0; i < n; i++) sum += y[i] = expf(x[i] - top);
    for (int32_t i = 0; i < n; i++) y[i] /= sum;
}

static void norm(dev_norm_kind kind, float *y, const float *x, int32_t n, const float *w, const float *b, float eps) {
    if (kind == DEV_NORM_SOFTMAX) {
        softmax(y, x, n);
        return;
    }
    float mean = kind == DEV_NORM_LAYER ? sum_of(x, n) / (float)n : 0;
    float ss = dot_self(x, n, vf_set1(mean));
    float f = kind == DEV_NORM_L2 ? 1.0f / fmaxf(sqrtf(ss), eps) : 1.0f / sqrtf(ss / (float)n + eps);
    vf vm = vf_set1(mean), vs = vf_set1(f);
    EACH(n, i, l) {
        vf v = (LOAD(x + i, l) - vm) * vs;
        if (w) v = v * LOAD(w + i, l);
        if (b) v = v + LOAD(b + i, l);
        STORE(y + i, v, l);
    }
}

static void rope(float *x, const float *cs, int32_t dims, dev_rope_kind kind, bool inverse) {
    float flip = inverse ? -1.0f : 1.0f;
    int32_t half = dims / 2, a = kind == DEV_ROPE_NEOX ? 1 : 2, b = kind == DEV_ROPE_NEOX ? half : 1;
    for (int32_t i = 0; i < half; i++) {
        float c = cs[2 * i], s = cs[2 * i + 1] * flip, x0 = x[i * a], x1 = x[i * a + b];
        x[i * a] = x0 * c - x1 * s;
        x[i * a + b] = x0 * s + x1 * c;
    }
}

static inline vf sigmoid(vf x) { return vf_set1(1) / (vf_set1(1) + vf_exp(vf_set1(0) - x)); }

static inline vf act_lanes(dev_act act, vf x) {
    switch (act) {
    case DEV_ACT_SILU: return x / (vf_set1(1) + vf_exp(vf_set1(0) - x));
    case DEV_ACT_GELU: { // 0.5 x (1 + tanh u) = x / (1 + exp(-2u))
        vf u = x * vf_set1(1.5957691216057308f) * vf_fma(x * x, vf_set1(0.044715f), vf_set1(1));
        return x / (vf_set1(1) + vf_exp(vf_set1(0) - u));
    }
    case DEV_ACT_GELU_QUICK: return x / (vf_set1(1) + vf_exp(x * vf_set1(-1.702f)));
    case DEV_ACT_RELU: return vf_max(x, vf_set1(0));
    case DEV_ACT_RELU2: x = vf_max(x, vf_set1(0)); return x * x;
    case DEV_ACT_SIGMOID: return sigmoid(x);
    case DEV_ACT_EXP: return vf_exp(x);
    default: return x;
    }
}

// By library functions: exact, and rare.
static float act_scalar(dev_act kind, const float *p, float x) {
    switch (kind) {
    case DEV_ACT_TANH: return tanhf(x);
    case DEV_ACT_SOFTPLUS: return x > 20 ? x : log1pf(expf(x));
    case DEV_ACT_XIELU: return x > 0 ? p[0] * x * x + p[2] * x : (expm1f(x < p[3] ? x : p[3]) - x) * p[1] + p[2] * x;
    case DEV_ACT_SITU: return p[0] * tanhf(x / p[0]) / (1 + expf(-x));
    default: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    }
}

static void act(dev_act kind, const float *p, float *y, const float *gate, const float *up, int32_t n) {
    if (kind == DEV_ACT_GELU_ERF || kind == DEV_ACT_TANH || kind == DEV_ACT_SOFTPLUS || kind == DEV_ACT_XIELU || kind == DEV_ACT_SITU) {
        float bound = kind == DEV_ACT_SITU ? p[1] : 0;
        for (int32_t i = 0; i < n; i++) {
            float g = act_scalar(kind, p, gate[i]);
            y[i] = !up ? g : bound > 0 ? g * (bound * tanhf(up[i] / bound)) : g * up[i];
        }
        return;
    }
    EACH(n, i, w) {
        vf g = LOAD(gate + i, w);
        if (kind == DEV_ACT_SWIGLU_OAI) {
            g = vf_min(g, vf_set1(7));
            vf u = vf_min(vf_max(LOAD(up + i, w), vf_set1(-7)), vf_set1(7));
            g = g / (vf_set1(1) + vf_exp(g * vf_set1(-1.702f))) * (u + vf_set1(1));
        } else if (kind == DEV_ACT_SILU_LIMIT) {
            vf most = vf_set1(p[0]), u = vf_min(vf_max(LOAD(up + i, w), vf_set1(0) - most), most);
            g = vf_min(act_lanes(DEV_ACT_SILU, g), most) * u;
        } else {
            g = act_lanes(kind, g);
            if (up) g = g * LOAD(up + i, w);
        }
        STORE(y + i, g, w);
    }
}

static void combine(float *y, const float *a, const float *b, float sa, float sb, bool multiply, int32_t n) {
    vf va = vf_set1(sa), vb = vf_set1(sb);
    EACH(n, i, w) {
        vf v = LOAD(a + i, w);
        if (b && multiply) v = v * LOAD(b + i, w) * va;
        else if (b) v = v * va + LOAD(b + i, w) * vb;
        else v = v * va;
        STORE(y + i, v, w);
    }
}

static void vector(float *y, const float *x, const float *scale, const float *bias, int32_t n) {
    EACH(n, i, w) {
        vf v = LOAD(x + i, w);
        if (scale) v = v * LOAD(scale + i, w);
        if (bias) v = v + LOAD(bias + i, w);
        STORE(y + i, v, w);
    }
}

static void finish(float *y, const float *x, const float *bias, const float *residual, float scale, int32_t n) {
    vf vs = vf_set1(scale);
    EACH(n, i, w) {
        vf v = LOAD(x + i, w) * vs;
        if (bias) v = v + LOAD(bias + i, w);
        if (residual) v = v + LOAD(residual + i, w);
        STORE(y + i, v, w);
    }
}

static void to_half(const float *x, uint16_t *y, int32_t n) {
    int32_t i = 0;
#if VW == 4
    for (; i + 4 <= n; i += 4) vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
#elif VW > 1
    for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i *)(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++) y[i] = quant_f32_to_f16(x[i]);
}

static void peaks(const float *x, int32_t n, float *out) {
    for (int32_t b = 0; b < n; b += DEV_PEAK) {
        int32_t end = n - b < DEV_PEAK ? n : b + DEV_PEAK, i = b;
        vf top = vf_set1(-INFINITY);
        for (; i + VW <= end; i += VW) top = vf_max_number(vf_load(x + i), top);
        float peak = vf_hmax(top);
        for (; i < end; i++) peak = x[i] > peak ? x[i] : peak;
        out[b / DEV_PEAK] = peak > FLT_MAX ? FLT_MAX : peak;
    }
}

static float log_sum_exp(const float *x, int32_t n) {
    vf m = vf_set1(-INFINITY);
    for (int32_t i = 0; i + VW <= n; i += VW) m = vf_max(m, vf_load(x + i));
    float top = vf_hmax(m);
    for (int32_t i = n - n % VW; i < n; i++) top = x[i] > top ? x[i] : top;
    if (!(top > -INFINITY)) return top;
    double sum = 0;
    vf vt = vf_set1(top);
    for (int32_t i = 0; i < n;) { // in pieces, since a float sum of 150,000 terms drifts
        vf s = vf_set1(0);
        int32_t end = n - i < 1024 ? n : i + 1024;
        for (; i + VW <= end; i += VW) s = s + vf_exp(vf_load(x + i) - vt);
        sum += vf_sum(s);
        for (; i < end; i++) sum += expf(x[i] - top);
    }
    return top + (float)log(sum);
}

// ---- products with float weights ------------------------------------------------------------------------------------------

static inline __attribute__((always_inline)) vf load_elem(int format, const uint8_t *p, size_t i) {
    return format == CPU_F32 ? vf_load((const float *)p + i) : format == CPU_F16 ? vf_load_f16((const uint16_t *)p + i) : vf_load_bf16((const uint16_t *)p + i);
}

// R rows, one panel: one chain of fused multiply-adds over ascending k for each output.
static inline __attribute__((always_inline)) void float_tile(int format, int R, const uint8_t *panel, int64_t k, const float *const *x, float out[][PANEL]) {
    enum { NV = PANEL / VW };
    vf acc[8][NV];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++) acc[r][v] = vf_set1(0);
    for (int64_t j = 0; j < k; j++) {
        vf w[NV];
        for (int v = 0; v < NV; v++) w[v] = load_elem(format, panel, (size_t)j * PANEL + (size_t)v * VW);
        for (int r = 0; r < R; r++) {
            vf a = vf_set1(x[r][j]);
            for (int v = 0; v < NV; v++) acc[r][v] = vf_fma(w[v], a, acc[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++) vf_store(out[r] + v * VW, acc[r][v]);
}

// One row, P panels beside each other: the same chains, four at a time.
static inline __attribute__((always_inline)) void float_row(int format, int P, const uint8_t *panels, size_t panel_bytes, int64_t k, const float *x, float out[][PANEL]) {
    enum { NV = PANEL / VW };
    vf acc[4][NV];
    for (int p = 0; p < P; p++)
        for (int v = 0; v < NV; v++) acc[p][v] = vf_set1(0);
    for (int64_t j = 0; j < k; j++) {
        vf a = vf_set1(x[j]);
        for (int p = 0; p < P; p++)
            for (int v = 0; v < NV; v++) acc[p][v] = vf_fma(load_elem(format, panels + (size_t)p * panel_bytes, (size_t)j * PANEL + (size_t)v * VW), a, acc[p][v]);
    }
    for (int p = 0; p < P; p++)
        for (int v = 0; v < NV; v++) vf_store(out[p] + v * VW, acc[p][v]);
}

static void put_panel(const gemm_args *g, int64_t panel, int32_t row, const float *values) {
    int64_t j = panel * PANEL, n = g->w->base.n - j < PANEL ? g->w->base.n - j : PANEL;
    memcpy(g->y + (size_t)row * g->ldy + (panel - g->first) * PANEL, values, (size_t)n * sizeof(float));
}

static inline __attribute__((always_inline)) void gemm_float(int format, const gemm_args *g) {
    float out[8][PANEL];
    if (g->n_rows == 1) {
        const float *x = g->x + (size_t)g->rows[0] * g->ldx;
        int64_t p = g->first, end = g->first + g->count;
        for (; p + 4 <= end; p += 4) {
            float_row(format, 4, g->data + (size_t)p * g->w->panel_bytes, g->w->panel_bytes, g->k, x, out);
            for (int i = 0; i < 4; i++) put_panel(g, p + i, 0, out[i]);
        }
        for (; p < end; p++) {
            float_row(format, 1, g->data + (size_t)p * g->w->panel_bytes, g->w->panel_bytes, g->k, x, out);
            put_panel(g, p, 0, out[0]);
        }
        return;
    }
    for (int32_t r = 0; r < g->n_rows;) {
        const float *x[8];
        int32_t left = g->n_rows - r, R = VW == 16 ? 8 : 4;
        if (left < R) R = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        for (int32_t i = 0; i < R; i++) x[i] = g->x + (size_t)g->rows[r + i] * g->ldx;
        for (int64_t p = g->first; p < g->first + g->count; p++) {
            const uint8_t *panel = g->data + (size_t)p * g->w->panel_bytes;
            if (R == 8) float_tile(format, 8, panel, g->k, x, out);
            else if (R == 4) float_tile(format, 4, panel, g->k, x, out);
            else if (R == 2) float_tile(format, 2, panel, g->k, x, out);
            else float_tile(format, 1, panel, g->k, x, out);
            for (int32_t i = 0; i < R; i++) put_panel(g, p, r + i, out[i]);
        }
        r += R;
    }
}

static void gemm_f32(const gemm_args *g) { gemm_float(CPU_F32, g); }
static void gemm_f16(const gemm_args *g) { gemm_float(CPU_F16, g); }
static void gemm_bf16(const gemm_args *g) { gemm_float(CPU_BF16, g); }

// Rows in the file's blocks: decoded one by one, multiplied with every row of activations.
static void gemm_raw(const gemm_args *g) {
    const quant_traits *t = quant_type_traits((int)g->w->base.type);
    int64_t end = (g->first + g->count) * PANEL;
    if (end > g->w->base.n) end = g->w->base.n;
    for (int64_t j = g->first * PANEL; j < end; j++) {
        t->decode(g->data + (size_t)j * g->w->row_bytes, g->scratch, (size_t)g->k);
        for (int32_t r = 0; r < g->n_rows; r++) {
            const float *x = g->x + (size_t)g->rows[r] * g->ldx;
#if VW == 1
            double s[4] = {0};
            int64_t i = 0;
            for (; i + 4 <= g->k; i += 4)
                for (int l = 0; l < 4; l++) s[l] += (double)g->scratch[i + l] * (double)x[i + l];
            for (; i < g->k; i++) s[0] += (double)g->scratch[i] * (double)x[i];
            g->y[(size_t)r * g->ldy + (size_t)(j - g->first * PANEL)] = (float)((s[0] + s[1]) + (s[2] + s[3]));
#else
            vf s[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
            int32_t turn = 0;
            EACH(g->k, i, w) {
                s[turn & 3] = vf_fma(LOAD(g->scratch + i, w), LOAD(x + i, w), s[turn & 3]);
                turn++;
            }
            g->y[(size_t)r * g->ldy + (size_t)(j - g->first * PANEL)] = vf_sum((s[0] + s[1]) + (s[2] + s[3]));
#endif
        }
    }
}

// ---- attention ------------------------------------------------------------------------------------------------------------
// Online softmax over pages in ascending order: every page is a split, at its absolute position, so a query's result does not depend on
// which others are computed beside it. Scores are vectorised over the page's 32 keys, values over dimensions. QUERIES go over a page together.
// A page that more read than that (a prompt's) is widened to float32 first, once for all of them: conversions took as many operations as the products
// on AVX2. The bits are the same.

enum { KEYS = DEV_PAGE_TOKENS, SCORE_VECTORS = KEYS / VW, QUERIES = VW == 16 ? 8 : VW == 8 ? 3 : VW > 1 ? 2 : 1 };

// Vectors of dimensions that N queries sum at once, for enough chains of sums (8 on AVX-512) that no unit waits for the one before. A block of q8_0 has one scale.
static inline __attribute__((always_inline)) int value_vectors(int type, int N) { return VW != 16 ? 4 : N > 2 || type == DEV_KV_Q8_0 ? 2 : N > 1 ? 4 : 8; }

static inline __attribute__((always_inline)) vf load_kv(int type, const uint8_t *p, size_t i) {
    if (type == DEV_KV_F32) return vf_load((const float *)p + i);
    if (type == DEV_KV_F16) return vf_load_f16((const uint16_t *)p + i);
    if (type == DEV_KV_Q8_0) return vf_load_i8((const int8_t *)p + i);
    return vf_load_bf16((const uint16_t *)p + i);
}

static inline __attribute__((always_inline)) size_t kv_elem(int type) { return type == DEV_KV_F32 ? 4 : type == DEV_KV_Q8_0 ? 1 : 2; }

// How pages are read: what they hold, and whether that is widened to float32 (q8_0 without its scales).
typedef struct kv_form {
    int type;
    bool wide;
} kv_form;

static inline __attribute__((always_inline)) int form_type(kv_form f) { return f.wide ? DEV_KV_F32 : f.type; }

// A page's keys [head_k][32] or values [32][head_v].
typedef struct page_half {
    const uint8_t *at, *next; // the next page's, asked for in step with this page's: pages lie far apart, so that no processor foresees them
    const uint16_t *scales;   // of q8_0: [dimension / 32][key]
} page_half;

static inline __attribute__((always_inline)) void scores(kv_form form, int N, const page_half *x, int32_t head_k, const float *const *q, float scale, float *const *s) {
    const int type = form_type(form);
    const size_t row = KEYS * kv_elem(type);
    const uint16_t *scales = x->scales;
    vf total[QUERIES][SCORE_VECTORS], acc[QUERIES][SCORE_VECTORS];
    for (int n = 0; n < N; n++)
        for (int v = 0; v < SCORE_VECTORS; v++) total[n][v] = vf_set1(0);
    const int32_t step = form.type == DEV_KV_Q8_0 ? BLOCK : head_k;
    for (int32_t begin = 0; begin < head_k; begin += step, scales += KEYS) {
        int32_t end = head_k - begin < step ? head_k : begin + step;
        for (int n = 0; n < N; n++)
            for (int v = 0; v < SCORE_VECTORS; v++) acc[n][v] = vf_set1(0);
        for (int32_t d = begin; d < end; d++) {
            vf k[SCORE_VECTORS];
            for (int v = 0; v < SCORE_VECTORS; v++) k[v] = load_kv(type, x->at, (size_t)d * KEYS + (size_t)v * VW);
            if (!form.wide)
                for (size_t at = 0; at < row; at += 64) __builtin_prefetch(x->next + (size_t)d * row + at, 0, 2);
            for (int n = 0; n < N; n++) {
                vf b = vf_set1(q[n][d]);
                for (int v = 0; v < SCORE_VECTORS; v++) acc[n][v] = vf_fma(k[v], b, acc[n][v]);
            }
        }
        for (int n = 0; n < N; n++)
            for (int v = 0; v < SCORE_VECTORS; v++) total[n][v] = form.type == DEV_KV_Q8_0 ? vf_fma(acc[n][v], vf_load_f16(scales + v * VW), total[n][v]) : acc[n][v];
    }
    for (int n = 0; n < N; n++)
        for (int v = 0; v < SCORE_VECTORS; v++) vf_store(s[n] + v * VW, total[n][v] * vf_set1(scale));
}

// out = out * rescale + sum over keys of p[key] * value[key]; DV vectors of dimensions (q8_0: in one block of 32), N queries.
static inline __attribute__((always_inline)) void weigh(kv_form form, int N, int DV, const page_half *x, int32_t head_v, int32_t keys,
    int32_t d, float *const *p, const float *rescale, float *const *out) {
    const int type = form_type(form);
    vf acc[QUERIES * (VW == 16 ? 2 : 4)]; // [n][v]
    float scaled[QUERIES][KEYS];
    const float *w[QUERIES];
    for (int n = 0; n < N; n++) {
        w[n] = p[n];
        if (form.type == DEV_KV_Q8_0) {
            for (int v = 0; v < SCORE_VECTORS; v++) vf_store(scaled[n] + v * VW, vf_load(p[n] + v * VW) * vf_load_f16(x->scales + d / BLOCK * KEYS + v * VW));
            w[n] = scaled[n];
        }
        for (int v = 0; v < DV; v++) acc[n * DV + v] = vf_load(out[n] + d + v * VW) * vf_set1(rescale[n]);
    }
    for (int32_t j = 0; j < keys; j++) {
        size_t at = (size_t)j * (size_t)head_v + (size_t)d;
        if (!form.wide)
            for (size_t b = 0; b < (size_t)(DV * VW) * kv_elem(type); b += 64) __builtin_prefetch(x->next + at * kv_elem(type) + b, 0, 2);
        for (int v = 0; v < DV; v++) {
            const vf y = load_kv(type, x->at, at + (size_t)(v * VW));
            for (int n = 0; n < N; n++) acc[n * DV + v] = vf_fma(y, vf_set1(w[n][j]), acc[n * DV + v]);
        }
    }
    for (int n = 0; n < N; n++)
        for (int v = 0; v < DV; v++) vf_store(out[n] + d + v * VW, acc[n * DV + v]);
}

static inline __attribute__((always_inline)) float kv_scalar(kv_form form, const page_half *x, size_t row, int32_t j, int32_t d) {
    size_t i = (size_t)j * row + (size_t)d;
    float scale = form.type == DEV_KV_Q8_0 ? quant_f16_to_f32(x->scales[d / BLOCK * KEYS + j]) : 1;
    switch (form_type(form)) {
    case DEV_KV_Q8_0: return (float)((const int8_t *)x->at)[i] * scale;
    case DEV_KV_F32: return ((const float *)x->at)[i] * scale;
    case DEV_KV_F16: return quant_f16_to_f32(((const uint16_t *)x->at)[i]);
    default: return quant_bf16_to_f32(((const uint16_t *)x->at)[i]);
    }
}

static inline __attribute__((always_inline)) void weigh_all(kv_form form, int N, const page_half *x, int32_t head_v, int32_t keys,
    float *const *p, const float *rescale, float *const *out) {
    const int32_t many = value_vectors(form.type, N);
    int32_t d = 0;
    for (; d + many * VW <= head_v; d += many * VW) weigh(form, N, many, x, head_v, keys, d, p, rescale, out);
    for (; d + VW <= head_v; d += VW) weigh(form, N, 1, x, head_v, keys, d, p, rescale, out);
    for (; d < head_v; d++) // widths that no vector fits
        for (int n = 0; n < N; n++) {
            float a = out[n][d] * rescale[n];
            for (int32_t j = 0; j < keys; j++) a += p[n][j] * kv_scalar(form, x, (size_t)head_v, j, d);
            out[n][d] = a;
        }
}

// Masks, caps and exponentiates one query's scores of a page. Returns the factor for what was summed before.
static float soften(const attend_args *a, int32_t n, int32_t base, float *s, float *top, float *sum) {
    if (a->softcap > 0)
        for (int j = 0; j < KEYS; j++) s[j] = a->softcap * tanhf(s[j] / a->softcap);
    if (a->slope[n] != 0)
        for (int j = 0; j < KEYS; j++) s[j] -= a->slope[n] * fabsf((float)(base + j - a->own[n]));
    int32_t lo = a->low[n] - base, hi = a->high[n] - base;
    if (lo > 0 || hi < KEYS)
        for (int j = 0; j < KEYS; j++)
            if (j < lo || j >= hi) s[j] = -INFINITY;
    vf m = vf_load(s);
    for (int v = 1; v < SCORE_VECTORS; v++) m = vf_max(m, vf_load(s + v * VW));
    float new_top = vf_hmax(m);
    if (new_top < *top) new_top = *top;
    if (new_top == -INFINITY) { // nothing seen yet
        memset(s, 0, KEYS * sizeof *s);
        return 1;
    }
    vf vt = vf_set1(new_top), total = vf_set1(0);
    for (int v = 0; v < SCORE_VECTORS; v++) {
        vf e = vf_exp(vf_load(s + v * VW) - vt);
        vf_store(s + v * VW, e);
        total = total + e;
    }
    float f = *top == -INFINITY ? 0 : *top == new_top ? 1 : expf(*top - new_top);
    *sum = *sum * f + vf_sum(total);
    *top = new_top;
    return f;
}

// What a worker keeps of its queries, in attend_args.scratch.
typedef struct attending {
    const attend_args *a;
    float *top, *sum;     // [n]
    float *keys, *values; // a page, widened
} attending;

static attending attend_begin(const attend_args *a) {
    attending at = {a, a->scratch, a->scratch + a->n, a->scratch + 2 * a->n, a->scratch + 2 * a->n + (size_t)a->head_k * KEYS};
    for (int32_t n = 0; n < a->n; n++) {
        at.top[n] = -INFINITY;
        at.sum[n] = 0;
        memset(a->out[n], 0, (size_t)a->head_v * sizeof(float));
    }
    return at;
}

static void attend_end(const attending *at) {
    const attend_args *a = at->a;
    for (int32_t n = 0; n < a->n; n++) {
        float *out = a->out[n], f = 1;
        if (a->sink) {
            float t = a->sink[n] > at->top[n] ? a->sink[n] : at->top[n];
            f = at->top[n] == -INFINITY ? 0 : expf(at->top[n] - t);
            at->sum[n] = at->sum[n] * f + expf(a->sink[n] - t);
        }
        f = at->sum[n] > 0 ? f / at->sum[n] : 0;
        for (int32_t d = 0; d < a->head_v; d++) out[d] *= f;
    }
}

// Keys low..high-1, which any of n queries sees.
typedef struct key_range { int32_t low, high; } key_range;
static key_range keys_seen(const attend_args *a, int32_t query, int32_t n) {
    key_range k = {INT32_MAX, 0};
    for (int32_t i = query; i < query + n; i++) {
        if (a->low[i] < k.low) k.low = a->low[i];
        if (a->high[i] > k.high) k.high = a->high[i];
    }
    return k;
}

static inline const uint8_t *page_of(const attend_args *a, int32_t p) { return cpu_kv_part(a->kv, a->pages[p], a->part); }
static inline const uint8_t *page_after(const attend_args *a, int32_t p, int32_t high) { return page_of(a, (p + 1) * KEYS < high ? p + 1 : p); }

// N queries over what they see of the given keys.
static inline __attribute__((always_inline)) void attend_group(kv_form form, int N, const attending *at, int32_t query, key_range given) {
    const attend_args *a = at->a;
    const key_range seen = keys_seen(a, query, N);
    const size_t values_at = cpu_kv_values_at((dev_kv_type)form.type, a->head_k), row = KEYS * kv_elem(form.type);
    float s[QUERIES][KEYS], rescale[QUERIES];
    float *sp[QUERIES];
    for (int n = 0; n < N; n++) sp[n] = s[n];
    for (int32_t p = (given.low > seen.low ? given.low : seen.low) / KEYS; p * KEYS < given.high && p * KEYS < seen.high; p++) {
        const uint8_t *page = page_of(a, p), *next = page_after(a, p, seen.high);
        page_half keys = {page, page + values_at, (const uint16_t *)(page + (size_t)a->head_k * row)};
        page_half values = {page + values_at, next, (const uint16_t *)(page + values_at + (size_t)a->head_v * row)};
        if (form.wide) {
            keys.at = (const uint8_t *)at->keys;
            values.at = (const uint8_t *)at->values;
        }
        scores(form, N, &keys, a->head_k, a->q + query, a->scale, sp);
        for (int n = 0; n < N; n++) rescale[n] = soften(a, query + n, p * KEYS, s[n], &at->top[query + n], &at->sum[query + n]);
        weigh_all(form, N, &values, a->head_v, seen.high - p * KEYS < KEYS ? seen.high - p * KEYS : KEYS, sp, rescale, a->out + query);
    }
}

static inline __attribute__((always_inline)) void attend_pages(kv_form form, const attending *at, key_range given) {
    int32_t q = 0, n = at->a->n;
#if VW == 16
    for (; q + 8 <= n; q += 8) attend_group(form, 8, at, q, given);
    for (; q + 4 <= n; q += 4) attend_group(form, 4, at, q, given);
#elif VW == 8
    for (; q + 3 <= n; q += 3) attend_group(form, 3, at, q, given);
#endif
#if VW > 1
    for (; q + 2 <= n; q += 2) attend_group(form, 2, at, q, given);
#endif
    for (; q < n; q++) attend_group(form, 1, at, q, given);
}

static inline __attribute__((always_inline)) void widen(int type, const uint8_t *from, const uint8_t *next, int32_t n, float *to) {
    for (int32_t i = 0; i < n; i += KEYS) {
        for (int32_t j = i; j < i + KEYS; j += VW) vf_store(to + j, load_kv(type, from, (size_t)j));
        __builtin_prefetch(next + (size_t)i * kv_elem(type), 0, 2);
    }
}

static inline __attribute__((always_inline)) void attend_type(int type, const attend_args *a) {
    const attending at = attend_begin(a);
    const key_range all = keys_seen(a, 0, a->n);
    if (type == DEV_KV_F32 || a->n <= QUERIES) attend_pages((kv_form){type, false}, &at, all);
    else
        for (int32_t p = all.low / KEYS; p * KEYS < all.high; p++) {
            const uint8_t *page = page_of(a, p), *next = page_after(a, p, all.high);
            const size_t values_at = cpu_kv_values_at((dev_kv_type)type, a->head_k);
            widen(type, page, next, a->head_k * KEYS, at.keys);
            widen(type, page + values_at, next + values_at, a->head_v * KEYS, at.values);
            attend_pages((kv_form){type, true}, &at, (key_range){p * KEYS, (p + 1) * KEYS});
        }
    attend_end(&at);
}

static void attend(const attend_args *a) {
    if (a->kv_type == DEV_KV_F32) attend_type(DEV_KV_F32, a);
    else if (a->kv_type == DEV_KV_F16) attend_type(DEV_KV_F16, a);
    else if (a->kv_type == DEV_KV_Q8_0) attend_type(DEV_KV_Q8_0, a);
    else attend_type(DEV_KV_BF16, a);
}

#include "cpu/cpu_recurrent.h" // needs what is above

static void fill_generic(cpu_kernels *k) {
    k->norm = norm;
    k->rope = rope;
    k->act = act;
    k->combine = combine;
    k->vector = vector;
    k->finish = finish;
    k->gemm[CPU_RAW] = gemm_raw;
    k->gemm[CPU_F32] = gemm_f32;
    k->gemm[CPU_F16] = gemm_f16;
    k->gemm[CPU_BF16] = gemm_bf16;
    k->to_half = to_half;
    k->attend = attend;
    k->conv = conv;
    k->scan = scan;
    k->log_sum_exp = log_sum_exp;
    k->peaks = peaks;
    k->dot = dot_product;
}
