// api/api_fields: the request fields of all dialects as one table: name, type, range, where the value goes.
//
// null means "not given", as OpenAI has it. Fields that would change the answer and are not built are listed too, each with the values
// that ask for nothing; any other value is a 400. A field in neither table is passed over.
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_internal.h"

typedef enum kind { K_INT, K_COUNT, K_NUMBER, K_BOOL, K_EITHER, K_STRING, K_EFFORT, K_THINK, K_STOP, K_BIAS, K_STREAM_OPTIONS, K_KWARGS, K_SALT, K_ALTISERVE } kind;

typedef struct field {
    const char *name;
    kind     kind;       // K_COUNT: an integer, or -1 for "as many as there is room for"; K_EITHER: a boolean of which it matters whether it was given
    double   low, high;  // K_INT, K_COUNT, K_NUMBER: inclusive
    size_t   at;         // in params
    unsigned given;      // SAMPLING_* bit set in g.given
    unsigned where;
} field;

#define AT(member) offsetof(params, member)
enum { ANY = FOR_CHAT | FOR_COMPLETION | FOR_MESSAGES | FOR_OLLAMA | FOR_NATIVE, MAX_MAX_TOKENS = 10000000 };
static const field fields[] = {
    {"model", K_STRING, 0, 0, AT(model), 0, ANY | FOR_VECTORS | FOR_TEMPLATE},
    {"stream", K_BOOL, 0, 0, AT(stream), 0, ANY | FOR_EMBEDDINGS},
    {"stream_options", K_STREAM_OPTIONS, 0, 0, 0, 0, FOR_OPENAI},
    {"timings_per_token", K_BOOL, 0, 0, AT(timings_per_token), 0, FOR_OPENAI | FOR_NATIVE},
    {"n", K_INT, 1, 16, AT(n), 0, FOR_OPENAI},
    {"max_tokens", K_COUNT, 1, MAX_MAX_TOKENS, AT(max_tokens), 0, FOR_OPENAI},
    {"max_tokens", K_INT, 1, MAX_MAX_TOKENS, AT(max_tokens), 0, FOR_MESSAGES},
    {"max_completion_tokens", K_COUNT, 1, MAX_MAX_TOKENS, AT(max_completion_tokens), 0, FOR_CHAT},
    {"num_predict", K_INT, -2, MAX_MAX_TOKENS, AT(max_tokens), 0, FOR_OLLAMA},
    {"n_predict", K_INT, -2, MAX_MAX_TOKENS, AT(max_tokens), 0, FOR_NATIVE},
    {"temperature", K_NUMBER, 0, 2, AT(temperature), SAMPLING_TEMPERATURE, ANY},
    {"top_p", K_NUMBER, 0, 1, AT(top_p), SAMPLING_TOP_P, ANY},
    {"top_k", K_INT, -1, 1000000, AT(top_k), SAMPLING_TOP_K, ANY},
    {"min_p", K_NUMBER, 0, 1, AT(min_p), SAMPLING_MIN_P, ANY},
    {"typical_p", K_NUMBER, 0, 1, AT(typical_p), SAMPLING_TYPICAL_P, ANY},
    {"repetition_penalty", K_NUMBER, 0.01, 100, AT(repetition), SAMPLING_REPETITION, FOR_OPENAI},
    {"repeat_penalty", K_NUMBER, 0.01, 100, AT(repetition), SAMPLING_REPETITION, FOR_OPENAI | FOR_OLLAMA | FOR_NATIVE},
    {"repeat_last_n", K_INT, -1, 1000000, AT(last_n), SAMPLING_LAST_N, FOR_OPENAI | FOR_OLLAMA | FOR_NATIVE},
    {"presence_penalty", K_NUMBER, -2, 2, AT(presence), SAMPLING_PRESENCE, FOR_OPENAI | FOR_OLLAMA | FOR_NATIVE},
    {"frequency_penalty", K_NUMBER, -2, 2, AT(frequency), SAMPLING_FREQUENCY, FOR_OPENAI | FOR_OLLAMA | FOR_NATIVE},
    {"seed", K_INT, -9.3e18, 9.3e18, AT(seed), 0, FOR_OPENAI | FOR_OLLAMA | FOR_NATIVE},
    {"logit_bias", K_BIAS, -100, 100, 0, 0, FOR_OPENAI | FOR_NATIVE},
    {"stop", K_STOP, 0, 0, 0, 0, FOR_OPENAI | FOR_OLLAMA | FOR_NATIVE},
    {"stop_sequences", K_STOP, 0, 0, 0, 0, FOR_MESSAGES},
    {"ignore_eos", K_BOOL, 0, 0, AT(ignore_eos), 0, ANY},
    {"logprobs", K_BOOL, 0, 0, AT(want_logprobs), 0, FOR_CHAT},
    {"top_logprobs", K_INT, 0, 20, AT(top_logprobs), 0, FOR_CHAT},
    {"logprobs", K_INT, 0, 20, AT(logprobs), 0, FOR_COMPLETION},
    {"echo", K_BOOL, 0, 0, AT(echo), 0, FOR_COMPLETION},
    {"speculative.n_max", K_INT, 0, 1000, AT(draft_max), 0, ANY},
    {"priority", K_INT, -1000000, 1000000, AT(priority), 0, ANY | FOR_VECTORS},
    {"cache_salt", K_SALT, 0, 0, AT(cache_salt), 0, ANY | FOR_VECTORS},
    {"altiserve", K_ALTISERVE, 0, 0, 0, 0, FOR_OPENAI},
    {"dimensions", K_INT, 1, INT32_MAX, AT(dimensions), 0, FOR_EMBEDDINGS | FOR_OLLAMA_EMBED},
    {"encoding_format", K_STRING, 0, 0, AT(encoding_format), 0, FOR_EMBEDDINGS},
    {"truncate", K_BOOL, 0, 0, AT(truncate), 0, FOR_OLLAMA_EMBED},
    {"query", K_STRING, 0, 0, AT(query), 0, FOR_RERANK},
    {"top_n", K_INT, 1, INT32_MAX, AT(top_n), 0, FOR_RERANK},
    {"return_documents", K_BOOL, 0, 0, AT(return_documents), 0, FOR_RERANK},
    {"reasoning_format", K_STRING, 0, 0, AT(reasoning_format), 0, FOR_CHAT},
    {"chat_template_kwargs", K_KWARGS, 0, 0, AT(template_kwargs), 0, FOR_CHAT | FOR_TEMPLATE},
    {"reasoning_effort", K_EFFORT, 0, 0, 0, 0, FOR_CHAT | FOR_TEMPLATE},
    {"think", K_THINK, 0, 0, 0, 0, FOR_OLLAMA},
    {"add_generation_prompt", K_EITHER, 0, 0, AT(generation_prompt), 0, FOR_CHAT | FOR_TEMPLATE},
    {"continue_final_message", K_BOOL, 0, 0, AT(continues), 0, FOR_CHAT | FOR_TEMPLATE},
};

