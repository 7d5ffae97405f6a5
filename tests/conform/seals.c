/* Files of memory that are sealed: what each seal refuses, and what it does not. */
#include "conform.h"
#define GROUP "seals"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif

/* A file of two pages that takes seals. */
static int sealable(void)
{
    int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
    OK(fd);
    OK(ftruncate(fd, 2 * P));
    EQ(pwrite(fd, "a", 1, 0), 1);
    return fd;
}
static int sealed(int seals)
{
    int fd = sealable();
    OK(fcntl(fd, F_ADD_SEALS, seals));
    EQ(fcntl(fd, F_GET_SEALS), seals);
    return fd;
}
static char *mapped(int fd, int protection, int flags)
{
    return mmap(NULL, 2 * P, protection, flags, fd, 0);
}

CHECK("a file takes seals if it was made so", "MFD_ALLOW_SEALING; else it has F_SEAL_SEAL, and EPERM")
{
    int fd = sealable();
    EQ(fcntl(fd, F_GET_SEALS), 0);
    fd = file_of(1);
    EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SEAL);
    ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EPERM);
}
CHECK("F_SEAL_SHRINK refuses to make it shorter", "EPERM; longer it may be, and written")
{
    int fd = sealed(F_SEAL_SHRINK);
    ERR(ftruncate(fd, P), EPERM);
    OK(ftruncate(fd, 2 * P));
    OK(ftruncate(fd, 3 * P));
    EQ(pwrite(fd, "b", 1, 0), 1);
}
CHECK("F_SEAL_GROW refuses to make it longer", "EPERM, by ftruncate, write and fallocate; shorter it may be")
{
    int fd = sealed(F_SEAL_GROW);
    ERR(ftruncate(fd, 3 * P), EPERM);
    ERR(pwrite(fd, "b", 1, 2 * P), EPERM);
    ERR(fallocate(fd, 0, 2 * P, P), EPERM);
    EQ(pwrite(fd, "b", 1, 2 * P - 1), 1);
    OK(ftruncate(fd, P));
}
CHECK("F_SEAL_WRITE refuses to change it", "EPERM: write, a hole, a shared mapping that may be written")
{
    int fd = sealed(F_SEAL_WRITE);
    ERR(pwrite(fd, "b", 1, 0), EPERM);
    ERR(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, P), EPERM);
    ERR(mapped(fd, RW, MAP_SHARED), EPERM);
    OK(ftruncate(fd, 3 * P));
    char *own = mapped(fd, RW, MAP_PRIVATE);
    OK(own);
    EQ(writing(own), 0);
    char *read_only = mapped(fd, PROT_READ, MAP_SHARED);
    // Before Linux 6.7 nobody could map it shared.
    IS(read_only != MAP_FAILED || errno == EPERM);
    if (read_only != MAP_FAILED) {
        EQ(read_only[0], 'a');
        ERR(mprotect(read_only, P, RW), EACCES);
    }
}
CHECK("F_SEAL_WRITE is refused while somebody may write", "EBUSY, as long as the mapping is there")
{
    int fd = sealable();
    char *at = mapped(fd, RW, MAP_SHARED);
    OK(at);
    ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    // What may become writable again counts.
    OK(mprotect(at, 2 * P, PROT_READ));
    ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW), EBUSY);
    EQ(fcntl(fd, F_GET_SEALS), 0);
    OK(munmap(at, 2 * P));
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    EQ(fcntl(fd, F_GET_SEALS), F_SEAL_WRITE);
}
CHECK("F_SEAL_FUTURE_WRITE lets those write that are there", "EPERM: write, and shared mappings that come")
{
    int fd = sealable();
    char *before = mapped(fd, RW, MAP_SHARED);
    OK(before);
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) && errno == EINVAL)
        absent("F_SEAL_FUTURE_WRITE");
    EQ(fcntl(fd, F_GET_SEALS), F_SEAL_FUTURE_WRITE);
    EQ(writing(before), 0);
    ERR(pwrite(fd, "b", 1, 0), EPERM);
    ERR(mapped(fd, RW, MAP_SHARED), EPERM);
    char *after = mapped(fd, PROT_READ, MAP_SHARED);
    OK(after);
    EQ(after[0], 99);
    ERR(mprotect(after, P, RW), EACCES);
}
CHECK("F_SEAL_SEAL is the last", "EPERM for whatever comes, what it has already included")
{
    int fd = sealed(F_SEAL_SEAL | F_SEAL_SHRINK);
    ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EPERM);
    ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), EPERM);
    OK(ftruncate(fd, 3 * P));
    EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SEAL | F_SEAL_SHRINK);
}
CHECK("seals are the file's and not the descriptor's", "they add up; who may not write adds none: EPERM")
{
    char path[64];
    int fd = sealed(F_SEAL_SHRINK), copy = dup(fd);
    CHILD OK(fcntl(copy, F_ADD_SEALS, F_SEAL_GROW));
    EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reader = open(path, O_RDONLY);
    OK(reader);
    EQ(fcntl(reader, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW);
    ERR(fcntl(reader, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
}
CHECK("seals that are none are refused", "EINVAL; so is a pipe")
{
    int fd = sealable(), ends[2];
    ERR(fcntl(fd, F_ADD_SEALS, 0x80000000), EINVAL);
    EQ(fcntl(fd, F_GET_SEALS), 0);
    OK(pipe(ends));
    ERR(fcntl(ends[1], F_ADD_SEALS, F_SEAL_WRITE), EINVAL);
    ERR(fcntl(ends[1], F_GET_SEALS), EINVAL);
}
