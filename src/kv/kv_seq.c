// Owns sequences: their page tables, matching against the index, copy on write, and what a window gives back.
//
// Invariants: a table covers [0, n) pages; entries below `gone` of a window group are -1; pages from len / 32 on are the sequence's own
// once kv_seq_reserve has passed; the tip's chain spells the first `indexed` pages.
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kv/kv_internal.h"

static bool recurrent(const kv_pool *p, int32_t g) { return p->groups[g].spec.kind == DEV_GROUP_RECURRENT; }
static bool windowed(const kv_pool *p, int32_t g) { return p->groups[g].spec.kind == DEV_GROUP_WINDOW && p->groups[g].spec.window > 0; }

size_t seq_first_seen(const kv_pool *p, int32_t g, size_t at) {
    if (!windowed(p, g)) return 0;
    size_t w = (size_t)p->groups[g].spec.window;
    return at + 1 > w ? (at + 1 - w) / KV_PAGE : 0;
}

bool seq_room(kv_seq *s, int32_t g, size_t n) { return mem_grow((void **)&s->table[g], &s->cap[g], n, sizeof **s->table); }

status kv_seq_create(kv_pool *p, const kv_key *key, kv_seq **out, error *err) {
    *out = NULL;
    kv_seq *s = mem_calloc(1, sizeof *s);
    if (!s) return error_set(err, E_NOMEM, "no memory for a sequence");
    kv_key k;
    memset(&k, 0, sizeof k); // padding too
    k.weights = key->weights;
    k.layout = key->layout;
    memcpy(k.recipe, key->recipe, strnlen(key->recipe, sizeof k.recipe));
    k.kv_type = key->kv_type;
    k.adapter = key->adapter;
    k.salt = key->salt;
    XXH128_hash_t h = XXH3_128bits(&k, sizeof k);
    s->root[0] = h.low64;
    s->root[1] = h.high64;
    if (p->config.tier_ctx) kv_root_id(&k, s->root_id);
    s->pool = p;
    s->tip = s->moving = s->owed = -1;
    memset(s->mark, 0xff, sizeof s->mark); // -1
    s->next = p->seqs;
    if (s->next) s->next->prev = s;
    p->seqs = s;
    *out = s;
    return OK;
}

void seq_tip(kv_seq *s, int32_t node) {
    int32_t old = s->tip;
    if (node >= 0) s->pool->nodes[node].pins++;
    s->tip = node;
    if (old < 0) return;
    s->pool->nodes[old].pins--;
    node_prune(s->pool, old);
}

void kv_seq_free(kv_seq *s) {
    if (!s) return;
    kv_pool *p = s->pool;
    kv_seq_unmark(s, false);
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        for (size_t i = s->n[g]; i-- > 0;) // the deepest first: it is evicted first
            if (s->table[g][i] >= 0) page_unref(p, g, s->table[g][i]);
        mem_free(s->table[g]);
    }
    seq_tip(s, -1);
    if (s->prev) s->prev->next = s->next;
    else p->seqs = s->next;
    if (s->next) s->next->prev = s->prev;
    mem_free(s);
}

status kv_seq_fork(kv_seq *s, kv_seq **out, error *err) {
    kv_pool *p = s->pool;
    *out = NULL;
    kv_seq *f = mem_calloc(1, sizeof *f);
    if (!f) return error_set(err, E_NOMEM, "no memory for a sequence");
    *f = *s;
    memset(f->table, 0, sizeof f->table);
    memset(f->cap, 0, sizeof f->cap);
    memset(f->n, 0, sizeof f->n);
    f->tip = f->moving = f->owed = -1;
    memset(f->mark, 0xff, sizeof f->mark); // -1: marks are not shared
    f->prev = NULL;
    f->next = p->seqs;
    if (f->next) f->next->prev = f;
    p->seqs = f;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (!seq_room(f, g, s->n[g])) {
            kv_seq_free(f);
            return error_set(err, E_NOMEM, "no memory for a page table");
        }
        for (size_t i = 0; i < s->n[g]; i++) {
            int32_t id = s->table[g][i];
            if (recurrent(p, g)) {
                if ((id = page_take(p, g)) < 0) {
                    kv_seq_free(f);
                    return error_set(err, E_BUSY, "no free state page");
                }
                p->config.copy(p->config.copy_ctx, g, s->table[g][i], id);
                p->copies++;
            } else if (id >= 0) {
                page_ref(p, g, id);
            }
            f->table[g][f->n[g]++] = id;
        }
    }
    seq_tip(f, s->tip);
    *out = f;
    return OK;
}

