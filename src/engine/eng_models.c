// The entries' list and everything in it that changes is under `lock`; loads and scans run without it and take it to publish.
#include "engine/eng_models.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/pool.h"
#include "cpu/cpu.h"
#include "engine/eng_load.h"
#include "engine/eng_reasoning.h"
#include "obs/obs.h"

enum { RESCAN_MS = 1000, KEEP_MS = 2000, MAX_ENTRIES = 10000 };

// ---- one version of a file -----------------------------------------------------------------------

status eng_file_open(const eng_file *f, gguf **out, error *err) {
    if (f->path[0]) return gguf_open(f->path, out, err);
    size_t bytes;
    const void *data = eng_toy_data(&bytes);
    return gguf_open_memory(data, bytes, "toy-1 (built in)", out, err);
}

static void copy_str(char *dst, size_t size, gguf_str s) {
    size_t n = s.len < size - 1 ? s.len : size - 1;
    memcpy(dst, s.ptr, n);
    dst[n] = 0;
}

// The type that most bytes of the weights are in.
static const char *main_type(const gguf *g) {
    uint64_t bytes[64] = {0};
    int best = 0;
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        if (t->type >= 0 && t->type < 64) bytes[t->type] += t->bytes;
    }
    for (int i = 1; i < 64; i++)
        if (bytes[i] > bytes[best]) best = i;
    const quant_traits *q = quant_type_traits(best);
    return q && q->name ? q->name : "";
}

static status read_info(eng_file *f, const gguf *g, uint32_t context, error *err) {
    altiserve_model_info *info = &f->info;
    gguf_str s;
    char key[128];
    if (gguf_get_string(g, "general.architecture", &s, err) != OK) return err ? err->code : E_INVALID;
    copy_str(info->architecture, sizeof info->architecture, s);
    snprintf(info->quantization, sizeof info->quantization, "%s", main_type(g));
    for (size_t i = 0; i < gguf_tensor_count(g); i++) info->parameters += gguf_tensor_elems(gguf_tensor_at(g, i));
    for (uint32_t i = 0; i < gguf_files(g); i++) info->file_bytes += gguf_file_bytes(g, i);
    info->has_template = gguf_find(g, "tokenizer.chat_template") != NULL;
    info->thinks = gguf_get_string(g, "tokenizer.chat_template", &s, NULL) == OK && eng_reasoning_known(s.ptr, s.len);
    const struct { const char *name; uint32_t *to; } numbers[] = {
        {"context_length", &info->context_trained}, {"embedding_length", &info->embedding}, {"block_count", &info->layers}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        snprintf(key, sizeof key, "%s.%s", info->architecture, numbers[i].name);
        gguf_get_u32_or(g, key, 0, numbers[i].to, NULL);
    }
    const gguf_value *tokens = gguf_find(g, "tokenizer.ggml.tokens");
    if (tokens) info->vocabulary = (uint32_t)gguf_value_count(tokens);
    info->context = eng_context(context, info->context_trained);
    const struct { const char *key; float *to; } sampling[] = {
        {"general.sampling.temp", &f->defaults.temperature}, {"general.sampling.top_p", &f->defaults.top_p}, {"general.sampling.min_p", &f->defaults.min_p},
        {"general.sampling.penalty_repeat", &f->defaults.repetition_penalty}};
    for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++) gguf_get_f32_or(g, sampling[i].key, *sampling[i].to, sampling[i].to, NULL);
    uint32_t n;
    if (gguf_get_u32(g, "general.sampling.top_k", &n, NULL) == OK && n < 1u << 30) f->defaults.top_k = (int)n;
    model_info what;
    status known = model_describe(g, &what, err);
    if (known != OK) return known;
    f->info.generates = what.generates;
    f->info.ranks = what.pooling == MODEL_POOL_RANK;
    f->info.embeds = !f->info.ranks;
    f->info.embedding_model = what.encoder || what.pooled;
    f->info.embedding_width = what.n_out;
    return tok_check(g, err);
}

// It could not be read, for the system or memory said no: that says nothing about the file, which is looked at again at every scan.
static bool is_unread(const eng_file *f) { return f->servable == E_IO || f->servable == E_NOMEM; }

// What is known from the metadata. The file is listed whatever happens; info.state and info.error say how it is.
static eng_file *file_create(const char *id, const char *path, uint64_t stamp, int64_t modified, uint32_t context, bool keep_open) {
    eng_file *f = mem_calloc(1, sizeof *f);
    if (!f) return NULL;
    atomic_store(&f->refs, 1);
    pthread_mutex_init(&f->text_lock, NULL);
    snprintf(f->id, sizeof f->id, "%s", id);
    snprintf(f->path, sizeof f->path, "%s", path);
    snprintf(f->info.id, sizeof f->info.id, "%s", id);
    snprintf(f->info.path, sizeof f->info.path, "%s", path);
    f->stamp = stamp;
    f->info.created = modified;
    f->defaults = (altiserve_sampling){.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .repetition_last_n = -1};
    gguf *g = NULL;
    error err = {0};
    status s = eng_file_open(f, &g, &err);
    if (s == OK) s = read_info(f, g, context, &err);
    if (keep_open && s == OK) atomic_store(&f->opened, g);
    else gguf_close(g);
    f->servable = s;
    f->info.state = s == OK ? MODEL_UNLOADED : s == E_INCOMPLETE || is_unread(f) ? MODEL_INCOMPLETE : MODEL_BROKEN;
    if (s != OK) snprintf(f->info.error, sizeof f->info.error, "%s", err.text);
    return f;
}

