// A device for tests of the room `model`: every op of a plan computed one row at a time in plain C, as device.h says it. Slow and obvious;
// it knows nothing of models. Weights are kept as float. Only what plans of this room use is here.
#pragma once
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "device/device.h"
#include "quant/quant.h"

typedef struct fake_weight { dev_tensor t; float *data; } fake_weight;

typedef struct fake_device {
    device   base;
    size_t   live;      // weights that were not freed
    dev_fingerprint seen;
} fake_device;

typedef struct fake_kv { float **k, **v; int n; } fake_kv; // [group * 64 + layer]: positions by page * 32 + slot

typedef struct fake_plan { float **regs; float *logits; } fake_plan;

static const float *fake_data(const dev_tensor *t) { return ((const fake_weight *)t)->data; }

static void fake_info(const device *d, dev_info *out) { (void)d; *out = (dev_info){.name = "fake", .isa = "ref", .threads = 1, .deterministic = true}; }
static size_t fake_size(const device *d, const dev_weight *w) { (void)d; return (size_t)(w->k * w->n * w->experts) * 4; }

static status fake_import(device *d, const dev_weight *w, const dev_source *s, dev_tensor **out, error *err) {
    fake_device *f = (fake_device *)d;
    size_t n = (size_t)(w->k * w->n * w->experts), bytes = 0;
    if (!quant_row_bytes((int)w->type, n, &bytes)) return error_set(err, E_INVALID, "bad row");
    fake_weight *t = mem_calloc(1, sizeof *t);
    void *raw = mem_alloc(bytes);
    if (t) t->data = mem_alloc(n * 4);
    status st = t && raw && t->data ? s->read(s->ctx, 0, bytes, raw, err) : error_set(err, E_NOMEM, "out of memory");
    if (!st) {
        quant_type_traits((int)w->type)->decode(raw, t->data, n);
        t->t = (dev_tensor){.name = mem_strdup(w->name), .type = w->type, .k = w->k, .n = w->n, .experts = w->experts, .use = w->use, .bytes = n * 4};
        for (size_t i = 0; i < bytes; i++) t->t.fingerprint.low = t->t.fingerprint.low * 31 + ((unsigned char *)raw)[i] + 1;
        if (!t->t.name) st = error_set(err, E_NOMEM, "out of memory");
    }
    mem_free(raw);
    if (st) {
        if (t) mem_free(t->data);
        mem_free(t);
        return st;
    }
    f->live++;
    *out = &t->t;
    return OK;
}

static void fake_free_weight(device *d, dev_tensor *t) {
    ((fake_device *)d)->live--;
    mem_free(((fake_weight *)t)->data);
    mem_free(t->name);
    mem_free(t);
}

static status fake_prepare(device *d, dev_plan *p, error *err) {
    (void)d;
    (void)err;
    fake_plan *f = mem_calloc(1, sizeof *f);
    f->regs = mem_calloc(p->n_regs, sizeof *f->regs);
    for (size_t i = 0; i < p->n_regs; i++)
        if (p->regs[i].parent == DEV_NONE) f->regs[i] = mem_calloc((size_t)(p->regs[i].wanted ? p->max_wanted : p->max_rows), (size_t)p->regs[i].width * 4);
    f->logits = mem_calloc((size_t)p->max_wanted + 1, (size_t)p->n_vocab * 4 + 4);
    p->backend = f;
    return OK;
}

static void fake_plan_free(device *d, dev_plan *p) {
    (void)d;
    fake_plan *f = p->backend;
    for (size_t i = 0; i < p->n_regs; i++) mem_free(f->regs[i]);
    mem_free(f->regs);
    mem_free(f->logits);
    mem_free(f);
}

static size_t fake_scratch(const device *d, const dev_plan *p, int32_t rows, int32_t wanted) { (void)d; return p->n_regs * (size_t)(rows + wanted); }
static size_t fake_page(const device *d, const dev_group *g, dev_kv_type t) {
    (void)d;
    (void)t;
    return (size_t)g->n_layers * DEV_PAGE_TOKENS * (size_t)g->n_kv * (size_t)(g->head_k + g->head_v) * 4;
}
static dev_kv_type fake_kv_type(const device *d, dev_kv_type t) { (void)d; return t ? t : DEV_KV_F32; }

