// model/bind: tensors by presence. Every tensor of the file is looked up by name in the table of slots; what a row does not know is refused,
// since leaving it out would give wrong numbers without a word. Shapes are held to the hyperparameters here, so that the plan can trust them.
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/model_internal.h"

typedef struct slot_desc {
    const char *name;
    unsigned    use;
    bool        experts; // stacked: [expert][n][k]
} slot_desc;

static const slot_desc SLOTS[SLOT_COUNT] = {
    [S_ATTN_NORM] = {"attn_norm", DEV_USE_VECTOR, false},
    [S_ATTN_NORM_2] = {"attn_norm_2", DEV_USE_VECTOR, false},
    [S_QKV] = {"attn_qkv", DEV_USE_MATRIX, false},
    [S_Q] = {"attn_q", DEV_USE_MATRIX, false},
    [S_K] = {"attn_k", DEV_USE_MATRIX, false},
    [S_V] = {"attn_v", DEV_USE_MATRIX, false},
    [S_Q_NORM] = {"attn_q_norm", DEV_USE_VECTOR, false},
    [S_K_NORM] = {"attn_k_norm", DEV_USE_VECTOR, false},
    [S_GATE_ATTN] = {"attn_gate", DEV_USE_MATRIX, false},
    [S_OUT] = {"attn_output", DEV_USE_MATRIX, false},
    [S_SINKS] = {"attn_sinks", DEV_USE_VECTOR, false},
    [S_ATTN_POST] = {"post_attention_norm", DEV_USE_VECTOR, false},
    [S_FFN_NORM] = {"ffn_norm", DEV_USE_VECTOR, false},
    [S_GATE] = {"ffn_gate", DEV_USE_MATRIX, false},
    [S_UP] = {"ffn_up", DEV_USE_MATRIX, false},
    [S_DOWN] = {"ffn_down", DEV_USE_MATRIX, false},
    [S_FFN_POST] = {"post_ffw_norm", DEV_USE_VECTOR, false},
    [S_ROUTER] = {"ffn_gate_inp", DEV_USE_MATRIX, false},
    [S_ROUTER_SCALE] = {"ffn_gate_inp.scale", DEV_USE_VECTOR, false}, // bound where suffixes are read
    [S_SELECT_BIAS] = {"exp_probs_b", DEV_USE_VECTOR, false},
    [S_GATE_EXPS] = {"ffn_gate_exps", DEV_USE_MATRIX, true},
    [S_UP_EXPS] = {"ffn_up_exps", DEV_USE_MATRIX, true},
    [S_DOWN_EXPS] = {"ffn_down_exps", DEV_USE_MATRIX, true},
    [S_NORM_EXPS] = {"ffn_norm_exps", DEV_USE_VECTOR, false},
    [S_FFN_POST_1] = {"post_ffw_norm_1", DEV_USE_VECTOR, false},
    [S_FFN_PRE_2] = {"pre_ffw_norm_2", DEV_USE_VECTOR, false},
    [S_FFN_POST_2] = {"post_ffw_norm_2", DEV_USE_VECTOR, false},
    [S_GATE_CHUNK] = {"ffn_gate_chexps", DEV_USE_MATRIX, true},
    [S_UP_CHUNK] = {"ffn_up_chexps", DEV_USE_MATRIX, true},
    [S_DOWN_CHUNK] = {"ffn_down_chexps", DEV_USE_MATRIX, true},
    [S_ATTN_SUB] = {"attn_sub_norm", DEV_USE_VECTOR, false},
    [S_FFN_SUB] = {"ffn_sub_norm", DEV_USE_VECTOR, false},
    [S_PLE_GATE] = {"inp_gate", DEV_USE_MATRIX, false},
    [S_PLE_PROJ] = {"proj", DEV_USE_MATRIX, false},
    [S_PLE_NORM] = {"post_norm", DEV_USE_VECTOR, false},
    [S_OUT_SCALE] = {"layer_output_scale", DEV_USE_VECTOR, false},
    [S_ALTUP_ROUTER] = {"altup_router", DEV_USE_MATRIX, false},
    [S_ALTUP_ROUTER_NORM] = {"altup_router_norm", DEV_USE_VECTOR, false},
    [S_ALTUP_PREDICT] = {"altup_predict_coef", DEV_USE_MATRIX, false},
    [S_ALTUP_CORRECT] = {"altup_correct_coef", DEV_USE_MATRIX, false},
    [S_ALTUP_SCALE] = {"altup_correct_scale", DEV_USE_VECTOR, false},
    [S_LAUREL_L] = {"laurel_l", DEV_USE_MATRIX, false},
    [S_LAUREL_R] = {"laurel_r", DEV_USE_MATRIX, false},
    [S_LAUREL_POST] = {"laurel_post_norm", DEV_USE_VECTOR, false},
    [S_HC_ATTN] = {"hc_attn_fn", DEV_USE_MATRIX, false},
    [S_HC_ATTN_BASE] = {"hc_attn_base", DEV_USE_VECTOR, false},
    [S_HC_ATTN_SCALE] = {"hc_attn_scale", DEV_USE_VECTOR, false},
    [S_HC_FFN] = {"hc_ffn_fn", DEV_USE_MATRIX, false},
    [S_HC_FFN_BASE] = {"hc_ffn_base", DEV_USE_VECTOR, false},
    [S_HC_FFN_SCALE] = {"hc_ffn_scale", DEV_USE_VECTOR, false},
    [S_RES_ATTN] = {"attn_res_score", DEV_USE_MATRIX, false},
    [S_RES_FFN] = {"ffn_res_score", DEV_USE_MATRIX, false},
    [S_ROUTED_DOWN] = {"ffn_routed_down", DEV_USE_MATRIX, false},
    [S_ROUTED_UP] = {"ffn_routed_up", DEV_USE_MATRIX, false},
    [S_ROUTED_NORM] = {"ffn_routed_norm", DEV_USE_VECTOR, false},
    [S_Q_A] = {"attn_q_a", DEV_USE_MATRIX, false},
    [S_Q_A_NORM] = {"attn_q_a_norm", DEV_USE_VECTOR, false},
    [S_Q_B] = {"attn_q_b", DEV_USE_MATRIX, false},
    [S_KV_A] = {"attn_kv_a_mqa", DEV_USE_MATRIX, false},
    [S_KV_A_NORM] = {"attn_kv_a_norm", DEV_USE_VECTOR, false},
    [S_K_B] = {"attn_k_b", DEV_USE_MATRIX, true},
    [S_V_B] = {"attn_v_b", DEV_USE_MATRIX, true},
    [S_KV_B] = {"attn_kv_b", DEV_USE_MATRIX, false},
    [S_SHARED_ROUTER] = {"ffn_gate_inp_shexp", DEV_USE_MATRIX, false},
    [S_GATE_SHARED] = {"ffn_gate_shexp", DEV_USE_MATRIX, false},
    [S_UP_SHARED] = {"ffn_up_shexp", DEV_USE_MATRIX, false},
    [S_DOWN_SHARED] = {"ffn_down_shexp", DEV_USE_MATRIX, false},
    [S_CONV] = {"shortconv.conv", DEV_USE_VECTOR, false},
    [S_CONV_IN] = {"shortconv.in_proj", DEV_USE_MATRIX, false},
    [S_CONV_OUT] = {"shortconv.out_proj", DEV_USE_MATRIX, false},
    [S_SSM_IN] = {"ssm_in", DEV_USE_MATRIX, false},
    [S_SSM_STEER] = {"ssm_in (B, C, time steps)", DEV_USE_MATRIX | DEV_USE_EXACT, false}, // rows of ssm_in: no file's name
    [S_SSM_CONV] = {"ssm_conv1d", DEV_USE_VECTOR, false},
    [S_SSM_CONV_Q] = {"ssm_conv1d_q", DEV_USE_VECTOR, true},
    [S_SSM_CONV_K] = {"ssm_conv1d_k", DEV_USE_VECTOR, true},
    [S_SSM_CONV_V] = {"ssm_conv1d_v", DEV_USE_VECTOR, true},
    [S_SSM_X] = {"ssm_x", DEV_USE_MATRIX | DEV_USE_EXACT, false},
    [S_SSM_DT] = {"ssm_dt", DEV_USE_MATRIX, false},
    [S_SSM_A] = {"ssm_a", DEV_USE_VECTOR, false},
    [S_SSM_D] = {"ssm_d", DEV_USE_VECTOR, false},
    [S_SSM_NORM] = {"ssm_norm", DEV_USE_VECTOR, false},
    [S_SSM_DT_NORM] = {"ssm_dt_norm", DEV_USE_VECTOR, false},
    [S_SSM_B_NORM] = {"ssm_b_norm", DEV_USE_VECTOR, false},
    [S_SSM_C_NORM] = {"ssm_c_norm", DEV_USE_VECTOR, false},
    [S_SSM_OUT] = {"ssm_out", DEV_USE_MATRIX, false},
    [S_SSM_BA] = {"ssm_ba", DEV_USE_MATRIX | DEV_USE_EXACT, false},
    [S_SSM_BETA] = {"ssm_beta", DEV_USE_MATRIX | DEV_USE_EXACT, false},
    [S_SSM_ALPHA] = {"ssm_alpha", DEV_USE_MATRIX | DEV_USE_EXACT, false},
    [S_SSM_F_A] = {"ssm_f_a", DEV_USE_MATRIX, false},
    [S_SSM_F_B] = {"ssm_f_b", DEV_USE_MATRIX, false},
    [S_SSM_G_A] = {"ssm_g_a", DEV_USE_MATRIX, false},
    [S_SSM_G_B] = {"ssm_g_b", DEV_USE_MATRIX, false},
    [S_SSM_G] = {"ssm_g", DEV_USE_MATRIX, false},
    [S_TM_W0] = {"time_mix_w0", DEV_USE_VECTOR, false},
    [S_TM_W1] = {"time_mix_w1", DEV_USE_MATRIX, false},
    [S_TM_W2] = {"time_mix_w2", DEV_USE_MATRIX, false},
    [S_TM_A0] = {"time_mix_a0", DEV_USE_VECTOR, false},
    [S_TM_A1] = {"time_mix_a1", DEV_USE_MATRIX, false},
    [S_TM_A2] = {"time_mix_a2", DEV_USE_MATRIX, false},
    [S_TM_V0] = {"time_mix_v0", DEV_USE_VECTOR, false},
    [S_TM_V1] = {"time_mix_v1", DEV_USE_MATRIX, false},
    [S_TM_V2] = {"time_mix_v2", DEV_USE_MATRIX, false},
    [S_TM_G1] = {"time_mix_g1", DEV_USE_MATRIX, false},
    [S_TM_G2] = {"time_mix_g2", DEV_USE_MATRIX, false},
    [S_TM_KK] = {"time_mix_k_k", DEV_USE_VECTOR, false},
    [S_TM_KA] = {"time_mix_k_a", DEV_USE_VECTOR, false},
    [S_TM_RK] = {"time_mix_r_k", DEV_USE_VECTOR, false},
    [S_TM_LERP_X] = {"time_mix_lerp_x", DEV_USE_VECTOR, false},
    [S_TM_LERP_W] = {"time_mix_lerp_w", DEV_USE_VECTOR, false},
    [S_TM_LERP_K] = {"time_mix_lerp_k", DEV_USE_VECTOR, false},
    [S_TM_LERP_V] = {"time_mix_lerp_v", DEV_USE_VECTOR, false},
    [S_TM_LERP_R] = {"time_mix_lerp_r", DEV_USE_VECTOR, false},
    [S_TM_LERP_G] = {"time_mix_lerp_g", DEV_USE_VECTOR, false},
    [S_TM_LERP] = {"time_mix_lerp_fused", DEV_USE_VECTOR, false}, // so many vectors
    [S_TM_FIRST] = {"time_mix_first", DEV_USE_VECTOR, false},
    [S_TM_DECAY] = {"time_mix_decay", DEV_USE_VECTOR, false},
    [S_TM_DECAY_W1] = {"time_mix_decay_w1", DEV_USE_MATRIX, false},
    [S_TM_DECAY_W2] = {"time_mix_decay_w2", DEV_USE_MATRIX, false},
    [S_TM_KEY] = {"time_mix_key", DEV_USE_MATRIX, false},
    [S_TM_VALUE] = {"time_mix_value", DEV_USE_MATRIX, false},
    [S_TM_RECEPTANCE] = {"time_mix_receptance", DEV_USE_MATRIX, false},
    [S_TM_GATE] = {"time_mix_gate", DEV_USE_MATRIX, false},
    [S_TM_LN] = {"time_mix_ln", DEV_USE_VECTOR, false},
    [S_TM_OUT] = {"time_mix_output", DEV_USE_MATRIX, false},
    [S_CM_LERP_K] = {"channel_mix_lerp_k", DEV_USE_VECTOR, false},
    [S_CM_LERP_R] = {"channel_mix_lerp_r", DEV_USE_VECTOR, false},
    [S_CM_KEY] = {"channel_mix_key", DEV_USE_MATRIX, false},
    [S_CM_RECEPTANCE] = {"channel_mix_receptance", DEV_USE_MATRIX, false},
    [S_CM_VALUE] = {"channel_mix_value", DEV_USE_MATRIX, false},
};

