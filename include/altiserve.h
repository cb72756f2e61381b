// altiserve.h: the face of the engine. Models in a folder, requests in, tokens out.
//
// This is all that the server, the command line and a program that embeds altiserve may know. One `altiserve` object owns the models
// folder, the memory budget, one engine thread and the compute pool. Any thread may call any function here unless it says otherwise.
// Errors: every function that can fail returns `status` and fills `error` (base/status.h) with one sentence for the user.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct altiserve altiserve;
typedef struct altiserve_request altiserve_request;

// ---- the engine ----------------------------------------------------------------------------------

typedef enum altiserve_speculation { SPECULATE_AUTO, SPECULATE_OFF, SPECULATE_ALWAYS } altiserve_speculation; // auto: when it pays
enum { ALTISERVE_MOST_DRAFTS = 15 };

typedef struct altiserve_options {
    const char *models_dir;   // NULL: no folder is scanned (models are still opened by path)
    int         threads;      // compute workers; 0: what the machine and its cgroup allow
    uint64_t    memory;       // bytes for weights + KV pages + scratch of all models; 0: 80 % of what the system has
    uint32_t    context;      // tokens per sequence; 0: the file's, at most 8,192 unless asked for
    const char *kv_type;      // "auto", "f16", "bf16", "q8_0", "f32"; NULL: auto
    const char *device;       // "cpu" (NULL: cpu), "cuda", "metal"
    const char *isa;          // NULL: the best tier; "ref", "avx2", "amx", ...: an unknown name is answered with all of them
    bool        deterministic;
    int         parallel;     // sequences that run at once; 0: 64
    int         queue;        // requests that may wait; past it E_BUSY; 0: 256
    int         step_tokens;  // rows a step computes at most; 0: 512
    uint32_t    load_timeout_ms; // how long a request waits for its model; 0: 600,000
    bool        rescan;       // watch the folder while running
    bool        open_paths;   // a model may be named by any path; off where names come from clients
    bool        prefix_cache; // reuse computed pages between requests
    // Tiers of the prefix cache below the pool of pages; without prefix_cache they are off.
    const char *cache_dir;    // folder for computed pages that outlives the process; NULL: none. One process a folder
    uint64_t    cache_size;   // bytes of it at most; 0: 8 GiB
    uint64_t    cache_write_rate; // bytes written there a second at most; 0: 256 MiB
    uint64_t    host_cache;   // bytes of host memory, beside `memory`, for pages that the pool evicts; 0: none
    // Drafts of the next tokens, found in the text's own repetitions and checked several at a time: the text is the same, it comes sooner.
    altiserve_speculation speculation;
    const char *draft;        // a second, smaller model of the same vocabulary that drafts where a text does not repeat itself: a name or path; NULL: none
    int         draft_max;    // drafts of a sequence in a step at most, 1..ALTISERVE_MOST_DRAFTS; 0: 8
    // The cache of whole answers to deterministic requests (temperature 0, or a seed).
    uint32_t    responses;    // answers kept at most; 0: none
    uint64_t    response_bytes; // and bytes of them; 0: 64 MiB
} altiserve_options;

// Defaults: everything 0 or off but rescan and prefix_cache, which are on.
altiserve_options altiserve_defaults(void);
status altiserve_create(const altiserve_options *options, altiserve **out, error *err);
// Refuses new requests, lets running ones go on until they end or `deadline_ms` has passed, then cancels the rest. Idempotent; returns when all are done.
void   altiserve_drain(altiserve *a, uint32_t deadline_ms);
// Drains with deadline 0 and frees. No request may be used afterwards.
void   altiserve_destroy(altiserve *a);

// ---- models --------------------------------------------------------------------------------------

// BROKEN: not served before another file is in its place. INCOMPLETE: it ends early, or could not be read just now: it may be served yet.
typedef enum altiserve_model_state { MODEL_UNLOADED, MODEL_LOADING, MODEL_READY, MODEL_BROKEN, MODEL_INCOMPLETE } altiserve_model_state;

