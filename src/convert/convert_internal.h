// What the convert room's files share.
#pragma once
#include "convert/convert.h"

// All tensors by layer, then name (mem_free the array).
status convert_order(const gguf *g, const gguf_tensor ***out, error *err);
bool   convert_needs_importance(const gguf_tensor *t, int type, const convert_type *file);
// The weights of a tensor's columns, dims[0] * dims[2] of them; *out NULL when the matrix has none for it. Freed with the matrix.
status convert_importance_get(const convert_importance *m, const gguf_tensor *t, const float **out, error *err);
bool   convert_importance_is_uniform(const convert_importance *m);
