// tools/toy/toy_main: the commands.
//   toy corpus FACTS N [HELDOUT...]                       N conversations, to read
//   toy train  FACTS OUT --steps N --seed N [--minutes M] [--vocab V] [--held FILE]... [--dev FILE]   OUT.bpe, OUT.net
//   toy score  OUT FILE                                   greedy answers to FILE, those that miss printed
//   toy ask    OUT QUESTION
//   toy export OUT FILE.gguf
//   toy check                                             the gradients against finite differences
// Training draws new samples for ever; a batch is SHARDS shards of up to ROWS rows, whatever the number of threads.
#include <ctype.h>
#include <math.h>
#include <omp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "toy.h"

enum { SHARDS = 16, ROWS = 256, WARM = 150 };

void toy_die(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("toy: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

void *toy_alloc(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p)
        toy_die("out of memory (%zu bytes)", bytes);
    return p;
}

char *toy_read(const char *path, size_t *len) {
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END))
        toy_die("%s: cannot be read", path);
    long n = ftell(f);
    rewind(f);
    char *s = toy_alloc((size_t)n + 1);
    if (n && fread(s, (size_t)n, 1, f) != 1)
        toy_die("%s: cannot be read", path);
    fclose(f);
    *len = (size_t)n;
    return s;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Samples one after the other until three in a row no longer fit.
static void fill(shard *b, corpus *c, const bpe *v, uint64_t seed, uint64_t step, int number) {
    talk *t = toy_alloc(sizeof *t);
    int ids[ROWS + 8], misses = 0;
    float weight[ROWS + 8];
    b->rows = 0;
    for (uint64_t k = 0; misses < 3; k++) {
        corpus_draw(c, seed, ((step * SHARDS + (uint64_t)number) << 8) + k, t);
        int n = bpe_talk(v, t, ids, weight, ROWS + 1);
        if (n < 2 || b->rows + n - 1 > ROWS) {
            misses++;
            continue;
        }
        int first = b->rows;
        for (int i = 0; i + 1 < n; i++, b->rows++) {
            b->token[b->rows] = ids[i];
            b->target[b->rows] = ids[i + 1];
            b->weight[b->rows] = weight[i + 1];
            b->start[b->rows] = first;
        }
    }
    free(t);
}

// Every required part (between bars) in the answer, case aside.
static bool answers(const char *answer, const char *required) {
    char low[4096], part[512];
    size_t n = 0;
    for (; answer[n] && n + 1 < sizeof low; n++)
        low[n] = (char)tolower((unsigned char)answer[n]);
    low[n] = 0;
    for (const char *s = required; *s;) {
        size_t k = strcspn(s, "|");
        snprintf(part, sizeof part, "%.*s", (int)k, s);
        if (!strstr(low, part))
            return false;
        s += k + (s[k] ? 1 : 0);
    }
    return true;
}

static void ask(const net *m, const bpe *b, const char *question, char *answer, size_t max) {
    int prompt[512], out[160];
    int n = bpe_prompt(b, question, prompt, 300);
    answer[0] = 0;
    if (n < 0)
        return;
    int k = net_generate(m, prompt, n, out, 160, b->im_end);
    size_t at = 0;
    for (int i = 0; i < k; i++) {
        if (at + (size_t)b->len[out[i]] + 1 > max)
            break;
        memcpy(answer + at, b->text[out[i]], (size_t)b->len[out[i]]);
        at += (size_t)b->len[out[i]];
    }
    answer[at] = 0;
}

static double score(const net *m, const bpe *b, const char *path, bool show) {
    size_t len;
    char *line[2000], *s = toy_read(path, &len), *x;
    int n = 0, right = 0;
    while ((x = strsep(&s, "\n")) && n < 2000)
        if (*x && *x != '#' && strchr(x, '\t'))
            line[n++] = x;
    char (*got)[2048] = toy_alloc((size_t)n * sizeof *got);
    bool *ok = toy_alloc((size_t)n * sizeof *ok);
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n; i++) {
        char *tab = strchr(line[i], '\t');
        *tab = 0;
        ask(m, b, line[i], got[i], sizeof *got);
        ok[i] = answers(got[i], tab + 1);
    }
    for (int i = 0; i < n; i++) {
        right += ok[i];
        if (show && !ok[i])
            printf("  %s [%s] -> %s\n", line[i], line[i] + strlen(line[i]) + 1, got[i]);
    }
    free(got);
    free(ok);
    return n ? (double)right / n : 0;
}

static void named(char *to, size_t max, const char *out, const char *suffix) { snprintf(to, max, "%s.%s", out, suffix); }

