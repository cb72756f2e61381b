// engine/eng_speculate: drafts of a stream's next tokens.
//
// A draft is a row more in a step: a token that may come. Sampling is counter-based ((seed, choice, position), sampling.h) and a row's result does not depend
// on the other rows, so what the engine draws from the rows is what it would have drawn without drafts, one token a step; a draft that is not what was
// drawn at its place makes all rows after it void. So the text never depends on drafts, only the time does. How many are worth their cost is
// eng_policy's to say, per sequence.
// Threads: the engine thread.
#pragma once
#include "engine/eng_step.h"

// How many drafts c is to have in the step under way, `most` at most: written to c->tokens past n_tokens, or wanted of the draft model (c->from_model,
// eng_draft.h). *tokens: as pol_draft_rows.
int32_t eng_speculate_want(eng_served *v, eng_choice *c, int32_t most, double *tokens);
// Makes pages for c's n_drafts; false: there are none for drafts.
bool    eng_speculate_ready(eng_served *v, eng_choice *c);
// The step is over: so many of c's drafts were right.
void    eng_speculate_note(eng_served *v, eng_choice *c, int32_t accepted);
void    eng_speculate_count(eng_served *v, int32_t drafted, int32_t accepted); // in metrics
