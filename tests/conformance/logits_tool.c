// conformance/logits_tool: holds the logits of a GGUF file by gguf, model and cpu alone (no engine, no tokenizer) against references, for
// tests/conformance/logits.sh.
//
// usage: logits_tool MODEL [--isa NAME] [--threads N] [--context N] [--ways] [--tokens "1 2 3" REFERENCE.f32]...
//   --ways         the prompt in one piece, in steps of 7 tokens, and each of these with two other sequences of other lengths in every step;
//                  without it in one piece
// REFERENCE.f32 is float32 [tokens][n_vocab]. Prints a line a list and way: NMSE, count of tokens, way. Exit status 3: the architecture is known and not built.
#include <float.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cpu/cpu.h"
#include "model/model.h"

enum { MAX_TOKENS = 4096, MAX_LISTS = 16, SEQS = 3, SLACK = 6 << 20 };

typedef struct {
    int32_t tokens[MAX_TOKENS], count;
    float *reference; // [count][n_vocab]
} list;

typedef struct {
    gguf *g;
    device *dev;
    model *m;
    model_options options;
} bench;

typedef struct {
    const char *name;
    int32_t chunk; // tokens a step; 0: all
    bool strangers;
} way;

static const way ways[] = {{"whole", 0, false}, {"chunks", 7, false}, {"strangers", 0, true}, {"chunks+strangers", 7, true}};

static void die(status st, const error *err) {
    fprintf(stderr, "%s: %s\n", status_name(st), err->text);
    exit(st == E_UNSUPPORTED ? 3 : 1);
}

static float *read_reference(const char *path, size_t count) {
    FILE *f = fopen(path, "rb");
    float *x = mem_calloc(count + 1, sizeof *x);
    if (!f || fread(x, sizeof *x, count + 1, f) != count) {
        fprintf(stderr, "%s does not hold %zu logits\n", path, count);
        exit(1);
    }
    fclose(f);
    return x;
}

// Bytes of the process's own memory that are there.
static double held(void) {
    char line[256];
    double kb = 0;
    malloc_trim(0);
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %lf kB", &kb) == 1) break;
    if (f) fclose(f);
    return kb * 1024;
}

// What was predicted from the file alone must be what is then taken, to 2 % and what plans, names, pieces of the file and the last huge page take (SLACK).
static void hold(const char *what, double predicted, double taken) {
    if (taken >= 0.98 * predicted - SLACK && taken <= 1.02 * predicted + SLACK) return;
    fprintf(stderr, "%s: predicted %.0f bytes, taken %.0f\n", what, predicted, taken);
    exit(1);
}

// Sequence 1 is ours; 0 and 2, where there are strangers, run beside it with lengths of their own.
typedef struct {
    int32_t lens[SEQS], per_step[SEQS], max_rows;
} shape;

static shape shape_of(const model_info *info, int32_t n, const way *w) {
    int32_t chunk = w->chunk && info->causal ? w->chunk : n;
    shape s = {.lens = {w->strangers ? n / 2 + 3 : 0, n, w->strangers ? n / 3 + 1 : 0}, .per_step = {w->strangers ? chunk / 2 + 1 : 0, chunk, w->strangers ? 3 : 0}};
    for (int i = 0; i < SEQS; i++) {
        if (s.per_step[i] > s.lens[i] || (!info->causal && s.lens[i])) s.per_step[i] = s.lens[i];
        if (info->n_positions && s.lens[i] > (int32_t)info->n_positions) s.lens[i] = (int32_t)info->n_positions;
        s.max_rows += s.per_step[i];
    }
    return s;
}

