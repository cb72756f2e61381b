// sampling against a slow, obvious reference in double precision: which tokens survive, with what probability, is computed by sorting
// everything; draws are held to those probabilities by chi-square with fixed seeds.
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/utf8.h"
#include "sampling/sampling.h"

static uint64_t rng = 1234567;
static double uniform(void) { return samp_uniform(99, 0, 7, rng++); }
static double normal(void) { return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform()); }

typedef struct ref_item { int id; double x, p, key; } ref_item;

static int by_p(const void *a, const void *b) {
    const ref_item *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p ? 1 : -1) : x->id - y->id;
}
static int by_ref_key(const void *a, const void *b) {
    const ref_item *x = a, *y = b;
    return x->key != y->key ? (x->key > y->key ? 1 : -1) : x->id - y->id;
}
static void normalise(ref_item *v, int n) {
    double z = 0;
    for (int i = 0; i < n; i++) z += v[i].p;
    for (int i = 0; i < n; i++) v[i].p /= z;
}

// Fills p[n] with the probability of each token. *margin: the smallest distance of any cut's border to being decided otherwise.
static void reference(const samp_params *s, const float *logits, int n, double *p, double *margin) {
    ref_item *v = mem_calloc((size_t)n, sizeof *v);
    int m = 0;
    double top = -INFINITY;
    *margin = 1;
    for (int i = 0; i < n; i++)
        if (isfinite(logits[i]) && logits[i] > top) top = logits[i];
    for (int i = 0; i < n; i++)
        if (isfinite(logits[i])) v[m++] = (ref_item){i, logits[i], exp((logits[i] - top) / s->temperature), 0};
    normalise(v, m);
    qsort(v, (size_t)m, sizeof *v, by_p);
    if (s->top_k > 0 && s->top_k < m) m = s->top_k;
    normalise(v, m);
    if (s->typical_p < 1) {
        double h = 0, sum = 0;
        for (int i = 0; i < m; i++) h -= v[i].p > 0 ? v[i].p * log(v[i].p) : 0;
        for (int i = 0; i < m; i++) v[i].key = fabs(-log(v[i].p) - h);
        qsort(v, (size_t)m, sizeof *v, by_ref_key);
        int k = 0;
        for (; k < m; k++) {
            sum += v[k].p;
            if (fabs(sum - s->typical_p) < *margin) *margin = fabs(sum - s->typical_p);
            if (k + 1 < m && v[k + 1].key - v[k].key < 1e-5 && sum >= s->typical_p) *margin = 0; // two on the border alike
            if (sum >= s->typical_p) break;
        }
        m = k < m ? k + 1 : m;
        normalise(v, m);
        qsort(v, (size_t)m, sizeof *v, by_p);
    }
    if (s->top_p < 1) {
        double sum = 0;
        int k = 0;
        for (; k < m; k++) {
            sum += v[k].p;
            if (fabs(sum - s->top_p) < *margin) *margin = fabs(sum - s->top_p);
            if (sum >= s->top_p) break;
        }
        m = k < m ? k + 1 : m;
        normalise(v, m);
    }
    if (s->min_p > 0) {
        int k = 0;
        while (k < m && v[k].p >= s->min_p * v[0].p) {
            double gap = fabs(v[k].p / v[0].p - s->min_p);
            if (gap < *margin) *margin = gap;
            k++;
        }
        if (k < m && fabs(v[k].p / v[0].p - s->min_p) < *margin) *margin = fabs(v[k].p / v[0].p - s->min_p);
        m = k ? k : 1;
        normalise(v, m);
    }
    for (int i = 0; i < n; i++) p[i] = 0;
    for (int i = 0; i < m; i++) p[v[i].id] = v[i].p;
    mem_free(v);
}

