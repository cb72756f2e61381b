// obs/obs_log: leveled lines. One write a line, under a lock, so that lines of several threads never mix.
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "obs/obs.h"

static _Atomic int level_now = OBS_INFO;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // guards sink and the order of lines
static void (*sink)(void *, const char *, size_t);
static void *sink_ctx;
static const char *const names[] = {"error", "warn", "info", "debug"};

void obs_set_level(obs_level l) { atomic_store(&level_now, (int)l); }
obs_level obs_get_level(void) { return (obs_level)atomic_load(&level_now); }

bool obs_parse_level(const char *name, obs_level *out) {
    for (int i = 0; name && i < 4; i++)
        if (!strcmp(name, names[i])) return *out = (obs_level)i, true;
    return false;
}

void obs_set_sink(void (*fn)(void *, const char *, size_t), void *ctx) {
    pthread_mutex_lock(&lock);
    sink = fn;
    sink_ctx = ctx;
    pthread_mutex_unlock(&lock);
}

static void put_line(const char *line, size_t n) {
    pthread_mutex_lock(&lock);
    if (sink) sink(sink_ctx, line, n);
    else
        while (n) {
            ssize_t w = write(STDERR_FILENO, line, n);
            if (w < 0 && errno == EINTR) continue;
            if (w <= 0) break; // nowhere to say it
            line += w;
            n -= (size_t)w;
        }
    pthread_mutex_unlock(&lock);
}

void obs_log(obs_level level, const char *fmt, ...) {
    if ((int)level > atomic_load(&level_now)) return;
    char text[2001], line[2001 * 4 + 64];
    va_list ap;
    va_start(ap, fmt);
    int wanted = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (wanted < 0) return;
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    struct tm tm;
    gmtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(line, 32, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, 32, ".%03dZ %-5s ", (int)(ts.tv_nsec / 1000000), names[level]);
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x20 || c == 0x7F) n += (size_t)snprintf(line + n, 8, "\\x%02x", c);
        else line[n++] = (char)c;
    }
    line[n++] = '\n';
    put_line(line, n);
}
