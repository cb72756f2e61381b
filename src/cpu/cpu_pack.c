// cpu/pack: the panels that the fast tiers read, and one row of any of them as float32 again.
// Nothing is rounded: scales stay the file's half floats or small integers. Layouts: cpu_internal.h.
#include "cpu/cpu_codes.h"

size_t cpu_quant_block_bytes(cpu_format f) {
    switch (f) {
    case CPU_Q8: return 512;
    case CPU_Q4_0: case CPU_Q4_1: case CPU_Q4_K: return 256;
    case CPU_Q5_0: case CPU_Q5_1: case CPU_Q5_K: return 320;
    case CPU_Q6_K: return 384;
    default: return 0;
    }
}

size_t cpu_scale_area_bytes(cpu_format f, int64_t k) {
    size_t blocks = (size_t)k / BLOCK, bytes;
    switch (f) {
    case CPU_Q8: case CPU_Q4_0: case CPU_Q5_0: bytes = blocks * 32; break;
    case CPU_Q4_1: case CPU_Q5_1: bytes = blocks * 64; break;
    case CPU_Q4_K: case CPU_Q5_K: bytes = blocks / 8 * (64 + 8 * 32); break;
    case CPU_Q6_K: bytes = blocks / 8 * (32 + 8 * 32); break;
    default: bytes = 0;
    }
    return (bytes + 63) & ~(size_t)63;
}

cpu_format cpu_choose_format(uint32_t type, int64_t k, bool packed) {
    if (!packed) return CPU_RAW;
    switch (type) {
    case QUANT_F32: return CPU_F32;
    case QUANT_F16: return CPU_F16;
    case QUANT_BF16: return CPU_BF16;
    case QUANT_Q8_0: return k % 32 ? CPU_RAW : CPU_Q8;
    case QUANT_Q4_0: return k % 32 ? CPU_RAW : CPU_Q4_0;
    case QUANT_Q4_1: return k % 32 ? CPU_RAW : CPU_Q4_1;
    case QUANT_Q5_0: return k % 32 ? CPU_RAW : CPU_Q5_0;
    case QUANT_Q5_1: return k % 32 ? CPU_RAW : CPU_Q5_1;
    case QUANT_Q4_K: return k % 256 ? CPU_RAW : CPU_Q4_K;
    case QUANT_Q5_K: return k % 256 ? CPU_RAW : CPU_Q5_K;
    case QUANT_Q6_K: return k % 256 ? CPU_RAW : CPU_Q6_K;
    default:
        for (cpu_format f = CPU_CODE_FIRST; f <= CPU_CODE_LAST; f++)
            if (cpu_code(f)->type == type) return f;
        return CPU_RAW;
    }
}

// The 32 stored numbers of block b of a row (0..15, 0..31, 0..63; 8-bit ones + 128), and a pointer to the file's block.
static const void *extract(cpu_format f, const uint8_t *row, int64_t b, uint8_t q[32]) {
    switch (f) {
    case CPU_Q8: {
        const block_q8_0 *x = (const block_q8_0 *)(row + (size_t)b * sizeof *x);
        for (int i = 0; i < 32; i++) q[i] = (uint8_t)(x->qs[i] + 128);
        return x;
    }
    case CPU_Q4_0: case CPU_Q4_1: {
        const uint8_t *x = row + (size_t)b * (f == CPU_Q4_0 ? sizeof(block_q4_0) : sizeof(block_q4_1));
        const uint8_t *qs = f == CPU_Q4_0 ? ((const block_q4_0 *)x)->qs : ((const block_q4_1 *)x)->qs;
        for (int i = 0; i < 16; i++) {
            q[i] = qs[i] & 15;
            q[i + 16] = qs[i] >> 4;
        }
        return x;
    }
    case CPU_Q5_0: case CPU_Q5_1: {
        const uint8_t *x = row + (size_t)b * (f == CPU_Q5_0 ? sizeof(block_q5_0) : sizeof(block_q5_1));
        const uint8_t *qs = f == CPU_Q5_0 ? ((const block_q5_0 *)x)->qs : ((const block_q5_1 *)x)->qs;
        uint32_t high;
        memcpy(&high, f == CPU_Q5_0 ? ((const block_q5_0 *)x)->qh : ((const block_q5_1 *)x)->qh, 4);
        for (int i = 0; i < 16; i++) {
            q[i] = (uint8_t)((qs[i] & 15) | (high >> i & 1) << 4);
            q[i + 16] = (uint8_t)(qs[i] >> 4 | (high >> (i + 16) & 1) << 4);
        }
        return x;
    }
    case CPU_Q4_K: {
        const block_q4_K *x = (const block_q4_K *)row + b / 8;
        const uint8_t *qs = x->qs + b % 8 / 2 * 32;
        for (int i = 0; i < 32; i++) q[i] = b & 1 ? qs[i] >> 4 : qs[i] & 15;
        return x;
    }
    case CPU_Q5_K: {
        const block_q5_K *x = (const block_q5_K *)row + b / 8;
        const uint8_t *qs = x->qs + b % 8 / 2 * 32;
        for (int i = 0; i < 32; i++) q[i] = (uint8_t)((b & 1 ? qs[i] >> 4 : qs[i] & 15) | (x->qh[i] >> (b % 8) & 1) << 4);
        return x;
    }
    default: { // CPU_Q6_K: halves of 128 columns, four 32-column blocks each
        const block_q6_K *x = (const block_q6_K *)row + b / 8;
        int half = (int)(b % 8 / 4), j = (int)(b % 4);
        const uint8_t *ql = x->ql + half * 64 + (j & 1) * 32, *qh = x->qh + half * 32;
        for (int i = 0; i < 32; i++) q[i] = (uint8_t)((j >= 2 ? ql[i] >> 4 : ql[i] & 15) | (qh[i] >> (2 * j) & 3) << 4);
        return x;
    }
    }
}

