/* mremap, madvise, mincore, and what /proc/self says of it: maps, smaps, pagemap. */
#include "common.h"
#include <fcntl.h>
#include <sys/prctl.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#define PM_EXCLUSIVE (1ULL << 56)
#define PM_SWAPPED (1ULL << 62)
#define PM_PRESENT (1ULL << 63)

static void fill(unsigned char *at, size_t pages, unsigned char tag)
{
    for (size_t page = 0; page < pages; page++)
        memset(at + page * PAGE, (int)(unsigned char)(tag + page), PAGE);
}

static void check_filled(unsigned char *at, size_t pages, unsigned char tag)
{
    for (size_t i = 0; i < pages * PAGE; i++)
        CHECK(at[i] == (unsigned char)(tag + i / PAGE), "byte %zu is %d", i, at[i]);
}

static size_t resident(unsigned char *at, size_t pages)
{
    unsigned char map[256];
    size_t count = 0;
    CHECK(pages <= sizeof map);
    CHECK(mincore(at, pages * PAGE, map) == 0);
    for (size_t page = 0; page < pages; page++)
        count += map[page] & 1;
    return count;
}

static int is_unmapped(unsigned char *at)
{
    unsigned char map[1];
    return mincore(at, PAGE, map) == -1 && errno == ENOMEM;
}

static uint64_t pagemap(const void *at)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    CHECK(fd >= 0);
    CHECK(pread(fd, &entry, 8, (off_t)((uintptr_t)at / PAGE * 8)) == 8);
    close(fd);
    return entry;
}

/* Finds a field of the smaps entry that holds the address, in KiB; -1 if there is no such mapping. */
static long smaps(const void *address, const char *field)
{
    FILE *file = fopen("/proc/self/smaps", "r");
    char line[512];
    int inside = 0;
    long value = -1;
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = (uintptr_t)address >= start && (uintptr_t)address < end;
        else if (inside && strncmp(line, field, strlen(field)) == 0 && line[strlen(field)] == ':')
            value = atol(line + strlen(field) + 1);
    }
    fclose(file);
    return value;
}

