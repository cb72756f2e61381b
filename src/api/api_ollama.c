// api/api_ollama: what Ollama's clients ask for. Streams are one JSON object a line and are the default there.
#include <stdio.h>
#include <string.h>
#include <time.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "api/api_internal.h"

void api_root(job *j) {
    const char *accept = http_header(j->r, "Accept");
    strbuf out = {0};
    bool html = accept && strstr(accept, "text/html");
    if (html)
        strbuf_addf(&out, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>altiserve</title><h1>altiserve %s</h1>"
                    "<p>This is an inference server. Models: <a href=\"/v1/models\">/v1/models</a>. Numbers: <a href=\"/metrics\">/metrics</a>. "
                    "Chat: POST /v1/chat/completions.</p></html>\n", altiserve_version());
    else strbuf_adds(&out, "Ollama is running");
    job_respond(j, 200, html ? "text/html; charset=utf-8" : "text/plain; charset=utf-8", &out);
}

void api_ollama_version(job *j) {
    strbuf out = {0};
    strbuf_addf(&out, "{\"version\":\"%s\"}", altiserve_version());
    job_respond(j, 200, "application/json", &out);
}

// RFC 3339; without a fraction where nanoseconds are negative.
static void put_time(strbuf *out, int64_t seconds, long nanoseconds) {
    time_t t = (time_t)seconds;
    struct tm tm;
    char text[40];
    gmtime_r(&t, &tm);
    strftime(text, sizeof text, "\"%Y-%m-%dT%H:%M:%S", &tm);
    strbuf_adds(out, text);
    if (nanoseconds >= 0) strbuf_addf(out, ".%09ld", nanoseconds);
    strbuf_adds(out, "Z\"");
}

static void put_details(strbuf *out, const altiserve_model_info *m) {
    strbuf_adds(out, "\"details\":{\"parent_model\":\"\",\"format\":\"gguf\",\"family\":");
    api_put_string(out, m->architecture, strlen(m->architecture));
    strbuf_adds(out, ",\"families\":[");
    api_put_string(out, m->architecture, strlen(m->architecture));
    double p = (double)m->parameters;
    strbuf_addf(out, "],\"parameter_size\":\"%.1f%s\",\"quantization_level\":", p >= 1e9 ? p / 1e9 : p / 1e6, p >= 1e9 ? "B" : "M");
    api_put_string(out, m->quantization, strlen(m->quantization));
    strbuf_addc(out, '}');
}

