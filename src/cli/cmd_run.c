// run: a chat in the terminal, or one answer. The answer streams; ctrl-C stops the answer, not the chat; ctrl-D or /exit leaves.
// The conversation is kept as the JSON that a chat request carries. Line editing and history are libedit's.
#include <histedit.h>
#include <jansson.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "cli/commands.h"

static atomic_int interrupted;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    atomic_store(&interrupted, 1);
}

struct chat {
    altiserve  *a;
    const flags *f;
    const char *model;
    json_t     *messages;
    altiserve_usage last;
};

static status add_message(struct chat *c, const char *role, const char *text, size_t len, error *err) {
    if (!utf8_valid(text, len)) return error_set(err, E_INVALID, "the %s is not UTF-8 text", strcmp(role, "system") ? "message" : "system prompt");
    json_t *m = json_pack("{s:s, s:s%}", "role", role, "content", text, len);
    return json_array_append_new(c->messages, m) ? error_set(err, E_NOMEM, "no memory for the conversation") : OK;
}

static status start_over(struct chat *c, error *err) {
    json_array_clear(c->messages);
    const char *system = c->f->text[FLAG_SYSTEM];
    return system ? add_message(c, "system", system, strlen(system), err) : OK;
}

// Generates the next answer, prints it as it comes and appends it to the conversation.
static status answer(struct chat *c, error *err) {
    const flags *f = c->f;
    json_t *input = json_pack("{s:O}", "messages", c->messages);
    char *text = input ? json_dumps(input, JSON_COMPACT) : NULL;
    json_decref(input);
    if (!text) return error_set(err, E_NOMEM, "no memory for the conversation");
    altiserve_generate g = {
        .model = c->model, .chat = text, .chat_len = strlen(text), .n = 1, .logprobs = -1, .max_tokens = (uint32_t)f->number[FLAG_N],
        .sampling = cli_sampling(f),
        .given = (f->given[FLAG_TEMP] ? SAMPLING_TEMPERATURE : 0u) | (f->given[FLAG_TOP_K] ? SAMPLING_TOP_K : 0u) |
                 (f->given[FLAG_TOP_P] ? SAMPLING_TOP_P : 0u) | (f->given[FLAG_MIN_P] ? SAMPLING_MIN_P : 0u)};
    altiserve_request *r = NULL;
    status s = altiserve_submit(c->a, &g, &r, err);
    free(text);
    if (s != OK) return s;
    strbuf said = {0};
    altiserve_event e;
    atomic_store(&interrupted, 0);
    for (;;) {
        altiserve_event_kind kind = altiserve_next(r, 100, &e);
        if (kind == EVENT_END) break;
        if (kind == EVENT_TEXT) {
            fwrite(e.text, 1, e.text_len, stdout);
            if (fflush(stdout)) altiserve_cancel(r); // nobody reads
            strbuf_add(&said, e.text, e.text_len);
        }
        if (atomic_exchange(&interrupted, 0)) altiserve_cancel(r);
    }
    if (e.finish == FINISH_ERROR) *err = e.err;
    putchar('\n');
    c->last = e.usage;
    if (said.data && !said.failed && !err->code) add_message(c, "assistant", said.data, said.len, err);
    strbuf_free(&said);
    altiserve_request_free(r);
    return err->code;
}

static void show_stats(const struct chat *c) {
    const altiserve_usage *u = &c->last;
    printf("%u prompt tokens (%u cached) in %.2f s, %u tokens in %.2f s", u->prompt_tokens, u->cached_tokens, u->prefill_s, u->completion_tokens, u->decode_s);
    if (u->decode_s > 0) printf(" (%.1f a second)", u->completion_tokens / u->decode_s);
    putchar('\n');
}

// Whether the chat goes on.
static bool command(struct chat *c, const char *line) {
    if (!strcmp(line, "/exit") || !strcmp(line, "/quit") || !strcmp(line, "/bye")) return false;
    if (!strcmp(line, "/clear")) {
        start_over(c, NULL); // it succeeded before
        puts("The conversation starts anew.");
    } else if (!strcmp(line, "/stats")) {
        show_stats(c);
    } else {
        puts("/clear   start a new conversation\n/stats   tokens and times of the last answer\n/exit    leave (or ctrl-D)\n"
             "ctrl-C   stops the answer\nA line that ends with \\ goes on in the next.");
    }
    return true;
}

static const char *prompt_first(EditLine *el) { (void)el; return ">>> "; }
static const char *prompt_more(EditLine *el) { (void)el; return "... "; }

// The line editor drops what its locale cannot hold, and terminals write UTF-8 where nobody has said so, too. Before any other thread starts.
static void use_utf8(void) {
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8")) (void)(setlocale(LC_CTYPE, "C.UTF-8") || setlocale(LC_CTYPE, "en_US.UTF-8"));
}