// Understood, not built. `neutral` is JSON text of one more value that asks for nothing, beside null, false, 0, "", [] and {}.
static const struct {
    const char *name, *neutral, *neutral2;
    unsigned where;
} unbuilt[] = {
    {"tools", NULL, NULL, ANY | FOR_TEMPLATE}, {"tool_choice", "\"none\"", "\"auto\"", ANY},
    {"functions", NULL, NULL, ANY | FOR_TEMPLATE}, {"function_call", "\"none\"", "\"auto\"", ANY},
    {"response_format", "{\"type\":\"text\"}", NULL, ANY}, {"grammar", NULL, NULL, ANY}, {"json_schema", NULL, NULL, ANY},
    {"format", NULL, NULL, FOR_OLLAMA}, {"guided_json", NULL, NULL, ANY}, {"guided_regex", NULL, NULL, ANY}, {"guided_choice", NULL, NULL, ANY},
    {"guided_grammar", NULL, NULL, ANY}, {"structured_outputs", NULL, NULL, ANY}, {"modalities", "[\"text\"]", NULL, ANY}, {"audio", NULL, NULL, ANY},
    {"images", NULL, NULL, FOR_OLLAMA}, {"web_search_options", NULL, NULL, ANY}, {"suffix", NULL, NULL, FOR_COMPLETION | FOR_OLLAMA},
    {"best_of", "1", NULL, FOR_COMPLETION}, {"use_beam_search", NULL, NULL, FOR_OPENAI}, {"length_penalty", "1", "1.0", FOR_OPENAI},
    {"min_tokens", NULL, NULL, ANY}, {"stop_token_ids", NULL, NULL, ANY}, {"bad_words", NULL, NULL, ANY}, {"allowed_token_ids", NULL, NULL, ANY},
    {"skip_special_tokens", "true", NULL, ANY}, {"include_stop_str_in_output", NULL, NULL, ANY}, {"prompt_logprobs", NULL, NULL, ANY},
    {"truncate_prompt_tokens", NULL, NULL, ANY}, {"mirostat", NULL, NULL, ANY}, {"dynatemp_range", NULL, NULL, ANY}, {"xtc_probability", NULL, NULL, ANY},
    {"dry_multiplier", NULL, NULL, ANY}, {"top_n_sigma", "-1", "-1.0", ANY}, {"samplers", NULL, NULL, ANY}, {"min_keep", NULL, NULL, ANY},
    {"lora", NULL, NULL, ANY}, {"thinking", "{\"type\":\"disabled\"}", NULL, FOR_MESSAGES}, {"output_format", NULL, NULL, FOR_MESSAGES},
    {"altiserve", NULL, NULL, FOR_MESSAGES | FOR_OLLAMA | FOR_NATIVE},
    {"template", NULL, NULL, FOR_OLLAMA}, {"context", NULL, NULL, FOR_OLLAMA}, {"logprobs", NULL, NULL, FOR_OLLAMA},
    {"n_probs", NULL, NULL, FOR_NATIVE}, {"image_data", NULL, NULL, FOR_NATIVE}, {"t_max_predict_ms", NULL, NULL, FOR_NATIVE},
    {"n_indent", NULL, NULL, FOR_NATIVE}, {"n_keep", NULL, NULL, FOR_NATIVE}, {"response_fields", NULL, NULL, FOR_NATIVE},
    {"chat_template", NULL, NULL, FOR_CHAT | FOR_TEMPLATE},
};

