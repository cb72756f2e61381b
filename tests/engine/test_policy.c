// The scheduler's policy: its parts against what they promise, and a simulation of an engine that decides by it, over a million requests.
//
// trace.txt has arrivals and steps of a real server (bench/record.mjs). The simulation is deterministic: virtual seconds; steps cost what was fitted to the
// recorded ones, with noise that the policy's own fit has to see through; requests arrive as they were recorded, over and over, in calm and busy spells; streams draft
// with luck of their own. The policy composes its steps as it does the engine's; it does with counts what eng_step.c does with sequences. Pages are checked after every step.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "base/mem.h"
#include "engine/eng_clients.h"
#include "kv/kv.h"
#include "sanitized.h"

enum { REQUESTS = SANITIZED ? 100000 : 1000000 };

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

// ---- what was recorded ---------------------------------------------------------------------------

enum { MOST_STEPS = 8192, MOST_ARRIVALS = 2048 };
typedef struct arrival { double gap; int32_t prompt, cached, output; } arrival; // gap: seconds since the one before
static struct { pol_step load; double seconds; } recorded[MOST_STEPS];
static arrival arrivals[MOST_ARRIVALS];
static size_t n_recorded, n_arrivals;
static int32_t longest_request; // tokens
static double mean_gap, machine[POL_TERMS]; // seconds a step, stream, row, pair, draft, key

static double true_cost(const pol_step *s) {
    return machine[0] + machine[1] * s->streams + machine[2] * s->rows + machine[3] * s->pairs + machine[4] * s->drafts + machine[5] * s->keys;
}

// Least squares of relative errors over all steps, no cost below nothing: coordinate descent. A step that something disturbed counts as the others do.
static void fit_machine(void) {
    double a[POL_TERMS][POL_TERMS] = {{0}}, b[POL_TERMS] = {0};
    for (size_t i = 0; i < n_recorded; i++) {
        const pol_step *l = &recorded[i].load;
        double x[POL_TERMS] = {1, l->streams, l->rows, l->pairs, l->drafts, l->keys}, w = 1 / (recorded[i].seconds * recorded[i].seconds);
        for (int j = 0; j < POL_TERMS; j++) {
            b[j] += w * x[j] * recorded[i].seconds;
            for (int k = 0; k < POL_TERMS; k++) a[j][k] += w * x[j] * x[k];
        }
    }
    for (int sweep = 0; sweep < 20000; sweep++)
        for (int j = 0; j < POL_TERMS; j++) {
            double sum = b[j];
            for (int k = 0; k < POL_TERMS; k++) sum -= k == j ? 0 : a[j][k] * machine[k];
            machine[j] = a[j][j] > 0 ? fmax(0, sum / a[j][j]) : 0;
        }
}

static int read_trace(void **state) {
    (void)state;
    char line[200];
    double came = 0, before = 0, us;
    FILE *f = fopen(SOURCE_DIR "/tests/engine/trace.txt", "r");
    if (!f) return -1;
    while (fgets(line, sizeof line, f)) {
        pol_step l = {0};
        arrival r = {0};
        if (n_recorded < MOST_STEPS && sscanf(line, "step %lf %lf %lf %lf %lf %lf", &l.streams, &l.rows, &l.pairs, &l.keys, &l.drafts, &us) == 6) {
            recorded[n_recorded].load = l;
            recorded[n_recorded++].seconds = us / 1e6;
        } else if (n_arrivals < MOST_ARRIVALS && sscanf(line, "request %lf %d %d %d", &came, &r.prompt, &r.cached, &r.output) == 4) {
            r.gap = (came - before) / 1e3;
            before = came;
            if (r.prompt + r.output > longest_request) longest_request = r.prompt + r.output;
            arrivals[n_arrivals++] = r;
        }
    }
    fclose(f);
    mean_gap = before / 1e3 / (double)n_arrivals;
    fit_machine();
    return n_recorded > 100 && n_arrivals > 50 ? 0 : -1;
}

// ---- the simulated engine ------------------------------------------------------------------------

enum { PAGE = KV_PAGE, MAX_RUNNING = 64, STEP_TOKENS = 512, CLIENTS = 16, MOST_DRAFTS = 8 };

typedef struct request {
    double   arrived, started, first, ended, since, waited; // since: it waits; waited: in all, before it began and whenever it gave way
    uint64_t order;
    int32_t  client, prompt, cached, output; // cached: of the prompt, found computed
    int32_t  at, made, pages;               // tokens computed, tokens made, pages held
    pol_memo memo;
    int32_t  drafts;                         // of the step
    double   chance;                         // of a draft to be right
    pol_luck luck;
    int64_t  priority;
    struct request *next;                    // in the list of those that wait
    bool     stepped, passed;
} request;

