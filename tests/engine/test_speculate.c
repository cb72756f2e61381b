// Drafts: where they come from, when they pay, and that no text depends on them: with drafts in every step that finds one and without, over seeds,
// temperatures, penalties, choices, stop strings and preemption, tokens and log-probabilities are the same.
#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include "engine/eng_ngram.h"
#include "engine/eng_policy.h"
#include "engine/engine_util.h"
#include "model/small_model.h"
#include "obs/obs.h"
#include "sanitized.h"

// ---- the parts -----------------------------------------------------------------------------------

static void expect_drafts(const int32_t *text, size_t n, const int32_t *want, size_t most) {
    eng_ngram x = {0};
    int32_t out[16];
    for (size_t k = 1; k <= n; k++) { // grown token by token, as an answer is
        size_t got = eng_ngram_draft(&x, text, k, out, most);
        if (k < n) continue;
        assert_int_equal(got, want ? most : 0);
        if (want) assert_memory_equal(out, want, most * sizeof *out);
    }
    eng_ngram_free(&x);
}

static void ngrams(void **state) {
    (void)state;
    expect_drafts((int32_t[]){1, 2, 3}, 3, NULL, 4);
    expect_drafts((int32_t[]){1, 2, 3, 4, 5, 6, 7}, 7, NULL, 4);
    expect_drafts((int32_t[]){1, 2, 3, 9, 8, 1, 2, 3}, 8, (int32_t[]){9, 8, 1, 2}, 4);
    expect_drafts((int32_t[]){7, 7, 7, 7}, 4, (int32_t[]){7, 7, 7, 7, 7, 7}, 6);
    expect_drafts((int32_t[]){1, 2, 3, 1, 2, 3}, 6, (int32_t[]){1, 2, 3, 1, 2, 3, 1}, 7); // past its end
    // the place that agrees further back is followed, not the latest
    expect_drafts((int32_t[]){5, 4, 1, 2, 3, 50, 6, 1, 2, 3, 60, 5, 4, 1, 2, 3}, 16, (int32_t[]){50, 6}, 2);
    // of equals, the latest
    expect_drafts((int32_t[]){8, 1, 2, 3, 50, 9, 1, 2, 3, 60, 7, 1, 2, 3}, 14, (int32_t[]){60, 7}, 2);
    enum { LONG = 5000 };
    int32_t *text = mem_alloc(LONG * sizeof *text), out[4];
    for (int32_t i = 0; i < LONG; i++) text[i] = i % 1700;
    eng_ngram x = {0};
    assert_int_equal(eng_ngram_draft(&x, text, LONG, out, 4), 4); // all at once
    for (int i = 0; i < 4; i++) assert_int_equal(out[i], (LONG + i) % 1700);
    eng_ngram_free(&x);
    mem_free(text);
}

// A server of one stream (and of n): a step takes .02 s, a stream .001 more, a draft so much.
static pol_cost fitted(double draft) {
    pol_cost c = {0};
    for (int i = 0; i < 600; i++) {
        pol_step s = {.streams = 1 + i % 7, .drafts = i * 5 % 11};
        pol_cost_note(&c, &s, .02 + .001 * s.streams + draft * s.drafts);
    }
    return c;
}

static int32_t rows_of(pol_luck l, const pol_cost *c, double streams) {
    double tokens = streams;
    l.patience = 100;
    return pol_draft_rows(&l, c, &(pol_step){.streams = streams}, 0, 15, &tokens);
}

