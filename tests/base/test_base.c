// base: errors, arenas, strings, UTF-8 and the compute pool.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/pool.h"
#include "base/status.h"
#include "base/utf8.h"

static void test_error_prefix(void **state) {
    (void)state;
    error e = {0};
    assert_int_equal(error_set(&e, E_INVALID, "bad %d", 7), E_INVALID);
    error_prefix(&e, "file %s", "x.gguf");
    assert_string_equal(e.text, "file x.gguf: bad 7");
    char long_text[600];
    memset(long_text, 'a', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    error_prefix(&e, "%s", long_text);
    assert_true(strlen(e.text) < sizeof e.text);
}

static void test_arena_limit(void **state) {
    (void)state;
    arena a;
    arena_init(&a, 1000);
    char *p = arena_alloc(&a, 500);
    assert_non_null(p);
    memset(p, 1, 500);
    assert_null(arena_alloc(&a, 600));
    assert_null(arena_calloc(&a, SIZE_MAX / 2, 4));
    assert_non_null(arena_alloc(&a, 100));
    arena_free(&a);
    mem_fail_at(1);
    assert_null(arena_alloc(&a, 10));
    mem_fail_at(0);
}

static void test_strbuf(void **state) {
    (void)state;
    strbuf s = {0};
    for (int i = 0; i < 1000; i++) strbuf_addf(&s, "%d,", i);
    assert_false(s.failed);
    assert_int_equal(s.len, 3890);
    mem_fail_at(1);
    char big[10000] = {0};
    assert_false(strbuf_add(&s, big, sizeof big));
    mem_fail_at(0);
    assert_false(strbuf_addc(&s, 'x'));
    assert_null(strbuf_take(&s));
}

static void test_utf8(void **state) {
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp >= 0xD800 && cp < 0xE000) continue;
        char b[4];
        uint32_t back;
        size_t n = utf8_encode(cp, b);
        assert_int_equal(utf8_decode(b, n, &back), n);
        assert_int_equal(back, cp);
        for (size_t cut = 1; cut < n; cut++) assert_int_equal(utf8_complete_prefix(b, cut), 0);
        assert_int_equal(utf8_complete_prefix(b, n), n);
    }
    const char *bad[] = {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF", "\xE2\x28", "\x80", "\xF5\x80\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(utf8_valid(bad[i], strlen(bad[i])));
        assert_int_equal(utf8_complete_prefix(bad[i], strlen(bad[i])), strlen(bad[i])); // nothing will complete it
    }
}

struct sum {
    _Atomic size_t total;
};
static void add_range(void *ctx, size_t begin, size_t end, int worker) {
    (void)worker;
    size_t t = 0;
    for (size_t i = begin; i < end; i++) t += i;
    ((struct sum *)ctx)->total += t;
}
static void with_barriers(void *ctx, int worker, pool_member *p) {
    (void)worker;
    for (int round = 0; round < 50; round++) {
        for (size_t i; (i = pool_next(p, 3)) < 100;) add_range(ctx, i, i + 3 > 100 ? 100 : i + 3, 0);
        pool_barrier(p);
    }
}

// Worker 1 is held up where it has no work in hand: the others finish the job's rounds, and it then finds each of them over.
struct late {
    struct sum done;
    int in[2], go[2]; // pipes
    int missed;
};
static void tell(int fd) { assert_int_equal(write(fd, "x", 1), 1); }
static void hear(int fd) {
    char c;
    assert_int_equal(read(fd, &c, 1), 1);
}

static void with_a_late_one(void *ctx, int worker, pool_member *m) {
    struct late *l = ctx;
    if (worker == 1) {
        tell(l->in[1]);
        hear(l->go[0]);
    } else if (worker == 0) {
        hear(l->in[0]);
    }
    for (int round = 0; round < 40; round++) {
        size_t i = pool_next(m, 9);
        if (worker == 1) l->missed += i == POOL_NONE;
        for (; i < 100; i = pool_next(m, 9)) add_range(&l->done, i, i + 9 > 100 ? 100 : i + 9, 0);
        pool_barrier(m);
    }
    if (worker == 0) tell(l->go[1]);
}

static void a_worker_without_work_is_not_waited_for(void **state) {
    (void)state;
    for (int threads = 2; threads <= 4; threads++) {
        pool *p;
        struct late l = {.missed = 0};
        assert_int_equal(pool_create(threads, NULL, &p, NULL), OK);
        assert_int_equal(pipe(l.in), 0);
        assert_int_equal(pipe(l.go), 0);
        pool_run(p, with_a_late_one, &l);
        assert_int_equal(l.done.total, 40 * 4950);
        assert_int_equal(l.missed, 40);
        for (int i = 0; i < 2; i++) close(l.in[i]), close(l.go[i]);
        pool_destroy(p);
    }
}

static void count_me(void *ctx, int worker, pool_member *m) {
    (void)m;
    ((int *)ctx)[worker]++;
}

static void each_worker_runs_once(void **state) {
    (void)state;
    for (int threads = 1; threads <= 5; threads++) {
        pool *p;
        int calls[5] = {0};
        assert_int_equal(pool_create(threads, NULL, &p, NULL), OK);
        for (int round = 1; round <= 100; round++) {
            pool_run_each(p, count_me, calls);
            for (int i = 0; i < threads; i++) assert_int_equal(calls[i], round);
        }
        pool_destroy(p);
    }
}

