// The disk and host tiers by themselves: what comes back, bounds, order of eviction, rates, who waits for the file system, remains of a killed writer,
// files of others. What must not wait is ended by an alarm when it does.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kv/kv.h"

static char dir[200];
enum { BYTES = 5000 };

static void remove_all(const char *path) {
    char sub[500];
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(sub, sizeof sub, "%.200s/%.255s", path, e->d_name);
        if (unlink(sub)) remove_all(sub);
    }
    if (d) closedir(d);
    rmdir(path);
}

static int setup(void **state) {
    (void)state;
    alarm(120);
    remove_all(dir);
    return 0;
}

// Page `index` of chain `chain`: any distinct names do.
static kv_record page(int chain, uint32_t index) {
    kv_record r = {.index = index, .group = (int32_t)(index % 2), .bytes = BYTES};
    memset(r.id, chain, sizeof r.id);
    memset(r.parent, chain, sizeof r.parent);
    memcpy(r.id + 1, &index, sizeof index);
    uint32_t before = index - 1;
    memcpy(r.parent + 1, &before, sizeof before);
    for (int i = 0; i < KV_PAGE; i++) r.tokens[i] = chain * 1000 + (int32_t)index * 32 + i;
    return r;
}

static void content_of(const kv_record *r, uint8_t *out) {
    for (size_t i = 0; i < r->bytes; i++) out[i] = (uint8_t)(r->id[0] * 7 + r->index * 13 + i * 3);
}

static kv_disk *open_with(uint64_t bytes, uint64_t rate) {
    kv_disk *d;
    error err = {0};
    if (kv_disk_open(&(kv_disk_options){.dir = dir, .bytes = bytes, .rate = rate}, &d, &err) != OK) fail_msg("%s", err.text);
    return d;
}

static kv_put put(kv_disk *d, kv_record r) {
    void *content;
    kv_put how = kv_disk_begin(d, &r, &content);
    if (how != KV_PUT_FILL) return how;
    content_of(&r, content);
    kv_disk_end(d, content);
    return how;
}

// Whether the page is read back; what is read must be right.
static bool get(kv_disk *d, kv_record r) {
    kv_fetch *f;
    void *content;
    status s;
    assert_int_equal(kv_fetch_begin(d, &r, 1, NULL, NULL, &f, NULL), OK);
    while ((s = kv_fetch_next(f, &content)) == E_BUSY) usleep(100);
    if (s == OK) {
        uint8_t want[BYTES];
        content_of(&r, want);
        assert_memory_equal(content, want, BYTES);
        mem_free(content);
    }
    kv_fetch_free(f);
    return s == OK;
}

static void what_was_put_comes_back(void **state) {
    (void)state;
    kv_disk *d = open_with(0, 0);
    for (uint32_t i = 0; i < 20; i++) assert_int_equal(put(d, page(1, i)), KV_PUT_FILL);
    assert_int_equal(put(d, page(1, 3)), KV_PUT_THERE);
    kv_disk_flush(d);
    for (uint32_t i = 0; i < 20; i++) assert_true(get(d, page(1, i)));
    assert_false(get(d, page(2, 0)));
    kv_record other = page(1, 4);
    other.tokens[5]++;
    assert_false(get(d, other)); // the same name, other tokens: a miss (and the file goes)
    kv_disk_close(d);
    d = open_with(0, 0);
    for (uint32_t i = 0; i < 20; i++) {
        kv_record r = page(1, i);
        assert_int_equal(kv_disk_has(d, &r), i != 4);
        assert_int_equal(get(d, r), i != 4);
    }
    kv_disk_close(d);
}

static void leaves_go_first_and_bytes_are_bounded(void **state) {
    (void)state;
    kv_disk *d = open_with(10 * 8192, 0);
    for (uint32_t i = 0; i < 6; i++) put(d, page(1, i));
    for (uint32_t i = 0; i < 4; i++) put(d, page(2, i));
    kv_disk_flush(d);
    assert_true(get(d, page(1, 5))); // used: chain 2 goes before it
    for (uint32_t i = 0; i < 5; i++) put(d, page(3, i));
    kv_disk_flush(d);
    kv_disk_stats st;
    kv_disk_get_stats(d, &st);
    assert_true(st.bytes <= 10 * 8192);
    assert_int_equal(st.evicted, 5);
    for (int chain = 1; chain <= 3; chain++)
        for (uint32_t i = 1; i < 6; i++) { // nothing outlives its parent
            kv_record r = page(chain, i), up = page(chain, i - 1);
            assert_true(!kv_disk_has(d, &r) || kv_disk_has(d, &up));
        }
    kv_record last = page(3, 4);
    assert_true(kv_disk_has(d, &last));
    kv_disk_close(d);
    d = open_with(3 * 8192, 0); // a smaller bound at the next start
    kv_disk_get_stats(d, &st);
    assert_true(st.bytes <= 3 * 8192 && st.files == 3);
    kv_disk_close(d);
}

