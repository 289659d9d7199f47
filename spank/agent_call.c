#define _GNU_SOURCE /* struct ucred */
#include "agent_call.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static long long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* 0 once fd is ready (or broken: the next call on it tells), -1 and errno otherwise. */
static int wait_for(int fd, short events, long long deadline)
{
    for (;;) {
        struct pollfd entry = {.fd = fd, .events = events};
        long long left = deadline - now_ms();
        int ready = left > 0 ? poll(&entry, 1, (int)left) : 0;

        if (ready > 0)
            return 0;
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready == 0)
            errno = ETIMEDOUT;
        return -1;
    }
}

/* A full backlog answers EAGAIN at once and cannot be polled for, so it is asked again until the deadline. */
static int connect_until(int fd, const struct sockaddr_un *address, long long deadline)
{
    while (connect(fd, (const struct sockaddr *)address, sizeof *address)) {
        if (errno != EAGAIN && errno != EINTR)
            return -1;
        if (now_ms() >= deadline) {
            errno = ETIMEDOUT;
            return -1;
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    return 0;
}

/* Only root's agent (or, in a test, our own) may tell a job where its ticket is. */
static int peer_is_trusted(int fd)
{
    struct ucred peer;
    socklen_t size = sizeof peer;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size))
        return -1;
    if (peer.uid == 0 || peer.uid == geteuid())
        return 0;
    errno = EACCES;
    return -1;
}

static int send_all(int fd, const char *data, size_t size, long long deadline)
{
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);

        if (sent > 0) {
            data += sent;
            size -= (size_t)sent;
        } else if (sent < 0 && errno != EINTR && (errno != EAGAIN || wait_for(fd, POLLOUT, deadline))) {
            return -1;
        }
    }
    return 0;
}

static int receive_line(int fd, char reply[AGENT_REPLY_SIZE], long long deadline)
{
    size_t have = 0;

    while (have < AGENT_REPLY_SIZE - 1) {
        ssize_t got = recv(fd, reply + have, AGENT_REPLY_SIZE - 1 - have, 0);

        if (got == 0) {
            errno = ECONNRESET;
            return -1;
        }
        if (got < 0) {
            if (errno != EINTR && (errno != EAGAIN || wait_for(fd, POLLIN, deadline)))
                return -1;
            continue;
        }
        char *end = memchr(reply + have, '\n', (size_t)got);
        if (end) {
            *end = '\0';
            return 0;
        }
        have += (size_t)got;
        if (now_ms() >= deadline) { /* a peer that drips bytes never lets recv wait */
            errno = ETIMEDOUT;
            return -1;
        }
    }
    errno = EMSGSIZE;
    return -1;
}

int agent_call(const char *socket_path, int timeout_ms, const char *request, char reply[AGENT_REPLY_SIZE])
{
    long long deadline = now_ms() + timeout_ms;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, failed = -1;

    if (strlen(socket_path) >= sizeof address.sun_path) {
        snprintf(reply, AGENT_REPLY_SIZE, "the path of its socket is too long");
        return -1;
    }
    memcpy(address.sun_path, socket_path, strlen(socket_path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        failed = connect_until(fd, &address, deadline) || peer_is_trusted(fd) ||
                 send_all(fd, request, strlen(request), deadline) || receive_line(fd, reply, deadline);
    if (failed)
        snprintf(reply, AGENT_REPLY_SIZE, "%s: %s", socket_path, strerror(errno));
    if (fd >= 0)
        close(fd);
    for (char *c = reply; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = ' ';
    return failed ? -1 : 0;
}
