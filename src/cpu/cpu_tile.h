// cpu/tile: weights and activations as the tile tier (amx) reads them; plain C, shared by packing and kernels.
//
// A weight tile is the second operand of TDPBF16PS: 32 columns of 16 rows in 1 KB of bf16, [kp < 16][r < 16][j < 2] = column 2 kp + j of row r. A panel
// is 16 rows; its columns are padded with zeros to a multiple of 32. What is not bf16 in the file keeps its own bits (nothing is rounded in memory), in the
// order of the tile, a dword for each row, so that what is unpacked from one vector is one half of the tile row's dwords and from another the other:
//   4 bits: [parity j < 2][group g < 2] of 16 dwords; dword r, nibble t is row r, column 16 g + 2 t + j
//   8 bits: [j][g][s < 2] of 16 dwords; dword r, byte t (unsigned, the number + 128) is what nibble 2 t + s is above
//   5 bits: then [j][g][s] a 64-bit mask of the fifth bits, bit 4 r + t; 6 bits: then [j] of 16 dwords with two bits each for kp = 0..15
//   half floats: [kp][r][j]
// So the low nibbles of a vector, its high ones, and a vector of bytes are each four columns of one row in every dword: what VPDPBUSD wants (amx_few.h).
// Before all quants of a panel lies its scale area (see cpu_panel.h).
// An activation tile is the first operand: 16 rows of 32 bf16 (64 bytes each); rows r of a step lie in tile row r % 16 of tiles [r / 16][k / 32].
#pragma once
#include "cpu/cpu_panel.h"

enum { TILE_BYTES = 1024, TILE_ROWS = 16, TILE_K = 32 };
// A product of many rows decodes TILE_PANELS panels at once, TILE_DEPTH tiles of K deep at most (three quarters of a megabyte), and multiplies them with a block of
// rows. Deeper products carry the results of TILE_CHUNK panels from one depth to the next.
enum { TILE_PANELS = 12, TILE_DEPTH = 64, TILE_CHUNK = 24, TILE_MOST_ROWS = 512 };

typedef struct tile_layout {
    uint32_t type;          // of the file
    int bits;               // 4, 5, 6, 8; 16: half floats or bf16
    cpu_scale scale;
    const int8_t *values;   // of 4 bits; 5 bits add 16 to them
    size_t block_bytes;     // quants of 16 rows x 32 columns
} tile_layout;

const tile_layout *cpu_tile_layout(cpu_format f); // short codes: as CPU_TILE_RAW, their own is in cpu_codes.h
void cpu_tile_put(const tile_layout *l, uint8_t *quants, int64_t b, int n, const cpu_part *rows); // the numbers of block b of n (1..16) rows, into quants of zeros
void cpu_tile_get(const tile_layout *l, const uint8_t *quants, int64_t b, int r, int8_t v[TILE_K]); // the values of row r, without their scale
static inline size_t cpu_tile_place16(int64_t column, int r) { // of 16-bit numbers
    return (size_t)(column / TILE_K * TILE_BYTES + column % TILE_K / 2 * 64 + r * 4 + column % 2 * 2);
}
static inline int64_t cpu_tile_blocks(int64_t k) { return (k + TILE_K - 1) / TILE_K; }
static inline int64_t cpu_tile_depth(int64_t blocks) { return blocks <= TILE_DEPTH ? blocks : TILE_DEPTH; }
// Tiles of a worker's scratch: decoded panels (a whole one where file blocks are unpacked for few rows), gathered activations, results.
static inline int64_t cpu_tile_decoded(int64_t blocks) { return blocks > TILE_PANELS * TILE_DEPTH ? blocks : TILE_PANELS * cpu_tile_depth(blocks); }
static inline int64_t cpu_tile_gathered(int64_t blocks) { return blocks > TILE_MOST_ROWS / TILE_ROWS * TILE_DEPTH ? blocks : TILE_MOST_ROWS / TILE_ROWS * cpu_tile_depth(blocks); }
static inline int64_t cpu_tile_results(int64_t blocks) { return blocks <= TILE_DEPTH ? TILE_PANELS * 2 : TILE_CHUNK * TILE_MOST_ROWS / TILE_ROWS; }
// Worker scratch in floats: those, two halves of what is joined, a row of floats.
static inline size_t cpu_tile_scratch(int64_t k) {
    int64_t blocks = cpu_tile_blocks(k);
    return (size_t)(cpu_tile_decoded(blocks) + cpu_tile_gathered(blocks) + cpu_tile_results(blocks) + 2 * TILE_PANELS) * (TILE_BYTES / sizeof(float)) + (size_t)blocks * TILE_K;
}

// Pages of bf16 keys and values as tiles (amx_attend.h).
static inline size_t cpu_tile_key_bytes(int32_t head_k) { return (size_t)((head_k + 31) / 32) * 2 * TILE_BYTES; }
static inline size_t cpu_tile_head_bytes(int32_t head_k, int32_t head_v) { return cpu_tile_key_bytes(head_k) + (size_t)((head_v + 15) / 16) * TILE_BYTES; }
// Queries of a key head that pass over its pages together, in groups of 32 (two tiles): a page is then read from far away once for all of them.
enum { TILE_QUERIES = 256 };
// Floats of a worker: weights of two splits, a page's values, scores of two splits; each group's queries and sums.
static inline size_t cpu_tile_attend_scratch(int32_t head_k, int32_t head_v) {
    size_t kb = (size_t)(head_k + 31) / 32, vb = (size_t)(head_v + 15) / 16;
    return (16 + vb) * (TILE_BYTES / sizeof(float)) + 2 * 32 * (128 + 16) + 16 + TILE_QUERIES / 32 * (2 * kb * (TILE_BYTES / sizeof(float)) + 32 * vb * 16);
}
