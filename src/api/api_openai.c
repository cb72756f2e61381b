// api/api_openai: /v1/models, /v1/chat/completions, /v1/completions.
#include <stdio.h>
#include <string.h>

#include "api/api_internal.h"
#include "base/utf8.h"

// ---- models --------------------------------------------------------------------------------------

// What the model is for. Any model that writes text embeds too, by its last token; it is not for that.
void api_put_capabilities(strbuf *out, const altiserve_model_info *m) {
    const struct { bool has; const char *name; } all[] = {
        {m->generates, "completion"}, {m->embedding_model && m->embeds, "embedding"}, {m->ranks, "rerank"}, {m->thinks, "thinking"}};
    bool any = false;
    strbuf_addc(out, '[');
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].has) {
            strbuf_addf(out, "%s\"%s\"", any ? "," : "", all[i].name);
            any = true;
        }
    strbuf_addc(out, ']');
}

static void put_model(strbuf *out, const altiserve_model_info *m) {
    strbuf_adds(out, "{\"id\":");
    api_put_string(out, m->id, strlen(m->id));
    strbuf_addf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"altiserve\"", (long long)m->created);
    if (m->state == MODEL_READY) strbuf_addf(out, ",\"max_model_len\":%u", m->context); // before, nothing was held against the memory
    strbuf_addf(out, ",\"meta\":{\"n_params\":%llu,\"n_ctx_train\":%u,\"n_vocab\":%u,\"n_embd\":%u,\"size\":%llu,\"architecture\":",
                (unsigned long long)m->parameters, m->context_trained, m->vocabulary, m->embedding, (unsigned long long)m->file_bytes);
    api_put_string(out, m->architecture, strlen(m->architecture));
    strbuf_adds(out, ",\"quantization\":");
    api_put_string(out, m->quantization, strlen(m->quantization));
    static const char *const states[] = {"unloaded", "loading", "loaded", "failed", "incomplete"};
    strbuf_adds(out, "},\"capabilities\":");
    api_put_capabilities(out, m);
    strbuf_addf(out, ",\"status\":{\"value\":\"%s\"}}", (unsigned)m->state < 5 ? states[m->state] : "unloaded");
}

// What cannot be served is not listed; the log and `inspect` say why.
static void add_model(void *ctx, const altiserve_model_info *m) {
    strbuf *out = ctx;
    if (m->state == MODEL_BROKEN || m->state == MODEL_INCOMPLETE) return;
    if (out->len && out->data[out->len - 1] == '}') strbuf_addc(out, ',');
    put_model(out, m);
}

void api_models_list(job *j) {
    strbuf out = {0};
    strbuf_adds(&out, "{\"object\":\"list\",\"data\":[");
    altiserve_models(j->a->engine, add_model, &out);
    strbuf_adds(&out, "]}");
    job_respond(j, 200, "application/json", &out);
}

void api_models_one(job *j) {
    api_error e;
    altiserve_model_info m;
    const char *rest = http_path(j->r) + strlen("/v1/models/");
    size_t n = strlen(rest);
    while (n && rest[n - 1] == '/') n--; // as all paths may end
    char name[sizeof m.id + 1]; // one more, by which a longer one is no model's
    snprintf(name, sizeof name, "%.*s", (int)n, rest);
    if (!api_find_model(j, name, &m, &e)) {
        job_fail(j, &e);
        return;
    }
    strbuf out = {0};
    put_model(&out, &m);
    job_respond(j, 200, "application/json", &out);
}

// ---- shared by both completions ------------------------------------------------------------------

static const char *reason(altiserve_finish f) { return f == FINISH_LENGTH ? "length" : "stop"; }

// ,"usage":{...}
static void put_usage(strbuf *out, const job *j) {
    altiserve_usage u = job_usage(j);
    strbuf_addf(out, ",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u,\"prompt_tokens_details\":{\"cached_tokens\":%u}}", u.prompt_tokens,
                u.completion_tokens, u.prompt_tokens + u.completion_tokens, u.cached_tokens);
}

static void put_head(strbuf *out, const job *j, const char *kind, const char *object) {
    strbuf_addf(out, "{\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", kind, j->id, object, (long long)j->created);
    api_put_string(out, j->model.id, strlen(j->model.id));
    strbuf_adds(out, ",\"system_fingerprint\":\"altiserve-");
    strbuf_adds(out, altiserve_version());
    strbuf_adds(out, "\",\"choices\":[");
}

