// base/os on macOS. Large pages are not to be had for memory that is not wired down, and nothing holds a process to a share of the processors.
#if defined(__APPLE__)
#include "base/os.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/sysctl.h>
#include <unistd.h>

// The cores that compute fast: steps wait for the slowest worker, so efficiency cores only delay them.
int os_processors(void) {
    int n = 0;
    size_t size = sizeof n;
    if (sysctlbyname("hw.perflevel0.logicalcpu", &n, &size, NULL, 0) == 0 && n > 0) return n;
    long all = sysconf(_SC_NPROCESSORS_ONLN);
    return all < 1 ? 1 : (int)all;
}

os_limits os_cgroup_limits(const char *self, const char *root) {
    (void)self;
    (void)root;
    return (os_limits){0, 0};
}

os_limits os_process_limits(void) { return (os_limits){0, 0}; }

uint64_t os_memory(void) {
    uint64_t bytes = 0;
    size_t size = sizeof bytes;
    return sysctlbyname("hw.memsize", &bytes, &size, NULL, 0) == 0 ? bytes : 0;
}

bool os_random(void *dst, size_t n) { return getentropy(dst, n) == 0; }

void os_huge_pages(void *at, size_t bytes) {
    (void)at;
    (void)bytes;
}

bool os_populate(void *at, size_t bytes) {
    (void)at;
    (void)bytes;
    return false;
}

struct timespec os_modified(const struct stat *st) { return st->st_mtimespec; }

int os_cond_init(pthread_cond_t *c) { return pthread_cond_init(c, NULL); }

int os_cond_wait_until(pthread_cond_t *c, pthread_mutex_t *lock, int64_t deadline_us) {
    int64_t us = deadline_us - os_now_us();
    struct timespec left = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    return us < 0 ? ETIMEDOUT : pthread_cond_timedwait_relative_np(c, lock, &left);
}
#endif
