// Owns the list of places; see eng_ngram.h.
#include "engine/eng_ngram.h"

#include <string.h>

#include "base/mem.h"

enum { PLACES = 16, FARTHEST = 64 }; // looked at; tokens compared backwards

void eng_ngram_free(eng_ngram *x) {
    mem_free(x->head);
    mem_free(x->before);
    *x = (eng_ngram){0};
}

static size_t slot_of(const eng_ngram *x, const int32_t *run) {
    uint64_t h = 0;
    for (int i = 0; i < ENG_NGRAM; i++) h = (h ^ (uint32_t)run[i]) * 0x9E3779B97F4A7C15u;
    return (size_t)(h >> 32) & (x->n_heads - 1);
}

// Lists every place below n.
static bool list(eng_ngram *x, const int32_t *tokens, size_t n) {
    if (!mem_grow((void **)&x->before, &x->cap, n, sizeof *x->before)) return false;
    if (x->n_heads < n) { // all again, over more heads
        size_t heads = x->n_heads ? x->n_heads : 256;
        while (heads < n) heads *= 2;
        int32_t *fresh = mem_alloc(heads * sizeof *fresh);
        if (!fresh) return false;
        mem_free(x->head);
        x->head = fresh;
        x->n_heads = heads;
        memset(fresh, 0xff, heads * sizeof *fresh); // -1
        x->n = ENG_NGRAM;
    }
    for (; x->n < n; x->n++) {
        int32_t *head = &x->head[slot_of(x, tokens + x->n - ENG_NGRAM)];
        x->before[x->n] = *head;
        *head = (int32_t)x->n;
    }
    return true;
}

size_t eng_ngram_draft(eng_ngram *x, const int32_t *tokens, size_t n, int32_t *out, size_t most) {
    if (n <= ENG_NGRAM || n > INT32_MAX / 2 || !most || !list(x, tokens, n)) return 0;
    size_t best = 0, longest = 0;
    int32_t at = x->head[slot_of(x, tokens + n - ENG_NGRAM)];
    for (int i = 0; i < PLACES && at >= 0; i++, at = x->before[at]) {
        size_t same = 0, place = (size_t)at;
        while (same < place && same < FARTHEST && tokens[place - 1 - same] == tokens[n - 1 - same]) same++;
        if (same > longest) longest = same, best = place;
    }
    if (longest < ENG_NGRAM) return 0; // the hash alone
    for (size_t i = 0; i < most; i++) out[i] = best + i < n ? tokens[best + i] : out[best + i - n];
    return most;
}
