/* mincore and msync. */
#include "conform.h"
#define GROUP "mincore"

CHECK("an odd address is refused", "EINVAL")
{
    unsigned char v[4];
    ERR(mincore(island(1) + 1, P, v), EINVAL);
}
CHECK("a hole is refused", "ENOMEM")
{
    unsigned char v[4];
    char *at = filled(3);
    OK(munmap(at + P, P));
    ERR(mincore(at, 3 * P, v), ENOMEM);
}
CHECK("before a hole the vector is filled", "page by page, as far as it goes")
{
    unsigned char v[4] = {9, 9, 9, 9};
    char *at = filled(3);
    OK(munmap(at + 2 * P, P));
    ERR(mincore(at, 3 * P, v), ENOMEM);
    EQ(v[0], 1);
    EQ(v[1], 1);
}
CHECK("a vector that is not there is refused", "EFAULT")
{
    ERR(mincore(filled(1), P, (void *)1), EFAULT);
}
CHECK("a length of 0", "no error")
{
    unsigned char v[4];
    OK(mincore(island(1), 0, v));
}
CHECK("a length is rounded up", "a byte asks for its page")
{
    unsigned char v[2] = {9, 9};
    OK(mincore(filled(2), 1, v));
    EQ(v[0], 1);
    EQ(v[1], 9);
}
CHECK("a range beyond all addresses is refused", "ENOMEM")
{
    unsigned char v[4];
    ERR(mincore((void *)(1UL << 60), P, v), ENOMEM);
}
CHECK("every other page", "each byte is one page's")
{
    char *at = island(64);
    SINGLY(at, 64);
    for (long i = 0; i < 64; i += 2)
        at[i * P] = 1;
    unsigned char v[64];
    OK(mincore(at, 64 * P, v));
    for (long i = 0; i < 64; i++)
        EQ(v[i] & 1, i % 2 == 0);
}
CHECK("the zero page is resident", "it is mapped")
{
    char *at = island(1);
    EQ(reading(at), 0);
    EQ(resident(at, 1), 1);
}
CHECK("in a child what its parent has is resident", "fork copies entries")
{
    char *at = filled(4);
    CHILD EQ(resident(at, 4), 4);
}
CHECK("shared memory that another has written", "mincore asks the object, too")
{
    char *at = island_of(4, RW, SHARED);
    CHILD at[P] = 1;
    EQ(resident(at, 4), 1);
}
CHECK("a file's pages in the page cache", "resident, though not mapped yet")
{
    char *at = mmap(NULL, 2 * P, RW, MAP_SHARED, file_of(2), 0);
    EQ(resident(at, 2), 2);
}
CHECK("several mappings at once", "one vector for all")
{
    char *at = filled(4);
    OK(mprotect(at + P, P, PROT_READ));
    EQ(resident(at, 4), 4);
}
CHECK("msync of anonymous memory", "nothing to write, no error")
{
    char *at = filled(2);
    OK(msync(at, 2 * P, MS_SYNC));
    OK(msync(at, 2 * P, MS_ASYNC));
    OK(msync(at, 2 * P, MS_INVALIDATE));
}
CHECK("msync with both kinds is refused", "EINVAL")
{
    ERR(msync(filled(1), P, MS_SYNC | MS_ASYNC), EINVAL);
}
CHECK("msync with unknown flags is refused", "EINVAL")
{
    ERR(msync(filled(1), P, 8), EINVAL);
}
CHECK("msync at an odd address is refused", "EINVAL")
{
    ERR(msync(filled(1) + 1, P, MS_SYNC), EINVAL);
}
CHECK("msync over a hole is refused", "ENOMEM")
{
    char *at = filled(3);
    OK(munmap(at + P, P));
    ERR(msync(at, 3 * P, MS_SYNC), ENOMEM);
}
CHECK("msync to invalidate locked memory is refused", "EBUSY")
{
    char *at = filled(1);
    OK(mlock(at, P));
    ERR(msync(at, P, MS_INVALIDATE), EBUSY);
}
CHECK("msync of nothing", "a length of 0 is no error")
{
    OK(msync(island(1), 0, MS_SYNC));
}