typedef struct options { int steps, vocab; uint64_t seed; double minutes, rate; const char *held[8]; int n_held; const char *dev; } options;

static options parse(int argc, char **argv) {
    options o = {.steps = 6000, .vocab = 1024, .seed = 1, .minutes = 1e9, .rate = 2.5e-3};
    for (int i = 0; i + 1 < argc; i += 2) {
        const char *k = argv[i], *v = argv[i + 1];
        if (!strcmp(k, "--steps")) o.steps = atoi(v);
        else if (!strcmp(k, "--vocab")) o.vocab = atoi(v);
        else if (!strcmp(k, "--seed")) o.seed = strtoull(v, NULL, 10);
        else if (!strcmp(k, "--minutes")) o.minutes = atof(v);
        else if (!strcmp(k, "--rate")) o.rate = atof(v);
        else if (!strcmp(k, "--held") && o.n_held < 7) o.held[o.n_held++] = v;
        else if (!strcmp(k, "--dev")) o.dev = v;
        else toy_die("unknown option %s", k);
    }
    return o;
}

// AdamW over the sum of the shards' gradients, whose length is held to 1.
static double update(net *m, shard *b, float *am, float *av, int step, double rate) {
    size_t n = m->n;
    double square = 0, part[64] = {0};
#pragma omp parallel for schedule(static)
    for (int k = 0; k < 64; k++)
        for (size_t i = n * (size_t)k / 64; i < n * (size_t)(k + 1) / 64; i++) {
            float sum = 0;
            for (int s = 0; s < SHARDS; s++)
                sum += b[s].grad[i];
            b[0].grad[i] = sum;
            part[k] += (double)sum * sum;
        }
    for (int k = 0; k < 64; k++)
        square += part[k];
    double length = sqrt(square), clip = length > 1 ? 1 / length : 1;
    float b1 = 0.9f, b2 = 0.98f, c1 = 1 - powf(b1, (float)(step + 1)), c2 = 1 - powf(b2, (float)(step + 1));
#pragma omp parallel for schedule(static)
    for (int k = 0; k < 64; k++)
        for (size_t i = n * (size_t)k / 64; i < n * (size_t)(k + 1) / 64; i++) {
            float g = b[0].grad[i] * (float)clip;
            am[i] = b1 * am[i] + (1 - b1) * g;
            av[i] = b2 * av[i] + (1 - b2) * g * g;
            m->w[i] -= (float)rate * (am[i] / c1 / (sqrtf(av[i] / c2) + 1e-8f) + 0.08f * m->w[i]);
        }
    return length;
}

static void train(const char *facts, const char *out, options o) {
    char path[512];
    corpus *c = corpus_open(facts, o.held);
    bpe *v = bpe_train(c, o.seed + 1000, 40000, o.vocab);
    named(path, sizeof path, out, "bpe");
    bpe_save(v, path);
    net m;
    net_init(&m, (shape){.vocab = o.vocab, .dim = 192, .layers = 4, .heads = 6, .ffn = 448, .context = 512, .eps = 1e-5f, .rope_base = 10000}, o.seed);
    shard b[SHARDS];
    for (int i = 0; i < SHARDS; i++)
        shard_init(&b[i], &m, ROWS);
    float *am = toy_alloc(m.n * sizeof *am), *av = toy_alloc(m.n * sizeof *av);
    printf("%d facts, %zu parameters, %d threads\n", corpus_facts(c), m.n, omp_get_max_threads());
    double begin = seconds(), mark, spent[3] = {0}, loss = 0, weight = 0, right = 0, counted = 0;
    named(path, sizeof path, out, "net");
    for (int step = 0; step < o.steps; step++) {
        // The schedule follows steps; with --minutes it follows whichever is further along.
        double gone = (double)step / o.steps, timed = (seconds() - begin) / (60 * o.minutes);
        double at = gone > timed ? gone : timed;
        if (at >= 1)
            break;
        double rate = o.rate * (step < WARM ? (step + 1.0) / WARM : 0.01 + 0.99 * 0.5 * (1 + cos(3.14159265 * at)));
        double total = 0;
        mark = seconds();
#pragma omp parallel for schedule(dynamic)
        for (int i = 0; i < SHARDS; i++)
            fill(&b[i], c, v, o.seed, (uint64_t)step, i);
        for (int i = 0; i < SHARDS; i++)
            for (int t = 0; t < b[i].rows; t++)
                total += b[i].weight[t];
        spent[0] += seconds() - mark, mark = seconds();
#pragma omp parallel for schedule(dynamic)
        for (int i = 0; i < SHARDS; i++)
            shard_run(&b[i], &m, (float)(1 / total));
        for (int i = 0; i < SHARDS; i++)
            loss += b[i].loss, right += b[i].right, counted += b[i].counted;
        weight += total;
        spent[1] += seconds() - mark, mark = seconds();
        double length = update(&m, b, am, av, step, rate);
        spent[2] += seconds() - mark;
        if (step % 100 == 99 || step + 1 == o.steps) {
            printf("step %d  loss %.4f  right %.4f  gradient %.2f  rate %.5f  %.0f s (drawing %.0f, passes %.0f, update %.0f)\n", step + 1, loss / weight, right / counted,
                   length, rate, seconds() - begin, spent[0], spent[1], spent[2]);
            loss = weight = right = counted = 0;
        }
        if (step % 1000 == 999) {
            net_save(&m, path);
            if (o.dev)
                printf("  dev %.3f\n", score(&m, v, o.dev, false));
        }
        fflush(stdout);
    }
    net_save(&m, path);
    printf("%ld samples refused for the held-out questions\n", corpus_refused(c));
}

