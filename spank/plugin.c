/* The SPANK plugin: which hook does what, in which context. Everything Kerberos is the agent's.
 *
 *   context     hook                    runs as  does
 *   slurmd      init                    root     refuses to start on a wrong plugstack.conf line
 *   others but  init                    any      make --auks known
 *   job_script
 *   job_script  job_prolog, job_epilog  root     start, end: once per job and node; never fails (a failure drains the node)
 *   remote      init_post_opt           root     asks for the ccache, sets KRB5CCNAME; never fails (the job would
 *                                                look COMPLETED without having run)
 *   remote      task_init_privileged    root     the one place that may refuse: the job FAILs, the node is fine
 *   remote      task_exit, exit         root     sync=: dirty pages are written while the ticket is there
 *   local,      init_post_opt           user     runs the uploader; may refuse the submission (submit=require)
 *   allocator
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent_call.h"
#include "settings.h"
#include "stamp.h"
#include "uploader.h"

#pragma GCC visibility push(default) /* what Slurm looks up; exports.map hides the rest */
#include <slurm/spank.h>
SPANK_PLUGIN(hipercow_slurm, 1)
#pragma GCC visibility pop

static int on_option(int val, const char *optarg, int remote);

/* Registered, not exported as the table `spank_options`: sbatch and salloc do not read that (spank.h), and a prolog that has
 * read it is told by spank_option_getopt that the option was not given, without a further look (src/common/spank.c). */
static struct spank_option auks_option = {
    "auks", "[yes|no|done]", "Kerberos ticket for this job: yes, no, or done (the cache has it already)", 2, 0, on_option,
};

/* How SLURM_SPANK_AUKS reaches the prolog: not with the job's environment; Slurm puts SPANK_ before the name. */
#define CONTROL "HIPERCOW_SLURM_AUKS"
#define BATCH_STEP 0xfffffffbu /* SLURM_BATCH_SCRIPT of slurm.h */

/* What init_post_opt learned, for the tasks of this step: slurmstepd is one process per step and forks them. */
static struct {
    bool missing;
    enum policy policy;
    char why[AGENT_REPLY_SIZE];
} ticket;

/* --auks, if it was given; one process handles one submission or one step. */
static struct {
    bool given;
    enum mode mode;
} option;

static bool syncing; /* this step has a ticket, and plugstack.conf says sync= */

static int on_option(int val, const char *argument, int remote)
{
    (void)val, (void)remote;
    if (mode_parse(argument, &option.mode)) {
        slurm_error("hipercow-slurm: --auks is yes, no or done, not %s", argument);
        return -1;
    }
    option.given = true;
    return 0;
}

/* --auks counts before SLURM_SPANK_AUKS, and that before plugstack.conf. As ever, an unknown word there means no. */
static enum mode mode_of(const struct settings *settings, const char *environment)
{
    enum mode mode;

    if (option.given)
        return option.mode;
    if (environment && *environment)
        return mode_parse(environment, &mode) ? MODE_OFF : mode;
    return settings->by_default;
}

struct job {
    uint32_t id;
    uid_t uid;
    gid_t gid;
};

static int job_of(spank_t spank, struct job *job)
{
    if (!spank_get_item(spank, S_JOB_ID, &job->id) && !spank_get_item(spank, S_JOB_UID, &job->uid) &&
        !spank_get_item(spank, S_JOB_GID, &job->gid))
        return 0;
    slurm_error("hipercow-slurm: Slurm does not say which job this is");
    return -1;
}

/* Asks `verb JOBID UID GID`; fills reply as agent_call does. */
static int ask(const struct settings *settings, const char *verb, const struct job *job, char *reply)
{
    char request[64];

    snprintf(request, sizeof request, "%s %u %u %u\n", verb, job->id, (unsigned)job->uid, (unsigned)job->gid);
    return agent_call(settings->socket, settings->timeout_ms, request, reply);
}

/* Cuts the next word off *text, as strsep, but says "" rather than NULL at the end. */
static const char *word(char **text)
{
    return *text ? strsep(text, " ") : "";
}

/* `ok CCACHE`, or `none POLICY CCACHE|- SENTENCE`: with `none` the ticket may still come, later, in that place.
 * A KRB5CCNAME that the user brought along is replaced by a ticket we have, not by one we hope for. */
static void set_ccache(spank_t spank, const struct settings *settings, int failed, char *reply)
{
    char *rest = reply;
    const char *verb, *name;
    bool ok, none;

    snprintf(ticket.why, sizeof ticket.why, "%s", reply);
    verb = word(&rest);
    ok = !failed && !strcmp(verb, "ok");
    none = !failed && !strcmp(verb, "none");
    ticket.policy = settings->unanswered;
    if (none && policy_parse(word(&rest), &ticket.policy))
        none = false;
    name = ok || none ? word(&rest) : "";
    ticket.missing = !ok || !*name;
    if (!*name) {
        slurm_error("hipercow-slurm: no usable answer from the agent: %s", ticket.why);
        snprintf(ticket.why, sizeof ticket.why, "the node's agent did not answer");
        return;
    }
    if (none)
        snprintf(ticket.why, sizeof ticket.why, "%s", rest ? rest : "the agent did not say why");
    if (strcmp(name, "-") && spank_setenv(spank, "KRB5CCNAME", name, ok))
        slurm_debug("hipercow-slurm: KRB5CCNAME stays as it is");
    if (settings->stack && ok)
        setenv("KRB5CCNAME", name, 1);
    syncing = ok && settings->sync != SYNC_NO;
}

