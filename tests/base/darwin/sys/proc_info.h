// What src/ uses of macOS's <sys/proc_info.h>, for test_darwin.sh.
#include <stdint.h>
enum { PROC_PIDLISTFDS = 1, PROC_PIDTBSDINFO = 3, PROC_PIDTASKINFO = 4 };
struct proc_fdinfo { int32_t proc_fd; uint32_t proc_fdtype; };
struct proc_taskinfo { uint64_t pti_virtual_size, pti_resident_size; };
struct proc_bsdinfo { uint64_t pbi_start_tvsec, pbi_start_tvusec; };
