// engine/eng_tiers: the tiers of the prefix cache below the pool (host memory, disk) as the scheduler sees them.
//
// One eng_tiers serves all models: names of pages hold the weights' fingerprint. Full pages go to disk as they fill; what the pool evicts goes to host
// memory. A choice that is admitted asks whether tiers reach further than the pool; if so it *fetches*: it runs, takes no rows, and
// pages enter its sequence before steps as they arrive, a bounded number of bytes a step, while others compute. What cannot be read is computed.
// Threads: create and destroy: any; everything else: the engine thread. wake is called from the disk's reader.
#pragma once
#include "engine/eng_request.h"
#include "kv/kv.h"

typedef struct eng_tiers eng_tiers;
typedef struct eng_tier_fetch eng_tier_fetch; // of a choice
struct eng_served;

// *out NULL when the options name no tier.
status eng_tiers_create(const altiserve_options *o, eng_tiers **out, error *err);
void   eng_tiers_destroy(eng_tiers *t); // after the engine thread; NULL is fine

// Fills in the tiers' part of a pool's configuration.
void   eng_tiers_config(eng_tiers *t, struct eng_served *v, kv_config *config);
// c was admitted and matched against the pool: begins to fetch what tiers have beyond.
void   eng_tiers_begin(struct eng_served *v, eng_choice *c);
// Brings what has arrived into the sequences of fetching choices. room(v, c, upto): makes pages for c, false: not now (or c is gone). True: there is more now.
bool   eng_tiers_pump(struct eng_served *v, bool (*room)(struct eng_served *v, eng_choice *c, size_t upto));
// c's new full pages go to disk.
void   eng_tiers_save(struct eng_served *v, eng_choice *c);
// Before c's sequence is freed.
void   eng_tiers_leave(struct eng_served *v, eng_choice *c);
// Counts prompt tokens that the pool had.
void   eng_tiers_hit(struct eng_served *v, size_t tokens);
