// Owns submitting, the ring of events, cancelling and freeing: the client's side of a request.
#include "engine/eng_request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/mem.h"
#include "base/os.h"
#include "engine/eng_responses.h"
#include "obs/obs.h"

// ---- making one ----------------------------------------------------------------------------------

void eng_event_free(eng_event *e) {
    if (!e) return;
    strbuf_free(&e->text);
    mem_free(e->tokens);
    mem_free(e->logprobs);
    mem_free(e->embedding);
    mem_free(e->spelled);
    mem_free(e);
}

static bool copy_part(void **to, const void *from, size_t bytes, size_t *sum) {
    *to = NULL;
    if (!from || !bytes) return true;
    *sum += bytes;
    if (!(*to = mem_alloc(bytes))) return false;
    memcpy(*to, from, bytes);
    return true;
}

eng_event *eng_event_copy(const eng_event *e, size_t *bytes) {
    eng_event *c = mem_alloc(sizeof *c);
    if (!c) return NULL;
    *c = *e;
    c->next = NULL;
    c->text = (strbuf){0};
    c->spelled = NULL;
    *bytes = sizeof *c + e->text.len;
    size_t n = e->logprobs ? e->n_tokens * (1 + (size_t)e->top) : 0, spelled = 0;
    bool ok = copy_part((void **)&c->tokens, e->tokens, e->n_tokens * sizeof *e->tokens, bytes);
    ok &= copy_part((void **)&c->logprobs, e->logprobs, n * sizeof *e->logprobs, bytes);
    ok &= copy_part((void **)&c->embedding, e->embedding, e->n_embedding * sizeof *e->embedding, bytes);
    strbuf_add(&c->text, e->text.data, e->text.len);
    for (size_t i = 0; i < n; i++) spelled += e->logprobs[i].len;
    if (ok && spelled) ok = (c->spelled = mem_alloc(spelled)) != NULL;
    *bytes += spelled;
    if (!ok || c->text.failed) {
        eng_event_free(c);
        return NULL;
    }
    for (size_t i = 0, at = 0; i < n && c->spelled; at += e->logprobs[i++].len) {
        if (e->logprobs[i].len) memcpy(c->spelled + at, e->logprobs[i].bytes, e->logprobs[i].len);
        c->logprobs[i].bytes = c->spelled + at;
    }
    return c;
}

static void destroy(altiserve_request *r) {
    for (eng_event *e = r->head, *next; e; e = next) {
        next = e->next;
        eng_event_free(e);
    }
    eng_event_free(r->current);
    for (size_t i = 0; i < r->n_stops; i++) mem_free(r->stops[i]);
    eng_responses_forget(r);
    mem_free(r->stops);
    mem_free(r->bias);
    eng_reasoning_free(r->reasoning);
    mem_free(r->prompt);
    eng_file_release(r->file);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->wake);
    mem_free(r);
}

void eng_request_release(altiserve_request *r) {
    if (atomic_fetch_sub(&r->refs, 1) == 1) destroy(r);
}

static status encode_chat(altiserve_request *r, const altiserve_generate *g, tok_ids *out, error *err) {
    chat_spans spans = {0};
    status s = eng_file_render(r->file, g->chat, g->chat_len, &spans, err);
    if (s == OK) s = eng_file_encode(r->file, &spans, out, err);
    if (s == OK && g->reasoning) s = eng_reasoning_create(r->file->tmpl, &spans, r->n, &r->reasoning, err);
    chat_spans_free(&spans);
    return s;
}

status eng_check_ids(const altiserve_request *r, error *err) {
    int32_t vocab = tok_size(r->file->tok);
    for (size_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || (vocab && r->prompt[i] >= vocab))
            return error_set(err, E_INVALID, "token %d (number %zu of the prompt) is not in the vocabulary of %d", r->prompt[i], i, vocab);
    return OK;
}

