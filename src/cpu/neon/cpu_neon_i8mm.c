// cpu/neon-i8mm: the tier for the int8 matrix products of Armv8.6 (Graviton 3, Apple M2).
#include "cpu/neon/cpu_neon_kernels.h"
#include "cpu/neon/cpu_probe_neon.h"

void cpu_kernels_neon_i8mm(cpu_kernels *k) { fill_neon(k, "neon-i8mm"); }

const cpu_probe cpu_probe_neon_i8mm = {"NEON SMMLA", 64.0 * PROBE_CHAINS, probe_run};
