// device/plan: the recording of plans, and the checks that every backend relies on: registers exist, widths agree with weights,
// a step's rows, sequences and page tables are consistent. Backends may then index without looking again.
//
// Threads: one thread at a time per plan.
#include <string.h>

#include "base/mem.h"
#include "device/device.h"

enum { MAX_WIDTH = 1 << 26, MAX_OPS = 1 << 16 };

static void fail(dev_plan *p, const char *text, long a, long b) {
    if (p->failed) return;
    p->failed = E_INVALID;
    error_set(&p->why, E_INVALID, "plan op %zu: %s (%ld, %ld)", p->n_ops, text, a, b);
}

status dev_plan_create(device *dev, dev_plan **out, error *err) {
    *out = NULL;
    dev_plan *p = mem_calloc(1, sizeof *p);
    if (!p) return error_set(err, E_NOMEM, "out of memory for a plan");
    p->dev = dev;
    *out = p;
    return OK;
}

void dev_plan_destroy(dev_plan *p) {
    if (!p) return;
    if (p->backend) p->dev->ops->plan_free(p->dev, p);
    mem_free(p->ops);
    mem_free(p->regs);
    mem_free(p);
}

int32_t dev_plan_group(dev_plan *p, dev_group g) {
    if (p->n_groups == DEV_MAX_GROUPS) {
        fail(p, "too many KV groups", p->n_groups, DEV_MAX_GROUPS);
        return 0;
    }
    p->groups[p->n_groups] = g;
    return p->n_groups++;
}

static dev_reg add_reg(dev_plan *p, dev_reg_info info) {
    if (info.width <= 0 || info.width > MAX_WIDTH) {
        fail(p, "a register's width is out of range", info.width, MAX_WIDTH);
        info.width = 1;
    }
    if (!mem_grow((void **)&p->regs, &p->cap_regs, p->n_regs + 1, sizeof *p->regs)) {
        if (!p->failed) p->failed = error_set(&p->why, E_NOMEM, "out of memory for a plan");
        return DEV_NONE;
    }
    p->regs[p->n_regs] = info;
    return (dev_reg)p->n_regs++;
}

dev_reg dev_reg_all(dev_plan *p, int32_t width) { return add_reg(p, (dev_reg_info){width, DEV_NONE, 0, false}); }
dev_reg dev_reg_wanted(dev_plan *p, int32_t width) { return add_reg(p, (dev_reg_info){width, DEV_NONE, 0, true}); }

static bool valid(const dev_plan *p, dev_reg r) { return r >= 0 && (size_t)r < p->n_regs; }

dev_reg dev_reg_view(dev_plan *p, dev_reg of, int32_t first, int32_t width) {
    if (!valid(p, of) || first < 0 || width <= 0 || (int64_t)first + width > p->regs[of].width) {
        fail(p, "a view leaves its register", first, width);
        return of;
    }
    dev_reg_info r = p->regs[of];
    if (r.parent != DEV_NONE) first += r.first;
    return add_reg(p, (dev_reg_info){width, r.parent != DEV_NONE ? r.parent : of, first, r.wanted});
}

int32_t dev_reg_width(const dev_plan *p, dev_reg r) { return valid(p, r) ? p->regs[r].width : 0; }

// ---- checks ---------------------------------------------------------------------------------------------------------------

static bool need(dev_plan *p, bool ok, const char *text, long a, long b) {
    if (!ok) fail(p, text, a, b);
    return ok;
}

static bool reg_ok(dev_plan *p, dev_reg r) { return need(p, valid(p, r), "a register does not exist", r, (long)p->n_regs); }

static bool same(dev_plan *p, dev_reg a, dev_reg b) {
    return reg_ok(p, a) && reg_ok(p, b) && need(p, p->regs[a].width == p->regs[b].width, "registers differ in width", p->regs[a].width, p->regs[b].width)
        && need(p, p->regs[a].wanted == p->regs[b].wanted, "registers differ in their kind of rows", a, b);
}

