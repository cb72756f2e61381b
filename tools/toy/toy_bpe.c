// tools/toy/toy_bpe: a byte-level BPE vocabulary: trained on the corpus, saved as text, and used to encode.
//
// Text is first cut by GPT-2's pattern  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ ; the corpus is
// ASCII, bytes above it count as letters here. Ids: 0-255 bytes in GPT-2's order, then the merges, then three control tokens.
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "toy.h"

// GPT-2 orders bytes by their printable form: ! to ~, then two Latin ranges, then the rest at U+0100 and up.
static bool plain_byte(int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; }

static int byte_code(int b) {
    if (plain_byte(b))
        return b;
    int n = 256;
    for (int i = 0; i < b; i++)
        n += !plain_byte(i);
    return n;
}

size_t bpe_printable(const bpe *b, int id, char *out) {
    size_t n = 0;
    if (id >= 256 + b->n_merges) {
        memcpy(out, b->text[id], (size_t)b->len[id]);
        return (size_t)b->len[id];
    }
    for (int i = 0; i < b->len[id]; i++) {
        int c = byte_code((unsigned char)b->text[id][i]);
        if (c < 128) {
            out[n++] = (char)c;
        } else {
            out[n++] = (char)(0xC0 | (c >> 6));
            out[n++] = (char)(0x80 | (c & 63));
        }
    }
    return n;
}

static void start_bytes(bpe *b, int n_tokens) {
    b->n = n_tokens;
    b->n_merges = n_tokens - 256 - 3;
    b->text = toy_alloc((size_t)n_tokens * sizeof *b->text);
    b->len = toy_alloc((size_t)n_tokens * sizeof *b->len);
    b->merge = toy_alloc((size_t)b->n_merges * sizeof *b->merge);
    b->pair_hash = toy_alloc(PAIR_SLOTS * sizeof *b->pair_hash);
    int id = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int c = 0; c < 256; c++)
            if (plain_byte(c) == (pass == 0)) {
                b->text[id] = toy_alloc(2);
                b->text[id][0] = (char)c;
                b->len[id++] = 1;
            }
    static const char *const control[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    b->endoftext = n_tokens - 3, b->im_start = n_tokens - 2, b->im_end = n_tokens - 1;
    for (int i = 0; i < 3; i++) {
        b->text[n_tokens - 3 + i] = (char *)control[i];
        b->len[n_tokens - 3 + i] = (int)strlen(control[i]);
    }
}

static unsigned slot_of(int l, int r) { return ((unsigned)l * 2654435761u ^ (unsigned)r * 40503u) % PAIR_SLOTS; }

static void add_merge(bpe *b, int i, int l, int r) {
    int id = 256 + i;
    b->merge[i][0] = l, b->merge[i][1] = r;
    b->len[id] = b->len[l] + b->len[r];
    b->text[id] = toy_alloc((size_t)b->len[id] + 1);
    memcpy(b->text[id], b->text[l], (size_t)b->len[l]);
    memcpy(b->text[id] + b->len[l], b->text[r], (size_t)b->len[r]);
    unsigned at = slot_of(l, r);
    while (b->pair_hash[at])
        at = (at + 1) % PAIR_SLOTS;
    b->pair_hash[at] = i + 1;
}

static int find_merge(const bpe *b, int l, int r) {
    for (unsigned at = slot_of(l, r); b->pair_hash[at]; at = (at + 1) % PAIR_SLOTS) {
        int i = b->pair_hash[at] - 1;
        if (b->merge[i][0] == l && b->merge[i][1] == r)
            return i;
    }
    return -1;
}

static int byte_id[256];
static void set_byte_ids(const bpe *b) {
    for (int i = 0; i < 256; i++)
        byte_id[(unsigned char)b->text[i][0]] = i;
}

static bool letter(unsigned char c) { return isalpha(c) || c >= 128; }
static bool other(unsigned char c) { return !isspace(c) && !letter(c) && !isdigit(c); }

