/* How much may be locked, by whom, and in how many ways: without the capability RLIMIT_MEMLOCK holds for all of them. */
#include "common.h"
#include <sys/prctl.h>
#include <sys/resource.h>

#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif

static void limit(unsigned long pages)
{
    struct rlimit locked;
    CHECK(getrlimit(RLIMIT_MEMLOCK, &locked) == 0);
    locked.rlim_cur = pages * PAGE;
    CHECK(setrlimit(RLIMIT_MEMLOCK, &locked) == 0, "%lu pages", pages);
}

static int result(long value)
{
    return value == -1 ? errno : 0;
}

static long locked_kib(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long kib = -1;
    CHECK(status != NULL);
    while (fgets(line, sizeof line, status))
        if (sscanf(line, "VmLck: %ld", &kib) == 1)
            break;
    fclose(status);
    return kib;
}

static void *map(size_t pages, int flags)
{
    return mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static void calls(const char *who)
{
    unsigned char *at = map_pages(64);
    printf("%s: mlock %d %d", who, result(mlock(at, 8 * PAGE)), result(mlock(at + 8 * PAGE, 9 * PAGE)));
    printf(" again %d", result(mlock(at, 16 * PAGE)));
    printf(" mlock2 %d", result(syscall(SYS_mlock2, at + 16 * PAGE, PAGE, 1)));
    printf(" munlock %d", result(munlock(at, 64 * PAGE)));
    printf(" mlock2 %d", result(syscall(SYS_mlock2, at, 16 * PAGE, 1)));
    printf(" mlockall %d %d", result(mlockall(MCL_CURRENT)), result(mlockall(MCL_CURRENT | MCL_ONFAULT)));
    munlockall();
    printf(" future %d", result(mlockall(MCL_FUTURE | MCL_ONFAULT)));
    void *fits = map(8, 0), *more = map(9, 0);
    printf(" mmap %d %d", result((long)fits), result((long)more));
    char *heap = sbrk(0);
    printf(" brk %d %d", result((long)sbrk(4 * (long)PAGE)), result((long)sbrk(16 * (long)PAGE)));
    CHECK(brk(heap) == 0);
    munlockall();
    void *locked = map(8, MAP_LOCKED);
    printf(" MAP_LOCKED %d %d", result((long)locked), result((long)map(17, MAP_LOCKED)));
    if (locked != MAP_FAILED) {
        void *grown = mremap(locked, 8 * PAGE, 16 * PAGE, MREMAP_MAYMOVE);
        printf(" mremap %d %d", result((long)grown), result((long)mremap(grown, 16 * PAGE, 17 * PAGE, MREMAP_MAYMOVE)));
        printf(" locked %ld", locked_kib());
        CHECK(munmap(grown, 16 * PAGE) == 0);
    }
    munlockall();
    printf(" left %ld\n", locked_kib());
    if (fits != MAP_FAILED)
        CHECK(munmap(fits, 8 * PAGE) == 0);
    if (more != MAP_FAILED)
        CHECK(munmap(more, 9 * PAGE) == 0);
    CHECK(munmap(at, 64 * PAGE) == 0);
}

/* A child touches the page below its locked stack. */
static void stack(const char *who)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED;
        unsigned char *at = (unsigned char *)0x130000000000;
        CHECK(mmap(at, 4 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) == at);
        CHECK(mlock(at, 4 * PAGE) == 0);
        limit(5);
        at[-1] = 1;
        at[-(long)PAGE - 1] = 1;
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    printf("%s: a locked stack: %s\n", who, WIFSIGNALED(status) ? "killed" : "grows");
}

static void user(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (geteuid() == 0)
            CHECK(setresuid(12345, 12345, 12345) == 0);
        printf("user: setuid %d\n", result(setuid(0)));
        calls("user");
        stack("user");
        fflush(stdout);
        _exit(0);
    }
    wait_ok(child);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    struct rlimit locked = {16 * PAGE, 16 * PAGE};
    CHECK(setrlimit(RLIMIT_MEMLOCK, &locked) == 0);
    fflush(stdout);
    user();
    drop_capabilities();
    calls("no capability");
    stack("no capability");
    limit(0);
    calls("no limit left");
    struct rlimit more = {32 * PAGE, 32 * PAGE};
    printf("raised: %d\n", result(setrlimit(RLIMIT_MEMLOCK, &more)));
    return 0;
}
