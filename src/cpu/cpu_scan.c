// cpu/scan: how recurrent ops are shared out: by sequence, head and columns of its value (a convolution: by sequence and columns). A worker goes
// through all rows of its columns in order, so that the result is the same however a prompt was cut, and no other worker touches that part of the state.
#include "cpu/cpu_internal.h"

static const float *vec(const dev_tensor *t) { return t ? cpu_t(t)->vector : NULL; }

static float *state_of(const cpu_plan *c, const dev_seq *s, int32_t group, int32_t layer, int32_t at) {
    return (float *)cpu_kv_part(&c->kv->groups[group], s->pages[group][0], layer) + at;
}

static float *first_row(const dev_plan *p, dev_reg r, const dev_seq *s, size_t *ld) {
    cpu_reg_view v = cpu_reg(p, r);
    *ld = v.ld;
    return v.at + (size_t)s->first_row * v.ld;
}

void cpu_run_conv(const dev_plan *p, const dev_conv *o, pool_member *team) {
    const cpu_plan *c = p->backend;
    int32_t width = p->regs[o->src].width, blocks = (width + SCAN_COLUMNS - 1) / SCAN_COLUMNS;
    for (size_t item; (item = pool_next(team, 1)) < (size_t)c->step->n_seqs * (size_t)blocks;) {
        const dev_seq *s = &c->step->seqs[item / (size_t)blocks];
        int32_t first = (int32_t)(item % (size_t)blocks) * SCAN_COLUMNS;
        conv_args a = {.rows = s->n_rows, .columns = width - first < SCAN_COLUMNS ? width - first : SCAN_COLUMNS, .taps = o->taps,
            .weight = vec(o->weight) + (size_t)first * (size_t)o->taps, .bias = o->bias ? vec(o->bias) + first : NULL,
            .state = state_of(c, s, o->group, o->layer, o->state_at) + first, .ld_state = (size_t)width, .fresh = s->start == 0, .act = o->act};
        a.src = first_row(p, o->src, s, &a.ld_src) + first;
        a.dst = first_row(p, o->dst, s, &a.ld_dst) + first;
        cpu_dev_const(p->dev)->kernels.conv(&a);
    }
    pool_barrier(team);
}

size_t cpu_scan_scratch(const dev_scan *o) {
    return (size_t)o->head_k + SCAN_COLUMNS + (o->rate_kind == DEV_RATE_VALUE ? (size_t)o->head_k * SCAN_COLUMNS : 0);
}

static void scan_item(const dev_plan *p, const dev_scan *o, const dev_seq *s, int32_t head, int32_t first, float *scratch) {
    const cpu_plan *c = p->backend;
    int32_t key = o->tiled ? head % o->n_key : head / (o->n_head / o->n_key), column = head * o->head_v + first;
    int32_t rate = o->rate_kind == DEV_RATE_HEAD ? head : o->rate_kind == DEV_RATE_KEY ? head * o->head_k : column;
    scan_args a = {.kind = o->kind, .rate_kind = o->rate_kind, .rows = s->n_rows,
        .columns = o->head_v - first < SCAN_COLUMNS ? o->head_v - first : SCAN_COLUMNS, .head_k = o->head_k,
        .rate_bias = o->rate_bias ? vec(o->rate_bias) + rate : NULL, .scale = o->scale, .a_scale = o->a_scale, .ld_state = (size_t)o->head_v,
        .fresh = s->start == 0, .before = o->before, .scratch = scratch,
        .state = state_of(c, s, o->group, o->layer, o->state_at) + (size_t)head * (size_t)o->head_k * (size_t)o->head_v + first};
    if (o->a) a.a = vec(o->a) + (o->rate_kind == DEV_RATE_VALUE ? (size_t)column * (size_t)o->head_k : (size_t)head);
    if (o->skip) {
        a.skip_columns = o->skip->k * o->skip->n != o->n_head;
        a.skip = vec(o->skip) + (a.skip_columns ? column : head);
    }
    a.q = first_row(p, o->q, s, &a.ld_q) + key * o->head_k;
    a.k = first_row(p, o->k, s, &a.ld_k) + key * o->head_k;
    a.v = first_row(p, o->v, s, &a.ld_v) + column;
    a.dst = first_row(p, o->dst, s, &a.ld_dst) + column;
    if (o->kind == DEV_SCAN_DPLR) {
        a.z = first_row(p, o->z, s, &a.ld_z) + key * o->head_k;
        a.b = first_row(p, o->b, s, &a.ld_b) + key * o->head_k;
    }
    if (o->rate != DEV_NONE) a.rate = first_row(p, o->rate, s, &a.ld_rate) + rate;
    if (o->beta != DEV_NONE) a.beta = first_row(p, o->beta, s, &a.ld_beta) + head;
    cpu_dev_const(p->dev)->kernels.scan(&a);
}

void cpu_run_scan(const dev_plan *p, const dev_scan *o, int worker, pool_member *team) {
    const cpu_plan *c = p->backend;
    int32_t blocks = (o->head_v + SCAN_COLUMNS - 1) / SCAN_COLUMNS;
    size_t each = (size_t)o->n_head * (size_t)blocks;
    for (size_t item; (item = pool_next(team, 1)) < (size_t)c->step->n_seqs * each;)
        scan_item(p, o, &c->step->seqs[item / each], (int32_t)(item % each) / blocks, (int32_t)(item % each) % blocks * SCAN_COLUMNS, cpu_worker_scratch(c, worker));
    pool_barrier(team);
}
