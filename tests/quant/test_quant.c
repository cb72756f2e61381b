// The number formats: half precision exhaustively, decoders against fixed sums, encoders against the error each type allows.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/quant.h"

static uint64_t seed;
static uint32_t rnd(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 32);
}
static float gauss(void) {
    float s = -6;
    for (int i = 0; i < 12; i++) s += (float)(rnd() >> 8) * 0x1p-24f;
    return s;
}

static void half_precision(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) { // there and back is the identity but for the bits of NaNs
        float f = quant_f16_to_f32((uint16_t)h), b = quant_bf16_to_f32((uint16_t)h);
        if (f == f) assert_int_equal(quant_f32_to_f16(f), h);
        else assert_true((quant_f32_to_f16(f) & 0x7c00) == 0x7c00 && quant_f32_to_f16(f) & 0x3ff);
        if (b == b) assert_int_equal(quant_f32_to_bf16(b), h);
        else assert_true((quant_f32_to_bf16(b) & 0x7f80) == 0x7f80 && quant_f32_to_bf16(b) & 0x7f);
    }
    for (uint32_t h = 0; h < 0x7bff; h++) { // a value between two neighbours goes to the nearer, the middle to the even one
        float a = quant_f16_to_f32((uint16_t)h), c = quant_f16_to_f32((uint16_t)(h + 1)), m = 0.5f * (a + c);
        assert_int_equal(quant_f32_to_f16(m), h % 2 ? h + 1 : h);
        assert_int_equal(quant_f32_to_f16(nextafterf(m, 0)), h);
        assert_int_equal(quant_f32_to_f16(nextafterf(m, 1e9f)), h + 1);
        assert_int_equal(quant_f32_to_f16(-m), 0x8000 | (h % 2 ? h + 1 : h));
    }
    assert_int_equal(quant_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(quant_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(quant_f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(quant_f32_to_f16(1e-10f), 0);
    assert_int_equal(quant_f32_to_bf16(1.00390625f), 0x3f80); // the middle between two: even
    assert_int_equal(quant_f32_to_bf16(1.01171875f), 0x3f82);
    assert_true(quant_f16_to_f32(0x3555) == 0.333251953125f && quant_f16_to_f32(0x0001) == 0x1p-24f);
    assert_true(quant_e8m0_half(0) == 0x1p-128f && quant_e8m0_half(1) == 0x1p-127f && quant_e8m0_half(128) == 1 && quant_e8m0_half(254) == 0x1p126f);
    assert_true(quant_ue4m3_half(0) == 0 && quant_ue4m3_half(1) == 0x1p-10f && quant_ue4m3_half(0x38) == 0.5f && quant_ue4m3_half(0x7e) == 224 && quant_ue4m3_half(0x7f) == 0);
}

// Sums over decoded random blocks. They were taken when every decoder had just been compared, element by element and without a
// difference, with files decoded by llama.cpp; a change in any bit of any element changes them.
static const struct { int type; uint64_t sum; } decoded[] = {
#include "decoded_sums.h"
};

// Random bytes whose half-precision scales are tame, so that every element is finite.
static void random_blocks(int type, uint8_t *p, size_t bytes) {
    const quant_traits *t = quant_type_traits(type);
    static const struct { int type, at[2]; } scales[] = { // where the high bytes of scales lie
        {QUANT_Q2_K, {81, 83}}, {QUANT_Q3_K, {109, 109}}, {QUANT_Q6_K, {209, 209}}, {QUANT_TQ1_0, {53, 53}}, {QUANT_TQ2_0, {65, 65}}, {QUANT_IQ1_M, {55, 55}},
        {QUANT_Q4_1, {1, 3}}, {QUANT_Q5_1, {1, 3}}, {QUANT_Q8_1, {1, 3}}, {QUANT_Q4_K, {1, 3}}, {QUANT_Q5_K, {1, 3}}, {QUANT_Q8_K, {3, 3}},
        {QUANT_MXFP4, {0, 0}}, {QUANT_NVFP4, {0, 0}}, {QUANT_F64, {7, 7}}, {QUANT_F32, {3, 3}},
    };
    for (size_t i = 0; i < bytes; i++) p[i] = (uint8_t)rnd();
    if (t->flags & QUANT_IS_INT) return;
    int at[2] = {1, 1};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        if (scales[i].type == type) at[0] = scales[i].at[0], at[1] = scales[i].at[1];
    for (size_t k = 0; k < bytes; k += t->block_bytes)
        for (int i = 0; i < 2; i++) p[k + (size_t)at[i]] = (uint8_t)((p[k + (size_t)at[i]] & 0x83) | 0x2c);
}

static void decoders(void **state) {
    (void)state;
    static uint64_t raw[1024 * 8 / 8 * 2];
    static float x[4096];
    for (int type = 0; type < QUANT_TYPES; type++) {
        const quant_traits *t = quant_type_traits(type);
        if (!t) continue;
        size_t n = 1024, bytes;
        assert_true(quant_row_bytes(type, n, &bytes));
        seed = 7;
        random_blocks(type, (uint8_t *)raw, bytes);
        t->decode(raw, x, n);
        uint64_t sum = 1469598103934665603u;
        for (size_t i = 0; i < n; i++) {
            if (!isfinite(x[i])) fail_msg("%s: element %zu is not finite", t->name, i);
            sum = (sum ^ quant_f32_bits(x[i] + 0.0f)) * 1099511628211u; // -0 counts as 0
        }
        bool known = false;
        for (size_t i = 0; i < sizeof decoded / sizeof *decoded; i++)
            if (decoded[i].type == type) {
                known = true;
                if (decoded[i].sum != sum) fail_msg("%s decodes to 0x%016llx, not 0x%016llx", t->name, (unsigned long long)sum, (unsigned long long)decoded[i].sum);
            }
        if (!known) fail_msg("no sum for %s: {QUANT_%s, 0x%016llxu},", t->name, t->name, (unsigned long long)sum);
    }
}

static double nmse(int type, const float *x, size_t n, const float *w) {
    const quant_traits *t = quant_type_traits(type);
    static uint64_t raw[65536];
    static float y[16384];
    t->encode(x, raw, n, w);
    t->decode(raw, y, n);
    double err = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        err += (double)(x[i] - y[i]) * (x[i] - y[i]) * (w ? w[i] : 1);
        all += (double)x[i] * x[i] * (w ? w[i] : 1);
    }
    return err / all;
}

// The error on normal random numbers: at most what llama.cpp's files have (seen on a random model), and never suspiciously little.
static const struct { int type; double most; } errors[] = {
    {QUANT_F32, 0}, {QUANT_F64, 0}, {QUANT_F16, 5e-8}, {QUANT_BF16, 3e-6}, {QUANT_Q8_0, 2.9e-5}, {QUANT_Q8_1, 2.9e-5}, {QUANT_Q8_K, 5e-5},
    {QUANT_Q4_0, 6.45e-3}, {QUANT_Q4_1, 4.78e-3}, {QUANT_Q5_0, 1.59e-3}, {QUANT_Q5_1, 1.12e-3}, {QUANT_Q2_K, 7.08e-2}, {QUANT_Q3_K, 2.05e-2},
    {QUANT_Q4_K, 4.9e-3}, {QUANT_Q5_K, 1.23e-3}, {QUANT_Q6_K, 2.95e-4}, {QUANT_IQ1_S, 0.232}, {QUANT_IQ1_M, 0.201}, {QUANT_IQ2_XXS, 0.1174},
    {QUANT_IQ2_XS, 0.0892}, {QUANT_IQ2_S, 0.061}, {QUANT_IQ3_XXS, 0.0328}, {QUANT_IQ3_S, 0.0185}, {QUANT_IQ4_NL, 5.51e-3}, {QUANT_IQ4_XS, 5.61e-3},
    {QUANT_TQ1_0, 0.2}, {QUANT_TQ2_0, 0.2}, {QUANT_Q1_0, 0.37}, {QUANT_Q2_0, 0.13}, {QUANT_MXFP4, 0.0135}, {QUANT_NVFP4, 0.0095},
};

static void encoders(void **state) {
    (void)state;
    static float x[8192], w[8192];
    seed = 11;
    for (int i = 0; i < 8192; i++) x[i] = gauss() * 0.02f, w[i] = i % 3 ? 0.1f : 2;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        const quant_traits *t = quant_type_traits(errors[i].type);
        double plain = nmse(errors[i].type, x, 8192, NULL);
        if (plain > errors[i].most * 1.01) fail_msg("%s: an error of %.4e, at most %.4e is right", t->name, plain, errors[i].most);
        if (errors[i].most > 0 && plain < errors[i].most * 0.2) fail_msg("%s: an error of %.4e is too good to be true", t->name, plain);
        if (!(t->flags & QUANT_IS_BLOCK)) continue;
        // Told which columns matter, an encoder does them more justice than when it is not.
        static uint64_t raw[8192];
        static float y[8192];
        t->encode(x, raw, 8192, NULL);
        t->decode(raw, y, 8192);
        double err = 0, all = 0, told = nmse(errors[i].type, x, 8192, w);
        for (int k = 0; k < 8192; k++) err += (double)(x[k] - y[k]) * (x[k] - y[k]) * w[k], all += (double)x[k] * x[k] * w[k];
        if (told > err / all * 1.0001) fail_msg("%s: %.4e with weights, %.4e without", t->name, told, err / all);
    }
}

