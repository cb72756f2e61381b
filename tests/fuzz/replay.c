// A fuzz target without its fuzzer: runs it over every file of the folder that is named, as a test.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void replay(const char *path) {
    FILE *f = fopen(path, "rb");
    long size = -1;
    if (f && fseek(f, 0, SEEK_END) == 0) size = ftell(f);
    uint8_t *data = malloc(size > 0 ? (size_t)size : 1); // of exactly its size: who reads past it is noticed
    if (size < 0 || !data || fseek(f, 0, SEEK_SET) || fread(data, 1, (size_t)size, f) != (size_t)size) {
        perror(path);
        exit(1);
    }
    fclose(f);
    LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
}

int main(int argc, char **argv) {
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    size_t n = 0;
    if (!dir) {
        fprintf(stderr, "usage: %s FOLDER, of inputs\n", argv[0]);
        return 2;
    }
    for (struct dirent *d; (d = readdir(dir));) {
        char path[4096];
        if (d->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], d->d_name);
        replay(path);
        n++;
    }
    closedir(dir);
    printf("%zu inputs\n", n);
    return n ? 0 : 1; // no inputs hold nothing
}
