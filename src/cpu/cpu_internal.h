// cpu/internal: the structures and the kernel table shared by the files of this room.
#pragma once
#include <stdatomic.h>

#include "base/mem.h"
#include "base/pool.h"
#include "cpu/cpu.h"
#include "quant/quant.h"

// ---- packed weights -------------------------------------------------------------------------------------------------------
// A panel is 16 rows (the last one padded with zeros). Floats lie as [k][16]. Integer formats: a scale area, then a quant area for each block of 32 columns, in which
// four columns of a row are neighbours, so that one 4-byte broadcast of activations meets 16 rows.
enum { PANEL = 16, BLOCK = 32, ROW_TILE = 16 };

// Panels are asked for PANEL_AHEAD bytes before they are read, into the second level: it takes more requests at once than the first (docs/PERFORMANCE.md). With each block
// its share, scales too, and towards the end of a chunk the beginning of what the worker reads then.
enum { PANEL_AHEAD = 8192 };
typedef struct cpu_ask { const uint8_t *at, *end, *then; } cpu_ask;
static inline cpu_ask cpu_ask_from(const uint8_t *chunk, size_t bytes, const uint8_t *then) {
    if (!then) then = chunk; // what is there already
    return bytes > PANEL_AHEAD ? (cpu_ask){chunk + PANEL_AHEAD, chunk + bytes, then} : (cpu_ask){then + PANEL_AHEAD - bytes, (const uint8_t *)UINTPTR_MAX, then};
}
static inline size_t cpu_ask_share(size_t panel_bytes, int64_t blocks) { return (panel_bytes + (size_t)blocks - 1) / (size_t)blocks; }
static inline __attribute__((always_inline)) void cpu_ask_bytes(const uint8_t *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
}
static inline __attribute__((always_inline)) void cpu_ask_next(cpu_ask *a, size_t share) {
    cpu_ask_bytes(a->at, share);
    a->at += share;
    if (a->at >= a->end) *a = (cpu_ask){a->then, (const uint8_t *)UINTPTR_MAX, a->then};
}

typedef enum cpu_format {
    CPU_RAW, // file blocks, row by row, decoded when used
    CPU_F32, CPU_F16, CPU_BF16,
    // Whole numbers of 4 to 8 bits (cpu_panel.h), short codes (cpu_codes.h).
    CPU_Q8, CPU_Q4_0, CPU_Q4_1, CPU_Q5_0, CPU_Q5_1, CPU_Q4_K, CPU_Q5_K, CPU_Q6_K,
    CPU_IQ4_NL, CPU_IQ4_XS, CPU_MXFP4, CPU_NVFP4, CPU_Q2_K, CPU_Q3_K, CPU_IQ3_S, CPU_IQ3_XXS, CPU_IQ2_S, CPU_IQ2_XS, CPU_IQ2_XXS, CPU_IQ1_S, CPU_IQ1_M,
    CPU_TQ1_0, CPU_TQ2_0, CPU_Q2_0, CPU_Q1_0,
    // Panels in the order of bf16 tiles, for the tier that has them (cpu_tile.h). CPU_TILE_RAW: file blocks, row by row.
    CPU_TILE_RAW, CPU_TILE_BF16, CPU_TILE_F16, CPU_TILE_Q8_0, CPU_TILE_Q4_0, CPU_TILE_Q4_1, CPU_TILE_Q5_0, CPU_TILE_Q5_1, CPU_TILE_Q4_K, CPU_TILE_Q5_K, CPU_TILE_Q6_K,
    CPU_TILE_IQ4_NL, CPU_TILE_IQ4_XS, CPU_TILE_MXFP4, CPU_TILE_NVFP4,
    CPU_TILE_CODE, // and after it: the panels of short codes, in their order, read as tiles
    CPU_INT8_FIRST = CPU_Q8, CPU_INT8_LAST = CPU_Q6_K,
    CPU_CODE_FIRST = CPU_IQ4_NL, CPU_CODE_LAST = CPU_Q1_0,
    CPU_FORMATS = CPU_TILE_CODE + CPU_CODE_LAST - CPU_CODE_FIRST + 1
} cpu_format;

