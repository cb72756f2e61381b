// Writing a file of another type: plan, then tensor after tensor in slices that fit in memory. Owns the slice buffers.
// Rows are read, decoded and encoded by the pool's workers; the calling thread writes.
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/pool.h"
#include "convert/convert_internal.h"

#define SLICE_BYTES ((uint64_t)16 << 20) // of output (or input) handled at a time

convert_options convert_defaults(const convert_type *type) { return (convert_options){.type = type, .tensor_type = QUANT_TYPES}; }

typedef struct job {
    const convert_options *o;
    const gguf   *g;
    gguf_writer  *w;
    pool         *pool;
    error        *errors; // one a worker
    void        **rows;   // one a worker: floats of one row
    uint8_t      *slice;
    size_t        slice_bytes, row_cap;
    float        *ones; // uniform importance
    convert_progress progress;
} job;

typedef struct slice {
    job               *j;
    const gguf_tensor *t;
    int                type;
    size_t             in_row, out_row;
    uint64_t           first; // row
    const float       *weights;
} slice;

static void encode_rows(void *ctx, size_t begin, size_t end, int worker) {
    slice *s = ctx;
    job *j = s->j;
    error *e = &j->errors[worker];
    const quant_traits *to = quant_type_traits(s->type);
    size_t n = (size_t)s->t->dims[0];
    for (size_t r = begin; r < end && !e->code; r++) {
        uint64_t row = s->first + r;
        const float *w = s->weights;
        if (w && !convert_importance_is_uniform(j->o->importance)) w += row / s->t->dims[1] % s->t->dims[2] * n; // an expert has columns of its own
        if (!gguf_read_f32(j->g, s->t, row * n, n, j->rows[worker], e)) to->encode(j->rows[worker], j->slice + r * s->out_row, n, w);
    }
}

static void copy_rows(void *ctx, size_t begin, size_t end, int worker) {
    slice *s = ctx;
    error *e = &s->j->errors[worker];
    if (!e->code) gguf_read(s->j->g, s->t, (s->first + begin) * s->in_row, (end - begin) * s->in_row, s->j->slice + begin * s->out_row, e);
}

static status worker_error(const job *j, error *err) {
    for (int i = 0; i < pool_threads(j->pool); i++)
        if (j->errors[i].code) return error_set(err, j->errors[i].code, "%s", j->errors[i].text);
    return OK;
}

static status need_rows(job *j, size_t n, error *err) {
    if (n <= j->row_cap) return OK;
    for (int i = 0; i < pool_threads(j->pool); i++) {
        mem_free(j->rows[i]);
        j->rows[i] = mem_alloc(n * sizeof(float));
        if (!j->rows[i]) return error_set(err, E_NOMEM, "no memory for rows of %zu elements", n);
    }
    mem_free(j->ones);
    j->ones = mem_alloc(n * sizeof(float));
    if (!j->ones) return error_set(err, E_NOMEM, "no memory for rows of %zu elements", n);
    for (size_t i = 0; i < n; i++) j->ones[i] = 1;
    j->row_cap = n;
    return OK;
}

static status weights_for(job *j, const gguf_tensor *t, int type, const float **out, error *err) {
    status st = OK;
    *out = NULL;
    if (j->o->importance) {
        if (convert_importance_is_uniform(j->o->importance)) *out = j->ones;
        else st = convert_importance_get(j->o->importance, t, out, err);
    }
    if (!st && !*out && convert_needs_importance(t, type, j->o->type))
        return error_set(err, E_INVALID, "%s: %s as %s needs an importance matrix, and %s: give --imatrix FILE", gguf_file_path(j->g, 0), t->name,
                         quant_type_name(type), j->o->importance ? "the one given has no weights for it" : "none was given");
    return st;
}

static status write_tensor(job *j, const gguf_tensor *t, int type, error *err) {
    bool same = t->type == type;
    slice s = {.j = j, .t = t, .type = type};
    size_t n = (size_t)t->dims[0];
    if (!t->bytes) return OK;
    if (!quant_row_bytes(t->type, n, &s.in_row) || !quant_row_bytes(type, n, &s.out_row)) return error_set(err, E_INTERNAL, "tensor %s: no row of that size", t->name);
    status st = same ? OK : need_rows(j, n, err);
    if (!st && !same) st = weights_for(j, t, type, &s.weights, err);
    if (st) return st;
    uint64_t rows = t->dims[1] * t->dims[2] * t->dims[3], step = SLICE_BYTES / s.out_row;
    if (!step) step = 1;
    if (step > rows) step = rows;
    if (step * s.out_row > j->slice_bytes) {
        mem_free(j->slice);
        j->slice = mem_alloc((size_t)step * s.out_row);
        j->slice_bytes = j->slice ? (size_t)step * s.out_row : 0;
        if (!j->slice) return error_set(err, E_NOMEM, "no memory to convert tensor %s", t->name);
    }
    size_t chunk = 16384 / n + 1;
    for (s.first = 0; s.first < rows && !st; s.first += step) {
        size_t k = (size_t)(rows - s.first < step ? rows - s.first : step);
        pool_for(j->pool, k, same ? k / (size_t)pool_threads(j->pool) + 1 : chunk, same ? copy_rows : encode_rows, &s);
        st = worker_error(j, err);
        if (!st) st = gguf_writer_data(j->w, j->slice, k * s.out_row, err);
        j->progress.done_bytes += k * s.in_row;
        if (!st && j->o->progress && !j->o->progress(j->o->progress_ctx, &j->progress)) st = error_set(err, E_CANCELLED, "the conversion was stopped");
    }
    return st;
}

