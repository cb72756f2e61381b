// Owns the table of answers: found by key, in a list by use. See eng_responses.h.
#include "engine/eng_responses.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>

#include "base/mem.h"
#include "obs/obs.h"

enum { KEY = 32 };

typedef struct entry {
    struct entry *newer, *older, *next; // by use; next: of its bucket
    uint8_t    key[KEY];
    eng_event *events;
    size_t     bytes;
    altiserve_usage usage;
    altiserve_finish finish;
} entry;

// An answer as it comes.
struct eng_recording {
    eng_responses *owner;
    uint8_t     key[KEY];
    eng_event  *head, **tail;
    size_t      bytes;
    bool        failed; // for want of memory, or too long
};

struct eng_responses {
    pthread_mutex_t lock;
    entry   **buckets;
    size_t    n_buckets, n, most; // n_buckets: a power of two
    uint64_t  bytes, limit;
    entry    *newest, *oldest;
};

status eng_responses_create(size_t entries, uint64_t bytes, eng_responses **out, error *err) {
    *out = NULL;
    if (!entries) return OK;
    eng_responses *c = mem_calloc(1, sizeof *c);
    size_t buckets = 64;
    while (buckets < entries && buckets < 1u << 20) buckets *= 2;
    if (!c || !(c->buckets = mem_calloc(buckets, sizeof *c->buckets))) {
        mem_free(c);
        return error_set(err, E_NOMEM, "no memory for a cache of %zu responses", entries);
    }
    pthread_mutex_init(&c->lock, NULL);
    c->n_buckets = buckets;
    c->most = entries;
    c->limit = bytes;
    *out = c;
    return OK;
}

static void free_events(eng_event *e) {
    for (eng_event *next; e; e = next) {
        next = e->next;
        eng_event_free(e);
    }
}

void eng_responses_destroy(eng_responses *c) {
    if (!c) return;
    for (entry *e = c->newest, *older; e; e = older) {
        older = e->older;
        free_events(e->events);
        mem_free(e);
    }
    pthread_mutex_destroy(&c->lock);
    mem_free(c->buckets);
    mem_free(c);
}

// ---- keys ----------------------------------------------------------------------------------------

// Whoever adds a field: does it change the answer? Then it goes into key_of, and into the table of tests/engine/test_responses.c.
_Static_assert(sizeof(void *) != 8 || (sizeof(altiserve_generate) == 248 && sizeof(samp_params) == 72), "a request has another field: see key_of");

static void put(gnutls_hash_hd_t h, const void *data, size_t bytes) {
    uint64_t n = bytes; // so that no two lists of fields spell the same
    gnutls_hash(h, &n, sizeof n);
    if (bytes) gnutls_hash(h, data, bytes);
}

static bool key_of(const altiserve_request *r, uint8_t key[KEY]) {
    gnutls_hash_hd_t h;
    const samp_params *p = &r->params;
    const eng_file *f = r->file;
    const uint64_t numbers[] = {1 /* of this layout */, f->stamp, r->salt, r->n, r->max_tokens, r->ignore_eos, (uint64_t)(int64_t)r->top,
                                samp_is_greedy(p) ? 0 : p->seed, (uint64_t)(int64_t)p->top_k, (uint64_t)(int64_t)p->last_n, r->n_stops};
    const float reals[] = {samp_is_greedy(p) ? 0 : p->temperature, p->top_p, p->min_p, p->typical_p, p->repetition, p->presence, p->frequency};
    if (gnutls_hash_init(&h, GNUTLS_DIG_SHA256) < 0) return false;
    put(h, f->id, strlen(f->id));
    put(h, f->path, strlen(f->path));
    put(h, numbers, sizeof numbers);
    put(h, reals, sizeof reals);
    put(h, r->bias, p->n_bias * sizeof *r->bias);
    for (size_t i = 0; i < r->n_stops; i++) put(h, r->stops[i], strlen(r->stops[i]));
    put(h, r->prompt, r->n_prompt * sizeof *r->prompt);
    gnutls_hash_deinit(h, key);
    return true;
}

// ---- the table -----------------------------------------------------------------------------------

static entry **slot_of(eng_responses *c, const uint8_t key[KEY]) {
    uint64_t h;
    memcpy(&h, key, sizeof h);
    entry **at = &c->buckets[h & (c->n_buckets - 1)];
    while (*at && memcmp((*at)->key, key, KEY)) at = &(*at)->next;
    return at;
}

