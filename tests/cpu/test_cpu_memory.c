// Tests of how much memory weights take while they are loaded: at most 1.15 times the file's bytes, pieces on their way included, and that it goes back; and of KV pages
// that are in memory before they are used.
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
#include "base/os.h"
#include "cpu/cpu.h"
#include "cpu/cpu_internal.h"
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

// What a step needs is in memory before it begins, in whole runs and no more, and what pages hold stays.
static void test_reach(void **state) {
    (void)state;
    enum { PAGES = 300, LAYERS = 2, HEADS = 8, DIMS = 256 };
    error e = {0};
    device *d = NULL;
    dev_plan *p = NULL;
    dev_kv *kv = NULL;
    int32_t n = PAGES;
    uint8_t *probe = mem_aligned(4096, 4096);
    if (SANITIZED || resident() == 0 || !os_populate(probe, 4096)) {
        mem_free(probe);
        skip();
    }
    mem_free(probe);
    if (cpu_device_create(&(cpu_options){.threads = 2, .isa = "ref"}, &d, &e) || dev_plan_create(d, &p, &e)) fail_msg("%s", e.text);
    dev_group g = {.kind = DEV_GROUP_FULL, .n_layers = LAYERS, .n_kv = HEADS, .head_k = DIMS, .head_v = DIMS};
    dev_plan_group(p, g);
    const double before = resident(), page = (double)dev_kv_page_bytes(d, &g, DEV_KV_F32), slack = 4 << 20; // a piece, and what threads take
    if (dev_kv_create(d, p, &n, DEV_KV_F32, &kv, &e)) fail_msg("%s", e.text);
    cpu_kv *k = (cpu_kv *)kv;
    static const struct { int32_t upto, pages; } steps[] = {{0, 0}, {1, 16}, {16, 16}, {17, 32}, {200, 208}, {3, 208}, {PAGES, PAGES}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        const int32_t upto[DEV_MAX_GROUPS] = {steps[i].upto};
        cpu_kv_reach((cpu_device *)d, k, upto);
        const double at = resident() - before;
        if (at < steps[i].pages * page - slack || at > steps[i].pages * page + slack)
            fail_msg("%.1f MB are in memory for a step of pages up to %d, not %.1f", at / 1e6, steps[i].upto, steps[i].pages * page / 1e6);
        if (i == 1) memset(k->groups[0].data, 7, 3 * (size_t)page);
    }
    for (size_t i = 0; i < 3 * (size_t)page; i++) assert_int_equal(k->groups[0].data[i], 7);
    dev_kv_destroy(d, kv);
    if (resident() > before + slack) fail_msg("%.1f MB were not given back", (resident() - before) / 1e6);
    dev_plan_destroy(p);
    dev_destroy(d);
}

// Every page of a store holds what was put into it and nothing else, in whole runs and in the shorter last one, and no byte lies outside.
static void test_runs(void **state) {
    (void)state;
    enum { LAYERS = 3, HEADS = 2, DIMS = 24 };
    const int32_t sizes[] = {1, 15, 16, 17, 37, 64};
    error e = {0};
    device *d = NULL;
    if (cpu_device_create(&(cpu_options){.threads = 1}, &d, &e)) fail_msg("%s", e.text);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 2; kind++) {
            dev_plan *p = NULL;
            dev_kv *kv = NULL;
            int32_t n = sizes[i];
            const dev_group g = kind ? (dev_group){.kind = DEV_GROUP_RECURRENT, .n_layers = LAYERS, .state_width = DIMS}
                                     : (dev_group){.kind = DEV_GROUP_FULL, .n_layers = LAYERS, .n_kv = HEADS, .head_k = DIMS, .head_v = DIMS};
            if (dev_plan_create(d, &p, &e)) fail_msg("%s", e.text);
            dev_plan_group(p, g);
            if (dev_kv_create(d, p, &n, DEV_KV_F32, &kv, &e)) fail_msg("%s", e.text);
            const size_t bytes = dev_kv_page_bytes(d, &g, DEV_KV_F32);
            uint16_t *all = malloc((size_t)n * bytes), *got = malloc(bytes);
            for (size_t k = 0; k < (size_t)n * bytes / 2; k++) all[k] = (uint16_t)(k * 40503u >> 3);
            for (int32_t j = n; j-- > 0;) dev_kv_import_page(d, kv, 0, j, all + (size_t)j * bytes / 2);
            for (int32_t j = 0; j < n; j += 5) {
                dev_kv_copy_page(d, kv, 0, j, n - 1 - j);
                memmove(all + (size_t)(n - 1 - j) * bytes / 2, all + (size_t)j * bytes / 2, bytes);
            }
            for (int32_t j = 0; j < n; j++) {
                dev_kv_export_page(d, kv, 0, j, got);
                assert_memory_equal(got, all + (size_t)j * bytes / 2, bytes);
            }
            const cpu_kv_group *k = &((cpu_kv *)kv)->groups[0];
            for (int32_t j = 0; j < n; j++)
                for (int32_t part = 0; part < k->parts; part++) {
                    const uint8_t *at = cpu_kv_part(k, j, part);
                    assert_true(at >= k->data && at + k->part_bytes <= k->data + (size_t)n * bytes);
                    if (!kind && j % 16 > 0) assert_ptr_equal(at, cpu_kv_part(k, j - 1, part) + k->part_bytes);
                }
            free(all);
            free(got);
            dev_kv_destroy(d, kv);
            dev_plan_destroy(p);
        }
    dev_destroy(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bound), cmocka_unit_test(test_neighbours), cmocka_unit_test(test_runs), cmocka_unit_test(test_reach)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
