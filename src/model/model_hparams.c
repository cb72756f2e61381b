// model/hparams: metadata -> hyperparameters. Every number is held to bounds; a key that a row does not name is not read, since files carry
// stray ones; zero means unset. Formulas of the rope scalings: YaRN (arXiv 2309.00071), as the files' makers compute them.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/model_internal.h"

typedef struct reader {
    const gguf *g;
    const char *arch;
    error      *err;
    status      st; // the first error
    char        key[160];
} reader;

static const char *key_of(reader *r, const char *name) {
    snprintf(r->key, sizeof r->key, "%s.%s", r->arch, name);
    return r->key;
}

// A number of the file in [lo, hi]; *out stays when the key is absent. Returns whether it was there.
static bool read_int(reader *r, const char *name, int64_t lo, int64_t hi, int32_t *out, bool required) {
    if (r->st) return false;
    int64_t v = 0;
    const gguf_value *val = gguf_find(r->g, key_of(r, name));
    if (!val) {
        if (required) r->st = error_set(r->err, E_INVALID, "the file has no key \"%s\"", r->key);
        return false;
    }
    uint64_t n = gguf_value_count(val), i = 0;
    if (!n || !gguf_value_i64(val, 0, &v)) {
        r->st = error_set(r->err, E_INVALID, "key \"%s\" is not an integer", r->key);
        return false;
    }
    for (i = 1; i < n; i++) { // one number for all layers, written as a list
        int64_t other;
        if (!gguf_value_i64(val, i, &other) || other != v) {
            r->st = error_set(r->err, E_UNSUPPORTED, "key \"%s\" differs between layers, which this architecture is not built for", r->key);
            return false;
        }
    }
    if (v < lo || v > hi) {
        r->st = error_set(r->err, E_INVALID, "key \"%s\" is %lld, expected %lld to %lld", r->key, (long long)v, (long long)lo, (long long)hi);
        return false;
    }
    *out = (int32_t)v;
    return true;
}

// Zero and absent leave *out as it is.
static void read_float(reader *r, const char *name, float *out) {
    double v;
    if (r->st || !gguf_find(r->g, key_of(r, name))) return;
    r->st = gguf_get_f64(r->g, r->key, &v, r->err);
    if (r->st) return;
    if (!isfinite(v) || fabs(v) > 1e30) r->st = error_set(r->err, E_INVALID, "key \"%s\" is no finite number", r->key);
    else if (v != 0) *out = (float)v;
}

static void read_bool(reader *r, const char *name, bool *out) {
    if (!r->st && gguf_find(r->g, key_of(r, name))) r->st = gguf_get_bool(r->g, r->key, out, r->err);
}

// A number for all layers or a list of one a layer.
static void read_per_layer(reader *r, const char *name, hparams *hp, int64_t hi, bool heads_kv) {
    if (r->st) return;
    const gguf_value *v = gguf_find(r->g, key_of(r, name));
    if (!v) {
        if (!heads_kv) r->st = error_set(r->err, E_INVALID, "the file has no key \"%s\"", r->key);
        for (int32_t i = 0; heads_kv && i < hp->n_layers; i++) hp->layers[i].n_kv = hp->layers[i].n_head;
        return;
    }
    bool list = gguf_value_type(v) == GGUF_ARRAY;
    if (list && gguf_value_count(v) < (uint64_t)hp->n_layers) {
        r->st = error_set(r->err, E_INVALID, "key \"%s\" has %llu values for %d layers", r->key, (unsigned long long)gguf_value_count(v), hp->n_layers);
        return;
    }
    for (int32_t i = 0; i < hp->n_layers; i++) {
        int64_t n;
        if (!gguf_value_i64(v, list ? (uint64_t)i : 0, &n)) {
            r->st = error_set(r->err, E_INVALID, "key \"%s\" is not made of integers", r->key);
            return;
        }
        if (n == 0 && hp->row->recur) { // a layer without attention
            if (heads_kv) hp->layers[i].n_kv = 0;
            else hp->layers[i].n_head = 0;
            continue;
        }
        if (n == 0) {
            r->st = error_set(r->err, E_UNSUPPORTED, "key \"%s\": layer %d has no attention heads, which this architecture is not built for", r->key, i);
            return;
        }
        if (n < 0 || n > hi) {
            r->st = error_set(r->err, E_INVALID, "key \"%s\" is %lld, expected 1 to %lld", r->key, (long long)n, (long long)hi);
            return;
        }
        if (heads_kv) hp->layers[i].n_kv = (int32_t)n;
        else hp->layers[i].n_head = (int32_t)n;
    }
}

