// base/nodes: memory nodes (NUMA): which there are among the processors that this process may use, and how threads and memory are bound to them. hwloc knows
// the machine and talks to the system; a build without it has one node.
//
// Only nodes with processors count. Where some processors have no memory of their own, or a control group takes theirs away, all is one node. With one node
// nothing is ever bound. What the system refuses to bind stays where it is: placing changes how fast memory is read, never what is read.
// Threads: all of it may be called from anywhere.
#pragma once
#include <stddef.h>

enum { NODES_MOST = 64, NODES_ALL = -1 };

typedef struct nodes {
    int n;                      // at least 1
    int processors[NODES_MOST]; // of each; with one node they are not counted
    const struct nodes_map *map; // of the machine; NULL: one node, or made up, and nothing is bound
} nodes;

// This machine's, as it was when first asked.
const nodes *nodes_find(void);
// The calling thread runs on the node's processors from now on. What it was free to use before goes to `was`, if there is one, for nodes_unbind.
void nodes_bind(const nodes *, int node, void *was);
void nodes_unbind(const nodes *, const void *was);
void *nodes_keep(const nodes *); // a `was`; NULL: nothing is bound, or no memory. Freed by nodes_drop.
void nodes_drop(void *was);
// Whole pages of a range that nobody has touched yet come from this node while it has any, or from all in turn (NODES_ALL).
void nodes_place(const nodes *, void *at, size_t bytes, int node);
