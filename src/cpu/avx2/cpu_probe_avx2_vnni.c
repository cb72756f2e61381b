// cpu/avx2/probe_vnni: what AVX-VNNI adds, busy from registers.
#include <immintrin.h>

#include "cpu/cpu_probe.h"

enum { CHAINS = 10 };
PROBE_RUN(run_vnni, CHAINS, __m256i, _mm256_setzero_si256(), __m256i, _mm256_set1_epi8(1), "x", _mm256_dpbusd_avx_epi32)

const cpu_probe cpu_probe_avx2_vnni = {"AVX-VNNI", 64.0 * CHAINS, run_vnni};
