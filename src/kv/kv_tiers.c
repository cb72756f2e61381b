// Owns what the pool and the tiers below it (kv_store.h) say to each other: names of pages, what is to be saved, what must be brought and how it enters.
//
// Invariants: an id is a function of the key and of all tokens up to the page's end, and SHA-256 has no known collisions, so pages under equal ids may stand
// for each other (the tokens of the page itself are compared as well, where a tier gives one back). A page that was brought is indexed
// like one that was computed; while a sequence is on its way to `last`, pages that windows do not need there are -1 and count as given back.
// Threads: as the pool.
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdatomic.h>
#include <string.h>

#include "kv/kv_internal.h"

// A name that nothing else has, where the hash cannot be had: such a page is never found again.
static void no_name(uint8_t out[32]) {
    static atomic_ullong next;
    unsigned long long n = atomic_fetch_add(&next, 1);
    memset(out, 0xff, 32);
    memcpy(out, &n, sizeof n);
}

void kv_chain_id(const uint8_t parent[32], const int32_t *tokens, uint8_t out[32]) {
    uint8_t text[32 + KV_PAGE * sizeof *tokens];
    memcpy(text, parent, 32);
    memcpy(text + 32, tokens, KV_PAGE * sizeof *tokens);
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, text, sizeof text, out) < 0) no_name(out);
}

void kv_root_id(const kv_key *key, uint8_t out[32]) {
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, key, sizeof *key, out) < 0) no_name(out);
}

kv_record kv_record_of(const kv_pool *p, int32_t node, int32_t group) {
    const kv_node *x = &p->nodes[node];
    kv_record r = {.index = x->index, .group = group, .bytes = p->config.page_bytes[group]};
    memcpy(r.id, x->id, sizeof r.id);
    memcpy(r.parent, x->parent_id, sizeof r.parent);
    memcpy(r.tokens, x->tokens, sizeof r.tokens);
    return r;
}

static bool recurrent(const kv_pool *p, int32_t g) { return p->groups[g].spec.kind == DEV_GROUP_RECURRENT; }

// Offers the states of a node. False: one of them not now.
static bool offer_states(kv_pool *p, int32_t node) {
    bool taken = true;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        int32_t page = p->nodes[node].page[g];
        if (!recurrent(p, g) || page < 0) continue;
        kv_record what = kv_record_of(p, node, g);
        taken &= p->config.filled(p->config.tier_ctx, &what, page);
    }
    return taken;
}

// Offers the pages of attention that were not yet taken; returns how many are left.
static size_t save_pages(kv_seq *s) {
    kv_pool *p = s->pool;
    size_t left = s->indexed - s->saved;
    if (!left) return 0;
    int32_t *chain = mem_alloc(left * sizeof *chain);
    if (!chain) return left;
    int32_t at = s->tip;
    for (size_t i = left; i-- > 0; at = p->nodes[at].parent) chain[i] = at;
    bool taken = true;
    for (size_t i = 0; i < left && taken; i++) {
        for (int32_t g = 0; g < p->config.n_groups && taken; g++) {
            int32_t page = p->nodes[chain[i]].page[g];
            if (page < 0 || recurrent(p, g)) continue; // a snapshot is offered when it is taken
            kv_record what = kv_record_of(p, chain[i], g);
            taken = p->config.filled(p->config.tier_ctx, &what, page);
        }
        s->saved += taken;
    }
    mem_free(chain);
    return s->indexed - s->saved;
}

size_t kv_seq_save(kv_seq *s, bool last) {
    kv_pool *p = s->pool;
    if (!p->config.tier_ctx) return 0;
    size_t left = save_pages(s);
    if (s->owed >= 0 && offer_states(p, s->owed)) s->owed = -1;
    bool moved = last && s->moving >= 0 && s->moving != s->owed;
    return left + (s->owed >= 0) + (moved && !offer_states(p, s->moving));
}

// What is known of one page on the way: its name, its node in the pool or -1, and for which groups pool and tiers have it (a bit each).
typedef struct step {
    uint8_t  id[32];
    int32_t  node;
    uint32_t pool, tier;
} step;

