// http over real sockets: a small server in this program, clients that behave and clients that do not.
// The threads of the server's side are real too: kept requests are answered by a worker, as the api room does.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <cmocka.h>

#include "base/mem.h"
#include "http/http.h"
#include "http/http_client.h"
#include "obs/obs.h"

// ---- the server under test -----------------------------------------------------------------------

enum { BIG = 8 << 20 };

typedef struct task {
    struct task *next;
    http_request *r;
    atomic_int closed; // how often on_close came
    atomic_bool done;  // released
    int lines;
    bool flood, hang, late, patient, lump;
    bool news;         // of a patient one: it may go on. Under the lock
} task;

static struct {
    http_server *server;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    task *todo, *all[4096];
    int n_all;
    bool quit, busy;
    pthread_t worker[2];
    atomic_int closes, pauses, stops;
} app = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static void room(void *ctx) {
    pthread_mutex_lock(&app.lock);
    ((task *)ctx)->news = true;
    pthread_cond_broadcast(&app.cond);
    pthread_mutex_unlock(&app.lock);
}

static void closed(void *ctx) {
    task *t = ctx;
    atomic_fetch_add(&t->closed, 1);
    atomic_fetch_add(&app.closes, 1);
    room(t);
    if (t->hang && !atomic_exchange(&t->done, true)) {
        if (t->late) assert_false(http_respond_take(t->r, 200, "text/plain", mem_calloc(1, BIG), BIG));
        http_release(t->r);
    }
}

static void push(task *t) {
    pthread_mutex_lock(&app.lock);
    t->next = app.todo;
    app.todo = t;
    pthread_cond_broadcast(&app.cond);
    pthread_mutex_unlock(&app.lock);
}

static task *keep(http_request *r) {
    task *t = calloc(1, sizeof *t);
    t->r = r;
    http_on_close(r, closed, t);
    pthread_mutex_lock(&app.lock);
    app.all[app.n_all++] = t;
    pthread_cond_broadcast(&app.cond);
    pthread_mutex_unlock(&app.lock);
    return t;
}

// The first that was kept, once there is one.
static task *first_kept(void) {
    pthread_mutex_lock(&app.lock);
    while (!app.n_all) pthread_cond_wait(&app.cond, &app.lock);
    task *t = app.all[0];
    pthread_mutex_unlock(&app.lock);
    return t;
}

static void route(void *ctx, http_request *r) {
    (void)ctx;
    const char *path = http_path(r);
    if (!strcmp(path, "/busy")) { // a sin, for a test: the HTTP thread waits
        pthread_mutex_lock(&app.lock);
        app.busy = true;
        pthread_cond_broadcast(&app.cond);
        while (app.busy) pthread_cond_wait(&app.cond, &app.lock);
        pthread_mutex_unlock(&app.lock);
        http_respond(r, 200, "text/plain", "busy", 4);
    } else if (!strcmp(path, "/now")) {
        http_set_route(r, "/now");
        http_respond(r, 200, "text/plain", "now!", 4);
    } else if (!strcmp(path, "/echo")) {
        size_t n;
        const char *body = http_body(r, &n);
        char text[200];
        int k = snprintf(text, sizeof text, "%s %zu [%.20s] q=%s h=%s", http_method(r), n, body, http_query(r, "q") ? http_query(r, "q") : "-",
                         http_header(r, "x-thing") ? http_header(r, "x-thing") : "-");
        http_drop_body(r);
        http_add_header(r, "X-Evil", "a\r\nb");
        http_add_header(r, "X-Good", "yes");
        http_respond(r, 200, "text/plain", text, (size_t)k);
    } else if (!strcmp(path, "/nothing")) {
    } else if (!strcmp(path, "/big")) {
        char *text = mem_alloc(2 * BIG);
        memset(text, 'x', BIG);
        keep(r);
        http_respond_take(r, 200, "text/plain", text, BIG);
    } else {
        task *t = keep(r);
        t->lines = http_query(r, "n") ? atoi(http_query(r, "n")) : 0;
        t->flood = !strcmp(path, "/flood");
        t->lump = !strcmp(path, "/lump");
        t->patient = !strcmp(path, "/patient");
        t->late = !strcmp(path, "/late");
        t->hang = t->late || !strcmp(path, "/hang") || !strcmp(path, "/quiet");
        if (!strcmp(path, "/quiet")) http_stream_begin(r, 200, "text/event-stream", ": still here\n\n");
        if (!t->hang) push(t);
        return;
    }
    http_release(r);
}

// What is answered without its body.
static void head(void *ctx, http_request *r) {
    (void)ctx;
    if (!strcmp(http_path(r), "/refused")) http_respond(r, 401, "text/plain", "no key", 6);
}

static void serve_task(task *t) {
    if (http_stream_begin(t->r, 200, "text/event-stream", NULL)) {
        char line[64];
        for (int i = 0; i < t->lines; i++) {
            int n = snprintf(line, sizeof line, "data: %d\n\n", i);
            while (t->patient && http_stream_full(t->r, room, t)) {
                atomic_fetch_add(&app.pauses, 1);
                pthread_mutex_lock(&app.lock);
                while (!t->news) pthread_cond_wait(&app.cond, &app.lock);
                t->news = false;
                pthread_mutex_unlock(&app.lock);
            }
            if (!http_stream_send(t->r, line, (size_t)n)) break;
        }
        static const char lump[512 << 10] = "one piece";
        if (t->lump) http_stream_send(t->r, lump, sizeof lump);
        static char block[4096];
        while (t->flood && http_stream_send(t->r, block, sizeof block)) {}
        http_stream_end(t->r);
    }
    http_request *r = t->r;
    atomic_store(&t->done, true);
    http_release(r);
}

static void *worker(void *arg) {
    (void)arg;
    pthread_mutex_lock(&app.lock);
    while (!app.quit || app.todo) {
        task *t = app.todo;
        if (!t) {
            pthread_cond_wait(&app.cond, &app.lock);
            continue;
        }
        app.todo = t->next;
        pthread_mutex_unlock(&app.lock);
        serve_task(t);
        pthread_mutex_lock(&app.lock);
    }
    pthread_mutex_unlock(&app.lock);
    return NULL;
}