// Whether everything that a token at `at` (a page border) sees is here: in the sequence up to `have` pages, then in nodes[0..].
static bool satisfied(const kv_seq *s, size_t have, const int32_t *nodes, size_t at) {
    const kv_pool *p = s->pool;
    size_t pages = at / KV_PAGE;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (recurrent(p, g)) {
            if (p->nodes[nodes[pages - have - 1]].page[g] < 0) return false;
            continue;
        }
        size_t first = seq_first_seen(p, g, at);
        for (size_t i = first > have ? first : have; i < pages; i++)
            if (p->nodes[nodes[i - have]].page[g] < 0) return false;
    }
    return true;
}

size_t kv_seq_match(kv_seq *s, const int32_t *tokens, size_t n) {
    kv_pool *p = s->pool;
    size_t have = s->len / KV_PAGE;
    if (!p->config.index || s->index_off || s->len % KV_PAGE || s->indexed != have || n < s->len + KV_PAGE + 1) return s->len;
    size_t most = (n - 1) / KV_PAGE - have, found = 0, best = 0;
    int32_t *nodes = mem_alloc(most * sizeof *nodes);
    if (!nodes) return s->len;
    for (int32_t at = s->tip; found < most; found++) {
        at = node_find(p, at, s->root, tokens + (have + found) * KV_PAGE);
        if (at < 0) break;
        bool whole = true;
        for (int32_t g = 0; g < p->config.n_groups; g++) whole &= p->groups[g].spec.kind != DEV_GROUP_FULL || p->nodes[at].page[g] >= 0;
        if (!whole) break;
        nodes[found] = at;
    }
    for (best = found; best > 0 && !satisfied(s, have, nodes, (have + best) * KV_PAGE); best--) {}
    for (int32_t g = 0; best && g < p->config.n_groups; g++)
        if (!seq_room(s, g, have + best)) best = 0;
    if (!best) {
        mem_free(nodes);
        return s->len;
    }
    // A recurrent state is copied into the sequence's own page: it needs one first.
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (!recurrent(p, g)) continue;
        int32_t snap = p->nodes[nodes[best - 1]].page[g];
        page_ref(p, g, snap); // not evicted by what follows
        int32_t own = s->n[g] ? s->table[g][0] : page_take(p, g);
        if (own >= 0) {
            s->table[g][0] = own;
            s->n[g] = 1;
            p->config.copy(p->config.copy_ctx, g, snap, own);
            p->copies++;
        }
        page_unref(p, g, snap);
        if (own < 0) {
            mem_free(nodes);
            return s->len;
        }
    }
    size_t len = (have + best) * KV_PAGE;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (recurrent(p, g)) continue;
        while (s->n[g] > have) { // reserved but not written: the cached ones take their place
            int32_t id = s->table[g][--s->n[g]];
            if (id >= 0) page_unref(p, g, id);
        }
        size_t first = seq_first_seen(p, g, len);
        for (size_t i = have; i < have + best; i++) {
            int32_t id = i >= first ? p->nodes[nodes[i - have]].page[g] : -1;
            if (id >= 0) page_ref(p, g, id);
            s->table[g][s->n[g]++] = id;
        }
        if (windowed(p, g)) {
            for (size_t i = (size_t)s->gone[g]; i < first && i < have; i++) {
                if (s->table[g][i] >= 0) page_unref(p, g, s->table[g][i]);
                s->table[g][i] = -1;
            }
            if ((int32_t)first > s->gone[g]) s->gone[g] = (int32_t)first;
        }
    }
    seq_tip(s, nodes[best - 1]);
    s->indexed = have + best;
    p->hits_tokens += len - s->len;
    s->len = len;
    mem_free(nodes);
    return len;
}

int32_t kv_group_need(const kv_pool *p, int32_t g, size_t tokens) {
    if (recurrent(p, g)) return 1;
    size_t pages = (tokens + KV_PAGE - 1) / KV_PAGE;
    return (int32_t)pages; // a window group needs no more than this; a chunk of prompt may hold window + chunk
}

int64_t kv_available(const kv_pool *p) {
    int64_t least = INT64_MAX / 4;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        int64_t n = (int64_t)p->groups[g].n_free + p->groups[g].n_cached;
        if (p->groups[g].spec.kind == DEV_GROUP_FULL && n < least) least = n;
    }
    return least;
}

