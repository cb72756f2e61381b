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

// One message as templates take it; a new reference, or NULL.
static json_t *message(const json_t *m, const char *param, size_t i, api_error *e) {
    char at[128];
    snprintf(at, sizeof at, "%.60s[%zu]", param, i);
    if (!json_is_object(m)) return api_fail(e, 400, at, "invalid_type", "%s must be an object, not %s", at, api_json_type(m)), NULL;
    const json_t *role = json_object_get(m, "role"), *content = json_object_get(m, "content");
    snprintf(at, sizeof at, "%.60s[%zu].role", param, i);
    if (!json_is_string(role)) return api_fail(e, 400, at, role ? "invalid_type" : "missing_required_parameter", "%s must be a string, not %s", at, api_json_type(role)), NULL;
    if (!json_string_length(role) || json_string_length(role) > 64) return api_fail(e, 400, at, "invalid_value", "%s must name a role, such as user", at), NULL;
    snprintf(at, sizeof at, "%.60s[%zu].content", param, i);
    if (!all_built(m, param, i, e)) return NULL;
    bool calls = json_array_size(json_object_get(m, "tool_calls")) > 0;
    if (!content && !calls) return api_fail(e, 400, at, "missing_required_parameter", "%s is missing", at), NULL;
    if (json_is_null(content) && !calls && strcmp(json_string_value(role), "assistant"))
        return api_fail(e, 400, at, "invalid_type", "%s must be a string or an array of parts, not null", at), NULL;
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

bool api_chat_input(const json_t *messages, const char *param, const json_t *kwargs, const char *extra_system, char **out, size_t *len, api_error *e) {
    if (!messages) return api_fail(e, 400, param, "missing_required_parameter", "%s is missing", param);
    if (!json_is_array(messages)) return api_fail(e, 400, param, "invalid_type", "%s must be an array, not %s", param, api_json_type(messages));
    if (!json_array_size(messages)) return api_fail(e, 400, param, "invalid_value", "%s must hold at least one message", param);
    json_t *root = json_object(), *list = json_array();
    bool ok = root && list;
    if (ok && extra_system) ok = json_array_append_new(list, json_pack("{s:s,s:s}", "role", "system", "content", extra_system)) == 0;
    for (size_t i = 0; ok && i < json_array_size(messages); i++) {
        json_t *m = message(json_array_get(messages, i), param, i, e);
        if (!m) {
            json_decref(root);
            json_decref(list);
            return false;
        }
        ok = json_array_append_new(list, m) == 0;
    }
    if (ok && kwargs) ok = json_object_update(root, (json_t *)kwargs) == 0;
    if (ok) ok = json_object_set(root, "messages", list) == 0 && json_object_set_new(root, "add_generation_prompt", json_true()) == 0;
    ok = ok ? dump(root, out, len, e) : no_memory(e);
    json_decref(root);
    json_decref(list);
    return ok;
}
