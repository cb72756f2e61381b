// For quantize.sh: holds two quantized files of one model side by side.
//   quant_tool SOURCE PEER OURS [DECODED]     DECODED: PEER as F32, made by the peer
// Prints a line a tensor type: elements decoded otherwise than by the peer, and the NMSE of both files' weights against SOURCE.
// Exit status 1 when an element differs, our NMSE is above the peer's by more than a thousandth, or (QUANT_MIX=1) the mix differs.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/gguf.h"

static gguf *open_or_exit(const char *path) {
    gguf *g;
    error e;
    if (!gguf_open(path, &g, &e)) return g;
    fprintf(stderr, "%s\n", e.text);
    exit(1);
}

static float *load(const gguf *g, const char *name, size_t n) {
    error e;
    float *x = malloc(n * sizeof *x + 1);
    const gguf_tensor *t = gguf_tensor_find(g, name);
    if (t && x && gguf_tensor_elems(t) == n && !gguf_read_f32(g, t, 0, n, x, &e)) return x;
    fprintf(stderr, "%s cannot be read\n", name);
    exit(1);
}

static double distance(const float *x, const float *y, size_t n) {
    double d = 0;
    for (size_t i = 0; i < n; i++) d += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    return d;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    gguf *source = open_or_exit(argv[1]), *peer = open_or_exit(argv[2]), *ours = open_or_exit(argv[3]), *decoded = argc > 4 ? open_or_exit(argv[4]) : NULL;
    double theirs_err[QUANT_TYPES] = {0}, our_err[QUANT_TYPES] = {0}, all[QUANT_TYPES] = {0};
    size_t wrong[QUANT_TYPES] = {0}, count[QUANT_TYPES] = {0};
    int mix = 0, bad = 0, must_mix = getenv("QUANT_MIX") != NULL;
    for (size_t i = 0; i < gguf_tensor_count(peer); i++) {
        const gguf_tensor *t = gguf_tensor_at(peer, i), *u = gguf_tensor_find(ours, t->name);
        size_t n = (size_t)gguf_tensor_elems(t);
        if (!u || u->type != t->type || u->offset - gguf_tensor_at(ours, 0)->offset != t->offset - gguf_tensor_at(peer, 0)->offset) {
            if (must_mix && !mix++) printf("  %s: the peer's is %s, ours %s\n", t->name, quant_type_name(t->type), u ? quant_type_name(u->type) : "missing");
            if (!u || u->type != t->type) continue;
        }
        float *x = load(source, t->name, n), *y = load(peer, t->name, n), *z = load(ours, t->name, n);
        if (decoded) {
            float *d = load(decoded, t->name, n);
            for (size_t k = 0; k < n; k++) wrong[t->type] += y[k] != d[k];
            free(d);
        }
        for (size_t k = 0; k < n; k++) all[t->type] += (double)x[k] * x[k];
        theirs_err[t->type] += distance(x, y, n);
        our_err[t->type] += distance(x, z, n);
        count[t->type] += n;
        free(x);
        free(y);
        free(z);
    }
    for (int k = 0; k < QUANT_TYPES; k++) {
        if (!count[k] || k == QUANT_F32) continue;
        bool worse = our_err[k] > theirs_err[k] * 1.001;
        printf("  %-8s %10zu weights  decoded otherwise %zu  NMSE peer %.4e ours %.4e (%.3f)%s\n", quant_type_name(k), count[k], wrong[k],
               theirs_err[k] / all[k], our_err[k] / all[k], theirs_err[k] > 0 ? our_err[k] / theirs_err[k] : 1, worse || wrong[k] ? "  OUT" : "");
        if (worse || wrong[k]) bad = 1;
    }
    return bad || mix;
}
