// Embeddings and scores from altiserve.h: small encoders written for the test, and toy-1. A batch gives what each text gives alone, limits are told,
// cancelled requests end, and models refuse what they are not for.
#include <math.h>
#include <unistd.h>

#include "engine/engine_util.h"
#include "gguf/gguf.h"

enum { E = 32, LAYERS = 2, HEADS = 4, FF = 48, CONTEXT = 96, WORDS = 26, VOCAB = 5 + WORDS, CLASSES = 2 };
static char dir[256];

// ---- files ---------------------------------------------------------------------------------------

static float noise(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*s >> 32) / 2147483648.0f;
}

static void add(gguf_writer *w, float **list, size_t *n, const char *name, uint64_t k, uint64_t rows) {
    uint64_t seed = 1469598103934665603u, dims[2] = {k, rows};
    for (const char *c = name; *c; c++) seed = (seed ^ (unsigned char)*c) * 1099511628211u;
    float *x = list[(*n)++] = mem_alloc(k * rows * 4);
    for (uint64_t i = 0; i < k * rows; i++) x[i] = strstr(name, "norm.weight") ? 1 + 0.2f * noise(&seed) : 0.4f * noise(&seed);
    assert_int_equal(gguf_writer_tensor(w, name, 0, rows > 1 ? 2 : 1, dims, x, NULL), OK);
}

// A BERT with words a to z. rank: it has a head of `CLASSES` scores; context as given.
static void put_encoder(const char *id, int pooling, uint32_t context, const char *template) {
    gguf_writer *w = NULL;
    float *data[128];
    size_t n = 0;
    char path[600], text[VOCAB][16];
    gguf_str tokens[VOCAB];
    int32_t types[VOCAB];
    static const char *const special[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (int i = 0; i < VOCAB; i++) {
        if (i < 5) snprintf(text[i], sizeof text[i], "%s", special[i]);
        else snprintf(text[i], sizeof text[i], "\xE2\x96\x81%c", 'a' + i - 5);
        tokens[i] = (gguf_str){text[i], strlen(text[i])};
        types[i] = i < 5 ? 3 : 1;
    }
    gguf_items list = {GGUF_STRING, VOCAB, tokens}, kinds = {GGUF_I32, VOCAB, types};
    const struct { const char *key; uint32_t value; } numbers[] = {
        {"bert.context_length", context}, {"bert.embedding_length", E}, {"bert.block_count", LAYERS}, {"bert.feed_forward_length", FF}, {"bert.attention.head_count", HEADS},
        {"bert.pooling_type", (uint32_t)pooling}, {"tokenizer.ggml.bos_token_id", 2}, {"tokenizer.ggml.seperator_token_id", 3},
        {"tokenizer.ggml.unknown_token_id", 1}, {"tokenizer.ggml.padding_token_id", 0}};
    assert_int_equal(gguf_writer_create(&w, NULL), OK);
    gguf_writer_set_text(w, "general.architecture", "bert", NULL);
    gguf_writer_set_text(w, "tokenizer.ggml.model", "bert", NULL);
    gguf_writer_set(w, "tokenizer.ggml.tokens", GGUF_ARRAY, &list, NULL);
    gguf_writer_set(w, "tokenizer.ggml.token_type", GGUF_ARRAY, &kinds, NULL);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) assert_int_equal(gguf_writer_set_u32(w, numbers[i].key, numbers[i].value, NULL), OK);
    gguf_writer_set_f32(w, "bert.attention.layer_norm_epsilon", 1e-5f, NULL);
    add(w, data, &n, "token_embd.weight", E, VOCAB);
    add(w, data, &n, "position_embd.weight", E, context);
    static const struct { const char *name; int k, n; } parts[] = {{"attn_q", E, E}, {"attn_k", E, E}, {"attn_v", E, E}, {"attn_output", E, E}, {"attn_output_norm", E, 1},
                                                                   {"ffn_up", E, FF}, {"ffn_down", FF, E}, {"layer_output_norm", E, 1}};
    for (int l = -1; l < LAYERS; l++)
        for (size_t i = 0; i < (l < 0 ? 1 : sizeof parts / sizeof *parts); i++) {
            char name[2][64];
            for (int b = 0; b < 2; b++)
                if (l < 0) snprintf(name[b], sizeof name[b], "token_embd_norm.%s", b ? "bias" : "weight");
                else snprintf(name[b], sizeof name[b], "blk.%d.%s.%s", l, parts[i].name, b ? "bias" : "weight");
            add(w, data, &n, name[0], l < 0 ? E : (uint64_t)parts[i].k, l < 0 ? 1 : (uint64_t)parts[i].n);
            add(w, data, &n, name[1], l < 0 || parts[i].n == 1 ? E : (uint64_t)parts[i].n, 1);
        }
    if (template) gguf_writer_set_text(w, "tokenizer.chat_template.rerank", template, NULL);
    if (pooling == 4) {
        add(w, data, &n, "cls.output.weight", E, CLASSES);
        add(w, data, &n, "cls.output.bias", CLASSES, 1);
    }
    snprintf(path, sizeof path, "%s/%s.gguf", dir, id);
    error err = {0};
    if (gguf_writer_path(w, path, &err)) fail_msg("%s", err.text);
    gguf_writer_free(w);
    for (size_t i = 0; i < n; i++) mem_free(data[i]);
}

