// inspect: a report on a file as JSON: what it is, what is in it, what it will take. No weights are loaded.
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "engine/eng_load.h"
#include "engine/eng_sched.h"

static json_t *text_json(gguf_str s) {
    if (utf8_valid(s.ptr, s.len)) return json_stringn(s.ptr, s.len);
    return json_sprintf("(%zu bytes that are not UTF-8)", s.len);
}

static json_t *value_json(const gguf_value *v) {
    gguf_str s;
    uint64_t u;
    int64_t i;
    double d;
    bool b;
    switch (gguf_value_type(v)) {
        case GGUF_ARRAY: return json_sprintf("%llu x %s", (unsigned long long)gguf_value_count(v), gguf_type_name(gguf_value_elem(v)));
        case GGUF_STRING:
            if (!gguf_value_string(v, 0, &s)) return json_null();
            return s.len > 200 ? json_sprintf("(text of %zu bytes)", s.len) : text_json(s);
        case GGUF_BOOL: return gguf_value_bool(v, 0, &b) ? json_boolean(b) : json_null();
        case GGUF_F32:
        case GGUF_F64: return gguf_value_f64(v, 0, &d) && d - d == 0 ? json_real(d) : json_null();
        default:
            if (gguf_value_i64(v, 0, &i)) return json_integer(i);
            return gguf_value_u64(v, 0, &u) ? json_sprintf("%llu", (unsigned long long)u) : json_null();
    }
}

static json_t *metadata_json(const gguf *g) {
    json_t *object = json_object();
    for (size_t i = 0; i < gguf_kv_count(g); i++) json_object_set_new(object, gguf_kv_key(g, i), value_json(gguf_kv_value(g, i)));
    return object;
}

static json_t *types_json(const gguf *g) {
    json_t *list = json_array();
    for (int type = 0; type < 64; type++) {
        uint64_t count = 0, bytes = 0;
        for (size_t i = 0; i < gguf_tensor_count(g); i++) {
            const gguf_tensor *t = gguf_tensor_at(g, i);
            if (t->type == type) count++, bytes += t->bytes;
        }
        const quant_traits *q = count ? quant_type_traits(type) : NULL;
        if (q) json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "type", q->name, "tensors", (json_int_t)count, "bytes", (json_int_t)bytes));
    }
    return list;
}

static json_t *memory_json(altiserve *a, const eng_file *f) {
    eng_load_sizes sizes;
    altiserve_stats stats = {0};
    error err = {0};
    eng_models_stats(a->models, &stats);
    gguf *g = NULL;
    status s = eng_file_open(f, &g, &err);
    if (s == OK) s = eng_load_predict(f, g, &a->o, stats.memory_limit, &sizes, &err);
    gguf_close(g);
    if (s != OK) return json_pack("{s:s}", "error", err.text);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "weights_bytes", (json_int_t)sizes.model.weights, "scratch_bytes", (json_int_t)sizes.model.scratch,
                     "kv_bytes", (json_int_t)sizes.kv, "kv_bytes_per_1000_tokens", (json_int_t)(sizes.model.kv_token_bytes * 1000), "kv_bytes_per_sequence",
                     (json_int_t)sizes.model.kv_sequence_bytes, "total_bytes", (json_int_t)sizes.bytes, "budget_bytes", (json_int_t)stats.memory_limit);
}

status altiserve_inspect(altiserve *a, const char *id, char **out, error *err) {
    eng_file *f;
    status s = eng_models_find(a->models, id, &f, err);
    if (s != OK) return s;
    altiserve_model_info info;
    eng_models_info(a->models, f, &info);
    static const char *const states[] = {"unloaded", "loading", "ready", "broken", "incomplete"};
    json_t *report = json_pack("{s:s, s:s, s:s}", "id", info.id, "path", info.path, "state", states[info.state]);
    gguf *g = NULL;
    if (info.error[0]) json_object_set_new(report, "error", json_string(info.error));
    if (eng_file_open(f, &g, NULL) == OK) {
        json_t *facts = json_pack("{s:s, s:I, s:s, s:I, s:i, s:i, s:i, s:i, s:i, s:b}", "architecture", info.architecture, "parameters", (json_int_t)info.parameters,
                                  "quantization", info.quantization, "file_bytes", (json_int_t)info.file_bytes, "layers", (int)info.layers, "embedding",
                                  (int)info.embedding, "vocabulary", (int)info.vocabulary, "context_trained", (int)info.context_trained, "context", (int)info.context,
                                  "chat_template", info.has_template);
        json_t *purpose = json_array(); // what the model is for
        if (info.generates) json_array_append_new(purpose, json_string("text"));
        if (info.embedding_model && info.embeds) json_array_append_new(purpose, json_string("embeddings"));
        if (info.ranks) json_array_append_new(purpose, json_string("ranking"));
        json_object_set_new(facts, "purpose", purpose);
        json_object_update(report, facts);
        json_decref(facts);
        gguf_str kind;
        if (gguf_get_string(g, "tokenizer.ggml.model", &kind, NULL) == OK) json_object_set_new(report, "tokenizer", text_json(kind));
        if (gguf_get_string(g, "tokenizer.ggml.pre", &kind, NULL) == OK) json_object_set_new(report, "pre_tokenizer", text_json(kind));
        json_object_set_new(report, "gguf_version", json_integer(gguf_version(g)));
        json_object_set_new(report, "tensors", types_json(g));
        if (!info.error[0]) json_object_set_new(report, "memory", memory_json(a, f));
        json_object_set_new(report, "metadata", metadata_json(g));
        gguf_close(g);
    }
    char *text = report ? json_dumps(report, JSON_INDENT(1)) : NULL;
    json_decref(report);
    eng_file_release(f);
    *out = text ? mem_strdup(text) : NULL;
    free(text);
    return *out ? OK : error_set(err, E_NOMEM, "no memory for the report");
}
