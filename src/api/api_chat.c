// api/api_chat: a conversation as clients send it, checked and brought into the one form that templates take.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_internal.h"

static bool no_memory(api_error *e) { return api_fail(e, 503, NULL, "unavailable", "no memory for this request"); }

// The text of a content: a string, or an array of text parts, joined by newlines (templates take strings).
static bool content_text(const json_t *content, const char *param, strbuf *out, api_error *e) {
    if (json_is_string(content)) return strbuf_add(out, json_string_value(content), json_string_length(content)) || no_memory(e);
    if (!json_is_array(content)) return api_fail(e, 400, param, "invalid_type", "%s must be a string or an array of parts, not %s", param, api_json_type(content));
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *piece = json_array_get(content, i), *text = json_object_get(piece, "text");
        const char *type = json_string_value(json_object_get(piece, "type"));
        char at[128];
        snprintf(at, sizeof at, "%.90s[%zu]", param, i);
        if (!json_is_object(piece) || !type) return api_fail(e, 400, at, "invalid_type", "%s must be an object with a type", at);
        if (strcmp(type, "text")) return api_fail(e, 400, at, "not_built", "%s: parts of type \"%.40s\" are not built yet; only text is", at, type);
        if (!json_is_string(text)) return api_fail(e, 400, at, "invalid_type", "%s.text must be a string, not %s", at, api_json_type(text));
        if (i) strbuf_addc(out, '\n');
        strbuf_add(out, json_string_value(text), json_string_length(text));
    }
    return !out->failed || no_memory(e);
}

// What belongs to the conversation and would not be in its text.
static bool all_built(const json_t *m, const char *param, size_t i, api_error *e) {
    static const char *const names[] = {"images", "audio", "function_call"};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        const json_t *v = json_object_get(m, names[k]);
        char at[128];
        snprintf(at, sizeof at, "%.60s[%zu].%s", param, i, names[k]);
        if (v && !api_asks_nothing(v)) return api_fail(e, 400, at, "not_built", "%s is understood but not built yet; leave it out", at);
    }
    return true;
}

// The roles that a dialect knows.
static bool check_role(api_shape shape, const char *role, const char *at, api_error *e) {
    static const char *const roles[][8] = {
        [SHAPE_OPENAI] = {"system", "developer", "user", "assistant", "tool", "function"},
        [SHAPE_ANTHROPIC] = {"user", "assistant", "system"},
        [SHAPE_OLLAMA] = {"system", "user", "assistant", "tool"},
    };
    char known[96] = "";
    for (size_t i = 0; roles[shape][i]; i++) {
        if (!strcmp(role, roles[shape][i])) return true;
        size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", roles[shape][i]);
    }
    return api_fail(e, 400, at, "invalid_value", "%s must be one of %s, not \"%.40s\"", at, known, role);
}

// One message as templates take it; a new reference, or NULL.
static json_t *message(api_shape shape, const json_t *m, const char *param, size_t i, api_error *e) {
    char at[128];
    snprintf(at, sizeof at, "%.60s[%zu]", param, i);
    if (!json_is_object(m)) return api_fail(e, 400, at, "invalid_type", "%s must be an object, not %s", at, api_json_type(m)), NULL;
    const json_t *role = json_object_get(m, "role"), *content = json_object_get(m, "content");
    snprintf(at, sizeof at, "%.60s[%zu].role", param, i);
    if (!json_is_string(role)) return api_fail(e, 400, at, role ? "invalid_type" : "missing_required_parameter", "%s must be a string, not %s", at, api_json_type(role)), NULL;
    if (!check_role(shape, json_string_value(role), at, e)) return NULL;
    snprintf(at, sizeof at, "%.60s[%zu].content", param, i);
    if (!all_built(m, param, i, e)) return NULL;
    bool calls = json_array_size(json_object_get(m, "tool_calls")) > 0;
    if (!content && !calls) return api_fail(e, 400, at, "missing_required_parameter", "%s is missing", at), NULL;
    if (json_is_null(content) && !calls && strcmp(json_string_value(role), "assistant"))
        return api_fail(e, 400, at, "invalid_type", "%s must be a string or an array of parts, not null", at), NULL;
    if (json_is_array(content) && !json_array_size(content) && !calls) return api_fail(e, 400, at, "invalid_value", "%s must hold at least one part", at), NULL;
    json_t *copy = json_copy((json_t *)m);
    strbuf text = {0};
    bool ok = copy != NULL;
    if (ok && content && !json_is_null(content)) {
        ok = content_text(content, at, &text, e);
        if (!ok) {
            strbuf_free(&text);
            json_decref(copy);
            return NULL;
        }
        ok = json_object_set_new(copy, "content", json_stringn(text.data ? text.data : "", text.len)) == 0;
    }
    // A refusal comes back without content; most templates add strings and know no null where nothing was called.
    if (ok && json_is_null(content) && !calls) ok = json_object_set_new(copy, "content", json_string("")) == 0;
    // What Ollama calls thinking, templates know by DeepSeek's name.
    if (ok && shape == SHAPE_OLLAMA && json_object_get(m, "thinking")) ok = json_object_set(copy, "reasoning_content", json_object_get(m, "thinking")) == 0;
    // OpenAI's newer name of the same role; templates know the older one.
    if (ok && !strcmp(json_string_value(role), "developer")) ok = json_object_set_new(copy, "role", json_string("system")) == 0;
    strbuf_free(&text);
    if (ok) return copy;
    json_decref(copy);
    no_memory(e);
    return NULL;
}

