// Recurrent ops of the CPU backend against a naive C reference in double precision, and their promise: the same bits in one piece, in chunks, on
// several threads and beside other sequences; a state page that is copied goes on as its original would; a page's old content is never read.
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

enum { VOCAB = 40, TOKENS = 23, SEQS = 3, PAGES = 4 };

static uint64_t seed = 7;
static float noise(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(seed >> 32) / 2147483648.0f;
}

static float *numbers(size_t n, float scale, float shift) {
    float *v = mem_alloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = noise() * scale + shift;
    return v;
}

static status read_floats(void *ctx, uint64_t offset, size_t n, void *dst, error *err) {
    (void)err;
    memcpy(dst, (const char *)ctx + offset, n);
    return OK;
}

static dev_tensor *import(device *d, float *v, int64_t k, int64_t n, unsigned use) {
    dev_weight w = {"w", QUANT_F32, k, n, 1, use};
    dev_source s = {read_floats, v};
    dev_tensor *t = NULL;
    error e = {0};
    if (dev_import_weight(d, &w, &s, &t, &e)) fail_msg("%s", e.text);
    return t;
}

// One op over inputs that each token looks up: columns q, k, v, rate, beta (a convolution: v alone).
typedef struct recipe {
    bool    conv;
    dev_scan_kind kind;
    dev_rate rate_kind;
    bool    rated, biased, tiled, before;
    bool    given; // the rates are logarithms of the decays
    int     skip; // 0 none, 1 a head, 2 a column
    int32_t heads, keys, k, v, taps;
    dev_act act;
    float  *table, *a, *bias, *skips, *weight;
} recipe;

static int32_t rates_of(const recipe *r) { return !r->rated ? 0 : r->rate_kind == DEV_RATE_HEAD ? r->heads : r->rate_kind == DEV_RATE_KEY ? r->heads * r->k : r->heads * r->v; }
static int32_t columns_of(const recipe *r) { return r->heads * r->v; }
static int32_t width_of(const recipe *r) { return r->conv ? columns_of(r) : (r->kind == DEV_SCAN_DPLR ? 4 : 2) * r->keys * r->k + columns_of(r) + rates_of(r) + r->heads; }
static int32_t a_count(const recipe *r) { return r->rate_kind == DEV_RATE_VALUE ? columns_of(r) * r->k : r->heads; }

static int32_t token_of(int seq, int32_t at) { return (at * 7 + seq * 11 + at * at % 5) % VOCAB; }

static void fill(recipe *r) {
    r->table = numbers((size_t)VOCAB * (size_t)width_of(r), 1, 0);
    if (r->given || r->kind == DEV_SCAN_DPLR) // states that stay bounded: decays below 1, small updates
        for (int32_t t = 0; t < VOCAB; t++)
            for (int32_t i = 0, at = 2 * r->keys * r->k + columns_of(r); i + at < width_of(r); i++) {
                float *x = &r->table[t * width_of(r) + at + i];
                *x = i < rates_of(r) && r->given ? -fabsf(*x) : *x * 0.3f;
            }
    r->a = numbers((size_t)a_count(r), 0.4f, -0.5f);
    r->bias = numbers((size_t)(r->conv ? columns_of(r) : rates_of(r)) + 1, 0.5f, 0.2f);
    r->skips = numbers((size_t)columns_of(r), 1, 0);
    r->weight = numbers((size_t)columns_of(r) * (size_t)(r->taps + 1), 1, 0);
}

static void empty(recipe *r) {
    mem_free(r->table);
    mem_free(r->a);
    mem_free(r->bias);
    mem_free(r->skips);
    mem_free(r->weight);
}

static double act_of(dev_act act, double x) { return act == DEV_ACT_SILU ? x / (1 + exp(-x)) : x; }

static void naive_conv(const recipe *r, int seq, double *out) {
    int32_t n = columns_of(r);
    for (int32_t t = 0; t < TOKENS; t++)
        for (int32_t c = 0; c < n; c++) {
            double sum = r->biased ? (double)r->bias[c] : 0;
            for (int32_t j = 0; j < r->taps; j++) {
                int32_t from = t - r->taps + 1 + j;
                if (from >= 0) sum += (double)r->weight[c * r->taps + j] * (double)r->table[token_of(seq, from) * n + c];
            }
            out[t * n + c] = act_of(r->act, sum);
        }
}

