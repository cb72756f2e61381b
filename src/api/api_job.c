// api/api_job: the life of a job on the front pool, and how the engine's events become an answer.
//
// Whole answers are kept until every choice has ended. Streams begin with the first event (so that what fails before it is still an HTTP
// error), or when the pool's clock says so. Metrics of requests are written here.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/api_internal.h"
#include "base/os.h"

// ---- ends ----------------------------------------------------------------------------------------

static void free_choice(choice *c) {
    strbuf *all[] = {&c->text, &c->reasoning, &c->logprobs, &c->lp_tokens, &c->lp_values, &c->lp_tops, &c->lp_offsets};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) strbuf_free(all[i]);
}

// What the work took goes when the answer is given; its client may take long to read it, and the job waits for on_close.
static void drop_work(job *j) {
    pthread_mutex_lock(&j->lock); // on_close looks at the parts
    part *parts = j->parts;
    uint32_t n_parts = j->n_parts;
    j->parts = NULL;
    j->n_parts = 0;
    pthread_mutex_unlock(&j->lock);
    for (uint32_t i = 0; i < n_parts; i++) {
        mem_free(parts[i].echo);
        mem_free(parts[i].embedding);
    }
    mem_free(parts);
    for (uint32_t i = 0; i < j->n_choices; i++) free_choice(&j->choices[i]);
    mem_free(j->choices);
    j->choices = NULL;
    j->n_choices = 0;
    json_decref(j->body);
    j->body = NULL;
    arena_free(&j->p.mem);
}

void job_unref(job *j) {
    if (atomic_fetch_sub(&j->refs, 1) != 1) return;
    pthread_mutex_destroy(&j->lock);
    explicit_bzero(j->key, sizeof j->key);
    mem_free(j);
}

void job_done(job *j) {
    if (j->done) return;
    j->done = true;
    if (j->r) http_release(j->r);
    j->r = NULL;
    drop_work(j);
    api *a = j->a;
    pthread_mutex_lock(&a->lock);
    if (j->all_prev) j->all_prev->all_next = j->all_next;
    else a->all = j->all_next;
    if (j->all_next) j->all_next->all_prev = j->all_prev;
    if (!--a->n_jobs && a->quit) pthread_cond_broadcast(&a->cond), pthread_cond_broadcast(&a->cond0);
    pthread_mutex_unlock(&a->lock);
    job_unref(j); // the runner's own reference keeps it until job_run returns
}

void job_fail(job *j, const api_error *e) {
    api_send_error(j->r, e);
    job_done(j);
}

void job_respond(job *j, int code, const char *type, strbuf *body) {
    size_t n = body->len;
    if (!body->failed) http_respond_take(j->r, code, type, strbuf_take(body), n);
    else {
        api_error e;
        api_fail(&e, 503, NULL, "unavailable", "no memory for the answer");
        api_send_error(j->r, &e);
    }
    strbuf_free(body);
    job_done(j);
}

bool job_body(job *j) {
    size_t n;
    const char *text = http_body(j->r, &n);
    api_error e;
    j->body = api_parse(text, n, &e);
    http_drop_body(j->r);
    if (!j->body) job_fail(j, &e);
    return j->body != NULL;
}

// The values are copied by now, and what follows may take long.
static void drop_body(job *j) {
    json_decref(j->body);
    j->body = NULL;
}

// The client named what is there; that it cannot be served is not the client's mistake. lasting: not before another file is in its place.
static bool fail_model(api_error *e, const char *id, const char *why, bool lasting) {
    api_fail(e, 503, "model", "model_unavailable", "the model \"%.100s\" cannot be served: %.400s", id, why);
    e->lasting = lasting;
    return false;
}

bool api_find_model(job *j, const char *name, altiserve_model_info *info, api_error *e) {
    char id[sizeof info->id];
    if (name && strlen(name) >= sizeof id) return api_fail(e, 404, "model", "model_not_found", "there is no model of that name");
    snprintf(id, sizeof id, "%s", name ? name : "");
    size_t n = strlen(id);
    if (n > 7 && !strcmp(id + n - 7, ":latest")) id[n - 7] = 0; // Ollama's clients add it
    // A client names models; only the command line may name files.
    if (strchr(id, '/') || strchr(id, '\\') || id[0] == '.') return api_fail(e, 404, "model", "model_not_found", "there is no model \"%.200s\"", id);
    error err = {0};
    status st = altiserve_model(j->a->engine, id, info, &err);
    if (st == E_NOTFOUND && !name) return api_fail(e, 400, "model", "missing_required_parameter", "model is missing: %s", err.text);
    if (st) return api_fail_status(e, &err, "model");
    if (info->state == MODEL_BROKEN || info->state == MODEL_INCOMPLETE) return fail_model(e, info->id, info->error, info->state == MODEL_BROKEN);
    return true;
}

