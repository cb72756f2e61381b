// cpu/amx/decode: 16 rows x 32 columns of a packed panel as a bf16 weight tile. Layouts: cpu_tile.h.
//
// A tile row is 32 numbers. For 4 bits it costs 2 shifts, 2 table look-ups (VPERMPS, which reads an index's low 4 bits and so masks and converts too),
// 2 multiplications or FMAs with the rows' scales, and 1 VCVTNE2PS2BF16 that rounds and puts the pairs in place (it takes 2.1 cycles, as much as 4
// others): 9 operations on the two vector ports, 72 cycles a tile, where a TDPBF16PS takes 16 for each 16 rows of activations. 5 bits add 2 masked additions
// and on a third port 2 PEXT, 6 bits 2 shifts, 2 look-ups and 2 additions; 8 bits take 2 byte shuffles and 2 conversions for the shifts and look-ups. The
// value before rounding is the file's own to the bit of a float: the products of scale and number are exact. Short codes come as bytes in the order of the
// other tiers (avx512_codes.h): per two tile rows 1 VPERMB, 4 widenings of a quarter each, 4 conversions and multiplications, 2 VCVTNE2PS2BF16.
#pragma once
#include "cpu/avx512/avx512_codes.h"
#include "cpu/cpu_tile.h"
#include <immintrin.h>

enum { AMX_AHEAD = 8192 }; // bytes that weights are asked for ahead, into the second level (docs/PERFORMANCE.md)

typedef struct amx_scales { __m512 d[2][2], m[2]; } amx_scales; // [half of the columns][half of the rows], m minus what minima take off

static inline __m512 amx_half16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline __m512 amx_u8(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p))); }
static inline __m512 amx_i8(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }

// 16 rows' numbers to lanes: rows 0..7 twice each, rows 8..15 twice each.
static inline void amx_spread(__m512 v, __m512 out[2]) {
    const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    out[0] = _mm512_permutexvar_ps(low, v);
    out[1] = _mm512_permutexvar_ps(_mm512_add_epi32(low, _mm512_set1_epi32(8)), v);
}

static inline __m512 amx_e8(const uint8_t *p) { // as quant_e8m0_half; its two subnormal values count as zero here
    __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_max_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), _mm512_setzero_si512()), 23));
}

// Minus what the minimum of block b takes off, of 16 rows.
static inline __attribute__((always_inline)) __m512 amx_load_min(tile_scale kind, const uint8_t *area, int64_t b) {
    if (kind == TILE_DM) return amx_half16(area + b * 64 + 32);
    const uint8_t *x = area + b / 8 * 320;
    return _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(amx_half16(x + 32), amx_u8(x + 64 + b % 8 * 32 + 16)));
}

static inline __attribute__((always_inline)) void amx_load_scales(tile_scale kind, const uint8_t *area, int64_t b, amx_scales *s) {
    __m512 d, e;
    switch (kind) {
    case TILE_D: d = e = amx_half16(area + b * 32); break;
    case TILE_DM: d = e = amx_half16(area + b * 64); break;
    case TILE_K4: {
        const uint8_t *x = area + b / 8 * 320;
        d = e = _mm512_mul_ps(amx_half16(x), amx_u8(x + 64 + b % 8 * 32));
        break;
    }
    case TILE_K6: {
        const uint8_t *x = area + b / 8 * 288, *y = x + 32 + b % 8 * 32;
        d = _mm512_mul_ps(amx_half16(x), amx_i8(y));
        e = _mm512_mul_ps(amx_half16(x), amx_i8(y + 16));
        break;
    }
    case TILE_XS: {
        const uint8_t *x = area + b / 8 * 160;
        d = e = _mm512_mul_ps(amx_half16(x), amx_i8(x + 32 + b % 8 * 16));
        break;
    }
    case TILE_E8: d = e = amx_e8(area + b * 16); break;
    case TILE_NV:
        d = code_e4m3(area + b * 32);
        e = code_e4m3(area + b * 32 + 16);
        break;
    default: d = e = _mm512_set1_ps(1); break;
    }
    amx_spread(d, s->d[0]);
    if (kind == TILE_K6 || kind == TILE_NV) amx_spread(e, s->d[1]);
    if (kind == TILE_DM || kind == TILE_K4) amx_spread(amx_load_min(kind, area, b), s->m);
}

