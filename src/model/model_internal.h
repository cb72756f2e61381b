// model/internal: what the files of this room share: the rows of the architecture table, hyperparameters, bound tensors.
//
// Reading order: model_table.c (rows), model_hparams.c (metadata -> hparams), model_bind.c (tensors by presence), model_graph.c (the plan),
// model_load.c (the public face). Kinds of blocks: model_latent.c, model_recurrent.c, model_rwkv.c, model_streams.c, model_encoder.c.
#pragma once
#include "model/model.h"

enum { MAX_LAYERS = 1024, MAX_HEADS = 4096, MAX_HEAD_DIM = 4096, MAX_WIDTH = 1 << 22, MAX_EXPERTS = 4096, MAX_TOP_K = 64 };

// ---- the table ------------------------------------------------------------------------------------------------------------

typedef enum arch_rope { ROPE_NONE, ROPE_PAIRS, ROPE_HALVES } arch_rope;

// Choices that a row makes.
enum {
    A_LAYER_NORM   = 1 << 0,  // mean and variance (otherwise root mean square); epsilon from the key of that kind
    A_NORM_PLAIN   = 1 << 1,  // norms without weights
    A_NO_PRE       = 1 << 2,  // no norm before attention and feed-forward (they are normalised after)
    A_POST         = 1 << 3,  // norms after attention and feed-forward, before the residual is added
    A_PARALLEL     = 1 << 4,  // attention and feed-forward read the same input when there is no ffn_norm
    A_EXPERTS_NORM = 1 << 5,  // chosen experts' weights are divided by their sum
    A_FUSED_UP     = 1 << 6,  // ffn_up may hold gate and up, gate first
    A_QK_AFTER     = 1 << 7,  // q/k norm follows the rotation
    A_BIDIRECTIONAL = 1 << 9,
    A_WINDOW_ROPE  = 1 << 10, // only layers with a window are rotated
    A_WINDOW_PLAIN_ROPE = 1 << 11, // layers with a window are rotated without scaling (gemma3, olmo3)
    A_DENSE_FIRST  = 1 << 12, // of a window period the first layer is full (otherwise the last)
    A_EMBED_NORM   = 1 << 13, // token_embd_norm follows the embedding
    A_LEARNED_POS  = 1 << 14,
    A_EMBED_SQRT   = 1 << 15, // embeddings are multiplied by sqrt(n_embd)
    A_ROUTER_EARLY = 1 << 16, // the router reads the layer's input instead of the normalised one (smallthinker)
    A_WEIGHT_FIRST = 1 << 17, // llama4
    A_LOGIT_DIVIDE = 1 << 18, // logits are divided by logit_scale (granite) instead of multiplied
    A_EXPERTS_BESIDE = 1 << 19, // arctic: experts read the layer's input, beside a dense feed-forward
    A_CHUNKED      = 1 << 21, // windows are chunks at absolute positions (llama4)
    A_ROPE_SWITCH  = 1 << 22, // granite: rope.scaling.finetuned false turns rotation off
    A_EITHER_NORM  = 1 << 20, // with A_LAYER_NORM: root mean square after all when the file has that epsilon (cohere2moe)
    A_SECTIONS     = 1 << 24, // rope.dimension_sections makes the rotation one of halves (glm4)
    A_LATENT       = 1 << 25, // keys and values from a shared low-rank vector (deepseek2, minicpm3)
    A_MSCALE_BOTH  = 1 << 26, // deepseek2: YaRN's two magnitudes are the same, so the rotation keeps lengths and the scores are scaled
    A_GEMMA4       = 1 << 27, // head sizes of windowed layers are their own, values are normalised, keys serve as values where there are none, shared keys, per-layer inputs
    A_EMBED_PLAIN  = 1 << 28, // embeddings are normalised without weights (muse-glimmer)
    A_SUB_NORMS    = 1 << 29, // norms before the last matrix of attention and of the feed-forward (bitnet)
    A_WINDOW_UNSCALED = 1 << 30, // layers with a window are rotated at the plain frequencies, YaRN's ramp kept (muse-glimmer, plamo3)
    A_LEAD_ROPE    = 1 << 23, // the leading dense layers are rotated whatever their window
};

