// cpu/plan: from the plan's ops to phases, and where everything lies in the scratch memory. Registers share memory when their lives, counted
// in phases, do not meet (within a phase different workers are at different rows, so a phase is the finest unit).
#include <math.h>

#include "cpu/cpu_tile.h"

static bool add_item(cpu_plan *c, cpu_item_kind kind, int32_t op, bool rows, bool wanted) {
    cpu_phase *last = c->n_phases ? &c->phases[c->n_phases - 1] : NULL;
    if (!rows || !last || !last->rows || last->wanted != wanted) {
        if (!mem_grow((void **)&c->phases, &c->cap_phases, c->n_phases + 1, sizeof *c->phases)) return false;
        last = &c->phases[c->n_phases++];
        *last = (cpu_phase){(int32_t)c->n_items, 0, rows, wanted};
    }
    if (!mem_grow((void **)&c->items, &c->cap_items, c->n_items + 1, sizeof *c->items)) return false;
    c->items[c->n_items++] = (cpu_item){kind, op};
    last->count++;
    return true;
}

static bool packs(const dev_plan *p, const dev_tensor *t) { return t && cpu_format_packs(cpu_format_of(&cpu_dev_const(p->dev)->kernels, t->type, t->k, t->use)); }

static int op_regs(const dev_op *op, dev_reg r[16]);
static dev_reg root_of(const dev_plan *p, dev_reg r) { return p->regs[r].parent == DEV_NONE ? r : p->regs[r].parent; }

// A gated linear of two tile formats whose result is read by the linear after it alone, and there packed.
static bool joins(const dev_plan *p, size_t i) {
    const cpu_kernels *kern = &cpu_dev_const(p->dev)->kernels;
    const dev_linear *l = &p->ops[i].u.linear, *next = &p->ops[i + 1 < p->n_ops ? i + 1 : i].u.linear;
    if (!kern->tiles || i + 1 >= p->n_ops || p->ops[i].kind != DEV_OP_LINEAR || p->ops[i + 1].kind != DEV_OP_LINEAR
        || l->epilogue != DEV_EP_GATED || l->n != 2 || next->src != l->out[0].dst)
        return false;
    for (int o = 0; o < 2; o++) {
        const dev_tensor *w = l->out[o].weight;
        if (w->n != l->out[0].weight->n || w->n % BLOCK || !cpu_format_tile(cpu_format_of(kern, w->type, w->k, w->use))) return false;
    }
    for (int o = 0; o < next->n; o++)
        if (!packs(p, next->out[o].weight)) return false;
    dev_reg root = root_of(p, l->out[0].dst);
    int touched = 0;
    for (size_t j = 0; j < p->n_ops; j++) {
        dev_reg r[16];
        int n = op_regs(&p->ops[j], r);
        for (int m = 0; m < n; m++) touched += r[m] != DEV_NONE && root_of(p, r[m]) == root;
    }
    return touched == 2;
}