typedef struct altiserve_model_info {
    char     id[256];        // the name clients use: the file's stem, a split file's suffix dropped
    char     path[1024];     // "" for the built-in model
    char     error[496];     // why it is broken or incomplete
    altiserve_model_state state;
    int64_t  created;        // the file's time, Unix seconds
    uint64_t file_bytes;
    char     architecture[64];
    char     quantization[32];   // the type most weight bytes are in
    uint64_t parameters;
    uint32_t context;        // tokens a sequence may have here (0 until known)
    uint32_t context_trained;
    uint32_t vocabulary, embedding, layers;
    bool     has_template;
    bool     thinks;         // its template knows how what is thought aloud is marked (altiserve_generate.reasoning)
    bool     generates;      // it writes text
    bool     embeds;         // it makes embeddings (altiserve_submit_embed): encoders do, and decoders by their last token
    bool     ranks;          // it scores pairs of texts instead
    bool     embedding_model; // this is what it is for: an encoder, or a decoder whose file says how it embeds
    uint32_t embedding_width; // floats of an embedding, or scores of a pair
    uint64_t weight_bytes;   // memory that the weights take when loaded (0 until loaded)
    uint64_t memory_bytes;   // all that it has of options.memory: weights, scratch, pages (0 until loaded)
} altiserve_model_info;

// Calls fn for every model listed now (toy-1 only when it is alone), sorted by id. The info lives only during the call.
void   altiserve_models(altiserve *a, void (*fn)(void *ctx, const altiserve_model_info *), void *ctx);
// id may be a listed id, "toy-1", or, with open_paths, a path to a file; NULL or "" is the only model there is, if there is one. E_NOTFOUND says which ids there are.
status altiserve_model(altiserve *a, const char *id, altiserve_model_info *out, error *err);
// Loads it and waits. progress may be NULL; it is called on another thread with bytes done and in all.
status altiserve_load(altiserve *a, const char *id, void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, error *err);
// Lets its memory go now, if it is idle; the next request loads it again. OK too when it is not loaded. E_BUSY: requests hold it, or it is on its way for one.
status altiserve_unload(altiserve *a, const char *id, error *err);
// Whether options.draft can draft for this model: E_INVALID with the first difference of their vocabularies. OK where there is none.
status altiserve_check_draft(altiserve *a, const char *id, error *err);
// Looks at the folder now.
void   altiserve_rescan(altiserve *a);
// A report on a model without loading its weights, for `inspect`: JSON object text (caller frees with mem_free): metadata, tensors by type, predicted memory.
status altiserve_inspect(altiserve *a, const char *id, char **json, error *err);

// ---- text ----------------------------------------------------------------------------------------
// These need only the file's vocabulary: weights are not loaded for them.

enum { TOKENIZE_ADD_SPECIAL = 1, TOKENIZE_PARSE_SPECIAL = 2 };
status altiserve_tokenize(altiserve *a, const char *id, const char *text, size_t len, unsigned flags, int32_t **ids, size_t *n, error *err); // mem_free(*ids)
status altiserve_detokenize(altiserve *a, const char *id, const int32_t *ids, size_t n, char **text, size_t *len, error *err);              // mem_free(*text)
// The prompt of a conversation (altiserve_generate.chat) as altiserve_submit has it; mem_free(*ids). Not the same as its text tokenized: what a message spells is no control token.
status altiserve_tokenize_chat(altiserve *a, const char *id, const char *input, size_t len, int32_t **ids, size_t *n, error *err);
// The prompt text of a conversation, `input` being the JSON object that `altiserve template` takes (messages, tools, add_generation_prompt, ...).
status altiserve_template(altiserve *a, const char *id, const char *input, size_t len, char **text, size_t *text_len, error *err);
// The Jinja source that conversations are written by: the file's, else ChatML; "" for a model that writes no text. mem_free(*text).
status altiserve_chat_template(altiserve *a, const char *id, char **text, size_t *len, error *err);
// The prompt of a conversation by a template given as text.
status altiserve_template_text(const char *source, size_t source_len, const char *input, size_t len, char **text, size_t *text_len, error *err);

// ---- generation ----------------------------------------------------------------------------------

typedef struct altiserve_bias {
    int32_t token;
    float   bias; // added to the logit; -100 or less bans
} altiserve_bias;

