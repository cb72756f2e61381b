// kv_store: tiers below the pool of pages: host memory and disk. Both keep contents of pages under the names that kv_record gives them.
//
// What comes back is what was put under exactly that name, group and tokens, or nothing: a file that is damaged, cut short or not ours is a miss.
// Threads: the disk tier may be called from any thread (it has a writer and a reader of its own); the host tier belongs to one thread at a time.
#pragma once
#include "kv/kv.h"

// ---- disk: a folder with a file a page ------------------------------------------------------------

typedef struct kv_disk kv_disk;
typedef struct kv_disk_options {
    const char *dir;        // made when it is not there; one process at a time
    uint64_t    bytes;      // of all files at most, in whole blocks; 0: 8 GiB
    uint64_t    rate;       // bytes written a second at most, over a second; 0: 256 MiB
    uint64_t    ahead;      // bytes of pages that were read and not taken, of all fetches (each may have one page beyond it); 0: 64 MiB
    int64_t   (*now_ms)(void); // any thread; NULL: CLOCK_MONOTONIC
} kv_disk_options;

// Finds again what is there. E_BUSY: another process has the folder. E_IO: it cannot be made or written.
status kv_disk_open(const kv_disk_options *o, kv_disk **out, error *err);
void   kv_disk_close(kv_disk *d); // writes what was taken; every fetch must be freed before. NULL is fine
bool   kv_disk_has(kv_disk *d, const kv_record *page);

typedef enum kv_put { KV_PUT_FILL, KV_PUT_THERE, KV_PUT_LATER } kv_put;
// KV_PUT_FILL: *content has page->bytes bytes to be filled; kv_disk_end queues them. THERE: it is kept or queued already.
// LATER: the rate, the queue or an error of the file system (for ten seconds) says no.
kv_put kv_disk_begin(kv_disk *d, const kv_record *page, void **content);
void   kv_disk_end(kv_disk *d, void *content);
void   kv_disk_dropped(kv_disk *d, uint64_t pages); // the caller gave up on so many, for the statistics

// Reads pages in order on the reader thread, some ahead of kv_fetch_next; wake(ctx) is called from there whenever one more is ready,
// and calls nothing of the tier.
typedef struct kv_fetch kv_fetch;
status kv_fetch_begin(kv_disk *d, const kv_record *pages, size_t n, void (*wake)(void *ctx), void *ctx, kv_fetch **out, error *err);
// OK: *content (pages[i].bytes) of the next page, the caller's to mem_free. E_BUSY: not yet. E_NOTFOUND: it is damaged or gone (and so is counted out), or
// memory or file descriptors are (and then it stays).
status kv_fetch_next(kv_fetch *f, void **content);
void   kv_fetch_free(kv_fetch *f); // at any time, and waits for no file: a page being read is let go when it is read. No wake afterwards. NULL is fine

typedef struct kv_disk_stats {
    uint64_t files, bytes;                 // now
    uint64_t written, read, dropped, damaged, evicted, failed; // pages, since the start
    uint64_t slowest_ms;                   // from kv_disk_begin to the file, the longest since the start
} kv_disk_stats;
void kv_disk_get_stats(kv_disk *d, kv_disk_stats *out);
void kv_disk_flush(kv_disk *d); // returns when everything queued is written

// ---- the format of a file (kv_file.c) -------------------------------------------------------------

enum { KV_FILE_HEADER = 256 };
// The header of a page's file with this content.
void   kv_file_header(const kv_record *page, const void *content, uint8_t out[KV_FILE_HEADER]);
// Reads a header; file_bytes: of the whole file. E_INVALID says what is wrong. The content is not looked at.
status kv_file_parse(const uint8_t *header, size_t n, uint64_t file_bytes, kv_record *out, error *err);
// A whole file against what is wanted, its content's hash too.
status kv_file_check(const uint8_t *file, size_t n, const kv_record *want, const uint8_t **content, error *err);

// ---- host memory ----------------------------------------------------------------------------------

typedef struct kv_host kv_host;
status kv_host_create(uint64_t bytes, kv_host **out, error *err); // bytes of contents at most
void   kv_host_destroy(kv_host *h);
bool   kv_host_has(const kv_host *h, const kv_record *page);
// Memory for a page's content, to be filled before the next call; older ones make room. NULL: it is larger than everything, or memory is gone.
void  *kv_host_put(kv_host *h, const kv_record *page);
// Takes a content out: the caller's to mem_free. NULL when it is not there.
void  *kv_host_take(kv_host *h, const kv_record *page);

typedef struct kv_host_stats { uint64_t pages, bytes, put, taken, evicted; } kv_host_stats;
void kv_host_get_stats(const kv_host *h, kv_host_stats *out);
