// base/os on Linux.
#if defined(__linux__)
#include "base/os.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

int os_processors(void) {
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN); // fails beyond 1,024 processors
    return n < 1 ? 1 : (int)n;
}

// Numbers of a file of one line; how many were read. "max" is none.
static int read_numbers(const char *dir, const char *name, double *a, double *b) {
    char path[4200];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, name) >= sizeof path) return 0;
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    int n = fscanf(f, "%lf %lf", a, b);
    fclose(f);
    return n < 0 ? 0 : n;
}

static void hold_processors(os_limits *l, double quota, double period) {
    if (quota > 0 && period > 0 && (l->processors == 0 || quota / period < l->processors)) l->processors = quota / period;
}

static void read_group(const char *dir, os_limits *l) {
    double a, b;
    if (read_numbers(dir, "cpu.max", &a, &b) == 2) hold_processors(l, a, b);
    else if (read_numbers(dir, "cpu.cfs_quota_us", &a, &b) >= 1) {
        double quota = a;
        if (read_numbers(dir, "cpu.cfs_period_us", &a, &b) >= 1) hold_processors(l, quota, a);
    }
    for (int v = 0; v < 2; v++) // version 1 writes nearly 2^63 for none
        if (read_numbers(dir, v ? "memory.limit_in_bytes" : "memory.max", &a, &b) >= 1 && a >= 1 && a < 0x1p62 && (l->memory == 0 || a < (double)l->memory))
            l->memory = (uint64_t)a;
}

// The group at root/path and all above it. A path that is not to be seen here (a container's own view) leaves the root.
static void read_groups(const char *root, const char *path, os_limits *l) {
    char dir[4096];
    size_t least = strlen(root);
    if (strstr(path, "..") || (size_t)snprintf(dir, sizeof dir, "%s%s", root, path) >= sizeof dir) snprintf(dir, sizeof dir, "%s", root);
    for (;;) {
        read_group(dir, l);
        char *slash = strrchr(dir, '/');
        if (!slash || (size_t)(slash - dir) < least) return;
        *slash = 0;
    }
}

os_limits os_cgroup_limits(const char *self, const char *root) {
    os_limits l = {0, 0};
    FILE *f = fopen(self, "re");
    char line[4096], dir[4096];
    while (f && fgets(line, sizeof line, f)) { // number:controllers:path
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        names++;
        if (!strcmp(path, "/")) path++;
        if (!*names) {
            read_groups(root, path, &l);
            continue;
        }
        char *rest;
        for (char *name = strtok_r(names, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
            if ((!strcmp(name, "cpu") || !strcmp(name, "memory")) && (size_t)snprintf(dir, sizeof dir, "%s/%s", root, name) < sizeof dir) read_groups(dir, path, &l);
    }
    if (f) fclose(f);
    else read_groups(root, "", &l);
    return l;
}

os_limits os_process_limits(void) { return os_cgroup_limits("/proc/self/cgroup", "/sys/fs/cgroup"); }

uint64_t os_memory(void) {
    long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && bytes > 0 ? (uint64_t)pages * (uint64_t)bytes : 0;
}

bool os_random(void *dst, size_t n) { return getrandom(dst, n, 0) == (ssize_t)n; }

void os_huge_pages(void *at, size_t bytes) { (void)madvise(at, bytes, MADV_HUGEPAGE); }

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 // Linux 5.14; older ones refuse it
#endif
bool os_populate(void *at, size_t bytes) { return madvise(at, bytes, MADV_POPULATE_WRITE) == 0; }

struct timespec os_modified(const struct stat *st) { return st->st_mtim; }

int os_cond_init(pthread_cond_t *c) {
    pthread_condattr_t attr;
    int e = pthread_condattr_init(&attr);
    if (e) return e;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    e = pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
    return e;
}

int os_cond_wait_until(pthread_cond_t *c, pthread_mutex_t *lock, int64_t deadline_us) {
    struct timespec at = {.tv_sec = deadline_us / 1000000, .tv_nsec = deadline_us % 1000000 * 1000};
    return pthread_cond_timedwait(c, lock, &at);
}
#endif
