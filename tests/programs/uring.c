/* io_uring by raw system calls: a table of what is answered, the same on Linux and in the microVM.
 *
 * uring FILE [DISK]: FILE does not exist yet. DISK has at least 1 MiB, and what it holds is lost; its part is not in the table. Prints
 * "uring: not here" if the kernel refuses io_uring to this program. */
#include "ring.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/uio.h>

static void row(const char *what, long result)
{
    printf("%-44s %ld %d\n", what, result, result == -1 ? errno : 0);
}

static struct completion once(struct ring *ring, int opcode, int fd, void *at, size_t len, uint64_t offset)
{
    ring_transfer(ring, opcode, fd, at, len, offset, 42);
    CHECK(ring_enter(ring, 1, 1, IORING_ENTER_GETEVENTS) == 1);
    struct completion done = ring_take(ring);
    CHECK(done.data == 42);
    return done;
}

static void op(const char *what, struct completion done)
{
    printf("%-44s %d\n", what, done.result);
}

static void setup(void)
{
    struct io_uring_params p = {0};
    row("setup: no entries", ring_setup(0, &p));
    row("setup: too many", ring_setup(32769, &p));
    p.resv[0] = 1;
    row("setup: reserved", ring_setup(4, &p));
    p = (struct io_uring_params){.flags = 1u << 31};
    row("setup: unknown flag", ring_setup(4, &p));
    p = (struct io_uring_params){.flags = IORING_SETUP_CQSIZE};
    row("setup: no completions", ring_setup(4, &p));
    p = (struct io_uring_params){.flags = IORING_SETUP_CQSIZE, .cq_entries = 2};
    row("setup: fewer completions", ring_setup(4, &p));
    row("setup: nowhere", (int)syscall(SYS_io_uring_setup, 4, NULL));
    p = (struct io_uring_params){0};
    int fd = ring_setup(5, &p);
    CHECK(fd >= 0);
    row("setup: 5", p.sq_entries);
    row("setup: 5, completions", p.cq_entries);
    row("setup: closed by exec", fcntl(fd, F_GETFD));
    row("map: no such place", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0x20000000) == MAP_FAILED ? -1 : 0);
    row("map: within a place", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, IORING_OFF_SQES + PAGE) == MAP_FAILED ? -1 : 0);
    char byte;
    row("read of a ring", read(fd, &byte, 1));
    row("enter: unknown flag", (int)syscall(SYS_io_uring_enter, fd, 0, 0, 1u << 30, NULL, 0));
    row("enter: nothing", (int)syscall(SYS_io_uring_enter, fd, 7, 0, 0, NULL, 0));
    row("enter: no ring", (int)syscall(SYS_io_uring_enter, 0, 0, 0, 0, NULL, 0));
    row("enter: no descriptor", (int)syscall(SYS_io_uring_enter, 999, 0, 0, 0, NULL, 0));
    row("register: no ring", (int)syscall(SYS_io_uring_register, 0, 0, NULL, 0));
    row("register: unknown", (int)syscall(SYS_io_uring_register, fd, 9999, NULL, 0));
    close(fd);
    p = (struct io_uring_params){.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE, .cq_entries = 1u << 30};
    fd = ring_setup(1u << 20, &p);
    row("setup: clamped", p.sq_entries);
    row("setup: clamped, completions", p.cq_entries);
    close(fd);
}

