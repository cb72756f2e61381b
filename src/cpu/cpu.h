// cpu: the CPU backend. Weights are packed into memory of its own; a step runs as phases over the compute pool.
//
// Tiers: "ref" (plain C, float activations, the reference), "avx2", "avx2-vnni", "avx512-vnni", "avx512", "neon", "neon-dotprod" and "neon-i8mm" (int8
// activations in blocks of 32, exact int32 sums inside a block, blocks added in ascending order; float weights in float), "amx" (weights and activations
// in bf16 tiles, float32 weights in float; "amx-emulated": the same bits with tile instructions in C, for tests, never chosen by itself). Each tier is one
// recipe: a row's result has the same bits alone or among 512 rows, with any number of threads and however its prompt was cut. One exception: steps of up
// to eight rows on the amx tiers take int8 activations unless the device is deterministic.
// Threads: one thread at a time per device; it becomes worker 0.
#pragma once
#include "base/nodes.h"
#include "device/device.h"

typedef struct cpu_options {
    int         threads;       // 0: what the process may use (pool_default_threads)
    const char *isa;           // NULL or "": the best that processor and system support; or a tier's name
    dev_kv_type kv_type;       // what DEV_KV_AUTO becomes; DEV_KV_AUTO: the tier's own choice
    bool        deterministic; // only kernels that keep to the tier's recipe; dev_get_info says what holds
    const nodes *nodes;        // memory nodes that weights and workers are spread over; NULL: the machine's
} cpu_options;

// E_USAGE when the tier's name is unknown, E_UNSUPPORTED when this machine lacks it.
status cpu_device_create(const cpu_options *options, device **out, error *err);
// Tiers that this machine can run, best first, as a NULL-terminated list.
const char *const *cpu_tiers(void);
