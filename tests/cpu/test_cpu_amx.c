// Tests of the tile tier, over real tiles where the machine has them and over tile instructions in C where it has not: products of every type against the
// recipe written out here in plain C, to the bit, for one row and many, chunks and threads; attention over bf16 pages against double, and against itself.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "cpu/cpu.h"
#include "quant/quant.h"

static const char *tier; // NULL: this processor cannot run it in any way
static uint64_t seed = 1;
static float noise(void) {
    float s = 0;
    for (int i = 0; i < 6; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        s += (float)(seed >> 40) / 16777216.0f - 0.5f;
    }
    return s * 1.414f;
}

typedef struct bytes { uint8_t *at; size_t n; } bytes;

static status read_bytes(void *ctx, uint64_t offset, size_t n, void *dst, error *err) {
    const bytes *b = ctx;
    if (offset + n > b->n) return error_set(err, E_IO, "read past the end");
    memcpy(dst, b->at + offset, n);
    return OK;
}

static int setup(void **state) {
    (void)state;
    for (const char *const *t = cpu_tiers(); *t; t++)
        if (!strcmp(*t, "amx")) tier = *t;
    device *d = NULL;
    error e = {0};
    if (!tier && cpu_device_create(&(cpu_options){.threads = 1, .isa = "amx-emulated"}, &d, &e) == OK) tier = "amx-emulated";
    dev_destroy(d);
    return 0;
}

static device *open_device(int threads, bool deterministic) {
    device *d = NULL;
    error e = {0};
    if (cpu_device_create(&(cpu_options){.threads = threads, .isa = tier, .deterministic = deterministic}, &d, &e)) fail_msg("%s", e.text);
    return d;
}

static dev_tensor *import(device *d, int type, int64_t k, int64_t n, int64_t experts, unsigned use, bytes *b) {
    dev_tensor *t = NULL;
    error e = {0};
    if (dev_import_weight(d, &(dev_weight){"w", (uint32_t)type, k, n, experts, use}, &(dev_source){read_bytes, b}, &t, &e)) fail_msg("%s", e.text);
    return t;
}

static bytes encoded(int type, int64_t k, int64_t n, float scale) {
    size_t row;
    const quant_traits *t = quant_type_traits(type);
    assert_true(quant_row_bytes(type, (uint64_t)k, &row));
    bytes b = {calloc((size_t)n, row), row * (size_t)n};
    float *x = malloc((size_t)k * sizeof *x), *importance = malloc((size_t)k * sizeof *importance);
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < k; i++) {
            x[i] = noise() * scale;
            importance[i] = 1;
        }
        t->encode(x, b.at + (size_t)r * row, (size_t)k, importance);
    }
    free(x);
    free(importance);
    return b;
}

// Nearest even, denormals zero before and after.
static float to_bf16(float f) {
    if (fabsf(f) < 0x1p-126f) return 0;
    return quant_bf16_to_f32(quant_f32_to_bf16(f));
}
// The upper 16 bits, where bf16 does not hold all of it; 2/3 of 2^-8 makes up for that in the mean.
static float cut(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    bits &= 0xffff0000u;
    memcpy(&f, &bits, 4);
    return fabsf(f) < 0x1p-126f ? 0 : f;
}
static bool is_exact(int type) { return type == QUANT_BF16 || type == QUANT_MXFP4 || type == QUANT_NVFP4; }
static const float makes_up = 1 + 2.0f / 3 / 256;
static float flush(float f) { return fabsf(f) < 0x1p-126f ? 0 : f; }

// What the recipe says that w x is.
static float chain(const float *w, const float *x, int64_t k) {
    float acc = 0;
    for (int64_t b = 0; b < k; b += 32) {
        float even = 0, odd = 0;
        for (int64_t i = b; i < b + 32; i += 2) {
            even = flush(fmaf(i < k ? w[i] : 0, i < k ? x[i] : 0, even));
            odd = flush(fmaf(i + 1 < k ? w[i + 1] : 0, i + 1 < k ? x[i + 1] : 0, odd));
        }
        acc = flush(acc + flush(even + odd));
    }
    return acc;
}

