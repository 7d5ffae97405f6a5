/* A disk, or a file of the host that stands for one: buffered and direct reads and writes, by their results and their bytes.
 *
 * The argument names it; it has 1 MiB, and what it holds is lost. Prints a table that is the same for a file and for a disk. Then, if it
 * is a disk, what only a disk answers, on standard error where it is wrong. */
#include "common.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define SIZE (1UL << 20)
#define SECTOR 512UL
#define BLKGETSIZE64_ 0x80081272UL
#define BLKSSZGET_ 0x1268UL

static const char *path;
/* Nothing is ever mapped there; the compiler does not know. */
static unsigned char *volatile nowhere = (unsigned char *)PAGE;

static unsigned char byte_at(size_t offset, unsigned version)
{
    return (unsigned char)(offset * 31 + (offset >> 8) * 7 + (offset >> 16) + version * 101);
}

static void fill(unsigned char *to, size_t offset, size_t len, unsigned version)
{
    for (size_t i = 0; i < len; i++)
        to[i] = byte_at(offset + i, version);
}

static int is_right(const unsigned char *at, size_t offset, size_t len, unsigned version)
{
    for (size_t i = 0; i < len; i++)
        if (at[i] != byte_at(offset + i, version))
            return 0;
    return 1;
}

static int open_it(int flags)
{
    int fd = open(path, O_RDWR | flags);
    CHECK(fd >= 0, "%s", path);
    return fd;
}

static void row(const char *what, long result)
{
    printf("%-36s %ld %d\n", what, result, result < 0 ? errno : 0);
}

static void buffered(void)
{
    int fd = open_it(0);
    unsigned char *all = malloc(SIZE), *part = malloc(100000);
    row("size", lseek(fd, 0, SEEK_END));
    fill(all, 0, SIZE, 0);
    row("write all", pwrite(fd, all, SIZE, 0));
    memset(all, 0, SIZE);
    row("read all", pread(fd, all, SIZE, 0));
    CHECK(is_right(all, 0, SIZE, 0));
    static const size_t places[][2] = {{0, 1}, {1, 511}, {511, 2}, {513, 1024}, {1000, 99999}, {SIZE - 77, 77}, {65535, 65537}, {512, 512}};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        size_t at = places[i][0], len = places[i][1];
        fill(part, at, len, 1);
        CHECK(pwrite(fd, part, len, (off_t)at) == (ssize_t)len, "at %zu", at);
        CHECK(pread(fd, all, SIZE, 0) == (ssize_t)SIZE);
        CHECK(is_right(all, 0, at, 0) && is_right(all + at, at, len, 1) && is_right(all + at + len, at + len, SIZE - at - len, 0), "at %zu", at);
        memset(part, 0, len);
        CHECK(pread(fd, part, len, (off_t)at) == (ssize_t)len && is_right(part, at, len, 1));
        fill(part, at, len, 0);
        CHECK(pwrite(fd, part, len, (off_t)at) == (ssize_t)len);
    }
    row("read at the end", pread(fd, part, 10, SIZE));
    row("read beyond the end", pread(fd, part, 10, SIZE + 5));
    row("read over the end", pread(fd, part, 100, SIZE - 10));
    row("read nothing", pread(fd, part, 0, 3));
    row("read to nowhere", pread(fd, nowhere, 10, 0));
    row("write from nowhere", pwrite(fd, nowhere, 10, 0));
    row("seek", lseek(fd, 100, SEEK_SET));
    row("read at the position", read(fd, part, 50));
    CHECK(is_right(part, 100, 50, 0));
    row("position", lseek(fd, 0, SEEK_CUR));
    struct iovec v[3] = {{part, 10}, {part + 1000, 0}, {part + 2000, 600}};
    row("readv", preadv(fd, v, 3, 200));
    CHECK(is_right(part, 200, 10, 0) && is_right(part + 2000, 210, 600, 0));
    fill(part, 200, 10, 2);
    fill(part + 2000, 210, 600, 2);
    row("writev", pwritev(fd, v, 3, 200));
    CHECK(pread(fd, part, 610, 200) == 610 && is_right(part, 200, 610, 2));
    row("fsync", fsync(fd));
    row("fdatasync", fdatasync(fd));
    close(fd);
    fd = open(path, O_RDONLY);
    row("write to what is open for reading", pwrite(fd, part, 10, 0));
    close(fd);
    free(all);
    free(part);
}

