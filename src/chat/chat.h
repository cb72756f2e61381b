// chat: Jinja templates; a conversation becomes spans of text that remember where they come from.
//
// A template is compiled once (chat_template_compile) and rendered any number of times (chat_render). The language is Jinja2 as
// transformers sets it up: sandboxed, trim_blocks, lstrip_blocks, loop controls, its own `tojson`, raise_exception, strftime_now,
// and the generation tag, whose body is rendered and nothing more.
//
// Origin: text that the template spells is trusted, and so are bos_token and eos_token; text of messages, tools and all other
// variables is not. Every character keeps its origin through filters, methods, slices, formatting and concatenation. Text that an
// operation makes up itself (digits of a number, `True`, the brackets of a printed list, escapes of tojson) is untrusted as soon as
// it is made from data, and trusted text never is made from untrusted text. So a message that spells `<|im_end|>` stays plain text.
//
// Limits: see chat_limits. A template past one of them is refused with E_LIMIT, in bounded time and memory.
//
// Errors: the text ends with the line and column of the template where they are known. E_INVALID: a template that Jinja2 would refuse
// (syntax, a raised exception, an operation on a wrong type). E_UNSUPPORTED: Jinja2 that is not built here (import, include, extends, ...).
//
// Threads: a chat_template is immutable after it is compiled; any number of threads may render it at once. A chat_spans belongs to one
// thread at a time. The input object is only read.
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct chat_template chat_template;

// A run of bytes (UTF-8) of one origin; neighbours differ in `trusted`.
typedef struct chat_span {
    const char *text; // inside the chat_spans; not NUL-terminated
    size_t      len;
    bool        trusted;
} chat_span;

// Zero it before the first use. chat_render fills it anew (freeing what was there); chat_spans_free leaves it zeroed.
typedef struct chat_spans {
    chat_span *items;
    size_t     count;
    char      *text; // all bytes, NUL-terminated; the items point into it
    size_t     len;
} chat_spans;

void chat_spans_free(chat_spans *s);
// A copy of the whole text, NUL-terminated; the caller owns it (mem_free). text_len may be NULL.
status chat_spans_text(const chat_spans *s, char **text, size_t *text_len, error *err);

// What one render may use at most; a zero field means the default beside it.
typedef struct chat_limits {
    uint64_t steps;  // 20,000,000: units of work (nodes evaluated, values looked at; characters touched by an operation are counted by the 16 or 64)
    size_t   output; // 64 MiB: bytes of the rendered text, and of any one string made on the way
    size_t   memory; // 512 MiB: bytes of all values made on the way
    int      depth;  // 200: nested calls of macros, loops and expressions, and nesting of data that is printed or compared
} chat_limits;

// `text` (UTF-8, len bytes, at most 1 MiB) is not kept. On failure *out is NULL. The caller frees it with chat_template_free (NULL is fine).
status chat_template_compile(const char *text, size_t len, chat_template **out, error *err);
void   chat_template_free(chat_template *t);

// Renders `input`, the object that `altiserve template` reads: messages, and where given tools, add_generation_prompt (true when
// absent), bos_token, eos_token (strings), now (ISO time, for strftime_now; the local clock when absent), continue_final_message
// (false); every other key is a variable of the template. Jinja2 semantics: absent variables are undefined; JSON null is none; null
// for tools is none.
// With continue_final_message the prompt ends with the text of the last message, whatever the template writes behind it, so that what
// is generated goes on with it; add_generation_prompt is false then when absent. E_INVALID where the template does not write that text
// word for word (spaces around it aside).
status chat_render(const chat_template *t, const json_t *input, chat_spans *out, error *err);
status chat_render_limited(const chat_template *t, const json_t *input, const chat_limits *limits, chat_spans *out, error *err);

// True when a string constant or the text of the template contains `needle`: how the engine sees whether a template writes
// `<think>` or knows `tools`.
bool chat_template_mentions(const chat_template *t, const char *needle);

// The source of the ChatML template, for files that carry none.
const char *chat_default_template(void);

// --- Generated text: content and reasoning ---
// A model that thinks aloud writes `<think>...</think>` before its answer. A splitter takes the text as it comes, in pieces of any
// size, and gives it on as reasoning or content. Only a block that begins the text (spaces before it aside) is reasoning; the markers,
// spaces just inside the block and spaces behind it are dropped. At most CHAT_HELD bytes are held back, until it is clear what they are.
// Plain data, no allocation; one thread at a time. Use it only when the template or the model knows the markers (chat_template_mentions).
enum { CHAT_HELD = 64 };
typedef enum chat_part { CHAT_CONTENT, CHAT_REASONING } chat_part;
// Called with runs in order; len > 0. Any status but OK ends the feeding, which returns it.
typedef status (*chat_emit)(void *ctx, chat_part part, const char *text, size_t len);

typedef struct chat_splitter {
    const char *open, *close;
    int         state; // of chat_parse.c
    size_t      held;
    char        hold[CHAT_HELD];
} chat_splitter;

// open and close (say "<think>", "</think>"; 1 to CHAT_HELD - 1 bytes) must outlive the splitter. `inside`: the prompt ended within
// the block already (chat_prompt_opens).
void   chat_split_init(chat_splitter *s, const char *open, const char *close, bool inside);
status chat_split_feed(chat_splitter *s, const char *text, size_t len, chat_emit emit, void *ctx);
// The text is over: gives on what was held. A block that never ended is reasoning.
status chat_split_end(chat_splitter *s, chat_emit emit, void *ctx);
// True when the prompt's text, spaces at its end aside, ends with `open` written by the template.
bool   chat_prompt_opens(const chat_spans *prompt, const char *open);
