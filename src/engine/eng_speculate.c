// Owns where drafts come from and what bounds them; eng_step.c lays their rows and verifies them.
#include "engine/eng_speculate.h"

#include "base/mem.h"
#include "engine/eng_draft.h"
#include "obs/obs.h"

static int32_t least(int32_t a, size_t b) { return (size_t)a < b ? a : (int32_t)b; }

// What bounds c's drafts whatever they are worth.
static int32_t limit(const eng_served *v, const eng_choice *c, int32_t most) {
    const altiserve_request *r = c->r;
    most = least(most, (size_t)v->draft_max);
    if (r->draft_max) most = r->draft_max < most ? r->draft_max : most;
    if (most <= 0 || c->n_tokens + 1 >= v->m->context) return 0;
    most = least(most, v->m->context - c->n_tokens - 1);
    if (r->max_tokens) most = least(most, r->max_tokens > c->n_out ? r->max_tokens - c->n_out - 1 : 0);
    if (v->snapshots) most = least(most, (kv_seq_len(c->kv) / KV_PAGE + 1) * KV_PAGE - c->n_tokens); // states are kept at borders: none is passed over
    return most;
}

int32_t eng_speculate_want(eng_served *v, eng_choice *c, int32_t most, double *tokens) {
    most = limit(v, c, most);
    if (most <= 0 || !mem_grow((void **)&c->tokens, &c->cap_tokens, c->n_tokens + (size_t)most, sizeof *c->tokens)) return 0;
    int32_t n = (int32_t)eng_ngram_draft(&c->ngram, c->tokens, c->n_tokens, c->tokens + c->n_tokens, (size_t)most);
    double each = 0; // seconds that a draft costs besides its row
    c->from_model = !n && eng_draft_ready(v);
    if (c->from_model) {
        n = most;
        each = eng_draft_seconds(v->draft) / v->load.streams; // who draft share the model's steps
    }
    if (n && !v->drafts_always) n = pol_draft_rows(&c->luck[c->from_model], &v->cost, &v->load, each, n, tokens);
    v->load.drafts += n;
    return n;
}

bool eng_speculate_ready(eng_served *v, eng_choice *c) {
    if (!c->n_drafts || kv_seq_reserve(c->kv, c->n_tokens + (size_t)c->n_drafts, NULL) != OK) return false;
    return kv_available_states(v->pool) >= 2 && kv_seq_mark(c->kv, NULL) == OK; // newcomers need states more
}

void eng_speculate_count(eng_served *v, int32_t drafted, int32_t accepted) {
    const char *id = v->m->file->id;
    obs_count(OBS_DRAFTS, id, NULL, drafted > 0);
    obs_count(OBS_DRAFTED, id, NULL, drafted);
    obs_count(OBS_ACCEPTED, id, NULL, accepted);
    static const char *const places[ALTISERVE_MOST_DRAFTS] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14"};
    for (int32_t i = 0; i < accepted; i++) obs_count(OBS_ACCEPTED_AT, id, places[i], 1);
}

void eng_speculate_note(eng_served *v, eng_choice *c, int32_t accepted) {
    pol_draft_note(&c->luck[c->from_model], c->n_drafts, accepted);
    pol_client_charge(&c->r->client->fair, accepted);
    c->r->drafted += (uint32_t)c->n_drafts;
    c->r->accepted += (uint32_t)accepted;
    eng_speculate_count(v, c->n_drafts, accepted);
}