// More choices, in a word of their own.
enum {
    B_WINDOW_DIMS   = 1 << 0, // rope.dimension_count_swa: layers with a window turn as many values of a head
    B_GATE_SOFTPLUS = 1 << 1, // attention's gate goes through softplus (laguna) instead of a sigmoid
    B_HEAD_GAINS    = 1 << 2, // attn_q_norm is a gain for each head, after a norm without weights; keys have no weights (talkie)
    B_SKIP          = 1 << 3, // layer_output_scale times the embedding is added after each layer (talkie)
    B_VISION        = 1 << 4, // vis_* tensors are for images: left out (cogvlm)
    B_CHUNK_EXPERTS = 1 << 5, // experts of a second, smaller stack, shared by neighbours, read what the first give (grovemoe)
    B_INDEXER       = 1 << 7, // attention sees the indexer.top_k keys that an indexer chooses: all of them up to that many tokens, to which the context is held
    B_CYCLES        = 1 << 6, // two stacks of layers run in cycles over two streams (hrm_text): hparams.cycle_*
    B_ALTUP         = 1 << 8, // several streams, of which a layer computes one and predicts the others; a sparse feed-forward in front (gemma3n): model_streams.c
    B_BANK          = 1 << 9, // each branch reads a mixture of earlier layers' inputs; routed experts work in a narrower space (kimi-k3): model_streams.c
    B_LIMIT_AFTER   = 1 << 10, // swiglu_clamp_exp and _shexp bound the activated gate instead of the gate
    B_HALF_ROT      = 1 << 11, // layers without a window turn half of rope.dimension_count (step35)
    B_XIELU         = 1 << 12, // xielu.* are the numbers of the activation, one a layer (apertus)
    B_CHANNEL_MIX   = 1 << 14, // the feed-forward is RWKV's channel mix
    B_HYPER         = 1 << 15, // hyper-connections: several streams that a branch reads and writes by weights of its own (hy_v4): model_streams.c
    B_LATENT_WINDOWS = 1 << 16, // latent attention's sizes in layers with a window are their own (dots3note)
    B_QK_LAYER      = 1 << 17, // queries and keys have a layer norm, whatever the rest has (chameleon)
    B_IMAGE_TOKENS  = 1 << 18, // some tokens are pieces of images and are never written (chameleon)
    B_YARN_SCORES   = 1 << 19, // YaRN's magnitude scales latent attention's scores, squared
    B_DECAY_PLUS    = 1 << 13, // ssm_a holds exp(A) where others hold -exp(A) (bailingmoe3)
};

// Metadata keys that a row reads beyond the common ones; zero in the file means unset.
enum {
    K_ATTN_CAP    = 1 << 0, // attn_logit_softcapping
    K_FINAL_CAP   = 1 << 1, // final_logit_softcapping
    K_LOGIT_SCALE = 1 << 2,
    K_ATTN_SCALE  = 1 << 3, // attention.scale
    K_RESID_SCALE = 1 << 4,
    K_EMBED_SCALE = 1 << 5,
    K_WINDOW      = 1 << 6, // attention.sliding_window, .sliding_window_pattern, rope.freq_base_swa
    K_CLAMP       = 1 << 7, // attention.clamp_kqv
    K_ALIBI       = 1 << 8, // attention.max_alibi_bias
    K_PARALLEL    = 1 << 9, // use_parallel_residual
    K_GATING      = 1 << 10, // expert_gating_func
    K_EXP_NORM    = 1 << 11, // expert_weights_norm
    K_EXP_SCALE   = 1 << 12, // expert_weights_scale
    K_TEMP        = 1 << 14, // attention.temperature_scale (and rope.scaling.original_context_length as its length)
    K_YARN_BETAS  = 1 << 15, // rope.scaling.yarn_beta_fast, yarn_beta_slow
    K_YARN_FACTORS = 1 << 13, // rope.scaling.yarn_ext_factor, yarn_attn_factor
    K_NEXTN       = 1 << 16, // nextn_predict_layers: the last layers only draft and are left out
    K_OUT_SCALE   = 1 << 17, // attention.output_scale
    K_YARN_LOG    = 1 << 19, // rope.scaling.yarn_log_multiplier
    K_ROPE_PATTERN = 1 << 18, // attention.rope_pattern: which layers are rotated
    K_VALUE_SCALE = 1 << 20, // attention.value_scale: a factor of attention's result
    K_EXP_LIMIT   = 1 << 21, // swiglu_clamp_exp, a number or one a layer
    K_SHARED_LIMIT = 1 << 22, // swiglu_clamp_shexp, the same of dense and shared parts
    K_KDA_BOUND   = 1 << 23, // kda.gate_lower_bound
    // swin_norm: norms follow attention and feed-forward instead of standing before them (chameleon). The feed-forward then reads attention's normalised
    // result alone, as llama.cpp has it; the published code reads the stream that it was added to.
    K_SWIN        = 1 << 25,
    K_SITU        = 1 << 24, // activation.situ_beta, situ_linear_beta
};

