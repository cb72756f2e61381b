// base/os: what differs from one operating system to another. Each system has a file of its own, os_linux.c and os_darwin.c, as have the few rooms that
// need more of it (http_poll_*.c, obs_process_*.c, ...); nothing else asks which system it is (but for the object format, engine/eng_toy.c) or includes such headers.
// Threads: all of it may be called from anywhere.
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

int os_processors(void); // that this process may run on; at least 1

// What a container or service manager holds this process to; 0: to nothing.
typedef struct os_limits {
    double   processors; // processor time a second
    uint64_t memory;     // bytes
} os_limits;
os_limits os_process_limits(void);
// The same from files of cgroup v1 or v2 (Linux; elsewhere nothing): `self` is /proc/self/cgroup, `root` where the hierarchy is mounted. A
// group is held by each group above it as well.
os_limits os_cgroup_limits(const char *self, const char *root);

uint64_t os_memory(void);                        // bytes of the machine
bool     os_random(void *dst, size_t n);         // n <= 256; false when the system has none to give
void     os_huge_pages(void *at, size_t bytes);  // advice: fewer, larger pages where there are some

struct timespec os_modified(const struct stat *st); // when the file was last written

// Makes memory present and writable, as the first write to each of its pages would, and leaves what it holds; `at` is the beginning of a page.
// False where the system cannot be asked.
bool os_populate(void *at, size_t bytes);

int64_t os_now_us(void); // CLOCK_MONOTONIC, in microseconds
// A condition whose deadlines are of that clock: 0, or ETIMEDOUT.
int os_cond_init(pthread_cond_t *c);
int os_cond_wait_until(pthread_cond_t *c, pthread_mutex_t *lock, int64_t deadline_us);
int os_cond_wait_for(pthread_cond_t *c, pthread_mutex_t *lock, int64_t ms); // from now
