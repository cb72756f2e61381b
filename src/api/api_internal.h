// api/api_internal: jobs, the front pool, errors, fields.
//
// A job is one HTTP request on the front pool. At most one pool thread runs a job at a time; the pool's lock guards its place in the queue,
// the job's lock guards what the HTTP thread touches when the client leaves (`left`, the engine's requests); the rest is the runner's.
// A job lives while it is queued or running, until it is done, and until on_close came (three kinds of references).
#pragma once
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#include "api/api.h"
#include "base/mem.h"
#include "obs/obs.h"

typedef struct job job;

// ---- errors --------------------------------------------------------------------------------------

// The dialect that a path belongs to, whether there is something at it or not: how errors look, which roles messages may have.
typedef enum api_shape { SHAPE_OPENAI, SHAPE_ANTHROPIC, SHAPE_OLLAMA } api_shape;
api_shape api_shape_of(const http_request *r);

typedef struct api_error {
    int  http;            // status code
    char message[560];
    char param[96];       // the field at fault; "" for none
    const char *code;     // a literal, or NULL: that of the status
    uint32_t retry_after; // seconds, for 429; 0: as little as one
    bool lasting;         // a 503 that will be one the next time too: nobody is told to come back
} api_error;

// Fills *e; returns false, so that a check reads `return api_fail(...)`. param and code may be NULL.
bool api_fail(api_error *e, int http, const char *param, const char *code, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
// The engine's status as HTTP has it; param is used for what the client did wrong.
bool api_fail_status(api_error *e, const error *err, const char *param);
// The error's object as the dialect of the request's path has it.
void api_put_error(strbuf *out, const http_request *r, const api_error *e);
// As the whole answer, with Retry-After where it helps.
void api_send_error(http_request *r, const api_error *e);
// What the transport refuses on its own, in the same shapes: http_options.error_body.
const char *api_error_body(void *ctx, http_request *r, int code, const char *why, strbuf *out);

// ---- JSON ----------------------------------------------------------------------------------------

// The body as an object; strict, depth and number of values limited. The caller owns it (json_decref).
json_t *api_parse(const char *text, size_t len, api_error *e);
void api_put_string(strbuf *out, const char *text, size_t len); // quoted; bytes that are not UTF-8 become U+FFFD
void api_put_double(strbuf *out, double v);                     // shortest decimal that reads back the same; null when not finite
void api_put_float(strbuf *out, float v);
const char *api_json_type(const json_t *v);                     // "a string", "null", ...
bool api_is_ids(const json_t *v);                               // an array that begins with a whole number: token ids, where texts could stand as well
// That an array holds token ids, below the vocabulary where that is known (0: not). param names it in errors.
bool api_check_ids(const json_t *list, uint32_t vocabulary, const char *param, api_error *e);
void api_copy_ids(const json_t *list, int32_t *out);            // of an array that was checked

// ---- what a request asks for ---------------------------------------------------------------------

typedef struct api_key api_key;

typedef struct params {
    arena    mem;             // strings of the request
    altiserve_generate g;     // model, sampling, n, max_tokens, stop, logprobs
    bool     stream, include_usage, echo;
    bool     timings_per_token; // timings in each chunk of a stream
    const char *reasoning_format; // as llama-server has it: "auto", "deepseek", "none"
    bool     want_logprobs;   // chat's boolean
    int64_t  top_logprobs;    // -1: not given
    int64_t  logprobs;        // completions' number; -1: not given
    int64_t  max_tokens, max_completion_tokens; // 0: not given
    int64_t  top_k, last_n, n, seed;
    double   temperature, top_p, min_p, typical_p, repetition, presence, frequency;
    bool     ignore_eos, has_options, explain, has_priority;
    int64_t  priority;
    int64_t  draft_max;       // -1: not given
    const char *cache_salt;
    const char *model;
    int64_t  dimensions, top_n; // of embeddings, of ranks; 0: not given
    const char *encoding_format, *query;
    bool     truncate, return_documents;
    json_t  *template_kwargs; // borrowed
    const char *effort;       // reasoning_effort, or NULL
    int      think;           // the template's switch for it: 1, -1: off, 0: as the template has it
    int      generation_prompt; // 1, -1: false, 0: not given
    bool     continues;       // continue_final_message
} params;

enum {
    FOR_CHAT = 1, FOR_COMPLETION = 2, FOR_MESSAGES = 4, FOR_OLLAMA = 8, FOR_NATIVE = 16, FOR_EMBEDDINGS = 32, FOR_OLLAMA_EMBED = 64, FOR_RERANK = 128, FOR_TEMPLATE = 256,
    FOR_OPENAI = FOR_CHAT | FOR_COMPLETION, FOR_VECTORS = FOR_EMBEDDINGS | FOR_OLLAMA_EMBED | FOR_RERANK
};

// Reads every field of the object that the table knows for `where` into p; what is understood but not built is an error, what is
// unknown is passed over. prefix names the object in errors ("options." for Ollama's), "" for the body itself.
void api_begin_fields(params *p); // before any is read: nothing is given
bool api_read_fields(params *p, const json_t *body, unsigned where, const char *prefix, api_error *e);
bool api_asks_nothing(const json_t *v); // null, false, 0, "", [] and {}: values that a client writes and means nothing by
// Turns p's numbers into p->g (given bits, aliases, dependencies between fields).
bool api_settle(params *p, unsigned where, api_error *e);
// The request's messages, checked, with what j->p says of templates, as the object that altiserve_template takes; text in *out (mem_free). extra_system goes first
// when not NULL.
bool api_chat_input(const job *j, const json_t *messages, const char *param, const char *extra_system, char **out, size_t *len, api_error *e);
// Checks the name against what a client may say (no paths), strips ":latest", and finds the model.
bool api_find_model(job *j, const char *name, altiserve_model_info *info, api_error *e);
bool api_find_writer(job *j, const char *name, api_error *e); // into j->model; a model that writes no text is a 400

void api_put_capabilities(strbuf *out, const altiserve_model_info *m); // ["completion","embedding","rerank","thinking"]: what the model is for

// ---- jobs ----------------------------------------------------------------------------------------

typedef struct api_route {
    const char *method, *path; // a path that ends in '*' matches all that begin so; method "*": any
    void (*handle)(job *j);    // on the front pool; answers and calls job_done, or sets parts and calls job_generate
    bool open;                 // no key needed, and nothing asked of the engine: handled on the HTTP thread
} api_route;

typedef struct choice {
    strbuf   text, reasoning, logprobs; // what came so far; logprobs: the entries, comma-separated (whole answers)
    strbuf   lp_tokens, lp_values, lp_tops, lp_offsets; // completions' parallel arrays
    size_t   offset;          // characters of text before the next token (completions' text_offset)
    altiserve_finish finish;
    const char *stop;         // the request's stop string that ended it, or NULL
    uint32_t tokens;
    double   last;            // when its last token came
    bool     started;         // its first chunk was sent
} choice;

typedef struct part {         // one engine request; a completion with several prompts has several
    job *owner;
    altiserve_request *req;   // under the job's lock
    bool submitted, ended;    // submitted: the engine took it, for the sake of metrics
    altiserve_usage usage;
    altiserve_explanation explanation; // where it was asked for, once it has ended
    char *echo;               // text put before the answer
    size_t echo_len;
    float *embedding;         // of requests that embed
    size_t n_embedding;
} part;

// How a dialect words what happens. All on the front pool; `out` is sent when the call returns.
typedef struct dialect {
    const char *content_type, *keepalive;
    void (*open)(job *j, strbuf *out);                                                        // a stream begins
    void (*text)(job *j, uint32_t index, const altiserve_event *ev, strbuf *out);             // streams: a piece
    void (*keep)(job *j, uint32_t index, const altiserve_event *ev);                          // whole answers: logprobs; text is kept already. May be NULL
    void (*finish)(job *j, uint32_t index, strbuf *out);                                      // streams: a choice ended
    void (*close)(job *j, strbuf *out);                                                       // streams: all ended
    void (*whole)(job *j, strbuf *out);                                                       // the whole answer
    void (*fail)(job *j, const api_error *e, strbuf *out);                                    // an error in the middle of a stream
} dialect;

struct job {
    api          *a;
    http_request *r;
    const api_route *route;
    atomic_int    refs;
    // the pool's lock
    job          *queue_next, *all_next, *all_prev;
    bool          queued, running, again;
    // the job's lock
    pthread_mutex_t lock;
    _Atomic bool  left;       // set under it, read anywhere
    // the runner
    bool          started, begun, done, failed;
    _Atomic bool  want_begin; // set by the pool's clock: begin the stream now, so that keep-alives can flow
    double        arrived;    // seconds, monotonic
    bool          first_token;
    params        p;
    json_t       *body;
    const dialect *dialect;
    part         *parts;
    uint32_t      n_parts, parts_left;
    uint32_t      n_submitted, in_flight; // of jobs that embed: parts are submitted as earlier ones end
    void        (*set_embed)(job *j, uint32_t i, altiserve_embed *what);
    const char   *embed_param;
    choice       *choices;    // n_parts * n
    uint32_t      n_choices;
    char          id[48];
    int64_t       created;
    altiserve_model_info model;
    char          key[80];    // who asks: for fairness
    const api_key *client;    // the line of the key file, or NULL
    const char   *salt;       // what its prefixes may be shared by, see salt_of; NULL until it is asked for
};

typedef struct worker {
    pthread_t thread;
    api      *a;
    int       index;
} worker;

// A line of the key file: KEY [name=NAME] [weight=W] [priority=P] [private]
struct api_key {
    char   *key, *name;       // name: in metrics
    double  weight;           // share of work beside other keys'
    int64_t priority;         // the best it may ask for, and what it has otherwise
    bool    has_priority, own_salt; // own_salt ("private"): computed prefixes are not shared with other keys
};

struct api {
    altiserve   *engine;
    http_server *http;
    api_key     *keys;
    size_t       n_keys, cap_keys;
    double       begin_s;     // a stream that has waited so long begins before its first token
    pthread_mutex_t lock;     // the pool's
    pthread_cond_t  cond;
    struct { job *head, *tail; } queue[2]; // 0: news of jobs and quick routes; 1: requests to parse, render and tokenize, which may take a second
    job         *all;
    size_t       n_jobs;
    bool         reserve;     // worker 0 takes from queue 0 alone, so that long prompts never hold up running streams
    bool         idle0;       // worker 0 waits, on cond0
    pthread_cond_t cond0;
    bool         quit, stopping, stopped; // stopped: no connection is left
    pthread_cond_t ends;      // stopped, or cut_at is sooner
    double       cut_at;      // as api_now: when what still runs is cut
    worker       workers[16];
    int          n_workers;
};

double api_now(void);
void job_post(job *j);        // from any thread
void job_done(job *j);        // the answer is given; the runner lets go
void job_fail(job *j, const api_error *e); // answers with the error, then job_done
void job_respond(job *j, int code, const char *type, strbuf *body); // frees body; a failed one is a 503; then job_done
const char *api_why(altiserve_why why); // as answers and the log name it
altiserve_usage job_usage(const job *j); // of all its parts, as far as their events were taken
void api_put_timings(strbuf *out, const job *j); // ,"timings":{...} as llama-server has them, from job_usage
// Parses the body into j->body; false after answering.
bool job_body(job *j);
// Submits n_parts requests made from p.g, and from then on events flow to the dialect. set(ctx, i, g) fills the prompt of part i; NULL: p.g has it. The body is gone then.
void job_generate(job *j, const dialect *d, uint32_t n_parts, void (*set)(job *j, uint32_t i, altiserve_generate *g), const char *prompt_param);
// Loads j->model and generates nothing; when it is there the dialect's `whole` is the answer.
void job_load(job *j, const dialect *d);
// Submits n_parts requests that embed, few at a time; when all have ended the dialect's `whole` is the answer, from parts[].embedding. set fills text, pair or tokens
// (the latter are freed after use). param is the body's field that holds them, the only one that is kept, and names them in errors (an element as param[i]).
void job_embed(job *j, const dialect *d, uint32_t n_parts, void (*set)(job *j, uint32_t i, altiserve_embed *what), const char *param);
void job_run(job *j);         // api_job.c: one turn of a job, on a pool thread
void job_unref(job *j);

// A prompt as completions take it: a string, token ids, or a list of those (count them in *n). Checked against j->model's vocabulary.
bool api_check_prompts(job *j, const json_t *prompt, uint32_t *n, api_error *e);
// Fills g's prompt from prompt i of j->body's "prompt"; keeps its text in the part when p.echo.
void api_set_prompt(job *j, uint32_t i, altiserve_generate *g);
// Body, fields and model of a request; false after answering.
bool api_read_request(job *j, unsigned where);

// ---- handlers by file ----------------------------------------------------------------------------

void api_models_list(job *j);
void api_models_one(job *j);
void api_chat_completions(job *j);
void api_completions(job *j);
void api_health(job *j);
void api_metrics(job *j);
void api_trace(job *j);
void api_tokenize(job *j);
void api_detokenize(job *j);
void api_apply_template(job *j);
void api_props(job *j);
void api_native_completion(job *j);
void api_slots(job *j);
void api_root(job *j);
void api_ollama_version(job *j);
void api_ollama_tags(job *j);
void api_ollama_show(job *j);
void api_ollama_ps(job *j);
void api_ollama_chat(job *j);
void api_ollama_generate(job *j);
void api_ollama_unmanaged(job *j);
void api_embeddings(job *j);
void api_rerank(job *j);
void api_ollama_embed(job *j);
void api_ollama_embeddings(job *j);
void api_messages(job *j);
void api_count_tokens(job *j);
