#include "base/utf8.h"

// How many bytes a character that begins with b has; 0 if none does.
static size_t length_of(unsigned char b) {
    return b < 0x80 ? 1 : b < 0xC2 ? 0 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : b < 0xF5 ? 4 : 0;
}

// Whether byte i (> 0) of a character that begins with `lead` may be b: RFC 3629, section 4.
static bool continues(unsigned char lead, size_t i, unsigned char b) {
    if ((b & 0xC0) != 0x80) return false;
    if (i > 1) return true;
    switch (lead) {
        case 0xE0: return b >= 0xA0;
        case 0xED: return b < 0xA0;
        case 0xF0: return b >= 0x90;
        case 0xF4: return b < 0x90;
        default: return true;
    }
}

size_t utf8_decode(const char *text, size_t n, uint32_t *cp) {
    const unsigned char *s = (const unsigned char *)text;
    size_t len = length_of(s[0]);
    if (len == 1) {
        *cp = s[0];
        return 1;
    }
    if (len && len <= n) {
        uint32_t c = s[0] & (0x7Fu >> len);
        size_t i = 1;
        for (; i < len && continues(s[0], i, s[i]); i++) c = c << 6 | (s[i] & 0x3Fu);
        if (i == len) {
            *cp = c;
            return len;
        }
    }
    *cp = UINT32_MAX;
    return 1;
}

size_t utf8_encode(uint32_t cp, char out[4]) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3F));
    out[0] = (char)((0xF00u >> len) | cp);
    return len;
}

bool utf8_valid(const char *s, size_t n) {
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        i += utf8_decode(s + i, n - i, &cp);
        if (cp == UINT32_MAX) return false;
    }
    return true;
}

size_t utf8_complete_prefix(const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char lead = s[n - back];
        if ((lead & 0xC0) == 0x80) continue;
        size_t len = length_of(lead);
        if (len <= back) return n;
        for (size_t i = 1; i < back; i++)
            if (!continues(lead, i, s[n - back + i])) return n;
        return n - back;
    }
    return n;
}
