// base/mem: allocation. Arenas for what lives and dies together, growable strings, and checked sizes.
//
// Invariants: nothing here aborts; every function that allocates can return NULL or false and the caller says E_NOMEM.
// Tests fail the Nth allocation through mem_fail_at: all of altiserve's own code allocates through these functions.
// Threads: mem_* may be called from anywhere; an arena or strbuf belongs to one thread at a time.
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t bytes);               // as malloc; bytes == 0 gives a valid pointer
void *mem_calloc(size_t count, size_t size); // zeroed, overflow-checked
void *mem_realloc(void *p, size_t bytes);
void  mem_free(void *p);
char *mem_strdup(const char *s);
char *mem_strndup(const char *s, size_t n);
void *mem_aligned(size_t align, size_t bytes); // free with mem_free
// Zeroed, in large pages where it is large: for tables that are filled in no order, of which small pages would each be read as zeros before they are written.
void *mem_table(size_t count, size_t size);
// For tests: the nth allocation from now fails (1 = the next), once; 0 = never again.
void mem_fail_at(long nth);

// Grows an array: *p holds *cap items of `size` bytes; afterwards at least `need`. False when memory is gone or the size overflows.
bool mem_grow(void **p, size_t *cap, size_t need, size_t size);

static inline bool mul_overflows(size_t a, size_t b, size_t *out) { return __builtin_mul_overflow(a, b, out); }
static inline bool add_overflows(size_t a, size_t b, size_t *out) { return __builtin_add_overflow(a, b, out); }

// An arena hands out memory that is freed all at once. A limit of 0 means none.
typedef struct arena {
    struct arena_block *head;
    size_t used, limit; // bytes handed out, and how many may be
} arena;

void  arena_init(arena *a, size_t limit);
void *arena_alloc(arena *a, size_t bytes);               // aligned to 16; NULL past the limit or when memory is gone
void *arena_calloc(arena *a, size_t count, size_t size);
char *arena_strndup(arena *a, const char *s, size_t n);
void  arena_free(arena *a);                              // everything; the arena can be used again

// A growable byte string, always NUL-terminated once something was added. After a failed allocation `failed` stays set and
// further appends do nothing: check once at the end.
typedef struct strbuf {
    char  *data;
    size_t len, cap;
    bool   failed;
} strbuf;

void  strbuf_free(strbuf *s);
void  strbuf_clear(strbuf *s);
bool  strbuf_add(strbuf *s, const void *data, size_t n);
bool  strbuf_adds(strbuf *s, const char *text);
bool  strbuf_addc(strbuf *s, char c);
bool  strbuf_addf(strbuf *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
char *strbuf_take(strbuf *s); // the caller owns it (mem_free); NULL when failed; the strbuf is empty afterwards
