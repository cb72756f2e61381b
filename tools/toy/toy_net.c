// tools/toy/toy_net: the llama architecture in float32, forward and backward by hand, and greedy text with a key-value cache.
//
// The mathematics is ggml's for `llama`: RMS norm, rotary pairs (2i, 2i+1), softmax(q.k / sqrt(head)), SwiGLU, tied output.
// Matrices are [out][in], rows of activations are [rows][width]; cblas does the products, one thread a shard.
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/quant.h"
#include "toy.h"

enum { HEAD = 32, TURNS = 1024 }; // the width of a head is fixed so that its loops become vector code
static float spin[TURNS][HEAD / 2][2];

static void place(net *m) {
    shape s = m->s;
    if (s.dim != s.heads * HEAD || s.context > TURNS)
        toy_die("heads must be %d wide and the context at most %d", HEAD, TURNS);
    for (int p = 0; p < TURNS; p++)
        for (int i = 0; i < HEAD / 2; i++) {
            double angle = p * pow(s.rope_base, -2.0 * i / HEAD);
            spin[p][i][0] = (float)cos(angle), spin[p][i][1] = (float)sin(angle);
        }
    size_t at = 0, D = (size_t)s.dim, F = (size_t)s.ffn;
    m->emb = at, at += (size_t)s.vocab * D;
    for (int l = 0; l < s.layers; l++) {
        layer_at *y = &m->layer[l];
        y->norm1 = at, at += D;
        y->qkv = at, at += 3 * D * D;
        y->out = at, at += D * D;
        y->norm2 = at, at += D;
        y->gate_up = at, at += 2 * F * D;
        y->down = at, at += D * F;
    }
    m->norm = at, at += D;
    m->n = at;
    m->w = toy_alloc(at * sizeof(float));
}

static void fill_normal(float *w, size_t n, double sd, rng *r) {
    for (size_t i = 0; i < n; i++) {
        double u = rng_unit(r) + 1e-12, v = rng_unit(r);
        w[i] = (float)(sd * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
    }
}

static void fill_ones(float *w, size_t n) {
    for (size_t i = 0; i < n; i++)
        w[i] = 1;
}

void net_init(net *m, shape s, uint64_t seed) {
    rng r = {seed};
    size_t D = (size_t)s.dim, F = (size_t)s.ffn;
    double sd = 0.04, deep = sd / sqrt(2.0 * s.layers);
    m->s = s;
    place(m);
    fill_normal(m->w + m->emb, (size_t)s.vocab * D, sd, &r);
    for (int l = 0; l < s.layers; l++) {
        layer_at *y = &m->layer[l];
        fill_ones(m->w + y->norm1, D);
        fill_ones(m->w + y->norm2, D);
        fill_normal(m->w + y->qkv, 3 * D * D, sd, &r);
        fill_normal(m->w + y->out, D * D, deep, &r);
        fill_normal(m->w + y->gate_up, 2 * F * D, sd, &r);
        fill_normal(m->w + y->down, D * F, deep, &r);
    }
    fill_ones(m->w + m->norm, D);
}

void net_save(const net *m, const char *path) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(&m->s, sizeof m->s, 1, f) != 1 || fwrite(m->w, sizeof(float), m->n, f) != m->n || fclose(f))
        toy_die("%s: cannot be written", path);
}

void net_load(net *m, const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f || fread(&m->s, sizeof m->s, 1, f) != 1 || m->s.layers < 1 || m->s.layers > 16)
        toy_die("%s: no checkpoint of toy", path);
    place(m);
    if (fread(m->w, sizeof(float), m->n, f) != m->n)
        toy_die("%s: ends early", path);
    fclose(f);
}

// A 32-block of Q8_0: a half-precision scale and 32 signed bytes.
static void round_block(float *x) {
    float top = 0;
    for (int i = 0; i < 32; i++)
        top = fmaxf(top, fabsf(x[i]));
    float d = top / 127, inverse = d > 0 ? 1 / d : 0;
    float kept = quant_f16_to_f32(quant_f32_to_f16(d));
    for (int i = 0; i < 32; i++)
        x[i] = roundf(x[i] * inverse) * kept;
}

void net_round_q8(net *m) {
    shape s = m->s;
    size_t D = (size_t)s.dim, F = (size_t)s.ffn;
    for (size_t i = 0; i < (size_t)s.vocab * D; i += 32)
        round_block(m->w + m->emb + i);
    for (int l = 0; l < s.layers; l++) {
        layer_at *y = &m->layer[l];
        const struct { size_t at, n; } part[] = {{y->qkv, 3 * D * D}, {y->out, D * D}, {y->gate_up, 2 * F * D}, {y->down, D * F}};
        for (int p = 0; p < 4; p++)
            for (size_t i = 0; i < part[p].n; i += 32)
                round_block(m->w + part[p].at + i);
    }
}