static void read_window(reader *r, hparams *hp) {
    hp->window_period = hp->row->window_period;
    int32_t given = -1;
    read_int(r, "attention.sliding_window", 0, INT32_MAX, &given, false);
    if (given == 0 && hp->row->traits & A_CHUNKED) { // then it has other rotations and no temperature, and nothing computes that to be held to
        r->st = error_set(r->err, E_UNSUPPORTED, "key \"%s.attention.sliding_window\" is 0: that architecture without windows is not built", r->arch);
        return;
    }
    if (given >= 0) hp->window = given;
    if (hp->window > 0 && hp->window_size) hp->window = hp->window_size;
    if (hp->window_off) hp->window = 0;
    if (hp->rope_base_window == 0) hp->rope_base_window = hp->rope_base; // gemma3 has a default of its own
    hp->freq_scale_window = hp->row->traits & (A_WINDOW_PLAIN_ROPE | A_WINDOW_UNSCALED) ? 1 : hp->freq_scale;
    read_float(r, "rope.freq_base_swa", &hp->rope_base_window);
    if (r->st || hp->window <= 0) return;
    const gguf_value *v = gguf_find(r->g, key_of(r, "attention.sliding_window_pattern"));
    if (v && gguf_value_type(v) == GGUF_ARRAY) {
        if (gguf_value_count(v) < (uint64_t)hp->n_layers) {
            r->st = error_set(r->err, E_INVALID, "key \"%s\" has %llu values for %d layers", r->key, (unsigned long long)gguf_value_count(v), hp->n_layers);
            return;
        }
        for (int32_t i = 0; i < hp->n_layers; i++) {
            uint64_t on;
            bool flag;
            if (gguf_value_bool(v, (uint64_t)i, &flag)) on = flag;
            else if (!gguf_value_u64(v, (uint64_t)i, &on)) {
                r->st = error_set(r->err, E_INVALID, "key \"%s\" is not made of booleans", r->key);
                return;
            }
            hp->layers[i].windowed = on != 0;
        }
        return;
    }
    read_int(r, "attention.sliding_window_pattern", 0, MAX_LAYERS, &hp->window_period, false);
    int32_t n = hp->window_period;
    for (int32_t i = 0; i < hp->n_layers; i++)
        hp->layers[i].windowed = n == 0 || (hp->row->traits & A_DENSE_FIRST ? i % n != 0 : i % n < n - 1);
}

static float yarn_mscale(float scale, float m) { return scale <= 1 ? 1 : 0.1f * m * logf(scale) + 1; }

