// cpu/avx512/probe: the units of this tier, busy from registers.
#include <immintrin.h>

#include "cpu/cpu_internal.h"

enum { CHAINS = 16 };

static void run_vnni(int64_t rounds) {
    __m512i a[CHAINS], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(1);
    for (int i = 0; i < CHAINS; i++) a[i] = _mm512_setzero_si512();
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < CHAINS; i++) {
            __asm__ volatile("" : "+v"(x), "+v"(y)); // or the loop could be computed without running it
            a[i] = _mm512_dpbusd_epi32(a[i], x, y);
        }
    for (int i = 0; i < CHAINS; i++) __asm__ volatile("" : : "v"(a[i]));
}

static void run_fma(int64_t rounds) {
    __m512 a[CHAINS], x = _mm512_set1_ps(1e-3f), y = _mm512_set1_ps(1e-3f);
    for (int i = 0; i < CHAINS; i++) a[i] = _mm512_setzero_ps();
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < CHAINS; i++) {
            __asm__ volatile("" : "+v"(x), "+v"(y));
            a[i] = _mm512_fmadd_ps(x, y, a[i]);
        }
    for (int i = 0; i < CHAINS; i++) __asm__ volatile("" : : "v"(a[i]));
}

const cpu_probe cpu_probe_avx512_vnni = {"AVX-512 VNNI", 128.0 * CHAINS, run_vnni}, cpu_probe_avx512_fma = {"AVX-512 FMA", 32.0 * CHAINS, run_fma};
