// Owns the disk tier: the folder, its map, a writer thread, and a reader thread for fetches.
//
// DIR/lock is held for the process (the system lets go of it however the process ends). DIR/xx/<id in hex>.<group> is a page's file (kv_file.c). A file is
// written under another name and renamed when it is whole, so that at any moment there are whole files and remains that the next start removes.
// Nothing is synced: after a loss of power a file may be short or hold zeros, which its hashes show. Files that are not named like ours are never touched.
//
// Invariants, all under `lock`: bytes of the map never exceed the limit but for the page being written; a page that is queued is in `queue` until its file is there
// (or has failed); the bytes of queued contents never exceed max(QUEUE_BYTES, one page); contents that were read and not taken, of all fetches together,
// never exceed `most_ahead` but for a page a fetch: who has nothing read ahead may always read one, since the one whose pages fill the rest may wait for it.
// Only the writer thread creates and evicts files. An evicted file leaves the map first and the folder before the next one is written, so a page that is put
// again meanwhile gets its file after the old one went. No file is opened, read, written or evicted under the lock: the engine thread takes it. (A damaged one is
// removed under it: while the map has it nobody writes it again.)
// Threads: any, but for open and close.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/os.h"
#include "kv/kv_disk_map.h"

static const uint64_t DEFAULT_BYTES = 8ull << 30, DEFAULT_RATE = 256ull << 20, DEFAULT_AHEAD = 64ull << 20, QUEUE_BYTES = 128ull << 20;
enum { PAUSE_MS = 10000, MAX_PATH = 1024 };

typedef struct put { // the content follows
    struct put *next;
    kv_record what;
    int64_t   begun; // ms
} put;

struct kv_fetch {
    kv_disk   *d;
    kv_fetch  *next;
    kv_record *pages;
    void     **content; // NULL: not read, or damaged (once it is below n_read)
    size_t     n, n_read, n_taken;
    bool       reading, orphaned; // orphaned: freed while the reader had it, which frees it
    void     (*wake)(void *ctx);
    void      *ctx;
};

struct kv_disk {
    char      dir[MAX_PATH - 128];
    int       lock_file;
    uint64_t  limit, rate;
    int64_t (*now_ms)(void);
    pthread_t writer, reader;
    bool      writes, reads; // the threads were started

    pthread_mutex_t lock;
    pthread_cond_t  to_write, to_read, idle; // idle: the queue is empty
    bool       stop;
    disk_map   map;
    put       *queue, **queue_tail; // the first is being written
    uint64_t   queued_bytes;
    double     allowance;           // bytes that may be taken now; below zero after a page larger than it
    int64_t    filled_at, paused_until; // ms
    kv_fetch  *fetches;
    uint64_t   ahead, most_ahead;   // bytes of contents that were read and not taken
    kv_disk_stats st;
};

static int64_t monotonic_ms(void) { return os_now_us() / 1000; }

static void path_of(const kv_disk *d, const uint8_t id[32], int32_t group, char out[MAX_PATH]) {
    int n = snprintf(out, MAX_PATH, "%s/%02x/", d->dir, id[0]);
    for (int i = 0; i < 32; i++) n += snprintf(out + n, MAX_PATH - (size_t)n, "%02x", id[i]);
    snprintf(out + n, MAX_PATH - (size_t)n, ".%d", group);
}

// ---- finding again -------------------------------------------------------------------------------

typedef struct found {
    kv_record what;
    int64_t   time; // ns of the last change or use
} found;

static bool hex_name(const char *name, const uint8_t *first, char *rest, size_t room) {
    char two[3];
    snprintf(two, sizeof two, "%02x", *first);
    if (strlen(name) < 66 || strlen(name) - 64 >= room || memcmp(name, two, 2)) return false;
    for (int i = 0; i < 64; i++)
        if (!strchr("0123456789abcdef", name[i])) return false;
    snprintf(rest, room, "%s", name + 64);
    return true;
}

// What the system could not do just now says nothing about a file.
static bool not_now(int why) { return why == EMFILE || why == ENFILE || why == ENOMEM; }

