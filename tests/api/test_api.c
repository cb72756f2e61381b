// api over real sockets with an engine made for this test: what every route answers, every 4xx, streams, and clients that leave.
// The engine below replaces altiserve's own at link time; a word in the prompt says how it behaves.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdint.h>
#include <pthread.h>
#include <stdatomic.h>
#include <cmocka.h>
#include <jansson.h>

#include "api/api.h"
#include "base/mem.h"
#include "http/http_client.h"
#include "obs/obs.h"

// ---- the engine ----------------------------------------------------------------------------------

typedef struct made {
    struct made *next;
    altiserve_event ev;
    char text[32];
    int32_t token;
    altiserve_logprob lp[4];
    float embedding[4];
} made;

struct altiserve_request {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    made *first, *last, *taken;
    altiserve_generate g;
    char *prompt;
    bool cancelled;
    float score, second; // of requests that embed
    altiserve_usage usage;
};

static atomic_bool loaded, load_slow, load_fails; // the model "sleeper"; a load waits for load_slow to be taken back, or fails
static atomic_int live, submitted, cancels, texts_taken, ends;
static altiserve_generate seen; // what the last submit was asked
static char seen_chat[4096];
static pthread_mutex_t seen_lock = PTHREAD_MUTEX_INITIALIZER;

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_opens = PTHREAD_COND_INITIALIZER;
static int blocked;

static bool emit(altiserve_request *r, altiserve_event ev, const char *text, int32_t token) {
    made *m = calloc(1, sizeof *m);
    m->ev = ev;
    snprintf(m->text, sizeof m->text, "%s", text);
    m->token = token;
    if (ev.kind == EVENT_TEXT && r->g.logprobs >= 0)
        for (int k = 0; k <= r->g.logprobs && k < 4; k++) m->lp[k] = (altiserve_logprob){token + k, -0.1f - (float)k, NULL, 0};
    pthread_mutex_lock(&r->lock);
    if (ev.kind == EVENT_TEXT) r->usage.completion_tokens++;
    m->ev.usage = r->usage;
    if (r->last) r->last->next = m;
    else r->first = m;
    r->last = m;
    bool stop = r->cancelled;
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->lock);
    if (r->g.notify) r->g.notify(r->g.notify_ctx);
    return !stop;
}

static void *generate(void *arg) {
    altiserve_request *r = arg;
    bool stopped = strstr(r->prompt, "STOPPED"); // by the last of its stop strings
    bool slow = strstr(r->prompt, "SLOW"), hang = strstr(r->prompt, "HANG"), late = strstr(r->prompt, "LATEFAIL");
    altiserve_event end = {.kind = EVENT_END, .finish = FINISH_STOP};
    bool going = !hang && emit(r, (altiserve_event){.kind = EVENT_STARTED}, "", 0);
    uint32_t most = r->g.max_tokens ? r->g.max_tokens : 5;
    for (uint32_t c = 0; going && c < r->g.n; c++) {
        for (uint32_t i = 0; going && (slow || i < most); i++) {
            char text[32];
            snprintf(text, sizeof text, "w%u.%u\xC3\xA9 ", c, i);
            going = emit(r, (altiserve_event){.kind = EVENT_TEXT, .choice = c}, text, (int32_t)i);
            if (slow) usleep(2000);
            if (late && i == 1) {
                end.finish = FINISH_ERROR;
                error_set(&end.err, E_NOMEM, "no memory");
                going = false;
            }
        }
        if (going) {
            bool full = r->g.max_tokens && !stopped;
            altiserve_event finish = {.kind = EVENT_FINISH, .choice = c, .finish = full ? FINISH_LENGTH : FINISH_STOP, .stop = stopped ? r->g.n_stop : 0};
            going = emit(r, finish, "", 0);
        }
    }
    if (strstr(r->prompt, "FAILEARLY")) {
        end.finish = FINISH_ERROR;
        if (strstr(r->prompt, "FOREVER")) error_set(&end.err, E_INVALID, "it ends early"); // so it was found when it was loaded
        else error_set(&end.err, E_IO, "the model cannot be loaded");
    }
    pthread_mutex_lock(&r->lock);
    while (hang && !r->cancelled) pthread_cond_wait(&r->cond, &r->lock);
    if (r->cancelled) end.finish = FINISH_CANCELLED;
    pthread_mutex_unlock(&r->lock);
    emit(r, end, "", 0);
    atomic_fetch_add(&ends, 1);
    return NULL;
}

// A request that only loads.
static void *load(void *arg) {
    altiserve_request *r = arg;
    altiserve_event end = {.kind = EVENT_END, .finish = FINISH_STOP};
    for (bool wait = true; wait;) {
        pthread_mutex_lock(&r->lock);
        wait = atomic_load(&load_slow) && !r->cancelled;
        pthread_mutex_unlock(&r->lock);
        if (wait) usleep(1000);
    }
    if (atomic_load(&load_fails)) {
        end.finish = FINISH_ERROR;
        error_set(&end.err, E_NOMEM, "it does not fit");
    } else atomic_store(&loaded, true);
    emit(r, end, "", 0);
    return NULL;
}

status altiserve_unload(altiserve *a, const char *id, error *err) {
    (void)a;
    if (!strcmp(id, "fake")) return error_set(err, E_BUSY, "fake serves requests");
    atomic_store(&loaded, false);
    return OK;
}

status altiserve_submit(altiserve *a, const altiserve_generate *what, altiserve_request **out, error *err) {
    (void)a;
    const char *prompt = what->loads ? "" : what->chat ? what->chat : what->text ? what->text : "tokens";
    pthread_mutex_lock(&seen_lock);
    seen = *what;
    snprintf(seen_chat, sizeof seen_chat, "%s", prompt);
    pthread_mutex_unlock(&seen_lock);
    if (strstr(prompt, "BLOCK")) { // a prompt that takes long to tokenize
        pthread_mutex_lock(&gate);
        blocked++;
        while (blocked) pthread_cond_wait(&gate_opens, &gate);
        pthread_mutex_unlock(&gate);
    }
    if (strstr(prompt, "BUSY")) return error_set(err, E_BUSY, "the queue is full");
    if (strstr(prompt, "TOOLONG")) return error_set(err, E_INVALID, "the prompt has 9999 tokens, the context is 4096");
    if (!*prompt && !what->loads) return error_set(err, E_INVALID, "the prompt is empty");
    altiserve_request *r = calloc(1, sizeof *r);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->cond, NULL);
    r->g = *what;
    r->prompt = strdup(prompt);
    r->usage.prompt_tokens = 7;
    r->usage.cached_tokens = 3;
    r->usage.load_s = .5;
    r->usage.prefill_s = .000246;
    r->usage.decode_s = strstr(prompt, "INSTANT") ? 0 : .5;
    if (strstr(prompt, "DRAFTED")) r->usage.drafted_tokens = 9, r->usage.accepted_tokens = 4;
    r->usage.replayed = strstr(prompt, "REPLAY") != NULL;
    if (strstr(prompt, "FAILEARLY")) r->g.n = 0;
    atomic_fetch_add(&live, 1);
    atomic_fetch_add(&submitted, 1);
    pthread_create(&r->thread, NULL, what->loads ? load : generate, r);
    *out = r;
    return OK;
}

static pthread_mutex_t refusal = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t refused_one = PTHREAD_COND_INITIALIZER;
static bool refused; // "BUSY ONCE" was

// A text's embedding: its length, its first byte, 3, 4; ids: their number, the first of them. The score of a pair: the document's length, negative for "MINUS".
// "HELD" ends after "BUSY ONCE" was refused: so something is in flight then.
static void *embed(void *arg) {
    altiserve_request *r = arg;
    bool hang = strstr(r->prompt, "HANG") != NULL;
    pthread_mutex_lock(&refusal);
    while (strstr(r->prompt, "HELD") && !refused) pthread_cond_wait(&refused_one, &refusal);
    pthread_mutex_unlock(&refusal);
    altiserve_event end = {.kind = EVENT_END, .finish = FINISH_STOP};
    pthread_mutex_lock(&r->lock);
    while (hang && !r->cancelled) pthread_cond_wait(&r->cond, &r->lock);
    if (r->cancelled) end.finish = FINISH_CANCELLED;
    pthread_mutex_unlock(&r->lock);
    if (strstr(r->prompt, "FAILEARLY")) {
        end.finish = FINISH_ERROR;
        error_set(&end.err, E_IO, "the model cannot be loaded");
    } else if (end.finish == FINISH_STOP) emit(r, (altiserve_event){.kind = EVENT_EMBEDDING}, "", 0);
    emit(r, end, "", 0);
    return NULL;
}

static atomic_int embedding_now, embedding_most;
static altiserve_embed seen_embed;
static char seen_salt[64];

status altiserve_submit_embed(altiserve *a, const altiserve_embed *what, altiserve_request **out, error *err) {
    (void)a;
    const char *prompt = what->pair ? what->pair : what->text ? what->text : what->tokens[0] == 255 ? "HANG" : "tokens";
    pthread_mutex_lock(&seen_lock);
    seen_embed = *what;
    snprintf(seen_salt, sizeof seen_salt, "%s", what->cache_salt);
    pthread_mutex_unlock(&seen_lock);
    pthread_mutex_lock(&refusal);
    bool busy = strstr(prompt, "BUSY") && !(strstr(prompt, "ONCE") && refused) && !(strstr(prompt, "ALWAYS") && what->goes_on);
    if (busy && strstr(prompt, "ONCE")) refused = true, pthread_cond_broadcast(&refused_one);
    pthread_mutex_unlock(&refusal);
    if (busy) return error_set(err, E_BUSY, "the queue is full");
    if (strstr(prompt, "TOOLONG") && !what->truncate) return error_set(err, E_INVALID, "the input has 9999 tokens; the context is 4096");
    altiserve_request *r = calloc(1, sizeof *r);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->cond, NULL);
    r->g = (altiserve_generate){.n = 1, .logprobs = -1, .notify = what->notify, .notify_ctx = what->notify_ctx};
    r->prompt = strdup(prompt);
    r->usage.prompt_tokens = 7;
    r->usage.load_s = .25;
    r->score = what->pair ? (strstr(what->pair, "MINUS") ? -1.0f : 1.0f) * (float)what->pair_len : what->tokens ? (float)what->n_tokens : (float)what->text_len;
    r->second = what->tokens ? (float)what->tokens[0] : (float)(unsigned char)prompt[0];
    atomic_fetch_add(&live, 1);
    atomic_fetch_add(&submitted, 1);
    int now = atomic_fetch_add(&embedding_now, 1) + 1;
    if (now > atomic_load(&embedding_most)) atomic_store(&embedding_most, now);
    pthread_create(&r->thread, NULL, embed, r);
    *out = r;
    return OK;
}

void altiserve_unit_length(float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    for (size_t i = 0; i < n; i++) x[i] = (float)(x[i] / sqrt(sum));
}

altiserve_event_kind altiserve_next(altiserve_request *r, uint32_t ms, altiserve_event *out) {
    (void)ms;
    pthread_mutex_lock(&r->lock);
    free(r->taken);
    made *m = r->taken = r->first;
    if (m) {
        r->first = m->next;
        if (!r->first) r->last = NULL;
    }
    pthread_mutex_unlock(&r->lock);
    *out = (altiserve_event){0};
    if (!m) return EVENT_NONE;
    *out = m->ev;
    if (m->ev.kind == EVENT_EMBEDDING) {
        const float x[4] = {r->score, r->second, 3, 4};
        memcpy(m->embedding, x, sizeof x);
        out->embedding = m->embedding;
        out->n_embedding = 4;
        atomic_fetch_sub(&embedding_now, 1);
    }
    if (m->ev.kind == EVENT_TEXT) {
        atomic_fetch_add(&texts_taken, 1);
        out->text = m->text;
        out->text_len = strlen(m->text);
        if (r->g.reasoning && strstr(r->prompt, "THINK") && m->token < 2) { // the first is thought, the second ends a thought and begins the answer
            out->reasoning = m->token ? "so" : m->text;
            out->reasoning_len = strlen(out->reasoning);
            if (!m->token) out->text = "", out->text_len = 0;
        }
        out->tokens = &m->token;
        out->n_tokens = 1;
        out->top_logprobs = r->g.logprobs < 0 ? 0 : r->g.logprobs;
        for (int k = 0; k < 4; k++) m->lp[k].bytes = k ? "\xFF" : m->text, m->lp[k].len = k ? 1 : strlen(m->text);
        out->logprobs = r->g.logprobs >= 0 ? m->lp : NULL;
    }
    return m->ev.kind;
}

void altiserve_drain(altiserve *a, uint32_t deadline_ms) { (void)a, (void)deadline_ms; }
void altiserve_cancel(altiserve_request *r) {
    pthread_mutex_lock(&r->lock);
    if (!r->cancelled) atomic_fetch_add(&cancels, 1);
    r->cancelled = true;
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

void altiserve_request_free(altiserve_request *r) {
    altiserve_cancel(r);
    pthread_join(r->thread, NULL);
    while (r->first) {
        made *m = r->first;
        r->first = m->next;
        free(m);
    }
    free(r->taken);
    free(r->prompt);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->cond);
    free(r);
    atomic_fetch_sub(&live, 1);
}

altiserve_usage altiserve_request_usage(altiserve_request *r) { return r->usage; }

static const altiserve_model_info fake = {.id = "fake", .created = 1700000000, .state = MODEL_READY, .architecture = "llama", .quantization = "Q8_0",
                                          .vocabulary = 256, .context = 4096, .context_trained = 8192, .parameters = 1500000, .file_bytes = 123, .memory_bytes = 4567,
                                          .generates = true, .embeds = true, .embedding_width = 4};