// rows x n results of a linear op, with bias, scale and residual when asked.
static void product(device *d, dev_tensor *t, const float *x, int32_t rows, bool finish, const float *bias, float *y) {
    error e = {0};
    dev_plan *p;
    int32_t k = (int32_t)t->k, n = (int32_t)t->n;
    float *ones = calloc((size_t)k, sizeof *ones);
    bytes table = {(uint8_t *)ones, (size_t)k * sizeof *ones}, bias_bytes = {(uint8_t *)bias, (size_t)n * sizeof *bias};
    assert_int_equal(dev_plan_create(d, &p, &e), OK);
    dev_reg in = dev_reg_all(p, k), out = dev_reg_all(p, n);
    dev_op_embed(p, (dev_embed){in, import(d, QUANT_F32, k, 1, 1, DEV_USE_ROWS, &table), 1, false});
    if (finish) {
        dev_linear1(p, out, in, t, NULL);
        dev_op_linear(p, (dev_linear){.src = in, .n = 1, .epilogue = DEV_EP_RESIDUAL, .residual = out,
            .out = {{out, t, import(d, QUANT_F32, n, 1, 1, DEV_USE_VECTOR, &bias_bytes), 0.75f, 0}}});
    } else dev_linear1(p, out, in, t, NULL);
    dev_op_hidden(p, out);
    if (dev_plan_prepare(p, rows, 0, &e)) fail_msg("%s", e.text);
    int32_t *pos = calloc((size_t)rows, sizeof *pos);
    dev_seq seq = {.first_row = 0, .n_rows = rows};
    dev_step s = {.n_rows = rows, .embeddings = x, .positions = pos, .n_seqs = 1, .seqs = &seq};
    dev_ticket ticket;
    if (dev_submit(p, NULL, &s, &ticket, &e)) fail_msg("%s", e.text);
    for (int32_t r = 0; r < rows; r++) memcpy(y + (size_t)r * (size_t)n, dev_hidden(p, r), (size_t)n * sizeof *y);
    free(pos);
    free(ones);
    dev_plan_destroy(p);
}

static void check_type(int type, int32_t k, int32_t n, int32_t rows) {
    bytes b = encoded(type, k, n, 0.3f);
    size_t total = (size_t)rows * (size_t)n;
    float *w = malloc((size_t)n * (size_t)k * sizeof *w), *x = malloc((size_t)rows * (size_t)k * sizeof *x), *bx = malloc((size_t)rows * (size_t)k * sizeof *bx);
    const float scale = is_exact(type) ? 1 : makes_up;
    float *sums = malloc(total * sizeof *sums), *want = malloc(total * sizeof *want), *y = malloc(total * sizeof *y), *bias = malloc((size_t)n * sizeof *bias);
    quant_type_traits(type)->decode(b.at, w, (size_t)n * (size_t)k);
    for (int64_t i = 0; i < (int64_t)n * k; i++) w[i] = cut(w[i]);
    for (int32_t j = 0; j < n; j++) bias[j] = noise();
    for (int32_t r = 0; r < rows; r++)
        for (int32_t i = 0; i < k; i++) {
            float v = noise();
            if (r == 1) v *= 1e-40f;              // denormal
            if (r == 2) v *= 1e15f;
            if (r == 3) v = i % 37 ? v * 1e-3f : 500;
            if (r == 4) v *= 2e-38f;              // products and sums that vanish
            if (r == 5) v = 0;
            x[(size_t)r * (size_t)k + (size_t)i] = v;
            bx[(size_t)r * (size_t)k + (size_t)i] = to_bf16(v);
        }
    for (int32_t r = 0; r < rows; r++)
        for (int32_t j = 0; j < n; j++) sums[r * n + j] = chain(w + (size_t)j * (size_t)k, bx + (size_t)r * (size_t)k, k), want[r * n + j] = flush(sums[r * n + j] * scale);
    for (int threads = 1; threads <= 3; threads += 2) {
        device *d = open_device(threads, true);
        dev_tensor *t = import(d, type, k, n, 1, DEV_USE_MATRIX, &b);
        static const int32_t some[] = {1, 2, 5, 16, 17, 31, 33, 64, 0};
        for (int c = 0; c < 9; c++) {
            int32_t m = some[c] ? some[c] : rows, first = some[c] ? (c * 3) % (rows - m + 1) : 0;
            if (m > rows || (threads > 1 && m != rows)) continue;
            product(d, t, x + (size_t)first * (size_t)k, m, false, NULL, y);
            for (int32_t i = 0; i < m * n; i++)
                if (y[i] != want[first * n + i])
                    fail_msg("%s %dx%d, %d rows, row %d column %d: %a, not %a", quant_type_name(type), k, n, m, first + i / n, i % n, (double)y[i], (double)want[first * n + i]);
        }
        for (int32_t r = 1; threads == 1 && r < rows && r < 7; r++) { // each alone, denormals too
            product(d, t, x + (size_t)r * (size_t)k, 1, false, NULL, y);
            for (int32_t j = 0; j < n; j++)
                if (y[j] != want[r * n + j]) fail_msg("%s %dx%d, row %d alone, column %d: %a, not %a", quant_type_name(type), k, n, r, j, (double)y[j], (double)want[r * n + j]);
        }
        product(d, t, x, rows, true, bias, y);
        for (int32_t i = 0; i < rows * n; i++) {
            float f = flush(flush(flush(sums[i] * (0.75f * scale)) + bias[i % n]) + want[i]);
            if (y[i] != f) fail_msg("%s %dx%d finished, row %d column %d: %a, not %a", quant_type_name(type), k, n, i / n, i % n, (double)y[i], (double)f);
        }
        dev_destroy(d);
    }
    free(b.at);
    free(w);
    free(x);
    free(bx);
    free(sums);
    free(want);
    free(y);
    free(bias);
}

