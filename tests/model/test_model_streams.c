// Models with time mixes (RWKV), several residual streams (gemma3n), latent attention in windows (dots3note): a prompt in one piece and token by token gives the same bits,
// two ways to write the same model give the same logits, and every missing or misshapen tensor is refused by name.
#include "model/small_run.h"

enum { TOKENS = 12, VOCAB = 13, E = 12, HEAD = 2, FF = 10, SHARE = 3 };

typedef struct part { const char *name; uint64_t k, n, x; } part; // n 1: a vector

typedef struct family {
    const char *arch;
    const part *parts; // "blk.%.": of every layer
    size_t      n;
    int         layers;
    void      (*keys)(small_model *m, const small_spec *s);
} family;

static void rwkv_keys(small_model *m, const small_spec *s) {
    small_u32(m, s, "attention.head_count", 0);
    small_u32(m, s, "wkv.head_size", HEAD);
    small_u32(m, s, "rescale_every_n_layers", 1);
    small_f32(m, s, "attention.layer_norm_epsilon", 1e-5f);
}

static void qwen_keys(small_model *m, const small_spec *s) {
    small_u32(m, s, "attention.head_count", E / HEAD);
    small_u32(m, s, "attention.head_count_kv", s->kv ? (uint32_t)s->kv : 1);
    small_u32(m, s, "wkv.head_size", HEAD);
    small_f32(m, s, "attention.layer_norm_rms_epsilon", 1e-5f);
}

static void gemma_keys(small_model *m, const small_spec *s) {
    small_heads(m, &(small_spec){.arch = s->arch, .heads = 2, .kv = 1, .head = 6}, 0);
    small_u32(m, s, "attention.sliding_window", 5);
    small_u32(m, s, "embedding_length_per_layer_input", 3);
    small_f32(m, s, "attention.layer_norm_rms_epsilon", 1e-5f);
}

enum { ROT = 2, RANK = 4, NOPE = 3, VAL = 3, RANK_W = 3, NOPE_W = 2, VAL_W = 2, LOW = 5 };

static void dots_keys(small_model *m, const small_spec *s) {
    static const uint32_t windows[2] = {0, 1};
    small_heads(m, &(small_spec){.arch = s->arch, .heads = 2, .kv = 1, .head = RANK + ROT, .rot = ROT}, RANK);
    small_u32(m, s, "attention.kv_lora_rank", RANK);
    small_u32(m, s, "attention.key_length_mla", NOPE + ROT);
    small_u32(m, s, "attention.value_length_mla", VAL);
    small_u32(m, s, "attention.kv_lora_rank_swa", RANK_W);
    small_u32(m, s, "attention.key_length_mla_swa", NOPE_W + ROT);
    small_u32(m, s, "attention.value_length_mla_swa", VAL_W);
    small_u32(m, s, "attention.sliding_window", 5);
    small_u32(m, s, "attention.indexer.top_k", 1 << 17);
    assert_int_equal(gguf_writer_set(m->w, "dots3note.attention.sliding_window_pattern", GGUF_ARRAY, &(gguf_items){GGUF_U32, 2, windows}, NULL), OK);
    small_f32(m, s, "attention.layer_norm_rms_epsilon", 1e-5f);
}

#define RWKV_ENDS {"token_embd.weight", E, VOCAB, 1}, {"token_embd_norm.weight", E, 1, 1}, {"token_embd_norm.bias", E, 1, 1}, \
    {"output_norm.weight", E, 1, 1}, {"output_norm.bias", E, 1, 1}, {"output.weight", E, VOCAB, 1}, \
    {"blk.%.attn_norm.weight", E, 1, 1}, {"blk.%.attn_norm.bias", E, 1, 1}, {"blk.%.attn_norm_2.weight", E, 1, 1}, {"blk.%.attn_norm_2.bias", E, 1, 1}, \
    {"blk.%.channel_mix_lerp_k.weight", E, 1, 1}, {"blk.%.channel_mix_key.weight", E, FF, 1}, {"blk.%.channel_mix_value.weight", FF, E, 1}, \
    {"blk.%.time_mix_receptance.weight", E, E, 1}, {"blk.%.time_mix_output.weight", E, E, 1}
