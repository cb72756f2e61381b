// model/streams: rows whose residual stream is not one.
//
// gemma3n (B_ALTUP): n_streams streams beside each other (alternating updates, AltUp, arXiv 2301.13310). A layer predicts all of them from all of
// them, computes the first, and corrects the others by how far it was from the prediction, with coefficients that a small router makes of the row.
// Beside attention stands a low-rank branch (LAuReL, arXiv 2411.07501); the first n_sparse layers keep only gates above mean + 1.645 deviations.
//
// kimi-k3 (B_BANK): every bank_step layers the stream is kept ("banked") and begins anew from attention's result; what a branch reads is a mixture of
// all kept streams and the present one, by a softmax of how each, normalised, scores. Routed experts work in a narrower space of their own.
//
// hy_v4 (B_HYPER): hyper-connections (arXiv 2409.19606). From all streams, normalised together, a matrix makes a weight for reading each and one for
// writing each; a branch reads their weighted sum, and its result is added to each by its weight.
#include <math.h>
#include <string.h>

#include "model/model_internal.h"

static const float SPARSE_DEVIATIONS = 1.6448533535003662f; // leaves 5 % of a normal distribution
static const float TINY = 1e-30f; // an epsilon that only keeps zero from dividing

static bool altup(const hparams *hp) { return hp->row->more & B_ALTUP; }
static bool hyper(const hparams *hp) { return hp->row->more & B_HYPER; }
static int32_t banks(const hparams *hp) { return hp->bank_step ? (hp->n_layers + hp->bank_step - 1) / hp->bank_step : 0; }

// ---- tensors --------------------------------------------------------------------------------------------------------------

static status check_altup(const hparams *hp, const binding *b, error *err) {
    int64_t e = hp->n_embd, n = hp->n_streams;
    status st;
    const slot_pair *const all[] = {&b->altup_in, &b->altup_out};
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "altup_unembd_proj.weight" : "altup_proj.weight";
        if (!all[i]->w) return error_set(err, E_INVALID, "the file has no tensor \"%s\"", name);
        uint64_t matrices = all[i]->w->src->dims[2];
        if (matrices != (uint64_t)n - 1)
            return error_set(err, E_INVALID, "tensor \"%s\" holds %llu matrices, expected %lld", name, (unsigned long long)matrices, (long long)n - 1);
        if ((st = want_matrix(all[i], e, e, 1, err))) return st;
    }
    for (int32_t il = 0; il < hp->n_layers; il++) {
        slot_pair *s = b->layers[il].s;
        int64_t rank = s[S_LAUREL_L].w ? s[S_LAUREL_L].w->desc.n : 0;
        st = SHAPES(MAT(S_ALTUP_ROUTER, e, n), VEC(S_ALTUP_ROUTER_NORM, e), MAT(S_ALTUP_PREDICT, n, n * n), MAT(S_ALTUP_CORRECT, n, n), VEC(S_ALTUP_SCALE, e),
                    MAT(S_LAUREL_L, e, rank), MAT(S_LAUREL_R, rank, e), VEC(S_LAUREL_POST, e), VEC(S_ATTN_POST, e), VEC(S_FFN_POST, e),
                    MAT(S_GATE, e, b->layers[0].s[S_GATE].w ? b->layers[0].s[S_GATE].w->desc.n : 0));
        if (st) return st;
    }
    return OK;
}

static status check_bank(const hparams *hp, const binding *b, error *err) {
    int64_t e = hp->n_embd;
    status st;
    if (hp->bank_step && !b->res_out.w) return error_set(err, E_INVALID, "the file has no tensor \"output_res_score.weight\"");
    if ((st = want_matrix(&b->res_out, e, 1, 1, err))) return st;
    for (int32_t il = 0; il < hp->n_layers; il++) {
        slot_pair *s = b->layers[il].s;
        if (hp->bank_step && (st = SHAPES(MAT(S_RES_ATTN, e, 1), MAT(S_RES_FFN, e, 1)))) return st;
        int64_t narrow = s[S_ROUTED_DOWN].w ? s[S_ROUTED_DOWN].w->desc.n : 0;
        if (narrow && (st = SHAPES(MAT(S_ROUTED_DOWN, e, narrow), MAT(S_ROUTED_UP, narrow, e), VEC_MAY(S_ROUTED_NORM, narrow)))) return st;
    }
    return OK;
}

