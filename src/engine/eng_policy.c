// Owns the decisions of the scheduler: cost of a step, rows beside streams, who is next, who must wait outside. See eng_policy.h.
#include "engine/eng_policy.h"

#include <math.h>

#include "kv/kv.h"

enum { LEAST_PATIENCE = 8, MOST_PATIENCE = 512, TRIAL = 2 }; // of drafts that do not pay: chances let pass between trials, drafts of one
#define FADE .98 // of a step's weight, a step later
#define LUCK_FADE .9 // of a step's drafts, a step with drafts later
#define LUCK_PRIOR .6 // the chance of a draft where nothing is known,
#define LUCK_WEIGHT 2 // which counts as much as so many drafts

static const double unit[POL_TERMS] = {1, 8, 64, 65536, 8, 4096}; // so that the terms are of one size

static void terms_of(const pol_step *s, double x[POL_TERMS]) {
    x[0] = 1;
    x[1] = s->streams / unit[1];
    x[2] = s->rows / unit[2];
    x[3] = s->pairs / unit[3];
    x[4] = s->drafts / unit[4];
    x[5] = s->keys / unit[5];
}

double pol_cost_of(const pol_cost *c, const pol_step *s) {
    double x[POL_TERMS], sum = 0;
    terms_of(s, x);
    for (int i = 0; i < POL_TERMS; i++) sum += c->term[i] * x[i];
    return sum;
}

double pol_cost_row(const pol_cost *c) { return c->term[2] / unit[2]; }

// One step in the normal equations, then a few sweeps of coordinate descent from where the last fit stood. What the steps of late do not tell
// apart stays as it is: the ridge holds each term to its last value.
void pol_cost_note(pol_cost *c, const pol_step *s, double seconds) {
    double x[POL_TERMS], expected = pol_cost_of(c, s);
    if (!(seconds > 0) || !isfinite(seconds)) return;
    if (c->steps > 16 && seconds > 3 * expected) seconds = 3 * expected; // something else took the processors
    terms_of(s, x);
    double weight = 1 / (seconds * seconds); // relative errors count
    for (int i = 0; i < POL_TERMS; i++) {
        c->b[i] = FADE * c->b[i] + weight * x[i] * seconds;
        for (int j = 0; j < POL_TERMS; j++) c->a[i][j] = FADE * c->a[i][j] + weight * x[i] * x[j];
    }
    if (!c->steps++) { // one step says nothing about its parts: all of it is its rows'
        double rows = s->streams + s->rows;
        if (rows > 0) c->term[1] = seconds / rows * unit[1], c->term[2] = seconds / rows * unit[2];
        return;
    }
    double last[POL_TERMS];
    for (int i = 0; i < POL_TERMS; i++) last[i] = c->term[i];
    for (int sweep = 0; sweep < 10; sweep++)
        for (int i = 0; i < POL_TERMS; i++) {
            double ridge = 1e-3 * c->a[i][i] + 1e-9, sum = c->b[i] + ridge * last[i];
            for (int j = 0; j < POL_TERMS; j++)
                if (j != i) sum -= c->a[i][j] * c->term[j];
            c->term[i] = fmax(0, sum / (c->a[i][i] + ridge));
        }
}

int32_t pol_prompt_rows(const pol_cost *c, const pol_step *streams, int32_t waiting, double depth, int32_t most) {
    if (most <= 0 || waiting <= 0) return 0;
    double row = pol_cost_row(c) + c->term[3] / unit[3] * depth, bring = c->term[5] / unit[5] * depth;
    if (!c->steps || row <= 0) return streams->streams > 0 && most > 4 * POL_LEAST_ROWS ? 4 * POL_LEAST_ROWS : most;
    double alone = pol_cost_of(c, streams), room = POL_STEP_LIMIT - alone;
    if (streams->streams > 0) {
        double beside = POL_BESIDE * alone * waiting;
        if (room < alone / 2) room = alone / 2; // many streams: a step of theirs alone is long
        if (waiting == 1 || room > beside) room = beside;
    }
    double rows = fmax(fmax((room - bring) / row, bring / 2 / row), POL_LEAST_ROWS);
    return rows >= most ? most : (int32_t)rows;
}

double pol_steps_to_read(const pol_cost *c, const pol_step *streams, double rows, double depth, int32_t most) {
    int32_t n = pol_prompt_rows(c, streams, 1, depth + rows / 2, most);
    return n > 0 ? ceil(rows / n) : 0;
}