static atomic_llong clock_ms; // the disk's clock where a test gives it one
static int64_t read_clock(void) { return atomic_load(&clock_ms); }

static kv_disk *open_at_clock(uint64_t rate) {
    kv_disk *d;
    error err = {0};
    if (kv_disk_open(&(kv_disk_options){.dir = dir, .rate = rate, .now_ms = read_clock}, &d, &err) != OK) fail_msg("%s", err.text);
    return d;
}

// Pages of a second's rate at once and no more, then as time goes by; what the caller gave up on is counted.
static void the_rate_is_kept(void **state) {
    (void)state;
    atomic_store(&clock_ms, 1000000);
    kv_disk *d = open_at_clock(3 * BYTES);
    for (uint32_t i = 0; i < 3; i++) assert_int_equal(put(d, page(1, i)), KV_PUT_FILL);
    assert_int_equal(put(d, page(1, 3)), KV_PUT_LATER);
    atomic_fetch_add(&clock_ms, 333); // not yet a page's worth, but more than nothing: one page, on credit
    assert_int_equal(put(d, page(1, 3)), KV_PUT_FILL);
    assert_int_equal(put(d, page(1, 4)), KV_PUT_LATER);
    atomic_fetch_add(&clock_ms, 60000); // a second's worth is all that is saved up
    for (uint32_t i = 4; i < 7; i++) assert_int_equal(put(d, page(1, i)), KV_PUT_FILL);
    assert_int_equal(put(d, page(1, 7)), KV_PUT_LATER);
    kv_disk_dropped(d, 5);
    kv_disk_flush(d);
    kv_disk_stats st;
    kv_disk_get_stats(d, &st);
    assert_int_equal(st.dropped, 5);
    assert_int_equal(st.written, 7);
    kv_disk_close(d);
}

// What a page waited for its file is told, by the disk's own clock.
static void delays_are_measured(void **state) {
    (void)state;
    atomic_store(&clock_ms, 5);
    kv_disk *d = open_at_clock(0);
    kv_disk_stats st;
    void *content;
    kv_record p = page(2, 0), q = page(2, 1);
    assert_int_equal(kv_disk_begin(d, &p, &content), KV_PUT_FILL);
    content_of(&p, content);
    atomic_fetch_add(&clock_ms, 740);
    kv_disk_end(d, content);
    kv_disk_flush(d);
    kv_disk_get_stats(d, &st);
    assert_int_equal(st.slowest_ms, 740);
    assert_int_equal(put(d, q), KV_PUT_FILL);
    kv_disk_flush(d);
    kv_disk_get_stats(d, &st);
    assert_int_equal(st.slowest_ms, 740);
    assert_int_equal(st.written, 2);
    kv_disk_close(d);
}

// Where a page's file is.
static void path_of(const kv_record *r, char out[400]) {
    int n = snprintf(out, 400, "%s/%02x/", dir, r->id[0]);
    for (int i = 0; i < 32; i++) n += snprintf(out + n, 400 - (size_t)n, "%02x", r->id[i]);
    snprintf(out + n, 400 - (size_t)n, ".%d", r->group);
}

// kv_disk's calls of unlink come here.
static void (*before_unlink)(const char *path);
int unlink(const char *path) {
    if (before_unlink) before_unlink(path);
    return unlinkat(AT_FDCWD, path, 0);
}

static kv_disk *evicting;
static kv_record victim;
static int evictions;
static bool had;
static kv_put how_again;

// The page whose file is about to go is wanted again.
static void put_again(const char *path) {
    char gone[400];
    path_of(&victim, gone);
    if (strcmp(path, gone)) return;
    if (evictions++) return;
    had = kv_disk_has(evicting, &victim);
    how_again = put(evicting, victim);
}

