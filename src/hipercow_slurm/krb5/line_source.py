"""The C of ``line.py``, for the compiled module: asking over the socket, and no more than that."""

from __future__ import annotations

DECLARATIONS = """
typedef struct { int32_t fd; uint32_t limit; uint32_t answered; int32_t silent; char realm[256]; } hipercow_slurm_line;
"""

SOURCE = r"""
#include <errno.h>
#include <krb5.h>
#include <profile.h>
#include <string.h>
#include <sys/socket.h>

/* fd: a connected UDP socket with a time-out, -1 if there is none (any more). limit: of requests, in octets.
 * answered: how many. silent: 1 if it was closed because nothing came. */
typedef struct {
    int32_t fd;
    uint32_t limit;
    uint32_t answered;
    int32_t silent;
    char realm[256];
} hipercow_slurm_line;

enum { HIPERCOW_SLURM_ANSWER = 32768, HIPERCOW_SLURM_TGS_REP = 0x6d, HIPERCOW_SLURM_UNINVITED = 16 };

/* What the KDC answers; 0: nothing that can be of use. */
static size_t
asked_over(const hipercow_slurm_line *line, const krb5_data *message, char *answer)
{
    ssize_t got;
    for (int old = 0; recv(line->fd, answer, 1, MSG_DONTWAIT) >= 0; old++)
        if (old == HIPERCOW_SLURM_UNINVITED)
            return 0;
    if (errno != EAGAIN && errno != EWOULDBLOCK)
        return 0;
    if (send(line->fd, message->data, message->length, MSG_NOSIGNAL) != (ssize_t)message->length)
        return 0;
    got = recv(line->fd, answer, HIPERCOW_SLURM_ANSWER, 0);
    return got > 0 && got < HIPERCOW_SLURM_ANSWER ? (size_t)got : 0;
}

/* A krb5_pre_send_fn: the answer, if the line has one that says yes. Otherwise the line ends here. */
static krb5_error_code
over_line(krb5_context context, void *data, const krb5_data *realm, const krb5_data *message,
          krb5_data **new_message, krb5_data **reply)
{
    hipercow_slurm_line *line = data;
    char answer[HIPERCOW_SLURM_ANSWER];
    krb5_data found = { 0, 0, answer };
    *new_message = *reply = NULL;
    if (line->fd < 0 || message->length > line->limit || realm->length != strlen(line->realm)
        || memcmp(realm->data, line->realm, realm->length))
        return 0;
    found.length = (unsigned int)asked_over(line, message, answer);
    if (found.length && (unsigned char)answer[0] == HIPERCOW_SLURM_TGS_REP) {
        line->answered++;
        return krb5_copy_data(context, &found, reply);
    }
    line->silent = found.length == 0;
    line->fd = -1;
    return 0;
}
"""
