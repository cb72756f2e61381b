// The engine from altiserve.h, over the built-in model: what comes out must not depend on who else is served, on preemption, on the prefix
// cache or on choices that share a prompt; and every way to end a request ends it.
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "engine/eng_request.h"
#include "engine/engine_util.h"
#include "obs/obs.h"

static const char *const prompts[] = {"How do I add a model?", "Which port does it use?", "What is 3 + 4?", "Tell me a story about a cat.",
                                      "How do I see the metrics of the server, and what are they called?", "Hello", "x", "errors? 404? 503?"};
enum { PROMPTS = 8 };

static char *long_prompt(size_t words) {
    strbuf b = {0};
    for (size_t i = 0; i < words; i++) strbuf_addf(&b, "word%zu ", i % 97);
    return strbuf_take(&b);
}

static void answers_have_tokens_text_and_usage(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    altiserve_generate g = greedy(prompts[0], 20);
    answer *x = ask(a, &g), *y = ask(a, &g);
    assert_int_equal(x->submitted, OK);
    if (x->end == FINISH_ERROR) fail_msg("%s", x->err.text);
    assert_int_equal(x->started, 1);
    assert_int_equal(x->n_tokens[0], 20);
    assert_int_equal(x->finish[0], FINISH_LENGTH);
    assert_int_equal(x->usage.completion_tokens, 20);
    assert_true(x->usage.prompt_tokens > 0);
    assert_true(x->text[0].len > 0);
    same_tokens(x, y, 0, 0);
    // The text is what detokenizing gives, but for control tokens.
    char *text;
    size_t len;
    assert_int_equal(altiserve_detokenize(a, "toy-1", x->tokens[0], x->n_tokens[0], &text, &len, NULL), OK);
    for (char *end; (end = strstr(text, "<|im_end|>"));) memmove(end, end + 10, strlen(end + 10) + 1); // control tokens have no text in an answer
    assert_string_equal(text, x->text[0].data);
    mem_free(text);
    answer_free(x);
    answer_free(y);
    altiserve_destroy(a);
}

static void seeds(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    altiserve_generate g = greedy(prompts[3], 40);
    g.sampling.temperature = 1.5f;
    g.sampling.seed = 7;
    g.sampling.has_seed = true;
    answer *x = ask(a, &g), *y = ask(a, &g);
    same_tokens(x, y, 0, 0);
    g.sampling.seed = 8;
    answer *z = ask(a, &g);
    assert_true(memcmp(x->tokens[0], z->tokens[0], 40 * sizeof(int32_t)) != 0);
    answer_free(x);
    answer_free(y);
    answer_free(z);
    altiserve_destroy(a);
}

// All at once, in few pages (so that some are preempted), against one after the other without a prefix cache.
static void together_as_alone(void **state) {
    (void)state;
    enum { CLIENTS = 24 };
    altiserve_options o = toy_options();
    o.prefix_cache = false;
    o.parallel = 1;
    altiserve *alone = engine_with(o);
    o.prefix_cache = true;
    o.parallel = 12;
    o.step_tokens = 48;
    altiserve *together = engine_with(o);
    client c[CLIENTS];
    pthread_t t[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        c[i] = (client){.a = together, .g = greedy(prompts[i % PROMPTS], (uint32_t)(20 + i * 5))};
        c[i].g.sampling.temperature = i % 3 ? 0.9f : 0;
        c[i].g.sampling.seed = (uint64_t)i;
        c[i].g.sampling.has_seed = true;
        assert_int_equal(pthread_create(&t[i], NULL, client_main, &c[i]), 0);
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(t[i], NULL);
        answer *x = ask(alone, &c[i].g);
        assert_int_equal(c[i].got->end, FINISH_LENGTH);
        same_tokens(x, c[i].got, 0, 0);
        answer_free(x);
        answer_free(c[i].got);
    }
    altiserve_stats st;
    altiserve_get_stats(together, &st);
    assert_int_equal(st.running, 0);
    assert_int_equal(st.waiting, 0);
    assert_int_equal(st.pages_total, st.pages_free + st.pages_cached);
    altiserve_destroy(alone);
    altiserve_destroy(together);
}

