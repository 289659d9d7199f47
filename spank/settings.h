/* The arguments of our line in plugstack.conf. */
#ifndef HIPERCOW_SLURM_SETTINGS_H
#define HIPERCOW_SLURM_SETTINGS_H

#include <sys/types.h>

enum policy { POLICY_ALLOW, POLICY_WARN, POLICY_REQUIRE };

struct settings {
    const char *socket;     /* of the node's agent */
    const char *uploader;   /* program a login node runs at submit; NULL: none */
    int timeout_ms;         /* the longest any hook may wait */
    uid_t minimum_uid;      /* below it we do nothing */
    enum policy unanswered; /* policy when the agent does not answer; otherwise the agent's own counts */
};

/* Fills in defaults, then the arguments. Logs each argument it does not understand and returns how many there
 * were; the others still count. The strings are borrowed from av. */
int settings_read(struct settings *settings, int ac, char **av);

/* 0, or -1 if name is no policy. */
int policy_parse(const char *name, enum policy *policy);

#endif
