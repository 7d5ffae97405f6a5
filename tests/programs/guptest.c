/* /sys/kernel/debug/gup_test: the nine ioctls, and what pins promise through them. On a kernel without the file it says so.
 *
 * A range is pinned for long, read-only or to be written, before or after a fork, through the fast path or the slow one. Then the parent
 * writes, whatever became of its entries meanwhile: what is read through the pins is what the program sees. */
#include "common.h"
#include <fcntl.h>
#include <sys/ioctl.h>

struct gup_test {
    uint64_t get_usec, put_usec, addr, size;
    uint32_t pages_per_call, gup_flags, test_flags, which[8];
};
struct long_test {
    uint64_t addr, size;
    uint32_t flags;
};
#define TEST(number) _IOWR('g', number, struct gup_test)
#define LONG_START _IOW('g', 7, struct long_test)
#define LONG_STOP _IO('g', 8)
#define LONG_READ _IOW('g', 9, uint64_t)
enum { PAGES = 64, WRITE = 1, FAST = 2 };

static int fd;

static void tests(void)
{
    unsigned char *at = map_pages(PAGES);
    memset(at, 1, PAGES / 2 * PAGE);
    for (int number = 1; number <= 6; number++)
        for (uint32_t per_call = 1; per_call <= 200; per_call += 33) {
            struct gup_test test = {.addr = (uint64_t)(uintptr_t)at, .size = PAGES * PAGE, .pages_per_call = per_call};
            test.gup_flags = number % 2;
            CHECK(ioctl(fd, TEST(number), &test) == 0, "%d", number);
            CHECK(test.size == PAGES * PAGE, "%d: %lu", number, (unsigned long)test.size);
        }
    struct gup_test test = {.addr = (uint64_t)(uintptr_t)at, .size = PAGES * PAGE, .pages_per_call = 16, .which = {3, 1000}, .test_flags = 1};
    CHECK(ioctl(fd, TEST(6), &test) == 0 && test.which[0] == 3 && test.which[1] == 0);
    /* Half of it is gone: what comes before is had. */
    CHECK(munmap(at + PAGES / 2 * PAGE, PAGES / 2 * PAGE) == 0);
    test = (struct gup_test){.addr = (uint64_t)(uintptr_t)at, .size = PAGES * PAGE, .pages_per_call = 8};
    CHECK(ioctl(fd, TEST(2), &test) == 0 && test.size == PAGES / 2 * PAGE, "%lu", (unsigned long)test.size);
    test.size = -PAGE, test.addr = 2 * PAGE;
    CHECK(ioctl(fd, TEST(2), &test) == -1 && errno == EINVAL);
    CHECK(ioctl(fd, TEST(2), (void *)at + PAGES * PAGE) == -1 && errno == EFAULT);
    CHECK(ioctl(fd, _IO('g', 77), 0) == -1 && errno == EINVAL);
    char byte;
    CHECK(read(fd, &byte, 1) == -1 && errno == EINVAL);
    munmap(at, PAGES / 2 * PAGE);
}

static int start(unsigned char *at, size_t len, uint32_t flags)
{
    struct long_test test = {(uint64_t)(uintptr_t)at, len, flags};
    return ioctl(fd, LONG_START, &test);
}

static void look(unsigned char *at, const char *what)
{
    static unsigned char seen[PAGES * PAGE];
    uint64_t to = (uint64_t)(uintptr_t)seen;
    CHECK(ioctl(fd, LONG_READ, &to) == 0);
    CHECK(memcmp(seen, at, PAGES * PAGE) == 0, "%s", what);
}