static const char *const ids[] = {"mean", "first", "last", "ranker", "long", "templated"};

static int setup(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "%s/embed-XXXXXX", BINARY_DIR);
    if (!mkdtemp(dir)) return -1;
    for (int i = 0; i < 4; i++) put_encoder(ids[i], i + 1, CONTEXT, NULL);
    put_encoder(ids[4], 1, 1500, NULL);
    put_encoder(ids[5], 4, CONTEXT, "[CLS] e {query} f [SEP] {document} g {query} [SEP]");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char path[600];
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s/%s.gguf", dir, ids[i]);
        unlink(path);
    }
    return rmdir(dir);
}

static altiserve *folder(void) {
    altiserve_options o = toy_options();
    o.models_dir = dir;
    o.threads = 2;
    return engine_with(o);
}

// ---- requests ------------------------------------------------------------------------------------

typedef struct vector { status st; error err; float x[1024]; size_t n; altiserve_usage usage; int started, events; altiserve_finish end; } vector;

static altiserve_request *submit(altiserve *a, const altiserve_embed *e, vector *v) {
    altiserve_request *r = NULL;
    memset(v, 0, sizeof *v);
    v->st = altiserve_submit_embed(a, e, &r, &v->err);
    return r;
}

static void take(altiserve_request *r, vector *v) {
    altiserve_event e;
    if (!r) return;
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_END) {
        v->started += e.kind == EVENT_STARTED;
        if (e.kind != EVENT_EMBEDDING) continue;
        v->events++;
        assert_true(e.n_embedding <= 1024);
        memcpy(v->x, e.embedding, (v->n = e.n_embedding) * sizeof *v->x);
    }
    v->end = e.finish;
    if (e.err.code) v->st = e.err.code, v->err = e.err;
    v->usage = altiserve_request_usage(r);
    altiserve_request_free(r);
}

static vector of(altiserve *a, const altiserve_embed *e) {
    vector v;
    take(submit(a, e, &v), &v);
    return v;
}

static altiserve_embed text(const char *model, const char *s) { return (altiserve_embed){.model = model, .text = s, .text_len = strlen(s)}; }

static double length(const vector *v) {
    double s = 0;
    for (size_t i = 0; i < v->n; i++) s += (double)v->x[i] * v->x[i];
    return sqrt(s);
}

static void poolings(void **state) {
    (void)state;
    altiserve *a = folder();
    vector seen[3];
    for (int i = 0; i < 3; i++) {
        altiserve_model_info info;
        assert_int_equal(altiserve_model(a, ids[i], &info, NULL), OK);
        assert_true(!info.generates && info.embeds && !info.ranks && info.embedding_model && info.embedding_width == E);
        altiserve_embed e = text(ids[i], "a quick b");
        vector v = seen[i] = of(a, &e);
        if (v.st != OK) fail_msg("%s: %s", ids[i], v.err.text);
        assert_true(v.n == E && v.events == 1 && v.started == 1 && v.end == FINISH_STOP && v.usage.prompt_tokens == 5 && v.usage.completion_tokens == 0); // [CLS] a [UNK] b [SEP]
        assert_true(fabs(length(&v) - 1) < 1e-5);
        const int32_t tokens[] = {2, 5, 1, 6, 3};
        e = (altiserve_embed){.model = ids[i], .tokens = tokens, .n_tokens = 5, .raw = true};
        vector raw = of(a, &e);
        assert_true(raw.st == OK && fabs(length(&raw) - 1) > 1e-3); // as the model gave it
        altiserve_unit_length(raw.x, raw.n);
        assert_memory_equal(raw.x, v.x, E * sizeof *v.x);
    }
    for (int i = 0; i < 3; i++) assert_true(memcmp(seen[i].x, seen[(i + 1) % 3].x, E * sizeof(float)) != 0);
    altiserve_destroy(a);
}

