/* On a login node: hand the submitting user's own ticket to the credential cache. */
#ifndef HIPERCOW_SLURM_UPLOADER_H
#define HIPERCOW_SLURM_UPLOADER_H

/* Runs `program upload --quiet` as the calling user and waits at most timeout_ms; then it is killed.
 * Returns 0 if it exited with 0; otherwise prints one sentence to the user and returns -1. */
int uploader_run(const char *program, int timeout_ms);

#endif
