// What altiserve.h promises about the engine as a whole, about models and about text. Requests are in eng_request.c, jobs in eng_jobs.c.
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/os.h"
#include "engine/eng_draft.h"
#include "engine/eng_load.h"
#include "engine/eng_responses.h"
#include "engine/eng_sched.h"
#include "engine/eng_tiers.h"

const char *altiserve_version(void) { return ALTISERVE_VERSION; }

altiserve_options altiserve_defaults(void) { return (altiserve_options){.rescan = true, .prefix_cache = true}; }

static bool keep(char **to, const char **from) {
    if (!*from) return true;
    *to = mem_strdup(*from);
    *from = *to;
    return *to != NULL;
}

status altiserve_create(const altiserve_options *options, altiserve **out, error *err) {
    altiserve *a = mem_calloc(1, sizeof *a);
    if (!a) return error_set(err, E_NOMEM, "no memory for the engine");
    a->o = *options;
    if (!a->o.load_timeout_ms) a->o.load_timeout_ms = 600000;
    if (!a->o.parallel) a->o.parallel = 64;
    if (!a->o.queue) a->o.queue = 256;
    if (!a->o.step_tokens) a->o.step_tokens = 512;
    if (a->o.draft_max <= 0) a->o.draft_max = 8;
    if (a->o.draft_max > ALTISERVE_MOST_DRAFTS) a->o.draft_max = ALTISERVE_MOST_DRAFTS;
    device *dev = NULL;
    bool kept = keep(&a->models_dir, &a->o.models_dir) && keep(&a->kv_type, &a->o.kv_type) && keep(&a->device, &a->o.device) && keep(&a->isa, &a->o.isa) &&
                keep(&a->cache_dir, &a->o.cache_dir) && keep(&a->draft_name, &a->o.draft);
    status s = kept ? OK : error_set(err, E_NOMEM, "no memory for the engine");
    if (s == OK) s = eng_load_device(&a->o, &dev, err); // a wrong --device or --cpu is said now, not at the first request
    dev_destroy(dev);
    if (s == OK) s = eng_sched_create(&a->o, &a->sched, err);
    if (s == OK) s = eng_models_create(&a->o, eng_sched_wake, a->sched, &a->models, err);
    if (s == OK) s = eng_tiers_create(&a->o, &a->tiers, err);
    if (s == OK) s = eng_responses_create(a->o.responses, a->o.response_bytes ? a->o.response_bytes : 64u << 20, &a->responses, err);
    eng_file *draft = NULL;
    if (s == OK && a->o.draft && a->o.speculation != SPECULATE_OFF) s = eng_models_open(a->models, a->o.draft, &draft, err);
    if (draft) {
        a->draft = draft;
        atomic_fetch_add(&draft->refs, 1); // one is the scheduler's
        if ((s = eng_file_servable(draft, err)) == OK) s = eng_file_text(draft, err);
    }
    if (s == OK) s = eng_sched_start(a->sched, a->models, a->tiers, draft, err);
    else eng_file_release(draft);
    if (s != OK) {
        altiserve_destroy(a);
        return s;
    }
    *out = a;
    return OK;
}

void altiserve_drain(altiserve *a, uint32_t deadline_ms) { eng_sched_drain(a->sched, deadline_ms); }

void altiserve_destroy(altiserve *a) {
    if (!a) return;
    if (a->models) eng_models_stop(a->models);
    if (a->sched) eng_sched_destroy(a->sched);
    eng_file_release(a->draft);
    eng_models_destroy(a->models);
    eng_tiers_destroy(a->tiers);
    eng_responses_destroy(a->responses);
    mem_free(a->models_dir);
    mem_free(a->kv_type);
    mem_free(a->device);
    mem_free(a->isa);
    mem_free(a->cache_dir);
    mem_free(a->draft_name);
    mem_free(a);
}

void altiserve_models(altiserve *a, void (*fn)(void *, const altiserve_model_info *), void *ctx) { eng_models_each(a->models, fn, ctx); }

void altiserve_rescan(altiserve *a) { eng_models_rescan(a->models); }

status altiserve_model(altiserve *a, const char *id, altiserve_model_info *out, error *err) {
    eng_file *f;
    status s = eng_models_find(a->models, id, &f, err);
    if (s != OK) return s;
    eng_models_info(a->models, f, out);
    eng_file_release(f);
    return OK;
}

status altiserve_check_draft(altiserve *a, const char *id, error *err) {
    eng_file *f;
    if (!a->draft) return OK;
    status s = eng_models_find(a->models, id, &f, err);
    if (s != OK) return s;
    s = eng_file_text(f, err);
    if (s == OK) s = eng_draft_fits(f, a->draft, err);
    eng_file_release(f);
    return s;
}

void altiserve_get_stats(altiserve *a, altiserve_stats *out) {
    memset(out, 0, sizeof *out);
    out->parallel = (uint32_t)a->o.parallel;
    eng_models_stats(a->models, out);
    eng_sched_stats(a->sched, out);
}

void altiserve_each_stats(altiserve *a, void (*fn)(void *, const altiserve_model_stats *), void *ctx) { eng_sched_each(a->sched, fn, ctx); }

static status nothing(void *ctx, eng_model *m, error *err) {
    (void)ctx, (void)m, (void)err;
    return OK;
}

struct watch {
    altiserve *a;
    eng_file *f;
    void (*progress)(void *, uint64_t, uint64_t);
    void *ctx;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool done;
};

