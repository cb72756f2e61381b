// obs/obs_metrics: the series behind the table, and their Prometheus text.
//
// A metric's series are a list that only grows (pushed with compare-and-swap, never freed), so that updates and rendering need no lock.
// Doubles are kept as their bits in 64-bit atomics. A histogram's buckets are counts of their own, added up when rendered, so one
// observation touches one bucket and the sum; a reader may see them a moment apart, but bucket +Inf always equals _count.
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "obs/obs_internal.h"

enum { MAX_SERIES = 512 };

typedef struct series {
    struct series *next;
    char *label[2];
    _Atomic uint64_t value;                        // counter, gauge, or the sum of a histogram: bits of a double
    _Atomic uint64_t buckets[OBS_MAX_BUCKETS + 1]; // histograms
} series;

static struct {
    series *_Atomic head;
    _Atomic int count;
} metrics[OBS_METRICS];

static uint64_t to_bits(double d) {
    uint64_t u;
    memcpy(&u, &d, sizeof u);
    return u;
}

static double from_bits(uint64_t u) {
    double d;
    memcpy(&d, &u, sizeof d);
    return d;
}

static void add(_Atomic uint64_t *to, double v) {
    uint64_t old = atomic_load_explicit(to, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(to, &old, to_bits(from_bits(old) + v), memory_order_relaxed, memory_order_relaxed)) {}
}

static bool same(const char *a, const char *b) { return a == b || (a && b && !strcmp(a, b)); }

static series *search(series *from, const series *until, const char *l1, const char *l2) {
    for (series *s = from; s != until; s = s->next)
        if (same(s->label[0], l1) && same(s->label[1], l2)) return s;
    return NULL;
}

static void drop(series *s) {
    mem_free(s->label[0]);
    mem_free(s->label[1]);
    mem_free(s);
}

// The series of a label pair, made when it is new; NULL when memory is gone.
static series *series_of(obs_metric m, const char *l1, const char *l2) {
    const obs_row *row = &obs_table[m];
    l1 = row->labels[0] ? (l1 ? l1 : "") : NULL;
    l2 = row->labels[1] ? (l2 ? l2 : "") : NULL;
    series *head = atomic_load_explicit(&metrics[m].head, memory_order_acquire);
    series *s = search(head, NULL, l1, l2);
    if (s) return s;
    if (atomic_load(&metrics[m].count) >= MAX_SERIES && !(l1 && !strcmp(l1, "other") && same(l2, row->labels[1] ? "other" : NULL))) {
        obs_count(OBS_DROPPED_SERIES, NULL, NULL, 1);
        return series_of(m, "other", "other");
    }
    series *made = mem_calloc(1, sizeof *made);
    if (!made) return NULL;
    made->label[0] = l1 ? mem_strdup(l1) : NULL;
    made->label[1] = l2 ? mem_strdup(l2) : NULL;
    if ((l1 && !made->label[0]) || (l2 && !made->label[1])) return drop(made), NULL;
    for (;;) {
        made->next = head;
        series *seen = head;
        if (atomic_compare_exchange_weak_explicit(&metrics[m].head, &head, made, memory_order_acq_rel, memory_order_acquire)) break;
        // Someone was faster: perhaps with the same pair.
        if ((s = search(head, seen, l1, l2))) return drop(made), s;
    }
    atomic_fetch_add(&metrics[m].count, 1);
    return made;
}

void obs_count(obs_metric m, const char *l1, const char *l2, double v) {
    if ((unsigned)m >= OBS_METRICS || !(v >= 0) || isinf(v)) return;
    series *s = series_of(m, l1, l2);
    if (s) add(&s->value, v);
}

void obs_set(obs_metric m, const char *l1, const char *l2, double v) {
    if ((unsigned)m >= OBS_METRICS) return;
    series *s = series_of(m, l1, l2);
    if (s) atomic_store_explicit(&s->value, to_bits(v), memory_order_relaxed);
}

void obs_zero(obs_metric m) {
    if ((unsigned)m >= OBS_METRICS) return;
    for (series *s = atomic_load_explicit(&metrics[m].head, memory_order_acquire); s; s = s->next) atomic_store_explicit(&s->value, to_bits(0), memory_order_relaxed);
}

static int n_bounds(const obs_row *row) {
    int n = 0;
    while (row->bounds && row->bounds[n] != 0) n++;
    return n;
}

void obs_observe(obs_metric m, const char *l1, const char *l2, double v) {
    if ((unsigned)m >= OBS_METRICS || !isfinite(v)) return;
    const obs_row *row = &obs_table[m];
    series *s = series_of(m, l1, l2);
    if (!s || !row->bounds) return;
    int i = 0, n = n_bounds(row);
    while (i < n && v > row->bounds[i]) i++;
    atomic_fetch_add_explicit(&s->buckets[i], 1, memory_order_relaxed);
    add(&s->value, v);
}

