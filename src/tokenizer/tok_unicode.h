// tok_unicode: what the tokenizers know about characters, by Unicode 15.1, and the peer's reading of UTF-8.
//
// The reading is lenient, as the reference vocabularies' own tests have it: overlong forms and surrogates are decoded as they stand,
// and each byte that begins no character is U+FFFD.
// Threads: all functions may be called from anywhere.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum tok_class {
    TOK_CP_NONE = 0, // not assigned
    TOK_CP_LETTER,
    TOK_CP_NUMBER,
    TOK_CP_MARK,
    TOK_CP_PUNCTUATION,
    TOK_CP_SYMBOL,
    TOK_CP_SEPARATOR,
    TOK_CP_CONTROL, // control, format, private use, surrogate
    TOK_CP_SPACE    // White_Space, whatever else it is
} tok_class;

typedef struct tok_lower_run { uint32_t first, last, step; int32_t delta; } tok_lower_run;
typedef struct tok_nfd_run { uint32_t first, last, to; } tok_nfd_run;

extern const uint32_t      tok_unicode_runs[];
extern const size_t        tok_unicode_run_count;
extern const tok_lower_run tok_unicode_lower[];
extern const size_t        tok_unicode_lower_count;
extern const tok_nfd_run   tok_unicode_nfd[];
extern const size_t        tok_unicode_nfd_count;

// The class of every character, one byte each; made on the first call.
const uint8_t *tok_classes(void);
uint32_t       tok_lower(uint32_t cp);     // simple lower case, or cp
uint32_t       tok_nfd_first(uint32_t cp); // the first character of the canonical decomposition, or cp
bool           tok_is_han(uint32_t cp);    // the blocks that Kimi's pattern calls Han

// One character at s (n > 0 bytes left): its length, and *cp (at most U+10FFFF). 1 and U+FFFD for a byte that begins none.
size_t tok_decode_cp(const unsigned char *s, size_t n, uint32_t *cp);
// How long a character that begins with this byte says it is: 1 for continuation bytes.
static inline size_t tok_char_len(unsigned char b) { return b < 0xC0 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4; }
