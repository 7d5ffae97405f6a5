/* mmap: where, how, what it refuses. */
#include "conform.h"
#define GROUP "mmap"

CHECK("zeroes to read", "new anonymous memory never shows what somebody else left there")
{
    char *at = island(8);
    for (long i = 0; i < 8 * P; i++)
        EQ(at[i], 0);
}
CHECK("nothing is resident", "memory is allocated at the first access")
{
    EQ(resident(island(8), 8), 0);
}
CHECK("a load makes a page resident", "the zero page is mapped, which mincore counts")
{
    char *at = island(4);
    EQ(reading(at + P), 0);
    EQ(resident(at, 4), 1);
}
CHECK("a store makes a page resident", "only the page that was written gets memory")
{
    char *at = island(4);
    SINGLY(at, 4);
    at[2 * P] = 1;
    EQ(resident(at, 4), 1);
}
CHECK("a length of 0 is refused", "there is nothing to map: EINVAL, since 2.6.12")
{
    ERR(mmap(NULL, 0, RW, ANON, -1, 0), EINVAL);
}
CHECK("a length is rounded up to pages", "protection is by the page")
{
    char *at = mmap(NULL, 1, RW, ANON, -1, 0);
    EQ(writing(at + P - 1), 0);
    EQ(munmap(at, P), 0);
    EQ(reading(at), MAPERR);
}
CHECK("a length that wraps around is refused", "rounded up it is 0, and Linux says ENOMEM")
{
    ERR(mmap(NULL, -1UL, RW, ANON, -1, 0), ENOMEM);
}
CHECK("a length beyond all addresses is refused", "ENOMEM: no hole is so large")
{
    ERR(mmap(NULL, 1UL << 47, RW, ANON, -1, 0), ENOMEM);
}
CHECK("no type is refused", "neither MAP_SHARED nor MAP_PRIVATE: EINVAL")
{
    ERR(mmap(NULL, P, RW, MAP_ANONYMOUS, -1, 0), EINVAL);
}
CHECK("a hint that is free is taken", "a hint is where the mapping goes if it can")
{
    char *at = island(3);
    OK(munmap(at, 3 * P));
    EQ(mmap(at + P, P, RW, ANON, -1, 0), at + P);
}
CHECK("a hint that is taken is a hint", "without MAP_FIXED nothing is replaced")
{
    char *at = filled(1), *other = mmap(at, P, RW, ANON, -1, 0);
    IS(other != MAP_FAILED && other != at);
    EQ(at[0], 1);
}
CHECK("a hint is rounded", "to a page, towards 0 as page_align does below mmap_min_addr's check")
{
    char *at = island(3);
    OK(munmap(at, 3 * P));
    EQ((unsigned long)mmap(at + P + 100, P, RW, ANON, -1, 0) % P, 0);
}
CHECK("fixed replaces what is there", "as munmap and mmap in one step")
{
    char *at = filled(3);
    EQ(mmap(at + P, P, RW, ANON | MAP_FIXED, -1, 0), at + P);
    EQ(at[0], 1);
    EQ(at[P], 0);
    EQ(at[2 * P], 3);
}
CHECK("fixed replaces in the middle of a mapping", "the mapping is split, and only the middle is new")
{
    char *at = filled(5);
    OK(mmap(at + P, 3 * P, PROT_READ, ANON | MAP_FIXED, -1, 0));
    EQ(mappings(at, 5), 3);
    EQ(writing(at), 0);
    EQ(writing(at + P), ACCERR);
    EQ(writing(at + 4 * P), 0);
}
CHECK("fixed at an odd address is refused", "EINVAL: there is no rounding of what must be exact")
{
    ERR(mmap(island(2) + 1, P, RW, ANON | MAP_FIXED, -1, 0), EINVAL);
}
CHECK("fixed beyond the last address is refused", "ENOMEM, as there is no room there")
{
    ERR(mmap((void *)(1UL << 60), P, RW, ANON | MAP_FIXED, -1, 0), ENOMEM);
}
CHECK("fixed across the last address is refused", "a mapping lies below TASK_SIZE as a whole")
{
    ERR(mmap((void *)0x7fffffffe000, 2 * P, RW, ANON | MAP_FIXED, -1, 0), ENOMEM);
}
CHECK("noreplace takes a free place", "MAP_FIXED_NOREPLACE: exactly there")
{
    char *at = island(3);
    OK(munmap(at, 3 * P));
    EQ(mmap(at + P, P, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0), at + P);
}
CHECK("noreplace refuses a taken place", "EEXIST, and nothing is replaced")
{
    char *at = filled(3);
    ERR(mmap(at, 3 * P, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    EQ(at[2 * P], 3);
}
CHECK("noreplace refuses a place of which a page is taken", "one page is enough for EEXIST")
{
    char *at = filled(3);
    OK(munmap(at, 2 * P));
    ERR(mmap(at, 3 * P, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
}
CHECK("noreplace at an odd address is refused", "it is MAP_FIXED, too")
{
    ERR(mmap(island(2) + 1, P, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0), EINVAL);
}
CHECK("neighbours with equal attributes are one mapping", "vma_merge, so that maps stay few")
{
    char *at = island(4);
    OK(munmap(at + P, P));
    OK(mmap(at + P, P, RW, ANON | MAP_FIXED, -1, 0));
    EQ(mappings(at, 4), 1);
}
CHECK("neighbours with other permissions stay apart", "a mapping has one set of permissions")
{
    char *at = island(4);
    OK(mmap(at + P, P, PROT_READ, ANON | MAP_FIXED, -1, 0));
    EQ(mappings(at, 4), 3);
}
CHECK("neighbours that are shared stay apart", "each anonymous shared mapping is an object of its own")
{
    char *at = island(2);
    OK(mmap(at, P, RW, SHARED | MAP_FIXED, -1, 0));
    OK(mmap(at + P, P, RW, SHARED | MAP_FIXED, -1, 0));
    EQ(mappings(at, 2), 2);
}
CHECK("PROT_NONE denies a load", "SEGV_ACCERR: something is mapped")
{
    EQ(reading(island_of(1, PROT_NONE, ANON)), ACCERR);
}
CHECK("PROT_READ denies a store", "SEGV_ACCERR")
{
    char *at = island_of(1, PROT_READ, ANON);
    EQ(reading(at), 0);
    EQ(writing(at), ACCERR);
}
CHECK("PROT_WRITE allows a load", "x86-64 has no write-only pages")
{
    char *at = island_of(1, PROT_WRITE, ANON);
    EQ(writing(at), 0);
    EQ(reading(at), 0);
}
CHECK("without PROT_EXEC nothing runs", "the NX bit: SEGV_ACCERR")
{
    char *at = island(1);
    *at = '\xc3';
    EQ(running(at), ACCERR);
}
CHECK("with PROT_EXEC it runs", "a return instruction is enough to see it")
{
    char *at = island_of(1, RW | PROT_EXEC, ANON);
    *at = '\xc3';
    EQ(running(at), 0);
}
CHECK("the page before is not mapped", "SEGV_MAPERR")
{
    EQ(reading(island(1) - 1), MAPERR);
}
CHECK("the page behind is not mapped", "SEGV_MAPERR")
{
    EQ(reading(island(1) + P), MAPERR);
}
CHECK("address 0 is not mapped", "null pointers trap")
{
    EQ(reading((void *)0), MAPERR);
}
CHECK("below mmap_min_addr is refused without capabilities", "EPERM: kernels follow null pointers, too")
{
    long least = 0;
    FILE *file = fopen("/proc/sys/vm/mmap_min_addr", "r");
    if (!file || fscanf(file, "%ld", &least) != 1 || least <= P)
        absent("a lowest address (/proc/sys/vm/mmap_min_addr)");
    drop_capabilities();
    ERR(mmap((void *)P, P, RW, ANON | MAP_FIXED, -1, 0), EPERM);
}
CHECK("populate fills at once", "MAP_POPULATE")
{
    EQ(resident(island_of(8, RW, ANON | MAP_POPULATE), 8), 8);
}
CHECK("populate of what may not be read fills nothing", "the mapping is made all the same")
{
    EQ(resident(island_of(8, PROT_NONE, ANON | MAP_POPULATE), 8), 0);
}
CHECK("populate of a read-only mapping", "the zero page is mapped")
{
    EQ(resident(island_of(8, PROT_READ, ANON | MAP_POPULATE), 8), 8);
}
CHECK("populate with nonblock fills nothing", "MAP_NONBLOCK takes it back, since 2.6.23")
{
    EQ(resident(island_of(8, RW, ANON | MAP_POPULATE | MAP_NONBLOCK), 8), 0);
}
CHECK("locked fills at once", "MAP_LOCKED is mmap and mlock")
{
    char *at = island_of(8, RW, ANON | MAP_LOCKED);
    EQ(resident(at, 8), 8);
    EQ(vm_flag(at, "lo"), 1);
}
CHECK("locked counts", "VmLck in /proc/self/status")
{
    island_of(8, RW, ANON | MAP_LOCKED);
    EQ(status_kb("VmLck"), 32);
}
CHECK("locked beyond the limit is refused", "EAGAIN for mmap, where mlock says ENOMEM")
{
    drop_capabilities();
    limit(RLIMIT_MEMLOCK, 4 * P);
    ERR(mmap(NULL, 8 * P, RW, ANON | MAP_LOCKED, -1, 0), EAGAIN);
}
CHECK("noreserve is accepted", "it is not charged; smaps shows nr")
{
    EQ(vm_flag(island_of(2, RW, ANON | MAP_NORESERVE), "nr"), 1);
}
CHECK("32bit maps below 2 GiB", "MAP_32BIT")
{
    unsigned long at = (unsigned long)mmap(NULL, P, RW, ANON | MAP_32BIT, -1, 0);
    IS(at >= 1UL << 30 && at < 1UL << 31);
}
CHECK("stack is accepted", "MAP_STACK keeps large pages away")
{
    OK(mmap(NULL, 4 * P, RW, ANON | MAP_STACK, -1, 0));
}
CHECK("unknown flags are ignored for MAP_PRIVATE", "old flags were never checked")
{
    OK(mmap(NULL, P, RW, ANON | 0x8000000, -1, 0));
}
CHECK("droppable memory is mapped", "MAP_DROPPABLE, since 6.11: type 8, may be gone when memory is short")
{
    char *at = mmap(NULL, P, RW, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED && errno == EINVAL)
        absent("MAP_DROPPABLE");
    OK(at);
    EQ(writing(at), 0);
    EQ(at[0], 99);
}
CHECK("droppable memory is empty in a child", "it has MADV_WIPEONFORK built in")
{
    char *at = mmap(NULL, P, RW, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED && errno == EINVAL)
        absent("MAP_DROPPABLE");
    at[0] = 1;
    CHILD EQ(at[0], 0);
    EQ(at[0], 1);
}
CHECK("droppable memory cannot be locked", "mlock keeps VM_DROPPABLE out: the lock is not set")
{
    char *at = mmap(NULL, P, RW, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED && errno == EINVAL)
        absent("MAP_DROPPABLE");
    mlock(at, P);
    EQ(vm_flag(at, "lo"), 0);
}
/* A page of droppable memory. */
static char *droppable(void)
{
    char *at = mmap(NULL, P, RW, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED && errno == EINVAL)
        absent("MAP_DROPPABLE");
    OK(at);
    return at;
}
CHECK("droppable memory says so", "dp, with nr, wf and dd")
{
    char *at = droppable();
    EQ(vm_flag(at, "dp"), 1);
    EQ(vm_flag(at, "nr"), 1);
    EQ(vm_flag(at, "wf"), 1);
    EQ(vm_flag(at, "dd"), 1);
    EQ(vm_flag(at, "ac"), 0);
}
CHECK("droppable memory is neither locked nor a stack", "EINVAL")
{
    droppable();
    ERR(mmap(NULL, P, RW, MAP_DROPPABLE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0), EINVAL);
    ERR(mmap(NULL, P, RW, MAP_DROPPABLE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0), EINVAL);
}
CHECK("droppable memory is no file's", "EINVAL")
{
    droppable();
    ERR(mmap(NULL, P, RW, MAP_DROPPABLE, file_of(1), 0), EINVAL);
}
CHECK("droppable memory stays out of children and dumps", "KEEPONFORK and DODUMP are EINVAL")
{
    char *at = droppable();
    ERR(madvise(at, P, MADV_KEEPONFORK), EINVAL);
    ERR(madvise(at, P, MADV_DODUMP), EINVAL);
}
CHECK("growsdown grows", "an access below extends the mapping to it")
{
    char *at = mmap(NULL, 1 << 22, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
    OK(munmap(at, 1 << 22));
    char *stack = at + (1 << 22) - 2 * P;
    OK(mmap(stack, 2 * P, RW, ANON | MAP_FIXED | MAP_GROWSDOWN, -1, 0));
    EQ(writing(stack - 3 * P), 0);
    EQ(mappings(stack - 3 * P, 5), 1);
}
CHECK("growsdown keeps a gap", "256 pages below a stack stay free, so that it cannot run into what is there")
{
    char *at = mmap(NULL, 1 << 22, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
    OK(munmap(at + P, (1 << 22) - P));
    char *stack = at + 300 * P;
    OK(mprotect(at, P, RW));
    OK(mmap(stack, 2 * P, RW, ANON | MAP_FIXED | MAP_GROWSDOWN, -1, 0));
    EQ(writing(stack - 10 * P), 0);
    EQ(writing(at + 200 * P), MAPERR);
}
CHECK("a private file shows the file", "its pages, until they are written")
{
    char *at = mmap(NULL, 2 * P, RW, MAP_PRIVATE, file_of(2), 0);
    EQ(at[0], 'a');
    EQ(at[P], 'b');
}
CHECK("a store to a private file stays private", "copy on write")
{
    char letter;
    int fd = file_of(1);
    char *at = mmap(NULL, P, RW, MAP_PRIVATE, fd, 0);
    at[0] = 'z';
    EQ(pread(fd, &letter, 1, 0), 1);
    EQ(letter, 'a');
}
CHECK("an offset of a file", "the page of the file that it names comes first")
{
    EQ(*(char *)mmap(NULL, P, PROT_READ, MAP_PRIVATE, file_of(3), 2 * P), 'c');
}
CHECK("an odd offset is refused", "EINVAL")
{
    ERR(mmap(NULL, P, PROT_READ, MAP_PRIVATE, file_of(1), 1), EINVAL);
}
CHECK("an offset that overflows is refused", "EOVERFLOW: it cannot be counted in pages")
{
    ERR(mmap(NULL, 2 * P, PROT_READ, MAP_PRIVATE, file_of(1), 0x7ffffffffffff000), EOVERFLOW);
}
CHECK("beyond a file's end is SIGBUS", "there is no page to show")
{
    char *at = mmap(NULL, 3 * P, PROT_READ, MAP_PRIVATE, file_of(1), 0);
    EQ(reading(at), 0);
    EQ(reading(at + 2 * P), BUS);
}
CHECK("the rest of a file's last page is zeroes", "POSIX says so")
{
    int fd = file_of(1);
    OK(ftruncate(fd, 100));
    char *at = mmap(NULL, P, PROT_READ, MAP_PRIVATE, fd, 0);
    EQ(at[99], 'a');
    EQ(at[100], 0);
}
CHECK("a descriptor that is none is refused", "EBADF")
{
    ERR(mmap(NULL, P, PROT_READ, MAP_PRIVATE, -1, 0), EBADF);
}
CHECK("a file that is not open for reading is refused", "EACCES, even for PROT_WRITE alone")
{
    int fd = open("/tmp/conform-write-only", O_CREAT | O_WRONLY, 0600);
    OK(fd);
    unlink("/tmp/conform-write-only");
    ERR(mmap(NULL, P, PROT_WRITE, MAP_PRIVATE, fd, 0), EACCES);
}
CHECK("a pipe cannot be mapped", "ENODEV: it has no mmap operation")
{
    int ends[2];
    OK(pipe(ends));
    ERR(mmap(NULL, P, PROT_READ, MAP_PRIVATE, ends[0], 0), ENODEV);
}
CHECK("the zero device is anonymous memory", "a private mapping of /dev/zero")
{
    int fd = open("/dev/zero", O_RDWR);
    OK(fd);
    char *at = mmap(NULL, P, RW, MAP_PRIVATE, fd, 0);
    EQ(at[5], 0);
    EQ(writing(at), 0);
}
CHECK("shared memory is the child's, too", "MAP_SHARED | MAP_ANONYMOUS survives fork")
{
    char *at = island_of(1, RW, SHARED);
    CHILD at[7] = 5;
    EQ(at[7], 5);
}
CHECK("shared memory counts as shared", "Shared_Dirty needs two mappers, Rss one")
{
    char *at = island_of(2, RW, SHARED);
    at[0] = at[P] = 1;
    EQ(smaps(at, "Rss"), 8);
}
CHECK("maps shows the permissions", "r, w, x, and p for private")
{
    IS(!strcmp(permissions(island(1)), "rw-p"));
    IS(!strcmp(permissions(island_of(1, PROT_READ, ANON)), "r--p"));
    IS(!strcmp(permissions(island_of(1, PROT_NONE, ANON)), "---p"));
    IS(!strcmp(permissions(island_of(1, PROT_READ | PROT_EXEC, ANON)), "r-xp"));
    IS(!strcmp(permissions(island_of(1, RW, SHARED)), "rw-s"));
}
CHECK("no two mappings overlap", "a thousand of them, each with its own word")
{
    long *at[1000];
    for (long i = 0; i < 1000; i++) {
        at[i] = mmap(NULL, P, RW, i % 2 ? ANON : SHARED, -1, 0);
        OK(at[i]);
        *at[i] = i;
    }
    for (long i = 0; i < 1000; i++)
        EQ(*at[i], i);
}
