// cpu/avx2/probe_vnni: what AVX-VNNI adds, busy from registers.
#include <immintrin.h>

#include "cpu/cpu_internal.h"

enum { CHAINS = 10 };

static void run_vnni(int64_t rounds) {
    __m256i a[CHAINS], x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(1);
    for (int i = 0; i < CHAINS; i++) a[i] = _mm256_setzero_si256();
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < CHAINS; i++) {
            __asm__ volatile("" : "+x"(x), "+x"(y)); // or all but one product would be the same
            a[i] = _mm256_dpbusd_avx_epi32(a[i], x, y);
        }
    for (int i = 0; i < CHAINS; i++) __asm__ volatile("" : : "x"(a[i]));
}

const cpu_probe cpu_probe_avx2_vnni = {"AVX-VNNI", 64.0 * CHAINS, run_vnni};
