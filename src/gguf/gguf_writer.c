// Writing a GGUF container. Owns struct gguf_writer: metadata already in the file's bytes, the list of tensors, and the open output.
//
// Invariants: what it writes, gguf_open reads; a path appears only whole (temporary file beside it, fsync, rename); a writer that is
// freed before it finished takes the temporary file away. One thread.
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/utf8.h"
#include "gguf/gguf_internal.h"

typedef struct out_kv {
    char  *key;
    strbuf bytes; // type and value, as in the file
} out_kv;

typedef struct out_tensor {
    char       *name;
    int         type, n_dims;
    uint64_t    dims[4];
    uint64_t    bytes, offset; // offset from the start of the data
    const void *data;
} out_tensor;

struct gguf_writer {
    uint32_t    version, alignment;
    bool        big;
    out_kv     *kv;
    size_t      n_kv, cap_kv;
    out_tensor *tensors;
    size_t      n_tensors, cap_tensors;
    uint64_t    data_bytes; // of all tensors with their padding
    // output
    bool     open;
    int      fd; // -1: to memory
    char    *path, *temp;
    strbuf   mem;
    size_t   tensor;  // the one being written
    uint64_t written; // of it
};

status gguf_writer_create(gguf_writer **out, error *err) {
    gguf_writer *w = mem_calloc(1, sizeof *w);
    if (!w) return error_set(err, E_NOMEM, "no memory for a GGUF writer");
    w->version = 3;
    w->alignment = 32;
    w->fd = -1;
    *out = w;
    return OK;
}

static void close_output(gguf_writer *w) {
    if (w->fd >= 0) close(w->fd);
    if (w->temp) unlink(w->temp);
    mem_free(w->temp);
    mem_free(w->path);
    w->fd = -1;
    w->temp = w->path = NULL;
    w->open = false;
}

void gguf_writer_free(gguf_writer *w) {
    if (!w) return;
    close_output(w);
    for (size_t i = 0; i < w->n_kv; i++) {
        mem_free(w->kv[i].key);
        strbuf_free(&w->kv[i].bytes);
    }
    for (size_t i = 0; i < w->n_tensors; i++) mem_free(w->tensors[i].name);
    mem_free(w->kv);
    mem_free(w->tensors);
    strbuf_free(&w->mem);
    mem_free(w);
}

status gguf_writer_format(gguf_writer *w, uint32_t version, bool big_endian, error *err) {
    if (version < 1 || version > 3) return error_set(err, E_USAGE, "GGUF version %u (1 to 3 can be written)", version);
    if (w->n_kv || w->n_tensors) return error_set(err, E_USAGE, "the format must be chosen before anything is added");
    w->version = version;
    w->big = big_endian;
    return OK;
}

// ---- bytes of the file
static void put(const gguf_writer *w, strbuf *b, uint64_t v, size_t n) {
    char raw[8];
    assert(n <= sizeof raw);
    for (size_t i = 0; i < n; i++) raw[w->big ? n - 1 - i : i] = (char)(v >> 8 * i);
    strbuf_add(b, raw, n);
}

static status put_count(const gguf_writer *w, strbuf *b, uint64_t v, error *err) {
    if (w->version == 1 && v > UINT32_MAX) return error_set(err, E_LIMIT, "GGUF version 1 holds no count of %llu", (unsigned long long)v);
    put(w, b, v, w->version == 1 ? 4 : 8);
    return OK;
}

static status put_string(const gguf_writer *w, strbuf *b, gguf_str s, error *err) {
    status st = put_count(w, b, s.len, err);
    if (!st && s.len) strbuf_add(b, s.ptr, s.len);
    return st;
}