static status check_hyper(const hparams *hp, const binding *b, error *err) {
    int64_t n = hp->n_streams, all = n * hp->n_embd;
    status st;
    if (!b->hc.w) return error_set(err, E_INVALID, "the file has no tensor \"output_hc_fn.weight\"");
    if (!b->hc_base.w) return error_set(err, E_INVALID, "the file has no tensor \"output_hc_base.weight\"");
    if (!b->hc_scale.w) return error_set(err, E_INVALID, "the file has no tensor \"output_hc_scale.weight\"");
    if ((st = want_matrix(&b->hc, all, n, 1, err)) || (st = want_vector(b->hc_base.w, n, err)) || (st = want_vector(b->hc_scale.w, n, err))) return st;
    for (int32_t il = 0; il < hp->n_layers; il++) {
        slot_pair *s = b->layers[il].s;
        st = SHAPES(MAT(S_HC_ATTN, all, 2 * n), VEC(S_HC_ATTN_BASE, 2 * n), VEC(S_HC_ATTN_SCALE, 2 * n),
                    MAT(S_HC_FFN, all, 2 * n), VEC(S_HC_FFN_BASE, 2 * n), VEC(S_HC_FFN_SCALE, 2 * n));
        if (st) return st;
    }
    return OK;
}

status check_streams(const hparams *hp, const binding *b, error *err) {
    if (altup(hp)) return check_altup(hp, b, err);
    return hp->row->more & B_BANK ? check_bank(hp, b, err) : hyper(hp) ? check_hyper(hp, b, err) : OK;
}

// ---- registers ------------------------------------------------------------------------------------------------------------

void graph_streams_registers(graph *c) {
    const hparams *hp = c->hp;
    streams *x = &c->st;
    int32_t e = hp->n_embd, low = 1, ff = 1, narrow = 1;
    for (int32_t il = 0; il < hp->n_layers; il++) {
        const slot_pair *s = c->b->layers[il].s;
        if (s[S_LAUREL_L].w && s[S_LAUREL_L].w->desc.n > low) low = (int32_t)s[S_LAUREL_L].w->desc.n;
        if (s[S_DOWN].w && s[S_DOWN].w->desc.k > ff) ff = (int32_t)s[S_DOWN].w->desc.k;
        if (s[S_ROUTED_DOWN].w && s[S_ROUTED_DOWN].w->desc.n > narrow) narrow = (int32_t)s[S_ROUTED_DOWN].w->desc.n;
    }
    for (int w = 0; w < 2 && (altup(hp) || hyper(hp)); w++) {
        dev_reg (*make)(dev_plan *, int32_t) = w ? dev_reg_wanted : dev_reg_all;
        x->all[w] = make(c->p, hp->n_streams * e);
        x->guess[w] = make(c->p, hp->n_streams * e);
        x->coef[w] = make(c->p, altup(hp) ? hp->n_streams * hp->n_streams : 2 * hp->n_streams);
        if (hyper(hp)) continue;
        x->mode[w] = make(c->p, hp->n_streams);
        x->laurel[w] = make(c->p, e);
        x->sparse[w] = make(c->p, ff);
    }
    if (altup(hp)) {
        x->low = dev_reg_all(c->p, low);
        for (int w = 0; w < 2; w++) c->one[w] = w ? dev_reg_wanted(c->p, 1) : dev_reg_all(c->p, 1);
    }
    if (hp->row->more & B_BANK) {
        x->bank = dev_reg_all(c->p, (banks(hp) + 1) * e);
        x->level = dev_reg_all(c->p, (banks(hp) + 1) * e);
        x->score = dev_reg_all(c->p, banks(hp) + 1);
        x->mixed = dev_reg_all(c->p, e);
        x->latent = dev_reg_all(c->p, 2 * narrow);
    }
}