typedef struct engine {
    pol_cost   cost;
    pol_client client[CLIENTS];
    uint32_t   n_waiting;
    double     clock, now, work[CLIENTS];
    int32_t    parallel, pages, free_pages;
    request   *waiting, *running[MAX_RUNNING]; // running: by age
    pol_item   items[MAX_RUNNING];
    int32_t    n_running;
    pol_turn   turn;
    pol_step   load;
    uint64_t   steps, preemptions, displaced, rows, drafted, accepted;
    double     longest_step, longest_wait, backlog[CLIENTS], largest_backlog; // backlog: rows of a client that wait to be computed
} engine;

static void engine_init(engine *e, int32_t parallel, int32_t pages) {
    memset(e, 0, sizeof *e);
    e->parallel = parallel;
    e->pages = e->free_pages = pages;
    for (int i = 0; i < CLIENTS; i++) e->client[i].weight = 1;
}

static int32_t length(const request *r) { return r->prompt + r->made; }
static pol_item item_of(engine *e, const request *r) {
    return pol_item_of(&r->memo, &e->client[r->client], r->priority, r->order, length(r), r->made);
}
static bool is_stream(const request *r) { return r->made && r->at + 1 == length(r); }
static bool older(const request *a, const request *b) { return a->priority != b->priority ? a->priority < b->priority : a->order < b->order; }

static void arrive(engine *e, request *r) {
    double least = -1;
    for (int i = 0; i < CLIENTS; i++)
        if (e->client[i].active && (least < 0 || e->client[i].work < least)) least = e->client[i].work;
    if (least > e->clock) e->clock = least;
    pol_client_enter(&e->client[r->client], &e->clock);
    r->since = r->arrived;
    pol_arrives(&r->memo, r->arrived, r->prompt, pol_cost_row(&e->cost));
    r->next = e->waiting;
    e->waiting = r;
    e->n_waiting++;
    double *backlog = &e->backlog[r->client];
    *backlog += r->prompt - r->cached + r->output;
    if (*backlog > e->largest_backlog) e->largest_backlog = *backlog;
}

static void stop_running(engine *e, request *r) {
    int32_t i = 0;
    while (e->running[i] != r) i++;
    memmove(e->running + i, e->running + i + 1, (size_t)(--e->n_running - i) * sizeof *e->running);
    e->free_pages += r->pages;
    e->client[r->client].runs--;
    r->pages = 0;
    if (e->turn.blocked == r) e->turn.blocked = NULL;
}

// Those that run, as the policy sees them, in e->items.
static int32_t look(engine *e) {
    for (int32_t i = 0; i < e->n_running; i++) {
        e->items[i] = item_of(e, e->running[i]);
        e->items[i].rows = e->running[i]->stepped;
        e->items[i].held = e->running[i]->pages * PAGE;
        e->items[i].alone = e->running[i]->pages;
    }
    return e->n_running;
}

static void preempt(engine *e, request *r) {
    stop_running(e, r);
    e->backlog[r->client] += r->at - r->cached;
    r->at = r->cached; // the rest is computed again
    r->since = e->now;
    r->next = e->waiting;
    e->waiting = r;
    e->n_waiting++;
}

// Pages for `upto` tokens of r, from younger ones if need be.
static bool make_room(engine *e, request *r, int32_t upto) {
    int32_t need = (upto + PAGE - 1) / PAGE - r->pages;
    while (need > e->free_pages) {
        int32_t n = look(e), who = 0, i;
        while (e->running[who] != r) who++;
        if ((i = pol_victim(e->items, n, who)) < 0) return false;
        pol_gave_way(&e->running[i]->memo, &e->items[i], e->now, pol_cost_row(&e->cost));
        preempt(e, e->running[i]);
        e->preemptions++;
    }
    if (need > 0) e->free_pages -= need, r->pages += need;
    return true;
}

static void take_rows(engine *e, request *r, int32_t n) {
    pol_step *load = &e->load;
    if (is_stream(r)) load->streams++;
    else load->rows += n;
    load->pairs += (double)n * (r->at + (n + 1) / 2.);
    load->keys += r->at + n;
    pol_client_charge(&e->client[r->client], n);
    e->work[r->client] += n;
    r->stepped = true;
    r->at += n; // the step is as good as done
    e->rows += (uint64_t)n;
    e->backlog[r->client] -= n;
}

// ---- what the policy orders, as eng_step.c has it

static int32_t places(void *ctx) {
    const engine *e = ctx;
    return e->parallel - e->n_running;
}

static void *next(void *ctx, pol_which which, pol_item *item) {
    engine *e = ctx;
    request *best = NULL;
    for (int32_t i = 0; which == POL_READS && i < e->n_running; i++) {
        request *r = e->running[i];
        pol_item x = item_of(e, r);
        if (!r->stepped && !r->passed && !is_stream(r) && (!best || pol_before(&x, item))) best = r, *item = x;
    }
    for (request *r = which == POL_READS ? NULL : e->waiting; r; r = r->next) {
        pol_item x = item_of(e, r);
        if ((which == POL_WAITS || !r->made) && (!best || pol_before(&x, item))) best = r, *item = x;
    }
    return best;
}

