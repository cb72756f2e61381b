// http/http_handler: a request from its first header to its last byte, as libmicrohttpd calls us. HTTP thread only.
//
// libmicrohttpd calls http_on_request first with the headers, then with pieces of the body, then once without data; after a resume it calls
// that last form again. A request that the route callback kept is suspended until it has an answer; a stream is suspended while its
// queue is empty. A suspended connection is in our poll, so that a peer which leaves is noticed at once.
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/os.h"
#include "http/http_internal.h"
#include "obs/obs.h"

void http_fire_close(http_request *r) {
    if (r->closed) return;
    r->closed = true;
    if (r->on_close) r->on_close(r->on_close_ctx);
}

void http_suspend(http_request *r) {
    http_poll_watch(r->server->poll, r->conn->fd, r->conn);
    r->suspended = true;
    MHD_suspend_connection(r->conn->mhd);
}

void http_resume(http_request *r) {
    http_poll_unwatch(r->server->poll, r->conn->fd);
    r->suspended = false;
    MHD_resume_connection(r->conn->mhd);
}

// ---- headers -------------------------------------------------------------------------------------

struct scan {
    http_request *r;
    bool failed, misnamed, expects;
    int lengths, encodings, hosts;
    const char *encoding, *host, *length, *origin, *wanted_headers;
};

// The path of a request's target. One in absolute form, as proxies are asked, must be taken too, and its authority, put into *host, counts in place of the Host
// header (RFC 9112, 3.2.2). NULL when memory is gone.
static const char *read_target(http_request *r, const char *target, const char **host) {
    static const char *const schemes[] = {"http://", "https://"};
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        size_t n = strlen(schemes[i]);
        if (strncasecmp(target, schemes[i], n)) continue;
        const char *authority = target + n;
        target = authority + strcspn(authority, "/");
        if (!(*host = arena_strndup(&r->strings, authority, (size_t)(target - authority)))) return NULL;
        if (!*target) target = "/";
        break;
    }
    return arena_strndup(&r->strings, target, strlen(target));
}

static bool keep_pair(http_request *r, http_pair **list, const char *name, const char *value) {
    http_pair *p = arena_alloc(&r->strings, sizeof *p);
    if (!p) return false;
    p->name = arena_strndup(&r->strings, name, strlen(name));
    p->value = value ? arena_strndup(&r->strings, value, strlen(value)) : "";
    p->next = NULL;
    if (!p->name || !p->value) return false;
    while (*list) list = &(*list)->next; // order kept: the first of a name counts
    *list = p;
    return true;
}

// What HTTP calls a token. libmicrohttpd takes "Content-Length : 5" for another header than Content-Length, and who stands before us may not: the body
// would be a request of its own here.
static bool is_token(const char *text) {
    return *text && !text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_!#$%&'*+.^`|~")];
}

static enum MHD_Result each_header(void *cls, enum MHD_ValueKind kind, const char *name, const char *value) {
    (void)kind;
    struct scan *s = cls;
    if (!value) value = "";
    if (!strcasecmp(name, "Content-Length")) s->lengths++, s->length = value;
    else if (!strcasecmp(name, "Transfer-Encoding")) s->encodings++, s->encoding = value;
    else if (!strcasecmp(name, "Host")) s->hosts++, s->host = value;
    else if (!strcasecmp(name, "Origin")) s->origin = value;
    else if (!strcasecmp(name, "Expect")) s->expects = true;
    else if (!strcasecmp(name, "Access-Control-Request-Headers")) s->wanted_headers = value;
    s->misnamed |= !is_token(name);
    s->failed |= !keep_pair(s->r, &s->r->headers, name, value);
    return MHD_YES;
}

static enum MHD_Result each_argument(void *cls, enum MHD_ValueKind kind, const char *name, const char *value) {
    (void)kind;
    struct scan *s = cls;
    s->failed |= !keep_pair(s->r, &s->r->query, name, value);
    return MHD_YES;
}

// Decides the answer, after which the connection is closed. It goes out at once where the headers decide it, else when the request is complete.
static void reject(http_request *r, int code, const char *text) {
    if (r->reject) return;
    r->reject = code;
    r->reject_text = text;
    r->early = r->close_after = true;
}