typedef enum arch_encoder {
    ENC_NONE, // a decoder
    ENC_PRE,  // an encoder with the layers of decoders
    ENC_POST  // an encoder whose sums are normalised after each branch (BERT): model_encoder.c
} arch_encoder;

// The kind of a row's recurrent layers; which layers those are follows from the file's tensors. A row with one may have layers without heads,
// layers without a feed-forward and layers of a feed-forward alone.
typedef enum arch_recur {
    RECUR_NONE,
    RECUR_CONV,   // short convolution (lfm2)
    RECUR_MAMBA,  // state spaces with a matrix of decays (mamba, jamba)
    RECUR_MAMBA2, // with a decay a head (mamba2 and the hybrids)
    RECUR_DELTA,  // gated delta rule; attention's queries carry its gate (qwen3next, qwen35)
    RECUR_KDA,    // Kimi delta attention: a decay for each column of the key
    RECUR_PLAMO,  // Mamba with a decay a head and its gate among the heads (plamo2)
    RECUR_LIGHTNING, // linear attention with fixed decays; each branch adds to its scaled, normalised input (minimax-01)
    RECUR_RWKV6, // time mix of RWKV-6, or of its kind on other models' feed-forward (rwkv6qwen2): model_rwkv.c
    RECUR_RWKV7  // the same of RWKV-7 (arwkv7)
} arch_recur;

typedef struct hparams hparams;

typedef struct arch_row {
    const char *name;
    unsigned    traits, more, keys;
    arch_rope   rope;
    dev_act     act;
    dev_gating  gating;
    int32_t     window_period; // default of sliding_window_pattern; 0: every layer has the window
    int32_t     no_rope_step;  // every so many layers one is not rotated
    float       post_eps;      // of the norms after attention and feed-forward; 0: as the others
    float       sum_scale;     // of experts and what stands beside them, added; 0: 1
    const char *ffn_norm, *attn_post, *ffn_post; // tensor names where they differ from ffn_norm, post_attention_norm, post_ffw_norm
    arch_encoder encoder;
    arch_recur  recur;
    void      (*adjust)(hparams *hp); // defaults and exceptions that depend on sizes; runs before the keys are read
    const char *refuse; // not NULL: known by name, not built: why
} arch_row;

const arch_row *arch_find(const char *name, size_t len); // NULL when not in the table
const arch_row *arch_at(size_t i);                       // NULL past the last

// ---- hyperparameters ------------------------------------------------------------------------------------------------------

typedef struct layer_hp {
    int32_t n_head, n_kv, head_k, head_v, n_rot;
    bool    windowed, rotate;
    bool    recurrent; // the layer is recurrent, or has a recurrent block beside its attention (falcon-h1)
    bool    no_attention, no_feed;
    float   exp_limit, shared_limit; // of the experts' gate and up, and of the dense and shared parts'; 0: none
    float   act_p[DEV_ACT_NUMBERS];  // numbers of the row's activation
    int32_t kv_rank, mla_k, mla_v; // latent attention: rank, and the widths of a head's key and value before absorption
    int32_t kv_of; // the layer whose keys and values this one reads: itself, or an earlier one (gemma4)
} layer_hp;

