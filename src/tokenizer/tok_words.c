// tok_words: the least-first heap that merging draws from, and the cache of words that one call keeps: most words of a text have
// been seen in it before. A slot is found by the word's hash and holds one word; longer words are not kept.
#include "tokenizer/tok_internal.h"

bool tok_heap_push(tok_scratch *s, uint64_t key) {
    if (!mem_grow((void **)&s->heap, &s->heap_cap, s->heap_len + 1, sizeof *s->heap)) return false;
    size_t i = s->heap_len++;
    while (i > 0 && s->heap[(i - 1) / 2] > key) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = key;
    return true;
}

uint64_t tok_heap_pop(tok_scratch *s) {
    uint64_t least = s->heap[0], last = s->heap[--s->heap_len];
    size_t   i = 0, n = s->heap_len;
    for (size_t child = 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && s->heap[child + 1] < s->heap[child]) child++;
        if (s->heap[child] >= last) break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return least;
}

void tok_words_open(tok_scratch *s, size_t text_len) {
    if (s->words || text_len < 256) return;
    size_t slots = 64;
    while (slots < text_len / 8 && slots < 16384) slots *= 2;
    s->words = mem_calloc(slots, sizeof *s->words); // without it: slower, the same
    s->words_mask = slots - 1;
}

status tok_word_cached(const tokenizer *t, tok_scratch *s, const char *word, size_t len, tok_word_fn fn, tok_ids *out) {
    tok_word_slot *slot = NULL;
    if (s->words && len <= TOK_WORD_BYTES) {
        slot = &s->words[tok_hash(word, len) & s->words_mask];
        if (slot->len == len && memcmp(slot->key, word, len) == 0) {
            if (!mem_grow((void **)&out->ids, &out->cap, out->count + slot->count, sizeof *out->ids)) {
                return error_set(s->err, E_NOMEM, "out of memory for token ids");
            }
            memcpy(out->ids + out->count, slot->ids, slot->count * sizeof *out->ids);
            out->count += slot->count;
            return OK;
        }
    }
    size_t before = out->count;
    status st = fn(t, s, word, len, out);
    if (st == OK && slot && len && out->count - before <= TOK_WORD_IDS) {
        slot->len = (uint8_t)len;
        slot->count = (uint8_t)(out->count - before);
        memcpy(slot->key, word, len);
        if (slot->count) memcpy(slot->ids, out->ids + before, slot->count * sizeof *slot->ids);
    }
    return st;
}
