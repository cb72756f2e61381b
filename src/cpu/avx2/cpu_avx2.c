// cpu/avx2: the kernels for AVX2 and FMA.
#include "cpu/cpu_generic.h"

void cpu_kernels_avx2(cpu_kernels *k)
{
    k->isa = "avx2";
    fill_generic(k);
}
