/* What mmap refuses of files in memory, and with which error of several that would do; and what a mapping may become later. */
#include "common.h"
#include <fcntl.h>
#include <sys/resource.h>

#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 3
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define MAP_HUGE_2MB (21 << 26)
#define MAP_HUGE_ODD (22 << 26)

static const struct {
    const char *name;
    int flags;
} kinds[] = {
    {"private", MAP_PRIVATE},
    {"shared", MAP_SHARED},
    {"validate", MAP_SHARED_VALIDATE},
    {"no type", 0},
    {"type 4", 4},
    {"private fixed", MAP_PRIVATE | MAP_FIXED},
    {"private noreplace", MAP_PRIVATE | MAP_FIXED_NOREPLACE},
    {"shared noreplace", MAP_SHARED | MAP_FIXED_NOREPLACE},
    {"validate noreplace", MAP_SHARED_VALIDATE | MAP_FIXED_NOREPLACE},
    {"validate sync", MAP_SHARED_VALIDATE | 0x80000},
    {"shared sync", MAP_SHARED | 0x80000},
    {"validate unknown", MAP_SHARED_VALIDATE | 0x200000},
    {"shared unknown", MAP_SHARED | 0x200000},
    {"private unknown", MAP_PRIVATE | 0x200000},
    {"validate locked", MAP_SHARED_VALIDATE | MAP_LOCKED},
    {"private locked", MAP_PRIVATE | MAP_LOCKED},
    {"private grows", MAP_PRIVATE | MAP_GROWSDOWN},
    {"shared grows", MAP_SHARED | MAP_GROWSDOWN},
    {"private huge", MAP_PRIVATE | MAP_HUGETLB},
    {"private huge 2M", MAP_PRIVATE | MAP_HUGETLB | MAP_HUGE_2MB},
    {"private huge odd", MAP_PRIVATE | MAP_HUGETLB | MAP_HUGE_ODD},
    {"shared huge", MAP_SHARED | MAP_HUGETLB},
    {"no type huge", MAP_HUGETLB},
};

static const struct {
    const char *name;
    int protection;
    unsigned long address, length, offset;
} places[] = {
    {"read", PROT_READ, 0, PAGE, 0},
    {"write", PROT_READ | PROT_WRITE, 0, PAGE, 0},
    {"exec", PROT_EXEC, 0, PAGE, 0},
    {"nothing", PROT_READ, 0, 0, 0},
    {"odd offset", PROT_READ, 0, PAGE, 1},
    {"odd offset of nothing", PROT_READ, 0, 0, 100},
    {"far offset", PROT_READ, 0, PAGE, 0x7ffffffffffff000},
    {"farther offset", PROT_READ, 0, PAGE, 0x8000000000000000},
    {"last offset", PROT_READ, 0, PAGE, -PAGE},
    {"odd address", PROT_READ, 0x100000000001, PAGE, 0},
    {"occupied", PROT_READ, 0x110000000000, PAGE, 0},
    {"above", PROT_READ | PROT_WRITE, 1UL << 60, PAGE, 0},
    {"too long", PROT_READ, 0, 1UL << 48, 0},
    {"too long by far", PROT_READ, 0, -1UL, 0},
};

static int descriptors[16];
static const char *names[16];
static int count;

static void descriptor(const char *name, int fd)
{
    CHECK(fd >= -1, "%s", name);
    names[count] = name;
    descriptors[count++] = fd;
}

