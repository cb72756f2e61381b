// obs: log lines that cannot be forged; counters, gauges and histograms under many threads; the Prometheus text.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <pthread.h>
#include <stdatomic.h>
#include <cmocka.h>

#include "obs/obs.h"
#include "obs/obs_internal.h"

static char   last[10000];
static size_t last_len;
static int    lines;
static void keep(void *ctx, const char *line, size_t n) {
    (void)ctx;
    assert_true(n < sizeof last);
    memcpy(last, line, n);
    last[last_len = n] = 0;
    lines++;
}

static void test_log(void **state) {
    (void)state;
    obs_set_sink(keep, NULL);
    obs_log(OBS_INFO, "a name: %s", "evil\n2026-01-01 error forged\x1b[31m");
    assert_int_equal(lines, 1);
    assert_ptr_equal(strchr(last, '\n'), last + last_len - 1);
    assert_non_null(strstr(last, " info  a name: evil\\x0a2026-01-01 error forged\\x1b[31m\n"));
    obs_log(OBS_DEBUG, "unseen");
    assert_int_equal(lines, 1);
    obs_level l;
    assert_true(obs_parse_level("debug", &l));
    assert_false(obs_parse_level("loud", &l));
    obs_set_level(l);
    obs_log(OBS_DEBUG, "seen");
    assert_int_equal(lines, 2);
    char big[5000];
    memset(big, '\n', sizeof big - 1);
    big[sizeof big - 1] = 0;
    obs_log(OBS_ERROR, "%s", big); // the worst case grows fourfold and still fits
    assert_int_equal(lines, 3);
    assert_int_equal(last[last_len - 1], '\n');
    obs_set_level(OBS_INFO);
    obs_set_sink(NULL, NULL);
}

static void test_table(void **state) {
    (void)state;
    for (int i = 0; i < OBS_METRICS; i++) {
        assert_int_equal(obs_table[i].id, i);
        assert_non_null(obs_table[i].names[0]);
        assert_int_equal(obs_table[i].kind == OBS_HISTOGRAM, obs_table[i].bounds != NULL);
        int n = 0;
        for (; obs_table[i].bounds && obs_table[i].bounds[n] != 0; n++) assert_true(n == 0 || obs_table[i].bounds[n] > obs_table[i].bounds[n - 1]);
        assert_true(n <= OBS_MAX_BUCKETS);
        for (int a = 0; a < OBS_MAX_NAMES && obs_table[i].names[a]; a++)
            for (int j = 0; j < i; j++)
                for (int b = 0; b < OBS_MAX_NAMES && obs_table[j].names[b]; b++) assert_string_not_equal(obs_table[i].names[a], obs_table[j].names[b]);
    }
}

