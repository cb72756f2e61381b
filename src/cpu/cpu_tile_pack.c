// cpu/tile_pack: panels in the order of weight tiles, and one row of any of them as float32 again. Layouts: cpu_tile.h. Nothing is rounded.
#include "cpu/cpu_codes.h"
#include "cpu/cpu_tile.h"

static const int8_t minus_8[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
static const int8_t minus_16[16] = {-16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1};
static const int8_t plain[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static const tile_layout layouts[] = {
    [CPU_TILE_RAW - CPU_TILE_RAW] = {QUANT_TYPES, 0, TILE_NONE, NULL, 0},
    [CPU_TILE_BF16 - CPU_TILE_RAW] = {QUANT_BF16, 16, TILE_NONE, NULL, 1024},
    [CPU_TILE_F16 - CPU_TILE_RAW] = {QUANT_F16, 16, TILE_NONE, NULL, 1024},
    [CPU_TILE_Q8_0 - CPU_TILE_RAW] = {QUANT_Q8_0, 8, TILE_D, NULL, 512},
    [CPU_TILE_Q4_0 - CPU_TILE_RAW] = {QUANT_Q4_0, 4, TILE_D, minus_8, 256},
    [CPU_TILE_Q4_1 - CPU_TILE_RAW] = {QUANT_Q4_1, 4, TILE_DM, plain, 256},
    [CPU_TILE_Q5_0 - CPU_TILE_RAW] = {QUANT_Q5_0, 5, TILE_D, minus_16, 320},
    [CPU_TILE_Q5_1 - CPU_TILE_RAW] = {QUANT_Q5_1, 5, TILE_DM, plain, 320},
    [CPU_TILE_Q4_K - CPU_TILE_RAW] = {QUANT_Q4_K, 4, TILE_K4, plain, 256},
    [CPU_TILE_Q5_K - CPU_TILE_RAW] = {QUANT_Q5_K, 5, TILE_K4, plain, 320},
    [CPU_TILE_Q6_K - CPU_TILE_RAW] = {QUANT_Q6_K, 6, TILE_K6, plain, 384},
    [CPU_TILE_IQ4_NL - CPU_TILE_RAW] = {QUANT_IQ4_NL, 4, TILE_D, quant_iq4_values, 256},
    [CPU_TILE_IQ4_XS - CPU_TILE_RAW] = {QUANT_IQ4_XS, 4, TILE_XS, quant_iq4_values, 256},
    [CPU_TILE_MXFP4 - CPU_TILE_RAW] = {QUANT_MXFP4, 4, TILE_E8, quant_fp4_values, 256},
    [CPU_TILE_NVFP4 - CPU_TILE_RAW] = {QUANT_NVFP4, 4, TILE_NV, quant_fp4_values, 256},
};

const tile_layout *cpu_tile_layout(cpu_format f) { return &layouts[f < CPU_TILE_CODE ? f - CPU_TILE_RAW : 0]; }

cpu_format cpu_tile_format(uint32_t type) {
    if (type == QUANT_F32) return CPU_F32;
    if (type == QUANT_F64 || type == QUANT_I8 || type == QUANT_I16 || type == QUANT_I32 || type == QUANT_I64) return CPU_RAW;
    for (size_t i = 1; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i].type == type) return (cpu_format)(CPU_TILE_RAW + i);
    for (cpu_format f = CPU_TILE_CODE; f < CPU_FORMATS; f++)
        if (cpu_code(f)->type == type) return f;
    return CPU_TILE_RAW;
}

size_t cpu_tile_scale_bytes(cpu_format f, int64_t k) {
    size_t blocks = (size_t)cpu_tile_blocks(k), groups = (size_t)k / 256, bytes = 0;
    switch (cpu_tile_layout(f)->scale) {
    case TILE_NONE: break;
    case TILE_D: case TILE_NV: bytes = blocks * 32; break;
    case TILE_DM: bytes = blocks * 64; break;
    case TILE_K4: bytes = groups * 320; break;
    case TILE_K6: bytes = groups * 288; break;
    case TILE_XS: bytes = groups * 160; break;
    case TILE_E8: bytes = blocks * 16; break;
    }
    return (bytes + 63) & ~(size_t)63;
}

size_t cpu_tile_panel_bytes(cpu_format f, int64_t k) { return cpu_tile_scale_bytes(f, k) + (size_t)cpu_tile_blocks(k) * cpu_tile_layout(f)->block_bytes; }

static void put16(uint8_t *p, int r, uint16_t v) { memcpy(p + 2 * r, &v, 2); }
static uint16_t get16(const uint8_t *p, int r) {
    uint16_t v;
    memcpy(&v, p + 2 * r, 2);
    return v;
}

// What belongs to 32 columns of a row: the stored numbers, and the parts of their scale.
typedef struct part { uint8_t q[32]; uint16_t d, m; uint8_t s[2]; } part;

static void nibbles(const uint8_t *qs, uint8_t q[32]) {
    for (int i = 0; i < 16; i++) {
        q[i] = qs[i] & 15;
        q[i + 16] = qs[i] >> 4;
    }
}

static void get_part(uint32_t type, const uint8_t *row, int64_t b, part *o) {
    switch (type) {
    case QUANT_Q8_0: {
        const block_q8_0 *x = (const block_q8_0 *)row + b;
        o->d = x->d;
        memcpy(o->q, x->qs, 32);
        break;
    }
    case QUANT_Q4_0: case QUANT_IQ4_NL: { // the same fields
        const block_q4_0 *x = (const block_q4_0 *)row + b;
        o->d = x->d;
        nibbles(x->qs, o->q);
        break;
    }
    case QUANT_Q4_1: {
        const block_q4_1 *x = (const block_q4_1 *)row + b;
        o->d = x->d;
        o->m = x->m;
        nibbles(x->qs, o->q);
        break;
    }
    case QUANT_Q5_0: case QUANT_Q5_1: {
        const block_q5_0 *x = (const block_q5_0 *)row + b;
        const block_q5_1 *y = (const block_q5_1 *)row + b;
        bool one = type == QUANT_Q5_1;
        uint32_t high;
        o->d = one ? y->d : x->d;
        o->m = one ? y->m : 0;
        nibbles(one ? y->qs : x->qs, o->q);
        memcpy(&high, one ? y->qh : x->qh, 4);
        for (int i = 0; i < 32; i++) o->q[i] |= (uint8_t)((high >> i & 1) << 4);
        break;
    }
    case QUANT_Q4_K: case QUANT_Q5_K: {
        const block_q4_K *x = (const block_q4_K *)row + b / 8;
        const block_q5_K *y = (const block_q5_K *)row + b / 8;
        bool five = type == QUANT_Q5_K;
        int j = (int)(b % 8);
        o->d = five ? y->d : x->d;
        o->m = five ? y->dmin : x->dmin;
        quant_k4_scale_min(five ? y->scales : x->scales, j, &o->s[0], &o->s[1]);
        for (int i = 0; i < 32; i++) {
            o->q[i] = (uint8_t)((five ? y->qs : x->qs)[j / 2 * 32 + i] >> (j & 1) * 4 & 15);
            if (five) o->q[i] |= (uint8_t)((y->qh[i] >> j & 1) << 4);
        }
        break;
    }
    case QUANT_Q6_K: {
        const block_q6_K *x = (const block_q6_K *)row + b / 8;
        int j = (int)(b % 8), h = j / 4;
        o->d = x->d;
        o->s[0] = (uint8_t)x->scales[2 * j];
        o->s[1] = (uint8_t)x->scales[2 * j + 1];
        for (int i = 0; i < 32; i++) o->q[i] = (uint8_t)((x->ql[h * 64 + (j & 1) * 32 + i] >> (j & 2) * 2 & 15) | (x->qh[h * 32 + i] >> (j & 3) * 2 & 3) << 4);
        break;
    }
    case QUANT_IQ4_XS: {
        const block_iq4_xs *x = (const block_iq4_xs *)row + b / 8;
        int j = (int)(b % 8);
        o->d = x->d;
        o->s[0] = (uint8_t)(((x->scales_l[j / 2] >> (j & 1) * 4 & 15) | (x->scales_h >> 2 * j & 3) << 4) - 32);
        nibbles(x->qs + j * 16, o->q);
        break;
    }
    case QUANT_MXFP4: {
        const block_mxfp4 *x = (const block_mxfp4 *)row + b;
        o->s[0] = x->e;
        nibbles(x->qs, o->q);
        break;
    }
    default: { // NVFP4
        const block_nvfp4 *x = (const block_nvfp4 *)row + b / 2;
        for (int s = 0; s < 2; s++) {
            const uint8_t *qs = x->qs + ((b & 1) * 2 + s) * 8;
            o->s[s] = x->d[(b & 1) * 2 + s];
            for (int i = 0; i < 8; i++) {
                o->q[s * 16 + i] = qs[i] & 15;
                o->q[s * 16 + 8 + i] = qs[i] >> 4;
            }
        }
    }
    }
}

// The scale area of a panel at block b: where d (or bytes) and the second half of the pair lie.
static uint8_t *scale_at(tile_scale s, uint8_t *area, int64_t b, uint8_t **bytes) {
    switch (s) {
    case TILE_D: return area + b * 32;
    case TILE_DM: return area + b * 64;
    case TILE_K4: *bytes = area + b / 8 * 320 + 64 + b % 8 * 32; return area + b / 8 * 320;
    case TILE_K6: *bytes = area + b / 8 * 288 + 32 + b % 8 * 32; return area + b / 8 * 288;
    case TILE_XS: *bytes = area + b / 8 * 160 + 32 + b % 8 * 16; return area + b / 8 * 160;
    case TILE_E8: *bytes = area + b * 16; return NULL;
    case TILE_NV: *bytes = area + b * 32; return NULL;
    default: return NULL;
    }
}

// Of four 16-bit parts the lowest 4 bits, side by side; the lowest 2.
static uint32_t gather4(uint64_t x) {
    x &= 0x000f000f000f000f;
    x = (x | x >> 12) & 0x000000ff000000ff;
    return (uint32_t)(x | x >> 24) & 0xffff;
}
static uint32_t gather2(uint64_t x) {
    x &= 0x0003000300030003;
    x = (x | x >> 14) & 0x0000000f0000000f;
    return (uint32_t)(x | x >> 28) & 0xff;
}

// The two words of row r in each group of 4-bit numbers, and of the two further bits of 6: what get_number reads, eight numbers at a time.
static void put_words(uint8_t *area, int bits, int r, const uint8_t q[32]) {
    uint64_t x[4]; // little-endian: column c in byte c % 8
    for (int i = 0; i < 4; i++)
        for (int j = x[i] = 0; j < 8; j++) x[i] |= (uint64_t)q[8 * i + j] << 8 * j;
    uint32_t high[2] = {0, 0};
    for (int g = 0; g < 2; g++) {
        uint32_t low[2];
        for (int j = 0; j < 2; j++) low[j] = gather4(x[2 * g] >> 8 * j) | gather4(x[2 * g + 1] >> 8 * j) << 16;
        for (int j = 0; j < 2; j++) memcpy(area + (j * 2 + g) * 64 + r * 4, &low[j], 4);
    }
    if (bits != 6) return;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) high[j] |= gather2(x[i] >> (4 + 8 * j)) << 8 * i;
    for (int j = 0; j < 2; j++) memcpy(area + 256 + j * 64 + r * 4, &high[j], 4);
}

