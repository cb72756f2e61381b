// Encoders: BERT's pass recomputed in double from the file, every way of pooling, heads for scores and dense modules, and what a bad file is told.
#include "model/small_model.h"

#include "model/fake_device.h"
#include "model/model.h"

enum { E = 24, LAYERS = 2, HEADS = 4, HEAD = E / HEADS, FF = 40, VOCAB = 33, CLASSES = 3, LONGEST = 40 };

static const small_spec BERT = {.arch = "bert", .e = E, .layers = LAYERS, .heads = HEADS, .kv = HEADS, .head = HEAD, .ff = FF, .vocab = VOCAB, .layer_norm = true};

typedef struct made { small_model f; int pooling; bool alibi; } made;

static void make(made *m, const small_spec *s, int pooling) {
    memset(m, 0, sizeof *m);
    small_model *f = &m->f;
    m->pooling = pooling;
    m->alibi = !strcmp(s->arch, "jina-bert-v2");
    assert_int_equal(gguf_writer_create(&f->w, NULL), OK);
    assert_int_equal(gguf_writer_set_text(f->w, "general.architecture", s->arch, NULL), OK);
    small_u32(f, s, "block_count", LAYERS);
    small_u32(f, s, "embedding_length", E);
    small_u32(f, s, "context_length", LONGEST);
    small_u32(f, s, "attention.head_count", HEADS);
    small_f32(f, s, "attention.layer_norm_epsilon", 1e-5f);
    if (pooling >= 0) small_u32(f, s, "pooling_type", (uint32_t)pooling);
    small_pair(f, s, "token_embd", E, VOCAB, false);
    if (!m->alibi) small_pair(f, s, "position_embd", E, LONGEST, false);
    small_tensor(f, s, "token_types.weight", E, 2, 1);
    small_pair(f, s, "token_embd_norm", E, 1, true);
    small_pair(f, s, "cls", E, E, true); // only rankers look at these
    small_pair(f, s, "cls.output", E, CLASSES, true);
    static const struct { const char *name; int k, n; } parts[] = {{"attn_q", E, E}, {"attn_k", E, E}, {"attn_v", E, E}, {"attn_output", E, E}, {"attn_output_norm", E, 1},
                                                                   {"ffn_up", E, FF}, {"ffn_down", FF, E}, {"layer_output_norm", E, 1}};
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%d.%s", l, parts[i].name);
            small_pair(f, s, name, (uint64_t)parts[i].k, (uint64_t)parts[i].n, true);
        }
    small_end(f);
}

// ---- the reference --------------------------------------------------------------------------------------------------------

static float *get(const made *m, const char *name) {
    const gguf_tensor *t = gguf_tensor_find(m->f.g, name);
    assert_non_null(t);
    float *x = mem_alloc(gguf_tensor_elems(t) * 4);
    assert_int_equal(gguf_read_f32(m->f.g, t, 0, gguf_tensor_elems(t), x, NULL), OK);
    return x;
}

static void affine(const made *m, const char *name, const double *x, int k, int n, double *y) {
    char full[96];
    snprintf(full, sizeof full, "%s.weight", name);
    float *w = get(m, full);
    snprintf(full, sizeof full, "%s.bias", name);
    float *b = get(m, full);
    for (int i = 0; i < n; i++) {
        y[i] = b[i];
        for (int j = 0; j < k; j++) y[i] += (double)w[i * k + j] * x[j];
    }
    mem_free(w);
    mem_free(b);
}

static void normed(const made *m, const char *name, double *x) {
    char full[96];
    snprintf(full, sizeof full, "%s.weight", name);
    float *w = get(m, full);
    snprintf(full, sizeof full, "%s.bias", name);
    float *b = get(m, full);
    double mean = 0, var = 0;
    for (int i = 0; i < E; i++) mean += x[i] / E;
    for (int i = 0; i < E; i++) var += (x[i] - mean) * (x[i] - mean) / E;
    for (int i = 0; i < E; i++) x[i] = (x[i] - mean) / sqrt(var + 1e-5) * w[i] + b[i];
    mem_free(w);
    mem_free(b);
}

