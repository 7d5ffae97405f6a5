/* vmsplice, splice and tee: counts, errors, and whose bytes they are.
 *
 * Prints a table; the host's Linux says what is right. */
#include "common.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

static unsigned char back[1 << 20];
static unsigned char *area; /* 40 pages */
static unsigned char *cliff; /* the first byte that is not there */

static void note(const char *what, long result)
{
    printf("%-58s %ld\n", what, result < 0 ? -(long)errno : result);
}

struct ends {
    int out, in;
};

static struct ends make(void)
{
    int fd[2];
    CHECK(pipe(fd) == 0);
    return (struct ends){fd[0], fd[1]};
}

static void drop(struct ends ends)
{
    close(ends.out);
    close(ends.in);
}

static long waiting(int fd)
{
    int n = 0;
    CHECK(ioctl(fd, FIONREAD, &n) == 0);
    return n;
}

static long map_to(int fd, void *at, size_t len, unsigned flags)
{
    struct iovec piece = {at, len};
    return vmsplice(fd, &piece, 1, flags);
}

static void fill(unsigned char *at, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        at[i] = (unsigned char)(i * 5 + i / PAGE + seed);
}

static void pages_into_pipes(void)
{
    struct ends p = make();
    fill(area, 40 * PAGE, 1);
    note("vmsplice: a page", map_to(p.in, area, PAGE, 0));
    note("vmsplice: what waits", waiting(p.out));
    area[7] = 200;
    note("vmsplice: read", read(p.out, back, PAGE));
    note("vmsplice: a later store is seen", back[7]);
    note("vmsplice: not aligned", map_to(p.in, area + 100, 5000, SPLICE_F_GIFT));
    note("vmsplice: read", read(p.out, back, sizeof back));
    note("vmsplice: its bytes", memcmp(back, area + 100, 5000));
    note("vmsplice: as much as there is room for", map_to(p.in, area, 40 * PAGE, SPLICE_F_NONBLOCK));
    note("vmsplice: full", map_to(p.in, area, 1, SPLICE_F_NONBLOCK));
    note("vmsplice: what waits", waiting(p.out));
    note("vmsplice: read in part", read(p.out, back, 6000));
    note("vmsplice: its bytes", memcmp(back, area, 6000));
    note("vmsplice: one page was let go", map_to(p.in, area, 2 * PAGE, SPLICE_F_NONBLOCK));
    note("vmsplice: the rest", read(p.out, back, sizeof back));
    note("vmsplice: up to the cliff", map_to(p.in, cliff - 10, 100, 0));
    note("vmsplice: beyond it", map_to(p.in, cliff, 100, 0));
    note("vmsplice: nothing", map_to(p.in, cliff, 0, 0));
    note("vmsplice: a wild address", map_to(p.in, (void *)-1L, 100, 0));
    note("vmsplice: flags", map_to(p.in, area, 1, 16));
    note("vmsplice: read over the cliff", read(p.out, cliff - 4, 10));
    note("vmsplice: it stays", waiting(p.out));
    note("vmsplice: read", read(p.out, back, 10));
    /* A write after it does not join a program's page. */
    area[100] = 1, area[101] = 2;
    note("vmsplice: two bytes", map_to(p.in, area + 100, 2, 0));
    note("write: two more", write(p.in, "\7\10", 2));
    area[102] = 99;
    note("read: all four", read(p.out, back, 100));
    note("its bytes", back[0] * 1000 + back[1] * 100 + back[2] * 10 + back[3]);
    /* The other way: copied. */
    note("write: bytes", write(p.in, "0123456789", 10));
    note("vmsplice: out of the pipe", map_to(p.out, back, 4, 0));
    note("vmsplice: its bytes", memcmp(back, "0123", 4));
    note("vmsplice: more than there is", map_to(p.out, back, 100, 0));
    note("vmsplice: empty", map_to(p.out, back, 100, SPLICE_F_NONBLOCK));
    struct iovec several[3] = {{area, 10}, {area + PAGE, 0}, {area + 2 * PAGE - 1, 2}};
    note("vmsplice: several", vmsplice(p.in, several, 3, 0));
    note("vmsplice: too many", vmsplice(p.in, several, 1025, 0));
    note("read", read(p.out, back, sizeof back));
    note("its bytes", back[10] == area[2 * PAGE - 1] && back[11] == area[2 * PAGE]);
    int file = memfd_create("splice", 0);
    note("vmsplice: no pipe", map_to(file, area, 10, 0));
    note("vmsplice: no descriptor", map_to(-1, area, 10, 0));
    close(file);
    close(p.out);
    note("vmsplice: nobody reads", map_to(p.in, area, 10, 0));
    close(p.in);
}

