// What Python's str methods ask of a character. Spaces and printability by rule; letters and case through the C library's Unicode
// tables (a UTF-8 locale of our own, never the process's), ASCII alone where the system has none.
// Threads: any; the locale is made once.
#include <locale.h>
#include <pthread.h>
#include <wchar.h>
#include <wctype.h>
#if __has_include(<xlocale.h>)
#include <xlocale.h>
#endif

#include "chat/jinja_internal.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static locale_t unicode;

static void make_locale(void) {
    static const char *const names[] = {"C.UTF-8", "C.utf8", "en_US.UTF-8", "UTF-8"};
    for (size_t i = 0; i < sizeof names / sizeof *names && !unicode; i++) unicode = newlocale(LC_CTYPE_MASK, names[i], (locale_t)0);
}

static bool tables(void) {
    pthread_once(&once, make_locale);
    return unicode != (locale_t)0;
}

bool juni_space(uint32_t c) {
    if (c < 128) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool juni_print(uint32_t c) {
    if (c < 128) return c >= 32 && c < 127;
    if (c < 0xa1 || c == 0xad || juni_space(c)) return false;
    if ((c >= 0x200b && c <= 0x200f) || (c >= 0x202a && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || c == 0x61c || c == 0x180e ||
        (c >= 0x600 && c <= 0x605) || c == 0x6dd || c == 0x70f || (c >= 0xfff9 && c <= 0xfffb) || (c >= 0xe000 && c <= 0xf8ff) || c >= 0xf0000 ||
        (c >= 0xe0000 && c <= 0xe007f))
        return false;
    return !tables() || iswprint_l((wint_t)c, unicode);
}

bool juni_lower(uint32_t c) { return c < 128 ? c >= 'a' && c <= 'z' : tables() && iswlower_l((wint_t)c, unicode); }
bool juni_upper(uint32_t c) { return c < 128 ? c >= 'A' && c <= 'Z' : tables() && iswupper_l((wint_t)c, unicode); }
bool juni_digit(uint32_t c) {
    if (c < 128) return c >= '0' && c <= '9';
    return (c >= 0x660 && c <= 0x669) || (c >= 0x6f0 && c <= 0x6f9) || (c >= 0x966 && c <= 0x96f) || (c >= 0xff10 && c <= 0xff19);
}
bool juni_alpha(uint32_t c) {
    if (c < 128) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return tables() && iswalpha_l((wint_t)c, unicode) && !juni_digit(c);
}

size_t juni_case(uint32_t c, bool upper, uint32_t out[3]) {
    out[0] = c;
    if (c < 128) {
        if (upper && c >= 'a' && c <= 'z') out[0] = c - 32;
        if (!upper && c >= 'A' && c <= 'Z') out[0] = c + 32;
        return 1;
    }
    // the mappings to several letters (SpecialCasing.txt) that texts really hold
    static const uint32_t several[][4] = {
        {0xdf, 'S', 'S', 0}, {0x149, 0x2bc, 'N', 0}, {0x1f0, 'J', 0x30c, 0}, {0x587, 0x535, 0x552, 0},
        {0xfb00, 'F', 'F', 0}, {0xfb01, 'F', 'I', 0}, {0xfb02, 'F', 'L', 0}, {0xfb03, 'F', 'F', 'I'}, {0xfb04, 'F', 'F', 'L'}, {0xfb05, 'S', 'T', 0}, {0xfb06, 'S', 'T', 0},
    };
    for (size_t i = 0; upper && i < sizeof several / sizeof *several; i++)
        if (several[i][0] == c) {
            size_t n = several[i][3] ? 3 : 2;
            for (size_t k = 0; k < n; k++) out[k] = several[i][k + 1];
            return n;
        }
    if (!upper && c == 0x130) {
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    if (tables()) out[0] = (uint32_t)(upper ? towupper_l((wint_t)c, unicode) : towlower_l((wint_t)c, unicode));
    return 1;
}
