/* A monitor that follows a program it did not write: preloaded into the program, it lets a userfaultfd watch all private memory that the
 * program has, and what it maps later. A child that the program knows nothing of fills pages, and follows forks, moves, removals and
 * unmappings: it has a list of ranges for each address space, and each fault must be in one.
 *
 * The heap is made large at once, so that it grows in what is watched. */
#include "uffd.h"
#include <malloc.h>
#include <signal.h>

enum { RANGES = 256, SPACES = 64, HEAP = 24 << 20 };

struct range { uint64_t start, end; int grows; };
struct space { int fd; unsigned count; struct range ranges[RANGES]; };

/* What both processes see. The program adds ranges that it watches; the rest is the monitor's. */
static struct {
    unsigned added;
    struct range ranges[RANGES];
    unsigned long faults, forks, remaps, removes, unmaps, ended;
    char wrong[128];
} *shared;

static int uffd = -1;
static struct space spaces[SPACES];
static unsigned taken, nr_spaces;

static void wrong(const char *what, uint64_t number)
{
    if (!shared->wrong[0])
        snprintf(shared->wrong, sizeof shared->wrong, "%s %#lx", what, (unsigned long)number);
}

static void add(struct space *space, uint64_t start, uint64_t end, int grows)
{
    if (space->count == RANGES)
        wrong("too many ranges, at", start);
    else if (start < end)
        space->ranges[space->count++] = (struct range){start, end, grows};
}

static void cut(struct space *space, uint64_t start, uint64_t end)
{
    for (unsigned i = 0; i < space->count; i++) {
        struct range old = space->ranges[i];
        if (old.end <= start || end <= old.start)
            continue;
        space->ranges[i--] = space->ranges[--space->count];
        add(space, old.start, old.start < start ? start : old.start, 0);
        add(space, end < old.end ? end : old.end, old.end, old.grows);
    }
}

/* What the program has watched since the last look: it says so before a fault can come. */
static void take_new(void)
{
    unsigned added = __atomic_load_n(&shared->added, __ATOMIC_ACQUIRE);
    for (; taken < added; taken++)
        add(&spaces[0], shared->ranges[taken].start, shared->ranges[taken].end, 0);
}

/* What moves may be longer where it comes to, and the event has its old length, on Linux, too: the first fault beyond tells. */
static int has(struct space *space, uint64_t address)
{
    for (unsigned i = 0; i < space->count; i++)
        if (space->ranges[i].start <= address && address < space->ranges[i].end)
            return 1;
    for (unsigned i = 0; i < space->count; i++) {
        struct range *range = &space->ranges[i];
        if (range->grows && range->end <= address && address < range->end + 96 * PAGE) {
            range->end = (address & ~(PAGE - 1)) + PAGE;
            return 1;
        }
    }
    return 0;
}

static void fault(struct space *space, uint64_t address)
{
    static unsigned char zeros[4096];
    shared->faults++;
    if (!has(space, address))
        wrong("a fault that is in no range, at", address);
    uint64_t page = address & ~(PAGE - 1);
    int error;
    if (shared->faults % 2)
        error = uffd_copy(space->fd, (void *)page, zeros, PAGE, 0, NULL);
    else {
        struct uffdio_zeropage arg = {.range = {page, PAGE}};
        error = ioctl(space->fd, UFFDIO_ZEROPAGE, &arg) == 0 ? 0 : errno;
    }
    /* Somebody was faster; a change is to be read first; it has gone meanwhile. */
    if (error != 0 && error != EEXIST && error != EAGAIN && error != ENOENT && error != ESRCH)
        wrong("a page is not filled, error", (uint64_t)error);
    if (error) {
        struct uffdio_range range = {page, PAGE};
        ioctl(space->fd, UFFDIO_WAKE, &range);
    }
}

static void forked(const struct space *parent, int fd)
{
    struct space *child = NULL;
    for (unsigned i = 0; i < nr_spaces && !child; i++)
        child = spaces[i].fd < 0 ? &spaces[i] : NULL;
    if (!child && nr_spaces < SPACES)
        child = &spaces[nr_spaces++];
    if (!child) {
        wrong("too many address spaces", nr_spaces);
        return;
    }
    *child = *parent;
    child->fd = fd;
    shared->forks++;
}