// The name that a row has for a slot. Norms that may stand before or after a branch have one name for both.
static const char *slot_name(const hparams *hp, slot s) {
    const arch_row *row = hp->row;
    if (row->keys & K_SWIN && hp->no_pre) {
        static const slot turned[] = {S_ATTN_NORM, S_ATTN_POST, S_FFN_NORM, S_FFN_POST};
        for (int i = 0; i < 4; i++)
            if (s == turned[i]) return SLOTS[turned[i ^ 1]].name;
    }
    if (s == S_FFN_NORM && row->ffn_norm) return row->ffn_norm;
    if (s == S_ATTN_POST && row->attn_post) return row->attn_post;
    if (s == S_FFN_POST && row->ffn_post) return row->ffn_post;
    return SLOTS[s].name;
}

static status bad_shape(const bound_tensor *t, int64_t k, int64_t n, int64_t experts, error *err) {
    if (experts > 1)
        return error_set(err, E_INVALID, "tensor \"%s\" is [%lld, %lld, %lld], expected [%lld, %lld, %lld]", t->desc.name,
                         (long long)t->desc.k, (long long)t->desc.n, (long long)t->desc.experts, (long long)k, (long long)n, (long long)experts);
    return error_set(err, E_INVALID, "tensor \"%s\" is [%lld, %lld], expected [%lld, %lld]", t->desc.name,
                     (long long)t->desc.k, (long long)t->desc.n, (long long)k, (long long)n);
}

// Holds a matrix to a shape; n = 0 takes any.
status want_matrix(const slot_pair *s, int64_t k, int64_t n, int64_t experts, error *err) {
    if (!s->w) return OK;
    const dev_weight *d = &s->w->desc;
    if (d->k != k || (n && d->n != n) || d->experts != experts) return bad_shape(s->w, k, n ? n : d->n, experts, err);
    if (s->b && s->b->desc.k * s->b->desc.n != d->n * experts) return bad_shape(s->b, d->n, experts, 1, err);
    return OK;
}

status want_vector(const bound_tensor *t, int64_t n, error *err) {
    return t && t->desc.k * t->desc.n != n ? bad_shape(t, n, 1, 1, err) : OK;
}

static status missing(int32_t layer, const char *name, error *err) {
    if (layer < 0) return error_set(err, E_INVALID, "the file has no tensor \"%s\"", name);
    return error_set(err, E_INVALID, "the file has no tensor \"blk.%d.%s\"", layer, name);
}

