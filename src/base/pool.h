// base/pool: the compute pool. The thread that runs a job is worker 0; `threads - 1` others help.
//
// pool_run calls fn(ctx, worker, member) on worker 0 and on every other that comes before the job is over. Inside, work is taken in chunks from a shared
// counter (pool_next), in rounds that end at a barrier. A round is over when every chunk that was taken is done: it waits for nobody who took nothing.
// So a worker that the system has preempted, or not yet woken, delays others by what it took at most, and not at all if it holds nothing; it
// walks through the rounds it missed and joins again. What such a worker reads before its first pool_next of a round may be written at the same time by
// those who are ahead: only what stays as it is for the whole job may be read there.
// Workers spin briefly and then sleep, for jobs as for barriers: an idle pool uses no processor time, and a thread that waits leaves its processor to
// those who can run.
// Where memory has nodes, workers are spread over them in proportion to their processors and bound to their node (not to one processor of it: a worker whose
// processor is taken goes to another); worker 0, who may be any thread, while it is in a job. Work on what lies on nodes is taken by pool_pick: from the worker's
// own node first, then from the others, so nobody idles while something is left.
// Only one thread may call pool_run at a time.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/nodes.h"
#include "base/status.h"

typedef struct pool pool;
typedef struct pool_member { // a worker within a job
    pool    *pool;
    uint32_t round;
    int      node;  // the worker's
    bool     holds; // it took work in this round
} pool_member;
typedef void (*pool_fn)(void *ctx, int worker, pool_member *m);

status pool_create(int threads, const nodes *, pool **out, error *err); // threads >= 1; the nodes outlive the pool; NULL: memory counts as one
void   pool_destroy(pool *p);
int    pool_threads(const pool *p);
int    pool_nodes(const pool *p); // 1 where one node has all workers
// Where node `node`'s part of n things begins, when they are dealt out in order and in proportion to workers; that of pool_nodes: n.
int64_t pool_part(const pool *p, int64_t n, int node);
void   pool_run(pool *p, pool_fn fn, void *ctx);
// As pool_run, but every worker calls fn, once; for what has a share for each worker.
void   pool_run_each(pool *p, pool_fn fn, void *ctx);
// Inside a job: the start of the next chunk of `step` items; the caller stops once it is >= its total (below 2^33), and then goes to the barrier.
// POOL_NONE where the round is over already. Step 0 takes nothing but keeps the round from ending until the caller's barrier.
#define POOL_NONE ((size_t)INT64_MAX)
size_t pool_next(pool_member *m, size_t step);
// Inside a job: one of the items [0, ends[last node]), of which node i's are those before ends[i] and not before ends[i - 1]; a worker's items of one node
// ascend. Not before ends[last node]: nothing is left. A round takes either by this or by pool_next.
size_t pool_pick(pool_member *m, const size_t *ends);
// Inside a job: until all that was taken in this round is done; the shared counter starts again at 0. Every worker comes to the same barriers, after pool_next
// told it that nothing is left.
void   pool_barrier(pool_member *m);

// Convenience: fn(ctx, begin, end, worker) over [0, n) in chunks of `step`.
typedef void (*pool_range_fn)(void *ctx, size_t begin, size_t end, int worker);
void pool_for(pool *p, size_t n, size_t step, pool_range_fn fn, void *ctx);
// What this process may use: processors of its affinity mask, held down by a cgroup limit (v1 or v2); at least 1.
int  pool_default_threads(void);
