// cli/flags: one table of flags behind parsing, the environment and every help text.
//
// A flag belongs to commands by a bit mask. Its value comes from the command line, else from ALTISERVE_<FLAG> in the environment
// (dashes as underscores), else from the table. Values are checked here, so that commands read them without asking again.
// Single-threaded: parsed once at start.
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "altiserve.h"

// Commands, as bits. The order is that of the help.
enum {
    CMD_SERVE = 1 << 0, CMD_RUN = 1 << 1, CMD_GENERATE = 1 << 2, CMD_TOKENIZE = 1 << 3, CMD_DETOKENIZE = 1 << 4, CMD_LOGITS = 1 << 5,
    CMD_TEMPLATE = 1 << 6, CMD_BENCH = 1 << 7, CMD_PERPLEXITY = 1 << 8, CMD_INSPECT = 1 << 9, CMD_QUANTIZE = 1 << 10, CMD_EMBED = 1 << 11,
    CMD_COMPUTES = CMD_SERVE | CMD_RUN | CMD_GENERATE | CMD_LOGITS | CMD_BENCH | CMD_PERPLEXITY | CMD_EMBED,
    CMD_SAMPLES = CMD_RUN | CMD_GENERATE,
    CMD_DRAFTS = CMD_SERVE | CMD_SAMPLES
};

typedef enum flag_id {
    FLAG_MODELS, FLAG_HOST, FLAG_PORT, FLAG_API_KEY_FILE, FLAG_TLS_CERT, FLAG_TLS_KEY, FLAG_CORS_ORIGIN, FLAG_ALLOWED_HOST, FLAG_PARALLEL, FLAG_QUEUE, FLAG_STEP_TOKENS,
    FLAG_LOAD_TIMEOUT, FLAG_DRAIN_TIMEOUT, FLAG_NO_PREFIX_CACHE, FLAG_CACHE_DIR, FLAG_CACHE_SIZE, FLAG_CACHE_WRITE_RATE, FLAG_HOST_CACHE,
    FLAG_RESPONSE_CACHE, FLAG_RESPONSE_CACHE_SIZE, FLAG_SPECULATE, FLAG_DRAFT, FLAG_DRAFT_MAX,
    FLAG_THREADS, FLAG_CONTEXT, FLAG_MEMORY, FLAG_KV_TYPE, FLAG_DEVICE, FLAG_CPU, FLAG_DETERMINISTIC,
    FLAG_TEXT, FLAG_TOKENS, FLAG_N, FLAG_IDS, FLAG_IGNORE_EOS,
    FLAG_TEMP, FLAG_TOP_K, FLAG_TOP_P, FLAG_MIN_P, FLAG_SEED, FLAG_SYSTEM,
    FLAG_SPECIAL, FLAG_NO_PARSE_SPECIAL, FLAG_SEPARATOR, FLAG_OUT, FLAG_CHUNK, FLAG_MESSAGES,
    FLAG_PROMPT, FLAG_GEN, FLAG_DEPTH, FLAG_REPS, FLAG_FILE, FLAG_JSON, FLAG_LOG_LEVEL, FLAG_PURE, FLAG_IMATRIX, FLAG_TENSORS, FLAG_RAW,
    FLAG_COUNT
} flag_id;

typedef struct flags {
    unsigned command;
    const char *text[FLAG_COUNT]; // NULL: not given
    double  number[FLAG_COUNT];   // numbers, sizes in bytes, switches as 0 or 1; the default where nothing was given
    bool    given[FLAG_COUNT];
    const char *positional[4];
    int     n_positional;
} flags;

// Reads argv after the command's name. On E_USAGE the text says what is wrong and what would be right.
status flags_parse(unsigned command, int argc, char **argv, int max_positional, flags *out, error *err);
// The lines of help for a command's flags, to stdout.
void flags_help(unsigned command);
// The options for altiserve_create that the flags spell.
altiserve_options flags_engine(const flags *f);
