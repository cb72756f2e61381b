// Conversion: the mix per tensor, what stays as it is, importance, fallbacks, every file type there and back, stops and failures.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "convert/convert.h"

static uint64_t seed = 1;
static float gauss(void) {
    float s = -6;
    for (int i = 0; i < 12; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        s += (float)(seed >> 40) * 0x1p-24f;
    }
    return s;
}

static void ok(status st, const error *e) {
    if (st) fail_msg("%s: %s", status_name(st), e->text);
}

static char in_path[300], out_path[300], im_path[300];

static void set_paths(void) {
    snprintf(in_path, sizeof in_path, "%s/convert-test-%ld-in.gguf", BINARY_DIR, (long)getpid());
    snprintf(out_path, sizeof out_path, "%s/convert-test-%ld-out.gguf", BINARY_DIR, (long)getpid());
    snprintf(im_path, sizeof im_path, "%s/convert-test-%ld-im.gguf", BINARY_DIR, (long)getpid());
}

static void add(gguf_writer *w, const char *name, uint64_t cols, uint64_t rows, uint64_t mats, float *data) {
    error e;
    for (uint64_t i = 0; i < cols * rows * mats; i++) data[i] = gauss() * 0.05f;
    ok(gguf_writer_tensor(w, name, QUANT_F32, mats > 1 ? 3 : rows > 1 ? 2 : 1, (uint64_t[]){cols, rows, mats}, data, &e), &e);
}

