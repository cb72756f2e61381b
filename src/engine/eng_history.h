// engine/eng_history: what clients asked lately, to tell them why a prompt had to be computed. Bounded in entries and tokens; the oldest goes first.
// A conversation's entry grows from its prompt to prompt and answer, since the next turn begins with both.
// Threads: the engine thread.
#pragma once
#include "engine/eng_request.h"

enum { HISTORY_ENTRIES = 256, HISTORY_TOKENS = 1 << 20 };

typedef struct eng_past {
    uint64_t client[2], salt, order; // order: of the request; 0: empty
    char     model[256];
    dev_fingerprint weights;
    int32_t *tokens;
    size_t   n, computed; // the last token that was drawn never is, unless the text went on
} eng_past;

typedef struct eng_history {
    eng_past items[HISTORY_ENTRIES];
    size_t   next, tokens;
} eng_history;

// Keeps the tokens of a request (again, when it has more by now), of which the first `computed` were. For want of memory, or if there are very many, they are not kept; nor
// are those of clients that are not told apart.
void eng_history_note(eng_history *h, const altiserve_request *r, dev_fingerprint weights, const int32_t *tokens, size_t n, size_t computed);
// Why r's prompt was computed, by what came before it. cached: tokens found.
void eng_history_explain(const eng_history *h, const altiserve_request *r, dev_fingerprint weights, bool cache_on, size_t cached, altiserve_explanation *out);
void eng_history_free(eng_history *h);