static uint16_t start(http_options o) {
    error err;
    o.route = route;
    o.head = head;
    app.quit = false;
    app.n_all = 0;
    atomic_store(&app.closes, 0);
    atomic_store(&app.pauses, 0);
    if (http_start(&o, &app.server, &err)) fail_msg("%s", err.text);
    for (int i = 0; i < 2; i++) pthread_create(&app.worker[i], NULL, worker, NULL);
    return http_port(app.server);
}

// Stops, and holds the promise of http.h: on_close came exactly once for every request that was kept.
static void stop(uint32_t ms) {
    http_stop(app.server, ms);
    pthread_mutex_lock(&app.lock);
    app.quit = true;
    pthread_cond_broadcast(&app.cond);
    pthread_mutex_unlock(&app.lock);
    for (int i = 0; i < 2; i++) pthread_join(app.worker[i], NULL);
    http_stats st;
    http_get_stats(app.server, &st);
    assert_int_equal(st.connections, 0);
    assert_int_equal(st.requests, 0);
    http_free(app.server);
    for (int i = 0; i < app.n_all; i++) {
        assert_int_equal(atomic_load(&app.all[i]->closed), 1);
        free(app.all[i]);
    }
}

static bool wait_count(atomic_int *count, int n, int ms) {
    int64_t until = client_now() + ms;
    while (atomic_load(count) < n) {
        if (client_now() > until) return false;
        usleep(1000); // polling, with a deadline
    }
    return true;
}

static bool wait_closes(int n, int ms) { return wait_count(&app.closes, n, ms); }

// Until so many requests, or connections, are there.
static bool wait_stats(uint32_t n, bool connections) {
    int64_t until = client_now() + 5000;
    for (http_stats st;;) {
        http_get_stats(app.server, &st);
        if ((connections ? st.connections : st.requests) == n) return true;
        if (client_now() > until) return false;
        usleep(1000);
    }
}

static bool wait_requests(uint32_t n) { return wait_stats(n, false); }
static bool wait_connections(uint32_t n) { return wait_stats(n, true); }

// One exchange on a connection of its own; the whole text that came until the server closed or `want` came.
static client ask(uint16_t port, const char *request, const char *want) {
    client c = client_open(port, 0);
    assert_true(client_say(&c, request));
    if (!client_read_until(&c, want, 1, 5000)) fail_msg("no \"%s\" in the answer to %.60s: %s", want ? want : "end", request, c.text ? c.text : "");
    return c;
}

static void expect(uint16_t port, const char *request, const char *want) {
    client c = ask(port, request, want);
    client_close(&c);
}

// ---- the tests -----------------------------------------------------------------------------------