// Three more that are found and not listed.
static altiserve_model_info special(const char *id) {
    altiserve_model_info m = fake;
    snprintf(m.id, sizeof m.id, "%s", id);
    m.generates = false;
    m.embedding_model = true;
    m.ranks = !strcmp(id, "ranker");
    m.embeds = !m.ranks;
    if (!strcmp(id, "sleeper")) m.state = atomic_load(&loaded) ? MODEL_READY : MODEL_UNLOADED;
    return m;
}
void altiserve_models(altiserve *a, void (*fn)(void *, const altiserve_model_info *), void *ctx) {
    (void)a;
    altiserve_model_info other = fake, broken = fake;
    snprintf(other.id, sizeof other.id, "a \"quoted\" name");
    snprintf(broken.id, sizeof broken.id, "broken");
    broken.state = MODEL_BROKEN;
    other.state = MODEL_UNLOADED;
    fn(ctx, &other), fn(ctx, &broken), fn(ctx, &fake);
}
status altiserve_model(altiserve *a, const char *id, altiserve_model_info *out, error *err) {
    (void)a;
    if (id && (!strcmp(id, "ranker") || !strcmp(id, "encoder") || !strcmp(id, "sleeper"))) {
        *out = special(id);
        return OK;
    }
    if (id && (!strcmp(id, "broken") || !strcmp(id, "partial"))) {
        *out = fake;
        snprintf(out->id, sizeof out->id, "%s", id);
        snprintf(out->error, sizeof out->error, "it ends early");
        out->state = *id == 'b' ? MODEL_BROKEN : MODEL_INCOMPLETE;
        return OK;
    }
    *out = fake;
    if (id && !strcmp(id, "thinker")) {
        snprintf(out->id, sizeof out->id, "thinker");
        out->thinks = true;
        return OK;
    }
    if (id && *id && strcmp(id, "fake")) return error_set(err, E_NOTFOUND, "there is no model \"%s\"; there is fake", id);
    return OK;
}
status altiserve_tokenize(altiserve *a, const char *id, const char *text, size_t len, unsigned flags, int32_t **ids, size_t *n, error *err) {
    (void)a, (void)id, (void)err;
    *ids = mem_calloc(len + 1, sizeof **ids);
    *n = 0;
    if (flags & TOKENIZE_ADD_SPECIAL) (*ids)[(*n)++] = 1;
    for (size_t i = 0; i < len; i++) (*ids)[(*n)++] = (unsigned char)text[i];
    return OK;
}
status altiserve_detokenize(altiserve *a, const char *id, const int32_t *ids, size_t n, char **text, size_t *len, error *err) {
    (void)a, (void)id, (void)err;
    *text = mem_alloc(n + 1);
    for (size_t i = 0; i < n; i++) (*text)[i] = (char)ids[i];
    (*text)[n] = 0;
    *len = n;
    return OK;
}
status altiserve_template(altiserve *a, const char *id, const char *input, size_t len, char **text, size_t *text_len, error *err) {
    (void)a, (void)id, (void)err;
    *text = mem_strndup(input, len);
    *text_len = len;
    return OK;
}
status altiserve_chat_template(altiserve *a, const char *id, char **text, size_t *len, error *err) {
    (void)a, (void)id, (void)err;
    *text = mem_strdup("{{ \"jinja\" }}\n");
    *len = strlen(*text);
    return OK;
}
status altiserve_tokenize_chat(altiserve *a, const char *id, const char *input, size_t len, int32_t **ids, size_t *n, error *err) {
    (void)a, (void)id, (void)input, (void)err;
    *ids = mem_calloc(len, sizeof **ids);
    *n = 1000 + len;
    return OK;
}
void altiserve_get_stats(altiserve *a, altiserve_stats *out) {
    (void)a;
    *out = (altiserve_stats){.running = (uint32_t)atomic_load(&live), .pages_total = 10, .pages_free = 4, .pages_cached = 1, .retry_after_s = 17};
}
void altiserve_each_stats(altiserve *a, void (*fn)(void *, const altiserve_model_stats *), void *ctx) {
    (void)a;
    fn(ctx, &(altiserve_model_stats){.id = "fake", .running = (uint32_t)atomic_load(&live), .pages_free = 4, .pages_cached = 1, .pages_used = 5});
}
void altiserve_request_explain(altiserve_request *r, altiserve_explanation *out) {
    (void)r;
    *out = (altiserve_explanation){.why = WHY_DIFFERS, .prompt_tokens = 100, .cached_tokens = 64, .same = 70, .ours = "her \"cat\"", .theirs = "his dog"};
}
const char *altiserve_version(void) { return "0.0-test"; }

// ---- a client ------------------------------------------------------------------------------------

static api *server;
static uint16_t port;

static int begin(void **state) {
    (void)state;
    error err;
    if (api_start(&(api_options){.engine = (altiserve *)&server, .http = {.keepalive_ms = 100}}, &server, &err)) fail_msg("%s", err.text);
    port = api_port(server);
    return 0;
}

static int end(void **state) {
    (void)state;
    api_stop(server, 2000);
    api_free(server);
    assert_int_equal(atomic_load(&live), 0);
    return 0;
}

typedef struct reply {
    int code;
    char *head, *body;
    json_t *json; // when it is JSON
    client c;
} reply;

static void reply_free(reply *r) {
    json_decref(r->json);
    client_close(&r->c);
}

static void send_request(client *c, const char *method, const char *path, const char *headers, const char *body, size_t n) {
    char head[1000];
    int k = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n", method, path, headers, n);
    assert_true(client_send(c, head, (size_t)k, 5000));
    assert_true(client_send(c, body, n, 5000));
}

static reply read_reply(client c, const char *what) {
    reply r = {.c = c};
    if (!client_read_until(&r.c, NULL, 1, 10000)) fail_msg("%s: no end: %s", what, r.c.text);
    r.head = r.c.text;
    r.body = strstr(r.c.text, "\r\n\r\n");
    assert_non_null(r.body);
    *r.body = 0;
    r.body += 4;
    r.code = atoi(r.head + 9);
    if (strcasestr(r.head, "transfer-encoding: chunked")) unchunk(r.body);
    r.json = json_loads(r.body, JSON_REJECT_DUPLICATES, NULL);
    return r;
}

static reply ask(const char *method, const char *path, const char *headers, const char *body) {
    client c = client_open(port, 0);
    send_request(&c, method, path, headers, body, strlen(body));
    return read_reply(c, path);
}

// A whole request; the connection is closed behind its answer.
static reply ask_raw(const char *request) {
    client c = client_open(port, 0);
    assert_true(client_say(&c, request));
    return read_reply(c, request);
}

static const json_t *at(const json_t *v, const char *path) { // "choices.0.message.content"
    char copy[200], *save, *p = copy;
    snprintf(copy, sizeof copy, "%s", path);
    for (; (p = strtok_r(p, ".", &save)); p = NULL) v = json_is_array(v) ? json_array_get(v, (size_t)atoi(p)) : json_object_get(v, p);
    return v;
}
static const char *str(const reply *r, const char *path) {
    const char *s = json_string_value(at(r->json, path));
    if (!s) fail_msg("no string at %s in %s", path, r->body);
    return s;
}

static void expect_error(const char *path, const char *body, int code, const char *param) {
    reply r = ask("POST", path, "", body);
    if (r.code != code) fail_msg("%s %.200s: %d, not %d: %s", path, body, r.code, code, r.body);
    str(&r, "error.message"), str(&r, "error.type");
    if (param) assert_string_equal(str(&r, "error.param"), param);
    reply_free(&r);
}

static double num(const reply *r, const char *path) {
    const json_t *v = at(r->json, path);
    if (!json_is_number(v)) fail_msg("no number at %s in %s", path, r->body);
    return json_number_value(v);
}

static reply post_ok(const char *path, const char *body) {
    reply r = ask("POST", path, "", body);
    if (r.code != 200) fail_msg("%s %.200s: %d: %s", path, body, r.code, r.body);
    return r;
}

#define CHAT "/v1/chat/completions"
#define HELLO "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"

// ---- tests ---------------------------------------------------------------------------------------

static void test_models(void **state) {
    (void)state;
    reply r = ask("GET", "/v1/models", "", "");
    assert_int_equal(r.code, 200);
    assert_int_equal(json_array_size(at(r.json, "data")), 2);
    assert_string_equal(str(&r, "data.0.id"), "a \"quoted\" name");
    assert_null(at(r.json, "data.0.max_model_len")); // not known before it is loaded
    assert_int_equal(json_integer_value(at(r.json, "data.1.max_model_len")), 4096);
    reply_free(&r);
    r = ask("GET", "/props?model=sleeper", "", "");
    assert_int_equal(json_integer_value(at(r.json, "default_generation_settings.n_ctx")), 0);
    reply_free(&r);
    const char *one[] = {"/v1/models/fake", "/v1/models/fake/", "/v1/models/fake//", "/v1/models/fake:latest"};
    for (int i = 0; i < 4; i++) {
        r = ask("GET", one[i], "", "");
        assert_string_equal(str(&r, "id"), "fake");
        reply_free(&r);
    }
    const char *bad[] = {"/v1/models/none", "/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models//etc/passwd", "/v1/nothing"};
    for (int i = 0; i < 4; i++) {
        r = ask("GET", bad[i], "", "");
        assert_int_equal(r.code, 404);
        str(&r, "error.message");
        reply_free(&r);
    }
    char longest[400] = "/health"; // slashes at its end, and then something
    memset(longest + 7, '/', 390);
    strcpy(longest + 390, "x");
    r = ask("GET", longest, "", "");
    assert_int_equal(r.code, 404);
    reply_free(&r);
    r = ask("DELETE", "/v1/models", "", "");
    assert_int_equal(r.code, 405);
    assert_non_null(strstr(r.head, "\r\nAllow: GET, HEAD, OPTIONS\r\n"));
    reply_free(&r);
    r = ask("GET", CHAT, "", "");
    assert_non_null(strstr(r.head, "\r\nAllow: POST, OPTIONS\r\n"));
    reply_free(&r);
    // llama-server's names of two routes.
    r = ask("GET", "/models", "", "");
    assert_int_equal(json_array_size(at(r.json, "data")), 2);
    reply_free(&r);
    r = post_ok("/chat/completions", "{" HELLO ",\"max_tokens\":1}");
    assert_string_equal(str(&r, "object"), "chat.completion");
    reply_free(&r);
    r = ask("GET", "/", "", "");
    assert_string_equal(r.body, "Ollama is running");
    reply_free(&r);
    r = ask("GET", "/", "Accept: text/html\r\n", "");
    assert_non_null(strstr(r.body, "<!doctype html>"));
    reply_free(&r);
    r = ask("GET", "/api/tags", "", "");
    assert_string_equal(str(&r, "models.1.name"), "fake");
    assert_int_equal(json_integer_value(at(r.json, "models.1.size")), 123);
    char digest[65];
    snprintf(digest, sizeof digest, "%s", str(&r, "models.1.digest"));
    assert_int_equal(strspn(digest, "0123456789abcdef"), 64);
    assert_string_not_equal(digest, str(&r, "models.0.digest"));
    reply_free(&r);
    r = ask("GET", "/api/ps", "", "");
    assert_int_equal(json_array_size(at(r.json, "models")), 1); // what is in memory
    assert_string_equal(str(&r, "models.0.name"), "fake");
    assert_string_equal(str(&r, "models.0.digest"), digest);
    assert_int_equal(json_integer_value(at(r.json, "models.0.size")), 4567);
    assert_true(json_is_integer(at(r.json, "models.0.size_vram")) && !json_integer_value(at(r.json, "models.0.size_vram")));
    assert_int_equal(json_integer_value(at(r.json, "models.0.context_length")), 4096);
    assert_non_null(strchr(str(&r, "models.0.expires_at"), 'Z'));
    reply_free(&r);
    r = ask("POST", "/api/show", "", "{\"model\":\"fake:latest\"}");
    assert_string_equal(str(&r, "template"), "{{ \"jinja\" }}\n");
    assert_int_equal(json_integer_value(json_object_get(at(r.json, "model_info"), "llama.context_length")), 8192);
    reply_free(&r);
    r = ask("GET", "/health", "", "");
    assert_string_equal(str(&r, "status"), "ok");
    reply_free(&r);
}

static void test_whole(void **state) {
    (void)state;
    reply r = ask("POST", CHAT, "", "{\"model\":\"fake\"," HELLO ",\"n\":2,\"max_tokens\":2,\"temperature\":0.5,\"top_p\":null,\"seed\":7,\"stop\":\"x\","
                  "\"logit_bias\":{\"3\":-100}}");
    assert_int_equal(r.code, 200);
    assert_string_equal(str(&r, "choices.0.message.content"), "w0.0\xC3\xA9 w0.1\xC3\xA9 ");
    assert_string_equal(str(&r, "choices.1.message.content"), "w1.0\xC3\xA9 w1.1\xC3\xA9 ");
    assert_string_equal(str(&r, "choices.0.finish_reason"), "length");
    assert_string_equal(str(&r, "object"), "chat.completion");
    assert_int_equal(json_integer_value(at(r.json, "usage.total_tokens")), 11);
    assert_int_equal(json_integer_value(at(r.json, "usage.prompt_tokens_details.cached_tokens")), 3);
    assert_int_equal(seen.given, SAMPLING_TEMPERATURE);
    assert_true(seen.sampling.has_seed && seen.sampling.seed == 7 && seen.n_stop == 1 && seen.sampling.n_bias == 1);
    assert_non_null(strstr(seen_chat, "\"add_generation_prompt\":true"));
    reply_free(&r);
    r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"THINK\"}],\"max_tokens\":3}");
    assert_string_equal(str(&r, "choices.0.message.reasoning_content"), "w0.0\xC3\xA9 so");
    assert_string_equal(str(&r, "choices.0.message.content"), "w0.1\xC3\xA9 w0.2\xC3\xA9 ");
    reply_free(&r);
    r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"THINK\"}],\"max_tokens\":3,\"stream\":true}");
    assert_non_null(strstr(r.body, "\"delta\":{\"reasoning_content\":\"w0.0\xC3\xA9 \"}"));
    assert_non_null(strstr(r.body, "\"delta\":{\"reasoning_content\":\"so\",\"content\":\"w0.1\xC3\xA9 \"}"));
    assert_non_null(strstr(r.body, "\"delta\":{\"content\":\"w0.2\xC3\xA9 \"}"));
    reply_free(&r);
    r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"THINK\"}],\"max_tokens\":3,\"reasoning_format\":\"none\"}");
    assert_null(at(r.json, "choices.0.message.reasoning_content"));
    reply_free(&r);
    r = ask("POST", CHAT, "", "{" HELLO ",\"reasoning_format\":\"loud\"}");
    assert_int_equal(r.code, 400);
    assert_string_equal(str(&r, "error.param"), "reasoning_format");
    reply_free(&r);
    r = ask("POST", CHAT, "", "{" HELLO ",\"logprobs\":true,\"top_logprobs\":2,\"max_tokens\":1}");
    assert_string_equal(str(&r, "model"), "fake");
    assert_true(json_number_value(at(r.json, "choices.0.logprobs.content.0.logprob")) == -0.1);
    assert_int_equal(json_integer_value(at(r.json, "choices.0.logprobs.content.0.bytes.4")), 0xC3);
    assert_string_equal(str(&r, "choices.0.logprobs.content.0.top_logprobs.1.token"), "\xEF\xBF\xBD");
    assert_int_equal(json_integer_value(at(r.json, "choices.0.logprobs.content.0.top_logprobs.1.bytes.0")), 255);
    reply_free(&r);
    r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"developer\",\"content\":\"s\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
            "{\"type\":\"text\",\"text\":\"b\\\"\"}]}],\"tools\":[],\"response_format\":{\"type\":\"text\"},\"tool_choice\":\"none\",\"functions\":null,"
            "\"unheard_of\":5,\"chat_template_kwargs\":{\"enable_thinking\":false}}");
    assert_int_equal(r.code, 200);
    json_t *input = json_loads(seen_chat, 0, NULL);
    assert_string_equal(json_string_value(at(input, "messages.0.role")), "system");
    assert_string_equal(json_string_value(at(input, "messages.1.content")), "a\nb\"");
    assert_true(json_is_false(at(input, "enable_thinking")));
    json_decref(input);
    assert_string_equal(str(&r, "choices.0.finish_reason"), "stop");
    assert_int_equal(seen.max_tokens, 0);
    reply_free(&r);
    r = post_ok(CHAT, "{" HELLO ",\"max_tokens\":-1}"); // llama-server's word for "as many as there is room for"
    assert_int_equal(seen.max_tokens, 0);
    reply_free(&r);
    r = post_ok(CHAT, "{" HELLO ",\"max_completion_tokens\":-1,\"max_tokens\":2}");
    assert_int_equal(seen.max_tokens, 0);
    reply_free(&r);
    // An answer that was a refusal comes back without content: templates add strings, so they get one.
    r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":null,\"refusal\":\"no\"},"
            "{\"role\":\"user\",\"content\":\"b\"}],\"max_tokens\":1}");
    assert_int_equal(r.code, 200);
    assert_non_null(strstr(seen_chat, "\"content\":\"\""));
    reply_free(&r);
}

