// Reading a GGUF container: header, metadata, tensor directory, split files. Owns struct gguf and its sources.
//
// Invariants: nothing is believed before it is checked against the file's size; a count is checked against the bytes that are left
// before anything is allocated for it, so memory stays within a small multiple of the metadata; the data of tensors is not touched here.
// Threads: one thread opens and closes; see gguf.h.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/utf8.h"
#include "gguf/gguf_internal.h"

// More metadata than any model has (the largest vocabularies take about 20 MB).
#define METADATA_LIMIT ((uint64_t)1 << 30)
// A count or length above this is nonsense in a file of any size; below it, what is missing may still be being copied.
#define SANE ((uint64_t)1 << 40)

typedef struct parser {
    gguf        *g;
    gguf_source *s;
    uint64_t     pos;
    uint32_t     version;
    error       *err;
} parser;

static status bad(const parser *p, status code, uint64_t at, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static status bad(const parser *p, status code, uint64_t at, const char *fmt, ...) {
    char text[360];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return error_set(p->err, code, "%s: byte %llu: %s", p->s->path, (unsigned long long)at, text);
}

// Makes bytes [pos, pos + n) available in buf.
static status need(parser *p, uint64_t n, const char *what) {
    gguf_source *s = p->s;
    if (n > s->size || p->pos > s->size - n)
        return bad(p, E_INCOMPLETE, p->pos, "the file ends at byte %llu, but %s needs %llu more bytes here", (unsigned long long)s->size, what,
                   (unsigned long long)n);
    uint64_t end = p->pos + n;
    if (end <= s->have) return OK;
    if (end > METADATA_LIMIT) return bad(p, E_LIMIT, p->pos, "the metadata is longer than 1 GiB");
    uint64_t want = s->have + (s->have < (1 << 22) ? s->have + 65536 : 1 << 22); // read ahead: doubling, then 4 MiB at a time
    if (want < end) want = end;
    if (want > s->size) want = s->size;
    if (!mem_grow((void **)&s->owned, &s->cap, (size_t)want, 1)) return bad(p, E_NOMEM, p->pos, "no memory for the metadata");
    s->buf = s->owned;
    while (s->have < want) {
        ssize_t got = pread(s->fd, s->owned + s->have, (size_t)want - s->have, (off_t)s->have);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_errno(p->err, "%s: cannot read", s->path);
        if (got == 0) return bad(p, E_INCOMPLETE, s->have, "the file became shorter while it was read");
        s->have += (size_t)got;
    }
    return OK;
}

static uint64_t load(const uint8_t *p, size_t n, bool swap) {
    uint64_t v = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (!swap) {
        memcpy(&v, p, n);
        return v;
    }
#endif
    for (size_t i = 0; i < n; i++) v |= (uint64_t)p[i] << 8 * (swap ? n - 1 - i : i);
    return v;
}

static status read_int(parser *p, size_t n, uint64_t *v, const char *what) {
    status st = need(p, n, what);
    if (st) return st;
    *v = load(p->s->buf + p->pos, n, p->s->swap);
    p->pos += n;
    return OK;
}

// A count or length: 32 bits in version 1, 64 after.
static status read_count(parser *p, uint64_t *v, const char *what) {
    uint64_t at = p->pos;
    status st = read_int(p, p->version == 1 ? 4 : 8, v, what);
    if (!st && *v > SANE) return bad(p, E_INVALID, at, "%s says %llu, which no file holds", what, (unsigned long long)*v);
    return st;
}

// Checks that `count` things of at least `each` bytes can still follow.
static status fits(const parser *p, uint64_t count, uint64_t each, const char *what) {
    uint64_t left = p->s->size - p->pos;
    if (count > left / each)
        return bad(p, E_INCOMPLETE, p->pos, "%llu %s need at least %llu bytes each, but only %llu bytes follow in the file", (unsigned long long)count,
                   what, (unsigned long long)each, (unsigned long long)left);
    return OK;
}

static status read_span(parser *p, gguf_span *out, const char *what) {
    uint64_t len;
    status st = read_count(p, &len, what);
    if (st) return st;
    st = need(p, len, what);
    if (st) return st;
    *out = (gguf_span){p->pos, len};
    p->pos += len;
    return OK;
}

// A key or a tensor's name: UTF-8 without NUL, copied so that it ends in NUL.
static status read_name(parser *p, const char **out, const char *what) {
    gguf_span s;
    uint64_t at = p->pos;
    status st = read_span(p, &s, what);
    if (st) return st;
    const char *text = (const char *)p->s->buf + s.at;
    if (s.len == 0 || s.len > GGUF_MAX_NAME)
        return bad(p, E_INVALID, at, "%s of %llu bytes (1 to %d are allowed)", what, (unsigned long long)s.len, GGUF_MAX_NAME);
    if (memchr(text, 0, s.len) || !utf8_valid(text, s.len)) return bad(p, E_INVALID, at, "%s is not valid UTF-8", what);
    char *copy = arena_strndup(&p->g->arena, text, s.len);
    if (!copy) return bad(p, E_NOMEM, at, "no memory for %s", what);
    *out = copy;
    return OK;
}

size_t gguf_type_bytes(int type) {
    static const uint8_t bytes[GGUF_VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < 0 || type >= GGUF_VALUE_TYPES ? 0 : bytes[type];
}

static status read_elements(parser *p, gguf_value *v, int depth);

static status read_nested(parser *p, gguf_value *v, int depth) {
    if (depth >= GGUF_MAX_DEPTH) return bad(p, E_LIMIT, p->pos, "arrays are nested more than %d deep", GGUF_MAX_DEPTH);
    uint64_t head = p->version == 1 ? 8 : 12;
    status st = fits(p, v->count, head, "arrays");
    if (st) return st;
    v->u.nested = arena_calloc(&p->g->arena, (size_t)v->count, sizeof *v->u.nested);
    if (!v->u.nested) return bad(p, E_NOMEM, p->pos, "no memory for an array of %llu arrays", (unsigned long long)v->count);
    for (uint64_t i = 0; i < v->count; i++) {
        gguf_value *e = &v->u.nested[i];
        uint64_t type, at = p->pos;
        if ((st = read_int(p, 4, &type, "the type of an array's elements"))) return st;
        if (type >= GGUF_VALUE_TYPES) return bad(p, E_INVALID, at, "an array's element type is %llu (0 to %d are known)", (unsigned long long)type, GGUF_F64);
        *e = (gguf_value){.src = p->s, .type = GGUF_ARRAY, .elem = (uint8_t)type};
        if ((st = read_count(p, &e->count, "an array's length"))) return st;
        if ((st = read_elements(p, e, depth + 1))) return st;
    }
    return OK;
}

static status read_elements(parser *p, gguf_value *v, int depth) {
    status st;
    if (v->elem == GGUF_ARRAY) return read_nested(p, v, depth);
    if (v->elem == GGUF_STRING) {
        if ((st = fits(p, v->count, p->version == 1 ? 4 : 8, "strings"))) return st;
        v->u.strings = arena_calloc(&p->g->arena, (size_t)v->count, sizeof *v->u.strings);
        if (!v->u.strings) return bad(p, E_NOMEM, p->pos, "no memory for %llu strings", (unsigned long long)v->count);
        uint64_t head = p->version == 1 ? 4 : 8;
        for (uint64_t i = 0; i < v->count; i++) {
            uint64_t left = p->s->have - p->pos, len;
            if (left >= head && (len = load(p->s->buf + p->pos, head, p->s->swap)) <= left - head) { // it is all there: what vocabularies are read by
                v->u.strings[i] = (gguf_span){p->pos + head, len};
                p->pos += head + len;
            } else if ((st = read_span(p, &v->u.strings[i], "a string"))) return st;
        }
        return OK;
    }
    uint64_t bytes = v->count * gguf_type_bytes(v->elem); // count <= 2^40: no overflow
    if ((st = need(p, bytes, "an array's elements"))) return st;
    v->at = p->pos;
    p->pos += bytes;
    return OK;
}

static status read_value(parser *p, gguf_value *v, const char *key) {
    uint64_t type, at = p->pos;
    status st = read_int(p, 4, &type, "a value's type");
    if (st) return st;
    if (type >= GGUF_VALUE_TYPES) return bad(p, E_INVALID, at, "the value of %.200s has type %llu (0 to %d are known)", key, (unsigned long long)type, GGUF_F64);
    *v = (gguf_value){.src = p->s, .type = (uint8_t)type, .elem = (uint8_t)type, .count = 1};
    if (type == GGUF_ARRAY) {
        at = p->pos;
        if ((st = read_int(p, 4, &type, "the type of an array's elements"))) return st;
        if (type >= GGUF_VALUE_TYPES)
            return bad(p, E_INVALID, at, "the elements of %.200s have type %llu (0 to %d are known)", key, (unsigned long long)type, GGUF_F64);
        v->elem = (uint8_t)type;
        if ((st = read_count(p, &v->count, "an array's length"))) return st;
    }
    return read_elements(p, v, 0);
}

static status read_tensor(parser *p, gguf_tensor *t, uint32_t file) {
    status st = read_name(p, &t->name, "a tensor's name");
    if (st) return st;
    uint64_t n_dims, type, at = p->pos, elems = 1;
    if ((st = read_int(p, 4, &n_dims, "a tensor's number of dimensions"))) return st;
    if (n_dims > 4) return bad(p, E_INVALID, at, "tensor %.200s has %llu dimensions (at most 4)", t->name, (unsigned long long)n_dims);
    t->n_dims = (int)n_dims;
    t->file = file;
    for (int i = 0; i < 4; i++) t->dims[i] = 1;
    for (int i = 0; i < t->n_dims; i++) {
        at = p->pos;
        if ((st = read_int(p, p->version == 1 ? 4 : 8, &t->dims[i], "a tensor's dimension"))) return st;
        if (__builtin_mul_overflow(elems, t->dims[i], &elems) || elems > INT64_MAX || t->dims[i] > INT64_MAX)
            return bad(p, E_INVALID, at, "the dimensions of tensor %.200s multiply to more than any file holds", t->name);
    }
    at = p->pos;
    if ((st = read_int(p, 4, &type, "a tensor's type"))) return st;
    const quant_traits *q = type < QUANT_TYPES ? quant_type_traits((int)type) : NULL;
    if (!q) return bad(p, E_UNSUPPORTED, at, "tensor %.200s has type %llu, which is unknown or was removed from the format", t->name, (unsigned long long)type);
    if (t->dims[0] % q->block_elems)
        return bad(p, E_INVALID, at, "tensor %.200s: rows of %llu elements are no multiple of the %u elements of a %s block", t->name,
                   (unsigned long long)t->dims[0], q->block_elems, q->name);
    size_t bytes;
    if (!quant_row_bytes((int)type, elems, &bytes)) return bad(p, E_INVALID, at, "tensor %.200s is larger than any file", t->name);
    t->type = (int)type;
    t->bytes = bytes;
    return read_int(p, 8, &t->offset, "a tensor's offset");
}

static int by_offset(const void *a, const void *b) {
    const gguf_tensor *x = *(const gguf_tensor *const *)a, *y = *(const gguf_tensor *const *)b;
    return x->offset != y->offset ? (x->offset < y->offset ? -1 : 1) : x->bytes != y->bytes ? (x->bytes < y->bytes ? -1 : 1) : 0;
}

// Places the tensors of one file: absolute offsets, inside the file, aligned, without overlap.
static status place_tensors(parser *p, size_t first, uint64_t data, uint64_t align, uint64_t directory) {
    gguf *g = p->g;
    size_t n = g->n_tensors - first;
    if (!n) return OK;
    for (size_t i = first; i < g->n_tensors; i++) {
        gguf_tensor *t = &g->tensors[i];
        if (t->offset % align)
            return bad(p, E_INVALID, directory, "tensor %.200s: its offset %llu is no multiple of the alignment %llu", t->name,
                       (unsigned long long)t->offset, (unsigned long long)align);
        if (__builtin_add_overflow(t->offset, data, &t->offset) || t->offset > INT64_MAX)
            return bad(p, E_INVALID, directory, "tensor %.200s lies beyond any file", t->name);
        if (!t->bytes) t->offset = 0; // nothing lies anywhere: keep the place inside the file
    }
    const gguf_tensor **order = mem_alloc(n * sizeof *order);
    if (!order) return bad(p, E_NOMEM, directory, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++) order[i] = &g->tensors[first + i];
    qsort(order, n, sizeof *order, by_offset);
    status st = OK;
    uint64_t end = data;
    const char *before = "the metadata";
    for (size_t i = 0; i < n && !st; i++) { // an overlap is found before a missing end is, whatever the order in the file
        const gguf_tensor *t = order[i];
        if (!t->bytes) continue;
        if (t->offset < end) st = bad(p, E_INVALID, t->offset, "tensor %.150s overlaps %.150s", t->name, before);
        else if (t->bytes > SANE * 1024 || t->offset > SANE * 1024)
            st = bad(p, E_INVALID, t->offset, "tensor %.200s is larger than any file", t->name);
        end = t->offset + t->bytes;
        before = t->name;
    }
    if (!st && end > p->s->size)
        st = bad(p, E_INCOMPLETE, p->s->size, "the file ends here, but its tensors (%.200s) go on to byte %llu", before, (unsigned long long)end);
    mem_free(order);
    return st;
}

static status read_header(parser *p, uint64_t *n_tensors, uint64_t *n_kv) {
    status st = need(p, 8, "the header");
    if (st) return st;
    if (memcmp(p->s->buf, "GGUF", 4)) {
        const uint8_t *b = p->s->buf;
        return bad(p, E_INVALID, 0, "not a GGUF file: it begins %02x %02x %02x %02x instead of 47 47 55 46 (\"GGUF\")", b[0], b[1], b[2], b[3]);
    }
    p->pos = 4;
    uint64_t version = load(p->s->buf + 4, 4, false);
    if ((version & 0xffff) == 0 && version) { // a small number written the other way round
        p->s->swap = true;
        version = load(p->s->buf + 4, 4, true);
    }
    p->pos = 8;
    if (version < 1 || version > 3) return bad(p, E_UNSUPPORTED, 4, "GGUF version %llu (1 to 3 are known)", (unsigned long long)version);
    p->version = (uint32_t)version;
    if ((st = read_count(p, n_tensors, "the number of tensors"))) return st;
    return read_count(p, n_kv, "the number of metadata entries");
}

static const gguf_value *find_in(const gguf_kv *kv, size_t n, const char *key) {
    for (size_t i = 0; i < n; i++)
        if (!strcmp(kv[i].key, key)) return &kv[i].value;
    return NULL;
}

// The alignment of one file; 32 when it does not say.
static status read_alignment(const parser *p, const gguf_value *v, uint64_t *align) {
    *align = 32;
    if (!v) return OK;
    if (v->type == GGUF_ARRAY || !gguf_value_u64(v, 0, align) || *align == 0 || *align & (*align - 1) || *align > (1u << 30))
        return bad(p, E_INVALID, v->at, "general.alignment must be a power of two of at most 2^30");
    return OK;
}

// The numbers of a split set, from the metadata of one file. count 0 or 1: not split.
typedef struct split_info {
    uint64_t no, count, tensors;
    bool     has_tensors;
} split_info;

static status read_split(const parser *p, const gguf_kv *kv, size_t n, split_info *out) {
    const gguf_value *no = find_in(kv, n, "split.no"), *count = find_in(kv, n, "split.count"), *tensors = find_in(kv, n, "split.tensors.count");
    *out = (split_info){0};
    if (count && !gguf_value_u64(count, 0, &out->count)) return bad(p, E_INVALID, count->at, "split.count must be a number of files");
    if (no && !gguf_value_u64(no, 0, &out->no)) return bad(p, E_INVALID, no->at, "split.no must be the number of the file");
    if (tensors) {
        if (!gguf_value_u64(tensors, 0, &out->tensors)) return bad(p, E_INVALID, tensors->at, "split.tensors.count must be a number of tensors");
        out->has_tensors = true;
    }
    if (out->count > 1 && (out->count > 65535 || out->no >= out->count))
        return bad(p, E_INVALID, 0, "this is file %llu of a set of %llu", (unsigned long long)out->no + 1, (unsigned long long)out->count);
    return OK;
}

// Reads one file. Its metadata goes to *kv (mem_alloc'd array, the caller frees it), its tensors are appended to g.
static status read_file(gguf *g, uint32_t file, gguf_kv **kv, size_t *n_kv, split_info *split, error *err) {
    parser p = {.g = g, .s = g->files[file], .err = err};
    uint64_t tensors, entries, align;
    size_t cap = 0;
    *kv = NULL;
    *n_kv = 0;
    status st = read_header(&p, &tensors, &entries);
    if (!st) st = fits(&p, entries, p.version == 1 ? 10 : 14, "metadata entries");
    for (uint64_t i = 0; i < entries && !st; i++) {
        if (!mem_grow((void **)kv, &cap, (size_t)i + 1, sizeof **kv)) return bad(&p, E_NOMEM, p.pos, "no memory for the metadata");
        gguf_kv *e = &(*kv)[i];
        if ((st = read_name(&p, &e->key, "a metadata key"))) break;
        st = read_value(&p, &e->value, e->key);
        *n_kv = (size_t)i + 1;
    }
    uint64_t directory = p.pos;
    if (!st) st = fits(&p, tensors, p.version == 1 ? 21 : 25, "tensors");
    size_t first = g->n_tensors;
    for (uint64_t i = 0; i < tensors && !st; i++) {
        if (!mem_grow((void **)&g->tensors, &g->cap_tensors, g->n_tensors + 1, sizeof *g->tensors))
            return bad(&p, E_NOMEM, p.pos, "no memory for the tensors");
        st = read_tensor(&p, &g->tensors[g->n_tensors], file);
        if (!st) g->n_tensors++;
    }
    if (!st) st = read_alignment(&p, find_in(*kv, *n_kv, "general.alignment"), &align);
    if (!st) st = read_split(&p, *kv, *n_kv, split);
    if (!st) st = place_tensors(&p, first, (p.pos + align - 1) / align * align, align, directory);
    if (!st && file == 0) {
        g->version = p.version;
        g->alignment = (uint32_t)align;
    }
    return st;
}

// ---- order by name, for lookups and to find duplicates
static int kv_cmp(const void *a, const void *b, void *ctx) {
    const gguf *g = ctx;
    return strcmp(g->kv[*(const uint32_t *)a].key, g->kv[*(const uint32_t *)b].key);
}
static int tensor_cmp(const void *a, const void *b, void *ctx) {
    const gguf *g = ctx;
    return strcmp(g->tensors[*(const uint32_t *)a].name, g->tensors[*(const uint32_t *)b].name);
}

// Heap sort: no extra memory and no bad case, and the same on every system (qsort with a context is not).
static void sort_order(uint32_t *v, size_t n, int (*cmp)(const void *, const void *, void *), void *ctx) {
    for (size_t start = n / 2, end = n; end > 1;) {
        if (start > 0) start--;
        else {
            end--;
            uint32_t t = v[end];
            v[end] = v[0];
            v[0] = t;
        }
        for (size_t root = start, child; (child = 2 * root + 1) < end; root = child) {
            if (child + 1 < end && cmp(&v[child], &v[child + 1], ctx) < 0) child++;
            if (cmp(&v[root], &v[child], ctx) >= 0) break;
            uint32_t t = v[root];
            v[root] = v[child];
            v[child] = t;
        }
    }
}

static status index_names(gguf *g, error *err) {
    if (g->n_kv > UINT32_MAX || g->n_tensors > UINT32_MAX) return error_set(err, E_LIMIT, "%s: more than 2^32 entries", g->files[0]->path);
    g->kv_order = mem_alloc((g->n_kv + 1) * sizeof *g->kv_order);
    g->tensor_order = mem_alloc((g->n_tensors + 1) * sizeof *g->tensor_order);
    if (!g->kv_order || !g->tensor_order) return error_set(err, E_NOMEM, "%s: no memory for the index of names", g->files[0]->path);
    for (size_t i = 0; i < g->n_kv; i++) g->kv_order[i] = (uint32_t)i;
    for (size_t i = 0; i < g->n_tensors; i++) g->tensor_order[i] = (uint32_t)i;
    sort_order(g->kv_order, g->n_kv, kv_cmp, g);
    sort_order(g->tensor_order, g->n_tensors, tensor_cmp, g);
    for (size_t i = 1; i < g->n_kv; i++)
        if (!kv_cmp(&g->kv_order[i - 1], &g->kv_order[i], g))
            return error_set(err, E_INVALID, "%s: the metadata key %.200s appears twice", g->files[0]->path, g->kv[g->kv_order[i]].key);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (!tensor_cmp(&g->tensor_order[i - 1], &g->tensor_order[i], g))
            return error_set(err, E_INVALID, "%s: the tensor %.200s appears twice", g->files[0]->path, g->tensors[g->tensor_order[i]].name);
    return OK;
}

// ---- opening
static status add_sources(gguf *g, uint32_t files, error *err) {
    gguf_source **more = mem_realloc(g->files, files * sizeof *more);
    if (!more) return error_set(err, E_NOMEM, "no memory to open a model file");
    g->files = more;
    for (; g->n_files < files; g->n_files++) {
        gguf_source *s = mem_calloc(1, sizeof *s);
        if (!s) return error_set(err, E_NOMEM, "no memory to open a model file");
        s->fd = -1;
        g->files[g->n_files] = s;
    }
    return OK;
}

static status new_gguf(gguf **out, error *err) {
    gguf *g = mem_calloc(1, sizeof *g);
    if (!g) return error_set(err, E_NOMEM, "no memory to open a model file");
    arena_init(&g->arena, 0);
    status st = add_sources(g, 1, err);
    if (st) gguf_close(g);
    else *out = g;
    return st;
}

static status open_source(gguf_source *s, const char *path, error *err) {
    s->path = mem_strdup(path);
    if (!s->path) return error_set(err, E_NOMEM, "no memory to open %s", path);
    s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not hold us up
    if (s->fd < 0) {
        if (errno == ENOENT) return error_set(err, E_NOTFOUND, "%s: there is no such file", path);
        return error_errno(err, "cannot open %s", path);
    }
    struct stat sb;
    if (fstat(s->fd, &sb)) return error_errno(err, "%s", path);
    if (!S_ISREG(sb.st_mode)) return error_set(err, E_INVALID, "%s is not a file", path);
    s->size = (uint64_t)sb.st_size;
    return OK;
}

// "dir/name-00002-of-00003.gguf" -> length of "dir/name", and 3. False when the name has no such end.
static bool split_name(const char *path, size_t *prefix, unsigned *count) {
    static const char shape[] = "-#####-of-#####.gguf";
    size_t n = strlen(path), tail = sizeof shape - 1;
    if (n <= tail) return false;
    const char *e = path + n - tail;
    for (size_t i = 0; i < tail; i++)
        if (shape[i] == '#' ? e[i] < '0' || e[i] > '9' : e[i] != shape[i]) return false;
    *prefix = n - tail;
    *count = (unsigned)strtoul(e + 10, NULL, 10);
    return true;
}

static status split_path(char out[PATH_MAX], const char *path, size_t prefix, unsigned file, unsigned files, error *err) {
    int len = snprintf(out, PATH_MAX, "%.*s-%05u-of-%05u.gguf", (int)prefix, path, file + 1, files);
    return len < 0 || len >= PATH_MAX ? error_set(err, E_INVALID, "%.200s...: the path is too long", path) : OK;
}

static status open_rest(gguf *g, size_t prefix, const split_info *first, error *err) {
    status st = add_sources(g, (uint32_t)first->count, err);
    for (uint32_t i = 1; i < g->n_files && !st; i++) {
        char path[PATH_MAX];
        if ((st = split_path(path, g->files[0]->path, prefix, i, g->n_files, err))) return st;
        gguf_kv *kv = NULL;
        size_t n_kv = 0;
        split_info info;
        st = open_source(g->files[i], path, err);
        if (st == E_NOTFOUND) return error_set(err, E_INCOMPLETE, "%s is missing: file %u of the %u that make up this model", path, i + 1, g->n_files);
        if (!st) st = read_file(g, i, &kv, &n_kv, &info, err);
        if (!st && (info.no != i || info.count != first->count))
            st = error_set(err, E_INVALID, "%s says it is file %llu of %llu; by its name it is file %u of %u", path, (unsigned long long)info.no + 1,
                           (unsigned long long)info.count, i + 1, g->n_files);
        mem_free(kv);
    }
    if (!st && first->has_tensors && first->tensors != g->n_tensors)
        st = error_set(err, E_INVALID, "%s: the set should hold %llu tensors, but its %u files hold %zu", g->files[0]->path,
                       (unsigned long long)first->tensors, g->n_files, g->n_tensors);
    return st;
}

// Reads what path names; *elsewhere: path is a later file of a split set, whose first file is written to `first` instead.
static status read_all(gguf *g, bool *elsewhere, char first[PATH_MAX], error *err) {
    split_info split = {0};
    status st = read_file(g, 0, &g->kv, &g->n_kv, &split, err);
    if (st) return st;
    if (split.count <= 1) return index_names(g, err);
    const char *path = g->files[0]->path;
    size_t prefix;
    unsigned count;
    if (g->files[0]->fd < 0) return error_set(err, E_UNSUPPORTED, "%s: one file of a split model cannot be read from memory", path);
    if (!split_name(path, &prefix, &count) || count != split.count)
        return error_set(err, E_INVALID, "%s is file %llu of a set of %llu: its name must end in -%05llu-of-%05llu.gguf for the others to be found", path,
                         (unsigned long long)split.no + 1, (unsigned long long)split.count, (unsigned long long)split.no + 1,
                         (unsigned long long)split.count);
    if (split.no) {
        *elsewhere = true;
        return split_path(first, path, prefix, 0, count, err);
    }
    if ((st = open_rest(g, prefix, &split, err))) return st;
    return index_names(g, err);
}

status gguf_open(const char *path, gguf **out, error *err) {
    char first[PATH_MAX];
    *out = NULL;
    for (int attempt = 0; attempt < 2; attempt++) {
        gguf *g = NULL;
        bool elsewhere = false;
        status st = new_gguf(&g, err);
        if (st) return st;
        st = open_source(g->files[0], attempt ? first : path, err);
        if (st == E_NOTFOUND && attempt) st = error_set(err, E_INCOMPLETE, "%s is missing: it is the first file of the set of %s", first, path);
        if (!st) st = read_all(g, &elsewhere, first, err);
        if (!st && !elsewhere) {
            *out = g;
            return OK;
        }
        gguf_close(g);
        if (st) return st;
    }
    return error_set(err, E_INVALID, "%s says that it is not the first file of its set", first);
}

status gguf_open_memory(const void *data, size_t bytes, const char *name, gguf **out, error *err) {
    gguf *g = NULL;
    bool elsewhere = false;
    *out = NULL;
    status st = new_gguf(&g, err);
    if (st) return st;
    gguf_source *s = g->files[0];
    s->path = mem_strdup(name ? name : "memory");
    s->buf = data;
    s->have = bytes;
    s->size = bytes;
    st = s->path ? read_all(g, &elsewhere, NULL, err) : error_set(err, E_NOMEM, "no memory to open a model");
    if (st) gguf_close(g);
    else *out = g;
    return st;
}

void gguf_close(gguf *g) {
    if (!g) return;
    for (uint32_t i = 0; i < g->n_files; i++) {
        gguf_source *s = g->files[i];
        if (s->fd >= 0) close(s->fd);
        mem_free(s->owned);
        mem_free(s->path);
        mem_free(s);
    }
    mem_free(g->files);
    mem_free(g->kv);
    mem_free(g->tensors);
    mem_free(g->kv_order);
    mem_free(g->tensor_order);
    arena_free(&g->arena);
    mem_free(g);
}
