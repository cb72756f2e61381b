// engine/eng_load: how much memory a model will take, and bringing it into memory. Names the backends.
// Threads: the loader thread; a model that is loaded belongs to the engine thread.
#pragma once
#include "engine/eng_models.h"

typedef struct eng_load_sizes {
    model_sizes model;
    int32_t     rows, wanted;  // of a step, at most
    int32_t     n_pages[DEV_MAX_GROUPS];
    dev_kv_type kv_type;
    uint64_t    kv;            // bytes of all pages
    uint64_t    bytes;         // weights + scratch + kv: what the ledger reserves
} eng_load_sizes;

typedef struct eng_load_hooks {
    void (*progress)(void *ctx, uint64_t done, uint64_t total);
    bool (*cancelled)(void *ctx);
    void *ctx;
} eng_load_hooks;

// Tokens a sequence may have: what was asked for, else the file's, at most 8,192 (a context of a million would leave no memory for a second client).
uint32_t eng_context(uint32_t asked, uint32_t trained);
uint64_t eng_default_memory(void); // 80 % of what the system (or its cgroup) has
status   eng_load_device(const altiserve_options *o, device **out, error *err);
// g: the file, open. `limit`: the whole budget. E_NOMEM with both numbers when even one short sequence cannot fit.
status   eng_load_predict(const eng_file *f, const gguf *g, const altiserve_options *o, uint64_t limit, eng_load_sizes *out, error *err);
status   eng_load(eng_file *f, const gguf *g, const altiserve_options *o, const eng_load_sizes *sizes, const eng_load_hooks *hooks, eng_model **out, error *err);
void     eng_load_free(eng_model *m);
