// Importance matrices. Owns struct convert_importance: columns' mean squared activations, by tensor.
// Immutable once opened; any thread may read it.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "convert/convert_internal.h"

typedef struct entry {
    char  *name;
    float *weights;
    size_t count;
} entry;

struct convert_importance {
    bool   uniform;
    entry *entries;
    size_t n, cap;
    char  *path;
};

status convert_importance_uniform(convert_importance **out, error *err) {
    convert_importance *m = mem_calloc(1, sizeof *m);
    if (!m) return error_set(err, E_NOMEM, "no memory for an importance matrix");
    m->uniform = true;
    *out = m;
    return OK;
}

void convert_importance_free(convert_importance *m) {
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) {
        mem_free(m->entries[i].name);
        mem_free(m->entries[i].weights);
    }
    mem_free(m->entries);
    mem_free(m->path);
    mem_free(m);
}

bool convert_importance_is_uniform(const convert_importance *m) { return m->uniform; }

// One tensor: sums of squares over tokens seen, and how many tokens (for experts one count each).
static status add_entry(convert_importance *m, const gguf *g, const gguf_tensor *sums, size_t stem, error *err) {
    char name[1100];
    if (stem + sizeof ".counts" > sizeof name) return error_set(err, E_INVALID, "%s: the name %.100s... is too long", m->path, sums->name);
    snprintf(name, sizeof name, "%.*s.counts", (int)stem, sums->name);
    const gguf_tensor *counts = gguf_tensor_find(g, name);
    if (!counts) return error_set(err, E_INVALID, "%s: %s has no %s beside it", m->path, sums->name, name);
    uint64_t cols = sums->dims[0], mats = gguf_tensor_elems(sums) / (cols ? cols : 1);
    if (!cols || sums->type != QUANT_F32 || counts->type != QUANT_F32 || gguf_tensor_elems(counts) != mats)
        return error_set(err, E_INVALID, "%s: %s and its counts must be F32, with one count a matrix", m->path, sums->name);
    if (!mem_grow((void **)&m->entries, &m->cap, m->n + 1, sizeof *m->entries)) return error_set(err, E_NOMEM, "no memory for %s", m->path);
    entry *e = &m->entries[m->n];
    *e = (entry){mem_strndup(sums->name, stem), mem_alloc((size_t)sums->bytes), (size_t)(cols * mats)};
    float *n = mem_alloc((size_t)counts->bytes);
    m->n++; // freed with the matrix from here on
    status st = OK;
    if (!e->name || !e->weights || !n) st = error_set(err, E_NOMEM, "no memory for %s", m->path);
    if (!st) st = gguf_read(g, sums, 0, (size_t)sums->bytes, e->weights, err);
    if (!st) st = gguf_read(g, counts, 0, (size_t)counts->bytes, n, err);
    for (uint64_t k = 0; k < mats && !st; k++)
        for (uint64_t i = 0; i < cols && !st; i++) {
            float *w = &e->weights[k * cols + i];
            if (!(n[k] >= 0) || !isfinite(n[k]) || !(*w >= 0) || !isfinite(*w))
                st = error_set(err, E_INVALID, "%s: %s holds numbers that are no sums of squares", m->path, sums->name);
            *w = n[k] > 0 ? *w / n[k] : 1; // an expert that was never asked: all columns alike
        }
    mem_free(n);
    return st;
}

status convert_importance_open(const char *path, convert_importance **out, error *err) {
    gguf *g;
    gguf_str type;
    convert_importance *m = NULL;
    *out = NULL;
    status st = gguf_open(path, &g, err);
    if (st) return st;
    if (gguf_get_string(g, "general.type", &type, NULL) || !gguf_str_eq(type, "imatrix")) {
        gguf_close(g);
        return error_set(err, E_INVALID, "%s is no importance matrix (general.type is not \"imatrix\")", path);
    }
    st = convert_importance_uniform(&m, err);
    if (st) {
        gguf_close(g);
        return st;
    }
    m->uniform = false;
    m->path = mem_strdup(path);
    if (!m->path) st = error_set(err, E_NOMEM, "no memory for %s", path);
    for (size_t i = 0; i < gguf_tensor_count(g) && !st; i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        static const char end[] = ".in_sum2";
        size_t n = strlen(t->name);
        if (n > sizeof end - 1 && !strcmp(t->name + n - (sizeof end - 1), end)) st = add_entry(m, g, t, n - (sizeof end - 1), err);
    }
    if (!st && !m->n) st = error_set(err, E_INVALID, "%s holds no weights (no tensor ends in .in_sum2)", path);
    gguf_close(g);
    if (st) convert_importance_free(m);
    else *out = m;
    return st;
}

status convert_importance_get(const convert_importance *m, const gguf_tensor *t, const float **out, error *err) {
    *out = NULL;
    for (size_t i = 0; i < m->n; i++) {
        const entry *e = &m->entries[i];
        if (strcmp(e->name, t->name)) continue;
        if (e->count == t->dims[0] * t->dims[2]) *out = e->weights;
        else if (strcmp(t->name, "token_embd.weight"))
            return error_set(err, E_INVALID, "%s: %s has %zu weights, but the tensor %llu columns: it was measured on another model", m->path, t->name,
                             e->count, (unsigned long long)(t->dims[0] * t->dims[2]));
        break;
    }
    return OK;
}
