// cpu/neon/probe: the best unit of the form that this is compiled for, busy from registers: FMLA, SDOT or SMMLA.
#pragma once
#include <arm_neon.h>

#include "cpu/cpu_probe.h"

enum { PROBE_CHAINS = 16 };
#if defined(__ARM_FEATURE_MATMUL_INT8)
PROBE_RUN(probe_run, PROBE_CHAINS, int32x4_t, vdupq_n_s32(0), int8x16_t, vdupq_n_s8(1), "w", vmmlaq_s32)
#elif defined(__ARM_FEATURE_DOTPROD)
PROBE_RUN(probe_run, PROBE_CHAINS, int32x4_t, vdupq_n_s32(0), int8x16_t, vdupq_n_s8(1), "w", vdotq_s32)
#else
PROBE_RUN(probe_run, PROBE_CHAINS, float32x4_t, vdupq_n_f32(0), float32x4_t, vdupq_n_f32(1e-3f), "w", vfmaq_f32)
#endif
