// api/api_embed: /v1/embeddings, /v1/rerank and its other names, Ollama's /api/embed and /api/embeddings.
//
// A list becomes one engine request an element (job_embed); its answer is written when all have ended. What a request asks for is read into
// the job before anything is submitted, so that a wrong field costs nothing. Elements point into the list, all that the job keeps of the body.
#include <stdlib.h>
#include <string.h>

#include "api/api_base64.h"
#include "api/api_internal.h"

enum { MAX_INPUTS = 2048 };

// ---- fields --------------------------------------------------------------------------------------

static const json_t *given(const job *j, const char *name) {
    const json_t *v = json_object_get(j->body, name);
    return json_is_null(v) ? NULL : v;
}

// The table's fields for an endpoint, into j->p.
static bool read_fields(job *j, unsigned where, api_error *e) {
    api_begin_fields(&j->p);
    j->p.truncate = true;
    j->p.encoding_format = "float";
    return api_read_fields(&j->p, j->body, where, "", e);
}

static bool check_input(const job *j, const json_t *v, const char *param, api_error *e) {
    if (json_is_string(v)) return json_string_length(v) || api_fail(e, 400, param, "invalid_value", "%s is an empty string", param);
    if (!api_is_ids(v))
        return api_fail(e, 400, param, "invalid_type", "%s must be a string or an array of token ids, not %s", param,
                        json_is_array(v) ? "an empty or mixed array" : api_json_type(v));
    return api_check_ids(v, j->model.vocabulary, param, e);
}

static bool is_list(const json_t *input) { return json_is_array(input) && !api_is_ids(input); }

// A string, a list of ids, or a list of those; *n elements.
static bool check_inputs(job *j, const char *name, uint32_t *n, api_error *e) {
    const json_t *input = given(j, name);
    if (!input) return api_fail(e, 400, name, "missing_required_parameter", "%s is missing", name);
    *n = 1;
    if (!is_list(input)) return check_input(j, input, name, e);
    size_t count = json_array_size(input);
    if (!count || count > MAX_INPUTS) return api_fail(e, 400, name, "invalid_value", "%s must hold 1 to %d elements, not %zu", name, MAX_INPUTS, count);
    *n = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        char param[96];
        snprintf(param, sizeof param, "%.60s[%zu]", name, i);
        if (!check_input(j, json_array_get(input, i), param, e)) return false;
    }
    return true;
}

static void set_element(const json_t *v, altiserve_embed *what) {
    if (json_is_string(v)) {
        what->text = json_string_value(v);
        what->text_len = json_string_length(v);
        return;
    }
    int32_t *ids = mem_calloc(json_array_size(v), sizeof *ids);
    if (!ids) return; // nothing to embed: job_embed says that memory is gone
    api_copy_ids(v, ids);
    what->tokens = ids;
    what->n_tokens = json_array_size(v);
}

static void set_from(job *j, const char *name, uint32_t i, altiserve_embed *what) {
    const json_t *input = given(j, name);
    set_element(is_list(input) ? json_array_get(input, i) : input, what);
}

// Checks that the model embeds.
static bool find_embedder(job *j, const char *name, api_error *e) {
    if (!api_find_model(j, name, &j->model, e)) return false;
    if (j->model.embeds) return true;
    return api_fail(e, 400, "model", "model_not_supported", "the model \"%.100s\" makes no embeddings: it is for ranking, POST /v1/rerank", j->model.id);
}

// ---- answers -------------------------------------------------------------------------------------

static void put_floats(strbuf *out, const float *x, size_t n) {
    strbuf_addc(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i) strbuf_addc(out, ',');
        api_put_float(out, x[i]);
    }
    strbuf_addc(out, ']');
}

// float32, little-endian, in base64.
static void put_base64(strbuf *out, const float *x, size_t n) {
    unsigned char *bytes = mem_alloc(4 * n);
    for (size_t i = 0; bytes && i < 4 * n; i++) {
        uint32_t word;
        memcpy(&word, &x[i / 4], 4);
        bytes[i] = (unsigned char)(word >> 8 * (i % 4));
    }
    strbuf_addc(out, '"');
    if (!bytes || !api_put_base64(out, bytes, 4 * n)) out->failed = true;
    strbuf_addc(out, '"');
    mem_free(bytes);
}

// The first `dimensions` values, at unit length again (Matryoshka embeddings are trained for it); returns how many.
static size_t shorten(const job *j, part *p) {
    size_t want = (size_t)j->p.dimensions; // 0: all
    if (!want || want >= p->n_embedding) return p->n_embedding;
    altiserve_unit_length(p->embedding, want);
    return want;
}