// A model of `layers` layers in name alone: 256 columns, and rows that keep it small.
static void make_model(int layers, uint64_t cols, int experts, const char *arch) {
    static float data[400][256 * 8 * 4];
    char name[64], key[64];
    int n = 0;
    error e;
    gguf_writer *w;
    seed = 1;
    ok(gguf_writer_create(&w, &e), &e);
    ok(gguf_writer_set_text(w, "general.architecture", arch, &e), &e);
#define KEY(k, v) snprintf(key, sizeof key, "%s.%s", arch, k); ok(gguf_writer_set_u32(w, key, v, &e), &e)
    KEY("block_count", (uint32_t)layers);
    KEY("attention.head_count", 8);
    KEY("attention.head_count_kv", 4);
    if (experts) { KEY("expert_count", (uint32_t)experts); }
    ok(gguf_writer_set(w, "split.count", GGUF_U16, &(uint16_t){1}, &e), &e);
    add(w, "output.weight", cols, 4, 1, data[n++]);
    add(w, "token_embd.weight", cols, 4, 1, data[n++]);
    add(w, "output_norm.weight", cols, 1, 1, data[n++]);
    for (int l = layers - 1; l >= 0; l--) { // not in order: the mix must not depend on it
        static const char *const mats[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_gate", "ffn_down"};
        for (int i = 0; i < 7; i++) {
            bool expert = experts && i >= 4;
            snprintf(name, sizeof name, "blk.%d.%s%s.weight", l, mats[i], expert ? "_exps" : "");
            add(w, name, cols, 4, expert ? 3 : 1, data[n++]);
        }
        snprintf(name, sizeof name, "blk.%d.attn_norm.weight", l);
        add(w, name, cols, 1, 1, data[n++]);
        snprintf(name, sizeof name, "blk.%d.ffn_gate_inp.weight", l);
        add(w, name, cols, 4, 1, data[n++]);
    }
    ok(gguf_writer_path(w, in_path, &e), &e);
    gguf_writer_free(w);
}

static const char *type_in(const char *path, const char *name) {
    gguf *g;
    error e;
    ok(gguf_open(path, &g, &e), &e);
    const gguf_tensor *t = gguf_tensor_find(g, name);
    assert_non_null(t);
    const char *r = quant_type_name(t->type);
    gguf_close(g);
    return r;
}

static status convert(const char *type, const convert_importance *m, bool pure, error *e) {
    convert_options o = convert_defaults(convert_type_find(type));
    o.importance = m;
    o.pure = pure;
    o.threads = 2;
    return convert_quantize(in_path, out_path, &o, NULL, e);
}

static void mixes(void **state) {
    (void)state;
    error e;
    // Types as llama.cpp's tool chooses them for this shape (16 layers, two query heads a key head).
    static const struct { const char *file, *tensor, *type; } cases[] = {
        {"Q4_K_M", "output.weight", "Q6_K"}, {"Q4_K_M", "token_embd.weight", "Q4_K"}, {"Q4_K_M", "blk.0.attn_v.weight", "Q6_K"},
        {"Q4_K_M", "blk.2.attn_v.weight", "Q4_K"}, {"Q4_K_M", "blk.4.attn_v.weight", "Q6_K"}, {"Q4_K_M", "blk.15.ffn_down.weight", "Q6_K"},
        {"Q4_K_M", "blk.3.ffn_down.weight", "Q4_K"}, {"Q4_K_M", "blk.3.attn_norm.weight", "F32"}, {"Q4_K_M", "blk.3.ffn_gate_inp.weight", "F32"},
        {"Q4_K_S", "blk.3.attn_v.weight", "Q5_K"}, {"Q4_K_S", "blk.4.attn_v.weight", "Q4_K"}, {"Q4_K_S", "blk.1.ffn_down.weight", "Q5_K"},
        {"Q2_K", "blk.7.attn_v.weight", "Q3_K"}, {"Q2_K", "blk.7.attn_output.weight", "Q3_K"}, {"Q2_K", "blk.7.attn_q.weight", "Q2_K"},
        {"Q3_K_M", "blk.1.attn_v.weight", "Q5_K"}, {"Q3_K_M", "blk.0.ffn_down.weight", "Q5_K"}, {"Q3_K_M", "blk.1.ffn_down.weight", "Q4_K"},
        {"Q3_K_L", "blk.9.attn_output.weight", "Q5_K"}, {"IQ4_XS", "blk.1.ffn_down.weight", "Q5_K"}, {"IQ4_XS", "blk.2.ffn_down.weight", "IQ4_XS"},
        {"IQ3_M", "blk.5.attn_output.weight", "Q4_K"}, {"Q8_0", "output.weight", "Q8_0"}, {"F16", "output.weight", "F16"}, {"TQ2_0", "token_embd.weight", "Q4_K"},
    };
    const char *last = "";
    make_model(16, 256, 0, "llama");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(last, cases[i].file)) ok(convert(cases[i].file, NULL, false, &e), &e);
        last = cases[i].file;
        const char *got = type_in(out_path, cases[i].tensor);
        if (strcmp(got, cases[i].type)) fail_msg("%s: %s is %s, should be %s", cases[i].file, cases[i].tensor, got, cases[i].type);
    }
    ok(convert("Q4_K_M", NULL, true, &e), &e); // --pure
    assert_string_equal(type_in(out_path, "output.weight"), "Q4_K");
    assert_string_equal(type_in(out_path, "blk.0.attn_v.weight"), "Q4_K");
    assert_string_equal(type_in(out_path, "output_norm.weight"), "F32");
    // Eight experts: attention's keys and values at eight bits; experts as MXFP4 where the file type says so.
    make_model(4, 256, 8, "llama");
    ok(convert("Q4_K_M", NULL, false, &e), &e);
    assert_string_equal(type_in(out_path, "blk.2.attn_v.weight"), "Q8_0");
    assert_string_equal(type_in(out_path, "blk.2.attn_k.weight"), "Q8_0");
    assert_string_equal(type_in(out_path, "blk.2.attn_output.weight"), "Q5_K");
    ok(convert("MXFP4_MOE", NULL, false, &e), &e);
    assert_string_equal(type_in(out_path, "blk.2.ffn_down_exps.weight"), "MXFP4");
    assert_string_equal(type_in(out_path, "blk.2.attn_q.weight"), "Q8_0");
}

static void rows_that_do_not_fit(void **state) {
    (void)state;
    error e;
    make_model(4, 96, 0, "llama"); // 96 columns: no K block, three blocks of 32
    ok(convert("Q4_K_M", NULL, false, &e), &e);
    assert_string_equal(type_in(out_path, "blk.1.attn_q.weight"), "Q5_0");
    assert_string_equal(type_in(out_path, "output.weight"), "Q8_0");
    ok(convert("Q2_K", NULL, false, &e), &e);
    assert_string_equal(type_in(out_path, "blk.1.attn_q.weight"), "Q4_0");
    make_model(4, 24, 0, "llama");
    ok(convert("Q4_K_M", NULL, false, &e), &e);
    assert_string_equal(type_in(out_path, "blk.1.attn_q.weight"), "F16");
}

