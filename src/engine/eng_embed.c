// Owns requests for embeddings and scores: what their prompt is, and what is made of the model's row.
//
// They go through the same queue and steps as answers do, as a choice that draws nothing: its prompt is computed, its one row becomes an event, it is done.
// A pair of texts (query, document) is written as the file's ranking template says, else as BERT's and RoBERTa's kin were taught: [CLS] query [SEP] document [SEP],
// with the tokens that the vocabulary adds.
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "engine/eng_request.h"

void altiserve_unit_length(float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    double scale = sum > 0 ? 1 / sqrt(sum) : 0;
    for (size_t i = 0; i < n; i++) x[i] = (float)(x[i] * scale);
}

static void softmax(float *x, size_t n) {
    float top = x[0];
    double sum = 0;
    for (size_t i = 1; i < n; i++) top = x[i] > top ? x[i] : top;
    for (size_t i = 0; i < n; i++) sum += x[i] = expf(x[i] - top);
    for (size_t i = 0; i < n; i++) x[i] = (float)(x[i] / sum);
}

status eng_embed_push(eng_choice *c, const model_info *info, const float *x, error *err) {
    size_t n = info->n_out;
    if (!x || !n) return error_set(err, E_INTERNAL, "the model gave no embedding");
    eng_event ev = {.kind = EVENT_EMBEDDING, .n_embedding = n, .embedding = mem_alloc(n * sizeof *x)};
    if (!ev.embedding) return error_set(err, E_NOMEM, "no memory for an embedding of %zu values", n);
    memcpy(ev.embedding, x, n * sizeof *x);
    if (info->softmax) softmax(ev.embedding, n);
    bool finite = true;
    for (size_t i = 0; i < n; i++) finite &= isfinite(ev.embedding[i]) != 0;
    if (!finite) {
        mem_free(ev.embedding);
        return error_set(err, E_INTERNAL, "the model gave an embedding that is no number");
    }
    if (!c->r->raw && info->pooling != MODEL_POOL_RANK) altiserve_unit_length(ev.embedding, n);
    return eng_request_push(c->r, &ev) ? OK : error_set(err, E_NOMEM, "no memory for an event");
}

// ---- prompts -------------------------------------------------------------------------------------

// The file's template: "{query}" and "{document}" stand for the texts, which are never control tokens.
static status fill_template(const char *t, const altiserve_embed *e, const tokenizer *tok, tok_ids *ids, error *err) {
    enum { MOST = 32 };
    tok_span spans[MOST];
    size_t n = 0;
    while (*t && n + 2 <= MOST) {
        const char *q = strstr(t, "{query}"), *d = strstr(t, "{document}"), *next = q && (!d || q < d) ? q : d;
        size_t len = next ? (size_t)(next - t) : strlen(t);
        if (len) spans[n++] = (tok_span){t, len, true};
        t += len;
        if (!next) break;
        spans[n++] = next == q ? (tok_span){e->text, e->text_len, false} : (tok_span){e->pair, e->pair_len, false};
        t += next == q ? strlen("{query}") : strlen("{document}");
    }
    if (*t && n + 2 > MOST) return error_set(err, E_INVALID, "the file's ranking template names its texts more than %d times", MOST / 2);
    return tok_encode_spans(tok, spans, n, 0, ids, err);
}

static bool push_role(tok_ids *ids, const tokenizer *t, tok_role role) {
    int32_t id = tok_special(t, role);
    return id < 0 || tok_ids_push(ids, id);
}

static status encode_pair(const altiserve_request *r, const altiserve_embed *e, tok_ids *ids, error *err) {
    const tokenizer *t = r->file->tok;
    if (r->file->rank_template) return fill_template(r->file->rank_template, e, t, ids, err);
    bool wordpiece = tok_kind_of(t) == TOK_WORDPIECE, ends = wordpiece || tok_add_eos(t);
    tok_role end = wordpiece || tok_special(t, TOK_EOS) < 0 ? TOK_SEP : TOK_EOS;
    bool ok = !(wordpiece || tok_add_bos(t)) || push_role(ids, t, TOK_BOS);
    status s = tok_encode(t, e->text, e->text_len, 0, ids, err);
    if (ends) ok = ok && push_role(ids, t, end);
    if (!wordpiece && tok_add_sep(t)) ok = ok && push_role(ids, t, TOK_SEP);
    if (s == OK) s = tok_encode(t, e->pair, e->pair_len, 0, ids, err);
    if (ends) ok = ok && push_role(ids, t, end);
    return s == OK && !ok ? error_set(err, E_NOMEM, "no memory for the tokens of a pair") : s;
}

static status take_text(altiserve_request *r, const altiserve_embed *e, error *err) {
    tok_ids ids = {0};
    status s = OK;
    if ((e->text != NULL) + (e->tokens != NULL) != 1 || (e->pair && !e->text)) return error_set(err, E_USAGE, "give exactly one of text and tokens, and a pair beside a text only");
    if (e->pair) s = encode_pair(r, e, &ids, err);
    else if (e->text) s = tok_encode(r->file->tok, e->text, e->text_len, TOK_ADD_SPECIAL | TOK_PARSE_CONTROL, &ids, err);
    else
        for (size_t i = 0; i < e->n_tokens && s == OK; i++)
            if (!tok_ids_push(&ids, e->tokens[i])) s = error_set(err, E_NOMEM, "no memory for %zu tokens", e->n_tokens);
    r->prompt = ids.ids;
    r->n_prompt = ids.count;
    if (s != OK) return s;
    size_t context = r->file->info.context;
    if (!r->n_prompt) return error_set(err, E_INVALID, "the input is empty");
    if (r->n_prompt > context) {
        if (!e->truncate) return error_set(err, E_INVALID, "the input has %zu tokens; the context of %s is %zu", r->n_prompt, r->file->id, context);
        int32_t last = r->prompt[r->n_prompt - 1]; // the closing token stays
        if (e->text && context > 1 && tok_type_of(r->file->tok, last) == TOK_TYPE_CONTROL) r->prompt[context - 1] = last;
        r->n_prompt = context;
    }
    return eng_check_ids(r, err);
}

static status fill(altiserve_request *r, eng_models *models, const altiserve_embed *e, error *err) {
    r->n = 1;
    r->top = -1;
    r->embeds = true;
    r->raw = e->raw;
    r->goes_on = e->goes_on;
    r->priority = e->priority;
    r->weight = e->client_weight;
    r->salt = eng_salt(e->cache_salt);
    r->params = samp_defaults();
    r->notify = e->notify;
    r->notify_ctx = e->notify_ctx;
    status s = eng_file_servable(r->file, err);
    if (s == OK && e->pair && !r->file->info.ranks) s = error_set(err, E_INVALID, "%s cannot rank: it has no head for scores", r->file->id);
    if (s == OK) {
        r->waits_model = eng_models_expect(models, r->file);
        s = eng_file_text(r->file, err);
    }
    if (s == OK) s = take_text(r, e, err);
    r->usage.prompt_tokens = (uint32_t)r->n_prompt;
    return s;
}

status altiserve_submit_embed(altiserve *a, const altiserve_embed *what, altiserve_request **out, error *err) {
    *out = NULL;
    eng_file *f;
    status s = eng_models_find(a->models, what->model, &f, err);
    if (s != OK) return s;
    altiserve_request *r = eng_request_new(a, f, what->timeout_ms, err);
    return r ? eng_request_submit(r, fill(r, a->models, what, err), what->client, what->client_name, out, err) : E_NOMEM;
}
