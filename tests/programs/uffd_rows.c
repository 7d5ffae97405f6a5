/* The rows of userfaultfd's table of errors that need more than a call: other ways to register, poison, what may not be written, and
 * faults that find nobody. A table, a line for each. */
#include "uffd.h"
#include <setjmp.h>
#include <sys/auxv.h>

static unsigned char *bytes;

static void line(const char *what, int error) { printf("%-46s %3d\n", what, error); }

static int result(int fd, unsigned long request, void *arg) { return ioctl(fd, request, arg) == 0 ? 0 : errno; }

static int watch(int fd, void *start, size_t len, uint64_t mode)
{
    struct uffdio_register reg = {.range = {(uintptr_t)start, len}, .mode = mode};
    return result(fd, UFFDIO_REGISTER, &reg);
}

static int unwatch(int fd, void *start, size_t len)
{
    struct uffdio_range range = {(uintptr_t)start, len};
    return result(fd, UFFDIO_UNREGISTER, &range);
}

static int zero(int fd, void *dst)
{
    struct uffdio_zeropage arg = {.range = {(uintptr_t)dst, PAGE}};
    return result(fd, UFFDIO_ZEROPAGE, &arg);
}

static int poison(int fd, void *dst)
{
    struct poison_arg arg = {(uintptr_t)dst, PAGE, 0, 0};
    return result(fd, IOC_POISON, &arg);
}

/* Everything but the handshake before the handshake. */
static void before(void)
{
    static const struct { const char *what; unsigned long request; } all[] = {
        {"before the handshake: register", UFFDIO_REGISTER}, {"before the handshake: unregister", UFFDIO_UNREGISTER},
        {"before the handshake: copy", UFFDIO_COPY}, {"before the handshake: zero page", UFFDIO_ZEROPAGE},
        {"before the handshake: move", IOC_MOVE}, {"before the handshake: protect", UFFDIO_WRITEPROTECT},
        {"before the handshake: continue", UFFDIO_CONTINUE}, {"before the handshake: poison", IOC_POISON},
    };
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    CHECK(fd >= 0);
    uint64_t arg[8] = {(uintptr_t)bytes, PAGE, 1};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        line(all[i].what, result(fd, all[i].request, arg));
    close(fd);
}

/* Asynchronous protection is for any memory, but for what may never be written. */
static void never_written(void)
{
    int fd = uffd_open(FEATURE_WP_ASYNC, O_NONBLOCK), plain = uffd_open(0, O_NONBLOCK);
    int file = open("/proc/self/exe", O_RDONLY);
    CHECK(file >= 0);
    void *shared = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0), *own = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
    CHECK(shared != MAP_FAILED && own != MAP_FAILED);
    line("protect a shared file that is only read", watch(fd, shared, PAGE, 2));
    line("watch it for missing pages", watch(fd, shared, PAGE, 1));
    line("protect a private file", watch(fd, own, PAGE, 2));
    line("watch it for both", watch(fd, own, PAGE, 3));
    line("without asynchronous protection", watch(plain, own, PAGE, 2));
    line("unregister a private file", unwatch(fd, own, PAGE));
    line("unregister it by another", unwatch(plain, own, PAGE));
    void *vdso = (void *)getauxval(AT_SYSINFO_EHDR);
    line("watch the kernel's page", vdso ? watch(plain, vdso, PAGE, 1) : EINVAL);
    close(file);
    close(fd);
    close(plain);
}

