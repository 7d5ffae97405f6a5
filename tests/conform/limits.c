/* Limits on memory. */
#include "conform.h"
#define GROUP "limits"

CHECK("RLIMIT_AS stops mmap", "ENOMEM")
{
    limit(RLIMIT_AS, status_kb("VmSize") * 1024 + 64 * P);
    OK(mmap(NULL, 32 * P, RW, ANON, -1, 0));
    ERR(mmap(NULL, 64 * P, RW, ANON, -1, 0), ENOMEM);
}
CHECK("RLIMIT_AS counts what nobody may touch", "addresses, not pages")
{
    limit(RLIMIT_AS, status_kb("VmSize") * 1024 + 64 * P);
    ERR(mmap(NULL, 1024 * P, PROT_NONE, ANON | MAP_NORESERVE, -1, 0), ENOMEM);
}
CHECK("RLIMIT_AS leaves room again after munmap", "the size falls")
{
    char *at = island(1024);
    limit(RLIMIT_AS, status_kb("VmSize") * 1024 + P);
    ERR(mmap(NULL, 512 * P, RW, ANON, -1, 0), ENOMEM);
    OK(munmap(at, 1024 * P));
    OK(mmap(NULL, 512 * P, RW, ANON, -1, 0));
}
CHECK("RLIMIT_AS heeds what MAP_FIXED replaces", "the range counts once")
{
    char *at = island(1024);
    limit(RLIMIT_AS, status_kb("VmSize") * 1024 + 4 * P);
    OK(mmap(at, 1024 * P, RW, ANON | MAP_FIXED, -1, 0));
}
CHECK("RLIMIT_DATA stops private writable memory", "ENOMEM, since 4.7")
{
    limit(RLIMIT_DATA, status_kb("VmData") * 1024 + 64 * P);
    ERR(mmap(NULL, 1024 * P, RW, ANON, -1, 0), ENOMEM);
}
CHECK("RLIMIT_DATA leaves shared memory alone", "it is no data")
{
    limit(RLIMIT_DATA, status_kb("VmData") * 1024 + 64 * P);
    OK(mmap(NULL, 1024 * P, RW, SHARED, -1, 0));
}
CHECK("RLIMIT_DATA leaves read-only memory alone", "it is no data")
{
    limit(RLIMIT_DATA, status_kb("VmData") * 1024 + 64 * P);
    OK(mmap(NULL, 1024 * P, PROT_READ, ANON, -1, 0));
}
CHECK("RLIMIT_DATA stops mprotect", "ENOMEM: read-only memory becomes data")
{
    char *at = island_of(1024, PROT_READ, ANON);
    limit(RLIMIT_DATA, status_kb("VmData") * 1024 + 64 * P);
    ERR(mprotect(at, 1024 * P, RW), ENOMEM);
}
CHECK("RLIMIT_STACK stops a stack's growth", "SIGSEGV below it")
{
    char *at = mmap(NULL, 32 << 20, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
    OK(munmap(at, 32 << 20));
    char *stack = at + (32 << 20) - 2 * P;
    OK(mmap(stack, 2 * P, RW, ANON | MAP_FIXED | MAP_GROWSDOWN, -1, 0));
    limit(RLIMIT_STACK, 1 << 20);
    EQ(writing(stack - (512 << 10)), 0);
    EQ(writing(stack - (2 << 20)), MAPERR);
}
CHECK("a limit is inherited", "fork copies them")
{
    limit(RLIMIT_AS, status_kb("VmSize") * 1024 + 64 * P);
    CHILD ERR(mmap(NULL, 1024 * P, RW, ANON, -1, 0), ENOMEM);
}
CHECK("a soft limit above the hard one is refused", "EINVAL")
{
    struct rlimit wrong = {2, 1};
    ERR(setrlimit(RLIMIT_AS, &wrong), EINVAL);
}
CHECK("prlimit reads and sets in one call", "the old limit comes back")
{
    struct rlimit old, new = {1 << 30, RLIM_INFINITY};
    OK(prlimit(0, RLIMIT_AS, &new, &old));
    OK(prlimit(0, RLIMIT_AS, NULL, &new));
    EQ(new.rlim_cur, 1 << 30);
}
CHECK("an unknown limit is refused", "EINVAL")
{
    struct rlimit limit;
    ERR(getrlimit(99, &limit), EINVAL);
}
CHECK("max_map_count stops splits", "ENOMEM: 65530 mappings by default")
{
    long most = 0;
    FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
    if (!file || fscanf(file, "%ld", &most) != 1 || most > 70000)
        absent("a default of /proc/sys/vm/max_map_count");
    char *at = island_of(2 * most, PROT_NONE, ANON | MAP_NORESERVE);
    long i = 0;
    while (i < most && mprotect(at + 2 * i * P, P, PROT_READ) == 0)
        i++;
    EQ(errno, ENOMEM);
    IS(i > most / 2 - 100 && i <= most / 2);
}
