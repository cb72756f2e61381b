// model/latent: attention whose keys and values come from one shared low-rank vector (DeepSeek-V2, arXiv 2405.04434).
//
// Registers: low the query's low-rank vector; query n_head x mla_k; latent rank + n_rot, the shared vector and its rotated key; wide what attend
// reads. Absorbed: the key matrix of a head is applied to its query instead, all heads share one key (latent itself, whose first `rank`
// columns are the value), and a head's values come from the attention's result. Otherwise keys and values are made a head at a time.
#include <math.h>

#include "model/model_internal.h"

static bool absorbed(const layer_hp *l, const slot_pair *s) { return s[S_K_B].w && l->head_v == l->kv_rank; }

static int32_t max_low(const graph *c) {
    int32_t n = 1;
    for (int32_t i = 0; i < c->hp->n_layers; i++) {
        const bound_tensor *t = c->b->layers[i].s[S_Q_A].w;
        if (t && t->desc.n > n) n = (int32_t)t->desc.n;
    }
    return n;
}

void graph_latent_registers(graph *c) {
    const hparams *hp = c->hp;
    int32_t query = 1, wide = 1, latent = 1;
    for (int32_t i = 0; i < hp->n_layers; i++) {
        const layer_hp *l = &hp->layers[i];
        int32_t heads = l->n_head, nope = l->mla_k - hp->n_rot;
        int32_t need = absorbed(l, c->b->layers[i].s) ? heads * (l->head_k + l->head_v) : heads * (nope + l->mla_v + l->head_k + l->head_v);
        if (heads * l->mla_k > query) query = heads * l->mla_k;
        if (l->kv_rank + hp->n_rot > latent) latent = l->kv_rank + hp->n_rot;
        if (need > wide) wide = need;
    }
    c->low = dev_reg_all(c->p, max_low(c));
    c->query = dev_reg_all(c->p, query);
    c->latent = dev_reg_all(c->p, latent);
    c->wide = dev_reg_all(c->p, wide);
}

static void low_norm(graph *c, dev_reg r, const slot_pair *s) { dev_rms(c->p, r, r, graph_weight(s), c->hp->eps); }

// From here each head is a weight of its own: slice h of a stack.
static const dev_tensor *slice(const slot_pair *s, int32_t h) { return s->w[h].dev; }

static void attend(graph *c, const layer_hp *l, const slot_pair *sinks, dev_reg dst, dev_reg q, dev_reg k, dev_reg v) {
    const hparams *hp = c->hp;
    int32_t index, group = graph_group(c, l, &index);
    if (c->b->temper) dev_op_combine(c->p, (dev_combine){.dst = q, .a = q, .b = c->temper, .sa = 1, .multiply = true});
    dev_op_attend(c->p, (dev_attend){.dst = dst, .q = q, .k = k, .v = v, .group = group, .layer = index,
                                     .n_head = l->n_head, .n_kv = l->n_kv, .head_k = l->head_k, .head_v = l->head_v,
                                     .window = c->p->groups[group].kind == DEV_GROUP_WINDOW ? hp->window : 0,
                                     .scale = hp->attn_scale * sqrtf((float)hp->mla_k / (float)l->mla_k), .softcap = hp->attn_cap, .sinks = graph_weight(sinks)});
}

dev_reg graph_latent(graph *c, int32_t il, dev_reg x) {
    const hparams *hp = c->hp;
    const layer_hp *l = &hp->layers[il];
    const slot_pair *s = c->b->layers[il].s;
    dev_plan *p = c->p;
    int32_t heads = l->n_head, rank = l->kv_rank, rot = hp->n_rot, nope = l->mla_k - rot;
    dev_reg query = graph_part(c, c->query, heads * l->mla_k), latent = graph_part(c, c->latent, rank + rot);
    dev_reg shared = dev_reg_view(p, latent, 0, rank), att = graph_part(c, c->att[0], heads * l->mla_v);

    if (s[S_Q_A].w) {
        dev_reg low = graph_part(c, c->low, (int32_t)s[S_Q_A].w->desc.n);
        graph_linear(c, low, x, &s[S_Q_A]);
        low_norm(c, low, &s[S_Q_A_NORM]);
        graph_linear(c, query, low, &s[S_Q_B]);
    } else graph_linear(c, query, x, &s[S_Q]);
    graph_linear(c, latent, x, &s[S_KV_A]);
    low_norm(c, shared, &s[S_KV_A_NORM]);
    if (s[S_K_NORM].w) { // of the key that is rotated
        dev_reg turned = dev_reg_view(p, latent, rank, rot);
        low_norm(c, turned, &s[S_K_NORM]);
    }
    if (l->rotate) {
        graph_rotate(c, l, query, heads, l->mla_k, nope);
        graph_rotate(c, l, latent, 1, rank + rot, rank);
    }

    if (absorbed(l, s)) {
        int32_t width = l->head_k; // rank + rot
        dev_reg q = dev_reg_view(p, c->wide, 0, heads * width), result = dev_reg_view(p, c->wide, heads * width, heads * rank);
        for (int32_t h = 0; h < heads; h++) dev_linear1(p, dev_reg_view(p, q, h * width, rank), dev_reg_view(p, query, h * l->mla_k, nope), slice(&s[S_K_B], h), NULL);
        dev_op_copy(p, (dev_copy){.dst = q, .src = query, .n = heads, .width = rot, .src_first = nope, .src_stride = l->mla_k, .dst_first = rank, .dst_stride = width});
        attend(c, l, &s[S_SINKS], result, q, latent, shared);
        for (int32_t h = 0; h < heads; h++) dev_linear1(p, dev_reg_view(p, att, h * l->mla_v, l->mla_v), dev_reg_view(p, result, h * rank, rank), slice(&s[S_V_B], h), NULL);
        graph_gate(c, il, att, x);
        return att;
    }
    int32_t each = nope + l->mla_v, at = heads * each;
    dev_reg kv = dev_reg_view(p, c->wide, 0, at), k = dev_reg_view(p, c->wide, at, heads * l->head_k), v = dev_reg_view(p, c->wide, at + heads * l->head_k, heads * l->head_v);
    graph_linear(c, kv, shared, &s[S_KV_B]);
    if (nope > 0) dev_op_copy(p, (dev_copy){.dst = k, .src = kv, .n = heads, .width = nope, .src_first = 0, .src_stride = each, .dst_first = 0, .dst_stride = l->head_k});
    if (rot > 0) dev_op_copy(p, (dev_copy){.dst = k, .src = latent, .n = heads, .width = rot, .src_first = rank, .src_stride = 0, .dst_first = nope, .dst_stride = l->head_k});
    dev_op_copy(p, (dev_copy){.dst = v, .src = kv, .n = heads, .width = l->mla_v, .src_first = nope, .src_stride = each, .dst_first = 0, .dst_stride = l->head_v});
    attend(c, l, &s[S_SINKS], att, query, k, v);
    graph_gate(c, il, att, x);
    return att;
}