static void put_part(const tile_layout *l, uint8_t *panel, uint8_t *area, int64_t b, int r, const part *x) {
    uint8_t *bytes = NULL, *d = scale_at(l->scale, panel, b, &bytes);
    if (d) put16(d, r, x->d);
    if (l->scale == TILE_DM || l->scale == TILE_K4) put16(d + 32, r, x->m);
    if (bytes) bytes[r] = x->s[0];
    if (bytes && l->scale != TILE_XS && l->scale != TILE_E8) bytes[16 + r] = x->s[1];
    if (l->bits == 4 || l->bits == 6) {
        put_words(area, l->bits, r, x->q);
        return;
    }
    for (int c = 0; c < 32; c++) {
        int kp = c / 2, j = c % 2, i = j * 4 + kp / 8 * 2 + kp % 2, at = r * 4 + kp % 8 / 2; // see cpu_tile.h
        if (l->bits == 8) {
            area[i * 64 + at] = x->q[c] ^ 0x80;
            continue;
        }
        area[(j * 2 + kp / 8) * 64 + at] |= (uint8_t)((x->q[c] & 15) << kp % 2 * 4);
        area[256 + i * 8 + at / 8] |= (uint8_t)((x->q[c] >> 4) << at % 8); // the fifth bit
    }
}