static void make_way(void *ctx, const pol_item *waiting) {
    engine *e = ctx;
    int32_t n = look(e), i = pol_yields(waiting, e->items, n);
    if (i >= 0) preempt(e, e->running[i]), e->displaced++;
}

static pol_got start(void *ctx, void *who, bool from_others) {
    engine *e = ctx;
    request *r = who;
    pol_item newcomer = item_of(e, r);
    newcomer.held = r->at < r->cached ? r->cached : r->at;
    int32_t copied = ((int32_t)newcomer.held + PAGE - 1) / PAGE; // what is cached is shared; here it is as if it were copied
    pol_room room = {.pages = e->free_pages - copied, .rows = STEP_TOKENS};
    int32_t n = look(e);
    if (!pol_finds_pages(&e->cost, &newcomer, e->items, n, &room, from_others)) return POL_NO_PAGES;
    while (n--)
        if (e->items[n].gives) preempt(e, e->running[n]), e->displaced++;
    request **p = &e->waiting;
    while (*p != r) p = &(*p)->next;
    *p = r->next;
    e->n_waiting--;
    pol_starts(&r->memo, r->made);
    if (r->started < 0) r->started = e->now;
    r->waited += e->now - r->since;
    if (r->waited > e->longest_wait) e->longest_wait = r->waited;
    if (r->at < r->cached) r->at = r->cached;
    r->pages = copied;
    e->free_pages -= copied;
    int32_t at = e->n_running++;
    for (; at && older(r, e->running[at - 1]); at--) e->running[at] = e->running[at - 1];
    e->running[at] = r;
    e->client[r->client].runs++;
    return POL_GOT;
}

static void begin(void *ctx) {
    engine *e = ctx;
    for (int32_t i = 0; i < e->n_running; i++) e->running[i]->stepped = false, e->running[i]->drafts = 0;
    if (e->turn.blocked && is_stream(e->turn.blocked)) e->turn.blocked = NULL;
}

static int32_t chunk(void *ctx, void *who, int32_t budget) {
    engine *e = ctx;
    request *r = who;
    int32_t n = length(r) - r->at < budget ? length(r) - r->at : budget;
    r->passed = true;
    if (!make_room(e, r, r->at + n)) return POL_NO_PAGES;
    take_rows(e, r, n);
    return n;
}

static void add_drafts(engine *e) {
    pol_step *load = &e->load;
    double tokens = load->streams;
    for (int32_t i = 0; i < e->n_running; i++) {
        request *r = e->running[i];
        if (!r->stepped || !r->made || r->at < length(r)) continue;
        int32_t most = r->output - r->made - 1, spare = STEP_TOKENS - (int32_t)(load->streams + load->rows + load->drafts);
        if (most > MOST_DRAFTS) most = MOST_DRAFTS;
        r->drafts = pol_draft_rows(&r->luck, &e->cost, load, 0, most < spare ? most : spare, &tokens);
        int32_t need = (length(r) + r->drafts + PAGE - 1) / PAGE - r->pages;
        if (need > e->free_pages) r->drafts = 0;
        else if (need > 0) e->free_pages -= need, r->pages += need;
        load->drafts += r->drafts;
    }
}

static void add_streams(void *ctx) {
    engine *e = ctx;
    for (int32_t i = 0; i < e->n_running; i++) { // who gives way is younger, and behind
        request *r = e->running[i];
        if (!r->stepped && is_stream(r) && make_room(e, r, length(r))) take_rows(e, r, 1);
    }
    add_drafts(e);
}

static int32_t prompt_budget(void *ctx) {
    engine *e = ctx;
    int32_t prompts = (int32_t)e->n_waiting < places(e) ? (int32_t)e->n_waiting : places(e);
    for (int32_t i = 0; i < e->n_running; i++) e->running[i]->passed = false, prompts += !e->running[i]->stepped && !is_stream(e->running[i]);
    pol_item item;
    const request *first = next(e, POL_READS, &item);
    return pol_prompt_rows(&e->cost, &e->load, prompts, first ? first->at : 0, STEP_TOKENS - (int32_t)(e->load.streams + e->load.rows + e->load.drafts));
}

// What is computed of r is drawn, and its drafts with it.
static void draw(engine *e, request *r) {
    int32_t good = 0;
    while (good < r->drafts && uniform() < r->chance) good++;
    if (!r->made++) r->first = e->now;
    r->made += good;
    r->at += good;
    e->backlog[r->client] -= good;
    if (!r->drafts) return;
    pol_draft_note(&r->luck, r->drafts, good);
    pol_client_charge(&e->client[r->client], good);
    e->work[r->client] += good;
    e->drafted += (uint64_t)r->drafts;
    e->accepted += (uint64_t)good;
}

