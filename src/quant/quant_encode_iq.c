// Encoders of the IQ formats: for each group of 4 or 8 elements the grid vector that costs least, under scales of few bits. Pure functions.
//
// With x the target and g a grid vector, the cost at scale s is sum w x^2 - 2 s A + s^2 B, A = sum w x g, B = sum w g^2. A and B do not
// depend on s: they are tabulated once a group for all vectors, and each scale tried is one pass over the table. A sub-block's scale
// comes from a fan of trials; then the block's scale is set, sub-scales are rounded, their neighbours tried, and the block's scale
// solved by least squares.
#include <math.h>

#include "quant/quant_decode.h"
#include "quant/quant_encode.h"
#include "quant/quant_grids.h"

enum { MAX_ENTRIES = 4096 };

typedef struct grid_spec {
    const uint16_t *grid;
    int   entries; // of the grid
    int   width;   // elements of a group: 8 (2 bits a level) or 4 (4 bits a level)
    float levels[8];
    int   sub;     // elements under one scale: 16 or 32
    int   top;     // largest sub-scale
    float unit;    // the scale is d * unit * (0.5 + sub-scale)
    bool  even;    // signs of 8 elements have an even number of minuses; otherwise they are free
    int   deltas;  // 0: signs apart; 1: a delta of +-1/8 a sub-block; 2: one a group
    float from, to; // fan of trials, as shares of the largest |x|, and how many
    int   trials;
} grid_spec;

typedef struct grid_block {
    float    d;
    uint8_t  scale[16];
    uint16_t index[64]; // of each group
    uint8_t  minus[64]; // its delta is -1/8
    uint8_t  signs[32]; // of 8 elements
} grid_block;

// A and B of every grid vector for one group (for deltas: the vectors with +1/8, then with -1/8).
typedef struct group_table {
    float a[MAX_ENTRIES], b[MAX_ENTRIES];
} group_table;

static void tabulate(const grid_spec *g, const float *x, const float *w, float delta, float *a, float *b) {
    float ha[2][256], hb[2][256], qa[4][16], qb[4][16];
    int per = g->width / 4; // elements in 4 bits of an entry
    for (int k = 0; k < 4; k++)
        for (int v = 0; v < 16; v++) {
            float sa = 0, sb = 0;
            for (int i = 0; i < per; i++) {
                int e = k * per + i;
                float l = g->levels[per == 2 ? v >> 2 * i & 3 : v & 7] + delta, wl = w ? w[e] * l : l;
                sa += wl * x[e];
                sb += wl * l;
            }
            qa[k][v] = sa;
            qb[k][v] = sb;
        }
    for (int h = 0; h < 2; h++)
        for (int v = 0; v < 256; v++) {
            ha[h][v] = qa[2 * h][v & 15] + qa[2 * h + 1][v >> 4];
            hb[h][v] = qb[2 * h][v & 15] + qb[2 * h + 1][v >> 4];
        }
    for (int k = 0; k < g->entries; k++) {
        unsigned e = g->grid[k];
        a[k] = ha[0][e & 255] + ha[1][e >> 8];
        b[k] = hb[0][e & 255] + hb[1][e >> 8];
    }
}

typedef float   lanes __attribute__((vector_size(16)));
typedef int32_t lanes_i __attribute__((vector_size(16)));

// The entry of [0, n) that costs least at this scale; n is a multiple of 4.
static int cheapest(const float *a, const float *b, int n, float scale) {
    lanes s2 = {scale * scale, scale * scale, scale * scale, scale * scale}, s1 = {2 * scale, 2 * scale, 2 * scale, 2 * scale};
    lanes best = {HUGE_VALF, HUGE_VALF, HUGE_VALF, HUGE_VALF};
    lanes_i where = {0, 0, 0, 0}, at = {0, 1, 2, 3};
    for (int k = 0; k < n; k += 4) {
        lanes va, vb;
        memcpy(&va, a + k, 16);
        memcpy(&vb, b + k, 16);
        lanes cost = s2 * vb - s1 * va;
        lanes_i less = cost < best;
        best = (lanes)((less & (lanes_i)cost) | (~less & (lanes_i)best));
        where = (less & at) | (~less & where);
        at += 4;
    }
    int r = 0;
    for (int i = 1; i < 4; i++)
        if (best[i] < best[r] || (best[i] == best[r] && where[i] < where[r])) r = i;
    return where[r];
}

typedef struct choice {
    int    entry[8]; // of each group of the sub-block; from `entries` on: with -1/8
    double a, b;     // sums over the groups
} choice;

