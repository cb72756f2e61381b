// convert: one GGUF file into another of another type. Mixes of types per tensor, importance matrices, threads, progress.
//
// Threads: a conversion is one call on one thread, which becomes worker 0 of a pool of its own. Inputs are read with pread, the output
// appears under its name only when it is whole.
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "gguf/gguf.h"

// A file type: a default tensor type and a mix. `number` is what general.file_type holds.
typedef struct convert_type {
    const char *name; // "Q4_K_M"
    int         number;
    int         tensor_type; // quant_type most matrices get
} convert_type;

// The i-th file type that can be written; NULL past the last.
const convert_type *convert_type_at(size_t i);
// By name, letters of any case; NULL when there is none.
const convert_type *convert_type_find(const char *name);

// How much an error in each column of each matrix costs, measured on text. Read from a GGUF with general.type "imatrix"
// (NAME.in_sum2 and NAME.counts).
typedef struct convert_importance convert_importance;
status convert_importance_open(const char *path, convert_importance **out, error *err);
// All columns alike: for types that insist on a matrix when there is none.
status convert_importance_uniform(convert_importance **out, error *err);
void   convert_importance_free(convert_importance *m);

typedef struct convert_progress {
    const char *tensor; // being written
    size_t      index, count;
    int         from, to; // quant_type
    uint64_t    done_bytes, total_bytes; // of the input
} convert_progress;
// Called on the converting thread, at most once a few megabytes. False stops the conversion (E_CANCELLED).
typedef bool (*convert_progress_fn)(void *ctx, const convert_progress *p);

typedef struct convert_options {
    const convert_type       *type;
    bool                      pure;        // every matrix as the default type, no mix
    int                       tensor_type; // QUANT_TYPES: as the file type says; else every matrix as this type
    const convert_importance *importance;  // or NULL
    int                       threads;     // 0: what this process may use
    convert_progress_fn       progress;    // or NULL
    void                     *progress_ctx;
} convert_options;

typedef struct convert_result {
    uint64_t in_bytes, out_bytes; // tensor data
    size_t   tensors, fallbacks;  // fallbacks: rows no multiple of the wanted block, another type was taken
    size_t   quantized;           // of them made from blocks of another type: the errors of both add up
} convert_result;

convert_options convert_defaults(const convert_type *type);
// E_INVALID also when a type needs an importance matrix and none was given; E_USAGE when out is a file that is read. result may be NULL.
status convert_quantize(const char *in, const char *out, const convert_options *options, convert_result *result, error *err);

// The type each tensor of g would get, in types[gguf_tensor_count(g)]; what convert_quantize does before it writes.
status convert_plan(const gguf *g, const convert_options *options, int *types, size_t *fallbacks, error *err);