// Whether a page of this origin may call. Pages of other sites may not reach a server that listens on loopback alone: it trusts its user.
// Schemes other than http(s) are programs on this machine (desktop shells, editors' panels).
static bool origin_allowed(http_server *s, const char *origin) {
    const char *want = s->o.cors_origin;
    if (want && (!strcmp(want, "*") || !strcmp(want, origin))) return true;
    const char *at = strstr(origin, "://");
    if (!at) return false;
    size_t scheme = (size_t)(at - origin);
    bool web = (scheme == 4 && !strncasecmp(origin, "http", 4)) || (scheme == 5 && !strncasecmp(origin, "https", 5));
    return !web || http_is_loopback_name(at + 3, strlen(at + 3));
}

static bool host_allowed(http_server *s, const char *host) {
    if (!s->loopback || http_is_loopback_name(host, strlen(host))) return true;
    const char *more = s->o.allowed_host;
    if (!more) return false;
    size_t n = strlen(more);
    return !strcmp(more, "*") || (!strncasecmp(host, more, n) && (!host[n] || host[n] == ':'));
}

static const char too_large[] = "the request body is larger than this server accepts";
enum { DRAIN_BYTES = 4 << 20 }; // read and thrown away past the limit, so that a client that sends first still sees its 413

static void check_length(http_server *s, http_request *r, const struct scan *h) {
    unsigned long long n = strtoull(h->length, NULL, 10);
    if (n <= s->o.max_body) return;
    reject(r, 413, too_large);
    r->early = h->expects || n - s->o.max_body > DRAIN_BYTES; // one that asks first sends nothing when it is told no
}

static void check_headers(http_server *s, http_request *r, const struct scan *h, const char *version) {
    if (h->misnamed) reject(r, 400, "the name of a header holds a space or another character that names may not hold");
    else if (h->lengths > 1) reject(r, 400, "Content-Length is given more than once");
    else if (h->encodings > 1 || (h->encodings && strcasecmp(h->encoding, "chunked"))) reject(r, 400, "the only Transfer-Encoding understood is chunked");
    else if (h->encodings && h->lengths) reject(r, 400, "Content-Length together with Transfer-Encoding is refused");
    else if (h->hosts > 1) reject(r, 400, "Host is given more than once");
    else if (!h->hosts && !strcmp(version, "HTTP/1.1")) reject(r, 400, "the Host header is missing");
    else if (h->host && !host_allowed(s, h->host)) reject(r, 403, "this server listens on loopback and does not answer for this Host, unless --allowed-host names it");
    else if (h->origin && s->loopback && !origin_allowed(s, h->origin)) reject(r, 403, "pages of this Origin may not call this server, unless --cors-origin names it");
    else if (s->n_conns > s->o.max_connections) reject(r, 503, "too many connections");
    else if (s->quiesced) reject(r, 503, "the server is stopping");
    else if (h->length) check_length(s, r, h);
    if (h->origin && origin_allowed(s, h->origin)) r->cors = s->o.cors_origin && !strcmp(s->o.cors_origin, "*") ? "*" : h->origin;
}

static void answer_options(http_request *r, const struct scan *h) {
    r->answer = ANSWER_WHOLE;
    r->code = 204;
    keep_pair(r, &r->answer_headers, "Access-Control-Allow-Methods", "GET, POST, HEAD, OPTIONS");
    const char *wanted = h->wanted_headers; // libmicrohttpd refuses to send a value that is empty or holds a tab
    keep_pair(r, &r->answer_headers, "Access-Control-Allow-Headers", wanted && *wanted && !strchr(wanted, '\t') ? wanted : "*");
    keep_pair(r, &r->answer_headers, "Access-Control-Max-Age", "600");
}

// The client's word for the request goes into the log and back to it, so it is taken only where it is short and plain.
static void name_request(http_request *r) {
    enum { LONGEST = 128 };
    const char *given = http_header(r, "X-Request-Id");
    r->id = r->id_made;
    if (given && strlen(given) <= LONGEST && is_token(given)) {
        r->id = given;
        return;
    }
    uint64_t random[2] = {(uint64_t)(uintptr_t)r, (uint64_t)r->arrived}; // where the system has no randomness
    os_random(random, sizeof random);
    snprintf(r->id_made, sizeof r->id_made, "req_%016llx%016llx", (unsigned long long)random[0], (unsigned long long)random[1]);
}

// libmicrohttpd waits for news from a socket that gave less than was asked for. Where that was the last before the peer left, none come (its epoll tells edges):
// the connection would be kept until its deadline, with a body as far as it came. Under TLS there may be more in the session, and it is.
static void note_half(http_conn *c) {
    char next;
    if (c->server->cert || c->half || recv(c->fd, &next, 1, MSG_PEEK | MSG_DONTWAIT) != 0) return;
    c->half = c->server->halves = true;
}

