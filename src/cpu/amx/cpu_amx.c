// cpu/amx: the tier of processors with tiles (AMX in bf16): products of weights and activations in bf16, float32 tensors in float32. What is not here is the
// avx512 tier's: cpu_dispatch.c fills the table with that one first. The kernels' text is amx_gemm.h and
// amx_attend.h, over the real tile instructions here and over C in cpu_amx_emulated.c, which is how tests reach them on a machine without.
#include "cpu/amx/amx_attend.h"
#include "cpu/amx/amx_few_codes.h"
#include "cpu/amx/amx_gemm.h"

void cpu_kernels_amx(cpu_kernels *k) {
    k->isa = "amx";
    amx_fill_gemm(k);
    amx_fill_few(k);
    amx_fill_few_codes(k);
    amx_fill_attend(k);
}