static bool check_dimensions(const job *j, api_error *e) {
    if (j->p.dimensions <= j->model.embedding_width) return true;
    return api_fail(e, 400, "dimensions", "invalid_value", "dimensions is %lld; the embeddings of %.100s have %u",
                    (long long)j->p.dimensions, j->model.id, j->model.embedding_width);
}

static void put_usage(const job *j, strbuf *out) {
    uint32_t n = job_usage(j).prompt_tokens;
    strbuf_addf(out, "\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u}", n, n);
}

// ---- /v1/embeddings ------------------------------------------------------------------------------

static void put_list(job *j, strbuf *out, bool base64) {
    strbuf_adds(out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < j->n_parts; i++) {
        strbuf_addf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", i ? "," : "", i);
        size_t n = shorten(j, &j->parts[i]);
        if (base64) put_base64(out, j->parts[i].embedding, n);
        else put_floats(out, j->parts[i].embedding, n);
        strbuf_addc(out, '}');
    }
    strbuf_adds(out, "],\"model\":");
    api_put_string(out, j->model.id, strlen(j->model.id));
    strbuf_addc(out, ',');
    put_usage(j, out);
    strbuf_addc(out, '}');
}

static void whole_floats(job *j, strbuf *out) { put_list(j, out, false); }
static void whole_base64(job *j, strbuf *out) { put_list(j, out, true); }
static const dialect floats = {.whole = whole_floats}, base64 = {.whole = whole_base64};

static void set_input(job *j, uint32_t i, altiserve_embed *what) { set_from(j, "input", i, what); }

void api_embeddings(job *j) {
    if (!job_body(j)) return;
    api_error e;
    uint32_t n = 0;
    bool ok = read_fields(j, FOR_EMBEDDINGS, &e) && find_embedder(j, j->p.model, &e) && check_inputs(j, "input", &n, &e) && check_dimensions(j, &e);
    const char *format = j->p.encoding_format;
    if (ok && strcmp(format, "float") && strcmp(format, "base64"))
        ok = api_fail(&e, 400, "encoding_format", "invalid_value", "encoding_format must be \"float\" or \"base64\", not \"%.40s\"", format);
    if (ok && j->p.stream) ok = api_fail(&e, 400, "stream", "invalid_value", "embeddings are not streamed");
    if (!ok) {
        job_fail(j, &e);
        return;
    }
    job_embed(j, *format == 'b' ? &base64 : &floats, n, set_input, "input");
}

// ---- Ollama --------------------------------------------------------------------------------------

static void put_timings(job *j, strbuf *out) {
    altiserve_usage u = job_usage(j);
    strbuf_addf(out, "\"total_duration\":%.0f,\"load_duration\":%.0f,\"prompt_eval_count\":%u}", (api_now() - j->arrived) * 1e9, u.load_s * 1e9, u.prompt_tokens);
}

// No text, or a list of none: Ollama loads the model then, and answers without embeddings.
static bool is_nothing(const json_t *input) {
    return json_is_string(input) ? !json_string_length(input) : json_is_array(input) && !json_array_size(input);
}

static void whole_ollama(job *j, strbuf *out) {
    strbuf_adds(out, "{\"model\":");
    api_put_string(out, j->model.id, strlen(j->model.id));
    strbuf_adds(out, ",\"embeddings\":[");
    for (uint32_t i = 0; i < j->n_parts && !j->p.g.loads; i++) {
        if (i) strbuf_addc(out, ',');
        put_floats(out, j->parts[i].embedding, shorten(j, &j->parts[i]));
    }
    strbuf_adds(out, "],");
    put_timings(j, out);
}

static void whole_ollama_one(job *j, strbuf *out) {
    strbuf_adds(out, "{\"embedding\":");
    put_floats(out, j->parts[0].embedding, j->parts[0].n_embedding);
    strbuf_addc(out, '}');
}

static const dialect ollama = {.whole = whole_ollama}, ollama_one = {.whole = whole_ollama_one};

// Texts longer than the context are cut there unless a request says otherwise.
static void set_ollama(job *j, uint32_t i, altiserve_embed *what) {
    set_input(j, i, what);
    what->truncate = j->p.truncate;
}

static void set_ollama_one(job *j, uint32_t i, altiserve_embed *what) {
    set_from(j, "prompt", i, what);
    what->truncate = what->raw = true;
}

void api_ollama_embed(job *j) {
    if (!job_body(j)) return;
    api_error e;
    uint32_t n = 0;
    const json_t *input = given(j, "input");
    if (!read_fields(j, FOR_OLLAMA_EMBED, &e) || !find_embedder(j, j->p.model, &e) || !check_dimensions(j, &e) ||
        !(is_nothing(input) || check_inputs(j, "input", &n, &e))) {
        job_fail(j, &e);
        return;
    }
    if (n) job_embed(j, &ollama, n, set_ollama, "input");
    else job_load(j, &ollama);
}