// Eight pages for all: choices are preempted and computed again, and nobody's text shows it. Also what needs more than there is.
static void preempted_as_alone(void **state) {
    (void)state;
    enum { CLIENTS = 10 };
    altiserve_options o = toy_options();
    o.memory = least_memory(toy_options(), greedy(prompts[0], 4));
    altiserve *narrow = engine_with(o), *wide = engine_with(toy_options());
    double before = obs_read(OBS_PREEMPTIONS, "toy-1", NULL);
    client c[CLIENTS];
    pthread_t t[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        c[i] = (client){.a = narrow, .g = greedy(prompts[i % PROMPTS], (uint32_t)(60 + i * 9))};
        c[i].g.n = i % 4 == 3 ? 2 : 1;
        c[i].g.sampling = (altiserve_sampling){.temperature = 0.8f, .seed = (uint64_t)i, .has_seed = true, .presence_penalty = 0.5f};
        c[i].g.given |= SAMPLING_PRESENCE;
        assert_int_equal(pthread_create(&t[i], NULL, client_main, &c[i]), 0);
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(t[i], NULL);
        if (c[i].got->end != FINISH_LENGTH) fail_msg("client %d: %s", i, c[i].got->err.text);
        answer *x = ask(wide, &c[i].g);
        for (uint32_t k = 0; k < c[i].g.n; k++) same_tokens(x, c[i].got, (int)k, (int)k);
        answer_free(x);
        answer_free(c[i].got);
    }
    assert_true(obs_read(OBS_PREEMPTIONS, "toy-1", NULL) > before);
    altiserve_stats st;
    altiserve_get_stats(narrow, &st);
    assert_true(st.pages_total <= 8);
    assert_true(st.memory_used <= st.memory_limit);
    char *text = long_prompt(60); // fits the file's context, not these pages
    altiserve_generate g = greedy(text, 4);
    answer *x = ask(narrow, &g);
    assert_int_equal(x->end, FINISH_ERROR);
    assert_int_equal(x->err.code, E_LIMIT);
    mem_free(text);
    answer_free(x);
    altiserve_destroy(narrow);
    altiserve_destroy(wide);
}

static void choices_share_the_prompt(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    altiserve_generate g = greedy(prompts[4], 30);
    g.sampling.temperature = 1.2f;
    g.sampling.seed = 5;
    g.sampling.has_seed = true;
    answer *one = ask(a, &g);
    g.n = 4;
    answer *four = ask(a, &g);
    same_tokens(one, four, 0, 0); // choice 0 does not depend on the others
    assert_int_equal(four->usage.completion_tokens, 120);
    int different = 0;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(four->finish[i], FINISH_LENGTH);
        assert_int_equal(four->n_tokens[i], 30);
        different += i && memcmp(four->tokens[0], four->tokens[i], 30 * sizeof(int32_t)) != 0;
    }
    assert_int_equal(different, 3);
    altiserve_options o = toy_options();
    o.parallel = 2; // the others wait and read the prompt themselves
    altiserve *narrow = engine_with(o);
    answer *again = ask(narrow, &g);
    for (int i = 0; i < 4; i++) same_tokens(four, again, i, i);
    answer_free(one);
    answer_free(four);
    answer_free(again);
    altiserve_destroy(a);
    altiserve_destroy(narrow);
}

static void prefixes_are_found_again(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    char *text = long_prompt(30);
    altiserve_generate g = greedy(text, 8);
    answer *x = ask(a, &g), *y = ask(a, &g);
    assert_int_equal(x->usage.cached_tokens, 0);
    assert_true(y->usage.cached_tokens >= 32);
    assert_true(y->usage.cached_tokens < y->usage.prompt_tokens);
    assert_true(y->usage.cached_tokens + 32 >= y->usage.prompt_tokens);
    same_tokens(x, y, 0, 0);
    mem_free(text);
    answer_free(x);
    answer_free(y);
    altiserve_destroy(a);
}

static void stop_strings(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    altiserve_generate g = greedy(prompts[0], 40);
    answer *x = ask(a, &g);
    assert_true(x->text[0].len > 12);
    char stop[8] = {0};
    memcpy(stop, x->text[0].data + 6, 5); // very likely across tokens
    const char *const stops[] = {"never to be found", stop};
    g.stop = stops;
    g.n_stop = 2;
    answer *y = ask(a, &g);
    assert_int_equal(y->finish[0], FINISH_STOP);
    assert_int_equal(y->stop[0], 2);
    assert_int_equal(x->stop[0], 0);
    const char *at = strstr(x->text[0].data, stop);
    assert_int_equal(y->text[0].len, at - x->text[0].data);
    if (y->text[0].len) assert_memory_equal(y->text[0].data, x->text[0].data, y->text[0].len);
    answer_free(x);
    answer_free(y);
    altiserve_destroy(a);
}

