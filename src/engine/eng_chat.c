// Conversations: the JSON of a request to the spans of a prompt, by the file's own template or ChatML, and these to ids.
#include <jansson.h>
#include <string.h>

#include "base/mem.h"
#include "engine/eng_sched.h"

status eng_parse_conversation(const char *input, size_t len, json_t **out, error *err) {
    json_error_t why;
    *out = json_loadb(input, len, JSON_REJECT_DUPLICATES, &why);
    if (!*out && json_error_code(&why) == json_error_numeric_overflow)
        return error_set(err, E_INVALID, "the conversation holds a number out of range, at line %d, column %d: %s", why.line, why.column, why.text);
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

status eng_file_encode(eng_file *f, const chat_spans *spans, tok_ids *out, error *err) {
    tok_span *cut = mem_calloc(spans->count + 1, sizeof *cut);
    if (!cut) return error_set(err, E_NOMEM, "no memory for the spans of a conversation");
    for (size_t i = 0; i < spans->count; i++) cut[i] = (tok_span){spans->items[i].text, spans->items[i].len, spans->items[i].trusted};
    status s = tok_encode_spans(f->tok, cut, spans->count, TOK_ADD_SPECIAL, out, err);
    mem_free(cut);
    return s;
}
