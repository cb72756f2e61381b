// cpu/device: creation, and the table through which everything else is called.
#include "cpu/cpu_internal.h"

static void destroy(device *dev) {
    while (cpu_dev(dev)->tensors) cpu_free_weight(dev, &cpu_dev(dev)->tensors->base);
    pool_destroy(cpu_dev(dev)->pool);
    mem_free(dev);
}

static void info(const device *dev, dev_info *out) {
    const cpu_device *d = cpu_dev_const(dev);
    *out = (dev_info){.name = "cpu", .isa = d->kernels.isa, .threads = pool_threads(d->pool), .nodes = pool_nodes(d->pool),
                      .deterministic = d->deterministic, .weight_bytes = d->weight_bytes};
}

static const dev_ops ops = {
    .destroy = destroy,
    .info = info,
    .measure = cpu_measure,
    .import_weights = cpu_import_weights,
    .free_weight = cpu_free_weight,
    .weight_size = cpu_weight_size,
    .prepare = cpu_plan_prepare,
    .plan_free = cpu_plan_free,
    .scratch = cpu_plan_scratch,
    .page_bytes = cpu_page_bytes,
    .kv_create = cpu_kv_create,
    .kv_destroy = cpu_kv_destroy,
    .kv_copy = cpu_kv_copy,
    .kv_export = cpu_kv_export,
    .kv_import = cpu_kv_import,
    .kv_type = cpu_kv_resolve,
    .submit = cpu_submit,
    .wait = cpu_wait,
    .logits = cpu_logits,
    .peaks = cpu_peaks,
    .hidden = cpu_hidden,
    .reduce = cpu_reduce,
};

status cpu_device_create(const cpu_options *o, device **out, error *err) {
    *out = NULL;
    cpu_device *d = mem_calloc(1, sizeof *d);
    if (!d) return error_set(err, E_NOMEM, "out of memory");
    d->base.ops = &ops;
    d->nodes = o->nodes ? o->nodes : nodes_find();
    status st = cpu_choose_kernels(o->isa, &d->kernels, err);
    if (!st) st = pool_create(o->threads > 0 ? o->threads : pool_default_threads(), d->nodes, &d->pool, err);
    if (st) {
        mem_free(d);
        return st;
    }
    d->kv_auto = o->kv_type == DEV_KV_AUTO ? d->kernels.kv_auto : o->kv_type;
    d->deterministic = o->deterministic || !d->kernels.few_rows;
    *out = &d->base;
    return OK;
}
