// api/api_native: /health, /metrics, and llama-server's /completion, /tokenize, /detokenize, /apply-template, /props, /slots.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/api_internal.h"
#include "base/utf8.h"

void api_health(job *j) {
    strbuf out = {0};
    strbuf_adds(&out, "{\"status\":\"ok\"}");
    job_respond(j, 200, "application/json", &out);
}

static void set_model(void *ctx, const altiserve_model_stats *m) {
    (void)ctx;
    uint64_t total = m->pages_free + m->pages_cached + m->pages_used; // cached pages are given up when others need them
    obs_set(OBS_RUNNING, m->id, NULL, m->running);
    obs_set(OBS_WAITING, m->id, NULL, m->waiting);
    obs_set(OBS_KV_USAGE, m->id, NULL, total ? (double)m->pages_used / (double)total : 0);
    obs_set(OBS_PAGES, m->id, "free", (double)m->pages_free);
    obs_set(OBS_PAGES, m->id, "cached", (double)m->pages_cached);
    obs_set(OBS_PAGES, m->id, "used", (double)m->pages_used);
    double read = obs_read(OBS_PROMPT_SECONDS, m->id, NULL), made = obs_read(OBS_GENERATED_SECONDS, m->id, NULL);
    obs_set(OBS_PROMPT_RATE, m->id, NULL, read > 0 ? obs_read(OBS_PROMPT_COMPUTED, m->id, NULL) / read : 0);
    obs_set(OBS_GENERATED_RATE, m->id, NULL, made > 0 ? obs_read(OBS_GENERATED_TOKENS, m->id, NULL) / made : 0);
}

