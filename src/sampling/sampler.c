// Owns the draw of a token: penalties, bias, truncation, the random number, and log-probabilities.
//
// A row is first cut into blocks of 64 whose maxima are noted: the k-th greatest maximum bounds the k-th greatest logit from below, so that only
// blocks above it are looked at again. Top-p alone takes more and more of the greatest until they weigh enough.
//
// Invariant of a draw: items are in ascending order of id at every stage (cuts compact them stably), so which token a random number
// picks does not depend on the way a cut was found.
#include "sampling/sampling.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 2048, SORT_BELOW = 256, MAX_ROUNDS = 6, BLOCK = SAMP_PEAK, FIRST_TOP = 128 };
#define GREEDY_BELOW 1e-5f // temperatures that would only divide by nearly nothing

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

bool samp_is_greedy(const samp_params *p) { return p->temperature < GREEDY_BELOW || p->top_k == 1; }

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
    mem_free(s->peaks);
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

static size_t blocks_of(size_t n) { return (n + BLOCK - 1) / BLOCK; }

// peaks holds a maximum a block, then room to select in them; where no items are listed, border holds a weight a block.
static bool reserve(samp_scratch *s, size_t n) {
    return mem_grow((void **)&s->items, &s->items_cap, n, sizeof *s->items) &&
           mem_grow((void **)&s->border, &s->border_cap, n, sizeof *s->border) &&
           mem_grow((void **)&s->peaks, &s->peaks_cap, 2 * blocks_of(n), sizeof *s->peaks);
}

static float peak_of(const float *x, size_t len) {
    float lane[8], peak = -INFINITY;
    for (int k = 0; k < 8; k++) lane[k] = -INFINITY;
    size_t i = 0;
    for (; i + 8 <= len; i += 8)
        for (int k = 0; k < 8; k++) { // a NaN compares false
            float v = x[i + k] > FLT_MAX ? FLT_MAX : x[i + k];
            lane[k] = v > lane[k] ? v : lane[k];
        }
    for (; i < len; i++) lane[0] = usable(x[i]) > lane[0] ? usable(x[i]) : lane[0];
    for (int k = 0; k < 8; k++) peak = lane[k] > peak ? lane[k] : peak;
    return peak;
}

static float peak_at(const float *row, size_t n, size_t block) { return peak_of(row + block * BLOCK, n - block * BLOCK < BLOCK ? n - block * BLOCK : BLOCK); }

static void find_peaks(const float *row, size_t n, float *peaks) {
    for (size_t b = 0; b < blocks_of(n); b++) peaks[b] = peak_at(row, n, b);
}

// The lowest id of the greatest usable logit, or -1.
static int32_t find_best(const float *row, size_t n, const float *peaks) {
    float best = peak_of(peaks, blocks_of(n));
    if (best == -INFINITY) return -1;
    for (size_t b = 0; b < blocks_of(n); b++)
        for (size_t i = b * BLOCK; peaks[b] == best && i < n && i < (b + 1) * BLOCK; i++)
            if (usable(row[i]) == best) return (int32_t)i;
    return -1; // peaks that are not the row's
}

// The k-th greatest (from 1) of v[n]; reorders v.
static float kth_greatest(float *v, size_t n, size_t k) {
    size_t lo = 0, hi = n - 1, want = k - 1;
    while (lo < hi) {
        float pivot = v[lo + (hi - lo) / 2];
        size_t i = lo, j = hi;
        for (;;) {
            while (v[i] > pivot) i++;
            while (v[j] < pivot) j--;
            if (i >= j) break;
            float t = v[i];
            v[i++] = v[j];
            v[j--] = t;
        }
        if (want <= j) hi = j;
        else lo = j + 1;
    }
    return v[want];
}

// Items of all usable logits that may be among the k greatest (at least those), d = (top - logit) * inv.
static size_t gather(samp_scratch *s, const float *row, size_t n, size_t k, float top, float inv) {
    size_t blocks = blocks_of(n), m = 0;
    float bound = -INFINITY;
    if (k < blocks) {
        memcpy(s->peaks + blocks, s->peaks, blocks * sizeof *s->peaks);
        bound = kth_greatest(s->peaks + blocks, blocks, k);
    }
    if (bound == -INFINITY) bound = -FLT_MAX; // all that are usable
    for (size_t b = 0; b < blocks; b++) {
        if (!(s->peaks[b] >= bound)) continue;
        for (size_t i = b * BLOCK; i < n && i < (b + 1) * BLOCK; i++) {
            float x = usable(row[i]);
            if (!(x >= bound)) continue;
            float d = (top - x) * inv;
            d = d < 1e30f ? d : 1e30f;
            s->items[m++] = (samp_item){(int32_t)i, d, d};
        }
    }
    return m;
}