// The length of the first piece of s by GPT-2's pattern.
static size_t piece(const char *s, size_t n) {
    static const char *const tail[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (int i = 0; i < 7; i++) {
        size_t k = strlen(tail[i]);
        if (n >= k && !memcmp(s, tail[i], k))
            return k;
    }
    size_t i = s[0] == ' ' && n > 1 && !isspace((unsigned char)s[1]) ? 1 : 0;
    unsigned char c = (unsigned char)s[i];
    if (!isspace(c)) {
        bool (*const kind[])(unsigned char) = {letter, other};
        if (isdigit(c)) {
            while (i < n && isdigit((unsigned char)s[i]))
                i++;
        } else {
            bool (*is)(unsigned char) = kind[letter(c) ? 0 : 1];
            while (i < n && is((unsigned char)s[i]))
                i++;
        }
        return i;
    }
    size_t k = 0;
    while (k < n && isspace((unsigned char)s[k]))
        k++;
    return k < n && k > 1 ? k - 1 : k; // the last space belongs to what follows
}

static int encode_piece(const bpe *b, const char *s, size_t n, int *ids) {
    int len = (int)n;
    for (int i = 0; i < len; i++)
        ids[i] = byte_id[(unsigned char)s[i]];
    for (;;) {
        int best = -1, at = 0;
        for (int i = 0; i + 1 < len; i++) {
            int m = find_merge(b, ids[i], ids[i + 1]);
            if (m >= 0 && (best < 0 || m < best))
                best = m, at = i;
        }
        if (best < 0)
            return len;
        ids[at] = 256 + best;
        memmove(ids + at + 1, ids + at + 2, (size_t)(len - at - 2) * sizeof *ids);
        len--;
    }
}

int bpe_encode(const bpe *b, const char *s, size_t n, int *out, int max) {
    int made = 0, ids[TEXT_MAX];
    while (n) {
        size_t k = piece(s, n);
        if (k > TEXT_MAX)
            k = TEXT_MAX;
        int len = encode_piece(b, s, k, ids);
        if (made + len > max)
            return -1;
        memcpy(out + made, ids, (size_t)len * sizeof *ids);
        made += len;
        s += k, n -= k;
    }
    return made;
}

int bpe_talk(const bpe *b, const talk *t, int *ids, float *weight, int max) {
    int n = 0;
    for (int i = 0; i < t->n; i++) {
        const turn *u = &t->turns[i];
        char text[TEXT_MAX + 16];
        int head = snprintf(text, sizeof text, "%s\n", role_name[u->who]);
        size_t len = strlen(u->text);
        memcpy(text + head, u->text, len);
        if (n + 3 > max)
            return -1;
        ids[n] = b->im_start, weight[n++] = 0;
        int k = bpe_encode(b, text, (size_t)head + len, ids + n, max - n - 2);
        if (k < 0)
            return -1;
        int name = bpe_encode(b, text, (size_t)head, ids + n + k, 2) > 0 ? bpe_encode(b, text, (size_t)head, ids + n + k, 2) : 2;
        for (int j = 0; j < k; j++)
            weight[n + j] = u->who == ROLE_ASSISTANT && j >= name ? 1.0f : u->who == ROLE_USER && j >= name ? 0.03f : 0;
        n += k;
        ids[n] = b->im_end, weight[n++] = u->who == ROLE_ASSISTANT ? 1.0f : 0;
        if (n + 1 > max)
            return -1;
        ids[n] = byte_id['\n'], weight[n++] = 0;
    }
    return n;
}

int bpe_prompt(const bpe *b, const char *question, int *ids, int max) {
    talk t = {.n = 2};
    float weight[2048];
    if (max > 2048)
        max = 2048;
    t.turns[0].who = ROLE_USER;
    snprintf(t.turns[0].text, TEXT_MAX, "%s", question);
    t.turns[1].who = ROLE_ASSISTANT;
    int n = bpe_talk(b, &t, ids, weight, max);
    return n < 0 ? -1 : n - 2; // without the ending of the empty answer
}

// ---- training -----------------------------------------------------------------------------------------------------------------
typedef struct word { char *s; int len, n; int *ids; long count; } word;
typedef struct words { word *w; int n, cap; int *slot; int slots; } words;

static void count_word(words *t, const char *s, size_t n) {
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    for (size_t at = h % (uint64_t)t->slots;; at = (at + 1) % (size_t)t->slots) {
        int i = t->slot[at] - 1;
        if (i < 0) {
            if (t->n == t->cap)
                return; // rare words past the table's size cannot matter
            word *w = &t->w[t->n++];
            w->s = toy_alloc(n + 1);
            memcpy(w->s, s, n);
            w->len = (int)n, w->count = 1;
            t->slot[at] = t->n;
            return;
        }
        if (t->w[i].len == (int)n && !memcmp(t->w[i].s, s, n)) {
            t->w[i].count++;
            return;
        }
    }
}

static void count_corpus(words *t, corpus *c, uint64_t seed, int samples) {
    talk *k = toy_alloc(sizeof *k);
    for (int i = 0; i < samples; i++) {
        corpus_draw(c, seed, (uint64_t)i, k);
        for (int j = 0; j < k->n; j++) {
            char text[TEXT_MAX + 16];
            int n = snprintf(text, sizeof text, "%s\n%s", role_name[k->turns[j].who], k->turns[j].text);
            for (int at = 0; at < n;) {
                size_t p = piece(text + at, (size_t)(n - at));
                count_word(t, text + at, p);
                at += (int)p;
            }
        }
    }
    free(k);
}

bpe *bpe_train(corpus *c, uint64_t seed, int samples, int n_tokens) {
    bpe *b = toy_alloc(sizeof *b);
    words t = {.cap = 60000, .slots = 1 << 18};
    t.w = toy_alloc((size_t)t.cap * sizeof *t.w);
    t.slot = toy_alloc((size_t)t.slots * sizeof *t.slot);
    start_bytes(b, n_tokens);
    set_byte_ids(b);
    count_corpus(&t, c, seed, samples);
    for (int i = 0; i < t.n; i++) {
        t.w[i].ids = toy_alloc((size_t)t.w[i].len * sizeof(int));
        t.w[i].n = encode_piece(b, t.w[i].s, (size_t)t.w[i].len, t.w[i].ids);
    }
    long *pairs = toy_alloc((size_t)n_tokens * (size_t)n_tokens * sizeof *pairs);
    for (int m = 0; m < b->n_merges; m++) {
        int n = 256 + m, bl = 0, br = 0;
        memset(pairs, 0, (size_t)n_tokens * (size_t)n_tokens * sizeof *pairs);
        for (int i = 0; i < t.n; i++)
            for (int j = 0; j + 1 < t.w[i].n; j++)
                pairs[(size_t)t.w[i].ids[j] * (size_t)n_tokens + (size_t)t.w[i].ids[j + 1]] += t.w[i].count;
        for (int l = 0; l < n; l++)
            for (int r = 0; r < n; r++)
                if (pairs[(size_t)l * (size_t)n_tokens + (size_t)r] > pairs[(size_t)bl * (size_t)n_tokens + (size_t)br])
                    bl = l, br = r;
        if (!pairs[(size_t)bl * (size_t)n_tokens + (size_t)br])
            toy_die("the corpus is too small for %d tokens", n_tokens);
        add_merge(b, m, bl, br);
        for (int i = 0; i < t.n; i++)
            for (int j = 0; j + 1 < t.w[i].n; j++)
                if (t.w[i].ids[j] == bl && t.w[i].ids[j + 1] == br) {
                    t.w[i].ids[j] = n;
                    memmove(t.w[i].ids + j + 1, t.w[i].ids + j + 2, (size_t)(t.w[i].n - j - 2) * sizeof(int));
                    t.w[i].n--;
                }
    }
    free(pairs);
    for (int i = 0; i < t.n; i++) {
        free(t.w[i].s);
        free(t.w[i].ids);
    }
    free(t.w);
    free(t.slot);
    return b;
}

void bpe_save(const bpe *b, const char *path) {
    FILE *f = fopen(path, "w");
    if (!f)
        toy_die("%s: cannot be written", path);
    fprintf(f, "%d\n", b->n);
    for (int i = 0; i < b->n_merges; i++)
        fprintf(f, "%d %d\n", b->merge[i][0], b->merge[i][1]);
    if (fclose(f))
        toy_die("%s: cannot be written", path);
}

bpe *bpe_load(const char *path) {
    FILE *f = fopen(path, "r");
    int n = 0, l, r;
    if (!f || fscanf(f, "%d", &n) != 1 || n < 300 || n > 4096)
        toy_die("%s: no vocabulary of toy", path);
    bpe *b = toy_alloc(sizeof *b);
    start_bytes(b, n);
    for (int i = 0; i < b->n_merges; i++) {
        if (fscanf(f, "%d %d", &l, &r) != 2 || l < 0 || r < 0 || l >= 256 + i || r >= 256 + i)
            toy_die("%s: merge %d is broken", path, i);
        add_merge(b, i, l, r);
    }
    fclose(f);
    set_byte_ids(b);
    return b;
}
