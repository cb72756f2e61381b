// model/rwkv: layers of RWKV-6 (arXiv 2404.05892) and RWKV-7 (arXiv 2503.14456), and of models that took their time mix in attention's place
// (rwkv6qwen2, arwkv7). Every input is a blend of a row and the row before it, x + m (previous - x): RWKV-7 has fixed blends m, RWKV-6 adds to them
// what a small network makes of the row.
//
// A layer's state: the row before of the time mix, that of the channel mix where there is one, then the heads' matrices.
// Registers tm[]: PREV the row before, minus the row; IN a blend; R, K, V, W (the logarithm of the decay), A, G what comes of blends; Z, B the rank-one
// update of RWKV-7; FIRST the first layer's values; SUM scratch; LOW low-rank vectors; BONUS one value a head.
#include <math.h>
#include <string.h>

#include "model/model_internal.h"

enum { BLENDS_6 = 5, BLENDS_7 = 6 };
#define GROUP_EPS 64e-5f // of the norm of each head's result

static bool seventh(const hparams *hp) { return hp->row->recur == RECUR_RWKV7; }
static bool channel_mix(const hparams *hp) { return hp->row->more & B_CHANNEL_MIX; }

int64_t rwkv_shift_rows(const hparams *hp) { return channel_mix(hp) ? 2 : 1; }

status rwkv_sizes(const gguf *g, hparams *hp, error *err) {
    int32_t head;
    status st = need_int(g, hp, "wkv.head_size", 1, MAX_HEAD_DIM, &head, err);
    if (st) return st;
    if (hp->n_embd % head || hp->n_embd / head > MAX_HEADS)
        return error_set(err, E_INVALID, "key \"%s.wkv.head_size\" is %d, which is no head of %d columns", hp->row->name, head, hp->n_embd);
    hp->taps = 2;
    hp->state_k = hp->state_v = head;
    hp->state_heads = hp->state_keys = hp->n_embd / head;
    for (int32_t i = 0; i < hp->n_layers; i++) {
        layer_hp *l = &hp->layers[i];
        if (!l->recurrent) return bind_missing(i, S_TM_KEY, false, err);
        if (l->n_kv == 0 || seventh(hp)) l->n_kv = hp->state_heads;
        if (hp->state_heads % l->n_kv)
            return error_set(err, E_INVALID, "key \"%s.attention.head_count_kv\" is %d, which does not divide %d heads", hp->row->name, l->n_kv, hp->state_heads);
    }
    return OK;
}

// ---- tensors --------------------------------------------------------------------------------------------------------------

static int64_t rank(const slot_pair *p) { return p->w ? p->w->desc.n : 0; }

// A fused tensor is bound as so many vectors in a row.
static uint64_t blends(const slot_pair *p) { return p->w ? p->w->src->bytes / p->w->bytes : 0; }

static status bad_blends(const slot_pair *p, int32_t need, error *err) {
    return error_set(err, E_INVALID, "tensor \"%s\" holds %llu blends, expected %d", p->w->desc.name, (unsigned long long)blends(p), need);
}