static void read_rope(reader *r, hparams *hp) {
    gguf_str type = {"linear", 6};
    int32_t orig = (int32_t)hp->n_ctx_train;
    float factor = 0, log_mul = 0, ext = -1, yarn_attn = -1, file_attn = 1;
    read_int(r, "rope.scaling.original_context_length", 0, INT32_MAX, &orig, false);
    hp->n_ctx_orig = (uint32_t)(orig ? orig : (int32_t)hp->n_ctx_train);
    hp->rope_base = 10000;
    read_float(r, "rope.freq_base", &hp->rope_base);
    if (!r->st && gguf_find(r->g, key_of(r, "rope.scaling.type"))) r->st = gguf_get_string(r->g, r->key, &type, r->err);
    if (gguf_find(r->g, key_of(r, "rope.scaling.factor"))) read_float(r, "rope.scaling.factor", &factor);
    else read_float(r, "rope.scale_linear", &factor);
    read_float(r, "rope.scaling.attn_factor", &file_attn);
    if (hp->row->keys & K_YARN_LOG) read_float(r, "rope.scaling.yarn_log_multiplier", &log_mul);
    if (hp->row->keys & K_YARN_FACTORS) {
        read_float(r, "rope.scaling.yarn_ext_factor", &ext);
        read_float(r, "rope.scaling.yarn_attn_factor", &yarn_attn);
    }
    if (hp->row->keys & K_YARN_BETAS) {
        read_float(r, "rope.scaling.yarn_beta_fast", &hp->beta_fast);
        read_float(r, "rope.scaling.yarn_beta_slow", &hp->beta_slow);
    }
    if (r->st) return;
    bool none = gguf_str_eq(type, "none"), yarn = gguf_str_eq(type, "yarn");
    hp->longrope = gguf_str_eq(type, "longrope");
    if (!none && !yarn && !hp->longrope && !gguf_str_eq(type, "linear") && type.len) {
        r->st = error_set(r->err, E_UNSUPPORTED, "key \"%s.rope.scaling.type\" is \"%.*s\", expected none, linear, yarn or longrope",
                          r->arch, (int)(type.len < 40 ? type.len : 40), type.ptr);
        return;
    }
    if (hp->rope_base <= 0 || factor < 0) {
        r->st = error_set(r->err, E_INVALID, "keys \"%s.rope.*\" hold a negative base or factor", r->arch);
        return;
    }
    hp->freq_scale = none || factor == 0 ? 1 : 1 / factor;
    if (hp->row->traits & A_LATENT) log_mul *= 10; // these files hold a tenth of it
    hp->ext_factor = ext >= 0 ? ext : yarn ? 1 : 0;
    if (hp->ext_factor != 0 && !hp->n_ctx_orig) {
        r->st = error_set(r->err, E_INVALID, "key \"%s.rope.scaling.original_context_length\" is missing, which YaRN needs", r->arch);
        return;
    }
    hp->attn_factor = yarn_attn >= 0 ? yarn_attn : 1;
    if (hp->ext_factor != 0) { // the rotation itself multiplies by 1 + 0.1 ln(factor): cancel that, then apply what the file asks for
        float f = 1 / hp->freq_scale;
        bool same = hp->row->traits & A_MSCALE_BOTH;
        float m = same && log_mul != 0 ? 1 : log_mul != 0 ? yarn_mscale(f, 1) / yarn_mscale(f, log_mul) : yarn_mscale(f, 1);
        hp->attn_factor = m / (1 + 0.1f * logf(f));
    }
    hp->attn_factor *= file_attn;
    hp->yarn_log_mul = log_mul;
    hp->long_factors = hp->context > hp->n_ctx_orig;
}

// The choice among some groups of experts, which llama.cpp makes for every architecture: 0 and 1 are none.
static void read_groups(reader *r, hparams *hp) {
    if (!hp->n_expert) return;
    read_int(r, "expert_group_count", 0, MAX_EXPERTS, &hp->n_group, false);
    read_int(r, "expert_group_used_count", 0, MAX_EXPERTS, &hp->top_groups, false);
    if (r->st || hp->n_group <= 1) return;
    if (hp->n_expert % hp->n_group || hp->top_groups < 1 || hp->top_groups > hp->n_group || (int64_t)hp->top_groups * (hp->n_expert / hp->n_group) < hp->top_k)
        r->st = error_set(r->err, E_INVALID, "key \"%s.expert_group_count\": %d of %d groups do not fit %d experts", r->arch, hp->top_groups, hp->n_group, hp->n_expert);
    else if (hp->row->traits & A_WEIGHT_FIRST || hp->row->more & B_CHUNK_EXPERTS) // groups by other numbers than its gates: by what the router gives, by sigmoids
        r->st = error_set(r->err, E_UNSUPPORTED, "key \"%s.expert_group_count\" is %d: groups of experts are not built for this architecture", r->arch, hp->n_group);
}

static void read_experts(reader *r, hparams *hp) {
    const arch_row *row = hp->row;
    read_int(r, "expert_used_count", 0, MAX_TOP_K, &hp->top_k, false);
    if (r->st) return;
    if (hp->n_expert && (hp->top_k < 1 || hp->top_k > hp->n_expert)) {
        r->st = error_set(r->err, E_INVALID, "key \"%s.expert_used_count\" is %d of %d experts", r->arch, hp->top_k, hp->n_expert);
        return;
    }
    if (row->more & B_CHUNK_EXPERTS) {
        read_int(r, "experts_per_group", 1, MAX_EXPERTS, &hp->share, true);
        read_float(r, "expert_group_scale", &hp->share_scale);
        if (!r->st && (hp->n_expert < 1 || hp->n_expert % hp->share))
            r->st = error_set(r->err, E_INVALID, "key \"%s.experts_per_group\" is %d of %d experts", r->arch, hp->share, hp->n_expert);
    }
    hp->exp_norm = row->traits & A_EXPERTS_NORM;
    if (row->keys & K_EXP_NORM) read_bool(r, "expert_weights_norm", &hp->exp_norm);
    if (row->keys & K_EXP_SCALE) read_float(r, "expert_weights_scale", &hp->exp_scale);
    if (row->keys & K_GATING) {
        int32_t f = 0;
        read_int(r, "expert_gating_func", 0, 16, &f, false);
        if (f == 1) hp->gating = DEV_GATE_SOFTMAX;
        else if (f == 2) hp->gating = DEV_GATE_SIGMOID;
        else if (f == 3) hp->gating = DEV_GATE_SOFTMAX_TOPK;
        else if (f && !r->st) r->st = error_set(r->err, E_UNSUPPORTED, "key \"%s.expert_gating_func\" is %d: not built", r->arch, f);
    }
    read_groups(r, hp);
}