static void drafts_pay(void **state) {
    (void)state;
    pol_cost cheap = fitted(.0005), dear = fitted(.015);
    pol_luck good = {0}, bad = {0};
    for (int i = 0; i < 50; i++) pol_draft_note(&good, 8, 8), pol_draft_note(&bad, 8, 0);
    assert_int_equal(rows_of(good, &cheap, 1), 15);
    assert_in_range(rows_of(bad, &cheap, 1), 0, 2);
    assert_in_range(rows_of(good, &dear, 1), 1, 8);
    assert_int_equal(rows_of(bad, &dear, 1), 0);
    assert_true(rows_of((pol_luck){0}, &cheap, 1) >= 2);            // nothing known: the prior
    assert_true(rows_of(good, &dear, 7) < rows_of(good, &dear, 1)); // others wait for it too
    // measured: what is chosen gives more tokens a second than one more or one less
    for (int k = 1; k <= 9; k++) {
        pol_luck l = {.tried = 100, .accepted = 10 * k};
        double p = (l.accepted + .6 * 2) / (l.tried + 2), best = 0, rate = 0;
        int32_t n = rows_of(l, &dear, 1), at = 0;
        for (int32_t i = 0; i <= 15; i++) {
            double gain = 0;
            for (int j = 1; j <= i; j++) gain += pow(p, j);
            rate = (1 + gain) / (pol_cost_of(&dear, &(pol_step){.streams = 1}) + i * dear.term[4] / 8);
            if (rate > best) best = rate, at = i;
        }
        assert_int_equal(n, at);
    }
    // what never pays is tried less and less
    pol_luck hopeless = {.tried = 1000};
    int tried = 0;
    for (int i = 0; i < 2000; i++) {
        double tokens = 1;
        int32_t n = pol_draft_rows(&hopeless, &dear, &(pol_step){.streams = 1}, 0, 8, &tokens);
        if (n) pol_draft_note(&hopeless, n, 0), tried += n;
    }
    assert_in_range(tried, 4, 40);
    // and comes back when luck does
    for (int i = 0; i < 20; i++) pol_draft_note(&hopeless, 2, 2);
    assert_true(rows_of(hopeless, &dear, 1) > 0);
}

// ---- the engine ----------------------------------------------------------------------------------

enum { FEWER = SANITIZED ? 4 : 1 }; // a part of the texts under a sanitizer: it looks at memory and threads, not at which drafts are right

static altiserve_options options(altiserve_speculation when) {
    altiserve_options o = toy_options();
    o.speculation = when;
    o.draft_max = ALTISERVE_MOST_DRAFTS;
    return o;
}

static const char *const texts[] = {"one two three one two three one two three one two", "Which port does it use?", "a b a b a b a b a b a b a b a b",
                                    "The server serves. The server serves. The server serves. The server", "x"};
enum { TEXTS = 5 };

static altiserve_generate variant(int i) {
    static const float temperatures[] = {0, .3f, .8f, 1.3f};
    altiserve_generate g = greedy(texts[i % TEXTS], (uint32_t)(60 + i % 7 * 10));
    g.sampling = (altiserve_sampling){.temperature = temperatures[i % 4], .seed = (uint64_t)i, .has_seed = true, .top_k = i % 3 ? 0 : 20, .top_p = i % 5 ? 1 : .9f,
                                      .repetition_penalty = i % 6 == 5 ? 1.2f : 1, .repetition_last_n = 24, .frequency_penalty = i % 8 == 3 ? .3f : 0};
    g.given |= SAMPLING_TOP_K | SAMPLING_TOP_P | SAMPLING_REPETITION | SAMPLING_LAST_N | SAMPLING_FREQUENCY;
    g.n = i % 9 == 8 ? 3 : 1;
    g.logprobs = i % 4 == 1 ? 2 : -1;
    g.ignore_eos = i % 10 != 7;
    static const char *const stops[] = {"er", "two t"};
    if (i % 10 == 4) g.stop = stops, g.n_stop = 2;
    return g;
}

static void same(const answer *x, const answer *y, uint32_t n) {
    assert_int_equal(x->end, y->end);
    for (uint32_t c = 0; c < n; c++) {
        same_tokens(x, y, (int)c, (int)c);
        assert_int_equal(x->finish[c], y->finish[c]);
        assert_int_equal(x->text[c].len, y->text[c].len);
        assert_memory_equal(x->logprob[c], y->logprob[c], x->n_tokens[c] * sizeof(float));
    }
}

static void text_does_not_depend_on_drafts(void **state) {
    (void)state;
    altiserve *plain = engine_with(options(SPECULATE_OFF)), *drafting = engine_with(options(SPECULATE_ALWAYS)), *when = engine_with(options(SPECULATE_AUTO));
    uint32_t drafted = 0, accepted = 0;
    for (int i = 0; i < 120 / FEWER; i++) {
        altiserve_generate g = variant(i);
        answer *x = ask(plain, &g), *y = ask(drafting, &g), *z = ask(when, &g);
        if (x->end == FINISH_ERROR) fail_msg("%s", x->err.text);
        same(x, y, g.n);
        same(x, z, g.n);
        assert_int_equal(x->usage.drafted_tokens, 0);
        assert_int_equal(x->usage.completion_tokens, y->usage.completion_tokens);
        assert_true(y->usage.accepted_tokens <= y->usage.drafted_tokens && y->usage.accepted_tokens <= y->usage.completion_tokens);
        drafted += y->usage.drafted_tokens;
        accepted += y->usage.accepted_tokens;
        answer_free(x);
        answer_free(y);
        answer_free(z);
    }
    assert_true(accepted > 200 / FEWER && drafted > accepted + 200 / FEWER); // both ways were gone
    altiserve_destroy(plain);
    altiserve_destroy(drafting);
    altiserve_destroy(when);
}