/* A page in a pipe outlives its mapping, and its program. */
static void pages_that_stay(void)
{
    struct ends p = make();
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        unsigned char *own = map_pages(3);
        fill(own, 3 * PAGE, 9);
        CHECK(map_to(p.in, own, 3 * PAGE, 0) == 3 * (long)PAGE);
        CHECK(madvise(own, PAGE, MADV_DONTNEED) == 0 && munmap(own + PAGE, PAGE) == 0);
        CHECK(own[0] == 0);
        own[0] = 55;
        _exit(0);
    }
    wait_ok(child);
    unsigned char *same = map_pages(3), *other = map_pages(64);
    memset(other, 3, 64 * PAGE);
    fill(same, 3 * PAGE, 9);
    note("stay: read", read(p.out, back, sizeof back));
    note("stay: its bytes", memcmp(back, same, 3 * PAGE));
    drop(p);
}

static void tees(void)
{
    struct ends a = make(), b = make();
    CHECK(fcntl(a.out, F_SETFL, O_NONBLOCK) == 0);
    note("tee: nothing there", tee(a.out, b.in, 100, SPLICE_F_NONBLOCK));
    CHECK(write(a.in, "hello", 5) == 5);
    CHECK(map_to(a.in, area + 3 * PAGE, 2 * PAGE, 0) == 2 * (long)PAGE);
    note("tee: in part", tee(a.out, b.in, 100, 0));
    note("tee: stays", waiting(a.out));
    note("tee: has come", waiting(b.out));
    note("tee: of nothing", tee(a.out, b.in, 0, 0));
    note("tee: all", tee(a.out, b.in, 1 << 20, 0));
    note("tee: read", read(b.out, back, sizeof back));
    note("tee: its bytes", memcmp(back, "hello", 5) + memcmp(back + 105, area + 3 * PAGE + 0, 0));
    note("tee: bytes after", memcmp(back + 100 + 5, area + 3 * PAGE, 2 * PAGE));
    note("tee: source", read(a.out, back, sizeof back));
    note("tee: its bytes", memcmp(back, "hello", 5) + memcmp(back + 5, area + 3 * PAGE, 2 * PAGE));
    note("tee: into itself", tee(a.out, a.in, 1, 0));
    note("tee: wrong ends", tee(a.in, b.out, 1, 0));
    int null = open("/dev/null", O_WRONLY);
    note("tee: no pipe", tee(a.out, null, 1, 0));
    close(null);
    note("tee: flags", tee(a.out, b.in, 1, 16));
    CHECK(write(a.in, "abc", 3) == 3);
    CHECK(tee(a.out, b.in, 2, 0) == 2);
    CHECK(write(b.in, "XY", 2) == 2);
    note("tee: what comes later does not meet", read(a.out, back, 100));
    note("tee: its bytes", memcmp(back, "abc", 3));
    note("tee: nor there", read(b.out, back, 100));
    note("tee: its bytes", memcmp(back, "abXY", 4));
    CHECK(write(a.in, "abc", 3) == 3);
    close(b.out);
    note("tee: nobody reads", tee(a.out, b.in, 1, 0));
    close(b.in);
    drop(a);
}

