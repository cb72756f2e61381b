// Two ways to write the same model give the same logits: stacked and separate tensors, absorbed and plain latent attention; and options that
// must change nothing change nothing.
#include "model/small_run.h"

#include "model/model_internal.h"

enum { TOKENS = 40, VOCAB = 21, E = 16 };

static void put(small_model *m, const char *name, int k, int n, int x, const float *values) {
    float *v = mem_alloc((size_t)k * (size_t)n * (size_t)x * 4);
    memcpy(v, values, (size_t)k * (size_t)n * (size_t)x * 4);
    small_values(m, name, (uint64_t)k, (uint64_t)n, (uint64_t)x, v);
}

static float *numbers(uint64_t seed, size_t n, float scale) {
    float *v = mem_alloc(n * 4);
    for (size_t i = 0; i < n; i++) v[i] = scale * small_random(&seed);
    return v;
}

static float *logits_of(small_model *m) { return small_logits(m, TOKENS, VOCAB); }

static void same(float *a, float *b, double bound) {
    double d = 0, s = 0;
    for (int i = 0; i < TOKENS * VOCAB; i++) {
        d += (double)(a[i] - b[i]) * (a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    if (!(d / s <= bound)) fail_msg("NMSE %g", d / s);
    mem_free(a);
    mem_free(b);
}

static void different(float *a, float *b) {
    assert_memory_not_equal(a, b, TOKENS * VOCAB * 4);
    mem_free(a);
    mem_free(b);
}

// ---- latent attention -----------------------------------------------------------------------------------------------------

enum { RANK = 6, ROT = 4, NOPE = 5, VAL = 7, HEADS = 3 };

static float *latent(bool absorbed) {
    small_spec s = {.arch = "deepseek2", .e = E, .layers = 1, .heads = HEADS, .kv = absorbed ? 1 : HEADS, .head = absorbed ? RANK + ROT : NOPE + ROT, .rot = ROT};
    small_model m;
    small_open(&m, &s);
    small_heads(&m, &s, absorbed ? RANK : VAL);
    small_u32(&m, &s, "attention.kv_lora_rank", RANK);
    small_f32(&m, &s, "attention.layer_norm_rms_epsilon", 1e-5f);
    if (absorbed) {
        small_u32(&m, &s, "attention.key_length_mla", NOPE + ROT);
        small_u32(&m, &s, "attention.value_length_mla", VAL);
    }
    static const struct { const char *name; int k, n; } tensors[] = {
        {"token_embd.weight", E, VOCAB}, {"output_norm.weight", E, 1}, {"blk.0.attn_norm.weight", E, 1}, {"blk.0.attn_q_a.weight", E, 8}, {"blk.0.attn_q_a_norm.weight", 8, 1},
        {"blk.0.attn_q_b.weight", 8, HEADS * (NOPE + ROT)}, {"blk.0.attn_kv_a_mqa.weight", E, RANK + ROT},
        {"blk.0.attn_kv_a_norm.weight", RANK, 1}, {"blk.0.attn_output.weight", HEADS * VAL, E},
        {"blk.0.ffn_norm.weight", E, 1}, {"blk.0.ffn_gate.weight", E, 12}, {"blk.0.ffn_up.weight", E, 12}, {"blk.0.ffn_down.weight", 12, E},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        float *v = numbers(i + 1, (size_t)(tensors[i].k * tensors[i].n), tensors[i].n == 1 ? 1.5f : 0.6f);
        put(&m, tensors[i].name, tensors[i].k, tensors[i].n, 1, v);
        mem_free(v);
    }
    float *kb = numbers(100, HEADS * RANK * NOPE, 0.8f), *vb = numbers(101, HEADS * VAL * RANK, 0.8f), both[HEADS * (NOPE + VAL) * RANK];
    for (int h = 0; h < HEADS; h++) {
        float *at = both + h * (NOPE + VAL) * RANK;
        for (int i = 0; i < NOPE; i++)
            for (int r = 0; r < RANK; r++) at[i * RANK + r] = kb[(h * RANK + r) * NOPE + i]; // the stack holds it turned
        memcpy(at + NOPE * RANK, vb + h * VAL * RANK, VAL * RANK * 4);
    }
    if (absorbed) {
        put(&m, "blk.0.attn_k_b.weight", NOPE, RANK, HEADS, kb);
        put(&m, "blk.0.attn_v_b.weight", RANK, VAL, HEADS, vb);
    } else put(&m, "blk.0.attn_kv_b.weight", RANK, HEADS * (NOPE + VAL), 1, both);
    mem_free(kb);
    mem_free(vb);
    return logits_of(&m);
}

static void test_latent(void **state) { (void)state; same(latent(true), latent(false), 1e-10); }

// ---- stacked tensors ------------------------------------------------------------------------------------------------------

// Rows of a, then rows of b, for each of x experts.
static void put_stacked(small_model *m, const char *name, const float *a, int na, const float *b, int nb, int k, int x) {
    float *v = mem_alloc((size_t)(k * (na + nb) * x) * 4);
    for (int e = 0; e < x; e++) {
        memcpy(v + e * (na + nb) * k, a + e * na * k, (size_t)(na * k) * 4);
        memcpy(v + (e * (na + nb) + na) * k, b + e * nb * k, (size_t)(nb * k) * 4);
    }
    put(m, name, k, na + nb, x, v);
    mem_free(v);
}

static float *stacked(const char *arch, bool together, int experts) {
    small_spec s = {.arch = arch, .e = E, .layers = 1, .heads = 2, .kv = 1, .head = 8, .ff = 12, .vocab = VOCAB, .experts = experts, .used = experts ? 2 : 0};
    small_model m;
    float *q = numbers(1, E * 16, 0.5f), *kv = numbers(2, 2 * E * 8, 0.5f), *o = numbers(3, E * 16, 0.5f), *norm = numbers(4, E, 1.2f), *embed = numbers(5, E * VOCAB, 1);
    int x = experts ? experts : 1;
    float *gate = numbers(6, (size_t)(x * E * 12), 0.6f), *up = numbers(7, (size_t)(x * E * 12), 0.6f), *down = numbers(8, (size_t)(x * E * 12), 0.6f);
    float *router = numbers(9, (size_t)(x * E), 1), both[E * 32];
    memset(&m, 0, sizeof m);
    assert_int_equal(gguf_writer_create(&m.w, NULL), OK);
    gguf_writer_set_text(m.w, "general.architecture", arch, NULL);
    small_u32(&m, &s, "block_count", 1);
    small_u32(&m, &s, "embedding_length", E);
    small_u32(&m, &s, "attention.head_count", 2);
    small_u32(&m, &s, "attention.head_count_kv", 1);
    small_f32(&m, &s, "attention.layer_norm_rms_epsilon", 1e-5f);
    if (experts) {
        small_u32(&m, &s, "expert_count", (uint32_t)experts);
        small_u32(&m, &s, "expert_used_count", 2);
    }
    put(&m, "token_embd.weight", E, VOCAB, 1, embed);
    put(&m, "output_norm.weight", E, 1, 1, norm);
    put(&m, "blk.0.attn_norm.weight", E, 1, 1, norm);
    put(&m, "blk.0.ffn_norm.weight", E, 1, 1, norm);
    put(&m, "blk.0.attn_output.weight", 16, E, 1, o);
    if (together) {
        memcpy(both, q, E * 16 * 4);
        memcpy(both + E * 16, kv, 2 * E * 8 * 4);
        put(&m, "blk.0.attn_qkv.weight", E, 32, 1, both);
    } else {
        put(&m, "blk.0.attn_q.weight", E, 16, 1, q);
        put(&m, "blk.0.attn_k.weight", E, 8, 1, kv);
        put(&m, "blk.0.attn_v.weight", E, 8, 1, kv + E * 8);
    }
    if (experts) {
        put(&m, "blk.0.ffn_gate_inp.weight", E, experts, 1, router);
        put(&m, "blk.0.ffn_down_exps.weight", 12, E, experts, down);
    } else put(&m, "blk.0.ffn_down.weight", 12, E, 1, down);
    if (together) put_stacked(&m, experts ? "blk.0.ffn_gate_up_exps.weight" : "blk.0.ffn_up.weight", gate, 12, up, 12, E, x);
    else {
        put(&m, experts ? "blk.0.ffn_gate_exps.weight" : "blk.0.ffn_gate.weight", E, 12, x, gate);
        put(&m, experts ? "blk.0.ffn_up_exps.weight" : "blk.0.ffn_up.weight", E, 12, x, up);
    }
    mem_free(q); mem_free(kv); mem_free(o); mem_free(norm); mem_free(embed); mem_free(gate); mem_free(up); mem_free(down); mem_free(router);
    return logits_of(&m);
}

static void test_stacked(void **state) {
    (void)state;
    same(stacked("chatglm", true, 0), stacked("chatglm", false, 0), 0);
    same(stacked("qwen3moe", true, 3), stacked("qwen3moe", false, 3), 0);
    different(stacked("qwen3moe", true, 3), stacked("llama", true, 3)); // they pair the rotated values otherwise
}

// ---- options --------------------------------------------------------------------------------------------------------------

static float *with(const char *arch, const char *key, float f, const char *key2, uint32_t u) {
    small_spec s = {.arch = arch, .e = E, .layers = 2, .heads = 4, .kv = 2, .head = 4, .ff = 12, .vocab = VOCAB};
    small_model m;
    small_begin(&m, &s);
    if (key) small_f32(&m, &s, key, f);
    if (key2) small_u32(&m, &s, key2, u);
    if (!strcmp(arch, "mpt")) small_f32(&m, &s, "attention.layer_norm_epsilon", 1e-5f);
    return logits_of(&m);
}

static void test_clamp(void **state) {
    (void)state;
    same(with("mpt", "attention.clamp_kqv", 64, NULL, 0), with("mpt", NULL, 0, NULL, 0), 1e-9);
    different(with("mpt", "attention.clamp_kqv", 0.2f, NULL, 0), with("mpt", NULL, 0, NULL, 0));
    same(with("llama", "attention.clamp_kqv", 0.2f, NULL, 0), with("llama", NULL, 0, NULL, 0), 0); // llama does not read that key
}

static void test_temperature(void **state) {
    (void)state;
    const char *scale = "attention.temperature_scale", *length = "rope.scaling.original_context_length";
    same(with("mistral3", scale, 0.5f, length, 1000), with("mistral3", NULL, 0, NULL, 0), 0); // the factor is 1 below that length
    different(with("mistral3", scale, 0.5f, length, 8), with("mistral3", NULL, 0, NULL, 0));
}

// Maverick, which its number of experts tells, has no norm of queries and keys.
static float *llama4(uint32_t experts) {
    small_spec s = {.arch = "llama4", .e = E, .layers = 1, .heads = 4, .kv = 2, .head = 4, .ff = 12, .vocab = VOCAB};
    small_model m;
    small_begin(&m, &s);
    small_u32(&m, &s, "expert_count", experts);
    small_u32(&m, &s, "expert_used_count", 1);
    return logits_of(&m);
}

static void test_maverick(void **state) {
    (void)state;
    same(llama4(16), llama4(127), 0);
    different(llama4(16), llama4(128));
}

// What metadata alone makes of a file, which is gone afterwards.
static hparams read_of(small_model *m) {
    hparams hp;
    error err;
    small_end(m);
    if (hparams_read(m->g, 0, &hp, &err)) fail_msg("%s", err.text);
    mem_free(hp.layers);
    small_free(m);
    return hp;
}

// Experts of the best groups, in every architecture.
static void test_groups(void **state) {
    (void)state;
    static const char *const archs[] = {"llama", "qwen2moe", "deepseek", "gpt-oss", "bailingmoe2"};
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        small_spec s = {.arch = archs[i], .e = E, .layers = 1, .heads = 4, .kv = 2, .head = 4, .ff = 12, .vocab = VOCAB, .experts = 8, .used = 3};
        small_model m;
        small_begin(&m, &s);
        small_u32(&m, &s, "expert_group_count", 4);
        small_u32(&m, &s, "expert_group_used_count", 2);
        hparams hp = read_of(&m);
        if (hp.n_group != 4 || hp.top_groups != 2) fail_msg("%s: %d of %d groups", archs[i], hp.top_groups, hp.n_group);
    }
}

// Of YaRN's keys each architecture reads its own.
static hparams yarn(const char *arch, const char *key, float f) {
    small_spec s = {.arch = arch, .e = E, .layers = 1, .heads = 4, .kv = 4, .head = 4, .ff = 12, .vocab = VOCAB};
    char name[64];
    small_model m;
    small_begin(&m, &s);
    snprintf(name, sizeof name, "%s.rope.scaling.type", arch);
    assert_int_equal(gguf_writer_set_text(m.w, name, "yarn", NULL), OK);
    small_f32(&m, &s, "rope.scaling.factor", 4);
    small_u32(&m, &s, "attention.kv_lora_rank", 4);
    small_u32(&m, &s, "attention.indexer.top_k", 64);
    if (key) small_f32(&m, &s, key, f);
    return read_of(&m);
}

static void test_yarn_keys(void **state) {
    (void)state;
    static const struct { const char *arch; bool betas, factors, log, scores; } rows[] = {{.arch = "llama"},
        {"mistral3", .betas = true, .log = true}, {"grok", .betas = true, .factors = true}, {.arch = "minicpm3"}, {"glm-dsa", .scores = true},
        {"deepseek2", .log = true, .scores = true}, {"deepseek32", .log = true, .scores = true}, {"mistral4", .log = true, .scores = true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *a = rows[i].arch;
        float attn = yarn(a, NULL, 0).attn_factor, scale = yarn(a, NULL, 0).attn_scale * sqrtf(4);
        if ((yarn(a, "rope.scaling.yarn_beta_fast", 9).beta_fast == 9) != rows[i].betas) fail_msg("%s: beta_fast", a);
        if ((yarn(a, "rope.scaling.yarn_beta_slow", 3).beta_slow == 3) != rows[i].betas) fail_msg("%s: beta_slow", a);
        if ((yarn(a, "rope.scaling.yarn_ext_factor", 0.5f).ext_factor == 0.5f) != rows[i].factors) fail_msg("%s: ext_factor", a);
        if ((yarn(a, "rope.scaling.yarn_log_multiplier", 0.3f).yarn_log_mul != 0) != rows[i].log) fail_msg("%s: log_multiplier", a);
        if (attn != 1) fail_msg("%s: attn_factor %g", a, (double)attn);
        if (strcmp(a, "grok") && (fabsf(scale - 1) > 1e-3f) != rows[i].scores) fail_msg("%s: scores times %g", a, (double)scale); // grok has a scale of its own
    }
}

// GLM-4.7-Flash is told by its sizes where the file does not say how experts are gated.
static dev_gating gating(int layers, int vocab, uint32_t said) {
    small_spec s = {.arch = "deepseek2", .e = 2, .layers = layers, .heads = 1, .kv = 1, .head = 2};
    small_model m;
    char last[32];
    small_open(&m, &s);
    small_heads(&m, &s, 0);
    small_u32(&m, &s, "attention.kv_lora_rank", 1);
    small_u32(&m, &s, "expert_count", 2);
    small_u32(&m, &s, "expert_used_count", 1);
    small_u32(&m, &s, "expert_gating_func", said);
    snprintf(last, sizeof last, "blk.%d.attn_norm", layers - 1);
    small_pair(&m, &s, "token_embd", 2, (uint64_t)vocab, false);
    small_pair(&m, &s, last, 2, 1, false);
    return read_of(&m).gating;
}

static void test_gating(void **state) {
    (void)state;
    enum { FLASH = 154880 };
    assert_int_equal(gating(47, FLASH, 0), DEV_GATE_SIGMOID);
    assert_int_equal(gating(48, FLASH, 0), DEV_GATE_SIGMOID);
    assert_int_equal(gating(47, FLASH, 1), DEV_GATE_SOFTMAX);
    assert_int_equal(gating(46, FLASH, 0), DEV_GATE_SOFTMAX);
    assert_int_equal(gating(47, FLASH - 1, 0), DEV_GATE_SOFTMAX);
    assert_int_equal(gating(46, FLASH, 2), DEV_GATE_SIGMOID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_latent), cmocka_unit_test(test_stacked), cmocka_unit_test(test_clamp),
                                       cmocka_unit_test(test_temperature), cmocka_unit_test(test_groups),
                                       cmocka_unit_test(test_maverick), cmocka_unit_test(test_gating), cmocka_unit_test(test_yarn_keys)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
