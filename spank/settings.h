/* The arguments of our line in plugstack.conf, those of the plugin it replaces included. */
#ifndef HIPERCOW_SLURM_SETTINGS_H
#define HIPERCOW_SLURM_SETTINGS_H

#include <stdbool.h>
#include <sys/types.h>

enum policy { POLICY_ALLOW, POLICY_WARN, POLICY_REQUIRE };
enum mode { MODE_OFF, MODE_ON, MODE_DONE }; /* DONE: on, and the ticket is in the cache already */
enum sync { SYNC_NO, SYNC_STEP, SYNC_TASK };

struct settings {
    const char *socket;     /* of the node's agent */
    const char *uploader;   /* program a login node runs at submit; NULL: none */
    const char *conf;       /* the uploader's configuration; NULL: its default */
    int timeout_ms;         /* the longest any hook may wait */
    int fresh_s;            /* how long an upload of an unchanged ccache counts; 0: upload every time */
    uid_t minimum_uid;      /* below it we do nothing */
    enum policy unanswered; /* policy when the agent does not answer; otherwise the agent's own counts */
    enum policy submit;     /* what a submission is worth whose ticket could not be handed over */
    enum mode by_default;   /* of jobs that say neither --auks nor SLURM_SPANK_AUKS */
    enum sync sync;         /* write dirty pages when a step (or each of its tasks) ends, while the ticket lives */
    bool stack;             /* show KRB5CCNAME to the plugins after us too */
};

/* Fills in defaults, then the arguments. Logs each argument it does not understand and returns how many there
 * were; the others still count. The strings are borrowed from av. */
int settings_read(struct settings *settings, int ac, char **av);

/* 0, or -1 if name is no policy. */
int policy_parse(const char *name, enum policy *policy);

/* `yes`, `no` or `done`, or nothing at all for yes: 0, or -1 if it is none of them. */
int mode_parse(const char *name, enum mode *mode);

#endif
