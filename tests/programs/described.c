/* What /proc says of mappings: the attributes of each in smaps, sums in statm, status and smaps_rollup, auxv, and a rewound maps. */
#include "common.h"
#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>

#define AT 0x100000000000UL

/* A line of the entry that holds the address. */
static const char *field(const char *file, const void *address, const char *name)
{
    static char line[1024];
    FILE *smaps = fopen(file, "r");
    int inside = address == NULL;
    CHECK(smaps != NULL);
    while (fgets(line, sizeof line, smaps)) {
        unsigned long start, end;
        if (address != NULL && sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = (uintptr_t)address >= start && (uintptr_t)address < end;
        else if (inside && strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':') {
            fclose(smaps);
            return line + strlen(name) + 1;
        }
    }
    CHECK(0, "no %s", name);
    return NULL;
}

/* The attributes, without that of pages being tracked (soft-dirty), which depends on the host's configuration. */
static void attributes(const char *what, const void *at)
{
    char flags[512];
    snprintf(flags, sizeof flags, "%s", field("/proc/self/smaps", at, "VmFlags"));
    printf("%s:", what);
    for (char *word = strtok(flags, " \n"); word != NULL; word = strtok(NULL, " \n"))
        if (strcmp(word, "sd") != 0)
            printf(" %s", word);
    printf("\n");
}

static unsigned char *map(unsigned long slot, int prot, int flags, int fd)
{
    void *at = (void *)(AT + slot * 16 * PAGE);
    CHECK(mmap(at, 4 * PAGE, prot, flags | MAP_FIXED, fd, 0) == at, "slot %lu", slot);
    return at;
}

static void advised(unsigned long slot, const char *what, int advice)
{
    unsigned char *at = map(slot, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    CHECK(madvise(at, 4 * PAGE, advice) == 0, "%s", what);
    attributes(what, at);
}

static void sums(void)
{
    unsigned char *at = map_pages(64);
    memset(at, 1, 64 * PAGE);
    long size, resident, shared, text, lib, data, dt, kib;
    FILE *statm = fopen("/proc/self/statm", "r");
    CHECK(statm != NULL);
    CHECK(fscanf(statm, "%ld %ld %ld %ld %ld %ld %ld", &size, &resident, &shared, &text, &lib, &data, &dt) == 7);
    fclose(statm);
    kib = atol(field("/proc/self/status", NULL, "VmSize"));
    CHECK(labs(kib - 4 * size) < 64, "VmSize %ld, statm %ld", kib, size);
    CHECK(lib == 0 && dt == 0 && resident >= 64 && shared <= resident && data <= size);
    kib = atol(field("/proc/self/status", NULL, "VmData")) + atol(field("/proc/self/status", NULL, "VmStk"));
    CHECK(labs(kib - 4 * data) < 64, "data and stack %ld, statm %ld", kib, data);
    FILE *smaps = fopen("/proc/self/smaps", "r");
    char line[1024];
    long total = 0, one;
    while (fgets(line, sizeof line, smaps))
        total += sscanf(line, "Private_Dirty: %ld", &one) == 1 ? one : 0;
    fclose(smaps);
    one = atol(field("/proc/self/smaps_rollup", NULL, "Private_Dirty"));
    CHECK(labs(one - total) < 128, "sum %ld, rollup %ld", total, one);
    printf("sums agree\n");
}

static void vector(void)
{
    Elf64_auxv_t entry;
    int fd = open("/proc/self/auxv", O_RDONLY);
    CHECK(fd >= 0);
    int pairs = 0, right = 1;
    while (read(fd, &entry, sizeof entry) == (ssize_t)sizeof entry && entry.a_type != AT_NULL) {
        pairs++;
        right &= getauxval(entry.a_type) == entry.a_un.a_val;
    }
    close(fd);
    printf("auxv: %s, as the program has it: %s\n", pairs >= 10 ? "there" : "short", right ? "yes" : "no");
}

static void rewound(void)
{
    char text[1 << 16];
    int fd = open("/proc/self/maps", O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    unsigned char *at = map(40, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    ssize_t n, got = 0;
    while ((n = read(fd, text + got, sizeof text - 1 - (size_t)got)) > 0)
        got += n;
    text[got] = 0;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "%lx-", (unsigned long)at);
    printf("rewound: %s\n", strstr(text, wanted) ? "new" : "old");
    close(fd);
}

static int refs(const char *what)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY);
    CHECK(fd >= 0);
    ssize_t n = write(fd, what, strlen(what));
    int error = n < 0 ? errno : 0;
    close(fd);
    return error;
}

static long kib_of(const char *name)
{
    return atol(field("/proc/self/status", NULL, name));
}

static void cleared(void)
{
    unsigned char *at = map_pages(64);
    memset(at, 1, 64 * PAGE);
    long before = atol(field("/proc/self/smaps", at, "Referenced"));
    printf("clear_refs: %d\n", refs("1"));
    long after = atol(field("/proc/self/smaps", at, "Referenced"));
    printf("referenced before: %s, after: %s\n", before >= 256 ? "all" : "some", after == 0 ? "none" : "some");
    printf("clear_refs of 2, 3, 0, 6, words: %d %d %d %d %d\n", refs("2\n"), refs("3"), refs("0"), refs("6"), refs("all"));
    unsigned char *much = map_pages(4096);
    memset(much, 1, 4096 * PAGE);
    CHECK(munmap(much, 4096 * PAGE) == 0);
    long peak = kib_of("VmHWM") - kib_of("VmRSS");
    printf("clear_refs of the peak: %d\n", refs("5"));
    long now = kib_of("VmHWM") - kib_of("VmRSS");
    printf("peak before: %s, after: %s\n", peak > 15 << 10 ? "high" : "low", now < 1 << 10 ? "low" : "high");
}

static void files(void)
{
    char line[1024], path[128], target[512];
    int listed = 0, mapped = 0, agree = 1;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end, inode;
        int name = 0;
        CHECK(sscanf(line, "%lx-%lx %*s %*s %*s %lu %n", &start, &end, &inode, &name) >= 3);
        snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", start, end);
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (inode == 0) {
            agree &= n < 0 && errno == ENOENT;
            continue;
        }
        mapped++;
        line[strcspn(line, "\n")] = 0;
        target[n < 0 ? 0 : n] = 0;
        if (n < 0 || strcmp(target, line + name) != 0) {
            printf("%s is %s, not %s\n", path, target, line + name);
            agree = 0;
        }
    }
    fclose(maps);
    DIR *dir = opendir("/proc/self/map_files");
    CHECK(dir != NULL);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        listed += entry->d_name[0] != '.';
    closedir(dir);
    printf("map_files: %s, links as maps: %s\n", listed == mapped && mapped > 4 ? "one each" : "others", agree ? "yes" : "no");
}

