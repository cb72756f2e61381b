// cpu/avx2/probe: the units of this tier, busy from registers. int8: VPMADDUBSW and the 16-bit addition that 4-bit weights need with each.
#include <immintrin.h>

#include "cpu/cpu_internal.h"

enum { CHAINS = 10 };

static void run_int8(int64_t rounds) {
    __m256i a[CHAINS], x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(1);
    for (int i = 0; i < CHAINS; i++) a[i] = _mm256_setzero_si256();
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < CHAINS; i++) {
            __asm__ volatile("" : "+x"(x), "+x"(y)); // or all but one product would be the same
            a[i] = _mm256_add_epi16(a[i], _mm256_maddubs_epi16(x, y));
        }
    for (int i = 0; i < CHAINS; i++) __asm__ volatile("" : : "x"(a[i]));
}

static void run_fma(int64_t rounds) {
    __m256 a[CHAINS], x = _mm256_set1_ps(1e-3f), y = _mm256_set1_ps(1e-3f);
    for (int i = 0; i < CHAINS; i++) a[i] = _mm256_setzero_ps();
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < CHAINS; i++) {
            __asm__ volatile("" : "+x"(x), "+x"(y));
            a[i] = _mm256_fmadd_ps(x, y, a[i]);
        }
    for (int i = 0; i < CHAINS; i++) __asm__ volatile("" : : "x"(a[i]));
}

const cpu_probe cpu_probe_avx2_int8 = {"AVX2 int8", 64.0 * CHAINS, run_int8}, cpu_probe_avx2_fma = {"AVX2 FMA", 16.0 * CHAINS, run_fma};
