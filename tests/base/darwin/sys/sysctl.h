// What src/ uses of macOS's <sys/sysctl.h>, and of its <pthread.h> and <sys/random.h> beyond this system's, for test_darwin.sh.
#include <pthread.h>
#include <stddef.h>
int sysctlbyname(const char *name, void *old, size_t *old_size, void *value, size_t size);
int pthread_cond_timedwait_relative_np(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *left);
