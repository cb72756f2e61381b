// Files that lie: missing tensors, wrong shapes, absurd numbers, unknown names. Each is refused with one sentence that names the key or the
// tensor; nothing crashes, nothing large is allocated, nothing is left behind, and failing allocations are errors.
#include "model/small_model.h"

#include "model/fake_device.h"
#include "model/model.h"

static const small_spec LLAMA = {.arch = "llama", .e = 16, .layers = 2, .heads = 4, .kv = 2, .head = 4, .ff = 24, .vocab = 20};

// Loads what the spec and `more` make; the error must have the code and the text.
static void refused(const small_spec *s, void (*more)(small_model *), status code, const char *text) {
    small_model f;
    small_begin(&f, s);
    if (more) more(&f);
    small_end(&f);
    fake_device dev = {.base = {&fake_ops}};
    model *m = (model *)&f;
    model_sizes sizes;
    error err = {0};
    status st = model_load(f.g, &dev.base, NULL, &m, &err);
    if (st != code || !strstr(err.text, text)) fail_msg("expected %s with \"%s\", got %s: %s", status_name(code), text, status_name(st), err.text);
    assert_null(m);
    assert_int_equal(dev.live, 0);
    assert_int_equal(model_check(f.g, NULL), code);
    assert_int_equal(model_predict(f.g, &dev.base, NULL, 8, 8, &sizes, NULL), code);
    small_free(&f);
}

static void test_missing(void **state) {
    (void)state;
    static const char *const names[] = {"token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight", "blk.1.attn_q.weight", "blk.1.attn_k.weight",
                                        "blk.0.attn_v.weight", "blk.0.attn_output.weight", "blk.1.ffn_norm.weight", "blk.0.ffn_up.weight", "blk.1.ffn_down.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        small_spec s = LLAMA;
        s.tied = true; // so that no output stands in for the embedding
        s.leave_out = names[i];
        refused(&s, NULL, E_INVALID, names[i]);
    }
    small_spec s = LLAMA;
    s.experts = 4;
    s.used = 2;
    s.leave_out = "blk.1.ffn_gate_inp.weight";
    refused(&s, NULL, E_INVALID, s.leave_out);
    s.leave_out = "blk.0.ffn_down_exps.weight";
    refused(&s, NULL, E_INVALID, s.leave_out);
}

static void test_shapes(void **state) {
    (void)state;
    static const char *const names[] = {"token_embd.weight", "output_norm.weight", "output.weight", "blk.0.attn_norm.weight", "blk.1.attn_q.weight",
                                        "blk.1.attn_k.weight", "blk.0.attn_v.weight", "blk.0.attn_output.weight", "blk.1.ffn_norm.weight",
                                        "blk.0.ffn_up.weight", "blk.0.ffn_gate.weight", "blk.0.attn_q.bias", "blk.1.ffn_down.bias"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        small_spec s = LLAMA;
        s.biases = true;
        s.reshape = names[i];
        refused(&s, NULL, E_INVALID, names[i]);
    }
    small_spec s = LLAMA;
    s.experts = 4;
    s.used = 2;
    static const char *const experts[] = {"blk.1.ffn_gate_inp.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_gate_exps.weight"};
    for (size_t i = 0; i < 3; i++) {
        s.reshape = experts[i];
        refused(&s, NULL, E_INVALID, experts[i]);
    }
}

