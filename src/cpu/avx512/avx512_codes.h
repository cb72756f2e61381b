// cpu/avx512/codes: 16 rows x 32 columns of short codes (cpu_codes.h) as bytes, value + offset: vector c holds columns 4c..4c+3 of row r in dword r; and what a
// row of int8 activations adds for them. The tile tier decodes from the same. Entries of grids are gathered as 16-bit words from the tables of the file format (at most
// 4 KB), their levels spread to bytes (by VPMULTISHIFTQB where there is VBMI: a qword's eight bytes from eight bit positions) and looked up by VPSHUFB.
#pragma once
#include <immintrin.h>

#include "cpu/cpu_codes.h"

#define CODE_INLINE static inline __attribute__((always_inline))

CODE_INLINE __mmask64 code_mask64(const uint8_t *p) {
    uint64_t m;
    memcpy(&m, p, 8);
    return (__mmask64)m;
}

CODE_INLINE __mmask16 code_mask16(const uint8_t *p) {
    uint16_t m;
    memcpy(&m, p, 2);
    return (__mmask16)m;
}

// The 16 rows' words of the grid for entry number g of the block.
CODE_INLINE __m512i code_words(const code_layout *l, const uint8_t *area, int g) {
    const int entries = l->numbers == CODE_GRID4 ? 8 : 4;
    const uint8_t *high = area + entries * 16 + (l->shift ? 0 : 64) + g * l->high * 2;
    __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(area + g * 16)));
    for (int h = 0; h < l->high; h++) index = _mm512_mask_or_epi32(index, code_mask16(high + h * 2), index, _mm512_set1_epi32(256 << h));
    __m512i pairs = _mm512_i32gather_epi32(_mm512_srli_epi32(index, 1), l->grid, 4); // two entries: never past the table's end
    return _mm512_srlv_epi32(pairs, _mm512_slli_epi32(_mm512_and_si512(index, _mm512_set1_epi32(1)), 4));
}

// Byte t of each dword from bit `first` + step * t of it on, step 4 or 2; three or two bits of a byte are meant, and whatever comes above them is not.
CODE_INLINE __m512i code_spread(__m512i words, int first, int step) {
#ifdef __AVX512VBMI__
    return _mm512_multishift_epi64_epi8(_mm512_add_epi8(_mm512_set1_epi64(step == 4 ? 0x2c2824200c080400 : 0x2624222006040200), _mm512_set1_epi8((char)first)), words);
#else
    if (step == 4) { // byte 2 from bits 8 on, then odd bytes from bits 4 and 12 on
        __m512i v = _mm512_or_si512(_mm512_and_si512(words, _mm512_set1_epi32(0xff)), _mm512_and_si512(_mm512_slli_epi32(words, 8), _mm512_set1_epi32(0xff0000)));
        return _mm512_or_si512(v, _mm512_slli_epi32(v, 4));
    }
    __m512i v = _mm512_and_si512(_mm512_srli_epi32(words, (unsigned)first), _mm512_set1_epi32(0xff));
    v = _mm512_or_si512(v, _mm512_slli_epi32(v, 12)); // byte 2 from bit 4 on, then odd bytes from bits 2 and 6 on
    return _mm512_or_si512(v, _mm512_slli_epi32(v, 6));
#endif
}

CODE_INLINE void code_load_grid(const code_layout *l, const uint8_t *area, __m512i w[8]) {
    const bool four = l->numbers == CODE_GRID4;
    const uint8_t *signs = area + (four ? 128 : 64), *shift = signs + (four ? 8 : 4) * l->high * 2;
    const __m512i levels = _mm512_add_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)l->values)), _mm512_set1_epi8((char)(l->offset + l->shift)));
    const __m512i mask = _mm512_set1_epi8(four ? 7 : 3);
    for (int c = 0; c < 8; c++) {
        if (four) w[c] = code_spread(code_words(l, area, c), 0, 4);
        else if (c % 2 == 0) {
            __m512i words = code_words(l, area, c / 2);
            w[c] = code_spread(words, 0, 2);
            w[c + 1] = code_spread(words, 8, 2);
        }
    }
    for (int c = 0; c < 8; c++) {
        w[c] = _mm512_shuffle_epi8(levels, _mm512_and_si512(w[c], mask));
        if (!l->shift) w[c] = _mm512_mask_sub_epi8(w[c], code_mask64(signs + c * 8), _mm512_set1_epi8((char)(2 * l->offset)), w[c]);
    }
    if (!l->shift) return;
    for (int g = 0; g < 4; g++) { // one up is in the levels; two down where the mask says so
        __m512i two = _mm512_maskz_set1_epi32(code_mask16(shift + g * 2), 0x02020202);
        w[2 * g] = _mm512_sub_epi8(w[2 * g], two);
        w[2 * g + 1] = _mm512_sub_epi8(w[2 * g + 1], two);
    }
}