static uint8_t get_number(const tile_layout *l, const uint8_t *area, int r, int c) {
    int kp = c / 2, j = c % 2, i = j * 4 + kp / 8 * 2 + kp % 2, at = r * 4 + kp % 8 / 2;
    if (l->bits == 8) return area[i * 64 + at] ^ 0x80;
    uint8_t q = area[(j * 2 + kp / 8) * 64 + at] >> kp % 2 * 4 & 15;
    if (l->bits == 5) q |= (uint8_t)((area[256 + i * 8 + at / 8] >> at % 8 & 1) << 4);
    if (l->bits == 6) q |= (uint8_t)((area[256 + j * 64 + r * 4 + kp / 4] >> kp % 4 * 2 & 3) << 4);
    return q;
}

void cpu_tile_pack_panel(cpu_format f, int64_t k, int n, const uint8_t *rows, size_t row_bytes, uint8_t *panel) {
    const tile_layout *l = cpu_tile_layout(f);
    memset(panel, 0, cpu_tile_panel_bytes(f, k));
    if (l->bits == 16) {
        for (int r = 0; r < n; r++)
            for (int64_t c = 0; c < k; c++) memcpy(panel + c / TILE_K * TILE_BYTES + c % TILE_K / 2 * 64 + r * 4 + c % 2 * 2, rows + (size_t)r * row_bytes + (size_t)c * 2, 2);
        return;
    }
    uint8_t *area = panel + cpu_tile_scale_bytes(f, k);
    for (int64_t b = 0; b < k / TILE_K; b++, area += l->block_bytes)
        for (int r = 0; r < n; r++) {
            part x = {.d = 0};
            get_part(l->type, rows + (size_t)r * row_bytes, b, &x);
            put_part(l, panel, area, b, r, &x);
        }
}

