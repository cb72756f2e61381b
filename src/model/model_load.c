// model/load: the public face: open, predict, import, free. What a load holds at any time is freed on every way out.
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/model_internal.h"

struct model {
    device    *dev;
    dev_plan  *plan;
    hparams    hp;
    binding    b;
    model_info info;
};

// ---- the fingerprint of all weights and of what is computed with them ------------------------------------------------------

static uint64_t mix(uint64_t h, uint64_t v) {
    h ^= v;
    h *= 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static void mix_into(dev_fingerprint *f, uint64_t v) {
    f->low = mix(f->low + 1, v);
    f->high = mix(f->high ^ f->low, v * 0xff51afd7ed558ccdu + 1);
}

static void mix_bytes(dev_fingerprint *f, const void *data, size_t n) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) mix_into(f, p[i]);
}

static void fingerprint_hparams(dev_fingerprint *f, const hparams *hp) {
    mix_bytes(f, hp->row->name, strlen(hp->row->name));
    const int32_t ints[] = {hp->n_vocab, hp->n_embd, hp->n_layers, hp->n_rot, hp->head_k, hp->head_v, hp->kv_rank, hp->mla_k, hp->mla_v, hp->n_expert,
                            hp->top_k, hp->n_group, hp->top_groups, (int32_t)hp->n_ctx_orig, hp->window, hp->temp_length, hp->temp_offset,
                            hp->exp_norm, hp->parallel_key, hp->causal, hp->long_factors, hp->rope_off, hp->share, hp->cycle_layers, hp->cycle_low,
                            hp->cycle_high, (int32_t)hp->gating, (int32_t)hp->pooling, hp->taps, hp->state_k, hp->state_v, hp->state_heads,
                            hp->state_keys, hp->state_norm, hp->n_streams, hp->n_sparse, hp->bank_step, hp->halve_step, hp->no_pre, hp->qk_plain};
    const float floats[] = {hp->eps, hp->rope_base, hp->rope_base_window, hp->freq_scale, hp->freq_scale_window, hp->ext_factor, hp->attn_factor, hp->beta_fast,
                            hp->beta_slow, hp->attn_scale, hp->attn_cap, hp->final_cap, hp->logit_scale, hp->resid_scale, hp->embed_scale, hp->clamp, hp->alibi,
                            hp->exp_scale, hp->temp_scale, hp->value_scale, hp->share_scale, hp->kda_bound, hp->hyper_floor, hp->hyper_gain};
    mix_bytes(f, ints, sizeof ints);
    mix_bytes(f, floats, sizeof floats);
    for (int32_t i = 0; i < hp->n_layers; i++) {
        const layer_hp *l = &hp->layers[i];
        const int32_t layer[] = {l->n_head, l->n_kv, l->head_k, l->head_v, l->n_rot, l->windowed, l->rotate, l->kv_of, l->recurrent, l->no_attention, l->no_feed,
                                 l->kv_rank, l->mla_k, l->mla_v};
        mix_bytes(f, layer, sizeof layer);
        mix_bytes(f, &hp->layers[i].exp_limit, sizeof hp->layers[i].exp_limit);
        mix_bytes(f, &hp->layers[i].shared_limit, sizeof hp->layers[i].shared_limit);
        mix_bytes(f, hp->layers[i].act_p, sizeof hp->layers[i].act_p);
    }
}

// ---- reading --------------------------------------------------------------------------------------------------------------

typedef struct source {
    const gguf        *g;
    const bound_tensor *t;
} source;

// Half of every expert's rows: the stack asked for is [expert][n][k], the file's [expert][2 n][k].
static status read_half(const source *s, uint64_t offset, size_t bytes, char *dst, error *err) {
    uint64_t each = s->t->bytes / (uint64_t)s->t->desc.experts; // bytes of one expert's half
    while (bytes) {
        uint64_t expert = offset / each, within = offset % each;
        size_t take = bytes < each - within ? bytes : (size_t)(each - within);
        status st = gguf_read(s->g, s->t->src, (2 * expert + (uint64_t)(s->t->half - 1)) * each + within, take, dst, err);
        if (st) return st;
        offset += take;
        dst += take;
        bytes -= take;
    }
    return OK;
}

