// conformance/serve_tool: a model of any architecture as a server runs it, from altiserve.h, for tests/conformance/logits.sh (PART=served).
//
// usage: serve_tool MODEL [--whole]
//   --whole   the model reads a sequence at once, so that nothing of it is kept
// Three turns of a conversation with the prefix cache give the tokens that they give without one, and go on from what is kept; then several clients at once
// in the least memory that the model can be served in, so that some are preempted, give what each gives alone. Prints what was found and how many were
// preempted. Exit status 3: the architecture is known and not built.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "altiserve.h"
#include "base/mem.h"
#include "obs/obs.h"

enum { TURNS = 3, SAYS = 50, ANSWER = 40, NEXT = 9, CROWD = 6, LONGEST = 256, PAGE = 32 };

static const char *path;
static bool whole;

static void die(const error *err) {
    fprintf(stderr, "%s: %s\n", status_name(err->code), err->text);
    exit(strstr(err->text, "is not supported") ? 3 : 1);
}

static altiserve *engine(bool cache, int parallel, int step, uint64_t memory) {
    altiserve_options o = altiserve_defaults();
    o.rescan = false;
    o.threads = 1;
    o.memory = memory;
    o.deterministic = o.open_paths = true;
    o.prefix_cache = cache;
    o.parallel = parallel;
    o.step_tokens = step;
    o.speculation = SPECULATE_OFF;
    altiserve *a = NULL;
    error err = {0};
    if (altiserve_create(&o, &a, &err)) die(&err);
    return a;
}

static altiserve_request *submit(altiserve *a, const int32_t *tokens, size_t n, uint32_t answer) {
    altiserve_generate g = {.model = path, .tokens = tokens, .n_tokens = n, .n = 1, .max_tokens = answer, .logprobs = -1,
                            .ignore_eos = true, .sampling = {.temperature = 0}, .given = SAMPLING_TEMPERATURE};
    altiserve_request *r = NULL;
    error err = {0};
    if (altiserve_submit(a, &g, &r, &err)) die(&err);
    return r;
}

// The answer's tokens; those of the prompt that were kept.
static uint32_t collect(altiserve_request *r, uint32_t answer, int32_t *tokens, error *err) {
    altiserve_event e;
    uint32_t n = 0;
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_END)
        for (size_t i = 0; e.kind == EVENT_TEXT && i < e.n_tokens && n < answer; i++) tokens[n++] = e.tokens[i];
    uint32_t cached = altiserve_request_usage(r).cached_tokens;
    *err = e.err;
    altiserve_request_free(r);
    if (!err->code && n != answer) *err = (error){.code = E_INTERNAL, .text = "the answer is shorter than asked for"};
    return cached;
}

static uint32_t ask(altiserve *a, const int32_t *tokens, size_t n, uint32_t answer, int32_t *out) {
    error err;
    uint32_t cached = collect(submit(a, tokens, n, answer), answer, out, &err);
    if (err.code) die(&err);
    return cached;
}

static void make_text(int32_t *tokens, int seed) {
    for (int i = 0; i < LONGEST; i++) tokens[i] = (i * (7 + 2 * seed) + i * i % 11 + 3) % 128;
}

static void same(const char *what, int at, const int32_t *x, const int32_t *y, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (x[i] == y[i]) continue;
        fprintf(stderr, "%s %d: token %u of the answer is %d, alone and without a cache %d\n", what, at, i, y[i], x[i]);
        exit(1);
    }
}

// The next turn goes on from the last border of what was computed before: all but an answer's last token.
static uint32_t turns(altiserve *plain) {
    altiserve *a = engine(true, 3, 48, 1u << 30);
    int32_t tokens[LONGEST], x[ANSWER], y[ANSWER];
    uint32_t found = 0;
    size_t n = SAYS;
    make_text(tokens, 0);
    for (int turn = 0; turn < TURNS; turn++) {
        ask(plain, tokens, n, ANSWER, x);
        uint32_t cached = ask(a, tokens, n, ANSWER, y), expected = turn && !whole ? (uint32_t)(n - NEXT - 1) / PAGE * PAGE : 0;
        same("turn", turn, x, y, ANSWER);
        if (cached != expected) {
            fprintf(stderr, "turn %d: %u of %zu tokens were kept, expected %u\n", turn, cached, n, expected);
            exit(1);
        }
        found += cached;
        memcpy(tokens + n, y, sizeof y);
        n += ANSWER + NEXT;
    }
    altiserve_destroy(a);
    return found;
}

// What the engine says the model takes at least.
static uint64_t least_memory(void) {
    altiserve *a = engine(true, 3, 48, 1);
    int32_t tokens[LONGEST], out[1];
    error err;
    make_text(tokens, 0);
    collect(submit(a, tokens, SAYS, 1), 1, out, &err);
    altiserve_destroy(a);
    const char *at = strstr(err.text, "at least ");
    unsigned long long least = 0;
    if (err.code != E_NOMEM || !at || sscanf(at, "at least %llu bytes", &least) != 1) {
        fprintf(stderr, "one byte of memory: %s\n", err.code ? err.text : "it was served");
        exit(1);
    }
    return least;
}

static uint64_t crowd(altiserve *plain) {
    altiserve *a = engine(true, 3, 48, least_memory());
    int32_t tokens[CROWD][LONGEST], x[LONGEST], y[LONGEST];
    altiserve_request *r[CROWD];
    error err;
    for (int i = 0; i < CROWD; i++) {
        make_text(tokens[i], i % 4); // two of them begin as others do
        r[i] = submit(a, tokens[i], 40 + 9 * (size_t)i, 130);
    }
    for (int i = 0; i < CROWD; i++) {
        collect(r[i], 130, y, &err);
        if (err.code) die(&err);
        ask(plain, tokens[i], 40 + 9 * (size_t)i, 130, x);
        same("client", i, x, y, 130);
    }
    altiserve_stats st;
    altiserve_get_stats(a, &st);
    if (st.pages_total != st.pages_free + st.pages_cached) {
        fprintf(stderr, "%llu of %llu pages are lost\n", (unsigned long long)(st.pages_total - st.pages_free - st.pages_cached), (unsigned long long)st.pages_total);
        exit(1);
    }
    altiserve_destroy(a);
    char stem[256]; // the model's name
    const char *slash = strrchr(path, '/');
    snprintf(stem, sizeof stem, "%s", slash ? slash + 1 : path);
    char *dot = strrchr(stem, '.');
    if (dot) *dot = 0;
    return (uint64_t)obs_read(OBS_PREEMPTIONS, stem, NULL);
}

int main(int argc, char **argv) {
    whole = argc == 3 && !strcmp(argv[2], "--whole");
    if (argc != 2 + whole) {
        fprintf(stderr, "usage: serve_tool MODEL [--whole]\n");
        return 2;
    }
    path = argv[1];
    obs_set_level(OBS_ERROR);
    altiserve *plain = engine(false, 1, 512, 1u << 30);
    uint32_t found = turns(plain);
    uint64_t preempted = crowd(plain);
    altiserve_destroy(plain);
    printf("%u kept, %llu preempted\n", found, (unsigned long long)preempted);
    return 0;
}
