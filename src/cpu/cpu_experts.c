// cpu/experts: a mixture of experts. Tokens are routed row by row, then the (row, slot) pairs are grouped by expert so that an expert's weights
// are read once, and the weighted outputs are added per row in the order of its slots: a row's result does not depend on its company.
#include <math.h>

#include "cpu/cpu_internal.h"

typedef struct layout {
    size_t logits, ids, weights, start, pair_row, pair_at, pair_slot, gate, up, down, q, few, aux, bytes;
    size_t ff_ld, width_ld;
} layout;

static size_t take(layout *l, size_t bytes) {
    size_t at = l->bytes;
    l->bytes += (bytes + 63) & ~(size_t)63;
    return at;
}

static layout lay_out(const cpu_kernels *kern, const dev_experts *o, int32_t rows) {
    layout l = {0};
    size_t n = (size_t)rows, pairs = n * (size_t)o->top_k, ff = (size_t)o->up->n, width = (size_t)o->down->n;
    l.ff_ld = (ff + 15) & ~(size_t)15;
    l.width_ld = (width + 15) & ~(size_t)15;
    l.logits = take(&l, n * (size_t)o->n_expert * sizeof(float));
    l.ids = take(&l, pairs * sizeof(int32_t));
    l.weights = take(&l, pairs * sizeof(float));
    l.start = take(&l, ((size_t)o->n_expert + 1) * sizeof(int32_t));
    l.pair_row = take(&l, pairs * sizeof(int32_t));  // by expert: the input row
    l.pair_slot = take(&l, pairs * sizeof(int32_t)); // by expert: row * top_k + slot
    l.pair_at = take(&l, pairs * sizeof(int32_t));   // by row * top_k + slot: its place by expert
    l.gate = take(&l, pairs * l.ff_ld * sizeof(float));
    l.up = take(&l, pairs * l.ff_ld * sizeof(float));
    l.down = take(&l, pairs * l.width_ld * sizeof(float));
    l.q = take(&l, cpu_packed_bytes(kern, o->up->n, pairs));
    size_t few = cpu_few_rows(kern, n) * (size_t)o->top_k;
    l.few = take(&l, few * ff);
    l.aux = take(&l, (kern->tiles ? few : pairs) * (ff / BLOCK) * sizeof(cpu_aux));
    return l;
}

size_t cpu_experts_scratch(const cpu_kernels *kern, const dev_experts *o, int32_t max_rows) { return lay_out(kern, o, max_rows).bytes; }

// Marks the experts that may be chosen from: those of the best groups by the sum of their best two; the first of equals.
static void open_groups(const dev_experts *o, const float *score, bool *open) {
    const int32_t groups = o->n_group > 1 ? o->n_group : 1, size = o->n_expert / groups;
    float sum[DEV_MAX_EXPERTS];
    for (int32_t g = 0; g < groups; g++) {
        float a = -INFINITY, b = -INFINITY;
        for (int32_t i = g * size; i < (g + 1) * size; i++) {
            if (score[i] > a) {
                b = a;
                a = score[i];
            } else if (score[i] > b) b = score[i];
        }
        sum[g] = size > 1 ? a + b : a;
    }
    for (int32_t g = 0; g < groups; g++) {
        int32_t better = 0;
        for (int32_t i = 0; i < groups; i++) better += sum[i] > sum[g] || (sum[i] == sum[g] && i < g);
        for (int32_t i = g * size; i < (g + 1) * size; i++) open[i] = groups == 1 || better < o->top_groups;
    }
}

