// cpu/limits: what this machine can do at most with the device's workers: bytes read in order, and operations of the tier's units from registers.
// Both are the best of several passes, since a shared machine only ever takes away.
//
// Threads: called by the device's thread; probes run on all workers at once.
#include <string.h>
#include <time.h>

#include "base/os.h"
#include "cpu/cpu_internal.h"

enum { PASSES = 8, STRIDE = 64, AHEAD = 8192 };
static const size_t MOST_BYTES = (size_t)512 << 20;
static const double PROBE_SECONDS = 0.01;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct read_job {
    uint8_t *at;
    size_t slice;           // of a worker: it wrote it first, so where memory has nodes it is the worker's own
    atomic_uint_fast64_t sum; // what was read must go somewhere
} read_job;

static void write_slice(void *ctx, int worker, pool_member *m) {
    (void)m;
    read_job *j = ctx;
    memset(j->at + (size_t)worker * j->slice, worker + 1, j->slice);
}

static void read_slice(void *ctx, int worker, pool_member *m) {
    (void)m;
    read_job *j = ctx;
    const uint8_t *p = j->at + (size_t)worker * j->slice, *end = p + j->slice;
    uint64_t s[8] = {0};
    for (; p < end; p += STRIDE) {
        uint64_t v[8];
        memcpy(v, p, sizeof v);
        __builtin_prefetch(p + AHEAD, 0, 2);
        for (int i = 0; i < 8; i++) s[i] ^= v[i];
    }
    atomic_fetch_add(&j->sum, s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7]);
}

static status measure_reads(pool *team, double *bytes_s, error *err) {
    uint64_t all = os_memory(), held = os_process_limits().memory;
    if (held && held < all) all = held;
    size_t threads = (size_t)pool_threads(team), bytes = all / 8 < MOST_BYTES ? (size_t)(all / 8) : MOST_BYTES;
    read_job j = {.slice = bytes / threads & ~(size_t)(STRIDE - 1)};
    j.at = cpu_big_alloc(j.slice * threads + AHEAD);
    if (!j.at || !j.slice) {
        mem_free(j.at);
        return error_set(err, E_NOMEM, "no memory to measure how fast memory is read (%zu bytes)", bytes);
    }
    pool_run_each(team, write_slice, &j);
    double best = 0;
    for (int i = 0; i < PASSES; i++) {
        double t = now();
        pool_run_each(team, read_slice, &j);
        t = now() - t;
        best = t < best || i == 0 ? t : best;
    }
    *bytes_s = (double)(j.slice * threads) / best;
    mem_free(j.at);
    return OK;
}

typedef struct probe_job { const cpu_probe *probe; int64_t rounds; } probe_job;

static void run_probe(void *ctx, int worker, pool_member *m) {
    (void)worker;
    (void)m;
    const probe_job *j = ctx;
    j->probe->run(j->rounds);
}

static double measure_unit(pool *team, const cpu_probe *probe) {
    probe_job j = {probe, 1024};
    double t, best = 0;
    for (;; j.rounds *= 2) { // also wakes the unit up
        t = now();
        pool_run_each(team, run_probe, &j);
        t = now() - t;
        if (t >= PROBE_SECONDS) break;
    }
    for (int i = 0; i < PASSES; i++) {
        t = now();
        pool_run_each(team, run_probe, &j);
        t = now() - t;
        best = t < best || i == 0 ? t : best;
    }
    return probe->ops * (double)j.rounds * pool_threads(team) / best;
}

status cpu_measure(device *dev, dev_limits *out, error *err) {
    cpu_device *d = cpu_dev(dev);
    memset(out, 0, sizeof *out);
    status st = measure_reads(d->pool, &out->read_bytes_s, err);
    if (st) return st;
    const cpu_probe *probes[DEV_MAX_UNITS];
    out->n_units = cpu_choose_probes(d->kernels.isa, probes);
    for (int i = 0; i < out->n_units; i++) {
        memcpy(out->units[i].name, probes[i]->unit, strlen(probes[i]->unit) + 1);
        out->units[i].ops_s = measure_unit(d->pool, probes[i]);
    }
    return OK;
}