static status take_prompt(altiserve_request *r, const altiserve_generate *g, error *err) {
    tok_ids ids = {0};
    status s = OK;
    int sources = (g->text != NULL) + (g->tokens != NULL) + (g->chat != NULL);
    if (sources != 1) return error_set(err, E_USAGE, "give exactly one of text, tokens and chat");
    if (g->tokens) {
        for (size_t i = 0; i < g->n_tokens && s == OK; i++)
            if (!tok_ids_push(&ids, g->tokens[i])) s = error_set(err, E_NOMEM, "no memory for %zu tokens", g->n_tokens);
    } else if (g->text) {
        s = tok_encode(r->file->tok, g->text, g->text_len, TOK_ADD_SPECIAL | TOK_PARSE_CONTROL, &ids, err);
    } else {
        s = encode_chat(r, g, &ids, err);
    }
    r->prompt = ids.ids;
    r->n_prompt = ids.count;
    if (s != OK) return s;
    uint32_t context = r->file->info.context;
    if (!r->n_prompt) return error_set(err, E_INVALID, "the prompt is empty");
    if (r->n_prompt >= context) {
        obs_count(OBS_REJECTS, r->file->id, "context", 1);
        return error_set(err, E_INVALID, "the prompt has %zu tokens; the context of %s is %u, and an answer needs at least one", r->n_prompt, r->file->id, context);
    }
    return eng_check_ids(r, err);
}

// The request's own where given, else the file's, which has OpenAI's where it says nothing.
static status take_sampling(altiserve_request *r, const altiserve_generate *g, error *err) {
    const altiserve_sampling *s = &g->sampling, *d = &r->file->defaults;
    unsigned given = g->given;
    samp_params *p = &r->params;
    *p = samp_defaults();
    p->temperature = given & SAMPLING_TEMPERATURE ? s->temperature : d->temperature;
    p->top_k = given & SAMPLING_TOP_K ? s->top_k : d->top_k;
    p->top_p = given & SAMPLING_TOP_P ? s->top_p : d->top_p;
    p->min_p = given & SAMPLING_MIN_P ? s->min_p : d->min_p;
    p->typical_p = given & SAMPLING_TYPICAL_P ? s->typical_p : d->typical_p;
    p->repetition = given & SAMPLING_REPETITION ? s->repetition_penalty : d->repetition_penalty;
    p->last_n = given & SAMPLING_LAST_N ? s->repetition_last_n : d->repetition_last_n;
    p->presence = given & SAMPLING_PRESENCE ? s->presence_penalty : d->presence_penalty;
    p->frequency = given & SAMPLING_FREQUENCY ? s->frequency_penalty : d->frequency_penalty;
    p->seed = s->seed;
    r->seeded = s->has_seed;
    if (!s->has_seed && !os_random(&p->seed, sizeof p->seed)) p->seed = (uint64_t)os_now_us() * 0x9E3779B97F4A7C15u;
    if (s->n_bias) {
        if (!(r->bias = mem_calloc(s->n_bias, sizeof *r->bias))) return error_set(err, E_NOMEM, "no memory for %zu biases", s->n_bias);
        for (size_t i = 0; i < s->n_bias; i++) r->bias[i] = (samp_bias){s->bias[i].token, s->bias[i].bias};
    }
    p->bias = r->bias;
    p->n_bias = s->n_bias;
    int32_t vocab = tok_size(r->file->tok);
    return samp_check(p, vocab ? vocab : INT32_MAX, err);
}

uint64_t eng_salt(const char *text) { return text && *text ? XXH3_64bits(text, strlen(text)) : 0; }

static status fill(altiserve_request *r, eng_models *models, const altiserve_generate *g, error *err) {
    r->n = g->n ? g->n : 1;
    r->max_tokens = g->max_tokens;
    r->ignore_eos = g->ignore_eos;
    r->top = g->logprobs;
    r->notify = g->notify;
    r->notify_ctx = g->notify_ctx;
    r->priority = g->priority;
    r->explain = g->explain;
    r->weight = g->client_weight;
    r->draft_max = g->draft_max;
    r->salt = eng_salt(g->cache_salt);
    if (r->n > ENG_MAX_CHOICES) return error_set(err, E_INVALID, "n must be from 1 to %d", ENG_MAX_CHOICES);
    if (r->top < -1 || r->top > ENG_MAX_LOGPROBS) return error_set(err, E_INVALID, "logprobs must be from 0 to %d", ENG_MAX_LOGPROBS);
    if (g->n_stop > ENG_MAX_STOPS) return error_set(err, E_INVALID, "at most %d stop strings", ENG_MAX_STOPS);
    if (g->n_stop && !(r->stops = mem_calloc(g->n_stop, sizeof *r->stops))) return error_set(err, E_NOMEM, "no memory for stop strings");
    for (size_t i = 0; i < g->n_stop; i++) {
        if (!g->stop[i] || !*g->stop[i]) return error_set(err, E_INVALID, "stop string %zu is empty", i);
        if (!(r->stops[i] = mem_strdup(g->stop[i]))) return error_set(err, E_NOMEM, "no memory for stop strings");
        r->n_stops++;
    }
    status s = eng_file_servable(r->file, err);
    r->loads = g->loads;
    if (r->loads) return s;
    if (s == OK && !r->file->info.generates)
        s = error_set(err, E_INVALID, "%s writes no text: it is a model for %s", r->file->id, r->file->info.ranks ? "ranking (/v1/rerank)" : "embeddings (/v1/embeddings)");
    if (s == OK) {
        r->waits_model = eng_models_expect(models, r->file);
        s = eng_file_text(r->file, err);
    }
    if (s == OK) s = take_sampling(r, g, err);
    if (s == OK) s = take_prompt(r, g, err);
    r->usage.prompt_tokens = (uint32_t)r->n_prompt;
    return s;
}

