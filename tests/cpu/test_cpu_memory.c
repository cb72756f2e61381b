// Tests of how much memory weights take while they are loaded: at most 1.15 times the file's bytes, pieces on their way included, and that it goes back.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "cpu/cpu.h"
#include "quant/quant.h"
#include "sanitized.h"

static status ones(void *ctx, uint64_t offset, size_t n, void *dst, error *err) {
    (void)ctx;
    (void)offset;
    (void)err;
    memset(dst, 1, n);
    return OK;
}

static double resident(void) { // bytes now; 0 where the system does not say
    long size, pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    int n = fscanf(f, "%ld %ld", &size, &pages);
    fclose(f);
    return n == 2 ? (double)pages * (double)sysconf(_SC_PAGESIZE) : 0;
}

static double peak(void) { // bytes
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss * 1024;
}

// The shapes of a small model, of which every one is a little more than a number of large pages.
static void test_bound(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{1024, 2048}, {1024, 1024}, {1024, 1024}, {2048, 1024}, {1024, 3072}, {1024, 3072}, {3072, 1024}};
    enum { SHAPES = sizeof shapes / sizeof *shapes, LAYERS = 12 };
    if (SANITIZED || resident() == 0) skip();
    for (const char *const *t = cpu_tiers(); *t; t++) {
        error e = {0};
        device *d = NULL;
        dev_tensor *all[LAYERS * SHAPES];
        if (cpu_device_create(&(cpu_options){.threads = 2, .isa = *t}, &d, &e)) fail_msg("%s", e.text);
        double before = resident(), file = 0;
        dev_weight w[LAYERS * SHAPES];
        dev_import imports[LAYERS * SHAPES];
        for (int i = 0; i < LAYERS * SHAPES; i++) {
            const int64_t *s = shapes[i % SHAPES];
            size_t row;
            quant_row_bytes(QUANT_Q8_0, (uint64_t)s[0], &row);
            file += (double)row * (double)s[1];
            w[i] = (dev_weight){"w", QUANT_Q8_0, s[0], s[1], 1, DEV_USE_MATRIX};
            imports[i] = (dev_import){&w[i], {ones, NULL}, NULL};
        }
        if (dev_import_weights(d, imports, LAYERS * SHAPES, NULL, &e)) fail_msg("%s", e.text);
        for (int i = 0; i < LAYERS * SHAPES; i++) all[i] = imports[i].out;
        double most = peak() - before, bound = 1.15 * file + (4 << 20);
        if (most > bound) fail_msg("%s: %.1f MB for %.1f MB of weights", *t, most / 1e6, file / 1e6);
        for (int i = 0; i < LAYERS * SHAPES; i += 2) dev_free_weight(d, all[i]);
        for (int i = 1; i < LAYERS * SHAPES; i += 2) dev_free_weight(d, all[i]);
        if (resident() > before + (8 << 20)) fail_msg("%s: %.1f MB were not given back", *t, (resident() - before) / 1e6);
        dev_destroy(d);
    }
}

// Weights that are freed leave the others as they were, wherever they lay.
static void test_neighbours(void **state) {
    (void)state;
    error e = {0};
    device *d = NULL;
    if (cpu_device_create(&(cpu_options){.threads = 2, .isa = "ref"}, &d, &e)) fail_msg("%s", e.text);
    static const int64_t rows[] = {64, 20000, 16, 40000, 3}; // 40,000 rows of 1 KB are more than a slab
    dev_tensor *t[5];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5; i++)
            if (dev_import_weight(d, &(dev_weight){"w", QUANT_F32, 256, rows[i], 1, DEV_USE_MATRIX}, &(dev_source){ones, NULL}, &t[i], &e)) fail_msg("%s", e.text);
        for (int i = 0; i < 5; i++) dev_free_weight(d, t[(i * 2 + round) % 5]);
    }
    mem_fail_at(4);
    assert_int_equal(dev_import_weight(d, &(dev_weight){"w", QUANT_F32, 256, 64, 1, DEV_USE_MATRIX}, &(dev_source){ones, NULL}, &t[0], &e), E_NOMEM);
    mem_fail_at(0);
    dev_info info;
    dev_get_info(d, &info);
    assert_int_equal(info.weight_bytes, 0);
    dev_destroy(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bound), cmocka_unit_test(test_neighbours)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
