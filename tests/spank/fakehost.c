/* A Slurm that consists of a script: loads the plugin, calls the hooks it is told to, and prints what the plugin does.
 *
 * Commands on stdin, one a line:
 *   context remote|job_script|slurmd|local|allocator    what spank_context() says
 *   item job|uid|gid|step|task N                        what spank_get_item() knows; others are not available
 *   env NAME=VALUE                                      the job's environment
 *   environ NAME=VALUE                                  this process' own
 *   become UID                                          go on as that user
 *   arg TEXT                                            one argument of the plugstack.conf line
 *   option ARGUMENT                                     --auks=ARGUMENT was given (no argument: --auks); printed if refused
 *   options                                             print what options Slurm was told of
 *   getenv NAME                                         print this process' own variable
 *   call HOOK                                           slurm_spank_HOOK
 * Printed: `setenv NAME=VALUE` and `setenv-kept NAME` (exists, not to be overwritten), `log TEXT` (to the user),
 * `control NAME=VALUE` (the prolog will see SPANK_NAME), `sync`, `error TEXT`, `info TEXT` (to slurmd's log), `HOOK = N`, and `leaked N` when a hook left file descriptors open.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <slurm/spank.h>

struct spank_handle {
    spank_context_t context;
    struct {
        int known;
        uint32_t value;
    } items[64];
    char *environment[16];
};

static struct spank_handle job;

spank_context_t spank_context(void)
{
    return job.context;
}

spank_err_t spank_get_item(spank_t spank, spank_item_t item, ...)
{
    va_list arguments;

    if (!spank->items[item].known)
        return ESPANK_NOT_AVAIL;
    va_start(arguments, item);
    *va_arg(arguments, uint32_t *) = spank->items[item].value;
    va_end(arguments);
    return ESPANK_SUCCESS;
}

static char **find(spank_t spank, const char *name)
{
    char **slot = spank->environment;
    size_t length = strlen(name);

    while (*slot && (strncmp(*slot, name, length) || (*slot)[length] != '='))
        slot++;
    return slot;
}

spank_err_t spank_getenv(spank_t spank, const char *name, char *buffer, int size)
{
    char **slot = find(spank, name);

    if (!*slot)
        return ESPANK_ENV_NOEXIST;
    return snprintf(buffer, (size_t)size, "%s", *slot + strlen(name) + 1) < size ? ESPANK_SUCCESS : ESPANK_NOSPACE;
}

spank_err_t spank_setenv(spank_t spank, const char *name, const char *value, int overwrite)
{
    char **slot = find(spank, name);

    if (*slot && !overwrite) {
        printf("setenv-kept %s\n", name);
        return ESPANK_ENV_EXISTS;
    }
    free(*slot);
    if (asprintf(slot, "%s=%s", name, value) < 0)
        abort();
    printf("setenv %s\n", *slot);
    return ESPANK_SUCCESS;
}

static struct spank_option *registered;
static char *given; /* what spank_option_getopt knows in the job_script context */

spank_err_t spank_option_getopt(spank_t spank, struct spank_option *option, char **argument)
{
    (void)option;
    if (spank->context != S_CTX_JOB_SCRIPT || !given || registered) /* Slurm finds a registered one without its value */
        return ESPANK_ERROR;
    *argument = given;
    return ESPANK_SUCCESS;
}

spank_err_t spank_job_control_setenv(spank_t spank, const char *name, const char *value, int overwrite)
{
    (void)overwrite;
    if (spank->context != S_CTX_LOCAL && spank->context != S_CTX_ALLOCATOR)
        return ESPANK_NOT_LOCAL;
    printf("control %s=%s\n", name, value);
    return ESPANK_SUCCESS;
}

spank_err_t spank_option_register(spank_t spank, struct spank_option *option)
{
    (void)spank;
    registered = option;
    return ESPANK_SUCCESS;
}

void sync(void)
{
    printf("sync\n");
}

#define LOGGER(function, label)                 \
    void function(const char *format, ...)      \
    {                                           \
        va_list arguments;                      \
        va_start(arguments, format);            \
        printf(label " ");                      \
        vprintf(format, arguments);             \
        printf("\n");                           \
        va_end(arguments);                      \
    }