// Metadata as it was, but for what says how the file is rounded and that it was split.
static status copy_metadata(const gguf *g, gguf_writer *w, const convert_options *o, error *err) {
    status st = OK;
    for (size_t i = 0; i < gguf_kv_count(g) && !st; i++) {
        const char *key = gguf_kv_key(g, i);
        if (strcmp(key, "split.no") && strcmp(key, "split.count") && strcmp(key, "split.tensors.count")) st = gguf_writer_copy(w, key, gguf_kv_value(g, i), err);
    }
    if (!st) st = gguf_writer_set_u32(w, "general.quantization_version", 2, err);
    if (!st) st = gguf_writer_set_u32(w, "general.file_type", (uint32_t)o->type->number, err);
    return st;
}

static status write_all(job *j, const char *out, const gguf_tensor **order, const int *types, convert_result *result, error *err) {
    const gguf *g = j->g;
    size_t n = gguf_tensor_count(g);
    status st = copy_metadata(g, j->w, j->o, err);
    for (size_t i = 0; i < n && !st; i++) {
        const gguf_tensor *t = order[i];
        int type = types[t - gguf_tensor_at(g, 0)];
        size_t row = 0;
        const quant_traits *from = quant_type_traits(t->type), *to = quant_type_traits(type);
        if (t->type != type && (!from->decode || !to->encode))
            return error_set(err, E_UNSUPPORTED, "tensor %s: %s cannot be made from %s here", t->name, to->name, from->name);
        const float *unused;
        if (t->type != type && !(j->o->importance && convert_importance_is_uniform(j->o->importance)) && (st = weights_for(j, t, type, &unused, err))) return st;
        st = gguf_writer_tensor(j->w, t->name, type, t->n_dims, t->dims, NULL, err);
        quant_row_bytes(type, gguf_tensor_elems(t), &row);
        result->out_bytes += row;
        result->in_bytes += t->bytes;
        result->quantized += t->type != type && to->flags & from->flags & QUANT_IS_BLOCK;
    }
    result->tensors = n;
    j->progress.total_bytes = result->in_bytes;
    j->progress.count = n;
    if (!st) st = gguf_writer_begin(j->w, out, err);
    for (size_t i = 0; i < n && !st; i++) {
        const gguf_tensor *t = order[i];
        int type = types[t - gguf_tensor_at(g, 0)];
        j->progress.tensor = t->name;
        j->progress.index = i;
        j->progress.from = t->type;
        j->progress.to = type;
        st = write_tensor(j, t, type, err);
    }
    if (!st) st = gguf_writer_finish(j->w, err);
    return st;
}

// Whether something else than a file stands at `out`: the finished file would replace a device or a pipe, and find a folder in its way after all the work.
static bool is_no_file(const char *out) {
    struct stat st;
    return !stat(out, &st) && !S_ISREG(st.st_mode);
}

// Whether `out` is one of the files that are read: what is written would take its place.
static bool is_input(const gguf *g, const char *out) {
    struct stat a, b;
    if (stat(out, &a)) return false;
    for (uint32_t i = 0; i < gguf_files(g); i++)
        if (!stat(gguf_file_path(g, i), &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino) return true;
    return false;
}

status convert_quantize(const char *in, const char *out, const convert_options *o, convert_result *result, error *err) {
    convert_result r = {0};
    gguf *g = NULL;
    const gguf_tensor **order = NULL;
    int *types = NULL, threads = o->threads > 0 ? o->threads : pool_default_threads();
    job j = {.o = o};
    status st = gguf_open(in, &g, err);
    if (st) return st;
    j.g = g;
    if (is_input(g, out)) st = error_set(err, E_USAGE, "%s would be replaced by what is made from it: write to another file", out);
    else if (is_no_file(out)) st = error_set(err, E_USAGE, "%s is there and is not a file: name a file to write", out);
    if (!st) st = pool_create(threads, NULL, &j.pool, err);
    if (!st) st = gguf_writer_create(&j.w, err);
    if (!st) st = convert_order(g, &order, err);
    if (!st) {
        types = mem_alloc((gguf_tensor_count(g) + 1) * sizeof *types);
        j.errors = mem_calloc((size_t)threads, sizeof *j.errors);
        j.rows = mem_calloc((size_t)threads, sizeof *j.rows);
        if (!types || !j.errors || !j.rows) st = error_set(err, E_NOMEM, "no memory to convert %s", in);
    }
    if (!st) st = convert_plan(g, o, types, &r.fallbacks, err);
    if (!st) st = write_all(&j, out, order, types, &r, err);
    for (int i = 0; j.rows && i < threads; i++) mem_free(j.rows[i]);
    mem_free(j.rows);
    mem_free(j.errors);
    mem_free(j.slice);
    mem_free(j.ones);
    mem_free(types);
    mem_free(order);
    gguf_writer_free(j.w);
    if (j.pool) pool_destroy(j.pool);
    gguf_close(g);
    if (!st && result) *result = r;
    return st;
}
