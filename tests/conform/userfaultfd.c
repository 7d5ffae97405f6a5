/* userfaultfd: missing, write protection, fills. */
#include "conform.h"
#include <poll.h>
#include <linux/userfaultfd.h>
#define GROUP "userfaultfd"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static int opened(void)
{
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && (errno == ENOSYS || errno == EPERM))
        absent("userfaultfd");
    OK(fd);
    return fd;
}
static int with_api(uint64_t features)
{
    int fd = opened();
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    OK(ioctl(fd, UFFDIO_API, &api));
    return fd;
}
static int registered(char *at, long pages, uint64_t mode)
{
    int fd = with_api(0);
    struct uffdio_register all = {.range = {(long)at, pages * P}, .mode = mode};
    OK(ioctl(fd, UFFDIO_REGISTER, &all));
    return fd;
}
/* A child that touches `at`, while this process serves it: they share nothing but the descriptor's space. */
struct toucher {
    char *at;
    int value, done;
};
static int touches(void *argument)
{
    struct toucher *t = argument;
    t->value = *(volatile char *)t->at;
    __atomic_store_n(&t->done, 1, __ATOMIC_SEQ_CST);
    return 0;
}
static int stores(void *argument)
{
    struct toucher *t = argument;
    *(volatile char *)t->at = 42;
    __atomic_store_n(&t->done, 1, __ATOMIC_SEQ_CST);
    return 0;
}
static char stack[32768] __attribute__((aligned(16)));
static int beside(int (*run)(void *), struct toucher *t)
{
    int pid = clone(run, stack + sizeof stack, CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD, t);
    OK(pid);
    return pid;
}
static struct uffd_msg message(int fd)
{
    struct uffd_msg message;
    struct pollfd poll_for = {fd, POLLIN, 0};
    EQ(poll(&poll_for, 1, 20000), 1);
    EQ(read(fd, &message, sizeof message), sizeof message);
    return message;
}