// Draws `times` and compares with p: nothing outside the support, and chi-square over cells of at least 5 expected.
static void hold_to(const samp_params *s, const float *logits, int n, const double *p, int times) {
    sampler *sm;
    samp_scratch scratch = {0};
    int *count = mem_calloc((size_t)n, sizeof *count);
    assert_int_equal(samp_create(s, n, &sm, NULL), OK);
    for (int i = 0; i < times; i++) {
        int32_t token = -1;
        assert_int_equal(samp_draw(sm, &scratch, (samp_row){logits, NULL}, NULL, (uint64_t)i, &token, NULL), OK);
        assert_in_range(token, 0, n - 1);
        if (!(p[token] > 0)) fail_msg("token %d was drawn and should be cut", token);
        count[token]++;
    }
    double chi = 0, rest = 0, rest_count = 0;
    int cells = 0;
    for (int i = 0; i < n; i++) {
        double e = p[i] * times;
        if (e >= 5) chi += (count[i] - e) * (count[i] - e) / e, cells++;
        else rest += e, rest_count += count[i];
    }
    if (rest >= 5) chi += (rest_count - rest) * (rest_count - rest) / rest, cells++;
    double df = cells - 1, limit = df + 5 * sqrt(2 * df) + 12; // far out: fixed seeds, no flakes
    if (cells > 1 && chi > limit) fail_msg("chi-square %.1f over %d cells (limit %.1f): temp %g k %d p %g min %g typ %g", chi, cells, limit,
                                           (double)s->temperature, s->top_k, (double)s->top_p, (double)s->min_p, (double)s->typical_p);
    samp_free(sm);
    samp_scratch_free(&scratch);
    mem_free(count);
}

static void draws_follow_the_reference(void **state) {
    (void)state;
    enum { N = 3000 };
    float *logits = mem_alloc(N * sizeof *logits);
    double *p = mem_alloc(N * sizeof *p);
    int used = 0;
    for (int round = 0; round < 60; round++) {
        int n = round % 3 == 0 ? N : round % 3 == 1 ? 50 : 700;
        double spread = round % 2 ? 1 : 4;
        for (int i = 0; i < n; i++) logits[i] = (float)(normal() * spread);
        if (round % 5 == 0) logits[3] = NAN, logits[4] = -INFINITY, logits[5] = -1e30f;
        samp_params s = samp_defaults();
        s.seed = (uint64_t)round;
        s.temperature = round % 4 == 0 ? 1 : (float)(0.3 + uniform() * 1.5);
        if (round & 1) s.top_k = 1 + (int)(uniform() * 100) + 1;
        if (round & 2) s.top_p = (float)(0.1 + uniform() * 0.89);
        if (round & 4) s.typical_p = (float)(0.2 + uniform() * 0.79);
        if (round & 8) s.min_p = (float)(uniform() * 0.2);
        double margin;
        reference(&s, logits, n, p, &margin);
        if (margin < 1e-5) continue; // a border that float and double may see differently
        used++;
        hold_to(&s, logits, n, p, n > 1000 ? 3000 : 6000);
    }
    assert_true(used > 40);
    mem_free(logits);
    mem_free(p);
}

// Rows that defeat a histogram: one value for all, huge outliers, two clusters.
static void awkward_rows(void **state) {
    (void)state;
    enum { N = 20000 };
    float *logits = mem_alloc(N * sizeof *logits);
    sampler *sm;
    samp_scratch scratch = {0};
    samp_params s = samp_defaults();
    s.top_k = 5;
    int32_t token;
    for (int kind = 0; kind < 5; kind++) {
        for (int i = 0; i < N; i++) {
            if (kind == 0) logits[i] = 1;
            if (kind == 1) logits[i] = i == 7 ? 1e30f : (float)(i % 10) * 1e-3f;
            if (kind == 2) logits[i] = i % 2 ? -1e20f : (float)i * 1e-4f;
            if (kind == 3) logits[i] = i == 9 ? INFINITY : (float)i;
            if (kind == 4) logits[i] = i < 3 ? (float)i : NAN;
        }
        assert_int_equal(samp_create(&s, N, &sm, NULL), OK);
        for (uint64_t at = 0; at < 50; at++) {
            assert_int_equal(samp_draw(sm, &scratch, (samp_row){logits, NULL}, NULL, at, &token, NULL), OK);
            if (kind == 0) assert_in_range(token, 0, 4); // equal: the lowest ids
            if (kind == 1) assert_int_equal(token, 7);
            if (kind == 2) assert_true(token % 2 == 0 && token >= N - 10);
            if (kind == 3) assert_int_equal(token, 9);
            if (kind == 4) assert_in_range(token, 0, 2);
        }
        samp_free(sm);
    }
    for (int i = 0; i < N; i++) logits[i] = NAN;
    assert_int_equal(samp_create(&s, N, &sm, NULL), OK);
    assert_int_equal(samp_draw(sm, &scratch, (samp_row){logits, NULL}, NULL, 0, &token, NULL), E_INVALID);
    samp_free(sm);
    samp_scratch_free(&scratch);
    mem_free(logits);
}