bool api_asks_nothing(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_NULL:
    case JSON_FALSE: return true;
    case JSON_INTEGER:
    case JSON_REAL: return json_number_value(v) == 0;
    case JSON_STRING: return json_string_length(v) == 0;
    case JSON_ARRAY: return json_array_size(v) == 0;
    case JSON_OBJECT: return json_object_size(v) == 0;
    default: return false;
    }
}

static bool equals_text(const json_t *v, const char *text) {
    if (!text) return false;
    json_t *other = json_loads(text, JSON_DECODE_ANY, NULL);
    bool same = other && json_equal(v, other);
    json_decref(other);
    return same;
}

static bool wrong_type(api_error *e, const char *name, const char *want, const json_t *v) {
    return api_fail(e, 400, name, "invalid_type", "%s must be %s, not %s", name, want, api_json_type(v));
}

static bool no_memory(api_error *e) { return api_fail(e, 503, NULL, "unavailable", "no memory for this request"); }

static bool read_stop(params *p, const char *name, const json_t *v, api_error *e) {
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (!json_is_array(v) && !json_is_string(v)) return wrong_type(e, name, "a string or an array of strings", v);
    if (n > 64) return api_fail(e, 400, name, "invalid_value", "%s may hold at most 64 strings", name);
    const char **list = arena_alloc(&p->mem, (n ? n : 1) * sizeof *list);
    if (!list) return no_memory(e);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s)) return wrong_type(e, name, "a string or an array of strings", s);
        if (!json_string_length(s) || json_string_length(s) > 4096) return api_fail(e, 400, name, "invalid_value", "%s: a stop string must have 1 to 4,096 bytes", name);
        if (!(list[i] = arena_strndup(&p->mem, json_string_value(s), json_string_length(s)))) return no_memory(e);
    }
    p->g.stop = list;
    p->g.n_stop = n;
    return true;
}