static void choose_from(const grid_spec *g, const group_table *t, float scale, int first, int n, choice *c) {
    c->a = c->b = 0;
    for (int k = 0; k < g->sub / g->width; k++) {
        int e = first + cheapest(t[k].a + first, t[k].b + first, n, scale);
        c->entry[k] = e;
        c->a += t[k].a[e];
        c->b += t[k].b[e];
    }
}

static double cost_of(const choice *c, double scale) { return scale * (scale * c->b - 2 * c->a); }

static void choose(const grid_spec *g, const group_table *t, float scale, choice *c) {
    if (g->deltas != 1) {
        choose_from(g, t, scale, 0, g->deltas ? 2 * g->entries : g->entries, c);
        return;
    }
    choice minus;
    choose_from(g, t, scale, 0, g->entries, c);
    choose_from(g, t, scale, g->entries, g->entries, &minus);
    if (cost_of(&minus, scale) < cost_of(c, scale)) *c = minus;
}

static void fill_tables(const grid_spec *g, const float *x, const float *w, group_table *t) {
    for (int k = 0; k < g->sub / g->width; k++) {
        const float *xk = x + k * g->width, *wk = w ? w + k * g->width : NULL;
        tabulate(g, xk, wk, g->deltas ? 0.125f : 0, t[k].a, t[k].b);
        if (g->deltas) tabulate(g, xk, wk, -0.125f, t[k].a + g->entries, t[k].b + g->entries);
    }
}

static float fit_sub_block(const grid_spec *g, const float *x, const group_table *t) {
    float amax = 0, best_scale = 0;
    double best = 0;
    for (int i = 0; i < g->sub; i++) amax = fmaxf(amax, fabsf(x[i]));
    if (amax < 1e-30f) return 0;
    for (int s = 0; s < g->trials; s++) {
        float scale = amax * (g->from + (g->to - g->from) * (float)s / (float)(g->trials - 1));
        choice c;
        choose(g, t, scale, &c);
        if (c.a > 0 && c.b > 0 && c.a * c.a > best * c.b) best = c.a * c.a / c.b, best_scale = (float)(c.a / c.b);
    }
    return best_scale;
}

// Sub-scales and vectors under the block's scale b->d; *num and *den solve for the next. Returns the cost.
static double settle(const grid_spec *g, const float *x, const float *w, const float *want, grid_block *b, double *num, double *den) {
    group_table t[8];
    double total = 0;
    *num = *den = 0;
    int groups = g->sub / g->width;
    for (int j = 0; j < QUANT_K / g->sub; j++) {
        fill_tables(g, x + j * g->sub, w ? w + j * g->sub : NULL, t);
        int s0 = b->d > 0 ? quant_clamp(quant_round(want[j] / (b->d * g->unit) - 0.5f), 0, g->top) : 0;
        double best = HUGE_VAL;
        choice keep = {.b = 0};
        for (int s = s0 - 1; s <= s0 + 1; s++) {
            if (s < 0 || s > g->top) continue;
            choice c;
            float scale = b->d * g->unit * (0.5f + (float)s);
            choose(g, t, scale, &c);
            if (cost_of(&c, scale) < best) best = cost_of(&c, scale), keep = c, b->scale[j] = (uint8_t)s;
        }
        for (int k = 0; k < groups; k++) {
            b->index[j * groups + k] = (uint16_t)(keep.entry[k] % g->entries);
            b->minus[j * groups + k] = keep.entry[k] >= g->entries;
        }
        double q = g->unit * (0.5 + b->scale[j]);
        *num += q * keep.a;
        *den += q * q * keep.b;
        total += best;
    }
    return total;
}

static float half(double d) { return quant_f16_to_f32(quant_f32_to_f16(d > 65504 ? 65504.0f : (float)d)); }

