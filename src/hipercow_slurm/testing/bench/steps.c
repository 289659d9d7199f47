/* Launches at a fixed rate through the real SPANK plugin, whether or not those before are done. No Slurm: a launch is what
 * slurmd does with plugins, each process forked, the plugin loaded in it and its hooks called.
 *
 *   steps PLUGIN KIND RATE COUNT FIRST_JOB FIRST_UID JOBS ARGUMENT...
 *
 * PLUGIN "-": the same processes, nothing loaded. KIND: step (slurmstepd's hooks alone; its job runs already, one of JOBS),
 * or job (the prolog's process, slurmstepd, the epilog's process; a job of its own, of one of JOBS users).
 * ARGUMENTs: those of the plugstack.conf line. Prints one line of JSON: "ms" of all hooks of each launch, "cpu_s" of all
 * processes, "late_ms" how far behind its time the last launch began, "failed" launches whose steps have no KRB5CCNAME.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <slurm/spank.h>

struct spank_handle {
    spank_context_t context;
    uint32_t job, uid;
    int ticket;
};

static struct spank_handle launch;

spank_context_t spank_context(void)
{
    return launch.context;
}

spank_err_t spank_get_item(spank_t spank, spank_item_t item, ...)
{
    uint32_t value = item == S_JOB_ID ? spank->job : item == S_JOB_UID || item == S_JOB_GID ? spank->uid : 0;
    va_list arguments;

    va_start(arguments, item);
    *va_arg(arguments, uint32_t *) = value;
    va_end(arguments);
    return ESPANK_SUCCESS;
}

spank_err_t spank_getenv(spank_t spank, const char *name, char *buffer, int size)
{
    (void)spank, (void)name, (void)buffer, (void)size;
    return ESPANK_ENV_NOEXIST;
}

spank_err_t spank_setenv(spank_t spank, const char *name, const char *value, int overwrite)
{
    (void)value, (void)overwrite;
    spank->ticket = !strcmp(name, "KRB5CCNAME");
    return ESPANK_SUCCESS;
}

spank_err_t spank_option_getopt(spank_t spank, struct spank_option *option, char **argument)
{
    (void)spank, (void)option, (void)argument;
    return ESPANK_ERROR;
}

spank_err_t spank_option_register(spank_t spank, struct spank_option *option)
{
    (void)spank, (void)option;
    return ESPANK_SUCCESS;
}

spank_err_t spank_job_control_setenv(spank_t spank, const char *name, const char *value, int overwrite)
{
    (void)spank, (void)name, (void)value, (void)overwrite;
    return ESPANK_NOT_LOCAL;
}

#define QUIET(function) \
    void function(const char *format, ...) { (void)format; }
QUIET(slurm_error)
QUIET(slurm_info)
QUIET(slurm_debug)
QUIET(slurm_spank_log)

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* One process of Slurm's: the plugin is loaded, and these hooks, separated by blanks, are called; seconds that took. */
static double hooks(const char *file, spank_context_t context, const char *names, int ac, char **av)
{
    double began = now();
    char list[128], symbol[64], *rest = list, *name;
    spank_f *hook;
    void *plugin;

    if (!strcmp(file, "-"))
        return 0;
    launch.context = context;
    if (!(plugin = dlopen(file, RTLD_NOW | RTLD_LOCAL)))
        _exit(3);
    snprintf(list, sizeof list, "%s", names);
    while ((name = strsep(&rest, " "))) {
        snprintf(symbol, sizeof symbol, "slurm_spank_%s", name);
        *(void **)&hook = dlsym(plugin, symbol);
        if (hook && hook(&launch, ac, av))
            _exit(4);
    }
    return now() - began;
}

/* The same in a process of its own, as slurmd does for prolog and epilog. */
static double forked(const char *file, const char *names, int ac, char **av)
{
    double took = 0;
    int ends[2];
    pid_t child;

    if (pipe(ends) || (child = fork()) < 0)
        _exit(5);
    if (!child) {
        took = hooks(file, S_CTX_JOB_SCRIPT, names, ac, av);
        _exit(write(ends[1], &took, sizeof took) != sizeof took);
    }
    if (read(ends[0], &took, sizeof took) != sizeof took || waitpid(child, NULL, 0) != child)
        _exit(6);
    return took;
}

struct result {
    double ms;
    int ticket;
};

static void one(const char *file, int whole, int report, int ac, char **av)
{
    struct result result = {0, 0};

    if (whole)
        result.ms += forked(file, "job_prolog", ac, av);
    result.ms += hooks(file, S_CTX_REMOTE, "init init_post_opt task_init_privileged task_exit exit", ac, av);
    result.ticket = launch.ticket;
    if (whole)
        result.ms += forked(file, "job_epilog", ac, av);
    result.ms *= 1e3;
    _exit(write(report, &result, sizeof result) != sizeof result);
}

int main(int ac, char **av)
{
    if (ac < 8)
        return 2;
    const char *file = av[1];
    int whole = !strcmp(av[2], "job"), ends[2], failed = 0;
    double rate = atof(av[3]), late = 0, begin = now();
    uint32_t count = (uint32_t)atoi(av[4]), first = (uint32_t)strtoul(av[5], NULL, 10), uid = (uint32_t)atoi(av[6]);
    uint32_t jobs = (uint32_t)atoi(av[7]);
    struct rusage used;
    struct result result;

    if (pipe(ends) || fcntl(ends[1], F_SETPIPE_SZ, (int)(count * sizeof result)) < 0) /* nobody reads before the end */
        return 1;
    for (uint32_t number = 0; number < count; number++) {
        double wait = begin + number / rate - now();
        if (wait > 0)
            usleep((useconds_t)(wait * 1e6));
        late = now() - begin - number / rate;
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        launch.job = first + (whole ? number : number % jobs);
        launch.uid = uid + number % jobs;
        if (!fork())
            one(file, whole, ends[1], ac - 8, av + 8);
    }
    while (waitpid(-1, NULL, 0) > 0)
        ;
    close(ends[1]);
    getrusage(RUSAGE_CHILDREN, &used);
    printf("{\"ms\": [");
    for (uint32_t number = 0; read(ends[0], &result, sizeof result) == sizeof result; number++) {
        printf("%s%.4f", number ? ", " : "", result.ms);
        failed += !result.ticket;
    }
    printf("], \"cpu_s\": %.4f, \"late_ms\": %.2f, \"failed\": %d}\n",
           (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6,
           late * 1e3, failed);
    return 0;
}
