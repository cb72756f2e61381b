#include "cli/flags.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { SWITCH, TEXT, NAME, INTEGER, REAL, SIZE } kind; // NAME: of a file, folder, host, model ...: a text that is not empty

typedef struct flag_row {
    const char *name;
    kind        kind;
    unsigned    commands;
    const char *value;     // how help names the value
    double      fallback, low, high;
    const char *choices;   // "a|b|c": what a TEXT may be
    const char *help;
} flag_row;

static const flag_row table[FLAG_COUNT] = {
    [FLAG_MODELS] = {"models", NAME, ~0u & ~CMD_QUANTIZE, "DIR", 0, 0, 0, NULL, "folder of GGUF files (default models)"},
    [FLAG_HOST] = {"host", NAME, CMD_SERVE, "ADDRESS", 0, 0, 0, NULL, "address to listen on (default 127.0.0.1)"},
    [FLAG_PORT] = {"port", INTEGER, CMD_SERVE, "N", 8080, 0, 65535, NULL, "port to listen on; 0 takes a free one (default 8080)"},
    [FLAG_API_KEY_FILE] = {"api-key-file", NAME, CMD_SERVE, "FILE", 0, 0, 0, NULL, "keys that clients must send, one a line: KEY [name=N] [weight=W] [priority=P] [private]"},
    [FLAG_TLS_CERT] = {"tls-cert", NAME, CMD_SERVE, "FILE", 0, 0, 0, NULL, "certificate chain (PEM); needs --tls-key"},
    [FLAG_TLS_KEY] = {"tls-key", NAME, CMD_SERVE, "FILE", 0, 0, 0, NULL, "private key (PEM)"},
    [FLAG_CORS_ORIGIN] = {"cors-origin", NAME, CMD_SERVE, "ORIGIN", 0, 0, 0, NULL, "pages from https://there may call, or any with * (default: those of this machine)"},
    [FLAG_ALLOWED_HOST] = {"allowed-host", NAME, CMD_SERVE, "NAME", 0, 0, 0, NULL, "answer for this Host too while listening on loopback, as behind a proxy; * for any"},
    [FLAG_PARALLEL] = {"parallel", INTEGER, CMD_SERVE | CMD_BENCH, "N", 0, 0, 4096, NULL, "sequences at once (default 64; bench: 1)"},
    [FLAG_QUEUE] = {"queue", INTEGER, CMD_SERVE, "N", 256, 1, 1000000, NULL, "requests that may wait; past it 429 (default 256)"},
    [FLAG_STEP_TOKENS] = {"step-tokens", INTEGER, CMD_COMPUTES, "N", 512, 1, 8192, NULL, "tokens one step computes at most (default 512)"},
    [FLAG_LOAD_TIMEOUT] = {"load-timeout", REAL, CMD_SERVE, "SECONDS", 600, 1, 86400, NULL, "how long a request waits for its model (default 600)"},
    [FLAG_DRAIN_TIMEOUT] = {"drain-timeout", REAL, CMD_SERVE, "SECONDS", 30, 0, 86400, NULL,
        "how long running requests may go on after a stop signal, and then 3 s for what is still to be sent (default 30)"},
    [FLAG_NO_PREFIX_CACHE] = {"no-prefix-cache", SWITCH, CMD_SERVE | CMD_RUN, NULL, 0, 0, 1, NULL, "compute every prompt in full"},
    [FLAG_CACHE_DIR] = {"cache-dir", NAME, CMD_SERVE | CMD_RUN, "DIR", 0, 0, 0, NULL, "keep computed pages of prompts here, also past a restart"},
    [FLAG_CACHE_SIZE] = {"cache-size", SIZE, CMD_SERVE | CMD_RUN, "SIZE", 0, 0, 1e15, NULL, "bytes of --cache-dir at most (default 8G)"},
    [FLAG_CACHE_WRITE_RATE] = {"cache-write-rate", SIZE, CMD_SERVE | CMD_RUN, "SIZE", 0, 0, 1e15, NULL, "bytes written there a second at most (default 256M)"},
    [FLAG_HOST_CACHE] = {"host-cache", SIZE, CMD_SERVE | CMD_RUN, "SIZE", 0, 0, 1e15, NULL, "memory beside --memory for pages that the pool evicts (default none)"},
    [FLAG_RESPONSE_CACHE] = {"response-cache", INTEGER, CMD_SERVE, "N", 0, 0, 100000000, NULL,
        "keep N answers and replay them to the same request, if it is deterministic (default 0: off)"},
    [FLAG_RESPONSE_CACHE_SIZE] = {"response-cache-size", SIZE, CMD_SERVE, "SIZE", 0, 0, 1e15, NULL, "bytes of those answers at most (default 64M)"},
    [FLAG_SPECULATE] = {"speculate", TEXT, CMD_DRAFTS, "WHEN", 0, 0, 0, "auto|off|always",
        "draft next tokens, check several in a step; the text stays the same (default auto: when it pays)"},
    [FLAG_DRAFT] = {"draft", NAME, CMD_DRAFTS, "MODEL", 0, 0, 0, NULL, "a smaller model of the same vocabulary that drafts, too (default none)"},
    [FLAG_DRAFT_MAX] = {"draft-max", INTEGER, CMD_DRAFTS, "N", 8, 1, ALTISERVE_MOST_DRAFTS, NULL, "tokens drafted for a sequence in a step at most (default 8)"},
    [FLAG_THREADS] = {"threads", INTEGER, CMD_COMPUTES | CMD_QUANTIZE, "N", 0, 0, 1024, NULL, "compute threads (default: the processors this process may use)"},
    [FLAG_CONTEXT] = {"context", INTEGER, CMD_COMPUTES | CMD_INSPECT, "N", 0, 0, 16777216, NULL,
        "tokens a sequence may have (default: the file's, at most 8192; perplexity: of a chunk, 512)"},
    [FLAG_MEMORY] = {"memory", SIZE, CMD_COMPUTES | CMD_INSPECT, "SIZE", 0, 0, 1e15, NULL, "budget for weights, cache and scratch, as 8G (default: 80 % of the system's)"},
    [FLAG_KV_TYPE] = {"kv-type", TEXT, CMD_COMPUTES | CMD_INSPECT, "TYPE", 0, 0, 0, "auto|f16|bf16|q8_0|f32", "type of the KV cache (default auto)"},
    [FLAG_DEVICE] = {"device", TEXT, CMD_COMPUTES, "NAME", 0, 0, 0, "cpu|cuda|metal", "where to compute (default cpu)"},
    [FLAG_CPU] = {"cpu", TEXT, CMD_COMPUTES, "TIER", 0, 0, 0, "ref|avx2|avx2-vnni|avx512-vnni|avx512|amx|neon|neon-dotprod|neon-i8mm",
        "force a tier of kernels (default: the best)"},
    [FLAG_DETERMINISTIC] = {"deterministic", SWITCH, CMD_COMPUTES, NULL, 0, 0, 1, NULL,
        "the same bits whatever else runs beside: slower with --cpu amx, and so anyway with all others"},
    [FLAG_TEXT] = {"text", TEXT, CMD_GENERATE | CMD_LOGITS | CMD_EMBED | CMD_TOKENIZE, "TEXT", 0, 0, 0, NULL,
        "the prompt; BOS is added as the file says (tokenize: a record, in place of stdin)"},
    [FLAG_TOKENS] = {"tokens", TEXT, CMD_GENERATE | CMD_LOGITS | CMD_EMBED | CMD_DETOKENIZE, "\"1 2 3\"", 0, 0, 0, NULL, "the prompt as token ids (detokenize: in place of stdin)"},
    [FLAG_N] = {"n", INTEGER, CMD_GENERATE | CMD_RUN, "N", 0, 0, 16777216, NULL, "tokens to generate at most (generate: 64; run: no limit)"},
    [FLAG_IDS] = {"ids", SWITCH, CMD_GENERATE, NULL, 0, 0, 1, NULL, "print token ids"},
    [FLAG_IGNORE_EOS] = {"ignore-eos", SWITCH, CMD_GENERATE, NULL, 0, 0, 1, NULL, "go on past an ending token"},
    [FLAG_TEMP] = {"temp", REAL, CMD_SAMPLES, "T", 0, 0, 100, NULL, "temperature; 0 is greedy (generate: 0; run: the file's)"},
    [FLAG_TOP_K] = {"top-k", INTEGER, CMD_SAMPLES, "K", 0, 0, 1e9, NULL, "sample from the K likeliest (0: off)"},
    [FLAG_TOP_P] = {"top-p", REAL, CMD_SAMPLES, "P", 1, 0, 1, NULL, "sample from the likeliest that make up P"},
    [FLAG_MIN_P] = {"min-p", REAL, CMD_SAMPLES, "P", 0, 0, 1, NULL, "drop what is less likely than P times the likeliest"},
    [FLAG_SEED] = {"seed", INTEGER, CMD_SAMPLES, "N", 0, 0, 9007199254740992.0, NULL, "the same seed gives the same text"},
    [FLAG_SYSTEM] = {"system", TEXT, CMD_RUN, "TEXT", 0, 0, 0, NULL, "system message"},
    [FLAG_SPECIAL] = {"special", SWITCH, CMD_TOKENIZE, NULL, 0, 0, 1, NULL, "add BOS and EOS as the file says"},
    [FLAG_NO_PARSE_SPECIAL] = {"no-parse-special", SWITCH, CMD_TOKENIZE, NULL, 0, 0, 1, NULL, "control tokens in the text are plain text"},
    [FLAG_SEPARATOR] = {"separator", TEXT, CMD_TOKENIZE, "LINE", 0, 0, 0, NULL, "records end with this line instead of at each newline"},
    [FLAG_OUT] = {"out", NAME, CMD_LOGITS, "FILE", 0, 0, 0, NULL, "write float32 logits, [tokens][vocabulary]"},
    [FLAG_CHUNK] = {"chunk", INTEGER, CMD_LOGITS, "N", 0, 0, 8192, NULL, "tokens a step (default: --step-tokens)"},
    [FLAG_MESSAGES] = {"messages", NAME, CMD_TEMPLATE, "FILE", 0, 0, 0, NULL, "JSON object with messages, tools, add_generation_prompt, ... (- is stdin)"},
    [FLAG_PROMPT] = {"prompt", INTEGER, CMD_BENCH, "N", 512, 0, 1048576, NULL, "prompt tokens (default 512)"},
    [FLAG_GEN] = {"gen", INTEGER, CMD_BENCH, "N", 64, 0, 1048576, NULL, "tokens to generate (default 64)"},
    [FLAG_DEPTH] = {"depth", INTEGER, CMD_BENCH, "N", 0, 0, 1048576, NULL, "tokens that are there before (default 0)"},
    [FLAG_REPS] = {"reps", INTEGER, CMD_BENCH, "N", 3, 1, 1000, NULL, "repetitions; medians are printed (default 3)"},
    [FLAG_FILE] = {"file", NAME, CMD_PERPLEXITY, "FILE", 0, 0, 0, NULL, "text to measure on (- is stdin)"},
    [FLAG_LOG_LEVEL] = {"log-level", TEXT, ~0u, "LEVEL", 0, 0, 0, "error|warn|info|debug", "what is logged to stderr (serve: info; else warn)"},
    [FLAG_JSON] = {"json", SWITCH, CMD_BENCH | CMD_INSPECT, NULL, 0, 0, 1, NULL, "print JSON"},
    [FLAG_PURE] = {"pure", SWITCH, CMD_QUANTIZE, NULL, 0, 0, 1, NULL, "every matrix in the same type, no mix"},
    [FLAG_IMATRIX] = {"imatrix", NAME, CMD_QUANTIZE, "FILE", 0, 0, 0, NULL, "importance matrix (GGUF), or \"uniform\""},
    [FLAG_RAW] = {"raw", SWITCH, CMD_EMBED, NULL, 0, 0, 1, NULL, "do not bring the embedding to unit length"},
    [FLAG_TENSORS] = {"tensors", NAME, CMD_QUANTIZE, "TYPE", 0, 0, 0, NULL, "every matrix as this tensor type"},
};

