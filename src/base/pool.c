#include "base/pool.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/os.h"

// `round` is one word, so that a claim and the end of a round exclude each other: the number of the round, how many workers hold work in it, and the next item.
// Who holds nothing when it arrives, and finds that nobody does, opens the next round. `door` lets workers into a job: its number, whether it is closed, how
// many came in; the job is over when it is closed and as many have `left`. Every wait spins for SPIN_NS, about what sleeping and being woken costs, then sleeps.
// Invariants: fn, ctx and round change only while nobody is in; a closed job lets nobody in, so ctx may die when pool_run returns.
enum { SPIN_NS = 100000, SPINS_A_LOOK = 16 };
enum { NEXT_BITS = 33, HOLDER_BITS = 11 };
#define NEXT_OF(v) ((v) & (((uint64_t)1 << NEXT_BITS) - 1))
#define HOLDER ((uint64_t)1 << NEXT_BITS)
#define HOLDERS_OF(v) ((v) >> NEXT_BITS & (((uint64_t)1 << HOLDER_BITS) - 1))
#define ROUND_OF(v) ((uint32_t)((v) >> (NEXT_BITS + HOLDER_BITS)))
#define ROUND_MASK (((uint32_t)1 << (64 - NEXT_BITS - HOLDER_BITS)) - 1)
#define CLOSED ((uint64_t)1 << 31)
#define ENTERED_OF(v) ((uint32_t)((v) & (CLOSED - 1)))
#define JOB_OF(v) ((uint32_t)((v) >> 32))

// Of a node's items, in the round of the upper half; of another round they count as none.
typedef struct taken { _Alignas(64) _Atomic uint64_t items; } taken;

typedef struct bed { // where those sleep who wait for the same kind of news
    pthread_mutex_t lock;
    pthread_cond_t  wake;
    atomic_int      sleepers;
} bed;

