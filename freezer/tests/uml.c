/* Preloaded into the kernel of user-mode-linux up to 6.8. It saves and loads the registers
 * of its processes in a buffer without the tiles of AMX, and the kernel of a machine that
 * has AMX refuses a buffer that is not complete (EFAULT): so pass a complete one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

long ptrace(enum __ptrace_request request, ...)
{
    static long (*next)(enum __ptrace_request, ...);
    static char whole[65536] __attribute__((aligned(64)));
    va_list list;
    va_start(list, request);
    long pid = va_arg(list, long);
    void *address = va_arg(list, void *);
    void *data = va_arg(list, void *);
    va_end(list);
    if (next == NULL)
        next = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");
    if (request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE)
        return next(request, pid, address, data);
    struct iovec *part = data, all = {whole, sizeof whole};
    if (next(PTRACE_GETREGSET, pid, address, &all) < 0)
        return -1;
    memcpy(whole, part->iov_base, part->iov_len < all.iov_len ? part->iov_len : all.iov_len);
    return next(request, pid, address, &all);
}
