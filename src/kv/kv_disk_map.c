#include "kv/kv_disk_map.h"

#include <string.h>

#include "base/mem.h"

enum { BLOCK = 4096 };

uint64_t disk_blocks(uint64_t content) { return (content + KV_FILE_HEADER + BLOCK - 1) / BLOCK * BLOCK; }

bool disk_map_init(disk_map *m) {
    *m = (disk_map){.n_heads = 1024};
    m->heads = mem_calloc(m->n_heads, sizeof *m->heads);
    return m->heads != NULL;
}

void disk_map_free(disk_map *m) {
    for (size_t i = 0; i < m->n_heads && m->heads; i++)
        for (disk_entry *e = m->heads[i], *next; e; e = next) {
            next = e->next;
            mem_free(e);
        }
    mem_free(m->heads);
    *m = (disk_map){0};
}

static disk_entry **link_of(const disk_map *m, const uint8_t id[32]) {
    uint64_t x;
    memcpy(&x, id, sizeof x);
    disk_entry **at = &m->heads[x & (m->n_heads - 1)];
    while (*at && memcmp((*at)->id, id, sizeof(*at)->id)) at = &(*at)->next;
    return at;
}

disk_entry *disk_map_find(const disk_map *m, const uint8_t id[32]) { return *link_of(m, id); }

static void grow(disk_map *m) {
    disk_map bigger = *m;
    bigger.n_heads *= 2;
    bigger.heads = mem_calloc(bigger.n_heads, sizeof *bigger.heads);
    if (!bigger.heads) return; // buckets are longer then
    for (size_t i = 0; i < m->n_heads; i++)
        for (disk_entry *e = m->heads[i], *next; e; e = next) {
            next = e->next;
            e->next = NULL;
            *link_of(&bigger, e->id) = e;
        }
    mem_free(m->heads);
    *m = bigger;
}

static disk_entry *entry_of(disk_map *m, const uint8_t id[32]) {
    disk_entry **at = link_of(m, id);
    if (*at) return *at;
    disk_entry *e = mem_calloc(1, sizeof *e);
    if (!e) return NULL;
    memcpy(e->id, id, sizeof e->id);
    *at = e;
    if (++m->n > 2 * m->n_heads) grow(m);
    return e;
}

static bool has_files(const disk_entry *e) {
    for (int g = 0; g < KV_GROUPS; g++)
        if (e->file[g]) return true;
    return false;
}

static void unlist(disk_map *m, disk_entry *e) {
    if (!e->listed) return;
    if (e->older) e->older->newer = e->newer;
    else m->oldest = e->newer;
    if (e->newer) e->newer->older = e->older;
    else m->newest = e->older;
    e->older = e->newer = NULL;
    e->listed = false;
}

// In order of use, but for an entry that belongs far from the newest end (a parent whose last child went): it goes among the oldest that were looked at.
static void list(disk_map *m, disk_entry *e) {
    disk_entry *after = m->newest; // e comes behind it
    if (m->oldest && m->oldest->used > e->used) after = NULL;
    else
        for (int k = 0; after && after->used > e->used && k < 1000; k++) after = after->older;
    e->older = after;
    e->newer = after ? after->newer : m->oldest;
    if (e->older) e->older->newer = e;
    else m->oldest = e;
    if (e->newer) e->newer->older = e;
    else m->newest = e;
    e->listed = true;
}

static void relist(disk_map *m, disk_entry *e) {
    bool should = !e->children && has_files(e);
    if (e->listed && !should) unlist(m, e);
    if (!e->listed && should) list(m, e);
}

// Removes the entry, and its ancestors, while they hold nothing.
static void prune(disk_map *m, disk_entry *e) {
    while (e) {
        relist(m, e);
        if (e->children || has_files(e)) return;
        disk_entry *parent = e->parent;
        *link_of(m, e->id) = e->next;
        m->n--;
        mem_free(e);
        if (parent) parent->children--;
        e = parent;
    }
}

void disk_map_touch(disk_map *m, disk_entry *e) {
    e->used = ++m->clock;
    if (!e->listed) return;
    unlist(m, e);
    list(m, e);
}

status disk_map_add(disk_map *m, const kv_record *page, uint64_t file_bytes) {
    disk_entry *e = disk_map_find(m, page->id), *parent = disk_map_find(m, page->parent);
    // A file may claim any parent; numbers that go down by one a parent leave no circles but that of a page which says that it is its own.
    if (!memcmp(page->id, page->parent, sizeof page->id)) return E_INVALID;
    if (page->index == UINT32_MAX || (e && e->index != page->index) || (parent && parent->index != page->index - 1)) return E_INVALID;
    if (!e && !(e = entry_of(m, page->id))) return E_NOMEM;
    e->index = page->index;
    if (!e->parent) {
        if (!(parent = entry_of(m, page->parent))) {
            prune(m, e);
            return E_NOMEM;
        }
        parent->index = page->index - 1;
        e->parent = parent;
        parent->children++;
        relist(m, parent);
    }
    m->bytes += file_bytes - e->file[page->group];
    m->files += !e->file[page->group];
    e->file[page->group] = file_bytes;
    e->used = ++m->clock;
    if (e->listed) unlist(m, e);
    relist(m, e);
    return OK;
}

void disk_map_lost(disk_map *m, disk_entry *e, int32_t group) {
    if (!e->file[group]) return;
    m->bytes -= e->file[group];
    m->files--;
    e->file[group] = 0;
    prune(m, e);
}
