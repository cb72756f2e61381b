// http/http_request: the handle that handlers hold. Any thread, under the request's lock; news go to the HTTP thread by the ready list.
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "http/http_internal.h"
#include "obs/obs.h"

void http_server_unref(http_server *s) {
    if (atomic_fetch_sub(&s->refs, 1) != 1) return;
    http_poll_free(s->poll);
    pthread_mutex_destroy(&s->ready_lock);
    mem_free(s->host);
    mem_free(s->cors_origin);
    mem_free(s->allowed_host);
    mem_free(s->cert);
    if (s->key) explicit_bzero(s->key, strlen(s->key));
    mem_free(s->key);
    mem_free(s);
}

void http_unref(http_request *r) {
    if (atomic_fetch_sub(&r->refs, 1) != 1) return;
    http_drop_body(r);
    mem_free(r->out);
    atomic_fetch_sub(&r->server->answers, r->out_counted);
    arena_free(&r->strings);
    pthread_mutex_destroy(&r->lock);
    http_server_unref(r->server);
    mem_free(r);
}

// With the request's lock held.
static void tell(http_request *r) {
    http_server *s = r->server;
    pthread_mutex_lock(&s->ready_lock);
    bool add = !r->ready && !s->ended, wake = add && !s->ready_list;
    if (add) {
        r->ready = true;
        r->ready_next = s->ready_list;
        s->ready_list = r;
        atomic_fetch_add(&r->refs, 1);
    }
    pthread_mutex_unlock(&s->ready_lock);
    if (wake) http_poll_wake(s->poll);
}

// ---- what was asked ------------------------------------------------------------------------------

const char *http_id(const http_request *r) { return r->id; }
const char *http_method(const http_request *r) { return r->method; }
const char *http_path(const http_request *r) { return r->path; }
const char *http_client(const http_request *r) { return r->peer; }
double http_age(const http_request *r) { return (double)(http_now() - r->arrived) / 1000; }

const char *http_query(const http_request *r, const char *name) {
    for (const http_pair *p = r->query; p; p = p->next)
        if (!strcmp(p->name, name)) return p->value;
    return NULL;
}

const char *http_header(const http_request *r, const char *name) {
    for (const http_pair *p = r->headers; p; p = p->next)
        if (!strcasecmp(p->name, name)) return p->value;
    return NULL;
}

const char *http_body(const http_request *r, size_t *len) {
    *len = r->body.len;
    return r->body.data ? r->body.data : "";
}

void http_drop_body(http_request *r) {
    atomic_fetch_sub(&r->server->bodies, r->body_counted);
    r->body_counted = 0;
    strbuf_free(&r->body);
}

// ---- the answer ----------------------------------------------------------------------------------

void http_on_close(http_request *r, void (*fn)(void *ctx), void *ctx) {
    r->on_close = fn;
    r->on_close_ctx = ctx;
}

void http_set_route(http_request *r, const char *route) {
    pthread_mutex_lock(&r->lock);
    r->route = route;
    pthread_mutex_unlock(&r->lock);
}

bool http_add_header(http_request *r, const char *name, const char *value) {
    for (const unsigned char *p = (const unsigned char *)value; *p; p++)
        if (*p < 0x20 || *p == 0x7F) return false;
    pthread_mutex_lock(&r->lock);
    bool ok = false;
    http_pair *p = r->answer == ANSWER_NONE ? arena_alloc(&r->strings, sizeof *p) : NULL;
    if (p) {
        p->name = arena_strndup(&r->strings, name, strlen(name));
        p->value = arena_strndup(&r->strings, value, strlen(value));
        if (p->name && p->value) {
            p->next = r->answer_headers;
            r->answer_headers = p;
            ok = true;
        }
    }
    pthread_mutex_unlock(&r->lock);
    return ok;
}

enum { SMALL_ANSWER = 64 << 10 };

// Counts an answer among those that wait to be sent; false when they would be too many bytes. The small ones go always, errors among them, and so do the server's own, metrics and
// lists, which say what is wrong then.
static bool count_answer(http_server *s, size_t len) {
    if (!len || atomic_fetch_add(&s->answers, len) + len <= s->o.max_answers) return true;
    atomic_fetch_sub(&s->answers, len);
    return false;
}

bool http_respond_take(http_request *r, int code, const char *content_type, char *out, size_t len) {
    http_server *s = r->server;
    size_t counted = len > SMALL_ANSWER && strcmp(r->method, "GET") ? len : 0;
    if (!count_answer(s, counted)) {
        strbuf text = {0};
        counted = 0;
        code = 503;
        content_type = http_error_body(r, code, "the server holds too many answers that their clients have not read yet; try again", &text);
        len = text.failed ? 0 : text.len;
        mem_free(out);
        out = strbuf_take(&text);
    }
    char *fit = counted ? mem_realloc(out, len) : NULL; // a text that was grown may hold twice its length
    if (fit) out = fit;
    pthread_mutex_lock(&r->lock);
    bool ok = !r->gone && r->answer == ANSWER_NONE;
    if (ok) {
        r->out = out;
        r->out_tail = len;
        r->out_counted = counted;
        r->code = code;
        r->content_type = content_type ? arena_strndup(&r->strings, content_type, strlen(content_type)) : NULL;
        r->answer = ANSWER_WHOLE;
        tell(r);
    }
    pthread_mutex_unlock(&r->lock);
    if (!ok) {
        mem_free(out);
        atomic_fetch_sub(&s->answers, counted);
    }
    return ok;
}

