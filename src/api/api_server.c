// api/api_server: the table of routes, keys, the front pool and the life of the server.
//
// The HTTP thread finds the route, checks the key, makes a job and posts it. Pool threads run jobs; a clock among them lets streams
// begin that have waited for a while, so that keep-alives can flow while a model loads or a long prompt is read.
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "api/api_internal.h"
#include "base/os.h"

static const api_route routes[] = {
    {"GET", "/", api_root, true},
    {"GET", "/health", api_health, true},
    {"GET", "/v1/health", api_health, true},
    {"GET", "/metrics", api_metrics, false},
    {"GET", "/debug/trace", api_trace, false},
    {"GET", "/v1/models", api_models_list, false},
    {"GET", "/models", api_models_list, false},
    {"GET", "/v1/models/*", api_models_one, false},
    {"POST", "/v1/chat/completions", api_chat_completions, false},
    {"POST", "/chat/completions", api_chat_completions, false},
    {"POST", "/v1/completions", api_completions, false},
    {"POST", "/v1/messages", api_messages, false},
    {"POST", "/v1/messages/count_tokens", api_count_tokens, false},
    {"POST", "/v1/embeddings", api_embeddings, false},
    {"POST", "/v1/rerank", api_rerank, false},
    {"POST", "/rerank", api_rerank, false},
    {"POST", "/v1/reranking", api_rerank, false},
    {"POST", "/reranking", api_rerank, false},
    {"POST", "/tokenize", api_tokenize, false},
    {"POST", "/detokenize", api_detokenize, false},
    {"POST", "/completion", api_native_completion, false},
    {"POST", "/completions", api_native_completion, false},
    {"GET", "/slots", api_slots, false},
    {"POST", "/apply-template", api_apply_template, false},
    {"GET", "/props", api_props, false},
    {"GET", "/api/version", api_ollama_version, true},
    {"GET", "/api/tags", api_ollama_tags, false},
    {"GET", "/api/ps", api_ollama_ps, false},
    {"POST", "/api/show", api_ollama_show, false},
    {"POST", "/api/chat", api_ollama_chat, false},
    {"POST", "/api/generate", api_ollama_generate, false},
    {"POST", "/api/embed", api_ollama_embed, false},
    {"POST", "/api/embeddings", api_ollama_embeddings, false},
    {"*", "/api/pull", api_ollama_unmanaged, false},
    {"*", "/api/push", api_ollama_unmanaged, false},
    {"*", "/api/create", api_ollama_unmanaged, false},
    {"*", "/api/copy", api_ollama_unmanaged, false},
    {"*", "/api/delete", api_ollama_unmanaged, false},
    {"*", "/api/blobs/*", api_ollama_unmanaged, false},
};
static const size_t n_routes = sizeof routes / sizeof *routes;

double api_now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

// ---- keys ----------------------------------------------------------------------------------------

// Takes as long for a wrong key as for a right one of the same length.
static bool same_key(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    unsigned char diff = n != m;
    for (size_t i = 0; i < n; i++) diff |= (unsigned char)(a[i] ^ b[m ? i % m : 0]);
    return !diff;
}

static const char *key_of(const http_request *r) {
    const char *h = http_header(r, "Authorization");
    if (h && !strncasecmp(h, "Bearer ", 7)) return h + 7 + strspn(h + 7, " ");
    return http_header(r, "x-api-key");
}

static const api_key *find_key(const api *a, const http_request *r) {
    const char *key = key_of(r);
    const api_key *found = NULL;
    for (size_t i = 0; key && i < a->n_keys; i++)
        if (same_key(a->keys[i].key, key)) found = &a->keys[i];
    return found;
}

// One option of a key's line.
static bool read_option(api_key *k, const char *word) {
    char *end = NULL;
    if (!strcmp(word, "private")) return k->own_salt = true;
    if (!strncmp(word, "name=", 5) && word[5]) {
        mem_free(k->name);
        return (k->name = mem_strdup(word + 5)) != NULL;
    }
    if (!strncmp(word, "weight=", 7)) {
        k->weight = strtod(word + 7, &end);
        return end != word + 7 && !*end && k->weight >= 0.001 && k->weight <= 1000;
    }
    if (!strncmp(word, "priority=", 9)) {
        k->priority = strtol(word + 9, &end, 10);
        return k->has_priority = end != word + 9 && !*end && k->priority >= -1000000 && k->priority <= 1000000;
    }
    return false;
}

