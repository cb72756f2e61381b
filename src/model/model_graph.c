// model/graph: the forward pass, recorded once. One transformer with the choices of the row; it reads from top to bottom.
//
// Registers (rows x width): h the residual stream, n and n2 normed inputs, t a branch's result (all n_embd); qkv; att (heads x head_v);
// ff (feed-forward). Each exists twice: for all rows, and for the wanted rows, which are selected after the last layer's attention.
// Shapes of weights were checked when they were bound.
#include <math.h>
#include <string.h>

#include "model/model_internal.h"

const dev_tensor *graph_weight(const slot_pair *s) { return s->w ? s->w->dev : NULL; }
const dev_tensor *graph_bias(const slot_pair *s) { return s->b ? s->b->dev : NULL; }

dev_reg graph_part(graph *c, dev_reg r, int32_t width) { return dev_reg_width(c->p, r) == width ? r : dev_reg_view(c->p, r, 0, width); }

static const dev_tensor *weight(const slot_pair *s) { return graph_weight(s); }
static const dev_tensor *bias(const slot_pair *s) { return graph_bias(s); }

dev_linear_out graph_out(dev_reg dst, const slot_pair *s) { return (dev_linear_out){dst, weight(s), bias(s), s->factor, 0}; }

// dst = [residual +] w src + bias
static void linear(graph *c, dev_reg dst, dev_reg src, const slot_pair *s, dev_reg residual) {
    dev_op_linear(c->p, (dev_linear){.src = src, .n = 1, .out = {graph_out(dst, s)}, .epilogue = residual == DEV_NONE ? DEV_EP_NONE : DEV_EP_RESIDUAL, .residual = residual});
}

void graph_linear(graph *c, dev_reg dst, dev_reg src, const slot_pair *s) { linear(c, dst, src, s, DEV_NONE); }

static dev_reg part(graph *c, dev_reg r, int32_t width) { return graph_part(c, r, width); }

static void norm_eps(graph *c, dev_reg dst, dev_reg src, const slot_pair *s, float eps) {
    dev_op_norm(c->p, (dev_norm){.dst = dst, .src = src, .kind = c->hp->layer_norm ? DEV_NORM_LAYER : DEV_NORM_RMS, .eps = eps,
                                 .weight = weight(s), .bias = bias(s), .add = DEV_NONE, .sum = DEV_NONE});
}

void graph_norm(graph *c, dev_reg dst, dev_reg src, const slot_pair *s) { norm_eps(c, dst, src, s, c->hp->eps); }
static void norm(graph *c, dev_reg dst, dev_reg src, const slot_pair *s) { graph_norm(c, dst, src, s); }
static void post_norm(graph *c, dev_reg r, const slot_pair *s) { norm_eps(c, r, r, s, c->hp->row->post_eps > 0 ? c->hp->row->post_eps : c->hp->eps); }

// h = base + scale * t
static void add_branch(graph *c, dev_reg dst, dev_reg base, dev_reg t) {
    dev_op_combine(c->p, (dev_combine){.dst = dst, .a = base, .b = t, .sa = 1, .sb = c->hp->resid_scale});
}

// ---- attention ------------------------------------------------------------------------------------------------------------

int32_t graph_group(graph *c, const layer_hp *l, int32_t *index) {
    dev_plan *p = c->p;
    dev_group want = {.kind = l->windowed && c->hp->causal ? DEV_GROUP_WINDOW : DEV_GROUP_FULL, .window = l->windowed && c->hp->causal ? c->hp->window : 0, .n_kv = l->n_kv,
                      .head_k = l->head_k, .head_v = l->head_v};
    for (int32_t i = 0; i < p->n_groups; i++) {
        dev_group *g = &p->groups[i];
        if (g->kind == want.kind && g->window == want.window && g->n_kv == want.n_kv && g->head_k == want.head_k && g->head_v == want.head_v) {
            *index = g->n_layers++;
            return i;
        }
    }
    want.n_layers = 1;
    *index = 0;
    return dev_plan_group(p, want);
}

static void qk_norm(graph *c, dev_reg r, const slot_pair *s, int32_t head, int32_t whole) {
    const dev_tensor *w = weight(s);
    if (!w) return;
    // One weight a head, shared by the heads or not; or the whole row (olmo2).
    int32_t group = w->k == head ? head : whole;
    bool layer = c->hp->row->more & B_QK_LAYER;
    dev_op_norm(c->p, (dev_norm){.dst = r, .src = r, .kind = c->hp->layer_norm || layer ? DEV_NORM_LAYER : DEV_NORM_RMS,
                                 .group = group, .eps = layer ? 1e-5f : c->hp->eps,
                                 .weight = w, .bias = bias(s), .add = DEV_NONE, .sum = DEV_NONE});
}

