// The program: picks the command, parses its flags, runs it. The table below is the whole command line.
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "obs/obs.h"

static const struct command {
    const char *name;
    unsigned    bit;
    int       (*run)(const flags *);
    int         min, max; // positional words
    const char *words, *help;
} commands[] = {
    {"serve", CMD_SERVE, cmd_serve, 0, 0, "", "serve the models folder over HTTP (OpenAI-compatible)"},
    {"run", CMD_RUN, cmd_run, 1, 3, "MODEL [PROMPT [-]]", "chat in the terminal, or answer one prompt; - adds what is piped in"},
    {"generate", CMD_GENERATE, cmd_generate, 1, 1, "MODEL", "continue a text or token ids"},
    {"tokenize", CMD_TOKENIZE, cmd_tokenize, 1, 1, "MODEL", "text on stdin to token ids, a line a record"},
    {"detokenize", CMD_DETOKENIZE, cmd_detokenize, 1, 1, "MODEL", "token ids on stdin to text"},
    {"logits", CMD_LOGITS, cmd_logits, 1, 1, "MODEL", "the logits of every token of a prompt"},
    {"embed", CMD_EMBED, cmd_embed, 1, 1, "MODEL", "the embedding of a text"},
    {"template", CMD_TEMPLATE, cmd_template, 1, 1, "MODEL|FILE.jinja", "the prompt text of a conversation"},
    {"bench", CMD_BENCH, cmd_bench, 1, 1, "MODEL", "measure prompt and generation speed"},
    {"perplexity", CMD_PERPLEXITY, cmd_perplexity, 1, 1, "MODEL", "perplexity over a text"},
    {"inspect", CMD_INSPECT, cmd_inspect, 1, 1, "MODEL", "what is in a file and what it will take"},
    {"quantize", CMD_QUANTIZE, cmd_quantize, 3, 3, "IN OUT TYPE", "write a file with its weights in another type"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void help(void) {
    printf("altiserve %s: serves language models from GGUF files.\n\nusage: altiserve COMMAND ...\n\n", altiserve_version());
    for (int i = 0; i < N_COMMANDS; i++) printf("  %-11s %-18s %s\n", commands[i].name, commands[i].words, commands[i].help);
    printf("\nMODEL is a path, a name in the models folder, or toy-1 (built in). `altiserve COMMAND --help` tells more.\n");
}

// Output that did not arrive (a full disk, a reader that left) is an error to a script.
static int written(int rc) {
    if (!fflush(stdout) && !ferror(stdout)) return rc;
    if (!rc) fputs("altiserve: the output could not be written\n", stderr);
    return rc ? rc : 1;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        help();
        return written(argc < 2 ? 2 : 0);
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version")) {
        printf("altiserve %s\n", altiserve_version());
        return written(0);
    }
    const struct command *c = NULL;
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, argv[1])) c = &commands[i];
    if (!c) {
        fprintf(stderr, "altiserve: unknown command \"%s\"; `altiserve --help` lists them\n", argv[1]);
        return 2;
    }
    for (int i = 2; i < argc && strcmp(argv[i], "--"); i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            printf("usage: altiserve %s %s%s[flags]\n%s\n\n", c->name, c->words, *c->words ? " " : "", c->help);
            flags_help(c->bit);
            return written(0);
        }
    flags f;
    error err = {0};
    flags_parse(c->bit, argc - 2, argv + 2, c->max, &f, &err);
    for (int i = 0; i < c->min && !err.code; i++) // a word behind these, a prompt, is the command's to judge
        if (!f.positional[i] || !*f.positional[i])
            error_set(&err, E_USAGE, "%susage: altiserve %s %s", f.positional[i] ? "\"\" names nothing; " : "", c->name, c->words);
    if (err.code) {
        fprintf(stderr, "altiserve %s: %s; see `altiserve %s --help`\n", c->name, err.text, c->name);
        return 2;
    }
    obs_level level = f.command == CMD_SERVE ? OBS_INFO : OBS_WARN;
    if (f.text[FLAG_LOG_LEVEL]) obs_parse_level(f.text[FLAG_LOG_LEVEL], &level);
    obs_set_level(level);
    int rc = c->run(&f);
    return c->bit == CMD_SERVE ? rc : written(rc); // who read a server's greeting may have left long ago
}