static void every_type(void **state) {
    (void)state;
    error e;
    convert_importance *m;
    ok(convert_importance_uniform(&m, &e), &e);
    make_model(2, 256, 0, "llama");
    gguf *a, *b;
    ok(gguf_open(in_path, &a, &e), &e);
    for (size_t i = 0; convert_type_at(i); i++) {
        const convert_type *t = convert_type_at(i);
        assert_ptr_equal(convert_type_find(t->name), t);
        ok(convert(t->name, m, false, &e), &e);
        ok(gguf_open(out_path, &b, &e), &e);
        uint32_t file_type = 99;
        ok(gguf_get_u32(b, "general.file_type", &file_type, &e), &e);
        assert_int_equal(file_type, t->number);
        assert_null(gguf_find(b, "split.count"));
        assert_int_equal(gguf_tensor_count(b), gguf_tensor_count(a));
        double err = 0, all = 0;
        for (size_t k = 0; k < gguf_tensor_count(b); k++) {
            float x[1024], y[1024];
            const gguf_tensor *tb = gguf_tensor_at(b, k);
            size_t n = (size_t)gguf_tensor_elems(tb);
            ok(gguf_read_f32(a, gguf_tensor_find(a, tb->name), 0, n, x, &e), &e);
            ok(gguf_read_f32(b, tb, 0, n, y, &e), &e);
            for (size_t j = 0; j < n; j++) err += (x[j] - y[j]) * (x[j] - y[j]), all += x[j] * x[j];
        }
        if (err / all > 0.37) fail_msg("%s: an error of %g", t->name, err / all);
        gguf_close(b);
    }
    // From blocks back to floats, and from one byte order to the other's reading.
    ok(convert("Q8_0", NULL, false, &e), &e);
    assert_int_equal(rename(out_path, im_path), 0);
    convert_options o = convert_defaults(convert_type_find("F32"));
    ok(convert_quantize(im_path, out_path, &o, NULL, &e), &e);
    assert_string_equal(type_in(out_path, "output.weight"), "F32");
    unlink(im_path);
    gguf_close(a);
    convert_importance_free(m);
}

static void write_importance(uint64_t cols, const char *general_type, float bad) {
    static float sums[4][768];
    error e;
    gguf_writer *w;
    float counts[3] = {4, 0, 2}, one = 8;
    ok(gguf_writer_create(&w, &e), &e);
    ok(gguf_writer_set_text(w, "general.type", general_type, &e), &e);
    for (int i = 0; i < 768; i++) sums[0][i] = i % 8 == 0 ? 400 : 0.004f, sums[1][i] = i < 16 ? 800 : 8;
    sums[1][5] = bad;
    ok(gguf_writer_tensor(w, "blk.0.ffn_down_exps.weight.in_sum2", QUANT_F32, 2, (uint64_t[]){cols, 3}, sums[0], &e), &e);
    ok(gguf_writer_tensor(w, "blk.0.ffn_down_exps.weight.counts", QUANT_F32, 2, (uint64_t[]){1, 3}, counts, &e), &e);
    ok(gguf_writer_tensor(w, "blk.0.attn_q.weight.in_sum2", QUANT_F32, 2, (uint64_t[]){cols, 1}, sums[1], &e), &e);
    ok(gguf_writer_tensor(w, "blk.0.attn_q.weight.counts", QUANT_F32, 2, (uint64_t[]){1, 1}, &one, &e), &e);
    ok(gguf_writer_path(w, im_path, &e), &e);
    gguf_writer_free(w);
}

// The error of one matrix in every split-th column, and in the rest.
static void errors_by_column(const char *name, uint64_t split, double out[2]) {
    gguf *a, *b;
    error e;
    static float x[4096], y[4096];
    ok(gguf_open(in_path, &a, &e), &e);
    ok(gguf_open(out_path, &b, &e), &e);
    const gguf_tensor *t = gguf_tensor_find(b, name);
    size_t n = (size_t)(t->dims[0] * t->dims[1]);
    ok(gguf_read_f32(a, gguf_tensor_find(a, name), 0, n, x, &e), &e);
    ok(gguf_read_f32(b, t, 0, n, y, &e), &e);
    out[0] = out[1] = 0;
    for (size_t i = 0; i < n; i++) out[i % split != 0] += (x[i] - y[i]) * (x[i] - y[i]);
    gguf_close(a);
    gguf_close(b);
}

