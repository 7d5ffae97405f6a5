/* MADV_COLLAPSE: small pages become a large one, for oneself and for another process; what cannot is refused.
 *
 * Runs on the host's Linux first. What is asked there is asked of windows of 2 MiB only. A host whose memory is in pieces has no such
 * block: then the program says so, and ends. */
#include "common.h"
#include <sched.h>
#include <signal.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define LEAF (2UL << 20)
#define NO_BLOCK 77

static pid_t first;

/* AnonHugePages of the mapping that has `at`, in kB. */
static long huge_kb(const void *at)
{
    FILE *smaps = fopen("/proc/self/smaps", "r");
    CHECK(smaps);
    char line[512];
    int inside = 0;
    long kb = -1;
    while (fgets(line, sizeof line, smaps)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start <= (unsigned long)at && (unsigned long)at < end;
        else if (inside && sscanf(line, "AnonHugePages: %ld kB", &kb) == 1)
            break;
    }
    fclose(smaps);
    return kb;
}

/* `windows` aligned windows of small pages, every page of which says its number. */
static unsigned char *small_pages(size_t windows)
{
    size_t size = windows * LEAF;
    unsigned char *raw = mmap(NULL, size + LEAF, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(raw != MAP_FAILED);
    unsigned char *at = (unsigned char *)(((uintptr_t)raw + LEAF - 1) & ~(LEAF - 1));
    CHECK(munmap(at + size, raw + LEAF - at) == 0 || at == raw + LEAF);
    if (at != raw)
        CHECK(munmap(raw, at - raw) == 0);
    CHECK(madvise(at, size, MADV_NOHUGEPAGE) == 0);
    for (size_t i = 0; i < size / PAGE; i++)
        *(uint32_t *)(at + i * PAGE) = i + 1;
    CHECK(huge_kb(at) == 0, "%ld kB", huge_kb(at));
    /* Takes the refusal back. From here on the host's background task may be faster. */
    CHECK(madvise(at, size, MADV_HUGEPAGE) == 0);
    return at;
}

static void right(const unsigned char *at, size_t windows)
{
    for (size_t i = 0; i < windows * (LEAF / PAGE); i++)
        CHECK(*(const uint32_t *)(at + i * PAGE) == i + 1, "page %zu", i);
}

/* Ends the program, and its parent with it: what they are about cannot be asked here. */
static void no_block(void)
{
    if (getpid() == first) {
        puts("collapse: no block");
        exit(0);
    }
    _exit(NO_BLOCK);
}

/* Waits for a child, which may have ended so. */
static void wait_child(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_BLOCK)
        no_block();
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", status);
}

/* What collapse says, but that it is worth another try. */
static int collapse(unsigned char *at, size_t size)
{
    for (int tries = 0;; tries++) {
        if (madvise(at, size, MADV_COLLAPSE) == 0)
            return 0;
        if (errno == ENOMEM && tries == 200)
            no_block();
        if ((errno != EAGAIN && errno != ENOMEM) || tries == 200)
            return errno;
        usleep(1000);
    }
}

static void own(void)
{
    unsigned char *at = small_pages(2);
    CHECK(collapse(at, 2 * LEAF) == 0);
    CHECK(huge_kb(at) == 4096, "%ld kB", huge_kb(at));
    right(at, 2);
    CHECK(collapse(at, 2 * LEAF) == 0, "it is so already");
    /* A child has the same, and its write is its own. */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        right(at, 2);
        at[5 * PAGE] = 99;
        CHECK(collapse(at, LEAF) == 0);
        CHECK(at[5 * PAGE] == 99 && *(uint32_t *)(at + 6 * PAGE) == 7);
        _exit(0);
    }
    wait_child(child);
    right(at, 2);
    /* Holes are filled with zeroes: that is what was asked for. */
    CHECK(madvise(at + 8 * PAGE, 4 * PAGE, MADV_DONTNEED) == 0);
    CHECK(huge_kb(at) >= 2048, "%ld kB", huge_kb(at));
    CHECK(collapse(at, LEAF) == 0);
    CHECK(huge_kb(at) == 4096, "%ld kB", huge_kb(at));
    for (size_t i = 0; i < 16; i++) {
        uint32_t expected = i >= 8 && i < 12 ? 0 : i + 1;
        CHECK(*(uint32_t *)(at + i * PAGE) == expected, "page %zu", i);
    }
    CHECK(munmap(at, 2 * LEAF) == 0);
}

