/* madvise: all advice; what every advice has in common is asked of every one. */
#include "conform.h"
#include <limits.h>
#define GROUP "madvise"

/* Some kernels are built without some advice: EINVAL for every mapping. */
static void try(void *at, int advice)
{
    if (madvise(at, P, advice) == -1 && errno == EINVAL)
        absent("this advice");
}

/* Advice that any anonymous mapping takes; what it does to contents comes below. */
#define EVERY(X)                                                                                               \
    X(NORMAL) X(RANDOM) X(SEQUENTIAL) X(WILLNEED) X(DONTNEED) X(FREE) X(DONTFORK) X(DOFORK) X(DONTDUMP)        \
    X(DODUMP) X(WIPEONFORK) X(KEEPONFORK) X(COLD) X(PAGEOUT) X(POPULATE_READ) X(POPULATE_WRITE)                \
    X(DONTNEED_LOCKED) X(GUARD_INSTALL) X(GUARD_REMOVE) X(MERGEABLE) X(UNMERGEABLE) X(HUGEPAGE) X(NOHUGEPAGE)
#define TAKEN(NAME)                                                                                            \
    CHECK(#NAME " is taken", "private anonymous memory takes it") { try(filled(2), MADV_##NAME); }
#define EMPTY(NAME)                                                                                            \
    CHECK(#NAME " of nothing", "a length of 0 is no error, wherever it is")                                    \
    {                                                                                                          \
        try(filled(1), MADV_##NAME);                                                                           \
        OK(madvise(island(1) - P, 0, MADV_##NAME));                                                            \
    }
#define ODD(NAME)                                                                                              \
    CHECK(#NAME " at an odd address is refused", "EINVAL")                                                     \
    {                                                                                                          \
        ERR(madvise(filled(2) + 1, P, MADV_##NAME), EINVAL);                                                   \
    }
#define WRAPS(NAME)                                                                                            \
    CHECK(#NAME " of a range that wraps around is refused", "EINVAL")                                          \
    {                                                                                                          \
        ERR(madvise(filled(2), -2 * P, MADV_##NAME), EINVAL);                                                  \
    }
EVERY(TAKEN)
EVERY(EMPTY)
EVERY(ODD)
EVERY(WRAPS)

/* Advice that goes from mapping to mapping and says at its end that there was a hole. */
#define WALKS(X)                                                                                               \
    X(RANDOM) X(SEQUENTIAL) X(DONTNEED) X(FREE) X(DONTFORK) X(DONTDUMP) X(WIPEONFORK) X(COLD) X(PAGEOUT)       \
    X(POPULATE_READ) X(POPULATE_WRITE) X(GUARD_INSTALL) X(NOHUGEPAGE)
#define HOLE(NAME)                                                                                             \
    CHECK(#NAME " over a hole", "ENOMEM; what is mapped before the hole was advised")                          \
    {                                                                                                          \
        char *at = filled(3);                                                                                  \
        try(at, MADV_##NAME);                                                                                  \
        OK(munmap(at + P, P));                                                                                 \
        ERR(madvise(at, 3 * P, MADV_##NAME), ENOMEM);                                                          \
    }
WALKS(HOLE)

/* Advice that changes no byte. */
#define HARMLESS(X)                                                                                            \
    X(NORMAL) X(RANDOM) X(SEQUENTIAL) X(WILLNEED) X(DONTFORK) X(DOFORK) X(DONTDUMP) X(DODUMP) X(WIPEONFORK)    \
    X(KEEPONFORK) X(COLD) X(PAGEOUT) X(POPULATE_READ) X(POPULATE_WRITE) X(GUARD_REMOVE) X(HUGEPAGE)            \
    X(NOHUGEPAGE) X(MERGEABLE) X(UNMERGEABLE)
#define KEEPS(NAME)                                                                                            \
    CHECK(#NAME " keeps the bytes", "advice about use is no license to lose data")                             \
    {                                                                                                          \
        char *at = filled(3);                                                                                  \
        try(at, MADV_##NAME);                                                                                  \
        OK(madvise(at, 3 * P, MADV_##NAME));                                                                   \
        for (long i = 0; i < 3; i++)                                                                           \
            EQ(at[i * P], i + 1);                                                                              \
    }
HARMLESS(KEEPS)

/* Advice that becomes an attribute of the mapping: it splits it, and its opposite merges it again. */
#define ATTRIBUTES(X)                                                                                          \
    X(RANDOM, NORMAL, "rr") X(SEQUENTIAL, NORMAL, "sr") X(DONTFORK, DOFORK, "dc") X(DONTDUMP, DODUMP, "dd")    \
    X(WIPEONFORK, KEEPONFORK, "wf") X(MERGEABLE, UNMERGEABLE, "mg")
#define ATTRIBUTE(NAME, OPPOSITE, FLAG)                                                                        \
    CHECK(#NAME " is an attribute", "VmFlags in smaps has " FLAG)                                              \
    {                                                                                                          \
        char *at = filled(3);                                                                                  \
        try(at + P, MADV_##NAME);                                                                              \
        EQ(vm_flag(at + P, FLAG), 1);                                                                          \
        EQ(vm_flag(at, FLAG), 0);                                                                              \
    }                                                                                                          \
    CHECK(#NAME " of a part splits", "a mapping has one set of attributes")                                    \
    {                                                                                                          \
        char *at = filled(3);                                                                                  \
        try(at + P, MADV_##NAME);                                                                              \
        EQ(mappings(at, 3), 3);                                                                                \
    }                                                                                                          \
    CHECK(#OPPOSITE " after " #NAME " merges", "and takes the attribute away")                                 \
    {                                                                                                          \
        char *at = filled(3);                                                                                  \
        try(at + P, MADV_##NAME);                                                                              \
        OK(madvise(at, 3 * P, MADV_##OPPOSITE));                                                               \
        EQ(mappings(at, 3), 1);                                                                                \
        EQ(vm_flag(at, FLAG), 0);                                                                              \
    }
ATTRIBUTES(ATTRIBUTE)

/* Advice that drops pages. */
#define DROPS(X) X(DONTNEED) X(DONTNEED_LOCKED) X(GUARD_INSTALL)
#define DROPPED(NAME)                                                                                          \
    CHECK(#NAME " frees the pages", "RssAnon falls at once")                                                   \
    {                                                                                                          \
        char *at = filled(512);                                                                                \
        try(at, MADV_##NAME);                                                                                  \
        long before = status_kb("RssAnon");                                                                    \
        OK(madvise(at, 512 * P, MADV_##NAME));                                                                 \
        IS(before - status_kb("RssAnon") >= 2000);                                                             \
    }                                                                                                          \
    CHECK(#NAME " of a child's page", "its parent keeps its own")                                              \
    {                                                                                                          \
        char *at = filled(1);                                                                                  \
        CHILD try(at, MADV_##NAME);                                                                            \
        EQ(at[0], 1);                                                                                          \
    }
DROPS(DROPPED)

CHECK("unknown advice is refused", "EINVAL")
{
    ERR(madvise(island(1), P, 5), EINVAL);
    ERR(madvise(island(1), P, 1000), EINVAL);
    ERR(madvise(island(1), P, -1), EINVAL);
}
CHECK("DONTNEED gives zeroes", "the next access finds a new page")
{
    char *at = filled(3);
    OK(madvise(at, 3 * P, MADV_DONTNEED));
    EQ(at[0], 0);
    EQ(at[2 * P], 0);
}
CHECK("DONTNEED leaves nothing resident", "the pages are gone at once")
{
    char *at = filled(3);
    OK(madvise(at, 2 * P, MADV_DONTNEED));
    EQ(resident(at, 3), 1);
}
CHECK("DONTNEED of a private file gives the file", "what was stored is dropped")
{
    char *at = mmap(NULL, P, RW, MAP_PRIVATE, file_of(1), 0);
    at[0] = 'z';
    OK(madvise(at, P, MADV_DONTNEED));
    EQ(at[0], 'a');
}
CHECK("DONTNEED of shared memory keeps the object", "only the mapping forgets")
{
    char *at = island_of(1, RW, SHARED);
    at[0] = 5;
    OK(madvise(at, P, MADV_DONTNEED));
    EQ(at[0], 5);
}
CHECK("DONTNEED of locked memory is refused", "EINVAL")
{
    char *at = filled(1);
    OK(mlock(at, P));
    ERR(madvise(at, P, MADV_DONTNEED), EINVAL);
    EQ(at[0], 1);
}
CHECK("DONTNEED_LOCKED of locked memory", "since 5.18: zeroes, and locked still")
{
    char *at = filled(1);
    OK(mlock(at, P));
    try(at, MADV_DONTNEED_LOCKED);
    EQ(at[0], 0);
    EQ(vm_flag(at, "lo"), 1);
}
CHECK("DONTNEED of PROT_NONE", "needs no permission")
{
    char *at = filled(1);
    OK(mprotect(at, P, PROT_NONE));
    OK(madvise(at, P, MADV_DONTNEED));
    OK(mprotect(at, P, PROT_READ));
    EQ(at[0], 0);
}
CHECK("FREE of what is written again keeps it", "a store takes the advice back")
{
    char *at = filled(2);
    OK(madvise(at, 2 * P, MADV_FREE));
    at[0] = 9;
    EQ(at[0], 9);
}
CHECK("FREE leaves the page readable", "the old byte or zero, by how short memory is")
{
    char *at = filled(1);
    OK(madvise(at, P, MADV_FREE));
    char found = at[0];
    IS(found == 1 || found == 0);
}
CHECK("FREE has a field in smaps", "LazyFree; Linux counts a page when its batch is full")
{
    char *at = filled(4);
    OK(madvise(at, 4 * P, MADV_FREE));
    IS(smaps(at, "LazyFree") >= 0);
}
CHECK("FREE counts pages as free to go", "LazyFree, but for the last that wait in a batch")
{
    char *at = filled(512);
    SINGLY(at, 512);
    OK(madvise(at, 512 * P, MADV_FREE));
    IS(smaps(at, "LazyFree") >= 1024 && smaps(at, "LazyFree") <= 2048);
}
CHECK("FREE of shared memory is refused", "EINVAL: anonymous private memory only")
{
    ERR(madvise(island_of(1, RW, SHARED), P, MADV_FREE), EINVAL);
}
CHECK("FREE of a private file is refused", "EINVAL")
{
    ERR(madvise(mmap(NULL, P, RW, MAP_PRIVATE, file_of(1), 0), P, MADV_FREE), EINVAL);
}
CHECK("FREE of locked memory is refused", "EINVAL")
{
    char *at = filled(1);
    OK(mlock(at, P));
    ERR(madvise(at, P, MADV_FREE), EINVAL);
}
CHECK("REMOVE of shared memory punches a hole", "all mappers read zeroes")
{
    char *at = island_of(2, RW, SHARED);
    at[0] = at[P] = 5;
    CHILD OK(madvise(at, P, MADV_REMOVE));
    EQ(at[0], 0);
    EQ(at[P], 5);
}
CHECK("REMOVE of private memory is refused", "EINVAL")
{
    ERR(madvise(filled(1), P, MADV_REMOVE), EINVAL);
}
CHECK("REMOVE of a mapping that is read-only now", "what counts is that it might be written to: VM_MAYWRITE")
{
    OK(madvise(island_of(1, PROT_READ, SHARED), P, MADV_REMOVE));
}
CHECK("fallocate punches a hole into what is mapped", "whole pages go, of others the part becomes zero; the length stays")
{
    int fd = file_of(4);
    char *at = mmap(NULL, 4 * P, RW, MAP_SHARED, fd, 0);
    at[3 * P] = 'D';
    OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, P / 2, 2 * P));
    EQ(at[P / 2 - 1], 'a');
    IS(at[P / 2] == 0 && at[P] == 0 && at[2 * P - 1] == 0 && at[5 * P / 2 - 1] == 0);
    EQ(at[5 * P / 2], 'c');
    EQ(at[3 * P], 'D');
    at[P] = 7;
    char c;
    EQ(pread(fd, &c, 1, P), 1);
    EQ(c, 7);
    EQ(lseek(fd, 0, SEEK_END), 4 * P);
}
CHECK("fallocate punches a hole into what nobody maps", "whole pages go, of others the part becomes zero; the length stays")
{
    int fd = file_of(4);
    OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, P / 2, 2 * P));
    OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * P + 1, 2));
    OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 9 * P, P));
    char bytes[5 * P];
    EQ(pread(fd, bytes, 5 * P, 0), 4 * P);
    EQ(bytes[P / 2 - 1], 'a');
    IS(bytes[P / 2] == 0 && bytes[P] == 0 && bytes[2 * P - 1] == 0 && bytes[5 * P / 2 - 1] == 0);
    EQ(bytes[5 * P / 2], 'c');
    IS(bytes[3 * P] == 'd' && bytes[3 * P + 1] == 0 && bytes[3 * P + 2] == 0 && bytes[3 * P + 3] == 'd');
}
CHECK("fallocate refuses a hole that makes no sense", "vfs_fallocate asks in this order; a sealed file is not written")
{
    const int hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    int fd = file_of(1), ends[2];
    ERR(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, P), EOPNOTSUPP);
    ERR(fallocate(fd, hole, 0, 0), EINVAL);
    ERR(fallocate(fd, 0, 0, 0), EINVAL);
    ERR(fallocate(fd, hole, -P, P), EINVAL);
    ERR(fallocate(fd, hole, 0, -P), EINVAL);
    ERR(fallocate(fd, hole, LONG_MAX, P), EFBIG);
    ERR(fallocate(-1, hole, 0, 0), EBADF);
    OK(pipe(ends));
    ERR(fallocate(ends[1], hole, 0, P), ESPIPE);
    ERR(fallocate(ends[0], hole, 0, P), EBADF);
    fd = memfd_create("sealed", MFD_ALLOW_SEALING);
    OK(ftruncate(fd, P));
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    ERR(fallocate(fd, hole, 0, P), EPERM);
}
/* What they do is seen on a machine that may lose the frame. */
#define ROOTS(NAME)                                                                                            \
    CHECK(#NAME " is refused to a user", "EPERM: CAP_SYS_ADMIN may declare a frame bad")                       \
    {                                                                                                          \
        char *at = filled(1);                                                                                  \
        drop_capabilities();                                                                                   \
        try(at, MADV_##NAME);                                                                                  \
        ERR(madvise(at, P, MADV_##NAME), EPERM);                                                               \
        EQ(at[0], 1);                                                                                          \
    }
ROOTS(HWPOISON)
ROOTS(SOFT_OFFLINE)
CHECK("DONTFORK keeps it from a child", "an access is SEGV_MAPERR there")
{
    char *at = filled(1);
    OK(madvise(at, P, MADV_DONTFORK));
    CHILD EQ(reading(at), MAPERR);
    EQ(at[0], 1);
}
CHECK("DOFORK gives it to a child again", "the attribute is gone")
{
    char *at = filled(1);
    OK(madvise(at, P, MADV_DONTFORK));
    OK(madvise(at, P, MADV_DOFORK));
    CHILD EQ(at[0], 1);
}
CHECK("WIPEONFORK gives a child zeroes", "for secrets: keys, states of generators")
{
    char *at = filled(1);
    OK(madvise(at, P, MADV_WIPEONFORK));
    CHILD EQ(at[0], 0);
    EQ(at[0], 1);
}
CHECK("WIPEONFORK holds for grandchildren", "the attribute is inherited")
{
    char *at = filled(1);
    OK(madvise(at, P, MADV_WIPEONFORK));
    CHILD {
        at[0] = 7;
        CHILD EQ(at[0], 0);
        EQ(at[0], 7);
    }
}
CHECK("WIPEONFORK of shared memory is refused", "EINVAL")
{
    ERR(madvise(island_of(1, RW, SHARED), P, MADV_WIPEONFORK), EINVAL);
}
CHECK("WIPEONFORK of a private file is refused", "EINVAL")
{
    ERR(madvise(mmap(NULL, P, RW, MAP_PRIVATE, file_of(1), 0), P, MADV_WIPEONFORK), EINVAL);
}
CHECK("COLD of locked memory is refused", "EINVAL: it cannot leave")
{
    char *at = filled(1);
    OK(mlock(at, P));
    ERR(madvise(at, P, MADV_COLD), EINVAL);
}
CHECK("PAGEOUT of locked memory is refused", "EINVAL")
{
    char *at = filled(1);
    OK(mlock(at, P));
    ERR(madvise(at, P, MADV_PAGEOUT), EINVAL);
}
CHECK("PAGEOUT of a page that a child shares", "both read it afterwards, from memory or from swap")
{
    char *at = filled(2);
    CHILD {
        OK(madvise(at, 2 * P, MADV_PAGEOUT));
        EQ(at[P], 2);
        at[P] = 5;
    }
    EQ(at[P], 2);
}
CHECK("PAGEOUT of 4 MiB", "every byte comes back")
{
    char *at = island(1024);
    for (long i = 0; i < 1024; i++)
        *(long *)(at + i * P + 8) = i * 3;
    OK(madvise(at, 1024 * P, MADV_PAGEOUT));
    for (long i = 0; i < 1024; i++)
        EQ(*(long *)(at + i * P + 8), i * 3);
}
CHECK("POPULATE_READ maps zero pages", "resident, and nothing allocated")
{
    char *at = island(64);
    try(at, MADV_POPULATE_READ);
    long before = status_kb("RssAnon");
    OK(madvise(at, 64 * P, MADV_POPULATE_READ));
    EQ(resident(at, 64), 64);
    IS(status_kb("RssAnon") - before < 128);
}
CHECK("POPULATE_WRITE allocates", "as a store to each page that changes nothing")
{
    char *at = island(64);
    try(at, MADV_POPULATE_WRITE);
    long before = status_kb("RssAnon");
    OK(madvise(at, 64 * P, MADV_POPULATE_WRITE));
    IS(status_kb("RssAnon") - before >= 240);
}
CHECK("POPULATE_WRITE of a read-only mapping is refused", "EINVAL")
{
    try(filled(1), MADV_POPULATE_WRITE);
    ERR(madvise(island_of(1, PROT_READ, ANON), P, MADV_POPULATE_WRITE), EINVAL);
}
CHECK("POPULATE_READ of PROT_NONE is refused", "EINVAL")
{
    try(filled(1), MADV_POPULATE_READ);
    ERR(madvise(island_of(1, PROT_NONE, ANON), P, MADV_POPULATE_READ), EINVAL);
}
CHECK("POPULATE_READ beyond a file's end is refused", "EFAULT, where an access is SIGBUS")
{
    char *at = mmap(NULL, 3 * P, RW, MAP_PRIVATE, file_of(1), 0);
    try(filled(1), MADV_POPULATE_READ);
    ERR(madvise(at, 3 * P, MADV_POPULATE_READ), EFAULT);
}
CHECK("POPULATE_READ of a guard is refused", "EFAULT, as an access is SIGSEGV")
{
    char *at = filled(2);
    try(at + P, MADV_GUARD_INSTALL);
    ERR(madvise(at, 2 * P, MADV_POPULATE_READ), EFAULT);
}
CHECK("a guard denies", "SEGV_MAPERR, as if nothing were there, and yet one mapping")
{
    char *at = filled(3);
    try(at + P, MADV_GUARD_INSTALL);
    EQ(reading(at + P), MAPERR);
    EQ(writing(at + P), MAPERR);
    EQ(mappings(at, 3), 1);
}
CHECK("a guard leaves its neighbours", "one page is one page")
{
    char *at = filled(3);
    try(at + P, MADV_GUARD_INSTALL);
    EQ(at[0], 1);
    EQ(at[2 * P], 3);
}
CHECK("a guard that is removed gives zeroes", "what was there went when it came")
{
    char *at = filled(1);
    try(at, MADV_GUARD_INSTALL);
    OK(madvise(at, P, MADV_GUARD_REMOVE));
    EQ(at[0], 0);
}
CHECK("a guard survives DONTNEED", "only GUARD_REMOVE and munmap take it")
{
    char *at = filled(1);
    try(at, MADV_GUARD_INSTALL);
    OK(madvise(at, P, MADV_DONTNEED));
    EQ(reading(at), MAPERR);
}
CHECK("a guard is a child's, too", "fork copies it")
{
    char *at = filled(1);
    try(at, MADV_GUARD_INSTALL);
    CHILD EQ(reading(at), MAPERR);
}
CHECK("a guard moves", "mremap takes it along")
{
    char *at = filled(2), *to = island(2);
    try(at + P, MADV_GUARD_INSTALL);
    EQ(mremap(at, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
    EQ(to[0], 1);
    EQ(reading(to + P), MAPERR);
}
CHECK("a guard goes with its mapping", "munmap and mmap leave none")
{
    char *at = filled(1);
    try(at, MADV_GUARD_INSTALL);
    OK(mmap(at, P, RW, ANON | MAP_FIXED, -1, 0));
    EQ(at[0], 0);
}
CHECK("GUARD_REMOVE of no guard keeps the page", "it is about guards only")
{
    char *at = filled(1);
    try(filled(1), MADV_GUARD_INSTALL);
    OK(madvise(at, P, MADV_GUARD_REMOVE));
    EQ(at[0], 1);
}
CHECK("a guard of locked memory is refused", "EINVAL: locked pages stay")
{
    char *at = filled(1);
    try(filled(1), MADV_GUARD_INSTALL);
    OK(mlock(at, P));
    ERR(madvise(at, P, MADV_GUARD_INSTALL), EINVAL);
}
CHECK("DODUMP of a plain mapping", "allowed, though it changes nothing")
{
    OK(madvise(filled(1), P, MADV_DODUMP));
}
CHECK("HUGEPAGE shows as hg", "VmFlags, and nh after NOHUGEPAGE")
{
    char *at = filled(1);
    try(at, MADV_HUGEPAGE);
    EQ(vm_flag(at, "hg"), 1);
    OK(madvise(at, P, MADV_NOHUGEPAGE));
    EQ(vm_flag(at, "hg"), 0);
    EQ(vm_flag(at, "nh"), 1);
}
CHECK("COLLAPSE makes a large page", "AnonHugePages of 2 MiB, and the bytes stay")
{
    char *at = island(1024), *large = (char *)(((long)at + (2 << 20) - 1) & -(2 << 20));
    SINGLY(at, 1024);
    for (long i = 0; i < 512; i++)
        large[i * P] = i;
    EQ(smaps(large, "AnonHugePages"), 0);
    OK(madvise(at, 1024 * P, MADV_NORMAL));
    try(at, MADV_HUGEPAGE);
    OK(madvise(at, 1024 * P, MADV_HUGEPAGE));
    if (madvise(large, 2 << 20, MADV_COLLAPSE) && (errno == EINVAL || errno == EAGAIN || errno == ENOMEM))
        absent("large pages");
    EQ(smaps(large, "AnonHugePages"), 2048);
    for (long i = 0; i < 512; i++)
        EQ(large[i * P], (char)i);
}
CHECK("COLLAPSE of less than a large page", "EINVAL: no range of 2 MiB lies in it")
{
    char *at = filled(2);
    int result = madvise(at, 2 * P, MADV_COLLAPSE);
    if (result == -1 && errno == EINVAL)
        return;
    EQ(result, 0);
    EQ(at[0], 1);
}
