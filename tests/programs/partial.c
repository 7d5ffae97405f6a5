/* Buffers that run into memory that is not there: what was transferred counts, what was not stays with its source.
 *
 * Every result goes into the one line, so the host's Linux says what is right. With an argument the results are
 * printed one to a line. */
#include "common.h"
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static char line[16384];
static size_t used;
static int loud;

static void note(const char *what, long result)
{
    long value = result < 0 ? -errno : result;
    used += (size_t)snprintf(line + used, sizeof line - used, " %ld", value);
    if (loud)
        printf("%-40s %ld\n", what, value);
}

/* The bytes that wait in a pipe. */
static long waiting(int fd)
{
    int n = 0;
    CHECK(ioctl(fd, FIONREAD, &n) == 0);
    return n;
}

/* A page behind which nothing is mapped, and nothing will be: it is the last that is made, and the hole is large. */
static unsigned char *edge(void)
{
    unsigned char *at = map_pages(1025);
    CHECK(munmap(at + PAGE, 1024 * PAGE) == 0);
    return at + PAGE;
}

static unsigned char *cliff; /* the first byte that is not there */
static unsigned char *walled; /* the first byte that may not be touched */
static unsigned char *constant; /* a page that may only be read */

/* A file of a file system in memory, as all are in the microVM. */
static int fill_file(size_t bytes)
{
    int fd = memfd_create("partial", 0);
    CHECK(fd >= 0);
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)(i * 7 + 1);
        CHECK(write(fd, &byte, 1) == 1);
    }
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

static void files(void)
{
    int fd = fill_file(1000);
    note("file: read up to the cliff", read(fd, cliff - 10, 100));
    note("file: position", lseek(fd, 0, SEEK_CUR));
    note("file: bytes", cliff[-10] * 1000 + cliff[-1]);
    note("file: read beyond it", read(fd, cliff, 100));
    note("file: read of nothing beyond it", read(fd, cliff, 0));
    note("file: read into the wall", read(fd, walled - 3, 8));
    note("file: read into what may be read only", read(fd, constant, 8));
    note("file: position", lseek(fd, 0, SEEK_CUR));
    note("file: pread up to the cliff", pread(fd, cliff - 20, 100, 500));
    note("file: pread beyond it", pread(fd, cliff, 100, 500));
    struct iovec three[3] = {{cliff - 30, 20}, {cliff - 5, 50}, {cliff - 40, 10}};
    note("file: readv over the cliff", readv(fd, three, 3));
    note("file: position", lseek(fd, 0, SEEK_CUR));
    struct iovec bad[2] = {{cliff, 20}, {cliff - 5, 5}};
    note("file: readv from the cliff on", readv(fd, bad, 2));
    struct iovec wild[1] = {{cliff, (size_t)-1}};
    note("file: readv of a negative length", readv(fd, wild, 1));
    note("file: read to the last address", read(fd, (void *)-1L, 1));
    note("file: write up to the cliff", write(fd, cliff - 10, 100));
    note("file: write beyond it", write(fd, cliff, 100));
    note("file: write from the wall", write(fd, walled - 3, 100));
    note("file: pwrite up to the cliff", pwrite(fd, cliff - 10, 100, 2000));
    note("file: pwrite beyond it", pwrite(fd, cliff, 100, 50));
    struct iovec out[2] = {{cliff - 30, 20}, {cliff - 5, 50}};
    note("file: writev over the cliff", writev(fd, out, 2));
    note("file: position", lseek(fd, 0, SEEK_CUR));
    note("file: size", lseek(fd, 0, SEEK_END));
    note("file: a large read up to the cliff",
         (ftruncate(fd, 300000) == 0 && lseek(fd, 0, SEEK_SET) == 0) ? read(fd, cliff - PAGE, 200000) : -1);
    note("file: position", lseek(fd, 0, SEEK_CUR));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int end = open(path, O_WRONLY | O_APPEND);
    note("append: up to the cliff", write(end, cliff - 10, 100));
    note("append: position", lseek(end, 0, SEEK_CUR));
    note("append: at an offset", pwrite(end, line, 10, 5));
    note("append: size", lseek(fd, 0, SEEK_END));
    close(end);
    close(fd);
}

