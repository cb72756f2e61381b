// cpu/kv: pages of keys and values. Page: [layer][kv head] { keys [head_k][32 tokens], values [32 tokens][head_v] }: scores are computed
// for 32 keys at once, sums of values for neighbouring dimensions. q8_0
// pages: cpu_kv_values_at. bf16 pages of a tier with tiles lie as amx_attend.h says. A recurrent page is [layer][state_width] float32.
#include <math.h>

#include "cpu/cpu_tile.h"

size_t cpu_kv_elem(dev_kv_type t) { return t == DEV_KV_F32 ? 4 : t == DEV_KV_Q8_0 ? 1 : 2; }

dev_kv_type cpu_kv_resolve(const device *d, dev_kv_type t) { return t == DEV_KV_AUTO ? cpu_dev_const(d)->kv_auto : t; }

static size_t head_bytes(const device *d, const dev_group *g, dev_kv_type t) {
    if (t == DEV_KV_BF16 && cpu_dev_const(d)->kernels.kv_put) return cpu_tile_head_bytes(g->head_k, g->head_v);
    return (cpu_kv_values_at(t, g->head_k) + cpu_kv_values_at(t, g->head_v) + 63) & ~(size_t)63;
}

size_t cpu_page_bytes(const device *d, const dev_group *g, dev_kv_type t) {
    t = cpu_kv_resolve(d, t);
    if (g->kind == DEV_GROUP_RECURRENT) return (size_t)g->n_layers * (size_t)g->state_width * sizeof(float);
    return (size_t)g->n_layers * (size_t)g->n_kv * head_bytes(d, g, t);
}

static void free_data(cpu_kv *kv) {
    for (int g = 0; g < DEV_MAX_GROUPS; g++) mem_free(kv->data[g]);
    mem_free(kv);
}

status cpu_kv_create(device *d, const dev_plan *p, const int32_t *n_pages, dev_kv_type type, dev_kv **out, error *err) {
    *out = NULL;
    type = cpu_kv_resolve(d, type);
    if (type != DEV_KV_F32 && type != DEV_KV_F16 && type != DEV_KV_BF16 && type != DEV_KV_Q8_0) return error_set(err, E_UNSUPPORTED, "the cpu backend keeps KV in f32, f16, bf16 or q8_0");
    cpu_kv *kv = mem_calloc(1, sizeof *kv);
    if (!kv) return error_set(err, E_NOMEM, "no memory for KV pages");
    kv->type = type;
    kv->n_groups = p->n_groups;
    size_t all = 0;
    for (int g = 0; g < p->n_groups; g++) {
        kv->groups[g] = p->groups[g];
        kv->n_pages[g] = n_pages[g];
        kv->page_bytes[g] = cpu_page_bytes(d, &p->groups[g], type);
        kv->head_bytes[g] = head_bytes(d, &p->groups[g], type);
        kv->layer_bytes[g] = kv->head_bytes[g] * (size_t)p->groups[g].n_kv;
        size_t bytes;
        if (n_pages[g] < 1 || kv->page_bytes[g] < 1 || mul_overflows(kv->page_bytes[g], (size_t)n_pages[g], &bytes)) {
            free_data(kv);
            return error_set(err, E_USAGE, "KV group %d: %d pages of %zu bytes", g, n_pages[g], kv->page_bytes[g]);
        }
        all += bytes;
        kv->data[g] = cpu_big_alloc(bytes);
        if (!kv->data[g]) {
            free_data(kv);
            return error_set(err, E_NOMEM, "no memory for %zu bytes of KV pages", all);
        }
        cpu_interleave(cpu_dev(d), kv->data[g], bytes);
    }
    cpu_ahead_begin(kv);
    *out = (dev_kv *)kv;
    return OK;
}

void cpu_kv_destroy(device *d, dev_kv *handle) {
    (void)d;
    cpu_ahead_end((cpu_kv *)handle);
    free_data((cpu_kv *)handle);
}

static uint8_t *page_at(dev_kv *handle, int32_t group, int32_t page) {
    cpu_kv *kv = (cpu_kv *)handle;
    return kv->data[group] + (size_t)page * kv->page_bytes[group];
}

void cpu_kv_copy(device *d, dev_kv *kv, int32_t group, int32_t from, int32_t to) {
    (void)d;
    if (from != to) memcpy(page_at(kv, group, to), page_at(kv, group, from), ((cpu_kv *)kv)->page_bytes[group]);
}

