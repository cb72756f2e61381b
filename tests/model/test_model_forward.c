// The plan of a model against a forward pass written out here: whole sequences, doubles, tensors by name, no plan. Also: chunks and strangers
// leave a row's logits alone, and prediction agrees with loading.
#include "model/small_model.h"

#include "model/fake_device.h"
#include "model/model.h"

// ---- the slow, obvious reference ------------------------------------------------------------------------------------------

typedef struct ref {
    const gguf *g;
    const small_spec *s;
    double *tmp;
    // what the architecture means
    bool   neox, gelu, parallel, normalise;
    double embed_scale, attn_cap, final_cap, base;
    int    window; // of even layers
} ref;

static float *get(const ref *r, const char *fmt, int layer) {
    char name[96];
    snprintf(name, sizeof name, fmt, layer);
    const gguf_tensor *t = gguf_tensor_find(r->g, name);
    if (!t) return NULL;
    size_t n = (size_t)gguf_tensor_elems(t);
    float *v = mem_alloc(n * 4);
    assert_int_equal(gguf_read_f32(r->g, t, 0, n, v, NULL), OK);
    return v;
}

static void mul(double *y, const float *w, const float *b, const double *x, int k, int n) {
    for (int j = 0; j < n; j++) {
        y[j] = b ? b[j] : 0;
        for (int i = 0; i < k; i++) y[j] += (double)w[j * k + i] * x[i];
    }
}

static void normed(const ref *r, double *y, const double *x, const float *w, const float *b) {
    int e = r->s->e;
    double mean = 0, var = 0;
    for (int i = 0; i < e && r->s->layer_norm; i++) mean += x[i] / e;
    for (int i = 0; i < e; i++) var += (x[i] - mean) * (x[i] - mean) / e;
    for (int i = 0; i < e; i++) y[i] = (x[i] - mean) / sqrt(var + 1e-5) * (w ? w[i] : 1) + (b ? b[i] : 0);
}

static double active(const ref *r, double x) { return r->gelu ? 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) : x / (1 + exp(-x)); }

static void turn(const ref *r, double *x, int pos) {
    int rot = r->s->rot ? r->s->rot : r->s->head;
    for (int i = 0; i < rot / 2; i++) {
        double a = pos * pow(r->base, -2.0 * i / rot), *p = r->neox ? x + i : x + 2 * i, *q = r->neox ? x + i + rot / 2 : p + 1, u = *p, v = *q;
        *p = u * cos(a) - v * sin(a);
        *q = u * sin(a) + v * cos(a);
    }
}

static void feed(const ref *r, int l, double *y, const double *x) {
    int e = r->s->e, ff = r->s->ff, n = r->s->experts ? r->s->experts : 1;
    double mid[256], up[256], out[64], p[16] = {1}, sum = 0, chosen = 0;
    bool used[16] = {true};
    const char *suffix = r->s->experts ? "_exps" : "";
    char f[3][64];
    snprintf(f[0], 64, "blk.%%d.ffn_gate%s.weight", suffix);
    snprintf(f[1], 64, "blk.%%d.ffn_up%s.weight", suffix);
    snprintf(f[2], 64, "blk.%%d.ffn_down%s.weight", suffix);
    float *gate = get(r, f[0], l), *wup = get(r, f[1], l), *down = get(r, f[2], l);
    float *gb = get(r, "blk.%d.ffn_gate.bias", l), *ub = get(r, "blk.%d.ffn_up.bias", l), *db = get(r, "blk.%d.ffn_down.bias", l);
    if (r->s->experts) {
        float *router = get(r, "blk.%d.ffn_gate_inp.weight", l);
        mul(p, router, NULL, x, e, n);
        for (int i = 0; i < n; i++) sum += p[i] = exp(p[i]);
        memset(used, 0, sizeof used);
        for (int t = 0; t < r->s->used; t++) {
            int best = -1;
            for (int i = 0; i < n; i++)
                if (!used[i] && (best < 0 || p[i] > p[best])) best = i;
            used[best] = true;
            chosen += p[best] / sum;
        }
        for (int i = 0; i < n; i++) p[i] = p[i] / sum / (r->normalise ? chosen : 1);
        mem_free(router);
    }
    for (int i = 0; i < e; i++) y[i] = 0;
    for (int x_ = 0; x_ < n; x_++) {
        if (!used[x_]) continue;
        size_t at = (size_t)(x_ * e * ff);
        mul(up, wup + at, ub, x, e, ff);
        if (gate) mul(mid, gate + at, gb, x, e, ff);
        for (int j = 0; j < ff; j++) mid[j] = gate ? active(r, mid[j]) * up[j] : active(r, up[j]);
        mul(out, down + at, db, mid, ff, e);
        for (int i = 0; i < e; i++) y[i] += p[x_] * out[i];
    }
    mem_free(gate); mem_free(wup); mem_free(down); mem_free(gb); mem_free(ub); mem_free(db);
}