// ---- gemma3n --------------------------------------------------------------------------------------------------------------

static void plain_rms(graph *c, dev_reg dst, dev_reg src) { dev_rms(c->p, dst, src, NULL, TINY); }
static dev_reg stream(graph *c, dev_reg all, int32_t i) { return dev_reg_view(c->p, all, i * c->hp->n_embd, c->hp->n_embd); }

// one = the length of x, per column; n is overwritten.
static void length_of(graph *c, dev_reg x, dev_reg n) {
    plain_rms(c, n, x);
    dev_op_dot(c->p, (dev_dot){.dst = c->one[c->w], .a = x, .b = n});
    dev_scale(c->p, c->one[c->w], c->one[c->w], 1 / (float)c->hp->n_embd);
}

// dst = w src, as long as `one` says
static void project(graph *c, dev_reg dst, dev_reg src, const dev_tensor *w) {
    dev_linear1(c->p, dst, src, w, NULL);
    plain_rms(c, dst, dst);
    dev_op_combine(c->p, (dev_combine){.dst = dst, .a = dst, .b = c->one[c->w], .sa = 1, .multiply = true});
}

// mode = tanh(router norm(x) / n_embd); n is overwritten.
static void route(graph *c, const slot_pair *s, dev_reg x, dev_reg n) {
    graph_norm(c, n, x, &s[S_ALTUP_ROUTER_NORM]);
    dev_op_linear(c->p, (dev_linear){.src = n, .n = 1, .residual = DEV_NONE, .epilogue = DEV_EP_ACT, .act = DEV_ACT_TANH,
                                     .out = {{c->st.mode[c->w], graph_weight(&s[S_ALTUP_ROUTER]), NULL, 1 / (float)c->hp->n_embd, 0}}});
}

// dst = down(gelu(gates that stand out) * up): a gate keeps what it is above mean + 1.645 deviations, others count as 0.
static void sparse_feed(graph *c, const slot_pair *s, dev_reg dst, dev_reg x) {
    dev_plan *p = c->p;
    int32_t n = (int32_t)s[S_GATE].w->desc.n;
    dev_reg ff = graph_part(c, c->ff[c->w], n), gate = graph_part(c, c->st.sparse[c->w], n), one = c->one[c->w];
    graph_linear(c, ff, x, &s[S_GATE]);
    dev_op_norm(p, (dev_norm){.dst = gate, .src = ff, .kind = DEV_NORM_LAYER, .eps = TINY, .add = DEV_NONE, .sum = DEV_NONE});
    dev_op_dot(p, (dev_dot){.dst = one, .a = ff, .b = gate}); // n deviations
    dev_op_vector(p, (dev_vector){.dst = gate, .src = gate, .bias = c->b->cut->dev});
    dev_op_act(p, (dev_activate){.dst = gate, .gate = gate, .up = DEV_NONE, .act = DEV_ACT_RELU});
    dev_op_combine(p, (dev_combine){.dst = gate, .a = gate, .b = one, .sa = 1 / (float)n, .multiply = true});
    graph_linear(c, ff, x, &s[S_UP]);
    dev_op_act(p, (dev_activate){.dst = ff, .gate = gate, .up = ff, .act = c->hp->row->act});
    graph_linear(c, dst, ff, &s[S_DOWN]);
}

static void select_wanted(graph *c, dev_reg pair[2]) { dev_op_select(c->p, (dev_select){.dst = pair[1], .src = pair[0]}); }