static void test_pool(void **state) {
    (void)state;
    for (int threads = 1; threads <= 5; threads++) {
        pool *p;
        assert_int_equal(pool_create(threads, NULL, &p, NULL), OK);
        for (int round = 0; round < 200; round++) {
            struct sum s = {0};
            pool_for(p, 1000, 7, add_range, &s);
            assert_int_equal(s.total, 499500);
        }
        struct sum s = {0};
        pool_run(p, with_barriers, &s);
        assert_int_equal(s.total, 50 * 4950);
        pool_destroy(p);
    }
    error e;
    pool *none;
    assert_int_equal(pool_create(0, NULL, &none, &e), E_USAGE);
    assert_true(pool_default_threads() >= 1);
}

static void put_file(const char *dir, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

// A made-up hierarchy of control groups: the tightest of a group and those above it holds.
static void test_limits(void **state) {
    (void)state;
#if defined(__linux__)
    char root[] = "/tmp/altiserve-cgroup-XXXXXX", self[64], dir[4][128];
    assert_non_null(mkdtemp(root));
    snprintf(self, sizeof self, "%s/self", root);
    const char *names[] = {"a", "a/b", "cpu", "cpu/x"};
    for (int i = 0; i < 4; i++) {
        snprintf(dir[i], sizeof dir[i], "%s/%s", root, names[i]);
        assert_int_equal(mkdir(dir[i], 0700), 0);
    }
    os_limits l = os_cgroup_limits(self, root); // no such file, no limits
    assert_true(l.processors == 0 && l.memory == 0);
    put_file(root, "self", "0::/a/b\n");
    put_file(dir[1], "cpu.max", "max 100000\n");
    put_file(dir[1], "memory.max", "3000000000\n");
    l = os_cgroup_limits(self, root);
    assert_true(l.processors == 0 && l.memory == 3000000000u);
    put_file(dir[0], "cpu.max", "150000 100000\n");
    put_file(dir[0], "memory.max", "2000000000\n");
    l = os_cgroup_limits(self, root);
    assert_true(l.processors == 1.5 && l.memory == 2000000000u);
    put_file(root, "cpu.max", "50000 100000\n");
    assert_true(os_cgroup_limits(self, root).processors == 0.5);
    put_file(root, "self", "0::/not/seen/here\n"); // the root still holds
    assert_true(os_cgroup_limits(self, root).processors == 0.5);
    put_file(root, "self", "0::/../..\n");
    assert_true(os_cgroup_limits(self, root).processors == 0.5);
    put_file(root, "self", "0::/\n");
    assert_true(os_cgroup_limits(self, root).processors == 0.5);
    put_file(root, "self", "4:memory:/none\n3:cpu,cpuacct:/x\nnonsense\n"); // version 1
    put_file(dir[3], "cpu.cfs_quota_us", "-1\n");
    put_file(dir[3], "cpu.cfs_period_us", "100000\n");
    assert_true(os_cgroup_limits(self, root).processors == 0);
    put_file(dir[3], "cpu.cfs_quota_us", "250000\n");
    assert_true(os_cgroup_limits(self, root).processors == 2.5);
    const char *files[] = {"a/b/cpu.max", "a/b/memory.max", "a/cpu.max", "a/memory.max", "cpu.max", "self", "cpu/x/cpu.cfs_quota_us", "cpu/x/cpu.cfs_period_us"};
    char path[512];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", root, files[i]);
        assert_int_equal(unlink(path), 0);
    }
    for (int i = 3; i >= 0; i--) rmdir(dir[i]);
    assert_int_equal(rmdir(root), 0);
#endif
    assert_true(os_processors() >= 1 && os_memory() > 1 << 20);
    uint64_t a[4] = {0}, b[4] = {0};
    assert_true(os_random(a, sizeof a) && os_random(b, sizeof b) && memcmp(a, b, sizeof a));
}

static void test_conditions(void **state) {
    (void)state;
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t never;
    assert_int_equal(os_cond_init(&never), 0);
    pthread_mutex_lock(&lock);
    assert_int_equal(os_cond_wait_for(&never, &lock, 0), ETIMEDOUT);
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    assert_int_equal(os_cond_wait_for(&never, &lock, 1001), ETIMEDOUT); // past a second: the carry
    clock_gettime(CLOCK_MONOTONIC, &after);
    assert_true((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 >= 1000);
    pthread_mutex_unlock(&lock);
    pthread_cond_destroy(&never);
}

static void test_table(void **state) {
    (void)state;
    static const size_t counts[] = {0, 3, (2 << 20) / 16, (2 << 20) / 16 + 1, (5 << 20) / 16};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        unsigned char *p = mem_table(counts[i], 16);
        assert_non_null(p);
        for (size_t k = 0; k < counts[i] * 16; k++) assert_int_equal(p[k], 0);
        memset(p, 0xff, counts[i] * 16);
        mem_free(p);
        mem_fail_at(1);
        assert_null(mem_table(counts[i], 16));
        mem_fail_at(0);
    }
    assert_null(mem_table(SIZE_MAX / 2, 16));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_error_prefix), cmocka_unit_test(test_arena_limit),
                                       cmocka_unit_test(test_strbuf), cmocka_unit_test(test_utf8), cmocka_unit_test(test_pool),
                                       cmocka_unit_test(a_worker_without_work_is_not_waited_for), cmocka_unit_test(each_worker_runs_once),
                                       cmocka_unit_test(test_limits), cmocka_unit_test(test_conditions)};
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
