// cpu/ref/probe: float multiplications and additions as the compiler's plain target has them.
#include "cpu/cpu_internal.h"

static void run(int64_t rounds) {
    float a[32] = {0}, x = 1.0f, y = 1e-3f;
    for (int64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+m"(a), "+m"(x), "+m"(y)); // nothing is known of them from one round to the next
        for (int i = 0; i < 32; i++) a[i] = a[i] * x + y;
    }
}

const cpu_probe cpu_probe_c = {"C float", 64, run};
