// What an open gguf answers: metadata with checked conversions, tensors by name, tensor data by pread. Reads only; any thread.
#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "gguf/gguf_internal.h"

uint32_t    gguf_version(const gguf *g) { return g->version; }
bool        gguf_big_endian(const gguf *g) { return g->files[0]->swap; }
uint32_t    gguf_alignment(const gguf *g) { return g->alignment; }
uint32_t    gguf_files(const gguf *g) { return g->n_files; }
const char *gguf_file_path(const gguf *g, uint32_t file) { return file < g->n_files ? g->files[file]->path : NULL; }
uint64_t    gguf_file_bytes(const gguf *g, uint32_t file) { return file < g->n_files ? g->files[file]->size : 0; }
int         gguf_fd(const gguf *g, uint32_t file) { return file < g->n_files ? g->files[file]->fd : -1; }
const void *gguf_memory(const gguf *g) { return g->files[0]->fd < 0 ? g->files[0]->buf : NULL; }

size_t            gguf_kv_count(const gguf *g) { return g->n_kv; }
const char       *gguf_kv_key(const gguf *g, size_t i) { return i < g->n_kv ? g->kv[i].key : NULL; }
const gguf_value *gguf_kv_value(const gguf *g, size_t i) { return i < g->n_kv ? &g->kv[i].value : NULL; }

const gguf_value *gguf_find(const gguf *g, const char *key) {
    for (size_t lo = 0, hi = g->n_kv; lo < hi;) {
        size_t m = lo + (hi - lo) / 2;
        const gguf_kv *e = &g->kv[g->kv_order[m]];
        int c = strcmp(key, e->key);
        if (!c) return &e->value;
        if (c < 0) hi = m;
        else lo = m + 1;
    }
    return NULL;
}

const char *gguf_type_name(int type) {
    static const char *const names[GGUF_VALUE_TYPES] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
    return type < 0 || type >= GGUF_VALUE_TYPES ? "unknown" : names[type];
}

// ---- values
gguf_type gguf_value_type(const gguf_value *v) { return (gguf_type)v->type; }
gguf_type gguf_value_elem(const gguf_value *v) { return (gguf_type)v->elem; }
uint64_t  gguf_value_count(const gguf_value *v) { return v->count; }

// The bits of element i, zero-extended; false for strings, arrays and past the end.
static bool raw(const gguf_value *v, uint64_t i, uint64_t *bits) {
    size_t n = gguf_type_bytes(v->elem);
    if (!n || i >= v->count) return false;
    const uint8_t *p = v->src->buf + v->at + i * n;
    uint64_t r = 0;
    for (size_t k = 0; k < n; k++) r |= (uint64_t)p[k] << 8 * (v->src->swap ? n - 1 - k : k);
    *bits = r;
    return true;
}

// An integer element as a signed number; *big: it is a u64 above INT64_MAX (then *out holds its bits).
static bool integer(const gguf_value *v, uint64_t i, int64_t *out, bool *big) {
    uint64_t b;
    *big = false;
    if (!raw(v, i, &b)) return false;
    switch (v->elem) {
    case GGUF_U8: case GGUF_U16: case GGUF_U32: *out = (int64_t)b; return true;
    case GGUF_BOOL: *out = b != 0; return true;
    case GGUF_I8: *out = (int8_t)b; return true;
    case GGUF_I16: *out = (int16_t)b; return true;
    case GGUF_I32: *out = (int32_t)b; return true;
    case GGUF_I64: *out = (int64_t)b; return true;
    case GGUF_U64: *out = (int64_t)b, *big = b > INT64_MAX; return true;
    default: return false;
    }
}

bool gguf_value_i64(const gguf_value *v, uint64_t i, int64_t *out) {
    int64_t x;
    bool big;
    if (!integer(v, i, &x, &big) || big) return false;
    *out = x;
    return true;
}

bool gguf_value_u64(const gguf_value *v, uint64_t i, uint64_t *out) {
    int64_t x;
    bool big;
    if (!integer(v, i, &x, &big) || (x < 0 && !big)) return false;
    *out = (uint64_t)x;
    return true;
}

bool gguf_value_f64(const gguf_value *v, uint64_t i, double *out) {
    uint64_t b;
    int64_t x;
    bool big;
    if (v->elem == GGUF_F32 && raw(v, i, &b)) {
        *out = quant_bits_f32((uint32_t)b);
        return true;
    }
    if (v->elem == GGUF_F64 && raw(v, i, &b)) {
        memcpy(out, &b, 8);
        return true;
    }
    if (v->elem == GGUF_BOOL || !integer(v, i, &x, &big)) return false;
    *out = big ? (double)(uint64_t)x : (double)x;
    return true;
}

