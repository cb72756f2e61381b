// Recurrent models: every missing tensor and every size out of range is refused by name, before anything is allocated for it; what steers a recurrence is exact.
#include "model/small_model.h"

#include "model/fake_device.h"
#include "model/model_internal.h"

enum { E = 16, INNER = 32, HEADS = 4, GROUPS = 2, STATE = 8, TAPS = 4, WIDE = INNER + 2 * GROUPS * STATE };

typedef struct spec { const char *arch, *without, *longer, *key; uint32_t value; } spec;

static void number(gguf_writer *w, const spec *s, const char *key, uint32_t value) {
    char full[64];
    snprintf(full, sizeof full, "%s.%s", s->arch, key);
    assert_int_equal(gguf_writer_set_u32(w, full, s->key && !strcmp(s->key, key) ? s->value : value, NULL), OK);
}

static const struct { const char *name; uint64_t k, n; } MAMBA2[] = {
    {"token_embd.weight", E, 12}, {"output_norm.weight", E, 1}, {"blk.0.attn_norm.weight", E, 1},
    {"blk.0.ssm_in.weight", E, INNER + WIDE + HEADS}, {"blk.0.ssm_conv1d.weight", TAPS, WIDE},
    {"blk.0.ssm_dt.bias", HEADS, 1}, {"blk.0.ssm_a", 1, HEADS}, {"blk.0.ssm_d", 1, HEADS}, {"blk.0.ssm_norm.weight", INNER / GROUPS, GROUPS}, {"blk.0.ssm_out.weight", INNER, E}},
  DELTA[] = {
    {"token_embd.weight", E, 12}, {"output_norm.weight", E, 1}, {"blk.0.attn_norm.weight", E, 1}, {"blk.0.post_attention_norm.weight", E, 1}, {"blk.0.attn_qkv.weight", E, WIDE},
    {"blk.0.attn_gate.weight", E, INNER}, {"blk.0.ssm_conv1d.weight", TAPS, WIDE}, {"blk.0.ssm_dt.bias", HEADS, 1}, {"blk.0.ssm_a", HEADS, 1}, {"blk.0.ssm_beta.weight", E, HEADS},
    {"blk.0.ssm_alpha.weight", E, HEADS}, {"blk.0.ssm_norm.weight", INNER / HEADS, 1}, {"blk.0.ssm_out.weight", INNER, E},
    {"blk.0.ffn_gate.weight", E, 24}, {"blk.0.ffn_up.weight", E, 24}, {"blk.0.ffn_down.weight", 24, E}};

static small_model opened(const spec *s) {
    bool delta = !strcmp(s->arch, "qwen35");
    size_t n = delta ? sizeof DELTA / sizeof *DELTA : sizeof MAMBA2 / sizeof *MAMBA2;
    small_model m = {0};
    assert_int_equal(gguf_writer_create(&m.w, NULL), OK);
    gguf_writer_set_text(m.w, "general.architecture", s->arch, NULL);
    static const struct { const char *key; uint32_t value; } keys[] = {{"block_count", 1}, {"embedding_length", E},
        {"context_length", 64}, {"attention.head_count", 2}, {"ssm.conv_kernel", TAPS}, {"ssm.inner_size", INNER},
        {"ssm.state_size", STATE}, {"ssm.time_step_rank", HEADS}, {"ssm.group_count", GROUPS}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) number(m.w, s, keys[i].key, keys[i].value);
    small_spec t = {.arch = s->arch, .leave_out = s->without, .reshape = s->longer};
    for (size_t i = 0; i < n; i++) {
        if (delta) small_tensor(&m, &t, DELTA[i].name, DELTA[i].k, DELTA[i].n, 1);
        else small_tensor(&m, &t, MAMBA2[i].name, MAMBA2[i].k, MAMBA2[i].n, 1);
    }
    return m;
}

static small_model made(const spec *s) {
    small_model m = opened(s);
    small_end(&m);
    return m;
}

static status check(const spec *s, error *err) {
    small_model m = made(s);
    status st = model_check(m.g, err);
    small_free(&m);
    return st;
}

