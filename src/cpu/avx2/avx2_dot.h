// cpu/avx2/dot: exact int32 sums of a block's weights, 16 rows x 32 columns of bytes, with int8 activations. Vector 2c + h holds columns 4c..4c+3 of rows
// 8h..8h+7.
// AVX-VNNI (VPDPBUSD) adds four products to an int32 at once; weights are unsigned, stored with their offset, which sums of activations take off again. What
// binds there are loads, so four rows of activations (AT_ONCE) go over both halves of the rows of weights (HALVES) together.
// Without it VPMADDUBSW gives int16 sums of two; how many of those may be added before they are widened depends on the format's greatest weight: 16: 8, 32: 4,
// 64: 2, none of greater ones even two. So weights greater than that are |weight|, with signs beside that the activations take.
#pragma once
#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define AVX2_INLINE static inline __attribute__((always_inline))
#if defined(__AVXVNNI__)
enum { AVX2_VNNI = 1, AT_ONCE = 4, HALVES = 2 };
#else
enum { AVX2_VNNI = 0, AT_ONCE = 1, HALVES = 1 };
#endif

AVX2_INLINE __m256i avx2_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
AVX2_INLINE __m256i avx2_quad(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, 4);
    return _mm256_set1_epi32(v);
}

// Of R rows (a power of two), how many go together: as sums have registers, where halves of the columns are summed apart (two) too.
AVX2_INLINE int avx2_together(bool two, int R) {
    const int most = two && AT_ONCE > 2 ? 2 : AT_ONCE;
    return R < most ? R : most;
}

// sum[i][g]: half h + g, g < HALVES, with N rows of activations, `stride` apart, over columns 4 * first .. 4 * (first + n) - 1. most: the greatest
// byte of w, 128 at most where it matters; sign: NULL where weights are unsigned.
AVX2_INLINE void avx2_dots(int most, const uint8_t (*w)[32], const uint8_t (*sign)[32], int h, int N, int first, int n, const int8_t *q, int64_t stride, __m256i (*sum)[HALVES]) {
#if defined(__AVXVNNI__)
    (void)most;
    (void)sign;
    (void)h;
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int c = first; c < first + n; c++) {
        const __m256i v0 = avx2_load(w[2 * c]), v1 = avx2_load(w[2 * c + 1]);
#pragma GCC unroll 4
        for (int i = 0; i < N; i++) {
            const __m256i a = avx2_quad(q + i * stride + c * 4);
            sum[i][0] = _mm256_dpbusd_avx_epi32(sum[i][0], v0, a);
            sum[i][1] = _mm256_dpbusd_avx_epi32(sum[i][1], v1, a);
        }
    }
#else
    const __m256i ones = _mm256_set1_epi16(1);
    const int room = most > 64 ? 1 : most > 32 ? 2 : most > 16 ? 4 : 8;
    for (int i = 0; i < N; i++) {
        __m256i all = _mm256_setzero_si256(), part = all;
        for (int c = first; c < first + n; c++) {
            __m256i a = avx2_quad(q + i * stride + c * 4);
            if (sign) a = _mm256_sign_epi8(a, avx2_load(sign[2 * c + h]));
            __m256i p = _mm256_maddubs_epi16(avx2_load(w[2 * c + h]), a);
            const int in_part = (c - first) % room;
            part = in_part == 0 ? p : _mm256_add_epi16(part, p);
            if (in_part == room - 1 || c == first + n - 1) all = c - first < room ? _mm256_madd_epi16(part, ones) : _mm256_add_epi32(all, _mm256_madd_epi16(part, ones));
        }
        sum[i][0] = all;
    }
#endif
}
