// obs/obs_process_linux: numbers of this process, from /proc. What cannot be read is left out.
#if defined(__linux__)
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "obs/obs_internal.h"

void obs_render_process(strbuf *out) {
    struct rusage ru;
    if (!getrusage(RUSAGE_SELF, &ru))
        obs_put_process(out, "process_cpu_seconds_total", "counter", "Processor time used.",
            (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) + 1e-6 * (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec));
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        long size, resident;
        if (fscanf(f, "%ld %ld", &size, &resident) == 2)
            obs_put_process(out, "process_resident_memory_bytes", "gauge", "Resident memory.", (double)resident * (double)sysconf(_SC_PAGESIZE));
        fclose(f);
    }
    DIR *d = opendir("/proc/self/fd");
    if (d) {
        int n = -1; // the directory itself
        for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
        closedir(d);
        obs_put_process(out, "process_open_fds", "gauge", "Open file descriptors.", n);
    }
    struct rlimit rl;
    if (!getrlimit(RLIMIT_NOFILE, &rl)) obs_put_process(out, "process_max_fds", "gauge", "File descriptors that may be open.", (double)rl.rlim_cur);
    // Field 22 of stat is the start in ticks since boot; the name in field 2 may hold spaces and brackets.
    char text[1024];
    f = fopen("/proc/self/stat", "re");
    if (f) {
        size_t n = fread(text, 1, sizeof text - 1, f);
        text[n] = 0;
        fclose(f);
        char *p = strrchr(text, ')');
        for (int field = 2; p && field < 22; field++) p = strchr(p + 1, ' ');
        struct timespec now, boot;
        if (p && !clock_gettime(CLOCK_REALTIME, &now) && !clock_gettime(CLOCK_BOOTTIME, &boot))
            obs_put_process(out, "process_start_time_seconds", "gauge", "Start of the process, Unix seconds.",
                (double)(now.tv_sec - boot.tv_sec) + strtod(p, NULL) / (double)sysconf(_SC_CLK_TCK));
    }
}
#endif