CHECK("the api number must be right", "EINVAL for another")
{
    struct uffdio_api api = {.api = 1};
    ERR(ioctl(opened(), UFFDIO_API, &api), EINVAL);
}
CHECK("unknown features are refused", "EINVAL")
{
    struct uffdio_api api = {.api = UFFD_API, .features = 1UL << 60};
    ERR(ioctl(opened(), UFFDIO_API, &api), EINVAL);
}
CHECK("the api says what there is", "ioctls and features come back")
{
    struct uffdio_api api = {.api = UFFD_API};
    OK(ioctl(opened(), UFFDIO_API, &api));
    IS(api.ioctls & 1UL << _UFFDIO_REGISTER);
    IS(api.ioctls & 1UL << _UFFDIO_API);
}
CHECK("the api once", "EINVAL the second time")
{
    int fd = with_api(0);
    struct uffdio_api api = {.api = UFFD_API};
    ERR(ioctl(fd, UFFDIO_API, &api), EINVAL);
}
CHECK("nothing before the api", "EINVAL")
{
    char *at = island(1);
    struct uffdio_register all = {.range = {(long)at, P}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    ERR(ioctl(opened(), UFFDIO_REGISTER, &all), EINVAL);
}
CHECK("unknown flags are refused", "EINVAL")
{
    opened();
    ERR(syscall(SYS_userfaultfd, 0x10), EINVAL);
}
CHECK("register says what fills", "copy, zeropage, wake")
{
    char *at = island(1);
    int fd = with_api(0);
    struct uffdio_register all = {.range = {(long)at, P}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    OK(ioctl(fd, UFFDIO_REGISTER, &all));
    IS(all.ioctls & 1UL << _UFFDIO_COPY);
    IS(all.ioctls & 1UL << _UFFDIO_ZEROPAGE);
    IS(all.ioctls & 1UL << _UFFDIO_WAKE);
}
CHECK("register of an odd range is refused", "EINVAL")
{
    char *at = island(2);
    int fd = with_api(0);
    struct uffdio_register all = {.range = {(long)at + 1, P}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    ERR(ioctl(fd, UFFDIO_REGISTER, &all), EINVAL);
}
CHECK("register of nothing is refused", "EINVAL")
{
    char *at = island(1);
    int fd = with_api(0);
    struct uffdio_register all = {.range = {(long)at, 0}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    ERR(ioctl(fd, UFFDIO_REGISTER, &all), EINVAL);
}
CHECK("register without a mode is refused", "EINVAL")
{
    char *at = island(1);
    int fd = with_api(0);
    struct uffdio_register all = {.range = {(long)at, P}};
    ERR(ioctl(fd, UFFDIO_REGISTER, &all), EINVAL);
}
CHECK("register of a hole is refused", "EINVAL")
{
    char *at = island(1);
    OK(munmap(at, P));
    int fd = with_api(0);
    struct uffdio_register all = {.range = {(long)at, P}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    ERR(ioctl(fd, UFFDIO_REGISTER, &all), EINVAL);
}
CHECK("register of what another one has is refused", "EBUSY")
{
    char *at = island(1);
    registered(at, 1, UFFDIO_REGISTER_MODE_MISSING);
    int fd = with_api(0);
    struct uffdio_register all = {.range = {(long)at, P}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    ERR(ioctl(fd, UFFDIO_REGISTER, &all), EBUSY);
}
CHECK("register splits a mapping", "and smaps says um")
{
    char *at = island(3);
    registered(at + P, 1, UFFDIO_REGISTER_MODE_MISSING);
    EQ(mappings(at, 3), 3);
    EQ(vm_flag(at + P, "um"), 1);
}
CHECK("unregister merges it", "as it was")
{
    char *at = island(3);
    int fd = registered(at + P, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct uffdio_range range = {(long)at + P, P};
    OK(ioctl(fd, UFFDIO_UNREGISTER, &range));
    EQ(mappings(at, 3), 1);
}
CHECK("close unregisters", "pages are zeroes again")
{
    char *at = island(1);
    OK(close(registered(at, 1, UFFDIO_REGISTER_MODE_MISSING)));
    EQ(at[0], 0);
    EQ(vm_flag(at, "um"), 0);
}
CHECK("copy fills a page", "before anybody asks for it")
{
    char *at = island(1), *from = filled(1);
    int fd = registered(at, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct uffdio_copy copy = {.dst = (long)at, .src = (long)from, .len = P};
    OK(ioctl(fd, UFFDIO_COPY, &copy));
    EQ(copy.copy, P);
    EQ(at[0], 1);
}
CHECK("copy over a page is refused", "EEXIST, and out says so, too")
{
    char *at = filled(1), *from = filled(1);
    int fd = registered(at, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct uffdio_copy copy = {.dst = (long)at, .src = (long)from, .len = P};
    ERR(ioctl(fd, UFFDIO_COPY, &copy), EEXIST);
    EQ(copy.copy, -EEXIST);
}
CHECK("copy to what is not registered is refused", "ENOENT")
{
    char *at = island(1), *from = filled(1), *other = island(1);
    int fd = registered(at, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct uffdio_copy copy = {.dst = (long)other, .src = (long)from, .len = P};
    ERR(ioctl(fd, UFFDIO_COPY, &copy), ENOENT);
}
CHECK("copy of an odd length is refused", "EINVAL")
{
    char *at = island(1), *from = filled(1);
    int fd = registered(at, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct uffdio_copy copy = {.dst = (long)at, .src = (long)from, .len = 100};
    ERR(ioctl(fd, UFFDIO_COPY, &copy), EINVAL);
}
CHECK("copy of several pages stops where one is there", "EAGAIN, and out says how far")
{
    char *at = island(3), *from = filled(3);
    at[2 * P] = 9;
    int fd = registered(at, 3, UFFDIO_REGISTER_MODE_MISSING);
    struct uffdio_copy copy = {.dst = (long)at, .src = (long)from, .len = 3 * P};
    ERR(ioctl(fd, UFFDIO_COPY, &copy), EAGAIN);
    EQ(copy.copy, 2 * P);
    EQ(at[P], 2);
}
CHECK("zeropage fills with zeroes", "and the page is there")
{
    char *at = island(2);
    int fd = registered(at, 2, UFFDIO_REGISTER_MODE_MISSING);
    struct uffdio_zeropage zero = {.range = {(long)at, 2 * P}};
    OK(ioctl(fd, UFFDIO_ZEROPAGE, &zero));
    EQ(zero.zeropage, 2 * P);
    EQ(at[P], 0);
}
CHECK("wake of nobody", "no error")
{
    char *at = island(1);
    int fd = registered(at, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct uffdio_range range = {(long)at, P};
    OK(ioctl(fd, UFFDIO_WAKE, &range));
}
CHECK("wake wakes who waits", "a copy that is told to wake nobody leaves that to it")
{
    char *at, *from = filled(1);
    int fd, pid, tries = 0;
    struct toucher t;
    // Who has told of its fault looks once more before it sleeps. It may find the page, and goes on.
    do {
        at = island(1);
        fd = registered(at, 1, UFFDIO_REGISTER_MODE_MISSING);
        t = (struct toucher){.at = at};
        pid = beside(touches, &t);
        message(fd);
        struct uffdio_copy copy = {.dst = (long)at, .src = (long)from, .len = P, .mode = UFFDIO_COPY_MODE_DONTWAKE};
        OK(ioctl(fd, UFFDIO_COPY, &copy));
        usleep(20000);
    } while (__atomic_load_n(&t.done, __ATOMIC_SEQ_CST) && ++tries < 50 && waitpid(pid, NULL, 0) == pid);
    EQ(__atomic_load_n(&t.done, __ATOMIC_SEQ_CST), 0);
    struct uffdio_range range = {(long)at, P};
    OK(ioctl(fd, UFFDIO_WAKE, &range));
    for (int i = 0; i < 10000 && !__atomic_load_n(&t.done, __ATOMIC_SEQ_CST); i++)
        usleep(1000);
    EQ(t.done, 1);
    EQ(waitpid(pid, NULL, 0), pid);
    EQ(t.value, 1);
}
CHECK("a load waits for its page", "the message names the page; copy wakes the task")
{
    char *at = island(2), *from = filled(2);
    int fd = registered(at, 2, UFFDIO_REGISTER_MODE_MISSING);
    struct toucher t = {.at = at + P + 8};
    int pid = beside(touches, &t);
    struct uffd_msg m = message(fd);
    EQ(m.event, UFFD_EVENT_PAGEFAULT);
    EQ(m.arg.pagefault.address & -P, (long)at + P);
    EQ(m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE, 0);
    EQ(t.done, 0);
    struct uffdio_copy copy = {.dst = (long)at + P, .src = (long)from, .len = P};
    from[8] = 77;
    OK(ioctl(fd, UFFDIO_COPY, &copy));
    EQ(waitpid(pid, NULL, 0), pid);
    EQ(t.value, 77);
}
CHECK("a store says so", "UFFD_PAGEFAULT_FLAG_WRITE")
{
    char *at = island(1);
    int fd = registered(at, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct toucher t = {.at = at};
    int pid = beside(stores, &t);
    IS(message(fd).arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE);
    struct uffdio_zeropage zero = {.range = {(long)at, P}};
    OK(ioctl(fd, UFFDIO_ZEROPAGE, &zero));
    EQ(waitpid(pid, NULL, 0), pid);
    EQ(at[0], 42);
}
CHECK("unregister wakes who waits", "the access finds an ordinary page")
{
    char *at = island(1);
    int fd = registered(at, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct toucher t = {.at = at};
    int pid = beside(stores, &t);
    message(fd);
    struct uffdio_range range = {(long)at, P};
    OK(ioctl(fd, UFFDIO_UNREGISTER, &range));
    EQ(waitpid(pid, NULL, 0), pid);
    EQ(at[0], 42);
}
CHECK("write protection stops a store", "the message says wp; taking it away wakes the task")
{
    char *at = filled(1);
    int fd = registered(at, 1, UFFDIO_REGISTER_MODE_WP);
    struct uffdio_writeprotect wp = {.range = {(long)at, P}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    OK(ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
    EQ(at[0], 1);
    struct toucher t = {.at = at};
    int pid = beside(stores, &t);
    IS(message(fd).arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);
    EQ(at[0], 1);
    wp.mode = 0;
    OK(ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
    EQ(waitpid(pid, NULL, 0), pid);
    EQ(at[0], 42);
}
CHECK("write protection shows in pagemap", "bit 57; in smaps, uw")
{
    char *at = filled(1);
    int fd = registered(at, 1, UFFDIO_REGISTER_MODE_WP);
    struct uffdio_writeprotect wp = {.range = {(long)at, P}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    OK(ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
    EQ(pagemap(at) >> 57 & 1, 1);
    EQ(vm_flag(at, "uw"), 1);
}
CHECK("write protection of what is not registered is refused", "ENOENT")
{
    char *at = filled(1);
    int fd = registered(at, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct uffdio_writeprotect wp = {.range = {(long)at, P}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    ERR(ioctl(fd, UFFDIO_WRITEPROTECT, &wp), ENOENT);
}
CHECK("a read of nothing would block", "EAGAIN for a descriptor that does not wait")
{
    char buffer[64];
    ERR(read(registered(island(1), 1, UFFDIO_REGISTER_MODE_MISSING), buffer, sizeof buffer), EAGAIN);
}
CHECK("a read that is too short is refused", "EINVAL: a message is whole")
{
    char buffer[8];
    ERR(read(registered(island(1), 1, UFFDIO_REGISTER_MODE_MISSING), buffer, sizeof buffer), EINVAL);
}
CHECK("a child's copy is not registered", "without the fork event: pages are zeroes there")
{
    char *at = island(1);
    registered(at, 1, UFFDIO_REGISTER_MODE_MISSING);
    CHILD {
        EQ(vm_flag(at, "um"), 0);
        EQ(at[0], 0);
    }
}
/* Since 6.8, 5.13 and 6.6: their numbers are not in older headers. */
struct move { uint64_t to, from, length, mode; int64_t moved; };
struct fill { struct uffdio_range range; uint64_t mode; int64_t filled; };
#define MOVE _IOWR(UFFDIO, 5, struct move)
#define CONTINUE _IOWR(UFFDIO, 7, struct fill)
#define POISON _IOWR(UFFDIO, 8, struct fill)
enum { MODE_MINOR = 4 };
#define FEATURE_MINOR_SHMEM (1UL << 10)
#define FEATURE_POISON (1UL << 14)
#define FEATURE_MOVE (1UL << 16)

/* Features that the kernel may lack. */
static int with_feature(uint64_t feature)
{
    struct uffdio_api api = {.api = UFFD_API};
    OK(ioctl(opened(), UFFDIO_API, &api));
    if (!(api.features & feature))
        absent("this feature of userfaultfd");
    return with_api(feature);
}
static int registered_with(uint64_t feature, char *at, long pages, uint64_t mode)
{
    int fd = with_feature(feature);
    struct uffdio_register all = {.range = {(long)at, pages * P}, .mode = mode};
    OK(ioctl(fd, UFFDIO_REGISTER, &all));
    return fd;
}
CHECK("move moves the page", "itself, not a copy: nothing is where it was")
{
    char *at = island(1), *from = filled(1);
    SINGLY(from, 1);
    from[0] = 1;
    int fd = registered_with(FEATURE_MOVE, at, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct move move = {.to = (long)at, .from = (long)from, .length = P};
    OK(ioctl(fd, MOVE, &move));
    EQ(move.moved, P);
    EQ(at[0], 1);
    EQ(resident(from, 1), 0);
}
CHECK("move over a page is refused", "EEXIST")
{
    char *at = filled(1), *from = filled(1);
    int fd = registered_with(FEATURE_MOVE, at, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct move move = {.to = (long)at, .from = (long)from, .length = P};
    ERR(ioctl(fd, MOVE, &move), EEXIST);
    EQ(from[0], 1);
}
CHECK("move of nothing is refused", "ENOENT, unless holes are allowed")
{
    char *at = island(1), *from = island(1);
    int fd = registered_with(FEATURE_MOVE, at, 1, UFFDIO_REGISTER_MODE_MISSING);
    struct move move = {.to = (long)at, .from = (long)from, .length = P};
    ERR(ioctl(fd, MOVE, &move), ENOENT);
    move = (struct move){.to = (long)at, .from = (long)from, .length = P, .mode = 2};
    OK(ioctl(fd, MOVE, &move));
}
CHECK("continue maps what the object has", "a minor fault's page, which another mapping has filled")
{
    char *at = island_of(1, RW, SHARED), *other = mremap(at, 0, P, MREMAP_MAYMOVE);
    IS(other != MAP_FAILED);
    other[0] = 7;
    int fd = registered_with(FEATURE_MINOR_SHMEM, at, 1, MODE_MINOR);
    struct fill fill = {.range = {(long)at, P}};
    OK(ioctl(fd, CONTINUE, &fill));
    EQ(fill.filled, P);
    EQ(pagemap(at) >> 63, 1);
    EQ(at[0], 7);
}
CHECK("poison is SIGBUS", "who touches the page gets what a page that failed gives")
{
    char *at = island(2);
    int fd = registered_with(FEATURE_POISON, at, 2, UFFDIO_REGISTER_MODE_MISSING);
    struct fill fill = {.range = {(long)at, P}};
    OK(ioctl(fd, POISON, &fill));
    EQ(fill.filled, P);
    EQ(reading(at) >> 8, SIGBUS);
    EQ(writing(at) >> 8, SIGBUS);
}