// One message from the terminal: a line, or several where a line ends with a backslash. NULL at the end of input.
static char *read_message(EditLine *el, History *hist) {
    strbuf text = {0};
    for (;;) {
        int n = 0;
        el_set(el, EL_PROMPT, text.len ? prompt_more : prompt_first);
        atomic_store(&interrupted, 0);
        const char *line = el_gets(el, &n);
        if (!line || n <= 0) {
            if (atomic_exchange(&interrupted, 0)) { // ctrl-C at the prompt: an empty line
                putchar('\n');
                strbuf_clear(&text);
                continue;
            }
            putchar('\n'); // the shell's prompt begins a line
            strbuf_free(&text);
            return NULL;
        }
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
        bool more = n > 0 && line[n - 1] == '\\';
        strbuf_add(&text, line, (size_t)(more ? n - 1 : n));
        if (more) {
            strbuf_addc(&text, '\n');
            continue;
        }
        char *message = strbuf_take(&text);
        HistEvent event;
        if (message && *message) history(hist, &event, H_ENTER, message);
        return message;
    }
}

static void history_path(char *out, size_t size) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (state && *state) snprintf(out, size, "%s/altiserve_history", state);
    else if (home && *home) snprintf(out, size, "%s/.altiserve_history", home);
    else out[0] = 0;
}

static status converse(struct chat *c, error *err) {
    EditLine *el = el_init("altiserve", stdin, stdout, stderr);
    History *hist = history_init();
    if (!el || !hist) return error_set(err, E_NOMEM, "the terminal's line editor did not start");
    HistEvent event;
    char path[4096];
    history_path(path, sizeof path);
    history(hist, &event, H_SETSIZE, 1000);
    if (*path) history(hist, &event, H_LOAD, path);
    el_set(el, EL_HIST, history, hist);
    el_set(el, EL_EDITOR, "emacs");
    el_set(el, EL_SIGNAL, 0);
    printf("Talking to %s. /help lists commands, ctrl-D leaves.\n", c->model);
    for (char *line; (line = read_message(el, hist)); mem_free(line)) {
        if (!*line) continue;
        if (*line == '/') {
            if (command(c, line)) continue;
            mem_free(line);
            break;
        }
        size_t before = json_array_size(c->messages);
        error e = {0};
        if (add_message(c, "user", line, strlen(line), &e) != OK || answer(c, &e) != OK) { // the conversation goes on without the turn that failed
            bool too_long = e.code == E_INVALID && before > (c->f->text[FLAG_SYSTEM] != NULL); // and was not at its beginning
            fprintf(stderr, "altiserve: %s%s\n", e.text, too_long ? "; /clear starts a new conversation" : "");
            while (json_array_size(c->messages) > before) json_array_remove(c->messages, json_array_size(c->messages) - 1);
        }
    }
    if (*path) history(hist, &event, H_SAVE, path);
    history_end(hist);
    el_end(el);
    return OK;
}

// One message: the prompt, all of stdin, or one behind the other.
static status one_message(struct chat *c, const char *prompt, bool piped_in, error *err) {
    strbuf text = {0};
    char *piped = NULL;
    size_t len = 0;
    if (prompt) strbuf_adds(&text, prompt);
    if (piped_in && cli_read("-", &piped, &len, err) != OK) {
        strbuf_free(&text);
        return err->code;
    }
    if (text.len && len) strbuf_adds(&text, "\n\n");
    strbuf_add(&text, piped ? piped : "", len);
    if (text.failed) error_set(err, E_NOMEM, "no memory for the message");
    else if (!text.len) error_set(err, E_USAGE, "the prompt is empty");
    else if (add_message(c, "user", text.data, text.len, err) == OK) answer(c, err);
    mem_free(piped);
    strbuf_free(&text);
    return err->code;
}

int cmd_run(const flags *f) {
    error err = {0};
    struct chat c = {.f = f, .model = f->positional[0], .messages = json_array()};
    const struct sigaction interrupt = {.sa_handler = on_interrupt}; // no SA_RESTART: the line editor returns
    const char *prompt = f->n_positional > 1 ? f->positional[1] : NULL;
    use_utf8();
    if (f->n_positional > 2 && strcmp(f->positional[2], "-"))
        error_set(&err, E_USAGE, "behind the prompt may stand -, for what is piped in, not \"%.60s\": a prompt of several words is quoted", f->positional[2]);
    else if (start_over(&c, &err) == OK && cli_open(f, &c.a, &err) == OK && cli_load(c.a, c.model, &err) == OK) {
        sigaction(SIGINT, &interrupt, NULL); // from here on it ends an answer; before, the program
        if (!prompt && isatty(STDIN_FILENO)) converse(&c, &err);
        else one_message(&c, prompt, !prompt || f->n_positional > 2, &err);
    }
    json_decref(c.messages);
    altiserve_destroy(c.a);
    return err.code ? cli_fail(&err) : 0;
}