LOGGER(slurm_error, "error")
LOGGER(slurm_info, "info")
LOGGER(slurm_debug, "debug")
LOGGER(slurm_spank_log, "log")

static int open_files(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;

    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

static void call(void *plugin, const char *hook, int ac, char **av)
{
    char symbol[64];
    spank_f *function;
    int before = open_files(), result, after;

    snprintf(symbol, sizeof symbol, "slurm_spank_%s", hook);
    *(void **)&function = dlsym(plugin, symbol);
    if (!function) {
        printf("%s is not exported\n", symbol);
        return;
    }
    result = function(&job, ac, av);
    printf("%s = %d\n", hook, result);
    after = open_files();
    if (after != before)
        printf("leaked %d\n", after - before);
}

/* As Slurm does: init comes first, then the callback where options are parsed; getopt where there is a job's prolog. */
static void give_option(void *plugin, const char *argument, int ac, char **av)
{
    spank_f *init;

    *(void **)&init = dlsym(plugin, "slurm_spank_init");
    if (!registered)
        init(&job, ac, av);
    if (job.context == S_CTX_JOB_SCRIPT)
        given = strdup(argument ? argument : "");
    else if (!registered)
        printf("unrecognized option\n");
    else if (registered->cb(registered->val, argument, job.context == S_CTX_REMOTE))
        printf("option refused\n");
}

static void set_context(const char *name)
{
    job.context = !strcmp(name, "remote")       ? S_CTX_REMOTE
                  : !strcmp(name, "job_script") ? S_CTX_JOB_SCRIPT
                  : !strcmp(name, "slurmd")     ? S_CTX_SLURMD
                  : !strcmp(name, "local")      ? S_CTX_LOCAL
                  : !strcmp(name, "allocator")  ? S_CTX_ALLOCATOR
                                                : S_CTX_ERROR;
}

static void set_item(char *text)
{
    const char *name = strsep(&text, " ");
    spank_item_t item = !strcmp(name, "job")    ? S_JOB_ID
                        : !strcmp(name, "uid")  ? S_JOB_UID
                        : !strcmp(name, "gid")  ? S_JOB_GID
                        : !strcmp(name, "step") ? S_JOB_STEPID
                                                : S_TASK_GLOBAL_ID;

    job.items[item].known = 1;
    job.items[item].value = (uint32_t)strtoul(text, NULL, 0);
}

static void become(const char *text)
{
    uid_t uid = (uid_t)strtoul(text, NULL, 10);

    if (setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
        abort();
    prctl(PR_SET_DUMPABLE, 1); /* the leak checker attaches to us */
}

int main(int ac, char **av)
{
    void *plugin = dlopen(av[ac - 1], RTLD_NOW | RTLD_LOCAL);
    char line[2048], *arguments[32];
    int count = 0;

    setvbuf(stdout, NULL, _IONBF, 0);
    if (!plugin) {
        printf("cannot load: %s\n", dlerror());
        return 1;
    }
    while (fgets(line, sizeof line, stdin)) {
        char *rest = line;
        line[strcspn(line, "\n")] = '\0';
        const char *command = strsep(&rest, " ");

        if (!strcmp(command, "context"))
            set_context(rest);
        else if (!strcmp(command, "item"))
            set_item(rest);
        else if (!strcmp(command, "env"))
            *find(&job, rest) = strdup(rest);
        else if (!strcmp(command, "environ"))
            putenv(strdup(rest));
        else if (!strcmp(command, "become"))
            become(rest);
        else if (!strcmp(command, "option"))
            give_option(plugin, rest, count, arguments);
        else if (!strcmp(command, "options"))
            printf("%s\n", registered ? registered->name : "no options");
        else if (!strcmp(command, "getenv"))
            printf("%s=%s\n", rest, getenv(rest) ? getenv(rest) : "(unset)");
        else if (!strcmp(command, "arg"))
            arguments[count++] = strdup(rest);
        else if (!strcmp(command, "call"))
            call(plugin, rest, count, arguments);
        else
            printf("unknown command: %s\n", command);
    }
    free(given);
    while (count)
        free(arguments[--count]);
    for (char **slot = job.environment; *slot; slot++)
        free(*slot);
    dlclose(plugin);
    return 0;
}