static inline bool cpu_format_tile(cpu_format f) { return f >= CPU_TILE_RAW; }
// Reads activations that were packed row by row: int8 blocks, or bf16 tiles.
static inline bool cpu_format_packs(cpu_format f) { return f >= CPU_Q8; }
// Of those the ones that read int8: short codes too, which have layouts of their own.
static inline bool cpu_format_int8(cpu_format f) { return f >= CPU_Q8 && f < CPU_TILE_RAW; }
static inline bool cpu_format_raw(cpu_format f) { return f == CPU_RAW || f == CPU_TILE_RAW; }

typedef struct cpu_tensor {
    dev_tensor base;
    cpu_format format;
    uint8_t   *data;          // matrix and rows
    size_t     row_bytes;     // CPU_RAW: bytes of a row
    size_t     scale_bytes;   // of a panel, a multiple of 64
    size_t     panel_bytes;   // CPU_RAW: 16 rows
    size_t     expert_bytes;
    int64_t    n_panels;      // of one expert
    float     *vector;        // DEV_USE_VECTOR: float32 values
    struct cpu_slab *slab;    // where data lies
    struct cpu_tensor *prev, *next; // of the device's list
} cpu_tensor;

static inline const cpu_tensor *cpu_t(const dev_tensor *t) { return (const cpu_tensor *)t; }
static inline const uint8_t *cpu_panel_at(const cpu_tensor *t, int64_t expert, int64_t panel) {
    return t->data + (size_t)expert * t->expert_bytes + (size_t)panel * t->panel_bytes;
}

size_t cpu_scale_bytes(cpu_format f, int64_t k); // of a panel: its scale area, a multiple of 64
size_t cpu_panel_bytes(cpu_format f, int64_t k);
cpu_format cpu_choose_format(uint32_t type, int64_t k, bool packed);
cpu_format cpu_tile_format(uint32_t type); // of the tile tier
// Packs n (1..16) rows of file blocks into a panel of any format but the raw ones.
void cpu_pack_panel(cpu_format f, uint32_t type, int64_t k, int n, const uint8_t *rows, size_t row_bytes, uint8_t *panel);
// One row of any format as float32.
void cpu_unpack_row(const cpu_tensor *t, int64_t expert, int64_t row, float *dst);

// ---- kernels --------------------------------------------------------------------------------------------------------------

// Beside each block of 32 int8 activations: x is about d * q.
typedef struct cpu_aux {
    float   d;
    float   ds;     // d * (sum of q)
    int32_t nsum;   // minus the sum of q
    int32_t nhigh;  // minus the sum of q of columns 16..31
} cpu_aux;

// The same beside a block of a tile, which is 16 rows: [k / 32][16 rows][32 int8]. A tile takes the place of its rows one after another, q and aux alike.
typedef struct cpu_tile_aux {
    float   d[ROW_TILE], ds[ROW_TILE];
    int32_t nsum[ROW_TILE], nhigh[ROW_TILE];
} cpu_tile_aux;
_Static_assert(sizeof(cpu_tile_aux) == ROW_TILE * sizeof(cpu_aux), "a tile takes the place of its rows");

// Where a row of int8 activations goes, by itself or in a tile, and how far it is from block to block and from one of its cpu_aux's words to the next.
typedef struct cpu_int8_place {
    int8_t  *q;
    uint8_t *aux;
    int32_t  q_step, aux_step, aux_apart; // bytes
} cpu_int8_place;

