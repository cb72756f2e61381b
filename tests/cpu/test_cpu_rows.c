// Row-local ops of the CPU backend on several streams and by groups, and activations with numbers of their own, against plain C in double precision.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "cpu/cpu.h"
#include "quant/quant.h"

enum { ROWS = 5, WIDTH = 231 }; // 7 * 33

static status read_floats(void *ctx, uint64_t offset, size_t n, void *dst, error *err) {
    (void)err;
    memcpy(dst, (const char *)ctx + offset, n);
    return OK;
}

static float table[ROWS][WIDTH], got[ROWS][WIDTH];

static void fill(void) {
    uint64_t seed = 11;
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < WIDTH; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            table[r][i] = 3 * (float)(int32_t)(seed >> 32) / 2147483648.0f;
        }
}

// Runs what `record` adds to a plan whose first register is a row of the table; it returns the register to look at.
static int32_t run(const char *isa, dev_reg (*record)(dev_plan *p, dev_reg x, int kind), int kind) {
    error e = {0};
    device *d;
    if (cpu_device_create(&(cpu_options){.threads = 2, .isa = isa}, &d, &e)) fail_msg("%s", e.text);
    dev_weight w = {"table", QUANT_F32, WIDTH, ROWS, 1, DEV_USE_ROWS};
    dev_source s = {read_floats, table};
    dev_tensor *t;
    dev_plan *p;
    assert_int_equal(dev_import_weight(d, &w, &s, &t, &e), OK);
    assert_int_equal(dev_plan_create(d, &p, &e), OK);
    dev_reg x = dev_reg_all(p, WIDTH);
    dev_op_embed(p, (dev_embed){x, t, 1, false});
    dev_reg y = record(p, x, kind);
    int32_t width = dev_reg_width(p, y);
    dev_op_hidden(p, y);
    if (dev_plan_prepare(p, ROWS, 0, &e)) fail_msg("%s", e.text);
    int32_t ids[ROWS] = {0, 1, 2, 3, 4};
    dev_seq seq = {.n_rows = ROWS};
    dev_step step = {.n_rows = ROWS, .tokens = ids, .positions = ids, .n_seqs = 1, .seqs = &seq};
    dev_ticket ticket;
    if (dev_submit(p, NULL, &step, &ticket, &e) || dev_wait(p, ticket, &e)) fail_msg("%s", e.text);
    for (int r = 0; r < ROWS; r++) memcpy(got[r], dev_hidden(p, r), (size_t)width * sizeof(float));
    dev_plan_destroy(p);
    dev_destroy(d);
    return width;
}

static void hold(dev_reg (*record)(dev_plan *p, dev_reg x, int kind), double (*exact)(const float *x, int32_t i, int kind), int kind) {
    fill();
    for (const char *const *t = cpu_tiers(); *t; t++) {
        int32_t width = run(*t, record, kind);
        for (int r = 0; r < ROWS; r++)
            for (int32_t i = 0; i < width; i++) {
                double want = exact(table[r], i, kind);
                if (!(fabs(got[r][i] - want) <= 2e-6 * (1 + fabs(want)))) fail_msg("%s, kind %d, row %d, column %d: %g, expected %g", *t, kind, r, i, (double)got[r][i], want);
            }
    }
}

// ---- streams and groups ---------------------------------------------------------------------------------------------------

// 2 streams of 33 from 3, with weights and what is added from other columns; kind 0 adds nothing, 2 adds in place.
static dev_reg mix(dev_plan *p, dev_reg x, int kind) {
    dev_reg add = dev_reg_view(p, x, 99, 66), dst = kind == 2 ? add : dev_reg_all(p, 66);
    dev_op_mix(p, (dev_mix){.dst = dst, .src = dev_reg_view(p, x, 0, 99), .weight = dev_reg_view(p, x, 165, 6), .add = kind ? add : DEV_NONE, .n_dst = 2, .n_src = 3});
    return dst;
}

static double mixed(const float *x, int32_t i, int kind) {
    double sum = kind ? (double)x[99 + i] : 0;
    for (int j = 0; j < 3; j++) sum += (double)x[165 + i / 33 * 3 + j] * (double)x[j * 33 + i % 33];
    return sum;
}

static dev_reg dot(dev_plan *p, dev_reg x, int kind) {
    dev_reg dst = dev_reg_all(p, kind);
    dev_op_dot(p, (dev_dot){.dst = dst, .a = dev_reg_view(p, x, 0, 99), .b = dev_reg_view(p, x, 110, 99)});
    return dst;
}

static double dotted(const float *x, int32_t i, int kind) {
    double sum = 0;
    for (int j = 0; j < 99 / kind; j++) sum += (double)x[i * (99 / kind) + j] * (double)x[110 + i * (99 / kind) + j];
    return sum;
}