void graph_rotate(graph *c, const layer_hp *l, dev_reg r, int32_t heads, int32_t head_dim, int32_t first) {
    const hparams *hp = c->hp;
    bool plain = l->windowed && (hp->row->traits & A_WINDOW_PLAIN_ROPE);
    bool unscaled = l->windowed && (hp->row->traits & A_GEMMA4 || hp->row->more & B_HALF_ROT);
    const dev_tensor *factors = c->b->rope_factors && !unscaled ? c->b->rope_factors->dev : NULL;
    dev_op_rope(c->p, (dev_rope){.reg = r, .kind = hp->rope == ROPE_PAIRS ? DEV_ROPE_NORM : DEV_ROPE_NEOX,
                                 .n_head = heads, .head_dim = head_dim, .first = first, .dims = l->n_rot,
                                 .base = l->windowed ? hp->rope_base_window : hp->rope_base, .freq_scale = l->windowed ? hp->freq_scale_window : hp->freq_scale,
                                 .ext_factor = plain ? 0 : hp->ext_factor, .attn_factor = plain ? 1 : hp->attn_factor, .beta_fast = hp->beta_fast, .beta_slow = hp->beta_slow,
                                 .n_ctx_orig = (int32_t)(hp->n_ctx_orig < INT32_MAX ? hp->n_ctx_orig : INT32_MAX), .factors = factors});
}

static void plain_norm(graph *c, dev_reg r, int32_t head) {
    dev_op_norm(c->p, (dev_norm){.dst = r, .src = r, .kind = DEV_NORM_RMS, .group = head, .eps = c->hp->eps, .add = DEV_NONE, .sum = DEV_NONE});
}

// x = clamp(x, -c, c), from what devices have: min(x, c) = c - relu(c - x), max(x, -c) = relu(x + c) - c.
static void clamp(graph *c, dev_reg x) {
    dev_plan *p = c->p;
    dev_reg t = c->tmp;
    const dev_tensor *limit = c->b->limit->dev;
    for (int side = 0; side < 2; side++) { // first from above; then the negated from above again, which is from below
        dev_scale(p, t, side ? t : x, -1);
        dev_op_vector(p, (dev_vector){.dst = t, .src = t, .bias = limit});
        dev_op_act(p, (dev_activate){.dst = t, .gate = t, .up = DEV_NONE, .act = DEV_ACT_RELU});
        dev_scale(p, t, t, -1);
        dev_op_vector(p, (dev_vector){.dst = t, .src = t, .bias = limit});
        if (!side) dev_scale(p, t, t, -1);
    }
    dev_scale(p, x, t, -1);
}

void graph_gate(graph *c, int32_t il, dev_reg att, dev_reg x) {
    const slot_pair *s = &c->b->layers[il].s[S_GATE_ATTN];
    if (!s->w) return;
    dev_reg gate = part(c, c->gate[0], (int32_t)s->w->desc.n);
    dev_act act = c->hp->row->more & B_GATE_SOFTPLUS ? DEV_ACT_SOFTPLUS : DEV_ACT_SIGMOID;
    dev_op_linear(c->p, (dev_linear){.src = x, .n = 1, .residual = DEV_NONE, .epilogue = DEV_EP_ACT, .act = act, .out = {graph_out(gate, s)}});
    dev_op_combine(c->p, (dev_combine){.dst = att, .a = att, .b = gate, .sa = 1, .multiply = true});
}

