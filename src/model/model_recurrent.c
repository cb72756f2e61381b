// model/recurrent: layers whose memory is a state of fixed size: short convolutions (LFM2), state spaces (Mamba, arXiv 2312.00752; Mamba-2,
// 2405.21060), gated delta rule (arXiv 2412.06464), Kimi delta attention (arXiv 2510.26692), lightning attention.
//
// Which layers are recurrent follows from their tensors. A layer's state: the convolution's last inputs, then the heads' matrices; layers of a model
// are alike, so they are one group. Registers: mixed what the first matrix makes; result a gate; rates the time steps; small what is narrow.
#include <math.h>
#include <stdio.h>

#include "model/model_internal.h"

// ---- hyperparameters ------------------------------------------------------------------------------------------------------

static bool present(const gguf *g, int32_t layer, const char *name) {
    char full[96];
    snprintf(full, sizeof full, "blk.%d.%s.weight", layer, name);
    if (gguf_tensor_find(g, full)) return true;
    snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    return gguf_tensor_find(g, full) != NULL;
}

status need_int(const gguf *g, const hparams *hp, const char *name, int64_t lo, int64_t hi, int32_t *out, error *err) {
    char key[96];
    int64_t n;
    snprintf(key, sizeof key, "%s.%s", hp->row->name, name);
    const gguf_value *v = gguf_find(g, key);
    if (!v) return error_set(err, E_INVALID, "the file has no key \"%s\"", key);
    if (!gguf_value_i64(v, 0, &n)) return error_set(err, E_INVALID, "key \"%s\" is not an integer", key);
    if (n < lo || n > hi) return error_set(err, E_INVALID, "key \"%s\" is %lld, expected %lld to %lld", key, (long long)n, (long long)lo, (long long)hi);
    *out = (int32_t)n;
    return OK;
}

// What each layer consists of. Mamba's rows may have layers of one part alone; in the others every layer has a feed-forward.
static status read_layers(const gguf *g, hparams *hp, error *err) {
    static const char *const marks[] = {[RECUR_CONV] = "shortconv.conv", [RECUR_MAMBA] = "ssm_conv1d", [RECUR_MAMBA2] = "ssm_conv1d", [RECUR_DELTA] = "ssm_conv1d",
                                        [RECUR_KDA] = "ssm_conv1d_q", [RECUR_PLAMO] = "ssm_conv1d", [RECUR_LIGHTNING] = "attn_qkv",
                                        [RECUR_RWKV6] = "time_mix_key", [RECUR_RWKV7] = "time_mix_key"};
    static const char *const feeds[] = {"ffn_norm", "ffn_up", "ffn_up_exps", "ffn_gate_up_exps", "ffn_gate_inp"};
    bool mamba = hp->row->recur == RECUR_MAMBA || hp->row->recur == RECUR_MAMBA2;
    for (int32_t i = 0; i < hp->n_layers; i++) {
        layer_hp *l = &hp->layers[i];
        bool feed = !mamba;
        l->recurrent = present(g, i, marks[hp->row->recur]);
        l->no_attention = mamba ? !present(g, i, "attn_q") && !present(g, i, "attn_qkv") : l->recurrent;
        for (size_t f = 0; f < sizeof feeds / sizeof *feeds; f++) feed |= present(g, i, feeds[f]);
        l->no_feed = !feed;
        if (l->no_attention && !l->recurrent && l->no_feed) return error_set(err, E_INVALID, "layer %d holds neither attention nor a recurrent block nor a feed-forward", i);
        if (!l->no_attention && !arch_rwkv(hp->row) && (l->n_head < 1 || l->n_kv < 1)) return error_set(err, E_INVALID, "layer %d has tensors of attention, but no heads", i);
    }
    return OK;
}

static status read_kda(const gguf *g, hparams *hp, error *err) {
    status st = need_int(g, hp, "kda.head_dim", 1, MAX_HEAD_DIM, &hp->state_k, err);
    if (st) return st;
    hp->state_v = hp->state_k;
    for (int32_t i = 0; i < hp->n_layers; i++) {
        char name[48];
        snprintf(name, sizeof name, "blk.%d.ssm_dt.bias", i);
        const gguf_tensor *t = hp->layers[i].recurrent ? gguf_tensor_find(g, name) : NULL;
        if (!t) continue;
        uint64_t heads = t->dims[0] / (uint64_t)hp->state_k;
        if (heads < 1 || heads > MAX_HEADS)
            return error_set(err, E_INVALID, "tensor \"%s\" has %llu values, which are no heads of %d", name, (unsigned long long)t->dims[0], hp->state_k);
        hp->state_heads = hp->state_keys = (int32_t)heads;
        break;
    }
    return hp->state_heads ? OK : error_set(err, E_INVALID, "the file has no tensor \"blk.*.ssm_dt.bias\"");
}

