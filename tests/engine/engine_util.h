// For the engine's tests: an engine over toy-1 or a folder, and requests run to their end.
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "altiserve.h"
#include "base/mem.h"

typedef struct answer {
    status   submitted;
    error    err;
    strbuf   text[16];
    int32_t  tokens[16][1024];
    size_t   n_tokens[16];
    float    logprob[16][1024];
    altiserve_finish finish[16], end;
    size_t   stop[16];
    altiserve_usage usage;
    int      started;
} answer;

static inline void answer_free(answer *a) {
    for (int i = 0; i < 16; i++) strbuf_free(&a->text[i]);
    mem_free(a);
}

static inline void note_event(answer *out, const altiserve_event *e) {
    if (e->kind == EVENT_STARTED) out->started++;
    if (e->kind == EVENT_FINISH) out->finish[e->choice] = e->finish, out->stop[e->choice] = e->stop;
    if (e->kind != EVENT_TEXT) return;
    strbuf_add(&out->text[e->choice], e->text, e->text_len);
    for (size_t i = 0; i < e->n_tokens && out->n_tokens[e->choice] < 1024; i++) {
        if (e->logprobs) out->logprob[e->choice][out->n_tokens[e->choice]] = e->logprobs[i * (1 + (size_t)e->top_logprobs)].logprob;
        out->tokens[e->choice][out->n_tokens[e->choice]++] = e->tokens[i];
    }
}

// Takes events until the end.
static inline void collect(altiserve_request *r, answer *out) {
    altiserve_event e;
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_END) note_event(out, &e);
    out->end = e.finish;
    out->err = e.err;
    out->usage = altiserve_request_usage(r);
    altiserve_request_free(r);
}

static inline answer *ask(altiserve *a, const altiserve_generate *g) {
    answer *out = mem_calloc(1, sizeof *out);
    altiserve_request *r = NULL;
    out->submitted = altiserve_submit(a, g, &r, &out->err);
    if (out->submitted == OK) collect(r, out);
    return out;
}

// A thread's request: asks g of a.
typedef struct client {
    altiserve *a;
    altiserve_generate g;
    answer *got;
} client;

static inline void *client_main(void *arg) {
    client *c = arg;
    c->got = ask(c->a, &c->g);
    return NULL;
}

static inline altiserve *engine_with(altiserve_options o) {
    altiserve *a = NULL;
    error err = {0};
    if (altiserve_create(&o, &a, &err) != OK) fail_msg("%s", err.text);
    return a;
}

static inline altiserve_options toy_options(void) {
    altiserve_options o = altiserve_defaults();
    o.rescan = false;
    o.threads = 1;
    o.memory = 512u << 20;
    o.deterministic = true; // tests hold answers together to the bit, however they were cut into steps
    return o;
}

// Greedy over a text.
static inline altiserve_generate greedy(const char *text, uint32_t max_tokens) {
    return (altiserve_generate){.model = "toy-1", .text = text, .text_len = strlen(text), .n = 1, .max_tokens = max_tokens, .logprobs = -1,
                                .ignore_eos = true, .sampling = {.temperature = 0}, .given = SAMPLING_TEMPERATURE};
}

static inline void same_tokens(const answer *x, const answer *y, int cx, int cy) {
    assert_int_equal(x->n_tokens[cx], y->n_tokens[cy]);
    assert_memory_equal(x->tokens[cx], y->tokens[cy], x->n_tokens[cx] * sizeof(int32_t));
}

// The memory that the model of g asks for at least: eight pages of keys, two states.
static inline uint64_t least_memory(altiserve_options o, altiserve_generate g) {
    o.memory = 1;
    altiserve *a = engine_with(o);
    answer *x = ask(a, &g);
    unsigned long long least = 0;
    assert_int_equal(x->end, FINISH_ERROR);
    assert_int_equal(x->err.code, E_NOMEM);
    assert_int_equal(sscanf(strstr(x->err.text, "at least"), "at least %llu bytes", &least), 1);
    assert_non_null(strstr(x->err.text, "--memory allows 1"));
    answer_free(x);
    altiserve_destroy(a);
    return least;
}