static inline cpu_int8_place cpu_int8_alone(int8_t *q, cpu_aux *aux, int64_t k, int64_t row) {
    return (cpu_int8_place){q + row * k, (uint8_t *)(aux + row * (k / BLOCK)), BLOCK, sizeof(cpu_aux), sizeof(float)};
}
static inline cpu_int8_place cpu_int8_in_tile(int8_t *q, cpu_aux *aux, int64_t k, int64_t row) {
    const int64_t in = row % ROW_TILE, first = row - in;
    return (cpu_int8_place){q + first * k + in * BLOCK, (uint8_t *)(aux + first * (k / BLOCK)) + in * (int64_t)sizeof(float), ROW_TILE * BLOCK, sizeof(cpu_tile_aux),
                            ROW_TILE * sizeof(float)};
}
static inline void cpu_put_aux(uint8_t *at, int32_t apart, float d, int32_t low, int32_t high) { // sums of columns 0..15 and 16..31
    const float ds = d * (float)(low + high);
    const int32_t nsum = -(low + high), nhigh = -high;
    memcpy(at, &d, sizeof d);
    memcpy(at + apart, &ds, sizeof ds);
    memcpy(at + 2 * apart, &nsum, sizeof nsum);
    memcpy(at + 3 * apart, &nhigh, sizeof nhigh);
}
// Of an op's rows, how many lie in tiles where all are read in order: whole tiles.
static inline int32_t cpu_in_tiles(int64_t rows) { return (int32_t)(rows - rows % ROW_TILE); }

// What joins two products of tile formats, this one and `up`, of the same activations, panel by panel: act(this) * up, rounded into the activation tiles of the
// product that follows, where rows lie as tile_row puts them. The columns are whole tiles.
typedef struct cpu_join {
    const struct cpu_tensor *up;
    const float *bias; // of up; NULL
    float scale;
    dev_act kind;
    const float *p;    // its numbers
    void (*act)(dev_act kind, const float *p, float *y, const float *gate, const float *up, int32_t n);
    uint8_t *tiles;
} cpu_join;

typedef struct gemm_args {
    const cpu_tensor *w;
    const uint8_t *data;     // the expert's first panel
    int64_t first, count;    // panels
    const uint8_t *then;     // what the worker reads after them, or NULL: asked for ahead by the int8 tiers
    int64_t k;
    const float *x;          // [rows][ldx], float formats
    size_t ldx;
    const int8_t *q;         // [rows][k], integer formats; activation tiles of all rows, tile formats
    const cpu_aux *aux;      // [rows][k / 32]
    int32_t tiled;           // integer formats: so many rows, the first ones, lie in tiles
    const int32_t *rows;     // n_rows numbers of input rows; where some are in tiles they follow each other, from the first of a tile on
    int32_t n_rows;
    float *y;                // output row i, column j at y[i * ldy + j], j counted from the first panel's
    size_t ldy;
    // Tile formats finish what they compute: y = product * scale + bias + residual; bias and residual may be NULL and residual may be y.
    const float *bias, *residual;
    size_t ldr;
    float scale;
    const cpu_join *join;    // tile formats: results go there and not to y; NULL
    float *scratch;          // CPU_RAW: k floats; integer formats: k * 6, a tile; tile formats: cpu_tile_scratch
} gemm_args;

// The pages of a KV group. A page is made of parts, one for each layer and key head (of states: for each layer). Pages lie in runs, [run][part][page of the
// run]: what attention reads of neighbouring pages lies side by side, while memory still comes a run at a time. The last run may be shorter.
typedef struct cpu_kv_group {
    dev_group spec;
    uint8_t  *data;
    int32_t   n, run;    // pages; of a run
    int32_t   parts;
    size_t    part_bytes;
    size_t    present;   // bytes from the first on that are in memory, or that the system does not fetch when asked (cpu_kv_reach)
} cpu_kv_group;

static inline size_t cpu_kv_page_bytes(const cpu_kv_group *g) { return g->part_bytes * (size_t)g->parts; } // of one page
static inline uint8_t *cpu_kv_part(const cpu_kv_group *g, int32_t page, int32_t part) {
    const int32_t first = page - page % g->run, in_run = g->n - first < g->run ? g->n - first : g->run;
    return g->data + ((size_t)first * (size_t)g->parts + (size_t)part * (size_t)in_run + (size_t)(page - first)) * g->part_bytes;
}

