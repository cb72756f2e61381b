// cpu/run: one step. All workers walk the same list of phases and meet between them; what a worker computes for a row never depends on
// which worker it is or what else is in the step.
#include <assert.h>
#include <math.h>

#include "cpu/cpu_tile.h"

typedef struct run { cpu_device *d; dev_plan *p; cpu_plan *c; } run;

static const float *vec(const dev_tensor *t) { return t ? cpu_t(t)->vector : NULL; }
static float *row_of(const dev_plan *p, dev_reg r, int32_t row) {
    cpu_reg_view v = cpu_reg(p, r);
    return v.at + (size_t)row * v.ld;
}

// ---- row-local items ------------------------------------------------------------------------------------------------------

static void embed_row(const run *r, const dev_embed *e, int32_t row) {
    const dev_step *s = r->c->step;
    float *dst = row_of(r->p, e->dst, row);
    int32_t n = (int32_t)e->table->k, id = e->by_position ? s->positions[row] : s->tokens ? s->tokens[row] : -1;
    if (id < 0) {
        memcpy(dst, s->embeddings + (size_t)row * (size_t)n, (size_t)n * sizeof(float));
        return;
    }
    cpu_unpack_row(cpu_t(e->table), 0, id, dst);
    if (e->scale != 0 && e->scale != 1) r->d->kernels.combine(dst, dst, NULL, e->scale, 0, false, n);
}

static void norm_row(const run *r, const dev_norm *o, int32_t row) {
    const float *src = row_of(r->p, o->src, row);
    float *dst = row_of(r->p, o->dst, row);
    int32_t width = r->p->regs[o->src].width, group = o->group ? o->group : width;
    if (o->add != DEV_NONE) {
        float *sum = o->sum != DEV_NONE ? row_of(r->p, o->sum, row) : dst;
        r->d->kernels.combine(sum, src, row_of(r->p, o->add, row), 1, 1, false, width);
        src = sum;
    }
    const float *w = vec(o->weight), *b = vec(o->bias);
    int32_t wstep = o->weight && o->weight->k * o->weight->n != group ? group : 0, bstep = o->bias && o->bias->k * o->bias->n != group ? group : 0;
    for (int32_t g = 0; g * group < width; g++) r->d->kernels.norm(o->kind, dst + g * group, src + g * group, group, w ? w + g * wstep : NULL, b ? b + g * bstep : NULL, o->eps);
}

static void rope_tables_row(const run *r, int32_t row) {
    for (size_t t = 0; t < r->c->n_ropes; t++) {
        const cpu_rope_table *x = &r->c->ropes[t];
        float *cs = (float *)(r->c->scratch + x->at) + (size_t)row * (size_t)x->op.dims;
        double pos = r->c->step->positions[row];
        for (int32_t i = 0; i < x->op.dims / 2; i++) {
            double s = sin(pos * x->freq[i]), c = cos(pos * x->freq[i]);
            cs[2 * i] = (float)c * x->scale;
            cs[2 * i + 1] = (float)s * x->scale;
        }
    }
}

static void rope_row(const run *r, int32_t op, int32_t row) {
    const dev_rope *o = &r->p->ops[op].u.rope;
    const cpu_rope_table *t = &r->c->ropes[r->c->op_rope[op]];
    const float *cs = (const float *)(r->c->scratch + t->at) + (size_t)row * (size_t)o->dims;
    float *x = row_of(r->p, o->reg, row) + o->first;
    for (int32_t h = 0; h < o->n_head; h++) r->d->kernels.rope(x + (size_t)h * (size_t)o->head_dim, cs, o->dims, o->kind, o->inverse);
}

// Keys and values of rows first to end - 1, all of one sequence's that lie in one page together.
static void kv_rows(const run *r, const dev_attend *o, int32_t first, int32_t end) {
    const int32_t *row_seq = (const int32_t *)(r->c->scratch + r->c->row_seq_at);
    const cpu_reg_view k = cpu_reg(r->p, o->k), v = cpu_reg(r->p, o->v);
    for (int32_t row = first, n; row < end; row += n) {
        const dev_seq *s = &r->c->step->seqs[row_seq[row]];
        const int32_t at = s->start + row - s->first_row, slot = at % DEV_PAGE_TOKENS, left = s->first_row + s->n_rows - row;
        n = end - row < left ? end - row : left;
        if (n > DEV_PAGE_TOKENS - slot) n = DEV_PAGE_TOKENS - slot;
        cpu_kv_write(&r->d->kernels, r->c->kv, o->group, o->layer, s->pages[o->group][at / DEV_PAGE_TOKENS], slot, n,
                     k.at + (size_t)row * k.ld, k.ld, v.at + (size_t)row * v.ld, v.ld);
    }
}

