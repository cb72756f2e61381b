// Owns the way of pages between the pool and its lower tiers.
//
// Invariants: a choice with a fetch is running and takes no rows; its sequence is at a page's border below `last`; contents that came from a tier are the
// fetch's until they are in the pool; what is left at its end goes to the host tier, where there is one. A fetch that fails leaves a sequence that the pool
// alone could have given. Who finds its next page on the way of an older choice waits until that fetch is over, and then looks again; nobody waits for a
// younger one, which may be in want of its pages.
#include "engine/eng_tiers.h"

#include <string.h>

#include "base/mem.h"
#include "engine/eng_step.h"
#include "obs/obs.h"

static const size_t STEP_BYTES = 64u << 20; // brought in before one step

struct eng_tiers {
    kv_disk *disk;
    kv_host *host;
    kv_disk_stats seen; // counted in metrics already
    kv_host_stats seen_host;
    uint64_t turn;          // counts pumps
};

struct eng_tier_fetch {
    size_t     last, from;  // where the sequence will go on, and where it was
    kv_record *pages;
    void     **content;     // of the host tier; NULL: from disk
    size_t     n, next;
    kv_fetch  *disk;        // of those that are not in content, in order; NULL: none
    bool       from_disk;   // a content of the next page is
    bool       over;        // nothing more is brought: settle
    bool       waits;       // for another's fetch to have brought `first`; it has no pages then
    kv_record  first;
    uint64_t   turn;        // of the last pump that looked at it
    size_t     tokens[3];   // brought from the pool, host memory, disk
};

status eng_tiers_create(const altiserve_options *o, eng_tiers **out, error *err) {
    *out = NULL;
    bool disk = o->cache_dir && *o->cache_dir;
    if (!o->prefix_cache || (!disk && !o->host_cache)) return OK;
    eng_tiers *t = mem_calloc(1, sizeof *t);
    if (!t) return error_set(err, E_NOMEM, "no memory for the tiers of the prefix cache");
    status s = o->host_cache ? kv_host_create(o->host_cache, &t->host, err) : OK;
    if (s == OK && disk) {
        kv_disk_options d = {.dir = o->cache_dir, .bytes = o->cache_size, .rate = o->cache_write_rate};
        s = kv_disk_open(&d, &t->disk, err);
    }
    if (s != OK) {
        eng_tiers_destroy(t);
        return s;
    }
    if (t->disk) {
        kv_disk_get_stats(t->disk, &t->seen);
        obs_log(OBS_INFO, "%s holds %llu pages (%.1f MB) of earlier prompts", o->cache_dir, (unsigned long long)t->seen.files, (double)t->seen.bytes / 1e6);
        if (t->seen.damaged) obs_log(OBS_WARN, "%llu damaged files were removed from %s", (unsigned long long)t->seen.damaged, o->cache_dir);
        obs_count(OBS_TIER_PAGES, "disk", "damaged", (double)t->seen.damaged);
        obs_set(OBS_TIER_BYTES, "disk", NULL, (double)t->seen.bytes);
    }
    *out = t;
    return OK;
}

void eng_tiers_destroy(eng_tiers *t) {
    if (!t) return;
    kv_disk_close(t->disk);
    kv_host_destroy(t->host);
    mem_free(t);
}

static void count(const char *tier, const char *what, uint64_t *seen, uint64_t now) {
    if (now > *seen) obs_count(OBS_TIER_PAGES, tier, what, (double)(now - *seen));
    *seen = now;
}

static void publish(eng_tiers *t) {
    if (t->disk) {
        kv_disk_stats d;
        kv_disk_get_stats(t->disk, &d);
        if (d.failed > t->seen.failed) obs_log(OBS_WARN, "writing to --cache-dir failed (is it full?): pages are not kept for ten seconds");
        count("disk", "written", &t->seen.written, d.written);
        count("disk", "read", &t->seen.read, d.read);
        count("disk", "dropped", &t->seen.dropped, d.dropped);
        count("disk", "damaged", &t->seen.damaged, d.damaged);
        count("disk", "evicted", &t->seen.evicted, d.evicted);
        t->seen.failed = d.failed;
        obs_set(OBS_TIER_BYTES, "disk", NULL, (double)d.bytes);
        obs_set(OBS_TIER_SLOWEST, "disk", NULL, (double)d.slowest_ms / 1e3);
    }
    if (t->host) {
        kv_host_stats h;
        kv_host_get_stats(t->host, &h);
        count("host", "written", &t->seen_host.put, h.put);
        count("host", "read", &t->seen_host.taken, h.taken);
        count("host", "evicted", &t->seen_host.evicted, h.evicted);
        obs_set(OBS_TIER_BYTES, "host", NULL, (double)h.bytes);
    }
}

void eng_tiers_hit(eng_served *v, size_t tokens) {
    if (tokens) obs_count(OBS_TIER_TOKENS, v->m->file->id, "pool", (double)tokens);
}

