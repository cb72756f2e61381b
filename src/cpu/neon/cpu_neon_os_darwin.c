// cpu/neon on macOS: what the kernel says of the processor, through sysctl.
#if defined(__APPLE__)
#include <sys/sysctl.h>

#include "cpu/cpu_internal.h"

static bool has(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value;
}

cpu_neon_features cpu_neon_detect(void) {
    cpu_neon_features f = {.dotprod = has("hw.optional.arm.FEAT_DotProd")};
    f.i8mm = f.dotprod && has("hw.optional.arm.FEAT_I8MM");
    return f;
}
#endif
