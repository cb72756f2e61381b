// Restarts with --cache-dir of models whose pages are not all of one kind: windows (gemma3: five layers see the last tokens, the sixth all) and recurrent
// states. The next turn goes on from disk with the tokens of a run that has no cache, and so does one that finds only some groups of its pages.
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
    altiserve_generate g = {.model = path, .tokens = tokens, .n_tokens = n, .n = 1, .max_tokens = OUT, .logprobs = -1, .ignore_eos = true, .sampling = {.temperature = 1, .seed = 3, .has_seed = true},
                            .given = SAMPLING_TEMPERATURE};
    answer *x = ask(a, &g);
    altiserve_destroy(a);
    if (x->submitted != OK || x->end == FINISH_ERROR) fail_msg("%s", x->err.text);
    return x;
}

static int removed;
static void remove_second_group(const char *file) {
    if (!strcmp(file + strlen(file) - 2, ".1") && removed++ % 2 == 0) unlink(file);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(windows), cmocka_unit_test(recurrent_states)};
    int failed = cmocka_run_group_tests(tests, write_models, NULL);
    empty_dir(dir);
    rmdir(dir);
    unlink(windows_path);
    unlink(recurrent_path);
    return failed;
}