static status fake_kv_create(device *d, const dev_plan *p, const int32_t *n_pages, dev_kv_type t, dev_kv **out, error *err) {
    (void)d; (void)t; (void)err;
    fake_kv *kv = mem_calloc(1, sizeof *kv);
    kv->n = DEV_MAX_GROUPS * 64;
    kv->k = mem_calloc((size_t)kv->n, sizeof *kv->k);
    kv->v = mem_calloc((size_t)kv->n, sizeof *kv->v);
    for (int g = 0; g < p->n_groups; g++)
        for (int l = 0; l < p->groups[g].n_layers; l++) {
            if (p->groups[g].kind == DEV_GROUP_RECURRENT) { // a state by page
                kv->k[g * 64 + l] = mem_calloc((size_t)n_pages[g], (size_t)p->groups[g].state_width * 4);
                continue;
            }
            kv->k[g * 64 + l] = mem_calloc((size_t)n_pages[g] * DEV_PAGE_TOKENS, (size_t)(p->groups[g].n_kv * p->groups[g].head_k) * 4);
            kv->v[g * 64 + l] = mem_calloc((size_t)n_pages[g] * DEV_PAGE_TOKENS, (size_t)(p->groups[g].n_kv * p->groups[g].head_v) * 4);
        }
    *out = (dev_kv *)kv;
    return OK;
}

static void fake_kv_destroy(device *d, dev_kv *k) {
    (void)d;
    fake_kv *kv = (fake_kv *)k;
    for (int i = 0; i < kv->n; i++) {
        mem_free(kv->k[i]);
        mem_free(kv->v[i]);
    }
    mem_free(kv->k);
    mem_free(kv->v);
    mem_free(kv);
}

// ---- ops ------------------------------------------------------------------------------------------------------------------

typedef struct fake_run { dev_plan *p; fake_plan *f; const dev_step *s; fake_kv *kv; } fake_run;

static float *fake_row(fake_run *r, dev_reg reg, int32_t row) {
    const dev_reg_info *i = &r->p->regs[reg];
    dev_reg root = i->parent != DEV_NONE ? i->parent : reg;
    return r->f->regs[root] + (size_t)row * (size_t)r->p->regs[root].width + i->first;
}

static int32_t fake_rows(fake_run *r, dev_reg reg) { return r->p->regs[reg].wanted ? r->s->n_wanted : r->s->n_rows; }

static float fake_act(dev_act a, float x) {
    switch (a) {
    case DEV_ACT_SILU: return x / (1 + expf(-x));
    case DEV_ACT_GELU: return 0.5f * x * (1 + tanhf(0.79788456f * x * (1 + 0.044715f * x * x)));
    case DEV_ACT_RELU: return x > 0 ? x : 0;
    case DEV_ACT_RELU2: return x > 0 ? x * x : 0;
    case DEV_ACT_TANH: return tanhf(x);
    case DEV_ACT_SIGMOID: return 1 / (1 + expf(-x));
    case DEV_ACT_EXP: return expf(x);
    default: return x;
    }
}

static float fake_gated(dev_act a, float gate, float up) {
    if (a != DEV_ACT_SWIGLU_OAI) return fake_act(a, gate) * up;
    gate = fminf(gate, 7);
    up = fminf(fmaxf(up, -7), 7);
    return gate / (1 + expf(-1.702f * gate)) * (up + 1);
}

static float fake_dot(const float *w, const float *x, int64_t k) {
    double s = 0;
    for (int64_t i = 0; i < k; i++) s += (double)w[i] * x[i];
    return (float)s;
}