void eng_file_release(eng_file *f) {
    if (!f || atomic_fetch_sub(&f->refs, 1) != 1) return;
    gguf_close(atomic_load(&f->opened));
    tok_destroy(f->tok);
    chat_template_free(f->tmpl);
    mem_free(f->rank_template);
    pthread_mutex_destroy(&f->text_lock);
    mem_free(f);
}

static void special_text(const tokenizer *t, tok_role role, char *out, size_t size) {
    size_t n = 0;
    int32_t id = tok_special(t, role);
    const char *text = id >= 0 ? tok_piece(t, id, &n) : "";
    copy_str(out, size, (gguf_str){text, n});
}

static status make_text(eng_file *f, const gguf *g, error *err) {
    gguf_str source;
    status s = OK;
    if (!f->tok) {
        s = tok_create(g, &f->tok, err);
        if (s == OK && *tok_warning(f->tok)) obs_log(OBS_WARN, "%s: %s", f->id, tok_warning(f->tok));
    }
    if (s == OK && gguf_get_string(g, "tokenizer.chat_template", &source, NULL) == OK && source.len) {
        // A template that cannot be compiled leaves the vocabulary usable: chat requests get the reason. For want of memory it is tried again.
        error why = {0};
        status compiled = f->tmpl ? OK : chat_template_compile(source.ptr, source.len, &f->tmpl, &why);
        if (compiled == E_NOMEM) s = error_set(err, E_NOMEM, "%s", why.text);
        else if (compiled != OK) obs_log(OBS_WARN, "%s: chat template: %s", f->id, why.text);
        f->own_template = true;
    } else if (s == OK && f->info.generates) {
        const char *chatml = chat_default_template();
        if (!f->tmpl) s = chat_template_compile(chatml, strlen(chatml), &f->tmpl, err);
        obs_log(OBS_INFO, "%s: the file has no chat template; conversations are written as ChatML", f->id);
    }
    if (s == OK && f->info.ranks && !f->rank_template && gguf_get_string(g, "tokenizer.chat_template.rerank", &source, NULL) == OK && source.len)
        if (!(f->rank_template = mem_strndup(source.ptr, source.len))) s = error_set(err, E_NOMEM, "no memory for the ranking template of %s", f->id);
    if (s == OK) {
        special_text(f->tok, TOK_BOS, f->bos, sizeof f->bos);
        special_text(f->tok, TOK_EOS, f->eos, sizeof f->eos);
        f->text_ready = true;
    }
    return s;
}

status eng_file_servable(const eng_file *f, error *err) {
    return f->servable == OK ? OK : error_set(err, f->servable, "%s", f->info.error);
}

// The file, open; the caller closes it.
static status take_open(eng_file *f, gguf **out, error *err) {
    *out = atomic_exchange(&f->opened, NULL);
    return *out ? OK : eng_file_open(f, out, err);
}

// g: the file where it is open already, else NULL.
static status file_text(eng_file *f, const gguf *g, error *err) {
    gguf *own = NULL;
    pthread_mutex_lock(&f->text_lock);
    status s = OK;
    if (!f->text_ready) {
        if (!g) s = take_open(f, &own, err);
        if (s == OK) s = make_text(f, g ? g : own, err);
        gguf_close(own);
    }
    pthread_mutex_unlock(&f->text_lock);
    return s;
}

status eng_file_text(eng_file *f, error *err) { return file_text(f, NULL, err); }

// ---- the list ------------------------------------------------------------------------------------

struct eng_models {
    altiserve_options o;
    char            dir[1024];
    eng_file      **files; // sorted by id; toy-1 is apart
    size_t          n_files, cap_files;
    eng_file       *toy;
    eng_file      **opened; // files named by path
    size_t          n_opened, cap_opened;
    pthread_mutex_t lock, scan_lock;
    pthread_cond_t  wake, tick; // the loader's: something is wanted, or memory may be free; the watcher's
    pthread_t       loader, watcher;
    bool            has_loader, has_watcher, stop;
    uint64_t        limit, used; // the ledger
    uint64_t        asked;       // loads, so far: they are numbered
    eng_file       *loading;     // borrowed; for progress
    _Atomic uint64_t done, total;
    void          (*changed)(void *ctx);
    void           *ctx;
};

// "name-00001-of-00003" -> part 1 of 3; the stem's length without the suffix, or 0 when it has none.
static size_t split_stem(const char *stem, unsigned *part, unsigned *parts) {
    size_t n = strlen(stem);
    int used = 0;
    if (n <= 15 || sscanf(stem + n - 15, "-%5u-of-%5u%n", part, parts, &used) != 2 || used != 15 || !*parts) return 0;
    return n - 15;
}