void api_metrics(job *j) {
    static const obs_metric of_models[] = {OBS_RUNNING, OBS_WAITING, OBS_KV_USAGE, OBS_PAGES, OBS_PROMPT_RATE, OBS_GENERATED_RATE};
    altiserve_stats s = {0};
    altiserve_get_stats(j->a->engine, &s);
    for (size_t i = 0; i < sizeof of_models / sizeof *of_models; i++) obs_zero(of_models[i]); // of models that are gone
    altiserve_each_stats(j->a->engine, set_model, NULL);
    obs_set(OBS_QUEUED, NULL, NULL, s.waiting);
    obs_set(OBS_LOADING, NULL, NULL, s.loading);
    obs_set(OBS_MEMORY_LIMIT, NULL, NULL, (double)s.memory_limit);
    obs_set(OBS_MEMORY_USED, NULL, NULL, (double)s.memory_used);
    strbuf out = {0};
    obs_render(&out);
    job_respond(j, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
}

void api_trace(job *j) {
    strbuf out = {0};
    obs_trace_render(&out);
    job_respond(j, 200, "application/json", &out);
}

// ---- text and ids --------------------------------------------------------------------------------

static bool get_bool(const json_t *body, const char *name, bool otherwise, bool *out, api_error *e) {
    const json_t *v = json_object_get(body, name);
    *out = otherwise;
    if (!v || json_is_null(v)) return true;
    if (!json_is_boolean(v)) return api_fail(e, 400, name, "invalid_type", "%s must be a boolean, not %s", name, api_json_type(v));
    *out = json_is_true(v);
    return true;
}

static bool get_model(job *j, api_error *e) {
    const json_t *v = json_object_get(j->body, "model");
    if (v && !json_is_null(v) && !json_is_string(v)) return api_fail(e, 400, "model", "invalid_type", "model must be a string, not %s", api_json_type(v));
    return api_find_model(j, json_string_value(v), &j->model, e);
}

static void put_piece(job *j, int32_t id, strbuf *out) {
    char *text = NULL;
    size_t len = 0;
    error err;
    bool ok = !altiserve_detokenize(j->a->engine, j->model.id, &id, 1, &text, &len, &err);
    strbuf_addf(out, "{\"id\":%d,\"piece\":", id);
    if (ok) {
        if (utf8_valid(text, len)) api_put_string(out, text, len);
        else { // llama-server then gives the bytes
            strbuf_addc(out, '[');
            for (size_t i = 0; i < len; i++) strbuf_addf(out, "%s%u", i ? "," : "", (unsigned char)text[i]);
            strbuf_addc(out, ']');
        }
    } else strbuf_adds(out, "\"\"");
    strbuf_addc(out, '}');
    mem_free(text);
}

void api_tokenize(job *j) {
    if (!job_body(j)) return;
    api_error e;
    error err = {0};
    bool special, parse, pieces;
    const char *param = json_object_get(j->body, "content") ? "content" : "prompt"; // llama-server's name, vLLM's name
    const json_t *text = json_object_get(j->body, param);
    bool ok = get_bool(j->body, "add_special", false, &special, &e) && get_bool(j->body, "parse_special", true, &parse, &e) &&
              get_bool(j->body, "with_pieces", false, &pieces, &e);
    if (ok && !text) ok = api_fail(&e, 400, "content", "missing_required_parameter", "content is missing");
    if (ok && !json_is_string(text)) ok = api_fail(&e, 400, param, "invalid_type", "%s must be a string, not %s", param, api_json_type(text));
    ok = ok && get_model(j, &e);
    int32_t *ids = NULL;
    size_t n = 0;
    if (ok && altiserve_tokenize(j->a->engine, j->model.id, json_string_value(text), json_string_length(text),
                                 (special ? TOKENIZE_ADD_SPECIAL : 0) | (parse ? TOKENIZE_PARSE_SPECIAL : 0), &ids, &n, &err))
        ok = api_fail_status(&e, &err, param);
    if (!ok) {
        job_fail(j, &e);
        return;
    }
    strbuf out = {0};
    strbuf_adds(&out, "{\"tokens\":[");
    for (size_t i = 0; i < n && !out.failed; i++) {
        if (i) strbuf_addc(&out, ',');
        if (pieces) put_piece(j, ids[i], &out);
        else strbuf_addf(&out, "%d", ids[i]);
    }
    strbuf_addf(&out, "],\"count\":%zu}", n);
    mem_free(ids);
    job_respond(j, 200, "application/json", &out);
}

void api_detokenize(job *j) {
    if (!job_body(j)) return;
    api_error e;
    error err = {0};
    const json_t *list = json_object_get(j->body, "tokens");
    size_t n = json_array_size(list), len = 0;
    bool ok = true;
    if (!list) ok = api_fail(&e, 400, "tokens", "missing_required_parameter", "tokens is missing");
    else if (!json_is_array(list)) ok = api_fail(&e, 400, "tokens", "invalid_type", "tokens must be an array of token ids, not %s", api_json_type(list));
    ok = ok && get_model(j, &e) && api_check_ids(list, j->model.vocabulary, "tokens", &e);
    int32_t *ids = ok ? mem_calloc(n, sizeof *ids) : NULL;
    if (ok && !ids) ok = api_fail(&e, 503, NULL, "unavailable", "no memory for this request");
    if (ok) api_copy_ids(list, ids);
    char *text = NULL;
    if (ok && altiserve_detokenize(j->a->engine, j->model.id, ids, n, &text, &len, &err)) ok = api_fail_status(&e, &err, "tokens");
    mem_free(ids);
    if (!ok) {
        job_fail(j, &e);
        return;
    }
    strbuf out = {0};
    strbuf_adds(&out, "{\"content\":");
    api_put_string(&out, text, len);
    strbuf_addc(&out, '}');
    mem_free(text);
    job_respond(j, 200, "application/json", &out);
}

void api_apply_template(job *j) {
    if (!job_body(j)) return;
    api_error e;
    error err = {0};
    char *input = NULL, *text = NULL;
    size_t n = 0, len = 0;
    api_begin_fields(&j->p);
    bool ok = api_read_fields(&j->p, j->body, FOR_TEMPLATE, "", &e) && api_find_model(j, j->p.model, &j->model, &e) &&
              api_chat_input(j, json_object_get(j->body, "messages"), "messages", NULL, &input, &n, &e);
    if (ok && altiserve_template(j->a->engine, j->model.id, input, n, &text, &len, &err)) ok = api_fail_status(&e, &err, "messages");
    mem_free(input);
    if (!ok) {
        job_fail(j, &e);
        return;
    }
    strbuf out = {0};
    strbuf_adds(&out, "{\"prompt\":");
    api_put_string(&out, text, len);
    strbuf_addc(&out, '}');
    mem_free(text);
    job_respond(j, 200, "application/json", &out);
}

void api_props(job *j) {
    api_error e;
    if (!api_find_model(j, http_query(j->r, "model"), &j->model, &e)) {
        if (http_query(j->r, "model")) {
            job_fail(j, &e);
            return;
        }
        memset(&j->model, 0, sizeof j->model); // several models: what is common to all
    }
    strbuf out = {0};
    altiserve_stats s;
    altiserve_get_stats(j->a->engine, &s);
    strbuf_addf(&out, "{\"default_generation_settings\":{\"n_ctx\":%u},\"total_slots\":%u,\"model_alias\":",
                j->model.state == MODEL_READY ? j->model.context : 0, s.parallel); // n_ctx: before, nothing was held against the memory
    api_put_string(&out, j->model.id, strlen(j->model.id));
    strbuf_addf(&out, ",\"modalities\":{\"vision\":false,\"audio\":false},\"build_info\":\"altiserve-%s\"}", altiserve_version());
    job_respond(j, 200, "application/json", &out);
}

// One entry a running sequence is what llama-server's clients count; ours have no fixed slots, so none says more than that it is busy.
void api_slots(job *j) {
    altiserve_stats s = {0};
    altiserve_get_stats(j->a->engine, &s);
    strbuf out = {0};
    strbuf_addc(&out, '[');
    for (uint32_t i = 0; i < s.running; i++) strbuf_addf(&out, "%s{\"id\":%u,\"is_processing\":true}", i ? "," : "", i);
    strbuf_addc(&out, ']');
    job_respond(j, 200, "application/json", &out);
}

// ---- /completion ---------------------------------------------------------------------------------

// `count` tokens in so many seconds, which are measured in whole microseconds, and what follows from it: nothing where there are none.
static void put_rate(strbuf *out, const char *name, uint32_t count, double seconds) {
    double ms = round(seconds * 1e6) / 1e3;
    const struct { const char *what; double value; } all[] = {{"ms", ms}, {"per_token_ms", count ? ms / count : 0}, {"per_second", ms > 0 ? count / ms * 1000 : 0}};
    strbuf_addf(out, ",\"%s_n\":%u", name, count);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        strbuf_addf(out, ",\"%s_%s\":", name, all[i].what);
        api_put_double(out, all[i].value);
    }
}

