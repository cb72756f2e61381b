// What os_darwin.c uses of it under another name than here.
#include_next <sys/stat.h>
#define st_mtimespec st_mtim