// Many texts at once, of every length, equal and not: each gives the bits that it gives alone.
static void batches(void **state) {
    (void)state;
    enum { N = 60 };
    altiserve *a = folder();
    static char texts[N][2 * CONTEXT + 2];
    static vector alone[N], together[N];
    altiserve_request *r[N];
    for (int i = 0; i < N; i++) {
        int words = i < 6 ? 3 : (i * 7) % (CONTEXT - 2);
        for (int k = 0; k < words; k++) texts[i][2 * k] = (char)('a' + (i < 6 ? k : (k * k + i) % WORDS)), texts[i][2 * k + 1] = ' ';
        altiserve_embed e = text(ids[i % 2], texts[i]);
        alone[i] = of(a, &e);
        assert_int_equal(alone[i].st, OK);
    }
    for (int i = 0; i < N; i++) {
        altiserve_embed e = text(ids[i % 2], texts[i]);
        assert_non_null(r[i] = submit(a, &e, &together[i]));
    }
    for (int i = 0; i < N; i++) {
        take(r[i], &together[i]);
        if (together[i].st != OK) fail_msg("%d: %s", i, together[i].err.text);
        assert_true(together[i].n == E && !memcmp(together[i].x, alone[i].x, E * sizeof(float)));
        assert_int_equal(together[i].usage.cached_tokens, 0); // nothing of a text that is read as a whole can be kept
    }
    altiserve_stats s;
    altiserve_get_stats(a, &s);
    assert_true(s.running == 0 && s.pages_total > 0 && s.pages_free == s.pages_total);
    altiserve_destroy(a);
}

static void limits(void **state) {
    (void)state;
    altiserve *a = folder();
    char full[2 * CONTEXT + 2] = "", over[2 * CONTEXT + 4] = "";
    for (int i = 0; i < CONTEXT - 2; i++) strcat(full, "a ");
    snprintf(over, sizeof over, "%sb", full);
    altiserve_embed e = text("mean", full);
    vector v = of(a, &e);
    assert_true(v.st == OK && v.usage.prompt_tokens == CONTEXT); // a whole context: nothing is to be written after it
    vector whole = v;
    e = text("mean", over);
    v = of(a, &e);
    assert_true(v.st == E_INVALID && strstr(v.err.text, "97 tokens") && strstr(v.err.text, "96"));
    e.truncate = true;
    v = of(a, &e);
    assert_true(v.st == OK && v.usage.prompt_tokens == CONTEXT && !memcmp(v.x, whole.x, E * sizeof(float))); // cut to the same, [SEP] kept
    char *much = mem_alloc(2 * 1498 + 1); // longer than a step of the scheduler: still one step
    for (int i = 0; i < 1498; i++) much[2 * i] = (char)('a' + i % WORDS), much[2 * i + 1] = ' ';
    much[2 * 1498] = 0;
    e = text("long", much);
    v = of(a, &e);
    if (v.st != OK) fail_msg("%s", v.err.text);
    assert_int_equal(v.usage.prompt_tokens, 1500);
    mem_free(much);
    static const int32_t bad[] = {2, VOCAB}, negative[] = {-1};
    const struct { altiserve_embed e; status st; } cases[] = {
        {{.model = "mean"}, E_USAGE}, {{.model = "mean", .tokens = bad, .n_tokens = 2}, E_INVALID}, {{.model = "mean", .tokens = negative, .n_tokens = 1}, E_INVALID},
        {{.model = "mean", .tokens = bad, .n_tokens = 0}, E_INVALID}, {{.model = "none", .text = "a", .text_len = 1}, E_NOTFOUND},
        {{.model = "mean", .text = "a", .text_len = 1, .tokens = bad, .n_tokens = 1}, E_USAGE},
        {{.model = "mean", .text = "a", .text_len = 1, .pair = "b", .pair_len = 1}, E_INVALID}, // it cannot rank
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        v = of(a, &cases[i].e);
        if (v.st != cases[i].st || !v.err.text[0]) fail_msg("case %zu: %d: %s", i, v.st, v.err.text);
    }
    altiserve_destroy(a);
}