static void put16(uint8_t *p, int r, uint16_t v) { memcpy(p + 2 * r, &v, 2); }
static uint16_t get16(const uint8_t *p, int r) {
    uint16_t v;
    memcpy(&v, p + 2 * r, 2);
    return v;
}

static void put_scales(cpu_format f, uint8_t *area, int64_t b, int r, const void *block) {
    switch (f) {
    case CPU_Q8: put16(area + b * 32, r, ((const block_q8_0 *)block)->d); break;
    case CPU_Q4_0: put16(area + b * 32, r, ((const block_q4_0 *)block)->d); break;
    case CPU_Q5_0: put16(area + b * 32, r, ((const block_q5_0 *)block)->d); break;
    case CPU_Q4_1: case CPU_Q5_1: // both begin with d and m
        put16(area + b * 64, r, ((const block_q4_1 *)block)->d);
        put16(area + b * 64 + 32, r, ((const block_q4_1 *)block)->m);
        break;
    case CPU_Q4_K: case CPU_Q5_K: { // both begin with d, dmin and the scales
        const block_q4_K *x = block;
        uint8_t *s = area + b / 8 * 320, *t = s + 64 + b % 8 * 32;
        put16(s, r, x->d);
        put16(s + 32, r, x->dmin);
        quant_k4_scale_min(x->scales, (int)(b % 8), &t[r], &t[16 + r]);
        break;
    }
    default: { // CPU_Q6_K
        const block_q6_K *x = block;
        uint8_t *s = area + b / 8 * 288, *t = s + 32 + b % 8 * 32;
        put16(s, r, x->d);
        t[r] = (uint8_t)x->scales[b % 8 * 2];
        t[16 + r] = (uint8_t)x->scales[b % 8 * 2 + 1];
    }
    }
}

static void put_quants(cpu_format f, uint8_t *area, int r, const uint8_t q[32]) {
    if (f == CPU_Q8) {
        for (int c = 0; c < 8; c++) memcpy(area + c * 64 + r * 4, q + c * 4, 4);
        return;
    }
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 4; i++) area[c * 64 + r * 4 + i] = (uint8_t)((q[c * 4 + i] & 15) | (q[c * 4 + 16 + i] & 15) << 4);
    if (f == CPU_Q6_K) {
        for (int c = 0; c < 2; c++)
            for (int i = 0; i < 4; i++) {
                int at = c * 4 + i;
                area[256 + c * 64 + r * 4 + i] = (uint8_t)(q[at] >> 4 | q[at + 8] >> 4 << 2 | q[at + 16] >> 4 << 4 | q[at + 24] >> 4 << 6);
            }
    } else if (f == CPU_Q5_0 || f == CPU_Q5_1 || f == CPU_Q5_K) {
        for (int c = 0; c < 8; c++) {
            int bits = 0;
            for (int i = 0; i < 4; i++) bits |= (q[c * 4 + i] >> 4) << i;
            uint8_t *m = area + 256 + c * 8 + r / 2;
            *m = (uint8_t)((r & 1 ? *m & 15 : *m & 240) | bits << (r & 1 ? 4 : 0));
        }
    }
}

void cpu_pack_panel(cpu_format f, uint32_t type, int64_t k, int n, const uint8_t *rows, size_t row_bytes, uint8_t *panel) {
    if (f == CPU_F32 && type != QUANT_F32) { // DEV_USE_EXACT
        float *to = (float *)panel, part[256];
        const quant_traits *t = quant_type_traits((int)type);
        for (int r = 0; r < PANEL; r++)
            for (int64_t j = 0; j < k; j += 256) {
                int64_t count = k - j < 256 ? k - j : 256; // a whole number of blocks: none is longer
                if (r < n) t->decode(rows + (size_t)r * row_bytes + (size_t)(j / t->block_elems) * t->block_bytes, part, (size_t)count);
                for (int64_t i = 0; i < count; i++) to[(j + i) * PANEL + r] = r < n ? part[i] : 0;
            }
        return;
    }
    if (cpu_format_code(f)) {
        cpu_code_pack_panel(f, k, n, rows, row_bytes, panel);
        return;
    }
    if (cpu_format_tile(f)) {
        cpu_tile_pack_panel(f, k, n, rows, row_bytes, panel);
        return;
    }
    if (f == CPU_F32 || f == CPU_F16 || f == CPU_BF16) {
        size_t e = f == CPU_F32 ? 4 : 2;
        for (int64_t j = 0; j < k; j++)
            for (int r = 0; r < PANEL; r++) {
                uint8_t *to = panel + ((size_t)j * PANEL + (size_t)r) * e;
                if (r < n) memcpy(to, rows + (size_t)r * row_bytes + (size_t)j * e, e);
                else memset(to, 0, e);
            }
        return;
    }
    size_t scale = cpu_scale_area_bytes(f, k), block = cpu_quant_block_bytes(f);
    memset(panel, 0, scale);
    for (int64_t b = 0; b < k / BLOCK; b++) {
        uint8_t *area = panel + scale + (size_t)b * block, q[32];
        if (n < PANEL) memset(area, 0, block);
        for (int r = 0; r < n; r++) {
            const void *x = extract(f, rows + (size_t)r * row_bytes, b, q);
            put_scales(f, panel, b, r, x);
            put_quants(f, area, r, q);
        }
    }
}

