// engine/eng_sched: the engine thread: requests in, steps, events out.
//
// One thread owns every loaded model's pages, sequences and steps; it is worker 0 of their pools. Each turn it takes new requests, drops what was
// cancelled, starts what fits, and computes one step of each model that has work: running streams first, then chunks of prompts, at most step_tokens rows.
// Threads: all functions here may be called from any thread; jobs run on the engine thread.
#pragma once
#include "engine/eng_models.h"

typedef struct eng_sched eng_sched;
typedef struct eng_tiers eng_tiers;

status eng_sched_create(const altiserve_options *o, eng_sched **out, error *err); // starts the thread once eng_sched_start is called
// draft: a reference that it takes over, or NULL.
status eng_sched_start(eng_sched *s, eng_models *ms, eng_tiers *tiers, eng_file *draft, error *err);
void   eng_sched_wake(void *sched);  // something changed: look again (the models' `changed` callback)
void   eng_sched_drain(eng_sched *s, uint32_t deadline_ms); // as altiserve_drain
void   eng_sched_destroy(eng_sched *s); // drains with deadline 0, joins, frees
void   eng_sched_stats(eng_sched *s, altiserve_stats *out);  // running, waiting, pages_*
void   eng_sched_each(eng_sched *s, void (*fn)(void *ctx, const altiserve_model_stats *), void *ctx); // as altiserve_each_stats
struct eng_history *eng_sched_history(eng_sched *s);         // engine thread

// Runs fn on the engine thread, between steps, with the loaded model of f (loading it first); returns what fn returned. For logits and bench, which
// bring KV pages of their own.
typedef status (*eng_job)(void *ctx, eng_model *m, error *err);
status eng_sched_job(eng_sched *s, eng_file *f, eng_job fn, void *ctx, error *err);

struct altiserve {
    altiserve_options o;      // strings owned here
    char *models_dir, *kv_type, *device, *isa, *cache_dir, *draft_name;
    eng_file   *draft; // of options.draft; or NULL
    eng_models *models;
    eng_sched  *sched;
    eng_tiers *tiers; // NULL: the pool alone
    struct eng_responses *responses; // NULL: none are kept
};