void cpu_pack_for(const cpu_device *d, const dev_tensor *const *w, int n, const float *x, int64_t k, int64_t row, int64_t rows, const cpu_packed *to) {
    bool few = false, all = false;
    for (int i = 0; i < n; i++) {
        if (!w[i] || !cpu_format_packs(cpu_t(w[i])->format)) continue;
        if (cpu_takes_few(d, cpu_t(w[i])->format, rows)) few = true;
        else all = true;
    }
    if (all && d->kernels.tiles) d->kernels.tile_row(x, k, row, to->q);
    else if (all) d->kernels.quantize(x, k, (row < to->tiled ? cpu_int8_in_tile : cpu_int8_alone)((int8_t *)to->q, to->aux, k, row));
    if (few) {
        cpu_int8_place at = cpu_int8_alone((int8_t *)to->few, to->aux, k, row);
        d->kernels.quantize(x, k, at);
        d->kernels.few_order(at.q, k);
    }
}

static void quantize_row(const run *r, const dev_op *op, int32_t row, int32_t rows) {
    const dev_tensor *w[DEV_MAX_OUTS + 3] = {NULL};
    int n = 0;
    const float *x;
    int64_t k;
    if (op->kind == DEV_OP_OUTPUT) {
        dev_reg src = op->u.output.src;
        w[n++] = op->u.output.weight;
        k = op->u.output.weight->k;
        x = row_of(r->p, src, r->p->regs[src].wanted ? row : r->c->step->wanted[row]);
    } else {
        dev_reg src = op->kind == DEV_OP_LINEAR ? op->u.linear.src : op->u.experts.src;
        k = r->p->regs[src].width;
        x = row_of(r->p, src, row);
        if (op->kind == DEV_OP_LINEAR)
            for (; n < op->u.linear.n; n++) w[n] = op->u.linear.out[n].weight;
        else {
            w[n++] = op->u.experts.router;
            w[n++] = op->u.experts.gate;
            w[n++] = op->u.experts.up;
        }
    }
    // An expert picks its rows.
    cpu_packed to = cpu_plan_packed(r->c, op->kind == DEV_OP_EXPERTS ? 0 : cpu_in_tiles(rows));
    cpu_pack_for(r->d, w, n, x, k, row, rows, &to);
}

// Where output o of a gated linear goes until its halves meet.
static cpu_reg_view gate_part(const dev_plan *p, const dev_linear *l, int o, int32_t rows) {
    const cpu_plan *c = p->backend;
    size_t ld0 = ((size_t)l->out[0].weight->n + 15) & ~(size_t)15;
    float *at = (float *)(c->scratch + c->gate_at);
    return o == 0 ? (cpu_reg_view){at, ld0} : (cpu_reg_view){at + ld0 * (size_t)rows, ((size_t)l->out[1].weight->n + 15) & ~(size_t)15};
}

static void gate_row(const run *r, const dev_linear *l, int32_t row, int32_t rows) {
    if (l->epilogue == DEV_EP_ACT) {
        for (int o = 0; o < l->n; o++) {
            float *x = row_of(r->p, l->out[o].dst, row);
            r->d->kernels.act(l->act, l->p, x, x, NULL, r->p->regs[l->out[o].dst].width);
        }
        return;
    }
    int32_t n = r->p->regs[l->out[0].dst].width;
    cpu_reg_view g = gate_part(r->p, l, 0, rows), u = l->n == 1 ? (cpu_reg_view){g.at + n, g.ld} : gate_part(r->p, l, 1, rows);
    r->d->kernels.act(l->act, l->p, row_of(r->p, l->out[0].dst, row), g.at + (size_t)row * g.ld, u.at + (size_t)row * u.ld, n);
}

