// Generated text to reasoning and content, piece by piece.
// Invariants: hold[0..held) is text that came in and was given on to nobody: spaces that may turn out to stand before a marker, and
// behind them the beginning of what may become one. Bytes are looked at one by one, so a piece of any size has the same result.
// Threads: chat.h.
#include <string.h>

#include "chat/chat.h"

// START: nothing but spaces yet. OPENED: behind the opening marker, spaces are dropped. INSIDE: reasoning.
// CLOSED: behind the closing marker, spaces are dropped. CONTENT: all that follows is passed on.
enum { START, OPENED, INSIDE, CLOSED, CONTENT };

static bool space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

void chat_split_init(chat_splitter *s, const char *open, const char *close, bool inside) {
    *s = (chat_splitter){.open = open, .close = close, .state = inside ? OPENED : START};
}

static status give(chat_splitter *s, size_t n, chat_part part, chat_emit emit, void *ctx) { // the first n held bytes
    status st = n ? emit(ctx, part, s->hold, n) : OK;
    s->held -= n;
    memmove(s->hold, s->hold + n, s->held);
    return st;
}

// How the held bytes end: the length of their longest tail that begins `marker`.
static size_t beginning(const chat_splitter *s, const char *marker) {
    size_t n = strlen(marker), tail = s->held < n ? s->held : n;
    for (; tail; tail--)
        if (!memcmp(s->hold + s->held - tail, marker, tail)) return tail;
    return 0;
}

static status reasoning(chat_splitter *s, chat_emit emit, void *ctx) { // after a byte came in: what is surely no marker goes on
    size_t tail = beginning(s, s->close), keep;
    if (tail == strlen(s->close)) { // the spaces before it go with it
        size_t n = s->held - tail;
        while (n && space(s->hold[n - 1])) n--;
        status st = give(s, n, CHAT_REASONING, emit, ctx);
        s->held = 0;
        s->state = CLOSED;
        return st;
    }
    for (keep = tail; keep < s->held && space(s->hold[s->held - keep - 1]); keep++) {}
    if (keep == CHAT_HELD) keep = tail; // too many spaces to hold: they are text
    return s->held > keep ? give(s, s->held - keep, CHAT_REASONING, emit, ctx) : OK;
}

static status start(chat_splitter *s, chat_emit emit, void *ctx) {
    size_t from = 0, n = strlen(s->open);
    while (from < s->held && space(s->hold[from])) from++;
    size_t got = s->held - from;
    if (got >= n && !memcmp(s->hold + from, s->open, n)) {
        s->held = 0;
        s->state = OPENED;
        return OK;
    }
    if ((got < n && !memcmp(s->hold + from, s->open, got)) && s->held < CHAT_HELD) return OK;
    s->state = CONTENT;
    return give(s, s->held, CHAT_CONTENT, emit, ctx);
}

status chat_split_feed(chat_splitter *s, const char *text, size_t len, chat_emit emit, void *ctx) {
    for (size_t i = 0; i < len; i++) {
        if (s->state == CONTENT) return emit(ctx, CHAT_CONTENT, text + i, len - i);
        if ((s->state == OPENED || s->state == CLOSED) && space(text[i])) continue;
        if (s->state == CLOSED) {
            s->state = CONTENT;
            return emit(ctx, CHAT_CONTENT, text + i, len - i);
        }
        if (s->state == OPENED) s->state = INSIDE;
        if (s->state == INSIDE && !s->held) { // most bytes: no marker begins here
            size_t n = 0;
            while (i + n < len && !space(text[i + n]) && text[i + n] != s->close[0]) n++;
            if (n) {
                status st = emit(ctx, CHAT_REASONING, text + i, n);
                if (st != OK) return st;
                i += n - 1;
                continue;
            }
        }
        s->hold[s->held++] = text[i];
        status st = s->state == START ? start(s, emit, ctx) : reasoning(s, emit, ctx);
        if (st != OK) return st;
    }
    return OK;
}

status chat_split_end(chat_splitter *s, chat_emit emit, void *ctx) {
    return give(s, s->held, s->state == INSIDE ? CHAT_REASONING : CHAT_CONTENT, emit, ctx);
}

bool chat_prompt_opens(const chat_spans *prompt, const char *open) {
    size_t end = prompt->len, n = strlen(open);
    while (end && space(prompt->text[end - 1])) end--;
    if (end < n || memcmp(prompt->text + end - n, open, n)) return false;
    for (size_t i = prompt->count; i-- > 0;) { // the span that holds the marker's last byte must hold it all
        const chat_span *p = &prompt->items[i];
        size_t from = (size_t)(p->text - prompt->text);
        if (from < end) return p->trusted && from + n <= end;
    }
    return false;
}