void cpu_tile_unpack_row(cpu_format f, int64_t k, const uint8_t *panel, int r, float *dst) {
    const tile_layout *l = cpu_tile_layout(f);
    if (l->bits == 16) {
        for (int64_t c = 0; c < k; c++) {
            uint16_t v;
            memcpy(&v, panel + c / TILE_K * TILE_BYTES + c % TILE_K / 2 * 64 + r * 4 + c % 2 * 2, 2);
            dst[c] = f == CPU_TILE_F16 ? quant_f16_to_f32(v) : quant_bf16_to_f32(v);
        }
        return;
    }
    const uint8_t *area = panel + cpu_tile_scale_bytes(f, k);
    for (int64_t b = 0; b < k / TILE_K; b++, area += l->block_bytes, dst += TILE_K) {
        uint8_t *bytes = NULL;
        const uint8_t *at = scale_at(l->scale, (uint8_t *)panel, b, &bytes); // only read
        float d = at ? quant_f16_to_f32(get16(at, r)) : 0, two[2] = {d, d}, m = 0;
        switch (l->scale) {
        case TILE_DM: m = -quant_f16_to_f32(get16(at + 32, r)); break;
        case TILE_K4:
            two[0] = two[1] = d * bytes[r];
            m = quant_f16_to_f32(get16(at + 32, r)) * bytes[16 + r];
            break;
        case TILE_K6:
            two[0] = d * (int8_t)bytes[r];
            two[1] = d * (int8_t)bytes[16 + r];
            break;
        case TILE_XS: two[0] = two[1] = d * (int8_t)bytes[r]; break;
        case TILE_E8: two[0] = two[1] = quant_e8m0_half(bytes[r]); break;
        case TILE_NV:
            two[0] = quant_ue4m3_half(bytes[r]);
            two[1] = quant_ue4m3_half(bytes[16 + r]);
            break;
        default: break;
        }
        for (int c = 0; c < TILE_K; c++) {
            uint8_t q = get_number(l, area, r, c);
            int v = l->bits == 8 ? (int8_t)q : l->bits == 6 ? q - 32 : l->values[q & 15] + (q & 16);
            dst[c] = l->scale == TILE_DM || l->scale == TILE_K4 ? two[0] * (float)v - m : two[c / 16] * (float)v;
        }
    }
}
