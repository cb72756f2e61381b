// http/http_server: the HTTP thread. Starts and stops libmicrohttpd, waits, resumes what has news, and holds deadlines.
//
// libmicrohttpd runs without threads of its own. Its time-out restarts at each byte, so deadlines are ours: a connection past one is shut
// down at the socket, which libmicrohttpd then sees as closed. It aborts when stopped with a suspended connection, so all are resumed first.
#include <errno.h>
#include <gnutls/gnutls.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "http/http_internal.h"
#include "obs/obs.h"

int64_t http_now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void http_soon(http_server *s, int64_t at) {
    if (at < s->next_deadline) s->next_deadline = at;
}

void http_set_deadline(http_conn *c, http_phase phase, int64_t ms) {
    c->phase = phase;
    c->deadline = ms ? http_now() + ms : 0;
    if (ms) http_soon(c->server, c->deadline);
}

// The socket is shut down and libmicrohttpd closes the connection at its next turn.
void http_cut(http_conn *c, const char *why) {
    if (c->cut) return;
    c->cut = true;
    c->deadline = 0;
    if (why) obs_count(OBS_HTTP_CUT, why, NULL, 1);
    http_request *r = c->active;
    if (r && c->phase == PHASE_BODY && why && !strcmp(why, "body")) http_answer_raw(r, 408, "the request body did not come in time");
    shutdown(c->fd, SHUT_RDWR);
    if (!r) return;
    pthread_mutex_lock(&r->lock);
    r->gone = true;
    pthread_mutex_unlock(&r->lock);
    if (r->suspended) http_resume(r);
    if (r->routed) http_fire_close(r);
}

// ---- connections ---------------------------------------------------------------------------------

static void conn_started(http_server *s, struct MHD_Connection *mhd, void **ctx) {
    http_conn *c = mem_calloc(1, sizeof *c);
    const union MHD_ConnectionInfo *fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *addr = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    *ctx = c;
    if (!c || !fd) { // without memory the connection is useless: http_on_request refuses it
        if (fd) shutdown(fd->connect_fd, SHUT_RDWR);
        return;
    }
    c->server = s;
    c->mhd = mhd;
    c->fd = fd->connect_fd;
    if (addr && addr->client_addr)
        getnameinfo(addr->client_addr, addr->client_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in),
                    c->peer, sizeof c->peer, NULL, 0, NI_NUMERICHOST);
    int on = 1;
    setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->next = s->conns;
    if (s->conns) s->conns->prev = c;
    s->conns = c;
    atomic_store(&s->shown_conns, ++s->n_conns);
    obs_set(OBS_HTTP_CONNECTIONS, NULL, NULL, s->n_conns);
    http_set_deadline(c, PHASE_HEADERS, s->o.header_ms ? s->o.header_ms : 20000);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **ctx, enum MHD_ConnectionNotificationCode code) {
    http_server *s = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        conn_started(s, mhd, ctx);
        return;
    }
    http_conn *c = *ctx;
    if (!c) return;
    if (c->server) {
        if (c->prev) c->prev->next = c->next;
        else s->conns = c->next;
        if (c->next) c->next->prev = c->prev;
        atomic_store(&s->shown_conns, --s->n_conns);
        obs_set(OBS_HTTP_CONNECTIONS, NULL, NULL, s->n_conns);
    }
    mem_free(c);
    *ctx = NULL;
}

// ---- the loop ------------------------------------------------------------------------------------

// A stream: silence, a client that takes nothing, the time of the next look.
static void check_stream(http_conn *c, http_request *r, int64_t now) {
    http_server *s = c->server;
    bool stalled = false, speak = false;
    pthread_mutex_lock(&r->lock);
    if (r->queued && r->answer == ANSWER_STREAM && !r->gone) {
        size_t waits = r->out_tail - r->out_head;
        // After the end libmicrohttpd holds the last block, and asks again only when the client has taken it.
        int64_t limit = waits ? s->o.stall_ms : r->ended ? s->o.write_ms : s->o.keepalive_ms;
        if (now - r->last_take < limit) http_soon(s, r->last_take + limit);
        else if (waits || r->ended) stalled = true;
        else if (r->keepalive) speak = true;
        else http_soon(s, now + limit);
    }
    pthread_mutex_unlock(&r->lock);
    if (stalled) http_cut(c, "stall");
    if (speak) {
        http_soon(s, now + s->o.keepalive_ms);
        http_stream_send(r, r->keepalive, strlen(r->keepalive));
    }
}

