// cpu/avx512: the tier for AVX-512 with VNNI and VBMI (Ice Lake, Zen 4).
#include "cpu/avx512/avx512_kernels.h"

void cpu_kernels_avx512(cpu_kernels *k) { fill_avx512(k, "avx512"); }