static int64_t conv_width(const hparams *hp) {
    if (arch_rwkv(hp->row)) return rwkv_shift_rows(hp) * hp->n_embd;
    int64_t keys = (int64_t)hp->state_keys * hp->state_k, values = (int64_t)hp->state_heads * hp->state_v;
    return hp->row->recur == RECUR_CONV || hp->row->recur == RECUR_MAMBA || hp->row->recur == RECUR_PLAMO ? values : values + 2 * keys;
}

static status read_sizes(const gguf *g, hparams *hp, error *err) {
    status st;
    bool any = false;
    for (int32_t i = 0; i < hp->n_layers; i++) any |= hp->layers[i].recurrent;
    if (!any && !arch_rwkv(hp->row)) return OK;
    arch_recur kind = hp->row->recur;
    if (arch_rwkv(hp->row)) return rwkv_sizes(g, hp, err);
    if (kind == RECUR_LIGHTNING) { // no convolution
        hp->taps = 1;
        hp->state_heads = hp->state_keys = hp->layers[0].n_head;
        if ((st = need_int(g, hp, "attention.key_length", 1, MAX_HEAD_DIM, &hp->state_k, err))) return st;
        hp->state_v = hp->state_k;
        return hp->state_heads ? OK : error_set(err, E_INVALID, "key \"%s.attention.head_count\" is 0", hp->row->name);
    }
    if ((st = need_int(g, hp, kind == RECUR_CONV ? "shortconv.l_cache" : "ssm.conv_kernel", 2, DEV_MAX_TAPS, &hp->taps, err))) return st;
    hp->state_heads = hp->state_keys = 1;
    if (kind == RECUR_CONV) {
        hp->state_v = hp->n_embd;
        return OK;
    }
    if (kind == RECUR_KDA) {
        hp->state_heads = 0;
        return read_kda(g, hp, err);
    }
    int32_t inner;
    if ((st = need_int(g, hp, "ssm.state_size", 1, MAX_HEAD_DIM, &hp->state_k, err)) || (st = need_int(g, hp, "ssm.inner_size", 1, MAX_WIDTH, &inner, err))) return st;
    if (kind != RECUR_MAMBA && ((st = need_int(g, hp, "ssm.time_step_rank", 1, MAX_HEADS, &hp->state_heads, err))
                                || (kind != RECUR_PLAMO && (st = need_int(g, hp, "ssm.group_count", 1, MAX_HEADS, &hp->state_keys, err)))))
        return st;
    if (inner % hp->state_heads || hp->state_heads % hp->state_keys)
        return error_set(err, E_INVALID, "keys \"%s.ssm.*\": %d columns, %d heads and %d groups do not divide", hp->row->name, inner, hp->state_heads, hp->state_keys);
    hp->state_v = inner / hp->state_heads;
    char key[96];
    snprintf(key, sizeof key, "%s.ssm.dt_b_c_rms", hp->row->name);
    return kind == RECUR_MAMBA && gguf_find(g, key) ? gguf_get_bool(g, key, &hp->state_norm, err) : OK;
}

status hparams_recurrent(const gguf *g, hparams *hp, error *err) {
    status st = read_layers(g, hp, err);
    if (!st) st = read_sizes(g, hp, err);
    if (st) return st;
    int64_t columns = (int64_t)hp->state_heads * hp->state_v;
    if (conv_width(hp) > MAX_WIDTH || columns * hp->state_k > 1 << 28) // what follows may count in 32 bits
        return error_set(err, E_INVALID, "architecture \"%s\": %d heads with states of [%d, %d] are out of range", hp->row->name, hp->state_heads, hp->state_k, hp->state_v);
    return OK;
}

int32_t recurrent_state_width(const hparams *hp) {
    return (int32_t)(conv_width(hp) * (hp->taps - 1) + (int64_t)hp->state_heads * hp->state_k * hp->state_v);
}

