/* A snapshot of memory while others write to it: by write protection that a handler ends after it has saved the page, and by protection
 * that writes end themselves. Each page is saved once, and as it was when the snapshot began. */
#include "uffd.h"

enum { PAGES = 256, WRITERS = 3 };

static int fd;
static unsigned char *memory, *saved;
static unsigned char is_saved[PAGES];
static volatile int stop;
static pthread_mutex_t saving = PTHREAD_MUTEX_INITIALIZER;

/* All bytes of a page are alike but while it is being written. */
static void *writer(void *which)
{
    unsigned n = (unsigned)(uintptr_t)which;
    for (unsigned round = 0; !stop; round++) {
        unsigned page = (round * 7 + n) % PAGES / WRITERS * WRITERS + n;
        if (page < PAGES)
            memset(memory + page * PAGE, (int)(2 + round % 200), PAGE);
    }
    return NULL;
}

static void save(unsigned page)
{
    CHECK(pthread_mutex_lock(&saving) == 0);
    if (!is_saved[page]) {
        memcpy(saved + page * PAGE, memory + page * PAGE, PAGE);
        is_saved[page] = 1;
    }
    CHECK(uffd_protect(fd, memory + page * PAGE, PAGE, 0) == 0);
    CHECK(pthread_mutex_unlock(&saving) == 0);
}

static void *handler(void *end)
{
    struct pollfd both[2] = {{.fd = fd, .events = POLLIN}, {.fd = *(int *)end, .events = POLLIN}};
    for (;;) {
        CHECK(poll(both, 2, -1) > 0);
        struct uffd_msg msg;
        if (both[0].revents & POLLIN && read(fd, &msg, sizeof msg) == sizeof msg) {
            CHECK(msg.event == UFFD_EVENT_PAGEFAULT);
            CHECK(msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);
            save((unsigned)((msg.arg.pagefault.address - (uintptr_t)memory) / PAGE));
        } else if (both[1].revents) {
            return NULL;
        }
    }
}

static void synchronous(void)
{
    fd = uffd_open(0, O_NONBLOCK);
    uffd_watch(fd, memory, PAGES, UFFDIO_REGISTER_MODE_WP);
    CHECK(uffd_protect(fd, memory, PAGES * PAGE, UFFDIO_WRITEPROTECT_MODE_WP) == 0);
    int end[2];
    CHECK(pipe(end) == 0);
    pthread_t writers[WRITERS], handles;
    CHECK(pthread_create(&handles, NULL, handler, &end[0]) == 0);
    for (uintptr_t i = 0; i < WRITERS; i++)
        CHECK(pthread_create(&writers[i], NULL, writer, (void *)i) == 0);
    for (unsigned page = 0; page < PAGES; page++)
        save(page);
    stop = 1;
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    CHECK(write(end[1], "e", 1) == 1);
    pthread_join(handles, NULL);
    for (size_t i = 0; i < PAGES * PAGE; i++)
        CHECK(saved[i] == 1, "byte %zu of the snapshot is %d", i, saved[i]);
    close(fd);
}

static int is_protected(int pagemap, unsigned page)
{
    uint64_t word;
    off_t at = (off_t)((uintptr_t)memory / PAGE + page) * 8;
    CHECK(pread(pagemap, &word, 8, at) == 8);
    return word >> 57 & 1;
}

static void asynchronous(void)
{
    int pagemap = open("/proc/self/pagemap", O_RDONLY);
    CHECK(pagemap >= 0);
    fd = uffd_open(FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED, O_NONBLOCK);
    uffd_watch(fd, memory, PAGES, UFFDIO_REGISTER_MODE_WP);
    CHECK(uffd_protect(fd, memory, PAGES * PAGE, UFFDIO_WRITEPROTECT_MODE_WP) == 0);
    for (unsigned page = 0; page < PAGES; page += 5)
        memory[page * PAGE + 7] = 77;
    for (unsigned page = 0; page < PAGES; page++)
        CHECK(is_protected(pagemap, page) == (page % 5 != 0), "page %u", page);
    close(fd);
    for (unsigned page = 0; page < PAGES; page++)
        CHECK(!is_protected(pagemap, page), "page %u", page);
    close(pagemap);
}

int main(void)
{
    memory = map_pages(PAGES);
    saved = map_pages(PAGES);
    memset(memory, 1, PAGES * PAGE);
    synchronous();
    asynchronous();
    printf("%d pages were saved as they were\n", PAGES);
    return 0;
}