static bool vector_ok(dev_plan *p, const dev_tensor *t, int64_t n) { // an optional vector of n values
    return !t || need(p, t->k * t->n == n && (t->use & DEV_USE_VECTOR), "a vector has the wrong length or use", (long)(t->k * t->n), (long)n);
}

static bool matrix_ok(dev_plan *p, const dev_tensor *t, int64_t k, int64_t n, int64_t experts) {
    return need(p, t && (t->use & DEV_USE_MATRIX), "a matrix is missing or was not imported as one", 0, 0)
        && need(p, t->k == k, "a matrix does not fit its input", (long)t->k, (long)k)
        && need(p, t->n == n, "a matrix does not fit its output", (long)t->n, (long)n)
        && need(p, t->experts == experts, "a matrix has the wrong number of experts", (long)t->experts, (long)experts);
}

static dev_op *push(dev_plan *p, dev_op_kind kind) {
    static dev_op spare; // written to and never read after memory is gone
    if (p->n_ops >= MAX_OPS || !mem_grow((void **)&p->ops, &p->cap_ops, p->n_ops + 1, sizeof *p->ops)) {
        if (!p->failed) p->failed = error_set(&p->why, E_NOMEM, "out of memory for a plan");
        return &spare;
    }
    dev_op *op = &p->ops[p->n_ops++];
    memset(op, 0, sizeof *op);
    op->kind = kind;
    return op;
}

void dev_op_embed(dev_plan *p, dev_embed op) {
    if (reg_ok(p, op.dst) && need(p, op.table && (op.table->use & DEV_USE_ROWS), "an embedding table was not imported for look-up", 0, 0))
        need(p, op.table->k == p->regs[op.dst].width && !p->regs[op.dst].wanted, "an embedding has another width than its register", (long)op.table->k, p->regs[op.dst].width);
    push(p, DEV_OP_EMBED)->u.embed = op;
}

void dev_op_norm(dev_plan *p, dev_norm op) {
    if (same(p, op.dst, op.src)) {
        int32_t width = p->regs[op.src].width, group = op.group ? op.group : width;
        need(p, group > 0 && width % group == 0, "norm groups do not divide the width", group, width);
        for (int i = 0; i < 2; i++) {
            const dev_tensor *t = i ? op.bias : op.weight;
            if (t && t->k * t->n != group) vector_ok(p, t, width);
            else vector_ok(p, t, group);
        }
        if (op.add != DEV_NONE) same(p, op.add, op.src);
        if (op.sum != DEV_NONE) same(p, op.sum, op.src);
    }
    push(p, DEV_OP_NORM)->u.norm = op;
}

void dev_op_linear(dev_plan *p, dev_linear op) {
    if (need(p, op.n >= 1 && op.n <= DEV_MAX_OUTS, "a linear group has too many outputs", op.n, DEV_MAX_OUTS) && reg_ok(p, op.src)) {
        for (int i = 0; i < op.n; i++) {
            dev_linear_out *o = &op.out[i];
            bool silent = op.epilogue == DEV_EP_GATED && i == 1;
            if (silent) o->dst = op.out[0].dst;
            if (o->scale == 0) o->scale = 1;
            if (!reg_ok(p, o->dst)) continue;
            need(p, p->regs[o->dst].wanted == p->regs[op.src].wanted, "registers differ in their kind of rows", o->dst, op.src);
            int64_t n = (int64_t)p->regs[o->dst].width * (op.epilogue == DEV_EP_GATED && o->split ? 2 : 1);
            matrix_ok(p, o->weight, p->regs[op.src].width, n, 1);
            vector_ok(p, o->bias, n);
        }
        if (op.epilogue == DEV_EP_GATED) need(p, op.n == 2 || (op.n == 1 && op.out[0].split), "a gated linear has two outputs", op.n, 2);
        if (op.epilogue == DEV_EP_RESIDUAL) {
            need(p, op.n == 1, "a residual linear has one output", op.n, 1);
            same(p, op.residual, op.out[0].dst);
        }
    }
    push(p, DEV_OP_LINEAR)->u.linear = op;
}

