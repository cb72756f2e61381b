// tok_decode: from ids to text: the pieces, made once with the tokenizer, whole lists of ids, and streams.
#include "tokenizer/tok_internal.h"

#include "base/utf8.h"

#define SPECIAL (TOK_ATTR(TOK_TYPE_CONTROL) | TOK_ATTR(TOK_TYPE_UNKNOWN))

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void add_unescaped(strbuf *out, const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        bool space = n - i >= 3 && memcmp(s + i, TOK_SPACE, 3) == 0;
        strbuf_addc(out, space ? ' ' : s[i]);
        i += space ? 3 : 1;
    }
}

// gpt2's byte alphabet undone. A character that is not of it comes out as the peer has it, as a note; as itself once `out` has `most` bytes, since notes repeat the
// token for each character.
static void add_unspelled(strbuf *out, const char *s, size_t n, size_t most) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += tok_decode_cp((const unsigned char *)s + i, n - i, &cp);
        int b = tok_letter_byte(cp);
        if (b >= 0) {
            strbuf_addc(out, (char)b);
            continue;
        }
        char   utf8[4];
        size_t m = utf8_encode(cp, utf8);
        if (out->len >= most) {
            strbuf_add(out, utf8, m);
            continue;
        }
        strbuf_adds(out, "[UNK_BYTE_0x");
        for (size_t k = 0; k < m; k++) strbuf_addf(out, "%02x", (unsigned char)utf8[k]);
        if (n <= 256) strbuf_add(out, s, n);
        strbuf_addc(out, ']');
    }
}

static void add_piece(const tokenizer *t, int32_t id, size_t most, strbuf *out) {
    size_t      n;
    const char *s = tok_strtab_get(&t->text, id, &n);
    unsigned    attr = t->attr[id];
    if (t->kind == TOK_RWKV) {
        char *raw = mem_alloc(n);
        if (raw) strbuf_add(out, raw, tok_rwkv_unescape(s, n, raw));
        else out->failed = true;
        mem_free(raw);
        return;
    }
    bool byte = attr & TOK_ATTR(TOK_TYPE_BYTE), plain = attr & (SPECIAL | TOK_ATTR(TOK_TYPE_USER_DEFINED));
    if (t->dna && n > 3 && memcmp(s + n - 3, "\xEE\x80\x80", 3) == 0) n -= 3; // the mark of a k-mer
    if (byte && (!plain || t->kind == TOK_PLAMO2) && n == 6 && hex_digit(s[3]) >= 0 && hex_digit(s[4]) >= 0) {
        strbuf_addc(out, (char)(hex_digit(s[3]) * 16 + hex_digit(s[4])));
    } else if (plain || t->kind == TOK_PLAMO2 || t->kind == TOK_NONE) {
        strbuf_add(out, s, n);
    } else if (attr & TOK_ATTR(TOK_TYPE_NORMAL)) {
        size_t      form_len = 0;
        const char *form = t->kind == TOK_BPE && !(t->pre_flags & PRE_TEXT) ? tok_strtab_get(&t->forms, id, &form_len) : NULL;
        if (form_len && !t->escape) strbuf_add(out, form, form_len); // taken out of the byte alphabet already
        else if (t->kind == TOK_BPE && !t->escape) add_unspelled(out, s, n, most);
        else add_unescaped(out, s, n);
    }
}

status tok_make_pieces(tokenizer *t, error *err) {
    strbuf all = {0};
    size_t most = 4 * t->text.blob_len + (1u << 16); // with notes; vocabularies that people use need less than their texts
    t->piece_off = mem_alloc(((size_t)t->size + 1) * sizeof *t->piece_off);
    if (!t->piece_off || !mem_grow((void **)&all.data, &all.cap, t->text.blob_len + 1, 1)) {
        strbuf_free(&all);
        return error_set(err, E_NOMEM, "out of memory for the vocabulary");
    }
    all.data[0] = 0;
    t->piece_off[0] = 0;
    for (int32_t id = 0; id < t->size; id++) {
        add_piece(t, id, most, &all);
        if (all.failed || all.len > UINT32_MAX) {
            strbuf_free(&all);
            return error_set(err, E_NOMEM, "out of memory for the vocabulary");
        }
        t->piece_off[id + 1] = (uint32_t)all.len;
    }
    t->pieces = all.data; // NULL when all are empty
    return OK;
}

