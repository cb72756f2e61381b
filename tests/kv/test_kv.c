// kv against a model that is too simple to be wrong: every page has a content (what was written there), and a sequence must read back
// through its tables exactly the tokens it was given, whatever was shared, copied, evicted, forked or cut.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kv/kv.h"

enum { MAX_PAGES = 64, SEQS = 12, MAX_TOKENS = 1200 };

// A tier below the pool that forgets now and then.
enum { KEPT = 1 << 14 };
typedef struct kept { kv_record what; int32_t content[KV_PAGE]; bool used; } kept;

typedef struct world {
    kv_pool *pool;
    kept    *tier; // NULL: none
    uint64_t restored;
    int      n_groups;
    const dev_group *groups;
    int32_t  content[KV_GROUPS][MAX_PAGES][KV_PAGE]; // the token that was written; a recurrent page: [0] = length, [1] = sum
} world;

static void copy_page(void *ctx, int32_t group, int32_t from, int32_t to) {
    world *w = ctx;
    memcpy(w->content[group][to], w->content[group][from], sizeof w->content[group][to]);
}

static uint64_t rng = 88172645463325252u;
static uint32_t draw(uint32_t n) {
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return (uint32_t)(rng >> 33) % n;
}

static kept *slot_of(world *w, const kv_record *what) {
    uint32_t at;
    memcpy(&at, what->id, sizeof at);
    return &w->tier[(at * 5 + (uint32_t)what->group) % KEPT];
}

static bool in_tier(void *ctx, const kv_record *what) {
    const kept *k = slot_of(ctx, what);
    if (!k->used || memcmp(k->what.id, what->id, sizeof what->id) || k->what.group != what->group) return false;
    assert_memory_equal(k->what.tokens, what->tokens, sizeof what->tokens);
    assert_memory_equal(k->what.parent, what->parent, sizeof what->parent);
    assert_int_equal(k->what.index, what->index);
    return true;
}

static void keep_page(void *ctx, const kv_record *what, int32_t page) {
    world *w = ctx;
    kept *k = slot_of(w, what);
    *k = (kept){.what = *what, .used = true};
    memcpy(k->content, w->content[what->group][page], sizeof k->content);
}

static bool offered(void *ctx, const kv_record *what, int32_t page) {
    if (draw(10) == 0) return false;
    if (draw(50)) keep_page(ctx, what, page);
    return true;
}

typedef struct bringing { world *w; const kv_record *list; size_t n, index; } bringing;

static bool bring_page(void *ctx, int32_t group, int32_t page) {
    bringing *b = ctx;
    for (size_t i = 0; i < b->n; i++) {
        if (b->list[i].group != group || b->list[i].index != b->index) continue;
        if (!in_tier(b->w, &b->list[i]) || draw(100) == 0) return false; // damaged
        memcpy(b->w->content[group][page], slot_of(b->w, &b->list[i])->content, sizeof b->w->content[group][page]);
        return true;
    }
    return false;
}

static void check(const world *w) {
    error err = {0};
    if (kv_check(w->pool, &err) != OK) fail_msg("%s", err.text);
}

static kv_config config_of(world *w, const dev_group *groups, const int32_t *pages, int n) {
    kv_config c = {.n_groups = n, .index = true, .copy = copy_page, .copy_ctx = w};
    memcpy(c.groups, groups, (size_t)n * sizeof *groups);
    memcpy(c.n_pages, pages, (size_t)n * sizeof *pages);
    w->n_groups = n;
    return c;
}

typedef struct seq {
    kv_seq *kv;
    int32_t tokens[MAX_TOKENS];
    size_t  len; // computed
    uint64_t salt;
} seq;

static int32_t sum_of(const int32_t *t, size_t n) {
    uint32_t s = 0;
    for (size_t i = 0; i < n; i++) s = s * 31 + (uint32_t)t[i];
    return (int32_t)s;
}

