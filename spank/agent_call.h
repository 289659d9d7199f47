/* One request to the node's agent, one line back, within a deadline. */
#ifndef HIPERCOW_SLURM_AGENT_CALL_H
#define HIPERCOW_SLURM_AGENT_CALL_H

#include <stddef.h>

/* The agent answers in at most 512 bytes, newline included. */
#define AGENT_REPLY_SIZE 513

/* Sends request (newline included) and reads one line.
 * Returns 0 with the line in reply, without its newline and with control characters blanked;
 * or -1 with the reason there, fit for the end of a sentence. Never waits longer than timeout_ms. */
int agent_call(const char *socket_path, int timeout_ms, const char *request, char reply[AGENT_REPLY_SIZE]);

#endif
