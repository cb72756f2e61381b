// cpu/amx/gemm: products of the tile formats. Recipe, the "bf16 chain": activations rounded to bf16 (nearest even), weights cut to it (amx_decode.h), their
// products as TDPBF16PS sums them (amx_tile.h), blocks of 32 columns in ascending order into one accumulator, nothing scaled in between; at the end what makes up for cutting.
//
// Three forms, the same bits:
//   many rows  two panels x 32 rows in four accumulators: per 32 columns 4 tile loads (64 lines) and 4 TDPBF16PS (64 cycles), 65,536 products. 12 panels are
//              decoded once for 512 rows, beside the products of the first 32, at most 2,048 columns deep; deeper products carry the accumulators, as they
//              are, from one depth to the next. Results go to contiguous tiles and from there with bias, residual and scale to their rows; or two products
//              are joined there (cpu_join) and leave as the next one's activation tiles.
//   few rows   (2 to 16) each weight tile is decoded into the first-level cache and used while the next one is: per 32 columns 50 cycles of decoding by count (4 bits),
//              2 tile loads, a TDPBF16PS. A panel at a time: of two, the one had been asked for ahead while the other already read it.
//   one row    the same two chains in AVX-512 lanes, no tiles: numbers are cut in place and multiplied (amx_decode.h). What no
//              packed form has (file blocks) goes with the few.
#pragma once
#include "cpu/amx/amx_decode.h"
#include "cpu/amx/amx_tile.h"

static void amx_row(const float *x, int64_t k, int64_t row, uint8_t *tiles) {
    uint8_t *to = tiles + row / TILE_ROWS * cpu_tile_blocks(k) * TILE_BYTES + row % TILE_ROWS * 64;
    for (int64_t i = 0; i < k; i += TILE_K, to += TILE_BYTES) {
        __m512 a, b;
        if (k - i >= TILE_K) {
            a = _mm512_loadu_ps(x + i);
            b = _mm512_loadu_ps(x + i + 16);
        } else {
            uint32_t m = (1u << (k - i)) - 1;
            a = _mm512_maskz_loadu_ps((__mmask16)m, x + i);
            b = _mm512_maskz_loadu_ps((__mmask16)(m >> 16), x + i + 16);
        }
        _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
}

// Any file type by quant's own decoding: `n` tiles of a panel from tile k0 on.
static void amx_decode_raw(const gemm_args *g, int64_t panel, int64_t k0, int64_t n, float *row, uint8_t *tiles) {
    const quant_traits *t = quant_type_traits((int)g->w->base.type);
    int64_t left = g->w->base.n - panel * PANEL, rows = left < PANEL ? left : PANEL, from = k0 * TILE_K, count = g->k - from < n * TILE_K ? g->k - from : n * TILE_K;
    size_t skip = 0;
    quant_row_bytes((int)g->w->base.type, (uint64_t)from, &skip); // whole blocks: TILE_DEPTH tiles are 2,048 columns
    if (rows < PANEL) memset(tiles, 0, (size_t)n * TILE_BYTES);
    for (int64_t i = count; i < n * TILE_K; i++) row[i] = 0;
    const __m512i fours = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(0x40004));
    const __m512i upper = _mm512_add_epi16(_mm512_set1_epi32(0x30001), fours); // words 1, 3, 5 ...
    for (int64_t r = 0; r < rows; r++) {
        t->decode(g->data + (size_t)(panel * PANEL + r) * g->w->row_bytes + skip, row, (size_t)count);
        for (int64_t b = 0; b < n; b++) {
            uint32_t pairs[16];
            _mm512_storeu_si512(pairs, _mm512_permutex2var_epi16(_mm512_loadu_si512(row + b * TILE_K), upper, _mm512_loadu_si512(row + b * TILE_K + 16)));
            for (int kp = 0; kp < 16; kp++) memcpy(tiles + b * TILE_BYTES + kp * 64 + r * 4, &pairs[kp], 4);
        }
    }
}

typedef struct work {
    const gemm_args *g;
    amx_reader read;
    const int8_t *values;
    int64_t blocks;
    size_t block_bytes;       // what a panel has for each, scales and all
    float scale;              // of results: the tensor's, times what makes up for cutting
    uint8_t *weights, *rows;  // scratch: decoded panels, gathered activations
    float *results, *joining, *floats; // result tiles; [2][32 rows][64] of what is joined; one row
    uint32_t csr;             // as it was
} work;

