// quant: the number formats of GGUF tensors. Layout of every block, one traits table, scalar decode and encode.
//
// Type numbers and block layouts are the ggml format's (a fact of the files). Every multi-byte field is little-endian, as is the host.
// decode and encode are plain C and exact in what they define: they are the reference that faster kernels are held to.
// Threads: everything here is pure and may be called from anywhere.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/status.h"
#include "quant/quant_grids.h"

typedef enum quant_type {
    QUANT_F32 = 0, QUANT_F16 = 1, QUANT_Q4_0 = 2, QUANT_Q4_1 = 3, QUANT_Q5_0 = 6, QUANT_Q5_1 = 7, QUANT_Q8_0 = 8, QUANT_Q8_1 = 9,
    QUANT_Q2_K = 10, QUANT_Q3_K = 11, QUANT_Q4_K = 12, QUANT_Q5_K = 13, QUANT_Q6_K = 14, QUANT_Q8_K = 15,
    QUANT_IQ2_XXS = 16, QUANT_IQ2_XS = 17, QUANT_IQ3_XXS = 18, QUANT_IQ1_S = 19, QUANT_IQ4_NL = 20, QUANT_IQ3_S = 21,
    QUANT_IQ2_S = 22, QUANT_IQ4_XS = 23, QUANT_I8 = 24, QUANT_I16 = 25, QUANT_I32 = 26, QUANT_I64 = 27, QUANT_F64 = 28,
    QUANT_IQ1_M = 29, QUANT_BF16 = 30, QUANT_TQ1_0 = 34, QUANT_TQ2_0 = 35, QUANT_MXFP4 = 39, QUANT_NVFP4 = 40,
    QUANT_Q1_0 = 41, QUANT_Q2_0 = 42,
    QUANT_TYPES = 43
} quant_type;

enum {
    QUANT_IS_FLOAT = 1,          // F32 F16 BF16 F64: one element a block
    QUANT_IS_INT = 2,            // I8 I16 I32 I64
    QUANT_IS_BLOCK = 4,          // packed blocks
    QUANT_ACTIVATION = 8,        // Q8_1, Q8_K: made for activations, not for files
    QUANT_NEEDS_IMPORTANCE = 16, // encoding without an importance vector gives poor weights
};

// n (elements) is a multiple of block_elems everywhere below.
typedef void (*quant_decode_fn)(const void *src, float *dst, size_t n);
// One row. importance: n weights >= 0, one a column (how much an error there costs), or NULL.
typedef void (*quant_encode_fn)(const float *src, void *dst, size_t n, const float *importance);

typedef struct quant_traits {
    const char *name; // as ggml prints it, upper case: "Q4_K"
    uint32_t block_elems, block_bytes;
    unsigned flags;
    quant_decode_fn decode; // NULL only where the type does not hold numbers we can decode
    quant_encode_fn encode; // NULL: this type cannot be made here
} quant_traits;

// NULL for a number that is no type, or a type that was removed from the format.
const quant_traits *quant_type_traits(int type);
// "Q4_K" for 12; "type 99" style text is the caller's: this gives "unknown" for what is no type.
const char *quant_type_name(int type);
// By name, letters of any case; -1 when there is none.
int quant_type_from_name(const char *name);
// Bytes of a row of n elements. False when n is no multiple of the block, the type is unknown, or the size overflows.
bool quant_row_bytes(int type, uint64_t n, size_t *bytes);
// Turns n elements of a big-endian file into little-endian (or back), in place. False: the order inside this type's blocks is not defined.
bool quant_swap(int type, void *data, size_t n);

// ---- half precision (exact; round to nearest even; NaN stays NaN)
static inline float    quant_bits_f32(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t quant_f32_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

static inline float quant_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 1023;
    if (exp == 31) return quant_bits_f32(sign | 0x7f800000u | man << 13);
    if (exp == 0) { // zero and subnormals: man * 2^-24 is exact
        float f = (float)man * 0x1p-24f;
        return sign ? -f : f;
    }
    return quant_bits_f32(sign | (exp + 112) << 23 | man << 13);
}

static inline uint16_t quant_f32_to_f16(float f) {
    uint32_t u = quant_f32_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x1ff)); // NaN, quiet
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);                     // rounds past 65504
    if (a >= 0x38800000u) return (uint16_t)(sign | ((a - 0x38000000u + 0xfff + (a >> 13 & 1)) >> 13));
    // Subnormal result: adding 0.5 lets the processor round at bit 2^-24 (ulp of 0.5 in float is 2^-24).
    return (uint16_t)(sign | (quant_f32_bits(quant_bits_f32(a) + 0.5f) - 0x3f000000u));
}

static inline float quant_bf16_to_f32(uint16_t h) { return quant_bits_f32((uint32_t)h << 16); }

static inline uint16_t quant_f32_to_bf16(float f) {
    uint32_t u = quant_f32_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000u) return (uint16_t)(u >> 16 | 64); // NaN, quiet
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

// ---- block layouts. Packed by nature: every struct's size is checked against the traits in quant.c.
// "d" is the block's scale (half precision unless said), "m"/"dmin" its offset; q the stored number of an element.
#define QUANT_K 256 // elements of a K block