static void remap(void)
{
    unsigned char *at = map_pages(8);
    fill(at, 8, 10);
    unsigned char *grown = mremap(at, 8 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
    CHECK(grown != MAP_FAILED);
    check_filled(grown, 8, 10);
    for (size_t i = 8 * PAGE; i < 64 * PAGE; i++)
        CHECK(grown[i] == 0);
    CHECK(mremap(grown, 64 * PAGE, 4 * PAGE, 0) == grown);
    check_filled(grown, 4, 10);
    CHECK(is_unmapped(grown + 4 * PAGE));

    unsigned char *target = map_pages(4);
    fill(target, 4, 99);
    CHECK(mremap(grown, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
    check_filled(target, 4, 10);
    CHECK(is_unmapped(grown));

    /* A moved page is still shared copy-on-write with a child, and each keeps its own. */
    pid_t child = fork();
    CHECK(child >= 0);
    unsigned char *away = map_pages(4);
    CHECK(mremap(target, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, away) == away);
    check_filled(away, 4, 10);
    fill(away, 4, child == 0 ? 50 : 60);
    check_filled(away, 4, child == 0 ? 50 : 60);
    if (child == 0)
        _exit(0);
    wait_ok(child);
    check_filled(away, 4, 60);

    /* Nowhere to grow in place. */
    unsigned char *pair = map_pages(4);
    CHECK(mremap(pair, PAGE, 2 * PAGE, 0) == MAP_FAILED && errno == ENOMEM);
    CHECK(mremap((unsigned char *)pair + 1, PAGE, PAGE, 0) == MAP_FAILED && errno == EINVAL);
    CHECK(munmap(pair, 4 * PAGE) == 0);
}

static void advise(void)
{
    unsigned char *at = map_pages(32);
    CHECK(resident(at, 32) == 0);
    fill(at, 32, 1);
    CHECK(resident(at, 32) == 32);
    CHECK(madvise(at + 8 * PAGE, 8 * PAGE, MADV_DONTNEED) == 0);
    CHECK(resident(at, 32) == 24);
    for (size_t i = 8 * PAGE; i < 16 * PAGE; i++)
        CHECK(at[i] == 0);
    check_filled(at, 8, 1);

    CHECK(madvise(at + 16 * PAGE, 4 * PAGE, MADV_FREE) == 0);
    for (size_t page = 16; page < 20; page++) {
        unsigned char byte = at[page * PAGE + 1];
        CHECK(byte == 0 || byte == (unsigned char)(1 + page), "lazily freed page %zu holds %d", page, byte);
        at[page * PAGE] = 0xee;
        CHECK(at[page * PAGE] == 0xee);
    }

    unsigned char *fresh = map_pages(16);
    CHECK(madvise(fresh, 16 * PAGE, MADV_POPULATE_WRITE) == 0);
    CHECK(resident(fresh, 16) == 16);
    unsigned char *zero = map_pages(16);
    CHECK(madvise(zero, 16 * PAGE, MADV_POPULATE_READ) == 0);
    CHECK(zero[15 * PAGE] == 0);
    CHECK(madvise(zero, 16 * PAGE, MADV_COLD) == 0);

    unsigned char *secret = map_pages(2), *wiped = map_pages(2);
    memset(secret, 5, 2 * PAGE);
    memset(wiped, 6, 2 * PAGE);
    CHECK(madvise(secret, 2 * PAGE, MADV_DONTFORK) == 0);
    CHECK(madvise(wiped, 2 * PAGE, MADV_WIPEONFORK) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(is_unmapped(secret));
        for (size_t i = 0; i < 2 * PAGE; i++)
            CHECK(wiped[i] == 0);
        wiped[0] = 9;
        _exit(0);
    }
    wait_ok(child);
    CHECK(secret[PAGE] == 5 && wiped[0] == 6);
    CHECK(madvise(at + 1, PAGE, MADV_DONTNEED) == -1 && errno == EINVAL);
}

static void describe(void)
{
    /* A name of its own among the mappings: other protections above and below keep it from merging. */
    unsigned char *at = map_pages(34);
    CHECK(mprotect(at, PAGE, PROT_NONE) == 0 && mprotect(at + 33 * PAGE, PAGE, PROT_NONE) == 0);
    at += PAGE;
    CHECK(smaps(at, "Size") == 128, "Size is %ld", smaps(at, "Size"));
    CHECK(smaps(at, "Rss") == 0, "Rss is %ld", smaps(at, "Rss"));
    fill(at, 16, 1);
    CHECK(smaps(at, "Rss") == 64, "Rss is %ld", smaps(at, "Rss"));
    CHECK(smaps(at, "Anonymous") == 64, "Anonymous is %ld", smaps(at, "Anonymous"));
    CHECK(smaps(at, "Private_Dirty") == 64, "Private_Dirty is %ld", smaps(at, "Private_Dirty"));

    CHECK((pagemap(at) & (PM_PRESENT | PM_SWAPPED)) == PM_PRESENT);
    CHECK((pagemap(at) & PM_EXCLUSIVE) != 0);
    CHECK((pagemap(at + 20 * PAGE) & (PM_PRESENT | PM_SWAPPED)) == 0);

    int gate[2];
    char byte = 0;
    CHECK(pipe(gate) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(gate[1]);
        CHECK(read(gate[0], &byte, 1) == 0);
        CHECK((pagemap(at + PAGE) & PM_PRESENT) != 0);
        _exit(0);
    }
    close(gate[0]);
    CHECK((pagemap(at) & PM_PRESENT) != 0 && (pagemap(at) & PM_EXCLUSIVE) == 0);
    at[0] = 1;
    CHECK((pagemap(at) & PM_EXCLUSIVE) != 0, "a copied page is exclusive");
    CHECK(smaps(at, "Private_Dirty") == 4, "Private_Dirty is %ld", smaps(at, "Private_Dirty"));
    CHECK(smaps(at, "Shared_Dirty") == 60, "Shared_Dirty is %ld", smaps(at, "Shared_Dirty"));
    close(gate[1]);
    wait_ok(child);
    CHECK((pagemap(at + PAGE) & PM_EXCLUSIVE) != 0, "alone again");

    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512], expected[64];
    int found = 0;
    CHECK(maps != NULL);
    snprintf(expected, sizeof expected, "%lx-%lx rw-p ", (unsigned long)(uintptr_t)at, (unsigned long)(uintptr_t)at + 32 * PAGE);
    while (fgets(line, sizeof line, maps))
        found |= strncmp(line, expected, strlen(expected)) == 0;
    fclose(maps);
    CHECK(found, "%s is not in maps", expected);
}

int main(void)
{
    /* Exactly what is touched is counted below. */
    CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
    remap();
    advise();
    describe();
    printf("advice: moved, advised, described\n");
    return 0;
}
