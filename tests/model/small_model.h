// Small models in memory for tests of the room `model`: random weights by name, written with gguf's writer.
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "gguf/gguf.h"
#include "gguf/plain_vocabulary.h"

typedef struct small_spec {
    const char *arch;
    int  e, layers, heads, kv, head, ff, vocab, rot, experts, used;
    bool layer_norm, biases, post_norms, no_ffn_norm, fused, tied, plain_up;
    const char *leave_out, *reshape, *extra; // tensor names: left out, written one value longer, added
} small_spec;

typedef struct small_model {
    gguf_writer *w;
    float      **data;
    size_t       n, cap;
    void        *file;
    size_t       bytes;
    gguf        *g;
} small_model;

static inline float small_random(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*s >> 32) / 2147483648.0f;
}

// A tensor of these values, k x n x x of them; they are the model's from here on.
static inline void small_values(small_model *m, const char *name, uint64_t k, uint64_t n, uint64_t x, float *v) {
    error err;
    uint64_t dims[3] = {k, n, x};
    assert_true(mem_grow((void **)&m->data, &m->cap, m->n + 1, sizeof *m->data));
    m->data[m->n++] = v;
    assert_int_equal(gguf_writer_tensor(m->w, name, QUANT_F32, x > 1 ? 3 : n > 1 ? 2 : 1, dims, v, &err), OK);
}

static inline void small_tensor(small_model *m, const small_spec *s, const char *name, uint64_t k, uint64_t n, uint64_t x) {
    uint64_t seed = 1469598103934665603u;
    if (s->leave_out && !strcmp(name, s->leave_out)) return;
    if (s->reshape && !strcmp(name, s->reshape)) k++;
    for (const char *c = name; *c; c++) seed = (seed ^ (unsigned char)*c) * 1099511628211u;
    float *v = mem_alloc(k * n * x * 4);
    bool norm = strstr(name, "norm.weight") != NULL;
    for (uint64_t i = 0; i < k * n * x; i++) v[i] = norm ? 1 + 0.3f * small_random(&seed) : small_random(&seed) * (n > 1 ? 0.35f : 0.5f);
    small_values(m, name, k, n, x, v);
}

static inline void small_pair(small_model *m, const small_spec *s, const char *name, uint64_t k, uint64_t n, bool bias) {
    char full[128];
    snprintf(full, sizeof full, "%s.weight", name);
    small_tensor(m, s, full, k, n, 1);
    snprintf(full, sizeof full, "%s.bias", name);
    if (bias) small_tensor(m, s, full, n > 1 ? n : k, 1, 1);
}

static inline void small_u32(small_model *m, const small_spec *s, const char *key, uint32_t v) {
    char full[96];
    snprintf(full, sizeof full, "%s.%s", s->arch, key);
    assert_int_equal(gguf_writer_set_u32(m->w, full, v, NULL), OK);
}

static inline void small_f32(small_model *m, const small_spec *s, const char *key, float v) {
    char full[96];
    snprintf(full, sizeof full, "%s.%s", s->arch, key);
    assert_int_equal(gguf_writer_set_f32(m->w, full, v, NULL), OK);
}

// A model without tensors: architecture, layers, width.
static inline void small_open(small_model *m, const small_spec *s) {
    memset(m, 0, sizeof *m);
    assert_int_equal(gguf_writer_create(&m->w, NULL), OK);
    assert_int_equal(gguf_writer_set_text(m->w, "general.architecture", s->arch, NULL), OK);
    small_u32(m, s, "block_count", (uint32_t)s->layers);
    small_u32(m, s, "embedding_length", (uint32_t)s->e);
    small_u32(m, s, "context_length", 128);
}

