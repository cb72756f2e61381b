// device: what a backend (cpu, gpu) implements and what `model`, `kv` and `engine` call.
//
// A device owns weights and their layout: `model` never sees weight bytes, only opaque dev_tensor handles with their shape.
// A plan is data: a list of coarse ops over virtual registers, recorded once for a model; how ops are fused and where registers live is
// the backend's. A step fills it with rows. KV pages hold 32 tokens; their bytes are the backend's, ids are the caller's.
//
// Shapes: a register is float32 [rows][width], row-major, with as many rows as the step has (or as it wants logits of: dev_reg_wanted).
// A weight is [experts][n][k]: n rows of k values, as a GGUF tensor of ne = {k, n, experts}. Linear: dst[row][j] = sum_i w[j][i] * src[row][i].
// Recipe rule: a row's result never depends on the other rows of the step, their number, on threads, or on how a prompt was cut into steps.
// Threads: one thread at a time per device.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { DEV_PAGE_TOKENS = 32, DEV_MAX_GROUPS = 4, DEV_MAX_OUTS = 4, DEV_MAX_TAPS = 16, DEV_MAX_EXPERTS = 4096 };

typedef struct device   device;
typedef struct dev_plan dev_plan;
typedef struct dev_kv   dev_kv;
typedef uint64_t        dev_ticket;

typedef struct dev_fingerprint { uint64_t low, high; } dev_fingerprint;

// ---- weights --------------------------------------------------------------------------------------------------------------

// How a weight is used; flags, since a tied embedding is both looked up by row and multiplied. EXACT, beside MATRIX: computed in float32
// whatever its type, rows of activations unrounded: for narrow matrices whose outcome steers a recurrence.
enum { DEV_USE_MATRIX = 1, DEV_USE_ROWS = 2, DEV_USE_VECTOR = 4, DEV_USE_EXACT = 8 };

// Gives `bytes` bytes at `offset` of the tensor's data, little-endian. Called from pool workers: must be safe to call from several threads.
typedef struct dev_source {
    status (*read)(void *ctx, uint64_t offset, size_t bytes, void *dst, error *err);
    void *ctx;
} dev_source;

typedef struct dev_weight {
    const char *name;   // for errors; copied
    uint32_t    type;   // GGML type id, as quant_type
    int64_t     k, n;   // row length, rows (n = 1 for a vector)
    int64_t     experts; // 1 when not stacked
    unsigned    use;    // DEV_USE_*
} dev_weight;

// Read-only outside the backend, whose own struct begins with it.
typedef struct dev_tensor {
    char    *name;
    uint32_t type;
    int64_t  k, n, experts;
    unsigned use;
    size_t   bytes; // what it takes on the device
    dev_fingerprint fingerprint;
} dev_tensor;

typedef struct dev_import {
    const dev_weight *weight;
    dev_source  source;
    dev_tensor *out;    // set by the import; NULL when it failed
} dev_import;

// What an import tells its caller, on the caller's thread, every few megabytes. Either may be NULL.
typedef struct dev_hooks {
    void (*progress)(void *ctx, uint64_t bytes); // read so far
    bool (*cancelled)(void *ctx);                // true ends the import with E_CANCELLED
    void  *ctx;
} dev_hooks;

// ---- plan -----------------------------------------------------------------------------------------------------------------

typedef int32_t dev_reg; // -1: none
#define DEV_NONE ((dev_reg)-1)

typedef enum dev_group_kind { DEV_GROUP_FULL, DEV_GROUP_WINDOW, DEV_GROUP_RECURRENT } dev_group_kind;

// The layers of a group share one page table. A page of a full or window group holds, for every layer, 32 keys and 32 values; a "page" of
// a recurrent group is one sequence's state (state_width floats a layer).
typedef struct dev_group {
    dev_group_kind kind;
    int32_t        window;   // tokens, for DEV_GROUP_WINDOW
    int32_t        n_layers;
    int32_t        n_kv;     // key/value heads of a layer
    int32_t        head_k, head_v; // widths of one head's key and value
    int32_t        state_width;
} dev_group;