// Rows of other workers are read only by shared ops and after a change between all and wanted rows, where a new phase begins anyway.
static bool build_phases(cpu_plan *c, const dev_plan *p) {
    bool ok = add_item(c, CPU_ITEM_ROPE, -1, true, false);
    for (size_t i = 0; i < p->n_ops && ok; i++) {
        const dev_op *op = &p->ops[i];
        int32_t at = (int32_t)i;
        switch (op->kind) {
        case DEV_OP_LINEAR: {
            const dev_linear *l = &op->u.linear;
            bool wanted = p->regs[l->src].wanted, q = false;
            for (int o = 0; o < l->n; o++) q |= packs(p, l->out[o].weight);
            if (q) ok = add_item(c, CPU_ITEM_QUANTIZE, at, true, wanted);
            ok = ok && add_item(c, CPU_ITEM_OP, at, false, wanted);
            if (ok && l->epilogue >= DEV_EP_ACT && l->epilogue <= DEV_EP_GATED) ok = add_item(c, CPU_ITEM_GATE, at, true, wanted);
            break;
        }
        case DEV_OP_ATTEND:
            if (op->u.attend.k != DEV_NONE) ok = add_item(c, CPU_ITEM_KV, at, true, false);
            ok = ok && add_item(c, CPU_ITEM_OP, at, false, false);
            break;
        case DEV_OP_EXPERTS: {
            const dev_experts *e = &op->u.experts;
            if ((packs(p, e->gate) || packs(p, e->up) || packs(p, e->router)) && !cpu_experts_apart(&cpu_dev_const(p->dev)->kernels, e))
                ok = add_item(c, CPU_ITEM_QUANTIZE, at, true, p->regs[e->src].wanted);
            ok = ok && add_item(c, CPU_ITEM_OP, at, false, p->regs[e->src].wanted);
            break;
        }
        case DEV_OP_OUTPUT:
            if (packs(p, op->u.output.weight)) ok = ok && add_item(c, CPU_ITEM_QUANTIZE, at, true, true);
            ok = ok && add_item(c, CPU_ITEM_OP, at, false, true);
            break;
        case DEV_OP_EMBED: case DEV_OP_ROPE: ok = add_item(c, CPU_ITEM_OP, at, true, false); break;
        case DEV_OP_NORM: ok = add_item(c, CPU_ITEM_OP, at, true, p->regs[op->u.norm.dst].wanted); break;
        case DEV_OP_ACT: ok = add_item(c, CPU_ITEM_OP, at, true, p->regs[op->u.activate.dst].wanted); break;
        case DEV_OP_COMBINE: ok = add_item(c, CPU_ITEM_OP, at, true, p->regs[op->u.combine.dst].wanted); break;
        case DEV_OP_VECTOR: ok = add_item(c, CPU_ITEM_OP, at, true, p->regs[op->u.vector.dst].wanted); break;
        case DEV_OP_COPY: ok = add_item(c, CPU_ITEM_OP, at, true, p->regs[op->u.copy.dst].wanted); break;
        case DEV_OP_DOT: ok = add_item(c, CPU_ITEM_OP, at, true, p->regs[op->u.dot.dst].wanted); break;
        case DEV_OP_MIX: ok = add_item(c, CPU_ITEM_OP, at, true, p->regs[op->u.mix.dst].wanted); break;
        case DEV_OP_SELECT: case DEV_OP_POOL: ok = add_item(c, CPU_ITEM_OP, at, true, true); break;
        case DEV_OP_HIDDEN: c->hidden = op->u.hidden; break;
        case DEV_OP_SCAN: case DEV_OP_CONV: ok = add_item(c, CPU_ITEM_OP, at, false, false); break;
        }
    }
    return ok;
}

// ---- lives of registers ---------------------------------------------------------------------------------------------------

static int op_regs(const dev_op *op, dev_reg r[16]) {
    int n = 0;
    switch (op->kind) {
    case DEV_OP_EMBED: r[n++] = op->u.embed.dst; break;
    case DEV_OP_NORM: r[n++] = op->u.norm.dst; r[n++] = op->u.norm.src; r[n++] = op->u.norm.add; r[n++] = op->u.norm.sum; break;
    case DEV_OP_LINEAR:
        r[n++] = op->u.linear.src;
        for (int i = 0; i < (op->u.linear.epilogue == DEV_EP_GATED ? 1 : op->u.linear.n); i++) r[n++] = op->u.linear.out[i].dst;
        if (op->u.linear.epilogue == DEV_EP_RESIDUAL) r[n++] = op->u.linear.residual;
        break;
    case DEV_OP_ROPE: r[n++] = op->u.rope.reg; break;
    case DEV_OP_ATTEND: r[n++] = op->u.attend.dst; r[n++] = op->u.attend.q; r[n++] = op->u.attend.k; r[n++] = op->u.attend.v; break;
    case DEV_OP_EXPERTS: r[n++] = op->u.experts.dst; r[n++] = op->u.experts.src; r[n++] = op->u.experts.router_src; r[n++] = op->u.experts.residual; break;
    case DEV_OP_ACT: r[n++] = op->u.activate.dst; r[n++] = op->u.activate.gate; r[n++] = op->u.activate.up; break;
    case DEV_OP_COMBINE: r[n++] = op->u.combine.dst; r[n++] = op->u.combine.a; r[n++] = op->u.combine.b; break;
    case DEV_OP_VECTOR: r[n++] = op->u.vector.dst; r[n++] = op->u.vector.src; break;
    case DEV_OP_COPY: r[n++] = op->u.copy.dst; r[n++] = op->u.copy.src; break;
    case DEV_OP_SELECT: r[n++] = op->u.select.dst; r[n++] = op->u.select.src; break;
    case DEV_OP_POOL: r[n++] = op->u.pool.dst; r[n++] = op->u.pool.src; break;
    case DEV_OP_OUTPUT: r[n++] = op->u.output.src; break;
    case DEV_OP_HIDDEN: r[n++] = op->u.hidden; break;
    case DEV_OP_CONV: r[n++] = op->u.conv.dst; r[n++] = op->u.conv.src; break;
    case DEV_OP_SCAN:
        r[n++] = op->u.scan.dst; r[n++] = op->u.scan.q; r[n++] = op->u.scan.k; r[n++] = op->u.scan.v; r[n++] = op->u.scan.rate; r[n++] = op->u.scan.beta;
        if (op->u.scan.kind == DEV_SCAN_DPLR) r[n++] = op->u.scan.z, r[n++] = op->u.scan.b;
        break;
    case DEV_OP_DOT: r[n++] = op->u.dot.dst; r[n++] = op->u.dot.a; r[n++] = op->u.dot.b; break;
    case DEV_OP_MIX: r[n++] = op->u.mix.dst; r[n++] = op->u.mix.src; r[n++] = op->u.mix.weight; r[n++] = op->u.mix.add; break;
    default: break;
    }
    return n;
}

