// The container: every value type in every version and byte order, there and back; malformed files refused by name; memory that fails.
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
#include "gguf/gguf.h"

static uint64_t seed = 1;
static uint32_t rnd(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

static void ok(status st, const error *e) {
    if (st) fail_msg("%s: %s", status_name(st), e->text);
}

// A small file with a value of every type and tensors of several. Returns its bytes.
static uint8_t *sample(uint32_t version, bool big, size_t *bytes, error *e) {
    static float f32[64];
    static uint16_t f16[64];
    static block_q4_K q4[2];
    gguf_writer *w = NULL;
    void *out = NULL;
    if (gguf_writer_create(&w, e)) return NULL;
    uint8_t u8 = 200, t = 1;
    int8_t i8 = -5;
    uint16_t u16 = 60000;
    int16_t i16 = -30000;
    uint32_t u32 = 4000000000u;
    int32_t i32 = -2000000000;
    uint64_t u64 = UINT64_MAX - 1;
    int64_t i64 = INT64_MIN + 1;
    float f = 1.5f;
    double d = -2.25;
    gguf_str strings[3] = {{"one", 3}, {"", 0}, {"a\0b\xff", 4}};
    int16_t ints[3] = {-1, 0, 300};
    float floats[2] = {0.5f, -8};
    uint8_t bools[3] = {1, 0, 1};
    gguf_items inner[2] = {{GGUF_I16, 3, ints}, {GGUF_STRING, 3, strings}}, nested = {GGUF_ARRAY, 2, inner}, deep_in = {GGUF_ARRAY, 1, &nested};
    for (int i = 0; i < 64; i++) f32[i] = (float)i * 0.25f - 3, f16[i] = quant_f32_to_f16((float)i);
    memset(q4, 0x5a, sizeof q4);
    for (int i = 0; i < 2; i++) q4[i].d = quant_f32_to_f16(0.125f), q4[i].dmin = quant_f32_to_f16(0.5f);
    status st = gguf_writer_format(w, version, big, e);
#define SET(key, type, value) if (!st) st = gguf_writer_set(w, key, type, value, e)
    SET("t.u8", GGUF_U8, &u8); SET("t.i8", GGUF_I8, &i8); SET("t.u16", GGUF_U16, &u16); SET("t.i16", GGUF_I16, &i16);
    SET("t.u32", GGUF_U32, &u32); SET("t.i32", GGUF_I32, &i32); SET("t.u64", GGUF_U64, &u64); SET("t.i64", GGUF_I64, &i64);
    SET("t.f32", GGUF_F32, &f); SET("t.f64", GGUF_F64, &d); SET("t.bool", GGUF_BOOL, &t); SET("t.string", GGUF_STRING, &strings[2]);
    SET("t.strings", GGUF_ARRAY, (&(gguf_items){GGUF_STRING, 3, strings}));
    SET("t.ints", GGUF_ARRAY, (&(gguf_items){GGUF_I16, 3, ints}));
    SET("t.floats", GGUF_ARRAY, (&(gguf_items){GGUF_F32, 2, floats}));
    SET("t.bools", GGUF_ARRAY, (&(gguf_items){GGUF_BOOL, 3, bools}));
    SET("t.empty", GGUF_ARRAY, (&(gguf_items){GGUF_U32, 0, NULL}));
    SET("t.deep", GGUF_ARRAY, &deep_in);
    if (!st) st = gguf_writer_set_u32(w, "general.alignment", 64, e);
    if (!st) st = gguf_writer_set_text(w, "general.architecture", "llama", e);
    if (!st) st = gguf_writer_tensor(w, "a.weight", QUANT_F32, 2, (uint64_t[]){32, 2}, f32, e);
    if (!st) st = gguf_writer_tensor(w, "b.weight", QUANT_F16, 1, (uint64_t[]){64}, f16, e);
    if (!st) st = gguf_writer_tensor(w, "c.weight", QUANT_Q4_K, 2, (uint64_t[]){256, 2}, q4, e);
    if (!st) st = gguf_writer_tensor(w, "scalar", QUANT_F32, 0, NULL, f32, e);
    if (!st) st = gguf_writer_memory(w, &out, bytes, e);
    gguf_writer_free(w);
    return st ? NULL : out;
}

static void check_values(const gguf *g) {
    error e;
    uint64_t u = 0;
    int64_t i = 0;
    double d = 0;
    bool b = false;
    gguf_str s;
    const gguf_value *v;
    ok(gguf_get_u64(g, "t.u8", &u, &e), &e); assert_int_equal(u, 200);
    ok(gguf_get_i64(g, "t.i8", &i, &e), &e); assert_int_equal(i, -5);
    ok(gguf_get_u64(g, "t.u16", &u, &e), &e); assert_int_equal(u, 60000);
    ok(gguf_get_i64(g, "t.i16", &i, &e), &e); assert_int_equal(i, -30000);
    ok(gguf_get_u64(g, "t.u32", &u, &e), &e); assert_int_equal(u, 4000000000u);
    ok(gguf_get_i64(g, "t.i32", &i, &e), &e); assert_int_equal(i, -2000000000);
    ok(gguf_get_u64(g, "t.u64", &u, &e), &e); assert_true(u == UINT64_MAX - 1);
    ok(gguf_get_i64(g, "t.i64", &i, &e), &e); assert_true(i == INT64_MIN + 1);
    ok(gguf_get_f64(g, "t.f32", &d, &e), &e); assert_true(d == 1.5);
    ok(gguf_get_f64(g, "t.f64", &d, &e), &e); assert_true(d == -2.25);
    ok(gguf_get_f64(g, "t.i8", &d, &e), &e); assert_true(d == -5);
    ok(gguf_get_bool(g, "t.bool", &b, &e), &e); assert_true(b);
    ok(gguf_get_string(g, "t.string", &s, &e), &e); assert_true(s.len == 4 && !memcmp(s.ptr, "a\0b\xff", 4));
    ok(gguf_get_array(g, "t.strings", GGUF_STRING, &v, &e), &e);
    assert_int_equal(gguf_value_count(v), 3);
    assert_true(gguf_value_string(v, 0, &s) && gguf_str_eq(s, "one"));
    assert_true(gguf_value_string(v, 1, &s) && s.len == 0);
    assert_false(gguf_value_string(v, 3, &s));
    ok(gguf_get_array(g, "t.ints", GGUF_I16, &v, &e), &e);
    assert_true(gguf_value_i64(v, 0, &i) && i == -1 && !gguf_value_u64(v, 0, &u) && gguf_value_u64(v, 2, &u) && u == 300 && !gguf_value_i64(v, 3, &i));
    ok(gguf_get_array(g, "t.floats", GGUF_F32, &v, &e), &e);
    assert_true(gguf_value_f64(v, 1, &d) && d == -8);
    ok(gguf_get_array(g, "t.bools", GGUF_BOOL, &v, &e), &e);
    assert_true(gguf_value_bool(v, 1, &b) && !b && gguf_value_bool(v, 2, &b) && b);
    ok(gguf_get_array(g, "t.empty", GGUF_U32, &v, &e), &e);
    assert_int_equal(gguf_value_count(v), 0);
    ok(gguf_get_array(g, "t.deep", GGUF_ARRAY, &v, &e), &e);
    v = gguf_value_nested(gguf_value_nested(v, 0), 1);
    assert_non_null(v);
    assert_true(gguf_value_string(v, 2, &s) && s.len == 4);
    assert_null(gguf_value_nested(v, 0));
    assert_null(gguf_find(g, "t.u"));
}

static void check_refusals(const gguf *g) {
    error e;
    uint64_t u = 7;
    int64_t i = 7;
    uint32_t w = 7;
    bool b;
    const gguf_value *v;
    assert_int_equal(gguf_get_u64(g, "none", &u, &e), E_NOTFOUND);
    assert_int_equal(gguf_get_u64(g, "t.i8", &u, &e), E_INVALID);
    assert_non_null(strstr(e.text, "-5"));
    assert_int_equal(gguf_get_i64(g, "t.u64", &i, &e), E_INVALID);
    assert_int_equal(gguf_get_u32(g, "t.u64", &w, &e), E_INVALID);
    assert_int_equal(gguf_get_u32(g, "t.f32", &w, &e), E_INVALID);
    assert_int_equal(gguf_get_u32(g, "t.ints", &w, &e), E_INVALID);
    assert_int_equal(gguf_get_u32(g, "t.string", &w, &e), E_INVALID);
    assert_int_equal(gguf_get_bool(g, "t.u8", &b, &e), E_INVALID);
    assert_int_equal(gguf_get_array(g, "t.u8", GGUF_U8, &v, &e), E_INVALID);
    assert_int_equal(gguf_get_array(g, "t.ints", GGUF_I32, &v, &e), E_INVALID);
    assert_true(u == 7 && i == 7 && w == 7);
    ok(gguf_get_u32_or(g, "none", 3, &w, &e), &e);
    assert_int_equal(w, 3);
    assert_int_equal(gguf_get_u32_or(g, "t.f32", 3, &w, &e), E_INVALID);
}

static void check_tensors(const gguf *g) {
    error e;
    float f[512];
    uint16_t h[64];
    assert_int_equal(gguf_tensor_count(g), 4);
    const gguf_tensor *t = gguf_tensor_find(g, "a.weight");
    assert_non_null(t);
    assert_true(t->type == QUANT_F32 && t->n_dims == 2 && t->dims[0] == 32 && t->dims[1] == 2 && t->dims[2] == 1 && t->bytes == 256 && t->offset % 64 == 0);
    ok(gguf_read(g, t, 0, 256, f, &e), &e);
    for (int i = 0; i < 64; i++) assert_true(f[i] == (float)i * 0.25f - 3);
    ok(gguf_read(g, t, 252, 4, f, &e), &e);
    assert_true(f[0] == 12.75f);
    assert_int_equal(gguf_read(g, t, 253, 4, f, &e), E_USAGE);
    assert_int_equal(gguf_read(g, t, UINT64_MAX, 2, f, &e), E_USAGE);
    t = gguf_tensor_find(g, "b.weight");
    ok(gguf_read(g, t, 0, 128, h, &e), &e);
    assert_int_equal(h[3], quant_f32_to_f16(3));
    t = gguf_tensor_find(g, "c.weight");
    ok(gguf_read_f32(g, t, 0, 512, f, &e), &e);
    float decoded = 0.125f * 0x1a * 10 - 0.5f * 0x1a; // scales[0] = 0x5a: 26; low nibble 10
    assert_true(f[0] == decoded && f[256] == decoded);
    assert_int_equal(gguf_read_f32(g, t, 0, 100, f, &e), E_USAGE);
    t = gguf_tensor_find(g, "scalar");
    assert_true(t->n_dims == 0 && t->bytes == 4);
    assert_null(gguf_tensor_find(g, "d"));
}

static void round_trip(void **state) {
    (void)state;
    for (uint32_t version = 1; version <= 3; version++)
        for (int big = 0; big < 2; big++) {
            error e;
            size_t n;
            uint8_t *data = sample(version, big, &n, &e);
            if (!data) fail_msg("%s", e.text);
            gguf *g;
            ok(gguf_open_memory(data, n, "sample", &g, &e), &e);
            assert_int_equal(gguf_version(g), version);
            assert_int_equal(gguf_big_endian(g), big);
            assert_int_equal(gguf_alignment(g), 64);
            assert_int_equal(gguf_kv_count(g), 20);
            assert_string_equal(gguf_kv_key(g, 0), "t.u8");
            check_values(g);
            check_refusals(g);
            check_tensors(g);
            // Copying every value gives the same metadata, also into the other byte order.
            gguf_writer *w;
            void *copy;
            size_t m;
            ok(gguf_writer_create(&w, &e), &e);
            ok(gguf_writer_format(w, 3, !big, &e), &e);
            for (size_t i = 0; i < gguf_kv_count(g); i++) ok(gguf_writer_copy(w, gguf_kv_key(g, i), gguf_kv_value(g, i), &e), &e);
            ok(gguf_writer_memory(w, &copy, &m, &e), &e);
            gguf *c;
            ok(gguf_open_memory(copy, m, "copy", &c, &e), &e);
            check_values(c);
            assert_int_equal(gguf_alignment(c), 64);
            gguf_close(c);
            gguf_writer_free(w);
            mem_free(copy);
            gguf_close(g);
            mem_free(data);
        }
}

static void temp_path(char out[256], const char *name) { snprintf(out, 256, "%s/gguf-test-%ld-%s", BINARY_DIR, (long)getpid(), name); }

static void from_file(void **state) {
    (void)state;
    char path[256];
    temp_path(path, "file.gguf");
    error e;
    size_t n;
    gguf *g;
    uint8_t *data = sample(3, false, &n, &e);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(data, 1, n, f);
    fclose(f);
    ok(gguf_open(path, &g, &e), &e);
    assert_true(gguf_fd(g, 0) >= 0);
    assert_null(gguf_memory(g));
    check_values(g);
    check_tensors(g);
    // The file becomes shorter under us: an error, no crash.
    assert_int_equal(truncate(path, (long)n - 100), 0);
    float v[4];
    assert_int_equal(gguf_read(g, gguf_tensor_find(g, "scalar"), 0, 4, v, &e), E_INCOMPLETE);
    gguf_close(g);
    assert_int_equal(gguf_open(path, &g, &e), E_INCOMPLETE);
    assert_null(g);
    unlink(path);
    assert_int_equal(gguf_open(path, &g, &e), E_NOTFOUND);
    assert_int_equal(gguf_open("/", &g, &e), E_INVALID);
    mem_free(data);
}

static void writer_is_atomic(void **state) {
    (void)state;
    char path[256];
    temp_path(path, "out.gguf");
    error e;
    gguf_writer *w;
    float x[4] = {1, 2, 3, 4}, y[4];
    ok(gguf_writer_create(&w, &e), &e);
    ok(gguf_writer_tensor(w, "x", QUANT_F32, 1, (uint64_t[]){4}, NULL, &e), &e);
    assert_int_equal(gguf_writer_tensor(w, "x", QUANT_F32, 1, (uint64_t[]){4}, NULL, &e), E_USAGE);
    assert_int_equal(gguf_writer_tensor(w, "y", QUANT_Q4_0, 1, (uint64_t[]){33}, NULL, &e), E_USAGE);
    ok(gguf_writer_begin(w, path, &e), &e);
    ok(gguf_writer_data(w, x, 7, &e), &e);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(gguf_writer_finish(w, &e), E_USAGE);
    ok(gguf_writer_data(w, (char *)x + 7, 9, &e), &e);
    assert_int_equal(gguf_writer_data(w, x, 1, &e), E_USAGE);
    ok(gguf_writer_finish(w, &e), &e);
    gguf_writer_free(w);
    gguf *g;
    ok(gguf_open(path, &g, &e), &e);
    ok(gguf_read_f32(g, gguf_tensor_find(g, "x"), 0, 4, y, &e), &e);
    assert_memory_equal(x, y, sizeof x);
    gguf_close(g);
    unlink(path);
    // Given up half-way: nothing is left behind.
    ok(gguf_writer_create(&w, &e), &e);
    ok(gguf_writer_tensor(w, "x", QUANT_F32, 1, (uint64_t[]){4}, NULL, &e), &e);
    ok(gguf_writer_begin(w, path, &e), &e);
    gguf_writer_free(w);
    char find[512];
    snprintf(find, sizeof find, "ls %s* 2>/dev/null | grep -q .", path);
    assert_int_not_equal(system(find), 0);
}

static void write_split(const char *stem, unsigned no, unsigned count, unsigned said, const char *tensor) {
    char path[400];
    error e;
    gguf_writer *w;
    uint16_t v = (uint16_t)no, c = (uint16_t)said;
    int32_t total = 3;
    float x[8] = {(float)no};
    snprintf(path, sizeof path, "%s-%05u-of-%05u.gguf", stem, no + 1, count);
    ok(gguf_writer_create(&w, &e), &e);
    ok(gguf_writer_set(w, "split.no", GGUF_U16, &v, &e), &e);
    ok(gguf_writer_set(w, "split.count", GGUF_U16, &c, &e), &e);
    ok(gguf_writer_set(w, "split.tensors.count", GGUF_I32, &total, &e), &e);
    if (!no) ok(gguf_writer_set_text(w, "general.name", "split", &e), &e);
    ok(gguf_writer_tensor(w, tensor, QUANT_F32, 1, (uint64_t[]){8}, x, &e), &e);
    ok(gguf_writer_path(w, path, &e), &e);
    gguf_writer_free(w);
}

static void split_files(void **state) {
    (void)state;
    char stem[256], path[400];
    temp_path(stem, "set");
    error e;
    gguf *g;
    const char *names[3] = {"a", "b", "c"};
    for (unsigned i = 0; i < 3; i++) write_split(stem, i, 3, 3, names[i]);
    for (unsigned i = 0; i < 3; i++) { // any of them opens all
        snprintf(path, sizeof path, "%s-%05u-of-00003.gguf", stem, i + 1);
        ok(gguf_open(path, &g, &e), &e);
        assert_int_equal(gguf_files(g), 3);
        assert_int_equal(gguf_tensor_count(g), 3);
        gguf_str s;
        ok(gguf_get_string(g, "general.name", &s, &e), &e);
        for (unsigned k = 0; k < 3; k++) {
            float x[8];
            const gguf_tensor *t = gguf_tensor_find(g, names[k]);
            assert_int_equal(t->file, k);
            ok(gguf_read_f32(g, t, 0, 8, x, &e), &e);
            assert_true(x[0] == (float)k);
        }
        gguf_close(g);
    }
    snprintf(path, sizeof path, "%s-00001-of-00003.gguf", stem);
    write_split(stem, 2, 3, 3, "a"); // a name that another file has
    assert_int_equal(gguf_open(path, &g, &e), E_INVALID);
    write_split(stem, 2, 3, 4, "c"); // says another count
    assert_int_equal(gguf_open(path, &g, &e), E_INVALID);
    char last[400];
    snprintf(last, sizeof last, "%s-00003-of-00003.gguf", stem);
    unlink(last);
    assert_int_equal(gguf_open(path, &g, &e), E_INCOMPLETE);
    assert_non_null(strstr(e.text, "-00003-of-00003.gguf"));
    unlink(path);
    snprintf(path, sizeof path, "%s-00002-of-00003.gguf", stem);
    assert_int_equal(gguf_open(path, &g, &e), E_INCOMPLETE);
    unlink(path);
}

// Reads everything that a file offers.
static void walk_value(const gguf_value *v) {
    for (uint64_t i = 0; i < gguf_value_count(v); i++) {
        uint64_t u;
        int64_t s;
        double d;
        bool b;
        gguf_str t;
        gguf_value_u64(v, i, &u);
        gguf_value_i64(v, i, &s);
        gguf_value_f64(v, i, &d);
        gguf_value_bool(v, i, &b);
        if (gguf_value_string(v, i, &t) && t.len) { volatile char c = t.ptr[t.len - 1]; (void)c; }
        const gguf_value *n = gguf_value_nested(v, i);
        if (n) walk_value(n);
    }
}

static status try_open(const uint8_t *data, size_t n, error *e) {
    // An exact copy on the heap, so that the address sanitizer sees a read past its end.
    uint8_t *copy = malloc(n ? n : 1);
    memcpy(copy, data, n);
    gguf *g;
    status st = gguf_open_memory(copy, n, "mutant", &g, e);
    if (!st) {
        for (size_t i = 0; i < gguf_kv_count(g); i++) walk_value(gguf_kv_value(g, i));
        for (size_t i = 0; i < gguf_tensor_count(g); i++) {
            const gguf_tensor *t = gguf_tensor_at(g, i);
            void *buf = malloc((size_t)t->bytes + 1);
            error e2;
            if (gguf_read(g, t, 0, (size_t)t->bytes, buf, &e2) == OK) assert_ptr_equal(gguf_tensor_find(g, t->name), t);
            free(buf);
        }
        gguf_close(g);
    } else {
        assert_null(g);
        assert_int_equal(e->code, st);
        assert_non_null(strstr(e->text, "mutant"));
    }
    free(copy);
    return st;
}

static void truncations(void **state) {
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        error e;
        size_t n;
        uint8_t *data = sample(version, version == 2, &n, &e);
        for (size_t k = 0; k + 60 < n; k++) { // the last 60 bytes are padding
            status st = try_open(data, k, &e);
            if (st != E_INCOMPLETE) fail_msg("version %u cut at byte %zu: %s %s", version, k, status_name(st), st ? e.text : "");
        }
        mem_free(data);
    }
}

