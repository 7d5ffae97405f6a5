/* A snapshot of memory while others write to it. By write protection that a handler ends after it has saved the page: each page is saved
 * once, and as it was when the snapshot began. By protection that writes end themselves, of which PAGEMAP_SCAN tells: a page that was
 * written is told by one look, and the copy is what the memory is when the writers stop. */
#include "pagescan.h"
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

/* What a writer makes of a page: its first word is odd while the page is written, and says what all others are when it is not. */
static void write_page(unsigned page, uint64_t value)
{
    volatile uint64_t *words = (volatile uint64_t *)(memory + page * PAGE);
    words[0] = 2 * value + 1;
    for (unsigned i = 1; i < PAGE / 8; i++)
        words[i] = value;
    words[0] = 2 * value;
}

static void *counting_writer(void *which)
{
    unsigned n = (unsigned)(uintptr_t)which;
    for (uint64_t round = 1; !stop; round++)
        write_page((unsigned)(round * 7 + n) % (PAGES / WRITERS) * WRITERS + n, round);
    return NULL;
}

/* Tells the pages that were written since they were last told, with `seen[page]` for each; protects them if that is said. */
static unsigned look(int pagemap, uint64_t flags, unsigned char *seen)
{
    struct scan_region regions[PAGES];
    struct scan_arg arg = {.size = sizeof arg, .flags = flags | SCAN_CHECK_WPASYNC, .start = (uintptr_t)memory,
                           .end = (uintptr_t)memory + PAGES * PAGE, .mask = IS_WRITTEN, .returned = IS_WRITTEN,
                           .vec = (uintptr_t)regions, .vec_len = PAGES};
    int got = ioctl(pagemap, IOC_SCAN, &arg);
    CHECK(got >= 0);
    memset(seen, 0, PAGES);
    unsigned pages = 0;
    uint64_t last = arg.start;
    for (int i = 0; i < got; i++) {
        CHECK(regions[i].start >= last && regions[i].end > regions[i].start && regions[i].end <= arg.end, "told twice");
        CHECK(regions[i].categories == IS_WRITTEN);
        for (last = regions[i].start; last < regions[i].end; last += PAGE, pages++)
            seen[(last - arg.start) / PAGE] = 1;
    }
    return pages;
}

/* A page that nobody has written since it was protected is whole in the copy, unless its writer stood still in the middle of it. Then
 * it is told again when the writer goes on. */
static void check_whole(const unsigned char *written_since)
{
    for (unsigned page = 0; page < PAGES; page++) {
        const uint64_t *words = (const uint64_t *)(saved + page * PAGE);
        if (written_since[page] || words[0] & 1)
            continue;
        for (unsigned i = 1; i < PAGE / 8; i++)
            CHECK(words[i] == words[0] / 2, "page %u is torn at %u", page, i);
    }
}

static void asynchronous(void)
{
    static unsigned char told[PAGES], since[PAGES];
    int pagemap = open("/proc/self/pagemap", O_RDONLY);
    CHECK(pagemap >= 0);
    fd = uffd_open(FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED, O_NONBLOCK);
    memset(memory, 0, PAGES * PAGE);
    memset(saved, 255, PAGES * PAGE);
    uffd_watch(fd, memory, PAGES, UFFDIO_REGISTER_MODE_WP);
    /* What stood still: each page is told once, and one that was written once more. */
    CHECK(look(pagemap, SCAN_WP, told) == PAGES);
    CHECK(look(pagemap, SCAN_WP, told) == 0);
    for (unsigned page = 0; page < PAGES; page += 5)
        write_page(page, 7);
    CHECK(look(pagemap, SCAN_WP, told) == (PAGES + 4) / 5);
    for (unsigned page = 0; page < PAGES; page++)
        CHECK(told[page] == (page % 5 == 0), "page %u", page);
    for (unsigned page = 0; page < PAGES; page++)
        memcpy(saved + page * PAGE, memory + page * PAGE, PAGE);
    stop = 0;
    pthread_t writers[WRITERS];
    for (uintptr_t i = 0; i < WRITERS; i++)
        CHECK(pthread_create(&writers[i], NULL, counting_writer, (void *)i) == 0);
    for (unsigned round = 0; round < 200; round++) {
        look(pagemap, SCAN_WP, told);
        for (unsigned page = 0; page < PAGES; page++)
            if (told[page])
                memcpy(saved + page * PAGE, memory + page * PAGE, PAGE);
        look(pagemap, 0, since);
        check_whole(since);
    }
    stop = 1;
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    look(pagemap, SCAN_WP, told);
    for (unsigned page = 0; page < PAGES; page++)
        if (told[page])
            memcpy(saved + page * PAGE, memory + page * PAGE, PAGE);
    for (unsigned page = 0; page < PAGES; page++)
        CHECK(memcmp(saved + page * PAGE, memory + page * PAGE, PAGE) == 0, "page %u was missed", page);
    CHECK(look(pagemap, 0, since) == 0);
    close(fd);
    close(pagemap);
}

int main(int argc, char **argv)
{
    pid_t ballast = press(argc, argv);
    memory = map_pages(PAGES);
    saved = map_pages(PAGES);
    memset(memory, 1, PAGES * PAGE);
    synchronous();
    asynchronous();
    printf("%d pages were saved as they were\n", PAGES);
    press_no_more(ballast);
    return 0;
}
