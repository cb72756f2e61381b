// engine/eng_responses: the cache of whole answers: a deterministic request that was answered is answered again from memory.
//
// A request is deterministic when it draws nothing (temperature 0, top_k 1) or has a seed. Its key is the SHA-256 of the file's version, the prompt's tokens and
// every parameter that changes the answer; what only changes who is served when (client, priority, time limit, drafts) is not in it. Requests with different
// salts never share an answer. Kept are answers that ended by themselves, as the events their client saw; a replay gives the same events, at once.
// Bounds: entries, and bytes of all of them; an answer of more than an eighth of the bytes is not kept. The least recently used goes first.
// Threads: any; one lock, never held while another is taken.
#pragma once
#include "engine/eng_request.h"

typedef struct eng_responses eng_responses;

// *out NULL when there are to be no entries.
status eng_responses_create(size_t entries, uint64_t bytes, eng_responses **out, error *err);
void   eng_responses_destroy(eng_responses *c); // after every request has ended; NULL is fine

// r is filled in and not queued. True: it has its events and its end, and goes to its client as it is. False: it must be computed, and is recorded where that is worth it.
bool   eng_responses_replay(eng_responses *c, altiserve_request *r);
// An event of r, whether or not it is recorded. Engine thread.
void   eng_responses_note(altiserve_request *r, const eng_event *ev);
// r has ended well; what was recorded is kept. Engine thread, before its client can know.
void   eng_responses_keep(altiserve_request *r);
void   eng_responses_forget(altiserve_request *r); // what was recorded, if anything