static status read_repeated(const source *s, uint64_t offset, size_t bytes, float *dst, error *err) {
    uint64_t first = offset / sizeof *dst, n = bytes / sizeof *dst;
    for (uint64_t i = 0; i < n;) { // one value of the file, and as often as it is asked for
        float v;
        uint64_t at = (first + i) / (uint64_t)s->t->repeat, end = (at + 1) * (uint64_t)s->t->repeat - first;
        status st = gguf_read_f32(s->g, s->t->src, at, 1, &v, err);
        if (st) return st;
        while (i < n && i < end) dst[i++] = v;
    }
    return OK;
}

static status source_read(void *ctx, uint64_t offset, size_t bytes, void *dst, error *err) {
    const source *s = ctx;
    if (s->t->made) {
        memcpy(dst, (const char *)s->t->made + offset, bytes);
        return OK;
    }
    if (s->t->repeat) return read_repeated(s, offset, bytes, dst, err);
    if (s->t->half) return read_half(s, offset, bytes, dst, err);
    return gguf_read(s->g, s->t->src, s->t->offset + offset, bytes, dst, err);
}

typedef struct hooks { const model_options *o; uint64_t total; } hooks;

static void on_progress(void *ctx, uint64_t bytes) {
    const hooks *h = ctx;
    h->o->progress(h->o->progress_ctx, bytes < h->total ? bytes : h->total, h->total); // tensors that are made, or repeated, are in no file
}

static bool is_cancelled(void *ctx) {
    const hooks *h = ctx;
    return h->o->cancelled(h->o->progress_ctx);
}

static status import_weights(model *m, const gguf *g, const model_options *o, error *err) {
    hooks h = {.o = o, .total = m->info.file_bytes};
    dev_hooks told = {o->progress ? on_progress : NULL, o->cancelled ? is_cancelled : NULL, &h};
    size_t n = m->b.n;
    source *sources = mem_calloc(n, sizeof *sources);
    dev_import *imports = mem_calloc(n, sizeof *imports);
    status st = sources && imports ? OK : error_set(err, E_NOMEM, "out of memory for %zu tensors", n);
    for (size_t i = 0; !st && i < n; i++) {
        sources[i] = (source){g, &m->b.all[i]};
        imports[i] = (dev_import){&m->b.all[i].desc, {source_read, &sources[i]}, NULL};
    }
    if (!st && told.progress) on_progress(&h, 0);
    if (!st) st = dev_import_weights(m->dev, imports, n, &told, err);
    fingerprint_hparams(&m->info.fingerprint, &m->hp);
    for (size_t i = 0; !st && i < n; i++) {
        bound_tensor *t = &m->b.all[i];
        t->dev = imports[i].out;
        m->info.weight_bytes += t->dev->bytes;
        dev_fingerprint f = dev_tensor_fingerprint(t->dev);
        mix_bytes(&m->info.fingerprint, t->desc.name, strlen(t->desc.name));
        mix_into(&m->info.fingerprint, f.low);
        mix_into(&m->info.fingerprint, f.high);
    }
    if (!st && told.progress) on_progress(&h, h.total);
    mem_free(imports);
    mem_free(sources);
    return st;
}

// Hyperparameters, tensors and what is known from them alone.
static status describe(const gguf *g, const model_options *o, hparams *hp, binding *b, model_info *info, error *err) {
    memset(info, 0, sizeof *info);
    status st = hparams_read(g, o ? o->context : 0, hp, err);
    if (st) return st;
    st = binding_make(g, hp, b, err);
    if (st) {
        mem_free(hp->layers);
        hp->layers = NULL;
        return st;
    }
    snprintf(info->architecture, sizeof info->architecture, "%s", hp->row->name);
    info->n_vocab = (uint32_t)hp->n_vocab;
    info->n_embd = (uint32_t)hp->n_embd;
    info->n_layers = (uint32_t)hp->n_layers;
    int32_t first = 0; // the first layer with attention
    while (first < hp->n_layers - 1 && hp->layers[first].no_attention) first++;
    info->n_head = (uint32_t)hp->layers[first].n_head;
    info->n_head_kv = (uint32_t)hp->layers[first].n_kv;
    info->n_ctx_train = hp->n_ctx_train;
    info->context = hp->context;
    info->n_positions = b->positions.w ? (uint32_t)b->positions.w->desc.n : 0;
    info->chosen = hp->chosen;
    info->causal = hp->causal;
    encoder_info(hp, b, info);
    for (size_t i = 0; i < b->n; i++) {
        const dev_weight *d = &b->all[i].desc;
        if (b->all[i].made) continue;
        info->parameters += (uint64_t)(d->k * d->n * d->experts);
        info->file_bytes += b->all[i].bytes;
    }
    return OK;
}