static status check_6(const hparams *hp, slot_pair *s, int32_t il, error *err) {
    int64_t e = hp->n_embd, kv = (int64_t)hp->layers[il].n_kv * hp->state_k, extra = rank(&s[S_TM_W1]) / BLENDS_6;
    if (s[S_TM_LERP].w && blends(&s[S_TM_LERP]) != BLENDS_6) return bad_blends(&s[S_TM_LERP], BLENDS_6, err);
    for (int i = 0; s[S_TM_LERP].w && i < BLENDS_6; i++) s[S_TM_LERP_W + i] = (slot_pair){.w = s[S_TM_LERP].w + i, .factor = 1};
    status st = SHAPES(MAT(S_TM_W1, e, BLENDS_6 * extra), MAT(S_TM_W2, extra, e),
                       VEC(S_TM_LERP_X, e), VEC(S_TM_LERP_W, e), VEC(S_TM_LERP_K, e), VEC(S_TM_LERP_V, e), VEC(S_TM_LERP_R, e), VEC(S_TM_LERP_G, e),
                       VEC_MAY(S_TM_FIRST, e), VEC(S_TM_DECAY, e), MAT(S_TM_DECAY_W1, e, rank(&s[S_TM_DECAY_W1])), MAT(S_TM_DECAY_W2, rank(&s[S_TM_DECAY_W1]), e),
                       MAT(S_TM_KEY, e, kv), MAT(S_TM_VALUE, e, kv), MAT(S_TM_RECEPTANCE, e, e), MAT(S_TM_GATE, e, e), MAT(S_TM_OUT, e, e));
    if (st) return st;
    const bound_tensor *w2 = s[S_TM_W2].w;
    if (w2->src->dims[2] != BLENDS_6)
        return error_set(err, E_INVALID, "tensor \"%s\" holds %llu matrices, expected %d", w2->desc.name, (unsigned long long)w2->src->dims[2], BLENDS_6);
    return s[S_TM_FIRST].w ? SHAPES(VEC(S_TM_LN, e), BIAS(S_TM_LN, e)) : OK;
}

static status check_7(const hparams *hp, slot_pair *s, int32_t il, error *err) {
    int64_t e = hp->n_embd, w = rank(&s[S_TM_W1]), a = rank(&s[S_TM_A1]), v = rank(&s[S_TM_V1]), g = rank(&s[S_TM_G1]);
    status st = SHAPES(VEC(S_TM_W0, e), MAT(S_TM_W1, e, w), MAT(S_TM_W2, w, e), VEC(S_TM_A0, e), MAT(S_TM_A1, e, a), MAT(S_TM_A2, a, e),
                       VEC(S_TM_KK, e), VEC(S_TM_KA, e), VEC(S_TM_RK, e), MAT(S_TM_KEY, e, e), MAT(S_TM_VALUE, e, e), MAT(S_TM_RECEPTANCE, e, e),
                       MAT(S_TM_OUT, e, e), VEC(S_TM_LERP, e));
    if (!st && il > 0) st = SHAPES(VEC(S_TM_V0, e), MAT(S_TM_V1, e, v), MAT(S_TM_V2, v, e));
    if (!st && s[S_TM_G1].w) st = SHAPES(MAT(S_TM_G1, e, g), MAT(S_TM_G2, g, e));
    if (!st && (s[S_TM_LN].w || s[S_TM_LN].b)) st = SHAPES(VEC(S_TM_LN, e), BIAS(S_TM_LN, e));
    int32_t need = s[S_TM_G1].w ? BLENDS_7 : BLENDS_7 - 1;
    if (!st && blends(&s[S_TM_LERP]) < (uint64_t)need) st = bad_blends(&s[S_TM_LERP], need, err);
    if (!st && s[S_TM_W2].w->src->dims[2] != 1) st = error_set(err, E_INVALID, "tensor \"%s\" has more dimensions than expected", s[S_TM_W2].w->desc.name);
    return st;
}

status check_rwkv(const hparams *hp, slot_pair *s, int32_t il, error *err) {
    int64_t e = hp->n_embd, ff = rank(&s[S_CM_KEY]);
    status st = seventh(hp) ? check_7(hp, s, il, err) : check_6(hp, s, il, err);
    if (!st && channel_mix(hp)) st = SHAPES(VEC(S_CM_LERP_K, e), MAT(S_CM_KEY, e, ff), MAT(S_CM_VALUE, ff, e));
    if (!st && channel_mix(hp) && !seventh(hp)) st = SHAPES(VEC(S_CM_LERP_R, e), MAT(S_CM_RECEPTANCE, e, e));
    return st;
}

// ---- the plan -------------------------------------------------------------------------------------------------------------