// ---- tensors --------------------------------------------------------------------------------------------------------------

status check_recurrent(const hparams *hp, slot_pair *s, int32_t il, error *err) {
    int64_t e = hp->n_embd, wide = conv_width(hp), inner = (int64_t)hp->state_heads * hp->state_v, heads = hp->state_heads, state = hp->state_k;
    int64_t rank = s[S_SSM_DT].w ? s[S_SSM_DT].w->desc.k : 0;
    bool alone = hp->layers[il].no_attention;
    status st = OK;
    switch (hp->row->recur) {
    case RECUR_CONV: st = SHAPES(VEC(S_CONV, e * hp->taps), MAT(S_CONV_IN, e, 3 * e), MAT(S_CONV_OUT, e, e)); break;
    case RECUR_MAMBA:
        st = SHAPES(MAT(S_SSM_IN, e, 2 * inner), VEC(S_SSM_CONV, wide * hp->taps), BIAS_MAY(S_SSM_CONV, wide), MAT(S_SSM_DT, rank, inner), BIAS(S_SSM_DT, inner),
                    MAT(S_SSM_X, inner, rank + 2 * state), VEC(S_SSM_A, inner * state), VEC(S_SSM_D, inner), MAT(S_SSM_OUT, inner, e), VEC_MAY(S_SSM_DT_NORM, rank),
                    VEC_MAY(S_SSM_B_NORM, state), VEC_MAY(S_SSM_C_NORM, state));
        break;
    case RECUR_MAMBA2:
        st = SHAPES(MAT(S_SSM_IN, e, 2 * inner), MAT(S_SSM_STEER, e, wide - inner + heads), VEC(S_SSM_CONV, wide * hp->taps), BIAS_MAY(S_SSM_CONV, wide), BIAS(S_SSM_DT, heads),
                    VEC(S_SSM_A, heads), VEC(S_SSM_D, heads), VEC_MAY(S_SSM_NORM, inner), MAT(S_SSM_OUT, inner, e));
        if (!st && inner % hp->state_keys)
            st = error_set(err, E_INVALID, "key \"%s.ssm.group_count\" is %d, which does not divide %lld columns", hp->row->name, hp->state_keys, (long long)inner);
        break;
    case RECUR_DELTA:
        st = SHAPES(MAT(S_QKV, e, wide), MAT(S_GATE_ATTN, e, inner), VEC(S_SSM_CONV, wide * hp->taps), BIAS(S_SSM_DT, heads), VEC(S_SSM_A, heads), VEC(S_SSM_NORM, hp->state_v),
                    MAT_MAY(S_SSM_BA, e, 2 * heads), MAT(S_SSM_OUT, inner, e));
        if (!st && !s[S_SSM_BA].w) st = SHAPES(MAT(S_SSM_BETA, e, heads), MAT(S_SSM_ALPHA, e, heads));
        break;
    case RECUR_KDA:
        st = SHAPES(MAT(S_Q, e, inner), MAT(S_K, e, inner), MAT(S_V, e, inner),
                    VEC(S_SSM_CONV_Q, inner * hp->taps), VEC(S_SSM_CONV_K, inner * hp->taps), VEC(S_SSM_CONV_V, inner * hp->taps),
                    MAT(S_SSM_F_A, e, s[S_SSM_F_B].w ? state : inner), MAT_MAY(S_SSM_F_B, state, inner), MAT(S_SSM_BETA, e, heads),
                    VEC(S_SSM_A, hp->kda_bound < 0 ? inner : heads), BIAS(S_SSM_DT, inner), VEC(S_SSM_NORM, hp->state_v), MAT(S_OUT, inner, e));
        if (!st && s[S_SSM_G].w) st = SHAPES(MAT(S_SSM_G, e, inner)); // the output's gate, in one matrix or through a narrow one
        else if (!st) st = SHAPES(MAT(S_SSM_G_A, e, s[S_SSM_G_B].w ? state : inner), MAT_MAY(S_SSM_G_B, state, inner));
        break;
    case RECUR_PLAMO:
        st = SHAPES(MAT(S_SSM_IN, e, 2 * inner), VEC(S_SSM_CONV, wide * hp->taps), BIAS_MAY(S_SSM_CONV, wide), MAT(S_SSM_DT, rank, heads),
                    BIAS(S_SSM_DT, heads), MAT(S_SSM_X, inner, rank + 2 * state), VEC(S_SSM_A, heads), VEC(S_SSM_D, heads),
                    MAT(S_SSM_OUT, inner, e), VEC(S_SSM_DT_NORM, rank), VEC(S_SSM_B_NORM, state), VEC(S_SSM_C_NORM, state));
        break;
    case RECUR_LIGHTNING: st = SHAPES(MAT(S_QKV, e, 3 * inner), MAT(S_GATE_ATTN, e, inner), VEC(S_ATTN_NORM_2, inner), MAT(S_OUT, inner, e)); break;
    case RECUR_RWKV6: case RECUR_RWKV7: case RECUR_NONE: break;
    }
    if (st || !alone || hp->row->recur == RECUR_KDA || hp->row->recur == RECUR_LIGHTNING) return st;
    slot out = hp->row->recur == RECUR_CONV ? S_CONV_OUT : S_SSM_OUT;
    if (s[S_OUT].w) return error_set(err, E_UNSUPPORTED, "tensor \"%s\" stands in a recurrent layer", s[S_OUT].w->desc.name);
    s[S_OUT] = s[out];
    s[out] = (slot_pair){.factor = 1};
    return OK;
}