// The end of every chunk with choices: usage is null there when it was asked for, for then a last chunk has it, and the timings too.
static void put_tail(strbuf *out, const job *j, bool timings) {
    strbuf_adds(out, j->p.include_usage ? "],\"usage\":null" : "]");
    if (timings) api_put_timings(out, j);
    strbuf_adds(out, "}\n\n");
}

// ,"altiserve":{"explain":[...]}: why each prompt was computed, where that was asked for.
static void put_explain(strbuf *out, const job *j) {
    if (!j->p.explain) return;
    strbuf_adds(out, ",\"altiserve\":{\"explain\":[");
    for (uint32_t i = 0; i < j->n_parts; i++) {
        const altiserve_explanation *x = &j->parts[i].explanation;
        strbuf_addf(out, "%s{\"prompt_tokens\":%u,\"cached_tokens\":%u,\"computed_tokens\":%u,\"why\":\"%s\"", i ? "," : "", x->prompt_tokens, x->cached_tokens,
                    x->prompt_tokens - x->cached_tokens, api_why(x->why));
        if (x->why == WHY_DIFFERS || x->why == WHY_EVICTED || x->why == WHY_VERSION) strbuf_addf(out, ",\"same_tokens\":%u", x->same);
        if (x->why == WHY_DIFFERS) {
            strbuf_adds(out, ",\"first_difference\":{\"this_prompt\":");
            api_put_string(out, x->ours, strlen(x->ours));
            strbuf_adds(out, ",\"earlier_prompt\":");
            api_put_string(out, x->theirs, strlen(x->theirs));
            strbuf_addc(out, '}');
        }
        strbuf_addc(out, '}');
    }
    strbuf_adds(out, "]}");
}

static void close_stream(job *j, const char *kind, const char *object, strbuf *out) {
    if (j->p.include_usage || j->p.explain) {
        strbuf_adds(out, "data: ");
        put_head(out, j, kind, object);
        strbuf_adds(out, "]");
        if (j->p.include_usage) {
            put_usage(out, j);
            api_put_timings(out, j);
        }
        put_explain(out, j);
        strbuf_adds(out, "}\n\n");
    }
    strbuf_adds(out, "data: [DONE]\n\n");
}

static void fail_stream(job *j, const api_error *e, strbuf *out) {
    strbuf_adds(out, "data: ");
    api_put_error(out, j->r, e);
    strbuf_adds(out, "\n\ndata: [DONE]\n\n");
}

bool api_read_request(job *j, unsigned where) {
    api_error e;
    if (!job_body(j)) return false;
    api_begin_fields(&j->p);
    bool ok = api_read_fields(&j->p, j->body, where, "", &e) && api_settle(&j->p, where, &e) && api_find_writer(j, j->p.model, &e);
    if (ok && j->model.vocabulary)
        for (size_t i = 0; ok && i < j->p.g.sampling.n_bias; i++)
            if ((uint32_t)j->p.g.sampling.bias[i].token >= j->model.vocabulary)
                ok = api_fail(&e, 400, "logit_bias", "invalid_value", "logit_bias: token %d is not below the vocabulary's %u", j->p.g.sampling.bias[i].token, j->model.vocabulary);
    if (!ok) job_fail(j, &e);
    return ok;
}

// ---- chat ----------------------------------------------------------------------------------------

static void put_chat_logprob(strbuf *out, const altiserve_logprob *l) {
    strbuf_adds(out, "\"token\":");
    api_put_string(out, l->bytes, l->len);
    strbuf_adds(out, ",\"logprob\":");
    api_put_float(out, l->logprob < -9999 ? -9999 : l->logprob); // JSON has no infinity
    strbuf_adds(out, ",\"bytes\":[");
    for (size_t i = 0; i < l->len; i++) strbuf_addf(out, "%s%u", i ? "," : "", (unsigned char)l->bytes[i]);
    strbuf_addc(out, ']');
}

static void put_chat_logprobs(strbuf *out, const altiserve_event *ev, bool first) {
    for (size_t i = 0; i < ev->n_tokens; i++) {
        const altiserve_logprob *l = ev->logprobs + i * (size_t)(ev->top_logprobs + 1);
        strbuf_adds(out, first && !i ? "{" : ",{");
        put_chat_logprob(out, l);
        strbuf_adds(out, ",\"top_logprobs\":[");
        for (int k = 1; k <= ev->top_logprobs; k++) {
            strbuf_adds(out, k == 1 ? "{" : ",{");
            put_chat_logprob(out, l + k);
            strbuf_addc(out, '}');
        }
        strbuf_adds(out, "]}");
    }
}