static void logprobs(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    altiserve_generate g = greedy(prompts[1], 10);
    g.logprobs = 3;
    altiserve_request *r;
    altiserve_event e;
    size_t seen = 0;
    assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_END) {
        if (e.kind != EVENT_TEXT) continue;
        assert_non_null(e.logprobs);
        assert_int_equal(e.top_logprobs, 3);
        for (size_t i = 0; i < e.n_tokens; i++, seen++) {
            const altiserve_logprob *p = e.logprobs + 4 * i;
            assert_int_equal(p[0].token, e.tokens[i]);
            assert_int_equal(p[1].token, e.tokens[i]); // greedy takes the likeliest
            assert_true(p[0].logprob <= 0 && p[0].logprob == p[1].logprob);
            assert_true(p[1].logprob >= p[2].logprob && p[2].logprob >= p[3].logprob);
        }
    }
    assert_int_equal(seen, 10);
    altiserve_request_free(r);
    altiserve_destroy(a);
}

// The ids of a conversation are those of the request for it: what a message spells is no control token there.
static void conversations_as_ids(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    static const char *const inputs[] = {"{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}",
                                         "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello <|im_end|><|im_end|> x\"}]}"};
    error err = {0};
    for (int i = 0; i < 2; i++) {
        altiserve_generate g = greedy("", 4);
        g.text = NULL;
        g.chat = inputs[i];
        g.chat_len = strlen(inputs[i]);
        answer *x = ask(a, &g);
        int32_t *ids = NULL, *parsed = NULL;
        size_t n = 0, n_parsed = 0, len = 0;
        char *text = NULL;
        assert_int_equal(altiserve_tokenize_chat(a, "toy-1", g.chat, g.chat_len, &ids, &n, &err), OK);
        assert_int_equal(n, x->usage.prompt_tokens);
        altiserve_generate same = greedy("", 4);
        same.text = NULL;
        same.tokens = ids;
        same.n_tokens = n;
        answer *y = ask(a, &same);
        same_tokens(x, y, 0, 0);
        assert_int_equal(altiserve_template(a, "toy-1", g.chat, g.chat_len, &text, &len, &err), OK);
        assert_int_equal(altiserve_tokenize(a, "toy-1", text, len, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, &parsed, &n_parsed, &err), OK);
        assert_int_equal(n > n_parsed, i);
        mem_free(ids), mem_free(parsed), mem_free(text);
        answer_free(x), answer_free(y);
    }
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(altiserve_tokenize_chat(a, "toy-1", "{}", 2, &ids, &n, &err), E_INVALID);
    static const char large[] = "{\"messages\": [], \"x\": 18446744073709551615}"; // is JSON
    assert_int_equal(altiserve_tokenize_chat(a, "toy-1", large, strlen(large), &ids, &n, &err), E_INVALID);
    assert_non_null(strstr(err.text, "out of range"));
    assert_int_equal(altiserve_tokenize_chat(a, "nobody", inputs[0], strlen(inputs[0]), &ids, &n, &err), E_NOTFOUND);
    assert_null(ids);
    altiserve_destroy(a);
}

static void bad_requests(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    error err;
    altiserve_request *r = NULL;
    altiserve_generate g = greedy("", 4);
    int32_t none[1] = {-1}, far[1] = {1 << 28};
    g.model = "nobody";
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_NOTFOUND);
    g = greedy("a", 4);
    g.n = 17;
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_INVALID);
    g = greedy("a", 4);
    g.sampling.temperature = -1;
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_INVALID);
    g = greedy("a", 4);
    g.text = NULL;
    g.tokens = none;
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_INVALID); // no tokens at all
    g.n_tokens = 1;
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_INVALID);
    g.tokens = far;
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_INVALID);
    char *text = long_prompt(20000);
    g = greedy(text, 4);
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_INVALID);
    assert_non_null(strstr(err.text, "context"));
    mem_free(text);
    altiserve_destroy(a);
}