static http_request *begin(http_server *s, http_conn *c, struct MHD_Connection *mhd, const char *url, const char *method, const char *version) {
    http_request *r = mem_calloc(1, sizeof *r);
    if (!r) return NULL;
    atomic_init(&r->refs, 1); // libmicrohttpd's, given back in http_on_completed
    atomic_fetch_add(&s->refs, 1);
    r->server = s;
    r->conn = c;
    r->arrived = http_now();
    pthread_mutex_init(&r->lock, NULL);
    arena_init(&r->strings, 256 << 10);
    r->head = !strcmp(method, "HEAD");
    if (r->head) method = "GET";
    r->method = arena_strndup(&r->strings, method, strlen(method));
    r->peer = arena_strndup(&r->strings, c->peer, strlen(c->peer));
    struct scan h = {.r = r};
    MHD_get_connection_values(mhd, MHD_HEADER_KIND, each_header, &h);
    MHD_get_connection_values(mhd, MHD_GET_ARGUMENT_KIND, each_argument, &h);
    r->path = read_target(r, url, &h.host);
    if (!h.expects) note_half(c); // else libmicrohttpd may have the body, and gives it in its next turn
    name_request(r);
    c->active = r;
    atomic_store(&s->shown_requests, ++s->n_requests);
    http_set_deadline(c, PHASE_BODY, s->o.body_ms);
    if (!r->method || !r->path || !r->peer || h.failed) reject(r, 503, "no memory for this request");
    if (!r->method) r->method = "?";
    if (!r->path) r->path = "?";
    check_headers(s, r, &h, version);
    if (r->cors && strcmp(r->cors, "*")) r->cors = arena_strndup(&r->strings, r->cors, strlen(r->cors));
    if (r->reject) return r;
    if (!strcmp(method, "OPTIONS")) answer_options(r, &h);
    else if (s->o.head) s->o.head(s->o.ctx, r);
    if (r->answer != ANSWER_NONE && h.expects) r->early = r->close_after = true;
    return r;
}

// ---- the body ------------------------------------------------------------------------------------

// False: cut now.
static bool take_body(http_request *r, const char *data, size_t n) {
    http_server *s = r->server;
    r->received += n;
    bool answered = r->answer != ANSWER_NONE;
    if (!answered && r->received > s->o.max_body) reject(r, 413, too_large);
    if (r->reject || answered) {
        http_drop_body(r); // others may have the room
        if (r->received <= s->o.max_body + DRAIN_BYTES) return true;
        http_answer_raw(r, 413, too_large);
        obs_count(OBS_HTTP_CUT, "body", NULL, 1);
        return false;
    }
    size_t all = atomic_fetch_add(&s->bodies, n) + n;
    r->body_counted += n;
    if (all > s->o.max_bodies) reject(r, 503, "the server holds too many request bodies at once; try again");
    else if (!strbuf_add(&r->body, data, n)) reject(r, 503, "no memory for the request body");
    if (r->reject) http_drop_body(r);
    return true;
}

// ---- the answer ----------------------------------------------------------------------------------

static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max) {
    (void)pos;
    http_request *r = cls;
    ssize_t got;
    bool ended = false;
    void (*on_room)(void *ctx) = NULL, *ctx = NULL;
    pthread_mutex_lock(&r->lock);
    size_t waits = r->out_tail - r->out_head;
    if (r->gone || r->broken) got = MHD_CONTENT_READER_END_WITH_ERROR;
    else if (waits) {
        got = (ssize_t)(waits < max ? waits : max);
        memcpy(buf, r->out + r->out_head, (size_t)got);
        r->out_head += (size_t)got;
        r->last_take = http_now();
        if (r->on_room && waits - (size_t)got <= r->server->o.max_lag / 8) {
            on_room = r->on_room;
            ctx = r->on_room_ctx;
            r->on_room = NULL;
        }
    } else if (r->ended) {
        got = MHD_CONTENT_READER_END_OF_STREAM;
        ended = true;
    } else got = 0;
    pthread_mutex_unlock(&r->lock);
    // Whoever queues from here on puts the request on the ready list, which this thread reads after libmicrohttpd returned: no wake-up is lost.
    if (!got) http_suspend(r);
    if (on_room) on_room(ctx); // not under our lock: it may send
    if (ended) http_set_deadline(r->conn, PHASE_WRITING, r->server->o.write_ms);
    return got;
}