typedef enum dev_op_kind {
    DEV_OP_EMBED, DEV_OP_NORM, DEV_OP_LINEAR, DEV_OP_ROPE, DEV_OP_ATTEND, DEV_OP_EXPERTS, DEV_OP_ACT, DEV_OP_COMBINE, DEV_OP_VECTOR,
    DEV_OP_COPY, DEV_OP_SELECT, DEV_OP_POOL, DEV_OP_OUTPUT, DEV_OP_HIDDEN, DEV_OP_SCAN, DEV_OP_CONV, DEV_OP_DOT, DEV_OP_MIX
} dev_op_kind;

typedef enum dev_norm_kind {
    DEV_NORM_RMS, DEV_NORM_LAYER, DEV_NORM_L2,
    DEV_NORM_SOFTMAX // exp(x) divided by its sum; no epsilon
} dev_norm_kind;

typedef enum dev_act {
    DEV_ACT_NONE,
    DEV_ACT_SILU,       // x / (1 + exp(-x))
    DEV_ACT_GELU,       // tanh form: 0.5 x (1 + tanh(sqrt(2/pi) x (1 + 0.044715 x^2)))
    DEV_ACT_GELU_ERF,   // 0.5 x (1 + erf(x / sqrt(2)))
    DEV_ACT_GELU_QUICK, // x / (1 + exp(-1.702 x))
    DEV_ACT_RELU, DEV_ACT_RELU2, DEV_ACT_SIGMOID, DEV_ACT_TANH,
    DEV_ACT_SOFTPLUS,   // ln(1 + exp(x))
    DEV_ACT_EXP,
    DEV_ACT_SWIGLU_OAI, // gated only: x = min(gate, 7), u = clamp(up, -7, 7): x / (1 + exp(-1.702 x)) * (u + 1)
    // These take numbers, p[0] to p[3], of the op:
    DEV_ACT_XIELU,      // x > 0: p0 x^2 + p2 x, else p1 (exp(min(x, p3)) - 1 - x) + p2 x (arXiv 2411.13010)
    DEV_ACT_SILU_LIMIT, // gated only: min(silu(gate), p0) * clamp(up, -p0, p0)
    DEV_ACT_SITU,       // gated only: p0 tanh(gate / p0) sigmoid(gate) * p1 tanh(up / p1); p1 0: * up
    DEV_ACT_COUNT
} dev_act;

enum { DEV_ACT_NUMBERS = 4 };
static inline bool dev_act_gated_only(dev_act a) { return a == DEV_ACT_SWIGLU_OAI || a == DEV_ACT_SILU_LIMIT || a == DEV_ACT_SITU; }

// dst = table[token] * scale; rows given as embeddings are taken as they are (not scaled). by_position: the row's position is the index (gpt2).
typedef struct dev_embed { dev_reg dst; const dev_tensor *table; float scale; bool by_position; } dev_embed;

// Over groups of `group` columns (0: the whole row). weight and bias have `group` values (shared) or the register's width; either may be NULL.
// dst may be src. When `add` is a register, src + add is normalised and, when `sum` is one, src + add is also written there.
typedef struct dev_norm {
    dev_reg dst, src;
    dev_norm_kind kind;
    int32_t group;
    float   eps;
    const dev_tensor *weight, *bias;
    dev_reg add, sum;
} dev_norm;

typedef enum dev_epilogue {
    DEV_EP_NONE,
    DEV_EP_ACT,      // each output: act(y)
    DEV_EP_GATED,    // two outputs of equal width, gate then up: out[0].dst = act(gate) * up; out[1].dst is ignored
    DEV_EP_RESIDUAL  // one output: dst = residual + y (dst may be residual)
} dev_epilogue;

