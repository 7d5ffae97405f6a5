/* More than fits, written and read at random by threads, while children are forked that read all kinds of pages and
 * write their own copies: every byte is what was written last by its owner. */
#include "common.h"
#include <pthread.h>
#include <sys/wait.h>

#define THREADS 3

static unsigned char *memory;
static size_t pages, steps;

/* A page says its number and the version that its thread has written. */
static void put(uint64_t *page, size_t number, uint64_t version)
{
    for (int i = 0; i < 8; i++)
        page[i * 64] = number << 32 | version << 8 | i;
}

static void check(const uint64_t *page, size_t number, uint64_t version, const char *who)
{
    for (int i = 0; i < 8; i++) {
        uint64_t want = version == 0 ? 0 : number << 32 | version << 8 | i;
        CHECK(page[i * 64] == want, "%s: page %zu word %d is %lx and not %lx", who, number, i,
              (unsigned long)page[i * 64], (unsigned long)want);
    }
}

static uint64_t *page_at(size_t number)
{
    return (uint64_t *)(memory + number * PAGE);
}

/* Each thread has a third of every two megabytes, so that folios belong to several. */
static size_t mine(uint64_t *random, size_t thread)
{
    size_t number = next_random(random) % (pages / THREADS);
    return number * THREADS + thread;
}

static void *work(void *argument)
{
    size_t thread = (size_t)argument;
    uint64_t random = 88172645463325252UL + thread;
    unsigned *version = calloc(pages, sizeof *version);
    CHECK(version != NULL);
    for (size_t step = 0; step < steps; step++) {
        size_t number = mine(&random, thread);
        check(page_at(number), number, version[number], "thread");
        if (next_random(&random) % 3 != 0)
            put(page_at(number), number, ++version[number]);
    }
    free(version);
    return NULL;
}

/* What a child finds is of one time for each page; what it writes nobody else sees. */
static void child_work(uint64_t seed)
{
    for (size_t step = 0; step < steps / 16; step++) {
        size_t number = next_random(&seed) % pages;
        uint64_t first = page_at(number)[0];
        uint64_t version = first >> 8 & 0xffffff;
        /* A thread may have been half way through this page when the child was made. */
        for (int i = 0; i < 8; i++) {
            uint64_t word = page_at(number)[i * 64], now = word >> 8 & 0xffffff;
            CHECK(word == 0 || (word >> 32 == number && (word & 255) == (uint64_t)i), "page %zu word %d", number, i);
            CHECK(now == version || now + 1 == version, "page %zu word %d", number, i);
        }
        put(page_at(number), number, 0xfffff0);
        check(page_at(number), number, 0xfffff0, "child");
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    size_t mib = argc > 1 ? (size_t)atoi(argv[1]) : 48;
    steps = argc > 2 ? (size_t)atoi(argv[2]) : 20000;
    int forks = argc > 3 ? atoi(argv[3]) : 6;
    pages = (mib << 8) / THREADS * THREADS;
    memory = map_pages(pages);
    madvise(memory, pages * PAGE, MADV_HUGEPAGE);
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    for (int i = 0; i < forks; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            child_work(1234567 + i);
        wait_ok(child);
    }
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    printf("swapforks: %zu MiB, %d forks, 0 wrong\n", mib, forks);
    return 0;
}
