// A client for the tests of http: real sockets, plain or TLS, with a deadline on every wait and nothing hidden.
#pragma once
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct client {
    int fd;
    gnutls_session_t tls;
    char *text; // all that was read, NUL-terminated
    size_t len, cap;
    bool eof;
} client;

static int64_t client_now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static inline client client_open(uint16_t port, int rcvbuf) {
    client c = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (rcvbuf) setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof rcvbuf);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(c.fd, (struct sockaddr *)&a, sizeof a)) abort();
    fcntl(c.fd, F_SETFL, O_NONBLOCK);
    return c;
}

static inline void client_close(client *c) {
    if (c->tls) gnutls_deinit(c->tls);
    if (c->fd >= 0) close(c->fd);
    free(c->text);
    *c = (client){.fd = -1};
}

// One read that does not block; false when there was nothing.
static inline bool client_pull(client *c) {
    if (c->cap - c->len < 65536) c->text = realloc(c->text, c->cap = c->cap * 2 + 131072);
    c->text[c->len] = 0;
    ssize_t n = c->tls ? gnutls_record_recv(c->tls, c->text + c->len, 65535) : recv(c->fd, c->text + c->len, 65535, 0);
    if (n < 0 && (c->tls ? (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED) : (errno == EAGAIN || errno == EINTR))) return false;
    if (n <= 0) c->eof = true;
    else c->len += (size_t)n;
    c->text[c->len] = 0;
    return true;
}

// Reads until `want` has come `times` times, or the end of the stream, or the deadline. NULL want: until the end.
static inline bool client_read_until(client *c, const char *want, int times, int ms) {
    int64_t until = client_now() + ms;
    for (;;) {
        int seen = 0;
        for (const char *p = c->text; p && want && (p = strstr(p, want)); p++) seen++;
        if (want && seen >= times) return true;
        if (c->eof) return !want;
        if (client_pull(c)) continue;
        int64_t left = until - client_now();
        if (left <= 0) return false;
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        poll(&p, 1, (int)left);
    }
}

// Sends as much as goes in ms; false when the peer is gone or time is over. Takes in what the peer says meanwhile.
static inline bool client_send(client *c, const void *data, size_t len, int ms) {
    const char *p = data;
    int64_t until = client_now() + ms;
    while (len) {
        ssize_t n = c->tls ? gnutls_record_send(c->tls, p, len) : send(c->fd, p, len, MSG_NOSIGNAL);
        if (n > 0) {
            p += n;
            len -= (size_t)n;
            continue;
        }
        if (c->tls ? n != GNUTLS_E_AGAIN && n != GNUTLS_E_INTERRUPTED : errno != EAGAIN && errno != EINTR) return false;
        while (!c->eof && client_pull(c)) {}
        int64_t left = until - client_now();
        if (left <= 0 || c->eof) return false;
        struct pollfd f = {.fd = c->fd, .events = POLLOUT | POLLIN};
        poll(&f, 1, (int)left);
    }
    return true;
}

static inline bool client_say(client *c, const char *text) { return client_send(c, text, strlen(text), 5000); }

static inline bool client_tls(client *c, gnutls_certificate_credentials_t cred) {
    gnutls_init(&c->tls, GNUTLS_CLIENT | GNUTLS_NONBLOCK);
    gnutls_set_default_priority(c->tls);
    gnutls_credentials_set(c->tls, GNUTLS_CRD_CERTIFICATE, cred);
    gnutls_transport_set_int(c->tls, c->fd);
    int64_t until = client_now() + 10000;
    for (int rc; (rc = gnutls_handshake(c->tls)) < 0;) {
        if (gnutls_error_is_fatal(rc) || client_now() > until) return false;
        struct pollfd p = {.fd = c->fd, .events = gnutls_record_get_direction(c->tls) ? POLLOUT : POLLIN};
        poll(&p, 1, 100);
    }
    return true;
}

// In place: the chunks' sizes go, the bytes stay.
static inline void unchunk(char *p) {
    char *to = p;
    for (;;) {
        char *e;
        unsigned long n = strtoul(p, &e, 16);
        if (e == p || strncmp(e, "\r\n", 2)) break;
        p = e + 2;
        if (!n) break;
        memmove(to, p, n);
        to += n;
        p += n + 2;
    }
    *to = 0;
}
