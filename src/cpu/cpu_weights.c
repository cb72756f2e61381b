// cpu/weights: import. All weights of a model at once: their places are chosen first, then all workers read pieces of them through the callers' sources, hash them
// and pack them while they are in the cache, until none is left, so that no more than a piece a worker is held twice and nobody waits at the end of a tensor. A
// weight's fingerprint is xxh128 over its pieces' own hashes, in order.
//
// Threads: called by the device's thread; sources are read from pool workers.
#include "base/os.h"
#include "cpu/cpu_internal.h"

enum { HUGE_PAGE = 2 << 20, PIECE = 256 << 10, SLAB = 32 << 20, LINE = 64 };

void *cpu_big_alloc(size_t bytes) {
    if (bytes < HUGE_PAGE) return mem_aligned(64, bytes ? bytes : 64);
    size_t all = (bytes + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1);
    void *p = mem_aligned(HUGE_PAGE, all);
    if (p) os_huge_pages(p, all);
    return p;
}

// The first slab with room, or a new one. NULL: no memory.
static uint8_t *slab_take(cpu_device *d, size_t bytes, cpu_slab **out) {
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

static void slab_give(cpu_device *d, cpu_slab *s) {
    if (!s || --s->tensors) return;
    cpu_slab **at = &d->slabs;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    mem_free(s->at);
    mem_free(s);
}

int64_t cpu_node_panel(const pool *p, const cpu_tensor *t, int64_t expert, int node) {
    if (pool_nodes(p) == 1) return node ? t->n_panels : 0;
    if (t->expert_bytes >= (size_t)pool_nodes(p) * HUGE_PAGE || t->base.experts == 1) return pool_part(p, t->n_panels, node);
    int64_t at = pool_part(p, t->n_panels * t->base.experts, node) - expert * t->n_panels;
    return at < 0 ? 0 : at > t->n_panels ? t->n_panels : at;
}

cpu_chunks cpu_node_chunks(const pool *p, const cpu_tensor *t, int64_t expert, int node, int64_t chunk) {
    int64_t first = (cpu_node_panel(p, t, expert, node) + chunk - 1) / chunk, end = (cpu_node_panel(p, t, expert, node + 1) + chunk - 1) / chunk;
    return (cpu_chunks){first, end - first};
}

// The node of the panel at a byte of the matrix.
static int node_at(const pool *p, const cpu_tensor *t, size_t at) {
    int64_t expert = (int64_t)(at / t->expert_bytes), panel = (int64_t)(at % t->expert_bytes / t->panel_bytes);
    int node = 0;
    while (panel >= cpu_node_panel(p, t, expert, node + 1)) node++;
    return node;
}

bool cpu_next_pages(const pool *p, const cpu_tensor *t, cpu_pages *run) {
    size_t bytes = t->expert_bytes * (size_t)t->base.experts;
    uintptr_t data = (uintptr_t)t->data, at = run->at ? (uintptr_t)run->at + run->bytes : (data + HUGE_PAGE / 2 - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
    run->at = (uint8_t *)at;
    run->bytes = 0;
    for (; at + HUGE_PAGE / 2 < data + bytes; at += HUGE_PAGE, run->bytes += HUGE_PAGE) {
        int node = node_at(p, t, at + HUGE_PAGE / 2 - data);
        if (run->bytes && node != run->node) break;
        run->node = node;
    }
    return run->bytes > 0;
}

typedef struct layout {
    cpu_format format;
    size_t row_bytes, scale_bytes, panel_bytes, expert_bytes, matrix_bytes, vector_bytes;
    int64_t n_panels;
} layout;

static status lay_out(const cpu_device *d, const dev_weight *w, layout *l, error *err) {
    const quant_traits *t = quant_type_traits((int)w->type);
    memset(l, 0, sizeof *l);
    if (!t || !t->decode) return error_set(err, E_UNSUPPORTED, "tensor '%s': the cpu backend cannot compute with type %u", w->name, w->type);
    if (w->k < 1 || w->n < 1 || w->experts < 1 || !quant_row_bytes((int)w->type, (uint64_t)w->k, &l->row_bytes))
        return error_set(err, E_INVALID, "tensor '%s': rows of %lld do not fit blocks of %s", w->name, (long long)w->k, t->name);
    if (!(w->use & (DEV_USE_MATRIX | DEV_USE_ROWS | DEV_USE_VECTOR))) return error_set(err, E_USAGE, "tensor '%s' has no use", w->name);
    l->format = cpu_format_of(&d->kernels, w->type, w->k, w->use);
    size_t total = 0, values = 0;
    bool over = mul_overflows((size_t)w->k, PANEL * 8, &total); // more than a panel of any format takes
    over |= mul_overflows((size_t)w->k, (size_t)w->n, &values) || mul_overflows(values, (size_t)w->experts, &values) || mul_overflows(values, sizeof(float), &values);
    if (!over) {
        const bool raw = cpu_format_raw(l->format);
        l->n_panels = (w->n + PANEL - 1) / PANEL;
        l->scale_bytes = raw ? 0 : cpu_scale_bytes(l->format, w->k);
        l->panel_bytes = raw ? l->row_bytes * PANEL : cpu_panel_bytes(l->format, w->k);
        over = raw ? mul_overflows(l->row_bytes, (size_t)w->n, &l->expert_bytes) : mul_overflows(l->panel_bytes, (size_t)l->n_panels, &l->expert_bytes);
        over |= mul_overflows(l->expert_bytes, (size_t)w->experts, &total);
    }
    if (over || total > SIZE_MAX / 2 || values > SIZE_MAX / 2) return error_set(err, E_LIMIT, "tensor '%s' is larger than memory can be", w->name);
    if (w->use & (DEV_USE_MATRIX | DEV_USE_ROWS)) l->matrix_bytes = total;
    if (w->use & DEV_USE_VECTOR) l->vector_bytes = values;
    return OK;
}

size_t cpu_weight_size(const device *dev, const dev_weight *w) {
    layout l;
    return lay_out(cpu_dev_const(dev), w, &l, NULL) ? SIZE_MAX : l.matrix_bytes + l.vector_bytes;
}

// What is read at once: a run of panels of one expert, about PIECE bytes of the file, small enough to stay in the second-level cache until it is hashed and packed.
// The pieces of a weight depend on its shape alone, and so does its fingerprint.
typedef struct import_item {
    dev_import *of;
    layout l;
    cpu_tensor *t;
    int64_t piece_panels, expert_pieces;
    size_t first, pieces; // numbers of its pieces among those of all
} import_item;

// What a worker takes at once: pieces [first, first + count), whose packed bytes begin in the same large page. The page's first touch, in which the system clears
// it, is then one worker's alone; two that came to it together would both clear a page, and one of them in vain.
// Claims are in order of their nodes; ends: see pool_pick.
typedef struct import_claim { size_t item, first, count; int node; } import_claim;

typedef struct import_job {
    const cpu_kernels *kernels;
    const dev_hooks *hooks;
    import_item *items;
    import_claim *claims;
    size_t n_items, n_pieces, n_claims, cap_claims, buffer_bytes, ends[NODES_MOST];
    uint8_t *buffers;
    cpu_hash *hashes; // of pieces
    _Atomic uint64_t done;
    atomic_int failed;
    error err;
} import_job;

static status import_piece(import_job *j, const import_item *it, size_t piece, uint8_t *buffer, error *err) {
    const layout *l = &it->l;
    const dev_weight *w = it->of->weight;
    cpu_tensor *t = it->t;
    int64_t expert = (int64_t)piece / it->expert_pieces, panel = (int64_t)piece % it->expert_pieces * it->piece_panels;
    int64_t row = panel * PANEL, rows = w->n - row < it->piece_panels * PANEL ? w->n - row : it->piece_panels * PANEL;
    size_t bytes = (size_t)rows * l->row_bytes;
    uint64_t offset = ((uint64_t)expert * (uint64_t)w->n + (uint64_t)row) * l->row_bytes;
    if (t->data && cpu_format_raw(l->format)) buffer = t->data + offset; // as in the file
    status st = it->of->source.read(it->of->source.ctx, offset, bytes, buffer, err);
    if (st) {
        error_prefix(err, "tensor '%s'", w->name);
        return st;
    }
    j->hashes[it->first + piece] = j->kernels->hash(buffer, bytes);
    if (t->data && !cpu_format_raw(l->format))
        for (int64_t p = 0; p * PANEL < rows; p++) {
            int64_t left = rows - p * PANEL;
            cpu_pack(j->kernels, l->format, w->type, w->k, (int)(left < PANEL ? left : PANEL), buffer + (size_t)p * PANEL * l->row_bytes, l->row_bytes,
                t->data + (size_t)expert * l->expert_bytes + (size_t)(panel + p) * l->panel_bytes);
        }
    if (t->vector)
        for (int64_t r = 0; r < rows; r++)
            quant_type_traits((int)w->type)->decode(buffer + (size_t)r * l->row_bytes,
                                                    t->vector + ((size_t)expert * (size_t)w->n + (size_t)(row + r)) * (size_t)w->k, (size_t)w->k);
    atomic_fetch_add(&j->done, bytes);
    return OK;
}

static void import_worker(void *ctx, int worker, pool_member *team) {
    import_job *j = ctx;
    uint8_t *buffer = j->buffers + (size_t)worker * j->buffer_bytes;
    for (size_t c; (c = pool_pick(team, j->ends)) < j->n_claims;) {
        const import_claim *claim = &j->claims[c];
        const import_item *it = &j->items[claim->item];
        error e = {0};
        status st = OK;
        for (size_t i = claim->first; !st && i < claim->first + claim->count; i++) {
            if (atomic_load(&j->failed)) return;
            while (i >= it->first + it->pieces) it++;
            st = import_piece(j, it, i - it->first, buffer, &e);
        }
        if (!st && worker == 0 && j->hooks) { // the caller's thread
            if (j->hooks->progress) j->hooks->progress(j->hooks->ctx, atomic_load(&j->done));
            if (j->hooks->cancelled && j->hooks->cancelled(j->hooks->ctx)) st = error_set(&e, E_CANCELLED, "loading was cancelled");
        }
        int none = 0;
        if (st && atomic_compare_exchange_strong(&j->failed, &none, (int)st)) j->err = e;
    }
}

// Where a piece is packed, from the matrix's first byte.
static size_t offset_of(const import_item *it, size_t piece) {
    int64_t expert = (int64_t)piece / it->expert_pieces, panel = (int64_t)piece % it->expert_pieces * it->piece_panels;
    return (size_t)expert * it->l.expert_bytes + (size_t)panel * it->l.panel_bytes; // panel_bytes of raw formats are 16 rows
}

// The large page in which a piece is packed; what has no place in a slab joins what is before it.
static uintptr_t page_of(const import_item *it, size_t piece) { return it->t->data ? (uintptr_t)(it->t->data + offset_of(it, piece)) / HUGE_PAGE : 0; }

static bool sort_claims(const pool *p, import_job *j) {
    import_claim *sorted = mem_calloc(j->n_claims, sizeof *sorted);
    if (!sorted) return false;
    size_t n = 0;
    for (int node = 0; node < pool_nodes(p); node++) {
        for (size_t i = 0; i < j->n_claims; i++)
            if (j->claims[i].node == node) sorted[n++] = j->claims[i];
        j->ends[node] = n;
    }
    mem_free(j->claims);
    j->claims = sorted;
    return true;
}

static bool make_claims(const pool *p, import_job *j) {
    uintptr_t page = 0;
    for (size_t i = 0; i < j->n_items; i++)
        for (size_t piece = 0; piece < j->items[i].pieces; piece++) {
            const import_item *it = &j->items[i];
            uintptr_t here = page_of(it, piece);
            if (!j->n_claims || (here && here != page)) {
                if (!mem_grow((void **)&j->claims, &j->cap_claims, j->n_claims + 1, sizeof *j->claims)) return false;
                j->claims[j->n_claims++] = (import_claim){i, it->first + piece, 0, it->t->data ? node_at(p, it->t, offset_of(it, piece)) : 0};
                page = here;
            }
            j->claims[j->n_claims - 1].count++;
        }
    j->ends[0] = j->n_claims;
    return pool_nodes(p) == 1 || sort_claims(p, j);
}

static status place(cpu_device *d, import_item *it, error *err) {
    const dev_weight *w = it->of->weight;
    const layout *l = &it->l;
    cpu_tensor *t = it->t = mem_calloc(1, sizeof *t);
    if (!t) return error_set(err, E_NOMEM, "tensor '%s': no memory", w->name);
    t->base = (dev_tensor){.name = mem_strdup(w->name), .type = w->type, .k = w->k, .n = w->n, .experts = w->experts, .use = w->use, .bytes = l->matrix_bytes + l->vector_bytes};
    t->format = l->format;
    t->row_bytes = l->row_bytes;
    t->scale_bytes = l->scale_bytes;
    t->panel_bytes = l->panel_bytes;
    t->expert_bytes = l->expert_bytes;
    t->n_panels = l->n_panels;
    if (l->matrix_bytes) t->data = slab_take(d, l->matrix_bytes, &t->slab);
    if (l->vector_bytes) t->vector = mem_aligned(LINE, l->vector_bytes);
    if (!t->base.name || (l->matrix_bytes && !t->data) || (l->vector_bytes && !t->vector))
        return error_set(err, E_NOMEM, "tensor '%s': no memory for %zu bytes of weights", w->name, l->matrix_bytes + l->vector_bytes);
    return OK;
}

static void let_go(cpu_device *d, cpu_tensor *t) {
    if (!t) return;
    mem_free(t->base.name);
    slab_give(d, t->slab);
    mem_free(t->vector);
    mem_free(t);
}

static status prepare(cpu_device *d, import_job *j, dev_import *imports, error *err) {
    status st = OK;
    for (size_t i = 0; !st && i < j->n_items; i++) {
        import_item *it = &j->items[i];
        it->of = &imports[i];
        st = lay_out(d, it->of->weight, &it->l, err);
        if (st) break;
        const layout *l = &it->l;
        it->piece_panels = (int64_t)(PIECE / (l->row_bytes * PANEL));
        if (it->piece_panels < 1) it->piece_panels = 1;
        if (it->piece_panels > l->n_panels) it->piece_panels = l->n_panels;
        it->expert_pieces = (l->n_panels + it->piece_panels - 1) / it->piece_panels;
        it->first = j->n_pieces;
        it->pieces = (size_t)it->expert_pieces * (size_t)it->of->weight->experts;
        j->n_pieces += it->pieces;
        size_t buffer = ((size_t)it->piece_panels * PANEL * l->row_bytes + LINE - 1) & ~(size_t)(LINE - 1);
        if (j->buffer_bytes < buffer) j->buffer_bytes = buffer;
        st = place(d, it, err);
    }
    if (st) return st;
    // Nobody has touched these pages yet. Where they lie is decided here and not by who comes first, so whoever has nothing left to pack may help the other nodes.
    for (size_t i = 0; i < j->n_items && pool_nodes(d->pool) > 1; i++)
        for (cpu_pages run = {0}; j->items[i].t->data && cpu_next_pages(d->pool, j->items[i].t, &run);) nodes_place(d->nodes, run.at, run.bytes, run.node);
    j->buffers = cpu_big_alloc((size_t)pool_threads(d->pool) * j->buffer_bytes);
    j->hashes = mem_calloc(j->n_pieces, sizeof *j->hashes);
    return j->buffers && j->hashes && make_claims(d->pool, j) ? OK : error_set(err, E_NOMEM, "no memory to read %zu tensors", j->n_items);
}

status cpu_import_weights(device *dev, dev_import *imports, size_t n, const dev_hooks *hooks, error *err) {
    cpu_device *d = cpu_dev(dev);
    import_job j = {.kernels = &d->kernels, .hooks = hooks, .items = mem_calloc(n, sizeof *j.items), .n_items = n};
    for (size_t i = 0; i < n; i++) imports[i].out = NULL;
    status st = j.items ? prepare(d, &j, imports, err) : error_set(err, E_NOMEM, "no memory to read %zu tensors", n);
    if (!st) {
        pool_run(d->pool, import_worker, &j);
        st = (status)atomic_load(&j.failed);
        if (st && err) *err = j.err;
    }
    for (size_t i = 0; i < n && j.items; i++) {
        import_item *it = &j.items[i];
        if (st) {
            let_go(d, it->t);
            continue;
        }
        cpu_hash h = d->kernels.hash(j.hashes + it->first, it->pieces * sizeof *j.hashes);
        it->t->base.fingerprint = (dev_fingerprint){h.low, h.high};
        d->weight_bytes += it->t->base.bytes;
        it->t->next = d->tensors;
        if (d->tensors) d->tensors->prev = it->t;
        d->tensors = it->t;
        imports[i].out = &it->t->base;
    }
    mem_free(j.items);
    mem_free(j.claims);
    mem_free(j.buffers);
    mem_free(j.hashes);
    return st;
}

void cpu_free_weight(device *dev, dev_tensor *tensor) {
    cpu_tensor *t = (cpu_tensor *)tensor;
    cpu_device *d = cpu_dev(dev);
    d->weight_bytes -= tensor->bytes;
    if (t->prev) t->prev->next = t->next;
    else d->tensors = t->next;
    if (t->next) t->next->prev = t->prev;
    let_go(d, t);
}