// One prompt, one way: the normalised mean square error of all its logits.
static double run(const bench *b, const int32_t *tokens, int32_t n, const way *w, const float *reference) {
    const model_info *info = model_get_info(b->m);
    dev_plan *plan = model_plan(b->m);
    error err = {0};
    status st;
    shape sh = shape_of(info, n, w);
    int32_t at[SEQS] = {0}, max_rows = sh.max_rows;
    const int32_t *lens = sh.lens, *per = sh.per_step;
    int32_t pages_each = (n + 4 + DEV_PAGE_TOKENS) / DEV_PAGE_TOKENS + 1, n_pages[DEV_MAX_GROUPS];
    for (int g = 0; g < plan->n_groups; g++) n_pages[g] = SEQS * pages_each;
    dev_kv *kv = NULL;
    if (plan->n_groups && (st = dev_kv_create(b->dev, plan, n_pages, DEV_KV_F32, &kv, &err))) die(st, &err);
    int32_t *tables = mem_calloc((size_t)SEQS * (size_t)pages_each, sizeof *tables); // interleaved, so that no sequence has pages in order
    for (int s = 0; s < SEQS; s++)
        for (int32_t i = 0; i < pages_each; i++) tables[s * pages_each + i] = (pages_each - 1 - i) * SEQS + s;
    int32_t *tok = mem_calloc((size_t)max_rows, 4), *pos = mem_calloc((size_t)max_rows, 4), *wanted = mem_calloc((size_t)max_rows, 4);
    double wrong = 0, all = 0;
    while (at[1] < lens[1]) {
        dev_seq seqs[SEQS];
        int32_t rows = 0, n_seqs = 0, n_wanted = 0;
        const float *expected = reference + (size_t)at[1] * info->n_vocab;
        for (int s = 0; s < SEQS; s++) {
            int32_t take = lens[s] - at[s] < per[s] ? lens[s] - at[s] : per[s];
            if (take < 1) continue;
            dev_seq *q = &seqs[n_seqs++];
            *q = (dev_seq){.first_row = rows, .n_rows = take, .start = at[s]};
            for (int g = 0; g < plan->n_groups; g++) {
                q->pages[g] = tables + s * pages_each;
                q->n_pages[g] = pages_each;
            }
            for (int32_t i = 0; i < take; i++, rows++) {
                tok[rows] = s == 1 ? tokens[at[s] + i] : (7 * (at[s] + i) + s) % (int32_t)info->n_vocab;
                pos[rows] = at[s] + i;
                if (s == 1) wanted[n_wanted++] = rows;
            }
            at[s] += take;
        }
        dev_step step = {.n_rows = rows, .tokens = tok, .positions = pos, .n_seqs = n_seqs, .seqs = seqs, .n_wanted = n_wanted, .wanted = wanted};
        dev_ticket ticket;
        if ((st = dev_submit(plan, kv, &step, &ticket, &err)) || (st = dev_wait(plan, ticket, &err))) die(st, &err);
        for (int32_t i = 0; i < n_wanted; i++)
            for (uint32_t v = 0; v < info->n_vocab; v++) {
                double y = expected[(size_t)i * info->n_vocab + v], d = (double)dev_logits(plan, i)[v] - y;
                if (dev_logits(plan, i)[v] == -FLT_MAX) continue; // a token that is never written; the peer says so in a step's first row alone
                wrong += d * d;
                all += y * y;
            }
    }
    dev_kv_destroy(b->dev, kv);
    mem_free(tables);
    mem_free(tok);
    mem_free(pos);
    mem_free(wanted);
    return wrong / all;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: logits_tool MODEL [--isa NAME] [--threads N] [--context N] [--ways] [--tokens \"1 2 3\" REFERENCE.f32]...\n");
        return 2;
    }
    static list lists[MAX_LISTS];
    int n_lists = 0;
    int32_t max_rows = 0;
    cpu_options co = {.threads = 1};
    bench b = {0};
    size_t n_ways = 1;
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "--ways")) n_ways = sizeof ways / sizeof *ways;
        else if (!strcmp(argv[i], "--isa") && i + 1 < argc) co.isa = argv[++i];
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc) co.threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--context") && i + 1 < argc) b.options.context = (uint32_t)atoi(argv[++i]);
    }
    error err = {0};
    status st;
    if ((st = gguf_open(argv[1], &b.g, &err)) || (st = cpu_device_create(&co, &b.dev, &err))) die(st, &err);
    double before = held();
    if ((st = model_load(b.g, b.dev, &b.options, &b.m, &err))) die(st, &err);
    double weights = held() - before;
    for (int i = 2; i + 2 < argc; i++) {
        if (strcmp(argv[i], "--tokens")) continue;
        list *l = &lists[n_lists++];
        for (char *p = strtok(argv[i + 1], " ,"); p && l->count < MAX_TOKENS; p = strtok(NULL, " ,")) l->tokens[l->count++] = atoi(p);
        l->reference = read_reference(argv[i + 2], (size_t)l->count * model_get_info(b.m)->n_vocab);
        for (size_t w = 0; w < n_ways; w++) {
            shape s = shape_of(model_get_info(b.m), l->count, &ways[w]);
            if (s.max_rows > max_rows) max_rows = s.max_rows;
        }
        i += 2;
        if (n_lists == MAX_LISTS) break;
    }
    if (n_lists) {
        model_sizes sizes;
        if ((st = model_predict(b.g, b.dev, &b.options, max_rows, max_rows, &sizes, &err))) die(st, &err);
        hold("weights", (double)sizes.weights, weights);
        hold("scratch", (double)sizes.scratch, (double)dev_plan_scratch(model_plan(b.m), max_rows, max_rows));
        if ((st = dev_plan_prepare(model_plan(b.m), max_rows, max_rows, &err))) die(st, &err);
    }
    for (int i = 0; i < n_lists; i++) {
        for (size_t w = 0; w < n_ways; w++) printf("%.3e %d %s\n", run(&b, lists[i].tokens, lists[i].count, &ways[w], lists[i].reference), lists[i].count, ways[w].name);
        mem_free(lists[i].reference);
    }
    model_free(b.m);
    gguf_close(b.g);
    dev_destroy(b.dev);
    return 0;
}
