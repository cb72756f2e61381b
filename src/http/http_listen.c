// http/http_listen: the listening socket, the address in words, and which names mean this machine.
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http/http_internal.h"

bool http_is_loopback_name(const char *host, size_t len) {
    if (len && host[0] == '[') {
        const char *close_at = memchr(host, ']', len);
        if (!close_at) return false;
        size_t rest = len - (size_t)(close_at + 1 - host);
        return (rest == 0 || close_at[1] == ':') && close_at - host == 4 && !memcmp(host, "[::1", 4);
    }
    const char *colon = memchr(host, ':', len);
    if (colon) {
        for (const char *p = colon + 1; p < host + len; p++)
            if (*p < '0' || *p > '9') return false;
        len = (size_t)(colon - host);
    }
    if (len && host[len - 1] == '.') len--;
    const char local[] = "localhost";
    size_t k = sizeof local - 1;
    if (len >= k && !strncasecmp(host + len - k, local, k) && (len == k || host[len - k - 1] == '.')) return true;
    char text[16];
    if (len >= sizeof text) return false;
    memcpy(text, host, len);
    text[len] = 0;
    struct in_addr a;
    return inet_pton(AF_INET, text, &a) == 1 && (ntohl(a.s_addr) >> 24) == 127;
}

static void describe(http_server *s, const struct sockaddr *a, socklen_t n) {
    char host[64] = "?";
    getnameinfo(a, n, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    const char *scheme = s->cert ? "https" : "http";
    if (a->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)a;
        s->port = ntohs(in->sin6_port);
        s->loopback = IN6_IS_ADDR_LOOPBACK(&in->sin6_addr);
        snprintf(s->url, sizeof s->url, "%s://[%s]:%u", scheme, host, s->port);
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)a;
        s->port = ntohs(in->sin_port);
        s->loopback = (ntohl(in->sin_addr.s_addr) >> 24) == 127;
        snprintf(s->url, sizeof s->url, "%s://%s:%u", scheme, host, s->port);
    }
}

static int open_socket(const struct addrinfo *ai) {
    int fd = socket(ai->ai_family, SOCK_STREAM, ai->ai_protocol), on = 1, off = 0;
    if (fd < 0) return -1;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (ai->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (!bind(fd, ai->ai_addr, ai->ai_addrlen) && !listen(fd, 511)) return fd;
    int keep = errno;
    close(fd);
    errno = keep;
    return -1;
}

status http_listen(http_server *s, int *out, error *err) {
    char port[8];
    snprintf(port, sizeof port, "%u", s->o.port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    // Brackets around an IPv6 address are how people write it in addresses of pages.
    char host[256];
    size_t n = strlen(s->host);
    if (n > 2 && s->host[0] == '[' && s->host[n - 1] == ']' && n < sizeof host) snprintf(host, sizeof host, "%.*s", (int)(n - 2), s->host + 1);
    else snprintf(host, sizeof host, "%s", s->host);
    int rc = getaddrinfo(host, port, &hints, &list);
    if (rc) return error_set(err, E_USAGE, "cannot listen on host %s: %s; give an address such as 127.0.0.1 or 0.0.0.0", s->host, gai_strerror(rc));
    int fd = -1, why = 0;
    for (int family = 0; family < 2 && fd < 0; family++) // IPv4 first: "localhost" should be 127.0.0.1
        for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
            if ((ai->ai_family == AF_INET) == (family == 0) && (fd = open_socket(ai)) < 0) why = errno;
    freeaddrinfo(list);
    if (fd < 0) {
        errno = why;
        if (why == EADDRINUSE)
            return error_set(err, E_IO, "port %u on %s is in use by another program; choose another with --port (0: any free one)", s->o.port, s->host);
        return error_errno(err, "cannot listen on %s port %u", s->host, s->o.port);
    }
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &len)) {
        status st = error_errno(err, "cannot listen on %s", s->host);
        close(fd);
        return st;
    }
    describe(s, (struct sockaddr *)&a, len);
    *out = fd;
    return OK;
}