void graph_altup_layer(graph *c, int32_t il) {
    const hparams *hp = c->hp;
    const slot_pair *s = c->b->layers[il].s;
    streams *x = &c->st;
    dev_plan *p = c->p;
    int32_t n = hp->n_streams, few = (int32_t)s[S_LAUREL_L].w->desc.n;
    float half = sqrtf(0.5f);
    route(c, s, stream(c, x->all[0], 0), c->n[0]);
    dev_linear1(p, x->coef[0], x->mode[0], graph_weight(&s[S_ALTUP_PREDICT]), NULL);
    dev_op_mix(p, (dev_mix){.dst = x->guess[0], .src = x->all[0], .weight = x->coef[0], .add = x->all[0], .n_dst = n, .n_src = n});
    graph_norm(c, c->n[0], stream(c, x->guess[0], 0), &s[S_ATTN_NORM]);
    dev_reg low = graph_part(c, x->low, few), laurel = x->laurel[0];
    graph_linear(c, low, c->n[0], &s[S_LAUREL_L]);
    graph_linear(c, laurel, low, &s[S_LAUREL_R]);
    graph_norm(c, laurel, laurel, &s[S_LAUREL_POST]);
    dev_add(p, laurel, laurel, c->n[0]);
    dev_reg att = graph_attention(c, il, c->n[0]);
    if (il == hp->n_layers - 1) {
        att = graph_select(c, att);
        select_wanted(c, x->guess);
        select_wanted(c, x->laurel);
        laurel = x->laurel[1];
    }
    dev_reg t = c->t[c->w], in = c->n[c->w], h = c->h[c->w], active = stream(c, x->guess[c->w], 0);
    graph_linear(c, t, att, &s[S_OUT]);
    graph_norm(c, t, t, &s[S_ATTN_POST]);
    dev_add(p, t, t, active);
    dev_op_combine(p, (dev_combine){.dst = h, .a = t, .b = laurel, .sa = half, .sb = half});
    graph_norm(c, in, h, &s[S_FFN_NORM]);
    if (il < hp->n_sparse) sparse_feed(c, s, t, in);
    else graph_feed(c, il, t, in, DEV_NONE, DEV_NONE);
    graph_norm(c, t, t, &s[S_FFN_POST]);
    dev_add(p, t, t, h);
    route(c, s, t, in);
    dev_reg more = graph_part(c, x->coef[c->w], n);
    dev_linear1(p, more, x->mode[c->w], graph_weight(&s[S_ALTUP_CORRECT]), c->b->ones->dev);
    dev_op_combine(p, (dev_combine){.dst = t, .a = t, .b = active, .sa = 1, .sb = -1});
    dev_op_mix(p, (dev_mix){.dst = x->all[c->w], .src = t, .weight = more, .add = x->guess[c->w], .n_dst = n, .n_src = 1});
    dev_op_vector(p, (dev_vector){.dst = in, .src = stream(c, x->all[c->w], 0), .scale = graph_weight(&s[S_ALTUP_SCALE])});
    dev_reg own = graph_ple(c, il, in);
    for (int32_t i = 1; i < n; i++) dev_add(p, stream(c, x->all[c->w], i), stream(c, x->all[c->w], i), own);
}

// ---- kimi-k3 --------------------------------------------------------------------------------------------------------------

// What a branch reads: the kept streams and h, mixed. score: a row of n_embd weights.
static dev_reg mixture(graph *c, const slot_pair *score) {
    streams *x = &c->st;
    dev_plan *p = c->p;
    if (!x->banked) return c->h[0];
    int32_t n = x->banked + 1;
    dev_reg last = stream(c, x->bank, n - 1), level = stream(c, x->level, n - 1), scores = graph_part(c, x->score, n);
    dev_scale(p, last, c->h[0], 1);
    dev_rms(p, level, last, NULL, c->hp->eps);
    for (int32_t i = 0; i < n; i++) dev_linear1(p, dev_reg_view(p, x->score, i, 1), stream(c, x->level, i), graph_weight(score), NULL);
    dev_op_norm(p, (dev_norm){.dst = scores, .src = scores, .kind = DEV_NORM_SOFTMAX, .add = DEV_NONE, .sum = DEV_NONE});
    dev_op_mix(p, (dev_mix){.dst = x->mixed, .src = graph_part(c, x->bank, n * c->hp->n_embd), .weight = scores, .add = DEV_NONE, .n_dst = 1, .n_src = n});
    return x->mixed;
}