// One number for the sizes and times of the file (of all parts): false when it is not there.
static bool file_stamp(const char *path, uint64_t *stamp, int64_t *modified) {
    char part_path[1100];
    unsigned part, parts = 1;
    size_t stem_len = strlen(path), base = 0;
    snprintf(part_path, sizeof part_path, "%s", path);
    if (stem_len > 5 && stem_len < sizeof part_path) {
        part_path[stem_len - 5] = 0; // without .gguf
        base = split_stem(part_path, &part, &parts);
        if (!base || parts > 4096) parts = 1, base = 0;
    }
    *stamp = 14695981039346656037u;
    for (unsigned i = 1; i <= parts; i++) {
        struct stat st = {0};
        if (base) snprintf(part_path, sizeof part_path, "%.*s-%05u-of-%05u.gguf", (int)base, path, i, parts);
        else snprintf(part_path, sizeof part_path, "%s", path);
        bool there = stat(part_path, &st) == 0 && S_ISREG(st.st_mode);
        if (!there && i == 1) return false;
        struct timespec when = os_modified(&st);
        const uint64_t facts[] = {there ? (uint64_t)st.st_size : UINT64_MAX, (uint64_t)when.tv_sec, (uint64_t)when.tv_nsec, (uint64_t)st.st_ino};
        for (size_t k = 0; k < sizeof facts / sizeof *facts; k++) *stamp = (*stamp ^ facts[k]) * 1099511628211u;
        if (i == 1) *modified = when.tv_sec;
    }
    return true;
}

// The id for a file's name, or false when it is none of ours (or a later part of a split model).
static bool id_of(const char *name, char *id, size_t size) {
    size_t n = strlen(name);
    if (n < 6 || strcasecmp(name + n - 5, ".gguf") || name[0] == '.' || n - 5 >= size) return false;
    memcpy(id, name, n - 5);
    id[n - 5] = 0;
    unsigned part, parts;
    size_t stem = split_stem(id, &part, &parts);
    if (!stem) return true;
    id[stem] = 0;
    return part == 1;
}

static int by_id(const void *a, const void *b) { return strcmp((*(eng_file *const *)a)->id, (*(eng_file *const *)b)->id); }

static void log_listed(const eng_file *f) {
    if (f->info.state == MODEL_BROKEN) obs_log(OBS_WARN, "%s cannot be served: %s", f->id, f->info.error);
    else if (is_unread(f)) obs_log(OBS_WARN, "%s could not be read, and is tried again: %s", f->id, f->info.error);
    else if (f->info.state == MODEL_INCOMPLETE) obs_log(OBS_WARN, "%s is incomplete, and tried again when it changes: %s", f->id, f->info.error);
    else obs_log(OBS_INFO, "%s: %s, %s, %.1f MB", f->id, f->info.architecture, f->info.quantization, (double)f->info.file_bytes / 1e6);
}

// The load that was wanted is over. Under the lock.
static void want_no_more(eng_file *f) {
    f->wanted = f->needs = 0;
    f->until = 0;
    f->load_beside = false;
}

// Lets go of a version that is no longer listed. Called without the lock.
static void unlist(eng_models *ms, eng_file *f) {
    pthread_mutex_lock(&ms->lock);
    eng_model *loaded = f->loaded;
    f->loaded = NULL;
    want_no_more(f);
    pthread_mutex_unlock(&ms->lock);
    eng_model_release(loaded);
    eng_file_release(f);
}

// Everything that can be loaded: the folder's files, those named by path, toy-1. Under the lock.
static size_t count_all(const eng_models *ms) { return ms->n_files + ms->n_opened + 1; }

static eng_file *file_at(const eng_models *ms, size_t i) {
    return i < ms->n_files ? ms->files[i] : i < ms->n_files + ms->n_opened ? ms->opened[i - ms->n_files] : ms->toy;
}

static eng_file *find_listed(eng_models *ms, const char *id) { // under the lock
    for (size_t i = 0; i < ms->n_files; i++)
        if (!strcmp(ms->files[i]->id, id)) return ms->files[i];
    return NULL;
}

// Takes (not copies) the new list; what was listed before and is not in it is let go.
static bool publish(eng_models *ms, eng_file **list, size_t n, size_t cap) {
    if (n) qsort(list, n, sizeof *list, by_id);
    pthread_mutex_lock(&ms->lock);
    eng_file **old = ms->files;
    size_t n_old = ms->n_files;
    ms->files = list;
    ms->n_files = n;
    ms->cap_files = cap;
    pthread_mutex_unlock(&ms->lock);
    bool changed = n != n_old;
    for (size_t i = 0; i < n_old; i++) {
        bool kept = false;
        for (size_t k = 0; k < n && !kept; k++) kept = list[k] == old[i];
        if (kept) continue;
        changed = true;
        obs_log(OBS_INFO, "%s was removed or replaced", old[i]->id);
        unlist(ms, old[i]);
    }
    mem_free(old);
    return changed;
}