static void fake_norm(fake_run *r, const dev_norm *o) {
    int32_t width = r->p->regs[o->src].width, group = o->group ? o->group : width;
    for (int32_t row = 0; row < fake_rows(r, o->src); row++) {
        const float *x = fake_row(r, o->src, row);
        float *y = fake_row(r, o->dst, row);
        for (int32_t g = 0; g < width; g += group) {
            double mean = 0, var = 0;
            for (int32_t i = 0; i < group; i++) mean += x[g + i];
            mean = o->kind == DEV_NORM_LAYER ? mean / group : 0;
            for (int32_t i = 0; i < group; i++) var += (x[g + i] - mean) * (x[g + i] - mean);
            double scale = o->kind == DEV_NORM_L2 ? 1 / fmax(sqrt(var), (double)o->eps) : 1 / sqrt(var / group + o->eps);
            for (int32_t i = 0; i < group; i++) {
                int64_t nw = o->weight ? o->weight->k * o->weight->n : 1, nb = o->bias ? o->bias->k * o->bias->n : 1;
                y[g + i] = (float)((x[g + i] - mean) * scale) * (o->weight ? fake_data(o->weight)[(g + i) % nw] : 1) + (o->bias ? fake_data(o->bias)[(g + i) % nb] : 0);
            }
        }
    }
}

static void fake_linear(fake_run *r, const dev_linear *o) {
    int32_t k = r->p->regs[o->src].width;
    for (int32_t row = 0; row < fake_rows(r, o->src); row++) {
        const float *x = fake_row(r, o->src, row);
        if (o->epilogue == DEV_EP_GATED) {
            float *y = fake_row(r, o->out[0].dst, row);
            int32_t n = r->p->regs[o->out[0].dst].width;
            const dev_linear_out *g = &o->out[0], *u = &o->out[o->n - 1];
            int32_t skip = o->n == 1 ? n : 0;
            for (int32_t j = 0; j < n; j++) {
                float a = fake_dot(fake_data(g->weight) + (int64_t)j * k, x, k) + (g->bias ? fake_data(g->bias)[j] : 0);
                float b = fake_dot(fake_data(u->weight) + (int64_t)(j + skip) * k, x, k) + (u->bias ? fake_data(u->bias)[j + skip] : 0);
                y[j] = fake_gated(o->act, a, b);
            }
            continue;
        }
        for (int32_t i = 0; i < o->n; i++) {
            float *y = fake_row(r, o->out[i].dst, row);
            for (int32_t j = 0; j < r->p->regs[o->out[i].dst].width; j++) {
                float v = o->out[i].scale * fake_dot(fake_data(o->out[i].weight) + (int64_t)j * k, x, k) + (o->out[i].bias ? fake_data(o->out[i].bias)[j] : 0);
                if (o->epilogue == DEV_EP_ACT) v = fake_act(o->act, v);
                if (o->epilogue == DEV_EP_RESIDUAL) v += fake_row(r, o->residual, row)[j];
                y[j] = v;
            }
        }
    }
}

static void fake_rope(fake_run *r, const dev_rope *o) { // without YaRN
    for (int32_t row = 0; row < r->s->n_rows; row++)
        for (int32_t h = 0; h < o->n_head; h++)
            for (int32_t i = 0; i < o->dims / 2; i++) {
                float *x = fake_row(r, o->reg, row) + h * o->head_dim + o->first;
                double a = r->s->positions[row] * pow(o->base, -2.0 * i / o->dims) * o->freq_scale / (o->factors ? fake_data(o->factors)[i] : 1);
                float c = (float)cos(a) * o->attn_factor, s = (float)sin(a) * o->attn_factor;
                float *p = o->kind == DEV_ROPE_NORM ? x + 2 * i : x + i, *q = o->kind == DEV_ROPE_NORM ? p + 1 : x + i + o->dims / 2;
                float u = *p, v = *q;
                *p = u * c - v * s;
                *q = u * s + v * c;
            }
}