// Peaks that somebody else has found change nothing: with penalties, biases and masks, numbers that are none, and a last block that is not whole.
static void peaks_given_or_found(void **state) {
    (void)state;
    enum { N = 1000, PEAKS = (N + SAMP_PEAK - 1) / SAMP_PEAK };
    float logits[N], peaks[PEAKS];
    uint32_t mask[(N + 31) / 32], random = 7;
    samp_scratch a = {0}, b = {0};
    for (int round = 0; round < 400; round++) {
        for (int i = 0; i < N; i++) {
            random = random * 1664525u + 1013904223u;
            logits[i] = (float)(random >> 16) * 2e-4f;
            if (random >> 24 == 1) logits[i] = round % 3 == 0 ? NAN : round % 3 == 1 ? -INFINITY : (float)round;
            if (round % 50 == 49 && random >> 24 == 2) logits[i] = INFINITY;
        }
        for (int i = 0; i < N; i++) {
            float x = isnan(logits[i]) ? -INFINITY : fminf(logits[i], FLT_MAX);
            peaks[i / SAMP_PEAK] = i % SAMP_PEAK && peaks[i / SAMP_PEAK] > x ? peaks[i / SAMP_PEAK] : x;
        }
        for (size_t i = 0; i < sizeof mask / sizeof *mask; i++) mask[i] = (random = random * 1664525u + 1013904223u);
        samp_bias bias[3] = {{round, 20}, {N - 1 - round, -100}, {(int32_t)(random % N), 14}};
        samp_params s = samp_defaults();
        s.temperature = round % 2 ? 0.8f : 0;
        s.top_k = round % 8 < 4 ? 7 : 0;
        s.top_p = round % 16 < 8 ? 0.9f : 1;
        if (round % 4 >= 2) s.repetition = 1.3f, s.presence = 0.7f;
        if (round % 4 == 3 || round % 8 == 2) s.bias = bias, s.n_bias = 3;
        int32_t best = 0;
        for (int32_t i = 1; i < N; i++)
            if (!(logits[i] <= logits[best])) best = i;
        sampler *sm;
        assert_int_equal(samp_create(&s, N, &sm, NULL), OK);
        for (int i = 0; i < 3; i++) samp_accept(sm, i == 1 ? best : (round * 31 + i * 57) % N, i % 2, NULL);
        int32_t x, y;
        const uint32_t *m = round % 5 == 0 ? mask : NULL;
        status st = samp_draw(sm, &a, (samp_row){logits, NULL}, m, (uint64_t)round, &x, NULL);
        assert_int_equal(samp_draw(sm, &b, (samp_row){logits, peaks}, m, (uint64_t)round, &y, NULL), st);
        if (st == OK) assert_int_equal(x, y);
        samp_logprob p[6], q[6];
        assert_int_equal(samp_logprobs(&a, (samp_row){logits, NULL}, N, x, 5, p, NULL), OK);
        assert_int_equal(samp_logprobs(&b, (samp_row){logits, peaks}, N, x, 5, q, NULL), OK);
        for (int i = 0; i < 6; i++) assert_true(p[i].token == q[i].token && (p[i].logprob == q[i].logprob || isnan(p[i].logprob)));
        samp_free(sm);
    }
    samp_scratch_free(&a);
    samp_scratch_free(&b);
}

