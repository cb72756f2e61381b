// Bodies of requests: parsing, the table of fields in every dialect, messages, and the JSON that is made of them again.
#include <stdlib.h>
#include <string.h>

#include "api/api_internal.h"
#include "http/http_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct { unsigned where; const char *path; } dialects[] = {
    {FOR_CHAT, "/v1/chat/completions"}, {FOR_COMPLETION, "/v1/completions"}, {FOR_MESSAGES, "/v1/messages"}, {FOR_OLLAMA, "/api/chat"}, {FOR_NATIVE, "/completion"}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    api_error e = {0};
    json_t *body = api_parse((const char *)data, size, &e);
    if (!body) {
        if (!e.http || !e.message[0]) abort(); // every refusal says why
        return 0;
    }
    strbuf out = {0};
    for (size_t i = 0; i < sizeof dialects / sizeof *dialects; i++) {
        http_request r = {.path = dialects[i].path, .id = "id"};
        job j = {.r = &r};
        api_begin_fields(&j.p);
        e.http = 0;
        bool ok = api_read_fields(&j.p, body, dialects[i].where, "", &e) && api_settle(&j.p, dialects[i].where, &e);
        if (!ok && !e.http) abort();
        char *input = NULL;
        size_t len = 0;
        if (ok && api_chat_input(&j, json_object_get(body, "messages"), "messages", "system \"text\"", &input, &len, &e)) {
            json_t *again = json_loadb(input, len, JSON_REJECT_DUPLICATES, NULL);
            if (!json_array_size(json_object_get(again, "messages"))) abort();
            json_decref(again);
        }
        if (e.http) api_put_error(&out, &r, &e);
        mem_free(input);
        arena_free(&j.p.mem);
    }
    api_put_string(&out, (const char *)data, size);
    strbuf_free(&out);
    json_decref(body);
    return 0;
}