status bind_want_matrix(const slot_pair *s, int64_t k, int64_t n, error *err) { return want_matrix(s, k, n, 1, err); }
status bind_want_vector(const bound_tensor *t, int64_t n, error *err) { return want_vector(t, n, err); }

status bind_missing(int32_t layer, slot s, bool bias, error *err) {
    char name[48];
    snprintf(name, sizeof name, "%s%s", SLOTS[s].name, bias ? ".bias" : s == S_SSM_A || s == S_SSM_D ? "" : ".weight");
    return missing(layer, name, err);
}

status bind_shapes(const shape *list, size_t n, slot_pair *s, int32_t il, error *err) {
    for (size_t i = 0; i < n; i++) {
        slot_pair *p = &s[list[i].s];
        status st;
        if (!(list[i].bias ? p->b : p->w)) {
            if (list[i].optional) continue;
            return bind_missing(il, list[i].s, list[i].bias, err);
        }
        if (list[i].bias) st = bind_want_vector(p->b, list[i].n, err);
        else if (!list[i].k) st = bind_want_vector(p->w, list[i].n, err);
        else st = bind_want_matrix(p, list[i].k, list[i].n, err);
        if (st) return st;
    }
    return OK;
}

// Adds a tensor of the file. `use` and the split of its dimensions into rows and experts come from where it stands.
static status add(binding *b, const gguf_tensor *t, unsigned use, bool experts, bound_tensor **out, error *err) {
    const quant_traits *traits = quant_type_traits(t->type);
    if (!traits || !traits->decode || (traits->flags & (QUANT_IS_INT | QUANT_ACTIVATION)))
        return error_set(err, E_UNSUPPORTED, "tensor \"%s\" has type %s, which holds no weights that can be used", t->name, quant_type_name(t->type));
    for (int i = 0; i < 4; i++)
        if (t->dims[i] < 1 || t->dims[i] > (1u << 30)) return error_set(err, E_INVALID, "tensor \"%s\" has a dimension of %llu", t->name, (unsigned long long)t->dims[i]);
    if (t->dims[3] != 1 || (!experts && t->dims[2] != 1)) return error_set(err, E_INVALID, "tensor \"%s\" has more dimensions than expected", t->name);
    bound_tensor *d = &b->all[b->n++];
    *d = (bound_tensor){.src = t,
                        .desc = {.name = t->name, .type = (uint32_t)t->type, .k = (int64_t)t->dims[0], .n = (int64_t)t->dims[1], .experts = (int64_t)t->dims[2], .use = use},
                        .bytes = t->bytes};
    *out = d;
    return OK;
}

enum { MAX_PARTS = 1 << 17 };

// Tensors that are bound in parts, and how many each has. The bytes of a part are in the file; but one is far smaller than what it is bound to, so a file
// has MAX_PARTS at most: the heads of 256 layers of 256, twice.
static uint64_t slices_of(const gguf_tensor *t) {
    static const char *const stacks[] = {".attn_k_b.weight", ".attn_v_b.weight", ".time_mix_w2.weight", "altup_proj.weight", "altup_unembd_proj.weight"};
    uint64_t n = 1, each = 0;
    if (strstr(t->name, ".time_mix_lerp_fused")) n = t->dims[1] * t->dims[2] * t->dims[3];
    for (size_t i = 0; i < sizeof stacks / sizeof *stacks; i++)
        if (strstr(t->name, stacks[i])) n = t->dims[2];
    if (strstr(t->name, ".ssm_in.weight")) n = 2;
    each = n ? t->bytes / n : 0;
    return each ? n : 1;
}

// The same for a stack that is imported a slice at a time: as many bound tensors in a row.
static status add_slices(binding *b, const gguf_tensor *t, bound_tensor **out, error *err) {
    status st = add(b, t, DEV_USE_MATRIX, true, out, err);
    if (st) return st;
    int64_t n = (int64_t)slices_of(t);
    if (n != (*out)->desc.experts) return error_set(err, E_INVALID, "tensor \"%s\" is not named or filled as a stack of %lld", t->name, (long long)(*out)->desc.experts);
    (*out)->desc.experts = 1;
    (*out)->bytes = t->bytes / (uint64_t)n;
    for (int64_t i = 1; i < n; i++) {
        bound_tensor *d = &b->all[b->n++];
        *d = **out;
        d->offset = (uint64_t)i * d->bytes;
    }
    return OK;
}

// The same for vectors: dims[0] values each.
static status add_vectors(binding *b, const gguf_tensor *t, bound_tensor **out, error *err) {
    uint64_t n = slices_of(t);
    for (uint64_t i = 0; i < n; i++) {
        gguf_tensor one = *t;
        one.dims[1] = one.dims[2] = one.dims[3] = 1;
        one.bytes = t->bytes / n;
        bound_tensor *d;
        status st = add(b, &one, DEV_USE_VECTOR, false, &d, err);
        if (st) return st;
        d->src = t;
        d->offset = i * d->bytes;
        if (!i) *out = d;
    }
    return OK;
}

// Gate and up of the experts in one tensor, gate rows first: two stacks of half the rows.
static status add_halves(binding *b, const gguf_tensor *t, bound_layer *l, error *err) {
    slot_pair *gate = &l->s[S_GATE_EXPS], *up = &l->s[S_UP_EXPS];
    l->stacked = true;
    status st = add(b, t, DEV_USE_MATRIX, true, &gate->w, err);
    if (!st) st = add(b, t, DEV_USE_MATRIX, true, &up->w, err);
    if (st) return st;
    if (t->dims[1] % 2) return error_set(err, E_INVALID, "tensor \"%s\" has %llu rows, which is no gate and up", t->name, (unsigned long long)t->dims[1]);
    for (int i = 0; i < 2; i++) {
        bound_tensor *d = i ? up->w : gate->w;
        d->desc.n /= 2;
        d->bytes /= 2;
        d->half = i + 1;
    }
    return OK;
}

// Mamba-2's wide matrix: the rows of the gate and of what goes in, then those of B, C and the time steps, which steer the recurrence. These are bound as a matrix of
// their own, since they are computed in float32 (docs/ARCHITECTURE.md, "Recipes").
static status add_steered(binding *b, const hparams *hp, const gguf_tensor *t, slot_pair *s, error *err) {
    const int64_t first = 2 * (int64_t)hp->state_heads * hp->state_v, all = first + 2 * (int64_t)hp->state_keys * hp->state_k + hp->state_heads;
    bound_tensor *wide, *steer;
    status st = add(b, t, SLOTS[S_SSM_IN].use, false, &wide, err);
    if (!st && (wide->desc.k != hp->n_embd || wide->desc.n != all)) st = bad_shape(wide, hp->n_embd, all, 1, err);
    if (!st) st = add(b, t, SLOTS[S_SSM_STEER].use, false, &steer, err);
    if (st) return st;
    wide->desc.n = first;
    wide->bytes = t->bytes / (uint64_t)all * (uint64_t)first; // rows are whole blocks
    steer->desc.n = all - first;
    steer->offset = wide->bytes;
    steer->bytes = t->bytes - wide->bytes;
    s[S_SSM_IN].w = wide;
    s[S_SSM_STEER].w = steer;
    return OK;
}

// A value for each head, as a vector of `head` equal values each.
static status add_gains(binding *b, const gguf_tensor *t, int32_t head, bound_tensor **out, error *err) {
    if (t->type != QUANT_F32) return error_set(err, E_UNSUPPORTED, "tensor \"%s\" has type %s, expected F32", t->name, quant_type_name(t->type));
    status st = add(b, t, DEV_USE_VECTOR, false, out, err);
    if (st) return st;
    bound_tensor *d = *out;
    d->desc.k = d->desc.k * d->desc.n * head;
    d->desc.n = 1;
    d->repeat = head;
    return OK;
}

