// What the gguf room's files share. Owned by gguf_reader.c; immutable once gguf_open returned.
#pragma once
#include "base/mem.h"
#include "gguf/gguf.h"

// One file: its bytes up to where the metadata ends are in buf (memory sources: all of it, borrowed).
typedef struct gguf_source {
    char          *path;
    int            fd; // -1: memory
    const uint8_t *buf;
    uint8_t       *owned; // buf when it is ours
    size_t         have, cap;
    uint64_t       size;
    bool           swap; // big-endian
} gguf_source;

// Positions, not pointers: buf moves while it grows.
typedef struct gguf_span {
    uint64_t at, len;
} gguf_span;

struct gguf_value {
    const gguf_source *src;
    uint64_t count, at; // elements, and where they lie (numbers and bools)
    union {
        gguf_span  *strings;
        gguf_value *nested;
    } u;
    uint8_t type, elem; // type: elem, or GGUF_ARRAY
};

typedef struct gguf_kv {
    const char *key;
    gguf_value  value;
} gguf_kv;

struct gguf {
    arena        arena;
    uint32_t     version, alignment, n_files;
    gguf_source **files; // each allocated alone: values point at their source
    gguf_kv     *kv;
    size_t       n_kv, cap_kv;
    gguf_tensor *tensors;
    size_t       n_tensors, cap_tensors;
    uint32_t    *kv_order, *tensor_order; // by name
};

enum { GGUF_MAX_DEPTH = 8, GGUF_MAX_NAME = 1024 };

// Bytes of one element in the file, 0 for strings, arrays and what is no type.
size_t gguf_type_bytes(int type);