// While a file is being removed to make room the tier answers others, and a page that is put meanwhile keeps the file that it gets.
static void who_asks_waits_for_no_eviction(void **state) {
    (void)state;
    evicting = open_with(2 * 8192, 0);
    victim = page(1, 0);
    evictions = 0;
    assert_int_equal(put(evicting, victim), KV_PUT_FILL);
    assert_int_equal(put(evicting, page(2, 0)), KV_PUT_FILL);
    kv_disk_flush(evicting);
    before_unlink = put_again;
    assert_int_equal(put(evicting, page(3, 0)), KV_PUT_FILL);
    kv_disk_flush(evicting);
    before_unlink = NULL;
    assert_int_equal(evictions, 1);
    assert_false(had);
    assert_int_equal(how_again, KV_PUT_FILL);
    assert_true(kv_disk_has(evicting, &victim));
    assert_true(get(evicting, victim));
    kv_disk_close(evicting);
}

// kv_disk's calls of open come here.
static void (*after_open)(const char *path);
int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int fd = openat(AT_FDCWD, path, flags, flags & O_CREAT ? va_arg(more, mode_t) : 0), why = errno;
    va_end(more);
    if (after_open) after_open(path);
    errno = why;
    return fd;
}

static atomic_int reopened;

// Between the reader's look at the file and what it makes of it, the page is evicted and put again.
static void replace(const char *path) {
    char file[400];
    path_of(&victim, file);
    if (strcmp(path, file) || atomic_fetch_add(&reopened, 1)) return;
    for (int chain = 2; chain < 4; chain++) assert_int_equal(put(evicting, page(chain, 0)), KV_PUT_FILL);
    kv_disk_flush(evicting);
    assert_false(kv_disk_has(evicting, &victim));
    assert_int_equal(put(evicting, victim), KV_PUT_FILL);
    kv_disk_flush(evicting);
}

// A file that was gone, or damaged, and is there again by the time that the reader says so, stays.
static void what_was_put_again_stays(void **state) {
    (void)state;
    for (int damaged = 0; damaged < 2; damaged++) {
        char file[400];
        setup(NULL);
        evicting = open_with(2 * 8192, 0);
        victim = page(1, 0);
        atomic_store(&reopened, 0);
        assert_int_equal(put(evicting, victim), KV_PUT_FILL);
        kv_disk_flush(evicting);
        path_of(&victim, file);
        assert_int_equal(damaged ? truncate(file, 300) : unlink(file), 0);
        after_open = replace;
        assert_false(get(evicting, victim));
        after_open = NULL;
        assert_true(atomic_load(&reopened) > 0);
        assert_true(kv_disk_has(evicting, &victim));
        assert_true(get(evicting, victim));
        kv_disk_close(evicting);
    }
}

static atomic_int woken;
static void wake(void *ctx) { (void)ctx, atomic_fetch_add(&woken, 1); }

static status wait_next(kv_fetch *f, void **content) {
    status s;
    while ((s = kv_fetch_next(f, content)) == E_BUSY) usleep(100);
    return s;
}

// The second page's file is a pipe that nobody writes: the reader is stuck in it from when the first page is there.
static void a_fetch_is_freed_while_it_reads(void **state) {
    (void)state;
    char pipe[400];
    kv_disk *d = open_with(0, 0);
    kv_record pages[] = {page(1, 0), page(1, 1), page(1, 2)};
    kv_fetch *f;
    void *content;
    for (int i = 0; i < 3; i++) assert_int_equal(put(d, pages[i]), KV_PUT_FILL);
    kv_disk_flush(d);
    path_of(&pages[1], pipe);
    assert_int_equal(unlink(pipe), 0);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    atomic_store(&woken, 0);
    assert_int_equal(kv_fetch_begin(d, pages, 3, wake, NULL, &f, NULL), OK);
    assert_int_equal(wait_next(f, &content), OK);
    mem_free(content);
    kv_fetch_free(f);
    int fd = open(pipe, O_WRONLY); // lets the reader go on
    assert_true(fd >= 0);
    close(fd);
    assert_true(get(d, pages[2])); // and it does
    assert_int_equal(atomic_load(&woken), 1);
    kv_disk_close(d);
}

