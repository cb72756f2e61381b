// tools/toy/toy_gguf: writes the network and its vocabulary as a GGUF version 3 file, matrices as Q8_0, norms as F32,
// through the project's own writer and encoder.
#include <string.h>

#include "gguf/gguf.h"
#include "quant/quant.h"
#include "toy.h"

static const char chatml[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

enum { NORMAL = 1, CONTROL = 3 }; // tokenizer.ggml.token_type

static void must(status s, const error *err) {
    if (s != OK)
        toy_die("%s", err->text);
}

static void set_u32(gguf_writer *w, const char *key, uint32_t v) {
    error err;
    must(gguf_writer_set_u32(w, key, v, &err), &err);
}

static void set_text(gguf_writer *w, const char *key, const char *v) {
    error err;
    must(gguf_writer_set_text(w, key, v, &err), &err);
}

static void set_array(gguf_writer *w, const char *key, gguf_type type, int n, const void *data) {
    error err;
    gguf_items items = {type, (uint64_t)n, data};
    must(gguf_writer_set(w, key, GGUF_ARRAY, &items, &err), &err);
}

static gguf_str copy_of(const char *s, size_t n) {
    char *p = toy_alloc(n + 1);
    memcpy(p, s, n);
    return (gguf_str){p, n};
}

static void set_vocabulary(gguf_writer *w, const bpe *b) {
    error err;
    char text[2 * TEXT_MAX], right[2 * TEXT_MAX];
    gguf_str *token = toy_alloc((size_t)b->n * sizeof *token), *merge = toy_alloc((size_t)b->n_merges * sizeof *merge);
    int32_t *type = toy_alloc((size_t)b->n * sizeof *type);
    for (int i = 0; i < b->n; i++) {
        token[i] = copy_of(text, bpe_printable(b, i, text));
        type[i] = i < 256 + b->n_merges ? NORMAL : CONTROL;
    }
    for (int i = 0; i < b->n_merges; i++) {
        size_t n = bpe_printable(b, b->merge[i][0], text), k = bpe_printable(b, b->merge[i][1], right);
        text[n++] = ' ';
        memcpy(text + n, right, k);
        merge[i] = copy_of(text, n + k);
    }
    set_text(w, "tokenizer.ggml.model", "gpt2");
    set_text(w, "tokenizer.ggml.pre", "gpt-2");
    set_array(w, "tokenizer.ggml.tokens", GGUF_STRING, b->n, token);
    set_array(w, "tokenizer.ggml.token_type", GGUF_I32, b->n, type);
    set_array(w, "tokenizer.ggml.merges", GGUF_STRING, b->n_merges, merge);
    set_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)b->endoftext);
    set_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)b->im_end);
    set_u32(w, "tokenizer.ggml.padding_token_id", (uint32_t)b->endoftext);
    must(gguf_writer_set_bool(w, "tokenizer.ggml.add_bos_token", false, &err), &err);
    set_text(w, "tokenizer.chat_template", chatml);
}

typedef struct tensor { char name[40]; const float *w; uint64_t out, in; bool vector; } tensor;

static int list_tensors(const net *m, tensor *t) {
    uint64_t D = (uint64_t)m->s.dim, F = (uint64_t)m->s.ffn;
    int n = 0;
    t[n++] = (tensor){"token_embd.weight", m->w + m->emb, (uint64_t)m->s.vocab, D, false};
    for (int l = 0; l < m->s.layers; l++) {
        const layer_at *y = &m->layer[l];
        const struct { const char *name; size_t at; uint64_t out, in; bool vector; } part[] = {
            {"attn_norm", y->norm1, 1, D, true},         {"attn_q", y->qkv, D, D, false},
            {"attn_k", y->qkv + D * D, D, D, false},     {"attn_v", y->qkv + 2 * D * D, D, D, false},
            {"attn_output", y->out, D, D, false},        {"ffn_norm", y->norm2, 1, D, true},
            {"ffn_gate", y->gate_up, F, D, false},       {"ffn_up", y->gate_up + F * D, F, D, false},
            {"ffn_down", y->down, D, F, false}};
        for (int i = 0; i < 9; i++, n++) {
            t[n] = (tensor){"", m->w + part[i].at, part[i].out, part[i].in, part[i].vector};
            snprintf(t[n].name, sizeof t[n].name, "blk.%d.%s.weight", l, part[i].name);
        }
    }
    t[n++] = (tensor){"output_norm.weight", m->w + m->norm, 1, D, true};
    return n;
}

// The tool is short-lived: what the writer borrows is never freed.
static const void *data_of(const tensor *t) {
    if (t->vector)
        return t->w;
    const quant_traits *q = quant_type_traits(QUANT_Q8_0);
    size_t n = (size_t)(t->out * t->in);
    void *data = toy_alloc(n / q->block_elems * q->block_bytes);
    q->encode(t->w, data, n, NULL);
    return data;
}

void gguf_export(const net *m, const bpe *b, const char *path) {
    tensor t[160];
    const shape *s = &m->s;
    error err;
    gguf_writer *w;
    must(gguf_writer_create(&w, &err), &err);
    set_text(w, "general.architecture", "llama");
    set_text(w, "general.name", "toy-1");
    set_text(w, "general.description", "The built-in guide of altiserve");
    set_text(w, "general.license", "mit");
    set_u32(w, "general.file_type", 7); // mostly Q8_0
    set_u32(w, "general.quantization_version", 2);
    set_u32(w, "llama.context_length", (uint32_t)s->context);
    set_u32(w, "llama.embedding_length", (uint32_t)s->dim);
    set_u32(w, "llama.block_count", (uint32_t)s->layers);
    set_u32(w, "llama.feed_forward_length", (uint32_t)s->ffn);
    set_u32(w, "llama.attention.head_count", (uint32_t)s->heads);
    set_u32(w, "llama.attention.head_count_kv", (uint32_t)s->heads);
    set_u32(w, "llama.rope.dimension_count", (uint32_t)(s->dim / s->heads));
    set_u32(w, "llama.vocab_size", (uint32_t)s->vocab);
    must(gguf_writer_set_f32(w, "llama.rope.freq_base", s->rope_base, &err), &err);
    must(gguf_writer_set_f32(w, "llama.attention.layer_norm_rms_epsilon", s->eps, &err), &err);
    set_vocabulary(w, b);
    for (int i = 0, n = list_tensors(m, t); i < n; i++) {
        uint64_t dims[2] = {t[i].in, t[i].out};
        must(gguf_writer_tensor(w, t[i].name, t[i].vector ? QUANT_F32 : QUANT_Q8_0, t[i].vector ? 1 : 2, dims, data_of(&t[i]), &err), &err);
    }
    must(gguf_writer_path(w, path, &err), &err);
    gguf_writer_free(w);
}
