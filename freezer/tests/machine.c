/* For LD_PRELOAD: a process that sees another clock or another machine ID, or a broken
 * file. The times that the kernel gives to files stay as they are.
 *
 *   -DCLOCK=SECONDS     what to add to the time of day; may be negative
 *   -DMACHINE_ID=PATH   a string: the file to open instead of /etc/machine-id
 *   -DBROKEN=NAME       a string: files and directories of this name cannot be opened
 *   -DNO_XATTRS=NAME    a string: nor can extended attributes of files of this name
 *   -DCUT=NAME          a string: files of this name cannot be read beyond 64 KiB
 *   -DCUT_ERROR=NUMBER  the error then; 0 if the file ends there
 *   -DSWAP_AT=NAME      a string: when a file of this name is opened first, the directory
 *                       SWAPPED becomes a link to LINKED; both strings
 *   -DEXCHANGE_AT=PATH  a string: when this is opened, the files ONE and TWO are
 *                       exchanged, and at BACK_AT once more; all strings
 *
 * BROKEN and NO_XATTRS fail with EIO. Not environment variables, because the agent does
 * not pass all of them to tar.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#ifndef CLOCK
#define CLOCK 0
#endif
#ifndef MACHINE_ID
#define MACHINE_ID path
#endif

#ifndef BROKEN
#define BROKEN ""
#endif
#ifndef NO_XATTRS
#define NO_XATTRS ""
#endif

#ifndef CUT
#define CUT ""
#define CUT_ERROR EIO
#endif

#ifndef SWAP_AT
#define SWAP_AT ""
#define SWAPPED ""
#define LINKED ""
#endif

#ifndef EXCHANGE_AT
#define EXCHANGE_AT ""
#define ONE ""
#define TWO ""
#define BACK_AT ""
#endif

static int is_named(const char *path, const char *name)
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    return path && *name && !strcmp(slash ? slash + 1 : path, name);
}

static void swap(const char *path)
{
    static int done;
    if (!done && is_named(path, SWAP_AT)) {
        done = 1;
        if (rename(SWAPPED, SWAPPED ".moved") || symlink(LINKED, SWAPPED))
            perror(SWAPPED);
    }
}

static void exchange(const char *path)
{
    static const char *const at[] = {EXCHANGE_AT, BACK_AT, ""};
    static int times;
    if (path && *at[times] && !strcmp(path, at[times])) {
        times++;
        if (syscall(SYS_renameat2, AT_FDCWD, ONE, AT_FDCWD, TWO, RENAME_EXCHANGE))
            perror(ONE);
    }
}

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
        swap(path);                                                       \
        exchange(path);                                                   \
        if (is_named(path, BROKEN))                                       \
            return errno = EIO, -1;                                       \
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
        swap(path);                                                       \
        exchange(path);                                                   \
        if (is_named(path, BROKEN))                                       \
            return errno = EIO, -1;                                       \
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

/* Of programs that were compiled with _FORTIFY_SOURCE. */
int __openat_2(int directory, const char *path, int flags)
{
    return openat(directory, path, flags);
}
FOPEN(fopen)
FOPEN(fopen64)

static int is_open(int file, const char *name)
{
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    return readlink(link, path, sizeof path - 1) >= 0 && is_named(path, name);
}

ssize_t read(int file, void *buffer, size_t size)
{
    if (*CUT && is_open(file, CUT) && lseek(file, 0, SEEK_CUR) >= 65536)
        return errno = CUT_ERROR, CUT_ERROR ? -1 : 0;
    return syscall(SYS_read, file, buffer, size);
}

ssize_t flistxattr(int file, char *list, size_t size)
{
    if (is_open(file, NO_XATTRS))
        return errno = EIO, -1;
    return syscall(SYS_flistxattr, file, list, size);
}
