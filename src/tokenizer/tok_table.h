// tok_table: the two lookups that every vocabulary stands on: byte strings to numbers, and a trie of byte strings.
//
// Both own their memory, grow by doubling, and never change once the tokenizer is made; reading from many threads is safe then.
// Functions that add return false when memory is gone (or past 4 GiB of text).
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Strings numbered 0, 1, 2 ... in the order they were added.
typedef struct tok_strtab {
    char     *blob;
    size_t    blob_len, blob_cap;
    uint32_t *off; // count + 1 of them
    size_t    off_cap, count;
    struct tok_strslot { uint32_t hash, id1; } *slots; // id1: id + 1; 0 is empty
    size_t    mask, used;
    bool      doubled; // some string stands there twice
} tok_strtab;

void tok_strtab_free(tok_strtab *t);
bool tok_strtab_reserve(tok_strtab *t, size_t strings, size_t bytes);
// Adds a string under the next number; it is found once tok_strtab_index was called, after the last of them. Of equal strings the first is found, the empty one
// never is.
bool tok_strtab_append(tok_strtab *t, const char *s, size_t n);
bool tok_strtab_index(tok_strtab *t);
// The number of a string, which is added if it is not there. All others are indexed.
bool    tok_strtab_intern(tok_strtab *t, const char *s, size_t n, int32_t *id);
int32_t tok_strtab_find(const tok_strtab *t, const char *s, size_t n); // -1 when absent
uint32_t tok_strtab_hash(const char *s, size_t n);
// Asks for the memory that a lookup will read, and looks up; some others should lie between.
static inline void tok_strtab_expect(const tok_strtab *t, uint32_t hash) { __builtin_prefetch(&t->slots[hash & t->mask]); }
int32_t tok_strtab_find_hash(const tok_strtab *t, const char *s, size_t n, uint32_t hash);
static inline const char *tok_strtab_get(const tok_strtab *t, int32_t id, size_t *n) {
    *n = t->off[id + 1] - t->off[id];
    return t->blob + t->off[id];
}

static inline uint64_t tok_hash(const char *s, size_t n) {
    const uint64_t k = 0x9E3779B97F4A7C15u;
    uint64_t       h = n * k, w;
    for (; n >= 8; n -= 8, s += 8) {
        memcpy(&w, s, 8);
        h = (h ^ w) * k;
        h ^= h >> 32;
    }
    w = 0;
    for (size_t i = 0; i < n; i++) w |= (uint64_t)(unsigned char)s[i] << (8 * i);
    h = (h ^ w) * k;
    h ^= h >> 29;
    h *= 0xBF58476D1CE4E5B9u;
    return h ^ h >> 32;
}

enum { TOK_TRIE_MAX = 4096 }; // bytes; longer strings are not taken up

// Nodes are numbers, 0 is the root; a node may carry a value (-1: none).
typedef struct tok_trie {
    uint64_t *keys;  // node << 8 | byte, plus 1; 0 is empty
    uint32_t *child;
    size_t    mask, edges;
    int32_t  *value; // a node each
    size_t    nodes, value_cap;
    uint32_t  first[256]; // the root's children
} tok_trie;

void tok_trie_free(tok_trie *t);
bool tok_trie_add(tok_trie *t, const char *s, size_t n, int32_t value); // a later value replaces an earlier one

static inline size_t tok_trie_slot(const tok_trie *t, uint64_t key) {
    return (size_t)((key * 0x9E3779B97F4A7C15u) >> 20) & t->mask;
}
// The child of node along byte b, or 0.
static inline uint32_t tok_trie_step(const tok_trie *t, uint32_t node, unsigned char b) {
    if (node == 0) return t->first[b];
    uint64_t key = ((uint64_t)node << 8 | b) + 1;
    for (size_t i = tok_trie_slot(t, key);; i = (i + 1) & t->mask) {
        if (t->keys[i] == key) return t->child[i];
        if (t->keys[i] == 0) return 0;
    }
}
