// Who gives pages to whom, in the engine: with too few for all who run and one that arrives, what the policy says is done within a few steps, and nobody's text
// shows it. Steps are counted where events are made, on the engine's thread: one stream holds the engine at a step until the newcomer is in the queue.
// (Which rules there are, and slices of tokens, which toy-1's context is too short for: test_policy.c.)
#include <pthread.h>
#include <stdatomic.h>

#include "engine/engine_util.h"
#include "obs/obs.h"

// What notify sees of a stream: how many events it has made. At event `at` it says so, and waits where it `holds` until it may go on.
typedef struct probe {
    atomic_int count;
    int  at;
    bool holds, reached;
    pthread_mutex_t lock;
    pthread_cond_t  turn;
} probe;

static void probe_init(probe *p, int at, bool holds) {
    *p = (probe){.at = at, .holds = holds};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->turn, NULL);
}

static void probe_event(void *ctx) {
    probe *p = ctx;
    int n = atomic_fetch_add(&p->count, 1) + 1;
    pthread_mutex_lock(&p->lock);
    if (n == p->at) {
        p->reached = true;
        pthread_cond_broadcast(&p->turn);
    }
    while (p->holds && n == p->at) pthread_cond_wait(&p->turn, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void probe_await(probe *p) {
    pthread_mutex_lock(&p->lock);
    while (!p->reached) pthread_cond_wait(&p->turn, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

// To event `at`; 0: to its end.
static void probe_go_on(probe *p, int at) {
    pthread_mutex_lock(&p->lock);
    p->at = at;
    p->reached = false;
    pthread_cond_broadcast(&p->turn);
    pthread_mutex_unlock(&p->lock);
}

typedef struct newcomer {
    probe *beside;
    atomic_int last; // events of that stream at the newcomer's latest event: at its end, when it has ended
} newcomer;

static void newcomer_event(void *ctx) {
    newcomer *n = ctx;
    atomic_store(&n->last, atomic_load(&n->beside->count));
}

enum { PAGES = 20, LENGTH = 480 }; // an event has 1.4 tokens of these answers, for some have no text

// An engine with so many pages.
static altiserve *engine_of_pages(altiserve_options o) {
    uint64_t least = least_memory(toy_options(), greedy("x", 4));
    for (uint64_t more = 0;; more += 64 << 10) {
        o.memory = least + more;
        altiserve *a = engine_with(o);
        answer *x = ask(a, &(altiserve_generate){.model = "toy-1", .text = "x", .text_len = 1, .n = 1, .max_tokens = 1, .logprobs = -1});
        altiserve_stats st;
        altiserve_get_stats(a, &st);
        assert_int_equal(x->end, FINISH_LENGTH);
        answer_free(x);
        if (st.pages_total >= PAGES) {
            assert_in_range(st.pages_total, PAGES, PAGES + 2);
            return a;
        }
        altiserve_destroy(a);
    }
}

static const char *const texts[] = {"How do I add a model?", "What is 3 + 4?", "Hello"};

static altiserve_request *stream(altiserve *a, int i, void (*notify)(void *), void *ctx) {
    altiserve_generate g = greedy(texts[i], LENGTH);
    altiserve_request *r = NULL;
    g.client = "many";
    g.client_weight = .1;
    g.notify = notify;
    g.notify_ctx = ctx;
    assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
    return r;
}

static void is_as_alone(altiserve *alone, answer *got, int i) {
    altiserve_generate g = greedy(texts[i], LENGTH);
    answer *want = ask(alone, &g);
    assert_int_equal(got->end, FINISH_LENGTH);
    same_tokens(want, got, 0, 0);
    answer_free(got);
    answer_free(want);
}

static void ends_as_alone(altiserve *alone, altiserve_request *r, int i) {
    answer *got = mem_calloc(1, sizeof *got);
    collect(r, got);
    is_as_alone(alone, got, i);
}

// The newcomer g ends before the stream, which is held at an event until g is queued, has made many more.
static void served_soon(altiserve *a, altiserve_generate g, probe *held) {
    newcomer n = {.beside = held};
    altiserve_request *r = NULL;
    double displaced = obs_read(OBS_DISPLACED, "toy-1", NULL);
    g.notify = newcomer_event;
    g.notify_ctx = &n;
    probe_await(held);
    int at = held->at;
    assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
    probe_go_on(held, 0);
    answer *x = mem_calloc(1, sizeof *x);
    collect(r, x);
    assert_int_equal(x->end, FINISH_LENGTH);
    assert_true(obs_read(OBS_DISPLACED, "toy-1", NULL) > displaced);
    int later = atomic_load(&n.last) - at;
    if (later > 30) fail_msg("it ended %d steps later", later);
    answer_free(x);
}

// Three streams of one client in 18 of 20 pages.
static void to_whom_the_policy_says(void **state) {
    (void)state;
    altiserve_options o = toy_options();
    o.speculation = SPECULATE_OFF;
    altiserve *alone = engine_with(o);
    for (int k = 0; k < 2; k++) {
        altiserve *a = engine_of_pages(o);
        altiserve_request *r[3];
        probe p[3];
        for (int i = 0; i < 3; i++) { // the first begins when the others are there: they grow together
            probe_init(&p[i], 1, i == 0);
            r[i] = stream(a, i, probe_event, &p[i]);
            if (!i) probe_await(&p[0]);
        }
        probe_go_on(&p[0], 120);
        altiserve_generate g = greedy("What is 3 + 4? What is 5 + 6? What is 7 + 8? What is 9 + 10?", 4);
        g.priority = k ? 0 : -1;
        g.client = k ? "few" : "many";
        g.client_weight = k ? 1 : .1;
        served_soon(a, g, &p[0]);
        for (int i = 0; i < 3; i++) ends_as_alone(alone, r[i], i);
        altiserve_destroy(a);
    }
    altiserve_destroy(alone);
}

// What the oldest stream's events see of the youngest: its tokens when two streams had given way, and now.
typedef struct watch {
    probe oldest;
    _Atomic(altiserve_request *) youngest;
    double   before; // preemptions
    bool     two;
    uint32_t then, now;
} watch;

static void watch_event(void *ctx) {
    watch *w = ctx;
    altiserve_request *r = atomic_load(&w->youngest);
    probe_event(&w->oldest);
    if (!r || obs_read(OBS_PREEMPTIONS, "toy-1", NULL) < w->before + 2) return;
    w->now = altiserve_request_usage(r).completion_tokens;
    if (!w->two) w->then = w->now;
    w->two = true;
}

typedef struct reader {
    altiserve_request *r;
    answer *got;
    pthread_t thread;
} reader;

static void *reader_main(void *arg) {
    reader *x = arg;
    altiserve_event e;
    while (altiserve_next(x->r, UINT32_MAX, &e) != EVENT_END) note_event(x->got, &e);
    x->got->end = e.finish;
    return NULL;
}

static void read_all(reader *x, altiserve_request *r) {
    *x = (reader){.r = r, .got = mem_calloc(1, sizeof *x->got)};
    assert_int_equal(pthread_create(&x->thread, NULL, reader_main, x), 0);
}

// So that the policy knows what a row of a prompt costs: deadlines are in those.
static void read_some_prompts(altiserve *a) {
    int32_t tokens[400];
    for (int k = 0; k < 8; k++) {
        for (int i = 0; i < 400; i++) tokens[i] = 300 + (i * 7 + k * 31 + i * k) % 500;
        answer *x = ask(a, &(altiserve_generate){.model = "toy-1", .tokens = tokens, .n_tokens = 100 + 40 * (size_t)k,
                                                 .n = 1, .max_tokens = 1, .logprobs = -1, .ignore_eos = true});
        assert_int_equal(x->end, FINISH_LENGTH);
        answer_free(x);
    }
}

// Three streams outgrow the pages: the youngest gives its pages first, then the next. From there on that one's deadline counts, and it is not before the youngest, which
// waited while it ran and goes on beside the oldest.
static void who_gave_its_pages_waits_anew(void **state) {
    (void)state;
    altiserve_options o = toy_options();
    o.speculation = SPECULATE_OFF;
    altiserve *a = engine_of_pages(o), *alone = engine_with(o);
    read_some_prompts(a);
    watch w = {.before = obs_read(OBS_PREEMPTIONS, "toy-1", NULL)};
    probe others;
    reader x[3];
    probe_init(&w.oldest, 1, true);
    probe_init(&others, 0, false);
    read_all(&x[0], stream(a, 0, watch_event, &w));
    probe_await(&w.oldest);
    read_all(&x[1], stream(a, 2, probe_event, &others));
    probe_go_on(&w.oldest, 70);
    probe_await(&w.oldest);
    read_all(&x[2], stream(a, 1, probe_event, &others));
    atomic_store(&w.youngest, x[2].r);
    probe_go_on(&w.oldest, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(x[i].thread, NULL), 0);
        is_as_alone(alone, x[i].got, i ? 3 - i : 0);
    }
    for (int i = 0; i < 3; i++) altiserve_request_free(x[i].r);
    assert_true(w.two);
    if (w.now <= w.then) fail_msg("the youngest stays at %u tokens", w.now);
    altiserve_destroy(a);
    altiserve_destroy(alone);
}

// One that nobody reads, which has stopped, holds eleven pages; another goes on beside it.
static void of_who_does_not_read(void **state) {
    (void)state;
    altiserve_options o = toy_options();
    o.speculation = SPECULATE_OFF;
    altiserve *a = engine_of_pages(o), *alone = engine_with(o);
    probe unread, read;
    probe_init(&unread, 250, false); // a few before it must stop
    probe_init(&read, 60, true);
    altiserve_request *u = stream(a, 0, probe_event, &unread);
    probe_await(&unread);
    altiserve_request *r = stream(a, 1, probe_event, &read);
    strbuf text = {0};
    for (int i = 0; i < 40; i++) strbuf_addf(&text, "word %2d ", i);
    altiserve_generate g = greedy(text.data, 4);
    g.client = "many";
    g.client_weight = .1;
    served_soon(a, g, &read);
    ends_as_alone(alone, r, 1);
    ends_as_alone(alone, u, 0);
    altiserve_destroy(a);
    altiserve_destroy(alone);
    strbuf_free(&text);
}

int main(void) {
    obs_set_level(OBS_ERROR);
    const struct CMUnitTest tests[] = {cmocka_unit_test(to_whom_the_policy_says), cmocka_unit_test(who_gave_its_pages_waits_anew), cmocka_unit_test(of_who_does_not_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