static void ternary_is_exact(void **state) { // models trained to three levels keep every weight
    (void)state;
    static float x[1024], y[1024];
    static uint64_t raw[512];
    seed = 3;
    for (int i = 0; i < 1024; i++) x[i] = (float)((int)(rnd() % 3) - 1) * 0.375f;
    static const int types[] = {QUANT_TQ1_0, QUANT_TQ2_0, QUANT_Q2_0};
    for (int k = 0; k < 3; k++) {
        const quant_traits *t = quant_type_traits(types[k]);
        t->encode(x, raw, 1024, NULL);
        t->decode(raw, y, 1024);
        for (int i = 0; i < 1024; i++) assert_true(x[i] == y[i]);
    }
}

static void hard_input(void **state) { // zeros, one spike, constants, huge, tiny, not finite: decoded values stay finite
    (void)state;
    static float x[1024], y[1024];
    static uint64_t raw[2048];
    for (int type = 0; type < QUANT_TYPES; type++) {
        const quant_traits *t = quant_type_traits(type);
        if (!t || t->flags & QUANT_IS_FLOAT) continue;
        for (int kind = 0; kind < 9; kind++) {
            seed = 5;
            for (int i = 0; i < 1024; i++) {
                switch (kind) {
                case 0: x[i] = 0; break;
                case 1: x[i] = i == 77 ? 1 : 0; break;
                case 2: x[i] = 0.25f; break;
                case 3: x[i] = -0.25f; break;
                case 4: x[i] = gauss() * 1e30f; break;
                case 5: x[i] = gauss() * 1e-38f; break;
                case 6: x[i] = i % 5 ? gauss() : NAN; break;
                case 7: x[i] = i % 7 ? gauss() : i % 2 ? INFINITY : -INFINITY; break;
                default: x[i] = gauss() + 3; break;
                }
            }
            t->encode(x, raw, 1024, NULL);
            t->decode(raw, y, 1024);
            for (int i = 0; i < 1024; i++) {
                if (!isfinite(y[i])) fail_msg("%s, kind %d: element %d decodes to %g", t->name, kind, i, (double)y[i]);
                if (kind == 0 && y[i] != 0 && type != QUANT_Q1_0) fail_msg("%s: zero becomes %g", t->name, (double)y[i]);
            }
        }
    }
}