bool gguf_value_bool(const gguf_value *v, uint64_t i, bool *out) {
    int64_t x;
    bool big;
    if (!integer(v, i, &x, &big) || big || x < 0 || x > 1) return false;
    *out = x != 0;
    return true;
}

bool gguf_value_string(const gguf_value *v, uint64_t i, gguf_str *out) {
    if (v->elem != GGUF_STRING || i >= v->count) return false;
    *out = (gguf_str){(const char *)v->src->buf + v->u.strings[i].at, (size_t)v->u.strings[i].len};
    return true;
}

const gguf_value *gguf_value_nested(const gguf_value *v, uint64_t i) {
    return v->type == GGUF_ARRAY && v->elem == GGUF_ARRAY && i < v->count ? &v->u.nested[i] : NULL;
}

bool gguf_str_eq(gguf_str s, const char *text) { return strlen(text) == s.len && !memcmp(s.ptr, text, s.len); }

// ---- getters
static status missing(const gguf *g, const char *key, error *err) {
    return error_set(err, E_NOTFOUND, "%s: the metadata has no %s", g->files[0]->path, key);
}

static status wrong(const gguf *g, const char *key, const gguf_value *v, const char *wanted, error *err) {
    if (v->type == GGUF_ARRAY)
        return error_set(err, E_INVALID, "%s: %s should be %s, but is an array of %llu %s", g->files[0]->path, key, wanted, (unsigned long long)v->count,
                         gguf_type_name(v->elem));
    int64_t i;
    uint64_t u;
    double d;
    if (gguf_value_i64(v, 0, &i))
        return error_set(err, E_INVALID, "%s: %s should be %s, but is %lld (%s)", g->files[0]->path, key, wanted, (long long)i, gguf_type_name(v->elem));
    if (gguf_value_u64(v, 0, &u))
        return error_set(err, E_INVALID, "%s: %s should be %s, but is %llu (u64)", g->files[0]->path, key, wanted, (unsigned long long)u);
    if (gguf_value_f64(v, 0, &d))
        return error_set(err, E_INVALID, "%s: %s should be %s, but is %g (%s)", g->files[0]->path, key, wanted, d, gguf_type_name(v->elem));
    return error_set(err, E_INVALID, "%s: %s should be %s, but is a %s", g->files[0]->path, key, wanted, gguf_type_name(v->elem));
}

#define GETTER(name, ctype, wanted)                                                        \
    status gguf_get_##name(const gguf *g, const char *key, ctype *out, error *err) {      \
        const gguf_value *v = gguf_find(g, key);                                          \
        if (!v) return missing(g, key, err);                                              \
        if (v->type == GGUF_ARRAY || !gguf_value_##name(v, 0, out)) return wrong(g, key, v, wanted, err); \
        return OK;                                                                        \
    }
GETTER(u64, uint64_t, "a whole number of 0 or more")
GETTER(i64, int64_t, "a whole number")
GETTER(f64, double, "a number")
GETTER(bool, bool, "true or false")
GETTER(string, gguf_str, "a string")

status gguf_get_u32(const gguf *g, const char *key, uint32_t *out, error *err) {
    const gguf_value *v = gguf_find(g, key);
    uint64_t x;
    if (!v) return missing(g, key, err);
    if (v->type == GGUF_ARRAY || !gguf_value_u64(v, 0, &x) || x > UINT32_MAX) return wrong(g, key, v, "a whole number from 0 to 4294967295", err);
    *out = (uint32_t)x;
    return OK;
}

status gguf_get_f32(const gguf *g, const char *key, float *out, error *err) {
    const gguf_value *v = gguf_find(g, key);
    double x;
    if (!v) return missing(g, key, err);
    if (v->type == GGUF_ARRAY || !gguf_value_f64(v, 0, &x) || (isfinite(x) && fabs(x) > 3.4028235677973366e38)) return wrong(g, key, v, "a number", err);
    *out = (float)x;
    return OK;
}

#define GETTER_OR(name, ctype)                                                                           \
    status gguf_get_##name##_or(const gguf *g, const char *key, ctype def, ctype *out, error *err) {    \
        if (gguf_find(g, key)) return gguf_get_##name(g, key, out, err);                                \
        *out = def;                                                                                     \
        return OK;                                                                                      \
    }
