// cpu/weights: import. Rows are read through the caller's source in pieces by all workers and packed as they come, so that no more than a
// piece a worker is held twice. The fingerprint is xxh128 over the pieces' own hashes, in order.
//
// Threads: called by the device's thread; the source is read from pool workers.
#include <xxhash.h>

#include "base/os.h"
#include "cpu/cpu_codes.h"

enum { HUGE_PAGE = 2 << 20, PIECE = 1 << 20, SLAB = 32 << 20, LINE = 64 };

void *cpu_big_alloc(size_t bytes)
{
    if (bytes < HUGE_PAGE) return mem_aligned(64, bytes ? bytes : 64);
    size_t all = (bytes + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1);
    void *p = mem_aligned(HUGE_PAGE, all);
    if (p) os_huge_pages(p, all);
    return p;
}

// The first slab with room, or a new one. NULL: no memory.
static uint8_t *slab_take(cpu_device *d, size_t bytes, cpu_slab **out)
{
    bytes = (bytes + LINE - 1) & ~(size_t)(LINE - 1);
    cpu_slab *s = d->slabs;
    while (s && s->size - s->used < bytes) s = s->next;
    if (!s) {
        s = mem_calloc(1, sizeof *s);
        if (!s) return NULL;
        s->size = ((bytes < SLAB ? SLAB : bytes) + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1);
        s->at = cpu_big_alloc(s->size);
        if (!s->at) {
            mem_free(s);
            return NULL;
        }
        s->next = d->slabs;
        d->slabs = s;
    }
    uint8_t *at = s->at + s->used;
    s->used += bytes;
    s->tensors++;
    *out = s;
    return at;
}

static void slab_give(cpu_device *d, cpu_slab *s)
{
    if (!s || --s->tensors) return;
    cpu_slab **at = &d->slabs;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    mem_free(s->at);
    mem_free(s);
}

typedef struct layout {
    cpu_format format;
    size_t row_bytes, scale_bytes, panel_bytes, expert_bytes, matrix_bytes, vector_bytes;
    int64_t n_panels;
} layout;

static status lay_out(const cpu_device *d, const dev_weight *w, layout *l, error *err)
{
    const quant_traits *t = quant_type_traits((int)w->type);
    memset(l, 0, sizeof *l);
    if (!t || !t->decode) return error_set(err, E_UNSUPPORTED, "tensor '%s': the cpu backend cannot compute with type %u", w->name, w->type);
    if (w->k < 1 || w->n < 1 || w->experts < 1 || !quant_row_bytes((int)w->type, (uint64_t)w->k, &l->row_bytes))
        return error_set(err, E_INVALID, "tensor '%s': rows of %lld do not fit blocks of %s", w->name, (long long)w->k, t->name);
    if (!(w->use & (DEV_USE_MATRIX | DEV_USE_ROWS | DEV_USE_VECTOR))) return error_set(err, E_USAGE, "tensor '%s' has no use", w->name);
    l->format = cpu_format_of(&d->kernels, w->type, w->k, w->use);
    l->n_panels = (w->n + PANEL - 1) / PANEL;
    size_t total = 0;
    bool over = false;
    if (cpu_format_raw(l->format)) {
        over |= mul_overflows(l->row_bytes, PANEL, &l->panel_bytes) || mul_overflows(l->row_bytes, (size_t)w->n, &l->expert_bytes);
    } else {
        if (cpu_format_code(l->format)) {
            l->scale_bytes = cpu_code_scale_bytes(l->format, w->k);
            l->panel_bytes = cpu_code_panel_bytes(l->format, w->k);
        } else if (cpu_format_tile(l->format)) {
            l->scale_bytes = cpu_tile_scale_bytes(l->format, w->k);
            l->panel_bytes = cpu_tile_panel_bytes(l->format, w->k);
        } else if (!cpu_format_int8(l->format)) over |= mul_overflows((size_t)w->k, PANEL * (l->format == CPU_F32 ? 4 : 2), &l->panel_bytes);
        else {
            l->scale_bytes = cpu_scale_area_bytes(l->format, w->k);
            l->panel_bytes = l->scale_bytes + (size_t)w->k / BLOCK * cpu_quant_block_bytes(l->format);
        }
        over |= mul_overflows(l->panel_bytes, (size_t)l->n_panels, &l->expert_bytes);
    }
    over |= mul_overflows(l->expert_bytes, (size_t)w->experts, &total);
    size_t values = 0;
    over |= mul_overflows((size_t)w->k, (size_t)w->n, &values) || mul_overflows(values, (size_t)w->experts, &values) || mul_overflows(values, sizeof(float), &values);
    if (over || total > SIZE_MAX / 2) return error_set(err, E_LIMIT, "tensor '%s' is larger than memory can be", w->name);
    if (w->use & (DEV_USE_MATRIX | DEV_USE_ROWS)) l->matrix_bytes = total;
    if (w->use & DEV_USE_VECTOR) l->vector_bytes = values;
    return OK;
}

size_t cpu_weight_size(const device *dev, const dev_weight *w)
{
    layout l;
    return lay_out(cpu_dev_const(dev), w, &l, NULL) ? SIZE_MAX : l.matrix_bytes + l.vector_bytes;
}

typedef struct import_job {
    const cpu_kernels *kernels;
    const dev_weight *w;
    const dev_source *source;
    const layout *l;
    cpu_tensor *t;
    int64_t piece_panels, pieces; // of an expert
    uint8_t *buffers;
    size_t buffer_bytes;
    XXH128_hash_t *hashes;
    atomic_int failed;
    error err;
} import_job;

