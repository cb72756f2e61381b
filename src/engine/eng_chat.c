// Conversations: the JSON of a request to the spans of a prompt, by the file's own template or ChatML.
#include <jansson.h>
#include <string.h>

#include "engine/eng_sched.h"

status eng_parse_conversation(const char *input, size_t len, json_t **out, error *err) {
    json_error_t why;
    *out = json_loadb(input, len, JSON_REJECT_DUPLICATES, &why);
    if (!*out) return error_set(err, E_INVALID, "the conversation is not JSON: line %d, column %d: %s", why.line, why.column, why.text);
    if (json_is_object(*out) && json_is_array(json_object_get(*out, "messages"))) return OK;
    json_decref(*out);
    *out = NULL;
    return error_set(err, E_INVALID, "the conversation must be a JSON object with a list \"messages\"");
}

status eng_file_render(eng_file *f, const char *input, size_t len, chat_spans *out, error *err) {
    json_t *json;
    if (!f->tmpl) return error_set(err, E_INVALID, "%s: its chat template cannot be compiled (the log says where); use a completion instead", f->id);
    status s = eng_parse_conversation(input, len, &json, err);
    if (s != OK) return s;
    const struct { const char *name, *text; } tokens[] = {{"bos_token", f->bos}, {"eos_token", f->eos}};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        if (!json_object_get(json, tokens[i].name)) json_object_set_new(json, tokens[i].name, json_stringn(tokens[i].text, strlen(tokens[i].text)));
    s = chat_render(f->tmpl, json, out, err);
    json_decref(json);
    return s;
}
