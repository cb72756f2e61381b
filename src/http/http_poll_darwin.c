// http/http_poll on macOS: one kqueue over libmicrohttpd's sockets, which without epoll must be asked for at each wait, the sockets of suspended connections,
// and a user event for other threads. One thread waits; any thread wakes. It has never run: see docs/ARCHITECTURE.md.
#if defined(__APPLE__)
#include <errno.h>
#include <sys/event.h>
#include <sys/select.h>
#include <unistd.h>

#include "http/http_internal.h"

struct http_poll {
    int queue;
    struct MHD_Daemon *daemon;
};

static char mhd_mark, event_mark;

unsigned http_poll_mhd_flags(void) { return MHD_NO_FLAG; }

static bool change(http_poll *p, int fd, int filter, int flags, unsigned notes, int64_t data, void *cookie) {
    struct kevent e;
    EV_SET(&e, (uintptr_t)fd, (int16_t)filter, (uint16_t)flags, notes, data, cookie);
    int n;
    while ((n = kevent(p->queue, &e, 1, NULL, 0, NULL)) < 0 && errno == EINTR) {}
    return n >= 0;
}

status http_poll_create(struct MHD_Daemon *daemon, http_poll **out, error *err) {
    http_poll *p = mem_calloc(1, sizeof *p);
    if (!p) return error_set(err, E_NOMEM, "no memory to start the server");
    p->daemon = daemon;
    p->queue = kqueue();
    if (p->queue < 0 || !change(p, 0, EVFILT_USER, EV_ADD | EV_CLEAR, 0, 0, &event_mark)) {
        status st = error_errno(err, "starting the server: kqueue");
        http_poll_free(p);
        return st;
    }
    *out = p;
    return OK;
}

void http_poll_free(http_poll *p) {
    if (!p) return;
    if (p->queue >= 0) close(p->queue);
    mem_free(p);
}

// Bytes that a client sends ahead are not its leaving: the mark is so high that only the end of the stream makes the socket readable.
bool http_poll_watch(http_poll *p, int fd, void *cookie) { return change(p, fd, EVFILT_READ, EV_ADD, NOTE_LOWAT, INT32_MAX, cookie); }
void http_poll_unwatch(http_poll *p, int fd) { change(p, fd, EVFILT_READ, EV_DELETE, 0, 0, NULL); }
void http_poll_wake(http_poll *p) { change(p, 0, EVFILT_USER, 0, NOTE_TRIGGER, 0, &event_mark); }

// libmicrohttpd's sockets of this moment, added or taken away again: a suspended one is watched for another reason.
static void mhd_sockets(http_poll *p, const fd_set *reads, const fd_set *writes, int last, int flags) {
    for (int fd = 0; fd <= last; fd++) {
        if (FD_ISSET(fd, reads)) change(p, fd, EVFILT_READ, flags, 0, 0, &mhd_mark);
        if (FD_ISSET(fd, writes)) change(p, fd, EVFILT_WRITE, flags, 0, 0, &mhd_mark);
    }
}

int http_poll_wait(http_poll *p, int64_t timeout_ms, void **cookies, int max) {
    struct kevent events[64];
    int64_t ms = timeout_ms > 60000 ? 60000 : timeout_ms;
    struct timespec limit = {ms / 1000, ms % 1000 * 1000000};
    fd_set reads, writes, errors;
    FD_ZERO(&reads);
    FD_ZERO(&writes);
    FD_ZERO(&errors);
    int last = -1, left = 0;
    (void)MHD_get_fdset2(p->daemon, &reads, &writes, &errors, &last, FD_SETSIZE); // sockets beyond FD_SETSIZE are left out, and wait
    mhd_sockets(p, &reads, &writes, last, EV_ADD);
    int n = kevent(p->queue, NULL, 0, events, max < 64 ? max : 64, ms < 0 ? NULL : &limit);
    mhd_sockets(p, &reads, &writes, last, EV_DELETE);
    for (int i = 0; i < n; i++) {
        bool own = events[i].udata == &mhd_mark || events[i].udata == &event_mark;
        if (!own && events[i].flags & (EV_EOF | EV_ERROR)) cookies[left++] = events[i].udata;
    }
    return left;
}
#endif