static void combine_row(const run *r, const dev_combine *o, int32_t row) {
    int32_t n = r->p->regs[o->dst].width, parts = o->b == DEV_NONE ? n : r->p->regs[o->b].width, each = n / parts;
    float *dst = row_of(r->p, o->dst, row);
    const float *a = row_of(r->p, o->a, row), *b = o->b == DEV_NONE ? NULL : row_of(r->p, o->b, row);
    if (each > 1) { // one factor or term for so many columns
        for (int32_t i = 0; i < parts; i++) {
            if (o->multiply) r->d->kernels.combine(dst + i * each, a + i * each, NULL, b[i] * o->sa, 0, false, each);
            else
                for (int32_t j = i * each; j < (i + 1) * each; j++) dst[j] = a[j] * o->sa + b[i] * o->sb;
        }
    } else {
        r->d->kernels.combine(dst, a, b, o->sa, o->sb, o->multiply, n);
    }
    if (o->softcap > 0)
        for (int32_t i = 0; i < n; i++) dst[i] = o->softcap * tanhf(dst[i] / o->softcap);
}

static void dot_row(const run *r, const dev_dot *o, int32_t row) {
    int32_t n = r->p->regs[o->dst].width, each = r->p->regs[o->a].width / n;
    float *dst = row_of(r->p, o->dst, row);
    const float *a = row_of(r->p, o->a, row), *b = row_of(r->p, o->b, row);
    for (int32_t i = 0; i < n; i++) dst[i] = r->d->kernels.dot(a + i * each, b + i * each, each);
}

static void mix_row(const run *r, const dev_mix *o, int32_t row) {
    int32_t width = r->p->regs[o->dst].width / o->n_dst;
    const float *src = row_of(r->p, o->src, row), *weight = row_of(r->p, o->weight, row);
    for (int32_t i = 0; i < o->n_dst; i++) {
        float *dst = row_of(r->p, o->dst, row) + i * width;
        const float *base = o->add == DEV_NONE ? NULL : row_of(r->p, o->add, row) + i * width;
        for (int32_t j = 0; j < o->n_src; j++, base = dst) {
            if (base) r->d->kernels.combine(dst, base, src + j * width, 1, weight[i * o->n_src + j], false, width);
            else r->d->kernels.combine(dst, src + j * width, NULL, weight[i * o->n_src + j], 0, false, width);
        }
    }
}

// In double, in order of the rows: the sum is the same in every tier.
static void pool_row(const run *r, const dev_pool *o, int32_t row) {
    const int32_t *row_seq = (const int32_t *)(r->c->scratch + r->c->row_seq_at);
    const dev_seq *s = &r->c->step->seqs[row_seq[r->c->step->wanted[row]]];
    float *dst = row_of(r->p, o->dst, row);
    int32_t width = r->p->regs[o->dst].width;
    enum { BLOCK_COLUMNS = 64 };
    for (int32_t at = 0; at < width; at += BLOCK_COLUMNS) {
        int32_t n = width - at < BLOCK_COLUMNS ? width - at : BLOCK_COLUMNS;
        double sum[BLOCK_COLUMNS] = {0};
        for (int32_t i = 0; i < s->n_rows; i++) {
            const float *src = row_of(r->p, o->src, s->first_row + i) + at;
            for (int32_t j = 0; j < n; j++) sum[j] += src[j];
        }
        for (int32_t j = 0; j < n; j++) dst[at + j] = (float)(sum[j] / s->n_rows);
    }
}

