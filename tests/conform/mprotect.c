/* mprotect: permissions, splits and merges. */
#include "conform.h"
#define GROUP "mprotect"

CHECK("to nothing denies a load", "SEGV_ACCERR")
{
    char *at = filled(1);
    OK(mprotect(at, P, PROT_NONE));
    EQ(reading(at), ACCERR);
}
CHECK("to read denies a store", "SEGV_ACCERR, though the page was writable before")
{
    char *at = filled(1);
    OK(mprotect(at, P, PROT_READ));
    EQ(writing(at), ACCERR);
    EQ(at[0], 1);
}
CHECK("back to write allows a store", "the page is the same")
{
    char *at = filled(1);
    OK(mprotect(at, P, PROT_READ));
    OK(mprotect(at, P, RW));
    EQ(at[0], 1);
    EQ(writing(at), 0);
}
CHECK("contents survive PROT_NONE", "the page waits, unreadable")
{
    char *at = filled(3);
    OK(mprotect(at, 3 * P, PROT_NONE));
    OK(mprotect(at, 3 * P, PROT_READ));
    EQ(at[2 * P], 3);
}
CHECK("pages stay resident under PROT_NONE", "mincore asks the tables, not the permissions")
{
    char *at = filled(3);
    OK(mprotect(at, 3 * P, PROT_NONE));
    EQ(resident(at, 3), 3);
}
CHECK("the middle splits", "three mappings")
{
    char *at = filled(3);
    OK(mprotect(at + P, P, PROT_READ));
    EQ(mappings(at, 3), 3);
}
CHECK("the same again merges", "one mapping, as before")
{
    char *at = filled(3);
    OK(mprotect(at + P, P, PROT_READ));
    OK(mprotect(at + P, P, RW));
    EQ(mappings(at, 3), 1);
}
CHECK("the start splits in two", "and the end is as before")
{
    char *at = filled(3);
    OK(mprotect(at, P, PROT_READ));
    EQ(mappings(at, 3), 2);
    EQ(writing(at + 2 * P), 0);
}
CHECK("the same permissions change nothing", "not even the number of mappings")
{
    char *at = filled(3);
    OK(mprotect(at + P, P, RW));
    EQ(mappings(at, 3), 1);
}
CHECK("several mappings at once", "all get the permissions, and become one")
{
    char *at = filled(6);
    OK(mprotect(at + P, P, PROT_READ));
    OK(mprotect(at + 3 * P, P, PROT_NONE));
    OK(mprotect(at, 6 * P, PROT_READ));
    EQ(mappings(at, 6), 1);
    EQ(at[3 * P], 4);
}
CHECK("a hole is refused", "ENOMEM")
{
    char *at = filled(3);
    OK(munmap(at + P, P));
    ERR(mprotect(at, 3 * P, PROT_READ), ENOMEM);
}
CHECK("before a hole it is done all the same", "mprotect goes mapping by mapping, and stops")
{
    char *at = filled(3);
    OK(munmap(at + P, P));
    ERR(mprotect(at, 3 * P, PROT_READ), ENOMEM);
    EQ(writing(at), ACCERR);
    EQ(writing(at + 2 * P), 0);
}
CHECK("a hole at the start is refused", "nothing has changed then")
{
    char *at = filled(3);
    OK(munmap(at, P));
    ERR(mprotect(at, 3 * P, PROT_READ), ENOMEM);
    EQ(writing(at + P), 0);
}
CHECK("a length of 0 is nothing", "no error, unlike mmap and munmap")
{
    OK(mprotect(island(1), 0, PROT_NONE));
}
CHECK("a length of 0 where nothing is", "the range is not looked at")
{
    char *at = island(1);
    OK(munmap(at, P));
    OK(mprotect(at, 0, PROT_NONE));
}
CHECK("an odd address is refused", "EINVAL, before anything else")
{
    ERR(mprotect(island(2) + 1, P, PROT_READ), EINVAL);
}
CHECK("a length is rounded up", "a byte changes its page")
{
    char *at = filled(2);
    OK(mprotect(at, 1, PROT_READ));
    EQ(writing(at + P - 1), ACCERR);
    EQ(writing(at + P), 0);
}
CHECK("a range that wraps around is refused", "ENOMEM")
{
    ERR(mprotect(island(1), -P, PROT_READ), ENOMEM);
}
CHECK("unknown permissions are refused", "EINVAL")
{
    ERR(mprotect(island(1), P, 0x100), EINVAL);
}
CHECK("PROT_SEM is accepted", "it means nothing on x86-64")
{
    OK(mprotect(island(1), P, RW | 8));
}
CHECK("both directions of growth are refused", "EINVAL")
{
    ERR(mprotect(island(1), P, PROT_READ | PROT_GROWSDOWN | PROT_GROWSUP), EINVAL);
}
CHECK("PROT_GROWSDOWN of what is no stack is refused", "EINVAL")
{
    ERR(mprotect(island(1), P, PROT_READ | PROT_GROWSDOWN), EINVAL);
}
CHECK("PROT_GROWSDOWN goes to the start of a stack", "all below is changed, too")
{
    char *at = island_of(4, RW, ANON | MAP_GROWSDOWN);
    OK(mprotect(at + 2 * P, P, PROT_READ | PROT_GROWSDOWN));
    EQ(writing(at), ACCERR);
    EQ(writing(at + 3 * P), 0);
}
CHECK("a shared mapping becomes read-only", "for this process alone")
{
    char *at = island_of(1, RW, SHARED);
    OK(mprotect(at, P, PROT_READ));
    EQ(writing(at), ACCERR);
}
CHECK("a shared file opened for reading stays read-only", "EACCES: VM_MAYWRITE is off")
{
    int fd = open("/tmp/conform-read-only", O_CREAT | O_RDONLY, 0600);
    OK(fd);
    unlink("/tmp/conform-read-only");
    char *at = mmap(NULL, P, PROT_READ, MAP_SHARED, fd, 0);
    OK(at);
    ERR(mprotect(at, P, RW), EACCES);
}
CHECK("a private file may be written to", "the store is to a copy")
{
    char *at = mmap(NULL, P, PROT_READ, MAP_PRIVATE, file_of(1), 0);
    OK(mprotect(at, P, RW));
    EQ(writing(at), 0);
}
CHECK("exec allows to run", "and no exec denies it again")
{
    char *at = island(1);
    *at = '\xc3';
    OK(mprotect(at, P, PROT_READ | PROT_EXEC));
    EQ(running(at), 0);
    OK(mprotect(at, P, PROT_READ));
    EQ(running(at), ACCERR);
}
CHECK("write alone allows a load", "x86-64 has no write-only pages")
{
    char *at = filled(1);
    OK(mprotect(at, P, PROT_WRITE));
    EQ(at[0], 1);
}
CHECK("exec alone allows a load where there are no protection keys", "else an execute-only key denies it")
{
    char *at = filled(1);
    OK(mprotect(at, P, PROT_EXEC));
    int found = reading(at);
    IS(found == 0 || found == PKUERR);
}
CHECK("a page never touched", "protection holds for pages that do not exist yet")
{
    char *at = island(2);
    OK(mprotect(at, 2 * P, PROT_READ));
    EQ(writing(at), ACCERR);
    EQ(resident(at, 2), 0);
}
CHECK("does not reach the child's parent", "fork copies permissions; each changes its own")
{
    char *at = filled(1);
    CHILD OK(mprotect(at, P, PROT_NONE));
    EQ(writing(at), 0);
}
CHECK("of a page that a child shares", "a store to it copies, as before")
{
    char *at = filled(1);
    CHILD {
        OK(mprotect(at, P, PROT_READ));
        OK(mprotect(at, P, RW));
        at[0] = 5;
    }
    EQ(at[0], 1);
}
CHECK("a thousand pages one by one", "every second one: a thousand mappings, all right")
{
    char *at = filled(1000);
    for (long i = 0; i < 1000; i += 2)
        OK(mprotect(at + i * P, P, PROT_READ));
    EQ(mappings(at, 1000), 1000);
    for (long i = 0; i < 1000; i++)
        EQ(at[i * P], (char)(i + 1));
}
