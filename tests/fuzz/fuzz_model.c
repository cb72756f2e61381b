// Any bytes as a model file: hyperparameters and tensors are checked, nothing is loaded. What is refused must have a text.
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "gguf/gguf.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    gguf *g;
    error err = {0};
    if (gguf_open_memory(data, size, "fuzz", &g, &err)) return 0;
    err.text[0] = 0;
    if (model_check(g, &err)) assert(err.text[0]);
    gguf_close(g);
    return 0;
}
