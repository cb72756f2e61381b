// The container from memory: anything must be refused or read, in bounded time and memory. Everything a file offers is touched.
#include <stdlib.h>

#include "base/mem.h"
#include "gguf/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const gguf_value *v) {
    uint64_t u, n = gguf_value_count(v);
    int64_t s;
    double d;
    bool b;
    gguf_str t;
    for (uint64_t i = 0; i <= n; i++) { // one past the end must be refused
        gguf_value_u64(v, i, &u);
        gguf_value_i64(v, i, &s);
        gguf_value_f64(v, i, &d);
        gguf_value_bool(v, i, &b);
        if (gguf_value_string(v, i, &t))
            for (size_t k = 0; k < t.len; k++) { volatile char c = t.ptr[k]; (void)c; }
        const gguf_value *e = gguf_value_nested(v, i);
        if (e) walk(e);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gguf *g;
    error e;
    if (gguf_open_memory(data, size, "input", &g, &e)) return 0;
    for (size_t i = 0; i < gguf_kv_count(g); i++) {
        walk(gguf_kv_value(g, i));
        if (gguf_find(g, gguf_kv_key(g, i)) != gguf_kv_value(g, i)) abort();
    }
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        if (gguf_tensor_find(g, t->name) != t || t->offset > size || t->bytes > size - t->offset) abort();
        uint64_t n = gguf_tensor_elems(t);
        if (n > 1 << 20) continue;
        float *f = malloc((size_t)n * sizeof *f + 1);
        if (f && gguf_read_f32(g, t, 0, (size_t)n, f, &e) && e.code == E_INTERNAL) abort();
        free(f);
    }
    gguf_close(g);
    return 0;
}
