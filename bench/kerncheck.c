// bench/kerncheck: every tier that this machine can run, against the reference in C and against itself, and how fast its products are.
//   kerncheck [--threads N] [--seconds S] [--emulated] [TIER...]
// A line a tier and type: the worst NMSE of a row to the reference, on random rows and on zeros, denormals, large and uneven ones; whether a row has the same
// bits alone, in pairs and among 64; then GB/s of weights with 1, 2 and 8 rows, and 10^12 operations a second with 512, packing of activations included.
// Where the tier decodes tiles, 1 and 2 rows of 16 bits are different kernels (amx_gemm.h): the faster should serve both.
// --emulated also checks the tile tier over instructions in C; its speeds say nothing and are not printed. Exit status 1: something is out of bound.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/cpu.h"
#include "quant/quant.h"

static const int types[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q4_0, QUANT_Q4_1, QUANT_Q5_0, QUANT_Q5_1, QUANT_Q4_K,
    QUANT_Q5_K, QUANT_Q6_K, QUANT_IQ4_NL, QUANT_IQ4_XS, QUANT_MXFP4, QUANT_NVFP4, QUANT_Q2_K, QUANT_Q3_K, QUANT_IQ3_S, QUANT_IQ3_XXS,
    QUANT_IQ2_S, QUANT_IQ2_XS, QUANT_IQ2_XXS, QUANT_IQ1_S, QUANT_IQ1_M, QUANT_TQ1_0, QUANT_TQ2_0, QUANT_Q2_0, QUANT_Q1_0};