int main(void)
{
    const int rw = PROT_READ | PROT_WRITE, anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    int fd = memfd_create("described", 0);
    char path[64];
    CHECK(fd >= 0 && ftruncate(fd, 4 * (long)PAGE) == 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    attributes("private", map(0, rw, anonymous, -1));
    attributes("read-only", map(1, PROT_READ, anonymous, -1));
    attributes("nothing", map(2, PROT_NONE, anonymous, -1));
    attributes("program", map(3, PROT_READ | PROT_EXEC, anonymous, -1));
    attributes("no reserve", map(4, rw, anonymous | MAP_NORESERVE, -1));
    attributes("stack", map(6, rw, anonymous | MAP_GROWSDOWN, -1));
    attributes("thread's stack", map(8, rw, anonymous | MAP_STACK, -1));
    attributes("shared", map(9, rw, MAP_SHARED, fd));
    attributes("shared for reading", map(10, PROT_READ, MAP_SHARED, fd));
    attributes("opened for reading", map(11, PROT_READ, MAP_SHARED, open(path, O_RDONLY)));
    attributes("private file", map(12, rw, MAP_PRIVATE, fd));
    advised(13, "random", MADV_RANDOM);
    advised(14, "sequential", MADV_SEQUENTIAL);
    advised(15, "not for children", MADV_DONTFORK);
    advised(16, "wiped in children", MADV_WIPEONFORK);
    advised(17, "not dumped", MADV_DONTDUMP);
    unsigned char *locked = map(20, rw, anonymous, -1);
    CHECK(mlock(locked, PAGE) == 0);
    attributes("locked", locked);
    attributes("not locked", locked + PAGE);
    CHECK(syscall(SYS_mlock2, locked + 2 * PAGE, PAGE, 1) == 0);
    attributes("locked on fault", locked + 2 * PAGE);
    unsigned char *once = map(22, rw, anonymous, -1);
    once[0] = 1;
    CHECK(mprotect(once, 4 * PAGE, PROT_READ) == 0);
    attributes("once written", once);
    sums();
    vector();
    rewound();
    cleared();
    files();
    return 0;
}
