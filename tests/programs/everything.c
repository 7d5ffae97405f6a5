/* Processes that fork, run threads, move pages through pipes and map over mappings, all at once, while a timer's
 * signal interrupts each of them all the time. Every word is checked. */
#include "common.h"
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#define WORKERS 6
#define ROUNDS 40
#define THREADS 4
#define WORDS (PAGE / 4)

static volatile sig_atomic_t ticks;

static void on_alarm(int signal)
{
    (void)signal;
    ticks++;
}

static void fill(uint32_t *at, size_t words, uint32_t tag)
{
    for (size_t i = 0; i < words; i++)
        at[i] = tag * 2654435761u + (uint32_t)i;
}

static void check(const uint32_t *at, size_t from, size_t words, uint32_t tag)
{
    for (size_t i = from; i < words; i++)
        CHECK(at[i] == tag * 2654435761u + (uint32_t)i, "word %zu is %x", i, at[i]);
}

static pid_t fork_child(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    return child;
}

/* Parent and child write the same pages; neither sees the other's words. */
static void part_ways(uint32_t *at, size_t words, uint32_t tag)
{
    pid_t child = fork_child();
    if (child == 0) {
        check(at, 0, words, tag);
        fill(at, words / 2, tag + 1);
        check(at, 0, words / 2, tag + 1);
        check(at, words / 2, words, tag);
        _exit(0);
    }
    fill(at, words, tag + 2);
    wait_ok(child);
    check(at, 0, words, tag + 2);
    fill(at, words, tag);
}

static void transfer(ssize_t (*move)(int, char *, size_t), int fd, char *at, size_t left)
{
    while (left > 0) {
        ssize_t moved = move(fd, at, left);
        if (moved < 0 && errno == EINTR)
            continue;
        CHECK(moved > 0);
        at += moved;
        left -= (size_t)moved;
    }
}

static ssize_t take(int fd, char *at, size_t size)
{
    return read(fd, at, size);
}

static ssize_t give(int fd, char *at, size_t size)
{
    return write(fd, at, size);
}

/* The kernel writes into a child's copy-on-write pages. */
static void send_to_child(uint32_t *at, size_t words, uint32_t tag)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork_child();
    if (child == 0) {
        transfer(take, ends[0], (char *)at, words * 4);
        check(at, 0, words, tag + 7);
        _exit(0);
    }
    fill(at, words, tag + 7);
    transfer(give, ends[1], (char *)at, words * 4);
    fill(at, words, tag);
    wait_ok(child);
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved_on = PTHREAD_COND_INITIALIZER;
static unsigned turn;

static void *map_in_turns(void *argument)
{
    unsigned me = (unsigned)(uintptr_t)argument;
    for (unsigned round = 0; round < 8; round++) {
        size_t pages = 1 + (me * 5 + round * 3) % 16;
        uint32_t *at = (uint32_t *)map_pages(pages);
        fill(at, pages * WORDS, me + round);
        CHECK(mprotect(at, PAGE, PROT_READ) == 0);
        pthread_mutex_lock(&lock);
        while (turn % THREADS != me)
            pthread_cond_wait(&moved_on, &lock);
        turn++;
        pthread_cond_broadcast(&moved_on);
        pthread_mutex_unlock(&lock);
        check(at, 0, pages * WORDS, me + round);
        CHECK(munmap(at, pages * PAGE) == 0);
    }
    return NULL;
}

static void run_threads(void)
{
    pthread_t threads[THREADS];
    turn = 0;
    for (uintptr_t n = 0; n < THREADS; n++)
        CHECK(pthread_create(&threads[n], NULL, map_in_turns, (void *)n) == 0);
    for (int n = 0; n < THREADS; n++)
        CHECK(pthread_join(threads[n], NULL) == 0);
}

static void map_over(uint32_t *at, size_t words, uint32_t tag)
{
    void *again = mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(again == at);
    CHECK(at[0] == 0 && at[WORDS - 1] == 0);
    check(at, WORDS, words, tag);
    usleep(300);
    fill(at, WORDS, tag);
}

static void work(uint64_t seed)
{
    struct itimerval often = {{0, 3000}, {0, 3000}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        size_t pages = 1 + next_random(&seed) % 48;
        uint32_t tag = (uint32_t)next_random(&seed);
        uint32_t *at = (uint32_t *)map_pages(pages);
        fill(at, pages * WORDS, tag);
        switch (next_random(&seed) % 4) {
        case 0: part_ways(at, pages * WORDS, tag); break;
        case 1: send_to_child(at, pages * WORDS, tag); break;
        case 2: run_threads(); break;
        default: map_over(at, pages * WORDS, tag); break;
        }
        check(at, 0, pages * WORDS, tag);
        CHECK(munmap(at, pages * PAGE) == 0);
    }
    while (ticks == 0)
        usleep(1000);
    _exit(0);
}

int main(void)
{
    struct sigaction action = {.sa_handler = on_alarm};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    pid_t workers[WORKERS];
    for (uint64_t n = 0; n < WORKERS; n++) {
        workers[n] = fork_child();
        if (workers[n] == 0)
            work(0x9e3779b97f4a7c15ULL * (n + 1));
    }
    for (int n = 0; n < WORKERS; n++)
        wait_ok(workers[n]);
    printf("everything: %d workers, %d rounds each\n", WORKERS, ROUNDS);
    return 0;
}