bool api_find_writer(job *j, const char *name, api_error *e) {
    if (!api_find_model(j, name, &j->model, e)) return false;
    if (j->model.generates || !j->model.embedding_width) return true;
    return api_fail(e, 400, "model", "model_not_supported", "the model \"%.100s\" writes no text: it is for %s", j->model.id,
                    j->model.ranks ? "ranking, POST /v1/rerank" : "embeddings, POST /v1/embeddings");
}

// ---- generation ----------------------------------------------------------------------------------

// On the engine thread.
static void notify(void *ctx) { job_post(ctx); }

// Whether it is to be said why prompts were computed: to the client, or in the log.
static bool asks_why(const job *j) { return j->p.explain || obs_get_level() >= OBS_DEBUG; }

static void end_part(job *j, part *p) {
    if (!p->req) return;
    p->usage = altiserve_request_usage(p->req);
    if (asks_why(j)) altiserve_request_explain(p->req, &p->explanation);
    pthread_mutex_lock(&j->lock); // on_close may be cancelling it
    altiserve_request *req = p->req;
    p->req = NULL;
    pthread_mutex_unlock(&j->lock);
    altiserve_request_free(req);
}

// The client is gone (the socket tells before on_close does), or was cut.
static bool away(job *j) { return j->left || (j->r && http_gone(j->r)); }

const char *api_why(altiserve_why why) {
    static const char *const names[] = {"unknown", "cached", "never_seen", "differs", "evicted", "other_version", "cache_off", "shorter_than_a_page"};
    return names[(unsigned)why < sizeof names / sizeof *names ? why : WHY_NOTHING];
}

// One line a request, which has no text of anybody's; with --log-level debug also why its prompts were computed, which has.
static void log_request(const job *j, const altiserve_usage *u, const char *who, const char *how) {
    obs_log(OBS_INFO, "%s %s of %s: %s, %u tokens of prompt (%u cached), %u written, %s; waited %.3f s, read %.3f s, wrote %.3f s (%s)",
            j->route->method, j->route->path, who, j->model.id, u->prompt_tokens, u->cached_tokens, u->completion_tokens, how,
            u->queue_s, u->prefill_s, u->decode_s, http_id(j->r));
    for (uint32_t i = 0; i < j->n_parts && obs_get_level() >= OBS_DEBUG; i++) {
        const altiserve_explanation *x = &j->parts[i].explanation;
        if (!x->prompt_tokens) continue;
        if (x->why == WHY_DIFFERS)
            obs_log(OBS_DEBUG, "prompt %u: %u of %u tokens computed: differs from token %u on: \"%s\", and earlier \"%s\"",
                    i + 1, x->prompt_tokens - x->cached_tokens, x->prompt_tokens, x->same, x->ours, x->theirs);
        else obs_log(OBS_DEBUG, "prompt %u: %u of %u tokens computed: %s", i + 1, x->prompt_tokens - x->cached_tokens, x->prompt_tokens, api_why(x->why));
    }
}

// One part's tokens and times added to others'; who waits for several waits for the longest.
static void add_usage(altiserve_usage *u, const altiserve_usage *one) {
    u->prompt_tokens += one->prompt_tokens;
    u->cached_tokens += one->cached_tokens;
    u->completion_tokens += one->completion_tokens;
    u->drafted_tokens += one->drafted_tokens;
    u->accepted_tokens += one->accepted_tokens;
    u->prefill_s += one->prefill_s;
    u->decode_s += one->decode_s;
    if (one->queue_s > u->queue_s) u->queue_s = one->queue_s;
    if (one->load_s > u->load_s) u->load_s = one->load_s;
}

altiserve_usage job_usage(const job *j) {
    altiserve_usage u = {0};
    for (uint32_t i = 0; i < j->n_parts; i++) add_usage(&u, &j->parts[i].usage);
    return u;
}