// Reads a file's header. E_INVALID: it cannot be one of this version's whole files, or cannot be read. E_IO: the system could not just now.
static status read_header(int folder, const char *name, found *out) {
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return not_now(errno) ? E_IO : E_INVALID;
    struct stat st;
    uint8_t head[KV_FILE_HEADER];
    ssize_t got = fstat(fd, &st) ? -1 : S_ISREG(st.st_mode) ? pread(fd, head, sizeof head, 0) : 0;
    int why = errno;
    close(fd);
    errno = why; // the caller's to tell
    if (got < 0) return not_now(why) ? E_IO : E_INVALID;
    if (got != (ssize_t)sizeof head || kv_file_parse(head, sizeof head, (uint64_t)st.st_size, &out->what, NULL) != OK) return E_INVALID;
    char expect[80];
    for (int i = 0; i < 32; i++) snprintf(expect + 2 * i, 3, "%02x", out->what.id[i]);
    snprintf(expect + 64, sizeof expect - 64, ".%d", out->what.group);
    struct timespec when = os_modified(&st);
    out->time = (int64_t)when.tv_sec * 1000000000 + when.tv_nsec;
    return strcmp(expect, name) ? E_INVALID : OK;
}

static status scan_folder(kv_disk *d, uint8_t first, found **list, size_t *n, size_t *cap, error *err) {
    char path[MAX_PATH], rest[16];
    snprintf(path, sizeof path, "%s/%02x", d->dir, first);
    DIR *dir = opendir(path);
    if (!dir) return not_now(errno) ? error_errno(err, "cannot read the cache folder %s", path) : OK;
    status s = OK;
    for (struct dirent *e; s == OK && (e = readdir(dir));) {
        if (!hex_name(e->d_name, &first, rest, sizeof rest)) continue;
        bool part = strstr(rest, ".part") != NULL;
        if (rest[0] != '.' || rest[1] < '0' || rest[1] >= '0' + KV_GROUPS || (rest[2] && !part)) continue;
        if (!mem_grow((void **)list, cap, *n + 1, sizeof **list)) {
            s = error_set(err, E_NOMEM, "no memory for the list of files in %s", d->dir);
            break;
        }
        status whole = part ? E_INVALID : read_header(dirfd(dir), e->d_name, &(*list)[*n]);
        if (whole == E_IO) s = error_errno(err, "cannot read files of the cache folder %s", path);
        else if (whole == OK) (*n)++;
        else if (unlinkat(dirfd(dir), e->d_name, 0) == 0 && !part) d->st.damaged++;
    }
    closedir(dir);
    return s;
}

static int by_time(const void *a, const void *b) {
    const found *x = a, *y = b;
    return x->time != y->time ? (x->time < y->time ? -1 : 1) : (x->what.index > y->what.index) - (x->what.index < y->what.index);
}

static status scan(kv_disk *d, error *err) {
    found *list = NULL;
    size_t n = 0, cap = 0;
    status s = OK;
    for (int i = 0; s == OK && i < 256; i++) s = scan_folder(d, (uint8_t)i, &list, &n, &cap, err);
    if (n) qsort(list, n, sizeof *list, by_time);
    for (size_t i = 0; s == OK && i < n; i++) {
        char path[MAX_PATH];
        status fits = disk_map_add(&d->map, &list[i].what, disk_blocks(list[i].what.bytes));
        if (fits == E_NOMEM) s = error_set(err, E_NOMEM, "no memory for the list of files in %s", d->dir);
        if (fits != E_INVALID) continue;
        path_of(d, list[i].what.id, list[i].what.group, path);
        unlink(path);
    }
    mem_free(list);
    return s;
}

// ---- the writer ----------------------------------------------------------------------------------

// Removes files of the least useful entries until `more` bytes fit. Not under the lock; on the writer thread, or before there is one.
static void make_room(kv_disk *d, uint64_t more) {
    pthread_mutex_lock(&d->lock);
    while (d->map.bytes + more > d->limit && d->map.oldest) {
        disk_entry gone = *d->map.oldest;
        for (int32_t g = 0; g < KV_GROUPS; g++) {
            if (!gone.file[g]) continue;
            d->st.evicted++;
            disk_map_lost(&d->map, disk_map_find(&d->map, gone.id), g);
        }
        pthread_mutex_unlock(&d->lock);
        for (int32_t g = 0; g < KV_GROUPS; g++) {
            char path[MAX_PATH];
            if (!gone.file[g]) continue;
            path_of(d, gone.id, g, path);
            unlink(path);
        }
        pthread_mutex_lock(&d->lock);
    }
    pthread_mutex_unlock(&d->lock);
}

static bool write_all(int fd, const void *data, size_t n) {
    for (const char *p = data; n;) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static bool write_file(const kv_disk *d, const kv_record *what, const void *content) {
    char path[MAX_PATH], part[MAX_PATH + 8];
    uint8_t head[KV_FILE_HEADER];
    path_of(d, what->id, what->group, path);
    snprintf(part, sizeof part, "%s.part", path);
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno == ENOENT) {
        snprintf(part, sizeof part, "%s/%02x", d->dir, what->id[0]);
        mkdir(part, 0700);
        snprintf(part, sizeof part, "%s.part", path);
        fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    }
    if (fd < 0) return false;
    kv_file_header(what, content, head);
    bool good = write_all(fd, head, sizeof head) && write_all(fd, content, what->bytes);
    good &= close(fd) == 0;
    good = good && rename(part, path) == 0;
    if (!good) unlink(part);
    return good;
}

