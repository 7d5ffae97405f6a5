/* munmap: what goes, what stays, what is refused. */
#include "conform.h"
#define GROUP "munmap"

CHECK("all of a mapping", "an access is SEGV_MAPERR then")
{
    char *at = filled(2);
    OK(munmap(at, 2 * P));
    EQ(reading(at), MAPERR);
    EQ(writing(at + P), MAPERR);
}
CHECK("the start", "the rest keeps its contents")
{
    char *at = filled(4);
    OK(munmap(at, 2 * P));
    EQ(reading(at + P), MAPERR);
    EQ(at[2 * P], 3);
    EQ(mappings(at, 4), 1);
}
CHECK("the end", "the start keeps its contents")
{
    char *at = filled(4);
    OK(munmap(at + 2 * P, 2 * P));
    EQ(at[P], 2);
    EQ(reading(at + 2 * P), MAPERR);
}
CHECK("the middle", "two mappings are left")
{
    char *at = filled(5);
    OK(munmap(at + 2 * P, P));
    EQ(at[P], 2);
    EQ(at[3 * P], 4);
    EQ(mappings(at, 5), 2);
}
CHECK("several mappings and the holes between", "holes are no error")
{
    char *at = filled(9);
    OK(munmap(at + P, P));
    OK(mprotect(at + 4 * P, P, PROT_READ));
    OK(munmap(at, 9 * P));
    EQ(mappings(at, 9), 0);
}
CHECK("nothing there", "no error: the range is unmapped afterwards")
{
    char *at = island(4);
    OK(munmap(at, 4 * P));
    OK(munmap(at, 4 * P));
}
CHECK("a length of 0 is refused", "EINVAL")
{
    ERR(munmap(island(1), 0), EINVAL);
}
CHECK("an odd address is refused", "EINVAL")
{
    ERR(munmap(island(2) + 1, P), EINVAL);
}
CHECK("a length is rounded up", "a byte unmaps its page")
{
    char *at = filled(2);
    OK(munmap(at, 1));
    EQ(reading(at), MAPERR);
    EQ(at[P], 2);
}
CHECK("a range that wraps around is refused", "EINVAL")
{
    ERR(munmap(island(1), -P), EINVAL);
}
CHECK("a range beyond the last address is refused", "EINVAL")
{
    ERR(munmap((void *)(1UL << 60), P), EINVAL);
}
CHECK("memory comes back as zeroes", "pages of before are gone, also at the same address")
{
    char *at = filled(3);
    OK(munmap(at, 3 * P));
    OK(mmap(at, 3 * P, RW, ANON | MAP_FIXED, -1, 0));
    for (long i = 0; i < 3; i++)
        EQ(at[i * P], 0);
}
CHECK("a shared page stays for others", "the object lives as long as somebody maps it")
{
    int ends[2];
    char *at = island_of(1, RW, SHARED), byte = 0;
    OK(pipe(ends));
    at[0] = 42;
    pid_t child = fork();
    if (child == 0) {
        read(ends[0], &byte, 1);
        _exit(at[0] == 42 ? 0 : 1);
    }
    OK(munmap(at, P));
    EQ(write(ends[1], &byte, 1), 1);
    child_end(child);
}
CHECK("locked memory is unlocked", "VmLck falls")
{
    char *at = island(4);
    OK(mlock(at, 4 * P));
    EQ(status_kb("VmLck"), 16);
    OK(munmap(at, 2 * P));
    EQ(status_kb("VmLck"), 8);
}
CHECK("memory is given back", "VmRSS falls by what was resident")
{
    char *at = island(1024);
    memset(at, 1, 1024 * P);
    long before = status_kb("RssAnon");
    OK(munmap(at, 1024 * P));
    IS(before - status_kb("RssAnon") >= 4000);
}
CHECK("a child keeps its own", "fork copies mappings; each ends its own")
{
    char *at = filled(1);
    CHILD OK(munmap(at, P));
    EQ(at[0], 1);
}
CHECK("the stack's guard may go", "what is mapped by mmap is unmapped by munmap, whatever it is for")
{
    char *at = island_of(4, RW, ANON | MAP_GROWSDOWN);
    OK(munmap(at, 4 * P));
    EQ(mappings(at, 4), 0);
}
CHECK("a file's private page", "what was stored is lost with the mapping")
{
    int fd = file_of(1);
    char *at = mmap(NULL, P, RW, MAP_PRIVATE, fd, 0);
    at[0] = 'z';
    OK(munmap(at, P));
    at = mmap(NULL, P, RW, MAP_PRIVATE, fd, 0);
    EQ(at[0], 'a');
}
CHECK("a mapping outlives its descriptor", "the mapping holds the file")
{
    int fd = file_of(1);
    char *at = mmap(NULL, P, RW, MAP_PRIVATE, fd, 0);
    OK(close(fd));
    EQ(at[0], 'a');
}
CHECK("a hole is used again", "the next mapping of that size may lie there")
{
    char *at = island(3);
    OK(munmap(at + P, P));
    EQ(mmap(at + P, P, RW, ANON, -1, 0), at + P);
}
