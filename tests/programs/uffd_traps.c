/* Where userfaultfd differs from Linux on purpose: the traps that programs fell into (docs/userfaultfd.md). A table, a line for each; the
 * test knows what Linux prints, and what it prints here. */
#include "uffd.h"

static int fd;
static unsigned char *mem, *bytes;

static void message(const char *what)
{
    struct uffd_msg it;
    CHECK(read(fd, &it, sizeof it) == sizeof it);
    printf("%-52s %s\n", what, it.event == UFFD_EVENT_PAGEFAULT ? "fault" : it.event == UFFD_EVENT_REMOVE ? "remove" : "?");
}

static void wait_for_message(void)
{
    struct pollfd it = {.fd = fd, .events = POLLIN};
    CHECK(poll(&it, 1, 60000) == 1);
}

static void *drop(void *page)
{
    CHECK(madvise(page, PAGE, MADV_DONTNEED) == 0);
    return NULL;
}

static volatile pid_t toucher;

static void *touch(void *page)
{
    toucher = (pid_t)syscall(SYS_gettid);
    return (void *)(uintptr_t)*(volatile unsigned char *)page;
}

static void *scribble(void *page)
{
    *(volatile unsigned char *)page = 9;
    return NULL;
}

/* Until the thread that touches a page has gone to sleep over it, as far as that can be known. */
static void until_it_waits(void)
{
    while (toucher == 0)
        usleep(1000);
    for (int tries = 0; tries < 200; tries++) {
        char name[64], text[256] = {0};
        snprintf(name, sizeof name, "/proc/self/task/%d/stat", (int)toucher);
        int stat = open(name, O_RDONLY);
        ssize_t got = stat < 0 ? -1 : read(stat, text, sizeof text - 1);
        if (stat >= 0)
            close(stat);
        char *end = got > 0 ? strrchr(text, ')') : NULL;
        if (end && (end[2] == 'S' || end[2] == 'D'))
            return;
        usleep(1000);
    }
}

static int fill(size_t page, int64_t *out) { return uffd_copy(fd, mem + page * PAGE, bytes, PAGE, 0, out); }

static void removals(void)
{
    pthread_t dropper, reader;
    int64_t out;
    CHECK(fill(0, NULL) == 0);
    CHECK(pthread_create(&dropper, NULL, drop, mem) == 0);
    wait_for_message();
    printf("%-52s %3d", "a fill elsewhere while a removal is unread", fill(8, &out));
    printf(" %6ld\n", (long)out);
    printf("%-52s %3d", "a fill of what is being removed", fill(0, &out));
    printf(" %6ld\n", (long)out);
    CHECK(pthread_create(&reader, NULL, touch, mem + 4 * PAGE) == 0);
    until_it_waits();
    message("a removal, and then a fault: first");
    message("  second");
    void *saw;
    int again;
    while ((again = fill(0, NULL)) == EAGAIN)
        usleep(100);
    CHECK(again == 0);
    while (fill(4, NULL) == EAGAIN)
        usleep(100);
    CHECK(pthread_join(dropper, NULL) == 0 && pthread_join(reader, &saw) == 0);
}

/* Whoever is told of a removal, and fills at once, keeps what it filled. Linux may drop that. */
static void kept(void)
{
    unsigned char there = 0;
    CHECK(mincore(mem, PAGE, &there) == 0);
    printf("%-52s %3d\n", "what was filled when the removal was read is there", there & 1);
}

/* On Linux whoever waits because of protection alone goes on waiting. */
static void unprotected(void)
{
    int own_fd = fd = uffd_open(0, O_NONBLOCK);
    unsigned char *own = map_pages(1);
    own[0] = 7;
    uffd_watch(own_fd, own, 1, UFFDIO_REGISTER_MODE_WP);
    CHECK(uffd_protect(own_fd, own, PAGE, 1) == 0);
    pthread_t writer;
    CHECK(pthread_create(&writer, NULL, scribble, own) == 0);
    wait_for_message();
    struct uffdio_range range = {(uintptr_t)own, PAGE};
    CHECK(ioctl(own_fd, UFFDIO_UNREGISTER, &range) == 0);
    CHECK(pthread_join(writer, NULL) == 0);
    printf("%-52s %3d\n", "who waited for protection that has ended wrote", own[0]);
}

int main(int argc, char **argv)
{
    (void)argv;
    bytes = map_pages(1);
    memset(bytes, 5, PAGE);
    mem = map_pages(16);
    CHECK(madvise(mem, 16 * PAGE, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
    fd = uffd_open(UFFD_FEATURE_EVENT_REMOVE, O_NONBLOCK);
    uffd_watch(fd, mem, 16, UFFDIO_REGISTER_MODE_MISSING);
    removals();
    /* With an argument: what Linux does not promise, too. */
    if (argc > 1) {
        kept();
        close(fd);
        unprotected();
    }
    return 0;
}