static void recipe(void **state) {
    (void)state;
    if (!tier) skip();
    for (int type = 0; type < QUANT_TYPES; type++) {
        const quant_traits *t = quant_type_traits(type);
        if (!t || !t->encode || !t->decode || type == QUANT_F32 || type == QUANT_F64 || (t->flags & QUANT_IS_INT)) continue;
        seed = (uint64_t)type + 1;
        check_type(type, t->block_elems == 256 ? 512 : 256, 39, 7);
    }
    check_type(QUANT_Q4_K, 2304, 33, 70); // deeper than what is decoded at once
    check_type(QUANT_Q6_K, 256, 300, 40);
    check_type(QUANT_BF16, 40, 17, 35); // columns that end inside a tile
    check_type(QUANT_F16, 1, 1, 18);
    check_type(QUANT_F16, 8192 + 33, 50, 33);
    check_type(QUANT_TQ2_0, 2560, 50, 37);
}

// ---- a few rows -----------------------------------------------------------------------------------------------------------

// Activations as int8 blocks of 32 hold them, by the formula.
static void in_int8(const float *x, int32_t k, double *out) {
    for (int32_t b = 0; b < k; b += 32) {
        float top = 0;
        for (int32_t i = b; i < b + 32; i++) top = fmaxf(top, fabsf(x[i]));
        float d = top > 1e-30f ? top / 127.0f : 0, f = top > 1e-30f ? 127.0f / top : 0;
        for (int32_t i = b; i < b + 32; i++) out[i] = (double)d * nearbyint((double)(x[i] * f));
    }
}

