// tok_unicode: lookup in the generated tables. The class table is unpacked once, under pthread_once, into static memory
// (1.1 MB, of which a text touches the pages of its scripts).
#include "tokenizer/tok_unicode.h"

#include <pthread.h>
#include <string.h>

#define CODE_POINTS 0x110000u

static uint8_t        classes[CODE_POINTS];
static pthread_once_t classes_once = PTHREAD_ONCE_INIT;

static void unpack_classes(void) {
    for (size_t i = 0; i < tok_unicode_run_count; i++) {
        uint32_t first = tok_unicode_runs[i] >> 4;
        uint32_t end = i + 1 < tok_unicode_run_count ? tok_unicode_runs[i + 1] >> 4 : CODE_POINTS;
        memset(classes + first, (int)(tok_unicode_runs[i] & 15), end - first);
    }
}

const uint8_t *tok_classes(void) {
    pthread_once(&classes_once, unpack_classes);
    return classes;
}

uint32_t tok_lower(uint32_t cp) {
    if (cp < 0x80) return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    size_t lo = 0, hi = tok_unicode_lower_count;
    while (lo < hi) { // the last run that begins at or before cp
        size_t mid = (lo + hi) / 2;
        if (tok_unicode_lower[mid].first <= cp) lo = mid + 1;
        else hi = mid;
    }
    // Runs of step 2 may lie inside one another by one place, so the one before counts too.
    for (size_t back = 1; back <= 2 && back <= lo; back++) {
        const tok_lower_run *r = &tok_unicode_lower[lo - back];
        if (cp <= r->last && (cp - r->first) % r->step == 0) return (uint32_t)((int64_t)cp + r->delta);
    }
    return cp;
}

uint32_t tok_nfd_first(uint32_t cp) {
    if (cp < 0xC0) return cp;
    if (cp >= 0xAC00 && cp <= 0xD7A3) return 0x1100 + (cp - 0xAC00) / 588;
    size_t lo = 0, hi = tok_unicode_nfd_count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (tok_unicode_nfd[mid].last < cp) lo = mid + 1;
        else hi = mid;
    }
    return lo < tok_unicode_nfd_count && tok_unicode_nfd[lo].first <= cp ? tok_unicode_nfd[lo].to : cp;
}

bool tok_is_han(uint32_t cp) {
    return (cp >= 0x4E00 && cp <= 0x9FFF) || (cp >= 0x3400 && cp <= 0x4DBF) || (cp >= 0x20000 && cp <= 0x2A6DF) ||
           (cp >= 0x2A700 && cp <= 0x2EBEF) || (cp >= 0xF900 && cp <= 0xFAFF) || (cp >= 0x2F800 && cp <= 0x2FA1F);
}

size_t tok_decode_cp(const unsigned char *s, size_t n, uint32_t *cp) {
    unsigned char b = s[0];
    if (b < 0x80) {
        *cp = b;
        return 1;
    }
    size_t len = b < 0xC0 ? 0 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : b < 0xF8 ? 4 : 0;
    if (len && len <= n) {
        uint32_t c = b & (0x7Fu >> len);
        size_t   i = 1;
        for (; i < len && (s[i] & 0xC0) == 0x80; i++) c = c << 6 | (s[i] & 0x3Fu);
        if (i == len && c < CODE_POINTS) {
            *cp = c;
            return len;
        }
    }
    *cp = 0xFFFD;
    return 1;
}