// The bf16 tiles of a panel that need no decoding, or NULL.
static const uint8_t *amx_ready(const work *w, int64_t panel) {
    if (w->read.decode) return NULL;
    if (w->g->w->format == CPU_TILE_RAW) return NULL;
    return w->g->data + (size_t)panel * w->g->w->panel_bytes;
}

// A panel from tile k0 on that is decoded to `to` a tile at a time.
typedef struct source {
    const work *w; // NULL: there is nothing to decode
    const uint8_t *panel, *soon; // `soon` is decoded after it, and asked for meanwhile
    int64_t k0;
    uint8_t *to; // tile b to b & ring
    int64_t ring;
} source;

static inline void amx_decode_tile(const source *s, int64_t b) {
    if (!s->w) return;
    cpu_ask_bytes(s->soon + (size_t)(s->k0 + b) * s->w->block_bytes, s->w->block_bytes);
    s->w->read.decode(s->panel, s->w->g->w->scale_bytes, s->k0 + b, s->w->values, s->to + (b & s->ring) * TILE_BYTES);
}

// n rows from `first` of the list as row tiles, of which `tiles` from tile k0 on are wanted: where they lie when they follow each other inside tiles, else
// gathered. Returns the first tile; `*next` bytes lie from 16 rows to the next.
static const uint8_t *amx_gather(const work *w, int32_t first, int32_t n, int64_t k0, int64_t tiles, size_t *next) {
    const int32_t *rows = w->g->rows + first;
    const uint8_t *q = (const uint8_t *)w->g->q + (size_t)k0 * TILE_BYTES;
    const size_t of = (size_t)w->blocks * TILE_BYTES;
    bool follow = rows[0] % TILE_ROWS == 0 || rows[0] % TILE_ROWS + n <= TILE_ROWS;
    for (int32_t i = 1; i < n && follow; i++) follow = rows[i] == rows[0] + i;
    *next = of;
    if (follow) return q + (size_t)(rows[0] / TILE_ROWS) * of + (size_t)(rows[0] % TILE_ROWS) * 64;
    *next = (size_t)tiles * TILE_BYTES;
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *from = q + (size_t)(rows[i] / TILE_ROWS) * of + (size_t)(rows[i] % TILE_ROWS) * 64;
        uint8_t *to = w->rows + (size_t)(i / TILE_ROWS) * *next + (size_t)(i % TILE_ROWS) * 64;
        for (int64_t b = 0; b < tiles; b++) _mm512_store_si512(to + b * TILE_BYTES, _mm512_load_si512(from + b * TILE_BYTES));
    }
    return w->rows;
}

// What one row has of one panel: 16 results on their way out.
static inline void amx_put(const gemm_args *g, float scale, int32_t row, int64_t panel, const float *v) {
    int64_t col = (panel - g->first) * PANEL, left = g->w->base.n - panel * PANEL;
    __mmask16 m = (__mmask16)(left < PANEL ? (1u << left) - 1 : 0xffff);
    __m512 y = _mm512_mul_ps(_mm512_loadu_ps(v), _mm512_set1_ps(scale));
    if (g->bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(m, g->bias + col));
    if (g->residual) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(m, g->residual + (size_t)row * g->ldr + col));
    _mm512_mask_storeu_ps(g->y + (size_t)row * g->ldy + col, m, y);
}

// The same of `rows` rows and n panels from p0 on; c: [panel][row] of 16.
static void amx_put_rows(const work *w, int32_t row, int32_t rows, int64_t p0, int n, const float *c) {
    const gemm_args *g = w->g;
    const bool whole = (p0 + n) * PANEL <= g->w->base.n;
    const size_t col = (size_t)(p0 - g->first) * PANEL;
    const __m512 scale = _mm512_set1_ps(w->scale);
    for (int32_t r = 0; r < rows; r++, c += PANEL) {
        float *y = g->y + (size_t)(row + r) * g->ldy + col;
        const float *residual = g->residual ? g->residual + (size_t)(row + r) * g->ldr + col : NULL;
        for (int i = 0; i < n; i++) {
            if (!whole) {
                amx_put(g, w->scale, row + r, p0 + i, c + i * 512);
                continue;
            }
            __m512 v = _mm512_mul_ps(_mm512_load_ps(c + i * 512), scale);
            if (g->bias) v = _mm512_add_ps(v, _mm512_loadu_ps(g->bias + col + i * PANEL));
            if (residual) v = _mm512_add_ps(v, _mm512_loadu_ps(residual + i * PANEL));
            _mm512_storeu_ps(y + i * PANEL, v);
        }
    }
}