static void check_deadlines(http_server *s, int64_t now) {
    static const char *const why[] = {"headers", "body", "handler", "stall"};
    s->next_deadline = INT64_MAX;
    for (http_conn *c = s->conns; c; c = c->next) {
        if (c->cut) continue;
        if (c->deadline && now >= c->deadline) http_cut(c, why[c->phase]);
        else if (c->deadline) http_soon(s, c->deadline);
        if (!c->cut && c->active) check_stream(c, c->active, now);
    }
}

static void handle_ready(http_server *s) {
    for (;;) {
        pthread_mutex_lock(&s->ready_lock);
        http_request *r = s->ready_list;
        if (r) {
            s->ready_list = r->ready_next;
            r->ready = false;
        }
        pthread_mutex_unlock(&s->ready_lock);
        if (!r) return;
        pthread_mutex_lock(&r->lock);
        bool broken = r->broken;
        pthread_mutex_unlock(&r->lock);
        if (broken && r->conn) http_cut(r->conn, NULL);
        else if (r->suspended) http_resume(r);
        http_unref(r);
    }
}

// Nobody works at a request, and none is being answered.
static bool is_idle(const http_conn *c) { return !c->active || (!c->active->routed && !c->active->queued); }

// Nothing more comes on these: who has no request, or one that is not complete, is cut. A request that is complete is as any whose peer leaves.
static void cut_halves(http_server *s) {
    if (!s->halves) return;
    s->halves = false;
    for (http_conn *c = s->conns; c; c = c->next)
        if (c->half && is_idle(c)) http_cut(c, NULL);
}

// What nobody works at any more is cut once it is time to stop. Returns when to end at the latest; INT64_MAX: nobody said stop.
static int64_t handle_stop(http_server *s) {
    pthread_mutex_lock(&s->ready_lock);
    int64_t at = s->stop_at;
    pthread_mutex_unlock(&s->ready_lock);
    if (at == INT64_MAX) return at;
    if (!s->quiesced) {
        s->quiesced = true;
        int fd = MHD_quiesce_daemon(s->daemon);
        if (fd >= 0) close(fd);
    }
    for (http_conn *c = s->conns; c; c = c->next)
        if (is_idle(c)) http_cut(c, NULL); // or still sending its request
    http_soon(s, at);
    return at;
}

static void *http_thread(void *arg) {
    http_server *s = arg;
    sigset_t pipe_signal;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_signal, NULL); // a client that left is an error of write, not a signal
    MHD_run(s->daemon);
    for (;;) {
        int64_t now = http_now(), wait = s->next_deadline == INT64_MAX ? -1 : s->next_deadline > now ? s->next_deadline - now : 0;
        MHD_UNSIGNED_LONG_LONG mhd_wait;
        if (MHD_get_timeout(s->daemon, &mhd_wait) == MHD_YES && (wait < 0 || mhd_wait < (uint64_t)wait)) wait = (int64_t)mhd_wait;
        void *left[64];
        int n = http_poll_wait(s->poll, wait, left, 64);
        for (int i = 0; i < n; i++) http_cut(left[i], NULL); // suspended, and the peer has gone
        handle_ready(s);
        now = http_now();
        if (now >= s->next_deadline) check_deadlines(s, now);
        int64_t end = handle_stop(s);
        MHD_run(s->daemon);
        cut_halves(s);
        if (end != INT64_MAX && (!s->n_requests || now >= end)) break; // the last may have ended just now: nothing else would wake us
    }
    for (http_conn *c = s->conns; c; c = c->next) http_cut(c, c->active ? "stop" : NULL);
    MHD_run(s->daemon);
    for (http_conn *c = s->conns; c; c = c->next)
        if (c->active && c->active->suspended) http_resume(c->active);
    MHD_stop_daemon(s->daemon); // http_on_completed comes for what is left
    s->daemon = NULL;
    pthread_mutex_lock(&s->ready_lock);
    s->ended = true; // nobody reads the list any more
    pthread_mutex_unlock(&s->ready_lock);
    handle_ready(s);
    return NULL;
}

