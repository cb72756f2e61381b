// device/work: what a step of a plan must do at least, counted from the plan's ops: the numerators of every share of the machine's limit.
#include <math.h>

#include "device/device.h"
#include "quant/quant.h"

typedef struct count {
    const dev_plan *p;
    dev_kv_type kv_type;
    double seqs, rows, start, wanted; // rows: of a sequence
    dev_work w;
} count;

static double rows_of(const count *c, dev_reg r) { return c->p->regs[r].wanted ? c->wanted : c->seqs * c->rows; }

// A stack's matrices, of which `chosen` of all experts are used (1 of 1 where there is no stack); `rows` rows pass through each row's choices.
static void products(count *c, const dev_tensor *t, double rows, double chosen) {
    size_t row = 0;
    if (!t || !quant_row_bytes((int)t->type, (uint64_t)t->k, &row)) return;
    c->w.ops += 2.0 * (double)t->k * (double)t->n * rows;
    c->w.bytes += (double)row * (double)t->n * chosen;
}

static void experts(count *c, const dev_experts *e) {
    double rows = rows_of(c, e->src), n = (double)e->down->experts, each = e->top_k < n ? e->top_k : n;
    double chosen = n * (1 - pow(1 - each / n, rows));
    products(c, e->router, rows, 1);
    products(c, e->gate, rows * e->top_k, chosen);
    products(c, e->up, rows * e->top_k, chosen);
    products(c, e->down, rows * e->top_k, chosen);
}

static void attend(count *c, const dev_attend *a) {
    const dev_group *g = &c->p->groups[a->group];
    double keys = c->start + c->rows, pairs;
    if (a->bidirectional) pairs = c->rows * keys;
    else pairs = c->rows * c->start + c->rows * (c->rows + 1) / 2;
    if (a->window > 0) { // a row sees at most its window
        pairs = fmin(pairs, c->rows * a->window);
        keys = fmin(keys, c->rows + a->window);
    }
    double token = (double)dev_kv_page_bytes(c->p->dev, g, c->kv_type) / (g->n_layers > 0 ? g->n_layers : 1) / DEV_PAGE_TOKENS;
    c->w.ops += 2.0 * a->n_head * (a->head_k + a->head_v) * pairs * c->seqs;
    c->w.bytes += token * keys * c->seqs;
}

static void scan(count *c, const dev_scan *s) {
    double state = (double)s->n_head * s->head_k * s->head_v;
    c->w.ops += 6.0 * state * c->rows * c->seqs; // decay, the new outer product, the query's sum
    c->w.bytes += 2.0 * sizeof(float) * state * c->seqs; // read and written
}

dev_work dev_plan_work(const dev_plan *p, dev_kv_type kv_type, int32_t n_seqs, int32_t rows, int32_t start, int32_t wanted) {
    count c = {p, dev_kv_resolve(p->dev, kv_type), n_seqs, rows, start, wanted, {0, 0}};
    for (size_t i = 0; i < p->n_ops; i++) {
        const dev_op *op = &p->ops[i];
        switch (op->kind) {
        case DEV_OP_LINEAR:
            for (int j = 0; j < op->u.linear.n; j++) products(&c, op->u.linear.out[j].weight, rows_of(&c, op->u.linear.src), 1);
            break;
        case DEV_OP_OUTPUT: products(&c, op->u.output.weight, wanted, 1); break;
        case DEV_OP_EXPERTS: experts(&c, &op->u.experts); break;
        case DEV_OP_ATTEND: attend(&c, &op->u.attend); break;
        case DEV_OP_SCAN: scan(&c, &op->u.scan); break;
        default: break; // a row's own work, which is small beside its products
        }
    }
    return c.w;
}
