// engine/eng_step: the sequences of one loaded model: who waits, who runs, what the next step computes.
// Threads: the engine thread, but for eng_served_free (whoever drops the model last; nothing runs then) and the page counts (atomic).
#pragma once
#include "engine/eng_request.h"
#include "engine/eng_tiers.h"

typedef struct eng_draft eng_draft;

typedef struct eng_served {
    eng_model  *m;              // owns this
    eng_sched  *sched;
    struct eng_served *next;    // of all served models, under the scheduler's lock
    uint64_t    round;          // the scheduler's, in which it was stepped last
    kv_pool    *pool;
    kv_key      key;
    bool        snapshots;      // recurrent states are kept at some borders of pages
    eng_tiers  *tiers;          // NULL: the pool alone
    bool        more;           // pages came, from tiers or from who gave way, that a step could not take yet
    int32_t     parallel;
    bool        recurrent;      // some layers keep a state: what a step did to it cannot be taken back row by row
    int32_t     draft_max;      // drafts of a sequence in a step; 0: none
    bool        drafts_always;
    eng_draft  *draft;          // a model that drafts for this one; NULL: none
    eng_draft_seq *borrowers;   // sequences in this pool that only draft for another model
    eng_choice *waiting, *running; // by age
    pol_item   *items;          // of those that run, as the policy sees them: `parallel` entries
    int32_t     n_waiting, n_running;
    pol_turn    turn;
    samp_scratch *scratch;      // of the step under way
    pol_cost    cost;
    pol_step    load;           // of the step under way
    // The step under way: max_rows entries each.
    int32_t    *tokens, *positions, *wanted;
    dev_seq    *seqs;
    eng_choice **of;            // the choice of each sequence
    int32_t     n_rows, n_wanted, n_seqs;
    atomic_ullong pages_total, pages_free, pages_cached;
    atomic_int  running_now, waiting_now;
    uint64_t    evictions;      // counted in metrics so far
    bool        index;          // prefixes are kept
} eng_served;

status eng_served_create(eng_model *m, eng_sched *s, const altiserve_options *o, eng_tiers *tiers, eng_served **out, error *err);
// An empty sequence for c, under its key.
status eng_served_seq(eng_served *v, const eng_choice *c, kv_seq **out, error *err);
void   eng_served_free(eng_served *v);
void   eng_served_publish(eng_served *v); // its counts, for other threads
// eng_sched.c, on the engine thread: the state of a loaded model, made at first use; and a model that only helps another, as eng_models_get_beside.
status eng_sched_served(eng_sched *s, eng_model *m, eng_served **out, error *err);
status eng_sched_helper(eng_sched *s, eng_file *f, eng_model **out, error *err);
// The request's choices enter the queue. On failure the request has its outcome set and no live choice.
void   eng_served_add(eng_served *v, altiserve_request *r);
// Takes the request's choices out, their pages free or cached; r->live is 0 afterwards.
void   eng_served_drop(eng_served *v, altiserve_request *r);
// Computes one step. False: nothing could be computed (nobody is here, or everybody waits for their client).
bool   eng_served_step(eng_served *v, samp_scratch *scratch);
