// The tokenizers against merging done the slow and obvious way, and against what each kind must do with small vocabularies.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "base/utf8.h"
#include "tokenizer/tok_fixture.h"
#include "tokenizer/tok_internal.h"

static uint64_t seed = 7;
static uint32_t rnd(uint32_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static tokenizer *make(const fixture *f) {
    tokenizer *t = NULL;
    error      e = {0};
    if (fix_create(f, &t, &e)) fail_msg("%s", e.text);
    return t;
}

static void expect(const tokenizer *t, const char *text, unsigned flags, const char *want) {
    char *got = fix_ids(t, text, strlen(text), flags);
    assert_string_equal(got, want);
    mem_free(got);
}

// ids 256...: a vocabulary where merges overlap and depend on rank, with control and user-defined tokens.
enum { BOS = 281, EOS, IM_START, IM_END, THINK, SPACES };
static fixture bpe_fixture(const char *pre) {
    fixture f = {.model = "gpt2", .pre = pre};
    fix_bytes(&f);
    static const char *const pairs[][2] = {
        {"a", "b"},  {"b", "c"},    {"ab", "c"}, {"h", "e"},  {"l", "l"},   {"he", "ll"}, {"hell", "o"}, {"Ġ", "hello"}, {"a", "a"},
        {"aa", "aa"}, {"aaaa", "a"}, {"Ġ", "a"},  {"1", "2"}, {"12", "3"},  {"Ġ", "Ġ"},   {"Ċ", "Ċ"},    {"ï", "¿"},     {"ï¿", "½"},
        {"c", "aa"}, {"bc", "a"},   {"x", "y"},  {"xy", "z"}, {"'", "s"},   {"3", "4"},   {"ab", "ab"},
    };
    for (size_t i = 0; i < 25; i++) {
        char both[32];
        fix_merge(&f, pairs[i][0], pairs[i][1]);
        snprintf(both, sizeof both, "%s%s", pairs[i][0], pairs[i][1]);
        fix_token(&f, both, TOK_TYPE_NORMAL, 0);
    }
    assert_int_equal(f.count, BOS);
    fix_token(&f, "<|bos|>", TOK_TYPE_CONTROL, 0);
    fix_token(&f, "<|endoftext|>", TOK_TYPE_CONTROL, 0);
    fix_token(&f, "<|im_start|>", TOK_TYPE_CONTROL, 0);
    fix_token(&f, "<|im_end|>", TOK_TYPE_CONTROL, 0);
    fix_token(&f, "<think>", TOK_TYPE_USER_DEFINED, 0);
    fix_token(&f, "    ", TOK_TYPE_USER_DEFINED, 0);
    fix_token(&f, "zzzzq", TOK_TYPE_NORMAL, 0); // 287: no merge makes it
    fix_u32(&f, "tokenizer.ggml.bos_token_id", BOS);
    fix_u32(&f, "tokenizer.ggml.eos_token_id", EOS);
    return f;
}

static void test_bpe(void **state) {
    (void)state;
    fixture    f = bpe_fixture("llama-bpe");
    tokenizer *t = make(&f);
    assert_int_equal(tok_kind_of(t), TOK_BPE);
    assert_int_equal(tok_size(t), 288);
    expect(t, "hello hello", 0, "262 263");
    expect(t, "abc", 0, "258");                 // ab before bc
    expect(t, "aaaaa", 0, "266");               // aa aa a -> aaaa a -> aaaaa
    expect(t, "zzzzq", 0, "287");               // a whole word that is a token, by ignore_merges
    expect(t, "12345", 0, "269 52 53");        // three digits, then two: 123 | 45
    expect(t, "", 0, "");
    expect(t, "hello", TOK_ADD_SPECIAL, "281 262");
    expect(t, "<|im_end|>hello", TOK_PARSE_CONTROL, "284 262");
    expect(t, "<think>", 0, "285");             // user-defined everywhere
    char *plain = fix_ids(t, "<|im_end|>", 10, 0);
    assert_null(strstr(plain, "284"));
    mem_free(plain);
    expect(t, "\xFF", 0, "273");                // one undecodable byte is U+FFFD
    expect(t, "\xE2\x82", 0, "273 273");
    tok_destroy(t);

    fixture    g = bpe_fixture("gpt-2");
    tokenizer *u = make(&g);
    char      *parts = fix_ids(u, "zzzzq", 5, 0);
    assert_string_equal(parts, "122 122 122 122 113");
    mem_free(parts);
    tok_destroy(u);
}

static void join(char *to, const char *more) {
    size_t n = strlen(to);
    memmove(to + n, more, strlen(more) + 1);
}

// Merging by looking for the least rank again and again, over strings.
static size_t merge_slowly(const fixture *f, const char *word, size_t len, int32_t *out) {
    static char parts[4096][24];
    size_t      n = len;
    for (size_t i = 0; i < len; i++) fix_letter((unsigned char)word[i], parts[i]);
    for (;;) {
        int    best = f->merges;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            char pair[64];
            snprintf(pair, sizeof pair, "%.30s %.30s", parts[i], parts[i + 1]);
            for (int m = 0; m < best; m++) {
                if (strcmp(pair, f->merge_text[m]) != 0) continue;
                best = m;
                at = i;
            }
        }
        if (best == f->merges) break;
        join(parts[at], parts[at + 1]);
        memmove(parts[at + 1], parts[at + 2], (n - at - 2) * sizeof parts[0]);
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        for (int id = 0; id < f->count; id++) {
            if (strcmp(f->text[id], parts[i]) == 0) out[i] = id;
        }
    }
    return n;
}