typedef struct dev_linear_out {
    dev_reg           dst;
    const dev_tensor *weight; // k = width of src, n = width of dst
    const dev_tensor *bias;   // n values or NULL
    float             scale;  // y = scale * (w x) + bias; 0 means 1
    int32_t           split;  // gated from one stacked weight (phi3): n = 2 * width of dst, gate rows first; then one output and split = 1
} dev_linear_out;

typedef struct dev_linear {
    dev_reg        src;
    int32_t        n;
    dev_linear_out out[DEV_MAX_OUTS];
    dev_epilogue   epilogue;
    dev_act        act;
    dev_reg        residual;
    float          p[DEV_ACT_NUMBERS]; // of act
} dev_linear;

typedef enum dev_rope_kind {
    DEV_ROPE_NORM, // pairs (2i, 2i+1)
    DEV_ROPE_NEOX  // pairs (i, i + dims/2)
} dev_rope_kind;

// In place, on n_head heads of head_dim columns; columns [first, first + dims) of each head are turned. Angles and YaRN as ggml's rope:
// theta_i = pos * base^(-2i/dims) / factors[i]; interpolated with freq_scale, mixed by the ramp(beta_fast, beta_slow) when ext_factor != 0;
// cos and sin are multiplied by attn_factor (* (1 + 0.1 ln(1/freq_scale)) when ext_factor != 0).
typedef struct dev_rope {
    dev_reg reg;
    dev_rope_kind kind;
    int32_t n_head, head_dim, first, dims;
    float   base, freq_scale, ext_factor, attn_factor, beta_fast, beta_slow;
    int32_t n_ctx_orig;
    const dev_tensor *factors; // dims/2 float32 values or NULL
    bool    inverse;
} dev_rope;

// Writes the rows' keys and values into the sequence's pages, then for each row attends to the keys at cache index j with
// j <= the row's own (all of the sequence's when bidirectional) and j > own - window when window > 0 (|j - own| <= window / 2 when bidirectional).
// score = softcap(scale * q.k) - slope_h * |j - own|; weights = softmax over the keys (and sinks[h] when given).
// k and v may both be DEV_NONE: an earlier layer of the group wrote them. Head h uses key head h / (n_head / n_kv).
typedef struct dev_attend {
    dev_reg dst, q, k, v; // widths n_head * head_v, n_head * head_k, n_kv * head_k, n_kv * head_v
    int32_t group, layer; // layer: index within the group
    int32_t n_head, n_kv, head_k, head_v;
    float   scale, softcap; // softcap 0: none
    int32_t window;         // 0: none
    int32_t chunk;          // > 0: keys below (own / chunk) * chunk are not seen either
    bool    bidirectional;
    const dev_tensor *sinks; // n_head values or NULL
    float   alibi_bias;      // max_bias of ALiBi (slopes as ggml computes them); 0: none
} dev_attend;

// Recurrent blocks. A layer of a recurrent group has state_width floats for each sequence, in which several ops may have a part each, from
// `state_at` on. Before a sequence's first token (start 0) the state counts as zero, whatever the page holds.

// A causal convolution over a sequence's rows, column by column: dst[t][c] = act(bias[c] + sum_j weight[c][j] * src[t - taps + 1 + j][c]).
// State: the last taps - 1 rows of src. dst may be src.
typedef struct dev_conv {
    dev_reg dst, src;
    int32_t group, layer, state_at, taps;
    const dev_tensor *weight, *bias; // [width][taps]; width values or NULL
    dev_act act;                     // one that needs no second input
} dev_conv;

typedef enum dev_scan_kind {
    DEV_SCAN_SSM,  // S = decay S + k (x) (step v): state spaces (Mamba, arXiv 2312.00752, 2405.21060), linear attention
    DEV_SCAN_DELTA, // S = decay S, then S = S + k (x) (beta (v - S^T k)): gated delta rule (arXiv 2412.06464)
    DEV_SCAN_DPLR  // S = decay S + b (x) (S^T z) + k (x) v, with the S before on the right: diagonal plus low rank (RWKV-7, arXiv 2503.14456)
} dev_scan_kind;

