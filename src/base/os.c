// What of os.h is the same everywhere.
#include "base/os.h"

int os_cond_wait_for(pthread_cond_t *c, pthread_mutex_t *lock, int64_t ms) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += ms % 1000 * 1000000;
    if (at.tv_nsec >= 1000000000) at.tv_sec++, at.tv_nsec -= 1000000000;
    return os_cond_wait_until(c, lock, &at);
}