// A stream's buffer is small, or a slow reader is not noticed for megabytes. A whole answer's is the system's, which has room for several segments: where one
// fills it (loopback's have 64 KB) each waits for its acknowledgement, which comes late. A size once set is not the system's again, so then it is a large one.
static void fit_send_buffer(http_conn *c, bool stream) {
    enum { LARGE = 1 << 20 };
    if (!stream && !c->narrow) return;
    int size = stream ? c->server->o.send_buffer : LARGE;
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    c->narrow = stream;
}

static const char *const id_names[] = {"X-Request-Id", "Request-Id"}; // as OpenAI's clients look for it, and Anthropic's

static void response_done(void *cls) { http_unref(cls); }

// The headers of an answer, but for those that say how its body comes.
static bool each_answer_header(const http_request *r, const char *type, bool (*put)(void *to, const char *name, const char *value), void *to) {
    bool ok = !type || put(to, "Content-Type", type);
    for (const http_pair *p = r->answer_headers; p; p = p->next) ok &= put(to, p->name, p->value);
    for (size_t i = 0; i < sizeof id_names / sizeof *id_names; i++) ok &= put(to, id_names[i], r->id);
    if (!r->cors) return ok;
    ok &= put(to, "Access-Control-Allow-Origin", r->cors) && put(to, "Access-Control-Expose-Headers", "*");
    return ok & (!strcmp(r->cors, "*") || put(to, "Vary", "Origin"));
}

static bool put_header(void *to, const char *name, const char *value) { return MHD_add_response_header(to, name, value) == MHD_YES; }
static bool write_header(void *to, const char *name, const char *value) { return strbuf_addf(to, "%s: %s\r\n", name, value); }

// libmicrohttpd's response holds a reference to the request, which has the bytes. An answer that was given does not change any more but for a stream's queue, so
// this needs the lock for that alone; libmicrohttpd holds locks of its own around read_stream, which takes ours.
static enum MHD_Result queue_answer(http_request *r, struct MHD_Connection *mhd) {
    struct MHD_Response *m;
    atomic_fetch_add(&r->refs, 1);
    fit_send_buffer(r->conn, r->answer == ANSWER_STREAM);
    if (r->answer == ANSWER_STREAM) {
        m = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_stream, r, response_done);
        int64_t now = http_now();
        pthread_mutex_lock(&r->lock);
        r->last_take = now;
        pthread_mutex_unlock(&r->lock);
        http_soon(r->server, now + (r->server->o.keepalive_ms < r->server->o.stall_ms ? r->server->o.keepalive_ms : r->server->o.stall_ms));
    } else m = MHD_create_response_from_buffer_with_free_callback_cls(r->out_tail, r->out ? r->out : (char *)"", response_done, r);
    if (!m) {
        http_unref(r);
        return MHD_NO;
    }
    bool ok = each_answer_header(r, r->content_type, put_header, m);
    if (r->answer == ANSWER_STREAM) ok &= put_header(m, "Cache-Control", "no-cache");
    if (r->close_after || r->server->quiesced) ok &= put_header(m, "Connection", "close");
    enum MHD_Result queued = ok ? MHD_queue_response(mhd, (unsigned)r->code, m) : MHD_NO;
    MHD_destroy_response(m);
    r->queued = queued == MHD_YES;
    http_set_deadline(r->conn, PHASE_WRITING, r->answer == ANSWER_STREAM ? 0 : r->server->o.write_ms);
    return queued;
}

static enum MHD_Result queue_reject(http_request *r, struct MHD_Connection *mhd) {
    strbuf text = {0};
    r->content_type = http_error_body(r, r->reject, r->reject_text, &text);
    r->answer = ANSWER_WHOLE;
    r->code = r->reject;
    r->out_tail = text.failed ? 0 : text.len;
    r->out = text.failed ? NULL : text.data;
    if (text.failed) strbuf_free(&text);
    return queue_answer(r, mhd);
}

