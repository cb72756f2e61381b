// cpu/kv: pages of keys and values. Page: [layer][kv head] { keys [head_k][32 tokens], values [32 tokens][head_v] }: scores are computed
// for 32 keys at once, sums of values for neighbouring dimensions. q8_0
// pages: cpu_kv_values_at. bf16 pages of a tier with tiles lie as amx_attend.h says. A recurrent page is [layer][state_width] float32.
// So pages look where they are exported; in memory the parts of RUN pages lie side by side (cpu_kv_group).
#include <math.h>
#include <stdatomic.h>

#include "base/os.h"
#include "cpu/cpu_tile.h"

enum { RUN = 16 }; // of these pages: 256 KB in a row for a head of 128 in 16 bits, 512 tokens that come into memory together

dev_kv_type cpu_kv_resolve(const device *d, dev_kv_type t) { return t == DEV_KV_AUTO ? cpu_dev_const(d)->kv_auto : t; }

// A group's pages, without their memory.
static cpu_kv_group layout(const device *d, const dev_group *g, dev_kv_type t) {
    if (g->kind == DEV_GROUP_RECURRENT) return (cpu_kv_group){.spec = *g, .run = 1, .parts = g->n_layers, .part_bytes = (size_t)g->state_width * sizeof(float)};
    const bool tiles = t == DEV_KV_BF16 && cpu_dev_const(d)->kernels.kv_put;
    const size_t bytes = tiles ? cpu_tile_head_bytes(g->head_k, g->head_v) : (cpu_kv_values_at(t, g->head_k) + cpu_kv_values_at(t, g->head_v) + 63) & ~(size_t)63;
    return (cpu_kv_group){.spec = *g, .run = RUN, .parts = g->n_layers * g->n_kv, .part_bytes = bytes};
}

size_t cpu_page_bytes(const device *d, const dev_group *g, dev_kv_type t) {
    const cpu_kv_group pages = layout(d, g, cpu_kv_resolve(d, t));
    return cpu_kv_page_bytes(&pages);
}

static void free_data(cpu_kv *kv) {
    for (int g = 0; g < DEV_MAX_GROUPS; g++) mem_free(kv->groups[g].data);
    mem_free(kv);
}

status cpu_kv_create(device *d, const dev_plan *p, const int32_t *n_pages, dev_kv_type type, dev_kv **out, error *err) {
    *out = NULL;
    type = cpu_kv_resolve(d, type);
    if (type != DEV_KV_F32 && type != DEV_KV_F16 && type != DEV_KV_BF16 && type != DEV_KV_Q8_0)
        return error_set(err, E_UNSUPPORTED, "the cpu backend keeps KV in f32, f16, bf16 or q8_0");
    cpu_kv *kv = mem_calloc(1, sizeof *kv);
    if (!kv) return error_set(err, E_NOMEM, "no memory for KV pages");
    kv->type = type;
    kv->n_groups = p->n_groups;
    size_t all = 0;
    for (int g = 0; g < p->n_groups; g++) {
        cpu_kv_group *pages = &kv->groups[g];
        *pages = layout(d, &p->groups[g], type);
        pages->n = n_pages[g];
        size_t bytes;
        if (n_pages[g] < 1 || cpu_kv_page_bytes(pages) < 1 || mul_overflows(cpu_kv_page_bytes(pages), (size_t)n_pages[g], &bytes)) {
            status st = error_set(err, E_USAGE, "KV group %d: %d pages of %zu bytes", g, n_pages[g], cpu_kv_page_bytes(pages));
            free_data(kv);
            return st;
        }
        all += bytes;
        pages->data = cpu_big_alloc(bytes);
        if (!pages->data) {
            free_data(kv);
            return error_set(err, E_NOMEM, "no memory for %zu bytes of KV pages", all);
        }
        cpu_interleave(cpu_dev(d), pages->data, bytes);
    }
    *out = (dev_kv *)kv;
    return OK;
}

void cpu_kv_destroy(device *d, dev_kv *handle) {
    (void)d;
    free_data((cpu_kv *)handle);
}

// The first write to fresh memory waits until the system has found and zeroed it, one large page after the other, in the middle of a step, while the other
// workers wait at its end. A run's are fetched before the step, or before a page is copied or brought into it, by all of them.
enum { PIECE = 2 << 20 }; // bytes, one of the system's large pages

typedef struct fetch { uint8_t *at; size_t bytes; atomic_bool refused; } fetch;