// Twelve fetches of whom nobody takes: together they hold four pages and, so that none waits for another, one each beyond that.
static void what_is_read_ahead_is_bounded_over_all(void **state) {
    (void)state;
    enum { N = 12, EACH = 6 };
    kv_disk *d;
    kv_disk_stats st;
    kv_fetch *f[N];
    kv_record pages[EACH];
    void *content;
    error err = {0};
    if (kv_disk_open(&(kv_disk_options){.dir = dir, .ahead = 4 * BYTES}, &d, &err) != OK) fail_msg("%s", err.text);
    for (uint32_t i = 0; i < EACH; i++) assert_int_equal(put(d, pages[i] = page(1, i)), KV_PUT_FILL);
    kv_disk_flush(d);
    atomic_store(&woken, 0);
    for (int k = 0; k < N; k++) assert_int_equal(kv_fetch_begin(d, pages, EACH, k == N - 1 ? wake : NULL, NULL, &f[k], NULL), OK);
    while (!atomic_load(&woken)) usleep(100);
    kv_disk_get_stats(d, &st); // now the last one has a page, and was served last
    assert_int_equal(st.read, 4 + N - 1);
    for (int i = 0; i < EACH; i++) { // nobody else takes, and it still gets all of its own
        assert_int_equal(wait_next(f[N - 1], &content), OK);
        mem_free(content);
    }
    assert_int_equal(kv_fetch_next(f[N - 1], &content), E_NOTFOUND);
    kv_disk_get_stats(d, &st);
    assert_int_equal(st.read, 4 + N - 2 + EACH);
    for (int k = 0; k < N; k++)
        if (k != 1) kv_fetch_free(f[k]);
    do kv_disk_get_stats(d, &st);
    while (st.read < 4 + N - 2 + EACH + 3 && usleep(100) == 0); // what they held is the second's: three more beside its one
    for (int i = 0; i < EACH; i++) {
        assert_int_equal(wait_next(f[1], &content), OK);
        mem_free(content);
    }
    kv_fetch_free(f[1]);
    kv_disk_close(d);
}

// A file that says it is its own parent is none of ours, and takes no room for ever.
static void a_page_is_not_its_own_parent(void **state) {
    (void)state;
    char path[400];
    kv_record evil = page(1, 5);
    memcpy(evil.parent, evil.id, sizeof evil.parent);
    uint8_t file[KV_FILE_HEADER + BYTES];
    content_of(&evil, file + KV_FILE_HEADER);
    kv_file_header(&evil, file + KV_FILE_HEADER, file);
    kv_disk *d = open_with(0, 0); // makes the folders
    assert_int_equal(put(d, page(1, 0)), KV_PUT_FILL);
    kv_disk_close(d);
    path_of(&evil, path);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(file, 1, sizeof file, out), sizeof file);
    fclose(out);
    d = open_with(2 * 8192, 0);
    assert_int_not_equal(access(path, F_OK), 0);
    for (uint32_t i = 0; i < 4; i++) put(d, page(2, i));
    kv_disk_flush(d);
    kv_disk_stats st;
    kv_disk_get_stats(d, &st);
    assert_int_equal(st.files, 2);
    assert_true(st.bytes <= 2 * 8192);
    kv_disk_close(d);
}

// For want of memory or of file descriptors a page is not read; its file stays, is counted, and is read the next time.
static void want_is_no_damage(void **state) {
    (void)state;
    kv_disk *d = open_with(0, 0);
    kv_disk_stats st;
    kv_record r = page(1, 0);
    assert_int_equal(put(d, r), KV_PUT_FILL);
    kv_disk_flush(d);
    for (int descriptors = 0; descriptors < 2; descriptors++) {
        struct rlimit before;
        int next = dup(0);
        assert_true(next >= 0);
        close(next);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        if (descriptors) assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)next, before.rlim_max}), 0);
        else mem_fail_at(4); // after those of the fetch: the reader's
        assert_false(get(d, r));
        mem_fail_at(0);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        kv_disk_get_stats(d, &st);
        assert_int_equal(st.damaged, 0);
        assert_int_equal(st.files, 1);
        assert_true(get(d, r));
    }
    kv_disk_close(d);
}

// Nor at the start, when the folder is read: what there is no memory or file descriptor for is said, and its files stay.
static void want_at_the_start_is_no_damage(void **state) {
    (void)state;
    enum { PAGES = 6 };
    error err = {0};
    kv_disk *d = open_with(0, 0);
    for (uint32_t i = 0; i < PAGES; i++) assert_int_equal(put(d, page(1, i)), KV_PUT_FILL);
    kv_disk_close(d);
    int refused = 0;
    for (int k = -2; k < 40; k++) { // the lock's descriptor, the folder's; then allocations
        struct rlimit before;
        int next = dup(0);
        assert_true(next >= 0);
        close(next);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        if (k < 0) assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)(next - k), before.rlim_max}), 0);
        else mem_fail_at(k);
        status s = kv_disk_open(&(kv_disk_options){.dir = dir}, &d, &err);
        mem_fail_at(0);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        refused += s != OK;
        if (s == OK) kv_disk_close(d);
        else assert_int_equal(s, k < 0 ? E_IO : E_NOMEM);
        d = open_with(0, 0);
        kv_disk_stats st;
        kv_disk_get_stats(d, &st);
        if (st.files != PAGES) fail_msg("%d: %llu files are left", k, (unsigned long long)st.files);
        kv_disk_close(d);
    }
    assert_true(refused > 5);
}

