// The models folder from altiserve.h: files come, go, break, grow and change while requests run; memory is shared.
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/eng_models.h"
#include "engine/engine_util.h"
#include "gguf/gguf.h"
#include "model/small_model.h"
#include "obs/obs.h"

static char dir[256];

static char *path_of(const char *name) {
    static char path[4][600];
    static int at;
    at = (at + 1) % 4;
    snprintf(path[at], sizeof path[at], "%s/%s", dir, name);
    return path[at];
}

static int setup(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "%s/models-XXXXXX", BINARY_DIR);
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') unlink(path_of(e->d_name));
    if (d) closedir(d);
    return rmdir(dir);
}

// The toy's file, or its first `bytes` bytes, under a name in the folder. Written beside it and renamed unless `in_place`.
static void put(const char *name, size_t bytes, bool in_place) {
    char data[65536], beside[600];
    snprintf(beside, sizeof beside, "%s/.part", dir);
    int in = open(SOURCE_DIR "/tools/toy/toy-1.gguf", O_RDONLY), out = open(in_place ? path_of(name) : beside, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(in >= 0 && out >= 0);
    for (ssize_t n; bytes && (n = read(in, data, bytes < sizeof data ? bytes : sizeof data)) > 0; bytes -= (size_t)n) assert_int_equal(write(out, data, (size_t)n), n);
    close(in);
    close(out);
    if (!in_place) assert_int_equal(rename(beside, path_of(name)), 0);
}

// Part `no` of the toy's file cut into `count` files as llama.cpp's gguf-split names and marks them; `key`, unless NULL, says `text` in it. One part is STEM.gguf.
static void put_part(const char *stem, unsigned no, unsigned count, const char *key, const char *text) {
    char name[64];
    error err = {0};
    gguf *g;
    gguf_writer *w;
    assert_int_equal(gguf_open(SOURCE_DIR "/tools/toy/toy-1.gguf", &g, &err), OK);
    assert_int_equal(gguf_writer_create(&w, &err), OK);
    for (size_t i = 0; !no && i < gguf_kv_count(g); i++) assert_int_equal(gguf_writer_copy(w, gguf_kv_key(g, i), gguf_kv_value(g, i), &err), OK);
    size_t n = gguf_tensor_count(g), from = n * no / count, to = n * (no + 1) / count;
    void *data[128] = {0};
    assert_true(to - from <= 128);
    if (key) assert_int_equal(gguf_writer_set_text(w, key, text, &err), OK);
    assert_int_equal(gguf_writer_set(w, "split.no", GGUF_U16, &(uint16_t){(uint16_t)no}, &err), OK);
    assert_int_equal(gguf_writer_set(w, "split.count", GGUF_U16, &(uint16_t){(uint16_t)count}, &err), OK);
    assert_int_equal(gguf_writer_set(w, "split.tensors.count", GGUF_I32, &(int32_t){(int32_t)n}, &err), OK);
    for (size_t i = from; i < to; i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        data[i - from] = mem_alloc(t->bytes);
        assert_int_equal(gguf_read(g, t, 0, t->bytes, data[i - from], &err), OK);
        assert_int_equal(gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->dims, data[i - from], &err), OK);
    }
    if (count > 1) snprintf(name, sizeof name, "%s-%05u-of-%05u.gguf", stem, no + 1, count);
    else snprintf(name, sizeof name, "%s.gguf", stem);
    assert_int_equal(gguf_writer_path(w, path_of(name), &err), OK);
    gguf_writer_free(w);
    gguf_close(g);
    for (size_t i = 0; i < 128; i++) mem_free(data[i]);
}

static altiserve *folder(uint64_t memory) {
    altiserve_options o = toy_options();
    o.models_dir = dir;
    if (memory) o.memory = memory;
    return engine_with(o);
}

static void add_id(void *ctx, const altiserve_model_info *info) { strbuf_addf(ctx, "%s ", info->id); }

static void listed(altiserve *a, const char *want) {
    strbuf ids = {0};
    altiserve_models(a, add_id, &ids);
    assert_string_equal(ids.data ? ids.data : "", want);
    strbuf_free(&ids);
}

static void serves(altiserve *a, const char *id) {
    altiserve_generate g = greedy("Hello", 3);
    g.model = id;
    answer *x = ask(a, &g);
    if (x->submitted != OK || x->end != FINISH_LENGTH) fail_msg("%s: %s", id, x->err.text);
    assert_int_equal(x->n_tokens[0], 3);
    answer_free(x);
}

static status state_of(altiserve *a, const char *id, altiserve_model_info *info) { return altiserve_model(a, id, info, NULL); }

static void files_come_and_go(void **state) {
    (void)state;
    altiserve *a = folder(0);
    altiserve_model_info info;
    error err;
    listed(a, "toy-1 ");
    serves(a, "toy-1");
    serves(a, "");
    put("guide.gguf", SIZE_MAX, false);
    altiserve_rescan(a);
    listed(a, "guide ");
    serves(a, "guide");
    serves(a, ""); // the only one
    serves(a, "toy-1");
    assert_int_equal(symlink(path_of("guide.gguf"), path_of("link.gguf")), 0);
    altiserve_rescan(a);
    listed(a, "guide link ");
    serves(a, "link");
    assert_int_equal(state_of(a, "guide", &info), OK);
    assert_int_equal(info.state, MODEL_READY);
    assert_string_equal(info.architecture, "llama");
    assert_true(info.weight_bytes > 0 && info.parameters > 0 && info.context > 0);
    unlink(path_of("guide.gguf"));
    unlink(path_of("link.gguf"));
    altiserve_rescan(a);
    listed(a, "toy-1 ");
    altiserve_request *r;
    altiserve_generate g = greedy("x", 1);
    g.model = "guide";
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_NOTFOUND);
    altiserve_destroy(a);
}

