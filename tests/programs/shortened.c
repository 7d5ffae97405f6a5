/* Mappings of a file, shared and private, and the file's end: beyond its last page is SIGBUS, before and after it is cut or grows, and
 * cutting takes private copies away, too. */
#include "common.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>

static sigjmp_buf back;
static volatile sig_atomic_t caught;

static void on_signal(int signal)
{
    caught = signal;
    siglongjmp(back, 1);
}

/* The first byte of a page, or the signal that it costs. */
static const char *look(volatile unsigned char *at)
{
    static char text[16];
    if (sigsetjmp(back, 1))
        return caught == SIGBUS ? "bus" : "segv";
    snprintf(text, sizeof text, "%d", *at);
    return text;
}

static const char *put(volatile unsigned char *at, unsigned char byte)
{
    if (sigsetjmp(back, 1))
        return caught == SIGBUS ? "bus" : "segv";
    *at = byte;
    return "ok";
}

static void show(const char *what, unsigned char *at, unsigned long pages)
{
    printf("%s:", what);
    for (unsigned long page = 0; page < pages; page++)
        printf(" %s/%s", look(at + page * PAGE), look(at + page * PAGE + PAGE - 1));
    printf("\n");
}

static unsigned char *map_file(int fd, int flags)
{
    unsigned char *at = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static void file(int fd, const char *name)
{
    printf("%s\n", name);
    CHECK(ftruncate(fd, 4 * (long)PAGE + 100) == 0);
    unsigned char *shared = map_file(fd, MAP_SHARED), *second = map_file(fd, MAP_SHARED), *private = map_file(fd, MAP_PRIVATE);
    show("shared", shared, 8);
    for (unsigned page = 0; page < 8; page++)
        printf(" %s", put(shared + page * PAGE, (unsigned char)(10 + page)));
    for (unsigned page = 0; page < 8; page += 2)
        printf(" %s", put(private + page * PAGE, (unsigned char)(50 + page)));
    printf("\n");
    show("second", second, 8);
    show("private copies", private, 5);

    int go[2], done[2];
    char byte;
    CHECK(pipe(go) == 0 && pipe(done) == 0);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(read(go[0], &byte, 1) == 1);
        show("child's shared", shared, 8);
        show("child's private", private, 8);
        fflush(stdout);
        CHECK(write(done[1], "x", 1) == 1);
        _exit(0);
    }
    CHECK(ftruncate(fd, (long)PAGE + 1) == 0);
    show("cut, shared", shared, 8);
    show("cut, second", second, 8);
    show("cut, private", private, 8);
    fflush(stdout);
    CHECK(write(go[1], "x", 1) == 1 && read(done[0], &byte, 1) == 1);
    wait_ok(child);
    CHECK(ftruncate(fd, 3 * (long)PAGE) == 0);
    show("grown, shared", shared, 8);
    show("grown, private", private, 8);
    CHECK(pwrite(fd, "abc", 3, 5 * (long)PAGE - 2) == 3);
    show("written, second", second, 8);
    unsigned char present[8];
    CHECK(mincore(shared, 8 * PAGE, present) == 0);
    CHECK(ftruncate(fd, 0) == 0);
    show("empty", shared, 2);
    show("empty, private", private, 2);
    CHECK(munmap(shared, 8 * PAGE) == 0 && munmap(second, 8 * PAGE) == 0 && munmap(private, 8 * PAGE) == 0);
}

/* A file larger than memory costs what is touched of it. */
static void sparse(void)
{
    const unsigned long size = 1UL << 38;
    int fd = memfd_create("sparse", 0);
    CHECK(fd >= 0 && ftruncate(fd, (long)size) == 0);
    unsigned char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    CHECK(at != MAP_FAILED);
    printf("sparse: %s %s", put(at, 1), put(at + size / 2, 2));
    printf(" %s", put(at + size - 1, 3));
    unsigned char byte = 9;
    CHECK(pread(fd, &byte, 1, (long)size / 2) == 1);
    printf(" %d", byte);
    CHECK(pread(fd, &byte, 1, (long)size / 4) == 1);
    printf(" %d", byte);
    CHECK(ftruncate(fd, (long)size / 2) == 0);
    printf(" %s", look(at + size / 2));
    printf(" %s\n", look(at));
    CHECK(munmap(at, size) == 0);
    close(fd);
}

int main(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};
    CHECK(sigaction(SIGBUS, &action, NULL) == 0 && sigaction(SIGSEGV, &action, NULL) == 0);
    char path[] = "/tmp/shortened-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    file(fd, "file");
    CHECK(unlink(path) == 0);
    file(memfd_create("shortened", 0), "memfd");
    int again = memfd_create("shortened", 0);
    CHECK(write(again, "some bytes", 10) == 10);
    unsigned char *at = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE, again, 0);
    CHECK(at != MAP_FAILED);
    show("by name", at, 2);
    snprintf(path, sizeof path, "/proc/self/fd/%d", again);
    CHECK(open(path, O_RDWR | O_TRUNC) >= 0);
    show("opened to be cut", at, 2);
    sparse();
    return 0;
}
