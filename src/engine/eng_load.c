#include "engine/eng_load.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/os.h"
#include "cpu/cpu.h"
#include "obs/obs.h"

enum { DEFAULT_CONTEXT = 8192, DEFAULT_PARALLEL = 64, DEFAULT_STEP = 512, MIN_TOKENS = 256, LEAST_STATES = 2 };
static const uint64_t KV_COMFORT = 4ull << 30; // pages beyond this are not reserved unless one sequence needs them

uint32_t eng_context(uint32_t asked, uint32_t trained) {
    if (asked) return asked;
    return trained && trained < DEFAULT_CONTEXT ? trained : DEFAULT_CONTEXT;
}

uint64_t eng_default_memory(void) {
    uint64_t bytes = os_memory(), held = os_process_limits().memory;
    if (held && held < bytes) bytes = held;
    return bytes / 5 * 4;
}

status eng_load_device(const altiserve_options *o, device **out, error *err) {
    if (o->device && *o->device && strcmp(o->device, "cpu"))
        return error_set(err, E_UNSUPPORTED, "this altiserve is built without --device %s; it has: cpu", o->device);
    cpu_options c = {.threads = o->threads, .isa = o->isa, .deterministic = o->deterministic};
    return cpu_device_create(&c, out, err);
}

static status kv_type_of(const char *name, dev_kv_type *out, error *err) {
    static const struct { const char *name; dev_kv_type type; } types[] = {
        {"auto", DEV_KV_AUTO}, {"f32", DEV_KV_F32}, {"f16", DEV_KV_F16}, {"bf16", DEV_KV_BF16}, {"q8_0", DEV_KV_Q8_0}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(name && *name ? name : "auto", types[i].name)) {
            *out = types[i].type;
            return OK;
        }
    return error_set(err, E_USAGE, "--kv-type is one of auto, f16, bf16, q8_0, f32, not \"%s\"", name);
}

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

// Pages that one sequence holds at most while steps of so many rows pass through a window.
static int64_t window_pages(const dev_group *g, int64_t rows) { return (g->window + rows) / DEV_PAGE_TOKENS + 2; }

// Pages of a group when the pool holds `tokens` tokens for up to `parallel` sequences.
static int32_t pages_of(const dev_group *g, int64_t tokens, int64_t parallel, int64_t rows) {
    int64_t pages = (tokens + DEV_PAGE_TOKENS - 1) / DEV_PAGE_TOKENS;
    if (g->kind == DEV_GROUP_WINDOW) pages = min64(pages, 2 * parallel * window_pages(g, rows)); // twice: half for the prefix cache
    return (int32_t)min64(pages, INT32_MAX);
}

// Chooses the number of pages: room for `parallel` whole sequences, at most half of what is left beside the weights (or KV_COMFORT), but one whole
// sequence where that fits at all; a smaller pool cuts the longest sequence, and says so when it is loaded. What was called the least is always enough.
static void size_pages(eng_load_sizes *s, uint64_t left, int64_t parallel) {
    const model_info *info = &s->model.info;
    uint64_t token = s->model.kv_token_bytes ? s->model.kv_token_bytes : 1;
    int64_t context = (int64_t)info->context, fit, tokens = parallel * context;
    uint64_t comfort = left / 2 < KV_COMFORT ? left / 2 : KV_COMFORT, keys = token * MIN_TOKENS, spare = left > keys ? left - keys : 0;
    s->kv = 0;
    for (int i = 0; i < info->n_groups; i++) { // states: one a sequence and as many again as snapshots, within a quarter, but one of each
        if (info->groups[i].kind != DEV_GROUP_RECURRENT) continue;
        uint64_t bytes = s->model.page_bytes[i] ? s->model.page_bytes[i] : 1;
        int64_t n = min64(4 * parallel + 32, (int64_t)((comfort / 4 < spare ? comfort / 4 : spare) / bytes));
        s->n_pages[i] = (int32_t)(n < LEAST_STATES ? LEAST_STATES : min64(n, INT32_MAX));
        s->kv += bytes * (uint64_t)s->n_pages[i];
    }
    left -= s->kv < left ? s->kv : left;
    fit = (int64_t)(left / token) / DEV_PAGE_TOKENS * DEV_PAGE_TOKENS; // in whole pages
    if (tokens > (int64_t)(comfort / token)) tokens = (int64_t)(comfort / token);
    if (tokens < context + DEV_PAGE_TOKENS) tokens = context + DEV_PAGE_TOKENS;
    if (tokens > fit) tokens = fit;
    for (int i = 0; i < info->n_groups; i++) {
        if (info->groups[i].kind == DEV_GROUP_RECURRENT) continue;
        s->n_pages[i] = pages_of(&info->groups[i], tokens, parallel, s->rows);
        s->kv += s->model.page_bytes[i] * (uint64_t)s->n_pages[i];
    }
}

