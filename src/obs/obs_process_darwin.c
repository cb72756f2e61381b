// obs/obs_process on macOS: numbers of this process, from getrusage and proc_pidinfo. What cannot be read is left out. It has never run: see docs/ARCHITECTURE.md.
#if defined(__APPLE__)
#include <libproc.h>
#include <sys/proc_info.h>
#include <sys/resource.h>
#include <unistd.h>

#include "obs/obs_internal.h"

void obs_render_process(strbuf *out) {
    struct rusage ru;
    if (!getrusage(RUSAGE_SELF, &ru))
        obs_put_process(out, "process_cpu_seconds_total", "counter", "Processor time used.",
                        (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) + 1e-6 * (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec));
    struct proc_taskinfo task;
    if (proc_pidinfo(getpid(), PROC_PIDTASKINFO, 0, &task, sizeof task) == (int)sizeof task)
        obs_put_process(out, "process_resident_memory_bytes", "gauge", "Resident memory.", (double)task.pti_resident_size);
    int bytes = proc_pidinfo(getpid(), PROC_PIDLISTFDS, 0, NULL, 0); // of a table with some room to spare
    struct proc_fdinfo *fds = bytes > 0 ? mem_alloc((size_t)bytes) : NULL;
    if (fds) {
        int used = proc_pidinfo(getpid(), PROC_PIDLISTFDS, 0, fds, bytes);
        if (used > 0) obs_put_process(out, "process_open_fds", "gauge", "Open file descriptors.", used / (int)sizeof *fds);
        mem_free(fds);
    }
    struct rlimit rl;
    if (!getrlimit(RLIMIT_NOFILE, &rl)) obs_put_process(out, "process_max_fds", "gauge", "File descriptors that may be open.", (double)rl.rlim_cur);
    struct proc_bsdinfo bsd;
    if (proc_pidinfo(getpid(), PROC_PIDTBSDINFO, 0, &bsd, sizeof bsd) == (int)sizeof bsd)
        obs_put_process(out, "process_start_time_seconds", "gauge", "Start of the process, Unix seconds.", (double)bsd.pbi_start_tvsec + 1e-6 * (double)bsd.pbi_start_tvusec);
}
#endif