typedef struct altiserve_sampling {
    float temperature;        // 0: greedy
    int   top_k;              // 0: off
    float top_p;              // 1: off
    float min_p;              // 0: off
    float typical_p;          // 1: off
    float repetition_penalty; // 1: off
    int   repetition_last_n;  // tokens looked at; -1: all
    float presence_penalty, frequency_penalty;
    uint64_t seed;
    bool  has_seed;           // otherwise the engine draws one
    const altiserve_bias *bias;
    size_t n_bias;
} altiserve_sampling;

typedef enum altiserve_finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_ERROR } altiserve_finish;

// What to generate from. Exactly one of text, tokens, chat is given, or `loads`. Everything is copied by altiserve_submit.
typedef struct altiserve_generate {
    const char    *model;
    const char    *text;      // tokenized with BOS as the file says and control tokens parsed
    size_t         text_len;
    const int32_t *tokens;    // taken as they are
    size_t         n_tokens;
    const char    *chat;      // JSON object as altiserve_template takes
    size_t         chat_len;
    bool           loads;     // nothing is generated: EVENT_END comes when the model, of any kind, is in memory. Waits as any request does

    uint32_t n;               // choices, 1..16
    uint32_t max_tokens;      // 0: up to the context
    bool     ignore_eos;
    const char *const *stop;  // stop strings, not part of the answer
    size_t   n_stop;
    int      logprobs;        // -1: none; k: the chosen token's and the top k (0..20)
    // Sampling: a field whose bit is not in `given` takes the file's general.sampling.* value, else OpenAI's default.
    altiserve_sampling sampling;
    unsigned given;           // SAMPLING_* bits
    const char *client;       // who asks: API key or address; work is shared fairly between clients. NULL: all such are one
    const char *client_name;  // how metrics call the client (a key itself is never shown); NULL: "anonymous"
    double   client_weight;   // its share of work beside others'; 0: 1
    int64_t  priority;        // lower is served first and may displace higher
    bool     explain;         // altiserve_request_explain is wanted
    bool     reasoning;       // of a chat: what the model thinks aloud comes apart from its answer, where the template knows how it is marked
    const char *cache_salt;   // computed prefixes are shared between equal salts alone; NULL: with all who have none
    int      draft_max;       // drafts in a step at most; 0: the engine's, -1: none. More than the engine's counts as that
    uint32_t timeout_ms;      // 0: none
    // Called on the engine thread whenever events wait, never after altiserve_request_free returned. Must not block. May be NULL.
    void (*notify)(void *ctx);
    void *notify_ctx;
} altiserve_generate;

enum {
    SAMPLING_TEMPERATURE = 1, SAMPLING_TOP_K = 2, SAMPLING_TOP_P = 4, SAMPLING_MIN_P = 8, SAMPLING_TYPICAL_P = 16,
    SAMPLING_REPETITION = 32, SAMPLING_PRESENCE = 64, SAMPLING_FREQUENCY = 128, SAMPLING_LAST_N = 256
};

typedef struct altiserve_logprob {
    int32_t token;
    float   logprob;
    const char *bytes;        // the token's text, not always UTF-8
    size_t  len;
} altiserve_logprob;

typedef enum altiserve_event_kind {
    EVENT_NONE,    // nothing waits
    EVENT_STARTED, // the prompt is admitted; prompt_tokens is set
    EVENT_TEXT,    // text (whole UTF-8 characters), tokens, logprobs of one choice
    EVENT_EMBEDDING, // the embedding or the scores
    EVENT_FINISH,  // one choice ended: finish
    EVENT_END      // all choices ended; error when finish is FINISH_ERROR. Nothing comes after it.
} altiserve_event_kind;

typedef struct altiserve_usage {
    uint32_t prompt_tokens, cached_tokens, completion_tokens; // completion: of all choices
    uint32_t drafted_tokens, accepted_tokens; // drafts that were checked, and those that were right (part of completion_tokens)
    bool     replayed;        // the whole answer came from the cache of responses: the tokens are those of the answer when it was computed, the times are 0
    double   queue_s, prefill_s, decode_s;
    double   load_s; // of queue_s: it waited for its model to be loaded
} altiserve_usage;