static void operations(const char *path)
{
    struct ring ring;
    CHECK(ring_make(&ring, 8, 0, 0) == 0);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    unsigned char *at = map_pages(4);
    memset(at, 'a', PAGE);
    op("nop", once(&ring, IORING_OP_NOP, -1, NULL, 0, 0));
    op("write", once(&ring, IORING_OP_WRITE, fd, at, 3000, 100));
    op("read", once(&ring, IORING_OP_READ, fd, at + PAGE, PAGE, 50));
    CHECK(at[PAGE + 49] == 0 && at[PAGE + 50] == 'a' && at[PAGE + 3049] == 'a');
    op("read at the end", once(&ring, IORING_OP_READ, fd, at, 10, 3100));
    op("read to nowhere", once(&ring, IORING_OP_READ, fd, (void *)PAGE, 10, 0));
    op("read of no descriptor", once(&ring, IORING_OP_READ, 999, at, 10, 0));
    op("read at a negative place", once(&ring, IORING_OP_READ, fd, at, 10, (uint64_t)-5));
    CHECK(lseek(fd, 3050, SEEK_SET) == 3050);
    op("read at the position", once(&ring, IORING_OP_READ, fd, at, 20, (uint64_t)-1));
    op("write at the position", once(&ring, IORING_OP_WRITE, fd, at, 20, (uint64_t)-1));
    row("position", lseek(fd, 0, SEEK_CUR));
    int reading = open(path, O_RDONLY);
    op("write to what is open for reading", once(&ring, IORING_OP_WRITE, reading, at, 10, 0));
    struct iovec v[2] = {{at, 10}, {at + 2 * PAGE, 90}};
    op("writev", once(&ring, IORING_OP_WRITEV, fd, v, 2, 0));
    op("readv", once(&ring, IORING_OP_READV, fd, v, 2, 5));
    op("readv of too many", once(&ring, IORING_OP_READV, fd, v, 1025, 0));
    op("fsync", once(&ring, IORING_OP_FSYNC, fd, NULL, 0, 0));
    op("no operation", once(&ring, 200, fd, NULL, 0, 0));
    op("fixed without buffers", once(&ring, IORING_OP_READ_FIXED, fd, at, 10, 0));

    struct io_uring_sqe *sqe = ring_entry(&ring);
    sqe->opcode = IORING_OP_NOP;
    sqe->flags = 0x80;
    ring_queue(&ring);
    CHECK(ring_enter(&ring, 1, 0, 0) == 1);
    op("an unknown flag", ring_take(&ring));

    /* A bad entry ends the batch; the next call takes the rest. */
    ring_transfer(&ring, IORING_OP_NOP, -1, NULL, 0, 0, 1);
    ring_transfer(&ring, 200, -1, NULL, 0, 0, 2);
    ring_transfer(&ring, IORING_OP_NOP, -1, NULL, 0, 0, 3);
    row("a batch with a bad entry", ring_enter(&ring, 3, 0, 0));
    row("the rest", ring_enter(&ring, 3, 0, 0));
    for (int i = 0; i < 3; i++) {
        struct completion done = ring_take(&ring);
        printf("  %lu: %d\n", (unsigned long)done.data, done.result);
    }
    close(reading);

    /* The ring can be polled. */
    struct pollfd wait = {.fd = ring.fd, .events = POLLIN};
    row("poll without completions", poll(&wait, 1, 0));
    ring_transfer(&ring, IORING_OP_NOP, -1, NULL, 0, 0, 1);
    CHECK(ring_enter(&ring, 1, 0, 0) == 1);
    row("poll with one", poll(&wait, 1, 1000));
    ring_take(&ring);

    /* A wait that a signal ends. */
    struct sigaction action = {.sa_handler = SIG_IGN};
    action.sa_handler = (void (*)(int))(void *)close;
    sigaction(SIGALRM, &action, NULL);
    ualarm(20000, 0);
    row("a wait that a signal ends", ring_enter(&ring, 0, 1, IORING_ENTER_GETEVENTS));
    CHECK(unlink(path) == 0);
    close(fd);
    ring_end(&ring);
}