// ---- start and stop ------------------------------------------------------------------------------

static status read_pem(const char *path, const char *what, char **out, error *err) {
    FILE *f = fopen(path, "re");
    if (!f) return error_errno(err, "cannot open the %s %s", what, path);
    strbuf text = {0};
    char block[4096];
    size_t n;
    while ((n = fread(block, 1, sizeof block, f)) > 0 && text.len < (1 << 20)) strbuf_add(&text, block, n);
    fclose(f);
    if (!text.len) strbuf_adds(&text, "");
    *out = strbuf_take(&text);
    return *out ? OK : error_set(err, E_NOMEM, "no memory to read %s", path);
}

static status load_tls(http_server *s, error *err) {
    if (!s->o.tls_cert != !s->o.tls_key) return error_set(err, E_USAGE, "TLS needs both a certificate and its key (--tls-cert and --tls-key)");
    if (!s->o.tls_cert) return OK;
    status st = read_pem(s->o.tls_cert, "TLS certificate", &s->cert, err);
    if (!st) st = read_pem(s->o.tls_key, "TLS key", &s->key, err);
    if (st) return st;
    // libmicrohttpd would only say that it could not start.
    gnutls_certificate_credentials_t cred;
    if (gnutls_certificate_allocate_credentials(&cred)) return error_set(err, E_NOMEM, "no memory for TLS");
    gnutls_datum_t c = {(unsigned char *)s->cert, (unsigned)strlen(s->cert)}, k = {(unsigned char *)s->key, (unsigned)strlen(s->key)};
    int rc = gnutls_certificate_set_x509_key_mem(cred, &c, &k, GNUTLS_X509_FMT_PEM);
    gnutls_certificate_free_credentials(cred);
    if (rc < 0)
        return error_set(err, E_INVALID, "TLS certificate %s with key %s cannot be used: %s; both must be PEM files that belong together",
                         s->o.tls_cert, s->o.tls_key, gnutls_strerror(rc));
    return OK;
}

__attribute__((format(printf, 2, 0))) static void mhd_log(void *cls, const char *fmt, va_list ap) {
    (void)cls;
    char text[512];
    vsnprintf(text, sizeof text, fmt, ap);
    size_t n = strlen(text);
    while (n && text[n - 1] == '\n') text[--n] = 0;
    obs_log(OBS_DEBUG, "http: %s", text);
}

static void fill_options(http_server *s, const http_options *o) {
    s->o = *o;
#define FILL(field, value) if (!s->o.field) s->o.field = (value)
    FILL(max_connections, 1024);
    FILL(max_body, (size_t)32 << 20);
    FILL(max_bodies, (size_t)512 << 20);
    FILL(max_answers, (size_t)512 << 20);
    FILL(max_lag, (size_t)1 << 20);
    FILL(send_buffer, 32 << 10);
    FILL(body_ms, 120000);
    FILL(stall_ms, 30000);
    FILL(write_ms, 120000);
    FILL(keepalive_ms, 10000);
#undef FILL
}