// Two stacks of as many layers each; block_count counts the layers of all passes (hrm_text).
static void read_cycles(reader *r, hparams *hp) {
    read_int(r, "hrm.layers_per_stack", 1, MAX_LAYERS, &hp->cycle_layers, true);
    read_int(r, "hrm.h_cycles", 1, MAX_LAYERS, &hp->cycle_high, true);
    read_int(r, "hrm.l_cycles", 1, MAX_LAYERS, &hp->cycle_low, true);
    if (!r->st && (int64_t)hp->cycle_layers * hp->cycle_high * (hp->cycle_low + 1) != hp->n_layers)
        r->st = error_set(r->err, E_INVALID, "key \"%s.block_count\" is %d, which is not %d layers in %d cycles of %d and one passes", r->arch,
                          hp->n_layers, hp->cycle_layers, hp->cycle_high, hp->cycle_low);
}

static void read_sizes(reader *r, hparams *hp) {
    int32_t ctx = 0, nextn = 0;
    read_int(r, "block_count", 1, MAX_LAYERS, &hp->n_layers, true);
    read_int(r, "embedding_length", 1, MAX_WIDTH, &hp->n_embd, true);
    read_int(r, "context_length", 0, INT32_MAX, &ctx, false);
    read_int(r, "expert_count", 0, MAX_EXPERTS, &hp->n_expert, false);
    hp->n_ctx_train = (uint32_t)ctx;
    const gguf_tensor *embed = gguf_tensor_find(r->g, "token_embd.weight"); // held to what it must be where it is bound
    if (embed && embed->dims[1] <= INT32_MAX) hp->n_vocab = (int32_t)embed->dims[1];
    if (hp->row->keys & K_NEXTN) read_int(r, "nextn_predict_layers", 0, MAX_LAYERS, &nextn, false);
    if (r->st) return;
    if (nextn >= hp->n_layers) {
        r->st = error_set(r->err, E_INVALID, "key \"%s.nextn_predict_layers\" is %d of %d layers", r->arch, nextn, hp->n_layers);
        return;
    }
    hp->n_layers -= nextn;
    if (hp->row->more & B_CYCLES) read_cycles(r, hp);
    if (r->st) return;
    char name[32];
    snprintf(name, sizeof name, "blk.%d.", (hp->row->more & B_CYCLES ? 2 * hp->cycle_layers : hp->n_layers) - 1);
    bool found = false; // a count without tensors behind it must not cost memory
    for (size_t i = 0, n = gguf_tensor_count(r->g); i < n && !found; i++) found = !strncmp(gguf_tensor_at(r->g, i)->name, name, strlen(name));
    if (!found) {
        r->st = error_set(r->err, E_INVALID, "key \"%s.block_count\" says %d layers, but there is no tensor \"%s*\"", r->arch, hp->n_layers, name);
        return;
    }
    hp->layers = mem_calloc((size_t)hp->n_layers, sizeof *hp->layers);
    if (!hp->layers) {
        r->st = error_set(r->err, E_NOMEM, "out of memory for %d layers", hp->n_layers);
        return;
    }
    read_per_layer(r, "attention.head_count", hp, MAX_HEADS, false);
    read_per_layer(r, "attention.head_count_kv", hp, MAX_HEADS, true);
    if (r->st) return;
    if (hp->row->recur && !r->st) r->st = hparams_recurrent(r->g, hp, r->err);
    if (r->st) return;
    int32_t first = 0; // the first layer with attention
    while (first < hp->n_layers - 1 && hp->layers[first].no_attention) first++;
    hp->head_k = hp->head_v = hp->layers[first].n_head ? hp->n_embd / hp->layers[first].n_head : hp->n_embd;
    int32_t given = 0;
    if (read_int(r, "attention.key_length", 0, MAX_HEAD_DIM, &given, false) && given) hp->head_k = given;
    given = 0;
    if (read_int(r, "attention.value_length", 0, MAX_HEAD_DIM, &given, false) && given) hp->head_v = given;
    if (arch_rwkv(hp->row)) hp->head_k = hp->head_v = hp->state_k;
    hp->n_rot = hp->head_k;
    given = 0;
    if (read_int(r, "rope.dimension_count", 0, MAX_HEAD_DIM, &given, false) && given) hp->n_rot = given;
    for (int32_t i = 0; !r->st && i < hp->n_layers; i++)
        if (!hp->layers[i].no_attention && hp->layers[i].n_head % hp->layers[i].n_kv)
            r->st = error_set(r->err, E_INVALID, "key \"%s.attention.head_count_kv\": %d heads do not share %d key heads", r->arch, hp->layers[i].n_head, hp->layers[i].n_kv);
    if (!r->st && (hp->head_k < 1 || hp->head_v < 1 || hp->head_k > MAX_HEAD_DIM || hp->head_v > MAX_HEAD_DIM))
        r->st = error_set(r->err, E_INVALID, "key \"%s.attention.head_count\": heads of %d values are out of range", r->arch, hp->head_k);
    if (!r->st && hp->row->rope && (hp->n_rot % (hp->row->more & B_HALF_ROT ? 4 : 2) || hp->n_rot > hp->head_k))
        r->st = error_set(r->err, E_INVALID, "key \"%s.rope.dimension_count\" is %d, expected an even number up to %d", r->arch, hp->n_rot, hp->head_k);
}