GETTER_OR(u32, uint32_t)
GETTER_OR(f32, float)
GETTER_OR(bool, bool)

status gguf_get_array(const gguf *g, const char *key, gguf_type elem_type, const gguf_value **out, error *err) {
    const gguf_value *v = gguf_find(g, key);
    if (!v) return missing(g, key, err);
    if (v->type != GGUF_ARRAY || v->elem != elem_type) {
        char wanted[48] = "an array of ";
        strcat(wanted, gguf_type_name((int)elem_type));
        return wrong(g, key, v, wanted, err);
    }
    *out = v;
    return OK;
}

// ---- tensors
size_t             gguf_tensor_count(const gguf *g) { return g->n_tensors; }
const gguf_tensor *gguf_tensor_at(const gguf *g, size_t i) { return i < g->n_tensors ? &g->tensors[i] : NULL; }

const gguf_tensor *gguf_tensor_find(const gguf *g, const char *name) {
    for (size_t lo = 0, hi = g->n_tensors; lo < hi;) {
        size_t m = lo + (hi - lo) / 2;
        const gguf_tensor *t = &g->tensors[g->tensor_order[m]];
        int c = strcmp(name, t->name);
        if (!c) return t;
        if (c < 0) hi = m;
        else lo = m + 1;
    }
    return NULL;
}

uint64_t gguf_tensor_elems(const gguf_tensor *t) { return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]; }

status gguf_read(const gguf *g, const gguf_tensor *t, uint64_t offset, size_t bytes, void *dst, error *err) {
    const gguf_source *s = g->files[t->file];
    if (bytes > t->bytes || offset > t->bytes - bytes)
        return error_set(err, E_USAGE, "tensor %s has %llu bytes; %zu from %llu on were asked for", t->name, (unsigned long long)t->bytes, bytes,
                         (unsigned long long)offset);
    if (s->fd < 0) memcpy(dst, s->buf + t->offset + offset, bytes);
    for (size_t done = 0; s->fd >= 0 && done < bytes;) {
        ssize_t got = pread(s->fd, (char *)dst + done, bytes - done, (off_t)(t->offset + offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_errno(err, "%s: byte %llu: cannot read tensor %s", s->path, (unsigned long long)(t->offset + offset + done), t->name);
        if (got == 0)
            return error_set(err, E_INCOMPLETE, "%s: the file became shorter while tensor %s was read (at byte %llu)", s->path, t->name,
                             (unsigned long long)(t->offset + offset + done));
        done += (size_t)got;
    }
    if (s->swap) {
        const quant_traits *q = quant_type_traits(t->type);
        if (offset % q->block_bytes || bytes % q->block_bytes)
            return error_set(err, E_USAGE, "tensor %s of a big-endian file must be read in whole blocks of %u bytes", t->name, q->block_bytes);
        if (!quant_swap(t->type, dst, bytes / q->block_bytes * q->block_elems))
            return error_set(err, E_UNSUPPORTED, "%s: tensor %s: the byte order of %s blocks is not defined in big-endian files", s->path, t->name, q->name);
    }
    return OK;
}

status gguf_read_f32(const gguf *g, const gguf_tensor *t, uint64_t first, size_t n, float *dst, error *err) {
    const quant_traits *q = quant_type_traits(t->type);
    if (!q->decode) return error_set(err, E_UNSUPPORTED, "tensor %s: %s cannot be decoded", t->name, q->name);
    if (first % q->block_elems || n % q->block_elems)
        return error_set(err, E_USAGE, "tensor %s must be read in whole blocks of %u elements", t->name, q->block_elems);
    size_t step = 65536 / q->block_bytes; // blocks at a time
    void *tmp = mem_alloc(step * q->block_bytes);
    if (!tmp) return error_set(err, E_NOMEM, "no memory to read tensor %s", t->name);
    status st = OK;
    uint64_t at = first / q->block_elems;
    for (size_t left = n / q->block_elems; left && !st;) {
        size_t k = left < step ? left : step;
        st = gguf_read(g, t, at * q->block_bytes, k * q->block_bytes, tmp, err);
        if (!st) q->decode(tmp, dst, k * q->block_elems);
        dst += k * q->block_elems;
        at += k;
        left -= k;
    }
    mem_free(tmp);
    return st;
}
