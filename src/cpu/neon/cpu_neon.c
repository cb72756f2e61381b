// cpu/neon: the tier for Advanced SIMD as every 64-bit Arm has it.
#include "cpu/neon/cpu_neon_kernels.h"
#include "cpu/neon/cpu_probe_neon.h"

void cpu_kernels_neon(cpu_kernels *k) { fill_neon(k, "neon"); }

const cpu_probe cpu_probe_neon = {"NEON FMLA", 8.0 * PROBE_CHAINS, probe_run};