static void fit_grid_block(const grid_spec *g, const float *src, const float *w, grid_block *out) {
    float x[QUANT_K], want[16], most = 0;
    *out = (grid_block){0};
    for (int i = 0; i < QUANT_K; i++) x[i] = quant_finite(src[i]);
    for (int k = 0; k < 32 && !g->deltas; k++) { // signs first: then all that is left are magnitudes
        int minuses = 0, least = 0;
        float lowest = HUGE_VALF;
        for (int i = 0; i < 8; i++) {
            float *v = &x[8 * k + i], c = *v * *v * (w ? w[8 * k + i] : 1);
            if (c < lowest) lowest = c, least = i;
            if (*v < 0) out->signs[k] |= (uint8_t)(1 << i), minuses++, *v = -*v;
        }
        if (g->even && minuses % 2) { // the sign that costs least to get wrong
            out->signs[k] ^= (uint8_t)(1 << least);
            x[8 * k + least] = -x[8 * k + least];
        }
    }
    group_table t[8];
    for (int j = 0; j < QUANT_K / g->sub; j++) {
        fill_tables(g, x + j * g->sub, w ? w + j * g->sub : NULL, t);
        want[j] = fit_sub_block(g, x + j * g->sub, t);
        most = fmaxf(most, want[j]);
    }
    if (!(most > 0)) return;
    double best = HUGE_VAL, num, den;
    float d = half(most / (g->unit * (0.5f + (float)g->top)));
    for (int round = 0; round < 2; round++) {
        grid_block b = *out;
        b.d = d;
        double cost = settle(g, x, w, want, &b, &num, &den);
        if (cost >= best) break;
        best = cost;
        *out = b;
        float next = num > 0 && den > 0 ? half(num / den) : d;
        if (next == d || next == 0) break;
        d = next;
    }
}

static const grid_spec iq2_xxs = {quant_grid_iq2_xxs, 256, 8, {8, 25, 43, 43}, 32, 15, 0.25f, true, 0, 0.015f, 0.033f, 6};
static const grid_spec iq2_xs = {quant_grid_iq2_xs, 512, 8, {8, 25, 43, 43}, 16, 15, 0.25f, true, 0, 0.015f, 0.035f, 6};
static const grid_spec iq2_s = {quant_grid_iq2_s, 1024, 8, {8, 25, 43, 43}, 16, 15, 0.25f, false, 0, 0.015f, 0.035f, 6};
static const grid_spec iq3_xxs = {quant_grid_iq3_xxs, 256, 4, {4, 12, 20, 28, 36, 44, 52, 62}, 32, 15, 0.5f, true, 0, 0.0125f, 0.021f, 6};
static const grid_spec iq3_s = {quant_grid_iq3_s, 512, 4, {1, 3, 5, 7, 9, 11, 13, 15}, 32, 15, 2, false, 0, 0.055f, 0.09f, 6};
static const grid_spec iq1_s = {quant_grid_iq1, 2048, 8, {-1, 0, 1, 1}, 32, 7, 2, false, 1, 0.35f, 0.95f, 5};
static const grid_spec iq1_m = {quant_grid_iq1, 2048, 8, {-1, 0, 1, 1}, 16, 7, 2, false, 2, 0.4f, 1.0f, 5};

QUANT_ENCODE(iq2_xxs) {
    block_iq2_xxs *o = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, o++) {
        grid_block b;
        fit_grid_block(&iq2_xxs, src + QUANT_K * k, importance ? importance + QUANT_K * k : NULL, &b);
        o->d = quant_f32_to_f16(b.d);
        for (int j = 0; j < 8; j++) {
            const uint16_t *e = b.index + 4 * j;
            uint32_t aux = (uint32_t)b.scale[j] << 28;
            for (int l = 0; l < 4; l++) aux |= (uint32_t)(b.signs[4 * j + l] & 127) << 7 * l;
            o->qs[4 * j] = (uint16_t)(e[0] | e[1] << 8);
            o->qs[4 * j + 1] = (uint16_t)(e[2] | e[3] << 8);
            o->qs[4 * j + 2] = (uint16_t)aux;
            o->qs[4 * j + 3] = (uint16_t)(aux >> 16);
        }
    }
}

QUANT_ENCODE(iq2_xs) {
    block_iq2_xs *o = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, o++) {
        grid_block b;
        fit_grid_block(&iq2_xs, src + QUANT_K * k, importance ? importance + QUANT_K * k : NULL, &b);
        o->d = quant_f32_to_f16(b.d);
        for (int l = 0; l < 32; l++) o->qs[l] = (uint16_t)(b.index[l] | (b.signs[l] & 127) << 9);
        for (int j = 0; j < 8; j++) o->scales[j] = (uint8_t)(b.scale[2 * j] | b.scale[2 * j + 1] << 4);
    }
}

QUANT_ENCODE(iq2_s) {
    block_iq2_s *o = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, o++) {
        grid_block b;
        fit_grid_block(&iq2_s, src + QUANT_K * k, importance ? importance + QUANT_K * k : NULL, &b);
        memset(o, 0, sizeof *o);
        o->d = quant_f32_to_f16(b.d);
        for (int l = 0; l < 32; l++) {
            o->qs[l] = (uint8_t)b.index[l];
            o->qs[32 + l] = b.signs[l];
            o->qh[l / 4] |= (uint8_t)(b.index[l] >> 8 << l % 4 * 2);
        }
        for (int j = 0; j < 8; j++) o->scales[j] = (uint8_t)(b.scale[2 * j] | b.scale[2 * j + 1] << 4);
    }
}