// ---- the plan -------------------------------------------------------------------------------------------------------------

void graph_recurrent_registers(graph *c) {
    const hparams *hp = c->hp;
    if (arch_rwkv(hp->row)) {
        graph_rwkv_registers(c);
        c->state_group = dev_plan_group(c->p, (dev_group){.kind = DEV_GROUP_RECURRENT, .state_width = recurrent_state_width(hp)});
        return;
    }
    int32_t inner = hp->state_heads * hp->state_v, wide = (int32_t)conv_width(hp), mixed = wide, result = inner, rates = 2 * hp->state_heads, small = 2 * hp->state_heads;
    bool any = false;
    if (hp->row->recur == RECUR_CONV) mixed = 3 * hp->n_embd;
    if (hp->row->recur == RECUR_MAMBA2) mixed = inner + wide + hp->state_heads;
    if (hp->row->recur == RECUR_MAMBA) mixed = 2 * inner;
    if (hp->row->recur == RECUR_MAMBA || hp->row->recur == RECUR_KDA) rates = inner;
    if (hp->row->recur == RECUR_PLAMO) mixed = 3 * inner;
    if (hp->row->recur == RECUR_LIGHTNING) mixed = 6 * inner;
    if (hp->row->recur == RECUR_KDA) small = hp->state_k + hp->state_heads;
    for (int32_t i = 0; i < hp->n_layers; i++) {
        const layer_hp *l = &hp->layers[i];
        any |= l->recurrent;
        if (l->recurrent && c->b->layers[i].s[S_SSM_X].w && c->b->layers[i].s[S_SSM_X].w->desc.n > small) small = (int32_t)c->b->layers[i].s[S_SSM_X].w->desc.n;
        if (hp->row->recur != RECUR_DELTA || l->no_attention) continue; // the query with its gate
        if (2 * l->n_head * l->head_k > mixed) mixed = 2 * l->n_head * l->head_k;
        if (l->n_head * l->head_k > result) result = l->n_head * l->head_k;
    }
    c->mixed = mixed > 0 ? dev_reg_all(c->p, mixed) : DEV_NONE;
    c->result = result > 0 ? dev_reg_all(c->p, result) : DEV_NONE;
    c->rates = rates > 0 ? dev_reg_all(c->p, rates) : DEV_NONE;
    c->small = small > 0 ? dev_reg_all(c->p, small) : DEV_NONE;
    if (any) c->state_group = dev_plan_group(c->p, (dev_group){.kind = DEV_GROUP_RECURRENT, .state_width = recurrent_state_width(hp)});
}

static void conv(graph *c, dev_reg x, const slot_pair *s, int32_t layer, int32_t state_at, dev_act act) {
    dev_op_conv(c->p, (dev_conv){.dst = x, .src = x, .group = c->state_group, .layer = layer, .state_at = state_at, .taps = c->hp->taps,
                                 .weight = graph_weight(s), .bias = graph_bias(s), .act = act});
}

