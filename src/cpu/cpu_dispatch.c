// cpu/dispatch: which tiers this processor and this system can run; the one place that asks. The table is filled with C and then
// overwritten by the tier chosen. On x86 a tier needs its instructions (cpuid) and the system's leave to use
// its registers (XGETBV); on Arm the system says what there is, in a file of cpu/neon/ for each.
#include <string.h>

#include "cpu/cpu_internal.h"

#if defined(__x86_64__)
#include <cpuid.h>

typedef struct features { bool avx2, vnni, avx512, bf16, amx; } features;

static uint64_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static features detect(void) {
    features f = {false, false, false, false, false};
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
    bool osxsave = c >> 27 & 1, avx = c >> 28 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
    if (!osxsave || !avx) return f;
    uint64_t xcr = saved_registers();
    uint32_t b7, c7, d7, a71 = 0;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || (a >= 1 && !__get_cpuid_count(7, 1, &a71, &b, &c, &d))) return f;
    bool avx2 = b7 >> 5 & 1, bmi2 = b7 >> 8 & 1;
    f.avx2 = (xcr & 6) == 6 && avx2 && fma && f16c && bmi2;
    f.vnni = f.avx2 && (a71 >> 4 & 1);
    bool foundation = b7 >> 16 & 1, dq = b7 >> 17 & 1, bw = b7 >> 30 & 1, vl = b7 >> 31 & 1, vbmi = c7 >> 1 & 1, vnni = c7 >> 11 & 1;
    f.avx512 = f.avx2 && (xcr & 0xe6) == 0xe6 && foundation && dq && bw && vl && vbmi && vnni;
    f.bf16 = f.avx512 && (a71 >> 5 & 1);
    bool tile_bf16 = d7 >> 22 & 1, tile = d7 >> 24 & 1, tile_int8 = d7 >> 25 & 1; // a hypervisor may hide some
    f.amx = f.bf16 && tile && tile_bf16 && tile_int8 && (xcr & 0x60000) == 0x60000 && cpu_tile_permission();
    return f;
}
#endif

// Each processor's from the best to the plainest.
const char *const *cpu_tiers(void) {
#if defined(__x86_64__)
    static const char *const all[] = {"amx", "avx512", "avx2-vnni", "avx2", "ref", NULL}, *const without_vnni[] = {"amx", "avx512", "avx2", "ref", NULL};
    features f = detect();
    int first = f.amx ? 0 : f.avx512 ? 1 : f.avx2 ? 2 : 3;
    return f.vnni ? all + first : without_vnni + first;
#elif defined(__aarch64__)
    static const char *const all[] = {"neon-i8mm", "neon-dotprod", "neon", "ref", NULL};
    cpu_neon_features f = cpu_neon_detect();
    return f.i8mm ? all : f.dotprod ? all + 1 : all + 2;
#else
    static const char *const all[] = {"ref", NULL};
    return all;
#endif
}

status cpu_choose_kernels(const char *isa, cpu_kernels *k, error *err) {
    static const char *const names[] = {"ref", "avx2", "avx2-vnni", "avx512", "amx", "neon", "neon-dotprod", "neon-i8mm"};
    const char *const *have = cpu_tiers();
    if (!isa || !*isa) isa = have[0];
#if defined(__x86_64__)
    if (!strcmp(isa, "amx-emulated")) { // for tests: slow, the same bits
        if (!detect().bf16) return error_set(err, E_UNSUPPORTED, "this machine cannot run the tier '%s'; its best is %s", isa, have[0]);
        cpu_kernels_ref(k);
        cpu_kernels_avx512(k);
        cpu_kernels_amx_emulated(k);
        return OK;
    }
#endif
    bool known = false, can = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) known |= !strcmp(isa, names[i]);
    for (int i = 0; have[i]; i++) can |= !strcmp(isa, have[i]);
    if (!known) return error_set(err, E_USAGE, "no processor tier is called '%s'; there are ref, avx2, avx2-vnni, avx512, amx, neon, neon-dotprod and neon-i8mm", isa);
    if (!can) return error_set(err, E_UNSUPPORTED, "this machine cannot run the tier '%s'; its best is %s", isa, have[0]);
    cpu_kernels_ref(k);
#if defined(__x86_64__)
    if (!strcmp(isa, "avx2")) cpu_kernels_avx2(k);
    if (!strcmp(isa, "avx2-vnni")) cpu_kernels_avx2_vnni(k);
    if (!strcmp(isa, "avx512") || !strcmp(isa, "amx")) cpu_kernels_avx512(k);
    if (!strcmp(isa, "amx")) cpu_kernels_amx(k); // over what it shares with avx512
#elif defined(__aarch64__)
    if (!strcmp(isa, "neon")) cpu_kernels_neon(k);
    if (!strcmp(isa, "neon-dotprod")) cpu_kernels_neon_dotprod(k);
    if (!strcmp(isa, "neon-i8mm")) cpu_kernels_neon_i8mm(k);
#endif
    return OK;
}

int cpu_choose_probes(const char *isa, const cpu_probe **probes) {
    static const struct { const char *isa; const cpu_probe *probes[DEV_MAX_UNITS]; } all[] = {
#if defined(__x86_64__)
        {"amx", {&cpu_probe_amx_bf16, &cpu_probe_amx_int8, &cpu_probe_avx512_vnni, &cpu_probe_avx512_fma}},
        {"amx-emulated", {&cpu_probe_avx512_fma}},
        {"avx512", {&cpu_probe_avx512_vnni, &cpu_probe_avx512_fma}},
        {"avx2-vnni", {&cpu_probe_avx2_vnni, &cpu_probe_avx2_fma}},
        {"avx2", {&cpu_probe_avx2_int8, &cpu_probe_avx2_fma}},
#elif defined(__aarch64__)
        {"neon-i8mm", {&cpu_probe_neon_i8mm, &cpu_probe_neon_dotprod, &cpu_probe_neon}},
        {"neon-dotprod", {&cpu_probe_neon_dotprod, &cpu_probe_neon}},
        {"neon", {&cpu_probe_neon}},
#endif
        {"ref", {&cpu_probe_c}},
    };
    int n = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(isa, all[i].isa))
            for (; n < DEV_MAX_UNITS && all[i].probes[n]; n++) probes[n] = all[i].probes[n];
    return n;
}