int64_t kv_seq_alone(const kv_seq *s) {
    const kv_pool *p = s->pool;
    int64_t least = INT64_MAX / 4;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (p->groups[g].spec.kind != DEV_GROUP_FULL) continue;
        int64_t n = 0;
        for (size_t i = 0; i < s->n[g]; i++) n += s->table[g][i] >= 0 && p->groups[g].pages[s->table[g][i]].refs == 1;
        if (n < least) least = n;
    }
    return least;
}

int64_t kv_available_states(const kv_pool *p) {
    int64_t least = INT64_MAX / 4;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (!recurrent(p, g)) continue;
        int64_t n = (int64_t)p->groups[g].n_free + p->groups[g].n_cached;
        for (const kv_seq *s = p->seqs; s; s = s->next) n -= s->n[g] == 0;
        if (n < least) least = n;
    }
    return least;
}

bool kv_fits(const kv_pool *p, size_t tokens) {
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (windowed(p, g)) continue; // bounded by window + chunk: the caller sizes the pool for that
        if (kv_group_need(p, g, tokens) > p->groups[g].n) return false;
    }
    return true;
}

// Pages that a reserve takes from the group: new ones, and copies of pages about to be written that others hold.
static size_t wanted(const kv_seq *s, int32_t g, size_t upto) {
    const kv_pool *p = s->pool;
    if (recurrent(p, g)) return s->n[g] ? 0 : 1;
    size_t pages = (upto + KV_PAGE - 1) / KV_PAGE, n = pages > s->n[g] ? pages - s->n[g] : 0;
    for (size_t i = s->len / KV_PAGE; i < s->n[g] && i < pages; i++) {
        int32_t id = s->table[g][i];
        n += id < 0 || p->groups[g].pages[id].refs > 1 || p->groups[g].pages[id].node >= 0;
    }
    return n;
}

status kv_seq_reserve(kv_seq *s, size_t upto, error *err) {
    kv_pool *p = s->pool;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        size_t need = wanted(s, g, upto), pages = recurrent(p, g) ? 1 : (upto + KV_PAGE - 1) / KV_PAGE;
        if (need > (size_t)p->groups[g].n)
            return error_set(err, E_LIMIT, "%zu tokens need %zu KV pages and there are %d", upto, need, p->groups[g].n);
        if (need > (size_t)p->groups[g].n_free + (size_t)p->groups[g].n_cached)
            return error_set(err, E_BUSY, "no free KV pages: %zu wanted, %d free", need, p->groups[g].n_free + p->groups[g].n_cached);
        if (!seq_room(s, g, pages)) return error_set(err, E_NOMEM, "no memory for a page table");
    }
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        size_t pages = recurrent(p, g) ? 1 : (upto + KV_PAGE - 1) / KV_PAGE;
        for (size_t i = recurrent(p, g) ? 1 : s->len / KV_PAGE; i < s->n[g] && i < pages; i++) {
            int32_t old = s->table[g][i];
            if (old >= 0 && p->groups[g].pages[old].refs == 1 && p->groups[g].pages[old].node < 0) continue;
            int32_t id = page_take(p, g);
            if (id < 0) return error_set(err, E_INTERNAL, "kv: a counted page is gone");
            if (old >= 0 && s->len > i * KV_PAGE) { // nothing of it is ours otherwise
                p->config.copy(p->config.copy_ctx, g, old, id);
                p->copies++;
            }
            if (old >= 0) page_unref(p, g, old);
            s->table[g][i] = id;
        }
        while (s->n[g] < pages) {
            int32_t id = page_take(p, g);
            if (id < 0) return error_set(err, E_INTERNAL, "kv: a counted page is gone");
            s->table[g][s->n[g]++] = id;
        }
    }
    return OK;
}