struct pool {
    int threads;
    pthread_t *ids;
    const nodes *nodes;
    int n_nodes, first[NODES_MOST + 1]; // the first worker of each node; after the last, threads
    taken *taken; // of each node, where there are several
    void *was;    // what worker 0 was free to use before the job
    pool_fn fn;
    void *ctx;
    _Alignas(64) _Atomic uint64_t round;
    _Alignas(64) _Atomic uint64_t door;
    _Alignas(64) atomic_uint left;
    atomic_bool stop;
    _Alignas(64) bed jobs; // for a job to open
    bed inside;            // for a round to end, or for all to leave
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

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wake_all(bed *b) {
    if (atomic_load(&b->sleepers) == 0) return;
    pthread_mutex_lock(&b->lock);
    pthread_cond_broadcast(&b->wake);
    pthread_mutex_unlock(&b->lock);
}

typedef bool (*come_fn)(pool *p, uint32_t what);

static void wait_for(pool *p, bed *b, come_fn come, uint32_t what) {
    int64_t until = 0;
    for (int i = 1;; i++) {
        if (come(p, what)) return;
        relax();
        if (i % SPINS_A_LOOK) continue;
        int64_t now = now_ns();
        if (!until) until = now + SPIN_NS;
        else if (now >= until) break;
    }
    pthread_mutex_lock(&b->lock);
    atomic_fetch_add(&b->sleepers, 1); // before the last look: who brings the news looks at it after
    while (!come(p, what)) pthread_cond_wait(&b->wake, &b->lock);
    atomic_fetch_sub(&b->sleepers, 1);
    pthread_mutex_unlock(&b->lock);
}

static bool job_opened(pool *p, uint32_t seen) { return JOB_OF(atomic_load(&p->door)) != seen; }
static bool round_over(pool *p, uint32_t round) { return ROUND_OF(atomic_load(&p->round)) != (round & ROUND_MASK); }
static bool all_left(pool *p, uint32_t entered) { return atomic_load(&p->left) == entered; }

size_t pool_next(pool_member *m, size_t step) {
    uint64_t v = atomic_load(&m->pool->round), more = step + (m->holds ? 0 : HOLDER);
    do
        if (ROUND_OF(v) != (m->round & ROUND_MASK)) return POOL_NONE;
    while (!atomic_compare_exchange_weak(&m->pool->round, &v, v + more));
    m->holds = true;
    return (size_t)NEXT_OF(v);
}

// Who picks holds the round from its first look on, so no counter can be of a later one, and who finds nothing left knows that those who took the rest hold it too.
size_t pool_pick(pool_member *m, const size_t *ends) {
    pool *p = m->pool;
    if (p->n_nodes == 1) return pool_next(m, 1);
    if (!m->holds && pool_next(m, 0) == POOL_NONE) return POOL_NONE;
    for (int i = 0; i < p->n_nodes; i++) {
        int node = (m->node + i) % p->n_nodes;
        size_t begin = node ? ends[node - 1] : 0;
        uint64_t v = atomic_load(&p->taken[node].items), n;
        while ((n = v >> 32 == m->round ? (uint32_t)v : 0) < ends[node] - begin)
            if (atomic_compare_exchange_weak(&p->taken[node].items, &v, (uint64_t)m->round << 32 | (n + 1))) return begin + (size_t)n;
    }
    return ends[p->n_nodes - 1];
}

void pool_barrier(pool_member *m) {
    pool *p = m->pool;
    uint64_t v = atomic_load(&p->round), to;
    bool over, last = false;
    do {
        over = ROUND_OF(v) != (m->round & ROUND_MASK); // without this worker
        if (over) break;
        last = HOLDERS_OF(v) == m->holds;
        to = last ? (uint64_t)((m->round + 1) & ROUND_MASK) << (NEXT_BITS + HOLDER_BITS) : v - (m->holds ? HOLDER : 0);
    } while (!atomic_compare_exchange_weak(&p->round, &v, to));
    if (!over && last) wake_all(&p->inside);
    else if (!over) wait_for(p, &p->inside, round_over, m->round);
    m->holds = false;
    m->round++;
}

int pool_threads(const pool *p) { return p->threads; }
int pool_nodes(const pool *p) { return p->n_nodes; }
int64_t pool_part(const pool *p, int64_t n, int node) { return n / p->threads * p->first[node] + n % p->threads * p->first[node] / p->threads; }

static int node_of(const pool *p, int worker) {
    int node = 0;
    while (worker >= p->first[node + 1]) node++;
    return node;
}

// False: the job is over already.
static bool enter(pool *p, uint32_t *job) {
    uint64_t v = atomic_load(&p->door);
    do {
        *job = JOB_OF(v);
        if (v & CLOSED) return false;
    } while (!atomic_compare_exchange_weak(&p->door, &v, v + 1));
    return true;
}

static void *worker_main(void *arg) {
    struct start s = *(struct start *)arg;
    mem_free(arg);
    pool *p = s.p;
    int node = node_of(p, s.worker);
    if (p->n_nodes > 1) nodes_bind(p->nodes, node, NULL);
    for (uint32_t job = 0;;) {
        wait_for(p, &p->jobs, job_opened, job);
        if (atomic_load(&p->stop)) return NULL;
        if (!enter(p, &job)) continue;
        p->fn(p->ctx, s.worker, &(pool_member){.pool = p, .node = node});
        atomic_fetch_add(&p->left, 1);
        wake_all(&p->inside);
    }
}

static void run(pool *p, pool_fn fn, void *ctx, bool each) {
    p->fn = fn;
    p->ctx = ctx;
    atomic_store(&p->round, 0);
    if (p->n_nodes > 1) {
        for (int i = 0; i < p->n_nodes; i++) atomic_store(&p->taken[i].items, 0); // rounds are counted anew
        nodes_bind(p->nodes, node_of(p, 0), p->was);
    }
    if (p->threads > 1) {
        atomic_store(&p->left, 0);
        atomic_store(&p->door, (uint64_t)(JOB_OF(atomic_load(&p->door)) + 1) << 32);
        wake_all(&p->jobs);
    }
    fn(ctx, 0, &(pool_member){.pool = p, .node = node_of(p, 0)});
    if (p->n_nodes > 1) nodes_unbind(p->nodes, p->was);
    if (p->threads == 1) return;
    if (each) wait_for(p, &p->inside, all_left, (uint32_t)p->threads - 1);
    uint32_t entered = ENTERED_OF(atomic_fetch_or(&p->door, CLOSED));
    wait_for(p, &p->inside, all_left, entered);
}

void pool_run(pool *p, pool_fn fn, void *ctx) { run(p, fn, ctx, false); }
void pool_run_each(pool *p, pool_fn fn, void *ctx) { run(p, fn, ctx, true); }

struct range_job {
    size_t n, step;
    pool_range_fn fn;
    void *ctx;
};

static void range_worker(void *ctx, int worker, pool_member *m) {
    struct range_job *j = ctx;
    for (size_t begin; (begin = pool_next(m, j->step)) < j->n;) {
        size_t end = j->n - begin < j->step ? j->n : begin + j->step;
        j->fn(j->ctx, begin, end, worker);
    }
}

void pool_for(pool *p, size_t n, size_t step, pool_range_fn fn, void *ctx) {
    struct range_job job = {n, step ? step : 1, fn, ctx};
    if (n) pool_run(p, range_worker, &job);
}

static void bed_create(bed *b) {
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->wake, NULL);
}

