// cpu/avx512: the kernels for AVX-512 with VNNI.
#include "cpu/cpu_generic.h"

void cpu_kernels_avx512(cpu_kernels *k)
{
    k->isa = "avx512";
    fill_generic(k);
}