// Four at a time, in the compiler's vectors (whatever the target has): exp_neg of each, 0 where d is past `limit`.
typedef float   vec  __attribute__((vector_size(16)));
typedef int32_t veci __attribute__((vector_size(16)));

static inline vec choose(veci mask, vec yes, vec no) { return (vec)((mask & (veci)yes) | (~mask & (veci)no)); }

static inline vec weigh4(const float *row, float top, float inv, float limit) {
    vec x, zero = {0}, huge = zero + FLT_MAX;
    memcpy(&x, row, sizeof x);
    x = choose(x > huge, huge, x);
    vec d = choose(x >= -huge, (top - x) * inv, zero + INFINITY);
    veci in = (d <= zero + limit) & (d <= zero + 87.0f);
    x = choose(in, -d, zero);
    veci k = __builtin_convertvector(x * 1.44269504088896341f - 0.5f, veci);
    vec n = __builtin_convertvector(k, vec), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return choose(in, p * (vec)((k + 127) << 23), zero);
}

static double block_weight(const float *row, size_t n, float top, float inv, float limit) {
    double sum = 0;
    vec part = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4) part += weigh4(row + i, top, inv, limit);
    for (int k = 0; k < 4; k++) sum += part[k];
    for (; i < n; i++) {
        float d = (top - usable(row[i])) * inv;
        sum += d <= limit ? exp_neg(d) : 0;
    }
    return sum;
}

// The weight of every logit whose d is at most `limit`.
static double row_weight(const float *row, size_t n, float top, float inv, float limit) {
    double z = 0;
    for (size_t b = 0; b < n; b += BLOCK) z += block_weight(row + b, n - b < BLOCK ? n - b : BLOCK, top, inv, limit);
    return z;
}

// Draws among all whose d is at most `limit`, by id, without a list. weights: room for one of each block.
static int32_t pick_row(const float *row, size_t n, int32_t best, float top, float inv, float limit, double u, double *weights) {
    double z = 0, sum = 0;
    int32_t last = best;
    for (size_t b = 0; b < n; b += BLOCK) z += weights[b / BLOCK] = block_weight(row + b, n - b < BLOCK ? n - b : BLOCK, top, inv, limit);
    double r = u * z;
    for (size_t b = 0; b < n; b += BLOCK) {
        size_t len = n - b < BLOCK ? n - b : BLOCK;
        if (sum + weights[b / BLOCK] <= r) {
            sum += weights[b / BLOCK];
            continue;
        }
        for (size_t i = b; i < b + len; i++) {
            float d = (top - usable(row[i])) * inv, e = d <= limit ? exp_neg(d) : 0;
            if (e <= 0) continue;
            sum += e;
            last = (int32_t)i;
            if (sum > r) return last;
        }
    }
    return last;
}

static void take_peaks(samp_scratch *scratch, samp_row from, size_t n) {
    if (from.peaks) memcpy(scratch->peaks, from.peaks, blocks_of(n) * sizeof *from.peaks);
    else find_peaks(from.logits, n, scratch->peaks);
}

