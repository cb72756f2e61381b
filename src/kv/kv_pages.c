// Owns the states of pages: free list, reference counts, the eviction list of each group; and the walker that asserts kv.h's invariants.
#include <string.h>

#include "kv/kv_internal.h"

static void unlist(kv_group *g, int32_t id) {
    kv_page *x = &g->pages[id];
    if (x->prev >= 0) g->pages[x->prev].next = x->next;
    else g->oldest = x->next;
    if (x->next >= 0) g->pages[x->next].prev = x->prev;
    else g->newest = x->prev;
    x->prev = x->next = -1;
    g->n_cached--;
}

static void list(kv_group *g, int32_t id) {
    kv_page *x = &g->pages[id];
    x->prev = g->newest;
    x->next = -1;
    if (g->newest >= 0) g->pages[g->newest].next = id;
    else g->oldest = id;
    g->newest = id;
    g->n_cached++;
}

static void make_free(kv_group *g, int32_t id) {
    g->pages[id].next = g->free_head;
    g->pages[id].prev = -1;
    g->free_head = id;
    g->n_free++;
}

int32_t page_take(kv_pool *p, int32_t group) {
    kv_group *g = &p->groups[group];
    if (g->free_head < 0) {
        int32_t victim = g->oldest;
        if (victim < 0) return -1;
        p->evictions++;
        node_lost(p, g->pages[victim].node, group);
        if (g->free_head < 0) return -1; // cannot be: node_lost frees the page
    }
    int32_t id = g->free_head;
    g->free_head = g->pages[id].next;
    g->n_free--;
    g->pages[id] = (kv_page){.refs = 1, .node = -1, .prev = -1, .next = -1};
    return id;
}

void page_ref(kv_pool *p, int32_t group, int32_t id) {
    kv_group *g = &p->groups[group];
    if (g->pages[id].refs++ == 0) unlist(g, id);
}

void page_unref(kv_pool *p, int32_t group, int32_t id) {
    kv_group *g = &p->groups[group];
    if (--g->pages[id].refs > 0) return;
    if (g->pages[id].node >= 0) list(g, id);
    else make_free(g, id);
}

void page_detach(kv_pool *p, int32_t group, int32_t id) {
    kv_group *g = &p->groups[group];
    g->pages[id].node = -1;
    if (g->pages[id].refs > 0) return;
    unlist(g, id);
    make_free(g, id);
}

status kv_create(const kv_config *config, kv_pool **out, error *err) {
    *out = NULL;
    if (config->n_groups < 0 || config->n_groups > KV_GROUPS) return error_set(err, E_INVALID, "a model of %d KV groups: at most %d are built", config->n_groups, KV_GROUPS);
    kv_pool *p = mem_calloc(1, sizeof *p);
    if (!p) return error_set(err, E_NOMEM, "no memory for the ledger of pages");
    p->config = *config;
    p->free_node = -1;
    size_t total = 0;
    for (int32_t i = 0; i < config->n_groups; i++) {
        kv_group *g = &p->groups[i];
        g->spec = config->groups[i];
        g->n = config->n_pages[i];
        g->free_head = g->oldest = g->newest = -1;
        if (g->n <= 0 || !(g->pages = mem_calloc((size_t)g->n, sizeof *g->pages))) goto nomem;
        for (int32_t k = g->n; k-- > 0;) {
            g->pages[k].node = -1;
            make_free(g, k);
        }
        total += (size_t)g->n;
    }
    // A node without pages lives while a snapshot below it does: where states alone are kept, a few of them hold long chains.
    bool pages = false;
    for (int32_t i = 0; i < config->n_groups; i++) pages |= config->groups[i].kind != DEV_GROUP_RECURRENT;
    p->max_nodes = pages ? 4 * total + 64 : 128 * total + 64;
    for (p->n_heads = 64; p->n_heads < p->max_nodes / 4;) p->n_heads *= 2;
    if (!(p->heads = mem_alloc(p->n_heads * sizeof *p->heads))) goto nomem;
    memset(p->heads, 0xff, p->n_heads * sizeof *p->heads);
    *out = p;
    return OK;
nomem:
    kv_destroy(p);
    return error_set(err, E_NOMEM, "no memory for the ledger of pages");
}

void kv_destroy(kv_pool *p) {
    if (!p) return;
    for (int32_t i = 0; i < KV_GROUPS; i++) mem_free(p->groups[i].pages);
    mem_free(p->nodes);
    mem_free(p->heads);
    mem_free(p);
}

void kv_get_stats(const kv_pool *p, kv_stats *out) {
    *out = (kv_stats){.evictions = p->evictions, .hits_tokens = p->hits_tokens, .copies = p->copies};
    for (int32_t i = 0; i < p->config.n_groups; i++) {
        const kv_group *g = &p->groups[i];
        out->total += (uint64_t)g->n;
        out->free += (uint64_t)g->n_free;
        out->cached += (uint64_t)g->n_cached;
    }
    out->used = out->total - out->free - out->cached;
}

// ---- the walker