const char *tok_piece(const tokenizer *t, int32_t id, size_t *len) {
    *len = 0;
    if (id < 0 || id >= t->size || !t->pieces) return "";
    *len = t->piece_off[id + 1] - t->piece_off[id];
    return t->pieces + t->piece_off[id];
}

static status bad_id(const tokenizer *t, int32_t id, error *err) {
    return error_set(err, E_INVALID, "token %d is outside the vocabulary of %d tokens", id, t->size);
}

// What the peer's detokenizer does to spaces, in place; returns the new length. Three passes, each over the result of the one before.
static size_t tidy_spaces(char *s, size_t n) {
    size_t m = n ? 1 : 0;
    for (size_t i = 1; i < n; i++) { // " ?" -> "?"
        if (s[i - 1] == ' ' && (s[i] == '?' || s[i] == '!' || s[i] == '.' || s[i] == ',')) m--;
        s[m++] = s[i];
    }
    n = m;
    m = n ? 1 : 0;
    for (size_t i = 1; i < n; i++) { // " ' " -> "'"
        char c = s[i];
        if (c == '\'' && i + 1 < n && s[i - 1] == ' ' && s[i + 1] == ' ') {
            m--;
            s[++i] = '\0';
        }
        s[m++] = c;
    }
    n = m;
    m = n ? 1 : 0;
    for (size_t i = 1; i < n; i++) { // " 's" -> "'s", also 'm, 're, 've
        if (s[i - 1] == ' ' && s[i] == '\'' && i + 1 < n) {
            char a = s[i + 1], b = i + 2 < n ? s[i + 2] : 0;
            if (a == 's' || a == 'm' || ((a == 'r' || a == 'v') && b == 'e')) m--;
        }
        s[m++] = s[i];
    }
    return m;
}

status tok_decode(const tokenizer *t, const int32_t *ids, size_t count, unsigned flags, strbuf *out, error *err) {
    size_t start = out->len;
    bool   strip = t->space_prefix;
    for (size_t i = 0; i < count; i++) {
        size_t n;
        if (ids[i] < 0 || ids[i] >= t->size) {
            out->len = start;
            return bad_id(t, ids[i], err);
        }
        if (!(flags & TOK_SPELL_SPECIAL) && t->attr && t->attr[ids[i]] & SPECIAL) continue;
        const char *piece = tok_piece(t, ids[i], &n);
        if (strip && n && *piece == ' ') {
            piece++;
            n--;
        }
        strip = false;
        strbuf_add(out, piece, n);
    }
    if (out->failed) return error_set(err, E_NOMEM, "out of memory for the text of %zu tokens", count);
    if (flags & TOK_TIDY_SPACES && t->clean_spaces && out->len > start) {
        out->len = start + tidy_spaces(out->data + start, out->len - start);
        out->data[out->len] = 0;
    }
    return OK;
}

void tok_stream_init(tok_stream *s, const tokenizer *t, bool specials, bool at_start) {
    *s = (tok_stream){.t = t, .specials = specials, .strip = at_start && t->space_prefix};
}

status tok_stream_next(tok_stream *s, int32_t id, strbuf *out, error *err) {
    const tokenizer *t = s->t;
    if (id < 0 || id >= t->size) return bad_id(t, id, err);
    if (!s->specials && t->attr && t->attr[id] & SPECIAL) return OK;
    size_t      n, before = out->len;
    const char *piece = tok_piece(t, id, &n);
    if (s->strip && n && *piece == ' ') {
        piece++;
        n--;
    }
    if (n) s->strip = false;
    // Only the bytes that are new can complete or end what was held.
    if (!strbuf_add(out, s->held, s->held_len) || !strbuf_add(out, piece, n)) return error_set(err, E_NOMEM, "out of memory for text");
    size_t have = out->len - before, whole = utf8_complete_prefix(out->data + before, have);
    s->held_len = (unsigned)(have - whole);
    memcpy(s->held, out->data + before + whole, s->held_len);
    out->len = before + whole;
    out->data[out->len] = 0;
    return OK;
}

status tok_stream_end(tok_stream *s, strbuf *out, error *err) {
    bool ok = strbuf_add(out, s->held, s->held_len);
    s->held_len = 0;
    return ok ? OK : error_set(err, E_NOMEM, "out of memory for text");
}