// Page number s->indexed is full: it enters the index, or gives way to the one that is there already.
static bool index_page(kv_seq *s, const int32_t *tokens) {
    kv_pool *p = s->pool;
    size_t i = s->indexed;
    int32_t node = node_find(p, s->tip, s->root, tokens + i * KV_PAGE);
    if (node < 0) node = node_add(p, s->tip, s, tokens + i * KV_PAGE);
    if (node < 0) return false;
    kv_node *x = &p->nodes[node];
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (recurrent(p, g)) continue;
        int32_t own = s->table[g][i];
        if (own < 0 || x->page[g] == own) continue;
        if (x->page[g] < 0) {
            if (p->groups[g].pages[own].node >= 0) continue;
            x->page[g] = own;
            p->groups[g].pages[own].node = node;
        } else if (p->groups[g].pages[own].node < 0) { // the same tokens were computed twice: one copy is enough
            page_ref(p, g, x->page[g]);
            s->table[g][i] = x->page[g];
            page_unref(p, g, own);
        }
    }
    seq_tip(s, node);
    s->indexed++;
    return true;
}

// Pages that no later token sees.
static void give_back(kv_seq *s) {
    kv_pool *p = s->pool;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (!windowed(p, g)) continue;
        size_t first = seq_first_seen(p, g, s->len);
        for (size_t i = (size_t)s->gone[g]; i < first && i < s->n[g]; i++) {
            if (s->table[g][i] >= 0) page_unref(p, g, s->table[g][i]);
            s->table[g][i] = -1;
        }
        if ((int32_t)first > s->gone[g]) s->gone[g] = (int32_t)first;
    }
}

void kv_seq_commit(kv_seq *s, const int32_t *tokens, size_t len) {
    kv_pool *p = s->pool;
    if (len > s->len) s->len = len;
    while (p->config.index && !s->index_off && (s->indexed + 1) * KV_PAGE <= s->len)
        if (!index_page(s, tokens)) s->index_off = true;
    give_back(s);
}

// The snapshot at the sequence's tip is kept: it moves on with nobody. Where it did, tiers were not offered it yet.
static void keep_here(kv_seq *s) {
    for (kv_seq *x = s->pool->seqs; x; x = x->next)
        if (x->moving == s->tip) {
            x->moving = -1;
            if (s->pool->config.tier_ctx) s->owed = s->tip;
        }
}

void kv_seq_snapshot(kv_seq *s, bool moving) {
    kv_pool *p = s->pool;
    if (!p->config.index || s->index_off || !s->len || s->len % KV_PAGE || s->indexed != s->len / KV_PAGE || s->tip < 0) return;
    int32_t last = moving ? s->moving : -1;
    if (!moving) keep_here(s);
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (!recurrent(p, g) || !s->n[g] || p->nodes[s->tip].page[g] >= 0) continue;
        if (last >= 0 && last != s->tip && p->nodes[last].page[g] >= 0) { // the tip's chain holds the node
            int32_t old = p->nodes[last].page[g];
            p->nodes[last].page[g] = -1;
            page_detach(p, g, old);
        }
        int32_t id = page_take(p, g);
        if (id < 0) continue;
        p->config.copy(p->config.copy_ctx, g, s->table[g][0], id);
        p->copies++;
        p->nodes[s->tip].page[g] = id;
        p->groups[g].pages[id].node = s->tip;
        if (p->config.tier_ctx && !moving) { // one that moves is offered where it comes to rest
            kv_record what = kv_record_of(p, s->tip, g);
            if (!p->config.filled(p->config.tier_ctx, &what, id)) s->owed = s->tip;
        }
        page_unref(p, g, id);
        if (moving) s->moving = s->tip;
    }
}

status kv_seq_mark(kv_seq *s, error *err) {
    kv_pool *p = s->pool;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        if (!recurrent(p, g) || !s->n[g]) continue;
        int32_t id = page_take(p, g);
        if (id < 0) {
            kv_seq_unmark(s, false);
            return error_set(err, E_BUSY, "no free state page");
        }
        p->config.copy(p->config.copy_ctx, g, s->table[g][0], id);
        p->copies++;
        s->mark[g] = id;
    }
    return OK;
}

void kv_seq_unmark(kv_seq *s, bool rewind) {
    kv_pool *p = s->pool;
    for (int32_t g = 0; g < p->config.n_groups; g++) {
        int32_t kept = s->mark[g];
        if (kept < 0) continue;
        s->mark[g] = -1;
        if (!rewind) {
            page_unref(p, g, kept);
            continue;
        }
        page_unref(p, g, s->table[g][0]);
        s->table[g][0] = kept;
    }
}

size_t kv_seq_len(const kv_seq *s) { return s->len; }

const int32_t *kv_seq_pages(const kv_seq *s, int32_t g, int32_t *n) {
    *n = (int32_t)s->n[g];
    return s->table[g];
}