void api_put_timings(strbuf *out, const job *j) {
    altiserve_usage u = job_usage(j);
    strbuf_addf(out, ",\"timings\":{\"cache_n\":%u", u.cached_tokens);
    put_rate(out, "prompt", u.prompt_tokens - u.cached_tokens, u.prefill_s);
    put_rate(out, "predicted", u.completion_tokens, u.decode_s);
    if (u.drafted_tokens) strbuf_addf(out, ",\"draft_n\":%u,\"draft_n_accepted\":%u", u.drafted_tokens, u.accepted_tokens);
    strbuf_addc(out, '}');
}

static void put_piece_event(job *j, const char *text, size_t len, const altiserve_event *ev, strbuf *out) {
    strbuf_adds(out, "data: {\"index\":0,\"content\":");
    api_put_string(out, text, len);
    strbuf_adds(out, ",\"tokens\":[");
    for (size_t i = 0; i < ev->n_tokens; i++) strbuf_addf(out, "%s%d", i ? "," : "", ev->tokens[i]);
    strbuf_addf(out, "],\"stop\":false,\"id_slot\":0,\"tokens_predicted\":%u,\"tokens_evaluated\":%u", j->choices[0].tokens, ev->usage.prompt_tokens);
    if (j->p.timings_per_token) api_put_timings(out, j);
    strbuf_adds(out, "}\n\n");
}

static void completion_text(job *j, uint32_t index, const altiserve_event *ev, strbuf *out) {
    (void)index;
    put_piece_event(j, ev->text, ev->text_len, ev, out);
}

static void completion_finish(job *j, uint32_t index, strbuf *out) { (void)j, (void)index, (void)out; }

static void completion_end(job *j, const char *text, size_t len, strbuf *out) {
    const altiserve_usage *u = &j->parts[0].usage;
    const choice *c = &j->choices[0];
    strbuf_adds(out, "{\"index\":0,\"content\":");
    api_put_string(out, text, len);
    strbuf_adds(out, ",\"tokens\":[],\"id_slot\":0,\"stop\":true,\"model\":");
    api_put_string(out, j->model.id, strlen(j->model.id));
    strbuf_addf(out, ",\"tokens_predicted\":%u,\"tokens_evaluated\":%u,\"tokens_cached\":%u,\"truncated\":false,\"stop_type\":\"%s\",\"stopping_word\":",
                u->completion_tokens, u->prompt_tokens, u->prompt_tokens + u->completion_tokens, c->finish == FINISH_LENGTH ? "limit" : c->stop ? "word" : "eos");
    api_put_string(out, c->stop ? c->stop : "", c->stop ? strlen(c->stop) : 0);
    api_put_timings(out, j);
    strbuf_addc(out, '}');
}

static void completion_close(job *j, strbuf *out) {
    strbuf_adds(out, "data: ");
    completion_end(j, "", 0, out);
    strbuf_adds(out, "\n\n");
}

static void completion_whole(job *j, strbuf *out) {
    const strbuf *t = &j->choices[0].text;
    completion_end(j, t->data ? t->data : "", t->len, out);
}

static void completion_fail(job *j, const api_error *e, strbuf *out) {
    strbuf_adds(out, "data: ");
    api_put_error(out, j->r, e);
    strbuf_adds(out, "\n\n");
}

static const dialect completion = {"text/event-stream", ": keep-alive\n\n", NULL, completion_text, NULL, completion_finish, completion_close, completion_whole, completion_fail};

void api_native_completion(job *j) {
    if (!api_read_request(j, FOR_NATIVE)) return;
    api_error e;
    uint32_t n;
    const json_t *most = json_object_get(j->body, "n_predict");
    bool ok = api_check_prompts(j, json_object_get(j->body, "prompt"), &n, &e);
    if (ok && json_is_number(most) && json_number_value(most) == 0)
        ok = api_fail(&e, 400, "n_predict", "not_built", "n_predict 0, to read the prompt and write nothing, is not built yet; 1 writes least");
    if (ok && n != 1) ok = api_fail(&e, 400, "prompt", "not_built", "several prompts in one /completion are not built yet; send them one by one");
    if (!ok) {
        job_fail(j, &e);
        return;
    }
    job_generate(j, &completion, 1, api_set_prompt, "prompt");
}
