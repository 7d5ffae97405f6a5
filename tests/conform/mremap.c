/* mremap: all flags. */
#include "conform.h"
#define GROUP "mremap"

CHECK("smaller unmaps the end", "in place, always")
{
    char *at = filled(4);
    EQ(mremap(at, 4 * P, 2 * P, 0), at);
    EQ(at[P], 2);
    EQ(reading(at + 2 * P), MAPERR);
}
CHECK("larger grows in place where there is room", "the address stays")
{
    char *at = filled(4);
    OK(munmap(at + 2 * P, 2 * P));
    EQ(mremap(at, 2 * P, 4 * P, 0), at);
    EQ(at[P], 2);
    EQ(at[3 * P], 0);
}
CHECK("larger without room and without MAYMOVE is refused", "ENOMEM")
{
    char *at = filled(4);
    OK(mprotect(at + 2 * P, 2 * P, PROT_READ));
    ERR(mremap(at, 2 * P, 3 * P, 0), ENOMEM);
}
CHECK("larger without room moves with MAYMOVE", "the bytes come along")
{
    char *at = filled(4);
    OK(mprotect(at + 2 * P, 2 * P, PROT_READ));
    char *to = mremap(at, 2 * P, 8 * P, MREMAP_MAYMOVE);
    IS(to != MAP_FAILED && to != at);
    EQ(to[0], 1);
    EQ(to[P], 2);
    EQ(to[7 * P], 0);
    EQ(reading(at), MAPERR);
    EQ(at[2 * P], 3);
}
CHECK("the same size is nothing", "the address comes back")
{
    char *at = filled(2);
    EQ(mremap(at, 2 * P, 2 * P, 0), at);
    EQ(mremap(at, 2 * P, 2 * P, MREMAP_MAYMOVE), at);
}
CHECK("a new size of 0 is refused", "EINVAL")
{
    ERR(mremap(island(1), P, 0, 0), EINVAL);
}
CHECK("an odd address is refused", "EINVAL")
{
    ERR(mremap(island(2) + 1, P, P, 0), EINVAL);
}
CHECK("unknown flags are refused", "EINVAL")
{
    ERR(mremap(island(1), P, 2 * P, 8), EINVAL);
}
CHECK("sizes are rounded up", "to pages")
{
    char *at = filled(3);
    EQ(mremap(at, 3 * P, P + 1, 0), at);
    EQ(at[P], 2);
    EQ(reading(at + 2 * P), MAPERR);
}
CHECK("what is not mapped is refused", "EFAULT")
{
    char *at = island(2);
    OK(munmap(at, 2 * P));
    ERR(mremap(at, P, 2 * P, MREMAP_MAYMOVE), EFAULT);
}
CHECK("larger across two mappings is refused", "EFAULT: the old range is one mapping")
{
    char *at = filled(4);
    OK(mprotect(at + P, P, PROT_READ));
    ERR(mremap(at, 2 * P, 8 * P, MREMAP_MAYMOVE), EFAULT);
}
CHECK("smaller across two mappings", "only the end is looked at: munmap does it")
{
    char *at = filled(4);
    OK(mprotect(at + P, 3 * P, PROT_READ));
    EQ(mremap(at, 4 * P, P, 0), at);
    EQ(mappings(at, 4), 1);
}
CHECK("fixed moves there", "MREMAP_FIXED | MREMAP_MAYMOVE")
{
    char *at = filled(2), *to = island(2);
    EQ(mremap(at, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
    EQ(to[P], 2);
    EQ(reading(at), MAPERR);
}
CHECK("fixed replaces what is there", "as mmap with MAP_FIXED")
{
    char *at = filled(1), *to = filled(3);
    EQ(mremap(at, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, to + P), to + P);
    EQ(to[0], 1);
    EQ(to[P], 1);
    EQ(to[2 * P], 3);
}
CHECK("fixed without MAYMOVE is refused", "EINVAL")
{
    char *to = island(1);
    ERR(mremap(island(1), P, P, MREMAP_FIXED, to), EINVAL);
}
CHECK("fixed to an odd address is refused", "EINVAL")
{
    char *to = island(2) + 1;
    ERR(mremap(island(1), P, P, MREMAP_MAYMOVE | MREMAP_FIXED, to), EINVAL);
}
CHECK("fixed onto itself is refused", "EINVAL: the ranges overlap")
{
    char *at = filled(4);
    ERR(mremap(at, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, at + P), EINVAL);
    EQ(at[P], 2);
}
CHECK("fixed to where it is, is refused", "EINVAL: it overlaps with itself")
{
    char *at = filled(1);
    ERR(mremap(at, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, at), EINVAL);
}
CHECK("fixed beyond the last address is refused", "EINVAL")
{
    ERR(mremap(island(1), P, P, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(1UL << 60)), EINVAL);
}
CHECK("fixed and larger", "moves and grows in one call")
{
    char *at = filled(2), *to = island(6);
    EQ(mremap(at, 2 * P, 5 * P, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
    EQ(to[P], 2);
    EQ(to[4 * P], 0);
}
CHECK("fixed and smaller", "what is cut off is unmapped")
{
    char *at = filled(4), *to = island(4);
    EQ(mremap(at, 4 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
    EQ(to[P], 2);
    EQ(mappings(at, 4), 0);
    EQ(to[2 * P], 0);
}
CHECK("the middle of a mapping moves", "what is around stays")
{
    char *at = filled(3), *to = island(1);
    EQ(mremap(at + P, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
    EQ(to[0], 2);
    EQ(at[0], 1);
    EQ(reading(at + P), MAPERR);
    EQ(at[2 * P], 3);
}
CHECK("dontunmap leaves an empty mapping", "MREMAP_DONTUNMAP: the old range faults zeroes in")
{
    char *at = filled(2);
    char *to = mremap(at, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    OK(to);
    IS(to != at);
    EQ(to[P], 2);
    EQ(at[P], 0);
    EQ(mappings(at, 2), 1);
}
CHECK("dontunmap with another size is refused", "EINVAL")
{
    ERR(mremap(island(2), 2 * P, 4 * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL), EINVAL);
}
CHECK("dontunmap without MAYMOVE is refused", "EINVAL")
{
    ERR(mremap(island(2), 2 * P, 2 * P, MREMAP_DONTUNMAP, NULL), EINVAL);
}
CHECK("dontunmap to a fixed place", "both flags together")
{
    char *at = filled(1), *to = island(1);
    EQ(mremap(at, P, P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED, to), to);
    EQ(to[0], 1);
    EQ(at[0], 0);
}
CHECK("permissions come along", "the new mapping is the old one elsewhere")
{
    char *at = filled(2), *to = island(2);
    OK(mprotect(at, 2 * P, PROT_READ));
    EQ(mremap(at, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
    EQ(writing(to), ACCERR);
    EQ(to[P], 2);
}
CHECK("locking comes along", "VM_LOCKED, and what it grows by is filled")
{
    char *at = island(4);
    OK(munmap(at + 2 * P, 2 * P));
    OK(mlock(at, 2 * P));
    EQ(mremap(at, 2 * P, 4 * P, 0), at);
    EQ(resident(at, 4), 4);
    EQ(status_kb("VmLck"), 16);
}
CHECK("dontunmap unlocks what is left", "only the new range is locked")
{
    char *at = island(2);
    OK(mlock(at, 2 * P));
    OK(mremap(at, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL));
    EQ(vm_flag(at, "lo"), 0);
}
CHECK("advice comes along", "MADV_DONTFORK stays with the memory")
{
    char *at = filled(1), *to = island(1);
    OK(madvise(at, P, MADV_DONTFORK));
    EQ(mremap(at, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
    EQ(vm_flag(to, "dc"), 1);
}
CHECK("an old size of 0 of private memory is refused", "EINVAL, since 4.14")
{
    ERR(mremap(island(1), 0, P, MREMAP_MAYMOVE), EINVAL);
}
CHECK("an old size of 0 of shared memory maps it twice", "a second mapping of the object")
{
    char *at = island_of(2, RW, SHARED);
    at[P] = 7;
    char *to = mremap(at, 0, 2 * P, MREMAP_MAYMOVE);
    OK(to);
    EQ(to[P], 7);
    to[0] = 5;
    EQ(at[0], 5);
}
CHECK("shared memory moves", "it is the same object")
{
    char *at = island_of(1, RW, SHARED), *to = island(1);
    at[3] = 9;
    EQ(mremap(at, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
    CHILD to[3] = 10;
    EQ(to[3], 10);
}
CHECK("shared memory beyond its object is SIGBUS", "a mapping grows, the object does not")
{
    char *at = island_of(4, RW, SHARED);
    OK(munmap(at + P, 3 * P));
    char *one = island_of(1, RW, SHARED);
    char *to = mremap(one, P, 3 * P, MREMAP_MAYMOVE);
    OK(to);
    EQ(reading(to), 0);
    EQ(reading(to + 2 * P), BUS);
}
CHECK("a private file moves", "with what was stored")
{
    char *at = mmap(NULL, 2 * P, RW, MAP_PRIVATE, file_of(2), 0), *to = island(2);
    at[0] = 'z';
    EQ(mremap(at, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
    EQ(to[0], 'z');
    EQ(to[P], 'b');
}
CHECK("beyond the limit of the address space is refused", "ENOMEM: RLIMIT_AS")
{
    char *at = island(1);
    limit(RLIMIT_AS, status_kb("VmSize") * 1024 + 16 * P);
    ERR(mremap(at, P, 1024 * P, MREMAP_MAYMOVE), ENOMEM);
}
CHECK("locked beyond the limit is refused", "EAGAIN: RLIMIT_MEMLOCK")
{
    char *at = island(2);
    OK(munmap(at + P, P));
    drop_capabilities();
    limit(RLIMIT_MEMLOCK, P);
    OK(mlock(at, P));
    ERR(mremap(at, P, 2 * P, 0), EAGAIN);
}
CHECK("of a page that a child shares", "a move copies nothing, and each has its own afterwards")
{
    char *at = filled(1), *to = island(1);
    CHILD {
        EQ(mremap(at, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
        EQ(to[0], 1);
        to[0] = 2;
    }
    EQ(at[0], 1);
}
CHECK("across page tables", "2 MiB and a page: every byte arrives")
{
    char *at = island(513);
    for (long i = 0; i < 513; i++)
        *(long *)(at + i * P) = i;
    char *to = mremap(at, 513 * P, 1026 * P, MREMAP_MAYMOVE);
    OK(to);
    for (long i = 0; i < 513; i++)
        EQ(*(long *)(to + i * P), i);
}
CHECK("a size beyond all addresses is refused", "EINVAL, before a place is looked for")
{
    ERR(mremap(island(1), P, 1UL << 47, MREMAP_MAYMOVE), EINVAL);
}
CHECK("neighbours merge after a move", "if attributes and page offsets fit")
{
    char *at = island(4);
    OK(mprotect(at + 2 * P, 2 * P, PROT_NONE));
    OK(munmap(at + P, P));
    char *one = island(1);
    EQ(mremap(one, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, at + P), at + P);
    EQ(mappings(at, 2), 1);
}