typedef enum dev_rate {
    DEV_RATE_HEAD, // one rate a head
    DEV_RATE_KEY,  // one for each of a head's head_k rows (Kimi delta attention, arXiv 2510.26692)
    DEV_RATE_VALUE // one for each of its head_v columns, and `a` for each row and column (Mamba)
} dev_rate;

// A recurrence over a sequence's rows. Each head has a matrix S of [head_k][head_v] as its state; from row to row
//   step = softplus(rate + rate_bias), or 1 without a rate; decay = exp(step a a_scale); S as the kind says; dst = scale S^T q + skip v.
// Without `a` the rate is the logarithm of the decay itself, and step is 1.
// Head h uses key head h / (n_head / n_key), or h % n_key when tiled.
typedef struct dev_scan {
    dev_reg dst, q, k, v; // widths n_head * head_v, n_key * head_k (twice), n_head * head_v; dst may be v
    dev_reg rate, beta;   // DEV_NONE: none; rate by its kind: n_head, n_head * head_k or n_head * head_v wide; beta n_head
    dev_reg z, b;         // of DEV_SCAN_DPLR alone; as wide as k
    dev_scan_kind kind;
    dev_rate rate_kind;
    bool    tiled;
    bool    before;       // DEV_SCAN_SSM: dst is of the S before the row (RWKV-6)
    int32_t group, layer, state_at;
    int32_t n_head, n_key, head_k, head_v;
    float   scale, a_scale; // 0 means 1
    const dev_tensor *rate_bias; // as wide as rate, or NULL
    const dev_tensor *a;         // n_head values; DEV_RATE_VALUE: [n_head * head_v][head_k]; NULL: see above
    const dev_tensor *skip;      // n_head values, or one a column, or NULL
} dev_scan;

typedef enum dev_gating {
    DEV_GATE_SOFTMAX,     // probabilities over all experts, then top-k of them
    DEV_GATE_SIGMOID,
    DEV_GATE_SOFTMAX_TOPK // top-k of the logits, softmax over those
} dev_gating;

// dst = [residual +] sum over the top_k experts e of weight_e * down_e(act(gate_e x) * up_e x).
typedef struct dev_experts {
    dev_reg dst, src, router_src; // router_src DEV_NONE: src
    dev_reg residual;             // DEV_NONE: none
    const dev_tensor *router, *router_bias; // [n_expert][k]; n_expert values added to the logits
    const dev_tensor *select_bias;          // added to the probabilities for choosing only
    dev_gating gating;
    int32_t n_expert, top_k;
    int32_t share;        // > 1: so many neighbours share an expert of a smaller stack, and its weight is that of the router's column of the stack's number (grovemoe)
    int32_t n_group, top_groups; // group-limited choice (deepseek3: sum of the best two of a group); 0: none
    bool    normalise;    // weights divided by their sum (at least 6.1e-5)
    float   scale;        // of the weights; 0 means 1
    bool    weight_first; // the weight multiplies the input instead of the output (llama4)
    const dev_tensor *gate, *up, *down;                // [n_expert][n][k]; gate NULL: act(up x)
    const dev_tensor *gate_bias, *up_bias, *down_bias; // [n_expert][n] or NULL
    const dev_tensor *gate_each, *up_each, *down_each; // n_expert factors of whole experts, before the bias, or NULL
    dev_act act;
    float   p[DEV_ACT_NUMBERS]; // of act
    float   limit;        // > 0: gate at most, up at most and at least its negative, before act
} dev_experts;

// dst = act(gate) * up; up DEV_NONE: act(gate). Widths equal; dst may be either.
typedef struct dev_activate { dev_reg dst, gate, up; dev_act act; float p[DEV_ACT_NUMBERS]; } dev_activate;

