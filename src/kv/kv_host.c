// Owns the host-memory tier: contents of pages that the pool let go of, by name, least recently put first out. A pool evicts leaves before their
// ancestors, so leaves go first here too. What is taken leaves: it goes back into the pool, and comes again when it is evicted there.
//
// Invariant: the bytes of all contents never exceed the limit; an entry is in one bucket and in the list.
#include <string.h>

#include "base/mem.h"
#include "kv/kv_store.h"

typedef struct entry {
    kv_record what;
    void     *content;
    struct entry *older, *newer, *next;
} entry;

struct kv_host {
    uint64_t limit;
    kv_host_stats st;
    entry  **heads;
    size_t   n_heads; // a power of two
    entry   *oldest, *newest;
};

status kv_host_create(uint64_t bytes, kv_host **out, error *err) {
    kv_host *h = mem_calloc(1, sizeof *h);
    *out = NULL;
    if (h) {
        h->limit = bytes;
        h->n_heads = 4096;
        h->heads = mem_calloc(h->n_heads, sizeof *h->heads);
    }
    if (!h || !h->heads) {
        mem_free(h);
        return error_set(err, E_NOMEM, "no memory for the host tier of the prefix cache");
    }
    *out = h;
    return OK;
}

static entry **link_of(const kv_host *h, const kv_record *what) {
    uint64_t x;
    memcpy(&x, what->id, sizeof x);
    entry **at = &h->heads[(x + (uint64_t)what->group) & (h->n_heads - 1)];
    while (*at && ((*at)->what.group != what->group || memcmp((*at)->what.id, what->id, sizeof what->id))) at = &(*at)->next;
    return at;
}

// Out of the bucket and the list; its content is the caller's.
static void *remove_at(kv_host *h, entry **link) {
    entry *e = *link;
    void *content = e->content;
    *link = e->next;
    if (e->older) e->older->newer = e->newer;
    else h->oldest = e->newer;
    if (e->newer) e->newer->older = e->older;
    else h->newest = e->older;
    h->st.pages--;
    h->st.bytes -= e->what.bytes;
    mem_free(e);
    return content;
}

void kv_host_destroy(kv_host *h) {
    if (!h) return;
    while (h->oldest) mem_free(remove_at(h, link_of(h, &h->oldest->what)));
    mem_free(h->heads);
    mem_free(h);
}

static bool same(const kv_record *a, const kv_record *b) {
    return a->index == b->index && a->bytes == b->bytes && !memcmp(a->parent, b->parent, sizeof a->parent) && !memcmp(a->tokens, b->tokens, sizeof a->tokens);
}

bool kv_host_has(const kv_host *h, const kv_record *page) {
    const entry *e = *link_of(h, page);
    return e && same(&e->what, page);
}

static void grow(kv_host *h) {
    size_t n = h->n_heads * 2;
    entry **old = h->heads, **heads = mem_calloc(n, sizeof *heads);
    if (!heads) return; // buckets are longer then
    h->heads = heads;
    h->n_heads = n;
    mem_free(old);
    for (entry *e = h->oldest; e; e = e->newer) {
        entry **at = link_of(h, &e->what);
        e->next = NULL;
        *at = e;
    }
}

void *kv_host_put(kv_host *h, const kv_record *page) {
    entry **at = link_of(h, page);
    if (*at) mem_free(remove_at(h, at));
    if (page->bytes > h->limit) return NULL;
    while (h->st.bytes + page->bytes > h->limit) {
        mem_free(remove_at(h, link_of(h, &h->oldest->what)));
        h->st.evicted++;
    }
    if (h->st.pages >= 2 * h->n_heads) grow(h);
    entry *e = mem_calloc(1, sizeof *e);
    if (e && !(e->content = mem_alloc(page->bytes))) {
        mem_free(e);
        e = NULL;
    }
    if (!e) return NULL;
    e->what = *page;
    at = link_of(h, page);
    *at = e;
    e->older = h->newest;
    if (e->older) e->older->newer = e;
    else h->oldest = e;
    h->newest = e;
    h->st.pages++;
    h->st.bytes += page->bytes;
    h->st.put++;
    return e->content;
}

void *kv_host_take(kv_host *h, const kv_record *page) {
    entry **at = link_of(h, page);
    if (!*at || !same(&(*at)->what, page)) return NULL;
    h->st.taken++;
    return remove_at(h, at);
}

void kv_host_get_stats(const kv_host *h, kv_host_stats *out) { *out = h->st; }