static void table(const char *when)
{
    for (int d = 0; d <= count; d++)
        for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            printf("%s, %s, %s:", when, d < count ? names[d] : "anonymous", kinds[k].name);
            for (unsigned p = 0; p < sizeof places / sizeof *places; p++) {
                int flags = kinds[k].flags | (d < count ? 0 : MAP_ANONYMOUS);
                /* A fixed mapping wants an address, and not that of something in use. */
                if ((flags & MAP_FIXED) && places[p].address == 0)
                    flags &= ~MAP_FIXED;
                long at = syscall(SYS_mmap, places[p].address, places[p].length, places[p].protection, flags,
                                  d < count ? descriptors[d] : -1, places[p].offset);
                printf(" %d", at == -1 ? errno : 0);
                if (at != -1 && at != 0x110000000000)
                    CHECK(munmap((void *)at, PAGE) == 0);
                if (at == 0x110000000000)
                    CHECK(mmap((void *)at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
            }
            printf("\n");
        }
}

/* mprotect of a mapping to every protection, one after the other. */
static void later(const char *name, int protection, int flags, int fd)
{
    void *at = mmap(NULL, 2 * PAGE, protection, flags, fd, 0);
    printf("later, %s:", name);
    CHECK(at != MAP_FAILED);
    for (int prot = 0; prot < 8; prot++)
        printf(" %d", mprotect(at, PAGE, prot) == 0 ? 0 : errno);
    printf(" msync %d", msync(at, 2 * PAGE, MS_SYNC | MS_INVALIDATE) == 0 ? 0 : errno);
    CHECK(mlock(at, 1) == 0);
    printf(" locked %d\n", msync(at, 2 * PAGE, MS_SYNC | MS_INVALIDATE) == 0 ? 0 : errno);
    CHECK(munmap(at, 2 * PAGE) == 0);
}

static void low(void)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT;
    for (int i = 0; i < 3; i++) {
        unsigned long at = (unsigned long)mmap(NULL, 16 * PAGE, PROT_READ, flags, -1, 0);
        printf("low: %s\n", at >= 1UL << 30 && at + 16 * PAGE <= 1UL << 31 ? "between 1 and 2 GiB" : "elsewhere");
    }
    unsigned long hint = (unsigned long)mmap((void *)0x120000000000, PAGE, PROT_READ, flags, -1, 0);
    printf("low, a high hint: %s\n", hint < 1UL << 31 ? "below 2 GiB" : "elsewhere");
    unsigned long near = (unsigned long)mmap((void *)0x30000000, PAGE, PROT_READ, flags, -1, 0);
    printf("low, a low hint: %s\n", near == 0x30000000 ? "taken" : "not taken");
    printf("low, too long: %d\n", mmap(NULL, 1UL << 31, PROT_NONE, flags, -1, 0) == MAP_FAILED ? errno : 0);
}

int main(void)
{
    char path[64];
    int file = memfd_create("refusals", 0), pipes[2];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    CHECK(file >= 0 && ftruncate(file, 4 * PAGE) == 0 && write(file, "x", 1) == 1 && pipe(pipes) == 0);
    descriptor("no descriptor", -1);
    descriptor("closed descriptor", 99);
    descriptor("read-write file", file);
    descriptor("read-only file", open(path, O_RDONLY));
    descriptor("write-only file", open(path, O_WRONLY));
    descriptor("path", open(path, O_PATH));
    descriptor("directory", open("/", O_RDONLY));
    descriptor("pipe", pipes[0]);
    descriptor("pipe's end", pipes[1]);
    descriptor("null", open("/dev/null", O_RDWR));
    descriptor("zero", open("/dev/zero", O_RDWR));
    descriptor("read-only zero", open("/dev/zero", O_RDONLY));
    CHECK(mmap((void *)0x110000000000, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);

    struct rlimit locked = {16 * PAGE, 16 * PAGE}, none = {0, 0};
    CHECK(setrlimit(RLIMIT_MEMLOCK, &locked) == 0);
    drop_capabilities();
    table("allowed");
    later("private", PROT_READ, MAP_PRIVATE, descriptors[3]);
    later("shared", PROT_READ, MAP_SHARED, descriptors[3]);
    later("shared and written", PROT_READ, MAP_SHARED, file);
    later("program", PROT_READ, MAP_SHARED, open("/proc/self/exe", O_RDONLY));
    later("anonymous", PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    low();
    CHECK(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
    table("nothing may be locked");
    return 0;
}
