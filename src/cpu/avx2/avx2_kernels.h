// cpu/avx2/kernels: the kernels for AVX2 and FMA, compiled once for them and once with AVX-VNNI. Integer formats: unsigned weights with 4 broadcast int8 activations, 8-bit
// weights as |w| times the activation with w's sign (avx2_dot.h). All exact. A block's unpacked weights lie on the stack for all rows.
#pragma once
#include "cpu/cpu_generic.h"
#include "cpu/avx2/avx2_codes.h"

// Of 16 rows x 32 columns (avx2_dot.h); signs of 8-bit weights, where they are wanted.
typedef struct block {
    _Alignas(32) uint8_t w[16][32];
    uint8_t sign[16][32];
    float d[16], m[16];
    int32_t s0[16], s1[16];
} block;

static inline void store32(void *p, __m256i v) { _mm256_store_si256((__m256i *)p, v); }

// 32 bits to 32 bytes of 16 or 0.
static inline __m256i spread_bits(uint32_t bits) {
    const __m256i pick = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), pick), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(16));
}

static inline __attribute__((always_inline)) void load_weights(int format, const uint8_t *a, block *o) {
    if (format == CPU_Q8) {
        for (int i = 0; i < 16; i++) {
            if (AVX2_VNNI) {
                store32(o->w[i], avx2_load(a + i * 32));
                continue;
            }
            __m256i v = _mm256_xor_si256(avx2_load(a + i * 32), _mm256_set1_epi8((char)0x80));
            store32(o->sign[i], v);
            store32(o->w[i], _mm256_abs_epi8(v));
        }
        return;
    }
    const __m256i low = _mm256_set1_epi8(15), two = _mm256_set1_epi8(0x30);
    for (int i = 0; i < 8; i++) { // c = i / 2 and c + 4
        __m256i v = avx2_load(a + i * 32), x = _mm256_and_si256(v, low), y = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
        if (format == CPU_Q6_K) {
            __m256i h = avx2_load(a + 256 + (i & 3) * 32);
            x = _mm256_or_si256(x, _mm256_and_si256(i < 4 ? _mm256_slli_epi16(h, 4) : _mm256_slli_epi16(h, 2), two));
            y = _mm256_or_si256(y, _mm256_and_si256(i < 4 ? h : _mm256_srli_epi16(h, 2), two));
        } else if (format == CPU_Q5_0 || format == CPU_Q5_1 || format == CPU_Q5_K) {
            uint32_t m[2];
            memcpy(&m[0], a + 256 + i * 4, 4);
            memcpy(&m[1], a + 288 + i * 4, 4);
            x = _mm256_or_si256(x, spread_bits(m[0]));
            y = _mm256_or_si256(y, spread_bits(m[1]));
        }
        store32(o->w[i], x);
        store32(o->w[i + 8], y);
    }
}

static inline __m256 half8(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline __m256 bytes8(const uint8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p))); }

static inline __attribute__((always_inline)) void load_scales(int format, const uint8_t *area, int64_t b, block *o) {
    for (int h = 0; h < 2; h++) {
        switch (format) {
        case CPU_Q8: case CPU_Q4_0: case CPU_Q5_0: _mm256_storeu_ps(o->d + h * 8, half8(area + b * 32 + h * 16)); break;
        case CPU_Q4_1: case CPU_Q5_1:
            _mm256_storeu_ps(o->d + h * 8, half8(area + b * 64 + h * 16));
            _mm256_storeu_ps(o->m + h * 8, half8(area + b * 64 + 32 + h * 16));
            break;
        case CPU_Q4_K: case CPU_Q5_K: {
            const uint8_t *x = area + b / 8 * 320 + h * 16, *y = area + b / 8 * 320 + 64 + b % 8 * 32 + h * 8;
            _mm256_storeu_ps(o->d + h * 8, _mm256_mul_ps(half8(x), bytes8(y)));
            _mm256_storeu_ps(o->m + h * 8, _mm256_mul_ps(half8(x + 32), bytes8(y + 16)));
            break;
        }
        default: {
            const uint8_t *x = area + b / 8 * 288, *y = x + 32 + b % 8 * 32 + h * 8;
            _mm256_storeu_ps(o->d + h * 8, half8(x + h * 16));
            _mm256_storeu_si256((__m256i *)(o->s0 + h * 8), _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)y)));
            _mm256_storeu_si256((__m256i *)(o->s1 + h * 8), _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(y + 16))));
        }
        }
    }
}

