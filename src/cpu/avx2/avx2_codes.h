// cpu/avx2/codes: 16 rows x 32 columns of short codes (cpu_codes.h) as bytes, and their products. Vector 2c + h of a block holds columns 4c..4c+3 of rows 8h..8h+7.
// Greatest values up to 15, and all with AVX-VNNI, are kept with their offset, as unsigned bytes; greater ones as |value| and a sign for the activations (avx2_dot.h).
#pragma once
#include <immintrin.h>

#include "cpu/avx2/avx2_dot.h"
#include "cpu/cpu_codes.h"
#include "cpu/cpu_int8.h"

#define CODE_INLINE AVX2_INLINE

typedef struct code_block {
    _Alignas(32) uint8_t w[16][32];
    uint8_t sign[16][32];
    float d[16], m[16];
    int32_t s0[16], s1[16], m0[16]; // code_pairs: s0 holds both halves' scales as int16; m0 so always
} code_block;

CODE_INLINE bool code_signed(const code_layout *l) { return l->most > 15 && !AVX2_VNNI; }

// 32 bits to 32 bytes of all ones or zero.
CODE_INLINE __m256i code_spread(const uint8_t *p) {
    const __m256i pick = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    int32_t bits;
    memcpy(&bits, p, 4);
    return _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), pick), bit), bit);
}

// 8 bits to 8 dwords of `value` or zero.
CODE_INLINE __m256i code_spread8(uint8_t bits, int value) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_and_si256(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), bit), bit), _mm256_set1_epi32(value));
}

CODE_INLINE __m256i code_table(const int8_t *values) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)values)); }

// Signed values into the form that is multiplied.
CODE_INLINE void code_put(const code_layout *l, code_block *o, int i, __m256i v) {
    if (code_signed(l)) {
        _mm256_store_si256((__m256i *)o->sign[i], v);
        v = _mm256_abs_epi8(v);
    } else v = _mm256_add_epi8(v, _mm256_set1_epi8((char)l->offset));
    _mm256_store_si256((__m256i *)o->w[i], v);
}

CODE_INLINE void code_load_grid(const code_layout *l, const uint8_t *a, code_block *o) {
    const bool four = l->numbers == CODE_GRID4;
    const int entries = four ? 8 : 4;
    const uint8_t *signs = a + entries * 16, *high = signs + (l->shift ? 0 : 64), *shift = high + entries * l->high * 2;
    const __m256i levels = _mm256_add_epi8(code_table(l->values), _mm256_set1_epi8(l->shift)), one = _mm256_set1_epi8(1);
    for (int g = 0; g < entries; g++)
        for (int h = 0; h < 2; h++) {
            __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(a + g * 16 + h * 8)));
            for (int i = 0; i < l->high; i++) index = _mm256_or_si256(index, code_spread8(high[(g * l->high + i) * 2 + h], 256 << i));
            __m256i pair = _mm256_i32gather_epi32((const int *)(const void *)l->grid, _mm256_srli_epi32(index, 1), 4); // two entries: never past the table's end
            __m256i word = _mm256_srlv_epi32(pair, _mm256_slli_epi32(_mm256_and_si256(index, _mm256_set1_epi32(1)), 4));
            if (four) {
                word = _mm256_or_si256(_mm256_and_si256(word, _mm256_set1_epi32(0xff)), _mm256_slli_epi32(_mm256_and_si256(word, _mm256_set1_epi32(0xff00)), 8));
                word = _mm256_and_si256(_mm256_or_si256(word, _mm256_slli_epi32(word, 4)), _mm256_set1_epi8(7));
                __m256i sign = _mm256_or_si256(code_spread(signs + g * 8 + h * 4), one);
                code_put(l, o, g * 2 + h, _mm256_sign_epi8(_mm256_shuffle_epi8(levels, word), sign));
                continue;
            }
            for (int c = 0; c < 2; c++) { // times 1 + 2^6 + 2^12 + 2^18: four pairs of bits to four bytes
                __m256i x = _mm256_and_si256(c ? _mm256_srli_epi32(word, 8) : word, _mm256_set1_epi32(0xff));
                x = _mm256_or_si256(x, _mm256_slli_epi32(x, 12));
                x = _mm256_and_si256(_mm256_or_si256(x, _mm256_slli_epi32(x, 6)), _mm256_set1_epi8(3));
                x = _mm256_shuffle_epi8(levels, x);
                if (l->shift) x = _mm256_sub_epi8(x, code_spread8(shift[g * 2 + h], 0x02020202));
                else x = _mm256_sign_epi8(x, _mm256_or_si256(code_spread(signs + (2 * g + c) * 8 + h * 4), one));
                code_put(l, o, (2 * g + c) * 2 + h, x);
            }
        }
}

