/* userfaultfd as the tests use it: Linux's structures, with what older headers lack. */
#ifndef UFFD_H
#define UFFD_H

#include "common.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>

struct move_arg { uint64_t dst, src, len, mode; int64_t move; };
struct poison_arg { uint64_t start, len, mode; int64_t updated; };
#define IOC_MOVE _IOWR(0xAA, 0x05, struct move_arg)
#define IOC_POISON _IOWR(0xAA, 0x08, struct poison_arg)
#define FEATURE_WP_UNPOPULATED (1UL << 13)
#define FEATURE_WP_ASYNC (1UL << 15)
#define FEATURE_MOVE (1UL << 16)
#define MOVE_ALLOW_SRC_HOLES 2UL

/* A child that writes to so many MiB again and again, so that pages of others leave for swap; none if no number is given. It has written to
 * all of them once. */
static inline pid_t press(int argc, char **argv)
{
    size_t bytes = argc > 1 ? (size_t)atoi(argv[1]) << 20 : 0;
    int ready[2];
    char byte;
    CHECK(pipe(ready) == 0);
    pid_t child = bytes ? fork() : 0;
    CHECK(child >= 0);
    if (child > 0)
        CHECK(read(ready[0], &byte, 1) == 1);
    if (bytes == 0 || child > 0)
        return child;
    volatile unsigned char *ballast = map_pages(bytes / PAGE);
    for (unsigned char round = 1;; round++) {
        for (size_t at = 0; at < bytes; at += PAGE)
            ballast[at] = round;
        if (round == 1)
            CHECK(write(ready[1], "r", 1) == 1);
    }
}

static inline void press_no_more(pid_t child)
{
    int status;
    if (child > 0)
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
}

/* A userfaultfd with these features agreed upon. */
static inline int uffd_open(uint64_t features, int flags)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | flags);
    CHECK(fd >= 0);
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    CHECK(ioctl(fd, UFFDIO_API, &api) == 0);
    return fd;
}

static inline void uffd_watch(int fd, void *at, size_t pages, uint64_t mode)
{
    struct uffdio_register reg = {.range = {(uintptr_t)at, pages * PAGE}, .mode = mode};
    CHECK(ioctl(fd, UFFDIO_REGISTER, &reg) == 0);
}

/* 0, or the error number. */
static inline int uffd_copy(int fd, void *dst, const void *src, size_t len, uint64_t mode, int64_t *out)
{
    struct uffdio_copy copy = {(uintptr_t)dst, (uintptr_t)src, len, mode, 0};
    int error = ioctl(fd, UFFDIO_COPY, &copy) == 0 ? 0 : errno;
    if (out)
        *out = copy.copy;
    return error;
}

static inline int uffd_move(int fd, void *dst, void *src, size_t len, uint64_t mode, int64_t *out)
{
    struct move_arg move = {(uintptr_t)dst, (uintptr_t)src, len, mode, 0};
    int error = ioctl(fd, IOC_MOVE, &move) == 0 ? 0 : errno;
    if (out)
        *out = move.move;
    return error;
}

static inline int uffd_protect(int fd, void *at, size_t len, uint64_t mode)
{
    struct uffdio_writeprotect wp = {.range = {(uintptr_t)at, len}, .mode = mode};
    return ioctl(fd, UFFDIO_WRITEPROTECT, &wp) == 0 ? 0 : errno;
}

#endif
