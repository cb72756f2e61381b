// Owns the splitters of a request's choices and the two halves of the last event. See eng_reasoning.h.
#include "engine/eng_reasoning.h"

#include <string.h>

#include "base/mem.h"

// As templates write them: DeepSeek, Qwen and most others; Mistral's Magistral; Command A; Seed.
static const struct { const char *open, *close; } markers[] = {
    {"<think>", "</think>"}, {"[THINK]", "[/THINK]"}, {"<|START_THINKING|>", "<|END_THINKING|>"}, {"<seed:think>", "</seed:think>"},
};

struct eng_reasoning {
    strbuf   half[2]; // of the last event, by chat_part
    bool     failed;
    uint32_t n;
    chat_splitter of[]; // a choice each
};

bool eng_reasoning_known(const char *source, size_t len) {
    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++)
        if (memmem(source, len, markers[i].close, strlen(markers[i].close))) return true;
    return false;
}

status eng_reasoning_create(const chat_template *t, const chat_spans *prompt, uint32_t n, eng_reasoning **out, error *err) {
    *out = NULL;
    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++) {
        if (!chat_template_mentions(t, markers[i].close)) continue;
        eng_reasoning *x = mem_calloc(1, sizeof *x + n * sizeof *x->of);
        if (!x) return error_set(err, E_NOMEM, "no memory to tell reasoning from answers");
        x->n = n;
        for (uint32_t c = 0; c < n; c++) chat_split_init(&x->of[c], markers[i].open, markers[i].close, chat_prompt_opens(prompt, markers[i].open));
        *out = x;
        return OK;
    }
    return OK;
}

void eng_reasoning_free(eng_reasoning *x) {
    if (!x) return;
    strbuf_free(&x->half[0]);
    strbuf_free(&x->half[1]);
    mem_free(x);
}

static status take(void *ctx, chat_part part, const char *text, size_t len) {
    eng_reasoning *x = ctx;
    return strbuf_add(&x->half[part], text, len) ? OK : E_NOMEM;
}

static void put_halves(eng_reasoning *x, altiserve_event *ev) {
    const strbuf *content = &x->half[CHAT_CONTENT], *thought = &x->half[CHAT_REASONING];
    ev->text = content->data ? content->data : "";
    ev->text_len = content->len;
    ev->reasoning = thought->data ? thought->data : "";
    ev->reasoning_len = thought->len;
}

bool eng_reasoning_split(eng_reasoning *x, altiserve_event *ev) {
    strbuf_clear(&x->half[0]);
    strbuf_clear(&x->half[1]);
    x->failed |= chat_split_feed(&x->of[ev->choice], ev->text, ev->text_len, take, x) != OK;
    put_halves(x, ev);
    return !x->failed;
}

bool eng_reasoning_rest(eng_reasoning *x, altiserve_event *ev) {
    chat_splitter *s = &x->of[ev->choice];
    strbuf_clear(&x->half[0]);
    strbuf_clear(&x->half[1]);
    x->failed |= s->held && chat_split_end(s, take, x) != OK;
    if (x->failed || !(x->half[0].len + x->half[1].len)) return false;
    put_halves(x, ev);
    return true;
}

bool eng_reasoning_failed(const eng_reasoning *x) { return x->failed; }