CODE_INLINE void code_load_five(const uint8_t *area, int64_t b, code_block *o) {
    const __m256i low = _mm256_set1_epi16(255), one = _mm256_set1_epi8(1);
    for (int i = 0; i < 16; i++) {
        int n = (int)(b % 8) * 8 + i / 2;
        __m256i v = avx2_load(area + n % 13 * 64 + i % 2 * 32), p = _mm256_set1_epi16(cpu_pow3[n / 13]);
        v = _mm256_or_si256(_mm256_and_si256(_mm256_mullo_epi16(_mm256_and_si256(v, low), p), low), _mm256_slli_epi16(_mm256_mullo_epi16(_mm256_srli_epi16(v, 8), p), 8));
        // A fraction of 256: three times it is 0, 1 or 2 and something, by saturated differences.
        __m256i x = _mm256_min_epu8(_mm256_subs_epu8(v, _mm256_set1_epi8(85)), one), y = _mm256_min_epu8(_mm256_subs_epu8(v, _mm256_set1_epi8((char)170)), one);
        _mm256_store_si256((__m256i *)o->w[i], _mm256_add_epi8(x, y));
    }
}

CODE_INLINE void code_load(cpu_format format, const uint8_t *quants, int64_t b, code_block *o) {
    const code_layout *l = cpu_code(format);
    const uint8_t *a = quants + code_area(l, b);
    const __m256i low = _mm256_set1_epi8(15), two = _mm256_set1_epi8(3);
    switch (l->numbers) {
    case CODE_TABLE:
        for (int i = 0; i < 8; i++) {
            const __m256i table = code_table(l->values);
            __m256i v = avx2_load(a + i * 32);
            code_put(l, o, i, _mm256_shuffle_epi8(table, _mm256_and_si256(v, low)));
            code_put(l, o, i + 8, _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), low)));
        }
        break;
    case CODE_1:
        for (int i = 0; i < 16; i++) _mm256_store_si256((__m256i *)o->w[i], _mm256_and_si256(code_spread(a + i * 4), _mm256_set1_epi8(2)));
        break;
    case CODE_2: case CODE_3:
        for (int i = 0; i < 16; i++) {
            __m256i v = _mm256_and_si256(_mm256_srl_epi16(avx2_load(a + i % 4 * 32), _mm_cvtsi32_si128(i / 4 * 2)), two);
            if (l->numbers == CODE_3) v = _mm256_or_si256(v, _mm256_and_si256(code_spread(a + 128 + i * 4), _mm256_set1_epi8(4)));
            _mm256_store_si256((__m256i *)o->w[i], v);
        }
        break;
    case CODE_FIVE: code_load_five(a, b, o); break;
    default: code_load_grid(l, a, o); break;
    }
}