// A vocabulary of an unknown kind is refused by name before anything is loaded, for ids as for text; `inspect` shows the file and says why.
static void refused_vocabulary(altiserve *a, const char *id, const char *why) {
    error err = {0};
    altiserve_request *r;
    altiserve_model_info info;
    altiserve_generate g = greedy("x", 1);
    g.model = id;
    assert_int_equal(state_of(a, id, &info), OK);
    assert_int_equal(info.state, MODEL_BROKEN);
    assert_non_null(strstr(info.error, why));
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_UNSUPPORTED);
    assert_non_null(strstr(err.text, why));
    char *text = NULL;
    assert_int_equal(altiserve_inspect(a, id, &text, &err), OK);
    assert_non_null(strstr(text, "martian"));
    assert_non_null(strstr(text, "\"tensors\""));
    mem_free(text);
}

static void broken_and_incomplete(void **state) {
    (void)state;
    put("good.gguf", SIZE_MAX, false);
    put("half.gguf", 1000000, false);
    put("start.gguf", 100, false);
    FILE *f = fopen(path_of("junk.gguf"), "wb");
    for (int i = 0; i < 5000; i++) fputc(i * 37 & 255, f);
    fclose(f);
    put("empty.gguf", 0, false);
    put_part("out", 0, 1, "general.architecture", "clip");
    put_part("kind", 0, 1, "tokenizer.ggml.model", "martian");
    put_part("words", 0, 1, "tokenizer.ggml.pre", "martian");
    altiserve *a = folder(0);
    altiserve_model_info info;
    listed(a, "empty good half junk kind out start words ");
    assert_int_equal(state_of(a, "junk", &info), OK);
    assert_int_equal(info.state, MODEL_BROKEN);
    assert_true(strlen(info.error) > 10);
    assert_int_equal(state_of(a, "half", &info), OK);
    assert_int_equal(info.state, MODEL_INCOMPLETE);
    altiserve_request *r;
    error err;
    altiserve_generate g = greedy("x", 1);
    g.model = "junk";
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_INVALID);
    g.model = "half";
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_INCOMPLETE);
    g.model = "out"; // an architecture that is known and not built keeps its status
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "\"clip\""));
    refused_vocabulary(a, "kind", "kind.gguf: tokenizer.ggml.model is \"martian\"");
    refused_vocabulary(a, "words", "words.gguf: tokenizer.ggml.pre is \"martian\"");
    serves(a, "good");
    put("half.gguf", SIZE_MAX, true); // the copy is finished
    altiserve_rescan(a);
    serves(a, "half");
    altiserve_destroy(a);
}

// A running request keeps its version when the file is replaced, removed, or overwritten in place.
static void running_requests_keep_their_version(void **state) {
    (void)state;
    for (int how = 0; how < 3; how++) {
        put("m.gguf", SIZE_MAX, false);
        altiserve *a = folder(0);
        altiserve_generate g = greedy("Tell me a story.", 480);
        g.model = "m";
        answer *whole = ask(a, &g);
        altiserve_request *r;
        altiserve_event e;
        assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
        while (altiserve_next(r, UINT32_MAX, &e) != EVENT_STARTED) {} // it runs, and pauses when nobody reads on
        if (how == 0) put("m.gguf", SIZE_MAX, false);
        if (how == 1) unlink(path_of("m.gguf"));
        if (how == 2) put("m.gguf", 5000, true);
        altiserve_rescan(a);
        answer *x = mem_calloc(1, sizeof *x);
        collect(r, x);
        assert_int_equal(x->finish[0], whole->finish[0]);
        same_tokens(whole, x, 0, 0);
        if (how == 0) serves(a, "m");
        answer_free(x);
        answer_free(whole);
        altiserve_destroy(a);
    }
}

// The bytes that one model takes when loaded.
static uint64_t taken(void) {
    altiserve *a = folder(0);
    altiserve_stats st;
    serves(a, "a");
    altiserve_get_stats(a, &st);
    altiserve_destroy(a);
    return st.memory_used;
}

static uint64_t least(void) {
    unsigned long long bytes = 0;
    altiserve *a = folder(1);
    altiserve_generate g = greedy("x", 1);
    g.model = "a";
    answer *x = ask(a, &g);
    assert_int_equal(x->err.code, E_NOMEM);
    assert_int_equal(sscanf(strstr(x->err.text, "at least"), "at least %llu", &bytes), 1);
    answer_free(x);
    altiserve_destroy(a);
    return bytes;
}

static void models_share_memory(void **state) {
    (void)state;
    put("a.gguf", SIZE_MAX, false);
    put("b.gguf", SIZE_MAX, false);
    put("c.gguf", SIZE_MAX, false);
    uint64_t one = taken();
    altiserve *a = folder(least() * 3 / 2); // room for one at a time
    double before = obs_read(OBS_UNLOADS, "a", NULL);
    altiserve_model_info info;
    altiserve_stats st;
    const char *const order[] = {"a", "b", "a", "c", "b"};
    for (int i = 0; i < 5; i++) {
        serves(a, order[i]);
        altiserve_get_stats(a, &st);
        assert_true(st.memory_used <= st.memory_limit && st.memory_used > 0);
    }
    assert_true(obs_read(OBS_UNLOADS, "a", NULL) > before);
    assert_int_equal(state_of(a, "a", &info), OK);
    assert_int_equal(info.state, MODEL_UNLOADED);
    assert_int_equal(state_of(a, "b", &info), OK);
    assert_int_equal(info.state, MODEL_READY);
    altiserve_destroy(a);
    a = folder(one * 4); // room for all: the first is still there
    for (int i = 0; i < 5; i++) serves(a, order[i]);
    assert_int_equal(state_of(a, "a", &info), OK);
    assert_int_equal(info.state, MODEL_READY);
    altiserve_destroy(a);
}