static void sizes_and_names(void **state) {
    (void)state;
    size_t b;
    assert_true(quant_row_bytes(QUANT_Q4_K, 512, &b) && b == 288);
    assert_false(quant_row_bytes(QUANT_Q4_K, 255, &b));
    assert_false(quant_row_bytes(QUANT_F64, UINT64_MAX, &b));
    assert_false(quant_row_bytes(4, 32, &b));
    assert_false(quant_row_bytes(-1, 32, &b));
    assert_null(quant_type_traits(31));
    assert_null(quant_type_traits(QUANT_TYPES));
    assert_int_equal(quant_type_from_name("q4_k"), QUANT_Q4_K);
    assert_int_equal(quant_type_from_name("none"), -1);
    assert_string_equal(quant_type_name(QUANT_IQ2_XXS), "IQ2_XXS");
    assert_string_equal(quant_type_name(99), "unknown");
    int known = 0;
    for (int i = 0; i < QUANT_TYPES; i++) {
        const quant_traits *t = quant_type_traits(i);
        if (!t) continue;
        known++;
        assert_true(t->decode && t->encode && t->block_bytes);
        assert_int_equal(quant_type_from_name(t->name), i);
    }
    assert_int_equal(known, 35);
}

static void byte_order(void **state) {
    (void)state;
    block_q4_K q[2];
    seed = 9;
    for (size_t i = 0; i < sizeof q; i++) ((uint8_t *)q)[i] = (uint8_t)rnd();
    block_q4_K s[2];
    memcpy(s, q, sizeof q);
    assert_true(quant_swap(QUANT_Q4_K, s, 512));
    assert_int_equal(s[1].d, (uint16_t)(q[1].d >> 8 | q[1].d << 8));
    assert_int_equal(s[1].dmin, (uint16_t)(q[1].dmin >> 8 | q[1].dmin << 8));
    assert_memory_equal(s[1].qs, q[1].qs, sizeof q[1].qs);
    assert_false(quant_swap(QUANT_IQ2_XXS, q, 256));
    for (int type = 0; type < QUANT_TYPES; type++) { // twice is nothing
        if (!quant_type_traits(type)) continue;
        static uint8_t a[9000], b[9000];
        size_t n;
        quant_row_bytes(type, 1024, &n);
        for (size_t i = 0; i < n; i++) a[i] = b[i] = (uint8_t)rnd();
        if (quant_swap(type, a, 1024)) assert_true(quant_swap(type, a, 1024));
        assert_memory_equal(a, b, n);
    }
}

// Integers are the numbers they are.
static void integers(void **state) {
    (void)state;
    const int8_t  a[4] = {-128, 127, 0, -1};
    const int16_t b[4] = {-32768, 32767, 0, -1};
    const int32_t c[4] = {-8388608, 16777216, 0, -1}; // that a float holds
    const int64_t d[4] = {-1099511627776, 1ll << 40, 0, -1};
    const struct { quant_type type; const void *raw; float want[4]; } cases[] = {
        {QUANT_I8, a, {-128, 127, 0, -1}}, {QUANT_I16, b, {-32768, 32767, 0, -1}}, {QUANT_I32, c, {-8388608, 16777216, 0, -1}}, {QUANT_I64, d, {-0x1p40f, 0x1p40f, 0, -1}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float y[4];
        quant_type_traits((int)cases[i].type)->decode(cases[i].raw, y, 4);
        for (int k = 0; k < 4; k++) assert_true(y[k] == cases[i].want[k]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_precision), cmocka_unit_test(decoders), cmocka_unit_test(integers), cmocka_unit_test(encoders), cmocka_unit_test(ternary_is_exact),
        cmocka_unit_test(hard_input), cmocka_unit_test(sizes_and_names), cmocka_unit_test(byte_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
