// Bodies of requests: parsing, the table of fields in every dialect, messages, and the JSON that is made of them again.
#include <stdlib.h>
#include <string.h>

#include "api/api_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    api_error e = {0};
    json_t *body = api_parse((const char *)data, size, &e);
    if (!body) {
        if (!e.http || !e.message[0]) abort(); // every refusal says why
        return 0;
    }
    static const unsigned all[] = {FOR_CHAT, FOR_COMPLETION, FOR_MESSAGES, FOR_OLLAMA};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        params p = {.top_logprobs = -1, .logprobs = -1};
        arena_init(&p.mem, 16 << 20);
        e.http = 0;
        bool ok = api_read_fields(&p, body, all[i], "", &e) && api_settle(&p, all[i], &e);
        if (!ok && !e.http) abort();
        char *input = NULL;
        size_t len = 0;
        if (ok && api_chat_input(json_object_get(body, "messages"), "messages", p.template_kwargs, "system \"text\"", &input, &len, &e)) {
            json_t *again = json_loadb(input, len, JSON_REJECT_DUPLICATES, NULL);
            if (!json_array_size(json_object_get(again, "messages"))) abort();
            json_decref(again);
        }
        mem_free(input);
        arena_free(&p.mem);
    }
    strbuf out = {0};
    api_put_error(&out, SHAPE_OPENAI, &e);
    api_put_string(&out, (const char *)data, size);
    strbuf_free(&out);
    json_decref(body);
    return 0;
}