// The row with penalties, bias and mask applied, and its peaks in scratch: the logits themselves when there are none, else a copy in scratch.
static const float *adjust(sampler *s, samp_scratch *scratch, samp_row from, const uint32_t *mask, error *err) {
    const float *logits = from.logits;
    size_t n = (size_t)s->n_vocab;
    if (!s->p.n_bias && !mask && !s->used) {
        take_peaks(scratch, from, n);
        return logits;
    }
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
    if (mask || !from.peaks) {
        find_peaks(row, n, scratch->peaks);
        return row;
    }
    take_peaks(scratch, from, n); // then those of what was changed
    for (size_t i = 0; i < s->slots; i++)
        if (s->table[i].token >= 0) scratch->peaks[s->table[i].token / BLOCK] = peak_at(row, n, (size_t)s->table[i].token / BLOCK);
    for (size_t i = 0; i < s->p.n_bias; i++) scratch->peaks[s->bias[i].token / BLOCK] = peak_at(row, n, (size_t)s->bias[i].token / BLOCK);
    return row;
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

// The candidates that top-k, typical and top-p leave, in scratch->items.
static size_t truncate_row(const samp_params *p, samp_scratch *scratch, const float *row, size_t vocab, float top, float inv) {
    samp_item *items = scratch->items;
    size_t n;
    double z = 0;
    bool by_k = p->top_k > 0 && (size_t)p->top_k < vocab;
    if (by_k) {
        n = gather(scratch, row, vocab, (size_t)p->top_k, top, inv);
        n = cut(items, n, (size_t)p->top_k, 0, scratch->border);
    } else if (p->typical_p < 1) {
        n = gather(scratch, row, vocab, vocab, top, inv);
    } else { // top-p alone: the greatest, more of them until they weigh enough
        z = row_weight(row, vocab, top, inv, INFINITY);
        size_t k = FIRST_TOP;
        while ((n = gather(scratch, row, vocab, k, top, inv)) < vocab && k < blocks_of(vocab) && total_weight(items, n) < (double)p->top_p * z) k *= 4;
    }
    if (p->typical_p < 1) n = cut_typical(items, n, (double)p->typical_p, scratch->border);
    if (p->top_p < 1) {
        for (size_t i = 0; i < n; i++) items[i].key = items[i].d;
        double want = (double)p->top_p * (z > 0 ? z : total_weight(items, n));
        n = cut(items, n, SIZE_MAX, want > 0 ? want : DBL_MIN, scratch->border);
    }
    return n;
}

status samp_draw(sampler *s, samp_scratch *scratch, samp_row from, const uint32_t *mask, uint64_t position, int32_t *token, error *err) {
    const samp_params *p = &s->p;
    size_t vocab = (size_t)s->n_vocab;
    if (!reserve(scratch, vocab)) return error_set(err, E_NOMEM, "no memory for %zu candidates", vocab);
    const float *row = adjust(s, scratch, from, mask, err);
    if (!row) return E_NOMEM;
    int32_t best = find_best(row, vocab, scratch->peaks);
    if (best < 0) return error_set(err, E_INVALID, "no token can be drawn: every logit is banned or not a number");
    if (samp_is_greedy(p)) {
        *token = best;
        return OK;
    }
    float top = usable(row[best]), inv = 1.0f / p->temperature;
    double u = samp_uniform(p->seed, p->choice, 0, position), spare = p->min_p > 0 ? -log((double)p->min_p) : INFINITY;
    if ((p->top_k <= 0 || (size_t)p->top_k >= vocab) && p->typical_p >= 1 && p->top_p >= 1) {
        *token = pick_row(row, vocab, best, top, inv, (float)spare, u, (double *)scratch->border);
        return OK;
    }
    samp_item *items = scratch->items;
    size_t n = truncate_row(p, scratch, row, vocab, top, inv);
    if (p->min_p > 0) { // against the likeliest that is left
        float least = items[0].d;
        for (size_t i = 1; i < n; i++) least = items[i].d < least ? items[i].d : least;
        size_t out = 0;
        for (size_t i = 0; i < n; i++)
            if (items[i].d <= least + spare || items[i].d == least) items[out++] = items[i];
        n = out;
    }
    *token = pick(items, n, u);
    return OK;
}

status samp_logprobs(samp_scratch *scratch, samp_row row, int32_t n_vocab, int32_t chosen, int32_t k, samp_logprob *out, error *err) {
    const float *logits = row.logits;
    size_t vocab = (size_t)n_vocab;
    if (!reserve(scratch, vocab)) return error_set(err, E_NOMEM, "no memory for %d candidates", n_vocab);
    take_peaks(scratch, row, vocab);
    int32_t best = find_best(logits, vocab, scratch->peaks);
    float top = best < 0 ? 0 : usable(logits[best]);
    double log_z = best < 0 ? 0 : log(row_weight(logits, vocab, top, 1, INFINITY));
    bool inside = chosen >= 0 && chosen < n_vocab && best >= 0;
    out[0] = (samp_logprob){chosen, inside ? (float)((double)usable(logits[chosen]) - top - log_z) : -INFINITY};
    if (k <= 0) return OK;
    samp_item *items = scratch->items;
    size_t n = best < 0 ? 0 : gather(scratch, logits, vocab, (size_t)k, top, 1);
    if ((size_t)k < n) n = cut(items, n, (size_t)k, 0, scratch->border);
    if (n) qsort(items, n, sizeof *items, by_key);
    for (int32_t i = 0; i < k; i++) {
        if ((size_t)i < n) out[1 + i] = (samp_logprob){items[i].id, (float)(-(double)items[i].d - log_z)};
        else out[1 + i] = (samp_logprob){-1, -INFINITY};
    }
    return OK;
}