// The one send may take less than all, or nothing, where a pipelining client has not read earlier answers: then it sees the connection close, as it would anyway.
void http_answer_raw(http_request *r, int code, const char *why) {
    strbuf out = {0}, body = {0};
    const char *type;
    if (r->answer == ANSWER_WHOLE) { // by its headers
        code = r->code;
        type = r->content_type;
        if (r->out_tail) strbuf_add(&body, r->out, r->out_tail);
    } else {
        if (r->reject) code = r->reject, why = r->reject_text; // what is wrong with it was seen before
        type = http_error_body(r, code, why, &body);
    }
    strbuf_addf(&out, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: %zu\r\n", code, MHD_get_reason_phrase_for((unsigned)code), body.len);
    each_answer_header(r, type, write_header, &out);
    strbuf_adds(&out, "\r\n");
    if (body.len && !r->head) strbuf_add(&out, body.data, body.len);
    const union MHD_ConnectionInfo *tls = r->server->cert ? MHD_get_connection_info(r->conn->mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION) : NULL;
    if (out.failed || body.failed) {}
    else if (tls) (void)!gnutls_record_send(tls->tls_session, out.data, out.len); // the socket does not block, and SIGPIPE is blocked
    else (void)!send(r->conn->fd, out.data, out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    strbuf_free(&out);
    strbuf_free(&body);
}

// The request is complete (again, after a resume): answers when there is an answer, else waits for one.
static enum MHD_Result advance(http_request *r, struct MHD_Connection *mhd) {
    if (!r->routed && r->answer == ANSWER_NONE) {
        r->routed = true;
        http_set_deadline(r->conn, PHASE_HANDLER, 0);
        atomic_fetch_add(&r->refs, 1); // the callback's
        r->server->o.route(r->server->o.ctx, r);
    }
    pthread_mutex_lock(&r->lock);
    bool gone = r->gone || r->broken, answered = r->answer != ANSWER_NONE;
    pthread_mutex_unlock(&r->lock);
    if (gone) return MHD_NO;
    if (answered) return queue_answer(r, mhd);
    http_suspend(r);
    return MHD_YES;
}

enum MHD_Result http_on_request(void *cls, struct MHD_Connection *mhd, const char *url, const char *method, const char *version, const char *data,
                                size_t *len, void **con_cls) {
    http_server *s = cls;
    http_request *r = *con_cls;
    if (!r) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        http_conn *c = info ? info->socket_context : NULL;
        if (!c || c->cut || !(r = begin(s, c, mhd, url, method, version))) return MHD_NO;
        *con_cls = r;
        // What is refused by its headers alone is not read: libmicrohttpd answers and closes. But a body a little over the limit is, and thrown away, so
        // that its sender sees the 413; and so is one whose answer does not depend on it, unless its sender waits for a word.
        return !r->early ? MHD_YES : r->reject ? queue_reject(r, mhd) : queue_answer(r, mhd);
    }
    if (*len) {
        if (!take_body(r, data, *len)) return MHD_NO;
        note_half(r->conn);
        *len = 0;
        return MHD_YES;
    }
    if (r->queued) return MHD_YES;
    return r->reject ? queue_reject(r, mhd) : advance(r, mhd);
}

void http_on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls, enum MHD_RequestTerminationCode code) {
    http_server *s = cls;
    http_request *r = *con_cls;
    if (!r) return;
    *con_cls = NULL;
    http_conn *c = r->conn;
    pthread_mutex_lock(&r->lock);
    r->gone = true;
    char code_text[8];
    if (code == MHD_REQUEST_TERMINATED_COMPLETED_OK) snprintf(code_text, sizeof code_text, "%d", r->code);
    else snprintf(code_text, sizeof code_text, "cut");
    const char *route = r->route ? r->route : "other";
    pthread_mutex_unlock(&r->lock);
    obs_count(OBS_HTTP_REQUESTS, route, code_text, 1);
    obs_log(OBS_DEBUG, "%s %s %s %s, %lld ms (%s)", c->peer, r->method, r->path, code_text, (long long)(http_now() - r->arrived), r->id);
    if (r->suspended) { // only when the daemon stops
        http_poll_unwatch(s->poll, c->fd);
        r->suspended = false;
    }
    r->conn = NULL;
    c->active = NULL;
    s->halves |= c->half;
    atomic_store(&s->shown_requests, --s->n_requests);
    http_set_deadline(c, PHASE_HEADERS, s->o.header_ms ? s->o.header_ms : 75000);
    // A connection whose stream is broken off is closed but for its descriptor: libmicrohttpd leaves it lying until it looks at it again. Without a time-out that is
    // when no other is older, be it one that idles for ever; those that have one it looks at in every turn.
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK) {
        MHD_set_connection_option(mhd, MHD_CONNECTION_OPTION_TIMEOUT, 1u);
        http_soon(s, http_now());
    }
    if (r->routed) http_fire_close(r);
    http_unref(r);
}