static void unpack_quants(cpu_format f, const uint8_t *area, int r, uint8_t q[32]) {
    for (int c = 0; c < 8; c++)
        for (int i = 0; i < 4; i++) {
            int at = c * 4 + i;
            if (f == CPU_Q8) {
                q[at] = area[c * 64 + r * 4 + i];
                continue;
            }
            uint8_t v = area[(c & 3) * 64 + r * 4 + i];
            q[at] = c < 4 ? v & 15 : v >> 4;
            if (f == CPU_Q6_K) q[at] |= (uint8_t)((area[256 + (c & 1) * 64 + r * 4 + i] >> (c / 2 * 2) & 3) << 4);
            if (f == CPU_Q5_0 || f == CPU_Q5_1 || f == CPU_Q5_K) q[at] |= (uint8_t)((area[256 + c * 8 + r / 2] >> ((r & 1) * 4 + i) & 1) << 4);
        }
}

void cpu_unpack_row(const cpu_tensor *t, int64_t expert, int64_t row, float *dst) {
    const uint8_t *data = t->data + (size_t)expert * t->expert_bytes;
    int64_t k = t->base.k;
    if (cpu_format_raw(t->format)) {
        quant_type_traits((int)t->base.type)->decode(data + (size_t)row * t->row_bytes, dst, (size_t)k);
        return;
    }
    const uint8_t *panel = data + (size_t)(row / PANEL) * t->panel_bytes;
    int r = (int)(row % PANEL);
    if (cpu_format_code(t->format)) {
        cpu_code_unpack_row(t->format, k, panel, r, dst);
        return;
    }
    if (cpu_format_tile(t->format)) {
        cpu_tile_unpack_row(t->format, k, panel, r, dst);
        return;
    }
    if (!cpu_format_int8(t->format)) {
        for (int64_t j = 0; j < k; j++) {
            size_t at = (size_t)j * PANEL + (size_t)r;
            dst[j] = t->format == CPU_F32 ? ((const float *)panel)[at]
                   : t->format == CPU_F16 ? quant_f16_to_f32(((const uint16_t *)panel)[at])
                                          : quant_bf16_to_f32(((const uint16_t *)panel)[at]);
        }
        return;
    }
    size_t block = cpu_quant_block_bytes(t->format);
    for (int64_t b = 0; b < k / BLOCK; b++, dst += BLOCK) {
        uint8_t q[32];
        unpack_quants(t->format, panel + t->scale_bytes + (size_t)b * block, r, q);
        float d[2], m = 0;
        switch (t->format) {
        case CPU_Q8: case CPU_Q4_0: case CPU_Q5_0:
            d[0] = d[1] = quant_f16_to_f32(get16(panel + b * 32, r));
            for (int i = 0; i < 32; i++) dst[i] = (float)(q[i] - (t->format == CPU_Q8 ? 128 : t->format == CPU_Q4_0 ? 8 : 16)) * d[0];
            continue;
        case CPU_Q4_1: case CPU_Q5_1:
            d[0] = d[1] = quant_f16_to_f32(get16(panel + b * 64, r));
            m = -quant_f16_to_f32(get16(panel + b * 64 + 32, r));
            break;
        case CPU_Q4_K: case CPU_Q5_K: {
            const uint8_t *s = panel + b / 8 * 320, *u = s + 64 + b % 8 * 32;
            d[0] = d[1] = quant_f16_to_f32(get16(s, r)) * u[r];
            m = quant_f16_to_f32(get16(s + 32, r)) * u[16 + r];
            break;
        }
        default: {
            const uint8_t *s = panel + b / 8 * 288, *u = s + 32 + b % 8 * 32;
            float f = quant_f16_to_f32(get16(s, r));
            d[0] = f * (int8_t)u[r];
            d[1] = f * (int8_t)u[16 + r];
            for (int i = 0; i < 32; i++) dst[i] = d[i / 16] * (float)(q[i] - 32);
            continue;
        }
        }
        for (int i = 0; i < 32; i++) dst[i] = d[i / 16] * (float)q[i] - m;
    }
}