// The sequence's embedding or scores; returns how many values.
static int reference(const made *m, const int32_t *tokens, int n, double *out) {
    static double h[LONGEST][E], q[LONGEST][E], k[LONGEST][E], v[LONGEST][E], att[E], t[E], ff[FF];
    float *embed = get(m, "token_embd.weight"), *type = get(m, "token_types.weight"), *pos = m->alibi ? NULL : get(m, "position_embd.weight");
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < E; j++) h[i][j] = (double)embed[tokens[i] * E + j] + type[j] + (pos ? pos[i * E + j] : 0);
        normed(m, "token_embd_norm", h[i]);
    }
    mem_free(embed);
    mem_free(type);
    mem_free(pos);
    for (int l = 0; l < LAYERS; l++) {
        char name[64];
#define NAME(part) (snprintf(name, sizeof name, "blk.%d." part, l), name)
        for (int i = 0; i < n; i++) {
            affine(m, NAME("attn_q"), h[i], E, E, q[i]);
            affine(m, NAME("attn_k"), h[i], E, E, k[i]);
            affine(m, NAME("attn_v"), h[i], E, E, v[i]);
        }
        for (int i = 0; i < n; i++) {
            for (int a = 0; a < HEADS; a++) {
                double w[LONGEST], sum = 0;
                for (int j = 0; j < n; j++) {
                    w[j] = 0;
                    for (int d = 0; d < HEAD; d++) w[j] += q[i][a * HEAD + d] * k[j][a * HEAD + d] / sqrt(HEAD);
                    if (m->alibi) w[j] -= pow(2, -8.0 * (a + 1) / HEADS) * abs(i - j);
                    sum += w[j] = exp(w[j]);
                }
                for (int d = 0; d < HEAD; d++) {
                    att[a * HEAD + d] = 0;
                    for (int j = 0; j < n; j++) att[a * HEAD + d] += w[j] / sum * v[j][a * HEAD + d];
                }
            }
            affine(m, NAME("attn_output"), att, E, E, t);
            for (int j = 0; j < E; j++) h[i][j] += t[j];
            normed(m, NAME("attn_output_norm"), h[i]);
            affine(m, NAME("ffn_up"), h[i], E, FF, ff);
            for (int j = 0; j < FF; j++) ff[j] = 0.5 * ff[j] * (1 + tanh(0.79788456080286535 * ff[j] * (1 + 0.044715 * ff[j] * ff[j])));
            affine(m, NAME("ffn_down"), ff, FF, E, t);
            for (int j = 0; j < E; j++) h[i][j] += t[j];
            normed(m, NAME("layer_output_norm"), h[i]);
        }
#undef NAME
    }
    int row = m->pooling == 2 || m->pooling == 4 ? 0 : n - 1;
    for (int j = 0; j < E; j++) {
        out[j] = h[row][j];
        if (m->pooling != 1) continue;
        out[j] = 0;
        for (int i = 0; i < n; i++) out[j] += h[i][j] / n;
    }
    if (m->pooling != 4) return E;
    affine(m, "cls", out, E, E, t);
    for (int j = 0; j < E; j++) t[j] = tanh(t[j]);
    affine(m, "cls.output", t, E, CLASSES, out);
    return CLASSES;
}

// ---- running --------------------------------------------------------------------------------------------------------------

// Two sequences in one step, each held to its reference.
static void compare(const small_spec *s, int pooling) {
    made m;
    make(&m, s, pooling);
    fake_device dev = {.base = {&fake_ops}};
    model *loaded;
    error err;
    if (model_load(m.f.g, &dev.base, NULL, &loaded, &err)) fail_msg("%s", err.text);
    const model_info *info = model_get_info(loaded);
    assert_true(!info->generates && info->encoder && info->whole && !info->causal && info->pooled == (pooling >= 0) && (int)info->pooling == (pooling < 0 ? 0 : pooling));
    dev_plan *p = model_plan(loaded);
    assert_int_equal(p->n_vocab, 0);
    assert_int_equal(dev_plan_prepare(p, LONGEST, 2, &err), OK);
    int32_t lengths[2] = {9, 31}, tokens[LONGEST], positions[LONGEST], wanted[2], table[2][2] = {{1, 4}, {2, 0}}, n_pages[1] = {5}, at = 0;
    dev_seq seqs[2];
    for (int q = 0; q < 2; q++) {
        seqs[q] = (dev_seq){.first_row = at, .n_rows = lengths[q], .pages = {table[q]}, .n_pages = {2}};
        wanted[q] = info->first_row ? at : at + lengths[q] - 1;
        for (int i = 0; i < lengths[q]; i++, at++) {
            tokens[at] = (at * at + 3 * q + 5) % VOCAB;
            positions[at] = i;
        }
    }
    dev_kv *kv;
    dev_ticket ticket;
    assert_int_equal(dev_kv_create(&dev.base, p, n_pages, DEV_KV_F32, &kv, &err), OK);
    dev_step step = {.n_rows = at, .tokens = tokens, .positions = positions, .n_seqs = 2, .seqs = seqs, .n_wanted = 2, .wanted = wanted};
    if (dev_submit(p, kv, &step, &ticket, &err)) fail_msg("%s", err.text);
    for (int q = 0; q < 2; q++) {
        double want[E], d = 0, sum = 0;
        int n = reference(&m, tokens + seqs[q].first_row, lengths[q], want);
        assert_int_equal(info->n_out, n);
        const float *got = dev_hidden(p, q);
        for (int j = 0; j < n; j++) {
            d += (got[j] - want[j]) * (got[j] - want[j]);
            sum += want[j] * want[j];
        }
        if (!(d / sum < 1e-9)) fail_msg("%s, pooling %d, sequence %d: NMSE %g", s->arch, pooling, q, d / sum);
    }
    dev_kv_destroy(&dev.base, kv);
    model_free(loaded);
    assert_int_equal(dev.live, 0);
    small_free(&m.f);
}

