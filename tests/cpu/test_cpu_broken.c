// Numbers that no format holds, and weights of formats that never meet in a real file: what is broken stays where it is, shows as what it is, and
// writes nowhere else. All tiers of the machine.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "quant/quant.h"

typedef struct bytes { const void *at; size_t n; } bytes;

static status read_bytes(void *ctx, uint64_t offset, size_t n, void *dst, error *err) {
    const bytes *b = ctx;
    (void)err;
    assert_true(offset + n <= b->n);
    memcpy(dst, (const char *)b->at + offset, n);
    return OK;
}

static uint64_t seed;
static float noise(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(seed >> 32) / 2147483648.0f;
}

static device *dev;
static dev_plan *plan;

static void begin(const char *isa) {
    error e = {0};
    if (cpu_device_create(&(cpu_options){.threads = 2, .isa = isa, .deterministic = true}, &dev, &e) || dev_plan_create(dev, &plan, &e)) fail_msg("%s", e.text);
}

static void end(void) {
    dev_plan_destroy(plan);
    dev_destroy(dev);
}

// A weight of noise in the given type.
static dev_tensor *weight(quant_type type, int64_t k, int64_t n, int64_t experts, unsigned use) {
    error e = {0};
    size_t values = (size_t)(k * n * experts), size = values * sizeof(float);
    float *x = malloc(size);
    void *packed = malloc(size);
    for (size_t i = 0; i < values; i++) x[i] = noise();
    bytes b = {x, size};
    if (type != QUANT_F32) {
        const quant_traits *t = quant_type_traits((int)type);
        t->encode(x, packed, values, NULL); // rows of whole blocks
        b = (bytes){packed, values / t->block_elems * t->block_bytes};
    }
    dev_weight w = {"w", (uint32_t)type, k, n, experts, use};
    dev_source s = {read_bytes, &b};
    dev_tensor *t;
    if (dev_import_weight(dev, &w, &s, &t, &e)) fail_msg("%s", e.text);
    free(x);
    free(packed);
    return t;
}

// The plan's first op: rows come as embeddings of so many values.
static dev_reg rows_of(int32_t width) {
    dev_reg in = dev_reg_all(plan, width);
    dev_op_embed(plan, (dev_embed){in, weight(QUANT_F32, width, 1, 1, DEV_USE_ROWS), 1, false});
    return in;
}

// Runs the plan over n rows, each at the position of its number; y: `width` values a row.
static void run(dev_kv *kv, int32_t most, const float *x, int32_t n, int32_t width, float *y) {
    error e = {0};
    int32_t pos[] = {0, 1, 2, 3}, page = 0;
    dev_seq seq = {.n_rows = n, .pages = {&page}, .n_pages = {kv ? 1 : 0}};
    dev_step st = {.n_rows = n, .embeddings = x, .positions = pos, .n_seqs = 1, .seqs = &seq};
    dev_ticket ticket;
    assert_true(n <= most && n <= 4);
    if (dev_submit(plan, kv, &st, &ticket, &e) || dev_wait(plan, ticket, &e)) fail_msg("%s", e.text);
    for (int32_t i = 0; i < n; i++) memcpy(y + i * width, dev_hidden(plan, i), (size_t)width * sizeof *y);
}

// A NaN or an infinity among the activations is not finite in what products make of it, and rows beside it do not see it.
static void products(void **state) {
    (void)state;
    enum { K = 96, N = 32, ROWS = 3 };
    for (const char *const *t = cpu_tiers(); *t; t++)
        for (int at = 0; at < K; at += 19)
            for (int bad = 0; bad < 2; bad++) {
                error e = {0};
                float x[ROWS][K], plain[ROWS][N], y[ROWS][N];
                seed = 3;
                begin(*t);
                dev_reg in = rows_of(K), out = dev_reg_all(plan, N);
                dev_linear1(plan, out, in, weight(QUANT_Q8_0, K, N, 1, DEV_USE_MATRIX), NULL);
                dev_op_hidden(plan, out);
                if (dev_plan_prepare(plan, ROWS, 0, &e)) fail_msg("%s", e.text);
                for (int i = 0; i < ROWS * K; i++) x[i / K][i % K] = noise();
                run(NULL, ROWS, x[0], ROWS, N, plain[0]);
                x[1][at] = bad ? INFINITY : NAN;
                run(NULL, ROWS, x[0], ROWS, N, y[0]);
                assert_memory_equal(y[0], plain[0], sizeof y[0]);
                assert_memory_equal(y[2], plain[2], sizeof y[2]);
                for (int j = 0; j < N; j++)
                    if (isfinite(y[1][j])) fail_msg("%s: %s at %d gives %g", *t, bad ? "an infinity" : "NaN", at, (double)y[1][j]);
                end();
            }
}