static void test_completions(void **state) {
    (void)state;
    reply r = ask("POST", "/v1/completions", "", "{\"prompt\":\"abc\",\"echo\":true,\"max_tokens\":1}");
    assert_string_equal(str(&r, "choices.0.text"), "abcw0.0\xC3\xA9 ");
    reply_free(&r);
    r = ask("POST", "/v1/completions", "", "{\"prompt\":[\"one\",\"two\"],\"n\":2,\"logprobs\":1}");
    assert_int_equal(json_array_size(at(r.json, "choices")), 4);
    assert_int_equal(json_array_size(at(r.json, "choices.3.logprobs.tokens")), 16); // OpenAI's default of max_tokens
    assert_int_equal(json_integer_value(at(r.json, "choices.3.logprobs.text_offset.2")), 12);
    assert_int_equal(json_integer_value(at(r.json, "choices.3.index")), 3);
    const json_t *tops = at(r.json, "choices.3.logprobs.top_logprobs.2");
    assert_int_equal(json_object_size(tops), 2); // the likeliest, and the chosen one, which is another
    assert_true(json_real_value(json_object_get(tops, "w1.2\xC3\xA9 ")) == -.1);
    assert_int_equal(json_integer_value(at(r.json, "usage.prompt_tokens")), 14);
    reply_free(&r);
    r = ask("POST", "/v1/completions", "", "{\"prompt\":[104,105],\"echo\":true,\"max_tokens\":1,\"stream\":true}");
    assert_non_null(strstr(r.body, "\"text\":\"hi\""));
    assert_int_equal(seen.n_tokens, 2);
    reply_free(&r);
    r = post_ok("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":-1}"); // not OpenAI's 16
    assert_int_equal(seen.max_tokens, 0);
    reply_free(&r);
    r = ask("POST", "/v1/completions", "", "{\"prompt\":[[1,2],[3]],\"max_tokens\":1}");
    assert_int_equal(json_array_size(at(r.json, "choices")), 2);
    reply_free(&r);
}

// Adds up the deltas of choice `index` of an SSE body; checks the framing on the way.
static void gather(const char *body, int index, const char *path, strbuf *text, char *finish, json_t **usage) {
    bool done = false;
    for (const char *p = body; *p;) {
        const char *e = strstr(p, "\n\n");
        assert_non_null(e);
        if (*p != ':') {
            assert_false(done);
            assert_int_equal(strncmp(p, "data: ", 6), 0);
            if (!strncmp(p + 6, "[DONE]", 6)) done = true;
            else {
                json_t *v = json_loadb(p + 6, (size_t)(e - p - 6), JSON_REJECT_DUPLICATES, NULL);
                assert_non_null(v);
                if (json_is_object(json_object_get(v, "usage"))) *usage = json_incref(json_object_get(v, "usage"));
                if (json_array_size(at(v, "choices")) && json_integer_value(at(v, "choices.0.index")) == index) {
                    const char *piece = json_string_value(at(v, path)), *why = json_string_value(at(v, "choices.0.finish_reason"));
                    if (piece) strbuf_adds(text, piece);
                    if (why) snprintf(finish, 16, "%s", why);
                }
                json_decref(v);
            }
        }
        p = e + 2;
    }
    assert_true(done);
}

static void test_streams(void **state) {
    (void)state;
    for (int usage_asked = 0; usage_asked < 2; usage_asked++) {
        char body[400];
        snprintf(body, sizeof body, "{" HELLO ",\"n\":2,\"stream\":true,\"max_tokens\":50%s}", usage_asked ? ",\"stream_options\":{\"include_usage\":true}" : "");
        reply r = ask("POST", CHAT, "", body), whole = ask("POST", CHAT, "", "{" HELLO ",\"n\":2,\"max_tokens\":50}");
        assert_int_equal(r.code, 200);
        assert_non_null(strstr(r.head, "text/event-stream"));
        for (int i = 0; i < 2; i++) {
            strbuf text = {0};
            char finish[16] = "", path[64];
            json_t *usage = NULL;
            gather(r.body, i, "choices.0.delta.content", &text, finish, &usage);
            snprintf(path, sizeof path, "choices.%d.message.content", i);
            assert_string_equal(text.data, str(&whole, path));
            assert_string_equal(finish, "length");
            assert_int_equal(usage != NULL, usage_asked);
            if (usage) assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 100);
            json_decref(usage);
            strbuf_free(&text);
        }
        reply_free(&r), reply_free(&whole);
    }
    // What fails before the first token is an HTTP error, later an event.
    reply r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"FAILEARLY\"}],\"stream\":true}");
    assert_int_equal(r.code, 503);
    assert_non_null(strstr(r.head, "Retry-After: "));
    reply_free(&r);
    r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"LATEFAIL\"}],\"stream\":true}");
    assert_int_equal(r.code, 200);
    assert_non_null(strstr(r.body, "data: {\"error\":{\"message\":\"no memory\""));
    reply_free(&r);
    r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"LATEFAIL\"}]}");
    assert_int_equal(r.code, 503);
    reply_free(&r);
}

// The chunks of an SSE body, but for its [DONE].
static json_t *chunks_of(const char *body) {
    json_t *all = json_array();
    for (const char *p = body; (p = strstr(p, "data: ")); p++)
        if (strncmp(p + 6, "[DONE]", 6)) json_array_append_new(all, json_loads(p + 6, JSON_DISABLE_EOF_CHECK, NULL));
    return all;
}

static void expect_timings(const json_t *answer, double predicted, double ms, double drafted) {
    const struct { const char *name; double value; } want[] = {
        {"cache_n", 3}, {"prompt_n", 4}, {"prompt_ms", .246}, {"prompt_per_token_ms", .0615}, {"prompt_per_second", 4 / .246 * 1000},
        {"predicted_n", predicted}, {"predicted_ms", ms}, {"predicted_per_token_ms", predicted > 0 ? ms / predicted : 0},
        {"predicted_per_second", ms > 0 ? predicted / ms * 1000 : 0}, {"draft_n", drafted}, {"draft_n_accepted", 4}};
    size_t n = sizeof want / sizeof *want - (drafted > 0 ? 0 : 2);
    const json_t *timings = json_object_get(answer, "timings");
    assert_int_equal(json_object_size(timings), n);
    for (size_t i = 0; i < n; i++)
        if (json_number_value(json_object_get(timings, want[i].name)) != want[i].value) fail_msg("%s: not %g", want[i].name, want[i].value);
}

// llama-server's timings: in whole answers, in the last chunk of streams, and in each that has text where that is asked for.
static void test_timings(void **state) {
    (void)state;
    static const struct { const char *path, *ask; } ways[] = {
        {CHAT, "\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]"}, {"/v1/completions", "\"prompt\":\"%s\""}, {"/completion", "\"prompt\":\"%s\""}};
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        static const struct { const char *prompt; double ms, drafted; } cases[] = {{"x", 500, 0}, {"INSTANT", 0, 0}, {"DRAFTED", 500, 9}};
        const char *most = w == 2 ? "n_predict" : "max_tokens";
        char body[300], start[200];
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            snprintf(start, sizeof start, ways[w].ask, cases[i].prompt);
            snprintf(body, sizeof body, "{%s,\"%s\":2}", start, most);
            reply r = post_ok(ways[w].path, body);
            expect_timings(r.json, 2, cases[i].ms, cases[i].drafted);
            reply_free(&r);
        }
        snprintf(start, sizeof start, ways[w].ask, "x");
        for (int how = 0; how < 4; how++) { // with each token's, with usage
            snprintf(body, sizeof body, "{%s,\"%s\":3,\"stream\":true%s%s}", start, most, how & 1 ? ",\"timings_per_token\":true" : "",
                     how & 2 && w < 2 ? ",\"stream_options\":{\"include_usage\":true}" : "");
            reply r = ask("POST", ways[w].path, "", body);
            json_t *all = chunks_of(r.body);
            size_t n = json_array_size(all), texts = 0;
            expect_timings(json_array_get(all, n - 1), 3, 500, 0);
            for (size_t i = 0; i + 1 < n; i++) {
                const json_t *chunk = json_array_get(all, i);
                const char *text = json_string_value(at(chunk, w == 0 ? "choices.0.delta.content" : w == 1 ? "choices.0.text" : "content"));
                bool has = text && *text;
                texts += has;
                assert_int_equal(json_object_get(chunk, "timings") != NULL, has && how & 1);
            }
            assert_int_equal(texts, 3);
            json_decref(all);
            reply_free(&r);
        }
    }
    reply r = post_ok("/v1/completions", "{\"prompt\":[\"a\",\"b\"],\"max_tokens\":2}"); // of all prompts together
    assert_true(num(&r, "timings.prompt_n") == 8 && num(&r, "timings.prompt_ms") == .492 && num(&r, "timings.predicted_n") == 4 && num(&r, "timings.cache_n") == 6);
    reply_free(&r);
    expect_error(CHAT, "{" HELLO ",\"timings_per_token\":1}", 400, "timings_per_token");
}

static void test_refusals(void **state) {
    (void)state;
    static const struct { const char *body; int code; const char *param; } cases[] = {
        {"", 400, NULL}, {"{", 400, NULL}, {"[]", 400, NULL}, {"nonsense", 400, NULL}, {"{\"messages\":NaN}", 400, NULL}, {"{\"n\":1,\"n\":2}", 400, NULL},
        {"{\"a\":\"\xFF\"}", 400, NULL}, {"{} {}", 400, NULL}, {"{}", 400, "messages"}, {"{\"messages\":[]}", 400, "messages"},
        {"{\"messages\":\"hi\"}", 400, "messages"}, {"{\"messages\":[5]}", 400, "messages[0]"}, {"{\"messages\":[{}]}", 400, "messages[0].role"},
        {"{\"messages\":[{\"role\":\"user\"}]}", 400, "messages[0].content"}, {"{\"messages\":[{\"role\":\"user\",\"content\":5}]}", 400, "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", 400, "messages[0].content[0]"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"images\":[\"aGk=\"]}]}", 400, "messages[0].images"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"x\",\"audio\":{\"id\":\"a\"}}]}", 400, "messages[1].audio"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"function_call\":{\"name\":\"f\",\"arguments\":\"\"}}]}", 400, "messages[0].function_call"},
        {"{" HELLO ",\"model\":\"none\"}", 404, "model"}, {"{" HELLO ",\"model\":7}", 400, "model"}, {"{" HELLO ",\"model\":\"/etc/passwd\"}", 404, "model"},
        {"{" HELLO ",\"max_tokens\":0}", 400, "max_tokens"}, {"{" HELLO ",\"max_tokens\":-2}", 400, "max_tokens"}, {"{" HELLO ",\"max_tokens\":99999999999}", 400, "max_tokens"},
        {"{" HELLO ",\"max_tokens\":1e300}", 400, "max_tokens"}, {"{" HELLO ",\"max_tokens\":\"5\"}", 400, "max_tokens"}, {"{" HELLO ",\"max_tokens\":1.5}", 400, "max_tokens"},
        {"{" HELLO ",\"max_completion_tokens\":0}", 400, "max_completion_tokens"}, {"{" HELLO ",\"n\":0}", 400, "n"}, {"{" HELLO ",\"n\":1000}", 400, "n"},
        {"{" HELLO ",\"temperature\":-0.1}", 400, "temperature"}, {"{" HELLO ",\"temperature\":\"hot\"}", 400, "temperature"}, {"{" HELLO ",\"top_p\":1.5}", 400, "top_p"},
        {"{" HELLO ",\"top_k\":0.5}", 400, "top_k"}, {"{" HELLO ",\"min_p\":2}", 400, "min_p"}, {"{" HELLO ",\"repetition_penalty\":0}", 400, "repetition_penalty"},
        {"{" HELLO ",\"presence_penalty\":3}", 400, "presence_penalty"}, {"{" HELLO ",\"stream\":\"yes\"}", 400, "stream"},
        {"{" HELLO ",\"stream_options\":{\"include_usage\":true}}", 400, "stream_options"}, {"{" HELLO ",\"stop\":[1]}", 400, "stop"}, {"{" HELLO ",\"stop\":\"\"}", 400, "stop"},
        {"{" HELLO ",\"logit_bias\":{\"x\":1}}", 400, "logit_bias"}, {"{" HELLO ",\"logit_bias\":{\"5\":101}}", 400, "logit_bias"},
        {"{" HELLO ",\"logit_bias\":{\"999\":1}}", 400, "logit_bias"},
        {"{" HELLO ",\"top_logprobs\":3}", 400, "top_logprobs"},
        {"{" HELLO ",\"logprobs\":true,\"top_logprobs\":21}", 400, "top_logprobs"}, {"{" HELLO ",\"logprobs\":1}", 400, "logprobs"},
        {"{" HELLO ",\"seed\":1.5}", 400, "seed"}, {"{" HELLO ",\"tools\":[{\"type\":\"function\"}]}", 400, "tools"},
        {"{" HELLO ",\"response_format\":{\"type\":\"json_object\"}}", 400, "response_format"},
        {"{" HELLO ",\"grammar\":\"root ::= x\"}", 400, "grammar"}, {"{" HELLO ",\"functions\":[{}]}", 400, "functions"},
        {"{" HELLO ",\"tool_choice\":\"required\"}", 400, "tool_choice"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"TOOLONG\"}]}", 400, "messages"}, {"{\"messages\":[{\"role\":\"user\",\"content\":\"BUSY\"}]}", 429, NULL},
    };
    int before = atomic_load(&submitted);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect_error(CHAT, cases[i].body, cases[i].code, cases[i].param);
    expect_error("/v1/completions", "{}", 400, "prompt");
    expect_error("/v1/completions", "{\"prompt\":[]}", 400, "prompt");
    expect_error("/v1/completions", "{\"prompt\":[1,\"a\"]}", 400, "prompt");
    expect_error("/v1/completions", "{\"prompt\":[1,256]}", 400, "prompt");
    expect_error("/v1/completions", "{\"prompt\":[-1]}", 400, "prompt");
    expect_error("/v1/completions", "{\"prompt\":\"\"}", 400, "prompt");
    expect_error("/v1/completions", "{\"prompt\":\"a\",\"suffix\":\"b\"}", 400, "suffix");
    expect_error("/v1/completions", "{\"prompt\":\"a\",\"best_of\":3}", 400, "best_of");
    expect_error("/tokenize", "{\"content\":5}", 400, "content");
    expect_error("/detokenize", "{\"tokens\":[\"a\"]}", 400, "tokens");
    assert_int_equal(atomic_load(&submitted), before); // none of them reached the engine
    size_t n = 3000; // nested deeper than any client needs
    char *deep = malloc(n * 2 + 20);
    strcpy(deep, "{\"a\":");
    memset(deep + 5, '[', n);
    memset(deep + 5 + n, ']', n);
    strcpy(deep + 5 + 2 * n, "}");
    expect_error(CHAT, deep, 400, NULL);
    free(deep);
    n = 4 << 20; // few bytes, many values
    char *wide = malloc(n + 20);
    strcpy(wide, "{\"a\":[0");
    for (size_t i = 7; i < n; i += 2) memcpy(wide + i, ",0", 2);
    strcpy(wide + n + 1, "]}");
    reply r = ask("POST", CHAT, "", wide);
    assert_non_null(strstr(str(&r, "error.message"), "JSON values"));
    reply_free(&r);
    free(wide);
    static const char *const numbers[] = {"18446744073709551615", "-9223372036854775809", "1e999"};
    for (int i = 0; i < 3; i++) { // it is JSON, and what is wrong with it is said
        char body[100];
        snprintf(body, sizeof body, "{" HELLO ",\"seed\":%s}", numbers[i]);
        r = ask("POST", CHAT, "", body);
        assert_int_equal(r.code, 400);
        if (!strstr(str(&r, "error.message"), "a number out of range") || strstr(str(&r, "error.message"), "not valid JSON")) fail_msg("%s: %s", numbers[i], r.body);
        reply_free(&r);
    }
    r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}");
    assert_int_equal(r.code, 400);
    assert_non_null(strstr(str(&r, "error.message"), "a string with \\u0000 in it"));
    reply_free(&r);
    r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"BUSY\"}]}");
    assert_non_null(strstr(r.head, "Retry-After: 17"));
    reply_free(&r);
    r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"TOOLONG\"}]}");
    assert_string_equal(str(&r, "error.code"), "context_length_exceeded");
    reply_free(&r);
}