void dev_op_rope(dev_plan *p, dev_rope op) {
    if (reg_ok(p, op.reg)
        && need(p, op.n_head > 0 && op.head_dim > 0 && op.dims >= 2 && op.dims % 2 == 0 && op.first >= 0 && op.first + op.dims <= op.head_dim,
                "rotary dimensions leave the head", op.dims, op.head_dim)) {
        need(p, (int64_t)op.n_head * op.head_dim == p->regs[op.reg].width && !p->regs[op.reg].wanted, "rotary heads do not fill the register", op.n_head, op.head_dim);
        vector_ok(p, op.factors, op.dims / 2);
        if (op.attn_factor == 0) op.attn_factor = 1;
        if (op.freq_scale == 0) op.freq_scale = 1;
        need(p, op.base > 0, "a rotary base must be positive", (long)op.base, 0);
    }
    push(p, DEV_OP_ROPE)->u.rope = op;
}

void dev_op_attend(dev_plan *p, dev_attend op) {
    if (reg_ok(p, op.q) && reg_ok(p, op.dst)
        && need(p, op.n_head > 0 && op.n_kv > 0 && op.n_head % op.n_kv == 0 && op.head_k > 0 && op.head_v > 0, "heads do not divide", op.n_head, op.n_kv)) {
        need(p, (int64_t)op.n_head * op.head_k == p->regs[op.q].width && (int64_t)op.n_head * op.head_v == p->regs[op.dst].width,
             "query heads do not fill their registers", op.n_head, op.head_k);
        if (op.k != DEV_NONE && reg_ok(p, op.k) && reg_ok(p, op.v))
            need(p, (int64_t)op.n_kv * op.head_k == p->regs[op.k].width && (int64_t)op.n_kv * op.head_v == p->regs[op.v].width,
                 "key heads do not fill their registers", op.n_kv, op.head_k);
        if (need(p, op.group >= 0 && op.group < p->n_groups, "a KV group does not exist", op.group, p->n_groups)) {
            dev_group *g = &p->groups[op.group];
            need(p, g->kind != DEV_GROUP_RECURRENT && g->n_kv == op.n_kv && g->head_k == op.head_k && g->head_v == op.head_v,
                 "heads differ from the KV group's", op.n_kv, op.head_k);
            need(p, g->kind != DEV_GROUP_WINDOW || (op.window > 0 && op.window <= g->window), "a layer looks past its group's window", op.window, g->window);
        }
        vector_ok(p, op.sinks, op.n_head);
    }
    push(p, DEV_OP_ATTEND)->u.attend = op;
}

void dev_op_experts(dev_plan *p, dev_experts op) {
    if (op.router_src == DEV_NONE) op.router_src = op.src;
    if (op.scale == 0) op.scale = 1;
    if (same(p, op.dst, op.src) && reg_ok(p, op.router_src)
        && need(p, op.n_expert > 0 && op.n_expert <= DEV_MAX_EXPERTS && op.top_k > 0 && op.top_k <= op.n_expert && op.top_k <= 64,
                "the number of experts is out of range", op.top_k, op.n_expert)) {
        int32_t width = p->regs[op.src].width, stack = op.share > 1 ? op.n_expert / op.share : op.n_expert;
        need(p, stack > 0 && (op.share <= 1 || op.n_expert % op.share == 0), "experts that share do not divide", op.n_expert, op.share);
        matrix_ok(p, op.router, p->regs[op.router_src].width, op.n_expert, 1);
        vector_ok(p, op.router_bias, op.n_expert);
        vector_ok(p, op.select_bias, op.n_expert);
        if (op.residual != DEV_NONE) same(p, op.residual, op.dst);
        if (need(p, op.up && op.down, "experts without weights", 0, 0)) {
            int64_t ff = op.up->n;
            matrix_ok(p, op.up, width, ff, stack);
            if (op.gate) matrix_ok(p, op.gate, width, ff, stack);
            matrix_ok(p, op.down, ff, width, stack);
            vector_ok(p, op.up_bias, ff * stack);
            vector_ok(p, op.gate_bias, ff * stack);
            vector_ok(p, op.down_bias, (int64_t)width * stack);
            vector_ok(p, op.up_each, stack);
            vector_ok(p, op.gate_each, stack);
            vector_ok(p, op.down_each, stack);
        }
        if (op.n_group > 1)
            need(p, op.n_expert % op.n_group == 0 && op.top_groups > 0 && op.top_groups <= op.n_group
                    && (int64_t)op.top_groups * (op.n_expert / op.n_group) >= op.top_k, "expert groups do not divide", op.n_group, op.top_groups);
    }
    push(p, DEV_OP_EXPERTS)->u.experts = op;
}