static void splices(void)
{
    struct ends a = make(), b = make();
    CHECK(write(a.in, "0123456789", 10) == 10);
    CHECK(map_to(a.in, area + 4 * PAGE, PAGE + 10, 0) == (long)PAGE + 10);
    note("splice: in part", splice(a.out, NULL, b.in, NULL, 4, 0));
    note("splice: is gone", waiting(a.out));
    note("splice: over buffers", splice(a.out, NULL, b.in, NULL, 1000, 0));
    note("splice: the rest", splice(a.out, NULL, b.in, NULL, 1 << 20, 0));
    note("splice: nothing", splice(a.out, NULL, b.in, NULL, 1 << 20, SPLICE_F_NONBLOCK));
    note("splice: read", read(b.out, back, sizeof back));
    note("splice: its bytes", memcmp(back, "0123456789", 10) + memcmp(back + 10, area + 4 * PAGE, PAGE + 10));
    note("splice: into itself", splice(a.out, NULL, a.in, NULL, 1, 0));

    int file = memfd_create("splice", 0);
    CHECK(ftruncate(file, 3 * PAGE + 100) == 0);
    CHECK(pwrite(file, area, 3 * PAGE + 100, 0) == 3 * (long)PAGE + 100);
    off_t at = 4090;
    off64_t *where = (off64_t *)&at;
    note("splice: out of a file", splice(file, where, a.in, NULL, 100, 0));
    note("splice: offset", at);
    note("splice: position", lseek(file, 0, SEEK_CUR));
    note("splice: read", read(a.out, back, sizeof back));
    note("splice: its bytes", memcmp(back, area + 4090, 100));
    note("splice: at the position", splice(file, NULL, a.in, NULL, 1 << 20, 0));
    note("splice: position", lseek(file, 0, SEEK_CUR));
    note("splice: at the end", splice(file, NULL, a.in, NULL, 100, 0));
    note("splice: read", read(a.out, back, sizeof back));
    note("splice: its bytes", memcmp(back, area, 3 * PAGE + 100));
    int target = memfd_create("target", 0);
    CHECK(map_to(a.in, area + 7, 9000, 0) == 9000);
    at = 50;
    note("splice: into a file", splice(a.out, NULL, target, where, 5000, 0));
    note("splice: offset", at);
    note("splice: into it at its position", splice(a.out, NULL, target, NULL, 1 << 20, 0));
    note("splice: position", lseek(target, 0, SEEK_CUR));
    note("splice: size", lseek(target, 0, SEEK_END));
    note("splice: bytes", pread(target, back, sizeof back, 4000) == 1050 && memcmp(back, area + 7 + 3950, 1050) == 0);
    note("splice: nothing for the file", splice(a.out, NULL, target, NULL, 10, SPLICE_F_NONBLOCK));
    note("splice: no pipe", splice(file, NULL, target, NULL, 10, 0));
    note("splice: an offset of a pipe", splice(a.out, where, target, NULL, 10, 0));
    note("splice: an offset of a pipe", splice(file, NULL, a.in, where, 10, 0));
    note("splice: of nothing", splice(a.out, NULL, target, NULL, 0, 0));
    note("splice: flags", splice(a.out, NULL, target, NULL, 1, 16));
    note("splice: wrong ends", splice(a.in, NULL, target, NULL, 1, 0));
    CHECK(fcntl(target, F_SETFL, O_APPEND) == 0);
    CHECK(write(a.in, "x", 1) == 1);
    note("splice: to the end", splice(a.out, NULL, target, NULL, 1, 0));
    note("splice: out of a hole", splice(file, (off64_t *)cliff, a.in, NULL, 1, 0));
    int null = open("/dev/null", O_WRONLY);
    note("splice: into nothing", splice(a.out, NULL, null, NULL, 10, 0));
    close(null);
    /* Full. */
    while (map_to(a.in, area, PAGE, SPLICE_F_NONBLOCK) > 0)
        continue;
    note("splice: into a full pipe", splice(file, where, a.in, NULL, 10, SPLICE_F_NONBLOCK));
    note("splice: from a full one", splice(a.out, NULL, b.in, NULL, 1 << 20, 0));
    note("splice: read", read(b.out, back, sizeof back));
    close(a.in);
    note("splice: the end", splice(a.out, NULL, b.in, NULL, 10, SPLICE_F_NONBLOCK));
    note("tee: the end", tee(a.out, b.in, 10, 0));
    close(b.out);
    note("splice: nobody reads", splice(file, where, b.in, NULL, 10, 0));
    close(a.out);
    close(b.in);
    close(file);
    close(target);
}

/* Much, through three pipes at once, with who waits at each end. */
static void through(void)
{
    enum { ROUNDS = 200 };
    struct ends a = make(), b = make();
    fflush(stdout);
    pid_t giver = fork();
    if (giver == 0) {
        close(a.out);
        drop(b);
        for (int i = 0; i < ROUNDS; i++) {
            unsigned char *own = map_pages(5);
            fill(own, 5 * PAGE, (unsigned)i);
            for (size_t done = 0; done < 5 * PAGE;) {
                long n = map_to(a.in, own + done, 5 * PAGE - done, 0);
                CHECK(n > 0);
                done += (size_t)n;
            }
            CHECK(munmap(own, 5 * PAGE) == 0);
        }
        _exit(0);
    }
    close(a.in);
    pid_t mover = fork();
    if (mover == 0) {
        close(b.out);
        long n;
        while ((n = splice(a.out, NULL, b.in, NULL, 7777, 0)) > 0)
            continue;
        _exit(n == 0 ? 0 : 7);
    }
    close(b.in);
    close(a.out);
    unsigned char *wanted = map_pages(5);
    for (int i = 0; i < ROUNDS; i++) {
        fill(wanted, 5 * PAGE, (unsigned)i);
        for (size_t got = 0; got < 5 * PAGE;) {
            ssize_t n = read(b.out, back + got, 5 * PAGE - got);
            CHECK(n > 0);
            got += (size_t)n;
        }
        CHECK(memcmp(back, wanted, 5 * PAGE) == 0, "round %d", i);
    }
    note("through: the end", read(b.out, back, 1));
    close(b.out);
    wait_ok(giver);
    wait_ok(mover);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    area = map_pages(40);
    cliff = map_pages(1025) + PAGE;
    CHECK(munmap(cliff, 1024 * PAGE) == 0);
    pages_into_pipes();
    pages_that_stay();
    tees();
    splices();
    through();
    return 0;
}