// "blk.12.attn_q.weight" -> 12, "attn_q", weight. False: no tensor of a block, or not named like one.
static bool parse_name(const char *name, int32_t *layer, const char **stem, size_t *stem_len, const char **suffix) {
    if (strncmp(name, "blk.", 4)) return false;
    const char *p = name + 4;
    int64_t n = 0;
    if (*p < '0' || *p > '9') return false;
    for (; *p >= '0' && *p <= '9'; p++)
        if ((n = n * 10 + (*p - '0')) > 1000000) return false;
    if (*p++ != '.') return false;
    const char *dot = strrchr(p, '.');
    *layer = (int32_t)n;
    *stem = p;
    *stem_len = dot ? (size_t)(dot - p) : strlen(p);
    *suffix = dot ? dot + 1 : "";
    return true;
}

static status unknown(const hparams *hp, const gguf_tensor *t, error *err) {
    return error_set(err, E_UNSUPPORTED, "tensor \"%s\" is not known to architecture \"%s\" here: the model would compute something else", t->name, hp->row->name);
}

// Tensors that other programs write and no computation needs.
static bool harmless(const char *name) {
    static const char *const ends[] = {".attn_rot_embd", ".attention.masked_bias", ".attn.bias", ".attention.bias", ".rotary_emb.inv_freq"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (strlen(name) > strlen(ends[i]) && strstr(name, ends[i])) return true;
    return false;
}

static status bind_block(binding *b, const hparams *hp, const gguf_tensor *t, int32_t layer, const char *stem, size_t len, const char *suffix, error *err) {
    if (hp->row->more & B_CYCLES && layer >= 2 * hp->cycle_layers)
        return error_set(err, E_INVALID, "tensor \"%s\" is past the last of two stacks of %d layers", t->name, hp->cycle_layers);
    if (layer >= hp->n_layers) return (hp->row->keys & K_NEXTN) ? OK : error_set(err, E_INVALID, "tensor \"%s\" is past the last of %d layers", t->name, hp->n_layers);
    bool weight = !strcmp(suffix, "weight") || !*suffix, bias = !strcmp(suffix, "bias");
    for (int s = 0; s < SLOT_COUNT; s++) {
        const char *name = slot_name(hp, (slot)s);
        if (strlen(name) != len || memcmp(name, stem, len) || (s == S_ATTN_NORM_2 && hp->row->more & B_CHANNEL_MIX)) continue; // there it is the feed-forward's norm
        slot_pair *pair = &b->layers[layer].s[s];
        if ((s == S_ATTN_SUB || s == S_FFN_SUB) && !(hp->row->traits & A_SUB_NORMS)) break;
        if (!strcmp(suffix, "scale") && (SLOTS[s].use & DEV_USE_MATRIX) && !SLOTS[s].experts && s != S_ROUTER && s != S_SHARED_ROUTER && s != S_PLE_GATE && s != S_PLE_PROJ) {
            pair->scale = t;
            return OK;
        }
        if (!strcmp(suffix, "scale") && SLOTS[s].experts && s >= S_GATE_EXPS && s <= S_DOWN_EXPS) return add(b, t, DEV_USE_VECTOR, false, &pair->each, err);
        if (!strcmp(suffix, "scale") && s == S_ROUTER && hp->row->traits & A_GEMMA4) return add(b, t, DEV_USE_VECTOR, false, &b->layers[layer].s[S_ROUTER_SCALE].w, err);
        if (!strcmp(suffix, "input_scale")) return OK; // of activations in half the bits, which are not made here
        bool skip = s == S_OUT_SCALE && hp->row->more & B_SKIP;
        if (((s >= S_PLE_GATE && s <= S_OUT_SCALE) || (s >= S_FFN_POST_1 && s <= S_FFN_POST_2)) && !skip && !(hp->row->traits & A_GEMMA4)) break;
        if (s >= S_GATE_CHUNK && s <= S_DOWN_CHUNK && !(hp->row->more & B_CHUNK_EXPERTS)) break;
        if (s == S_Q_NORM && weight && hp->row->more & B_HEAD_GAINS) return add_gains(b, t, hp->layers[layer].head_k, &pair->w, err);
        if (s >= S_Q_A && s <= S_KV_B && !(hp->row->traits & A_LATENT)) break;
        if (s >= S_ALTUP_ROUTER && s <= S_LAUREL_POST && !(hp->row->more & B_ALTUP)) break;
        if (s >= S_HC_ATTN && s <= S_HC_FFN_SCALE && !(hp->row->more & B_HYPER)) break;
        if (weight && (s == S_HC_ATTN_SCALE || s == S_HC_FFN_SCALE)) return add_gains(b, t, hp->n_streams, &pair->w, err); // one for reading, one for writing
        if (s >= S_RES_ATTN && s <= S_ROUTED_NORM && !(hp->row->more & B_BANK)) break;
        if (s >= S_CONV && !hp->layers[layer].recurrent) break;
        if (s >= S_TM_W0 && !arch_rwkv(hp->row)) break;
        if (weight && (s == S_K_B || s == S_V_B || s == S_TM_W2)) return add_slices(b, t, &pair->w, err);
        if (weight && s == S_SSM_IN && hp->row->recur == RECUR_MAMBA2) return add_steered(b, hp, t, b->layers[layer].s, err);
        if (weight && s == S_TM_LERP) return add_vectors(b, t, &pair->w, err);
        if (weight && s == S_SSM_A && hp->kda_bound < 0) return add_gains(b, t, hp->state_k, &pair->w, err);
        if (s == S_SELECT_BIAS && (bias || !*suffix)) return add(b, t, DEV_USE_VECTOR, false, &pair->w, err);
        if (weight) {
            status st = add(b, t, SLOTS[s].use, SLOTS[s].experts, &pair->w, err);
            if (!st && s >= S_CONV && SLOTS[s].experts) { // [taps, 1, columns]
                pair->w->desc.n *= pair->w->desc.experts;
                pair->w->desc.experts = 1;
            }
            return st;
        }
        if (bias) return add(b, t, DEV_USE_VECTOR, false, &pair->b, err);
    }
    if (len == 17 && !memcmp(stem, "layer_output_norm", 17) && weight && hp->row->attn_post) return add(b, t, DEV_USE_VECTOR, false, &b->layers[layer].s[S_FFN_POST].w, err);
    if (len == 16 && !memcmp(stem, "ffn_gate_up_exps", 16) && weight) return add_halves(b, t, &b->layers[layer], err);
    if (hp->row->more & B_INDEXER && len > 8 && !memcmp(stem, "indexer.", 8)) return OK; // chooses nothing as long as all are chosen
    if (hp->row->more & B_VISION && len > 4 && !memcmp(stem, "vis_", 4)) return OK;
    return harmless(t->name) ? OK : unknown(hp, t, err);
}

static status bind_global(binding *b, const hparams *hp, const gguf_tensor *t, error *err) {
    static const struct { const char *name; size_t pair; bool bias; unsigned use; } globals[] = {
        {"token_embd.weight", offsetof(binding, embed), false, DEV_USE_ROWS},
        {"position_embd.weight", offsetof(binding, positions), false, DEV_USE_ROWS},
        {"token_embd_norm.weight", offsetof(binding, embed_norm), false, DEV_USE_VECTOR},
        {"token_embd_norm.bias", offsetof(binding, embed_norm), true, DEV_USE_VECTOR},
        {"output_norm.weight", offsetof(binding, out_norm), false, DEV_USE_VECTOR},
        {"output_norm.bias", offsetof(binding, out_norm), true, DEV_USE_VECTOR},
        {"per_layer_token_embd.weight", offsetof(binding, ple_embed), false, DEV_USE_ROWS},
        {"per_layer_model_proj.weight", offsetof(binding, ple_proj), false, DEV_USE_MATRIX},
        {"per_layer_proj_norm.weight", offsetof(binding, ple_norm), false, DEV_USE_VECTOR},
        {"hrm.z_l_init", offsetof(binding, low_init), false, DEV_USE_VECTOR},
        {"altup_proj.weight", offsetof(binding, altup_in), false, DEV_USE_MATRIX},
        {"altup_unembd_proj.weight", offsetof(binding, altup_out), false, DEV_USE_MATRIX},
        {"output_res_score.weight", offsetof(binding, res_out), false, DEV_USE_MATRIX},
        {"output_hc_fn.weight", offsetof(binding, hc), false, DEV_USE_MATRIX},
        {"output_hc_base.weight", offsetof(binding, hc_base), false, DEV_USE_VECTOR},
        {"output_hc_scale.weight", offsetof(binding, hc_scale), false, DEV_USE_VECTOR},
        {"output.weight", offsetof(binding, output), false, DEV_USE_MATRIX},
        {"output.bias", offsetof(binding, output), true, DEV_USE_VECTOR},
        {"enc.output_norm.weight", offsetof(binding, out_norm), false, DEV_USE_VECTOR},
        {"cls.weight", offsetof(binding, cls), false, DEV_USE_MATRIX},
        {"cls.bias", offsetof(binding, cls), true, DEV_USE_VECTOR},
        {"cls.norm.weight", offsetof(binding, cls_norm), false, DEV_USE_VECTOR},
        {"cls.output.weight", offsetof(binding, cls_out), false, DEV_USE_MATRIX},
        {"cls.output.bias", offsetof(binding, cls_out), true, DEV_USE_VECTOR},
        {"dense_2.weight", offsetof(binding, dense[0]), false, DEV_USE_MATRIX},
        {"dense_3.weight", offsetof(binding, dense[1]), false, DEV_USE_MATRIX},
    };
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++) {
        if (strcmp(t->name, globals[i].name)) continue;
        if (globals[i].pair == offsetof(binding, positions) && !(hp->row->traits & A_LEARNED_POS)) break;
        if (globals[i].pair == offsetof(binding, embed_norm) && !(hp->row->traits & A_EMBED_NORM) && hp->row->recur != RECUR_CONV) break;
        if (!strncmp(t->name, "per_layer_", 10) && !hp->n_ple) break;
        if (globals[i].pair == offsetof(binding, low_init) && !(hp->row->more & B_CYCLES)) break;
        if (!strncmp(t->name, "altup_", 6) && !(hp->row->more & B_ALTUP)) break;
        if (globals[i].pair == offsetof(binding, res_out) && !(hp->row->more & B_BANK)) break;
        if (!strncmp(t->name, "output_hc_", 10) && !(hp->row->more & B_HYPER)) break;
        if (globals[i].pair == offsetof(binding, hc_scale)) return add_gains(b, t, hp->n_streams, &b->hc_scale.w, err);
        if (!strncmp(t->name, "enc.", 4) && !hp->row->encoder) break;
        if (!strncmp(t->name, "cls.", 4) && hp->pooling != MODEL_POOL_RANK) return OK; // heads that nobody asks
        if (!strncmp(t->name, "dense_", 6) && hp->pooling == MODEL_POOL_RANK) return OK;
        if (globals[i].pair == offsetof(binding, output) && hp->no_logits) return OK;
        slot_pair *pair = (slot_pair *)((char *)b + globals[i].pair);
        if (pair == &b->altup_in || pair == &b->altup_out) return add_slices(b, t, &pair->w, err);
        if (pair == &b->embed_norm && hp->row->recur == RECUR_CONV) pair = &b->out_norm; // what these files call it
        return add(b, t, globals[i].use, false, globals[i].bias ? &pair->b : &pair->w, err);
    }
    if (hp->row->encoder && !strcmp(t->name, "token_types.weight")) { // every token is of type 0, as the peer has it
        status st = add(b, t, DEV_USE_VECTOR, false, &b->token_type, err);
        if (st) return st;
        b->token_type->bytes /= (uint64_t)b->token_type->desc.n;
        b->token_type->desc.n = 1;
        return OK;
    }
    if (!strncmp(t->name, "rope_f", 6)) return OK; // bound in bind_rope, which chooses
    if (!strcmp(t->name, "output.scale")) {
        b->output.scale = t;
        return OK;
    }
    if (!strcmp(t->name, "output.input_scale")) return OK;
    return harmless(t->name) ? OK : unknown(hp, t, err);
}