static void greedy_takes_the_lowest_id(void **state) {
    (void)state;
    float logits[] = {1, 3, NAN, 3, -INFINITY, 2};
    samp_params s = samp_defaults();
    s.temperature = 0;
    sampler *sm;
    samp_scratch scratch = {0};
    int32_t token;
    assert_int_equal(samp_create(&s, 6, &sm, NULL), OK);
    assert_int_equal(samp_draw(sm, &scratch, (samp_row){logits, NULL}, NULL, 0, &token, NULL), OK);
    assert_int_equal(token, 1);
    uint32_t mask = 1u << 3 | 1u << 5;
    assert_int_equal(samp_draw(sm, &scratch, (samp_row){logits, NULL}, &mask, 0, &token, NULL), OK);
    assert_int_equal(token, 3);
    mask = 1u << 2;
    assert_int_equal(samp_draw(sm, &scratch, (samp_row){logits, NULL}, &mask, 0, &token, NULL), E_INVALID);
    samp_free(sm);
    samp_scratch_free(&scratch);
}

// Known answers of Philox4x32-10 (Salmon et al. 2011, the published vectors) through the 53-bit number.
static void philox_vectors(void **state) {
    (void)state;
    uint64_t zero = (uint64_t)0x6627e8d5u << 32 | 0xe169c58du, ones = (uint64_t)0x408f276du << 32 | 0x41c83b0eu;
    assert_true(samp_uniform(0, 0, 0, 0) == (double)(zero >> 11) * 0x1p-53);
    assert_true(samp_uniform(UINT64_MAX, UINT32_MAX, UINT32_MAX, UINT64_MAX) == (double)(ones >> 11) * 0x1p-53);
    assert_true(samp_uniform(1, 0, 0, 0) != samp_uniform(1, 1, 0, 0));
}

static void penalties_and_bias(void **state) {
    (void)state;
    samp_params s = samp_defaults();
    s.temperature = 0;
    s.repetition = 2;
    s.last_n = 2;
    s.presence = 0.5f;
    s.frequency = 1;
    samp_bias bias[] = {{7, 3}, {8, -100}};
    s.bias = bias;
    s.n_bias = 2;
    float logits[10] = {4, 3, -1, 0, 0, 0, 0, 0, 50, 0};
    sampler *sm;
    samp_scratch scratch = {0};
    int32_t token;
    assert_int_equal(samp_create(&s, 10, &sm, NULL), OK);
    samp_draw(sm, &scratch, (samp_row){logits, NULL}, NULL, 0, &token, NULL);
    assert_int_equal(token, 0); // 8 is banned
    samp_accept(sm, 0, false, NULL); // 4 / 2: token 1 and the biased 7 have 3
    samp_draw(sm, &scratch, (samp_row){logits, NULL}, NULL, 0, &token, NULL);
    assert_int_equal(token, 1);
    samp_accept(sm, 1, true, NULL); // 3 / 2 - 1 - 0.5
    samp_draw(sm, &scratch, (samp_row){logits, NULL}, NULL, 0, &token, NULL);
    assert_int_equal(token, 7);
    samp_accept(sm, 7, true, NULL); // 0 is out of the window of two: 4 again
    samp_draw(sm, &scratch, (samp_row){logits, NULL}, NULL, 0, &token, NULL);
    assert_int_equal(token, 0);
    samp_accept(sm, 9, true, NULL); // 1 left the window, but its presence and frequency stay: 3 - 1.5
    float two[10] = {-9, 3, -9, -9, -9, -9, 1.6f, -9, 50, -9};
    samp_draw(sm, &scratch, (samp_row){two, NULL}, NULL, 0, &token, NULL);
    assert_int_equal(token, 6);
    samp_free(sm);
    samp_scratch_free(&scratch);
}

static void logprobs_of_the_raw_row(void **state) {
    (void)state;
    enum { N = 5000 };
    float *logits = mem_alloc(N * sizeof *logits);
    samp_scratch scratch = {0};
    samp_logprob out[21];
    double z = 0;
    for (int i = 0; i < N; i++) logits[i] = (float)(normal() * 3), z += exp(logits[i]);
    assert_int_equal(samp_logprobs(&scratch, (samp_row){logits, NULL}, N, 17, 20, out, NULL), OK);
    assert_true(fabs(out[0].logprob - (logits[17] - log(z))) < 1e-4);
    for (int i = 1; i <= 20; i++) {
        int better = 0;
        for (int k = 0; k < N; k++) better += logits[k] > logits[out[i].token];
        assert_int_equal(better, i - 1);
        assert_true(fabs(out[i].logprob - (logits[out[i].token] - log(z))) < 1e-4);
    }
    float few[3] = {1, NAN, -INFINITY};
    assert_int_equal(samp_logprobs(&scratch, (samp_row){few, NULL}, 3, 0, 3, out, NULL), OK);
    assert_true(fabsf(out[0].logprob) < 1e-6f && out[1].token == 0 && out[2].token == -1);
    samp_scratch_free(&scratch);
    mem_free(logits);
}

