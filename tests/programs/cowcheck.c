/* Random writes in parent and child over several generations; every process checks every byte against
 * what it must be, before, during and after its relatives write. */
#include "common.h"

#define PAGES 1024
#define GENERATIONS 5
#define WRITES 3000

static unsigned char *bytes;
static unsigned char *expected;

static void scribble(uint64_t seed)
{
    for (int n = 0; n < WRITES; n++) {
        size_t at = next_random(&seed) % (PAGES * PAGE);
        size_t len = 1 + next_random(&seed) % 64;
        unsigned char value = (unsigned char)next_random(&seed);
        if (at + len > PAGES * PAGE)
            len = PAGES * PAGE - at;
        memset(bytes + at, value, len);
        memset(expected + at, value, len);
    }
}

static void check_all(const char *who, int generation)
{
    for (size_t at = 0; at < PAGES * PAGE; at++)
        CHECK(bytes[at] == expected[at], "%s of generation %d: byte 0x%zx is %d, not %d", who, generation, at, bytes[at], expected[at]);
}

static void generations(int generation, uint64_t seed)
{
    if (generation == GENERATIONS)
        return;
    pid_t child = fork();
    CHECK(child >= 0, "generation %d", generation);
    if (child == 0) {
        check_all("child at birth", generation);
        scribble(seed * 2 + 1);
        check_all("child", generation);
        generations(generation + 1, seed * 2 + 1);
        check_all("child at its end", generation);
        _exit(0);
    }
    scribble(seed * 2);
    check_all("parent", generation);
    /* A second fork, of pages that are half shared already. */
    pid_t second = fork();
    CHECK(second >= 0, "second of generation %d", generation);
    if (second == 0) {
        scribble(seed * 3 + 7);
        check_all("second child", generation);
        _exit(0);
    }
    scribble(seed * 5 + 11);
    wait_ok(second);
    wait_ok(child);
    check_all("parent at the end", generation);
}

int main(void)
{
    bytes = map_pages(PAGES);
    expected = map_pages(PAGES);
    /* Half the pages are written, a quarter is only read (the zero page), a quarter is untouched. */
    for (size_t page = 0; page < PAGES; page++) {
        if (page % 4 < 2) {
            memset(bytes + page * PAGE, (int)(page & 0xff), PAGE);
            memset(expected + page * PAGE, (int)(page & 0xff), PAGE);
        } else if (page % 4 == 2) {
            CHECK(((volatile unsigned char *)bytes)[page * PAGE] == 0);
        }
    }
    check_all("first", 0);
    generations(0, 88172645463325252ULL);
    printf("cowcheck: %d generations over %lu KiB\n", GENERATIONS, PAGES * PAGE / 1024);
    return 0;
}
