// model: from a GGUF file to a plan that a device runs. Hyperparameters, tensor binding, architectures as rows of a table.
//
// Owns: the model's weights on the device, its recorded plan, and what is known about both. The file is untrusted: every number of it
// is held to bounds and to the shapes of the tensors before it is used; a wrong file is E_INVALID with the key or tensor named, an
// architecture or feature that is not built is E_UNSUPPORTED by name. `model` never sees weight bytes: the device imports them.
// After model_load the gguf may be closed. Positions start at 0 with the first token of a sequence.
// Threads: model_load and model_free on the thread that owns the device; a loaded model_info is immutable and may be read from anywhere.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "device/device.h"
#include "gguf/gguf.h"

typedef struct model model;

typedef struct model_options {
    uint32_t    context;  // tokens a sequence may have; 0: the file's. Some rope scalings (longrope) depend on it. More than the file's is allowed
                          // (the caller warns), but for learned positions it is cut to their number: see model_info.context.
    dev_kv_type kv_type;  // for the prediction of KV bytes
    void      (*progress)(void *ctx, uint64_t done, uint64_t total); // bytes of the file that are imported; may be NULL
    void       *progress_ctx;
    bool      (*cancelled)(void *ctx); // asked now and then; true ends the load with E_CANCELLED; may be NULL (ctx is progress_ctx)
} model_options;

// How one embedding is made of a sequence's rows, as the file's key pooling_type says. Without one: none.
typedef enum model_pooling {
    MODEL_POOL_NONE, // the last row stands for all
    MODEL_POOL_MEAN,
    MODEL_POOL_CLS,  // the first row
    MODEL_POOL_LAST,
    MODEL_POOL_RANK  // no embedding: a head gives scores of a pair of texts
} model_pooling;

typedef struct model_info {
    char            architecture[64];
    uint32_t        n_vocab, n_embd, n_layers, n_head, n_head_kv;
    uint32_t        n_ctx_train;      // what the file says; 0 when it does not
    uint32_t        chosen;           // keys that an indexer of the file's would choose for a token, to which the context is held; 0: there is none
    uint32_t        context;          // tokens a sequence may have here: options.context (or n_ctx_train), at most n_positions where that is set
    uint32_t        n_positions;      // > 0: positions are learned, and there are so many
    uint64_t        parameters;       // elements of all weights
    uint64_t        weight_bytes;     // on the device
    uint64_t        file_bytes;       // of the imported tensors in the file
    dev_fingerprint fingerprint;      // of all weights and what is computed with them; 0 from model_predict
    model_pooling   pooling;
    bool            pooled;           // the file says how to pool
    bool            generates;        // it has logits; false: an encoder, or a decoder made for embeddings
    bool            encoder;          // its architecture is one of encoders
    bool            first_row;        // the row to want for an embedding is the sequence's first; otherwise its last
    bool            whole;            // the whole sequence must be one step: it is not causal, or pooled over its rows
    bool            softmax;          // of the scores of MODEL_POOL_RANK
    uint32_t        n_out;            // width of an embedding: what dev_hidden gives for a wanted row; for MODEL_POOL_RANK the number of scores
    bool            causal;           // false: a row may see later rows: the whole sequence must be one step (llada, dream, ...)
    int32_t         n_groups;         // KV groups: as plan->groups
    dev_group       groups[DEV_MAX_GROUPS];
} model_info;

typedef struct model_sizes {
    model_info info;
    uint64_t   weights;          // bytes on the device
    uint64_t   kv_token_bytes;   // bytes a token takes, all groups together, while no window is exceeded (a page holds DEV_PAGE_TOKENS)
    uint64_t   kv_sequence_bytes;// bytes of one sequence of info.context tokens: window groups hold their window only, recurrent ones one state
    uint64_t   page_bytes[DEV_MAX_GROUPS];
    uint64_t   scratch;          // for steps of the rows asked for
} model_sizes;

// Reads the hyperparameters, imports the weights into dev and records the plan (not yet prepared: call dev_plan_prepare on it).
// dev must outlive the model. On error nothing is left behind.
status model_load(const gguf *g, device *dev, const model_options *options, model **out, error *err);
// Frees the plan and the weights. KV made for the plan must be gone already. NULL is fine.
void   model_free(model *m);
const model_info *model_get_info(const model *m);
// Ready for dev_plan_prepare, dev_kv_create and dev_submit. Its embed register takes embeddings of n_embd floats. Owned by the model.
// dev_hidden gives the embedding of a wanted row (info.n_out floats, not normalised; see info.first_row); dev_logits only where info.generates.
dev_plan *model_plan(const model *m);

// What loading would take, from metadata and tensor shapes alone, nothing read or allocated on the device.
// rows and wanted: as dev_plan_prepare will be given. Fails exactly where model_load would for reasons of the file's metadata.
status model_predict(const gguf *g, device *dev, const model_options *options, int32_t rows, int32_t wanted, model_sizes *out, error *err);

// Can this file be loaded? OK, E_INVALID or E_UNSUPPORTED with the reason: the checks of model_load without a device.
status model_check(const gguf *g, error *err);
// The same, and what is known from the file alone (no sizes on a device, no groups, no fingerprint).
status model_describe(const gguf *g, model_info *out, error *err);

// The architectures that are built, by index; NULL past the last. For lists and errors.
const char *model_architecture(size_t i);