typedef struct attend_args {
    const cpu_kv_group *kv;
    int32_t part;             // this layer and head: keys [head_k][32], then values [32][head_v]
    const int32_t *pages;     // ids by cache index / 32
    int32_t kv_type, head_k, head_v;
    int32_t n;                // queries
    const float *const *q;    // [n], head_k values
    float *const *out;        // [n], head_v values
    const int32_t *low, *high; // [n]: keys low..high-1 are seen, by cache index
    const int32_t *own;       // [n] the query's own cache index, for ALiBi
    const float *slope;       // [n]
    const float *sink;        // [n] or NULL
    float scale, softcap;
    float *scratch;           // cpu_attend_floats; attend_tiles: cpu_tile_attend_scratch
} attend_args;

// Scratch of attend: two numbers a query, and a page in float32.
static inline size_t cpu_attend_floats(int32_t n, int32_t head_k, int32_t head_v) { return 2 * (size_t)n + (size_t)(head_k + head_v) * DEV_PAGE_TOKENS; }

enum { SCAN_COLUMNS = 64 }; // of a head's value, or of a convolution: what one worker takes at once

typedef struct conv_args {
    int32_t rows, columns, taps; // columns <= SCAN_COLUMNS
    const float *src;
    float *dst;
    size_t ld_src, ld_dst;
    const float *weight, *bias;  // [columns][taps]; NULL
    float *state;                // [taps - 1][ld_state], oldest row first
    size_t ld_state;
    bool fresh;                  // the state counts as zero
    dev_act act;
} conv_args;

// One head's columns; pointers are at the head, and at the first column where they have columns. dst may be v.
typedef struct scan_args {
    dev_scan_kind kind;
    dev_rate rate_kind;
    int32_t rows, columns, head_k;
    const float *q, *k, *v, *rate, *beta; // rate, beta: NULL where there is none
    const float *z, *b;                   // DEV_SCAN_DPLR
    float *dst;
    size_t ld_q, ld_k, ld_v, ld_rate, ld_beta, ld_z, ld_b, ld_dst;
    bool before;
    const float *rate_bias, *a, *skip;    // NULL where there is none
    bool skip_columns;                    // skip has a value for each column
    float scale, a_scale;
    float *state;                         // [head_k][ld_state]
    size_t ld_state;
    bool fresh;
    float *scratch;                       // head_k + SCAN_COLUMNS, DEV_RATE_VALUE: + head_k * SCAN_COLUMNS
} scan_args;

typedef struct cpu_hash { uint64_t low, high; } cpu_hash;

typedef struct cpu_kernels {
    const char *isa;
    bool packed; // weights are packed in panels, integer formats in int8
    bool tiles;  // or as tiles
    dev_kv_type kv_auto;
    // Packs 16 whole rows of file blocks (k columns, a multiple of 32, row_bytes apart) into a panel, as cpu_pack_panel does, or NULL. Only from the type the format is named for.
    void (*pack[CPU_FORMATS])(int64_t k, const uint8_t *rows, size_t row_bytes, uint8_t *panel);
    cpu_hash (*hash)(const void *, size_t); // xxh128
    void (*norm)(dev_norm_kind kind, float *y, const float *x, int32_t n, const float *w, const float *b, float eps);
    // cs: cos and sin of each pair, interleaved
    void (*rope)(float *x, const float *cs, int32_t dims, dev_rope_kind kind, bool inverse);
    void (*act)(dev_act act, const float *p, float *y, const float *gate, const float *up, int32_t n); // up may be NULL; p: the numbers of acts that have some
    void (*combine)(float *y, const float *a, const float *b, float sa, float sb, bool multiply, int32_t n);
    void (*vector)(float *y, const float *x, const float *scale, const float *bias, int32_t n);
    void (*finish)(float *y, const float *x, const float *bias, const float *residual, float scale, int32_t n); // y = x * scale + bias + residual
    void (*quantize)(const float *x, int64_t k, cpu_int8_place to);
    void (*tile_row)(const float *x, int64_t k, int64_t row, uint8_t *tiles); // a row into its place among the activation tiles
    void (*gemm[CPU_FORMATS])(const gemm_args *);
    // Up to few_rows rows (0: none) over tile formats with int8 activations, as quantize leaves them and few_order puts them: faster, and another recipe.
    int32_t few_rows;
    void (*few_order)(int8_t *q, int64_t k);
    void (*gemm_few[CPU_FORMATS])(const gemm_args *);
    void (*attend)(const attend_args *);
    void (*conv)(const conv_args *);
    void (*scan)(const scan_args *);
    // The tier's own way with bf16 pages, or NULL: one head's keys and values of n tokens (rows ldk and ldv apart) into a page's slots, and attention over them.
    void (*kv_put)(uint8_t *head, int32_t head_k, int32_t head_v, int32_t slot, int32_t n, const float *k, size_t ldk, const float *v, size_t ldv);
    void (*attend_tiles)(const attend_args *);
    void (*to_half)(const float *x, uint16_t *y, int32_t n); // nearest even
    float (*log_sum_exp)(const float *x, int32_t n);
    void (*peaks)(const float *x, int32_t n, float *out); // the greatest of each DEV_PEAK, as dev_peaks has it
    float (*dot)(const float *a, const float *b, int32_t n);
} cpu_kernels;