// ---- out of the pool -----------------------------------------------------------------------------

static bool filled(void *ctx, const kv_record *what, int32_t page) {
    eng_served *v = ctx;
    void *content;
    if (!v->tiers->disk) return true;
    kv_put how = kv_disk_begin(v->tiers->disk, what, &content);
    if (how != KV_PUT_FILL) return how == KV_PUT_THERE;
    dev_kv_export_page(v->m->dev, v->m->kv, what->group, page, content);
    kv_disk_end(v->tiers->disk, content);
    return true;
}

static void evicted(void *ctx, const kv_record *what, int32_t page) {
    eng_served *v = ctx;
    void *content = kv_host_put(v->tiers->host, what);
    if (content) dev_kv_export_page(v->m->dev, v->m->kv, what->group, page, content);
}

void eng_tiers_config(eng_tiers *t, eng_served *v, kv_config *config) {
    v->tiers = config->index ? t : NULL;
    if (!v->tiers) return;
    config->tier_ctx = v;
    config->filled = filled;
    config->evicted = t->host ? evicted : NULL;
    for (int32_t g = 0; g < config->n_groups; g++) config->page_bytes[g] = dev_kv_page_bytes(v->m->dev, &config->groups[g], v->m->kv_type);
}

void eng_tiers_save(eng_served *v, eng_choice *c) {
    if (v->tiers) kv_seq_save(c->kv, false);
}

// ---- into the pool -------------------------------------------------------------------------------

static void end_fetch(eng_served *v, eng_choice *c) {
    eng_tier_fetch *f = c->fetch;
    c->fetch = NULL;
    if (!f) return;
    for (size_t i = f->next; i < f->n; i++) {
        if (!f->content[i]) continue;
        void *back = v->tiers->host ? kv_host_put(v->tiers->host, &f->pages[i]) : NULL;
        if (back) memcpy(back, f->content[i], f->pages[i].bytes);
        mem_free(f->content[i]);
    }
    kv_fetch_free(f->disk);
    mem_free(f->content);
    mem_free(f->pages);
    mem_free(f);
}

void eng_tiers_leave(eng_served *v, eng_choice *c) {
    if (!v->tiers || !c->kv) return;
    end_fetch(v, c);
    size_t left = kv_seq_save(c->kv, true);
    if (left && v->tiers->disk) kv_disk_dropped(v->tiers->disk, left);
    publish(v->tiers);
}

static bool has(void *ctx, const kv_record *page) {
    eng_tiers *t = ctx;
    return (t->host && kv_host_has(t->host, page)) || (t->disk && kv_disk_has(t->disk, page));
}

static void wake(void *ctx) { eng_sched_wake(ctx); }

// An older choice's fetch has the page yet to bring. (A younger one's may be in want of pages that c holds.)
static bool on_its_way(const eng_served *v, const eng_choice *c, const kv_record *page) {
    for (const eng_choice *d = v->running; d && d != c; d = d->next) {
        const eng_tier_fetch *f = d->fetch;
        for (size_t i = f && !f->over ? f->next : SIZE_MAX; f && i < f->n; i++)
            if (f->pages[i].group == page->group && !memcmp(f->pages[i].id, page->id, sizeof page->id)) return true;
    }
    return false;
}

// A fetch that waited looks again: the pool has what the other brought.
static void look_again(eng_served *v, eng_choice *c) {
    size_t before = kv_seq_len(c->kv);
    mem_free(c->fetch);
    c->fetch = NULL;
    size_t more = kv_seq_match(c->kv, c->tokens, c->n_tokens) - before;
    if (c->counts) c->r->cached += (uint32_t)more;
    eng_tiers_hit(v, more);
    eng_request_usage_set(c->r, 0);
    eng_tiers_begin(v, c);
}

void eng_tiers_begin(eng_served *v, eng_choice *c) {
    eng_tiers *t = v->tiers;
    if (!t || c->fetch) return;
    kv_record *pages, *on_disk = NULL;
    size_t n, n_disk = 0, from = kv_seq_len(c->kv), last = kv_seq_plan(c->kv, c->tokens, c->n_tokens, has, t, &pages, &n);
    if (last == from) return;
    eng_tier_fetch *f = mem_calloc(1, sizeof *f);
    if (f && on_its_way(v, c, &pages[0])) {
        *f = (eng_tier_fetch){.waits = true, .first = pages[0], .turn = t->turn};
        mem_free(pages);
        c->fetch = f;
        return;
    }
    if (!f || !(f->content = mem_calloc(n, sizeof *f->content)) || !(on_disk = mem_alloc(n * sizeof *on_disk))) { // computed instead
        if (f) mem_free(f->content);
        mem_free(f);
        mem_free(pages);
        return;
    }
    f->pages = pages;
    f->n = n;
    f->last = last;
    f->from = from;
    c->fetch = f;
    v->more = true; // what host memory has is there already
    for (size_t i = 0; i < n; i++) {
        f->content[i] = t->host ? kv_host_take(t->host, &pages[i]) : NULL;
        if (!f->content[i]) on_disk[n_disk++] = pages[i];
    }
    if (n_disk && (!t->disk || kv_fetch_begin(t->disk, on_disk, n_disk, wake, v->sched, &f->disk, NULL) != OK)) end_fetch(v, c);
    mem_free(on_disk);
}

