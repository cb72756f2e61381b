// sampling: a row of logits -> a token, log-probabilities, and stop strings.
//
// Order: penalties (repetition on prompt and output, presence and frequency on the output) -> logit bias and mask -> temperature -> top-k
// -> typical -> top-p -> min-p -> draw. Every truncation keeps at least one token and works on what the one before it left, renormalised.
// NaN and -inf logits are never drawn; +inf counts as the greatest float. No row is sorted: a cut is found through histograms of the
// logits (a few passes) and only the bucket on its border is sorted.
//
// Randomness is counter-based: Philox4x32-10 with the seed as key and (position, choice) as counter, so what is drawn at a position
// depends on nothing that was drawn before.
//
// Threads: a sampler belongs to one thread at a time; scratch too. Formulas of the truncations: top-p (Holtzman et al. 2020), typical (Meister et al.
// 2022), min-p (Nguyen et al. 2024); penalties as OpenAI (presence, frequency) and CTRL (Keskar et al. 2019, repetition) define them.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct samp_bias {
    int32_t token;
    float   bias; // added to the logit; -100 or less bans the token
} samp_bias;

typedef struct samp_params {
    float    temperature; // below 1e-5: greedy, the lowest id of the greatest logit
    int32_t  top_k;       // 0 (or less): off
    float    top_p;       // 1: off
    float    min_p;       // 0: off
    float    typical_p;   // 1: off
    float    repetition;  // 1: off; a seen token's logit is divided by it when positive, multiplied otherwise
    int32_t  last_n;      // tokens of prompt and output that the repetition penalty looks at; -1: all
    float    presence, frequency; // 0: off; logit -= frequency * count + presence * (count > 0), count in the output
    uint64_t seed;
    uint32_t choice;      // part of the counter
    const samp_bias *bias; // copied
    size_t   n_bias;
} samp_params;

samp_params samp_defaults(void); // everything off, temperature 1
bool samp_is_greedy(const samp_params *p); // nothing is drawn: neither temperature nor seed matters
// E_INVALID naming the field when a number is not finite or out of its range, or a bias names no token of the vocabulary.
status samp_check(const samp_params *p, int32_t n_vocab, error *err);

// Working memory for draws, shared by all samplers of a thread. Start with {0}.
typedef struct samp_item { int32_t id; float d, key; } samp_item;
typedef struct samp_scratch {
    float     *row;
    samp_item *items, *border;
    float     *peaks;
    size_t     row_cap, items_cap, border_cap, peaks_cap;
} samp_scratch;
void samp_scratch_free(samp_scratch *s);

// A row of logits. peaks: the greatest of each SAMP_PEAK of them, where a NaN counts as -inf and +inf as the greatest float; NULL: not known, and found anew.
enum { SAMP_PEAK = 64 };
typedef struct samp_row { const float *logits, *peaks; } samp_row;

typedef struct sampler sampler;
status samp_create(const samp_params *p, int32_t n_vocab, sampler **out, error *err);
void   samp_free(sampler *s); // NULL is fine
// A token of the prompt (output = false) or of the answer: what the penalties look at. Cheap when no penalty is on.
status samp_accept(sampler *s, int32_t token, bool output, error *err);
// position: of the token that is drawn, counted in the answer from 0. mask: NULL, or bit i % 32 of word i / 32 set where token i is allowed.
// E_INVALID when no token is left to draw (all NaN, -inf, banned or masked).
status samp_draw(sampler *s, samp_scratch *scratch, samp_row row, const uint32_t *mask, uint64_t position, int32_t *token, error *err);

typedef struct samp_logprob {
    int32_t token;
    float   logprob;
} samp_logprob;
// Of the raw distribution, softmax(logits): out[0] is `chosen`, out[1 .. k] the k most likely, best first, equal ones by id. Entries past
// the number of finite logits have token -1 and -inf.
status samp_logprobs(samp_scratch *scratch, samp_row row, int32_t n_vocab, int32_t chosen, int32_t k, samp_logprob *out, error *err);

// A number in [0, 1) from 53 random bits: Philox4x32-10, key = seed, counter = (position low, position high, choice, stream).
double samp_uniform(uint64_t seed, uint32_t choice, uint32_t stream, uint64_t position);

// ---- stop strings. Text goes in piece by piece; out comes what can no longer become (part of) a stop string, and never half of a
// UTF-8 character unless the text itself is broken.
typedef struct samp_stop {
    char  **strings; // copies
    size_t *lens;
    size_t  n;
    strbuf  held;    // given in, not yet out
    bool    matched; // a stop string was found; nothing comes out any more
    size_t  which;   // which one
} samp_stop;
status samp_stop_init(samp_stop *s, const char *const *strings, size_t n, error *err); // empty strings are E_INVALID
void   samp_stop_free(samp_stop *s);
// Appends to *out. After it, s->matched says whether a stop string is complete: the text before it is out, the rest is dropped.
status samp_stop_feed(samp_stop *s, const char *text, size_t len, strbuf *out, error *err);
status samp_stop_end(samp_stop *s, strbuf *out, error *err); // the answer is over: what was held comes out
