// inspect: the engine's report as JSON, or as lines for a person.
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cli/commands.h"

static void print_scalar(const json_t *v) {
    if (json_is_string(v)) printf("%s\n", json_string_value(v));
    else if (json_is_integer(v)) printf("%" JSON_INTEGER_FORMAT "\n", json_integer_value(v));
    else if (json_is_real(v)) printf("%g\n", json_real_value(v));
    else printf("%s\n", json_is_true(v) ? "yes" : json_is_false(v) ? "no" : "-");
}

// An object is an indented list of "name  value"; a list of objects is one line an object.
static void print_object(const json_t *object, int indent) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)object, key, v) {
        printf("%*s%-*s ", indent, "", 28 - indent, key);
        if (json_is_object(v)) {
            putchar('\n');
            print_object(v, indent + 2);
        } else if (json_is_array(v)) {
            size_t i;
            json_t *item;
            if (!json_is_object(json_array_get(v, 0))) {
                char *text = json_dumps(v, JSON_ENCODE_ANY);
                printf("%s\n", text ? text : "");
                free(text);
                continue;
            }
            putchar('\n');
            json_array_foreach(v, i, item) {
                printf("%*s", indent + 2, "");
                const char *name;
                json_t *field;
                json_object_foreach(item, name, field) {
                    char *text = json_dumps(field, JSON_ENCODE_ANY);
                    if (json_is_string(field)) printf("%-10s", json_string_value(field));
                    else printf(" %s %s", name, text ? text : "");
                    free(text);
                }
                putchar('\n');
            }
        } else {
            print_scalar(v);
        }
    }
}

int cmd_inspect(const flags *f) {
    error err = {0};
    altiserve *a = NULL;
    char *text = NULL;
    bool whole = true; // else what is wrong is in the report, and in the exit status
    if (cli_open(f, &a, &err) == OK && altiserve_inspect(a, f->positional[0], &text, &err) == OK) {
        json_t *report = json_loads(text, 0, NULL);
        whole = !json_object_get(report, "error");
        if (report && !f->number[FLAG_JSON]) print_object(report, 0);
        else puts(text);
        json_decref(report);
    }
    mem_free(text);
    altiserve_destroy(a);
    return err.code ? cli_fail(&err) : !whole;
}
