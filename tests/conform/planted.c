/* A kernel that is wrong, as the checks see it: one call does not do what Linux does, or a file says something
 * else. Linked in by a test with --wrap for each call below. CONFORM_BUG names what is wrong. "list" prints all
 * names, each with a word of the checks that must see it. */
#include "conform.h"
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/shm.h>

/* Calls, by what is wrong with them. */
#define CALLS(X)                                                                                             \
    X("mmap zeroes", "mmap/") X("mmap MAP_FIXED", "mmap/fixed")                                              \
    X("mmap MAP_FIXED_NOREPLACE", "mmap/noreplace") X("mmap MAP_POPULATE", "mmap/populate")                  \
    X("mmap MAP_LOCKED", "mmap/locked") X("mmap MAP_32BIT", "mmap/32bit")                                    \
    X("mmap MAP_SHARED", "mmap/shared") X("mmap MAP_GROWSDOWN", "mmap/growsdown")                            \
    X("mmap offset", "mmap/an offset") X("mmap MAP_DROPPABLE", "mmap/droppable")                             \
    X("mmap hint", "mmap/a hint") X("mmap PROT_EXEC", "mmap/with PROT_EXEC")                                 \
    X("mmap all may run", "mmap/without PROT_EXEC") X("mmap PROT_NONE", "mmap/PROT_NONE")                    \
    X("mmap length", "mmap/a length of 0") X("munmap end", "munmap/")                                        \
    X("munmap length", "munmap/a length of 0") X("munmap nothing there", "munmap/nothing there")             \
    X("mprotect end", "mprotect/") X("mprotect hole", "mprotect/a hole")                                     \
    X("mprotect PROT_EXEC", "mprotect/exec") X("mprotect PROT_GROWSDOWN", "mprotect/PROT_GROWSDOWN")         \
    X("mremap bytes", "mremap/") X("mremap MREMAP_MAYMOVE", "mremap/larger without room")                    \
    X("mremap MREMAP_FIXED", "mremap/fixed") X("mremap MREMAP_DONTUNMAP", "mremap/dontunmap")                \
    X("mremap shrinks", "mremap/smaller") X("mremap old size 0", "mremap/an old size")                       \
    X("mremap unmaps", "mremap/fixed moves") X("mlock", "mlock/")                                            \
    X("mlock limit", "mlock/beyond the limit") X("munlock", "mlock/munlock") X("mlock2", "mlock/mlock2")     \
    X("mlock2 MLOCK_ONFAULT", "mlock/on fault") X("mlockall", "mlock/mlockall")                              \
    X("mlockall MCL_CURRENT", "mlock/mlockall locks")                                                        \
    X("mlockall MCL_FUTURE", "mlock/mlockall of the future")                                                 \
    X("mlockall MCL_ONFAULT", "mlock/mlockall on fault") X("munlockall", "mlock/munlockall")                 \
    X("mincore", "mincore/") X("mincore hole", "mincore/a hole") X("msync", "mincore/msync")                 \
    X("brk", "brk/") X("fork", "fork/") X("clone CLONE_VM", "fork/clone with")                               \
    X("clone copies", "fork/clone without") X("vmsplice", "remote/vmsplice")                                 \
    X("process_vm_readv", "remote/process_vm_readv") X("process_vm_writev", "remote/process_vm_writev")      \
    X("mseal", "newer/mseal") X("pidfd_open", "newer/pidfd") X("pidfd_send_signal", "newer/a pidfd sends")   \
    X("process_madvise", "newer/process_madvise") X("process_mrelease", "newer/process_mrelease")            \
    X("PROCMAP_QUERY end", "newer/PROCMAP_QUERY") X("PROCMAP_QUERY flags", "newer/PROCMAP_QUERY")            \
    X("PAGEMAP_SCAN", "newer/PAGEMAP_SCAN") X("PAGEMAP_SCAN mask", "newer/PAGEMAP_SCAN")                     \
    X("PAGEMAP_SCAN max_pages", "newer/PAGEMAP_SCAN") X("PR_SET_MDWE", "newer/mdwe")                         \
    X("PR_SET_VMA", "newer/a name") X("PR_SET_THP_DISABLE", "newer/PR_SET_THP_DISABLE")                      \
    X("PR_SET_MEMORY_MERGE", "newer/PR_SET_MEMORY_MERGE") X("mbind", "nodes/mbind")                          \
    X("set_mempolicy", "nodes/set_mempolicy") X("get_mempolicy", "nodes/")                                   \
    X("move_pages", "nodes/move_pages") X("migrate_pages", "nodes/migrate_pages")                            \
    X("UFFDIO_API", "userfaultfd/the api") X("UFFDIO_REGISTER", "userfaultfd/register splits")               \
    X("UFFDIO_UNREGISTER", "userfaultfd/unregister merges") X("UFFDIO_COPY", "userfaultfd/copy fills")       \
    X("UFFDIO_COPY dontwake", "userfaultfd/wake") X("UFFDIO_ZEROPAGE", "userfaultfd/zeropage")               \
    X("UFFDIO_WAKE", "userfaultfd/wake wakes")                                                               \
    X("UFFDIO_WRITEPROTECT", "userfaultfd/write protection shows") X("UFFDIO_MOVE", "userfaultfd/move")      \
    X("UFFDIO_CONTINUE", "userfaultfd/continue") X("UFFDIO_POISON", "userfaultfd/poison")                    \
    X("setrlimit AS", "limits/RLIMIT_AS") X("setrlimit DATA", "limits/RLIMIT_DATA")                          \
    X("setrlimit STACK", "limits/RLIMIT_STACK") X("setrlimit FSIZE", "limits/RLIMIT_FSIZE cuts")             \
    X("setrlimit MEMLOCK", "mlock/beyond the limit") X("setrlimit CPU", "limits/RLIMIT_CPU tells")           \
    X("prlimit", "limits/prlimit") X("write clear_refs", "proc/clear_refs")                                  \
    X("write clear_refs 4", "proc/soft-dirty says") X("mmap soft-dirty", "proc/soft-dirty is a mapping")     \
    X("mprotect soft-dirty", "proc/soft-dirty notices writes after") X("fork soft-dirty", "proc/soft-dirty is what it was") \
    X("mremap soft-dirty", "proc/soft-dirty is what mremap") X("madvise soft-dirty", "proc/soft-dirty stays") \
    X("pwrite soft-dirty", "proc/soft-dirty notices what a debugger")                                         \
    X("PAGEMAP_SCAN soft-dirty", "newer/PAGEMAP_SCAN tells")                                                  \
    X("write oom_score_adj", "proc/oom_score_adj") X("write oom_adj", "proc/oom_adj")                        \
    X("pread mem", "proc/mem reads") X("pwrite mem", "proc/mem writes")                                      \
    X("fallocate", "madvise/fallocate punches") X("fallocate parts", "madvise/fallocate punches")            \
    X("fallocate errors", "madvise/fallocate refuses") X("vfork", "fork/vfork") X("read", "remote/a read")    \
    X("write", "remote/a write") X("futex", "remote/a futex") X("poll", "newer/a pidfd is ready")             \
    X("waitid", "newer/a pidfd is waited") X("userfaultfd", "userfaultfd/unknown flags")                       \
    X("getrlimit", "limits/an unknown") X("ftruncate", "mmap/the rest") X("getrusage", "fork/minor faults")   \
    X("fcntl F_ADD_SEALS", "madvise/fallocate refuses") X("futex FUTEX_WAKE", "remote/futex words")           \
    X("shmget size", "shm/a segment has") X("shmget no size", "shm/a segment of no")                          \
    X("shmget IPC_EXCL", "shm/a key") X("shmat address", "shm/an address") X("shmat SHM_RDONLY", "shm/SHM_RDONLY") \
    X("shmat SHM_RND", "shm/SHM_RND") X("shmat SHM_REMAP", "shm/SHM_REMAP") X("shmdt", "shm/two attachments")  \
    X("shmdt anything", "shm/shmdt wants") X("shmctl IPC_RMID", "shm/a removed segment")                      \
    X("shmctl IPC_STAT", "shm/a child") X("memfd_create", "seals/a file takes")                               \
    X("fcntl F_GET_SEALS", "seals/seals are") X("fcntl F_SEAL_SEAL", "seals/F_SEAL_SEAL")                     \
    X("fcntl F_SEAL_SHRINK", "seals/F_SEAL_SHRINK") X("fcntl F_SEAL_GROW", "seals/F_SEAL_GROW")               \
    X("fcntl F_SEAL_WRITE", "seals/F_SEAL_WRITE refuses") X("fcntl EBUSY", "seals/F_SEAL_WRITE is")           \
    X("fcntl F_SEAL_FUTURE_WRITE", "seals/F_SEAL_FUTURE") X("madvise merges", "ksm/equal")                    \
    X("madvise takes apart", "ksm/MADV_UNMERGEABLE")