typedef struct life { int32_t first, last; size_t bytes; } life;

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

// First fit below what is alive; returns the bytes that all registers need, or SIZE_MAX when memory is gone.
static size_t place_registers(cpu_plan *c, const dev_plan *p, int32_t max_rows, int32_t max_wanted) {
    size_t n = p->n_regs, top = 0;
    life *l = mem_calloc(n + 1, sizeof *l);
    c->reg_at = mem_calloc(n + 1, sizeof *c->reg_at);
    if (!l || !c->reg_at) {
        mem_free(l);
        return SIZE_MAX;
    }
    for (size_t i = 0; i < n; i++) l[i] = (life){INT32_MAX, -1, align64((size_t)p->regs[i].width * (size_t)(p->regs[i].wanted ? max_wanted : max_rows) * sizeof(float))};
    for (size_t ph = 0; ph < c->n_phases; ph++)
        for (int32_t k = 0; k < c->phases[ph].count; k++) {
            int32_t op = c->items[c->phases[ph].first + k].op;
            dev_reg r[16];
            int m = op < 0 ? 0 : op_regs(&p->ops[op], r);
            for (int j = 0; j < m; j++) {
                if (r[j] == DEV_NONE) continue;
                life *x = &l[root_of(p, r[j])];
                if ((int32_t)ph < x->first) x->first = (int32_t)ph;
                if ((int32_t)ph > x->last) x->last = (int32_t)ph;
            }
        }
    if (c->hidden != DEV_NONE) l[root_of(p, c->hidden)].last = INT32_MAX;
    for (size_t i = 0; i < n; i++) {
        if (l[i].last < 0 || p->regs[i].parent != DEV_NONE) continue;
        size_t at = 0;
        for (bool moved = true; moved;) { // raise it past everything already placed whose life meets its own
            moved = false;
            for (size_t j = 0; j < i; j++)
                if (l[j].last >= 0 && p->regs[j].parent == DEV_NONE && l[j].first <= l[i].last && l[i].first <= l[j].last
                    && at < c->reg_at[j] + l[j].bytes && c->reg_at[j] < at + l[i].bytes) {
                    at = c->reg_at[j] + l[j].bytes;
                    moved = true;
                }
        }
        c->reg_at[i] = at;
        if (at + l[i].bytes > top) top = at + l[i].bytes;
    }
    mem_free(l);
    return top;
}

// ---- rotary tables --------------------------------------------------------------------------------------------------------

static bool same_rope(const dev_rope *a, const dev_rope *b) {
    return a->dims == b->dims && a->base == b->base && a->freq_scale == b->freq_scale && a->ext_factor == b->ext_factor && a->attn_factor == b->attn_factor
        && a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow && a->n_ctx_orig == b->n_ctx_orig && a->factors == b->factors;
}

static double correction_dim(const dev_rope *r, double beta) {
    const double two_pi = 6.283185307179586;
    return r->dims * log(r->n_ctx_orig / (beta * two_pi)) / (2 * log((double)r->base));
}

