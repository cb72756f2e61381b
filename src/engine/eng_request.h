// engine/eng_request: one request between the client's thread and the engine thread.
//
// A request is shared by its owner (altiserve_next, _cancel, _free) and the engine; the last of the two references frees it. What submit
// filled in is immutable; the ring of events, the usage and `ended` are under `lock`; the rest belongs to the engine thread.
// The ring is bounded: while it is full the engine gives the request no rows (it keeps its pages), and altiserve_next wakes the engine.
// Finishes and the end do not count towards the bound. The end needs no memory, so a request always ends.
#pragma once
#include <pthread.h>
#include <stdatomic.h>

#include "engine/eng_clients.h"
#include "engine/eng_reasoning.h"
#include "engine/eng_ngram.h"
#include "engine/eng_sched.h"
#include "kv/kv.h"
#include "sampling/sampling.h"

enum { ENG_RING = 256, ENG_MAX_CHOICES = 16, ENG_MAX_LOGPROBS = 20, ENG_MAX_STOPS = 64 };

typedef struct eng_event {
    struct eng_event *next;
    altiserve_event_kind kind;
    uint32_t choice;
    altiserve_finish finish;
    size_t   stop;               // as altiserve_event has it
    strbuf   text;
    int32_t *tokens;
    size_t   n_tokens;
    altiserve_logprob *logprobs; // bytes point into the vocabulary, which the request's file keeps
    int      top;
    float   *embedding;
    size_t   n_embedding;
    char    *spelled;            // NULL, or where the bytes of logprobs are instead
} eng_event;

void eng_event_free(eng_event *e); // NULL is fine
// Owns everything it names. *bytes: what it takes. NULL when memory is gone.
eng_event *eng_event_copy(const eng_event *e, size_t *bytes);

typedef struct eng_draft_seq eng_draft_seq;

typedef enum eng_phase { CHOICE_WAITING, CHOICE_FOLLOWING, CHOICE_RUNNING, CHOICE_DONE } eng_phase;

// One answer. FOLLOWING: waits for choice 0 to have read the prompt they share.
typedef struct eng_choice {
    altiserve_request *r;
    uint32_t   index;
    eng_phase  phase;
    struct eng_choice *next;    // in the model's list of waiting or running choices, by age
    int32_t   *tokens;          // prompt, then output
    size_t     n_tokens, cap_tokens, n_out;
    kv_seq    *kv;              // NULL while waiting
    struct eng_tier_fetch *fetch; // pages of it are on their way from lower tiers: no rows meanwhile
    sampler   *samp;
    tok_stream stream;
    samp_stop  stop;
    strbuf     piece, ready;    // from the decoder; past the stop strings, not yet in an event
    size_t     first_pending;   // outputs from here on are in no event yet
    altiserve_logprob *logprobs; // of the pending outputs
    size_t     n_logprobs, cap_logprobs;
    int32_t    row, n_rows;     // of the step under way, drafts among them
    int32_t    n_drafts;        // tokens[n_tokens ..] that the step computes and that may turn out wrong
    uint32_t   behind;          // tokens before the newest that a rejected draft's step left to be computed again (recurrent states)
    eng_ngram  ngram;
    bool       from_model;      // its drafts of this step are the draft model's
    bool       drafts_on;       // which draws more of them
    int32_t    drafted;         // and has made so many
    eng_draft_seq *draft_seq;   // its text in the draft model's pool; NULL: not there
    pol_luck   luck[2];         // of drafts from its own repetitions, from the model
    pol_memo   memo;
    bool       reads;           // rows of its prompt were computed for it
    bool       counts;          // so what it finds is cached for the request: not what it finds again of its own, once it gave way
    size_t     computed;        // tokens, when it left its pages last
    bool       passed;          // it was asked already whether it takes part in the step
    int32_t    wanted;          // index of its logits in the step, or -1
} eng_choice;