// att = attention of x; x is n_embd wide, att n_head * head_v.
dev_reg graph_attention(graph *c, int32_t il, dev_reg x) {
    const hparams *hp = c->hp;
    const layer_hp *l = &hp->layers[il];
    const slot_pair *s = c->b->layers[il].s;
    dev_plan *p = c->p;
    unsigned traits = hp->row->traits;
    int32_t nq = l->n_head * l->head_k, nk = l->n_kv * l->head_k, nv = l->n_kv * l->head_v;
    bool own = l->kv_of == il;
    dev_reg qkv = part(c, c->qkv, nq + nk + nv);
    bool joint = hp->row->recur == RECUR_DELTA; // each head's query is followed by its gate
    dev_reg q = dev_reg_view(p, qkv, 0, nq), k = dev_reg_view(p, qkv, nq, nk), v = dev_reg_view(p, qkv, nq + nk, nv);

    if (joint) {
        dev_reg both = part(c, c->mixed, 2 * nq), gate = part(c, c->result, nq);
        dev_op_linear(p, (dev_linear){.src = x, .n = 3, .residual = DEV_NONE, .out = {graph_out(both, &s[S_Q]), graph_out(k, &s[S_K]), graph_out(v, &s[S_V])}});
        for (int i = 0; i < 2; i++)
            dev_op_copy(p, (dev_copy){.dst = i ? gate : q, .src = both, .n = l->n_head, .width = l->head_k,
                                      .src_first = i * l->head_k, .src_stride = 2 * l->head_k, .dst_stride = l->head_k});
    } else if (s[S_QKV].w) linear(c, qkv, x, &s[S_QKV], DEV_NONE);
    else if (!own || !s[S_V].w) {
        dev_op_linear(p, (dev_linear){.src = x, .n = own ? 2 : 1, .residual = DEV_NONE, .out = {graph_out(q, &s[S_Q]), graph_out(k, &s[S_K])}});
        if (own) dev_scale(p, v, k, 1); // gemma4: keys serve as values
    } else
        dev_op_linear(p, (dev_linear){.src = x, .n = 3, .residual = DEV_NONE, .out = {graph_out(q, &s[S_Q]), graph_out(k, &s[S_K]), graph_out(v, &s[S_V])}});
    if (c->b->limit) clamp(c, qkv);
    if (!(traits & A_QK_AFTER)) {
        qk_norm(c, q, &s[S_Q_NORM], l->head_k, nq);
        if (own) qk_norm(c, k, &s[S_K_NORM], l->head_k, nk);
    }
    if (l->rotate) {
        graph_rotate(c, l, q, l->n_head, l->head_k, 0);
        if (own) graph_rotate(c, l, k, l->n_kv, l->head_k, 0);
        if (hp->qk_plain) {
            plain_norm(c, q, l->head_k);
            plain_norm(c, k, l->head_k);
        }
    }
    if (hp->row->more & B_HEAD_GAINS) {
        plain_norm(c, q, l->head_k);
        plain_norm(c, k, l->head_k);
        dev_op_vector(p, (dev_vector){.dst = q, .src = q, .scale = weight(&s[S_Q_NORM])});
    } else if (traits & A_QK_AFTER) {
        qk_norm(c, q, &s[S_Q_NORM], l->head_k, nq);
        if (own) qk_norm(c, k, &s[S_K_NORM], l->head_k, nk);
    }
    if (own && traits & A_GEMMA4) plain_norm(c, v, l->head_v);
    if (c->b->temper && (!(traits & A_CHUNKED) || !l->rotate)) dev_op_combine(p, (dev_combine){.dst = q, .a = q, .b = c->temper, .sa = 1, .multiply = true});
    if (own) c->kv_group[il] = graph_group(c, l, &c->kv_index[il]);
    int32_t index = c->kv_index[l->kv_of], group = c->kv_group[l->kv_of], no = l->n_head * l->head_v;
    bool windowed = p->groups[group].kind == DEV_GROUP_WINDOW;
    dev_reg att = part(c, c->att[0], no);
    dev_op_attend(p, (dev_attend){.dst = att, .q = q, .k = own ? k : DEV_NONE, .v = own ? v : DEV_NONE, .group = group, .layer = index,
                                  .n_head = l->n_head, .n_kv = l->n_kv, .head_k = l->head_k, .head_v = l->head_v, .scale = hp->attn_scale, .softcap = hp->attn_cap,
                                  .window = windowed || (!hp->causal && l->windowed) ? hp->window : 0, .chunk = windowed && (traits & A_CHUNKED) ? hp->window : 0,
                                  .bidirectional = !hp->causal, .sinks = weight(&s[S_SINKS]), .alibi_bias = hp->alibi});
    if (joint) {
        dev_reg gate = part(c, c->result, nq);
        dev_op_act(p, (dev_activate){.dst = att, .gate = gate, .up = att, .act = DEV_ACT_SIGMOID});
    }
    if (hp->value_scale != 1) dev_scale(p, att, att, hp->value_scale);
    graph_gate(c, il, att, x);
    return att;
}

// ---- feed-forward ---------------------------------------------------------------------------------------------------------

// The activation of a layer's feed-forward and its numbers; limit: the layer's bound of this part.
static dev_act feed_act(const hparams *hp, int32_t il, float limit, float p[DEV_ACT_NUMBERS]) {
    memcpy(p, hp->layers[il].act_p, sizeof hp->layers[il].act_p);
    if (!(hp->row->more & B_LIMIT_AFTER) || limit <= 0) return hp->row->act;
    p[0] = limit;
    return DEV_ACT_SILU_LIMIT;
}

