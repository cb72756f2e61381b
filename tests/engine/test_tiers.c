// The tiers below the pool, over toy-1: a restart goes on from disk, what the pool evicts comes back from host memory, damaged files are computed
// again, and every way of getting at a page gives the tokens of the plain run.
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cache_dir.h"
#include "engine/engine_util.h"
#include "obs/obs.h"

enum { PROMPT = 900, OUT = 40 };
static char dir[256];

// toy-1 past what it was trained for: only the tokens' being the same matters here.
static altiserve_options long_toy(void) {
    altiserve_options o = toy_options();
    o.context = 1024;
    return o;
}

static altiserve_options with_dir(void) {
    altiserve_options o = long_toy();
    o.cache_dir = dir;
    return o;
}

static altiserve_generate prompt(const int32_t *tokens, size_t n) {
    return (altiserve_generate){.model = "toy-1", .tokens = tokens, .n_tokens = n, .n = 1, .max_tokens = OUT, .logprobs = -1, .ignore_eos = true,
                                .sampling = {.temperature = 0.8f, .seed = 5, .has_seed = true}, .given = SAMPLING_TEMPERATURE};
}

static void tokens_of(int32_t *t, int kind) {
    for (int i = 0; i < 2 * PROMPT; i++) t[i] = 300 + (i * 7 + i / 11 * (kind + 3) + kind * 31) % 500;
}

static answer *once(altiserve_options o, const int32_t *t, size_t n) {
    altiserve *a = engine_with(o);
    altiserve_generate g = prompt(t, n);
    answer *x = ask(a, &g);
    altiserve_destroy(a);
    assert_int_equal(x->submitted, OK);
    assert_int_equal(x->finish[0], FINISH_LENGTH);
    return x;
}

static int setup(void **state) {
    (void)state;
    empty_dir(dir);
    return 0;
}

static void a_restart_goes_on_from_disk(void **state) {
    (void)state;
    int32_t t[2 * PROMPT];
    tokens_of(t, 0);
    altiserve_options plain = long_toy();
    plain.prefix_cache = false;
    answer *want = once(plain, t, PROMPT), *first = once(with_dir(), t, PROMPT);
    same_tokens(want, first, 0, 0);
    assert_int_equal(first->usage.cached_tokens, 0);
    // The next turn: the answer, then more, in another process as far as the engine can tell.
    memcpy(t + PROMPT, want->tokens[0], OUT * sizeof *t);
    answer *turn = once(with_dir(), t, PROMPT + OUT + 10), *turn_want = once(plain, t, PROMPT + OUT + 10);
    same_tokens(turn_want, turn, 0, 0);
    assert_true(turn->usage.cached_tokens >= (PROMPT + OUT) / 32 * 32 - 32);
    assert_true(turn->usage.cached_tokens * 100 >= 95 * (PROMPT + 10u));
    answer_free(want), answer_free(first), answer_free(turn), answer_free(turn_want);
}

static void flip_a_byte(const char *path) {
    FILE *f = fopen(path, "r+b");
    struct stat st;
    static int n;
    assert_non_null(f);
    fstat(fileno(f), &st);
    n++;
    if (n % 3 == 0) assert_int_equal(ftruncate(fileno(f), st.st_size / 2), 0);
    else {
        long at = n % 3 == 1 ? 300 + n * 13 % (st.st_size - 300) : 20 + n % 200;
        fseek(f, at, SEEK_SET);
        int c = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(c ^ 0x10, f);
    }
    fclose(f);
}

static void damage_is_a_miss(void **state) {
    (void)state;
    int32_t t[2 * PROMPT];
    tokens_of(t, 1);
    answer *first = once(with_dir(), t, PROMPT);
    int before = each_file(dir, NULL);
    assert_true(before >= PROMPT / 32);
    each_file(dir, flip_a_byte);
    answer *again = once(with_dir(), t, PROMPT);
    same_tokens(first, again, 0, 0);
    assert_true(again->usage.cached_tokens <= 32); // at most the headers and contents that no flip has met
    // What was found damaged is written again; what was not reached yet is found at the next time.
    uint32_t before_that = again->usage.cached_tokens;
    answer_free(again);
    for (int i = 0; i < 40 && before_that < (PROMPT - 1) / 32 * 32; i++) {
        answer *next = once(with_dir(), t, PROMPT);
        same_tokens(first, next, 0, 0);
        assert_true(next->usage.cached_tokens > before_that);
        before_that = next->usage.cached_tokens;
        answer_free(next);
    }
    assert_int_equal(before_that, (PROMPT - 1) / 32 * 32);
    answer_free(first);
}