static void run_row_op(const run *r, int32_t index, int32_t row) {
    const dev_op *op = &r->p->ops[index];
    switch (op->kind) {
    case DEV_OP_EMBED: embed_row(r, &op->u.embed, row); break;
    case DEV_OP_NORM: norm_row(r, &op->u.norm, row); break;
    case DEV_OP_ROPE: rope_row(r, index, row); break;
    case DEV_OP_ACT: {
        const dev_activate *a = &op->u.activate;
        r->d->kernels.act(a->act, a->p, row_of(r->p, a->dst, row), row_of(r->p, a->gate, row), a->up == DEV_NONE ? NULL : row_of(r->p, a->up, row), r->p->regs[a->dst].width);
        break;
    }
    case DEV_OP_COMBINE: combine_row(r, &op->u.combine, row); break;
    case DEV_OP_VECTOR: {
        const dev_vector *o = &op->u.vector;
        r->d->kernels.vector(row_of(r->p, o->dst, row), row_of(r->p, o->src, row), vec(o->scale), vec(o->bias), r->p->regs[o->dst].width);
        break;
    }
    case DEV_OP_COPY: {
        const dev_copy *o = &op->u.copy;
        float *dst = row_of(r->p, o->dst, row) + o->dst_first;
        const float *src = row_of(r->p, o->src, row) + o->src_first;
        for (int32_t i = 0; i < o->n; i++) memmove(dst + (size_t)i * (size_t)o->dst_stride, src + (size_t)i * (size_t)o->src_stride, (size_t)o->width * sizeof(float));
        break;
    }
    case DEV_OP_SELECT: {
        const dev_select *o = &op->u.select;
        memcpy(row_of(r->p, o->dst, row), row_of(r->p, o->src, r->c->step->wanted[row]), (size_t)r->p->regs[o->dst].width * sizeof(float));
        break;
    }
    case DEV_OP_POOL: pool_row(r, &op->u.pool, row); break;
    case DEV_OP_DOT: dot_row(r, &op->u.dot, row); break;
    case DEV_OP_MIX: mix_row(r, &op->u.mix, row); break;
    default: break;
    }
}

static void run_row_phase(const run *r, const cpu_phase *ph, int32_t rows, pool_member *team) {
    size_t step = (size_t)rows / ((size_t)pool_threads(team->pool) * 4);
    // A page's tokens lie in the same lines, which two workers should not pass to and fro, and so do the rows of a tile; half of a page makes a tile of keys.
    _Static_assert(DEV_PAGE_TOKENS == 2 * ROW_TILE, "one rule serves both");
    step = step < 1 ? 1 : step >= DEV_PAGE_TOKENS ? DEV_PAGE_TOKENS : step >= ROW_TILE / 2 ? ROW_TILE : step;
    for (size_t begin; (begin = pool_next(team, step)) < (size_t)rows;) {
        int32_t end = (int32_t)(begin + step < (size_t)rows ? begin + step : (size_t)rows);
        for (int32_t row = (int32_t)begin; row < end; row++)
            for (int32_t i = 0; i < ph->count; i++) {
                cpu_item it = r->c->items[ph->first + i];
                switch (it.kind) {
                case CPU_ITEM_OP: run_row_op(r, it.op, row); break;
                case CPU_ITEM_ROPE: rope_tables_row(r, row); break;
                case CPU_ITEM_KV: // what it reads of earlier rows is still there
                    assert(i + 1 == ph->count);
                    if (row + 1 == end) kv_rows(r, &r->p->ops[it.op].u.attend, (int32_t)begin, end);
                    break;
                case CPU_ITEM_QUANTIZE: quantize_row(r, &r->p->ops[it.op], row, rows); break;
                case CPU_ITEM_GATE: gate_row(r, &r->p->ops[it.op].u.linear, row, rows); break;
                }
            }
    }
    pool_barrier(team);
}

// ---- matrix products ------------------------------------------------------------------------------------------------------

typedef struct shares { int64_t row_block, row_blocks, chunk; } shares; // rows and panels of what a worker takes at once

static int64_t up(int64_t n, int64_t of) { return (n + of - 1) / of; }
static int64_t between(int64_t n, int64_t least, int64_t most) { return n < least ? least : n > most ? most : n; }

// Many rows of tiles: a panel is decoded once for a block of rows, so a chunk is as many panels as leave every thread three.
static shares share_tiles(int64_t panels, int32_t n_rows, int64_t threads, bool join) {
    shares s = {.row_block = (up(n_rows, up(n_rows, TILE_MOST_ROWS)) + 31) & ~(int64_t)31};
    s.row_blocks = up(n_rows, s.row_block);
    s.chunk = between(up(panels * s.row_blocks, threads * 3), 1, TILE_CHUNK / (join ? 2 : 1));
    if (join) s.chunk = (s.chunk + 1) & ~(int64_t)1; // whole lines leave
    return s;
}