static void importance(void **state) {
    (void)state;
    error e;
    convert_importance *m;
    double plain[2], told[2];
    make_model(1, 256, 3, "llama");
    unlink(out_path);
    // Types below three bits insist.
    assert_int_equal(convert("IQ2_XS", NULL, false, &e), E_INVALID);
    assert_non_null(strstr(e.text, "importance matrix"));
    assert_int_not_equal(access(out_path, F_OK), 0);
    ok(convert("Q2_K", NULL, true, &e), &e);
    errors_by_column("blk.0.ffn_down_exps.weight", 8, plain);
    write_importance(256, "imatrix", 8);
    ok(convert_importance_open(im_path, &m, &e), &e);
    ok(convert("Q2_K", m, true, &e), &e);
    errors_by_column("blk.0.ffn_down_exps.weight", 8, told);
    assert_true(told[0] < plain[0] * 0.7); // the columns that matter gain, the others pay
    assert_true(told[1] > plain[1]);
    convert_importance_free(m);
    // Another model's matrix, a file that is none, numbers that cannot be.
    write_importance(128, "imatrix", 8);
    ok(convert_importance_open(im_path, &m, &e), &e);
    assert_int_equal(convert("Q2_K", m, true, &e), E_INVALID);
    assert_non_null(strstr(e.text, "another model"));
    convert_importance_free(m);
    write_importance(256, "model", 8);
    assert_int_equal(convert_importance_open(im_path, &m, &e), E_INVALID);
    write_importance(256, "imatrix", NAN);
    assert_int_equal(convert_importance_open(im_path, &m, &e), E_INVALID);
    write_importance(256, "imatrix", -1);
    assert_int_equal(convert_importance_open(im_path, &m, &e), E_INVALID);
    assert_null(m);
    unlink(im_path);
}

static int calls;
static bool stop(void *ctx, const convert_progress *p) {
    assert_true(p->index < p->count && p->done_bytes <= p->total_bytes && p->tensor);
    return ++calls < *(int *)ctx;
}

static void stops_and_failures(void **state) {
    (void)state;
    error e;
    int limit = 3;
    unlink(out_path);
    make_model(2, 256, 0, "llama");
    convert_options o = convert_defaults(convert_type_find("Q4_0"));
    o.progress = stop;
    o.progress_ctx = &limit;
    o.threads = 1;
    assert_int_equal(convert_quantize(in_path, out_path, &o, NULL, &e), E_CANCELLED);
    assert_int_not_equal(access(out_path, F_OK), 0);
    o.progress = NULL;
    int failures = 0;
    for (long nth = 1;; nth += 7) { // every seventh allocation: all of them would take a while
        mem_fail_at(nth);
        status st = convert_quantize(in_path, out_path, &o, NULL, &e);
        mem_fail_at(0);
        if (!st) break;
        assert_int_equal(st, E_NOMEM);
        assert_int_not_equal(access(out_path, F_OK), 0);
        failures++;
    }
    assert_true(failures > 5);
    // Never over itself, by whatever name; from blocks it says so.
    char other_name[sizeof in_path + 8];
    convert_result r;
    assert_int_equal(convert_quantize(in_path, in_path, &o, &r, &e), E_USAGE);
    snprintf(other_name, sizeof other_name, "%s.link", in_path);
    assert_int_equal(link(in_path, other_name), 0);
    assert_int_equal(convert_quantize(in_path, other_name, &o, &r, &e), E_USAGE);
    unlink(other_name);
    ok(convert_quantize(in_path, out_path, &o, &r, &e), &e);
    assert_true(r.out_bytes < r.in_bytes && r.tensors == 21 && r.quantized == 0);
    assert_string_equal(type_in(out_path, "blk.0.attn_q.weight"), "Q4_0");
    o.type = convert_type_find("Q8_0");
    ok(convert_quantize(out_path, other_name, &o, &r, &e), &e);
    assert_true(r.quantized > 5 && r.quantized < r.tensors);
    unlink(other_name);
    assert_int_equal(convert_quantize("/nonexistent", out_path, &o, NULL, &e), E_NOTFOUND);
    assert_null(convert_type_find("Q4_K"));
    unlink(in_path);
    unlink(out_path);
}

int main(void) {
    set_paths();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixes), cmocka_unit_test(rows_that_do_not_fit), cmocka_unit_test(every_type), cmocka_unit_test(importance),
        cmocka_unit_test(stops_and_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
