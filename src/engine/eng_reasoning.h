// engine/eng_reasoning: what a model thinks aloud, told apart from its answer while a client takes the events of a chat.
//
// Markers are known where the file's template names them (eng_reasoning.c has the table). The engine and the cache of answers know nothing of it: they keep the
// text as it was written. Threads: one at a time, as altiserve_next.
#pragma once
#include "altiserve.h"
#include "chat/chat.h"

typedef struct eng_reasoning eng_reasoning; // of a request with n choices

bool   eng_reasoning_known(const char *source, size_t len); // whether a template of that source knows markers

// *out NULL where the template knows no markers. prompt: as it was rendered; it may have opened the block.
status eng_reasoning_create(const chat_template *t, const chat_spans *prompt, uint32_t n, eng_reasoning **out, error *err);
void   eng_reasoning_free(eng_reasoning *x); // NULL is fine
// Splits the text of an EVENT_TEXT into ev->reasoning and ev->text; both live until the next call. False when memory is gone.
bool   eng_reasoning_split(eng_reasoning *x, altiserve_event *ev);
// Before the finish of ev->choice: fills in what was held back of it, as a text without tokens. False when there is nothing (more), or memory is gone.
bool   eng_reasoning_rest(eng_reasoning *x, altiserve_event *ev);
bool   eng_reasoning_failed(const eng_reasoning *x);