static void overflow(void)
{
    struct ring ring;
    CHECK(ring_make(&ring, 4, IORING_SETUP_CQSIZE, 4) == 0);
    for (uint64_t i = 0; i < 10; i++) {
        ring_transfer(&ring, IORING_OP_NOP, -1, NULL, 0, 0, i);
        CHECK(ring_enter(&ring, 1, 0, 0) == 1);
    }
    row("a full ring has", ring_ready(&ring));
    row("and says so", (*ring_word(&ring, ring.params.sq_off.flags) & IORING_SQ_CQ_OVERFLOW) != 0);
    row("lost", *ring_word(&ring, ring.params.cq_off.overflow));
    for (uint64_t i = 0; i < 10; i++) {
        struct completion done = ring_take(&ring);
        CHECK(done.data == i, "%lu", (unsigned long)done.data);
    }
    row("and no more", (*ring_word(&ring, ring.params.sq_off.flags) & IORING_SQ_CQ_OVERFLOW) != 0);
    /* An index beyond the entries is dropped. */
    unsigned tail = *ring_word(&ring, ring.params.sq_off.tail);
    ring_word(&ring, ring.params.sq_off.array)[tail & 3] = 77;
    __atomic_store_n(ring_word(&ring, ring.params.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
    row("an index beyond the entries", ring_enter(&ring, 1, 0, 0) == -1 ? -1 : 0);
    row("dropped", *ring_word(&ring, ring.params.sq_off.dropped));
    ring_end(&ring);
}

static void registered(const char *path)
{
    struct ring ring;
    CHECK(ring_make(&ring, 8, 0, 0) == 0);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600), files[3] = {fd, -1, ring.fd};
    unsigned char *at = map_pages(1200);
    struct iovec v[3] = {{at + 100, 2 * PAGE}, {NULL, 0}, {at + 3 * PAGE, 1100 * PAGE}}, bad = {(void *)PAGE, PAGE}, none = {at, 0};
    row("unregister nothing", ring_register(&ring, IORING_UNREGISTER_BUFFERS, NULL, 0));
    row("no buffers", ring_register(&ring, IORING_REGISTER_BUFFERS, v, 0));
    row("a buffer nowhere", ring_register(&ring, IORING_REGISTER_BUFFERS, &bad, 1));
    row("a buffer of no bytes", ring_register(&ring, IORING_REGISTER_BUFFERS, &none, 1));
    row("buffers at a bad address", ring_register(&ring, IORING_REGISTER_BUFFERS, (void *)PAGE, 1));
    row("buffers", ring_register(&ring, IORING_REGISTER_BUFFERS, v, 3));
    row("buffers again", ring_register(&ring, IORING_REGISTER_BUFFERS, v, 1));
    for (size_t i = 0; i < 1200 * PAGE; i++)
        at[i] = (unsigned char)(i * 7 + i / PAGE);
    struct io_uring_sqe *sqe;
    static const struct {
        const char *what;
        int opcode, buffer;
        size_t place, len;
    } cases[] = {
        {"write fixed", IORING_OP_WRITE_FIXED, 0, 100, 2 * PAGE},
        {"write fixed, before the buffer", IORING_OP_WRITE_FIXED, 0, 99, 10},
        {"write fixed, beyond the buffer", IORING_OP_WRITE_FIXED, 0, 100, 2 * PAGE + 1},
        {"write fixed, empty place", IORING_OP_WRITE_FIXED, 1, 100, 10},
        {"write fixed, no such buffer", IORING_OP_WRITE_FIXED, 3, 100, 10},
        {"write fixed, the other buffer's", IORING_OP_WRITE_FIXED, 0, 3 * PAGE, 10},
        {"write fixed, long", IORING_OP_WRITE_FIXED, 2, 3 * PAGE + 5, 1099 * PAGE},
        {"read fixed", IORING_OP_READ_FIXED, 0, 200, 5000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sqe = ring_entry(&ring);
        sqe->opcode = (unsigned char)cases[i].opcode;
        sqe->fd = fd;
        sqe->addr = (uint64_t)(uintptr_t)at + cases[i].place;
        sqe->len = (unsigned)cases[i].len;
        sqe->off = 0;
        sqe->buf_index = (uint16_t)cases[i].buffer;
        ring_queue(&ring);
        int entered = ring_enter(&ring, 1, 1, IORING_ENTER_GETEVENTS);
        CHECK(entered == 1, "%d", entered);
        op(cases[i].what, ring_take(&ring));
    }
    for (size_t i = 0; i < 5000; i++) {
        size_t from = 3 * PAGE + 5 + i;
        CHECK(at[200 + i] == (unsigned char)(from * 7 + from / PAGE), "%zu", i);
    }
    unsigned char *back = map_pages(1100);
    CHECK(pread(fd, back, 1099 * PAGE, 0) == 1099 * (long)PAGE && memcmp(back, at + 3 * PAGE + 5, 1099 * PAGE) == 0);
    row("unregister", ring_register(&ring, IORING_UNREGISTER_BUFFERS, NULL, 0));
    op("write fixed, afterwards", once(&ring, IORING_OP_WRITE_FIXED, fd, at + 100, 10, 0));

    row("files: a ring", ring_register(&ring, IORING_REGISTER_FILES, files, 3));
    row("files", ring_register(&ring, IORING_REGISTER_FILES, files, 2));
    row("files again", ring_register(&ring, IORING_REGISTER_FILES, files, 2));
    for (int i = 0; i < 3; i++) {
        sqe = ring_entry(&ring);
        sqe->opcode = IORING_OP_READ;
        sqe->flags = IOSQE_FIXED_FILE;
        sqe->fd = i;
        sqe->addr = (uint64_t)(uintptr_t)back;
        sqe->len = 100;
        ring_queue(&ring);
        CHECK(ring_enter(&ring, 1, 1, IORING_ENTER_GETEVENTS) == 1);
        op("a registered file", ring_take(&ring));
    }
    row("files: unregister", ring_register(&ring, IORING_UNREGISTER_FILES, NULL, 0));
    row("files: unregister again", ring_register(&ring, IORING_UNREGISTER_FILES, NULL, 0));
    struct {
        struct io_uring_probe probe;
        struct io_uring_probe_op ops[64];
    } probe;
    memset(&probe, 0, sizeof probe);
    row("probe", ring_register(&ring, IORING_REGISTER_PROBE, &probe, 64));
    row("probe: read is there", probe.probe.ops[IORING_OP_READ].flags);
    row("probe twice", ring_register(&ring, IORING_REGISTER_PROBE, &probe, 64));
    CHECK(unlink(path) == 0);
    close(fd);
    ring_end(&ring);
}

/* Runs in a child: what it gives up stays given up. */
static void limits(void)
{
    pid_t child = fork();
    if (child == 0) {
        CHECK(setuid(1000) == 0);
        /* Linux since 6.14 counts the rings' own pages, too. */
        struct rlimit limit = {24 * PAGE, 24 * PAGE};
        CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
        struct ring ring;
        CHECK(ring_make(&ring, 4, 0, 0) == 0);
        unsigned char *at = map_pages(32);
        struct iovec many = {at, 25 * PAGE}, all = {at, 16 * PAGE};
        row("more than may be locked", ring_register(&ring, IORING_REGISTER_BUFFERS, &many, 1));
        row("as much", ring_register(&ring, IORING_REGISTER_BUFFERS, &all, 1));
        CHECK(ring_register(&ring, IORING_UNREGISTER_BUFFERS, NULL, 0) == 0);
        row("and again", ring_register(&ring, IORING_REGISTER_BUFFERS, &all, 1));
        _exit(0);
    }
    wait_ok(child);
}

/* A ring and its buffers over fork: the parent's pages stay the buffer's, the child has copies. */
static void forked(const char *path)
{
    struct ring ring;
    CHECK(ring_make(&ring, 8, 0, 0) == 0);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    unsigned char *at = map_pages(4);
    memset(at, 'p', 4 * PAGE);
    struct iovec v = {at, 4 * PAGE};
    CHECK(ring_register(&ring, IORING_REGISTER_BUFFERS, &v, 1) == 0);
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(at[0] == 'p' + i % 2 && at[PAGE] == 'p' + i % 2);
            memset(at, 'c', 4 * PAGE);
            _exit(0);
        }
        memset(at, 'p' + (i + 1) % 2, 4 * PAGE);
        CHECK(once(&ring, IORING_OP_WRITE_FIXED, fd, at, 4 * PAGE, 0).result == 4 * (int)PAGE);
        unsigned char seen[4] = {0};
        CHECK(pread(fd, seen, 4, PAGE) == 4 && seen[0] == 'p' + (i + 1) % 2, "round %d: %c", i, seen[0]);
        at[PAGE] = 0;
        CHECK(once(&ring, IORING_OP_READ_FIXED, fd, at, 4 * PAGE, 0).result == 4 * (int)PAGE);
        CHECK(at[PAGE] == 'p' + (i + 1) % 2, "round %d: %d", i, at[PAGE]);
        wait_ok(child);
    }
    /* The ring is the child's, too, and the buffer that it knows is the parent's memory. */
    pid_t child = fork();
    if (child == 0) {
        memset(at, 'c', 4 * PAGE);
        op("the child writes", once(&ring, IORING_OP_WRITE_FIXED, fd, at, 1, 9));
        _exit(0);
    }
    wait_ok(child);
    unsigned char seen = 0;
    CHECK(pread(fd, &seen, 1, 9) == 1 && seen == 'p');
    CHECK(unlink(path) == 0);
    close(fd);
    ring_end(&ring);
}

