// Owns what a step computes: running streams first (one row each), then chunks of prompts, then newcomers while pages last; how many rows and in
// which order is eng_policy's to say (pol_compose).
//
// Invariants: running and waiting are in order of age (priority, then arrival); a waiting choice holds no pages; at most `parallel` choices run. For want
// of pages a choice is preempted for an older one that runs, and never while it is in the step under way; before a step also for one that waits and to whom the policy gives its
// place or its pages, but never the oldest: so the oldest always finishes. One whose client does not read what is there gives way to everybody, and waits until it does.
// A preempted choice keeps its tokens and sampler and is computed again (from the prefix cache where its pages are still there).
#include "engine/eng_step.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/os.h"
#include "engine/eng_draft.h"
#include "engine/eng_history.h"
#include "engine/eng_speculate.h"
#include "obs/obs.h"

enum { SNAPSHOT_EVERY = 1024 }; // tokens of a prompt between recurrent states that are kept

static bool older(const eng_choice *a, const eng_choice *b) {
    if (a->r->priority != b->r->priority) return a->r->priority < b->r->priority;
    return a->r->order != b->r->order ? a->r->order < b->r->order : a->index < b->index;
}

static void insert(eng_choice **list, eng_choice *c) {
    while (*list && older(*list, c)) list = &(*list)->next;
    c->next = *list;
    *list = c;
}

static bool take_out(eng_choice **list, eng_choice *c) {
    for (; *list; list = &(*list)->next)
        if (*list == c) {
            *list = c->next;
            c->next = NULL;
            return true;
        }
    return false;
}

static void to_waiting(eng_served *v, eng_choice *c) {
    c->phase = CHOICE_WAITING;
    insert(&v->waiting, c);
    v->n_waiting++;
}

static void to_running(eng_served *v, eng_choice *c) {
    c->phase = CHOICE_RUNNING;
    c->n_rows = c->n_drafts = 0; // of an earlier step
    insert(&v->running, c);
    v->n_running++;
    c->r->client->fair.runs++;
}

static void leave(eng_served *v, eng_choice *c) {
    eng_tiers_leave(v, c);
    eng_draft_leave(c);
    c->behind = 0;
    if (c->kv) c->computed = kv_seq_len(c->kv);
    if (v->turn.blocked == c) v->turn.blocked = NULL;
    if (c->phase == CHOICE_RUNNING && take_out(&v->running, c)) {
        v->n_running--;
        c->r->client->fair.runs--;
    }
    if (c->phase == CHOICE_WAITING && take_out(&v->waiting, c)) v->n_waiting--;
    kv_seq_free(c->kv);
    c->kv = NULL;
}

static void done(eng_served *v, eng_choice *c) {
    if (c->phase == CHOICE_DONE) return;
    leave(v, c);
    c->phase = CHOICE_DONE;
    c->n_rows = 0;
    c->r->live--;
}

void eng_served_publish(eng_served *v) {
    kv_stats st;
    kv_get_stats(v->pool, &st);
    atomic_store(&v->pages_total, st.total);
    atomic_store(&v->pages_free, st.free);
    atomic_store(&v->pages_cached, st.cached);
    atomic_store(&v->running_now, v->n_running);
    atomic_store(&v->waiting_now, v->n_waiting);
    if (st.evictions > v->evictions) obs_count(OBS_EVICTIONS, v->m->file->id, NULL, (double)(st.evictions - v->evictions));
    v->evictions = st.evictions;
}

void eng_served_drop(eng_served *v, altiserve_request *r) {
    for (uint32_t i = 0; r->choices && i < r->n; i++) done(v, &r->choices[i]);
    eng_served_publish(v);
}

static void fail(eng_served *v, altiserve_request *r, const error *err) {
    r->outcome = FINISH_ERROR;
    r->why = *err;
    eng_served_drop(v, r);
}

static void finish(eng_served *v, eng_choice *c, altiserve_finish how) {
    error err = {0};
    altiserve_request *r = c->r;
    if (eng_choice_finish(c, how, &err) != OK) {
        fail(v, r, &err);
        return;
    }
    r->outcome = how;
    done(v, c);
}

static void copy_page(void *ctx, int32_t group, int32_t from, int32_t to) {
    eng_served *v = ctx;
    dev_kv_copy_page(v->m->dev, v->m->kv, group, from, to);
}