static void narrow_experts(graph *c, int32_t il, dev_reg x) {
    const slot_pair *s = c->b->layers[il].s;
    int32_t narrow = (int32_t)s[S_ROUTED_DOWN].w->desc.n;
    dev_reg h = c->h[0], in = dev_reg_view(c->p, c->st.latent, 0, narrow), latent = dev_reg_view(c->p, c->st.latent, narrow, narrow);
    graph_linear(c, in, x, &s[S_ROUTED_DOWN]);
    graph_experts(c, il, latent, in, x, DEV_NONE);
    if (s[S_ROUTED_NORM].w) dev_rms(c->p, latent, latent, graph_weight(&s[S_ROUTED_NORM]), c->hp->eps);
    dev_linear_add(c->p, h, latent, graph_weight(&s[S_ROUTED_UP]), graph_bias(&s[S_ROUTED_UP]), h);
    if (s[S_UP_SHARED].w) graph_dense(c, il, h, x, &s[S_GATE_SHARED], &s[S_UP_SHARED], &s[S_DOWN_SHARED], h);
}

void graph_bank_layer(graph *c, int32_t il) {
    const hparams *hp = c->hp;
    const slot_pair *s = c->b->layers[il].s;
    streams *x = &c->st;
    dev_plan *p = c->p;
    dev_reg h = c->h[0], n = c->n[0];
    bool keep = hp->bank_step && il % hp->bank_step == 0;
    graph_norm(c, n, mixture(c, &s[S_RES_ATTN]), &s[S_ATTN_NORM]);
    if (keep) {
        dev_scale(p, stream(c, x->bank, x->banked), h, 1);
        dev_rms(p, stream(c, x->level, x->banked), h, NULL, hp->eps);
        x->banked++;
    }
    dev_reg att = hp->layers[il].recurrent ? graph_recurrent(c, il, n) : graph_latent(c, il, n);
    if (keep) graph_linear(c, h, att, &s[S_OUT]);
    else dev_linear_add(p, h, att, graph_weight(&s[S_OUT]), graph_bias(&s[S_OUT]), h);
    graph_norm(c, n, mixture(c, &s[S_RES_FFN]), &s[S_FFN_NORM]);
    if (s[S_ROUTED_DOWN].w) narrow_experts(c, il, n);
    else graph_feed(c, il, h, n, DEV_NONE, h);
}

// ---- hy_v4 ----------------------------------------------------------------------------------------------------------------

// The weights of `parts` times as many values as there are streams, in coef; guess is overwritten.
static dev_reg weigh(graph *c, const slot_pair *fn, const slot_pair *base, const slot_pair *scale, int32_t parts) {
    streams *x = &c->st;
    dev_plan *p = c->p;
    int32_t n = c->hp->n_streams;
    dev_reg coef = graph_part(c, x->coef[c->w], parts * n), read = dev_reg_view(p, coef, 0, n);
    dev_rms(p, x->guess[c->w], x->all[c->w], NULL, c->hp->eps);
    graph_linear(c, coef, x->guess[c->w], fn);
    dev_op_vector(p, (dev_vector){.dst = coef, .src = coef, .scale = graph_weight(scale), .bias = graph_weight(base)});
    dev_op_act(p, (dev_activate){.dst = coef, .gate = coef, .up = DEV_NONE, .act = DEV_ACT_SIGMOID});
    dev_op_vector(p, (dev_vector){.dst = read, .src = read, .bias = c->b->floor->dev});
    if (parts > 1) {
        dev_reg write = dev_reg_view(p, coef, n, n);
        dev_scale(p, write, write, c->hp->hyper_gain);
        dev_op_vector(p, (dev_vector){.dst = write, .src = write, .bias = c->b->floor->dev});
    }
    return read;
}

