// cpu/ahead: memory of KV pages is there before a step writes to it. The first write to fresh memory waits until the system has found and zeroed it, in the middle of a step, while the other
// workers wait at its end. So a thread that runs when nobody else wants a processor keeps some pages beyond the furthest that was used in memory; and what a step needs beyond that, all workers fetch
// together before it. Nothing here changes what pages hold, and nothing depends on it but time.
//
// Pages come a run at a time (cpu_kv_group), and memory in pieces of a run, in order.
//
// Invariants: reached and present only grow, at most to all pages and their bytes; both are written under the lock.
#include "base/mem.h"
#include "base/os.h"
#include "cpu/cpu_internal.h"

typedef struct cpu_ahead {
    const cpu_kv *kv;
    pthread_t thread;
    bool ends;
    pthread_mutex_t lock;
    pthread_cond_t  wake, done;
    int32_t reached[DEV_MAX_GROUPS]; // pages, from the first on, that steps have used; written by the device's thread alone
    size_t  present[DEV_MAX_GROUPS]; // bytes, from the first on, that are in memory, or that the system does not fetch when asked
} cpu_ahead;

enum { AHEAD = 64, PIECE = 2 << 20 }; // pages: 2,048 tokens; bytes fetched at once, one of the system's large pages

static void release(cpu_ahead *a) {
    pthread_cond_destroy(&a->done);
    pthread_cond_destroy(&a->wake);
    pthread_mutex_destroy(&a->lock);
    mem_free(a);
}

// Bytes from the first page on that hold so many pages.
static size_t bytes_of(const cpu_kv_group *g, int32_t pages) {
    const int32_t left = g->n - pages, rest = (g->run - pages % g->run) % g->run;
    return (size_t)(pages + (rest < left ? rest : left)) * cpu_kv_page_bytes(g);
}

static size_t wanted(const cpu_ahead *a, int g) {
    const cpu_kv_group *pages = &a->kv->groups[g];
    return bytes_of(pages, pages->n - a->reached[g] < AHEAD ? pages->n : a->reached[g] + AHEAD);
}

static void *fetch_ahead(void *ctx) {
    cpu_ahead *a = ctx;
    os_thread_idle();
    pthread_mutex_lock(&a->lock);
    while (!a->ends) {
        int g = 0;
        while (g < a->kv->n_groups && a->present[g] >= wanted(a, g)) g++;
        if (g == a->kv->n_groups) {
            pthread_cond_broadcast(&a->done);
            pthread_cond_wait(&a->wake, &a->lock);
            continue;
        }
        const size_t at = a->present[g] / PIECE * PIECE, want = wanted(a, g);
        size_t end = want - at < PIECE ? want : at + PIECE;
        pthread_mutex_unlock(&a->lock);
        bool can = os_populate(a->kv->groups[g].data + at, end - at);
        pthread_mutex_lock(&a->lock);
        if (!can) end = bytes_of(&a->kv->groups[g], a->kv->groups[g].n);
        if (a->present[g] < end) a->present[g] = end;
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

void cpu_ahead_begin(cpu_kv *kv) {
    cpu_ahead *a = mem_calloc(1, sizeof *a);
    bool any = false;
    if (!a) return;
    a->kv = kv;
    for (int g = 0; g < kv->n_groups; g++) {
        const size_t all = bytes_of(&kv->groups[g], kv->groups[g].n);
        if (all < PIECE) a->present[g] = all; // not worth it, nor at the beginning of a page
        else any = true;
    }
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->wake, NULL);
    pthread_cond_init(&a->done, NULL);
    if (any && pthread_create(&a->thread, NULL, fetch_ahead, a) == 0) kv->ahead = a;
    else release(a);
}

void cpu_ahead_end(cpu_kv *kv) {
    cpu_ahead *a = kv->ahead;
    if (!a) return;
    pthread_mutex_lock(&a->lock);
    a->ends = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    release(a);
}

void cpu_ahead_settle(cpu_kv *kv) {
    cpu_ahead *a = kv->ahead;
    if (!a) return;
    pthread_mutex_lock(&a->lock);
    for (int g = 0; g < kv->n_groups; g++)
        while (a->present[g] < wanted(a, g)) pthread_cond_wait(&a->done, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

typedef struct fetch { uint8_t *at; size_t bytes; } fetch;

static void fetch_now(void *ctx, int worker, pool_member *team) {
    const fetch *f = ctx;
    (void)worker;
    for (size_t at; (at = pool_next(team, PIECE)) < f->bytes;) (void)os_populate(f->at + at, f->bytes - at < PIECE ? f->bytes - at : PIECE);
    pool_barrier(team);
}

void cpu_ahead_reach(cpu_device *d, cpu_kv *kv, const int32_t *upto) {
    cpu_ahead *a = kv->ahead;
    for (int g = 0; a && g < kv->n_groups; g++) {
        if (upto[g] <= a->reached[g]) continue;
        pthread_mutex_lock(&a->lock);
        const size_t first = a->present[g], want = bytes_of(&kv->groups[g], upto[g]);
        a->reached[g] = upto[g];
        pthread_cond_signal(&a->wake);
        pthread_mutex_unlock(&a->lock);
        if (first >= want) continue;
        fetch f = {kv->groups[g].data + first / PIECE * PIECE, want - first / PIECE * PIECE};
        pool_run(d->pool, fetch_now, &f);
        pthread_mutex_lock(&a->lock);
        if (a->present[g] < want) a->present[g] = want;
        pthread_mutex_unlock(&a->lock);
    }
}