void graph_rwkv_registers(graph *c) {
    const hparams *hp = c->hp;
    int64_t low = 1;
    static const slot lows[] = {S_TM_W1, S_TM_A1, S_TM_V1, S_TM_G1, S_TM_DECAY_W1};
    for (int32_t i = 0; i < hp->n_layers; i++)
        for (size_t k = 0; k < sizeof lows / sizeof *lows; k++)
            if (rank(&c->b->layers[i].s[lows[k]]) > low) low = rank(&c->b->layers[i].s[lows[k]]);
    for (int i = 0; i < TM_COUNT; i++) c->tm[i] = dev_reg_all(c->p, i == TM_LOW ? (int32_t)low : i == TM_BONUS ? hp->state_heads : hp->n_embd);
}

static void multiply(graph *c, dev_reg dst, dev_reg a, dev_reg b) { dev_op_combine(c->p, (dev_combine){.dst = dst, .a = a, .b = b, .sa = 1, .multiply = true}); }
static void scaled(graph *c, dev_reg dst, dev_reg src, const dev_tensor *by) { dev_op_vector(c->p, (dev_vector){.dst = dst, .src = src, .scale = by}); }

// dst = act(w src + bias)
static void through(graph *c, dev_reg dst, dev_reg src, const dev_tensor *w, const dev_tensor *bias, dev_act act) {
    dev_epilogue after = act == DEV_ACT_NONE ? DEV_EP_NONE : DEV_EP_ACT;
    dev_op_linear(c->p, (dev_linear){.src = src, .n = 1, .residual = DEV_NONE, .epilogue = after, .act = act, .out = {{dst, w, bias, 1, 0}}});
}

// PREV = the row before x, minus x
static void shift(graph *c, dev_reg x, int32_t layer, int32_t row) {
    dev_reg prev = c->tm[TM_PREV];
    dev_op_conv(c->p, (dev_conv){.dst = prev, .src = x, .group = c->state_group, .layer = layer, .state_at = row * c->hp->n_embd,
                                 .taps = 2, .weight = c->b->shift->dev, .act = DEV_ACT_NONE});
    dev_op_combine(c->p, (dev_combine){.dst = prev, .a = prev, .b = x, .sa = 1, .sb = -1});
}

// dst = x + by * diff
static void blend(graph *c, dev_reg dst, dev_reg x, dev_reg diff, const dev_tensor *by) {
    scaled(c, dst, diff, by);
    dev_add(c->p, dst, dst, x);
}

// From n_kv heads to all: each stands as often as it has queries.
static void repeat_heads(graph *c, dev_reg dst, dev_reg src, int32_t n_kv) {
    int32_t each = c->hp->state_k, share = c->hp->state_heads / n_kv;
    for (int32_t h = 0; h < n_kv; h++)
        dev_op_copy(c->p, (dev_copy){.dst = dst, .src = src, .n = share, .width = each, .src_first = h * each, .src_stride = 0, .dst_first = h * share * each, .dst_stride = each});
}

static dev_scan scan_of(const graph *c, int32_t layer) {
    const hparams *hp = c->hp;
    return (dev_scan){.q = c->tm[TM_R], .k = c->tm[TM_K], .v = c->tm[TM_V], .rate = c->tm[TM_W], .beta = DEV_NONE, .rate_kind = DEV_RATE_KEY,
                      .group = c->state_group, .layer = layer, .state_at = (int32_t)rwkv_shift_rows(hp) * hp->n_embd,
                      .n_head = hp->state_heads, .n_key = hp->state_heads, .head_k = hp->state_k, .head_v = hp->state_v, .scale = 1};
}

// att += v * (r . k u) of each head; SUM is overwritten.
static void bonus(graph *c, dev_reg att, const dev_tensor *u) {
    dev_reg sum = c->tm[TM_SUM];
    scaled(c, sum, c->tm[TM_K], u);
    dev_op_dot(c->p, (dev_dot){.dst = c->tm[TM_BONUS], .a = c->tm[TM_R], .b = sum});
    multiply(c, sum, c->tm[TM_V], c->tm[TM_BONUS]);
    dev_add(c->p, att, att, sum);
}