static void direct(void)
{
    int fd = open_it(O_DIRECT), cached = open_it(0);
    unsigned char *all = map_pages(SIZE / PAGE + 1), *pages = map_pages(4);
    fill(all, 0, SIZE, 3);
    row("direct write all", pwrite(fd, all, SIZE, 0));
    memset(all, 0, SIZE);
    row("direct read all", pread(fd, all + SECTOR, SIZE, 0));
    CHECK(is_right(all + SECTOR, 0, SIZE, 3));
    memset(all, 0, SIZE);
    CHECK(pread(cached, all, SIZE, 0) == (ssize_t)SIZE && is_right(all, 0, SIZE, 3));
    row("a sector to an address + 512", pread(fd, pages + 512, SECTOR, SECTOR));
    CHECK(is_right(pages + 512, SECTOR, SECTOR, 3));
    row("half a sector", pread(fd, pages, SECTOR / 2, 0));
    row("a sector and a half", pread(fd, pages, SECTOR * 3 / 2, 0));
    row("a sector from 1 on", pread(fd, pages, SECTOR, 1));
    row("three sectors over two pages", pread(fd, pages + PAGE - SECTOR, 3 * SECTOR, 7 * SECTOR));
    CHECK(is_right(pages + PAGE - SECTOR, 7 * SECTOR, 3 * SECTOR, 3));
    row("half a sector is written", pwrite(fd, pages, SECTOR / 2, 0));
    row("direct nothing", pread(fd, pages, 0, 0));
    row("direct at the end", pread(fd, pages, SECTOR, SIZE));
    row("direct over the end", pread(fd, pages, 2 * PAGE, SIZE - PAGE));
    CHECK(is_right(pages, SIZE - PAGE, PAGE, 3));
    row("direct to nowhere", pread(fd, nowhere, PAGE, 0));
    row("direct from nowhere", pwrite(fd, nowhere, PAGE, 0));
    CHECK(mprotect(pages, PAGE, PROT_READ) == 0);
    row("direct to what cannot be written", pread(fd, pages, PAGE, 0));
    row("direct from what can be read", pwrite(fd, pages, PAGE, SIZE - PAGE));
    CHECK(mprotect(pages, PAGE, PROT_NONE) == 0);
    row("direct from what cannot be read", pwrite(fd, pages, PAGE, 0));
    struct iovec v[3] = {{pages + PAGE, SECTOR}, {pages + 2 * PAGE + SECTOR, 2 * SECTOR}, {pages + 3 * PAGE, PAGE}};
    row("direct readv", preadv(fd, v, 3, 5 * SECTOR));
    CHECK(is_right(pages + PAGE, 5 * SECTOR, SECTOR, 3) && is_right(pages + 2 * PAGE + SECTOR, 6 * SECTOR, 2 * SECTOR, 3) &&
          is_right(pages + 3 * PAGE, 8 * SECTOR, PAGE, 3));
    fill(pages + PAGE, 5 * SECTOR, SECTOR, 4);
    fill(pages + 2 * PAGE + SECTOR, 6 * SECTOR, 2 * SECTOR, 4);
    fill(pages + 3 * PAGE, 8 * SECTOR, PAGE, 4);
    row("direct writev", pwritev(fd, v, 3, 5 * SECTOR));
    CHECK(pread(cached, all, 16 * SECTOR, 0) == (ssize_t)(16 * SECTOR) && is_right(all + 5 * SECTOR, 5 * SECTOR, 11 * SECTOR, 4));
    v[1].iov_len = 100;
    row("direct readv of an odd piece", preadv(fd, v, 3, 0));
    /* Pages that nobody has touched: zeroes, which are read from and must not be written to. */
    unsigned char *fresh = map_pages(2);
    row("direct write of untouched pages", pwrite(fd, fresh, 2 * PAGE, 0));
    CHECK(pread(cached, all, 2 * PAGE, 0) == (ssize_t)(2 * PAGE));
    for (size_t i = 0; i < 2 * PAGE; i++)
        CHECK(all[i] == 0);
    fill(all, 0, SIZE, 3);
    CHECK(pwrite(fd, all, SIZE, 0) == (ssize_t)SIZE);
    row("direct read to untouched pages", pread(fd, fresh, PAGE, PAGE));
    CHECK(is_right(fresh, PAGE, PAGE, 3));
    unsigned char *zero = map_pages(1);
    for (size_t i = 0; i < PAGE; i++)
        CHECK(zero[i] == 0);
    row("O_DIRECT is told", (fcntl(fd, F_GETFL) & O_DIRECT) != 0);
    row("O_DIRECT is switched off", fcntl(fd, F_SETFL, 0));
    row("half a sector, buffered", pread(fd, pages + PAGE, SECTOR / 2, 0));
    close(fd);
    close(cached);
}

