// A page's file of the prefix cache's disk tier: anything is refused or read; what is read as the wanted page must be the page.
#include <stdlib.h>
#include <string.h>

#include "kv/kv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kv_record got;
    const uint8_t *content;
    error e;
    if (kv_file_parse(data, size, size, &got, &e) == OK) {
        if (got.bytes + KV_FILE_HEADER != size || got.group < 0 || got.group >= KV_GROUPS) abort();
        if (kv_file_check(data, size, &got, &content, &e) == OK && content != data + KV_FILE_HEADER) abort();
        got.tokens[0] ^= 1;
        if (kv_file_check(data, size, &got, &content, &e) == OK) abort();
    }
    // The input as a page of its own: it reads back, and with any of its bytes changed it does not.
    if (size > 4096 || !size) return 0;
    uint8_t file[KV_FILE_HEADER + 4096];
    kv_record r = {.index = data[0], .group = data[0] % KV_GROUPS, .bytes = size};
    memcpy(r.id, data, size < sizeof r.id ? size : sizeof r.id);
    kv_file_header(&r, data, file);
    memcpy(file + KV_FILE_HEADER, data, size);
    if (kv_file_check(file, KV_FILE_HEADER + size, &r, &content, &e) != OK) abort();
    file[(size_t)data[0] * 31 % (KV_FILE_HEADER + size)] ^= 0x40;
    if (kv_file_check(file, KV_FILE_HEADER + size, &r, &content, &e) == OK) abort();
    return 0;
}
