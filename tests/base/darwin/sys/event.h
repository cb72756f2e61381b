// What src/ uses of macOS's <sys/event.h>, for test_darwin.sh.
#include <stdint.h>
#include <time.h>
struct kevent { uintptr_t ident; int16_t filter; uint16_t flags; uint32_t fflags; intptr_t data; void *udata; };
enum { EVFILT_READ = -1, EVFILT_WRITE = -2, EVFILT_USER = -10 };
enum { EV_ADD = 1, EV_DELETE = 2, EV_CLEAR = 0x20, EV_EOF = 0x8000, EV_ERROR = 0x4000, NOTE_LOWAT = 1, NOTE_TRIGGER = 0x01000000 };
#define EV_SET(k, a, b, c, d, e, f) do { struct kevent *k_ = (k); k_->ident = (a); k_->filter = (b); k_->flags = (c); k_->fflags = (d); k_->data = (e); k_->udata = (f); } while (0)
int kqueue(void);
int kevent(int queue, const struct kevent *changes, int n_changes, struct kevent *events, int n_events, const struct timespec *timeout);
