// Tests of packing: every tier's own way against the plain one, bit for bit, over arbitrary bytes in the file's blocks; and of importing many weights at once.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "cpu/cpu_internal.h"

static uint64_t seed = 1;
static uint8_t any_byte(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint8_t)(seed >> 40);
}

// The type of file whose matrices a tier keeps in format f; QUANT_TYPES: none.
static uint32_t type_of(cpu_format f) {
    for (uint32_t t = 0; t < QUANT_TYPES; t++)
        if (quant_type_traits((int)t) && (cpu_format_tile(f) ? cpu_tile_format(t) : cpu_choose_format(t, 256, true)) == f) return t;
    return QUANT_TYPES;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

enum { MOST_K = 2048, MOST_BYTES = MOST_K * 4, PAD = 32 };

// The first byte that nobody may read, after enough for all rows.
static uint8_t *end_of_memory(size_t bytes) {
    static uint8_t *end = NULL;
    if (end) return end;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), all = (bytes + page - 1) / page * page;
    uint8_t *at = mmap(NULL, all + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED && mprotect(at + all, page, PROT_NONE) == 0);
    return end = at + all;
}

// A tier that packs has its own way for each format that it multiplies with. `timed`: says how fast each is.
static void check(const char *tier, cpu_format f, int64_t k, int n, bool timed) {
    cpu_kernels kern;
    error e = {0};
    if (cpu_choose_kernels(tier, &kern, &e)) fail_msg("%s", e.text);
    uint32_t type = type_of(f);
    if (cpu_format_raw(f) || type == QUANT_TYPES) return;
    if (kern.packed && kern.gemm[f] && !kern.pack[f]) fail_msg("%s packs format %d the plain way", tier, (int)f);
    size_t row, bytes = cpu_panel_bytes(f, k);
    assert_true(quant_row_bytes((int)type, (uint64_t)k, &row));
    size_t stride = row + PAD; // rows need not follow one another, and what lies between them is not theirs
    size_t all = (size_t)(n - 1) * stride + row;
    uint8_t *rows = end_of_memory(PANEL * (MOST_BYTES + PAD)) - all;
    for (size_t i = 0; i < all; i++) rows[i] = any_byte();
    const size_t room = (bytes + 127) & ~(size_t)63; // a multiple of the alignment, and bytes behind that nobody may touch
    uint8_t *want = aligned_alloc(64, room), *got = aligned_alloc(64, room);
    memset(want, 0x55, room);
    memset(got, 0x55, room);
    cpu_pack_panel(f, type, k, n, rows, stride, want);
    cpu_pack(&kern, f, type, k, n, rows, stride, got);
    for (size_t i = 0; i < room; i++)
        if (want[i] != got[i]) fail_msg("%s, format %d, %lld columns, %d rows: byte %zu of %zu is %d, not %d", tier, (int)f, (long long)k, n, i, bytes, got[i], want[i]);
    if (timed && kern.pack[f]) {
        enum { ROUNDS = 20 };
        double best[2] = {1e9, 1e9};
        for (int i = 0; i < ROUNDS; i++)
            for (int way = 0; way < 2; way++) {
                double begin = seconds();
                if (way) kern.pack[f](k, rows, stride, got);
                else cpu_pack_panel(f, type, k, n, rows, stride, want);
                double t = seconds() - begin;
                if (t < best[way]) best[way] = t;
            }
        printf("%-12s %-8s %6.2f GB/s, plain %5.2f\n", tier, quant_type_traits((int)type)->name, (double)row * PANEL / best[1] / 1e9, (double)row * PANEL / best[0] / 1e9);
    }
    free(want);
    free(got);
}

static bool timed;

static void test_tiers(void **state) {
    (void)state;
    static const int64_t sizes[] = {256, 512, 768, 2048};
    for (const char *const *t = cpu_tiers(); *t; t++)
        for (cpu_format f = 0; f < CPU_FORMATS; f++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                check(*t, f, sizes[i], PANEL, timed && sizes[i] == 2048);
                check(*t, f, sizes[i], 1, false);
                check(*t, f, sizes[i], 15, false);
            }
}