static void fetch_pieces(void *ctx, int worker, pool_member *team) {
    fetch *f = ctx;
    (void)worker;
    for (size_t at; (at = pool_next(team, 1)) < (f->bytes + PIECE - 1) / PIECE;) {
        const size_t begin = at * PIECE;
        if (!os_populate(f->at + begin, f->bytes - begin < PIECE ? f->bytes - begin : PIECE)) atomic_store(&f->refused, true);
    }
    pool_barrier(team);
}

void cpu_kv_reach(cpu_device *d, cpu_kv *kv, const int32_t *upto) {
    for (int i = 0; i < kv->n_groups; i++) {
        cpu_kv_group *g = &kv->groups[i];
        const int32_t runs = (upto[i] + g->run - 1) / g->run, pages = runs * g->run < g->n ? runs * g->run : g->n;
        const size_t all = (size_t)g->n * cpu_kv_page_bytes(g), want = (size_t)pages * cpu_kv_page_bytes(g), from = g->present / PIECE * PIECE;
        if (want <= g->present || all < PIECE) continue; // what is smaller lies where it may, not at the beginning of one of the system's pages
        fetch f = {.at = g->data + from, .bytes = want - from};
        pool_run(d->pool, fetch_pieces, &f);
        g->present = atomic_load(&f.refused) ? all : want;
    }
}

static void reach_page(device *d, dev_kv *kv, int32_t group, int32_t page) {
    int32_t upto[DEV_MAX_GROUPS] = {0};
    upto[group] = page + 1;
    cpu_kv_reach(cpu_dev(d), (cpu_kv *)kv, upto);
}

void cpu_kv_copy(device *d, dev_kv *kv, int32_t group, int32_t from, int32_t to) {
    reach_page(d, kv, group, to);
    const cpu_kv_group *g = &((cpu_kv *)kv)->groups[group];
    for (int32_t i = 0; i < g->parts && from != to; i++) memcpy(cpu_kv_part(g, to, i), cpu_kv_part(g, from, i), g->part_bytes);
}

void cpu_kv_export(device *d, dev_kv *kv, int32_t group, int32_t page, void *dst) {
    (void)d;
    const cpu_kv_group *g = &((cpu_kv *)kv)->groups[group];
    uint8_t *to = dst;
    for (int32_t i = 0; i < g->parts; i++, to += g->part_bytes) memcpy(to, cpu_kv_part(g, page, i), g->part_bytes);
}

void cpu_kv_import(device *d, dev_kv *kv, int32_t group, int32_t page, const void *src) {
    reach_page(d, kv, group, page);
    const cpu_kv_group *g = &((cpu_kv *)kv)->groups[group];
    const uint8_t *from = src;
    for (int32_t i = 0; i < g->parts; i++, from += g->part_bytes) memcpy(cpu_kv_part(g, page, i), from, g->part_bytes);
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

// What a half float cannot hold becomes its greatest number: an infinity would be one for rows that do not see it too, whose weight for it is zero.
static void hold_half(const float *x, int32_t n, float *out) {
    for (int32_t i = 0; i < n; i++) out[i] = x[i] > 65504 ? 65504 : x[i] < -65504 ? -65504 : x[i];
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
    float held[64];
    uint16_t half[64];
    for (int32_t i = 0; i < g->head_k; i += 64) {
        int32_t n = g->head_k - i < 64 ? g->head_k - i : 64;
        hold_half(k + i, n, held);
        kern->to_half(held, half, n);
        for (int32_t j = 0; j < n; j++) f[(i + j) * DEV_PAGE_TOKENS + slot] = half[j];
    }
    for (int32_t i = 0; i < g->head_v; i += 64) {
        int32_t n = g->head_v - i < 64 ? g->head_v - i : 64;
        hold_half(v + i, n, held);
        kern->to_half(held, values + i, n);
    }
}

void cpu_kv_write(const cpu_kernels *kern, const cpu_kv *kv, int32_t group, int32_t layer, int32_t page, int32_t slot, int32_t n,
    const float *k, size_t ldk, const float *v, size_t ldv) {
    const cpu_kv_group *pages = &kv->groups[group];
    const dev_group *g = &pages->spec;
    for (int32_t h = 0; h < g->n_kv; h++, k += g->head_k, v += g->head_v) {
        uint8_t *at = cpu_kv_part(pages, page, layer * g->n_kv + h);
        if (kv->type == DEV_KV_BF16 && kern->kv_put) kern->kv_put(at, g->head_k, g->head_v, slot, n, k, ldk, v, ldv);
        else
            for (int32_t i = 0; i < n; i++) write_head(kern, kv->type, g, at, slot + i, k + (size_t)i * ldk, v + (size_t)i * ldv);
    }
}