void cpu_kv_export(device *d, dev_kv *kv, int32_t group, int32_t page, void *dst) {
    (void)d;
    memcpy(dst, page_at(kv, group, page), ((cpu_kv *)kv)->page_bytes[group]);
}

void cpu_kv_import(device *d, dev_kv *kv, int32_t group, int32_t page, const void *src) {
    (void)d;
    memcpy(page_at(kv, group, page), src, ((cpu_kv *)kv)->page_bytes[group]);
}

// n values as int8, `stride` apart, with a scale for each 32 of them at scales[block * 32]. What the scale's half float cannot hold counts as zero.
static void put_q8(const float *x, int32_t n, int8_t *q, size_t stride, uint16_t *scales) {
    for (int32_t b = 0; b < n; b += BLOCK, scales += DEV_PAGE_TOKENS) {
        int32_t end = n - b < BLOCK ? n : b + BLOCK;
        float top = 0;
        for (int32_t i = b; i < end; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
        *scales = quant_f32_to_f16(fminf(top / 127.0f, 65504));
        float d = quant_f16_to_f32(*scales), f = d > 0 ? 1.0f / d : 0;
        for (int32_t i = b; i < end; i++) q[(size_t)i * stride] = (int8_t)lrintf(fminf(fmaxf(x[i] * f, -127), 127));
    }
}

static void write_head(const cpu_kernels *kern, dev_kv_type type, const dev_group *g, uint8_t *at, int32_t slot, const float *k, const float *v) {
    const size_t first_value = (size_t)g->head_k * DEV_PAGE_TOKENS;
    if (type == DEV_KV_Q8_0) {
        size_t values = cpu_kv_values_at(type, g->head_k);
        put_q8(k, g->head_k, (int8_t *)at + slot, DEV_PAGE_TOKENS, (uint16_t *)(at + first_value) + slot);
        put_q8(v, g->head_v, (int8_t *)at + values + (size_t)slot * (size_t)g->head_v, 1, (uint16_t *)(at + values + (size_t)g->head_v * DEV_PAGE_TOKENS) + slot);
        return;
    }
    if (type == DEV_KV_F32) {
        float *f = (float *)at;
        for (int32_t i = 0; i < g->head_k; i++) f[i * DEV_PAGE_TOKENS + slot] = k[i];
        memcpy(f + first_value + (size_t)slot * (size_t)g->head_v, v, (size_t)g->head_v * sizeof(float));
        return;
    }
    uint16_t *f = (uint16_t *)at, *values = f + first_value + (size_t)slot * (size_t)g->head_v;
    if (type == DEV_KV_BF16) {
        for (int32_t i = 0; i < g->head_k; i++) f[i * DEV_PAGE_TOKENS + slot] = quant_f32_to_bf16(k[i]);
        for (int32_t i = 0; i < g->head_v; i++) values[i] = quant_f32_to_bf16(v[i]);
        return;
    }
    uint16_t half[64];
    for (int32_t i = 0; i < g->head_k; i += 64) {
        int32_t n = g->head_k - i < 64 ? g->head_k - i : 64;
        kern->to_half(k + i, half, n);
        for (int32_t j = 0; j < n; j++) f[(i + j) * DEV_PAGE_TOKENS + slot] = half[j];
    }
    kern->to_half(v, values, g->head_v);
}

void cpu_kv_write(const cpu_kernels *kern, const cpu_kv *kv, int32_t group, int32_t layer, int32_t page, int32_t slot, int32_t n, const float *k, size_t ldk, const float *v, size_t ldv) {
    const dev_group *g = &kv->groups[group];
    for (int32_t h = 0; h < g->n_kv; h++, k += g->head_k, v += g->head_v) {
        uint8_t *at = kv->data[group] + (size_t)page * kv->page_bytes[group] + (size_t)layer * kv->layer_bytes[group] + (size_t)h * kv->head_bytes[group];
        if (kv->type == DEV_KV_BF16 && kern->kv_put) kern->kv_put(at, g->head_k, g->head_v, slot, n, k, ldk, v, ldv);
        else
            for (int32_t i = 0; i < n; i++) write_head(kern, kv->type, g, at, slot + i, k + (size_t)i * ldk, v + (size_t)i * ldv);
    }
}
