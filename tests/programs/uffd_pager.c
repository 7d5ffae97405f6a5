/* A pager restores a snapshot lazily from a file: threads touch pages in different orders, several handlers race to fill them, and one
 * thread drops pages of its own again, of which the handlers are told. Every byte is what the file has, or zero where it was dropped.
 *
 * Whoever is refused because a change has not been read lets the fault come again: on Linux the change may be of any page. */
#include "uffd.h"

enum { PAGES = 512, TOUCHERS = 4, HANDLERS = 3 };

static int fd, file;
static unsigned char *memory;
static volatile unsigned char dropped[PAGES];
static unsigned long raced, served;
static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;

static unsigned char byte_of(unsigned page) { return (unsigned char)(1 + page * 37 % 251); }

static void serve(const struct uffd_msg *msg, unsigned char *buffer)
{
    if (msg->event == UFFD_EVENT_REMOVE) {
        unsigned first = (unsigned)((msg->arg.remove.start - (uintptr_t)memory) / PAGE);
        unsigned end = (unsigned)((msg->arg.remove.end - (uintptr_t)memory) / PAGE);
        for (unsigned page = first; page < end; page++)
            dropped[page] = 1;
        return;
    }
    CHECK(msg->event == UFFD_EVENT_PAGEFAULT, "event %d", msg->event);
    unsigned page = (unsigned)((msg->arg.pagefault.address - (uintptr_t)memory) / PAGE);
    CHECK(page < PAGES);
    if (dropped[page])
        memset(buffer, 0, PAGE);
    else
        CHECK(pread(file, buffer, PAGE, (off_t)(page * PAGE)) == (ssize_t)PAGE);
    int error = uffd_copy(fd, memory + page * PAGE, buffer, PAGE, 0, NULL);
    CHECK(error == 0 || error == EEXIST || error == EAGAIN, "copy: %d", error);
    __atomic_fetch_add(error ? &raced : &served, 1, __ATOMIC_RELAXED);
    if (error) {
        struct uffdio_range range = {(uintptr_t)memory + page * PAGE, PAGE};
        CHECK(ioctl(fd, UFFDIO_WAKE, &range) == 0);
    }
}

static void *handler(void *end)
{
    unsigned char *buffer = map_pages(1);
    struct pollfd both[2] = {{.fd = fd, .events = POLLIN}, {.fd = *(int *)end, .events = POLLIN}};
    for (;;) {
        CHECK(poll(both, 2, -1) > 0);
        if (both[1].revents)
            return NULL;
        struct uffd_msg msg;
        /* What is dropped is known before anybody reads the next message. */
        CHECK(pthread_mutex_lock(&reading) == 0);
        ssize_t got = read(fd, &msg, sizeof msg);
        CHECK(got == sizeof msg || (got < 0 && errno == EAGAIN));
        if (got > 0 && msg.event == UFFD_EVENT_REMOVE)
            serve(&msg, buffer);
        CHECK(pthread_mutex_unlock(&reading) == 0);
        if (got > 0 && msg.event != UFFD_EVENT_REMOVE)
            serve(&msg, buffer);
    }
}

static void *toucher(void *which)
{
    unsigned n = (unsigned)(uintptr_t)which;
    for (unsigned i = 0; i < PAGES; i++) {
        unsigned page = (i * (2 * n + 1) + n * 97) % PAGES;
        if (page % 16 == 3)
            continue;
        unsigned char found = *(volatile unsigned char *)(memory + page * PAGE + n * 64);
        CHECK(found == byte_of(page), "page %u has %d", page, found);
    }
    return NULL;
}

static void *dropper(void *none)
{
    for (unsigned page = 3; page < PAGES; page += 16) {
        volatile unsigned char *at = memory + page * PAGE;
        CHECK(*at == byte_of(page), "page %u has %d", page, *at);
        CHECK(madvise(memory + page * PAGE, PAGE, MADV_DONTNEED) == 0);
        CHECK(*at == 0, "page %u has %d after it was dropped", page, *at);
    }
    return none;
}

int main(int argc, char **argv)
{
    pid_t ballast = press(argc, argv);
    char name[] = "/tmp/snapshotXXXXXX";
    CHECK((file = mkstemp(name)) >= 0);
    unlink(name);
    unsigned char *buffer = map_pages(1);
    for (unsigned page = 0; page < PAGES; page++) {
        memset(buffer, byte_of(page), PAGE);
        CHECK(write(file, buffer, PAGE) == (ssize_t)PAGE);
    }
    memory = map_pages(PAGES);
    fd = uffd_open(UFFD_FEATURE_EVENT_REMOVE, O_NONBLOCK);
    uffd_watch(fd, memory, PAGES, UFFDIO_REGISTER_MODE_MISSING);
    int end[2];
    CHECK(pipe(end) == 0);
    pthread_t handlers[HANDLERS], touchers[TOUCHERS], drops;
    for (int i = 0; i < HANDLERS; i++)
        CHECK(pthread_create(&handlers[i], NULL, handler, &end[0]) == 0);
    for (uintptr_t i = 0; i < TOUCHERS; i++)
        CHECK(pthread_create(&touchers[i], NULL, toucher, (void *)i) == 0);
    CHECK(pthread_create(&drops, NULL, dropper, NULL) == 0);
    for (int i = 0; i < TOUCHERS; i++)
        pthread_join(touchers[i], NULL);
    pthread_join(drops, NULL);
    /* What was dropped reads as zero now, whenever it is touched. */
    for (unsigned page = 0; page < PAGES; page++) {
        unsigned char want = page % 16 == 3 ? 0 : byte_of(page);
        CHECK(memory[page * PAGE + 99] == want, "page %u has %d", page, memory[page * PAGE + 99]);
    }
    CHECK(write(end[1], "e", 1) == 1);
    for (int i = 0; i < HANDLERS; i++)
        pthread_join(handlers[i], NULL);
    CHECK(served >= PAGES);
    printf("%d pages were restored as they were\n", PAGES);
    press_no_more(ballast);
    return 0;
}