static status check_group(const kv_pool *p, int32_t gi, int32_t *refs, error *err) {
    const kv_group *g = &p->groups[gi];
    for (const kv_seq *s = p->seqs; s; s = s->next)
        for (size_t i = 0; i <= s->n[gi]; i++) {
            int32_t id = i < s->n[gi] ? s->table[gi][i] : s->mark[gi];
            if (id < 0) continue;
            if (id >= g->n) return error_set(err, E_INTERNAL, "kv: group %d: a table names page %d of %d", gi, id, g->n);
            refs[id]++;
        }
    int32_t n_free = 0, n_cached = 0, used = 0;
    for (int32_t id = g->free_head; id >= 0; id = g->pages[id].next) {
        if (++n_free > g->n) return error_set(err, E_INTERNAL, "kv: group %d: the free list loops", gi);
        if (g->pages[id].refs || g->pages[id].node >= 0) return error_set(err, E_INTERNAL, "kv: group %d: page %d is free and held", gi, id);
    }
    for (int32_t id = g->oldest, before = -1; id >= 0; before = id, id = g->pages[id].next) {
        if (++n_cached > g->n) return error_set(err, E_INTERNAL, "kv: group %d: the eviction list loops", gi);
        if (g->pages[id].refs || g->pages[id].node < 0 || g->pages[id].prev != before)
            return error_set(err, E_INTERNAL, "kv: group %d: page %d is in the eviction list with %d references, node %d", gi, id, g->pages[id].refs, g->pages[id].node);
    }
    for (int32_t id = 0; id < g->n; id++) {
        const kv_page *x = &g->pages[id];
        if (x->refs != refs[id]) return error_set(err, E_INTERNAL, "kv: group %d: page %d counts %d references, tables have %d", gi, id, x->refs, refs[id]);
        used += x->refs > 0;
        if (x->node < 0) continue;
        if ((size_t)x->node >= p->n_nodes || !p->nodes[x->node].live || p->nodes[x->node].page[gi] != id)
            return error_set(err, E_INTERNAL, "kv: group %d: page %d and node %d do not name each other", gi, id, x->node);
    }
    if (n_free != g->n_free || n_cached != g->n_cached || n_free + n_cached + used != g->n)
        return error_set(err, E_INTERNAL, "kv: group %d: %d free + %d cached + %d used of %d pages", gi, n_free, n_cached, used, g->n);
    return OK;
}

// A leaf stands before its ancestors: mark pages as the list is walked; an ancestor that was passed already is wrong.
static status check_order(const kv_pool *p, int32_t gi, error *err) {
    const kv_group *g = &p->groups[gi];
    if (g->spec.kind != DEV_GROUP_FULL) return OK;
    uint8_t *passed = mem_calloc((size_t)g->n, 1);
    if (!passed) return OK; // nothing was found wrong
    status st = OK;
    for (int32_t id = g->oldest; id >= 0 && st == OK; id = g->pages[id].next) {
        int32_t parent = p->nodes[g->pages[id].node].parent;
        if (parent >= 0) {
            int32_t up = p->nodes[parent].page[gi];
            if (up < 0) st = error_set(err, E_INTERNAL, "kv: group %d: page %d outlived its ancestor", gi, id);
            else if (passed[up]) st = error_set(err, E_INTERNAL, "kv: group %d: page %d would be evicted after its ancestor %d", gi, id, up);
        }
        passed[id] = 1;
    }
    mem_free(passed);
    return st;
}

status kv_check(const kv_pool *p, error *err) {
    for (int32_t gi = 0; gi < p->config.n_groups; gi++) {
        int32_t *refs = mem_calloc((size_t)p->groups[gi].n, sizeof *refs);
        if (!refs) return error_set(err, E_NOMEM, "no memory to check pages");
        status st = check_group(p, gi, refs, err);
        mem_free(refs);
        if (st == OK) st = check_order(p, gi, err);
        if (st != OK) return st;
    }
    size_t live = 0;
    for (size_t i = 0; i < p->n_nodes; i++) {
        const kv_node *x = &p->nodes[i];
        if (!x->live) continue;
        live++;
        int32_t children = 0, pages = 0;
        for (size_t k = 0; k < p->n_nodes; k++) children += p->n_nodes < 4096 && p->nodes[k].live && p->nodes[k].parent == (int32_t)i;
        for (int32_t gi = 0; gi < p->config.n_groups; gi++) {
            int32_t id = x->page[gi];
            pages += id >= 0;
            if (id >= 0 && p->groups[gi].pages[id].node != (int32_t)i) return error_set(err, E_INTERNAL, "kv: node %zu names page %d, which does not name it", i, id);
        }
        if (p->n_nodes < 4096 && children != x->children) return error_set(err, E_INTERNAL, "kv: node %zu counts %d children and has %d", i, x->children, children);
        if (!pages && !x->children && !x->pins) return error_set(err, E_INTERNAL, "kv: node %zu holds nothing", i);
        if (x->parent >= 0 && !p->nodes[x->parent].live) return error_set(err, E_INTERNAL, "kv: node %zu has no parent", i);
        if (node_find(p, x->parent, x->root, x->tokens) != (int32_t)i) return error_set(err, E_INTERNAL, "kv: node %zu is not found again", i);
    }
    if (live != p->live_nodes) return error_set(err, E_INTERNAL, "kv: %zu nodes, %zu counted", live, p->live_nodes);
    return OK;
}