static void fill_rope(cpu_rope_table *t) {
    const dev_rope *r = &t->op;
    double low = 0, high = 0, scale = r->attn_factor;
    if (r->ext_factor != 0) {
        low = fmax(0, floor(correction_dim(r, r->beta_fast)));
        high = fmin(r->dims - 1, ceil(correction_dim(r, r->beta_slow)));
        scale *= 1 + 0.1 * log(1.0 / r->freq_scale);
    }
    for (int32_t i = 0; i < r->dims / 2; i++) {
        double f = pow(r->base, -2.0 * i / r->dims);
        if (r->factors) f /= cpu_t(r->factors)->vector[i];
        double g = f * r->freq_scale;
        if (r->ext_factor != 0) {
            double y = (i - low) / fmax(0.001, high - low), mix = (1 - fmin(1, fmax(0, y))) * r->ext_factor;
            g = g * (1 - mix) + f * mix;
        }
        t->freq[i] = g;
    }
    t->scale = (float)scale;
}

static bool build_ropes(cpu_plan *c, const dev_plan *p) {
    c->op_rope = mem_calloc(p->n_ops + 1, sizeof *c->op_rope);
    if (!c->op_rope) return false;
    for (size_t i = 0; i < p->n_ops; i++) {
        if (p->ops[i].kind != DEV_OP_ROPE) continue;
        const dev_rope *r = &p->ops[i].u.rope;
        size_t t = 0;
        while (t < c->n_ropes && !same_rope(&c->ropes[t].op, r)) t++;
        if (t == c->n_ropes) {
            if (!mem_grow((void **)&c->ropes, &c->cap_ropes, t + 1, sizeof *c->ropes)) return false;
            c->ropes[t] = (cpu_rope_table){.op = *r, .freq = mem_calloc((size_t)r->dims / 2, sizeof(double))};
            c->n_ropes++;
            if (!c->ropes[t].freq) return false;
            fill_rope(&c->ropes[t]);
        }
        c->op_rope[i] = (int32_t)t;
    }
    return true;
}

// ---- scratch --------------------------------------------------------------------------------------------------------------

static void take(cpu_plan *c, size_t *at, size_t bytes) {
    *at = c->bytes;
    c->bytes += align64(bytes);
}

typedef struct needs { const cpu_kernels *kern; size_t q, few, aux, rows, gate, join, experts, worker; } needs;

static void look(needs *n, const dev_tensor *w, size_t rows) {
    if (!w) return;
    cpu_format f = cpu_format_of(n->kern, w->type, w->k, w->use);
    size_t floats = cpu_format_tile(f) ? cpu_tile_scratch(w->k) : (size_t)w->k * (cpu_format_int8(f) ? 6 : 1); // see gemm_args
    size_t q = cpu_packed_bytes(n->kern, w->k, rows), aux = (size_t)w->k / BLOCK * rows * sizeof(cpu_aux);
    size_t few = cpu_few_rows(n->kern, rows) * (size_t)w->k;
    if (n->kern->tiles) aux = few / BLOCK * sizeof(cpu_aux);
    if (few > n->few) n->few = few;
    if (floats > n->worker) n->worker = floats;
    if (q > n->q) n->q = q;
    if (aux > n->aux) n->aux = aux;
    if (rows > n->rows) n->rows = rows;
}