static void bed_destroy(bed *b) {
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->wake);
}

// Worker w is where processor (2 w + 1) / (2 threads) of all is. False: no memory.
static bool spread(pool *p, int threads, const nodes *ns) {
    p->n_nodes = 1;
    p->first[1] = threads;
    int64_t all = 0, upto = 0;
    int first[NODES_MOST + 1] = {0}, most = 0;
    for (int i = 0; ns && i < ns->n; i++) all += ns->processors[i];
    for (int i = 0; ns && i < ns->n; i++) {
        int w = first[i];
        upto += ns->processors[i];
        while (w < threads && (2 * (int64_t)w + 1) * all < 2 * upto * threads) w++;
        first[i + 1] = w;
        if (w - first[i] > most) most = w - first[i];
    }
    if (!ns || ns->n < 2 || most == threads) return true;
    p->taken = mem_aligned(64, (size_t)ns->n * sizeof *p->taken);
    if (!p->taken) return false;
    p->nodes = ns;
    p->n_nodes = ns->n;
    memcpy(p->first, first, sizeof first);
    p->was = nodes_keep(ns);
    return !ns->map || p->was;
}

status pool_create(int threads, const nodes *ns, pool **out, error *err) {
    *out = NULL;
    if (threads < 1 || threads > 1024) return error_set(err, E_USAGE, "threads must be between 1 and 1024, not %d", threads);
    pool *p = mem_aligned(64, sizeof *p);
    if (!p) return error_set(err, E_NOMEM, "no memory for the thread pool");
    *p = (pool){.threads = 1, .door = CLOSED};
    bed_create(&p->jobs);
    bed_create(&p->inside);
    p->ids = mem_calloc((size_t)threads, sizeof *p->ids);
    if (!p->ids || !spread(p, threads, ns)) {
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
    atomic_fetch_add(&p->door, (uint64_t)1 << 32);
    wake_all(&p->jobs);
    for (int i = 1; i < p->threads; i++) pthread_join(p->ids[i], NULL);
    bed_destroy(&p->jobs);
    bed_destroy(&p->inside);
    if (p->was) nodes_drop(p->was);
    mem_free(p->taken);
    mem_free(p->ids);
    mem_free(p);
}

int pool_default_threads(void) {
    int n = os_processors();
    double held = ceil(os_process_limits().processors);
    if (held > 0 && held < n) n = (int)held;
    return n > 1024 ? 1024 : n;
}
