/* Files of memory that are sealed: who may still write, resize, map and seal them. Every result is a line of the table. */
#include "common.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif
#define NOEXEC_SEAL 8U
#define EXEC 16U

static int result(long value)
{
    return value == -1 ? -errno : (int)value;
}

static int fresh(unsigned flags)
{
    int fd = (int)syscall(SYS_memfd_create, "sealed", flags);
    CHECK(fd >= 0, "flags %x", flags);
    CHECK(ftruncate(fd, 6000) == 0);
    return fd;
}

static int add(int fd, unsigned long seals)
{
    return result(fcntl(fd, F_ADD_SEALS, seals));
}

static int get(int fd)
{
    return result(fcntl(fd, F_GET_SEALS));
}

static int maps(int fd, int prot, int flags)
{
    void *at = mmap(NULL, 2 * PAGE, prot, flags, fd, 0);
    if (at == MAP_FAILED)
        return -errno;
    CHECK(munmap(at, 2 * PAGE) == 0);
    return 0;
}

static char bytes[4 * PAGE];

/* All that may be done with a file. */
static void table(const char *name, int fd)
{
    struct stat st;
    printf("%s: seals %x", name, get(fd));
    printf(", write %d, nothing %d", result(pwrite(fd, "x", 1, 10)), result(pwrite(fd, "x", 0, 10)));
    printf(", over the end %d", result(pwrite(fd, bytes, 3 * PAGE, 0)));
    CHECK(fstat(fd, &st) == 0);
    printf(" -> %ld", (long)st.st_size);
    printf(", at the end %d", result(pwrite(fd, bytes, 10, st.st_size)));
    printf(", in the last page %d", result(pwrite(fd, bytes, 100, st.st_size - 50)));
    CHECK(fstat(fd, &st) == 0);
    printf(" -> %ld", (long)st.st_size);
    printf(", longer %d, same %d, shorter %d", result(ftruncate(fd, st.st_size + 5000)),
           (fstat(fd, &st), result(ftruncate(fd, st.st_size))), result(ftruncate(fd, st.st_size - 5000)));
    CHECK(fstat(fd, &st) == 0);
    printf(" -> %ld", (long)st.st_size);
    printf(", allocate %d %d", result(fallocate(fd, 0, 0, st.st_size + 100)), result(fallocate(fd, 0, 0, st.st_size)));
    printf(", map rw %d, r %d, private %d", maps(fd, PROT_READ | PROT_WRITE, MAP_SHARED), maps(fd, PROT_READ, MAP_SHARED),
           maps(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE));
    printf(", mode %d %d\n", result(fchmod(fd, 0600)), result(fchmod(fd, 0700)));
}

static void mapped(const char *name, unsigned long seals)
{
    int fd = fresh(MFD_ALLOW_SEALING);
    CHECK(write(fd, "hello", 5) == 5);
    char *rw = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(rw != MAP_FAILED);
    printf("%s: mapped rw %d", name, add(fd, seals));
    CHECK(mprotect(rw, 2 * PAGE, PROT_READ) == 0);
    printf(", protected %d", add(fd, seals));
    /* Two mappings now, and a child that has both. */
    CHECK(munmap(rw, PAGE) == 0);
    pid_t child;
    int to_child[2], to_parent[2];
    char byte = 0;
    CHECK(pipe(to_child) == 0 && pipe(to_parent) == 0);
    fflush(stdout);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(read(to_child[0], &byte, 1) == 1);
        CHECK(munmap(rw + PAGE, PAGE) == 0 && write(to_parent[1], "x", 1) == 1);
        CHECK(read(to_child[0], &byte, 1) == 1);
        _exit(0);
    }
    CHECK(munmap(rw + PAGE, PAGE) == 0);
    printf(", a child has it %d", add(fd, seals));
    CHECK(write(to_child[1], "x", 1) == 1 && read(to_parent[0], &byte, 1) == 1);
    void *private = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    printf(", private %d %d", private == MAP_FAILED, add(fd, seals));
    CHECK(write(to_child[1], "x", 1) == 1);
    wait_ok(child);
    char *r = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    printf(", read %d", r == MAP_FAILED ? -errno : memcmp(r, "hello", 5));
    printf(", becomes writable %d", result(mprotect(r, PAGE, PROT_READ | PROT_WRITE)));
    printf(", again %d, seals %x\n", add(fd, seals), get(fd));
    close(fd);
}

