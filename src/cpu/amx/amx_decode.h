// cpu/amx/decode: 16 rows x 32 columns of a packed panel as a bf16 weight tile. Layouts: cpu_tile.h.
//
// A tile row is 32 numbers, two columns of 16 rows: those of the even column are the lower halves of its dwords, the odd column's the upper. For 4 bits it
// costs 1 shift (every other number comes by loading a byte further on), 2 table look-ups (VPERMPS, which reads an index's low 4 bits and so masks and converts
// too), 2 multiplications or FMAs with the rows' scales, and 1 masked VPSHUFB that cuts both to bf16 and puts them side by side; one row of activations takes
// instead of that 2 VPAND and 2 FMAs that sum. 5 bits add 2 masked additions and on a third port 2 PEXT; 6 and 8 bits take 2 or 1 VPTERNLOG for a look-up.
// Short codes come as bytes in the order of the other tiers (avx512_codes.h), a shift, a VPTERNLOG and a subtraction away.
//
// Cutting. The value before it is the file's own to the bit of a float (the products of scale and number are exact); of that the upper 16 bits are taken. What
// is cut off is, of numbers with any mantissa m in [1, 2), half of 2^-7 in the mean: c = 1 + E[m] / E[m^2] 2^-8 = 1 + 2/3 2^-8 for 1/m distributed mantissas
// makes up for it (the least squares of w - c cut(w)), and multiplies results. The error left is that of rounding to nearest, VCVTNE2PS2BF16, but for a tenth,
// and that instruction is as dear as four others (docs/PERFORMANCE.md). Numbers that bf16 holds are not cut.
#pragma once
#include "cpu/avx512/avx512_codes.h"
#include "cpu/cpu_tile.h"
#include <immintrin.h>

static const float AMX_CUT = 0x1.00aaaap0f; // c above

typedef struct amx_scales { __m512 d[2], m[2]; } amx_scales; // of 16 rows, [half of the columns], m minus what minima take off

static inline __m512 amx_half16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline __m512 amx_u8(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p))); }
static inline __m512 amx_i8(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }

static inline __m512 amx_e8(const uint8_t *p) { // as quant_e8m0_half; its two subnormal values count as zero here
    __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_max_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), _mm512_setzero_si512()), 23));
}

// Minus what the minimum of block b takes off, of 16 rows.
static inline __attribute__((always_inline)) __m512 amx_load_min(cpu_scale kind, const uint8_t *area, int64_t b) {
    if (kind == SCALE_DM) return amx_half16(area + b * 64 + 32);
    const uint8_t *x = area + b / 8 * 320;
    return _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(amx_half16(x + 32), amx_u8(x + 64 + b % 8 * 32 + 16)));
}

static inline __attribute__((always_inline)) void amx_load_scales(cpu_scale kind, const uint8_t *area, int64_t b, amx_scales *s) {
    __m512 d, e;
    switch (kind) {
    case SCALE_D: d = e = amx_half16(area + b * 32); break;
    case SCALE_DM: d = e = amx_half16(area + b * 64); break;
    case SCALE_K4: {
        const uint8_t *x = area + b / 8 * 320;
        d = e = _mm512_mul_ps(amx_half16(x), amx_u8(x + 64 + b % 8 * 32));
        break;
    }
    case SCALE_BYTES: {
        const uint8_t *x = area + b / 8 * 288, *y = x + 32 + b % 8 * 32;
        d = _mm512_mul_ps(amx_half16(x), amx_i8(y));
        e = _mm512_mul_ps(amx_half16(x), amx_i8(y + 16));
        break;
    }
    case SCALE_BYTE: {
        const uint8_t *x = area + b / 8 * 160;
        d = e = _mm512_mul_ps(amx_half16(x), amx_i8(x + 32 + b % 8 * 16));
        break;
    }
    case SCALE_E8: d = e = amx_e8(area + b * 16); break;
    case SCALE_E4:
        d = code_e4m3(area + b * 32);
        e = code_e4m3(area + b * 32 + 16);
        break;
    default: d = e = _mm512_set1_ps(1); break;
    }
    s->d[0] = d;
    s->d[1] = e;
    if (kind == SCALE_DM || kind == SCALE_K4) s->m[0] = s->m[1] = amx_load_min(kind, area, b);
}

// Where decoded numbers go, columns 2 kp and 2 kp + 1 of 16 rows at a time: cut into a tile, or, without one, cut in place and multiplied with a row of activations: the two
// chains of each row as TDPBF16PS has them.
typedef struct amx_out {
    uint8_t *tile;
    const float *x; // 32 numbers of the row
    __m512 even, odd;
} amx_out;