void dev_op_act(dev_plan *p, dev_activate op) {
    same(p, op.dst, op.gate);
    if (op.up != DEV_NONE) same(p, op.dst, op.up);
    else need(p, !dev_act_gated_only(op.act), "an activation lacks its second input", op.act, 0);
    push(p, DEV_OP_ACT)->u.activate = op;
}

void dev_op_combine(dev_plan *p, dev_combine op) {
    same(p, op.dst, op.a);
    if (op.b != DEV_NONE && reg_ok(p, op.b) && reg_ok(p, op.dst))
        need(p, p->regs[op.dst].width % p->regs[op.b].width == 0 && p->regs[op.dst].wanted == p->regs[op.b].wanted,
             "registers do not fit each other", p->regs[op.dst].width, p->regs[op.b].width);
    push(p, DEV_OP_COMBINE)->u.combine = op;
}

void dev_op_vector(dev_plan *p, dev_vector op) {
    if (same(p, op.dst, op.src)) {
        vector_ok(p, op.scale, p->regs[op.dst].width);
        vector_ok(p, op.bias, p->regs[op.dst].width);
    }
    push(p, DEV_OP_VECTOR)->u.vector = op;
}

void dev_op_dot(dev_plan *p, dev_dot op) {
    if (same(p, op.a, op.b) && reg_ok(p, op.dst))
        need(p, p->regs[op.a].width % p->regs[op.dst].width == 0 && p->regs[op.dst].wanted == p->regs[op.a].wanted,
             "the parts of a dot do not divide", p->regs[op.a].width, p->regs[op.dst].width);
    push(p, DEV_OP_DOT)->u.dot = op;
}

void dev_op_mix(dev_plan *p, dev_mix op) {
    if (reg_ok(p, op.dst) && reg_ok(p, op.src) && reg_ok(p, op.weight) && need(p, op.n_dst > 0 && op.n_src > 0, "a mix without streams", op.n_dst, op.n_src)) {
        const dev_reg_info *d = &p->regs[op.dst], *s = &p->regs[op.src], *w = &p->regs[op.weight];
        need(p, d->width % op.n_dst == 0 && s->width % op.n_src == 0 && d->width / op.n_dst == s->width / op.n_src, "the streams of a mix differ in width", d->width, s->width);
        need(p, w->width == op.n_dst * (int64_t)op.n_src, "a mix has the wrong number of weights", w->width, op.n_dst * op.n_src);
        need(p, d->wanted == s->wanted && d->wanted == w->wanted, "registers differ in their kind of rows", op.dst, op.src);
        if (op.add != DEV_NONE) same(p, op.add, op.dst);
    }
    push(p, DEV_OP_MIX)->u.mix = op;
}

void dev_op_copy(dev_plan *p, dev_copy op) {
    if (reg_ok(p, op.dst) && reg_ok(p, op.src)
        && need(p, op.n > 0 && op.width > 0 && op.src_first >= 0 && op.dst_first >= 0 && op.src_stride >= 0 && op.dst_stride >= 0,
                "a copy is empty", op.n, op.width)) {
        need(p, op.src_first + (int64_t)(op.n - 1) * op.src_stride + op.width <= p->regs[op.src].width, "a copy leaves its source", op.src_first, op.src_stride);
        need(p, op.dst_first + (int64_t)(op.n - 1) * op.dst_stride + op.width <= p->regs[op.dst].width, "a copy leaves its target", op.dst_first, op.dst_stride);
        need(p, p->regs[op.dst].wanted == p->regs[op.src].wanted, "registers differ in their kind of rows", op.dst, op.src);
    }
    push(p, DEV_OP_COPY)->u.copy = op;
}