static void norm(graph *c, dev_reg r, dev_norm_kind kind, int32_t group, const slot_pair *s) {
    dev_op_norm(c->p, (dev_norm){.dst = r, .src = r, .kind = kind, .group = group, .eps = c->hp->eps, .weight = s ? graph_weight(s) : NULL, .add = DEV_NONE, .sum = DEV_NONE});
}

// att = act(gate) * att
static void gated(graph *c, dev_reg att, dev_reg gate, dev_act act) { dev_op_act(c->p, (dev_activate){.dst = att, .gate = gate, .up = att, .act = act}); }

static dev_scan scan_of(const graph *c, int32_t layer) {
    const hparams *hp = c->hp;
    return (dev_scan){.rate = DEV_NONE, .beta = DEV_NONE, .group = c->state_group, .layer = layer, .state_at = (int32_t)conv_width(hp) * (hp->taps - 1),
                      .n_head = hp->state_heads, .n_key = hp->state_keys, .head_k = hp->state_k, .head_v = hp->state_v, .scale = 1};
}

// y = c * conv(b * x), with b, c, x from one matrix.
static void short_conv(graph *c, const slot_pair *s, int32_t layer, dev_reg x, dev_reg att) {
    int32_t e = c->hp->n_embd;
    dev_reg bcx = graph_part(c, c->mixed, 3 * e), in = dev_reg_view(c->p, bcx, 2 * e, e);
    graph_linear(c, bcx, x, &s[S_CONV_IN]);
    dev_op_combine(c->p, (dev_combine){.dst = in, .a = in, .b = dev_reg_view(c->p, bcx, 0, e), .sa = 1, .multiply = true});
    conv(c, in, &s[S_CONV], layer, 0, DEV_ACT_NONE);
    dev_op_combine(c->p, (dev_combine){.dst = att, .a = in, .b = dev_reg_view(c->p, bcx, e, e), .sa = 1, .multiply = true});
}

// The end of every Mamba: the recurrence over the inputs that `of` names, with the layer's decays, then its gate. of.dst is the result.
static void state_space(graph *c, const slot_pair *s, int32_t layer, dev_scan of, dev_reg gate) {
    dev_scan op = scan_of(c, layer);
    op.dst = of.dst;
    op.q = of.q;
    op.k = of.k;
    op.v = of.v;
    op.rate = of.rate;
    op.rate_kind = of.rate_kind;
    op.rate_bias = graph_bias(&s[S_SSM_DT]);
    op.a = graph_weight(&s[S_SSM_A]);
    op.skip = graph_weight(&s[S_SSM_D]);
    dev_op_scan(c->p, op);
    gated(c, of.dst, gate, DEV_ACT_SILU);
}

static void mamba(graph *c, const slot_pair *s, int32_t layer, dev_reg x, dev_reg att) {
    const hparams *hp = c->hp;
    int32_t inner = hp->state_v, rank = (int32_t)s[S_SSM_DT].w->desc.k, n = hp->state_k;
    dev_reg xz = graph_part(c, c->mixed, 2 * inner), in = dev_reg_view(c->p, xz, 0, inner), low = graph_part(c, c->small, rank + 2 * n), rates = graph_part(c, c->rates, inner);
    dev_reg parts[3] = {dev_reg_view(c->p, low, 0, rank), dev_reg_view(c->p, low, rank, n), dev_reg_view(c->p, low, rank + n, n)}; // time step, B, C
    static const slot norms[3] = {S_SSM_DT_NORM, S_SSM_B_NORM, S_SSM_C_NORM};
    graph_linear(c, xz, x, &s[S_SSM_IN]);
    conv(c, in, &s[S_SSM_CONV], layer, 0, DEV_ACT_SILU);
    graph_linear(c, low, in, &s[S_SSM_X]);
    for (int i = 0; i < 3; i++)
        if (hp->state_norm || s[norms[i]].w) norm(c, parts[i], DEV_NORM_RMS, 0, &s[norms[i]]);
    dev_linear1(c->p, rates, parts[0], graph_weight(&s[S_SSM_DT]), NULL);
    state_space(c, s, layer, (dev_scan){.dst = att, .v = in, .k = parts[1], .q = parts[2], .rate = rates, .rate_kind = DEV_RATE_VALUE}, dev_reg_view(c->p, xz, inner, inner));
}