#define SIXTH {"blk.%.time_mix_w1.weight", E, 15, 1}, {"blk.%.time_mix_w2.weight", 3, E, 5}, {"blk.%.time_mix_lerp_x.weight", E, 1, 1}, \
    {"blk.%.time_mix_lerp_w.weight", E, 1, 1}, {"blk.%.time_mix_lerp_k.weight", E, 1, 1}, \
    {"blk.%.time_mix_lerp_v.weight", E, 1, 1}, {"blk.%.time_mix_lerp_r.weight", E, 1, 1}, {"blk.%.time_mix_lerp_g.weight", E, 1, 1}, {"blk.%.time_mix_decay.weight", E, 1, 1}, \
    {"blk.%.time_mix_decay_w1.weight", E, 4, 1}, {"blk.%.time_mix_decay_w2.weight", 4, E, 1}, {"blk.%.time_mix_gate.weight", E, E, 1}

static const part RWKV6[] = {RWKV_ENDS, SIXTH, {"blk.%.time_mix_first.weight", HEAD, E / HEAD, 1},
    {"blk.%.time_mix_key.weight", E, E, 1}, {"blk.%.time_mix_value.weight", E, E, 1}, {"blk.%.time_mix_ln.weight", E, 1, 1},
    {"blk.%.time_mix_ln.bias", E, 1, 1}, {"blk.%.channel_mix_lerp_r.weight", E, 1, 1}, {"blk.%.channel_mix_receptance.weight", E, E, 1}};
static const part RWKV7[] = {RWKV_ENDS, {"blk.%.time_mix_w0.weight", E, 1, 1}, {"blk.%.time_mix_w1.weight", E, 3, 1}, {"blk.%.time_mix_w2.weight", 3, E, 1},
    {"blk.%.time_mix_a0.weight", E, 1, 1}, {"blk.%.time_mix_a1.weight", E, 4, 1}, {"blk.%.time_mix_a2.weight", 4, E, 1}, {"blk.%.time_mix_v0.weight", E, 1, 1},
    {"blk.%.time_mix_v1.weight", E, 2, 1}, {"blk.%.time_mix_v2.weight", 2, E, 1}, {"blk.%.time_mix_g1.weight", E, 5, 1}, {"blk.%.time_mix_g2.weight", 5, E, 1},
    {"blk.%.time_mix_lerp_fused.weight", E, 1, 6}, {"blk.%.time_mix_k_k.weight", E, 1, 1}, {"blk.%.time_mix_k_a.weight", E, 1, 1},
    {"blk.%.time_mix_r_k.weight", E, 1, 1}, {"blk.%.time_mix_key.weight", E, E, 1}, {"blk.%.time_mix_value.weight", E, E, 1},
    {"blk.%.time_mix_ln.weight", E, 1, 1}, {"blk.%.time_mix_ln.bias", E, 1, 1}};
static const part GEMMA3N[] = {{"token_embd.weight", E, VOCAB, 1}, {"output_norm.weight", E, 1, 1}, {"altup_proj.weight", E, E, 3},
    {"altup_unembd_proj.weight", E, E, 3}, {"per_layer_token_embd.weight", 6, VOCAB, 1}, {"per_layer_model_proj.weight", E, 6, 1},
    {"per_layer_proj_norm.weight", 3, 1, 1}, {"blk.%.attn_norm.weight", E, 1, 1}, {"blk.%.attn_q.weight", E, 12, 1}, {"blk.%.attn_k.weight", E, 6, 1},
    {"blk.%.attn_v.weight", E, 6, 1}, {"blk.%.attn_output.weight", 12, E, 1}, {"blk.%.attn_q_norm.weight", 6, 1, 1}, {"blk.%.attn_k_norm.weight", 6, 1, 1},
    {"blk.%.post_attention_norm.weight", E, 1, 1}, {"blk.%.ffn_norm.weight", E, 1, 1}, {"blk.%.ffn_gate.weight", E, FF, 1}, {"blk.%.ffn_up.weight", E, FF, 1},
    {"blk.%.ffn_down.weight", FF, E, 1}, {"blk.%.post_ffw_norm.weight", E, 1, 1}, {"blk.%.inp_gate.weight", E, 3, 1}, {"blk.%.proj.weight", 3, E, 1},
    {"blk.%.post_norm.weight", E, 1, 1}, {"blk.%.altup_correct_coef.weight", 4, 4, 1}, {"blk.%.altup_correct_scale.weight", E, 1, 1},
    {"blk.%.altup_predict_coef.weight", 4, 16, 1}, {"blk.%.altup_router.weight", E, 4, 1}, {"blk.%.altup_router_norm.weight", E, 1, 1},
    {"blk.%.laurel_l.weight", E, 2, 1}, {"blk.%.laurel_r.weight", 2, E, 1}, {"blk.%.laurel_post_norm.weight", E, 1, 1}};
