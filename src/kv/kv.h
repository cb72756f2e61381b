// kv: the ledger of KV pages: ids, reference counts, copy on write, and the index that finds computed prefixes again.
//
// It knows page ids alone and never looks inside a page; a copy is asked of the caller. A page holds DEV_PAGE_TOKENS tokens of one group.
// Groups: full attention keeps every page; a window group gives back pages that no later token sees; a recurrent group has one state
// page a sequence and sparse snapshots.
//
// Invariants (kv_check asserts them; the engine calls it after every step in debug and sanitized builds):
//  1. every page is in exactly one state: free (no references, not indexed), cached (no references, indexed), used (references > 0);
//  2. a page's reference count equals the number of table entries and marks of living sequences that name it;
//  3. cached pages, and only they, are in their group's eviction list; free + cached + used = total;
//  4. an indexed page is named by exactly one node and group; tokens and the parent's identity are compared, the hash is a hint;
//  5. a page in use is never evicted and never written by a sequence while another or the index holds it;
//  6. in a full group's list a page stands before the pages of its ancestors: leaves are evicted first.
// Threads: a pool and its sequences belong to one thread at a time.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "device/device.h"

enum { KV_PAGE = DEV_PAGE_TOKENS, KV_GROUPS = DEV_MAX_GROUPS };

// Raised whenever a build lays pages out otherwise, or gives them other bits, than the one before: pages on disk outlive a build.
enum { KV_LAYOUT = 3 };

// What cached pages may be shared by: all of it is part of the key.
typedef struct kv_key {
    dev_fingerprint weights;  // of the weights and what is computed with them
    uint32_t layout;          // KV_LAYOUT
    char     recipe[16];      // the backend's tier, and whether a row's bits depend on how many are computed beside it
    uint32_t kv_type, adapter;
    uint64_t salt;            // keeps tenants apart; 0: shared
} kv_key;

// One page of one group as tiers below the pool name it. id: SHA-256 over the parent's id and the tokens; the first page's parent is SHA-256 of
// the key. So an id stands for the key and for every token up to the page's end.
typedef struct kv_record {
    uint8_t  id[32], parent[32];
    int32_t  tokens[KV_PAGE];
    uint32_t index; // number of the page in its sequence
    int32_t  group;
    uint64_t bytes; // of its content
} kv_record;

typedef struct kv_config {
    int32_t   n_groups;
    dev_group groups[KV_GROUPS];
    int32_t   n_pages[KV_GROUPS]; // > 0
    bool      index;              // keep full pages for later requests
    // Copies a page; called inside kv_seq_reserve, kv_seq_match, kv_seq_snapshot.
    void    (*copy)(void *ctx, int32_t group, int32_t from, int32_t to);
    void     *copy_ctx;
    // Tiers below the pool; tier_ctx NULL: there are none and the rest is not looked at.
    void     *tier_ctx;
    size_t    page_bytes[KV_GROUPS];
    // An indexed page is full and computed. False: not now, it is offered again. Called inside kv_seq_save and kv_seq_snapshot.
    bool    (*filled)(void *ctx, const kv_record *what, int32_t page);
    // The index lets go of a page to make room; its content is still there. Called inside what takes or indexes pages. May be NULL.
    void    (*evicted)(void *ctx, const kv_record *what, int32_t page);
} kv_config;

typedef struct kv_pool kv_pool;
typedef struct kv_seq  kv_seq;

status kv_create(const kv_config *config, kv_pool **out, error *err);
void   kv_destroy(kv_pool *pool); // every sequence must be freed before

status kv_seq_create(kv_pool *pool, const kv_key *key, kv_seq **out, error *err);
void   kv_seq_free(kv_seq *seq); // its pages are free or cached afterwards; NULL is fine
// A sequence with the same tokens that shares all pages: writes copy first. A recurrent state is copied at once: E_BUSY when there is no page for it.
status kv_seq_fork(kv_seq *seq, kv_seq **out, error *err);