// Else chunks small enough to share out evenly; with many rows also small enough for a chunk's weights to stay in the second level, and else large, since rows that
// are not in tiles are copied into one once for all panels of a chunk.
static shares share_panels(int64_t panels, int32_t n_rows, int64_t threads, bool tiles, int64_t k) {
    shares s = {.row_block = CPU_ROW_BLOCK, .row_blocks = up(n_rows, CPU_ROW_BLOCK)};
    s.chunk = between(panels * s.row_blocks / (threads * 8), 1, n_rows <= CPU_FEW_ROWS ? CPU_PANEL_CHUNK_FEW : k > 4096 ? CPU_PANEL_CHUNK / 2 : CPU_PANEL_CHUNK);
    if (s.chunk > 4) s.chunk &= ~(int64_t)3;
    else if (tiles) s.chunk = (s.chunk + 1) & ~(int64_t)1; // pairs of panels
    return s;
}

// The work of several products over the same rows: chunks of each one's panels, nodes' one after another (to `ends`), for each block of rows.
typedef struct work {
    const cpu_matmul *m;
    shares sh;
    bool by_rows; // through all panels with one block of rows, else through all rows with one chunk
    size_t ends[NODES_MOST];
} work;
typedef struct chunk { const cpu_matmul *m; int64_t first, count, row0; } chunk; // m NULL: nothing is left

static chunk next_chunk(const work *x, pool_member *team) {
    const pool *p = team->pool;
    const shares *sh = &x->sh;
    size_t item = pool_pick(team, x->ends);
    if (item >= x->ends[pool_nodes(p) - 1]) return (chunk){0};
    int node = 0;
    while (item >= x->ends[node]) node++;
    const int64_t before = node ? (int64_t)x->ends[node - 1] : 0, at = (int64_t)item - before, per_rows = ((int64_t)x->ends[node] - before) / sh->row_blocks;
    int64_t left = x->by_rows ? at % per_rows : at / sh->row_blocks;
    const cpu_matmul *m = x->m;
    cpu_chunks of;
    for (; left >= (of = cpu_node_chunks(p, m->w, m->expert, node, sh->chunk)).count; m++) left -= of.count;
    chunk c = {m, (of.first + left) * sh->chunk, sh->chunk, (x->by_rows ? at / per_rows : at % sh->row_blocks) * sh->row_block};
    if (c.count > m->w->n_panels - c.first) c.count = m->w->n_panels - c.first;
    return c;
}

void cpu_run_matmuls(const dev_plan *p, const cpu_matmul *m, int n, const float *x, size_t ldx, const int32_t *rows, int32_t n_rows, int worker, pool_member *team) {
    const cpu_plan *c = p->backend;
    const cpu_kernels *kern = &cpu_dev_const(p->dev)->kernels;
    const int32_t *identity = (const int32_t *)(c->scratch + c->identity_at);
    if (n_rows < 1) return;
    int64_t panels = 0, threads = pool_threads(team->pool);
    bool tiles = true;
    for (int i = 0; i < n; i++) {
        panels += m[i].w->n_panels;
        tiles &= cpu_format_tile(m[i].w->format);
    }
    const bool many = tiles && n_rows > TILE_ROWS, looks_ahead = cpu_looks_ahead(tiles, n_rows);
    work all = {.m = m, .sh = many ? share_tiles(panels, n_rows, threads, m[0].join) : share_panels(panels, n_rows, threads, tiles, m[0].w->base.k), .by_rows = many};
    size_t end = 0;
    for (int node = 0; node < pool_nodes(team->pool); node++) {
        for (int i = 0; i < n; i++) end += (size_t)(cpu_node_chunks(team->pool, m[i].w, m[i].expert, node, all.sh.chunk).count * all.sh.row_blocks);
        all.ends[node] = end;
    }
    chunk then = {0};
    for (chunk now = next_chunk(&all, team); now.m; now = looks_ahead ? then : next_chunk(&all, team)) {
        if (looks_ahead) then = next_chunk(&all, team);
        const cpu_matmul *mm = now.m;
        const cpu_tensor *w = mm->w;
        const int64_t first = now.first, row0 = now.row0;
        gemm_args g = {.w = w, .data = cpu_panel_at(w, mm->expert, 0), .first = first, .count = now.count,
            .then = then.m ? cpu_panel_at(then.m->w, then.m->expert, then.first) : NULL, .k = w->base.k, .x = x, .ldx = ldx,
            .q = (const int8_t *)(c->scratch + c->q_at), .aux = (const cpu_aux *)(c->scratch + c->aux_at), .tiled = mm->tiled,
            .rows = (rows && !cpu_format_packs(w->format) ? rows : identity) + row0, .n_rows = (int32_t)(n_rows - row0 < all.sh.row_block ? n_rows - row0 : all.sh.row_block),
            .y = mm->y + (size_t)row0 * mm->ldy + first * PANEL, .ldy = mm->ldy, .scale = mm->scale, .scratch = cpu_worker_scratch(c, worker)};
        float *y = g.y;
        int64_t col = first * PANEL, cols = g.count * PANEL < w->base.n - col ? g.count * PANEL : w->base.n - col;
        if (cpu_format_tile(w->format)) {
            bool few = cpu_takes_few(cpu_dev_const(p->dev), w->format, n_rows);
            if (few) g.q = (const int8_t *)(c->scratch + c->few_at);
            g.bias = mm->bias ? mm->bias + col : NULL;
            g.residual = mm->residual ? mm->residual + (size_t)row0 * mm->ldr + col : NULL;
            g.ldr = mm->ldr;
            if (mm->q) g.q = (const int8_t *)mm->q;
            cpu_join join;
            if (mm->join) {
                join = *mm->join;
                if (join.bias) join.bias += col;
                g.join = &join;
            }
            (few ? kern->gemm_few : kern->gemm)[w->format](&g);
            continue;
        }
        if (mm->residual) { // which may be the very rows that the product goes to
            g.y = cpu_worker_scratch(c, worker) - CPU_TILE_FLOATS;
            g.ldy = (size_t)g.count * PANEL;
        }
        kern->gemm[w->format](&g);
        if (mm->bias || mm->residual || mm->scale != 1)
            for (int32_t i = 0; i < g.n_rows; i++) {
                const float *residual = mm->residual ? mm->residual + (size_t)(row0 + i) * mm->ldr + col : NULL;
                kern->finish(y + (size_t)i * mm->ldy, g.y + (size_t)i * g.ldy, mm->bias ? mm->bias + col : NULL, residual, mm->scale, (int32_t)cols);
            }
    }
    pool_barrier(team);
}

