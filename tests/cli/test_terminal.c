// `altiserve run` in a terminal: what is typed arrives as it is, and the screen is left as a shell wants it.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __APPLE__
#include <util.h>
#else
#include <pty.h>
#endif
#include <cmocka.h>

enum { PATIENCE_MS = 60000 };

static char home[] = "/tmp/altiserve-terminal-XXXXXX";

typedef struct terminal {
    pid_t pid;
    int   fd;
    char  seen[8192]; // what was printed since the last look
    size_t n;
} terminal;

static terminal begin(const char *locale, const char *context) {
    terminal t = {0};
    t.pid = forkpty(&t.fd, NULL, NULL, NULL);
    assert_true(t.pid >= 0);
    if (t.pid) return t;
    setenv("HOME", home, 1);
    setenv("LC_ALL", locale, 1);
    setenv("TERM", "dumb", 1);
    unsetenv("XDG_STATE_HOME");
    execl(BINARY_DIR "/altiserve", "altiserve", "run", "toy-1", "--temp", "0", "--n", "12", "--context", context, (char *)NULL);
    _exit(127);
}

// Waits for `what`, or for the end where it is NULL; keeps nothing of what was seen before.
static void expect(terminal *t, const char *what) {
    for (;;) {
        struct pollfd p = {.fd = t->fd, .events = POLLIN};
        if (t->n == sizeof t->seen - 1 || poll(&p, 1, PATIENCE_MS) != 1) fail_msg("no \"%s\" after: %s", what ? what : "end", t->seen);
        ssize_t got = read(t->fd, t->seen + t->n, sizeof t->seen - 1 - t->n);
        if (got <= 0) break; // its end: an error of the terminal
        t->seen[t->n += (size_t)got] = 0;
        if (what && strstr(t->seen, what)) return;
    }
    if (what) fail_msg("it ended without \"%s\": %s", what, t->seen);
}

static void type(terminal *t, const char *text) {
    t->n = 0;
    t->seen[0] = 0;
    assert_int_equal(write(t->fd, text, strlen(text)), strlen(text));
}

static void end(terminal *t) {
    int how = 0;
    assert_int_equal(waitpid(t->pid, &how, 0), t->pid);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    close(t->fd);
}

// The answer to a word that was said as an argument.
static void said_plainly(const char *word, char *out, size_t size) {
    char command[500];
    snprintf(command, sizeof command, "'%s/altiserve' run toy-1 '%s' --temp 0 --n 12", BINARY_DIR, word);
    FILE *f = popen(command, "r");
    size_t n = fread(out, 1, size - 1, f);
    assert_true(n > 0 && out[n - 1] == '\n');
    out[n - 1] = 0;
    assert_int_equal(pclose(f), 0);
}

static void test_letters(void **state) {
    (void)state;
    static const char word[] = "Gr\xC3\xBC\xC3\x9F""e!", line[] = "Gr\xC3\xBC\xC3\x9F""e!\n";
    static const char *const locales[] = {"C", "C.UTF-8", "no such locale"};
    char answer[500];
    said_plainly(word, answer, sizeof answer);
    for (size_t i = 0; i < sizeof locales / sizeof *locales; i++) {
        terminal t = begin(locales[i], "512");
        expect(&t, ">>> ");
        type(&t, line);
        expect(&t, "\n>>> ");
        if (!strstr(t.seen, word) || !strstr(t.seen, answer)) fail_msg("LC_ALL=%s: %s", locales[i], t.seen);
        type(&t, "/exit\n");
        expect(&t, NULL);
        end(&t);
    }
}

static void test_leaving(void **state) {
    (void)state;
    static const char *const ways[] = {"\4", "/exit\n", "/bye\n"};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        terminal t = begin("C", "512");
        expect(&t, ">>> ");
        type(&t, ways[i]);
        expect(&t, NULL);
        if (!t.n || t.seen[t.n - 1] != '\n') fail_msg("the line is not ended: %s", t.seen);
        end(&t);
    }
}

// A conversation that has become longer than the context goes on when it begins anew.
static void test_full(void **state) {
    (void)state;
    terminal t = begin("C", "40");
    expect(&t, ">>> ");
    type(&t, "Hello!\n");
    expect(&t, "\n>>> ");
    type(&t, "How do I add a model, and how do I ask for its embeddings?\n");
    expect(&t, "the context of toy-1 is 40, and an answer needs at least one; /clear starts a new conversation\r\n>>> ");
    type(&t, "/clear\n");
    expect(&t, "\n>>> ");
    type(&t, "Hello!\n");
    expect(&t, "\n>>> ");
    if (strstr(t.seen, "altiserve: ")) fail_msg("%s", t.seen);
    type(&t, "/exit\n");
    expect(&t, NULL);
    end(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_letters), cmocka_unit_test(test_leaving), cmocka_unit_test(test_full)};
    if (!mkdtemp(home)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char history[100];
    snprintf(history, sizeof history, "%s/.altiserve_history", home);
    unlink(history);
    rmdir(home);
    return failed;
}