// dst = a * sa + b * sb, or (a * b) * sa. b may be DEV_NONE: a * sa. softcap > 0: then softcap * tanh(x / softcap). Widths equal, or b narrower: each of its
// values then stands for as many columns in a row (b of width 1: for all).
typedef struct dev_combine { dev_reg dst, a, b; float sa, sb; bool multiply; float softcap; } dev_combine;

// dst = src * scale + bias by column; either may be NULL.
typedef struct dev_vector { dev_reg dst, src; const dev_tensor *scale, *bias; } dev_vector;

// dst[i] = sum over j of a[i][j] * b[i][j], where a and b are cut into as many parts of equal width as dst has columns.
typedef struct dev_dot { dev_reg dst, a, b; } dev_dot;

// Streams of equal width beside each other in a register, n_dst of dst and n_src of src: dst_i = add_i + sum over j of weight[i * n_src + j] * src_j, for
// each row its own weights. add is as wide as dst and may be it; DEV_NONE: 0. dst is not src. (AltUp, arXiv 2301.13310; hyper-connections, arXiv 2409.19606)
typedef struct dev_mix { dev_reg dst, src, weight, add; int32_t n_dst, n_src; } dev_mix;

// For each of n blocks: `width` columns from src_first + i * src_stride to dst_first + i * dst_stride.
typedef struct dev_copy { dev_reg dst, src; int32_t n, width, src_first, src_stride, dst_first, dst_stride; } dev_copy;

// dst (a wanted register) = the rows of src (all rows) whose logits are wanted. Use before the last feed-forward.
typedef struct dev_select { dev_reg dst, src; } dev_select;

// dst (a wanted register) = for each wanted row the mean of src (all rows) over the rows that the step brings of its sequence.
typedef struct dev_pool { dev_reg dst, src; } dev_pool;

// Logits of the wanted rows: softcap(scale * (w src) + bias). src may be of either kind.
typedef struct dev_output { dev_reg src; const dev_tensor *weight, *bias; float scale, softcap; } dev_output;

typedef struct dev_op {
    dev_op_kind kind;
    union {
        dev_embed    embed;
        dev_norm     norm;
        dev_linear   linear;
        dev_rope     rope;
        dev_attend   attend;
        dev_experts  experts;
        dev_activate activate;
        dev_combine  combine;
        dev_vector   vector;
        dev_copy     copy;
        dev_select   select;
        dev_pool     pool;
        dev_output   output;
        dev_conv     conv;
        dev_scan     scan;
        dev_dot      dot;
        dev_mix      mix;
        dev_reg      hidden; // its rows can be read with dev_hidden after a step
    } u;
} dev_op;

typedef struct dev_reg_info {
    int32_t width;
    dev_reg parent; // DEV_NONE, or the register that this one is columns [first, first + width) of (already the root)
    int32_t first;
    bool    wanted; // one row for each wanted row
} dev_reg_info;

struct dev_plan {
    device       *dev;
    dev_op       *ops;
    size_t        n_ops, cap_ops;
    dev_reg_info *regs;
    size_t        n_regs, cap_regs;
    dev_group     groups[DEV_MAX_GROUPS];
    int32_t       n_groups;
    int32_t       n_vocab;  // width of the logits, 0 without DEV_OP_OUTPUT
    int32_t       max_rows, max_wanted; // after dev_plan_prepare
    status        failed;   // the first error of a builder function; dev_plan_prepare returns it
    error         why;
    void         *backend;  // the backend's own, set by prepare
};