struct altiserve_request {
    atomic_int  refs;
    atomic_bool cancelled;
    eng_sched  *sched;
    eng_file   *file;
    uint64_t    order;          // of arrival
    int64_t     arrived, deadline; // monotonic ms; deadline 0: none
    int32_t    *prompt;
    size_t      n_prompt;
    uint32_t    n, max_tokens;
    int64_t     priority;
    eng_client *client;         // of the scheduler's table; a reference from submit to end
    double      weight;
    uint64_t    salt;
    bool        ignore_eos, explain;
    bool        seeded;         // its client gave the seed
    struct eng_recording *recording; // of its events, for the cache of responses; NULL: none. The engine thread's once it is queued
    int32_t     draft_max;      // as altiserve_generate
    bool        loads;          // is over when its model is in memory
    bool        embeds, raw;    // wants the embedding of its prompt (eng_embed.c)
    bool        goes_on;        // a full queue takes it too
    int         top;            // logprobs asked for: -1 none
    samp_params params;
    samp_bias  *bias;
    char      **stops;
    size_t      n_stops;

    // engine thread
    altiserve_request *prev, *next; // all requests of the scheduler
    eng_model  *model;          // held from the start on
    eng_choice *choices;
    uint32_t    live;           // choices that are not done
    bool        queued;         // counted among the waiting
    bool        entered;        // counted as active with its client
    bool        begun;          // EVENT_STARTED is out
    int64_t     loaded;         // when the model it had to wait for was there; 0: it was there already
    bool        waits_model;    // it was not loaded when the request came
    int64_t     started, first; // all three: monotonic microseconds
    uint32_t    cached;         // prompt tokens found computed
    uint32_t    drafted, accepted;
    altiserve_finish outcome;   // of the choice that ended last, or FINISH_ERROR with `why`
    error       why;

    pthread_mutex_t lock;
    pthread_cond_t  wake;
    eng_event  *head, **tail, *current;
    size_t      n_events;
    bool        ended, paused, freed;
    altiserve_finish finish;    // of EVENT_END
    error       err;
    altiserve_usage usage;
    altiserve_explanation explanation;
    eng_reasoning *reasoning;   // NULL: texts come as they were written
    void      (*notify)(void *);
    void       *notify_ctx;
};

// ---- for the engine thread
bool eng_request_full(altiserve_request *r); // and remembers that somebody waits for room
// Takes over what ev points at (also when it fails). False when memory is gone.
bool eng_request_push(altiserve_request *r, const eng_event *ev);
// The last thing the engine does with a request; gives back its reference.
void eng_request_end(altiserve_request *r, altiserve_finish finish, const error *err);
void eng_request_usage_set(altiserve_request *r, uint32_t more_tokens); // and the times as of now
void eng_request_release(altiserve_request *r);

// ---- for submitting
// A request for what the file stands for; takes over the reference to it (also on failure, when NULL is given back).
altiserve_request *eng_request_new(altiserve *a, eng_file *f, uint32_t timeout_ms, error *err);
// Queues it when `filled` is OK, and frees it otherwise; returns filled or why it could not be queued.
status eng_request_submit(altiserve_request *r, status filled, const char *client, const char *client_name, altiserve_request **out, error *err);
uint64_t eng_salt(const char *text); // NULL or "": 0, which all share
status eng_check_ids(const altiserve_request *r, error *err); // of the prompt, held to the vocabulary

// eng_embed.c: makes the event of a choice whose prompt is computed; x: what the model gave for its wanted row.
status eng_embed_push(eng_choice *c, const model_info *info, const float *x, error *err);

// eng_choice.c: from token to text.
status eng_choice_init(eng_choice *c, altiserve_request *r, uint32_t index, int32_t n_vocab, error *err);
void   eng_choices_free(altiserve_request *r); // all of it, but for their kv, which is the scheduler's
// Draws the next token from a row of logits and sends what can be sent. *finish: FINISH_NONE while it goes on.
status eng_choice_draw(eng_choice *c, samp_scratch *scratch, samp_row row, int32_t n_vocab, size_t context, altiserve_finish *finish, error *err);
// Sends what is held, then the finish.
status eng_choice_finish(eng_choice *c, altiserve_finish finish, error *err);

// eng_sched.c: takes a filled request of that client (and its name in metrics) into the queue. E_BUSY when it is full, E_CANCELLED when the engine stops.
status eng_sched_submit(eng_sched *s, altiserve_request *r, const char *client, const char *name, error *err);