// Latent attention. With mla lengths in the file keys are absorbed: all heads share one key of rank + rotated values, whose first `rank`
// are the value too. Without, keys and values are made for each head.
static void read_latent(reader *r, hparams *hp) {
    int32_t k = 0, v = 0;
    read_int(r, "attention.kv_lora_rank", 1, MAX_HEAD_DIM, &hp->kv_rank, true);
    read_int(r, "attention.key_length_mla", 0, MAX_HEAD_DIM, &k, false);
    read_int(r, "attention.value_length_mla", 0, MAX_HEAD_DIM, &v, false);
    if (r->st) return;
    hp->mla_k = k ? k : hp->head_k;
    hp->mla_v = v ? v : hp->head_v;
    if (hp->n_rot > hp->mla_k) {
        r->st = error_set(r->err, E_INVALID, "key \"%s.rope.dimension_count\" is %d, a head's key has %d values", r->arch, hp->n_rot, hp->mla_k);
        return;
    }
    bool absorbed = k && v;
    if (absorbed) {
        hp->head_k = hp->kv_rank + hp->n_rot;
        hp->head_v = hp->kv_rank;
    }
    for (int32_t i = 0; i < hp->n_layers; i++)
        if (!hp->layers[i].no_attention) hp->layers[i].n_kv = absorbed ? 1 : hp->layers[i].n_head;
    float f = 1 / hp->freq_scale, m = hp->attn_factor * (1 + 0.1f * logf(f)) * (1 + 0.1f * hp->yarn_log_mul * logf(f));
    hp->attn_scale = (hp->row->more & B_YARN_SCORES ? m * m : 1) / sqrtf((float)hp->mla_k);
}

