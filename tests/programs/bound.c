/* A node that is full, and memory that may lie on no other: pages of that node leave, and whoever has pages there is killed when none can.
 * Who has memory on the other node loses nothing. By the manual pages mbind(2), mlock2(2), proc(5). Needs a machine of two nodes of 128 MiB.
 * With "swap" there is swap, and pages leave; with "none" there is none. */
#include "common.h"
#include <signal.h>

enum { BIND = 2, ON_FAULT = 1 };
enum { MIB = 256 };
static const unsigned long first = 1, second = 2;

static void bind_to(unsigned char *at, unsigned long pages, const unsigned long *mask) {
    CHECK(madvise(at, pages * PAGE, MADV_NOHUGEPAGE) == 0);
    CHECK(syscall(SYS_mbind, at, pages * PAGE, (long)BIND, mask, 64L, 0L) == 0);
}
static void fill(unsigned char *at, unsigned long pages) {
    for (unsigned long i = 0; i < pages; i++)
        *(unsigned long *)(at + i * PAGE) = i + 1;
}
static int is_right(unsigned char *at, unsigned long pages) {
    for (unsigned long i = 0; i < pages; i++)
        if (*(unsigned long *)(at + i * PAGE) != i + 1)
            return 0;
    return 1;
}
static unsigned long in_memory(unsigned char *at, unsigned long pages) {
    static unsigned char is_there[128 * MIB];
    unsigned long found = 0;
    CHECK(pages <= sizeof is_there && mincore(at, pages * PAGE, is_there) == 0);
    for (unsigned long i = 0; i < pages; i++)
        found += is_there[i] & 1;
    return found;
}
static void never_kill_me(void) {
    FILE *file = fopen("/proc/self/oom_score_adj", "w");
    CHECK(file && fputs("-1000", file) >= 0 && fclose(file) == 0);
}

/* Somebody who has memory, and waits until the pipe closes; then it must be all there. */
struct neighbour {
    pid_t pid;
    int stop;
};
static struct neighbour neighbour(unsigned long pages, const unsigned long *mask, int protected) {
    int ready[2], stop[2];
    char byte;
    CHECK(pipe(ready) == 0 && pipe(stop) == 0);
    struct neighbour it = {fork(), stop[1]};
    if (it.pid == 0) {
        close(stop[1]);
        if (protected)
            never_kill_me();
        unsigned char *at = map_pages(pages);
        bind_to(at, pages, mask);
        fill(at, pages);
        CHECK(write(ready[1], "", 1) == 1);
        CHECK(read(stop[0], &byte, 1) == 0);
        unsigned long there = in_memory(at, pages);
        CHECK(mask != &first || there == pages, "%lu of %lu pages have left the other node", pages - there, pages);
        CHECK(is_right(at, pages));
        _exit(0);
    }
    close(stop[0]);
    CHECK(it.pid > 0 && read(ready[0], &byte, 1) == 1);
    close(ready[0]), close(ready[1]);
    return it;
}
static void is_well(struct neighbour it) {
    close(it.stop);
    wait_ok(it.pid);
}

/* More than the node has comes and goes. */
static void with_swap(void) {
    struct neighbour other = neighbour(40 * MIB, &first, 0);
    struct neighbour idle = neighbour(30 * MIB, &second, 0);
    enum { N = 150 * MIB };
    unsigned char *at = map_pages(N);
    bind_to(at, N, &second);
    for (int round = 0; round < 2; round++)
        fill(at, N);
    CHECK(is_right(at, N));
    unsigned long there = in_memory(at, N / 2) + in_memory(at + N / 2 * PAGE, N / 2);
    CHECK(there > 20 * MIB && there < 128 * MIB, "%lu pages are in memory", there);
    munmap(at, N * PAGE);
    is_well(idle);
    is_well(other);
}

/* Nothing can leave. The largest process has nothing on that node, the next may not be killed, the third is guilty. */
static void without_swap(void) {
    struct neighbour largest = neighbour(90 * MIB, &first, 0);
    struct neighbour protected = neighbour(60 * MIB, &second, 1);
    pid_t guilty = fork();
    if (guilty == 0) {
        unsigned char *at = map_pages(100 * MIB);
        bind_to(at, 100 * MIB, &second);
        fill(at, 100 * MIB);
        _exit(0);
    }
    int status;
    CHECK(waitpid(guilty, &status, 0) == guilty);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "it ended with 0x%x", status);
    is_well(protected);
    is_well(largest);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    if (strcmp(argv[1], "swap") == 0)
        with_swap();
    else
        without_swap();
    printf("bound: ok\n");
    return 0;
}