static void route(const dev_experts *o, float *logits, int32_t *ids, float *weights) {
    int32_t n = o->n_expert;
    const float *choose = logits;
    float biased[DEV_MAX_EXPERTS];
    if (o->gating == DEV_GATE_SOFTMAX) {
        float top = -INFINITY, sum = 0;
        for (int32_t i = 0; i < n; i++) top = logits[i] > top ? logits[i] : top;
        for (int32_t i = 0; i < n; i++) sum += logits[i] = expf(logits[i] - top);
        for (int32_t i = 0; i < n; i++) logits[i] /= sum;
    } else if (o->gating == DEV_GATE_SIGMOID) {
        for (int32_t i = 0; i < n; i++) logits[i] = 1.0f / (1.0f + expf(-logits[i]));
    }
    if (o->select_bias) {
        for (int32_t i = 0; i < n; i++) biased[i] = logits[i] + cpu_t(o->select_bias)->vector[i];
        choose = biased;
    }
    bool open[DEV_MAX_EXPERTS] = {false}, taken[DEV_MAX_EXPERTS] = {false};
    open_groups(o, choose, open);
    for (int32_t s = 0; s < o->top_k; s++) {
        int32_t best = -1;
        for (int32_t i = 0; i < n; i++)
            if (!taken[i] && open[i] && (best < 0 || choose[i] > choose[best])) best = i;
        if (best < 0) best = s; // not reached: the plan's check leaves enough experts open
        taken[best] = true;
        if (o->share > 1) best /= o->share;
        ids[s] = best;
        weights[s] = logits[best];
    }
    if (o->gating == DEV_GATE_SOFTMAX_TOPK) {
        float top = weights[0], sum = 0;
        for (int32_t s = 1; s < o->top_k; s++) top = weights[s] > top ? weights[s] : top;
        for (int32_t s = 0; s < o->top_k; s++) sum += weights[s] = expf(weights[s] - top);
        for (int32_t s = 0; s < o->top_k; s++) weights[s] /= sum;
    }
    if (o->normalise) {
        float sum = 0;
        for (int32_t s = 0; s < o->top_k; s++) sum += weights[s];
        if (!(sum > 6.103515625e-5f)) sum = 6.103515625e-5f;
        for (int32_t s = 0; s < o->top_k; s++) weights[s] /= sum;
    }
    for (int32_t s = 0; s < o->top_k; s++) weights[s] *= o->scale;
}

// Counting sort of the pairs by expert.
static void group_pairs(const dev_experts *o, int32_t rows, const int32_t *ids, int32_t *start, int32_t *pair_row, int32_t *pair_slot, int32_t *pair_at) {
    int32_t pairs = rows * o->top_k;
    memset(start, 0, ((size_t)o->n_expert + 1) * sizeof *start);
    for (int32_t i = 0; i < pairs; i++) start[ids[i] + 1]++;
    for (int32_t e = 0; e < o->n_expert; e++) start[e + 1] += start[e];
    for (int32_t i = 0; i < pairs; i++) {
        int32_t at = start[ids[i]]++;
        pair_row[at] = i / o->top_k;
        pair_slot[at] = i;
        pair_at[i] = at;
    }
    for (int32_t e = o->n_expert; e > 0; e--) start[e] = start[e - 1];
    start[0] = 0;
}

// Products of n weights (up to two) for all experts: items are (node, expert, weight, chunk of panels).
typedef struct expert_items {
    const pool *pool;
    const dev_tensor *const *w;
    int n;
    const int32_t *start;
    int64_t chunk;
    size_t ends[NODES_MOST]; // of each node's items
    // The item looked at last: what it is of, and items before those of that node, expert and weight.
    int node, which;
    int32_t expert;
    size_t seen;
    cpu_chunks of;
} expert_items;

static cpu_chunks expert_chunks(const expert_items *x, int node, int32_t expert, int which) {
    return x->start[expert + 1] > x->start[expert] ? cpu_node_chunks(x->pool, cpu_t(x->w[which]), expert, node, x->chunk) : (cpu_chunks){0};
}

static expert_items count_items(const dev_experts *o, const dev_tensor *const *w, int n, const int32_t *start, const pool *p) {
    expert_items x = {.pool = p, .w = w, .n = n, .start = start, .seen = SIZE_MAX};
    int64_t panels = cpu_t(w[0])->n_panels, used = 0;
    for (int32_t e = 0; e < o->n_expert; e++) used += start[e + 1] > start[e];
    x.chunk = panels * used * n / ((int64_t)pool_threads(p) * 8);
    x.chunk = x.chunk < 1 ? 1 : x.chunk > CPU_PANEL_CHUNK ? CPU_PANEL_CHUNK : x.chunk;
    if (x.chunk > panels) x.chunk = panels;
    size_t all = 0;
    for (int i = 0; i < pool_nodes(p); i++) {
        for (int32_t e = 0; e < o->n_expert; e++)
            for (int j = 0; j < n; j++) all += (size_t)expert_chunks(&x, i, e, j).count;
        x.ends[i] = all;
    }
    return x;
}

typedef struct expert_chunk { const cpu_tensor *t; int which; int32_t expert; int64_t first, count; } expert_chunk; // t NULL: nothing

static expert_chunk next_chunk(expert_items *x, pool_member *team) {
    size_t item = pool_pick(team, x->ends);
    if (item >= x->ends[pool_nodes(x->pool) - 1]) return (expert_chunk){0};
    if (item < x->seen || item >= x->ends[x->node]) { // a node's items only grow
        for (x->node = 0; item >= x->ends[x->node];) x->node++;
        x->seen = x->node ? x->ends[x->node - 1] : 0;
        x->expert = x->which = 0;
        x->of = expert_chunks(x, x->node, 0, 0);
    }
    while (item - x->seen >= (size_t)x->of.count) {
        x->seen += (size_t)x->of.count;
        if (++x->which == x->n) x->which = 0, x->expert++;
        x->of = expert_chunks(x, x->node, x->expert, x->which);
    }
    const cpu_tensor *t = cpu_t(x->w[x->which]);
    int64_t first = (x->of.first + (int64_t)(item - x->seen)) * x->chunk;
    return (expert_chunk){t, x->which, x->expert, first, t->n_panels - first < x->chunk ? t->n_panels - first : x->chunk};
}