bool http_respond(http_request *r, int code, const char *content_type, const void *body, size_t len) {
    char *out = len ? mem_alloc(len) : NULL;
    if (len && !out) return false;
    if (len) memcpy(out, body, len);
    return http_respond_take(r, code, content_type, out, len);
}

bool http_stream_begin(http_request *r, int code, const char *content_type, const char *keepalive) {
    pthread_mutex_lock(&r->lock);
    bool ok = !r->gone && r->answer == ANSWER_NONE;
    if (ok) {
        r->code = code;
        r->content_type = content_type ? arena_strndup(&r->strings, content_type, strlen(content_type)) : NULL;
        r->keepalive = keepalive;
        r->answer = ANSWER_STREAM;
        tell(r);
    }
    pthread_mutex_unlock(&r->lock);
    return ok;
}

// Room for len more bytes at out_tail, moving what waits to the front first.
static bool make_room(http_request *r, size_t len) {
    if (r->out_cap - r->out_tail >= len) return true;
    size_t waits = r->out_tail - r->out_head;
    if (r->out_head) memmove(r->out, r->out + r->out_head, waits);
    r->out_head = 0;
    r->out_tail = waits;
    void *p = r->out;
    bool ok = mem_grow(&p, &r->out_cap, waits + len, 1);
    r->out = p;
    return ok;
}

bool http_stream_send(http_request *r, const void *data, size_t len) {
    pthread_mutex_lock(&r->lock);
    bool ok = !r->gone && !r->broken && r->answer == ANSWER_STREAM && !r->ended;
    if (ok && r->head) len = 0; // headers alone were asked for
    if (ok && len) {
        size_t waits = r->out_tail - r->out_head;
        if (waits > r->server->o.max_lag || !make_room(r, len)) { // for senders that do not ask whether it is full
            ok = false;
            r->broken = true;
            obs_count(OBS_HTTP_CUT, "lag", NULL, 1);
        } else {
            if (!waits) r->last_take = http_now();
            memcpy(r->out + r->out_tail, data, len);
            r->out_tail += len;
        }
        tell(r);
    }
    pthread_mutex_unlock(&r->lock);
    return ok;
}

bool http_stream_full(http_request *r, void (*fn)(void *ctx), void *ctx) {
    pthread_mutex_lock(&r->lock);
    bool full = r->answer == ANSWER_STREAM && !r->ended && !r->gone && !r->broken && r->out_tail - r->out_head > r->server->o.max_lag / 4;
    if (full) {
        r->on_room = fn;
        r->on_room_ctx = ctx;
    }
    pthread_mutex_unlock(&r->lock);
    return full;
}

void http_stream_end(http_request *r) {
    pthread_mutex_lock(&r->lock);
    if (r->answer == ANSWER_STREAM && !r->ended) {
        r->ended = true;
        if (r->out_head == r->out_tail) r->last_take = http_now();
        tell(r);
    }
    pthread_mutex_unlock(&r->lock);
}

bool http_gone(http_request *r) {
    pthread_mutex_lock(&r->lock);
    bool gone = r->gone || r->broken;
    pthread_mutex_unlock(&r->lock);
    return gone;
}

void http_release(http_request *r) {
    pthread_mutex_lock(&r->lock);
    bool nothing = r->answer == ANSWER_NONE && !r->gone;
    if (r->answer == ANSWER_STREAM && !r->ended && !r->gone) {
        r->broken = true;
        tell(r);
    }
    pthread_mutex_unlock(&r->lock);
    if (nothing) {
        strbuf text = {0};
        const char *type = http_error_body(r, 500, "the request was not answered", &text);
        if (!http_respond(r, 500, type, text.failed ? "" : text.data, text.failed ? 0 : text.len)) {
            pthread_mutex_lock(&r->lock); // no memory even for that
            r->broken = true;
            tell(r);
            pthread_mutex_unlock(&r->lock);
        }
        strbuf_free(&text);
    }
    http_unref(r);
}

const char *http_error_body(http_request *r, int code, const char *why, strbuf *out) {
    const http_options *o = &r->server->o;
    if (code == 503) http_add_header(r, "Retry-After", "1");
    if (o->error_body) return o->error_body(o->ctx, r, code, why, out);
    strbuf_adds(out, why);
    return "text/plain; charset=utf-8";
}