#ifdef AMX_EMULATED
static bool amx_crowded(void) { return false; }
#else
// Nothing of what follows has begun, all that came before is done.
static inline uint64_t amx_ticks(void) {
    _mm_lfence();
    uint64_t t = __rdtsc();
    _mm_lfence();
    return t;
}

// Whether few tiles can be held now: products among loads, with all eight tiles holding something, then take three to six times their 16 cycles, else hardly
// more (tiles of 16 rows; what they held is lost). Cycles are those of a chain of multiplications, of three each, since the counter has a clock of its own. It
// changes many times a second and takes, by count, a quarter of a microsecond to see, where it is so a whole one.
static bool amx_crowded(void) {
    enum { STEPS = 4, CYCLES = STEPS * 4 * 16 };
    static const _Alignas(64) uint32_t ones[256] = {[0 ... 255] = 0x3f803f80};
    TILE_LOAD(0, ones, 64);
    TILE_LOAD(1, ones, 64);
    TILE_LOAD(2, ones, 64);
    TILE_LOAD(3, ones, 64);
    uint64_t begin = 0, x = 3;
    for (int i = 0; i <= STEPS; i++) { // the first to wake them
        if (i == 1) begin = amx_ticks();
        TILE_LOAD(4, ones, 64);
        TILE_LOAD(6, ones, 64);
        TILE_DOT(0, 4, 6);
        TILE_LOAD(7, ones, 64);
        TILE_DOT(1, 4, 7);
        TILE_LOAD(5, ones, 64);
        TILE_DOT(2, 5, 6);
        TILE_DOT(3, 5, 7);
    }
    const uint64_t middle = amx_ticks();
    for (int i = 0; i < CYCLES / 3; i++) __asm__ volatile("imul %0, %0" : "+r"(x));
    return middle - begin > 2 * (amx_ticks() - middle);
}
#endif

// 32 rows x 2 panels over n tiles of K, into c: [panel][row tile] of 16 x 16. `more`: c has what the columns before these gave. While there are rows, every
// tile of the way asks for the lines that a row's results will go to.
// Panels that were not decoded yet are, a tile ahead of the products: those have a unit of their own and leave the vector ports alone.
typedef struct square {
    const uint8_t *a0, *a1, *b[2]; // a1: NULL for 16 rows
    int64_t n;
    const float *out;   // where the first row's results of these panels will go, the next row's ld further; NULL: nothing
    size_t ld;
    bool more;
    source from[2];
    int64_t ring;       // while decoding, tile b of the weights lies at b & ring
} square;

static inline void amx_ask_out(const square *s, int64_t b) {
    if (s->out && b < 2 * TILE_ROWS)
        for (int i = 0; i < 2; i++) __builtin_prefetch(s->out + (size_t)b * s->ld + i * PANEL, 1, 2);
}

