// Owns the draw of a token: penalties, bias, truncation, the random number, and log-probabilities.
//
// Invariant of a draw: items are in ascending order of id at every stage (cuts compact them stably), so which token a random number
// picks does not depend on the way a cut was found.
#include "sampling/sampling.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 2048, SORT_BELOW = 256, MAX_ROUNDS = 6 };

// Tokens that penalties look at: open addressing by token, -1 is free.
typedef struct seen {
    int32_t  token;
    uint32_t window; // times among the last_n of prompt and output
    uint32_t output; // times in the output
} seen;

struct sampler {
    samp_params p;
    int32_t    n_vocab;
    samp_bias *bias;
    seen      *table;
    size_t     slots, used; // slots: a power of two, or 0
    int32_t   *ring;        // the last last_n tokens, when last_n > 0
    size_t     ring_at, ring_n;
    bool       repetition, counts;
};

samp_params samp_defaults(void) {
    return (samp_params){.temperature = 1, .top_p = 1, .typical_p = 1, .repetition = 1, .last_n = -1};
}

status samp_check(const samp_params *p, int32_t n_vocab, error *err) {
    if (!isfinite(p->temperature) || p->temperature < 0 || p->temperature > 1000)
        return error_set(err, E_INVALID, "temperature must be a number from 0 to 1000");
    if (!isfinite(p->top_p) || p->top_p < 0 || p->top_p > 1) return error_set(err, E_INVALID, "top_p must be from 0 to 1");
    if (!isfinite(p->min_p) || p->min_p < 0 || p->min_p > 1) return error_set(err, E_INVALID, "min_p must be from 0 to 1");
    if (!isfinite(p->typical_p) || p->typical_p < 0 || p->typical_p > 1) return error_set(err, E_INVALID, "typical_p must be from 0 to 1");
    if (!isfinite(p->repetition) || p->repetition <= 0) return error_set(err, E_INVALID, "repetition_penalty must be greater than 0");
    if (p->last_n < -1) return error_set(err, E_INVALID, "repetition_last_n must be -1 or more");
    if (!isfinite(p->presence) || !isfinite(p->frequency))
        return error_set(err, E_INVALID, "presence_penalty and frequency_penalty must be finite numbers");
    for (size_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].token < 0 || p->bias[i].token >= n_vocab)
            return error_set(err, E_INVALID, "logit_bias names token %d; the vocabulary has 0 to %d", p->bias[i].token, n_vocab - 1);
        if (isnan(p->bias[i].bias)) return error_set(err, E_INVALID, "logit_bias of token %d is not a number", p->bias[i].token);
    }
    return OK;
}

void samp_scratch_free(samp_scratch *s) {
    mem_free(s->row);
    mem_free(s->items);
    mem_free(s->border);
    *s = (samp_scratch){0};
}

status samp_create(const samp_params *p, int32_t n_vocab, sampler **out, error *err) {
    *out = NULL;
    status st = samp_check(p, n_vocab, err);
    if (st != OK) return st;
    sampler *s = mem_calloc(1, sizeof *s);
    if (!s) return error_set(err, E_NOMEM, "no memory for a sampler");
    s->p = *p;
    s->p.bias = NULL;
    s->n_vocab = n_vocab;
    s->repetition = p->repetition != 1 && p->last_n != 0;
    s->counts = p->presence != 0 || p->frequency != 0;
    bool ok = true;
    if (p->n_bias) {
        ok = (s->bias = mem_calloc(p->n_bias, sizeof *s->bias)) != NULL;
        if (ok) memcpy(s->bias, p->bias, p->n_bias * sizeof *s->bias);
    }
    if (ok && s->repetition && p->last_n > 0) {
        s->ring_n = 0;
        ok = (s->ring = mem_calloc((size_t)p->last_n, sizeof *s->ring)) != NULL;
    }
    if (!ok) {
        samp_free(s);
        return error_set(err, E_NOMEM, "no memory for a sampler");
    }
    *out = s;
    return OK;
}

void samp_free(sampler *s) {
    if (!s) return;
    mem_free(s->bias);
    mem_free(s->table);
    mem_free(s->ring);
    mem_free(s);
}

