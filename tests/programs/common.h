/* What the test programs share: checks that name their place, and small helpers.
 *
 * Every program prints one line and exits 0 when all is well; it runs on the host's Linux first, which is
 * its oracle, and then in the microVM. */
#ifndef COMMON_H
#define COMMON_H

#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL

/* Ends the program with its place, the condition and errno unless the condition holds. */
#define CHECK(condition, ...)                                                              \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            int saved_errno_ = errno;                                                      \
            fprintf(stderr, "%s:%d: pid %d: %s:", __FILE__, __LINE__, (int)getpid(), #condition); \
            fprintf(stderr, " " __VA_ARGS__);                                              \
            fprintf(stderr, " (errno %d)\n", saved_errno_);                                \
            _exit(1);                                                                      \
        }                                                                                  \
    } while (0)

/* Maps fresh private memory. */
static inline unsigned char *map_pages(size_t pages)
{
    void *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED, "%zu pages", pages);
    return at;
}

/* Waits for a child and checks that it exited with 0. */
static inline void wait_ok(pid_t child)
{
    int status = 0;
    pid_t got;
    do {
        got = waitpid(child, &status, 0);
    } while (got < 0 && errno == EINTR);
    CHECK(got == child, "waited for %d, got %d", (int)child, (int)got);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child %d ended with 0x%x", (int)child, status);
}

/* Gives up all capabilities in effect: limits hold for root, too. */
static inline void drop_capabilities(void)
{
    uint32_t header[2] = {0x20080522, 0}, sets[6] = {0};
    CHECK(syscall(SYS_capget, header, sets) == 0);
    sets[0] = sets[3] = 0;
    CHECK(syscall(SYS_capset, header, sets) == 0);
}

/* A small generator (xorshift64): the same numbers everywhere. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

#endif