static void damage_content(const char *path) { // which is seen when it is read
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -1, SEEK_END);
    int last = fgetc(f);
    fseek(f, -1, SEEK_END);
    fputc(last ^ 1, f);
    fclose(f);
}

// Files are damaged, and an allocation fails while their pages are on their way: the request ends, well or with a sentence, and not by its time limit.
static void damage_and_want_of_memory(void **state) {
    (void)state;
    enum { PROMPTS = 120, SHORT = 40 }; // a page: nothing else that comes wakes the engine
    int32_t t[SHORT];
    altiserve *a = NULL;
    for (int pass = 0; pass < 2; pass++) {
        a = engine_with(with_dir());
        assert_int_equal(altiserve_load(a, "toy-1", NULL, NULL, NULL), OK);
        for (int k = 0; k < PROMPTS; k++) {
            for (int i = 0; i < SHORT; i++) t[i] = 300 + (i * 7 + k * 31 + i * k) % 500;
            altiserve_generate g = prompt(t, SHORT);
            g.max_tokens = 2;
            g.timeout_ms = 5000;
            answer *x = mem_calloc(1, sizeof *x);
            altiserve_request *r = NULL;
            if (pass) mem_fail_at(k / 3 + 1); // of several threads: not always the same one
            if (altiserve_submit(a, &g, &r, NULL) == OK) collect(r, x);
            mem_fail_at(0);
            if (x->end == FINISH_ERROR && x->err.code == E_CANCELLED) fail_msg("allocation %d: %s", k / 3 + 1, x->err.text);
            answer_free(x);
        }
        altiserve_destroy(a);
        if (!pass) each_file(dir, damage_content);
    }
}

// Requests with one prompt that arrive together after a restart: each page is read once.
static void pages_are_read_once(void **state) {
    (void)state;
    enum { N = 4 };
    int32_t t[2 * PROMPT];
    tokens_of(t, 11);
    answer *want = once(with_dir(), t, PROMPT), *got[N];
    altiserve *a = engine_with(with_dir());
    altiserve_request *r[N];
    double before = obs_read(OBS_TIER_PAGES, "disk", "read");
    for (int i = 0; i < N; i++) { // all wait for the model to be loaded, and are admitted in the same step
        altiserve_generate g = prompt(t, PROMPT);
        got[i] = mem_calloc(1, sizeof *got[i]);
        assert_int_equal(altiserve_submit(a, &g, &r[i], NULL), OK);
    }
    for (int i = 0; i < N; i++) {
        collect(r[i], got[i]);
        same_tokens(want, got[i], 0, 0);
        assert_int_equal(got[i]->usage.cached_tokens, (PROMPT - 1) / 32 * 32);
        assert_true(got[i]->usage.load_s <= got[i]->usage.queue_s); // none for who arrives when the model is there
    }
    assert_true(got[0]->usage.load_s > 0);
    altiserve_destroy(a);
    assert_true(obs_read(OBS_TIER_PAGES, "disk", "read") - before == (PROMPT - 1) / 32);
    a = engine_with(with_dir()); // who brings the pages is cancelled: another takes over
    for (int i = 0; i < N; i++) {
        altiserve_generate g = prompt(t, PROMPT);
        assert_int_equal(altiserve_submit(a, &g, &r[i], NULL), OK);
    }
    altiserve_event ev;
    while (altiserve_next(r[0], UINT32_MAX, &ev) != EVENT_STARTED) {}
    altiserve_cancel(r[0]);
    for (int i = 0; i < N; i++) {
        answer_free(got[i]);
        got[i] = mem_calloc(1, sizeof *got[i]);
        collect(r[i], got[i]);
        if (i) same_tokens(want, got[i], 0, 0);
        answer_free(got[i]);
    }
    altiserve_destroy(a);
    answer_free(want);
}

// Files under another page's name are other pages.
static void foreign_files_are_a_miss(void **state) {
    (void)state;
    int32_t t[2 * PROMPT], u[2 * PROMPT];
    tokens_of(t, 2);
    tokens_of(u, 3);
    answer *x = once(with_dir(), t, PROMPT);
    answer *y = once(with_dir(), u, PROMPT);
    assert_int_equal(y->usage.cached_tokens, 0);
    altiserve_options other = with_dir();
    other.kv_type = "f32";
    answer *z = once(other, t, PROMPT); // another type of KV: other keys
    assert_int_equal(z->usage.cached_tokens, 0);
    answer_free(x), answer_free(y), answer_free(z);
}

