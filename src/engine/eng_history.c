// Owns a ring of earlier prompts. Only those of the same client, salt and model name are compared; see eng_history.h.
#include "engine/eng_history.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static void drop(eng_history *h, eng_past *p) {
    h->tokens -= p->n;
    mem_free(p->tokens);
    *p = (eng_past){0};
}

void eng_history_free(eng_history *h) {
    for (size_t i = 0; i < HISTORY_ENTRIES; i++) drop(h, &h->items[i]);
}

void eng_history_note(eng_history *h, const altiserve_request *r, dev_fingerprint weights, const int32_t *tokens, size_t n, size_t computed) {
    if (!r->client || !eng_client_known(r->client) || n > HISTORY_TOKENS / 8) return;
    eng_past *p = NULL;
    for (size_t i = 0; i < HISTORY_ENTRIES && !p; i++)
        if (h->items[i].order == r->order + 1) p = &h->items[i];
    if (!p) {
        p = &h->items[h->next];
        h->next = (h->next + 1) % HISTORY_ENTRIES;
    }
    size_t had = p->order == r->order + 1 && p->n <= n ? p->n : 0; // the same prompt: only what came behind it is copied
    if (!had) drop(h, p);
    int32_t *copy = mem_realloc(p->tokens, n * sizeof *copy);
    if (!copy) return;
    memcpy(copy + had, tokens + had, (n - had) * sizeof *copy);
    h->tokens -= had;
    *p = (eng_past){0};
    for (size_t i = h->next, seen = 0; h->tokens + n > HISTORY_TOKENS && seen < HISTORY_ENTRIES; i = (i + 1) % HISTORY_ENTRIES, seen++) drop(h, &h->items[i]);
    *p = (eng_past){.client = {r->client->hash[0], r->client->hash[1]}, .salt = r->salt, .order = r->order + 1, .weights = weights, .tokens = copy, .n = n, .computed = computed};
    snprintf(p->model, sizeof p->model, "%s", r->file->id);
    h->tokens += n;
}

static size_t common(const int32_t *a, size_t n, const int32_t *b, size_t m) {
    size_t i = 0;
    while (i < n && i < m && a[i] == b[i]) i++;
    return i;
}

// The text of some tokens around position k, cut to what fits, whole characters.
static void text_around(const altiserve_request *r, const int32_t *tokens, size_t n, size_t k, char *out, size_t room) {
    size_t from = k > 8 ? k - 8 : 0, to = k + 12 < n ? k + 12 : n;
    strbuf text = {0};
    out[0] = 0;
    if (to > from && tok_decode(r->file->tok, tokens + from, to - from, TOK_SPELL_SPECIAL, &text, NULL) == OK && text.data) {
        size_t len = text.len < room - 1 ? text.len : room - 1;
        while (len && len < text.len && ((unsigned char)text.data[len] & 0xC0) == 0x80) len--;
        memcpy(out, text.data, len);
        out[len] = 0;
    }
    strbuf_free(&text);
}

void eng_history_explain(const eng_history *h, const altiserve_request *r, dev_fingerprint weights, bool cache_on, size_t cached, altiserve_explanation *out) {
    *out = (altiserve_explanation){.why = WHY_NEW, .prompt_tokens = (uint32_t)r->n_prompt, .cached_tokens = (uint32_t)cached};
    const eng_past *best = NULL;
    size_t same = 0, other = 0, kept = 0; // with the likest, with the likest of other weights, and what was computed of the first
    for (size_t i = 0; i < HISTORY_ENTRIES; i++) {
        const eng_past *p = &h->items[i];
        if (!p->order || p->order == r->order + 1 || p->client[0] != r->client->hash[0] || p->client[1] != r->client->hash[1] ||
            p->salt != r->salt || strcmp(p->model, r->file->id))
            continue;
        size_t n = common(r->prompt, r->n_prompt, p->tokens, p->n);
        if (p->weights.low != weights.low || p->weights.high != weights.high) {
            if (n > other) other = n;
        } else {
            if (n > same || !best) best = p, same = n;
            size_t had = n < p->computed ? n : p->computed;
            if (had > kept) kept = had;
        }
    }
    size_t most = (r->n_prompt - 1) / KV_PAGE * KV_PAGE;
    out->same = (uint32_t)same;
    if (!cache_on) out->why = WHY_OFF;
    else if (!most) out->why = WHY_SHORT;
    else if (cached >= most) out->why = WHY_ALL;
    else if (other / KV_PAGE > same / KV_PAGE && other >= cached + KV_PAGE) {
        out->why = WHY_VERSION;
        out->same = (uint32_t)other;
    } else if (kept >= cached + KV_PAGE) out->why = WHY_EVICTED;
    else if (best && same) {
        out->why = WHY_DIFFERS;
        text_around(r, r->prompt, r->n_prompt, same, out->ours, sizeof out->ours);
        text_around(r, best->tokens, best->n, same, out->theirs, sizeof out->theirs);
    }
}
