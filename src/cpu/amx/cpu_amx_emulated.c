// cpu/amx_emulated: the amx tier with its tile instructions computed in C. For tests: the same bits, a hundredth of the speed.
#define AMX_EMULATED 1
#include "cpu/amx/amx_attend.h"
#include "cpu/amx/amx_few_codes.h"
#include "cpu/amx/amx_gemm.h"

void cpu_kernels_amx_emulated(cpu_kernels *k) {
    k->isa = "amx-emulated";
    amx_fill_gemm(k);
    amx_fill_few(k);
    amx_fill_few_codes(k);
    amx_fill_attend(k);
}
