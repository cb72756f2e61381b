// cpu/attend: how attention is shared out: by sequence, key head and block of rows. The heads that share a key head read its pages together.
#include <math.h>

#include "cpu/cpu_tile.h"

enum { FEWEST_QUERIES = 32, MOST_QUERIES = TILE_QUERIES }; // of a block, unless a key head has more heads

static int32_t rows_at_once(const dev_attend *o, int32_t queries) {
    int32_t share = o->n_head / o->n_kv;
    return share >= queries ? 1 : queries / share;
}

static bool by_tiles(const cpu_plan *c, const cpu_kernels *kern) { return kern->attend_tiles && c->kv->type == DEV_KV_BF16; }

// Per query: pointers q and out, low, high, own, slope, sink.
size_t cpu_attend_scratch(const cpu_kernels *kern, const dev_attend *o) {
    size_t n = (size_t)rows_at_once(o, MOST_QUERIES) * (size_t)(o->n_head / o->n_kv);
    size_t of_kernel = cpu_attend_floats((int32_t)n, o->head_k, o->head_v), of_tiles = kern->attend_tiles ? cpu_tile_attend_scratch(o->head_k, o->head_v) : 0;
    return n * (2 * sizeof(void *) / sizeof(float) + 5) + 16 + (of_tiles > of_kernel ? of_tiles : of_kernel);
}

// As ggml: heads up to the greatest power of two take powers of one base, the rest odd powers of another.
static float alibi_slope(const dev_attend *o, int32_t head) {
    if (o->alibi_bias <= 0) return 0;
    int32_t n = 1;
    while (n * 2 <= o->n_head) n *= 2;
    double m0 = pow(2, -(double)o->alibi_bias / n), m1 = pow(2, -(double)o->alibi_bias / 2 / n);
    return (float)(head < n ? pow(m0, head + 1) : pow(m1, 2 * (head - n) + 1));
}

static void attend_block(const dev_plan *p, const dev_attend *o, const dev_seq *s, int32_t first, int32_t rows, int32_t kv_head, float *scratch) {
    const cpu_plan *c = p->backend;
    int32_t share = o->n_head / o->n_kv, n = rows * share;
    cpu_reg_view q = cpu_reg(p, o->q), dst = cpu_reg(p, o->dst);
    const float **qp = (const float **)scratch;
    float **op = (float **)(qp + n);
    int32_t *low = (int32_t *)(op + n), *high = low + n, *own = high + n;
    float *slope = (float *)(own + n), *sink = slope + n;
    for (int32_t r = 0; r < rows; r++)
        for (int32_t h = 0; h < share; h++) {
            int32_t i = r * share + h, head = kv_head * share + h, at = s->start + first + r;
            size_t row = (size_t)(s->first_row + first + r);
            qp[i] = q.at + row * q.ld + (size_t)head * (size_t)o->head_k;
            op[i] = dst.at + row * dst.ld + (size_t)head * (size_t)o->head_v;
            own[i] = at;
            high[i] = o->bidirectional ? s->start + s->n_rows : at + 1;
            low[i] = o->window > 0 && at - o->window + 1 > 0 ? at - o->window + 1 : 0;
            if (o->bidirectional && o->window > 0) { // half of the window on either side
                low[i] = at - o->window / 2 > 0 ? at - o->window / 2 : 0;
                if (at + o->window / 2 + 1 < high[i]) high[i] = at + o->window / 2 + 1;
            }
            if (o->chunk > 0 && at / o->chunk * o->chunk > low[i]) low[i] = at / o->chunk * o->chunk;
            slope[i] = alibi_slope(o, head);
            if (o->sinks) sink[i] = cpu_t(o->sinks)->vector[head];
        }
    attend_args a = {.kv = &c->kv->groups[o->group], .part = o->layer * o->n_kv + kv_head, .pages = s->pages[o->group], .kv_type = (int32_t)c->kv->type,
        .head_k = o->head_k, .head_v = o->head_v, .n = n, .q = qp, .out = op, .low = low, .high = high, .own = own, .slope = slope,
        .sink = o->sinks ? sink : NULL, .scale = o->scale, .softcap = o->softcap, .scratch = sink + n};
    const cpu_kernels *kern = &cpu_dev_const(p->dev)->kernels;
    if (by_tiles(c, kern)) kern->attend_tiles(&a);
    else kern->attend(&a);
}

// Of a block: more where pages are then read less often, unless that leaves too few blocks to share out.
static int32_t shared_queries(const dev_plan *p, const dev_attend *o, int threads) {
    const cpu_plan *c = p->backend;
    int32_t n = MOST_QUERIES;
    while (n > FEWEST_QUERIES && (int64_t)c->step->n_rows * o->n_head / n < 8 * threads) n /= 2;
    return n;
}

void cpu_run_attend(const dev_plan *p, const dev_attend *o, int worker, pool_member *team) {
    const cpu_plan *c = p->backend;
    const int32_t block = rows_at_once(o, shared_queries(p, o, pool_threads(team->pool)));
    for (;;) {
        int64_t item = (int64_t)pool_next(team, 1);
        int32_t i = 0;
        for (; i < c->step->n_seqs; i++) {
            int64_t of = (int64_t)((c->step->seqs[i].n_rows + block - 1) / block) * o->n_kv;
            if (item < of) break;
            item -= of;
        }
        if (i == c->step->n_seqs) break;
        const dev_seq *s = &c->step->seqs[i];
        int32_t blocks = (s->n_rows + block - 1) / block, b = blocks - 1 - (int32_t)(item % blocks); // a head's pages, once read, serve all its blocks; the longest first
        int32_t rows = s->n_rows - b * block < block ? s->n_rows - b * block : block;
        attend_block(p, o, s, b * block, rows, (int32_t)(item / blocks), cpu_worker_scratch(c, worker));
    }
    pool_barrier(team);
}