// Each layer's head sizes; in gemma4 those of windowed layers are their own, and late layers read an earlier one's keys.
static void read_layer_sizes(reader *r, hparams *hp) {
    int32_t k = hp->head_k, v = hp->head_v, rot = 0, shared = 0, given = 0, rank = 0, mla_k = 0, mla_v = 0;
    bool own = hp->row->traits & A_GEMMA4, dims = own || hp->row->more & B_WINDOW_DIMS;
    if (hp->kv_layers && hp->n_layers > hp->kv_layers) shared = hp->n_layers - hp->kv_layers;
    if (own) {
        if (read_int(r, "attention.key_length_swa", 0, MAX_HEAD_DIM, &given, false) && given) k = given;
        given = 0;
        if (read_int(r, "attention.value_length_swa", 0, MAX_HEAD_DIM, &given, false) && given) v = given;
        read_int(r, "attention.shared_kv_layers", 0, MAX_LAYERS, &shared, false);
        read_int(r, "embedding_length_per_layer_input", 0, MAX_WIDTH / MAX_LAYERS, &hp->n_ple, false);
        if (!r->st && shared && shared > hp->n_layers - 2)
            r->st = error_set(r->err, E_INVALID, "key \"%s.attention.shared_kv_layers\" is %d of %d layers", r->arch, shared, hp->n_layers);
    }
    if (dims) {
        read_int(r, "rope.dimension_count_swa", 0, MAX_HEAD_DIM, &rot, false);
        if (!rot) rot = hp->n_rot < k ? hp->n_rot : k;
        if (!r->st && (rot % 2 || rot > k)) r->st = error_set(r->err, E_INVALID, "key \"%s.rope.dimension_count_swa\" is %d, expected an even number up to %d", r->arch, rot, k);
    }
    if (hp->row->more & B_LATENT_WINDOWS) {
        read_int(r, "attention.kv_lora_rank_swa", 1, MAX_HEAD_DIM, &rank, true);
        read_int(r, "attention.key_length_mla_swa", hp->n_rot + 1, MAX_HEAD_DIM, &mla_k, true);
        read_int(r, "attention.value_length_mla_swa", 1, MAX_HEAD_DIM, &mla_v, true);
        k = rank + hp->n_rot, v = rank, own = true;
    }
    for (int32_t i = 0; !r->st && i < hp->n_layers; i++) {
        layer_hp *l = &hp->layers[i];
        bool window = own && l->windowed;
        l->kv_rank = window && rank ? rank : hp->kv_rank;
        l->mla_k = window && rank ? mla_k : hp->mla_k;
        l->mla_v = window && rank ? mla_v : hp->mla_v;
        l->head_k = window ? k : hp->head_k;
        l->head_v = window ? v : hp->head_v;
        l->n_rot = dims && l->windowed ? rot : hp->row->more & B_HALF_ROT ? hp->n_rot / 2 : hp->n_rot;
        l->kv_of = i;
        if (i < hp->n_layers - shared) continue;
        l->kv_of = hp->n_layers - shared - (l->windowed ? 2 : 1);
        const layer_hp *o = &hp->layers[l->kv_of];
        if (o->windowed != l->windowed || o->n_kv != l->n_kv || l->n_head % o->n_kv)
            r->st = error_set(r->err, E_INVALID, "key \"%s.attention.shared_kv_layers\": layer %d cannot read the keys of layer %d", r->arch, i, l->kv_of);
    }
}

// A number for all layers or a list of one a layer.
static void read_limits(reader *r, hparams *hp, const char *name, bool shared) {
    const gguf_value *v = r->st ? NULL : gguf_find(r->g, key_of(r, name));
    if (!v) return;
    bool list = gguf_value_type(v) == GGUF_ARRAY;
    for (int32_t i = 0; i < hp->n_layers; i++) {
        double x;
        if (!gguf_value_f64(v, list ? (uint64_t)i : 0, &x) || !isfinite(x) || x < 0) {
            r->st = error_set(r->err, E_INVALID, "key \"%s\" is no number or list of one a layer, of at least 0", r->key);
            return;
        }
        *(shared ? &hp->layers[i].shared_limit : &hp->layers[i].exp_limit) = x > 1e-6 ? (float)x : 0;
    }
}

// xielu.*, without the architecture's name before them: what softplus makes positive.
static void read_xielu(reader *r, hparams *hp) {
    static const char *const keys[] = {"xielu.alpha_p", "xielu.alpha_n", "xielu.beta", "xielu.eps"};
    for (int k = 0; k < DEV_ACT_NUMBERS && !r->st; k++) {
        const gguf_value *v = gguf_find(r->g, keys[k]);
        bool list = v && gguf_value_type(v) == GGUF_ARRAY;
        for (int32_t i = 0; i < hp->n_layers && !r->st; i++) {
            double x;
            if (!v || !gguf_value_f64(v, list ? (uint64_t)i : 0, &x) || !isfinite(x) || fabs(x) > 1e6)
                r->st = error_set(r->err, E_INVALID, "key \"%s\" is no number or list of one a layer", keys[k]);
            else hp->layers[i].act_p[k] = (float)(k < 2 ? log1p(exp(x)) : x);
        }
    }
    for (int32_t i = 0; i < hp->n_layers && !r->st; i++) hp->layers[i].act_p[1] += hp->layers[i].act_p[2];
}

