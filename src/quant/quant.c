// The traits table, names, sizes and byte order. Read-only data; pure functions.
#include "quant/quant.h"

#include <strings.h>

#include "quant/quant_decode.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "blocks are used as they lie in the file: little-endian hosts only");

#define BLOCK(N, name, elems, fl)                                                                                           \
    [QUANT_##N] = {#N, elems, sizeof(block_##name), QUANT_IS_BLOCK | (fl), quant_decode_##name, quant_encode_##name}
#define PLAIN(N, name, bytes, fl) [QUANT_##N] = {#N, 1, bytes, fl, quant_decode_##name, quant_encode_##name}

static const quant_traits table[QUANT_TYPES] = {
    PLAIN(F32, f32, 4, QUANT_IS_FLOAT), PLAIN(F16, f16, 2, QUANT_IS_FLOAT), PLAIN(BF16, bf16, 2, QUANT_IS_FLOAT), PLAIN(F64, f64, 8, QUANT_IS_FLOAT),
    PLAIN(I8, i8, 1, QUANT_IS_INT), PLAIN(I16, i16, 2, QUANT_IS_INT), PLAIN(I32, i32, 4, QUANT_IS_INT), PLAIN(I64, i64, 8, QUANT_IS_INT),
    BLOCK(Q4_0, q4_0, 32, 0), BLOCK(Q4_1, q4_1, 32, 0), BLOCK(Q5_0, q5_0, 32, 0), BLOCK(Q5_1, q5_1, 32, 0),
    BLOCK(Q8_0, q8_0, 32, 0), BLOCK(Q8_1, q8_1, 32, QUANT_ACTIVATION), BLOCK(Q1_0, q1_0, 128, 0), BLOCK(Q2_0, q2_0, 64, 0),
    BLOCK(Q2_K, q2_K, QUANT_K, 0), BLOCK(Q3_K, q3_K, QUANT_K, 0), BLOCK(Q4_K, q4_K, QUANT_K, 0), BLOCK(Q5_K, q5_K, QUANT_K, 0),
    BLOCK(Q6_K, q6_K, QUANT_K, 0), BLOCK(Q8_K, q8_K, QUANT_K, QUANT_ACTIVATION),
    BLOCK(IQ2_XXS, iq2_xxs, QUANT_K, QUANT_NEEDS_IMPORTANCE), BLOCK(IQ2_XS, iq2_xs, QUANT_K, QUANT_NEEDS_IMPORTANCE),
    BLOCK(IQ2_S, iq2_s, QUANT_K, 0), BLOCK(IQ3_XXS, iq3_xxs, QUANT_K, 0), BLOCK(IQ3_S, iq3_s, QUANT_K, 0),
    BLOCK(IQ1_S, iq1_s, QUANT_K, QUANT_NEEDS_IMPORTANCE), BLOCK(IQ1_M, iq1_m, QUANT_K, QUANT_NEEDS_IMPORTANCE),
    BLOCK(IQ4_NL, iq4_nl, 32, 0), BLOCK(IQ4_XS, iq4_xs, QUANT_K, 0),
    BLOCK(TQ1_0, tq1_0, QUANT_K, 0), BLOCK(TQ2_0, tq2_0, QUANT_K, 0), BLOCK(MXFP4, mxfp4, 32, 0), BLOCK(NVFP4, nvfp4, 64, 0),
};

// The format's sizes, so that a compiler that pads a struct is noticed when building.
_Static_assert(sizeof(block_q4_0) == 18 && sizeof(block_q4_1) == 20 && sizeof(block_q5_0) == 22 && sizeof(block_q5_1) == 24 &&
               sizeof(block_q8_0) == 34 && sizeof(block_q8_1) == 36 && sizeof(block_q1_0) == 18 && sizeof(block_q2_0) == 18, "32-element blocks");
_Static_assert(sizeof(block_q2_K) == 84 && sizeof(block_q3_K) == 110 && sizeof(block_q4_K) == 144 && sizeof(block_q5_K) == 176 &&
               sizeof(block_q6_K) == 210 && sizeof(block_q8_K) == 292, "K blocks");
_Static_assert(sizeof(block_iq2_xxs) == 66 && sizeof(block_iq2_xs) == 74 && sizeof(block_iq2_s) == 82 && sizeof(block_iq3_xxs) == 98 &&
               sizeof(block_iq3_s) == 110 && sizeof(block_iq1_s) == 50 && sizeof(block_iq1_m) == 56 && sizeof(block_iq4_nl) == 18 &&
               sizeof(block_iq4_xs) == 136, "IQ blocks");
_Static_assert(sizeof(block_tq1_0) == 54 && sizeof(block_tq2_0) == 66 && sizeof(block_mxfp4) == 17 && sizeof(block_nvfp4) == 36, "other blocks");

const quant_traits *quant_type_traits(int type) {
    if (type < 0 || type >= QUANT_TYPES || !table[type].name) return NULL;
    return &table[type];
}

const char *quant_type_name(int type) {
    const quant_traits *t = quant_type_traits(type);
    return t ? t->name : "unknown";
}

int quant_type_from_name(const char *name) {
    for (int i = 0; i < QUANT_TYPES; i++)
        if (table[i].name && !strcasecmp(table[i].name, name)) return i;
    return -1;
}

bool quant_row_bytes(int type, uint64_t n, size_t *bytes) {
    const quant_traits *t = quant_type_traits(type);
    if (!t || n % t->block_elems) return false;
    uint64_t r;
    if (__builtin_mul_overflow(n / t->block_elems, (uint64_t)t->block_bytes, &r) || r > SIZE_MAX) return false;
    *bytes = (size_t)r;
    return true;
}

static void swap_units(uint8_t *p, size_t count, size_t unit) {
    for (; count; count--, p += unit)
        for (size_t i = 0; i < unit / 2; i++) {
            uint8_t t = p[i];
            p[i] = p[unit - 1 - i];
            p[unit - 1 - i] = t;
        }
}

// Where the multi-byte fields of a block lie: up to two runs of {offset, count, unit}.
typedef struct swap_run { uint16_t offset, count, unit; } swap_run;

bool quant_swap(int type, void *data, size_t n) {
    const quant_traits *t = quant_type_traits(type);
    if (!t || n % t->block_elems) return false;
    swap_run r[2] = {{0, 0, 2}, {0, 0, 2}};
    switch (type) {
    case QUANT_I8: case QUANT_MXFP4: case QUANT_NVFP4: return true;
    case QUANT_Q4_0: case QUANT_Q5_0: case QUANT_Q8_0: case QUANT_IQ4_NL: case QUANT_Q1_0: case QUANT_Q2_0:
    case QUANT_IQ2_S: case QUANT_IQ3_S: r[0].count = 1; break;
    case QUANT_Q4_1: case QUANT_Q5_1: case QUANT_Q8_1: case QUANT_Q4_K: case QUANT_Q5_K: case QUANT_IQ4_XS: r[0].count = 2; break;
    case QUANT_Q2_K: r[0] = (swap_run){80, 2, 2}; break;
    case QUANT_Q3_K: r[0] = (swap_run){108, 1, 2}; break;
    case QUANT_Q6_K: r[0] = (swap_run){208, 1, 2}; break;
    case QUANT_Q8_K: r[0] = (swap_run){0, 1, 4}, r[1] = (swap_run){260, 16, 2}; break;
    case QUANT_TQ1_0: r[0] = (swap_run){52, 1, 2}; break;
    case QUANT_TQ2_0: r[0] = (swap_run){64, 1, 2}; break;
    case QUANT_IQ2_XS: r[0].count = 33; break;
    case QUANT_IQ1_S: r[0].count = 1, r[1] = (swap_run){34, 8, 2}; break;
    case QUANT_IQ2_XXS: case QUANT_IQ3_XXS: case QUANT_IQ1_M: return false; // words of another size laid over bytes: no defined order
    default: r[0] = (swap_run){0, 1, (uint16_t)t->block_bytes}; break;      // plain numbers
    }
    uint8_t *p = data;
    for (size_t k = 0; k < n / t->block_elems; k++, p += t->block_bytes)
        for (int i = 0; i < 2; i++) swap_units(p + r[i].offset, r[i].count, r[i].unit);
    return true;
}
