// quantize: IN OUT TYPE, with a progress bar on a terminal.
#include <stdio.h>
#include <unistd.h>

#include "cli/commands.h"

static bool progress(void *ctx, const char *tensor, uint64_t done, uint64_t total) {
    int *last = ctx, now = total ? (int)(done * 100 / total) : 100;
    if (now != *last) fprintf(stderr, "\r\033[K[%3d%%] %.60s", now, tensor ? tensor : "");
    *last = now;
    return true;
}

int cmd_quantize(const flags *f) {
    error err = {0};
    int last = -1;
    altiserve_quantize_result r;
    altiserve_quantize_spec spec = {.in = f->positional[0], .out = f->positional[1], .type = f->positional[2], .imatrix = f->text[FLAG_IMATRIX],
                                    .tensors = f->text[FLAG_TENSORS], .pure = f->number[FLAG_PURE] != 0, .threads = (int)f->number[FLAG_THREADS],
                                    .progress = isatty(STDERR_FILENO) ? progress : NULL, .ctx = &last};
    status s = altiserve_quantize(&spec, &r, &err);
    if (last >= 0) fputs("\r\033[K", stderr);
    if (s != OK) return cli_fail(&err);
    if (r.quantized) fprintf(stderr, "altiserve: %zu tensors were in blocks already: errors add up, a file in F16, BF16 or F32 is a better source\n", r.quantized);
    printf("%s: %zu tensors, %.1f MB (was %.1f MB)\n", spec.out, r.tensors, (double)r.out_bytes / 1e6, (double)r.in_bytes / 1e6);
    if (r.fallbacks) printf("%zu tensors have rows that do not fit the type's blocks and were written in another type\n", r.fallbacks);
    return 0;
}