struct hparams {
    const arch_row *row;
    int32_t n_vocab, n_embd, n_layers, n_rot, head_k, head_v; // the last three of full layers; each layer has its own
    int32_t n_ple; // width of a layer's own input (gemma4)
    uint32_t chosen; // keys that a row sees at most, of those an indexer chooses; 0: all
    float   hyper_floor, hyper_gain; // hy_v4: least weight of a stream, and most of what is written to it
    int32_t n_streams, n_sparse, kv_layers; // streams (gemma3n, hy_v4); gemma3n: leading layers with a sparse feed-forward, layers with keys of their own (0: all)
    int32_t bank_step; // kimi-k3: every so many layers the layer's input is kept
    int32_t halve_step; // RWKV: every so many layers the stream is halved; 0: never
    float   kda_bound; // of the logarithm of Kimi delta attention's decay, below 0; 0: none, which has another formula
    int32_t taps, state_k, state_v, state_heads, state_keys; // recurrent layers: taps of the convolution, a head's state [state_k][state_v], heads, key heads
    bool    state_norm;  // B, C and the time step are normalised without weights (FalconMamba)
    int32_t kv_rank, mla_k, mla_v; // of full layers; each layer has its own
    int32_t n_expert, top_k, n_group, top_groups;
    int32_t share; // neighbouring experts that share one of the second stack
    int32_t cycle_layers, cycle_low, cycle_high; // layers of a stack, passes of the low one before each of the high one, and of the high one
    uint32_t n_ctx_train, n_ctx_orig, context;
    int32_t window, window_period, window_size; // window_size: what the architecture has, whatever the file says, unless that is 0
    float   eps, rope_base, rope_base_window, freq_scale, freq_scale_window, ext_factor, attn_factor, yarn_log_mul, beta_fast, beta_slow;
    float   attn_scale, attn_cap, final_cap, logit_scale, resid_scale, embed_scale, clamp, alibi, exp_scale, temp_scale, value_scale, share_scale;
    int32_t temp_length, temp_offset;
    model_pooling pooling;
    bool    pooled, no_logits;
    bool    no_pre; // no norm before attention and feed-forward
    bool    qk_plain; // q and k are normalised without weights on layers with rotation (llama4)
    bool    exp_norm, parallel_key, causal, long_factors, rope_off, longrope, window_off, layer_norm;
    arch_rope rope;
    dev_gating gating;
    layer_hp *layers; // n_layers
};

// Fills hp from metadata, n_vocab from the embedding tensor; binding_make holds n_embd to its shape. hp->layers: mem_free.
status hparams_read(const gguf *g, uint32_t context, hparams *hp, error *err);

// ---- tensors --------------------------------------------------------------------------------------------------------------