static void read_streams(graph *c, dev_reg dst, dev_reg weights) {
    dev_op_mix(c->p, (dev_mix){.dst = dst, .src = c->st.all[c->w], .weight = weights, .add = DEV_NONE, .n_dst = 1, .n_src = c->hp->n_streams});
}

static void write_streams(graph *c, dev_reg src) {
    int32_t n = c->hp->n_streams;
    dev_reg all = c->st.all[c->w];
    dev_op_mix(c->p, (dev_mix){.dst = all, .src = src, .weight = dev_reg_view(c->p, c->st.coef[c->w], n, n), .add = all, .n_dst = n, .n_src = 1});
}

void graph_hyper_layer(graph *c, int32_t il) {
    const slot_pair *s = c->b->layers[il].s;
    dev_reg x = c->t[0];
    read_streams(c, x, weigh(c, &s[S_HC_ATTN], &s[S_HC_ATTN_BASE], &s[S_HC_ATTN_SCALE], 2));
    graph_norm(c, c->n[0], x, &s[S_ATTN_NORM]);
    dev_reg att = graph_latent(c, il, c->n[0]);
    if (il == c->hp->n_layers - 1) {
        att = graph_select(c, att);
        select_wanted(c, c->st.all);
        select_wanted(c, c->st.coef);
    }
    x = c->t[c->w];
    graph_linear(c, x, att, &s[S_OUT]);
    write_streams(c, x);
    read_streams(c, x, weigh(c, &s[S_HC_FFN], &s[S_HC_FFN_BASE], &s[S_HC_FFN_SCALE], 2));
    graph_norm(c, c->n[c->w], x, &s[S_FFN_NORM]);
    graph_feed(c, il, x, c->n[c->w], DEV_NONE, DEV_NONE);
    write_streams(c, x);
}

// ---- both ends ------------------------------------------------------------------------------------------------------------

void graph_streams_begin(graph *c) {
    if (!altup(c->hp) && !hyper(c->hp)) return;
    dev_reg all = c->st.all[0];
    for (int32_t i = 0; i < c->hp->n_streams && hyper(c->hp); i++) dev_scale(c->p, stream(c, all, i), c->h[0], 1);
    if (hyper(c->hp)) return;
    dev_scale(c->p, stream(c, all, 0), c->h[0], 1);
    length_of(c, c->h[0], c->n[0]);
    for (int32_t i = 1; i < c->hp->n_streams; i++) project(c, stream(c, all, i), c->h[0], c->b->altup_in.w[i - 1].dev);
}

void graph_streams_end(graph *c) {
    dev_plan *p = c->p;
    if (hyper(c->hp)) {
        read_streams(c, c->h[c->w], weigh(c, &c->b->hc, &c->b->hc_base, &c->b->hc_scale, 1));
        return;
    }
    if (!altup(c->hp)) { // the bank is of all rows
        dev_reg last = mixture(c, &c->b->res_out);
        dev_op_select(p, (dev_select){.dst = c->h[1], .src = last});
        c->w = 1;
        return;
    }
    int32_t n = c->hp->n_streams;
    dev_reg all = c->st.all[c->w], h = c->h[c->w], t = c->t[c->w];
    length_of(c, stream(c, all, 0), c->n[c->w]);
    dev_scale(p, h, stream(c, all, 0), 1 / (float)n);
    for (int32_t i = 1; i < n; i++) { // their mean
        project(c, t, stream(c, all, i), c->b->altup_out.w[i - 1].dev);
        dev_op_combine(p, (dev_combine){.dst = h, .a = h, .b = t, .sa = 1, .sb = 1 / (float)n});
    }
}

float streams_cut(int64_t columns) { return -SPARSE_DEVIATIONS * sqrtf((float)columns / (float)(columns - 1)); } // a deviation here divides by n, there by n - 1
