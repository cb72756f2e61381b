// model/encoder: layers of BERT's kind, and the way from the last layer's rows to an embedding or to scores, which decoders may go too.
//
// BERT: h = norm(h + attention(h)); h = norm(h + feed(h)): the sums are normalised, not the branches' inputs (arXiv 1810.04805).
// An embedding is the mean of a sequence's rows, its first or its last one, as the file's key says, and may go through two more matrices
// (sentence-transformers' dense modules). A ranker has a head instead: tanh(cls x + b), then a matrix to the classes. Norms to unit length are the engine's.
#include <stdio.h>
#include <string.h>

#include "model/model_internal.h"

void graph_encoder_layer(graph *c, int32_t il) {
    const slot_pair *s = c->b->layers[il].s;
    dev_plan *p = c->p;
    dev_reg att = graph_attention(c, il, c->h[0]);
    if (il == c->hp->n_layers - 1 && !encoder_means(c->hp)) att = graph_select(c, att);
    dev_reg h = c->h[c->w], t = c->t[c->w], before = c->n[c->w];
    bool twice = s[S_ATTN_NORM_2].w != NULL; // the layer's input is added once more
    if (twice) dev_scale(p, before, h, 1);
    dev_linear_out out = graph_out(t, &s[S_OUT]);
    dev_op_linear(p, (dev_linear){.src = att, .n = 1, .out = {out}, .epilogue = DEV_EP_RESIDUAL, .residual = h});
    graph_norm(c, h, t, &s[S_ATTN_POST]);
    if (twice) {
        dev_add(p, h, h, before);
        graph_norm(c, h, h, &s[S_ATTN_NORM_2]);
    }
    graph_feed(c, il, t, h, DEV_NONE, h);
    graph_norm(c, h, t, &s[S_FFN_POST]);
}

static bool named(const hparams *hp, const char *name) { return !strcmp(hp->row->name, name); }

bool encoder_means(const hparams *hp) { return hp->pooling == MODEL_POOL_MEAN || (hp->pooling == MODEL_POOL_RANK && named(hp, "modern-bert")); }
static bool causal_ranker(const hparams *hp) { return named(hp, "qwen3") || named(hp, "qwen3vl"); }

static dev_reg score(graph *c, dev_reg x) {
    const binding *b = c->b;
    dev_plan *p = c->p;
    if (b->cls.w) {
        dev_reg y = dev_reg_wanted(p, (int32_t)b->cls.w->desc.n);
        dev_act act = named(c->hp, "modern-bert") ? DEV_ACT_GELU : DEV_ACT_TANH;
        dev_op_linear(p, (dev_linear){.src = x, .n = 1, .residual = DEV_NONE, .epilogue = DEV_EP_ACT, .act = act, .out = {graph_out(y, &b->cls)}});
        if (b->cls_norm.w)
            dev_op_norm(p, (dev_norm){.dst = y, .src = y, .kind = DEV_NORM_LAYER, .eps = c->hp->eps, .weight = graph_weight(&b->cls_norm), .add = DEV_NONE, .sum = DEV_NONE});
        x = y;
    }
    if (!b->cls_out.w) return x;
    dev_reg y = dev_reg_wanted(p, (int32_t)b->cls_out.w->desc.n);
    graph_linear(c, y, x, &b->cls_out);
    return y;
}

void graph_embedding(graph *c, dev_reg rows) {
    dev_reg x = rows;
    if (encoder_means(c->hp)) dev_op_pool(c->p, (dev_pool){.dst = x = c->n[1], .src = rows});
    if (c->hp->pooling == MODEL_POOL_RANK) x = score(c, x);
    else
        for (int i = 0; i < 2; i++) {
            if (!c->b->dense[i].w) continue;
            dev_reg y = dev_reg_wanted(c->p, (int32_t)c->b->dense[i].w->desc.n);
            graph_linear(c, y, x, &c->b->dense[i]);
            x = y;
        }
    dev_op_hidden(c->p, x);
}

// ---- the file -------------------------------------------------------------------------------------------------------------

status encoder_options(const gguf *g, hparams *hp, error *err) {
    char key[128];
    snprintf(key, sizeof key, "%s.pooling_type", hp->row->name);
    const gguf_value *v = gguf_find(g, key);
    int64_t kind = MODEL_POOL_NONE;
    if (v && !gguf_value_i64(v, 0, &kind)) return error_set(err, E_INVALID, "key \"%s\" is not an integer", key);
    if (kind == -1 || kind == UINT32_MAX) v = NULL, kind = MODEL_POOL_NONE; // "unspecified", written as either
    if (kind < MODEL_POOL_NONE || kind > MODEL_POOL_RANK) return error_set(err, E_INVALID, "key \"%s\" is %lld, expected 0 to 4", key, (long long)kind);
    hp->pooling = (model_pooling)kind;
    hp->pooled = v != NULL;
    hp->no_logits = hp->row->encoder || kind == MODEL_POOL_MEAN || kind == MODEL_POOL_CLS || kind == MODEL_POOL_RANK;
    return OK;
}

status encoder_check(const hparams *hp, binding *b, error *err) {
    status st;
    int64_t e = hp->n_embd, width = e;
    if (hp->row->encoder == ENC_POST) {
        static const slot after[] = {S_ATTN_POST, S_FFN_POST};
        for (int32_t i = 0; i < hp->n_layers; i++)
            for (int k = 0; k < 2; k++)
                if (!b->layers[i].s[after[k]].w) return error_set(err, E_INVALID, "the file has no tensor \"blk.%d.%s.weight\"", i, k ? hp->row->ffn_post : hp->row->attn_post);
    }
    if (hp->row->traits & A_EMBED_NORM && hp->row->encoder && !b->embed_norm.w) return error_set(err, E_INVALID, "the file has no tensor \"token_embd_norm.weight\"");
    if ((st = want_vector(b->token_type, e, err))) return st;
    if (hp->pooling == MODEL_POOL_RANK && !b->cls.w && !b->cls_out.w)
        return error_set(err, E_INVALID, "key \"%s.pooling_type\" says that this model ranks, but there is neither a tensor \"cls.weight\" nor \"cls.output.weight\"",
                         hp->row->name);
    slot_pair *const heads[] = {&b->cls, &b->cls_out, &b->dense[0], &b->dense[1]};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        if (!heads[i]->w) continue;
        heads[i]->factor = 1;
        if ((st = want_matrix(heads[i], width, 0, 1, err))) return st;
        width = heads[i]->w->desc.n;
        if (i == 0 && (st = want_vector(b->cls_norm.w, width, err))) return st;
    }
    return OK;
}

void encoder_info(const hparams *hp, const binding *b, model_info *info) {
    const slot_pair *const heads[] = {&b->cls, &b->cls_out, &b->dense[0], &b->dense[1]};
    info->n_out = (uint32_t)hp->n_embd;
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (heads[i]->w) info->n_out = (uint32_t)heads[i]->w->desc.n;
    bool rank = hp->pooling == MODEL_POOL_RANK;
    info->pooling = hp->pooling;
    info->pooled = hp->pooled;
    info->generates = !hp->no_logits;
    info->encoder = hp->row->encoder != ENC_NONE;
    info->first_row = hp->pooling == MODEL_POOL_CLS || (rank && !encoder_means(hp) && !causal_ranker(hp));
    info->whole = !hp->causal || encoder_means(hp) || info->first_row;
    info->softmax = rank && causal_ranker(hp);
}
