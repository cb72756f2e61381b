// engine/eng_models: the models folder, what is known of each file, and which models are in memory.
//
// An *entry* is a name in the folder; an *eng_file* is one version of its file. A file that is replaced gives the entry a new eng_file;
// requests hold the one they began with, so they keep their vocabulary, template and weights. An *eng_model* is a loaded eng_file: weights, plan and KV
// pages on a device of its own (own compute pool), so that one can load while another computes.
//
// Ledger: each loaded model's bytes (weights + scratch + KV pages) are reserved before it is loaded and returned when it is freed; the sum never exceeds
// options.memory. To make room, idle models (no request holds them) are dropped, least recently used first, and only where that suffices; one that was just
// loaded is kept until who asked comes for it, for two seconds at most: else two that wait for the same room could drop each other for ever.
// Loads: one at a time, in the order in which they were asked for. One that has no room goes back and waits while later ones that have go on; it is the first
// again whenever memory may be free. It waits for load_timeout_ms from when it was first begun, however many pass it, and is E_NOMEM then.
// Threads: every function may be called from any thread. A watcher thread rescans, a loader thread loads. Both counts are atomic; the last reference frees.
#pragma once
#include <pthread.h>
#include <stdatomic.h>

#include "altiserve.h"
#include "base/os.h"
#include "chat/chat.h"
#include "device/device.h"
#include "gguf/gguf.h"
#include "model/model.h"
#include "tokenizer/tokenizer.h"

typedef struct eng_models eng_models;
typedef struct eng_model  eng_model;

// What `general.sampling.*` of the file says, else OpenAI's defaults.
typedef struct eng_file {
    atomic_int refs;
    char       id[256], path[1024]; // path "": the built-in model
    uint64_t   stamp;               // of sizes and times of all parts: changes when the file does
    altiserve_model_info info;      // immutable once the file is listed, but for state, error and weight_bytes (under the models' lock)
    status     servable;            // what its metadata says: OK, E_INCOMPLETE, E_UNSUPPORTED, ..., or why it was not read; info.error has the reason
    altiserve_sampling defaults;
    _Atomic(gguf *) opened;         // of a file that was named by its path: still open from when it was listed, for the first who needs it (and closes it)
    // Made at first use by eng_file_text, immutable afterwards.
    pthread_mutex_t text_lock;
    bool           text_ready;
    tokenizer     *tok;
    chat_template *tmpl;
    char          *rank_template;   // tokenizer.chat_template.rerank, or NULL
    bool           own_template;    // the file has one; otherwise it is ChatML
    char           bos[256], eos[256];
    // Under the models' lock.
    eng_model *loaded;              // the folder's reference, or NULL
    uint64_t   wanted;              // a load is: its number in the order of asking; 0: none is
    bool       load_beside;         // into the memory that is left, displacing nobody
    uint64_t   needs;               // bytes that the wanted load waits for; 0: it was not seen to lack any
    int64_t    until;               // monotonic ms when it waits no longer; 0: it was not begun
    int64_t    failed_at;           // monotonic ms of the last failed load, 0: none
    error      load_error;
} eng_file;

struct eng_model {
    atomic_int  refs;
    eng_file   *file;      // a reference
    eng_models *owner;
    device     *dev;
    model      *m;
    dev_plan   *plan;      // prepared for max_rows, max_wanted
    dev_kv     *kv;
    dev_kv_type kv_type;
    int32_t     n_pages[DEV_MAX_GROUPS];
    int32_t     max_rows, max_wanted;
    uint32_t    context;
    uint64_t    bytes;     // in the ledger
    _Atomic int64_t last_used; // monotonic ms
    bool        taken;     // by a request since it was loaded. Under the models' lock
    eng_model  *helper;    // that it holds a reference to, through sched; NULL: none. Under the models' lock
    void       *sched;     // the scheduler's state for this model, made and used on the engine thread
    void      (*sched_free)(void *sched);
};

// changed(ctx) is called (any thread) whenever a load ended or the folder changed.
status eng_models_create(const altiserve_options *o, void (*changed)(void *ctx), void *ctx, eng_models **out, error *err);
void   eng_models_stop(eng_models *ms);    // no more loads; joins the threads
void   eng_models_destroy(eng_models *ms); // after all files and models were released by others

// The version that the name stands for now (a reference), whether it can be served or not. id as altiserve_model takes it.
status eng_models_find(eng_models *ms, const char *id, eng_file **out, error *err);
// The same, for a name that the command line gave: it may be a path.
status eng_models_open(eng_models *ms, const char *id, eng_file **out, error *err);
void   eng_file_release(eng_file *f);
// Why the file cannot be loaded, as far as its metadata tells; OK when it looks right.
status eng_file_servable(const eng_file *f, error *err);
// Makes the tokenizer and template (once). A file with a vocabulary and no weights has them too.
status eng_file_text(eng_file *f, error *err);
// A request for f is on its way: where its tokenizer has yet to be made, its weights are read meanwhile. True: it is not loaded yet.
bool   eng_models_expect(eng_models *ms, eng_file *f);
// The loaded model (a reference) when it is ready: OK. E_BUSY: loading, or a load has been begun now; `changed` will be called.
// Otherwise why it cannot be loaded (only failures later than `since`, monotonic ms, count: an older one is tried again).
status eng_models_get(eng_models *ms, eng_file *f, int64_t since, eng_model **out, error *err);
// The same for a model that only helps another: it takes what memory is left, and where that is too little it is not loaded.
status eng_models_get_beside(eng_models *ms, eng_file *f, eng_model **out, error *err);
void   eng_model_hold(eng_model *m);
void   eng_model_release(eng_model *m);
// m holds a reference to helper from here on (NULL: to none), and lets it go when it is dropped: whoever wants the room of both can have it.
void   eng_model_helped_by(eng_model *m, eng_model *helper);

void   eng_models_each(eng_models *ms, void (*fn)(void *ctx, const altiserve_model_info *), void *ctx);
// A copy of what is known now.
void   eng_models_info(eng_models *ms, eng_file *f, altiserve_model_info *out);
// Drops the loaded model if it is idle; OK when there is none. E_BUSY: requests hold it, or it is wanted. A load on its way is not cancelled: who waits for it
// would be told a failure, and whether anybody still waits is the scheduler's to know.
status eng_models_unload(eng_models *ms, eng_file *f, error *err);
// Progress of the load under way for f: false when there is none.
bool   eng_models_progress(eng_models *ms, eng_file *f, uint64_t *done, uint64_t *total);
void   eng_models_rescan(eng_models *ms);
void   eng_models_stats(eng_models *ms, altiserve_stats *out); // loading, memory_limit, memory_used
// Opens the file again, from its path or from memory.
status eng_file_open(const eng_file *f, gguf **out, error *err);

// Conversations (eng_chat.c). The object that altiserve_template takes; the caller owns it (json_decref).
status eng_parse_conversation(const char *input, size_t len, json_t **out, error *err);
// The prompt of a conversation by the file's template; eng_file_text was OK before. bos_token and eos_token are the file's unless given.
status eng_file_render(eng_file *f, const char *input, size_t len, chat_spans *out, error *err);
// And its ids, as a request for the conversation has them: control tokens are parsed in the template's own text alone. `out` is the caller's to free, also on failure.
status eng_file_encode(eng_file *f, const chat_spans *spans, tok_ids *out, error *err);

static inline int64_t eng_now_ms(void) { return os_now_us() / 1000; }
// The built-in model's bytes (eng_toy.c).
const void *eng_toy_data(size_t *bytes);