static inline __attribute__((always_inline)) void amx_decode(int bits, tile_scale kind, bool halves, const int8_t *values, const uint8_t *panel, size_t scale_bytes, int64_t b, uint8_t *tile) {
    const size_t bytes = bits == 16 ? 1024 : bits == 8 ? 512 : bits == 6 ? 384 : bits == 5 ? 320 : 256;
    const uint8_t *area = panel + scale_bytes + (size_t)b * bytes;
    const bool two = kind == TILE_K6 || kind == TILE_NV, less = kind == TILE_DM || kind == TILE_K4 || bits == 8;
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)area + AMX_AHEAD + i, _MM_HINT_T1);
    amx_scales s;
    if (!halves) amx_load_scales(kind, panel, b, &s);
    __m512 table = _mm512_setzero_ps(), high = table;
    __m512i low4[2][2], high2[2];
    if (bits == 8) { // d (u - 128), rounded once
        for (int h = 0; h < 2; h++) s.m[h] = _mm512_mul_ps(s.d[0][h], _mm512_set1_ps(-128));
    }
    if (bits < 8) {
        table = bits == 6 ? _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) : amx_i8((const uint8_t *)values);
        high = _mm512_setr_ps(-32, -16, 0, 16, -32, -16, 0, 16, -32, -16, 0, 16, -32, -16, 0, 16);
        for (int i = 0; i < 4; i++) low4[i / 2][i % 2] = _mm512_loadu_si512(area + i * 64);
        if (bits == 6)
            for (int i = 0; i < 2; i++) high2[i] = _mm512_loadu_si512(area + 256 + i * 64);
    }
#pragma GCC unroll 16
    for (int kp = 0; kp < 16; kp++) {
        __m512 f[2];
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            if (halves) {
                f[h] = amx_half16(area + kp * 64 + h * 32);
                continue;
            }
            const int i = h * 4 + kp / 8 * 2 + kp % 2, t = kp % 8 / 2; // see cpu_tile.h
            if (bits == 8) {
                const __m512i byte = _mm512_set4_epi32((int)0x8080800c + t, (int)0x80808008 + t, (int)0x80808004 + t, (int)0x80808000 + t);
                f[h] = _mm512_cvtepi32_ps(_mm512_shuffle_epi8(_mm512_loadu_si512(area + i * 64), byte));
            }
            else f[h] = _mm512_permutexvar_ps(_mm512_srli_epi32(low4[h][kp / 8], (unsigned)(kp % 8 * 4)), table);
            if (bits == 5) {
                uint64_t mask;
                memcpy(&mask, area + 256 + i * 8, 8);
                f[h] = _mm512_mask_add_ps(f[h], (__mmask16)_pext_u64(mask, 0x1111111111111111ull << t), f[h], _mm512_set1_ps(16));
            }
            if (bits == 6) f[h] = _mm512_add_ps(f[h], _mm512_permutexvar_ps(_mm512_srli_epi32(high2[h], (unsigned)(kp * 2)), high));
            __m512 d = s.d[two && kp >= 8][h];
            f[h] = less ? _mm512_fmadd_ps(f[h], d, s.m[h]) : _mm512_mul_ps(f[h], d);
        }
        _mm512_storeu_si512(tile + kp * 64, (__m512i)_mm512_cvtne2ps_pbh(f[1], f[0]));
    }
}

typedef void (*amx_decode_fn)(const uint8_t *panel, size_t scale_bytes, int64_t b, const int8_t *values, uint8_t *tile);
#define DECODE(name, bits, kind, halves) \
    static void name(const uint8_t *panel, size_t scale_bytes, int64_t b, const int8_t *values, uint8_t *tile) { amx_decode(bits, kind, halves, values, panel, scale_bytes, b, tile); }
DECODE(decode_f16, 16, TILE_NONE, true)
DECODE(decode_q8_0, 8, TILE_D, false)
DECODE(decode_4_d, 4, TILE_D, false)
DECODE(decode_4_dm, 4, TILE_DM, false)
DECODE(decode_5_d, 5, TILE_D, false)
DECODE(decode_5_dm, 5, TILE_DM, false)
DECODE(decode_4_k, 4, TILE_K4, false)
DECODE(decode_5_k, 5, TILE_K4, false)
DECODE(decode_6_k, 6, TILE_K6, false)
DECODE(decode_4_xs, 4, TILE_XS, false)
DECODE(decode_4_e8, 4, TILE_E8, false)
DECODE(decode_4_nv, 4, TILE_NV, false)

static inline __attribute__((always_inline)) void amx_decode_code(cpu_format format, const uint8_t *panel, size_t scale_bytes, int64_t b, uint8_t *tile) {
    const code_layout *l = cpu_code(format);
    const int bytes = l->bytes;
    const uint8_t *quants = panel + scale_bytes;
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)quants + b * bytes + AMX_AHEAD + i, _MM_HINT_T1);
    __m512i w[8];
    code_load(format, quants, b, w);
    code_scales s = code_load_scales(format, panel, b);
    __m512 d[2][2], m[2][2];
    if (!code_two(l)) amx_spread(s.d, d[0]);
    else if (l->scale == SCALE_E4) {
        amx_spread(s.d, d[0]);
        amx_spread(s.m, d[1]);
    } else {
        amx_spread(_mm512_mul_ps(s.d, _mm512_cvtepi32_ps(s.s0)), d[0]);
        amx_spread(_mm512_mul_ps(s.d, _mm512_cvtepi32_ps(s.s1)), d[1]);
    }
    if (l->scale == SCALE_MIN) {
        amx_spread(_mm512_mul_ps(s.m, _mm512_cvtepi32_ps(s.m0)), m[0]);
        amx_spread(_mm512_mul_ps(s.m, _mm512_cvtepi32_ps(s.m1)), m[1]);
    }
    // Bytes 0 and 1 of rows 0..7, of rows 8..15, then bytes 2 and 3.
    const __m512i pairs = _mm512_set_epi64(0x3f3e3b3a37363332, 0x2f2e2b2a27262322, 0x1f1e1b1a17161312, 0x0f0e0b0a07060302, 0x3d3c393835343130, 0x2d2c292825242120, 0x1d1c191815141110, 0x0d0c090805040100);
    const __m512i offset = _mm512_set1_epi8((char)l->offset);