// dst = [residual +] down(act(gate x) * up x), or down(act(up x)).
void graph_dense(graph *c, int32_t il, dev_reg dst, dev_reg x, const slot_pair *gate, const slot_pair *up, const slot_pair *down, dev_reg residual) {
    dev_plan *p = c->p;
    const slot_pair *sub = c->hp->row->traits & A_SUB_NORMS ? down - S_DOWN + S_FFN_SUB : NULL; // pairs of a layer stand in a row
    dev_reg ff = part(c, c->ff[c->w], (int32_t)down->w->desc.k);
    dev_linear op = {.src = x, .n = 1, .residual = DEV_NONE, .epilogue = DEV_EP_ACT};
    op.act = feed_act(c->hp, il, c->hp->layers[il].shared_limit, op.p);
    if (gate->w) {
        op.n = 2;
        op.epilogue = DEV_EP_GATED;
        op.out[0] = graph_out(ff, gate);
        op.out[1] = graph_out(ff, up);
    } else {
        bool fused = up->w->desc.n == 2 * down->w->desc.k;
        if (fused) op.epilogue = DEV_EP_GATED;
        op.out[0] = graph_out(ff, up);
        op.out[0].split = fused;
    }
    dev_op_linear(p, op);
    if (sub) norm(c, ff, ff, sub);
    linear(c, dst, ff, down, residual);
}

static const dev_tensor *each(const slot_pair *s) { return s->each ? s->each->dev : NULL; }

void graph_experts(graph *c, int32_t il, dev_reg dst, dev_reg x, dev_reg router_src, dev_reg residual) {
    const hparams *hp = c->hp;
    const slot_pair *s = c->b->layers[il].s;
    dev_experts op = {.dst = dst, .src = x, .router_src = router_src, .residual = residual, .router = weight(&s[S_ROUTER]), .router_bias = bias(&s[S_ROUTER]),
                      .select_bias = weight(&s[S_SELECT_BIAS]), .gating = hp->gating, .n_expert = hp->n_expert, .top_k = hp->top_k, .n_group = hp->n_group,
                      .top_groups = hp->top_groups, .normalise = hp->exp_norm, .scale = hp->exp_scale, .weight_first = hp->row->traits & A_WEIGHT_FIRST,
                      .gate = weight(&s[S_GATE_EXPS]), .up = weight(&s[S_UP_EXPS]), .down = weight(&s[S_DOWN_EXPS]),
                      .gate_bias = bias(&s[S_GATE_EXPS]), .up_bias = bias(&s[S_UP_EXPS]), .down_bias = bias(&s[S_DOWN_EXPS]),
                      .gate_each = each(&s[S_GATE_EXPS]), .up_each = each(&s[S_UP_EXPS]), .down_each = each(&s[S_DOWN_EXPS]),
                      .limit = hp->row->more & B_LIMIT_AFTER ? 0 : hp->layers[il].exp_limit};
    op.act = feed_act(hp, il, hp->layers[il].exp_limit, op.p);
    dev_op_experts(c->p, op);
}

// Experts of a second stack read what the first give, by the router's view of x: dst = residual + y + scale * second(y). n2 is overwritten.
static void chunk_experts(graph *c, int32_t il, dev_reg dst, dev_reg x, dev_reg residual) {
    const hparams *hp = c->hp;
    const slot_pair *s = c->b->layers[il].s;
    dev_reg y = c->t[c->w], second = c->n2[c->w];
    int32_t few = hp->n_expert / hp->share;
    graph_experts(c, il, y, x, DEV_NONE, DEV_NONE);
    dev_op_experts(c->p, (dev_experts){.dst = second, .src = y, .router_src = x, .residual = DEV_NONE, .router = weight(&s[S_ROUTER]), .gating = hp->gating,
                                       .n_expert = hp->n_expert, .top_k = hp->top_k < few ? hp->top_k : few, .share = hp->share, .normalise = hp->exp_norm,
                                       .gate = weight(&s[S_GATE_CHUNK]), .up = weight(&s[S_UP_CHUNK]), .down = weight(&s[S_DOWN_CHUNK]), .act = hp->row->act});
    dev_op_combine(c->p, (dev_combine){.dst = y, .a = y, .b = second, .sa = 1, .sb = hp->share_scale});
    dev_add(c->p, dst, residual, y);
}