void cpu_kernels_ref(cpu_kernels *k);
#if defined(__x86_64__)
void cpu_kernels_avx2(cpu_kernels *k);
void cpu_kernels_avx2_vnni(cpu_kernels *k);
void cpu_kernels_avx512_vnni(cpu_kernels *k);
void cpu_kernels_avx512(cpu_kernels *k);
void cpu_pack_avx512(cpu_kernels *k); // its `pack` and `hash`
void cpu_pack_avx2(cpu_kernels *k);
void cpu_kernels_amx(cpu_kernels *k);
void cpu_kernels_amx_emulated(cpu_kernels *k); // the same kernels over tile instructions in C
#elif defined(__aarch64__)
void cpu_kernels_neon(cpu_kernels *k);
void cpu_kernels_neon_dotprod(cpu_kernels *k);
void cpu_kernels_neon_i8mm(cpu_kernels *k);
typedef struct cpu_neon_features { bool dotprod, i8mm; } cpu_neon_features; // i8mm only together with dotprod
cpu_neon_features cpu_neon_detect(void);
#endif
bool cpu_tile_permission(void); // the system lets this process use tile registers
// How a tier keeps a weight, by what is known before it is there: plans are also laid out to predict memory.
static inline cpu_format cpu_format_of(const cpu_kernels *kern, uint32_t type, int64_t k, unsigned use) {
    bool matrix = use & DEV_USE_MATRIX;
    if (use & DEV_USE_EXACT) type = QUANT_F32; // its weights are decoded as they are packed
    return matrix && kern->tiles ? cpu_tile_format(type) : cpu_choose_format(type, k, kern->packed && matrix);
}
// Packs n (1..16) rows of file blocks into a panel, the tier's way where it has one.
static inline void cpu_pack(const cpu_kernels *kern, cpu_format f, uint32_t type, int64_t k, int n, const uint8_t *rows, size_t row_bytes, uint8_t *panel) {
    bool decoded = f == CPU_F32 && type != QUANT_F32;
    if (kern->pack[f] && n == PANEL && k % BLOCK == 0 && !decoded) kern->pack[f](k, rows, row_bytes, panel);
    else cpu_pack_panel(f, type, k, n, rows, row_bytes, panel);
}
// Of that many rows, how many may go to the kernels for a few.
static inline size_t cpu_few_rows(const cpu_kernels *kern, size_t rows) { return rows < (size_t)kern->few_rows ? rows : (size_t)kern->few_rows; }
// Bytes of q for that many rows.
static inline size_t cpu_packed_bytes(const cpu_kernels *kern, int64_t k, size_t rows) {
    return kern->tiles ? ((rows + 15) & ~(size_t)15) * (size_t)((k + 31) / 32) * 64 : rows * (size_t)k;
}
// cpu_dispatch.c: the one place that knows which tier runs where.
status cpu_choose_kernels(const char *isa, cpu_kernels *k, error *err);

// ---- limits (cpu_limits.c) ------------------------------------------------------------------------------------------------