static inline __attribute__((always_inline)) void amx_emit(amx_out *o, bool exact, int kp, __m512 even, __m512 odd) {
    if (o->tile) {
        const __m512i upper = _mm512_broadcast_i32x4(_mm_setr_epi8(2, 3, 0, 0, 6, 7, 0, 0, 10, 11, 0, 0, 14, 15, 0, 0));
        _mm512_storeu_si512(o->tile + kp * 64, _mm512_mask_shuffle_epi8(_mm512_castps_si512(odd), 0x3333333333333333, _mm512_castps_si512(even), upper));
        return;
    }
    const __m512 upper = _mm512_castsi512_ps(_mm512_set1_epi32((int)0xffff0000u));
    o->even = _mm512_fmadd_ps(exact ? even : _mm512_and_ps(even, upper), _mm512_set1_ps(o->x[2 * kp]), o->even);
    o->odd = _mm512_fmadd_ps(exact ? odd : _mm512_and_ps(odd, upper), _mm512_set1_ps(o->x[2 * kp + 1]), o->odd);
}

// Dwords from bit `bit` of those at `at` on; above what belongs to them is whatever follows. Loads have ports to spare, shifts have one. `last`: nothing follows that may be read.
static inline __attribute__((always_inline)) __m512i amx_from(const uint8_t *at, int bit, bool last) {
    if (last && bit >= 8) return _mm512_srli_epi32(_mm512_loadu_si512(at), (unsigned)bit);
    __m512i v = _mm512_loadu_si512(at + (bit - (bit & 7)) / 8);
    return bit & 7 ? _mm512_srli_epi32(v, (unsigned)(bit & 7)) : v;
}

// Two columns of 16 rows of half floats or bf16.
static inline void amx_halves(bool bf16, const uint8_t *at, __m512 f[2]) {
    const __m512i v = _mm512_loadu_si512(at);
    if (bf16) {
        f[0] = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
        f[1] = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000u)));
        return;
    }
    const __m512i apart = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i w = _mm512_permutexvar_epi16(apart, v);
    f[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(w));
    f[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(w, 1));
}

static inline __attribute__((always_inline)) void amx_decode(int bits, cpu_scale kind, bool bf16, const int8_t *values,
    const uint8_t *panel, size_t scale_bytes, int64_t b, amx_out *out) {
    const size_t bytes = bits == 16 ? 1024 : bits == 8 ? 512 : bits == 6 ? 384 : bits == 5 ? 320 : 256;
    const uint8_t *area = panel + scale_bytes + (size_t)b * bytes;
    const bool less = kind == SCALE_DM || kind == SCALE_K4 || bits == 6 || bits == 8;
    amx_scales s;
    if (bits < 16) amx_load_scales(kind, panel, b, &s);
    // 6 and 8 bits: put into a float that is a power of two and them, which goes off again with what is to be subtracted: exact.
    const __m512i low4 = _mm512_set1_epi32(0xf0000), six = _mm512_set1_epi32(0x3f0000), eight = _mm512_set1_epi32(0xff00);
    const __m512i above6 = _mm512_castps_si512(_mm512_set1_ps(0x1p7f)), above8 = _mm512_castps_si512(_mm512_set1_ps(0x1p15f));
    if (bits == 6 || bits == 8)
        for (int i = 0; i < 2; i++) s.m[i] = _mm512_mul_ps(s.d[i], _mm512_set1_ps(bits == 6 ? -(0x1p7f + 32) : -(0x1p15f + 128)));
    const __m512 table = bits < 6 ? amx_i8((const uint8_t *)values) : _mm512_setzero_ps();
#pragma GCC unroll 16
    for (int kp = 0; kp < 16; kp++) {
        __m512 f[2];
        if (bits == 16) {
            amx_halves(bf16, area + kp * 64, f);
            amx_emit(out, bf16, kp, f[0], f[1]);
            continue;
        }
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            const int g = j * 2 + kp / 8, i = g * 2 + kp % 2; // see cpu_tile.h
            if (bits == 8) f[j] = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(amx_from(area + i * 64, kp % 8 / 2 * 8 - 8, i == 7), eight, above8, 0xea));
            else if (bits == 6) {
                __m512i q = _mm512_ternarylogic_epi32(low4, amx_from(area + g * 64, kp % 8 * 4 - 16, false), amx_from(area + 256 + j * 64, kp * 2 - 20, j == 1), 0xca);
                f[j] = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(q, six, above6, 0xea));
            } else f[j] = _mm512_permutexvar_ps(amx_from(area + g * 64, kp % 8 * 4, bits == 4 && g == 3), table);
            if (bits == 5) {
                uint64_t mask;
                memcpy(&mask, area + 256 + i * 8, 8);
                f[j] = _mm512_mask_add_ps(f[j], (__mmask16)_pext_u64(mask, 0x1111111111111111ull << kp % 8 / 2), f[j], _mm512_set1_ps(16));
            }
            f[j] = less ? _mm512_fmadd_ps(f[j], s.d[kp / 8], s.m[kp / 8]) : _mm512_mul_ps(f[j], s.d[kp / 8]);
        }
        amx_emit(out, kind == SCALE_E8 || kind == SCALE_E4, kp, f[0], f[1]);
    }
}