// Piece i: piece_panels panels of one expert.
static void import_piece(void *ctx, size_t begin, size_t end, int worker)
{
    import_job *j = ctx;
    uint8_t *buffer = j->buffers + (size_t)worker * j->buffer_bytes;
    for (size_t i = begin; i < end; i++) {
        if (atomic_load(&j->failed)) return;
        int64_t expert = (int64_t)i / j->pieces, panel = (int64_t)i % j->pieces * j->piece_panels;
        int64_t row = panel * PANEL, rows = j->w->n - row < j->piece_panels * PANEL ? j->w->n - row : j->piece_panels * PANEL;
        size_t bytes = (size_t)rows * j->l->row_bytes;
        uint64_t offset = ((uint64_t)expert * (uint64_t)j->w->n + (uint64_t)row) * j->l->row_bytes;
        error e = {0};
        status st = j->source->read(j->source->ctx, offset, bytes, buffer, &e);
        if (st) {
            int none = 0;
            if (atomic_compare_exchange_strong(&j->failed, &none, (int)st)) j->err = e;
            return;
        }
        j->hashes[i] = XXH3_128bits(buffer, bytes);
        if (j->t->data && cpu_format_raw(j->l->format)) memcpy(j->t->data + offset, buffer, bytes);
        else if (j->t->data)
            for (int64_t p = 0; p * PANEL < rows; p++) {
                int64_t left = rows - p * PANEL;
                cpu_pack(j->kernels, j->l->format, j->w->type, j->w->k, (int)(left < PANEL ? left : PANEL), buffer + (size_t)p * PANEL * j->l->row_bytes, j->l->row_bytes,
                    j->t->data + (size_t)expert * j->l->expert_bytes + (size_t)(panel + p) * j->l->panel_bytes);
            }
        if (j->t->vector)
            for (int64_t r = 0; r < rows; r++)
                quant_type_traits((int)j->w->type)->decode(buffer + (size_t)r * j->l->row_bytes, j->t->vector + ((size_t)expert * (size_t)j->w->n + (size_t)(row + r)) * (size_t)j->w->k, (size_t)j->w->k);
    }
}

status cpu_import_weight(device *dev, const dev_weight *w, const dev_source *source, dev_tensor **out, error *err)
{
    cpu_device *d = cpu_dev(dev);
    *out = NULL;
    layout l;
    status st = lay_out(d, w, &l, err);
    if (st) return st;
    import_job job = {.kernels = &d->kernels, .w = w, .source = source, .l = &l};
    job.piece_panels = (int64_t)(PIECE / (l.row_bytes * PANEL));
    if (job.piece_panels < 1) job.piece_panels = 1;
    if (job.piece_panels > l.n_panels) job.piece_panels = l.n_panels;
    job.pieces = (l.n_panels + job.piece_panels - 1) / job.piece_panels;
    size_t threads = (size_t)pool_threads(d->pool), count = (size_t)job.pieces * (size_t)w->experts;
    job.buffer_bytes = ((size_t)job.piece_panels * PANEL * l.row_bytes + 63) & ~(size_t)63;
    cpu_tensor *t = mem_calloc(1, sizeof *t);
    job.hashes = mem_calloc(count, sizeof *job.hashes);
    if (d->piece_bytes < threads * job.buffer_bytes) {
        mem_free(d->pieces);
        d->pieces = cpu_big_alloc(threads * job.buffer_bytes);
        d->piece_bytes = d->pieces ? threads * job.buffer_bytes : 0;
    }
    job.buffers = d->pieces;
    if (t) {
        t->base = (dev_tensor){.name = mem_strdup(w->name), .type = w->type, .k = w->k, .n = w->n, .experts = w->experts, .use = w->use, .bytes = l.matrix_bytes + l.vector_bytes};
        t->format = l.format;
        t->row_bytes = l.row_bytes;
        t->scale_bytes = l.scale_bytes;
        t->panel_bytes = l.panel_bytes;
        t->expert_bytes = l.expert_bytes;
        t->n_panels = l.n_panels;
        if (l.matrix_bytes) t->data = slab_take(d, l.matrix_bytes, &t->slab);
        if (l.vector_bytes) t->vector = mem_aligned(64, l.vector_bytes);
    }
    if (!t || !job.hashes || !job.buffers || !t->base.name || (l.matrix_bytes && !t->data) || (l.vector_bytes && !t->vector)) {
        st = error_set(err, E_NOMEM, "tensor '%s': no memory for %zu bytes of weights", w->name, l.matrix_bytes + l.vector_bytes);
    } else {
        job.t = t;
        pool_for(d->pool, count, 1, import_piece, &job);
        st = (status)atomic_load(&job.failed);
        if (st) {
            if (err) *err = job.err;
            error_prefix(err, "tensor '%s'", w->name);
        } else {
            XXH128_hash_t h = XXH3_128bits(job.hashes, count * sizeof *job.hashes);
            t->base.fingerprint = (dev_fingerprint){h.low64, h.high64};
        }
    }
    mem_free(job.hashes);
    if (st) {
        if (t) {
            mem_free(t->base.name);
            slab_give(d, t->slab);
            mem_free(t->vector);
            mem_free(t);
        }
        return st;
    }
    d->weight_bytes += t->base.bytes;
    t->next = d->tensors;
    if (t->next) t->next->prev = t;
    d->tensors = t;
    *out = &t->base;
    return OK;
}

void cpu_free_weight(device *dev, dev_tensor *tensor)
{
    cpu_tensor *t = (cpu_tensor *)tensor;
    cpu_device *d = cpu_dev(dev);
    d->weight_bytes -= tensor->bytes;
    if (t->prev) t->prev->next = t->next;
    else d->tensors = t->next;
    if (t->next) t->next->prev = t->prev;
    mem_free(t->base.name);
    slab_give(d, t->slab);
    mem_free(t->vector);
    mem_free(t);
}
