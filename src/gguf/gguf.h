// gguf: the GGUF container. Reads versions 1 to 3 in both byte orders, split files together, from files or from memory; writes.
//
// Input is untrusted. Every count, length, offset, product and type is checked before it is used; memory is bounded by a small
// multiple of what the metadata takes in the file; errors name the file, the byte offset and what was expected. A file that ends
// early gives E_INCOMPLETE (it may still be being copied).
// Ownership: everything a gguf hands out lives until gguf_close. A file is read with pread alone, never mapped.
// Threads: an open gguf is immutable; all functions but gguf_close may be called from any thread. A writer belongs to one thread.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "quant/quant.h"

typedef enum gguf_type {
    GGUF_U8 = 0, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64,
    GGUF_VALUE_TYPES
} gguf_type;

typedef struct gguf gguf;
typedef struct gguf_value gguf_value; // one value: a scalar, a string or an array

// Bytes, not NUL-terminated: values may hold anything.
typedef struct gguf_str {
    const char *ptr;
    size_t      len;
} gguf_str;

typedef struct gguf_tensor {
    const char *name;    // NUL-terminated, valid UTF-8
    int         type;    // quant_type
    int         n_dims;  // 0 to 4
    uint64_t    dims[4]; // dims[0] is the row; unused ones are 1
    uint64_t    offset;  // absolute, in its file
    uint64_t    bytes;
    uint32_t    file;    // which of the split files
} gguf_tensor;

// path: any one of the files of a split model opens all of them.
status gguf_open(const char *path, gguf **out, error *err);
// The bytes are borrowed: they must outlive the gguf. `name` stands in errors. A file of a split set is refused (use gguf_open).
status gguf_open_memory(const void *data, size_t bytes, const char *name, gguf **out, error *err);
void   gguf_close(gguf *g); // NULL is fine

uint32_t    gguf_version(const gguf *g);
bool        gguf_big_endian(const gguf *g);
uint32_t    gguf_alignment(const gguf *g);
uint32_t    gguf_files(const gguf *g);                   // 1 unless split
const char *gguf_file_path(const gguf *g, uint32_t file);
uint64_t    gguf_file_bytes(const gguf *g, uint32_t file);
int         gguf_fd(const gguf *g, uint32_t file);       // for pread and fadvise; -1 when from memory. Do not close.
const void *gguf_memory(const gguf *g);                  // the bytes when from memory, else NULL

// ---- metadata (the first file's, when split)
size_t            gguf_kv_count(const gguf *g);
const char       *gguf_kv_key(const gguf *g, size_t i);  // in file order; NUL-terminated, valid UTF-8
const gguf_value *gguf_kv_value(const gguf *g, size_t i);
const gguf_value *gguf_find(const gguf *g, const char *key); // NULL when absent

// Typed getters by key. E_NOTFOUND when the key is absent (*out untouched, err filled); E_INVALID when the value is of another kind or
// does not fit. Any integer type (and bool as 0/1) serves for u64/i64; f64 takes floats and integers; bool takes bool and integers 0/1.
status gguf_get_u64(const gguf *g, const char *key, uint64_t *out, error *err);
status gguf_get_i64(const gguf *g, const char *key, int64_t *out, error *err);
status gguf_get_f64(const gguf *g, const char *key, double *out, error *err);
status gguf_get_bool(const gguf *g, const char *key, bool *out, error *err);
status gguf_get_string(const gguf *g, const char *key, gguf_str *out, error *err);
status gguf_get_u32(const gguf *g, const char *key, uint32_t *out, error *err);
status gguf_get_f32(const gguf *g, const char *key, float *out, error *err);
// As above with a default for an absent key; a present key of the wrong kind is still an error.
status gguf_get_u32_or(const gguf *g, const char *key, uint32_t def, uint32_t *out, error *err);
status gguf_get_f32_or(const gguf *g, const char *key, float def, float *out, error *err);
status gguf_get_bool_or(const gguf *g, const char *key, bool def, bool *out, error *err);
// E_INVALID unless an array whose elements are of elem_type.
status gguf_get_array(const gguf *g, const char *key, gguf_type elem_type, const gguf_value **out, error *err);

