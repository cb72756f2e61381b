// Models of which every attention layer sees a window, in little memory: a prompt of any length is answered or refused at once, and keeps nobody else waiting.
#include <unistd.h>

#include "engine/engine_util.h"
#include "model/small_model.h"
#include "obs/obs.h"

enum { VOCAB = 300 };
static char path[200];

static void write_model(void) {
    small_model m;
    // Five layers: the sixth would see everything.
    small_spec s = {.arch = "gemma3", .e = 32, .layers = 5, .heads = 2, .kv = 1, .head = 16, .ff = 48, .vocab = VOCAB, .post_norms = true, .tied = true};
    small_begin(&m, &s);
    small_u32(&m, &s, "context_length", 2048);
    small_u32(&m, &s, "attention.sliding_window", 1024);
    small_file(&m, &s, path);
}

// True: answered. False: refused for its length.
static bool ends(altiserve *a, altiserve_generate g) {
    answer *x = mem_calloc(1, sizeof *x);
    altiserve_request *r = NULL;
    altiserve_event e;
    altiserve_event_kind kind;
    x->submitted = altiserve_submit(a, &g, &r, &x->err);
    if (x->submitted == OK) {
        while ((kind = altiserve_next(r, 60000, &e)) != EVENT_END)
            if (kind == EVENT_NONE) fail_msg("a prompt of %zu tokens neither begins nor is refused", g.n_tokens);
        x->end = e.finish;
        x->err = e.err;
        altiserve_request_free(r);
    }
    bool answered = x->submitted == OK && x->end == FINISH_LENGTH;
    if (!answered && x->err.code != E_LIMIT) fail_msg("%zu tokens: %s", g.n_tokens, x->err.text);
    answer_free(x);
    return answered;
}

static void any_length(void **state) {
    (void)state;
    static int32_t tokens[1400];
    static const struct { int32_t step; uint64_t more; } sizes[] = {{64, 3000}, {64, 60000}, {0, 3000}, {0, 160000}, {0, 64 << 20}};
    for (int i = 0; i < 1400; i++) tokens[i] = (i * 7 + i * i % 11) % VOCAB;
    altiserve_generate g = {.model = path, .tokens = tokens, .n_tokens = 40, .n = 1, .max_tokens = 4, .logprobs = -1, .ignore_eos = true, .given = SAMPLING_TEMPERATURE};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        altiserve_options o = toy_options();
        o.open_paths = true;
        o.context = 2048;
        o.parallel = 4;
        o.step_tokens = sizes[i].step;
        g.n_tokens = 40;
        o.memory = least_memory(o, g) + sizes[i].more;
        altiserve *a = engine_with(o);
        bool before = true;
        for (int n = 40; n <= 1400; n += 170) {
            g.n_tokens = (size_t)n;
            bool now = ends(a, g);
            assert_true(before || !now);
            before = now;
        }
        assert_true(before || sizes[i].more < 64 << 20); // with enough of it all are answered
        g.n_tokens = 40;
        assert_true(ends(a, g));
        altiserve_destroy(a);
    }
}

// Steps of fewer rows than a page has: a prompt that older streams left no pages takes no more rows than a step has when its turn comes.
static void small_steps(void **state) {
    (void)state;
    enum { REQUESTS = 8 };
    static int32_t tokens[REQUESTS][300];
    altiserve_options o = toy_options();
    altiserve_generate g[REQUESTS];
    altiserve_request *r[REQUESTS];
    error err = {0};
    o.open_paths = true;
    o.context = 2048;
    o.parallel = 5;
    o.speculation = SPECULATE_OFF;
    for (int i = 0; i < REQUESTS; i++) {
        for (int k = 0; k < 300; k++) tokens[i][k] = (k * (7 + i) + k * k % 11) % VOCAB;
        g[i] = (altiserve_generate){.model = path, .tokens = tokens[i], .n_tokens = i % 2 ? 200 : 40, .n = 1, .max_tokens = i % 2 ? 4 : 120,
                                    .logprobs = -1, .ignore_eos = true, .given = SAMPLING_TEMPERATURE};
    }
    altiserve *wide = engine_with(o);
    o.step_tokens = 9;
    o.memory = least_memory(o, g[0]) + 3000;
    altiserve *a = engine_with(o);
    for (int i = 0; i < REQUESTS; i++)
        if (altiserve_submit(a, &g[i], &r[i], &err) != OK) fail_msg("%s", err.text);
    for (int i = 0; i < REQUESTS; i++) {
        answer *x = mem_calloc(1, sizeof *x), *want = ask(wide, &g[i]);
        collect(r[i], x);
        if (x->end != FINISH_LENGTH) fail_msg("request %d: %s", i, x->err.text);
        same_tokens(want, x, 0, 0);
        answer_free(x);
        answer_free(want);
    }
    altiserve_destroy(a);
    altiserve_destroy(wide);
}

int main(void) {
    obs_set_level(OBS_ERROR);
    snprintf(path, sizeof path, "/tmp/altiserve-windows-%d.gguf", (int)getpid());
    write_model();
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_length), cmocka_unit_test(small_steps)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