// What the head of an answer says of a field, without the end of its line; "" where it says nothing.
static const char *field_of(const reply *r, const char *name) {
    static char value[300];
    char start[60];
    snprintf(start, sizeof start, "\r\n%s: ", name);
    const char *p = strcasestr(r->head, start);
    if (!p) return "";
    p += strlen(start);
    snprintf(value, sizeof value, "%.*s", (int)strcspn(p, "\r\n"), p);
    return value;
}

// An error in the shape of its dialect, and in no other: A, L, O.
static void expect_shape(const reply *r, char dialect, int code, const char *what) {
    if (r->code != code) fail_msg("%s: %d, not %d: %s", what, r->code, code, r->body);
    const json_t *e = at(r->json, "error");
    bool anthropic = json_is_object(e) && json_object_size(r->json) == 3 && json_object_size(e) == 2 && !strcmp(str(r, "type"), "error") &&
                     *str(r, "error.message") && *str(r, "error.type") && !strcmp(str(r, "request_id"), field_of(r, "Request-Id"));
    bool ollama = json_is_string(e) && json_object_size(r->json) == 1 && json_string_length(e);
    bool openai = json_is_object(e) && json_object_size(r->json) == 1 && json_object_size(e) == 4 && *str(r, "error.message") && *str(r, "error.type") &&
                  at(e, "param") && at(e, "code");
    if ((dialect == 'A') != anthropic || (dialect == 'L') != ollama || (dialect == 'O') != openai) fail_msg("%s is not of dialect %c: %s", what, dialect, r->body);
    assert_string_equal(field_of(r, "Content-Type"), "application/json");
}

// Whatever is refused before a route is asked has the shape of the dialect that its path belongs to, be there something at it or not.
static void test_shapes(void **state) {
    (void)state;
    static const struct { const char *path; char dialect; int get, post; } paths[] = {
        {"/v1/chat/completions", 'O', 405, 400}, {"/v1/nothing", 'O', 404, 404}, {"/tokenize", 'O', 405, 400},
        {"/", 'O', 200, 405}, {"/v1/messagess", 'O', 404, 404}, {"/apis/chat", 'O', 404, 404},
        {"/v1/messages", 'A', 405, 400}, {"/v1/messages/", 'A', 405, 400}, {"/v1/messages/count_tokens", 'A', 405, 400}, {"/v1/messages/batches", 'A', 404, 404},
        {"/api/chat", 'L', 405, 400}, {"/api/tags", 'L', 200, 405}, {"/api", 'L', 404, 404}, {"/api/nothing/at/all", 'L', 404, 404}};
    static const struct { const char *head; int code; } refusals[] = {
        {"Host: evil.example\r\n", 403}, {"Host: localhost\r\nOrigin: https://evil.example\r\n", 403}, {"Host: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n", 400},
        {"Host: localhost\r\nContent-Length: 209715200\r\n", 413}, {"Host: localhost\r\nExpect: 100-continue\r\nContent-Length: 33554433\r\n", 413}, {"", 400}};
    char request[300];
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        for (size_t k = 0; k < sizeof refusals / sizeof *refusals; k++) {
            snprintf(request, sizeof request, "POST %s HTTP/1.1\r\n%s\r\n", paths[i].path, refusals[k].head);
            reply r = ask_raw(request);
            expect_shape(&r, paths[i].dialect, refusals[k].code, request);
            reply_free(&r);
        }
        for (int post = 0; post < 2; post++) {
            int code = post ? paths[i].post : paths[i].get;
            reply r = ask(post ? "POST" : "GET", paths[i].path, "", "");
            if (code != 200) expect_shape(&r, paths[i].dialect, code, paths[i].path);
            assert_int_equal(r.code, code);
            reply_free(&r);
        }
    }
    static const struct { const char *path, *body, *type; int code; } anthropic[] = {
        {"/v1/messages", "{\"model\":\"none\",\"max_tokens\":1," HELLO "}", "not_found_error", 404},
        {"/v1/messages", "{}", "invalid_request_error", 400}, {"/v1/messages/nothing", "", "not_found_error", 404},
        {"/v1/messages", "{\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":\"BUSY\"}]}", "rate_limit_error", 429},
        {"/v1/messages", "{\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":\"FAILEARLY\"}]}", "overloaded_error", 503}};
    for (size_t i = 0; i < sizeof anthropic / sizeof *anthropic; i++) {
        reply r = ask("POST", anthropic[i].path, "X-Request-Id: mine\r\n", anthropic[i].body);
        expect_shape(&r, 'A', anthropic[i].code, anthropic[i].body);
        assert_string_equal(str(&r, "error.type"), anthropic[i].type);
        assert_string_equal(str(&r, "request_id"), "mine");
        reply_free(&r);
    }
    reply r = ask_raw("POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 209715200\r\n\r\n");
    assert_string_equal(str(&r, "error.type"), "request_too_large");
    reply_free(&r);
    r = ask("POST", "/v1/messages", "X-Request-Id: mine\r\n", "{\"max_tokens\":5,\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"LATEFAIL\"}]}"); // on the way too
    assert_string_equal(field_of(&r, "Request-Id"), "mine");
    assert_non_null(strstr(r.body, "\"type\":\"overloaded_error\"},\"request_id\":\"mine\"}"));
    reply_free(&r);
    static const struct { const char *path, *type, *code; int status; } openai[] = {
        {"/v1/nothing", "invalid_request_error", "not_found", 404}, {"/v1/models", "invalid_request_error", "method_not_allowed", 405}};
    for (size_t i = 0; i < sizeof openai / sizeof *openai; i++) {
        r = ask("POST", openai[i].path, "", "");
        assert_int_equal(r.code, openai[i].status);
        assert_string_equal(str(&r, "error.type"), openai[i].type);
        assert_string_equal(str(&r, "error.code"), openai[i].code);
        reply_free(&r);
    }
}

// What Ollama does with models of its own keeping is said to be not there, by every method.
static void test_unmanaged(void **state) {
    (void)state;
    static const struct { const char *method, *path; } cases[] = {
        {"POST", "/api/pull"}, {"POST", "/api/push"}, {"POST", "/api/create"}, {"POST", "/api/copy"}, {"DELETE", "/api/delete"}, {"POST", "/api/blobs/sha256:0a"},
        {"GET", "/api/blobs/sha256:0a"}, {"PUT", "/api/copy"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        reply r = ask(cases[i].method, cases[i].path, "", "{\"model\":\"fake\"}");
        expect_shape(&r, 'L', 501, cases[i].path);
        assert_non_null(strstr(str(&r, "error"), "models folder"));
        reply_free(&r);
    }
}

// A file that can never be served is a 503 that nobody is told to try again; one that may still be on its way is.
static void test_broken_models(void **state) {
    (void)state;
    static const char *const paths[] = {CHAT, "/v1/messages", "/api/chat", "/v1/embeddings"};
    static const struct { const char *model, *text; bool broken; } cases[] = {{"partial", "x", false}, {"broken", "x", true}, {"fake", "FAILEARLY FOREVER", true}};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        for (int k = 0; k < (i < 3 ? 3 : 2); k++) {
            const bool broken = cases[k].broken;
            char body[200];
            snprintf(body, sizeof body, "{\"model\":\"%s\",\"max_tokens\":1,\"stream\":false,\"input\":\"x\",\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
                     cases[k].model, cases[k].text);
            reply r = ask("POST", paths[i], "", body);
            assert_int_equal(r.code, 503);
            if (i < 2) assert_string_equal(str(&r, "error.type"), broken ? i ? "api_error" : "server_error" : i ? "overloaded_error" : "service_unavailable");
            assert_non_null(strstr(r.body, "it ends early"));
            assert_string_equal(field_of(&r, "Retry-After"), broken ? "" : "5");
            assert_string_equal(field_of(&r, "X-Should-Retry"), broken ? "false" : "");
            reply_free(&r);
        }
}

static void expect_message_error(const char *path, const char *message, int code, const char *param) {
    char body[400], want[100];
    snprintf(body, sizeof body, "{\"model\":\"fake\",\"max_tokens\":1,\"stream\":false,\"messages\":[{\"role\":\"user\",\"content\":\"x\"},%s]}", message);
    reply r = ask("POST", path, "", body);
    if (r.code != code) fail_msg("%s %s: %d, not %d: %s", path, message, r.code, code, r.body);
    snprintf(want, sizeof want, "messages[1].%s must ", param);
    if (code != 200 && !strstr(r.body, want)) fail_msg("no \"%s\" in %s", want, r.body);
    reply_free(&r);
}

static void test_messages(void **state) {
    (void)state;
    static const char *const paths[] = {CHAT, "/apply-template", "/v1/messages", "/api/chat"};
    static const struct { const char *role; int code[4]; } roles[] = {
        {"system", {200, 200, 200, 200}}, {"user", {200, 200, 200, 200}}, {"assistant", {200, 200, 200, 200}},
        {"developer", {200, 200, 400, 400}}, {"tool", {200, 200, 400, 200}}, {"function", {200, 200, 400, 400}},
        {"human", {400, 400, 400, 400}}, {"User", {400, 400, 400, 400}}, {"", {400, 400, 400, 400}}, {"user ", {400, 400, 400, 400}}};
    char message[200];
    for (int p = 0; p < 4; p++) {
        for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
            snprintf(message, sizeof message, "{\"role\":\"%s\",\"content\":\"x\"}", roles[i].role);
            expect_message_error(paths[p], message, roles[i].code[p], "role");
        }
        expect_message_error(paths[p], "{\"role\":\"user\",\"content\":[]}", 400, "content");
        expect_message_error(paths[p], "{\"role\":\"assistant\",\"content\":[],\"tool_calls\":[{\"function\":{}}]}", 200, "content"); // its calls are what it says
        expect_message_error(paths[p], "{\"role\":\"user\",\"content\":\"\"}", 200, "content");
    }
    reply r = ask("POST", CHAT, "", "{\"messages\":[{\"role\":\"human\",\"content\":\"x\"}]}");
    assert_string_equal(str(&r, "error.message"), "messages[0].role must be one of system, developer, user, assistant, tool, function, not \"human\"");
    assert_string_equal(str(&r, "error.param"), "messages[0].role");
    reply_free(&r);
}

// The conversation that a body brings about, as templates get it.
static json_t *template_input(const char *path, const char *body) {
    reply r = ask("POST", path, "", body);
    if (r.code != 200) fail_msg("%s: %d: %s", body, r.code, r.body);
    reply_free(&r);
    return json_loads(seen_chat, 0, NULL);
}

// How the prompt ends: a new turn of the assistant's (B), the last message going on (C), neither (E); how many messages there are.
static void expect_ending(const char *path, const char *rest, const char *messages, char ending, size_t n) {
    char body[500];
    snprintf(body, sizeof body, "{\"model\":\"fake\",\"max_tokens\":1,%s\"messages\":[{\"role\":\"user\",\"content\":\"x\"}%s]}", rest, messages);
    json_t *input = template_input(path, body);
    if (json_is_true(at(input, "add_generation_prompt")) != (ending == 'B') || json_is_true(at(input, "continue_final_message")) != (ending == 'C') ||
        json_array_size(at(input, "messages")) != n)
        fail_msg("%s: not %c: %s", body, ending, seen_chat);
    json_decref(input);
}

static void test_endings(void **state) {
    (void)state;
#define ANSWER(text) ",{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define ON "\"continue_final_message\":true,"
    expect_ending("/v1/messages", "", "", 'B', 1);
    expect_ending("/v1/messages", "\"system\":\"s\",", ANSWER("so"), 'C', 3);
    expect_ending("/v1/messages", "\"stream\":true,", ",{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"a \"},{\"type\":\"text\",\"text\":\" b\"}]}", 'C', 2);
    expect_ending("/v1/messages", "", ANSWER("so ") ",{\"role\":\"user\",\"content\":\"y \"}", 'B', 3); // only the last one is looked at
    expect_ending("/v1/messages", "", ANSWER(""), 'B', 1);
    expect_ending("/api/chat", "", "", 'B', 1);
    expect_ending("/api/chat", "\"stream\":false,", ANSWER("so "), 'C', 2); // as Ollama's templates have it
    expect_ending("/api/chat", "", ANSWER(""), 'B', 1);
    expect_ending("/api/chat", "", ANSWER("so") ",{\"role\":\"user\",\"content\":\"y\"}", 'B', 3);
    expect_ending("/api/chat", "", ",{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{}}]}", 'B', 2); // a call is no beginning
    expect_ending(CHAT, "", ANSWER("so"), 'B', 2);
    expect_ending(CHAT, "\"add_generation_prompt\":true,\"continue_final_message\":false,", ANSWER("so"), 'B', 2);
    expect_ending(CHAT, "\"add_generation_prompt\":false,", ANSWER("so"), 'E', 2);
    expect_ending(CHAT, ON, ANSWER("so "), 'C', 2);
    expect_ending(CHAT, ON "\"add_generation_prompt\":false,", "", 'C', 1);
    expect_ending(CHAT, ON "\"add_generation_prompt\":false,", ANSWER(""), 'B', 1);
    expect_ending(CHAT, "\"chat_template_kwargs\":{\"continue_final_message\":true,\"add_generation_prompt\":false},", ANSWER("so"), 'B', 2);
    expect_error(CHAT, "{" HELLO ",\"continue_final_message\":true,\"add_generation_prompt\":true}", 400, "continue_final_message");
    expect_error(CHAT, "{" HELLO ",\"continue_final_message\":1}", 400, "continue_final_message");
    expect_error(CHAT, "{" HELLO ",\"add_generation_prompt\":\"no\"}", 400, "add_generation_prompt");
    expect_error(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"\"}],\"continue_final_message\":true}", 400, "messages[0].content");
    static const char *const spaces[] = {"so ", "so\\n", "so\\t", " "};
    static const char *const paths[] = {"/v1/messages", "/v1/messages/count_tokens"};
    for (int p = 0; p < 2; p++)
        for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
            char body[300];
            snprintf(body, sizeof body, "{\"model\":\"fake\",\"max_tokens\":1,\"system\":\"s\","
                     "\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"%s\"}]}", spaces[i]);
            reply r = ask("POST", paths[p], "", body);
            assert_int_equal(r.code, 400);
            assert_non_null(strstr(str(&r, "error.message"), "messages[1].content: "));
            assert_non_null(strstr(str(&r, "error.message"), "must not end in white space"));
            reply_free(&r);
        }
    reply r = ask("POST", "/apply-template", "", "{\"messages\":[{\"role\":\"assistant\",\"content\":\"so\"}],\"continue_final_message\":true}");
    assert_non_null(strstr(str(&r, "prompt"), "\"continue_final_message\":true"));
    reply_free(&r);
}

