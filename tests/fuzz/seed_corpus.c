// Writes small valid inputs for every fuzz target: seed_corpus DIR makes DIR/TARGET/*. Without them a fuzzer spends its minutes on the first
// four bytes of a container. Tests' own builders make the files, so that seeds follow the formats as they change.
#include <stdlib.h>
#include <sys/stat.h>

#include "kv/kv.h"
#include "model/small_model.h"
#include "tokenizer/tok_fixture.h"

static const char *root;

static void put(const char *target, const char *name, const void *data, size_t bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, target);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/%s", root, target, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, bytes, f) != bytes || fclose(f)) {
        perror(path);
        exit(1);
    }
}

static void models(void) {
    static const small_spec specs[] = {
        {.arch = "llama", .e = 8, .layers = 1, .heads = 2, .kv = 1, .head = 4, .ff = 8, .vocab = 8, .rot = 4},
        {.arch = "qwen3moe", .e = 8, .layers = 1, .heads = 2, .kv = 2, .head = 4, .ff = 8, .vocab = 8, .rot = 4, .experts = 2, .used = 1},
        {.arch = "gemma2", .e = 8, .layers = 2, .heads = 2, .kv = 2, .head = 4, .ff = 8, .vocab = 8, .rot = 4, .post_norms = true, .tied = true},
        {.arch = "falcon", .e = 8, .layers = 1, .heads = 2, .kv = 1, .head = 4, .ff = 8, .vocab = 8, .rot = 4,
         .layer_norm = true, .fused = true, .no_ffn_norm = true, .plain_up = true},
        {.arch = "phi3", .e = 8, .layers = 1, .heads = 2, .kv = 2, .head = 4, .ff = 8, .vocab = 8, .rot = 4, .fused = true},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        small_model m;
        small_begin(&m, &specs[i]);
        small_end(&m);
        put("model", specs[i].arch, m.file, m.bytes);
        put("gguf", specs[i].arch, m.file, m.bytes);
        small_free(&m);
    }
}

// Each version and byte order with every type of value.
static void containers(void) {
    for (uint32_t version = 1; version <= 3; version++)
        for (int big = 0; big <= (version == 3); big++) {
            gguf_writer *w;
            float data[64] = {1, -2, 3};
            uint8_t q8[2 * 34] = {0};
            gguf_str text[2] = {{"a", 1}, {"é", 2}};
            uint8_t flags[3] = {1, 0, 1};
            double d = 0.5;
            int64_t s = -5;
            gguf_items strings = {GGUF_STRING, 2, text}, bools = {GGUF_BOOL, 3, flags}, both[2] = {strings, bools}, nested = {GGUF_ARRAY, 2, both};
            char name[32];
            void *file;
            size_t bytes;
            assert_int_equal(gguf_writer_create(&w, NULL), OK);
            assert_int_equal(gguf_writer_format(w, version, big, NULL), OK);
            assert_int_equal(gguf_writer_set_u32(w, "general.alignment", 64, NULL), OK);
            assert_int_equal(gguf_writer_set_text(w, "general.name", "seed", NULL), OK);
            assert_int_equal(gguf_writer_set_f32(w, "f", 1.5f, NULL), OK);
            assert_int_equal(gguf_writer_set_bool(w, "b", true, NULL), OK);
            assert_int_equal(gguf_writer_set(w, "d", GGUF_F64, &d, NULL), OK);
            assert_int_equal(gguf_writer_set(w, "s", GGUF_I64, &s, NULL), OK);
            assert_int_equal(gguf_writer_set(w, "strings", GGUF_ARRAY, &strings, NULL), OK);
            assert_int_equal(gguf_writer_set(w, "nested", GGUF_ARRAY, &nested, NULL), OK);
            assert_int_equal(gguf_writer_tensor(w, "x", QUANT_F32, 2, (uint64_t[]){8, 8}, data, NULL), OK);
            assert_int_equal(gguf_writer_tensor(w, "y", QUANT_Q8_0, 1, (uint64_t[]){64}, q8, NULL), OK);
            assert_int_equal(gguf_writer_memory(w, &file, &bytes, NULL), OK);
            snprintf(name, sizeof name, "v%u-%s", version, big ? "big" : "little");
            put("gguf", name, file, bytes);
            gguf_writer_free(w);
            mem_free(file);
        }
}