static void whole_ones_pass(void **state) {
    (void)state;
    error err = {0};
    if (check(&(spec){.arch = "mamba2"}, &err) || check(&(spec){.arch = "qwen35"}, &err)) fail_msg("%s", err.text);
}

static int64_t input_rows[2]; // of ssm_in: in the recipe, exact

static status counting(device *d, dev_import *list, size_t n, const dev_hooks *hooks, error *err) {
    for (size_t i = 0; i < n; i++)
        if (strstr(list[i].weight->name, "ssm_in")) input_rows[!!(list[i].weight->use & DEV_USE_EXACT)] += list[i].weight->n;
    return fake_imports(d, list, n, hooks, err);
}

// B, C and the time steps are the last rows of Mamba-2's wide matrix.
static void what_steers_is_exact(void **state) {
    (void)state;
    small_model f = made(&(spec){.arch = "mamba2"});
    dev_ops ops = fake_ops;
    ops.import_weights = counting;
    fake_device dev = {.base = {&ops}};
    model *m = NULL;
    error err = {0};
    if (model_load(f.g, &dev.base, NULL, &m, &err)) fail_msg("%s", err.text);
    assert_int_equal(input_rows[0], 2 * INNER);
    assert_int_equal(input_rows[1], WIDE - INNER + HEADS);
    model_free(m);
    small_free(&f);
}

static void refused(const spec *s, const char *word) {
    error err = {0};
    status st = check(s, &err);
    if (st != E_INVALID && st != E_UNSUPPORTED)
        fail_msg("%s without %s, %s longer, %s = %u: %s", s->arch, s->without ? s->without : "-", s->longer ? s->longer : "-",
                 s->key ? s->key : "-", s->value, status_name(st));
    if (!strstr(err.text, word)) fail_msg("expected \"%s\" in: %s", word, err.text);
}

static void parts_are_missed(void **state) {
    (void)state;
    for (size_t i = 2; i < sizeof MAMBA2 / sizeof *MAMBA2; i++) {
        if (strstr(MAMBA2[i].name, "ssm_norm")) continue; // may be left out
        if (!strstr(MAMBA2[i].name, "conv1d")) refused(&(spec){.arch = "mamba2", .without = MAMBA2[i].name}, MAMBA2[i].name + 6);
        else refused(&(spec){.arch = "mamba2", .without = MAMBA2[i].name}, "layer 0");
        refused(&(spec){.arch = "mamba2", .longer = MAMBA2[i].name}, MAMBA2[i].name);
    }
    for (size_t i = 2; i < sizeof DELTA / sizeof *DELTA; i++) {
        if (strstr(DELTA[i].name, "ffn_gate")) continue;
        if (!strstr(DELTA[i].name, "conv1d")) refused(&(spec){.arch = "qwen35", .without = DELTA[i].name}, DELTA[i].name + 6);
        refused(&(spec){.arch = "qwen35", .longer = DELTA[i].name}, "blk.0.");
    }
}

// RWKV-7 with `blends` vectors in the fused tensor of that name.
static small_model rwkv(const char *arch, const char *fused, uint64_t blends) {
    static const struct { const char *name; uint64_t k, n; } tensors[] = {
        {"token_embd.weight", E, 12}, {"token_embd_norm.weight", E, 1}, {"output_norm.weight", E, 1}, {"blk.0.attn_norm.weight", E, 1}, {"blk.0.attn_norm_2.weight", E, 1},
        {"blk.0.time_mix_w0.weight", E, 1}, {"blk.0.time_mix_w1.weight", E, 4}, {"blk.0.time_mix_w2.weight", 4, E}, {"blk.0.time_mix_a0.weight", E, 1},
        {"blk.0.time_mix_a1.weight", E, 4}, {"blk.0.time_mix_a2.weight", 4, E}, {"blk.0.time_mix_k_k.weight", E, 1},
        {"blk.0.time_mix_k_a.weight", E, 1}, {"blk.0.time_mix_r_k.weight", E, 1}, {"blk.0.time_mix_key.weight", E, E},
        {"blk.0.time_mix_value.weight", E, E}, {"blk.0.time_mix_receptance.weight", E, E}, {"blk.0.time_mix_output.weight", E, E}, {"blk.0.channel_mix_lerp_k.weight", E, 1},
        {"blk.0.channel_mix_key.weight", E, 24}, {"blk.0.channel_mix_value.weight", 24, E}};
    small_spec s = {.arch = arch, .e = E, .layers = 1};
    small_model m;
    small_open(&m, &s);
    small_u32(&m, &s, "attention.head_count", 0);
    small_u32(&m, &s, "wkv.head_size", 8);
    small_f32(&m, &s, "attention.layer_norm_epsilon", 1e-5f);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) small_tensor(&m, &s, tensors[i].name, tensors[i].k, tensors[i].n, 1);
    small_tensor(&m, &s, fused, E, 1, blends);
    small_end(&m);
    return m;
}