static void mutations(void **state) {
    (void)state;
    error e;
    long refused = 0, read = 0;
    for (int round = 0; round < 12000; round++) {
        size_t n;
        static uint8_t *base[3];
        static size_t size[3];
        if (!base[round % 3]) base[round % 3] = sample((uint32_t)round % 3 + 1, round % 2, &size[round % 3], &e);
        n = size[round % 3];
        uint8_t *m = malloc(n);
        memcpy(m, base[round % 3], n);
        size_t head = 1200 < n ? 1200 : n;
        int edits = 1 + (int)(rnd() % 4);
        for (int k = 0; k < edits; k++) {
            size_t at = rnd() % 8 ? rnd() % head : rnd() % n;
            static const uint64_t huge[8] = {0, 1, UINT32_MAX, UINT64_MAX, INT64_MAX, (uint64_t)1 << 40, (uint64_t)1 << 62, 0x8000000000000000u};
            switch (rnd() % 5) {
            case 0: m[at] ^= (uint8_t)(1 << rnd() % 8); break;
            case 1: m[at] = (uint8_t)rnd(); break;
            case 2: if (at + 8 <= n) memcpy(m + at, &huge[rnd() % 8], 8); break;
            case 3: if (at + 4 <= n) memcpy(m + at, &huge[rnd() % 8], 4); break;
            case 4: { // a piece of the file copied over another: duplicates, overlaps
                size_t from = rnd() % head, len = rnd() % 64;
                if (from + len <= n && at + len <= n) memmove(m + at, m + from, len);
                break;
            }
            }
        }
        if (rnd() % 10 == 0) n = rnd() % n;
        if (try_open(m, n, &e)) refused++;
        else read++;
        free(m);
        if (round == 11999)
            for (int k = 0; k < 3; k++) mem_free(base[k]);
    }
    assert_true(refused > 3000 && read > 300);
}

