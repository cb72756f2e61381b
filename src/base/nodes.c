#include "base/nodes.h"

#if defined(ALTISERVE_HWLOC)
#include <hwloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

// Made once and never freed or changed, so that threads read it without a lock.
static struct nodes_map {
    hwloc_topology_t topology;
    hwloc_bitmap_t processors[NODES_MOST];
    hwloc_bitmap_t memory[NODES_MOST];
    hwloc_bitmap_t all_memory;
} map;
static nodes found;

// Takes node `id` as the next one, with those of `left` that are its processors. False: no memory, or too many.
static bool take(unsigned id, hwloc_bitmap_t left) {
    hwloc_obj_t o = hwloc_get_numanode_obj_by_os_index(map.topology, id);
    if (!o || !hwloc_bitmap_intersects(o->cpuset, left)) return true;
    if (found.n == NODES_MOST) return false;
    hwloc_bitmap_t mine = map.processors[found.n] = hwloc_bitmap_dup(o->cpuset);
    map.memory[found.n] = hwloc_bitmap_dup(o->nodeset);
    if (!mine || !map.memory[found.n]) return false;
    hwloc_bitmap_and(mine, mine, left);
    hwloc_bitmap_andnot(left, left, mine);
    hwloc_bitmap_or(map.all_memory, map.all_memory, o->nodeset);
    found.processors[found.n++] = hwloc_bitmap_weight(mine);
    return true;
}

// Nodes that share processors (high-bandwidth memory beside the usual, memory behind a bus) count once, as the one that the system numbers first.
static bool look(void) {
    hwloc_bitmap_t left = hwloc_bitmap_alloc();
    map.all_memory = hwloc_bitmap_alloc();
    bool ok = left && map.all_memory;
    if (ok && hwloc_get_cpubind(map.topology, left, HWLOC_CPUBIND_THREAD) != 0) hwloc_bitmap_fill(left);
    if (ok) hwloc_bitmap_and(left, left, hwloc_topology_get_allowed_cpuset(map.topology));
    hwloc_const_bitmap_t all = hwloc_topology_get_allowed_nodeset(map.topology);
    for (int id = hwloc_bitmap_first(all); ok && id >= 0; id = hwloc_bitmap_next(all, id)) ok = take((unsigned)id, left);
    ok = ok && hwloc_bitmap_iszero(left);
    hwloc_bitmap_free(left);
    return ok && found.n > 1;
}

static void find(void) {
    bool several = false;
    if (hwloc_topology_init(&map.topology) == 0) {
        // Which processors are whose is known by what encloses both, so that is kept; looking must not move this thread.
        hwloc_topology_set_cache_types_filter(map.topology, HWLOC_TYPE_FILTER_KEEP_NONE);
        hwloc_topology_set_flags(map.topology, HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING);
        several = hwloc_topology_load(map.topology) == 0 && look();
        if (!several) hwloc_topology_destroy(map.topology);
    }
    if (several) found.map = &map;
    else found.n = 1;
}

const nodes *nodes_find(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
    return &found;
}

void nodes_bind(const nodes *ns, int node, void *was) {
    if (!ns->map) return;
    if (was && hwloc_get_cpubind(map.topology, was, HWLOC_CPUBIND_THREAD) != 0) hwloc_bitmap_zero(was);
    (void)hwloc_set_cpubind(map.topology, map.processors[node], HWLOC_CPUBIND_THREAD);
}

void nodes_unbind(const nodes *ns, const void *was) {
    if (ns->map && was && !hwloc_bitmap_iszero(was)) (void)hwloc_set_cpubind(map.topology, was, HWLOC_CPUBIND_THREAD);
}

void *nodes_keep(const nodes *ns) { return ns->map ? hwloc_bitmap_alloc() : NULL; }
void nodes_drop(void *was) { hwloc_bitmap_free(was); }

void nodes_place(const nodes *ns, void *at, size_t bytes, int node) {
    if (!ns->map) return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = ((uintptr_t)at + page - 1) & ~(page - 1), end = ((uintptr_t)at + bytes) & ~(page - 1);
    if (end <= begin) return;
    bool all = node == NODES_ALL;
    (void)hwloc_set_area_membind(map.topology, (void *)begin, end - begin, all ? map.all_memory : map.memory[node],
                                 all ? HWLOC_MEMBIND_INTERLEAVE : HWLOC_MEMBIND_BIND, HWLOC_MEMBIND_BYNODESET);
}
#else
const nodes *nodes_find(void) {
    static const nodes one = {.n = 1, .processors = {1}};
    return &one;
}
void nodes_bind(const nodes *ns, int node, void *was) { (void)ns, (void)node, (void)was; }
void nodes_unbind(const nodes *ns, const void *was) { (void)ns, (void)was; }
void *nodes_keep(const nodes *ns) { return (void)ns, NULL; }
void nodes_drop(void *was) { (void)was; }
void nodes_place(const nodes *ns, void *at, size_t bytes, int node) { (void)ns, (void)at, (void)bytes, (void)node; }
#endif