static void serve(struct space *space, const struct uffd_msg *msg)
{
    switch (msg->event) {
    case UFFD_EVENT_PAGEFAULT:
        fault(space, msg->arg.pagefault.address);
        break;
    case UFFD_EVENT_FORK:
        forked(space, (int)msg->arg.fork.ufd);
        break;
    case UFFD_EVENT_REMAP: {
        uint64_t from = msg->arg.remap.from, to = msg->arg.remap.to, len = msg->arg.remap.len;
        shared->remaps++;
        cut(space, from, from + len);
        cut(space, to, to + len);
        add(space, to, to + len, 1);
        break;
    }
    case UFFD_EVENT_REMOVE:
        shared->removes++;
        break;
    case UFFD_EVENT_UNMAP:
        shared->unmaps++;
        cut(space, msg->arg.remove.start, msg->arg.remove.end);
        break;
    default:
        wrong("an unknown event", msg->event);
    }
}

/* Until the program and all its children have ended. */
static void monitor(int end)
{
    struct pollfd polls[SPACES + 1];
    for (;;) {
        unsigned n = nr_spaces;
        for (unsigned i = 0; i < n; i++)
            polls[i] = (struct pollfd){.fd = spaces[i].fd, .events = POLLIN};
        polls[n] = (struct pollfd){.fd = end, .events = POLLIN};
        if (poll(polls, n + 1, -1) < 0 && errno != EINTR)
            wrong("poll", (uint64_t)errno);
        int any = 0;
        for (unsigned i = 0; i < n; i++) {
            struct uffd_msg msg;
            if (spaces[i].fd < 0 || !(polls[i].revents & POLLIN))
                continue;
            /* There is a message, so what it is about was added before. What the program adds when it goes on comes after it. */
            take_new();
            if (read(spaces[i].fd, &msg, sizeof msg) == sizeof msg) {
                serve(&spaces[i], &msg);
                any = 1;
            }
        }
        if (!any && polls[n].revents)
            _exit(0);
    }
}

/* Watches what was just mapped. What is mapped to be grown is watched as it is. */
static void watch(void *at, size_t len)
{
    len = (len + PAGE - 1) & ~(PAGE - 1);
    if (shared->added == RANGES)
        return;
    shared->ranges[shared->added] = (struct range){(uintptr_t)at, (uintptr_t)at + len, 0};
    __atomic_store_n(&shared->added, shared->added + 1, __ATOMIC_RELEASE);
    struct uffdio_register reg = {.range = {(uintptr_t)at, len}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(uffd, UFFDIO_REGISTER, &reg) != 0)
        wrong("a mapping cannot be watched, error", (uint64_t)errno);
}

static pid_t program;

/* What the program calls. Children have a userfaultfd of their own, which only the monitor has. A page that is left behind what is watched
 * keeps it from growing where it is: no event tells of that. */
void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
    int private = (flags & (MAP_PRIVATE | MAP_ANONYMOUS)) == (MAP_PRIVATE | MAP_ANONYMOUS);
    int watched = private && prot & PROT_WRITE && !(flags & MAP_FIXED) && uffd >= 0 && getpid() == program;
    size_t room = watched ? ((len + PAGE - 1) & ~(PAGE - 1)) + PAGE : len;
    void *at = (void *)syscall(SYS_mmap, addr, room, prot, flags, fd, offset);
    if (watched && at != MAP_FAILED) {
        CHECK(mprotect((char *)at + room - PAGE, PAGE, PROT_NONE) == 0);
        watch(at, len);
    }
    return at;
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
    return mmap64(addr, len, prot, flags, fd, offset);
}

/* For the program to say what became of it: faults, forks, moves, removals, unmappings. */
void follow_counts(unsigned long *to)
{
    unsigned long all[5] = {shared->faults, shared->forks, shared->remaps, shared->removes, shared->unmaps};
    memcpy(to, all, sizeof all);
}

const char *follow_wrong(void) { return shared->wrong; }

__attribute__((constructor)) static void begin(void)
{
    unsetenv("LD_PRELOAD");
    shared = (void *)syscall(SYS_mmap, NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0L);
    CHECK(shared != MAP_FAILED);
    int end[2];
    CHECK(pipe(end) == 0);
    uint64_t events = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;
    int fd = uffd_open(events, O_NONBLOCK);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(end[1]);
        signal(SIGINT, SIG_IGN);
        spaces[0].fd = fd;
        nr_spaces = 1;
        monitor(end[0]);
    }
    close(end[0]);
    program = getpid();
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, 2 * HEAP);
    /* The compiler would leave out what is freed at once. */
    void *volatile block = malloc(HEAP);
    unsigned char *top = sbrk(0);
    free(block);
    uffd = fd;
    uintptr_t bottom = ((uintptr_t)block + PAGE - 1) & ~(PAGE - 1);
    watch((void *)bottom, (uintptr_t)top - bottom);
}
