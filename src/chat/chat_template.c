// The public face: compile, render, spans. Where the interpreter's longjmp lands.
// Threads: chat.h.
#include <string.h>

#include "chat/jinja_internal.h"

enum { MAX_SOURCE = 1 << 20 };

void chat_spans_free(chat_spans *s) {
    mem_free(s->items);
    mem_free(s->text);
    *s = (chat_spans){0};
}

status chat_spans_text(const chat_spans *s, char **text, size_t *text_len, error *err) {
    *text = mem_strndup(s->text ? s->text : "", s->len);
    if (text_len) *text_len = s->len;
    return *text ? OK : error_set(err, E_NOMEM, "no memory for %zu bytes of prompt", s->len);
}

static chat_limits with_defaults(const chat_limits *given) {
    chat_limits l = given ? *given : (chat_limits){0};
    if (!l.steps) l.steps = 20000000;
    if (!l.output) l.output = (size_t)64 << 20;
    if (!l.memory) l.memory = (size_t)512 << 20;
    if (l.depth <= 0) l.depth = 200;
    return l;
}

static const char *normalised(jj *j, const char *text, size_t len, size_t *out_len) { // \r\n and \r are \n; one newline at the end goes
    char *p = jj_alloc(j, len + 1);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\r') {
            p[n++] = '\n';
            i += i + 1 < len && text[i + 1] == '\n';
        } else {
            p[n++] = text[i];
        }
    }
    if (n && p[n - 1] == '\n') n--;
    p[n] = 0;
    *out_len = n;
    return p;
}

static void compile(jj *j, chat_template *t, const char *text, size_t len) {
    jparser p = {.j = j, .t = t};
    if (!utf8_valid(text, len)) jj_fail(j, E_INVALID, "the chat template is not UTF-8");
    t->source = normalised(j, text, len, &t->len);
    j->source = t->source;
    j->source_len = t->len;
    jlex(j, t->source, t->len, &p.tok, &p.n);
    t->body = jparse(&p);
    jsymbols(j, t);
}

// setjmp has a function of its own: nothing that changes behind it may live in its frame.
static bool try_compile(jj *j, chat_template *t, const char *text, size_t len) {
    if (setjmp(j->env)) return false;
    compile(j, t, text, len);
    return true;
}

status chat_template_compile(const char *text, size_t len, chat_template **out, error *err) {
    error local;
    *out = NULL;
    if (len > MAX_SOURCE) return error_set(err, E_LIMIT, "a chat template of %zu bytes; %d are allowed", len, MAX_SOURCE);
    chat_template *t = mem_calloc(1, sizeof *t);
    if (!t) return error_set(err, E_NOMEM, "no memory for the chat template");
    arena_init(&t->mem, 0);
    jj j = {.err = &local, .mem = &t->mem, .limits = with_defaults(NULL), .source = ""};
    j.limits.steps *= 10;
    bool done = try_compile(&j, t, text, len);
    jj_end(&j);
    if (!done) {
        chat_template_free(t);
        if (err) *err = local;
        return local.code;
    }
    *out = t;
    return OK;
}

void chat_template_free(chat_template *t) {
    if (!t) return;
    arena_free(&t->mem);
    mem_free(t);
}

bool chat_template_mentions(const chat_template *t, const char *needle) {
    return memmem(t->source, t->len, needle, strlen(needle)) != NULL;
}

// --- Rendering ---
static bool continues(const json_t *input) { return json_is_true(json_object_get(input, "continue_final_message")); }

static void set_globals(jj *j, const json_t *input) {
    const chat_template *t = j->t;
    j->globals = jj_array(j, t->natoms + 1, sizeof *j->globals);
    j->atom_loop = j->atom_caller = j->atom_varargs = j->atom_kwargs = (int32_t)t->natoms; // a slot that no name reads
    for (size_t i = 0; i < t->natoms; i++) {
        const jstr *name = t->atoms[i];
        j->globals[i] = t->hidden[i] ? j_missing() : jfunc_global(name);
        if (jstr_is(name, "loop")) j->atom_loop = (int32_t)i;
        if (jstr_is(name, "caller")) j->atom_caller = (int32_t)i;
        if (jstr_is(name, "varargs")) j->atom_varargs = (int32_t)i;
        if (jstr_is(name, "kwargs")) j->atom_kwargs = (int32_t)i;
        if (t->hidden[i]) continue;
        if (jstr_is(name, "add_generation_prompt")) j->globals[i] = j_bool(!continues(input));
        const json_t *v = json_object_getn(input, name->p, name->len);
        if (!v || jstr_is(name, "now")) continue;
        bool token = jstr_is(name, "bos_token") || jstr_is(name, "eos_token");
        j->globals[i] = j_from_json(j, v, token);
    }
    j->globals[t->natoms] = j_missing();
    const json_t *now = json_object_get(input, "now");
    if (now && !json_is_null(now)) {
        if (!json_is_string(now)) jj_fail(j, E_INVALID, "'now' must be a string with an ISO time");
        j->now = json_string_value(now);
    }
}