// A unit of the processor kept busy from registers: `rounds` rounds of `ops` operations.
typedef struct cpu_probe { const char *unit; double ops; void (*run)(int64_t rounds); } cpu_probe;
extern const cpu_probe cpu_probe_c;
#if defined(__x86_64__)
extern const cpu_probe cpu_probe_avx2_int8, cpu_probe_avx2_fma, cpu_probe_avx2_vnni, cpu_probe_avx512_vnni, cpu_probe_avx512_fma, cpu_probe_amx_bf16, cpu_probe_amx_int8;
#elif defined(__aarch64__)
extern const cpu_probe cpu_probe_neon, cpu_probe_neon_dotprod, cpu_probe_neon_i8mm;
#endif
// Of a tier that this machine can run: fills at most DEV_MAX_UNITS and returns how many, first the one that products of weights use.
int cpu_choose_probes(const char *isa, const cpu_probe **probes);
status cpu_measure(device *, dev_limits *, error *);

// ---- device ---------------------------------------------------------------------------------------------------------------

// Weights lie one after another in slabs of large pages: rounding each matrix up to a page of 2 MB would waste a quarter of a small model,
// and matrices below that would have small pages. A slab goes back when its last tensor goes.
typedef struct cpu_slab {
    struct cpu_slab *next;
    uint8_t *at;
    size_t   size, used, tensors;
} cpu_slab;

typedef struct cpu_device {
    device      base;
    const nodes *nodes;
    pool       *pool;
    cpu_kernels kernels;
    dev_kv_type kv_auto;
    bool        deterministic;
    size_t      weight_bytes;
    cpu_tensor *tensors;
    cpu_slab   *slabs;
    dev_ticket  ticket;
} cpu_device;

static inline cpu_device *cpu_dev(device *d) { return (cpu_device *)d; }
static inline const cpu_device *cpu_dev_const(const device *d) { return (const cpu_device *)d; }
// Whether a step's op of that many rows takes the kernel for a few, and so reads int8 activations, for a weight of this format.
static inline bool cpu_takes_few(const cpu_device *d, cpu_format f, int64_t rows) { return !d->deterministic && rows <= d->kernels.few_rows && d->kernels.gemm_few[f]; }
// Activations packed for products: `few` for the kernels for a few rows, else for all others. aux is the int8 tiers' and theirs; tiled: see gemm_args.
typedef struct cpu_packed { uint8_t *q, *few; cpu_aux *aux; int32_t tiled; } cpu_packed;
// Packs a row (of an op with `rows` rows) in each way that one of n weights reads.
void cpu_pack_for(const cpu_device *d, const dev_tensor *const *w, int n, const float *x, int64_t k, int64_t row, int64_t rows, const cpu_packed *to);

// Where memory has nodes, a matrix's panels lie on them in order, in proportion to workers (a stack of experts of a few large pages each: the panels of all in
// order), and workers take those of their own node first. The first of an expert's panels that belongs to a node; of pool_nodes: n_panels.
int64_t cpu_node_panel(const pool *p, const cpu_tensor *t, int64_t expert, int node);
// Chunks of `chunk` panels: those that begin on the node.
typedef struct cpu_chunks { int64_t first, count; } cpu_chunks;
cpu_chunks cpu_node_chunks(const pool *p, const cpu_tensor *t, int64_t expert, int node, int64_t chunk);
// The large pages whose middle is the tensor's, in runs that lie on one node: from {0} on; false when there are no more.
typedef struct cpu_pages { uint8_t *at; size_t bytes; int node; } cpu_pages;
bool cpu_next_pages(const pool *p, const cpu_tensor *t, cpu_pages *run);
// For what all workers read and write: over all nodes in turn.
static inline void cpu_interleave(const cpu_device *d, void *at, size_t bytes) {
    if (pool_nodes(d->pool) > 1) nodes_place(d->nodes, at, bytes, NODES_ALL);
}

void *cpu_big_alloc(size_t bytes); // huge pages where it pays; zeroed memory is not promised; free with mem_free

status cpu_import_weights(device *, dev_import *, size_t n, const dev_hooks *, error *);
void   cpu_free_weight(device *, dev_tensor *);
size_t cpu_weight_size(const device *, const dev_weight *);

typedef struct cpu_kv {
    dev_kv_type type;
    int32_t   n_groups;
    cpu_kv_group groups[DEV_MAX_GROUPS];
} cpu_kv;

