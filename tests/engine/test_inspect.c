// What `inspect` says a model will take is what it takes: scratch and pages as a loaded model holds them, and the bytes of keys and values of 1,000 tokens as
// they are touched, within 2 %. (Weights: tests/conformance/logits_tool.c and test_cpu_memory.c.) Measured by the system's own count of the process.
#include <math.h>
#include <unistd.h>

#include <jansson.h>

#include "engine/recurrent_model.h"
#include "model/small_model.h"
#include "obs/obs.h"
#include "sanitized.h"

enum { LARGE_PAGE = 2 << 20, LONG = 2048, ENOUGH = 300 << 20 }; // bytes that 2 % of is more than a rounding to large pages; most are never touched

static char recurrent[64], wide[64];

static int write_models(void **state) {
    (void)state;
    snprintf(recurrent, sizeof recurrent, "/tmp/altiserve-inspect-recurrent-%ld.gguf", (long)getpid());
    snprintf(wide, sizeof wide, "/tmp/altiserve-inspect-wide-%ld.gguf", (long)getpid());
    write_recurrent(recurrent);
    const small_spec spec = {.arch = "llama", .e = 32, .layers = 2, .heads = 32, .kv = 32, .head = 128, .ff = 32, .vocab = VOCAB}; // 32 kB a token and layer
    small_model m;
    small_begin(&m, &spec);
    small_u32(&m, &spec, "context_length", 2 * LONG);
    small_file(&m, &spec, wide);
    return 0;
}

static int remove_models(void **state) {
    (void)state;
    return unlink(recurrent) | unlink(wide);
}

// A line of /proc/self/status in bytes; 0 where there is none.
static double process(const char *key) {
    char line[256], format[64];
    double kb = 0;
    snprintf(format, sizeof format, "%s: %%lf kB", key);
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, format, &kb) == 1) break;
    if (f) fclose(f);
    return kb * 1024;
}

typedef struct memory { double weights, scratch, kv, per_1000; } memory;

static memory said(altiserve *a, const char *id) {
    char *text;
    error err = {0};
    if (altiserve_inspect(a, id, &text, &err)) fail_msg("%s", err.text);
    json_t *report = json_loads(text, 0, NULL), *m = json_object_get(report, "memory");
    memory out = {json_number_value(json_object_get(m, "weights_bytes")), json_number_value(json_object_get(m, "scratch_bytes")), json_number_value(json_object_get(m, "kv_bytes")),
                  json_number_value(json_object_get(m, "kv_bytes_per_1000_tokens"))};
    assert_true(out.weights > 0 && out.scratch > 0 && out.kv > 0 && out.per_1000 > 0);
    json_decref(report);
    mem_free(text);
    return out;
}

static altiserve_options options(int parallel, int step) {
    altiserve_options o = toy_options();
    o.open_paths = true;
    o.memory = 16ull << 30;
    o.parallel = parallel;
    o.step_tokens = step;
    o.speculation = SPECULATE_OFF;
    return o;
}

// What a load takes of the system, and what was said of it.
static double taken(const char *id, int parallel, int step, memory *m) {
    altiserve *a = engine_with(options(parallel, step));
    error err = {0};
    *m = said(a, id);
    double before = process("VmData");
    if (altiserve_load(a, id, NULL, NULL, &err)) fail_msg("%s", err.text);
    double after = process("VmData");
    altiserve_destroy(a);
    return after - before;
}

static void near(const char *id, const char *what, double predicted, double used, double beside) {
    if (fabs(used - predicted) > 0.02 * predicted + beside) fail_msg("%s, %s: %.0f bytes were predicted and %.0f taken", id, what, predicted, used);
}

// The same model with other steps and other pages: what differs in the prediction differs in the process.
static void scratch_and_pages(void **state) {
    (void)state;
    if (SANITIZED || process("VmData") == 0) skip();
    const struct { const char *id; int parallel, step; } models[] = {{"toy-1", 1024, 1 << 16}, {recurrent, 1536, 1 << 19}, {wide, 12, 1 << 14}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const char *id = models[i].id;
        memory few, rows, pages;
        taken(id, 4, 64, &few); // what is made once
        double base = taken(id, 4, 64, &few), steps = taken(id, 4, models[i].step, &rows), more = taken(id, models[i].parallel, 1024, &pages);
        double scratch = rows.scratch - few.scratch, kv = pages.kv - few.kv;
        printf("    %s: scratch %.0f predicted, %.0f taken; pages %.0f, %.0f\n", id, scratch + rows.kv - few.kv, steps - base, kv + pages.scratch - few.scratch, more - base);
        if (scratch < ENOUGH || kv < ENOUGH) fail_msg("%s: %.0f bytes of scratch and %.0f of pages are too few to be measured", id, scratch, kv);
        near(id, "scratch", scratch + rows.kv - few.kv, steps - base, 2 * LARGE_PAGE);
        near(id, "pages", kv + pages.scratch - few.scratch, more - base, 2 * LARGE_PAGE);
    }
}

// Two prompts of other tokens: the first touches everything else.
static void thousand_tokens(void **state) {
    (void)state;
    if (SANITIZED || process("RssAnon") == 0) skip();
    altiserve *a = engine_with(options(4, 512));
    memory m = said(a, wide);
    static int32_t tokens[LONG];
    double before = 0;
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < LONG; i++) tokens[i] = (i * (3 + turn) + i * i % (7 + turn)) % VOCAB;
        altiserve_generate g = {.model = wide, .tokens = tokens, .n_tokens = LONG - 1, .n = 1, .max_tokens = 1,
                                .logprobs = -1, .ignore_eos = true, .sampling = {.temperature = 0}, .given = SAMPLING_TEMPERATURE};
        before = process("RssAnon");
        answer *x = ask(a, &g);
        if (x->end != FINISH_LENGTH) fail_msg("%s", x->err.text);
        assert_int_equal(x->usage.cached_tokens, 0);
        answer_free(x);
    }
    printf("    %d tokens: %.0f bytes predicted, %.0f taken\n", LONG, m.per_1000 * LONG / 1000, process("RssAnon") - before);
    near(wide, "1,000 tokens", m.per_1000 * LONG / 1000, process("RssAnon") - before, LARGE_PAGE);
    altiserve_destroy(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(scratch_and_pages), cmocka_unit_test(thousand_tokens)};
    obs_set_level(OBS_ERROR);
    return cmocka_run_group_tests(tests, write_models, remove_models);
}