status eng_served_create(eng_model *m, eng_sched *s, const altiserve_options *o, eng_tiers *tiers, eng_served **out, error *err) {
    eng_served *v = mem_calloc(1, sizeof *v);
    if (!v) return error_set(err, E_NOMEM, "no memory for the scheduler");
    v->m = m;
    v->sched = s;
    v->parallel = o->parallel < m->max_wanted ? o->parallel : m->max_wanted;
    kv_config config = {.n_groups = m->plan->n_groups, .index = o->prefix_cache && !model_get_info(m->m)->whole, .copy = copy_page, .copy_ctx = v};
    memcpy(config.groups, m->plan->groups, sizeof config.groups);
    memcpy(config.n_pages, m->n_pages, sizeof config.n_pages);
    for (int i = 0; i < config.n_groups; i++) v->recurrent |= config.groups[i].kind == DEV_GROUP_RECURRENT;
    v->snapshots = v->recurrent && config.index;
    v->draft_max = o->speculation == SPECULATE_OFF || model_get_info(m->m)->whole ? 0 : o->draft_max;
    v->drafts_always = o->speculation == SPECULATE_ALWAYS;
    eng_tiers_config(tiers, v, &config);
    size_t rows = (size_t)m->max_rows;
    v->tokens = mem_calloc(rows, sizeof *v->tokens);
    v->positions = mem_calloc(rows, sizeof *v->positions);
    v->wanted = mem_calloc(rows, sizeof *v->wanted);
    v->seqs = mem_calloc(rows, sizeof *v->seqs);
    v->of = mem_calloc(rows, sizeof *v->of);
    v->items = mem_calloc((size_t)v->parallel, sizeof *v->items);
    status st = v->tokens && v->positions && v->wanted && v->seqs && v->of && v->items ? kv_create(&config, &v->pool, err) : error_set(err, E_NOMEM, "no memory for the scheduler");
    if (st != OK) {
        eng_served_free(v);
        return st;
    }
    dev_info info;
    dev_get_info(m->dev, &info);
    v->key = (kv_key){.weights = model_get_info(m->m)->fingerprint, .layout = KV_LAYOUT, .kv_type = (uint32_t)dev_kv_resolve(m->dev, m->kv_type)};
    char recipe[32]; // where steps of few rows are another recipe, what they wrote is not what --deterministic would
    snprintf(recipe, sizeof recipe, "%s%s", info.isa, info.deterministic ? "" : "+few");
    memcpy(v->key.recipe, recipe, strnlen(recipe, sizeof v->key.recipe));
    v->index = config.index;
    static const char *const reasons[] = {"queue", "context", "pages", "timeout"};
    static const char *const phases[] = {"compose", "compute", "sample"}, *const kinds[] = {"prompt", "decode", "mixed"};
    for (int i = 0; i < 4; i++) obs_count(OBS_REJECTS, m->file->id, reasons[i], 0); // so that rates begin at zero
    for (int i = 0; i < 3; i++) obs_count(OBS_STEP_PHASE, m->file->id, phases[i], 0), obs_count(OBS_STEP_KIND, m->file->id, kinds[i], 0);
    obs_count(OBS_PREEMPTIONS, m->file->id, NULL, 0);
    obs_count(OBS_DISPLACED, m->file->id, NULL, 0);
    obs_count(OBS_EVICTIONS, m->file->id, NULL, 0);
    eng_speculate_count(v, 0, 0);
    eng_served_publish(v);
    *out = v;
    return OK;
}

void eng_served_free(eng_served *v) {
    if (!v) return;
    eng_draft_free(v->draft);
    kv_destroy(v->pool);
    mem_free(v->tokens);
    mem_free(v->positions);
    mem_free(v->wanted);
    mem_free(v->seqs);
    mem_free(v->of);
    mem_free(v->items);
    mem_free(v);
}