static void chat_chunk(job *j, uint32_t index, strbuf *out) {
    strbuf_adds(out, "data: ");
    put_head(out, j, "chatcmpl", "chat.completion.chunk");
    strbuf_addf(out, "{\"index\":%u,\"delta\":{", index);
}

static void chat_start(job *j, uint32_t index, strbuf *out) {
    if (j->choices[index].started) return;
    j->choices[index].started = true;
    chat_chunk(j, index, out);
    strbuf_adds(out, "\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}");
    put_tail(out, j, false);
}

static void chat_open(job *j, strbuf *out) {
    for (uint32_t i = 0; i < j->n_choices; i++) chat_start(j, i, out);
}

static void chat_text(job *j, uint32_t index, const altiserve_event *ev, strbuf *out) {
    chat_start(j, index, out);
    chat_chunk(j, index, out);
    if (ev->reasoning_len) {
        strbuf_adds(out, "\"reasoning_content\":");
        api_put_string(out, ev->reasoning, ev->reasoning_len);
    }
    if (ev->text_len || !ev->reasoning_len) {
        strbuf_adds(out, ev->reasoning_len ? ",\"content\":" : "\"content\":");
        api_put_string(out, ev->text, ev->text_len);
    }
    strbuf_adds(out, "},\"logprobs\":");
    if (ev->logprobs) {
        strbuf_adds(out, "{\"content\":[");
        put_chat_logprobs(out, ev, true);
        strbuf_adds(out, "],\"refusal\":null}");
    } else strbuf_adds(out, "null");
    strbuf_adds(out, ",\"finish_reason\":null}");
    put_tail(out, j, j->p.timings_per_token);
}

static void chat_keep(job *j, uint32_t index, const altiserve_event *ev) {
    strbuf *kept = &j->choices[index].logprobs;
    put_chat_logprobs(kept, ev, kept->len == 0);
}

static void chat_finish(job *j, uint32_t index, strbuf *out) {
    chat_start(j, index, out);
    chat_chunk(j, index, out);
    strbuf_addf(out, "},\"logprobs\":null,\"finish_reason\":\"%s\"}", reason(j->choices[index].finish));
    put_tail(out, j, !j->p.include_usage);
}

static void chat_close(job *j, strbuf *out) { close_stream(j, "chatcmpl", "chat.completion.chunk", out); }

static void chat_whole(job *j, strbuf *out) {
    put_head(out, j, "chatcmpl", "chat.completion");
    for (uint32_t i = 0; i < j->n_choices; i++) {
        choice *c = &j->choices[i];
        strbuf_addf(out, "%s{\"index\":%u,\"message\":{\"role\":\"assistant\",\"content\":", i ? "," : "", i);
        api_put_string(out, c->text.data ? c->text.data : "", c->text.len);
        if (c->reasoning.len) {
            strbuf_adds(out, ",\"reasoning_content\":");
            api_put_string(out, c->reasoning.data, c->reasoning.len);
        }
        strbuf_adds(out, ",\"refusal\":null},\"logprobs\":");
        if (j->p.g.logprobs >= 0) {
            strbuf_adds(out, "{\"content\":[");
            strbuf_add(out, c->logprobs.data ? c->logprobs.data : "", c->logprobs.len);
            strbuf_adds(out, "],\"refusal\":null}");
        } else strbuf_adds(out, "null");
        strbuf_addf(out, ",\"finish_reason\":\"%s\"}", reason(c->finish));
    }
    strbuf_addc(out, ']');
    put_usage(out, j);
    api_put_timings(out, j);
    put_explain(out, j);
    strbuf_addc(out, '}');
}

static const dialect chat = {"text/event-stream", ": keep-alive\n\n", chat_open, chat_text, chat_keep, chat_finish, chat_close, chat_whole, fail_stream};

void api_chat_completions(job *j) {
    if (!api_read_request(j, FOR_CHAT)) return;
    api_error e;
    char *input = NULL;
    size_t len = 0;
    if (!api_chat_input(j, json_object_get(j->body, "messages"), "messages", NULL, &input, &len, &e)) {
        job_fail(j, &e);
        return;
    }
    j->p.g.chat = input;
    j->p.g.chat_len = len;
    job_generate(j, &chat, 1, NULL, "messages");
    mem_free(input);
}