enum { THREADS = 8, TIMES = 20000 };
static void *hammer(void *arg) {
    char mine[16];
    snprintf(mine, sizeof mine, "m%d", (int)(intptr_t)arg % 4);
    for (int i = 0; i < TIMES; i++) {
        obs_count(OBS_PROMPT_TOKENS, "shared", NULL, 0.5);
        obs_count(OBS_GENERATED_TOKENS, mine, NULL, 1);
        obs_observe(OBS_STEP_ROWS, "shared", NULL, (i % 4) + 1);
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    pthread_t t[THREADS];
    for (int i = 0; i < THREADS; i++) pthread_create(&t[i], NULL, hammer, (void *)(intptr_t)i);
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    assert_true(obs_read(OBS_PROMPT_TOKENS, "shared", NULL) == 0.5 * THREADS * TIMES);
    for (int i = 0; i < 4; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%d", i);
        assert_true(obs_read(OBS_GENERATED_TOKENS, name, NULL) == (double)THREADS / 4 * TIMES);
    }
    assert_true(obs_read(OBS_STEP_ROWS, "shared", NULL) == THREADS * TIMES);
    strbuf out = {0};
    assert_true(obs_render(&out));
    // A quarter each of 1, 2, 3, 4: buckets add up, a bound includes its own value.
    assert_non_null(strstr(out.data, "altiserve_step_tokens_bucket{model_name=\"shared\",le=\"1\"} 40000\n"));
    assert_non_null(strstr(out.data, "altiserve_step_tokens_bucket{model_name=\"shared\",le=\"2\"} 80000\n"));
    assert_non_null(strstr(out.data, "altiserve_step_tokens_bucket{model_name=\"shared\",le=\"+Inf\"} 160000\n"));
    assert_non_null(strstr(out.data, "altiserve_step_tokens_sum{model_name=\"shared\"} 400000\n"));
    assert_non_null(strstr(out.data, "altiserve_step_tokens_count{model_name=\"shared\"} 160000\n"));
    strbuf_free(&out);
}

static void test_text(void **state) {
    (void)state;
    obs_count(OBS_HTTP_REQUESTS, "a\"b\\c\nd", "200", 3);
    obs_set(OBS_KV_USAGE, "m", NULL, 0.1);
    obs_set(OBS_RUNNING, "gone", NULL, 7);
    obs_zero(OBS_RUNNING);
    obs_observe(OBS_TTFT, "m", NULL, -1);
    strbuf out = {0};
    assert_true(obs_render(&out));
    assert_non_null(strstr(out.data, "# TYPE altiserve_http_requests_total counter\naltiserve_http_requests_total{path=\"a\\\"b\\\\c\\nd\",code=\"200\"} 3\n"));
    assert_non_null(strstr(out.data, "\nvllm:kv_cache_usage_perc{model_name=\"m\"} 0.1\n"));
    assert_non_null(strstr(out.data, "\nllamacpp:kv_cache_usage_ratio{model_name=\"m\"} 0.1\n"));
    assert_non_null(strstr(out.data, "\nllamacpp:requests_processing{model_name=\"gone\"} 0\n"));
    assert_non_null(strstr(out.data, "\nprocess_resident_memory_bytes "));
    assert_non_null(strstr(out.data, "\nprocess_open_fds "));
    assert_non_null(strstr(out.data, "\nprocess_start_time_seconds "));
    strbuf_free(&out);
    mem_fail_at(1);
    assert_false(obs_render(&out));
    mem_fail_at(0);
    strbuf_free(&out);
}

// The ring keeps the last spans; the text is JSON that names no more than it should.
static void test_trace(void **state) {
    (void)state;
    for (int i = 0; i < OBS_SPANS + 5; i++)
        obs_trace_span(&(obs_span){.name = "step", .track = "a \"model\" \xff", .begin_us = i, .end_us = i + 2, .args = {{"rows", i}}});
    obs_trace_span(&(obs_span){.name = "queue", .id = 9, .begin_us = 1, .end_us = 3});
    strbuf out = {0};
    assert_true(obs_trace_render(&out));
    assert_null(strstr(out.data, "\"ts\":5,"));
    assert_non_null(strstr(out.data, "{\"ph\":\"X\",\"name\":\"step\",\"pid\":1,\"tid\":1,\"ts\":6,\"dur\":2,\"args\":{\"rows\":6}}"));
    assert_non_null(strstr(out.data, "\"args\":{\"name\":\"a \\\"model\\\" ?\"}"));
    assert_non_null(strstr(out.data, "{\"ph\":\"b\",\"cat\":\"request\",\"name\":\"queue\",\"id\":9,\"pid\":1,\"tid\":0,\"ts\":1,"));
    strbuf_free(&out);
}

static atomic_bool enough;
static void add_span(void) { obs_trace_span(&(obs_span){.name = "step", .track = "busy", .begin_us = 1, .end_us = 2}); }
static void *add_spans(void *arg) {
    while (!atomic_load(&enough)) add_span();
    return arg;
}

// Who computes is not held up by who looks: spans come while the text of others is made, which then has fewer than are kept.
static void test_trace_beside_spans(void **state) {
    (void)state;
    pthread_t thread;
    atomic_store(&enough, false);
    for (int i = 0; i < OBS_SPANS; i++) add_span();
    assert_int_equal(pthread_create(&thread, NULL, add_spans, NULL), 0);
    int n = OBS_SPANS, tries = 0;
    for (; n == OBS_SPANS && tries < 1000; tries++) {
        strbuf out = {0};
        assert_true(obs_trace_render(&out));
        assert_string_equal(out.data + out.len - 4, "\n]}\n");
        n = 0;
        for (const char *p = out.data; (p = strstr(p, "\"dur\":")); p++) n++;
        strbuf_free(&out);
    }
    atomic_store(&enough, true);
    pthread_join(thread, NULL);
    if (n == OBS_SPANS) fail_msg("of %d texts all had everything", tries);
}

static void test_series_bound(void **state) {
    (void)state;
    for (int i = 0; i < 2000; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%d", i);
        obs_count(OBS_HTTP_REQUESTS, name, "404", 1);
    }
    assert_true(obs_read(OBS_HTTP_REQUESTS, "other", "other") >= 1400);
    assert_true(obs_read(OBS_DROPPED_SERIES, NULL, NULL) >= 1400);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_log), cmocka_unit_test(test_table), cmocka_unit_test(test_threads),
                                       cmocka_unit_test(test_text), cmocka_unit_test(test_trace), cmocka_unit_test(test_trace_beside_spans),
                                       cmocka_unit_test(test_series_bound)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
