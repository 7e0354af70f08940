/* For LD_PRELOAD: a process that sees another clock or another machine ID. The times that
 * the kernel gives to files stay as they are.
 *
 *   -DCLOCK=SECONDS     what to add to the time of day; may be negative
 *   -DMACHINE_ID=PATH   a string: the file to open instead of /etc/machine-id
 *
 * Not environment variables, because the agent does not pass all of them to tar.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifndef CLOCK
#define CLOCK 0
#endif
#ifndef MACHINE_ID
#define MACHINE_ID path
#endif

int clock_gettime(clockid_t clock, struct timespec *result)
{
    int status = syscall(SYS_clock_gettime, clock, result);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        result->tv_sec += CLOCK;
    return status;
}

int gettimeofday(struct timeval *result, void *zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    result->tv_sec = now.tv_sec;
    result->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

static const char *redirected(const char *path)
{
    return path && !strcmp(path, "/etc/machine-id") ? MACHINE_ID : path;
}

static mode_t mode_of(int flags, va_list arguments)
{
    int creates = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
    return creates ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(NAME)                                                        \
    int NAME(const char *path, int flags, ...)                            \
    {                                                                     \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #NAME);    \
        va_list arguments;                                                \
        va_start(arguments, flags);                                       \
        mode_t mode = mode_of(flags, arguments);                          \
        va_end(arguments);                                                \
        return real(redirected(path), flags, mode);                       \
    }

#define OPENAT(NAME)                                                      \
    int NAME(int directory, const char *path, int flags, ...)             \
    {                                                                     \
        int (*real)(int, const char *, int, ...) = dlsym(RTLD_NEXT, #NAME); \
        va_list arguments;                                                \
        va_start(arguments, flags);                                       \
        mode_t mode = mode_of(flags, arguments);                          \
        va_end(arguments);                                                \
        return real(directory, redirected(path), flags, mode);            \
    }

#define FOPEN(NAME)                                                       \
    FILE *NAME(const char *path, const char *how)                         \
    {                                                                     \
        FILE *(*real)(const char *, const char *) = dlsym(RTLD_NEXT, #NAME); \
        return real(redirected(path), how);                               \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)