typedef enum slot {
    S_ATTN_NORM, S_ATTN_NORM_2, S_QKV, S_Q, S_K, S_V, S_Q_NORM, S_K_NORM, S_GATE_ATTN, S_OUT, S_SINKS, S_ATTN_POST,
    S_FFN_NORM, S_GATE, S_UP, S_DOWN, S_FFN_POST,
    S_ROUTER, S_ROUTER_SCALE, S_SELECT_BIAS, S_GATE_EXPS, S_UP_EXPS, S_DOWN_EXPS, S_NORM_EXPS, S_FFN_POST_1, S_FFN_PRE_2, S_FFN_POST_2, S_GATE_CHUNK, S_UP_CHUNK, S_DOWN_CHUNK,
    S_ATTN_SUB, S_FFN_SUB,
    S_PLE_GATE, S_PLE_PROJ, S_PLE_NORM, S_OUT_SCALE,
    S_ALTUP_ROUTER, S_ALTUP_ROUTER_NORM, S_ALTUP_PREDICT, S_ALTUP_CORRECT, S_ALTUP_SCALE, S_LAUREL_L, S_LAUREL_R, S_LAUREL_POST, // gemma3n
    S_HC_ATTN, S_HC_ATTN_BASE, S_HC_ATTN_SCALE, S_HC_FFN, S_HC_FFN_BASE, S_HC_FFN_SCALE, // hy_v4
    S_RES_ATTN, S_RES_FFN, S_ROUTED_DOWN, S_ROUTED_UP, S_ROUTED_NORM, // kimi-k3
    S_Q_A, S_Q_A_NORM, S_Q_B, S_KV_A, S_KV_A_NORM, S_K_B, S_V_B, S_KV_B,
    S_SHARED_ROUTER, S_GATE_SHARED, S_UP_SHARED, S_DOWN_SHARED,
    S_CONV, S_CONV_IN, S_CONV_OUT, // recurrent layers from here on: see model_recurrent.c
    S_SSM_IN, S_SSM_STEER, S_SSM_CONV, S_SSM_CONV_Q, S_SSM_CONV_K, S_SSM_CONV_V, S_SSM_X, S_SSM_DT, S_SSM_A, S_SSM_D,
    S_SSM_NORM, S_SSM_DT_NORM, S_SSM_B_NORM, S_SSM_C_NORM, S_SSM_OUT,
    S_SSM_BA, S_SSM_BETA, S_SSM_ALPHA, S_SSM_F_A, S_SSM_F_B, S_SSM_G_A, S_SSM_G_B, S_SSM_G,
    // RWKV: see model_rwkv.c. The five lerps of RWKV-6 stand in a row, as slices of the fused tensor.
    S_TM_W0, S_TM_W1, S_TM_W2, S_TM_A0, S_TM_A1, S_TM_A2, S_TM_V0, S_TM_V1, S_TM_V2, S_TM_G1, S_TM_G2, S_TM_KK, S_TM_KA, S_TM_RK,
    S_TM_LERP_X, S_TM_LERP_W, S_TM_LERP_K, S_TM_LERP_V, S_TM_LERP_R, S_TM_LERP_G, S_TM_LERP, S_TM_FIRST, S_TM_DECAY, S_TM_DECAY_W1, S_TM_DECAY_W2,
    S_TM_KEY, S_TM_VALUE, S_TM_RECEPTANCE, S_TM_GATE, S_TM_LN, S_TM_OUT, S_CM_LERP_K, S_CM_LERP_R, S_CM_KEY, S_CM_RECEPTANCE, S_CM_VALUE,
    SLOT_COUNT
} slot;

typedef struct bound_tensor {
    const gguf_tensor *src;
    dev_weight  desc;   // name borrowed from the gguf
    uint64_t    offset, bytes; // of this weight in the file's tensor: a stack may be imported a slice at a time
    dev_tensor *dev;    // NULL until imported; for predictions it points at `bare`
    dev_tensor  bare;
    char        beyond[256]; // zeros: what a backend sees that looks past the public part of a tensor which was never imported
    int32_t     half;   // 1 or 2: of each expert's rows the first or the second half (gate and up stacked in one tensor)
    int32_t repeat;     // > 0: each value of the file stands so many times in a row (then F32)
    const float *made;  // not from the file: float32 values of our own (binding.made)
} bound_tensor;

// For a stack that is imported in slices (attn_k_b, attn_v_b: one a head) w is the first of as many in a row.
// scale: a file's factor of the whole matrix (NVFP4, BitNet), its value in `factor` (1 without). each: a factor for each expert of a stack.
typedef struct slot_pair {
    bound_tensor      *w, *b, *each;
    const gguf_tensor *scale;
    float              factor;
} slot_pair;

typedef struct bound_layer {
    slot_pair s[SLOT_COUNT];
    float     out_scale; // 1, or the value of layer_output_scale
    bool      stacked;   // gate and up of the experts stand in one tensor of the file
} bound_layer;

typedef struct binding {
    bound_tensor *all;  // in file order; cap items allocated at once, so that pointers stay
    size_t        n, cap;
    bound_layer  *layers;
    slot_pair     embed, positions, embed_norm, out_norm, output;
    slot_pair     cls, cls_norm, cls_out, dense[2]; // heads of encoders
    bound_tensor *token_type;   // the row of type 0
    slot_pair     low_init; // the low stream's first row (hrm_text)
    slot_pair     ple_embed, ple_proj, ple_norm; // per-layer inputs (gemma4)
    slot_pair     altup_in, altup_out; // gemma3n: from one stream to the others and back, a slice each
    slot_pair     res_out;       // kimi-k3: score of the last mixture
    slot_pair     hc, hc_base, hc_scale; // hy_v4: from the streams to one
    float        *made[5];      // constants that some architectures need as tensors
    bound_tensor *limit;        // the clamp of q, k and v in every column (mpt, dbrx, olmo)
    bound_tensor *slopes;       // decays of the heads of linear attention (minimax-01)
    bound_tensor *shift;        // [n_embd][2]: the convolution that gives the row before (RWKV)
    bound_tensor *floor;        // hy_v4: what weights of streams are above zero, for each
    bound_tensor *cut, *ones;   // gemma3n: the bound of the sparse feed-forward, negated, in every column; 1 for each stream
    bound_tensor *temper;       // [context] a factor of the query by position (llama4, mistral3)
    bound_tensor *rope_factors; // rope_freqs or the chosen one of rope_factors_long/short
} binding;