static void test_merging_is_by_rank(void **state) {
    (void)state;
    fixture    f = bpe_fixture("gpt-2");
    tokenizer *t = make(&f);
    for (int round = 0; round < 400; round++) {
        char    word[512];
        int32_t want[512];
        size_t  len = 1 + rnd(round % 4 ? 40 : 500); // both ways of merging
        for (size_t i = 0; i < len; i++) word[i] = "abcahelloxyza"[rnd(13)];
        size_t  n = merge_slowly(&f, word, len, want);
        tok_ids got = {0};
        assert_int_equal(tok_encode(t, word, len, 0, &got, NULL), OK);
        assert_int_equal(got.count, n);
        assert_memory_equal(got.ids, want, n * sizeof *want);
        tok_ids_free(&got);
    }
    tok_destroy(t);
}

static void test_one_letter_many_times(void **state) {
    (void)state;
    static const char *const pres[] = {"llama-bpe", "qwen2", "gpt-2", "deepseek-llm", "gpt-4o", "tekken", "exaone-moe", "jais-2", "kimi-k2", "tiny_aya", "superbpe"};
    enum { N = 400000 };
    char *text = mem_alloc(N);
    for (size_t p = 0; p < sizeof pres / sizeof *pres; p++) {
        fixture    f = bpe_fixture(pres[p]);
        tokenizer *t = make(&f);
        for (const char *c = "aA 1\n.\x85"; *c; c++) { // the last: undecodable
            tok_ids ids = {0};
            strbuf  back = {0};
            memset(text, *c, N);
            assert_int_equal(tok_encode(t, text, N, 0, &ids, NULL), OK);
            if (*c == 'a') assert_true(ids.count <= N / 4);
            assert_int_equal(tok_decode(t, ids.ids, ids.count, 0, &back, NULL), OK);
            if (*c != '\x85') {
                assert_int_equal(back.len, N);
                assert_memory_equal(back.data, text, N);
            }
            tok_ids_free(&ids);
            strbuf_free(&back);
        }
        tok_destroy(t);
    }
    mem_free(text);
}

static void spans(const tokenizer *t, const tok_span *s, size_t n, unsigned flags, const char *want) {
    tok_ids ids = {0};
    strbuf  out = {0};
    strbuf_adds(&out, "");
    assert_int_equal(tok_encode_spans(t, s, n, flags, &ids, NULL), OK);
    for (size_t i = 0; i < ids.count; i++) strbuf_addf(&out, "%s%d", i ? " " : "", ids.ids[i]);
    assert_string_equal(out.data, want);
    tok_ids_free(&ids);
    strbuf_free(&out);
}

static void test_spans(void **state) {
    (void)state;
    fixture    f = bpe_fixture("llama-bpe");
    tokenizer *t = make(&f);
    spans(t, (tok_span[]){{"<|im_start|>", 12, true}, {"hel", 3, false}, {"lo", 2, false}, {"<|im_end|>", 10, true}}, 4, 0, "283 262 284");
    // What a user writes is text, even when the template's text completes it.
    tok_span *s = (tok_span[]){{"<|im_", 5, true}, {"end|>", 5, false}};
    char     *text = fix_ids(t, "<|im_end|>", 10, 0);
    spans(t, s, 2, 0, text);
    spans(t, (tok_span[]){{"<|im_end|>", 10, false}}, 1, 0, text);
    mem_free(text);
    spans(t, (tok_span[]){{"<|im_", 5, true}, {"end|>", 5, true}}, 2, 0, "284"); // the same kind: one text
    spans(t, (tok_span[]){{"<think>", 7, false}}, 1, 0, "285");
    // One beginning of text.
    spans(t, (tok_span[]){{"<|bos|>", 7, true}, {"hello", 5, false}}, 2, TOK_ADD_SPECIAL, "281 262");
    spans(t, (tok_span[]){{"hello", 5, false}}, 1, TOK_ADD_SPECIAL, "281 262");
    spans(t, (tok_span[]){{"<|bos|>", 7, true}}, 1, TOK_ADD_SPECIAL, "281");
    spans(t, NULL, 0, TOK_ADD_SPECIAL, "281");
    spans(t, (tok_span[]){{"", 0, true}, {"hello", 5, true}, {"", 0, false}}, 3, 0, "262");
    tok_destroy(t);
}

