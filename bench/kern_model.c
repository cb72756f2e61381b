// bench/kern_model: the CPU backend's speed on the shapes of a llama-like model with made-up weights: no file, tokenizer or engine between.
//   cc -O2 -Isrc bench/kern_model.c build/libcpu.a build/libdevice.a build/libquant.a build/libbase.a -lxxhash -lhwloc -lm -lpthread
//   kern_model q06|l1b Q4_K_M|Q4_0|Q8_0|F16 [isa] [threads] [prompt] [gen] [depth] [reps] [sequences] [kv type] [deterministic]
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/cpu.h"
#include "quant/quant.h"

// Processor time of the whole process: what counts on a machine that others use too (with one thread nobody waits by spinning).
static double used(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Random bytes with every half float that could be a scale kept small.
static status made_up(void *ctx, uint64_t offset, size_t bytes, void *dst, error *err) {
    (void)err;
    int type = *(int *)ctx;
    uint8_t *p = dst;
    uint64_t s = offset * 0x9E3779B97F4A7C15u + 1;
    for (size_t i = 0; i < bytes; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        p[i] = (uint8_t)(s >> 56);
    }
    const quant_traits *t = quant_type_traits(type);
    uint16_t d = quant_f32_to_f16(type == QUANT_Q4_K || type == QUANT_Q6_K ? 1e-5f : type == QUANT_Q8_0 ? 2e-4f : 4e-3f);
    for (size_t i = 0; i + t->block_bytes <= bytes; i += t->block_bytes) {
        if (type == QUANT_F32) { float f = 1; memcpy(p + i, &f, 4); }
        else if (type == QUANT_F16) { uint16_t h = (uint16_t)(quant_f32_to_f16(0.02f) ^ (uint16_t)(p[i] << 15)); memcpy(p + i, &h, 2); }
        else if (type == QUANT_Q6_K) memcpy(p + i + 208, &d, 2);
        else memcpy(p + i, &d, 2);
        if (type == QUANT_Q4_K) memcpy(p + i + 2, &d, 2);
    }
    return OK;
}

static device *dev;
static dev_tensor *weight(int type, int64_t k, int64_t n, unsigned use) {
    dev_tensor *t = NULL;
    error e;
    if (dev_import_weight(dev, &(dev_weight){"w", (uint32_t)type, k, n, 1, use}, &(dev_source){made_up, &type}, &t, &e)) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    return t;
}

int main(int argc, char **argv) {
    const char *shape = argc > 1 ? argv[1] : "q06", *kind = argc > 2 ? argv[2] : "Q4_K_M", *isa = argc > 3 ? argv[3] : "";
    int threads = argc > 4 ? atoi(argv[4]) : 2, prompt = argc > 5 ? atoi(argv[5]) : 512, gen = argc > 6 ? atoi(argv[6]) : 64;
    int depth = argc > 7 ? atoi(argv[7]) : 0, reps = argc > 8 ? atoi(argv[8]) : 3, nseq = argc > 9 ? atoi(argv[9]) : 1;
    dev_kv_type kv_type = argc > 10 && !strcmp(argv[10], "q8_0") ? DEV_KV_Q8_0 : argc > 10 && !strcmp(argv[10], "f16") ? DEV_KV_F16 : DEV_KV_AUTO;
    bool deterministic = argc > 11 && !strcmp(argv[11], "deterministic");
    bool q06 = !strcmp(shape, "q06"), mixed = !strcmp(kind, "Q4_K_M");
    int32_t layers = q06 ? 28 : 16, width = q06 ? 1024 : 2048, heads = q06 ? 16 : 32, kvh = 8, head = q06 ? 128 : 64, ff = q06 ? 3072 : 8192, vocab = q06 ? 151936 : 128256;
    int type = mixed ? QUANT_Q4_K : quant_type_from_name(kind);
    error e = {0};
    if (cpu_device_create(&(cpu_options){.threads = threads, .isa = isa, .deterministic = deterministic}, &dev, &e)) return fprintf(stderr, "%s\n", e.text), 1;
    double t0 = now();
    dev_plan *p;
    dev_plan_create(dev, &p, &e);
    int32_t g = dev_plan_group(p, (dev_group){.kind = DEV_GROUP_FULL, .n_layers = layers, .n_kv = kvh, .head_k = head, .head_v = head});
    dev_tensor *embed = weight(mixed ? QUANT_Q6_K : type, width, vocab, DEV_USE_ROWS | DEV_USE_MATRIX);
    dev_tensor *norm = weight(QUANT_F32, width, 1, DEV_USE_VECTOR), *hnorm = weight(QUANT_F32, head, 1, DEV_USE_VECTOR);
    dev_reg x = dev_reg_all(p, width), h = dev_reg_all(p, width), q = dev_reg_all(p, heads * head);
    dev_reg k = dev_reg_all(p, kvh * head), v = dev_reg_all(p, kvh * head), a = dev_reg_all(p, heads * head);
    dev_reg xw = dev_reg_wanted(p, width), hw = dev_reg_wanted(p, width);
    dev_op_embed(p, (dev_embed){x, embed, 1, false});
    for (int l = 0; l < layers; l++) {
        bool more = mixed && (l < layers / 8 || l >= 7 * layers / 8 || (l - layers / 8) % 3 == 2);
        dev_rms(p, h, x, norm, 1e-5f);
        dev_op_linear(p, (dev_linear){.src = h, .n = 3, .residual = -1,
                                      .out = {{q, weight(type, width, heads * head, 1), NULL, 1, 0}, {k, weight(type, width, kvh * head, 1), NULL, 1, 0},
                                              {v, weight(more ? QUANT_Q6_K : type, width, kvh * head, 1), NULL, 1, 0}}});
        if (q06) {
            dev_op_norm(p, (dev_norm){.dst = q, .src = q, .kind = DEV_NORM_RMS, .group = head, .eps = 1e-5f, .weight = hnorm, .add = -1, .sum = -1});
            dev_op_norm(p, (dev_norm){.dst = k, .src = k, .kind = DEV_NORM_RMS, .group = head, .eps = 1e-5f, .weight = hnorm, .add = -1, .sum = -1});
        }
        dev_rope r = {.reg = q, .kind = q06 ? DEV_ROPE_NEOX : DEV_ROPE_NORM, .n_head = heads, .head_dim = head, .dims = head, .base = 500000};
        dev_op_rope(p, r);
        r.reg = k;
        r.n_head = kvh;
        dev_op_rope(p, r);
        dev_op_attend(p, (dev_attend){.dst = a, .q = q, .k = k, .v = v, .group = g, .layer = l, .n_head = heads, .n_kv = kvh, .head_k = head, .head_v = head, .scale = 0.1f});
        dev_linear_add(p, x, a, weight(type, heads * head, width, 1), NULL, x);
        bool last = l == layers - 1;
        if (last) dev_op_select(p, (dev_select){xw, x});
        dev_reg xs = last ? xw : x, hs = last ? hw : h;
        dev_reg fs = last ? dev_reg_wanted(p, ff) : dev_reg_all(p, ff); // its own, as in the models: what only the next op reads may be joined
        dev_rms(p, hs, xs, norm, 1e-5f);
        dev_op_linear(p, (dev_linear){.src = hs, .n = 2, .epilogue = DEV_EP_GATED, .act = DEV_ACT_SILU, .residual = -1,
                                      .out = {{fs, weight(type, width, ff, 1), NULL, 1, 0}, {fs, weight(type, width, ff, 1), NULL, 1, 0}}});
        dev_linear_add(p, xs, fs, weight(more ? QUANT_Q6_K : type, ff, width, 1), NULL, xs);
    }
    dev_rms(p, hw, xw, norm, 1e-5f);
    dev_op_output(p, (dev_output){.src = hw, .weight = embed});
    if (dev_plan_prepare(p, 512, nseq, &e)) return fprintf(stderr, "%s\n", e.text), 1;
    int32_t total = prompt > depth + gen ? prompt : depth + gen, per = (total + 31) / 32 + 1, n_pages = per * nseq;
    dev_kv *kv;
    if (dev_kv_create(dev, p, &n_pages, kv_type, &kv, &e)) return fprintf(stderr, "%s\n", e.text), 1;
    int32_t *pages = malloc((size_t)n_pages * 4), *tokens = calloc(512, 4), *pos = calloc(512, 4), wanted[512];
    for (int32_t i = 0; i < n_pages; i++) pages[i] = i;
    size_t page_bytes = dev_kv_page_bytes(dev, &p->groups[0], kv_type); // pages that nobody wrote would all be one page of zeros to the system
    void *page = malloc(page_bytes);
    memset(page, 0x1c, page_bytes);
    for (int32_t i = 0; i < n_pages; i++) dev_kv_import_page(dev, kv, 0, i, page);
    free(page);
    dev_info info;
    dev_get_info(dev, &info);
    printf("%s %s %s: %d threads, %.0f MB of weights, import %.1f s, scratch %.1f MB\n", shape, kind,
           info.isa, info.threads, (double)info.weight_bytes / 1e6, now() - t0, (double)dev_plan_scratch(p, 512, nseq) / 1e6);
    for (int rep = 0; rep < reps; rep++) {
        dev_ticket t;
        t0 = now();
        double u0 = used();
        for (int32_t at = 0; at < prompt; at += 512) {
            int32_t n = prompt - at < 512 ? prompt - at : 512;
            for (int32_t i = 0; i < n; i++) {
                tokens[i] = (i * 7919 + at) % vocab;
                pos[i] = at + i;
            }
            wanted[0] = n - 1;
            dev_seq s = {.n_rows = n, .start = at, .pages = {pages}, .n_pages = {per}};
            dev_step st = {.n_rows = n, .tokens = tokens, .positions = pos, .n_seqs = 1, .seqs = &s, .n_wanted = 1, .wanted = wanted};
            if (dev_submit(p, kv, &st, &t, &e)) return fprintf(stderr, "%s\n", e.text), 1;
        }
        double pp = now() - t0, up = used() - u0;
        t0 = now();
        u0 = used();
        dev_seq s[512];
        for (int32_t i = 0; i < gen; i++) {
            for (int32_t j = 0; j < nseq; j++) {
                s[j] = (dev_seq){.first_row = j, .n_rows = 1, .start = depth + i, .pages = {pages + j * per}, .n_pages = {per}};
                tokens[j] = i * 31 + j;
                pos[j] = depth + i;
                wanted[j] = j;
            }
            dev_step st = {.n_rows = nseq, .tokens = tokens, .positions = pos, .n_seqs = nseq, .seqs = s, .n_wanted = nseq, .wanted = wanted};
            if (dev_submit(p, kv, &st, &t, &e)) return fprintf(stderr, "%s\n", e.text), 1;
        }
        double tg = now() - t0, ug = used() - u0;
        printf("prompt %.1f tok/s, gen %.1f tok/s (%.1f GB/s of weights); of processor time: prompt %.1f tok/s, gen %.1f\n",
               prompt / pp, gen * nseq / tg, (double)info.weight_bytes * gen / tg / 1e9, prompt / up, gen * nseq / ug);
    }
    dev_kv_destroy(dev, kv);
    dev_plan_destroy(p);
    dev_destroy(dev);
    free(pages);
    free(tokens);
    free(pos);
    return 0;
}