static void cancelling_frees_pages(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    altiserve_generate g = greedy(prompts[2], 0);
    altiserve_request *r, *other;
    altiserve_event e;
    assert_int_equal(altiserve_submit(a, &g, &other, NULL), OK);
    assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_TEXT) assert_int_not_equal(e.kind, EVENT_END);
    altiserve_cancel(r);
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_END) {}
    assert_int_equal(e.finish, FINISH_CANCELLED);
    altiserve_request_free(r);
    altiserve_request_free(other); // freed while it runs, its events never taken
    answer *x = ask(a, &(altiserve_generate){.model = "toy-1", .text = "a", .text_len = 1, .n = 1, .max_tokens = 1, .logprobs = -1});
    altiserve_drain(a, 1000);
    altiserve_stats st;
    altiserve_get_stats(a, &st);
    assert_int_equal(st.running, 0);
    assert_int_equal(st.pages_total, st.pages_free + st.pages_cached);
    error err;
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_CANCELLED); // it stops
    answer_free(x);
    altiserve_destroy(a);
}

// Nobody takes the events: the request pauses at the bound, others go on, and afterwards nothing is missing.
static void slow_readers_pause(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    altiserve_generate g = greedy(prompts[3], 700);
    altiserve_request *r;
    assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
    altiserve_generate h = greedy(prompts[5], 300);
    answer *other = ask(a, &h);
    assert_int_equal(other->finish[0], FINISH_LENGTH);
    answer *slow = mem_calloc(1, sizeof *slow);
    collect(r, slow);
    assert_true(slow->finish[0] == FINISH_LENGTH);
    assert_int_equal(slow->n_tokens[0], slow->usage.completion_tokens);
    answer_free(other);
    answer_free(slow);
    altiserve_destroy(a);
}

// One that pauses goes on when its events are taken, however often the engine has looked at it meanwhile: a look that finds room for one event is not its turn yet.
static void a_look_is_no_turn(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    altiserve_generate g = greedy(prompts[3], 480);
    for (int i = 0; i < 10; i++) {
        altiserve_request *r;
        altiserve_event e;
        assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
        while (!eng_request_full(r)) usleep(100);
        while (eng_request_full(r)) assert_int_not_equal(altiserve_next(r, 0, &e), EVENT_NONE);
        do assert_int_not_equal(altiserve_next(r, 60000, &e), EVENT_NONE);
        while (e.kind != EVENT_END);
        assert_int_equal(e.finish, FINISH_LENGTH);
        altiserve_request_free(r);
    }
    altiserve_destroy(a);
}

// Starts g, three choices, and takes events until all of them have run; then nobody reads it.
static altiserve_request *leave_unread(altiserve *a, const altiserve_generate *g, answer *got) {
    altiserve_request *r;
    altiserve_event e = {0};
    assert_int_equal(altiserve_submit(a, g, &r, NULL), OK);
    while (e.kind != EVENT_TEXT || e.choice != 2) {
        altiserve_next(r, 60000, &e);
        assert_true(e.kind != EVENT_NONE && e.kind != EVENT_END);
        note_event(got, &e);
    }
    return r;
}

// With no place free while another stream goes on, and with few pages while none does: who does not read gives way, and goes on where it was when it does.
static void who_does_not_read_gives_way(void **state) {
    (void)state;
    altiserve_generate g = greedy(prompts[3], 110), stream = greedy(prompts[1], 450);
    g.n = 3;
    g.sampling = (altiserve_sampling){.temperature = 1, .seed = 5, .has_seed = true};
    altiserve *alone = engine_with(toy_options());
    answer *expected = ask(alone, &g);
    for (int few = 0; few < 2; few++) {
        altiserve_options o = toy_options();
        if (few) o.memory = least_memory(toy_options(), greedy(prompts[0], 4));
        else o.parallel = 4;
        altiserve *a = engine_with(o);
        altiserve_request *unread, *other = NULL, *r;
        altiserve_event e = {0};
        answer *got = mem_calloc(1, sizeof *got);
        unread = leave_unread(a, &g, got);
        if (!few) {
            assert_int_equal(altiserve_submit(a, &stream, &other, NULL), OK);
            while (altiserve_next(other, 60000, &e) != EVENT_TEXT) assert_int_not_equal(e.kind, EVENT_END);
        }
        altiserve_generate h = greedy(prompts[5], few ? 200 : 30); // 200: most of the pages that there are
        assert_int_equal(altiserve_submit(a, &h, &r, NULL), OK);
        do { // it ends before the stream does, which is read beside it
            if (other) assert_int_not_equal(altiserve_next(other, 60000, &e), EVENT_END);
            assert_true(altiserve_next(r, other ? 0 : 60000, &e) != EVENT_NONE || other);
        } while (e.kind != EVENT_END);
        assert_int_equal(e.finish, FINISH_LENGTH);
        altiserve_request_free(r);
        altiserve_request_free(other);
        collect(unread, got);
        for (int i = 0; i < 3; i++) same_tokens(expected, got, i, i);
        answer_free(got);
        altiserve_destroy(a);
    }
    answer_free(expected);
    altiserve_destroy(alone);
}