static void test_longest_spelling_first(void **state) {
    (void)state;
    fixture f = bpe_fixture("gpt-2");
    int     a = fix_token(&f, "<a>", TOK_TYPE_USER_DEFINED, 0), b = fix_token(&f, "a><bb>", TOK_TYPE_USER_DEFINED, 0);
    int     c = fix_token(&f, "<a", TOK_TYPE_USER_DEFINED, 0), d = fix_token(&f, "  ", TOK_TYPE_USER_DEFINED, 0);
    int     e = fix_token(&f, "+-*", TOK_TYPE_USER_DEFINED, 0);
    fix_token(&f, "-+-", TOK_TYPE_USER_DEFINED, 0);
    tokenizer *t = make(&f);
    char       want[64];
    snprintf(want, sizeof want, "60 %d", b); // the longer one wins though it begins later
    expect(t, "<a><bb>", 0, want);
    snprintf(want, sizeof want, "%d %d", a, c);
    expect(t, "<a><a", 0, want);
    snprintf(want, sizeof want, "%d %d %d 262", SPACES, SPACES, d);
    expect(t, "          hello", 0, want);
    snprintf(want, sizeof want, "45 %d 45 %d", e, e); // of two as long, the lower id, though the other begins earlier
    expect(t, "-+-*-+-*", 0, want);
    tok_destroy(t);

    // Models that the peer knows by name take white space along.
    fixture g = bpe_fixture("gpt-2");
    g.name = "My Phi-3 mini";
    t = make(&g);
    expect(t, "<|im_end|> \n hello", TOK_PARSE_CONTROL, "284 262");
    expect(t, "<|endoftext|> hello", TOK_PARSE_CONTROL, "282 263");
    tok_destroy(t);
}

// Spellings that stand there twice, or are longer than a trie takes: what is not in the trie leaves no way back to itself there.
static void test_spellings_not_taken_up(void **state) {
    (void)state;
    fixture f = {.model = "llama"};
    static const struct { const char *text; int type; } tokens[] = {{"<unk>", TOK_TYPE_UNKNOWN}, {"<s>", TOK_TYPE_CONTROL}, {"</s>", TOK_TYPE_CONTROL}, {"<a>", TOK_TYPE_CONTROL},
        {"<a>x<a>", TOK_TYPE_NORMAL}, {"<a>x<a>", TOK_TYPE_CONTROL}, {"x", TOK_TYPE_NORMAL}, {"y", TOK_TYPE_NORMAL}, {"▁", TOK_TYPE_NORMAL}, {"long", TOK_TYPE_CONTROL}};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) fix_token(&f, tokens[i].text, tokens[i].type, 0);
    fix_flag(&f, "tokenizer.ggml.add_space_prefix", false);
    char text[4106]; // <a>, and <a> again past the longest that a trie takes
    memset(text, 'x', sizeof text);
    memcpy(text, "<a>", 3);
    memcpy(text + sizeof text - 3, "<a>", 3);
    alarm(30); // what has no end fails
    for (int longer = 0; longer < 2; longer++) {
        if (longer) f.str[9] = (gguf_str){text, sizeof text};
        tokenizer *t = make(&f);
        expect(t, "xx <a> y", TOK_PARSE_CONTROL, "6 6 8 3 8 7");
        expect(t, "<a>x<a>", TOK_PARSE_CONTROL, "3 6 3");
        expect(t, "xx <a> y", 0, "6 6 8 0 0 0 8 7"); // not trusted: the way is gone
        tok_destroy(t);
    }
    alarm(0);
}

static fixture spm_fixture(bool crossing) {
    fixture f = {.model = "llama", .pre = "default"};
    fix_token(&f, "<unk>", TOK_TYPE_UNKNOWN, 0);
    fix_token(&f, "<s>", TOK_TYPE_CONTROL, 0);
    fix_token(&f, "</s>", TOK_TYPE_CONTROL, 0);
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        fix_token(&f, name, TOK_TYPE_BYTE, 0);
    }
    static const char *const pieces[] = {"▁", "a", "b", "c", "h", "e", "l", "o", "▁a", "ab", "he", "ll", "hell", "hello", "▁hello", "▁▁", "aa", "bc", "▁b", "la"};
    for (int i = 0; i < 20; i++) fix_token(&f, pieces[i], TOK_TYPE_NORMAL, i < 8 ? -100.0f : -(float)(i * 7 % 13)); // equal scores too
    if (crossing) fix_token(&f, "q▁q", TOK_TYPE_NORMAL, -1); // spans a space: words cannot be taken one by one
    return f;
}