// ---- products -----------------------------------------------------------------------------------------------------------------
// y[T][N] = x[T][K] w[N][K]'
static void mul(float *y, const float *x, const float *w, int T, int N, int K, float beta) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, T, N, K, 1, x, K, w, K, beta, y, N);
}
// dx[T][K] = beta dx + dy[T][N] w[N][K]
static void mul_back(float *dx, const float *dy, const float *w, int T, int N, int K, float beta) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, T, K, N, 1, dy, N, w, K, beta, dx, K);
}
// dw[N][K] += dy[T][N]' x[T][K]
static void mul_grad(float *dw, const float *dy, const float *x, int T, int N, int K) {
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, N, K, T, 1, dy, N, x, K, 1, dw, K);
}

static void norm_forward(float *y, float *inv, const float *x, const float *g, int T, int D, float eps) {
    for (int t = 0; t < T; t++) {
        const float *a = x + (size_t)t * D;
        float *o = y + (size_t)t * D, sum = 0;
        for (int i = 0; i < D; i++)
            sum += a[i] * a[i];
        float r = inv[t] = 1 / sqrtf(sum / (float)D + eps);
        for (int i = 0; i < D; i++)
            o[i] = a[i] * r * g[i];
    }
}

// dx += d(norm)/dx dy; dg += ...
static void norm_backward(float *dx, float *dg, const float *dy, const float *x, const float *inv, const float *g, int T, int D) {
    for (int t = 0; t < T; t++) {
        const float *a = x + (size_t)t * D, *d = dy + (size_t)t * D;
        float *o = dx + (size_t)t * D, r = inv[t], dot = 0;
        for (int i = 0; i < D; i++)
            dot += d[i] * g[i] * a[i];
        float k = dot * r * r * r / (float)D;
        for (int i = 0; i < D; i++) {
            dg[i] += d[i] * a[i] * r;
            o[i] += d[i] * g[i] * r - a[i] * k;
        }
    }
}

// Rotates the pairs of one row of q or k (all heads); sign -1 turns back. spin[pos][pair] is (cos, sin), filled by place().
static void rotate(float *x, int pos, int heads, float sign) {
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < HEAD / 2; i++) {
            float *p = x + h * HEAD + 2 * i, a = p[0], b = p[1], c = spin[pos][i][0], s = spin[pos][i][1] * sign;
            p[0] = a * c - b * s;
            p[1] = a * s + b * c;
        }
}

// One query against keys 0..n-1: p gets the weights, o the mixed values. Key and value rows are `step` floats apart.
static void attend(float *o, float *p, const float *q, const float *k, const float *v, int n, size_t step) {
    float scale = 1 / sqrtf((float)HEAD), top = -1e30f, sum = 0;
    for (int j = 0; j < n; j++) {
        float dot = 0;
        for (int i = 0; i < HEAD; i++)
            dot += q[i] * k[(size_t)j * step + i];
        p[j] = dot * scale;
        top = fmaxf(top, p[j]);
    }
    for (int j = 0; j < n; j++)
        sum += p[j] = expf(p[j] - top);
    memset(o, 0, HEAD * sizeof *o);
    for (int j = 0; j < n; j++) {
        p[j] /= sum;
        for (int i = 0; i < HEAD; i++)
            o[i] += p[j] * v[(size_t)j * step + i];
    }
}

static void attend_back(float *dq, float *dk, float *dv, const float *dout, const float *p, const float *q, const float *k,
                        const float *v, int n, size_t step) {
    float scale = 1 / sqrtf((float)HEAD), mean = 0, dp[1024];
    for (int j = 0; j < n; j++) {
        float dot = 0;
        for (int i = 0; i < HEAD; i++) {
            dot += dout[i] * v[(size_t)j * step + i];
            dv[(size_t)j * step + i] += p[j] * dout[i];
        }
        dp[j] = dot;
        mean += p[j] * dot;
    }
    for (int j = 0; j < n; j++) {
        float ds = p[j] * (dp[j] - mean) * scale;
        for (int i = 0; i < HEAD; i++) {
            dq[i] += ds * k[(size_t)j * step + i];
            dk[(size_t)j * step + i] += ds * q[i];
        }
    }
}