// Before each group's pages up to upto[g] - 1 are written to: the memory of those that were never used is there, fetched by all workers. By the device's thread.
void cpu_kv_reach(cpu_device *, cpu_kv *, const int32_t *upto);

// In q8_0 each block of 32 dimensions of a key or value (the last may be shorter) has a scale, f16 [block][32 tokens], after the int8 of all.
static inline size_t cpu_kv_values_at(dev_kv_type t, int32_t head_k) { // offset of a head's values in its part of a page
    size_t bytes = (size_t)head_k * DEV_PAGE_TOKENS * (t == DEV_KV_F32 ? 4 : t == DEV_KV_Q8_0 ? 1 : 2);
    return t == DEV_KV_Q8_0 ? bytes + (size_t)((head_k + BLOCK - 1) / BLOCK) * DEV_PAGE_TOKENS * 2 : bytes;
}
size_t cpu_page_bytes(const device *, const dev_group *, dev_kv_type);
status cpu_kv_create(device *, const dev_plan *, const int32_t *, dev_kv_type, dev_kv **, error *);
void   cpu_kv_destroy(device *, dev_kv *);
void   cpu_kv_copy(device *, dev_kv *, int32_t group, int32_t from, int32_t to);
void   cpu_kv_export(device *, dev_kv *, int32_t group, int32_t page, void *dst);
void   cpu_kv_import(device *, dev_kv *, int32_t group, int32_t page, const void *src);
dev_kv_type cpu_kv_resolve(const device *, dev_kv_type);
// Writes n rows' keys and values of a layer (n_kv heads; rows ldk and ldv apart) from slot (0..31) of a page on, which holds them all.
void cpu_kv_write(const cpu_kernels *kern, const cpu_kv *kv, int32_t group, int32_t layer, int32_t page, int32_t slot, int32_t n,
    const float *k, size_t ldk, const float *v, size_t ldv);

// ---- plan -----------------------------------------------------------------------------------------------------------------

// Row-local work and shared work. A phase is a run of row-local items, each done for a row before the next row is begun, or one op that all
// workers share; workers meet after each phase.
typedef enum cpu_item_kind {
    CPU_ITEM_OP,       // a row-local op of the plan
    CPU_ITEM_ROPE,     // cos and sin of the row's position, for all tables
    CPU_ITEM_KV,       // the attend op's keys and values into their page
    CPU_ITEM_QUANTIZE, // the input of the linear, experts or output op that follows
    CPU_ITEM_GATE      // act(gate) * up of the gated linear op before
} cpu_item_kind;

typedef struct cpu_item { cpu_item_kind kind; int32_t op; } cpu_item;

typedef struct cpu_phase {
    int32_t first, count; // items; a shared phase has one, its op
    bool    rows;         // row-local
    bool    wanted;       // its rows are the wanted ones
} cpu_phase;

typedef struct cpu_rope_table {
    dev_rope op;   // its parameters
    double  *freq; // dims / 2: angle of position 1
    float    scale;
    size_t   at;   // [max_rows][dims] cos and sin
} cpu_rope_table;

typedef struct cpu_plan {
    cpu_phase *phases;
    cpu_item  *items;
    size_t     n_phases, cap_phases, n_items, cap_items;
    size_t    *reg_at;     // byte offset of each root register in scratch
    int32_t   *op_rope;    // rope table of each op
    bool      *op_joins;   // a gated linear whose result only the next op reads, packed: cpu_join
    cpu_rope_table *ropes;
    size_t     n_ropes, cap_ropes;
    size_t     bytes;      // of scratch
    size_t     q_at, few_at, aux_at, logits_at, peaks_at, identity_at, expert_at, gate_at, join_at, worker_at, worker_bytes, row_seq_at;
    uint8_t   *scratch;
    dev_reg    hidden;
    // the step being run
    const dev_step *step;
    const cpu_kv *kv;
} cpu_plan;