// Numbers of activations and gates.
static void read_acts(reader *r, hparams *hp) {
    unsigned keys = hp->row->keys;
    if (keys & K_EXP_LIMIT) read_limits(r, hp, "swiglu_clamp_exp", false);
    if (keys & K_SHARED_LIMIT) read_limits(r, hp, "swiglu_clamp_shexp", true);
    if (hp->row->more & B_XIELU) read_xielu(r, hp);
    if (keys & K_SITU) {
        float p[2] = {0};
        read_float(r, "activation.situ_beta", &p[0]);
        read_float(r, "activation.situ_linear_beta", &p[1]);
        if (!r->st && p[0] <= 0) r->st = error_set(r->err, E_INVALID, "key \"%s.activation.situ_beta\" is %g, expected more than 0", r->arch, (double)p[0]);
        for (int32_t i = 0; i < hp->n_layers; i++) memcpy(hp->layers[i].act_p, p, sizeof p);
    }
    double bound;
    if (keys & K_KDA_BOUND && !r->st && gguf_find(r->g, key_of(r, "kda.gate_lower_bound"))
        && !(r->st = gguf_get_f64(r->g, r->key, &bound, r->err)) && bound > -1e30) { // minus infinity: none
        if (bound < 0) hp->kda_bound = (float)bound;
        else r->st = error_set(r->err, E_INVALID, "key \"%s\" is %g, expected less than 0", r->key, bound);
    }
    if (hp->row->more & B_HYPER) {
        read_int(r, "hyper_connection.count", 1, 64, &hp->n_streams, true);
        read_float(r, "hyper_connection.epsilon", &hp->hyper_floor);
        read_float(r, "hyper_connection.magnitude", &hp->hyper_gain);
    }
    if (hp->row->more & B_BANK) read_int(r, "attn_res.block_size", 0, MAX_LAYERS, &hp->bank_step, false);
    if (arch_rwkv(hp->row)) read_int(r, "rescale_every_n_layers", 0, MAX_LAYERS, &hp->halve_step, false);
}