// Finds every tensor of the row, checks shapes, refuses what it does not know. Nothing is read but shapes.
status binding_make(const gguf *g, hparams *hp, binding *b, error *err);
status want_matrix(const slot_pair *s, int64_t k, int64_t n, int64_t experts, error *err); // its shape; n = 0: any; absent is fine
status want_vector(const bound_tensor *t, int64_t n, error *err);
void   binding_free(binding *b); // not the device's tensors

// ---- the plan -------------------------------------------------------------------------------------------------------------

enum { TM_PREV, TM_IN, TM_R, TM_K, TM_V, TM_W, TM_A, TM_G, TM_Z, TM_B, TM_FIRST, TM_SUM, TM_LOW, TM_BONUS, TM_COUNT };

typedef struct streams {
    dev_reg all[2], guess[2], coef[2], mode[2], laurel[2], low, sparse[2]; // gemma3n
    dev_reg bank, level, score, mixed, latent; // kimi-k3
    int32_t banked;
} streams;

// What the recording of a forward pass keeps at hand. Registers with two entries: for all rows, and for the wanted rows.
typedef struct graph {
    dev_plan      *p;
    const hparams *hp;
    const binding *b;
    int            w; // 0: all rows, 1: wanted rows
    dev_reg        h[2], n[2], n2[2], t[2], ff[2], att[2], gate[2], one[2], early[2], skip[2];
    dev_reg        high, low_stream; // hrm_text's two streams between stacks
    dev_reg        qkv, tmp, temper, ple, ple_gate[2], ple_slice;
    int32_t        kv_group[MAX_LAYERS], kv_index[MAX_LAYERS]; // where a layer's keys and values are
    dev_reg        mixed, result, rates, small; // recurrent layers alone: see model_recurrent.c
    int32_t        state_group;
    dev_reg        low, query, latent, wide; // latent attention alone: see model_latent.c
    dev_reg        tm[TM_COUNT];             // RWKV alone: see model_rwkv.c
    streams        st;                       // several streams alone: see model_streams.c
} graph;

const dev_tensor *graph_weight(const slot_pair *s);
const dev_tensor *graph_bias(const slot_pair *s);
dev_linear_out graph_out(dev_reg dst, const slot_pair *s);
void    graph_linear(graph *c, dev_reg dst, dev_reg src, const slot_pair *s);
dev_reg graph_part(graph *c, dev_reg r, int32_t width); // the first columns of a shared register
int32_t graph_group(graph *c, const layer_hp *l, int32_t *index);
void    graph_rotate(graph *c, const layer_hp *l, dev_reg r, int32_t heads, int32_t head_dim, int32_t first);
void    graph_norm(graph *c, dev_reg dst, dev_reg src, const slot_pair *s);
dev_reg graph_attention(graph *c, int32_t il, dev_reg x); // n_head * head_v wide
void    graph_feed(graph *c, int32_t il, dev_reg dst, dev_reg x, dev_reg router_src, dev_reg residual); // dst = [residual +] feed-forward of x
// Of the last layer: from here on only the wanted rows are computed (c->w = 1). Returns those of att.
dev_reg graph_select(graph *c, dev_reg att);
// model_encoder.c: a layer of ENC_POST; from the last layer's rows to embeddings or scores; what both need of the file.
void    graph_encoder_layer(graph *c, int32_t il);
void    graph_embedding(graph *c, dev_reg rows);
static inline bool arch_rwkv(const arch_row *row) { return row->recur == RECUR_RWKV6 || row->recur == RECUR_RWKV7; }
bool    encoder_means(const hparams *hp); // the mean of all rows is taken
status  encoder_options(const gguf *g, hparams *hp, error *err); // reads pooling_type
status  encoder_check(const hparams *hp, binding *b, error *err);
void    encoder_info(const hparams *hp, const binding *b, model_info *info);
// att *= what attn_gate, where the layer has one, makes of x: a factor for each column or head.
void    graph_gate(graph *c, int32_t il, dev_reg att, dev_reg x);
// dst = [residual +] a dense feed-forward of x
void    graph_dense(graph *c, int32_t il, dev_reg dst, dev_reg x, const slot_pair *gate, const slot_pair *up, const slot_pair *down, dev_reg residual);
void    graph_experts(graph *c, int32_t il, dev_reg dst, dev_reg x, dev_reg router_src, dev_reg residual); // the routed experts alone
// norm(proj (gelu(gate x) * the layer's own input)): where it stands. t is overwritten.
dev_reg graph_ple(graph *c, int32_t il, dev_reg x);
// att = latent attention of x, n_head * mla_v wide.
dev_reg graph_latent(graph *c, int32_t il, dev_reg x);
void    graph_latent_registers(graph *c);