// Both give a row for each wanted one.
static void to_wanted(dev_plan *p, dev_reg dst, dev_reg src) {
    if (reg_ok(p, dst) && reg_ok(p, src))
        need(p, p->regs[dst].wanted && !p->regs[src].wanted && p->regs[dst].width == p->regs[src].width, "a selection needs a wanted register of the same width", dst, src);
}

void dev_op_select(dev_plan *p, dev_select op) {
    to_wanted(p, op.dst, op.src);
    push(p, DEV_OP_SELECT)->u.select = op;
}

void dev_op_pool(dev_plan *p, dev_pool op) {
    to_wanted(p, op.dst, op.src);
    push(p, DEV_OP_POOL)->u.pool = op;
}

void dev_op_output(dev_plan *p, dev_output op) {
    if (op.scale == 0) op.scale = 1;
    need(p, p->n_vocab == 0, "a plan has one output", 0, 0);
    if (reg_ok(p, op.src) && need(p, op.weight != NULL, "an output without weights", 0, 0)) {
        matrix_ok(p, op.weight, p->regs[op.src].width, op.weight->n, 1);
        vector_ok(p, op.bias, op.weight->n);
        p->n_vocab = (int32_t)op.weight->n;
    }
    push(p, DEV_OP_OUTPUT)->u.output = op;
}

void dev_op_hidden(dev_plan *p, dev_reg reg) {
    reg_ok(p, reg);
    push(p, DEV_OP_HIDDEN)->u.hidden = reg;
}

// A part of a layer's state in a recurrent group; layers are counted up after the op is recorded, so prepare looks at them.
static bool state_ok(dev_plan *p, int32_t group, int32_t state_at, int64_t width) {
    return need(p, group >= 0 && group < p->n_groups && p->groups[group].kind == DEV_GROUP_RECURRENT, "a recurrent op needs a recurrent group", group, p->n_groups)
        && need(p, state_at >= 0 && width <= p->groups[group].state_width && state_at <= p->groups[group].state_width - width,
                "a state leaves its page", state_at, p->groups[group].state_width);
}

void dev_op_conv(dev_plan *p, dev_conv op) {
    if (same(p, op.dst, op.src) && need(p, op.taps >= 2 && op.taps <= DEV_MAX_TAPS, "the taps of a convolution are out of range", op.taps, DEV_MAX_TAPS)) {
        int64_t width = p->regs[op.src].width;
        need(p, !p->regs[op.src].wanted, "a recurrent op needs all rows", op.src, 0);
        need(p, op.weight != NULL && !dev_act_gated_only(op.act) && op.act < DEV_ACT_XIELU, "a convolution without weights, or with an activation of two inputs", op.act, 0);
        vector_ok(p, op.weight, width * op.taps);
        vector_ok(p, op.bias, width);
        state_ok(p, op.group, op.state_at, width * (op.taps - 1));
    }
    push(p, DEV_OP_CONV)->u.conv = op;
}

static void width_is(dev_plan *p, dev_reg r, int64_t width) {
    if (reg_ok(p, r)) need(p, p->regs[r].width == width && !p->regs[r].wanted, "a register of a recurrent op has the wrong width", p->regs[r].width, (long)width);
}

