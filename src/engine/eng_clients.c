// Owns the table of clients: bounded, so that addresses made up by the thousand cost nothing; who has no requests gives way, least recently seen first.
#include "engine/eng_clients.h"

#include <stdio.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/mem.h"

static eng_client *idle_longest(eng_clients *t) {
    eng_client *found = NULL;
    for (uint32_t i = 0; i < t->n; i++)
        if (!t->items[i]->refs && (!found || t->items[i]->last_used < found->last_used)) found = t->items[i];
    return found;
}

eng_client *eng_client_find(eng_clients *t, const char *key, const char *name) {
    if (!key) key = "";
    XXH128_hash_t h = XXH3_128bits(key, strlen(key));
    eng_client *c = NULL;
    for (uint32_t i = 0; i < t->n && !c; i++)
        if (t->items[i]->hash[0] == h.low64 && t->items[i]->hash[1] == h.high64) c = t->items[i];
    if (!c) {
        bool grow = t->n < ENG_CLIENTS;
        c = grow ? mem_calloc(1, sizeof *c) : idle_longest(t);
        if (c && grow) t->items[t->n++] = c;
        if (!c) c = &t->others;
        else *c = (eng_client){.hash = {h.low64, h.high64}};
        snprintf(c->name, sizeof c->name, "%s", c == &t->others ? "others" : name ? name : "anonymous");
    }
    c->last_used = ++t->lookups;
    c->refs++;
    return c;
}

void eng_clients_free(eng_clients *t) {
    for (uint32_t i = 0; i < t->n; i++) mem_free(t->items[i]);
    t->n = 0;
}

void eng_client_enter(eng_clients *t, eng_client *c, double weight) {
    c->fair.weight = c != &t->others && weight > 0 ? weight : 1;
    double least = t->others.fair.active ? t->others.fair.work : -1;
    for (uint32_t i = 0; i < t->n; i++)
        if (t->items[i]->fair.active && (least < 0 || t->items[i]->fair.work < least)) least = t->items[i]->fair.work;
    if (least > t->clock) t->clock = least;
    pol_client_enter(&c->fair, &t->clock);
}