static void naive_scan(const recipe *r, int seq, double *out) {
    int32_t K = r->k, V = r->v, n = columns_of(r);
    double *state = mem_calloc((size_t)n * (size_t)K, sizeof *state);
    for (int32_t t = 0; t < TOKENS; t++) {
        const float *q = r->table + token_of(seq, t) * width_of(r), *k = q + r->keys * K, *v = k + r->keys * K;
        const float *rate = v + n, *beta = rate + rates_of(r), *z = beta + r->heads, *b = z + r->keys * K;
        for (int32_t h = 0; h < r->heads; h++) {
            int32_t key = r->tiled ? h % r->keys : h / (r->heads / r->keys);
            for (int32_t c = 0; c < V; c++) {
                double *s = state + ((size_t)h * (size_t)V + (size_t)c) * (size_t)K, kept = 0, gone = 0, y = 0, step = 1, in = (double)v[h * V + c];
                for (int32_t i = 0; i < K && r->kind == DEV_SCAN_DPLR; i++) gone += s[i] * (double)z[key * K + i]; // before the decay
                for (int32_t i = 0; i < K && r->before; i++) y += s[i] * (double)q[key * K + i];
                for (int32_t i = 0; i < K; i++) {
                    int32_t at = r->rate_kind == DEV_RATE_HEAD ? h : r->rate_kind == DEV_RATE_KEY ? h * K + i : h * V + c;
                    if (r->given) {
                        s[i] *= exp((double)rate[at]);
                        continue;
                    }
                    if (r->rated) step = log1p(exp((double)rate[at] + (r->biased ? (double)r->bias[at] : 0)));
                    s[i] *= exp(step * 0.75 * (double)(r->rate_kind == DEV_RATE_VALUE ? r->a[(h * V + c) * K + i] : r->a[h]));
                    kept += s[i] * (double)k[key * K + i];
                }
                double add = r->kind == DEV_SCAN_DELTA ? (in - kept) * (double)beta[h] : r->kind == DEV_SCAN_DPLR ? in : in * step;
                for (int32_t i = 0; i < K; i++) {
                    s[i] += (double)k[key * K + i] * add + (r->kind == DEV_SCAN_DPLR ? (double)b[key * K + i] * gone : 0);
                    if (!r->before) y += s[i] * (double)q[key * K + i];
                }
                out[t * n + h * V + c] = y * 0.5 + (r->skip ? (double)r->skips[r->skip == 1 ? h : h * V + c] * in : 0);
            }
        }
    }
    mem_free(state);
}

// Two layers are counted and the second is used, behind a gap in its state, so that offsets are seen.
static dev_plan *plan_of(device *d, const recipe *r, int32_t rows) {
    error e = {0};
    dev_plan *p;
    int32_t n = columns_of(r), keys = r->keys * r->k, width = width_of(r), rates = rates_of(r), gap = 5;
    assert_int_equal(dev_plan_create(d, &p, &e), OK);
    dev_reg x = dev_reg_all(p, width), y = dev_reg_all(p, n);
    dev_op_embed(p, (dev_embed){x, import(d, r->table, width, VOCAB, DEV_USE_ROWS), 1, false});
    int32_t group = dev_plan_group(p, (dev_group){.kind = DEV_GROUP_RECURRENT, .n_layers = 2, .state_width = gap + (r->conv ? n * (r->taps - 1) : n * r->k)});
    if (r->conv)
        dev_op_conv(p, (dev_conv){.dst = y, .src = x, .group = group, .layer = 1, .state_at = gap, .taps = r->taps, .act = r->act,
                                  .weight = import(d, r->weight, r->taps, n, DEV_USE_VECTOR), .bias = r->biased ? import(d, r->bias, n, 1, DEV_USE_VECTOR) : NULL});
    else
        dev_op_scan(p, (dev_scan){.dst = y, .q = dev_reg_view(p, x, 0, keys), .k = dev_reg_view(p, x, keys, keys), .v = dev_reg_view(p, x, 2 * keys, n),
                                  .rate = rates ? dev_reg_view(p, x, 2 * keys + n, rates) : DEV_NONE,
                                  .beta = r->kind == DEV_SCAN_DELTA ? dev_reg_view(p, x, 2 * keys + n + rates, r->heads) : DEV_NONE,
                                  .kind = r->kind, .rate_kind = r->rate_kind, .tiled = r->tiled, .group = group, .layer = 1, .state_at = gap,
                                  .n_head = r->heads, .n_key = r->keys, .head_k = r->k, .head_v = r->v, .scale = 0.5f, .a_scale = 0.75f,
                                  .a = r->given ? NULL : import(d, r->a, a_count(r), 1, DEV_USE_VECTOR), .before = r->before,
                                  .z = r->kind == DEV_SCAN_DPLR ? dev_reg_view(p, x, 2 * keys + n + rates + r->heads, keys) : DEV_NONE,
                                  .b = r->kind == DEV_SCAN_DPLR ? dev_reg_view(p, x, 3 * keys + n + rates + r->heads, keys) : DEV_NONE,
                                  .rate_bias = rates && r->biased ? import(d, r->bias, rates, 1, DEV_USE_VECTOR) : NULL,
                                  .skip = r->skip ? import(d, r->skips, r->skip == 1 ? r->heads : n, 1, DEV_USE_VECTOR) : NULL});
    dev_op_hidden(p, y);
    if (dev_plan_prepare(p, rows, 0, &e)) fail_msg("%s", e.text);
    return p;
}

