// cpu/avx2: the tier for AVX2 and FMA (Haswell, Zen).
#include "cpu/avx2/avx2_kernels.h"

void cpu_kernels_avx2(cpu_kernels *k) { fill_avx2(k, "avx2"); }