static void head_norm(graph *c, dev_reg att, const slot_pair *s) {
    dev_op_norm(c->p, (dev_norm){.dst = att, .src = att, .kind = DEV_NORM_LAYER, .group = c->hp->state_v, .eps = GROUP_EPS,
                                 .weight = graph_weight(s), .bias = graph_bias(s), .add = DEV_NONE, .sum = DEV_NONE});
}

static void time_mix_6(graph *c, int32_t il, int32_t layer, dev_reg x, dev_reg att) {
    const hparams *hp = c->hp;
    const slot_pair *s = c->b->layers[il].s;
    const dev_reg *tm = c->tm;
    int32_t extra = (int32_t)rank(&s[S_TM_W1]) / BLENDS_6, n_kv = hp->layers[il].n_kv, kv = n_kv * hp->state_k;
    bool own = s[S_TM_FIRST].w; // RWKV's own form; otherwise gated linear attention (rwkv6qwen2)
    dev_reg low = graph_part(c, tm[TM_LOW], BLENDS_6 * extra), decay = graph_part(c, tm[TM_LOW], (int32_t)rank(&s[S_TM_DECAY_W1]));
    static const slot of[BLENDS_6] = {S_TM_DECAY_W1, S_TM_KEY, S_TM_VALUE, S_TM_RECEPTANCE, S_TM_GATE};
    const dev_reg to[BLENDS_6] = {decay, graph_part(c, tm[TM_A], kv), graph_part(c, tm[TM_Z], kv), tm[TM_R], tm[TM_G]};
    blend(c, tm[TM_IN], x, tm[TM_PREV], graph_weight(&s[S_TM_LERP_X]));
    through(c, low, tm[TM_IN], graph_weight(&s[S_TM_W1]), NULL, DEV_ACT_TANH);
    for (int i = BLENDS_6 - 1; i >= 0; i--) { // the decay last, as its low-rank vector takes the place of the blends'
        dev_linear1(c->p, tm[TM_IN], dev_reg_view(c->p, low, i * extra, extra), s[S_TM_W2].w[i].dev, graph_weight(&s[S_TM_LERP_W + i]));
        multiply(c, tm[TM_IN], tm[TM_IN], tm[TM_PREV]);
        dev_add(c->p, tm[TM_IN], tm[TM_IN], x);
        through(c, to[i], tm[TM_IN], graph_weight(&s[of[i]]), graph_bias(&s[of[i]]), i == 0 ? DEV_ACT_TANH : i == 4 ? (own ? DEV_ACT_SILU : DEV_ACT_SIGMOID) : DEV_ACT_NONE);
    }
    repeat_heads(c, tm[TM_K], to[1], n_kv);
    repeat_heads(c, tm[TM_V], to[2], n_kv);
    through(c, tm[TM_W], decay, graph_weight(&s[S_TM_DECAY_W2]), graph_weight(&s[S_TM_DECAY]), DEV_ACT_EXP); // the decay is exp(-exp(w))
    dev_scale(c->p, tm[TM_W], tm[TM_W], -1);
    if (!own) { // k (1 - decay)
        dev_op_act(c->p, (dev_activate){.dst = tm[TM_SUM], .gate = tm[TM_W], .up = tm[TM_K], .act = DEV_ACT_EXP});
        dev_op_combine(c->p, (dev_combine){.dst = tm[TM_K], .a = tm[TM_K], .b = tm[TM_SUM], .sa = 1, .sb = -1});
    }
    dev_scan op = scan_of(c, layer);
    op.dst = att;
    op.before = own;
    op.scale = own ? 1 : 1 / sqrtf((float)hp->state_k);
    dev_op_scan(c->p, op);
    if (own) {
        bonus(c, att, graph_weight(&s[S_TM_FIRST]));
        head_norm(c, att, &s[S_TM_LN]);
    }
    multiply(c, att, att, tm[TM_G]);
}

