// Reasoning told apart from answers as a client takes events: by the pieces they came in, to the last character held back, and only where the template knows markers.
#include "base/mem.h"
#include "engine/engine_util.h"
#include "engine/eng_request.h"

static const char *const TEMPLATE = "{{ messages[0].content }}<|assistant|>{% if think %}<think>\n{% endif %}{# strips </think> of earlier turns #}";

static eng_reasoning *made(const char *template, bool opened, uint32_t n) {
    chat_template *t;
    chat_spans spans = {0};
    error err;
    eng_reasoning *x = NULL;
    json_t *input = json_pack("{s:[{s:s,s:s}],s:b}", "messages", "role", "user", "content", "hi", "think", opened);
    if (chat_template_compile(template, strlen(template), &t, &err) != OK || chat_render(t, input, &spans, &err) != OK) fail_msg("%s", err.text);
    assert_int_equal(eng_reasoning_create(t, &spans, n, &x, &err), OK);
    json_decref(input);
    chat_spans_free(&spans);
    chat_template_free(t);
    return x;
}

// A request whose engine said these pieces of choice 0, then the finish; its client's events into two texts.
static void said(altiserve *a, eng_reasoning *x, const char *const *pieces, size_t n, const char *thought, const char *content) {
    eng_file *f;
    strbuf got[2] = {{0}};
    altiserve_event ev;
    bool finished = false;
    assert_int_equal(eng_models_find(a->models, "toy-1", &f, NULL), OK);
    altiserve_request *r = eng_request_new(a, f, 0, NULL);
    r->reasoning = x;
    atomic_store(&r->refs, 2);
    for (size_t i = 0; i < n; i++) {
        eng_event e = {.kind = EVENT_TEXT};
        strbuf_adds(&e.text, pieces[i]);
        assert_true(eng_request_push(r, &e));
    }
    assert_true(eng_request_push(r, &(eng_event){.kind = EVENT_FINISH, .finish = FINISH_STOP}));
    eng_request_end(r, FINISH_STOP, NULL);
    while (altiserve_next(r, 0, &ev) != EVENT_END) {
        if (ev.kind == EVENT_FINISH) finished = true;
        if (ev.kind != EVENT_TEXT) continue;
        assert_false(finished);
        strbuf_add(&got[0], ev.text, ev.text_len);
        if (ev.reasoning_len) strbuf_add(&got[1], ev.reasoning, ev.reasoning_len);
    }
    assert_true(finished);
    assert_string_equal(got[0].data ? got[0].data : "", content);
    assert_string_equal(got[1].data ? got[1].data : "", thought);
    strbuf_free(&got[0]);
    strbuf_free(&got[1]);
    altiserve_request_free(r);
}

static void events_are_split(void **state) {
    (void)state;
    altiserve *a = engine_with(toy_options());
    static const char *const whole[] = {"<think>a b</think>\n\nc <think>d"}, *const cut[] = {"<th", "ink>\na", " b</thi", "nk>", "\n\nc <think>d"};
    static const char *const held[] = {"<think>a </th"}, *const opened[] = {"a b", "</think>c <think>d"};
    static const char *const plain[] = {"c", " <think>d"}, *const spaces[] = {"  <thi"};
    said(a, made(TEMPLATE, false, 1), whole, 1, "a b", "c <think>d");
    said(a, made(TEMPLATE, false, 1), cut, 5, "a b", "c <think>d");
    said(a, made(TEMPLATE, false, 1), held, 1, "a </th", "");
    said(a, made(TEMPLATE, true, 1), opened, 2, "a b", "c <think>d");
    said(a, made(TEMPLATE, false, 1), plain, 2, "", "c <think>d");
    said(a, made(TEMPLATE, false, 1), spaces, 1, "", "  <thi");
    said(a, NULL, whole, 1, "", whole[0]);
    altiserve_destroy(a);
}

static void templates_name_their_markers(void **state) {
    (void)state;
    assert_null(made("{{ messages[0].content }}", false, 1));
    altiserve *a = engine_with(toy_options());
    static const char *const mistral[] = {"[THINK]x[/THINK]y"};
    said(a, made("{{ messages[0].content }}{# [/THINK] #}", false, 1), mistral, 1, "x", "y");
    altiserve_destroy(a);
}

// Choices do not mix, and what a request asks for reaches it.
static void choices_and_requests(void **state) {
    (void)state;
    eng_reasoning *x = made(TEMPLATE, false, 2);
    altiserve_event a = {.text = "<think>one", .text_len = 10}, b = {.choice = 1, .text = "two", .text_len = 3}, c = {.text = "</think>three", .text_len = 13};
    assert_true(eng_reasoning_split(x, &a) && a.text_len == 0 && a.reasoning_len == 3);
    assert_true(eng_reasoning_split(x, &b) && b.text_len == 3 && b.reasoning_len == 0);
    assert_true(eng_reasoning_split(x, &c) && c.text_len == 5 && c.reasoning_len == 0);
    assert_false(eng_reasoning_rest(x, &a));
    mem_fail_at(1);
    char big[4096];
    memset(big, 'x', sizeof big);
    altiserve_event d = {.text = big, .text_len = sizeof big};
    assert_false(eng_reasoning_split(x, &d));
    mem_fail_at(0);
    assert_true(eng_reasoning_failed(x));
    eng_reasoning_free(x);
    altiserve *toy = engine_with(toy_options());
    const char *chat = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}]}";
    altiserve_generate g = greedy("", 4);
    g.text = NULL, g.chat = chat, g.chat_len = strlen(chat), g.reasoning = true;
    answer *y = ask(toy, &g); // its template knows no markers
    assert_int_equal(y->submitted, OK);
    assert_true(y->text[0].len > 0);
    answer_free(y);
    altiserve_destroy(toy);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(events_are_split), cmocka_unit_test(templates_name_their_markers), cmocka_unit_test(choices_and_requests)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
