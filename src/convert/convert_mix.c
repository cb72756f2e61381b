// Which type each tensor gets. The mixes are facts of the file types' names: files called Q4_K_M differ from one maker to another only
// in how well they are rounded, not in which tensors have how many bits. Read-only tables; no state beyond a call.
//
// A mix is a list of rules, read from the top; the first whose file type, role and conditions all hold decides, and where none holds the
// file type's default stays.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "convert/convert_internal.h"

enum { // the numbers of general.file_type
    F_F32 = 0, F_F16 = 1, F_Q4_0 = 2, F_Q4_1 = 3, F_Q8_0 = 7, F_Q5_0 = 8, F_Q5_1 = 9, F_Q2_K = 10, F_Q3_K_S = 11, F_Q3_K_M = 12, F_Q3_K_L = 13,
    F_Q4_K_S = 14, F_Q4_K_M = 15, F_Q5_K_S = 16, F_Q5_K_M = 17, F_Q6_K = 18, F_IQ2_XXS = 19, F_IQ2_XS = 20, F_Q2_K_S = 21, F_IQ3_XS = 22,
    F_IQ3_XXS = 23, F_IQ1_S = 24, F_IQ4_NL = 25, F_IQ3_S = 26, F_IQ3_M = 27, F_IQ2_S = 28, F_IQ2_M = 29, F_IQ4_XS = 30, F_IQ1_M = 31,
    F_BF16 = 32, F_TQ1_0 = 36, F_TQ2_0 = 37, F_MXFP4_MOE = 38, F_NVFP4 = 39, F_Q1_0 = 40, F_Q2_0 = 41
};

static const convert_type types[] = {
    {"F32", F_F32, QUANT_F32}, {"F16", F_F16, QUANT_F16}, {"BF16", F_BF16, QUANT_BF16}, {"Q4_0", F_Q4_0, QUANT_Q4_0}, {"Q4_1", F_Q4_1, QUANT_Q4_1},
    {"Q5_0", F_Q5_0, QUANT_Q5_0}, {"Q5_1", F_Q5_1, QUANT_Q5_1}, {"Q8_0", F_Q8_0, QUANT_Q8_0}, {"Q2_K", F_Q2_K, QUANT_Q2_K},
    {"Q2_K_S", F_Q2_K_S, QUANT_Q2_K}, {"Q3_K_S", F_Q3_K_S, QUANT_Q3_K}, {"Q3_K_M", F_Q3_K_M, QUANT_Q3_K}, {"Q3_K_L", F_Q3_K_L, QUANT_Q3_K},
    {"Q4_K_S", F_Q4_K_S, QUANT_Q4_K}, {"Q4_K_M", F_Q4_K_M, QUANT_Q4_K}, {"Q5_K_S", F_Q5_K_S, QUANT_Q5_K}, {"Q5_K_M", F_Q5_K_M, QUANT_Q5_K},
    {"Q6_K", F_Q6_K, QUANT_Q6_K}, {"IQ1_S", F_IQ1_S, QUANT_IQ1_S}, {"IQ1_M", F_IQ1_M, QUANT_IQ1_M}, {"IQ2_XXS", F_IQ2_XXS, QUANT_IQ2_XXS},
    {"IQ2_XS", F_IQ2_XS, QUANT_IQ2_XS}, {"IQ2_S", F_IQ2_S, QUANT_IQ2_XS}, {"IQ2_M", F_IQ2_M, QUANT_IQ2_S}, {"IQ3_XXS", F_IQ3_XXS, QUANT_IQ3_XXS},
    {"IQ3_XS", F_IQ3_XS, QUANT_IQ3_S}, {"IQ3_S", F_IQ3_S, QUANT_IQ3_S}, {"IQ3_M", F_IQ3_M, QUANT_IQ3_S}, {"IQ4_NL", F_IQ4_NL, QUANT_IQ4_NL},
    {"IQ4_XS", F_IQ4_XS, QUANT_IQ4_XS}, {"TQ1_0", F_TQ1_0, QUANT_TQ1_0}, {"TQ2_0", F_TQ2_0, QUANT_TQ2_0}, {"MXFP4_MOE", F_MXFP4_MOE, QUANT_MXFP4},
    {"NVFP4", F_NVFP4, QUANT_NVFP4}, {"Q1_0", F_Q1_0, QUANT_Q1_0}, {"Q2_0", F_Q2_0, QUANT_Q2_0},
};

const convert_type *convert_type_at(size_t i) { return i < sizeof types / sizeof *types ? &types[i] : NULL; }