// A row's attention does not depend on rows that it does not see, whatever their keys and values are.
static void attention(void **state) {
    (void)state;
    enum { HEAD = 32, WIDTH = 3 * HEAD, ROWS = 4 };
    static const dev_kv_type types[] = {DEV_KV_F32, DEV_KV_F16, DEV_KV_BF16, DEV_KV_Q8_0};
    for (const char *const *t = cpu_tiers(); *t; t++)
        for (int type = 0; type < 4; type++)
            for (int part = 1; part < 3; part++) {
                error e = {0};
                float x[ROWS][WIDTH], alone[HEAD], y[ROWS][HEAD];
                int32_t one = 1;
                dev_kv *kv;
                seed = 5;
                begin(*t);
                dev_reg in = rows_of(WIDTH), out = dev_reg_all(plan, HEAD);
                int32_t g = dev_plan_group(plan, (dev_group){.kind = DEV_GROUP_FULL, .n_layers = 1, .n_kv = 1, .head_k = HEAD, .head_v = HEAD});
                dev_op_attend(plan, (dev_attend){.dst = out, .q = dev_reg_view(plan, in, 0, HEAD), .k = dev_reg_view(plan, in, HEAD, HEAD),
                                                 .v = dev_reg_view(plan, in, 2 * HEAD, HEAD), .group = g,
                                                 .n_head = 1, .n_kv = 1, .head_k = HEAD, .head_v = HEAD, .scale = 0.2f});
                dev_op_hidden(plan, out);
                if (dev_plan_prepare(plan, ROWS, 0, &e) || dev_kv_create(dev, plan, &one, types[type], &kv, &e)) fail_msg("%s", e.text);
                for (int i = 0; i < ROWS * WIDTH; i++) x[i / WIDTH][i % WIDTH] = noise();
                run(kv, ROWS, x[0], 1, HEAD, alone);
                for (int r = 1; r < ROWS; r++) x[r][part * HEAD + 7 * r] = r % 2 ? 70000 : -1e30f;
                run(kv, ROWS, x[0], ROWS, HEAD, y[0]);
                if (memcmp(y[0], alone, sizeof alone))
                    fail_msg("%s, KV type %d: row 0 gives %g, and %g beside rows with large %s", *t, (int)types[type],
                             (double)alone[0], (double)y[0][0], part == 1 ? "keys" : "values");
                dev_kv_destroy(dev, kv);
                end();
            }
}

// Experts of which the gate alone is in blocks: as on the plain tier.
static void mixed_experts(void **state) {
    (void)state;
    enum { K = 1024, FF = 64, EXPERTS = 4, ROWS = 3 };
    float x[ROWS * K], want[ROWS * K], y[ROWS * K];
    static const char *const plain[] = {"ref", NULL};
    for (int pass = 0; pass < 2; pass++)
        for (const char *const *t = pass ? cpu_tiers() : plain; *t; t++) {
            error e = {0};
            double err = 0, total = 0;
            seed = 9;
            begin(*t);
            dev_reg in = rows_of(K), out = dev_reg_all(plan, K);
            dev_op_experts(plan, (dev_experts){.dst = out, .src = in, .router_src = DEV_NONE, .residual = DEV_NONE,
                                               .router = weight(QUANT_F32, K, EXPERTS, 1, DEV_USE_MATRIX), .gating = DEV_GATE_SOFTMAX, .n_expert = EXPERTS, .top_k = 2,
                                               .gate = weight(QUANT_Q8_0, K, FF, EXPERTS, DEV_USE_MATRIX), .up = weight(QUANT_F32, K, FF, EXPERTS, DEV_USE_MATRIX),
                                               .down = weight(QUANT_F32, FF, K, EXPERTS, DEV_USE_MATRIX), .act = DEV_ACT_SILU});
            dev_op_hidden(plan, out);
            if (dev_plan_prepare(plan, ROWS, 0, &e)) fail_msg("%s", e.text);
            for (int i = 0; i < ROWS * K; i++) x[i] = i < K ? noise() : x[i - K]; // all rows to the same experts
            run(NULL, ROWS, x, ROWS, K, pass ? y : want);
            for (int i = 0; pass && i < ROWS * K; i++) {
                err += (double)(y[i] - want[i]) * (double)(y[i] - want[i]);
                total += (double)want[i] * (double)want[i];
            }
            if (pass && !(err <= 1e-3 * total)) fail_msg("%s: NMSE %g", *t, err / total);
            end();
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(products), cmocka_unit_test(attention), cmocka_unit_test(mixed_experts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
