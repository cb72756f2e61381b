// Tests of the limit: what a plan's step must do, counted by hand, and that every tier can measure what this machine does at most.
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

static status zeros(void *ctx, uint64_t offset, size_t n, void *dst, error *err) {
    (void)ctx;
    (void)offset;
    (void)err;
    memset(dst, 0, n);
    return OK;
}

static dev_tensor *import(device *d, int type, int64_t k, int64_t n, int64_t experts, unsigned use) {
    dev_tensor *t = NULL;
    error e = {0};
    if (dev_import_weight(d, &(dev_weight){"w", (uint32_t)type, k, n, experts, use}, &(dev_source){zeros, NULL}, &t, &e)) fail_msg("%s", e.text);
    return t;
}

static device *open_device(const char *isa) {
    device *d = NULL;
    error e = {0};
    if (cpu_device_create(&(cpu_options){.threads = 2, .isa = isa}, &d, &e)) fail_msg("%s", e.text);
    return d;
}

static void assert_work(dev_work w, double ops, double bytes) {
    assert_true(w.ops > ops * 0.999999 && w.ops < ops * 1.000001);
    assert_true(w.bytes > bytes * 0.999999 && w.bytes < bytes * 1.000001);
}

// embedding 64 -> q, k, v -> attention of 4 heads on 2 -> output 96; all f32 but the output's q8_0.
static void test_work(void **state) {
    (void)state;
    error e = {0};
    device *d = open_device("ref");
    dev_plan *p;
    assert_int_equal(dev_plan_create(d, &p, &e), OK);
    int32_t group = dev_plan_group(p, (dev_group){DEV_GROUP_FULL, 0, 1, 2, 32, 32, 0});
    dev_tensor *table = import(d, QUANT_Q8_0, 64, 96, 1, DEV_USE_ROWS | DEV_USE_MATRIX), *wq = import(d, QUANT_F32, 64, 128, 1, DEV_USE_MATRIX),
               *wk = import(d, QUANT_F32, 64, 64, 1, DEV_USE_MATRIX), *wo = import(d, QUANT_F32, 128, 64, 1, DEV_USE_MATRIX);
    dev_reg x = dev_reg_all(p, 64), q = dev_reg_all(p, 128), k = dev_reg_all(p, 64), v = dev_reg_all(p, 64), last = dev_reg_wanted(p, 64);
    dev_op_embed(p, (dev_embed){x, table, 1, false});
    dev_linear1(p, q, x, wq, NULL);
    dev_linear1(p, k, x, wk, NULL);
    dev_linear1(p, v, x, wk, NULL);
    dev_op_attend(p, (dev_attend){.dst = q, .q = q, .k = k, .v = v, .group = group, .n_head = 4, .n_kv = 2, .head_k = 32, .head_v = 32, .scale = 1});
    dev_linear1(p, x, q, wo, NULL);
    dev_op_select(p, (dev_select){last, x});
    dev_op_output(p, (dev_output){last, table, NULL, 1, 0});
    if (dev_plan_prepare(p, 8, 4, &e)) fail_msg("%s", e.text);
    double each = 2.0 * 64 * (128 + 64 + 64 + 128), weights = 4.0 * 64 * (128 + 64 + 64 + 128), out = 2.0 * 64 * 96, out_bytes = 96 * 68, token = 2 * 64 * 4;
    // one prompt of 6 after 10: rows see 11..16 keys
    assert_work(dev_plan_work(p, DEV_KV_F32, 1, 6, 10, 1), 6 * each + 2.0 * 4 * 64 * (11 + 12 + 13 + 14 + 15 + 16) + out, weights + out_bytes + token * 16);
    // three sequences, a row each after 20: weights once, keys of each; f16 keys are half as long
    assert_work(dev_plan_work(p, DEV_KV_F32, 3, 1, 20, 3), 3 * each + 3 * 2.0 * 4 * 64 * 21 + 3 * out, weights + out_bytes + 3 * token * 21);
    assert_work(dev_plan_work(p, DEV_KV_F16, 3, 1, 20, 3), 3 * each + 3 * 2.0 * 4 * 64 * 21 + 3 * out, weights + out_bytes + 3 * token / 2 * 21);
    dev_plan_destroy(p);
    dev_destroy(d);
}

// Of 8 experts of which a row takes 2, one row reads 2, two rows 8 (1 - (6/8)^2) = 3.5, and many all.
static void test_experts(void **state) {
    (void)state;
    error e = {0};
    device *d = open_device("ref");
    dev_plan *p;
    assert_int_equal(dev_plan_create(d, &p, &e), OK);
    dev_tensor *table = import(d, QUANT_F32, 32, 4, 1, DEV_USE_ROWS), *router = import(d, QUANT_F32, 32, 8, 1, DEV_USE_MATRIX);
    dev_tensor *up = import(d, QUANT_F32, 32, 64, 8, DEV_USE_MATRIX), *down = import(d, QUANT_F32, 64, 32, 8, DEV_USE_MATRIX);
    dev_reg x = dev_reg_all(p, 32), y = dev_reg_all(p, 32);
    dev_op_embed(p, (dev_embed){x, table, 1, false});
    dev_op_experts(p, (dev_experts){.dst = y, .src = x, .router_src = DEV_NONE, .residual = DEV_NONE,
                                    .router = router, .n_expert = 8, .top_k = 2, .up = up, .down = down, .act = DEV_ACT_RELU});
    dev_op_hidden(p, y);
    if (dev_plan_prepare(p, 64, 0, &e)) fail_msg("%s", e.text);
    double each = 2.0 * 32 * 8 + 2 * 2 * (2.0 * 32 * 64), one = 2 * 4.0 * 32 * 64, route = 4.0 * 32 * 8;
    assert_work(dev_plan_work(p, DEV_KV_F32, 1, 1, 0, 0), each, route + 2 * one);
    assert_work(dev_plan_work(p, DEV_KV_F32, 1, 2, 0, 0), 2 * each, route + 3.5 * one);
    assert_work(dev_plan_work(p, DEV_KV_F32, 1, 64, 0, 0), 64 * each, route + 8 * one);
    dev_plan_destroy(p);
    dev_destroy(d);
}

static void test_measure(void **state) {
    (void)state;
    for (const char *const *t = cpu_tiers(); *t; t++) {
        device *d = open_device(*t);
        dev_limits l;
        error e = {0};
        if (dev_measure(d, &l, &e)) fail_msg("%s", e.text);
        assert_true(l.read_bytes_s > 1e7);
        assert_in_range(l.n_units, 1, DEV_MAX_UNITS);
        for (int i = 0; i < l.n_units; i++) {
            assert_true(l.units[i].ops_s > 1e6);
            assert_true(l.units[i].name[0]);
            for (int j = 0; j < i; j++) assert_string_not_equal(l.units[i].name, l.units[j].name);
        }
        mem_fail_at(1);
        assert_int_equal(dev_measure(d, &l, &e), E_NOMEM);
        mem_fail_at(0);
        dev_destroy(d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_work), cmocka_unit_test(test_experts), cmocka_unit_test(test_measure)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
