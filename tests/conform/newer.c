/* Calls of the last years: mseal, process_madvise, pidfd, PROCMAP_QUERY, memory-deny-write-execute. */
#include "conform.h"
#include <poll.h>
#define GROUP "newer"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

static char *sealed(long pages)
{
    char *at = filled(pages);
    if (syscall(SYS_mseal, at, pages * P, 0) && errno == ENOSYS)
        absent("mseal");
    return at;
}

CHECK("mseal refuses munmap", "EPERM")
{
    char *at = sealed(2);
    ERR(munmap(at, 2 * P), EPERM);
    ERR(munmap(at + P, P), EPERM);
    EQ(at[P], 2);
}
CHECK("mseal refuses mprotect", "EPERM")
{
    char *at = sealed(1);
    ERR(mprotect(at, P, PROT_READ), EPERM);
    EQ(writing(at), 0);
}
CHECK("mseal refuses mremap", "EPERM, larger, smaller and elsewhere")
{
    char *at = sealed(2), *to = island(2);
    ERR(mremap(at, 2 * P, 4 * P, MREMAP_MAYMOVE), EPERM);
    ERR(mremap(at, 2 * P, P, 0), EPERM);
    ERR(mremap(at, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, to), EPERM);
}
CHECK("mseal refuses to be replaced", "EPERM: MAP_FIXED over it")
{
    char *at = sealed(1);
    ERR(mmap(at, P, RW, ANON | MAP_FIXED, -1, 0), EPERM);
    EQ(at[0], 1);
}
CHECK("mseal refuses to be replaced by mremap", "EPERM")
{
    char *at = sealed(1), *from = filled(1);
    ERR(mremap(from, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, at), EPERM);
}
CHECK("mseal allows to drop what may be written", "MADV_DONTNEED: a store could do as much")
{
    char *at = sealed(1);
    OK(madvise(at, P, MADV_DONTNEED));
    EQ(at[0], 0);
}
CHECK("mseal refuses to drop what may not be written", "EPERM: it would change read-only memory")
{
    char *at = filled(1);
    OK(mprotect(at, P, PROT_READ));
    if (syscall(SYS_mseal, at, P, 0) && errno == ENOSYS)
        absent("mseal");
    ERR(madvise(at, P, MADV_DONTNEED), EPERM);
    EQ(at[0], 1);
}
CHECK("mseal allows stores", "it is about mappings, not bytes")
{
    EQ(writing(sealed(1)), 0);
}
CHECK("mseal of a hole is refused", "ENOMEM, and nothing is sealed")
{
    sealed(1);
    char *at = filled(3);
    OK(munmap(at + P, P));
    ERR(syscall(SYS_mseal, at, 3 * P, 0), ENOMEM);
    OK(munmap(at, P));
}
CHECK("mseal with flags is refused", "EINVAL")
{
    sealed(1);
    ERR(syscall(SYS_mseal, filled(1), P, 1), EINVAL);
}
CHECK("mseal at an odd address is refused", "EINVAL")
{
    sealed(1);
    ERR(syscall(SYS_mseal, filled(2) + 1, P, 0), EINVAL);
}
CHECK("mseal of nothing", "a length of 0 is no error")
{
    sealed(1);
    OK(syscall(SYS_mseal, filled(1), 0, 0));
}
CHECK("mseal twice", "no error")
{
    char *at = sealed(1);
    OK(syscall(SYS_mseal, at, P, 0));
}
CHECK("mseal of a part splits", "its neighbours may go")
{
    char *at = filled(3);
    if (syscall(SYS_mseal, at + P, P, 0) && errno == ENOSYS)
        absent("mseal");
    OK(munmap(at, P));
    OK(munmap(at + 2 * P, P));
    ERR(munmap(at + P, P), EPERM);
}
CHECK("mseal is a child's, too", "fork copies it")
{
    char *at = sealed(1);
    CHILD ERR(munmap(at, P), EPERM);
}
CHECK("mseal shows in smaps", "sl")
{
    EQ(vm_flag(sealed(1), "sl"), 1);
}

