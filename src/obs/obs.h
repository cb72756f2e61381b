// obs: log lines and metrics.
//
// Owns the process-wide log level and sink and the table of metrics (obs_table.c). Nothing here fails towards the caller: a line or
// a series that cannot be kept is dropped and counted. Every function may be called from any thread; updates of metrics take no lock.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

// ---- log lines -----------------------------------------------------------------------------------

typedef enum obs_level { OBS_ERROR, OBS_WARN, OBS_INFO, OBS_DEBUG } obs_level;

// One line to stderr (or the sink): "2026-01-31T12:00:00.123Z info message". Control characters in the message, newlines too, are
// written as \xNN, so that text from outside cannot forge a line. Longer than 2,000 bytes is cut.
void obs_log(obs_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void obs_set_level(obs_level most_verbose); // OBS_INFO at first
obs_level obs_get_level(void);
bool obs_parse_level(const char *name, obs_level *out); // "error", "warn", "info", "debug"
// Where lines go instead of stderr: fn gets the whole line with its newline; NULL: stderr again. Calls are serialised.
void obs_set_sink(void (*fn)(void *ctx, const char *line, size_t len), void *ctx);

// ---- metrics -------------------------------------------------------------------------------------

// Every metric, by who writes it. The table in obs_table.c, in the same order, has names, kinds, labels, buckets.
typedef enum obs_metric {
    // the api room, at events of a request; label: model
    OBS_REQUESTS_FINISHED,  // counter; labels model, reason ("stop", "length", "abort", "error")
    OBS_TTFT,               // histogram, seconds from arrival to the first token
    OBS_INTER_TOKEN,        // histogram, seconds between tokens of a choice
    OBS_E2E,                // histogram, seconds from arrival to the end
    OBS_QUEUE_TIME,         // histogram, seconds
    OBS_PREFILL_TIME,
    OBS_DECODE_TIME,
    OBS_REQUEST_PROMPT,     // histogram, tokens
    OBS_REQUEST_GENERATED,
    OBS_PROMPT_TOKENS,      // counter
    OBS_PROMPT_COMPUTED,    // counter: of these, what was not found computed
    OBS_GENERATED_TOKENS,   // counter
    OBS_PROMPT_SECONDS,     // counter
    OBS_GENERATED_SECONDS,  // counter
    OBS_PREFIX_QUERIES,     // counter, tokens of prompts
    OBS_PREFIX_HITS,        // counter, tokens of prompts that were cached
    OBS_EMBEDDINGS,         // counter, embeddings and scores
    OBS_INFERENCE_TIME,     // histogram, seconds: reading the prompt and generating
    OBS_CLIENT_TOKENS,      // counter; labels client (the key's name), kind ("prompt", "cached", "generated")
    // the api room, when /metrics is read, from altiserve_each_stats; label model. OBS_PAGES: labels model, state ("free", "cached", "used")
    OBS_RUNNING, OBS_WAITING, OBS_KV_USAGE, OBS_PAGES,
    OBS_PROMPT_RATE, OBS_GENERATED_RATE, // gauges, tokens a second of the time spent so
    // the api room, when /metrics is read, from altiserve_get_stats; no labels
    OBS_QUEUED, OBS_LOADING, OBS_MEMORY_LIMIT, OBS_MEMORY_USED,
    // the engine
    OBS_STEPS,              // counter; label model
    OBS_STEP_SECONDS,       // histogram; label model
    OBS_STEP_ROWS,          // histogram; label model
    OBS_STEP_SEQUENCES,     // histogram; label model
    OBS_STEP_PHASE,         // counter, seconds; labels model, phase ("compose", "compute", "sample")
    OBS_STEP_KIND,          // counter; labels model, kind ("prompt", "decode", "mixed")
    OBS_PREEMPTIONS,        // counter; label model: for want of pages
    OBS_DISPLACED,          // counter; label model: for a client or priority whose turn it was
    OBS_EVICTIONS,          // counter, pages; label model
    OBS_REJECTS,            // counter; labels model, reason ("queue", "context", "pages", "timeout")
    OBS_DRAFTS,             // counter; label model: sequences of a step that had drafts
    OBS_DRAFTED,            // counter, tokens; label model
    OBS_ACCEPTED,           // counter, tokens; label model
    OBS_ACCEPTED_AT,        // counter, tokens; labels model, position (in the drafts of a step, from 0)
    OBS_RESPONSES,          // counter; labels model, result ("hit", "miss"): deterministic requests looked up in the cache of responses
    OBS_RESPONSE_ENTRIES, OBS_RESPONSE_BYTES, // gauges; no labels
    OBS_TIER_TOKENS,        // counter, tokens that were not computed; labels model, tier ("pool", "host", "disk")
    OBS_TIER_PAGES,         // counter; labels tier, event ("written", "read", "dropped", "damaged", "evicted")
    OBS_TIER_BYTES,         // gauge; label tier
    OBS_TIER_SLOWEST,       // gauge; label tier
    OBS_LOADS,              // counter; labels model, result ("ok", "error")
    OBS_LOAD_SECONDS,       // histogram; label model
    OBS_UNLOADS,            // counter; label model
    // the http room
    OBS_HTTP_REQUESTS,      // counter; labels path (the api's route, not what the client wrote), code
    OBS_HTTP_CONNECTIONS,   // gauge
    OBS_HTTP_CUT,           // counter; label reason ("headers", "body", "lag", "stall", "stop")
    // obs itself
    OBS_DROPPED_SERIES,     // counter
    OBS_METRICS
} obs_metric;

// A metric takes two labels at most; NULL for what it does not have. Past 512 label pairs a metric, further ones count under "other".
// Strings are copied when a pair is first seen.
void obs_count(obs_metric m, const char *label1, const char *label2, double add);     // counters; add >= 0
void obs_set(obs_metric m, const char *label1, const char *label2, double value);     // gauges
void obs_observe(obs_metric m, const char *label1, const char *label2, double value); // histograms
void obs_zero(obs_metric m); // every series of a gauge: before those that are there are set again
// The value of a counter or gauge, or the count of a histogram; 0 when never touched.
double obs_read(obs_metric m, const char *label1, const char *label2);

// ---- traces --------------------------------------------------------------------------------------

// What took from begin to end (microseconds, CLOCK_MONOTONIC). The last OBS_SPANS are kept.
enum { OBS_SPANS = 16384, OBS_SPAN_ARGS = 7 };
typedef struct obs_span {
    const char *name;        // a literal
    const char *track;       // spans of a track lie beside or inside each other; copied, cut at 47 bytes
    uint64_t    id;          // not 0: a request, whose spans may overlap others' (track is then ignored)
    int64_t     begin_us, end_us;
    struct { const char *name; double value; } args[OBS_SPAN_ARGS]; // names are literals; NULL ends
} obs_span;
void obs_trace_span(const obs_span *span);
// Appends everything that is kept as Chrome's trace format (JSON; opens in Perfetto and chrome://tracing). False when memory is gone.
bool obs_trace_render(strbuf *out);

// Appends the Prometheus text format (version 0.0.4) of everything, with process_* numbers. False when memory is gone.
bool obs_render(strbuf *out);
