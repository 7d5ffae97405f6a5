/* Shared anonymous memory: what one process writes, its relatives read; beside it private memory, where
 * they do not. */
#include "common.h"
#include <pthread.h>

#define CHILDREN 4
#define INCREMENTS 5000
#define SHARED_PAGES 64

struct board {
    pthread_mutex_t mutex;
    unsigned long locked;
    unsigned long atomic;
};

int main(void)
{
    size_t len = SHARED_PAGES * PAGE;
    unsigned char *shared = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    unsigned char *private = map_pages(SHARED_PAGES);
    struct board *board = (struct board *)shared;
    pthread_mutexattr_t attributes;
    CHECK(pthread_mutexattr_init(&attributes) == 0);
    CHECK(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0);
    CHECK(pthread_mutex_init(&board->mutex, &attributes) == 0);
    memset(private, 0x10, len);

    pid_t children[CHILDREN];
    for (int n = 0; n < CHILDREN; n++) {
        children[n] = fork();
        CHECK(children[n] >= 0);
        if (children[n] == 0) {
            for (int i = 0; i < INCREMENTS; i++) {
                __atomic_fetch_add(&board->atomic, 1, __ATOMIC_RELAXED);
                CHECK(pthread_mutex_lock(&board->mutex) == 0);
                board->locked++;
                CHECK(pthread_mutex_unlock(&board->mutex) == 0);
            }
            /* Pages that nobody has touched before the fork, first touched by different processes. */
            for (size_t page = 1; page < SHARED_PAGES; page++)
                shared[page * PAGE + (size_t)n] = (unsigned char)(n + 1);
            memset(private, n, len);
            _exit(0);
        }
    }
    for (int n = 0; n < CHILDREN; n++)
        wait_ok(children[n]);
    CHECK(board->atomic == CHILDREN * INCREMENTS, "%lu", board->atomic);
    CHECK(board->locked == CHILDREN * INCREMENTS, "%lu", board->locked);
    for (size_t page = 1; page < SHARED_PAGES; page++) {
        for (int n = 0; n < CHILDREN; n++)
            CHECK(shared[page * PAGE + (size_t)n] == n + 1, "page %zu byte %d", page, n);
        CHECK(shared[page * PAGE + CHILDREN] == 0);
    }
    for (size_t i = 0; i < len; i++)
        CHECK(private[i] == 0x10, "private byte %zu is %d", i, private[i]);

    /* A mapping that a child unmaps stays with the others, contents and all. */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        shared[PAGE] = 0x77;
        CHECK(munmap(shared, len) == 0);
        _exit(0);
    }
    wait_ok(child);
    CHECK(shared[PAGE] == 0x77);
    CHECK(munmap(shared, len) == 0);
    printf("shared: %d children, one memory\n", CHILDREN);
    return 0;
}