const convert_type *convert_type_find(const char *name) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcasecmp(types[i].name, name)) return &types[i];
    return NULL;
}

// ---- roles
enum { // one bit each
    R_OUTPUT = 1, R_EMBED = 2, R_QKV = 4, R_KV_B = 8, R_V = 16, R_K = 32, R_Q = 64, R_O = 128, R_UP = 256, R_GATE = 512, R_DOWN = 1024, R_OTHER = 2048,
    R_VALUES = R_QKV | R_KV_B | R_V // what holds attention's values: dearest to round
};

static unsigned role_of(const char *name) {
    static const struct { const char *part; unsigned role; } parts[] = {
        {"attn_qkv.weight", R_QKV}, {"attn_kv_b.weight", R_KV_B}, {"attn_v.weight", R_V}, {"attn_k.weight", R_K}, {"attn_q.weight", R_Q},
        {"attn_output.weight", R_O}, {"ffn_up", R_UP}, {"ffn_gate", R_GATE}, {"ffn_down", R_DOWN},
    };
    if (!strcmp(name, "output.weight")) return R_OUTPUT;
    if (!strcmp(name, "token_embd.weight") || !strcmp(name, "per_layer_token_embd.weight")) return R_EMBED;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(name, parts[i].part)) return parts[i].role;
    return R_OTHER;
}

// Matrices that stay as they are: small, or too touchy to round.
static bool may_quantize(const gguf_tensor *t) {
    static const char *const kept[] = {
        "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj", "ssm_conv1d",
        "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "time_mix_first.weight", "time_mix_w0.weight",
        "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight",
        "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_decay_w1.weight",
        "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_",
        ".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
    };
    size_t n = strlen(t->name);
    if (t->dims[1] * t->dims[2] * t->dims[3] < 2 || n < 6 || strcmp(t->name + n - 6, "weight")) return false;
    if (!strcmp(t->name, "position_embd.weight") || !strcmp(t->name, "token_types.weight")) return false;
    if (quant_type_traits(t->type)->flags & QUANT_IS_INT) return false;
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (strstr(t->name, kept[i])) return false;
    return true;
}

// ---- rules
enum { // conditions, all of which must hold
    GQA4 = 1,         // four query heads or more share a key head
    EXPERTS8 = 2,     // exactly eight experts
    NOT_EXPERTS8 = 4,
    GQA4_OR_4EXPERTS = 8,
    FIRST_2 = 16, FIRST_4 = 32, FIRST_8TH = 64, FIRST_16TH = 128, MIDDLE = 256, // of the layers
    MORE_BITS = 512,  // the first and last eighth, and every third layer between
    MATRIX = 1024, NO_MATRIX = 2048, // an importance matrix is at hand
    FALCON = 4096, NOT_FALCON = 8192,
};

#define B(f) ((uint64_t)1 << (f))
#define LOW (B(F_IQ2_XXS) | B(F_IQ2_XS) | B(F_IQ1_S) | B(F_IQ1_M) | B(F_IQ2_S) | B(F_IQ2_M))
#define LOW_S (B(F_IQ2_S) | B(F_IQ2_M))

typedef struct rule {
    unsigned role;
    uint64_t files;
    unsigned when;
    int      type; // QUANT_TYPES: the default stays
} rule;

