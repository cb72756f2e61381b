// base/status: how every function of altiserve says that it failed, and why.
//
// A function that can fail returns `status` and takes an `error *` last. OK is 0. The text is one clear sentence
// for a person: it names the file, the place and, where there is one, the remedy. `err` may be NULL everywhere.
// Plain data, no allocation: an error can be set when memory is gone.
#pragma once
#include <stdarg.h>
#include <stddef.h>

typedef enum status {
    OK = 0,
    E_INVALID,      // the input is wrong (a malformed file, a bad field)
    E_USAGE,        // the call or command line is wrong
    E_NOMEM,        // allocation failed, or the memory budget is gone
    E_IO,           // the operating system said no
    E_NOTFOUND,
    E_UNSUPPORTED,  // understood, but not built
    E_INCOMPLETE,   // a file that ends early: may still be being copied
    E_LIMIT,        // past a limit of ours (the text names it)
    E_BUSY,         // try again later
    E_CANCELLED,
    E_INTERNAL      // a bug of ours
} status;

typedef struct error {
    status code;
    char   text[496];
} error;

// Fills *err (when not NULL) and returns code, so that `return error_set(err, E_INVALID, "...")` reads well.
status error_set(error *err, status code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
// Puts "prefix: " before the text that is there; returns err's code.
status error_prefix(error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// E_IO with strerror(errno) after the text.
status error_errno(error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *status_name(status code);
