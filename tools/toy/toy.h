// tools/toy: what makes toy-1, the small model that is built into altiserve: a corpus, a vocabulary, a network and its trainer.
//
// A development tool, never linked into the program. Everything follows from the texts beside this file and one seed: the
// corpus is drawn sample by sample from (seed, sample number), gradients of a fixed number of shards are added in a fixed order,
// so the number of threads changes no bit. Functions print one sentence and exit when something is wrong.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

_Noreturn void toy_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void *toy_alloc(size_t bytes); // zeroed; dies when memory is gone
char *toy_read(const char *path, size_t *len);

// Random numbers: splitmix64.
typedef struct rng { uint64_t s; } rng;
static inline uint64_t rng_next(rng *r) {
    uint64_t z = (r->s += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
static inline int    rng_below(rng *r, int n) { return (int)((rng_next(r) >> 33) % (uint64_t)n); }
static inline double rng_unit(rng *r) { return (double)(rng_next(r) >> 11) / 9007199254740992.0; }
static inline bool   rng_chance(rng *r, double p) { return rng_unit(r) < p; }

// ---- toy_corpus.c: conversations drawn from facts.txt -------------------------------------------------------------------------
enum { TURN_MAX = 8, TEXT_MAX = 900 };
typedef enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT } role;
extern const char *const role_name[3];
typedef struct turn { role who; char text[TEXT_MAX]; } turn;
typedef struct talk { int n; turn turns[TURN_MAX]; } talk;
typedef struct corpus corpus;

// Reads the facts; `heldout` files (question<TAB>required) are what no sample may come near, NULL-terminated.
corpus *corpus_open(const char *facts, const char *const *heldout);
void    corpus_draw(corpus *c, uint64_t seed, uint64_t number, talk *out); // safe from many threads at once
int     corpus_facts(const corpus *c);
long    corpus_refused(const corpus *c); // samples that came too near to the held-out questions and were drawn again

// ---- toy_bpe.c: byte-level BPE with GPT-2's pre-tokenizer ---------------------------------------------------------------------
typedef struct bpe {
    int    n;            // tokens: 256 bytes, merges, then the control tokens
    int    n_merges;
    char **text;         // raw bytes of each token
    int   *len;
    int  (*merge)[2];    // left, right; gives token 256 + i
    int    im_start, im_end, endoftext;
    int   *pair_hash;    // open addressing: (left, right) -> merge number + 1
} bpe;
enum { PAIR_SLOTS = 1 << 13 };

bpe *bpe_train(corpus *c, uint64_t seed, int samples, int n_tokens);
void bpe_save(const bpe *b, const char *path);
bpe *bpe_load(const char *path);
int  bpe_encode(const bpe *b, const char *s, size_t n, int *out, int max); // plain text: no control tokens; -1: too long
// ChatML. weight[i] is how much predicting ids[i] counts; returns the number of ids, -1 when more than max.
int  bpe_talk(const bpe *b, const talk *t, int *ids, float *weight, int max);
int  bpe_prompt(const bpe *b, const char *question, int *ids, int max);
// Writes GPT-2's printable form of the token's bytes (UTF-8); returns its length.
size_t bpe_printable(const bpe *b, int id, char *out);

// ---- toy_net.c: the llama architecture, forward and backward ------------------------------------------------------------------
typedef struct shape { int vocab, dim, layers, heads, ffn, context; float eps, rope_base; } shape;
typedef struct layer_at { size_t norm1, qkv, out, norm2, gate_up, down; } layer_at;
typedef struct net {
    shape    s;
    size_t   n;          // floats in all
    float   *w;
    size_t   emb, norm;  // emb [vocab][dim], also the output matrix
    layer_at layer[16];  // qkv [3 dim][dim] (q, k, v), out [dim][dim], gate_up [2 ffn][dim], down [dim][ffn]
} net;

void net_init(net *m, shape s, uint64_t seed);   // random weights
void net_load(net *m, const char *path);
void net_save(const net *m, const char *path);
void net_round_q8(net *m);                       // what Q8_0 will keep of the matrices

// One shard of a batch: samples one after the other. Row i belongs to the sample that starts at row start[i].
typedef struct shard {
    int    cap, rows;
    int   *token, *start, *target;
    int   *counts;       // scratch: the rows that count
    float *weight;       // of predicting target[i]; 0: not counted
    float *act, *grad;   // activations; gradients, net.n floats
    size_t act_floats;
    float *prob;         // attention weights
    double loss;         // sum of weight * cross entropy
    double right, counted; // weight 1 rows whose likeliest token is the target
} shard;

void shard_init(shard *b, const net *m, int cap);
void shard_run(shard *b, const net *m, float scale); // grad = scale * d(loss)/dw (overwritten), loss

// Greedy text. Returns the number of ids written before the ending token.
int  net_generate(const net *m, const int *prompt, int n, int *out, int max, int end);

// ---- toy_gguf.c ---------------------------------------------------------------------------------------------------------------
void gguf_export(const net *m, const bpe *b, const char *path);