static seen *seen_slot(seen *table, size_t slots, int32_t token) {
    size_t i = (uint32_t)token * 2654435761u & (slots - 1);
    while (table[i].token != -1 && table[i].token != token) i = (i + 1) & (slots - 1);
    return &table[i];
}

static seen *seen_get(sampler *s, int32_t token) {
    if (s->used * 2 >= s->slots) {
        size_t slots = s->slots ? s->slots * 2 : 64;
        seen *t = mem_calloc(slots, sizeof *t);
        if (!t) return NULL;
        for (size_t i = 0; i < slots; i++) t[i].token = -1;
        for (size_t i = 0; i < s->slots; i++)
            if (s->table[i].token != -1) *seen_slot(t, slots, s->table[i].token) = s->table[i];
        mem_free(s->table);
        s->table = t;
        s->slots = slots;
    }
    seen *e = seen_slot(s->table, s->slots, token);
    if (e->token == -1) {
        e->token = token;
        s->used++;
    }
    return e;
}

status samp_accept(sampler *s, int32_t token, bool output, error *err) {
    if (token < 0 || token >= s->n_vocab) return OK;
    if (!s->repetition && !(s->counts && output)) return OK;
    seen *e = seen_get(s, token);
    if (!e) return error_set(err, E_NOMEM, "no memory for the penalties' tokens");
    if (output) e->output++;
    if (!s->repetition) return OK;
    e->window++;
    if (s->p.last_n < 0) return OK;
    size_t cap = (size_t)s->p.last_n;
    if (s->ring_n == cap) seen_slot(s->table, s->slots, s->ring[s->ring_at])->window--; // the one that falls out is in the table
    else s->ring_n++;
    s->ring[s->ring_at] = token;
    s->ring_at = (s->ring_at + 1) % cap;
    return OK;
}

double samp_uniform(uint64_t seed, uint32_t choice, uint32_t stream, uint64_t position) {
    uint32_t c[4] = {(uint32_t)position, (uint32_t)(position >> 32), choice, stream};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < 10; i++) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t n0 = (uint32_t)(b >> 32) ^ c[1] ^ k0, n2 = (uint32_t)(a >> 32) ^ c[3] ^ k1;
        c[1] = (uint32_t)b;
        c[3] = (uint32_t)a;
        c[0] = n0;
        c[2] = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (double)(((uint64_t)c[0] << 32 | c[1]) >> 11) * 0x1p-53;
}

// exp(-d) for d >= 0, relative error under 3e-7, 0 past 87. Straight-line so that the compiler turns loops over it into vectors.
static inline float exp_neg(float d) {
    float x = d > 87.0f ? -87.0f : -d;
    float n = x * 1.44269504088896341f;
    n = (float)(int32_t)(n - 0.5f); // x <= 0: rounds to nearest
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { int32_t i; float f; } scale = {.i = ((int32_t)n + 127) << 23};
    float y = p * scale.f;
    return d > 87.0f ? 0.0f : y;
}

// What a logit counts as: NaN as -inf, +inf as the greatest float.
static inline float usable(float x) { return x > FLT_MAX ? FLT_MAX : x >= -FLT_MAX ? x : -INFINITY; }