static int blends_bound;

static status counting_blends(device *d, dev_import *list, size_t n, const dev_hooks *hooks, error *err) {
    blends_bound = 0;
    for (size_t i = 0; i < n; i++) blends_bound += strstr(list[i].weight->name, "lerp_fused") != NULL;
    return fake_imports(d, list, n, hooks, err);
}

// As many vectors are bound as the layer takes to be there, whatever the name ends in and however many there are.
static void blends_are_counted_once(void **state) {
    (void)state;
    static const struct { const char *name; int n; } good[] = {{"blk.0.time_mix_lerp_fused.weight", 6}, {"blk.0.time_mix_lerp_fused", 6}, {"blk.0.time_mix_lerp_fused.weight", 64}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        small_model f = rwkv("rwkv7", good[i].name, (uint64_t)good[i].n);
        dev_ops ops = fake_ops;
        ops.import_weights = counting_blends;
        fake_device dev = {.base = {&ops}};
        model *m = NULL;
        error err = {0};
        if (model_load(f.g, &dev.base, NULL, &m, &err)) fail_msg("%s", err.text);
        assert_int_equal(blends_bound, good[i].n);
        model_free(m);
        small_free(&f);
    }
    static const struct { const char *arch; uint64_t n; const char *word; } bad[] = {
        {"rwkv7", 4, "holds 4 blends, expected 5"}, {"rwkv6", 4, "holds 4 blends, expected 5"}, {"rwkv6", 6, "holds 6 blends, expected 5"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        small_model f = rwkv(bad[i].arch, "blk.0.time_mix_lerp_fused.weight", bad[i].n);
        error err = {0};
        assert_int_equal(model_check(f.g, &err), E_INVALID);
        if (!strstr(err.text, bad[i].word)) fail_msg("expected \"%s\" in: %s", bad[i].word, err.text);
        small_free(&f);
    }
}

// attention.scale is a key of others: a file that has it says nothing.
static void keys_of_others_are_not_read(void **state) {
    (void)state;
    small_spec t = {.arch = "qwen35"};
    spec s = {.arch = "qwen35"};
    float scale[2];
    for (int i = 0; i < 2; i++) {
        small_model m = opened(&s);
        hparams hp;
        error err;
        if (i) small_f32(&m, &t, "attention.scale", 0.3f);
        small_end(&m);
        if (hparams_read(m.g, 0, &hp, &err)) fail_msg("%s", err.text);
        scale[i] = hp.attn_scale;
        mem_free(hp.layers);
        small_free(&m);
    }
    assert_true(scale[0] == scale[1]);
}

static void sizes_are_bounded(void **state) {
    (void)state;
    static const char *const keys[] = {"ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank", "ssm.group_count"};
    static const uint32_t values[] = {0, 1, 3, 4096, 1u << 22, 0x7fffffff, 0xffffffff};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) refused(&(spec){.arch = v % 2 ? "mamba2" : "qwen35", .key = keys[k], .value = values[v]}, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_ones_pass), cmocka_unit_test(what_steers_is_exact),
                                       cmocka_unit_test(parts_are_missed), cmocka_unit_test(sizes_are_bounded),
                                       cmocka_unit_test(keys_of_others_are_not_read), cmocka_unit_test(blends_are_counted_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
