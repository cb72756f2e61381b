// A small model's logits on the device that the tests make up.
#pragma once
#include "model/small_model.h"

#include "model/fake_device.h"
#include "model/model.h"

// Loads what was written and computes the logits of n tokens, [n][vocab]: in one piece, then token by token, which must give the same bits. The model is
// gone afterwards; mem_free.
static inline float *small_logits(small_model *m, int n, int vocab) {
    static const int32_t table[2] = {1, 0}; // pages, not in order
    enum { MOST = 2 * DEV_PAGE_TOKENS };
    error err;
    assert_true(n <= MOST);
    small_end(m);
    fake_device dev = {.base = {&fake_ops}};
    model *mod;
    if (model_load(m->g, &dev.base, NULL, &mod, &err)) fail_msg("%s", err.text);
    assert_int_equal(model_get_info(mod)->n_vocab, vocab);
    dev_plan *p = model_plan(mod);
    int32_t n_pages[DEV_MAX_GROUPS] = {2, 2, 2, 2}, tok[MOST], pos[MOST], wanted[MOST];
    size_t row = (size_t)vocab * sizeof(float);
    float *out[2];
    for (int i = 0; i < n; i++) tok[i] = (i * i + 3) % vocab, pos[i] = wanted[i] = i;
    assert_int_equal(dev_plan_prepare(p, n, n, &err), OK);
    for (int way = 0; way < 2; way++) {
        dev_kv *kv;
        dev_ticket t;
        out[way] = mem_alloc((size_t)n * row);
        assert_int_equal(dev_kv_create(&dev.base, p, n_pages, DEV_KV_F32, &kv, &err), OK);
        for (int at = 0, take = way ? 1 : n; at < n; at += take) {
            dev_seq s = {.n_rows = take, .start = at};
            for (int g = 0; g < p->n_groups; g++) s.pages[g] = table, s.n_pages[g] = 2;
            dev_step step = {.n_rows = take, .tokens = tok + at, .positions = pos + at, .n_seqs = 1, .seqs = &s, .n_wanted = take, .wanted = wanted};
            if (dev_submit(p, kv, &step, &t, &err)) fail_msg("%s", err.text);
            for (int i = 0; i < take; i++) memcpy(out[way] + (size_t)(at + i) * (size_t)vocab, dev_logits(p, i), row);
        }
        dev_kv_destroy(&dev.base, kv);
    }
    assert_memory_equal(out[0], out[1], (size_t)n * row);
    for (int i = 0; i < n * vocab; i++) assert_true(isfinite(out[0][i]));
    mem_free(out[1]);
    model_free(mod);
    assert_int_equal(dev.live, 0);
    small_free(m);
    return out[0];
}
