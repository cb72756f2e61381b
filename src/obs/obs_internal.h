// obs/obs_internal: the row of the metrics table, and process numbers.
#pragma once
#include "obs/obs.h"

typedef enum obs_kind { OBS_COUNTER, OBS_GAUGE, OBS_HISTOGRAM } obs_kind;
enum { OBS_MAX_NAMES = 3, OBS_MAX_BUCKETS = 24 };

typedef struct obs_row {
    obs_metric  id;
    obs_kind    kind;
    const char *names[OBS_MAX_NAMES]; // the first, then aliases under which the same series are written again
    const char *help;
    const char *labels[2];
    const double *bounds; // histograms: ascending upper bounds, ended by 0
} obs_row;

extern const obs_row obs_table[OBS_METRICS];

// Appends process_resident_memory_bytes, process_open_fds, process_cpu_seconds_total, process_start_time_seconds.
void obs_render_process(strbuf *out);
void obs_put_process(strbuf *out, const char *name, const char *kind, const char *help, double value); // one of them
// A double as Prometheus text: shortest decimal that reads back the same, "+Inf", "NaN".
void obs_put_number(strbuf *out, double v);