void eng_served_add(eng_served *v, altiserve_request *r) {
    error err = {0};
    status s = OK;
    r->live = 0;
    size_t more = r->embeds ? 0 : 1; // an answer takes at least one token
    if (r->n_prompt + more > v->m->context)
        s = error_set(&err, E_LIMIT, "the prompt has %zu tokens and the context here is %u: the log says why", r->n_prompt, v->m->context);
    else if (!kv_fits(v->pool, r->n_prompt + more))
        s = error_set(&err, E_LIMIT, "the prompt has %zu tokens, which take %zu KV pages of %d tokens; the memory that --memory allows this model has %d", r->n_prompt,
                      (r->n_prompt + more + KV_PAGE - 1) / KV_PAGE, KV_PAGE, v->m->n_pages[0]);
    if (s == E_LIMIT) obs_count(OBS_REJECTS, v->m->file->id, "pages", 1);
    if (s == OK && !(r->choices = mem_calloc(r->n, sizeof *r->choices))) s = error_set(&err, E_NOMEM, "no memory for %u choices", r->n);
    for (uint32_t i = 0; s == OK && i < r->n; i++) s = eng_choice_init(&r->choices[i], r, i, v->m->plan->n_vocab, &err);
    if (s != OK) { // memory may have ended between two choices: there are all of them or none
        eng_choices_free(r);
        r->outcome = FINISH_ERROR;
        r->why = err;
        return;
    }
    r->live = r->n;
    for (uint32_t i = 0; i < r->n; i++) pol_arrives(&r->choices[i].memo, (double)r->arrived / 1e3, (double)r->n_prompt, pol_cost_row(&v->cost));
    to_waiting(v, &r->choices[0]);
}

// ---- pages ---------------------------------------------------------------------------------------

static void preempt(eng_served *v, eng_choice *c) {
    leave(v, c);
    to_waiting(v, c);
    obs_count(OBS_PREEMPTIONS, v->m->file->id, NULL, 1);
}

static pol_item item_of(const eng_choice *c) {
    return pol_item_of(&c->memo, &c->r->client->fair, c->r->priority, c->r->order, (double)c->n_tokens, (double)c->n_out);
}

// Its client takes what is written: one that does not is neither started nor keeps others waiting.
static bool is_read(const eng_choice *c) { return !eng_request_full(c->r); }

// Those that run, as the policy sees them, in v->items; how many. read: with whether somebody reads them, which asks for room in their rings; pages: with what they
// hold alone, which looks at every page.
static int32_t look(eng_served *v, bool read, bool pages) {
    int32_t n = 0;
    for (const eng_choice *c = v->running; c; c = c->next) {
        pol_item *item = &v->items[n++];
        *item = item_of(c);
        item->unread = read && !is_read(c);
        item->rows = c->n_rows > 0;
        item->held = (double)kv_seq_len(c->kv);
        item->alone = pages ? (double)kv_seq_alone(c->kv) : 0;
    }
    return n;
}

static eng_choice *running_at(const eng_served *v, int32_t i) {
    eng_choice *c = v->running;
    while (i--) c = c->next;
    return c;
}

static void displace(eng_served *v, eng_choice *c) {
    preempt(v, c);
    obs_count(OBS_DISPLACED, v->m->file->id, NULL, 1);
}

// r cannot go on, for want of memory. While another choice of it has rows in the step under way it stays as it is: the next step will say the same.
static void fail_between(eng_served *v, altiserve_request *r, const error *err) {
    for (uint32_t i = 0; i < r->n; i++)
        if (r->choices[i].phase == CHOICE_RUNNING && r->choices[i].n_rows) return;
    fail(v, r, err);
}

// Pages for tokens [0, upto) of c, which runs, from younger ones if need be.
static pol_got find_room(eng_served *v, eng_choice *c, size_t upto) {
    for (;;) {
        error err = {0};
        status s = kv_seq_reserve(c->kv, upto, &err);
        if (s == OK) return POL_GOT;
        if (s != E_BUSY) {
            fail_between(v, c->r, &err);
            return POL_FAILED;
        }
        if (eng_draft_give_way(v)) continue;
        int32_t n = look(v, false, false), who = 0, i;
        for (const eng_choice *d = v->running; d != c; d = d->next) who++;
        if ((i = pol_victim(v->items, n, who)) < 0) return POL_NO_PAGES;
        eng_choice *victim = running_at(v, i);
        pol_gave_way(&victim->memo, &v->items[i], (double)os_now_us() / 1e6, pol_cost_row(&v->cost));
        preempt(v, victim);
    }
}

