// api/api_json: errors in every dialect's shape, strict parsing, and JSON text as we write it.
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_internal.h"
#include "base/utf8.h"

// ---- errors --------------------------------------------------------------------------------------

bool api_fail(api_error *e, int http, const char *param, const char *code, const char *fmt, ...) {
    e->http = http;
    e->code = code;
    e->retry_after = 0;
    e->lasting = false;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return false;
}

bool api_fail_status(api_error *e, const error *err, const char *param) {
    const char *text = err->text[0] ? err->text : status_name(err->code);
    switch (err->code) {
    case E_INVALID:
    case E_USAGE:
    case E_LIMIT:
        return api_fail(e, 400, param, strstr(text, "context") ? "context_length_exceeded" : NULL, "%s", text);
    case E_UNSUPPORTED: return api_fail(e, 400, param, "not_built", "%s", text);
    case E_NOTFOUND: return api_fail(e, 404, "model", "model_not_found", "%s", text);
    case E_BUSY: return api_fail(e, 429, NULL, "rate_limit_exceeded", "%s", text);
    case E_NOMEM:
    case E_IO:
    case E_INCOMPLETE:
    case E_CANCELLED: return api_fail(e, 503, NULL, "unavailable", "%s", text);
    default: return api_fail(e, 500, NULL, NULL, "%s", text);
    }
}

// What is in none of these is OpenAI's, or llama-server's, which words errors alike.
static const struct { const char *prefix; api_shape shape; } shapes[] = {{"/api", SHAPE_OLLAMA}, {"/v1/messages", SHAPE_ANTHROPIC}};

api_shape api_shape_of(const http_request *r) {
    const char *path = http_path(r);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        size_t n = strlen(shapes[i].prefix);
        if (!strncmp(path, shapes[i].prefix, n) && (!path[n] || path[n] == '/')) return shapes[i].shape;
    }
    return SHAPE_OPENAI;
}

// How a status is called; one without a row is called as 400 or 500 is. `code` is OpenAI's, where the error has none of its own.
static const struct status_name { int http; const char *openai, *anthropic, *code; } names[] = {
    {400, "invalid_request_error", "invalid_request_error", NULL},
    {401, "authentication_error", "authentication_error", "invalid_api_key"},
    {403, "invalid_request_error", "permission_error", "forbidden"},
    {404, "invalid_request_error", "not_found_error", "not_found"},
    {405, "invalid_request_error", "invalid_request_error", "method_not_allowed"},
    {408, "invalid_request_error", "invalid_request_error", "request_timeout"},
    {413, "invalid_request_error", "request_too_large", "request_too_large"},
    {429, "rate_limit_error", "rate_limit_error", "rate_limit_exceeded"},
    {500, "server_error", "api_error", NULL},
    {503, "service_unavailable", "overloaded_error", "unavailable"},
};

static const struct status_name *name_of(int http) {
    const struct status_name *found = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].http == http || names[i].http == (http < 500 ? 400 : 500)) found = &names[i];
    return found;
}

void api_put_error(strbuf *out, const http_request *r, const api_error *e) {
    api_shape shape = api_shape_of(r);
    if (shape == SHAPE_OLLAMA) {
        strbuf_adds(out, "{\"error\":");
        api_put_string(out, e->message, strlen(e->message));
        strbuf_adds(out, "}");
        return;
    }
    bool anthropic = shape == SHAPE_ANTHROPIC;
    strbuf_adds(out, anthropic ? "{\"type\":\"error\",\"error\":{\"message\":" : "{\"error\":{\"message\":");
    api_put_string(out, e->message, strlen(e->message));
    const struct status_name *name = name_of(e->lasting ? 500 : e->http); // to Anthropic's clients 503 is a load that goes by
    strbuf_addf(out, ",\"type\":\"%s\"", anthropic ? name->anthropic : name->openai);
    if (anthropic) {
        strbuf_adds(out, "},\"request_id\":");
        api_put_string(out, http_id(r), strlen(http_id(r)));
        strbuf_addc(out, '}');
        return;
    }
    const char *code = e->code ? e->code : name->code;
    strbuf_adds(out, ",\"param\":");
    if (e->param[0]) api_put_string(out, e->param, strlen(e->param));
    else strbuf_adds(out, "null");
    strbuf_adds(out, ",\"code\":");
    if (code) api_put_string(out, code, strlen(code));
    else strbuf_adds(out, "null");
    strbuf_adds(out, "}}");
}

const char *api_error_body(void *ctx, http_request *r, int code, const char *why, strbuf *out) {
    (void)ctx;
    api_error e;
    api_fail(&e, code, NULL, NULL, "%s", why);
    api_put_error(out, r, &e);
    return "application/json";
}