static void expert_products(const dev_plan *p, const dev_experts *o, const dev_tensor *const *w, const dev_tensor *const *bias, const dev_tensor *const *each,
    float *const *y, size_t ldy, int n, const float *x, size_t ldx, const cpu_packed *packed, const int32_t *start, const int32_t *rows, int32_t n_rows,
    int worker, pool_member *team) {
    const cpu_plan *c = p->backend;
    const cpu_kernels *kern = &cpu_dev_const(p->dev)->kernels;
    if (pool_next(team, 0) == POOL_NONE) { // before `start` is read, which those who are ahead may be writing for the next layer
        pool_barrier(team);
        return;
    }
    expert_items items = count_items(o, w, n, start, team->pool);
    const bool looks_ahead = cpu_looks_ahead(kern->tiles, n_rows);
    expert_chunk then = {0};
    for (expert_chunk now = next_chunk(&items, team); now.t; now = looks_ahead ? then : next_chunk(&items, team)) {
        if (looks_ahead) then = next_chunk(&items, team);
        const cpu_tensor *t = now.t;
        const int which = now.which;
        const int32_t e = now.expert;
        const int64_t first = now.first;
        gemm_args g = {.w = t, .data = cpu_panel_at(t, e, 0), .first = first, .count = now.count,
            .then = then.t ? cpu_panel_at(then.t, then.expert, then.first) : NULL, .k = t->base.k, .x = x, .ldx = ldx, .q = (const int8_t *)packed->q,
            .aux = packed->aux, .rows = rows + start[e], .n_rows = start[e + 1] - start[e], .y = y[which] + (size_t)start[e] * ldy + first * PANEL, .ldy = ldy,
            .scale = 1, .scratch = cpu_worker_scratch(c, worker)};
        float factor = each[which] ? cpu_t(each[which])->vector[e] : 1;
        bool tile = cpu_format_tile(t->format); // tiles end with scale and bias themselves
        if (tile) g.scale = factor;
        if (bias[which] && tile) g.bias = cpu_t(bias[which])->vector + (size_t)e * (size_t)t->base.n + first * PANEL;
        bool few = cpu_takes_few(cpu_dev_const(p->dev), t->format, n_rows);
        if (few) g.q = (const int8_t *)packed->few;
        (few ? kern->gemm_few : kern->gemm)[t->format](&g);
        if (!tile && (bias[which] || each[which])) {
            int64_t cols = g.count * PANEL < t->base.n - first * PANEL ? g.count * PANEL : t->base.n - first * PANEL;
            const float *add = bias[which] ? cpu_t(bias[which])->vector + (size_t)e * (size_t)t->base.n + first * PANEL : NULL;
            for (int32_t i = 0; i < g.n_rows; i++)
                kern->finish(g.y + (size_t)i * ldy, g.y + (size_t)i * ldy, add, NULL, factor, (int32_t)cols);
        }
    }
    pool_barrier(team);
}

static void limit(float *up, float *gate, float most, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        up[i] = up[i] > most ? most : up[i] < -most ? -most : up[i];
        if (gate && gate[i] > most) gate[i] = most;
    }
}

bool cpu_experts_apart(const cpu_kernels *kern, const dev_experts *o) {
    return o->router_src != o->src && cpu_format_packs(cpu_format_of(kern, o->router->type, o->router->k, o->router->use));
}

static void pack_rows(const cpu_device *d, const dev_tensor *const *w, int n, cpu_reg_view x, int64_t k, int32_t rows, const cpu_packed *to, pool_member *team) {
    for (size_t r; (r = pool_next(team, 1)) < (size_t)rows;) cpu_pack_for(d, w, n, x.at + r * x.ld, k, (int64_t)r, rows, to);
    pool_barrier(team);
}