static const rule rules[] = {
    {R_EMBED, B(F_IQ2_XXS) | B(F_IQ2_XS) | B(F_IQ1_S) | B(F_IQ1_M), 0, QUANT_Q2_K},
    {R_EMBED, LOW_S | B(F_IQ3_XXS), 0, QUANT_IQ3_S},
    {R_EMBED, B(F_TQ1_0) | B(F_TQ2_0) | B(F_Q2_0), 0, QUANT_Q4_K},
    // below two and a half bits
    {R_VALUES, LOW, GQA4_OR_4EXPERTS, QUANT_Q4_K},
    {R_VALUES, LOW_S, 0, QUANT_IQ3_S},
    {R_VALUES, LOW, 0, QUANT_Q2_K},
    {R_K, LOW, EXPERTS8, QUANT_Q4_K},
    {R_DOWN, LOW_S, FIRST_8TH, QUANT_IQ3_S},
    {R_DOWN, LOW & ~LOW_S, FIRST_8TH, QUANT_Q2_K},
    {R_O, LOW, EXPERTS8, QUANT_Q5_K},
    {R_O, B(F_IQ1_S) | B(F_IQ1_M), 0, QUANT_IQ2_XXS},
    {R_O, LOW_S, 0, QUANT_IQ3_S},
    {R_VALUES | R_K | R_Q | R_O | R_UP | R_GATE | R_DOWN | R_OTHER, LOW, 0, QUANT_TYPES},
    // values
    {R_VALUES, ~(uint64_t)0, EXPERTS8, QUANT_Q8_0},
    {R_VALUES, B(F_Q2_K) | B(F_Q2_K_S), GQA4, QUANT_Q4_K},
    {R_VALUES, B(F_Q2_K), 0, QUANT_Q3_K},
    {R_VALUES, B(F_IQ3_XXS) | B(F_IQ3_XS) | B(F_IQ3_S), GQA4, QUANT_Q4_K},
    {R_VALUES, B(F_IQ3_XXS), NO_MATRIX, QUANT_IQ3_S},
    {R_VALUES, B(F_IQ3_M), 0, QUANT_Q4_K},
    {R_VALUES, B(F_Q3_K_M), FIRST_2, QUANT_Q5_K},
    {R_VALUES, B(F_Q3_K_M), 0, QUANT_Q4_K},
    {R_VALUES, B(F_Q3_K_L), 0, QUANT_Q5_K},
    {R_VALUES, B(F_IQ4_NL) | B(F_IQ4_XS), GQA4, QUANT_Q5_K},
    {R_VALUES, B(F_Q4_K_M) | B(F_Q5_K_M), MORE_BITS, QUANT_Q6_K},
    {R_VALUES, B(F_Q4_K_S), FIRST_4, QUANT_Q5_K},
    // keys and queries
    {R_K, ~(uint64_t)0, EXPERTS8, QUANT_Q8_0},
    {R_K | R_Q, B(F_IQ3_XS), 0, QUANT_IQ3_XXS},
    {R_K | R_Q, B(F_IQ3_XXS), 0, QUANT_IQ2_S},
    // down
    {R_DOWN, B(F_Q2_K), 0, QUANT_Q3_K},
    {R_DOWN, B(F_Q2_K_S), FIRST_8TH, QUANT_Q4_K},
    {R_DOWN, B(F_IQ3_XXS), NO_MATRIX | FIRST_8TH, QUANT_Q4_K},
    {R_DOWN, B(F_IQ3_XXS), NO_MATRIX, QUANT_Q3_K},
    {R_DOWN, B(F_Q3_K_M), FIRST_16TH, QUANT_Q5_K},
    {R_DOWN, B(F_Q3_K_M), NOT_FALCON, QUANT_Q4_K},
    {R_DOWN, B(F_Q3_K_M), MORE_BITS, QUANT_Q4_K},
    {R_DOWN, B(F_IQ3_M), FIRST_8TH, QUANT_Q4_K},
    {R_DOWN, B(F_IQ3_M), EXPERTS8 | MORE_BITS, QUANT_Q4_K},
    {R_DOWN, B(F_Q3_K_L), FALCON, QUANT_Q4_K},
    {R_DOWN, B(F_Q3_K_L), 0, QUANT_Q5_K},
    {R_DOWN, B(F_Q4_K_M), FALCON | FIRST_16TH, QUANT_Q6_K},
    {R_DOWN, B(F_Q4_K_M), FALCON | MORE_BITS, QUANT_Q5_K},
    {R_DOWN, B(F_Q4_K_M), NOT_FALCON | MORE_BITS, QUANT_Q6_K},
    {R_DOWN, B(F_IQ4_NL) | B(F_IQ4_XS), NO_MATRIX | FIRST_8TH, QUANT_Q5_K},
    {R_DOWN, B(F_Q5_K_M), MORE_BITS, QUANT_Q6_K},
    {R_DOWN, B(F_Q4_K_S), NOT_FALCON | FIRST_8TH, QUANT_Q5_K},
    {R_DOWN, B(F_Q4_0), MATRIX | FIRST_8TH, QUANT_Q4_1},
    {R_DOWN, B(F_Q5_0), MATRIX | FIRST_8TH, QUANT_Q5_1},
    // attention's output
    {R_O, B(F_Q3_K_L), FALCON, QUANT_Q4_K},
    {R_O, ~(uint64_t)0, FALCON, QUANT_TYPES},
    {R_O, B(F_Q2_K) | B(F_IQ3_XS) | B(F_IQ3_XXS) | B(F_Q3_K_S) | B(F_Q3_K_M) | B(F_IQ4_NL) | B(F_Q4_K_S) | B(F_Q4_K_M) | B(F_IQ3_S) | B(F_IQ3_M) | B(F_IQ4_XS),
     EXPERTS8, QUANT_Q5_K},
    {R_O, B(F_Q2_K), NOT_EXPERTS8, QUANT_Q3_K},
    {R_O, B(F_IQ3_XXS), NOT_EXPERTS8, QUANT_IQ3_S},
    {R_O, B(F_Q3_K_M) | B(F_IQ3_M), NOT_EXPERTS8, QUANT_Q4_K},
    {R_O, B(F_Q3_K_L), NOT_EXPERTS8, QUANT_Q5_K},
    // gate and up
    {R_GATE | R_UP, B(F_IQ3_XS), MIDDLE, QUANT_IQ3_XXS},
};