void api_send_error(http_request *r, const api_error *e) {
    strbuf out = {0};
    obs_log(e->http >= 500 && e->http != 501 ? OBS_WARN : OBS_DEBUG, "%s %s (%s): %d: %s", http_method(r), http_path(r), http_id(r), e->http, e->message);
    api_put_error(&out, r, e);
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%u", e->retry_after ? e->retry_after : e->http == 429 ? 1 : 5);
    if (e->lasting) http_add_header(r, "X-Should-Retry", "false"); // OpenAI's and Anthropic's clients try each 5xx again unless told not to
    else if (e->http == 429 || e->http == 503) http_add_header(r, "Retry-After", seconds);
    if (e->http == 401) http_add_header(r, "WWW-Authenticate", "Bearer");
    if (!out.failed) http_respond(r, e->http, "application/json", out.data, out.len);
    strbuf_free(&out); // when memory is gone http_release answers for us
}

// ---- reading -------------------------------------------------------------------------------------

// A value costs the parser some 50 times its byte; so the number of values is limited, not the length of strings.
enum { MAX_VALUES = 1000000 };

static bool too_many_values(const char *s, size_t n) {
    size_t values = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (quoted) {
            if (c == '\\') i++;
            else if (c == '"') quoted = false;
        } else if (c == '"') quoted = true;
        else if (c == ',' || c == '[' || c == '{') values++;
    }
    return values > MAX_VALUES;
}

json_t *api_parse(const char *text, size_t len, api_error *e) {
    if (!len) return api_fail(e, 400, NULL, NULL, "the body is empty; a JSON object is expected"), NULL;
    if (too_many_values(text, len)) return api_fail(e, 400, NULL, NULL, "the body holds more than %d JSON values", MAX_VALUES), NULL;
    json_error_t je;
    json_t *v = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
    if (!v && json_error_code(&je) == json_error_numeric_overflow)
        return api_fail(e, 400, NULL, NULL, "the body holds a number out of range, at line %d, column %d: %s; whole numbers go from -2^63 to 2^63 - 1",
                        je.line, je.column, je.text), NULL;
    if (!v && json_error_code(&je) == json_error_null_character)
        return api_fail(e, 400, NULL, NULL, "the body holds a string with \\u0000 in it, at line %d, column %d, which no text here may have", je.line, je.column), NULL;
    if (!v) return api_fail(e, 400, NULL, NULL, "the body is not valid JSON: line %d, column %d: %s", je.line, je.column, je.text), NULL;
    if (json_is_object(v)) return v;
    api_fail(e, 400, NULL, NULL, "the body must be a JSON object, not %s", api_json_type(v));
    json_decref(v);
    return NULL;
}

const char *api_json_type(const json_t *v) {
    switch (v ? json_typeof(v) : JSON_NULL) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
    }
}

bool api_is_ids(const json_t *v) { return json_is_array(v) && json_is_integer(json_array_get(v, 0)); }

bool api_check_ids(const json_t *list, uint32_t vocabulary, const char *param, api_error *e) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id)) return api_fail(e, 400, param, "invalid_type", "%s: token %zu must be an integer, not %s", param, i, api_json_type(id));
        if (json_integer_value(id) < 0 || json_integer_value(id) >= (vocabulary ? vocabulary : INT32_MAX))
            return api_fail(e, 400, param, "invalid_value", "%s: token %zu is %lld, outside the vocabulary of %u", param, i, (long long)json_integer_value(id), vocabulary);
    }
    return true;
}

void api_copy_ids(const json_t *list, int32_t *out) {
    for (size_t i = 0; i < json_array_size(list); i++) out[i] = (int32_t)json_integer_value(json_array_get(list, i));
}

// ---- writing -------------------------------------------------------------------------------------

void api_put_string(strbuf *out, const char *s, size_t n) {
    strbuf_addc(out, '"');
    size_t plain = 0; // start of what needs no escape
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        size_t k = 1;
        const char *with = NULL;
        char code[8];
        if (c == '"') with = "\\\"";
        else if (c == '\\') with = "\\\\";
        else if (c == '\n') with = "\\n";
        else if (c == '\r') with = "\\r";
        else if (c == '\t') with = "\\t";
        else if (c < 0x20 || c == 0x7F) {
            snprintf(code, sizeof code, "\\u%04x", c);
            with = code;
        } else if (c >= 0x80) {
            uint32_t cp;
            k = utf8_decode(s + i, n - i, &cp);
            if (cp == UINT32_MAX) with = "\xEF\xBF\xBD";
        }
        if (with) {
            strbuf_add(out, s + plain, i - plain);
            strbuf_adds(out, with);
            plain = i + k;
        }
        i += k;
    }
    strbuf_add(out, s + plain, n - plain);
    strbuf_addc(out, '"');
}

static void put_shortest(strbuf *out, double v, int most, bool single) {
    char text[40];
    if (!isfinite(v)) {
        strbuf_adds(out, "null");
        return;
    }
    for (int digits = 1; digits <= most; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (single ? strtof(text, NULL) == (float)v : strtod(text, NULL) == v) break;
    }
    strbuf_adds(out, text);
}

void api_put_double(strbuf *out, double v) { put_shortest(out, v, 17, false); }
void api_put_float(strbuf *out, float v) { put_shortest(out, v, 9, true); }
