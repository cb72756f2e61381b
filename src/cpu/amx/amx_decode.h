// cpu/amx/decode: 16 rows x 32 columns of a packed panel as a bf16 weight tile. Layouts: cpu_tile.h.
//
// A tile row is 32 numbers. For 4 bits it costs 2 shifts, 2 table look-ups (VPERMPS, which reads an index's low 4 bits and so masks and converts too),
// 2 multiplications or FMAs with the rows' scales, and 1 VCVTNE2PS2BF16 (2 operations) that rounds and puts the pairs in place: 8 operations on the two
// vector ports, 64 cycles a tile, where a TDPBF16PS takes 16 for each 16 rows of activations. 5 bits add 2 masked additions, 6 bits 2 shifts,
// 2 look-ups and 2 additions; 8 bits take 2 widening loads and 2 conversions for the shifts and look-ups. The value before rounding is the file's
// own to the bit of a float: the products of scale and number are exact.
#pragma once
#include "cpu/cpu_tile.h"
#include <immintrin.h>

enum { AMX_AHEAD = 8192 }; // bytes that weights are asked for ahead, into the second level (docs/PERFORMANCE.md)

typedef struct amx_scales { __m512 d[2][2], m[2]; } amx_scales; // [half of the columns][half of the rows], m minus what is taken off

static inline __m512 amx_half16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline __m512 amx_u8(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p))); }
static inline __m512 amx_i8(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }

// 16 rows' numbers to lanes: rows 0..7 twice each, rows 8..15 twice each.
static inline void amx_spread(__m512 v, __m512 out[2])
{
    const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    out[0] = _mm512_permutexvar_ps(low, v);
    out[1] = _mm512_permutexvar_ps(_mm512_add_epi32(low, _mm512_set1_epi32(8)), v);
}

static inline __m512 amx_e8(const uint8_t *p) // as quant_e8m0_half; its two subnormal values count as zero here
{
    __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_max_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), _mm512_setzero_si512()), 23));
}

static inline __m512 amx_e4m3(const uint8_t *p) // as quant_ue4m3_half: the bits moved up are a half float, 2^7 too small here
{
    __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    x = _mm256_and_si256(x, _mm256_set1_epi16(0x7f));
    x = _mm256_andnot_si256(_mm256_cmpeq_epi16(x, _mm256_set1_epi16(0x7f)), x);
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_slli_epi16(x, 7)), _mm512_set1_ps(0x1p7f));
}

static inline __attribute__((always_inline)) void amx_load_scales(tile_scale kind, const uint8_t *area, int64_t b, amx_scales *s)
{
    __m512 d, e, m = _mm512_setzero_ps();
    switch (kind) {
    case TILE_D: d = e = amx_half16(area + b * 32); break;
    case TILE_DM:
        d = e = amx_half16(area + b * 64);
        m = amx_half16(area + b * 64 + 32);
        break;
    case TILE_K4: {
        const uint8_t *x = area + b / 8 * 320, *y = x + 64 + b % 8 * 32;
        d = e = _mm512_mul_ps(amx_half16(x), amx_u8(y));
        m = _mm512_sub_ps(m, _mm512_mul_ps(amx_half16(x + 32), amx_u8(y + 16)));
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
        d = amx_e4m3(area + b * 32);
        e = amx_e4m3(area + b * 32 + 16);
        break;
    default: d = e = _mm512_set1_ps(1); break;
    }
    amx_spread(d, s->d[0]);
    if (kind == TILE_K6 || kind == TILE_NV) amx_spread(e, s->d[1]);
    if (kind == TILE_DM || kind == TILE_K4) amx_spread(m, s->m);
}

static inline __attribute__((always_inline)) void amx_decode(int bits, tile_scale kind, bool halves, const int8_t *values, const uint8_t *panel, size_t scale_bytes, int64_t b, uint8_t *tile)
{
    const size_t bytes = bits == 16 ? 1024 : bits == 8 ? 512 : bits == 6 ? 384 : bits == 5 ? 320 : 256;
    const uint8_t *area = panel + scale_bytes + (size_t)b * bytes;
    const bool two = kind == TILE_K6 || kind == TILE_NV, less = kind == TILE_DM || kind == TILE_K4;
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)area + AMX_AHEAD + i, _MM_HINT_T1);
    amx_scales s;
    if (!halves) amx_load_scales(kind, panel, b, &s);
    __m512 table = _mm512_setzero_ps(), high = table;
    __m512i low4[2][2], high2[2];
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
            if (bits == 8) f[h] = amx_i8(area + kp * 32 + h * 16);
            else f[h] = _mm512_permutexvar_ps(_mm512_srli_epi32(low4[h][kp / 8], (unsigned)(kp % 8 * 4)), table);
            if (bits == 5) {
                uint16_t mask;
                memcpy(&mask, area + 256 + (kp * 2 + h) * 2, 2);
                f[h] = _mm512_mask_add_ps(f[h], mask, f[h], _mm512_set1_ps(16));
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

// NULL: the panel's tiles are used as they lie.
static amx_decode_fn amx_decoder(cpu_format f)
{
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
    default: return NULL;
    }
}