// How much thought is wished for goes to the template by its name, and as its switch where that is none.
static void test_effort(void **state) {
    (void)state;
    static const char *const words[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    char body[300];
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        snprintf(body, sizeof body, "{" HELLO ",\"reasoning_effort\":\"%s\"}", words[i]);
        json_t *input = template_input(CHAT, body);
        assert_string_equal(json_string_value(at(input, "reasoning_effort")), words[i]);
        assert_int_equal(json_is_false(at(input, "enable_thinking")), i < 2);
        assert_int_equal(at(input, "enable_thinking") != NULL, i < 2);
        json_decref(input);
    }
    // What the client says itself counts.
    json_t *input = template_input(CHAT, "{" HELLO ",\"reasoning_effort\":\"none\",\"chat_template_kwargs\":{\"enable_thinking\":true,\"reasoning_effort\":\"own\"}}");
    assert_true(json_is_true(at(input, "enable_thinking")));
    assert_string_equal(json_string_value(at(input, "reasoning_effort")), "own");
    json_decref(input);
    input = template_input(CHAT, "{" HELLO ",\"reasoning_effort\":null}");
    assert_null(at(input, "reasoning_effort"));
    json_decref(input);
    expect_error(CHAT, "{" HELLO ",\"reasoning_effort\":\"much\"}", 400, "reasoning_effort");
    expect_error(CHAT, "{" HELLO ",\"reasoning_effort\":\"\"}", 400, "reasoning_effort");
    expect_error(CHAT, "{" HELLO ",\"reasoning_effort\":3}", 400, "reasoning_effort");
    expect_error("/apply-template", "{" HELLO ",\"reasoning_effort\":\"much\"}", 400, "reasoning_effort");
    expect_error("/apply-template", "{" HELLO ",\"chat_template_kwargs\":3}", 400, "chat_template_kwargs");
    expect_error("/apply-template", "{" HELLO ",\"model\":3}", 400, "model");
}

// Ollama's think: the template's switch, and thoughts apart from the answer unless they are not wanted.
static void test_think(void **state) {
    (void)state;
#define THINKER(rest) "{\"model\":\"thinker\",\"messages\":[{\"role\":\"user\",\"content\":\"THINK\"}],\"options\":{\"num_predict\":3}" rest "}"
    static const struct { const char *think, *effort; int on; } cases[] = {
        {"", NULL, 0}, {",\"think\":null", NULL, 0}, {",\"think\":true", NULL, 1}, {",\"think\":false", NULL, -1},
        {",\"think\":\"low\"", "low", 1}, {",\"think\":\"medium\"", "medium", 1}, {",\"think\":\"high\"", "high", 1}, {",\"think\":\"max\"", "max", 1}};
    char body[400];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int path = 0; path < 2; path++) {
            if (path) snprintf(body, sizeof body, "{\"model\":\"thinker\",\"prompt\":\"THINK\",\"options\":{\"num_predict\":3}%s}", cases[i].think);
            else snprintf(body, sizeof body, THINKER("%s"), cases[i].think);
            json_t *input = template_input(path ? "/api/generate" : "/api/chat", body);
            const json_t *on = at(input, "enable_thinking");
            if (cases[i].on ? !json_is_boolean(on) || json_is_true(on) != (cases[i].on > 0) : on != NULL) fail_msg("%s: %s", body, seen_chat);
            if (cases[i].effort) assert_string_equal(json_string_value(at(input, "reasoning_effort")), cases[i].effort);
            else assert_null(at(input, "reasoning_effort"));
            assert_int_equal(seen.reasoning, cases[i].on >= 0);
            json_decref(input);
        }
    reply r = ask("POST", "/api/chat", "", THINKER(",\"think\":true"));
    assert_non_null(strstr(r.body, "\"message\":{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"w0.0\xC3\xA9 \"},\"done\":false}\n"));
    assert_non_null(strstr(r.body, "\"message\":{\"role\":\"assistant\",\"content\":\"w0.1\xC3\xA9 \",\"thinking\":\"so\"},\"done\":false}\n"));
    assert_non_null(strstr(r.body, "\"message\":{\"role\":\"assistant\",\"content\":\"w0.2\xC3\xA9 \"},\"done\":false}\n"));
    reply_free(&r);
    r = ask("POST", "/api/chat", "", THINKER(",\"stream\":false"));
    assert_string_equal(str(&r, "message.thinking"), "w0.0\xC3\xA9 so");
    assert_string_equal(str(&r, "message.content"), "w0.1\xC3\xA9 w0.2\xC3\xA9 ");
    reply_free(&r);
    r = ask("POST", "/api/generate", "", "{\"model\":\"thinker\",\"prompt\":\"THINK\",\"options\":{\"num_predict\":3},\"stream\":false}");
    assert_string_equal(str(&r, "thinking"), "w0.0\xC3\xA9 so");
    reply_free(&r);
    r = ask("POST", "/api/chat", "", THINKER(",\"think\":false,\"stream\":false"));
    assert_null(at(r.json, "message.thinking"));
    reply_free(&r);
    r = ask("POST", "/api/show", "", "{\"model\":\"thinker\"}");
    assert_string_equal(str(&r, "capabilities.1"), "thinking");
    reply_free(&r);
    static const struct { const char *body, *says; } wrong[] = {
        {"{\"model\":\"fake\"," HELLO ",\"think\":true}", "\"fake\" does not support thinking"},
        {"{\"model\":\"fake\"," HELLO ",\"think\":\"low\"}", "\"fake\" does not support thinking"},
        {THINKER(",\"think\":\"much\""), "think must be true, false, low, medium, high or max, not \"much\""},
        {THINKER(",\"think\":1"), "think must be a boolean, or one of low, medium, high and max, not an integer"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        r = ask("POST", "/api/chat", "", wrong[i].body);
        assert_int_equal(r.code, 400);
        assert_string_equal(str(&r, "error"), wrong[i].says);
        reply_free(&r);
    }
    r = ask("POST", "/api/chat", "", "{\"model\":\"fake\"," HELLO ",\"think\":false}"); // asks for what is so anyway
    assert_int_equal(r.code, 200);
    reply_free(&r);
    // Earlier thoughts, by the name that templates know.
    json_t *input = template_input("/api/chat", "{\"model\":\"thinker\",\"messages\":[{\"role\":\"assistant\",\"content\":\"a\",\"thinking\":\"so\"},"
                                   "{\"role\":\"user\",\"content\":\"x\"}]}");
    assert_string_equal(json_string_value(at(input, "messages.0.reasoning_content")), "so");
    json_decref(input);
    input = template_input("/v1/messages", "{\"model\":\"thinker\",\"max_tokens\":1,\"thinking\":{\"type\":\"disabled\"}," HELLO "}");
    assert_true(json_is_false(at(input, "enable_thinking")));
    json_decref(input);
    input = template_input("/v1/messages", "{\"model\":\"thinker\",\"max_tokens\":1," HELLO "}");
    assert_null(at(input, "enable_thinking"));
    json_decref(input);
#undef THINKER
}

static void test_text_routes(void **state) {
    (void)state;
    reply r = ask("POST", "/tokenize", "", "{\"content\":\"hi\",\"add_special\":true}");
    assert_string_equal(r.body, "{\"tokens\":[1,104,105],\"count\":3}");
    reply_free(&r);
    r = ask("POST", "/tokenize", "", "{\"content\":\"\\u00e9\",\"with_pieces\":true}");
    assert_int_equal(json_integer_value(at(r.json, "tokens.0.piece.0")), 0xC3);
    reply_free(&r);
    r = ask("POST", "/detokenize", "", "{\"tokens\":[104,105]}");
    assert_string_equal(r.body, "{\"content\":\"hi\"}");
    reply_free(&r);
    r = ask("POST", "/apply-template", "", "{" HELLO "}");
    assert_non_null(strstr(str(&r, "prompt"), "hello"));
    reply_free(&r);
    r = ask("POST", "/completion", "", "{\"prompt\":\"abc\",\"n_predict\":2,\"cache_prompt\":true,\"n_probs\":0}");
    assert_string_equal(str(&r, "content"), "w0.0\xC3\xA9 w0.1\xC3\xA9 ");
    assert_string_equal(str(&r, "stop_type"), "limit");
    assert_true(json_is_true(at(r.json, "stop")));
    reply_free(&r);
    r = ask("POST", "/completion", "", "{\"prompt\":\"abc\",\"n_predict\":-1,\"stream\":true}");
    assert_int_equal(seen.max_tokens, 0);
    assert_non_null(strstr(r.body, "data: {\"index\":0,\"content\":\"w0.4\xC3\xA9 \",\"tokens\":[4],\"stop\":false"));
    assert_non_null(strstr(r.body, "\"stop\":true"));
    reply_free(&r);
    expect_error("/completion", "{\"prompt\":[\"a\",\"b\"]}", 400, "prompt");
    expect_error("/completion", "{\"prompt\":\"a\",\"n_probs\":3}", 400, "n_probs");
    expect_error("/completion", "{\"prompt\":\"a\",\"n_predict\":0}", 400, "n_predict");
    static const char *const of_prompts[] = {"tools", "functions", "chat_template"}; // what would be in the prompt is not left out of it
    for (size_t i = 0; i < sizeof of_prompts / sizeof *of_prompts; i++) {
        char body[200];
        snprintf(body, sizeof body, "{" HELLO ",\"%s\":[1]}", of_prompts[i]);
        expect_error("/apply-template", body, 400, of_prompts[i]);
    }
    expect_error("/completion", "{\"prompt\":\"a\",\"grammar\":\"x\"}", 400, "grammar");
    r = ask("GET", "/slots", "", "");
    assert_string_equal(r.body, "[]");
    reply_free(&r);
    r = ask("GET", "/props", "", "");
    assert_int_equal(json_integer_value(at(r.json, "default_generation_settings.n_ctx")), 4096);
    reply_free(&r);
}

// A line a request, without its text; why its prompt was computed, with it, only where that was asked of the log.
static pthread_mutex_t logged_lock = PTHREAD_MUTEX_INITIALIZER;
static char logged[8192];
static void keep_line(void *ctx, const char *line, size_t len) {
    (void)ctx;
    pthread_mutex_lock(&logged_lock);
    size_t at = strlen(logged), n = len < sizeof logged - 1 - at ? len : sizeof logged - 1 - at;
    memcpy(logged + at, line, n);
    logged[at + n] = 0;
    pthread_mutex_unlock(&logged_lock);
}

// What was logged since; the connection's own line may still come.
static const char *taken_lines(void) {
    static char lines[sizeof logged];
    pthread_mutex_lock(&logged_lock);
    memcpy(lines, logged, sizeof lines);
    logged[0] = 0;
    pthread_mutex_unlock(&logged_lock);
    return lines;
}

static void test_log(void **state) {
    (void)state;
    const obs_level before = obs_get_level();
    obs_set_sink(keep_line, NULL);
    for (int debug = 0; debug < 2; debug++) {
        obs_set_level(debug ? OBS_DEBUG : OBS_INFO);
        taken_lines();
        reply r = ask("POST", "/v1/chat/completions", "X-Request-Id: log-me\r\n",
                      "{\"model\":\"fake\",\"messages\":[{\"role\":\"user\",\"content\":\"a secret\"}],\"max_tokens\":2}");
        assert_int_equal(r.code, 200); // the line is written before the answer is
        const char *lines = taken_lines();
        assert_non_null(strstr(lines, "POST /v1/chat/completions of anonymous: fake, "));
        assert_non_null(strstr(lines, " written, length; waited "));
        assert_non_null(strstr(lines, " (log-me)"));
        assert_null(strstr(lines, "secret"));
        assert_null(r.json ? json_object_get(r.json, "altiserve") : NULL); // the client did not ask
        const char *why = "36 of 100 tokens computed: differs from token 70 on: \"her \"cat\"\", and earlier \"his dog\"";
        assert_int_equal(strstr(lines, why) != NULL, debug);
        reply_free(&r);
        r = ask("POST", "/v1/chat/completions", "X-Request-Id: log-me\r\n", "{\"model\":\"none\"," HELLO "}");
        lines = taken_lines();
        assert_int_equal(strstr(lines, "(log-me): 404: there is no model") != NULL, debug);
        reply_free(&r);
        r = ask("POST", "/api/pull", "X-Request-Id: log-me\r\n", "{\"model\":\"fake\"}"); // what is not built is the client's to know
        lines = taken_lines();
        assert_int_equal(strstr(lines, "(log-me): 501: ") != NULL, debug);
        reply_free(&r);
        r = ask("POST", "/v1/completions", "", "{\"prompt\":\"BUSY\"}");
        bool told = false; // a moment after the answer
        for (int64_t until = client_now() + 5000; !told && client_now() < until;) told = strstr(taken_lines(), " 0 written, refused; ") != NULL;
        assert_true(told);
        reply_free(&r);
    }
    obs_set_sink(NULL, NULL);
    obs_set_level(before);
}