static size_t spm_slowly(const fixture *f, const char *text, int32_t *out) {
    static char parts[2048][64];
    size_t      n = 0;
    for (size_t i = 0; text[i]; n++) {
        size_t step = (unsigned char)text[i] >= 0xE0 ? 3 : (unsigned char)text[i] >= 0xC0 ? 2 : 1;
        memcpy(parts[n], text + i, step);
        parts[n][step] = 0;
        i += step;
    }
    for (;;) {
        int    best = -1;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            char   both[128];
            size_t left = strlen(parts[i]), right = strlen(parts[i + 1]);
            assert_true(left + right < sizeof both);
            memcpy(both, parts[i], left);
            memcpy(both + left, parts[i + 1], right + 1);
            for (int id = 0; id < f->count; id++) {
                if (strcmp(f->text[id], both) != 0 || (best >= 0 && f->score[id] <= f->score[best])) continue;
                best = id;
                at = i;
            }
        }
        if (best < 0) break;
        join(parts[at], parts[at + 1]);
        memmove(parts[at + 1], parts[at + 2], (n - at - 2) * sizeof parts[0]);
        n--;
    }
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        int id = -1;
        for (int k = 0; k < f->count; k++) id = strcmp(f->text[k], parts[i]) == 0 ? k : id;
        for (const char *c = parts[i]; id < 0 && *c; c++) out[count++] = 3 + (unsigned char)*c;
        if (id >= 0) out[count++] = id;
    }
    return count;
}

static void test_spm(void **state) {
    (void)state;
    for (int crossing = 0; crossing < 2; crossing++) {
        fixture    f = spm_fixture(crossing);
        tokenizer *t = make(&f);
        assert_true(tok_add_bos(t) && !tok_add_eos(t));
        assert_int_equal(t->spm_words, !crossing);
        expect(t, "hello", TOK_ADD_SPECIAL, "1 273");
        expect(t, "", TOK_ADD_SPECIAL, "1");
        expect(t, "</s>hello", TOK_PARSE_CONTROL, "2 273");
        expect(t, "é", 0, "259 198 172"); // a space, then bytes
        for (int round = 0; round < 300; round++) {
            char   text[300] = "", escaped[900] = "▁";
            size_t n = 1 + rnd(60);
            for (size_t i = 0; i < n; i++) {
                static const char *const bits[] = {"a", "b", "c", "hello", "l", " ", "  ", "é", "q"};
                uint32_t k = rnd(9);
                strcat(text, bits[k]);
                strcat(escaped, k == 5 ? "▁" : k == 6 ? "▁▁" : bits[k]);
            }
            int32_t want[1024];
            size_t  count = spm_slowly(&f, escaped, want);
            tok_ids got = {0};
            strbuf  back = {0};
            assert_int_equal(tok_encode(t, text, strlen(text), 0, &got, NULL), OK);
            assert_int_equal(got.count, count);
            assert_memory_equal(got.ids, want, count * sizeof *want);
            assert_int_equal(tok_decode(t, got.ids, got.count, 0, &back, NULL), OK);
            assert_string_equal(back.data, text);
            tok_ids_free(&got);
            strbuf_free(&back);
        }
        tok_destroy(t);
    }
}

static void test_pieces_and_streams(void **state) {
    (void)state;
    fixture    f = bpe_fixture("llama-bpe");
    tokenizer *t = make(&f);
    size_t     n;
    assert_memory_equal(tok_piece(t, 263, &n), " hello", 6);
    assert_int_equal(n, 6);
    assert_memory_equal(tok_piece(t, IM_END, &n), "<|im_end|>", 10);
    assert_string_equal(tok_piece(t, -1, &n), "");
    assert_string_equal(tok_piece(t, 9999, &n), "");
    assert_int_equal(n, 0);
    const char *spelled = tok_text(t, 263, &n);
    assert_memory_equal(spelled, "Ġhello", n);
    assert_int_equal(tok_lookup(t, "Ġhello", 7), 263);
    assert_int_equal(tok_lookup(t, "nope", 4), -1);
    assert_int_equal(tok_type_of(t, THINK), TOK_TYPE_USER_DEFINED);
    assert_int_equal(tok_type_of(t, -1), TOK_TYPE_UNDEFINED);

    // Bytes of characters one by one: nothing comes out half.
    const char *text = "a\xF0\x9F\x99\x82\xC3\xA9 \xE4\xBD\xA0!";
    strbuf      out = {0};
    tok_stream  s;
    tok_stream_init(&s, t, false, true);
    for (const char *c = text; *c; c++) {
        assert_int_equal(tok_stream_next(&s, (unsigned char)*c, &out, NULL), OK);
        assert_true(out.len == 0 || utf8_valid(out.data, out.len));
    }
    assert_string_equal(out.data, text);
    // What never becomes a character comes out in the end; control tokens only on request.
    strbuf_clear(&out);
    tok_stream_init(&s, t, false, false);
    assert_int_equal(tok_stream_next(&s, 0xE4, &out, NULL), OK);
    assert_int_equal(out.len, 0);
    assert_int_equal(tok_stream_next(&s, IM_END, &out, NULL), OK);
    assert_int_equal(out.len, 0);
    assert_int_equal(tok_stream_next(&s, 'a', &out, NULL), OK);
    assert_memory_equal(out.data, "\xE4" "a", 2);
    assert_int_equal(tok_stream_next(&s, 0xC3, &out, NULL), OK);
    assert_int_equal(tok_stream_end(&s, &out, NULL), OK);
    assert_memory_equal(out.data, "\xE4" "a\xC3", 3);
    error e = {0};
    assert_int_equal(tok_stream_next(&s, 288, &out, &e), E_INVALID);
    assert_int_equal(tok_decode(t, (int32_t[]){1, -4}, 2, 0, &out, &e), E_INVALID);

    // The peer's tidying is only done on request.
    strbuf_clear(&out);
    const int32_t words[] = {'a', ' ', '?', ' ', '\'', 's', ' ', '\'', ' ', 'b', IM_END};
    assert_int_equal(tok_decode(t, words, 11, TOK_SPELL_SPECIAL, &out, NULL), OK);
    assert_string_equal(out.data, "a ? 's ' b<|im_end|>");
    strbuf_clear(&out);
    assert_int_equal(tok_decode(t, words, 11, TOK_TIDY_SPACES, &out, NULL), OK);
    assert_string_equal(out.data, "a?'s'b");
    strbuf_free(&out);
    tok_destroy(t);

    // SentencePiece: the first space of a text goes, that of an answer stays.
    fixture    g = spm_fixture(false);
    tokenizer *u = make(&g);
    out = (strbuf){0};
    tok_stream_init(&s, u, false, true);
    tok_stream_next(&s, 1, &out, NULL);
    tok_stream_next(&s, 273, &out, NULL);
    tok_stream_next(&s, 273, &out, NULL);
    assert_string_equal(out.data, "hello hello");
    tok_stream_init(&s, u, false, false);
    strbuf_clear(&out);
    tok_stream_next(&s, 273, &out, NULL);
    assert_string_equal(out.data, " hello");
    strbuf_free(&out);
    tok_destroy(u);
}

