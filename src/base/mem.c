#include "base/mem.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"

static atomic_long fail_countdown;

void mem_fail_at(long nth) { atomic_store(&fail_countdown, nth); }

static bool must_fail(void) {
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) <= 0) return false;
    return atomic_fetch_sub(&fail_countdown, 1) == 1;
}

void *mem_alloc(size_t bytes) { return must_fail() ? NULL : malloc(bytes ? bytes : 1); }

void *mem_calloc(size_t count, size_t size) {
    if (must_fail()) return NULL;
    return calloc(count ? count : 1, size ? size : 1);
}

void *mem_realloc(void *p, size_t bytes) { return must_fail() ? NULL : realloc(p, bytes ? bytes : 1); }

void mem_free(void *p) { free(p); }

char *mem_strndup(const char *s, size_t n) {
    char *copy = mem_alloc(n + 1);
    if (!copy) return NULL;
    if (n) memcpy(copy, s, n);
    copy[n] = 0;
    return copy;
}

char *mem_strdup(const char *s) { return mem_strndup(s, strlen(s)); }

void *mem_aligned(size_t align, size_t bytes) {
    if (must_fail()) return NULL;
    size_t rounded = (bytes + align - 1) / align * align;
    if (rounded < bytes) return NULL;
    return aligned_alloc(align, rounded ? rounded : align);
}

void *mem_table(size_t count, size_t size) {
    enum { LARGE = 2 << 20 };
    size_t bytes;
    if (mul_overflows(count, size, &bytes)) return NULL;
    if (bytes < LARGE) return mem_calloc(count, size);
    void *p = mem_aligned(LARGE, bytes);
    if (!p) return NULL;
    os_huge_pages(p, bytes);
    return memset(p, 0, bytes);
}

bool mem_grow(void **p, size_t *cap, size_t need, size_t size) {
    if (need <= *cap) return true;
    size_t want = *cap ? *cap : 16, bytes;
    while (want < need) {
        if (want > SIZE_MAX / 2) return false;
        want *= 2;
    }
    if (mul_overflows(want, size, &bytes)) return false;
    void *grown = mem_realloc(*p, bytes);
    if (!grown) return false;
    *p = grown;
    *cap = want;
    return true;
}

struct arena_block {
    struct arena_block *next;
    size_t used, size;
    _Alignas(16) unsigned char data[];
};

enum { ARENA_BLOCK = 16 * 1024 };

void arena_init(arena *a, size_t limit) { *a = (arena){.limit = limit}; }

void *arena_alloc(arena *a, size_t bytes) {
    size_t need;
    if (add_overflows(bytes, 15, &need)) return NULL;
    need &= ~(size_t)15;
    if (!need) need = 16;
    size_t total;
    if (add_overflows(a->used, need, &total) || (a->limit && total > a->limit)) return NULL;
    if (!a->head || a->head->size - a->head->used < need) {
        size_t size = need > ARENA_BLOCK / 4 ? need : ARENA_BLOCK, all;
        if (add_overflows(size, sizeof(struct arena_block), &all)) return NULL;
        struct arena_block *b = mem_alloc(all);
        if (!b) return NULL;
        b->used = 0;
        b->size = size;
        if (a->head && size == need) { // a big piece: keep filling the block that is open
            b->next = a->head->next;
            a->head->next = b;
            b->used = need;
            a->used = total;
            return b->data;
        }
        b->next = a->head;
        a->head = b;
    }
    void *p = a->head->data + a->head->used;
    a->head->used += need;
    a->used = total;
    return p;
}

void *arena_calloc(arena *a, size_t count, size_t size) {
    size_t bytes;
    if (mul_overflows(count, size, &bytes)) return NULL;
    void *p = arena_alloc(a, bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

char *arena_strndup(arena *a, const char *s, size_t n) {
    size_t bytes;
    if (add_overflows(n, 1, &bytes)) return NULL;
    char *copy = arena_alloc(a, bytes);
    if (!copy) return NULL;
    if (n) memcpy(copy, s, n);
    copy[n] = 0;
    return copy;
}

void arena_free(arena *a) {
    for (struct arena_block *b = a->head, *next; b; b = next) {
        next = b->next;
        mem_free(b);
    }
    a->head = NULL;
    a->used = 0;
}

void strbuf_free(strbuf *s) {
    mem_free(s->data);
    *s = (strbuf){0};
}

void strbuf_clear(strbuf *s) {
    s->len = 0;
    if (s->data) s->data[0] = 0;
}

bool strbuf_add(strbuf *s, const void *data, size_t n) {
    size_t need;
    if (s->failed) return false;
    if (add_overflows(s->len, n, &need) || add_overflows(need, 1, &need) || !mem_grow((void **)&s->data, &s->cap, need, 1))
        return !(s->failed = true);
    if (n) memcpy(s->data + s->len, data, n);
    s->len += n;
    s->data[s->len] = 0;
    return true;
}

bool strbuf_adds(strbuf *s, const char *text) { return strbuf_add(s, text, strlen(text)); }
bool strbuf_addc(strbuf *s, char c) { return strbuf_add(s, &c, 1); }

bool strbuf_addf(strbuf *s, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    bool ok = n >= 0 && !s->failed;
    if (ok && (ok = mem_grow((void **)&s->data, &s->cap, s->len + (size_t)n + 1, 1))) {
        vsnprintf(s->data + s->len, (size_t)n + 1, fmt, again);
        s->len += (size_t)n;
    } else {
        s->failed = true;
    }
    va_end(again);
    return ok;
}

char *strbuf_take(strbuf *s) {
    if (s->failed || (!s->data && !strbuf_add(s, "", 0))) {
        strbuf_free(s);
        return NULL;
    }
    char *p = s->data;
    *s = (strbuf){0};
    return p;
}
