// The folder of a disk tier, for the engine's tests.
#pragma once
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static inline void empty_dir(const char *path) {
    char sub[600], file[1200];
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
        DIR *s = opendir(sub);
        for (struct dirent *f; s && (f = readdir(s));) {
            snprintf(file, sizeof file, "%s/%s", sub, f->d_name);
            if (f->d_name[0] != '.') unlink(file);
        }
        if (s) closedir(s);
        if (rmdir(sub)) unlink(sub);
    }
    if (d) closedir(d);
}

// Calls fn for every file of a page.
static inline int each_file(const char *dir, void (*fn)(const char *path)) {
    char sub[600], file[1200];
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strlen(e->d_name) != 2 || e->d_name[0] == '.') continue;
        snprintf(sub, sizeof sub, "%s/%s", dir, e->d_name);
        DIR *s = opendir(sub);
        for (struct dirent *f; s && (f = readdir(s));) {
            if (f->d_name[0] == '.') continue;
            snprintf(file, sizeof file, "%s/%s", sub, f->d_name);
            if (fn) fn(file);
            n++;
        }
        if (s) closedir(s);
    }
    if (d) closedir(d);
    return n;
}
