/* What PAGEMAP_SCAN says of pages in every state, what it write-protects, where it stops, and what it refuses: a table, a line for each
 * call. Whether pages are soft-dirty, large or in swap is asked for nowhere: that is the machine's matter. */
#include "pagescan.h"
#include "uffd.h"

enum { PAGES = 12, ROOM = 16, SHOWN = IS_WPALLOWED | IS_WRITTEN | IS_FILE | IS_PRESENT | IS_SWAPPED | IS_PFNZERO | IS_GUARD };

static int pagemap;
static unsigned char *at;

/* Each part has a table of its own, of which nothing is there before, nor comes unasked in a large folio. */
static unsigned char *fresh(void)
{
    static uintptr_t next = 0x300000000000;
    void *wanted = (void *)next;
    next += 1UL << 30;
    CHECK(mmap(wanted, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == wanted);
    CHECK(madvise(wanted, PAGES * PAGE, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
    return wanted;
}

static struct scan_arg all(uint64_t flags)
{
    return (struct scan_arg){.size = sizeof(struct scan_arg), .flags = flags, .start = (uintptr_t)at,
                             .end = (uintptr_t)at + PAGES * PAGE, .returned = SHOWN};
}

static long page_of(uint64_t address)
{
    return ((long)address - (long)(uintptr_t)at) / (long)PAGE;
}

static void scan_of(const char *what, int fd, struct scan_arg arg, uint64_t room)
{
    struct scan_region regions[ROOM] = {{0}};
    if (room) {
        arg.vec = (uintptr_t)regions;
        arg.vec_len = room;
    }
    int got = ioctl(fd, IOC_SCAN, &arg);
    printf("%-32s %3d", what, got < 0 ? -errno : got);
    if (arg.walk_end)
        printf(" to %ld", page_of(arg.walk_end));
    for (int i = 0; i < got; i++)
        printf(" %ld-%ld:%#lx", page_of(regions[i].start), page_of(regions[i].end), (unsigned long)regions[i].categories);
    puts("");
}

static void scan(const char *what, struct scan_arg arg, uint64_t room)
{
    scan_of(what, pagemap, arg, room);
}

static void refusals(void)
{
    struct scan_arg arg = all(0);
    arg.size--;
    scan("another size", arg, ROOM);
    arg = all(4);
    scan("an unknown flag", arg, ROOM);
    arg = all(0);
    arg.mask = 1 << 9;
    scan("an unknown category", arg, ROOM);
    arg = all(0);
    arg.returned = 1UL << 63;
    scan("an unknown category to return", arg, ROOM);
    arg = all(0);
    arg.start++;
    scan("an odd start", arg, ROOM);
    arg = all(0);
    arg.end--;
    scan("an odd end", arg, ROOM);
    arg = all(0);
    arg.end = arg.start;
    scan("nothing", arg, ROOM);
    arg.end = arg.start - PAGE;
    scan("less than nothing", arg, ROOM);
    arg.end = UINT64_MAX;
    scan("beyond all memory", arg, ROOM);
    arg = all(0);
    arg.vec_len = 1;
    scan("room without a place", arg, 0);
    arg.vec = UINT64_MAX - 7;
    scan("a place beyond all memory", arg, 0);
    arg.vec = 8;
    scan("a place that is not there", arg, 0);
    arg.vec_len = 1UL << 61;
    scan("room for more than there is", arg, 0);
    printf("%-32s %3d\n", "no argument", ioctl(pagemap, IOC_SCAN, 8) < 0 ? errno : 0);
    printf("%-32s %3d\n", "an unknown request", ioctl(pagemap, 0x6611, &arg) < 0 ? errno : 0);
    arg = all(SCAN_CHECK_WPASYNC);
    scan("not registered", arg, ROOM);
    scan("protected, not registered", all(SCAN_WP), ROOM);
    scan("both", all(SCAN_WP | SCAN_CHECK_WPASYNC), ROOM);
}

/* 0 written, 1 read, 2 nothing, 3 written, 4 guarded, 5-7 of a file, 8 shared, 9 not mapped, 10 not accessible, 11 written. */
static void fill(void)
{
    at = fresh();
    at[0] = at[3 * PAGE] = at[11 * PAGE] = 1;
    CHECK(((volatile unsigned char *)at)[PAGE] == 0);
    CHECK(madvise(at + 4 * PAGE, PAGE, 102) == 0);
    int flags = MAP_ANONYMOUS | MAP_FIXED;
    CHECK(mmap(at + 8 * PAGE, PAGE, PROT_READ | PROT_WRITE, flags | MAP_SHARED, -1, 0) != MAP_FAILED);
    at[8 * PAGE] = 1;
    CHECK(munmap(at + 9 * PAGE, PAGE) == 0);
    CHECK(mprotect(at + 10 * PAGE, PAGE, PROT_NONE) == 0);
}

static void categories(void)
{
    scan("all of it", all(0), ROOM);
    scan("no room", all(0), 0);
    struct scan_arg arg = all(0);
    arg.mask = IS_PRESENT;
    scan("present", arg, ROOM);
    arg.inverted = IS_PFNZERO;
    arg.mask = IS_PRESENT | IS_PFNZERO;
    scan("present, and not the zero page", arg, ROOM);
    arg = all(0);
    arg.anyof = IS_PFNZERO | IS_FILE;
    scan("zero pages and files", arg, ROOM);
    arg.anyof = IS_GUARD;
    scan("guards", arg, ROOM);
    arg = all(0);
    arg.inverted = arg.mask = IS_PRESENT;
    arg.returned = IS_PRESENT;
    scan("not present", arg, ROOM);
    arg.returned = 0;
    scan("not present, and nothing returned", arg, ROOM);
    arg = all(0);
    arg.mask = IS_WRITTEN;
    scan("written", arg, ROOM);
    arg.returned = IS_WRITTEN;
    scan("written alone", arg, ROOM);
}

static void limits(void)
{
    struct scan_arg arg = all(0);
    arg.mask = IS_PRESENT;
    for (uint64_t most = 1; most < 6; most++) {
        arg.max_pages = most;
        scan("so many pages", arg, ROOM);
    }
    arg.max_pages = 0;
    for (uint64_t room = 1; room < 5; room++)
        scan("so much room", arg, room);
    arg = all(0);
    arg.max_pages = 5;
    scan("five pages of any kind", arg, ROOM);
}

static void protects(void)
{
    at = fresh();
    memset(at, 1, 4 * PAGE);
    int fd = uffd_open(FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED, O_NONBLOCK);
    uffd_watch(fd, at + 2 * PAGE, PAGES - 4, UFFDIO_REGISTER_MODE_WP);
    scan("registered in the middle", all(0), ROOM);
    scan("all must be registered", all(SCAN_CHECK_WPASYNC), ROOM);
    struct scan_arg arg = all(SCAN_CHECK_WPASYNC);
    arg.start += 2 * PAGE;
    arg.end -= 2 * PAGE;
    struct scan_arg part = arg;
    scan("all is", arg, ROOM);
    arg = all(0);
    arg.mask = IS_WPALLOWED;
    scan("where it is allowed", arg, ROOM);
    arg.inverted = IS_WPALLOWED;
    scan("where it is not", arg, ROOM);
    arg = part;
    arg.flags = SCAN_WP | SCAN_CHECK_WPASYNC;
    arg.mask = IS_WRITTEN;
    arg.max_pages = 1;
    scan("written, one page, protected", arg, ROOM);
    scan("after that", all(0), ROOM);
    arg.max_pages = 0;
    scan("written, protected", arg, ROOM);
    scan("again", arg, ROOM);
    scan("after that", all(0), ROOM);
    at[2 * PAGE] = at[4 * PAGE] = 2;
    CHECK(((volatile unsigned char *)at)[5 * PAGE] == 0);
    scan("written since, and read", arg, ROOM);
    CHECK(madvise(at + 3 * PAGE, PAGE, MADV_DONTNEED) == 0);
    scan("dropped", all(0), ROOM);
    arg.returned = IS_WRITTEN;
    scan("dropped, asked for alone", arg, ROOM);
    scan("after that", all(0), ROOM);
    arg.mask = 0;
    scan("protected, without room", arg, 0);
    scan("after that", all(0), ROOM);
    at[9 * PAGE] = at[7 * PAGE] = at[3 * PAGE] = 3;
    arg.max_pages = 1;
    arg.mask = IS_WRITTEN;
    arg.returned = SHOWN;
    scan("one of three", arg, ROOM);
    scan("one of two", arg, 1);
    scan("after that", all(0), ROOM);
    CHECK(madvise(at + 4 * PAGE, PAGE, 102) == 0);
    scan("guarded", all(0), ROOM);
    arg.max_pages = 0;
    scan("guarded, protected", arg, ROOM);
    CHECK(madvise(at + 4 * PAGE, PAGE, 103) == 0);
    close(fd);
    scan("after the end", all(0), ROOM);
}

static void holes(void)
{
    at = fresh();
    scan("no table", all(0), ROOM);
    struct scan_arg arg = all(0);
    arg.mask = IS_WRITTEN;
    scan("no table, written", arg, ROOM);
    int fd = uffd_open(FEATURE_WP_ASYNC, O_NONBLOCK);
    uffd_watch(fd, at, PAGES / 2, UFFDIO_REGISTER_MODE_WP);
    scan("half of it watched", all(0), ROOM);
    arg = all(SCAN_WP);
    arg.mask = IS_WRITTEN;
    scan("written, to be protected", arg, ROOM);
    scan("a table was made for that", all(0), ROOM);
    arg.mask = 0;
    arg.max_pages = 3;
    scan("three, to be protected", arg, ROOM);
    scan("after that", all(0), ROOM);
    at[PAGE] = 1;
    arg.max_pages = 0;
    arg.mask = IS_WRITTEN;
    scan("written, to be protected", arg, ROOM);
    scan("after that", all(0), ROOM);
    close(fd);
}

/* Without WP_ASYNC writes do not end protection by themselves: it is not for PAGEMAP_SCAN to begin it. */
static void synchronous(void)
{
    at = fresh();
    memset(at, 1, PAGES * PAGE);
    int fd = uffd_open(FEATURE_WP_UNPOPULATED, O_NONBLOCK);
    uffd_watch(fd, at, PAGES, UFFDIO_REGISTER_MODE_WP);
    CHECK(uffd_protect(fd, at + PAGE, 2 * PAGE, UFFDIO_WRITEPROTECT_MODE_WP) == 0);
    scan("synchronous", all(0), ROOM);
    scan("synchronous, to be protected", all(SCAN_WP), ROOM);
    scan("synchronous, and asked whether", all(SCAN_CHECK_WPASYNC), ROOM);
    close(fd);
}

/* More regions than the kernel keeps at a time, and holes as large as tables. */
static void many(void)
{
    enum { BIG = 3 * 512 };
    static struct scan_region regions[BIG];
    unsigned char *big = map_pages(BIG);
    CHECK(madvise(big, BIG * PAGE, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
    for (unsigned page = 0; page < BIG; page += 2)
        big[page * PAGE] = 1;
    struct scan_arg arg = {.size = sizeof arg, .start = (uintptr_t)big, .end = (uintptr_t)big + BIG * PAGE, .mask = IS_PRESENT,
                           .returned = IS_PRESENT, .vec = (uintptr_t)regions, .vec_len = BIG};
    int got = ioctl(pagemap, IOC_SCAN, &arg);
    /* Where to go on is Linux's own matter when it kept fewer regions than there are. */
    printf("%-32s %3d\n", "every second page", got);
    for (int i = 0; i < got; i++)
        CHECK(regions[i].start == (uintptr_t)big + (unsigned)i * 2 * PAGE && regions[i].end == regions[i].start + PAGE);
    arg.vec_len = 700;
    got = ioctl(pagemap, IOC_SCAN, &arg);
    printf("%-32s %3d %ld\n", "room for fewer", got, (long)(arg.walk_end - (uintptr_t)big) / (long)PAGE);
    arg.vec_len = BIG;
    arg.max_pages = 600;
    got = ioctl(pagemap, IOC_SCAN, &arg);
    printf("%-32s %3d %ld\n", "fewer pages", got, (long)(arg.walk_end - (uintptr_t)big) / (long)PAGE);
    CHECK(munmap(big, BIG * PAGE) == 0);
}

static void of_others(void)
{
    int ends[2], go[2];
    CHECK(pipe(ends) == 0 && pipe(go) == 0);
    at = fresh();
    at[PAGE] = 1;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        at[2 * PAGE] = 1;
        CHECK(write(ends[1], "r", 1) == 1);
        char byte;
        CHECK(read(go[0], &byte, 1) == 1);
        _exit(0);
    }
    char byte, path[64];
    CHECK(read(ends[0], &byte, 1) == 1);
    snprintf(path, sizeof path, "/proc/%d/pagemap", (int)child);
    int theirs = open(path, O_RDONLY);
    CHECK(theirs >= 0);
    scan_of("of a child", theirs, all(0), ROOM);
    CHECK(write(go[1], "e", 1) == 1);
    wait_ok(child);
    close(theirs);
}

int main(void)
{
    pagemap = open("/proc/self/pagemap", O_RDONLY);
    CHECK(pagemap >= 0);
    fill();
    refusals();
    categories();
    limits();
    protects();
    holes();
    synchronous();
    many();
    of_others();
    return 0;
}
