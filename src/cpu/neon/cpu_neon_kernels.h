// cpu/neon kernels: one text for the three forms of the tier, which differ in the instruction that multiplies int8 and in nothing else:
//   neon           SMULL and SMLAL into int16, as many as fit, widened by SADALP: every 64-bit Arm
//   neon-dotprod   SDOT: four columns of four rows at once
//   neon-i8mm      SMMLA: eight columns of two rows of weights and two of activations at once; one row alone as with SDOT
// Sums inside a block are exact int32 and blocks are added in ascending order by the operations that avx2 and avx512 use, so
// the forms give the same bits (and those tiers' as well, for int8 formats).
// The including file is compiled for the instructions it names and defines none of the macros below: the compiler's tell the form.
#pragma once
#include <arm_neon.h>

#include "cpu/cpu_codes.h"
#include "cpu/cpu_generic.h"
#include "cpu/cpu_int8.h"

#define INLINE static inline __attribute__((always_inline))

// The quants of 16 rows x 32 columns as signed bytes. Vector c * 4 + j of w: rows 4j..4j+3, columns 4c..4c+3 of each.
typedef struct block {
    int8x16_t w[32];
    float32x4_t d[4], m[4];
    int32x4_t s0[4], s1[4], m0[4], m1[4]; // m0, m1: of codes alone
} block;

INLINE bool with_min(int format) { return format == CPU_Q4_1 || format == CPU_Q5_1 || format == CPU_Q4_K || format == CPU_Q5_K; }
INLINE bool five_bits(int format) { return format == CPU_Q5_0 || format == CPU_Q5_1 || format == CPU_Q5_K; }

// Columns 0..15 and 16..31 have scales of their own.
INLINE bool in_halves(int format) { return format == CPU_Q6_K || (cpu_format_code((cpu_format)format) && code_two(cpu_code((cpu_format)format))); }

// 16 bits to 16 bytes of 16 or 0.
INLINE uint8x16_t spread_bits(const uint8_t *p) {
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t v = vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1]));
    return vandq_u8(vtstq_u8(v, vld1q_u8(bits)), vdupq_n_u8(16));
}

INLINE int8x16_t centred(int format, uint8x16_t v) {
    const int offset = format == CPU_Q4_0 ? 8 : format == CPU_Q5_0 ? 16 : format == CPU_Q6_K ? 32 : 0;
    return vreinterpretq_s8_u8(offset ? vsubq_u8(v, vdupq_n_u8((uint8_t)offset)) : v);
}

// Vectors c * 4 + j and (c + 4) * 4 + j of formats that keep them in one byte.
INLINE void two_vectors(int format, const uint8_t *a, int c, int j, int8x16_t *first, int8x16_t *second) {
    const uint8x16_t two = vdupq_n_u8(0x30);
    uint8x16_t v = vld1q_u8(a + c * 64 + j * 16), x = vandq_u8(v, vdupq_n_u8(15)), y = vshrq_n_u8(v, 4);
    if (format == CPU_Q6_K) {
        uint8x16_t h = vld1q_u8(a + 256 + (c & 1) * 64 + j * 16);
        x = vorrq_u8(x, vandq_u8(c < 2 ? vshlq_n_u8(h, 4) : vshlq_n_u8(h, 2), two));
        y = vorrq_u8(y, vandq_u8(c < 2 ? h : vshrq_n_u8(h, 2), two));
    } else if (five_bits(format)) {
        x = vorrq_u8(x, spread_bits(a + 256 + c * 8 + j * 2));
        y = vorrq_u8(y, spread_bits(a + 288 + c * 8 + j * 2));
    }
    *first = centred(format, x);
    *second = centred(format, y);
}

INLINE void load_weights(int format, const uint8_t *a, block *o) {
    if (format == CPU_Q8) { // stored with 128 added
        for (int i = 0; i < 32; i++) o->w[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(a + i * 16), vdupq_n_u8(0x80)));
        return;
    }
    for (int c = 0; c < 4; c++)
        for (int j = 0; j < 4; j++) two_vectors(format, a, c, j, &o->w[c * 4 + j], &o->w[c * 4 + 16 + j]);
}