// ---- completions ---------------------------------------------------------------------------------

static size_t characters(const char *s, size_t n) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) k += ((unsigned char)s[i] & 0xC0) != 0x80;
    return k;
}

static void comma(strbuf *s) {
    if (s->len) strbuf_addc(s, ',');
}

// The old format: parallel arrays, and an object from token text to logprob for the alternatives, to which the chosen token belongs where it is none of them.
static void add_logprobs(const altiserve_event *ev, strbuf *tokens, strbuf *values, strbuf *tops, strbuf *offsets, size_t *offset) {
    for (size_t i = 0; i < ev->n_tokens; i++) {
        const altiserve_logprob *l = ev->logprobs + i * (size_t)(ev->top_logprobs + 1);
        comma(tokens), comma(values), comma(tops), comma(offsets);
        api_put_string(tokens, l->bytes, l->len);
        api_put_float(values, l->logprob < -9999 ? -9999 : l->logprob);
        strbuf_addf(offsets, "%zu", *offset);
        *offset += characters(l->bytes, l->len);
        strbuf_addc(tops, '{');
        for (int k = 1; ev->top_logprobs && k <= ev->top_logprobs + 1; k++) {
            const altiserve_logprob *t = k <= ev->top_logprobs ? l + k : l;
            bool twice = false; // tokens may share a text; an object may not hold a key twice
            for (int q = 1; q < k; q++) twice |= l[q].len == t->len && !memcmp(l[q].bytes, t->bytes, t->len);
            twice |= !utf8_valid(t->bytes, t->len) && k > 1;
            if (twice) continue;
            if (k > 1) strbuf_addc(tops, ',');
            api_put_string(tops, t->bytes, t->len);
            strbuf_addc(tops, ':');
            api_put_float(tops, t->logprob < -9999 ? -9999 : t->logprob);
        }
        strbuf_addc(tops, '}');
    }
}