// One model is needed while the only other one serves: it waits for the room.
static void a_load_waits_for_the_busy_one(void **state) {
    (void)state;
    put("a.gguf", SIZE_MAX, false);
    put("b.gguf", SIZE_MAX, false);
    altiserve *a = folder(least() * 3 / 2);
    altiserve_request *r, *waits;
    altiserve_event e;
    altiserve_generate g = greedy("Hello", 100);
    g.model = "a";
    assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_TEXT) assert_int_not_equal(e.kind, EVENT_END);
    g.model = "b";
    g.max_tokens = 2;
    assert_int_equal(altiserve_submit(a, &g, &waits, NULL), OK);
    answer *x = mem_calloc(1, sizeof *x), *y = mem_calloc(1, sizeof *y);
    collect(r, x);
    collect(waits, y);
    assert_int_equal(x->finish[0], FINISH_LENGTH);
    if (y->finish[0] != FINISH_LENGTH) fail_msg("%s", y->err.text);
    answer_free(x);
    answer_free(y);
    altiserve_destroy(a);
}

// The end of a request that only loads the model.
static answer *loads(altiserve *a, const char *id) {
    return ask(a, &(altiserve_generate){.model = id, .loads = true, .logprobs = -1});
}

static altiserve_model_info info_of(altiserve *a, const char *id) {
    altiserve_model_info info;
    assert_int_equal(state_of(a, id, &info), OK);
    return info;
}

static void models_are_loaded_and_unloaded_on_request(void **state) {
    (void)state;
    error err = {0};
    altiserve_stats st;
    put("a.gguf", SIZE_MAX, false);
    put_part("b", 0, 1, "tokenizer.ggml.token_type", "of no kind");
    altiserve_options o = toy_options();
    o.models_dir = dir;
    o.responses = 4; // no load is an answer to be replayed
    altiserve *a = engine_with(o);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(info_of(a, "a").state, MODEL_UNLOADED);
        assert_true(info_of(a, "a").memory_bytes == 0);
        answer *x = loads(a, "a");
        if (x->end != FINISH_STOP) fail_msg("%s", x->err.text);
        assert_true(!x->started && !x->text[0].len && !x->usage.prompt_tokens && !x->usage.completion_tokens);
        assert_true(x->usage.load_s > 0);
        answer_free(x);
        altiserve_get_stats(a, &st);
        assert_int_equal(info_of(a, "a").state, MODEL_READY);
        assert_true(st.memory_used > 0 && info_of(a, "a").memory_bytes == st.memory_used && !st.running && !st.waiting);
        x = loads(a, "a"); // it is there
        assert_true(x->end == FINISH_STOP && x->usage.load_s == 0);
        answer_free(x);
        serves(a, "a");
        if (altiserve_unload(a, "a", &err) != OK) fail_msg("%s", err.text); // who was told the end is no longer served
        assert_int_equal(altiserve_unload(a, "a", &err), OK);
        altiserve_get_stats(a, &st);
        assert_true(st.memory_used == 0);
    }
    assert_int_equal(altiserve_unload(a, "nobody", &err), E_NOTFOUND);
    altiserve_request *r;
    altiserve_event e;
    altiserve_generate g = greedy("Tell me a story.", 480);
    g.model = "a";
    assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_TEXT) assert_int_not_equal(e.kind, EVENT_END);
    assert_int_equal(altiserve_unload(a, "a", &err), E_BUSY); // it runs, or is paused with its pages
    assert_non_null(strstr(err.text, "serves requests"));
    answer *x = mem_calloc(1, sizeof *x);
    collect(r, x);
    assert_int_equal(x->finish[0], FINISH_LENGTH);
    answer_free(x);
    assert_int_equal(altiserve_unload(a, "a", &err), OK);
    x = loads(a, "b"); // why it cannot be loaded
    assert_int_equal(x->end, FINISH_ERROR);
    assert_non_null(strstr(x->err.text, "tokenizer.ggml.token_type"));
    answer_free(x);
    altiserve_destroy(a);
}

static void template_is(altiserve *a, const char *id, const char *want) {
    char *text;
    size_t len;
    assert_int_equal(altiserve_chat_template(a, id, &text, &len, NULL), OK);
    assert_int_equal(strlen(text), len);
    if (*want ? !strstr(text, want) : len) fail_msg("%s: %s", id, text);
    mem_free(text);
}

static void who_thinks_is_told(void **state) {
    (void)state;
    put_part("thinks", 0, 1, "tokenizer.chat_template", "{{ messages[0].content.split('</think>')[-1] }}");
    put_part("talks", 0, 1, "tokenizer.chat_template", "{{ messages[0].content }}");
    altiserve *a = folder(0);
    altiserve_model_info m;
    assert_int_equal(altiserve_model(a, "thinks", &m, NULL), OK);
    assert_true(m.thinks);
    assert_int_equal(altiserve_model(a, "talks", &m, NULL), OK);
    assert_false(m.thinks);
    altiserve_destroy(a);
}

static void templates_are_shown(void **state) {
    (void)state;
    put_part("own", 0, 1, "tokenizer.chat_template", "{{ 'its own' }}");
    put_part("none", 0, 1, "tokenizer.chat_template", "");
    altiserve *a = folder(0);
    template_is(a, "own", "{{ 'its own' }}");
    template_is(a, "none", "<|im_start|>");
    assert_int_equal(altiserve_chat_template(a, "nobody", NULL, NULL, NULL), E_NOTFOUND);
    altiserve_destroy(a);
}