static kv_record record_at(const kv_seq *s, const step *way, const uint8_t start[32], size_t k, size_t have, const int32_t *tokens, int32_t g) {
    kv_record r = {.index = (uint32_t)(have + k), .group = g, .bytes = s->pool->config.page_bytes[g]};
    memcpy(r.id, way[k].id, sizeof r.id);
    memcpy(r.parent, k ? way[k - 1].id : start, sizeof r.parent);
    memcpy(r.tokens, tokens + (have + k) * KV_PAGE, sizeof r.tokens);
    return r;
}

// Whether a sequence that ends at page `end` needs page `i` of the group.
static bool needed(const kv_pool *p, int32_t g, size_t i, size_t end) {
    if (recurrent(p, g)) return i + 1 == end;
    return i >= seq_first_seen(p, g, end * KV_PAGE);
}

static bool reaches(const kv_pool *p, const step *way, size_t have, size_t pages) {
    for (int32_t g = 0; g < p->config.n_groups; g++)
        for (size_t k = pages; k-- > 0 && needed(p, g, have + k, have + pages);)
            if (!((way[k].pool | way[k].tier) >> g & 1)) return false;
    return true;
}

size_t kv_seq_plan(kv_seq *s, const int32_t *tokens, size_t n, bool (*has)(void *ctx, const kv_record *page), void *ctx, kv_record **list, size_t *n_list) {
    kv_pool *p = s->pool;
    size_t have = s->len / KV_PAGE, found = 0, best, cap = 0;
    *list = NULL;
    *n_list = 0;
    if (!p->config.tier_ctx || !p->config.index || s->index_off || s->len % KV_PAGE || s->indexed != have || n < s->len + KV_PAGE + 1) return s->len;
    size_t most = (n - 1) / KV_PAGE - have;
    const uint8_t *start = s->tip >= 0 ? p->nodes[s->tip].id : s->root_id;
    step *way = mem_calloc(most, sizeof *way);
    if (!way) return s->len;
    for (int32_t at = s->tip, node; found < most; found++, at = node) {
        step *w = &way[found];
        kv_chain_id(found ? way[found - 1].id : start, tokens + (have + found) * KV_PAGE, w->id);
        node = w->node = found && at < 0 ? -1 : node_find(p, at, s->root, tokens + (have + found) * KV_PAGE);
        bool whole = true, any = false;
        for (int32_t g = 0; g < p->config.n_groups; g++) {
            if (node >= 0 && p->nodes[node].page[g] >= 0) w->pool |= 1u << g;
            kv_record r = record_at(s, way, start, found, have, tokens, g);
            if (!(w->pool >> g & 1) && has(ctx, &r)) w->tier |= 1u << g;
            bool there = (w->pool | w->tier) >> g & 1;
            whole &= there || p->groups[g].spec.kind != DEV_GROUP_FULL;
            any |= there;
        }
        if (!whole || (!any && found > 64)) break;
    }
    for (best = found; best > 0 && !reaches(p, way, have, best); best--) {}
    for (size_t k = 0; k < best; k++)
        for (int32_t g = 0; g < p->config.n_groups; g++) {
            if (way[k].pool >> g & 1 || !needed(p, g, have + k, have + best)) continue;
            if (!mem_grow((void **)list, &cap, *n_list + 1, sizeof **list)) {
                mem_free(*list);
                mem_free(way);
                *list = NULL;
                *n_list = 0;
                return s->len;
            }
            (*list)[(*n_list)++] = record_at(s, way, start, k, have, tokens, g);
        }
    mem_free(way);
    return *n_list ? (have + best) * KV_PAGE : s->len;
}

// The group's page for page number i: the pool's own, one that was reserved for it, or a new one that fill writes. Negative: E_BUSY or E_NOTFOUND, as -status.
static int32_t bring(kv_seq *s, int32_t node, int32_t g, size_t i, bool (*fill)(void *ctx, int32_t group, int32_t page), void *ctx) {
    kv_pool *p = s->pool;
    int32_t there = node >= 0 ? p->nodes[node].page[g] : -1, id;
    if (there >= 0) {
        page_ref(p, g, there);
        return there;
    }
    int32_t reserved = s->n[g] > i ? s->table[g][i] : -1;
    if (reserved >= 0 && p->groups[g].pages[reserved].refs == 1 && p->groups[g].pages[reserved].node < 0) {
        id = reserved;
        page_ref(p, g, id); // as the others; the table's own reference goes when the table is cut
    } else if ((id = page_take(p, g)) < 0) {
        return -(int32_t)E_BUSY;
    }
    if (fill(ctx, g, id)) return id;
    page_unref(p, g, id);
    return -(int32_t)E_NOTFOUND;
}

