// tokenizer: bytes <-> token ids, as a GGUF file's tokenizer.ggml.* keys describe it.
//
// A tokenizer is made once from a file's metadata, copies all that it needs, and never changes afterwards: any number of threads may
// encode and decode with one tokenizer at once (scratch belongs to the call). Ids run from 0 to tok_size - 1.
//
// Text is bytes. Bytes that are no UTF-8 are accepted everywhere: each is taken for U+FFFD where the vocabulary works on characters.
// Encoding takes time near-linear in the text's length for every vocabulary, and memory of a small multiple of it.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"
#include "gguf/gguf.h"

typedef struct tokenizer tokenizer;

// E_INVALID when the keys contradict each other; E_UNSUPPORTED as tok_check. A vocabulary of the kinds "none", "no_vocab" and "test", or of none
// that the file names, serves ids, and only tok_encode says that there is no way from text. Without any vocabulary in the file the size
// is that of `<arch>.vocab_size`, or 0.
status tok_create(const gguf *g, tokenizer **out, error *err);
// Whether the file's kind of vocabulary is known, from two keys alone, so that a file can be refused before anything of it is loaded:
// E_UNSUPPORTED names the file, the key and what is known, when tokenizer.ggml.model is unknown, or tokenizer.ggml.pre is where text is cut by it
// (byte-level BPE; elsewhere it is not looked at). A missing tokenizer.ggml.pre is "default", with a warning.
status tok_check(const gguf *g, error *err);
void   tok_destroy(tokenizer *t); // NULL is fine

// --- What the vocabulary is ---

typedef enum tok_kind {
    TOK_NONE,      // ids only
    TOK_SPM,       // "llama": SentencePiece BPE, merges by score, byte fallback
    TOK_BPE,       // "gpt2", "gemma4", ...: byte-level BPE, merges by rank
    TOK_WORDPIECE, // "bert"
    TOK_UNIGRAM,   // "t5"
    TOK_RWKV,      // "rwkv": longest match
    TOK_PLAMO2     // "plamo2": best scoring cut
} tok_kind;

tok_kind    tok_kind_of(const tokenizer *t);
const char *tok_model_name(const tokenizer *t); // tokenizer.ggml.model as the file spells it; "" where there is none
const char *tok_pre_name(const tokenizer *t);   // tokenizer.ggml.pre, likewise
int32_t     tok_size(const tokenizer *t);
// Not empty where text is cut by a guess (tokenizer.ggml.pre is missing): one sentence for the log.
const char *tok_warning(const tokenizer *t);

// Values of tokenizer.ggml.token_type.
typedef enum tok_type {
    TOK_TYPE_UNDEFINED = 0,
    TOK_TYPE_NORMAL = 1,
    TOK_TYPE_UNKNOWN = 2,
    TOK_TYPE_CONTROL = 3,
    TOK_TYPE_USER_DEFINED = 4,
    TOK_TYPE_UNUSED = 5,
    TOK_TYPE_BYTE = 6
} tok_type;

tok_type tok_type_of(const tokenizer *t, int32_t id); // TOK_TYPE_UNDEFINED outside the vocabulary
float    tok_score(const tokenizer *t, int32_t id);
// The token as the file spells it (for gpt2 kinds with its byte alphabet), not NUL-terminated; NULL outside the vocabulary.
const char *tok_text(const tokenizer *t, int32_t id, size_t *len);
// The id of that very spelling, or -1.
int32_t tok_lookup(const tokenizer *t, const char *text, size_t len);

// Tokens with a role; -1 where the vocabulary has none.
typedef enum tok_role {
    TOK_BOS, TOK_EOS, TOK_EOT, TOK_EOM, TOK_UNK, TOK_SEP, TOK_PAD, TOK_MASK,
    TOK_NL, TOK_FIM_PRE, TOK_FIM_SUF, TOK_FIM_MID, TOK_FIM_PAD, TOK_FIM_REP, TOK_FIM_SEP,
    TOK_ROLES
} tok_role;