static void attend(const ref *r, int l, double (*att)[64], double (*x)[64], int n) {
    const small_spec *s = r->s;
    int q = s->heads * s->head, k = s->kv * s->head, window = l % 2 == 0 ? r->window : 0;
    static double Q[128][64], K[128][64], V[128][64];
    float *w = get(r, "blk.%d.attn_qkv.weight", l), *b = get(r, "blk.%d.attn_qkv.bias", l);
    float *wq = get(r, "blk.%d.attn_q.weight", l), *wk = get(r, "blk.%d.attn_k.weight", l), *wv = get(r, "blk.%d.attn_v.weight", l);
    float *bq = get(r, "blk.%d.attn_q.bias", l), *bk = get(r, "blk.%d.attn_k.bias", l), *bv = get(r, "blk.%d.attn_v.bias", l);
    for (int t = 0; t < n; t++) {
        mul(Q[t], w ? w : wq, w ? b : bq, x[t], s->e, q);
        mul(K[t], w ? w + q * s->e : wk, b ? b + q : bk, x[t], s->e, k);
        mul(V[t], w ? w + (q + k) * s->e : wv, b ? b + q + k : bv, x[t], s->e, k);
        for (int h = 0; h < s->heads; h++) turn(r, Q[t] + h * s->head, t);
        for (int h = 0; h < s->kv; h++) turn(r, K[t] + h * s->head, t);
    }
    for (int t = 0; t < n; t++)
        for (int h = 0; h < s->heads; h++) {
            int g = h * s->kv / s->heads;
            double sum = 0;
            for (int d = 0; d < s->head; d++) att[t][h * s->head + d] = 0;
            for (int j = 0; j <= t; j++) {
                if (window && j <= t - window) continue;
                double score = 0;
                for (int d = 0; d < s->head; d++) score += Q[t][h * s->head + d] * K[j][g * s->head + d] / sqrt(s->head);
                if (r->attn_cap > 0) score = r->attn_cap * tanh(score / r->attn_cap);
                sum += exp(score);
                for (int d = 0; d < s->head; d++) att[t][h * s->head + d] += exp(score) * V[j][g * s->head + d];
            }
            for (int d = 0; d < s->head; d++) att[t][h * s->head + d] /= sum;
        }
    mem_free(w); mem_free(b); mem_free(wq); mem_free(wk); mem_free(wv); mem_free(bq); mem_free(bk); mem_free(bv);
}

static void reference(const ref *r, const int32_t *tokens, int n, float *logits) {
    const small_spec *s = r->s;
    static double h[128][64], x[128][64], att[128][64];
    double t[64], y[256];
    int e = s->e;
    float *embed = get(r, "token_embd.weight", 0), *out = get(r, "output.weight", 0), *norm = get(r, "output_norm.weight", 0), *norm_b = get(r, "output_norm.bias", 0);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < e; j++) h[i][j] = r->embed_scale * embed[tokens[i] * e + j];
    for (int l = 0; l < s->layers; l++) {
        float *n1 = get(r, "blk.%d.attn_norm.weight", l), *n1b = get(r, "blk.%d.attn_norm.bias", l);
        float *n2 = get(r, "blk.%d.ffn_norm.weight", l), *n2b = get(r, "blk.%d.ffn_norm.bias", l);
        float *wo = get(r, "blk.%d.attn_output.weight", l), *bo = get(r, "blk.%d.attn_output.bias", l);
        float *p1 = get(r, "blk.%d.post_attention_norm.weight", l), *p2 = get(r, "blk.%d.post_ffw_norm.weight", l);
        for (int i = 0; i < n; i++) normed(r, x[i], h[i], n1, n1b);
        attend(r, l, att, x, n);
        for (int i = 0; i < n; i++) {
            mul(t, wo, bo, att[i], s->heads * s->head, e);
            if (p1) normed(r, t, t, p1, NULL);
            for (int j = 0; j < e; j++) h[i][j] += t[j];
            if (!r->parallel) normed(r, x[i], h[i], n2, n2b);
            feed(r, l, y, x[i]);
            if (p2) normed(r, y, y, p2, NULL);
            for (int j = 0; j < e; j++) h[i][j] += y[j];
        }
        mem_free(n1); mem_free(n1b); mem_free(n2); mem_free(n2b); mem_free(wo); mem_free(bo); mem_free(p1); mem_free(p2);
    }
    for (int i = 0; i < n; i++) {
        normed(r, t, h[i], norm, norm_b);
        mul(y, out ? out : embed, NULL, t, e, s->vocab);
        for (int j = 0; j < s->vocab; j++) logits[i * s->vocab + j] = (float)(r->final_cap > 0 ? r->final_cap * tanh(y[j] / r->final_cap) : y[j]);
    }
    mem_free(embed); mem_free(out); mem_free(norm); mem_free(norm_b);
}