// As mamba, but for the order of parts: each head's gate, then its input, in one matrix; B, C, then the time step in the other.
static void plamo(graph *c, const slot_pair *s, int32_t layer, dev_reg x, dev_reg att) {
    const hparams *hp = c->hp;
    int32_t each = hp->state_v, inner = hp->state_heads * each, rank = (int32_t)s[S_SSM_DT].w->desc.k, n = hp->state_k;
    dev_reg all = graph_part(c, c->mixed, 3 * inner), zx = dev_reg_view(c->p, all, 0, 2 * inner);
    dev_reg in = dev_reg_view(c->p, all, 2 * inner, inner), z = graph_part(c, c->result, inner);
    dev_reg low = graph_part(c, c->small, rank + 2 * n), rates = graph_part(c, c->rates, hp->state_heads);
    dev_reg parts[3] = {dev_reg_view(c->p, low, 0, n), dev_reg_view(c->p, low, n, n), dev_reg_view(c->p, low, 2 * n, rank)};
    static const slot norms[3] = {S_SSM_B_NORM, S_SSM_C_NORM, S_SSM_DT_NORM};
    graph_linear(c, zx, x, &s[S_SSM_IN]);
    for (int i = 0; i < 2; i++)
        dev_op_copy(c->p, (dev_copy){.dst = i ? in : z, .src = zx, .n = hp->state_heads, .width = each, .src_first = i * each, .src_stride = 2 * each, .dst_stride = each});
    conv(c, in, &s[S_SSM_CONV], layer, 0, DEV_ACT_SILU);
    graph_linear(c, low, in, &s[S_SSM_X]);
    for (int i = 0; i < 3; i++) norm(c, parts[i], DEV_NORM_RMS, 0, &s[norms[i]]);
    dev_linear1(c->p, rates, parts[2], graph_weight(&s[S_SSM_DT]), NULL);
    state_space(c, s, layer, (dev_scan){.dst = att, .v = in, .k = parts[0], .q = parts[1], .rate = rates}, z);
}

// Lightning attention (arXiv 2401.04658): queries, keys and values of each head in a row; heads forget at fixed rates, late layers less.
static void lightning(graph *c, const slot_pair *s, int32_t il, int32_t layer, dev_reg x, dev_reg att) {
    const hparams *hp = c->hp;
    int32_t each = hp->state_v, inner = hp->state_heads * each;
    dev_reg all = graph_part(c, c->mixed, 6 * inner), raw = dev_reg_view(c->p, all, 0, 3 * inner), gate = graph_part(c, c->result, inner), part[3];
    dev_op_linear(c->p, (dev_linear){.src = x, .n = 1, .residual = DEV_NONE, .epilogue = DEV_EP_ACT, .act = DEV_ACT_SILU, .out = {graph_out(raw, &s[S_QKV])}});
    dev_op_linear(c->p, (dev_linear){.src = x, .n = 1, .residual = DEV_NONE, .epilogue = DEV_EP_ACT, .act = DEV_ACT_SIGMOID, .out = {graph_out(gate, &s[S_GATE_ATTN])}});
    for (int i = 0; i < 3; i++) {
        part[i] = dev_reg_view(c->p, all, (3 + i) * inner, inner);
        dev_op_copy(c->p, (dev_copy){.dst = part[i], .src = raw, .n = hp->state_heads, .width = each, .src_first = i * each, .src_stride = 3 * each, .dst_stride = each});
    }
    dev_scan op = scan_of(c, layer);
    op.dst = att;
    op.q = part[0];
    op.k = part[1];
    op.v = part[2];
    op.a = c->b->slopes->dev;
    op.a_scale = (float)(1.0 - (hp->n_layers > 1 ? (double)il / (hp->n_layers - 1) : 0) + 1e-5);
    dev_op_scan(c->p, op);
    norm(c, att, DEV_NORM_RMS, 0, &s[S_ATTN_NORM_2]);
    dev_op_combine(c->p, (dev_combine){.dst = att, .a = att, .b = gate, .sa = 1, .multiply = true});
}

