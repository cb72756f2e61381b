// model/table: the architectures, a row each. A row states choices, the metadata keys it reads and the tensor names that differ; the rest is by
// presence of tensors. Adding a plain decoder is a row here and a line in tests/conformance/logits.sh.
#include <math.h>
#include <string.h>

#include "model/model_internal.h"

// ---- defaults and exceptions that depend on sizes; the file's own keys go over them ----------------------------------------

static void adjust_gemma2(hparams *hp) {
    hp->window = 4096;
    hp->attn_cap = 50;
    hp->final_cap = 30;
    if (hp->n_layers == 46) hp->attn_scale = 1 / sqrtf((float)hp->n_embd / (float)hp->layers[0].n_head); // the 27B model
}

static void adjust_gemma3(hparams *hp) {
    hp->rope_base_window = 10000;
    if (hp->n_layers == 62) hp->attn_scale = 1 / sqrtf((float)hp->n_embd / (float)hp->layers[0].n_head); // the 27B model
}

static void adjust_gemma4(hparams *hp) {
    hp->rope_base_window = 10000;
    hp->attn_scale = 1;
    hp->final_cap = 30;
}

static void adjust_gemma3n(hparams *hp) {
    hp->rope_base_window = 10000;
    hp->attn_scale = 1;
    hp->final_cap = 30;
    hp->n_streams = 4;
    hp->n_sparse = 10;
    hp->kv_layers = 20;
    hp->n_ple = 256;
}

static void adjust_baichuan(hparams *hp) {
    hp->rope_off = hp->n_layers != 32; // only the 7B model rotates
    if (hp->n_layers == 40) hp->alibi = 8; // the 13B model
}

static void adjust_alibi(hparams *hp) { hp->alibi = 8; }

static void adjust_minicpm(hparams *hp) {
    hp->embed_scale = 12;
    hp->resid_scale = 1.4f / sqrtf((float)hp->n_layers);
    hp->logit_scale = 256.0f / (float)hp->n_embd;
}

static void adjust_grok(hparams *hp) {
    hp->beta_fast = 8;
    hp->logit_scale = 0.5773502691896257f;
    hp->embed_scale = 78.38367176906169f;
    hp->attn_scale = 0.08838834764831845f;
    hp->attn_cap = 30;
}

static void adjust_muse(hparams *hp) { hp->final_cap = 30; }

static void adjust_smallthinker(hparams *hp) { hp->window_size = 4096; }

static void adjust_llama4(hparams *hp) {
    hp->qk_plain = hp->n_expert != 128; // all but Maverick
    hp->window = hp->window_size = 8192;
    hp->temp_scale = 0.1f;
    hp->temp_length = 8192;
    hp->temp_offset = 1;
}

// ---- the rows -------------------------------------------------------------------------------------------------------------

static void adjust_jais(hparams *hp) { hp->attn_scale = 1 / (float)hp->head_k; }

static void adjust_mimo2(hparams *hp) { hp->rope_base_window = 10000; }

static void adjust_exaone4(hparams *hp) {
    hp->window = 4096;
    hp->window_off = hp->n_layers != 64; // only the 32B model has windows, whatever the file says
}

static void adjust_deepseek2(hparams *hp) {
    if ((hp->n_layers == 47 || hp->n_layers == 48) && hp->n_vocab == 154880) hp->gating = DEV_GATE_SIGMOID; // GLM-4.7-Flash, whose first files do not say
}

#define EXPERT_KEYS (K_GATING | K_EXP_NORM | K_EXP_SCALE)

