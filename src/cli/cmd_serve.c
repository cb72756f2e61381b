// serve: the server in the foreground. The first ctrl-C or SIGTERM lets running requests finish (up to --drain-timeout), a second ends at once.
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "cli/commands.h"

static void print_model(void *ctx, const altiserve_model_info *info) {
    int *n = ctx;
    (*n)++;
    if (info->state == MODEL_BROKEN || info->state == MODEL_INCOMPLETE) printf("  %s: cannot be served: %s\n", info->id, info->error);
    else printf("  %s (%s, %s, %.1f M parameters)\n", info->id, info->architecture, info->quantization, (double)info->parameters / 1e6);
}

static void first_listed(void *ctx, const altiserve_model_info *info) {
    char *id = ctx;
    if (!*id && info->state != MODEL_BROKEN && info->state != MODEL_INCOMPLETE) snprintf(id, sizeof info->id, "%s", info->id);
}

// Says where it listens, what it serves, and one line to try.
static void greet(altiserve *a, const char *dir, const char *url, bool keys) {
    altiserve_model_info only;
    char id[sizeof only.id] = "";
    bool toy_alone = altiserve_model(a, "", &only, NULL) == OK && !only.path[0];
    altiserve_models(a, first_listed, id);
    if (toy_alone) {
        size_t n = strlen(dir);
        printf("No GGUF models found in %s%s: serving toy-1\n", dir, n && dir[n - 1] == '/' ? "" : "/");
    } else {
        int n = 0;
        printf("Models in %s:\n", dir);
        altiserve_models(a, print_model, &n);
    }
    printf("listening on %s\n", url);
    printf("Try: curl %s/v1/chat/completions -H 'Content-Type: application/json' %s-d '{\"model\": \"%s\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]}'\n",
           url, keys ? "-H 'Authorization: Bearer KEY' " : "", id[0] ? id : "toy-1");
    fflush(stdout);
}

typedef struct drafting {
    altiserve *a;
    error err;
    int fits;
} drafting;

static void check_draft(void *ctx, const altiserve_model_info *info) {
    drafting *d = ctx;
    if (info->state == MODEL_BROKEN || info->state == MODEL_INCOMPLETE || !info->generates) return;
    if (altiserve_check_draft(d->a, info->id, &d->err) == OK) d->fits++;
    else fprintf(stderr, "altiserve: %s\n", d->err.text);
}

static void *second_signal(void *arg) {
    int which;
    sigwait(arg, &which);
    fputs("altiserve: ended at once\n", stderr);
    _exit(130);
}

int cmd_serve(const flags *f) {
    error err = {0};
    altiserve *a = NULL;
    api *server = NULL;
    sigset_t signals; // blocked before any thread starts, so that only sigwait sees them
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (!f->text[FLAG_TLS_CERT] != !f->text[FLAG_TLS_KEY]) {
        error_set(&err, E_USAGE, "--tls-cert and --tls-key go together");
        return cli_fail(&err);
    }
    if (cli_open(f, &a, &err) != OK) return cli_fail(&err);
    drafting d = {.a = a};
    if (f->text[FLAG_DRAFT]) altiserve_models(a, check_draft, &d);
    if (f->text[FLAG_DRAFT] && !d.fits) {
        altiserve_destroy(a);
        error_set(&err, E_USAGE, "--draft %s fits no model here", f->text[FLAG_DRAFT]);
        return cli_fail(&err);
    }
    api_options o = {.engine = a, .api_key_file = f->text[FLAG_API_KEY_FILE],
                     .http = {.host = f->text[FLAG_HOST], .port = (uint16_t)f->number[FLAG_PORT], .tls_cert = f->text[FLAG_TLS_CERT], .tls_key = f->text[FLAG_TLS_KEY],
                              .cors_origin = f->text[FLAG_CORS_ORIGIN], .allowed_host = f->text[FLAG_ALLOWED_HOST]}};
    if (api_start(&o, &server, &err) != OK) {
        altiserve_destroy(a);
        return cli_fail(&err);
    }
    greet(a, f->text[FLAG_MODELS] ? f->text[FLAG_MODELS] : "models", api_url(server), o.api_key_file != NULL);
    int which;
    sigwait(&signals, &which);
    uint32_t deadline = (uint32_t)(f->number[FLAG_DRAIN_TIMEOUT] * 1000);
    fprintf(stderr, "altiserve: stopping; running requests have %.0f s, once more ends at once\n", f->number[FLAG_DRAIN_TIMEOUT]);
    pthread_t hasty;
    if (pthread_create(&hasty, NULL, second_signal, &signals) == 0) pthread_detach(hasty);
    api_stop(server, deadline);
    altiserve_drain(a, 0); // who had a client has ended by now
    api_free(server);
    altiserve_destroy(a);
    return 0;
}