static status bind_rope(binding *b, const gguf *g, const hparams *hp, error *err) {
    const gguf_tensor *t;
    char name[64];
    static const char *const plain[] = {"rope_freqs.weight", "blk.0.rope_freqs.weight"};
    if (hp->row->rope == ROPE_NONE) return OK;
    if (hp->longrope || gguf_tensor_find(g, "rope_factors_long.weight") || gguf_tensor_find(g, "blk.0.rope_factors_long.weight")) {
        const char *kind = hp->long_factors ? "long" : "short";
        snprintf(name, sizeof name, "rope_factors_%s.weight", kind);
        t = gguf_tensor_find(g, name);
        if (!t) {
            snprintf(name, sizeof name, "blk.0.rope_factors_%s.weight", kind);
            t = gguf_tensor_find(g, name);
        }
    } else {
        t = gguf_tensor_find(g, plain[0]);
        if (!t) t = gguf_tensor_find(g, plain[1]);
    }
    if (!t) return OK;
    status st = add(b, t, DEV_USE_VECTOR, false, &b->rope_factors, err);
    if (!st && hp->row->more & B_HALF_ROT && b->rope_factors->desc.k >= hp->n_rot / 4) { // as many as the layers that are scaled turn
        b->rope_factors->bytes = b->rope_factors->bytes / (uint64_t)b->rope_factors->desc.k * (uint64_t)(hp->n_rot / 4);
        b->rope_factors->desc.k = hp->n_rot / 4;
        return OK;
    }
    return st ? st : want_vector(b->rope_factors, hp->n_rot / 2, err);
}

static status check_feed(const hparams *hp, slot_pair *s, int32_t il, int64_t e, error *err) {
    status st = OK;
    const char *up_name = SLOTS[S_UP].name;
    bool experts = s[S_ROUTER].w || s[S_UP_EXPS].w;
    if (experts) {
        int64_t x = hp->n_expert;
        if (!x) return error_set(err, E_INVALID, "the file has expert tensors, but no key \"%s.expert_count\"", hp->row->name);
        if (!s[S_ROUTER].w) return missing(il, "ffn_gate_inp.weight", err);
        if (!s[S_UP_EXPS].w) return missing(il, "ffn_up_exps.weight", err);
        if (!s[S_DOWN_EXPS].w) return missing(il, "ffn_down_exps.weight", err);
        int64_t ff = s[S_UP_EXPS].w->desc.n, in = s[S_ROUTED_DOWN].w ? s[S_ROUTED_DOWN].w->desc.n : e;
        if ((st = want_matrix(&s[S_ROUTER], e, x, 1, err)) || (st = want_matrix(&s[S_UP_EXPS], in, ff, x, err)) || (st = want_matrix(&s[S_GATE_EXPS], in, ff, x, err))
            || (st = want_matrix(&s[S_DOWN_EXPS], ff, in, x, err)) || (st = want_vector(s[S_SELECT_BIAS].w, x, err)) || (st = want_vector(s[S_ROUTER_SCALE].w, e, err)))
            return st;
        for (int i = S_GATE_EXPS; i <= S_DOWN_EXPS; i++) {
            if (s[i].each && !s[i].w) return error_set(err, E_INVALID, "tensor \"%s\" scales nothing", s[i].each->desc.name);
            if ((st = want_vector(s[i].each, x, err))) return st;
        }
        if (hp->row->more & B_CHUNK_EXPERTS) {
            int64_t few = x / hp->share;
            for (int i = S_GATE_CHUNK; i <= S_DOWN_CHUNK; i++)
                if (!s[i].w) return missing(il, SLOTS[i].name, err);
            ff = s[S_UP_CHUNK].w->desc.n;
            if ((st = want_matrix(&s[S_GATE_CHUNK], e, ff, few, err)) || (st = want_matrix(&s[S_UP_CHUNK], e, ff, few, err))
                || (st = want_matrix(&s[S_DOWN_CHUNK], ff, e, few, err)))
                return st;
        }
        if (hp->row->traits & A_GEMMA4) {
            static const slot more[] = {S_FFN_POST_1, S_FFN_PRE_2, S_FFN_POST_2, S_ROUTER_SCALE, S_UP};
            for (size_t i = 0; i < sizeof more / sizeof *more; i++)
                if (!s[more[i]].w) return missing(il, SLOTS[more[i]].name, err);
            for (int i = 0; i < 3; i++)
                if ((st = want_vector(s[more[i]].w, e, err))) return st;
        }
        if (s[S_UP_SHARED].w) {
            if (!s[S_DOWN_SHARED].w) return missing(il, "ffn_down_shexp.weight", err);
            ff = s[S_UP_SHARED].w->desc.n;
            if ((st = want_matrix(&s[S_UP_SHARED], e, ff, 1, err)) || (st = want_matrix(&s[S_GATE_SHARED], e, ff, 1, err)) || (st = want_matrix(&s[S_DOWN_SHARED], ff, e, 1, err))
                || (st = want_matrix(&s[S_SHARED_ROUTER], e, 1, 1, err)))
                return st;
        }
    }
    if (s[S_UP].w) {
        if (!s[S_DOWN].w) return missing(il, "ffn_down.weight", err);
        int64_t ff = s[S_DOWN].w->desc.k, up = s[S_UP].w->desc.n;
        bool fused = (hp->row->traits & A_FUSED_UP) && !s[S_GATE].w && up == 2 * ff;
        if ((st = want_matrix(&s[S_UP], e, fused ? 2 * ff : ff, 1, err)) || (st = want_matrix(&s[S_GATE], e, ff, 1, err))
            || (st = want_matrix(&s[S_DOWN], ff, e, 1, err)))
            return st;
    } else if (!experts) {
        char name[32];
        snprintf(name, sizeof name, "%s.weight", up_name);
        return missing(il, name, err);
    }
    return OK;
}

