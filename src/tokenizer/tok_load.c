// tok_load: makes a tokenizer out of a file's tokenizer.ggml.* keys: kind, tokens, roles, the set of ending tokens, pieces.
//
// Defaults, exceptions and texts that mean something are the peer's (llama.cpp v0.5), since files are made for it.
#include "tokenizer/tok_internal.h"

#include <stdio.h>
#include <stdlib.h>

static status no_memory(error *err) { return error_set(err, E_NOMEM, "out of memory for the vocabulary"); }

static status get_text(const gguf *g, const char *key, char **out, error *err) {
    gguf_str s = {"", 0};
    if (gguf_find(g, key)) {
        status st = gguf_get_string(g, key, &s, err);
        if (st != OK) return st;
    }
    *out = mem_strndup(s.ptr, s.len);
    return *out ? OK : no_memory(err);
}

// Every tokenizer.ggml.model that is known, and the roles of a kind whose file names none.
static const struct {
    const char *model;
    tok_kind    kind;
    int32_t     bos, eos, unk, sep, pad, mask;
} kinds[] = {
    {"llama", TOK_SPM, 1, 2, 0, -1, -1, -1},       {"bert", TOK_WORDPIECE, 101, -1, 100, 102, 0, 103},
    {"gpt2", TOK_BPE, 11, 11, -1, -1, -1, -1},     {"hybriddna", TOK_BPE, 11, 11, -1, -1, -1, -1},
    {"whitespace", TOK_BPE, 11, 11, -1, -1, -1, -1}, {"gemma4", TOK_BPE, -1, -1, -1, -1, -1, -1},
    {"t5", TOK_UNIGRAM, -1, 1, 2, -1, 0, -1},      {"rwkv", TOK_RWKV, -1, -1, -1, -1, -1, -1},
    {"plamo2", TOK_PLAMO2, 1, 2, 0, -1, 3, -1},    {"none", TOK_NONE, -1, -1, -1, -1, -1, -1},
    {"no_vocab", TOK_NONE, -1, -1, -1, -1, -1, -1}, {"test", TOK_NONE, -1, -1, -1, -1, -1, -1},
    {"", TOK_NONE, -1, -1, -1, -1, -1, -1}, // no such key
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static int find_kind(const char *model) {
    for (int i = 0; i < KINDS; i++) {
        if (strcmp(model, kinds[i].model) == 0) return i;
    }
    return -1;
}

// What tokenizer.ggml.pre names: gemma4 is a way to cut as well as a model, and has it whatever the file says.
static const char *pre_of(const char *model, const char *pre) { return strcmp(model, "gemma4") == 0 ? model : pre; }

static status check_names(const gguf *g, const char *model, const char *pre, error *err) {
    const char *file = gguf_file_path(g, 0);
    int         kind = find_kind(model);
    if (kind < 0) {
        char   known[160] = "";
        size_t n = 0;
        for (int i = 0; i < KINDS && n < sizeof known; i++) {
            if (*kinds[i].model) n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", kinds[i].model);
        }
        return error_set(err, E_UNSUPPORTED, "%.160s: tokenizer.ggml.model is \"%.60s\", which is not supported; known are %s", file, model, known);
    }
    pre = pre_of(model, pre);
    if (kinds[kind].kind == TOK_BPE && *pre && !tok_pre_find(pre, strlen(pre))) {
        return error_set(err, E_UNSUPPORTED,
                         "%.160s: tokenizer.ggml.pre is \"%.60s\", which is not supported; known are \"default\" and the pre-tokenizers in docs/MODELS.md", file, pre);
    }
    return OK;
}

static status read_names(const gguf *g, char **model, char **pre, error *err) {
    status st = get_text(g, "tokenizer.ggml.model", model, err);
    if (st == OK) st = get_text(g, "tokenizer.ggml.pre", pre, err);
    return st == OK ? check_names(g, *model, *pre, err) : st;
}

status tok_check(const gguf *g, error *err) {
    char  *model = NULL, *pre = NULL;
    status st = read_names(g, &model, &pre, err);
    mem_free(model);
    mem_free(pre);
    return st;
}

static void set_kind(tokenizer *t) {
    int i = find_kind(t->model);
    for (int r = 0; r < TOK_ROLES; r++) t->roles[r] = -1;
    t->kind = kinds[i].kind;
    t->roles[TOK_BOS] = kinds[i].bos;
    t->roles[TOK_EOS] = kinds[i].eos;
    t->roles[TOK_UNK] = kinds[i].unk;
    t->roles[TOK_SEP] = kinds[i].sep;
    t->roles[TOK_PAD] = kinds[i].pad;
    t->roles[TOK_MASK] = kinds[i].mask;
    t->dna = strcmp(t->model, "hybriddna") == 0;
    t->drop_spaces = strcmp(t->model, "whitespace") == 0;
    t->escape = true;
    t->lowercase = true;
    t->space_prefix = t->kind == TOK_SPM;
    t->clean_spaces = t->kind == TOK_WORDPIECE;
    t->add_bos = t->kind == TOK_SPM || t->kind == TOK_WORDPIECE;
    t->add_eos = t->kind == TOK_UNIGRAM;
    t->add_sep = t->kind == TOK_WORDPIECE;
}

static status read_tokens(tokenizer *t, const gguf *g, error *err) {
    const gguf_value *v = gguf_find(g, "tokenizer.ggml.tokens");
    if (!v) {
        if (t->kind != TOK_NONE) {
            return error_set(err, E_INVALID, "tokenizer.ggml.tokens is missing, though tokenizer.ggml.model is '%.60s'", t->model);
        }
        char     key[128] = "";
        gguf_str arch = {"", 0};
        uint32_t n = 0;
        if (gguf_find(g, "general.architecture") && gguf_get_string(g, "general.architecture", &arch, NULL) == OK && arch.len < 64) {
            snprintf(key, sizeof key, "%.*s.vocab_size", (int)arch.len, arch.ptr);
            gguf_get_u32(g, key, &n, NULL);
        }
        if (n > INT32_MAX / 8) return error_set(err, E_LIMIT, "%s is %u, too many", key, n);
        t->size = (int32_t)n;
        return OK;
    }
    if (gguf_value_type(v) != GGUF_ARRAY || gguf_value_elem(v) != GGUF_STRING) {
        return error_set(err, E_INVALID, "tokenizer.ggml.tokens is no array of strings");
    }
    uint64_t n = gguf_value_count(v), bytes = 0;
    if (n > INT32_MAX / 8) return error_set(err, E_LIMIT, "tokenizer.ggml.tokens has %llu entries, too many", (unsigned long long)n);
    gguf_str s;
    for (uint64_t i = 0; i < n; i++) bytes += gguf_value_string(v, i, &s) ? s.len : 0;
    if (bytes > UINT32_MAX / 2) return error_set(err, E_LIMIT, "the vocabulary has %llu bytes of text, too many", (unsigned long long)bytes);
    if (!tok_strtab_reserve(&t->text, n, bytes)) return no_memory(err);
    for (uint64_t i = 0; i < n; i++) {
        char empty[32];
        if (!gguf_value_string(v, i, &s) || s.len == 0) s = (gguf_str){empty, (size_t)snprintf(empty, sizeof empty, "[EMPTY_%llu]", (unsigned long long)i)};
        if (!tok_strtab_append(&t->text, s.ptr, s.len)) return no_memory(err);
        if (s.len > t->max_len) t->max_len = s.len;
    }
    t->size = (int32_t)n;
    return tok_strtab_index(&t->text) ? OK : no_memory(err);
}

static status read_scores_and_types(tokenizer *t, const gguf *g, error *err) {
    size_t            n = (size_t)t->size;
    const gguf_value *scores = gguf_find(g, "tokenizer.ggml.scores"), *types = gguf_find(g, "tokenizer.ggml.token_type");
    t->attr = mem_alloc(n * sizeof *t->attr);
    if (!t->attr) return no_memory(err);
    for (size_t i = 0; i < n; i++) t->attr[i] = TOK_ATTR(TOK_TYPE_NORMAL);
    const gguf_value *both[] = {scores, types};
    for (int k = 0; k < 2; k++) {
        const char *key = k ? "tokenizer.ggml.token_type" : "tokenizer.ggml.scores";
        if (both[k] && (gguf_value_type(both[k]) != GGUF_ARRAY || gguf_value_count(both[k]) < n)) {
            return error_set(err, E_INVALID, "%s has %llu entries, the vocabulary has %zu tokens", key,
                             (unsigned long long)gguf_value_count(both[k]), n);
        }
    }
    if (scores) {
        t->scores = mem_alloc(n * sizeof *t->scores);
        if (!t->scores) return no_memory(err);
    }
    for (size_t i = 0; i < n; i++) {
        double  score = 0;
        int64_t type = TOK_TYPE_UNDEFINED;
        if (scores && !gguf_value_f64(scores, i, &score)) return error_set(err, E_INVALID, "tokenizer.ggml.scores holds no numbers");
        if (scores) t->scores[i] = (float)score;
        if (types && !gguf_value_i64(types, i, &type)) return error_set(err, E_INVALID, "tokenizer.ggml.token_type holds no integers");
        if (types) t->attr[i] = (uint16_t)(type > 0 && type <= TOK_TYPE_BYTE ? TOK_ATTR(type) : TOK_ATTR(TOK_TYPE_UNDEFINED));
    }
    for (int b = 0; b < 256; b++) {
        char name[8], c = (char)b;
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        t->byte_token[b] = tok_find(t, name, 6);
        t->raw_byte[b] = tok_find(t, &c, 1);
    }
    return OK;
}

static bool get_flag(const gguf *g, const char *key, bool *flag) {
    bool v;
    if (!gguf_find(g, key) || gguf_get_bool(g, key, &v, NULL) != OK) return false;
    *flag = v;
    return true;
}

static void read_roles(tokenizer *t, const gguf *g) {
    static const struct { const char *key; tok_role role; } keys[] = {
        {"bos_token_id", TOK_BOS},         {"eos_token_id", TOK_EOS},         {"eot_token_id", TOK_EOT},
        {"eom_token_id", TOK_EOM},         {"unknown_token_id", TOK_UNK},     {"seperator_token_id", TOK_SEP},
        {"padding_token_id", TOK_PAD},     {"mask_token_id", TOK_MASK},       {"fim_pre_token_id", TOK_FIM_PRE},
        {"fim_suf_token_id", TOK_FIM_SUF}, {"fim_mid_token_id", TOK_FIM_MID}, {"fim_pad_token_id", TOK_FIM_PAD},
        {"fim_rep_token_id", TOK_FIM_REP}, {"fim_sep_token_id", TOK_FIM_SEP}, {"prefix_token_id", TOK_FIM_PRE},
        {"suffix_token_id", TOK_FIM_SUF},  {"middle_token_id", TOK_FIM_MID},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char     key[64];
        uint64_t id;
        int32_t *role = &t->roles[keys[i].role];
        if (*role >= t->size) *role = -1;
        snprintf(key, sizeof key, "tokenizer.ggml.%s", keys[i].key);
        if (gguf_find(g, key) && gguf_get_u64(g, key, &id, NULL) == OK && id < (uint64_t)t->size) *role = (int32_t)id;
    }
    get_flag(g, "tokenizer.ggml.add_bos_token", &t->add_bos);
    get_flag(g, "tokenizer.ggml.add_eos_token", &t->add_eos);
    get_flag(g, "tokenizer.ggml.add_sep_token", &t->add_sep);
    if (t->kind == TOK_BPE && t->pre_flags & PRE_ADD_BOS_ALWAYS) t->add_bos = true;
    get_flag(g, "tokenizer.ggml.normalizer.lowercase", &t->lowercase);
    t->strip_accents = t->lowercase;
    get_flag(g, "tokenizer.ggml.normalizer.strip_accents", &t->strip_accents);
    // A token that is to be added and is not there: the peer refuses the file; here nothing is added.
    t->add_bos = t->add_bos && t->roles[TOK_BOS] >= 0;
    t->add_eos = t->add_eos && t->roles[TOK_EOS] >= 0;
    t->add_sep = t->add_sep && t->roles[TOK_SEP] >= 0;
}

// Texts that have a role in a file which does not name it. Such a token is a control token, whatever its type.
static void find_roles_by_text(tokenizer *t) {
    static const struct { tok_role role; const char *texts[13]; } known[] = {
        {TOK_EOT,
         {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>", "[EOT]",
          "<｜end▁of▁sentence｜>", "<end_of_utterance>"}},
        {TOK_EOM, {"<|eom_id|>"}},
        {TOK_FIM_PRE,
         {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"}},
        {TOK_FIM_SUF,
         {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"}},
        {TOK_FIM_MID,
         {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"}},
        {TOK_FIM_PAD, {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
        {TOK_FIM_REP, {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
        {TOK_FIM_SEP, {"<|file_sep|>"}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        for (int k = 0; k < 13 && known[i].texts[k] && t->roles[known[i].role] < 0; k++) {
            int32_t id = tok_find(t, known[i].texts[k], strlen(known[i].texts[k]));
            if (id < 0) continue;
            t->roles[known[i].role] = id;
            t->attr[id] |= TOK_ATTR(TOK_TYPE_CONTROL);
        }
    }
}

static int by_id(const void *a, const void *b) { return *(const int32_t *)a < *(const int32_t *)b ? -1 : *(const int32_t *)a > *(const int32_t *)b; }

static status find_ends(tokenizer *t, error *err) {
    static const char *const texts[] = {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>", "<|endoftext|>", "</s>",
        "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
        "<｜end▁of▁sentence｜>", "[e~[",
    };
    static const char *const shown[] = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}; // gpt-oss: part of the text
    static const tok_role roles[] = {TOK_FIM_PAD, TOK_FIM_REP, TOK_FIM_SEP, TOK_EOS, TOK_EOT, TOK_EOM};
    enum { TEXTS = sizeof texts / sizeof *texts, ROLES = sizeof roles / sizeof *roles };
    int32_t ends[TEXTS + ROLES];
    size_t  n = 0;
    for (size_t i = 0; i < TEXTS; i++) {
        int32_t id = tok_find(t, texts[i], strlen(texts[i]));
        if (id < 0) continue;
        ends[n++] = id;
        t->attr[id] |= TOK_ATTR(TOK_TYPE_CONTROL);
    }
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        int32_t id = tok_find(t, shown[i], strlen(shown[i]));
        if (id >= 0) t->attr[id] = TOK_ATTR(TOK_TYPE_USER_DEFINED);
    }
    for (size_t i = 0; i < ROLES; i++) {
        if (t->roles[roles[i]] >= 0) ends[n++] = t->roles[roles[i]];
    }
    // Exceptions: gpt-oss and solar-open have <|end|> inside an answer; gemma4 knows </s> as text.
    int32_t ret = tok_find(t, "<|return|>", 10), call = tok_find(t, "<|call|>", 8), calls = tok_find(t, "<|calls|>", 9);
    int32_t flush = tok_find(t, "<|flush|>", 9), end = tok_find(t, "<|end|>", 7);
    int32_t tool = tok_find(t, "<|tool_response>", 16), s = tok_find(t, "</s>", 4);
    bool    calling = call >= 0 || calls >= 0;
    int32_t out[2] = {-1, -1};
    if (end >= 0 && calling && (ret >= 0 || flush >= 0)) {
        out[0] = end;
        t->attr[end] = TOK_ATTR(TOK_TYPE_USER_DEFINED);
    }
    if (tool >= 0 && s >= 0) {
        out[1] = s;
        t->attr[s] = TOK_ATTR(TOK_TYPE_NORMAL);
    }
    t->ends = mem_alloc((n + 1) * sizeof *t->ends);
    if (!t->ends) return no_memory(err);
    qsort(ends, n, sizeof *ends, by_id);
    for (size_t i = 0; i < n; i++) {
        if (ends[i] == out[0] || ends[i] == out[1] || (t->end_count && t->ends[t->end_count - 1] == ends[i])) continue;
        t->ends[t->end_count++] = ends[i];
    }
    return OK;
}

static bool holds(const char *text, const char *part) { return strcasestr(text, part) != NULL; }

// White space beside a token that goes with it. Files do not say; the peer knows some models by name.
static status set_strips(tokenizer *t, const gguf *g, error *err) {
    char  *name = NULL, *arch = NULL;
    status st = get_text(g, "general.name", &name, err);
    if (st == OK) st = get_text(g, "general.architecture", &arch, err);
    if (st == OK) {
        bool jina = strstr(t->pre, "jina-v2-de") || strstr(t->pre, "jina-v2-es") || strstr(t->pre, "jina-v2-code") ||
                    strstr(arch, "nomic-bert-moe") || strstr(arch, "jina-bert-v3");
        const char *mask = jina ? "<mask>" : holds(name, "modern-bert") ? "[MASK]" : NULL;
        if (!jina && (holds(name, "phi-3") || holds(name, "phi3"))) {
            mask = NULL;
            const unsigned special = TOK_ATTR(TOK_TYPE_CONTROL) | TOK_ATTR(TOK_TYPE_USER_DEFINED) | TOK_ATTR(TOK_TYPE_UNKNOWN);
            for (int32_t id = 0; id < t->size; id++) {
                if (t->attr[id] & special) t->attr[id] |= TOK_ATTR_RSTRIP;
            }
            static const char *const not[] = {"<unk>", "<s>", "<|endoftext|>"};
            for (int i = 0; i < 3; i++) {
                int32_t id = tok_find(t, not[i], strlen(not[i]));
                if (id >= 0) t->attr[id] &= (uint16_t)~TOK_ATTR_RSTRIP;
            }
        }
        int32_t id = mask ? tok_find(t, mask, strlen(mask)) : -1;
        if (id >= 0) t->attr[id] |= TOK_ATTR_LSTRIP;
    }
    mem_free(name);
    mem_free(arch);
    return st;
}

// A token that is recognized by its spelling. Of several with one spelling that is the first, if it is special; a spelling too long for a trie is none.
static bool spelled_special(const tokenizer *t, int32_t id, const char **s, size_t *n) {
    const unsigned special = TOK_ATTR(TOK_TYPE_CONTROL) | TOK_ATTR(TOK_TYPE_USER_DEFINED) | TOK_ATTR(TOK_TYPE_UNKNOWN);
    *s = tok_strtab_get(&t->text, id, n);
    return t->attr[id] & special && *n <= TOK_TRIE_MAX && tok_find(t, *s, *n) == id;
}

// The trie of them, and for each node the way to the next shorter one of them.
static status collect_specials(tokenizer *t, error *err) {
    size_t      n;
    const char *s;
    for (int32_t id = 0; id < t->size; id++)
        if (spelled_special(t, id, &s, &n) && !tok_trie_add(&t->special, s, n, id)) return no_memory(err);
    if (!t->special.nodes) return OK;
    t->special_shorter = mem_calloc(t->special.nodes, sizeof *t->special_shorter);
    if (!t->special_shorter) return no_memory(err);
    for (int32_t id = 0; id < t->size; id++) {
        if (!spelled_special(t, id, &s, &n)) continue;
        uint32_t node = 0, above = 0;
        for (size_t i = 0; i < n; i++) {
            node = tok_trie_step(&t->special, node, (unsigned char)s[i]);
            t->special_shorter[node] = (int32_t)above;
            if (t->special.value[node] >= 0) above = node;
        }
    }
    return OK;
}

static status create_kind(tokenizer *t, const gguf *g, error *err) {
    switch (t->kind) {
        case TOK_BPE: return tok_bpe_create(t, g, pre_of(t->model, t->pre), err);
        case TOK_SPM: return tok_spm_create(t, err);
        case TOK_WORDPIECE: return tok_wordpiece_create(t, err);
        case TOK_UNIGRAM: return tok_unigram_create(t, g, err);
        case TOK_RWKV: return tok_rwkv_create(t, err);
        case TOK_PLAMO2: return tok_plamo2_create(t, err);
        case TOK_NONE: break;
    }
    return OK;
}

static void find_newline(tokenizer *t) {
    tok_ids ids = {0};
    if (t->kind == TOK_SPM) t->roles[TOK_NL] = t->byte_token['\n'] >= 0 ? t->byte_token['\n'] : t->raw_byte['\n'];
    else if (t->kind != TOK_NONE && t->kind != TOK_WORDPIECE && tok_encode(t, "\n", 1, 0, &ids, NULL) == OK && ids.count) t->roles[TOK_NL] = ids.ids[0];
    tok_ids_free(&ids);
    if (t->roles[TOK_NL] < 0) t->roles[TOK_NL] = t->roles[TOK_PAD];
}

status tok_create(const gguf *g, tokenizer **out, error *err) {
    *out = NULL;
    tokenizer *t = mem_calloc(1, sizeof *t);
    if (!t) return no_memory(err);
    status st = read_names(g, &t->model, &t->pre, err);
    if (st == OK) {
        set_kind(t);
        st = read_tokens(t, g, err);
    }
    if (st == OK && t->kind == TOK_NONE && !t->text.count) { // ids alone
        *out = t;
        return OK;
    }
    if (st == OK) st = read_scores_and_types(t, g, err);
    if (st == OK) {
        get_flag(g, "tokenizer.ggml.add_space_prefix", &t->space_prefix);
        get_flag(g, "tokenizer.ggml.remove_extra_whitespaces", &t->merge_spaces);
        st = create_kind(t, g, err);
    }
    if (st == OK) {
        read_roles(t, g);
        find_roles_by_text(t);
        st = find_ends(t, err);
    }
    if (st == OK) st = set_strips(t, g, err);
    if (st == OK) st = collect_specials(t, err);
    if (st == OK) st = tok_make_pieces(t, err);
    if (st != OK) {
        tok_destroy(t);
        return st;
    }
    find_newline(t);
    *out = t;
    return OK;
}

void tok_destroy(tokenizer *t) {
    if (!t) return;
    mem_free(t->model);
    mem_free(t->pre);
    tok_strtab_free(&t->text);
    mem_free(t->attr);
    mem_free(t->scores);
    mem_free(t->pieces);
    mem_free(t->piece_off);
    mem_free(t->ends);
    tok_trie_free(&t->special);
    mem_free(t->special_shorter);
    tok_splitter_free(t->splitter);
    tok_strtab_free(&t->forms);
    mem_free(t->merges.slots);
    tok_trie_free(&t->trie);
    tok_trie_free(&t->user_trie);
    mem_free(t->charsmap);
    mem_free(t->replacements);
    mem_free(t);
}

// ---- what the vocabulary is

static bool known(const tokenizer *t, int32_t id) { return id >= 0 && id < t->size && t->text.count; }

tok_kind    tok_kind_of(const tokenizer *t) { return t->kind; }
const char *tok_model_name(const tokenizer *t) { return t->model; }
const char *tok_pre_name(const tokenizer *t) { return t->pre; }
int32_t     tok_size(const tokenizer *t) { return t->size; }
const char *tok_warning(const tokenizer *t) { return t->warning; }

tok_type tok_type_of(const tokenizer *t, int32_t id) {
    static const tok_type order[] = {TOK_TYPE_CONTROL, TOK_TYPE_USER_DEFINED, TOK_TYPE_UNKNOWN, TOK_TYPE_BYTE, TOK_TYPE_UNUSED, TOK_TYPE_NORMAL};
    for (size_t i = 0; known(t, id) && i < sizeof order / sizeof *order; i++) {
        if (tok_has(t, id, order[i])) return order[i];
    }
    return TOK_TYPE_UNDEFINED;
}

float tok_score(const tokenizer *t, int32_t id) { return known(t, id) && t->scores ? t->scores[id] : 0; }

const char *tok_text(const tokenizer *t, int32_t id, size_t *len) {
    *len = 0;
    return known(t, id) ? tok_strtab_get(&t->text, id, len) : NULL;
}

int32_t tok_lookup(const tokenizer *t, const char *text, size_t len) { return tok_find(t, text, len); }
int32_t tok_special(const tokenizer *t, tok_role role) { return role < TOK_ROLES ? t->roles[role] : -1; }
bool    tok_add_bos(const tokenizer *t) { return t->add_bos; }
bool    tok_add_eos(const tokenizer *t) { return t->add_eos; }
bool    tok_add_sep(const tokenizer *t) { return t->add_sep; }

bool tok_is_end(const tokenizer *t, int32_t id) {
    for (size_t i = 0; i < t->end_count; i++) {
        if (t->ends[i] == id) return true;
    }
    return false;
}

const int32_t *tok_end_ids(const tokenizer *t, size_t *count) {
    *count = t->end_count;
    return t->ends;
}