altiserve_request *eng_request_new(altiserve *a, eng_file *f, uint32_t timeout_ms, error *err) {
    altiserve_request *r = mem_calloc(1, sizeof *r);
    if (!r) {
        eng_file_release(f);
        error_set(err, E_NOMEM, "no memory for a request");
        return NULL;
    }
    atomic_store(&r->refs, 1);
    pthread_mutex_init(&r->lock, NULL);
    os_cond_init(&r->wake);
    r->tail = &r->head;
    r->file = f;
    r->sched = a->sched;
    r->arrived = eng_now_ms();
    r->deadline = timeout_ms ? r->arrived + timeout_ms : 0;
    return r;
}

status eng_request_submit(altiserve_request *r, status s, const char *client, const char *client_name, altiserve_request **out, error *err) {
    if (s == OK) {
        atomic_store(&r->refs, 2);
        s = eng_sched_submit(r->sched, r, client, client_name, err);
        if (s != OK) atomic_store(&r->refs, 1);
    }
    if (s != OK) {
        eng_request_release(r);
        return s;
    }
    *out = r;
    return OK;
}

status altiserve_submit(altiserve *a, const altiserve_generate *what, altiserve_request **out, error *err) {
    *out = NULL;
    eng_file *f;
    status s = eng_models_find(a->models, what->model, &f, err);
    if (s != OK) return s;
    altiserve_request *r = eng_request_new(a, f, what->timeout_ms, err);
    if (!r) return E_NOMEM;
    s = fill(r, a->models, what, err);
    if (s == OK && !r->loads && eng_responses_replay(a->responses, r)) {
        *out = r;
        return OK;
    }
    return eng_request_submit(r, s, what->client, what->client_name, out, err);
}

// ---- events --------------------------------------------------------------------------------------

bool eng_request_full(altiserve_request *r) {
    pthread_mutex_lock(&r->lock);
    bool full = r->n_events >= ENG_RING;
    r->paused |= full; // until its client has taken half: who looks again and finds room may have let it pass already
    pthread_mutex_unlock(&r->lock);
    return full;
}

// Under the lock.
static void tell(altiserve_request *r) {
    pthread_cond_signal(&r->wake);
    if (r->notify && !r->freed) r->notify(r->notify_ctx);
}

bool eng_request_push(altiserve_request *r, const eng_event *ev) {
    eng_event *e = mem_alloc(sizeof *e);
    eng_responses_note(r, ev);
    if (!e) {
        eng_event drop = *ev;
        strbuf_free(&drop.text);
        mem_free(drop.tokens);
        mem_free(drop.logprobs);
        mem_free(drop.embedding);
        return false;
    }
    *e = *ev;
    e->next = NULL;
    pthread_mutex_lock(&r->lock);
    *r->tail = e;
    r->tail = &e->next;
    r->n_events++;
    tell(r);
    pthread_mutex_unlock(&r->lock);
    return true;
}

void eng_request_end(altiserve_request *r, altiserve_finish finish, const error *err) {
    if (finish == FINISH_STOP || finish == FINISH_LENGTH) eng_responses_keep(r);
    pthread_mutex_lock(&r->lock);
    r->ended = true;
    r->finish = finish;
    if (err) r->err = *err;
    tell(r);
    pthread_mutex_unlock(&r->lock);
    eng_request_release(r);
}