// A character outside the byte alphabet is a note that repeats its token: as many notes as there are characters, in a vocabulary of nothing else, are too many.
static void test_notes_are_bounded(void **state) {
    (void)state;
    fixture f = bpe_fixture("gpt-2");
    int     first = f.count, last = first;
    while (f.count < FIX_MAX) last = fix_token(&f, "中中中中中中中中中中中中中中中", TOK_TYPE_NORMAL, 0);
    tokenizer *t = make(&f);
    size_t     n, text, pieces = 0, texts = 0;
    char       note[80];
    snprintf(note, sizeof note, "[UNK_BYTE_0xe4b8ad%s]", f.text[first]);
    assert_memory_equal(tok_piece(t, first, &n), note, strlen(note));
    assert_int_equal(n, 15 * strlen(note));
    assert_memory_equal(tok_piece(t, last, &n), f.text[last], 45);
    assert_int_equal(n, 45);
    for (int32_t id = 0; id < tok_size(t); id++) {
        tok_piece(t, id, &n);
        tok_text(t, id, &text);
        pieces += n;
        texts += text;
    }
    assert_true(pieces > 4 * texts && pieces < 5 * texts + (1u << 16));
    tok_destroy(t);
}

static void test_ends(void **state) {
    (void)state;
    fixture    f = bpe_fixture("llama-bpe");
    tokenizer *t = make(&f);
    size_t     n;
    assert_true(tok_is_end(t, EOS) && tok_is_end(t, IM_END) && !tok_is_end(t, IM_START) && !tok_is_end(t, -1));
    assert_int_equal(tok_special(t, TOK_EOT), IM_END);
    const int32_t *ids = tok_end_ids(t, &n);
    assert_int_equal(n, 2);
    assert_true(ids[0] < ids[1]);
    tok_destroy(t);

    fixture g = bpe_fixture("gpt-4o"); // gpt-oss: <|end|> is inside an answer
    int     end = fix_token(&g, "<|end|>", TOK_TYPE_CONTROL, 0), ret = fix_token(&g, "<|return|>", TOK_TYPE_CONTROL, 0);
    int     call = fix_token(&g, "<|call|>", TOK_TYPE_CONTROL, 0), channel = fix_token(&g, "<|channel|>", TOK_TYPE_CONTROL, 0);
    t = make(&g);
    assert_true(!tok_is_end(t, end) && tok_is_end(t, ret) && tok_is_end(t, call));
    assert_int_equal(tok_type_of(t, channel), TOK_TYPE_USER_DEFINED);
    tok_destroy(t);
}