// ---- a shard ------------------------------------------------------------------------------------------------------------------
// Activations kept for the way back: per layer x, h1 [D], qkv [3D], att [D], x2, h2 [D], gu [2F], s [F], two inverse norms.
static size_t layer_floats(const shape *s) { return (size_t)(8 * s->dim + 3 * s->ffn + 2); }

typedef struct kept { float *x, *h1, *qkv, *att, *x2, *h2, *gu, *s, *inv1, *inv2; } kept;

static kept kept_of(const shard *b, const shape *s, int l) {
    size_t T = (size_t)b->cap, D = (size_t)s->dim, F = (size_t)s->ffn;
    float *a = b->act + (size_t)l * layer_floats(s) * T;
    kept k;
    k.x = a, a += T * D;
    k.h1 = a, a += T * D;
    k.qkv = a, a += 3 * T * D;
    k.att = a, a += T * D;
    k.x2 = a, a += T * D;
    k.h2 = a, a += T * D;
    k.gu = a, a += 2 * T * F;
    k.s = a, a += T * F;
    k.inv1 = a, a += T;
    k.inv2 = a;
    return k;
}

void shard_init(shard *b, const net *m, int cap) {
    const shape *s = &m->s;
    size_t T = (size_t)cap, D = (size_t)s->dim, F = (size_t)s->ffn;
    memset(b, 0, sizeof *b);
    b->cap = cap;
    b->token = toy_alloc(T * sizeof(int));
    b->start = toy_alloc(T * sizeof(int));
    b->target = toy_alloc(T * sizeof(int));
    b->counts = toy_alloc(T * sizeof(int));
    b->weight = toy_alloc(T * sizeof(float));
    // the layers; then the last x, its norm, inverse; logits; the way back: dx, dh [D], dqkv [3D], dgu [2F], ds [F]
    b->act_floats = T * (layer_floats(s) * (size_t)s->layers + 2 * D + 1 + (size_t)s->vocab + 2 * D + 3 * D + 3 * F);
    b->act = toy_alloc(b->act_floats * sizeof(float));
    b->grad = toy_alloc(m->n * sizeof(float));
    b->prob = toy_alloc((size_t)s->layers * T * T * (size_t)s->heads * sizeof(float));
}

static float *prob_of(const shard *b, const shape *s, int l, int t, int h) {
    return b->prob + (((size_t)l * b->cap + t) * s->heads + h) * b->cap;
}

static void layer_forward(shard *b, const net *m, int l, float *next) {
    const shape *s = &m->s;
    const layer_at *y = &m->layer[l];
    kept k = kept_of(b, s, l);
    int T = b->rows, D = s->dim, F = s->ffn;
    norm_forward(k.h1, k.inv1, k.x, m->w + y->norm1, T, D, s->eps);
    mul(k.qkv, k.h1, m->w + y->qkv, T, 3 * D, D, 0);
    for (int t = 0; t < T; t++) {
        float *row = k.qkv + (size_t)t * 3 * D;
        rotate(row, t - b->start[t], 2 * s->heads, 1); // q and k lie side by side
        const float *first = k.qkv + (size_t)b->start[t] * 3 * D;
        for (int h = 0; h < s->heads; h++)
            attend(k.att + (size_t)t * D + h * HEAD, prob_of(b, s, l, t, h), row + h * HEAD, first + D + h * HEAD, first + 2 * D + h * HEAD,
                   t - b->start[t] + 1, (size_t)3 * D);
    }
    memcpy(k.x2, k.x, (size_t)T * D * sizeof(float));
    mul(k.x2, k.att, m->w + y->out, T, D, D, 1);
    norm_forward(k.h2, k.inv2, k.x2, m->w + y->norm2, T, D, s->eps);
    mul(k.gu, k.h2, m->w + y->gate_up, T, 2 * F, D, 0);
    for (int t = 0; t < T; t++) {
        const float *g = k.gu + (size_t)t * 2 * F, *u = g + F;
        for (int i = 0; i < F; i++)
            k.s[(size_t)t * F + i] = g[i] / (1 + expf(-g[i])) * u[i];
    }
    memcpy(next, k.x2, (size_t)T * D * sizeof(float));
    mul(next, k.s, m->w + y->down, T, D, F, 1);
}