static void wrong_parameters(void **state) {
    (void)state;
    error err;
    samp_params s = samp_defaults();
    assert_int_equal(samp_check(&s, 10, &err), OK);
    s.top_p = 1.5f;
    assert_int_equal(samp_check(&s, 10, &err), E_INVALID);
    assert_non_null(strstr(err.text, "top_p"));
    s = samp_defaults();
    s.temperature = NAN;
    assert_int_equal(samp_check(&s, 10, &err), E_INVALID);
    samp_bias b = {10, 1};
    s = samp_defaults();
    s.bias = &b;
    s.n_bias = 1;
    assert_int_equal(samp_check(&s, 10, &err), E_INVALID);
}

// The text cut into pieces at random, against strstr over the whole.
static void stops_across_borders(void **state) {
    (void)state;
    static const char *const words[] = {"a", "b", "ab", "é", "日本", "</s>", "<", "/", "s>", "\n\n", " "};
    for (int round = 0; round < 20000; round++) {
        strbuf text = {0}, out = {0};
        int n = 1 + (int)(uniform() * 12);
        for (int i = 0; i < n; i++) strbuf_adds(&text, words[(int)(uniform() * 11)]);
        const char *stops[3] = {"</s>", "\n\n", "ab本"};
        if (round % 3 == 0) stops[2] = "aab";
        if (round % 7 == 0) stops[1] = "b</";
        samp_stop s;
        assert_int_equal(samp_stop_init(&s, stops, 3, NULL), OK);
        size_t first = SIZE_MAX; // the one that is complete first, and of those that begin before it the earliest
        for (size_t end = 1; end <= text.len && first == SIZE_MAX; end++)
            for (int k = 0; k < 3; k++) {
                size_t len = strlen(stops[k]);
                if (len <= end && !memcmp(text.data + end - len, stops[k], len) && end - len < first) first = end - len;
            }
        for (size_t at = 0; at < text.len && !s.matched;) { // whole characters, as the decoder gives them
            size_t step = 1 + (size_t)(uniform() * 4);
            step = at + step > text.len ? text.len - at : step;
            while (at + step < text.len && ((unsigned char)text.data[at + step] & 0xc0) == 0x80) step++;
            assert_int_equal(samp_stop_feed(&s, text.data + at, step, &out, NULL), OK);
            at += step;
            assert_true(!out.len || utf8_valid(out.data, out.len));
            assert_true(out.len + 4 >= at || s.matched); // no more is held than could become a stop string
        }
        if (first != SIZE_MAX) assert_true(s.matched);
        samp_stop_end(&s, &out, NULL);
        size_t want = first == SIZE_MAX ? text.len : first;
        if (!s.matched) assert_int_equal(out.len, want);
        else assert_true(out.len <= text.len && out.len >= (want > 4 ? want - 4 : 0));
        if (out.len) assert_memory_equal(out.data, text.data, out.len);
        for (int k = 0; k < 3 && out.len; k++) assert_null(strstr(out.data, stops[k]));
        samp_stop_free(&s);
        strbuf_free(&text);
        strbuf_free(&out);
    }
    samp_stop s;
    const char *empty[] = {""};
    assert_int_equal(samp_stop_init(&s, empty, 1, NULL), E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_vectors), cmocka_unit_test(peaks_given_or_found), cmocka_unit_test(greedy_takes_the_lowest_id), cmocka_unit_test(penalties_and_bias),
        cmocka_unit_test(logprobs_of_the_raw_row), cmocka_unit_test(wrong_parameters), cmocka_unit_test(awkward_rows),
        cmocka_unit_test(stops_across_borders), cmocka_unit_test(draws_follow_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