// dst = w2 (inner(w1 blend)) through outer, with a bias.
static void low_rank(graph *c, dev_reg dst, const slot_pair *w1, dev_act inner, const slot_pair *w2, const slot_pair *bias, dev_act outer) {
    dev_reg low = graph_part(c, c->tm[TM_LOW], (int32_t)rank(w1));
    through(c, low, c->tm[TM_IN], graph_weight(w1), NULL, inner);
    through(c, dst, low, graph_weight(w2), bias ? graph_weight(bias) : NULL, outer);
}

static void time_mix_7(graph *c, int32_t il, int32_t layer, dev_reg x, dev_reg att) {
    const hparams *hp = c->hp;
    const slot_pair *s = c->b->layers[il].s;
    const dev_reg *tm = c->tm;
    dev_plan *p = c->p;
    bool gated = s[S_TM_G1].w;
    const bound_tensor *mix = s[S_TM_LERP].w; // r, w, k, v, a, g
    blend(c, tm[TM_IN], x, tm[TM_PREV], mix[0].dev);
    graph_linear(c, tm[TM_R], tm[TM_IN], &s[S_TM_RECEPTANCE]);
    blend(c, tm[TM_IN], x, tm[TM_PREV], mix[1].dev);
    low_rank(c, tm[TM_W], &s[S_TM_W1], DEV_ACT_TANH, &s[S_TM_W2], &s[S_TM_W0], DEV_ACT_SIGMOID);
    dev_scale(p, tm[TM_W], tm[TM_W], -0.606531f); // exp(-1/2)
    blend(c, tm[TM_IN], x, tm[TM_PREV], mix[2].dev);
    graph_linear(c, tm[TM_K], tm[TM_IN], &s[S_TM_KEY]);
    blend(c, tm[TM_IN], x, tm[TM_PREV], mix[3].dev);
    graph_linear(c, tm[TM_V], tm[TM_IN], &s[S_TM_VALUE]);
    if (il == 0) dev_scale(p, tm[TM_FIRST], tm[TM_V], 1);
    else { // v + (first - v) * how much
        low_rank(c, tm[TM_SUM], &s[S_TM_V1], DEV_ACT_NONE, &s[S_TM_V2], &s[S_TM_V0], DEV_ACT_SIGMOID);
        dev_op_combine(p, (dev_combine){.dst = tm[TM_A], .a = tm[TM_FIRST], .b = tm[TM_V], .sa = 1, .sb = -1});
        multiply(c, tm[TM_A], tm[TM_A], tm[TM_SUM]);
        dev_add(p, tm[TM_V], tm[TM_V], tm[TM_A]);
    }
    blend(c, tm[TM_IN], x, tm[TM_PREV], mix[4].dev);
    low_rank(c, tm[TM_A], &s[S_TM_A1], DEV_ACT_NONE, &s[S_TM_A2], &s[S_TM_A0], DEV_ACT_SIGMOID);
    if (gated) {
        blend(c, tm[TM_IN], x, tm[TM_PREV], mix[5].dev);
        low_rank(c, tm[TM_G], &s[S_TM_G1], DEV_ACT_SIGMOID, &s[S_TM_G2], NULL, DEV_ACT_NONE);
    }
    scaled(c, tm[TM_Z], tm[TM_K], graph_weight(&s[S_TM_KK])); // z: what is taken out, b: where
    dev_op_norm(p, (dev_norm){.dst = tm[TM_Z], .src = tm[TM_Z], .kind = DEV_NORM_L2, .group = hp->state_k, .eps = 1e-12f, .add = DEV_NONE, .sum = DEV_NONE});
    multiply(c, tm[TM_B], tm[TM_Z], tm[TM_A]);
    dev_scale(p, tm[TM_Z], tm[TM_Z], -1);
    scaled(c, tm[TM_SUM], tm[TM_K], graph_weight(&s[S_TM_KA])); // k + k ka (a - 1)
    dev_op_combine(p, (dev_combine){.dst = tm[TM_K], .a = tm[TM_K], .b = tm[TM_SUM], .sa = 1, .sb = -1});
    multiply(c, tm[TM_SUM], tm[TM_SUM], tm[TM_A]);
    dev_add(p, tm[TM_K], tm[TM_K], tm[TM_SUM]);
    dev_scan op = scan_of(c, layer);
    op.dst = att;
    op.kind = DEV_SCAN_DPLR;
    op.z = tm[TM_Z];
    op.b = tm[TM_B];
    dev_op_scan(p, op);
    if (s[S_TM_LN].w) head_norm(c, att, &s[S_TM_LN]);
    bonus(c, att, graph_weight(&s[S_TM_RK]));
    if (gated) multiply(c, att, att, tm[TM_G]);
}