// ---- drafts

int32_t pol_draft_rows(pol_luck *l, const pol_cost *c, const pol_step *s, double each, int32_t most, double *tokens) {
    double chance = (l->accepted + LUCK_PRIOR * LUCK_WEIGHT) / (l->tried + LUCK_WEIGHT), row = c->term[4] / unit[4] + each, seconds = pol_cost_of(c, s), p = chance, gain = 0;
    int32_t n = 0;
    if (most <= 0) return 0;
    for (; n < most && p * (seconds + n * row) >= row * (*tokens + gain); n++, p *= chance) gain += p;
    if (n) {
        l->passed = 0;
        l->patience = LEAST_PATIENCE;
    } else if (++l->passed > l->patience) {
        n = most < TRIAL ? most : TRIAL;
        l->passed = 0;
        l->patience = !l->patience ? LEAST_PATIENCE : l->patience < MOST_PATIENCE / 2 ? l->patience * 2 : MOST_PATIENCE;
    }
    *tokens += gain;
    return n;
}

void pol_draft_note(pol_luck *l, int32_t drafted, int32_t accepted) {
    l->tried = LUCK_FADE * l->tried + accepted + (accepted < drafted);
    l->accepted = LUCK_FADE * l->accepted + accepted;
}

// ---- fairness

void pol_client_enter(pol_client *c, double *clock) {
    if (!c->active++ && c->work < *clock - POL_QUANTUM) c->work = *clock - POL_QUANTUM;
}

void pol_client_leave(pol_client *c) {
    if (c->active) c->active--;
}

void pol_client_charge(pol_client *c, double tokens) { c->work += tokens / c->weight; }

void pol_arrives(pol_memo *m, double now, double tokens, double row_s) { m->deadline = now + POL_SLACK * tokens * (row_s > 0 ? row_s : 1e-3); }

pol_item pol_item_of(const pol_memo *m, const pol_client *client, int64_t priority, uint64_t order, double length, double made) {
    return (pol_item){.client = client, .priority = priority, .deadline = m->deadline, .order = order, .begun = made > 0, .length = length, .made = made - m->resumed};
}

void pol_starts(pol_memo *m, double made) { m->resumed = made; }

void pol_gave_way(pol_memo *m, const pol_item *x, double now, double row_s) {
    if (x->begun) pol_arrives(m, now, x->length, row_s);
}

bool pol_before(const pol_item *a, const pol_item *b) {
    if (a->priority != b->priority) return a->priority < b->priority;
    double x = floor(a->client->work / POL_QUANTUM), y = floor(b->client->work / POL_QUANTUM);
    if (a->client != b->client && x != y) return x < y;
    if (a->deadline != b->deadline) return a->deadline < b->deadline;
    return a->order < b->order;
}

bool pol_displaces(const pol_item *w, const pol_item *r, uint32_t rank) {
    if (w->priority != r->priority) return w->priority < r->priority;
    return w->client != r->client && !w->client->runs && rank > 1 && r->client->work > w->client->work + POL_QUANTUM;
}

bool pol_gives_pages(const pol_item *w, const pol_item *r, uint32_t rank) {
    if (w->priority != r->priority) return w->priority < r->priority;
    if (r->made < r->length / 2) return false;
    if (pol_displaces(w, r, rank)) return true;
    return r->made >= POL_SLICE && r->client->work >= w->client->work && (!w->begun || w->order < r->order);
}

int32_t pol_victim(const pol_item *running, int32_t n, int32_t who) {
    for (int32_t i = n; i-- > who + 1;)
        if (!running[i].rows) return i;
    return -1;
}

int32_t pol_unread(const pol_item *running, int32_t n) {
    while (n > 0 && !running[n - 1].unread) n--;
    return n - 1;
}

int32_t pol_yields(const pol_item *w, const pol_item *running, int32_t n) {
    int32_t unread = pol_unread(running, n);
    if (unread >= 0) return unread;
    for (int32_t i = n; i-- > 1;)
        if (pol_displaces(w, &running[i], running[i].client->runs)) return i;
    return -1;
}

static double pages_of(double tokens) { return floor(tokens / KV_PAGE); }