// A tokenizer that cannot be made ends the load that was begun beside it, which else would wait for the room of the model that serves.
static void a_broken_tokenizer_ends_the_load(void **state) {
    (void)state;
    put("a.gguf", SIZE_MAX, false);
    put_part("b", 0, 1, "tokenizer.ggml.token_type", "of no kind");
    altiserve *a = folder(least() * 3 / 2);
    altiserve_request *r, *none;
    altiserve_event e;
    error err;
    altiserve_generate g = greedy("Tell me a story.", 480);
    g.model = "a";
    assert_int_equal(altiserve_submit(a, &g, &r, NULL), OK);
    while (altiserve_next(r, UINT32_MAX, &e) != EVENT_TEXT) assert_int_not_equal(e.kind, EVENT_END);
    double before = obs_read(OBS_LOADS, "b", "error");
    g.model = "b";
    assert_int_not_equal(altiserve_submit(a, &g, &none, &err), OK);
    assert_non_null(strstr(err.text, "tokenizer.ggml.token_type"));
    time_t until = time(NULL) + 60; // a bound for a machine under load
    while (obs_read(OBS_LOADS, "b", "error") == before && time(NULL) < until) usleep(1000);
    assert_true(obs_read(OBS_LOADS, "b", "error") == before + 1);
    answer *x = mem_calloc(1, sizeof *x);
    collect(r, x); // it was not displaced
    if (x->end == FINISH_ERROR) fail_msg("%s", x->err.text);
    answer_free(x);
    altiserve_destroy(a);
}

// ---- the list of models by itself: a request is a reference that is held --------------------------

static pthread_mutex_t change_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t  change = PTHREAD_COND_INITIALIZER;
static int             changes;
static void          (*between_loads)(void); // once, on the loader's thread

static void on_change(void *ctx) {
    (void)ctx;
    if (between_loads) between_loads();
    between_loads = NULL;
    pthread_mutex_lock(&change_lock);
    changes++;
    pthread_cond_broadcast(&change);
    pthread_mutex_unlock(&change_lock);
}

static eng_models *list_with(uint64_t memory, uint32_t timeout_ms) {
    eng_models *ms;
    error err = {0};
    altiserve_options o = toy_options();
    o.models_dir = dir;
    o.open_paths = true;
    o.context = 2048;
    o.parallel = 1;
    o.load_timeout_ms = timeout_ms;
    if (memory) o.memory = memory;
    if (eng_models_create(&o, on_change, NULL, &ms, &err) != OK) fail_msg("%s", err.text);
    alarm(300); // ends a test that waits for what never comes
    return ms;
}

static void list_end(eng_models *ms) {
    eng_models_stop(ms);
    eng_models_destroy(ms);
    alarm(0);
}

static eng_file *named(eng_models *ms, const char *id) {
    eng_file *f;
    error err = {0};
    if (eng_models_find(ms, id, &f, &err) != OK) fail_msg("%s", err.text);
    return f;
}

// What comes of the load of f that is asked for now or was before.
static status awaited(eng_models *ms, eng_file *f, eng_model **out, error *err) {
    int64_t since = eng_now_ms();
    status s;
    pthread_mutex_lock(&change_lock);
    while ((s = eng_models_get(ms, f, since, out, err)) == E_BUSY) pthread_cond_wait(&change, &change_lock);
    pthread_mutex_unlock(&change_lock);
    return s;
}

static eng_model *held(eng_models *ms, eng_file *f) {
    error err = {0};
    eng_model *m = NULL;
    if (awaited(ms, f, &m, &err) != OK) fail_msg("%s: %s", f->id, err.text);
    return m;
}

static void asked(eng_models *ms, eng_file *f) {
    eng_model *m;
    assert_int_equal(eng_models_get(ms, f, eng_now_ms(), &m, NULL), E_BUSY);
}

// A file whose keys take memory by its layers; the bytes that it takes when loaded.
static uint64_t put_layers(const char *id, int layers) {
    char name[64];
    small_model m;
    small_spec s = {.arch = "gemma3", .e = 32, .layers = layers, .heads = 2, .kv = 1, .head = 16, .ff = 48, .vocab = 64, .post_norms = true, .tied = true};
    snprintf(name, sizeof name, "%s.gguf", id);
    small_begin(&m, &s);
    small_u32(&m, &s, "context_length", 2048);
    small_u32(&m, &s, "attention.sliding_window", 64);
    small_file(&m, &s, path_of(name));
    eng_models *ms = list_with(0, 600000);
    eng_file *f = named(ms, id);
    altiserve_stats st;
    eng_model_release(held(ms, f));
    eng_models_stats(ms, &st);
    eng_file_release(f);
    list_end(ms);
    return st.memory_used;
}

// The big one does not fit beside the busy one and small ones do: one is loaded while it waits, one that is idle is not dropped, which would not suffice, and
// the big one is loaded when the busy one's request ends.
static void who_waits_for_memory_stops_nobody(void **state) {
    (void)state;
    uint64_t busy = put_layers("busy", 12), big = put_layers("a-big", 60), small = put_layers("small", 1);
    put_layers("tiny", 1);
    eng_models *ms = list_with(big + busy / 2, 600000);
    assert_true(busy + 2 * small <= big + busy / 2);
    eng_file *f[] = {named(ms, "busy"), named(ms, "a-big"), named(ms, "small"), named(ms, "tiny")};
    eng_model *works = held(ms, f[0]), *m;
    eng_model_release(held(ms, f[2]));
    asked(ms, f[1]);
    eng_model_release(held(ms, f[3]));
    asked(ms, f[1]); // still, and no failure
    assert_int_equal(eng_models_get(ms, f[2], 0, &m, NULL), OK);
    eng_model_release(m);
    eng_model_release(works);
    eng_model_release(held(ms, f[1]));
    altiserve_stats st;
    eng_models_stats(ms, &st);
    assert_true(st.memory_used >= big && st.memory_used <= st.memory_limit);
    for (int i = 0; i < 4; i++) eng_file_release(f[i]);
    list_end(ms);
}

