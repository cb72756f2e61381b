// Owns the engine thread: the queue of requests and jobs, waiting for models, cancelling, deadlines, and the turn of every model.
//
// Invariants: `inbox`, `jobs`, the counts and flags are under `lock`; `all`, `served` models' sequences and everything else is the engine thread's. A request is in
// `all` from the moment it is taken out of the inbox until its end is sent. live counts both. The lock of a request is never taken under `lock`.
#include "engine/eng_sched.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/os.h"
#include "engine/eng_draft.h"
#include "engine/eng_history.h"
#include "engine/eng_step.h"
#include "obs/obs.h"

typedef struct job {
    struct job *next;
    eng_file *file;
    eng_job   fn;
    void     *ctx;
    error    *err;
    status    result;
    int64_t   since;
    bool      done;
} job;

struct eng_sched {
    altiserve_options o;
    eng_models *models;
    eng_tiers  *tiers;
    eng_file   *draft;        // drafts for others; or NULL
    pthread_t   thread;
    bool        started;

    pthread_mutex_t lock;
    pthread_cond_t  wake, quiet; // quiet: a job is done, or a request has ended
    bool        woken, stop, draining, cut;
    altiserve_request *inbox, **inbox_tail;
    job        *jobs;
    uint64_t    order;
    uint32_t    live, queued; // requests not ended; of them, those that have not started
    eng_clients clients;
    int64_t     last_start;   // microseconds; 0: the queue has been empty since
    double      start_interval; // seconds between starts while requests wait: a moving average
    eng_served *served;       // all models that have scheduler state

    altiserve_request *all;   // engine thread
    uint64_t    round;        // counts the turns of all models
    samp_scratch scratch;
    eng_history history;
};

// ---- from other threads --------------------------------------------------------------------------

status eng_sched_create(const altiserve_options *o, eng_sched **out, error *err) {
    eng_sched *s = mem_calloc(1, sizeof *s);
    if (!s) return error_set(err, E_NOMEM, "no memory for the scheduler");
    s->o = *o;
    s->inbox_tail = &s->inbox;
    pthread_mutex_init(&s->lock, NULL);
    os_cond_init(&s->wake);
    os_cond_init(&s->quiet);
    *out = s;
    return OK;
}