static bool lay_out(cpu_plan *c, const device *dev, const dev_plan *p, int32_t max_rows, int32_t max_wanted) {
    c->hidden = DEV_NONE;
    c->op_joins = mem_calloc(p->n_ops + 1, sizeof *c->op_joins);
    if (!c->op_joins || !build_phases(c, p) || !build_ropes(c, p)) return false;
    for (size_t i = 0; i < p->n_ops; i++) c->op_joins[i] = joins(p, i);
    size_t regs = place_registers(c, p, max_rows, max_wanted);
    if (regs == SIZE_MAX) return false;
    c->bytes = regs;
    needs n = {.kern = &cpu_dev_const(dev)->kernels, .worker = 1, .rows = (size_t)max_rows};
    for (size_t i = 0; i < p->n_ops; i++) {
        const dev_op *op = &p->ops[i];
        if (op->kind == DEV_OP_LINEAR) {
            size_t gate = 0, rows = (size_t)(p->regs[op->u.linear.src].wanted ? max_wanted : max_rows);
            for (int o = 0; o < op->u.linear.n; o++) {
                look(&n, op->u.linear.out[o].weight, rows);
                gate += align64((size_t)op->u.linear.out[o].weight->n * sizeof(float)) * rows;
            }
            if (op->u.linear.epilogue == DEV_EP_GATED && gate > n.gate) n.gate = gate;
            size_t join = c->op_joins[i] ? cpu_packed_bytes(n.kern, op->u.linear.out[0].weight->n, rows) : 0;
            if (join > n.join) n.join = join;
        } else if (op->kind == DEV_OP_OUTPUT) {
            look(&n, op->u.output.weight, (size_t)max_wanted);
        } else if (op->kind == DEV_OP_EXPERTS) {
            const dev_experts *e = &op->u.experts;
            size_t rows = (size_t)(p->regs[e->src].wanted ? max_wanted : max_rows);
            look(&n, e->router, rows);
            look(&n, e->gate, rows);
            look(&n, e->up, rows);
            look(&n, e->down, rows * (size_t)e->top_k);
            size_t b = cpu_experts_scratch(n.kern, e, (int32_t)rows);
            if (b > n.experts) n.experts = b;
        } else if (op->kind == DEV_OP_ATTEND) {
            size_t b = cpu_attend_scratch(n.kern, &op->u.attend);
            if (b > n.worker) n.worker = b;
        } else if (op->kind == DEV_OP_SCAN) {
            size_t b = cpu_scan_scratch(&op->u.scan);
            if (b > n.worker) n.worker = b;
        }
    }
    size_t threads = (size_t)pool_threads(cpu_dev_const(dev)->pool);
    take(c, &c->q_at, n.q);
    take(c, &c->few_at, n.few);
    take(c, &c->aux_at, n.aux);
    take(c, &c->logits_at, (size_t)p->n_vocab * (size_t)max_wanted * sizeof(float));
    take(c, &c->peaks_at, (size_t)cpu_peak_blocks(p->n_vocab) * (size_t)max_wanted * sizeof(float));
    take(c, &c->identity_at, n.rows * sizeof(int32_t));
    take(c, &c->row_seq_at, (size_t)max_rows * sizeof(int32_t));
    take(c, &c->expert_at, n.experts);
    take(c, &c->gate_at, n.gate);
    take(c, &c->join_at, n.join);
    for (size_t i = 0; i < c->n_ropes; i++) take(c, &c->ropes[i].at, (size_t)c->ropes[i].op.dims * (size_t)max_rows * sizeof(float));
    c->worker_bytes = align64((n.worker + CPU_TILE_FLOATS) * sizeof(float));
    take(c, &c->worker_at, c->worker_bytes * threads);
    return true;
}

static void release(cpu_plan *c) {
    for (size_t i = 0; i < c->n_ropes; i++) mem_free(c->ropes[i].freq);
    mem_free(c->ropes);
    mem_free(c->op_rope);
    mem_free(c->op_joins);
    mem_free(c->reg_at);
    mem_free(c->phases);
    mem_free(c->items);
    mem_free(c->scratch);
}

size_t cpu_plan_scratch(const device *dev, const dev_plan *p, int32_t max_rows, int32_t max_wanted) {
    cpu_plan c = {0};
    size_t bytes = lay_out(&c, dev, p, max_rows, max_wanted) ? c.bytes : SIZE_MAX;
    release(&c);
    return bytes;
}

status cpu_plan_prepare(device *dev, dev_plan *p, error *err) {
    cpu_plan *c = mem_calloc(1, sizeof *c);
    if (!c || !lay_out(c, dev, p, p->max_rows, p->max_wanted) || !(c->scratch = cpu_big_alloc(c->bytes))) {
        size_t bytes = c ? c->bytes : 0;
        if (c) release(c);
        mem_free(c);
        return error_set(err, E_NOMEM, "no memory for a plan's scratch of %zu bytes", bytes);
    }
    cpu_interleave(cpu_dev(dev), c->scratch, c->bytes);
    int32_t *identity = (int32_t *)(c->scratch + c->identity_at), n = (int32_t)((c->row_seq_at - c->identity_at) / sizeof(int32_t));
    for (int32_t i = 0; i < n; i++) identity[i] = i;
    p->backend = c;
    return OK;
}

void cpu_plan_free(device *dev, dev_plan *p) {
    (void)dev;
    release(p->backend);
    mem_free(p->backend);
    p->backend = NULL;
}

cpu_reg_view cpu_reg(const dev_plan *p, dev_reg r) {
    const cpu_plan *c = p->backend;
    const dev_reg_info *i = &p->regs[r];
    dev_reg root = root_of(p, r);
    return (cpu_reg_view){(float *)(c->scratch + c->reg_at[root]) + i->first, (size_t)p->regs[root].width};
}