static void run_linear(const run *r, int32_t index, int32_t rows, int worker, pool_member *team) {
    const dev_linear *l = &r->p->ops[index].u.linear;
    const bool join = cpu_joins(r->c, index, rows), joined = cpu_joins(r->c, index - 1, rows);
    uint8_t *tiles = r->c->scratch + r->c->join_at;
    cpu_matmul m[DEV_MAX_OUTS];
    for (int o = 0; o < l->n; o++) {
        cpu_reg_view y = l->epilogue == DEV_EP_GATED ? gate_part(r->p, l, o, rows) : cpu_reg(r->p, l->out[o].dst);
        m[o] = (cpu_matmul){.w = cpu_t(l->out[o].weight), .y = y.at, .ldy = y.ld, .bias = vec(l->out[o].bias), .scale = l->out[o].scale, .q = joined ? tiles : NULL,
                            .tiled = cpu_in_tiles(rows)};
    }
    if (l->epilogue == DEV_EP_RESIDUAL) {
        cpu_reg_view res = cpu_reg(r->p, l->residual);
        m[0].residual = res.at;
        m[0].ldr = res.ld;
    }
    cpu_join j = {.up = m[l->n - 1].w, .bias = m[l->n - 1].bias, .scale = m[l->n - 1].scale, .kind = l->act, .p = l->p, .act = r->d->kernels.act, .tiles = tiles};
    if (join) m[0].join = &j;
    cpu_reg_view x = cpu_reg(r->p, l->src);
    cpu_run_matmuls(r->p, m, join ? 1 : l->n, x.at, x.ld, NULL, rows, worker, team);
}

