// Recurrent models in the engine: a small random hybrid (state-space, attention and feed-forward layers) from a file. Reuse of prefixes goes on from
// kept states and changes no token; states are few, and requests that want more of them than there are wait and answer as they do alone.
#include <unistd.h>

#include "engine/recurrent_model.h"

enum { LONGEST = 1400 };

static char path[64];

static int write_model(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/altiserve-recurrent-%ld.gguf", (long)getpid());
    write_recurrent(path);
    return 0;
}

static int remove_model(void **state) {
    (void)state;
    return unlink(path);
}

static altiserve *engine(bool cache, int parallel, int step) {
    altiserve_options o = toy_options();
    o.open_paths = true;
    o.prefix_cache = cache;
    o.parallel = parallel;
    o.step_tokens = step;
    return engine_with(o);
}

static int32_t text[2][LONGEST];

static void make_texts(void) {
    for (int i = 0; i < LONGEST; i++) {
        text[0][i] = (i * 7 + i * i % 11) % VOCAB;
        text[1][i] = (i * 5 + i * i % 13) % VOCAB;
    }
}

static altiserve_generate prompt(const int32_t *tokens, size_t n, uint32_t max_tokens) {
    return (altiserve_generate){.model = path, .tokens = tokens, .n_tokens = n, .n = 1, .max_tokens = max_tokens,
                                .logprobs = -1, .ignore_eos = true, .sampling = {.temperature = 0}, .given = SAMPLING_TEMPERATURE};
}

static answer *asked(altiserve *a, const int32_t *tokens, size_t n, uint32_t max_tokens) {
    altiserve_generate g = prompt(tokens, n, max_tokens);
    answer *out = ask(a, &g);
    if (out->submitted != OK || out->end == FINISH_ERROR) fail_msg("%s", out->err.text);
    return out;
}

// The same answers with reuse as without, for prompts that end inside and at the end of a page; and how much was found.
static void prefixes_are_reused(void **state) {
    (void)state;
    make_texts();
    altiserve *plain = engine(false, 4, 64), *a = engine(true, 4, 100);
    static const struct { size_t n; uint32_t cached; } asks[] = {{77, 0}, {77, 64}, {97, 64}, {98, 96}, {96, 64}, {1400, 96}, {1399, 1376}, {1040, 1024}, {1025, 1024}, {20, 0}};
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        answer *x = asked(plain, text[0], asks[i].n, 24), *y = asked(a, text[0], asks[i].n, 24);
        same_tokens(x, y, 0, 0);
        if (y->usage.cached_tokens != asks[i].cached) fail_msg("prompt %zu of %zu tokens: %u cached, expected %u", i, asks[i].n, y->usage.cached_tokens, asks[i].cached);
        assert_int_equal(x->usage.cached_tokens, 0);
        answer_free(x);
        answer_free(y);
    }
    altiserve_destroy(plain);
    altiserve_destroy(a);
}

// The next turn goes on from the last border of the answer before.
static void turns_are_reused(void **state) {
    (void)state;
    make_texts();
    altiserve *plain = engine(false, 4, 64), *a = engine(true, 4, 64);
    int32_t tokens[400];
    size_t n = 50;
    memcpy(tokens, text[1], sizeof tokens);
    for (int turn = 0; turn < 3; turn++) {
        answer *x = asked(plain, tokens, n, 60), *y = asked(a, tokens, n, 60);
        same_tokens(x, y, 0, 0);
        assert_int_equal(y->n_tokens[0], 60);
        if (turn) assert_int_equal(y->usage.cached_tokens, (n - 9 - 1) / 32 * 32); // the last token of an answer was never read
        memcpy(tokens + n, y->tokens[0], 60 * sizeof *tokens);
        n += 60 + 9; // and what the user says next
        answer_free(x);
        answer_free(y);
    }
    altiserve_destroy(plain);
    altiserve_destroy(a);
}

// Many at once, several choices among them: as each alone.
static void crowds_answer_as_one(void **state) {
    (void)state;
    make_texts();
    enum { CROWD = 10 };
    altiserve *plain = engine(false, 1, 64), *a = engine(true, 3, 48);
    altiserve_request *r[CROWD];
    error err;
    for (int i = 0; i < CROWD; i++) {
        altiserve_generate g = prompt(text[i % 2], 40 + 31 * (size_t)(i / 2), 20);
        g.n = i % 4 == 3 ? 3 : 1;
        assert_int_equal(altiserve_submit(a, &g, &r[i], &err), OK);
    }
    for (int i = 0; i < CROWD; i++) {
        answer *y = mem_calloc(1, sizeof *y), *x = asked(plain, text[i % 2], 40 + 31 * (size_t)(i / 2), 20);
        collect(r[i], y);
        for (int c = 0; c < (i % 4 == 3 ? 3 : 1); c++) same_tokens(x, y, 0, c);
        answer_free(x);
        answer_free(y);
    }
    altiserve_destroy(plain);
    altiserve_destroy(a);
}