// What the device would read: every token that position `len` (the next) sees.
static void read_back(const world *w, const seq *s, const dev_group *groups) {
    for (int g = 0; g < w->n_groups; g++) {
        int32_t n;
        const int32_t *pages = kv_seq_pages(s->kv, g, &n);
        if (groups[g].kind == DEV_GROUP_RECURRENT) {
            if (s->len) assert_int_equal(w->content[g][pages[0]][1], sum_of(s->tokens, s->len));
            continue;
        }
        size_t first = 0;
        if (groups[g].kind == DEV_GROUP_WINDOW && s->len + 1 > (size_t)groups[g].window) first = s->len + 1 - (size_t)groups[g].window;
        for (size_t i = first; i < s->len; i++) {
            assert_true((int32_t)(i / KV_PAGE) < n);
            int32_t page = pages[i / KV_PAGE];
            assert_true(page >= 0);
            if (w->content[g][page][i % KV_PAGE] != s->tokens[i])
                fail_msg("group %d, token %zu: page %d holds %d instead of %d", g, i, page, w->content[g][page][i % KV_PAGE], s->tokens[i]);
        }
    }
}

// Computes tokens [len, upto): as the engine does, reserve, write, commit. False when there were no pages.
static bool advance(world *w, seq *s, size_t upto, const dev_group *groups) {
    error err = {0};
    status st = kv_seq_reserve(s->kv, upto, &err);
    if (st != OK) {
        assert_true(st == E_BUSY || st == E_LIMIT);
        return false;
    }
    for (int g = 0; g < w->n_groups; g++) {
        int32_t n;
        const int32_t *pages = kv_seq_pages(s->kv, g, &n);
        if (groups[g].kind == DEV_GROUP_RECURRENT) {
            w->content[g][pages[0]][0] = (int32_t)upto;
            w->content[g][pages[0]][1] = sum_of(s->tokens, upto);
            continue;
        }
        for (size_t i = s->len; i < upto; i++) w->content[g][pages[i / KV_PAGE]][i % KV_PAGE] = s->tokens[i];
    }
    s->len = upto;
    kv_seq_commit(s->kv, s->tokens, upto);
    return true;
}

static void open_seq(world *w, seq *s) {
    kv_key key = {.salt = s->salt};
    assert_int_equal(kv_seq_create(w->pool, &key, &s->kv, NULL), OK);
    s->len = 0;
}

// What the engine does at admission: a plan, then page by page; a way that breaks off begins again from the pool.
static void bring(world *w, seq *s, size_t n) {
    kv_record *list;
    size_t n_list, last = kv_seq_plan(s->kv, s->tokens, n, in_tier, w, &list, &n_list);
    assert_true(last == s->len || (last > s->len && last < n && last % KV_PAGE == 0 && n_list));
    while (s->len < last) {
        bringing b = {w, list, n_list, s->len / KV_PAGE};
        if (draw(3) == 0) kv_seq_reserve(s->kv, s->len + KV_PAGE, NULL);
        if (kv_seq_restore(s->kv, s->tokens, last, bring_page, &b, NULL) != OK) break;
        s->len += KV_PAGE;
        if (draw(20) == 0) check(w);
    }
    if (s->len < last) {
        kv_seq_free(s->kv);
        open_seq(w, s);
        s->len = kv_seq_match(s->kv, s->tokens, n);
    } else if (n_list) {
        w->restored++;
        read_back(w, s, w->groups);
    }
    mem_free(list);
}

// A step with drafts: rows are written past the end, some of them count, and the rest is as if it had never been.
static void speculate(world *w, seq *s, const dev_group *groups) {
    size_t rows = 1 + draw(40), upto = s->len + rows, good = draw(3) ? draw((uint32_t)rows) : rows;
    bool state = false;
    if (upto >= MAX_TOKENS || kv_seq_reserve(s->kv, upto, NULL) != OK || kv_seq_mark(s->kv, NULL) != OK) return;
    for (int g = 0; g < w->n_groups; g++) {
        int32_t n;
        const int32_t *pages = kv_seq_pages(s->kv, g, &n);
        if (groups[g].kind == DEV_GROUP_RECURRENT) {
            w->content[g][pages[0]][0] = (int32_t)upto;
            w->content[g][pages[0]][1] = sum_of(s->tokens, upto);
            state = true;
            continue;
        }
        for (size_t i = s->len; i < upto; i++) w->content[g][pages[i / KV_PAGE]][i % KV_PAGE] = s->tokens[i] - (i < s->len + good ? 0 : 12345);
    }
    if (draw(10) == 0) check(w);
    if (state && good < rows) good = 0; // a state goes back to where it was
    kv_seq_unmark(s->kv, good < rows);
    s->len += good;
    kv_seq_commit(s->kv, s->tokens, s->len);
    read_back(w, s, groups);
}