static bool parse_number(const char *s, kind k, double *out) {
    char *end;
    errno = 0;
    double v = strtod(s, &end);
    if (end == s || errno || !isfinite(v)) return false;
    if (k == SIZE) {
        const char *units = "KMGT", *u = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
        if (u) {
            v *= pow(1024, (double)(u - units + 1));
            end++;
            if (*end == 'i') end++;
            if (*end == 'B' || *end == 'b') end++;
        }
    }
    if (*end) return false;
    if (k == INTEGER && v != floor(v)) return false;
    *out = v;
    return true;
}

static bool is_choice(const char *choices, const char *s) {
    size_t n = strlen(s);
    for (const char *c = choices; c;) {
        const char *bar = strchr(c, '|');
        size_t len = bar ? (size_t)(bar - c) : strlen(c);
        if (len == n && memcmp(c, s, n) == 0) return true;
        c = bar ? bar + 1 : NULL;
    }
    return false;
}

static status set_value(flags *f, int i, const char *value, const char *where, error *err) {
    const flag_row *row = &table[i];
    f->given[i] = true;
    f->text[i] = value;
    if (row->kind == SWITCH) {
        f->number[i] = 1;
        return OK;
    }
    if (row->kind == NAME) return *value ? OK : error_set(err, E_USAGE, "%s is empty: it takes %s", where, row->value);
    if (row->kind == TEXT) {
        if (row->choices && !is_choice(row->choices, value))
            return error_set(err, E_USAGE, "%s is one of %s, not \"%s\"", where, row->choices, value);
        return OK;
    }
    double v;
    if (!parse_number(value, row->kind, &v) || v < row->low || v > row->high)
        return error_set(err, E_USAGE, "%s takes %s between %.15g and %.15g, not \"%s\"", where,
                         row->kind == INTEGER ? "a whole number" : row->kind == SIZE ? "a size as 512M or 8G" : "a number", row->low, row->high, value);
    f->number[i] = v;
    return OK;
}

