// kv_disk_map: what the disk tier knows of its folder: pages by id, how they hang together, and who goes first.
//
// An entry is one page of tokens with a file for each group that has one. Entries form trees by parent; an entry without files is kept while it has
// children (its own file is gone or not yet there). Invariants: `bytes` is the sum over all files, in whole blocks; a leaf with files, and no other
// entry, is in the list, oldest use first; so ancestors outlive their descendants.
// Threads: under the disk tier's lock.
#pragma once
#include "kv/kv_store.h"

typedef struct disk_entry {
    uint8_t  id[32];
    uint32_t index;             // of its parent plus one; what stands for a key has UINT32_MAX
    uint64_t used;              // clock of the last use
    uint64_t file[KV_GROUPS];   // bytes in whole blocks; 0: no file
    struct disk_entry *parent;  // NULL while it is not known
    uint32_t children;
    bool     listed;
    struct disk_entry *older, *newer, *next;
} disk_entry;

typedef struct disk_map {
    disk_entry **heads;
    size_t   n_heads, n;
    disk_entry *oldest, *newest;
    uint64_t bytes, files, clock;
} disk_map;

bool disk_map_init(disk_map *m);
void disk_map_free(disk_map *m);
disk_entry *disk_map_find(const disk_map *m, const uint8_t id[32]);
// The page's entry has a file of its group now. E_INVALID: the page does not fit what is known of its parent.
status disk_map_add(disk_map *m, const kv_record *page, uint64_t file_bytes);
void disk_map_touch(disk_map *m, disk_entry *e);
// The file of the group is gone. The entry may be gone afterwards.
void disk_map_lost(disk_map *m, disk_entry *e, int32_t group);
uint64_t disk_blocks(uint64_t content); // what the file of a page with such a content takes on the disk