static void mamba2(graph *c, const slot_pair *s, int32_t layer, dev_reg x, dev_reg att) {
    const hparams *hp = c->hp;
    int32_t inner = hp->state_heads * hp->state_v, keys = hp->state_keys * hp->state_k, wide = inner + 2 * keys;
    dev_reg all = graph_part(c, c->mixed, inner + wide + hp->state_heads), in = dev_reg_view(c->p, all, inner, wide); // gate; x, B, C; time steps
    dev_linear op = {.src = x, .n = 2, .residual = DEV_NONE,
                     .out = {graph_out(dev_reg_view(c->p, all, 0, 2 * inner), &s[S_SSM_IN]),
                             graph_out(dev_reg_view(c->p, all, 2 * inner, 2 * keys + hp->state_heads), &s[S_SSM_STEER])}};
    op.out[1].scale = op.out[0].scale; // of the whole matrix
    dev_op_linear(c->p, op);
    conv(c, in, &s[S_SSM_CONV], layer, 0, DEV_ACT_SILU);
    dev_reg v = dev_reg_view(c->p, in, 0, inner), k = dev_reg_view(c->p, in, inner, keys), q = dev_reg_view(c->p, in, inner + keys, keys);
    dev_reg rates = dev_reg_view(c->p, all, inner + wide, hp->state_heads);
    state_space(c, s, layer, (dev_scan){.dst = att, .v = v, .k = k, .q = q, .rate = rates}, dev_reg_view(c->p, all, 0, inner));
    if (s[S_SSM_NORM].w) norm(c, att, DEV_NORM_RMS, inner / hp->state_keys, &s[S_SSM_NORM]);
}

static void sigmoid(graph *c, dev_reg r) { dev_op_act(c->p, (dev_activate){.dst = r, .gate = r, .up = DEV_NONE, .act = DEV_ACT_SIGMOID}); }

static void delta(graph *c, const slot_pair *s, int32_t layer, dev_reg x, dev_reg att) {
    const hparams *hp = c->hp;
    int32_t heads = hp->state_heads, inner = heads * hp->state_v, keys = hp->state_keys * hp->state_k, share = heads / hp->state_keys;
    dev_reg qkv = graph_part(c, c->mixed, 2 * keys + inner), z = graph_part(c, c->result, inner), rates = graph_part(c, c->rates, 2 * heads);
    dev_reg beta = dev_reg_view(c->p, rates, 0, heads), alpha = dev_reg_view(c->p, rates, heads, heads), qk = dev_reg_view(c->p, qkv, 0, 2 * keys);
    bool stacked = s[S_SSM_BA].w; // for each key head the betas of its heads, then their alphas
    dev_reg both = stacked ? graph_part(c, c->small, 2 * heads) : DEV_NONE;
    dev_linear op = {.src = x, .n = stacked ? 3 : 4, .residual = DEV_NONE, .out = {graph_out(qkv, &s[S_QKV]), graph_out(z, &s[S_GATE_ATTN])}};
    op.out[2] = stacked ? graph_out(both, &s[S_SSM_BA]) : graph_out(beta, &s[S_SSM_BETA]);
    if (!stacked) op.out[3] = graph_out(alpha, &s[S_SSM_ALPHA]);
    dev_op_linear(c->p, op);
    for (int i = 0; i < 2 && stacked; i++)
        dev_op_copy(c->p, (dev_copy){.dst = i ? alpha : beta, .src = both, .n = hp->state_keys, .width = share,
                                     .src_first = i * share, .src_stride = 2 * share, .dst_stride = share});
    sigmoid(c, beta);
    conv(c, qkv, &s[S_SSM_CONV], layer, 0, DEV_ACT_SILU);
    norm(c, qk, DEV_NORM_L2, hp->state_k, NULL);
    dev_scan scan = scan_of(c, layer);
    scan.kind = DEV_SCAN_DELTA;
    scan.dst = att;
    scan.q = dev_reg_view(c->p, qkv, 0, keys);
    scan.k = dev_reg_view(c->p, qkv, keys, keys);
    scan.v = dev_reg_view(c->p, qkv, 2 * keys, inner);
    scan.rate = alpha;
    scan.beta = beta;
    scan.tiled = !stacked;
    scan.scale = 1 / sqrtf((float)hp->state_k);
    scan.rate_bias = graph_bias(&s[S_SSM_DT]);
    scan.a = graph_weight(&s[S_SSM_A]);
    dev_op_scan(c->p, scan);
    norm(c, att, DEV_NORM_RMS, hp->state_v, &s[S_SSM_NORM]);
    gated(c, att, z, DEV_ACT_SILU);
}

// dst = b (a x), or a x where there is no b
static void narrow(graph *c, dev_reg dst, dev_reg low, dev_reg x, const slot_pair *a, const slot_pair *b) {
    if (b->w) graph_linear(c, low, x, a);
    dev_linear1(c->p, dst, b->w ? low : x, graph_weight(b->w ? b : a), NULL);
}