typedef struct mix {
    const convert_options *o;
    uint64_t experts, heads, kv_heads;
    int      layers, values; // layers of the model; tensors that hold values
    bool     falcon, tied, seventy; // tied: no output matrix, so the embedding serves
    int      i_value, i_down, i_gate, i_up; // how many of each were seen
} mix;

static bool more_bits(int i, int n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }

static bool holds(const mix *m, unsigned when, int i, int n) {
    bool gqa4 = m->kv_heads && m->heads / m->kv_heads >= 4;
    if (when & GQA4 && !gqa4) return false;
    if (when & GQA4_OR_4EXPERTS && !gqa4 && m->experts < 4) return false;
    if (when & EXPERTS8 && m->experts != 8) return false;
    if (when & NOT_EXPERTS8 && m->experts == 8) return false;
    if (when & FIRST_2 && i >= 2) return false;
    if (when & FIRST_4 && i >= 4) return false;
    if (when & FIRST_8TH && i >= n / 8) return false;
    if (when & FIRST_16TH && i >= n / 16) return false;
    if (when & MIDDLE && (i < n / 8 || i >= 7 * n / 8)) return false;
    if (when & MORE_BITS && !more_bits(i, n)) return false;
    if (when & MATRIX && !m->o->importance) return false;
    if (when & NO_MATRIX && m->o->importance) return false;
    if (when & FALCON && !m->falcon) return false;
    if (when & NOT_FALCON && m->falcon) return false;
    return true;
}

// The output matrix (or the embedding that serves as one) keeps more bits than the rest.
static int output_type(const mix *m, const gguf_tensor *t, int type) {
    int file = m->o->type->number;
    if (file == F_MXFP4_MOE || m->falcon || t->dims[0] % quant_type_traits(type)->block_elems) return QUANT_Q8_0;
    if (B(file) & (LOW | B(F_IQ3_XXS))) return QUANT_Q5_K;
    return type == QUANT_Q8_0 ? type : QUANT_Q6_K;
}

static int mixed_type(mix *m, const gguf_tensor *t) {
    int type = m->o->type->tensor_type, file = m->o->type->number;
    unsigned role = role_of(t->name);
    if (role == R_OUTPUT || (role == R_EMBED && m->tied)) return output_type(m, t, type);
    if (file == F_MXFP4_MOE) return t->dims[2] > 1 ? QUANT_MXFP4 : QUANT_Q8_0;
    int n = role & R_VALUES ? m->values : m->layers, i = 0;
    bool low = (B(file) & LOW) != 0;
    if (role & R_VALUES) i = m->i_value++;
    else if (role == R_DOWN) i = m->i_down++;
    else if (role == R_GATE) i = m->i_gate++;
    else if (role == R_UP) i = m->i_up++;
    // Experts come in any order and several to a layer: the layer is in the name.
    if (role & (R_DOWN | R_GATE | R_UP) && m->experts > 1 && !low) sscanf(t->name, "blk.%d.", &i);
    for (size_t k = 0; k < sizeof rules / sizeof *rules; k++) {
        const rule *r = &rules[k];
        if (!(r->role & role) || !(r->files & B(file)) || !holds(m, r->when, i, n)) continue;
        if (r->type != QUANT_TYPES) type = r->type;
        break;
    }
    if (role & R_VALUES && !low && m->seventy && m->experts != 8 && (type == QUANT_Q3_K || type == QUANT_Q4_K)) type = QUANT_Q5_K;
    return type;
}