CODE_INLINE __m256 code_half8(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
CODE_INLINE __m256i code_u8(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
CODE_INLINE __m256i code_i8(const uint8_t *p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
CODE_INLINE __m256i code_odd(__m256i s) { return _mm256_or_si256(_mm256_add_epi32(s, s), _mm256_set1_epi32(1)); }
CODE_INLINE void code_ints(int32_t *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }

// a in the low, b in the high halves of dwords; both fit int16.
CODE_INLINE __m256i code_pair(__m256i a, __m256i b) { return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xaa); }

CODE_INLINE __m256 code_e8m0(const uint8_t *p) {
    __m256i e = code_u8(p), small = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(_mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23), small, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}

CODE_INLINE __m256 code_e4m3(const uint8_t *p) { // the bits moved up are a half float, 2^7 too small here; the sign is not looked at, 0x7f gives 0
    __m128i x = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p)), bits = _mm_set1_epi16(0x7f);
    x = _mm_andnot_si128(_mm_cmpeq_epi16(x, bits), _mm_and_si128(x, bits));
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_slli_epi16(x, 7)), _mm256_set1_ps(0x1p7f));
}

CODE_INLINE void code_load_scales(cpu_format format, const uint8_t *area, int64_t b, code_block *o) {
    const code_layout *l = cpu_code(format);
    const __m256i low = _mm256_set1_epi32(15);
    const __m256 unit = _mm256_set1_ps(l->unit);
    for (int h = 0; h < 2; h++) {
        __m256 d = _mm256_setzero_ps();
        __m256i s0 = _mm256_setzero_si256(), s1 = s0;
        const uint8_t *x = area, *y;
        switch (l->scale) {
        case SCALE_D: d = code_half8(area + b / l->group * 32 + h * 16); break;
        case SCALE_BYTE:
            x += b / 8 * 160;
            d = _mm256_mul_ps(code_half8(x + h * 16), _mm256_cvtepi32_ps(code_i8(x + 32 + b % 8 * 16 + h * 8)));
            break;
        case SCALE_NIBBLE: {
            x += b / 8 * 96;
            __m256i n = _mm256_and_si256(_mm256_srl_epi32(code_u8(x + 32 + b % 8 / 2 * 16 + h * 8), _mm_cvtsi32_si128((int)(b % 2) * 4)), low);
            d = _mm256_mul_ps(_mm256_mul_ps(code_half8(x + h * 16), unit), _mm256_cvtepi32_ps(code_odd(n)));
            break;
        }
        case SCALE_PAIR: {
            x += b / 8 * 160;
            __m256i n = code_u8(x + 32 + b % 8 * 16 + h * 8);
            d = _mm256_mul_ps(code_half8(x + h * 16), unit);
            s0 = code_odd(_mm256_and_si256(n, low));
            s1 = code_odd(_mm256_srli_epi32(n, 4));
            break;
        }
        case SCALE_BYTES:
            x += b / 8 * 288;
            y = x + 32 + b % 8 * 32 + h * 8;
            d = code_half8(x + h * 16);
            s0 = code_i8(y);
            s1 = code_i8(y + 16);
            break;
        case SCALE_MIN: {
            x += b / 8 * 320;
            y = x + 64 + b % 8 * 32 + h * 8;
            __m256i first = code_u8(y), second = code_u8(y + 16);
            d = code_half8(x + h * 16);
            _mm256_storeu_ps(o->m + h * 8, code_half8(x + 32 + h * 16));
            s0 = _mm256_and_si256(first, low);
            s1 = _mm256_and_si256(second, low);
            code_ints(o->m0 + h * 8, code_pair(_mm256_srli_epi32(first, 4), _mm256_srli_epi32(second, 4)));
            break;
        }
        case SCALE_E8: d = code_e8m0(area + b * 16 + h * 8); break;
        default:
            d = code_e4m3(area + b * 32 + h * 8);
            _mm256_storeu_ps(o->m + h * 8, code_e4m3(area + b * 32 + 16 + h * 8));
            break;
        }
        _mm256_storeu_ps(o->d + h * 8, d);
        code_ints(o->s0 + h * 8, code_pairs(l) ? code_pair(s0, s1) : s0);
        code_ints(o->s1 + h * 8, s1);
    }
}