// model_recurrent.c: which layers are recurrent, and the sizes of their states; shapes of their tensors; their part of the plan.
status hparams_recurrent(const gguf *g, hparams *hp, error *err);
status check_recurrent(const hparams *hp, slot_pair *s, int32_t il, error *err);
int32_t recurrent_state_width(const hparams *hp);
void    graph_recurrent_registers(graph *c);
// What goes into the layer's last matrix, S_OUT (beside attention: S_SSM_OUT).
dev_reg graph_recurrent(graph *c, int32_t il, dev_reg x);

// model_rwkv.c: the same three things for RWKV's rows, whose layers it records whole.
status rwkv_sizes(const gguf *g, hparams *hp, error *err);
status check_rwkv(const hparams *hp, slot_pair *s, int32_t il, error *err);
void   graph_rwkv_registers(graph *c);
void   graph_rwkv_layer(graph *c, int32_t il);
int64_t rwkv_shift_rows(const hparams *hp); // rows of n_embd that a layer's state begins with

// model_streams.c: rows whose residual stream is not one: before the first layer, a layer, and after the last (c->h holds one stream again).
status check_streams(const hparams *hp, const binding *b, error *err);
void   graph_streams_registers(graph *c);
void   graph_streams_begin(graph *c);
void   graph_altup_layer(graph *c, int32_t il);
void   graph_bank_layer(graph *c, int32_t il);
void   graph_hyper_layer(graph *c, int32_t il);
void   graph_streams_end(graph *c);
float  streams_cut(int64_t columns); // of a sparse feed-forward's gates: minus the deviations that they must exceed

// model_bind.c, for check_recurrent: hold a tensor to a shape (n = 0: any), say which is missing.
status bind_want_matrix(const slot_pair *s, int64_t k, int64_t n, error *err);
status bind_want_vector(const bound_tensor *t, int64_t n, error *err);
status bind_missing(int32_t layer, slot s, bool bias, error *err);
// A list of shapes that tensors of a layer must have.
typedef struct shape { slot s; int64_t k, n; bool optional, bias; } shape; // k 0: a vector of n; bias: the pair's bias alone
status bind_shapes(const shape *list, size_t n, slot_pair *s, int32_t il, error *err);
#define MAT(slot, k, n) {slot, k, n, false, false}
#define MAT_MAY(slot, k, n) {slot, k, n, true, false}
#define VEC(slot, n) {slot, 0, n, false, false}
#define VEC_MAY(slot, n) {slot, 0, n, true, false}
#define BIAS(slot, n) {slot, 0, n, false, true}
#define BIAS_MAY(slot, n) {slot, 0, n, true, true}
#define SHAPES(...) bind_shapes((const shape[]){__VA_ARGS__}, sizeof((const shape[]){__VA_ARGS__}) / sizeof(shape), s, il, err)
// A key of the row that must be there, within bounds.
status need_int(const gguf *g, const hparams *hp, const char *name, int64_t lo, int64_t hi, int32_t *out, error *err);

// Records the forward pass; every bound tensor has its dev_tensor. Errors of the builder come with dev_plan_prepare.
status graph_record(const hparams *hp, const binding *b, dev_plan *p, error *err);