static inline __attribute__((always_inline)) void amx_square_begin(const square *s, const float *c) {
    if (s->more) {
        TILE_LOAD(0, c, 64);
        TILE_LOAD(1, c + 512, 64);
        TILE_LOAD(2, c + 256, 64);
        TILE_LOAD(3, c + 768, 64);
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
}

static inline __attribute__((always_inline)) void amx_square_end(float *c) {
    TILE_STORE(0, c, 64);
    TILE_STORE(1, c + 512, 64);
    TILE_STORE(2, c + 256, 64);
    TILE_STORE(3, c + 768, 64);
}

static inline __attribute__((always_inline)) void amx_square_of(bool ask, const square *s, float *c) {
    amx_square_begin(s, c);
    if (s->a1)
        for (int64_t b = 0; b < s->n; b++) {
            amx_ask_out(s, b);
            amx_step(ask, s->a0 + b * TILE_BYTES, s->a1 + b * TILE_BYTES, s->b[0] + b * TILE_BYTES, s->b[1] + b * TILE_BYTES);
        }
    else // 16 rows at the end
        for (int64_t b = 0; b < s->n; b++) amx_step(false, s->a0 + b * TILE_BYTES, NULL, s->b[0] + b * TILE_BYTES, s->b[1] + b * TILE_BYTES);
    amx_square_end(c);
}

static void amx_square(const square *s, float *c) { amx_square_of(false, s, c); }
// Where few tiles can be held, a load does not begin early enough for the second level (a fifth of a product's time); where many can, asking is in its way (a tenth).
static void amx_square_crowded(const square *s, float *c) { amx_square_of(true, s, c); }

// The same with panels that are decoded meanwhile, a tile ahead: what multiplies tiles and what decodes are different parts of a core. Each panel's tile is
// decoded between the products of one and of the other, since a core looks ahead no further than about two tiles' decoding.
static void amx_square_decoding(const square *s, float *c) {
    amx_square_begin(s, c);
    for (int i = 0; i < 2; i++) amx_decode_tile(&s->from[i], 0);
    for (int64_t b = 0; b < s->n; b++) {
        const int64_t at = b * TILE_BYTES, of = (b & s->ring) * TILE_BYTES;
        const bool more = b + 1 < s->n;
        TILE_LOAD(4, s->a0 + at, 64);
        TILE_LOAD(6, s->b[0] + of, 64);
        TILE_DOT(0, 4, 6);
        if (s->a1) {
            amx_ask_out(s, b);
            TILE_LOAD(5, s->a1 + at, 64);
            TILE_DOT(2, 5, 6);
        }
        TILE_ZERO(6);
        if (more) amx_decode_tile(&s->from[0], b + 1);
        TILE_LOAD(7, s->b[1] + of, 64);
        TILE_DOT(1, 4, 7);
        TILE_ZERO(4);
        if (s->a1) {
            TILE_DOT(3, 5, 7);
            TILE_ZERO(5);
        }
        TILE_ZERO(7);
        if (more) amx_decode_tile(&s->from[1], b + 1);
    }
    amx_square_end(c);
}

// act(gate) * up of `rows` rows from `first` on and n panels from p0 on, both even: in c a panel of one, then of the other. Whole lines leave: halves took twice
// as long.
static void amx_join(const work *w, const work *up, int32_t first, int32_t rows, int64_t p0, int n, const float *c) {
    const gemm_args *g = w->g;
    const cpu_join *join = g->join;
    const size_t blocks = (size_t)cpu_tile_blocks(g->w->base.n);
    float *x = w->joining, *y = x + 2 * TILE_ROWS * TILE_PANELS / 2 * PANEL;
    for (int32_t r = 0; r < rows; r++)
        for (int i = 0; i < n; i++) {
            size_t col = (size_t)(p0 + i - g->first) * PANEL, at = ((size_t)r * (size_t)n + (size_t)i) * PANEL;
            __m512 a = _mm512_mul_ps(_mm512_load_ps(c + i * 1024 + r * 16), _mm512_set1_ps(w->scale));
            __m512 b = _mm512_mul_ps(_mm512_load_ps(c + i * 1024 + 512 + r * 16), _mm512_set1_ps(up->scale));
            if (g->bias) a = _mm512_add_ps(a, _mm512_loadu_ps(g->bias + col));
            if (join->bias) b = _mm512_add_ps(b, _mm512_loadu_ps(join->bias + col));
            _mm512_store_ps(x + at, a);
            _mm512_store_ps(y + at, b);
        }
    _mm_setcsr(w->csr); // what act leaves is the same as when it is not joined
    join->act(join->kind, join->p, x, x, y, rows * n * PANEL);
    _mm_setcsr(w->csr | AMX_FLUSH);
    for (int32_t r = 0; r < rows; r++) {
        size_t row = (size_t)g->rows[first + r];
        uint8_t *to = join->tiles + (row / TILE_ROWS * blocks + (size_t)p0 / 2) * TILE_BYTES + row % TILE_ROWS * 64;
        for (int i = 0; i < n; i += 2, to += TILE_BYTES, x += 2 * PANEL) _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(_mm512_load_ps(x + PANEL), _mm512_load_ps(x)));
    }
}

// A block of rows from r0 on by n panels (of both in turn with `up`), which the first rows decode, tiles k0 to k0 + depth of K.
typedef struct passing {
    int32_t r0, rows;
    const uint8_t *a; // their activations
    size_t next;      // bytes from 16 rows to the next
    int64_t p0;
    int n;
    const uint8_t *panels[TILE_PANELS];
    source from[TILE_PANELS];
    float *c;         // [32 rows][n panels, even][row tile] of 16 x 16, of all rows when they are carried
    bool carried, last, crowded;
    square s;
} passing;