void eng_request_usage_set(altiserve_request *r, uint32_t more_tokens) {
    int64_t now = os_now_us();
    pthread_mutex_lock(&r->lock);
    r->usage.cached_tokens = r->cached;
    r->usage.drafted_tokens = r->drafted;
    r->usage.accepted_tokens = r->accepted;
    r->usage.completion_tokens += more_tokens;
    r->usage.queue_s = (double)((r->started ? r->started : now) - r->arrived * 1000) / 1e6;
    if (r->usage.queue_s < 0) r->usage.queue_s = 0;
    r->usage.load_s = r->loaded ? (double)(r->loaded - r->arrived * 1000) / 1e6 : 0;
    if (r->started) r->usage.prefill_s = (double)((r->first ? r->first : now) - r->started) / 1e6;
    if (r->first) r->usage.decode_s = (double)(now - r->first) / 1e6;
    pthread_mutex_unlock(&r->lock);
}

altiserve_event_kind altiserve_next(altiserve_request *r, uint32_t timeout_ms, altiserve_event *out) {
    memset(out, 0, sizeof *out);
    const bool for_ever = timeout_ms == UINT32_MAX;
    int64_t until = timeout_ms && !for_ever ? os_now_us() + (int64_t)timeout_ms * 1000 : 0;
    pthread_mutex_lock(&r->lock);
    while (!r->head && !r->ended && timeout_ms) {
        if (for_ever) pthread_cond_wait(&r->wake, &r->lock);
        else if (os_cond_wait_until(&r->wake, &r->lock, until) == ETIMEDOUT) break;
    }
    eng_event *e = r->head, *before = r->current;
    bool wake = false;
    out->usage = r->usage;
    if (e) out->choice = e->choice;
    bool rest = e && e->kind == EVENT_FINISH && r->reasoning && eng_reasoning_rest(r->reasoning, out);
    if (rest) { // what was held back, then the finish
        r->current = NULL;
        out->kind = EVENT_TEXT;
    } else if (e) {
        r->head = e->next;
        if (!r->head) r->tail = &r->head;
        r->n_events--;
        r->current = e;
        if (r->paused && r->n_events <= ENG_RING / 2) {
            r->paused = false;
            wake = true;
        }
        out->kind = e->kind;
        out->finish = e->finish;
        out->stop = e->stop;
        out->text = e->text.data ? e->text.data : "";
        out->text_len = e->text.len;
        out->tokens = e->tokens;
        out->n_tokens = e->n_tokens;
        out->logprobs = e->logprobs;
        out->top_logprobs = e->top;
        out->embedding = e->embedding;
        out->n_embedding = e->n_embedding;
        if (e->kind == EVENT_TEXT && r->reasoning) eng_reasoning_split(r->reasoning, out);
    } else if (r->ended) {
        r->current = NULL;
        out->kind = EVENT_END;
        out->finish = r->finish;
        out->err = r->err;
    } else {
        r->current = NULL;
        out->kind = EVENT_NONE;
    }
    if (r->reasoning && eng_reasoning_failed(r->reasoning)) {
        out->kind = EVENT_END;
        out->finish = FINISH_ERROR;
        error_set(&out->err, E_NOMEM, "no memory for text");
        atomic_store(&r->cancelled, true);
        wake = true;
    }
    pthread_mutex_unlock(&r->lock);
    eng_event_free(before);
    if (wake) eng_sched_wake(r->sched);
    return out->kind;
}

void altiserve_request_explain(altiserve_request *r, altiserve_explanation *out) {
    pthread_mutex_lock(&r->lock);
    *out = r->explanation;
    pthread_mutex_unlock(&r->lock);
}

altiserve_usage altiserve_request_usage(altiserve_request *r) {
    pthread_mutex_lock(&r->lock);
    altiserve_usage u = r->usage;
    pthread_mutex_unlock(&r->lock);
    return u;
}

void altiserve_cancel(altiserve_request *r) {
    atomic_store(&r->cancelled, true);
    eng_sched_wake(r->sched);
}

void altiserve_request_free(altiserve_request *r) {
    if (!r) return;
    pthread_mutex_lock(&r->lock);
    bool ended = r->ended;
    r->freed = true; // no notify from here on
    pthread_mutex_unlock(&r->lock);
    if (!ended) altiserve_cancel(r);
    eng_request_release(r);
}
