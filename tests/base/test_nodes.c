// Memory nodes: how workers are spread over made-up ones and take their items, and what is bound on a machine that hwloc is told of.
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/nodes.h"
#include "base/pool.h"

static pool *make(int threads, const nodes *ns) {
    pool *p;
    assert_int_equal(pool_create(threads, ns, &p, NULL), OK);
    return p;
}

static void workers_in_proportion(void **state) {
    (void)state;
    static const struct {
        nodes ns;
        int threads, parts[4]; // of 1,200 things; that of the last node and what comes after it is 1,200
    } cases[] = {
        {{.n = 2, .processors = {3, 1}}, 4, {0, 900, 1200}},
        {{.n = 2, .processors = {8, 8}}, 2, {0, 600, 1200}},
        {{.n = 2, .processors = {1, 1}}, 5, {0, 480, 1200}},
        {{.n = 3, .processors = {2, 2, 2}}, 6, {0, 400, 800, 1200}},
        {{.n = 3, .processors = {1, 1, 1}}, 2, {0, 600, 600, 1200}}, // more nodes than workers: none in the middle
        {{.n = 3, .processors = {1, 4, 1}}, 4, {0, 300, 900, 1200}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pool *p = make(cases[i].threads, &cases[i].ns);
        assert_int_equal(pool_nodes(p), cases[i].ns.n);
        for (int node = 0; node <= cases[i].ns.n; node++) assert_int_equal(pool_part(p, 1200, node), cases[i].parts[node]);
        pool_destroy(p);
    }
    pool *p = make(3, NULL);
    assert_int_equal(pool_nodes(p), 1);
    assert_int_equal(pool_part(p, 7, 1), 7);
    pool_destroy(p);
    p = make(1, &cases[1].ns); // all workers on one node
    assert_int_equal(pool_nodes(p), 1);
    pool_destroy(p);
    p = make(3, &(nodes){.n = 2, .processors = {1, 100}});
    assert_int_equal(pool_nodes(p), 1);
    pool_destroy(p);
    for (int nth = 1; nth <= 3; nth++) {
        mem_fail_at(nth);
        assert_int_equal(pool_create(2, &cases[1].ns, &p, NULL), E_NOMEM);
        mem_fail_at(0);
    }
}

enum { ITEMS = 240, ROUNDS = 60 };

// Rounds whose items lie differently on the nodes, some on none, with rounds of the plain counter between them.
static void ends_of(int round, int n, size_t *ends) {
    for (int i = 0; i < n; i++) ends[i] = round % 4 == 0 ? ITEMS : round % 4 == 1 ? (i == n - 1 ? ITEMS : 0) : (size_t)(ITEMS * (i + 1) / n - (i < n - 1 ? round : 0));
}

typedef struct pick_job {
    _Atomic int times[ROUNDS][ITEMS];
    atomic_int foreign; // rounds of a worker in which an item of its own node came after one of another's, or items did not ascend
} pick_job;

static void pick_all(void *ctx, int worker, pool_member *m) {
    (void)worker;
    pick_job *j = ctx;
    int n = pool_nodes(m->pool);
    for (int round = 0; round < ROUNDS; round++) {
        size_t ends[NODES_MOST], last = 0, item;
        int last_away = 0;
        ends_of(round, n, ends);
        while ((item = round % 5 == 4 ? pool_next(m, 1) : pool_pick(m, ends)) < ITEMS) {
            atomic_fetch_add(&j->times[round][item], 1);
            int node = 0;
            while (item >= ends[node]) node++;
            int away = (node - m->node + n) % n;
            if (round % 5 != 4 && (away < last_away || (away == last_away && last && item < last))) atomic_fetch_add(&j->foreign, 1);
            last = item;
            last_away = away;
        }
        pool_barrier(m);
    }
}

static void every_item_once(void **state) {
    (void)state;
    static const nodes made[] = {{.n = 2, .processors = {1, 1}}, {.n = 2, .processors = {5, 2}}, {.n = 3, .processors = {1, 1, 1}}, {.n = 3, .processors = {1, 4, 2}}};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        for (int threads = 1; threads <= 7; threads++) {
            pool *p = make(threads, &made[i]);
            for (int job = 0; job < 3; job++) { // the numbers of rounds come again
                pick_job *j = calloc(1, sizeof *j);
                assert_non_null(j);
                pool_run(p, pick_all, j);
                for (int r = 0; r < ROUNDS; r++)
                    for (int k = 0; k < ITEMS; k++) assert_int_equal(atomic_load(&j->times[r][k]), 1);
                assert_int_equal(atomic_load(&j->foreign), 0);
                free(j);
            }
            pool_destroy(p);
        }
}

static void tell(int fd) { assert_int_equal(write(fd, "x", 1), 1); }
static void hear(int fd) {
    char c;
    assert_int_equal(read(fd, &c, 1), 1);
}

// Worker 1, alone on its node, is held up without work: the other takes its items as well and goes on, and worker 1 then finds each round over.
typedef struct held_up {
    int in[2], go[2], missed;
    size_t taken[40];
} held_up;

static void with_one_held_up(void *ctx, int worker, pool_member *m) {
    held_up *h = ctx;
    static const size_t ends[] = {5, 12};
    if (worker == 1) {
        tell(h->in[1]);
        hear(h->go[0]);
    } else {
        hear(h->in[0]);
    }
    for (int round = 0; round < 40; round++) {
        size_t item;
        while ((item = pool_pick(m, ends)) < 12) h->taken[round]++;
        if (worker == 1) h->missed += item == POOL_NONE;
        pool_barrier(m);
    }
    if (worker == 0) tell(h->go[1]);
}

static void nobody_waits_for_a_node(void **state) {
    (void)state;
    pool *p = make(2, &(nodes){.n = 2, .processors = {1, 1}});
    assert_int_equal(pool_nodes(p), 2);
    held_up h = {.missed = 0};
    assert_int_equal(pipe(h.in), 0);
    assert_int_equal(pipe(h.go), 0);
    pool_run(p, with_one_held_up, &h);
    for (int round = 0; round < 40; round++) assert_int_equal(h.taken[round], 12);
    assert_int_equal(h.missed, 40);
    for (int i = 0; i < 2; i++) close(h.in[i]), close(h.go[i]);
    pool_destroy(p);
}

#if defined(ALTISERVE_HWLOC) && defined(__linux__)
// The machine is looked at once a process, so each made-up one needs its own. `real`: what is bound is bound.
static void on_machine(const char *machine, bool real, void (*check)(void)) {
    pid_t child = fork();
    if (child == 0) {
        setenv("HWLOC_SYNTHETIC", machine, 1);
        if (real) setenv("HWLOC_THISSYSTEM", "1", 1);
        check();
        _exit(0);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    if (!WIFEXITED(how) || WEXITSTATUS(how)) fail_msg("on \"%s\": %d", machine, WIFEXITED(how) ? WEXITSTATUS(how) : -1);
}

static void need(bool ok, int line) {
    if (!ok) _exit(line % 200 + 1);
}
#define NEED(x) need(x, __LINE__)

static void three_nodes(void) {
    const nodes *ns = nodes_find();
    NEED(ns->n == 3 && ns->processors[0] == 2 && ns->processors[2] == 2 && nodes_find() == ns);
    char *at = mem_aligned(4096, 1 << 20);
    NEED(at);
    nodes_place(ns, at + 1, 4096, 1); // no whole page
    nodes_place(ns, at, 1 << 20, 2);
    nodes_place(ns, at, 1 << 20, NODES_ALL);
    mem_free(at);
}

static void one_node(void) {
    const nodes *ns = nodes_find();
    NEED(ns->n == 1 && !ns->map && !nodes_keep(ns));
}

static void where_it_runs(void *ctx, int worker, pool_member *m) {
    (void)m;
    sched_getaffinity(0, sizeof(cpu_set_t), (cpu_set_t *)ctx + worker);
}

static void bound(void) {
    const nodes *ns = nodes_find();
    cpu_set_t in[2], before, after;
    NEED(ns->n == 2 && ns->processors[0] == 1 && ns->processors[1] == 1);
    pool *p;
    NEED(pool_create(2, ns, &p, NULL) == OK && pool_nodes(p) == 2);
    NEED(sched_getaffinity(0, sizeof before, &before) == 0);
    pool_run_each(p, where_it_runs, in);
    for (int i = 0; i < 2; i++) NEED(CPU_COUNT(&in[i]) == 1 && CPU_ISSET(i, &in[i]));
    NEED(sched_getaffinity(0, sizeof after, &after) == 0 && CPU_EQUAL(&before, &after)); // worker 0 is free again
    char *at = mem_aligned(2 << 20, 4 << 20);
    NEED(at);
    for (int i = 0; i < 2; i++) nodes_place(ns, at, 4 << 20, i); // refused where there is no such node
    memset(at, 1, 4 << 20);
    mem_free(at);
    pool_destroy(p);
}

static void held_to_one(void) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(1, &one);
    NEED(sched_setaffinity(0, sizeof one, &one) == 0);
    one_node();
}
#endif

static void a_machine_with_nodes(void **state) {
    (void)state;
#if defined(ALTISERVE_HWLOC) && defined(__linux__)
    on_machine("numa:3 pu:2", false, three_nodes);
    on_machine("numa:1 pu:8", false, one_node);
    on_machine("numa:65 pu:1", false, one_node); // more than there is room for
    cpu_set_t own;
    assert_int_equal(sched_getaffinity(0, sizeof own, &own), 0);
    if (!CPU_ISSET(0, &own) || !CPU_ISSET(1, &own)) return;
    on_machine("numa:2 pu:1", true, bound);
    on_machine("numa:2 pu:1", true, held_to_one);
#else
    assert_int_equal(nodes_find()->n, 1);
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(workers_in_proportion), cmocka_unit_test(every_item_once),
                                       cmocka_unit_test(nobody_waits_for_a_node), cmocka_unit_test(a_machine_with_nodes)};
    return cmocka_run_group_tests_name("nodes", tests, NULL, NULL);
}