static void note_request(job *j) {
    const char *m = j->model.id;
    if (j->p.g.loads) return; // nothing was asked of the model; its load is counted by the engine
    altiserve_usage u = {0};
    uint32_t computed = 0, replayed = 0, embeddings = 0, taken = 0;
    for (uint32_t i = 0; i < j->n_parts; i++) {
        const altiserve_usage *one = &j->parts[i].usage;
        embeddings += j->parts[i].embedding != NULL;
        replayed += one->replayed;
        taken += j->parts[i].submitted;
        if (!j->parts[i].submitted || one->replayed) continue;
        computed++;
        add_usage(&u, one);
    }
    if (embeddings) obs_count(OBS_EMBEDDINGS, m, NULL, embeddings);
    obs_count(OBS_PROMPT_TOKENS, m, NULL, u.prompt_tokens);
    obs_count(OBS_PROMPT_COMPUTED, m, NULL, u.prompt_tokens - u.cached_tokens);
    obs_count(OBS_GENERATED_TOKENS, m, NULL, u.completion_tokens);
    obs_count(OBS_PREFIX_QUERIES, m, NULL, u.prompt_tokens);
    obs_count(OBS_PREFIX_HITS, m, NULL, u.cached_tokens);
    obs_count(OBS_PROMPT_SECONDS, m, NULL, u.prefill_s);
    obs_count(OBS_GENERATED_SECONDS, m, NULL, u.decode_s);
    if (computed) { // what was refused or replayed took no time, which says nothing about what took some
        obs_observe(OBS_REQUEST_PROMPT, m, NULL, u.prompt_tokens);
        obs_observe(OBS_REQUEST_GENERATED, m, NULL, u.completion_tokens);
        obs_observe(OBS_QUEUE_TIME, m, NULL, u.queue_s);
        obs_observe(OBS_PREFILL_TIME, m, NULL, u.prefill_s);
        obs_observe(OBS_DECODE_TIME, m, NULL, u.decode_s);
        obs_observe(OBS_INFERENCE_TIME, m, NULL, u.prefill_s + u.decode_s);
        obs_observe(OBS_E2E, m, NULL, api_now() - j->arrived);
    }
    const char *who = j->client ? j->client->name : "anonymous";
    obs_count(OBS_CLIENT_TOKENS, who, "prompt", u.prompt_tokens);
    obs_count(OBS_CLIENT_TOKENS, who, "cached", u.cached_tokens);
    obs_count(OBS_CLIENT_TOKENS, who, "generated", u.completion_tokens);
    bool length = false;
    for (uint32_t i = 0; i < j->n_choices; i++) length |= j->choices[i].finish == FINISH_LENGTH;
    const char *how = j->failed ? taken ? "error" : "refused" : away(j) ? "abort" : length ? "length" : "stop";
    if (taken) obs_count(OBS_REQUESTS_FINISHED, m, how, 1); // as vLLM counts: what the engine did not take has not ended
    log_request(j, &u, who, replayed && !computed && !j->failed ? "replayed" : how);
}

// An answer that was replayed as a whole says so (RFC 9211).
static void tell_replayed(job *j) {
    bool all = j->n_parts > 0;
    for (uint32_t i = 0; i < j->n_parts; i++) all &= j->parts[i].usage.replayed;
    if (all) http_add_header(j->r, "Cache-Status", "altiserve; hit");
}

static void begin_stream(job *j) {
    if (j->begun) return;
    j->begun = true;
    tell_replayed(j);
    http_stream_begin(j->r, 200, j->dialect->content_type, j->dialect->keepalive);
    strbuf out = {0};
    if (j->dialect->open) j->dialect->open(j, &out);
    if (out.len) http_stream_send(j->r, out.data, out.len);
    strbuf_free(&out);
}

// Cancels every part; their ends still come.
static void cancel_parts(job *j) {
    pthread_mutex_lock(&j->lock);
    for (uint32_t i = 0; i < j->n_parts; i++)
        if (j->parts[i].req) altiserve_cancel(j->parts[i].req);
    pthread_mutex_unlock(&j->lock);
}

// The first failure is the answer; in a stream that has begun it is an event.
static void fail_generation(job *j, const api_error *e) {
    if (j->failed) return;
    j->failed = true;
    cancel_parts(j);
    if (!j->begun) {
        api_send_error(j->r, e);
        return;
    }
    strbuf out = {0};
    j->dialect->fail(j, e, &out);
    if (out.len && !out.failed) http_stream_send(j->r, out.data, out.len);
    http_stream_end(j->r);
    strbuf_free(&out);
}

