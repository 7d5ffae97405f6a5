/* What every memory system call says to odd addresses and lengths: zero, one, huge, misaligned, wrapping.
 *
 * Prints a line for each call and address with an error number for each length; the numbers are the test. Every call finds
 * the same mappings, made anew: what a call changes cannot be seen by the next one. */
#include "common.h"
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define TOP 0x7ffffffff000UL
#define AT 0x100000000000UL

/* Pages of the window: 0-3 private, 4 a hole, 5-6 read-only, 7 without access, 8-9 shared, 10 locked, 11 private without
 * swap reserved; holes around it. */
enum { PAGES = 12 };

static const struct {
    const char *name;
    unsigned long value;
} addresses[] = {
    {"private", AT},
    {"private+1", AT + 1},
    {"private+4095", AT + PAGE - 1},
    {"second", AT + PAGE},
    {"hole", AT + 4 * PAGE},
    {"read-only", AT + 5 * PAGE},
    {"no-access", AT + 7 * PAGE},
    {"shared", AT + 8 * PAGE},
    {"locked", AT + 10 * PAGE},
    {"last", AT + 11 * PAGE},
    {"below", AT - PAGE},
    {"0", 0},
    {"1", 1},
    {"page", PAGE},
    {"top-page", TOP - PAGE},
    {"top", TOP},
    {"top+1", TOP + 1},
    {"2^47", 1UL << 47},
    {"2^63", 1UL << 63},
    {"-2page", -2 * PAGE},
    {"-page", -PAGE},
    {"-page+1", -PAGE + 1},
    {"-1", -1UL},
};