QUANT_ENCODE(iq3_xxs) {
    block_iq3_xxs *o = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, o++) {
        grid_block b;
        fit_grid_block(&iq3_xxs, src + QUANT_K * k, importance ? importance + QUANT_K * k : NULL, &b);
        o->d = quant_f32_to_f16(b.d);
        for (int l = 0; l < 64; l++) o->qs[l] = (uint8_t)b.index[l];
        for (int j = 0; j < 8; j++) {
            uint32_t aux = (uint32_t)b.scale[j] << 28;
            for (int l = 0; l < 4; l++) aux |= (uint32_t)(b.signs[4 * j + l] & 127) << 7 * l;
            memcpy(o->qs + 64 + 4 * j, &aux, 4);
        }
    }
}

QUANT_ENCODE(iq3_s) {
    block_iq3_s *o = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, o++) {
        grid_block b;
        fit_grid_block(&iq3_s, src + QUANT_K * k, importance ? importance + QUANT_K * k : NULL, &b);
        memset(o, 0, sizeof *o);
        o->d = quant_f32_to_f16(b.d);
        for (int l = 0; l < 64; l++) {
            o->qs[l] = (uint8_t)b.index[l];
            o->qh[l / 8] |= (uint8_t)(b.index[l] >> 8 << l % 8);
        }
        memcpy(o->signs, b.signs, sizeof o->signs);
        for (int j = 0; j < 4; j++) o->scales[j] = (uint8_t)(b.scale[2 * j] | b.scale[2 * j + 1] << 4);
    }
}

QUANT_ENCODE(iq1_s) {
    block_iq1_s *o = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, o++) {
        grid_block b;
        fit_grid_block(&iq1_s, src + QUANT_K * k, importance ? importance + QUANT_K * k : NULL, &b);
        o->d = quant_f32_to_f16(b.d);
        for (int j = 0; j < 8; j++) {
            unsigned h = (unsigned)b.scale[j] << 12 | (b.minus[4 * j] ? 0x8000u : 0);
            for (int l = 0; l < 4; l++) {
                o->qs[4 * j + l] = (uint8_t)b.index[4 * j + l];
                h |= (unsigned)(b.index[4 * j + l] >> 8) << 3 * l;
            }
            o->qh[j] = (uint16_t)h;
        }
    }
}

QUANT_ENCODE(iq1_m) {
    block_iq1_m *o = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, o++) {
        grid_block b;
        fit_grid_block(&iq1_m, src + QUANT_K * k, importance ? importance + QUANT_K * k : NULL, &b);
        uint16_t d = quant_f32_to_f16(b.d), sc[4];
        for (int i = 0; i < 4; i++) { // four sub-scales of 3 bits, and 4 bits of the block's scale above them
            unsigned v = (unsigned)(d >> 4 * i & 15) << 12;
            for (int l = 0; l < 4; l++) v |= (unsigned)b.scale[4 * i + l] << 3 * l;
            sc[i] = (uint16_t)v;
        }
        memcpy(o->scales, sc, sizeof sc);
        for (int l = 0; l < 32; l++) o->qs[l] = (uint8_t)b.index[l];
        for (int l = 0; l < 16; l++)
            o->qh[l] = (uint8_t)((b.index[2 * l] >> 8) | b.minus[2 * l] << 3 | (b.index[2 * l + 1] >> 8) << 4 | b.minus[2 * l + 1] << 7);
    }
}

// ---- sixteen uneven levels
// How many midpoints between levels lie below x: without branches, so that loops over it vectorize.
static inline int nearest_iq4(float x) {
    return (x > -115.5f) + (x > -93.5f) + (x > -74) + (x > -57) + (x > -42) + (x > -28.5f) + (x > -16) + (x > -4.5f) + (x > 7) + (x > 19) + (x > 31.5f) +
           (x > 45.5f) + (x > 61) + (x > 79) + (x > 101);
}