static void pipes(void)
{
    int fd[2];
    unsigned char back[8192];
    CHECK(pipe2(fd, O_NONBLOCK) == 0);
    memset(back, 'x', sizeof back);
    CHECK(write(fd[1], "0123456789", 10) == 10);
    note("pipe: read beyond the cliff", read(fd[0], cliff, 10));
    note("pipe: read over it", read(fd[0], cliff - 4, 10));
    note("pipe: what is left", waiting(fd[0]));
    note("pipe: read in part", read(fd[0], cliff - 4, 4));
    struct iovec spread[2] = {{cliff - 3, 3}, {cliff, 10}};
    note("pipe: readv over the cliff", readv(fd[0], spread, 2));
    note("pipe: what is left", waiting(fd[0]));
    note("pipe: the rest", read(fd[0], back, sizeof back));
    note("pipe: nothing", read(fd[0], back, sizeof back));
    note("pipe: read of nothing", read(fd[0], cliff, 0));
    note("pipe: write over the cliff", write(fd[1], cliff - 4, 10));
    note("pipe: write beyond it", write(fd[1], cliff, 10));
    note("pipe: write of nothing", write(fd[1], cliff, 0));
    note("pipe: a page and the cliff", write(fd[1], cliff - PAGE, 2 * PAGE));
    note("pipe: what is left", waiting(fd[0]));
    note("pipe: join and the cliff", write(fd[1], cliff - 4, 10));
    struct iovec gather[2] = {{back, 5}, {cliff, 10}};
    note("pipe: writev over the cliff", writev(fd[1], gather, 2));
    note("pipe: what is left", waiting(fd[0]));
    CHECK(write(fd[1], back, 100) == 100);
    note("pipe: two pages of bytes and the cliff", read(fd[0], cliff - PAGE, 2 * PAGE));
    note("pipe: what is left", waiting(fd[0]));
    close(fd[1]);
    note("pipe: closed and the cliff", read(fd[0], cliff, 10));
    note("pipe: closed", read(fd[0], back, sizeof back));
    note("pipe: closed and empty", read(fd[0], cliff, 10));
    close(fd[0]);
}

static void sockets(int type)
{
    int fd[2];
    unsigned char back[256];
    CHECK(socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, fd) == 0);
    CHECK(write(fd[1], "0123456789", 10) == 10);
    note("socket: read beyond the cliff", read(fd[0], cliff, 10));
    note("socket: recv over it", recv(fd[0], cliff - 4, 10, 0));
    note("socket: what is there", read(fd[0], back, sizeof back));
    note("socket: nothing", read(fd[0], back, sizeof back));
    CHECK(write(fd[1], "0123456789", 10) == 10);
    note("socket: recv in part", recv(fd[0], back, 4, 0));
    note("socket: what is there", recv(fd[0], back, sizeof back, MSG_DONTWAIT));
    note("socket: send over the cliff", send(fd[1], cliff - 4, 10, 0));
    note("socket: write beyond it", write(fd[1], cliff, 10));
    note("socket: what is there", read(fd[0], back, sizeof back));
    if (type != SOCK_STREAM) {
        CHECK(send(fd[1], "0123456789", 10, 0) == 10);
        note("socket: the true length", recv(fd[0], back, 4, MSG_TRUNC));
        note("socket: an empty message", send(fd[1], back, 0, 0));
        note("socket: is received", recv(fd[0], back, 4, 0));
        struct iovec part = {back, 3};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        CHECK(send(fd[1], "01234", 5, 0) == 5);
        note("socket: recvmsg", recvmsg(fd[0], &message, 0));
        note("socket: says that it was cut", message.msg_flags & MSG_TRUNC);
        static char large[300000];
        note("socket: too large a message", send(fd[1], large, sizeof large, 0));
        int sent = 0;
        while (send(fd[1], large, 20000, 0) == 20000)
            sent++;
        note("socket: full", sent > 3 && errno == EAGAIN);
    }
    close(fd[1]);
    if (type == SOCK_STREAM)
        note("socket: closed", read(fd[0], back, sizeof back));
    note("socket: nobody receives", send(fd[0], back, 1, MSG_NOSIGNAL));
    close(fd[0]);
}