static void test_other_dialects(void **state) {
    (void)state;
    reply r = ask("POST", "/api/chat", "", "{\"model\":\"fake:latest\"," HELLO ",\"stream\":false,\"options\":{\"num_predict\":2,\"temperature\":0}}");
    assert_string_equal(str(&r, "message.content"), "w0.0\xC3\xA9 w0.1\xC3\xA9 ");
    assert_true(json_is_true(at(r.json, "done")));
    assert_int_equal(json_integer_value(at(r.json, "load_duration")), 500000000);
    assert_int_equal(seen.given, SAMPLING_TEMPERATURE);
    reply_free(&r);
    r = ask("POST", "/api/generate", "", "{\"model\":\"fake\",\"prompt\":\"x\",\"system\":\"be kind\"}");
    assert_non_null(strstr(r.head, "application/x-ndjson"));
    assert_non_null(strstr(seen_chat, "be kind"));
    int lines = 0;
    for (char *p = r.body, *e; (e = strchr(p, '\n')); p = e + 1, lines++) {
        json_t *v = json_loadb(p, (size_t)(e - p), 0, NULL);
        assert_non_null(v);
        assert_int_equal(json_is_true(json_object_get(v, "done")), e[1] == 0);
        json_decref(v);
    }
    assert_int_equal(lines, 6);
    reply_free(&r);
    r = ask("POST", "/api/chat", "", "{\"model\":\"fake\"," HELLO ",\"format\":\"json\"}");
    assert_int_equal(r.code, 400);
    str(&r, "error");
    reply_free(&r);
    r = ask("POST", "/api/chat", "", "{\"model\":\"fake\",\"messages\":[{\"role\":\"user\",\"content\":\"what is this?\",\"images\":[\"aGk=\"]}]}");
    assert_int_equal(r.code, 400);
    assert_non_null(strstr(str(&r, "error"), "messages[0].images"));
    reply_free(&r);
    r = ask("POST", "/api/chat", "", "{\"model\":\"fake\",\"stream\":false,"
            "\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"images\":[],\"audio\":null,\"function_call\":null}]}");
    assert_int_equal(r.code, 200);
    reply_free(&r);
    r = ask("POST", "/v1/messages", "", "{\"model\":\"fake\",\"max_tokens\":2,\"system\":\"s\"," HELLO "}");
    assert_string_equal(str(&r, "content.0.text"), "w0.0\xC3\xA9 w0.1\xC3\xA9 ");
    assert_string_equal(str(&r, "stop_reason"), "max_tokens");
    assert_int_equal(json_integer_value(at(r.json, "usage.input_tokens")), 4);
    reply_free(&r);
    r = ask("POST", "/v1/messages", "", "{\"model\":\"fake\",\"max_tokens\":2,\"stream\":true," HELLO "}");
    const char *order[] = {"event: message_start", "event: content_block_start", "event: content_block_delta",
                           "event: content_block_stop", "event: message_delta", "event: message_stop"};
    char *p = r.body;
    for (int i = 0; i < 6; i++) assert_non_null(p = strstr(p, order[i]));
    const char *end = strstr(r.body, "event: message_delta"); // a stream that began before its prompt was counted says here what it took
    assert_non_null(strstr(end, "\"usage\":{\"input_tokens\":4,\"cache_read_input_tokens\":3,\"cache_creation_input_tokens\":0,\"output_tokens\":2}"));
    reply_free(&r);
    static const char *const formats[] = {"\"output_config\":{\"format\":{\"type\":\"json_schema\"}}", "\"output_format\":{\"type\":\"json_schema\"}"};
    for (int i = 0; i < 2; i++) {
        char body[300];
        snprintf(body, sizeof body, "{\"model\":\"fake\",\"max_tokens\":2,%s," HELLO "}", formats[i]);
        r = ask("POST", "/v1/messages", "", body);
        assert_int_equal(r.code, 400);
        assert_non_null(strstr(str(&r, "error.message"), "not built"));
        reply_free(&r);
    }
    r = ask("POST", "/v1/messages", "", "{\"model\":\"fake\",\"max_tokens\":2,\"output_config\":{\"effort\":\"low\",\"format\":null}," HELLO "}");
    assert_int_equal(r.code, 200);
    reply_free(&r);
    r = ask("POST", "/v1/messages", "", "{\"model\":\"fake\",\"max_tokens\":2,\"output_config\":\"low\"," HELLO "}");
    assert_int_equal(r.code, 400);
    assert_string_equal(str(&r, "error.message"), "output_config must be an object, not a string");
    reply_free(&r);
    r = ask("POST", "/v1/messages", "", "{\"model\":\"fake\"," HELLO "}");
    assert_int_equal(r.code, 400);
    assert_string_equal(str(&r, "type"), "error");
    reply_free(&r);
    r = ask("POST", "/v1/messages/count_tokens", "", "{\"model\":\"fake\"," HELLO "}");
    assert_true(json_integer_value(at(r.json, "input_tokens")) > 1000); // as the engine takes conversations, not their text
    reply_free(&r);
}

