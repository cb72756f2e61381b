// Restarts with --cache-dir of models whose pages are not all of one kind: windows (gemma3: five layers see the last tokens, the sixth all) and recurrent
// states. The next turn goes on from disk with the tokens of a run that has no cache, and so does one that finds only some groups of its pages.
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "engine/cache_dir.h"
#include "engine/recurrent_model.h"
#include "model/small_model.h"
#include "obs/obs.h"

enum { PROMPT = 700, OUT = 24, NEXT = PROMPT + OUT + 10 };
static char dir[200], windows_path[240], recurrent_path[240];

static void write_windows(const char *path) {
    small_model m;
    small_spec s = {.arch = "gemma3", .e = 32, .layers = 6, .heads = 2, .kv = 1, .head = 16, .ff = 48, .vocab = VOCAB, .post_norms = true, .tied = true};
    small_begin(&m, &s);
    small_u32(&m, &s, "context_length", 2048);
    small_u32(&m, &s, "attention.sliding_window", 64);
    small_file(&m, &s, path);
}

static altiserve_options options(bool cache) {
    altiserve_options o = toy_options();
    o.open_paths = true;
    o.context = 1024;
    o.step_tokens = 100;
    o.deterministic = true;
    o.prefix_cache = cache;
    o.cache_dir = cache ? dir : NULL;
    return o;
}

static answer *once(bool cache, const char *path, const int32_t *tokens, size_t n) {
    altiserve *a = engine_with(options(cache));
    altiserve_generate g = {.model = path, .tokens = tokens, .n_tokens = n, .n = 1, .max_tokens = OUT,
                            .logprobs = -1, .ignore_eos = true, .sampling = {.temperature = 1, .seed = 3, .has_seed = true}, .given = SAMPLING_TEMPERATURE};
    answer *x = ask(a, &g);
    altiserve_destroy(a);
    if (x->submitted != OK || x->end == FINISH_ERROR) fail_msg("%s", x->err.text);
    return x;
}

static int removed;
static void remove_second_group(const char *file) {
    if (!strcmp(file + strlen(file) - 2, ".1") && removed++ % 2 == 0) unlink(file);
}

static int damaged, which;
static void damage_second_group(const char *file) {
    FILE *f = strcmp(file + strlen(file) - 2, ".1") || damaged++ != which ? NULL : fopen(file, "r+b");
    if (!f) return;
    fseek(f, -1, SEEK_END);
    int last = fgetc(f);
    fseek(f, -1, SEEK_END);
    fputc(last ^ 1, f);
    fclose(f);
}

static void goes_on(const char *path) {
    int32_t tokens[NEXT];
    empty_dir(dir);
    for (int i = 0; i < NEXT; i++) tokens[i] = (i * 7 + i * i % 11) % VOCAB;
    answer *want = once(false, path, tokens, PROMPT), *first = once(true, path, tokens, PROMPT);
    same_tokens(want, first, 0, 0);
    assert_int_equal(first->usage.cached_tokens, 0);
    memcpy(tokens + PROMPT, want->tokens[0], OUT * sizeof *tokens);
    answer *next_want = once(false, path, tokens, NEXT), *next = once(true, path, tokens, NEXT);
    same_tokens(next_want, next, 0, 0);
    assert_int_equal(next->usage.cached_tokens, (PROMPT + OUT - 1) / 32 * 32);
    removed = 0;
    each_file(dir, remove_second_group);
    assert_true(removed > 0);
    answer *some = once(true, path, tokens, NEXT);
    same_tokens(next_want, some, 0, 0);
    assert_true(some->usage.cached_tokens < NEXT / 32 * 32);
    empty_dir(dir); // and with any one file of the second group damaged, which shows when the page's first group is in memory already
    answer_free(once(true, path, tokens, NEXT));
    for (which = 0, damaged = 1; which < damaged; which++) {
        damaged = 0;
        each_file(dir, damage_second_group);
        assert_true(damaged > 0);
        answer *rest = once(true, path, tokens, NEXT);
        same_tokens(next_want, rest, 0, 0);
        answer_free(rest);
    }
    answer_free(want), answer_free(first), answer_free(next_want), answer_free(next), answer_free(some);
}

static void windows(void **state) {
    (void)state;
    goes_on(windows_path);
}

static void recurrent_states(void **state) {
    (void)state;
    goes_on(recurrent_path);
}

static void *reader_main(void *request) {
    altiserve_event e;
    while (altiserve_next(request, UINT32_MAX, &e) != EVENT_END) {}
    return NULL;
}