static bool make_room(eng_served *v, eng_choice *c, size_t upto) { return find_room(v, c, upto) == POL_GOT; }

static void note_start(altiserve_request *r) {
    if (!r->started) r->started = os_now_us();
    if (r->begun) return;
    r->begun = true;
    eng_request_usage_set(r, 0);
    eng_event ev = {.kind = EVENT_STARTED};
    eng_request_push(r, &ev); // for want of memory it is left out: the text that follows says as much
}

status eng_served_seq(eng_served *v, const eng_choice *c, kv_seq **out, error *err) {
    kv_key key = v->key;
    key.salt = c->r->salt;
    return kv_seq_create(v->pool, &key, out, err);
}

// Whether there are pages for c, which goes on from its cached ones; from_others: whoever gives its own for that has done so then.
static bool finds_pages(eng_served *v, const eng_choice *c, bool from_others) {
    pol_item newcomer = item_of(c);
    newcomer.held = (double)kv_seq_len(c->kv);
    pol_room room = {.pages = (double)kv_available(v->pool), .states = (double)kv_available_states(v->pool), .rows = v->m->max_rows};
    int32_t n = look(v, true, from_others);
    if (!pol_finds_pages(&v->cost, &newcomer, v->items, n, &room, from_others)) return false;
    const pol_item *item = v->items;
    for (eng_choice *d = v->running, *next; d; d = next, item++) {
        next = d->next;
        if (item->gives) displace(v, d);
    }
    return true;
}

// Starts c, which waits, when pages for it are to be had; from_others: also those of running choices, of the youngest first, and of none unless they suffice.
static pol_got start(void *ctx, void *who, bool from_others) {
    eng_served *v = ctx;
    eng_choice *c = who;
    error err = {0};
    if (eng_served_seq(v, c, &c->kv, &err) != OK) {
        fail_between(v, c->r, &err);
        return POL_FAILED;
    }
    size_t cached = kv_seq_match(c->kv, c->tokens, c->n_tokens);
    if (!finds_pages(v, c, false) && !(eng_draft_give_way(v) && finds_pages(v, c, false)) && !(from_others && finds_pages(v, c, true))) {
        kv_seq_free(c->kv);
        c->kv = NULL;
        return POL_NO_PAGES;
    }
    take_out(&v->waiting, c);
    v->n_waiting--;
    to_running(v, c);
    pol_starts(&c->memo, (double)c->n_out);
    c->counts = c->index == 0 && !c->reads;
    if (c->counts) c->r->cached = (uint32_t)cached;
    note_start(c->r);
    eng_tiers_hit(v, cached);
    eng_tiers_begin(v, c);
    return POL_GOT;
}

// ---- the step ------------------------------------------------------------------------------------

static bool is_stream(const eng_choice *c) { return c->n_out && kv_seq_len(c->kv) + c->behind + 1 == c->n_tokens; }

// The logits of c's newest token and of its drafts are wanted.
static void lay_rows(eng_served *v, eng_choice *c, size_t n) {
    size_t at = kv_seq_len(c->kv);
    c->row = v->n_rows;
    c->n_rows = (int32_t)n;
    c->wanted = at + n >= c->n_tokens ? v->n_wanted : -1;
    for (size_t i = 0; i < n; i++) {
        if (at + i + 1 >= c->n_tokens) v->wanted[v->n_wanted++] = c->r->embeds && model_get_info(v->m->m)->first_row ? c->row : v->n_rows;
        v->tokens[v->n_rows] = c->tokens[at + i];
        v->positions[v->n_rows++] = (int32_t)(at + i);
    }
    v->of[v->n_seqs++] = c;
}

static void add_rows(eng_served *v, eng_choice *c, size_t n) {
    v->load.rows += (double)n;
    v->load.pairs += (double)n * ((double)kv_seq_len(c->kv) + (double)(n + 1) / 2);
    v->load.keys += (double)(kv_seq_len(c->kv) + n);
    pol_client_charge(&c->r->client->fair, (double)n);
    c->reads = true;
    lay_rows(v, c, n);
}

