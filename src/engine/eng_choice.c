// Owns the way of one answer from logits to events: draw, end tokens, decoding, stop strings, log-probabilities, limits.
//
// Invariant: tokens = prompt + output; outputs from first_pending on are in no event yet, with n_logprobs = pending * (1 + top).
// Threads: the engine thread.
#include <string.h>

#include "base/mem.h"
#include "engine/eng_request.h"

enum { FLUSH_TOKENS = 16 }; // without text (a long stop string, a vocabulary of ids only) tokens go out at least this often

status eng_choice_init(eng_choice *c, altiserve_request *r, uint32_t index, int32_t n_vocab, error *err) {
    *c = (eng_choice){.r = r, .index = index, .phase = index ? CHOICE_FOLLOWING : CHOICE_WAITING, .wanted = -1};
    samp_params p = r->params;
    p.choice = index;
    status s = r->embeds ? OK : samp_create(&p, n_vocab, &c->samp, err);
    if (s == OK) s = samp_stop_init(&c->stop, (const char *const *)r->stops, r->n_stops, err);
    if (s == OK && !mem_grow((void **)&c->tokens, &c->cap_tokens, r->n_prompt + 1, sizeof *c->tokens))
        s = error_set(err, E_NOMEM, "no memory for %zu tokens", r->n_prompt);
    if (s != OK) return s;
    memcpy(c->tokens, r->prompt, r->n_prompt * sizeof *c->tokens);
    c->n_tokens = r->n_prompt;
    tok_stream_init(&c->stream, r->file->tok, false, false);
    for (size_t i = 0; i < r->n_prompt && s == OK && c->samp; i++) s = samp_accept(c->samp, r->prompt[i], false, err);
    return s;
}

static void choice_free(eng_choice *c) {
    samp_free(c->samp);
    samp_stop_free(&c->stop);
    strbuf_free(&c->piece);
    strbuf_free(&c->ready);
    mem_free(c->tokens);
    mem_free(c->logprobs);
    eng_ngram_free(&c->ngram);
}

void eng_choices_free(altiserve_request *r) {
    for (uint32_t i = 0; r->choices && i < r->n; i++) choice_free(&r->choices[i]);
    mem_free(r->choices);
    r->choices = NULL;
}

// Sends what is pending as one event.
static status flush(eng_choice *c, error *err) {
    altiserve_request *r = c->r;
    size_t n = c->n_out - c->first_pending;
    if (!n && !c->ready.len) return OK;
    eng_event ev = {.kind = EVENT_TEXT, .choice = c->index, .n_tokens = n, .top = r->top > 0 ? r->top : 0};
    if (c->ready.failed) return error_set(err, E_NOMEM, "no memory for text");
    if (n) {
        if (!(ev.tokens = mem_alloc(n * sizeof *ev.tokens))) return error_set(err, E_NOMEM, "no memory for an event");
        memcpy(ev.tokens, c->tokens + r->n_prompt + c->first_pending, n * sizeof *ev.tokens);
    }
    ev.text = c->ready;
    c->ready = (strbuf){0};
    ev.logprobs = c->logprobs;
    c->logprobs = NULL;
    c->n_logprobs = c->cap_logprobs = 0;
    c->first_pending = c->n_out;
    return eng_request_push(r, &ev) ? OK : error_set(err, E_NOMEM, "no memory for an event");
}

static status note_logprobs(eng_choice *c, samp_scratch *scratch, samp_row row, int32_t n_vocab, int32_t token, error *err) {
    altiserve_request *r = c->r;
    if (r->top < 0) return OK;
    samp_logprob found[1 + ENG_MAX_LOGPROBS];
    size_t group = 1 + (size_t)r->top;
    status s = samp_logprobs(scratch, row, n_vocab, token, r->top, found, err);
    if (s != OK) return s;
    if (!mem_grow((void **)&c->logprobs, &c->cap_logprobs, c->n_logprobs + group, sizeof *c->logprobs))
        return error_set(err, E_NOMEM, "no memory for logprobs");
    for (size_t i = 0; i < group; i++) {
        altiserve_logprob *to = &c->logprobs[c->n_logprobs++];
        *to = (altiserve_logprob){.token = found[i].token, .logprob = found[i].logprob, .bytes = ""};
        if (found[i].token >= 0) to->bytes = tok_piece(r->file->tok, found[i].token, &to->len);
    }
    return OK;
}

status eng_choice_draw(eng_choice *c, samp_scratch *scratch, samp_row row, int32_t n_vocab, size_t context, altiserve_finish *finish, error *err) {
    altiserve_request *r = c->r;
    int32_t token;
    *finish = FINISH_NONE;
    status s = samp_draw(c->samp, scratch, row, NULL, c->n_out, &token, err);
    if (s != OK) return s;
    if (!r->ignore_eos && tok_is_end(r->file->tok, token)) {
        *finish = FINISH_STOP;
        return OK;
    }
    if (!mem_grow((void **)&c->tokens, &c->cap_tokens, c->n_tokens + 1, sizeof *c->tokens)) return error_set(err, E_NOMEM, "no memory for tokens");
    c->tokens[c->n_tokens++] = token;
    c->n_out++;
    s = samp_accept(c->samp, token, true, err);
    if (s == OK) s = note_logprobs(c, scratch, row, n_vocab, token, err);
    strbuf_clear(&c->piece);
    if (s == OK) s = tok_stream_next(&c->stream, token, &c->piece, err);
    if (s == OK && c->piece.len) s = samp_stop_feed(&c->stop, c->piece.data, c->piece.len, &c->ready, err);
    if (s != OK) return s;
    if (c->stop.matched) *finish = FINISH_STOP;
    else if ((r->max_tokens && c->n_out >= r->max_tokens) || c->n_tokens >= context) *finish = FINISH_LENGTH;
    if (*finish == FINISH_NONE && (c->ready.len || c->n_out - c->first_pending >= FLUSH_TOKENS)) s = flush(c, err);
    return s;
}

status eng_choice_finish(eng_choice *c, altiserve_finish finish, error *err) {
    status s = OK;
    strbuf_clear(&c->piece);
    if (!c->stop.matched) {
        s = tok_stream_end(&c->stream, &c->piece, err);
        if (s == OK && c->piece.len) s = samp_stop_feed(&c->stop, c->piece.data, c->piece.len, &c->ready, err);
        if (s == OK) s = samp_stop_end(&c->stop, &c->ready, err);
    }
    if (s == OK) s = flush(c, err);
    eng_event ev = {.kind = EVENT_FINISH, .choice = c->index, .finish = finish, .stop = finish == FINISH_STOP && c->stop.matched ? c->stop.which + 1 : 0};
    if (s == OK && !eng_request_push(c->r, &ev)) s = error_set(err, E_NOMEM, "no memory for an event");
    return s;
}