int main(void)
{
    for (unsigned flags = 0; flags < 64; flags++) {
        if (flags & 4)
            continue; /* Whether there are huge pages is the machine's affair. */
        int fd = (int)syscall(SYS_memfd_create, "x", flags);
        printf("flags %x: %d", flags, fd < 0 ? -errno : 0);
        if (fd >= 0) {
            struct stat st;
            CHECK(fstat(fd, &st) == 0);
            printf(", mode %o, seals %x", st.st_mode, get(fd));
            close(fd);
        }
        printf("\n");
    }
    memset(bytes, 'n', sizeof bytes);
    bytes[249] = 0;
    printf("a name of 249 bytes %d", syscall(SYS_memfd_create, bytes, 0) >= 0);
    bytes[249] = 'n', bytes[250] = 0;
    printf(", of 250 %d", result(syscall(SYS_memfd_create, bytes, 0)));
    bytes[250] = 'n', bytes[sizeof bytes - 1] = 0;
    printf(", of 16383 %d\n", result(syscall(SYS_memfd_create, bytes, 0)));

    for (unsigned seals = 0; seals < 64; seals++) {
        int fd = fresh(MFD_ALLOW_SEALING | EXEC);
        char name[40];
        snprintf(name, sizeof name, "%x: added %d", seals, add(fd, seals));
        table(name, fd);
        close(fd);
    }
    int fd = fresh(NOEXEC_SEAL);
    table("no program", fd);
    printf("no program: %d %d, seals %x\n", add(fd, F_SEAL_EXEC), add(fd, F_SEAL_SEAL | F_SEAL_GROW), get(fd));
    table("no program", fd);

    fd = fresh(MFD_ALLOW_SEALING);
    printf("unknown %d, too many %d", add(fd, 64), add(fd, 1UL << 32 | F_SEAL_GROW));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reader = open(path, O_RDONLY);
    CHECK(reader >= 0);
    printf(", of a reader %d, get %d", add(reader, F_SEAL_GROW), get(reader));
    printf(", nothing %d, seal %d, again %d, get %d\n", add(fd, 0), add(fd, F_SEAL_SEAL), add(fd, F_SEAL_SEAL), get(fd));
    int unsealable = fresh(0), ends[2], shm = open("/dev/shm/seals.test", O_RDWR | O_CREAT, 0600);
    CHECK(shm >= 0 && unlink("/dev/shm/seals.test") == 0 && pipe(ends) == 0);
    printf("no sealing %d %d, /dev/shm %d %d", add(unsealable, F_SEAL_GROW), get(unsealable), add(shm, F_SEAL_GROW), get(shm));
    printf(", a pipe %d %d %d\n", add(ends[1], F_SEAL_GROW), add(ends[0], F_SEAL_GROW), get(ends[0]));

    mapped("write", F_SEAL_WRITE);
    mapped("write and more", F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
    mapped("future writes", F_SEAL_FUTURE_WRITE);

    /* What was mapped before future writes were refused is still written, also by who inherits it. */
    fd = fresh(MFD_ALLOW_SEALING);
    char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED && add(fd, F_SEAL_FUTURE_WRITE) == 0);
    at[0] = 'a';
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        at[1] = 'b';
        _exit(0);
    }
    wait_ok(child);
    char seen[2];
    CHECK(pread(fd, seen, 2, 0) == 2);
    printf("by a mapping: %c%c, by write %d", seen[0], seen[1], result(pwrite(fd, "x", 1, 0)));
    char *moved = mremap(at, 0, PAGE, MREMAP_MAYMOVE);
    printf(", had twice %d\n", moved == MAP_FAILED ? -errno : (moved[2] = 'c', at[2] == 'c'));
    return 0;
}