// Rows that are no multiple of what the fast ways take.
static void test_odd_columns(void **state) {
    (void)state;
    static const int64_t sizes[] = {32, 64, 96, 192, 36, 7};
    for (const char *const *t = cpu_tiers(); *t; t++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (cpu_format f = 0; f < CPU_FORMATS; f++) {
                const quant_traits *q = quant_type_traits((int)type_of(f));
                if (q && sizes[i] % q->block_elems == 0) check(*t, f, sizes[i], PANEL, false);
            }
}

// ---- many weights at once -------------------------------------------------------------------------------------------------

enum { WEIGHTS = 9 };

static uint8_t byte_at(uint64_t i) { return (uint8_t)((i * 0x9e3779b97f4a7c15u) >> 56); }
static status read_some(void *ctx, uint64_t offset, size_t n, void *dst, error *err) {
    uint64_t salt = *(const uint64_t *)ctx;
    if (salt == 99) return error_set(err, E_IO, "the disk is gone");
    for (size_t i = 0; i < n; i++) ((uint8_t *)dst)[i] = byte_at(offset + i + (salt << 40));
    return OK;
}

// Matrices larger than a piece and than a large page, smaller ones, rows, vectors, experts.
static const dev_weight weights[WEIGHTS] = {
    {"norm", QUANT_F32, 1024, 1, 1, DEV_USE_VECTOR}, {"a", QUANT_Q8_0, 1024, 4100, 1, DEV_USE_MATRIX}, {"b", QUANT_Q4_K, 512, 40, 1, DEV_USE_MATRIX},
    {"rows", QUANT_Q6_K, 256, 9000, 1, DEV_USE_ROWS}, {"experts", QUANT_Q4_0, 512, 200, 7, DEV_USE_MATRIX}, {"bias", QUANT_F16, 300, 1, 1, DEV_USE_VECTOR},
    {"router", QUANT_F32, 512, 7, 1, DEV_USE_MATRIX}, {"exact", QUANT_Q8_0, 256, 48, 1, DEV_USE_MATRIX | DEV_USE_EXACT},
    {"tied", QUANT_BF16, 96, 33, 1, DEV_USE_MATRIX | DEV_USE_ROWS}};

static void import_all(device *d, dev_import w[WEIGHTS], uint64_t salts[WEIGHTS]) {
    for (int i = 0; i < WEIGHTS; i++) {
        salts[i] = (uint64_t)i;
        w[i] = (dev_import){&weights[i], {read_some, &salts[i]}, NULL};
    }
    error e = {0};
    if (dev_import_weights(d, w, WEIGHTS, NULL, &e)) fail_msg("%s", e.text);
}

static device *open_device(const char *tier, int threads) {
    error e = {0};
    device *d = NULL;
    if (cpu_device_create(&(cpu_options){.threads = threads, .isa = tier}, &d, &e)) fail_msg("%s", e.text);
    return d;
}

// What lies in memory and the fingerprints are the same whether weights come one by one or together, whatever the number of threads; fingerprints on every tier.
static void test_together(void **state) {
    (void)state;
    dev_fingerprint known[WEIGHTS];
    for (const char *const *t = cpu_tiers(); *t; t++) {
        device *one = open_device(*t, 1);
        dev_import alone[WEIGHTS], w[WEIGHTS];
        uint64_t salts[WEIGHTS];
        for (int i = 0; i < WEIGHTS; i++) {
            uint64_t salt = (uint64_t)i;
            error e = {0};
            if (dev_import_weight(one, &weights[i], &(dev_source){read_some, &salt}, &alone[i].out, &e)) fail_msg("%s", e.text);
            if (t == cpu_tiers()) known[i] = alone[i].out->fingerprint;
            for (int k = 0; k < i; k++) assert_true(alone[k].out->fingerprint.low != alone[i].out->fingerprint.low);
        }
        for (int threads = 1; threads <= 4; threads++) {
            device *d = open_device(*t, threads);
            import_all(d, w, salts);
            for (int i = 0; i < WEIGHTS; i++) {
                const cpu_tensor *a = cpu_t(alone[i].out), *b = cpu_t(w[i].out);
                if (memcmp(&b->base.fingerprint, &a->base.fingerprint, sizeof known[i]) || memcmp(&b->base.fingerprint, &known[i], sizeof known[i]))
                    fail_msg("%s, %d threads: another fingerprint of %s", *t, threads, weights[i].name);
                size_t floats = (size_t)(weights[i].k * weights[i].n) * sizeof(float), bytes = b->base.bytes - (b->vector ? floats : 0);
                if ((b->data && memcmp(a->data, b->data, bytes)) || (b->vector && memcmp(a->vector, b->vector, floats)))
                    fail_msg("%s, %d threads: other bytes of %s", *t, threads, weights[i].name);
            }
            dev_destroy(d);
        }
        dev_destroy(one);
    }
}

static uint64_t told;
static int asked;
static void on_progress(void *ctx, uint64_t bytes) {
    (void)ctx;
    assert_true(bytes >= told);
    told = bytes;
}
static bool at_once(void *ctx) { return ++*(int *)ctx == 1; }

// All weights or none: a source that fails, one that is cancelled, memory that ends.
static void test_all_or_none(void **state) {
    (void)state;
    device *d = open_device(NULL, 1);
    dev_import w[WEIGHTS];
    uint64_t salts[WEIGHTS];
    dev_info info;
    error e = {0};
    import_all(d, w, salts);
    for (int i = 0; i < WEIGHTS; i++) dev_free_weight(d, w[i].out);
    salts[4] = 99;
    assert_int_equal(dev_import_weights(d, w, WEIGHTS, NULL, &e), E_IO);
    assert_string_equal(e.text, "tensor 'experts': the disk is gone");
    salts[4] = 4;
    assert_int_equal(dev_import_weights(d, w, WEIGHTS, &(dev_hooks){.cancelled = at_once, .ctx = &asked}, &e), E_CANCELLED);
    for (long nth = 1;; nth++) {
        mem_fail_at(nth);
        status st = dev_import_weights(d, w, WEIGHTS, NULL, &e);
        mem_fail_at(0);
        if (!st) break;
        assert_int_equal(st, E_NOMEM);
        for (int i = 0; i < WEIGHTS; i++) assert_null(w[i].out);
    }
    for (int i = 0; i < WEIGHTS; i++) dev_free_weight(d, w[i].out);
    assert_int_equal(dev_import_weights(d, w, WEIGHTS, &(dev_hooks){.progress = on_progress}, &e), OK);
    uint64_t bytes = 0;
    for (int i = 0; i < WEIGHTS; i++) {
        size_t row;
        assert_true(quant_row_bytes((int)weights[i].type, (uint64_t)weights[i].k, &row));
        bytes += row * (uint64_t)(weights[i].n * weights[i].experts);
        dev_free_weight(d, w[i].out);
    }
    assert_true(told == bytes);
    dev_get_info(d, &info);
    assert_int_equal(info.weight_bytes, 0);
    dev_destroy(d);
}

int main(int argc, char **argv) {
    timed = argc > 1 && !strcmp(argv[1], "time");
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tiers), cmocka_unit_test(test_odd_columns), cmocka_unit_test(test_together), cmocka_unit_test(test_all_or_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