// Whether a sequence of this step is about to compute the very page that c needs next, and may share it: c finds it in the index a step later.
static bool computed_soon(const eng_served *v, const eng_choice *c, size_t at) {
    if (!v->index || at % KV_PAGE || at + KV_PAGE >= c->n_tokens) return false;
    for (int32_t i = 0; i < v->n_seqs; i++) {
        const eng_choice *d = v->of[i];
        size_t from = kv_seq_len(d->kv), to = from + (size_t)d->n_rows;
        if (d->n_rows > 1 && d->r->salt == c->r->salt && from <= at && to >= at + KV_PAGE && !memcmp(d->tokens, c->tokens, (at + KV_PAGE) * sizeof *c->tokens)) return true;
    }
    return false;
}

// Where a recurrent state is kept while c's prompt is read: every so often, and at the last border that another request with this prompt can go on from.
static bool keeps_state(const eng_choice *c, size_t at) { return at && (at % SNAPSHOT_EVERY == 0 || at == (c->n_tokens - 1) / KV_PAGE * KV_PAGE); }

static size_t next_state(const eng_choice *c, size_t at) {
    size_t last = (c->n_tokens - 1) / KV_PAGE * KV_PAGE, next = (at / SNAPSHOT_EVERY + 1) * SNAPSHOT_EVERY;
    return next < last ? next : at < last ? last : c->n_tokens;
}

// A chunk of c's prompt.
static int32_t add_chunk(void *ctx, void *who, int32_t budget) {
    eng_served *v = ctx;
    eng_choice *c = who;
    c->passed = true;
    if (c->fetch) return 0;
    if (budget > v->m->max_rows - v->n_rows) budget = v->m->max_rows - v->n_rows;
    size_t before = kv_seq_len(c->kv), at = kv_seq_match(c->kv, c->tokens, c->n_tokens);
    if (c->counts) c->r->cached += (uint32_t)(at - before);
    eng_tiers_hit(v, at - before);
    bool whole = model_get_info(v->m->m)->whole;
    if (!whole && computed_soon(v, c, at)) return 0;
    size_t n = c->n_tokens - at, n_prompt = c->r->n_prompt;
    if (whole) { // all of the prompt at once, or not in this step; then, where it was preempted, its answer row by row as it was made
        n = at < n_prompt ? n_prompt - at : 1;
        if (n > (size_t)(v->m->max_rows - v->n_rows)) return 0;
    } else if (n > (size_t)budget) {
        n = (size_t)budget;
        if (n >= KV_PAGE && (at + n) % KV_PAGE < n) n -= (at + n) % KV_PAGE; // end at a page's border: others can go on from there
    }
    if (v->snapshots && at + n > next_state(c, at)) n = next_state(c, at) - at;
    if (!n) return 0;
    pol_got got = find_room(v, c, at + n);
    if (got != POL_GOT) return got == POL_NO_PAGES ? POL_NO_PAGES : 0;
    add_rows(v, c, n);
    return (int32_t)n;
}

// Who of the running streams takes part, then their rows with the drafts that pay beside all of them.
static void add_streams(void *ctx) {
    eng_served *v = ctx;
    int32_t rows = v->n_rows, most = v->parallel < v->n_running + v->n_waiting ? v->parallel : v->n_running + v->n_waiting;
    for (eng_choice *c = v->running, *next; c; c = next) {
        next = c->next;
        if (c->n_rows || !is_stream(c) || rows + (int32_t)c->behind >= v->m->max_rows || eng_request_full(c->r)) continue;
        bool room = make_room(v, c, c->n_tokens);
        next = c->phase == CHOICE_RUNNING ? c->next : v->running; // others may have been preempted: `next` too
        if (!room) continue;
        c->n_rows = 1 + (int32_t)c->behind; // nobody takes its pages from here on
        rows += c->n_rows;
        v->load.streams++;
        v->load.drafts += c->behind;
        v->load.pairs += (double)c->n_tokens;
        v->load.keys += (double)c->n_tokens;
        pol_client_charge(&c->r->client->fair, 1);
    }
    double tokens = v->load.streams;
    for (eng_choice *c = v->running; c; c = c->next) {
        if (!c->n_rows || !is_stream(c)) continue;
        int32_t spare = v->m->max_rows - rows < v->m->max_wanted - most ? v->m->max_rows - rows : v->m->max_wanted - most;
        c->n_drafts = eng_speculate_want(v, c, spare, &tokens);
        rows += c->n_drafts;
        most += c->n_drafts;
    }
    eng_draft_run(v, v->scratch);
    v->load.drafts = 0; // what was wanted gives way to what there is
    for (eng_choice *c = v->running; c; c = c->next) {
        if (!c->n_rows || !is_stream(c)) continue;
        if (!eng_speculate_ready(v, c)) c->n_drafts = 0;
        v->load.drafts += c->behind + (uint32_t)c->n_drafts;
        lay_rows(v, c, (size_t)(c->n_rows + c->n_drafts));
    }
}