static void keep_groups(model_info *info, const dev_plan *p) {
    info->n_groups = p->n_groups;
    memcpy(info->groups, p->groups, sizeof info->groups);
}

status model_load(const gguf *g, device *dev, const model_options *options, model **out, error *err) {
    static const model_options none;
    const model_options *o = options ? options : &none;
    *out = NULL;
    model *m = mem_calloc(1, sizeof *m);
    if (!m) return error_set(err, E_NOMEM, "out of memory for a model");
    m->dev = dev;
    status st = describe(g, o, &m->hp, &m->b, &m->info, err);
    if (st) {
        mem_free(m);
        return st;
    }
    st = import_weights(m, g, o, err);
    if (!st) st = dev_plan_create(dev, &m->plan, err);
    if (!st) st = graph_record(&m->hp, &m->b, m->plan, err);
    if (st) {
        model_free(m);
        return st;
    }
    keep_groups(&m->info, m->plan);
    for (size_t i = 0; i < m->b.n; i++) { // names and sources belong to the gguf, which may be closed now
        m->b.all[i].src = NULL;
        m->b.all[i].desc.name = m->b.all[i].dev->name;
    }
    *out = m;
    return OK;
}

void model_free(model *m) {
    if (!m) return;
    dev_plan_destroy(m->plan);
    for (size_t i = 0; i < m->b.n; i++) dev_free_weight(m->dev, m->b.all[i].dev);
    binding_free(&m->b);
    mem_free(m->hp.layers);
    mem_free(m);
}

const model_info *model_get_info(const model *m) { return &m->info; }
dev_plan *model_plan(const model *m) { return m->plan; }

// ---- prediction -----------------------------------------------------------------------------------------------------------

static void predict_kv(device *dev, dev_kv_type type, model_sizes *s) {
    type = dev_kv_resolve(dev, type);
    uint64_t pages = ((uint64_t)s->info.context + DEV_PAGE_TOKENS - 1) / DEV_PAGE_TOKENS;
    for (int32_t i = 0; i < s->info.n_groups; i++) {
        const dev_group *g = &s->info.groups[i];
        uint64_t bytes = dev_kv_page_bytes(dev, g, type), n = pages;
        s->page_bytes[i] = bytes;
        if (g->kind == DEV_GROUP_RECURRENT) n = 1;
        else s->kv_token_bytes += bytes / DEV_PAGE_TOKENS;
        if (g->kind == DEV_GROUP_WINDOW) {
            uint64_t held = (uint64_t)g->window / DEV_PAGE_TOKENS + 2; // the window, a page it begins in, and the one being filled
            if (n > held) n = held;
        }
        s->kv_sequence_bytes += n * bytes;
    }
}

status model_predict(const gguf *g, device *dev, const model_options *options, int32_t rows, int32_t wanted, model_sizes *out, error *err) {
    hparams hp;
    binding b;
    dev_plan *plan = NULL;
    memset(out, 0, sizeof *out);
    status st = describe(g, options, &hp, &b, &out->info, err);
    if (st) return st;
    for (size_t i = 0; i < b.n; i++) {
        bound_tensor *t = &b.all[i];
        t->bare = (dev_tensor){.type = t->desc.type, .k = t->desc.k, .n = t->desc.n, .experts = t->desc.experts, .use = t->desc.use, .bytes = dev_weight_size(dev, &t->desc)};
        t->dev = &t->bare;
        out->weights += t->bare.bytes;
    }
    out->info.weight_bytes = out->weights;
    b.rope_factors = NULL; // a device may make its tables of angles while it lays a plan out, and these values are not there
    st = dev_plan_create(dev, &plan, err);
    if (!st) st = graph_record(&hp, &b, plan, err);
    if (!st) {
        keep_groups(&out->info, plan);
        out->scratch = dev_plan_scratch(plan, rows, wanted);
        predict_kv(dev, options ? options->kv_type : DEV_KV_AUTO, out);
    }
    dev_plan_destroy(plan);
    binding_free(&b);
    mem_free(hp.layers);
    return st;
}

status model_check(const gguf *g, error *err) {
    model_info info;
    return model_describe(g, &info, err);
}

status model_describe(const gguf *g, model_info *info, error *err) {
    hparams hp;
    binding b;
    status st = describe(g, NULL, &hp, &b, info, err);
    if (st) return st;
    binding_free(&b);
    mem_free(hp.layers);
    return OK;
}