// A gate of attention's result: one for each head or for each column.
static status want_gate(const slot_pair *s, int64_t e, int64_t heads, int64_t columns, error *err) {
    return want_matrix(s, e, s->w && s->w->desc.n == heads ? heads : columns, 1, err);
}

static status check_latent(const hparams *hp, slot_pair *s, int32_t il, error *err) {
    const layer_hp *l = &hp->layers[il];
    int64_t e = hp->n_embd, heads = l->n_head, r = l->kv_rank, nope = l->mla_k - hp->n_rot, q_in = e;
    status st;
    slot q = S_Q;
    if (s[S_Q_A].w) {
        if (!s[S_Q_A_NORM].w) return missing(il, "attn_q_a_norm.weight", err);
        if (!s[S_Q_B].w) return missing(il, "attn_q_b.weight", err);
        q = S_Q_B;
        q_in = s[S_Q_A].w->desc.n;
        if ((st = want_matrix(&s[S_Q_A], e, q_in, 1, err)) || (st = want_vector(s[S_Q_A_NORM].w, q_in, err))) return st;
    } else if (!s[S_Q].w) return missing(il, "attn_q.weight", err);
    if ((st = want_matrix(&s[q], q_in, heads * l->mla_k, 1, err))) return st;
    if (!s[S_KV_A].w) return missing(il, "attn_kv_a_mqa.weight", err);
    if (!s[S_KV_A_NORM].w) return missing(il, "attn_kv_a_norm.weight", err);
    if ((st = want_matrix(&s[S_KV_A], e, r + hp->n_rot, 1, err)) || (st = want_vector(s[S_KV_A_NORM].w, r, err))) return st;
    bool absorbed = l->head_v == r && l->n_kv == 1 && l->head_k == r + hp->n_rot && s[S_K_B].w;
    if (absorbed) {
        if (!s[S_V_B].w) return missing(il, "attn_v_b.weight", err);
        for (int i = 0; i < 2; i++) {
            const bound_tensor *t = s[i ? S_V_B : S_K_B].w;
            if (t->src->dims[2] != (uint64_t)heads)
                return error_set(err, E_INVALID, "tensor \"%s\" holds %llu heads, expected %lld", t->desc.name, (unsigned long long)t->src->dims[2], (long long)heads);
        }
        if (nope < 1) return error_set(err, E_INVALID, "key \"%s.attention.key_length_mla\" leaves nothing beside the rotated values", hp->row->name);
        if ((st = want_matrix(&s[S_K_B], nope, r, 1, err)) || (st = want_matrix(&s[S_V_B], r, l->mla_v, 1, err))) return st;
    } else {
        if (!s[S_KV_B].w) return missing(il, "attn_kv_b.weight", err);
        if (l->n_kv != heads) return error_set(err, E_INVALID, "layer %d has \"attn_kv_b.weight\", but keys \"%s.attention.*_length_mla\" are set", il, hp->row->name);
        if ((st = want_matrix(&s[S_KV_B], r, heads * (nope + l->mla_v), 1, err))) return st;
    }
    if (!s[S_OUT].w) return missing(il, "attn_output.weight", err);
    if ((st = want_gate(&s[S_GATE_ATTN], e, heads, heads * l->mla_v, err)) || (st = want_vector(s[S_SINKS].w, heads, err))
        || (st = want_vector(s[S_K_NORM].w, hp->n_rot, err)))
        return st;
    return want_matrix(&s[S_OUT], heads * l->mla_v, e, 1, err);
}

// Gate and up in one tensor: the file's factors of up are those of both.
static void share_factors(bound_layer *l) {
    if (l->stacked && !l->s[S_GATE_EXPS].each) l->s[S_GATE_EXPS].each = l->s[S_UP_EXPS].each;
}