static status put_items(const gguf_writer *w, strbuf *b, const gguf_items *a, int depth, error *err) {
    if (a->type < 0 || a->type >= GGUF_VALUE_TYPES) return error_set(err, E_USAGE, "type %d of array elements is unknown", (int)a->type);
    if (depth > GGUF_MAX_DEPTH) return error_set(err, E_LIMIT, "arrays are nested more than %d deep", GGUF_MAX_DEPTH);
    put(w, b, (uint64_t)a->type, 4);
    status st = put_count(w, b, a->count, err);
    size_t n = gguf_type_bytes((int)a->type);
    for (uint64_t i = 0; i < a->count && !st && !b->failed; i++) {
        if (a->type == GGUF_STRING) st = put_string(w, b, ((const gguf_str *)a->data)[i], err);
        else if (a->type == GGUF_ARRAY) st = put_items(w, b, &((const gguf_items *)a->data)[i], depth + 1, err);
        else {
            uint64_t v = 0;
            memcpy(&v, (const char *)a->data + i * n, n);
            put(w, b, v, n);
        }
    }
    return st;
}

// ---- metadata
static out_kv *find_kv(const gguf_writer *w, const char *key) {
    for (size_t i = 0; i < w->n_kv; i++)
        if (!strcmp(w->kv[i].key, key)) return &w->kv[i];
    return NULL;
}

// Takes over b's bytes, also on failure.
static status store(gguf_writer *w, const char *key, strbuf *b, error *err) {
    status st = OK;
    size_t len = strlen(key);
    out_kv *e = find_kv(w, key);
    if (!len || len > GGUF_MAX_NAME || !utf8_valid(key, len)) st = error_set(err, E_USAGE, "a metadata key must be 1 to %d bytes of UTF-8", GGUF_MAX_NAME);
    else if (w->open) st = error_set(err, E_USAGE, "metadata cannot be set once the file is begun");
    else if (b->failed) st = error_set(err, E_NOMEM, "no memory for metadata");
    else if (e) {
        strbuf_free(&e->bytes);
        e->bytes = *b;
        return OK;
    } else if (!mem_grow((void **)&w->kv, &w->cap_kv, w->n_kv + 1, sizeof *w->kv)) st = error_set(err, E_NOMEM, "no memory for metadata");
    else {
        char *copy = mem_strdup(key);
        if (copy) {
            w->kv[w->n_kv++] = (out_kv){copy, *b};
            return OK;
        }
        st = error_set(err, E_NOMEM, "no memory for metadata");
    }
    strbuf_free(b);
    return st;
}

static status set_alignment(gguf_writer *w, uint64_t v, error *err) {
    if (v == 0 || v & (v - 1) || v > (1u << 30)) return error_set(err, E_USAGE, "general.alignment must be a power of two of at most 2^30");
    if (w->n_tensors) return error_set(err, E_USAGE, "general.alignment must be set before tensors are added");
    w->alignment = (uint32_t)v;
    return OK;
}

status gguf_writer_set(gguf_writer *w, const char *key, gguf_type type, const void *value, error *err) {
    strbuf b = {0};
    status st = OK;
    size_t n = gguf_type_bytes((int)type);
    uint64_t v = 0;
    if (n) memcpy(&v, value, n);
    if (!strcmp(key, "general.alignment")) {
        if (type != GGUF_U32) return error_set(err, E_USAGE, "general.alignment must be a u32");
        if ((st = set_alignment(w, v, err))) return st;
    }
    put(w, &b, (uint64_t)type, 4);
    if (n) put(w, &b, v, n);
    else if (type == GGUF_STRING) st = put_string(w, &b, *(const gguf_str *)value, err);
    else if (type == GGUF_ARRAY) st = put_items(w, &b, value, 0, err);
    else st = error_set(err, E_USAGE, "metadata type %d is unknown", (int)type);
    if (!st) return store(w, key, &b, err);
    strbuf_free(&b);
    return st;
}

status gguf_writer_set_u32(gguf_writer *w, const char *key, uint32_t value, error *err) { return gguf_writer_set(w, key, GGUF_U32, &value, err); }
status gguf_writer_set_f32(gguf_writer *w, const char *key, float value, error *err) { return gguf_writer_set(w, key, GGUF_F32, &value, err); }
status gguf_writer_set_bool(gguf_writer *w, const char *key, bool value, error *err) {
    uint8_t v = value;
    return gguf_writer_set(w, key, GGUF_BOOL, &v, err);
}
status gguf_writer_set_text(gguf_writer *w, const char *key, const char *text, error *err) {
    gguf_str s = {text, strlen(text)};
    return gguf_writer_set(w, key, GGUF_STRING, &s, err);
}

