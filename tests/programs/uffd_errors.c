/* What userfaultfd refuses, and what it says how far it came: a table, a line for each call. */
#include "uffd.h"

static int fd;
static unsigned char *at, *beside, *bytes;

static void line(const char *what, int error, int64_t out)
{
    printf("%-34s %3d %6ld\n", what, error, (long)(out > 0 ? out / (long)PAGE : out));
}

static void copy(const char *what, void *dst, void *src, size_t len, uint64_t mode)
{
    int64_t out;
    int error = uffd_copy(fd, dst, src, len, mode, &out);
    line(what, error, out);
}

static void move(const char *what, void *dst, void *src, size_t len, uint64_t mode)
{
    int64_t out;
    int error = uffd_move(fd, dst, src, len, mode, &out);
    line(what, error, out);
}

static void zero(const char *what, void *dst, size_t len, uint64_t mode)
{
    struct uffdio_zeropage arg = {.range = {(uintptr_t)dst, len}, .mode = mode};
    int error = ioctl(fd, UFFDIO_ZEROPAGE, &arg) == 0 ? 0 : errno;
    line(what, error, arg.zeropage);
}

static void poison(const char *what, void *dst, size_t len, uint64_t mode)
{
    struct poison_arg arg = {(uintptr_t)dst, len, mode, 0};
    int error = ioctl(fd, IOC_POISON, &arg) == 0 ? 0 : errno;
    line(what, error, arg.updated);
}

static void go_on(const char *what, void *dst, size_t len, uint64_t mode)
{
    struct uffdio_continue arg = {.range = {(uintptr_t)dst, len}, .mode = mode};
    int error = ioctl(fd, UFFDIO_CONTINUE, &arg) == 0 ? 0 : errno;
    line(what, error, arg.mapped);
}

static void watch(const char *what, int which, void *start, size_t len, uint64_t mode)
{
    struct uffdio_register reg = {.range = {(uintptr_t)start, len}, .mode = mode};
    int error = ioctl(which, UFFDIO_REGISTER, &reg) == 0 ? 0 : errno;
    printf("%-34s %3d %#lx\n", what, error, error ? 0UL : (unsigned long)reg.ioctls);
}

static void api(void)
{
    struct uffdio_api wrong = {.api = 0xAB};
    int one = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    CHECK(one >= 0);
    struct uffdio_range range = {(uintptr_t)at, PAGE};
    printf("%-34s %3d\n", "wake before the handshake", ioctl(one, UFFDIO_WAKE, &range) == 0 ? 0 : errno);
    char message[32];
    printf("%-34s %3d\n", "read before the handshake", read(one, message, 32) < 0 ? errno : 0);
    printf("%-34s %3d\n", "another interface", ioctl(one, UFFDIO_API, &wrong) == 0 ? 0 : errno);
    struct uffdio_api unknown = {.api = UFFD_API, .features = 1UL << 40};
    int error = ioctl(one, UFFDIO_API, &unknown) == 0 ? 0 : errno;
    printf("%-34s %3d %#lx\n", "an unknown feature", error, (unsigned long)unknown.features);
    struct uffdio_api right = {.api = UFFD_API, .features = FEATURE_WP_ASYNC};
    error = ioctl(one, UFFDIO_API, &right) == 0 ? 0 : errno;
    printf("%-34s %3d %#lx\n", "the handshake", error, (unsigned long)right.ioctls);
    printf("%-34s %3d\n", "a second one", ioctl(one, UFFDIO_API, &right) == 0 ? 0 : errno);
    printf("%-34s %3d\n", "nothing to read", read(one, message, 32) < 0 ? errno : 0);
    printf("%-34s %3d\n", "no room to read", read(one, message, 31) < 0 ? errno : 0);
    struct pollfd poll_it = {.fd = one, .events = POLLIN};
    int polled = poll(&poll_it, 1, 0);
    printf("%-34s %3d %#x\n", "poll", polled, (unsigned)poll_it.revents);
    CHECK(fcntl(one, F_SETFL, 0) == 0);
    polled = poll(&poll_it, 1, 0);
    printf("%-34s %3d %#x\n", "poll of one that waits", polled, (unsigned)poll_it.revents);
    printf("%-34s %3d\n", "an unknown request", ioctl(one, 0xAA77, &range) == 0 ? 0 : errno);
    printf("%-34s %3d\n", "unknown flags", syscall(SYS_userfaultfd, 4) < 0 ? errno : 0);
    close(one);
}

