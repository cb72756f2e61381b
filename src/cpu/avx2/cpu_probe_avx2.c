// cpu/avx2/probe: the units of this tier, busy from registers. int8: VPMADDUBSW and the 16-bit addition that 4-bit weights need with each.
#include <immintrin.h>

#include "cpu/cpu_probe.h"

enum { CHAINS = 10 };
#define INT8(a, x, y) _mm256_add_epi16(a, _mm256_maddubs_epi16(x, y))
#define FMA(a, x, y) _mm256_fmadd_ps(x, y, a)
PROBE_RUN(run_int8, CHAINS, __m256i, _mm256_setzero_si256(), __m256i, _mm256_set1_epi8(1), "x", INT8)
PROBE_RUN(run_fma, CHAINS, __m256, _mm256_setzero_ps(), __m256, _mm256_set1_ps(1e-3f), "x", FMA)

const cpu_probe cpu_probe_avx2_int8 = {"AVX2 int8", 64.0 * CHAINS, run_int8}, cpu_probe_avx2_fma = {"AVX2 FMA", 16.0 * CHAINS, run_fma};
