// The scheduler's policy: its parts against what they promise, and a simulation of an engine that decides by it, over a million requests.
//
// The simulation is deterministic: virtual seconds, a cost of steps as measured (q06-Q4_K_M on two cores: 20 ms a step, 3.3 ms a row, 1.1 us a
// thousand pairs) with noise that the fit has to see through, and arrivals from a generator with bursts. It does with counts what eng_step.c does with sequences and checks pages after every step.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "base/mem.h"
#include "engine/eng_policy.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { REQUESTS = 100000 };
#else
enum { REQUESTS = 1000000 };
#endif

static uint64_t random_state;
static uint64_t next_random(void) { // splitmix64
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
static double uniform(void) { return (double)(next_random() >> 11) / 9007199254740992.0; }
static double exponential(double mean) { return -mean * log(1 - uniform()); }
static int between(int low, int high) { return low + (int)(next_random() % (uint64_t)(high - low + 1)); }

static double true_cost(const pol_step *s) { return .020 + .0033 * (s->streams + s->rows) + 1.1e-9 * s->pairs; }

// ---- the simulated engine ------------------------------------------------------------------------

enum { PAGE = 32, MAX_RUNNING = 64, STEP_TOKENS = 512, CLIENTS = 16 };

typedef struct request {
    double   arrived, due, started, first, ended;
    uint64_t order;
    int32_t  client, prompt, cached, output; // cached: of the prompt, found computed
    int32_t  at, made, pages;               // tokens computed, tokens made, pages held
    int64_t  priority;
    struct request *next;                    // in the list of those that wait
    bool     running, stepped, passed;
} request;

typedef struct engine {
    pol_cost   cost;
    pol_client client[CLIENTS];
    uint32_t   runs[CLIENTS], n_waiting;
    double     clock, now, work[CLIENTS];
    int32_t    parallel, pages, free_pages;
    request   *waiting, *running[MAX_RUNNING];
    int32_t    n_running;
    uint64_t   steps, preemptions, displaced, rows;
    double     longest_step, longest_wait, backlog, largest_backlog; // backlog: rows that wait to be computed
} engine;

static void engine_init(engine *e, int32_t parallel, int32_t pages) {
    memset(e, 0, sizeof *e);
    e->parallel = parallel;
    e->pages = e->free_pages = pages;
    for (int i = 0; i < CLIENTS; i++) e->client[i].weight = 1;
}

static pol_item item_of(engine *e, const request *r) { return (pol_item){&e->client[r->client], r->priority, r->due, r->order}; }
static int32_t length(const request *r) { return r->prompt + r->made; }
static bool is_stream(const request *r) { return r->made && r->at + 1 == length(r); }
static bool older(const request *a, const request *b) { return a->priority != b->priority ? a->priority < b->priority : a->order < b->order; }

static void arrive(engine *e, request *r) {
    double least = -1;
    for (int i = 0; i < CLIENTS; i++)
        if (e->client[i].active && (least < 0 || e->client[i].work < least)) least = e->client[i].work;
    if (least > e->clock) e->clock = least;
    pol_client_enter(&e->client[r->client], &e->clock);
    r->due = pol_deadline(r->arrived, r->prompt - r->cached, pol_cost_row(&e->cost));
    r->next = e->waiting;
    e->waiting = r;
    e->n_waiting++;
    e->backlog += r->prompt - r->cached + r->output;
    if (e->backlog > e->largest_backlog) e->largest_backlog = e->backlog;
}

static void stop_running(engine *e, request *r) {
    int32_t i = 0;
    while (e->running[i] != r) i++;
    memmove(e->running + i, e->running + i + 1, (size_t)(--e->n_running - i) * sizeof *e->running);
    e->free_pages += r->pages;
    e->runs[r->client]--;
    r->pages = 0;
    r->running = false;
}

static void preempt(engine *e, request *r) {
    stop_running(e, r);
    e->backlog += r->at - r->cached;
    r->at = r->cached; // the rest is computed again
    r->next = e->waiting;
    e->waiting = r;
    e->n_waiting++;
}

// Pages for `upto` tokens of r, from younger ones that are not in the step if need be.
static bool make_room(engine *e, request *r, int32_t upto) {
    int32_t need = (upto + PAGE - 1) / PAGE - r->pages;
    while (need > e->free_pages) {
        request *victim = NULL;
        for (int32_t i = 0; i < e->n_running; i++) {
            request *d = e->running[i];
            if (older(r, d) && !d->stepped && d->pages && (!victim || older(victim, d))) victim = d;
        }
        if (!victim) return false;
        preempt(e, victim);
        e->preemptions++;
    }
    if (need > 0) e->free_pages -= need, r->pages += need;
    return true;
}

static void take_rows(engine *e, request *r, int32_t n, pol_step *load) {
    if (is_stream(r)) load->streams++;
    else load->rows += n;
    load->pairs += (double)n * (r->at + (n + 1) / 2.);
    pol_client_charge(&e->client[r->client], n);
    e->work[r->client] += n;
    r->stepped = true;
    r->at += n; // the step is as good as done
    e->rows += (uint64_t)n;
    e->backlog -= n;
}

static request *next_prompt(engine *e) {
    request *best = NULL;
    pol_item first = {0};
    for (int32_t i = 0; i < e->n_running; i++) {
        request *r = e->running[i];
        if (r->stepped || r->passed || is_stream(r)) continue;
        pol_item item = item_of(e, r);
        if (!best || pol_before(&item, &first)) best = r, first = item;
    }
    return best;
}

static request **next_waiting(engine *e) {
    request **best = NULL;
    pol_item first = {0};
    for (request **p = &e->waiting; *p; p = &(*p)->next) {
        pol_item item = item_of(e, *p);
        if (!best || pol_before(&item, &first)) best = p, first = item;
    }
    return best;
}

static void make_way(engine *e) {
    request **p = e->n_running < e->parallel ? NULL : next_waiting(e), *oldest = NULL, *victim = NULL;
    if (!p) return;
    pol_item w = item_of(e, *p);
    for (int32_t i = 0; i < e->n_running; i++)
        if (!oldest || older(e->running[i], oldest)) oldest = e->running[i];
    for (int32_t i = 0; i < e->n_running; i++) {
        request *r = e->running[i];
        pol_item item = item_of(e, r);
        if (r != oldest && pol_displaces(&w, e->runs[(*p)->client], &item, e->runs[r->client]) && (!victim || older(victim, r))) victim = r;
    }
    if (victim) preempt(e, victim), e->displaced++;
}

static int32_t chunk(engine *e, request *r, int32_t budget, pol_step *load) {
    int32_t n = length(r) - r->at < budget ? length(r) - r->at : budget;
    r->passed = true;
    if (!make_room(e, r, r->at + n)) return 0;
    take_rows(e, r, n, load);
    return n;
}

static request *admit(engine *e) {
    request **p = e->n_running < e->parallel ? next_waiting(e) : NULL, *r = p ? *p : NULL;
    if (!r) return NULL;
    int32_t promised = 0;
    for (int32_t i = 0; i < e->n_running; i++) {
        int32_t more = length(e->running[i]) / PAGE + 2 - e->running[i]->pages;
        promised += more > 0 ? more : 0;
    }
    if (e->n_running && length(r) / PAGE + 2 + promised > e->free_pages) return NULL;
    *p = r->next;
    e->n_waiting--;
    r->running = true;
    if (r->started < 0) r->started = e->now;
    if (e->now - r->arrived > e->longest_wait) e->longest_wait = e->now - r->arrived;
    if (r->at < r->cached) r->at = r->cached;
    e->running[e->n_running++] = r;
    e->runs[r->client]++;
    return r;
}

// One step; false when there is nothing to do. ended: called for each request that ended.
static bool step(engine *e, void (*ended)(void *ctx, request *r), void *ctx) {
    pol_step load = {0};
    make_way(e);
    for (int32_t i = 0; i < e->n_running; i++) e->running[i]->stepped = e->running[i]->passed = false;
    for (int32_t i = 0; i < e->n_running; i++) {
        request *r = e->running[i];
        if (r->stepped || !is_stream(r)) continue;
        if (make_room(e, r, length(r))) take_rows(e, r, 1, &load);
        if (i >= e->n_running || e->running[i] != r) i = -1; // others gave way: look again from the start
    }
    int32_t prompts = (int32_t)e->n_waiting < e->parallel - e->n_running ? (int32_t)e->n_waiting : e->parallel - e->n_running;
    for (int32_t i = 0; i < e->n_running; i++) prompts += !e->running[i]->stepped && !is_stream(e->running[i]);
    request *first = next_prompt(e);
    int32_t budget = pol_prompt_rows(&e->cost, &load, prompts, first ? first->at : 0, STEP_TOKENS - (int32_t)load.streams);
    for (request *r; budget > 0 && (r = next_prompt(e));) budget -= chunk(e, r, budget, &load);
    for (request *r; budget > 0 && (r = admit(e));) {
        int32_t got = chunk(e, r, budget, &load);
        if (!got) break;
        budget -= got;
    }
    if (load.streams + load.rows == 0) return false;
    double seconds = true_cost(&load) * (.95 + .1 * uniform()) * (next_random() % 500 ? 1 : 4); // one in 500 is disturbed
    pol_cost_note(&e->cost, &load, seconds);
    e->now += seconds;
    e->steps++;
    if (seconds > e->longest_step) e->longest_step = seconds;
    int32_t held = 0;
    for (int32_t i = e->n_running; i-- > 0;) {
        request *r = e->running[i];
        held += r->pages;
        assert_true(r->pages * PAGE >= r->at);
        if (!r->stepped || r->at < length(r)) continue;
        if (!r->made++) r->first = e->now;
        if (r->made < r->output) continue;
        held -= r->pages;
        stop_running(e, r);
        pol_client_leave(&e->client[r->client]);
        e->backlog -= 1; // the last token is not computed any more
        r->ended = e->now;
        ended(ctx, r);
    }
    assert_int_equal(held + e->free_pages, e->pages);
    return true;
}

// ---- the parts -----------------------------------------------------------------------------------

static void cost_is_found(void **state) {
    (void)state;
    pol_cost c = {0};
    random_state = 1;
    for (int i = 0; i < 600; i++) {
        pol_step s = {.streams = between(0, 32), .rows = between(0, 2) ? between(8, 256) : 0, .pairs = between(1000, 100000)};
        if (s.streams + s.rows == 0) s.streams = 1;
        pol_cost_note(&c, &s, true_cost(&s) * (.9 + .2 * uniform()) * (i % 50 == 49 ? 20 : 1));
    }
    for (int i = 0; i < 50; i++) {
        pol_step s = {.streams = between(1, 32), .rows = between(8, 256), .pairs = 20000};
        assert_true(fabs(pol_cost_of(&c, &s) / true_cost(&s) - 1) < .15);
    }
    // a server that has only seen streams, then slows down to a half
    pol_cost d = {0};
    for (int i = 0; i < 400; i++) pol_cost_note(&d, &(pol_step){.streams = 8, .pairs = 800}, i < 100 ? .05 : .1);
    assert_true(fabs(pol_cost_of(&d, &(pol_step){.streams = 8, .pairs = 800}) / .1 - 1) < .05);
}

static void rows_beside_streams(void **state) {
    (void)state;
    pol_cost c = {0};
    random_state = 2;
    assert_int_equal(pol_prompt_rows(&c, &(pol_step){0}, 1, 0, 512), 512);
    for (int i = 0; i < 300; i++) {
        pol_step s = {.streams = between(0, 16), .rows = between(1, 200), .pairs = 5000};
        pol_cost_note(&c, &s, true_cost(&s));
    }
    pol_step seven = {.streams = 7, .pairs = 7 * 300};
    int32_t one = pol_prompt_rows(&c, &seven, 1, 0, 512), many = pol_prompt_rows(&c, &seven, 20, 0, 512), deep = pol_prompt_rows(&c, &seven, 1, 500000, 512);
    pol_step with = seven;
    with.rows = one;
    assert_true(true_cost(&with) <= 2.5 * true_cost(&seven)); // a long prompt beside seven streams
    assert_true(one >= 8 && many > 3 * one && deep < one);
    with.rows = many;
    assert_true(true_cost(&with) < .6);
    assert_int_equal(pol_prompt_rows(&c, &seven, 1, 0, 3), 3);
    assert_int_equal(pol_prompt_rows(&c, &seven, 0, 0, 512), 0);
}

static void order_and_queue(void **state) {
    (void)state;
    pol_client a = {.weight = 1}, b = {.weight = 1};
    pol_item x = {&a, 0, 10, 1}, y = {&b, 0, 11, 2};
    assert_true(pol_before(&x, &y) && !pol_before(&y, &x));
    a.work = 3 * POL_QUANTUM;
    assert_true(pol_before(&y, &x));
    x.priority = -1;
    assert_true(pol_before(&x, &y));
    assert_true(pol_displaces(&x, 1, &y, 1));
    x.priority = 0;
    assert_false(pol_displaces(&y, 0, &x, 1));
    assert_true(pol_displaces(&y, 0, &x, 2));
    assert_false(pol_displaces(&y, 1, &x, 2));
    double clock = 50 + POL_QUANTUM;
    pol_client_enter(&b, &clock);
    assert_true(b.work == 50); // it does not save up more than a quantum
    assert_true(pol_admits(6, 6, 8) && !pol_admits(7, 7, 8) && pol_admits(7, 0, 8) && !pol_admits(8, 0, 8));
    assert_true(pol_admits(223, 223, 256) && !pol_admits(224, 200, 256) && pol_admits(224, 3, 256) && !pol_admits(256, 0, 256));
    assert_int_equal(pol_retry_after(100, .25), 25);
    assert_int_equal(pol_retry_after(0, 1), 1);
    assert_int_equal(pol_retry_after(1000000, 1), 600);
}

// ---- whole runs ----------------------------------------------------------------------------------

typedef struct tally {
    uint64_t ended;
    double   latest, waits[CLIENTS], worst[CLIENTS];
    uint64_t n[CLIENTS];
    request *free;
} tally;

static void count_end(void *ctx, request *r) {
    tally *t = ctx;
    t->ended++;
    double wait = r->first - r->arrived;
    t->waits[r->client] += wait;
    t->n[r->client]++;
    if (wait > t->worst[r->client]) t->worst[r->client] = wait;
    r->next = t->free;
    t->free = r;
}

static request *new_request(tally *t, double arrived, uint64_t order, int32_t client, int32_t prompt, int32_t cached, int32_t output) {
    request *r = t->free;
    if (r) t->free = r->next;
    else assert_non_null(r = mem_alloc(sizeof *r));
    *r = (request){.arrived = arrived, .order = order, .client = client, .prompt = prompt, .cached = cached, .output = output, .started = -1};
    return r;
}

static void free_all(tally *t) {
    for (request *r = t->free, *next; r; r = next) {
        next = r->next;
        mem_free(r);
    }
}

// Bursts of arrivals at a mean load of 0.9, in pages that do not suffice: everybody ends, nobody waits much longer than the largest backlog takes.
static void a_million(void **state) {
    (void)state;
    engine e;
    tally t = {0};
    engine_init(&e, 32, 215);
    random_state = 3;
    double at = 0, rate = 1.8;
    request *coming = NULL;
    uint64_t sent = 0;
    while (t.ended < REQUESTS) {
        if (!coming && sent < REQUESTS) {
            if (next_random() % 400 == 0) rate = uniform() < .5 ? .6 : 2.4; // calm and busy spells
            at += exponential(1 / rate);
            int32_t prompt = next_random() % 500 ? between(20, 300) : between(2000, 6000), cached = uniform() < .4 ? prompt / 2 / PAGE * PAGE : 0;
            coming = new_request(&t, at, sent++, (int32_t)(next_random() % CLIENTS), prompt, cached, next_random() % 20 ? between(1, 40) : between(200, 400));
        }
        if (coming && coming->arrived <= e.now) {
            arrive(&e, coming);
            coming = NULL;
        } else if (!step(&e, count_end, &t)) {
            assert_non_null(coming);
            e.now = coming->arrived;
        }
    }
    assert_int_equal(e.free_pages, e.pages);
    assert_int_equal(e.n_running + (int32_t)e.n_waiting, 0);
    assert_true(e.preemptions > 0);
    double drain = e.largest_backlog * .0033 * 1.5;
    printf("    %llu requests, %.1f simulated hours, %llu steps of %.0f rows; longest step %.2f s; largest backlog %.0f rows (%.0f s); longest wait %.0f s; %llu preempted, %llu displaced\n",
           (unsigned long long)t.ended, e.now / 3600, (unsigned long long)e.steps, (double)e.rows / (double)e.steps, e.longest_step, e.largest_backlog, drain, e.longest_wait,
           (unsigned long long)e.preemptions, (unsigned long long)e.displaced);
    assert_true(e.longest_wait < 2 * drain);
    free_all(&t);
}

// Clients that never stop asking get work by their weights; one that asks seldom is served at once, whatever the others do.
static void fair_shares(void **state) {
    (void)state;
    engine e;
    tally t = {0};
    engine_init(&e, 16, 4000);
    random_state = 4;
    const double weights[3] = {1, 2, 4};
    for (int i = 0; i < 3; i++) e.client[i].weight = weights[i];
    uint64_t order = 0;
    uint32_t open[CLIENTS] = {0};
    double next_polite = 30;
    uint64_t ended[CLIENTS] = {0};
    while (e.now < 20000) {
        for (int c = 0; c < 3; c++)
            for (open[c] -= (uint32_t)(t.n[c] - ended[c]), ended[c] = t.n[c]; open[c] < (c ? 24u : 200u); open[c]++) // client 0 asks for much more than the others
                arrive(&e, new_request(&t, e.now, order++, c, between(100, 400), 0, between(20, 80)));
        if (e.now >= next_polite) {
            arrive(&e, new_request(&t, e.now, order++, 3, 200, 0, 20));
            next_polite = e.now + 30;
        }
        assert_true(step(&e, count_end, &t));
    }
    printf("    weights 1 : 2 : 4 had work %.2f : %.2f : %.2f; a polite client's first token: %.2f s on average, %.2f s at worst; %llu displaced\n", 1., e.work[1] / e.work[0],
           e.work[2] / e.work[0], t.waits[3] / (double)t.n[3], t.worst[3], (unsigned long long)e.displaced);
    assert_true(fabs(e.work[1] / e.work[0] - 2) < .2 && fabs(e.work[2] / e.work[0] - 4) < .4);
    assert_true(t.waits[3] / (double)t.n[3] < 5 && t.worst[3] < 15);
    while (step(&e, count_end, &t)) {}
    assert_int_equal(t.ended, order);
    free_all(&t);
}

// Higher priority passes all others and takes their places; the others still end.
static void priorities(void **state) {
    (void)state;
    engine e;
    tally t = {0};
    engine_init(&e, 8, 4000);
    random_state = 5;
    uint64_t order = 0;
    for (int i = 0; i < 64; i++) arrive(&e, new_request(&t, 0, order++, i % 4, 300, 0, 200));
    while (e.now < 20) step(&e, count_end, &t);
    request *urgent = new_request(&t, e.now, order++, 5, 200, 0, 10);
    urgent->priority = -1;
    arrive(&e, urgent);
    while (t.n[5] == 0) assert_true(step(&e, count_end, &t));
    assert_true(t.worst[5] < 2);
    while (step(&e, count_end, &t)) {}
    assert_int_equal(t.ended, order);
    free_all(&t);
}

// ---- many replicas -------------------------------------------------------------------------------

// Conversations over `n` replicas, each a server of 300 rows a second that remembers the conversations it served last. The balancer that knows
// prefixes sends a turn to where it will begin soonest: of where its conversation is and two at random (Mitzenmacher 2001), the one with the
// least queue and rows to compute; the other sends to each in turn.
typedef struct replica {
    double   busy_until;
    uint64_t served;
} replica;

static void replicas(int n, bool aware, double out[3]) {
    enum { TURNS = 10, KEPT = 160 };
    size_t total = (size_t)n * 400;
    replica *r = mem_calloc((size_t)n, sizeof *r);
    struct talk { int32_t at; uint64_t stamp; int32_t turn, length; } *talks = mem_calloc((size_t)n * 40, sizeof *talks);
    double *waits = mem_alloc(total * sizeof *waits), now = 0, computed = 0, asked = 0;
    assert_true(r && talks && waits);
    random_state = 6;
    for (size_t i = 0; i < total; i++) {
        now += exponential(3.6 / n); // a replica that finds every prefix is busy a third of the time, one that finds none could not follow
        size_t id = (size_t)(next_random() % ((uint64_t)n * 40));
        if (talks[id].turn == TURNS || !talks[id].turn) talks[id] = (struct talk){.at = -1};
        int32_t fresh = between(100, 500), where = aware ? talks[id].at : (int32_t)(i % (size_t)n);
        double best = where >= 0 ? (r[where].busy_until > now ? r[where].busy_until - now : 0) + fresh / 300. : INFINITY;
        for (int k = 0; aware && k < 2; k++) {
            int32_t pick = (int32_t)(next_random() % (uint64_t)n);
            double soon = (r[pick].busy_until > now ? r[pick].busy_until - now : 0) + (fresh + talks[id].length) / 300.;
            if (soon < best) best = soon, where = pick;
        }
        bool hit = talks[id].at == where && r[where].served - talks[id].stamp < KEPT;
        int32_t rows = fresh + (hit ? 0 : talks[id].length), made = 100;
        asked += fresh + talks[id].length;
        computed += rows;
        double start = r[where].busy_until > now ? r[where].busy_until : now;
        waits[i] = start - now + rows / 300.;
        r[where].busy_until = start + (rows + made) / 300.;
        talks[id].at = where;
        talks[id].stamp = ++r[where].served;
        talks[id].turn++;
        talks[id].length += fresh + made;
    }
    double mean = 0;
    for (size_t i = total / 10; i < total; i++) mean += waits[i];
    size_t over = 0;
    mean /= (double)(total - total / 10);
    for (size_t i = total / 10; i < total; i++) over += waits[i] > 10;
    out[0] = 1 - computed / asked;
    out[1] = mean;
    out[2] = (double)over / (double)(total - total / 10);
    mem_free(r);
    mem_free(talks);
    mem_free(waits);
}

static void many_replicas(void **state) {
    (void)state;
    const int counts[] = {8, 64, 1000};
    for (int i = 0; i < 3; i++) {
        double aware[3], round[3];
        replicas(counts[i], true, aware);
        replicas(counts[i], false, round);
        printf("    %4d replicas: prefix-aware: %.0f %% of prompt tokens cached, first token %.2f s on average, %.1f %% over 10 s; in turn: %.0f %%, %.2f s, %.1f %%\n", counts[i],
               100 * aware[0], aware[1], 100 * aware[2], 100 * round[0], round[1], 100 * round[2]);
        assert_true(aware[0] > .6 && aware[1] < round[1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(cost_is_found), cmocka_unit_test(rows_beside_streams), cmocka_unit_test(order_and_queue),
                                       cmocka_unit_test(a_million),     cmocka_unit_test(fair_shares),         cmocka_unit_test(priorities),
                                       cmocka_unit_test(many_replicas)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
