// http/http_poll_linux: one epoll over libmicrohttpd's own epoll descriptor, the sockets of suspended connections (which libmicrohttpd does
// not watch, so a client that leaves would go unnoticed), and an eventfd for other threads. One thread waits; any thread wakes.
#if defined(__linux__)
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "http/http_internal.h"

struct http_poll {
    int epoll, event;
};

static char mhd_mark, event_mark;

unsigned http_poll_mhd_flags(void) { return MHD_USE_EPOLL; }

status http_poll_create(struct MHD_Daemon *daemon, http_poll **out, error *err) {
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info) return error_set(err, E_INTERNAL, "this build of libmicrohttpd has no epoll");
    http_poll *p = mem_calloc(1, sizeof *p);
    if (!p) return error_set(err, E_NOMEM, "no memory to start the server");
    p->epoll = epoll_create1(EPOLL_CLOEXEC);
    p->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct epoll_event a = {.events = EPOLLIN, .data.ptr = &mhd_mark}, b = {.events = EPOLLIN, .data.ptr = &event_mark};
    if (p->epoll < 0 || p->event < 0 || epoll_ctl(p->epoll, EPOLL_CTL_ADD, info->epoll_fd, &a) || epoll_ctl(p->epoll, EPOLL_CTL_ADD, p->event, &b)) {
        status st = error_errno(err, "starting the server: epoll");
        http_poll_free(p);
        return st;
    }
    *out = p;
    return OK;
}

void http_poll_free(http_poll *p) {
    if (!p) return;
    if (p->epoll >= 0) close(p->epoll);
    if (p->event >= 0) close(p->event);
    mem_free(p);
}

bool http_poll_watch(http_poll *p, int fd, void *cookie) {
    struct epoll_event e = {.events = EPOLLRDHUP | EPOLLHUP | EPOLLERR, .data.ptr = cookie};
    return epoll_ctl(p->epoll, EPOLL_CTL_ADD, fd, &e) == 0;
}

void http_poll_unwatch(http_poll *p, int fd) { epoll_ctl(p->epoll, EPOLL_CTL_DEL, fd, NULL); }

void http_poll_wake(http_poll *p) {
    uint64_t one = 1;
    while (write(p->event, &one, sizeof one) < 0 && errno == EINTR) {}
}

int http_poll_wait(http_poll *p, int64_t timeout_ms, void **cookies, int max) {
    struct epoll_event events[64];
    int ms = timeout_ms < 0 ? -1 : timeout_ms > 60000 ? 60000 : (int)timeout_ms;
    int n = epoll_wait(p->epoll, events, max < 64 ? max : 64, ms), left = 0;
    for (int i = 0; i < n; i++) {
        void *ptr = events[i].data.ptr;
        if (ptr == &event_mark) {
            uint64_t count;
            while (read(p->event, &count, sizeof count) < 0 && errno == EINTR) {}
        } else if (ptr != &mhd_mark) cookies[left++] = ptr;
    }
    return left;
}
#endif
