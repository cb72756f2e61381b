// What of os.h is the same everywhere.
#include "base/os.h"

int64_t os_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int os_cond_wait_for(pthread_cond_t *c, pthread_mutex_t *lock, int64_t ms) { return os_cond_wait_until(c, lock, os_now_us() + ms * 1000); }