// What a model asks for at least is enough, and any memory between that and plenty: states never take what keys need, pages are whole.
static void least_memory_serves(void **state) {
    (void)state;
    make_texts();
    altiserve_options o = toy_options();
    o.open_paths = true;
    o.parallel = 3;
    o.step_tokens = 48;
    altiserve *plain = engine(false, 1, 64);
    answer *x = asked(plain, text[0], 100, 60);
    uint64_t least = least_memory(o, prompt(text[0], 100, 60));
    for (int i = 0; i < 40; i++) {
        o.memory = least + (uint64_t)i * 997;
        altiserve *a = engine_with(o);
        answer *y = asked(a, text[0], 100, 60);
        same_tokens(x, y, 0, 0);
        altiserve_stats st;
        altiserve_get_stats(a, &st);
        assert_true(st.memory_used <= st.memory_limit);
        answer_free(y);
        altiserve_destroy(a);
    }
    answer_free(x);
    altiserve_destroy(plain);
}

// A state cannot be taken back row by row: after a wrong draft it is brought up again, also where states are few, at borders where one is kept, and at turns.
static void drafts_change_nothing_of(const char *draft) {
    make_texts();
    enum { CROWD = 12 };
    altiserve_options o = toy_options();
    o.open_paths = o.deterministic = true;
    o.parallel = 3;
    o.speculation = SPECULATE_OFF;
    altiserve *plain = engine_with(o);
    o.speculation = SPECULATE_ALWAYS;
    o.draft = draft;
    altiserve *a = engine_with(o);
    altiserve_request *r[CROWD];
    altiserve_generate asks[CROWD];
    error err;
    uint32_t drafted = 0, accepted = 0;
    for (int i = 0; i < CROWD; i++) {
        asks[i] = prompt(text[i % 2], 40 + 31 * (size_t)(i / 2), 150);
        asks[i].sampling = (altiserve_sampling){.temperature = i % 3 ? .05f * (float)i : 0, .seed = (uint64_t)i, .has_seed = true};
        asks[i].n = i % 4 == 3 ? 3 : 1;
        assert_int_equal(altiserve_submit(a, &asks[i], &r[i], &err), OK);
    }
    for (int i = 0; i < CROWD; i++) {
        answer *y = mem_calloc(1, sizeof *y), *x = ask(plain, &asks[i]);
        collect(r[i], y);
        for (uint32_t c = 0; c < asks[i].n; c++) same_tokens(x, y, (int)c, (int)c);
        drafted += y->usage.drafted_tokens;
        accepted += y->usage.accepted_tokens;
        answer_free(x);
        answer_free(y);
    }
    if (accepted < 50 || drafted < accepted + 50) fail_msg("%u of %u drafts were right: both ways must be gone", accepted, drafted);
    int32_t tokens[500]; // turns end where drafts stood
    size_t n = 50;
    memcpy(tokens, text[1], sizeof tokens);
    for (int turn = 0; turn < 3; turn++) {
        answer *x = asked(plain, tokens, n, 90), *y = asked(a, tokens, n, 90);
        same_tokens(x, y, 0, 0);
        if (turn) assert_int_equal(y->usage.cached_tokens, (n - 9 - 1) / 32 * 32);
        memcpy(tokens + n, y->tokens[0], 90 * sizeof *tokens);
        n += 90 + 9;
        answer_free(x);
        answer_free(y);
    }
    altiserve_destroy(plain);
    altiserve_destroy(a);
}

static void drafts_change_nothing(void **state) {
    (void)state;
    drafts_change_nothing_of(NULL);
}

// The states of the draft model's sequences go back as well.
static void drafts_of_a_model_change_nothing(void **state) {
    (void)state;
    drafts_change_nothing_of(path);
}

// A model of other tokens drafts nothing, and the difference is told.
static void other_vocabularies(void **state) {
    (void)state;
    make_texts();
    altiserve_options o = toy_options();
    error err = {0};
    o.open_paths = true;
    o.speculation = SPECULATE_ALWAYS;
    o.draft = "toy-1";
    altiserve *a = engine_with(o);
    assert_int_equal(altiserve_check_draft(a, path, &err), E_INVALID);
    assert_non_null(strstr(err.text, "its vocabulary has"));
    assert_int_equal(altiserve_check_draft(a, "toy-1", &err), OK);
    answer *x = asked(a, text[0], 40, 20);
    assert_int_equal(x->n_tokens[0], 20);
    answer_free(x);
    altiserve_destroy(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(prefixes_are_reused), cmocka_unit_test(turns_are_reused), cmocka_unit_test(crowds_answer_as_one),
                                       cmocka_unit_test(least_memory_serves), cmocka_unit_test(drafts_change_nothing),
                                       cmocka_unit_test(drafts_of_a_model_change_nothing), cmocka_unit_test(other_vocabularies)};
    return cmocka_run_group_tests(tests, write_model, remove_model);
}