void eng_sched_wake(void *sched) {
    eng_sched *s = sched;
    pthread_mutex_lock(&s->lock);
    s->woken = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

// Sequences that the model could run beside those that do; none while it is not loaded. Under the lock.
static uint32_t free_places(const eng_sched *s, const eng_file *f) {
    for (const eng_served *v = s->served; v; v = v->next) {
        int32_t running = atomic_load(&v->running_now);
        if (v->m->file == f) return running < v->parallel ? (uint32_t)(v->parallel - running) : 0;
    }
    return 0;
}

status eng_sched_submit(eng_sched *s, altiserve_request *r, const char *client, const char *name, error *err) {
    status st = OK;
    pthread_mutex_lock(&s->lock);
    if (s->draining || !s->started) st = error_set(err, E_CANCELLED, "the server is stopping");
    if (st == OK) {
        eng_client *c = eng_client_find(&s->clients, client, name);
        uint32_t starting = free_places(s, r->file); // a newcomer passes through the queue; where a place is free it does not wait there
        uint32_t all = s->queued > starting ? s->queued - starting : 0, own = c->waiting > starting ? c->waiting - starting : 0;
        uint32_t soonest = pol_retry_after(s->queued, s->start_interval);
        if (!r->goes_on && !pol_admits(all, own, (uint32_t)s->o.queue)) {
            c->refs--;
            obs_count(OBS_REJECTS, r->file->id, "queue", 1);
            if (all < (uint32_t)s->o.queue)
                st = error_set(err, E_BUSY, "%u requests of this client are waiting already, and what is left of a queue of %d is for others: try again in %u s",
                               own, s->o.queue, soonest);
            else st = error_set(err, E_BUSY, "%u requests are waiting already, and the queue holds %d: try again in %u s", all, s->o.queue, soonest);
        } else r->client = c;
    }
    if (st == OK) {
        r->client->waiting++;
        r->order = s->order++;
        r->queued = true;
        s->queued++;
        s->live++;
        r->next = NULL;
        *s->inbox_tail = r;
        s->inbox_tail = &r->next;
        s->woken = true;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}

status eng_sched_job(eng_sched *s, eng_file *f, eng_job fn, void *ctx, error *err) {
    error local = {0};
    job j = {.file = f, .fn = fn, .ctx = ctx, .err = &local, .since = eng_now_ms()};
    pthread_mutex_lock(&s->lock);
    if (!s->started || s->stop) {
        pthread_mutex_unlock(&s->lock);
        return error_set(err, E_CANCELLED, "the engine is stopping");
    }
    job **tail = &s->jobs;
    while (*tail) tail = &(*tail)->next;
    *tail = &j;
    s->woken = true;
    pthread_cond_signal(&s->wake);
    while (!j.done) pthread_cond_wait(&s->quiet, &s->lock);
    pthread_mutex_unlock(&s->lock);
    if (j.result != OK && err) *err = local;
    return j.result;
}

void eng_sched_drain(eng_sched *s, uint32_t deadline_ms) {
    int64_t until = os_now_us() + (int64_t)deadline_ms * 1000;
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    while (s->live && deadline_ms && !s->cut)
        if (os_cond_wait_until(&s->quiet, &s->lock, until) == ETIMEDOUT) break;
    s->cut = true;
    s->woken = true;
    pthread_cond_signal(&s->wake);
    while (s->live && s->started) pthread_cond_wait(&s->quiet, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void eng_sched_destroy(eng_sched *s) {
    if (s->started) {
        eng_sched_drain(s, 0);
        pthread_mutex_lock(&s->lock);
        s->stop = true;
        s->woken = true;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    // Models may outlive this (the folder lets go of them afterwards): their state must not look for it any more.
    pthread_mutex_lock(&s->lock);
    for (eng_served *v = s->served; v; v = v->next) v->sched = NULL;
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->quiet);
    eng_clients_free(&s->clients);
    samp_scratch_free(&s->scratch);
    eng_history_free(&s->history);
    eng_file_release(s->draft);
    mem_free(s);
}

void eng_sched_stats(eng_sched *s, altiserve_stats *out) {
    pthread_mutex_lock(&s->lock);
    out->waiting = s->queued;
    out->retry_after_s = pol_retry_after(s->queued, s->start_interval);
    for (eng_served *v = s->served; v; v = v->next) {
        out->running += (uint32_t)atomic_load(&v->running_now);
        out->pages_total += atomic_load(&v->pages_total);
        out->pages_free += atomic_load(&v->pages_free);
        out->pages_cached += atomic_load(&v->pages_cached);
    }
    pthread_mutex_unlock(&s->lock);
}

void eng_sched_each(eng_sched *s, void (*fn)(void *, const altiserve_model_stats *), void *ctx) {
    pthread_mutex_lock(&s->lock);
    for (eng_served *v = s->served; v; v = v->next) {
        altiserve_model_stats st = {.id = v->m->file->id, .running = (uint32_t)atomic_load(&v->running_now), .waiting = (uint32_t)atomic_load(&v->waiting_now),
                                    .pages_free = atomic_load(&v->pages_free), .pages_cached = atomic_load(&v->pages_cached)};
        uint64_t total = atomic_load(&v->pages_total), idle = st.pages_free + st.pages_cached; // read one after the other: never below nothing
        st.pages_used = total > idle ? total - idle : 0;
        fn(ctx, &st);
    }
    pthread_mutex_unlock(&s->lock);
}

struct eng_history *eng_sched_history(eng_sched *s) { return &s->history; }

// ---- the engine thread ---------------------------------------------------------------------------

// A model is dropped (any thread).
static void forget_served(void *state) {
    eng_served *v = state;
    eng_sched *s = v->sched;
    if (s) {
        pthread_mutex_lock(&s->lock);
        for (eng_served **p = &s->served; *p; p = &(*p)->next)
            if (*p == v) {
                *p = v->next;
                break;
            }
        pthread_mutex_unlock(&s->lock);
    }
    eng_served_free(v);
}

status eng_sched_helper(eng_sched *s, eng_file *f, eng_model **out, error *err) { return eng_models_get_beside(s->models, f, out, err); }

status eng_sched_served(eng_sched *s, eng_model *m, eng_served **out, error *err) {
    if (m->sched) {
        *out = m->sched;
        return OK;
    }
    status st = eng_served_create(m, s, &s->o, s->tiers, out, err);
    if (st != OK) return st;
    m->sched = *out;
    m->sched_free = forget_served;
    if (s->draft && (*out)->draft_max) eng_draft_create(*out, s->draft);
    pthread_mutex_lock(&s->lock);
    (*out)->next = s->served;
    s->served = *out;
    pthread_mutex_unlock(&s->lock);
    return OK;
}

static void unqueue(eng_sched *s, altiserve_request *r) {
    if (!r->queued) return;
    r->queued = false;
    int64_t now = os_now_us();
    pthread_mutex_lock(&s->lock);
    s->queued--;
    r->client->waiting--;
    if (s->last_start) {
        double interval = (double)(now - s->last_start) / 1e6;
        s->start_interval = s->start_interval > 0 ? .9 * s->start_interval + .1 * interval : interval;
    }
    s->last_start = s->queued ? now : 0;
    pthread_mutex_unlock(&s->lock);
}

// A request as it went, for the trace.
static void trace_request(const altiserve_request *r, uint32_t made) {
    int64_t now = os_now_us(), came = r->arrived * 1000, started = r->started ? r->started : now;
    uint64_t id = r->order + 1;
    obs_trace_span(&(obs_span){.name = "request", .id = id, .begin_us = came, .end_us = now,
                               .args = {{"prompt", (double)r->n_prompt}, {"cached", r->cached}, {"generated", made}, {"priority", (double)r->priority}}});
    obs_trace_span(&(obs_span){.name = "queue", .id = id, .begin_us = came, .end_us = started > came ? started : came});
    if (r->started) obs_trace_span(&(obs_span){.name = "prefill", .id = id, .begin_us = started, .end_us = r->first ? r->first : now});
    if (r->first) obs_trace_span(&(obs_span){.name = "decode", .id = id, .begin_us = r->first, .end_us = now});
}

static void end_request(eng_sched *s, altiserve_request *r, altiserve_finish how, const error *err) {
    eng_model *m = r->model;
    if (m && m->sched) eng_served_drop(m->sched, r);
    if (m && r->begun && !r->embeds && r->choices && r->choices[0].tokens) {
        const eng_choice *c = &r->choices[0];
        eng_history_note(&s->history, r, model_get_info(m->m)->fingerprint, c->tokens, c->n_tokens, c->computed);
    }
    eng_choices_free(r);
    if (r->prev) r->prev->next = r->next;
    else s->all = r->next;
    if (r->next) r->next->prev = r->prev;
    unqueue(s, r);
    r->model = NULL;
    eng_client *client = r->client;
    if (r->entered) pol_client_leave(&client->fair);
    eng_request_usage_set(r, 0);
    trace_request(r, altiserve_request_usage(r).completion_tokens);
    eng_model_release(m); // before its client is told, who may ask at once that the model be unloaded
    eng_request_end(r, how, err);
    pthread_mutex_lock(&s->lock);
    s->live--;
    client->refs--;
    pthread_cond_broadcast(&s->quiet);
    pthread_mutex_unlock(&s->lock);
}

static void fail_request(eng_sched *s, altiserve_request *r, status code, const char *text) {
    error err;
    error_set(&err, code, "%s", text);
    end_request(s, r, FINISH_ERROR, &err);
}

static int64_t earlier(int64_t a, int64_t b) { return !a || (b && b < a) ? b : a; } // 0: never

// A request without a model: its model may be ready now, or never.
static void place(eng_sched *s, altiserve_request *r) {
    error err = {0};
    eng_served *v;
    status st = eng_models_get(s->models, r->file, r->arrived, &r->model, &err);
    if (st == E_BUSY) {
        r->waits_model = true;
        if (eng_now_ms() - r->arrived >= s->o.load_timeout_ms) fail_request(s, r, E_BUSY, "the model was not loaded within the time that --load-timeout allows");
        return;
    }
    if (st == OK && r->waits_model) r->loaded = os_now_us();
    if (st == OK) st = eng_sched_served(s, r->model, &v, &err);
    if (st != OK || r->loads) end_request(s, r, st == OK ? FINISH_STOP : FINISH_ERROR, &err);
    else eng_served_add(v, r);
}

// Ends what is over, cancelled or late, and starts what found its model. Returns the time of the next deadline, or 0.
static int64_t sweep(eng_sched *s, bool cut) {
    int64_t now = eng_now_ms(), next_deadline = 0;
    for (altiserve_request *r = s->all, *next; r; r = next) {
        next = r->next;
        if (atomic_load(&r->cancelled) || cut) {
            end_request(s, r, FINISH_CANCELLED, NULL);
            continue;
        }
        if (r->deadline && now >= r->deadline) {
            obs_count(OBS_REJECTS, r->file->id, "timeout", 1);
            fail_request(s, r, E_CANCELLED, "the request ran into its time limit");
            continue;
        }
        if (!r->model) {
            altiserve_request *before = r->prev;
            place(s, r);
            if (before ? before->next != r : s->all != r) continue; // ended
        }
        if (r->model && !r->live) {
            end_request(s, r, r->outcome, r->outcome == FINISH_ERROR ? &r->why : NULL);
            continue;
        }
        if (r->begun) unqueue(s, r);
        next_deadline = earlier(next_deadline, r->deadline);
        if (!r->model) next_deadline = earlier(next_deadline, r->arrived + s->o.load_timeout_ms);
    }
    return next_deadline;
}

static void finish_job(eng_sched *s, job *j, status result) {
    pthread_mutex_lock(&s->lock);
    for (job **p = &s->jobs; *p; p = &(*p)->next)
        if (*p == j) {
            *p = j->next;
            break;
        }
    j->result = result;
    j->done = true;
    pthread_cond_broadcast(&s->quiet);
    pthread_mutex_unlock(&s->lock);
}

// Returns when the first of those that still wait for their model waits no longer, or 0.
static int64_t run_jobs(eng_sched *s) {
    int64_t first_due = 0;
    pthread_mutex_lock(&s->lock);
    job *j = s->jobs;
    bool stop = s->stop;
    pthread_mutex_unlock(&s->lock);
    while (j) {
        pthread_mutex_lock(&s->lock);
        job *next = j->next; // only this thread takes jobs out; new ones go to the tail, and wake it again
        pthread_mutex_unlock(&s->lock);
        eng_model *m = NULL;
        status st = stop ? error_set(j->err, E_CANCELLED, "the engine is stopping") : eng_models_get(s->models, j->file, j->since, &m, j->err);
        if (st == OK) {
            st = j->fn(j->ctx, m, j->err);
            eng_model_release(m);
            finish_job(s, j, st);
        } else if (st != E_BUSY) finish_job(s, j, st);
        else if (eng_now_ms() >= j->since + s->o.load_timeout_ms)
            finish_job(s, j, error_set(j->err, E_BUSY, "the model was not loaded within the time that --load-timeout allows"));
        else first_due = earlier(first_due, j->since + s->o.load_timeout_ms);
        j = next;
    }
    return first_due;
}

// One step of each model that has work, some of them at a time; those are held still by their requests' references.
static bool step_all(eng_sched *s) {
    enum { SOME = 64 };
    eng_served *turn[SOME];
    size_t n;
    bool any = false;
    s->round++;
    do {
        n = 0;
        pthread_mutex_lock(&s->lock);
        for (eng_served *v = s->served; v && n < SOME; v = v->next) {
            if (v->round == s->round || !(v->running || v->waiting)) continue;
            v->round = s->round;
            turn[n++] = v;
        }
        pthread_mutex_unlock(&s->lock);
        for (size_t i = 0; i < n; i++) any |= eng_served_step(turn[i], &s->scratch);
    } while (n == SOME);
    return any;
}

static bool over(const altiserve_request *r) {
    for (; r; r = r->next)
        if (r->model && !r->live) return true;
    return false;
}

static void *engine_main(void *arg) {
    eng_sched *s = arg;
    bool busy = false;
    int64_t deadline = 0;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        while (!busy && !s->woken) {
            if (!deadline) {
                pthread_cond_wait(&s->wake, &s->lock);
                continue;
            }
            if (os_cond_wait_until(&s->wake, &s->lock, deadline * 1000) == ETIMEDOUT) break;
        }
        s->woken = false;
        altiserve_request *fresh = s->inbox;
        s->inbox = NULL;
        s->inbox_tail = &s->inbox;
        bool stop = s->stop, cut = s->cut, jobs = s->jobs != NULL;
        for (altiserve_request *r = fresh; r; r = r->next) {
            eng_client_enter(&s->clients, r->client, r->weight);
            r->entered = true;
        }
        pthread_mutex_unlock(&s->lock);
        for (altiserve_request *next; fresh; fresh = next) {
            next = fresh->next;
            fresh->prev = NULL;
            fresh->next = s->all;
            if (s->all) s->all->prev = fresh;
            s->all = fresh;
        }
        int64_t job_due = jobs ? run_jobs(s) : 0;
        if (stop) return NULL; // drained before: no request is left
        deadline = earlier(sweep(s, cut), job_due);
        busy = step_all(s);
        if (over(s->all)) busy = true;
    }
}

status eng_sched_start(eng_sched *s, eng_models *ms, eng_tiers *tiers, eng_file *draft, error *err) {
    s->draft = draft;
    s->tiers = tiers;
    s->models = ms;
    if (pthread_create(&s->thread, NULL, engine_main, s)) return error_set(err, E_NOMEM, "the system started no engine thread");
    pthread_mutex_lock(&s->lock);
    s->started = true;
    pthread_mutex_unlock(&s->lock);
    return OK;
}
