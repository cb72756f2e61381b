// obs/obs_table: what is measured, under which names. vllm:* and llamacpp:* are the names that dashboards already read.
// Invariant: row i has id i (a static assertion cannot see it; tests/obs does).
#include "obs/obs_internal.h"

static const double seconds[] = {.001, .0025, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 0};
static const double between[] = {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 0};
static const double tokens[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 0};
static const double steps[] = {.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 0};
static const double rows[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 0};

#define MODEL {"model_name", NULL}
const obs_row obs_table[OBS_METRICS] = {
    {OBS_REQUESTS_FINISHED, OBS_COUNTER, {"vllm:request_success_total"}, "Requests that ended, by why.", {"model_name", "finished_reason"}, NULL},
    {OBS_TTFT, OBS_HISTOGRAM, {"vllm:time_to_first_token_seconds"}, "Time from arrival to the first token.", MODEL, seconds},
    {OBS_INTER_TOKEN, OBS_HISTOGRAM, {"vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"}, "Time between tokens of one choice.", MODEL, between},
    {OBS_E2E, OBS_HISTOGRAM, {"vllm:e2e_request_latency_seconds"}, "Time from arrival to the end of a request.", MODEL, seconds},
    {OBS_QUEUE_TIME, OBS_HISTOGRAM, {"vllm:request_queue_time_seconds"}, "Time a request waited before it was admitted.", MODEL, seconds},
    {OBS_PREFILL_TIME, OBS_HISTOGRAM, {"vllm:request_prefill_time_seconds"}, "Time spent reading the prompt.", MODEL, seconds},
    {OBS_DECODE_TIME, OBS_HISTOGRAM, {"vllm:request_decode_time_seconds"}, "Time spent generating.", MODEL, seconds},
    {OBS_REQUEST_PROMPT, OBS_HISTOGRAM, {"vllm:request_prompt_tokens"}, "Prompt tokens of a request.", MODEL, tokens},
    {OBS_REQUEST_GENERATED, OBS_HISTOGRAM, {"vllm:request_generation_tokens"}, "Generated tokens of a request.", MODEL, tokens},
    {OBS_PROMPT_TOKENS, OBS_COUNTER, {"vllm:prompt_tokens_total", "llamacpp:prompt_tokens_total"}, "Prompt tokens processed.", MODEL, NULL},
    {OBS_GENERATED_TOKENS, OBS_COUNTER, {"vllm:generation_tokens_total", "llamacpp:tokens_predicted_total"}, "Tokens generated.", MODEL, NULL},
    {OBS_PROMPT_SECONDS, OBS_COUNTER, {"llamacpp:prompt_seconds_total"}, "Time spent reading prompts.", MODEL, NULL},
    {OBS_GENERATED_SECONDS, OBS_COUNTER, {"llamacpp:tokens_predicted_seconds_total"}, "Time spent generating.", MODEL, NULL},
    {OBS_PREFIX_QUERIES, OBS_COUNTER, {"vllm:prefix_cache_queries_total"}, "Prompt tokens looked up in the prefix cache.", MODEL, NULL},
    {OBS_PREFIX_HITS, OBS_COUNTER, {"vllm:prefix_cache_hits_total"}, "Prompt tokens found in the prefix cache.", MODEL, NULL},
    {OBS_EMBEDDINGS, OBS_COUNTER, {"altiserve_embeddings_total"}, "Embeddings made and pairs of texts scored.", MODEL, NULL},
    {OBS_INFERENCE_TIME, OBS_HISTOGRAM, {"vllm:request_inference_time_seconds"}, "Time spent reading the prompt and generating.", MODEL, seconds},
    {OBS_CLIENT_TOKENS, OBS_COUNTER, {"altiserve_client_tokens_total"}, "Tokens by API key (its name) and kind.", {"client", "kind"}, NULL},
    {OBS_RUNNING, OBS_GAUGE, {"vllm:num_requests_running", "llamacpp:requests_processing"}, "Sequences running now.", MODEL, NULL},
    {OBS_WAITING, OBS_GAUGE, {"vllm:num_requests_waiting", "llamacpp:requests_deferred"}, "Requests waiting now for a place or pages.", MODEL, NULL},
    {OBS_KV_USAGE, OBS_GAUGE, {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "llamacpp:kv_cache_usage_ratio"}, "Share of KV pages in use, 0 to 1.", MODEL, NULL},
    {OBS_PAGES, OBS_GAUGE, {"altiserve_kv_pages"}, "KV pages by state: free, cached (kept for reuse alone), used.", {"model_name", "state"}, NULL},
    {OBS_PROMPT_RATE, OBS_GAUGE, {"llamacpp:prompt_tokens_seconds"}, "Prompt tokens a second of the time spent reading prompts.", MODEL, NULL},
    {OBS_GENERATED_RATE, OBS_GAUGE, {"llamacpp:predicted_tokens_seconds"}, "Tokens a second of the time spent generating.", MODEL, NULL},
    {OBS_QUEUED, OBS_GAUGE, {"altiserve_requests_queued"}, "Requests that have not begun, those too whose model is being loaded.", {NULL, NULL}, NULL},
    {OBS_LOADING, OBS_GAUGE, {"altiserve_models_loading"}, "Models being loaded now.", {NULL, NULL}, NULL},
    {OBS_MEMORY_LIMIT, OBS_GAUGE, {"altiserve_memory_limit_bytes"}, "The memory budget.", {NULL, NULL}, NULL},
    {OBS_MEMORY_USED, OBS_GAUGE, {"altiserve_memory_used_bytes"}, "What weights, pages and scratch take of the budget.", {NULL, NULL}, NULL},
    {OBS_STEPS, OBS_COUNTER, {"llamacpp:n_decode_total", "altiserve_steps_total"}, "Forward steps.", MODEL, NULL},
    {OBS_STEP_SECONDS, OBS_HISTOGRAM, {"altiserve_step_seconds"}, "Time of a forward step.", MODEL, steps},
    {OBS_STEP_ROWS, OBS_HISTOGRAM, {"altiserve_step_tokens"}, "Rows (tokens) of a forward step.", MODEL, rows},
    {OBS_STEP_SEQUENCES, OBS_HISTOGRAM, {"altiserve_step_sequences"}, "Sequences of a forward step.", MODEL, rows},
    {OBS_STEP_PHASE, OBS_COUNTER, {"altiserve_step_phase_seconds_total"}, "Time of steps by phase: compose, compute, sample.", {"model_name", "phase"}, NULL},
    {OBS_STEP_KIND, OBS_COUNTER, {"altiserve_steps_by_kind_total"}, "Forward steps by what they held: prompt, decode, mixed.", {"model_name", "kind"}, NULL},
    {OBS_PREEMPTIONS, OBS_COUNTER, {"vllm:num_preemptions_total"}, "Sequences put back because pages ran out.", MODEL, NULL},
    {OBS_DISPLACED, OBS_COUNTER, {"altiserve_displaced_total"}, "Sequences put back because another client or priority had its turn, or because their client does not read.", MODEL, NULL},
    {OBS_EVICTIONS, OBS_COUNTER, {"altiserve_kv_evictions_total"}, "Cached KV pages given up for others.", MODEL, NULL},
    {OBS_REJECTS, OBS_COUNTER, {"altiserve_rejects_total"}, "Requests refused, by reason: queue, context, pages, timeout.", {"model_name", "reason"}, NULL},
    {OBS_DRAFTS, OBS_COUNTER, {"vllm:spec_decode_num_drafts_total"}, "Times that drafts of a sequence were checked.", MODEL, NULL},
    {OBS_DRAFTED, OBS_COUNTER, {"vllm:spec_decode_num_draft_tokens_total"}, "Drafted tokens that were checked.", MODEL, NULL},
    {OBS_ACCEPTED, OBS_COUNTER, {"vllm:spec_decode_num_accepted_tokens_total"}, "Drafted tokens that were what plain sampling drew.", MODEL, NULL},
    {OBS_ACCEPTED_AT, OBS_COUNTER, {"vllm:spec_decode_num_accepted_tokens_per_pos_total"}, "Drafted tokens that were right, by their place among the drafts of a step.", {"model_name", "position"}, NULL},
    {OBS_RESPONSES, OBS_COUNTER, {"altiserve_response_cache_requests_total"}, "Deterministic requests looked up in the cache of responses, by result: hit, miss.", {"model_name", "result"}, NULL},
    {OBS_RESPONSE_ENTRIES, OBS_GAUGE, {"altiserve_response_cache_entries"}, "Answers in the cache of responses.", {NULL, NULL}, NULL},
    {OBS_RESPONSE_BYTES, OBS_GAUGE, {"altiserve_response_cache_bytes"}, "Bytes of the answers in the cache of responses.", {NULL, NULL}, NULL},
    {OBS_TIER_TOKENS, OBS_COUNTER, {"altiserve_prefix_hit_tokens_total"}, "Tokens found computed, by the tier that had them.", {"model_name", "tier"}, NULL},
    {OBS_TIER_PAGES, OBS_COUNTER, {"altiserve_cache_tier_pages_total"}, "Pages of the tiers below the pool, by what became of them.", {"tier", "event"}, NULL},
    {OBS_TIER_BYTES, OBS_GAUGE, {"altiserve_cache_tier_bytes"}, "Bytes that a tier below the pool holds.", {"tier", NULL}, NULL},
    {OBS_TIER_SLOWEST, OBS_GAUGE, {"altiserve_cache_tier_slowest_write_seconds"}, "The longest time since the start from a page's filling to its file.", {"tier", NULL}, NULL},
    {OBS_LOADS, OBS_COUNTER, {"altiserve_model_loads_total"}, "Models loaded, by result.", {"model_name", "result"}, NULL},
    {OBS_LOAD_SECONDS, OBS_HISTOGRAM, {"altiserve_model_load_seconds"}, "Time to load a model.", MODEL, seconds},
    {OBS_UNLOADS, OBS_COUNTER, {"altiserve_model_unloads_total"}, "Models unloaded to make room.", MODEL, NULL},
    {OBS_HTTP_REQUESTS, OBS_COUNTER, {"altiserve_http_requests_total"}, "HTTP requests answered.", {"path", "code"}, NULL},
    {OBS_HTTP_CONNECTIONS, OBS_GAUGE, {"altiserve_http_connections"}, "Open connections.", {NULL, NULL}, NULL},
    {OBS_HTTP_CUT, OBS_COUNTER, {"altiserve_http_cut_total"}, "Connections cut by a limit, by which.", {"reason", NULL}, NULL},
    {OBS_DROPPED_SERIES, OBS_COUNTER, {"altiserve_dropped_series_total"}, "Updates of metrics that went to the series \"other\" or nowhere.", {NULL, NULL}, NULL},
};