// h += value(relu(key blend)^2), in RWKV-6 times a gate. n = norm(h); PREV is of n. The gate's register is SUM, or that of the wanted rows.
static void channel(graph *c, int32_t il, bool last) {
    const slot_pair *s = c->b->layers[il].s;
    dev_reg diff = c->tm[TM_PREV], n = c->n[0], in = c->t[0];
    if (last) {
        dev_op_select(c->p, (dev_select){.dst = c->n2[1], .src = diff});
        dev_op_select(c->p, (dev_select){.dst = c->n[1], .src = n});
        dev_op_select(c->p, (dev_select){.dst = c->h[1], .src = c->h[0]});
        c->w = 1;
        diff = c->n2[1], n = c->n[1], in = c->t[1];
    }
    dev_reg h = c->h[c->w], ff = graph_part(c, c->ff[c->w], (int32_t)rank(&s[S_CM_KEY]));
    blend(c, in, n, diff, graph_weight(&s[S_CM_LERP_K]));
    through(c, ff, in, graph_weight(&s[S_CM_KEY]), graph_bias(&s[S_CM_KEY]), DEV_ACT_RELU2);
    if (seventh(c->hp)) {
        dev_linear_add(c->p, h, ff, graph_weight(&s[S_CM_VALUE]), graph_bias(&s[S_CM_VALUE]), h);
        return;
    }
    blend(c, in, n, diff, graph_weight(&s[S_CM_LERP_R]));
    through(c, n, in, graph_weight(&s[S_CM_RECEPTANCE]), graph_bias(&s[S_CM_RECEPTANCE]), DEV_ACT_SIGMOID);
    graph_linear(c, in, ff, &s[S_CM_VALUE]);
    multiply(c, in, in, n);
    dev_add(c->p, h, h, in);
}

void graph_rwkv_layer(graph *c, int32_t il) {
    const hparams *hp = c->hp;
    const slot_pair *s = c->b->layers[il].s;
    int32_t layer = c->p->groups[c->state_group].n_layers++;
    bool last = il == hp->n_layers - 1;
    dev_reg x = c->n[0], att = graph_part(c, c->att[0], hp->n_embd);
    graph_norm(c, x, c->h[0], &s[S_ATTN_NORM]);
    shift(c, x, layer, 0);
    if (seventh(hp)) time_mix_7(c, il, layer, x, att);
    else time_mix_6(c, il, layer, x, att);
    if (channel_mix(hp)) {
        dev_linear_add(c->p, c->h[0], att, graph_weight(&s[S_TM_OUT]), graph_bias(&s[S_TM_OUT]), c->h[0]);
        graph_norm(c, c->n[0], c->h[0], &s[S_FFN_NORM]);
        shift(c, c->n[0], layer, 1);
        channel(c, il, last);
    } else {
        if (last) att = graph_select(c, att);
        dev_reg h = c->h[c->w];
        dev_linear_add(c->p, h, att, graph_weight(&s[S_TM_OUT]), graph_bias(&s[S_TM_OUT]), h);
        graph_norm(c, c->n[c->w], h, &s[S_FFN_NORM]);
        graph_feed(c, il, h, c->n[c->w], DEV_NONE, h);
    }
    if (hp->halve_step && (il + 1) % hp->halve_step == 0) dev_scale(c->p, c->h[c->w], c->h[c->w], 0.5f);
}