static void fake_attend(fake_run *r, const dev_attend *o) {
    int at = o->group * 64 + o->layer, wk = o->n_kv * o->head_k, wv = o->n_kv * o->head_v;
    for (int32_t q = 0; q < r->s->n_seqs; q++)
        for (int32_t i = 0; i < r->s->seqs[q].n_rows; i++) {
            const dev_seq *s = &r->s->seqs[q];
            int32_t own = s->start + i, slot = s->pages[o->group][own / DEV_PAGE_TOKENS] * DEV_PAGE_TOKENS + own % DEV_PAGE_TOKENS;
            if (o->k == DEV_NONE) continue; // an earlier layer wrote them
            memcpy(r->kv->k[at] + (size_t)slot * (size_t)wk, fake_row(r, o->k, s->first_row + i), (size_t)wk * 4);
            memcpy(r->kv->v[at] + (size_t)slot * (size_t)wv, fake_row(r, o->v, s->first_row + i), (size_t)wv * 4);
        }
    for (int32_t q = 0; q < r->s->n_seqs; q++)
        for (int32_t i = 0; i < r->s->seqs[q].n_rows; i++)
            for (int32_t h = 0; h < o->n_head; h++) {
                const dev_seq *s = &r->s->seqs[q];
                int32_t own = s->start + i, last = o->bidirectional ? s->start + s->n_rows - 1 : own, kvh = h / (o->n_head / o->n_kv);
                const float *x = fake_row(r, o->q, s->first_row + i) + h * o->head_k;
                float *y = fake_row(r, o->dst, s->first_row + i) + h * o->head_v;
                double max = -1e30, sum = 0, w[512];
                for (int pass = 0; pass < 2; pass++) {
                    if (pass) memset(y, 0, (size_t)o->head_v * 4);
                    for (int32_t j = 0; j <= last; j++) {
                        if (o->bidirectional && o->window && abs(j - own) > o->window / 2) continue;
                        if ((o->window && j <= own - o->window) || (o->chunk && j < own / o->chunk * o->chunk)) continue;
                        size_t slot = (size_t)(s->pages[o->group][j / DEV_PAGE_TOKENS] * DEV_PAGE_TOKENS + j % DEV_PAGE_TOKENS);
                        if (!pass) {
                            w[j] = o->scale * fake_dot(r->kv->k[at] + slot * (size_t)wk + kvh * o->head_k, x, o->head_k);
                            if (o->softcap > 0) w[j] = o->softcap * tanh(w[j] / o->softcap);
                            if (o->alibi_bias > 0) w[j] -= pow(2, -(double)o->alibi_bias * (h + 1) / o->n_head) * abs(j - own); // of a power of two heads
                            if (w[j] > max) max = w[j];
                        } else
                            for (int32_t d = 0; d < o->head_v; d++) y[d] += (float)exp(w[j] - max) * r->kv->v[at][slot * (size_t)wv + (size_t)(kvh * o->head_v + d)];
                        if (pass) sum += exp(w[j] - max);
                    }
                }
                for (int32_t d = 0; d < o->head_v; d++) y[d] /= (float)sum;
            }
}

static void fake_experts(fake_run *r, const dev_experts *o) { // softmax over all, then the best
    int32_t width = r->p->regs[o->src].width, ff = (int32_t)o->up->n;
    for (int32_t row = 0; row < fake_rows(r, o->src); row++) {
        float *y = fake_row(r, o->dst, row), out[1024] = {0}, p[64], mid[4096];
        const float *x = fake_row(r, o->src, row), *rx = fake_row(r, o->router_src, row);
        float max = -1e30f, sum = 0, chosen = 0;
        bool used[64] = {0};
        for (int32_t e = 0; e < o->n_expert; e++) max = fmaxf(max, p[e] = fake_dot(fake_data(o->router) + (int64_t)e * width, rx, width));
        for (int32_t e = 0; e < o->n_expert; e++) sum += p[e] = expf(p[e] - max);
        int32_t best[64];
        for (int32_t t = 0; t < o->top_k; t++) {
            best[t] = -1;
            for (int32_t e = 0; e < o->n_expert; e++)
                if (!used[e] && (best[t] < 0 || p[e] > p[best[t]])) best[t] = e;
            used[best[t]] = true;
            chosen += p[best[t]] / sum;
        }
        for (int32_t t = 0; t < o->top_k; t++) {
            int64_t e = best[t];
            float w = p[e] / sum / (o->normalise ? chosen : 1) * o->scale;
            for (int32_t j = 0; j < ff; j++) {
                float u = fake_dot(fake_data(o->up) + (e * ff + j) * width, x, width);
                mid[j] = o->gate ? fake_gated(o->act, fake_dot(fake_data(o->gate) + (e * ff + j) * width, x, width), u) : fake_act(o->act, u);
            }
            for (int32_t j = 0; j < width; j++) out[j] += w * fake_dot(fake_data(o->down) + (e * width + j) * ff, mid, ff);
        }
        for (int32_t j = 0; j < width; j++) y[j] = out[j] + (o->residual != DEV_NONE ? fake_row(r, o->residual, row)[j] : 0);
    }
}

