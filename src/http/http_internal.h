// http/http_internal: the structures behind http.h.
//
// Threads: what is marked [H] belongs to the HTTP thread; what is marked [L] is under the request's lock, [R] under the server's
// ready lock; the rest does not change once the route callback has been called. Lock order: a request's lock, then the ready lock.
#pragma once
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "http/http.h"

typedef enum http_phase { PHASE_HEADERS, PHASE_BODY, PHASE_HANDLER, PHASE_WRITING } http_phase;

// A TCP connection, from accept to close. [H] throughout.
typedef struct http_conn {
    struct http_conn *prev, *next;
    http_server *server;
    struct MHD_Connection *mhd;
    int          fd;
    http_phase   phase;
    int64_t      deadline;  // ms; 0: none
    http_request *active;   // the request being read or answered
    bool         cut;       // shut down by us; libmicrohttpd closes it
    bool         half;      // its peer sends no more, and what it sent has been read
    bool         narrow;    // its send buffer was made small for a stream
    char         peer[64];
} http_conn;

typedef enum http_answer { ANSWER_NONE, ANSWER_WHOLE, ANSWER_STREAM } http_answer;

typedef struct http_pair {
    struct http_pair *next;
    const char *name, *value;
} http_pair;

struct http_request {
    atomic_int   refs;
    http_server *server;
    arena        strings;       // method, path, headers, query, and (under the lock) headers of the answer
    const char  *id;            // the client's, or id_made
    char         id_made[40];
    const char  *method, *path, *peer;
    http_pair   *headers, *query;
    int64_t      arrived;       // ms
    strbuf       body;
    size_t       body_counted;  // of server->bodies
    int          reject;        // status decided while reading; 0: none [H]
    const char  *reject_text;
    bool         early;         // looked at once its headers are there: answered without its body, after which the connection is closed [H]
    size_t       received;      // body bytes, kept or not [H]
    const char  *cors;          // Access-Control-Allow-Origin, or NULL
    bool         head, routed, close_after;

    http_conn   *conn;          // [H] NULL once libmicrohttpd is done with the request
    bool         suspended;     // [H]
    bool         closed;        // [H] on_close was called
    bool         queued;        // [H] a response was given to libmicrohttpd
    int64_t      last_take;     // [L] when libmicrohttpd last took bytes of the stream, the queue stopped being empty, or the stream ended with an empty one
    void       (*on_close)(void *ctx);
    void        *on_close_ctx;

    pthread_mutex_t lock;
    void      (*on_room)(void *ctx); // [L] who waits for the stream's queue to become shorter; NULL: nobody
    void       *on_room_ctx;    // [L]
    const char *route;          // [L]
    http_answer answer;         // [L]
    int         code;           // [L]
    const char *content_type;   // [L]
    const char *keepalive;      // [L]
    http_pair  *answer_headers; // [L]
    char       *out;            // [L] a whole answer's bytes, or a stream's queue
    size_t      out_cap, out_head, out_tail; // [L]
    size_t      out_counted;    // [L] of server->answers
    bool        ended, gone, broken; // [L] broken: to be cut
    http_request *ready_next;   // [R]
    bool        ready;          // [R] on the server's ready list
};

typedef struct http_poll http_poll;

struct http_server {
    atomic_int   refs;
    http_options o;
    char        *host, *cors_origin, *allowed_host, *cert, *key;
    char         url[160];
    uint16_t     port;
    bool         loopback;
    struct MHD_Daemon *daemon;
    http_poll   *poll;
    pthread_t    thread;

    http_conn   *conns;          // [H]
    uint32_t     n_conns, n_requests; // [H], mirrored below
    _Atomic uint32_t shown_conns, shown_requests;
    int64_t      next_deadline;  // [H] no deadline is earlier
    atomic_size_t bodies, answers;

    pthread_mutex_t ready_lock;
    http_request *ready_list;    // [R]
    bool         ended;          // [R]
    int64_t      stop_at;        // [R] INT64_MAX: nobody said stop
    bool         quiesced;       // [H]
    bool         halves;         // [H] a connection became half, or half ones have no request any more: to be looked at
};

int64_t http_now(void); // monotonic ms

// http_poll_linux.c, http_poll_darwin.c: waits on libmicrohttpd's sockets, suspended ones and a wake-up at once.
unsigned http_poll_mhd_flags(void); // how libmicrohttpd waits on this system
status http_poll_create(struct MHD_Daemon *daemon, http_poll **out, error *err);
void   http_poll_free(http_poll *p);
bool   http_poll_watch(http_poll *p, int fd, void *cookie); // for the peer leaving; half-closed counts
void   http_poll_unwatch(http_poll *p, int fd);
void   http_poll_wake(http_poll *p);                        // from any thread
// Waits up to timeout_ms (-1: for ever); cookies of sockets whose peer left, at most max.
int    http_poll_wait(http_poll *p, int64_t timeout_ms, void **cookies, int max);

// http_listen.c
status http_listen(http_server *s, int *fd, error *err); // binds; sets port, url, loopback
bool   http_is_loopback_name(const char *host, size_t len); // "localhost", "x.localhost", 127.*, [::1]; with or without a port

// http_server.c [H]
void http_set_deadline(http_conn *c, http_phase phase, int64_t ms_from_now); // 0: none
void http_soon(http_server *s, int64_t at);
void http_cut(http_conn *c, const char *why);

// http_handler.c [H]
enum MHD_Result http_on_request(void *cls, struct MHD_Connection *mhd, const char *url, const char *method, const char *version,
                                const char *data, size_t *len, void **con_cls);
void http_on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls, enum MHD_RequestTerminationCode code);
void http_fire_close(http_request *r);
void http_suspend(http_request *r);
void http_resume(http_request *r);
void http_answer_raw(http_request *r, int code, const char *why); // past libmicrohttpd, which takes no answer in the middle of a body; then cut

// http_request.c
void http_unref(http_request *r);
void http_server_unref(http_server *s);
const char *http_error_body(http_request *r, int code, const char *why, strbuf *out); // as http_error_fn
