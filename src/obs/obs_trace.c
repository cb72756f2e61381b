// obs/obs_trace: the last spans of steps and requests, and their text in Chrome's trace format.
//
// A ring under one lock, made at the first span: a few spans a step cost nothing beside the step, so it is always on and only rendered on demand. The lock is held to copy
// one span, never while its text is made: all of that takes a tenth of a second, and the engine would wait for it.
#include <pthread.h>
#include <string.h>

#include "obs/obs_internal.h"

typedef struct kept {
    obs_span span;
    char     track[48];
} kept;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static kept *ring;
static uint64_t written; // spans since the start

void obs_trace_span(const obs_span *span) {
    pthread_mutex_lock(&lock);
    if (!ring) ring = mem_calloc(OBS_SPANS, sizeof *ring);
    if (ring) {
        kept *k = &ring[written++ % OBS_SPANS];
        k->span = *span;
        size_t n = span->track ? strnlen(span->track, sizeof k->track - 1) : 0;
        if (n) memcpy(k->track, span->track, n);
        k->track[n] = 0;
    }
    pthread_mutex_unlock(&lock);
}

static uint64_t count_written(void) {
    pthread_mutex_lock(&lock);
    uint64_t n = written;
    pthread_mutex_unlock(&lock);
    return n;
}

// The span of that number; false when it is kept no longer.
static bool copy_span(uint64_t number, kept *out) {
    pthread_mutex_lock(&lock);
    bool there = ring && written - number <= OBS_SPANS;
    if (there) *out = ring[number % OBS_SPANS];
    pthread_mutex_unlock(&lock);
    return there;
}

static void put_text(strbuf *out, const char *text) {
    strbuf_addc(out, '"');
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\') strbuf_addc(out, '\\');
        if (*p < 0x20 || *p > 0x7E) strbuf_addc(out, '?'); // names of files may hold anything, cut characters too
        else strbuf_addc(out, (char)*p);
    }
    strbuf_addc(out, '"');
}

static void put_args(strbuf *out, const obs_span *s) {
    strbuf_adds(out, ",\"args\":{");
    for (int i = 0; i < OBS_SPAN_ARGS && s->args[i].name; i++) {
        if (i) strbuf_addc(out, ',');
        put_text(out, s->args[i].name);
        strbuf_addc(out, ':');
        obs_put_number(out, s->args[i].value);
    }
    strbuf_adds(out, "}}");
}

// Threads of the trace are tracks, numbered as they are met, from 1 on.
static int track_of(char seen[][48], int *n, const char *track, strbuf *out) {
    enum { MOST = 64 };
    for (int i = 0; i < *n; i++)
        if (!strcmp(seen[i], track)) return i + 1;
    if (*n == MOST) return MOST + 1;
    memcpy(seen[*n], track, 48);
    strbuf_addf(out, ",\n{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":1,\"tid\":%d,\"args\":{\"name\":", *n + 1);
    put_text(out, track);
    strbuf_adds(out, "}}");
    return ++*n;
}

bool obs_trace_render(strbuf *out) {
    char seen[64][48];
    int n_seen = 0;
    strbuf_adds(out, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":1,\"tid\":0,\"args\":{\"name\":\"altiserve\"}}");
    kept k;
    const obs_span *s = &k.span;
    uint64_t end = count_written();
    for (uint64_t i = end < OBS_SPANS ? 0 : end - OBS_SPANS; i < end && !out->failed; i++) {
        if (!copy_span(i, &k)) continue;
        if (s->id) { // a request: asynchronous events, which may overlap
            strbuf_addf(out, ",\n{\"ph\":\"b\",\"cat\":\"request\",\"name\":\"%s\",\"id\":%llu,\"pid\":1,\"tid\":0,\"ts\":%lld", s->name,
                        (unsigned long long)s->id, (long long)s->begin_us);
            put_args(out, s);
            strbuf_addf(out, ",\n{\"ph\":\"e\",\"cat\":\"request\",\"name\":\"%s\",\"id\":%llu,\"pid\":1,\"tid\":0,\"ts\":%lld}", s->name,
                        (unsigned long long)s->id, (long long)s->end_us);
        } else {
            int tid = track_of(seen, &n_seen, k.track, out);
            strbuf_addf(out, ",\n{\"ph\":\"X\",\"name\":\"%s\",\"pid\":1,\"tid\":%d,\"ts\":%lld,\"dur\":%lld", s->name, tid,
                        (long long)s->begin_us, (long long)(s->end_us - s->begin_us));
            put_args(out, s);
        }
    }
    strbuf_adds(out, "\n]}\n");
    return !out->failed;
}
