// strftime_now: the clock as a template prints it, or the `now` that the input gives (ISO 8601; its own wall clock, no zones).
// Threads: any.
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "chat/jinja_internal.h"

// Days since 1970-01-01 of a civil date (Howard Hinnant's days_from_civil).
static int64_t days(int y, int m, int d) {
    int64_t year = y - (m <= 2);
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t yoe = year - era * 400, doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static bool parse(const char *text, struct tm *tm, int *micro) {
    static const int lengths[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int y, m, d, h = 0, min = 0, s = 0, n = 0;
    char sep;
    *micro = 0;
    if (sscanf(text, "%4d-%2d-%2d%n", &y, &m, &d, &n) != 3 || y < 1 || m < 1 || m > 12 || d < 1 || d > lengths[m - 1]) return false;
    if (m == 2 && d == 29 && (y % 4 || (y % 100 == 0 && y % 400))) return false;
    if (text[n]) {
        int used = 0;
        if (sscanf(text + n, "%c%2d:%2d%n", &sep, &h, &min, &used) != 3 || (sep != 'T' && sep != ' ' && sep != 't')) return false;
        n += used;
        if (text[n] == ':') {
            if (sscanf(text + n, ":%2d%n", &s, &used) != 1) return false;
            n += used;
        }
        if (text[n] == '.')
            for (int scale = 100000, i = n + 1; scale && text[i] >= '0' && text[i] <= '9'; i++, scale /= 10) *micro += (text[i] - '0') * scale;
    }
    if (h < 0 || h > 23 || min < 0 || min > 59 || s < 0 || s > 60) return false;
    int64_t at = days(y, m, d), first = days(y, 1, 1);
    *tm = (struct tm){.tm_year = y - 1900, .tm_mon = m - 1, .tm_mday = d, .tm_hour = h, .tm_min = min, .tm_sec = s,
                      .tm_wday = (int)((at % 7 + 11) % 7), .tm_yday = (int)(at - first), .tm_isdst = -1};
    return true;
}

const jstr *jtime_strftime(jj *j, const jstr *fmt) {
    struct tm tm;
    int micro = 0;
    if (j->now) {
        if (!parse(j->now, &tm, &micro)) jj_fail(j, E_INVALID, "'now' must be an ISO time such as 2025-01-31T12:00:00, not '%.40s'", j->now);
    } else {
        struct timespec ts;
        clock_gettime(CLOCK_REALTIME, &ts);
        localtime_r(&ts.tv_sec, &tm);
        micro = (int)(ts.tv_nsec / 1000);
    }
    jbuf *b = jbuf_new(j);
    for (size_t at = 0; at < fmt->len;) {
        size_t next = at + 1;
        if (fmt->p[at] != '%' || next >= fmt->len) {
            while (next < fmt->len && fmt->p[next] != '%') next++;
            jbuf_part(j, b, fmt, at, next);
            at = next;
            continue;
        }
        bool trusted = jstr_trusted_at(fmt, at);
        while (next < fmt->len && next < at + 6 && strchr("-_0^#", fmt->p[next])) next++;
        char c = next < fmt->len ? fmt->p[next++] : 0, spec[16], text[256];
        size_t n = 0;
        if (c == 'f') {
            n = (size_t)snprintf(text, sizeof text, "%06d", micro);
        } else if (c == 'z' || c == 'Z') { // a naive time has no zone
        } else if (c && (unsigned char)c < 128) {
            memcpy(spec, fmt->p + at, next - at);
            spec[next - at] = 0;
            n = strftime(text, sizeof text, spec, &tm);
        }
        jbuf_add(j, b, text, n, trusted);
        if ((unsigned char)c >= 128) next = at + 1, jbuf_part(j, b, fmt, at, next);
        at = next;
    }
    return jbuf_done(j, b);
}