// What ended an answer, where the dialect says so.
static void test_stop_strings(void **state) {
    (void)state;
    static const struct { const char *prompt, *stops, *reason, *sequence, *type, *word; } cases[] = {
        {"STOPPED", "[\"zz\",\"a\\\"b\"]", "stop_sequence", "\"a\\\"b\"", "word", "\"a\\\"b\""},
        {"x", "[\"zz\"]", "max_tokens", "null", "limit", "\"\""}, {"STOPPED", "[]", "end_turn", "null", "eos", "\"\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int stream = 0; stream < 2; stream++) {
            char body[300], want[200];
            snprintf(body, sizeof body, "{\"model\":\"fake\",\"max_tokens\":2,\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"stop_sequences\":%s}",
                     stream ? "true" : "false", cases[i].prompt, cases[i].stops);
            snprintf(want, sizeof want, "\"stop_reason\":\"%s\",\"stop_sequence\":%s", cases[i].reason, cases[i].sequence);
            reply r = ask("POST", "/v1/messages", "", body);
            if (!strstr(r.body, want)) fail_msg("no %s in %s", want, r.body);
            if (stream) assert_non_null(strstr(r.body, "\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\""));
            reply_free(&r);
            snprintf(body, sizeof body, "{\"n_predict\":2,\"stream\":%s,\"prompt\":\"%s\",\"stop\":%s}", stream ? "true" : "false", cases[i].prompt, cases[i].stops);
            snprintf(want, sizeof want, "\"stop_type\":\"%s\",\"stopping_word\":%s,", cases[i].type, cases[i].word);
            r = ask("POST", "/completion", "", body);
            if (!strstr(r.body, want)) fail_msg("no %s in %s", want, r.body);
            reply_free(&r);
        }
    expect_error(CHAT, "{" HELLO ",\"stop\":[\"a\",\"\"]}", 400, "stop");
    reply r = ask("POST", "/v1/messages", "", "{\"model\":\"fake\",\"max_tokens\":2," HELLO ",\"stop_sequences\":[\"\"]}");
    assert_string_equal(str(&r, "error.message"), "stop_sequences: a stop string must have 1 to 4,096 bytes");
    reply_free(&r);
}

static void test_half_closed(void **state) {
    (void)state;
    client c = client_open(port, 0); // a client that says all it has to say and closes its side (nc -N) is answered where that takes no time
    client_say(&c, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    shutdown(c.fd, SHUT_WR);
    assert_true(client_read_until(&c, "\"ok\"", 1, 5000));
    client_close(&c);
}

static bool wait_live(int n) {
    int64_t until = client_now() + 5000;
    while (atomic_load(&live) != n) {
        if (client_now() > until) return false;
        usleep(1000);
    }
    return true;
}

static void test_leaving(void **state) {
    (void)state;
    const char *bodies[] = {"{\"messages\":[{\"role\":\"user\",\"content\":\"SLOW\"}],\"stream\":true}", "{\"messages\":[{\"role\":\"user\",\"content\":\"SLOW\"}]}",
                            "{\"messages\":[{\"role\":\"user\",\"content\":\"HANG\"}],\"stream\":true,\"n\":2}", "{\"messages\":[{\"role\":\"user\",\"content\":\"HANG\"}]}"};
    for (int i = 0; i < 4; i++) {
        client c = client_open(port, 0);
        send_request(&c, "POST", CHAT, "", bodies[i], strlen(bodies[i]));
        if (i == 0) assert_true(client_read_until(&c, "w0.3", 1, 5000));
        assert_true(wait_live(1));
        reply m = ask("GET", "/metrics", "", "");
        assert_non_null(strstr(m.body, "\nvllm:num_requests_running{model_name=\"fake\"} 1\n"));
        assert_non_null(strstr(m.body, "\nvllm:kv_cache_usage_perc{model_name=\"fake\"} 0.5\n"));
        reply_free(&m);
        client_close(&c);
        assert_true(wait_live(0));
    }
    bool counted = false; // a moment after the engine is rid of it
    for (int64_t until = client_now() + 5000; !counted && client_now() < until;) {
        reply m = ask("GET", "/metrics", "", "");
        counted = strstr(m.body, "vllm:request_success_total{model_name=\"fake\",finished_reason=\"abort\"} 4\n");
        reply_free(&m);
    }
    if (!counted) { reply m = ask("GET", "/metrics", "", ""); fail_msg("%s", strstr(m.body, "vllm:request_success")); }
}

static atomic_int values; // blocks that jansson holds
static void *value_alloc(size_t n) {
    atomic_fetch_add(&values, 1);
    return malloc(n);
}
static void value_free(void *p) {
    if (p) atomic_fetch_sub(&values, 1);
    free(p);
}

enum { JUNK = 5000 };
static void expect_dropped(const char *path, const strbuf *body, int requests) {
    int before = atomic_load(&values);
    client c = client_open(port, 0);
    send_request(&c, "POST", path, "", body->data, body->len);
    assert_true(wait_live(requests));
    for (int64_t until = client_now() + 5000; atomic_load(&values) > before + JUNK / 10; usleep(1000))
        if (client_now() > until) fail_msg("%s keeps %d blocks of its body", path, atomic_load(&values) - before);
    client_close(&c);
    assert_true(wait_live(0));
}

// While an answer is awaited nothing is kept of a body but what is still to be submitted or to be said again.
static void test_bodies_go(void **state) {
    (void)state;
#define EIGHT "\"HANG\",\"HANG\",\"HANG\",\"HANG\",\"HANG\",\"HANG\",\"HANG\",\"HANG\","
    static const struct { const char *path, *begin, *end; } cases[] = {
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"HANG\"}],\"stream\":true", "}"}, {"/v1/completions", "{\"prompt\":\"HANG\",\"stream\":true", "}"},
        {"/completion", "{\"prompt\":\"HANG\"", "}"}, {"/v1/messages", "{\"messages\":[{\"role\":\"user\",\"content\":\"HANG\"}],\"max_tokens\":5", "}"},
        {"/api/chat", "{\"model\":\"fake\",\"messages\":[{\"role\":\"user\",\"content\":\"HANG\"}]", "}"},
        {"/api/generate", "{\"model\":\"fake\",\"prompt\":\"HANG\",\"raw\":true", "}"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":[" EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT "\"one more\"]", "}"},
        {"/api/embeddings", "{\"model\":\"encoder\",\"prompt\":\"HANG\"", "}"},
        {"/v1/rerank", "{\"model\":\"ranker\",\"query\":\"q\",\"return_documents\":true,\"documents\":[{\"text\":\"HANG\"", "}]}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        strbuf body = {0};
        strbuf_addf(&body, "%s,\"unheard_of\":[{}", cases[i].begin);
        for (int k = 1; k < JUNK; k++) strbuf_adds(&body, ",{}");
        strbuf_addf(&body, "]%s", cases[i].end);
        expect_dropped(cases[i].path, &body, strstr(body.data, EIGHT) ? 64 : 1); // as many as are submitted at once
        strbuf_free(&body);
    }
    strbuf ids = {0};
    strbuf_adds(&ids, "{\"model\":\"encoder\",\"input\":[255");
    for (int k = 1; k < JUNK; k++) strbuf_adds(&ids, ",7");
    strbuf_adds(&ids, "]}");
    expect_dropped("/v1/embeddings", &ids, 1);
    strbuf_free(&ids);
}

static void test_keepalive(void **state) {
    (void)state;
    const char *paths[] = {CHAT, "/v1/messages"}, *texts[] = {": keep-alive\n\n", "event: ping\n"};
    for (int i = 0; i < 2; i++) { // no token for ever: the stream begins all the same, and is kept alive
        client c = client_open(port, 0);
        const char *body = "{\"messages\":[{\"role\":\"user\",\"content\":\"HANG\"}],\"stream\":true,\"max_tokens\":5}";
        send_request(&c, "POST", paths[i], "", body, strlen(body));
        assert_true(client_read_until(&c, "HTTP/1.1 200", 1, 5000));
        assert_true(client_read_until(&c, texts[i], 2, 5000));
        client_close(&c);
        assert_true(wait_live(0));
    }
}

static int blocked_now(void) {
    pthread_mutex_lock(&gate);
    int n = blocked;
    pthread_mutex_unlock(&gate);
    return n;
}

static void test_long_prompts(void **state) {
    (void)state;
    const char *slow = "{\"messages\":[{\"role\":\"user\",\"content\":\"SLOW\"}],\"stream\":true}", *block = "{\"prompt\":\"BLOCK\",\"max_tokens\":1}";
    client stream = client_open(port, 0), c[6];
    send_request(&stream, "POST", CHAT, "", slow, strlen(slow));
    assert_true(client_read_until(&stream, "w0.1", 1, 5000));
    for (int i = 0; i < 6; i++) {
        c[i] = client_open(port, 0);
        send_request(&c[i], "POST", "/v1/completions", "", block, strlen(block));
    }
    for (int64_t until = client_now() + 5000; blocked_now() < 2;) assert_true(client_now() < until);
    size_t before = stream.len; // every thread that may tokenize does; the stream and the small routes go on
    char later[32];
    while (client_pull(&stream)) {}
    snprintf(later, sizeof later, "w0.%d\xC3", (int)(before / 100 + 200));
    assert_true(client_read_until(&stream, later, 1, 20000));
    reply r = ask("GET", "/health", "", "");
    assert_int_equal(r.code, 200);
    reply_free(&r);
    assert_int_equal(blocked_now(), 2);
    for (int i = 0; i < 6; i++)
        for (int64_t until = client_now() + 10000; !client_read_until(&c[i], "w0.0", 1, 1);) {
            assert_true(client_now() < until);
            pthread_mutex_lock(&gate); // those that come later stop there too
            blocked = 0;
            pthread_cond_broadcast(&gate_opens);
            pthread_mutex_unlock(&gate);
        }
    for (int i = 0; i < 6; i++) client_close(&c[i]);
    client_close(&stream);
    assert_true(wait_live(0));
}

static void test_many(void **state) {
    (void)state;
    enum { CLIENTS = 32 };
    const char *body = "{" HELLO ",\"stream\":true,\"max_tokens\":300}";
    client c[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        c[i] = client_open(port, 0);
        send_request(&c[i], "POST", CHAT, "", body, strlen(body));
    }
    for (int i = 0; i < CLIENTS; i++) {
        assert_true(client_read_until(&c[i], NULL, 1, 20000));
        char *p = strstr(c[i].text, "\r\n\r\n") + 4;
        unchunk(p);
        strbuf text = {0}, want = {0};
        char finish[16];
        json_t *usage = NULL;
        gather(p, 0, "choices.0.delta.content", &text, finish, &usage);
        for (int k = 0; k < 300; k++) strbuf_addf(&want, "w0.%d\xC3\xA9 ", k);
        assert_string_equal(text.data, want.data);
        strbuf_free(&text), strbuf_free(&want);
        client_close(&c[i]);
    }
    assert_true(wait_live(0));
}

// The engine is far ahead of the client: events are left with it while much waits to be sent. Then the client takes all, leaves, or takes nothing.
static void test_slow_client(void **state) {
    (void)state;
    enum { WORDS = 20000 };
    const char *body = "{" HELLO ",\"stream\":true,\"max_tokens\":20000}";
    uint16_t outer_port = port;
    api *outer = server, *own;
    for (int how = 0; how < 3; how++) {
        error err;
        api_options o = {.engine = (altiserve *)&own, .workers = 1, .http = {.stall_ms = how == 2 ? 300 : 60000}};
        if (api_start(&o, &own, &err)) fail_msg("%s", err.text);
        server = own, port = api_port(own);
        atomic_store(&texts_taken, 0), atomic_store(&ends, 0);
        double lag = obs_read(OBS_HTTP_CUT, "lag", NULL), stall = obs_read(OBS_HTTP_CUT, "stall", NULL);
        client c = client_open(port, 4096);
        send_request(&c, "POST", CHAT, "", body, strlen(body));
        for (int64_t until = client_now() + 10000; !atomic_load(&ends); usleep(1000)) assert_true(client_now() < until);
        for (int i = 0; i < 2 && how < 2; i++) { // behind the news of the last event in the queue of the one worker, then behind what came while it ran
            reply r = ask("GET", "/metrics", "", "");
            reply_free(&r);
        }
        if (how < 2) assert_in_range(atomic_load(&texts_taken), 1, WORDS / 2);
        if (how == 0) {
            assert_int_equal(atomic_load(&live), 1);
            assert_true(client_read_until(&c, NULL, 1, 20000));
            char *p = strstr(c.text, "\r\n\r\n") + 4;
            unchunk(p);
            assert_non_null(strstr(p, "data: [DONE]"));
            for (int k = 0; k < WORDS; k++) {
                char word[32];
                snprintf(word, sizeof word, "\"w0.%d\xC3\xA9 \"", k);
                if (!(p = strstr(p, word))) fail_msg("no %s", word);
            }
        } else if (how == 1) client_close(&c);
        assert_true(wait_live(0));
        assert_true(obs_read(OBS_HTTP_CUT, "lag", NULL) == lag);
        assert_true(obs_read(OBS_HTTP_CUT, "stall", NULL) == stall + (how == 2));
        client_close(&c);
        api_stop(own, 2000);
        api_free(own);
    }
    server = outer, port = outer_port;
}

// Of a metric of the model, the number.
static double metric(const char *name, const char *labels) {
    char line[200];
    reply m = ask("GET", "/metrics", "", "");
    snprintf(line, sizeof line, "\n%s{%s} ", name, labels);
    const char *found = strstr(m.body, line);
    double value = found ? strtod(found + strlen(line), NULL) : 0;
    reply_free(&m);
    return value;
}

// Times and lengths are those of requests that were computed: neither what was refused nor what was replayed is among them.
static void test_what_is_measured(void **state) {
    (void)state;
    static const char *const names[] = {"vllm:e2e_request_latency_seconds_count", "vllm:request_queue_time_seconds_count",
        "vllm:request_prefill_time_seconds_count", "vllm:request_decode_time_seconds_count", "vllm:request_inference_time_seconds_count",
        "vllm:request_prompt_tokens_count", "vllm:request_generation_tokens_count", "vllm:time_to_first_token_seconds_count",
        "vllm:inter_token_latency_seconds_count", "vllm:prompt_tokens_total", "llamacpp:prompt_tokens_total", "vllm:generation_tokens_total"};
    enum { N = sizeof names / sizeof *names };
    static const char *const nothing[] = {"BUSY", "TOOLONG", "REPLAY"};
    static const double computed[N] = {1, 1, 1, 1, 1, 1, 1, 1, 2, 7, 4, 3}; // seven tokens of the prompt, three of them cached
    double before[N];
    for (int i = 0; i < N; i++) before[i] = metric(names[i], "model_name=\"fake\"");
    for (int k = 0; k < 4; k++) {
        char body[200];
        snprintf(body, sizeof body, "{\"prompt\":[\"%s\",\"%s\"],\"max_tokens\":3}", k < 3 ? nothing[k] : "", k < 3 ? nothing[k] : "");
        if (k == 3) strcpy(body, "{\"prompt\":\"x\",\"max_tokens\":3}");
        reply r = ask("POST", "/v1/completions", "", body);
        assert_int_equal(r.code, k == 0 ? 429 : k == 1 ? 400 : 200);
        reply_free(&r);
        for (int i = 0; i < N; i++)
            if (metric(names[i], "model_name=\"fake\"") - before[i] != (k < 3 ? 0 : computed[i]))
                fail_msg("%s after %s: %g more", names[i], body, metric(names[i], "model_name=\"fake\"") - before[i]);
    }
    // Among the requests that ended are those that the engine took, and no others.
    static const struct { const char *prompt; int code; } fails[] = {{"BUSY", 429}, {"TOOLONG", 400}, {"FAILEARLY", 503}};
    const char *labels = "model_name=\"fake\",finished_reason=\"error\"";
    double ended = metric("vllm:request_success_total", labels);
    for (size_t i = 0; i < sizeof fails / sizeof *fails; i++) {
        char body[100];
        snprintf(body, sizeof body, "{\"prompt\":\"%s\"}", fails[i].prompt);
        reply r = ask("POST", "/v1/completions", "", body);
        assert_int_equal(r.code, fails[i].code);
        reply_free(&r);
    }
    for (int64_t until = client_now() + 5000; metric("vllm:request_success_total", labels) == ended;) assert_true(client_now() < until); // a moment after the answer
    assert_true(metric("vllm:request_success_total", labels) == ended + 1);
    assert_true(metric("vllm:request_success_total", "model_name=\"fake\",finished_reason=\"refused\"") == 0); // the log's word alone
    double embeddings = metric("altiserve_embeddings_total", "model_name=\"encoder\"");
    client c = client_open(port, 0);
    const char *body = "{\"model\":\"encoder\",\"input\":[\"HANG\",\"HANG\"]}";
    send_request(&c, "POST", "/v1/embeddings", "", body, strlen(body));
    assert_true(wait_live(2));
    client_close(&c);
    assert_true(wait_live(0));
    reply r = ask("POST", "/v1/embeddings", "", "{\"model\":\"encoder\",\"input\":\"a\"}");
    reply_free(&r);
    assert_true(metric("altiserve_embeddings_total", "model_name=\"encoder\"") == embeddings + 1);
}

static void test_keys(void **state) {
    (void)state;
    char path[] = "/tmp/altiserve-keys-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    error err;
    api *keyed;
    assert_int_equal(api_start(&(api_options){.engine = (altiserve *)&server, .api_key_file = path}, &keyed, &err), E_INVALID);
    assert_int_equal(write(fd, "# keys\n  secret-1 \nsecret-2\n", 28), 28);
    char comment[3000]; // longer than any line that a reader might expect; its end is part of it
    memset(comment, 'x', sizeof comment);
    comment[0] = '#';
    for (int i = 1022; i < 2900; i++) comment[i] = ' ';
    memcpy(comment + 2900, "not-a-key\n", 10);
    assert_int_equal(write(fd, comment, 2910), 2910);
    assert_int_equal(write(fd, "bad wrong\n", 10), 10);
    assert_int_equal(api_start(&(api_options){.engine = (altiserve *)&server, .api_key_file = path}, &keyed, &err), E_INVALID);
    assert_non_null(strstr(err.text, "line 5:"));
    assert_int_equal(ftruncate(fd, 28 + 2910), 0);
    close(fd);
    assert_int_equal(api_start(&(api_options){.engine = (altiserve *)&server, .api_key_file = path}, &keyed, &err), OK);
    uint16_t keep = port;
    port = api_port(keyed);
    const struct { const char *path, *header; int code; } cases[] = {
        {"/health", "", 200}, {"/", "", 200}, {"/v1/models", "", 401}, {"/metrics", "", 401}, {"/v1/models", "Authorization: Bearer secret-1\r\n", 200},
        {"/v1/models", "Authorization: bearer secret-2\r\n", 200}, {"/v1/models", "x-api-key: secret-2\r\n", 200}, {"/v1/models", "Authorization: Bearer secret\r\n", 401},
        {"/v1/models", "Authorization: Bearer secret-11\r\n", 401}, {"/v1/models", "Authorization: Bearer \r\n", 401}, {"/v1/models", "Authorization: Bearer # keys\r\n", 401},
        {"/v1/models", "Authorization: Bearer not-a-key\r\n", 401},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        reply r = ask("GET", cases[i].path, cases[i].header, "");
        if (r.code != cases[i].code) fail_msg("%s %s: %d", cases[i].path, cases[i].header, r.code);
        reply_free(&r);
    }
    // Who asks whether to send a body is told at once.
    static const struct { const char *start; int code; } asked[] = {{"POST " CHAT, 401}, {"POST /nothing", 404}, {"POST /v1/models", 405}};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        char request[200];
        snprintf(request, sizeof request, "%s HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n", asked[i].start);
        reply r = ask_raw(request);
        if (r.code != asked[i].code) fail_msg("%s: %d", request, r.code);
        str(&r, "error.message");
        reply_free(&r);
    }
    api_stop(keyed, 0);
    api_free(keyed);
    port = keep;
    unlink(path);
    assert_int_equal(api_start(&(api_options){.engine = (altiserve *)&server, .api_key_file = path}, &keyed, &err), E_IO);
    assert_int_equal(api_start(&(api_options){.engine = (altiserve *)&server, .api_key_file = "/"}, &keyed, &err), E_IO); // opens, and cannot be read
}

static void test_no_memory(void **state) {
    (void)state;
    const char *bodies[] = {"{" HELLO ",\"max_tokens\":3,\"n\":2}", "{" HELLO ",\"max_tokens\":3,\"stream\":true}", "{\"messages\":[{\"role\":\"user\",\"content\":5}]}"};
    for (int n = 1; n < 90; n++) {
        client c = client_open(port, 0);
        mem_fail_at(n);
        send_request(&c, "POST", CHAT, "", bodies[n % 3], strlen(bodies[n % 3]));
        assert_true(client_read_until(&c, NULL, 1, 10000)); // an answer or an end, never a hang
        mem_fail_at(0);
        client_close(&c);
    }
    assert_true(wait_live(0));
}

// ---- embeddings and ranking ----------------------------------------------------------------------

static void test_embeddings(void **state) {
    (void)state;
    reply r = post_ok("/v1/embeddings", "{\"model\":\"encoder\",\"input\":\"hello\"}");
    assert_string_equal(str(&r, "object"), "list");
    assert_string_equal(str(&r, "data.0.object"), "embedding");
    assert_string_equal(str(&r, "model"), "encoder");
    assert_int_equal(json_array_size(at(r.json, "data")), 1);
    assert_int_equal(json_array_size(at(r.json, "data.0.embedding")), 4);
    assert_true(num(&r, "data.0.embedding.0") == 5 && num(&r, "data.0.embedding.1") == 'h' && num(&r, "usage.prompt_tokens") == 7 && num(&r, "usage.total_tokens") == 7);
    assert_true(!seen_embed.raw && !seen_embed.truncate && seen_embed.client);
    reply_free(&r);
    r = post_ok("/v1/embeddings", "{\"model\":\"fake\",\"input\":[\"a\",[9,8,7],\"ccc\"]}"); // strings and ids, in order; a model that writes text embeds too
    assert_int_equal(json_array_size(at(r.json, "data")), 3);
    assert_true(num(&r, "data.0.embedding.0") == 1 && num(&r, "data.1.embedding.0") == 3 && num(&r, "data.1.embedding.1") == 9);
    assert_true(num(&r, "data.2.embedding.0") == 3 && num(&r, "data.2.index") == 2);
    assert_true(num(&r, "usage.prompt_tokens") == 21);
    reply_free(&r);
    r = post_ok("/v1/embeddings", "{\"model\":\"encoder\",\"input\":[7,8],\"encoding_format\":\"base64\"}"); // 2, 7, 3, 4
    assert_string_equal(str(&r, "data.0.embedding"), "AAAAQAAA4EAAAEBAAACAQA==");
    reply_free(&r);
    r = post_ok("/v1/embeddings", "{\"model\":\"encoder\",\"input\":[4,3,3],\"dimensions\":2}"); // 3, 4 at unit length
    assert_int_equal(json_array_size(at(r.json, "data.0.embedding")), 2);
    assert_true(fabs(num(&r, "data.0.embedding.0") - 0.6) < 1e-6 && fabs(num(&r, "data.0.embedding.1") - 0.8) < 1e-6);
    reply_free(&r);
    r = post_ok("/api/embed", "{\"model\":\"encoder:latest\",\"input\":[\"ab\",\"TOOLONG\"]}"); // cut, as Ollama does
    assert_true(num(&r, "embeddings.0.0") == 2 && num(&r, "embeddings.1.0") == 7 && num(&r, "prompt_eval_count") == 14 && num(&r, "load_duration") == 250000000);
    assert_string_equal(seen_salt, "");
    reply_free(&r);
    r = post_ok("/v1/embeddings", "{\"model\":\"encoder\",\"input\":\"ab\",\"cache_salt\":\"tenant\",\"priority\":3}");
    assert_string_equal(seen_salt, "tenant");
    assert_int_equal(seen_embed.priority, 3);
    reply_free(&r);
    r = post_ok("/api/embeddings", "{\"model\":\"encoder\",\"prompt\":\"ab\"}");
    assert_true(num(&r, "embedding.0") == 2 && seen_embed.raw);
    reply_free(&r);
    r = post_ok("/api/show", "{\"model\":\"encoder\"}");
    assert_string_equal(str(&r, "capabilities.0"), "embedding");
    reply_free(&r);
    r = ask("GET", "/v1/models/ranker", "", "");
    assert_string_equal(str(&r, "capabilities.0"), "rerank");
    assert_int_equal(json_array_size(at(r.json, "capabilities")), 1);
    reply_free(&r);
    r = ask("GET", "/metrics", "", "");
    assert_non_null(strstr(r.body, "altiserve_embeddings_total{model_name=\"encoder\"} 7"));
    reply_free(&r);
}

// More than are submitted at once, some of them while the queue is full, one where it stays full.
static void test_many_embeddings(void **state) {
    (void)state;
    strbuf body = {0};
    strbuf_adds(&body, "{\"model\":\"encoder\",\"input\":[");
    for (int i = 0; i < 500; i++) strbuf_addf(&body, "%s\"%0*d\"", i ? "," : "", 1 + i % 7, 1);
    strbuf_adds(&body, ",\"HELD\",\"BUSY ONCE\",\"BUSY ALWAYS\"]}");
    refused = false;
    atomic_store(&embedding_most, 0);
    reply r = post_ok("/v1/embeddings", body.data);
    assert_int_equal(json_array_size(at(r.json, "data")), 503);
    for (int i = 0; i < 500; i++) {
        const json_t *x = json_array_get(at(r.json, "data"), (size_t)i);
        assert_true(json_integer_value(json_object_get(x, "index")) == i && json_number_value(at(x, "embedding.0")) == 1 + i % 7);
    }
    assert_true(num(&r, "data.500.embedding.0") == 4 && num(&r, "data.501.embedding.0") == 9 && num(&r, "data.502.embedding.0") == 11);
    assert_true(refused && atomic_load(&embedding_most) <= 64);
    reply_free(&r);
    strbuf_free(&body);
    assert_true(wait_live(0));
}

static void test_ranking(void **state) {
    (void)state;
    static const char *const paths[] = {"/v1/rerank", "/rerank", "/v1/reranking", "/reranking"};
    for (int i = 0; i < 4; i++) {
        reply r = post_ok(paths[i], "{\"model\":\"ranker\",\"query\":\"q\",\"documents\":[\"bb\",{\"text\":\"dddd\"},\"MINUS\",\"aa\"],\"top_n\":3,\"return_documents\":true}");
        assert_int_equal(json_array_size(at(r.json, "results")), 3);
        assert_true(num(&r, "results.0.index") == 1 && num(&r, "results.0.relevance_score") == 4 && num(&r, "results.1.index") == 0 && num(&r, "results.2.index") == 3);
        assert_string_equal(str(&r, "results.0.document.text"), "dddd");
        assert_true(num(&r, "usage.total_tokens") == 28);
        reply_free(&r);
    }
    assert_int_equal(seen_embed.text_len, 1); // the query
    reply r = post_ok("/v1/rerank", "{\"model\":\"ranker\",\"query\":\"q\",\"documents\":[\"bb\",\"MINUS\"]}");
    assert_true(num(&r, "results.1.index") == 1 && num(&r, "results.1.relevance_score") == -5 && !at(r.json, "results.0.document"));
    reply_free(&r);
}

static void test_embedding_refusals(void **state) {
    (void)state;
    static const struct { const char *path, *body; int code; const char *param; } cases[] = {
        {"/v1/embeddings", "{\"model\":\"encoder\"}", 400, "input"}, {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":\"\"}", 400, "input"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":[]}", 400, "input"}, {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":5}", 400, "input"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":[\"a\",\"\"]}", 400, "input[1]"}, {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":[\"a\",5]}", 400, "input[1]"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":[5,\"a\"]}", 400, "input"}, {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":[[1],[]]}", 400, "input[1]"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":[[1],[256]]}", 400, "input[1]"}, {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":[-1]}", 400, "input"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":\"a\",\"dimensions\":0}", 400, "dimensions"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":\"a\",\"dimensions\":5}", 400, "dimensions"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":\"a\",\"dimensions\":\"2\"}", 400, "dimensions"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":\"a\",\"encoding_format\":\"hex\"}", 400, "encoding_format"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":\"a\",\"encoding_format\":1}", 400, "encoding_format"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":\"a\",\"stream\":true}", 400, "stream"},
        {"/v1/embeddings", "{\"model\":\"none\",\"input\":\"a\"}", 404, "model"},
        {"/v1/embeddings", "{\"model\":\"ranker\",\"input\":\"a\"}", 400, "model"}, {"/v1/embeddings", "{\"model\":1,\"input\":\"a\"}", 400, "model"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":\"TOOLONG\"}", 400, "input"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":[\"a\",\"TOOLONG\"]}", 400, "input[1]"},
        {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":\"BUSY\"}", 429, NULL}, {"/v1/embeddings", "{\"model\":\"encoder\",\"input\":[\"a\",\"FAILEARLY\"]}", 503, NULL},
        {"/v1/rerank", "{\"model\":\"encoder\",\"query\":\"q\",\"documents\":[\"a\"]}", 400, "model"},
        {"/v1/rerank", "{\"model\":\"fake\",\"query\":\"q\",\"documents\":[\"a\"]}", 400, "model"},
        {"/v1/rerank", "{\"model\":\"ranker\",\"documents\":[\"a\"]}", 400, "query"}, {"/v1/rerank", "{\"model\":\"ranker\",\"query\":7,\"documents\":[\"a\"]}", 400, "query"},
        {"/v1/rerank", "{\"model\":\"ranker\",\"query\":\"q\"}", 400, "documents"}, {"/v1/rerank", "{\"model\":\"ranker\",\"query\":\"q\",\"documents\":\"a\"}", 400, "documents"},
        {"/v1/rerank", "{\"model\":\"ranker\",\"query\":\"q\",\"documents\":[]}", 400, "documents"},
        {"/v1/rerank", "{\"model\":\"ranker\",\"query\":\"q\",\"documents\":[\"a\",{\"title\":\"b\"}]}", 400, "documents[1]"},
        {"/v1/rerank", "{\"model\":\"ranker\",\"query\":\"q\",\"documents\":[\"a\"],\"top_n\":0}", 400, "top_n"},
        {"/v1/rerank", "{\"model\":\"ranker\",\"query\":\"q\",\"documents\":[\"a\"],\"return_documents\":1}", 400, "return_documents"},
        {"/v1/rerank", "{\"model\":\"ranker\",\"query\":\"q\",\"documents\":[\"TOOLONG\"]}", 400, "documents"},
        {"/v1/chat/completions", "{" HELLO ",\"model\":\"encoder\"}", 400, "model"}, {"/v1/completions", "{\"model\":\"ranker\",\"prompt\":\"a\"}", 400, "model"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect_error(cases[i].path, cases[i].body, cases[i].code, cases[i].param);
    static const struct { const char *path, *body; } ollama[] = {
        {"/api/embed", "{\"model\":\"encoder\"}"}, {"/api/embed", "{\"model\":\"encoder\",\"input\":\"a\",\"truncate\":1}"},
        {"/api/embed", "{\"model\":\"encoder\",\"input\":\"TOOLONG\",\"truncate\":false}"},
        {"/api/embeddings", "{\"model\":\"encoder\"}"}, {"/api/embeddings", "{\"model\":\"encoder\",\"prompt\":[]}"}, {"/api/embed", "{\"model\":\"encoder\",\"input\":[\"\"]}"},
        {"/api/embed", "{\"model\":\"ranker\",\"input\":[]}"}, {"/api/embed", "{\"model\":\"encoder\",\"input\":[],\"dimensions\":5}"},
        {"/api/chat", "{" HELLO ",\"model\":\"encoder\"}"},
    };
    for (size_t i = 0; i < sizeof ollama / sizeof *ollama; i++) {
        reply r = ask("POST", ollama[i].path, "", ollama[i].body);
        if (r.code != 400) fail_msg("%s: %d: %s", ollama[i].body, r.code, r.body);
        str(&r, "error");
        reply_free(&r);
    }
    assert_true(wait_live(0));
}

// Ollama's answer to nothing: no embeddings, and the model is there.
static void test_embedding_nothing(void **state) {
    (void)state;
    static const struct { const char *path, *field, *list; } ways[] = {
        {"/api/embed", "\"input\":\"\"", "embeddings"}, {"/api/embed", "\"input\":[]", "embeddings"}, {"/api/embeddings", "\"prompt\":\"\"", "embedding"}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char body[100];
        atomic_store(&loaded, false);
        snprintf(body, sizeof body, "{\"model\":\"sleeper\",%s}", ways[i].field);
        reply r = post_ok(ways[i].path, body);
        assert_true(json_is_array(at(r.json, ways[i].list)) && !json_array_size(at(r.json, ways[i].list)));
        assert_true(atomic_load(&loaded));
        reply_free(&r);
        atomic_store(&load_fails, true);
        r = ask("POST", ways[i].path, "", body);
        assert_int_equal(r.code, 503);
        reply_free(&r);
        atomic_store(&load_fails, false);
    }
    atomic_store(&loaded, false);
}

// A client that leaves takes all of its requests with it, and those that were not submitted yet.
static void test_embedding_leaver(void **state) {
    (void)state;
    strbuf body = {0};
    strbuf_adds(&body, "{\"model\":\"encoder\",\"input\":[");
    for (int i = 0; i < 200; i++) strbuf_addf(&body, "%s\"HANG\"", i ? "," : "");
    strbuf_adds(&body, "]}");
    int before = atomic_load(&submitted);
    client c = client_open(port, 0);
    send_request(&c, "POST", "/v1/embeddings", "", body.data, body.len);
    assert_true(wait_live(64));
    client_close(&c);
    assert_true(wait_live(0));
    assert_int_equal(atomic_load(&submitted), before + 64);
    strbuf_free(&body);
}

// A request without a prompt loads its model, or lets it go; whoever waits for a load holds no worker.
static void expect_residence(const char *path, const char *body, const char *what) {
    reply r = ask("POST", path, "", body);
    if (r.code != 200) fail_msg("%s %s: %d: %s", path, body, r.code, r.body);
    bool chat = strstr(path, "chat") != NULL;
    assert_string_equal(str(&r, chat ? "message.content" : "response"), "");
    if (chat) assert_string_equal(str(&r, "message.role"), "assistant");
    assert_string_equal(str(&r, "model"), "sleeper");
    assert_string_equal(str(&r, "done_reason"), what);
    assert_true(json_is_true(at(r.json, "done")));
    assert_int_equal(strlen(str(&r, "created_at")), strlen("2024-01-01T00:00:00.123456789Z"));
    assert_int_equal(str(&r, "created_at")[19], '.');
    assert_true(strcmp(str(&r, "created_at"), "2024") > 0);
    assert_int_equal(json_object_size(r.json), 5);
    if (atomic_load(&loaded) != !strcmp(what, "load")) fail_msg("%s %s: not done", path, body);
    reply_free(&r);
}

static void test_residence(void **state) {
    (void)state;
    static const struct { const char *path, *empty[4]; } ways[] = {
        {"/api/generate", {"", ",\"prompt\":\"\"", ",\"prompt\":null", ",\"prompt\":\"\",\"stream\":false,\"raw\":true"}},
        {"/api/chat", {"", ",\"messages\":[]", ",\"messages\":null", ",\"messages\":[],\"stream\":true"}}};
    static const char *const none[] = {"0", "0.0", "\"0\"", "\"0s\"", "\"0h0m0s\""};
    static const char *const some[] = {"null", "-1", "300", "\"5m\"", "\"-1\"", "\"10m\"", "\"0.5s\"", "\"\"", "true"};
    char body[200];
    double requests = obs_read(OBS_REQUESTS_FINISHED, "sleeper", "stop");
    for (int w = 0; w < 2; w++) {
        for (int i = 0; i < 4; i++) {
            snprintf(body, sizeof body, "{\"model\":\"sleeper:latest\"%s}", ways[w].empty[i]);
            expect_residence(ways[w].path, body, "load");
            snprintf(body, sizeof body, "{\"model\":\"sleeper\"%s,\"keep_alive\":0}", ways[w].empty[i]);
            expect_residence(ways[w].path, body, "unload");
        }
        for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
            atomic_store(&loaded, true);
            snprintf(body, sizeof body, "{\"model\":\"sleeper\",\"keep_alive\":%s}", none[i]);
            expect_residence(ways[w].path, body, "unload");
        }
        for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
            atomic_store(&loaded, false);
            snprintf(body, sizeof body, "{\"model\":\"sleeper\",\"keep_alive\":%s}", some[i]);
            expect_residence(ways[w].path, body, "load");
        }
        static const struct { const char *body; int code; } bad[] = {
            {"{\"model\":\"fake\",\"keep_alive\":0}", 409}, {"{\"model\":\"nobody\"}", 404},
            {"{\"model\":\"nobody\",\"keep_alive\":0}", 404}, {"{\"model\":\"sleeper\",\"format\":\"json\"}", 400},
            {"{\"model\":\"sleeper\",\"prompt\":7,\"messages\":{}}", 400}, {"{\"model\":\"encoder\",\"prompt\":\"x\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", 400}};
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            reply r = ask("POST", ways[w].path, "", bad[i].body);
            if (r.code != bad[i].code) fail_msg("%s %s: %d, not %d: %s", ways[w].path, bad[i].body, r.code, bad[i].code, r.body);
            str(&r, "error");
            reply_free(&r);
        }
    }
    atomic_store(&load_fails, true);
    reply failed = ask("POST", "/api/generate", "", "{\"model\":\"sleeper\"}");
    atomic_store(&load_fails, false);
    assert_int_equal(failed.code, 503);
    assert_string_equal(str(&failed, "error"), "it does not fit");
    reply_free(&failed);
    assert_true(obs_read(OBS_REQUESTS_FINISHED, "sleeper", "stop") == requests);

    enum { MANY = 20 }; // far more than there are workers
    client c[MANY];
    atomic_store(&load_slow, true);
    for (int i = 0; i < MANY; i++) {
        c[i] = client_open(port, 0);
        send_request(&c[i], "POST", i % 2 ? "/api/chat" : "/api/generate", "", "{\"model\":\"sleeper\"}", strlen("{\"model\":\"sleeper\"}"));
    }
    assert_true(wait_live(MANY));
    reply r = ask("POST", CHAT, "", "{" HELLO "}"); // others are served
    assert_int_equal(r.code, 200);
    reply_free(&r);
    client_close(&c[0]); // who leaves waits no longer
    assert_true(wait_live(MANY - 1));
    atomic_store(&load_slow, false);
    for (int i = 1; i < MANY; i++) {
        assert_true(client_read_until(&c[i], "\"done_reason\":\"load\"", 1, 10000));
        client_close(&c[i]);
    }
    assert_true(wait_live(0));
}