static unsigned char disk_byte(size_t offset)
{
    return (unsigned char)(offset * 13 + offset / 512 * 3);
}

/* Many requests on their way at a time; then a ring that is closed, and a program that ends, before they are done. */
static void on_disk(const char *disk)
{
    enum { COUNT = 64, LEN = 16384 };
    int fd = open(disk, O_RDWR | O_DIRECT), odd;
    CHECK(fd >= 0, "%s", disk);
    unsigned char *at = map_pages(COUNT * LEN / PAGE);
    for (int fixed = 0; fixed < 2; fixed++) {
        struct ring ring;
        CHECK(ring_make(&ring, COUNT, 0, 0) == 0);
        struct iovec v = {at, COUNT * LEN};
        CHECK(!fixed || ring_register(&ring, IORING_REGISTER_BUFFERS, &v, 1) == 0);
        for (int pass = 0; pass < 2; pass++) {
            int write_op = fixed ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE, read_op = fixed ? IORING_OP_READ_FIXED : IORING_OP_READ;
            for (size_t i = 0; i < COUNT * LEN; i++)
                at[i] = pass ? 0 : disk_byte(i);
            for (uint64_t i = 0; i < COUNT; i++)
                ring_transfer(&ring, pass ? read_op : write_op, fd, at + i * LEN, LEN, i * LEN, i);
            CHECK(ring_enter(&ring, COUNT, COUNT, IORING_ENTER_GETEVENTS) == COUNT);
            uint64_t seen = 0;
            for (int i = 0; i < COUNT; i++) {
                struct completion done = ring_take(&ring);
                CHECK(done.result == LEN && !(seen >> done.data & 1), "%lu: %d", (unsigned long)done.data, done.result);
                seen |= 1UL << done.data;
            }
            for (size_t i = 0; pass && i < COUNT * LEN; i++)
                CHECK(at[i] == disk_byte(i), "%zu", i);
        }
        odd = once(&ring, IORING_OP_READ, fd, at, 100, 0).result;
        CHECK(odd == -EINVAL, "%d", odd);
        CHECK(once(&ring, IORING_OP_READ, fd, (void *)PAGE, 512, 0).result == -EFAULT);
        CHECK(once(&ring, IORING_OP_READ, fd, at, 0, 0).result == 0);
        CHECK(once(&ring, IORING_OP_FSYNC, fd, NULL, 0, 0).result == 0);
        ring_end(&ring);
    }
    for (int i = 0; i < 40; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            struct ring ring;
            CHECK(ring_make(&ring, COUNT, 0, 0) == 0);
            struct iovec v = {at, COUNT * LEN};
            CHECK(i % 2 || ring_register(&ring, IORING_REGISTER_BUFFERS, &v, 1) == 0);
            for (uint64_t j = 0; j < COUNT; j++)
                ring_transfer(&ring, i % 2 ? IORING_OP_READ : IORING_OP_READ_FIXED, fd, at + j * LEN, LEN, j * LEN, j);
            CHECK(ring_enter(&ring, COUNT, 0, 0) == COUNT);
            if (i % 4 < 2)
                close(ring.fd);
            if (i % 3 == 0)
                munmap(at, COUNT * LEN);
            if (i % 5 == 0)
                raise(SIGKILL);
            _exit(0);
        }
        unsigned char *mine = map_pages(256);
        memset(mine, 0x77, 256 * PAGE);
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        for (size_t j = 0; j < 256 * PAGE; j++)
            CHECK(mine[j] == 0x77, "%zu", j);
        munmap(mine, 256 * PAGE);
    }
    close(fd);
}

int main(int argc, char **argv)
{
    CHECK(argc >= 2);
    setvbuf(stdout, NULL, _IONBF, 0);
    struct ring ring;
    if (ring_make(&ring, 4, 0, 0) != 0) {
        printf("uring: not here (errno %d)\n", errno);
        return 0;
    }
    ring_end(&ring);
    setup();
    operations(argv[1]);
    overflow();
    registered(argv[1]);
    limits();
    forked(argv[1]);
    if (argc > 2)
        on_disk(argv[2]);
    puts("uring: done");
    return 0;
}