// The workers meet before this when the rows of the source may still be written; see cpu_plan.c.
static void run_output(const run *r, const dev_output *o, int worker, pool_member *team) {
    const dev_step *s = r->c->step;
    cpu_reg_view x = cpu_reg(r->p, o->src);
    float *logits = (float *)(r->c->scratch + r->c->logits_at);
    cpu_matmul m = {.w = cpu_t(o->weight), .y = logits, .ldy = (size_t)o->weight->n, .bias = vec(o->bias), .scale = o->scale, .tiled = cpu_in_tiles(s->n_wanted)};
    cpu_run_matmuls(r->p, &m, 1, x.at, x.ld, r->p->regs[o->src].wanted ? NULL : s->wanted, s->n_wanted, worker, team);
    if (o->softcap > 0) {
        size_t n = (size_t)s->n_wanted * (size_t)o->weight->n;
        for (size_t begin; (begin = pool_next(team, 4096)) < n;)
            for (size_t i = begin; i < begin + 4096 && i < n; i++) logits[i] = o->softcap * tanhf(logits[i] / o->softcap);
        pool_barrier(team);
    }
    // Who draws from a row need not look at all of it.
    enum { PIECE = 128 * DEV_PEAK };
    int32_t vocab = (int32_t)o->weight->n, pieces = (vocab + PIECE - 1) / PIECE;
    float *peaks = (float *)(r->c->scratch + r->c->peaks_at);
    for (size_t item; (item = pool_next(team, 1)) < (size_t)s->n_wanted * (size_t)pieces;) {
        int32_t row = (int32_t)(item / (size_t)pieces), at = (int32_t)(item % (size_t)pieces) * PIECE;
        r->d->kernels.peaks(logits + (size_t)row * (size_t)vocab + at, vocab - at < PIECE ? vocab - at : PIECE,
                            peaks + (size_t)row * (size_t)cpu_peak_blocks(vocab) + at / DEV_PEAK);
    }
    pool_barrier(team);
}

static void run_worker(void *ctx, int worker, pool_member *team) {
    const run *r = ctx;
    const dev_step *s = r->c->step;
    for (size_t i = 0; i < r->c->n_phases; i++) {
        const cpu_phase *ph = &r->c->phases[i];
        int32_t rows = ph->wanted ? s->n_wanted : s->n_rows;
        if (rows == 0) continue;
        cpu_item begins = r->c->items[ph->first]; // a joined product is gated and packed already
        if (ph->rows && begins.kind == CPU_ITEM_GATE && cpu_joins(r->c, begins.op, rows)) continue;
        if (ph->rows) {
            run_row_phase(r, ph, rows, team);
            continue;
        }
        int32_t index = r->c->items[ph->first].op;
        const dev_op *op = &r->p->ops[index];
        switch (op->kind) {
        case DEV_OP_LINEAR: run_linear(r, index, rows, worker, team); break;
        case DEV_OP_ATTEND: cpu_run_attend(r->p, &op->u.attend, worker, team); break;
        case DEV_OP_CONV: cpu_run_conv(r->p, &op->u.conv, team); break;
        case DEV_OP_SCAN: cpu_run_scan(r->p, &op->u.scan, worker, team); break;
        case DEV_OP_EXPERTS: cpu_run_experts(r->p, &op->u.experts, worker, team); break;
        case DEV_OP_OUTPUT: run_output(r, &op->u.output, worker, team); break;
        default: break;
        }
    }
}

// ---- the device's face ----------------------------------------------------------------------------------------------------

// upto[g]: one more than the highest page of group g.
static status check_pages(const dev_plan *p, const cpu_kv *kv, const dev_step *s, int32_t upto[DEV_MAX_GROUPS], error *err) {
    for (int32_t i = 0; i < s->n_seqs; i++) {
        const dev_seq *q = &s->seqs[i];
        for (int g = 0; g < p->n_groups; g++) {
            int32_t first = 0, end = (q->start + q->n_rows + DEV_PAGE_TOKENS - 1) / DEV_PAGE_TOKENS;
            if (p->groups[g].kind == DEV_GROUP_RECURRENT) end = 1;
            if (p->groups[g].kind == DEV_GROUP_WINDOW && q->start >= p->groups[g].window) first = (q->start - p->groups[g].window + 1) / DEV_PAGE_TOKENS;
            for (int32_t j = first; j < end; j++) {
                if (q->pages[g][j] < 0 || q->pages[g][j] >= kv->groups[g].n)
                    return error_set(err, E_INVALID, "step: sequence %d, group %d: page %d is %d of %d", i, g, j, q->pages[g][j], kv->groups[g].n);
                if (q->pages[g][j] >= upto[g]) upto[g] = q->pages[g][j] + 1;
            }
        }
    }
    return OK;
}