typedef struct block_q4_0 { uint16_t d; uint8_t qs[16]; } block_q4_0;                    // 32: (q - 8) d; low nibbles 0..15, high 16..31
typedef struct block_q4_1 { uint16_t d, m; uint8_t qs[16]; } block_q4_1;                 // 32: q d + m
typedef struct block_q5_0 { uint16_t d; uint8_t qh[4]; uint8_t qs[16]; } block_q5_0;     // 32: (q - 16) d; bit 4 of element i is bit i of qh
typedef struct block_q5_1 { uint16_t d, m; uint8_t qh[4]; uint8_t qs[16]; } block_q5_1;  // 32: q d + m
typedef struct block_q8_0 { uint16_t d; int8_t qs[32]; } block_q8_0;                     // 32: q d
typedef struct block_q8_1 { uint16_t d, s; int8_t qs[32]; } block_q8_1;                  // 32: q d; s = d * sum(q)
typedef struct block_q1_0 { uint16_t d; uint8_t qs[16]; } block_q1_0;                    // 128: bit ? d : -d
typedef struct block_q2_0 { uint16_t d; uint8_t qs[16]; } block_q2_0;                    // 64: see quant_small.c

typedef struct block_q2_K { uint8_t scales[16]; uint8_t qs[64]; uint16_t d, dmin; } block_q2_K; // 16 of 16: d (scale & 15) q - dmin (scale >> 4)
typedef struct block_q3_K { uint8_t hmask[32]; uint8_t qs[64]; uint8_t scales[12]; uint16_t d; } block_q3_K; // 16 of 16: d (scale - 32) (q - 4)
typedef struct block_q4_K { uint16_t d, dmin; uint8_t scales[12]; uint8_t qs[128]; } block_q4_K; // 8 of 32: d scale q - dmin min, 6 bits each
typedef struct block_q5_K { uint16_t d, dmin; uint8_t scales[12]; uint8_t qh[32]; uint8_t qs[128]; } block_q5_K;
typedef struct block_q6_K { uint8_t ql[128]; uint8_t qh[64]; int8_t scales[16]; uint16_t d; } block_q6_K; // 16 of 16: d scale (q - 32)
typedef struct block_q8_K { float d; int8_t qs[256]; int16_t bsums[16]; } block_q8_K;    // q d; bsums: sums of 16 q

typedef struct block_iq2_xxs { uint16_t d; uint16_t qs[32]; } block_iq2_xxs;
typedef struct block_iq2_xs { uint16_t d; uint16_t qs[32]; uint8_t scales[8]; } block_iq2_xs;
typedef struct block_iq2_s { uint16_t d; uint8_t qs[64]; uint8_t qh[8]; uint8_t scales[8]; } block_iq2_s;
typedef struct block_iq3_xxs { uint16_t d; uint8_t qs[96]; } block_iq3_xxs;
typedef struct block_iq3_s { uint16_t d; uint8_t qs[64]; uint8_t qh[8]; uint8_t signs[32]; uint8_t scales[4]; } block_iq3_s;
typedef struct block_iq1_s { uint16_t d; uint8_t qs[32]; uint16_t qh[8]; } block_iq1_s;
typedef struct block_iq1_m { uint8_t qs[32]; uint8_t qh[16]; uint8_t scales[8]; } block_iq1_m;
typedef struct block_iq4_nl { uint16_t d; uint8_t qs[16]; } block_iq4_nl;                 // 32: d quant_iq4_values[q]
typedef struct block_iq4_xs { uint16_t d, scales_h; uint8_t scales_l[4]; uint8_t qs[128]; } block_iq4_xs;
typedef struct block_tq1_0 { uint8_t qs[48]; uint8_t qh[4]; uint16_t d; } block_tq1_0;    // base 3, five to a byte
typedef struct block_tq2_0 { uint8_t qs[64]; uint16_t d; } block_tq2_0;                   // (q - 1) d
typedef struct block_mxfp4 { uint8_t e; uint8_t qs[16]; } block_mxfp4;                    // 32: quant_fp4_values[q] 2^(e - 128)
typedef struct block_nvfp4 { uint8_t d[4]; uint8_t qs[32]; } block_nvfp4;                 // 4 of 16: quant_fp4_values[q] e4m3(d) / 2

// The 6-bit scale and min of sub-block j (0..7) of a Q4_K or Q5_K block.
static inline void quant_k4_scale_min(const uint8_t scales[12], int j, uint8_t *scale, uint8_t *min) {
    if (j < 4) {
        *scale = scales[j] & 63;
        *min = scales[j + 4] & 63;
    } else {
        *scale = (uint8_t)((scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4);
        *min = (uint8_t)((scales[j + 4] >> 4) | (scales[j] >> 6) << 4);
    }
}

extern const int8_t quant_iq4_values[16]; // IQ4_NL, IQ4_XS
extern const int8_t quant_fp4_values[16]; // MXFP4, NVFP4: E2M1 doubled
// 2^(e - 128): half of what E8M0 says, since quant_fp4_values are doubled. e = 0 and 1 give subnormal floats.
static inline float quant_e8m0_half(uint8_t e) { return quant_bits_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23); }
// Half of unsigned E4M3 (bias 7); 0 and 0x7F give 0.
float quant_ue4m3_half(uint8_t x);