CODE_INLINE void code_load_five(const uint8_t *area, int64_t b, __m512i w[8]) {
    const __m512i low = _mm512_set1_epi16(255), one = _mm512_set1_epi8(1);
    for (int c = 0; c < 8; c++) {
        int n = (int)(b % 8) * 8 + c;
        __m512i v = _mm512_loadu_si512(area + n % 13 * 64), p = _mm512_set1_epi16(cpu_pow3[n / 13]);
        __m512i even = _mm512_mullo_epi16(_mm512_and_si512(v, low), p), odd = _mm512_mullo_epi16(_mm512_srli_epi16(v, 8), p);
        v = _mm512_ternarylogic_epi32(low, even, _mm512_slli_epi16(odd, 8), 0xca); // the fraction of 256: three times it is 0, 1 or 2 and something
        w[c] = _mm512_mask_add_epi8(_mm512_maskz_mov_epi8(_mm512_cmpgt_epu8_mask(v, _mm512_set1_epi8(85)), one), _mm512_cmpgt_epu8_mask(v, _mm512_set1_epi8((char)170)), one, one);
    }
}

CODE_INLINE void code_load(cpu_format format, const uint8_t *quants, int64_t b, __m512i w[8]) {
    const code_layout *l = cpu_code(format);
    const uint8_t *a = quants + code_area(l, b);
    switch (l->numbers) {
    case CODE_TABLE: {
        const __m512i low = _mm512_set1_epi8(15), table = _mm512_add_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)l->values)), _mm512_set1_epi8((char)l->offset));
        for (int c = 0; c < 4; c++) {
            __m512i v = _mm512_loadu_si512(a + c * 64);
            w[c] = _mm512_shuffle_epi8(table, _mm512_and_si512(v, low));
            w[c + 4] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
        }
        break;
    }
    case CODE_1:
        for (int c = 0; c < 8; c++) w[c] = _mm512_maskz_set1_epi8(code_mask64(a + c * 8), 2);
        break;
    case CODE_2: case CODE_3:
        for (int c = 0; c < 2; c++) {
            const __m512i low = _mm512_set1_epi8(3);
            __m512i v = _mm512_loadu_si512(a + c * 64);
            w[c] = _mm512_and_si512(v, low);
            w[c + 2] = _mm512_and_si512(_mm512_srli_epi16(v, 2), low);
            w[c + 4] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
            w[c + 6] = _mm512_and_si512(_mm512_srli_epi16(v, 6), low);
        }
        if (l->numbers == CODE_3)
            for (int c = 0; c < 8; c++) w[c] = _mm512_mask_add_epi8(w[c], code_mask64(a + 128 + c * 8), w[c], _mm512_set1_epi8(4));
        break;
    case CODE_FIVE: code_load_five(a, b, w); break;
    default: code_load_grid(l, a, w); break;
    }
}

// Scales of 16 rows: a block's sum is d * (value sums), or with integers s0 and s1 for its halves; SCALE_E4: d and m are the halves' own;
// SCALE_MIN: less m * (m0, m1 times the sums of activations).
typedef struct code_scales { __m512 d, m; __m512i s0, s1, m0, m1; } code_scales;

CODE_INLINE __m512 code_half16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
CODE_INLINE __m512i code_u8(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }
CODE_INLINE __m512i code_i8(const uint8_t *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)); }
CODE_INLINE __m512i code_odd(__m512i s) { return _mm512_or_si512(_mm512_add_epi32(s, s), _mm512_set1_epi32(1)); }

CODE_INLINE __m512 code_e8m0(const uint8_t *p) {
    __m512i e = code_u8(p), small = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(_mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23), _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2)), small));
}

CODE_INLINE __m512 code_e4m3(const uint8_t *p) { // the bits moved up are a half float, 2^7 too small here; the sign is not looked at, 0x7f gives 0
    __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)), bits = _mm256_set1_epi16(0x7f);
    x = _mm256_andnot_si256(_mm256_cmpeq_epi16(x, bits), _mm256_and_si256(x, bits));
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_slli_epi16(x, 7)), _mm512_set1_ps(0x1p7f));
}

