// engine/eng_clients: who asks: for fairness, queue shares and salts. One entry for each API key or address that has requests, or had some lately.
// Threads: the table, `waiting` and `refs` are under the scheduler's lock; `fair` is the engine thread's.
#pragma once
#include "engine/eng_policy.h"

enum { ENG_CLIENTS = 1024 };

typedef struct eng_client {
    uint64_t   hash[2];   // of the key or address, which is not kept
    char       name[64];  // in metrics
    uint32_t   waiting;   // requests in the queue
    uint32_t   refs;      // requests that are not ended
    uint64_t   last_used; // a count of look-ups
    pol_client fair;
} eng_client;

typedef struct eng_clients {
    eng_client *items[ENG_CLIENTS];
    uint32_t    n;
    uint64_t    lookups;
    double      clock;    // engine thread; as pol_client_enter has it
    eng_client  others;   // those for whom there was no room or no memory, together
} eng_clients;

// The client of that key (NULL: ""), whose refs go up by one. Never NULL: who does not fit shares an entry. name NULL: "anonymous".
eng_client *eng_client_find(eng_clients *t, const char *key, const char *name);
// False: one entry stands for several.
static inline bool eng_client_known(const eng_client *c) { return c->hash[0] || c->hash[1]; }
void        eng_clients_free(eng_clients *t);
// Engine thread, under the lock: a request of c begins to count. weight 0: 1.
void        eng_client_enter(eng_clients *t, eng_client *c, double weight);
