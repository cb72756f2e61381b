// cpu/neon on Linux: what the kernel says of the processor, through the auxiliary vector.
#if defined(__linux__)
#include <sys/auxv.h>

#include "cpu/cpu_internal.h"

enum { HAS_DOTPROD = 1 << 20, HAS_I8MM = 1 << 13 }; // HWCAP_ASIMDDP; HWCAP2_I8MM, which older headers do not name

cpu_neon_features cpu_neon_detect(void) {
    cpu_neon_features f = {.dotprod = getauxval(AT_HWCAP) & HAS_DOTPROD};
    f.i8mm = f.dotprod && getauxval(AT_HWCAP2) & HAS_I8MM;
    return f;
}
#endif
