// cpu/dispatch: which tiers this processor and this system can run; the one place that asks. Kernels are those in C, then
// overwritten by the tier chosen (a row of the table of tiers). On x86 a tier needs its instructions (cpuid) and the system's leave to use
// its registers (XGETBV); on Arm the system says what there is, in a file of cpu/neon/ for each.
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "cpu/cpu_internal.h"

// What a tier needs, a bit each.
enum { HAS_AVX2 = 1, HAS_AVX2_VNNI = 2, HAS_AVX512_VNNI = 4, HAS_AVX512 = 8, HAS_BF16 = 16, HAS_AMX = 32, HAS_NEON = 64, HAS_NEON_DOTPROD = 128, HAS_NEON_I8MM = 256 };

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static unsigned detect(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    bool osxsave = c >> 27 & 1, avx = c >> 28 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
    if (!osxsave || !avx) return 0;
    uint64_t xcr = saved_registers();
    uint32_t b7, c7, d7, a71 = 0;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || (a >= 1 && !__get_cpuid_count(7, 1, &a71, &b, &c, &d))) return 0;
    bool avx2 = b7 >> 5 & 1, bmi2 = b7 >> 8 & 1;
    if ((xcr & 6) != 6 || !avx2 || !fma || !f16c || !bmi2) return 0;
    unsigned has = HAS_AVX2 | (a71 >> 4 & 1 ? HAS_AVX2_VNNI : 0);
    bool foundation = b7 >> 16 & 1, dq = b7 >> 17 & 1, bw = b7 >> 30 & 1, vl = b7 >> 31 & 1, vnni = c7 >> 11 & 1;
    if ((xcr & 0xe6) != 0xe6 || !foundation || !dq || !bw || !vl || !vnni) return has;
    has |= HAS_AVX512_VNNI;
    if (!(c7 >> 1 & 1)) return has; // VBMI
    has |= HAS_AVX512;
    if (!(a71 >> 5 & 1)) return has; // bf16
    has |= HAS_BF16;
    bool tile_bf16 = d7 >> 22 & 1, tile = d7 >> 24 & 1, tile_int8 = d7 >> 25 & 1; // a hypervisor may hide some
    return has | (tile && tile_bf16 && tile_int8 && (xcr & 0x60000) == 0x60000 && cpu_tile_permission() ? HAS_AMX : 0);
}
#elif defined(__aarch64__)
static unsigned detect(void) {
    cpu_neon_features f = cpu_neon_detect();
    return HAS_NEON | (f.dotprod ? HAS_NEON_DOTPROD : 0) | (f.i8mm ? HAS_NEON_I8MM : 0);
}
#else
static unsigned detect(void) { return 0; }
#endif

// Each processor's from the best to the plainest.
typedef struct tier {
    const char *name;
    unsigned    needs;
    bool        asked; // never chosen or listed by itself
    void      (*fill[2])(cpu_kernels *k); // over the C, one over the other
    const cpu_probe *probes[DEV_MAX_UNITS];
} tier;

static const tier tiers[] = {
#if defined(__x86_64__)
    {"amx", HAS_AMX, false, {cpu_kernels_avx512, cpu_kernels_amx}, {&cpu_probe_amx_bf16, &cpu_probe_amx_int8, &cpu_probe_avx512_vnni, &cpu_probe_avx512_fma}},
    {"amx-emulated", HAS_BF16, true, {cpu_kernels_avx512, cpu_kernels_amx_emulated}, {&cpu_probe_avx512_fma}}, // for tests: slow, the same bits
    {"avx512", HAS_AVX512, false, {cpu_kernels_avx512}, {&cpu_probe_avx512_vnni, &cpu_probe_avx512_fma}},
    {"avx512-vnni", HAS_AVX512_VNNI, false, {cpu_kernels_avx512_vnni}, {&cpu_probe_avx512_vnni, &cpu_probe_avx512_fma}},
    {"avx2-vnni", HAS_AVX2_VNNI, false, {cpu_kernels_avx2_vnni}, {&cpu_probe_avx2_vnni, &cpu_probe_avx2_fma}},
    {"avx2", HAS_AVX2, false, {cpu_kernels_avx2}, {&cpu_probe_avx2_int8, &cpu_probe_avx2_fma}},
#elif defined(__aarch64__)
    {"neon-i8mm", HAS_NEON_I8MM, false, {cpu_kernels_neon_i8mm}, {&cpu_probe_neon_i8mm, &cpu_probe_neon_dotprod, &cpu_probe_neon}},
    {"neon-dotprod", HAS_NEON_DOTPROD, false, {cpu_kernels_neon_dotprod}, {&cpu_probe_neon_dotprod, &cpu_probe_neon}},
    {"neon", HAS_NEON, false, {cpu_kernels_neon}, {&cpu_probe_neon}},
#endif
    {"ref", 0, false, {NULL}, {&cpu_probe_c}},
};
enum { TIERS = sizeof tiers / sizeof *tiers };
static const char *const names[] = {"ref", "avx2", "avx2-vnni", "avx512-vnni", "avx512", "amx", "neon", "neon-dotprod", "neon-i8mm"}; // of all processors

static const char *have[TIERS + 1];

static void find_tiers(void) {
    const unsigned has = detect();
    int n = 0;
    for (int i = 0; i < TIERS; i++)
        if ((tiers[i].needs & ~has) == 0 && !tiers[i].asked) have[n++] = tiers[i].name;
}

const char *const *cpu_tiers(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_tiers);
    return have;
}

static const tier *find(const char *name) {
    for (int i = 0; i < TIERS; i++)
        if (!strcmp(name, tiers[i].name)) return &tiers[i];
    return NULL;
}

status cpu_choose_kernels(const char *isa, cpu_kernels *k, error *err) {
    const char *best = cpu_tiers()[0];
    if (!isa || !*isa) isa = best;
    const tier *t = find(isa);
    bool known = t;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) known |= !strcmp(isa, names[i]);
    if (!known) {
        char all[128] = "";
        for (size_t i = 0, n = sizeof names / sizeof *names; i < n; i++) {
            const char *between = i == 0 ? "" : i + 1 < n ? ", " : " and ";
            snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", between, names[i]);
        }
        return error_set(err, E_USAGE, "no processor tier is called '%s'; there are %s", isa, all);
    }
    if (!t || t->needs & ~detect()) return error_set(err, E_UNSUPPORTED, "this machine cannot run the tier '%s'; its best is %s", isa, best);
    cpu_kernels_ref(k);
    for (int i = 0; i < 2; i++)
        if (t->fill[i]) t->fill[i](k);
    return OK;
}

int cpu_choose_probes(const char *isa, const cpu_probe **probes) {
    const tier *t = find(isa);
    int n = 0;
    for (; t && n < DEV_MAX_UNITS && t->probes[n]; n++) probes[n] = t->probes[n];
    return n;
}