static void *transfer_slowly(void *argument)
{
    size_t mine = (size_t)argument, region = SIZE / 8, at = mine * region;
    int fd = open_it(O_DIRECT);
    unsigned char *pages = map_pages(region / PAGE);
    for (unsigned version = 5; version < 25; version++) {
        fill(pages, at, region, version);
        CHECK(pwrite(fd, pages, region, (off_t)at) == (ssize_t)region);
        memset(pages, 0, region);
        CHECK(pread(fd, pages, region, (off_t)at) == (ssize_t)region);
        CHECK(is_right(pages, at, region, version), "thread %zu version %u", mine, version);
    }
    close(fd);
    return NULL;
}

/* Children die while the disk writes to their memory; what gets their frames keeps its bytes. */
static void deaths(void)
{
    for (int i = 0; i < 40; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            int fd = open_it(O_DIRECT);
            unsigned char *pages = map_pages(SIZE / PAGE);
            for (;;)
                CHECK(pread(fd, pages, SIZE, 0) == (ssize_t)SIZE);
        }
        usleep(300 + 700 * (unsigned)(i % 7));
        CHECK(kill(child, SIGKILL) == 0);
        unsigned char *pages = map_pages(SIZE / PAGE);
        memset(pages, 0xa5, SIZE);
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
        for (size_t at = 0; at < SIZE; at++)
            CHECK(pages[at] == 0xa5, "at %zu", at);
        munmap(pages, SIZE);
    }
}

static void only_disk(void)
{
    int fd = open_it(O_DIRECT);
    uint64_t bytes = 0;
    int sector = 0;
    CHECK(ioctl(fd, BLKGETSIZE64_, &bytes) == 0 && bytes == SIZE);
    CHECK(ioctl(fd, BLKSSZGET_, &sector) == 0 && sector == 512);
    CHECK(ioctl(fd, BLKGETSIZE64_, nowhere) == -1 && errno == EFAULT);
    CHECK(ioctl(fd, 0x5401, &sector) == -1 && errno == ENOTTY);
    unsigned char *pages = map_pages(2);
    /* A file system may copy what lies oddly; a disk refuses it. */
    CHECK(pread(fd, pages + 1, 512, 0) == -1 && errno == EINVAL);
    CHECK(pread(fd, pages + 256, 512, 0) == -1 && errno == EINVAL);
    CHECK(pwrite(fd, pages + 1, 512, 0) == -1 && errno == EINVAL);
    CHECK(pwrite(fd, pages, PAGE, SIZE) == -1 && errno == ENOSPC);
    CHECK(pwrite(fd, pages, 2 * PAGE, SIZE - PAGE) == (ssize_t)PAGE);
    CHECK(fcntl(fd, F_SETFL, 0) == 0);
    CHECK(pwrite(fd, pages, 10, SIZE) == -1 && errno == ENOSPC);
    CHECK(pwrite(fd, pages, 100, SIZE - 10) == 10);
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == ENODEV);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_size == 0 && st.st_rdev != 0);
    close(fd);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    path = argv[1];
    buffered();
    direct();
    pthread_t threads[8];
    for (size_t i = 0; i < 8; i++)
        CHECK(pthread_create(&threads[i], NULL, transfer_slowly, (void *)i) == 0);
    for (size_t i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    deaths();
    struct stat st;
    CHECK(stat(path, &st) == 0);
    if (S_ISBLK(st.st_mode))
        only_disk();
    puts("disk: done");
    return 0;
}