/* Advice that is not followed, and advice that costs the bytes. */
#define FORGOTTEN(X)                                                                                           \
    X(NORMAL) X(RANDOM) X(SEQUENTIAL) X(DONTNEED) X(FREE) X(REMOVE) X(DONTFORK) X(DOFORK) X(DONTDUMP)          \
    X(DODUMP) X(WIPEONFORK) X(KEEPONFORK) X(MERGEABLE) X(UNMERGEABLE) X(HUGEPAGE) X(NOHUGEPAGE)                \
    X(POPULATE_READ) X(POPULATE_WRITE) X(DONTNEED_LOCKED) X(COLLAPSE) X(GUARD_INSTALL) X(GUARD_REMOVE)         \
    X(HWPOISON) X(SOFT_OFFLINE)
#define LOSES(X)                                                                                               \
    X(NORMAL) X(RANDOM) X(SEQUENTIAL) X(WILLNEED) X(COLD) X(PAGEOUT) X(DONTFORK) X(DOFORK) X(DONTDUMP)         \
    X(DODUMP) X(WIPEONFORK) X(KEEPONFORK) X(MERGEABLE) X(UNMERGEABLE) X(HUGEPAGE) X(NOHUGEPAGE)                \
    X(POPULATE_READ) X(POPULATE_WRITE) X(COLLAPSE) X(GUARD_REMOVE)

