// cpu/pack: the panels that the fast tiers read, and one row of any of them as float32 again: the plain way, which each tier's own (cpu_pack_rows.h) is held to.
// Layouts: cpu_panel.h, cpu_codes.h, cpu_tile.h.
#include "cpu/cpu_codes.h"
#include "cpu/cpu_tile.h"

// ---- formats --------------------------------------------------------------------------------------------------------------

// What an integer format's panels consist of.
typedef struct areas { cpu_scale scale; int group; size_t quants; } areas; // quants: bytes of 16 rows x 32 columns

static areas areas_of(cpu_format f) {
    if (cpu_format_code(f)) return (areas){cpu_code(f)->scale, cpu_code(f)->group, (size_t)cpu_code(f)->bytes};
    if (cpu_format_tile(f)) return (areas){cpu_tile_layout(f)->scale, 1, cpu_tile_layout(f)->block_bytes};
    if (cpu_format_int8(f)) return (areas){cpu_int8(f)->scale, 1, cpu_int8_bytes(f)};
    return (areas){SCALE_NONE, 1, 0};
}

// Bytes of a number that is no integer; 0: an integer format.
static size_t float_bytes(cpu_format f) { return f == CPU_F32 ? 4 : f == CPU_F16 || f == CPU_BF16 || f == CPU_TILE_F16 || f == CPU_TILE_BF16 ? 2 : 0; }

size_t cpu_scale_bytes(cpu_format f, int64_t k) {
    const areas a = areas_of(f);
    return cpu_scale_area(a.scale, a.group, k);
}

size_t cpu_panel_bytes(cpu_format f, int64_t k) {
    if (cpu_format_tile(f) && float_bytes(f)) return (size_t)cpu_tile_blocks(k) * TILE_BYTES;
    if (float_bytes(f)) return (size_t)k * PANEL * float_bytes(f);
    return (cpu_scale_bytes(f, k) + (size_t)k / BLOCK * areas_of(f).quants + 63) & ~(size_t)63;
}

cpu_format cpu_choose_format(uint32_t type, int64_t k, bool packed) {
    if (!packed) return CPU_RAW;
    if (type == QUANT_F32) return CPU_F32;
    if (type == QUANT_F16) return CPU_F16;
    if (type == QUANT_BF16) return CPU_BF16;
    if (k % quant_type_traits((int)type)->block_elems) return CPU_RAW;
    for (cpu_format f = CPU_INT8_FIRST; f <= CPU_INT8_LAST; f++)
        if (cpu_int8(f)->type == type) return f;
    for (cpu_format f = CPU_CODE_FIRST; f <= CPU_CODE_LAST; f++)
        if (cpu_code(f)->type == type) return f;
    return CPU_RAW;
}

// ---- panels ---------------------------------------------------------------------------------------------------------------

static void pack_floats(cpu_format f, int64_t k, int n, const uint8_t *rows, size_t row_bytes, uint8_t *panel) {
    for (int64_t j = 0; j < k; j++)
        for (int r = 0; r < n; r++) {
            const uint8_t *from = rows + (size_t)r * row_bytes;
            if (f == CPU_F32) memcpy(panel + (j * PANEL + r) * 4, from + j * 4, 4);
            else memcpy(panel + (cpu_format_tile(f) ? cpu_tile_place16(j, r) : (size_t)(j * PANEL + r) * 2), from + j * 2, 2);
        }
}

// DEV_USE_EXACT: float32 of any type.
static void pack_decoded(uint32_t type, int64_t k, int n, const uint8_t *rows, size_t row_bytes, float *to) {
    const quant_traits *t = quant_type_traits((int)type);
    float part[256]; // a whole number of blocks: none is longer
    for (int r = 0; r < n; r++)
        for (int64_t j = 0; j < k; j += 256) {
            const int64_t count = k - j < 256 ? k - j : 256;
            t->decode(rows + (size_t)r * row_bytes + (size_t)(j / t->block_elems) * t->block_bytes, part, (size_t)count);
            for (int64_t i = 0; i < count; i++) to[(j + i) * PANEL + r] = part[i];
        }
}