// A crowd with few pages: preempted and taken up again between drafts.
static void crowds_and_preemption(void **state) {
    (void)state;
    enum { CLIENTS = 18 };
    altiserve *plain = engine_with(options(SPECULATE_OFF));
    altiserve_options o = options(SPECULATE_ALWAYS);
    o.memory = 1;
    altiserve *tiny = engine_with(o);
    altiserve_generate g = greedy("x", 4);
    answer *x = ask(tiny, &g);
    unsigned long long memory = 0;
    assert_int_equal(sscanf(strstr(x->err.text, "at least"), "at least %llu bytes", &memory), 1);
    answer_free(x);
    altiserve_destroy(tiny);
    o.memory = memory;
    altiserve *narrow = engine_with(o);
    double before = obs_read(OBS_PREEMPTIONS, "toy-1", NULL);
    client c[CLIENTS];
    pthread_t t[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        c[i] = (client){.a = narrow, .g = variant(i + 3)};
        assert_int_equal(pthread_create(&t[i], NULL, client_main, &c[i]), 0);
    }
    uint32_t accepted = 0;
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(t[i], NULL);
        x = ask(plain, &c[i].g);
        same(x, c[i].got, c[i].g.n);
        accepted += c[i].got->usage.accepted_tokens;
        answer_free(x);
        answer_free(c[i].got);
    }
    assert_true(accepted > 0);
    assert_true(obs_read(OBS_PREEMPTIONS, "toy-1", NULL) > before);
    altiserve_destroy(plain);
    altiserve_destroy(narrow);
}

// The next turn of a text whose answer was drafted finds all of its pages.
static void pages_of_drafted_answers_are_reused(void **state) {
    (void)state;
    altiserve *a = engine_with(options(SPECULATE_ALWAYS));
    altiserve_generate g = greedy(texts[2], 120);
    answer *x = ask(a, &g);
    assert_true(x->usage.accepted_tokens > 0);
    int32_t *ids;
    size_t n;
    assert_int_equal(altiserve_tokenize(a, "toy-1", texts[2], strlen(texts[2]), TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, &ids, &n, NULL), OK);
    int32_t all[400];
    memcpy(all, ids, n * sizeof *ids);
    memcpy(all + n, x->tokens[0], x->n_tokens[0] * sizeof *all);
    g = (altiserve_generate){.model = "toy-1", .tokens = all, .n_tokens = n + x->n_tokens[0], .n = 1, .max_tokens = 1, .logprobs = -1, .given = SAMPLING_TEMPERATURE};
    answer *y = ask(a, &g);
    assert_int_equal(y->usage.cached_tokens, (g.n_tokens - 1) / 32 * 32);
    answer_free(x);
    answer_free(y);
    mem_free(ids);
    altiserve_destroy(a);
}

static void a_request_may_say_no(void **state) {
    (void)state;
    altiserve *a = engine_with(options(SPECULATE_ALWAYS));
    altiserve_generate g = greedy(texts[2], 80);
    g.draft_max = -1;
    answer *x = ask(a, &g);
    g.draft_max = 1;
    double drafts = obs_read(OBS_DRAFTS, "toy-1", NULL), drafted = obs_read(OBS_DRAFTED, "toy-1", NULL);
    answer *y = ask(a, &g);
    assert_int_equal(x->usage.drafted_tokens, 0);
    assert_true(y->usage.drafted_tokens > 0);
    assert_true(obs_read(OBS_DRAFTED, "toy-1", NULL) - drafted == y->usage.drafted_tokens);
    assert_true(obs_read(OBS_DRAFTS, "toy-1", NULL) - drafts == y->usage.drafted_tokens); // one each
    answer_free(x);
    answer_free(y);
    altiserve_destroy(a);
}