static float *fake_state(fake_run *r, const dev_seq *s, int32_t group, int32_t layer, int32_t at) {
    return r->kv->k[group * 64 + layer] + (size_t)s->pages[group][0] * (size_t)r->p->groups[group].state_width + at;
}

static void fake_conv(fake_run *r, const dev_conv *o) {
    int32_t n = r->p->regs[o->src].width, kept = o->taps - 1;
    for (int32_t q = 0; q < r->s->n_seqs; q++) {
        const dev_seq *s = &r->s->seqs[q];
        float *state = fake_state(r, s, o->group, o->layer, o->state_at);
        if (s->start == 0) memset(state, 0, (size_t)(n * kept) * 4);
        for (int32_t i = 0; i < s->n_rows; i++)
            for (int32_t c = 0; c < n; c++) {
                const float *w = fake_data(o->weight) + c * o->taps;
                float now = fake_row(r, o->src, s->first_row + i)[c], sum = o->bias ? fake_data(o->bias)[c] : 0;
                for (int32_t j = 0; j < kept; j++) sum += w[j] * state[j * n + c];
                for (int32_t j = 0; j < kept; j++) state[j * n + c] = j + 1 < kept ? state[(j + 1) * n + c] : now;
                fake_row(r, o->dst, s->first_row + i)[c] = fake_act(o->act, sum + w[kept] * now);
            }
    }
}

static void fake_scan(fake_run *r, const dev_scan *o) { // with given decays
    int32_t K = o->head_k, V = o->head_v;
    assert(!o->a && o->rate_kind == DEV_RATE_KEY && o->kind != DEV_SCAN_DELTA && !o->skip);
    for (int32_t q = 0; q < r->s->n_seqs; q++)
        for (int32_t i = 0; i < r->s->seqs[q].n_rows; i++)
            for (int32_t h = 0; h < o->n_head; h++) {
                const dev_seq *s = &r->s->seqs[q];
                int32_t row = s->first_row + i, key = h / (o->n_head / o->n_key) * K;
                float *S = fake_state(r, s, o->group, o->layer, o->state_at) + h * K * V;
                if (s->start == 0 && i == 0) memset(S, 0, (size_t)(K * V) * 4);
                for (int32_t c = 0; c < V; c++) {
                    float v = fake_row(r, o->v, row)[h * V + c], out = 0, old = 0;
                    for (int32_t j = 0; j < K && o->kind == DEV_SCAN_DPLR; j++) old += S[j * V + c] * fake_row(r, o->z, row)[key + j];
                    for (int32_t j = 0; j < K; j++) {
                        float x = S[j * V + c], b = o->kind == DEV_SCAN_DPLR ? fake_row(r, o->b, row)[key + j] : 0;
                        S[j * V + c] = x * expf(fake_row(r, o->rate, row)[h * K + j]) + b * old + fake_row(r, o->k, row)[key + j] * v;
                        out += (o->before ? x : S[j * V + c]) * fake_row(r, o->q, row)[key + j];
                    }
                    fake_row(r, o->dst, row)[h * V + c] = out * o->scale;
                }
            }
}

static void fake_dots(fake_run *r, const dev_dot *o) {
    int32_t n = r->p->regs[o->dst].width, each = r->p->regs[o->a].width / n;
    for (int32_t row = 0; row < fake_rows(r, o->dst); row++)
        for (int32_t i = 0; i < n; i++) fake_row(r, o->dst, row)[i] = fake_dot(fake_row(r, o->a, row) + i * each, fake_row(r, o->b, row) + i * each, each);
}