static void layers_many(small_model *m) { gguf_writer_set_u32(m->w, "llama.block_count", 1000000000u, NULL); }
static void layers_more(small_model *m) { gguf_writer_set_u32(m->w, "llama.block_count", 1000, NULL); }
static void layers_none(small_model *m) { gguf_writer_set_u32(m->w, "llama.block_count", 0, NULL); }
static void layers_gone(small_model *m) { gguf_writer_remove(m->w, "llama.block_count"); }
static void layers_fewer(small_model *m) { gguf_writer_set_u32(m->w, "llama.block_count", 1, NULL); }
static void width_other(small_model *m) { gguf_writer_set_u32(m->w, "llama.embedding_length", 17, NULL); }
static void width_huge(small_model *m) { gguf_writer_set_u32(m->w, "llama.embedding_length", 4000000000u, NULL); }
static void heads_none(small_model *m) { gguf_writer_set_u32(m->w, "llama.attention.head_count", 0, NULL); }
static void heads_huge(small_model *m) { gguf_writer_set_u32(m->w, "llama.attention.head_count", 2000000000u, NULL); }
static void heads_odd(small_model *m) { gguf_writer_set_u32(m->w, "llama.attention.head_count_kv", 3, NULL); }
static void heads_text(small_model *m) { gguf_writer_set_text(m->w, "llama.attention.head_count", "four", NULL); }
static void key_huge(small_model *m) { gguf_writer_set_u32(m->w, "llama.attention.key_length", 1u << 31, NULL); }
static void rot_odd(small_model *m) { gguf_writer_set_u32(m->w, "llama.rope.dimension_count", 3, NULL); }
static void rot_wide(small_model *m) { gguf_writer_set_u32(m->w, "llama.rope.dimension_count", 64, NULL); }
static void eps_nan(small_model *m) { gguf_writer_set_f32(m->w, "llama.attention.layer_norm_rms_epsilon", NAN, NULL); }
static void eps_negative(small_model *m) { gguf_writer_set_f32(m->w, "llama.attention.layer_norm_rms_epsilon", -1, NULL); }
static void base_negative(small_model *m) { gguf_writer_set_f32(m->w, "llama.rope.freq_base", -1, NULL); }
static void scaling_unknown(small_model *m) { gguf_writer_set_text(m->w, "llama.rope.scaling.type", "spiral", NULL); }
static void yarn_without_context(small_model *m) {
    gguf_writer_set_text(m->w, "llama.rope.scaling.type", "yarn", NULL);
    gguf_writer_set_f32(m->w, "llama.rope.scaling.factor", 4, NULL);
    gguf_writer_remove(m->w, "llama.context_length");
}
static void arch_unknown(small_model *m) { gguf_writer_set_text(m->w, "general.architecture", "nonesuch", NULL); }
static const char *out; // known by name, not built
static void arch_out(small_model *m) { gguf_writer_set_text(m->w, "general.architecture", out, NULL); }
static void arch_gone(small_model *m) { gguf_writer_remove(m->w, "general.architecture"); }
static void experts_too_used(small_model *m) {
    gguf_writer_set_u32(m->w, "llama.expert_count", 2, NULL);
    gguf_writer_set_u32(m->w, "llama.expert_used_count", 3, NULL);
}
static void experts_huge(small_model *m) { gguf_writer_set_u32(m->w, "llama.expert_count", 3000000000u, NULL); }
static void heads_list(small_model *m) {
    static const uint32_t one[1] = {4};
    gguf_items items = {GGUF_U32, 1, one};
    gguf_writer_set(m->w, "llama.attention.head_count", GGUF_ARRAY, &items, NULL);
}

static void test_numbers(void **state) {
    (void)state;
    refused(&LLAMA, layers_many, E_INVALID, "llama.block_count");
    refused(&LLAMA, layers_more, E_INVALID, "llama.block_count");
    refused(&LLAMA, layers_none, E_INVALID, "llama.block_count");
    refused(&LLAMA, layers_gone, E_INVALID, "llama.block_count");
    refused(&LLAMA, layers_fewer, E_INVALID, "blk.1.");
    refused(&LLAMA, width_other, E_INVALID, "token_embd.weight");
    refused(&LLAMA, width_huge, E_INVALID, "llama.embedding_length");
    refused(&LLAMA, heads_none, E_UNSUPPORTED, "llama.attention.head_count");
    refused(&LLAMA, heads_huge, E_INVALID, "llama.attention.head_count");
    refused(&LLAMA, heads_odd, E_INVALID, "llama.attention.head_count_kv");
    refused(&LLAMA, heads_text, E_INVALID, "llama.attention.head_count");
    refused(&LLAMA, heads_list, E_INVALID, "llama.attention.head_count");
    refused(&LLAMA, key_huge, E_INVALID, "llama.attention.key_length");
    refused(&LLAMA, rot_odd, E_INVALID, "llama.rope.dimension_count");
    refused(&LLAMA, rot_wide, E_INVALID, "llama.rope.dimension_count");
    refused(&LLAMA, eps_nan, E_INVALID, "llama.attention.layer_norm_rms_epsilon");
    refused(&LLAMA, eps_negative, E_INVALID, "epsilon");
    refused(&LLAMA, base_negative, E_INVALID, "llama.rope");
    refused(&LLAMA, scaling_unknown, E_UNSUPPORTED, "spiral");
    refused(&LLAMA, yarn_without_context, E_INVALID, "original_context_length");
    refused(&LLAMA, experts_too_used, E_INVALID, "llama.expert_used_count");
    refused(&LLAMA, experts_huge, E_INVALID, "llama.expert_count");
    refused(&LLAMA, arch_unknown, E_UNSUPPORTED, "nonesuch");
    static const struct { const char *name, *why; } outs[] = {{"clip", "it holds no language model"},
        {"t5", "encoder-decoder"}, {"deepseek4", "compressed"}, {"qwen4exp", "hashed n-grams"}, {"qwen3tts", "speech"}};
    for (size_t i = 0; i < sizeof outs / sizeof *outs; i++) {
        out = outs[i].name;
        refused(&LLAMA, arch_out, E_UNSUPPORTED, out);
        refused(&LLAMA, arch_out, E_UNSUPPORTED, outs[i].why);
    }
    refused(&LLAMA, arch_gone, E_INVALID, "general.architecture");
    small_spec s = LLAMA;
    s.experts = 4;
    s.used = 0;
    refused(&s, NULL, E_INVALID, "llama.expert_used_count");
}