static int pidfd(pid_t pid)
{
    int fd = syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno == ENOSYS)
        absent("pidfd_open");
    OK(fd);
    return fd;
}
CHECK("pidfd_open of nobody is refused", "ESRCH")
{
    pidfd(getpid());
    ERR(syscall(SYS_pidfd_open, 0x3ffffff, 0), ESRCH);
}
CHECK("pidfd_open of no number is refused", "EINVAL")
{
    pidfd(getpid());
    ERR(syscall(SYS_pidfd_open, -1, 0), EINVAL);
    ERR(syscall(SYS_pidfd_open, 0, 0), EINVAL);
}
CHECK("pidfd_open with unknown flags is refused", "EINVAL")
{
    pidfd(getpid());
    ERR(syscall(SYS_pidfd_open, getpid(), 1), EINVAL);
}
CHECK("a pidfd is ready when its process ends", "poll: nothing before, POLLIN after")
{
    int go[2];
    char byte;
    OK(pipe(go));
    pid_t child = child_start();
    if (child == 0) {
        EQ(read(go[0], &byte, 1), 1);
        _exit(0);
    }
    struct pollfd p = {pidfd(child), POLLIN, 0};
    EQ(poll(&p, 1, 0), 0);
    EQ(write(go[1], "x", 1), 1);
    EQ(poll(&p, 1, 20000), 1);
    EQ(p.revents & POLLIN, POLLIN);
    child_end(child);
}
CHECK("a pidfd is close-on-exec", "always")
{
    EQ(fcntl(pidfd(getpid()), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}
CHECK("a pidfd sends a signal", "pidfd_send_signal")
{
    pid_t child = fork();
    OK(child);
    while (child == 0)
        pause();
    int status, fd = pidfd(child), result = syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
    if (result && errno == ENOSYS) {
        kill(child, SIGKILL);
        absent("pidfd_send_signal");
    }
    OK(result);
    pid_t ended = 0;
    for (int i = 0; i < 10000 && ended == 0; i++) {
        ended = waitpid(child, &status, WNOHANG);
        usleep(1000);
    }
    EQ(ended, child);
    EQ(WTERMSIG(status), SIGKILL);
}
CHECK("a pidfd is waited for", "waitid(P_PIDFD)")
{
    siginfo_t info = {0};
    pid_t child = child_start();
    if (child == 0)
        _exit(7);
    if (waitid(3, pidfd(child), &info, WEXITED)) {
        if (errno == EINVAL)
            absent("waitid(P_PIDFD)");
        OK(-1);
    }
    EQ(info.si_status, 7);
}

static long advised(char *at, long length, int advice)
{
    struct iovec range = {at, length};
    long result = syscall(SYS_process_madvise, pidfd(getpid()), &range, 1, advice, 0);
    if (result < 0 && errno == ENOSYS)
        absent("process_madvise");
    return result;
}
CHECK("process_madvise of itself", "says how many bytes it advised")
{
    EQ(advised(filled(4), 4 * P, MADV_COLD), 4 * P);
}
CHECK("process_madvise keeps the bytes", "PAGEOUT moves, and loses nothing")
{
    char *at = filled(4);
    EQ(advised(at, 4 * P, MADV_PAGEOUT), 4 * P);
    EQ(at[3 * P], 4);
}
CHECK("process_madvise of a child that drops pages is refused", "EINVAL: only harmless advice for others")
{
    char *at = filled(1);
    advised(at, P, MADV_COLD);
    pid_t child = fork();
    OK(child);
    while (child == 0)
        pause();
    struct iovec range = {at, P};
    ERR(syscall(SYS_process_madvise, pidfd(child), &range, 1, MADV_DONTNEED, 0), EINVAL);
    kill(child, SIGKILL);
    EQ(waitpid(child, NULL, 0), child);
}
CHECK("process_madvise with flags is refused", "EINVAL")
{
    char *at = filled(1);
    advised(at, P, MADV_COLD);
    struct iovec range = {at, P};
    ERR(syscall(SYS_process_madvise, pidfd(getpid()), &range, 1, MADV_COLD, 1), EINVAL);
}
CHECK("process_madvise of a hole is refused", "ENOMEM")
{
    char *at = filled(1);
    advised(at, P, MADV_COLD);
    OK(munmap(at, P));
    ERR(advised(at, P, MADV_COLD), ENOMEM);
}
CHECK("process_madvise by no descriptor is refused", "EBADF")
{
    char *at = filled(1);
    advised(at, P, MADV_COLD);
    struct iovec range = {at, P};
    ERR(syscall(SYS_process_madvise, -1, &range, 1, MADV_COLD, 0), EBADF);
}
CHECK("process_mrelease of one that lives is refused", "EINVAL: it is not ending")
{
    pid_t child = fork();
    OK(child);
    while (child == 0)
        pause();
    long result = syscall(SYS_process_mrelease, pidfd(child), 0);
    int error = errno;
    kill(child, SIGKILL);
    EQ(waitpid(child, NULL, 0), child);
    if (error == ENOSYS)
        absent("process_mrelease");
    EQ(result, -1);
    EQ(error, EINVAL);
}
CHECK("process_mrelease with flags is refused", "EINVAL")
{
    long result = syscall(SYS_process_mrelease, pidfd(getpid()), 1);
    if (errno == ENOSYS)
        absent("process_mrelease");
    EQ(result, -1);
    EQ(errno, EINVAL);
}

static void deny(void)
{
    if (prctl(PR_SET_MDWE, 1, 0, 0, 0)) {
        if (errno == EINVAL)
            absent("PR_SET_MDWE");
        OK(-1);
    }
}
CHECK("mdwe is off at first", "PR_GET_MDWE is 0")
{
    int result = prctl(PR_GET_MDWE, 0, 0, 0, 0);
    if (result < 0 && errno == EINVAL)
        absent("PR_SET_MDWE");
    EQ(result, 0);
}
CHECK("mdwe refuses memory that may be written and run", "EACCES")
{
    deny();
    ERR(mmap(NULL, P, RW | PROT_EXEC, ANON, -1, 0), EACCES);
    OK(mmap(NULL, P, RW, ANON, -1, 0));
    OK(mmap(NULL, P, PROT_READ | PROT_EXEC, ANON, -1, 0));
}
CHECK("mdwe refuses to make memory executable", "EACCES: what was written could be run")
{
    char *at = filled(1);
    deny();
    ERR(mprotect(at, P, PROT_READ | PROT_EXEC), EACCES);
    OK(mprotect(at, P, PROT_READ));
}
CHECK("mdwe leaves what is executable", "its permissions may shrink")
{
    char *at = island_of(1, PROT_READ | PROT_EXEC, ANON);
    deny();
    OK(mprotect(at, P, PROT_READ | PROT_EXEC));
    OK(mprotect(at, P, PROT_READ));
}
CHECK("mdwe is for good", "EPERM: it cannot be taken back")
{
    deny();
    ERR(prctl(PR_SET_MDWE, 0, 0, 0, 0), EPERM);
    EQ(prctl(PR_GET_MDWE, 0, 0, 0, 0), 1);
}
CHECK("mdwe is a child's, too", "unless PR_MDWE_NO_INHERIT was given")
{
    deny();
    CHILD ERR(mmap(NULL, P, RW | PROT_EXEC, ANON, -1, 0), EACCES);
}
CHECK("mdwe with unknown bits is refused", "EINVAL")
{
    ERR(prctl(PR_SET_MDWE, 0x100, 0, 0, 0), EINVAL);
}

/* linux/fs.h has it since 6.11. */
struct query {
    uint64_t size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
    uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
    uint64_t vma_name_addr, build_id_addr;
};
#define QUERY _IOWR('f', 17, struct query)
static int maps_query(struct query *q)
{
    static int fd = -1;
    if (fd < 0)
        fd = open("/proc/self/maps", O_RDONLY);
    OK(fd);
    q->size = sizeof *q;
    int result = ioctl(fd, QUERY, q);
    if (result && errno == ENOTTY)
        absent("PROCMAP_QUERY");
    return result;
}
CHECK("PROCMAP_QUERY finds a mapping", "its start, its end, its permissions")
{
    char *at = island(3);
    struct query q = {.query_addr = (long)at + P};
    OK(maps_query(&q));
    EQ(q.vma_start, at);
    EQ(q.vma_end, at + 3 * P);
    EQ(q.vma_flags, 3);
    EQ(q.vma_page_size, P);
}
CHECK("PROCMAP_QUERY of a hole", "ENOENT")
{
    struct query q = {.query_addr = (long)island(1) + P};
    ERR(maps_query(&q), ENOENT);
}
CHECK("PROCMAP_QUERY of a hole or the next", "flag 0x10: the mapping that follows")
{
    char *at = island(1);
    struct query q = {.query_addr = (long)at - P, .query_flags = 0x10};
    OK(maps_query(&q));
    EQ(q.vma_start, at);
}
CHECK("PROCMAP_QUERY by permission", "flag 1: readable; PROT_NONE is passed over")
{
    char *at = island_of(1, PROT_NONE, ANON);
    struct query q = {.query_addr = (long)at, .query_flags = 1};
    ERR(maps_query(&q), ENOENT);
}
CHECK("PROCMAP_QUERY of shared memory", "flag 8 in what it says")
{
    struct query q = {.query_addr = (long)island_of(1, PROT_READ, SHARED)};
    OK(maps_query(&q));
    EQ(q.vma_flags, 9);
}
CHECK("PROCMAP_QUERY with unknown flags is refused", "EINVAL")
{
    struct query q = {.query_addr = (long)island(1), .query_flags = 0x100};
    ERR(maps_query(&q), EINVAL);
}
CHECK("PROCMAP_QUERY of a name", "the text that maps has, and its length with the NUL")
{
    char name[64] = "", here;
    struct query q = {.query_addr = (long)&here, .vma_name_addr = (long)name, .vma_name_size = sizeof name};
    OK(maps_query(&q));
    IS(!strcmp(name, "[stack]"));
    EQ(q.vma_name_size, 8);
}
/* linux/fs.h has it since 6.7. */
struct region {
    uint64_t start, end, categories;
};
struct scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, returned;
};
#define SCAN _IOWR('f', 16, struct scan)
enum { IS_PRESENT = 1 << 3, IS_PFNZERO = 1 << 5, IS_SOFT_DIRTY = 1 << 7 };
static struct region regions[4];
/* How many regions of `n` pages it finds. */
static int scanned(char *at, long n, struct scan *scan)
{
    static int fd = -1;
    if (fd < 0)
        fd = open("/proc/self/pagemap", O_RDONLY);
    OK(fd);
    scan->size = sizeof *scan;
    scan->start = (long)at;
    scan->end = (long)at + n * P;
    scan->vec = (long)regions;
    scan->vec_len = sizeof regions / sizeof *regions;
    scan->returned = scan->returned ? scan->returned : IS_PRESENT;
    int result = ioctl(fd, SCAN, scan);
    if (result < 0 && errno == ENOTTY)
        absent("PAGEMAP_SCAN");
    return result;
}
/* Four pages of which the second and the third are there. */
static char *two_of_four(void)
{
    char *at = island(4);
    SINGLY(at, 4);
    at[P] = at[2 * P] = 1;
    return at;
}
CHECK("PAGEMAP_SCAN finds what is there", "a region for neighbours that are alike")
{
    char *at = two_of_four();
    struct scan scan = {.mask = IS_PRESENT};
    EQ(scanned(at, 4, &scan), 1);
    EQ(regions[0].start, at + P);
    EQ(regions[0].end, at + 3 * P);
    EQ(regions[0].categories, IS_PRESENT);
    EQ(scan.walk_end, at + 4 * P);
}
CHECK("PAGEMAP_SCAN finds what is not there", "a category that is inverted")
{
    char *at = two_of_four();
    struct scan scan = {.mask = IS_PRESENT, .inverted = IS_PRESENT};
    EQ(scanned(at, 4, &scan), 2);
    EQ(regions[0].start, at);
    EQ(regions[1].start, at + 3 * P);
}
CHECK("PAGEMAP_SCAN stops after max_pages", "walk_end says where")
{
    char *at = two_of_four();
    struct scan scan = {.mask = IS_PRESENT, .max_pages = 1};
    EQ(scanned(at, 4, &scan), 1);
    EQ(regions[0].end, at + 2 * P);
    EQ(scan.walk_end, at + 2 * P);
}
CHECK("PAGEMAP_SCAN knows the zero page", "a page that was read alone")
{
    char *at = island(1);
    SINGLY(at, 1);
    EQ(reading(at), 0);
    struct scan scan = {.mask = IS_PFNZERO, .returned = IS_PFNZERO | IS_PRESENT};
    EQ(scanned(at, 1, &scan), 1);
    EQ(regions[0].categories, IS_PFNZERO | IS_PRESENT);
}
CHECK("PAGEMAP_SCAN tells what is soft-dirty", "written since clear_refs 4; all of a mapping that is newer")
{
    char *at = soft_clean(4);
    struct scan scan = {.mask = IS_SOFT_DIRTY, .returned = IS_SOFT_DIRTY};
    EQ(scanned(at, 4, &scan), 0);
    at[P] = at[2 * P] = 9;
    EQ(scanned(at, 4, &scan), 1);
    EQ(regions[0].start, at + P);
    EQ(regions[0].end, at + 3 * P);
    EQ(regions[0].categories, IS_SOFT_DIRTY);
    at = island(4);
    EQ(scanned(at, 4, &scan), 1);
    EQ(regions[0].end - regions[0].start, 4 * P);
}
CHECK("PAGEMAP_SCAN with unknown bits is refused", "EINVAL")
{
    char *at = two_of_four();
    ERR(scanned(at, 4, &(struct scan){.flags = 1 << 8}), EINVAL);
    ERR(scanned(at, 4, &(struct scan){.mask = 1UL << 40}), EINVAL);
}
CHECK("PAGEMAP_SCAN at an odd address is refused", "EINVAL")
{
    ERR(scanned(two_of_four() + 1, 1, &(struct scan){.mask = IS_PRESENT}), EINVAL);
}

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif
#ifndef PR_SET_THP_DISABLE
#define PR_SET_THP_DISABLE 41
#define PR_GET_THP_DISABLE 42
#endif
CHECK("PR_SET_THP_DISABLE is told", "and is a child's, too")
{
    EQ(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 0);
    OK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    EQ(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
    CHILD EQ(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
}
CHECK("PR_SET_MEMORY_MERGE is for all mappings", "those that are there and those that come: mg in smaps")
{
    char *at = filled(1);
    if (prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) && errno == EINVAL)
        absent("PR_SET_MEMORY_MERGE");
    EQ(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0), 1);
    EQ(vm_flag(at, "mg"), 1);
    EQ(vm_flag(island(1), "mg"), 1);
    OK(prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
    EQ(vm_flag(at, "mg"), 0);
}
CHECK("a name for anonymous memory", "PR_SET_VMA_ANON_NAME: maps shows [anon:...]")
{
    char line[512], *at = island(1);
    if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at, P, "conform") && errno == EINVAL)
        absent("PR_SET_VMA_ANON_NAME");
    int found = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, file))
        found |= strstr(line, "[anon:conform]") != NULL;
    EQ(found, 1);
}
