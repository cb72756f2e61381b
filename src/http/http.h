// http: transport alone. Connections, limits, TLS, whole answers and streams; what a path means is the caller's business.
//
// One thread (the HTTP thread) owns libmicrohttpd and every socket. A request reaches the route callback on that thread once its body is
// complete. The callback answers at once, or keeps the request and any thread answers later. Memory: a request lives until http_release
// and until libmicrohttpd is done with it, whichever is later; it may outlive the server.
//
// Invariants: on_close comes exactly once for every request for which it was set; after http_stop returned no callback comes any more.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct http_server  http_server;
typedef struct http_request http_request;

// On the HTTP thread; must not block. The callback owns one reference and gives it back with http_release, there or later on any thread.
typedef void (*http_route_fn)(void *ctx, http_request *r);
// On the HTTP thread, when the headers are there; must not block, nor keep r. May answer (http_respond) what no body could change: that is then not kept, nor even sent where
// the client asks first (Expect), and the route callback does not come.
typedef void (*http_head_fn)(void *ctx, http_request *r);
// The body of an answer that the transport gives itself: to a request that cannot be read, at a limit, where the route callback said nothing. `why` is one
// sentence. Puts it into out, may add headers, returns the content type, a literal. On any thread, once a request at most, as long as
// a request is held.
typedef const char *(*http_error_fn)(void *ctx, http_request *r, int code, const char *why, strbuf *out);

typedef struct http_options {
    const char *host;          // address or name to bind; NULL: 127.0.0.1
    uint16_t    port;          // 0: the system chooses, http_port tells
    const char *tls_cert, *tls_key; // PEM files; both or neither
    http_route_fn route;
    http_head_fn  head;        // NULL: none
    http_error_fn error_body;  // NULL: the sentence alone, as plain text
    void       *ctx;           // of all three
    const char *cors_origin;   // an origin that browsers may call from, or "*"; NULL: pages from loopback alone
    const char *allowed_host;  // one more Host accepted on a loopback binding; "*": any; NULL: none
    uint32_t max_connections;  // further ones get 503; 0: 1,024
    size_t   max_body;         // bytes; more is 413; 0: 32 MB
    size_t   max_bodies;       // bytes of all bodies being read or kept; more is 503; 0: 512 MB
    size_t   max_answers;      // bytes of whole answers that are not sent yet; more is 503. Those up to 64 KB do not count (connections bound them), nor those of GET. 0: 512 MB
    size_t   max_lag;          // bytes a stream may queue for a slow client: from a quarter on it is full, a sender that goes on past all of it is cut; 0: 1 MB
    int      send_buffer;      // SO_SNDBUF of a connection while it streams; 0: 32 KB
    // Milliseconds; 0 takes the default. A deadline is absolute: bytes that trickle in do not move it.
    uint32_t header_ms;        // from connecting (or the end of the answer before) until headers are complete; 20,000 (75,000 idle after an answer)
    uint32_t body_ms;          // from headers until the body is complete; 120,000
    uint32_t stall_ms;         // a stream of which the client took nothing for so long is cut; 30,000
    uint32_t write_ms;         // for a whole answer to be taken, and for the rest of a stream after its end; 120,000
    uint32_t keepalive_ms;     // silence of a stream after which its keep-alive text is sent; 10,000
} http_options;

// Binds, listens and starts the HTTP thread. Options are copied. SIGPIPE is never raised by it.
status http_start(const http_options *options, http_server **out, error *err);
uint16_t http_port(const http_server *s);
const char *http_url(const http_server *s); // "http://127.0.0.1:8080"
// Stops listening; requests that run may end until deadline_ms has passed, further requests get 503; then everything is cut.
// Returns when the HTTP thread has ended. Call once, or again from another thread with a shorter deadline to hasten the first (it returns at once).
void http_stop(http_server *s, uint32_t deadline_ms);
// After http_stop returned.
void http_free(http_server *s);

// ---- what was asked. Valid while the caller holds its reference; from any thread. ----------------
const char *http_id(const http_request *r);                     // each answer bears it: the client's X-Request-Id if that is 1 to 128 token characters, else made here
const char *http_method(const http_request *r);                 // "GET" for HEAD too
const char *http_path(const http_request *r);                   // decoded, without the query, and without the authority of a target in absolute form
const char *http_query(const http_request *r, const char *name); // decoded; NULL when absent, "" without a value
const char *http_header(const http_request *r, const char *name); // any case; NULL when absent; the first when several
const char *http_body(const http_request *r, size_t *len);      // NUL-terminated behind len
const char *http_client(const http_request *r);                 // address of the peer
double      http_age(const http_request *r);                    // seconds since its headers arrived
// Drops the body early, when it is no longer needed (it counts against max_bodies until then).
void        http_drop_body(http_request *r);

// ---- the answer ----------------------------------------------------------------------------------
// fn(ctx) on the HTTP thread, exactly once: when the answer was sent to its end, when the client left, or when the server stopped.
// Half-closed counts as left once a request was kept. Set it inside the route callback only. ctx must live until then.
void http_on_close(http_request *r, void (*fn)(void *ctx), void *ctx);
// What stands for this request in metrics (a route's pattern, a literal that lives for ever); "other" if never set.
void http_set_route(http_request *r, const char *route);
// A header of the answer; before http_respond or http_stream_begin. Control characters in value are refused (false).
bool http_add_header(http_request *r, const char *name, const char *value);
// The whole answer, copied. False when the client is gone, something was answered already, or memory is gone. True too where max_answers makes it a 503.
bool http_respond(http_request *r, int code, const char *content_type, const void *body, size_t len);
// The same without a copy: body, from base/mem, is http's from here on whatever is returned; it may be NULL when len is 0.
bool http_respond_take(http_request *r, int code, const char *content_type, char *body, size_t len);
// An answer in pieces: begin, send any number of times, end. keepalive (a literal, e.g. ": keep-alive\n\n"; may be NULL) is sent in silence.
bool http_stream_begin(http_request *r, int code, const char *content_type, const char *keepalive);
// Queues bytes for the client. False when the client is gone or was cut: the caller stops its work.
bool http_stream_send(http_request *r, const void *data, size_t len);
// True while so much waits for the client that the caller should send nothing more for now; fn(ctx) comes then on the HTTP thread, once, when there is
// room again, or on_close does. ctx must live until on_close came. Who asks before each piece is never cut for lagging, however slow the client.
bool http_stream_full(http_request *r, void (*fn)(void *ctx), void *ctx);
void http_stream_end(http_request *r);
bool http_gone(http_request *r);
// Gives the caller's reference back. If nothing was answered a 500 goes out; a stream that was not ended is cut.
void http_release(http_request *r);

typedef struct http_stats {
    uint32_t connections, requests; // open now; requests being answered now
} http_stats;
void http_get_stats(http_server *s, http_stats *out);