// The elements of v as they go into the file; numbers keep their bits.
static status put_value(const gguf_writer *w, strbuf *b, const gguf_value *v, error *err) {
    status st = OK;
    if (v->type == GGUF_ARRAY) {
        put(w, b, v->elem, 4);
        st = put_count(w, b, v->count, err);
    }
    size_t n = gguf_type_bytes(v->elem);
    for (uint64_t i = 0; i < v->count && !st && !b->failed; i++) {
        if (v->elem == GGUF_STRING) {
            gguf_str s;
            gguf_value_string(v, i, &s);
            st = put_string(w, b, s, err);
        } else if (v->elem == GGUF_ARRAY) {
            st = put_value(w, b, &v->u.nested[i], err);
        } else {
            const uint8_t *p = v->src->buf + v->at + i * n;
            uint64_t x = 0;
            for (size_t k = 0; k < n; k++) x |= (uint64_t)p[k] << 8 * (v->src->swap ? n - 1 - k : k);
            put(w, b, x, n);
        }
    }
    return st;
}

status gguf_writer_copy(gguf_writer *w, const char *key, const gguf_value *value, error *err) {
    strbuf b = {0};
    uint64_t align;
    status st = OK;
    if (!strcmp(key, "general.alignment") && value->type != GGUF_ARRAY && gguf_value_u64(value, 0, &align)) st = set_alignment(w, align, err);
    if (st) return st;
    put(w, &b, value->type, 4);
    st = put_value(w, &b, value, err);
    if (!st) return store(w, key, &b, err);
    strbuf_free(&b);
    return st;
}

void gguf_writer_remove(gguf_writer *w, const char *key) {
    out_kv *e = find_kv(w, key);
    if (!e || w->open) return;
    if (!strcmp(key, "general.alignment") && !w->n_tensors) w->alignment = 32;
    mem_free(e->key);
    strbuf_free(&e->bytes);
    size_t i = (size_t)(e - w->kv);
    memmove(e, e + 1, (w->n_kv - i - 1) * sizeof *e);
    w->n_kv--;
}

// ---- tensors
status gguf_writer_tensor(gguf_writer *w, const char *name, int type, int n_dims, const uint64_t *dims, const void *data, error *err) {
    size_t len = strlen(name), bytes;
    uint64_t elems = 1, padded;
    if (w->open) return error_set(err, E_USAGE, "tensors cannot be added once the file is begun");
    if (!len || len > GGUF_MAX_NAME || !utf8_valid(name, len)) return error_set(err, E_USAGE, "a tensor's name must be 1 to %d bytes of UTF-8", GGUF_MAX_NAME);
    if (n_dims < 0 || n_dims > 4) return error_set(err, E_USAGE, "tensor %s has %d dimensions (at most 4)", name, n_dims);
    for (int i = 0; i < n_dims; i++)
        if (__builtin_mul_overflow(elems, dims[i], &elems) || elems > INT64_MAX) return error_set(err, E_USAGE, "tensor %s is too large", name);
    const quant_traits *q = quant_type_traits(type);
    if (!q) return error_set(err, E_USAGE, "tensor %s: type %d is unknown", name, type);
    if ((n_dims ? dims[0] : 1) % q->block_elems || !quant_row_bytes(type, elems, &bytes))
        return error_set(err, E_USAGE, "tensor %s: its rows are no multiple of the %u elements of a %s block", name, q->block_elems, q->name);
    if (__builtin_add_overflow((uint64_t)bytes, w->alignment - 1, &padded) || padded > INT64_MAX - w->data_bytes)
        return error_set(err, E_USAGE, "tensor %s is too large", name);
    for (size_t i = 0; i < w->n_tensors; i++)
        if (!strcmp(w->tensors[i].name, name)) return error_set(err, E_USAGE, "tensor %s is declared twice", name);
    if (!mem_grow((void **)&w->tensors, &w->cap_tensors, w->n_tensors + 1, sizeof *w->tensors)) return error_set(err, E_NOMEM, "no memory for tensor %s", name);
    out_tensor *t = &w->tensors[w->n_tensors];
    *t = (out_tensor){.name = mem_strdup(name), .type = type, .n_dims = n_dims, .bytes = bytes, .offset = w->data_bytes, .data = data};
    if (!t->name) return error_set(err, E_NOMEM, "no memory for tensor %s", name);
    for (int i = 0; i < n_dims; i++) t->dims[i] = dims[i];
    w->data_bytes += padded & ~((uint64_t)w->alignment - 1);
    w->n_tensors++;
    return OK;
}

