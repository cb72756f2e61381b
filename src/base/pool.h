// base/pool: the compute pool. The thread that runs a step is worker 0; `threads - 1` others help.
//
// pool_run calls fn(ctx, worker, pool) on every worker at once and returns when all are done. Inside, workers take work in chunks
// from a shared counter (pool_next), so that one worker which the system has preempted stalls nobody but for its last chunk.
// Workers spin briefly between jobs and then sleep: an idle pool uses no processor time.
// Only one thread may call pool_run at a time.
#pragma once
#include <stddef.h>

#include "base/status.h"

typedef struct pool pool;
typedef void (*pool_fn)(void *ctx, int worker, pool *p);

status pool_create(int threads, pool **out, error *err); // threads >= 1
void   pool_destroy(pool *p);
int    pool_threads(const pool *p);
void   pool_run(pool *p, pool_fn fn, void *ctx);
// Inside pool_run: the start of the next chunk of `step` items; the caller stops once it is >= its total.
size_t pool_next(pool *p, size_t step);
// Inside pool_run: all workers meet here; the shared counter starts again at 0.
void   pool_barrier(pool *p);

// Convenience: fn(ctx, begin, end, worker) over [0, n) in chunks of `step`.
typedef void (*pool_range_fn)(void *ctx, size_t begin, size_t end, int worker);
void pool_for(pool *p, size_t n, size_t step, pool_range_fn fn, void *ctx);
// What this process may use: processors of its affinity mask, held down by a cgroup limit (v1 or v2); at least 1.
int  pool_default_threads(void);
