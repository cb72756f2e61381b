// A model that reads a prompt as a whole (not causal) in the engine: preempted, its prompt is read at once again and its answer row by row, as it was made.
#include <unistd.h>

#include "engine/engine_util.h"
#include "model/small_model.h"
#include "obs/obs.h"

enum { TOKENS = 64, CROWD = 5, ANSWER = 80 };

static char path[64];

static int write_model(void **state) {
    (void)state;
    const small_spec spec = {.arch = "dream", .e = 32, .layers = 2, .heads = 2, .kv = 2, .head = 16, .ff = 48, .vocab = TOKENS};
    small_model m;
    snprintf(path, sizeof path, "/tmp/altiserve-whole-%ld.gguf", (long)getpid());
    small_begin(&m, &spec);
    small_file(&m, &spec, path);
    return 0;
}

static int remove_model(void **state) {
    (void)state;
    return unlink(path);
}

static altiserve_options options(void) {
    altiserve_options o = toy_options();
    o.open_paths = true;
    o.parallel = 3;
    o.speculation = SPECULATE_OFF;
    return o;
}

static altiserve_generate prompt(const int32_t *tokens, size_t n) {
    return (altiserve_generate){.model = path, .tokens = tokens, .n_tokens = n, .n = 1, .max_tokens = ANSWER,
                                .logprobs = -1, .ignore_eos = true, .sampling = {.temperature = 0}, .given = SAMPLING_TEMPERATURE};
}

static void preempted_as_alone(void **state) {
    (void)state;
    int32_t tokens[CROWD][40];
    altiserve_request *r[CROWD];
    altiserve_options o = options();
    altiserve *plain = engine_with(o);
    for (int i = 0; i < CROWD; i++)
        for (int k = 0; k < 40; k++) tokens[i][k] = (k * (3 + 2 * i) + k * k % 7 + i) % TOKENS;
    o.memory = least_memory(o, prompt(tokens[0], 20));
    altiserve *narrow = engine_with(o);
    for (int i = 0; i < CROWD; i++) {
        altiserve_generate g = prompt(tokens[i], 20 + 5 * (size_t)i);
        assert_int_equal(altiserve_submit(narrow, &g, &r[i], NULL), OK);
    }
    for (int i = 0; i < CROWD; i++) {
        altiserve_generate g = prompt(tokens[i], 20 + 5 * (size_t)i);
        answer *y = mem_calloc(1, sizeof *y), *x = ask(plain, &g);
        collect(r[i], y);
        if (y->end != FINISH_LENGTH) fail_msg("request %d: %s", i, y->err.text);
        same_tokens(x, y, 0, 0);
        answer_free(x);
        answer_free(y);
    }
    char name[64];
    snprintf(name, sizeof name, "altiserve-whole-%ld", (long)getpid());
    assert_true(obs_read(OBS_PREEMPTIONS, name, NULL) > 0);
    altiserve_destroy(plain);
    altiserve_destroy(narrow);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(preempted_as_alone)};
    obs_set_level(OBS_ERROR);
    return cmocka_run_group_tests(tests, write_model, remove_model);
}
