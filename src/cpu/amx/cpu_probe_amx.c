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

static void run_bf16(int64_t rounds) {
    begin();
    for (int64_t r = 0; r < rounds; r++) {
        TILE_DOT(0, 4, 6);
        TILE_DOT(1, 4, 7);
        TILE_DOT(2, 5, 6);
        TILE_DOT(3, 5, 7);
    }
    amx_release();
}

static void run_int8(int64_t rounds) {
    begin();
    for (int64_t r = 0; r < rounds; r++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    amx_release();
}

const cpu_probe cpu_probe_amx_bf16 = {"AMX bf16", 4 * 2.0 * 16 * 16 * 32, run_bf16}, cpu_probe_amx_int8 = {"AMX int8", 4 * 2.0 * 16 * 16 * 64, run_int8};
