// base/utf8: UTF-8 as RFC 3629 has it (no surrogates, no overlong forms, at most U+10FFFF).
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Decodes one character at s (n bytes left, n > 0). Returns its length and sets *cp; an ill-formed byte gives 1 and *cp = UINT32_MAX.
size_t utf8_decode(const char *s, size_t n, uint32_t *cp);
// Writes 1 to 4 bytes; returns how many.
size_t utf8_encode(uint32_t cp, char out[4]);
bool   utf8_valid(const char *s, size_t n);
// The length of the longest prefix that does not end inside a character which further bytes could complete: what a stream may emit.
size_t utf8_complete_prefix(const char *s, size_t n);