// dst = [residual +] feed-forward of x: dense, or experts with what stands beside them. dst is not x.
void graph_feed(graph *c, int32_t il, dev_reg dst, dev_reg x, dev_reg router_src, dev_reg residual) {
    const slot_pair *s = c->b->layers[il].s;
    dev_plan *p = c->p;
    if (!s[S_ROUTER].w) {
        graph_dense(c, il, dst, x, &s[S_GATE], &s[S_UP], &s[S_DOWN], residual);
        return;
    }
    if (s[S_UP_CHUNK].w) {
        chunk_experts(c, il, dst, x, residual);
        return;
    }
    if (s[S_UP_SHARED].w && s[S_SHARED_ROUTER].w) { // the shared expert has a gate of one value
        dev_reg one = c->one[c->w], t = c->t[c->w]; // dst may be the residual: not to be written early
        graph_dense(c, il, t, x, &s[S_GATE_SHARED], &s[S_UP_SHARED], &s[S_DOWN_SHARED], DEV_NONE);
        dev_op_linear(p, (dev_linear){.src = x, .n = 1, .residual = DEV_NONE, .epilogue = DEV_EP_ACT, .act = DEV_ACT_SIGMOID,
                                      .out = {{one, weight(&s[S_SHARED_ROUTER]), NULL, 1, 0}}});
        dev_op_combine(p, (dev_combine){.dst = t, .a = t, .b = one, .sa = 1, .multiply = true});
        if (residual != DEV_NONE) dev_add(p, t, t, residual);
        graph_experts(c, il, dst, x, router_src, t);
    } else if (s[S_UP_SHARED].w || s[S_UP].w) { // a shared expert, or a dense part beside experts (grok)
        bool shared = s[S_UP_SHARED].w, scaled = c->hp->row->sum_scale != 0;
        dev_reg sum = scaled ? c->t[c->w] : dst;
        graph_dense(c, il, sum, x, &s[shared ? S_GATE_SHARED : S_GATE], &s[shared ? S_UP_SHARED : S_UP], &s[shared ? S_DOWN_SHARED : S_DOWN], scaled ? DEV_NONE : residual);
        graph_experts(c, il, sum, x, router_src, sum);
        if (scaled) dev_op_combine(p, (dev_combine){.dst = dst, .a = sum, .b = residual, .sa = c->hp->row->sum_scale, .sb = 1});
    } else graph_experts(c, il, dst, x, router_src, residual);
}

// gemma4's experts beside a dense part, each with norms of its own: dst = norm_1(dense(norm(h))) + norm_2(experts(pre_2(h))); the router reads
// h with a norm without weights, times its scale and 1 / sqrt(n_embd). x, n2 and early are overwritten.
static void feed_beside(graph *c, int32_t il, dev_reg dst, dev_reg x) {
    const slot_pair *s = c->b->layers[il].s;
    dev_plan *p = c->p;
    dev_reg h = c->h[c->w], in = c->n2[c->w], route = c->early[c->w];
    graph_dense(c, il, dst, x, &s[S_GATE], &s[S_UP], &s[S_DOWN], DEV_NONE);
    norm(c, dst, dst, &s[S_FFN_POST_1]);
    norm(c, in, h, &s[S_FFN_PRE_2]);
    dev_rms(p, route, h, weight(&s[S_ROUTER_SCALE]), c->hp->eps);
    dev_scale(p, route, route, 1 / sqrtf((float)c->hp->n_embd));
    graph_experts(c, il, x, in, route, DEV_NONE);
    norm(c, x, x, &s[S_FFN_POST_2]);
    dev_add(p, dst, dst, x);
}

// ---- layers ---------------------------------------------------------------------------------------------------------------

static void to_wanted(graph *c, dev_reg reg[2]) { dev_op_select(c->p, (dev_select){.dst = reg[1], .src = reg[0]}); }

dev_reg graph_select(graph *c, dev_reg att) {
    dev_reg chosen = part(c, c->att[1], dev_reg_width(c->p, att));
    dev_op_select(c->p, (dev_select){.dst = chosen, .src = att});
    to_wanted(c, c->h);
    c->w = 1;
    return chosen;
}

// Inputs of each layer's own: ple = (look-up * sqrt(n) + norm(proj h / sqrt(n_embd))) / sqrt(2), n columns a layer.
static void ple_inputs(graph *c) {
    const hparams *hp = c->hp;
    dev_plan *p = c->p;
    dev_reg proj = dev_reg_all(p, hp->n_ple * hp->n_layers);
    dev_op_embed(p, (dev_embed){.dst = c->ple, .table = weight(&c->b->ple_embed), .scale = sqrtf((float)hp->n_ple)});
    dev_op_linear(p, (dev_linear){.src = c->h[0], .n = 1, .residual = DEV_NONE, .out = {{proj, weight(&c->b->ple_proj), NULL, 1 / sqrtf((float)hp->n_embd), 0}}});
    dev_op_norm(p, (dev_norm){.dst = proj, .src = proj, .kind = DEV_NORM_RMS, .group = hp->n_ple, .eps = hp->eps,
                              .weight = weight(&c->b->ple_norm), .add = DEV_NONE, .sum = DEV_NONE});
    dev_op_combine(p, (dev_combine){.dst = c->ple, .a = c->ple, .b = proj, .sa = sqrtf(0.5f), .sb = sqrtf(0.5f)});
}