// N rows' block: y += what it adds, for 16 outputs. Rows of q lie BLOCK apart.
CODE_INLINE void code_block_rows(cpu_format format, int N, const code_block *w, const int8_t *q, const float *d, const int32_t *nsum, const int32_t *nhigh, float (*y)[PANEL]) {
    const code_layout *l = cpu_code(format);
    const int offset = code_signed(l) ? 0 : l->offset, most = code_signed(l) ? l->most : l->most + l->offset;
    const uint8_t(*sign)[32] = code_signed(l) ? w->sign : NULL;
    __m256i low[AT_ONCE][HALVES], high[AT_ONCE][HALVES];
    for (int begin = 0; begin < 2; begin += HALVES) {
        avx2_dots(most, w->w, sign, begin, N, 0, code_two(l) ? 4 : 8, q, BLOCK, low);
        if (code_two(l)) avx2_dots(most, w->w, sign, begin, N, 4, 4, q, BLOCK, high);
#pragma GCC unroll 8
        for (int j = 0; j < N * HALVES; j++) {
            const int i = j / HALVES, h = begin + j % HALVES;
            __m256 v = _mm256_loadu_ps(y[i] + h * 8), wd = _mm256_mul_ps(_mm256_loadu_ps(w->d + h * 8), _mm256_set1_ps(d[i]));
            __m256i a = low[i][j % HALVES];
            if (!code_two(l)) {
                if (offset) a = _mm256_add_epi32(a, _mm256_set1_epi32(nsum[i] * offset));
                _mm256_storeu_ps(y[i] + h * 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), wd, v));
                continue;
            }
            __m256i b = high[i][j % HALVES];
            if (offset) {
                a = _mm256_add_epi32(a, _mm256_set1_epi32((nsum[i] - nhigh[i]) * offset));
                b = _mm256_add_epi32(b, _mm256_set1_epi32(nhigh[i] * offset));
            }
            if (l->scale == SCALE_E4) {
                v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), wd, v);
                v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(b), _mm256_mul_ps(_mm256_loadu_ps(w->m + h * 8), _mm256_set1_ps(d[i])), v);
            } else {
                if (code_pairs(l)) a = _mm256_madd_epi16(code_pair(a, b), avx2_load(w->s0 + h * 8));
                else a = _mm256_add_epi32(_mm256_mullo_epi32(a, avx2_load(w->s0 + h * 8)), _mm256_mullo_epi32(b, avx2_load(w->s1 + h * 8)));
                v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), wd, v);
            }
            if (l->scale == SCALE_MIN) {
                a = _mm256_madd_epi16(avx2_load(w->m0 + h * 8), _mm256_set1_epi32((int32_t)((uint32_t)(nsum[i] - nhigh[i]) & 0xffff) | (int32_t)((uint32_t)nhigh[i] << 16)));
                v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), _mm256_mul_ps(_mm256_loadu_ps(w->m + h * 8), _mm256_set1_ps(d[i])), v);
            }
            _mm256_storeu_ps(y[i] + h * 8, v);
        }
    }
}

// int8_rows of the codes.
CODE_INLINE void code_rows(cpu_format format, int R, const cpu_tensor *t, const uint8_t *panel, int64_t k, int8_src src, cpu_ask *ask, float (*out)[PANEL]) {
    const uint8_t *quants = panel + t->scale_bytes;
    const size_t share = cpu_ask_share(t->panel_bytes, k / BLOCK);
    memset(out, 0, (size_t)R * sizeof *out);
    code_block w;
    for (int64_t b = 0; b < k / BLOCK; b++) {
        code_load(format, quants, b, &w);
        code_load_scales(format, panel, b, &w);
        cpu_ask_next(ask, share);
        if (!src.tile) {
            const cpu_aux *x = src.aux + b;
            code_block_rows(format, 1, &w, src.q + b * BLOCK, &x->d, &x->nsum, &x->nhigh, out);
            continue;
        }
        const cpu_tile_aux *a = src.tile + b;
        const int n = avx2_together(code_two(cpu_code(format)), R);
        for (int r = 0; r < R; r += n) code_block_rows(format, n, &w, src.q + b * TILE_BLOCK + r * BLOCK, a->d + r, a->nsum + r, a->nhigh + r, out + r);
    }
}