INLINE float32x4_t half4(const uint8_t *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
INLINE uint16x8_t bytes8(const uint8_t *p) { return vmovl_u8(vld1_u8(p)); }

INLINE void load_scales(int format, const uint8_t *area, int64_t b, block *o) {
    for (int j = 0; j < 4; j++) {
        switch (format) {
        case CPU_Q8: case CPU_Q4_0: case CPU_Q5_0: o->d[j] = half4(area + b * 32 + j * 8); break;
        case CPU_Q4_1: case CPU_Q5_1:
            o->d[j] = half4(area + b * 64 + j * 8);
            o->m[j] = half4(area + b * 64 + 32 + j * 8);
            break;
        case CPU_Q4_K: case CPU_Q5_K: {
            const uint8_t *x = area + b / 8 * 320, *y = x + 64 + b % 8 * 32;
            uint16x8_t d = bytes8(y + j / 2 * 8), m = bytes8(y + 16 + j / 2 * 8);
            o->d[j] = vmulq_f32(half4(x + j * 8), vcvtq_f32_u32(vmovl_u16(j & 1 ? vget_high_u16(d) : vget_low_u16(d))));
            o->m[j] = vmulq_f32(half4(x + 32 + j * 8), vcvtq_f32_u32(vmovl_u16(j & 1 ? vget_high_u16(m) : vget_low_u16(m))));
            break;
        }
        default: {
            const uint8_t *x = area + b / 8 * 288, *y = x + 32 + b % 8 * 32;
            int16x8_t s = vmovl_s8(vld1_s8((const int8_t *)y + j / 2 * 8)), t = vmovl_s8(vld1_s8((const int8_t *)y + 16 + j / 2 * 8));
            o->d[j] = half4(x + j * 8);
            o->s0[j] = vmovl_s16(j & 1 ? vget_high_s16(s) : vget_low_s16(s));
            o->s1[j] = vmovl_s16(j & 1 ? vget_high_s16(t) : vget_low_s16(t));
        }
        }
    }
}

// What a block adds to four outputs of one row: low and high are the int32 sums of columns 0..15 and 16..31 (together in low where the
// format has one scale a block).
INLINE float32x4_t add_block(int format, const block *w, int j, int32x4_t low, int32x4_t high, float d, float ds, float32x4_t y) {
    if (format == CPU_Q6_K) low = vmlaq_s32(vmulq_s32(low, w->s0[j]), high, w->s1[j]);
    y = vfmaq_f32(y, vcvtq_f32_s32(low), vmulq_f32(w->d[j], vdupq_n_f32(d)));
    if (format == CPU_Q4_1 || format == CPU_Q5_1) y = vfmaq_f32(y, w->m[j], vdupq_n_f32(ds));
    if (format == CPU_Q4_K || format == CPU_Q5_K) y = vfmsq_f32(y, w->m[j], vdupq_n_f32(ds));
    return y;
}

#include "cpu/neon/neon_codes.h"
#include "cpu/neon/neon_pack.h"

// ---- the sums of a block for N rows; low[n][j], high[n][j] --------------------------------------------------------------------

#if defined(__ARM_FEATURE_DOTPROD)
INLINE int32x4_t dot_lane(int32x4_t s, int8x16_t w, int8x16_t q, int lane) {
    switch (lane) { // a constant once the loops are unrolled
    case 0: return vdotq_laneq_s32(s, w, q, 0);
    case 1: return vdotq_laneq_s32(s, w, q, 1);
    case 2: return vdotq_laneq_s32(s, w, q, 2);
    default: return vdotq_laneq_s32(s, w, q, 3);
    }
}

INLINE void sums(int format, int N, const block *w, const int8_t *q, int32x4_t low[][4], int32x4_t high[][4]) {
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
        const int8x16_t q0 = vld1q_s8(q + n * BLOCK), q1 = vld1q_s8(q + n * BLOCK + 16);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            int32x4_t a = vdupq_n_s32(0), b = a;
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) a = dot_lane(a, w->w[c * 4 + j], q0, c);
            if (!in_halves(format)) b = a;
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) b = dot_lane(b, w->w[c * 4 + 16 + j], q1, c);
            low[n][j] = in_halves(format) ? a : b;
            high[n][j] = b;
        }
    }
}
#else
INLINE int16x8_t times(int16x8_t s, bool first, int8x8_t w, int8x8_t q) { return first ? vmull_s8(w, q) : vmlal_s8(s, w, q); }