enum { TYPES = sizeof types / sizeof *types, K = 2048, SOME = 64, CHECK_N = 100, MOST_ROWS = 512 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t seed = 1;
static float noise(void) {
    float s = 0;
    for (int i = 0; i < 6; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        s += (float)(seed >> 40) / 16777216.0f - 0.5f;
    }
    return s * 1.414f;
}

static void die(const error *e) {
    fprintf(stderr, "kerncheck: %s\n", e->text);
    exit(1);
}

// SOME encoded rows, repeated for as long as a matrix is.
typedef struct rows { uint8_t *at; size_t bytes; } rows;

static status read_rows(void *ctx, uint64_t offset, size_t bytes, void *dst, error *err) {
    (void)err;
    const rows *r = ctx;
    for (size_t i = 0; i < bytes;) {
        size_t from = (size_t)((offset + i) % r->bytes), n = r->bytes - from < bytes - i ? r->bytes - from : bytes - i;
        memcpy((uint8_t *)dst + i, r->at + from, n);
        i += n;
    }
    return OK;
}

typedef struct product { device *dev; dev_plan *plan; dev_tensor *weight, *table; int32_t *pos; int64_t n; } product;

static product open_product(const char *tier, int threads, int type, int64_t n, rows *r) {
    error e = {0};
    product p = {.n = n, .pos = calloc(MOST_ROWS, sizeof(int32_t))};
    float *zeros = calloc(K, sizeof *zeros);
    rows z = {(uint8_t *)zeros, K * sizeof *zeros};
    if (cpu_device_create(&(cpu_options){.threads = threads, .isa = tier, .deterministic = n == CHECK_N}, &p.dev, &e)
        || dev_import_weight(p.dev, &(dev_weight){"w", (uint32_t)type, K, n, 1, DEV_USE_MATRIX}, &(dev_source){read_rows, r}, &p.weight, &e)
        || dev_import_weight(p.dev, &(dev_weight){"x", QUANT_F32, K, 1, 1, DEV_USE_ROWS}, &(dev_source){read_rows, &z}, &p.table, &e)
        || dev_plan_create(p.dev, &p.plan, &e))
        die(&e);
    dev_reg in = dev_reg_all(p.plan, K), out = dev_reg_all(p.plan, (int32_t)n);
    dev_op_embed(p.plan, (dev_embed){in, p.table, 1, false});
    dev_linear1(p.plan, out, in, p.weight, NULL);
    dev_op_hidden(p.plan, out);
    if (dev_plan_prepare(p.plan, n > 8192 ? 8 : MOST_ROWS, 0, &e)) die(&e);
    free(zeros);
    return p;
}

static void run(product *p, const float *x, int32_t n) {
    error e = {0};
    dev_ticket t;
    dev_seq seq = {.n_rows = n};
    dev_step s = {.n_rows = n, .embeddings = x, .positions = p->pos, .n_seqs = 1, .seqs = &seq};
    if (dev_submit(p->plan, NULL, &s, &t, &e) || dev_wait(p->plan, t, &e)) die(&e);
}

static void close_product(product *p) {
    dev_plan_destroy(p->plan);
    dev_destroy(p->dev);
    free(p->pos);
}

// The best time of a run, over at least three and for that long.
static double best(product *p, const float *x, int32_t n, double seconds) {
    double top = 1e30, began = now();
    run(p, x, n);
    for (int i = 0; i < 3 || now() - began < seconds; i++) {
        double t = now();
        run(p, x, n);
        t = now() - t;
        top = t < top ? t : top;
    }
    return top;
}

static double nmse(const float *a, const float *b, int64_t n) {
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return s > 1e-60 ? d / s : sqrt(d) > 1e-20;
}

// Rows 0..4 are odd ones: zeros, denormals, large, one large among small, equal sizes.
static void fill(float *x) {
    for (int r = 0; r < MOST_ROWS; r++)
        for (int i = 0; i < K; i++) {
            float v = noise();
            x[r * K + i] = r == 0 ? 0 : r == 1 ? v * 1e-40f : r == 2 ? v * 1e15f : r == 3 ? (i % 37 ? v * 1e-3f : 500) : r == 4 ? (i & 1 ? 127.0f : -127.0f) : v;
        }
}

// Returns whether all is in bound; *worst: the worst NMSE.
static bool check(const char *tier, int threads, int type, rows *r, const float *x, const float *ref, double *worst, bool *same) {
    bool bf16 = !strncmp(tier, "amx", 3), whole = type == QUANT_F32 || (!bf16 && (type == QUANT_F16 || type == QUANT_BF16));
    double bound = whole ? 1e-11 : bf16 ? 3e-5 : 4e-4;
    product p = open_product(tier, threads, type, CHECK_N, r);
    static float y[SOME][CHECK_N];
    run(&p, x, SOME);
    *worst = 0;
    *same = true;
    for (int i = 0; i < SOME; i++) {
        memcpy(y[i], dev_hidden(p.plan, i), sizeof y[i]);
        double e = nmse(y[i], ref + i * CHECK_N, CHECK_N);
        if (i != 1 && i != 3 && !(e <= *worst)) *worst = e; // int8 blocks keep little of those two
        for (int j = 0; j < CHECK_N; j++)
            if (!isfinite(y[i][j])) *worst = NAN;
    }
    for (int i = 0; i < SOME; i += i < 8 ? 1 : 13)
        for (int n = 1; n <= 2 && i + n <= SOME; n++) {
            run(&p, x + i * K, n);
            for (int j = 0; j < n; j++) *same &= !memcmp(dev_hidden(p.plan, j), y[i + j], sizeof y[i]);
        }
    close_product(&p);
    return *worst <= bound && *same;
}

int main(int argc, char **argv) {
    int threads = 0, n_tiers = 0;
    double seconds = 0.15;
    const char *tiers[16];
    bool emulated = false, good = true;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc) seconds = atof(argv[++i]);
        else if (!strcmp(argv[i], "--emulated")) emulated = true;
        else if (n_tiers < 14) tiers[n_tiers++] = argv[i];
    }
    if (!n_tiers)
        for (const char *const *t = cpu_tiers(); *t && n_tiers < 14; t++)
            if (strcmp(*t, "ref") != 0) tiers[n_tiers++] = *t;
    if (emulated) tiers[n_tiers++] = "amx-emulated";
    float *x = malloc((size_t)MOST_ROWS * K * sizeof *x), *ref = malloc((size_t)SOME * CHECK_N * sizeof *ref), one[K];
    fill(x);
    printf("%-12s %-8s %10s %5s %9s %9s %9s %9s\n", "tier", "type", "worst", "same", "1 row", "2 rows", "8 rows", "512 rows");
    for (int t = 0; t < TYPES; t++) {
        const quant_traits *traits = quant_type_traits(types[t]);
        size_t row;
        quant_row_bytes(types[t], K, &row);
        rows r = {malloc(row * SOME), row * SOME};
        for (int i = 0; i < SOME; i++) {
            for (int j = 0; j < K; j++) one[j] = noise() * 0.3f;
            traits->encode(one, r.at + (size_t)i * row, K, NULL);
        }
        product p = open_product("ref", threads, types[t], CHECK_N, &r);
        run(&p, x, SOME);
        for (int i = 0; i < SOME; i++) memcpy(ref + i * CHECK_N, dev_hidden(p.plan, i), CHECK_N * sizeof *ref);
        close_product(&p);
        for (int i = 0; i < n_tiers; i++) {
            double worst;
            bool same, ok = check(tiers[i], threads, types[t], &r, x, ref, &worst, &same);
            good &= ok;
            printf("%-12s %-8s %10.2e %5s", tiers[i], traits->name, worst, same ? "yes" : "NO");
            if (!strcmp(tiers[i], "amx-emulated")) {
                printf("%s\n", ok ? "" : "  OUT OF BOUND");
                continue;
            }
            int64_t n = (int64_t)(192e6 / (double)row) & ~(int64_t)15;
            p = open_product(tiers[i], threads, types[t], n, &r);
            for (int m = 1; m <= 8; m = m == 2 ? 8 : m + 1) printf(" %9.1f", (double)n * (double)row / best(&p, x + 5 * K, m, seconds) / 1e9);
            close_product(&p);
            p = open_product(tiers[i], threads, types[t], 4096, &r);
            printf(" %9.3f%s\n", 2.0 * 4096 * K * MOST_ROWS / best(&p, x, MOST_ROWS, seconds) / 1e12, ok ? "" : "  OUT OF BOUND");
            close_product(&p);
        }
        free(r.at);
        fflush(stdout);
    }
    bool amx = false;
    for (const char *const *t = cpu_tiers(); *t; t++) amx |= !strcmp(*t, "amx");
    if (!amx) printf("This processor (or its system) has no tiles: the amx tier's speed was not measured.\n");
    free(x);
    free(ref);
    return good ? 0 : 1;
}