static void put_arrays(strbuf *out, const strbuf *tokens, const strbuf *values, const strbuf *tops, const strbuf *offsets) {
    const strbuf *all[] = {tokens, values, tops, offsets};
    const char *names[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    strbuf_addc(out, '{');
    for (int i = 0; i < 4; i++) {
        strbuf_addf(out, "%s\"%s\":[", i ? "," : "", names[i]);
        if (all[i]->len) strbuf_add(out, all[i]->data, all[i]->len);
        strbuf_addc(out, ']');
        out->failed |= all[i]->failed;
    }
    strbuf_addc(out, '}');
}

static void text_chunk(job *j, uint32_t index, const char *text, size_t len, const altiserve_event *ev, const char *why, strbuf *out) {
    strbuf_adds(out, "data: ");
    put_head(out, j, "cmpl", "text_completion");
    strbuf_addf(out, "{\"index\":%u,\"text\":", index);
    api_put_string(out, text, len);
    strbuf_adds(out, ",\"logprobs\":");
    if (ev && ev->logprobs) {
        strbuf a = {0}, b = {0}, c = {0}, d = {0};
        add_logprobs(ev, &a, &b, &c, &d, &j->choices[index].offset);
        put_arrays(out, &a, &b, &c, &d);
        strbuf_free(&a), strbuf_free(&b), strbuf_free(&c), strbuf_free(&d);
    } else strbuf_adds(out, "null");
    if (why) strbuf_addf(out, ",\"finish_reason\":\"%s\"}", why);
    else strbuf_adds(out, ",\"finish_reason\":null}");
    put_tail(out, j, why ? !j->p.include_usage : j->p.timings_per_token);
}

static void text_start(job *j, uint32_t index, strbuf *out) {
    choice *c = &j->choices[index];
    const part *p = &j->parts[index / j->p.g.n];
    if (c->started) return;
    c->started = true;
    if (p->echo) text_chunk(j, index, p->echo, p->echo_len, NULL, NULL, out);
}

static void text_text(job *j, uint32_t index, const altiserve_event *ev, strbuf *out) {
    text_start(j, index, out);
    text_chunk(j, index, ev->text, ev->text_len, ev, NULL, out);
}

static void text_keep(job *j, uint32_t index, const altiserve_event *ev) {
    choice *c = &j->choices[index];
    add_logprobs(ev, &c->lp_tokens, &c->lp_values, &c->lp_tops, &c->lp_offsets, &c->offset);
}

static void text_finish(job *j, uint32_t index, strbuf *out) {
    text_start(j, index, out);
    text_chunk(j, index, "", 0, NULL, reason(j->choices[index].finish), out);
}

static void text_close(job *j, strbuf *out) { close_stream(j, "cmpl", "text_completion", out); }

static void text_whole(job *j, strbuf *out) {
    put_head(out, j, "cmpl", "text_completion");
    for (uint32_t i = 0; i < j->n_choices; i++) {
        choice *c = &j->choices[i];
        const part *p = &j->parts[i / j->p.g.n];
        strbuf text = {0};
        if (p->echo) strbuf_add(&text, p->echo, p->echo_len);
        if (c->text.len) strbuf_add(&text, c->text.data, c->text.len);
        strbuf_addf(out, "%s{\"index\":%u,\"text\":", i ? "," : "", i);
        api_put_string(out, text.data ? text.data : "", text.len);
        out->failed |= text.failed;
        strbuf_free(&text);
        strbuf_adds(out, ",\"logprobs\":");
        if (j->p.g.logprobs >= 0) put_arrays(out, &c->lp_tokens, &c->lp_values, &c->lp_tops, &c->lp_offsets);
        else strbuf_adds(out, "null");
        strbuf_addf(out, ",\"finish_reason\":\"%s\"}", reason(c->finish));
    }
    strbuf_addc(out, ']');
    put_usage(out, j);
    api_put_timings(out, j);
    put_explain(out, j);
    strbuf_addc(out, '}');
}

static const dialect text = {"text/event-stream", ": keep-alive\n\n", NULL, text_text, text_keep, text_finish, text_close, text_whole, fail_stream};

enum { MAX_PROMPTS = 256 };

// Prompt i of the request: the request's own value when it is not a list of prompts.
static const json_t *prompt_at(const json_t *prompt, uint32_t i, bool list) { return list ? json_array_get(prompt, i) : prompt; }

static bool check_prompt(const json_t *v, uint32_t vocabulary, api_error *e) {
    if (json_is_string(v)) return true;
    if (!api_is_ids(v))
        return api_fail(e, 400, "prompt", "invalid_type", "prompt must be a string, an array of token ids, or an array of those, not %s",
                        json_is_array(v) ? "an empty or mixed array" : api_json_type(v));
    return api_check_ids(v, vocabulary, "prompt", e);
}

void api_set_prompt(job *j, uint32_t i, altiserve_generate *g) {
    const json_t *all = json_object_get(j->body, "prompt"), *v = prompt_at(all, i, json_is_array(all) && !api_is_ids(all));
    if (json_is_string(v)) {
        g->text = json_string_value(v);
        g->text_len = json_string_length(v);
    } else {
        int32_t *ids = arena_alloc(&j->p.mem, json_array_size(v) * sizeof *ids);
        if (!ids) { // an empty prompt, which the engine refuses
            g->text = "";
            return;
        }
        api_copy_ids(v, ids);
        g->tokens = ids;
        g->n_tokens = json_array_size(v);
    }
    part *p = &j->parts[i];
    error err = {0};
    if (!j->p.echo) return;
    if (g->text && (p->echo = mem_strndup(g->text, g->text_len))) p->echo_len = g->text_len;
    else if (g->tokens) altiserve_detokenize(j->a->engine, g->model, g->tokens, g->n_tokens, &p->echo, &p->echo_len, &err);
}

bool api_check_prompts(job *j, const json_t *prompt, uint32_t *n, api_error *e) {
    bool list = json_is_array(prompt) && !api_is_ids(prompt) && json_array_size(prompt), ok = true;
    size_t count = list ? json_array_size(prompt) : 1;
    if (!prompt) return api_fail(e, 400, "prompt", "missing_required_parameter", "prompt is missing");
    if (count > MAX_PROMPTS) return api_fail(e, 400, "prompt", "invalid_value", "prompt may hold at most %d prompts", MAX_PROMPTS);
    for (size_t i = 0; ok && i < count; i++) ok = check_prompt(prompt_at(prompt, (uint32_t)i, list), j->model.vocabulary, e);
    *n = (uint32_t)count;
    return ok;
}

void api_completions(job *j) {
    if (!api_read_request(j, FOR_COMPLETION)) return;
    api_error e;
    uint32_t n;
    if (!api_check_prompts(j, json_object_get(j->body, "prompt"), &n, &e)) {
        job_fail(j, &e);
        return;
    }
    job_generate(j, &text, n, api_set_prompt, "prompt");
}