static void registering(void)
{
    int other = uffd_open(0, 0);
    watch("no mode", fd, at, PAGE, 0);
    watch("an unknown mode", fd, at, PAGE, 8);
    watch("no page", fd, at, 0, 1);
    watch("not at a page", fd, at + 1, PAGE, 1);
    watch("half a page", fd, at, PAGE + 1, 1);
    watch("at the bottom", fd, 0, PAGE, 1);
    watch("round the end", fd, at, -PAGE, 1);
    watch("minor of private memory", fd, at, PAGE, 4);
    watch("missing", fd, at, 8 * PAGE, 1);
    watch("missing and protected", fd, at, 16 * PAGE, 3);
    watch("by another", other, at + PAGE, PAGE, 1);
    void *hole = map_pages(4);
    CHECK(munmap((char *)hole + PAGE, PAGE) == 0);
    watch("a hole in it", fd, hole, 4 * PAGE, 1);
    watch("nothing but a hole", fd, (char *)hole + PAGE, PAGE, 1);
    struct uffdio_range range = {(uintptr_t)at, PAGE};
    printf("%-34s %3d\n", "unregistered by another", ioctl(other, UFFDIO_UNREGISTER, &range) == 0 ? 0 : errno);
    range.start = (uintptr_t)beside;
    printf("%-34s %3d\n", "unregistered that never was", ioctl(fd, UFFDIO_UNREGISTER, &range) == 0 ? 0 : errno);
    range.start = (uintptr_t)hole + PAGE;
    printf("%-34s %3d\n", "unregistered where nothing is", ioctl(fd, UFFDIO_UNREGISTER, &range) == 0 ? 0 : errno);
    close(other);
}

static void fills(void)
{
    copy("copy, not at a page", at + 8, bytes, PAGE, 0);
    copy("copy half a page", at, bytes, 100, 0);
    copy("copy nothing", at, bytes, 0, 0);
    copy("copy, unknown mode", at, bytes, PAGE, 4);
    copy("copy where nobody watches", beside, bytes, PAGE, 0);
    copy("copy beyond the mapping", at, bytes, 17 * PAGE, 0);
    copy("copy from nowhere", at, (void *)8, PAGE, 0);
    copy("copy from an odd place", at, bytes + 7, PAGE, 0);
    copy("copy again", at, bytes, PAGE, 0);
    copy("copy three pages before it", at + 4 * PAGE, bytes, PAGE, 0);
    copy("copy up to it", at + PAGE, bytes, 4 * PAGE, 0);
    zero("zero page", at + 5 * PAGE, 2 * PAGE, 0);
    zero("zero page again", at + 5 * PAGE, PAGE, 0);
    zero("zero page, protected", at + 7 * PAGE, PAGE, 2);
    zero("zero page where nobody watches", beside, PAGE, 0);
    go_on("continue private memory", at + 8 * PAGE, PAGE, 0);
    poison("poison", at + 8 * PAGE, PAGE, 0);
    poison("poison again", at + 8 * PAGE, PAGE, 0);
    poison("poison, unknown mode", at + 9 * PAGE, PAGE, 2);
    copy("copy over poison", at + 8 * PAGE, bytes, PAGE, 0);
    printf("%-34s %3d\n", "protect", uffd_protect(fd, at, 2 * PAGE, 1));
    printf("%-34s %3d\n", "protect, unknown mode", uffd_protect(fd, at, PAGE, 4));
    printf("%-34s %3d\n", "protect without waking", uffd_protect(fd, at, PAGE, 3));
    printf("%-34s %3d\n", "protect what nobody watches", uffd_protect(fd, beside, PAGE, 1));
    printf("%-34s %3d\n", "protect nothing", uffd_protect(fd, at, 0, 1));
    printf("%-34s %3d\n", "protect no more", uffd_protect(fd, at, 2 * PAGE, 0));
    copy("copy, protected", at + 10 * PAGE, bytes, PAGE, 2);
}