static void test_bert(void **state) {
    (void)state;
    for (int pooling = -1; pooling <= 4; pooling++) compare(&BERT, pooling);
}

static void test_distances(void **state) { // ALiBi counts distances on both sides
    (void)state;
    small_spec s = BERT;
    s.arch = "jina-bert-v2";
    compare(&s, 1);
}

static void refuses(const small_spec *s, int pooling, const char *why) {
    made m;
    error err;
    make(&m, s, pooling);
    status st = model_check(m.f.g, &err);
    if (!st || !strstr(err.text, why)) fail_msg("%d: \"%s\", expected \"%s\"", st, err.text, why);
    small_free(&m.f);
}

static void test_bad(void **state) {
    (void)state;
    static const struct { const char *leave_out, *reshape, *why; int pooling; } cases[] = {
        {"blk.1.attn_output_norm.weight", NULL, "blk.1.attn_output_norm.weight", 1}, {"blk.0.layer_output_norm.weight", NULL, "blk.0.layer_output_norm.weight", 1},
        {"token_embd_norm.weight", NULL, "token_embd_norm.weight", 1},
        {"position_embd.weight", NULL, "position_embd.weight", 1}, {NULL, "token_types.weight", "token_types.weight", 1},
        {NULL, "cls.weight", "cls.weight", 4}, {NULL, "cls.output.weight", "cls.output.weight", 4}, {NULL, NULL, "pooling_type", 5}, {NULL, NULL, "pooling_type", 77},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        small_spec s = BERT;
        s.leave_out = cases[i].leave_out;
        s.reshape = cases[i].reshape;
        refuses(&s, cases[i].pooling, cases[i].why);
    }
    small_spec headless = BERT; // cls.output alone is enough, neither is not
    headless.leave_out = "cls.weight";
    made m;
    error err;
    make(&m, &headless, 4);
    if (model_check(m.f.g, &err)) fail_msg("%s", err.text);
    small_free(&m.f);
}

// A decoder whose file says how it embeds.
static void test_decoder(void **state) {
    (void)state;
    small_spec s = {.arch = "qwen3", .e = E, .layers = 1, .heads = 2, .kv = 2, .head = 8, .ff = FF, .vocab = VOCAB};
    static const struct { int pooling; bool generates, whole, first; } cases[] = {
        {-1, true, false, false}, {0, true, false, false}, {1, false, true, false}, {2, false, true, true}, {3, true, false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        small_model f;
        model_info info;
        error err;
        small_begin(&f, &s);
        if (cases[i].pooling >= 0) small_u32(&f, &s, "pooling_type", (uint32_t)cases[i].pooling);
        small_end(&f);
        if (model_describe(f.g, &info, &err)) fail_msg("%s", err.text);
        assert_true(info.generates == cases[i].generates && info.whole == cases[i].whole && info.first_row == cases[i].first && !info.encoder && info.causal && info.n_out == E);
        assert_true(info.pooled == (cases[i].pooling >= 0));
        small_free(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bert), cmocka_unit_test(test_distances), cmocka_unit_test(test_bad), cmocka_unit_test(test_decoder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