// N rows' block: y += what it adds, for 16 outputs. Rows of q lie BLOCK apart.
static inline __attribute__((always_inline)) void block_rows(int format, int N, const block *w, const int8_t *q,
    const float *d, const float *ds, const int32_t *nsum, const int32_t *nhigh, float (*y)[PANEL]) {
    const int most = format == CPU_Q8 ? 128 : format == CPU_Q6_K ? 63 : format == CPU_Q5_0 || format == CPU_Q5_1 || format == CPU_Q5_K ? 31 : 15;
    const int offset = format == CPU_Q8 && AVX2_VNNI ? 128 : format == CPU_Q4_0 ? 8 : format == CPU_Q5_0 ? 16 : 0;
    const bool two = format == CPU_Q6_K; // halves of the columns, each with scales of its own
    __m256i a[AT_ONCE][HALVES], b[AT_ONCE][HALVES];
    for (int begin = 0; begin < 2; begin += HALVES) {
        avx2_dots(most, w->w, format == CPU_Q8 ? w->sign : NULL, begin, N, 0, two ? 4 : 8, q, BLOCK, a);
        if (two) avx2_dots(most, w->w, NULL, begin, N, 4, 4, q, BLOCK, b);
#pragma GCC unroll 8
        for (int j = 0; j < N * HALVES; j++) {
            const int i = j / HALVES, h = begin + j % HALVES;
            __m256i s = a[i][j % HALVES];
            if (two) {
                __m256i s0 = avx2_load(w->s0 + h * 8), s1 = avx2_load(w->s1 + h * 8);
                __m256i x = _mm256_add_epi32(s, _mm256_set1_epi32((nsum[i] - nhigh[i]) * 32)), z = _mm256_add_epi32(b[i][j % HALVES], _mm256_set1_epi32(nhigh[i] * 32));
                s = _mm256_add_epi32(_mm256_mullo_epi32(x, s0), _mm256_mullo_epi32(z, s1));
            } else if (offset) s = _mm256_add_epi32(s, _mm256_set1_epi32(nsum[i] * offset));
            __m256 v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), _mm256_mul_ps(_mm256_loadu_ps(w->d + h * 8), _mm256_set1_ps(d[i])), _mm256_loadu_ps(y[i] + h * 8));
            if (format == CPU_Q4_1 || format == CPU_Q5_1) v = _mm256_fmadd_ps(_mm256_loadu_ps(w->m + h * 8), _mm256_set1_ps(ds[i]), v);
            if (format == CPU_Q4_K || format == CPU_Q5_K) v = _mm256_fnmadd_ps(_mm256_loadu_ps(w->m + h * 8), _mm256_set1_ps(ds[i]), v);
            _mm256_storeu_ps(y[i] + h * 8, v);
        }
    }
}

static inline __attribute__((always_inline)) void int8_rows(int format, int R, const cpu_tensor *t, const uint8_t *panel,
    int64_t k, int8_src src, cpu_ask *ask, float (*out)[PANEL]) {
    if (cpu_format_code((cpu_format)format)) {
        code_rows((cpu_format)format, R, t, panel, k, src, ask, out);
        return;
    }
    const size_t bytes = cpu_int8_bytes((cpu_format)format);
    const uint8_t *area = panel + t->scale_bytes;
    const size_t share = cpu_ask_share(t->panel_bytes, k / BLOCK);
    memset(out, 0, (size_t)R * sizeof *out);
    block w;
    for (int64_t b = 0; b < k / BLOCK; b++, area += bytes) {
        load_weights(format, area, &w);
        load_scales(format, panel, b, &w);
        cpu_ask_next(ask, share);
        if (!src.tile) {
            const cpu_aux *x = src.aux + b;
            block_rows(format, 1, &w, src.q + b * BLOCK, &x->d, &x->ds, &x->nsum, &x->nhigh, out);
            continue;
        }
        const cpu_tile_aux *a = src.tile + b;
        const int n = avx2_together(format == CPU_Q6_K, R);
        for (int r = 0; r < R; r += n) block_rows(format, n, &w, src.q + b * TILE_BLOCK + r * BLOCK, a->d + r, a->ds + r, a->nsum + r, a->nhigh + r, out + r);
    }
}

// x = d q, d = max |x| / 127; what is too small for that counts as zero, and a block with something that is no number is none.
static void quantize(const float *x, int64_t k, cpu_int8_place to) {
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    for (int64_t b = 0; b < k / BLOCK; b++, x += BLOCK, quantize_on(&to)) {
        __m256 v[4], m = _mm256_setzero_ps(), bad = m;
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + i * 8);
            const __m256 size = _mm256_and_ps(v[i], no_sign);
            m = _mm256_max_ps(m, size);
            bad = _mm256_or_ps(bad, _mm256_cmp_ps(size, _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ));
        }
        if (_mm256_movemask_ps(bad)) {
            quantize_none(&to);
            continue;
        }
        float top = vf_hmax(m);
        bool some = top > 1e-30f;
        float d = some ? top / 127.0f : 0;
        __m256 f = _mm256_set1_ps(some ? 127.0f / top : 0);
        int32_t sum[2] = {0, 0}, t[8];
        for (int i = 0; i < 4; i++) {
            _mm256_storeu_si256((__m256i *)t, _mm256_cvtps_epi32(_mm256_mul_ps(v[i], f)));
            for (int j = 0; j < 8; j++) {
                to.q[i * 8 + j] = (int8_t)(t[j] > 127 ? 127 : t[j] < -128 ? -128 : t[j]);
                sum[i / 2] += t[j];
            }
        }
        cpu_put_aux(to.aux, to.aux_apart, d, sum[0], sum[1]);
    }
}

static void fill_avx2(cpu_kernels *k, const char *isa) {
    k->isa = isa;
    fill_generic(k);
    fill_int8(k);
    k->quantize = quantize;
    cpu_pack_avx2(k);
}