static inline __attribute__((always_inline)) void amx_decode_code(cpu_format format, const uint8_t *panel, size_t scale_bytes, int64_t b, amx_out *out) {
    const code_layout *l = cpu_code(format);
    const uint8_t *quants = panel + scale_bytes;
    __m512i w[8];
    code_load(format, quants, b, w);
    code_scales s = code_load_scales(format, panel, b);
    __m512 d[2] = {s.d, s.d}, m[2];
    if (code_two(l)) {
        d[0] = l->scale == SCALE_E4 ? s.d : _mm512_mul_ps(s.d, _mm512_cvtepi32_ps(s.s0));
        d[1] = l->scale == SCALE_E4 ? s.m : _mm512_mul_ps(s.d, _mm512_cvtepi32_ps(s.s1));
    }
    if (l->scale == SCALE_MIN) {
        m[0] = _mm512_mul_ps(s.m, _mm512_cvtepi32_ps(s.m0));
        m[1] = _mm512_mul_ps(s.m, _mm512_cvtepi32_ps(s.m1));
    }
    const __m512i second = _mm512_set1_epi32(0xff00), power = _mm512_castps_si512(_mm512_set1_ps(0x1p15f)); // a float of 2^15 and the second byte
    const __m512 offset = _mm512_set1_ps(0x1p15f + (float)l->offset);
#pragma GCC unroll 8
    for (int c = 0; c < 8; c++) {
        const __m512i byte[4] = {_mm512_slli_epi32(w[c], 8), w[c], _mm512_srli_epi32(w[c], 8), _mm512_srli_epi32(w[c], 16)};
        __m512 f[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            f[i] = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_ternarylogic_epi32(byte[i], second, power, 0xea)), offset);
            f[i] = l->scale == SCALE_MIN ? _mm512_fmsub_ps(f[i], d[c / 4], m[c / 4]) : _mm512_mul_ps(f[i], d[c / 4]);
        }
        amx_emit(out, false, 2 * c, f[0], f[1]);
        amx_emit(out, false, 2 * c + 1, f[2], f[3]);
    }
}

// How a format's panels are read: a block as a tile (NULL: it is one); a panel times one row of activations in float32 (NULL: not at all), 16 results.
typedef struct amx_reader {
    void (*decode)(const uint8_t *panel, size_t scale_bytes, int64_t b, const int8_t *values, uint8_t *tile);
    __m512 (*chain)(const uint8_t *panel, size_t scale_bytes, size_t block_bytes, int64_t blocks, const int8_t *values, const float *x);
    bool exact; // bf16 holds the numbers: nothing is cut
} amx_reader;

// The two over one text, which decodes block b into `out`.
#define DECODE(name, text) \
    static void decode_##name(const uint8_t *panel, size_t scale_bytes, int64_t b, const int8_t *values, uint8_t *tile) \
    { \
        (void)values; \
        amx_out to = {.tile = tile}, *out = &to; \
        text; \
    }
#define CHAIN(name, text) \
    static __m512 chain_##name(const uint8_t *panel, size_t scale_bytes, size_t block_bytes, int64_t blocks, const int8_t *values, const float *x) \
    { \
        (void)values; \
        __m512 y = _mm512_setzero_ps(); \
        for (int64_t b = 0; b < blocks; b++) { \
            cpu_ask_bytes(panel + PANEL_AHEAD + (size_t)b * block_bytes, block_bytes); \
            amx_out to = {NULL, x + b * TILE_K, _mm512_setzero_ps(), _mm512_setzero_ps()}, *out = &to; \
            text; \
            y = _mm512_add_ps(y, _mm512_add_ps(out->even, out->odd)); \
        } \
        return y; \
    }