static status check_layer(const hparams *hp, slot_pair *s, int32_t il, error *err) {
    const layer_hp *l = &hp->layers[il];
    unsigned traits = hp->row->traits;
    int64_t e = hp->n_embd, q = (int64_t)l->n_head * l->head_k, k = (int64_t)l->n_kv * l->head_k, v = (int64_t)l->n_kv * l->head_v, o = (int64_t)l->n_head * l->head_v;
    bool own_kv = l->kv_of == il;
    status st;
    char name[48];
    bool plain = traits & A_NORM_PLAIN || hp->no_pre;
    if (hp->row->keys & K_SWIN && hp->no_pre && !s[S_ATTN_POST].w) return missing(il, "attn_norm.weight", err);
    if (hp->row->keys & K_SWIN && hp->no_pre && !s[S_FFN_POST].w) return missing(il, "ffn_norm.weight", err);
    if (hp->row->more & B_HEAD_GAINS && !s[S_Q_NORM].w) return missing(il, "attn_q_norm.weight", err);
    if (hp->row->more & B_SKIP && !s[S_OUT_SCALE].w) return missing(il, "layer_output_scale.weight", err);
    if (!plain && !s[S_ATTN_NORM].w && !(hp->row->encoder && il == 0)) return missing(il, "attn_norm.weight", err);
    if (!plain && !(traits & A_PARALLEL) && !s[S_FFN_NORM].w && !l->no_feed && !(l->no_attention && !l->recurrent)) {
        snprintf(name, sizeof name, "%s.weight", slot_name(hp, S_FFN_NORM));
        return missing(il, name, err);
    }
    static const slot norms[] = {S_ATTN_NORM, S_ATTN_NORM_2, S_ATTN_POST, S_FFN_NORM, S_FFN_POST, S_NORM_EXPS};
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        if (norms[i] == S_ATTN_NORM_2 && hp->row->recur == RECUR_LIGHTNING && l->recurrent) continue; // of the result
        else if ((st = want_vector(s[norms[i]].w, e, err)) || (st = want_vector(s[norms[i]].b, e, err))) return st;
    if (arch_rwkv(hp->row)) return (st = check_rwkv(hp, s, il, err)) || hp->row->more & B_CHANNEL_MIX ? st : check_feed(hp, s, il, e, err);
    if (l->recurrent && (st = check_recurrent(hp, s, il, err))) return st;
    if (l->no_attention) return l->no_feed ? OK : check_feed(hp, s, il, e, err);
    if (traits & A_LATENT) return (st = check_latent(hp, s, il, err)) ? st : check_feed(hp, s, il, e, err);
    if (s[S_QKV].w) {
        if ((st = want_matrix(&s[S_QKV], e, q + k + v, 1, err))) return st;
    } else {
        if (!s[S_Q].w) return missing(il, "attn_q.weight", err);
        if (!s[S_K].w && own_kv) return missing(il, "attn_k.weight", err);
        if (!s[S_V].w && (!(traits & A_GEMMA4) || hp->row->more & B_ALTUP)) return missing(il, "attn_v.weight", err);
        if (!s[S_V].w && k != v) return missing(il, "attn_v.weight", err);
        if ((st = want_matrix(&s[S_Q], e, hp->row->recur == RECUR_DELTA ? 2 * q : q, 1, err)) || (st = want_matrix(&s[S_K], e, k, 1, err))
            || (st = want_matrix(&s[S_V], e, v, 1, err)))
            return st;
    }
    if (traits & A_SUB_NORMS) {
        if (s[S_ROUTER].w || s[S_UP_EXPS].w) return error_set(err, E_UNSUPPORTED, "layer %d has experts, which architecture \"%s\" is not built with", il, hp->row->name);
        if (!s[S_ATTN_SUB].w) return missing(il, "attn_sub_norm.weight", err);
        if (!s[S_FFN_SUB].w) return missing(il, "ffn_sub_norm.weight", err);
        if ((st = want_vector(s[S_ATTN_SUB].w, o, err)) || (st = want_vector(s[S_FFN_SUB].w, s[S_DOWN].w ? s[S_DOWN].w->desc.k : 0, err))) return st;
    }
    if (!s[S_OUT].w) return missing(il, "attn_output.weight", err);
    if ((st = want_matrix(&s[S_OUT], o, e, 1, err)) || (st = want_vector(s[S_SINKS].w, l->n_head, err)) || (st = want_gate(&s[S_GATE_ATTN], e, l->n_head, o, err))) return st;
    for (int i = 0; i < 2; i++) {
        const slot_pair *p = &s[i ? S_K_NORM : S_Q_NORM];
        int64_t whole = i ? k : q;
        if (!p->w) continue;
        int64_t n = p->w->desc.k * p->w->desc.n;
        if (n != whole && (n != l->head_k || hp->row->more & B_HEAD_GAINS)) return bad_shape(p->w, l->head_k, 1, 1, err);
        if ((st = want_vector(p->b, n, err))) return st;
    }
    return l->no_feed ? OK : check_feed(hp, s, il, e, err);
}

// Inputs of each layer's own (gemma4): one wide look-up for all layers, and in each a gate, a projection and a norm.
static status check_ple(const hparams *hp, binding *b, error *err) {
    if (!hp->n_ple) return OK;
    status st;
    int64_t e = hp->n_embd, n = hp->n_ple, all = n * hp->n_layers;
    if (!b->ple_embed.w) return missing(-1, "per_layer_token_embd.weight", err);
    if (!b->ple_proj.w) return missing(-1, "per_layer_model_proj.weight", err);
    if (!b->ple_norm.w) return missing(-1, "per_layer_proj_norm.weight", err);
    if ((st = want_matrix(&b->ple_embed, all, b->embed.w->desc.n, 1, err)) || (st = want_matrix(&b->ple_proj, e, all, 1, err))
        || (st = want_vector(b->ple_norm.w, n, err)))
        return st;
    for (int32_t i = 0; i < hp->n_layers; i++) {
        slot_pair *s = b->layers[i].s;
        if (!s[S_PLE_GATE].w) return missing(i, "inp_gate.weight", err);
        if (!s[S_PLE_PROJ].w) return missing(i, "proj.weight", err);
        if (!s[S_PLE_NORM].w) return missing(i, "post_norm.weight", err);
        if ((st = want_matrix(&s[S_PLE_GATE], e, n, 1, err)) || (st = want_matrix(&s[S_PLE_PROJ], n, e, 1, err)) || (st = want_vector(s[S_PLE_NORM].w, e, err))) return st;
    }
    return OK;
}

static status read_factor(const gguf *g, slot_pair *p, error *err) {
    p->factor = 1;
    if (!p->scale) return OK;
    const gguf_tensor *t = p->scale;
    if (!p->w) return error_set(err, E_INVALID, "tensor \"%s\" scales nothing", t->name);
    if (gguf_tensor_elems(t) != 1 || (t->type != QUANT_F32 && t->type != QUANT_F16 && t->type != QUANT_BF16))
        return error_set(err, E_INVALID, "tensor \"%s\" is no single float", t->name);
    status st = gguf_read_f32(g, t, 0, 1, &p->factor, err);
    if (!st && (!isfinite(p->factor) || p->factor == 0)) return error_set(err, E_INVALID, "tensor \"%s\" is %g", t->name, (double)p->factor);
    return st;
}

static status read_scales(const gguf *g, const hparams *hp, binding *b, error *err) {
    status first = read_factor(g, &b->output, err);
    if (first) return first;
    for (int32_t i = 0; i < hp->n_layers; i++) {
        for (int s = 0; s < SLOT_COUNT; s++) {
            status bad = read_factor(g, &b->layers[i].s[s], err);
            if (bad) return bad;
        }
        bound_tensor *t = b->layers[i].s[S_OUT_SCALE].w;
        status st;
        b->layers[i].out_scale = 1;
        if (!t) continue;
        if (t->src->type != QUANT_F32 && t->src->type != QUANT_F16 && t->src->type != QUANT_BF16) return error_set(err, E_INVALID, "tensor \"%s\" is no float", t->desc.name);
        if ((st = want_vector(t, 1, err)) || (st = gguf_read_f32(g, t->src, 0, 1, &b->layers[i].out_scale, err))) return st;
    }
    return OK;
}

static status check_globals(hparams *hp, binding *b, error *err) {
    status st;
    unsigned traits = hp->row->traits;
    if (!b->embed.w && b->output.w) { // tied the other way round (codeshell)
        b->embed.w = b->output.w;
        b->embed.w->desc.use |= DEV_USE_ROWS;
    }
    if (!b->embed.w) return missing(-1, "token_embd.weight", err);
    int64_t e = hp->n_embd, vocab = b->embed.w->desc.n;
    if (b->embed.w->desc.k != e) return bad_shape(b->embed.w, e, vocab, 1, err);
    if (vocab > INT32_MAX / 2) return error_set(err, E_INVALID, "tensor \"token_embd.weight\" has %lld rows", (long long)vocab);
    hp->n_vocab = (int32_t)vocab;
    if (!b->output.w && !hp->no_logits) { // tied: the embedding is multiplied too
        b->output.w = b->embed.w;
        b->embed.w->desc.use |= DEV_USE_MATRIX;
    }
    if ((st = want_matrix(&b->output, e, vocab, 1, err))) return st;
    if (!b->out_norm.w && !(traits & A_NORM_PLAIN) && hp->row->encoder != ENC_POST) return missing(-1, "output_norm.weight", err);
    if (traits & A_EMBED_NORM && !hp->row->encoder && !b->embed_norm.w) return missing(-1, "token_embd_norm.weight", err);
    if ((st = want_vector(b->out_norm.w, e, err)) || (st = want_vector(b->out_norm.b, e, err))
        || (st = want_vector(b->embed_norm.w, e, err)) || (st = want_vector(b->embed_norm.b, e, err)))
        return st;
    if (traits & A_LEARNED_POS) {
        if (!b->positions.w) return missing(-1, "position_embd.weight", err);
        if (b->positions.w->desc.k != e) return bad_shape(b->positions.w, e, b->positions.w->desc.n, 1, err);
        if (hp->context > b->positions.w->desc.n || !hp->context) hp->context = (uint32_t)b->positions.w->desc.n;
    }
    return OK;
}