static void unlink_use(eng_responses *c, entry *e) {
    if (e->newer) e->newer->older = e->older;
    else c->newest = e->older;
    if (e->older) e->older->newer = e->newer;
    else c->oldest = e->newer;
}

static void link_newest(eng_responses *c, entry *e) {
    e->newer = NULL;
    e->older = c->newest;
    if (c->newest) c->newest->newer = e;
    else c->oldest = e;
    c->newest = e;
}

static void drop(eng_responses *c, entry **slot) {
    entry *e = *slot;
    *slot = e->next;
    unlink_use(c, e);
    c->n--;
    c->bytes -= e->bytes;
    free_events(e->events);
    mem_free(e);
}

static void show(const eng_responses *c) {
    obs_set(OBS_RESPONSE_ENTRIES, NULL, NULL, (double)c->n);
    obs_set(OBS_RESPONSE_BYTES, NULL, NULL, (double)c->bytes);
}

static void insert(eng_responses *c, entry *e) {
    pthread_mutex_lock(&c->lock);
    entry **slot = slot_of(c, e->key);
    if (*slot) drop(c, slot); // computed twice at a time
    while (c->oldest && (c->n >= c->most || c->bytes + e->bytes > c->limit)) drop(c, slot_of(c, c->oldest->key));
    slot = slot_of(c, e->key);
    e->next = *slot;
    *slot = e;
    link_newest(c, e);
    c->n++;
    c->bytes += e->bytes;
    show(c);
    pthread_mutex_unlock(&c->lock);
}

// ---- requests ------------------------------------------------------------------------------------

static bool copy_events(const eng_event *from, eng_event **out) {
    eng_event **tail = out;
    size_t bytes;
    for (*out = NULL; from; from = from->next) {
        if (!(*tail = eng_event_copy(from, &bytes))) {
            free_events(*out);
            *out = NULL;
            return false;
        }
        tail = &(*tail)->next;
    }
    return true;
}

static bool replay(eng_responses *c, const uint8_t key[KEY], altiserve_request *r) {
    eng_event *events = NULL;
    pthread_mutex_lock(&c->lock);
    entry *e = *slot_of(c, key);
    bool found = e && copy_events(e->events, &events);
    if (found) {
        unlink_use(c, e);
        link_newest(c, e);
        r->usage = e->usage;
        r->finish = e->finish;
    }
    pthread_mutex_unlock(&c->lock);
    if (!found) return false;
    r->head = events;
    for (r->tail = &r->head; *r->tail; r->tail = &(*r->tail)->next) r->n_events++;
    r->usage.replayed = true;
    r->usage.queue_s = r->usage.load_s = r->usage.prefill_s = r->usage.decode_s = 0;
    r->ended = true;
    return true;
}

bool eng_responses_replay(eng_responses *c, altiserve_request *r) {
    uint8_t key[KEY];
    if (!c || r->embeds || r->explain || !(r->seeded || samp_is_greedy(&r->params)) || !key_of(r, key)) return false;
    bool hit = replay(c, key, r);
    obs_count(OBS_RESPONSES, r->file->id, hit ? "hit" : "miss", 1);
    if (hit) return true;
    struct eng_recording *rec = mem_calloc(1, sizeof *rec); // without it the answer is not kept
    if (!rec) return false;
    rec->owner = c;
    memcpy(rec->key, key, KEY);
    rec->tail = &rec->head;
    r->recording = rec;
    return false;
}

void eng_responses_note(altiserve_request *r, const eng_event *ev) {
    struct eng_recording *rec = r->recording;
    if (!rec || rec->failed) return;
    size_t bytes = 0;
    eng_event *copy = eng_event_copy(ev, &bytes);
    rec->bytes += bytes;
    rec->failed = !copy || rec->bytes > rec->owner->limit / 8;
    if (copy) *rec->tail = copy, rec->tail = &copy->next;
}

void eng_responses_keep(altiserve_request *r) {
    struct eng_recording *rec = r->recording;
    entry *e = rec && !rec->failed ? mem_calloc(1, sizeof *e) : NULL;
    if (e) {
        memcpy(e->key, rec->key, KEY);
        e->events = rec->head;
        rec->head = NULL;
        e->bytes = rec->bytes + sizeof *e;
        e->usage = r->usage;
        e->finish = r->outcome;
        insert(rec->owner, e);
    }
    eng_responses_forget(r);
}

void eng_responses_forget(altiserve_request *r) {
    if (!r->recording) return;
    free_events(r->recording->head);
    mem_free(r->recording);
    r->recording = NULL;
}
