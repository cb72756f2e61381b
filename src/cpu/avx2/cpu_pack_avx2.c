// cpu/pack_avx2: sixteen whole rows of the file's blocks into panels (cpu_pack_rows.h), eight rows a vector.
#include <immintrin.h>

#include "cpu/cpu_internal.h"

typedef struct rows16 { __m256i v[2]; } rows16; // rows 0 to 7, 8 to 15

static inline __m256i two_rows(const uint8_t *at, size_t stride) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)at)), _mm_loadu_si128((const __m128i *)(at + 4 * stride)), 1);
}

static inline void columns(const uint8_t *at, size_t stride, rows16 c[4]) {
    for (int h = 0; h < 2; h++) {
        __m256i r[4];
        for (int i = 0; i < 4; i++) r[i] = two_rows(at + (size_t)(8 * h + i) * stride, stride);
        __m256i a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpacklo_epi32(r[2], r[3]);
        __m256i d = _mm256_unpackhi_epi32(r[0], r[1]), e = _mm256_unpackhi_epi32(r[2], r[3]);
        c[0].v[h] = _mm256_unpacklo_epi64(a, b);
        c[1].v[h] = _mm256_unpackhi_epi64(a, b);
        c[2].v[h] = _mm256_unpacklo_epi64(d, e);
        c[3].v[h] = _mm256_unpackhi_epi64(d, e);
    }
}

static inline rows16 select_bits(int mask, rows16 a, rows16 b) {
    const __m256i m = _mm256_set1_epi8((char)mask);
    for (int h = 0; h < 2; h++) a.v[h] = _mm256_or_si256(_mm256_and_si256(m, a.v[h]), _mm256_andnot_si256(m, b.v[h]));
    return a;
}
static inline rows16 left(rows16 x, int n) {
    for (int h = 0; h < 2; h++) x.v[h] = n < 0 ? _mm256_srli_epi16(x.v[h], -n) : _mm256_slli_epi16(x.v[h], n);
    return x;
}
static inline rows16 six_bits(rows16 x) {
    for (int h = 0; h < 2; h++) x.v[h] = _mm256_and_si256(x.v[h], _mm256_set1_epi8(63));
    return x;
}
static inline rows16 flip_sign(rows16 x) {
    for (int h = 0; h < 2; h++) x.v[h] = _mm256_xor_si256(x.v[h], _mm256_set1_epi8((char)0x80));
    return x;
}
static inline rows16 byte_columns(rows16 x) {
    const __m256i lanes = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)), halves = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    // eight rows of byte 0, of byte 1 ... in each
    __m256i a = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x.v[0], lanes), halves), b = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x.v[1], lanes), halves);
    __m256i even = _mm256_unpacklo_epi64(a, b), odd = _mm256_unpackhi_epi64(a, b); // bytes 0 and 2, 1 and 3
    return (rows16){{_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31)}};
}
static inline rows16 half_columns(rows16 x) {
    const __m256i lanes = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    for (int h = 0; h < 2; h++) x.v[h] = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(x.v[h], lanes), 0xd8);
    return (rows16){{_mm256_permute2x128_si256(x.v[0], x.v[1], 0x20), _mm256_permute2x128_si256(x.v[0], x.v[1], 0x31)}};
}
static inline uint64_t bits(rows16 x, int i) {
    uint32_t low = (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(x.v[0], 7 - i)), high = (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(x.v[1], 7 - i));
    return low | (uint64_t)high << 32;
}
static inline void put(uint8_t *to, rows16 x) {
    _mm256_storeu_si256((__m256i *)to, x.v[0]);
    _mm256_storeu_si256((__m256i *)(to + 32), x.v[1]);
}
static inline void put_lanes(uint8_t *to, rows16 x) {
    for (int h = 0; h < 2; h++) {
        _mm_storeu_si128((__m128i *)(to + 64 * h), _mm256_castsi256_si128(x.v[h]));
        _mm_storeu_si128((__m128i *)(to + 64 * h + 32), _mm256_extracti128_si256(x.v[h], 1));
    }
}

#include "cpu/cpu_hash.h"
#include "cpu/cpu_pack_rows.h"

void cpu_pack_avx2(cpu_kernels *k) {
    fill_pack(k);
    k->hash = hash_bytes;
}
