/* On a login node: hand the submitting user's own ticket to the credential cache. */
#ifndef HIPERCOW_SLURM_UPLOADER_H
#define HIPERCOW_SLURM_UPLOADER_H

#include "settings.h"

/* Runs `UPLOADER upload --quiet --stamp FRESH_S [--config CONF]` as the calling user and waits at most timeout_ms; then
 * it is killed. Returns 0 if it exited with 0; otherwise -1, and says so in one sentence to the user if policy submit
 * is not `allow`. */
int uploader_run(const struct settings *settings);

#endif