#define PACKED(bits, kind, bf16) amx_decode(bits, kind, bf16, values, panel, scale_bytes, b, out)
#define CODE(format) amx_decode_code(format, panel, scale_bytes, b, out)
#define READER(name, text) DECODE(name, text) CHAIN(name, text)
CHAIN(bf16, PACKED(16, SCALE_NONE, true))
READER(f16, PACKED(16, SCALE_NONE, false))
READER(q8_0, PACKED(8, SCALE_D, false))
READER(4_d, PACKED(4, SCALE_D, false))
READER(4_dm, PACKED(4, SCALE_DM, false))
READER(5_d, PACKED(5, SCALE_D, false))
READER(5_dm, PACKED(5, SCALE_DM, false))
READER(4_k, PACKED(4, SCALE_K4, false))
READER(5_k, PACKED(5, SCALE_K4, false))
READER(6_k, PACKED(6, SCALE_BYTES, false))
READER(4_xs, PACKED(4, SCALE_BYTE, false))
READER(4_e8, PACKED(4, SCALE_E8, false))
READER(4_nv, PACKED(4, SCALE_E4, false))

READER(q2_k, CODE(CPU_Q2_K))
READER(q3_k, CODE(CPU_Q3_K))
READER(iq3_s, CODE(CPU_IQ3_S))
READER(iq3_xxs, CODE(CPU_IQ3_XXS))
READER(iq2_s, CODE(CPU_IQ2_S))
READER(iq2_xs, CODE(CPU_IQ2_XS))
READER(iq2_xxs, CODE(CPU_IQ2_XXS))
READER(iq1_s, CODE(CPU_IQ1_S))
READER(iq1_m, CODE(CPU_IQ1_M))
READER(tq1_0, CODE(CPU_TQ1_0))
READER(tq2_0, CODE(CPU_TQ2_0))
READER(q2_0, CODE(CPU_Q2_0))
READER(q1_0, CODE(CPU_Q1_0))

#define BOTH(name) {decode_##name, chain_##name, false}
#define EXACT(name) {decode_##name, chain_##name, true}
static const amx_reader amx_readers[CPU_FORMATS] = {
    [CPU_TILE_BF16] = {NULL, chain_bf16, true},
    [CPU_TILE_F16] = BOTH(f16),
    [CPU_TILE_Q8_0] = BOTH(q8_0),
    [CPU_TILE_Q4_0] = BOTH(4_d),
    [CPU_TILE_IQ4_NL] = BOTH(4_d),
    [CPU_TILE_Q4_1] = BOTH(4_dm),
    [CPU_TILE_Q5_0] = BOTH(5_d),
    [CPU_TILE_Q5_1] = BOTH(5_dm),
    [CPU_TILE_Q4_K] = BOTH(4_k),
    [CPU_TILE_Q5_K] = BOTH(5_k),
    [CPU_TILE_Q6_K] = BOTH(6_k),
    [CPU_TILE_IQ4_XS] = BOTH(4_xs),
    [CPU_TILE_MXFP4] = EXACT(4_e8),
    [CPU_TILE_NVFP4] = EXACT(4_nv),
    [CPU_TILE_CODE + CPU_Q2_K - CPU_CODE_FIRST] = BOTH(q2_k),
    [CPU_TILE_CODE + CPU_Q3_K - CPU_CODE_FIRST] = BOTH(q3_k),
    [CPU_TILE_CODE + CPU_IQ3_S - CPU_CODE_FIRST] = BOTH(iq3_s),
    [CPU_TILE_CODE + CPU_IQ3_XXS - CPU_CODE_FIRST] = BOTH(iq3_xxs),
    [CPU_TILE_CODE + CPU_IQ2_S - CPU_CODE_FIRST] = BOTH(iq2_s),
    [CPU_TILE_CODE + CPU_IQ2_XS - CPU_CODE_FIRST] = BOTH(iq2_xs),
    [CPU_TILE_CODE + CPU_IQ2_XXS - CPU_CODE_FIRST] = BOTH(iq2_xxs),
    [CPU_TILE_CODE + CPU_IQ1_S - CPU_CODE_FIRST] = BOTH(iq1_s),
    [CPU_TILE_CODE + CPU_IQ1_M - CPU_CODE_FIRST] = BOTH(iq1_m),
    [CPU_TILE_CODE + CPU_TQ1_0 - CPU_CODE_FIRST] = BOTH(tq1_0),
    [CPU_TILE_CODE + CPU_TQ2_0 - CPU_CODE_FIRST] = BOTH(tq2_0),
    [CPU_TILE_CODE + CPU_Q2_0 - CPU_CODE_FIRST] = BOTH(q2_0),
    [CPU_TILE_CODE + CPU_Q1_0 - CPU_CODE_FIRST] = BOTH(q1_0),
};