dev_reg graph_ple(graph *c, int32_t il, dev_reg x) {
    const slot_pair *s = c->b->layers[il].s;
    dev_plan *p = c->p;
    dev_reg t = c->t[c->w], gate = c->ple_gate[c->w], input = dev_reg_view(p, c->ple, il * c->hp->n_ple, c->hp->n_ple);
    if (c->w) {
        dev_op_select(p, (dev_select){.dst = c->ple_slice, .src = input});
        input = c->ple_slice;
    }
    dev_op_linear(p, (dev_linear){.src = x, .n = 1, .residual = DEV_NONE, .epilogue = DEV_EP_ACT, .act = DEV_ACT_GELU, .out = {{gate, weight(&s[S_PLE_GATE]), NULL, 1, 0}}});
    dev_op_combine(p, (dev_combine){.dst = gate, .a = gate, .b = input, .sa = 1, .multiply = true});
    dev_linear1(p, t, gate, weight(&s[S_PLE_PROJ]), NULL);
    norm(c, t, t, &s[S_PLE_NORM]);
    return t;
}

// A layer of a feed-forward alone (nemotron_h): h = h + feed(norm(h)).
static void feed_layer(graph *c, int32_t il) {
    if (il == c->hp->n_layers - 1) {
        to_wanted(c, c->h);
        c->w = 1;
    }
    norm(c, c->n[c->w], c->h[c->w], &c->b->layers[il].s[S_ATTN_NORM]);
    graph_feed(c, il, c->h[c->w], c->n[c->w], DEV_NONE, c->h[c->w]);
}

// What a branch adds to is its own input, scaled: h = r n + attention(n), n = norm(h); the same with the feed-forward (minimax-01).
static void inward_layer(graph *c, int32_t il) {
    const slot_pair *s = c->b->layers[il].s;
    float r = c->hp->resid_scale;
    norm(c, c->n[0], c->h[0], &s[S_ATTN_NORM]);
    dev_reg att = c->hp->layers[il].recurrent ? graph_recurrent(c, il, c->n[0]) : graph_attention(c, il, c->n[0]);
    dev_scale(c->p, c->h[0], c->n[0], r);
    if (il == c->hp->n_layers - 1) att = graph_select(c, att);
    dev_reg h = c->h[c->w], n = c->n[c->w];
    linear(c, h, att, &s[S_OUT], h);
    norm(c, n, h, &s[S_FFN_NORM]);
    dev_scale(c->p, h, n, r);
    graph_feed(c, il, h, n, DEV_NONE, h);
}

// h = h + attention(norm(h)); h = h + feed(norm(h)), in the order and with the norms of the row.
static void layer(graph *c, int32_t il) {
    const hparams *hp = c->hp;
    const slot_pair *s = c->b->layers[il].s;
    dev_plan *p = c->p;
    unsigned traits = hp->row->traits;
    const layer_hp *l = &hp->layers[il];
    if (l->no_attention && !l->recurrent) {
        feed_layer(c, il);
        return;
    }
    if (hp->row->recur == RECUR_LIGHTNING) {
        inward_layer(c, il);
        return;
    }
    bool plain = traits & A_NORM_PLAIN, parallel = !plain && !s[S_FFN_NORM].w && !hp->no_pre && !l->no_feed, beside = (traits & A_EXPERTS_BESIDE) && s[S_NORM_EXPS].w;
    bool both_norms = !parallel && hp->parallel_key; // gptneox: two norms of the same input
    bool early = traits & A_ROUTER_EARLY && s[S_ROUTER].w;
    dev_reg h = c->h[0], x = h;
    if (s[S_ATTN_NORM].w || plain) norm(c, x = c->n[0], h, &s[S_ATTN_NORM]);
    dev_reg att_in = x;
    if (s[S_ATTN_NORM_2].w) norm(c, att_in = c->n2[0], h, &s[S_ATTN_NORM_2]);
    if (l->recurrent && !l->no_attention) linear(c, h, graph_recurrent(c, il, x), &s[S_SSM_OUT], h); // beside attention, which reads x
    dev_reg att = l->no_attention ? graph_recurrent(c, il, att_in) : traits & A_LATENT ? graph_latent(c, il, att_in) : graph_attention(c, il, att_in);
    if (beside) norm(c, c->n2[0], h, &s[S_NORM_EXPS]);
    if (both_norms) norm(c, c->n[0], h, &s[S_FFN_NORM]);
    if (early) dev_scale(p, c->early[0], h, 1);

    if (il == hp->n_layers - 1 && !encoder_means(hp)) { // from here on only the rows whose logits are wanted
        att = graph_select(c, att);
        if (parallel || both_norms) to_wanted(c, c->n);
        if (beside) to_wanted(c, c->n2);
        if (early) to_wanted(c, c->early);
        if (c->skip[0] != DEV_NONE) to_wanted(c, c->skip);
    }
    int w = c->w;
    h = c->h[w];
    if (traits & A_SUB_NORMS) norm(c, att, att, &s[S_ATTN_SUB]);
    if (s[S_ATTN_POST].w || hp->resid_scale != 1) {
        linear(c, c->t[w], att, &s[S_OUT], DEV_NONE);
        if (s[S_ATTN_POST].w) post_norm(c, c->t[w], &s[S_ATTN_POST]);
        add_branch(c, h, h, c->t[w]);
    } else linear(c, h, att, &s[S_OUT], h);
    if (l->no_feed) return;

    x = c->n[w];
    if (!parallel && !both_norms) {
        if (s[S_FFN_NORM].w || plain) norm(c, x, h, &s[S_FFN_NORM]);
        else dev_scale(p, x, hp->row->keys & K_SWIN ? c->t[w] : h, 1); // normalised afterwards only: a copy, as the branch may not read what it adds to
    }
    if (beside) { // arctic: the dense part reads h, the experts the layer's input
        graph_dense(c, il, h, x, &s[S_GATE], &s[S_UP], &s[S_DOWN], h);
        graph_experts(c, il, h, c->n2[w], DEV_NONE, h);
        return;
    }
    dev_reg router_src = early ? c->early[w] : DEV_NONE;
    if (s[S_FFN_POST].w || hp->resid_scale != 1) {
        if (s[S_FFN_PRE_2].w) feed_beside(c, il, c->t[w], x);
        else graph_feed(c, il, c->t[w], x, router_src, DEV_NONE);
        if (s[S_FFN_POST].w) post_norm(c, c->t[w], &s[S_FFN_POST]);
        add_branch(c, h, h, c->t[w]);
    } else graph_feed(c, il, h, x, router_src, h);
}

