// Owns the format of a page's file in the disk tier: 256 bytes of header, then the content as the device exported it.
//
//   0 magic and version, a number in the byte order of the machine   8 index u32   12 group u32   16 bytes of content u64   24 id[32]   56 parent[32]   88 tokens i32[32]
//   216 xxh128 of the content   232 reserved, 0   248 xxh64 of bytes 0 to 247
//
// Files are untrusted: sizes are compared before anything is read, and nothing of a file is believed before both hashes agree.
// Hashes find damage, not malice: who can write the folder can write any content.
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kv/kv_store.h"

typedef struct header {
    char     magic[8];
    uint32_t index, group;
    uint64_t bytes;
    uint8_t  id[32], parent[32];
    int32_t  tokens[KV_PAGE];
    uint64_t content[2];
    uint64_t reserved[2];
    uint64_t hash;
} header;
_Static_assert(sizeof(header) == KV_FILE_HEADER && sizeof(((header *)0)->tokens) == 128, "the layout above");

static const uint64_t ORDER = 0x3147505654414C41; // another for each version of the format

static void magic(char out[8]) { memcpy(out, &ORDER, 8); }

void kv_file_header(const kv_record *page, const void *content, uint8_t out[KV_FILE_HEADER]) {
    header h = {.index = page->index, .group = (uint32_t)page->group, .bytes = page->bytes};
    magic(h.magic);
    memcpy(h.id, page->id, sizeof h.id);
    memcpy(h.parent, page->parent, sizeof h.parent);
    memcpy(h.tokens, page->tokens, sizeof h.tokens);
    XXH128_hash_t x = XXH3_128bits(content, page->bytes);
    h.content[0] = x.low64;
    h.content[1] = x.high64;
    h.hash = XXH3_64bits(&h, offsetof(header, hash));
    memcpy(out, &h, sizeof h);
}

status kv_file_parse(const uint8_t *data, size_t n, uint64_t file_bytes, kv_record *out, error *err) {
    header h;
    char want[8];
    magic(want);
    if (n < sizeof h) return error_set(err, E_INVALID, "a page's file has %zu bytes, less than its header", n);
    memcpy(&h, data, sizeof h);
    if (memcmp(h.magic, want, sizeof want)) return error_set(err, E_INVALID, "not the file of a page, or of another version");
    if (h.hash != XXH3_64bits(&h, offsetof(header, hash))) return error_set(err, E_INVALID, "the header of a page's file is damaged");
    if (h.group >= KV_GROUPS || file_bytes < sizeof h || h.bytes != file_bytes - sizeof h) return error_set(err, E_INVALID, "a page's file is not as long as it says");
    *out = (kv_record){.index = h.index, .group = (int32_t)h.group, .bytes = h.bytes};
    memcpy(out->id, h.id, sizeof h.id);
    memcpy(out->parent, h.parent, sizeof h.parent);
    memcpy(out->tokens, h.tokens, sizeof h.tokens);
    return OK;
}

status kv_file_check(const uint8_t *file, size_t n, const kv_record *want, const uint8_t **content, error *err) {
    kv_record got;
    status st = kv_file_parse(file, n, n, &got, err);
    if (st != OK) return st;
    if (got.group != want->group || got.index != want->index || got.bytes != want->bytes || memcmp(got.id, want->id, sizeof got.id) ||
        memcmp(got.parent, want->parent, sizeof got.parent) || memcmp(got.tokens, want->tokens, sizeof got.tokens))
        return error_set(err, E_INVALID, "the file holds another page");
    header h;
    memcpy(&h, file, sizeof h);
    XXH128_hash_t x = XXH3_128bits(file + sizeof h, n - sizeof h);
    if (x.low64 != h.content[0] || x.high64 != h.content[1]) return error_set(err, E_INVALID, "the content of a page is damaged");
    *content = file + sizeof h;
    return OK;
}
