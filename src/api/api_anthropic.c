// api/api_anthropic: /v1/messages and its token count, text alone.
#include <stdio.h>
#include <string.h>

#include "api/api_internal.h"

static void put_reason(const choice *c, strbuf *out) {
    strbuf_addf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", c->finish == FINISH_LENGTH ? "max_tokens" : c->stop ? "stop_sequence" : "end_turn");
    if (c->stop) api_put_string(out, c->stop, strlen(c->stop));
    else strbuf_adds(out, "null");
}

static void put_usage(const job *j, strbuf *out) {
    const altiserve_usage *u = &j->parts[0].usage;
    strbuf_addf(out, ",\"usage\":{\"input_tokens\":%u,\"cache_read_input_tokens\":%u,\"cache_creation_input_tokens\":0,\"output_tokens\":%u}",
                u->prompt_tokens - u->cached_tokens, u->cached_tokens, u->completion_tokens);
}

static void put_message(job *j, bool whole, strbuf *out) {
    const choice *c = &j->choices[0];
    strbuf_addf(out, "{\"id\":\"msg_%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", j->id);
    api_put_string(out, j->model.id, strlen(j->model.id));
    if (whole) {
        strbuf_adds(out, ",\"content\":[{\"type\":\"text\",\"text\":");
        api_put_string(out, c->text.data ? c->text.data : "", c->text.len);
        strbuf_adds(out, "}],");
        put_reason(c, out);
    } else strbuf_adds(out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null");
    put_usage(j, out);
    strbuf_addc(out, '}');
}

static void open_stream(job *j, strbuf *out) {
    strbuf_adds(out, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":");
    put_message(j, false, out);
    strbuf_adds(out, "}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n");
}

static void piece(job *j, uint32_t index, const altiserve_event *ev, strbuf *out) {
    (void)j, (void)index;
    if (!ev->text_len) return;
    strbuf_adds(out, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":");
    api_put_string(out, ev->text, ev->text_len);
    strbuf_adds(out, "}}\n\n");
}

static void finish(job *j, uint32_t index, strbuf *out) {
    (void)j, (void)index;
    strbuf_adds(out, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n");
}

static void close_stream(job *j, strbuf *out) {
    strbuf_adds(out, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{");
    put_reason(&j->choices[0], out);
    strbuf_addc(out, '}');
    put_usage(j, out); // all of it: who began before its prompt was counted (a model that loads, a long queue) has told zeros
    strbuf_adds(out, "}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
}

static void whole(job *j, strbuf *out) { put_message(j, true, out); }

static void fail_stream(job *j, const api_error *e, strbuf *out) {
    strbuf_adds(out, "event: error\ndata: ");
    api_put_error(out, j->r, e);
    strbuf_adds(out, "\n\n");
}

static const dialect messages = {"text/event-stream", "event: ping\ndata: {\"type\":\"ping\"}\n\n", open_stream, piece, NULL, finish, close_stream, whole, fail_stream};

// The system field: a string, or text blocks joined by newlines; NULL in *text when there is none.
static bool read_system(const json_t *v, strbuf *text, api_error *e) {
    if (!v || json_is_null(v)) return true;
    if (json_is_string(v)) return strbuf_add(text, json_string_value(v), json_string_length(v)) || api_fail(e, 503, NULL, NULL, "no memory for this request");
    if (!json_is_array(v)) return api_fail(e, 400, "system", NULL, "system must be a string or an array of text blocks, not %s", api_json_type(v));
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *s = json_object_get(json_array_get(v, i), "text");
        if (!json_is_string(s)) return api_fail(e, 400, "system", NULL, "system[%zu] must be a text block", i);
        if (i) strbuf_addc(text, '\n');
        strbuf_add(text, json_string_value(s), json_string_length(s));
    }
    return !text->failed || api_fail(e, 503, NULL, NULL, "no memory for this request");
}

// Of output_config its format would bind the answer; the rest of it (effort) is advice.
static bool check_output(const json_t *config, api_error *e) {
    const json_t *format = json_object_get(config, "format");
    if (config && !json_is_object(config) && !json_is_null(config))
        return api_fail(e, 400, "output_config", "invalid_type", "output_config must be an object, not %s", api_json_type(config));
    return !format || api_asks_nothing(format) || api_fail(e, 400, "output_config.format", "not_built", "output_config.format is understood but not built yet; leave it out");
}

static bool read_request(job *j, char **input, size_t *len, api_error *e) {
    api_begin_fields(&j->p);
    if (json_object_size(json_object_get(j->body, "thinking"))) j->p.think = -1; // "disabled": api_read_fields refuses all else
    strbuf system = {0};
    bool ok = api_read_fields(&j->p, j->body, FOR_MESSAGES, "", e) && api_settle(&j->p, FOR_MESSAGES, e) && check_output(json_object_get(j->body, "output_config"), e) &&
              api_find_writer(j, j->p.model, e) && read_system(json_object_get(j->body, "system"), &system, e) &&
              api_chat_input(j, json_object_get(j->body, "messages"), "messages", system.len ? system.data : NULL, input, len, e);
    strbuf_free(&system);
    return ok;
}

void api_messages(job *j) {
    if (!job_body(j)) return;
    api_error e;
    char *input = NULL;
    size_t len = 0;
    const json_t *most = json_object_get(j->body, "max_tokens");
    bool ok = (most && !json_is_null(most)) || api_fail(&e, 400, "max_tokens", NULL, "max_tokens is missing");
    if (!ok || !read_request(j, &input, &len, &e)) {
        job_fail(j, &e);
        return;
    }
    j->p.g.chat = input;
    j->p.g.chat_len = len;
    job_generate(j, &messages, 1, NULL, "messages");
    mem_free(input);
}

void api_count_tokens(job *j) {
    if (!job_body(j)) return;
    api_error e;
    error err = {0};
    char *input = NULL;
    size_t len = 0, n = 0;
    int32_t *ids = NULL;
    bool ok = read_request(j, &input, &len, &e);
    if (ok && altiserve_tokenize_chat(j->a->engine, j->model.id, input, len, &ids, &n, &err)) ok = api_fail_status(&e, &err, "messages");
    mem_free(input);
    mem_free(ids);
    if (!ok) {
        job_fail(j, &e);
        return;
    }
    strbuf out = {0};
    strbuf_addf(&out, "{\"input_tokens\":%zu}", n);
    job_respond(j, 200, "application/json", &out);
}