// ---- running a plan -------------------------------------------------------------------------------------------------------

enum { TOKENS = 70, PAGES = 8 };

// Logits of all tokens; the prompt in chunks, a stranger beside it when asked.
static void run_plan(model *m, fake_device *dev, const int32_t *tokens, int n, int chunk, bool stranger, float *logits) {
    dev_plan *p = model_plan(m);
    const model_info *info = model_get_info(m);
    int32_t n_pages[DEV_MAX_GROUPS], table[2][PAGES], tok[2 * TOKENS], pos[2 * TOKENS], wanted[TOKENS];
    dev_kv *kv;
    error err;
    for (int g = 0; g < p->n_groups; g++) n_pages[g] = 2 * PAGES;
    for (int i = 0; i < PAGES; i++) {
        table[0][i] = 2 * (PAGES - 1 - i);
        table[1][i] = 2 * i + 1;
    }
    if (!p->backend) assert_int_equal(dev_plan_prepare(p, 2 * TOKENS, TOKENS, &err), OK);
    assert_int_equal(dev_kv_create(&dev->base, p, n_pages, DEV_KV_F32, &kv, &err), OK);
    for (int at = 0; at < n;) {
        int take = n - at < chunk ? n - at : chunk, rows = 0;
        dev_seq seqs[2];
        for (int q = stranger ? 0 : 1; q < 2; q++) { // the stranger comes first and has two tokens a step
            dev_seq *s = &seqs[q - (stranger ? 0 : 1)];
            *s = (dev_seq){.first_row = rows, .n_rows = q ? take : 2, .start = q ? at : 2 * (at / chunk)};
            for (int g = 0; g < p->n_groups; g++) {
                s->pages[g] = table[q];
                s->n_pages[g] = PAGES;
            }
            for (int i = 0; i < s->n_rows; i++, rows++) {
                tok[rows] = q ? tokens[at + i] : (at + i) % (int)info->n_vocab;
                pos[rows] = s->start + i;
                if (q) wanted[i] = rows;
            }
        }
        dev_step step = {.n_rows = rows, .tokens = tok, .positions = pos, .n_seqs = stranger ? 2 : 1, .seqs = seqs, .n_wanted = take, .wanted = wanted};
        dev_ticket ticket;
        if (dev_submit(p, kv, &step, &ticket, &err)) fail_msg("%s", err.text);
        for (int i = 0; i < take; i++) memcpy(logits + (size_t)(at + i) * info->n_vocab, dev_logits(p, i), info->n_vocab * 4);
        at += take;
    }
    dev_kv_destroy(&dev->base, kv);
}

static double nmse(const float *a, const float *b, size_t n) {
    double d = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return d / s;
}

