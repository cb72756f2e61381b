// cli: the table of flags: values, ranges, environment, what is refused.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cli/flags.h"

static status parse(unsigned command, flags *f, error *err, int n, const char **words) {
    *err = (error){0};
    return flags_parse(command, n, (char **)words, 2, f, err);
}
#define PARSE(command, ...) parse(command, &f, &err, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

static void test_values(void **state) {
    (void)state;
    flags f;
    error err;
    assert_int_equal(PARSE(CMD_SERVE, "--port", "9000", "--memory=8G", "--deterministic"), OK);
    assert_true(f.number[FLAG_PORT] == 9000);
    assert_true(f.number[FLAG_MEMORY] == 8.0 * 1024 * 1024 * 1024);
    altiserve_options o = flags_engine(&f);
    assert_true(o.deterministic && o.memory == 8ull << 30 && o.rescan);
    assert_string_equal(o.models_dir, "models");
    assert_int_equal(PARSE(CMD_GENERATE, "m", "--temp", "0.7", "--", "--text"), OK);
    assert_int_equal(f.n_positional, 2);
    assert_string_equal(f.positional[1], "--text");
}

static void test_refused(void **state) {
    (void)state;
    flags f;
    error err;
    const char *bad[][2] = {{"--port", "70000"}, {"--port", "8o"}, {"--port", "1.5"}, {"--memory", "8X"}, {"--memory", "nan"},
                            {"--kv-type", "f8"}, {"--device", "tpu"}, {"--threads", "-1"}, {"--nonsense", "1"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(PARSE(CMD_SERVE, bad[i][0], bad[i][1]), E_USAGE);
        assert_non_null(strstr(err.text, bad[i][0])); // the sentence names the flag
    }
    for (const char **name = (const char *[]){"--models", "--host", "--api-key-file", "--cache-dir", "--draft", NULL}; *name; name++) {
        assert_int_equal(PARSE(CMD_SERVE, *name, ""), E_USAGE);
        assert_non_null(strstr(err.text, *name));
    }
    assert_int_equal(PARSE(CMD_RUN, "--system", ""), OK); // a text may be empty
    assert_int_equal(PARSE(CMD_SERVE, "--port"), E_USAGE);
    assert_int_equal(PARSE(CMD_SERVE, "--deterministic=1"), E_USAGE);
    assert_int_equal(PARSE(CMD_SERVE, "--top-k", "4"), E_USAGE); // a flag of another command
    assert_int_equal(PARSE(CMD_SERVE, "a", "b", "c", "d"), E_USAGE);
}

static void test_environment(void **state) {
    (void)state;
    flags f;
    error err;
    setenv("ALTISERVE_PORT", "9001", 1);
    setenv("ALTISERVE_NO_PREFIX_CACHE", "1", 1);
    assert_int_equal(PARSE(CMD_SERVE, "--host", "::1"), OK);
    assert_true(f.number[FLAG_PORT] == 9001);
    assert_false(flags_engine(&f).prefix_cache);
    assert_int_equal(PARSE(CMD_SERVE, "--port", "9002"), OK); // the command line wins
    assert_true(f.number[FLAG_PORT] == 9002);
    setenv("ALTISERVE_PORT", "many", 1);
    assert_int_equal(PARSE(CMD_SERVE, "--host", "::1"), E_USAGE);
    assert_non_null(strstr(err.text, "ALTISERVE_PORT"));
    unsetenv("ALTISERVE_PORT");
    unsetenv("ALTISERVE_NO_PREFIX_CACHE");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_refused), cmocka_unit_test(test_environment)};
    return cmocka_run_group_tests_name("flags", tests, NULL, NULL);
}
