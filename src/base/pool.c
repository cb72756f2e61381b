#include "base/pool.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "base/os.h"

// A job is published by raising `epoch`; each worker runs it once and counts itself in `done`. Barriers count arrivals in
// `waiting` and open by raising `phase`. Every wait spins SPIN times, then sleeps on the condition variable.
enum { SPIN = 20000 };

struct pool {
    int threads;
    pthread_t *ids;
    pool_fn fn;
    void *ctx;
    _Alignas(64) atomic_size_t next;
    _Alignas(64) atomic_uint epoch;
    _Alignas(64) atomic_int done;
    _Alignas(64) atomic_int waiting;
    atomic_uint phase;
    _Alignas(64) atomic_int sleepers;
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

struct start {
    pool *p;
    int worker;
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wake_all(pool *p) {
    if (atomic_load(&p->sleepers) == 0) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

// Until *word differs from `old`.
static void wait_change(pool *p, atomic_uint *word, unsigned old) {
    for (int i = 0; i < SPIN; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old) return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(word) == old) pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

void pool_barrier(pool *p) {
    if (p->threads == 1) {
        atomic_store_explicit(&p->next, 0, memory_order_relaxed);
        return;
    }
    unsigned phase = atomic_load(&p->phase);
    if (atomic_fetch_add(&p->waiting, 1) == p->threads - 1) {
        atomic_store(&p->waiting, 0);
        atomic_store(&p->next, 0);
        atomic_store(&p->phase, phase + 1);
        wake_all(p);
        return;
    }
    wait_change(p, &p->phase, phase);
}

size_t pool_next(pool *p, size_t step) { return atomic_fetch_add_explicit(&p->next, step, memory_order_relaxed); }
int pool_threads(const pool *p) { return p->threads; }

static void *worker_main(void *arg) {
    struct start s = *(struct start *)arg;
    mem_free(arg);
    unsigned seen = 0;
    for (;;) {
        wait_change(s.p, &s.p->epoch, seen);
        seen++; // jobs are published one by one and each waits for all workers, so none can be missed
        if (atomic_load(&s.p->stop)) return NULL;
        s.p->fn(s.p->ctx, s.worker, s.p);
        pool_barrier(s.p);
    }
}

void pool_run(pool *p, pool_fn fn, void *ctx) {
    p->fn = fn;
    p->ctx = ctx;
    atomic_store(&p->next, 0);
    if (p->threads > 1) {
        atomic_fetch_add(&p->epoch, 1);
        wake_all(p);
    }
    fn(ctx, 0, p);
    pool_barrier(p);
}

struct range_job {
    size_t n, step;
    pool_range_fn fn;
    void *ctx;
};

static void range_worker(void *ctx, int worker, pool *p) {
    struct range_job *j = ctx;
    for (size_t begin; (begin = pool_next(p, j->step)) < j->n;) {
        size_t end = j->n - begin < j->step ? j->n : begin + j->step;
        j->fn(j->ctx, begin, end, worker);
    }
}

void pool_for(pool *p, size_t n, size_t step, pool_range_fn fn, void *ctx) {
    struct range_job job = {n, step ? step : 1, fn, ctx};
    if (n) pool_run(p, range_worker, &job);
}

status pool_create(int threads, pool **out, error *err) {
    *out = NULL;
    if (threads < 1 || threads > 1024) return error_set(err, E_USAGE, "threads must be between 1 and 1024, not %d", threads);
    pool *p = mem_aligned(64, sizeof *p);
    if (!p) return error_set(err, E_NOMEM, "no memory for the thread pool");
    *p = (pool){.threads = 1};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    p->ids = mem_calloc((size_t)threads, sizeof *p->ids);
    if (!p->ids) {
        pool_destroy(p);
        return error_set(err, E_NOMEM, "no memory for the thread pool");
    }
    int started = 1;
    for (; started < threads; started++) {
        struct start *s = mem_alloc(sizeof *s);
        if (!s) break;
        *s = (struct start){p, started};
        if (pthread_create(&p->ids[started], NULL, worker_main, s) != 0) {
            mem_free(s);
            break;
        }
    }
    p->threads = started; // workers read it only inside a job
    if (started < threads) {
        pool_destroy(p);
        return error_set(err, E_NOMEM, "the system started only %d of %d threads", started, threads);
    }
    *out = p;
    return OK;
}

void pool_destroy(pool *p) {
    if (!p) return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->epoch, 1);
    wake_all(p);
    for (int i = 1; i < p->threads; i++) pthread_join(p->ids[i], NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    mem_free(p->ids);
    mem_free(p);
}

int pool_default_threads(void) {
    int n = os_processors();
    double held = ceil(os_process_limits().processors);
    if (held > 0 && held < n) n = (int)held;
    return n > 1024 ? 1024 : n;
}