// One step; false when there is nothing to do. ended: called for each request that ended.
static bool step(engine *e, void (*ended)(void *ctx, request *r), void *ctx) {
    static const pol_hands hands = {.places = places, .next = next, .make_way = make_way, .start = start,
                                    .begin = begin, .streams = add_streams, .budget = prompt_budget, .read = chunk};
    e->load = (pol_step){0};
    pol_compose(&e->turn, &hands, e);
    if (e->load.streams + e->load.rows == 0) return false;
    double seconds = true_cost(&e->load) * (.95 + .1 * uniform()) * (next_random() % 500 ? 1 : 4); // one in 500 is disturbed
    pol_cost_note(&e->cost, &e->load, seconds);
    e->now += seconds;
    e->steps++;
    if (seconds > e->longest_step) e->longest_step = seconds;
    int32_t held = 0;
    for (int32_t i = e->n_running; i-- > 0;) {
        request *r = e->running[i];
        held += r->pages;
        assert_true(r->pages * PAGE >= r->at);
        if (!r->stepped || r->at < length(r)) continue;
        draw(e, r);
        if (r->made < r->output) continue;
        held -= r->pages;
        stop_running(e, r);
        pol_client_leave(&e->client[r->client]);
        e->backlog[r->client] -= 1; // the last token is not computed any more
        r->ended = e->now;
        ended(ctx, r);
    }
    assert_int_equal(held + e->free_pages, e->pages);
    return true;
}

// ---- the parts -----------------------------------------------------------------------------------

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The engine's fit, fed the recorded steps one by one, foresees the next.
static void recorded_steps_are_foreseen(void **state) {
    (void)state;
    static double wrong[MOST_STEPS], off[MOST_STEPS];
    size_t n = 0;
    pol_cost c = {0};
    for (size_t i = 0; i < n_recorded; i++) {
        if (i >= 50) {
            off[n] = fabs(true_cost(&recorded[i].load) / recorded[i].seconds - 1);
            wrong[n++] = fabs(pol_cost_of(&c, &recorded[i].load) / recorded[i].seconds - 1);
        }
        pol_cost_note(&c, &recorded[i].load, recorded[i].seconds);
    }
    qsort(wrong, n, sizeof *wrong, by_size);
    qsort(off, n, sizeof *off, by_size);
    printf("    %zu recorded steps: %.1f ms + %.2f ms a stream + %.2f ms a row + %.0f ns a pair + %.0f ns a key; wrong by %.0f %% in the middle, "
           "%.0f %% at the ninth tenth; the running fit: %.0f %%, %.0f %%\n",
           n_recorded, 1e3 * machine[0], 1e3 * machine[1], 1e3 * machine[2], 1e9 * machine[3], 1e9 * machine[5],
           100 * off[n / 2], 100 * off[n * 9 / 10], 100 * wrong[n / 2], 100 * wrong[n * 9 / 10]);
    assert_true(wrong[n / 2] < .25 && off[n / 2] < .25);
}