// Ollama's is of the contents, which would take minutes to read; this one changes when the file does. Clients cut it to twelve digits unasked, so it is as long as theirs.
static void put_digest(strbuf *out, const altiserve_model_info *m) {
    char facts[sizeof m->id + 64];
    snprintf(facts, sizeof facts, "%s %llu %lld", m->id, (unsigned long long)m->file_bytes, (long long)m->created);
    strbuf_adds(out, ",\"digest\":\"");
    for (uint64_t half = 0; half < 2; half++) {
        XXH128_hash_t h = XXH3_128bits_withSeed(facts, strlen(facts), half);
        strbuf_addf(out, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
    }
    strbuf_adds(out, "\",");
}

// `size` is the file's, or what it takes in memory where that is asked for.
static void put_tag(strbuf *out, const altiserve_model_info *m, uint64_t size) {
    if (out->len && out->data[out->len - 1] == '}') strbuf_addc(out, ',');
    strbuf_adds(out, "{\"name\":");
    api_put_string(out, m->id, strlen(m->id));
    strbuf_adds(out, ",\"model\":");
    api_put_string(out, m->id, strlen(m->id));
    strbuf_adds(out, ",\"modified_at\":");
    put_time(out, m->created, -1);
    strbuf_addf(out, ",\"size\":%llu", (unsigned long long)size);
    put_digest(out, m);
    put_details(out, m);
}

static void add_tag(void *ctx, const altiserve_model_info *m) {
    if (m->state == MODEL_BROKEN || m->state == MODEL_INCOMPLETE) return;
    put_tag(ctx, m, m->file_bytes);
    strbuf_addc(ctx, '}');
}

static void add_loaded(void *ctx, const altiserve_model_info *m) {
    if (m->state != MODEL_READY) return;
    put_tag(ctx, m, m->memory_bytes);
    // It stays until others need the memory; a time that never comes is "Forever" to `ollama ps`, none at all "Stopping...".
    strbuf_addf(ctx, ",\"size_vram\":0,\"context_length\":%u,\"expires_at\":\"9999-12-31T23:59:59Z\"}", m->context);
}

static void list(job *j, void (*add)(void *, const altiserve_model_info *)) {
    strbuf out = {0};
    strbuf_adds(&out, "{\"models\":[");
    altiserve_models(j->a->engine, add, &out);
    strbuf_adds(&out, "]}");
    job_respond(j, 200, "application/json", &out);
}

void api_ollama_tags(job *j) { list(j, add_tag); }
void api_ollama_ps(job *j) { list(j, add_loaded); }

void api_ollama_show(job *j) {
    if (!job_body(j)) return;
    api_error e;
    const json_t *name = json_object_get(j->body, "model");
    if (!name) name = json_object_get(j->body, "name");
    bool ok = json_is_string(name) || api_fail(&e, 400, "model", NULL, "model must be a string, not %s", api_json_type(name));
    if (!ok || !api_find_model(j, json_string_value(name), &j->model, &e)) {
        job_fail(j, &e);
        return;
    }
    const altiserve_model_info *m = &j->model;
    error err = {0};
    char *source = NULL;
    size_t len = 0;
    if (altiserve_chat_template(j->a->engine, m->id, &source, &len, &err)) {
        api_fail_status(&e, &err, "model");
        job_fail(j, &e);
        return;
    }
    strbuf out = {0};
    strbuf_adds(&out, "{\"modelfile\":\"\",\"parameters\":\"\",\"template\":");
    api_put_string(&out, source, len);
    mem_free(source);
    strbuf_adds(&out, ",\"modified_at\":");
    put_time(&out, m->created, -1);
    strbuf_addc(&out, ',');
    put_details(&out, m);
    strbuf_adds(&out, ",\"model_info\":{\"general.architecture\":");
    api_put_string(&out, m->architecture, strlen(m->architecture));
    char key[96];
    snprintf(key, sizeof key, "%s.context_length", m->architecture);
    strbuf_addf(&out, ",\"general.parameter_count\":%llu,", (unsigned long long)m->parameters);
    api_put_string(&out, key, strlen(key));
    strbuf_addf(&out, ":%u},\"capabilities\":", m->context_trained);
    api_put_capabilities(&out, m);
    strbuf_addc(&out, '}');
    job_respond(j, 200, "application/json", &out);
}

// What Ollama does with models of its own keeping.
void api_ollama_unmanaged(job *j) {
    api_error e;
    api_fail(&e, 501, NULL, NULL, "models are not pulled, pushed, created, copied or deleted over HTTP: "
                                  "they are GGUF files, which are put into the server's models folder or taken from it");
    job_fail(j, &e);
}

// ---- chat and generate ---------------------------------------------------------------------------

static bool is_chat(const job *j) { return j->route->handle == api_ollama_chat; }

// A line as far as its text and what was thought before it. Each says when it was made itself.
static void put_head(job *j, const strbuf *text, const strbuf *thought, strbuf *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    strbuf_adds(out, "{\"model\":");
    api_put_string(out, j->model.id, strlen(j->model.id));
    strbuf_adds(out, ",\"created_at\":");
    put_time(out, now.tv_sec, now.tv_nsec);
    strbuf_adds(out, is_chat(j) ? ",\"message\":{\"role\":\"assistant\",\"content\":" : ",\"response\":");
    api_put_string(out, text->data ? text->data : "", text->len);
    if (thought->len) {
        strbuf_adds(out, ",\"thinking\":");
        api_put_string(out, thought->data, thought->len);
    }
    if (is_chat(j)) strbuf_addc(out, '}');
}

static const strbuf nothing;

static void put_line(job *j, const strbuf *text, const strbuf *thought, bool done, strbuf *out) {
    put_head(j, text, thought, out);
    if (done) {
        const altiserve_usage *u = &j->parts[0].usage;
        strbuf_addf(out, ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%.0f,\"load_duration\":%.0f,\"prompt_eval_count\":%u,"
                    "\"prompt_eval_duration\":%.0f,\"eval_count\":%u,\"eval_duration\":%.0f}",
                    j->choices[0].finish == FINISH_LENGTH ? "length" : "stop", (api_now() - j->arrived) * 1e9, u->load_s * 1e9, u->prompt_tokens, u->prefill_s * 1e9,
                    u->completion_tokens, u->decode_s * 1e9);
    } else strbuf_adds(out, ",\"done\":false}");
    if (j->p.stream) strbuf_addc(out, '\n');
}

static void piece(job *j, uint32_t index, const altiserve_event *ev, strbuf *out) {
    (void)index;
    const strbuf text = {.data = (char *)ev->text, .len = ev->text_len}, thought = {.data = (char *)ev->reasoning, .len = ev->reasoning_len};
    if (text.len || thought.len) put_line(j, &text, &thought, false, out);
}

static void finish(job *j, uint32_t index, strbuf *out) { (void)j, (void)index, (void)out; }
static void close_stream(job *j, strbuf *out) { put_line(j, &nothing, &nothing, true, out); }

static void whole(job *j, strbuf *out) { put_line(j, &j->choices[0].text, &j->choices[0].reasoning, true, out); }

static void fail_stream(job *j, const api_error *e, strbuf *out) {
    api_put_error(out, j->r, e);
    strbuf_addc(out, '\n');
}

static const dialect ollama = {"application/x-ndjson", NULL, NULL, piece, NULL, finish, close_stream, whole, fail_stream};

// Without a prompt or messages a request is about the model itself: it is loaded, or let go with "keep_alive": 0. One answer then, stream or not.
static void put_residence(job *j, const char *what, strbuf *out) {
    put_head(j, &nothing, &nothing, out);
    strbuf_addf(out, ",\"done\":true,\"done_reason\":\"%s\"}", what);
}

static void whole_load(job *j, strbuf *out) { put_residence(j, "load", out); }
static const dialect residence = {.whole = whole_load};

// 0, or a duration in Go's words that is none: "0", "0s", "0h0m".
static bool keeps_none(const json_t *keep_alive) {
    if (json_is_number(keep_alive)) return json_number_value(keep_alive) == 0;
    const char *s = json_string_value(keep_alive);
    return s && *s == '0' && strspn(s, "0.hmsnu") == strlen(s);
}

static void load_or_unload(job *j) {
    api_error e;
    error err = {0};
    if (!api_find_model(j, j->p.model, &j->model, &e)) {
        job_fail(j, &e);
        return;
    }
    if (!keeps_none(json_object_get(j->body, "keep_alive"))) {
        job_load(j, &residence);
        return;
    }
    if (altiserve_unload(j->a->engine, j->model.id, &err)) {
        api_fail_status(&e, &err, "model");
        if (err.code == E_BUSY) e.http = 409; // no queue is full: waiting alone does not help
        job_fail(j, &e);
        return;
    }
    strbuf out = {0};
    put_residence(j, "unload", &out);
    job_respond(j, 200, "application/json", &out);
}

// The model that is to answer, and whether it can think where that is asked for. Ollama's own words: clients look for them.
static bool find_model(job *j, api_error *e) {
    if (!api_find_writer(j, j->p.model, e)) return false;
    return j->p.think <= 0 || j->model.thinks || api_fail(e, 400, "think", "model_not_supported", "\"%.100s\" does not support thinking", j->model.id);
}

static bool read_request(job *j, api_error *e) {
    api_begin_fields(&j->p);
    j->p.stream = true;
    const json_t *options = json_object_get(j->body, "options");
    if (options && !json_is_object(options) && !json_is_null(options))
        return api_fail(e, 400, "options", NULL, "options must be an object, not %s", api_json_type(options));
    return api_read_fields(&j->p, j->body, FOR_OLLAMA, "", e) && (!json_is_object(options) || api_read_fields(&j->p, options, FOR_OLLAMA, "options.", e)) &&
           api_settle(&j->p, FOR_OLLAMA, e);
}

void api_ollama_chat(job *j) {
    if (!job_body(j)) return;
    api_error e;
    char *input = NULL;
    size_t len = 0;
    const json_t *messages = json_object_get(j->body, "messages");
    bool ok = read_request(j, &e);
    if (ok && (!messages || json_is_null(messages) || (json_is_array(messages) && !json_array_size(messages)))) {
        load_or_unload(j);
        return;
    }
    if (!ok || !find_model(j, &e) || !api_chat_input(j, messages, "messages", NULL, &input, &len, &e)) {
        job_fail(j, &e);
        return;
    }
    j->p.g.chat = input;
    j->p.g.chat_len = len;
    job_generate(j, &ollama, 1, NULL, "messages");
    mem_free(input);
}

void api_ollama_generate(job *j) {
    if (!job_body(j)) return;
    api_error e;
    char *input = NULL;
    size_t len = 0;
    const json_t *prompt = json_object_get(j->body, "prompt"), *system = json_object_get(j->body, "system"), *raw = json_object_get(j->body, "raw");
    bool ok = read_request(j, &e);
    if (ok && (!prompt || json_is_null(prompt) || (json_is_string(prompt) && !json_string_length(prompt)))) {
        load_or_unload(j);
        return;
    }
    ok = ok && find_model(j, &e);
    if (ok && !json_is_string(prompt)) ok = api_fail(&e, 400, "prompt", NULL, "prompt must be a string, not %s", api_json_type(prompt));
    if (ok && system && !json_is_null(system) && !json_is_string(system)) ok = api_fail(&e, 400, "system", NULL, "system must be a string, not %s", api_json_type(system));
    if (ok && raw && !json_is_null(raw) && !json_is_boolean(raw)) ok = api_fail(&e, 400, "raw", NULL, "raw must be a boolean, not %s", api_json_type(raw));
    if (ok && !json_is_true(raw)) { // the prompt is a user's message, unless raw
        json_t *messages = json_pack("[{s:s,s:O}]", "role", "user", "content", prompt);
        const char *s = json_string_length(system) ? json_string_value(system) : NULL;
        ok = messages ? api_chat_input(j, messages, "prompt", s, &input, &len, &e) : api_fail(&e, 503, NULL, NULL, "no memory for this request");
        json_decref(messages);
        j->p.g.chat = input;
        j->p.g.chat_len = len;
    } else if (ok) {
        j->p.g.text = json_string_value(prompt);
        j->p.g.text_len = json_string_length(prompt);
    }
    if (!ok) {
        mem_free(input);
        job_fail(j, &e);
        return;
    }
    job_generate(j, &ollama, 1, NULL, "prompt");
    mem_free(input);
}
