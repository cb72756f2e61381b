// The cache of whole answers: the same deterministic request is replayed event by event, and whatever changes the answer misses.
#include "engine/engine_util.h"
#include "obs/obs.h"

static altiserve *engine(uint32_t entries, uint64_t bytes) {
    altiserve_options o = toy_options();
    o.responses = entries;
    o.response_bytes = bytes;
    return engine_with(o);
}

static altiserve_generate base(void) {
    altiserve_generate g = greedy("Which port does it use?", 24);
    g.logprobs = 2;
    return g;
}

static bool replayed(altiserve *a, const altiserve_generate *g) {
    answer *x = ask(a, g);
    if (x->submitted != OK || x->end == FINISH_ERROR) fail_msg("%s", x->err.text);
    bool is = x->usage.replayed;
    answer_free(x);
    return is;
}

// Event by event the same, also where several choices and log-probabilities are asked for.
static void replays_are_the_same(void **state) {
    (void)state;
    altiserve *a = engine(10, 0);
    altiserve_generate g = base();
    g.n = 3;
    g.sampling = (altiserve_sampling){.temperature = 1.2f, .seed = 4, .has_seed = true};
    assert_false(replayed(a, &g));
    altiserve_request *r[2];
    for (int i = 0; i < 2; i++) assert_int_equal(altiserve_submit(a, &g, &r[i], NULL), OK);
    altiserve_event e[2];
    size_t events = 0;
    for (bool on = true; on; events++) {
        for (int i = 0; i < 2; i++) altiserve_next(r[i], 0, &e[i]); // never waits
        assert_int_equal(e[0].kind, e[1].kind);
        assert_int_not_equal(e[0].kind, EVENT_NONE);
        assert_true(e[0].usage.replayed);
        assert_int_equal(e[0].finish, e[1].finish);
        on = e[0].kind != EVENT_END;
        if (e[0].kind != EVENT_TEXT) continue;
        assert_int_equal(e[0].choice, e[1].choice);
        assert_int_equal(e[0].text_len, e[1].text_len);
        assert_memory_equal(e[0].text, e[1].text, e[0].text_len);
        assert_int_equal(e[0].n_tokens, e[1].n_tokens);
        for (size_t k = 0; k < 3 * e[0].n_tokens; k++) {
            assert_int_equal(e[0].logprobs[k].token, e[1].logprobs[k].token);
            assert_true(e[0].logprobs[k].logprob == e[1].logprobs[k].logprob);
            assert_memory_equal(e[0].logprobs[k].bytes, e[1].logprobs[k].bytes, e[0].logprobs[k].len);
        }
    }
    assert_true(events > 10);
    for (int i = 0; i < 2; i++) altiserve_request_free(r[i]);
    altiserve_destroy(a);

    // and as it is without a cache
    altiserve *plain = engine(0, 0);
    a = engine(10, 0);
    answer *x = ask(plain, &g), *y = ask(a, &g), *z = ask(a, &g);
    assert_true(!x->usage.replayed && !y->usage.replayed && z->usage.replayed);
    for (int c = 0; c < 3; c++) {
        same_tokens(x, z, c, c);
        assert_string_equal(x->text[c].data, z->text[c].data);
        assert_int_equal(x->finish[c], z->finish[c]);
        assert_memory_equal(y->logprob[c], z->logprob[c], y->n_tokens[c] * sizeof(float));
    }
    assert_int_equal(z->started, 1);
    assert_int_equal(z->usage.completion_tokens, x->usage.completion_tokens);
    assert_int_equal(z->usage.prompt_tokens, x->usage.prompt_tokens);
    assert_false(replayed(plain, &g));
    answer_free(x);
    answer_free(y);
    answer_free(z);
    altiserve_destroy(plain);
    altiserve_destroy(a);
}

// A replay says which stop string ended the answer, and took no time, for loading the model neither.
static void replays_say_what_ended_them(void **state) {
    (void)state;
    altiserve *a = engine(10, 0);
    altiserve_generate g = base();
    answer *whole = ask(a, &g);
    assert_true(whole->usage.load_s > 0 && whole->usage.queue_s >= whole->usage.load_s); // it was loaded for this one
    char stop[4] = {0};
    memcpy(stop, whole->text[0].data + 8, 3);
    const char *const two[] = {"never written", stop};
    g.stop = two;
    g.n_stop = 2;
    answer *x = ask(a, &g), *y = ask(a, &g);
    assert_true(!x->usage.replayed && y->usage.replayed);
    assert_int_equal(x->finish[0], FINISH_STOP);
    assert_int_equal(x->stop[0], 2);
    assert_int_equal(y->stop[0], 2);
    g = base();
    answer *z = ask(a, &g);
    assert_true(z->usage.replayed && z->stop[0] == 0);
    assert_true(z->usage.queue_s == 0 && z->usage.load_s == 0 && z->usage.prefill_s == 0 && z->usage.decode_s == 0);
    answer_free(whole), answer_free(x), answer_free(y), answer_free(z);
    altiserve_destroy(a);
}

static const char *const stops[] = {"port", "zz"};
static const altiserve_bias bias = {65, 1};

