// altiserve_quantize: names to the convert room's types and matrices.
#include <string.h>
#include <strings.h>

#include "altiserve.h"
#include "base/mem.h"
#include "convert/convert.h"

const char *altiserve_file_type(size_t i) {
    const convert_type *t = convert_type_at(i);
    return t ? t->name : NULL;
}

static bool on_progress(void *ctx, const convert_progress *p) {
    const altiserve_quantize_spec *spec = ctx;
    return !spec->progress || spec->progress(spec->ctx, p->tensor, p->done_bytes, p->total_bytes);
}

// The names of all file types, for the sentence that refuses one.
static status unknown_type(const char *name, error *err) {
    strbuf names = {0};
    for (size_t i = 0; altiserve_file_type(i); i++) strbuf_addf(&names, "%s%s", i ? " " : "", altiserve_file_type(i));
    error_set(err, E_USAGE, "unknown file type \"%.40s\"; there is: %s", name, names.data ? names.data : "");
    strbuf_free(&names);
    return E_USAGE;
}

static int tensor_type(const char *name) {
    for (int i = 0; i < QUANT_TYPES; i++) {
        const quant_traits *t = quant_type_traits(i);
        if (t && t->name && !strcasecmp(t->name, name)) return i;
    }
    return QUANT_TYPES;
}

status altiserve_quantize(const altiserve_quantize_spec *spec, altiserve_quantize_result *out, error *err) {
    const convert_type *type = convert_type_find(spec->type);
    if (!type) return unknown_type(spec->type, err);
    convert_options o = convert_defaults(type);
    o.pure = spec->pure;
    o.threads = spec->threads;
    o.progress = on_progress;
    o.progress_ctx = (void *)spec;
    if (spec->tensors && (o.tensor_type = tensor_type(spec->tensors)) == QUANT_TYPES) return error_set(err, E_USAGE, "unknown tensor type \"%.40s\"", spec->tensors);
    convert_importance *importance = NULL;
    status s = OK;
    if (spec->imatrix) s = strcmp(spec->imatrix, "uniform") ? convert_importance_open(spec->imatrix, &importance, err) : convert_importance_uniform(&importance, err);
    o.importance = importance;
    convert_result result = {0};
    if (s == OK) s = convert_quantize(spec->in, spec->out, &o, &result, err);
    convert_importance_free(importance);
    if (s == OK && out) *out = (altiserve_quantize_result){result.in_bytes, result.out_bytes, result.tensors, result.fallbacks, result.quantized};
    return s;
}