static atomic_int notified;
static void count_notify(void *ctx) {
    (void)ctx;
    atomic_fetch_add(&notified, 1);
}

static void notify_and_timeouts(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    altiserve_generate g = greedy(prompts[3], 5);
    g.notify = count_notify;
    answer *x = ask(a, &g);
    assert_true(atomic_load(&notified) >= 3); // started, text, finish or end
    g.timeout_ms = 1;
    g.max_tokens = 0;
    answer *y = ask(a, &g);
    assert_int_equal(y->end, FINISH_ERROR);
    assert_int_equal(y->err.code, E_CANCELLED);
    answer_free(x);
    answer_free(y);
    altiserve_destroy(a);
}

static void the_queue_is_bounded(void **state) {
    (void)state;
    altiserve_options o = toy_options();
    o.parallel = 1;
    o.queue = 3;
    altiserve *a = engine_with(o);
    altiserve_request *r[16];
    altiserve_generate g = greedy(prompts[3], 0);
    int taken = 0, busy = 0;
    assert_int_equal(altiserve_load(a, "toy-1", NULL, NULL, NULL), OK);
    answer_free(ask(a, &(altiserve_generate){.model = "toy-1", .text = "x", .text_len = 1, .n = 1, .max_tokens = 1, .logprobs = -1}));
    for (int i = 0; i < 16; i++) {
        status s = altiserve_submit(a, &g, &r[taken], NULL);
        if (s == OK) taken++;
        else if (s == E_BUSY) busy++;
    }
    assert_int_equal(taken, 4); // one runs, or is about to, and three wait
    assert_int_equal(busy, 12);
    altiserve_embed e = {.model = "toy-1", .text = "more", .text_len = 4};
    altiserve_request *more = NULL;
    assert_int_equal(altiserve_submit_embed(a, &e, &more, NULL), E_BUSY);
    e.goes_on = true; // of something that was let in before
    assert_int_equal(altiserve_submit_embed(a, &e, &more, NULL), OK);
    altiserve_request_free(more);
    for (int i = 0; i < taken; i++) altiserve_request_free(r[i]);
    altiserve_destroy(a);
    // Who finds a free place does not count among those that wait, however many come at once.
    o.parallel = 8;
    o.queue = 2;
    a = engine_with(o);
    assert_int_equal(altiserve_load(a, "toy-1", NULL, NULL, NULL), OK);
    answer_free(ask(a, &(altiserve_generate){.model = "toy-1", .text = "x", .text_len = 1, .n = 1, .max_tokens = 1, .logprobs = -1}));
    for (int i = 0; i < 9; i++)
        if (altiserve_submit(a, &g, &r[i], NULL) != OK) fail_msg("the %dth of 9 was refused where 8 run and 2 may wait", i + 1);
    // Who is refused is told how many do wait, and whom what is left is for.
    error err;
    assert_int_equal(altiserve_submit(a, &g, &r[9], NULL), OK);
    assert_int_equal(altiserve_submit(a, &g, &r[10], &err), E_BUSY);
    if (strncmp(err.text, "2 requests are waiting already, and the queue holds 2: try again in ", 68)) fail_msg("%s", err.text);
    for (int i = 0; i < 10; i++) altiserve_request_free(r[i]);
    altiserve_destroy(a);
    o.parallel = 1;
    o.queue = 8;
    a = engine_with(o);
    assert_int_equal(altiserve_load(a, "toy-1", NULL, NULL, NULL), OK);
    answer_free(ask(a, &(altiserve_generate){.model = "toy-1", .text = "x", .text_len = 1, .n = 1, .max_tokens = 1, .logprobs = -1}));
    for (int i = 0; i < 8; i++) assert_int_equal(altiserve_submit(a, &g, &r[i], NULL), OK);
    assert_int_equal(altiserve_submit(a, &g, &r[8], &err), E_BUSY);
    if (strncmp(err.text, "7 requests of this client are waiting already, and what is left of a queue of 8 is for others: try again in ", 108)) fail_msg("%s", err.text);
    for (int i = 0; i < 8; i++) altiserve_request_free(r[i]);
    altiserve_destroy(a);
}