static void moves(void)
{
    memset(beside, 7, 8 * PAGE);
    move("move, not at a page", at + 11 * PAGE + 1, beside, PAGE, 0);
    move("move from between pages", at + 11 * PAGE, beside + 1, PAGE, 0);
    move("move nothing", at + 11 * PAGE, beside, 0, 0);
    move("move, unknown mode", at + 11 * PAGE, beside, PAGE, 4);
    move("move beyond the mapping", at + 11 * PAGE, beside, 8 * PAGE, 0);
    move("move to what nobody watches", beside + 8 * PAGE, beside, PAGE, 0);
    move("move from nowhere", at + 11 * PAGE, (void *)0x10000, PAGE, 0);
    move("move", at + 11 * PAGE, beside, PAGE, 0);
    move("move what has gone", at + 12 * PAGE, beside, PAGE, 0);
    move("move a hole", at + 12 * PAGE, beside, PAGE, MOVE_ALLOW_SRC_HOLES);
    move("move over something", at + 11 * PAGE, beside + PAGE, PAGE, 0);
    move("move two, and then a hole", at + 12 * PAGE, beside + 6 * PAGE, 3 * PAGE, 0);
    CHECK(mprotect(beside + 2 * PAGE, PAGE, PROT_READ) == 0);
    move("move what may not be written", at + 14 * PAGE, beside + 2 * PAGE, PAGE, 0);
    CHECK(mprotect(beside + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
    CHECK(mlock(beside + 2 * PAGE, PAGE) == 0);
    move("move what is locked", at + 14 * PAGE, beside + 2 * PAGE, PAGE, 0);
    CHECK(munlock(beside + 2 * PAGE, PAGE) == 0);
    int ready[2], end[2];
    CHECK(pipe(ready) == 0 && pipe(end) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char byte;
        close(end[1]);
        CHECK(write(ready[1], "r", 1) == 1);
        _exit(read(end[0], &byte, 1) == 0 ? 0 : 1);
    }
    char byte;
    close(end[0]);
    CHECK(read(ready[0], &byte, 1) == 1);
    move("move what a child has, too", at + 14 * PAGE, beside + 3 * PAGE, PAGE, 0);
    close(end[1]);
    wait_ok(child);
    beside[3 * PAGE] = 8;
    move("move what is ours again", at + 14 * PAGE, beside + 3 * PAGE, PAGE, 0);
    printf("%-34s %3d %3d\n", "what has moved", at[11 * PAGE], at[14 * PAGE]);
    unsigned char *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    shared[0] = 1;
    move("move shared memory", at + 15 * PAGE, shared, PAGE, 0);
    volatile unsigned char *read_only = beside + 8 * PAGE;
    CHECK(*read_only == 0);
    move("move the zero page", at + 15 * PAGE, beside + 8 * PAGE, PAGE, 0);
}

static void shared_memory(void)
{
    unsigned char *mem = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(mem != MAP_FAILED);
    mem[0] = 9;
    watch("shared", fd, mem, 4 * PAGE, 7);
    copy("copy over a page that is mapped", mem, bytes, PAGE, 0);
    copy("copy to shared memory", mem + PAGE, bytes, PAGE, 0);
    go_on("continue what is not there", mem + 2 * PAGE, PAGE, 0);
    CHECK(madvise(mem, 2 * PAGE, MADV_DONTNEED) == 0);
    copy("copy over a page of the object", mem, bytes, PAGE, 0);
    go_on("continue", mem, 2 * PAGE, 0);
    go_on("continue again", mem, PAGE, 0);
    zero("zero page of shared memory", mem + 2 * PAGE, PAGE, 0);
    printf("%-34s %3d %3d %3d\n", "what is there", mem[0], mem[PAGE], mem[2 * PAGE]);
}

static void odd_pointers(void)
{
    static const struct { const char *what; unsigned long request; } requests[] = {
        {"nowhere: the handshake", UFFDIO_API}, {"nowhere: register", UFFDIO_REGISTER}, {"nowhere: unregister", UFFDIO_UNREGISTER},
        {"nowhere: wake", UFFDIO_WAKE}, {"nowhere: copy", UFFDIO_COPY}, {"nowhere: zero page", UFFDIO_ZEROPAGE},
        {"nowhere: move", IOC_MOVE}, {"nowhere: protect", UFFDIO_WRITEPROTECT}, {"nowhere: continue", UFFDIO_CONTINUE},
        {"nowhere: poison", IOC_POISON},
    };
    int other = uffd_open(0, O_NONBLOCK);
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++)
        line(requests[i].what, ioctl(other, requests[i].request, (void *)8) == 0 ? 0 : errno, 0);
    close(other);
}

/* Of another address space: the child has the parent's. */
static void from_a_child(void)
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        move("a child moves its parent's pages", at + 13 * PAGE, beside + 4 * PAGE, PAGE, 0);
        copy("a child fills its parent's page", at + 13 * PAGE, bytes, PAGE, 0);
        fflush(stdout);
        _exit(0);
    }
    wait_ok(child);
}