// ---- what the policy orders ----------------------------------------------------------------------

static int32_t places(void *ctx) {
    const eng_served *v = ctx;
    return v->parallel - v->n_running;
}

static bool waits_for_first(const eng_choice *c) { return !c->n_out && is_read(c); }
static bool reads_prompt(const eng_choice *c) { return !c->n_rows && !c->passed && !is_stream(c); }

static void *next(void *ctx, pol_which which, pol_item *item) {
    static bool (*const may[])(const eng_choice *) = {[POL_WAITS] = is_read, [POL_WAITS_FOR_FIRST] = waits_for_first, [POL_READS] = reads_prompt};
    const eng_served *v = ctx;
    eng_choice *best = NULL;
    for (eng_choice *c = which == POL_READS ? v->running : v->waiting; c; c = c->next) {
        if (!may[which](c)) continue;
        pol_item x = item_of(c);
        if (!best || pol_before(&x, item)) best = c, *item = x;
    }
    return best;
}

static void make_way(void *ctx, const pol_item *waiting) {
    eng_served *v = ctx;
    int32_t n = look(v, true, false), i = pol_yields(waiting, v->items, n);
    if (i >= 0) displace(v, running_at(v, i));
}

static void begin(void *ctx) {
    eng_served *v = ctx;
    v->more = eng_tiers_pump(v, make_room);
    for (eng_choice *c = v->running; c; c = c->next) c->n_rows = c->n_drafts = 0, c->from_model = false;
    if (v->turn.blocked && is_stream(v->turn.blocked)) v->turn.blocked = NULL;
}

// Rows that prompts may have in this step.
static int32_t prompt_budget(void *ctx) {
    eng_served *v = ctx;
    int32_t prompts = v->n_waiting < places(v) ? v->n_waiting : places(v);
    pol_item item;
    for (eng_choice *c = v->running; c; c = c->next) c->passed = false, prompts += !is_stream(c);
    const eng_choice *first = next(v, POL_READS, &item);
    return pol_prompt_rows(&v->cost, &v->load, prompts, first ? (double)kv_seq_len(first->kv) : 0, v->m->max_rows - v->n_rows);
}

// Nobody took rows: if somebody could for the pages of a choice whose client does not read, they are given back.
static bool give_up_unread(eng_served *v) {
    pol_item item;
    int32_t n = look(v, true, false), i = pol_unread(v->items, n);
    bool wanted = next(v, POL_WAITS, &item) != NULL;
    for (int32_t k = 0; k < n; k++) wanted |= !v->items[k].unread;
    if (i < 0 || !wanted) return false;
    displace(v, running_at(v, i));
    return true;
}

static void compose(eng_served *v) {
    static const pol_hands hands = {.places = places, .next = next, .make_way = make_way, .start = start,
                                    .begin = begin, .streams = add_streams, .budget = prompt_budget, .read = add_chunk};
    v->n_rows = v->n_wanted = v->n_seqs = 0;
    v->load = (pol_step){0};
    pol_compose(&v->turn, &hands, v);
    if (!v->n_rows && !v->more) v->more = give_up_unread(v);
}

static status compute(eng_served *v, error *err) {
    // wanted rows ascend: sequences were added in order of rows
    for (int32_t i = 0; i < v->n_seqs; i++) {
        eng_choice *c = v->of[i];
        v->seqs[i] = (dev_seq){.first_row = c->row, .n_rows = c->n_rows, .start = (int32_t)kv_seq_len(c->kv)};
        for (int32_t g = 0; g < v->m->plan->n_groups; g++) v->seqs[i].pages[g] = kv_seq_pages(c->kv, g, &v->seqs[i].n_pages[g]);
    }
    dev_step step = {.n_rows = v->n_rows, .tokens = v->tokens, .positions = v->positions, .n_seqs = v->n_seqs, .seqs = v->seqs,
                     .n_wanted = v->n_wanted, .wanted = v->wanted};
    dev_ticket ticket;
    status s = dev_submit(v->m->plan, v->m->kv, &step, &ticket, err);
    return s == OK ? dev_wait(v->m->plan, ticket, err) : s;
}