// Builder. None of these fails by itself: the first error is kept and dev_plan_prepare reports it, so that a forward pass reads from top to bottom.
status  dev_plan_create(device *dev, dev_plan **out, error *err);
void    dev_plan_destroy(dev_plan *plan); // NULL is fine; the device must still be there
int32_t dev_plan_group(dev_plan *plan, dev_group group); // returns its index; layers may be counted up later in plan->groups[i].n_layers
dev_reg dev_reg_all(dev_plan *plan, int32_t width);
dev_reg dev_reg_wanted(dev_plan *plan, int32_t width);
dev_reg dev_reg_view(dev_plan *plan, dev_reg of, int32_t first, int32_t width);
int32_t dev_reg_width(const dev_plan *plan, dev_reg reg);

void dev_op_embed(dev_plan *p, dev_embed op);
void dev_op_norm(dev_plan *p, dev_norm op);       // set add and sum to DEV_NONE
void dev_op_linear(dev_plan *p, dev_linear op);
void dev_op_rope(dev_plan *p, dev_rope op);
void dev_op_attend(dev_plan *p, dev_attend op);
void dev_op_experts(dev_plan *p, dev_experts op);
void dev_op_act(dev_plan *p, dev_activate op);
void dev_op_combine(dev_plan *p, dev_combine op);
void dev_op_vector(dev_plan *p, dev_vector op);
void dev_op_copy(dev_plan *p, dev_copy op);
void dev_op_select(dev_plan *p, dev_select op);
void dev_op_pool(dev_plan *p, dev_pool op);
void dev_op_output(dev_plan *p, dev_output op);
void dev_op_hidden(dev_plan *p, dev_reg reg);
void dev_op_conv(dev_plan *p, dev_conv op);
void dev_op_scan(dev_plan *p, dev_scan op);
void dev_op_dot(dev_plan *p, dev_dot op);
void dev_op_mix(dev_plan *p, dev_mix op);
// Shorthands for the usual forms.
void dev_linear1(dev_plan *p, dev_reg dst, dev_reg src, const dev_tensor *w, const dev_tensor *bias); // dst = w src + bias
void dev_linear_add(dev_plan *p, dev_reg dst, dev_reg src, const dev_tensor *w, const dev_tensor *bias, dev_reg residual);
void dev_rms(dev_plan *p, dev_reg dst, dev_reg src, const dev_tensor *w, float eps);
void dev_add(dev_plan *p, dev_reg dst, dev_reg a, dev_reg b);
void dev_scale(dev_plan *p, dev_reg dst, dev_reg a, float s);

// Checks widths and shapes, then lets the backend lay it out and allocate its scratch for steps of up to max_rows rows and max_wanted wanted rows.
status dev_plan_prepare(dev_plan *plan, int32_t max_rows, int32_t max_wanted, error *err);
// Bytes that prepare will allocate; may be asked before (builder errors give SIZE_MAX).
size_t dev_plan_scratch(const dev_plan *plan, int32_t max_rows, int32_t max_wanted);

// ---- KV -------------------------------------------------------------------------------------------------------------------

typedef enum dev_kv_type { DEV_KV_AUTO, DEV_KV_F32, DEV_KV_F16, DEV_KV_BF16, DEV_KV_Q8_0 } dev_kv_type;

// ---- steps ----------------------------------------------------------------------------------------------------------------

typedef struct dev_seq {
    int32_t        first_row, n_rows; // its rows of the step, in order
    int32_t        start;             // tokens in its cache before this step: row first_row + i has cache index start + i
    const int32_t *pages[DEV_MAX_GROUPS];   // page ids by cache index / 32; -1: freed (a window has passed it); recurrent: one id
    int32_t        n_pages[DEV_MAX_GROUPS]; // must cover start + n_rows tokens
} dev_seq;

typedef struct dev_step {
    int32_t        n_rows;
    const int32_t *tokens;     // [n_rows]; NULL only when embeddings are given for all
    const float   *embeddings; // NULL, or [n_rows][width of the embed register], used for rows whose token is -1 (or all)
    const int32_t *positions;  // [n_rows], for rotary and learned positions
    int32_t        n_seqs;
    const dev_seq *seqs;
    int32_t        n_wanted;
    const int32_t *wanted;     // [n_wanted] row numbers, ascending
} dev_step;

