// cpu/recurrent: the kernels of recurrent blocks, one text for every tier, over cpu_vec.h; cpu_generic.h includes it. Vectors run over columns, each
// of which is a chain of its own: what a column gives depends neither on its neighbours nor on how rows were cut into steps.
#pragma once

static void conv(const conv_args *a) {
    float weight[DEV_MAX_TAPS][SCAN_COLUMNS], past[DEV_MAX_TAPS][SCAN_COLUMNS];
    int32_t n = a->columns, kept = a->taps - 1;
    for (int32_t c = 0; c < n; c++)
        for (int32_t j = 0; j < a->taps; j++) weight[j][c] = a->weight[c * a->taps + j];
    for (int32_t j = 0; j < kept; j++) {
        if (a->fresh) memset(past[j], 0, sizeof past[j]);
        else memcpy(past[j], a->state + (size_t)j * a->ld_state, (size_t)n * sizeof(float));
    }
    int32_t oldest = 0; // past is a ring
    for (int32_t r = 0; r < a->rows; r++) {
        const float *x = a->src + (size_t)r * a->ld_src;
        float *y = a->dst + (size_t)r * a->ld_dst;
        EACH(n, i, w) {
            vf sum = a->bias ? LOAD(a->bias + i, w) : vf_set1(0), now = LOAD(x + i, w);
            for (int32_t j = 0, at = oldest; j < kept; j++, at = at + 1 == kept ? 0 : at + 1) sum = vf_fma(LOAD(past[at] + i, w), LOAD(weight[j] + i, w), sum);
            sum = vf_fma(now, LOAD(weight[kept] + i, w), sum);
            STORE(past[oldest] + i, now, w);
            STORE(y + i, sum, w);
        }
        if (a->act != DEV_ACT_NONE) act(a->act, NULL, y, y, NULL, n);
        oldest = oldest + 1 == kept ? 0 : oldest + 1;
    }
    for (int32_t j = 0; j < kept; j++) memcpy(a->state + (size_t)j * a->ld_state, past[(oldest + j) % kept], (size_t)n * sizeof(float));
}

static inline float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }

// V vectors of columns from c on, W lanes in each (fewer than VW only in a last vector alone). decays: one for each row of the state, or, with rates
// of columns, steps and a (transposed) to make them from.
static inline __attribute__((always_inline)) void scan_columns(const scan_args *s, int V, int32_t w, int32_t c, const float *q, const float *k, const float *z,
    const float *b, const float *decay, const float *steps, const float *at, float step, float beta, const float *v, float *dst) {
    bool by_value = s->rate_kind == DEV_RATE_VALUE, delta = s->kind == DEV_SCAN_DELTA, dplr = s->kind == DEV_SCAN_DPLR;
    vf u[4], kept[4], out[4], x[4], st[4];
    for (int i = 0; i < V; i++) {
        x[i] = LOAD(v + c + i * VW, w);
        st[i] = by_value ? LOAD(steps + c + i * VW, w) : vf_set1(step);
        u[i] = kept[i] = vf_set1(0);
        out[i] = vf_set1(0);
    }
    if (delta) {
        for (int32_t r = 0; r < s->head_k; r++) {
            float *row = s->state + (size_t)r * s->ld_state + c;
            vf d = vf_set1(decay[r]), key = vf_set1(k[r]);
            for (int i = 0; i < V; i++) {
                vf y = LOAD(row + i * VW, w) * d;
                STORE(row + i * VW, y, w);
                u[i] = vf_fma(y, key, u[i]);
            }
        }
        for (int i = 0; i < V; i++) u[i] = (x[i] - u[i]) * vf_set1(beta);
    } else
        for (int i = 0; i < V; i++) {
            u[i] = x[i];
            if (!dplr) u[i] = u[i] * st[i];
        }
    for (int32_t r = 0; dplr && r < s->head_k; r++)
        for (int i = 0; i < V; i++) kept[i] = vf_fma(LOAD(s->state + (size_t)r * s->ld_state + c + i * VW, w), vf_set1(z[r]), kept[i]);
    for (int32_t r = 0; r < s->head_k; r++) {
        float *row = s->state + (size_t)r * s->ld_state + c;
        vf key = vf_set1(k[r]), query = vf_set1(q[r]);
        for (int i = 0; i < V; i++) {
            vf y = LOAD(row + i * VW, w);
            if (s->before) out[i] = vf_fma(y, query, out[i]);
            if (by_value) y = y * vf_exp(st[i] * LOAD(at + (size_t)r * SCAN_COLUMNS + c + i * VW, w));
            else if (!delta) y = y * vf_set1(decay[r]);
            if (dplr) y = vf_fma(vf_set1(b[r]), kept[i], y);
            y = vf_fma(key, u[i], y);
            STORE(row + i * VW, y, w);
            if (!s->before) out[i] = vf_fma(y, query, out[i]);
        }
    }
    for (int i = 0; i < V; i++) {
        vf y = out[i] * vf_set1(s->scale);
        if (s->skip) y = vf_fma(s->skip_columns ? LOAD(s->skip + c + i * VW, w) : vf_set1(s->skip[0]), x[i], y);
        STORE(dst + c + i * VW, y, w);
    }
}