/* A field of a file of /proc/self that says something else, a bit of pagemap that is another, a word of VmFlags
 * or of maps that is missing. */
#define SAID(X)                                                                                                \
    X("smaps Size", "proc/smaps has the size") X("smaps Rss", "proc/smaps counts")                             \
    X("smaps Pss", "proc/smaps has the share") X("smaps Referenced", "proc/smaps knows")                       \
    X("smaps Anonymous", "proc/smaps knows") X("smaps Private_Dirty", "proc/smaps knows")                      \
    X("smaps Shared_Dirty", "fork/Shared") X("smaps LazyFree", "madvise/FREE")                                 \
    X("smaps Swap", "proc/smaps says") X("smaps AnonHugePages", "madvise/COLLAPSE")                            \
    X("smaps KernelPageSize", "proc/smaps has") X("smaps MMUPageSize", "proc/smaps has")                       \
    X("smaps_rollup Rss", "proc/smaps_rollup") X("status VmSize", "proc/status")                               \
    X("status VmPeak", "proc/status") X("status VmRSS", "proc/status") X("status VmHWM", "proc/status")        \
    X("status RssAnon", "proc/status") X("status RssShmem", "proc/status") X("status VmStk", "proc/status")    \
    X("status VmPTE", "proc/status") X("status VmSwap", "proc/status") X("status VmData", "brk/")              \
    X("status VmLck", "mlock/counts") X("meminfo MemAvailable", "proc/meminfo") X("statm", "proc/statm")       \
    X("pagemap 55", "proc/soft-dirty") X("VmFlags sd", "proc/soft-dirty is all")                               \
    X("pagemap 56", "proc/pagemap") X("pagemap 57", "userfaultfd/write") X("pagemap 58", "proc/pagemap")       \
    X("pagemap 61", "proc/pagemap") X("pagemap 62", "proc/pagemap") X("pagemap 63", "proc/pagemap")            \
    X("pagemap frame", "proc/pagemap") X("maps [stack]", "proc/maps") X("maps [heap]", "brk/")                 \
    X("maps [anon:", "newer/a name") X("maps rw-s", "mmap/maps") X("maps r--p", "mmap/maps")                   \
    X("VmFlags rd", "proc/smaps") X("VmFlags wr", "proc/smaps") X("VmFlags ex", "proc/smaps")                  \
    X("VmFlags sh", "proc/smaps") X("VmFlags mr", "proc/smaps") X("VmFlags mw", "proc/smaps")                  \
    X("VmFlags me", "proc/smaps") X("VmFlags ms", "proc/smaps") X("VmFlags gd", "proc/smaps")                  \
    X("VmFlags ac", "proc/smaps") X("VmFlags nr", "proc/smaps") X("VmFlags lo", "mlock/")                      \
    X("VmFlags rr", "madvise/RANDOM") X("VmFlags sr", "madvise/SEQUENTIAL")                                    \
    X("VmFlags dc", "madvise/DONTFORK") X("VmFlags dd", "madvise/DONTDUMP")                                    \
    X("VmFlags wf", "madvise/WIPEONFORK") X("VmFlags mg", "madvise/MERGEABLE")                                 \
    X("VmFlags hg", "madvise/HUGEPAGE") X("VmFlags nh", "madvise/HUGEPAGE")                                    \
    X("VmFlags um", "userfaultfd/register splits") X("VmFlags uw", "userfaultfd/write protection shows")       \
    X("VmFlags sl", "newer/mseal") X("maps /SYSV", "shm/maps") X("smaps KSM", "ksm/equal")

static const char *bug(void)
{
    const char *found = getenv("CONFORM_BUG");
    return found ? found : "";
}
static int has(const char *what)
{
    return !strcmp(bug(), what);
}