// A vector (k = n, n = 1) or a table of single values (k = 1, n rows) that the file does not hold.
static status add_made(binding *b, int at, const char *name, int64_t k, int64_t n, unsigned use, bound_tensor **out, error *err) {
    b->made[at] = mem_calloc((size_t)(k * n), sizeof(float));
    if (!b->made[at]) return error_set(err, E_NOMEM, "out of memory for %s", name);
    bound_tensor *d = &b->all[b->n++];
    *d = (bound_tensor){.desc = {.name = name, .type = QUANT_F32, .k = k, .n = n, .experts = 1, .use = use}, .bytes = (uint64_t)(k * n) * sizeof(float), .made = b->made[at]};
    *out = d;
    return OK;
}

enum { IMAGE_FIRST = 4, IMAGE_TOKENS = 8192 }; // chameleon: the code book of its images

static status add_constants(const hparams *hp, binding *b, error *err) {
    status st;
    if (hp->row->more & B_IMAGE_TOKENS && !hp->no_logits) {
        if (hp->n_vocab < IMAGE_FIRST + IMAGE_TOKENS) return error_set(err, E_INVALID, "a vocabulary of %d tokens has not the %d of images", hp->n_vocab, IMAGE_TOKENS);
        if (b->output.b) return error_set(err, E_UNSUPPORTED, "tensor \"%s\" beside tokens of images is not built", b->output.b->desc.name);
        if ((st = add_made(b, 0, "tokens of images", hp->n_vocab, 1, DEV_USE_VECTOR, &b->output.b, err))) return st;
        for (int32_t i = 0; i < IMAGE_TOKENS; i++) b->made[0][IMAGE_FIRST + i] = -FLT_MAX;
    }
    if (hp->clamp > 0) {
        int64_t widest = 0;
        for (int32_t i = 0; i < hp->n_layers; i++) {
            int64_t w = (int64_t)hp->layers[i].n_head * hp->layers[i].head_k + (int64_t)hp->layers[i].n_kv * (hp->layers[i].head_k + hp->layers[i].head_v);
            if (widest && w != widest) return error_set(err, E_UNSUPPORTED, "key \"%s.attention.clamp_kqv\" with heads that differ between layers is not built", hp->row->name);
            widest = w;
        }
        if ((st = add_made(b, 0, "clamp", widest, 1, DEV_USE_VECTOR, &b->limit, err))) return st;
        for (int64_t i = 0; i < widest; i++) b->made[0][i] = hp->clamp;
    }
    if (hp->row->recur == RECUR_LIGHTNING && hp->state_heads) { // 2^(-8/n) and its powers, as ALiBi's slopes
        if ((st = add_made(b, 2, "decays", hp->state_heads, 1, DEV_USE_VECTOR, &b->slopes, err))) return st;
        float first = powf(2, -powf(2, 3 - log2f((float)hp->state_heads)));
        for (int32_t h = 0; h < hp->state_heads; h++) b->made[2][h] = -first * powf(first, (float)h);
    }
    if (arch_rwkv(hp->row)) { // the row before, and nothing of the present one
        if ((st = add_made(b, 3, "token shift", 2, hp->n_embd, DEV_USE_VECTOR, &b->shift, err))) return st;
        for (int32_t i = 0; i < hp->n_embd; i++) b->made[3][2 * i] = 1;
    }
    if (hp->row->more & B_HYPER) {
        if ((st = add_made(b, 3, "least weight of a stream", hp->n_streams, 1, DEV_USE_VECTOR, &b->floor, err))) return st;
        for (int32_t i = 0; i < hp->n_streams; i++) b->made[3][i] = hp->hyper_floor;
    }
    if (hp->row->more & B_ALTUP) {
        int64_t ff = b->layers[0].s[S_GATE].w->desc.n;
        if ((st = add_made(b, 3, "sparse bound", ff, 1, DEV_USE_VECTOR, &b->cut, err)) || (st = add_made(b, 4, "ones", hp->n_streams, 1, DEV_USE_VECTOR, &b->ones, err))) return st;
        for (int64_t i = 0; i < ff; i++) b->made[3][i] = streams_cut(ff);
        for (int32_t i = 0; i < hp->n_streams; i++) b->made[4][i] = 1;
    }
    int64_t last = (int64_t)hp->context - 1 + hp->temp_offset;
    if (hp->temp_scale != 0 && last >= hp->temp_length) { // below it the factor is 1
        if (hp->context > 1u << 26) return error_set(err, E_UNSUPPORTED, "a context of %u with attention temperature is not built", hp->context);
        if ((st = add_made(b, 1, "attention temperature", 1, hp->context, DEV_USE_ROWS, &b->temper, err))) return st;
        for (int64_t i = 0; i < hp->context; i++) b->made[1][i] = 1 + hp->temp_scale * logf((float)((i + hp->temp_offset) / hp->temp_length) + 1);
    }
    return OK;
}

// The file holds each stack once, low then high; its layers stand wherever a pass of it does.
static status spread_stacks(const hparams *hp, binding *b, error *err) {
    int32_t n = hp->cycle_layers, low = hp->cycle_low;
    if (!b->low_init.w) return missing(-1, "hrm.z_l_init", err);
    status st = want_vector(b->low_init.w, hp->n_embd, err);
    if (st) return st;
    bound_layer *file = mem_calloc((size_t)(2 * n), sizeof *file);
    if (!file) return error_set(err, E_NOMEM, "out of memory for %d layers", 2 * n);
    memcpy(file, b->layers, (size_t)(2 * n) * sizeof *file);
    for (int32_t i = 0; i < hp->n_layers; i++) b->layers[i] = file[(i / n % (low + 1) == low ? n : 0) + i % n];
    mem_free(file);
    return OK;
}

status binding_make(const gguf *g, hparams *hp, binding *b, error *err) {
    memset(b, 0, sizeof *b);
    b->cap = 2 * gguf_tensor_count(g) + 4;
    uint64_t parts = 0; // more than a slice each
    for (size_t i = 0; i < gguf_tensor_count(g); i++) parts += slices_of(gguf_tensor_at(g, i)) - 1;
    if (parts > MAX_PARTS) return error_set(err, E_INVALID, "the tensors that are bound in parts have %llu, expected up to %d", (unsigned long long)parts, MAX_PARTS);
    b->cap += parts;
    b->all = mem_calloc(b->cap, sizeof *b->all);
    b->layers = mem_calloc((size_t)hp->n_layers, sizeof *b->layers);
    status st = b->all && b->layers ? OK : error_set(err, E_NOMEM, "out of memory for %zu tensors", b->cap);
    for (size_t i = 0; !st && i < gguf_tensor_count(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        int32_t layer;
        const char *stem, *suffix;
        size_t len;
        if (!parse_name(t->name, &layer, &stem, &len, &suffix)) st = bind_global(b, hp, t, err);
        else if (strncmp(stem, "rope_f", 6)) st = bind_block(b, hp, t, layer, stem, len, suffix, err);
    }
    if (!st) st = bind_rope(b, g, hp, err);
    if (!st) st = check_globals(hp, b, err);
    if (!st && hp->row->more & B_CYCLES) st = spread_stacks(hp, b, err);
    for (int32_t i = 0; !st && i < hp->n_layers; i++) {
        share_factors(&b->layers[i]);
        st = check_layer(hp, b->layers[i].s, i, err);
    }
    if (!st) st = check_ple(hp, b, err);
    if (!st) st = check_streams(hp, b, err);
    if (!st) st = encoder_check(hp, b, err);
    if (!st) st = read_scales(g, hp, b, err);
    if (!st) st = add_constants(hp, b, err);
    if (st) binding_free(b);
    return st;
}

void binding_free(binding *b) {
    mem_free(b->all);
    mem_free(b->layers);
    for (size_t i = 0; i < sizeof b->made / sizeof *b->made; i++) mem_free(b->made[i]);
    memset(b, 0, sizeof *b);
}