// Few distinct texts with common beginnings, so that much is shared.
static void fill_tokens(seq *s) {
    uint32_t kind = draw(4), branch = draw(40);
    for (size_t i = 0; i < MAX_TOKENS; i++) s->tokens[i] = (int32_t)(i < branch * KV_PAGE / 2 ? kind * 1000 + i : kind * 1000 + i + branch * 100000);
    s->salt = draw(8) == 0;
}

static long times = 1; // `test_kv long`: ten million operations a group and all of a test again

static void operate(const dev_group *groups, const int32_t *pages, int n, long operations, bool tiers) {
    world *w = mem_calloc(1, sizeof *w);
    operations *= times;
    seq *seqs = mem_calloc(SEQS, sizeof *seqs);
    kv_config c = config_of(w, groups, pages, n);
    w->groups = groups;
    if (tiers) {
        w->tier = mem_calloc(KEPT, sizeof *w->tier);
        c.tier_ctx = w;
        c.filled = offered;
        c.evicted = keep_page;
        for (int g = 0; g < n; g++) c.page_bytes[g] = KV_PAGE * sizeof(int32_t);
    }
    assert_int_equal(kv_create(&c, &w->pool, NULL), OK);
    uint64_t hits = 0;
    for (long op = 0; op < operations; op++) {
        seq *s = &seqs[draw(SEQS)];
        uint32_t what = draw(100);
        if (!s->kv) {
            fill_tokens(s);
            open_seq(w, s);
            size_t prompt = 1 + draw(MAX_TOKENS - 1);
            s->len = kv_seq_match(s->kv, s->tokens, prompt);
            if (tiers) bring(w, s, prompt);
            hits += s->len;
        } else if (what < 55) {
            size_t upto = s->len + 1 + draw(what < 20 ? 70 : 2);
            if (upto < MAX_TOKENS && !advance(w, s, upto, groups) && draw(2)) {
                kv_seq_free(s->kv);
                s->kv = NULL;
            }
        } else if (what < 65) {
            size_t upto = s->len + 1 + draw(200);
            s->len = kv_seq_match(s->kv, s->tokens, upto < MAX_TOKENS ? upto : MAX_TOKENS);
        } else if (what < 75) {
            kv_seq_snapshot(s->kv, draw(2));
        } else if (what < 85) {
            seq *f = &seqs[draw(SEQS)];
            if (!f->kv) {
                memcpy(f, s, sizeof *f);
                if (kv_seq_fork(s->kv, &f->kv, NULL) != OK) f->kv = NULL;
                else
                    for (size_t i = f->len; i < MAX_TOKENS; i++) f->tokens[i] += (int32_t)(draw(3) * 1000000);
            }
        } else if (what < 88) {
            speculate(w, s, groups);
        } else if (what < 90) {
            if (tiers) kv_seq_save(s->kv, true);
            int64_t before = kv_available(w->pool), alone = kv_seq_alone(s->kv);
            kv_seq_free(s->kv);
            if (before < INT32_MAX) assert_int_equal(kv_available(w->pool), before + alone); // there is a full group, and no second one in these worlds
            s->kv = NULL;
        }
        if (s->kv) {
            assert_int_equal(kv_seq_len(s->kv), s->len);
            if (tiers && what < 20) kv_seq_save(s->kv, false);
            if (op % 16 == 0) read_back(w, s, groups);
        }
        if (op % 64 == 0) check(w);
    }
    assert_true(hits > 0);
    for (int i = 0; i < SEQS; i++) kv_seq_free(seqs[i].kv);
    check(w);
    kv_stats st;
    kv_get_stats(w->pool, &st);
    assert_int_equal(st.used, 0);
    assert_true(st.evictions > 0);
    assert_true(!tiers || w->restored > 0);
    kv_destroy(w->pool);
    mem_free(w->tier);
    mem_free(w);
    mem_free(seqs);
}

static void random_operations(const dev_group *groups, const int32_t *pages, int n, long operations) {
    operate(groups, pages, n, operations, false);
    operate(groups, pages, n, operations / 40, true);
}

static void full_group(void **state) {
    (void)state;
    random_operations((dev_group[]){{.kind = DEV_GROUP_FULL}}, (int32_t[]){60}, 1, 4000000);
}

static void full_and_window(void **state) {
    (void)state;
    random_operations((dev_group[]){{.kind = DEV_GROUP_FULL}, {.kind = DEV_GROUP_WINDOW, .window = 70}}, (int32_t[]){60, 40}, 2, 2500000);
}