// Without --deterministic up to eight rows have int8 activations: the product of those with the file's weights, in double; a row alone and among others to the
// bit; nine rows, and a deterministic device, are the tiles'.
static void few_type(int type, int32_t k, int32_t n) {
    enum { MOST = 9 };
    bytes b = encoded(type, k, n, 0.3f);
    float *w = malloc((size_t)n * (size_t)k * sizeof *w), *x = malloc(MOST * (size_t)k * sizeof *x);
    float *y = malloc(MOST * (size_t)n * sizeof *y), *z = malloc(MOST * (size_t)n * sizeof *z);
    double *q = malloc((size_t)k * sizeof *q);
    quant_type_traits(type)->decode(b.at, w, (size_t)n * (size_t)k);
    for (int32_t i = 0; i < MOST * k; i++) x[i] = noise() * (i < k ? 1e15f : 1);
    for (int32_t i = 2 * k; i < 3 * k; i++) x[i] = 0;
    device *d = open_device(2, false), *e = open_device(1, true);
    dev_tensor *t = import(d, type, k, n, 1, DEV_USE_MATRIX, &b), *u = import(e, type, k, n, 1, DEV_USE_MATRIX, &b);
    product(d, t, x, MOST - 1, false, NULL, y);
    for (int r = 0; r < MOST - 1; r++) {
        double err = 0, all = 0;
        in_int8(x + r * k, k, q);
        for (int32_t j = 0; j < n; j++) {
            double want = 0;
            for (int32_t i = 0; i < k; i++) want += (double)w[j * k + i] * q[i];
            err += (want - (double)y[r * n + j]) * (want - (double)y[r * n + j]);
            all += want * want;
        }
        if (!(err <= 1e-10 * all)) fail_msg("%s %dx%d, row %d: NMSE %g", quant_type_name(type), k, n, r, err / all);
        for (int m = 1; m <= 4 && r + m < MOST; m++) {
            product(d, t, x + r * k, m, false, NULL, z);
            assert_memory_equal(z, y + r * n, (size_t)(m * n) * sizeof *z);
        }
    }
    product(d, t, x, MOST, false, NULL, y);
    for (int r = 0; r < MOST; r++) {
        product(e, u, x + r * k, 1, false, NULL, z);
        assert_memory_equal(z, y + r * n, (size_t)n * sizeof *z);
    }
    dev_destroy(d);
    dev_destroy(e);
    free(b.at);
    free(w);
    free(x);
    free(y);
    free(z);
    free(q);
}

static void few_rows(void **state) {
    (void)state;
    if (!tier) skip();
    static const int types[] = {QUANT_Q8_0, QUANT_Q4_0, QUANT_Q4_1, QUANT_Q5_0, QUANT_Q5_1, QUANT_Q4_K, QUANT_Q5_K,
        QUANT_Q6_K, QUANT_IQ4_NL, QUANT_IQ4_XS, QUANT_MXFP4, QUANT_NVFP4, QUANT_Q2_K, QUANT_Q3_K, QUANT_IQ3_S, QUANT_IQ3_XXS,
        QUANT_IQ2_S, QUANT_IQ2_XS, QUANT_IQ2_XXS, QUANT_IQ1_S, QUANT_IQ1_M, QUANT_TQ1_0, QUANT_TQ2_0, QUANT_Q2_0, QUANT_Q1_0};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        seed = i + 1;
        few_type(types[i], 768, 39);
    }
    device *d = open_device(1, false), *e = open_device(1, true);
    dev_info a, b;
    dev_get_info(d, &a);
    dev_get_info(e, &b);
    assert_true(!a.deterministic && b.deterministic);
    dev_destroy(d);
    dev_destroy(e);
}

// ---- a gated product joined with the one after it ---------------------------------------------------------------------------

enum { JOIN_ROWS = 75, JOIN_OUT = 40 };