static status from_environment(flags *f, error *err) {
    for (int i = 0; i < FLAG_COUNT; i++) {
        if (!table[i].name || !(table[i].commands & f->command) || f->given[i]) continue;
        char name[64] = "ALTISERVE_";
        size_t n = strlen(name);
        for (const char *s = table[i].name; *s && n + 1 < sizeof name; s++) name[n++] = *s == '-' ? '_' : (char)toupper((unsigned char)*s);
        name[n] = 0;
        const char *value = getenv(name);
        if (!value || !*value) continue;
        if (table[i].kind == SWITCH && (!strcmp(value, "0") || !strcmp(value, "false"))) continue;
        if (set_value(f, i, value, name, err) != OK) return E_USAGE;
    }
    return OK;
}

status flags_parse(unsigned command, int argc, char **argv, int max_positional, flags *f, error *err) {
    *f = (flags){.command = command};
    for (int i = 0; i < FLAG_COUNT; i++) f->number[i] = table[i].fallback;
    bool only_words = false;
    for (int a = 0; a < argc; a++) {
        const char *arg = argv[a];
        if (only_words || arg[0] != '-' || !arg[1]) {
            if (f->n_positional >= max_positional)
                return error_set(err, E_USAGE, "\"%s\" is one word too many", arg);
            f->positional[f->n_positional++] = arg;
            continue;
        }
        if (!strcmp(arg, "--")) {
            only_words = true;
            continue;
        }
        const char *name = arg[1] == '-' ? arg + 2 : arg + 1, *equals = strchr(name, '=');
        size_t n = equals ? (size_t)(equals - name) : strlen(name);
        int i = 0;
        while (i < FLAG_COUNT && !(table[i].name && (table[i].commands & command) && strlen(table[i].name) == n && !memcmp(table[i].name, name, n))) i++;
        if (i == FLAG_COUNT) return error_set(err, E_USAGE, "unknown flag %s", arg);
        char where[64];
        snprintf(where, sizeof where, "--%s", table[i].name);
        const char *value = equals ? equals + 1 : NULL;
        if (table[i].kind == SWITCH) {
            if (value) return error_set(err, E_USAGE, "%s takes no value", where);
        } else if (!value) {
            if (a + 1 >= argc) return error_set(err, E_USAGE, "%s needs a value: %s %s", where, where, table[i].value);
            value = argv[++a];
        }
        if (set_value(f, i, value, where, err) != OK) return E_USAGE;
    }
    return from_environment(f, err);
}