static void two_processes_do_not_share_a_folder(void **state) {
    (void)state;
    altiserve_options o = with_dir();
    altiserve *a = engine_with(o), *b = NULL;
    error err = {0};
    assert_int_equal(altiserve_create(&o, &b, &err), E_BUSY);
    altiserve_destroy(a);
}

// A pool for little more than one conversation: the other comes back from host memory.
static void the_pool_spills_to_host_memory(void **state) {
    (void)state;
    int32_t t[2 * PROMPT], u[2 * PROMPT];
    tokens_of(t, 4);
    tokens_of(u, 5);
    altiserve_options o = toy_options();
    o.context = 1024;
    o.parallel = 1;
    o.host_cache = 256u << 20;
    altiserve *a = engine_with(o);
    altiserve_generate gt = prompt(t, PROMPT), gu = prompt(u, PROMPT);
    answer *first = ask(a, &gt);
    altiserve_stats st;
    altiserve_get_stats(a, &st);
    assert_true(st.pages_total < 64); // both do not fit
    for (int i = 0; i < 4; i++) {
        answer *y = ask(a, &gu), *x = ask(a, &gt);
        same_tokens(first, x, 0, 0);
        assert_true(x->usage.cached_tokens >= (PROMPT - 1) / 32 * 32);
        answer_free(x), answer_free(y);
    }
    assert_true(obs_read(OBS_TIER_TOKENS, "toy-1", "host") > 0);
    altiserve_destroy(a);
    answer_free(first);
}

// Many at once over a pool that cannot hold them, with all tiers: the same tokens as one by one without any.
static void preempted_and_restored_are_the_same(void **state) {
    (void)state;
    enum { N = 10 };
    static int32_t t[N][2 * PROMPT];
    altiserve_options plain = long_toy(), o = with_dir();
    plain.prefix_cache = false;
    o.context = 1024;
    o.parallel = 4;
    o.memory = 11u << 20;
    o.host_cache = 8u << 20;
    answer *want[N], *got[N];
    for (int i = 0; i < N; i++) {
        tokens_of(t[i], 6 + i % 4);
        altiserve *a = engine_with(plain);
        altiserve_generate g = prompt(t[i], 100 + 20 * (size_t)i);
        g.max_tokens = 300;
        want[i] = ask(a, &g);
        altiserve_destroy(a);
    }
    for (int round = 0; round < 2; round++) {
        altiserve *a = engine_with(o);
        altiserve_request *r[N];
        for (int i = 0; i < N; i++) {
            altiserve_generate g = prompt(t[i], 100 + 20 * (size_t)i);
            g.max_tokens = 300;
            got[i] = mem_calloc(1, sizeof *got[i]);
            assert_int_equal(altiserve_submit(a, &g, &r[i], NULL), OK);
            if (i == 7) altiserve_cancel(r[3]);
        }
        for (int i = 0; i < N; i++) {
            collect(r[i], got[i]);
            if (i != 3) same_tokens(want[i], got[i], 0, 0);
            answer_free(got[i]);
        }
        altiserve_destroy(a);
    }
    assert_true(obs_read(OBS_PREEMPTIONS, "toy-1", NULL) > 0);
    for (int i = 0; i < N; i++) answer_free(want[i]);
}

int main(void) {
    obs_set_level(OBS_ERROR);
    snprintf(dir, sizeof dir, "/tmp/altiserve-tiers-%d", (int)getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_restart_goes_on_from_disk, setup), cmocka_unit_test_setup(damage_is_a_miss, setup), cmocka_unit_test_setup(damage_and_want_of_memory, setup),
        cmocka_unit_test_setup(pages_are_read_once, setup), cmocka_unit_test_setup(foreign_files_are_a_miss, setup),
        cmocka_unit_test_setup(two_processes_do_not_share_a_folder, setup),
        cmocka_unit_test_setup(the_pool_spills_to_host_memory, setup), cmocka_unit_test_setup(preempted_and_restored_are_the_same, setup),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    empty_dir(dir);
    rmdir(dir);
    return failed;
}