// Windows give back pages while rows past the newest token are written: gemma2's layers, every other one seeing 40 tokens.
static void windows(void **state) {
    (void)state;
    enum { VOCAB = 64, PROMPT = 90 };
    char path[600];
    small_spec spec = {.arch = "gemma2", .e = 32, .layers = 4, .heads = 4, .kv = 2, .head = 8, .ff = 64, .vocab = VOCAB, .post_norms = true, .tied = true};
    small_model m;
    small_begin(&m, &spec);
    small_u32(&m, &spec, "attention.sliding_window", 40);
    snprintf(path, sizeof path, "%s/draft-windows.gguf", BINARY_DIR);
    small_file(&m, &spec, path);
    altiserve_options o = options(SPECULATE_OFF);
    o.open_paths = true;
    o.context = 1024;
    o.parallel = 2;
    altiserve *plain = engine_with(o);
    o.speculation = SPECULATE_ALWAYS;
    altiserve *drafting = engine_with(o);
    int32_t prompt[PROMPT];
    uint32_t drafted = 0, accepted = 0;
    for (int i = 0; i < 24 / FEWER; i++) {
        for (int k = 0; k < PROMPT; k++) prompt[k] = (k % (3 + i) * 7 + i) % VOCAB;
        altiserve_generate g = {.model = path, .tokens = prompt, .n_tokens = PROMPT - (size_t)i, .n = 1 + (uint32_t)i % 2, .max_tokens = 300, .logprobs = -1, .ignore_eos = true,
                                .sampling = {.temperature = i % 3 ? .03f * (float)i : 0, .seed = (uint64_t)i, .has_seed = true}, .given = SAMPLING_TEMPERATURE};
        answer *x = ask(plain, &g), *y = ask(drafting, &g);
        if (x->end == FINISH_ERROR) fail_msg("%s", x->err.text);
        same(x, y, g.n);
        drafted += y->usage.drafted_tokens;
        accepted += y->usage.accepted_tokens;
        answer_free(x);
        answer_free(y);
    }
    if (accepted < 200 / FEWER || drafted < accepted + 200 / FEWER) fail_msg("%u of %u drafts were right: both ways must be gone", accepted, drafted);
    altiserve_destroy(plain);
    altiserve_destroy(drafting);
    assert_int_equal(unlink(path), 0);
}

// ---- a second model ------------------------------------------------------------------------------

static void answers_are_plain(altiserve_options o, int from, int to, uint32_t least) {
    altiserve *plain = engine_with(options(SPECULATE_OFF)), *drafting = engine_with(o);
    uint32_t accepted = 0, drafted = 0;
    altiserve_request *r[64];
    altiserve_generate g[64];
    assert_true(to - from <= 64);
    answer *warm; // until the draft model is loaded there are no drafts of it
    do {
        g[0] = greedy(texts[1], 30);
        warm = ask(drafting, &g[0]);
        drafted = warm->usage.drafted_tokens;
        answer_free(warm);
    } while (!drafted);
    drafted = 0;
    for (int i = from; i < to; i++) {
        g[i - from] = variant(i);
        assert_int_equal(altiserve_submit(drafting, &g[i - from], &r[i - from], NULL), OK);
    }
    for (int i = 0; i < to - from; i++) {
        answer *x = ask(plain, &g[i]), *y = mem_calloc(1, sizeof *y);
        collect(r[i], y);
        same(x, y, g[i].n);
        accepted += y->usage.accepted_tokens;
        drafted += y->usage.drafted_tokens;
        answer_free(x);
        answer_free(y);
    }
    if (accepted < least) fail_msg("%u of %u drafts were right", accepted, drafted);
    altiserve_destroy(plain);
    altiserve_destroy(drafting);
}

// Which drafts for itself: what it draws is what it will have drawn.
static void a_model_drafts_for_itself(void **state) {
    (void)state;
    altiserve_options o = options(SPECULATE_ALWAYS);
    o.draft = "toy-1";
    answers_are_plain(o, 0, 40 / FEWER, 800 / FEWER);
    altiserve *a = engine_with(o);
    altiserve_generate g = greedy("A text that repeats nothing yet?", 12);
    answer *x = ask(a, &g);
    assert_int_equal(x->usage.drafted_tokens, x->usage.accepted_tokens);
    assert_in_range(x->usage.accepted_tokens, 8, 11);
    answer_free(x);
    altiserve_destroy(a);
}

typedef struct used {
    altiserve *a;
    uint64_t now, most; // pages of the model that drafts
    bool listed;
} used;

