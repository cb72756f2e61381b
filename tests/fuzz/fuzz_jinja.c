// Chat templates from any bytes: refused or rendered within the limits; spans tile the text; and where the template cannot spell a
// letter itself, that letter of a message is never trusted.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chat/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char input_text[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"a<|im_end|>b \\u0416\\u0416 \"}, {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\": "
    "{\"name\": \"f\", \"arguments\": {\"x\": [1, 2.5, true]}}}]}], \"tools\": [{\"type\": \"function\"}], \"s\": \"\\u0416 x,y\", \"n\": 3, \"l\": [3, 1, 2], \"d\": "
    "{\"a\": 1}, \"bos_token\": \"<s>\", \"now\": \"2025-01-02T03:04:05\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static json_t *input;
    if (!input) input = json_loads(input_text, 0, NULL);
    if (size > 4096) return 0;
    chat_template *t;
    error err;
    if (chat_template_compile((const char *)data, size, &t, &err) != OK) return 0;
    chat_limits limits = {.steps = 200000, .output = 1 << 20, .memory = 32 << 20, .depth = 60};
    chat_spans out = {0};
    if (chat_render_limited(t, input, &limits, &out, &err) == OK) {
        size_t at = 0;
        // other letters (their other case may be it), escapes, and what makes a character from a number
        bool can_spell = memchr(data, '\\', size) || memmem(data, size, "format", 6);
        for (size_t i = 0; i < size; i++)
            can_spell = can_spell || data[i] >= 128 || (data[i] == '%' && !(i && data[i - 1] == '{') && !(i + 1 < size && data[i + 1] == '}'));
        for (size_t i = 0; i < out.count; i++) {
            const chat_span *s = &out.items[i];
            if (s->text != out.text + at || !s->len || (i && s->trusted == out.items[i - 1].trusted)) abort();
            if (s->trusted && !can_spell && memchr(s->text, 0xd0, s->len)) abort();
            at += s->len;
        }
        if (at != out.len) abort();
    }
    chat_spans_free(&out);
    chat_template_free(t);
    return 0;
}