// However many models have streams, each has its turn: the one that was loaded first answers while 65 others are busy (with clients that do not read).
static void every_model_has_its_turn(void **state) {
    (void)state;
    enum { OTHERS = 65 };
    char id[OTHERS][16], name[32];
    altiserve_options o = toy_options();
    altiserve_request *r[OTHERS];
    altiserve_event e;
    error err = {0};
    put_layers("first", 1);
    for (int i = 0; i < OTHERS; i++) {
        snprintf(id[i], sizeof id[i], "m%d", i);
        snprintf(name, sizeof name, "m%d.gguf", i);
        assert_int_equal(link(path_of("first.gguf"), path_of(name)), 0);
    }
    o.models_dir = dir;
    o.context = 1024;
    o.parallel = 1;
    o.speculation = SPECULATE_OFF;
    altiserve *a = engine_with(o);
    altiserve_generate g = {.model = "first", .tokens = (int32_t[]){5, 6, 7}, .n_tokens = 3, .n = 1, .max_tokens = 4,
                            .logprobs = -1, .ignore_eos = true, .given = SAMPLING_TEMPERATURE};
    answer *before = ask(a, &g);
    for (int i = 0; i < OTHERS; i++) {
        altiserve_generate other = g;
        other.model = id[i];
        other.max_tokens = 1000;
        if (altiserve_submit(a, &other, &r[i], &err) != OK) fail_msg("%s", err.text);
        assert_int_equal(altiserve_next(r[i], UINT32_MAX, &e), EVENT_STARTED);
    }
    g.timeout_ms = 20000;
    answer *after = ask(a, &g);
    if (after->end != FINISH_LENGTH) fail_msg("%s", after->err.text);
    same_tokens(before, after, 0, 0);
    answer_free(before);
    answer_free(after);
    for (int i = 0; i < OTHERS; i++) altiserve_request_free(r[i]);
    altiserve_destroy(a);
}

// So many more file descriptors than there are, until the limit that is given back is set again.
static struct rlimit descriptors_left(rlim_t n) {
    struct rlimit before;
    int next = dup(0);
    assert_true(next >= 0);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)next + n, before.rlim_max}), 0);
    return before;
}

// The folder cannot be read, for want of file descriptors or of memory: what was listed stays. A folder that is gone has no models.
static void a_scan_that_fails_changes_nothing(void **state) {
    (void)state;
    char other[300];
    put_layers("one", 1);
    eng_models *ms = list_with(0, 600000);
    eng_file *one = named(ms, "one"), *found;
    struct rlimit before = descriptors_left(0);
    eng_models_rescan(ms);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_ptr_equal(found = named(ms, "one"), one);
    eng_file_release(found);
    for (int k = 1; k < 40; k++) { // another version, which may or may not be listed
        assert_int_equal(utimensat(AT_FDCWD, path_of("one.gguf"), (struct timespec[2]){{k, 0}, {k, 0}}, 0), 0);
        mem_fail_at(k);
        eng_models_rescan(ms);
        mem_fail_at(0);
        eng_file_release(named(ms, "one"));
    }
    snprintf(other, sizeof other, "%s-away", dir);
    assert_int_equal(rename(dir, other), 0);
    eng_models_rescan(ms);
    assert_int_equal(eng_models_find(ms, "one", &found, NULL), E_NOTFOUND);
    assert_int_equal(rename(other, dir), 0);
    eng_file_release(one);
    list_end(ms);
}

// A file that could not be opened, for want of file descriptors, is looked at again: by a scan, or by who names it by its path. Until then it is one and the same.
static void what_could_not_be_read_is_read_again(void **state) {
    (void)state;
    error err = {0};
    eng_file *again, *opened;
    eng_models *ms = list_with(0, 600000);
    put_layers("one", 1);
    struct rlimit before = descriptors_left(1); // the folder's
    eng_models_rescan(ms);
    eng_file *one = named(ms, "one");
    altiserve_model_info info;
    eng_models_info(ms, one, &info);
    assert_true(eng_file_servable(one, &err) == E_IO && info.state == MODEL_INCOMPLETE); // clients may come back
    eng_models_rescan(ms);
    assert_ptr_equal(again = named(ms, "one"), one);
    eng_file_release(again);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    before = descriptors_left(0);
    assert_int_equal(eng_models_open(ms, path_of("one.gguf"), &opened, &err), OK);
    assert_int_equal(eng_file_servable(opened, &err), E_IO);
    eng_file_release(opened);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    eng_file_release(one);
    eng_models_rescan(ms);
    one = named(ms, "one");
    eng_model_release(held(ms, one));
    assert_int_equal(eng_models_open(ms, path_of("one.gguf"), &opened, &err), OK);
    eng_model_release(held(ms, opened));
    eng_file_release(opened);
    eng_file_release(one);
    list_end(ms);
}

// A file has its vocabulary and template as soon as there is memory for them, wherever it was lacking before.
static void text_is_made_when_there_is_memory(void **state) {
    (void)state;
    put("one.gguf", SIZE_MAX, false);
    eng_models *ms = list_with(0, 600000);
    int failed = 0;
    for (int k = 1, clean = 0; clean < 40; k++) { // a few reserves do without
        error err = {0};
        assert_int_equal(utimensat(AT_FDCWD, path_of("one.gguf"), (struct timespec[2]){{k, 0}, {k, 0}}, 0), 0);
        eng_models_rescan(ms);
        eng_file *one = named(ms, "one");
        mem_fail_at(k);
        status s = eng_file_text(one, &err);
        mem_fail_at(0);
        failed += s != OK;
        clean = s == OK ? clean + 1 : 0;
        if (eng_file_text(one, &err) != OK || !one->tmpl) fail_msg("allocation %d: %s", k, err.text);
        eng_file_release(one);
    }
    assert_true(failed > 10);
    list_end(ms);
}