static void cost_is_found(void **state) {
    (void)state;
    pol_cost c = {0};
    random_state = 1;
    for (int i = 0; i < 600; i++) {
        pol_step s = {.streams = between(0, 32), .rows = between(0, 2) ? between(8, 256) : 0, .pairs = between(1000, 100000), .keys = between(500, 20000)};
        if (s.streams + s.rows == 0) s.streams = 1;
        pol_cost_note(&c, &s, true_cost(&s) * (.9 + .2 * uniform()) * (i % 50 == 49 ? 20 : 1));
    }
    for (int i = 0; i < 50; i++) {
        pol_step s = {.streams = between(1, 32), .rows = between(8, 256), .pairs = 20000, .keys = 5000};
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

// Who gives a place, who gives pages: three of one client run, one of another waits.
static void order_of_giving(void) {
    pol_client a = {.weight = 1, .work = 3 * POL_QUANTUM, .runs = 3}, b = {.weight = 1};
    pol_cost c = {0};
    pol_item w = {.client = &b, .order = 9, .length = 320}, run[3];
    for (int i = 0; i < 3; i++) run[i] = (pol_item){.client = &a, .order = (uint64_t)i, .begun = true, .length = 640, .made = 600, .held = 640, .alone = 20};
    pol_cost_note(&c, &(pol_step){.rows = 500}, .5);
    assert_int_equal(pol_yields(&w, run, 3), 2);
    run[0].unread = true;
    assert_int_equal(pol_yields(&w, run, 3), 0); // the oldest too, where nobody reads it
    run[0].unread = false;
    a.work = 0;
    assert_int_equal(pol_yields(&w, run, 3), -1);
    a.work = 3 * POL_QUANTUM;
    assert_int_equal(pol_victim(run, 3, 0), 2);
    run[2].rows = true;
    assert_int_equal(pol_victim(run, 3, 0), 1);
    assert_int_equal(pol_victim(run, 3, 1), -1); // an older one keeps its own
    run[2].rows = false;
    // pages for the prompt of 320 and two more, two for each that runs, and what they take while it is read: one each for 32 steps
    pol_room room = {.pages = 12 + 3 * 2, .states = 0, .rows = 512};
    double steps = pol_steps_to_read(&c, &(pol_step){.streams = 3, .pairs = 3 * 640, .keys = 3 * 640}, 320, 0, 509);
    room.pages += floor(3 * steps / PAGE);
    assert_true(pol_finds_pages(&c, &w, run, 3, &room, false));
    room.pages--;
    assert_false(pol_finds_pages(&c, &w, run, 3, &room, false));
    assert_true(pol_finds_pages(&c, &w, run, 3, &room, true) && !run[0].gives && !run[1].gives && run[2].gives); // the youngest
    run[2].alone = 0; // it shares all: only what was promised to it is free then
    assert_true(pol_finds_pages(&c, &w, run, 3, &room, true) && !run[1].gives);
    room.pages -= 10;
    assert_true(pol_finds_pages(&c, &w, run, 3, &room, true) && run[1].gives && run[2].gives);
    room.pages -= 20;
    assert_false(pol_finds_pages(&c, &w, run, 3, &room, true) || run[1].gives || run[2].gives); // the oldest gives none, and nobody gives in vain
    room.pages += 31; // as many as were enough
    room.states = -1;
    assert_false(pol_finds_pages(&c, &w, run, 3, &room, false));
    assert_true(pol_finds_pages(&c, &w, run, 3, &room, true) && run[2].gives);
    assert_true(pol_finds_pages(&c, &w, run, 0, &(pol_room){.rows = 512}, false)); // nobody else is here: it may try
}

static void order_and_queue(void **state) {
    (void)state;
    pol_client a = {.weight = 1}, b = {.weight = 1};
    pol_item x = {.client = &a, .deadline = 10, .order = 1}, y = {.client = &b, .deadline = 11, .order = 2};
    assert_true(pol_before(&x, &y) && !pol_before(&y, &x));
    a.work = 3 * POL_QUANTUM;
    assert_true(pol_before(&y, &x));
    x.priority = -1;
    assert_true(pol_before(&x, &y));
    assert_true(pol_displaces(&x, &y, 1));
    x.priority = 0;
    assert_true(!pol_displaces(&y, &x, 1) && pol_displaces(&y, &x, 2));
    b.runs = 1;
    assert_false(pol_displaces(&y, &x, 2));
    b.runs = 0;
    // pages: to a client that runs nothing once reading again costs little beside what was made, to a higher priority at once, within a client after a slice
    x.begun = true;
    x.length = 1000;
    x.made = 499;
    assert_true(!pol_gives_pages(&y, &x, 2));
    x.made = 500;
    assert_true(pol_gives_pages(&y, &x, 2) && !pol_gives_pages(&y, &x, 1));
    b.runs = 1;
    assert_false(pol_gives_pages(&y, &x, 2));
    y.priority = -1;
    x.made = 0;
    assert_true(pol_gives_pages(&y, &x, 1));
    y.priority = 0;
    x.made = POL_SLICE;
    assert_true(pol_gives_pages(&y, &x, 1));
    y.begun = true;
    assert_false(pol_gives_pages(&y, &x, 1)); // it has had tokens, and is younger
    y.order = 0;
    assert_true(pol_gives_pages(&y, &x, 1));
    b.work = a.work + 1;
    assert_false(pol_gives_pages(&y, &x, 1)); // its client is ahead
    b.work = 0;
    pol_memo m;
    pol_arrives(&m, 10, 50, .01);
    assert_true(m.deadline == 10 + POL_SLACK * 50 * .01);
    pol_starts(&m, 200);
    x = pol_item_of(&m, &a, 0, 1, 1000, 500);
    assert_true(x.begun && x.made == 300 && x.deadline == m.deadline);
    x.begun = false;
    pol_gave_way(&m, &x, 100, .01);
    assert_true(m.deadline == x.deadline);
    x.begun = true; // it has had tokens
    pol_gave_way(&m, &x, 100, .01);
    assert_true(m.deadline == 100 + POL_SLACK * x.length * .01);
    order_of_giving();
    double clock = 50 + POL_QUANTUM;
    pol_client_enter(&b, &clock);
    assert_true(b.work == 50); // it does not save up more than a quantum
    assert_true(pol_admits(6, 6, 8) && !pol_admits(7, 7, 8) && pol_admits(7, 0, 8) && !pol_admits(8, 0, 8));
    assert_true(pol_admits(223, 223, 256) && !pol_admits(224, 200, 256) && pol_admits(224, 3, 256) && !pol_admits(256, 0, 256));
    assert_int_equal(pol_retry_after(100, .25), 25);
    assert_int_equal(pol_retry_after(0, 1), 1);
    assert_int_equal(pol_retry_after(1000000, 1), 600);
}

// Who found no room in the table of clients shares an entry, and is not passed for ever by who found some: it counts for the clock as others do.
static void who_share_an_entry(void **state) {
    (void)state;
    eng_clients *t = mem_calloc(1, sizeof *t);
    eng_client *c[ENG_CLIENTS + 1];
    char key[16];
    assert_non_null(t);
    for (int i = 0; i <= ENG_CLIENTS; i++) {
        snprintf(key, sizeof key, "%d", i);
        c[i] = eng_client_find(t, key, NULL);
        eng_client_enter(t, c[i], 1);
    }
    assert_true(eng_client_known(c[0]) && !eng_client_known(c[ENG_CLIENTS]));
    pol_client_charge(&c[ENG_CLIENTS]->fair, 1e6);
    for (int i = 0; i < ENG_CLIENTS; i++) {
        pol_client_leave(&c[i]->fair);
        c[i]->refs--;
    }
    eng_client *fresh = eng_client_find(t, "another", NULL);
    assert_true(eng_client_known(fresh));
    eng_client_enter(t, fresh, 1);
    assert_true(fresh->fair.work == 1e6 - POL_QUANTUM);
    eng_clients_free(t);
    mem_free(t);
}

// One that reads and one that waits, and what is asked of them.
typedef struct script {
    char     log[100];
    pol_item reads, waits;
    bool     has_rows, asked, has_pages; // of who reads
    pol_got  starts;                     // who waits, when it is told to
} script;

static void say(void *ctx, const char *what) {
    script *s = ctx;
    snprintf(s->log + strlen(s->log), sizeof s->log - strlen(s->log), "%s%s", *s->log ? " " : "", what);
}

static int32_t one_place(void *ctx) { return (void)ctx, 1; }
static void *next_in_script(void *ctx, pol_which which, pol_item *item) {
    script *s = ctx;
    if (which == POL_READS && (s->has_rows || s->asked)) return NULL;
    pol_item *who = which == POL_READS ? &s->reads : &s->waits;
    *item = *who;
    return who;
}
static void say_begin(void *ctx) { say(ctx, "begin"); }
static void say_streams(void *ctx) { say(ctx, "streams"); }
static int32_t budget_of_script(void *ctx) {
    script *s = ctx;
    s->asked = false;
    return 64;
}
static pol_got say_start(void *ctx, void *who, bool from_others) {
    script *s = ctx;
    (void)who;
    say(s, from_others ? "start-from-others" : "start");
    return s->starts;
}
static int32_t say_read(void *ctx, void *who, int32_t rows) {
    script *s = ctx;
    if (who == &s->waits) {
        say(s, "read-newcomer");
        return rows;
    }
    say(s, "read");
    s->asked = true;
    s->has_rows = s->has_pages;
    return s->has_pages ? rows : POL_NO_PAGES;
}

// Who was left no pages is asked before the streams. While it finds none, who goes behind it is not started; who goes before it is, at the next step for the pages of others;
// but not where it was something else that it lacked.
static void order_of_a_step(void **state) {
    (void)state;
    static const pol_hands hands = {.places = one_place, .next = next_in_script, .start = say_start, .begin = say_begin,
                                    .streams = say_streams, .budget = budget_of_script, .read = say_read};
    static const struct { int64_t priority; bool has_pages; pol_got starts; const char *steps[2]; } cases[] = {
        {1, false, POL_GOT, {"begin read streams read", "begin read streams read"}},
        {1, true, POL_GOT, {"begin read streams start read-newcomer", "begin streams read"}},
        {-1, false, POL_NO_PAGES, {"begin read streams start read", "start-from-others begin read streams start read"}},
        {-1, false, POL_GOT, {"begin read streams start read-newcomer", "begin read streams start read-newcomer"}},
        {-1, false, POL_FAILED, {"begin read streams start read", "begin read streams start read"}},
    };
    pol_client client = {.weight = 1};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        script s = {.reads = {.client = &client, .order = 1}, .waits = {.client = &client, .order = 2, .priority = cases[i].priority},
                    .has_pages = cases[i].has_pages, .starts = cases[i].starts};
        pol_turn t = {.blocked = &s.reads};
        for (int step = 0; step < 2; step++) {
            s.log[0] = 0;
            s.has_rows = false;
            pol_compose(&t, &hands, &s);
            if (strcmp(s.log, cases[i].steps[step])) fail_msg("case %zu, step %d: %s", i, step, s.log);
        }
    }
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
    *r = (request){.arrived = arrived, .order = order, .client = client, .prompt = prompt, .cached = cached, .output = output, .chance = pow(uniform(), 2), .started = -1};
    return r;
}

static void free_all(tally *t) {
    for (request *r = t->free, *next; r; r = next) {
        next = r->next;
        mem_free(r);
    }
}

static request *recorded_request(tally *t, double arrived, uint64_t order) {
    const arrival *x = &arrivals[order % n_arrivals];
    return new_request(t, arrived, order, (int32_t)(next_random() % CLIENTS), x->prompt, x->cached, x->output > 0 ? x->output : 1);
}

// Seconds and rows of a recorded request where many wait: what the machine can do.
static void capacity(int32_t pages, double *request_s, double *row_s) {
    engine e;
    tally t = {0};
    engine_init(&e, 32, pages);
    for (uint64_t i = 0; i < 2 * n_arrivals; i++) arrive(&e, recorded_request(&t, 0, i));
    while (step(&e, count_end, &t)) {}
    *request_s = e.now / (double)t.ended;
    *row_s = e.now / (double)e.rows;
    free_all(&t);
}

// Recorded arrivals at a mean load of 0.9, in pages that do not suffice, behind a queue as the server's: who is let in ends, and nobody waits much
// longer than the largest backlog of one client takes while all others have their share beside it.
static void a_million(void **state) {
    (void)state;
    engine e;
    tally t = {0};
    double request_s, row_s, at = 0, spell = 1;
    random_state = 3;
    int32_t pages = longest_request / PAGE + 40;
    capacity(pages, &request_s, &row_s);
    engine_init(&e, 32, pages);
    request *coming = NULL;
    uint64_t sent = 0, refused = 0;
    while (t.ended + refused < REQUESTS) {
        if (!coming && sent < REQUESTS) {
            if (next_random() % 400 == 0) spell = uniform() < .5 ? 1.5 : .85; // calm and busy: a mean load of 0.9
            at += arrivals[sent % n_arrivals].gap / mean_gap * request_s * spell;
            coming = recorded_request(&t, at, sent++);
        }
        if (coming && coming->arrived <= e.now) {
            uint32_t of_client = 0;
            for (const request *r = e.n_waiting >= 224 ? e.waiting : NULL; r; r = r->next) of_client += r->client == coming->client;
            if (pol_admits(e.n_waiting, of_client, 256)) arrive(&e, coming);
            else {
                refused++;
                coming->next = t.free;
                t.free = coming;
            }
            coming = NULL;
        } else if (!step(&e, count_end, &t)) {
            assert_non_null(coming);
            e.now = coming->arrived;
        }
    }
    assert_int_equal(e.free_pages, e.pages);
    assert_int_equal(e.n_running + (int32_t)e.n_waiting, 0);
    assert_true(e.preemptions > 0);
    double drain = e.largest_backlog * row_s * CLIENTS;
    printf("    %llu requests (%llu more were refused), %.1f simulated hours, %llu steps of %.0f rows; longest step %.2f s; "
           "largest backlog of a client %.0f rows (%.0f s at its share); longest wait %.0f s; %llu preempted, %llu displaced; %llu drafts, %.0f %% of them right\n",
           (unsigned long long)t.ended, (unsigned long long)refused, e.now / 3600, (unsigned long long)e.steps, (double)e.rows / (double)e.steps, e.longest_step,
           e.largest_backlog, drain, e.longest_wait,
           (unsigned long long)e.preemptions, (unsigned long long)e.displaced, (unsigned long long)e.drafted, 100 * (double)e.accepted / (double)e.drafted);
    assert_true(e.longest_wait < 1.5 * drain && e.accepted > 0);
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

// A long prompt is read, nothing else runs: a short one that arrives is not kept waiting until it is read, of whichever client it is.
static void short_prompts_pass(void **state) {
    (void)state;
    for (int client = 0; client < 2; client++) {
        engine e;
        tally t = {0};
        engine_init(&e, 8, 4000);
        random_state = 8;
        uint64_t order = 0;
        for (int i = 0; i < 40; i++) arrive(&e, new_request(&t, 0, order++, 2, between(50, 500), 0, 10)); // so that costs are known
        while (step(&e, count_end, &t)) {}
        request *whole = new_request(&t, e.now, order++, 0, 8000, 0, 10), *brief = NULL;
        arrive(&e, whole);
        for (int i = 0; i < 3; i++) assert_true(step(&e, count_end, &t));
        arrive(&e, brief = new_request(&t, e.now, order++, client, 60, 0, 10));
        while (!brief->made) assert_true(step(&e, count_end, &t));
        assert_true(!whole->made && brief->first - brief->arrived < 2.5 * POL_STEP_LIMIT);
        while (step(&e, count_end, &t)) {}
        assert_int_equal(t.ended, order);
        free_all(&t);
    }
}

// Seven streams that grow to 4,000 tokens in pages for 8,200, and a long prompt that arrives last: of their client, of one of eight clients, of another client than
// theirs, of higher priority. It has its first token long before they end (which takes ten minutes), all of them end, and not twice as much is computed.
static void pages_are_given(void **state) {
    (void)state;
    static const struct { const char *who; int clients; int64_t priority; double within; } cases[] = {
        {"of their client", 1, 0, 150}, {"each of its own client", 8, 0, 150}, {"of another client", 2, 0, 60}, {"of higher priority", 1, -1, 25}};
    enum { STREAMS = 7, LONG = 5618, GROWN = 4000, SHORT = 235 };
    double alone = 0;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        engine e;
        tally t = {0};
        engine_init(&e, 32, 257);
        random_state = 7;
        uint64_t order = 0;
        for (int i = 0; i < STREAMS; i++) arrive(&e, new_request(&t, 0, order++, cases[k].clients == 8 ? i : 0, SHORT, 0, GROWN));
        while (e.n_running < STREAMS || e.running[STREAMS - 1]->made < 8) assert_true(step(&e, count_end, &t));
        request *prompt = new_request(&t, e.now, order++, cases[k].clients - 1, LONG, 0, 16);
        prompt->priority = cases[k].priority;
        arrive(&e, prompt);
        while (!prompt->made) assert_true(step(&e, count_end, &t));
        double wait = prompt->first - prompt->arrived;
        while (step(&e, count_end, &t)) {}
        assert_int_equal(t.ended, order);
        printf("    a prompt of %d beside %d streams that outgrow the pages, %s: first token after %.0f s; all have ended after %.0f s and %.1f times the rows; "
               "%llu preempted, %llu displaced\n",
               LONG, STREAMS, cases[k].who, wait, e.now, (double)e.rows / (STREAMS * (SHORT + GROWN) + LONG + 16),
               (unsigned long long)e.preemptions, (unsigned long long)e.displaced);
        if (!k) alone = e.now;
        assert_true(wait < cases[k].within && (!k || e.now < 1.1 * alone) && (double)e.rows < 2. * (STREAMS * (SHORT + GROWN) + LONG + 16));
        free_all(&t);
    }
}

// ---- many replicas -------------------------------------------------------------------------------

// Conversations over `n` replicas, each a server as fast as the recorded one that remembers the conversations it served last; turns and answers are as long as
// recorded ones. The balancer that knows prefixes sends a turn to where it will begin soonest: of where its conversation is and two at random (Mitzenmacher 2001), the
// one with the least queue and rows to compute; the other sends to each in turn.
static int32_t fresh_of(size_t i) { return arrivals[i].prompt - arrivals[i].cached; }

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
    double speed = 256 / true_cost(&(pol_step){.rows = 256, .pairs = 256 * 600, .keys = 1200}), mean_work = 0;
    double made_row = true_cost(&(pol_step){.streams = 8, .pairs = 8 * 600, .keys = 8 * 600}) / 8;
    for (size_t i = 0; i < n_arrivals; i++) mean_work += (fresh_of(i) / speed + arrivals[i].output * made_row) / (double)n_arrivals;
    for (size_t i = 0; i < total; i++) {
        now += exponential(mean_work / .35 / n); // a replica that finds every prefix is busy a third of the time
        size_t id = (size_t)(next_random() % ((uint64_t)n * 40));
        if (talks[id].turn == TURNS || !talks[id].turn) talks[id] = (struct talk){.at = -1};
        size_t like = (size_t)(next_random() % n_arrivals);
        int32_t fresh = fresh_of(like), made = arrivals[like].output, where = aware ? talks[id].at : (int32_t)(i % (size_t)n);
        double best = where >= 0 ? (r[where].busy_until > now ? r[where].busy_until - now : 0) + fresh / speed : INFINITY;
        for (int k = 0; aware && k < 2; k++) {
            int32_t pick = (int32_t)(next_random() % (uint64_t)n);
            double soon = (r[pick].busy_until > now ? r[pick].busy_until - now : 0) + (fresh + talks[id].length) / speed;
            if (soon < best) best = soon, where = pick;
        }
        bool hit = talks[id].at == where && r[where].served - talks[id].stamp < KEPT;
        int32_t rows = fresh + (hit ? 0 : talks[id].length);
        asked += fresh + talks[id].length;
        computed += rows;
        double start = r[where].busy_until > now ? r[where].busy_until : now;
        waits[i] = start - now + rows / speed;
        r[where].busy_until = start + rows / speed + made * made_row;
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(recorded_steps_are_foreseen), cmocka_unit_test(cost_is_found),
                                       cmocka_unit_test(rows_beside_streams), cmocka_unit_test(order_and_queue), cmocka_unit_test(who_share_an_entry),
                                       cmocka_unit_test(order_of_a_step),
                                       cmocka_unit_test(a_million), cmocka_unit_test(fair_shares), cmocka_unit_test(priorities),
                                       cmocka_unit_test(short_prompts_pass), cmocka_unit_test(pages_are_given), cmocka_unit_test(many_replicas)};
    return cmocka_run_group_tests(tests, read_trace, NULL);
}