static void finish_job(job *j) {
    note_request(j);
    if (!j->failed && j->set_embed && away(j)) { // nobody reads an answer, and parts of it are missing
        job_done(j);
        return;
    }
    if (!j->failed) {
        strbuf out = {0};
        if (j->p.stream) {
            begin_stream(j);
            j->dialect->close(j, &out);
            if (out.failed) http_release(j->r), j->r = NULL; // cut rather than end short
            else {
                http_stream_send(j->r, out.data, out.len);
                http_stream_end(j->r);
            }
        } else {
            bool bad = false;
            for (uint32_t i = 0; i < j->n_choices; i++) bad |= j->choices[i].text.failed || j->choices[i].reasoning.failed || j->choices[i].logprobs.failed;
            for (uint32_t i = 0; i < j->n_parts && j->set_embed; i++) bad |= !j->parts[i].embedding;
            if (!bad) j->dialect->whole(j, &out);
            out.failed |= bad;
            tell_replayed(j);
            job_respond(j, 200, "application/json", &out);
            return;
        }
        strbuf_free(&out);
    }
    job_done(j);
}

static void time_tokens(job *j, choice *c, size_t n, bool replayed) {
    double now = api_now();
    c->tokens += (uint32_t)n;
    if (replayed) return;
    if (!j->first_token) {
        j->first_token = true;
        obs_observe(OBS_TTFT, j->model.id, NULL, now - j->arrived);
    }
    if (c->last > 0)
        for (size_t i = 0; i < n && i < 64; i++) obs_observe(OBS_INTER_TOKEN, j->model.id, NULL, (now - c->last) / (double)n);
    c->last = now;
}

static void take_event(job *j, uint32_t part_index, const altiserve_event *ev, strbuf *out) {
    part *p = &j->parts[part_index];
    uint32_t index = j->set_embed ? 0 : part_index * j->p.g.n + (ev->choice < j->p.g.n ? ev->choice : 0);
    choice *c = &j->choices[index];
    switch (ev->kind) {
    case EVENT_TEXT:
        if (ev->n_tokens) time_tokens(j, c, ev->n_tokens, ev->usage.replayed);
        if (j->failed || j->left) break;
        if (!j->p.stream) {
            strbuf_add(&c->text, ev->text, ev->text_len);
            if (ev->reasoning_len) strbuf_add(&c->reasoning, ev->reasoning, ev->reasoning_len);
            if (ev->logprobs && j->dialect->keep) j->dialect->keep(j, index, ev);
        } else if (ev->text_len || ev->reasoning_len || ev->logprobs) j->dialect->text(j, index, ev, out);
        break;
    case EVENT_EMBEDDING:
        mem_free(p->embedding);
        p->embedding = mem_alloc(ev->n_embedding * sizeof *p->embedding); // for want of it the answer fails, see finish_job
        if (p->embedding) memcpy(p->embedding, ev->embedding, (p->n_embedding = ev->n_embedding) * sizeof *p->embedding);
        break;
    case EVENT_FINISH:
        c->finish = ev->finish;
        c->stop = ev->stop ? j->p.g.stop[ev->stop - 1] : NULL;
        if (ev->finish == FINISH_CANCELLED || ev->finish == FINISH_ERROR || j->failed || j->left) break;
        if (j->p.stream) j->dialect->finish(j, index, out);
        break;
    case EVENT_END:
        p->ended = true;
        j->parts_left--;
        if (j->set_embed) j->in_flight--;
        if (ev->finish == FINISH_ERROR || (ev->finish == FINISH_CANCELLED && !away(j) && !j->failed)) {
            api_error e;
            bool file = ev->err.code == E_INVALID || ev->err.code == E_UNSUPPORTED; // the request was found right before: what is wrong was seen when the model was loaded
            if (file) fail_model(&e, j->model.id, ev->err.text, true);
            else if (ev->err.code || ev->err.text[0]) api_fail_status(&e, &ev->err, NULL);
            else api_fail(&e, 503, NULL, "unavailable", "the request was cancelled: the server is stopping");
            fail_generation(j, &e);
        }
        break;
    default: break;
    }
}

// The request's, but not better than the key may ask for; the key's where it says nothing.
static int64_t priority_of(const job *j) {
    const api_key *k = j->client;
    return k && k->has_priority && (!j->p.has_priority || j->p.priority < k->priority) ? k->priority : j->p.priority;
}

