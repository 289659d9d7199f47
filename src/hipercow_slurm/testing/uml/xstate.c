/* Lets the User-Mode Linux of Debian 12 run on processors with AMX: preloaded into it by user-mode.sh.
 *
 * UML moves its processes' floating-point state with PTRACE_GETREGSET and PTRACE_SETREGSET and a buffer of 2696 bytes, as
 * much as AVX-512 needs. Linux takes nothing but the whole of it (arch/x86/kernel/fpu/regset.c, xstateregs_set: -EFAULT),
 * which with AMX is 11008 bytes; so the first process of the guest was the last. Here the rest is added: as it is in the
 * traced process, for nothing in the guest uses it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#define HEADER 512 /* where the XSAVE header begins; its first eight bytes say which parts are there */

typedef long (*ptrace_f)(int request, pid_t pid, void *address, void *data);

static long set_whole(ptrace_f real, pid_t pid, void *kind, const struct iovec *given)
{
    static __thread char whole[64 * 1024] __attribute__((aligned(64)));
    struct iovec all = {whole, sizeof whole};

    if (real(PTRACE_GETREGSET, pid, kind, &all) || all.iov_len <= given->iov_len || given->iov_len < HEADER + 64) {
        errno = EFAULT;
        return -1;
    }
    memcpy(whole, given->iov_base, given->iov_len);
    return real(PTRACE_SETREGSET, pid, kind, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
    static ptrace_f real;
    va_list arguments;
    long done;

    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "ptrace");
    done = real((int)request, pid, address, data);
    if (done < 0 && errno == EFAULT && request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE)
        done = set_whole(real, pid, address, data);
    return done;
}
