// api: the wire formats over the engine: OpenAI, Anthropic, Ollama, llama-server, and what Prometheus reads.
//
// One api owns one http server and a small front pool. The HTTP thread only hands requests over; parsing, templates, tokenizing and
// the formatting of events happen on the pool's threads; the engine thread only marks a job as having news.
#pragma once
#include <stdint.h>

#include "altiserve.h"
#include "http/http.h"

typedef struct api api;

typedef struct api_options {
    altiserve   *engine;       // must outlive the api
    http_options http;         // route, head, error_body and ctx are ours
    const char  *api_key_file; // one key a line, # for comments; NULL: no keys are asked for
    int          workers;      // threads of the front pool; 0: 3. One of them never parses or tokenizes, when there are several
} api_options;

// Listens and serves from now on.
status api_start(const api_options *options, api **out, error *err);
uint16_t api_port(const api *a);
const char *api_url(const api *a); // "http://127.0.0.1:8080"
// Refuses new requests, lets running ones end until deadline_ms has passed, then cuts: in the engine, so that their clients are told (503, or an error in the stream) and,
// three seconds later, whatever connection is left. A second call, from another thread, with a shorter deadline hastens the first.
void api_stop(api *a, uint32_t deadline_ms);
void api_free(api *a); // after api_stop returned
