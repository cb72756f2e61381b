// Tests of packing: every tier's own way against the plain one, bit for bit, over arbitrary bytes in the file's blocks.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "cpu/cpu_codes.h"
#include "cpu/cpu_tile.h"

static uint64_t seed = 1;
static uint8_t any_byte(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint8_t)(seed >> 40);
}

static size_t panel_bytes(cpu_format f, int64_t k)
{
    if (cpu_format_code(f)) return cpu_code_panel_bytes(f, k);
    if (cpu_format_tile(f)) return cpu_tile_panel_bytes(f, k);
    if (cpu_format_int8(f)) return cpu_scale_area_bytes(f, k) + (size_t)k / BLOCK * cpu_quant_block_bytes(f);
    return (size_t)k * PANEL * (f == CPU_F32 ? 4 : 2);
}

// The type of file whose matrices a tier keeps in format f; QUANT_TYPES: none.
static uint32_t type_of(cpu_format f)
{
    for (uint32_t t = 0; t < QUANT_TYPES; t++)
        if (quant_type_traits((int)t) && (cpu_format_tile(f) ? cpu_tile_format(t) : cpu_choose_format(t, 256, true)) == f) return t;
    return QUANT_TYPES;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

enum { MOST_K = 2048, MOST_BYTES = MOST_K * 4, PAD = 64 };

// `timed`: says how fast each is.
static int check(const char *tier, cpu_format f, int64_t k, int n, bool timed)
{
    static uint8_t rows[PANEL * (MOST_BYTES + PAD)] = {0};
    cpu_kernels kern;
    error e = {0};
    if (cpu_choose_kernels(tier, &kern, &e)) fail_msg("%s", e.text);
    uint32_t type = type_of(f);
    if (!kern.pack[f] || type == QUANT_TYPES) return 0;
    size_t row, bytes = panel_bytes(f, k);
    assert_true(quant_row_bytes((int)type, (uint64_t)k, &row));
    size_t stride = row + PAD / 2; // rows need not follow one another, and what lies between them is not theirs
    for (size_t i = 0; i < sizeof rows; i++) rows[i] = any_byte();
    uint8_t *want = aligned_alloc(64, bytes + 64), *got = aligned_alloc(64, bytes + 64);
    memset(want, 0x55, bytes + 64);
    memset(got, 0x55, bytes + 64);
    cpu_pack_panel(f, type, k, n, rows, stride, want);
    cpu_pack(&kern, f, type, k, n, rows, stride, got);
    for (size_t i = 0; i < bytes + 64; i++)
        if (want[i] != got[i]) fail_msg("%s, format %d, %lld columns, %d rows: byte %zu of %zu is %d, not %d", tier, (int)f, (long long)k, n, i, bytes, got[i], want[i]);
    if (timed) {
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
    return 1;
}

static bool timed;

static void test_tiers(void **state)
{
    (void)state;
    static const int64_t sizes[] = {256, 512, 768, 2048};
    for (const char *const *t = cpu_tiers(); *t; t++) {
        int checked = 0;
        for (cpu_format f = 0; f < CPU_FORMATS; f++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                checked += check(*t, f, sizes[i], PANEL, timed && sizes[i] == 2048);
                check(*t, f, sizes[i], 1, false);
                check(*t, f, sizes[i], 15, false);
            }
        if (!strcmp(*t, "avx512") || !strcmp(*t, "amx") || !strcmp(*t, "avx2")) assert_true(checked > 0);
    }
}

// Rows that are no multiple of what the fast ways take.
static void test_odd_columns(void **state)
{
    (void)state;
    static const int64_t sizes[] = {32, 96, 36, 7};
    static const cpu_format formats[] = {CPU_F32, CPU_Q8, CPU_Q4_0, CPU_TILE_BF16, CPU_TILE_F16, CPU_TILE_Q8_0, CPU_TILE_Q4_0};
    for (const char *const *t = cpu_tiers(); *t; t++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (size_t j = 0; j < sizeof formats / sizeof *formats; j++) {
                const quant_traits *q = quant_type_traits((int)type_of(formats[j]));
                if (sizes[i] % q->block_elems == 0) check(*t, formats[j], sizes[i], PANEL, false);
            }
}

int main(int argc, char **argv)
{
    timed = argc > 1 && !strcmp(argv[1], "time");
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tiers), cmocka_unit_test(test_odd_columns)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