// The way back against (loss(w + e) - loss(w - e)) / 2e, at a few weights of every part of a small network.
static void check(void) {
    net m;
    shard b;
    rng r = {7};
    int wrong = 0, tried = 0;
    net_init(&m, (shape){.vocab = 64, .dim = 64, .layers = 2, .heads = 2, .ffn = 96, .context = 64, .eps = 1e-5f, .rope_base = 10000}, 3);
    for (size_t i = 0; i < m.n; i++)
        m.w[i] *= 3; // far from the start, where gradients are small
    shard_init(&b, &m, 40);
    for (b.rows = 0; b.rows < 40; b.rows++) {
        b.token[b.rows] = rng_below(&r, 64), b.target[b.rows] = rng_below(&r, 64);
        b.start[b.rows] = b.rows < 15 ? 0 : 15; // two samples
        b.weight[b.rows] = b.rows % 3 ? 1 : 0;
    }
    shard_run(&b, &m, 1);
    float *grad = toy_alloc(m.n * sizeof *grad);
    memcpy(grad, b.grad, m.n * sizeof *grad);
    for (int k = 0; k < 400; k++) {
        size_t at = rng_next(&r) % m.n;
        float kept = m.w[at], e = 2e-3f;
        m.w[at] = kept + e, shard_run(&b, &m, 1);
        double up = b.loss;
        m.w[at] = kept - e, shard_run(&b, &m, 1);
        double slope = (up - b.loss) / (2 * (double)e);
        m.w[at] = kept;
        if (fabs(slope) < 0.05)
            continue; // drowned by rounding
        tried++;
        if (fabs(slope - grad[at]) > 0.02 * fabs(slope) + 0.02) {
            wrong++;
            printf("weight %zu: %.4f by the way back, %.4f by difference\n", at, grad[at], slope);
        }
    }
    printf("gradients: %d of %d weights differ\n", wrong, tried);
    if (wrong || tried < 50)
        exit(1);
}

int main(int argc, char **argv) {
    char path[512], answer[2048];
    if (argc >= 4 && !strcmp(argv[1], "corpus")) {
        corpus *c = corpus_open(argv[2], (const char *const *)argv + 4);
        talk *t = toy_alloc(sizeof *t);
        for (int i = 0; i < atoi(argv[3]); i++) {
            corpus_draw(c, 1, (uint64_t)i, t);
            for (int k = 0; k < t->n; k++)
                printf("%s: %s\n", role_name[t->turns[k].who], t->turns[k].text);
        }
        return 0;
    }
    if (argc >= 4 && !strcmp(argv[1], "train")) {
        train(argv[2], argv[3], parse(argc - 4, argv + 4));
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "check")) {
        check();
        return 0;
    }
    if (argc == 4) {
        net m;
        named(path, sizeof path, argv[2], "net");
        if (!strcmp(argv[1], "score") || !strcmp(argv[1], "ask") || !strcmp(argv[1], "export"))
            net_load(&m, path);
        else
            toy_die("unknown command %s", argv[1]);
        named(path, sizeof path, argv[2], "bpe");
        bpe *b = bpe_load(path);
        if (!strcmp(argv[1], "export")) {
            gguf_export(&m, b, argv[3]);
        } else {
            net_round_q8(&m);
            if (!strcmp(argv[1], "ask")) {
                ask(&m, b, argv[3], answer, sizeof answer);
                puts(answer);
            } else {
                printf("%s: %.1f %% right\n", argv[3], 100 * score(&m, b, argv[3], true));
            }
        }
        return 0;
    }
    toy_die("usage: toy corpus|train|score|ask|export|check ... (toy_main.c says more)");
}