static void *stopper(void *arg) {
    (void)arg;
    api_stop(server, 3600000);
    return NULL;
}

static void test_stop(void **state) {
    (void)state;
    const char *body = "{\"messages\":[{\"role\":\"user\",\"content\":\"SLOW\"}],\"stream\":true}";
    client c = client_open(port, 0);
    send_request(&c, "POST", CHAT, "", body, strlen(body));
    assert_true(client_read_until(&c, "w0.3", 1, 5000));
    pthread_t t;
    pthread_create(&t, NULL, stopper, NULL);
    assert_true(client_read_until(&c, "w0.20", 1, 10000)); // goes on while stopping
    api_stop(server, 0);                                  // and is cut by the second call
    pthread_join(t, NULL);
    assert_int_equal(atomic_load(&live), 0);
    assert_true(client_read_until(&c, NULL, 1, 5000));
    client_close(&c);
    api_free(server);
    begin(NULL);
}

int main(void) {
    json_set_alloc_funcs(value_alloc, value_free);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_models), cmocka_unit_test(test_whole), cmocka_unit_test(test_completions),
                                       cmocka_unit_test(test_streams), cmocka_unit_test(test_timings), cmocka_unit_test(test_refusals), cmocka_unit_test(test_shapes),
                                       cmocka_unit_test(test_unmanaged), cmocka_unit_test(test_broken_models), cmocka_unit_test(test_messages),
                                       cmocka_unit_test(test_endings), cmocka_unit_test(test_effort), cmocka_unit_test(test_think),
                                       cmocka_unit_test(test_text_routes), cmocka_unit_test(test_other_dialects), cmocka_unit_test(test_log),
                                       cmocka_unit_test(test_residence), cmocka_unit_test(test_stop_strings), cmocka_unit_test(test_leaving),
                                       cmocka_unit_test(test_half_closed), cmocka_unit_test(test_long_prompts), cmocka_unit_test(test_many),
                                       cmocka_unit_test(test_slow_client), cmocka_unit_test(test_keepalive), cmocka_unit_test(test_keys),
                                       cmocka_unit_test(test_embeddings), cmocka_unit_test(test_many_embeddings), cmocka_unit_test(test_ranking),
                                       cmocka_unit_test(test_embedding_refusals), cmocka_unit_test(test_embedding_leaver), cmocka_unit_test(test_embedding_nothing),
                                       cmocka_unit_test(test_bodies_go), cmocka_unit_test(test_what_is_measured), cmocka_unit_test(test_no_memory), cmocka_unit_test(test_stop)};
    return cmocka_run_group_tests(tests, begin, end);
}
