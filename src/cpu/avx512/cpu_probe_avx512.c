// cpu/avx512/probe: the units of this tier, busy from registers.
#include <immintrin.h>

#include "cpu/cpu_probe.h"

enum { CHAINS = 16 };
#define FMA(a, x, y) _mm512_fmadd_ps(x, y, a)
PROBE_RUN(run_vnni, CHAINS, __m512i, _mm512_setzero_si512(), __m512i, _mm512_set1_epi8(1), "v", _mm512_dpbusd_epi32)
PROBE_RUN(run_fma, CHAINS, __m512, _mm512_setzero_ps(), __m512, _mm512_set1_ps(1e-3f), "v", FMA)

const cpu_probe cpu_probe_avx512_vnni = {"AVX-512 VNNI", 128.0 * CHAINS, run_vnni}, cpu_probe_avx512_fma = {"AVX-512 FMA", 32.0 * CHAINS, run_fma};