// A row too long for one line breaks before .keys: above what the graph does, below what is read and the numbers that go with it.
static const arch_row ROWS[] = {
    {.name = "llama", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM},
    {.name = "mistral3", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .keys = K_TEMP | K_YARN_BETAS | K_YARN_LOG, .traits = A_EXPERTS_NORM},
    {.name = "arcee", .rope = ROPE_PAIRS, .act = DEV_ACT_RELU2},
    {.name = "maincoder", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_QK_AFTER},
    {.name = "deci", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU},
    {.name = "qwen", .rope = ROPE_HALVES, .act = DEV_ACT_SILU},
    {.name = "qwen2", .rope = ROPE_HALVES, .act = DEV_ACT_SILU},
    {.name = "qwen2vl", .rope = ROPE_HALVES, .act = DEV_ACT_SILU},
    {.name = "qwen2moe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU},
    {.name = "qwen3", .rope = ROPE_HALVES, .act = DEV_ACT_SILU},
    {.name = "qwen3vl", .rope = ROPE_HALVES, .act = DEV_ACT_SILU},
    {.name = "qwen3moe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM},
    {.name = "qwen3vlmoe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM},
    {.name = "dream", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_BIDIRECTIONAL},
    {.name = "llada", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_BIDIRECTIONAL},
    {.name = "llada-moe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_BIDIRECTIONAL},
    {.name = "rnd1", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_BIDIRECTIONAL | A_EXPERTS_NORM},
    {.name = "gemma", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_EMBED_SQRT},
    {.name = "gemma2", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_EMBED_SQRT | A_POST,
     .keys = K_WINDOW | K_ATTN_CAP | K_FINAL_CAP, .window_period = 2, .adjust = adjust_gemma2},
    {.name = "gemma3", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_EMBED_SQRT | A_POST | A_WINDOW_PLAIN_ROPE,
     .keys = K_WINDOW | K_FINAL_CAP, .window_period = 6, .adjust = adjust_gemma3},
    {.name = "gemma4", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_EXPERTS_NORM | A_EMBED_SQRT | A_POST | A_GEMMA4 | A_WINDOW_PLAIN_ROPE,
     .keys = K_WINDOW | K_FINAL_CAP, .window_period = 6, .adjust = adjust_gemma4},
    {.name = "gemma3n", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_EMBED_SQRT | A_POST | A_GEMMA4 | A_WINDOW_PLAIN_ROPE, .more = B_ALTUP,
     .keys = K_WINDOW | K_FINAL_CAP, .window_period = 5, .adjust = adjust_gemma3n},
    {.name = "phi2", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_LAYER_NORM | A_PARALLEL},
    {.name = "phi3", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_FUSED_UP},
    {.name = "phimoe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM},
    {.name = "gpt2", .rope = ROPE_NONE, .act = DEV_ACT_GELU, .traits = A_LAYER_NORM | A_LEARNED_POS},
    {.name = "starcoder", .rope = ROPE_NONE, .act = DEV_ACT_GELU, .traits = A_LAYER_NORM | A_LEARNED_POS},
    {.name = "starcoder2", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_LAYER_NORM},
    {.name = "codeshell", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_LAYER_NORM},
    {.name = "gptneox", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_LAYER_NORM, .keys = K_PARALLEL},
    {.name = "falcon", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_LAYER_NORM | A_PARALLEL},
    {.name = "bloom", .rope = ROPE_NONE, .act = DEV_ACT_GELU, .traits = A_LAYER_NORM | A_EMBED_NORM, .adjust = adjust_alibi},
    {.name = "mpt", .rope = ROPE_NONE, .act = DEV_ACT_GELU, .traits = A_LAYER_NORM, .keys = K_ALIBI | K_CLAMP},
    {.name = "jais", .rope = ROPE_NONE, .act = DEV_ACT_SILU, .traits = A_LAYER_NORM, .keys = K_ALIBI, .adjust = adjust_jais},
    {.name = "jais2", .rope = ROPE_HALVES, .act = DEV_ACT_RELU2, .traits = A_LAYER_NORM},
    {.name = "refact", .rope = ROPE_NONE, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM, .adjust = adjust_alibi},
    {.name = "stablelm", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_LAYER_NORM | A_PARALLEL},
    {.name = "olmo", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LAYER_NORM | A_NORM_PLAIN, .keys = K_CLAMP},
    {.name = "olmo2", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_NO_PRE | A_POST | A_WINDOW_PLAIN_ROPE, .keys = K_WINDOW, .window_period = 4},
    {.name = "olmoe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU},
    {.name = "openelm", .rope = ROPE_HALVES, .act = DEV_ACT_SILU},
    {.name = "command-r", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LAYER_NORM | A_PARALLEL, .keys = K_LOGIT_SCALE},
    {.name = "cohere2", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LAYER_NORM | A_PARALLEL | A_WINDOW_ROPE, .keys = K_LOGIT_SCALE | K_WINDOW, .window_period = 4},
    {.name = "granite", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LOGIT_DIVIDE | A_EXPERTS_NORM | A_ROPE_SWITCH,
     .keys = K_LOGIT_SCALE | K_RESID_SCALE | K_EMBED_SCALE | K_ATTN_SCALE},
    {.name = "granitemoe", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LOGIT_DIVIDE | A_EXPERTS_NORM,
     .keys = K_LOGIT_SCALE | K_RESID_SCALE | K_EMBED_SCALE | K_ATTN_SCALE},
    {.name = "granite_swa", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LOGIT_DIVIDE | A_EXPERTS_NORM | A_FUSED_UP,
     .keys = K_LOGIT_SCALE | K_RESID_SCALE | K_EMBED_SCALE | K_ATTN_SCALE | K_WINDOW | K_ROPE_PATTERN},
    {.name = "minicpm", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LOGIT_DIVIDE | A_EXPERTS_NORM,
     .keys = K_LOGIT_SCALE | K_RESID_SCALE | K_EMBED_SCALE, .adjust = adjust_minicpm},
    {.name = "internlm2", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU},
    {.name = "baichuan", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .adjust = adjust_baichuan},
    {.name = "xverse", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU},
    {.name = "orion", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_LAYER_NORM},
    {.name = "chatglm", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_FUSED_UP},
    {.name = "glm4", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_FUSED_UP | A_POST | A_SECTIONS},
    {.name = "glm4moe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .keys = EXPERT_KEYS | K_NEXTN, .gating = DEV_GATE_SIGMOID, .ffn_norm = "post_attention_norm", .attn_post = "-"},
    {.name = "nemotron", .rope = ROPE_HALVES, .act = DEV_ACT_RELU2, .traits = A_LAYER_NORM},
    {.name = "exaone", .rope = ROPE_HALVES, .act = DEV_ACT_SILU},
    {.name = "exaone4", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_NO_PRE | A_POST | A_WINDOW_ROPE, .keys = K_WINDOW, .window_period = 4, .adjust = adjust_exaone4},
    {.name = "exaone-moe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_WINDOW_ROPE,
     .keys = K_WINDOW | EXPERT_KEYS | K_NEXTN, .gating = DEV_GATE_SIGMOID, .window_period = 4},
    {.name = "smollm3", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .no_rope_step = 4},
    {.name = "deepseek", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .keys = K_EXP_SCALE},
    {.name = "deepseek2", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LATENT | A_MSCALE_BOTH, .more = B_YARN_SCORES,
     .keys = EXPERT_KEYS | K_YARN_LOG | K_TEMP, .adjust = adjust_deepseek2},
    {.name = "mistral4", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LATENT, .more = B_YARN_SCORES, .keys = EXPERT_KEYS | K_YARN_LOG | K_TEMP},
    {.name = "minicpm3", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_LATENT, .adjust = adjust_minicpm},
    {.name = "plm", .rope = ROPE_PAIRS, .act = DEV_ACT_RELU2, .traits = A_LATENT},
    {.name = "dots1", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .keys = EXPERT_KEYS, .gating = DEV_GATE_SIGMOID},
    {.name = "dbrx", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_LAYER_NORM | A_EXPERTS_NORM, .keys = K_CLAMP, .ffn_norm = "attn_output_norm"},
    {.name = "grok", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_EXPERTS_NORM | A_POST, .sum_scale = 0.70710678f,
     .keys = K_OUT_SCALE | K_LOGIT_SCALE | K_EMBED_SCALE | K_ATTN_CAP | K_FINAL_CAP | K_YARN_BETAS | K_YARN_FACTORS, .attn_post = "attn_output_norm", .adjust = adjust_grok},
    {.name = "arctic", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM | A_EXPERTS_BESIDE},
    {.name = "gpt-oss", .rope = ROPE_HALVES, .act = DEV_ACT_SWIGLU_OAI,
     .keys = K_WINDOW, .gating = DEV_GATE_SOFTMAX_TOPK, .window_period = 2, .ffn_norm = "post_attention_norm", .attn_post = "-"},
    {.name = "seed_oss", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .ffn_norm = "post_attention_norm", .attn_post = "-"},
    {.name = "ernie4_5", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU},
    {.name = "ernie4_5-moe", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM},
    {.name = "paddleocr", .rope = ROPE_HALVES, .act = DEV_ACT_SILU},
    {.name = "hunyuan-dense", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_QK_AFTER},
    {.name = "hunyuan_vl", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_QK_AFTER},
    {.name = "hunyuan-moe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_QK_AFTER | A_EXPERTS_NORM},
    {.name = "minimax-m2", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM, .keys = K_GATING, .gating = DEV_GATE_SIGMOID},
    {.name = "bailingmoe", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .keys = K_EXP_SCALE | K_EXP_NORM},
    {.name = "bailingmoe2", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .keys = EXPERT_KEYS | K_NEXTN, .gating = DEV_GATE_SIGMOID},
    {.name = "llama4", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_WEIGHT_FIRST | A_CHUNKED,
     .keys = K_WINDOW, .gating = DEV_GATE_SIGMOID, .window_period = 4, .no_rope_step = 4, .adjust = adjust_llama4},
    {.name = "smallthinker", .rope = ROPE_HALVES, .act = DEV_ACT_RELU, .traits = A_ROUTER_EARLY | A_EXPERTS_NORM | A_WINDOW_ROPE | A_DENSE_FIRST,
     .keys = K_WINDOW | K_GATING, .window_period = 4, .adjust = adjust_smallthinker},
    {.name = "pangu-embedded", .rope = ROPE_HALVES, .act = DEV_ACT_SILU},
    {.name = "nanbeige", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU},
    {.name = "bitnet", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_SUB_NORMS},
    {.name = "plamo", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_PARALLEL},
    {.name = "plamo3", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_FUSED_UP | A_POST | A_WINDOW_UNSCALED, .keys = K_WINDOW, .window_period = 8},
    {.name = "afmoe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_POST | A_EMBED_SQRT,
     .keys = K_WINDOW | EXPERT_KEYS, .gating = DEV_GATE_SIGMOID, .window_period = 4, .no_rope_step = 4},
    {.name = "spark2_5", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .keys = K_WINDOW},
    {.name = "muse-glimmer", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_POST | A_WINDOW_ROPE | A_EMBED_PLAIN | A_WINDOW_UNSCALED,
     .keys = K_WINDOW | K_LOGIT_SCALE | K_FINAL_CAP, .window_period = 4, .post_eps = 1e-8f, .adjust = adjust_muse},
    {.name = "mellum", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM | A_WINDOW_PLAIN_ROPE, .keys = K_WINDOW, .window_period = 4},
    {.name = "cohere2moe", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LAYER_NORM | A_EITHER_NORM | A_PARALLEL | A_WINDOW_ROPE | A_LEAD_ROPE | A_DENSE_FIRST,
     .sum_scale = 0.5f, .keys = K_LOGIT_SCALE | K_WINDOW | K_NEXTN | EXPERT_KEYS, .gating = DEV_GATE_SIGMOID, .window_period = 4},

    {.name = "laguna", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_WINDOW_PLAIN_ROPE | A_DENSE_FIRST, .more = B_WINDOW_DIMS | B_GATE_SOFTPLUS,
     .keys = K_WINDOW | EXPERT_KEYS, .gating = DEV_GATE_SIGMOID, .window_period = 4},
    {.name = "maple", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM | A_WINDOW_ROPE, .more = B_WINDOW_DIMS,
     .keys = K_WINDOW | K_EXP_LIMIT, .window_period = 4},
    {.name = "mimo2", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM | A_WINDOW_UNSCALED,
     .keys = K_WINDOW | K_NEXTN | K_VALUE_SCALE, .gating = DEV_GATE_SIGMOID, .window_period = 4, .adjust = adjust_mimo2},
    {.name = "hy_v3", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .keys = EXPERT_KEYS | K_NEXTN, .gating = DEV_GATE_SIGMOID},
    {.name = "talkie", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_NORM_PLAIN | A_EMBED_PLAIN, .more = B_HEAD_GAINS | B_SKIP, .keys = K_LOGIT_SCALE},
    {.name = "hrm_text", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_NORM_PLAIN, .more = B_CYCLES, .keys = K_EMBED_SCALE},
    {.name = "grovemoe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_EXPERTS_NORM, .more = B_CHUNK_EXPERTS},
    {.name = "deepseek32", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LATENT, .more = B_INDEXER | B_YARN_SCORES, .keys = EXPERT_KEYS | K_YARN_LOG | K_NEXTN},
    {.name = "glm-dsa", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LATENT, .more = B_INDEXER | B_YARN_SCORES, .keys = EXPERT_KEYS | K_NEXTN, .gating = DEV_GATE_SIGMOID},
    {.name = "minimax-m3", .rope = ROPE_HALVES, .act = DEV_ACT_SWIGLU_OAI, .more = B_INDEXER, .keys = EXPERT_KEYS, .gating = DEV_GATE_SIGMOID},
    {.name = "apertus", .rope = ROPE_HALVES, .act = DEV_ACT_XIELU, .more = B_XIELU, .keys = K_ATTN_SCALE},
    {.name = "step35", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .more = B_WINDOW_DIMS | B_HALF_ROT | B_LIMIT_AFTER,
     .keys = K_WINDOW | EXPERT_KEYS | K_NEXTN | K_EXP_LIMIT | K_SHARED_LIMIT, .gating = DEV_GATE_SIGMOID},
    {.name = "hy_v4", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LATENT, .more = B_INDEXER | B_HYPER,
     .keys = EXPERT_KEYS | K_EXP_LIMIT | K_NEXTN, .gating = DEV_GATE_SIGMOID},
    {.name = "dots3note", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_LATENT, .more = B_INDEXER | B_LATENT_WINDOWS,
     .keys = K_WINDOW | EXPERT_KEYS | K_NEXTN, .gating = DEV_GATE_SIGMOID},
    {.name = "chameleon", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .more = B_QK_LAYER | B_IMAGE_TOKENS, .keys = K_SWIN},
    {.name = "cogvlm", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .more = B_VISION},

    // Encoders: embeddings and scores, no text.
#define BERT (A_LAYER_NORM | A_NO_PRE | A_EMBED_NORM | A_BIDIRECTIONAL)
#define BERT_POST .encoder = ENC_POST, .attn_post = "attn_output_norm", .ffn_post = "layer_output_norm"
    {.name = "bert", .act = DEV_ACT_GELU, .traits = BERT | A_LEARNED_POS, BERT_POST},
    {.name = "nomic-bert", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = BERT, BERT_POST},
    {.name = "nomic-bert-moe", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = BERT, BERT_POST},
    {.name = "jina-bert-v2", .act = DEV_ACT_GELU, .traits = BERT | A_FUSED_UP, BERT_POST, .adjust = adjust_alibi},
    {.name = "jina-bert-v3", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = BERT, BERT_POST},
#undef BERT
#undef BERT_POST
    {.name = "modern-bert", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_LAYER_NORM | A_EMBED_NORM | A_FUSED_UP | A_DENSE_FIRST | A_BIDIRECTIONAL,
     .keys = K_WINDOW, .window_period = 3, .encoder = ENC_PRE},
    {.name = "neo-bert", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_FUSED_UP | A_BIDIRECTIONAL, .encoder = ENC_PRE},
    {.name = "eurobert", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .traits = A_BIDIRECTIONAL, .encoder = ENC_PRE},
    {.name = "gemma-embedding", .rope = ROPE_HALVES, .act = DEV_ACT_GELU, .traits = A_EMBED_SQRT | A_POST | A_WINDOW_PLAIN_ROPE | A_BIDIRECTIONAL,
     .keys = K_WINDOW, .window_period = 6, .encoder = ENC_PRE, .adjust = adjust_gemma3},
    {.name = "llama-embed", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .traits = A_BIDIRECTIONAL, .encoder = ENC_PRE},

    // Recurrent layers: see model_recurrent.c.
    {.name = "lfm2", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .recur = RECUR_CONV, .keys = K_WINDOW},
    {.name = "lfm2moe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .recur = RECUR_CONV, .traits = A_EXPERTS_NORM, .keys = K_GATING, .gating = DEV_GATE_SIGMOID},
    {.name = "mamba", .rope = ROPE_NONE, .act = DEV_ACT_SILU, .recur = RECUR_MAMBA},
    {.name = "mamba2", .rope = ROPE_NONE, .act = DEV_ACT_SILU, .recur = RECUR_MAMBA2},
    {.name = "jamba", .rope = ROPE_NONE, .act = DEV_ACT_SILU, .recur = RECUR_MAMBA},
    {.name = "falcon-h1", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .recur = RECUR_MAMBA2},
    {.name = "granitehybrid", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .recur = RECUR_MAMBA2, .traits = A_LOGIT_DIVIDE | A_EXPERTS_NORM | A_ROPE_SWITCH,
     .keys = K_LOGIT_SCALE | K_RESID_SCALE | K_EMBED_SCALE | K_ATTN_SCALE},
    {.name = "nemotron_h", .rope = ROPE_NONE, .act = DEV_ACT_RELU2, .recur = RECUR_MAMBA2},
    {.name = "nemotron_h_moe", .rope = ROPE_NONE, .act = DEV_ACT_RELU2, .recur = RECUR_MAMBA2, .keys = K_EXP_NORM | K_EXP_SCALE, .gating = DEV_GATE_SIGMOID},
    {.name = "qwen3next", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .recur = RECUR_DELTA, .traits = A_EXPERTS_NORM,
     .keys = K_NEXTN, .ffn_norm = "post_attention_norm", .attn_post = "-"},
    {.name = "qwen35", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .recur = RECUR_DELTA, .keys = K_NEXTN, .ffn_norm = "post_attention_norm", .attn_post = "-"},
    {.name = "qwen35moe", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .recur = RECUR_DELTA, .traits = A_EXPERTS_NORM,
     .keys = K_NEXTN, .ffn_norm = "post_attention_norm", .attn_post = "-"},
    {.name = "kimi-linear", .rope = ROPE_NONE, .act = DEV_ACT_SILU, .recur = RECUR_KDA, .traits = A_LATENT | A_EXPERTS_NORM,
     .keys = K_GATING | K_EXP_SCALE, .gating = DEV_GATE_SIGMOID},
    {.name = "plamo2", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .recur = RECUR_PLAMO, .traits = A_POST | A_FUSED_UP},
    {.name = "minimax-01", .rope = ROPE_HALVES, .act = DEV_ACT_SILU, .recur = RECUR_LIGHTNING, .traits = A_EXPERTS_NORM, .keys = K_RESID_SCALE},

    {.name = "kimi-k3", .rope = ROPE_NONE, .act = DEV_ACT_SITU, .recur = RECUR_KDA, .traits = A_LATENT, .more = B_BANK,
     .keys = EXPERT_KEYS | K_SITU | K_KDA_BOUND, .gating = DEV_GATE_SIGMOID},
    {.name = "bailingmoe3", .rope = ROPE_PAIRS, .act = DEV_ACT_SILU, .recur = RECUR_KDA, .traits = A_LATENT, .more = B_DECAY_PLUS | B_LIMIT_AFTER,
     .keys = EXPERT_KEYS | K_NEXTN | K_EXP_LIMIT | K_SHARED_LIMIT | K_KDA_BOUND, .gating = DEV_GATE_SIGMOID},
    {.name = "rwkv6", .act = DEV_ACT_RELU2, .recur = RECUR_RWKV6, .traits = A_LAYER_NORM | A_EMBED_NORM, .more = B_CHANNEL_MIX, .ffn_norm = "attn_norm_2"},
    {.name = "rwkv6qwen2", .act = DEV_ACT_SILU, .recur = RECUR_RWKV6},
    {.name = "rwkv7", .act = DEV_ACT_RELU2, .recur = RECUR_RWKV7, .traits = A_LAYER_NORM | A_EMBED_NORM, .more = B_CHANNEL_MIX, .ffn_norm = "attn_norm_2"},
    {.name = "arwkv7", .act = DEV_ACT_SILU, .recur = RECUR_RWKV7},

    // Known by name, not built: each needs a kind of block that the table does not have.
#define OUT(n, why) {.name = n, .refuse = why}
    OUT("deepseek4", "keys compressed over several tokens and grouped output matrices are not built"),
    OUT("qwen4exp", "embeddings of hashed n-grams are not built"), OUT("qwen3tts", "it writes codes of speech, not text"),
    OUT("t5", "encoder-decoder models are not built"), OUT("t5encoder", "encoders are not built"),
    OUT("wavtokenizer-dec", "speech models are not built"), OUT("clip", "it holds no language model"), OUT("gptj", "its block is not built, nor in llama.cpp"),
    OUT("eagle3", "draft heads are not built"), OUT("dflash", "draft heads are not built"), OUT("gemma4-assistant", "it only drafts for another model"),
    OUT("deepseek2-ocr", "it reads images, which are not built"), OUT("graniteswitch", "adapters that switch within a text are not built"),
    OUT("pockettts", "speech models are not built"),
#undef OUT
};

const arch_row *arch_find(const char *name, size_t len) {
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (strlen(ROWS[i].name) == len && !memcmp(ROWS[i].name, name, len)) return &ROWS[i];
    return NULL;
}

const arch_row *arch_at(size_t i) { return i < sizeof ROWS / sizeof *ROWS ? &ROWS[i] : NULL; }

const char *model_architecture(size_t i) {
    for (size_t r = 0; r < sizeof ROWS / sizeof *ROWS; r++)
        if (!ROWS[r].refuse && i-- == 0) return ROWS[r].name;
    return NULL;
}
