// cpu/neon/probe: the best unit of the form that this is compiled for, busy from registers: FMLA, SDOT or SMMLA.
#pragma once
#include <arm_neon.h>

#include "cpu/cpu_internal.h"

enum { PROBE_CHAINS = 16 };

static void probe_run(int64_t rounds) {
#if defined(__ARM_FEATURE_MATMUL_INT8) || defined(__ARM_FEATURE_DOTPROD)
    int32x4_t a[PROBE_CHAINS];
    int8x16_t x = vdupq_n_s8(1), y = x;
    for (int i = 0; i < PROBE_CHAINS; i++) a[i] = vdupq_n_s32(0);
#else
    float32x4_t a[PROBE_CHAINS], x = vdupq_n_f32(1e-3f), y = x;
    for (int i = 0; i < PROBE_CHAINS; i++) a[i] = vdupq_n_f32(0);
#endif
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < PROBE_CHAINS; i++) {
            __asm__ volatile("" : "+w"(x), "+w"(y)); // or the loop could be computed without running it
#if defined(__ARM_FEATURE_MATMUL_INT8)
            a[i] = vmmlaq_s32(a[i], x, y);
#elif defined(__ARM_FEATURE_DOTPROD)
            a[i] = vdotq_s32(a[i], x, y);
#else
            a[i] = vfmaq_f32(a[i], x, y);
#endif
        }
    for (int i = 0; i < PROBE_CHAINS; i++) __asm__ volatile("" : : "w"(a[i]));
}