static bool dump(json_t *root, char **out, size_t *len, api_error *e) {
    char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (!text) return no_memory(e);
    *len = strlen(text);
    *out = mem_strndup(text, *len);
    free(text); // jansson's own allocator
    return *out || no_memory(e);
}

// Variables for the template, of which the client's own count most.
static bool put_variables(json_t *root, const params *p) {
    bool ok = true;
    if (p->effort) ok = json_object_set_new(root, "reasoning_effort", json_string(p->effort)) == 0;
    if (ok && p->think) ok = json_object_set_new(root, "enable_thinking", json_boolean(p->think > 0)) == 0;
    return ok && (!p->template_kwargs || json_object_update(root, p->template_kwargs) == 0);
}

static bool ends_in_space(const char *s, size_t n) { return n && strchr(" \t\n\r\v\f", s[n - 1]); }

// How a prompt ends: where the assistant's next turn begins, within the last message, from which the answer goes on, or behind it.
typedef enum ending { BEGINS, CONTINUES, ENDS } ending;

// Chat completions ask for one of them; to Anthropic's and Ollama's clients a last message of the assistant's is the beginning of the answer, unless it calls tools. An empty one
// is a turn that begins. `last` is its number among the client's messages.
static bool find_ending(const job *j, json_t *list, const char *param, size_t last, ending *out, api_error *e) {
    api_shape shape = api_shape_of(j->r);
    size_t n = json_array_size(list);
    const json_t *m = json_array_get(list, n - 1), *content = json_object_get(m, "content");
    bool answer = !strcmp(json_string_value(json_object_get(m, "role")), "assistant");
    char at[128];
    snprintf(at, sizeof at, "%.60s[%zu].content", param, last);
    *out = j->p.generation_prompt < 0 ? ENDS : BEGINS;
    if (!(shape == SHAPE_OPENAI ? j->p.continues : answer && !json_array_size(json_object_get(m, "tool_calls")))) return true;
    if (j->p.generation_prompt > 0)
        return api_fail(e, 400, "continue_final_message", "invalid_value",
                        "continue_final_message goes on with the last message, add_generation_prompt begins a new one: set one of them");
    if (shape == SHAPE_ANTHROPIC && ends_in_space(json_string_value(content), json_string_length(content)))
        return api_fail(e, 400, at, "invalid_value", "%s: the assistant's last message, with which the answer goes on, must not end in white space", at);
    *out = json_string_length(content) ? CONTINUES : BEGINS;
    if (*out == CONTINUES) return true;
    if (!answer) return api_fail(e, 400, at, "invalid_value", "%s holds no text that an answer could go on with", at);
    json_array_remove(list, n - 1);
    return true;
}

// The messages as templates take them; a new reference, or NULL.
static json_t *convert(const job *j, const json_t *messages, const char *param, const char *extra_system, api_error *e) {
    json_t *list = json_array();
    bool ok = list && (!extra_system || json_array_append_new(list, json_pack("{s:s,s:s}", "role", "system", "content", extra_system)) == 0);
    if (!ok) no_memory(e);
    for (size_t i = 0; ok && i < json_array_size(messages); i++) {
        json_t *m = message(api_shape_of(j->r), json_array_get(messages, i), param, i, e);
        ok = m && (json_array_append_new(list, m) == 0 || no_memory(e));
    }
    if (ok) return list;
    json_decref(list);
    return NULL;
}

bool api_chat_input(const job *j, const json_t *messages, const char *param, const char *extra_system, char **out, size_t *len, api_error *e) {
    if (!messages) return api_fail(e, 400, param, "missing_required_parameter", "%s is missing", param);
    if (!json_is_array(messages)) return api_fail(e, 400, param, "invalid_type", "%s must be an array, not %s", param, api_json_type(messages));
    if (!json_array_size(messages)) return api_fail(e, 400, param, "invalid_value", "%s must hold at least one message", param);
    ending end = BEGINS;
    json_t *list = convert(j, messages, param, extra_system, e), *root = NULL;
    bool ok = list && find_ending(j, list, param, json_array_size(messages) - 1, &end, e);
    if (ok) {
        root = json_object();
        ok = root && put_variables(root, &j->p) && json_object_set(root, "messages", list) == 0 &&
             json_object_set_new(root, "add_generation_prompt", json_boolean(end == BEGINS)) == 0 &&
             json_object_set_new(root, "continue_final_message", json_boolean(end == CONTINUES)) == 0;
        ok = ok ? dump(root, out, len, e) : no_memory(e);
    }
    json_decref(root);
    json_decref(list);
    return ok;
}
