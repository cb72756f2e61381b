// What src/ uses of macOS's <libproc.h>, for test_darwin.sh.
int proc_pidinfo(int pid, int flavor, unsigned long long arg, void *buffer, int size);