void cpu_run_experts(const dev_plan *p, const dev_experts *o, int worker, pool_member *team) {
    const cpu_plan *c = p->backend;
    const cpu_device *d = cpu_dev_const(p->dev);
    const cpu_kernels *kern = &d->kernels;
    int32_t rows = p->regs[o->src].wanted ? c->step->n_wanted : c->step->n_rows, top_k = o->top_k;
    int64_t width = o->down->n, ff = o->up->n;
    layout l = lay_out(kern, o, rows);
    uint8_t *at = c->scratch + c->expert_at;
    float *logits = (float *)(at + l.logits), *weights = (float *)(at + l.weights), *gate = (float *)(at + l.gate), *up = (float *)(at + l.up), *down = (float *)(at + l.down);
    int32_t *ids = (int32_t *)(at + l.ids), *start = (int32_t *)(at + l.start);
    int32_t *pair_row = (int32_t *)(at + l.pair_row), *pair_slot = (int32_t *)(at + l.pair_slot), *pair_at = (int32_t *)(at + l.pair_at);
    const cpu_packed pairs = {at + l.q, at + l.few, (cpu_aux *)(at + l.aux), 0};
    const int32_t *identity = (const int32_t *)(c->scratch + c->identity_at);
    cpu_reg_view src = cpu_reg(p, o->src), router = cpu_reg(p, o->router_src), dst = cpu_reg(p, o->dst);

    const dev_tensor *w[2] = {o->up, o->gate}, *b[2] = {o->up_bias, o->gate_bias}, *each[2] = {o->up_each, o->gate_each};
    // A router that reads packed rows of its own has them where the experts' will be after it.
    const cpu_packed packed = cpu_plan_packed(c, 0);
    bool apart = cpu_experts_apart(kern, o);
    if (apart) pack_rows(d, &o->router, 1, router, o->router->k, rows, &packed, team);
    cpu_matmul m = {.w = cpu_t(o->router), .y = logits, .ldy = (size_t)o->n_expert, .bias = o->router_bias ? cpu_t(o->router_bias)->vector : NULL, .scale = 1};
    cpu_run_matmuls(p, &m, 1, router.at, router.ld, NULL, rows, worker, team);
    if (apart && (cpu_format_packs(cpu_t(o->up)->format) || (o->gate && cpu_format_packs(cpu_t(o->gate)->format)))) pack_rows(d, w, 2, src, o->up->k, rows, &packed, team);
    for (size_t r; (r = pool_next(team, 1)) < (size_t)rows;) route(o, logits + r * (size_t)o->n_expert, ids + r * (size_t)top_k, weights + r * (size_t)top_k);
    pool_barrier(team);
    if (pool_next(team, 1) == 0) group_pairs(o, rows, ids, start, pair_row, pair_slot, pair_at);
    pool_barrier(team);

    float *y[2] = {up, gate};
    expert_products(p, o, w, b, each, y, l.ff_ld, o->gate ? 2 : 1, src.at, src.ld, &packed, start, pair_row, rows, worker, team);
    for (size_t i; (i = pool_next(team, 1)) < (size_t)rows * (size_t)top_k;) {
        float *u = up + i * l.ff_ld, *g = gate + i * l.ff_ld;
        if (o->weight_first) { // the weight of the input goes through the linear part
            kern->combine(u, u, NULL, weights[pair_slot[i]], 0, false, (int32_t)ff);
            if (o->gate) kern->combine(g, g, NULL, weights[pair_slot[i]], 0, false, (int32_t)ff);
        }
        if (o->limit > 0) limit(u, o->gate ? g : NULL, o->limit, ff);
        if (o->gate) kern->act(o->act, o->p, u, g, u, (int32_t)ff);
        else kern->act(o->act, o->p, u, u, NULL, (int32_t)ff);
        cpu_pack_for(d, &o->down, 1, u, ff, (int64_t)i, rows, &pairs);
    }
    pool_barrier(team);
    const dev_tensor *wd[1] = {o->down}, *bd[1] = {o->down_bias}, *fd[1] = {o->down_each};
    expert_products(p, o, wd, bd, fd, &down, l.width_ld, 1, up, l.ff_ld, &pairs, start, identity, rows, worker, team);
    for (size_t r; (r = pool_next(team, 1)) < (size_t)rows;) {
        float *to = dst.at + r * dst.ld;
        const float *base = NULL;
        if (o->residual != DEV_NONE) {
            cpu_reg_view res = cpu_reg(p, o->residual);
            base = res.at + r * res.ld;
        }
        for (int32_t s = 0; s < top_k; s++) {
            const float *part = down + (size_t)pair_at[r * (size_t)top_k + (size_t)s] * l.width_ld;
            float f = o->weight_first ? 1 : weights[r * (size_t)top_k + (size_t)s];
            if (base) kern->combine(to, base, part, 1, f, false, (int32_t)width);
            else kern->combine(to, part, NULL, f, 0, false, (int32_t)width);
            base = to;
        }
    }
    pool_barrier(team);
}