typedef struct filler {
    eng_served *v;
    eng_tier_fetch *f;
    size_t end; // of the fetch's pages that belong to this one
} filler;

// kv_seq_restore asks for the groups of a page in their order; what the pool has got meanwhile it does not ask for.
static bool fill(void *ctx, int32_t group, int32_t page) {
    filler *x = ctx;
    eng_tier_fetch *f = x->f;
    for (size_t i = f->next; i < x->end; i++) {
        if (f->pages[i].group != group) continue;
        if (!f->content[i]) return false;
        dev_kv_import_page(x->v->m->dev, x->v->m->kv, group, page, f->content[i]);
        return true;
    }
    return false;
}

// The contents of all groups of the next page are in memory. E_BUSY: not yet. E_NOTFOUND: one cannot be had.
static status arrived(eng_tier_fetch *f, size_t *end, size_t *bytes, int *tier) {
    size_t i = f->next;
    for (; i < f->n && f->pages[i].index == f->pages[f->next].index; i++) {
        if (!f->content[i]) {
            status s = f->disk ? kv_fetch_next(f->disk, &f->content[i]) : E_NOTFOUND;
            if (s != OK) return s;
            f->from_disk = true;
        }
        *bytes += f->pages[i].bytes;
    }
    *tier = f->from_disk ? 2 : 1;
    f->from_disk = false;
    *end = i;
    return OK;
}

static status bring_one(eng_served *v, eng_choice *c, size_t *bytes) {
    eng_tier_fetch *f = c->fetch;
    size_t page = kv_seq_len(c->kv) / KV_PAGE, end = f->next;
    int tier = 0;
    status s = f->next < f->n && f->pages[f->next].index == page ? arrived(f, &end, bytes, &tier) : OK;
    if (s != OK) return s;
    filler x = {.v = v, .f = f, .end = end};
    s = kv_seq_restore(c->kv, c->tokens, f->last, fill, &x, NULL);
    if (s != OK) return s;
    f->tokens[tier] += KV_PAGE;
    for (; f->next < end; f->next++) {
        mem_free(f->content[f->next]);
        f->content[f->next] = NULL;
    }
    return OK;
}

// The fetch is over: the sequence goes on from what it has. One that stopped on its way, where windows or states are not whole, begins again from the pool.
static void settle(eng_served *v, eng_choice *c) {
    eng_tier_fetch *f = c->fetch;
    size_t from = f->from, got = kv_seq_len(c->kv);
    f->over = true;
    if (got != f->last) {
        kv_seq *fresh;
        if (eng_served_seq(v, c, &fresh, NULL) != OK) return; // at the next step, which follows at once
        kv_seq_free(c->kv);
        c->kv = fresh;
        got = kv_seq_match(c->kv, c->tokens, c->n_tokens);
    }
    static const char *const tiers[] = {"pool", "host", "disk"};
    for (int i = 0; i < 3; i++)
        if (f->tokens[i]) obs_count(OBS_TIER_TOKENS, v->m->file->id, tiers[i], (double)f->tokens[i]);
    end_fetch(v, c);
    if (c->counts) c->r->cached += (uint32_t)got - (uint32_t)from; // may be less than before, when pages were evicted meanwhile
    eng_request_usage_set(c->r, 0);
    publish(v->tiers);
}

static eng_choice *next_fetch(eng_served *v) {
    for (eng_choice *c = v->running; c; c = c->next)
        if (c->fetch && c->fetch->turn != v->tiers->turn) return c;
    return NULL;
}

bool eng_tiers_pump(eng_served *v, bool (*room)(eng_served *v, eng_choice *c, size_t upto)) {
    if (!v->tiers) return false;
    size_t bytes = 0;
    bool more = false;
    v->tiers->turn++;
    for (eng_choice *c; (c = next_fetch(v));) { // room may take others out of the list
        c->fetch->turn = v->tiers->turn;
        if (c->fetch->waits && !on_its_way(v, c, &c->fetch->first)) look_again(v, c);
        while (c->fetch && !c->fetch->waits) {
            status s = E_BUSY;
            if (bytes >= STEP_BYTES) return true;
            if (c->fetch->over) s = E_NOTFOUND;
            else if (room(v, c, kv_seq_len(c->kv) + KV_PAGE)) s = bring_one(v, c, &bytes);
            if (!c->fetch || s == E_BUSY) break;
            if (s != OK || kv_seq_len(c->kv) == c->fetch->last) {
                settle(v, c);
                more = true; // who waited for it looks again, and nothing else may wake the engine for that
                break;
            }
        }
    }
    return more;
}