void dev_op_scan(dev_plan *p, dev_scan op) {
    if (op.scale == 0) op.scale = 1;
    if (op.a_scale == 0) op.a_scale = 1;
    if (need(p, op.n_head > 0 && op.n_key > 0 && op.n_head % op.n_key == 0 && op.head_k > 0 && op.head_v > 0 && op.head_k <= MAX_WIDTH && op.head_v <= MAX_WIDTH,
             "the heads of a recurrent op do not divide", op.n_head, op.n_key)) {
        int64_t columns = (int64_t)op.n_head * op.head_v, rows = (int64_t)op.n_head * op.head_k;
        int64_t rates = op.rate_kind == DEV_RATE_HEAD ? op.n_head : op.rate_kind == DEV_RATE_KEY ? rows : columns;
        width_is(p, op.dst, columns);
        width_is(p, op.v, columns);
        width_is(p, op.q, (int64_t)op.n_key * op.head_k);
        width_is(p, op.k, (int64_t)op.n_key * op.head_k);
        if (op.rate != DEV_NONE) width_is(p, op.rate, rates);
        need(p, op.kind != DEV_SCAN_DELTA || (op.beta != DEV_NONE && op.rate_kind != DEV_RATE_VALUE), "a delta rule needs a beta, and rates of rows", op.beta, op.rate_kind);
        if (op.beta != DEV_NONE) width_is(p, op.beta, op.n_head);
        if (op.kind == DEV_SCAN_DPLR) {
            width_is(p, op.z, (int64_t)op.n_key * op.head_k);
            width_is(p, op.b, (int64_t)op.n_key * op.head_k);
            need(p, op.rate_kind != DEV_RATE_VALUE, "this recurrence needs rates of rows", op.rate_kind, 0);
        }
        need(p, !op.before || op.kind == DEV_SCAN_SSM, "only a state space can be read before the row", op.kind, 0);
        need(p, op.a != NULL || (op.rate != DEV_NONE && !op.rate_bias && op.rate_kind != DEV_RATE_VALUE), "a recurrent op without decays", op.rate, op.rate_kind);
        vector_ok(p, op.a, op.rate_kind == DEV_RATE_VALUE ? columns * op.head_k : op.n_head);
        vector_ok(p, op.rate_bias, rates);
        if (op.skip && op.skip->k * op.skip->n != op.n_head) vector_ok(p, op.skip, columns);
        state_ok(p, op.group, op.state_at, columns * op.head_k);
    }
    push(p, DEV_OP_SCAN)->u.scan = op;
}

void dev_linear1(dev_plan *p, dev_reg dst, dev_reg src, const dev_tensor *w, const dev_tensor *bias) {
    dev_op_linear(p, (dev_linear){.src = src, .n = 1, .out = {{dst, w, bias, 1, 0}}, .residual = DEV_NONE});
}

void dev_linear_add(dev_plan *p, dev_reg dst, dev_reg src, const dev_tensor *w, const dev_tensor *bias, dev_reg residual) {
    dev_op_linear(p, (dev_linear){.src = src, .n = 1, .out = {{dst, w, bias, 1, 0}}, .epilogue = DEV_EP_RESIDUAL, .residual = residual});
}

void dev_rms(dev_plan *p, dev_reg dst, dev_reg src, const dev_tensor *w, float eps) {
    dev_op_norm(p, (dev_norm){.dst = dst, .src = src, .kind = DEV_NORM_RMS, .eps = eps, .weight = w, .add = DEV_NONE, .sum = DEV_NONE});
}

void dev_add(dev_plan *p, dev_reg dst, dev_reg a, dev_reg b) { dev_op_combine(p, (dev_combine){.dst = dst, .a = a, .b = b, .sa = 1, .sb = 1}); }
void dev_scale(dev_plan *p, dev_reg dst, dev_reg a, float s) { dev_op_combine(p, (dev_combine){.dst = dst, .a = a, .b = DEV_NONE, .sa = s}); }

// ---- preparing and running ------------------------------------------------------------------------------------------------

size_t dev_plan_scratch(const dev_plan *p, int32_t max_rows, int32_t max_wanted) {
    return p->failed || max_rows < 1 || max_wanted < 0 ? SIZE_MAX : p->dev->ops->scratch(p->dev, p, max_rows, max_wanted);
}

static void layer_ok(dev_plan *p, int32_t group, int32_t layer) {
    if (layer < 0 || layer >= p->groups[group].n_layers) fail(p, "a layer is outside its KV group", layer, p->groups[group].n_layers);
}