static void window_alone(void **state) {
    (void)state;
    random_operations((dev_group[]){{.kind = DEV_GROUP_WINDOW, .window = 100}}, (int32_t[]){50}, 1, 2000000);
}

static void recurrent_and_full(void **state) {
    (void)state;
    random_operations((dev_group[]){{.kind = DEV_GROUP_FULL}, {.kind = DEV_GROUP_RECURRENT}}, (int32_t[]){60, 30}, 2, 1500000);
}

static void recurrent_alone(void **state) {
    (void)state;
    random_operations((dev_group[]){{.kind = DEV_GROUP_RECURRENT}}, (int32_t[]){24}, 1, 1000000);
}

// A hit ends exactly at a snapshot; a moving one leaves its last place.
static void snapshots(void **state) {
    (void)state;
    static const dev_group groups[] = {{.kind = DEV_GROUP_FULL}, {.kind = DEV_GROUP_RECURRENT}};
    world w = {0};
    kv_config c = config_of(&w, groups, (int32_t[]){20, 4}, 2);
    assert_int_equal(kv_create(&c, &w.pool, NULL), OK);
    seq a = {0}, b = {0};
    for (int i = 0; i < 400; i++) a.tokens[i] = b.tokens[i] = i;
    open_seq(&w, &a);
    assert_int_equal(kv_available_states(w.pool), 3); // a's own is kept back
    for (int i = 1; i <= 6; i++) {
        assert_true(advance(&w, &a, (size_t)i * KV_PAGE, groups));
        if (i == 2) kv_seq_snapshot(a.kv, false);
        if (i == 4 || i == 5) kv_seq_snapshot(a.kv, true);
    }
    assert_int_equal(kv_available_states(w.pool), 3); // snapshots count: they give way
    static const struct { size_t prompt, hit; } found[] = {{64, 0}, {65, 64}, {150, 64}, {161, 160}, {300, 160}};
    for (size_t i = 0; i < sizeof found / sizeof *found; i++) {
        open_seq(&w, &b);
        b.len = kv_seq_match(b.kv, b.tokens, found[i].prompt);
        assert_int_equal(b.len, found[i].hit);
        read_back(&w, &b, groups);
        check(&w);
        kv_seq_free(b.kv);
    }
    kv_seq_free(a.kv);
    check(&w);
    kv_destroy(w.pool);
}

typedef struct shelf { bool busy; int pages, states; } shelf;

static bool put_on_shelf(void *ctx, const kv_record *what, int32_t page) {
    shelf *x = ctx;
    (void)page;
    if (x->busy) return false;
    *(what->group ? &x->states : &x->pages) += 1;
    return true;
}

// A snapshot that a tier cannot take when it is made is offered again, as pages are, and counts among what is left at the end.
static void refused_snapshots(void **state) {
    (void)state;
    static const dev_group groups[] = {{.kind = DEV_GROUP_FULL}, {.kind = DEV_GROUP_RECURRENT}};
    for (int moving = 0; moving < 2; moving++) {
        shelf x = {.busy = true};
        world w = {0};
        kv_config c = config_of(&w, groups, (int32_t[]){20, 4}, 2);
        c.tier_ctx = &x;
        c.filled = put_on_shelf;
        c.page_bytes[0] = c.page_bytes[1] = KV_PAGE * sizeof(int32_t);
        assert_int_equal(kv_create(&c, &w.pool, NULL), OK);
        seq a = {0};
        for (int i = 0; i < 400; i++) a.tokens[i] = i;
        open_seq(&w, &a);
        assert_true(advance(&w, &a, 2 * KV_PAGE, groups));
        kv_seq_snapshot(a.kv, moving);
        assert_int_equal(kv_seq_save(a.kv, false), moving ? 2 : 3); // one that moves is not offered yet
        assert_int_equal(kv_seq_save(a.kv, true), 3);
        x.busy = false;
        assert_int_equal(kv_seq_save(a.kv, true), 0);
        assert_int_equal(x.pages, 2);
        assert_int_equal(x.states, 1);
        assert_true(advance(&w, &a, 3 * KV_PAGE, groups));
        assert_int_equal(kv_seq_save(a.kv, false), 0);
        assert_int_equal(x.states, 1); // once
        kv_seq_free(a.kv);
        check(&w);
        kv_destroy(w.pool);
    }
}