// ---- values. i counts elements of an array; a scalar counts as one element at i = 0.
gguf_type gguf_value_type(const gguf_value *v);      // GGUF_ARRAY for arrays
gguf_type gguf_value_elem(const gguf_value *v);      // the type of the elements (of a scalar: its own)
uint64_t  gguf_value_count(const gguf_value *v);     // 1 for scalars
// False when i is out of range, or the element is of another kind or does not fit.
bool gguf_value_u64(const gguf_value *v, uint64_t i, uint64_t *out);
bool gguf_value_i64(const gguf_value *v, uint64_t i, int64_t *out);
bool gguf_value_f64(const gguf_value *v, uint64_t i, double *out);
bool gguf_value_bool(const gguf_value *v, uint64_t i, bool *out);
bool gguf_value_string(const gguf_value *v, uint64_t i, gguf_str *out);
const gguf_value *gguf_value_nested(const gguf_value *v, uint64_t i); // element i of an array of arrays, or NULL
bool gguf_str_eq(gguf_str s, const char *text);
const char *gguf_type_name(int type); // "u32", "string" ...

// ---- tensors, all files together, in file order
size_t             gguf_tensor_count(const gguf *g);
const gguf_tensor *gguf_tensor_at(const gguf *g, size_t i);
const gguf_tensor *gguf_tensor_find(const gguf *g, const char *name); // NULL when absent
uint64_t           gguf_tensor_elems(const gguf_tensor *t);
// Bytes [offset, offset + bytes) of the tensor's data, in the host's byte order. In a big-endian file both must be multiples of the
// type's block, and types whose blocks have no defined order there are E_UNSUPPORTED. Thread-safe.
status gguf_read(const gguf *g, const gguf_tensor *t, uint64_t offset, size_t bytes, void *dst, error *err);
// n elements from element `first` on, as float. Both multiples of the block. E_NOMEM, or E_UNSUPPORTED for a type without numbers.
status gguf_read_f32(const gguf *g, const gguf_tensor *t, uint64_t first, size_t n, float *dst, error *err);

// ---- writing. Set metadata and declare tensors; then either give all data with the declarations and call gguf_writer_memory or
// gguf_writer_path, or stream: gguf_writer_begin, gguf_writer_data for the tensors in order in pieces of any size, gguf_writer_finish.
// A path is written as a temporary file beside it and renamed when whole; a writer that is freed before takes the temporary file away.
typedef struct gguf_writer gguf_writer;

// An array to write: data points at `count` native values of `type` (bool: uint8_t 0/1; strings: gguf_str; arrays: gguf_items).
typedef struct gguf_items {
    gguf_type   type;
    uint64_t    count;
    const void *data;
} gguf_items;

status gguf_writer_create(gguf_writer **out, error *err);
void   gguf_writer_free(gguf_writer *w);
// Version 1, 2 or 3 (3 is the default), and byte order. Before anything is added.
status gguf_writer_format(gguf_writer *w, uint32_t version, bool big_endian, error *err);
// Setting a key again replaces it. `value` points at one native value of `type` (for strings a gguf_str, for arrays a gguf_items).
// Setting general.alignment (u32, a power of two) sets the alignment.
status gguf_writer_set(gguf_writer *w, const char *key, gguf_type type, const void *value, error *err);
status gguf_writer_set_u32(gguf_writer *w, const char *key, uint32_t value, error *err);
status gguf_writer_set_f32(gguf_writer *w, const char *key, float value, error *err);
status gguf_writer_set_bool(gguf_writer *w, const char *key, bool value, error *err);
status gguf_writer_set_text(gguf_writer *w, const char *key, const char *text, error *err);
status gguf_writer_copy(gguf_writer *w, const char *key, const gguf_value *value, error *err); // any value of an open gguf
void   gguf_writer_remove(gguf_writer *w, const char *key);
// data: borrowed until the file is written, in the host's byte order; NULL when it will be streamed.
status gguf_writer_tensor(gguf_writer *w, const char *name, int type, int n_dims, const uint64_t *dims, const void *data, error *err);
status gguf_writer_begin(gguf_writer *w, const char *path, error *err);
status gguf_writer_data(gguf_writer *w, const void *data, size_t bytes, error *err); // big-endian: whole blocks a call
status gguf_writer_finish(gguf_writer *w, error *err); // E_USAGE when data is missing
status gguf_writer_path(gguf_writer *w, const char *path, error *err);
// *out: the whole file; the caller frees it with mem_free.
status gguf_writer_memory(gguf_writer *w, void **out, size_t *bytes, error *err);