static int by_key(const void *a, const void *b) {
    const samp_item *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

// Keeps the shortest run of items in ascending (key, id) that has `count` items or (when mass > 0) weighs `mass`, items weighing exp(-d).
// Rounds of histograms over [least, greatest] key narrow the border down to one bucket, which is sorted. Stable. Keys are finite.
static size_t cut(samp_item *items, size_t n, size_t count, double mass, samp_item *border) {
    if (n <= 1) return n;
    const samp_item *from = items;
    size_t m = n, kept = 0;
    double weight = 0;
    for (int round = 0; round < MAX_ROUNDS && m > SORT_BELOW; round++) {
        float lo = from[0].key, hi = lo;
        for (size_t i = 1; i < m; i++) {
            lo = from[i].key < lo ? from[i].key : lo;
            hi = from[i].key > hi ? from[i].key : hi;
        }
        if (!(hi > lo)) break;
        double scale = (BUCKETS - 1) / ((double)hi - lo);
        uint32_t counts[BUCKETS] = {0};
        double weights[BUCKETS];
        if (mass > 0) memset(weights, 0, sizeof weights);
        for (size_t i = 0; i < m; i++) {
            size_t b = (size_t)(((double)from[i].key - lo) * scale);
            counts[b]++;
            if (mass > 0) weights[b] += exp_neg(from[i].d);
        }
        size_t b = 0;
        for (; b < BUCKETS - 1; b++) {
            if (kept + counts[b] >= count || (mass > 0 && weight + weights[b] >= mass)) break;
            kept += counts[b];
            if (mass > 0) weight += weights[b];
        }
        size_t left = 0; // border may be `from` itself: items only move down
        for (size_t i = 0; i < m; i++)
            if ((size_t)(((double)from[i].key - lo) * scale) == b) border[left++] = from[i];
        from = border;
        if (left == m) break;
        m = left;
    }
    if (from == items) memcpy(border, items, m * sizeof *border);
    qsort(border, m, sizeof *border, by_key);
    size_t last = 0;
    for (size_t i = 0; i < m; i++) {
        last = i;
        kept++;
        if (mass > 0) weight += exp_neg(border[i].d);
        if (kept >= count || (mass > 0 && weight >= mass)) break;
    }
    if (m == 0) return n;
    float key = border[last].key;
    int32_t id = border[last].id;
    size_t out = 0;
    for (size_t i = 0; i < n; i++)
        if (items[i].key < key || (items[i].key == key && items[i].id <= id)) items[out++] = items[i];
    return out;
}

static double total_weight(const samp_item *items, size_t n) {
    double z = 0;
    for (size_t i = 0; i < n; i++) z += exp_neg(items[i].d);
    return z;
}

// Locally typical: tokens whose surprise is nearest to the entropy, until they weigh typical_p.
static size_t cut_typical(samp_item *items, size_t n, double p, samp_item *border) {
    double z = total_weight(items, n), e = 0;
    for (size_t i = 0; i < n; i++) e += (double)exp_neg(items[i].d) * items[i].d;
    double mean = e / z; // the mean of d: entropy = mean + ln z, surprise = d + ln z
    for (size_t i = 0; i < n; i++) items[i].key = (float)fabs(items[i].d - mean);
    return cut(items, n, SIZE_MAX, p * z > 0 ? p * z : DBL_MIN, border);
}

static bool reserve(samp_scratch *s, size_t n) {
    return mem_grow((void **)&s->items, &s->items_cap, n, sizeof *s->items) &&
           mem_grow((void **)&s->border, &s->border_cap, n, sizeof *s->border);
}

// The row with penalties, bias and mask applied: `logits` itself when there are none, else a copy in scratch.
static const float *adjust(sampler *s, samp_scratch *scratch, const float *logits, const uint32_t *mask, error *err) {
    if (!s->p.n_bias && !mask && !s->used) return logits;
    size_t n = (size_t)s->n_vocab;
    if (!mem_grow((void **)&scratch->row, &scratch->row_cap, n, sizeof(float))) {
        error_set(err, E_NOMEM, "no memory for a row of %zu logits", n);
        return NULL;
    }
    float *row = scratch->row;
    memcpy(row, logits, n * sizeof *row);
    for (size_t i = 0; i < s->slots; i++) {
        const seen *e = &s->table[i];
        if (e->token < 0) continue;
        float x = row[e->token];
        if (s->repetition && e->window) x = x > 0 ? x / s->p.repetition : x * s->p.repetition;
        if (e->output) x -= s->p.frequency * (float)e->output + s->p.presence;
        row[e->token] = x;
    }
    for (size_t i = 0; i < s->p.n_bias; i++) {
        if (s->bias[i].bias <= -100) row[s->bias[i].token] = -INFINITY;
        else row[s->bias[i].token] += s->bias[i].bias;
    }
    if (mask)
        for (size_t i = 0; i < n; i++)
            if (!(mask[i / 32] >> i % 32 & 1)) row[i] = -INFINITY;
    return row;
}

// The lowest id of the greatest usable logit; -1 when there is none.
static int32_t argmax(const float *row, int32_t n) {
    float best = -INFINITY;
    for (int32_t i = 0; i < n; i++) { // vectorised; NaN compares false
        float x = row[i] > FLT_MAX ? FLT_MAX : row[i];
        best = x > best ? x : best;
    }
    if (best == -INFINITY) return -1;
    for (int32_t i = 0; i < n; i++)
        if (row[i] >= best) return i;
    return -1;
}

static int32_t pick(const samp_item *items, size_t n, double u) {
    double r = u * total_weight(items, n), sum = 0;
    int32_t last = items[0].id;
    for (size_t i = 0; i < n; i++) {
        float w = exp_neg(items[i].d);
        if (w <= 0) continue;
        sum += w;
        last = items[i].id;
        if (sum > r) return last;
    }
    return last;
}

status samp_draw(sampler *s, samp_scratch *scratch, const float *logits, const uint32_t *mask, uint64_t position, int32_t *token, error *err) {
    const float *row = adjust(s, scratch, logits, mask, err);
    if (!row) return E_NOMEM;
    int32_t best = argmax(row, s->n_vocab);
    if (best < 0) return error_set(err, E_INVALID, "no token can be drawn: every logit is banned or not a number");
    if (s->p.temperature <= 0 || s->p.top_k == 1) {
        *token = best;
        return OK;
    }
    size_t n = 0, vocab = (size_t)s->n_vocab;
    if (!reserve(scratch, vocab)) return error_set(err, E_NOMEM, "no memory for %zu candidates", vocab);
    samp_item *items = scratch->items;
    double top = usable(row[best]), inv = 1.0 / (double)s->p.temperature;
    for (size_t i = 0; i < vocab; i++) {
        float x = usable(row[i]);
        double d = (top - x) * inv;
        items[n] = (samp_item){(int32_t)i, d > 1e30 ? 1e30f : (float)d, d > 1e30 ? 1e30f : (float)d};
        n += x != -INFINITY;
    }
    if (s->p.top_k > 0 && (size_t)s->p.top_k < n) n = cut(items, n, (size_t)s->p.top_k, 0, scratch->border);
    if (s->p.typical_p < 1) n = cut_typical(items, n, (double)s->p.typical_p, scratch->border);
    if (s->p.top_p < 1) {
        for (size_t i = 0; i < n; i++) items[i].key = items[i].d;
        double want = (double)s->p.top_p * total_weight(items, n);
        n = cut(items, n, SIZE_MAX, want > 0 ? want : DBL_MIN, scratch->border);
    }
    if (s->p.min_p > 0) { // against the likeliest that is left
        float least = items[0].d;
        for (size_t i = 1; i < n; i++) least = items[i].d < least ? items[i].d : least;
        double limit = least - log((double)s->p.min_p);
        size_t out = 0;
        for (size_t i = 0; i < n; i++)
            if (items[i].d <= limit || items[i].d == least) items[out++] = items[i];
        n = out;
    }
    *token = pick(items, n, samp_uniform(s->p.seed, s->p.choice, 0, position));
    return OK;
}

status samp_logprobs(samp_scratch *scratch, const float *logits, int32_t n_vocab, int32_t chosen, int32_t k, samp_logprob *out, error *err) {
    int32_t best = argmax(logits, n_vocab);
    double top = best < 0 ? 0 : usable(logits[best]), z = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        float x = usable(logits[i]);
        if (x != -INFINITY) z += exp_neg(top - x > 100 ? 100.0f : (float)(top - x));
    }
    double log_z = z > 0 ? log(z) : 0;
    bool inside = chosen >= 0 && chosen < n_vocab;
    out[0] = (samp_logprob){chosen, inside && best >= 0 ? (float)(usable(logits[chosen]) - top - log_z) : -INFINITY};
    if (k <= 0) return OK;
    if (!reserve(scratch, (size_t)n_vocab)) return error_set(err, E_NOMEM, "no memory for %d candidates", n_vocab);
    samp_item *items = scratch->items;
    size_t n = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        float x = usable(logits[i]);
        if (x == -INFINITY) continue;
        double gap = top - x;
        float d = gap > 1e30 ? 1e30f : (float)gap;
        items[n++] = (samp_item){i, d, d};
    }
    if ((size_t)k < n) n = cut(items, n, (size_t)k, 0, scratch->border);
    if (n) qsort(items, n, sizeof *items, by_key);
    for (int32_t i = 0; i < k; i++) {
        if ((size_t)i < n) out[1 + i] = (samp_logprob){items[i].id, (float)(-(double)items[i].d - log_z)};
        else out[1 + i] = (samp_logprob){-1, -INFINITY};
    }
    return OK;
}
