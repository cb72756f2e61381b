// cli/commands: one function a command; each returns the exit status. They print results to stdout, errors to stderr.
#pragma once
#include "cli/flags.h"

int cmd_serve(const flags *f);
int cmd_run(const flags *f);
int cmd_generate(const flags *f);
int cmd_tokenize(const flags *f);
int cmd_detokenize(const flags *f);
int cmd_logits(const flags *f);
int cmd_embed(const flags *f);
int cmd_template(const flags *f);
int cmd_bench(const flags *f);
int cmd_perplexity(const flags *f);
int cmd_inspect(const flags *f);
int cmd_quantize(const flags *f);

// Shared by the commands.
int    cli_fail(const error *err);                              // prints "altiserve: text", returns the exit status for the code
status cli_open(const flags *f, altiserve **out, error *err);   // an engine as the flags say
status cli_load(altiserve *a, const char *model, error *err);   // loads with a progress bar on a terminal
status cli_read(const char *path, char **data, size_t *len, error *err); // a whole file, "-" for stdin; mem_free
status cli_ids(const char *list, int32_t **ids, size_t *n, error *err);  // "1 2 3"; mem_free
altiserve_sampling cli_sampling(const flags *f);                // as --temp and its kin say; which of them count is the command's to say
// The prompt that --text or --tokens give, as ids (mem_free).
status cli_prompt(altiserve *a, const flags *f, const char *model, int32_t **ids, size_t *n, error *err);