static void fake_mix(fake_run *r, const dev_mix *o) {
    int32_t width = r->p->regs[o->dst].width / o->n_dst;
    for (int32_t row = 0; row < fake_rows(r, o->dst); row++)
        for (int32_t i = 0; i < o->n_dst; i++)
            for (int32_t c = 0; c < width; c++) {
                float sum = o->add == DEV_NONE ? 0 : fake_row(r, o->add, row)[i * width + c];
                for (int32_t j = 0; j < o->n_src; j++) sum += fake_row(r, o->weight, row)[i * o->n_src + j] * fake_row(r, o->src, row)[j * width + c];
                fake_row(r, o->dst, row)[i * width + c] = sum;
            }
}

static void fake_op(fake_run *r, const dev_op *op) {
    switch (op->kind) {
    case DEV_OP_EMBED: {
        const dev_embed *o = &op->u.embed;
        for (int32_t row = 0; row < r->s->n_rows; row++)
            for (int64_t j = 0; j < o->table->k; j++)
                fake_row(r, o->dst, row)[j] = o->scale * fake_data(o->table)[(o->by_position ? r->s->positions[row] : r->s->tokens[row]) * o->table->k + j];
        break;
    }
    case DEV_OP_NORM: fake_norm(r, &op->u.norm); break;
    case DEV_OP_LINEAR: fake_linear(r, &op->u.linear); break;
    case DEV_OP_ROPE: fake_rope(r, &op->u.rope); break;
    case DEV_OP_ATTEND: fake_attend(r, &op->u.attend); break;
    case DEV_OP_EXPERTS: fake_experts(r, &op->u.experts); break;
    case DEV_OP_CONV: fake_conv(r, &op->u.conv); break;
    case DEV_OP_SCAN: fake_scan(r, &op->u.scan); break;
    case DEV_OP_DOT: fake_dots(r, &op->u.dot); break;
    case DEV_OP_MIX: fake_mix(r, &op->u.mix); break;
    case DEV_OP_COMBINE: {
        const dev_combine *o = &op->u.combine;
        for (int32_t row = 0; row < fake_rows(r, o->dst); row++)
            for (int32_t j = 0; j < r->p->regs[o->dst].width; j++) {
                float a = fake_row(r, o->a, row)[j], b = o->b == DEV_NONE ? 0 : fake_row(r, o->b, row)[j / (r->p->regs[o->dst].width / r->p->regs[o->b].width)];
                fake_row(r, o->dst, row)[j] = o->multiply ? a * b * o->sa : a * o->sa + b * o->sb;
            }
        break;
    }
    case DEV_OP_VECTOR: {
        const dev_vector *o = &op->u.vector;
        for (int32_t row = 0; row < fake_rows(r, o->dst); row++)
            for (int32_t j = 0; j < r->p->regs[o->dst].width; j++)
                fake_row(r, o->dst, row)[j] = fake_row(r, o->src, row)[j] * (o->scale ? fake_data(o->scale)[j] : 1) + (o->bias ? fake_data(o->bias)[j] : 0);
        break;
    }
    case DEV_OP_ACT: {
        const dev_activate *o = &op->u.activate;
        for (int32_t row = 0; row < fake_rows(r, o->dst); row++)
            for (int32_t j = 0; j < r->p->regs[o->dst].width; j++) {
                float g = fake_row(r, o->gate, row)[j];
                fake_row(r, o->dst, row)[j] = o->up == DEV_NONE ? fake_act(o->act, g) : fake_gated(o->act, g, fake_row(r, o->up, row)[j]);
            }
        break;
    }
    case DEV_OP_COPY: {
        const dev_copy *o = &op->u.copy;
        for (int32_t row = 0; row < fake_rows(r, o->dst); row++)
            for (int32_t i = 0; i < o->n; i++)
                memmove(fake_row(r, o->dst, row) + o->dst_first + i * o->dst_stride, fake_row(r, o->src, row) + o->src_first + i * o->src_stride, (size_t)o->width * 4);
        break;
    }
    case DEV_OP_SELECT:
        for (int32_t i = 0; i < r->s->n_wanted; i++)
            memcpy(fake_row(r, op->u.select.dst, i), fake_row(r, op->u.select.src, r->s->wanted[i]), (size_t)r->p->regs[op->u.select.dst].width * 4);
        break;
    case DEV_OP_POOL:
        for (int32_t i = 0; i < r->s->n_wanted; i++)
            for (int32_t q = 0; q < r->s->n_seqs; q++) {
                const dev_seq *s = &r->s->seqs[q];
                if (r->s->wanted[i] < s->first_row || r->s->wanted[i] >= s->first_row + s->n_rows) continue;
                for (int32_t j = 0; j < r->p->regs[op->u.pool.dst].width; j++) {
                    double sum = 0;
                    for (int32_t k = 0; k < s->n_rows; k++) sum += fake_row(r, op->u.pool.src, s->first_row + k)[j];
                    fake_row(r, op->u.pool.dst, i)[j] = (float)(sum / s->n_rows);
                }
            }
        break;
    case DEV_OP_OUTPUT: {
        const dev_output *o = &op->u.output;
        for (int32_t i = 0; i < r->s->n_wanted; i++)
            for (int64_t j = 0; j < o->weight->n; j++) {
                float v = o->scale * fake_dot(fake_data(o->weight) + j * o->weight->k, fake_row(r, o->src, i), o->weight->k) + (o->bias ? fake_data(o->bias)[j] : 0);
                r->f->logits[i * o->weight->n + j] = o->softcap > 0 ? o->softcap * tanhf(v / o->softcap) : v;
            }
        break;
    }
    case DEV_OP_HIDDEN: break;
    default: assert(!"an op that this device lacks");
    }
}

