// Models of which every attention layer sees a window, in little memory: a prompt of any length is answered or refused at once, and keeps nobody else waiting.
#include <unistd.h>

#include "engine/engine_util.h"
#include "model/small_model.h"
#include "obs/obs.h"

enum { VOCAB = 300 };
static char path[200];

static void write_model(void) {
    small_model m;
    small_spec s = {.arch = "gemma3", .e = 32, .layers = 5, .heads = 2, .kv = 1, .head = 16, .ff = 48, .vocab = VOCAB, .post_norms = true, .tied = true}; // the sixth would see everything
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

int main(void) {
    obs_set_level(OBS_ERROR);
    snprintf(path, sizeof path, "/tmp/altiserve-windows-%d.gguf", (int)getpid());
    write_model();
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_length)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