// What altiserve_next returned; pointers live until the next call of it on the same request.
typedef struct altiserve_event {
    altiserve_event_kind kind;
    uint32_t choice;
    const char *text;
    size_t   text_len;
    const char *reasoning;    // generate.reasoning: what was thought aloud; comes before the text of the same event
    size_t   reasoning_len;
    const int32_t *tokens;    // the tokens behind the text (may be more or fewer than characters)
    size_t   n_tokens;
    const altiserve_logprob *logprobs; // n_tokens groups of 1 + k entries: the chosen one, then the top k; NULL if none were asked for
    int      top_logprobs;    // k
    const float *embedding;   // EVENT_EMBEDDING
    size_t   n_embedding;
    altiserve_finish finish;
    size_t   stop;            // EVENT_FINISH: the choice ended with generate.stop[stop - 1]; 0: with none of them
    error    err;
    altiserve_usage usage;    // as of now
} altiserve_event;

// Renders, tokenizes and queues on the caller's thread; returns as soon as the request is queued (its model may still have to be loaded).
// E_INVALID: the prompt is empty, longer than the context, or the template refused it. E_BUSY: the queue is full (stats.retry_after_s). E_NOTFOUND: no such model.
status altiserve_submit(altiserve *a, const altiserve_generate *what, altiserve_request **out, error *err);
// The next event; waits up to timeout_ms (0: does not wait; UINT32_MAX: for ever). EVENT_NONE on time-out. One thread at a time per request.
// A request whose events are not taken is paused at a bound, holding only its pages.
altiserve_event_kind altiserve_next(altiserve_request *r, uint32_t timeout_ms, altiserve_event *out);
void   altiserve_cancel(altiserve_request *r); // its pages are free within a step; EVENT_END follows
void   altiserve_request_free(altiserve_request *r); // cancels if needed; r may not be used afterwards
altiserve_usage altiserve_request_usage(altiserve_request *r);

// Why a prompt was computed as far as it was (generate.explain). Only prompts of the same client and salt are looked at: texts of others are not told.
typedef enum altiserve_why {
    WHY_NOTHING,   // not asked for, or not known yet: it is from the first token on
    WHY_ALL,       // every whole page was found; less than a page and the last token are always computed
    WHY_NEW,       // no earlier prompt begins alike
    WHY_DIFFERS,   // an earlier text, prompt and answer, is the same up to token `same`, where it differs or ended
    WHY_EVICTED,   // computed once, up to token `same`, and given up since (or not finished yet)
    WHY_VERSION,   // computed with another version of the model
    WHY_OFF,       // the prefix cache is off
    WHY_SHORT      // less than a page and a token: there is nothing to be found
} altiserve_why;
typedef struct altiserve_explanation {
    altiserve_why why;
    uint32_t prompt_tokens, cached_tokens, same;
    char     ours[160], theirs[160]; // WHY_DIFFERS: the texts around the first difference, in this prompt and in the earlier one
} altiserve_explanation;
void altiserve_request_explain(altiserve_request *r, altiserve_explanation *out);

// ---- embeddings and ranking ----------------------------------------------------------------------

// What to embed: one of text and tokens; or text and pair, a query and a document, for a model that ranks. Everything is copied.
typedef struct altiserve_embed {
    const char    *model;
    const char    *text;      // tokenized as the file says, with its special tokens; control tokens are parsed
    size_t         text_len;
    const char    *pair;      // with it, no control tokens are parsed in either
    size_t         pair_len;
    const int32_t *tokens;    // taken as they are
    size_t         n_tokens;
    bool           raw;       // an embedding is not brought to unit length (scores never are)
    bool           truncate;  // a text longer than the context is cut; otherwise it is an error
    bool           goes_on;   // the rest of something of which a part was taken before: a full queue takes it too. For one at a time, so that the queue stays bounded
    const char    *client, *client_name; // these as altiserve_generate
    double         client_weight;
    int64_t        priority;
    const char    *cache_salt;
    uint32_t       timeout_ms;
    void (*notify)(void *ctx); // as altiserve_generate
    void          *notify_ctx;
} altiserve_embed;