// Whether w must wait for more pages than there are, those of who `gives` theirs among them.
static bool lacks(const pol_cost *c, const pol_item *w, const pol_item *running, int32_t n, const pol_room *room) {
    double pages = room->pages - (pages_of(w->length) + 2 - pages_of(w->held)), states = room->states;
    pol_step beside = {0};
    for (int32_t i = 0; i < n; i++) {
        const pol_item *r = &running[i];
        if (r->gives) {
            pages += r->alone;
            states++;
            continue;
        }
        pages -= fmax(0, pages_of(r->length) + 2 - ceil(r->held / KV_PAGE));
        beside.streams++;
        beside.pairs += r->length;
        beside.keys += r->length;
    }
    double steps = pol_steps_to_read(c, &beside, w->length - w->held, w->held, room->rows - (int32_t)beside.streams);
    return beside.streams > 0 && (pages < pages_of(beside.streams * steps) || states < 0);
}

// The youngest that may give its pages to w and does not yet. Whoever is oldest keeps its own, unless nobody reads what it writes.
static pol_item *next_giver(const pol_item *w, pol_item *running, int32_t n) {
    for (int32_t i = n; i-- > 0;) {
        uint32_t rank = 1;
        for (int32_t j = 0; j < i; j++) rank += running[j].client == running[i].client;
        if (!running[i].gives && (running[i].unread || (i && pol_gives_pages(w, &running[i], rank)))) return &running[i];
    }
    return NULL;
}

bool pol_finds_pages(const pol_cost *c, const pol_item *w, pol_item *running, int32_t n, const pol_room *room, bool from_others) {
    for (int32_t i = 0; i < n; i++) running[i].gives = false;
    bool short_of = lacks(c, w, running, n, room);
    for (pol_item *r; short_of && from_others && (r = next_giver(w, running, n)); short_of = lacks(c, w, running, n, room)) r->gives = true;
    for (int32_t i = 0; i < n && short_of; i++) running[i].gives = false;
    return !short_of;
}

// ---- the order of a step

// Where no place is free one is made, in a step. The next that waits found no pages at the last step: it is started in place of others if they give theirs, or else the
// next that has no token yet.
static void let_in(pol_turn *t, const pol_hands *h, void *ctx) {
    pol_item next;
    bool crowded = t->crowded;
    t->crowded = false;
    if (!h->places(ctx) && h->next(ctx, POL_WAITS, &next)) h->make_way(ctx, &next);
    void *w = crowded && h->places(ctx) ? h->next(ctx, POL_WAITS, &next) : NULL;
    if (!w || h->start(ctx, w, true) != POL_NO_PAGES || !next.begun) return;
    if ((w = h->next(ctx, POL_WAITS_FOR_FIRST, &next))) h->start(ctx, w, true);
}

// As `read`. Who found no pages is remembered, unless an older one is: a younger one would have given its own to it.
static int32_t read_on(pol_turn *t, const pol_hands *h, void *ctx, void *who, int32_t rows) {
    int32_t n = h->read(ctx, who, rows);
    if (n == POL_NO_PAGES && !t->blocked) t->blocked = who;
    return n;
}

void pol_compose(pol_turn *t, const pol_hands *h, void *ctx) {
    pol_item reading, waiting;
    let_in(t, h, ctx);
    h->begin(ctx);
    void *first = t->blocked;
    t->blocked = NULL;
    if (first) read_on(t, h, ctx, first, KV_PAGE); // before the streams take the pages again
    h->streams(ctx);
    bool open = true;
    for (int32_t budget = h->budget(ctx); budget > 0;) {
        void *r = h->next(ctx, POL_READS, &reading), *w = open && h->places(ctx) ? h->next(ctx, POL_WAITS, &waiting) : NULL;
        if (w && (!r || pol_before(&waiting, &reading))) {
            pol_got got = h->start(ctx, w, false);
            open = got == POL_GOT;
            t->crowded = got == POL_NO_PAGES;
            if (!open) continue; // r may have ended with it
            r = w;
        }
        if (!r) return;
        int32_t n = read_on(t, h, ctx, r, budget);
        if (n < 0) open = false;
        else budget -= n;
    }
}

// ---- the queue

bool pol_admits(uint32_t waiting, uint32_t of_client, uint32_t limit) {
    uint32_t spare = limit / 8;
    if (waiting >= limit) return false;
    return waiting < limit - spare || of_client < spare;
}

uint32_t pol_retry_after(uint32_t waiting, double start_interval_s) {
    double s = ceil(waiting * start_interval_s);
    return s >= 600 ? 600 : s >= 1 ? (uint32_t)s : 1;
}