static status add_key(api *a, char *line, int number, const char *path, error *err) {
    char *rest, *word = strtok_r(line, " \t\r\n", &rest), name[24];
    if (!word || *word == '#') return OK;
    void *p = a->keys;
    if (!mem_grow(&p, &a->cap_keys, a->n_keys + 1, sizeof *a->keys)) return error_set(err, E_NOMEM, "no memory for the API keys");
    a->keys = p;
    api_key *k = &a->keys[a->n_keys++];
    snprintf(name, sizeof name, "key-%zu", a->n_keys);
    *k = (api_key){.key = mem_strdup(word), .name = mem_strdup(name), .weight = 1};
    if (!k->key || !k->name) return error_set(err, E_NOMEM, "no memory for the API keys");
    while ((word = strtok_r(NULL, " \t\r\n", &rest)))
        if (!read_option(k, word))
            return error_set(err, E_INVALID, "the API key file %s, line %d: after the key may stand name=NAME, weight=0.001 to 1000, "
                             "priority=-1000000 to 1000000 and private, not \"%.40s\"", path, number, word);
    return OK;
}

static status read_keys(api *a, const char *path, error *err) {
    FILE *f = fopen(path, "re");
    if (!f) return error_errno(err, "cannot open the API key file %s", path);
    char *line = NULL; // of any length: the rest of a cut one would be a key of its own
    size_t cap = 0;
    status st = OK;
    for (int number = 1; !st && getline(&line, &cap, f) >= 0; number++) st = add_key(a, line, number, path, err);
    if (!st && !feof(f)) st = error_errno(err, "cannot read the API key file %s", path);
    fclose(f);
    if (line) explicit_bzero(line, cap);
    free(line);
    if (!st && !a->n_keys) st = error_set(err, E_INVALID, "the API key file %s holds no key; put one a line", path);
    return st;
}

// ---- the pool ------------------------------------------------------------------------------------

static bool is_heavy(const job *j) { return !j->started && !strcmp(j->route->method, "POST"); }

static void queue_job(api *a, job *j) { // with the pool's lock
    int heavy = is_heavy(j);
    j->queued = true;
    j->queue_next = NULL;
    if (a->queue[heavy].tail) a->queue[heavy].tail->queue_next = j;
    else a->queue[heavy].head = j;
    a->queue[heavy].tail = j;
    pthread_cond_signal(a->idle0 && !(heavy && a->reserve) ? &a->cond0 : &a->cond);
}

// The next job for a worker, or NULL. With the pool's lock.
static job *next_job(api *a, int index) {
    for (int i = 0; i < 2; i++) {
        int q = index == 0 || !a->reserve ? i : 1 - i; // the others look for requests first: worker 0 sees to the news
        job *j = a->queue[q].head;
        if (!j || (q == 1 && index == 0 && a->reserve)) continue;
        a->queue[q].head = j->queue_next;
        if (!j->queue_next) a->queue[q].tail = NULL;
        return j;
    }
    return NULL;
}

void job_post(job *j) {
    api *a = j->a;
    pthread_mutex_lock(&a->lock);
    if (j->running) j->again = true;
    else if (!j->queued) {
        atomic_fetch_add(&j->refs, 1);
        queue_job(a, j);
    }
    pthread_mutex_unlock(&a->lock);
}

// Streams that have waited for a while begin without a token, so that keep-alives flow. With the pool's lock.
static void tick(api *a) {
    double now = api_now();
    for (job *j = a->all; j; j = j->all_next)
        if (now - j->arrived > a->begin_s && !atomic_load(&j->want_begin)) {
            atomic_store(&j->want_begin, true);
            if (j->running) j->again = true;
            else if (!j->queued) {
                atomic_fetch_add(&j->refs, 1);
                queue_job(a, j);
            }
        }
}

// Sleeps until there may be a job, or the clock's next turn. With the pool's lock.
static void wait_for_job(api *a, int index, double tick_s) {
    pthread_cond_t *cond = index == 0 ? &a->cond0 : &a->cond;
    if (index == 0) a->idle0 = true;
    if (!a->n_jobs) pthread_cond_wait(cond, &a->lock);
    else os_cond_wait_for(cond, &a->lock, (int64_t)ceil(tick_s * 1000));
    if (index == 0) a->idle0 = false;
}

