// cpu/hash: xxh128, compiled for the includer's instructions; the same value on all.
#pragma once
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "cpu/cpu_internal.h"

static cpu_hash hash_bytes(const void *at, size_t n) {
    XXH128_hash_t h = XXH3_128bits(at, n);
    return (cpu_hash){h.low64, h.high64};
}