void flags_help(unsigned command) {
    for (int i = 0; i < FLAG_COUNT; i++) {
        if (!table[i].name || !(table[i].commands & command)) continue;
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", table[i].name, table[i].value ? " " : "", table[i].value ? table[i].value : "");
        printf("  %-26s %s%s%s%s\n", left, table[i].help, table[i].choices ? " [" : "", table[i].choices ? table[i].choices : "", table[i].choices ? "]" : "");
    }
    printf("Each flag can also be set as ALTISERVE_<FLAG> in the environment, as ALTISERVE_PORT=9000.\n");
}

altiserve_options flags_engine(const flags *f) {
    altiserve_options o = altiserve_defaults();
    o.models_dir = f->text[FLAG_MODELS] ? f->text[FLAG_MODELS] : "models";
    o.threads = (int)f->number[FLAG_THREADS];
    o.memory = (uint64_t)f->number[FLAG_MEMORY];
    o.context = (uint32_t)f->number[FLAG_CONTEXT];
    o.kv_type = f->text[FLAG_KV_TYPE];
    o.device = f->text[FLAG_DEVICE];
    o.isa = f->text[FLAG_CPU];
    o.deterministic = f->number[FLAG_DETERMINISTIC] != 0;
    // These want the logits of every row of a step, so as many rows of logits as a step has.
    bool all_logits = f->command == CMD_LOGITS || f->command == CMD_PERPLEXITY;
    o.parallel = all_logits ? (int)f->number[FLAG_STEP_TOKENS] : (int)f->number[FLAG_PARALLEL];
    o.open_paths = f->command != CMD_SERVE;
    o.queue = (int)f->number[FLAG_QUEUE];
    o.step_tokens = (int)f->number[FLAG_STEP_TOKENS];
    o.load_timeout_ms = (uint32_t)(f->number[FLAG_LOAD_TIMEOUT] * 1000);
    o.rescan = f->command == CMD_SERVE;
    o.cache_dir = f->text[FLAG_CACHE_DIR];
    o.cache_size = (uint64_t)f->number[FLAG_CACHE_SIZE];
    o.cache_write_rate = (uint64_t)f->number[FLAG_CACHE_WRITE_RATE];
    o.host_cache = (uint64_t)f->number[FLAG_HOST_CACHE];
    o.prefix_cache = f->number[FLAG_NO_PREFIX_CACHE] == 0;
    const char *when = f->text[FLAG_SPECULATE];
    if (!(f->command & CMD_DRAFTS) || (when && !strcmp(when, "off"))) o.speculation = SPECULATE_OFF;
    else if (when && !strcmp(when, "always")) o.speculation = SPECULATE_ALWAYS;
    o.draft = f->text[FLAG_DRAFT];
    o.responses = (uint32_t)f->number[FLAG_RESPONSE_CACHE];
    o.response_bytes = (uint64_t)f->number[FLAG_RESPONSE_CACHE_SIZE];
    o.draft_max = (int)f->number[FLAG_DRAFT_MAX];
    return o;
}
