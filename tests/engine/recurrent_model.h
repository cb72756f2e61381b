// A small random hybrid (state-space, attention and feed-forward layers) as a file, for the engine's tests.
#pragma once
#include "engine/engine_util.h"
#include "gguf/gguf.h"
#include "gguf/plain_vocabulary.h"

enum { EMBED = 32, VOCAB = 64, INNER = 64, HEADS = 4, GROUPS = 2, STATE = 8, TAPS = 4, WIDE = INNER + 2 * GROUPS * STATE };

static float noise(void) {
    static uint64_t s = 11;
    s = s * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(s >> 32) / 2147483648.0f;
}

static float *values[64];
static size_t n_values;

static void put(gguf_writer *w, const char *name, uint64_t k, uint64_t n, float scale, float shift) {
    uint64_t dims[2] = {k, n};
    float *v = values[n_values++] = mem_alloc(k * n * sizeof *v);
    for (uint64_t i = 0; i < k * n; i++) v[i] = noise() * scale + shift;
    assert_int_equal(gguf_writer_tensor(w, name, 0, n > 1 ? 2 : 1, dims, v, NULL), OK);
}

// A file at path.
static void write_recurrent(const char *path) {
    static const struct { const char *key; uint32_t value; } keys[] = {
        {"block_count", 3}, {"embedding_length", EMBED}, {"context_length", 2048}, {"attention.head_count", 2}, {"attention.head_count_kv", 2},
        {"attention.key_length", 16}, {"attention.value_length", 16}, {"ssm.conv_kernel", TAPS}, {"ssm.inner_size", INNER}, {"ssm.state_size", STATE},
        {"ssm.time_step_rank", HEADS}, {"ssm.group_count", GROUPS}};
    gguf_writer *w;
    error err = {0};
    char name[64];
    assert_int_equal(gguf_writer_create(&w, &err), OK);
    gguf_writer_set_text(w, "general.architecture", "nemotron_h", &err);
    plain_vocabulary(w, VOCAB);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        snprintf(name, sizeof name, "nemotron_h.%s", keys[i].key);
        gguf_writer_set_u32(w, name, keys[i].value, &err);
    }
    gguf_writer_set_f32(w, "nemotron_h.attention.layer_norm_rms_epsilon", 1e-5f, &err);
    put(w, "token_embd.weight", EMBED, VOCAB, 1, 0);
    put(w, "output_norm.weight", EMBED, 1, 0.2f, 1);
    put(w, "output.weight", EMBED, VOCAB, 1, 0);
    put(w, "blk.0.attn_norm.weight", EMBED, 1, 0.2f, 1);
    put(w, "blk.0.ssm_in.weight", EMBED, INNER + WIDE + HEADS, 0.4f, 0);
    put(w, "blk.0.ssm_conv1d.weight", TAPS, WIDE, 0.6f, 0);
    put(w, "blk.0.ssm_conv1d.bias", WIDE, 1, 0.3f, 0);
    put(w, "blk.0.ssm_dt.bias", HEADS, 1, 0.5f, -2);
    put(w, "blk.0.ssm_a", 1, HEADS, 0.01f, -0.02f); // a memory of hundreds of tokens
    put(w, "blk.0.ssm_d", 1, HEADS, 1, 0);
    put(w, "blk.0.ssm_norm.weight", INNER / GROUPS, GROUPS, 0.2f, 1);
    put(w, "blk.0.ssm_out.weight", INNER, EMBED, 0.5f, 0);
    put(w, "blk.1.attn_norm.weight", EMBED, 1, 0.2f, 1);
    put(w, "blk.1.attn_q.weight", EMBED, EMBED, 0.4f, 0);
    put(w, "blk.1.attn_k.weight", EMBED, EMBED, 0.4f, 0);
    put(w, "blk.1.attn_v.weight", EMBED, EMBED, 0.4f, 0);
    put(w, "blk.1.attn_output.weight", EMBED, EMBED, 0.4f, 0);
    put(w, "blk.2.attn_norm.weight", EMBED, 1, 0.2f, 1);
    put(w, "blk.2.ffn_up.weight", EMBED, 64, 0.4f, 0);
    put(w, "blk.2.ffn_down.weight", 64, EMBED, 0.4f, 0);
    if (gguf_writer_path(w, path, &err) != OK) fail_msg("%s", err.text);
    gguf_writer_free(w);
    while (n_values) mem_free(values[--n_values]);
}