// A connection is a descriptor: raises the process's own limit as far as it may, and takes fewer connections where that is not enough.
static void fit_descriptors(http_server *s) {
    enum { OTHERS = 256 }; // model files, epolls, the log
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) || rl.rlim_cur == RLIM_INFINITY) return;
    rlim_t want = (rlim_t)s->o.max_connections + 64 + OTHERS;
    if (rl.rlim_cur < want) {
        rl.rlim_cur = rl.rlim_max == RLIM_INFINITY || want < rl.rlim_max ? want : rl.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &rl)) getrlimit(RLIMIT_NOFILE, &rl);
    }
    if (rl.rlim_cur >= want) return;
    s->o.max_connections = rl.rlim_cur > 2 * (64 + OTHERS) ? (uint32_t)(rl.rlim_cur - 64 - OTHERS) : (uint32_t)(rl.rlim_cur / 4 + 1);
    obs_log(OBS_WARN, "the limit of open files (%llu) allows %u connections", (unsigned long long)rl.rlim_cur, s->o.max_connections);
}

static status start_daemon(http_server *s, int fd, error *err) {
    unsigned flags = http_poll_mhd_flags() | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | (s->cert ? MHD_USE_TLS : 0);
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, s->cert}, {MHD_OPTION_HTTPS_MEM_KEY, 0, s->key}, {MHD_OPTION_END, 0, NULL}};
    s->daemon = MHD_start_daemon(flags, 0, NULL, NULL, http_on_request, s, MHD_OPTION_EXTERNAL_LOGGER, mhd_log, NULL,
                                 MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)(s->o.max_connections + 64),
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32768, MHD_OPTION_CONNECTION_MEMORY_INCREMENT, (size_t)4096,
                                 MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
                                 MHD_OPTION_NOTIFY_COMPLETED, http_on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
                                 MHD_OPTION_ARRAY, s->cert ? tls : tls + 2, MHD_OPTION_END);
    if (!s->daemon) return error_set(err, E_IO, "cannot start the HTTP server on %s%s", s->url, s->cert ? " (TLS)" : "");
    return http_poll_create(s->daemon, &s->poll, err);
}

static char *copy(const char *text, bool *failed) {
    char *c = text ? mem_strdup(text) : NULL;
    *failed |= text && !c;
    return c;
}

status http_start(const http_options *o, http_server **out, error *err) {
    http_server *s = mem_calloc(1, sizeof *s);
    if (!s) return error_set(err, E_NOMEM, "no memory to start the server");
    atomic_init(&s->refs, 1);
    pthread_mutex_init(&s->ready_lock, NULL);
    s->next_deadline = INT64_MAX;
    s->stop_at = INT64_MAX;
    fill_options(s, o);
    fit_descriptors(s);
    bool failed = false;
    s->host = copy(o->host ? o->host : "127.0.0.1", &failed);
    s->cors_origin = copy(o->cors_origin, &failed);
    s->allowed_host = copy(o->allowed_host, &failed);
    status st = failed ? error_set(err, E_NOMEM, "no memory to start the server") : load_tls(s, err);
    int fd = -1;
    if (!st) st = http_listen(s, &fd, err);
    if (!st) st = start_daemon(s, fd, err);
    if (!st) {
        sigset_t all, old; // signals are for the program's own threads
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        int rc = pthread_create(&s->thread, NULL, http_thread, s);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (rc) {
            errno = rc;
            st = error_errno(err, "cannot start the HTTP thread");
        }
    }
    if (st) {
        if (s->daemon) MHD_stop_daemon(s->daemon); // closes the socket too
        else if (fd >= 0) close(fd);
        http_server_unref(s);
        return st;
    }
    *out = s;
    return OK;
}

uint16_t http_port(const http_server *s) { return s->port; }
const char *http_url(const http_server *s) { return s->url; }

void http_stop(http_server *s, uint32_t deadline_ms) {
    int64_t at = http_now() + deadline_ms;
    pthread_mutex_lock(&s->ready_lock);
    bool first = s->stop_at == INT64_MAX;
    if (at < s->stop_at) s->stop_at = at;
    pthread_mutex_unlock(&s->ready_lock);
    http_poll_wake(s->poll);
    if (first) pthread_join(s->thread, NULL);
}

void http_free(http_server *s) {
    if (s) http_server_unref(s);
}

void http_get_stats(http_server *s, http_stats *out) {
    out->connections = atomic_load(&s->shown_conns);
    out->requests = atomic_load(&s->shown_requests);
}
