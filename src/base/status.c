#include "base/status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

status error_set(error *err, status code, const char *fmt, ...) {
    if (!err) return code;
    err->code = code;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    return code;
}

status error_prefix(error *err, const char *fmt, ...) {
    if (!err) return E_INTERNAL;
    char before[sizeof err->text], after[sizeof err->text];
    va_list args;
    va_start(args, fmt);
    vsnprintf(before, sizeof before, fmt, args);
    va_end(args);
    memcpy(after, err->text, sizeof after);
    size_t n = strlen(before), room = sizeof err->text - 1;
    if (n > room - 2) n = room - 2;
    size_t m = strlen(after);
    if (n + 2 + m > room) m = room - n - 2;
    memcpy(err->text, before, n);
    memcpy(err->text + n, ": ", 2);
    memcpy(err->text + n + 2, after, m);
    err->text[n + 2 + m] = 0;
    return err->code;
}

status error_errno(error *err, const char *fmt, ...) {
    int why = errno;
    if (!err) return E_IO;
    err->code = E_IO;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof err->text)
        snprintf(err->text + n, sizeof err->text - (size_t)n, ": %s", strerror(why));
    return E_IO;
}

const char *status_name(status code) {
    static const char *const names[] = {
        [OK] = "ok", [E_INVALID] = "invalid", [E_USAGE] = "usage", [E_NOMEM] = "memory", [E_IO] = "io",
        [E_NOTFOUND] = "not found", [E_UNSUPPORTED] = "unsupported", [E_INCOMPLETE] = "incomplete", [E_LIMIT] = "limit",
        [E_BUSY] = "busy", [E_CANCELLED] = "cancelled", [E_INTERNAL] = "internal"};
    return (size_t)code < sizeof names / sizeof *names ? names[code] : "unknown";
}
