// tok_internal: what the files of this room share; nobody else includes it.
//
// A tokenizer is written by tok_load.c (and the *_create functions) alone and constant afterwards. What a call needs to write lives
// in its tok_scratch, which begins zeroed and is freed when the call ends.
#pragma once
#include "tokenizer/tok_table.h"
#include "tokenizer/tok_unicode.h"
#include "tokenizer/tokenizer.h"

// Attributes of a token: one bit a value of tok_type, and how white space beside it is treated.
#define TOK_ATTR(type) (1u << (type))
#define TOK_ATTR_LSTRIP (1u << 8)
#define TOK_ATTR_RSTRIP (1u << 9)

// ---- splitting text into words (tok_split.c, tok_pre.c)

// What a tokenizer.ggml.pre means.
typedef enum tok_pre_flags {
    PRE_IGNORE_MERGES = 1, // a word that is a token is that token, whatever the merges say
    PRE_ADD_BOS = 2,
    PRE_ADD_SEP = 4,
    PRE_KEEP_SPACES = 8,   // the peer's detokenizer does not tidy spaces
    PRE_ESCAPE = 16,       // spaces are U+2581 before words are cut
    PRE_TEXT = 32,         // merges work on characters, not on the byte alphabet
    PRE_NO_BOS = 64,
    PRE_NEWLINES = 128,    // a word of newlines alone that is a token is that token
    PRE_ADD_BOS_ALWAYS = 256,
    PRE_CASED = 512        // nothing is made lower case unless the file says so
} tok_pre_flags;

typedef struct tok_pre {
    const char *names;       // separated by spaces
    const char *patterns[7]; // applied one after the other, each to the pieces that the one before left
    unsigned    flags;
} tok_pre;

const tok_pre *tok_pre_find(const char *name, size_t len); // NULL when not known
const tok_pre *tok_pre_default(void);
const char    *tok_pre_names(size_t i); // of row i, NULL past the last

typedef struct tok_splitter tok_splitter;
typedef struct tok_scratch tok_scratch;
// One word: the bytes of whole characters, well-formed (each undecodable byte of the input has become U+FFFD).
typedef status (*tok_word_fn)(const tokenizer *t, tok_scratch *s, const char *word, size_t len, tok_ids *out);

status tok_splitter_create(const tok_pre *pre, tok_splitter **out, error *err);
void   tok_splitter_free(tok_splitter *sp);
status tok_split(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_word_fn fn, tok_ids *out);
// The pattern over bytes that a pattern over characters becomes; for tests.
status tok_split_translate(const char *pattern, strbuf *out);

// ---- one call's memory

#define TOK_WORD_BYTES 22
#define TOK_WORD_IDS 10
typedef struct tok_word_slot { // one word that was seen before, and its ids
    uint8_t len, count;
    char    key[TOK_WORD_BYTES];
    int32_t ids[TOK_WORD_IDS];
} tok_word_slot;

// A symbol of a word being merged; symbols form a list in the order of the text.
typedef struct tok_sym {
    int32_t  id;         // of its spelling, -1 when it has none
    uint32_t begin, end; // its bytes in the word; end 0: merged away
    int32_t  prev, next; // -1 at the ends
    uint32_t rank;       // of the merge with the next one; UINT32_MAX: none
    int32_t  merged;     // what that merge makes
} tok_sym;

struct tok_scratch {
    strbuf         escaped;   // a fragment with its spaces escaped, or with a space before it
    strbuf         clean;     // a fragment made well-formed
    uint8_t       *classes[4];
    size_t         classes_cap[4];
    void          *match[7];  // pcre2_match_data, one a pattern
    tok_sym       *syms;
    size_t         syms_cap;
    uint64_t      *heap;
    size_t         heap_cap, heap_len;
    void          *cells;     // best paths of unigram and plamo2
    size_t         cells_cap;
    tok_word_slot *words;     // NULL: not worth it
    size_t         words_mask;
    error         *err;
};