static status fake_submit(device *d, dev_plan *p, dev_kv *kv, const dev_step *s, dev_ticket *t, error *err) {
    (void)d; (void)err;
    fake_run r = {p, p->backend, s, (fake_kv *)kv};
    for (size_t i = 0; i < p->n_ops; i++) fake_op(&r, &p->ops[i]);
    *t = 1;
    return OK;
}

static status fake_wait(device *d, dev_ticket t, error *err) { (void)d; (void)t; (void)err; return OK; }
static const float *fake_logits(device *d, dev_plan *p, int32_t i) { (void)d; return ((fake_plan *)p->backend)->logits + (size_t)i * (size_t)p->n_vocab; }

static const float *fake_hidden(device *d, dev_plan *p, int32_t i) {
    (void)d;
    fake_run r = {p, p->backend, NULL, NULL};
    for (size_t k = 0; k < p->n_ops; k++)
        if (p->ops[k].kind == DEV_OP_HIDDEN) return fake_row(&r, p->ops[k].u.hidden, i);
    return NULL;
}

static status fake_imports(device *d, dev_import *w, size_t n, const dev_hooks *h, error *err) {
    status st = OK;
    uint64_t done = 0;
    for (size_t i = 0; i < n; i++) w[i].out = NULL;
    for (size_t i = 0; !st && i < n; i++) {
        size_t bytes = 0;
        if (h && h->cancelled && h->cancelled(h->ctx)) st = error_set(err, E_CANCELLED, "loading was cancelled");
        else st = fake_import(d, w[i].weight, &w[i].source, &w[i].out, err);
        if (st || !h || !h->progress || !quant_row_bytes((int)w[i].weight->type, (uint64_t)(w[i].weight->k * w[i].weight->n * w[i].weight->experts), &bytes)) continue;
        h->progress(h->ctx, done += bytes);
    }
    for (size_t i = 0; st && i < n; i++) {
        dev_free_weight(d, w[i].out);
        w[i].out = NULL;
    }
    return st;
}

static const dev_ops fake_ops = {.info = fake_info, .import_weights = fake_imports, .free_weight = fake_free_weight, .weight_size = fake_size,
                                 .prepare = fake_prepare, .plan_free = fake_plan_free, .scratch = fake_scratch, .page_bytes = fake_page,
                                 .kv_create = fake_kv_create, .kv_destroy = fake_kv_destroy, .kv_type = fake_kv_type, .submit = fake_submit,
                                 .wait = fake_wait, .logits = fake_logits, .hidden = fake_hidden};