// dx holds d/d(output of the layer) and becomes d/d(input).
static void layer_backward(shard *b, const net *m, int l, float *dx, float *scratch) {
    const shape *s = &m->s;
    const layer_at *y = &m->layer[l];
    kept k = kept_of(b, s, l);
    int T = b->rows, D = s->dim, F = s->ffn;
    float *dh = scratch, *dqkv = dh + (size_t)b->cap * D, *dgu = dqkv + (size_t)b->cap * 3 * D, *ds = dgu + (size_t)b->cap * 2 * F;
    float *G = b->grad;
    mul_grad(G + y->down, dx, k.s, T, D, F);
    mul_back(ds, dx, m->w + y->down, T, D, F, 0);
    for (int t = 0; t < T; t++) {
        const float *g = k.gu + (size_t)t * 2 * F, *u = g + F, *d = ds + (size_t)t * F;
        float *dg = dgu + (size_t)t * 2 * F, *du = dg + F;
        for (int i = 0; i < F; i++) {
            float sig = 1 / (1 + expf(-g[i]));
            du[i] = d[i] * g[i] * sig;
            dg[i] = d[i] * u[i] * sig * (1 + g[i] * (1 - sig));
        }
    }
    mul_grad(G + y->gate_up, dgu, k.h2, T, 2 * F, D);
    mul_back(dh, dgu, m->w + y->gate_up, T, 2 * F, D, 0);
    norm_backward(dx, G + y->norm2, dh, k.x2, k.inv2, m->w + y->norm2, T, D);

    mul_grad(G + y->out, dx, k.att, T, D, D);
    mul_back(dh, dx, m->w + y->out, T, D, D, 0);
    memset(dqkv, 0, (size_t)T * 3 * D * sizeof(float));
    for (int t = 0; t < T; t++) {
        const float *row = k.qkv + (size_t)t * 3 * D, *first = k.qkv + (size_t)b->start[t] * 3 * D;
        float *drow = dqkv + (size_t)t * 3 * D, *dfirst = dqkv + (size_t)b->start[t] * 3 * D;
        for (int h = 0; h < s->heads; h++) {
            int o = h * HEAD;
            attend_back(drow + o, dfirst + D + o, dfirst + 2 * D + o, dh + (size_t)t * D + o, prob_of(b, s, l, t, h), row + o,
                        first + D + o, first + 2 * D + o, t - b->start[t] + 1, (size_t)3 * D);
        }
    }
    for (int t = 0; t < T; t++)
        rotate(dqkv + (size_t)t * 3 * D, t - b->start[t], 2 * s->heads, -1);
    mul_grad(G + y->qkv, dqkv, k.h1, T, 3 * D, D);
    mul_back(dh, dqkv, m->w + y->qkv, T, 3 * D, D, 0);
    norm_backward(dx, G + y->norm1, dh, k.x, k.inv1, m->w + y->norm1, T, D);
}

// Cross entropy over the rows that count; their logits become d(loss)/d(logits). rows[] are the row numbers, n of them.
static void cross_entropy(shard *b, float *logits, const int *rows, int n, int V, float scale) {
    for (int r = 0; r < n; r++) {
        float *z = logits + (size_t)r * V, top = z[0], sum = 0, weight = b->weight[rows[r]];
        int want = b->target[rows[r]], best = 0;
        for (int i = 1; i < V; i++)
            if (z[i] > top)
                top = z[i], best = i;
        float at = z[want];
        for (int i = 0; i < V; i++)
            sum += z[i] = expf(z[i] - top);
        b->loss += weight * (logf(sum) + top - at);
        if (weight >= 1)
            b->counted += 1, b->right += best == want;
        float k = scale * weight / sum;
        for (int i = 0; i < V; i++)
            z[i] *= k;
        z[want] -= scale * weight;
    }
}