// Holds who comes to it until it is opened; who waits for that does not poll.
typedef struct gate {
    pthread_mutex_t lock;
    pthread_cond_t  turn;
    bool shut, reached;
} gate;

static void gate_pass(gate *g) {
    pthread_mutex_lock(&g->lock);
    g->reached |= g->shut;
    pthread_cond_broadcast(&g->turn);
    while (g->shut) pthread_cond_wait(&g->turn, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_await(gate *g) {
    pthread_mutex_lock(&g->lock);
    while (!g->reached) pthread_cond_wait(&g->turn, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_set(gate *g, bool shut) {
    pthread_mutex_lock(&g->lock);
    g->shut = shut;
    g->reached = false;
    pthread_cond_broadcast(&g->turn);
    pthread_mutex_unlock(&g->lock);
}

// kv_disk's reader calls it for each file that it has read, and nothing else does.
static gate read_gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false};
int futimens(int fd, const struct timespec times[2]) {
    (void)fd, (void)times;
    gate_pass(&read_gate);
    return 0;
}

// The engine, at an event of a stream, once the watched request is begun and has found pages on disk, where it is to find some.
static gate engine_gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false};
static _Atomic(altiserve_request *) watched;
static bool finds;
static void stream_event(void *ctx) {
    (void)ctx;
    altiserve_request *r = atomic_load(&watched);
    if (r && (!finds || altiserve_request_usage(r).cached_tokens)) gate_pass(&engine_gate);
}

// A prompt that finds pages on disk, gives way to an urgent one before its first token and finds them again, perhaps on disk again: they count once.
static void counts_once(void **state) {
    (void)state;
    enum { FIRST = 400, LONG = 620, ROUNDS = 2, URGENT = 4 };
    altiserve_options o = toy_options();
    int32_t tokens[LONG];
    o.cache_dir = dir;
    o.context = 1024;
    o.parallel = 2; // beside a stream that is older than all
    o.step_tokens = 8;
    o.speculation = SPECULATE_OFF;
    empty_dir(dir);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < LONG; i++) tokens[i] = 40 + (i * (7 + round) + i / 60) % 60;
        altiserve *a = engine_with(o);
        altiserve_generate g = {.model = "toy-1", .tokens = tokens, .n_tokens = FIRST, .n = 1, .max_tokens = 1, .logprobs = -1, .ignore_eos = true, .given = SAMPLING_TEMPERATURE};
        answer_free(ask(a, &g));
        altiserve_destroy(a);
        a = engine_with(o);
        const double displaced = obs_read(OBS_DISPLACED, "toy-1", NULL);
        altiserve_request *r = NULL, *older = NULL;
        altiserve_event e;
        altiserve_generate steady = greedy("Hello", 900);
        steady.notify = stream_event;
        finds = round > 0; // in the first round perhaps before anything has come
        gate_set(&engine_gate, true);
        assert_int_equal(altiserve_submit(a, &steady, &older, NULL), OK);
        while (altiserve_next(older, UINT32_MAX, &e) != EVENT_STARTED) {}
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, reader_main, older), 0);
        answer *got = mem_calloc(1, sizeof *got);
        g.n_tokens = LONG;
        g.max_tokens = 4;
        g.priority = 5;
        if (altiserve_submit(a, &g, &r, &got->err) != OK) fail_msg("%s", got->err.text);
        assert_int_equal(altiserve_next(r, UINT32_MAX, &e), EVENT_STARTED);
        atomic_store(&watched, r);
        gate_await(&engine_gate);
        atomic_store(&watched, NULL);
        altiserve_request *urgent[URGENT];
        for (int u = 0; u < URGENT; u++) { // together they take all pages
            int32_t others[900];
            for (int i = 0; i < 900; i++) others[i] = 40 + (i * (3 + u) + round * 13 + i / 50) % 60;
            altiserve_generate now = g;
            now.tokens = others;
            now.n_tokens = 900;
            now.max_tokens = 1;
            now.priority = 0;
            assert_int_equal(altiserve_submit(a, &now, &urgent[u], NULL), OK);
        }
        gate_set(&engine_gate, false);
        for (int u = 0; u < URGENT; u++) {
            answer *x = mem_calloc(1, sizeof *x);
            collect(urgent[u], x);
            assert_int_equal(x->end, FINISH_LENGTH);
            answer_free(x);
        }
        collect(r, got);
        assert_int_equal(got->end, FINISH_LENGTH);
        assert_true(obs_read(OBS_DISPLACED, "toy-1", NULL) > displaced);
        if (got->usage.cached_tokens != FIRST / 32 * 32)
            fail_msg("round %d: %u of %d tokens are called cached, and %d were kept", round, got->usage.cached_tokens, LONG, FIRST / 32 * 32);
        answer_free(got);
        altiserve_cancel(older);
        pthread_join(thread, NULL);
        altiserve_request_free(older);
        altiserve_destroy(a);
    }
}

