/* The stack grows to several MiB by itself, holds what was put on it, and ends at a guard. */
#include "common.h"
#include <signal.h>
#include <sys/resource.h>

static __attribute__((noinline)) uint64_t descend(unsigned depth)
{
    volatile unsigned char frame[2000];
    for (size_t i = 0; i < sizeof frame; i += 97)
        frame[i] = (unsigned char)(depth + i);
    uint64_t below = depth == 0 ? 0 : descend(depth - 1);
    for (size_t i = 0; i < sizeof frame; i += 97)
        CHECK(frame[i] == (unsigned char)(depth + i), "depth %u", depth);
    return below + 1;
}

static __attribute__((noinline)) int endless(volatile unsigned char *above)
{
    volatile unsigned char frame[8192];
    frame[0] = above[0];
    return frame[0] == 0 ? 0 : endless(frame) + frame[0];
}

int main(void)
{
    CHECK(descend(3000) == 3001);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(descend(3400) == 3401);
        _exit(0);
    }
    CHECK(descend(3200) == 3201);
    wait_ok(child);

    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_STACK, &limit) == 0);
    if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > 64UL << 20) {
        limit.rlim_cur = 8UL << 20;
        CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
    }
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        volatile unsigned char first[1] = {1};
        _exit(endless(first));
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "status 0x%x", status);
    printf("stack: grew to over 6 MiB and ended at its limit\n");
    return 0;
}