static void test_other_kinds(void **state) {
    (void)state;
    fixture f = {.model = "bert", .pre = "bert-bge"};
    static const char *const words[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁hello", "▁un", "want", "ed", "▁!", "▁中", "▁e"};
    for (int i = 0; i < 11; i++) fix_token(&f, words[i], i < 4 ? TOK_TYPE_CONTROL : TOK_TYPE_NORMAL, 0);
    fix_u32(&f, "tokenizer.ggml.bos_token_id", 2);
    fix_u32(&f, "tokenizer.ggml.seperator_token_id", 3);
    fix_u32(&f, "tokenizer.ggml.unknown_token_id", 1);
    tokenizer *t = make(&f);
    expect(t, "Hello UNwanted! zzz 中é", TOK_ADD_SPECIAL, "2 4 5 6 7 8 1 9 10 3");
    expect(t, "hello\t\xFF hello", 0, "4 4");
    tok_destroy(t);

    fixture u = {.model = "t5", .pre = "default"};
    static const char *const pieces[] = {"<pad>", "</s>", "<unk>", "▁", "a", "b", "▁a", "ab", "▁ab", "<x>"};
    for (int i = 0; i < 10; i++) {
        int type = i < 2 ? TOK_TYPE_CONTROL : i == 2 ? TOK_TYPE_UNKNOWN : i == 9 ? TOK_TYPE_USER_DEFINED : TOK_TYPE_NORMAL;
        fix_token(&u, pieces[i], type, -(float)(10 - i));
    }
    fix_flag(&u, "tokenizer.ggml.add_space_prefix", true);
    t = make(&u);
    expect(t, "ab a", TOK_ADD_SPECIAL, "8 6 1");
    expect(t, "qqq", 0, "3 2"); // unknowns in a row are one
    tok_destroy(t);
    // A charsmap whose indexes lead out of it, or that is cut off.
    static const uint8_t wild[] = {8, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0x7F, 'a', 1, 0, 0x80, 'z'};
    u.charsmap = wild;
    u.charsmap_len = sizeof wild;
    t = make(&u);
    expect(t, "ab a", 0, "8 6");
    tok_destroy(t);
    u.charsmap_len = 11;
    error e = {0};
    assert_int_equal(fix_create(&u, &t, &e), E_INVALID);
    assert_non_null(strstr(e.text, "precompiled_charsmap"));

    fixture r = {.model = "rwkv"};
    static const char *const texts[] = {"<s>", "a", "ab", "abc\\n", "\\x20b", "b", "c", "\\n"};
    for (int i = 0; i < 8; i++) fix_token(&r, texts[i], TOK_TYPE_NORMAL, 0);
    t = make(&r);
    expect(t, "abcab b\nabc\n", 0, "2 6 2 4 7 3");
    size_t n;
    assert_memory_equal(tok_piece(t, 4, &n), " b", 2);
    tok_destroy(t);

    fixture p = {.model = "plamo2"};
    for (int i = 0; i < 4; i++) fix_token(&p, (const char *[]){"<unk>", "<bos>", "<eos>", "<pad>"}[i], TOK_TYPE_CONTROL, 0);
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        fix_token(&p, name, TOK_TYPE_BYTE, 0);
    }
    fix_token(&p, "a", TOK_TYPE_NORMAL, -5);
    fix_token(&p, "ab", TOK_TYPE_NORMAL, -6);
    fix_token(&p, "bb", TOK_TYPE_NORMAL, -1);
    t = make(&p);
    expect(t, "abba", 0, "260 262 260"); // a bb a beats ab b a
    expect(t, "é", 0, "199 173");
    tok_destroy(t);
    fix_token(&p, "\xE4", TOK_TYPE_NORMAL, 0); // the best score of all, and it ends inside a character
    t = make(&p);
    alarm(30); // what has no end fails
    expect(t, "中a", 0, "232 188 177 260");
    alarm(0);
    tok_destroy(t);
}

static void test_ids_only(void **state) {
    (void)state;
    static const char *const models[] = {NULL, "none", "test", "no_vocab"};
    for (int i = 0; i < 4; i++) {
        fixture f = {.model = models[i]};
        fix_u32(&f, "llama.vocab_size", 77);
        tokenizer *t = make(&f);
        error      e = {0};
        tok_ids    ids = {0};
        strbuf     out = {0};
        assert_int_equal(tok_kind_of(t), TOK_NONE);
        assert_int_equal(tok_size(t), 77);
        assert_int_equal(tok_encode(t, "a", 1, 0, &ids, &e), E_UNSUPPORTED);
        assert_int_equal(tok_decode(t, (int32_t[]){0, 76}, 2, 0, &out, &e), OK);
        assert_int_equal(tok_decode(t, (int32_t[]){77}, 1, 0, &out, &e), E_INVALID);
        assert_int_equal(tok_special(t, TOK_EOS), -1);
        assert_false(tok_is_end(t, 2));
        tok_stream s;
        tok_stream_init(&s, t, true, true);
        assert_int_equal(tok_stream_next(&s, 5, &out, &e), OK);
        assert_int_equal(tok_encode_spans(t, (tok_span[]){{"a", 1, true}}, 1, 0, &ids, &e), E_UNSUPPORTED);
        strbuf_free(&out);
        tok_destroy(t);
    }
}

