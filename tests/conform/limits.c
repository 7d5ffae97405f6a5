/* Limits on memory. */
#include "conform.h"
#include <time.h>
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
/* SIGXFSZ is caught and counted. */
static volatile int told;
static void count(int signal)
{
    (void)signal;
    told++;
}
CHECK("RLIMIT_FSIZE cuts a write short", "generic_write_checks: what fits is written")
{
    char bytes[100] = {0};
    signal(SIGXFSZ, count);
    limit(RLIMIT_FSIZE, 150);
    int fd = memfd_create("file", 0);
    EQ(write(fd, bytes, 100), 100);
    EQ(write(fd, bytes, 100), 50);
    EQ(told, 0);
    ERR(write(fd, bytes, 100), EFBIG);
    EQ(told, 1);
    ERR(pwrite(fd, bytes, 1, 150), EFBIG);
    EQ(pwrite(fd, bytes, 100, 100), 50);
    EQ(pwrite(fd, bytes, 0, 200), 0);
    EQ(told, 2);
}
CHECK("RLIMIT_FSIZE ends who does not listen", "SIGXFSZ ends a program unless it is caught or ignored")
{
    limit(RLIMIT_FSIZE, 10);
    int fd = memfd_create("file", 0);
    pid_t child = fork();
    if (child == 0) {
        EQ(pwrite(fd, "x", 1, 10), 1);
        _exit(0);
    }
    int status;
    EQ(waitpid(child, &status, 0), child);
    IS(WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ);
}
CHECK("RLIMIT_FSIZE stops ftruncate that makes a file longer", "inode_newsize_ok: EFBIG and SIGXFSZ")
{
    signal(SIGXFSZ, count);
    int fd = memfd_create("file", 0);
    OK(ftruncate(fd, 8 * P));
    limit(RLIMIT_FSIZE, 2 * P);
    OK(ftruncate(fd, 4 * P));
    ERR(ftruncate(fd, 5 * P), EFBIG);
    EQ(told, 1);
    OK(ftruncate(fd, P));
    OK(ftruncate(fd, 2 * P));
}
CHECK("RLIMIT_FSIZE stops fallocate", "of a file that it makes longer")
{
    signal(SIGXFSZ, count);
    int fd = memfd_create("file", 0);
    limit(RLIMIT_FSIZE, 2 * P);
    OK(fallocate(fd, 0, 0, 2 * P));
    ERR(fallocate(fd, 0, 0, 3 * P), EFBIG);
    EQ(told, 1);
}
CHECK("RLIMIT_FSIZE is no limit of pipes", "they are no files")
{
    int ends[2];
    OK(pipe(ends));
    limit(RLIMIT_FSIZE, 1);
    EQ(write(ends[1], "four", 4), 4);
}
CHECK("RLIMIT_FSIZE is no limit of stores to a mapping", "the file has its size already")
{
    int fd = memfd_create("file", 0);
    OK(ftruncate(fd, P));
    limit(RLIMIT_FSIZE, 1);
    char *at = mmap(NULL, P, RW, MAP_SHARED, fd, 0);
    OK(at);
    EQ(writing(at + P - 1), 0);
}
/* Works for eight seconds of CPU time, and no longer where no limit is kept. A host that leaves a virtual CPU
   alone for seconds may charge several at once, so any limit below is much less. */
static void work(void)
{
    struct timespec used;
    do
        OK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used));
    while (used.tv_sec < 8 && !told);
}
CHECK("RLIMIT_CPU tells who has used it up", "SIGXCPU each second")
{
    struct rlimit seconds = {1, RLIM_INFINITY};
    OK(setrlimit(RLIMIT_CPU, &seconds));
    pid_t child = fork();
    if (child == 0)
        work();
    int status;
    EQ(waitpid(child, &status, 0), child);
    IS(WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU);
}
CHECK("RLIMIT_CPU moves its soft limit on when it is caught", "check_process_timers adds a second")
{
    struct rlimit seconds = {1, RLIM_INFINITY};
    signal(SIGXCPU, count);
    OK(setrlimit(RLIMIT_CPU, &seconds));
    work();
    OK(getrlimit(RLIMIT_CPU, &seconds));
    EQ(seconds.rlim_cur, 2);
}
CHECK("RLIMIT_CPU ends a program at the hard limit", "SIGKILL")
{
    struct rlimit seconds = {1, 1};
    signal(SIGXCPU, SIG_IGN);
    OK(setrlimit(RLIMIT_CPU, &seconds));
    pid_t child = fork();
    if (child == 0)
        work();
    int status;
    EQ(waitpid(child, &status, 0), child);
    IS(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}
CHECK("RLIMIT_CPU counts a child anew", "CPU time is a process's own")
{
    struct rlimit seconds = {2, 2};
    OK(setrlimit(RLIMIT_CPU, &seconds));
    struct timespec used;
    do
        OK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used));
    while (used.tv_sec < 1);
    CHILD {
        do
            OK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used));
        while (used.tv_sec < 1);
    }
}
CHECK("max_map_count can be set", "root writes /proc/sys/vm/max_map_count")
{
    char old[32] = "";
    int fd = open("/proc/sys/vm/max_map_count", O_RDWR);
    if (fd < 0)
        absent("a /proc/sys/vm/max_map_count that can be written");
    ssize_t length = read(fd, old, sizeof old);
    IS(length > 1);
    EQ(pwrite(fd, old, length, 0), length);
    ERR(pwrite(fd, "-1\n", 3, 0), EINVAL);
}