status eng_load_predict(const eng_file *f, const gguf *g, const altiserve_options *o, uint64_t limit, eng_load_sizes *out, error *err) {
    memset(out, 0, sizeof *out);
    device *dev = NULL;
    model_options mo = {.context = f->info.context};
    int parallel = o->parallel ? o->parallel : DEFAULT_PARALLEL;
    out->rows = o->step_tokens ? o->step_tokens : DEFAULT_STEP;
    if (out->rows < parallel) out->rows = parallel;
    out->wanted = parallel; // and room for one sequence with drafts
    if (o->speculation != SPECULATE_OFF && out->wanted < 1 + ALTISERVE_MOST_DRAFTS) out->wanted = out->rows < 1 + ALTISERVE_MOST_DRAFTS ? out->rows : 1 + ALTISERVE_MOST_DRAFTS;
    status s = kv_type_of(o->kv_type, &mo.kv_type, err);
    if (s == OK) s = eng_load_device(o, &dev, err);
    if (s == OK) s = model_predict(g, dev, &mo, out->rows, out->wanted, &out->model, err);
    bool whole = s == OK && out->model.info.whole && out->rows < (int32_t)out->model.info.context; // the whole sequence is one step
    bool exact = s == OK && out->model.info.encoder && mo.kv_type == DEV_KV_AUTO; // keys live for one step: nothing is saved by rounding them
    if (whole) out->rows = (int32_t)out->model.info.context;
    if (exact) mo.kv_type = DEV_KV_F32;
    if (whole || exact) s = model_predict(g, dev, &mo, out->rows, out->wanted, &out->model, err);
    out->kv_type = mo.kv_type;
    dev_destroy(dev);
    if (s != OK) return s;
    uint64_t fixed = out->model.weights + out->model.scratch, least = fixed + out->model.kv_token_bytes * MIN_TOKENS;
    for (int i = 0; i < out->model.info.n_groups; i++)
        if (out->model.info.groups[i].kind == DEV_GROUP_RECURRENT) least += out->model.page_bytes[i] * LEAST_STATES;
    if (least > limit)
        return error_set(err, E_NOMEM, "%s needs at least %llu bytes (weights %llu, scratch %llu) and --memory allows %llu", f->id, (unsigned long long)least,
                         (unsigned long long)out->model.weights, (unsigned long long)out->model.scratch, (unsigned long long)limit);
    size_pages(out, limit - fixed, parallel);
    out->bytes = fixed + out->kv;
    return OK;
}

static status build(eng_model *m, const gguf *g, const altiserve_options *o, const eng_load_sizes *sizes, const eng_load_hooks *hooks, error *err) {
    model_options mo = {.context = m->file->info.context, .kv_type = sizes->kv_type, .progress = hooks->progress, .progress_ctx = hooks->ctx, .cancelled = hooks->cancelled};
    status s = eng_load_device(o, &m->dev, err);
    if (s == OK) s = model_load(g, m->dev, &mo, &m->m, err);
    if (s != OK) return s;
    m->plan = model_plan(m->m);
    m->max_rows = sizes->rows;
    m->max_wanted = sizes->wanted;
    m->kv_type = mo.kv_type;
    memcpy(m->n_pages, sizes->n_pages, sizeof m->n_pages);
    const model_info *info = model_get_info(m->m);
    m->context = info->context;
    uint32_t meant = mo.context ? mo.context : info->n_ctx_train;
    if (info->chosen && meant > info->chosen)
        obs_log(OBS_WARN, "%s: a context of %u tokens, not %u: beyond that its attention sees only the keys that an indexer chooses, which is not built",
                m->file->id, info->chosen, meant);
    s = dev_plan_prepare(m->plan, m->max_rows, m->max_wanted, err);
    if (s == OK && m->plan->n_groups) s = dev_kv_create(m->dev, m->plan, m->n_pages, m->kv_type, &m->kv, err);
    for (int i = 0; s == OK && i < m->plan->n_groups; i++) {
        const dev_group *group = &m->plan->groups[i];
        int64_t room = (int64_t)m->n_pages[i] * DEV_PAGE_TOKENS - DEV_PAGE_TOKENS;
        bool window = group->kind == DEV_GROUP_WINDOW && group->window > 0 && m->n_pages[i] >= window_pages(group, m->max_rows); // then any length passes through
        if (group->kind == DEV_GROUP_RECURRENT || window || room >= (int64_t)m->context) continue;
        obs_log(OBS_WARN, "%s: memory allows a context of %lld tokens, not %u", m->file->id, (long long)room, m->context);
        m->context = (uint32_t)room;
    }
    return s;
}

status eng_load(eng_file *f, const gguf *g, const altiserve_options *o, const eng_load_sizes *sizes, const eng_load_hooks *hooks, eng_model **out, error *err) {
    eng_model *m = mem_calloc(1, sizeof *m);
    if (!m) return error_set(err, E_NOMEM, "no memory to load %s", f->id);
    atomic_store(&m->refs, 1);
    m->file = f;
    atomic_fetch_add(&f->refs, 1);
    m->bytes = sizes->bytes;
    atomic_store(&m->last_used, eng_now_ms());
    status s = build(m, g, o, sizes, hooks, err);
    if (s != OK) {
        eng_load_free(m);
        return s;
    }
    uint32_t trained = f->info.context_trained;
    if (o->context && trained && o->context > trained)
        obs_log(OBS_WARN, "%s was trained for %u tokens; --context %u goes past them", f->id, trained, o->context);
    *out = m;
    return OK;
}

void eng_load_free(eng_model *m) {
    if (m->sched) m->sched_free(m->sched);
    if (m->kv) dev_kv_destroy(m->dev, m->kv);
    model_free(m->m);
    dev_destroy(m->dev);
    eng_file_release(m->file);
    mem_free(m);
}
