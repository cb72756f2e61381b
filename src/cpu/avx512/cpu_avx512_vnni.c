// cpu/avx512-vnni: the tier for AVX-512 with VNNI but without VBMI (Cascade Lake, Cooper Lake).
#include "cpu/avx512/avx512_kernels.h"

void cpu_kernels_avx512_vnni(cpu_kernels *k) { fill_avx512(k, "avx512-vnni"); }