static void write_to(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(data, 1, n, f);
    fclose(f);
}

static void strangers_stay_and_remains_go(void **state) {
    (void)state;
    kv_disk *d = open_with(0, 0);
    kv_record r = page(1, 0);
    put(d, r);
    kv_disk_close(d);
    char file[400], mine[500], part[500], bad[500];
    path_of(&r, file);
    int stem = (int)strlen(file) - 2;
    snprintf(mine, sizeof mine, "%s/%02x/holiday.jpg", dir, r.id[0]);
    snprintf(part, sizeof part, "%.*s.1.part", stem, file);
    snprintf(bad, sizeof bad, "%.*s.1", stem, file);
    assert_int_equal(access(file, R_OK), 0);
    write_to(mine, "me", 2);
    write_to(part, "half", 4);
    write_to(bad, "no header", 9);
    d = open_with(0, 0);
    assert_int_equal(access(mine, R_OK), 0);
    assert_int_not_equal(access(part, R_OK), 0);
    assert_int_not_equal(access(bad, R_OK), 0);
    assert_true(get(d, r));
    kv_disk *second;
    assert_int_equal(kv_disk_open(&(kv_disk_options){.dir = dir}, &second, NULL), E_BUSY);
    kv_disk_close(d);
}

static void every_damage_is_seen(void **state) {
    (void)state;
    kv_record r = page(1, 0);
    uint8_t file[KV_FILE_HEADER + BYTES];
    const uint8_t *content;
    content_of(&r, file + KV_FILE_HEADER);
    kv_file_header(&r, file + KV_FILE_HEADER, file);
    assert_int_equal(kv_file_check(file, sizeof file, &r, &content, NULL), OK);
    for (size_t i = 0; i < sizeof file; i++) {
        file[i] ^= (uint8_t)(1 << i % 8);
        assert_int_equal(kv_file_check(file, sizeof file, &r, &content, NULL), E_INVALID);
        file[i] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t n = 0; n < sizeof file; n += 7) assert_int_equal(kv_file_check(file, n, &r, &content, NULL), E_INVALID);
}

static void host_memory_is_bounded(void **state) {
    (void)state;
    kv_host *h;
    assert_int_equal(kv_host_create(4 * BYTES, &h, NULL), OK);
    for (uint32_t i = 0; i < 6; i++) {
        kv_record r = page(1, i);
        content_of(&r, kv_host_put(h, &r));
    }
    for (uint32_t i = 0; i < 6; i++) {
        kv_record r = page(1, i);
        uint8_t want[BYTES];
        assert_int_equal(kv_host_has(h, &r), i >= 2); // the first two went
        void *x = kv_host_take(h, &r);
        assert_int_equal(x != NULL, i >= 2);
        content_of(&r, want);
        if (x) assert_memory_equal(x, want, BYTES);
        mem_free(x);
        assert_false(kv_host_has(h, &r));
    }
    kv_record big = page(2, 0);
    big.bytes = 5 * BYTES;
    assert_null(kv_host_put(h, &big));
    kv_host_destroy(h);
}

int main(void) {
    snprintf(dir, sizeof dir, "/tmp/altiserve-kv-disk-%d", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_was_put_comes_back, setup), cmocka_unit_test_setup(leaves_go_first_and_bytes_are_bounded, setup),
        cmocka_unit_test_setup(the_rate_is_kept, setup), cmocka_unit_test_setup(delays_are_measured, setup), cmocka_unit_test_setup(strangers_stay_and_remains_go, setup),
        cmocka_unit_test_setup(who_asks_waits_for_no_eviction, setup), cmocka_unit_test_setup(what_was_put_again_stays, setup),
        cmocka_unit_test_setup(a_fetch_is_freed_while_it_reads, setup), cmocka_unit_test_setup(what_is_read_ahead_is_bounded_over_all, setup),
        cmocka_unit_test_setup(a_page_is_not_its_own_parent, setup), cmocka_unit_test_setup(want_is_no_damage, setup),
        cmocka_unit_test_setup(want_at_the_start_is_no_damage, setup),
        cmocka_unit_test(every_damage_is_seen), cmocka_unit_test(host_memory_is_bounded),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_all(dir);
    return failed;
}