static void registers(graph *c) {
    const hparams *hp = c->hp;
    int32_t qkv = 1, att = 1, ff = 1;
    bool n2 = false, early = false, one = false, gate = false;
    for (int32_t i = 0; i < hp->n_layers; i++) {
        const layer_hp *l = &hp->layers[i];
        const slot_pair *s = c->b->layers[i].s;
        int32_t wide = l->n_head * l->head_k + l->n_kv * (l->head_k + l->head_v);
        if (wide > qkv && !(hp->row->traits & A_LATENT)) qkv = wide;
        int32_t out = l->n_head * (hp->row->traits & A_LATENT ? l->mla_v : l->head_v);
        if (out > att) att = out;
        if (l->recurrent && hp->state_heads * hp->state_v > att) att = hp->state_heads * hp->state_v;
        static const slot downs[] = {S_DOWN, S_DOWN_SHARED, S_CM_VALUE};
        for (size_t d = 0; d < sizeof downs / sizeof *downs; d++)
            if (s[downs[d]].w && s[downs[d]].w->desc.k > ff) ff = (int32_t)s[downs[d]].w->desc.k;
        n2 |= s[S_CM_VALUE].w || s[S_ATTN_NORM_2].w || s[S_NORM_EXPS].w || s[S_FFN_PRE_2].w || s[S_UP_CHUNK].w;
        early |= (hp->row->traits & A_ROUTER_EARLY && s[S_ROUTER].w) || s[S_FFN_PRE_2].w;
        one |= s[S_SHARED_ROUTER].w != NULL;
        gate |= s[S_GATE_ATTN].w != NULL;
    }
    c->qkv = dev_reg_all(c->p, qkv);
    c->tmp = c->b->limit ? dev_reg_all(c->p, qkv) : DEV_NONE;
    c->temper = c->b->temper ? dev_reg_all(c->p, 1) : DEV_NONE;
    c->ple = hp->n_ple ? dev_reg_all(c->p, hp->n_ple * hp->n_layers) : DEV_NONE;
    c->ple_slice = hp->n_ple ? dev_reg_wanted(c->p, hp->n_ple) : DEV_NONE;
    for (int w = 0; w < 2; w++) c->ple_gate[w] = !hp->n_ple ? DEV_NONE : w ? dev_reg_wanted(c->p, hp->n_ple) : dev_reg_all(c->p, hp->n_ple);
    if (hp->row->traits & A_LATENT) graph_latent_registers(c);
    if (hp->row->recur) graph_recurrent_registers(c);
    for (int w = 0; w < 2; w++) {
        dev_reg (*make)(dev_plan *, int32_t) = w ? dev_reg_wanted : dev_reg_all;
        c->h[w] = make(c->p, hp->n_embd);
        c->n[w] = make(c->p, hp->n_embd);
        c->t[w] = make(c->p, hp->n_embd);
        c->n2[w] = n2 ? make(c->p, hp->n_embd) : DEV_NONE;
        c->early[w] = early ? make(c->p, hp->n_embd) : DEV_NONE;
        c->ff[w] = make(c->p, ff);
        c->att[w] = make(c->p, att);
        c->gate[w] = gate ? make(c->p, att) : DEV_NONE;
        c->skip[w] = hp->row->more & B_SKIP ? make(c->p, hp->n_embd) : DEV_NONE;
        c->one[w] = one ? make(c->p, 1) : DEV_NONE;
    }
    if (hp->row->more & (B_ALTUP | B_BANK | B_HYPER)) graph_streams_registers(c);
}

