// engine/eng_draft: drafts from a second, smaller model of the same vocabulary (--draft).
//
// The draft model is loaded when the first model that it drafts for is served, into what the ledger of memory has left; until then, where that is too little
// and where its vocabulary differs, there are no drafts of it. It reads what its streams have read and draws with their own samplers at the same positions: equal random numbers
// make equal draws likely, and only likely: what counts is decided as for all drafts (eng_speculate.h).
// Its sequences live in the draft model's own pool of pages, and give way there to whoever is served by it. What it drafted is never committed.
// Threads: the engine thread, but for eng_draft_free.
#pragma once
#include "engine/eng_step.h"

// Whether two files have the same tokens; E_INVALID with the first difference. eng_file_text was OK for both.
status eng_draft_fits(const eng_file *target, const eng_file *draft, error *err);

// For v's streams; nothing where v's vocabulary differs.
void   eng_draft_create(eng_served *v, eng_file *file);
void   eng_draft_free(eng_draft *d); // NULL is fine
// Whether it is loaded: asks for it otherwise.
bool   eng_draft_ready(eng_served *v);
double eng_draft_seconds(const eng_draft *d); // of one step of it, as measured; 0: not yet
// Fills tokens past n_tokens of the running choices that want n_drafts of it (from_model), in steps they share; n_drafts is what became of it, 0 while the
// model still reads their text.
void   eng_draft_run(eng_served *v, samp_scratch *scratch);
void   eng_draft_leave(eng_choice *c);    // its sequence in the draft model's pool ends
bool   eng_draft_give_way(eng_served *v); // v's pool is needed: sequences that only draft end. False: there were none
