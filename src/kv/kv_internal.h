// kv_internal: the structures behind kv.h, for the files of this room alone.
#pragma once
#include "base/mem.h"
#include "kv/kv.h"

typedef struct kv_page {
    int32_t refs;        // table entries of sequences that name it
    int32_t node;        // index node that names it, or -1
    int32_t prev, next;  // eviction list (cached pages) or free list (next only); -1 ends
} kv_page;

typedef struct kv_group {
    dev_group spec;
    kv_page  *pages;
    int32_t   n, n_free, n_cached;
    int32_t   free_head;
    int32_t   oldest, newest; // eviction list
} kv_group;

// One full page of tokens below its parent. root: the 128-bit hash of the key, for nodes without a parent.
typedef struct kv_node {
    uint64_t hash;
    uint64_t root[2];
    int32_t  tokens[KV_PAGE];
    int32_t  parent, children, pins; // pins: sequences whose tip it is
    int32_t  next;                   // in its hash bucket, or the list of free nodes
    int32_t  page[KV_GROUPS];        // -1: not here. Recurrent groups: the snapshot at the end of this page
    bool     live;
    uint32_t index;                  // number of the page
    uint8_t  id[32], parent_id[32];  // as kv_record's; set where there are tiers
} kv_node;

struct kv_pool {
    kv_config config;
    kv_group  groups[KV_GROUPS];
    kv_node  *nodes;
    size_t    n_nodes, cap_nodes, max_nodes, live_nodes;
    int32_t   free_node;
    int32_t  *heads;
    size_t    n_heads; // a power of two
    kv_seq   *seqs;
    uint64_t  evictions, hits_tokens, copies;
};

struct kv_seq {
    kv_pool *pool;
    kv_seq  *prev, *next;
    uint64_t root[2];
    uint8_t  root_id[32];        // SHA-256 of the key
    size_t   saved;              // pages from the start that tiers have taken
    size_t   len;                // tokens computed
    int32_t *table[KV_GROUPS];
    size_t   n[KV_GROUPS], cap[KV_GROUPS];
    int32_t  gone[KV_GROUPS];    // window: pages below it were given back
    int32_t  tip;                // node of page index `indexed` - 1, or -1
    size_t   indexed;            // pages of it that are in the index, from the start
    int32_t  moving;             // node of the moving snapshot: the tip or an ancestor of it, or -1
    int32_t  owed;               // node of the last snapshot that tiers could not take when it was offered: the tip or an ancestor of it, or -1
    int32_t  mark[KV_GROUPS];    // recurrent: the state that kv_seq_mark kept, or -1
    bool     index_off;          // the index was full once: no more of this sequence
};

// kv_pages.c
int32_t page_take(kv_pool *p, int32_t group);              // refs 1; evicts; -1 when none is left
void    page_ref(kv_pool *p, int32_t group, int32_t id);
void    page_unref(kv_pool *p, int32_t group, int32_t id); // to the newest end of the cached list, or free
void    page_detach(kv_pool *p, int32_t group, int32_t id); // the index lets go of it

// kv_index.c
uint64_t node_hash(uint64_t parent_hash, const uint64_t root[2], const int32_t *tokens);
int32_t  node_find(const kv_pool *p, int32_t parent, const uint64_t root[2], const int32_t *tokens);
int32_t  node_add(kv_pool *p, int32_t parent, const kv_seq *of, const int32_t *tokens); // -1: full or no memory
void     node_prune(kv_pool *p, int32_t node); // removes it, and its ancestors, while nothing holds them
void     node_lost(kv_pool *p, int32_t node, int32_t group); // its page of the group was evicted

// kv_seq.c
void     seq_tip(kv_seq *s, int32_t node);
bool     seq_room(kv_seq *s, int32_t group, size_t n);
size_t   seq_first_seen(const kv_pool *p, int32_t group, size_t at); // the first page that a token at `at` or later still sees

// kv_tiers.c
void     kv_chain_id(const uint8_t parent[32], const int32_t *tokens, uint8_t out[32]);
void     kv_root_id(const kv_key *key, uint8_t out[32]); // padding of the key must be zero
kv_record kv_record_of(const kv_pool *p, int32_t node, int32_t group);