void cpu_pack_panel(cpu_format f, uint32_t type, int64_t k, int n, const uint8_t *rows, size_t row_bytes, uint8_t *panel) {
    memset(panel, 0, cpu_panel_bytes(f, k));
    if (f == CPU_F32 && type != QUANT_F32) {
        pack_decoded(type, k, n, rows, row_bytes, (float *)panel);
        return;
    }
    if (float_bytes(f)) {
        pack_floats(f, k, n, rows, row_bytes, panel);
        return;
    }
    const areas a = areas_of(f);
    uint8_t *quants = panel + cpu_scale_area(a.scale, a.group, k);
    cpu_part x[PANEL] = {{.d = 0}}; // each reading writes the same fields of it
    for (int64_t b = 0; b < k / BLOCK; b++) {
        for (int r = 0; r < n; r++) cpu_part_get(type, rows + (size_t)r * row_bytes, b, &x[r]);
        cpu_scale_put(a.scale, a.group, panel, b, n, x);
        if (cpu_format_code(f)) cpu_code_put(cpu_code(f), quants, b, n, x);
        else if (cpu_format_tile(f)) cpu_tile_put(cpu_tile_layout(f), quants, b, n, x);
        else cpu_numbers_put(cpu_int8(f)->bits, quants + (size_t)b * a.quants, n, x);
    }
    if (cpu_format_code(f)) cpu_code_end(cpu_code(f), quants, k);
}

static void int8_get(cpu_format f, const uint8_t *area, int r, int8_t v[BLOCK]) {
    uint8_t q[BLOCK];
    cpu_numbers_get(cpu_int8(f)->bits, area, r, q);
    for (int i = 0; i < BLOCK; i++) v[i] = (int8_t)(q[i] - cpu_int8(f)->offset);
}

static float float_at(cpu_format f, const uint8_t *panel, int r, int64_t j) {
    if (f == CPU_F32) return ((const float *)panel)[j * PANEL + r];
    uint16_t v;
    memcpy(&v, panel + (cpu_format_tile(f) ? cpu_tile_place16(j, r) : ((size_t)j * PANEL + (size_t)r) * 2), 2);
    return f == CPU_F16 || f == CPU_TILE_F16 ? quant_f16_to_f32(v) : quant_bf16_to_f32(v);
}

void cpu_unpack_row(const cpu_tensor *t, int64_t expert, int64_t row, float *dst) {
    const cpu_format f = t->format;
    const int64_t k = t->base.k;
    if (cpu_format_raw(f)) {
        quant_type_traits((int)t->base.type)->decode(t->data + (size_t)expert * t->expert_bytes + (size_t)row * t->row_bytes, dst, (size_t)k);
        return;
    }
    const uint8_t *panel = cpu_panel_at(t, expert, row / PANEL), *quants = panel + t->scale_bytes;
    const int r = (int)(row % PANEL);
    if (float_bytes(f)) {
        for (int64_t j = 0; j < k; j++) dst[j] = float_at(f, panel, r, j);
        return;
    }
    const areas a = areas_of(f);
    for (int64_t b = 0; b < k / BLOCK; b++, dst += BLOCK) {
        float d[2], m[2];
        cpu_scale_get(a.scale, a.group, cpu_format_code(f) ? cpu_code(f)->unit : 1, panel, b, r, d, m);
        int8_t v[BLOCK];
        if (cpu_format_code(f)) cpu_code_get(cpu_code(f), quants, b, r, v);
        else if (cpu_format_tile(f)) cpu_tile_get(cpu_tile_layout(f), quants, b, r, v);
        else int8_get(f, quants + (size_t)b * a.quants, r, v);
        for (int h = 0; h < 2; h++)
            for (int i = h * 16; i < h * 16 + 16; i++) dst[i] = d[h] * (float)v[i] - m[h];
    }
}