static const unsigned long lengths[] = {
    0, 1, PAGE - 1, PAGE, PAGE + 1, 4 * PAGE, 5 * PAGE, PAGES * PAGE, 1UL << 46, (1UL << 47) - 2 * PAGE, TOP - AT, TOP,
    1UL << 47, (1UL << 47) + 1, 1UL << 62, 1UL << 63, (1UL << 63) + PAGE, -AT, -AT - PAGE, -2 * PAGE, -PAGE - 1,
    -PAGE, -PAGE + 1, -1UL,
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void map_at(unsigned page, unsigned pages, int prot, int flags)
{
    void *at = (void *)(AT + page * PAGE);
    flags |= MAP_ANONYMOUS | MAP_FIXED | (flags & MAP_SHARED ? 0 : MAP_PRIVATE);
    CHECK(mmap(at, pages * PAGE, prot, flags, -1, 0) == at);
}

static void window(void)
{
    const int rw = PROT_READ | PROT_WRITE;
    CHECK(munmap((void *)(AT - 64 * PAGE), (64 + PAGES + 64) * PAGE) == 0);
    map_at(0, 4, rw, 0);
    map_at(5, 2, PROT_READ, 0);
    map_at(7, 1, PROT_NONE, 0);
    map_at(8, 2, rw, MAP_SHARED);
    map_at(10, 1, rw, 0);
    map_at(11, 1, rw, MAP_NORESERVE);
    CHECK(mlock((void *)(AT + 10 * PAGE), PAGE) == 0);
    memset((void *)AT, 7, PAGE);
}

/* Whether a range leaves the window for addresses that this program itself lives at. */
static int is_dangerous(unsigned long start, unsigned long len)
{
    unsigned long end = start + len;
    return end > start && end > AT + (PAGES + 1) * PAGE && start < TOP;
}

static long do_mmap(unsigned long start, unsigned long len, int flags);

static unsigned long calls, refused;

static void say(long result, unsigned long expected)
{
    calls++;
    refused += result == -1;
    if (result == -1)
        printf(" %d", errno);
    else
        printf(" %s", (unsigned long)result == expected ? "0" : "moved");
}

static void sweep(const char *name, int extra, int destroys, long (*call)(unsigned long, unsigned long, int))
{
    for (unsigned a = 0; a < COUNT(addresses); a++) {
        printf("%s %x %s:", name, (unsigned)extra, addresses[a].name);
        for (unsigned l = 0; l < COUNT(lengths); l++) {
            unsigned long start = addresses[a].value, len = lengths[l];
            if ((destroys && is_dangerous(start, len)) || (call == do_mmap && (start < AT - PAGE || start + PAGE < PAGE))) {
                printf(" -");
                continue;
            }
            window();
            say(call(start, len, extra), 0);
        }
        printf("\n");
    }
}

static long do_mprotect(unsigned long start, unsigned long len, int prot)
{
    return syscall(SYS_mprotect, start, len, prot);
}

static long do_mlock(unsigned long start, unsigned long len, int flags)
{
    return flags == 0 ? syscall(SYS_mlock, start, len) : syscall(SYS_mlock2, start, len, flags);
}

static long do_munlock(unsigned long start, unsigned long len, int unused)
{
    (void)unused;
    return syscall(SYS_munlock, start, len);
}

static long do_msync(unsigned long start, unsigned long len, int flags)
{
    return syscall(SYS_msync, start, len, flags);
}

static unsigned char *present;

/* The vector has room for what is mapped, and says what was written of it. */
static long do_mincore(unsigned long start, unsigned long len, int writable)
{
    memset(present, 9, 2 * PAGE);
    long result = syscall(SYS_mincore, start, len, writable ? present : present + 2 * PAGE);
    int saved = errno, written = 0;
    for (unsigned i = 0; i < 2 * PAGE; i++)
        written += present[i] != 9;
    printf(" %d/", written);
    errno = saved;
    return result;
}

static long do_madvise(unsigned long start, unsigned long len, int advice)
{
    return syscall(SYS_madvise, start, len, advice);
}

static long do_munmap(unsigned long start, unsigned long len, int unused)
{
    (void)unused;
    return syscall(SYS_munmap, start, len);
}

static long do_mmap(unsigned long start, unsigned long len, int flags)
{
    long at = syscall(SYS_mmap, start, len, PROT_READ | PROT_WRITE, flags, -1, 0);
    return at == -1 ? -1 : 0;
}

static void protections(void)
{
    static const int prots[] = {
        0, 1, 2, 3, 7, 8, 16, 0x1000000, 0x1000003, 0x2000000, 0x2000003, 0x3000003, 0x40000000,
    };
    for (unsigned i = 0; i < COUNT(prots); i++)
        sweep("mprotect", prots[i], 0, do_mprotect);
}

static void locks(void)
{
    for (int flags = 0; flags <= 2; flags++)
        sweep("mlock", flags, 0, do_mlock);
    sweep("munlock", 0, 0, do_munlock);
}

static void syncs(void)
{
    for (int flags = 0; flags <= 9; flags++)
        sweep("msync", flags, 0, do_msync);
}

static void presences(void)
{
    present = mmap((void *)(AT << 1), 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(present == (unsigned char *)(AT << 1));
    sweep("mincore", 1, 0, do_mincore);
    sweep("mincore", 0, 0, do_mincore);
}

static void advices(void)
{
    static const int harmless[] = {0, 1, 2, 3, 5, 6, 7, 14, 15, 16, 19, -1, 26, 99, 104};
    static const int others[] = {4, 8, 9, 10, 11, 17, 18, 20, 21, 22, 23, 24, 102, 103};
    for (unsigned i = 0; i < COUNT(harmless); i++)
        sweep("madvise", harmless[i], 0, do_madvise);
    for (unsigned i = 0; i < COUNT(others); i++)
        sweep("madvise", others[i], 1, do_madvise);
}

/* Not below the window, where a system's lowest address decides, and not where Linux takes a fixed address for an error. */
static void maps(void)
{
    sweep("munmap", 0, 1, do_munmap);
    static const int flags[] = {
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
        MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
    };
    for (unsigned i = 0; i < COUNT(flags); i++)
        sweep("mmap", flags[i], 1, do_mmap);
}

static void remaps(void)
{
    static const unsigned long olds[] = {0, 1, PAGE, 4 * PAGE, 5 * PAGE, 1UL << 47, 1UL << 63, -PAGE, -1UL};
    static const unsigned long news[] = {0, 1, PAGE, 2 * PAGE, 8 * PAGE, 1UL << 46, TOP, 1UL << 47, 1UL << 63, -1UL};
    static const unsigned long targets[] = {AT + 32 * PAGE, AT + 32 * PAGE + 1, AT + PAGE, TOP - PAGE, TOP, 0, -PAGE};
    for (int flags = 0; flags <= 8; flags++)
        for (unsigned a = 0; a < COUNT(addresses); a++)
            for (unsigned o = 0; o < COUNT(olds); o++) {
                unsigned long start = addresses[a].value;
                if (is_dangerous(start, olds[o]))
                    continue;
                printf("mremap %d %s %lx:", flags, addresses[a].name, olds[o]);
                for (unsigned n = 0; n < COUNT(news); n++)
                    for (unsigned t = 0; t < (flags & 6 ? COUNT(targets) : 1); t++) {
                        /* Linux clears the target before it finds that an old range that wraps has no mapping any more. */
                        if (start + olds[o] < start && targets[t] == start)
                            continue;
                        window();
                        long to = syscall(SYS_mremap, start, olds[o], news[n], flags, targets[t]);
                        int saved = errno;
                        if (to != -1 && (unsigned long)to - AT > 64 * PAGE)
                            CHECK(munmap((void *)to, (news[n] + PAGE - 1) & -PAGE) == 0);
                        errno = saved;
                        say(to, start);
                    }
                printf("\n");
            }
}

static void heaps(void)
{
    static const unsigned long steps[] = {0, 1, PAGE, 16 * PAGE, 1UL << 46, 1UL << 47, 1UL << 63, -PAGE, -1UL};
    unsigned long start = (unsigned long)syscall(SYS_brk, 0);
    for (unsigned i = 0; i < COUNT(steps); i++) {
        unsigned long end = (unsigned long)syscall(SYS_brk, start + steps[i]);
        printf("brk +%lx: +%lx\n", steps[i], end - start);
        CHECK((unsigned long)syscall(SYS_brk, start) == start);
    }
}

int main(void)
{
    struct rlimit locked = {64 * PAGE, 64 * PAGE};
    CHECK(setrlimit(RLIMIT_MEMLOCK, &locked) == 0);
    drop_capabilities();
    /* The output has its own memory before anything is measured. */
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    protections();
    locks();
    syncs();
    presences();
    advices();
    maps();
    remaps();
    heaps();
    printf("arguments: %lu calls, %lu refused\n", calls, refused);
    return 0;
}
