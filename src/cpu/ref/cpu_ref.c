// cpu/ref: the reference tier, plain C. Weights stay in the file's blocks and are decoded row by row; activations are float, dot products are
// summed in double. Slow and obvious: what the other tiers are held to.
#define CPU_PLAIN_C
#include "cpu/cpu_generic.h"
#include "cpu/cpu_hash.h"

void cpu_kernels_ref(cpu_kernels *k) {
    memset(k, 0, sizeof *k);
    k->isa = "ref";
    k->packed = false;
    k->kv_auto = DEV_KV_F32;
    k->hash = hash_bytes;
    fill_generic(k);
}