/* A userfaultfd whose address space has ended: that of a child, which its parent was told of. Before it is told, all fills wait. */
static int told_of = -1;
static unsigned char *forked;

static void *read_of_the_fork(void *argument)
{
    int mother = *(int *)argument;
    struct pollfd wait_for = {.fd = mother, .events = POLLIN};
    CHECK(poll(&wait_for, 1, 10000) == 1);
    int saved = fd;
    fd = mother;
    copy("copy while a child is born", forked, bytes, PAGE, 0);
    move("move while a child is born", forked + PAGE, forked + 2 * PAGE, PAGE, 0);
    zero("zero page while a child is born", forked, PAGE, 0);
    printf("%-34s %3d\n", "protect while a child is born", uffd_protect(fd, forked, PAGE, 1));
    fd = saved;
    struct uffd_msg message;
    CHECK(read(mother, &message, sizeof message) == sizeof message && message.event == UFFD_EVENT_FORK);
    told_of = (int)message.arg.fork.ufd;
    return NULL;
}

static void of_the_dead(void)
{
    int mother = uffd_open(UFFD_FEATURE_EVENT_FORK, O_NONBLOCK);
    forked = map_pages(4);
    watch("told of forks", mother, forked, 4 * PAGE, 3);
    pthread_t reader;
    CHECK(pthread_create(&reader, NULL, read_of_the_fork, &mother) == 0);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(0);
    CHECK(pthread_join(reader, NULL) == 0 && told_of >= 0);
    wait_ok(child);
    int saved = fd;
    fd = told_of;
    copy("copy for the dead", forked, bytes, PAGE, 0);
    zero("zero page for the dead", forked, PAGE, 0);
    poison("poison for the dead", forked, PAGE, 0);
    go_on("continue for the dead", forked, PAGE, 0);
    printf("%-34s %3d\n", "protect for the dead", uffd_protect(fd, forked, PAGE, 1));
    watch("register for the dead", fd, forked, PAGE, 1);
    struct uffdio_range range = {(uintptr_t)forked, PAGE};
    printf("%-34s %3d\n", "unregister for the dead", ioctl(fd, UFFDIO_UNREGISTER, &range) == 0 ? 0 : errno);
    printf("%-34s %3d\n", "wake for the dead", ioctl(fd, UFFDIO_WAKE, &range) == 0 ? 0 : errno);
    close(fd);
    fd = saved;
    close(mother);
}

int main(void)
{
    at = map_pages(64);
    /* What is empty here stays so: no large folio fills it. */
    CHECK(madvise(at, 64 * PAGE, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
    /* Mappings of their own, so that neither is part of the other. */
    CHECK(munmap(at + 16 * PAGE, 16 * PAGE) == 0);
    beside = at + 32 * PAGE;
    CHECK(munmap(beside + 9 * PAGE, 23 * PAGE) == 0);
    bytes = map_pages(20);
    memset(bytes, 5, 20 * PAGE);
    api();
    fd = uffd_open(0, O_NONBLOCK);
    registering();
    fills();
    moves();
    shared_memory();
    poison("poison, to be moved", at + 9 * PAGE, PAGE, 0);
    move("move poison", beside + 5 * PAGE, at + 9 * PAGE, PAGE, 0);
    watch("where it would go", fd, beside, 2 * PAGE, 1);
    CHECK(madvise(beside, 2 * PAGE, MADV_DONTNEED) == 0);
    move("move poison to an empty page", beside, at + 9 * PAGE, PAGE, 0);
    odd_pointers();
    from_a_child();
    of_the_dead();
    return 0;
}