// A narrow second operand: kind & 1 multiplies, kind >> 1 is its width.
static dev_reg combine(dev_plan *p, dev_reg x, int kind) {
    dev_reg dst = dev_reg_all(p, 99);
    dev_op_combine(p, (dev_combine){.dst = dst, .a = dev_reg_view(p, x, 0, 99), .b = dev_reg_view(p, x, 120, kind >> 1), .sa = 0.5f, .sb = 2, .multiply = kind & 1});
    return dst;
}

static double combined(const float *x, int32_t i, int kind) {
    double a = (double)x[i], b = (double)x[120 + i / (99 / (kind >> 1))];
    return kind & 1 ? a * b * 0.5 : a * 0.5 + b * 2;
}

static dev_reg softmax(dev_plan *p, dev_reg x, int kind) {
    dev_op_norm(p, (dev_norm){.dst = x, .src = x, .kind = DEV_NORM_SOFTMAX, .group = kind, .add = DEV_NONE, .sum = DEV_NONE});
    return x;
}

static double softened(const float *x, int32_t i, int kind) {
    double sum = 0;
    for (int j = 0; j < kind; j++) sum += exp((double)x[i / kind * kind + j]);
    return exp((double)x[i]) / sum;
}

static void streams(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++) hold(mix, mixed, kind);
    static const int parts[] = {1, 3, 11, 33, 99};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        hold(dot, dotted, parts[i]);
        hold(combine, combined, parts[i] << 1);
        hold(combine, combined, parts[i] << 1 | 1);
    }
    hold(softmax, softened, 7);
    hold(softmax, softened, WIDTH);
}

// ---- activations ----------------------------------------------------------------------------------------------------------

static const float P[DEV_ACT_NUMBERS] = {1.25f, 0.75f, 0.5f, -1e-3f};

static dev_reg activation(dev_plan *p, dev_reg x, int kind) {
    dev_reg dst = dev_reg_all(p, 99);
    bool alone = kind == DEV_ACT_EXP || kind == DEV_ACT_XIELU;
    dev_activate op = {.dst = dst, .gate = dev_reg_view(p, x, 0, 99), .up = alone ? DEV_NONE : dev_reg_view(p, x, 120, 99), .act = (dev_act)kind};
    memcpy(op.p, P, sizeof P);
    dev_op_act(p, op);
    return dst;
}

static double activated(const float *x, int32_t i, int kind) {
    double g = (double)x[i], u = (double)x[120 + i], p[DEV_ACT_NUMBERS];
    for (int k = 0; k < DEV_ACT_NUMBERS; k++) p[k] = (double)P[k];
    switch (kind) {
    case DEV_ACT_EXP: return exp(g);
    case DEV_ACT_XIELU: return g > 0 ? p[0] * g * g + p[2] * g : (exp(fmin(g, p[3])) - 1 - g) * p[1] + p[2] * g;
    case DEV_ACT_SILU_LIMIT: return fmin(g / (1 + exp(-g)), p[0]) * fmax(-p[0], fmin(u, p[0]));
    default: return p[0] * tanh(g / p[0]) / (1 + exp(-g)) * p[1] * tanh(u / p[1]);
    }
}

static void activations(void **state) {
    (void)state;
    static const dev_act acts[] = {DEV_ACT_EXP, DEV_ACT_XIELU, DEV_ACT_SILU_LIMIT, DEV_ACT_SITU};
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) hold(activation, activated, (int)acts[i]);
}

// What a plan must not take.
static void refusals(void **state) {
    (void)state;
    error e = {0};
    device *d;
    assert_int_equal(cpu_device_create(&(cpu_options){.threads = 1}, &d, &e), OK);
    for (int i = 0; i < 7; i++) {
        dev_plan *p;
        assert_int_equal(dev_plan_create(d, &p, &e), OK);
        dev_reg six = dev_reg_all(p, 6), four = dev_reg_all(p, 4), wanted = dev_reg_wanted(p, 2), two = dev_reg_all(p, 2);
        dev_mix m = {.dst = six, .src = four, .weight = six, .add = DEV_NONE, .n_dst = 3, .n_src = 2};
        if (i == 0) m.n_dst = 2;
        if (i == 1) m.weight = four;
        if (i == 2) m.add = four;
        if (i < 3) dev_op_mix(p, m);
        if (i == 3) dev_op_dot(p, (dev_dot){.dst = four, .a = six, .b = six});
        if (i == 4) dev_op_dot(p, (dev_dot){.dst = wanted, .a = six, .b = six});
        if (i == 5) dev_op_combine(p, (dev_combine){.dst = six, .a = six, .b = four});
        if (i == 6) dev_op_act(p, (dev_activate){.dst = two, .gate = two, .up = DEV_NONE, .act = DEV_ACT_SITU});
        if (dev_plan_prepare(p, 4, 4, &e) == OK) fail_msg("%d was taken", i);
        dev_plan_destroy(p);
    }
    dev_destroy(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(streams), cmocka_unit_test(activations), cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
