// Where weights lie when memory has nodes (made-up ones), and that products come out the same bits there. All of test_cpu runs on two nodes as well
// (CMakeLists.txt).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cpu/cpu.h"
#include "cpu/cpu_internal.h"
#include "quant/quant.h"

enum { LARGE = 2 << 20 };

static status numbers(void *ctx, uint64_t offset, size_t n, void *dst, error *err) {
    (void)ctx;
    (void)err;
    for (size_t i = 0; i < n; i++) ((uint8_t *)dst)[i] = (uint8_t)((offset + i) * 2654435761u >> 13 & 0x3f);
    return OK;
}

static const struct shape {
    const char *name;
    uint32_t type;
    int64_t k, n, experts;
    unsigned use;
} shapes[] = {
    {"wide", QUANT_Q8_0, 1024, 8192, 1, DEV_USE_MATRIX},
    {"odd", QUANT_Q4_0, 2080, 5003, 1, DEV_USE_MATRIX},
    {"table", QUANT_F16, 512, 6000, 1, DEV_USE_MATRIX | DEV_USE_ROWS},
    {"rows", QUANT_Q8_0, 512, 9000, 1, DEV_USE_ROWS}, // as in the file
    {"small", QUANT_Q8_0, 256, 256, 1, DEV_USE_MATRIX},
    {"few", QUANT_F32, 512, 16, 1, DEV_USE_MATRIX}, // one panel
    {"experts", QUANT_Q8_0, 512, 512, 96, DEV_USE_MATRIX},  // each less than a large page
    {"large", QUANT_Q8_0, 2048, 4096, 3, DEV_USE_MATRIX}, // each some large pages
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const nodes made[] = {{.n = 1, .processors = {4}}, {.n = 2, .processors = {2, 2}},
    {.n = 2, .processors = {3, 1}}, {.n = 3, .processors = {2, 2, 2}}, {.n = 5, .processors = {1, 1, 1, 1, 1}}};
enum { THREADS = 4 };

static device *open_on(const nodes *ns, const char *isa, dev_tensor **out) {
    device *d;
    error e = {0};
    if (cpu_device_create(&(cpu_options){.threads = THREADS, .isa = isa, .nodes = ns, .deterministic = true}, &d, &e)) fail_msg("%s", e.text);
    dev_weight w[SHAPES];
    dev_import imports[SHAPES];
    for (int i = 0; i < SHAPES; i++) {
        w[i] = (dev_weight){shapes[i].name, shapes[i].type, shapes[i].k, shapes[i].n, shapes[i].experts, shapes[i].use};
        imports[i] = (dev_import){.weight = &w[i], .source = {numbers, NULL}};
    }
    if (dev_import_weights(d, imports, SHAPES, NULL, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < SHAPES; i++) out[i] = imports[i].out;
    return d;
}

// Every panel is one node's, nodes have theirs in order and in proportion to workers, and every chunk is taken from one of them.
static void check_panels(const pool *p, const cpu_tensor *t) {
    int n = pool_nodes(p);
    int64_t all[NODES_MOST] = {0};
    for (int64_t e = 0; e < t->base.experts; e++) {
        assert_int_equal(cpu_node_panel(p, t, e, 0), 0);
        assert_int_equal(cpu_node_panel(p, t, e, n), t->n_panels);
        for (int i = 0; i < n; i++) {
            int64_t panels = cpu_node_panel(p, t, e, i + 1) - cpu_node_panel(p, t, e, i);
            assert_true(panels >= 0);
            all[i] += panels;
        }
        for (int64_t chunk = 1; chunk <= 64; chunk *= 4)
            for (int64_t i = 0, next = 0; i < n; i++) {
                cpu_chunks c = cpu_node_chunks(p, t, e, (int)i, chunk);
                assert_true(c.first == next && c.count >= 0);
                for (int64_t j = c.first; j < c.first + c.count; j++) assert_in_range(j * chunk, cpu_node_panel(p, t, e, (int)i), cpu_node_panel(p, t, e, (int)i + 1) - 1);
                next += c.count;
                if (i == n - 1) assert_int_equal(next, (t->n_panels + chunk - 1) / chunk);
            }
    }
    for (int i = 0; i < n; i++) {
        double share = (double)(pool_part(p, 1000, i + 1) - pool_part(p, 1000, i)) / 1000, is = (double)all[i];
        double panels = share * (double)(t->n_panels * t->base.experts), experts = (double)t->base.experts;
        assert_true(is >= panels - experts && is <= panels + experts);
    }
}

// All but half a page at each border between nodes lies where it is taken first.
static void check_local(const pool *p, const cpu_tensor *t) {
    int n = pool_nodes(p);
    size_t bytes = t->expert_bytes * (size_t)t->base.experts, local = 0, borders = (size_t)n + 1;
    if (t->expert_bytes >= (size_t)n * LARGE) borders *= (size_t)t->base.experts;
    for (cpu_pages r = {0}; cpu_next_pages(p, t, &r);)
        for (int64_t e = 0; e < t->base.experts; e++)
            for (int64_t i = cpu_node_panel(p, t, e, r.node); i < cpu_node_panel(p, t, e, r.node + 1); i++) {
                const uint8_t *middle = t->data + (size_t)e * t->expert_bytes + (size_t)i * t->panel_bytes + t->panel_bytes / 2;
                if (middle >= r.at && middle < r.at + r.bytes) local += t->panel_bytes;
            }
    assert_true(local + borders * (LARGE / 2 + t->panel_bytes) >= bytes);
}

// Every large page whose middle is the matrix's is placed once, where the panel at its middle is taken from.
static void check_pages(const pool *p, const cpu_tensor *t) {
    size_t bytes = t->expert_bytes * (size_t)t->base.experts, pages = 0, want = 0, mine[NODES_MOST] = {0};
    for (uintptr_t at = ((uintptr_t)t->data & ~(uintptr_t)(LARGE - 1)); at < (uintptr_t)t->data + bytes; at += LARGE) {
        uintptr_t middle = at + LARGE / 2;
        want += middle >= (uintptr_t)t->data && middle < (uintptr_t)t->data + bytes;
    }
    const uint8_t *next = NULL;
    int before = -1;
    for (cpu_pages r = {0}; cpu_next_pages(p, t, &r);) {
        assert_true((uintptr_t)r.at % LARGE == 0 && r.bytes % LARGE == 0 && r.bytes && r.node != before);
        if (next) assert_ptr_equal(r.at, next);
        next = r.at + r.bytes;
        before = r.node;
        pages += r.bytes / LARGE;
        mine[r.node] += r.bytes;
        for (const uint8_t *at = r.at; at < next; at += LARGE) {
            size_t middle = (size_t)(at + LARGE / 2 - t->data);
            int64_t e = (int64_t)(middle / t->expert_bytes), panel = (int64_t)(middle % t->expert_bytes / t->panel_bytes);
            assert_in_range(panel, cpu_node_panel(p, t, e, r.node), cpu_node_panel(p, t, e, r.node + 1) - 1);
        }
    }
    assert_int_equal(pages, want);
    for (int i = 0; i < pool_nodes(p); i++) { // within a page at either end, of each expert that is cut
        double share = (double)(pool_part(p, 1000, i + 1) - pool_part(p, 1000, i)) / 1000, off = (double)mine[i] - share * (double)bytes;
        assert_true(off < 2.0 * LARGE * (double)t->base.experts && off > -2.0 * LARGE * (double)t->base.experts);
    }
}

static void every_page_has_a_node(void **state) {
    (void)state;
    dev_fingerprint first[SHAPES];
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        dev_tensor *t[SHAPES];
        device *d = open_on(&made[i], "ref", t);
        dev_info info;
        dev_get_info(d, &info);
        assert_int_equal(info.nodes, made[i].n);
        for (int s = 0; s < SHAPES; s++) {
            check_panels(cpu_dev(d)->pool, cpu_t(t[s]));
            check_pages(cpu_dev(d)->pool, cpu_t(t[s]));
            check_local(cpu_dev(d)->pool, cpu_t(t[s]));
            if (i == 0) first[s] = t[s]->fingerprint;
            else assert_memory_equal(&first[s], &t[s]->fingerprint, sizeof *first);
        }
        dev_destroy(d);
    }
}

// What was packed is the same, whoever packed it.
static void weights_are_the_same(void **state) {
    (void)state;
    for (const char *const *tier = cpu_tiers(); *tier; tier++) {
        dev_tensor *one[SHAPES], *several[SHAPES];
        device *a = open_on(&made[0], *tier, one), *b = open_on(&made[3], *tier, several);
        for (int s = 0; s < SHAPES; s++) assert_memory_equal(cpu_t(one[s])->data, cpu_t(several[s])->data, cpu_t(one[s])->expert_bytes * (size_t)shapes[s].experts);
        dev_destroy(a);
        dev_destroy(b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_page_has_a_node), cmocka_unit_test(weights_are_the_same)};
    return cmocka_run_group_tests_name("cpu on memory nodes", tests, NULL, NULL);
}
