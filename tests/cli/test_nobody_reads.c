// cli: generate, run and tokenize stop when nobody reads what they print. Held with an engine made up here, whose answers end only when they are cancelled.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "cli/commands.h"

enum { MANY = 100000 }; // events of an answer, records of an input: far past what a buffer of the C library holds

static struct counts {
    int given, cancelled, tokenized;
} *seen; // shared with the child in which a command runs

// ---- the engine: what these commands call, and what stands in the same files

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"

status altiserve_submit(altiserve *a, const altiserve_generate *what, altiserve_request **out, error *err) { return *out = NULL, OK; }
void   altiserve_request_free(altiserve_request *r) {}
void   altiserve_cancel(altiserve_request *r) { seen->cancelled++; }

altiserve_event_kind altiserve_next(altiserve_request *r, uint32_t timeout_ms, altiserve_event *out) {
    static const int32_t token = 7;
    bool ends = seen->cancelled || seen->given == MANY;
    seen->given += !ends;
    *out = ends ? (altiserve_event){.kind = EVENT_END} : (altiserve_event){.kind = EVENT_TEXT, .text = "word ", .text_len = 5, .tokens = &token, .n_tokens = 1};
    return out->kind;
}

status altiserve_tokenize(altiserve *a, const char *id, const char *text, size_t len, unsigned how, int32_t **ids, size_t *n, error *err) {
    seen->tokenized++;
    *ids = mem_calloc(1, sizeof **ids);
    *n = 1;
    return OK;
}

altiserve_options altiserve_defaults(void) { return (altiserve_options){0}; }
status altiserve_create(const altiserve_options *o, altiserve **out, error *err) { return OK; }
void   altiserve_destroy(altiserve *a) {}
status altiserve_check_draft(altiserve *a, const char *id, error *err) { return OK; }
status altiserve_load(altiserve *a, const char *id, void (*progress)(void *, uint64_t, uint64_t), void *ctx, error *err) { return OK; }
status altiserve_detokenize(altiserve *a, const char *id, const int32_t *ids, size_t n, char **text, size_t *len, error *err) { abort(); }
status altiserve_template(altiserve *a, const char *id, const char *input, size_t len, char **text, size_t *text_len, error *err) { abort(); }
status altiserve_template_text(const char *source, size_t n, const char *input, size_t len, char **text, size_t *text_len, error *err) { abort(); }
status altiserve_submit_embed(altiserve *a, const altiserve_embed *what, altiserve_request **out, error *err) { abort(); }
status altiserve_bench(altiserve *a, const char *id, const altiserve_bench_spec *spec, altiserve_bench_result *out, error *err) { abort(); }
status altiserve_logits(altiserve *a, const char *id, const int32_t *tokens, size_t n, size_t chunk,
                        status (*row)(void *, size_t, const float *, size_t, error *), void *ctx, error *err) { abort(); }

#pragma GCC diagnostic pop

// ---- the commands

// In a child, with `input` on stdin (NULL: none) and, unless somebody reads, a pipe on stdout whose reader has left.
static struct counts with_output(bool read, unsigned bit, int (*command)(const flags *), const char *input, int argc, const char **argv) {
    int out[2];
    *seen = (struct counts){0};
    assert_int_equal(pipe(out), 0);
    FILE *in = tmpfile(), *sink = tmpfile();
    assert_true(in && sink);
    for (int i = 0; input && i < MANY; i++) fputs(input, in);
    rewind(in);
    pid_t child = fork();
    if (child == 0) {
        flags f;
        signal(SIGPIPE, SIG_IGN); // as main does
        close(out[0]);
        if (dup2(fileno(in), STDIN_FILENO) < 0 || dup2(read ? fileno(sink) : out[1], STDOUT_FILENO) < 0 || flags_parse(bit, argc, (char **)argv, 2, &f, NULL) != OK) _exit(125);
        command(&f);
        _exit(0);
    }
    close(out[0]);
    close(out[1]);
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    fclose(in);
    fclose(sink);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    return *seen;
}
#define WITH_OUTPUT(read, bit, command, input, ...) \
    with_output(read, bit, command, input, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

static void an_answer_is_cancelled(void **state) {
    (void)state;
    const struct counts read = WITH_OUTPUT(true, CMD_GENERATE, cmd_generate, NULL, "m", "--text", "Hi");
    assert_true(read.given == MANY && !read.cancelled);
    const struct counts generate = WITH_OUTPUT(false, CMD_GENERATE, cmd_generate, NULL, "m", "--text", "Hi");
    assert_true(generate.given == 1 && generate.cancelled == 1);
    const struct counts ids = WITH_OUTPUT(false, CMD_GENERATE, cmd_generate, NULL, "m", "--text", "Hi", "--ids");
    assert_true(ids.given == 1 && ids.cancelled == 1);
    const struct counts run = WITH_OUTPUT(false, CMD_RUN, cmd_run, NULL, "m", "Hi");
    assert_true(run.given == 1 && run.cancelled == 1);
}

static void records_are_left(void **state) {
    (void)state;
    assert_int_equal(WITH_OUTPUT(true, CMD_TOKENIZE, cmd_tokenize, "a record\n", "m").tokenized, MANY);
    const int tokenized = WITH_OUTPUT(false, CMD_TOKENIZE, cmd_tokenize, "a record\n", "m").tokenized;
    assert_true(tokenized > 0 && tokenized <= MANY / 2); // what one buffer holds is tokenized before anybody can know
}

int main(void) {
    seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (seen == MAP_FAILED) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(an_answer_is_cancelled), cmocka_unit_test(records_are_left)};
    return cmocka_run_group_tests_name("nobody reads", tests, NULL, NULL);
}