static void counters(void)
{
    uint64_t value = 5;
    int fd = eventfd(3, EFD_NONBLOCK);
    note("eventfd: read beyond the cliff", read(fd, cliff, 8));
    note("eventfd: afterwards", read(fd, &value, 8));
    note("eventfd: write beyond it", write(fd, cliff - 4, 8));
    note("eventfd: write too little", write(fd, &value, 4));
    note("eventfd: read too little", read(fd, &value, 4));
    value = 7;
    note("eventfd: write", write(fd, &value, 8));
    note("eventfd: read more than there is", read(fd, cliff - 8, 100));
    close(fd);
}

static void devices(void)
{
    int zero = open("/dev/zero", O_RDWR), null = open("/dev/null", O_RDWR), random = open("/dev/urandom", O_RDWR);
    int full = open("/dev/full", O_RDWR);
    note("zero: read over the cliff", read(zero, cliff - 10, 100));
    note("zero: read beyond it", read(zero, cliff, 100));
    note("zero: pread", pread(zero, cliff - 10, 10, 12345));
    note("zero: write beyond it", write(zero, cliff, 100));
    note("null: write beyond it", write(null, cliff, 100));
    note("null: read beyond it", read(null, cliff, 100));
    note("full: write beyond it", write(full, cliff, 100));
    note("random: read over the cliff", read(random, cliff - 10, 100));
    note("random: read beyond it", read(random, cliff, 100));
    note("random: write over the cliff", write(random, cliff - 10, 100));
    note("getrandom over the cliff", syscall(SYS_getrandom, cliff - 10, 100, 0));
    note("getrandom beyond it", syscall(SYS_getrandom, cliff, 100, 0));
    close(zero);
    close(null);
    close(random);
    close(full);
}

static void directories(void)
{
    CHECK(mkdir("/tmp/partial.d", 0700) == 0);
    for (int i = 0; i < 9; i++) {
        char name[64];
        snprintf(name, sizeof name, "/tmp/partial.d/a-name-of-the-same-length-%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0600));
    }
    int fd = open("/tmp/partial.d", O_RDONLY | O_DIRECTORY);
    CHECK(fd >= 0);
    note("directory: no room", syscall(SYS_getdents64, fd, cliff - 10, 10));
    note("directory: beyond the cliff", syscall(SYS_getdents64, fd, cliff, 1000));
    long some = syscall(SYS_getdents64, fd, cliff - 200, 1000);
    note("directory: over it", some > 0 && some <= 200);
    int names = 0;
    for (int round = 0; round < 100; round++) {
        for (long at = 0; at < some; names++)
            at += (cliff - 200 + at)[16] | (cliff - 200 + at)[17] << 8;
        some = syscall(SYS_getdents64, fd, cliff - 200, 1000);
        if (some <= 0)
            break;
    }
    note("directory: every name once", names);
    note("directory: the end beyond the cliff", syscall(SYS_getdents64, fd, cliff, 1000));
    close(fd);
    for (int i = 0; i < 9; i++) {
        char name[64];
        snprintf(name, sizeof name, "/tmp/partial.d/a-name-of-the-same-length-%d", i);
        CHECK(unlink(name) == 0);
    }
    CHECK(rmdir("/tmp/partial.d") == 0);
}

static void texts(void)
{
    int fd = open("/proc/self/status", O_RDONLY);
    note("text: over the cliff", read(fd, cliff - 10, 100));
    note("text: bytes", memcmp(cliff - 10, "Name:\tpart", 10));
    note("text: beyond it", read(fd, cliff, 100));
    note("text: pread", pread(fd, cliff - 5, 5, 1));
    note("text: bytes", memcmp(cliff - 5, "ame:\t", 5));
    close(fd);
}

int main(int count, char **arguments)
{
    (void)arguments;
    loud = count > 1;
    walled = map_pages(2) + PAGE;
    CHECK(mprotect(walled, PAGE, PROT_NONE) == 0);
    constant = map_pages(1);
    constant[0] = 1;
    CHECK(mprotect(constant, PAGE, PROT_READ) == 0);
    cliff = edge();
    files();
    pipes();
    sockets(SOCK_STREAM);
    sockets(SOCK_DGRAM);
    sockets(SOCK_SEQPACKET);
    counters();
    devices();
    directories();
    texts();
    printf("partial:%s\n", line);
    return 0;
}