static void let_go(void *helper) { eng_model_release(helper); }

// Holds the loader at its line on one model, which it writes before it reads anything.
static struct { pthread_mutex_t lock; pthread_cond_t turn; bool reached, free; } gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false};

static void hold_loader(void *ctx, const char *line, size_t n) {
    if (!memmem(line, n, ctx, strlen(ctx))) return;
    pthread_mutex_lock(&gate.lock);
    gate.reached = true;
    pthread_cond_broadcast(&gate.turn);
    while (!gate.free) pthread_cond_wait(&gate.turn, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}

// While the loader is at another model and nothing else wakes the engine: who waits to have a model loaded is told when its time is up.
static void a_wait_to_load_has_an_end(void **state) {
    (void)state;
    error err = {0};
    altiserve_request *r;
    char line[] = "slow: loading";
    put_layers("slow", 1);
    put_layers("next", 1);
    altiserve_options o = toy_options();
    o.models_dir = dir;
    o.load_timeout_ms = 300;
    altiserve *a = engine_with(o);
    obs_set_level(OBS_INFO);
    obs_set_sink(hold_loader, line);
    assert_int_equal(altiserve_submit(a, &(altiserve_generate){.model = "slow", .loads = true}, &r, &err), OK);
    pthread_mutex_lock(&gate.lock);
    while (!gate.reached) pthread_cond_wait(&gate.turn, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
    altiserve_request_free(r);
    alarm(30); // ends a wait that has none
    assert_int_equal(altiserve_load(a, "next", NULL, NULL, &err), E_BUSY);
    alarm(0);
    assert_non_null(strstr(err.text, "--load-timeout"));
    pthread_mutex_lock(&gate.lock);
    gate.free = true;
    pthread_cond_broadcast(&gate.turn);
    pthread_mutex_unlock(&gate.lock);
    obs_set_sink(NULL, NULL);
    obs_set_level(OBS_ERROR);
    altiserve_destroy(a);
}

// A model that drafts for another is idle with it: both are dropped for who needs the room of both.
static void helpers_go_with_whom_they_help(void **state) {
    (void)state;
    uint64_t target = put_layers("target", 12), helper = put_layers("helper", 6), big = put_layers("big", 60);
    assert_true(big > target + helper);
    eng_models *ms = list_with(big + helper / 2, 600000); // not beside the helper
    eng_file *f[] = {named(ms, "target"), named(ms, "helper"), named(ms, "big")};
    eng_model *helped = held(ms, f[0]), *helps = held(ms, f[1]);
    helped->sched = helps; // as the scheduler's state holds a draft model
    helped->sched_free = let_go;
    eng_model_helped_by(helped, helps);
    eng_model_release(helped);
    eng_model_release(held(ms, f[2]));
    for (int i = 0; i < 3; i++) eng_file_release(f[i]);
    list_end(ms);
}

static void who_waited_longer_goes_first(void **state) {
    (void)state;
    uint64_t busy = put_layers("busy", 12), big = put_layers("z", 60);
    put_layers("a", 60);
    eng_models *ms = list_with(big + busy / 2, 600000);
    eng_file *f[] = {named(ms, "busy"), named(ms, "z"), named(ms, "a")};
    double before = obs_read(OBS_LOADS, "a", "ok");
    eng_model *works = held(ms, f[0]);
    asked(ms, f[1]);
    asked(ms, f[2]);
    eng_model_release(works);
    works = held(ms, f[1]);
    assert_true(obs_read(OBS_LOADS, "a", "ok") == before);
    asked(ms, f[2]);
    eng_model_release(works);
    eng_model_release(held(ms, f[2]));
    for (int i = 0; i < 3; i++) eng_file_release(f[i]);
    list_end(ms);
}

static bool is_ready(eng_models *ms, eng_file *f) {
    altiserve_model_info info;
    eng_models_info(ms, f, &info);
    return info.state == MODEL_READY;
}

// What was loaded is not dropped for the next before who asked for it came, and is when nobody comes.
static void who_was_loaded_is_kept_a_while(void **state) {
    (void)state;
    uint64_t big = put_layers("z", 60), small = put_layers("small", 1);
    put_layers("a", 60);
    eng_models *ms = list_with(big + small, 600000);
    eng_file *f[] = {named(ms, "z"), named(ms, "a"), named(ms, "small")};
    eng_model *m;
    asked(ms, f[0]);
    asked(ms, f[1]);
    pthread_mutex_lock(&change_lock);
    while (!is_ready(ms, f[0])) pthread_cond_wait(&change, &change_lock);
    pthread_mutex_unlock(&change_lock);
    eng_model_release(held(ms, f[2])); // the loader had the other one in hand before it
    assert_int_equal(eng_models_get(ms, f[0], 0, &m, NULL), OK);
    eng_model_release(m);
    eng_model_release(held(ms, f[1]));
    asked(ms, f[0]);
    pthread_mutex_lock(&change_lock);
    while (!is_ready(ms, f[0])) pthread_cond_wait(&change, &change_lock);
    pthread_mutex_unlock(&change_lock);
    eng_model_release(held(ms, f[1])); // nobody came
    for (int i = 0; i < 3; i++) eng_file_release(f[i]);
    list_end(ms);
}

// What is unloaded is idle: neither held, nor wanted, nor waiting for who asked for it.
static void who_is_wanted_is_not_unloaded(void **state) {
    (void)state;
    uint64_t busy = put_layers("busy", 12), big = put_layers("big", 60);
    eng_models *ms = list_with(big + busy / 2, 600000);
    eng_file *f[] = {named(ms, "busy"), named(ms, "big")};
    error err = {0};
    eng_model *works = held(ms, f[0]);
    asked(ms, f[1]);
    assert_int_equal(eng_models_unload(ms, f[1], &err), E_BUSY);
    assert_non_null(strstr(err.text, "big is being loaded"));
    assert_int_equal(eng_models_unload(ms, f[0], &err), E_BUSY);
    assert_non_null(strstr(err.text, "busy serves requests"));
    eng_model_release(works);
    pthread_mutex_lock(&change_lock);
    while (!is_ready(ms, f[1])) pthread_cond_wait(&change, &change_lock);
    pthread_mutex_unlock(&change_lock);
    assert_int_equal(eng_models_unload(ms, f[1], &err), E_BUSY); // who asked has not come yet
    eng_model_release(held(ms, f[1]));
    assert_int_equal(eng_models_unload(ms, f[1], &err), OK);
    altiserve_stats st;
    eng_models_stats(ms, &st);
    assert_true(st.memory_used == 0);
    eng_model_release(held(ms, f[1])); // and can come back
    for (int i = 0; i < 2; i++) eng_file_release(f[i]);
    list_end(ms);
}

// A wait ends when its time is up, though nothing happens then.
static void a_wait_for_memory_has_an_end(void **state) {
    (void)state;
    uint64_t busy = put_layers("busy", 12), big = put_layers("big", 60);
    eng_models *ms = list_with(big + busy / 2, 50);
    eng_file *f[] = {named(ms, "busy"), named(ms, "big")};
    eng_model *works = held(ms, f[0]), *m;
    error err = {0};
    assert_int_equal(awaited(ms, f[1], &m, &err), E_NOMEM);
    assert_non_null(strstr(err.text, "while other models serve requests"));
    eng_model_release(works);
    eng_model_release(held(ms, f[1]));
    for (int i = 0; i < 2; i++) eng_file_release(f[i]);
    list_end(ms);
}

// A helper that failed for want of memory and is asked for again displaces nobody; who then asks for that model itself does.
static void a_helpers_modesty_is_its_own(void **state) {
    (void)state;
    uint64_t busy = put_layers("busy", 12), big = put_layers("big", 60);
    eng_models *ms = list_with(big > busy ? big : busy, 600000);
    eng_file *f[] = {named(ms, "busy"), named(ms, "big")};
    eng_model *works = held(ms, f[1]), *m;
    status s;
    pthread_mutex_lock(&change_lock);
    while ((s = eng_models_get_beside(ms, f[0], &m, NULL)) == E_BUSY) pthread_cond_wait(&change, &change_lock);
    pthread_mutex_unlock(&change_lock);
    assert_int_equal(s, E_NOMEM);
    assert_int_equal(eng_models_get_beside(ms, f[0], &m, NULL), E_NOMEM); // as before; no load is begun
    double failed = obs_read(OBS_LOADS, "busy", "error");
    eng_model_release(works);
    eng_model_release(held(ms, f[0]));
    assert_true(obs_read(OBS_LOADS, "busy", "error") == failed);
    for (int i = 0; i < 2; i++) eng_file_release(f[i]);
    list_end(ms);
}

static eng_models *both_list;
static eng_file   *both_file;
static status      both_said[2];

static void ask_both(void) {
    eng_model *m;
    both_said[0] = eng_models_get_beside(both_list, both_file, &m, NULL);
    both_said[1] = eng_models_get(both_list, both_file, eng_now_ms(), &m, NULL);
}

// A helper's load that was not begun, and then a request asks for the same model.
static void who_asks_for_a_helper_displaces(void **state) {
    (void)state;
    uint64_t big = put_layers("big", 60), small = put_layers("small", 1);
    put_layers("helper", 12);
    eng_models *ms = both_list = list_with(big + small, 600000);
    eng_file *f[] = {named(ms, "big"), named(ms, "small"), both_file = named(ms, "helper")};
    double failed = obs_read(OBS_LOADS, "helper", "error");
    eng_model_release(held(ms, f[0]));
    between_loads = ask_both;
    eng_model_release(held(ms, f[1]));
    assert_int_equal(both_said[0], E_BUSY);
    assert_int_equal(both_said[1], E_BUSY);
    eng_model_release(held(ms, f[2]));
    assert_true(obs_read(OBS_LOADS, "helper", "error") == failed);
    for (int i = 0; i < 3; i++) eng_file_release(f[i]);
    list_end(ms);
}

static atomic_bool walk_on, found;

static void *walk(void *arg) {
    void **what = arg;
    eng_model *m;
    while (atomic_load(&walk_on))
        if (eng_models_get(what[0], what[1], eng_now_ms(), &m, NULL) != E_NOTFOUND) atomic_store(&found, true);
    return NULL;
}

// Files are named by path while others look through the list of them, for a version that is gone.
static void paths_are_opened_while_the_list_is_read(void **state) {
    (void)state;
    put("one", SIZE_MAX, false);
    put("other", SIZE_MAX, false);
    eng_models *ms = list_with(0, 600000);
    eng_file *gone, *f;
    pthread_t thread;
    char name[32];
    assert_int_equal(link(path_of("one"), path_of("p-0")), 0);
    assert_int_equal(eng_models_open(ms, path_of("p-0"), &gone, NULL), OK);
    put("p-0", SIZE_MAX, false);
    pthread_mutex_lock(&change_lock);
    int before = changes;
    pthread_mutex_unlock(&change_lock);
    assert_int_equal(eng_models_open(ms, path_of("p-0"), &f, NULL), OK);
    assert_ptr_not_equal(f, gone);
    eng_file_release(f);
    assert_int_equal(changes, before + 1); // who waits for the old one is told
    atomic_store(&walk_on, true);
    assert_int_equal(pthread_create(&thread, NULL, walk, (void *[]){ms, gone}), 0);
    for (int i = 0; i < 300; i++) { // a hundred files, each replaced twice
        snprintf(name, sizeof name, "p-%d", 1 + i % 100);
        assert_int_equal(link(path_of(i / 100 % 2 ? "other" : "one"), path_of("next")), 0);
        assert_int_equal(rename(path_of("next"), path_of(name)), 0);
        assert_int_equal(eng_models_open(ms, path_of(name), &f, NULL), OK);
        eng_file_release(f);
    }
    atomic_store(&walk_on, false);
    pthread_join(thread, NULL);
    assert_false(atomic_load(&found));
    eng_file_release(gone);
    list_end(ms);
}

static void the_folder_is_watched(void **state) {
    (void)state;
    altiserve_options o = toy_options();
    o.models_dir = dir;
    o.rescan = true;
    altiserve *a = engine_with(o);
    altiserve_model_info info;
    put("late.gguf", SIZE_MAX, false);
    time_t until = time(NULL) + 30; // found within a second or two; a bound for a machine under load
    while (state_of(a, "late", &info) != OK && time(NULL) < until) usleep(20000);
    serves(a, "late");
    altiserve_destroy(a);
}

static void a_split_model_is_one(void **state) {
    (void)state;
    altiserve_model_info info;
    error err;
    altiserve_request *r;
    put_part("cut", 0, 3, NULL, NULL);
    altiserve *a = folder(0);
    assert_int_equal(state_of(a, "cut", &info), OK);
    assert_int_equal(info.state, MODEL_INCOMPLETE); // the rest may still be on its way
    altiserve_generate g = greedy("Hello", 12);
    g.model = "cut";
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_INCOMPLETE);
    put_part("cut", 2, 3, NULL, NULL);
    altiserve_rescan(a);
    assert_int_equal(altiserve_submit(a, &g, &r, &err), E_INCOMPLETE);
    put_part("cut", 1, 3, NULL, NULL);
    altiserve_rescan(a);
    listed(a, "cut "); // once, without its suffix
    answer *whole, *parts = ask(a, &g);
    g.model = "toy-1";
    whole = ask(a, &g);
    assert_int_equal(parts->n_tokens[0], 12);
    same_tokens(whole, parts, 0, 0);
    answer_free(whole);
    answer_free(parts);
    unlink(path_of("cut-00002-of-00003.gguf")); // a part goes: no new loads, listed with its error
    altiserve_rescan(a);
    assert_int_equal(state_of(a, "cut", &info), OK);
    assert_int_equal(info.state, MODEL_INCOMPLETE);
    altiserve_destroy(a);
}

static void paths_open_only_where_allowed(void **state) {
    (void)state;
    put("a.gguf", SIZE_MAX, false);
    altiserve *a = folder(0);
    altiserve_model_info info;
    error err = {0};
    assert_int_equal(state_of(a, path_of("a.gguf"), &info), E_NOTFOUND);
    assert_int_equal(altiserve_model(a, dir, &info, &err), E_NOTFOUND);
    assert_null(strstr(err.text, "folder")); // a client is not told what there is on the disk
    altiserve_destroy(a);
    altiserve_options o = toy_options();
    o.open_paths = true;
    a = engine_with(o);
    serves(a, path_of("a.gguf"));
    assert_int_equal(altiserve_model(a, dir, &info, &err), E_NOTFOUND);
    assert_non_null(strstr(err.text, "is a folder; name a .gguf file in it"));
    altiserve_destroy(a);
}

int main(void) {
    obs_set_level(OBS_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_come_and_go, setup, teardown), cmocka_unit_test_setup_teardown(broken_and_incomplete, setup, teardown),
        cmocka_unit_test_setup_teardown(running_requests_keep_their_version, setup, teardown),
        cmocka_unit_test_setup_teardown(models_share_memory, setup, teardown), cmocka_unit_test_setup_teardown(a_load_waits_for_the_busy_one, setup, teardown),
        cmocka_unit_test_setup_teardown(models_are_loaded_and_unloaded_on_request, setup, teardown),
        cmocka_unit_test_setup_teardown(who_thinks_is_told, setup, teardown), cmocka_unit_test_setup_teardown(templates_are_shown, setup, teardown),
        cmocka_unit_test_setup_teardown(who_is_wanted_is_not_unloaded, setup, teardown),
        cmocka_unit_test_setup_teardown(a_broken_tokenizer_ends_the_load, setup, teardown),
        cmocka_unit_test_setup_teardown(who_waits_for_memory_stops_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(every_model_has_its_turn, setup, teardown),
        cmocka_unit_test_setup_teardown(a_scan_that_fails_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(what_could_not_be_read_is_read_again, setup, teardown),
        cmocka_unit_test_setup_teardown(text_is_made_when_there_is_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(a_wait_to_load_has_an_end, setup, teardown),
        cmocka_unit_test_setup_teardown(helpers_go_with_whom_they_help, setup, teardown),
        cmocka_unit_test_setup_teardown(who_waited_longer_goes_first, setup, teardown), cmocka_unit_test_setup_teardown(who_was_loaded_is_kept_a_while, setup, teardown),
        cmocka_unit_test_setup_teardown(a_wait_for_memory_has_an_end, setup, teardown),
        cmocka_unit_test_setup_teardown(a_helpers_modesty_is_its_own, setup, teardown), cmocka_unit_test_setup_teardown(who_asks_for_a_helper_displaces, setup, teardown),
        cmocka_unit_test_setup_teardown(paths_are_opened_while_the_list_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(the_folder_is_watched, setup, teardown),
        cmocka_unit_test_setup_teardown(a_split_model_is_one, setup, teardown), cmocka_unit_test_setup_teardown(paths_open_only_where_allowed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