static void refused(void)
{
    unsigned char *at = small_pages(2);
    CHECK(madvise(at + 1, LEAF, MADV_COLLAPSE) == -1 && errno == EINVAL);
    CHECK(madvise(at, LEAF, MADV_NOHUGEPAGE) == 0);
    CHECK(madvise(at, LEAF, MADV_COLLAPSE) == -1 && errno == EINVAL);
    CHECK(madvise(at, LEAF, MADV_HUGEPAGE) == 0);
    CHECK(munmap(at + LEAF, LEAF) == 0);
    CHECK(madvise(at + LEAF, LEAF, MADV_COLLAPSE) == -1 && errno == ENOMEM);
    /* Nothing is there at all. */
    CHECK(madvise(at, LEAF, MADV_DONTNEED) == 0);
    right(at, 0);
    CHECK(munmap(at, LEAF) == 0);
}

static void another(void)
{
    unsigned char *at = small_pages(1);
    int pipes[2][2];
    CHECK(pipe(pipes[0]) == 0 && pipe(pipes[1]) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* Its own: what is shared is copied otherwise. */
        for (size_t i = 0; i < LEAF / PAGE; i++)
            *(uint32_t *)(at + i * PAGE) = i + 1;
        char byte = 1;
        CHECK(write(pipes[0][1], &byte, 1) == 1);
        CHECK(read(pipes[1][0], &byte, 1) == 1);
        right(at, 1);
        CHECK(huge_kb(at) == 2048, "%ld kB", huge_kb(at));
        _exit(0);
    }
    char byte;
    CHECK(read(pipes[0][0], &byte, 1) == 1);
    int pidfd = syscall(434 /* pidfd_open */, child, 0);
    CHECK(pidfd >= 0);
    struct {
        void *base;
        size_t len;
    } piece = {at, LEAF};
    long done = -1;
    for (int tries = 0; tries < 200; tries++) {
        done = syscall(440 /* process_madvise */, pidfd, &piece, 1, MADV_COLLAPSE, 0);
        if (done >= 0 || (errno != EAGAIN && errno != ENOMEM))
            break;
        usleep(1000);
    }
    if (done < 0 && errno == ENOMEM) {
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
        no_block();
    }
    CHECK(done == (long)LEAF, "%ld", done);
    CHECK(write(pipes[1][1], &byte, 1) == 1);
    wait_child(child);
    close(pidfd);
    CHECK(munmap(at, LEAF) == 0);
}

/* A second thread of execution drops and writes pages of the window while it collapses, again and again. */
struct race {
    unsigned char *at;
    volatile int stop;
};

static int racer(void *of)
{
    struct race *race = of;
    for (uint32_t round = 0; !race->stop; round++) {
        unsigned char *page = race->at + (round * 37 % (LEAF / PAGE)) * PAGE;
        if (round % 3 == 0)
            madvise(page, PAGE, MADV_DONTNEED);
        ((volatile uint32_t *)page)[1] = round;
        if (((volatile uint32_t *)page)[1] != round)
            _exit(3);
    }
    return 0;
}

static void raced(void)
{
    struct race race = {small_pages(1), 0};
    char *stack = (char *)map_pages(16) + 16 * PAGE;
    pid_t other = clone(racer, stack, CLONE_VM | SIGCHLD, &race);
    CHECK(other > 0);
    for (int i = 0; i < 60; i++)
        madvise(race.at, LEAF, MADV_COLLAPSE);
    race.stop = 1;
    wait_ok(other);
    CHECK(munmap(race.at, LEAF) == 0);
}

int main(void)
{
    first = getpid();
    own();
    refused();
    another();
    raced();
    puts("collapse: ok");
    return 0;
}
