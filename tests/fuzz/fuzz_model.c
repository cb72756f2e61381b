// Any bytes as a model file: hyperparameters and tensors are checked, nothing is loaded. What is refused must have a text; for what is accepted
// the plan can be recorded and its memory predicted.
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "gguf/gguf.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A device that answers questions of size and holds nothing.
static size_t weight_size(const device *d, const dev_weight *w) { (void)d; return (size_t)(w->k * w->n * w->experts); }
static size_t scratch(const device *d, const dev_plan *p, int32_t rows, int32_t wanted) { (void)d; return p->n_ops + (size_t)(rows + wanted); }
static size_t page_bytes(const device *d, const dev_group *g, dev_kv_type t) { (void)d; (void)t; return (size_t)g->n_layers; }
static dev_kv_type kv_type(const device *d, dev_kv_type t) { (void)d; return t; }
static const dev_ops OPS = {.weight_size = weight_size, .scratch = scratch, .page_bytes = page_bytes, .kv_type = kv_type};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    gguf *g;
    error err = {0};
    if (gguf_open_memory(data, size, "fuzz", &g, &err)) return 0;
    err.text[0] = 0;
    status st = model_check(g, &err);
    if (st) assert(err.text[0]);
    else {
        device dev = {&OPS};
        model_sizes sizes;
        st = model_predict(g, &dev, NULL, 16, 4, &sizes, &err);
        if (st && st != E_UNSUPPORTED && st != E_NOMEM) {
            fprintf(stderr, "accepted, then: %s\n", err.text);
            assert(0);
        }
    }
    gguf_close(g);
    return 0;
}