static void test_bad_vocabularies(void **state) {
    (void)state;
    tokenizer *t = NULL;
    error      e = {0};
    fixture    f = {.model = "gpt2", .pre = "gpt-2"};
    assert_int_equal(fix_create(&f, &t, &e), E_INVALID);
    assert_non_null(strstr(e.text, "tokenizer.ggml.tokens"));
    fix_bytes(&f);
    assert_int_not_equal(fix_create(&f, &t, &e), OK);
    assert_non_null(strstr(e.text, "merges"));
    fix_merge(&f, "a", "b");
    f.pre = NULL;
    t = make(&f);
    assert_non_null(strstr(tok_warning(t), "missing"));
    expect(t, "x", TOK_ADD_SPECIAL, "120"); // BOS 11 is the default of the kind, but nobody asked to add it
    tok_destroy(t);
    // Roles outside the vocabulary are none.
    fix_u32(&f, "tokenizer.ggml.bos_token_id", 100000);
    fix_u32(&f, "tokenizer.ggml.eos_token_id", 3);
    f.pre = "gpt-2";
    t = make(&f);
    assert_int_equal(tok_special(t, TOK_BOS), 11);
    assert_int_equal(tok_special(t, TOK_EOS), 3);
    assert_true(tok_is_end(t, 3));
    tok_destroy(t);
}

// A kind nobody has heard of is refused by name, and so is an unknown way to cut words where words are cut by it.
static void test_unknown_kinds(void **state) {
    (void)state;
    tokenizer *t = NULL;
    error      e = {0};
    fixture    f = {.model = "martian"};
    fix_u32(&f, "llama.vocab_size", 77);
    assert_int_equal(fix_create(&f, &t, &e), E_UNSUPPORTED);
    const char *said[] = {"fixture", "tokenizer.ggml.model", "\"martian\"", "llama, bert, gpt2, ", "rwkv, plamo2, none, no_vocab, test"};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) assert_non_null(strstr(e.text, said[i]));
    f.model = "llama2"; // nothing is guessed from how a name begins
    assert_int_equal(fix_create(&f, &t, &e), E_UNSUPPORTED);

    f = (fixture){.model = "gpt2", .pre = "never heard of"};
    fix_bytes(&f);
    fix_merge(&f, "a", "b");
    assert_int_equal(fix_create(&f, &t, &e), E_UNSUPPORTED);
    const char *named[] = {"fixture", "tokenizer.ggml.pre", "\"never heard of\""};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) assert_non_null(strstr(e.text, named[i]));
    f.model = "gemma4"; // has its own
    assert_int_equal(fix_create(&f, &t, &e), OK);
    tok_destroy(t);
    f.model = "rwkv"; // is not cut
    assert_int_equal(fix_create(&f, &t, &e), OK);
    tok_destroy(t);
}

static void test_every_pattern(void **state) {
    (void)state;
    static const char text[] = "Hello, WORLD's don'T 123456789 x12345y ½٣ ~~ <a> \t\n\r\n  \n   end  naïve ΣΊΣΥΦΟΣ 中文字 ひらがな 한국어 क्षि … a\xFF"
                               "b\xE4\xBD \xF0\x9F\x99\x82 <sentinel:12>IMGIMGABZ      ";
    int         seen = 0;
    for (size_t row = 0; tok_pre_names(row); row++) {
        for (const char *p = tok_pre_names(row); *p;) {
            char   name[64];
            size_t n = strcspn(p, " ");
            snprintf(name, sizeof name, "%.*s", (int)n, p);
            p += n + (p[n] == ' ');
            const tok_pre *pre = tok_pre_find(name, strlen(name));
            assert_non_null(pre);
            if (pre->flags & PRE_TEXT) continue;
            fixture    f = bpe_fixture(name);
            tokenizer *t = make(&f);
            tok_ids    ids = {0}, again = {0};
            strbuf     back = {0};
            assert_int_equal(tok_encode(t, text, sizeof text - 1, 0, &ids, NULL), OK);
            assert_int_equal(tok_decode(t, ids.ids, ids.count, 0, &back, NULL), OK);
            // Nothing is lost: encoding what came out gives the same ids.
            assert_int_equal(tok_encode(t, back.data, back.len, 0, &again, NULL), OK);
            assert_int_equal(again.count, ids.count);
            assert_memory_equal(again.ids, ids.ids, ids.count * sizeof *ids.ids);
            tok_ids_free(&ids);
            tok_ids_free(&again);
            strbuf_free(&back);
            tok_destroy(t);
            seen++;
        }
    }
    assert_true(seen > 70);
}

static void test_translation(void **state) {
    (void)state;
    strbuf out = {0};
    assert_int_equal(tok_split_translate("\\s?\\p{N}+|[^\\p{L}x]", &out), OK);
    assert_string_equal(out.data, "\\s?[\xD1" "0-9]+|[^\xD2\xD6" "A-Za-zx]");
    strbuf_clear(&out);
    assert_int_equal(tok_split_translate("[a\\x{4E00}-\\x{9FA5}]", &out), OK);
    assert_string_equal(out.data, "[a\xE1\xE3\xE5\xE7\xE9\xEB\xED\xEF]");
    strbuf_free(&out);
}