// What its prefixes may be shared by: the request's word, and its key where that is private. NULL when memory is gone.
static const char *salt_of(job *j) {
    const api_key *k = j->client;
    if (j->salt) return j->salt;
    const char *salt = j->p.cache_salt ? j->p.cache_salt : "";
    if (!k || !k->own_salt) return j->salt = salt;
    size_t n = strlen(k->key), m = strlen(salt);
    char *both = arena_alloc(&j->p.mem, n + m + 2);
    if (!both) return NULL;
    memcpy(both, k->key, n);
    both[n] = '\n'; // in no key
    memcpy(both + n + 1, salt, m + 1);
    return j->salt = both;
}

static uint32_t retry_after(const job *j) {
    altiserve_stats stats = {0};
    altiserve_get_stats(j->a->engine, &stats);
    return stats.retry_after_s;
}

// Submits what may be, for jobs that embed: a queue that others fill is waited for as long as one of ours will end. Once a part was taken there always is one: who was
// let in is not sent away half done.
static void feed(job *j) {
    enum { IN_FLIGHT = 64 };
    while (!j->failed && !away(j) && j->n_submitted < j->n_parts && j->in_flight < IN_FLIGHT) {
        uint32_t i = j->n_submitted;
        altiserve_embed what = {.model = j->model.id, .client = j->key, .notify = notify, .notify_ctx = j, .priority = priority_of(j), .cache_salt = salt_of(j),
            .goes_on = i > 0 && !j->in_flight};
        if (j->client) what.client_name = j->client->name, what.client_weight = j->client->weight;
        altiserve_request *req = NULL;
        error err = {0};
        j->parts[i].owner = j;
        j->set_embed(j, i, &what);
        status st = what.cache_salt && (what.text || what.tokens)
            ? altiserve_submit_embed(j->a->engine, &what, &req, &err)
            : error_set(&err, E_NOMEM, "no memory for this request");
        mem_free((void *)what.tokens);
        if (st == E_BUSY && j->in_flight) break;
        if (st) {
            api_error e;
            char param[96];
            snprintf(param, sizeof param, j->n_parts > 1 ? "%s[%u]" : "%s", j->embed_param, i);
            api_fail_status(&e, &err, param);
            if (st == E_BUSY) e.retry_after = retry_after(j);
            fail_generation(j, &e);
            break;
        }
        pthread_mutex_lock(&j->lock);
        j->parts[i].req = req;
        j->parts[i].submitted = true;
        if (j->left) altiserve_cancel(req);
        pthread_mutex_unlock(&j->lock);
        j->n_submitted++;
        j->in_flight++;
    }
    if (j->failed || away(j)) { // the rest is never submitted
        j->parts_left -= j->n_parts - j->n_submitted;
        j->n_submitted = j->n_parts;
    }
    if (j->n_submitted == j->n_parts && !j->p.return_documents) drop_body(j);
}

// What a slow client has not taken holds the model up: events are left with the engine, which pauses a request whose events are left. `notify` comes when there is room.
static bool is_full(job *j) { return j->begun && !j->failed && http_stream_full(j->r, notify, j); }

static void pump(job *j) {
    enum { PIECE = 16384 }; // sent at once where many events wait
    strbuf out = {0};
    for (uint32_t i = 0; i < j->n_parts; i++) {
        part *p = &j->parts[i];
        altiserve_event ev;
        while (p->req && !p->ended && !is_full(j) && altiserve_next(p->req, 0, &ev) != EVENT_NONE) {
            p->usage = ev.usage;
            if (ev.kind == EVENT_TEXT && j->p.stream && !j->failed) begin_stream(j);
            take_event(j, i, &ev, &out);
            if (out.len > PIECE && j->begun && !out.failed) {
                http_stream_send(j->r, out.data, out.len);
                strbuf_clear(&out);
            }
        }
        if (p->ended) end_part(j, p);
    }
    if (j->set_embed) feed(j);
    if (j->p.stream && !j->failed && (out.len || atomic_load(&j->want_begin))) begin_stream(j);
    if (out.failed) {
        api_error e;
        api_fail(&e, 503, NULL, "unavailable", "no memory for the answer");
        fail_generation(j, &e);
    } else if (out.len && !j->failed && !http_stream_send(j->r, out.data, out.len)) cancel_parts(j); // gone, or cut
    strbuf_free(&out);
    if (!j->parts_left) finish_job(j);
}