static void vocabularies(void) {
    static const char *const kinds[] = {"gpt2", "llama", "bert", "t5", "rwkv", "gemma4"};
    static fixture f;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t bytes;
        char text[64];
        memset(&f, 0, sizeof f);
        f.model = kinds[i];
        f.pre = i ? "default" : "llama-bpe";
        fix_bytes(&f);
        fix_token(&f, "<unk>", TOK_TYPE_UNKNOWN, 0);
        fix_token(&f, "<s>", TOK_TYPE_CONTROL, 0);
        fix_token(&f, "▁he", TOK_TYPE_NORMAL, -1);
        fix_token(&f, "he", TOK_TYPE_NORMAL, -2);
        fix_merge(&f, "h", "e");
        void *file = fix_file(&f, &bytes);
        put("tokenizer", kinds[i], file, bytes);
        mem_free(file);
        int n = snprintf(text, sizeof text, "%c\x1c" "Hello, hello <|im_end|> 12 \xc3\xa9\xe4\xb8\x96\xff", (int)i);
        char name[32];
        snprintf(name, sizeof name, "text-%s", kinds[i]);
        put("tokenizer", name, text, (size_t)n);
    }
}

static void texts(void) {
    static const char *const templates[] = {
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{% if not loop.last %}\n{% endif %}{% endfor %}",
        "{% macro f(x, y=1) %}{{ x ~ y }}{% endmacro %}{% set ns = namespace(n=0) %}{% for k, v in d.items() %}{% set ns.n = ns.n + v %}{% endfor %}{{ f(ns.n) }}",
        "{{ messages[1:] | map(attribute='role') | list | tojson }}{{ (s | upper).split(',')[-1] }}{{ 'x' if n is defined and n > 2 else 'y' }}",
        "{%- if tools %}{{ tools | selectattr('type', 'equalto', 'function') | list | length }}{%- endif -%}{{ raise_exception('no') }}",
    };
    static const char *const bodies[] = {
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"temperature\":0.5,\"top_p\":0.9,\"stop\":[\"a\"],\"stream\":true,\"n\":2,\"seed\":7}",
        "{\"prompt\":[1,2,3],\"max_tokens\":5,\"logit_bias\":{\"5\":-100},\"logprobs\":2,\"echo\":true}",
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}],\"max_tokens\":9,\"system\":\"s\",\"stop_sequences\":[\"b\"]}",
        "{\"model\":\"m:latest\",\"prompt\":\"p\",\"options\":{\"temperature\":0,\"num_predict\":4,\"top_k\":3}}",
    };
    for (size_t i = 0; i < 4; i++) {
        char name[8];
        snprintf(name, sizeof name, "%zu", i);
        put("jinja", name, templates[i], strlen(templates[i]));
        put("api", name, bodies[i], strlen(bodies[i]));
    }
}

// A page of the cache as its file.
static void pages(void) {
    uint8_t file[KV_FILE_HEADER + 64];
    kv_record r = {.index = 1, .bytes = 64};
    for (size_t i = 0; i < 64; i++) file[KV_FILE_HEADER + i] = (uint8_t)i;
    kv_file_header(&r, file + KV_FILE_HEADER, file);
    put("kv_file", "page", file, sizeof file);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: seed_corpus DIR\n");
        return 2;
    }
    root = argv[1];
    mkdir(root, 0777);
    models();
    containers();
    vocabularies();
    texts();
    pages();
    return 0;
}