static void errors(void)
{
    unsigned char *at = map_pages(2);
    uint64_t to = 8;
    CHECK(ioctl(fd, LONG_READ, &to) == -1 && errno == EINVAL);
    CHECK(ioctl(fd, LONG_STOP) == 0);
    CHECK(start(at, 0, 0) == -1 && errno == EINVAL);
    CHECK(start(at + 1, PAGE, 0) == -1 && errno == EINVAL);
    CHECK(start(at, PAGE, 4) == -1 && errno == EINVAL);
    CHECK(start(NULL, PAGE, 0) == -1 && errno == EFAULT);
    CHECK(mprotect(at, PAGE, PROT_READ) == 0);
    CHECK(start(at, PAGE, WRITE) == -1 && errno == EFAULT);
    CHECK(start(at, PAGE, 0) == 0);
    CHECK(start(at, PAGE, 0) == -1 && errno == EINVAL);
    CHECK(ioctl(fd, LONG_READ, &to) == -1 && errno == EFAULT);
    CHECK(ioctl(fd, LONG_STOP) == 0);
    munmap(at, 2 * PAGE);
}

enum { BEFORE_FORK, AFTER_FORK, CHILD_GONE, WHENS };

static void fill(unsigned char *at, int number)
{
    for (size_t page = 0; page < PAGES; page++)
        memset(at + page * PAGE, (int)page + number, PAGE);
}

static void promises(uint32_t flags, int when, int touched)
{
    static const char *const names[] = {"pinned before fork", "pinned after fork", "pinned when the child was gone"};
    unsigned char *at = map_pages(PAGES);
    int hold[2];
    CHECK(pipe(hold) == 0);
    if (touched)
        fill(at, 10);
    if (when == BEFORE_FORK)
        CHECK(start(at, PAGES * PAGE, flags) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char byte;
        close(hold[1]);
        CHECK(read(hold[0], &byte, 1) == 0);
        for (size_t page = 0; page < PAGES; page++)
            CHECK(at[page * PAGE] == (touched ? (unsigned char)(page + 10) : 0), "page %zu: %d", page, at[page * PAGE]);
        memset(at, 0xee, PAGES * PAGE);
        _exit(0);
    }
    close(hold[0]);
    if (when == CHILD_GONE) {
        close(hold[1]);
        wait_ok(child);
    }
    if (when != BEFORE_FORK)
        CHECK(start(at, PAGES * PAGE, flags) == 0);
    look(at, names[when]);
    fill(at, 20);
    look(at, names[when]);
    CHECK(mprotect(at, PAGES * PAGE, PROT_READ) == 0 && mprotect(at, PAGES * PAGE, PROT_READ | PROT_WRITE) == 0);
    fill(at, 30);
    look(at, names[when]);
    madvise(at, PAGES * PAGE, 21);
    look(at, names[when]);
    fill(at, 40);
    look(at, names[when]);
    /* Sharers that come and go. */
    for (int i = 0; i < 3; i++) {
        pid_t other = fork();
        if (other == 0) {
            memset(at, i, PAGES * PAGE);
            _exit(0);
        }
        fill(at, 50 + i);
        look(at, names[when]);
        wait_ok(other);
        fill(at, 60 + i);
        look(at, names[when]);
    }
    if (when != CHILD_GONE) {
        close(hold[1]);
        wait_ok(child);
    }
    look(at, names[when]);
    /* The pages outlive their mapping. */
    static unsigned char copy[PAGES * PAGE];
    memcpy(copy, at, sizeof copy);
    CHECK(munmap(at, PAGES * PAGE) == 0);
    unsigned char *others = map_pages(4 * PAGES);
    memset(others, 0xdd, 4 * PAGES * PAGE);
    look(copy, names[when]);
    CHECK(ioctl(fd, LONG_STOP) == 0);
    munmap(others, 4 * PAGES * PAGE);
}

int main(void)
{
    fd = open("/sys/kernel/debug/gup_test", O_RDWR);
    if (fd < 0) {
        puts("guptest: not here");
        return 0;
    }
    tests();
    errors();
    for (uint32_t flags = 0; flags < 4; flags++)
        for (int when = 0; when < WHENS; when++)
            for (int touched = 0; touched < 2; touched++)
                promises(flags, when, touched);
    /* Whoever ends with a range pinned leaves nothing. */
    unsigned char *at = map_pages(PAGES);
    CHECK(start(at, PAGES * PAGE, WRITE) == 0);
    puts("guptest: ok");
    return 0;
}