// The least-cost scale of 32 elements: a fan around either end of the levels on the largest element.
static float fit_iq4(const float *x, const float *w) {
    float amax = 0, peak = 0, best_gain = 0, best = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > amax) amax = fabsf(x[i]), peak = x[i];
    if (amax < 1e-30f) return 0;
    for (int s = -8; s <= 8; s++)
        for (int side = 0; side < 2; side++) {
            float inv = (side ? 113 + 2.5f * (float)s : -127 - 2.5f * (float)s) / peak, num = 0, den = 0;
            int nearest[32];
            for (int i = 0; i < 32; i++) nearest[i] = nearest_iq4(inv * x[i]);
            for (int i = 0; i < 32; i++) {
                float l = quant_iq4_values[nearest[i]], wl = w ? w[i] * l : l;
                num += wl * x[i];
                den += wl * l;
            }
            if (den > 0 && num * num > best_gain * den) best_gain = num * num / den, best = num / den;
        }
    return best;
}

QUANT_ENCODE(iq4_nl) {
    block_iq4_nl *o = dst;
    for (size_t k = 0; k < n / 32; k++, o++, src += 32) {
        float x[32];
        uint8_t q[32];
        for (int i = 0; i < 32; i++) x[i] = quant_finite(src[i]);
        float d = fit_iq4(x, importance ? importance + 32 * k : NULL);
        d = d < 0 ? -half(-d) : half(d);
        o->d = quant_f32_to_f16(d);
        for (int i = 0; i < 32; i++) q[i] = (uint8_t)(d != 0 ? nearest_iq4(x[i] / d) : 0);
        for (int i = 0; i < 16; i++) o->qs[i] = (uint8_t)(q[i] | q[i + 16] << 4);
    }
}

static double iq4_cost(const float *x, const float *w, float d, uint8_t *q, double *a, double *b) {
    double cost = 0;
    float inv = d != 0 ? 1 / d : 0;
    *a = *b = 0;
    int nearest[32];
    for (int i = 0; i < 32; i++) nearest[i] = nearest_iq4(x[i] * inv);
    for (int i = 0; i < 32; i++) {
        q[i] = (uint8_t)nearest[i];
        float l = quant_iq4_values[q[i]], e = x[i] - d * l, wi = w ? w[i] : 1;
        cost += (double)(e * e) * wi;
        *a += (double)(wi * l) * x[i];
        *b += (double)(wi * l) * l;
    }
    return cost;
}

QUANT_ENCODE(iq4_xs) {
    block_iq4_xs *o = dst;
    for (size_t k = 0; k < n / QUANT_K; k++, o++, src += QUANT_K) {
        float x[QUANT_K], want[8], peak = 0;
        uint8_t q[QUANT_K], keep[QUANT_K] = {0};
        int scale[8], kept[8] = {0};
        const float *w = importance ? importance + QUANT_K * k : NULL;
        for (int i = 0; i < QUANT_K; i++) x[i] = quant_finite(src[i]);
        for (int j = 0; j < 8; j++) {
            want[j] = fit_iq4(x + 32 * j, w ? w + 32 * j : NULL);
            if (fabsf(want[j]) > fabsf(peak)) peak = want[j];
        }
        float d = peak / -32, kept_d = 0;
        d = d < 0 ? -half(-d) : half(d);
        double best = HUGE_VAL;
        for (int round = 0; round < 3 && d != 0; round++) {
            double total = 0, num = 0, den = 0;
            for (int j = 0; j < 8; j++) {
                int s0 = quant_clamp(quant_round(want[j] / d), -32, 31);
                double least = HUGE_VAL, a, b, la = 0, lb = 0;
                for (int s = s0 - 1; s <= s0 + 1; s++) {
                    uint8_t t[32];
                    if (s < -32 || s > 31) continue;
                    double c = iq4_cost(x + 32 * j, w ? w + 32 * j : NULL, d * (float)s, t, &a, &b);
                    if (c < least) least = c, la = a, lb = b, scale[j] = s, memcpy(q + 32 * j, t, 32);
                }
                total += least;
                num += scale[j] * la;
                den += (double)scale[j] * scale[j] * lb;
            }
            if (total >= best) break;
            best = total;
            kept_d = d;
            memcpy(keep, q, sizeof q);
            memcpy(kept, scale, sizeof scale);
            if (den <= 0) break;
            d = num < 0 ? -half(-num / den) : half(num / den);
        }
        o->d = quant_f32_to_f16(kept_d);
        o->scales_h = 0;
        memset(o->scales_l, 0, sizeof o->scales_l);
        for (int j = 0; j < 8; j++) {
            int s = kept[j] + 32;
            o->scales_l[j / 2] |= (uint8_t)((s & 15) << j % 2 * 4);
            o->scales_h |= (uint16_t)((s >> 4) << 2 * j);
            for (int i = 0; i < 16; i++) o->qs[16 * j + i] = (uint8_t)(keep[32 * j + i] | keep[32 * j + 16 + i] << 4);
        }
    }
}
