// cpu/avx2-vnni: the tier for AVX2 with int8 dot products of its own encoding (Alder Lake and after, which have no AVX-512).
#include "cpu/avx2/avx2_kernels.h"

void cpu_kernels_avx2_vnni(cpu_kernels *k) { fill_avx2(k, "avx2-vnni"); }