// down(act(gate x) * (up x)) of `rows` rows; `seen`: the gated values are also asked for, so that nothing is joined.
static void gated(device *d, dev_tensor *const w[3], dev_tensor *const bias[2], dev_act act, const float *x, int32_t rows, bool seen, float *y) {
    error e = {0};
    dev_plan *p;
    int32_t k = (int32_t)w[0]->k, ff = (int32_t)w[0]->n, pos[JOIN_ROWS] = {0};
    float *zeros = calloc((size_t)k, sizeof *zeros);
    bytes table = {(uint8_t *)zeros, (size_t)k * sizeof *zeros};
    assert_int_equal(dev_plan_create(d, &p, &e), OK);
    dev_reg in = dev_reg_all(p, k), mid = dev_reg_all(p, ff), other = dev_reg_all(p, ff), out = dev_reg_all(p, JOIN_OUT);
    dev_op_embed(p, (dev_embed){in, import(d, QUANT_F32, k, 1, 1, DEV_USE_ROWS, &table), 1, false});
    dev_op_linear(p, (dev_linear){.src = in, .n = 2, .epilogue = DEV_EP_GATED, .act = act, .residual = DEV_NONE,
        .out = {{mid, w[0], bias[0], 0.5f, 0}, {mid, w[1], bias[1], 1, 0}}});
    dev_linear1(p, out, mid, w[2], NULL);
    if (seen) dev_op_combine(p, (dev_combine){.dst = other, .a = mid, .b = DEV_NONE, .sa = 1});
    dev_op_hidden(p, out);
    if (dev_plan_prepare(p, rows, 0, &e)) fail_msg("%s", e.text);
    dev_seq seq = {.n_rows = rows};
    dev_step st = {.n_rows = rows, .embeddings = x, .positions = pos, .n_seqs = 1, .seqs = &seq};
    dev_ticket ticket;
    if (dev_submit(p, NULL, &st, &ticket, &e)) fail_msg("%s", e.text);
    for (int32_t i = 0; i < rows; i++) memcpy(y + i * JOIN_OUT, dev_hidden(p, i), JOIN_OUT * sizeof *y);
    free(zeros);
    dev_plan_destroy(p);
}

static void joined(void **state) {
    (void)state;
    if (!tier) skip();
    static const struct { int gate, up, down; int32_t k, ff, threads; dev_act act; bool bias; } cases[] = {
        {QUANT_Q4_K, QUANT_Q4_K, QUANT_Q6_K, 256, 256, 1, DEV_ACT_SILU, false},
        {QUANT_Q8_0, QUANT_BF16, QUANT_Q8_0, 96, 224, 3, DEV_ACT_GELU, true}, // 14 panels
        {QUANT_BF16, QUANT_Q4_0, QUANT_F16, 2112, 32, 3, DEV_ACT_SWIGLU_OAI, true},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int32_t k = cases[c].k, ff = cases[c].ff;
        seed = c + 11;
        bytes b[3] = {encoded(cases[c].gate, k, ff, 0.3f), encoded(cases[c].up, k, ff, 0.3f), encoded(cases[c].down, ff, JOIN_OUT, 0.3f)};
        float *x = malloc((size_t)(JOIN_ROWS * k) * sizeof *x), bias[256], want[JOIN_ROWS * JOIN_OUT], y[JOIN_ROWS * JOIN_OUT];
        for (int32_t i = 0; i < JOIN_ROWS * k; i++) x[i] = noise() * (i / k == 3 ? 1e-36f : i / k == 4 ? 30 : 1);
        for (int i = 0; i < 256; i++) bias[i] = noise();
        bytes bias_bytes = {(uint8_t *)bias, (size_t)ff * sizeof *bias};
        device *d = open_device(cases[c].threads, true);
        dev_tensor *w[3], *none[2] = {NULL, NULL}, *biases[2];
        const int types[3] = {cases[c].gate, cases[c].up, cases[c].down};
        for (int i = 0; i < 3; i++) w[i] = import(d, types[i], i < 2 ? k : ff, i < 2 ? ff : JOIN_OUT, 1, DEV_USE_MATRIX, &b[i]);
        for (int i = 0; i < 2; i++) biases[i] = import(d, QUANT_F32, ff, 1, 1, DEV_USE_VECTOR, &bias_bytes);
        dev_tensor *const *with = cases[c].bias ? biases : none;
        gated(d, w, with, cases[c].act, x, JOIN_ROWS, true, want);
        static const int32_t some[] = {JOIN_ROWS, 64, 33, 17, 16, 1};
        for (int m = 0; m < 6; m++)
            for (int32_t first = 0; first + some[m] <= JOIN_ROWS; first += 29) {
                gated(d, w, with, cases[c].act, x + (size_t)(first * k), some[m], false, y);
                if (memcmp(y, want + first * JOIN_OUT, (size_t)(some[m] * JOIN_OUT) * sizeof *y)) fail_msg("case %zu: %d rows from %d on differ", c, some[m], first);
            }
        for (int i = 0; i < 3; i++) free(b[i].at);
        free(x);
        dev_destroy(d);
    }
}

// ---- attention ------------------------------------------------------------------------------------------------------------

