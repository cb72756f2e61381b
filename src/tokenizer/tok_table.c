// tok_table: see the header. Open addressing, at most half full, linear probing.
#include "tokenizer/tok_table.h"

#include "base/mem.h"

void tok_strtab_free(tok_strtab *t) {
    mem_free(t->blob);
    mem_free(t->off);
    mem_free(t->slots);
    memset(t, 0, sizeof *t);
}

static bool rehash(tok_strtab *t, size_t slots) {
    struct tok_strslot *fresh = mem_table(slots, sizeof *fresh);
    if (!fresh) return false;
    for (size_t i = 0; t->slots && i <= t->mask; i++) {
        if (!t->slots[i].id1) continue;
        size_t at = t->slots[i].hash & (slots - 1);
        while (fresh[at].id1) at = (at + 1) & (slots - 1);
        fresh[at] = t->slots[i];
    }
    mem_free(t->slots);
    t->slots = fresh;
    t->mask = slots - 1;
    return true;
}

bool tok_strtab_reserve(tok_strtab *t, size_t strings, size_t bytes) {
    if (strings > INT32_MAX / 4 || bytes > UINT32_MAX) return false;
    size_t slots = 64;
    while (slots < 2 * strings) slots *= 2;
    if ((!t->slots || slots > t->mask + 1) && !rehash(t, slots)) return false;
    return mem_grow((void **)&t->off, &t->off_cap, strings + 1, sizeof *t->off) &&
           mem_grow((void **)&t->blob, &t->blob_cap, bytes + 1, 1);
}

static struct tok_strslot *slot_of(const tok_strtab *t, const char *s, size_t n, uint32_t hash) {
    for (size_t at = hash & t->mask;; at = (at + 1) & t->mask) {
        struct tok_strslot *slot = &t->slots[at];
        if (!slot->id1) return slot;
        if (slot->hash != hash) continue;
        uint32_t begin = t->off[slot->id1 - 1];
        if (t->off[slot->id1] - begin == n && memcmp(t->blob + begin, s, n) == 0) return slot;
    }
}

bool tok_strtab_append(tok_strtab *t, const char *s, size_t n) {
    if (t->count >= INT32_MAX / 4 || t->blob_len + n > UINT32_MAX) return false;
    if (!mem_grow((void **)&t->off, &t->off_cap, t->count + 2, sizeof *t->off)) return false;
    if (!mem_grow((void **)&t->blob, &t->blob_cap, t->blob_len + n + 1, 1)) return false;
    if (t->count == 0) t->off[0] = 0;
    memcpy(t->blob + t->blob_len, s, n);
    t->blob_len += n;
    t->off[++t->count] = (uint32_t)t->blob_len;
    return true;
}

// The table is larger than the caches next to the core: what will be looked at is asked for some strings before.
bool tok_strtab_index(tok_strtab *t) {
    enum { AHEAD = 16 };
    if (!tok_strtab_reserve(t, t->count, t->blob_len)) return false;
    uint32_t *hash = mem_alloc(t->count * sizeof *hash);
    if (!hash) return false;
    for (size_t i = 0; i < t->count; i++) hash[i] = tok_strtab_hash(t->blob + t->off[i], t->off[i + 1] - t->off[i]);
    for (size_t i = 0; i < t->count; i++) {
        if (i + AHEAD < t->count) __builtin_prefetch(&t->slots[hash[i + AHEAD] & t->mask], 1);
        size_t n = t->off[i + 1] - t->off[i];
        if (!n) continue;
        struct tok_strslot *slot = slot_of(t, t->blob + t->off[i], n, hash[i]);
        if (slot->id1) {
            t->doubled = true;
            continue;
        }
        *slot = (struct tok_strslot){hash[i], (uint32_t)i + 1};
        t->used++;
    }
    mem_free(hash);
    return true;
}

bool tok_strtab_intern(tok_strtab *t, const char *s, size_t n, int32_t *id) {
    if (!t->slots && !rehash(t, 64)) return false;
    uint32_t            hash = tok_strtab_hash(s, n);
    struct tok_strslot *slot = slot_of(t, s, n, hash);
    *id = (int32_t)slot->id1 - 1;
    if (*id >= 0) return true;
    if (2 * (t->used + 1) > t->mask + 1) {
        if (!rehash(t, 2 * (t->mask + 1))) return false;
        slot = slot_of(t, s, n, hash);
    }
    if (!tok_strtab_append(t, s, n)) return false;
    *slot = (struct tok_strslot){hash, (uint32_t)t->count};
    *id = (int32_t)t->count - 1;
    t->used++;
    return true;
}

uint32_t tok_strtab_hash(const char *s, size_t n) { return (uint32_t)tok_hash(s, n); }

int32_t tok_strtab_find_hash(const tok_strtab *t, const char *s, size_t n, uint32_t hash) { return t->slots ? (int32_t)slot_of(t, s, n, hash)->id1 - 1 : -1; }

int32_t tok_strtab_find(const tok_strtab *t, const char *s, size_t n) { return tok_strtab_find_hash(t, s, n, tok_strtab_hash(s, n)); }

void tok_trie_free(tok_trie *t) {
    mem_free(t->keys);
    mem_free(t->child);
    mem_free(t->value);
    memset(t, 0, sizeof *t);
}

static bool grow_edges(tok_trie *t) {
    size_t    size = t->keys ? 2 * (t->mask + 1) : 64;
    uint64_t *keys = mem_calloc(size, sizeof *keys);
    uint32_t *child = mem_alloc(size * sizeof *child);
    if (!keys || !child) {
        mem_free(keys);
        mem_free(child);
        return false;
    }
    tok_trie old = *t;
    t->keys = keys;
    t->child = child;
    t->mask = size - 1;
    for (size_t i = 0; old.keys && i <= old.mask; i++) {
        if (!old.keys[i]) continue;
        size_t at = tok_trie_slot(t, old.keys[i]);
        while (keys[at]) at = (at + 1) & t->mask;
        keys[at] = old.keys[i];
        child[at] = old.child[i];
    }
    mem_free(old.keys);
    mem_free(old.child);
    return true;
}

static bool new_node(tok_trie *t, uint32_t *node) {
    if (t->nodes >= UINT32_MAX || !mem_grow((void **)&t->value, &t->value_cap, t->nodes + 1, sizeof *t->value)) return false;
    t->value[t->nodes] = -1;
    *node = (uint32_t)t->nodes++;
    return true;
}

bool tok_trie_add(tok_trie *t, const char *s, size_t n, int32_t value) {
    if (n > TOK_TRIE_MAX) return true; // walks stay short, whatever a file holds
    uint32_t node = 0, next;
    if (!t->keys && !grow_edges(t)) return false;
    if (t->nodes == 0 && !new_node(t, &node)) return false;
    for (size_t i = 0; i < n; i++, node = next) {
        unsigned char b = (unsigned char)s[i];
        next = tok_trie_step(t, node, b);
        if (next) continue;
        if (2 * (t->edges + 1) > t->mask + 1 && !grow_edges(t)) return false;
        if (!new_node(t, &next)) return false;
        if (node == 0) {
            t->first[b] = next;
            continue;
        }
        uint64_t key = ((uint64_t)node << 8 | b) + 1;
        size_t   at = tok_trie_slot(t, key);
        while (t->keys[at]) at = (at + 1) & t->mask;
        t->keys[at] = key;
        t->child[at] = next;
        t->edges++;
    }
    t->value[node] = value;
    return true;
}
