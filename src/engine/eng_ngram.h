// engine/eng_ngram: drafts from a text's own repetitions ("prompt lookup"): what followed the last time its newest tokens stood together.
//
// Runs of NGRAM tokens are found by hash; of the latest places that end alike, the one that agrees furthest backwards is followed. A text that repeats
// itself with a period is followed past its end.
// Threads: a structure belongs to one thread at a time. Memory is bounded by the text: 8 bytes a token at most.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ENG_NGRAM = 3 };

// Start with {0}. Places are ends of runs: place i stands for tokens [i - NGRAM, i).
typedef struct eng_ngram {
    int32_t *head, *before; // by hash: the latest place or -1; by place: the one before it with the same hash
    size_t   n_heads, n, cap; // n: places below it are listed
} eng_ngram;

// Up to `most` tokens that may follow tokens[0..n), whose beginning is the same as at the last call; how many. None without a repetition or memory.
size_t eng_ngram_draft(eng_ngram *x, const int32_t *tokens, size_t n, int32_t *out, size_t most);
void   eng_ngram_free(eng_ngram *x);