// Reports the progress of a load ten times a second until it is over.
static void *watch_main(void *arg) {
    struct watch *w = arg;
    pthread_mutex_lock(&w->lock);
    while (!w->done) {
        os_cond_wait_for(&w->wake, &w->lock, 100);
        uint64_t done, total;
        if (!w->done && eng_models_progress(w->a->models, w->f, &done, &total)) w->progress(w->ctx, done, total);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

status altiserve_load(altiserve *a, const char *id, void (*progress)(void *, uint64_t, uint64_t), void *ctx, error *err) {
    struct watch w = {.a = a, .progress = progress, .ctx = ctx, .lock = PTHREAD_MUTEX_INITIALIZER};
    status s = eng_models_find(a->models, id, &w.f, err);
    if (s != OK) return s;
    os_cond_init(&w.wake);
    pthread_t thread;
    bool watched = progress && pthread_create(&thread, NULL, watch_main, &w) == 0;
    s = eng_sched_job(a->sched, w.f, nothing, NULL, err);
    if (watched) {
        pthread_mutex_lock(&w.lock);
        w.done = true;
        pthread_cond_signal(&w.wake);
        pthread_mutex_unlock(&w.lock);
        pthread_join(thread, NULL);
    }
    pthread_cond_destroy(&w.wake);
    eng_file_release(w.f);
    return s;
}

status altiserve_unload(altiserve *a, const char *id, error *err) {
    eng_file *f;
    status s = eng_models_find(a->models, id, &f, err);
    if (s != OK) return s;
    s = eng_models_unload(a->models, f, err);
    eng_file_release(f);
    return s;
}

// ---- text ----------------------------------------------------------------------------------------

static status find_text(altiserve *a, const char *id, eng_file **f, error *err) {
    status s = eng_models_find(a->models, id, f, err);
    if (s == OK && (s = eng_file_text(*f, err)) != OK) eng_file_release(*f);
    return s;
}

static status take_ids(tok_ids *list, status s, int32_t **ids, size_t *n) {
    if (s != OK) {
        tok_ids_free(list);
        return s;
    }
    *ids = list->ids;
    *n = list->count;
    return OK;
}

status altiserve_tokenize(altiserve *a, const char *id, const char *text, size_t len, unsigned flags, int32_t **ids, size_t *n, error *err) {
    eng_file *f;
    tok_ids list = {0};
    status s = find_text(a, id, &f, err);
    if (s != OK) return s;
    unsigned how = (flags & TOKENIZE_ADD_SPECIAL ? TOK_ADD_SPECIAL : 0) | (flags & TOKENIZE_PARSE_SPECIAL ? TOK_PARSE_CONTROL : 0);
    s = tok_encode(f->tok, text, len, how, &list, err);
    eng_file_release(f);
    return take_ids(&list, s, ids, n);
}

status altiserve_tokenize_chat(altiserve *a, const char *id, const char *input, size_t len, int32_t **ids, size_t *n, error *err) {
    eng_file *f;
    chat_spans spans = {0};
    tok_ids list = {0};
    status s = find_text(a, id, &f, err);
    if (s != OK) return s;
    s = eng_file_render(f, input, len, &spans, err);
    if (s == OK) s = eng_file_encode(f, &spans, &list, err);
    chat_spans_free(&spans);
    eng_file_release(f);
    return take_ids(&list, s, ids, n);
}

status altiserve_detokenize(altiserve *a, const char *id, const int32_t *ids, size_t n, char **text, size_t *len, error *err) {
    eng_file *f;
    strbuf out = {0};
    status s = find_text(a, id, &f, err);
    if (s != OK) return s;
    s = tok_decode(f->tok, ids, n, TOK_SPELL_SPECIAL, &out, err);
    eng_file_release(f);
    *len = out.len;
    *text = s == OK ? strbuf_take(&out) : NULL;
    strbuf_free(&out);
    return s == OK && !*text ? error_set(err, E_NOMEM, "no memory for the text of %zu tokens", n) : s;
}

status altiserve_template(altiserve *a, const char *id, const char *input, size_t len, char **text, size_t *text_len, error *err) {
    eng_file *f;
    status s = find_text(a, id, &f, err);
    if (s != OK) return s;
    chat_spans spans = {0};
    s = eng_file_render(f, input, len, &spans, err);
    eng_file_release(f);
    if (s == OK) s = chat_spans_text(&spans, text, text_len, err);
    chat_spans_free(&spans);
    return s;
}

status altiserve_chat_template(altiserve *a, const char *id, char **text, size_t *len, error *err) {
    eng_file *f;
    gguf *g;
    status s = eng_models_find(a->models, id, &f, err);
    if (s != OK) return s;
    s = eng_file_open(f, &g, err); // compiled templates do not keep their source
    if (s == OK) {
        const char *none = f->info.generates ? chat_default_template() : "";
        gguf_str source = {none, strlen(none)}, own;
        if (gguf_get_string(g, "tokenizer.chat_template", &own, NULL) == OK && own.len) source = own;
        *len = source.len;
        if (!(*text = mem_strndup(source.ptr, source.len))) s = error_set(err, E_NOMEM, "no memory for the chat template of %s", f->id);
        gguf_close(g);
    }
    eng_file_release(f);
    return s;
}

status altiserve_template_text(const char *source, size_t source_len, const char *input, size_t len, char **text, size_t *text_len, error *err) {
    chat_template *t = NULL;
    chat_spans spans = {0};
    json_t *json = NULL;
    status s = chat_template_compile(source, source_len, &t, err);
    if (s == OK) s = eng_parse_conversation(input, len, &json, err);
    if (s == OK) s = chat_render(t, json, &spans, err);
    if (s == OK) s = chat_spans_text(&spans, text, text_len, err);
    chat_spans_free(&spans);
    chat_template_free(t);
    json_decref(json);
    return s;
}
