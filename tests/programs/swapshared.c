/* Touches more shared memory than there is: a mapping, a file of memory, a segment of System V. Children write
 * and check it, too. Every byte is as somebody stored it last, whoever brought it back.
 * Arguments: MiB in all; then, if swap is to be given up at the end, the swap device. */
#include "common.h"
#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/swap.h>

#define CHILDREN 3
#define WORDS (PAGE / sizeof(uint64_t))

/* What a word of a page is after `round` was stored there. One in 16 is noise. */
static uint64_t word_of(size_t page, unsigned round, size_t at)
{
    uint64_t word = page * 1000003 + round;
    return at % 16 == 0 ? (word ^ at) * 0x9e3779b97f4a7c15 : word;
}

static void fill(uint64_t *memory, size_t page, unsigned round)
{
    for (size_t at = 0; at < WORDS; at++)
        memory[page * WORDS + at] = word_of(page, round, at);
}

static unsigned long wrong_of(const uint64_t *words, size_t page, unsigned round)
{
    unsigned long wrong = 0;
    for (size_t at = 0; at < WORDS; at++)
        wrong += words[at] != word_of(page, round, at);
    return wrong;
}

static unsigned long check(const uint64_t *memory, size_t pages, unsigned round)
{
    unsigned long wrong = 0;
    for (size_t page = 0; page < pages; page++)
        wrong += wrong_of(memory + page * WORDS, page, round);
    return wrong;
}

/* Each child writes the pages that are its own, and reads those of all. */
static unsigned long share(uint64_t *memory, size_t pages)
{
    pid_t children[CHILDREN];
    for (int n = 0; n < CHILDREN; n++) {
        children[n] = fork();
        CHECK(children[n] >= 0);
        if (children[n] > 0)
            continue;
        unsigned long wrong = 0;
        for (size_t page = n; page < pages; page += CHILDREN) {
            wrong += wrong_of(memory + page * WORDS, page, 1);
            fill(memory, page, 2);
        }
        for (size_t page = n; page < pages; page += CHILDREN)
            wrong += wrong_of(memory + page * WORDS, page, 2);
        _exit(wrong != 0);
    }
    unsigned long failed = 0;
    for (int n = 0; n < CHILDREN; n++) {
        int status;
        CHECK(waitpid(children[n], &status, 0) == children[n]);
        failed += status != 0;
    }
    return failed + check(memory, pages, 2);
}

static size_t resident(void *memory, size_t pages)
{
    static unsigned char there[65536];
    CHECK(pages <= sizeof there && mincore(memory, pages * PAGE, there) == 0);
    size_t sum = 0;
    for (size_t page = 0; page < pages; page++)
        sum += there[page] & 1;
    return sum;
}

/* The sum of the lines of a file that begin with `name`, in KiB. */
static unsigned long sum_of(const char *file, const char *name)
{
    FILE *lines = fopen(file, "r");
    CHECK(lines != NULL);
    char line[512];
    unsigned long sum = 0;
    while (fgets(line, sizeof line, lines))
        if (strncmp(line, name, strlen(name)) == 0)
            sum += strtoul(line + strlen(name), NULL, 10);
    fclose(lines);
    return sum;
}

/* A file's pages by its descriptor: read, and written. */
static unsigned long by_descriptor(int file, size_t pages)
{
    unsigned long wrong = 0;
    static uint64_t words[WORDS];
    for (size_t page = 0; page < pages; page++) {
        CHECK(pread(file, words, PAGE, page * PAGE) == (ssize_t)PAGE);
        wrong += wrong_of(words, page, 2);
        fill(words - page * WORDS, page, 3);
        CHECK(pwrite(file, words, PAGE, page * PAGE) == (ssize_t)PAGE);
    }
    return wrong;
}

int main(int argc, char **argv)
{
    size_t mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 48;
    const size_t locked = 256, pages = (mib << 8) / 2;
    uint64_t *mapping = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int file = memfd_create("swapshared", 0);
    CHECK(mapping != MAP_FAILED && file >= 0 && ftruncate(file, pages * PAGE) == 0);
    uint64_t *mapped = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(mapped != MAP_FAILED);
    int id = shmget(IPC_PRIVATE, 2 * locked * PAGE, IPC_CREAT | 0600);
    CHECK(id >= 0);
    uint64_t *segment = shmat(id, NULL, 0);
    CHECK(segment != (void *)-1 && shmctl(id, SHM_LOCK, NULL) == 0);
    uint64_t *kept = mmap(NULL, locked * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(kept != MAP_FAILED && mlock(kept, locked * PAGE) == 0);

    for (size_t page = 0; page < 2 * locked; page++)
        fill(segment, page, 1);
    for (size_t page = 0; page < locked; page++)
        fill(kept, page, 1);
    for (size_t page = 0; page < pages; page++)
        fill(mapping, page, 1);
    for (size_t page = 0; page < pages; page++)
        fill(mapped, page, 1);
    printf("wrong: mapping %lu, file %lu", check(mapping, pages, 1), check(mapped, pages, 1));
    printf(", with children %lu %lu", share(mapping, pages), share(mapped, pages));
    printf(", by descriptor %lu", by_descriptor(file, pages));
    printf(", then %lu\n", check(mapped, pages, 3));
    printf("locked in memory: segment %zu, mapping %zu", resident(segment, 2 * locked), resident(kept, locked));
    printf(", wrong %lu %lu\n", check(segment, 2 * locked, 1), check(kept, locked, 1));

    struct stat is;
    CHECK(fstat(file, &is) == 0);
    printf("the file's pages: %d", is.st_blocks == (long)(pages * PAGE / 512));
    CHECK(madvise(mapped, 2 * PAGE, MADV_REMOVE) == 0);
    printf(", holes %d %d", mapped[5] == 0, mapped[WORDS + 5] == 0);
    CHECK(ftruncate(file, 512 * PAGE) == 0 && fstat(file, &is) == 0);
    unsigned long wrong = 0;
    for (size_t page = 2; page < 512; page++)
        wrong += wrong_of(mapped + page * WORDS, page, 3);
    printf(", after it was cut: wrong %lu\n", wrong);

    if (argc > 2) {
        CHECK(sum_of("/proc/meminfo", "Shmem:") > 0);
        CHECK(sum_of("/proc/self/smaps", "Swap:") > 0 && sum_of("/proc/self/smaps", "SwapPss:") < 4096);
        CHECK(madvise(mapping + 512 * WORDS, (pages - 512) * PAGE, MADV_REMOVE) == 0);
        CHECK(swapoff(argv[2]) == 0);
        CHECK(sum_of("/proc/self/smaps", "Swap:") == 0);
        CHECK(check(mapping, 512, 2) == 0);
        for (size_t page = 2; page < 512; page++)
            CHECK(wrong_of(mapped + page * WORDS, page, 3) == 0);
    }
    CHECK(shmctl(id, SHM_UNLOCK, NULL) == 0 && shmctl(id, IPC_RMID, NULL) == 0);
    printf("swapshared: done\n");
    return 0;
}