// Queues it; the request gives EVENT_STARTED, EVENT_EMBEDDING, EVENT_END. Errors as altiserve_submit; E_INVALID too when the model cannot do it.
status altiserve_submit_embed(altiserve *a, const altiserve_embed *what, altiserve_request **out, error *err);
// To unit length, in place; zeros stay zeros.
void   altiserve_unit_length(float *x, size_t n);

// All logits of a prompt, float32 [n][vocabulary], row by row through `row` (called on another thread, in order), for `altiserve logits` and `perplexity`.
// chunk: prompt tokens a step (0: step_tokens).
status altiserve_logits(altiserve *a, const char *id, const int32_t *tokens, size_t n, size_t chunk,
                        status (*row)(void *ctx, size_t index, const float *logits, size_t vocabulary, error *err), void *ctx, error *err);

// ---- numbers -------------------------------------------------------------------------------------

typedef struct altiserve_bench_spec {
    uint32_t prompt, gen, depth, parallel, reps;
} altiserve_bench_spec;
// One kind of work: what was measured, and what the machine allows.
typedef struct altiserve_bench_rate {
    double tok_s, low, high;   // median over reps and the extremes; 0: not asked for
    double token_ops, token_bytes; // operations that a token needs; bytes of weights, keys and values that it must read, shared by a step's tokens
    double limit_tok_s;        // each step's slower term: bytes over read_bytes_s, operations over units[0].ops_s
    bool   by_memory;          // bytes take longer than operations
} altiserve_bench_rate;
typedef struct altiserve_bench_result {
    altiserve_bench_rate pp, tg; // prompt, generation
    int    threads;
    char   device[16], isa[16];
    // What this machine does at most with these threads, the better of two measurements, before and after.
    double read_bytes_s;       // memory read in order, in large pages
    int    n_units;
    struct { char name[24]; double ops_s; } units[4]; // from registers; the first is what products of weights use
} altiserve_bench_result;
// Times steps directly on the engine thread, with random tokens: prompt tokens from `depth` on, then gen steps of `parallel` sequences each at depth.
// Measuring the limits takes a second and half a gigabyte beside --memory.
status altiserve_bench(altiserve *a, const char *id, const altiserve_bench_spec *spec, altiserve_bench_result *out, error *err);

// Another file with its weights in another type (room convert). No engine is needed.
typedef struct altiserve_quantize_spec {
    const char *in, *out;   // paths; out appears when it is whole
    const char *type;       // file type, as "Q4_K_M"
    const char *imatrix;    // path of an importance matrix (GGUF), "uniform", or NULL
    const char *tensors;    // NULL, or a tensor type for every matrix, as "nvfp4"
    bool        pure;       // every matrix as the default type, no mix
    int         threads;    // 0: what this process may use
    bool      (*progress)(void *ctx, const char *tensor, uint64_t done, uint64_t total); // false stops; may be NULL
    void       *ctx;
} altiserve_quantize_spec;
typedef struct altiserve_quantize_result {
    uint64_t in_bytes, out_bytes;
    size_t   tensors, fallbacks; // fallbacks: matrices whose rows do not fit the wanted type's blocks
    size_t   quantized;          // tensors that were in blocks of another type before: the errors of both add up
} altiserve_quantize_result;
status altiserve_quantize(const altiserve_quantize_spec *spec, altiserve_quantize_result *out, error *err);
// The names of file types that can be written; NULL past the last.
const char *altiserve_file_type(size_t i);

typedef struct altiserve_stats {
    uint32_t running, waiting, loading;
    uint32_t parallel;      // sequences of a model that run at once, at most
    uint64_t pages_total, pages_free, pages_cached; // of all loaded models
    uint64_t memory_limit, memory_used;
    uint32_t retry_after_s; // by the measured rate of service, what waits now will have begun by then
} altiserve_stats;
void altiserve_get_stats(altiserve *a, altiserve_stats *out);
typedef struct altiserve_model_stats {
    const char *id;
    uint32_t running, waiting; // sequences; waiting: for a place or pages of this model
    uint64_t pages_free, pages_cached, pages_used;
} altiserve_model_stats;
// Calls fn for every model that is loaded. What it is given lives only during the call, which must not call the engine.
void altiserve_each_stats(altiserve *a, void (*fn)(void *ctx, const altiserve_model_stats *), void *ctx);
const char *altiserve_version(void);