static void remote_init(spank_t spank, const struct settings *settings)
{
    char reply[AGENT_REPLY_SIZE], environment[16] = "";
    struct job job;

    spank_getenv(spank, "SLURM_SPANK_AUKS", environment, sizeof environment);
    if (mode_of(settings, environment) == MODE_OFF)
        return;
    if (job_of(spank, &job) || job.uid < settings->minimum_uid)
        return;
    set_ccache(spank, settings, ask(settings, "ccache", &job, reply), reply);
}

/* -1: the submission is refused. */
static int submit_init(spank_t spank, const struct settings *settings)
{
    static const char *const words[] = {"no", "yes", "done"};
    const char *environment = getenv("SLURM_SPANK_AUKS");
    enum mode mode = mode_of(settings, environment);

    if (!option.given && environment && *environment && spank_job_control_setenv(spank, CONTROL, words[mode], 1))
        slurm_error("hipercow-slurm: the job's prolog will not know of SLURM_SPANK_AUKS");
    if (option.given) /* the option does not reach srun inside the job; the environment does */
        setenv("SLURM_SPANK_AUKS", words[mode], 1);
    /* srun inside a job: that job's own ticket is in the cache already, or its owner has none here to hand over */
    if (mode != MODE_ON || !settings->uploader || getuid() < settings->minimum_uid || getuid() != geteuid() ||
        getenv("SLURM_JOB_ID"))
        return 0;
    if (settings->fresh_s && stamp_is_fresh())
        return 0;
    return uploader_run(settings) && settings->submit == POLICY_REQUIRE ? -1 : 0;
}

/* Once per job: by the batch script, or by the first task of an srun that no batch script started. */
static bool speaks_for_job(spank_t spank)
{
    uint32_t task = 1, step = 0;
    char environment[8] = "";

    if (spank_get_item(spank, S_TASK_GLOBAL_ID, &task) || task || spank_get_item(spank, S_JOB_STEPID, &step))
        return false;
    if (step == BATCH_STEP)
        return true;
    return spank_getenv(spank, "ENVIRONMENT", environment, sizeof environment) || strcmp(environment, "BATCH");
}

int slurm_spank_init(spank_t spank, int ac, char **av)
{
    struct settings settings;
    spank_context_t context = spank_context();

    if ((context == S_CTX_LOCAL || context == S_CTX_ALLOCATOR || context == S_CTX_REMOTE) &&
        spank_option_register(spank, &auks_option))
        slurm_error("hipercow-slurm: Slurm does not take the option --auks");
    if (context != S_CTX_SLURMD)
        return 0; /* elsewhere a wrong line is logged by the hook that reads it, and harms no job */
    return settings_read(&settings, ac, av) ? -1 : 0;
}

int slurm_spank_job_prolog(spank_t spank, int ac, char **av)
{
    char reply[AGENT_REPLY_SIZE];
    struct settings settings;
    char *argument = NULL;
    struct job job;

    settings_read(&settings, ac, av);
    /* Here the job's environment is out of sight; a job from slurmrestd, where nobody told us of it, gets the ticket that
     * SLURM_SPANK_AUKS wants with its first step. */
    if (!option.given && !spank_option_getopt(spank, &auks_option, &argument) && on_option(0, argument, 1))
        return 0;
    if (mode_of(&settings, getenv("SPANK_" CONTROL)) == MODE_OFF || job_of(spank, &job) || job.uid < settings.minimum_uid)
        return 0;
    if (ask(&settings, "start", &job, reply))
        slurm_error("hipercow-slurm: the agent was not told that job %u starts: %s", job.id, reply);
    else if (strncmp(reply, "ok ", 3))
        slurm_info("hipercow-slurm: job %u starts without a ticket: %s", job.id, reply);
    return 0;
}

int slurm_spank_init_post_opt(spank_t spank, int ac, char **av)
{
    spank_context_t context = spank_context();
    struct settings settings;

    settings_read(&settings, ac, av);
    if (context == S_CTX_REMOTE)
        remote_init(spank, &settings);
    else if (context == S_CTX_LOCAL || context == S_CTX_ALLOCATOR)
        return submit_init(spank, &settings);
    return 0;
}

int slurm_spank_task_init_privileged(spank_t spank, int ac, char **av)
{
    (void)ac, (void)av;
    if (!ticket.missing || ticket.policy == POLICY_ALLOW)
        return 0;
    if (ticket.policy == POLICY_REQUIRE) {
        slurm_spank_log("hipercow-slurm: this job needs a Kerberos ticket and has none here: %s", ticket.why);
        return -1;
    }
    if (speaks_for_job(spank))
        slurm_spank_log("hipercow-slurm: warning: this job has no Kerberos ticket here: %s", ticket.why);
    return 0;
}

int slurm_spank_job_epilog(spank_t spank, int ac, char **av)
{
    char request[48], reply[AGENT_REPLY_SIZE];
    struct settings settings;
    struct job job;

    settings_read(&settings, ac, av);
    if (job_of(spank, &job) || job.uid < settings.minimum_uid)
        return 0;
    snprintf(request, sizeof request, "end %u %u\n", job.id, (unsigned)job.uid);
    if (agent_call(settings.socket, settings.timeout_ms, request, reply) || strcmp(reply, "ok"))
        slurm_error("hipercow-slurm: the agent was not told that job %u ended: %s", job.id, reply);
    return 0;
}

int slurm_spank_task_exit(spank_t spank, int ac, char **av)
{
    struct settings settings;

    (void)spank;
    if (syncing && !settings_read(&settings, ac, av) && settings.sync == SYNC_TASK)
        sync();
    return 0;
}

int slurm_spank_exit(spank_t spank, int ac, char **av)
{
    (void)spank, (void)ac, (void)av;
    if (syncing && spank_context() == S_CTX_REMOTE)
        sync();
    return 0;
}
