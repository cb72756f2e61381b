// cpu/tile_linux: Linux grants the tile registers only on request, once for the whole process and the threads it will have.
#include "cpu/cpu_internal.h"

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA of asm/prctl.h since Linux 5.16

bool cpu_tile_permission(void) { return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0; }
#else
bool cpu_tile_permission(void) { return false; }
#endif
