// tools/toy/toy_gguf: writes the network and its vocabulary as a GGUF version 3 file, matrices as Q8_0, norms as F32.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "toy.h"

static const char chatml[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

enum { T_U32 = 4, T_I32 = 5, T_F32 = 6, T_BOOL = 7, T_TEXT = 8, T_ARRAY = 9, ALIGN = 32, TYPE_F32 = 0, TYPE_Q8_0 = 8 };

typedef struct file { FILE *f; const char *path; uint64_t at, keys; } file;

static void put(file *o, const void *p, size_t n)
{
    if (n && fwrite(p, n, 1, o->f) != 1)
        toy_die("%s: cannot be written", o->path);
    o->at += n;
}
static void put32(file *o, uint32_t v) { put(o, &v, 4); }
static void put64(file *o, uint64_t v) { put(o, &v, 8); }
static void put_text(file *o, const char *s, size_t n) { put64(o, n), put(o, s, n); }
static void put_key(file *o, const char *key, uint32_t type) { put_text(o, key, strlen(key)), put32(o, type), o->keys++; }
static void key_u32(file *o, const char *key, uint32_t v) { put_key(o, key, T_U32), put32(o, v); }
static void key_f32(file *o, const char *key, float v) { put_key(o, key, T_F32), put(o, &v, 4); }
static void key_bool(file *o, const char *key, bool v) { put_key(o, key, T_BOOL), put(o, &(uint8_t){v}, 1); }
static void key_text(file *o, const char *key, const char *v) { put_key(o, key, T_TEXT), put_text(o, v, strlen(v)); }
static void key_array(file *o, const char *key, uint32_t type, uint64_t n) { put_key(o, key, T_ARRAY), put32(o, type), put64(o, n); }

static void put_vocabulary(file *o, const bpe *b)
{
    char text[2 * TEXT_MAX], right[2 * TEXT_MAX];
    key_text(o, "tokenizer.ggml.model", "gpt2");
    key_text(o, "tokenizer.ggml.pre", "gpt-2");
    key_array(o, "tokenizer.ggml.tokens", T_TEXT, (uint64_t)b->n);
    for (int i = 0; i < b->n; i++)
        put_text(o, text, bpe_printable(b, i, text));
    key_array(o, "tokenizer.ggml.token_type", T_I32, (uint64_t)b->n);
    for (int i = 0; i < b->n; i++)
        put32(o, i < 256 + b->n_merges ? 1 : 3); // normal, control
    key_array(o, "tokenizer.ggml.merges", T_TEXT, (uint64_t)b->n_merges);
    for (int i = 0; i < b->n_merges; i++) {
        size_t n = bpe_printable(b, b->merge[i][0], text), k = bpe_printable(b, b->merge[i][1], right);
        text[n++] = ' ';
        memcpy(text + n, right, k);
        put_text(o, text, n + k);
    }
    key_u32(o, "tokenizer.ggml.bos_token_id", (uint32_t)b->endoftext);
    key_u32(o, "tokenizer.ggml.eos_token_id", (uint32_t)b->im_end);
    key_u32(o, "tokenizer.ggml.padding_token_id", (uint32_t)b->endoftext);
    key_bool(o, "tokenizer.ggml.add_bos_token", false);
    key_text(o, "tokenizer.chat_template", chatml);
}

typedef struct tensor { char name[40]; const float *w; uint64_t out, in; bool vector; } tensor;

static uint64_t bytes_of(const tensor *t) { return t->vector ? t->in * 4 : t->out * t->in / 32 * 34; }
static uint64_t padded(uint64_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

static int list_tensors(const net *m, tensor *t)
{
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

static void put_q8(file *o, const float *x, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += 32) {
        float top = 0;
        int8_t q[32];
        for (int j = 0; j < 32; j++)
            top = fmaxf(top, fabsf(x[i + (uint64_t)j]));
        float d = top / 127, inverse = d > 0 ? 1 / d : 0;
        _Float16 kept = (_Float16)d;
        for (int j = 0; j < 32; j++)
            q[j] = (int8_t)roundf(x[i + (uint64_t)j] * inverse);
        put(o, &kept, 2);
        put(o, q, 32);
    }
}

void gguf_export(const net *m, const bpe *b, const char *path)
{
    tensor t[160];
    const shape *s = &m->s;
    file o = {fopen(path, "wb"), path, 0, 0};
    static const char zero[ALIGN];
    if (!o.f)
        toy_die("%s: cannot be written", path);
    int n = list_tensors(m, t);
    put(&o, "GGUF", 4), put32(&o, 3), put64(&o, (uint64_t)n), put64(&o, 0); // the count of keys is set at the end
    key_text(&o, "general.architecture", "llama");
    key_text(&o, "general.name", "toy-1");
    key_text(&o, "general.description", "The built-in guide of altiserve");
    key_text(&o, "general.license", "mit");
    key_u32(&o, "general.file_type", 7);
    key_u32(&o, "general.quantization_version", 2);
    key_u32(&o, "llama.context_length", (uint32_t)s->context);
    key_u32(&o, "llama.embedding_length", (uint32_t)s->dim);
    key_u32(&o, "llama.block_count", (uint32_t)s->layers);
    key_u32(&o, "llama.feed_forward_length", (uint32_t)s->ffn);
    key_u32(&o, "llama.attention.head_count", (uint32_t)s->heads);
    key_u32(&o, "llama.attention.head_count_kv", (uint32_t)s->heads);
    key_u32(&o, "llama.rope.dimension_count", (uint32_t)(s->dim / s->heads));
    key_u32(&o, "llama.vocab_size", (uint32_t)s->vocab);
    key_f32(&o, "llama.rope.freq_base", s->rope_base);
    key_f32(&o, "llama.attention.layer_norm_rms_epsilon", s->eps);
    put_vocabulary(&o, b);
    uint64_t offset = 0;
    for (int i = 0; i < n; i++) {
        put_text(&o, t[i].name, strlen(t[i].name));
        put32(&o, t[i].vector ? 1 : 2), put64(&o, t[i].in);
        if (!t[i].vector)
            put64(&o, t[i].out);
        put32(&o, t[i].vector ? TYPE_F32 : TYPE_Q8_0), put64(&o, offset);
        offset += padded(bytes_of(&t[i]));
    }
    put(&o, zero, (size_t)(padded(o.at) - o.at));
    for (int i = 0; i < n; i++) {
        if (t[i].vector)
            put(&o, t[i].w, (size_t)bytes_of(&t[i]));
        else
            put_q8(&o, t[i].w, t[i].out * t[i].in);
        put(&o, zero, (size_t)(padded(o.at) - o.at));
    }
    if (fseek(o.f, 16, SEEK_SET) || fwrite(&o.keys, 8, 1, o.f) != 1 || fclose(o.f))
        toy_die("%s: cannot be written", path);
}