// An urgent request finds its pages on the way of another's fetch. It holds the window that it goes on from, and the pool has too few pages for that and for what the
// other brings: it fetches for itself, since the other can have no page before the urgent one gives its own.
static void nobody_waits_for_a_younger_fetch(void **state) {
    (void)state;
    enum { BEGIN = 320, WINDOW = 160 };
    int32_t tokens[PROMPT];
    altiserve_options o = options(true);
    altiserve_stats st;
    char path[300];
    small_model m;
    small_spec spec = {.arch = "gemma3", .e = 32, .layers = 5, .heads = 2, .kv = 1, .head = 16, .ff = 48, .vocab = VOCAB, .post_norms = true, .tied = true};
    small_begin(&m, &spec);
    small_u32(&m, &spec, "context_length", 2048);
    small_u32(&m, &spec, "attention.sliding_window", WINDOW);
    snprintf(path, sizeof path, "%s-narrow.gguf", dir);
    small_file(&m, &spec, path);
    empty_dir(dir);
    for (int i = 0; i < PROMPT; i++) tokens[i] = (i * 7 + i * i % 11) % VOCAB;
    altiserve_generate g = {.model = path, .tokens = tokens, .n_tokens = PROMPT, .n = 1, .max_tokens = 4, .logprobs = -1, .ignore_eos = true, .given = SAMPLING_TEMPERATURE};
    o.parallel = 2;
    o.step_tokens = 8;
    o.speculation = SPECULATE_OFF;
    o.memory = least_memory(o, g) + 3000;
    altiserve *a = engine_with(o);
    answer *first = ask(a, &g); // to disk
    altiserve_destroy(a);
    assert_int_equal(first->end, FINISH_LENGTH);
    a = engine_with(o);
    g.n_tokens = BEGIN + 1; // into the pool
    answer_free(ask(a, &g));
    altiserve_get_stats(a, &st);
    assert_in_range(st.pages_total, WINDOW / 32 + 2, 2 * WINDOW / 32);
    gate_set(&read_gate, true);
    g.n_tokens = PROMPT;
    g.timeout_ms = 20000;
    altiserve_request *r[2];
    altiserve_event e;
    for (int i = 0; i < 2; i++) { // the second is older: its priority is higher
        g.priority = -i;
        assert_int_equal(altiserve_submit(a, &g, &r[i], NULL), OK);
        assert_int_equal(altiserve_next(r[i], UINT32_MAX, &e), EVENT_STARTED);
        if (!i) gate_await(&read_gate);
    }
    gate_set(&read_gate, false);
    for (int i = 2; i-- > 0;) {
        answer *x = mem_calloc(1, sizeof *x);
        collect(r[i], x);
        if (x->end != FINISH_LENGTH) fail_msg("request %d: %s", i, x->err.text);
        same_tokens(first, x, 0, 0);
        answer_free(x);
    }
    answer_free(first);
    altiserve_destroy(a);
    assert_int_equal(unlink(path), 0);
}