static void amx_pass(const work *w, const work *up, passing *x) {
    const gemm_args *g = w->g;
    const bool whole = x->last && !up && (x->p0 + x->n) * PANEL <= g->w->base.n;
    for (int32_t r = 0; r < x->rows; r += 2 * TILE_ROWS) {
        const int32_t rows = x->rows - r < 2 * TILE_ROWS ? x->rows - r : 2 * TILE_ROWS;
        float *c = x->c + (x->carried ? (size_t)r * (size_t)(x->n + (x->n & 1)) * PANEL : 0);
        x->s.a0 = x->a + (size_t)(r / TILE_ROWS) * x->next;
        x->s.a1 = rows > TILE_ROWS ? x->s.a0 + x->next : NULL;
        for (int i = 0; i < x->n; i += 2) {
            for (int j = 0; j < 2; j++) x->s.b[j] = x->panels[i + j < x->n ? i + j : i]; // a panel alone is done twice: it is rare
            for (int j = 0; j < 2; j++) x->s.from[j] = i + j < x->n ? x->from[i + j] : (source){.w = NULL};
            const bool decoding = r == 0 && (x->s.from[0].w || x->s.from[1].w);
            x->s.out = whole && rows == 2 * TILE_ROWS ? g->y + (size_t)(x->r0 + r) * g->ldy + (x->p0 + i - g->first) * PANEL : NULL;
            if (decoding) amx_square_decoding(&x->s, c + i * 512);
            else if (x->crowded) amx_square_crowded(&x->s, c + i * 512);
            else amx_square(&x->s, c + i * 512);
        }
        if (!x->last) continue;
        if (up) amx_join(w, up, x->r0 + r, rows, x->p0, x->n / 2, c);
        else amx_put_rows(w, x->r0 + r, rows, x->p0, x->n, c);
    }
}

static void amx_block(const work *w, const work *up, int32_t r0, int32_t rows, int64_t first, int64_t count) {
    const int64_t B = w->blocks, depth = cpu_tile_depth(B);
    const int of = up ? 2 : 1, most = TILE_PANELS / of;
    passing x = {.r0 = r0, .rows = rows, .carried = depth < B, .crowded = amx_crowded(), .s.ld = w->g->ldy};
    x.s.ring = rows <= 2 * TILE_ROWS && w->read.decode && (!up || up->read.decode) ? 3 : -1; // what is needed once stays in the first level
    for (int64_t k0 = 0; k0 < B; k0 += depth) {
        x.s.n = B - k0 < depth ? B - k0 : depth;
        x.s.more = k0 > 0;
        x.last = k0 + depth >= B;
        x.a = amx_gather(w, r0, rows, k0, x.s.n, &x.next);
        x.c = w->results;
        for (int64_t p = 0; p < count; p += most) {
            x.p0 = first + p;
            x.n = (int)(count - p < most ? count - p : most) * of;
            for (int i = 0; i < x.n; i++) {
                const work *from = up && i & 1 ? up : w;
                const uint8_t *ready = amx_ready(from, x.p0 + i / of);
                uint8_t *to = w->weights + (size_t)i * (size_t)depth * TILE_BYTES;
                x.panels[i] = ready ? ready + k0 * TILE_BYTES : to;
                const uint8_t *panel = from->g->data + (size_t)(x.p0 + i / of) * from->g->w->panel_bytes;
                x.from[i] = (source){ready || !from->read.decode ? NULL : from, panel, panel + (size_t)(2 / of) * from->g->w->panel_bytes, k0, to, x.s.ring};
                if (!ready && !from->read.decode) amx_decode_raw(from->g, x.p0 + i / of, k0, x.s.n, from->floats, to);
            }
            amx_pass(w, up, &x);
            if (x.carried) x.c += (size_t)((rows + 2 * TILE_ROWS - 1) / (2 * TILE_ROWS)) * (size_t)(x.n + (x.n & 1)) * 512;
        }
    }
}

static void amx_many_rows(const work *w, const work *up) {
    const gemm_args *g = w->g;
    const int32_t R = TILE_MOST_ROWS;
    const int64_t P = w->blocks <= TILE_DEPTH ? g->count : up ? TILE_CHUNK / 2 : TILE_CHUNK;
    amx_shape(16, 16);
    for (int32_t r0 = 0; r0 < g->n_rows; r0 += R)
        for (int64_t p = 0; p < g->count; p += P) amx_block(w, up, r0, g->n_rows - r0 < R ? g->n_rows - r0 : R, g->first + p, g->count - p < P ? g->count - p : P);
}

