// cpu/amx/probe: the tile unit, busy from its registers: four accumulators, as the kernels have them, so that no product waits for the one before.
#include "cpu/amx/amx_tile.h"
#include "cpu/cpu_internal.h"

static void begin(void) {
    _Alignas(64) uint8_t ones[1024];
    memset(ones, 1, sizeof ones);
    amx_shape(16, 16);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    TILE_LOAD(4, ones, 64);
    TILE_LOAD(5, ones, 64);
    TILE_LOAD(6, ones, 64);
    TILE_LOAD(7, ones, 64);
}

#define RUN(name, DOT)                             \
    static void name(int64_t rounds) {             \
        begin();                                   \
        for (int64_t r = 0; r < rounds; r++) {     \
            DOT(0, 4, 6);                          \
            DOT(1, 4, 7);                          \
            DOT(2, 5, 6);                          \
            DOT(3, 5, 7);                          \
        }                                          \
        amx_release();                             \
    }
RUN(run_bf16, TILE_DOT)
RUN(run_int8, _tile_dpbssd)

const cpu_probe cpu_probe_amx_bf16 = {"AMX bf16", 4 * 2.0 * 16 * 16 * 32, run_bf16}, cpu_probe_amx_int8 = {"AMX int8", 4 * 2.0 * 16 * 16 * 64, run_int8};