static void compare(const small_spec *s, ref r, void (*more)(small_model *, const small_spec *)) {
    small_model f;
    small_begin(&f, s);
    if (more) more(&f, s);
    small_end(&f);
    r.g = f.g;
    r.s = s;
    if (!r.embed_scale) r.embed_scale = 1;
    if (!r.base) r.base = 10000;
    int32_t tokens[TOKENS];
    for (int i = 0; i < TOKENS; i++) tokens[i] = (i * 7 + i * i) % s->vocab;
    size_t n = (size_t)(TOKENS * s->vocab);
    float *want = mem_alloc(n * 4), *got = mem_alloc(n * 4), *again = mem_alloc(n * 4);
    reference(&r, tokens, TOKENS, want);

    fake_device dev = {.base = {&fake_ops}};
    error err;
    model *m;
    if (model_load(f.g, &dev.base, NULL, &m, &err)) fail_msg("%s", err.text);
    run_plan(m, &dev, tokens, TOKENS, TOKENS, false, got);
    double e = nmse(got, want, n);
    if (!(e < 1e-9)) fail_msg("%s: NMSE %g", s->arch, e);
    run_plan(m, &dev, tokens, TOKENS, 7, true, again);
    assert_memory_equal(got, again, n * 4);

    model_sizes sizes;
    assert_int_equal(model_predict(f.g, &dev.base, NULL, 2 * TOKENS, TOKENS, &sizes, &err), OK);
    const model_info *i = model_get_info(m);
    assert_true(sizes.weights == i->weight_bytes && sizes.scratch == dev_plan_scratch(model_plan(m), 2 * TOKENS, TOKENS) && sizes.info.n_groups == i->n_groups);
    assert_memory_equal(sizes.info.groups, i->groups, sizeof i->groups);
    assert_true(i->fingerprint.low || i->fingerprint.high);
    model_free(m);
    assert_int_equal(dev.live, 0);
    small_free(&f);
    mem_free(want); mem_free(got); mem_free(again);
}

// ---- tests ----------------------------------------------------------------------------------------------------------------

static const small_spec LLAMA = {.arch = "llama", .e = 24, .layers = 2, .heads = 4, .kv = 2, .head = 8, .ff = 40, .vocab = 33};

static void test_llama(void **state) { (void)state; compare(&LLAMA, (ref){0}, NULL); }

static void base_500(small_model *m, const small_spec *s) { small_f32(m, s, "rope.freq_base", 500); }

static void test_qwen2(void **state) {
    (void)state;
    small_spec s = LLAMA;
    s.arch = "qwen2";
    s.biases = s.tied = true;
    compare(&s, (ref){.neox = true, .base = 500}, base_500);
}

static void test_experts(void **state) {
    (void)state;
    small_spec s = LLAMA;
    s.experts = 5;
    s.used = 2;
    compare(&s, (ref){.normalise = true}, NULL);
    s.arch = "qwen3moe";
    compare(&s, (ref){.normalise = true, .neox = true}, NULL);
    s.arch = "olmoe";
    compare(&s, (ref){.neox = true}, NULL);
}

static void test_parallel(void **state) { // phi2: one layer norm, a partial rotation, attention and feed-forward side by side
    (void)state;
    small_spec s = LLAMA;
    s.arch = "phi2";
    s.layer_norm = s.biases = s.no_ffn_norm = s.fused = s.plain_up = true;
    s.rot = 4;
    compare(&s, (ref){.neox = true, .gelu = true, .parallel = true}, NULL);
}

static void window_9(small_model *m, const small_spec *s) {
    small_u32(m, s, "attention.sliding_window", 9);
    small_f32(m, s, "final_logit_softcapping", 3);
    small_f32(m, s, "attn_logit_softcapping", 2);
}

static void test_windows(void **state) { // gemma2: windows, soft caps, norms on both sides, scaled embeddings
    (void)state;
    small_spec s = LLAMA;
    s.arch = "gemma2";
    s.post_norms = s.tied = true;
    compare(&s, (ref){.neox = true, .gelu = true, .embed_scale = sqrt(24), .attn_cap = 2, .final_cap = 3, .window = 9}, window_9);
}

// Keys that the row does not name change nothing, whatever they hold.
static void stray(small_model *m, const small_spec *s) {
    small_f32(m, s, "attn_logit_softcapping", 1);
    small_f32(m, s, "final_logit_softcapping", 1);
    small_u32(m, s, "attention.sliding_window", 2);
    small_f32(m, s, "residual_scale", 9);
    small_f32(m, s, "logit_scale", 9);
    small_f32(m, s, "rope.scaling.factor", 0);
    small_f32(m, s, "attention.scale", 0);
}

static void test_stray_keys(void **state) { (void)state; compare(&LLAMA, (ref){0}, stray); }

static void test_names(void **state) {
    (void)state;
    size_t n = 0;
    bool llama = false;
    for (const char *name; (name = model_architecture(n)); n++) llama |= !strcmp(name, "llama");
    assert_true(llama && n > 40);
    assert_null(model_architecture(n + 1000));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama), cmocka_unit_test(test_qwen2), cmocka_unit_test(test_experts), cmocka_unit_test(test_parallel), cmocka_unit_test(test_windows),
        cmocka_unit_test(test_stray_keys), cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