enum { TOKENS = 300, PAGES = 14 };

typedef struct shape { int32_t n_head, n_kv, head_k, head_v, window, chunk; float softcap, alibi; bool sinks, bidirectional; } shape;

// Outputs of TOKENS rows, fed in steps of `step`; pages begin as NaNs, as a stranger might have left them.
static void attention(const shape *h, int32_t step, int threads, const float *x, float *y) {
    error e = {0};
    device *d = open_device(threads, true);
    dev_plan *p;
    int32_t wq = h->n_head * h->head_k, wk = h->n_kv * h->head_k, wv = h->n_kv * h->head_v, out = h->n_head * h->head_v, all = wq + wk + wv;
    assert_int_equal(dev_plan_create(d, &p, &e), OK);
    float *zeros = calloc((size_t)all, sizeof *zeros), sink[64];
    for (int i = 0; i < 64; i++) sink[i] = (float)(i % 5) * 0.5f - 1;
    bytes table = {(uint8_t *)zeros, (size_t)all * sizeof *zeros}, sink_bytes = {(uint8_t *)sink, (size_t)h->n_head * sizeof *sink};
    dev_reg in = dev_reg_all(p, all), o = dev_reg_all(p, out);
    int32_t g = dev_plan_group(p, (dev_group){.kind = h->window ? DEV_GROUP_WINDOW : DEV_GROUP_FULL, .window = h->window,
        .n_layers = 1, .n_kv = h->n_kv, .head_k = h->head_k, .head_v = h->head_v});
    dev_op_embed(p, (dev_embed){in, import(d, QUANT_F32, all, 1, 1, DEV_USE_ROWS, &table), 1, false});
    dev_op_attend(p, (dev_attend){.dst = o, .q = dev_reg_view(p, in, 0, wq), .k = dev_reg_view(p, in, wq, wk), .v = dev_reg_view(p, in, wq + wk, wv), .group = g,
        .n_head = h->n_head, .n_kv = h->n_kv, .head_k = h->head_k, .head_v = h->head_v, .scale = 0.3f, .softcap = h->softcap,
        .window = h->window, .chunk = h->chunk, .bidirectional = h->bidirectional, .alibi_bias = h->alibi,
        .sinks = h->sinks ? import(d, QUANT_F32, h->n_head, 1, 1, DEV_USE_VECTOR, &sink_bytes) : NULL});
    dev_op_hidden(p, o);
    if (dev_plan_prepare(p, step, 0, &e)) fail_msg("%s", e.text);
    dev_kv *kv;
    int32_t n_pages[1] = {PAGES}, pages[10];
    if (dev_kv_create(d, p, n_pages, DEV_KV_AUTO, &kv, &e)) fail_msg("%s", e.text);
    assert_int_equal(dev_kv_resolve(d, DEV_KV_AUTO), DEV_KV_BF16);
    size_t n = dev_kv_page_bytes(d, &p->groups[0], DEV_KV_AUTO);
    uint8_t *poison = malloc(n);
    memset(poison, 0xff, n);
    for (int i = 0; i < PAGES; i++) dev_kv_import_page(d, kv, 0, i, poison);
    for (int i = 0; i < 10; i++) pages[i] = (i * 5 + 3) % PAGES;
    int32_t pos[TOKENS];
    for (int32_t at = 0; at < TOKENS; at += step) {
        int32_t rows = TOKENS - at < step ? TOKENS - at : step;
        for (int32_t i = 0; i < rows; i++) pos[i] = at + i;
        dev_seq seq = {.n_rows = rows, .start = at, .pages = {pages}, .n_pages = {10}};
        dev_step st = {.n_rows = rows, .embeddings = x + (size_t)at * (size_t)all, .positions = pos, .n_seqs = 1, .seqs = &seq};
        dev_ticket ticket;
        if (dev_submit(p, kv, &st, &ticket, &e)) fail_msg("%s", e.text);
        for (int32_t i = 0; i < rows; i++) memcpy(y + (size_t)(at + i) * (size_t)out, dev_hidden(p, i), (size_t)out * sizeof *y);
    }
    free(poison);
    free(zeros);
    dev_kv_destroy(d, kv);
    dev_plan_destroy(p);
    dev_destroy(d);
}