// The prompt is read: it is remembered, and explained where that is wanted.
static void note_prompt(eng_served *v, altiserve_request *r) {
    if (!v->sched) return;
    eng_history *h = eng_sched_history(v->sched);
    dev_fingerprint weights = model_get_info(v->m->m)->fingerprint;
    if (r->explain) {
        altiserve_explanation e;
        eng_history_explain(h, r, weights, v->index, r->cached, &e);
        pthread_mutex_lock(&r->lock);
        r->explanation = e;
        pthread_mutex_unlock(&r->lock);
    }
    eng_history_note(h, r, weights, r->prompt, r->n_prompt, r->n_prompt);
}

_Static_assert((int)SAMP_PEAK == (int)DEV_PEAK, "a sampler reads the peaks that a device has found");
static samp_row row_of(const eng_served *v, int32_t wanted) { return (samp_row){dev_logits(v->m->plan, wanted), dev_peaks(v->m->plan, wanted)}; }

static void draw(eng_served *v, eng_choice *c, samp_row row) {
    altiserve_request *r = c->r;
    altiserve_finish how;
    error err = {0};
    size_t before = c->n_out;
    if (!r->first) {
        r->first = os_now_us();
        note_prompt(v, r);
    }
    status s = eng_choice_draw(c, v->scratch, row, v->m->plan->n_vocab, v->m->context, &how, &err);
    eng_request_usage_set(r, (uint32_t)(c->n_out - before));
    if (s != OK) fail(v, r, &err);
    else if (how != FINISH_NONE) finish(v, c, how);
}

// The prompt is computed: the other choices share its pages from here on, or wait to read it themselves where there is no room for them.
static void release_followers(eng_served *v, eng_choice *first, samp_row row) {
    altiserve_request *r = first->r;
    for (uint32_t i = 1; i < r->n; i++) {
        eng_choice *c = &r->choices[i];
        if (c->phase != CHOICE_FOLLOWING) continue;
        if (v->n_running >= v->parallel || kv_seq_fork(first->kv, &c->kv, NULL) != OK) {
            to_waiting(v, c);
            continue;
        }
        to_running(v, c);
        draw(v, c, row);
        if (r->outcome == FINISH_ERROR) return;
    }
}

static void give(eng_served *v, eng_choice *c) {
    error err = {0};
    altiserve_request *r = c->r;
    if (!r->first) r->first = os_now_us();
    if (eng_embed_push(c, model_get_info(v->m->m), dev_hidden(v->m->plan, c->wanted), &err) != OK) {
        fail(v, r, &err);
        return;
    }
    r->outcome = FINISH_STOP;
    done(v, c);
}

// The next n tokens of c are computed.
static void commit(eng_served *v, eng_choice *c, size_t n) {
    bool stream = is_stream(c) || c->n_drafts;
    kv_seq_commit(c->kv, c->tokens, kv_seq_len(c->kv) + n);
    c->behind = 0;
    size_t len = kv_seq_len(c->kv);
    if (v->snapshots && len % KV_PAGE == 0 && (stream || keeps_state(c, len))) kv_seq_snapshot(c->kv, stream); // a turn ends anywhere: its last border
    eng_tiers_save(v, c);
}

// Draws as a plain stream would; a draft counts as long as it is what was drawn at its place, for its row's logits are then those of the text. What
// attention wrote for wrong ones is written again; a recurrent state goes back to where it was, and the next step brings the tokens after that again.
static void verify(eng_served *v, eng_choice *c) {
    int32_t good = 0;
    for (bool on = true; on;) {
        int32_t expected = good < c->n_drafts ? c->tokens[c->n_tokens] : -1;
        size_t before = c->n_tokens;
        draw(v, c, row_of(v, c->wanted + good));
        bool right = c->n_tokens > before && c->tokens[before] == expected;
        good += right;
        on = right && c->phase == CHOICE_RUNNING;
        if (on && !v->recurrent) commit(v, c, 1);
    }
    eng_speculate_note(v, c, good);
    if (!v->recurrent || c->phase != CHOICE_RUNNING) return;
    kv_seq_unmark(c->kv, good < c->n_drafts);
    if (good == c->n_drafts) commit(v, c, (size_t)c->n_rows);
    else c->behind = (uint32_t)(c->n_tokens - 1 - kv_seq_len(c->kv));
}

