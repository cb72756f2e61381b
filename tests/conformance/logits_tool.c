// conformance/logits_tool: logits of a GGUF file by gguf, model and cpu alone, for tests/conformance/logits.sh: no engine, no tokenizer.
//
// usage: logits_tool MODEL OUT.f32 "1 2 3" [--chunk N] [--strangers] [--isa NAME] [--threads N] [--context N]
//   --chunk N      the prompt in steps of N tokens
//   --strangers    two other sequences of other lengths share every step
// Writes float32 [tokens][n_vocab]. Exit status 3: the architecture is known and not built.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cpu/cpu.h"
#include "model/model.h"

enum { MAX_TOKENS = 4096, SEQS = 3 };

static void die(status st, const error *err)
{
    fprintf(stderr, "%s: %s\n", status_name(st), err->text);
    exit(st == E_UNSUPPORTED ? 3 : 1);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: logits_tool MODEL OUT.f32 \"1 2 3\" [--chunk N] [--strangers] [--isa NAME] [--threads N] [--context N]\n");
        return 2;
    }
    static int32_t tokens[MAX_TOKENS];
    int32_t n = 0, chunk = MAX_TOKENS;
    bool strangers = false;
    cpu_options co = {.threads = 1};
    model_options mo = {0};
    for (char *p = strtok(argv[3], " ,"); p && n < MAX_TOKENS; p = strtok(NULL, " ,")) tokens[n++] = atoi(p);
    for (int i = 4; i < argc; i++) {
        if (!strcmp(argv[i], "--strangers")) strangers = true;
        else if (!strcmp(argv[i], "--chunk") && i + 1 < argc) chunk = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--isa") && i + 1 < argc) co.isa = argv[++i];
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc) co.threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--context") && i + 1 < argc) mo.context = (uint32_t)atoi(argv[++i]);
    }
    if (chunk < 1) chunk = 1;
    error err = {0};
    status st;
    gguf *g;
    device *dev;
    model *m;
    if ((st = gguf_open(argv[1], &g, &err)) || (st = cpu_device_create(&co, &dev, &err)) || (st = model_load(g, dev, &mo, &m, &err))) die(st, &err);
    const model_info *info = model_get_info(m);
    dev_plan *plan = model_plan(m);
    if (!info->causal) chunk = n;
    // Strangers: sequences 0 and 2 run beside ours, with lengths of their own.
    int32_t lens[SEQS] = {strangers ? n / 2 + 3 : 0, n, strangers ? n / 3 + 1 : 0}, at[SEQS] = {0}, per[SEQS] = {strangers ? chunk / 2 + 1 : 0, chunk, strangers ? 3 : 0};
    int32_t max_rows = 0;
    for (int s = 0; s < SEQS; s++) {
        if (per[s] > lens[s] || (!info->causal && lens[s])) per[s] = lens[s];
        if (info->n_positions && lens[s] > (int32_t)info->n_positions) lens[s] = (int32_t)info->n_positions;
        max_rows += per[s];
    }
    // What was predicted from the file alone must be what is then used, to 2 %.
    model_sizes sizes;
    if ((st = model_predict(g, dev, &mo, max_rows, max_rows, &sizes, &err))) die(st, &err);
    double scratch = (double)dev_plan_scratch(plan, max_rows, max_rows), weights = (double)info->weight_bytes;
    if (sizes.weights < 0.98 * weights || sizes.weights > 1.02 * weights || sizes.scratch < 0.98 * scratch || sizes.scratch > 1.02 * scratch) {
        fprintf(stderr, "predicted %llu bytes of weights and %llu of scratch, used %.0f and %.0f\n", (unsigned long long)sizes.weights, (unsigned long long)sizes.scratch, weights, scratch);
        return 1;
    }
    if ((st = dev_plan_prepare(plan, max_rows, max_rows, &err))) die(st, &err);
    int32_t pages_each = (n + 4 + DEV_PAGE_TOKENS) / DEV_PAGE_TOKENS + 1, n_pages[DEV_MAX_GROUPS];
    for (int g2 = 0; g2 < plan->n_groups; g2++) n_pages[g2] = SEQS * pages_each;
    dev_kv *kv = NULL;
    if (plan->n_groups && (st = dev_kv_create(dev, plan, n_pages, DEV_KV_F32, &kv, &err))) die(st, &err);
    int32_t *tables = mem_calloc((size_t)SEQS * (size_t)pages_each, sizeof *tables); // interleaved, so that no sequence has pages in order
    for (int s = 0; s < SEQS; s++)
        for (int32_t i = 0; i < pages_each; i++) tables[s * pages_each + i] = (pages_each - 1 - i) * SEQS + s;
    int32_t *tok = mem_calloc((size_t)max_rows, 4), *pos = mem_calloc((size_t)max_rows, 4), *wanted = mem_calloc((size_t)max_rows, 4);
    FILE *out = fopen(argv[2], "wb");
    if (!out) {
        perror(argv[2]);
        return 1;
    }
    while (at[1] < lens[1]) {
        dev_seq seqs[SEQS];
        int32_t rows = 0, n_seqs = 0, n_wanted = 0, ours = 0;
        for (int s = 0; s < SEQS; s++) {
            int32_t take = lens[s] - at[s] < per[s] ? lens[s] - at[s] : per[s];
            if (take < 1) continue;
            dev_seq *q = &seqs[n_seqs++];
            *q = (dev_seq){.first_row = rows, .n_rows = take, .start = at[s]};
            for (int g2 = 0; g2 < plan->n_groups; g2++) {
                q->pages[g2] = tables + s * pages_each;
                q->n_pages[g2] = pages_each;
            }
            for (int32_t i = 0; i < take; i++, rows++) {
                tok[rows] = s == 1 ? tokens[at[s] + i] : (7 * (at[s] + i) + s) % (int32_t)info->n_vocab;
                pos[rows] = at[s] + i;
                if (s == 1) wanted[n_wanted++] = rows;
            }
            at[s] += take;
            if (s == 1) ours = take;
        }
        dev_step step = {.n_rows = rows, .tokens = tok, .positions = pos, .n_seqs = n_seqs, .seqs = seqs, .n_wanted = n_wanted, .wanted = wanted};
        dev_ticket ticket;
        if ((st = dev_submit(plan, kv, &step, &ticket, &err)) || (st = dev_wait(plan, ticket, &err))) die(st, &err);
        for (int32_t i = 0; i < ours; i++) fwrite(dev_logits(plan, i), 4, info->n_vocab, out);
    }
    bool bad = fclose(out) != 0;
    dev_kv_destroy(dev, kv);
    model_free(m);
    gguf_close(g);
    dev_destroy(dev);
    mem_free(tables);
    mem_free(tok);
    mem_free(pos);
    mem_free(wanted);
    return bad;
}