// hrm_text: a stack reads the sum of the two streams, and its norm becomes the low stream or, of the high stack, the high one. The last pass ends in
// the output's norm.
static void start_cycles(graph *c) {
    c->high = dev_reg_all(c->p, c->hp->n_embd);
    c->low_stream = dev_reg_all(c->p, c->hp->n_embd);
    dev_scale(c->p, c->high, c->h[0], 1);
    dev_scale(c->p, c->low_stream, c->h[0], 0);
    dev_op_vector(c->p, (dev_vector){.dst = c->low_stream, .src = c->low_stream, .bias = weight(&c->b->low_init)});
}

static void end_pass(graph *c, int32_t il) {
    bool high = il / c->hp->cycle_layers % (c->hp->cycle_low + 1) == c->hp->cycle_low;
    norm(c, high ? c->high : c->low_stream, c->h[0], &(slot_pair){.factor = 1});
}

status graph_record(const hparams *hp, const binding *b, dev_plan *p, error *err) {
    graph c = {.p = p, .hp = hp, .b = b};
    registers(&c);
    dev_op_embed(p, (dev_embed){.dst = c.h[0], .table = weight(&b->embed), .scale = hp->embed_scale});
    if (b->positions.w) {
        dev_op_embed(p, (dev_embed){.dst = c.n[0], .table = weight(&b->positions), .scale = 1, .by_position = true});
        dev_add(p, c.h[0], c.h[0], c.n[0]);
    }
    if (b->token_type) dev_op_vector(p, (dev_vector){.dst = c.h[0], .src = c.h[0], .bias = b->token_type->dev});
    if (b->temper) dev_op_embed(p, (dev_embed){.dst = c.temper, .table = b->temper->dev, .scale = 1, .by_position = true});
    if (hp->n_ple) ple_inputs(&c);
    if (hp->row->traits & A_EMBED_PLAIN) norm(&c, c.h[0], c.h[0], &(slot_pair){.factor = 1});
    if (b->embed_norm.w) norm(&c, c.h[0], c.h[0], &b->embed_norm);
    if (hp->row->more & B_SKIP) dev_scale(p, c.skip[0], c.h[0], 1);
    if (hp->row->more & B_CYCLES) start_cycles(&c);
    if (hp->row->more & (B_ALTUP | B_BANK | B_HYPER)) graph_streams_begin(&c);
    for (int32_t il = 0; il < hp->n_layers; il++) {
        if (hp->row->more & B_CYCLES && il % hp->cycle_layers == 0) dev_add(p, c.h[0], c.high, c.low_stream);
        if (hp->row->encoder == ENC_POST) graph_encoder_layer(&c, il);
        else if (arch_rwkv(hp->row)) graph_rwkv_layer(&c, il);
        else if (hp->row->more & B_ALTUP) graph_altup_layer(&c, il);
        else if (hp->row->more & B_BANK) graph_bank_layer(&c, il);
        else if (hp->row->more & B_HYPER) graph_hyper_layer(&c, il);
        else {
            layer(&c, il);
            if (hp->n_ple) dev_add(p, c.h[c.w], c.h[c.w], graph_ple(&c, il, c.h[c.w]));
        }
        if (hp->row->more & B_CYCLES && (il + 1) % hp->cycle_layers == 0 && il + 1 < hp->n_layers) end_pass(&c, il);
        if (hp->row->more & B_SKIP) dev_op_combine(p, (dev_combine){.dst = c.h[c.w], .a = c.h[c.w], .b = c.skip[c.w], .sa = 1, .sb = b->layers[il].out_scale});
        else if (b->layers[il].out_scale != 1) dev_scale(p, c.h[c.w], c.h[c.w], b->layers[il].out_scale);
        if (p->failed) break;
    }
    if (!p->failed && hp->row->more & (B_ALTUP | B_BANK | B_HYPER)) graph_streams_end(&c);
    if (!p->failed) {
        dev_reg rows = c.h[c.w];
        if (hp->row->encoder != ENC_POST) norm(&c, rows = c.n[c.w], c.h[c.w], &b->out_norm);
        graph_embedding(&c, rows);
    }
    if (!p->failed && !hp->no_logits) {
        float scale = (hp->row->traits & A_LOGIT_DIVIDE ? 1 / hp->logit_scale : hp->logit_scale) * b->output.factor;
        dev_op_output(p, (dev_output){.src = c.n[1], .weight = weight(&b->output), .bias = bias(&b->output), .scale = scale, .softcap = hp->final_cap});
    }
    if (p->failed) {
        if (err) *err = p->why;
        return p->failed;
    }
    return OK;
}