// One change each to a seeded request that samples.
static void change(altiserve_generate *g, int i) {
    altiserve_sampling *s = &g->sampling;
    switch (i) {
    case 0: g->text = "Which port does it use!"; break;
    case 1: g->max_tokens = 23; break;
    case 2: g->n = 2; break;
    case 3: g->ignore_eos = false; break;
    case 4: g->logprobs = 1; break;
    case 5: g->stop = stops, g->n_stop = 1; break;
    case 6: g->stop = stops, g->n_stop = 2; break;
    case 7: s->temperature = .71f; break;
    case 8: s->top_k = 40, g->given |= SAMPLING_TOP_K; break;
    case 9: s->top_p = .9f, g->given |= SAMPLING_TOP_P; break;
    case 10: s->min_p = .1f, g->given |= SAMPLING_MIN_P; break;
    case 11: s->typical_p = .8f, g->given |= SAMPLING_TYPICAL_P; break;
    case 12: s->repetition_penalty = 1.1f, g->given |= SAMPLING_REPETITION; break;
    case 13: s->repetition_penalty = 1.1f, s->repetition_last_n = 3, g->given |= SAMPLING_REPETITION | SAMPLING_LAST_N; break;
    case 14: s->presence_penalty = .5f, g->given |= SAMPLING_PRESENCE; break;
    case 15: s->frequency_penalty = .5f, g->given |= SAMPLING_FREQUENCY; break;
    case 16: s->seed = 10; break;
    case 17: s->bias = &bias, s->n_bias = 1; break;
    case 18: g->cache_salt = "tenant"; break;
    case 19: s->temperature = 0; break;
    case 20: g->logprobs = -1; break;
    }
}
enum { CHANGES = 21 };

static void what_changes_the_answer_misses(void **state) {
    (void)state;
    altiserve *a = engine(100, 0);
    altiserve_generate g = base();
    g.ignore_eos = true;
    g.sampling = (altiserve_sampling){.temperature = .7f, .seed = 9, .has_seed = true, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .repetition_last_n = -1};
    double hits = obs_read(OBS_RESPONSES, "toy-1", "hit"), misses = obs_read(OBS_RESPONSES, "toy-1", "miss");
    assert_false(replayed(a, &g));
    for (int i = 0; i < CHANGES; i++) {
        altiserve_generate h = g;
        change(&h, i);
        if (replayed(a, &h)) fail_msg("change %d was answered with another's answer", i);
        if (!replayed(a, &h)) fail_msg("change %d is not kept", i);
    }
    assert_true(replayed(a, &g));
    assert_true(obs_read(OBS_RESPONSES, "toy-1", "hit") - hits == CHANGES + 1);
    assert_true(obs_read(OBS_RESPONSES, "toy-1", "miss") - misses == CHANGES + 1);
    // who asks, how urgently and for how long changes nothing; nor the seed of what is not drawn
    g.client = "someone";
    g.priority = 5;
    g.timeout_ms = 100000;
    g.draft_max = 2;
    assert_true(replayed(a, &g));
    g.sampling = (altiserve_sampling){.temperature = 0};
    assert_true(replayed(a, &g)); // change 19 with another seed
    g.sampling.seed = 5;
    g.sampling.has_seed = true;
    assert_true(replayed(a, &g));
    // what is drawn without a seed is never looked up, nor what asks why it was computed
    g.sampling = (altiserve_sampling){.temperature = .7f};
    assert_false(replayed(a, &g));
    assert_false(replayed(a, &g));
    g.sampling.temperature = 0;
    g.explain = true;
    assert_false(replayed(a, &g));
    altiserve_destroy(a);
}

static altiserve_generate numbered(char *text, int i) {
    snprintf(text, 32, "Question %d", i);
    altiserve_generate g = greedy(text, 20);
    return g;
}

static void bounds(void **state) {
    (void)state;
    char text[32];
    altiserve *a = engine(3, 0);
    altiserve_generate g;
    for (int i = 0; i < 3; i++) g = numbered(text, i), assert_false(replayed(a, &g));
    g = numbered(text, 0), assert_true(replayed(a, &g)); // now 1 is the oldest
    g = numbered(text, 3), assert_false(replayed(a, &g));
    assert_true(obs_read(OBS_RESPONSE_ENTRIES, NULL, NULL) == 3);
    g = numbered(text, 0), assert_true(replayed(a, &g));
    g = numbered(text, 2), assert_true(replayed(a, &g));
    g = numbered(text, 1), assert_false(replayed(a, &g));
    altiserve_destroy(a);
    enum { BYTES = 60000 };
    a = engine(1000, BYTES);
    for (int i = 0; i < 60; i++) {
        g = numbered(text, i);
        assert_false(replayed(a, &g));
        assert_true(obs_read(OBS_RESPONSE_BYTES, NULL, NULL) <= BYTES);
    }
    double n = obs_read(OBS_RESPONSE_ENTRIES, NULL, NULL);
    assert_true(n > 1 && n < 60);
    g = numbered(text, 59), assert_true(replayed(a, &g));
    g = greedy("long", 1000); // more than an eighth of the bytes
    assert_false(replayed(a, &g));
    assert_false(replayed(a, &g));
    altiserve_destroy(a);
}

// What did not end by itself is not kept.
static void cut_answers_are_not_kept(void **state) {
    (void)state;
    altiserve *a = engine(10, 0);
    altiserve_generate g = greedy("Tell me a story", 1000);
    altiserve_request *r;
    altiserve_event e;
    assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_TEXT) {}
    altiserve_cancel(r);
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_END) {}
    assert_int_equal(e.finish, FINISH_CANCELLED);
    altiserve_request_free(r);
    assert_true(obs_read(OBS_RESPONSE_ENTRIES, NULL, NULL) == 0);
    altiserve_destroy(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(cut_answers_are_not_kept), cmocka_unit_test(replays_are_the_same),
                                       cmocka_unit_test(replays_say_what_ended_them), cmocka_unit_test(what_changes_the_answer_misses), cmocka_unit_test(bounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
