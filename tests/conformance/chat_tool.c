// Renders many templates at once for the comparison with Jinja2: each line of stdin is {"template": TEXT, "input": {...}}, each line
// of stdout {"text": ..., "spans": [[length, trusted], ...]} or {"error": ..., "code": ...}. Compile with src/chat, src/base and jansson.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat/chat.h"

int main(void) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_t *in = json_loads(line, 0, NULL), *out = json_object();
        const json_t *tmpl = json_object_get(in, "template");
        chat_template *t = NULL;
        chat_spans spans = {0};
        error err = {0};
        status s = json_is_string(tmpl) ? chat_template_compile(json_string_value(tmpl), json_string_length(tmpl), &t, &err) : error_set(&err, E_USAGE, "no template");
        if (s == OK) s = chat_render(t, json_object_get(in, "input"), &spans, &err);
        if (s == OK) {
            json_t *list = json_array();
            for (size_t i = 0; i < spans.count; i++) json_array_append_new(list, json_pack("[I,b]", (json_int_t)spans.items[i].len, spans.items[i].trusted));
            json_object_set_new(out, "text", json_stringn(spans.text, spans.len));
            json_object_set_new(out, "spans", list);
        } else {
            json_object_set_new(out, "error", json_string(err.text));
            json_object_set_new(out, "code", json_string(status_name(err.code)));
        }
        char *text = json_dumps(out, JSON_COMPACT | JSON_ENSURE_ASCII);
        puts(text ? text : "{}");
        free(text);
        chat_spans_free(&spans);
        chat_template_free(t);
        json_decref(in);
        json_decref(out);
    }
    free(line);
    return 0;
}