/* What is registered for one thing is not for another. */
static void ways(void)
{
    int fd = uffd_open(0, O_NONBLOCK), other = uffd_open(0, O_NONBLOCK);
    unsigned char *mem = map_pages(64);
    CHECK(madvise(mem, 64 * PAGE, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
    CHECK(munmap(mem + 16 * PAGE, PAGE) == 0 && munmap(mem + 33 * PAGE, PAGE) == 0);
    unsigned char *protected = mem + 17 * PAGE, *from = mem + 34 * PAGE;
    uffd_watch(fd, mem, 16, UFFDIO_REGISTER_MODE_MISSING);
    uffd_watch(fd, protected, 16, UFFDIO_REGISTER_MODE_WP);
    line("copy protected, where nothing is protected", uffd_copy(fd, mem, bytes, PAGE, UFFDIO_COPY_MODE_WP, NULL));
    line("protect, where nothing is protected", uffd_protect(fd, mem, PAGE, 1));
    line("copy, where nothing is missing", uffd_copy(fd, protected, bytes, PAGE, 0, NULL));
    struct uffdio_continue on = {.range = {(uintptr_t)mem, PAGE}, .mode = 2};
    line("continue protected, where nothing is", result(fd, UFFDIO_CONTINUE, &on));
    line("poison", poison(fd, mem + 2 * PAGE));
    line("zero page over poison", zero(fd, mem + 2 * PAGE));
    line("poison over a page", uffd_copy(fd, mem, bytes, PAGE, 0, NULL) ? -1 : poison(fd, mem));
    line("copy over the zero page", zero(fd, mem + PAGE) ? -1 : uffd_copy(fd, mem + PAGE, bytes, PAGE, 0, NULL));
    memset(from, 6, 16 * PAGE);
    line("move to what another watches", uffd_move(other, mem + 4 * PAGE, from, PAGE, 0, NULL));
    line("move to nowhere", uffd_move(fd, (void *)(mem + 16 * PAGE), from, PAGE, 0, NULL));
    line("move round the end", uffd_move(fd, mem + 4 * PAGE, from, -PAGE, 0, NULL));
    line("move round the end, from there", uffd_move(fd, mem + 4 * PAGE, (void *)-PAGE, 2 * PAGE, 0, NULL));
    line("move from beyond its mapping", uffd_move(fd, mem + 4 * PAGE, from + 25 * PAGE, 8 * PAGE, 0, NULL));
    line("move from address 0", uffd_move(fd, mem + 4 * PAGE, NULL, PAGE, 0, NULL));
    line("move to address 0", uffd_move(fd, NULL, from, PAGE, 0, NULL));
    line("copy to address 0", uffd_copy(fd, NULL, bytes, PAGE, 0, NULL));
    line("watch address 0", watch(fd, NULL, PAGE, 1));
    void *droppable = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, 8 | MAP_ANONYMOUS, -1, 0);
    line("watch droppable memory", droppable == MAP_FAILED ? EINVAL : watch(fd, droppable, PAGE, 1));
    struct uffdio_range lowest = {0, PAGE};
    line("wake address 0", result(fd, UFFDIO_WAKE, &lowest));
    CHECK(mprotect(from, PAGE, PROT_READ) == 0 && mprotect(mem, 16 * PAGE, PROT_READ) == 0);
    line("move where neither may be written", uffd_move(fd, mem + 4 * PAGE, from, PAGE, 0, NULL));
    CHECK(mprotect(from, PAGE, PROT_READ | PROT_WRITE) == 0 && mprotect(mem, 16 * PAGE, PROT_READ | PROT_WRITE) == 0);
    int file = open("/proc/self/exe", O_RDONLY);
    unsigned char *own = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    CHECK(file >= 0 && own != MAP_FAILED);
    own[0] = 1;
    line("move a page of a private file", uffd_move(fd, mem + 4 * PAGE, own, PAGE, 0, NULL));
    close(file);
    line("move onto itself", uffd_move(fd, mem, mem, PAGE, 0, NULL));
    line("move within a mapping, overlapping", uffd_move(fd, from, from + PAGE, 2 * PAGE, 0, NULL));
    unsigned char *big = map_pages(1024), *at = (unsigned char *)(((uintptr_t)big + (2 << 20) - 1) & -(2UL << 20));
    madvise(at, 2 << 20, MADV_HUGEPAGE);
    memset(at, 3, 2 << 20);
    uffd_watch(fd, at, 512, UFFDIO_REGISTER_MODE_MISSING);
    line("move into a large page", uffd_move(fd, at + 5 * PAGE, from + PAGE, PAGE, 0, NULL));
    line("copy into a large page", uffd_copy(fd, at + 5 * PAGE, bytes, PAGE, 0, NULL));
    printf("%-46s %3d %3d\n", "what is where it was", from[PAGE], at[5 * PAGE]);
    close(fd);
    close(other);
}

/* What is not there can be protected, if that was agreed upon. */
static void unpopulated(void)
{
    static const struct { const char *what; uint64_t features; } kinds[] = {
        {"a write after protecting nothing", 0}, {"the same, unpopulated too", FEATURE_WP_UNPOPULATED},
    };
    for (int i = 0; i < 2; i++) {
        int fd = uffd_open(kinds[i].features, O_NONBLOCK);
        unsigned char *mem = map_pages(4);
        CHECK(madvise(mem, 4 * PAGE, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
        uffd_watch(fd, mem, 4, 3);
        CHECK(uffd_protect(fd, mem, 2 * PAGE, 1) == 0);
        line(kinds[i].what, zero(fd, mem + PAGE));
        line("  and a copy", uffd_copy(fd, mem, bytes, PAGE, 0, NULL));
        line("  and poison", poison(fd, mem + 2 * PAGE));
        close(fd);
    }
}

static sigjmp_buf back;
static void trapped(int signal, siginfo_t *info, void *context)
{
    (void)context;
    /* A kernel that was built without CONFIG_MEMORY_FAILURE says BUS_ADRERR of what is poisoned, too. */
    int code = info->si_code == BUS_MCEERR_AR ? BUS_ADRERR : info->si_code;
    printf("%-46s %3d %3d %3d\n", "  a signal", signal, code, (int)((uintptr_t)info->si_addr % PAGE));
    siglongjmp(back, 1);
}

static volatile unsigned char *waits_for;
static int seen;
static void *touch(void *nothing)
{
    seen = *waits_for;
    return nothing;
}

static void wait_for_message(int fd)
{
    struct pollfd it = {.fd = fd, .events = POLLIN};
    CHECK(poll(&it, 1, 60000) == 1);
}

/* Faults that nobody answers, are answered late, or cannot be read. */
static void faults(void)
{
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGBUS, &action, NULL) == 0);
    int fd = uffd_open(UFFD_FEATURE_SIGBUS, O_NONBLOCK), ends[2];
    unsigned char *mem = map_pages(4);
    uffd_watch(fd, mem, 4, UFFDIO_REGISTER_MODE_MISSING);
    line("a touch that is a signal", 0);
    if (sigsetjmp(back, 1) == 0)
        mem[0] = 1;
    CHECK(pipe(ends) == 0 && write(ends[1], "x", 1) == 1);
    line("  the kernel's touch", read(ends[0], mem, 1) < 0 ? errno : 0);
    line("  and what is poisoned", poison(fd, mem + PAGE));
    if (sigsetjmp(back, 1) == 0)
        mem[PAGE] = 1;
    line("  the kernel's touch of that", read(ends[0], mem + PAGE, 1) < 0 ? errno : 0);
    close(fd);

    fd = uffd_open(0, O_NONBLOCK);
    mem = map_pages(4);
    uffd_watch(fd, mem, 4, UFFDIO_REGISTER_MODE_MISSING);
    waits_for = mem;
    pthread_t toucher;
    CHECK(pthread_create(&toucher, NULL, touch, NULL) == 0);
    wait_for_message(fd);
    /* The call itself: the compiler would warn of the pointer. */
    line("a message to nowhere", syscall(SYS_read, fd, (void *)8, sizeof(struct uffd_msg)) < 0 ? errno : 0);
    line("  its page", uffd_copy(fd, mem, bytes, PAGE, 0, NULL));
    CHECK(pthread_join(toucher, NULL) == 0);
    line("  what was seen", seen);
    waits_for = mem + PAGE;
    CHECK(pthread_create(&toucher, NULL, touch, NULL) == 0);
    wait_for_message(fd);
    line("who waits while nobody watches any more", unwatch(fd, mem, 4 * PAGE));
    CHECK(pthread_join(toucher, NULL) == 0);
    line("  sees", seen);
    uffd_watch(fd, mem, 4, UFFDIO_REGISTER_MODE_MISSING);
    waits_for = mem + 2 * PAGE;
    CHECK(pthread_create(&toucher, NULL, touch, NULL) == 0);
    wait_for_message(fd);
    line("who waits while the userfaultfd is closed", close(fd) == 0 ? 0 : errno);
    CHECK(pthread_join(toucher, NULL) == 0);
    line("  sees", seen);
}

int main(void)
{
    bytes = map_pages(4);
    memset(bytes, 5, 4 * PAGE);
    before();
    never_written();
    ways();
    unpopulated();
    faults();
    return 0;
}
