/* LD_PRELOAD: asking for the account "backup" takes as long as a directory server that is gone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

int getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t size, struct passwd **result)
{
    int (*real)(const char *, struct passwd *, char *, size_t, struct passwd **) = dlsym(RTLD_NEXT, "getpwnam_r");
    if (strcmp(name, "backup") == 0)
        sleep(600);
    return real(name, entry, buffer, size, result);
}
