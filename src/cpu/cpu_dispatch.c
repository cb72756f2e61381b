// cpu/dispatch: which tiers this processor and this system can run; the one place that asks. The table is filled with C and then
// overwritten by the tier chosen. A tier needs its instructions (cpuid) and the system's leave to use its registers (XGETBV).
#include <string.h>

#include "cpu/cpu_internal.h"

#if defined(__x86_64__)
#include <cpuid.h>

typedef struct features { bool avx2, avx512; } features;

static uint64_t saved_registers(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static features detect(void)
{
    features f = {false, false};
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
    bool osxsave = c >> 27 & 1, avx = c >> 28 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
    if (!osxsave || !avx) return f;
    uint64_t xcr = saved_registers();
    uint32_t b7, c7;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d)) return f;
    bool avx2 = b7 >> 5 & 1, bmi2 = b7 >> 8 & 1;
    f.avx2 = (xcr & 6) == 6 && avx2 && fma && f16c && bmi2;
    bool foundation = b7 >> 16 & 1, dq = b7 >> 17 & 1, bw = b7 >> 30 & 1, vl = b7 >> 31 & 1, vbmi = c7 >> 1 & 1, vnni = c7 >> 11 & 1;
    f.avx512 = f.avx2 && (xcr & 0xe6) == 0xe6 && foundation && dq && bw && vl && vbmi && vnni;
    return f;
}
#endif

const char *const *cpu_tiers(void)
{
    static const char *const all[] = {"avx512", "avx2", "ref", NULL};
#if defined(__x86_64__)
    features f = detect();
    return f.avx512 ? all : f.avx2 ? all + 1 : all + 2;
#else
    return all + 2;
#endif
}

status cpu_choose_kernels(const char *isa, cpu_kernels *k, error *err)
{
    const char *const *have = cpu_tiers();
    if (!isa || !*isa) isa = have[0];
    bool known = !strcmp(isa, "ref") || !strcmp(isa, "avx2") || !strcmp(isa, "avx512"), can = false;
    for (int i = 0; have[i]; i++) can |= !strcmp(isa, have[i]);
    if (!known) return error_set(err, E_USAGE, "no processor tier is called '%s'; there are ref, avx2 and avx512", isa);
    if (!can) return error_set(err, E_UNSUPPORTED, "this machine cannot run the tier '%s'; its best is %s", isa, have[0]);
    cpu_kernels_ref(k);
#if defined(__x86_64__)
    if (!strcmp(isa, "avx2")) cpu_kernels_avx2(k);
    if (!strcmp(isa, "avx512")) cpu_kernels_avx512(k);
#endif
    return OK;
}
