// engine/eng_policy: what the scheduler decides, apart from what it does: no clocks, no memory, no threads. The engine and the simulation
// (tests/engine/test_policy.c) share it.
//
// Cost of a step, fitted to measured steps (non-negative least squares of relative errors, old steps fade):
//   seconds = base + per_stream * streams + per_row * prompt rows + per_pair * (query, key) pairs of attention + per_draft * rows of drafts
//             + per_key * keys brought from memory.
// A sequence's keys are brought once a step, however many rows it has: deep in a long prompt that is most of a small chunk.
// Budget: streams come first; how many rows of prompts go beside them follows from that cost (pol_prompt_rows).
// Order: priority (lower first, as vLLM has it), then the client that had least work for its weight (start-time fair queueing: Goyal, Vin, Cheng
// 1996), in steps of POL_QUANTUM tokens so that short prompts are not interleaved for nothing, then the deadline: arrival + POL_SLACK times what
// the prompt itself takes. So equal prompts are served in order of arrival, a short one overtakes a long one, and nobody is overtaken for ever:
// a deadline stands still while those of later arrivals move on. Who has had tokens and is preempted for older ones gets a deadline from then on, so that
// it does not go before who has waited for long while it ran.
// Pages: a newcomer begins when there are pages for its prompt and for what all who run will take until it is read (pol_steps_to_read): a prompt that gave its pages back
// half-way was read in vain. Where there are none, some who run give theirs (pol_gives_pages): to a higher priority; to a client that runs nothing; and, after a
// slice of tokens, to who still waits for its first token or is older. What is given back is read again, so nobody gives pages before it has made
// half as many tokens as that takes (priorities apart). Whoever is oldest gives none.
// Drafts: a row more for a stream may give a token more. It pays where its chance over what it costs is more than what the step gives so far over what
// that costs (pol_draft_rows); the chance is what the stream's own drafts had of late, the cost is measured as all costs are.
// Threads: each structure belongs to one thread at a time.
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { POL_TERMS = 6, POL_QUANTUM = 1024, POL_LEAST_ROWS = 8, POL_SLACK = 2 };
enum { POL_SLICE = 1024 }; // tokens that a sequence makes before others of its client, or clients that run as well, may have its pages
#define POL_BESIDE 1.4   // a waiting prompt may take so many times what the running streams take of a step,
#define POL_STEP_LIMIT .5 // more waiting prompts as much each, up to a step of so many seconds

// All zero: nothing is known yet.
typedef struct pol_cost {
    double a[POL_TERMS][POL_TERMS], b[POL_TERMS]; // normal equations
    double term[POL_TERMS];                       // base, per 8 streams, per 64 rows, per 65,536 pairs, per 8 drafts, per 4,096 keys
    uint64_t steps;
} pol_cost;

typedef struct pol_step {
    double streams, rows, pairs; // rows: of prompts; pairs: of all rows but drafts, the sum of their positions
    double drafts;               // rows of streams past the first
    double keys;                 // of all sequences, their lengths
} pol_step;

void   pol_cost_note(pol_cost *c, const pol_step *s, double seconds);
double pol_cost_of(const pol_cost *c, const pol_step *s);
double pol_cost_row(const pol_cost *c); // seconds of one row of a prompt at its start; 0 while nothing is known

// Rows of prompts for a step that has `streams` (with their pairs and keys) already. waiting: prompts that are not read yet; depth: the position of
// the rows; most: what else the step can take. A prompt always goes on: at least POL_LEAST_ROWS where so many fit, and so many that they take half
// as long as bringing their keys.
int32_t pol_prompt_rows(const pol_cost *c, const pol_step *streams, int32_t waiting, double depth, int32_t most);

// Steps that it takes to read so many rows of a prompt from position `depth` on beside such streams.
double pol_steps_to_read(const pol_cost *c, const pol_step *streams, double rows, double depth, int32_t most);

// ---- drafts
// A stream's luck with drafts. All zero: nothing was tried.
typedef struct pol_luck {
    double   tried, accepted; // drafts, older ones fade; past the first wrong one of a step none counts
    uint32_t passed, patience; // chances to draft that were let pass since the last try, and how many are: it grows while drafts do not pay
} pol_luck;

// How many of `most` drafts a stream gets in a step that has s already and is to give `tokens` tokens so far (a token a stream, and what its drafts
// may give: *tokens grows by that). each: seconds that a draft costs besides its row. 0: it does not pay; but now and then a few are tried all the same.
int32_t pol_draft_rows(pol_luck *l, const pol_cost *c, const pol_step *s, double each, int32_t most, double *tokens);
void    pol_draft_note(pol_luck *l, int32_t drafted, int32_t accepted);

// ---- fairness
typedef struct pol_client {
    double   work;    // tokens computed for it over its weight; who comes back has at most a quantum saved up: work is lifted to clock - POL_QUANTUM
    double   weight;  // > 0
    uint32_t active;  // its requests that are not ended
    uint32_t runs;    // its sequences that run: who starts and stops them counts
} pol_client;

// clock: the least work of active clients, which never goes back.
void pol_client_enter(pol_client *c, double *clock);
void pol_client_leave(pol_client *c);
void pol_client_charge(pol_client *c, double tokens);

// What is remembered of a sequence between steps, with whoever holds it. All zero: it has not arrived.
typedef struct pol_memo {
    double deadline; // seconds
    double resumed;  // tokens that it had made when it was started last
} pol_memo;