static void *pool_thread(void *arg) {
    worker *w = arg;
    api *a = w->a;
    sigset_t every; // signals are for the program's own threads
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, NULL);
    double tick_s = a->begin_s < 1 ? a->begin_s : 1, next_tick = api_now() + tick_s;
    pthread_mutex_lock(&a->lock);
    for (;;) {
        double now = api_now();
        if (now >= next_tick) {
            tick(a);
            next_tick = now + tick_s;
        }
        job *j = next_job(a, w->index);
        if (!j) {
            if (a->quit && !a->n_jobs) break;
            wait_for_job(a, w->index, tick_s);
            continue;
        }
        j->queued = false;
        j->running = true;
        j->again = false;
        pthread_mutex_unlock(&a->lock);
        job_run(j);
        pthread_mutex_lock(&a->lock);
        j->running = false;
        if (j->again) queue_job(a, j); // keeps its reference
        else {
            pthread_mutex_unlock(&a->lock);
            job_unref(j);
            pthread_mutex_lock(&a->lock);
        }
    }
    pthread_cond_broadcast(&a->cond);
    pthread_cond_broadcast(&a->cond0);
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

// ---- from the HTTP thread ------------------------------------------------------------------------

static void on_close(void *ctx) {
    job *j = ctx;
    pthread_mutex_lock(&j->lock);
    j->left = true;
    // At once, not when a pool thread comes round: the engine must stop within a step.
    for (uint32_t i = 0; i < j->n_parts; i++)
        if (j->parts[i].req) altiserve_cancel(j->parts[i].req);
    pthread_mutex_unlock(&j->lock);
    job_post(j);
    job_unref(j);
}

// NULL with the method that the path takes in *allow, or with NULL there too.
static const api_route *find_route(const http_request *r, const char **allow) {
    const char *path = http_path(r);
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') len--;
    *allow = NULL;
    for (size_t i = 0; i < n_routes; i++) {
        size_t n = strlen(routes[i].path);
        bool all = routes[i].path[n - 1] == '*';
        if (all ? len < n || strncmp(path, routes[i].path, n - 1) : len != n || strncmp(path, routes[i].path, n)) continue;
        if (!strcmp(routes[i].method, "*") || !strcmp(routes[i].method, http_method(r))) return &routes[i];
        *allow = routes[i].method;
    }
    return NULL;
}

static void refuse(http_request *r, int code, const char *fmt, const char *what) {
    api_error e;
    api_fail(&e, code, NULL, NULL, fmt, what);
    api_send_error(r, &e);
}

// The route, and in *client whose key it is (NULL: no keys are asked for); NULL where there is none, or the key is missing, after saying so.
static const api_route *admit(const api *a, http_request *r, const api_key **client) {
    const char *allow;
    const api_route *route = find_route(r, &allow);
    *client = a->n_keys ? find_key(a, r) : NULL;
    if (route) http_set_route(r, route->path);
    if (route && (route->open || !a->n_keys || *client)) return route;
    if (route) refuse(r, 401, "%s", key_of(r) ? "the API key is not known to this server" : "an API key is needed: Authorization: Bearer KEY");
    else if (!allow) refuse(r, 404, "there is nothing at %.200s", http_path(r));
    else {
        http_add_header(r, "Allow", strcmp(allow, "GET") ? "POST, OPTIONS" : "GET, HEAD, OPTIONS");
        refuse(r, 405, "this path takes %s only", allow);
    }
    return NULL;
}

// Of who is not admitted no body is kept.
static void on_head(void *ctx, http_request *r) {
    const api_key *client;
    admit(ctx, r, &client);
}

static void on_request(void *ctx, http_request *r) {
    api *a = ctx;
    const api_key *client;
    const api_route *route = admit(a, r, &client); // again: what was wrong may have gone without an answer, for want of memory
    job *j = route ? mem_calloc(1, sizeof *j) : NULL;
    if (!j) {
        if (route) refuse(r, 503, "%s", "no memory for this request");
        http_release(r);
        return;
    }
    j->a = a;
    j->r = r;
    j->route = route;
    j->arrived = api_now();
    pthread_mutex_init(&j->lock, NULL);
    atomic_init(&j->refs, 2); // until it is done, and until on_close
    j->client = client;
    snprintf(j->key, sizeof j->key, "%s", client ? client->name : http_client(r)); // keys of one name are one client
    pthread_mutex_lock(&a->lock);
    j->all_next = a->all;
    if (a->all) a->all->all_prev = j;
    a->all = j;
    a->n_jobs++;
    pthread_mutex_unlock(&a->lock);
    http_on_close(r, on_close, j);
    if (route->open) job_run(j); // asks the engine nothing: answered here, however busy the pool is
    else job_post(j);
}

// ---- start and stop ------------------------------------------------------------------------------