void eng_models_rescan(eng_models *ms) {
    if (!ms->dir[0]) return;
    pthread_mutex_lock(&ms->scan_lock); // one scan at a time: only scans change the list
    DIR *dir = opendir(ms->dir);
    eng_file **list = NULL;
    size_t n = 0, cap = 0;
    bool fresh = false, failed = !dir && errno != ENOENT && errno != ENOTDIR; // want of file descriptors is no empty folder
    for (struct dirent *d; dir && n < MAX_ENTRIES && (d = readdir(dir));) {
        char id[256], path[1024 + 300];
        uint64_t stamp;
        int64_t modified;
        if (!id_of(d->d_name, id, sizeof id)) continue;
        snprintf(path, sizeof path, "%s/%s", ms->dir, d->d_name);
        if (strlen(path) >= sizeof((eng_file *)0)->path || !file_stamp(path, &stamp, &modified)) continue;
        bool twice = false;
        for (size_t i = 0; i < n && !twice; i++) twice = !strcmp(list[i]->id, id); // a split set beside a whole file of that name
        if (twice) continue;
        eng_file *before = find_listed(ms, id), *f = before;
        bool same = before && before->stamp == stamp && !strcmp(before->path, path);
        if (!same || is_unread(before)) f = file_create(id, path, stamp, modified, ms->o.context, false);
        if (f && f != before && same && f->servable == before->servable) { // as it was
            eng_file_release(f);
            f = before;
        }
        if (f && f != before) {
            fresh = true;
            log_listed(f);
        }
        if (!f || !mem_grow((void **)&list, &cap, n + 1, sizeof *list)) {
            if (f != before) eng_file_release(f);
            failed = true;
            break;
        }
        list[n++] = f;
    }
    if (dir) closedir(dir);
    if (failed) { // keep what is listed
        for (size_t i = 0; i < n; i++)
            if (find_listed(ms, list[i]->id) != list[i]) eng_file_release(list[i]);
        mem_free(list);
    } else if (publish(ms, list, n, cap) || fresh) {
        if (ms->changed) ms->changed(ms->ctx);
    }
    pthread_mutex_unlock(&ms->scan_lock);
}

// A file named by its path, outside the folder: listed under no name, kept until it changes. The list is read under either lock and changed under both.
static eng_file *find_path(eng_models *ms, const char *path) {
    uint64_t stamp;
    int64_t modified;
    if (!file_stamp(path, &stamp, &modified)) return NULL;
    pthread_mutex_lock(&ms->scan_lock);
    eng_file *f = NULL;
    for (size_t i = 0; i < ms->n_opened; i++)
        if (!strcmp(ms->opened[i]->path, path)) {
            f = ms->opened[i];
            if (f->stamp == stamp && !is_unread(f)) break;
            pthread_mutex_lock(&ms->lock);
            ms->opened[i] = ms->opened[--ms->n_opened];
            pthread_mutex_unlock(&ms->lock);
            unlist(ms, f);
            if (ms->changed) ms->changed(ms->ctx); // who waits for it is told
            f = NULL;
            break;
        }
    if (!f) {
        const char *slash = strrchr(path, '/');
        char id[256];
        if (!id_of(slash ? slash + 1 : path, id, sizeof id)) snprintf(id, sizeof id, "%s", slash ? slash + 1 : path);
        f = strlen(path) < sizeof f->path ? file_create(id, path, stamp, modified, ms->o.context, true) : NULL;
        pthread_mutex_lock(&ms->lock);
        bool listed = f && mem_grow((void **)&ms->opened, &ms->cap_opened, ms->n_opened + 1, sizeof *ms->opened);
        if (listed) ms->opened[ms->n_opened++] = f;
        pthread_mutex_unlock(&ms->lock);
        if (!listed) {
            eng_file_release(f);
            f = NULL;
        }
    }
    if (f) atomic_fetch_add(&f->refs, 1);
    pthread_mutex_unlock(&ms->scan_lock);
    return f;
}

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