static bool put_bias(altiserve_bias *b, const char *name, double id, const json_t *value, api_error *e) {
    bool ban = json_is_false(value); // llama-server's word for "never"
    if (!json_is_number(value) && !ban) return wrong_type(e, name, "a map of token ids to numbers", value);
    double bias = ban ? -100 : json_number_value(value);
    if (!(id >= 0 && id <= INT_MAX)) return api_fail(e, 400, name, "invalid_value", "%s: a token id is not a whole number from 0 on", name);
    if (!(bias >= -100 && bias <= 100)) return api_fail(e, 400, name, "invalid_value", "%s: a bias must be from -100 to 100", name);
    b->token = (int32_t)id;
    b->bias = (float)bias;
    return true;
}

static bool read_bias(params *p, const char *name, json_t *v, api_error *e) {
    size_t n = json_is_array(v) ? json_array_size(v) : json_object_size(v), i = 0;
    if (!json_is_array(v) && !json_is_object(v)) return wrong_type(e, name, "a map of token ids to numbers", v);
    if (n > 65536) return api_fail(e, 400, name, "invalid_value", "%s may hold at most 65,536 tokens", name);
    altiserve_bias *list = arena_calloc(&p->mem, n ? n : 1, sizeof *list);
    if (!list) return no_memory(e);
    if (json_is_array(v)) { // [[id, bias], ...]
        for (; i < n; i++) {
            const json_t *pair = json_array_get(v, i);
            if (!json_is_array(pair) || json_array_size(pair) != 2 || !json_is_integer(json_array_get(pair, 0))) return wrong_type(e, name, "pairs of token id and bias", pair);
            if (!put_bias(&list[i], name, json_number_value(json_array_get(pair, 0)), json_array_get(pair, 1), e)) return false;
        }
    } else {
        const char *key;
        json_t *value;
        json_object_foreach(v, key, value) {
            char *end;
            bool digits = *key && strspn(key, "0123456789") == strlen(key) && strlen(key) < 11;
            if (!put_bias(&list[i++], name, digits ? strtod(key, &end) : -1, value, e)) return false;
        }
    }
    p->g.sampling.bias = list;
    p->g.sampling.n_bias = n;
    return true;
}

static bool read_number(params *p, const field *f, const char *name, const json_t *v, api_error *e) {
    bool whole = f->kind != K_NUMBER;
    if (whole ? !json_is_integer(v) : !json_is_number(v)) {
        // 5.0 is a whole number to most clients' languages
        if (!(whole && json_is_real(v) && json_real_value(v) == floor(json_real_value(v)) && fabs(json_real_value(v)) < 9e15))
            return wrong_type(e, name, whole ? "an integer" : "a number", v);
    }
    double d = json_number_value(v);
    if (!(d >= f->low && d <= f->high) && !(f->kind == K_COUNT && d == -1))
        return api_fail(e, 400, name, "invalid_value", "%s must be from %.15g to %.15g%s, not %.15g", name, f->low, f->high, f->kind == K_COUNT ? ", or -1" : "", d);
    if (whole) {
        int64_t i = json_is_integer(v) ? (int64_t)json_integer_value(v) : (int64_t)d;
        memcpy((char *)p + f->at, &i, sizeof i);
    } else memcpy((char *)p + f->at, &d, sizeof d);
    p->g.given |= f->given;
    if (f->at == AT(priority)) p->has_priority = true;
    if (f->at == AT(seed)) p->g.sampling.has_seed = p->seed != -1; // -1 is llama-server's word for "any"
    return true;
}