static void free_api(api *a) {
    for (size_t i = 0; i < a->n_keys; i++) {
        if (a->keys[i].key) explicit_bzero(a->keys[i].key, strlen(a->keys[i].key));
        mem_free(a->keys[i].key);
        mem_free(a->keys[i].name);
    }
    mem_free(a->keys);
    pthread_cond_destroy(&a->cond);
    pthread_cond_destroy(&a->cond0);
    pthread_cond_destroy(&a->ends);
    pthread_mutex_destroy(&a->lock);
    mem_free(a);
}

static void end_pool(api *a) {
    pthread_mutex_lock(&a->lock);
    a->quit = true;
    pthread_cond_broadcast(&a->cond);
    pthread_cond_broadcast(&a->cond0);
    pthread_mutex_unlock(&a->lock);
    for (int i = 0; i < a->n_workers; i++) pthread_join(a->workers[i].thread, NULL);
    a->n_workers = 0;
}

status api_start(const api_options *o, api **out, error *err) {
    api *a = mem_calloc(1, sizeof *a);
    if (!a) return error_set(err, E_NOMEM, "no memory to start the server");
    pthread_mutex_init(&a->lock, NULL);
    os_cond_init(&a->cond);
    os_cond_init(&a->cond0);
    os_cond_init(&a->ends);
    json_object_seed(0); // from the system's randomness, before any thread parses: keys of objects must not be made to collide
    a->engine = o->engine;
    a->begin_s = o->http.keepalive_ms ? o->http.keepalive_ms / 1000.0 : 5;
    status st = o->api_key_file ? read_keys(a, o->api_key_file, err) : OK;
    int n = o->workers > 0 ? (o->workers < 16 ? o->workers : 16) : 3;
    for (int i = 0; i < n && !st; i++) {
        a->workers[i].a = a;
        a->workers[i].index = i;
        int rc = pthread_create(&a->workers[i].thread, NULL, pool_thread, &a->workers[i]);
        if (!rc) a->n_workers++;
        else if (!a->n_workers) {
            errno = rc;
            st = error_errno(err, "cannot start the front pool");
        }
    }
    pthread_mutex_lock(&a->lock);
    a->reserve = a->n_workers > 1;
    pthread_mutex_unlock(&a->lock);
    http_options h = o->http;
    h.route = on_request;
    h.head = on_head;
    h.error_body = api_error_body;
    h.ctx = a;
    if (!st) st = http_start(&h, &a->http, err);
    if (st) {
        end_pool(a);
        free_api(a);
        return st;
    }
    *out = a;
    return OK;
}

uint16_t api_port(const api *a) { return http_port(a->http); }
const char *api_url(const api *a) { return http_url(a->http); }

enum { LAST_WORDS_MS = 3000 }; // for answers that were cut to be sent

// At the deadline whoever still runs in the engine is cut there, so that its client is told; connections end after that.
static void *cut_main(void *arg) {
    api *a = arg;
    pthread_mutex_lock(&a->lock);
    for (double left; !a->stopped && (left = a->cut_at - api_now()) > 0;) os_cond_wait_for(&a->ends, &a->lock, (int64_t)(left * 1e3) + 1);
    bool cut = !a->stopped;
    pthread_mutex_unlock(&a->lock);
    if (!cut) return NULL;
    altiserve_stats st;
    altiserve_get_stats(a->engine, &st);
    if (st.running + st.waiting) obs_log(OBS_WARN, "%u running and %u waiting requests are cut: the time of --drain-timeout is over", st.running, st.waiting);
    altiserve_drain(a->engine, 0);
    return NULL;
}

void api_stop(api *a, uint32_t deadline_ms) {
    double at = api_now() + deadline_ms / 1e3;
    pthread_mutex_lock(&a->lock);
    bool first = !a->stopping;
    if (first || at < a->cut_at) a->cut_at = at;
    a->stopping = true;
    pthread_cond_broadcast(&a->ends);
    pthread_mutex_unlock(&a->lock);
    pthread_t cutter;
    bool cuts = first && pthread_create(&cutter, NULL, cut_main, a) == 0;
    http_stop(a->http, deadline_ms > UINT32_MAX - LAST_WORDS_MS ? deadline_ms : deadline_ms + LAST_WORDS_MS);
    if (!first) return;
    pthread_mutex_lock(&a->lock);
    a->stopped = true;
    pthread_cond_broadcast(&a->ends);
    pthread_mutex_unlock(&a->lock);
    if (cuts) pthread_join(cutter, NULL);
    end_pool(a); // after the last request: it goes on until no job is left
}

void api_free(api *a) {
    if (!a) return;
    http_free(a->http);
    free_api(a);
}