// Heads of attention; value 0: as wide as the keys.
static inline void small_heads(small_model *m, const small_spec *s, int value) {
    small_u32(m, s, "attention.head_count", (uint32_t)s->heads);
    small_u32(m, s, "attention.head_count_kv", (uint32_t)s->kv);
    small_u32(m, s, "attention.key_length", (uint32_t)s->head);
    small_u32(m, s, "attention.value_length", (uint32_t)(value ? value : s->head));
    if (s->rot) small_u32(m, s, "rope.dimension_count", (uint32_t)s->rot);
}

static inline void small_begin(small_model *m, const small_spec *s) {
    small_open(m, s);
    small_heads(m, s, 0);
    small_f32(m, s, s->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5f);
    if (s->experts) {
        small_u32(m, s, "expert_count", (uint32_t)s->experts);
        small_u32(m, s, "expert_used_count", (uint32_t)s->used);
    }
    small_pair(m, s, "token_embd", (uint64_t)s->e, (uint64_t)s->vocab, false);
    small_pair(m, s, "output_norm", (uint64_t)s->e, 1, s->layer_norm);
    if (!s->tied) small_pair(m, s, "output", (uint64_t)s->e, (uint64_t)s->vocab, false);
    if (s->extra) small_tensor(m, s, s->extra, 4, 1, 1);
    for (int i = 0; i < s->layers; i++) {
        uint64_t e = (uint64_t)s->e, q = (uint64_t)(s->heads * s->head), k = (uint64_t)(s->kv * s->head), ff = (uint64_t)s->ff, x = (uint64_t)s->experts;
        char b[32], name[96];
        snprintf(b, sizeof b, "blk.%d", i);
#define PAIR(n, k_, n_, bias) (snprintf(name, sizeof name, "%s.%s", b, n), small_pair(m, s, name, k_, n_, bias))
        PAIR("attn_norm", e, 1, s->layer_norm);
        if (s->fused) PAIR("attn_qkv", e, q + 2 * k, s->biases);
        else {
            PAIR("attn_q", e, q, s->biases);
            PAIR("attn_k", e, k, s->biases);
            PAIR("attn_v", e, k, s->biases);
        }
        PAIR("attn_output", q, e, s->biases);
        if (!s->no_ffn_norm) PAIR("ffn_norm", e, 1, s->layer_norm);
        if (s->post_norms) {
            PAIR("post_attention_norm", e, 1, false);
            PAIR("post_ffw_norm", e, 1, false);
        }
        if (s->experts) {
            PAIR("ffn_gate_inp", e, x, false);
            snprintf(name, sizeof name, "%s.ffn_gate_exps.weight", b);
            small_tensor(m, s, name, e, ff, x);
            snprintf(name, sizeof name, "%s.ffn_up_exps.weight", b);
            small_tensor(m, s, name, e, ff, x);
            snprintf(name, sizeof name, "%s.ffn_down_exps.weight", b);
            small_tensor(m, s, name, ff, e, x);
        } else {
            if (!s->plain_up) PAIR("ffn_gate", e, ff, s->biases);
            PAIR("ffn_up", e, ff, s->biases);
            PAIR("ffn_down", ff, e, s->biases);
        }
#undef PAIR
    }
}

static inline void small_written(small_model *m) {
    gguf_writer_free(m->w);
    m->w = NULL;
    for (size_t i = 0; i < m->n; i++) mem_free(m->data[i]);
    mem_free(m->data);
}

// To a file at path, with a vocabulary; instead of small_end and small_free.
static inline void small_file(small_model *m, const small_spec *s, const char *path) {
    error err = {0};
    plain_vocabulary(m->w, s->vocab);
    if (gguf_writer_path(m->w, path, &err)) fail_msg("%s", err.text);
    small_written(m);
}

static inline void small_end(small_model *m) {
    error err;
    assert_int_equal(gguf_writer_memory(m->w, &m->file, &m->bytes, &err), OK);
    small_written(m);
    if (gguf_open_memory(m->file, m->bytes, "small", &m->g, &err)) fail_msg("%s", err.text);
}

static inline void small_free(small_model *m) {
    gguf_close(m->g);
    mem_free(m->file);
}