// Where one text's moving snapshot stands another keeps a prompt's: it stays when the first text grows, and is offered to tiers.
static void a_kept_snapshot_stays(void **state) {
    (void)state;
    static const dev_group groups[] = {{.kind = DEV_GROUP_FULL}, {.kind = DEV_GROUP_RECURRENT}};
    shelf x = {0};
    world w = {0};
    kv_config c = config_of(&w, groups, (int32_t[]){20, 6}, 2);
    c.tier_ctx = &x;
    c.filled = put_on_shelf;
    c.page_bytes[0] = c.page_bytes[1] = KV_PAGE * sizeof(int32_t);
    assert_int_equal(kv_create(&c, &w.pool, NULL), OK);
    seq a = {0}, b = {0}, d = {0};
    for (int i = 0; i < 400; i++) a.tokens[i] = b.tokens[i] = d.tokens[i] = i;
    open_seq(&w, &a);
    open_seq(&w, &b);
    assert_true(advance(&w, &a, 2 * KV_PAGE, groups));
    kv_seq_snapshot(a.kv, true);
    assert_true(advance(&w, &b, 2 * KV_PAGE, groups));
    kv_seq_snapshot(b.kv, false);
    assert_int_equal(kv_seq_save(b.kv, false), 0);
    assert_int_equal(x.states, 1);
    assert_true(advance(&w, &a, 3 * KV_PAGE, groups));
    kv_seq_snapshot(a.kv, true);
    for (int pages = 2; pages < 4; pages++) {
        open_seq(&w, &d);
        d.len = kv_seq_match(d.kv, d.tokens, (size_t)pages * KV_PAGE + 1);
        assert_int_equal(d.len, pages * KV_PAGE);
        read_back(&w, &d, groups);
        kv_seq_free(d.kv);
    }
    kv_seq_free(a.kv);
    kv_seq_free(b.kv);
    check(&w);
    kv_destroy(w.pool);
}

static const dev_group one_full[] = {{.kind = DEV_GROUP_FULL}};

// A prompt that is cached whole is found but for what must be computed: always shorter than the prompt.
static void match_is_shorter_than_the_prompt(void **state) {
    (void)state;
    world w = {0};
    kv_config c = config_of(&w, one_full, (int32_t[]){10}, 1);
    assert_int_equal(kv_create(&c, &w.pool, NULL), OK);
    seq a = {0}, b = {0};
    for (int i = 0; i < 100; i++) a.tokens[i] = b.tokens[i] = i;
    open_seq(&w, &a);
    assert_true(advance(&w, &a, 96, one_full));
    open_seq(&w, &b);
    assert_int_equal(kv_seq_match(b.kv, b.tokens, 96), 64);
    kv_seq_free(b.kv);
    open_seq(&w, &b);
    assert_int_equal(kv_seq_match(b.kv, b.tokens, 97), 96);
    kv_seq_free(b.kv);
    b.tokens[40] = 7; // the second page differs
    open_seq(&w, &b);
    assert_int_equal(kv_seq_match(b.kv, b.tokens, 97), 32);
    kv_seq_free(b.kv);
    b.salt = 1;
    open_seq(&w, &b);
    assert_int_equal(kv_seq_match(b.kv, b.tokens, 97), 0);
    kv_seq_free(b.kv);
    kv_seq_free(a.kv);
    kv_destroy(w.pool);
}

// The oldest leaf goes first, ancestors last, pages in use never.
static void eviction_takes_leaves_first(void **state) {
    (void)state;
    world w = {0};
    kv_config c = config_of(&w, one_full, (int32_t[]){6}, 1);
    assert_int_equal(kv_create(&c, &w.pool, NULL), OK);
    seq a = {0}, b = {0}, d = {0};
    for (int i = 0; i < 200; i++) a.tokens[i] = i, b.tokens[i] = 1000 + i, d.tokens[i] = i;
    open_seq(&w, &a);
    assert_true(advance(&w, &a, 128, one_full)); // four pages
    kv_seq_free(a.kv);
    open_seq(&w, &b);
    assert_true(advance(&w, &b, 128, one_full)); // two free, two evicted: the last two of a
    open_seq(&w, &d);
    assert_int_equal(kv_seq_match(d.kv, d.tokens, 128), 64);
    assert_int_equal(kv_seq_reserve(d.kv, 65, NULL), E_BUSY); // all in use now
    assert_int_equal(kv_seq_reserve(d.kv, 64 + 7 * KV_PAGE, NULL), E_LIMIT);
    check(&w);
    kv_seq_free(d.kv);
    kv_seq_free(b.kv);
    kv_destroy(w.pool);
}