// What only this server knows: {"explain": true}.
static bool read_altiserve(params *p, const char *name, const json_t *v, api_error *e) {
    const char *key;
    json_t *value;
    if (!json_is_object(v)) return wrong_type(e, name, "an object", v);
    json_object_foreach((json_t *)v, key, value) {
        if (strcmp(key, "explain")) return api_fail(e, 400, name, "invalid_value", "altiserve knows \"explain\", not \"%.60s\"", key);
        if (json_is_null(value)) continue;
        if (!json_is_boolean(value)) return wrong_type(e, "altiserve.explain", "a boolean", value);
        p->explain = json_is_true(value);
    }
    return true;
}

// How much thought is wished for: OpenAI's words, and "max", which templates know. Who wants none, or next to none, gets none where the template has a switch for it.
static bool read_effort(params *p, const char *name, const char *word, api_error *e) {
    static const char *const words[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    size_t i = 0, n = sizeof words / sizeof *words;
    while (i < n && strcmp(word, words[i])) i++;
    if (i == n) return api_fail(e, 400, name, "invalid_value", "%s must be none, minimal, low, medium, high, xhigh or max, not \"%.40s\"", name, word);
    p->effort = words[i];
    if (i < 2) p->think = -1;
    return true;
}

// Ollama's: a boolean, or how much, which is to say yes.
static bool read_think(params *p, const char *name, const json_t *v, api_error *e) {
    const char *word = json_string_value(v);
    if (word && strcmp(word, "low") && strcmp(word, "medium") && strcmp(word, "high") && strcmp(word, "max"))
        return api_fail(e, 400, name, "invalid_value", "%s must be true, false, low, medium, high or max, not \"%.40s\"", name, word);
    if (!word && !json_is_boolean(v)) return wrong_type(e, name, "a boolean, or one of low, medium, high and max", v);
    p->think = json_is_false(v) ? -1 : 1;
    return !word || read_effort(p, name, word, e);
}

static bool read_field(params *p, const field *f, const char *name, json_t *v, api_error *e) {
    switch (f->kind) {
    case K_INT:
    case K_COUNT:
    case K_NUMBER: return read_number(p, f, name, v, e);
    case K_BOOL: {
        if (!json_is_boolean(v)) return wrong_type(e, name, "a boolean", v);
        bool b = json_is_true(v);
        memcpy((char *)p + f->at, &b, sizeof b);
        return true;
    }
    case K_EITHER: {
        if (!json_is_boolean(v)) return wrong_type(e, name, "a boolean", v);
        int i = json_is_true(v) ? 1 : -1;
        memcpy((char *)p + f->at, &i, sizeof i);
        return true;
    }
    case K_SALT:
    case K_STRING: {
        if (!json_is_string(v)) return wrong_type(e, name, "a string", v);
        if (f->kind == K_SALT && (!json_string_length(v) || json_string_length(v) > 256)) return api_fail(e, 400, name, "invalid_value", "%s must have 1 to 256 bytes", name);
        const char *s = arena_strndup(&p->mem, json_string_value(v), json_string_length(v));
        if (!s) return no_memory(e);
        memcpy((char *)p + f->at, &s, sizeof s);
        return true;
    }
    case K_EFFORT: return json_is_string(v) ? read_effort(p, name, json_string_value(v), e) : wrong_type(e, name, "a string", v);
    case K_THINK: return read_think(p, name, v, e);
    case K_STOP: return read_stop(p, name, v, e);
    case K_BIAS: return read_bias(p, name, v, e);
    case K_STREAM_OPTIONS: {
        if (!json_is_object(v)) return wrong_type(e, name, "an object", v);
        const json_t *u = json_object_get(v, "include_usage");
        if (u && !json_is_boolean(u) && !json_is_null(u)) return wrong_type(e, "stream_options.include_usage", "a boolean", u);
        p->include_usage = json_is_true(u);
        p->has_options = true;
        return true;
    }
    case K_ALTISERVE: return read_altiserve(p, name, v, e);
    case K_KWARGS:
        if (!json_is_object(v)) return wrong_type(e, name, "an object", v);
        memcpy((char *)p + f->at, &v, sizeof v);
        return true;
    }
    return true;
}

void api_begin_fields(params *p) {
    arena_init(&p->mem, 16 << 20);
    p->top_logprobs = p->logprobs = p->draft_max = -1;
}

bool api_read_fields(params *p, const json_t *body, unsigned where, const char *prefix, api_error *e) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)body, key, v) {
        if (json_is_null(v)) continue;
        char name[96];
        bool known = false;
        snprintf(name, sizeof name, "%s%s", prefix, key);
        for (size_t i = 0; i < sizeof fields / sizeof *fields && !known; i++)
            if ((fields[i].where & where) && !strcmp(fields[i].name, key)) {
                known = true;
                if (!read_field(p, &fields[i], name, v, e)) return false;
            }
        for (size_t i = 0; i < sizeof unbuilt / sizeof *unbuilt && !known; i++)
            if ((unbuilt[i].where & where) && !strcmp(unbuilt[i].name, key)) {
                known = true;
                if (!api_asks_nothing(v) && !equals_text(v, unbuilt[i].neutral) && !equals_text(v, unbuilt[i].neutral2))
                    return api_fail(e, 400, name, "not_built", "%s is understood but not built yet; leave it out", name);
            }
    }
    return true;
}

