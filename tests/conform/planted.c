/* A kernel that is wrong, as the checks see it: one call does not do what Linux does. Linked in by a test with
 * --wrap for each call below; CONFORM_BUG names the call. */
#include "conform.h"
#include <linux/userfaultfd.h>

static int has(const char *call)
{
    const char *bug = getenv("CONFORM_BUG");
    return bug && !strcmp(bug, call);
}

#define REAL(type, name, ...) type __real_##name(__VA_ARGS__); type __wrap_##name(__VA_ARGS__)

/* Memory that somebody else used. */
REAL(void *, mmap, void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    char *found = __real_mmap(at, length, protection, flags, fd, offset);
    if (has("mmap") && found != MAP_FAILED && protection & PROT_WRITE && flags & MAP_ANONYMOUS && length <= 8 * P)
        found[length / 2] = 7;
    return found;
}
/* The end stays. */
REAL(int, munmap, void *at, size_t length)
{
    return __real_munmap(at, has("munmap") && length > (size_t)P ? length - P : length);
}
/* One page is forgotten. */
REAL(int, mprotect, void *at, size_t length, int protection)
{
    return __real_mprotect(at, has("mprotect") && length > (size_t)P ? length - P : length, protection);
}
REAL(int, madvise, void *at, size_t length, int advice)
{
    if (has("madvise") && advice == MADV_DONTNEED)
        return 0;
    return __real_madvise(at, length, advice);
}
REAL(int, mlock, const void *at, size_t length)
{
    return has("mlock") ? 0 : __real_mlock(at, length);
}
REAL(int, munlock, const void *at, size_t length)
{
    return has("munlock") ? 0 : __real_munlock(at, length);
}
REAL(int, mlockall, int what)
{
    return has("mlockall") ? 0 : __real_mlockall(what);
}
REAL(int, mincore, void *at, size_t length, unsigned char *vector)
{
    int result = __real_mincore(at, length, vector);
    if (has("mincore") && result == 0 && length)
        vector[(length - 1) / P] ^= 1;
    return result;
}
REAL(int, msync, void *at, size_t length, int flags)
{
    return has("msync") ? 0 : __real_msync(at, length, flags);
}
REAL(int, setrlimit, int resource, const struct rlimit *limit)
{
    return has("setrlimit") ? 0 : __real_setrlimit(resource, limit);
}
/* A child that shares nothing that it should. */
REAL(pid_t, fork, void)
{
    pid_t child = __real_fork();
    char line[512];
    unsigned long start, end;
    FILE *file = child == 0 && has("fork") ? fopen("/proc/self/maps", "r") : NULL;
    while (file && fgets(line, sizeof line, file))
        if (strstr(line, "rw-p 00000000 00:00 0 \n") && sscanf(line, "%lx-%lx", &start, &end) == 2)
            __real_madvise((void *)start, end - start, MADV_DONTNEED);
    return child;
}
/* A copy where there should be none. */
REAL(ssize_t, vmsplice, int fd, const struct iovec *pieces, size_t count, unsigned flags)
{
    return has("vmsplice") ? writev(fd, pieces, count) : __real_vmsplice(fd, pieces, count, flags);
}
REAL(ssize_t, process_vm_readv, pid_t pid, const struct iovec *local, unsigned long locals,
     const struct iovec *remote, unsigned long remotes, unsigned long flags)
{
    if (has("process_vm_readv") && locals == 1 && remotes == 1)
        return local->iov_len;
    return __real_process_vm_readv(pid, local, locals, remote, remotes, flags);
}

/* Those with any number of arguments: six are always there to read. */
REAL(void *, mremap, void *at, size_t old, size_t new, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    void *to = va_arg(rest, void *);
    va_end(rest);
    char *found = __real_mremap(at, old, new, flags, to);
    if (has("mremap") && found != MAP_FAILED && found != at)
        __real_madvise(found, P, MADV_DONTNEED);
    return found;
}
REAL(int, ioctl, int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (has("userfaultfd") && request == UFFDIO_COPY) {
        struct uffdio_copy *copy = argument;
        struct uffdio_zeropage zero = {.range = {copy->dst, copy->len}};
        int result = __real_ioctl(fd, UFFDIO_ZEROPAGE, &zero);
        copy->copy = zero.zeropage;
        return result;
    }
    return __real_ioctl(fd, request, argument);
}
REAL(long, syscall, long number, ...)
{
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if ((has("brk") && number == SYS_brk && a[0]) || (has("mseal") && number == 462) ||
        (has("mlock2") && number == SYS_mlock2) || (has("process_madvise") && number == 440) ||
        (has("process_mrelease") && number == 448))
        return 0;
    if (has("pidfd_open") && number == 434)
        return open("/dev/null", O_RDONLY);
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