#define DOTS_LAYER(l, rank, nope, val) {"blk." #l ".attn_q_b.weight", LOW, 2 * (nope + ROT), 1}, \
    {"blk." #l ".attn_kv_a_mqa.weight", E, rank + ROT, 1}, {"blk." #l ".attn_kv_a_norm.weight", rank, 1, 1}, \
    {"blk." #l ".attn_k_b.weight", nope, rank, 2}, {"blk." #l ".attn_v_b.weight", rank, val, 2}, {"blk." #l ".attn_output.weight", 2 * val, E, 1}
static const part DOTS[] = {{"token_embd.weight", E, VOCAB, 1}, {"output_norm.weight", E, 1, 1}, {"blk.%.attn_norm.weight", E, 1, 1},
    {"blk.%.ffn_norm.weight", E, 1, 1}, {"blk.%.ffn_gate.weight", E, FF, 1}, {"blk.%.ffn_up.weight", E, FF, 1}, {"blk.%.ffn_down.weight", FF, E, 1},
    {"blk.%.attn_q_a.weight", E, LOW, 1}, {"blk.%.attn_q_a_norm.weight", LOW, 1, 1}, {"blk.%.attn_k_norm.weight", ROT, 1, 1},
    {"blk.%.attn_gate.weight", E, 2, 1}, DOTS_LAYER(0, RANK, NOPE, VAL), DOTS_LAYER(1, RANK_W, NOPE_W, VAL_W)};
static const part QWEN6[] = {{"token_embd.weight", E, VOCAB, 1}, {"output_norm.weight", E, 1, 1}, {"blk.%.attn_norm.weight", E, 1, 1},
    {"blk.%.ffn_norm.weight", E, 1, 1}, {"blk.%.ffn_gate.weight", E, FF, 1}, {"blk.%.ffn_up.weight", E, FF, 1},
    {"blk.%.ffn_down.weight", FF, E, 1}, {"blk.%.time_mix_receptance.weight", E, E, 1}, {"blk.%.time_mix_output.weight", E, E, 1}, SIXTH};

#define FAMILY(arch, parts, keys) {arch, parts, sizeof parts / sizeof *parts, 2, keys}
static const family FAMILIES[] = {FAMILY("rwkv6", RWKV6, rwkv_keys), FAMILY("rwkv7", RWKV7, rwkv_keys),
                                  FAMILY("gemma3n", GEMMA3N, gemma_keys), FAMILY("dots3note", DOTS, dots_keys)};

static void begin(small_model *m, const family *f, const small_spec *s) {
    small_spec of = *s;
    of.layers = f->layers;
    of.e = E;
    small_open(m, &of);
    f->keys(m, s);
    for (size_t i = 0; i < f->n; i++) {
        const char *percent = strchr(f->parts[i].name, '%');
        for (int l = 0; l < (percent ? f->layers : 1); l++) {
            char name[96];
            if (percent) snprintf(name, sizeof name, "%.*s%d%s", (int)(percent - f->parts[i].name), f->parts[i].name, l, percent + 1);
            else snprintf(name, sizeof name, "%s", f->parts[i].name);
            small_tensor(m, s, name, f->parts[i].k, f->parts[i].n, f->parts[i].x);
        }
    }
}

static float *logits_of(small_model *m) { return small_logits(m, TOKENS, VOCAB); }

static void pieces_are_the_whole(void **state) {
    (void)state;
    for (size_t f = 0; f < sizeof FAMILIES / sizeof *FAMILIES; f++) {
        small_model m;
        begin(&m, &FAMILIES[f], &(small_spec){.arch = FAMILIES[f].arch});
        mem_free(logits_of(&m));
    }
}

// Two key heads for three queries each, and the same heads written out for every query.
static float *grouped(bool together) {
    small_model m;
    small_spec s = {.arch = "rwkv6qwen2", .kv = together ? E / HEAD / SHARE : E / HEAD};
    family f = FAMILY("rwkv6qwen2", QWEN6, qwen_keys);
    begin(&m, &f, &s);
    for (int l = 0; l < f.layers; l++)
        for (int which = 0; which < 2; which++) {
            uint64_t seed = (uint64_t)(l * 2 + which + 1);
            char name[64];
            float *few = mem_alloc(E * E / SHARE * 4), *v = mem_alloc(E * E * 4);
            for (int i = 0; i < E * E / SHARE; i++) few[i] = 0.4f * small_random(&seed);
            for (int h = 0; h < s.kv; h++) memcpy(v + h * E * HEAD, few + (together ? h : h / SHARE) * E * HEAD, E * HEAD * 4);
            snprintf(name, sizeof name, "blk.%d.time_mix_%s.weight", l, which ? "value" : "key");
            small_values(&m, name, E, (uint64_t)(s.kv * HEAD), 1, v);
            mem_free(few);
        }
    return logits_of(&m);
}

static void key_heads_are_shared(void **state) {
    (void)state;
    float *a = grouped(true), *b = grouped(false);
    assert_memory_equal(a, b, TOKENS * VOCAB * 4);
    mem_free(a);
    mem_free(b);
}

static void refused(const family *f, const small_spec *s, const char *word) {
    error err = {0};
    small_model m;
    begin(&m, f, s);
    small_end(&m);
    status st = model_check(m.g, &err);
    small_free(&m);
    if (st != E_INVALID && st != E_UNSUPPORTED)
        fail_msg("%s without %s, %s longer: %s", f->arch, s->leave_out ? s->leave_out : "-", s->reshape ? s->reshape : "-", status_name(st));
    if (!strstr(err.text, word)) fail_msg("expected \"%s\" in: %s", word, err.text);
}

static void parts_are_missed(void **state) {
    (void)state;
    for (size_t f = 0; f < sizeof FAMILIES / sizeof *FAMILIES; f++)
        for (size_t i = 1; i < FAMILIES[f].n; i++) {
            char name[96], word[96] = "";
            const char *of = FAMILIES[f].parts[i].name, *percent = strchr(of, '%');
            if (percent) snprintf(name, sizeof name, "%.*s1%s", (int)(percent - of), of, percent + 1);
            else snprintf(name, sizeof name, "%s", of);
            bool block = !strncmp(name, "blk.", 4);
            if (block) snprintf(word, sizeof word, "%.6s", name);
            bool may = strstr(name, "output.weight") || strstr(name, "norm.bias") || strstr(name, "norm_2.bias") || strstr(name, "q_norm") || strstr(name, "k_norm")
                || strstr(name, "g1.weight") || strstr(name, "first.weight") || strstr(name, "attn_gate") || (FAMILIES[f].parts == DOTS && strstr(name, "ffn_gate"));
            if (!may || strstr(name, "mix_output")) refused(&FAMILIES[f], &(small_spec){.arch = FAMILIES[f].arch, .leave_out = name}, block ? word : name);
            refused(&FAMILIES[f], &(small_spec){.arch = FAMILIES[f].arch, .reshape = name}, word);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(pieces_are_the_whole), cmocka_unit_test(key_heads_are_shared), cmocka_unit_test(parts_are_missed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