void shard_run(shard *b, const net *m, float scale) {
    const shape *s = &m->s;
    int T = b->rows, D = s->dim, V = s->vocab, n = 0;
    size_t cap = (size_t)b->cap;
    float *x = b->act + layer_floats(s) * (size_t)s->layers * cap, *h = x + cap * D, *inv = h + cap * D, *logits = inv + cap;
    float *dx = logits + cap * V, *scratch = dx + cap * D;
    float *first = kept_of(b, s, 0).x;
    int *rows = b->counts;
    memset(b->grad, 0, m->n * sizeof(float));
    b->loss = b->right = b->counted = 0;
    for (int t = 0; t < T; t++)
        memcpy(first + (size_t)t * D, m->w + m->emb + (size_t)b->token[t] * D, (size_t)D * sizeof(float));
    for (int l = 0; l < s->layers; l++)
        layer_forward(b, m, l, l + 1 < s->layers ? kept_of(b, s, l + 1).x : x);
    norm_forward(h, inv, x, m->w + m->norm, T, D, s->eps);
    // only rows that count need logits: they are gathered at the head of scratch
    float *some = scratch, *dsome = scratch + cap * D;
    for (int t = 0; t < T; t++)
        if (b->weight[t] > 0) {
            memcpy(some + (size_t)n * D, h + (size_t)t * D, (size_t)D * sizeof(float));
            rows[n++] = t;
        }
    mul(logits, some, m->w + m->emb, n, V, D, 0);
    cross_entropy(b, logits, rows, n, V, scale);
    mul_grad(b->grad + m->emb, logits, some, n, V, D);
    mul_back(dsome, logits, m->w + m->emb, n, V, D, 0);
    memset(h, 0, (size_t)T * D * sizeof(float)); // h becomes d(loss)/dh
    for (int r = 0; r < n; r++)
        memcpy(h + (size_t)rows[r] * D, dsome + (size_t)r * D, (size_t)D * sizeof(float));
    memset(dx, 0, (size_t)T * D * sizeof(float));
    norm_backward(dx, b->grad + m->norm, h, x, inv, m->w + m->norm, T, D);
    for (int l = s->layers - 1; l >= 0; l--)
        layer_backward(b, m, l, dx, scratch);
    for (int t = 0; t < T; t++) {
        float *g = b->grad + m->emb + (size_t)b->token[t] * D;
        for (int i = 0; i < D; i++)
            g[i] += dx[(size_t)t * D + i];
    }
}

// ---- greedy text --------------------------------------------------------------------------------------------------------------
static void vector(float *y, const float *w, const float *x, int N, int K) {
    for (int n = 0; n < N; n++) {
        float sum = 0;
        for (int i = 0; i < K; i++)
            sum += w[(size_t)n * K + i] * x[i];
        y[n] = sum;
    }
}

// What one sequence needs: cache is [layers][context][3 dim], the rest one row each.
typedef struct state { float *cache, *x, *h, *t, *gu, *p, *logits; } state;

// One token at position pos; returns the likeliest next token.
static int step(const net *m, const state *z, int token, int pos, bool want) {
    const shape *s = &m->s;
    int D = s->dim, F = s->ffn, best = 0;
    float *x = z->x, *h = z->h, *t = z->t, *gu = z->gu, *logits = z->logits, inv;
    memcpy(x, m->w + m->emb + (size_t)token * D, (size_t)D * sizeof *x);
    for (int l = 0; l < s->layers; l++) {
        const layer_at *y = &m->layer[l];
        float *rows = z->cache + (size_t)l * s->context * 3 * D, *row = rows + (size_t)pos * 3 * D;
        norm_forward(h, &inv, x, m->w + y->norm1, 1, D, s->eps);
        vector(row, m->w + y->qkv, h, 3 * D, D);
        rotate(row, pos, 2 * s->heads, 1);
        for (int i = 0; i < s->heads; i++)
            attend(h + i * HEAD, z->p, row + i * HEAD, rows + D + i * HEAD, rows + 2 * D + i * HEAD, pos + 1, (size_t)3 * D);
        vector(t, m->w + y->out, h, D, D);
        for (int i = 0; i < D; i++)
            x[i] += t[i];
        norm_forward(h, &inv, x, m->w + y->norm2, 1, D, s->eps);
        vector(gu, m->w + y->gate_up, h, 2 * F, D);
        for (int i = 0; i < F; i++)
            gu[i] = gu[i] / (1 + expf(-gu[i])) * gu[F + i];
        vector(t, m->w + y->down, gu, D, F);
        for (int i = 0; i < D; i++)
            x[i] += t[i];
    }
    if (!want)
        return 0;
    norm_forward(h, &inv, x, m->w + m->norm, 1, D, s->eps);
    vector(logits, m->w + m->emb, h, s->vocab, D);
    for (int i = 1; i < s->vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

int net_generate(const net *m, const int *prompt, int n, int *out, int max, int end) {
    const shape *s = &m->s;
    size_t D = (size_t)s->dim, n_cache = (size_t)s->layers * (size_t)s->context * 3 * D;
    float *all = toy_alloc((n_cache + 3 * D + 2 * (size_t)s->ffn + (size_t)s->context + (size_t)s->vocab) * sizeof(float));
    state z = {.cache = all, .x = all + n_cache};
    z.h = z.x + D, z.t = z.h + D, z.gu = z.t + D, z.p = z.gu + 2 * s->ffn, z.logits = z.p + s->context;
    int token = 0, made = 0;
    for (int i = 0; i < n; i++)
        token = step(m, &z, prompt[i], i, i == n - 1);
    while (token != end && made < max && n + made < s->context) {
        out[made] = token;
        token = step(m, &z, token, n + made, true);
        made++;
    }
    free(all);
    return made;
}
