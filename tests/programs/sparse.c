/* Files with holes, and files larger than memory: only what is written or touched costs anything. */
#include "common.h"
#include <fcntl.h>
#include <sys/stat.h>

#define GIGA (1UL << 30)

static long kilobytes(int fd)
{
    struct stat status;
    CHECK(fstat(fd, &status) == 0);
    return (long)status.st_blocks / 2;
}

int main(void)
{
    unsigned char bytes[10000], zeros[10000] = {0};
    int fd = memfd_create("sparse", 0);
    CHECK(fd >= 0);
    memset(bytes, 7, sizeof bytes);

    /* A hole reads as zeros and costs nothing. */
    CHECK(ftruncate(fd, 64 * GIGA) == 0);
    CHECK(lseek(fd, 0, SEEK_END) == 64 * GIGA && kilobytes(fd) == 0);
    CHECK(pread(fd, bytes, sizeof bytes, 33 * GIGA - 5) == sizeof bytes && memcmp(bytes, zeros, sizeof bytes) == 0);
    CHECK(pread(fd, bytes, sizeof bytes, 64 * GIGA - 5) == 5);

    /* What is written costs its pages. */
    CHECK(pwrite(fd, "here", 4, 40 * GIGA) == 4 && pwrite(fd, "there", 5, 50 * GIGA - 2) == 5);
    CHECK(kilobytes(fd) == 12, "%ld KiB", kilobytes(fd));
    CHECK(pread(fd, bytes, 8, 50 * GIGA - 4) == 8 && memcmp(bytes, "\0\0there\0", 8) == 0);

    /* Cut off and grown again, it is a hole again. */
    CHECK(ftruncate(fd, 45 * GIGA) == 0 && ftruncate(fd, 60 * GIGA) == 0);
    CHECK(kilobytes(fd) == 4, "%ld KiB", kilobytes(fd));
    CHECK(pread(fd, bytes, 8, 50 * GIGA - 4) == 8 && memcmp(bytes, zeros, 8) == 0);

    /* Mapped, a page costs when it is touched; what the file had is there. */
    unsigned char *at = mmap(NULL, 60 * GIGA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    CHECK(at != MAP_FAILED);
    CHECK(memcmp(at + 40 * GIGA, "here", 4) == 0);
    at[59 * GIGA] = 1;
    at[5] = 2;
    CHECK(pread(fd, bytes, 2, 59 * GIGA) == 2 && bytes[0] == 1 && bytes[1] == 0);
    CHECK(pread(fd, bytes, 6, 0) == 6 && bytes[5] == 2);
    CHECK(pwrite(fd, "both", 4, 20 * GIGA) == 4 && memcmp(at + 20 * GIGA, "both", 4) == 0);
    CHECK(kilobytes(fd) == 16, "%ld KiB", kilobytes(fd));
    CHECK(munmap(at, 60 * GIGA) == 0);
    close(fd);

    CHECK(ftruncate(open("/tmp", O_RDWR | O_TMPFILE, 0600), -1) == -1 && errno == EINVAL);
    printf("sparse: holes cost nothing\n");
    return 0;
}