// Rows that are no multiple of the wanted block take a type of about the same size whose block is shorter.
static int fallback(const gguf_tensor *t, int type, size_t *fallbacks) {
    int other = type;
    if (t->dims[0] % quant_type_traits(type)->block_elems == 0) return type;
    ++*fallbacks;
    switch (type) {
    case QUANT_IQ1_S: case QUANT_IQ1_M: case QUANT_IQ2_XXS: case QUANT_IQ2_XS: case QUANT_IQ2_S: case QUANT_IQ3_XXS: case QUANT_IQ3_S:
    case QUANT_IQ4_XS: other = QUANT_IQ4_NL; break;
    case QUANT_Q1_0: case QUANT_Q2_0: case QUANT_Q2_K: case QUANT_Q3_K: case QUANT_TQ1_0: case QUANT_TQ2_0: case QUANT_NVFP4: other = QUANT_Q4_0; break;
    case QUANT_Q4_K: other = QUANT_Q5_0; break;
    case QUANT_Q5_K: other = QUANT_Q5_1; break;
    case QUANT_Q6_K: other = QUANT_Q8_0; break;
    default: break;
    }
    return t->dims[0] % quant_type_traits(other)->block_elems ? QUANT_F16 : other;
}

// Whether rounding this tensor so without an importance matrix would spoil the model.
bool convert_needs_importance(const gguf_tensor *t, int type, const convert_type *file) {
    if (role_of(t->name) & (R_EMBED | R_OUTPUT)) return false;
    switch (type) {
    case QUANT_IQ3_XXS: case QUANT_IQ2_XXS: case QUANT_IQ2_XS: case QUANT_IQ2_S: case QUANT_IQ1_M: case QUANT_IQ1_S: return true;
    case QUANT_Q2_K: return file->number == F_Q2_K_S;
    default: return false;
    }
}

static uint64_t first_number(const gguf *g, const char *arch, const char *key, uint64_t otherwise) {
    char name[256];
    uint64_t v;
    snprintf(name, sizeof name, "%s.%s", arch, key);
    const gguf_value *x = gguf_find(g, name);
    return x && gguf_value_u64(x, 0, &v) ? v : otherwise; // some files give these a layer: the first counts
}

static void read_mix(const gguf *g, const convert_options *o, mix *m) {
    gguf_str s;
    char arch[64] = "";
    *m = (mix){.o = o, .tied = true};
    if (!gguf_get_string(g, "general.architecture", &s, NULL) && s.len < sizeof arch) memcpy(arch, s.ptr, s.len);
    m->experts = first_number(g, arch, "expert_count", 0);
    m->heads = first_number(g, arch, "attention.head_count", 0);
    m->kv_heads = first_number(g, arch, "attention.head_count_kv", m->heads);
    uint64_t layers = first_number(g, arch, "block_count", 0);
    m->layers = layers > 1 << 20 ? 1 << 20 : (int)layers;
    m->falcon = !strcmp(arch, "falcon");
    m->seventy = layers == 80 && ((!strcmp(arch, "llama") && m->heads != m->kv_heads) || !strcmp(arch, "qwen2"));
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        unsigned role = role_of(gguf_tensor_at(g, i)->name);
        if (role & R_VALUES) m->values++;
        if (role == R_OUTPUT) m->tied = false;
    }
}

// Files are written, and layers counted, by layer and then by name.
static int layer_of(const char *name) {
    int layer = -1;
    return sscanf(name, "blk.%d.", &layer) == 1 ? layer : -1;
}
static int by_layer(const void *a, const void *b) {
    const gguf_tensor *x = *(const gguf_tensor *const *)a, *y = *(const gguf_tensor *const *)b;
    int i = layer_of(x->name), k = layer_of(y->name);
    return i != k ? (i < k ? -1 : 1) : strcmp(x->name, y->name);
}

status convert_order(const gguf *g, const gguf_tensor ***out, error *err) {
    size_t n = gguf_tensor_count(g);
    const gguf_tensor **order = mem_alloc((n + 1) * sizeof *order);
    if (!order) return error_set(err, E_NOMEM, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++) order[i] = gguf_tensor_at(g, i);
    qsort(order, n, sizeof *order, by_layer);
    *out = order;
    return OK;
}

status convert_plan(const gguf *g, const convert_options *o, int *out, size_t *fallbacks, error *err) {
    mix m;
    const gguf_tensor **order = NULL;
    status st = convert_order(g, &order, err);
    if (st) return st;
    read_mix(g, o, &m);
    *fallbacks = 0;
    bool blocks = quant_type_traits(o->type->tensor_type)->flags & QUANT_IS_BLOCK;
    for (size_t k = 0; k < gguf_tensor_count(g); k++) {
        const gguf_tensor *t = order[k];
        int type = o->type->tensor_type;
        if (!may_quantize(t)) type = t->type;
        else if (blocks) {
            if (o->tensor_type != QUANT_TYPES) type = o->tensor_type;
            else if (!o->pure) type = mixed_type(&m, t);
            type = fallback(t, type, fallbacks);
        }
        out[t - gguf_tensor_at(g, 0)] = type;
    }
    mem_free(order);
    return OK;
}