static void test_answers(void **state) {
    (void)state;
    uint16_t port = start((http_options){0});
    expect(port, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n", "\r\n\r\nnow!");
    expect(port, "POST /echo?q=a%20b HTTP/1.1\r\nHost: 127.0.0.1:99\r\nX-Thing: t\r\nContent-Length: 5\r\n\r\nhello", "POST 5 [hello] q=a b h=t");
    expect(port, "POST /echo HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "POST 5 [abcde] q=- h=-");
    expect(port, "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 500 ");
    // A target in absolute form, as proxies are asked.
    expect(port, "GET http://localhost:8080/now HTTP/1.1\r\nHost: localhost:8080\r\n\r\n", "now!");
    expect(port, "GET HTTPS://[::1]/now HTTP/1.0\r\n\r\n", "now!");
    expect(port, "POST http://127.0.0.1/echo?q=a%20b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", "POST 0 [] q=a b h=-");
    expect(port, "OPTIONS http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 204 ");
    client c = ask(port, "POST /echo HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", NULL);
    assert_non_null(strstr(c.text, "X-Good: yes"));
    assert_null(strstr(c.text, "X-Evil"));
    client_close(&c);
    c = ask(port, "HEAD /now HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", NULL);
    assert_non_null(strstr(c.text, "Content-Length: 4\r\n"));
    assert_null(strstr(c.text, "now!"));
    client_close(&c);
    c = ask(port, "HEAD /stream?n=5 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", NULL);
    assert_non_null(strstr(c.text, "HTTP/1.1 200"));
    assert_null(strstr(c.text, "data:"));
    client_close(&c);
    // Pipelined: answers in order, a stream among them.
    c = ask(port, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\nGET /stream?n=3 HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /echo HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Length: 3\r\n\r\nxyzGET /now HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", NULL);
    char *a = strstr(c.text, "now!"), *b = strstr(c.text, "data: 2"), *d = strstr(c.text, "POST 3 [xyz]"), *e = a ? strstr(a + 4, "now!") : NULL;
    assert_true(a && b && d && e && a < b && b < d && d < e);
    client_close(&c);
    expect(port, "GET /stream?n=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n", "data: 999\n\n\r\n0\r\n\r\n");
    assert_true(obs_read(OBS_HTTP_REQUESTS, "/now", "200") >= 4);
    stop(5000);
}

static void test_refusals(void **state) {
    (void)state;
    uint16_t port = start((http_options){.max_body = 1 << 20});
    expect(port, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 400 ");
    expect(port, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 400 ");
    expect(port, "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", "HTTP/1.1 400 ");
    expect(port, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", "HTTP/1.1 400 ");
    expect(port, "GET /now HTTP/1.1\r\n\r\n", "HTTP/1.1 400 ");
    // A length that libmicrohttpd does not see as one: the body must not be taken for a second request.
    static const char *const lengths[] = {"Content-Length : 39", "Content-Length\t: 39", " Content-Length: 39", "Transfer-Encoding : chunked"};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char request[300];
        snprintf(request, sizeof request, "POST /echo HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\nGET /now HTTP/1.1\r\nHost: localhost\r\n\r\n", lengths[i]);
        client c = ask(port, request, NULL);
        if (strncmp(c.text, "HTTP/1.1 400 ", 13) || strstr(c.text, "now!")) fail_msg("%s: %s", lengths[i], c.text);
        client_close(&c);
    }
    expect(port, "GET /now HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", "HTTP/1.1 400 ");
    expect(port, "GET /now HTTP/1.1\r\nHost: evil.example\r\n\r\n", "HTTP/1.1 403 ");
    expect(port, "GET /now HTTP/1.1\r\nHost: localhost.evil.example:80\r\n\r\n", "HTTP/1.1 403 ");
    expect(port, "GET /now HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n", "HTTP/1.1 403 ");
    expect(port, "GET /now HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n", "HTTP/1.1 403 ");
    expect(port, "GET /now HTTP/1.1\r\nHost: notlocalhost\r\n\r\n", "HTTP/1.1 403 ");
    expect(port, "GET /now HTTP/1.1\r\nHost: LocalHost:1234\r\n\r\n", "now!");
    // Where the target has an authority, that counts, whatever Host says; but there must be one Host all the same.
    expect(port, "GET http://evil.example/now HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 403 ");
    expect(port, "GET http://localhost@evil.example/now HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 403 ");
    expect(port, "GET http://evil.example/now HTTP/1.0\r\n\r\n", "HTTP/1.1 403 ");
    expect(port, "GET http:///now HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 403 ");
    expect(port, "GET http://localhost/now HTTP/1.1\r\nHost: evil.example\r\n\r\n", "now!");
    expect(port, "GET http://localhost/now HTTP/1.1\r\n\r\n", "HTTP/1.1 400 ");
    expect(port, "GET http://localhost/now HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", "HTTP/1.1 400 ");
    expect(port, "GET /now HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n", "HTTP/1.1 403 ");
    expect(port, "GET /now HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n", "HTTP/1.1 403 ");
    expect(port, "GET /now HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:3000\r\n\r\n", "Access-Control-Allow-Origin: http://localhost:3000\r\n");
    expect(port, "OPTIONS /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: http://127.0.0.1:1\r\nAccess-Control-Request-Headers: x-a\r\n\r\n", "Access-Control-Allow-Headers: x-a\r\n");
    expect(port, "OPTIONS /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: http://127.0.0.1:1\r\nAccess-Control-Request-Headers: \r\n\r\n", "Access-Control-Allow-Headers: *\r\n");
    expect(port, "OPTIONS /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: http://127.0.0.1:1\r\nAccess-Control-Request-Headers: a,\tb\r\n\r\n", "Access-Control-Allow-Headers: *\r\n");
    expect(port, "complete nonsense\r\n\r\n", NULL);
    client c = client_open(port, 0); // headers larger than a connection's memory
    char line[1024];
    memset(line, 'h', sizeof line);
    client_say(&c, "GET /now HTTP/1.1\r\nHost: localhost\r\nX-Big: ");
    for (int i = 0; i < 200 && client_send(&c, line, sizeof line, 2000); i++) {}
    assert_true(client_read_until(&c, NULL, 1, 5000));
    if (c.len) assert_non_null(strstr(c.text, "HTTP/1.1 4"));
    client_close(&c);
    stop(1000);
}

// Each answer bears an id under both names, which is the client's where that is sane.
static void expect_id(uint16_t port, const char *request, const char *given) {
    client c = ask(port, request, "\r\n\r\n");
    char id[200], line[250];
    const char *at = strstr(c.text, "\r\nX-Request-Id: ");
    if (!at || sscanf(at, "\r\nX-Request-Id: %199s", id) != 1) fail_msg("no id: %s", c.text);
    snprintf(line, sizeof line, "\r\nRequest-Id: %s\r\n", id);
    assert_non_null(strstr(c.text, line));
    if (given) assert_string_equal(id, given);
    else if (strlen(id) != 36 || strncmp(id, "req_", 4) || strspn(id + 4, "0123456789abcdef") != 32) fail_msg("made: %s", id);
    client_close(&c);
}

static void test_ids(void **state) {
    (void)state;
    uint16_t port = start((http_options){0});
    char longest[129], longer[130], request[500];
    memset(longest, 'x', 128), longest[128] = 0;
    memset(longer, 'x', 129), longer[129] = 0;
    const struct { const char *id; bool taken; } cases[] = {
        {"a", true}, {"7d9f3f0e-4c1a-4b3e-9d56-0a1b2c3d4e5f", true}, {"req_1.2+3!~", true}, {longest, true}, {longer, false},
        {"", false}, {"two words", false}, {"a\tb", false}, {"a\"b", false}, {"a(b)", false}, {"\xC3\xA9", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(request, sizeof request, "GET /now HTTP/1.1\r\nHost: localhost\r\nx-request-id: %s\r\n\r\n", cases[i].id);
        expect_id(port, request, cases[i].taken ? cases[i].id : NULL);
    }
    expect_id(port, "GET /now HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: first\r\nX-Request-Id: second\r\n\r\n", "first");
    static const char *const others[] = {"GET /stream?n=1 HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "HEAD /now HTTP/1.1\r\nHost: localhost\r\n\r\n", "OPTIONS /now HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /now HTTP/1.1\r\nHost: evil.example\r\n\r\n", "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 209715200\r\n\r\n"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) expect_id(port, others[i], NULL);
    client a = ask(port, others[0], "\r\n\r\n"), b = ask(port, others[0], "\r\n\r\n");
    assert_int_not_equal(memcmp(strstr(a.text, "X-Request-Id: "), strstr(b.text, "X-Request-Id: "), 40), 0);
    client_close(&a), client_close(&b);
    expect(port, "GET /now HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:1\r\n\r\n", "Access-Control-Expose-Headers: *\r\n"); // pages may read it
    stop(1000);
}

static const char *word(void *ctx, http_request *r, int code, const char *why, strbuf *out) {
    (void)ctx;
    http_add_header(r, "X-Worded", "yes");
    strbuf_addf(out, "<%s %s %d %s>", http_path(r), http_id(r), code, why);
    return "text/x-word";
}

static void expect_error(const client *c, const char *line, const char *body) {
    const char *end = strstr(c->text, "\r\n\r\n");
    char length[50];
    snprintf(length, sizeof length, "\r\nContent-Length: %zu\r\n", strlen(body));
    if (!end || strcmp(end + 4, body) || strncmp(c->text, line, strlen(line)) || !strstr(c->text, "\r\nContent-Type: text/x-word\r\n") ||
        !strstr(c->text, "\r\nX-Worded: yes\r\n") || !strstr(c->text, length) || !strstr(c->text, "\r\nRequest-Id: me\r\n"))
        fail_msg("%s: %s", line, c->text);
}

// What the transport answers itself is worded by its owner, in the middle of a body too.
static void test_error_bodies(void **state) {
    (void)state;
    enum { MOST = 100, DRAINED = 4 << 20 };
    uint16_t port = start((http_options){.error_body = word, .max_body = MOST, .body_ms = 300});
    static const struct { const char *request, *status, *body; } cases[] = {
        {"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", "HTTP/1.1 500 ", "</nothing me 500 the request was not answered>"},
        {"GET /now HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", "HTTP/1.1 400 ", "</now me 400 Host is given more than once>"},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 209715200\r\n", "HTTP/1.1 413 ", "</echo me 413 the request body is larger than this server accepts>"},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n", "HTTP/1.1 408 ", "</echo me 408 the request body did not come in time>"}, // and it does not
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 150\r\n", "HTTP/1.1 413 ",
         "</echo me 413 the request body is larger than this server accepts>"}, // nor does what would be thrown away
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char request[300];
        snprintf(request, sizeof request, "%sX-Request-Id: me\r\n\r\n", cases[i].request);
        client c = ask(port, request, NULL);
        expect_error(&c, cases[i].status, cases[i].body);
        client_close(&c);
    }
    client page = ask(port, "POST /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:1\r\nX-Request-Id: me\r\nContent-Length: 50\r\n\r\n", NULL); // which may read why
    expect_error(&page, "HTTP/1.1 408 ", "</echo me 408 the request body did not come in time>");
    assert_non_null(strstr(page.text, "\r\nAccess-Control-Allow-Origin: http://localhost:1\r\n"));
    client_close(&page);
    client head = ask(port, "HEAD /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n", NULL);
    assert_int_equal(strncmp(head.text, "HTTP/1.1 408 ", 13), 0);
    assert_string_equal(strstr(head.text, "\r\n\r\n"), "\r\n\r\n");
    client_close(&head);
    stop(1000);
    port = start((http_options){.error_body = word, .max_body = MOST});
    char *block = calloc(1, MOST + DRAINED + 1);
    client c = client_open(port, 0); // one byte more than is read to be thrown away, and nothing behind it that could make the answer a reset
    client_say(&c, "POST /echo HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: me\r\nTransfer-Encoding: chunked\r\n\r\n500000\r\n");
    assert_true(client_send(&c, block, MOST + DRAINED + 1, 5000));
    assert_true(client_read_until(&c, NULL, 1, 5000));
    expect_error(&c, "HTTP/1.1 413 ", "</echo me 413 the request body is larger than this server accepts>");
    client_close(&c);
    free(block);
    stop(1000);
}

static void test_large_bodies(void **state) {
    (void)state;
    uint16_t port = start((http_options){.max_body = 1 << 20, .max_bodies = 3 << 20});
    enum { ALL = 200 << 20, BLOCK = 1 << 20 };
    char *block = calloc(1, BLOCK + 32);
    client c = client_open(port, 0);
    client_say(&c, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 209715200\r\n\r\n");
    for (int i = 0; i < ALL / BLOCK && client_send(&c, block, BLOCK, 5000); i++) {}
    assert_true(client_read_until(&c, "HTTP/1.1 413 ", 1, 5000));
    client_close(&c);
    // One that is just over is read to its end before it is refused, so that its client, which writes first, can read why.
    c = client_open(port, 0);
    client_say(&c, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3145728\r\n\r\n");
    assert_true(wait_requests(1));
    for (int i = 0; i < 3; i++) assert_true(client_send(&c, block, BLOCK, 5000));
    assert_true(client_read_until(&c, NULL, 1, 5000));
    assert_non_null(strstr(c.text, "HTTP/1.1 413 "));
    client_close(&c);
    expect(port, "POST /echo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3145728\r\n\r\n", "HTTP/1.1 413 "); // asked, and told at once
    // Chunked: just over the limit is read and told, far over is cut.
    for (int far = 0; far < 2; far++) {
        c = client_open(port, 0);
        client_say(&c, "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
        int sent = 0;
        for (; sent < (far ? 200 : 3); sent++)
            if (!client_say(&c, "100000\r\n") || !client_send(&c, block, BLOCK, 5000) || !client_say(&c, "\r\n")) break;
        if (!far) assert_int_equal(sent, 3);
        else assert_true(sent < 50);
        client_say(&c, "0\r\n\r\n");
        if (!client_read_until(&c, "HTTP/1.1 413 ", 1, 5000)) assert_true(far && c.eof); // a reset may swallow it
        client_close(&c);
    }
    // Bodies of several connections together are bounded too; the memory is given back.
    client many[6];
    for (int i = 0; i < 6; i++) {
        many[i] = client_open(port, 0);
        client_say(&many[i], "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n");
        client_send(&many[i], block, 999999, 5000);
    }
    assert_true(wait_requests(6));
    int ok = 0, refused = 0;
    for (int i = 0; i < 6; i++) {
        client_say(&many[i], "x");
        assert_true(client_read_until(&many[i], "HTTP/1.1 ", 1, 5000));
        ok += strstr(many[i].text, "HTTP/1.1 200") != NULL;
        refused += strstr(many[i].text, "HTTP/1.1 503") != NULL;
        client_close(&many[i]);
    }
    assert_int_equal(ok + refused, 6);
    assert_true(ok >= 3 && refused >= 1);
    assert_true(wait_requests(0));
    for (int i = 0; i < 5; i++) {
        c = client_open(port, 0);
        client_say(&c, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n");
        assert_true(client_send(&c, block, 1000000, 5000));
        assert_true(client_read_until(&c, "POST 1000000", 1, 5000));
        client_close(&c);
    }
    free(block);
    stop(1000);
}

// What is answered by its headers is not kept, and not sent by a client that asks first; one that sends it all the same is heard to its end.
static void test_heads(void **state) {
    (void)state;
    enum { MOST = 1 << 20, PART = 1000000 };
    uint16_t port = start((http_options){.max_body = MOST, .max_bodies = MOST});
    client c = ask(port, "POST /refused HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n", NULL);
    assert_int_equal(strncmp(c.text, "HTTP/1.1 401 ", 13), 0);
    client_close(&c);
    c = ask(port, "POST /refused HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabcGET /now HTTP/1.1\r\nHost: localhost\r\n\r\n", "now!");
    assert_int_equal(strncmp(c.text, "HTTP/1.1 401 ", 13), 0);
    client_close(&c);
    char *block = calloc(1, 2 * MOST);
    client many[4];
    for (int i = 0; i < 4; i++) { // all of it but a byte
        many[i] = client_open(port, 0);
        client_say(&many[i], "POST /refused HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n");
        assert_true(client_send(&many[i], block, PART - 1, 5000));
    }
    assert_true(wait_requests(4));
    c = client_open(port, 0);
    client_say(&c, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n");
    assert_true(client_send(&c, block, PART, 5000));
    assert_true(client_read_until(&c, "POST 1000000", 1, 5000));
    client_close(&c);
    for (int i = 0; i < 4; i++) {
        client_say(&many[i], "x");
        assert_true(client_read_until(&many[i], "no key", 1, 5000));
        client_close(&many[i]);
    }
    c = client_open(port, 0); // more than a body may have: the answer stays what it was
    client_say(&c, "POST /refused HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n");
    assert_true(client_send(&c, block, 2 * MOST, 5000));
    client_say(&c, "\r\n0\r\n\r\n");
    assert_true(client_read_until(&c, "no key", 1, 5000));
    assert_int_equal(strncmp(c.text, "HTTP/1.1 401 ", 13), 0);
    client_close(&c);
    c = client_open(port, 0); // and more than is thrown away
    client_say(&c, "POST /refused HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n500001\r\n");
    for (int i = 0; i < 5; i++) assert_true(client_send(&c, block, MOST, 5000));
    assert_true(client_send(&c, block, 1, 5000));
    assert_true(client_read_until(&c, "no key", 1, 5000));
    assert_int_equal(strncmp(c.text, "HTTP/1.1 401 ", 13), 0);
    client_close(&c);
    free(block);
    stop(1000);
    port = start((http_options){.body_ms = 200}); // whose body does not come
    c = ask(port, "POST /refused HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\na", "no key");
    assert_int_equal(strncmp(c.text, "HTTP/1.1 401 ", 13), 0);
    client_close(&c);
    stop(1000);
}

// Sends one byte at a time until the peer closes; true when that happened before the deadline.
static bool trickle(client *c, int ms) {
    int64_t until = client_now() + ms;
    while (client_now() < until) {
        if (!client_send(c, "a", 1, 1000)) return true;
        if (client_read_until(c, NULL, 1, 20)) return true;
    }
    return false;
}

static void test_slow_senders(void **state) {
    (void)state;
    uint16_t port = start((http_options){.header_ms = 300, .body_ms = 300});
    client idle = client_open(port, 0), headers = client_open(port, 0), body = client_open(port, 0), hang = client_open(port, 0);
    client_say(&hang, "GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client_say(&headers, "GET /now HTTP/1.1\r\nHost: localhost\r\nX-Slow: ");
    assert_true(trickle(&headers, 10000));
    client_say(&body, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n");
    assert_true(trickle(&body, 10000));
    if (body.len) assert_non_null(strstr(body.text, "HTTP/1.1 408")); // a reset may swallow it
    assert_true(client_read_until(&idle, NULL, 1, 10000));
    assert_false(hang.eof); // a request that is complete may take its time
    assert_int_equal(atomic_load(&app.closes), 0);
    expect(port, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n", "now!");
    assert_true(obs_read(OBS_HTTP_CUT, "headers", NULL) >= 2 && obs_read(OBS_HTTP_CUT, "body", NULL) >= 1);
    client_close(&idle), client_close(&headers), client_close(&body), client_close(&hang);
    assert_true(wait_closes(1, 5000));
    stop(1000);
}

// The server's end of a client's connection is in this process too: what its send buffer holds.
static int send_buffer(const client *c) {
    struct sockaddr_in ours, theirs;
    socklen_t n = sizeof ours;
    assert_int_equal(getsockname(c->fd, (struct sockaddr *)&ours, &n), 0);
    for (int fd = 3; fd < 1024; fd++) {
        n = sizeof theirs;
        if (getpeername(fd, (struct sockaddr *)&theirs, &n) || theirs.sin_family != AF_INET || theirs.sin_port != ours.sin_port) continue;
        int size = 0;
        n = sizeof size;
        assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &n), 0);
        return size;
    }
    fail_msg("the server has no such connection");
    return 0;
}

static void test_send_buffers(void **state) {
    (void)state;
    uint16_t port = start((http_options){.send_buffer = 4096});
    client c = ask(port, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n", "now!");
    assert_true(send_buffer(&c) > 12000); // the system's own: the kernel doubles what is asked for
    client_say(&c, "GET /stream?n=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(client_read_until(&c, "\r\n0\r\n\r\n", 1, 5000));
    assert_true(send_buffer(&c) < 12000);
    client_say(&c, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(client_read_until(&c, "now!", 2, 5000));
    assert_true(send_buffer(&c) > 12000);
    client_close(&c);
    stop(1000);
}

static void test_slow_readers(void **state) {
    (void)state;
    uint16_t port = start((http_options){.stall_ms = 300, .write_ms = 400, .max_lag = 256 << 10});
    client flood = client_open(port, 4096), rest = client_open(port, 4096), whole = client_open(port, 4096);
    client_say(&flood, "GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(wait_closes(1, 10000)); // cut for lag: the worker's send said false
    assert_true(obs_read(OBS_HTTP_CUT, "lag", NULL) >= 1);
    // 20,000 lines fit the queue but not the socket; nobody reads them: cut by the stall.
    client_say(&rest, "GET /stream?n=20000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(wait_closes(2, 10000));
    client_say(&whole, "GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(wait_closes(3, 10000));
    assert_true(obs_read(OBS_HTTP_CUT, "stall", NULL) >= 2);
    expect(port, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n", "now!");
    client_close(&flood), client_close(&rest), client_close(&whole);
    stop(1000);
}

// Whole answers that wait for slow clients are bounded too; small ones always go.
static void test_unread_answers(void **state) {
    (void)state;
    enum { HELD = 2 };
    const char *big = "POST /big HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    uint16_t port = start((http_options){.max_answers = HELD * BIG});
    for (int round = 0; round < 2; round++) {
        client held[HELD], late = client_open(port, 0);
        client_say(&late, "GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n"); // what is answered when its client has left does not count
        assert_true(wait_requests(1));
        client_close(&late);
        assert_true(wait_requests(0));
        for (int i = 0; i < HELD; i++) {
            held[i] = client_open(port, 4096);
            for (int64_t until = client_now() + 5000;;) { // a moment after their clients have left, answers of the round before are gone
                client_say(&held[i], big);
                assert_true(client_read_until(&held[i], "\r\n\r\n", 1, 5000));
                if (!strncmp(held[i].text, "HTTP/1.1 200 ", 13)) break;
                assert_true(round && client_now() < until);
                client_close(&held[i]);
                held[i] = client_open(port, 4096);
                usleep(10000);
            }
        }
        client c = ask(port, big, NULL);
        assert_int_equal(strncmp(c.text, "HTTP/1.1 503 ", 13), 0);
        assert_non_null(strstr(c.text, "Retry-After: 1\r\n"));
        assert_non_null(strstr(c.text, "too many answers that their clients have not read"));
        client_close(&c);
        expect(port, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n", "now!");
        c = ask(port, "GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", NULL); // metrics and lists, however long
        assert_int_equal(strncmp(c.text, "HTTP/1.1 200 ", 13), 0);
        client_close(&c);
        if (!round)
            for (int i = 0; i < HELD; i++) client_close(&held[i]);
        else
            for (int i = 0; i < HELD; i++) {
                assert_true(client_read_until(&held[i], NULL, 1, 20000));
                assert_true(held[i].len > BIG);
                client_close(&held[i]);
            }
        assert_true(wait_requests(0));
    }
    stop(1000);
}

// A sender that asks whether the stream is full waits for the client: its answer arrives whole, and what the client does meanwhile is noticed.
static void test_patient_senders(void **state) {
    (void)state;
    enum { LINES = 100000 };
    double lag = obs_read(OBS_HTTP_CUT, "lag", NULL), stall = obs_read(OBS_HTTP_CUT, "stall", NULL);
    for (int how = 0; how < 3; how++) { // reads all, leaves, reads nothing
        uint16_t port = start((http_options){.max_lag = 256 << 10, .stall_ms = how == 2 ? 300 : 60000});
        client c = client_open(port, 4096);
        client_say(&c, "GET /patient?n=100000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_true(wait_count(&app.pauses, 1, 10000));
        if (how == 0) {
            assert_true(client_read_until(&c, "\r\n0\r\n\r\n", 1, 20000));
            char *p = strstr(c.text, "\r\n\r\n") + 4, line[32];
            unchunk(p);
            for (int i = 0; i < LINES; i++) { // every one, in order, and nothing else
                int n = snprintf(line, sizeof line, "data: %d\n\n", i);
                if (strncmp(p, line, (size_t)n)) fail_msg("not %s: %.30s", line, p);
                p += n;
            }
            assert_int_equal(*p, 0);
            client lump = ask(port, "GET /lump HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", NULL); // one piece may be as large as it likes
            assert_true(lump.len > 512 << 10);
            client_close(&lump);
        } else if (how == 1) client_close(&c);
        assert_true(wait_closes(how == 0 ? 2 : 1, 10000));
        client_close(&c);
        stop(1000);
        assert_true(obs_read(OBS_HTTP_CUT, "lag", NULL) == lag);
        assert_true(obs_read(OBS_HTTP_CUT, "stall", NULL) == stall + (how == 2));
    }
}

// A stream that has ended and that nobody reads is cut too, wherever its rest is: in the queue, in libmicrohttpd's last block, in the socket.
static void test_unread_ends(void **state) {
    (void)state;
    enum { CLIENTS = 32 };
    uint16_t port = start((http_options){.stall_ms = 300, .write_ms = 300, .keepalive_ms = 300, .send_buffer = 4096});
    client c[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) { // sizes up to some 350 KB, by less than a block: one of them ends where only the block is left
        char request[100];
        c[i] = client_open(port, 4096);
        snprintf(request, sizeof request, "GET /stream?n=%d HTTP/1.1\r\nHost: localhost\r\n\r\n", 800 * (i + 1));
        assert_true(client_say(&c[i], request));
    }
    assert_true(wait_closes(CLIENTS, 20000));
    for (int i = 0; i < CLIENTS; i++) client_close(&c[i]);
    stop(1000);
}

static void test_leaving(void **state) {
    (void)state;
    uint16_t port = start((http_options){0});
    const char *paths[] = {"/hang", "/quiet"};
    int closes = 0;
    for (int p = 0; p < 2; p++)
        for (int how = 0; how < 4; how++) {
            client c = client_open(port, 0);
            char request[200];
            snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n%s", paths[p], how == 3 ? "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n" : "");
            client_say(&c, request);
            if (p) assert_true(client_read_until(&c, "200 OK", 1, 5000));
            assert_true(wait_requests(1));
            if (how == 0 || how == 3) shutdown(c.fd, SHUT_WR); // half-closed; 3: with a request unread behind it
            if (how == 2) setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger)); // RST
            if (how == 1 || how == 2) close(c.fd), c.fd = -1;
            assert_true(wait_closes(++closes, 5000));
            client_close(&c);
            assert_true(wait_requests(0));
        }
    stop(1000);
}

// Connections of streams that were broken off are given back at once, also while an older one stays open.
static void test_closed_streams(void **state) {
    (void)state;
    enum { STREAMS = 8 };
    uint16_t port = start((http_options){0});
    client idle = ask(port, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n", "now!");
    for (int i = 0; i < STREAMS; i++) {
        client c = ask(port, "GET /quiet HTTP/1.1\r\nHost: localhost\r\n\r\n", "200 OK");
        client_close(&c);
        assert_true(wait_closes(i + 1, 5000));
    }
    assert_true(wait_connections(1));
    assert_true(client_say(&idle, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert_true(client_read_until(&idle, "now!", 2, 5000));
    client_close(&idle);
    stop(1000);
}

// Who said its last is not waited for, be its body whole or not, also where the HTTP thread sees both at once: here it is busy meanwhile.
static void test_half_bodies(void **state) {
    (void)state;
    static const char *const starts[] = {"Content-Length: 100\r\n\r\n", "Content-Length: 100\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n10\r\nabc",
                                         "Content-Length: 3\r\n\r\nabc"};
    enum { CLIENTS = sizeof starts / sizeof *starts };
    uint16_t port = start((http_options){0});
    client c[CLIENTS], busy = client_open(port, 0);
    for (int i = 0; i < CLIENTS; i++) {
        c[i] = client_open(port, 0);
        client_say(&c[i], "POST /echo HTTP/1.1\r\nHost: localhost\r\n");
    }
    assert_true(wait_connections(CLIENTS + 1));
    client_say(&busy, "GET /busy HTTP/1.1\r\nHost: localhost\r\n\r\n");
    pthread_mutex_lock(&app.lock);
    while (!app.busy) pthread_cond_wait(&app.cond, &app.lock);
    pthread_mutex_unlock(&app.lock);
    for (int i = 0; i < CLIENTS; i++) {
        client_say(&c[i], starts[i]);
        shutdown(c[i].fd, SHUT_WR);
    }
    pthread_mutex_lock(&app.lock);
    app.busy = false;
    pthread_cond_broadcast(&app.cond);
    pthread_mutex_unlock(&app.lock);
    for (int i = 0; i < CLIENTS; i++) assert_true(client_read_until(&c[i], NULL, 1, 5000));
    assert_non_null(strstr(c[CLIENTS - 1].text, "POST 3 [abc]")); // the last body was whole
    for (int i = 0; i < CLIENTS; i++) client_close(&c[i]);
    client_close(&busy);
    assert_true(wait_requests(0));
    stop(1000);
}

static void test_many_streams(void **state) {
    (void)state;
    enum { CLIENTS = 200 };
    uint16_t port = start((http_options){0});
    static client c[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        c[i] = client_open(port, 0);
        char request[100];
        snprintf(request, sizeof request, "GET /stream?n=%d HTTP/1.1\r\nHost: localhost\r\n\r\n", 500 + i);
        assert_true(client_say(&c[i], request));
    }
    for (int i = 0; i < CLIENTS; i++) {
        if (i % 7 == 3) { // some leave in the middle
            client_close(&c[i]);
            continue;
        }
        assert_true(client_read_until(&c[i], "\r\n0\r\n\r\n", 1, 20000));
        const char *p = c[i].text; // every line, in order
        for (int k = 0; k < 500 + i; k++) {
            char line[32];
            snprintf(line, sizeof line, "data: %d\n\n", k);
            p = strstr(p, line);
            assert_non_null(p);
        }
        client_close(&c[i]);
    }
    assert_true(wait_closes(CLIENTS, 20000));
    stop(1000); // exactly once each
    // More connections than allowed.
    port = start((http_options){.max_connections = 3});
    for (int i = 0; i < 3; i++) {
        c[i] = client_open(port, 0);
        client_say(&c[i], "GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    assert_true(wait_requests(3));
    expect(port, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 503 ");
    for (int i = 0; i < 3; i++) client_close(&c[i]);
    assert_true(wait_requests(0));
    stop(1000);
}

static void test_descriptors(void **state) {
    (void)state;
    struct rlimit before, low;
    getrlimit(RLIMIT_NOFILE, &before);
    low = before;
    low.rlim_cur = 80; // a shell's limit may be lower than what the server promises
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    uint16_t port = start((http_options){0});
    static client c[100];
    for (int i = 0; i < 100; i++) c[i] = ask(port, "GET /quiet HTTP/1.1\r\nHost: localhost\r\n\r\n", "200 OK");
    for (int i = 0; i < 100; i++) client_close(&c[i]);
    assert_true(wait_closes(100, 10000));
    stop(1000);
    setrlimit(RLIMIT_NOFILE, &before);
}

static void test_keepalive_text(void **state) {
    (void)state;
    uint16_t port = start((http_options){.keepalive_ms = 50});
    client c = ask(port, "GET /quiet HTTP/1.1\r\nHost: localhost\r\n\r\n", ": still here\n\n");
    assert_true(client_read_until(&c, ": still here\n\n", 3, 5000));
    client_close(&c);
    assert_true(wait_closes(1, 5000));
    stop(1000);
}

static void *stop_thread(void *arg) {
    http_stop(app.server, *(uint32_t *)arg);
    atomic_fetch_add(&app.stops, 1);
    return NULL;
}

static void test_stop(void **state) {
    (void)state;
    uint16_t port = start((http_options){0});
    client idle = client_open(port, 0), half = client_open(port, 0), hang = ask(port, "GET /quiet HTTP/1.1\r\nHost: localhost\r\n\r\n", "200 OK");
    client_say(&half, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc");
    assert_true(wait_requests(2));
    uint32_t hour = 3600000;
    pthread_t t;
    pthread_create(&t, NULL, stop_thread, &hour);
    assert_true(client_read_until(&idle, NULL, 1, 5000)); // idle ones go at once
    assert_true(client_read_until(&half, NULL, 1, 5000));
    client late = {.fd = socket(AF_INET, SOCK_STREAM, 0)}; // nobody listens any more
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_not_equal(connect(late.fd, (struct sockaddr *)&a, sizeof a), 0);
    task *running = app.all[0]; // what runs may end
    assert_true(http_stream_send(running->r, "data: end\n\n", 11));
    assert_true(client_read_until(&hang, "data: end", 1, 5000));
    http_stream_end(running->r);
    assert_true(client_read_until(&hang, "\r\n0\r\n\r\n", 1, 5000));
    pthread_join(t, NULL); // long before the hour
    stop(0);
    client_close(&idle), client_close(&half), client_close(&hang), client_close(&late);
    // A deadline cuts, and a second call hastens the first.
    for (int hasten = 0; hasten < 2; hasten++) {
        port = start((http_options){0});
        hang = ask(port, "GET /quiet HTTP/1.1\r\nHost: localhost\r\n\r\n", "200 OK");
        client other = client_open(port, 0);
        client_say(&other, "GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_true(wait_requests(2));
        uint32_t ms = hasten ? hour : 100;
        pthread_create(&t, NULL, stop_thread, &ms);
        if (hasten) http_stop(app.server, 0);
        pthread_join(t, NULL);
        assert_true(client_read_until(&hang, NULL, 1, 5000));
        assert_null(strstr(hang.text, "\r\n0\r\n\r\n")); // cut, not ended
        client_close(&hang), client_close(&other);
        stop(0);
    }
}

// When the last request has ended nothing more is waited for: here it is cut in its body, or answered.
static void test_stop_at_the_last(void **state) {
    (void)state;
    static const char *const requests[] = {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc", "GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n"};
    uint32_t hour = 3600000;
    for (int answered = 0; answered < 2; answered++) {
        uint16_t port = start((http_options){.header_ms = hour, .body_ms = hour, .write_ms = hour});
        client c = client_open(port, 0), idle = client_open(port, 0);
        client_say(&c, requests[answered]);
        assert_true(wait_requests(1));
        pthread_t t;
        atomic_store(&app.stops, 0);
        pthread_create(&t, NULL, stop_thread, &hour);
        assert_true(client_read_until(&idle, NULL, 1, 5000)); // it stops
        if (answered) {
            http_respond(first_kept()->r, 200, "text/plain", "late", 4);
            assert_true(client_read_until(&c, "late", 1, 5000));
        }
        assert_true(wait_count(&app.stops, 1, 20000));
        pthread_join(t, NULL);
        client_close(&c), client_close(&idle);
        stop(0);
    }
}

// ---- TLS -----------------------------------------------------------------------------------------

static void make_certificate(const char *cert_path, const char *key_path) {
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t crt;
    gnutls_x509_privkey_init(&key);
    gnutls_x509_crt_init(&crt);
    assert_int_equal(gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0), 0);
    gnutls_x509_crt_set_version(crt, 3);
    gnutls_x509_crt_set_serial(crt, "\1", 1);
    gnutls_x509_crt_set_activation_time(crt, time(NULL) - 100);
    gnutls_x509_crt_set_expiration_time(crt, time(NULL) + 10000);
    gnutls_x509_crt_set_dn(crt, "CN=localhost", NULL);
    gnutls_x509_crt_set_key(crt, key);
    assert_int_equal(gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0), 0);
    gnutls_datum_t c, k;
    gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &c);
    gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &k);
    FILE *f = fopen(cert_path, "w");
    fwrite(c.data, 1, c.size, f);
    fclose(f);
    f = fopen(key_path, "w");
    fwrite(k.data, 1, k.size, f);
    fclose(f);
    gnutls_free(c.data), gnutls_free(k.data);
    gnutls_x509_crt_deinit(crt), gnutls_x509_privkey_deinit(key);
}

static void test_tls(void **state) {
    (void)state;
    char dir[] = "/tmp/altiserve-http-XXXXXX", cert[64], key[64];
    assert_non_null(mkdtemp(dir));
    snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    snprintf(key, sizeof key, "%s/key.pem", dir);
    make_certificate(cert, key);
    uint16_t port = start((http_options){.tls_cert = cert, .tls_key = key, .header_ms = 300, .body_ms = 300, .stall_ms = 300, .max_lag = 256 << 10});
    assert_int_equal(strncmp(http_url(app.server), "https://127.0.0.1:", 18), 0);
    gnutls_certificate_credentials_t cred;
    gnutls_certificate_allocate_credentials(&cred);
    client silent = client_open(port, 0), c; // never shakes hands
    c = client_open(port, 0);
    assert_true(client_tls(&c, cred));
    client_say(&c, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\nGET /stream?n=2000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(client_read_until(&c, "now!", 1, 5000));
    assert_true(client_read_until(&c, "data: 1999\n\n\r\n0\r\n\r\n", 1, 5000));
    client_close(&c);
    assert_true(client_read_until(&silent, NULL, 1, 5000));
    client_close(&silent);
    assert_true(wait_closes(1, 5000));
    for (int quiet = 0; quiet < 2; quiet++) { // leaving is noticed here too
        c = client_open(port, 0);
        assert_true(client_tls(&c, cred));
        client_say(&c, quiet ? "GET /quiet HTTP/1.1\r\nHost: localhost\r\n\r\n" : "GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_true(wait_requests(1));
        if (quiet) assert_true(client_read_until(&c, "200 OK", 1, 5000));
        client_close(&c);
        assert_true(wait_closes(2 + quiet, 5000));
        assert_true(wait_requests(0));
    }
    c = client_open(port, 0); // a body that does not come is told so here too
    assert_true(client_tls(&c, cred));
    client_say(&c, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n");
    assert_true(client_read_until(&c, NULL, 1, 5000));
    assert_int_equal(strncmp(c.text, "HTTP/1.1 408 ", 13), 0);
    assert_non_null(strstr(c.text, "\r\n\r\nthe request body did not come in time"));
    client_close(&c);
    c = client_open(port, 4096); // a reader that does not read
    assert_true(client_tls(&c, cred));
    client_say(&c, "GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(wait_closes(4, 10000));
    client_close(&c);
    stop(1000);
    error err;
    http_server *s;
    assert_int_equal(http_start(&(http_options){.tls_cert = cert, .route = route}, &s, &err), E_USAGE);
    assert_int_equal(http_start(&(http_options){.tls_cert = cert, .tls_key = cert, .route = route}, &s, &err), E_INVALID);
    assert_non_null(strstr(err.text, cert));
    unlink(key);
    assert_int_equal(http_start(&(http_options){.tls_cert = cert, .tls_key = key, .route = route}, &s, &err), E_IO);
    assert_non_null(strstr(err.text, key));
    unlink(cert);
    rmdir(dir);
    gnutls_certificate_free_credentials(cred);
}

static void test_start_errors(void **state) {
    (void)state;
    error err;
    http_server *s;
    uint16_t port = start((http_options){0});
    assert_int_equal(http_start(&(http_options){.port = port, .route = route}, &s, &err), E_IO);
    assert_non_null(strstr(err.text, "in use"));
    assert_int_equal(http_start(&(http_options){.host = "no such host", .route = route}, &s, &err), E_USAGE);
    stop(0);
    for (int n = 1; n < 12; n++) { // the nth allocation fails
        mem_fail_at(n);
        status st = http_start(&(http_options){.route = route}, &s, &err);
        mem_fail_at(0);
        if (st) assert_int_equal(st, E_NOMEM);
        else http_stop(s, 0), http_free(s);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    uint16_t port = start((http_options){0});
    for (int n = 1; n < 40; n++) {
        const char *requests[] = {"POST /echo?q=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
                                  "GET /stream?n=20 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"};
        client c = client_open(port, 0);
        mem_fail_at(n);
        client_say(&c, requests[n % 2]);
        assert_true(client_read_until(&c, NULL, 1, 5000)); // an answer or an end, never a hang
        mem_fail_at(0);
        client_close(&c);
    }
    expect(port, "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n", "now!");
    stop(1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers), cmocka_unit_test(test_refusals), cmocka_unit_test(test_ids), cmocka_unit_test(test_error_bodies),
        cmocka_unit_test(test_large_bodies), cmocka_unit_test(test_heads), cmocka_unit_test(test_slow_senders),
        cmocka_unit_test(test_send_buffers), cmocka_unit_test(test_slow_readers),
        cmocka_unit_test(test_unread_answers), cmocka_unit_test(test_patient_senders), cmocka_unit_test(test_unread_ends), cmocka_unit_test(test_leaving),
        cmocka_unit_test(test_closed_streams), cmocka_unit_test(test_half_bodies), cmocka_unit_test(test_many_streams), cmocka_unit_test(test_keepalive_text),
        cmocka_unit_test(test_descriptors), cmocka_unit_test(test_stop), cmocka_unit_test(test_stop_at_the_last),
        cmocka_unit_test(test_tls), cmocka_unit_test(test_start_errors), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
