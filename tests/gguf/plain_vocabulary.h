// A vocabulary of ids alone for files that tests write: n tokens "t0", "t1" ... of the kind "test".
#pragma once
#include <stdio.h>

#include "base/mem.h"
#include "gguf/gguf.h"

static inline void plain_vocabulary(gguf_writer *w, int n) {
    char (*spelled)[12] = mem_alloc((size_t)n * sizeof *spelled);
    gguf_str *names = mem_alloc((size_t)n * sizeof *names);
    for (int i = 0; i < n; i++) names[i] = (gguf_str){spelled[i], (size_t)snprintf(spelled[i], sizeof spelled[i], "t%d", i)};
    assert_int_equal(gguf_writer_set_text(w, "tokenizer.ggml.model", "test", NULL), OK);
    assert_int_equal(gguf_writer_set(w, "tokenizer.ggml.tokens", GGUF_ARRAY, &(gguf_items){GGUF_STRING, (uint64_t)n, names}, NULL), OK);
    mem_free(spelled);
    mem_free(names);
}
