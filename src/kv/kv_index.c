// Owns the index of prefixes: nodes of 32 tokens below their parent, found by a chain of hashes; tokens and parent are compared.
// A node lives while a page, a child or a sequence's tip holds it.
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kv/kv_internal.h"

uint64_t node_hash(uint64_t parent_hash, const uint64_t root[2], const int32_t *tokens) {
    return XXH3_64bits_withSeed(tokens, KV_PAGE * sizeof *tokens, parent_hash ^ root[0]);
}

static uint64_t parent_hash(const kv_pool *p, int32_t parent) { return parent < 0 ? 0x9E3779B97F4A7C15u : p->nodes[parent].hash; }

int32_t node_find(const kv_pool *p, int32_t parent, const uint64_t root[2], const int32_t *tokens) {
    uint64_t h = node_hash(parent_hash(p, parent), root, tokens);
    for (int32_t i = p->heads[h & (p->n_heads - 1)]; i >= 0; i = p->nodes[i].next) {
        const kv_node *x = &p->nodes[i];
        if (x->hash == h && x->parent == parent && x->root[0] == root[0] && x->root[1] == root[1] && !memcmp(x->tokens, tokens, sizeof x->tokens)) return i;
    }
    return -1;
}

// No node is left: pages that nobody uses go, of each group the longest unused first, until one is free. (Of long texts few windows or states hold many nodes: they would
// keep every later text out of the index.)
static void free_a_node(kv_pool *p) {
    for (int32_t g = 0; g < p->config.n_groups; g++)
        while (p->free_node < 0 && p->groups[g].oldest >= 0) {
            p->evictions++;
            node_lost(p, p->groups[g].pages[p->groups[g].oldest].node, g);
        }
}

int32_t node_add(kv_pool *p, int32_t parent, const kv_seq *of, const int32_t *tokens) {
    const uint64_t *root = of->root;
    bool room = p->free_node >= 0 || (p->n_nodes < p->max_nodes && mem_grow((void **)&p->nodes, &p->cap_nodes, p->n_nodes + 1, sizeof *p->nodes));
    if (!room) free_a_node(p);
    int32_t i = p->free_node;
    if (i >= 0) p->free_node = p->nodes[i].next;
    else if (room) i = (int32_t)p->n_nodes++;
    else return -1;
    kv_node *x = &p->nodes[i];
    *x = (kv_node){.hash = node_hash(parent_hash(p, parent), root, tokens), .root = {root[0], root[1]}, .parent = parent, .live = true};
    memcpy(x->tokens, tokens, sizeof x->tokens);
    for (int32_t g = 0; g < KV_GROUPS; g++) x->page[g] = -1;
    if (parent >= 0) x->index = p->nodes[parent].index + 1;
    if (p->config.tier_ctx) {
        memcpy(x->parent_id, parent >= 0 ? p->nodes[parent].id : of->root_id, sizeof x->parent_id);
        kv_chain_id(x->parent_id, tokens, x->id);
    }
    int32_t *head = &p->heads[x->hash & (p->n_heads - 1)];
    x->next = *head;
    *head = i;
    if (parent >= 0) p->nodes[parent].children++;
    p->live_nodes++;
    return i;
}

static bool held(const kv_pool *p, const kv_node *x) {
    if (x->children || x->pins) return true;
    for (int32_t g = 0; g < p->config.n_groups; g++)
        if (x->page[g] >= 0) return true;
    return false;
}

void node_prune(kv_pool *p, int32_t i) {
    while (i >= 0 && !held(p, &p->nodes[i])) {
        kv_node *x = &p->nodes[i];
        int32_t *link = &p->heads[x->hash & (p->n_heads - 1)];
        while (*link != i) link = &p->nodes[*link].next;
        *link = x->next;
        int32_t parent = x->parent;
        x->live = false;
        x->next = p->free_node;
        p->free_node = i;
        p->live_nodes--;
        if (parent >= 0) p->nodes[parent].children--;
        i = parent;
    }
}

// Without its page of a full group no hit can end at a node or below it, so its other pages go too. (Below it there is nothing any more:
// leaves are evicted first.) A page of a window or a snapshot goes alone.
void node_lost(kv_pool *p, int32_t i, int32_t group) {
    kv_node *x = &p->nodes[i];
    bool all = p->groups[group].spec.kind == DEV_GROUP_FULL;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (x->page[g] < 0 || !(all || g == group)) continue;
        int32_t id = x->page[g];
        if (p->config.tier_ctx && p->config.evicted) {
            kv_record what = kv_record_of(p, i, g);
            p->config.evicted(p->config.tier_ctx, &what, id);
        }
        x->page[g] = -1;
        page_detach(p, g, id);
    }
    node_prune(p, i);
}