void api_ollama_embeddings(job *j) {
    if (!job_body(j)) return;
    api_error e;
    const json_t *prompt = given(j, "prompt");
    bool ok = read_fields(j, FOR_OLLAMA_EMBED, &e) && find_embedder(j, j->p.model, &e);
    if (ok && !prompt) ok = api_fail(&e, 400, "prompt", "missing_required_parameter", "prompt is missing");
    if (ok && !json_is_string(prompt)) ok = api_fail(&e, 400, "prompt", "invalid_type", "prompt must be a string, not %s", api_json_type(prompt));
    if (!ok) {
        job_fail(j, &e);
        return;
    }
    if (is_nothing(prompt)) job_load(j, &ollama_one);
    else job_embed(j, &ollama_one, 1, set_ollama_one, "prompt");
}

// ---- ranking -------------------------------------------------------------------------------------

// Leaves a list of strings: of a document that is an object, its text.
static bool check_documents(job *j, uint32_t *n, api_error *e) {
    json_t *list = json_object_get(j->body, "documents");
    if (json_is_null(list)) list = NULL;
    if (!list) return api_fail(e, 400, "documents", "missing_required_parameter", "documents is missing");
    if (!json_is_array(list)) return api_fail(e, 400, "documents", "invalid_type", "documents must be an array, not %s", api_json_type(list));
    size_t count = json_array_size(list);
    if (!count || count > MAX_INPUTS) return api_fail(e, 400, "documents", "invalid_value", "documents must hold 1 to %d elements, not %zu", MAX_INPUTS, count);
    *n = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        char param[40];
        snprintf(param, sizeof param, "documents[%zu]", i);
        const json_t *d = json_array_get(list, i);
        json_t *text = json_is_object(d) ? json_object_get(d, "text") : NULL;
        if (!json_is_string(text ? text : d))
            return api_fail(e, 400, param, "invalid_type", "%s must be a string or an object with a string \"text\", not %s", param, api_json_type(d));
        if (text) json_array_set(list, i, text); // in its own place: this cannot fail
    }
    return true;
}

static void set_pair(job *j, uint32_t i, altiserve_embed *what) {
    const json_t *d = json_array_get(given(j, "documents"), i);
    what->text = j->p.query;
    what->text_len = strlen(j->p.query);
    what->pair = json_string_value(d);
    what->pair_len = json_string_length(d);
}

typedef struct ranked { uint32_t index; float score; } ranked;

static int best_first(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static void whole_ranks(job *j, strbuf *out) {
    ranked *order = mem_calloc(j->n_parts, sizeof *order);
    if (!order) {
        out->failed = true;
        return;
    }
    for (uint32_t i = 0; i < j->n_parts; i++) order[i] = (ranked){i, j->parts[i].embedding[0]};
    qsort(order, j->n_parts, sizeof *order, best_first);
    uint32_t n = j->p.top_n && j->p.top_n < j->n_parts ? (uint32_t)j->p.top_n : j->n_parts;
    strbuf_adds(out, "{\"object\":\"list\",\"model\":");
    api_put_string(out, j->model.id, strlen(j->model.id));
    strbuf_addc(out, ',');
    put_usage(j, out);
    strbuf_adds(out, ",\"results\":[");
    for (uint32_t i = 0; i < n; i++) {
        strbuf_addf(out, "%s{\"index\":%u,\"relevance_score\":", i ? "," : "", order[i].index);
        api_put_float(out, order[i].score);
        if (j->p.return_documents) {
            const json_t *d = json_array_get(given(j, "documents"), order[i].index);
            strbuf_adds(out, ",\"document\":{\"text\":");
            api_put_string(out, json_string_value(d), json_string_length(d));
            strbuf_addc(out, '}');
        }
        strbuf_addc(out, '}');
    }
    strbuf_adds(out, "]}");
    mem_free(order);
}

static const dialect ranks = {.whole = whole_ranks};

void api_rerank(job *j) {
    if (!job_body(j)) return;
    api_error e;
    uint32_t n = 0;
    bool ok = read_fields(j, FOR_RERANK, &e) && api_find_model(j, j->p.model, &j->model, &e);
    if (ok && !j->model.ranks)
        ok = api_fail(&e, 400, "model", "model_not_supported", "the model \"%.100s\" cannot rank: it has no head for scores; it is for %s", j->model.id,
                      j->model.generates && !j->model.embedding_model ? "text, POST /v1/chat/completions" : "embeddings, POST /v1/embeddings");
    if (ok && (!j->p.query || !*j->p.query)) ok = api_fail(&e, 400, "query", "missing_required_parameter", "query is missing or empty");
    if (!ok || !check_documents(j, &n, &e)) {
        job_fail(j, &e);
        return;
    }
    job_embed(j, &ranks, n, set_pair, "documents");
}