// What ids there are, for the sentence of E_NOTFOUND.
static status not_found(eng_models *ms, const char *id, error *err) {
    char names[300] = "";
    size_t used = 0;
    for (size_t i = 0; i < ms->n_files && used < sizeof names - 64; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%.50s", i ? ", " : "", ms->files[i]->id);
    if (!ms->n_files) snprintf(names, sizeof names, "toy-1");
    return *id ? error_set(err, E_NOTFOUND, "no model \"%.100s\"; there is: %s", id, names)
               : error_set(err, E_INVALID, "name a model; there is: %s", names);
}

static status find(eng_models *ms, const char *id, bool paths, eng_file **out, error *err) {
    if (!id) id = "";
    pthread_mutex_lock(&ms->lock);
    eng_file *f = find_listed(ms, id);
    if (!f && *id == 0) f = ms->n_files == 1 ? ms->files[0] : ms->n_files == 0 ? ms->toy : NULL;
    if (!f && !strcmp(id, "toy-1")) f = ms->toy;
    if (f) atomic_fetch_add(&f->refs, 1);
    pthread_mutex_unlock(&ms->lock);
    if (!f && *id && paths) {
        f = find_path(ms, id);
        if (!f && is_folder(id)) return error_set(err, E_NOTFOUND, "%.200s is a folder; name a .gguf file in it", id);
    }
    if (!f) {
        pthread_mutex_lock(&ms->lock);
        status s = not_found(ms, id, err);
        pthread_mutex_unlock(&ms->lock);
        return s;
    }
    *out = f;
    return OK;
}

status eng_models_find(eng_models *ms, const char *id, eng_file **out, error *err) { return find(ms, id, ms->o.open_paths, out, err); }

status eng_models_open(eng_models *ms, const char *id, eng_file **out, error *err) { return find(ms, id, true, out, err); }

void eng_models_info(eng_models *ms, eng_file *f, altiserve_model_info *out) {
    pthread_mutex_lock(&ms->lock);
    *out = f->info;
    if (f->loaded) {
        const model_info *m = model_get_info(f->loaded->m);
        out->state = MODEL_READY;
        out->weight_bytes = m->weight_bytes;
        out->memory_bytes = f->loaded->bytes;
        out->vocabulary = m->n_vocab;
        out->context = f->loaded->context;
    } else if (f->wanted) {
        out->state = MODEL_LOADING;
    }
    pthread_mutex_unlock(&ms->lock);
}

void eng_models_each(eng_models *ms, void (*fn)(void *, const altiserve_model_info *), void *ctx) {
    pthread_mutex_lock(&ms->lock);
    size_t n = ms->n_files ? ms->n_files : 1;
    eng_file **copy = mem_calloc(n, sizeof *copy);
    for (size_t i = 0; copy && i < n; i++) {
        copy[i] = ms->n_files ? ms->files[i] : ms->toy;
        atomic_fetch_add(&copy[i]->refs, 1);
    }
    pthread_mutex_unlock(&ms->lock);
    for (size_t i = 0; copy && i < n; i++) {
        altiserve_model_info info;
        eng_models_info(ms, copy[i], &info);
        fn(ctx, &info);
        eng_file_release(copy[i]);
    }
    mem_free(copy);
}

// ---- the ledger and loading ----------------------------------------------------------------------

void eng_model_hold(eng_model *m) { atomic_fetch_add(&m->refs, 1); }

void eng_model_helped_by(eng_model *m, eng_model *helper) {
    pthread_mutex_lock(&m->owner->lock);
    m->helper = helper;
    pthread_mutex_unlock(&m->owner->lock);
}

void eng_model_release(eng_model *m) {
    if (!m) return;
    eng_models *ms = m->owner;
    atomic_store(&m->last_used, eng_now_ms());
    int before = atomic_fetch_sub(&m->refs, 1);
    if (before > 2) return;
    uint64_t bytes = 0;
    if (before == 1) {
        bytes = m->bytes;
        char id[256];
        snprintf(id, sizeof id, "%s", m->file->id);
        eng_load_free(m);
        obs_count(OBS_UNLOADS, id, NULL, 1);
    }
    pthread_mutex_lock(&ms->lock);
    ms->used -= bytes;
    pthread_cond_signal(&ms->wake); // it is freed, or idle: a load may wait for the room
    pthread_mutex_unlock(&ms->lock);
}

static bool is_idle(const eng_file *f) {
    const eng_model *m = f->loaded;
    return m && atomic_load(&m->refs) == 1 && (m->taken || eng_now_ms() - atomic_load(&m->last_used) >= KEEP_MS);
}

// Nobody but idle models holds it, whom it helps: it is idle as soon as they are dropped.
static bool helps_idle(const eng_models *ms, const eng_model *m) {
    int held = 0;
    for (size_t i = 0; i < count_all(ms); i++) held += is_idle(file_at(ms, i)) && file_at(ms, i)->loaded->helper == m;
    return held && atomic_load(&m->refs) == 1 + held;
}

// What a load can have: bytes that are free, or that idle models and their helpers hold. Under the lock.
static uint64_t room(const eng_models *ms) {
    uint64_t bytes = ms->limit - ms->used;
    for (size_t i = 0; i < count_all(ms); i++) {
        const eng_file *f = file_at(ms, i);
        if (is_idle(f) || (f->loaded && helps_idle(ms, f->loaded))) bytes += f->loaded->bytes;
    }
    return bytes;
}

// The idle model that was not used for longest. Under the lock; the caller releases what it gets.
static eng_model *take_idle(eng_models *ms) {
    eng_file *oldest = NULL;
    for (size_t i = 0; i < count_all(ms); i++) {
        eng_file *f = file_at(ms, i);
        if (!is_idle(f)) continue;
        if (!oldest || atomic_load(&f->loaded->last_used) < atomic_load(&oldest->loaded->last_used)) oldest = f;
    }
    if (!oldest) return NULL;
    eng_model *m = oldest->loaded;
    oldest->loaded = NULL;
    return m;
}

status eng_models_unload(eng_models *ms, eng_file *f, error *err) {
    status s = OK;
    pthread_mutex_lock(&ms->lock);
    eng_model *m = is_idle(f) ? f->loaded : NULL;
    if (m) f->loaded = NULL;
    else if (f->loaded) s = error_set(err, E_BUSY, "%s serves requests: it can be unloaded when they have ended", f->id);
    else if (f->wanted) s = error_set(err, E_BUSY, "%s is being loaded for who asked for it", f->id);
    pthread_mutex_unlock(&ms->lock);
    if (m) obs_log(OBS_INFO, "%s is unloaded, as was asked", f->id);
    eng_model_release(m);
    return s;
}

// One load. The tokenizer is made in a thread of its own while the pool reads weights; a model without one is no use, so its failure ends the load.
typedef struct load_job {
    eng_models *ms;
    eng_file   *f;
    const gguf *g;
    status      text; // valid once its thread was joined
    error       text_err;
    bool        no_text; // under the models' lock
} load_job;

// Under the lock.
static bool given_up(const load_job *j) { return j->ms->stop || !j->f->wanted || j->no_text; }

// Reserves bytes, dropping idle models where that makes the room. E_BUSY: it does not, and the load waits.
static status reserve(const load_job *j, uint64_t bytes, error *err) {
    eng_models *ms = j->ms;
    eng_file *f = j->f;
    if (bytes > ms->limit)
        return error_set(err, E_NOMEM, "%s needs %llu bytes and --memory allows %llu: give more memory, a smaller --context, or a smaller model", f->id,
                         (unsigned long long)bytes, (unsigned long long)ms->limit);
    pthread_mutex_lock(&ms->lock);
    status s = OK;
    bool first = !f->needs;
    while (s == OK && ms->used + bytes > ms->limit) {
        eng_model *idle = NULL;
        if (given_up(j)) {
            s = error_set(err, E_CANCELLED, "loading was cancelled");
        } else if (room(ms) >= bytes && (idle = take_idle(ms))) {
            pthread_mutex_unlock(&ms->lock);
            obs_log(OBS_INFO, "%s is unloaded to make room for %s", idle->file->id, f->id);
            eng_model_release(idle);
            pthread_mutex_lock(&ms->lock);
        } else if (eng_now_ms() < f->until) {
            f->needs = bytes;
            s = E_BUSY;
        } else {
            s = error_set(err, E_NOMEM, "%s needs %llu bytes; %llu of %llu are free while other models serve requests", f->id, (unsigned long long)bytes,
                          (unsigned long long)(ms->limit - ms->used), (unsigned long long)ms->limit);
        }
    }
    if (s == OK) ms->used += bytes;
    pthread_mutex_unlock(&ms->lock);
    if (s == E_BUSY && first) obs_log(OBS_INFO, "%s waits for memory with which other models serve requests", f->id);
    return s;
}

static void give_back(eng_models *ms, uint64_t bytes) {
    pthread_mutex_lock(&ms->lock);
    ms->used -= bytes;
    pthread_mutex_unlock(&ms->lock);
}

static void on_progress(void *ctx, uint64_t done, uint64_t total) {
    load_job *j = ctx;
    uint64_t before = atomic_exchange(&j->ms->done, done);
    atomic_store(&j->ms->total, total);
    if (total && before * 4 / total != done * 4 / total) obs_log(OBS_INFO, "%s: %d %% loaded", j->f->id, (int)(done * 100 / total));
}

static bool is_cancelled(void *ctx) {
    load_job *j = ctx;
    pthread_mutex_lock(&j->ms->lock);
    bool stop = given_up(j);
    pthread_mutex_unlock(&j->ms->lock);
    return stop;
}

static status load_weights(load_job *j, eng_model **out, error *err) {
    eng_models *ms = j->ms;
    eng_load_sizes sizes;
    eng_load_hooks hooks = {on_progress, is_cancelled, j};
    pthread_mutex_lock(&ms->lock);
    uint64_t most = j->f->load_beside ? ms->limit - ms->used : ms->limit;
    pthread_mutex_unlock(&ms->lock);
    status s = eng_load_predict(j->f, j->g, &ms->o, most, &sizes, err);
    if (s == OK) s = reserve(j, sizes.bytes, err);
    if (s != OK) return s;
    s = eng_load(j->f, j->g, &ms->o, &sizes, &hooks, out, err);
    if (s != OK) {
        give_back(ms, sizes.bytes);
        return s;
    }
    (*out)->owner = ms;
    return OK;
}

static void *text_main(void *arg) {
    load_job *j = arg;
    j->text = file_text(j->f, j->g, &j->text_err);
    if (j->text == OK) return NULL;
    pthread_mutex_lock(&j->ms->lock);
    j->no_text = true;
    pthread_mutex_unlock(&j->ms->lock);
    return NULL;
}

// E_BUSY: there is no room yet.
static status load(eng_models *ms, eng_file *f, eng_model **out, error *err) {
    gguf *g;
    status s = take_open(f, &g, err);
    if (s != OK) return s;
    load_job j = {.ms = ms, .f = f, .g = g};
    pthread_t thread;
    bool beside = pthread_create(&thread, NULL, text_main, &j) == 0;
    if (!beside) text_main(&j);
    s = load_weights(&j, out, err);
    if (beside) pthread_join(thread, NULL);
    if (s == E_BUSY && j.text == OK) g = atomic_exchange(&f->opened, g); // goes on with what it began with
    gguf_close(g);
    if (j.text == OK) return s;
    if (s == OK) eng_model_release(*out);
    *out = NULL;
    *err = j.text_err;
    return j.text;
}

static void load_one(eng_models *ms, eng_file *f) {
    error err = {0};
    eng_model *m = NULL;
    int64_t begin = eng_now_ms();
    status s = load(ms, f, &m, &err);
    if (s == E_BUSY) { // still wanted
        pthread_mutex_lock(&ms->lock);
        ms->loading = NULL;
        pthread_mutex_unlock(&ms->lock);
        return;
    }
    double seconds = (double)(eng_now_ms() - begin) / 1000;
    dev_info info = {.nodes = 1};
    char where[40] = "";
    if (s == OK) dev_get_info(m->dev, &info);
    if (info.nodes > 1) snprintf(where, sizeof where, " on %d memory nodes", info.nodes);
    if (s == OK) obs_log(OBS_INFO, "%s: loaded in %.2f s, context %u, %.1f MB%s", f->id, seconds, m->context, (double)m->bytes / 1e6, where);
    else if (s != E_CANCELLED) obs_log(OBS_ERROR, "%s: not loaded: %s", f->id, err.text);
    obs_count(OBS_LOADS, f->id, s == OK ? "ok" : "error", 1);
    if (s == OK) obs_observe(OBS_LOAD_SECONDS, f->id, NULL, seconds);
    pthread_mutex_lock(&ms->lock);
    ms->loading = NULL;
    bool wanted = f->wanted;
    want_no_more(f);
    if (s == OK && wanted) {
        f->loaded = m;
        atomic_store(&m->last_used, eng_now_ms());
        m = NULL;
        f->failed_at = 0;
    } else {
        if (s == OK) error_set(&err, E_CANCELLED, "%s was replaced while it was loaded", f->id);
        f->failed_at = eng_now_ms();
        f->load_error = err;
    }
    pthread_mutex_unlock(&ms->lock);
    eng_model_release(m);
    if (ms->changed) ms->changed(ms->ctx);
}

// Of the wanted files that can go on, the one that was asked for first (a reference); one whose time is up goes on to its end. NULL: there is none,
// and without a signal there is none for *wait ms (0: ever). Under the lock.
static eng_file *next_wanted(eng_models *ms, int64_t *wait) {
    uint64_t bytes = room(ms);
    int64_t now = eng_now_ms();
    eng_file *next = NULL;
    *wait = 0; // where memory is lacking, no longer than a model that nobody comes for is kept
    for (size_t i = 0; i < count_all(ms); i++) {
        eng_file *f = file_at(ms, i);
        if (!f->wanted) continue;
        if (f->needs > bytes && now < f->until) {
            if (!*wait) *wait = KEEP_MS;
            if (f->until - now < *wait) *wait = f->until - now;
        } else if (!next || f->wanted < next->wanted) {
            next = f;
        }
    }
    if (next) atomic_fetch_add(&next->refs, 1);
    return next;
}

static void *loader_main(void *arg) {
    eng_models *ms = arg;
    pthread_mutex_lock(&ms->lock);
    while (!ms->stop) {
        int64_t wait;
        eng_file *f = next_wanted(ms, &wait);
        if (!f) {
            if (wait) os_cond_wait_for(&ms->wake, &ms->lock, wait);
            else pthread_cond_wait(&ms->wake, &ms->lock);
            continue;
        }
        bool first = !f->until;
        if (first) f->until = eng_now_ms() + ms->o.load_timeout_ms;
        ms->loading = f;
        atomic_store(&ms->done, 0);
        atomic_store(&ms->total, 0);
        pthread_mutex_unlock(&ms->lock);
        if (first) obs_log(OBS_INFO, "%s: loading", f->id);
        load_one(ms, f);
        eng_file_release(f);
        pthread_mutex_lock(&ms->lock);
    }
    pthread_mutex_unlock(&ms->lock);
    return NULL;
}

static void *watcher_main(void *arg) {
    eng_models *ms = arg;
    pthread_mutex_lock(&ms->lock);
    while (!ms->stop) {
        os_cond_wait_for(&ms->tick, &ms->lock, RESCAN_MS);
        if (ms->stop) break;
        pthread_mutex_unlock(&ms->lock);
        eng_models_rescan(ms);
        pthread_mutex_lock(&ms->lock);
    }
    pthread_mutex_unlock(&ms->lock);
    return NULL;
}

// Has the loader load f; false when it is listed no longer. Under the lock.
static bool want(eng_models *ms, eng_file *f) {
    bool listed = false;
    for (size_t i = 0; i < count_all(ms) && !listed; i++) listed = file_at(ms, i) == f;
    if (!listed) return false;
    f->wanted = ++ms->asked;
    pthread_cond_signal(&ms->wake);
    return true;
}

bool eng_models_expect(eng_models *ms, eng_file *f) {
    bool made = true; // or being made: then this was said before
    if (!pthread_mutex_trylock(&f->text_lock)) {
        made = f->text_ready;
        pthread_mutex_unlock(&f->text_lock);
    }
    pthread_mutex_lock(&ms->lock);
    bool missing = !f->loaded;
    if (missing && !made && !f->wanted && !f->failed_at && !ms->stop) want(ms, f);
    pthread_mutex_unlock(&ms->lock);
    return missing;
}

static status get(eng_models *ms, eng_file *f, int64_t since, bool beside, eng_model **out, error *err) {
    status s = E_BUSY, why;
    pthread_mutex_lock(&ms->lock);
    if (f->loaded) {
        *out = f->loaded;
        eng_model_hold(f->loaded);
        atomic_store(&f->loaded->last_used, eng_now_ms());
        f->loaded->taken = true;
        s = OK;
    } else if ((why = eng_file_servable(f, err)) != OK) {
        s = why;
    } else if (f->failed_at && f->failed_at > since) {
        if (err) *err = f->load_error;
        s = f->load_error.code;
    } else if (ms->stop) {
        s = error_set(err, E_CANCELLED, "the server is stopping");
    } else {
        bool first = !f->wanted;
        if (first && !want(ms, f)) s = error_set(err, E_NOTFOUND, "%s was removed or replaced before it was loaded", f->id);
        else f->load_beside = beside && (first || f->load_beside); // who asks for itself may displace others, whoever asked before
    }
    pthread_mutex_unlock(&ms->lock);
    return s;
}

status eng_models_get(eng_models *ms, eng_file *f, int64_t since, eng_model **out, error *err) { return get(ms, f, since, false, out, err); }

status eng_models_get_beside(eng_models *ms, eng_file *f, eng_model **out, error *err) { return get(ms, f, 0, true, out, err); }

bool eng_models_progress(eng_models *ms, eng_file *f, uint64_t *done, uint64_t *total) {
    pthread_mutex_lock(&ms->lock);
    bool is = ms->loading == f;
    pthread_mutex_unlock(&ms->lock);
    *done = atomic_load(&ms->done);
    *total = atomic_load(&ms->total);
    return is && *total;
}

void eng_models_stats(eng_models *ms, altiserve_stats *out) {
    pthread_mutex_lock(&ms->lock);
    out->loading = ms->loading != NULL;
    out->memory_limit = ms->limit;
    out->memory_used = ms->used;
    pthread_mutex_unlock(&ms->lock);
}

status eng_models_create(const altiserve_options *o, void (*changed)(void *), void *ctx, eng_models **out, error *err) {
    eng_models *ms = mem_calloc(1, sizeof *ms);
    if (!ms) return error_set(err, E_NOMEM, "no memory for the list of models");
    ms->o = *o; // its strings live as long as the engine: eng_face copies them
    pthread_mutex_init(&ms->lock, NULL);
    pthread_mutex_init(&ms->scan_lock, NULL);
    os_cond_init(&ms->wake);
    os_cond_init(&ms->tick);
    if (o->models_dir) snprintf(ms->dir, sizeof ms->dir, "%s", o->models_dir);
    ms->limit = o->memory ? o->memory : eng_default_memory();
    ms->toy = file_create("toy-1", "", 1, 0, o->context, false);
    if (!ms->toy) {
        eng_models_destroy(ms);
        return error_set(err, E_NOMEM, "no memory for the list of models");
    }
    eng_models_rescan(ms);
    ms->changed = changed;
    ms->ctx = ctx;
    ms->has_loader = pthread_create(&ms->loader, NULL, loader_main, ms) == 0;
    ms->has_watcher = o->rescan && ms->has_loader && pthread_create(&ms->watcher, NULL, watcher_main, ms) == 0;
    if (!ms->has_loader || (o->rescan && !ms->has_watcher)) {
        eng_models_stop(ms);
        eng_models_destroy(ms);
        return error_set(err, E_NOMEM, "the system started no thread to load models");
    }
    *out = ms;
    return OK;
}

void eng_models_stop(eng_models *ms) {
    pthread_mutex_lock(&ms->lock);
    ms->stop = true;
    pthread_cond_signal(&ms->wake);
    pthread_cond_signal(&ms->tick);
    pthread_mutex_unlock(&ms->lock);
    if (ms->has_loader) pthread_join(ms->loader, NULL);
    if (ms->has_watcher) pthread_join(ms->watcher, NULL);
    ms->has_loader = ms->has_watcher = false;
}

void eng_models_destroy(eng_models *ms) {
    if (!ms) return;
    for (size_t i = 0; i < ms->n_files; i++) unlist(ms, ms->files[i]);
    ms->n_files = 0;
    for (size_t i = 0; i < ms->n_opened; i++) unlist(ms, ms->opened[i]);
    if (ms->toy) unlist(ms, ms->toy);
    mem_free(ms->files);
    mem_free(ms->opened);
    pthread_mutex_destroy(&ms->lock);
    pthread_mutex_destroy(&ms->scan_lock);
    pthread_cond_destroy(&ms->wake);
    pthread_cond_destroy(&ms->tick);
    mem_free(ms);
}