// All tokens of `seqs` sequences in steps of `chunk` rows each; between two steps a sequence's state moves to another page.
static void run(const recipe *r, const char *isa, int threads, int seqs, int32_t chunk, float *out) {
    error e = {0};
    device *d;
    dev_kv *kv;
    if (cpu_device_create(&(cpu_options){.threads = threads, .isa = isa, .deterministic = true}, &d, &e)) fail_msg("%s", e.text);
    dev_plan *p = plan_of(d, r, chunk * seqs);
    int32_t n_pages[1] = {PAGES}, page[SEQS] = {2, 0, 3}, spare = 1, tokens[TOKENS * SEQS], positions[TOKENS * SEQS];
    size_t n = (size_t)columns_of(r), bytes = dev_kv_page_bytes(d, &p->groups[0], DEV_KV_AUTO);
    if (dev_kv_create(d, p, n_pages, DEV_KV_AUTO, &kv, &e)) fail_msg("%s", e.text);
    void *rubbish = mem_alloc(bytes);
    memset(rubbish, 0xff, bytes); // not numbers
    for (int i = 0; i < PAGES; i++) dev_kv_import_page(d, kv, 0, i, rubbish);
    mem_free(rubbish);
    for (int32_t at = 0; at < TOKENS; at += chunk) {
        int32_t take = TOKENS - at < chunk ? TOKENS - at : chunk, rows = 0;
        dev_seq seq[SEQS];
        for (int s = 0; s < seqs; s++) {
            seq[s] = (dev_seq){.first_row = rows, .n_rows = take, .start = at, .pages = {&page[s]}, .n_pages = {1}};
            for (int32_t i = 0; i < take; i++, rows++) tokens[rows] = token_of(s, at + i), positions[rows] = at + i;
        }
        dev_step step = {.n_rows = rows, .tokens = tokens, .positions = positions, .n_seqs = seqs, .seqs = seq};
        dev_ticket t;
        if (dev_submit(p, kv, &step, &t, &e) || dev_wait(p, t, &e)) fail_msg("%s", e.text);
        for (int s = 0; s < seqs; s++)
            for (int32_t i = 0; i < take; i++) memcpy(out + ((size_t)s * TOKENS + (size_t)(at + i)) * n, dev_hidden(p, seq[s].first_row + i), n * sizeof *out);
        int moved = (int)(at % seqs);
        dev_kv_copy_page(d, kv, 0, page[moved], spare);
        int32_t old = page[moved];
        page[moved] = spare;
        spare = old;
    }
    dev_kv_destroy(d, kv);
    dev_plan_destroy(p);
    dev_destroy(d);
}

static void hold(recipe *r) {
    fill(r);
    size_t n = (size_t)TOKENS * (size_t)columns_of(r);
    double *exact = mem_alloc(SEQS * n * sizeof *exact);
    float *whole = mem_alloc(SEQS * n * sizeof *whole), *parts = mem_alloc(SEQS * n * sizeof *parts);
    for (int s = 0; s < SEQS; s++) {
        if (r->conv) naive_conv(r, s, exact + (size_t)s * n);
        else naive_scan(r, s, exact + (size_t)s * n);
    }
    for (const char *const *t = cpu_tiers(); *t; t++) {
        run(r, *t, 1, SEQS, TOKENS, whole);
        double d = 0, sum = 0;
        for (size_t i = 0; i < SEQS * n; i++) {
            d += ((double)whole[i] - exact[i]) * ((double)whole[i] - exact[i]);
            sum += exact[i] * exact[i];
        }
        if (!(d / sum < 1e-11)) fail_msg("%s: NMSE %g", *t, d / sum);
        static const int32_t chunks[] = {1, 2, 7, TOKENS};
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            run(r, *t, 3, SEQS, chunks[c], parts);
            assert_memory_equal(whole, parts, SEQS * n * sizeof *whole);
        }
        run(r, *t, 1, 1, 3, parts); // alone
        assert_memory_equal(whole, parts, n * sizeof *whole);
    }
    mem_free(exact);
    mem_free(whole);
    mem_free(parts);
    empty(r);
}

static void convolutions(void **state) {
    (void)state;
    for (int32_t taps = 2; taps <= DEV_MAX_TAPS; taps += taps < 5 ? 1 : 11)
        hold(&(recipe){.conv = true, .heads = 1, .v = 64 + 13 * taps, .taps = taps, .biased = taps % 2, .act = taps == 4 ? DEV_ACT_SILU : DEV_ACT_NONE});
}