static void test_unknown_tensors(void **state) {
    (void)state;
    static const char *const names[] = {"blk.0.attn_mystery.weight", "blk.7.attn_q.weight", "blk.0.attn_q.scale",
                                        "mystery.weight", "position_embd.weight", "blk.99999999999.attn_q.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        small_spec s = LLAMA;
        s.extra = names[i];
        small_model f;
        error err;
        small_begin(&f, &s);
        small_end(&f);
        status st = model_check(f.g, &err);
        assert_true(st == E_INVALID || st == E_UNSUPPORTED);
        assert_non_null(strstr(err.text, names[i]));
        small_free(&f);
    }
    small_spec s = LLAMA;
    s.extra = "blk.0.attn_rot_embd"; // written by old converters, needed by nothing
    small_model f;
    small_begin(&f, &s);
    small_end(&f);
    assert_int_equal(model_check(f.g, NULL), OK);
    small_free(&f);
}

// Every allocation of loading and predicting may fail.
static void test_no_memory(void **state) {
    (void)state;
    small_model f;
    small_begin(&f, &LLAMA);
    small_end(&f);
    fake_device dev = {.base = {&fake_ops}};
    int failures = 0;
    for (long nth = 1;; nth++) {
        model *m = NULL;
        error err = {0};
        mem_fail_at(nth);
        status st = model_load(f.g, &dev.base, NULL, &m, &err);
        mem_fail_at(0);
        if (!st) {
            model_free(m);
            assert_int_equal(dev.live, 0);
            break;
        }
        failures++;
        assert_int_equal(st, E_NOMEM);
        assert_null(m);
        assert_int_equal(dev.live, 0);
    }
    assert_true(failures > 20);
    for (long nth = 1;; nth++) {
        model_sizes sizes;
        mem_fail_at(nth);
        status st = model_predict(f.g, &dev.base, NULL, 8, 8, &sizes, NULL);
        mem_fail_at(0);
        if (!st) break;
        assert_int_equal(st, E_NOMEM);
    }
    small_free(&f);
}

static bool stop_at_third(void *ctx) { return ++*(int *)ctx == 3; }
static void rising(void *ctx, uint64_t done, uint64_t total) {
    uint64_t *last = ctx;
    assert_true(done >= *last && done <= total);
    *last = done;
}

static void test_progress_and_cancel(void **state) {
    (void)state;
    small_model f;
    small_begin(&f, &LLAMA);
    small_end(&f);
    fake_device dev = {.base = {&fake_ops}};
    model *m;
    int calls = 0;
    model_options o = {.cancelled = stop_at_third, .progress_ctx = &calls};
    assert_int_equal(model_load(f.g, &dev.base, &o, &m, NULL), E_CANCELLED);
    assert_int_equal(dev.live, 0);
    uint64_t last = 0;
    o = (model_options){.progress = rising, .progress_ctx = &last, .context = 64};
    assert_int_equal(model_load(f.g, &dev.base, &o, &m, NULL), OK);
    assert_true(last == model_get_info(m)->file_bytes && model_get_info(m)->context == 64 && model_get_info(m)->n_ctx_train == 128);
    model_free(m);
    small_free(&f);
}

// Rows with keys or tensors of their own name them when they are missing or do not fit.
static void cycles_other(small_model *m) {
    gguf_writer_set_u32(m->w, "hrm_text.hrm.layers_per_stack", 1, NULL);
    gguf_writer_set_u32(m->w, "hrm_text.hrm.h_cycles", 2, NULL);
    gguf_writer_set_u32(m->w, "hrm_text.hrm.l_cycles", 3, NULL); // eight layers, not two
}
static void cycles_one(small_model *m) {
    gguf_writer_set_u32(m->w, "hrm_text.hrm.layers_per_stack", 1, NULL);
    gguf_writer_set_u32(m->w, "hrm_text.hrm.h_cycles", 1, NULL);
    gguf_writer_set_u32(m->w, "hrm_text.hrm.l_cycles", 1, NULL);
}
static void share_odd(small_model *m) { gguf_writer_set_u32(m->w, "grovemoe.experts_per_group", 3, NULL); }
static void share_two(small_model *m) { gguf_writer_set_u32(m->w, "grovemoe.experts_per_group", 2, NULL); }
static void limit_negative(small_model *m) { gguf_writer_set_f32(m->w, "maple.swiglu_clamp_exp", -1, NULL); }
static void limits_few(small_model *m) {
    static const float one[1] = {7};
    gguf_items items = {GGUF_F32, 1, one};
    gguf_writer_set(m->w, "maple.swiglu_clamp_exp", GGUF_ARRAY, &items, NULL);
}