static void harvest(eng_served *v) {
    for (int32_t i = 0; i < v->n_seqs; i++) {
        eng_choice *c = v->of[i];
        if (!c->n_drafts || !v->recurrent) commit(v, c, (size_t)(c->n_rows - c->n_drafts));
    }
    for (int32_t i = 0; i < v->n_seqs; i++) {
        eng_choice *c = v->of[i];
        if (c->phase != CHOICE_RUNNING || c->wanted < 0) continue; // failed with another choice of its request
        if (c->r->embeds) {
            give(v, c);
            continue;
        }
        if (c->n_drafts) {
            verify(v, c);
            continue;
        }
        samp_row row = row_of(v, c->wanted);
        if (c->index == 0 && c->n_out == 0 && c->r->n > 1) release_followers(v, c, row);
        if (c->phase == CHOICE_RUNNING) draw(v, c, row);
    }
    for (eng_choice *c = v->running; c; c = c->next) c->n_rows = 0;
}

// Times of a step, in microseconds: it was begun, composed, computed and sampled at.
static void measure(eng_served *v, const int64_t at[4]) {
    const char *id = v->m->file->id;
    double seconds = (double)(at[3] - at[1]) / 1e6;
    pol_cost_note(&v->cost, &v->load, seconds);
    obs_count(OBS_STEP_PHASE, id, "compose", (double)(at[1] - at[0]) / 1e6);
    obs_count(OBS_STEP_PHASE, id, "compute", (double)(at[2] - at[1]) / 1e6);
    obs_count(OBS_STEP_PHASE, id, "sample", (double)(at[3] - at[2]) / 1e6);
    obs_count(OBS_STEP_KIND, id, v->load.rows == 0 ? "decode" : v->load.streams == 0 ? "prompt" : "mixed", 1);
    obs_observe(OBS_STEP_SEQUENCES, id, NULL, v->n_seqs);
    obs_trace_span(&(obs_span){.name = "step", .track = id, .begin_us = at[0], .end_us = at[3],
                               .args = {{"streams", v->load.streams}, {"prompt_rows", v->load.rows}, {"sequences", v->n_seqs}, {"waiting", v->n_waiting},
                                        {"pairs", v->load.pairs}, {"keys", v->load.keys}, {"drafts", v->load.drafts}}});
    obs_trace_span(&(obs_span){.name = "compute", .track = id, .begin_us = at[1], .end_us = at[2]});
    obs_trace_span(&(obs_span){.name = "sample", .track = id, .begin_us = at[2], .end_us = at[3]});
    obs_count(OBS_STEPS, id, NULL, 1);
    obs_observe(OBS_STEP_SECONDS, id, NULL, seconds);
    obs_observe(OBS_STEP_ROWS, id, NULL, v->n_rows);
}

bool eng_served_step(eng_served *v, samp_scratch *scratch) {
    if (!v->running && !v->waiting) return false;
    int64_t at[4] = {os_now_us()};
    v->scratch = scratch;
    compose(v);
    at[1] = os_now_us();
    if (!v->n_rows) {
        eng_served_publish(v);
        return v->more;
    }
    error err = {0};
    if (compute(v, &err) == OK) {
        at[2] = os_now_us();
        harvest(v);
        at[3] = os_now_us();
        measure(v, at);
    } else {
        obs_log(OBS_ERROR, "%s: a step failed: %s", v->m->file->id, err.text);
        for (int32_t i = 0; i < v->n_seqs; i++)
            if (v->of[i]->phase == CHOICE_RUNNING) fail(v, v->of[i]->r, &err);
    }
#if defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__) // sanitized and debug builds
    if (kv_check(v->pool, &err) == E_INTERNAL) {
        obs_log(OBS_ERROR, "%s", err.text);
        __builtin_trap();
    }
#endif
    eng_served_publish(v);
    return true;
}