// The nth allocation from now on fails, on whichever thread it falls: the request ends with a sentence, or well, and the engine goes on.
static void allocation_failures(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    const char *const stops[] = {"never to be found"};
    int failed = 0;
    for (long nth = 1; nth < 250; nth += nth < 120 ? 1 : 7) {
        char text[64];
        snprintf(text, sizeof text, "%ld: tell me about ports, please.", nth);
        altiserve_generate g = greedy(text, 6);
        g.n = 2;
        g.logprobs = 2;
        g.sampling.presence_penalty = 0.1f;
        g.given |= SAMPLING_PRESENCE;
        g.stop = stops;
        g.n_stop = 1;
        altiserve_request *r = NULL;
        error err = {0};
        answer *x = mem_calloc(1, sizeof *x);
        mem_fail_at(nth);
        status s = altiserve_submit(a, &g, &r, &err);
        if (s == OK) {
            altiserve_event e;
            while (altiserve_next(r, UINT32_MAX, &e) != EVENT_END) {}
            if (e.finish == FINISH_ERROR) {
                failed++;
                assert_true(e.err.text[0] != 0);
            }
            altiserve_request_free(r);
        } else {
            failed++;
            assert_true(err.text[0] != 0);
        }
        mem_fail_at(0);
        answer_free(x);
    }
    assert_true(failed > 10);
    altiserve_generate g = greedy(prompts[0], 6);
    answer *x = ask(a, &g);
    assert_int_equal(x->finish[0], FINISH_LENGTH);
    answer_free(x);
    altiserve_stats st;
    altiserve_get_stats(a, &st);
    assert_int_equal(st.pages_total, st.pages_free + st.pages_cached);
    altiserve_destroy(a);
}

// What is said of a prompt's pages: the newest token of an answer was drawn and not computed, so the page that it would fill is no page that was given up.
static void why_computed(void **state) {
    (void)state;
    enum { PROMPT = 40, OUT = 24, NEXT = PROMPT + OUT + 10 };
    altiserve *a = engine_with(toy_options());
    int32_t tokens[NEXT];
    for (int i = 0; i < NEXT; i++) tokens[i] = 40 + i * 7 % 60;
    altiserve_generate g = {.model = "toy-1", .tokens = tokens, .n_tokens = PROMPT, .n = 1, .max_tokens = OUT,
                            .logprobs = -1, .ignore_eos = true, .explain = true, .given = SAMPLING_TEMPERATURE};
    static const struct { size_t n; uint32_t out; altiserve_why why; uint32_t cached, same; } turns[] = {
        {20, 1, WHY_SHORT, 0, 0}, {PROMPT, OUT, WHY_DIFFERS, 0, 20}, {NEXT, 1, WHY_DIFFERS, 32, PROMPT + OUT}, {NEXT, 1, WHY_ALL, 64, NEXT}};
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
        altiserve_request *r = NULL;
        altiserve_explanation why;
        altiserve_event e;
        size_t made = 0;
        g.n_tokens = turns[i].n;
        g.max_tokens = turns[i].out;
        assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
        while (altiserve_next(r, UINT32_MAX, &e) != EVENT_END)
            for (size_t k = 0; i == 1 && e.kind == EVENT_TEXT && k < e.n_tokens; k++) tokens[PROMPT + made++] = e.tokens[k];
        altiserve_request_explain(r, &why);
        if (why.why != turns[i].why || why.cached_tokens != turns[i].cached || why.same != turns[i].same)
            fail_msg("turn %zu: why %d, %u cached, %u the same; not %d, %u, %u", i, (int)why.why, why.cached_tokens, why.same, (int)turns[i].why, turns[i].cached, turns[i].same);
        altiserve_request_free(r);
    }
    altiserve_destroy(a);
}

int main(void) {
    obs_set_level(OBS_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(why_computed), cmocka_unit_test(answers_have_tokens_text_and_usage),
        cmocka_unit_test(seeds), cmocka_unit_test(together_as_alone), cmocka_unit_test(preempted_as_alone),
        cmocka_unit_test(choices_share_the_prompt), cmocka_unit_test(prefixes_are_found_again), cmocka_unit_test(stop_strings), cmocka_unit_test(logprobs),
        cmocka_unit_test(conversations_as_ids), cmocka_unit_test(bad_requests), cmocka_unit_test(cancelling_frees_pages),
        cmocka_unit_test(slow_readers_pause), cmocka_unit_test(a_look_is_no_turn), cmocka_unit_test(who_does_not_read_gives_way),
        cmocka_unit_test(notify_and_timeouts), cmocka_unit_test(the_queue_is_bounded), cmocka_unit_test(allocation_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