static void note_used(void *ctx, const altiserve_model_stats *s) {
    used *u = ctx;
    if (strcmp(s->id, "draft-toy")) return;
    u->listed = true;
    u->now = s->pages_used;
    if (u->now > u->most) u->most = u->now;
}

static void look_at_pages(void *ctx) { altiserve_each_stats(((used *)ctx)->a, note_used, ctx); }

static void a_smaller_model_drafts(void **state) {
    (void)state;
    char path[600];
    snprintf(path, sizeof path, "%s/draft-toy.gguf", BINARY_DIR);
    altiserve_quantize_spec q = {.in = SOURCE_DIR "/tools/toy/toy-1.gguf", .out = path, .type = "Q4_0", .threads = 1};
    altiserve_quantize_result made;
    error err = {0};
    if (altiserve_quantize(&q, &made, &err) != OK) fail_msg("%s", err.text);
    altiserve_options o = options(SPECULATE_ALWAYS);
    o.draft = path;
    answers_are_plain(o, 0, 60 / FEWER, 400 / FEWER);
    o.speculation = SPECULATE_AUTO;
    answers_are_plain(o, 60, 60 + 40 / FEWER, 0);
    // the ledger has both
    altiserve_stats alone, both;
    altiserve_generate g = greedy(texts[1], 30);
    for (int i = 0; i < 2; i++) {
        o.draft = i ? path : NULL;
        o.speculation = SPECULATE_ALWAYS;
        altiserve *a = engine_with(o);
        bool loaded = false;
        do {
            answer *x = ask(a, &g);
            altiserve_get_stats(a, i ? &both : &alone);
            loaded = !i || both.memory_used > alone.memory_used;
            answer_free(x);
        } while (!loaded);
        used u = {.a = a}; // its pages are counted while it drafts, and no longer
        altiserve_generate seen = g;
        seen.notify = look_at_pages;
        seen.notify_ctx = &u;
        while (i && !u.listed) answer_free(ask(a, &seen));
        answer_free(ask(a, &seen));
        look_at_pages(&u);
        assert_true(u.now == 0 && (u.most > 0) == i);
        altiserve_destroy(a);
    }
    // too little memory for both: the answers come without it, and nobody waits
    altiserve_generate h = variant(4);
    altiserve *plain = engine_with(options(SPECULATE_OFF));
    answer *want = ask(plain, &h);
    o.memory = 20u << 20;
    altiserve *a = engine_with(o);
    for (int i = 0; i < 3; i++) {
        answer *x = ask(a, &h);
        same(want, x, h.n);
        altiserve_get_stats(a, &both);
        assert_true(both.memory_used <= o.memory);
        answer_free(x);
    }
    answer_free(want);
    altiserve_destroy(a);
    altiserve_destroy(plain);
    // it is served itself, too: when all have ended, none of its pages are shown as used
    o = options(SPECULATE_ALWAYS);
    o.draft = path;
    o.open_paths = true;
    a = engine_with(o);
    altiserve_generate longer = greedy(texts[1], 400), own = greedy("Hello", 2);
    own.model = path;
    bool drafts = false;
    while (!drafts) { // it is being loaded
        altiserve_request *r;
        altiserve_event e;
        assert_int_equal(altiserve_submit(a, &longer, &r, NULL), OK);
        while (!drafts && altiserve_next(r, UINT32_MAX, &e) != EVENT_END) drafts = altiserve_request_usage(r).drafted_tokens > 0;
        answer_free(ask(a, &own));
        answer *x = mem_calloc(1, sizeof *x);
        altiserve_cancel(r);
        collect(r, x);
        answer_free(x);
    }
    used all = {.a = a};
    look_at_pages(&all);
    assert_true(all.listed);
    assert_int_equal(all.now, 0);
    altiserve_destroy(a);
    // which is not there
    o.draft = "no-such-model";
    altiserve *none = NULL;
    assert_int_equal(altiserve_create(&o, &none, &err), E_NOTFOUND);
    assert_int_equal(unlink(path), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ngrams), cmocka_unit_test(drafts_pay), cmocka_unit_test(text_does_not_depend_on_drafts),
                                       cmocka_unit_test(crowds_and_preemption), cmocka_unit_test(pages_of_drafted_answers_are_reused),
                                       cmocka_unit_test(a_request_may_say_no), cmocka_unit_test(windows),
                                       cmocka_unit_test(a_model_drafts_for_itself), cmocka_unit_test(a_smaller_model_drafts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