// Goes on from the sequence's length over cached pages of tokens[0..n): the longest page boundary below n at which every group is satisfied.
// Only at a page border; returns the new length. tokens begin at the start of the sequence.
size_t kv_seq_match(kv_seq *seq, const int32_t *tokens, size_t n);
// Makes the tables hold `upto` tokens and the pages to be written the sequence's own, evicting cached pages as needed.
// E_BUSY when pages are gone (nothing has changed), E_LIMIT when so many could never be had.
status kv_seq_reserve(kv_seq *seq, size_t upto, error *err);
// The tokens up to `len` are computed: full pages enter the index, pages behind a window are given back. tokens: from the sequence's start.
void   kv_seq_commit(kv_seq *seq, const int32_t *tokens, size_t len);
// Keeps the recurrent state at this length (a page border) for later matches, if a page can be had without taking one in use. No recurrent group: nothing.
// moving: in place of the sequence's last moving one, unless that was kept for another meanwhile, so that a text that grows has one snapshot, at the last border it passed.
void   kv_seq_snapshot(kv_seq *seq, bool moving);
// Before a step whose rows may be taken back (drafts): keeps the recurrent states as they are. E_BUSY: no page was left, nothing has changed. No recurrent
// group: nothing, for a row of attention that was not committed is simply written again.
status kv_seq_mark(kv_seq *seq, error *err);
// After that step, before anything of it is committed. rewind: the states are again those of the mark; else what was kept is let go. No mark: nothing.
void   kv_seq_unmark(kv_seq *seq, bool rewind);
size_t kv_seq_len(const kv_seq *seq);

// ---- tiers
// Offers the indexed pages that were not yet taken to config.filled, in order, until it says no, and the last snapshot that was not; returns how many are left, a
// snapshot as one. last: nothing follows on the sequence, so the snapshot that moved with it is offered too.
size_t kv_seq_save(kv_seq *seq, bool last);
// The longest page border below n that pool and tiers together reach, where has(ctx, page) says what tiers have, and what must be brought for it
// (mem_free(*list)), by index of page. The sequence's length when tiers do not lengthen it (*list NULL).
size_t kv_seq_plan(kv_seq *seq, const int32_t *tokens, size_t n, bool (*has)(void *ctx, const kv_record *page), void *ctx, kv_record **list, size_t *n_list);
// Goes on by one page on the way to `last`, a border from kv_seq_plan: fill(ctx, group, page) writes what the pool does not have. Between the first such page
// and `last` the sequence must not be computed with. E_BUSY: no page was left; E_NOTFOUND: fill said no; nothing has changed then. E_LIMIT: the index has no
// room, though unused pages have left it.
status kv_seq_restore(kv_seq *seq, const int32_t *tokens, size_t last, bool (*fill)(void *ctx, int32_t group, int32_t page), void *ctx, error *err);
// Page ids by index of page, -1 where a window has passed; valid until the next call on the sequence.
const int32_t *kv_seq_pages(const kv_seq *seq, int32_t group, int32_t *n);
// Whether a sequence of `tokens` tokens could ever be held, all other sequences gone.
bool   kv_fits(const kv_pool *pool, size_t tokens);
// Pages that a newcomer could get in every full group (free or cached); a large number where there is no such group.
int64_t kv_available(const kv_pool *pool);
// How many more that would be were the sequence freed: its pages that nobody else holds.
int64_t kv_seq_alone(const kv_seq *seq);
// States that newcomers could get in every recurrent group, those kept back for sequences that have none yet; a large number where there is no such group.
int64_t kv_available_states(const kv_pool *pool);
// Pages of the group that a sequence of so many tokens holds at most at once.
int32_t kv_group_need(const kv_pool *pool, int32_t group, size_t tokens);

typedef struct kv_stats {
    uint64_t total, free, cached, used; // pages, all groups
    uint64_t evictions, hits_tokens, copies;
} kv_stats;
void kv_get_stats(const kv_pool *pool, kv_stats *out);

// Asserts every invariant; returns false with the sentence in err instead of aborting.
status kv_check(const kv_pool *pool, error *err);

#include "kv/kv_store.h" // the tiers below the pool, part of what this room offers