typedef struct dev_top {
    int32_t  n;            // how many ids and values there are (at most k)
    int32_t *ids;          // caller's arrays of k, best first; equal values by ascending id
    float   *values;       // raw logits
    float    log_sum_exp;  // over the whole row
    int32_t  argmax;       // lowest id of the greatest value; NaN counts as the least
} dev_top;

typedef struct dev_info {
    const char *name; // "cpu"
    const char *isa;  // recipe: "ref", "avx2", "avx512" ...
    int         threads;
    int         nodes; // of memory that its weights are spread over
    bool        deterministic;
    size_t      weight_bytes; // imported so far
} dev_info;

// ---- limits ---------------------------------------------------------------------------------------------------------------

enum { DEV_MAX_UNITS = 4 };

// What the machine can do at most with the device's workers; a multiplication and an addition are two operations.
typedef struct dev_limits {
    double  read_bytes_s; // reading memory in order
    int32_t n_units;
    struct { char name[24]; double ops_s; } units[DEV_MAX_UNITS]; // from registers; the first is what products of weights use
} dev_limits;

// What a step must do at least: operations of products, attention and recurrences; bytes of weights as the file has them (of a stack of experts
// those that so many rows choose, were all equally likely), of keys and values that are seen, of states.
typedef struct dev_work { double ops, bytes; } dev_work;

// Of a step of n_seqs sequences with `rows` rows each, after `start` tokens that are in their cache, with logits of `wanted` rows.
dev_work dev_plan_work(const dev_plan *plan, dev_kv_type kv_type, int32_t n_seqs, int32_t rows, int32_t start, int32_t wanted);

// ---- what a backend implements --------------------------------------------------------------------------------------------

typedef struct dev_ops {
    void   (*destroy)(device *);
    void   (*info)(const device *, dev_info *out);
    status (*measure)(device *, dev_limits *out, error *err);
    status (*import_weights)(device *, dev_import *, size_t n, const dev_hooks *, error *err);
    void   (*free_weight)(device *, dev_tensor *);
    size_t (*weight_size)(const device *, const dev_weight *); // bytes that import would take
    status (*prepare)(device *, dev_plan *, error *err);
    void   (*plan_free)(device *, dev_plan *);
    size_t (*scratch)(const device *, const dev_plan *, int32_t max_rows, int32_t max_wanted);
    size_t (*page_bytes)(const device *, const dev_group *, dev_kv_type);
    status (*kv_create)(device *, const dev_plan *, const int32_t *n_pages, dev_kv_type, dev_kv **out, error *err);
    void   (*kv_destroy)(device *, dev_kv *);
    void   (*kv_copy)(device *, dev_kv *, int32_t group, int32_t from, int32_t to);
    void   (*kv_export)(device *, dev_kv *, int32_t group, int32_t page, void *dst);
    void   (*kv_import)(device *, dev_kv *, int32_t group, int32_t page, const void *src);
    dev_kv_type (*kv_type)(const device *, dev_kv_type); // what AUTO becomes
    status (*submit)(device *, dev_plan *, dev_kv *, const dev_step *, dev_ticket *, error *err);
    status (*wait)(device *, dev_ticket, error *err);
    const float *(*logits)(device *, dev_plan *, int32_t i);
    const float *(*peaks)(device *, dev_plan *, int32_t i); // or NULL
    const float *(*hidden)(device *, dev_plan *, int32_t i);
    void   (*reduce)(device *, dev_plan *, int32_t i, int32_t k, dev_top *top);
} dev_ops;

struct device { const dev_ops *ops; };

static inline void   dev_destroy(device *d) { if (d) d->ops->destroy(d); }
static inline void   dev_get_info(const device *d, dev_info *out) { d->ops->info(d, out); }
// Takes about half a second, and half a gigabyte that is given back.
static inline status dev_measure(device *d, dev_limits *out, error *err) { return d->ops->measure(d, out, err); }