double obs_read(obs_metric m, const char *l1, const char *l2) {
    if ((unsigned)m >= OBS_METRICS) return 0;
    const obs_row *row = &obs_table[m];
    series *s = search(atomic_load_explicit(&metrics[m].head, memory_order_acquire), NULL, row->labels[0] ? (l1 ? l1 : "") : NULL,
                       row->labels[1] ? (l2 ? l2 : "") : NULL);
    if (!s) return 0;
    if (row->kind != OBS_HISTOGRAM) return from_bits(atomic_load(&s->value));
    uint64_t n = 0;
    for (int i = 0; i <= n_bounds(row); i++) n += atomic_load(&s->buckets[i]);
    return (double)n;
}

// ---- text ----------------------------------------------------------------------------------------

void obs_put_number(strbuf *out, double v) {
    if (isnan(v)) strbuf_adds(out, "NaN");
    else if (isinf(v)) strbuf_adds(out, v > 0 ? "+Inf" : "-Inf");
    else if (fabs(v) < 1e15 && v == floor(v)) strbuf_addf(out, "%.0f", v);
    else {
        char text[40];
        for (int digits = 1; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, v);
            if (strtod(text, NULL) == v) break;
        }
        strbuf_adds(out, text);
    }
}

void obs_put_process(strbuf *out, const char *name, const char *kind, const char *help, double value) {
    strbuf_addf(out, "# HELP %s %s\n# TYPE %s %s\n%s ", name, help, name, kind, name);
    obs_put_number(out, value);
    strbuf_addc(out, '\n');
}

static void put_label(strbuf *out, const char *name, const char *value, bool first) {
    strbuf_addf(out, "%s%s=\"", first ? "" : ",", name);
    for (const char *p = value; *p; p++) {
        if (*p == '\\' || *p == '"') strbuf_addc(out, '\\');
        if (*p == '\n') strbuf_adds(out, "\\n");
        else strbuf_addc(out, *p);
    }
    strbuf_addc(out, '"');
}

// name[suffix]{labels[,le="bound"]} — the part before the value.
static void put_series(strbuf *out, const obs_row *row, const char *name, const char *suffix, const series *s, const char *le) {
    strbuf_addf(out, "%s%s", name, suffix);
    bool any = false;
    for (int i = 0; i < 2; i++)
        if (row->labels[i]) {
            if (!any) strbuf_addc(out, '{');
            put_label(out, row->labels[i], s->label[i], !any);
            any = true;
        }
    if (le) {
        if (!any) strbuf_addc(out, '{');
        put_label(out, "le", le, !any);
        any = true;
    }
    strbuf_adds(out, any ? "} " : " ");
}

static void put_histogram(strbuf *out, const obs_row *row, const char *name, const series *s) {
    uint64_t total = 0;
    int n = n_bounds(row);
    for (int i = 0; i <= n; i++) {
        total += atomic_load_explicit(&s->buckets[i], memory_order_relaxed);
        strbuf le = {0};
        obs_put_number(&le, i < n ? row->bounds[i] : INFINITY);
        put_series(out, row, name, "_bucket", s, le.failed ? "" : le.data);
        out->failed |= le.failed;
        strbuf_free(&le);
        strbuf_addf(out, "%llu\n", (unsigned long long)total);
    }
    put_series(out, row, name, "_sum", s, NULL);
    obs_put_number(out, from_bits(atomic_load(&s->value)));
    strbuf_addc(out, '\n');
    put_series(out, row, name, "_count", s, NULL);
    strbuf_addf(out, "%llu\n", (unsigned long long)total);
}

bool obs_render(strbuf *out) {
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    for (int m = 0; m < OBS_METRICS; m++) {
        const obs_row *row = &obs_table[m];
        // What has no labels is there from the start, as zero.
        if (!row->labels[0] && row->kind != OBS_HISTOGRAM) series_of((obs_metric)m, NULL, NULL);
        for (int a = 0; a < OBS_MAX_NAMES && row->names[a]; a++) {
            strbuf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", row->names[a], row->help, row->names[a], kinds[row->kind]);
            for (series *s = atomic_load_explicit(&metrics[m].head, memory_order_acquire); s; s = s->next) {
                if (row->kind == OBS_HISTOGRAM) {
                    put_histogram(out, row, row->names[a], s);
                    continue;
                }
                put_series(out, row, row->names[a], "", s, NULL);
                obs_put_number(out, from_bits(atomic_load_explicit(&s->value, memory_order_relaxed)));
                strbuf_addc(out, '\n');
            }
        }
    }
    obs_render_process(out);
    return !out->failed;
}