static void *writer_main(void *arg) {
    kv_disk *d = arg;
    pthread_mutex_lock(&d->lock);
    for (;;) {
        while (!d->queue && !d->stop) pthread_cond_wait(&d->to_write, &d->lock);
        put *x = d->queue;
        if (!x) break;
        uint64_t size = disk_blocks(x->what.bytes);
        bool paused = d->now_ms() < d->paused_until;
        pthread_mutex_unlock(&d->lock);
        if (!paused) make_room(d, size);
        bool good = !paused && write_file(d, &x->what, x + 1);
        pthread_mutex_lock(&d->lock);
        if (good && disk_map_add(&d->map, &x->what, size) == OK) {
            uint64_t took = (uint64_t)(d->now_ms() - x->begun);
            if (took > d->st.slowest_ms) d->st.slowest_ms = took;
            d->st.written++;
        } else if (good) {
            char path[MAX_PATH];
            path_of(d, x->what.id, x->what.group, path);
            unlink(path);
            d->st.dropped++;
        } else {
            d->st.dropped++;
            d->st.failed += !paused;
            if (!paused) d->paused_until = d->now_ms() + PAUSE_MS;
        }
        d->queue = x->next;
        if (!d->queue) d->queue_tail = &d->queue;
        d->queued_bytes -= x->what.bytes;
        mem_free(x);
        if (!d->queue) pthread_cond_broadcast(&d->idle);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

static bool has_file(const kv_disk *d, const kv_record *page) {
    const disk_entry *e = disk_map_find(&d->map, page->id);
    return e && e->file[page->group] == disk_blocks(page->bytes);
}

bool kv_disk_has(kv_disk *d, const kv_record *page) {
    pthread_mutex_lock(&d->lock);
    bool yes = has_file(d, page);
    pthread_mutex_unlock(&d->lock);
    return yes;
}

// Whether the rate and the queue allow so many bytes more. Under the lock.
static bool allowed(kv_disk *d, uint64_t bytes) {
    int64_t now = d->now_ms();
    d->allowance += (double)d->rate * (double)(now - d->filled_at) / 1e3;
    if (d->allowance > (double)d->rate) d->allowance = (double)d->rate;
    d->filled_at = now;
    return d->allowance > 0 && now >= d->paused_until && (!d->queue || d->queued_bytes + bytes <= QUEUE_BYTES) && disk_blocks(bytes) <= d->limit;
}

kv_put kv_disk_begin(kv_disk *d, const kv_record *page, void **content) {
    kv_put how = KV_PUT_LATER;
    put *x = NULL;
    *content = NULL;
    pthread_mutex_lock(&d->lock);
    if (has_file(d, page)) {
        disk_map_touch(&d->map, disk_map_find(&d->map, page->id));
        how = KV_PUT_THERE;
    }
    for (put *q = d->queue; q && how == KV_PUT_LATER; q = q->next)
        if (q->what.group == page->group && !memcmp(q->what.id, page->id, sizeof page->id)) how = KV_PUT_THERE;
    if (how == KV_PUT_LATER && allowed(d, page->bytes) && (x = mem_alloc(sizeof *x + page->bytes))) {
        d->allowance -= (double)page->bytes;
        d->queued_bytes += page->bytes; // for kv_disk_end, which follows
        how = KV_PUT_FILL;
    }
    pthread_mutex_unlock(&d->lock);
    if (!x) return how;
    *x = (put){.what = *page, .begun = d->now_ms()};
    *content = x + 1;
    return how;
}

void kv_disk_end(kv_disk *d, void *content) {
    put *x = (put *)content - 1;
    pthread_mutex_lock(&d->lock);
    *d->queue_tail = x;
    d->queue_tail = &x->next;
    pthread_cond_signal(&d->to_write);
    pthread_mutex_unlock(&d->lock);
}

void kv_disk_dropped(kv_disk *d, uint64_t pages) {
    pthread_mutex_lock(&d->lock);
    d->st.dropped += pages;
    pthread_mutex_unlock(&d->lock);
}

void kv_disk_flush(kv_disk *d) {
    pthread_mutex_lock(&d->lock);
    while (d->queue) pthread_cond_wait(&d->idle, &d->lock);
    pthread_mutex_unlock(&d->lock);
}

void kv_disk_get_stats(kv_disk *d, kv_disk_stats *out) {
    pthread_mutex_lock(&d->lock);
    *out = d->st;
    out->files = d->map.files;
    out->bytes = d->map.bytes;
    pthread_mutex_unlock(&d->lock);
}

// ---- the reader ----------------------------------------------------------------------------------

typedef enum read_how { READ_OK, READ_NOT_NOW, READ_GONE, READ_DAMAGED } read_how;

// The content of the page's file. NOT_NOW: memory or file descriptors are gone, which says nothing about the file.
static read_how read_file(const kv_disk *d, const kv_record *want, void **out) {
    char path[MAX_PATH];
    path_of(d, want->id, want->group, path);
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return not_now(errno) ? READ_NOT_NOW : READ_GONE;
    struct stat st;
    size_t size = KV_FILE_HEADER + want->bytes, at = 0;
    bool whole = fstat(fd, &st) == 0 && (uint64_t)st.st_size == size;
    uint8_t *file = whole ? mem_alloc(size) : NULL;
    while (file && at < size) {
        ssize_t k = pread(fd, file + at, size - at, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) break;
        at += (size_t)k;
    }
    futimens(fd, NULL); // used now: what a later start knows of recency
    close(fd);
    const uint8_t *content;
    if (whole && !file) return READ_NOT_NOW;
    if (!whole || at < size || kv_file_check(file, size, want, &content, NULL) != OK) {
        mem_free(file);
        return READ_DAMAGED;
    }
    memmove(file, content, want->bytes);
    *out = file;
    return READ_OK;
}

// The first fetch that may read on. Under the lock.
static kv_fetch *readable(const kv_disk *d) {
    for (kv_fetch *f = d->fetches; f; f = f->next)
        if (f->n_read < f->n && (f->n_read == f->n_taken || d->ahead + f->pages[f->n_read].bytes <= d->most_ahead)) return f;
    return NULL;
}

static void free_fetch(kv_fetch *f) {
    for (size_t i = 0; i < f->n && f->content; i++) mem_free(f->content[i]);
    mem_free(f->content);
    mem_free(f->pages);
    mem_free(f);
}

static void *reader_main(void *arg) {
    kv_disk *d = arg;
    pthread_mutex_lock(&d->lock);
    for (;;) {
        kv_fetch *f = NULL;
        while (!d->stop && !(f = readable(d))) pthread_cond_wait(&d->to_read, &d->lock);
        if (!f) break;
        const kv_record *want = &f->pages[f->n_read];
        disk_entry *e = disk_map_find(&d->map, want->id);
        uint64_t used = e ? e->used : 0;
        f->reading = true;
        pthread_mutex_unlock(&d->lock);
        void *content;
        read_how how = read_file(d, want, &content);
        pthread_mutex_lock(&d->lock);
        e = disk_map_find(&d->map, want->id);
        if (how == READ_OK) {
            d->st.read++;
            if (e) disk_map_touch(&d->map, e);
        } else if (how != READ_NOT_NOW && e && e->used == used) { // else it was evicted meanwhile, and may have been put again: that file is another
            char path[MAX_PATH];
            path_of(d, want->id, want->group, path);
            if (how == READ_DAMAGED && unlink(path) == 0) d->st.damaged++;
            disk_map_lost(&d->map, e, want->group);
        }
        if (f->orphaned) {
            pthread_mutex_unlock(&d->lock);
            mem_free(content);
            free_fetch(f);
            pthread_mutex_lock(&d->lock);
            continue;
        }
        if (content) d->ahead += want->bytes;
        f->content[f->n_read++] = content;
        f->reading = false;
        if (f->wake) f->wake(f->ctx);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

status kv_fetch_begin(kv_disk *d, const kv_record *pages, size_t n, void (*wake)(void *ctx), void *ctx, kv_fetch **out, error *err) {
    kv_fetch *f = mem_calloc(1, sizeof *f);
    *out = NULL;
    if (f) {
        *f = (kv_fetch){.d = d, .n = n, .wake = wake, .ctx = ctx, .pages = mem_alloc(n * sizeof *pages), .content = mem_calloc(n, sizeof *f->content)};
        if (f->pages) memcpy(f->pages, pages, n * sizeof *pages);
    }
    if (!f || !f->pages || !f->content) {
        if (f) free_fetch(f);
        return error_set(err, E_NOMEM, "no memory to read %zu pages", n);
    }
    pthread_mutex_lock(&d->lock);
    kv_fetch **tail = &d->fetches;
    while (*tail) tail = &(*tail)->next;
    *tail = f;
    pthread_cond_signal(&d->to_read);
    pthread_mutex_unlock(&d->lock);
    *out = f;
    return OK;
}

status kv_fetch_next(kv_fetch *f, void **content) {
    status s = E_BUSY;
    *content = NULL;
    pthread_mutex_lock(&f->d->lock);
    if (f->n_taken < f->n_read) {
        *content = f->content[f->n_taken];
        if (*content) f->d->ahead -= f->pages[f->n_taken].bytes;
        f->content[f->n_taken++] = NULL;
        s = *content ? OK : E_NOTFOUND;
        pthread_cond_signal(&f->d->to_read);
    } else if (f->n_taken == f->n) {
        s = E_NOTFOUND;
    }
    pthread_mutex_unlock(&f->d->lock);
    return s;
}

void kv_fetch_free(kv_fetch *f) {
    if (!f) return;
    kv_disk *d = f->d;
    pthread_mutex_lock(&d->lock);
    kv_fetch **at = &d->fetches;
    while (*at != f) at = &(*at)->next;
    *at = f->next;
    for (size_t i = f->n_taken; i < f->n_read; i++)
        if (f->content[i]) d->ahead -= f->pages[i].bytes;
    f->orphaned = f->reading;
    bool mine = !f->reading;
    pthread_cond_signal(&d->to_read); // what it held is free for others
    pthread_mutex_unlock(&d->lock);
    if (mine) free_fetch(f);
}

// ---- opening and closing -------------------------------------------------------------------------

static status take_folder(kv_disk *d, error *err) {
    char path[MAX_PATH];
    if (mkdir(d->dir, 0700) && errno != EEXIST) return error_errno(err, "cannot make the cache folder %s", d->dir);
    snprintf(path, sizeof path, "%s/lock", d->dir);
    d->lock_file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->lock_file < 0) return error_errno(err, "cannot write in the cache folder %s", d->dir);
    if (flock(d->lock_file, LOCK_EX | LOCK_NB)) return error_set(err, E_BUSY, "another altiserve uses the cache folder %s: give each one its own", d->dir);
    return OK;
}

status kv_disk_open(const kv_disk_options *o, kv_disk **out, error *err) {
    *out = NULL;
    kv_disk *d = mem_calloc(1, sizeof *d);
    if (!d) return error_set(err, E_NOMEM, "no memory for the disk tier of the prefix cache");
    d->lock_file = -1;
    d->limit = o->bytes ? o->bytes : DEFAULT_BYTES;
    d->rate = o->rate ? o->rate : DEFAULT_RATE;
    d->most_ahead = o->ahead ? o->ahead : DEFAULT_AHEAD;
    d->allowance = (double)d->rate;
    d->now_ms = o->now_ms ? o->now_ms : monotonic_ms;
    d->filled_at = d->now_ms();
    d->queue_tail = &d->queue;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->to_write, NULL);
    pthread_cond_init(&d->to_read, NULL);
    pthread_cond_init(&d->idle, NULL);
    status s = OK;
    if (!*o->dir || strlen(o->dir) >= sizeof d->dir) s = error_set(err, E_USAGE, "--cache-dir takes a path of 1 to %zu bytes", sizeof d->dir - 1);
    if (s == OK) strcpy(d->dir, o->dir);
    if (s == OK && !disk_map_init(&d->map)) s = error_set(err, E_NOMEM, "no memory for the disk tier of the prefix cache");
    if (s == OK) s = take_folder(d, err);
    if (s == OK) s = scan(d, err);
    if (s == OK) make_room(d, 0);
    if (s == OK && !(d->writes = pthread_create(&d->writer, NULL, writer_main, d) == 0)) s = error_set(err, E_NOMEM, "the system started no writer thread");
    if (s == OK && !(d->reads = pthread_create(&d->reader, NULL, reader_main, d) == 0)) s = error_set(err, E_NOMEM, "the system started no reader thread");
    if (s != OK) {
        kv_disk_close(d);
        return s;
    }
    *out = d;
    return OK;
}

void kv_disk_close(kv_disk *d) {
    if (!d) return;
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_cond_broadcast(&d->to_write);
    pthread_cond_broadcast(&d->to_read);
    pthread_mutex_unlock(&d->lock);
    if (d->writes) pthread_join(d->writer, NULL);
    if (d->reads) pthread_join(d->reader, NULL);
    if (d->lock_file >= 0) close(d->lock_file);
    disk_map_free(&d->map);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->to_write);
    pthread_cond_destroy(&d->to_read);
    pthread_cond_destroy(&d->idle);
    mem_free(d);
}