// The state of a recurrent group at `last`, in the sequence's own page.
static status bring_state(kv_seq *s, int32_t node, int32_t g, bool (*fill)(void *ctx, int32_t group, int32_t page), void *ctx) {
    kv_pool *p = s->pool;
    bool fresh = !s->n[g];
    int32_t own = fresh ? page_take(p, g) : s->table[g][0], snap = node >= 0 ? p->nodes[node].page[g] : -1;
    if (own < 0) return E_BUSY;
    if (snap >= 0) {
        p->config.copy(p->config.copy_ctx, g, snap, own);
        p->copies++;
    } else if (!fill(ctx, g, own)) {
        if (fresh) page_unref(p, g, own);
        return E_NOTFOUND;
    }
    s->table[g][0] = own;
    s->n[g] = 1;
    return OK;
}

static void enter(kv_seq *s, int32_t node, size_t i, const int32_t *got, size_t last) {
    kv_pool *p = s->pool;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (recurrent(p, g)) continue;
        while (s->n[g] > i) {
            int32_t id = s->table[g][--s->n[g]];
            if (id >= 0) page_unref(p, g, id);
        }
        s->table[g][s->n[g]++] = got[g];
        if (got[g] >= 0 && p->nodes[node].page[g] < 0 && p->groups[g].pages[got[g]].node < 0) {
            p->nodes[node].page[g] = got[g];
            p->groups[g].pages[got[g]].node = node;
        }
        size_t first = seq_first_seen(p, g, last);
        if (first > i + 1) first = i + 1;
        for (size_t k = (size_t)s->gone[g]; k < first; k++) {
            if (s->table[g][k] >= 0) page_unref(p, g, s->table[g][k]);
            s->table[g][k] = -1;
        }
        if ((int32_t)first > s->gone[g]) s->gone[g] = (int32_t)first;
    }
    seq_tip(s, node);
    s->indexed++;
    s->len += KV_PAGE;
}

status kv_seq_restore(kv_seq *s, const int32_t *tokens, size_t last, bool (*fill)(void *ctx, int32_t group, int32_t page), void *ctx, error *err) {
    kv_pool *p = s->pool;
    size_t i = s->len / KV_PAGE;
    if (!p->config.index || s->index_off || s->len % KV_PAGE || s->indexed != i || last < s->len + KV_PAGE || last % KV_PAGE)
        return error_set(err, E_USAGE, "kv: a sequence of %zu tokens cannot be brought to %zu", s->len, last);
    for (int32_t g = 0; g < p->config.n_groups; g++)
        if (!seq_room(s, g, i + 1)) return error_set(err, E_NOMEM, "no memory for a page table");
    int32_t node = node_find(p, s->tip, s->root, tokens + i * KV_PAGE), got[KV_GROUPS];
    if (node < 0) node = node_add(p, s->tip, s, tokens + i * KV_PAGE);
    if (node < 0) return error_set(err, E_LIMIT, "the index of prefixes is full of what is in use");
    p->nodes[node].pins++; // taking pages must not remove it
    status st = OK;
    for (int32_t g = 0; g < p->config.n_groups; g++) got[g] = -1;
    for (int32_t g = 0; st == OK && g < p->config.n_groups; g++) {
        if (!needed(p, g, i, last / KV_PAGE)) continue;
        if (recurrent(p, g)) {
            st = bring_state(s, node, g, fill, ctx);
            continue;
        }
        int32_t id = bring(s, node, g, i, fill, ctx);
        if (id < 0) st = (status)-id;
        else got[g] = id;
    }
    if (st == OK) enter(s, node, i, got, last);
    else
        for (int32_t g = 0; g < p->config.n_groups; g++)
            if (got[g] >= 0) page_unref(p, g, got[g]);
    p->nodes[node].pins--;
    node_prune(p, node);
    return st == OK ? OK : error_set(err, st, st == E_BUSY ? "no free KV pages" : "a page of a lower tier could not be read");
}