status cpu_submit(device *dev, dev_plan *p, dev_kv *kv, const dev_step *step, dev_ticket *ticket, error *err) {
    cpu_device *d = cpu_dev(dev);
    cpu_plan *c = p->backend;
    int32_t upto[DEV_MAX_GROUPS] = {0};
    status st = p->n_groups ? check_pages(p, (cpu_kv *)kv, step, upto, err) : OK;
    if (st) return st;
    if (p->n_groups) cpu_kv_reach(d, (cpu_kv *)kv, upto);
    c->step = step;
    c->kv = (const cpu_kv *)kv;
    int32_t *row_seq = (int32_t *)(c->scratch + c->row_seq_at);
    for (int32_t i = 0; i < step->n_seqs; i++)
        for (int32_t j = 0; j < step->seqs[i].n_rows; j++) row_seq[step->seqs[i].first_row + j] = i;
    run r = {d, p, c};
    pool_run(d->pool, run_worker, &r);
    c->step = NULL;
    *ticket = ++d->ticket;
    return OK;
}

status cpu_wait(device *dev, dev_ticket t, error *err) {
    if (t == 0 || t > cpu_dev(dev)->ticket) return error_set(err, E_USAGE, "no such ticket");
    return OK; // submit computed it
}

const float *cpu_logits(device *dev, dev_plan *p, int32_t i) {
    (void)dev;
    const cpu_plan *c = p->backend;
    return p->n_vocab && i >= 0 && i < p->max_wanted ? (const float *)(c->scratch + c->logits_at) + (size_t)i * (size_t)p->n_vocab : NULL;
}

const float *cpu_peaks(device *dev, dev_plan *p, int32_t i) {
    (void)dev;
    const cpu_plan *c = p->backend;
    return p->n_vocab && i >= 0 && i < p->max_wanted ? (const float *)(c->scratch + c->peaks_at) + (size_t)i * (size_t)cpu_peak_blocks(p->n_vocab) : NULL;
}

const float *cpu_hidden(device *dev, dev_plan *p, int32_t i) {
    (void)dev;
    const cpu_plan *c = p->backend;
    if (c->hidden == DEV_NONE || i < 0 || i >= (p->regs[c->hidden].wanted ? p->max_wanted : p->max_rows)) return NULL;
    cpu_reg_view v = cpu_reg(p, c->hidden);
    return v.at + (size_t)i * v.ld;
}

// Worse: lower, or equal with a higher id. The heap's root is the worst of the best k.
static bool worse(float va, int32_t ia, float vb, int32_t ib) { return va < vb || (va == vb && ia > ib); }

static void sift(dev_top *t, int32_t i, int32_t n) {
    for (;;) {
        int32_t c = 2 * i + 1;
        if (c >= n) return;
        if (c + 1 < n && worse(t->values[c + 1], t->ids[c + 1], t->values[c], t->ids[c])) c++;
        if (!worse(t->values[c], t->ids[c], t->values[i], t->ids[i])) return;
        float v = t->values[c];
        int32_t id = t->ids[c];
        t->values[c] = t->values[i];
        t->ids[c] = t->ids[i];
        t->values[i] = v;
        t->ids[i] = id;
        i = c;
    }
}

void cpu_reduce(device *dev, dev_plan *p, int32_t row, int32_t k, dev_top *t) {
    const float *x = cpu_logits(dev, p, row);
    int32_t n = p->n_vocab, m = 0;
    if (k > n) k = n;
    t->argmax = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > x[t->argmax] || (x[t->argmax] != x[t->argmax] && x[i] == x[i])) t->argmax = i;
    t->log_sum_exp = cpu_dev(dev)->kernels.log_sum_exp(x, n);
    for (int32_t i = 0; i < n && k > 0; i++) {
        float v = x[i] == x[i] ? x[i] : -INFINITY;
        if (m < k) {
            t->values[m] = v;
            t->ids[m++] = i;
            if (m == k)
                for (int32_t j = m / 2 - 1; j >= 0; j--) sift(t, j, m);
        } else if (v > t->values[0]) {
            t->values[0] = v;
            t->ids[0] = i;
            sift(t, 0, m);
        }
    }
    t->n = m;
    for (int32_t end = m - 1; end > 0; end--) { // the worst goes to the end
        float v = t->values[0];
        int32_t id = t->ids[0];
        t->values[0] = t->values[end];
        t->ids[0] = t->ids[end];
        t->values[end] = v;
        t->ids[end] = id;
        sift(t, 0, end);
    }
}