// A sequence as it stands just now.
typedef struct pol_item {
    const pol_client *client;
    int64_t  priority;
    double   deadline; // seconds
    uint64_t order;    // of arrival
    bool     begun;    // it has had its first token
    bool     unread;   // its client does not take what is there: it gives way to everybody
    bool     rows;     // it has rows in the step under way: nobody takes its pages
    double   length;   // tokens: those that are read again if it gives its pages back,
    double   made;     // that it has made since it began or was resumed,
    double   held;     // and that have pages
    double   alone;    // pages that nobody else has: what is free once it gives its own
    bool     gives;    // its pages, says pol_finds_pages
} pol_item;

// What there is beside what runs. pages, states: that a newcomer could get; rows: of a step.
typedef struct pol_room {
    double  pages, states;
    int32_t rows;
} pol_room;

// In the order of a sequence's life. row_s: pol_cost_row.
void     pol_arrives(pol_memo *m, double now, double prompt_tokens, double row_s);
pol_item pol_item_of(const pol_memo *m, const pol_client *client, int64_t priority, uint64_t order, double length, double made); // made: in all
void     pol_starts(pol_memo *m, double made);
// It was preempted for an older one, as `item`: its deadline counts from now on, if it has had tokens.
void     pol_gave_way(pol_memo *m, const pol_item *item, double now, double row_s);
// Whether a goes before b.
bool   pol_before(const pol_item *a, const pol_item *b);
// Whether a waiting item may take the place of a running one: it has higher priority; or its client runs nothing, and the other's client
// runs several and is ahead of it. rank: which of the running ones of its client it is, from 1; for the place of any of them, how many there are.
bool   pol_displaces(const pol_item *waiting, const pol_item *running, uint32_t rank);
// Whether a running item gives its pages to a waiting one, for want of others. rank: by age.
bool   pol_gives_pages(const pol_item *waiting, const pol_item *running, uint32_t rank);

// All below: `running` has all n that run, by age, the oldest first.
// Whose pages go to the running one at `who`, which cannot go on without: those of the youngest without rows, if it is younger. -1: nobody's.
int32_t pol_victim(const pol_item *running, int32_t n, int32_t who);
// The youngest that nobody reads. -1: all are read.
int32_t pol_unread(const pol_item *running, int32_t n);
// Whose place a waiting one takes where no other is free: the youngest that nobody reads, or else the youngest that it displaces, but never the oldest. -1: nobody's.
int32_t pol_yields(const pol_item *waiting, const pol_item *running, int32_t n);
// Whether a newcomer finds the pages to begin with: for its prompt and a page (what it holds is there already), for what was promised to others (their
// prompts and a page), and for what they all take while it is read. from_others: those of running ones that give theirs too, the youngest first, and none
// unless they suffice: `gives` says whose.
bool    pol_finds_pages(const pol_cost *c, const pol_item *newcomer, pol_item *running, int32_t n, const pol_room *room, bool from_others);

// ---- the order of a step
typedef enum pol_which {
    POL_WAITS,           // who waits
    POL_WAITS_FOR_FIRST, // of them, who has had no token
    POL_READS,           // whose prompt is read, who has no rows yet and was not asked
} pol_which;

// What came of asking for pages. POL_FAILED: there was something else amiss, and nobody's pages help; who asked may be gone.
typedef enum pol_got { POL_GOT, POL_NO_PAGES = -1, POL_FAILED = -2 } pol_got;

// Who holds the sequences (the engine, the simulation) tells of them and does what is decided. who: one of theirs, that waits or runs.
typedef struct pol_hands {
    int32_t (*places)(void *ctx);                                 // that are free
    void   *(*next)(void *ctx, pol_which which, pol_item *item);  // the first by pol_before, and how the policy sees it; NULL: nobody
    void    (*make_way)(void *ctx, const pol_item *next);         // whoever yields to it (pol_yields) waits again
    pol_got (*start)(void *ctx, void *who, bool from_others);     // if it finds pages (pol_finds_pages): it runs
    void    (*begin)(void *ctx);                                  // from here on rows are taken; nobody with rows gives its pages
    void    (*streams)(void *ctx);                                // those that find pages take theirs
    int32_t (*budget)(void *ctx);                                 // pol_prompt_rows, beside them; from here on who reads is asked, each once
    int32_t (*read)(void *ctx, void *who, int32_t rows);          // of its prompt so many rows at most; how many it took, or POL_NO_PAGES
} pol_hands;

// What a step leaves to the next. All zero: nothing.
typedef struct pol_turn {
    bool  crowded; // the next that waits was not started for want of pages
    void *blocked; // the oldest that reads and found no pages, for younger streams had them: they give way at the next step. Who ends or stops running is taken out here
} pol_turn;

// Who takes part in a step, and in which order: who waits gets a place, then pages, of running ones; the prompt that streams left no pages last time; streams; then
// prompts and newcomers, whoever goes before the others, until the rows are used. Nobody is started once a prompt that goes before found no pages.
void pol_compose(pol_turn *t, const pol_hands *h, void *ctx);

// ---- the queue
// Whether a newcomer may wait: `limit` bounds all; the last eighth of it is for clients who have less than an eighth waiting.
bool pol_admits(uint32_t waiting, uint32_t of_client, uint32_t limit);
// Seconds until what waits now will have begun, by the measured time between starts: 1 to 600.
uint32_t pol_retry_after(uint32_t waiting, double start_interval_s);