#pragma GCC unroll 8
    for (int c = 0; c < 8; c++) {
        __m512i v = _mm512_permutexvar_epi8(pairs, _mm512_sub_epi8(w[c], offset));
        const __m128i quarter[4] = {_mm512_castsi512_si128(v), _mm512_extracti32x4_epi32(v, 1), _mm512_extracti32x4_epi32(v, 2), _mm512_extracti32x4_epi32(v, 3)};
        const int half = code_two(l) && c >= 4;
        __m512 f[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            f[i] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(quarter[i]));
            f[i] = l->scale == SCALE_MIN ? _mm512_fmsub_ps(f[i], d[half][i % 2], m[half][i % 2]) : _mm512_mul_ps(f[i], d[half][i % 2]);
        }
        _mm512_storeu_si512(tile + c * 128, (__m512i)_mm512_cvtne2ps_pbh(f[1], f[0]));
        _mm512_storeu_si512(tile + c * 128 + 64, (__m512i)_mm512_cvtne2ps_pbh(f[3], f[2]));
    }
}

#define DECODE_CODE(name, format) \
    static void name(const uint8_t *panel, size_t scale_bytes, int64_t b, const int8_t *values, uint8_t *tile) \
    { \
        (void)values; \
        amx_decode_code(format, panel, scale_bytes, b, tile); \
    }
DECODE_CODE(decode_q2_k, CPU_Q2_K)
DECODE_CODE(decode_q3_k, CPU_Q3_K)
DECODE_CODE(decode_iq3_s, CPU_IQ3_S)
DECODE_CODE(decode_iq3_xxs, CPU_IQ3_XXS)
DECODE_CODE(decode_iq2_s, CPU_IQ2_S)
DECODE_CODE(decode_iq2_xs, CPU_IQ2_XS)
DECODE_CODE(decode_iq2_xxs, CPU_IQ2_XXS)
DECODE_CODE(decode_iq1_s, CPU_IQ1_S)
DECODE_CODE(decode_iq1_m, CPU_IQ1_M)
DECODE_CODE(decode_tq1_0, CPU_TQ1_0)
DECODE_CODE(decode_tq2_0, CPU_TQ2_0)
DECODE_CODE(decode_q2_0, CPU_Q2_0)
DECODE_CODE(decode_q1_0, CPU_Q1_0)

static amx_decode_fn amx_code_decoder(cpu_format f) {
    switch ((int)f - CPU_TILE_CODE + CPU_CODE_FIRST) {
    case CPU_Q2_K: return decode_q2_k;
    case CPU_Q3_K: return decode_q3_k;
    case CPU_IQ3_S: return decode_iq3_s;
    case CPU_IQ3_XXS: return decode_iq3_xxs;
    case CPU_IQ2_S: return decode_iq2_s;
    case CPU_IQ2_XS: return decode_iq2_xs;
    case CPU_IQ2_XXS: return decode_iq2_xxs;
    case CPU_IQ1_S: return decode_iq1_s;
    case CPU_IQ1_M: return decode_iq1_m;
    case CPU_TQ1_0: return decode_tq1_0;
    case CPU_TQ2_0: return decode_tq2_0;
    case CPU_Q2_0: return decode_q2_0;
    case CPU_Q1_0: return decode_q1_0;
    default: return NULL; // the rest have tiles of their own
    }
}

// NULL: the panel's tiles are used as they lie.
static amx_decode_fn amx_decoder(cpu_format f) {
    switch (f) {
    case CPU_TILE_F16: return decode_f16;
    case CPU_TILE_Q8_0: return decode_q8_0;
    case CPU_TILE_Q4_0: case CPU_TILE_IQ4_NL: return decode_4_d;
    case CPU_TILE_Q4_1: return decode_4_dm;
    case CPU_TILE_Q5_0: return decode_5_d;
    case CPU_TILE_Q5_1: return decode_5_dm;
    case CPU_TILE_Q4_K: return decode_4_k;
    case CPU_TILE_Q5_K: return decode_5_k;
    case CPU_TILE_Q6_K: return decode_6_k;
    case CPU_TILE_IQ4_XS: return decode_4_xs;
    case CPU_TILE_MXFP4: return decode_4_e8;
    case CPU_TILE_NVFP4: return decode_4_nv;
    default: return f >= CPU_TILE_CODE ? amx_code_decoder(f) : NULL;
    }
}
