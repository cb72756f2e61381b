// cpu/neon: the tier for Advanced SIMD as every 64-bit Arm has it.
#include "cpu/neon/cpu_neon_kernels.h"

void cpu_kernels_neon(cpu_kernels *k) { fill_neon(k, "neon"); }