CODE_INLINE code_scales code_load_scales(cpu_format format, const uint8_t *area, int64_t b) {
    const code_layout *l = cpu_code(format);
    const __m512i low = _mm512_set1_epi32(15);
    code_scales s = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    switch (l->scale) {
    case SCALE_D: s.d = code_half16(area + b / l->group * 32); break;
    case SCALE_BYTE: {
        const uint8_t *x = area + b / 8 * 160;
        s.d = _mm512_mul_ps(code_half16(x), _mm512_cvtepi32_ps(code_i8(x + 32 + b % 8 * 16)));
        break;
    }
    case SCALE_NIBBLE: {
        const uint8_t *x = area + b / 8 * 96;
        __m512i n = _mm512_and_si512(_mm512_srl_epi32(code_u8(x + 32 + b % 8 / 2 * 16), _mm_cvtsi32_si128((int)(b % 2) * 4)), low);
        s.d = _mm512_mul_ps(_mm512_mul_ps(code_half16(x), _mm512_set1_ps(l->unit)), _mm512_cvtepi32_ps(code_odd(n)));
        break;
    }
    case SCALE_PAIR: {
        const uint8_t *x = area + b / 8 * 160;
        __m512i n = code_u8(x + 32 + b % 8 * 16);
        s.d = _mm512_mul_ps(code_half16(x), _mm512_set1_ps(l->unit));
        s.s0 = code_odd(_mm512_and_si512(n, low));
        s.s1 = code_odd(_mm512_srli_epi32(n, 4));
        break;
    }
    case SCALE_BYTES: {
        const uint8_t *x = area + b / 8 * 288;
        s.d = code_half16(x);
        s.s0 = code_i8(x + 32 + b % 8 * 32);
        s.s1 = code_i8(x + 48 + b % 8 * 32);
        break;
    }
    case SCALE_MIN: {
        const uint8_t *x = area + b / 8 * 320;
        __m512i first = code_u8(x + 64 + b % 8 * 32), second = code_u8(x + 80 + b % 8 * 32);
        s.d = code_half16(x);
        s.m = code_half16(x + 32);
        s.s0 = _mm512_and_si512(first, low);
        s.s1 = _mm512_and_si512(second, low);
        s.m0 = _mm512_srli_epi32(first, 4);
        s.m1 = _mm512_srli_epi32(second, 4);
        break;
    }
    case SCALE_E8: s.d = code_e8m0(area + b * 16); break;
    default:
        s.d = code_e4m3(area + b * 32);
        s.m = code_e4m3(area + b * 32 + 16);
        break;
    }
    return s;
}

CODE_INLINE __m512i code_quad(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, 4);
    return _mm512_set1_epi32(v);
}

// a in the low, b in the high halves of dwords; both fit int16.
CODE_INLINE __m512i code_pair(__m512i a, __m512i b) { return _mm512_mask_blend_epi16(0xaaaaaaaa, a, _mm512_slli_epi32(b, 16)); }

// The scales as code_row takes them.
CODE_INLINE code_scales code_row_scales(cpu_format format, const uint8_t *area, int64_t b) {
    code_scales s = code_load_scales(format, area, b);
    if (code_pairs(cpu_code(format))) {
        s.s0 = code_pair(s.s0, s.s1);
        s.m0 = code_pair(s.m0, s.m1);
    }
    return s;
}

// One row's block: y += what it adds, for 16 outputs. The sums of weights + offset begin at -offset * (sum of q).
CODE_INLINE __m512 code_row(cpu_format format, const __m512i w[8], const code_scales *s, const int8_t *q, float d, int32_t nsum, int32_t nhigh, __m512 y) {
    const code_layout *l = cpu_code(format);
    const __m512i offset = _mm512_set1_epi32(l->offset);
    __m512i a, b;
    const bool two = code_two(l); // sums of 16 columns, each with a scale; else of 32, in two chains all the same (avx512_kernels.h)
    a = l->offset ? _mm512_mullo_epi32(_mm512_set1_epi32(two ? nsum - nhigh : nsum), offset) : _mm512_setzero_si512();
    b = l->offset && two ? _mm512_mullo_epi32(_mm512_set1_epi32(nhigh), offset) : _mm512_setzero_si512();
    for (int c = 0; c < 4; c++) {
        a = _mm512_dpbusd_epi32(a, w[c], code_quad(q + c * 4));
        b = _mm512_dpbusd_epi32(b, w[c + 4], code_quad(q + 16 + c * 4));
    }
    if (!two) return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(a, b)), _mm512_mul_ps(s->d, _mm512_set1_ps(d)), y);
    if (l->scale == SCALE_E4) {
        y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), _mm512_mul_ps(s->d, _mm512_set1_ps(d)), y);
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(b), _mm512_mul_ps(s->m, _mm512_set1_ps(d)), y);
    }
    a = code_pairs(l) ? _mm512_madd_epi16(code_pair(a, b), s->s0) : _mm512_add_epi32(_mm512_mullo_epi32(a, s->s0), _mm512_mullo_epi32(b, s->s1));
    y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), _mm512_mul_ps(s->d, _mm512_set1_ps(d)), y);
    if (l->scale != SCALE_MIN) return y;
    a = _mm512_madd_epi16(s->m0, _mm512_set1_epi32((int32_t)((uint32_t)(nsum - nhigh) & 0xffff) | (int32_t)((uint32_t)nhigh << 16)));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), _mm512_mul_ps(s->m, _mm512_set1_ps(d)), y);
}