status dev_plan_prepare(dev_plan *p, int32_t max_rows, int32_t max_wanted, error *err) {
    for (size_t i = 0; i < p->n_ops && !p->failed; i++) {
        const dev_op *o = &p->ops[i];
        if (o->kind == DEV_OP_ATTEND) layer_ok(p, o->u.attend.group, o->u.attend.layer);
        if (o->kind == DEV_OP_CONV) layer_ok(p, o->u.conv.group, o->u.conv.layer);
        if (o->kind == DEV_OP_SCAN) layer_ok(p, o->u.scan.group, o->u.scan.layer);
    }
    if (p->failed) {
        if (err) *err = p->why;
        return p->failed;
    }
    if (max_rows < 1 || max_wanted < 0) return error_set(err, E_USAGE, "a plan needs room for at least one row");
    if (p->backend) return error_set(err, E_USAGE, "the plan is prepared already");
    p->max_rows = max_rows;
    p->max_wanted = max_wanted;
    return p->dev->ops->prepare(p->dev, p, err);
}

static status check_sequence(const dev_plan *p, const dev_seq *s, int i, int32_t next_row, error *err) {
    if (s->n_rows < 1 || s->first_row != next_row) return error_set(err, E_INVALID, "step: sequence %d begins at row %d, expected %d", i, s->first_row, next_row);
    if (s->start < 0 || s->start > INT32_MAX - s->n_rows - DEV_PAGE_TOKENS) return error_set(err, E_INVALID, "step: sequence %d starts at %d", i, s->start);
    for (int g = 0; g < p->n_groups; g++) {
        int32_t need_pages = p->groups[g].kind == DEV_GROUP_RECURRENT ? 1 : (s->start + s->n_rows + DEV_PAGE_TOKENS - 1) / DEV_PAGE_TOKENS;
        if (!s->pages[g] || s->n_pages[g] < need_pages)
            return error_set(err, E_INVALID, "step: sequence %d has %d pages in group %d, it needs %d", i, s->n_pages[g], g, need_pages);
    }
    return OK;
}

status dev_submit(dev_plan *p, dev_kv *kv, const dev_step *s, dev_ticket *ticket, error *err) {
    if (!p->backend) return error_set(err, E_USAGE, "the plan is not prepared");
    if (p->n_groups && !kv) return error_set(err, E_USAGE, "the plan needs KV pages");
    if (s->n_rows < 1 || s->n_rows > p->max_rows) return error_set(err, E_INVALID, "step: %d rows, the plan allows 1 to %d", s->n_rows, p->max_rows);
    if (s->n_wanted < 0 || s->n_wanted > p->max_wanted) return error_set(err, E_INVALID, "step: %d rows wanted, the plan allows %d", s->n_wanted, p->max_wanted);
    if ((!s->tokens && !s->embeddings) || !s->positions) return error_set(err, E_INVALID, "step: no tokens or no positions");
    int32_t next = 0;
    for (int32_t i = 0; i < s->n_seqs; i++) {
        status st = check_sequence(p, &s->seqs[i], i, next, err);
        if (st) return st;
        next += s->seqs[i].n_rows;
    }
    if (next != s->n_rows) return error_set(err, E_INVALID, "step: sequences hold %d rows of %d", next, s->n_rows);
    for (int32_t i = 0; i < s->n_wanted; i++)
        if (s->wanted[i] < 0 || s->wanted[i] >= s->n_rows || (i && s->wanted[i] <= s->wanted[i - 1]))
            return error_set(err, E_INVALID, "step: wanted row %d is out of order or range", s->wanted[i]);
    for (size_t o = 0; o < p->n_ops; o++) {
        if (p->ops[o].kind != DEV_OP_EMBED) continue;
        const dev_embed *e = &p->ops[o].u.embed;
        for (int32_t r = 0; r < s->n_rows; r++) {
            int32_t id = e->by_position ? s->positions[r] : s->tokens ? s->tokens[r] : -1;
            if (id == -1 && s->embeddings && !e->by_position) continue;
            if (id < 0 || id >= e->table->n)
                return error_set(err, E_INVALID, "step: row %d has %s %d, the table has %lld", r, e->by_position ? "position" : "token", id, (long long)e->table->n);
        }
    }
    return p->dev->ops->submit(p->dev, p, kv, s, ticket, err);
}