static void groups_odd(small_model *m) {
    gguf_writer_set_u32(m->w, "llama.expert_group_count", 3, NULL);
    gguf_writer_set_u32(m->w, "llama.expert_group_used_count", 1, NULL);
}
static void groups_llama4(small_model *m) {
    gguf_writer_set_u32(m->w, "llama4.expert_group_count", 2, NULL);
    gguf_writer_set_u32(m->w, "llama4.expert_group_used_count", 1, NULL);
}
// Each part costs more than the file holds of it, whether one tensor has them or several.
static void parts(small_model *m, int n, uint64_t each) {
    for (int i = 0; i < n; i++) {
        char name[40];
        snprintf(name, sizeof name, "blk.%d.attn_k_b.weight", i);
        small_values(m, name, 1, 1, each, mem_calloc(each, 4));
    }
}
static void parts_of_one(small_model *m) { parts(m, 1, (1u << 17) + 2); }
static void parts_of_all(small_model *m) { parts(m, 40, 4096); }
static void parts_fewer(small_model *m) { parts(m, 32, 4096); } // then the name is what is wrong

static void test_parts(void **state) {
    (void)state;
    refused(&LLAMA, parts_of_one, E_INVALID, "bound in parts");
    refused(&LLAMA, parts_of_all, E_INVALID, "bound in parts");
    refused(&LLAMA, parts_fewer, E_UNSUPPORTED, "blk.0.attn_k_b.weight");
}

static void window_none(small_model *m) { gguf_writer_set_u32(m->w, "llama4.attention.sliding_window", 0, NULL); }
static void groups_grovemoe(small_model *m) {
    share_two(m);
    gguf_writer_set_u32(m->w, "grovemoe.expert_group_count", 2, NULL);
    gguf_writer_set_u32(m->w, "grovemoe.expert_group_used_count", 1, NULL);
}

static void swin(small_model *m) { gguf_writer_set_bool(m->w, "chameleon.swin_norm", true, NULL); }

static void test_rows(void **state) {
    (void)state;
    small_spec s = LLAMA;
    s.arch = "hrm_text";
    refused(&s, NULL, E_INVALID, "hrm_text.hrm.layers_per_stack");
    refused(&s, cycles_other, E_INVALID, "hrm_text.block_count");
    refused(&s, cycles_one, E_INVALID, "hrm.z_l_init");
    s.arch = "talkie";
    refused(&s, NULL, E_INVALID, "attn_q_norm.weight");
    s.arch = "minimax-m3";
    refused(&s, NULL, E_INVALID, "minimax-m3.attention.indexer.top_k");
    s.arch = "chameleon";
    refused(&s, NULL, E_INVALID, "a vocabulary of 20 tokens");
    s.leave_out = "blk.1.ffn_norm.weight"; // before or after the feed-forward
    refused(&s, NULL, E_INVALID, s.leave_out);
    refused(&s, swin, E_INVALID, s.leave_out);
    s.leave_out = NULL;
    s.experts = 4;
    s.used = 2;
    s.arch = "grovemoe";
    refused(&s, NULL, E_INVALID, "grovemoe.experts_per_group");
    refused(&s, share_odd, E_INVALID, "grovemoe.experts_per_group");
    refused(&s, share_two, E_INVALID, "ffn_gate_chexps");
    refused(&s, groups_grovemoe, E_UNSUPPORTED, "grovemoe.expert_group_count");
    s.arch = "llama4";
    refused(&s, window_none, E_UNSUPPORTED, "llama4.attention.sliding_window");
    refused(&s, groups_llama4, E_UNSUPPORTED, "llama4.expert_group_count");
    s.arch = "llama";
    refused(&s, groups_odd, E_INVALID, "llama.expert_group_count");
    s.arch = "maple";
    refused(&s, limit_negative, E_INVALID, "maple.swiglu_clamp_exp");
    refused(&s, limits_few, E_INVALID, "maple.swiglu_clamp_exp");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing), cmocka_unit_test(test_shapes), cmocka_unit_test(test_numbers), cmocka_unit_test(test_unknown_tensors), cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_progress_and_cancel), cmocka_unit_test(test_rows), cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