// A panel at a time, so that what is asked for ahead of one is the next.
static void amx_few_rows(const work *w) {
    const gemm_args *g = w->g;
    const int64_t B = w->blocks;
    const int32_t n = g->n_rows;
    size_t next;
    const uint8_t *a = amx_gather(w, 0, n, 0, B, &next);
    amx_shape(n, n);
    for (int64_t p = g->first; p < g->first + g->count; p++) {
        const uint8_t *ready = amx_ready(w, p), *from = g->data + (size_t)p * g->w->panel_bytes;
        if (g->w->format == CPU_TILE_RAW) {
            amx_decode_raw(g, p, 0, B, w->floats, w->weights);
            ready = w->weights;
        }
        const source of = {ready ? NULL : w, from, from + PANEL_AHEAD, 0, w->weights, 3};
        amx_decode_tile(&of, 0);
        TILE_ZERO(0);
        for (int64_t b = 0; b < B; b++) { // decoded a tile ahead of its product, four turns
            if (b + 1 < B) amx_decode_tile(&of, b + 1);
            TILE_LOAD(4, a + b * TILE_BYTES, 64);
            TILE_LOAD(6, ready ? ready + b * TILE_BYTES : w->weights + (b & 3) * TILE_BYTES, 64);
            TILE_DOT(0, 4, 6);
        }
        TILE_STORE(0, w->results, 64);
        for (int32_t r = 0; r < n; r++) amx_put(g, w->scale, r, p, w->results + r * 16);
    }
}

static void amx_one_row(const work *w) {
    const gemm_args *g = w->g;
    const __m256i *a = (const __m256i *)((const uint8_t *)g->q + (size_t)(g->rows[0] / TILE_ROWS * w->blocks) * TILE_BYTES + (size_t)(g->rows[0] % TILE_ROWS) * 64);
    for (int64_t i = 0; i < 2 * w->blocks; i++) {
        const __m512i half = _mm512_cvtepu16_epi32(_mm256_load_si256(a + i / 2 * 32 + i % 2));
        _mm512_storeu_ps(w->floats + i * 16, _mm512_castsi512_ps(_mm512_slli_epi32(half, 16)));
    }
    for (int64_t p = g->first; p < g->first + g->count; p++) {
        _mm512_storeu_ps(w->results, w->read.chain(g->data + (size_t)p * g->w->panel_bytes, g->w->scale_bytes, w->block_bytes, w->blocks, w->values, w->floats));
        amx_put(g, w->scale, 0, p, w->results);
    }
}

static work amx_work(const gemm_args *g) {
    work w = {.g = g, .read = amx_readers[g->w->format], .values = cpu_tile_layout(g->w->format)->values, .blocks = cpu_tile_blocks(g->k)};
    w.block_bytes = g->w->panel_bytes / (size_t)w.blocks;
    w.scale = w.read.exact ? g->scale : g->scale * AMX_CUT;
    w.weights = (uint8_t *)g->scratch;
    w.rows = w.weights + (size_t)cpu_tile_decoded(w.blocks) * TILE_BYTES;
    w.results = (float *)(w.rows + (size_t)cpu_tile_gathered(w.blocks) * TILE_BYTES);
    w.joining = w.results + (size_t)cpu_tile_results(w.blocks) * 256;
    w.floats = w.joining + 2 * TILE_PANELS * 256;
    return w;
}

static void amx_gemm(const gemm_args *g) {
    work w = amx_work(g);
    w.csr = amx_begin();
    if (g->join) {
        gemm_args of_up = *g;
        of_up.w = g->join->up;
        of_up.data = of_up.w->data;
        of_up.scale = g->join->scale;
        work up = amx_work(&of_up);
        amx_many_rows(&w, &up);
    } else if (g->n_rows > TILE_ROWS) amx_many_rows(&w, NULL);
    else if (g->n_rows == 1 && w.read.chain) amx_one_row(&w);
    else amx_few_rows(&w);
    amx_end(w.csr);
}

static void amx_fill_gemm(cpu_kernels *k) {
    k->packed = false;
    k->tiles = true;
    k->tile_row = amx_row;
    for (int f = CPU_TILE_RAW; f < CPU_FORMATS; f++) k->gemm[f] = amx_gemm;
}