static void scan(const scan_args *s) {
    float *decay = s->scratch, *steps = decay + s->head_k, *at = steps + SCAN_COLUMNS;
    int32_t n = s->columns;
    if (s->fresh)
        for (int32_t r = 0; r < s->head_k; r++) memset(s->state + (size_t)r * s->ld_state, 0, (size_t)n * sizeof(float));
    if (s->rate_kind == DEV_RATE_VALUE)
        for (int32_t c = 0; c < n; c++)
            for (int32_t r = 0; r < s->head_k; r++) at[(size_t)r * SCAN_COLUMNS + (size_t)c] = s->a[(size_t)c * (size_t)s->head_k + (size_t)r] * s->a_scale;
    for (int32_t t = 0; t < s->rows; t++) {
        const float *q = s->q + (size_t)t * s->ld_q, *k = s->k + (size_t)t * s->ld_k, *v = s->v + (size_t)t * s->ld_v, *rate = s->rate ? s->rate + (size_t)t * s->ld_rate : NULL;
        float *dst = s->dst + (size_t)t * s->ld_dst, step = 1, beta = s->beta ? s->beta[(size_t)t * s->ld_beta] : 1;
        const float *z = s->z ? s->z + (size_t)t * s->ld_z : NULL, *b = s->b ? s->b + (size_t)t * s->ld_b : NULL;
        if (!s->a)
            for (int32_t r = 0; r < s->head_k; r++) decay[r] = expf(rate[s->rate_kind == DEV_RATE_KEY ? r : 0]);
        else if (s->rate_kind == DEV_RATE_HEAD) {
            if (rate) step = softplus(rate[0] + (s->rate_bias ? s->rate_bias[0] : 0));
            float d = expf(step * (s->a[0] * s->a_scale));
            for (int32_t r = 0; r < s->head_k; r++) decay[r] = d;
        } else if (s->rate_kind == DEV_RATE_KEY)
            for (int32_t r = 0; r < s->head_k; r++) decay[r] = expf((rate ? softplus(rate[r] + (s->rate_bias ? s->rate_bias[r] : 0)) : 1) * (s->a[0] * s->a_scale));
        else
            for (int32_t c = 0; c < n; c++) steps[c] = rate ? softplus(rate[c] + (s->rate_bias ? s->rate_bias[c] : 0)) : 1;
        int32_t c = 0;
        for (; c + 4 * VW <= n; c += 4 * VW) scan_columns(s, 4, VW, c, q, k, z, b, decay, steps, at, step, beta, v, dst);
        for (; c + VW <= n; c += VW) scan_columns(s, 1, VW, c, q, k, z, b, decay, steps, at, step, beta, v, dst);
        if (c < n) scan_columns(s, 1, n - c, c, q, k, z, b, decay, steps, at, step, beta, v, dst);
    }
}