static status emit(gguf_writer *w, const void *data, size_t n, error *err) {
    if (w->fd < 0) return strbuf_add(&w->mem, data, n) ? OK : error_set(err, E_NOMEM, "no memory for a GGUF file");
    for (size_t done = 0; done < n;) {
        ssize_t k = write(w->fd, (const char *)data + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return error_errno(err, "cannot write %s", w->temp);
        done += (size_t)k;
    }
    return OK;
}

static status pad(gguf_writer *w, uint64_t at, error *err) {
    static const char zeros[4096];
    uint64_t n = (w->alignment - at % w->alignment) % w->alignment;
    status st = OK;
    for (; n && !st; n -= n < sizeof zeros ? n : sizeof zeros) st = emit(w, zeros, n < sizeof zeros ? (size_t)n : sizeof zeros, err);
    return st;
}

static status header(gguf_writer *w, strbuf *b, error *err) {
    strbuf_add(b, "GGUF", 4);
    put(w, b, w->version, 4);
    status st = put_count(w, b, w->n_tensors, err);
    if (!st) st = put_count(w, b, w->n_kv, err);
    for (size_t i = 0; i < w->n_kv && !st; i++) {
        const out_kv *e = &w->kv[i];
        st = put_string(w, b, (gguf_str){e->key, strlen(e->key)}, err);
        strbuf_add(b, e->bytes.data, e->bytes.len);
    }
    for (size_t i = 0; i < w->n_tensors && !st; i++) {
        const out_tensor *t = &w->tensors[i];
        st = put_string(w, b, (gguf_str){t->name, strlen(t->name)}, err);
        put(w, b, (uint64_t)t->n_dims, 4);
        for (int k = 0; k < t->n_dims && !st; k++) st = put_count(w, b, t->dims[k], err);
        put(w, b, (uint64_t)t->type, 4);
        put(w, b, t->offset, 8);
    }
    if (!st && b->failed) st = error_set(err, E_NOMEM, "no memory for the metadata");
    return st;
}

// Tensors without bytes are complete as they stand.
static void skip_empty(gguf_writer *w) {
    while (w->tensor < w->n_tensors && !w->tensors[w->tensor].bytes) w->tensor++;
}

static status open_output(gguf_writer *w, const char *path, error *err) {
    static atomic_uint serial;
    char temp[PATH_MAX];
    int n = snprintf(temp, sizeof temp, "%s.%ld.%u.part", path, (long)getpid(), atomic_fetch_add(&serial, 1));
    if (n < 0 || (size_t)n >= sizeof temp) return error_set(err, E_USAGE, "%.200s...: the path is too long", path);
    w->path = mem_strdup(path);
    if (!w->path) return error_set(err, E_NOMEM, "no memory to write %s", path);
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return error_errno(err, "cannot create %s", temp);
    w->fd = fd;
    w->temp = mem_strdup(temp);
    if (w->temp) return OK;
    unlink(temp);
    return error_set(err, E_NOMEM, "no memory to write %s", path);
}

static status begin(gguf_writer *w, const char *path, error *err) {
    strbuf b = {0};
    if (w->open) return error_set(err, E_USAGE, "the file is already begun");
    strbuf_clear(&w->mem);
    w->tensor = 0;
    w->written = 0;
    status st = header(w, &b, err);
    if (!st && path) st = open_output(w, path, err);
    w->open = !st;
    if (!st) st = emit(w, b.data, b.len, err);
    if (!st && w->n_tensors) st = pad(w, b.len, err);
    strbuf_free(&b);
    if (st) close_output(w);
    skip_empty(w);
    return st;
}

status gguf_writer_begin(gguf_writer *w, const char *path, error *err) { return begin(w, path, err); }

// A piece of one tensor, in the other byte order.
static status emit_swapped(gguf_writer *w, const out_tensor *t, const char *data, size_t n, error *err) {
    const quant_traits *q = quant_type_traits(t->type);
    if (n % q->block_bytes || w->written % q->block_bytes)
        return error_set(err, E_USAGE, "tensor %s: a big-endian file takes whole blocks of %u bytes", t->name, q->block_bytes);
    size_t step = 65536 / q->block_bytes * q->block_bytes;
    char *tmp = mem_alloc(step);
    if (!tmp) return error_set(err, E_NOMEM, "no memory to write tensor %s", t->name);
    status st = OK;
    for (size_t done = 0; done < n && !st;) {
        size_t k = n - done < step ? n - done : step;
        memcpy(tmp, data + done, k);
        if (!quant_swap(t->type, tmp, k / q->block_bytes * q->block_elems))
            st = error_set(err, E_UNSUPPORTED, "tensor %s: the byte order of %s blocks is not defined in big-endian files", t->name, q->name);
        else st = emit(w, tmp, k, err);
        done += k;
    }
    mem_free(tmp);
    return st;
}

status gguf_writer_data(gguf_writer *w, const void *data, size_t bytes, error *err) {
    const char *p = data;
    if (!w->open) return error_set(err, E_USAGE, "the file is not begun");
    while (bytes) {
        if (w->tensor >= w->n_tensors) return error_set(err, E_USAGE, "more data than the tensors hold");
        const out_tensor *t = &w->tensors[w->tensor];
        size_t n = bytes < t->bytes - w->written ? bytes : (size_t)(t->bytes - w->written);
        status st = w->big ? emit_swapped(w, t, p, n, err) : emit(w, p, n, err);
        if (st) return st;
        w->written += n;
        p += n;
        bytes -= n;
        if (w->written == t->bytes) {
            if ((st = pad(w, t->bytes, err))) return st;
            w->tensor++;
            w->written = 0;
            skip_empty(w);
        }
    }
    return OK;
}

static status all_data(gguf_writer *w, error *err) {
    status st = OK;
    for (size_t i = 0; i < w->n_tensors && !st; i++) {
        const out_tensor *t = &w->tensors[i];
        if (!t->data && t->bytes) return error_set(err, E_USAGE, "tensor %s was declared without data", t->name);
        st = gguf_writer_data(w, t->data, (size_t)t->bytes, err);
    }
    return st;
}

status gguf_writer_finish(gguf_writer *w, error *err) {
    if (!w->open) return error_set(err, E_USAGE, "the file is not begun");
    if (w->tensor < w->n_tensors) return error_set(err, E_USAGE, "the data of tensor %s is missing", w->tensors[w->tensor].name);
    if (w->fd < 0) return OK;
    status st = OK;
    if (fsync(w->fd)) st = error_errno(err, "cannot write %s", w->temp);
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) && !st) st = error_errno(err, "cannot write %s", w->temp);
    if (!st && rename(w->temp, w->path)) st = error_errno(err, "cannot put %s in place", w->path);
    if (!st) { // renamed: nothing left to take away
        mem_free(w->temp);
        w->temp = NULL;
    }
    close_output(w);
    return st;
}

status gguf_writer_path(gguf_writer *w, const char *path, error *err) {
    status st = begin(w, path, err);
    if (!st) st = all_data(w, err);
    if (!st) st = gguf_writer_finish(w, err);
    if (st) close_output(w);
    return st;
}

status gguf_writer_memory(gguf_writer *w, void **out, size_t *bytes, error *err) {
    *out = NULL;
    *bytes = 0;
    status st = begin(w, NULL, err);
    if (!st) st = all_data(w, err);
    w->open = false;
    if (!st) {
        size_t n = w->mem.len;
        *out = strbuf_take(&w->mem);
        if (!*out) return error_set(err, E_NOMEM, "no memory for a GGUF file");
        *bytes = n;
    }
    strbuf_free(&w->mem);
    return st;
}