bool api_settle(params *p, unsigned where, api_error *e) {
    altiserve_generate *g = &p->g;
    altiserve_sampling *s = &g->sampling;
    s->temperature = (float)p->temperature;
    s->top_k = p->top_k < 0 ? 0 : (int)p->top_k;
    s->top_p = (float)p->top_p;
    s->min_p = (float)p->min_p;
    s->typical_p = (float)p->typical_p;
    s->repetition_penalty = (float)p->repetition;
    s->repetition_last_n = (int)p->last_n;
    s->presence_penalty = (float)p->presence;
    s->frequency_penalty = (float)p->frequency;
    s->seed = (uint64_t)p->seed;
    g->n = p->n ? (uint32_t)p->n : 1;
    g->ignore_eos = p->ignore_eos;
    g->draft_max = p->draft_max < 0 ? 0 : p->draft_max ? (int)p->draft_max : -1;
    int64_t most = p->max_completion_tokens ? p->max_completion_tokens : p->max_tokens;
    if (where & FOR_COMPLETION && !most) most = 16; // OpenAI's default for completions
    g->max_tokens = most > 0 ? (uint32_t)most : 0;
    g->logprobs = -1;
    if (where & FOR_CHAT) {
        const char *format = p->reasoning_format ? p->reasoning_format : "auto";
        g->reasoning = !strcmp(format, "auto") || !strcmp(format, "deepseek");
        if (!g->reasoning && strcmp(format, "none"))
            return api_fail(e, 400, "reasoning_format", "invalid_value", "reasoning_format must be \"auto\", \"deepseek\" or \"none\", not \"%.40s\"", format);
        if (p->top_logprobs >= 0 && !p->want_logprobs) return api_fail(e, 400, "top_logprobs", "invalid_value", "top_logprobs needs logprobs to be true");
        if (p->want_logprobs) g->logprobs = p->top_logprobs >= 0 ? (int)p->top_logprobs : 0;
    }
    if (where & FOR_OLLAMA) g->reasoning = p->think >= 0; // as Ollama has it: who does not want thoughts has them in the text, if there are any
    if (where & FOR_COMPLETION) {
        g->logprobs = (int)p->logprobs;
        if (p->echo && p->logprobs >= 0) return api_fail(e, 400, "echo", "not_built", "echo together with logprobs is not built yet");
    }
    if (p->has_options && !p->stream) return api_fail(e, 400, "stream_options", "invalid_value", "stream_options is only for streams; set stream to true");
    return true;
}