static void state_spaces(void **state) {
    (void)state;
    hold(&(recipe){.kind = DEV_SCAN_SSM, .rate_kind = DEV_RATE_VALUE, .rated = true, .biased = true, .skip = 2, .heads = 1, .keys = 1, .k = 16, .v = 150});
    hold(&(recipe){.kind = DEV_SCAN_SSM, .rate_kind = DEV_RATE_HEAD, .rated = true, .biased = true, .skip = 1, .heads = 6, .keys = 2, .k = 24, .v = 32});
    hold(&(recipe){.kind = DEV_SCAN_SSM, .rate_kind = DEV_RATE_HEAD, .rated = true, .heads = 4, .keys = 1, .k = 8, .v = 7});
    hold(&(recipe){.kind = DEV_SCAN_SSM, .rate_kind = DEV_RATE_HEAD, .heads = 3, .keys = 3, .k = 32, .v = 32}); // linear attention
}

static void delta_rules(void **state) {
    (void)state;
    hold(&(recipe){.kind = DEV_SCAN_DELTA, .rate_kind = DEV_RATE_HEAD, .rated = true, .biased = true, .heads = 4, .keys = 2, .k = 16, .v = 80});
    hold(&(recipe){.kind = DEV_SCAN_DELTA, .rate_kind = DEV_RATE_HEAD, .rated = true, .biased = true, .tiled = true, .heads = 4, .keys = 2, .k = 12, .v = 20});
    hold(&(recipe){.kind = DEV_SCAN_DELTA, .rate_kind = DEV_RATE_KEY, .rated = true, .biased = true, .heads = 3, .keys = 3, .k = 18, .v = 18});
}

static void rwkv(void **state) {
    (void)state;
    hold(&(recipe){.kind = DEV_SCAN_SSM, .rate_kind = DEV_RATE_KEY, .rated = true, .given = true, .before = true, .heads = 3, .keys = 3, .k = 20, .v = 20});
    hold(&(recipe){.kind = DEV_SCAN_SSM, .rate_kind = DEV_RATE_HEAD, .rated = true, .given = true, .heads = 4, .keys = 2, .k = 8, .v = 70});
    hold(&(recipe){.kind = DEV_SCAN_DPLR, .rate_kind = DEV_RATE_KEY, .rated = true, .given = true, .heads = 4, .keys = 2, .k = 12, .v = 80});
    hold(&(recipe){.kind = DEV_SCAN_DPLR, .rate_kind = DEV_RATE_KEY, .rated = true, .biased = true, .heads = 2, .keys = 2, .k = 5, .v = 9});
}

// What a plan must not take.
static void refusals(void **state) {
    (void)state;
    error e = {0};
    device *d;
    assert_int_equal(cpu_device_create(&(cpu_options){.threads = 1}, &d, &e), OK);
    float *v = numbers(512, 1, 0);
    dev_tensor *eight = import(d, v, 8, 1, DEV_USE_VECTOR), *two = import(d, v, 2, 1, DEV_USE_VECTOR), *taps = import(d, v, 3, 8, DEV_USE_VECTOR);
    for (int i = 0; i < 10; i++) {
        dev_plan *p;
        assert_int_equal(dev_plan_create(d, &p, &e), OK);
        dev_reg x = dev_reg_all(p, 8), w = dev_reg_wanted(p, 8), b = dev_reg_all(p, 2);
        int32_t group = dev_plan_group(p, (dev_group){.kind = i == 0 ? DEV_GROUP_FULL : DEV_GROUP_RECURRENT,
                                                      .n_layers = 1, .n_kv = 1, .head_k = 1, .head_v = 1, .state_width = i == 1 ? 15 : 32});
        dev_conv c = {.dst = x, .src = x, .group = group, .taps = 3, .weight = taps};
        dev_scan s = {.dst = x, .q = x, .k = x, .v = x, .rate = DEV_NONE, .beta = b, .kind = DEV_SCAN_DELTA,
                      .group = group, .n_head = 2, .n_key = 2, .head_k = 4, .head_v = 4, .a = two};
        if (i == 2) c.layer = 1;
        if (i == 3) c.dst = c.src = w;
        if (i == 4) s.beta = DEV_NONE;
        if (i == 5) s.a = eight;
        if (i == 6) s.state_at = 1;
        if (i == 7) s.a = NULL; // and no rate
        if (i == 8) s.before = true;
        if (i == 9) s.kind = DEV_SCAN_DPLR, s.z = x, s.b = b;
        if (i < 4) dev_op_conv(p, c);
        else dev_op_scan(p, s);
        if (dev_plan_prepare(p, 4, 4, &e) == OK) fail_msg("%d was taken", i);
        dev_plan_destroy(p);
    }
    mem_free(v);
    dev_destroy(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(convolutions), cmocka_unit_test(state_spaces),
                                       cmocka_unit_test(delta_rules), cmocka_unit_test(rwkv), cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