static bool from_nowhere(void *ctx, int32_t group, int32_t page) { return (void)ctx, (void)group, (void)page, true; }
static bool taken(void *ctx, const kv_record *what, int32_t page) { return (void)ctx, (void)what, (void)page, true; }

// A state at the end of a long text holds the index's entries of all of it: what was not used for longest makes room for a text that comes, and where nothing
// can go, a page of a lower tier is refused and not waited for.
static void the_index_lets_go_of_long_texts(void **state) {
    (void)state;
    enum { STATES = 4, LONG = 200, ALL = 128 * STATES + 64 };
    static int32_t tokens[(ALL + 1) * KV_PAGE + 1];
    world w = {0};
    kv_key key = {0};
    kv_seq *s, *other;
    kv_config c = config_of(&w, (dev_group[]){{.kind = DEV_GROUP_RECURRENT}}, (int32_t[]){STATES}, 1);
    c.tier_ctx = &w;
    c.filled = taken;
    assert_int_equal(kv_create(&c, &w.pool, NULL), OK);
    for (int text = 0; text < 8; text++) {
        for (int i = 0; i <= LONG * KV_PAGE; i++) tokens[i] = text * 100000 + i;
        assert_int_equal(kv_seq_create(w.pool, &key, &s, NULL), OK);
        assert_int_equal(kv_seq_reserve(s, LONG * KV_PAGE, NULL), OK);
        kv_seq_commit(s, tokens, LONG * KV_PAGE);
        kv_seq_snapshot(s, false);
        kv_seq_free(s);
        assert_int_equal(kv_seq_create(w.pool, &key, &s, NULL), OK);
        if (kv_seq_match(s, tokens, LONG * KV_PAGE + 1) != LONG * KV_PAGE) fail_msg("text %d is not found", text);
        kv_seq_free(s);
        check(&w);
    }
    for (int i = 0; i <= (ALL + 1) * KV_PAGE; i++) tokens[i] = -i;
    assert_int_equal(kv_seq_create(w.pool, &key, &s, NULL), OK);
    assert_int_equal(kv_seq_reserve(s, (ALL + 1) * KV_PAGE, NULL), OK);
    kv_seq_commit(s, tokens, (ALL + 1) * KV_PAGE); // all that the index has, and more
    assert_int_equal(kv_seq_create(w.pool, &key, &other, NULL), OK);
    for (int i = 0; i <= LONG * KV_PAGE; i++) tokens[i] = 7;
    assert_int_equal(kv_seq_restore(other, tokens, LONG * KV_PAGE, from_nowhere, NULL, NULL), E_LIMIT);
    check(&w);
    kv_seq_free(s);
    assert_int_equal(kv_seq_restore(other, tokens, LONG * KV_PAGE, from_nowhere, NULL, NULL), OK);
    kv_seq_free(other);
    check(&w);
    kv_destroy(w.pool);
}

static void allocation_failures(void **state) {
    (void)state;
    for (long nth = 1; nth < 60; nth++) {
        world w = {0};
        kv_config c = config_of(&w, one_full, (int32_t[]){10}, 1);
        kv_key key = {0};
        kv_seq *a = NULL, *b = NULL;
        int32_t tokens[100];
        for (int i = 0; i < 100; i++) tokens[i] = i;
        mem_fail_at(nth);
        if (kv_create(&c, &w.pool, NULL) == OK) {
            if (kv_seq_create(w.pool, &key, &a, NULL) == OK && kv_seq_reserve(a, 100, NULL) == OK) {
                kv_seq_commit(a, tokens, 100);
                if (kv_seq_fork(a, &b, NULL) == OK) kv_seq_reserve(b, 101, NULL);
            }
            mem_fail_at(0);
            check(&w);
            kv_seq_free(a);
            kv_seq_free(b);
            kv_destroy(w.pool);
        }
        mem_fail_at(0);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "long")) times = 10;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(match_is_shorter_than_the_prompt), cmocka_unit_test(eviction_takes_leaves_first),
        cmocka_unit_test(the_index_lets_go_of_long_texts), cmocka_unit_test(allocation_failures), cmocka_unit_test(full_group),
        cmocka_unit_test(full_and_window), cmocka_unit_test(window_alone), cmocka_unit_test(recurrent_and_full), cmocka_unit_test(recurrent_alone),
        cmocka_unit_test(snapshots), cmocka_unit_test(refused_snapshots), cmocka_unit_test(a_kept_snapshot_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