static void ranks(void **state) {
    (void)state;
    altiserve *a = folder();
    altiserve_embed e = {.model = "ranker", .text = "a b", .text_len = 3, .pair = "c [SEP] d", .pair_len = 9};
    vector v = of(a, &e);
    if (v.st != OK) fail_msg("%s", v.err.text);
    // [CLS] a b [SEP] c [ sep ] d [SEP]: what a document spells is text, here three words that nobody knows
    const int32_t tokens[] = {2, 5, 6, 3, 7, 1, 1, 1, 8, 3};
    e = (altiserve_embed){.model = "ranker", .tokens = tokens, .n_tokens = 10};
    vector w = of(a, &e);
    assert_int_equal(v.usage.prompt_tokens, 10);
    assert_true(v.n == CLASSES && !memcmp(v.x, w.x, sizeof(float) * CLASSES));
    // By the file's template: its own control tokens are, the documents' are text.
    e = (altiserve_embed){.model = "templated", .text = "a", .text_len = 1, .pair = "b [SEP]", .pair_len = 7};
    v = of(a, &e);
    if (v.st != OK) fail_msg("%s", v.err.text);
    const int32_t written[] = {2, 9, 5, 10, 3, 6, 1, 1, 1, 11, 5, 3};
    e = (altiserve_embed){.model = "templated", .tokens = written, .n_tokens = 12};
    w = of(a, &e);
    assert_int_equal(v.usage.prompt_tokens, 12);
    assert_memory_equal(v.x, w.x, sizeof(float) * CLASSES);
    altiserve_destroy(a);
}

static void only_what_they_are_for(void **state) {
    (void)state;
    altiserve *a = folder();
    altiserve_generate g = greedy("a", 3);
    error err = {0};
    altiserve_request *r = NULL;
    for (int i = 0; i < 4; i++) {
        g.model = ids[i];
        assert_int_equal(altiserve_submit(a, &g, &r, &err), E_INVALID);
        assert_non_null(strstr(err.text, "writes no text"));
        answer *x = ask(a, &(altiserve_generate){.model = ids[i], .loads = true}); // loading is for all
        assert_int_equal(x->end, FINISH_STOP);
        answer_free(x);
    }
    const int32_t tokens[] = {2, 5, 3};
    assert_int_equal(altiserve_logits(a, "mean", tokens, 3, 0, NULL, NULL, &err), E_INVALID);
    altiserve_destroy(a);
    a = engine_with(toy_options()); // a model that writes text embeds by its last token, whatever stood in its cache before
    altiserve_embed e = text("toy-1", "The toy embeds a text that is longer than one page of its cache, so that the second time most of it is found there.");
    vector v = of(a, &e), again = of(a, &e);
    if (v.st != OK) fail_msg("%s", v.err.text);
    altiserve_model_info info;
    assert_int_equal(altiserve_model(a, "toy-1", &info, NULL), OK);
    assert_true(info.generates && info.embeds && !info.embedding_model && v.n == info.embedding_width && v.n == info.embedding);
    assert_true(again.usage.cached_tokens > 0 && !memcmp(v.x, again.x, v.n * sizeof(float)));
    e.cache_salt = "ours"; // who has a salt neither finds what others left nor leaves them anything
    vector salted = of(a, &e), own = of(a, &e);
    assert_int_equal(salted.usage.cached_tokens, 0);
    assert_int_equal(own.usage.cached_tokens, again.usage.cached_tokens);
    assert_memory_equal(v.x, own.x, v.n * sizeof(float));
    altiserve_destroy(a);
}

// Cancelled at once, or freed without a look: the engine is free of them, and serves the next.
static void cancels(void **state) {
    (void)state;
    altiserve *a = folder();
    altiserve_embed e = text("long", "a b c");
    vector v;
    for (int i = 0; i < 40; i++) {
        altiserve_request *r = submit(a, &e, &v);
        assert_non_null(r);
        if (i % 2) {
            altiserve_cancel(r);
            take(r, &v);
            assert_true(v.end == FINISH_CANCELLED || (v.end == FINISH_STOP && v.n == E));
        } else altiserve_request_free(r);
    }
    v = of(a, &e);
    assert_true(v.st == OK && v.n == E);
    altiserve_destroy(a);
}

static void no_memory(void **state) {
    (void)state;
    altiserve *a = folder();
    altiserve_embed e = text("mean", "a b c");
    vector v = of(a, &e);
    assert_int_equal(v.st, OK);
    bool failed = false;
    for (long n = 1; n < 60; n++) { // also in the engine's thread
        mem_fail_at(n);
        v = of(a, &e);
        mem_fail_at(0);
        assert_true(v.st == OK ? v.n == E : v.st == E_NOMEM);
        failed |= v.st != OK;
    }
    assert_true(failed);
    altiserve_destroy(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(poolings), cmocka_unit_test(batches), cmocka_unit_test(limits), cmocka_unit_test(ranks),
                                       cmocka_unit_test(only_what_they_are_for), cmocka_unit_test(cancels), cmocka_unit_test(no_memory)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