// Reads and packs n weights, in the order given or several at a time: all of them, or none on an error. A handle lives until dev_free_weight or dev_destroy.
static inline status dev_import_weights(device *d, dev_import *w, size_t n, const dev_hooks *hooks, error *err) { return d->ops->import_weights(d, w, n, hooks, err); }
static inline status dev_import_weight(device *d, const dev_weight *w, const dev_source *s, dev_tensor **out, error *err) {
    dev_import one = {w, *s, NULL};
    status st = dev_import_weights(d, &one, 1, NULL, err);
    *out = one.out;
    return st;
}
static inline void   dev_free_weight(device *d, dev_tensor *t) { if (t) d->ops->free_weight(d, t); }
static inline size_t dev_weight_size(const device *d, const dev_weight *w) { return d->ops->weight_size(d, w); }
// xxh128 of the bytes that were read while packing.
static inline dev_fingerprint dev_tensor_fingerprint(const dev_tensor *t) { return t->fingerprint; }

// Bytes of one page of a group; export writes and import reads exactly that many. A page's content is bound to the backend, its recipe and the type.
static inline size_t dev_kv_page_bytes(const device *d, const dev_group *g, dev_kv_type t) { return d->ops->page_bytes(d, g, t); }
static inline status dev_kv_create(device *d, const dev_plan *p, const int32_t *n_pages, dev_kv_type t, dev_kv **out, error *err) {
    return d->ops->kv_create(d, p, n_pages, t, out, err);
}
static inline void   dev_kv_destroy(device *d, dev_kv *kv) { if (kv) d->ops->kv_destroy(d, kv); }
static inline void   dev_kv_copy_page(device *d, dev_kv *kv, int32_t group, int32_t from, int32_t to) { d->ops->kv_copy(d, kv, group, from, to); }
static inline void   dev_kv_export_page(device *d, dev_kv *kv, int32_t group, int32_t page, void *dst) { d->ops->kv_export(d, kv, group, page, dst); }
static inline void   dev_kv_import_page(device *d, dev_kv *kv, int32_t group, int32_t page, const void *src) { d->ops->kv_import(d, kv, group, page, src); }
static inline dev_kv_type dev_kv_resolve(const device *d, dev_kv_type t) { return d->ops->kv_type(d, t); }

// The step's arrays must stay until dev_wait. Checks rows, tokens and page tables before computing: E_INVALID, and nothing was written.
// One step of a plan at a time. kv may be NULL for a plan without groups.
status dev_submit(dev_plan *plan, dev_kv *kv, const dev_step *step, dev_ticket *ticket, error *err);
static inline status dev_wait(dev_plan *p, dev_ticket t, error *err) { return p->dev->ops->wait(p->dev, t, err); }
// After wait, until the next submit: the logits of wanted row i, n_vocab values; and the row of the DEV_OP_HIDDEN register
// (row i of the step, or wanted row i when it is a wanted register).
static inline const float *dev_logits(dev_plan *p, int32_t i) { return p->dev->ops->logits(p->dev, p, i); }
// Beside the logits of wanted row i: the greatest of each DEV_PEAK of them, where NaN counts as -inf and +inf as the greatest float. NULL: this device does not say.
enum { DEV_PEAK = 64 };
static inline const float *dev_peaks(dev_plan *p, int32_t i) { return p->dev->ops->peaks ? p->dev->ops->peaks(p->dev, p, i) : NULL; }
static inline const float *dev_hidden(dev_plan *p, int32_t i) { return p->dev->ops->hidden(p->dev, p, i); }
// The k best logits of wanted row i (k may be 0), log-sum-exp and argmax, without sorting the row.
static inline void dev_reduce(dev_plan *p, int32_t i, int32_t k, dev_top *top) { p->dev->ops->reduce(p->dev, p, i, k, top); }