// One edit each, by hand: the status and what the text must name.
static uint8_t *find_bytes(uint8_t *data, size_t n, const void *what, size_t len) { return memmem(data, n, what, len); }

static void named_refusals(void **state) {
    (void)state;
    static const struct { const char *find; int skip; const char *put; int len; status st; const char *text; } cases[] = {
        {"GGUF", 0, "GGML", 4, E_INVALID, "not a GGUF file"},
        {"GGUF", 4, "\4\0\0\0", 4, E_UNSUPPORTED, "version 4"},
        {"GGUF", 8, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, E_INVALID, "number of tensors"},
        {"GGUF", 16, "\xff\xff\xff\0\0\0\0\0", 8, E_INCOMPLETE, "metadata entries"},
        {"t.u16", 0, "t.u8\xc3", 5, E_INVALID, "UTF-8"},
        {"t.u16", 0, "t.i16", 5, E_INVALID, "appears twice"},
        {"t.u8", 4, "\15\0\0\0", 4, E_INVALID, "type 13"},
        {"t.strings", 17, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, E_INVALID, "length"},
        {"t.strings", 17, "\0\0\0\0\1\0\0\0", 8, E_INCOMPLETE, "strings"},
        {"a.weight", 0, "b.weight", 8, E_INVALID, "appears twice"},
        {"a.weight", 8, "\5\0\0\0", 4, E_INVALID, "5 dimensions"},
        {"a.weight", 12, "\xff\xff\xff\xff\xff\xff\xff\x7f", 8, E_INVALID, "multiply"},
        {"a.weight", 28, "\4\0\0\0", 4, E_UNSUPPORTED, "type 4"},
        {"a.weight", 28, "\14\0\0\0", 4, E_INVALID, "block"},
        {"b.weight", 24, "\0\0\0\0\0\0\0\0", 8, E_INVALID, "overlaps"},
        {"b.weight", 24, "\1\1\0\0\0\0\0\0", 8, E_INVALID, "alignment"},
        {"b.weight", 24, "\0\0\0\0\0\0\0\1", 8, E_INVALID, "larger than"},
        {"b.weight", 24, "\0\0\0\0\1\0\0\0", 8, E_INCOMPLETE, "b.weight"},
        {"general.alignment", 21, "\3\0\0\0", 4, E_INVALID, "power of two"},
        {"general.alignment", 21, "\0\0\0\0", 4, E_INVALID, "power of two"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        error e;
        size_t n;
        uint8_t *data = sample(3, false, &n, &e), *p = find_bytes(data, n, cases[i].find, strlen(cases[i].find));
        assert_non_null(p);
        memcpy(p + cases[i].skip, cases[i].put, (size_t)cases[i].len);
        status st = try_open(data, n, &e);
        if (st != cases[i].st || !strstr(e.text, cases[i].text))
            fail_msg("case %zu (%s): %s, %s", i, cases[i].text, status_name(st), st ? e.text : "was read");
        mem_free(data);
    }
}

static void deep_nesting(void **state) {
    (void)state;
    error e;
    gguf_writer *w;
    void *data;
    size_t n;
    gguf *g;
    for (int depth = 1; depth < 12; depth++) { // built by hand: the writer has the same limit
        strbuf b = {0};
        strbuf_add(&b, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0k\11\0\0\0", 37);
        for (int i = 0; i < depth; i++) strbuf_add(&b, "\11\0\0\0\1\0\0\0\0\0\0\0", 12);
        strbuf_add(&b, "\0\0\0\0\1\0\0\0\0\0\0\0x", 13);
        status st = try_open((uint8_t *)b.data, b.len, &e);
        if (depth <= 8) ok(st, &e);
        else assert_int_equal(st, E_LIMIT);
        strbuf_free(&b);
    }
    ok(gguf_writer_create(&w, &e), &e);
    ok(gguf_writer_memory(w, &data, &n, &e), &e); // an empty file is a file
    ok(gguf_open_memory(data, n, "empty", &g, &e), &e);
    assert_int_equal(gguf_tensor_count(g) + gguf_kv_count(g), 0);
    gguf_close(g);
    mem_free(data);
    gguf_writer_free(w);
}

static void failing_memory(void **state) {
    (void)state;
    error e;
    size_t n, n2;
    uint8_t *data = sample(3, false, &n, &e);
    long failures = 0;
    for (long nth = 1;; nth++) {
        gguf *g;
        mem_fail_at(nth);
        status st = gguf_open_memory(data, n, "sample", &g, &e);
        mem_fail_at(0);
        gguf_close(g);
        if (!st) break;
        assert_int_equal(st, E_NOMEM);
        failures++;
    }
    assert_true(failures > 10);
    failures = 0;
    for (long nth = 1;; nth++) {
        mem_fail_at(nth);
        uint8_t *again = sample(3, false, &n2, &e);
        mem_fail_at(0);
        if (again) {
            assert_int_equal(n, n2);
            assert_memory_equal(data, again, n);
            mem_free(again);
            break;
        }
        assert_int_equal(e.code, E_NOMEM);
        failures++;
    }
    assert_true(failures > 10);
    mem_free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip), cmocka_unit_test(from_file), cmocka_unit_test(writer_is_atomic), cmocka_unit_test(split_files),
        cmocka_unit_test(truncations), cmocka_unit_test(mutations), cmocka_unit_test(named_refusals), cmocka_unit_test(deep_nesting),
        cmocka_unit_test(failing_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