static void make_spans(jj *j, const jbuf *b, chat_spans *out) {
    size_t count = 0;
    for (size_t i = 0; i < b->len; i++) count += !i || b->o[i] != b->o[i - 1];
    out->text = mem_strndup(b->p ? b->p : "", b->len);
    out->items = mem_calloc(count, sizeof *out->items);
    if (!out->text || !out->items) jj_fail(j, E_NOMEM, "no memory for the rendered prompt");
    out->len = b->len;
    for (size_t i = 0; i < b->len; i++) {
        if (!i || b->o[i] != b->o[i - 1]) out->items[out->count++] = (chat_span){.text = out->text + i, .trusted = b->o[i]};
        out->items[out->count - 1].len++;
    }
}

static bool try_render(jj *j, const json_t *input, chat_spans *out) {
    if (setjmp(j->env)) return false;
    set_globals(j, input);
    j->out = jbuf_new(j);
    jexec_body(j, j->t->body);
    make_spans(j, j->out, out);
    return true;
}

static bool space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static size_t core_of(const char *text, size_t len) { // without the spaces at its end
    while (len && space(text[len - 1])) len--;
    return len;
}

// Where the text of the last message ends: in the last span of messages' text that ends with it. Spaces around it count only where the template writes them too. NULL: nowhere.
static const char *find_end(const chat_spans *s, const char *text, size_t len) {
    while (len && space(*text)) text++, len--;
    size_t core = core_of(text, len);
    for (size_t i = s->count; core && i-- > 0;) {
        const chat_span *p = &s->items[i];
        size_t n = core_of(p->text, p->len);
        if (p->trusted || n < core || memcmp(p->text + n - core, text, core)) continue;
        bool same = p->len - n == len - core && !memcmp(p->text + n, text + core, len - core);
        return p->text + (same ? p->len : n);
    }
    return NULL;
}

static status cut_behind_last_message(const json_t *input, chat_spans *s, error *err) {
    const json_t *list = json_object_get(input, "messages"), *content = json_array_size(list) ? json_object_get(json_array_get(list, json_array_size(list) - 1), "content") : NULL;
    const char *end = json_is_string(content) ? find_end(s, json_string_value(content), json_string_length(content)) : NULL;
    if (!end) return error_set(err, E_INVALID, "the last message cannot be continued: it has no text, or the chat template does not write it word for word");
    while (s->items[s->count - 1].text >= end) s->count--;
    s->items[s->count - 1].len = (size_t)(end - s->items[s->count - 1].text);
    s->len = (size_t)(end - s->text);
    s->text[s->len] = 0;
    return OK;
}

status chat_render_limited(const chat_template *t, const json_t *input, const chat_limits *limits, chat_spans *out, error *err) {
    error local;
    arena mem;
    chat_spans_free(out);
    if (!json_is_object(input)) return error_set(err, E_INVALID, "what a chat template renders must be a JSON object");
    jj j = {.err = &local, .mem = &mem, .limits = with_defaults(limits), .t = t, .source = t->source, .source_len = t->len};
    arena_init(&mem, 0);
    bool done = try_render(&j, input, out);
    jj_end(&j);
    arena_free(&mem);
    status st = !done ? local.code : continues(input) ? cut_behind_last_message(input, out, &local) : OK;
    if (st == OK) return OK;
    chat_spans_free(out);
    if (err) *err = local;
    return st;
}

status chat_render(const chat_template *t, const json_t *input, chat_spans *out, error *err) {
    return chat_render_limited(t, input, NULL, out, err);
}

const char *chat_default_template(void) {
    return "{% for message in messages %}"
           "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
           "{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
}