// Two long texts come back from disk, of which either alone fills the index of a small pool of windows: both are answered, from disk.
static void a_full_index(void **state) {
    (void)state;
    enum { LONG = 3800 };
    static int32_t tokens[2][LONG];
    altiserve_options o = toy_options();
    char path[300];
    small_model m;
    // Five layers: the sixth would see everything.
    small_spec spec = {.arch = "gemma3", .e = 32, .layers = 5, .heads = 2, .kv = 1, .head = 16, .ff = 48, .vocab = VOCAB, .post_norms = true, .tied = true};
    small_begin(&m, &spec);
    small_u32(&m, &spec, "context_length", 4096);
    small_u32(&m, &spec, "attention.sliding_window", 64);
    snprintf(path, sizeof path, "%s-long.gguf", dir);
    small_file(&m, &spec, path);
    o.open_paths = true;
    o.context = 4096;
    o.parallel = 1;
    o.step_tokens = 64;
    o.speculation = SPECULATE_OFF;
    o.cache_dir = dir;
    empty_dir(dir);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < LONG; i++) tokens[k][i] = (i * (7 + k) + i * i % 11) % VOCAB;
    answer *first[2];
    for (int run = 0; run < 3; run++) {
        altiserve *a = engine_with(o);
        for (int k = 0; k < 2; k++) {
            if (run == !k) continue; // the first two runs compute a text each
            altiserve_generate g = {.model = path, .tokens = tokens[k], .n_tokens = LONG, .n = 1, .max_tokens = 4,
                                    .logprobs = -1, .ignore_eos = true, .timeout_ms = run < 2 ? 0 : 20000, .given = SAMPLING_TEMPERATURE};
            answer *x = ask(a, &g);
            if (x->end != FINISH_LENGTH) fail_msg("run %d, text %d: %s", run, k, x->err.text);
            if (run < 2) {
                assert_int_equal(x->usage.cached_tokens, 0);
                first[k] = x;
                continue;
            }
            same_tokens(first[k], x, 0, 0);
            assert_true(x->usage.cached_tokens > LONG * 9 / 10);
            answer_free(x);
            answer_free(first[k]);
        }
        altiserve_destroy(a);
    }
    assert_int_equal(unlink(path), 0);
}

// Pages that a server without --deterministic wrote are not those that one with it would have, where few rows are another recipe.
static void recipes_apart(void **state) {
    (void)state;
    enum { FEW = 8, MADE = 100, ALL = FEW + MADE + 10 };
    altiserve_options o = toy_options();
    int32_t tokens[ALL];
    error err = {0};
    altiserve *a = NULL;
    o.isa = "amx-emulated";
    o.speculation = SPECULATE_OFF;
    for (int i = 0; i < ALL; i++) tokens[i] = 40 + i * 7 % 60;
    altiserve_generate g = {.model = "toy-1", .tokens = tokens, .n_tokens = FEW, .n = 1, .max_tokens = MADE,
                            .logprobs = 0, .ignore_eos = true, .sampling = {.temperature = 1, .seed = 5, .has_seed = true}, .given = SAMPLING_TEMPERATURE};
    empty_dir(dir);
    o.cache_dir = dir;
    o.deterministic = false;
    if (altiserve_create(&o, &a, &err) != OK) fail_msg("%s", err.text);
    answer *filled = ask(a, &g);
    altiserve_destroy(a);
    if (filled->end == FINISH_ERROR && filled->err.code == E_UNSUPPORTED) { // this machine does not emulate tiles
        answer_free(filled);
        skip();
    }
    memcpy(tokens + FEW, filled->tokens[0], MADE * sizeof *tokens);
    assert_true(each_file(dir, NULL) > 0);
    g.n_tokens = ALL;
    answer *again, *serial;
    for (int pass = 0; pass < 2; pass++) {
        o.deterministic = true;
        o.cache_dir = pass ? dir : NULL;
        a = engine_with(o);
        *(pass ? &again : &serial) = ask(a, &g);
        altiserve_destroy(a);
    }
    assert_int_equal(again->usage.cached_tokens, 0);
    same_tokens(again, serial, 0, 0);
    assert_memory_equal(again->logprob[0], serial->logprob[0], serial->n_tokens[0] * sizeof(float));
    o.deterministic = false; // its own it finds again
    a = engine_with(o);
    answer *own = ask(a, &g);
    altiserve_destroy(a);
    assert_int_equal(own->usage.cached_tokens, (FEW + MADE - 1) / 32 * 32);
    answer_free(filled), answer_free(again), answer_free(serial), answer_free(own);
}

static int write_models(void **state) {
    (void)state;
    write_windows(windows_path);
    write_recurrent(recurrent_path);
    return 0;
}

int main(void) {
    obs_set_level(OBS_ERROR);
    snprintf(dir, sizeof dir, "/tmp/altiserve-restore-%d", (int)getpid());
    snprintf(windows_path, sizeof windows_path, "%s-windows.gguf", dir);
    snprintf(recurrent_path, sizeof recurrent_path, "%s-recurrent.gguf", dir);
    const struct CMUnitTest tests[] = {cmocka_unit_test(windows), cmocka_unit_test(recurrent_states), cmocka_unit_test(counts_once),
                                       cmocka_unit_test(nobody_waits_for_a_younger_fetch), cmocka_unit_test(a_full_index), cmocka_unit_test(recipes_apart)};
    int failed = cmocka_run_group_tests(tests, write_models, NULL);
    empty_dir(dir);
    rmdir(dir);
    unlink(windows_path);
    unlink(recurrent_path);
    return failed;
}
