// cpu/neon-dotprod: the tier for the dot products of Armv8.2 (Graviton 2, Apple M1).
#include "cpu/neon/cpu_neon_kernels.h"
#include "cpu/neon/cpu_probe_neon.h"

void cpu_kernels_neon_dotprod(cpu_kernels *k) { fill_neon(k, "neon-dotprod"); }

const cpu_probe cpu_probe_neon_dotprod = {"NEON SDOT", 32.0 * PROBE_CHAINS, probe_run};