// Greatest |weight| 16: eight products fit int16; 64: four; 128: two.
INLINE void sums(int format, int N, const block *w, const int8_t *q, int32x4_t low[][4], int32x4_t high[][4]) {
    const int most = cpu_format_code((cpu_format)format) ? cpu_code((cpu_format)format)->most : format == CPU_Q8 ? 128 : format == CPU_Q6_K ? 32 : 16;
    const int room = most > 64 ? 2 : most > 16 || in_halves(format) ? 4 : 8; // halves end where their sums do
    for (int n = 0; n < N; n++)
        for (int j = 0; j < 4; j++) {
            int32x4_t a0 = vdupq_n_s32(0), a1 = a0;
            int16x8_t p0 = vdupq_n_s16(0), p1 = p0;
#pragma GCC unroll 8
            for (int c = 0; c < 8; c++) {
                int8x8_t v = vreinterpret_s8_s32(vld1_dup_s32((const int32_t *)(const void *)(q + n * BLOCK + c * 4)));
                p0 = times(p0, c % room == 0, vget_low_s8(w->w[c * 4 + j]), v);
                p1 = times(p1, c % room == 0, vget_high_s8(w->w[c * 4 + j]), v);
                if (c % room == room - 1) {
                    a0 = vpadalq_s16(a0, p0);
                    a1 = vpadalq_s16(a1, p1);
                }
                if (in_halves(format) && c == 3) {
                    low[n][j] = vpaddq_s32(a0, a1);
                    a0 = a1 = vdupq_n_s32(0);
                }
            }
            high[n][j] = vpaddq_s32(a0, a1);
            if (!in_halves(format)) low[n][j] = high[n][j];
        }
}
#endif

#if defined(__ARM_FEATURE_MATMUL_INT8)
// The weights again, for SMMLA: vector o * 8 + i holds columns 8o..8o+7 of rows 2i and 2i + 1.
INLINE void pair_columns(block *w) {
    for (int o = 0; o < 4; o++) {
        int32x4_t v[8];
        for (int j = 0; j < 4; j++) {
            int32x4_t x = vreinterpretq_s32_s8(w->w[o * 8 + j]), y = vreinterpretq_s32_s8(w->w[o * 8 + 4 + j]);
            v[2 * j] = vzip1q_s32(x, y);
            v[2 * j + 1] = vzip2q_s32(x, y);
        }
        for (int i = 0; i < 8; i++) w->w[o * 8 + i] = vreinterpretq_s8_s32(v[i]);
    }
}

// Two rows of activations: a vector's lanes are (row 2i, first), (2i, second), (2i + 1, first), (2i + 1, second).
INLINE void sums_of_two(int format, const block *w, const int8_t *q, int32x4_t low[][4], int32x4_t high[][4]) {
    int8x16_t a[4];
    for (int h = 0; h < 2; h++) {
        int64x2_t x = vreinterpretq_s64_s8(vld1q_s8(q + h * 16)), y = vreinterpretq_s64_s8(vld1q_s8(q + BLOCK + h * 16));
        a[2 * h] = vreinterpretq_s8_s64(vzip1q_s64(x, y));
        a[2 * h + 1] = vreinterpretq_s8_s64(vzip2q_s64(x, y));
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        int32x4_t s[2], t[2];
        for (int i = 0; i < 2; i++) {
            s[i] = vmmlaq_s32(vmmlaq_s32(vdupq_n_s32(0), w->w[2 * j + i], a[0]), w->w[8 + 2 * j + i], a[1]);
            t[i] = vmmlaq_s32(vmmlaq_s32(in_halves(format) ? vdupq_n_s32(0) : s[i], w->w[16 + 2 * j + i], a[2]), w->w[24 + 2 * j + i], a[3]);
        }
        high[0][j] = vuzp1q_s32(t[0], t[1]);
        high[1][j] = vuzp2q_s32(t[0], t[1]);
        low[0][j] = in_halves(format) ? vuzp1q_s32(s[0], s[1]) : high[0][j];
        low[1][j] = in_halves(format) ? vuzp2q_s32(s[0], s[1]) : high[1][j];
    }
}
#endif

// ---- products -----------------------------------------------------------------------------------------------------------------