static void new_id(job *j) {
    uint64_t random = 0;
    if (!os_random(&random, sizeof random)) random = (uint64_t)(api_now() * 1e9);
    snprintf(j->id, sizeof j->id, "%016llx", (unsigned long long)random);
    j->created = time(NULL);
}

// Who asks, and what share and priority it has.
static bool set_client(job *j, altiserve_generate *g) {
    const api_key *k = j->client;
    g->client = j->key;
    g->client_name = k ? k->name : NULL;
    g->client_weight = k ? k->weight : 0;
    g->priority = priority_of(j);
    g->explain = asks_why(j);
    return (g->cache_salt = salt_of(j)) != NULL;
}

void job_generate(job *j, const dialect *d, uint32_t n_parts, void (*set)(job *, uint32_t, altiserve_generate *), const char *prompt_param) {
    api_error e;
    new_id(j);
    j->dialect = d;
    part *parts = mem_calloc(n_parts, sizeof *parts);
    j->choices = mem_calloc((size_t)n_parts * j->p.g.n, sizeof *j->choices);
    if (!parts || !j->choices) {
        mem_free(parts);
        api_fail(&e, 503, NULL, "unavailable", "no memory for this request");
        job_fail(j, &e);
        return;
    }
    j->n_choices = n_parts * j->p.g.n;
    pthread_mutex_lock(&j->lock);
    j->parts = parts;
    j->n_parts = n_parts;
    bool left = j->left;
    pthread_mutex_unlock(&j->lock);
    bool failed = left;
    for (uint32_t i = 0; i < n_parts && !failed; i++) {
        altiserve_generate g = j->p.g;
        g.model = j->model.id;
        g.notify = notify;
        g.notify_ctx = j;
        parts[i].owner = j;
        if (set) set(j, i, &g);
        altiserve_request *req = NULL;
        error err = {0};
        status st = set_client(j, &g) ? OK : error_set(&err, E_NOMEM, "no memory for this request");
        if (st == OK) st = altiserve_submit(j->a->engine, &g, &req, &err);
        if (st != OK) {
            api_fail_status(&e, &err, prompt_param);
            if (st == E_BUSY) e.retry_after = retry_after(j);
            failed = true;
            break;
        }
        pthread_mutex_lock(&j->lock);
        parts[i].req = req;
        parts[i].submitted = true;
        if (j->left) altiserve_cancel(req); // left while we tokenized
        pthread_mutex_unlock(&j->lock);
        j->parts_left++;
    }
    drop_body(j);
    for (uint32_t i = 0; failed && i < n_parts; i++) parts[i].ended = !parts[i].req; // the rest was never submitted
    if (failed && !left) fail_generation(j, &e);
    pump(j);
}

void job_load(job *j, const dialect *d) {
    j->p.stream = false;
    j->p.g.loads = true;
    j->p.g.n = 1;
    job_generate(j, d, 1, NULL, "model");
}

void job_embed(job *j, const dialect *d, uint32_t n_parts, void (*set)(job *, uint32_t, altiserve_embed *), const char *param) {
    new_id(j);
    j->dialect = d;
    j->p.g.n = 1;
    json_t *list = json_incref(json_object_get(j->body, param)); // all else in the body was read
    json_object_clear(j->body);
    part *parts = mem_calloc(n_parts, sizeof *parts);
    j->choices = mem_calloc(1, sizeof *j->choices); // no text comes; take_event looks at the first
    if (json_object_set_new(j->body, param, list) || !parts || !j->choices) {
        api_error e;
        mem_free(parts);
        api_fail(&e, 503, NULL, "unavailable", "no memory for this request");
        job_fail(j, &e);
        return;
    }
    pthread_mutex_lock(&j->lock);
    j->parts = parts;
    j->n_parts = n_parts;
    pthread_mutex_unlock(&j->lock);
    j->parts_left = n_parts;
    j->set_embed = set;
    j->embed_param = param;
    pump(j);
}

void job_run(job *j) {
    if (j->done) return;
    if (!j->started) {
        j->started = true;
        pthread_mutex_lock(&j->lock);
        bool left = j->left;
        pthread_mutex_unlock(&j->lock);
        if (left) job_done(j);
        else j->route->handle(j);
        return;
    }
    if (j->n_parts) pump(j);
}