static void read_options(reader *r, hparams *hp) {
    unsigned keys = hp->row->keys;
    hp->layer_norm = hp->row->traits & A_LAYER_NORM;
    if (hp->row->traits & A_EITHER_NORM) {
        float rms = 0;
        read_float(r, "attention.layer_norm_rms_epsilon", &rms);
        if (rms != 0) hp->layer_norm = false;
    }
    read_float(r, hp->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", &hp->eps);
    if (keys & K_ATTN_CAP) read_float(r, "attn_logit_softcapping", &hp->attn_cap);
    if (keys & K_FINAL_CAP) read_float(r, "final_logit_softcapping", &hp->final_cap);
    if (keys & K_LOGIT_SCALE) read_float(r, "logit_scale", &hp->logit_scale);
    if (keys & K_ATTN_SCALE) read_float(r, "attention.scale", &hp->attn_scale);
    if (keys & K_RESID_SCALE) read_float(r, "residual_scale", &hp->resid_scale);
    if (keys & K_EMBED_SCALE) read_float(r, "embedding_scale", &hp->embed_scale);
    if (keys & K_CLAMP) read_float(r, "attention.clamp_kqv", &hp->clamp);
    if (keys & K_ALIBI) read_float(r, "attention.max_alibi_bias", &hp->alibi);
    if (keys & K_OUT_SCALE) read_float(r, "attention.output_scale", &hp->attn_scale);
    if (keys & K_VALUE_SCALE) read_float(r, "attention.value_scale", &hp->value_scale);
    read_acts(r, hp);
    if (keys & K_PARALLEL) read_bool(r, "use_parallel_residual", &hp->parallel_key);
    hp->no_pre = hp->row->traits & A_NO_PRE;
    if (keys & K_SWIN) read_bool(r, "swin_norm", &hp->no_pre);
    if (keys & K_TEMP) {
        read_float(r, "attention.temperature_scale", &hp->temp_scale);
        int32_t length = 0;
        if (hp->row->traits & A_LATENT) read_int(r, "attention.temperature_length", 0, INT32_MAX, &length, false); // mistral3 takes the original context
        hp->temp_length = length ? length : (int32_t)(hp->n_ctx_orig < INT32_MAX ? hp->n_ctx_orig : INT32_MAX);
        if (hp->temp_length < 1) hp->temp_scale = 0;
    }
    read_bool(r, "attention.causal", &hp->causal);
    if (hp->row->traits & A_BIDIRECTIONAL) hp->causal = false;
    if (!r->st) r->st = encoder_options(r->g, hp, r->err);
    if (hp->row->traits & A_ROPE_SWITCH) {
        bool on = true;
        read_bool(r, "rope.scaling.finetuned", &on);
        hp->rope_off = !on;
    }
    hp->rope = hp->row->rope;
    const gguf_value *sections = hp->row->traits & A_SECTIONS ? gguf_find(r->g, key_of(r, "rope.dimension_sections")) : NULL;
    int64_t a, b;
    if (sections && gguf_value_i64(sections, 0, &a) && gguf_value_i64(sections, 1, &b) && a > 0 && b > 0) hp->rope = ROPE_HALVES;
    if (!r->st && (hp->eps < 0 || hp->eps > 1)) r->st = error_set(r->err, E_INVALID, "the norms' epsilon is %g, expected 0 to 1", (double)hp->eps);
    if (!r->st && (hp->attn_cap < 0 || hp->final_cap < 0 || hp->clamp < 0 || hp->alibi < 0))
        r->st = error_set(r->err, E_INVALID, "a soft cap, clamp or ALiBi bias of the file is negative");
}

static void read_indexer(reader *r, hparams *hp) {
    int32_t top_k = 0, block = 0;
    bool may = hp->row->more & B_HYPER; // without one, or with 0, every key is seen
    read_int(r, "attention.indexer.top_k", may ? 0 : 1, INT32_MAX, &top_k, !may);
    if (!top_k) return;
    read_int(r, "attention.indexer.block_size", 0, INT32_MAX, &block, false); // some choose whole blocks of keys (minimax-m3)
    uint64_t most = (uint64_t)top_k * (uint64_t)(block > 1 ? block : 1);
    if (r->st || most > UINT32_MAX) return;
    hp->chosen = (uint32_t)most;
    if (hp->context > most || !hp->context) hp->context = (uint32_t)most;
}

status hparams_read(const gguf *g, uint32_t context, hparams *hp, error *err) {
    memset(hp, 0, sizeof *hp);
    gguf_str arch;
    status st = gguf_get_string(g, "general.architecture", &arch, err);
    if (st) return error_set(err, E_INVALID, "the file does not name its architecture (key \"general.architecture\"): it is no language model");
    hp->row = arch_find(arch.ptr, arch.len);
    if (!hp->row) return error_set(err, E_UNSUPPORTED, "architecture \"%.*s\" is not supported", (int)(arch.len < 60 ? arch.len : 60), arch.ptr);
    if (hp->row->refuse) return error_set(err, E_UNSUPPORTED, "architecture \"%s\" is not supported: %s", hp->row->name, hp->row->refuse);

    reader r = {.g = g, .arch = hp->row->name, .err = err};
    hp->eps = 0;
    hp->beta_fast = 32;
    hp->beta_slow = 1;
    hp->resid_scale = hp->embed_scale = hp->logit_scale = hp->value_scale = 1;
    hp->causal = true;
    read_sizes(&r, hp);
    if (r.st) goto fail;
    hp->context = context ? context : hp->n_ctx_train;
    if (hp->row->more & B_INDEXER) read_indexer(&r, hp);
    hp->attn_scale = 1 / sqrtf((float)hp->head_k);
    if (hp->row->traits & A_EMBED_SQRT) hp->embed_scale = sqrtf((float)hp->n_embd);
    hp->gating = hp->row->gating;
    if (hp->row->adjust) hp->row->adjust(hp);
    read_rope(&r, hp);
    if (hp->row->keys & K_WINDOW) read_window(&r, hp);
    if (!r.st && hp->row->traits & A_LATENT) read_latent(&r, hp);
    if (!r.st) read_layer_sizes(&r, hp);
    read_experts(&r, hp);
    read_options(&r, hp);
    if (r.st) goto fail;
    int32_t lead = 0;
    if (hp->row->traits & A_LEAD_ROPE) read_int(&r, "leading_dense_block_count", 0, MAX_LAYERS, &lead, false);
    if (r.st) goto fail;
    const gguf_value *turned = hp->row->keys & K_ROPE_PATTERN ? gguf_find(g, key_of(&r, "attention.rope_pattern")) : NULL;
    for (int32_t i = 0; i < hp->n_layers; i++) {
        layer_hp *l = &hp->layers[i];
        l->rotate = hp->row->rope != ROPE_NONE && !hp->rope_off;
        if (hp->row->traits & A_WINDOW_ROPE && hp->window > 0 && !l->windowed && i >= lead) l->rotate = false;
        int64_t on;
        if (turned && gguf_value_i64(turned, gguf_value_type(turned) == GGUF_ARRAY ? (uint64_t)i : 0, &on) && !on) l->rotate = false;
        if (hp->row->no_rope_step && (i + 1) % hp->row->no_rope_step == 0) l->rotate = false;
    }
    return OK;
fail:
    mem_free(hp->layers);
    hp->layers = NULL;
    return r.st;
}
