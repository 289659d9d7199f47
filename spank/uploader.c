#include "uploader.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <slurm/spank.h>

/* stdin is the job script of `sbatch` and stdout what `sbatch --parsable` promises to scripts: the uploader gets
 * neither. srun blocks signals in itself; a child that inherits that could not be interrupted. */
static void become(const struct settings *settings)
{
    const char *program = settings->uploader;
    char seconds[16];
    char *const arguments[] = {(char *)program, "upload", "--quiet", "--stamp", seconds,
                               settings->conf ? "--config" : NULL, (char *)settings->conf, NULL};
    sigset_t none;
    int null = open("/dev/null", O_RDWR);

    snprintf(seconds, sizeof seconds, "%d", settings->fresh_s);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 ||
        dup2(settings->submit == POLICY_ALLOW ? null : STDERR_FILENO, STDOUT_FILENO) < 0 ||
        dup2(STDOUT_FILENO, STDERR_FILENO) < 0)
        _exit(126);
    if (null > STDERR_FILENO)
        close(null);
    execv(program, arguments);
    _exit(127);
}

/* The wait status, or -1 if the time was over and the child had to be killed. */
static int reap(pid_t child, int timeout_ms)
{
    const struct timespec pause = {.tv_nsec = 4000000};
    struct timespec start, now;
    int status;

    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        pid_t done = waitpid(child, &status, WNOHANG);

        if (done == child)
            return status;
        if (done < 0 && errno != EINTR)
            return 0; /* the host program has reaped it: nothing more can be known */
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 >= timeout_ms)
            break;
        nanosleep(&pause, NULL);
    }
    kill(child, SIGKILL);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return -1;
}

int uploader_run(const struct settings *settings)
{
    bool refuse = settings->submit == POLICY_REQUIRE;
    const char *then = refuse ? "the job is not submitted" : "the job may start without one";
    pid_t child = fork();
    int status;

    if (child == 0)
        become(settings);
    status = child < 0 ? -1 : reap(child, settings->timeout_ms);
    if (status == 0)
        return 0;
    if (settings->submit == POLICY_ALLOW)
        return -1;
    if (child < 0)
        slurm_spank_log("hipercow-slurm: cannot start %s: %s", settings->uploader, strerror(errno));
    else if (status < 0)
        slurm_spank_log("hipercow-slurm: your ticket was not handed to the credential cache within %d ms; %s",
                        settings->timeout_ms, then);
    else if (WIFEXITED(status) && WEXITSTATUS(status) >= 126)
        slurm_spank_log("hipercow-slurm: cannot run %s; %s", settings->uploader,
                        refuse ? then : "the job may start without a ticket");
    else
        slurm_spank_log("hipercow-slurm: your ticket was not handed to the credential cache; %s "
                        "(kinit, then: hipercow-slurm upload)",
                        then);
    return -1;
}