// In double, from the same rounded queries, keys and values; ALiBi's slopes for powers of two.
static double attention_error(const shape *h, const float *x, const float *y) {
    int32_t wq = h->n_head * h->head_k, wk = h->n_kv * h->head_k, all = wq + wk + h->n_kv * h->head_v, out = h->n_head * h->head_v;
    double err = 0, total = 0;
    for (int32_t r = 0; r < TOKENS; r++)
        for (int32_t head = 0; head < h->n_head; head++) {
            int32_t kv = head / (h->n_head / h->n_kv), lo = 0, hi = h->bidirectional ? TOKENS : r + 1;
            if (h->window && r - h->window + 1 > 0) lo = r - h->window + 1;
            if (h->chunk && r / h->chunk * h->chunk > lo) lo = r / h->chunk * h->chunk;
            double s[TOKENS], top = h->sinks ? (double)(head % 5) * 0.5 - 1 : -INFINITY, sum, sink = top, o[256] = {0};
            for (int32_t j = lo; j < hi; j++) {
                s[j] = 0;
                for (int32_t i = 0; i < h->head_k; i++) s[j] += (double)to_bf16(x[r * all + head * h->head_k + i]) * (double)to_bf16(x[j * all + wq + kv * h->head_k + i]);
                s[j] *= (double)0.3f;
                if (h->softcap > 0) s[j] = (double)h->softcap * tanh(s[j] / (double)h->softcap);
                if (h->alibi > 0) s[j] -= pow(2, -(double)h->alibi / h->n_head * (head + 1)) * abs(j - r);
                top = s[j] > top ? s[j] : top;
            }
            sum = h->sinks ? exp(sink - top) : 0;
            for (int32_t j = lo; j < hi; j++) {
                double p = exp(s[j] - top);
                sum += p;
                for (int32_t i = 0; i < h->head_v; i++) o[i] += p * (double)to_bf16(x[j * all + wq + wk + kv * h->head_v + i]);
            }
            for (int32_t i = 0; i < h->head_v; i++) {
                double want = o[i] / sum, diff = want - (double)y[r * out + head * h->head_v + i];
                err += diff * diff;
                total += want * want;
            }
        }
    return err / total;
}

static void attends(void **state) {
    (void)state;
    if (!tier) skip();
    static const shape shapes[] = {
        {4, 2, 64, 64, 0, 0, 0, 0, false, false},
        {6, 2, 40, 24, 0, 0, 30, 0, true, false},   // widths that end inside tiles
        {8, 8, 32, 16, 70, 0, 0, 8, false, false},
        {40, 1, 16, 48, 0, 64, 0, 0, false, false}, // more heads than queries at once
        {2, 1, 96, 33, 0, 0, 0, 0, true, true},
        {4, 4, 32, 32, 0, 0, 0, 8, false, true},    // distances to either side
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *h = &shapes[i];
        size_t all = (size_t)(h->n_head * h->head_k + h->n_kv * (h->head_k + h->head_v)), out = (size_t)(h->n_head * h->head_v);
        float *x = malloc(TOKENS * all * sizeof *x), *y = malloc(TOKENS * out * sizeof *y), *z = malloc(TOKENS * out * sizeof *z);
        seed = i + 7;
        for (size_t j = 0; j < TOKENS * all; j++) x[j] = noise();
        attention(h, TOKENS, 1, x, y);
        double err = attention_error(h, x, y);
        if (!(err < 1e-5)) fail_msg("shape %zu: NMSE %g", i, err);
        if (!h->bidirectional) {
            static const int32_t steps[] = {1, 37, 128};
            for (int c = 0; c < 3; c++) {
                attention(h, steps[c], c == 1 ? 3 : 1, x, z);
                assert_memory_equal(z, y, TOKENS * out * sizeof *z);
            }
        }
        free(x);
        free(y);
        free(z);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(recipe), cmocka_unit_test(few_rows), cmocka_unit_test(joined), cmocka_unit_test(attends)};
    return cmocka_run_group_tests(tests, setup, NULL);
}