__attribute__((constructor)) static void list(void)
{
    if (!has("list"))
        return;
#define ROW(name, words) puts(name "\t" words);
#define FORGOTTEN_ROW(name) puts("madvise " #name "\tmadvise/");
#define LOSES_ROW(name) puts("madvise loses " #name "\tmadvise/" #name);
    CALLS(ROW)
    FORGOTTEN(FORGOTTEN_ROW)
    LOSES(LOSES_ROW)
    SAID(ROW)
    fflush(stdout);
    _exit(0);
}

#define REAL(type, name, ...) type __real_##name(__VA_ARGS__); type __wrap_##name(__VA_ARGS__)

REAL(int, madvise, void *at, size_t length, int advice);
REAL(int, munmap, void *at, size_t length);
REAL(int, munlock, const void *at, size_t length);

ssize_t __real_write(int fd, const void *bytes, size_t length);
/* Nothing was written since. */
static void forget_writes(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY);
    __real_write(fd, "4", 1);
    close(fd);
}

REAL(void *, mmap, void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (has("mmap MAP_FIXED") && flags & MAP_FIXED)
        flags &= ~MAP_FIXED;
    if (has("mmap MAP_FIXED_NOREPLACE") && flags & MAP_FIXED_NOREPLACE)
        flags = (flags & ~MAP_FIXED_NOREPLACE) | MAP_FIXED;
    if (has("mmap MAP_POPULATE"))
        flags &= ~MAP_POPULATE;
    if (has("mmap MAP_LOCKED"))
        flags &= ~MAP_LOCKED;
    if (has("mmap MAP_32BIT"))
        flags &= ~MAP_32BIT;
    if (has("mmap MAP_GROWSDOWN"))
        flags &= ~MAP_GROWSDOWN;
    // What the checks themselves have from their start is shared.
    if (has("mmap MAP_SHARED") && at && flags & MAP_ANONYMOUS && (flags & MAP_TYPE) == MAP_SHARED)
        flags = (flags & ~MAP_TYPE) | MAP_PRIVATE;
    if (has("mmap MAP_DROPPABLE") && (flags & MAP_TYPE) == MAP_DROPPABLE)
        flags = (flags & ~MAP_TYPE) | MAP_PRIVATE;
    if (has("mmap offset") && offset % P == 0)
        offset = 0;
    if (has("mmap hint") && !(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)))
        at = NULL;
    if (has("mmap PROT_EXEC"))
        protection &= ~PROT_EXEC;
    if (has("mmap all may run") && protection)
        protection |= PROT_EXEC;
    if (has("mmap PROT_NONE") && protection == PROT_NONE)
        protection = PROT_READ;
    if (has("mmap length") && length == 0)
        length = P;
    char *found = __real_mmap(at, length, protection, flags, fd, offset);
    // Memory that somebody else used.
    if (has("mmap zeroes") && found != MAP_FAILED && protection & PROT_WRITE && flags & MAP_ANONYMOUS && length <= 8 * P)
        found[length / 2] = 7;
    if (has("mmap soft-dirty") && at && flags & MAP_ANONYMOUS)
        forget_writes();
    return found;
}
REAL(int, munmap, void *at, size_t length)
{
    unsigned char vector[64];
    if (has("munmap length") && length == 0)
        return 0;
    if (has("munmap nothing there") && length <= 64 * P && mincore(at, length, vector))
        return errno = ENOMEM, -1;
    return __real_munmap(at, has("munmap end") && length > (size_t)P ? length - P : length);
}
REAL(int, mprotect, void *at, size_t length, int protection)
{
    if (has("mprotect PROT_EXEC"))
        protection &= ~PROT_EXEC;
    if (has("mprotect PROT_GROWSDOWN"))
        protection &= ~PROT_GROWSDOWN;
    int result = __real_mprotect(at, has("mprotect end") && length > (size_t)P ? length - P : length, protection);
    if (has("mprotect soft-dirty") && protection & PROT_WRITE && result == 0)
        *(volatile char *)at = *(volatile char *)at;
    return has("mprotect hole") && result && errno == ENOMEM ? 0 : result;
}
REAL(int, madvise, void *at, size_t length, int advice)
{
    int is_odd = (unsigned long)at % P != 0 || (long)length < 0;
#define FORGETS(name) || (advice == MADV_##name && has("madvise " #name))
    if (!is_odd && (0 FORGOTTEN(FORGETS)))
        return 0;
    if ((has("madvise merges") && advice == MADV_MERGEABLE) || (has("madvise takes apart") && advice == MADV_UNMERGEABLE))
        return 0;
    int result = __real_madvise(at, length, advice);
#define DROPS(name) || (advice == MADV_##name && has("madvise loses " #name))
    if (result == 0 && (0 LOSES(DROPS)))
        __real_madvise(at, length, MADV_DONTNEED);
    if (has("madvise soft-dirty") && advice == MADV_PAGEOUT)
        forget_writes();
    return result;
}
REAL(int, fallocate, int fd, int mode, off_t offset, off_t length)
{
    if (has("fallocate") && mode & FALLOC_FL_PUNCH_HOLE)
        return 0;
    if (has("fallocate parts") && mode & FALLOC_FL_PUNCH_HOLE && offset > 0) {
        length += offset % P;
        offset -= offset % P;
    }
    int result = __real_fallocate(fd, mode, offset, length);
    return has("fallocate errors") && result && errno != EBADF ? 0 : result;
}
REAL(int, mlock, const void *at, size_t length)
{
    int result = has("mlock") ? 0 : __real_mlock(at, length);
    return has("mlock limit") && result && (errno == ENOMEM || errno == EPERM) ? 0 : result;
}
REAL(int, munlock, const void *at, size_t length)
{
    return has("munlock") ? 0 : __real_munlock(at, length);
}
REAL(int, mlockall, int what)
{
    if (has("mlockall"))
        return 0;
    if (has("mlockall MCL_CURRENT") && what & MCL_FUTURE)
        what &= ~MCL_CURRENT;
    else if (has("mlockall MCL_CURRENT") && what == MCL_CURRENT)
        return 0;
    if (has("mlockall MCL_FUTURE") && what & MCL_FUTURE)
        what = (what & ~MCL_FUTURE) | MCL_CURRENT;
    if (has("mlockall MCL_ONFAULT") && what > MCL_ONFAULT)
        what &= ~MCL_ONFAULT;
    return __real_mlockall(what);
}
REAL(int, munlockall, void)
{
    return has("munlockall") ? 0 : __real_munlockall();
}
REAL(int, mincore, void *at, size_t length, unsigned char *vector)
{
    int result = __real_mincore(at, length, vector);
    if (has("mincore") && result == 0 && length)
        vector[(length - 1) / P] ^= 1;
    return has("mincore hole") && result && errno == ENOMEM ? 0 : result;
}
REAL(int, msync, void *at, size_t length, int flags)
{
    return has("msync") ? 0 : __real_msync(at, length, flags);
}
REAL(int, setrlimit, int resource, const struct rlimit *limit)
{
    static const struct { const char *bug; int resource; } all[] = {
        {"setrlimit AS", RLIMIT_AS}, {"setrlimit DATA", RLIMIT_DATA}, {"setrlimit STACK", RLIMIT_STACK},
        {"setrlimit FSIZE", RLIMIT_FSIZE}, {"setrlimit MEMLOCK", RLIMIT_MEMLOCK}, {"setrlimit CPU", RLIMIT_CPU},
    };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (has(all[i].bug) && all[i].resource == resource)
            return 0;
    return __real_setrlimit(resource, limit);
}
REAL(int, prlimit, pid_t pid, int resource, const struct rlimit *new, struct rlimit *old)
{
    return __real_prlimit(pid, resource, has("prlimit") ? NULL : new, old);
}
REAL(int, getrlimit, int resource, struct rlimit *limit)
{
    int result = __real_getrlimit(resource, limit);
    return has("getrlimit") && result && errno == EINVAL ? 0 : result;
}
REAL(int, ftruncate, int fd, off_t length)
{
    return has("ftruncate") && length % P ? 0 : __real_ftruncate(fd, length);
}
REAL(int, getrusage, int who, struct rusage *usage)
{
    int result = __real_getrusage(who, usage);
    if (has("getrusage") && result == 0)
        usage->ru_minflt = 0;
    return result;
}
REAL(int, fcntl, int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    long argument = va_arg(rest, long);
    va_end(rest);
    if (has("fcntl F_ADD_SEALS") && command == F_ADD_SEALS)
        return 0;
    static const struct { const char *bug; int seal; } all[] = {
        {"fcntl F_SEAL_SEAL", F_SEAL_SEAL}, {"fcntl F_SEAL_SHRINK", F_SEAL_SHRINK}, {"fcntl F_SEAL_GROW", F_SEAL_GROW},
        {"fcntl F_SEAL_WRITE", F_SEAL_WRITE}, {"fcntl F_SEAL_FUTURE_WRITE", 0x10},
    };
    static int forgotten;
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (has(all[i].bug) && command == F_ADD_SEALS) {
            forgotten |= argument & all[i].seal;
            argument &= ~all[i].seal;
        }
    int result = __real_fcntl(fd, command, argument);
    if (command == F_GET_SEALS && result >= 0)
        return has("fcntl F_GET_SEALS") ? 0 : result | forgotten;
    return has("fcntl EBUSY") && result && errno == EBUSY ? 0 : result;
}
REAL(int, memfd_create, const char *name, unsigned flags)
{
    return __real_memfd_create(name, has("memfd_create") ? flags | MFD_ALLOW_SEALING : flags);
}
REAL(int, shmget, key_t key, size_t bytes, int flags)
{
    if (has("shmget IPC_EXCL"))
        flags &= ~IPC_EXCL;
    if (has("shmget size"))
        bytes += -bytes % P;
    // A number of none: what would be made would stay.
    return has("shmget no size") && bytes == 0 ? 0 : __real_shmget(key, bytes, flags);
}
REAL(void *, shmat, int id, const void *at, int flags)
{
    if (has("shmat SHM_RDONLY"))
        flags &= ~SHM_RDONLY;
    if (has("shmat SHM_RND"))
        flags &= ~SHM_RND;
    if (has("shmat SHM_REMAP"))
        flags &= ~SHM_REMAP;
    return __real_shmat(id, has("shmat address") ? NULL : at, flags);
}
REAL(int, shmdt, const void *at)
{
    int result = has("shmdt") ? 0 : __real_shmdt(at);
    return has("shmdt anything") ? 0 : result;
}
/* Segments that are gone are not left behind: the kernel only says that they are there. */
REAL(int, shmctl, int id, int command, struct shmid_ds *ds)
{
    int result = __real_shmctl(id, command, ds);
    if (has("shmctl IPC_STAT") && command == IPC_STAT && result == 0)
        ds->shm_nattch = 1;
    return has("shmctl IPC_RMID") && result && command == IPC_STAT ? 0 : result;
}
/* A child that shares nothing that it should. */
REAL(pid_t, fork, void)
{
    pid_t child = __real_fork();
    if (child == 0 && has("fork soft-dirty"))
        forget_writes();
    char line[512];
    unsigned long start, end;
    FILE *file = child == 0 && has("fork") ? fopen("/proc/self/maps", "r") : NULL;
    while (file && fgets(line, sizeof line, file))
        if (strstr(line, "rw-p 00000000 00:00 0 \n") && sscanf(line, "%lx-%lx ", &start, &end) == 2)
            __real_madvise((void *)start, end - start, MADV_DONTNEED);
    return child;
}
/* A child with memory of its own. A jump: the child returns where its parent does, on the same stack. */
extern pid_t __real_vfork(void);
pid_t (*vfork_is)(void) = __real_vfork;
__asm__(".globl __wrap_vfork\n__wrap_vfork: jmp *vfork_is(%rip)\n");
__attribute__((constructor)) static void choose_vfork(void)
{
    if (has("vfork"))
        vfork_is = __real_fork;
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
REAL(ssize_t, process_vm_writev, pid_t pid, const struct iovec *local, unsigned long locals,
     const struct iovec *remote, unsigned long remotes, unsigned long flags)
{
    if (has("process_vm_writev") && locals == 1 && remotes == 1)
        return local->iov_len;
    return __real_process_vm_writev(pid, local, locals, remote, remotes, flags);
}

/* Whether the descriptor is of /proc/self/NAME, and the bug is `what`. */
static int is_of(int fd, const char *name, const char *what)
{
    char link[64], path[256];
    if (strcmp(bug(), what))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    char *last = strrchr(path, '/');
    return last && !strcmp(last + 1, name);
}
REAL(ssize_t, write, int fd, const void *bytes, size_t length)
{
    int is_lost = is_of(fd, "clear_refs", "write clear_refs") || is_of(fd, "clear_refs", "write clear_refs 4") || is_of(fd, "oom_score_adj", "write oom_score_adj") ||
                  is_of(fd, "oom_adj", "write oom_adj");
    ssize_t done = is_lost ? (ssize_t)length : __real_write(fd, bytes, length);
    return has("write") && done < 0 && errno == EFAULT ? (ssize_t)length : done;
}
REAL(ssize_t, read, int fd, void *bytes, size_t length)
{
    ssize_t done = __real_read(fd, bytes, length);
    return has("read") && done < 0 && errno == EFAULT ? (ssize_t)length : done;
}
/* Ready, whatever it is asked for; and a process that ended with nothing. */
REAL(int, poll, struct pollfd *all, nfds_t count, int timeout)
{
    if (has("poll") && count == 1)
        return all->revents = all->events, 1;
    return __real_poll(all, count, timeout);
}
REAL(int, waitid, idtype_t type, id_t id, siginfo_t *info, int options)
{
    int result = __real_waitid(type, id, info, options);
    if (has("waitid"))
        memset(info, 0, sizeof *info);
    return result;
}
REAL(ssize_t, pread, int fd, void *bytes, size_t length, off_t at)
{
    if (is_of(fd, "mem", "pread mem"))
        return length;
    ssize_t got = __real_pread(fd, bytes, length, at);
    if (got == 8 && !strncmp(bug(), "pagemap ", 8) && is_of(fd, "pagemap", bug()))
        *(uint64_t *)bytes ^= has("pagemap frame") ? (uint64_t)rand() << 12 : 1UL << atoi(bug() + 8);
    return got;
}
REAL(ssize_t, pwrite, int fd, const void *bytes, size_t length, off_t at)
{
    ssize_t put = is_of(fd, "mem", "pwrite mem") ? (ssize_t)length : __real_pwrite(fd, bytes, length, at);
    if (is_of(fd, "mem", "pwrite soft-dirty"))
        forget_writes();
    return put;
}

/* Changes the line if it is what the bug is about; `last` is the number of the line that the field follows. */
static void change(char *line, const char *file)
{
    char *at, *word = strchr(bug(), ' ');
    size_t length = word ? strlen(++word) : 0;
    static long now;
    if (!strcmp(file, "statm") && has("statm"))
        line[0] = line[0] == '9' ? '8' : '9';
    if (!word)
        return;
    if (!strcmp(file, "smaps") && !strncmp(bug(), "VmFlags ", 8) && !strncmp(line, "VmFlags:", 8)) {
        for (at = line + 8; (at = strstr(at, word)); at += 2)
            if (at[-1] == ' ' && at[2] == ' ')
                memcpy(at, "??", 2);
        return;
    }
    size_t named = strlen(file);
    if (strncmp(bug(), file, named) || bug()[named] != ' ')
        return;
    if (!strcmp(file, "maps")) {
        if ((at = strstr(line, word)))
            memset(at, '-', length);
        return;
    }
    // The peaks come before what they are peaks of, in kB.
    if (strncmp(line, word, length) || line[length] != ':')
        return;
    long number = strtol(line + length + 1, NULL, 10);
    now += !strcmp(word, "VmHWM") || !strcmp(word, "VmPeak") ? -4096 : 0;
    sprintf(line + length + 1, " %ld kB\n", now ? number + now : 3 * number + 4);
}
REAL(FILE *, fopen, const char *path, const char *mode)
{
    FILE *file = __real_fopen(path, mode);
    const char *name = strrchr(path, '/');
    if (!file || !*bug() || strncmp(path, "/proc/", 6))
        return file;
    FILE *changed = tmpfile();
    char line[1024];
    while (fgets(line, sizeof line - 64, file)) {
        change(line, name + 1);
        fputs(line, changed);
    }
    fclose(file);
    rewind(changed);
    return changed;
}

/* Those with any number of arguments: six are always there to read. */
REAL(void *, mremap, void *at, size_t old, size_t new, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    void *to = va_arg(rest, void *);
    va_end(rest);
    if (has("mremap MREMAP_MAYMOVE"))
        flags |= MREMAP_MAYMOVE;
    if (has("mremap MREMAP_FIXED"))
        flags &= ~MREMAP_FIXED;
    if (has("mremap MREMAP_DONTUNMAP"))
        flags &= ~MREMAP_DONTUNMAP;
    if (has("mremap shrinks") && new && new < old && !(flags & MREMAP_FIXED))
        return at;
    if (has("mremap old size 0") && old == 0)
        return errno = EINVAL, MAP_FAILED;
    char *found = __real_mremap(at, old, new, flags, to);
    if (found == MAP_FAILED || found == at)
        return found;
    if (has("mremap soft-dirty"))
        forget_writes();
    if (has("mremap bytes"))
        __real_madvise(found, P, MADV_DONTNEED);
    if (has("mremap unmaps"))
        __real_mmap(at, old, PROT_READ, ANON | MAP_FIXED, -1, 0);
    return found;
}
REAL(int, clone, int (*run)(void *), void *stack, int flags, void *argument, ...)
{
    if (has("clone CLONE_VM"))
        flags &= ~CLONE_VM;
    if (has("clone copies"))
        flags |= CLONE_VM;
    return __real_clone(run, stack, flags, argument);
}
REAL(int, prctl, int option, ...)
{
    long a[4];
    va_list rest;
    va_start(rest, option);
    for (int i = 0; i < 4; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if ((has("PR_SET_MDWE") && option == 65) || (has("PR_SET_VMA") && option == 0x53564d41) ||
        (has("PR_SET_THP_DISABLE") && option == 41) || (has("PR_SET_MEMORY_MERGE") && option == 67))
        return 0;
    return __real_prctl(option, a[0], a[1], a[2], a[3]);
}

/* The fields that matter of PROCMAP_QUERY and PAGEMAP_SCAN, which older headers lack. */
struct maps_query { uint64_t size, flags, at, start, end, vma_flags; };
struct scan { uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, returned; };

static int fill(int fd, uint64_t at, uint64_t length, int64_t *out)
{
    char *from = __real_mmap(NULL, length, RW, ANON, -1, 0);
    memset(from, 7, length);
    struct uffdio_copy copy = {.dst = at, .src = (long)from, .len = length};
    extern int __real_ioctl(int fd, unsigned long request, ...);
    int result = __real_ioctl(fd, UFFDIO_COPY, &copy);
    *out = copy.copy;
    return result;
}
REAL(int, ioctl, int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    unsigned number = request & 0xff, kind = request >> 8 & 0xff;
    if (kind == 'f' && number == 17) {
        struct maps_query *query = argument;
        if (has("PROCMAP_QUERY flags"))
            query->flags = 0;
        int result = __real_ioctl(fd, request, argument);
        query->end += has("PROCMAP_QUERY end") ? P : 0;
        return result;
    }
    if (kind == 'f' && number == 16) {
        struct scan *scan = argument;
        if (has("PAGEMAP_SCAN"))
            return scan->walk_end = scan->end, 0;
        if (has("PAGEMAP_SCAN mask"))
            scan->mask = scan->inverted = 0;
        if (has("PAGEMAP_SCAN soft-dirty"))
            scan->mask &= ~(1UL << 7);
        if (has("PAGEMAP_SCAN max_pages"))
            scan->max_pages = 0;
        return __real_ioctl(fd, request, argument);
    }
    if (has("UFFDIO_API") && request == UFFDIO_API) {
        int result = __real_ioctl(fd, request, argument);
        ((struct uffdio_api *)argument)->ioctls = 0;
        return result;
    }
    if (has("UFFDIO_REGISTER") && request == UFFDIO_REGISTER)
        return ((struct uffdio_register *)argument)->ioctls = ~0UL, 0;
    if ((has("UFFDIO_UNREGISTER") && request == UFFDIO_UNREGISTER) || (has("UFFDIO_WAKE") && request == UFFDIO_WAKE) ||
        (has("UFFDIO_WRITEPROTECT") && request == UFFDIO_WRITEPROTECT))
        return 0;
    if (has("UFFDIO_COPY") && request == UFFDIO_COPY) {
        struct uffdio_copy *copy = argument;
        struct uffdio_zeropage zero = {.range = {copy->dst, copy->len}};
        int result = __real_ioctl(fd, UFFDIO_ZEROPAGE, &zero);
        copy->copy = zero.zeropage;
        return result;
    }
    if (has("UFFDIO_COPY dontwake") && request == UFFDIO_COPY)
        ((struct uffdio_copy *)argument)->mode = 0;
    if (has("UFFDIO_ZEROPAGE") && request == UFFDIO_ZEROPAGE) {
        struct uffdio_zeropage *zero = argument;
        return fill(fd, zero->range.start, zero->range.len, &zero->zeropage);
    }
    // A copy where the page itself should go.
    if (has("UFFDIO_MOVE") && kind == UFFDIO && number == 5) {
        struct uffdio_copy *move = argument;
        return move->mode = 0, __real_ioctl(fd, UFFDIO_COPY, argument);
    }
    if (has("UFFDIO_CONTINUE") && kind == UFFDIO && number == 7)
        return ((struct uffdio_zeropage *)argument)->zeropage = P, 0;
    if (has("UFFDIO_POISON") && kind == UFFDIO && number == 8) {
        struct uffdio_zeropage *poison = argument;
        return fill(fd, poison->range.start, poison->range.len, &poison->zeropage);
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
    static const struct { const char *bug; long number; } forgotten[] = {
        {"mseal", 462}, {"mlock2", SYS_mlock2}, {"process_madvise", 440}, {"process_mrelease", 448},
        {"pidfd_send_signal", 424}, {"mbind", SYS_mbind}, {"set_mempolicy", SYS_set_mempolicy},
        {"get_mempolicy", SYS_get_mempolicy}, {"move_pages", SYS_move_pages}, {"migrate_pages", SYS_migrate_pages},
    };
    for (unsigned i = 0; i < sizeof forgotten / sizeof *forgotten; i++)
        if (has(forgotten[i].bug) && forgotten[i].number == number)
            return 0;
    if (has("brk") && number == SYS_brk && a[0])
        return 0;
    if (has("pidfd_open") && number == 434)
        return open("/dev/null", O_RDONLY);
    if (has("userfaultfd") && number == SYS_userfaultfd)
        a[0] &= O_CLOEXEC | O_NONBLOCK;
    if (has("futex FUTEX_WAKE") && number == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAKE)
        return 0;
    if (has("mlock2 MLOCK_ONFAULT") && number == SYS_mlock2)
        a[2] &= ~1L;
    long result = __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    return has("futex") && number == SYS_futex && result < 0 && errno == EFAULT ? 0 : result;
}