// Every allocation fails once: an error, or (for what is optional) the same result; never a crash, never a leak (ASan).
static void test_failing_memory(void **state) {
    (void)state;
    static fixture kinds[3];
    kinds[0] = bpe_fixture("deepseek-v3");
    kinds[1] = spm_fixture(false);
    kinds[2] = bpe_fixture("gemma4");
    char text[600];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "hello abc <think> <|im_end|>\xFF \n"[i % 32];
    for (int k = 0; k < 3; k++) {
        size_t bytes;
        void  *file = fix_file(&kinds[k], &bytes);
        gguf  *g = NULL;
        assert_int_equal(gguf_open_memory(file, bytes, "fixture", &g, NULL), OK);
        tokenizer *t = NULL;
        for (long nth = 1;; nth++) {
            error e = {0};
            mem_fail_at(nth);
            status st = tok_create(g, &t, &e);
            mem_fail_at(0);
            if (st == OK && nth > 40) break;
            if (st == OK) {
                tok_destroy(t);
                continue;
            }
            assert_int_equal(st, E_NOMEM);
            assert_true(*e.text && !t);
            assert_true(nth < 2000);
        }
        char *want = fix_ids(t, text, sizeof text, TOK_ADD_SPECIAL | TOK_PARSE_CONTROL);
        int   failures = 0;
        for (long nth = 1; nth < 60; nth++) {
            error   e = {0};
            tok_ids ids = {0};
            tok_ids_push(&ids, 42);
            mem_fail_at(nth);
            status st = tok_encode(t, text, sizeof text, TOK_ADD_SPECIAL | TOK_PARSE_CONTROL, &ids, &e);
            mem_fail_at(0);
            if (st != OK) {
                assert_int_equal(st, E_NOMEM);
                assert_int_equal(ids.count, 1);
                failures++;
            } else {
                strbuf got = {0};
                for (size_t i = 1; i < ids.count; i++) strbuf_addf(&got, "%s%d", i > 1 ? " " : "", ids.ids[i]);
                assert_string_equal(got.data, want);
                strbuf_free(&got);
            }
            tok_ids_free(&ids);
        }
        assert_true(failures > 3);
        mem_free(want);
        tok_destroy(t);
        gguf_close(g);
        mem_free(file);
    }
}

typedef struct worker { const tokenizer *t; const char *want; bool same; } worker;

static void *encode_often(void *arg) {
    worker *w = arg;
    w->same = true;
    for (int i = 0; i < 300; i++) {
        char *got = fix_ids(w->t, "hello hello abc <think> 12345\xFF", 31, TOK_ADD_SPECIAL);
        w->same = w->same && strcmp(got, w->want) == 0;
        mem_free(got);
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    fixture    f = bpe_fixture("llama-bpe");
    tokenizer *t = make(&f);
    char      *want = fix_ids(t, "hello hello abc <think> 12345\xFF", 31, TOK_ADD_SPECIAL);
    pthread_t  threads[4];
    worker     workers[4];
    for (int i = 0; i < 4; i++) {
        workers[i] = (worker){t, want, false};
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &workers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(workers[i].same);
    }
    mem_free(want);
    tok_destroy(t);
}

static void test_unicode(void **state) {
    (void)state;
    const uint8_t *c = tok_classes();
    assert_int_equal(c['a'], TOK_CP_LETTER);
    assert_int_equal(c[0x3000], TOK_CP_SPACE);
    assert_int_equal(c[0x85], TOK_CP_SPACE);
    assert_int_equal(c[0x300], TOK_CP_MARK);
    assert_int_equal(c[0x2EBF0], TOK_CP_LETTER);  // new in 15.1
    assert_int_equal(c[0x1C89], TOK_CP_NONE);     // new in 16.0
    assert_int_equal(c[0x10FFFF], TOK_CP_NONE);
    assert_int_equal(tok_lower(0xC9), 0xE9);
    assert_int_equal(tok_lower(0x3A3), 0x3C3);
    assert_int_equal(tok_nfd_first(0xE9), 'e');
    assert_int_equal(tok_nfd_first(0xD55C), 0x1112);
    uint32_t cp;
    assert_int_equal(tok_decode_cp((const unsigned char *)"\xC0\x80", 2, &cp), 2); // lenient
    assert_int_equal(cp, 0);
    assert_int_equal(tok_decode_cp((const unsigned char *)"\xE4\xBD", 2, &cp), 1);
    assert_int_equal(cp, 0xFFFD);
    assert_int_equal(tok_decode_cp((const unsigned char *)"\xF4\x90\x80\x80", 4, &cp), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unicode),          cmocka_unit_test(test_translation),
        cmocka_unit_test(test_bpe),              cmocka_unit_test(test_merging_is_by_rank),
        cmocka_unit_test(test_one_letter_many_times), cmocka_unit_test(test_spans),
        cmocka_unit_test(test_longest_spelling_first), cmocka_unit_test(test_spellings_not_taken_up), cmocka_unit_test(test_spm),
        cmocka_unit_test(test_pieces_and_streams), cmocka_unit_test(test_notes_are_bounded), cmocka_unit_test(test_ends),
        cmocka_unit_test(test_other_kinds),      cmocka_unit_test(test_ids_only),
        cmocka_unit_test(test_bad_vocabularies),
        cmocka_unit_test(test_unknown_kinds), cmocka_unit_test(test_every_pattern),
        cmocka_unit_test(test_failing_memory),   cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