void tok_scratch_free(tok_scratch *s);
bool tok_heap_push(tok_scratch *s, uint64_t key);
uint64_t tok_heap_pop(tok_scratch *s); // the least
void tok_words_open(tok_scratch *s, size_t text_len); // makes the cache of words where the text is long enough
// Encodes a word through the cache.
status tok_word_cached(const tokenizer *t, tok_scratch *s, const char *word, size_t len, tok_word_fn fn, tok_ids *out);

// ---- the kinds. `text` is a fragment without special tokens.

typedef struct tok_merges { // (left, right) -> rank, result
    struct tok_merge { uint64_t pair1; uint32_t rank; int32_t merged; } *slots; // pair1: left << 32 | right, plus 1
    size_t mask, used;
} tok_merges;

status tok_bpe_create(tokenizer *t, const gguf *g, const char *pre_name, error *err);
status tok_bpe_encode(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_ids *out);
status tok_spm_create(tokenizer *t, error *err);
status tok_spm_encode(const tokenizer *t, tok_scratch *s, const char *text, size_t len, bool space_before, tok_ids *out);
status tok_wordpiece_create(tokenizer *t, error *err);
status tok_wordpiece_encode(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_ids *out);
status tok_unigram_create(tokenizer *t, const gguf *g, error *err);
status tok_unigram_encode(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_ids *out);
status tok_rwkv_create(tokenizer *t, error *err);
status tok_rwkv_encode(const tokenizer *t, const char *text, size_t len, tok_ids *out);
size_t tok_rwkv_unescape(const char *text, size_t len, char *out); // out: at least len bytes
status tok_plamo2_create(tokenizer *t, error *err);
status tok_plamo2_encode(const tokenizer *t, tok_scratch *s, const char *text, size_t len, tok_ids *out);

// ---- the tokenizer

struct tokenizer {
    tok_kind  kind;
    char     *model, *pre;
    char      warning[160];
    int32_t   size;
    tok_strtab text;   // the tokens as the file spells them; id = number
    uint16_t *attr;
    float    *scores;  // NULL: all 0
    size_t    max_len; // bytes of the longest token
    char     *pieces;  // what tok_piece gives
    uint32_t *piece_off;
    int32_t   roles[TOK_ROLES];
    int32_t  *ends;
    size_t    end_count;
    bool      add_bos, add_eos, add_sep, space_prefix, clean_spaces, escape, merge_spaces, lowercase, strip_accents;
    int32_t   byte_token[256]; // <0xXX>, -1 where there is none
    tok_trie  special;         // control, unknown and user-defined tokens
    int32_t  *special_shorter; // a node of `special` each: the nearest node above it with a value, 0: none

    // byte-level BPE
    tok_splitter *splitter;
    unsigned      pre_flags;
    bool          dna, drop_spaces; // the models "hybriddna" and "whitespace"
    tok_strtab    forms;            // spellings in raw bytes: the tokens, then what merges name besides
    tok_merges    merges;
    int32_t       byte_form[256];
    int32_t       raw_byte[256];    // the token spelled by that one byte
    // SentencePiece
    bool spm_words; // no token spans a space that follows something else: words can be taken one by one
    // all that match by prefix
    tok_trie trie;
    float    unknown_score;
    tok_trie user_trie;
    uint32_t *charsmap; // double array
    size_t    charsmap_len;
    char     *replacements;
    size_t    replacements_len;
};

#define TOK_SPACE "\xE2\x96\x81" // U+2581, SentencePiece's space
static inline bool tok_has(const tokenizer *t, int32_t id, tok_type type) { return t->attr[id] & TOK_ATTR(type); }
static inline int32_t tok_find(const tokenizer *t, const char *s, size_t n) { return tok_strtab_find(&t->text, s, n); }
// The letter of gpt2's byte alphabet that stands for a byte, and back (-1: none).
uint32_t tok_byte_letter(unsigned char b);
int      tok_letter_byte(uint32_t cp);
status tok_make_pieces(tokenizer *t, error *err);
