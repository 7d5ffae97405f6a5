/* Threads of one process map, protect, unmap and check at once, and race to be first in fresh memory. */
#include "common.h"
#include <pthread.h>

#define THREADS 4
#define ROUNDS 150
#define ARENA_PAGES 128
#define ARENA_ROUNDS 12

static pthread_barrier_t barrier;
static unsigned char *volatile arena;

static void check_stamps(unsigned char *at, size_t from, size_t to, uint64_t tag)
{
    for (size_t page = from; page < to; page++) {
        uint64_t head, tail;
        memcpy(&head, at + page * PAGE, 8);
        memcpy(&tail, at + page * PAGE + PAGE - 8, 8);
        CHECK(head == tag + page && tail == ~(tag + page), "page %zu of %llx", page, (unsigned long long)tag);
    }
}

static void churn(uint64_t thread)
{
    uint64_t seed = 0x9e3779b97f4a7c15ULL * (thread + 1);
    for (int round = 0; round < ROUNDS; round++) {
        size_t pages = 3 + next_random(&seed) % 30;
        uint64_t tag = (thread << 56) | ((uint64_t)round << 32);
        unsigned char *at = map_pages(pages);
        for (size_t page = 0; page < pages; page++) {
            uint64_t head = tag + page, tail = ~head;
            CHECK(at[page * PAGE] == 0 && at[page * PAGE + PAGE - 1] == 0, "fresh page %zu is not zero", page);
            memcpy(at + page * PAGE, &head, 8);
            memcpy(at + page * PAGE + PAGE - 8, &tail, 8);
        }
        size_t cut = 1 + next_random(&seed) % (pages - 2);
        CHECK(mprotect(at, cut * PAGE, PROT_READ) == 0);
        check_stamps(at, 0, pages, tag);
        CHECK(mprotect(at, pages * PAGE, PROT_READ | PROT_WRITE) == 0);
        at[(cut - 1) * PAGE + 100] = 1;
        CHECK(munmap(at + cut * PAGE, PAGE) == 0);
        check_stamps(at, 0, cut, tag);
        check_stamps(at, cut + 1, pages, tag);
        CHECK(munmap(at, pages * PAGE) == 0);
    }
}

/* All threads write their own byte of every page of a fresh arena; nobody's byte may be lost. */
static void race(uint64_t thread)
{
    for (int round = 0; round < ARENA_ROUNDS; round++) {
        if (thread == 0)
            arena = map_pages(ARENA_PAGES);
        pthread_barrier_wait(&barrier);
        for (size_t page = 0; page < ARENA_PAGES; page++) {
            if ((page + thread) % 3 == 0)
                CHECK(((volatile unsigned char *)arena)[page * PAGE + 2048] == 0);
            arena[page * PAGE + thread] = (unsigned char)(0x40 + thread);
        }
        pthread_barrier_wait(&barrier);
        for (size_t page = 0; page < ARENA_PAGES; page++)
            for (unsigned t = 0; t < THREADS; t++)
                CHECK(arena[page * PAGE + t] == 0x40 + t, "round %d page %zu: byte of thread %u is %d", round, page, t, arena[page * PAGE + t]);
        pthread_barrier_wait(&barrier);
        if (thread == 0)
            CHECK(munmap(arena, ARENA_PAGES * PAGE) == 0);
    }
}

static void *run(void *argument)
{
    uint64_t thread = (uint64_t)(uintptr_t)argument;
    race(thread);
    churn(thread);
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (uintptr_t n = 0; n < THREADS; n++)
        CHECK(pthread_create(&threads[n], NULL, run, (void *)n) == 0);
    for (int n = 0; n < THREADS; n++)
        CHECK(pthread_join(threads[n], NULL) == 0);
    printf("churn: %d threads, %d rounds each\n", THREADS, ROUNDS);
    return 0;
}
