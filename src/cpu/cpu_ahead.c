// cpu/ahead: memory of KV pages is there before a step writes to it. The first write to fresh memory waits until the system has found and zeroed it, in the middle of a step, while the other
// workers wait at its end. So a thread that runs when nobody else wants a processor keeps some pages beyond the furthest that was used in memory; and what a step needs beyond that, all workers fetch
// together before it. Nothing here changes what pages hold, and nothing depends on it but time.
//
// Invariants: reached and present only grow, at most to the number of pages; both are written under the lock.
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
    int32_t present[DEV_MAX_GROUPS]; // that are in memory, or that the system does not fetch when asked
} cpu_ahead;

enum { AHEAD = 64, PIECE = 2 << 20 }; // pages: 2,048 tokens; bytes fetched at once, one of the system's large pages

static void release(cpu_ahead *a) {
    pthread_cond_destroy(&a->done);
    pthread_cond_destroy(&a->wake);
    pthread_mutex_destroy(&a->lock);
    mem_free(a);
}

static int32_t wanted(const cpu_ahead *a, int g) { return a->kv->n_pages[g] - a->reached[g] < AHEAD ? a->kv->n_pages[g] : a->reached[g] + AHEAD; }

// Group g's pages from `first` to end - 1, and what lies before them in their first piece.
static uint8_t *range_of(const cpu_kv *kv, int g, int32_t first, int32_t end, size_t *bytes) {
    const size_t at = (size_t)first * kv->page_bytes[g] / PIECE * PIECE;
    *bytes = (size_t)end * kv->page_bytes[g] - at;
    return kv->data[g] + at;
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
        size_t bytes;
        int32_t end = a->present[g] + 1;
        uint8_t *at = range_of(a->kv, g, end - 1, end, &bytes);
        pthread_mutex_unlock(&a->lock);
        bool can = os_populate(at, bytes);
        pthread_mutex_lock(&a->lock);
        if (!can) end = a->kv->n_pages[g];
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
        if (kv->page_bytes[g] * (size_t)kv->n_pages[g] < PIECE) a->present[g] = kv->n_pages[g]; // not worth it, nor at the beginning of a page
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
        const int32_t first = a->present[g];
        a->reached[g] = upto[g];
        pthread_cond_signal(&a->wake);
        pthread_mutex_unlock(&a->lock);
        if (first >= upto[g]) continue;
        fetch f;
        f.at = range_of(kv, g, first, upto[g], &f.bytes);
        pool_run(d->pool, fetch_now, &f);
        pthread_mutex_lock(&a->lock);
        if (a->present[g] < upto[g]) a->present[g] = upto[g];
        pthread_mutex_unlock(&a->lock);
    }
}