static void kimi_delta(graph *c, const slot_pair *s, int32_t layer, dev_reg x, dev_reg att) {
    const hparams *hp = c->hp;
    int32_t heads = hp->state_heads, inner = heads * hp->state_v;
    dev_reg qkv = graph_part(c, c->mixed, 3 * inner), gate = graph_part(c, c->result, inner), rates = graph_part(c, c->rates, inner);
    dev_reg low = dev_reg_view(c->p, c->small, 0, hp->state_k), beta = dev_reg_view(c->p, c->small, hp->state_k, heads), part[3];
    for (int i = 0; i < 3; i++) part[i] = dev_reg_view(c->p, qkv, i * inner, inner);
    dev_op_linear(c->p, (dev_linear){.src = x, .n = 4, .residual = DEV_NONE,
                                     .out = {graph_out(part[0], &s[S_Q]), graph_out(part[1], &s[S_K]), graph_out(part[2], &s[S_V]), graph_out(beta, &s[S_SSM_BETA])}});
    sigmoid(c, beta);
    narrow(c, rates, low, x, &s[S_SSM_F_A], &s[S_SSM_F_B]);
    if (s[S_SSM_G].w) graph_linear(c, gate, x, &s[S_SSM_G]);
    else narrow(c, gate, low, x, &s[S_SSM_G_A], &s[S_SSM_G_B]);
    for (int i = 0; i < 3; i++) {
        conv(c, part[i], &s[S_SSM_CONV_Q + i], layer, i * inner * (hp->taps - 1), DEV_ACT_SILU);
        if (i < 2) norm(c, part[i], DEV_NORM_L2, hp->state_k, NULL);
    }
    dev_scan scan = scan_of(c, layer);
    scan.kind = DEV_SCAN_DELTA;
    scan.dst = att;
    scan.q = part[0];
    scan.k = part[1];
    scan.v = part[2];
    scan.rate = rates;
    scan.beta = beta;
    scan.rate_kind = DEV_RATE_KEY;
    scan.scale = 1 / sqrtf((float)hp->state_k);
    if (hp->kda_bound < 0) { // the logarithm of the decay is bound * sigmoid(exp(A) (rate + bias)); the file has -exp(A), or exp(A)
        dev_op_vector(c->p, (dev_vector){.dst = rates, .src = rates, .bias = graph_bias(&s[S_SSM_DT])});
        dev_op_vector(c->p, (dev_vector){.dst = rates, .src = rates, .scale = graph_weight(&s[S_SSM_A])});
        if (!(hp->row->more & B_DECAY_PLUS)) dev_scale(c->p, rates, rates, -1);
        sigmoid(c, rates);
        dev_scale(c->p, rates, rates, hp->kda_bound);
    } else {
        scan.rate_bias = graph_bias(&s[S_SSM_DT]);
        scan.a = graph_weight(&s[S_SSM_A]);
    }
    dev_op_scan(c->p, scan);
    norm(c, att, DEV_NORM_RMS, hp->state_v, &s[S_SSM_NORM]);
    gated(c, att, gate, DEV_ACT_SIGMOID);
}

dev_reg graph_recurrent(graph *c, int32_t il, dev_reg x) {
    const hparams *hp = c->hp;
    const slot_pair *s = c->b->layers[il].s;
    int32_t layer = c->p->groups[c->state_group].n_layers++;
    dev_reg att = graph_part(c, c->att[0], hp->state_heads * hp->state_v);
    switch (hp->row->recur) {
    case RECUR_CONV: short_conv(c, s, layer, x, att); break;
    case RECUR_MAMBA: mamba(c, s, layer, x, att); break;
    case RECUR_MAMBA2: mamba2(c, s, layer, x, att); break;
    case RECUR_DELTA: delta(c, s, layer, x, att); break;
    case RECUR_KDA: kimi_delta(c, s, layer, x, att); break;
    case RECUR_PLAMO: plamo(c, s, layer, x, att); break;
    case RECUR_LIGHTNING: lightning(c, s, il, layer, x, att); break;
    case RECUR_RWKV6: case RECUR_RWKV7: case RECUR_NONE: break; // recorded whole: model_rwkv.c
    }
    return att;
}