INLINE void int8_rows(int format, int R, const cpu_tensor *t, const uint8_t *panel, int64_t k, int8_src src, cpu_ask *ask, float (*out)[PANEL]) {
    const bool code = cpu_format_code((cpu_format)format);
    const uint8_t *quants = panel + t->scale_bytes;
    const size_t bytes = code ? (size_t)cpu_code((cpu_format)format)->bytes : cpu_int8_bytes((cpu_format)format);
    const uint8_t *area = quants;
    block w;
    if (!src.tile) { // one row: bound by memory
        const size_t share = cpu_ask_share(t->panel_bytes, k / BLOCK);
        float32x4_t y[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
        for (int64_t b = 0; b < k / BLOCK; b++, area += bytes) {
            cpu_ask_next(ask, share);
            int32x4_t low[1][4], high[1][4];
            if (code) code_load((cpu_format)format, quants, b, &w);
            else load_weights(format, area, &w);
            if (code) code_load_scales((cpu_format)format, panel, b, &w);
            else load_scales(format, panel, b, &w);
            sums(format, 1, &w, src.q + b * BLOCK, low, high);
            for (int j = 0; j < 4; j++) {
                if (code) y[j] = code_add_block((cpu_format)format, &w, j, low[0][j], high[0][j], src.aux[b].d, src.aux[b].nsum, src.aux[b].nhigh, y[j]);
                else y[j] = add_block(format, &w, j, low[0][j], high[0][j], src.aux[b].d, src.aux[b].ds, y[j]);
            }
        }
        for (int j = 0; j < 4; j++) vst1q_f32(out[0] + 4 * j, y[j]);
        return;
    }
    memset(out, 0, (size_t)R * sizeof *out);
    const int step = R < 2 ? 1 : 2; // rows at a time
    for (int64_t b = 0; b < k / BLOCK; b++, area += bytes) {
        const cpu_tile_aux *a = src.tile + b;
        const int8_t *q = src.q + b * TILE_BLOCK;
        if (code) code_load((cpu_format)format, quants, b, &w);
        else load_weights(format, area, &w);
        if (code) code_load_scales((cpu_format)format, panel, b, &w);
        else load_scales(format, panel, b, &w);
#if defined(__ARM_FEATURE_MATMUL_INT8)
        if (step == 2) pair_columns(&w);
#endif
        for (int r = 0; r < R; r += step) {
            int32x4_t low[2][4], high[2][4];
#if defined(__ARM_FEATURE_MATMUL_INT8)
            if (step == 2) sums_of_two(format, &w, q + r * BLOCK, low, high);
            else
#endif
                sums(format, step, &w, q + r * BLOCK, low, high);
            for (int n = 0; n < step; n++)
                for (int j = 0; j < 4; j++) {
                    float *y = out[r + n] + 4 * j;
                    if (code) vst1q_f32(y, code_add_block((cpu_format)format, &w, j, low[n][j], high[n][j], a->d[r + n], a->nsum[r + n], a->nhigh[r + n], vld1q_f32(y)));
                    else vst1q_f32(y, add_block(format, &w, j, low[n][j], high[n][j], a->d[r + n], a->ds[r + n], vld1q_f32(y)));
                }
        }
    }
}

// x = d q, d = max |x| / 127; what is too small for that counts as zero, and a block with something that is no number is none.
static void quantize(const float *x, int64_t k, cpu_int8_place to) {
    for (int64_t b = 0; b < k / BLOCK; b++, x += BLOCK, quantize_on(&to)) {
        float32x4_t v[8], m = vdupq_n_f32(0);
        for (int i = 0; i < 8; i++) {
            v[i] = vld1q_f32(x + i * 4);
            m = vmaxq_f32(m, vabsq_f32(v[i]));
        }
        float top = vmaxvq_f32(m); // of NaNs one
        if (!(top <= FLT_MAX)) {
            quantize_none(&to);
            continue;
        }
        bool some = top > 1e-30f;
        float d = some ? top / 127.0f : 0, f = some ? 127.0f / top : 0;
        int32_t sum[2] = {0, 0};
        for (int i = 0; i < 4; i++) {
            int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i], f)), c = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i + 1], f));
            vst1_s8(to.q + i * 8, vqmovn_s16(vcombine_s16(vqmovn_s32(a), vqmovn_s32(c))));
            sum[i / 2] += vaddvq_s32(vaddq_s32(a, c));
        }
        cpu_put_aux(to.aux, to.aux_apart, d, sum[0], sum[1]);
    }
}

static void fill_neon(cpu_kernels *k, const char *isa) {
    k->isa = isa;
    fill_generic(k);
    fill_int8(k);
    k->quantize = quantize;
    fill_pack(k);
}