// Scratch of a worker: CPU_TILE_FLOATS for a chunk of a product on its way to a residual, then what the plan's ops need.
enum { CPU_ROW_BLOCK = 128, CPU_PANEL_CHUNK = 16, CPU_PANEL_CHUNK_FEW = 64, CPU_FEW_ROWS = 4, CPU_TILE_FLOATS = CPU_ROW_BLOCK * CPU_PANEL_CHUNK * PANEL };
static inline float *cpu_worker_scratch(const cpu_plan *c, int worker) { return (float *)(c->scratch + c->worker_at + (size_t)worker * c->worker_bytes) + CPU_TILE_FLOATS; }

// Joined from that many rows on; fewer take kernels of their own.
enum { CPU_JOIN_ROWS = 17 };
static inline bool cpu_joins(const cpu_plan *c, int32_t op, int32_t rows) { return op >= 0 && rows >= CPU_JOIN_ROWS && c->op_joins[op]; }

size_t cpu_plan_scratch(const device *, const dev_plan *, int32_t max_rows, int32_t max_wanted);
status cpu_plan_prepare(device *, dev_plan *, error *);
void   cpu_plan_free(device *, dev_plan *);
status cpu_submit(device *, dev_plan *, dev_kv *, const dev_step *, dev_ticket *, error *);
status cpu_wait(device *, dev_ticket, error *);
const float *cpu_logits(device *, dev_plan *, int32_t i);
const float *cpu_peaks(device *, dev_plan *, int32_t i);
const float *cpu_hidden(device *, dev_plan *, int32_t i);
static inline int32_t cpu_peak_blocks(int32_t n_vocab) { return (n_vocab + DEV_PEAK - 1) / DEV_PEAK; }
void   cpu_reduce(device *, dev_plan *, int32_t i, int32_t k, dev_top *top);

// Whether a worker takes its next chunk before it does the one in hand, and asks for that (cpu_ask). Where products are bound by operations it would
// keep for itself what others could begin.
static inline bool cpu_looks_ahead(bool tiles, int32_t rows) { return !tiles && rows <= ROW_TILE; }

typedef struct cpu_reg_view { float *at; size_t ld; } cpu_reg_view;
cpu_reg_view cpu_reg(const dev_plan *p, dev_reg r);

// Parts of a step; each is called by all workers.
void cpu_run_attend(const dev_plan *p, const dev_attend *op, int worker, pool_member *team);
void cpu_run_conv(const dev_plan *p, const dev_conv *op, pool_member *team);
void cpu_run_scan(const dev_plan *p, const dev_scan *op, int worker, pool_member *team);
size_t cpu_scan_scratch(const dev_scan *op); // floats of a worker
void cpu_run_experts(const dev_plan *p, const dev_experts *op, int worker, pool_member *team);
bool cpu_experts_apart(const cpu_kernels *kern, const dev_experts *op); // the router reads packed rows that are not the experts': the op packs both itself
size_t cpu_experts_scratch(const cpu_kernels *kern, const dev_experts *op, int32_t max_rows);
size_t cpu_attend_scratch(const cpu_kernels *kern, const dev_attend *op); // floats of a worker
// Shared out by panels and rows: y = w x for n_rows rows.
typedef struct cpu_matmul {
    const cpu_tensor *w;
    int64_t expert;
    float *y;
    size_t ldy;
    const float *bias, *residual; // residual: same shape and stride rules as y with ldr
    size_t ldr;
    float scale;
    const cpu_join *join;         // see gemm_args
    const uint8_t *q;             // packed rows that are not the plan's q; NULL
    int32_t tiled;                // see gemm_args
} cpu_matmul;
static inline cpu_packed cpu_plan_packed(const cpu_plan *c, int32_t tiled) {
    return (cpu_packed){c->scratch + c->q_at, c->scratch + c->few_at, (cpu_aux *)(c->scratch + c->aux_at), tiled};
}
// Integer formats read the plan's quantized rows 0..n_rows-1; float ones x at `rows` (NULL: 0..n_rows-1). Ends with a barrier.
void cpu_run_matmuls(const dev_plan *p, const cpu_matmul *m, int n, const float *x, size_t ldx, const int32_t *rows, int32_t n_rows, int worker, pool_member *team);