int32_t tok_special(const tokenizer *t, tok_role role);
bool    tok_add_bos(const tokenizer *t);
bool    tok_add_eos(const tokenizer *t);
bool    tok_add_sep(const tokenizer *t);
// Whether generation ends at this token (EOS, end of turn, end of message and what the peer counts among them).
bool           tok_is_end(const tokenizer *t, int32_t id);
const int32_t *tok_end_ids(const tokenizer *t, size_t *count); // ascending; the tokenizer's own

// --- Text to ids ---

typedef enum tok_flags {
    TOK_ADD_SPECIAL = 1,  // BOS, EOS, CLS ... as the file says
    TOK_PARSE_CONTROL = 2 // the spelling of a control token is that token; otherwise it is text
} tok_flags;

// A growable list of ids. Start with {0}; free with tok_ids_free.
typedef struct tok_ids {
    int32_t *ids;
    size_t   count, cap;
} tok_ids;

void tok_ids_free(tok_ids *v);
bool tok_ids_push(tok_ids *v, int32_t id); // false when memory is gone

// Appends the ids of text[0..len) to *out. E_UNSUPPORTED when the vocabulary has no way from text to ids; E_NOMEM; E_LIMIT past
// 1 GiB of text. On failure *out holds what it held before.
status tok_encode(const tokenizer *t, const char *text, size_t len, unsigned flags, tok_ids *out, error *err);

// A stretch of a prompt and where it comes from: control tokens are parsed in trusted spans (the template's text) only,
// user-defined tokens everywhere. Adjacent spans of the same kind are one text; so are adjacent spans of different kinds wherever no
// token that is parsed by its spelling lies between them.
typedef struct tok_span {
    const char *text;
    size_t      len;
    bool        trusted;
} tok_span;

// Of flags TOK_ADD_SPECIAL alone counts. The beginning-of-text token is not added when the first trusted text spells it already,
// the ending one not when the text already ends in it.
status tok_encode_spans(const tokenizer *t, const tok_span *spans, size_t count, unsigned flags, tok_ids *out, error *err);

// --- Ids to text ---

// The raw bytes that the token stands for when text is generated: byte tokens give their byte, SentencePiece's U+2581 is a space,
// gpt2's byte alphabet is undone, control tokens give their spelling (callers leave them out where they do not want it). The bytes are the
// tokenizer's own, not NUL-terminated, *len may be 0; never NULL (outside the vocabulary: "" and 0).
const char *tok_piece(const tokenizer *t, int32_t id, size_t *len);

typedef enum tok_decode_flags {
    TOK_SPELL_SPECIAL = 1, // control tokens are spelled out; otherwise they give nothing
    TOK_TIDY_SPACES = 2    // as the peer's detokenizer: for the vocabularies that ask for it " ?" becomes "?", " 's" "'s" and so on
} tok_decode_flags;

// Appends the text of ids[0..count) to *out. The leading space that encoding put there is taken away again. Without TOK_TIDY_SPACES
// decoding gives back the very bytes that were encoded, for well-formed UTF-8 and vocabularies that do not normalize; with both flags it is
// the peer's `detokenize`. E_INVALID for an id outside the vocabulary.
status tok_decode(const tokenizer *t, const int32_t *ids, size_t count, unsigned flags, strbuf *out, error *err);

// Decodes a stream token by token and never gives out half a UTF-8 character: bytes of an unfinished one are kept until it is
// complete. Bytes that can never become one come out as they are. Owned by one thread; needs no freeing.
typedef struct tok_stream {
    const tokenizer *t;
    bool             specials; // spell control tokens out
    bool             strip;    // the next bytes are the first: SentencePiece's leading space goes
    unsigned char    held[4];
    unsigned         held_len;
} tok_stream;

// at_start: the stream is the beginning of a text (as tok_decode takes it); false for an answer that goes on from a prompt.
void   tok_stream_init(tok_stream *s, const tokenizer *t, bool specials, bool at_start);
status tok_stream_next(tok_stream *s, int32_t id, strbuf *out, error *err); // appends what is complete now
status tok_stream_end(tok_stream *s, strbuf *out, error *err);              // appends what was held back, as it is
