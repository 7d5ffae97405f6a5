/* Children whose threads take more memory than there is, again and again: each child is killed, nobody else. Not for the
 * host. */
#include "common.h"
#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { THREADS = 4 };
static const size_t EACH = 1UL << 30;

static void *touch(void *at)
{
    for (size_t page = 0; page < EACH; page += PAGE)
        ((volatile unsigned char *)at)[page] = 1;
    return NULL;
}

static void take_all(void)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        void *at = mmap(NULL, EACH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(at != MAP_FAILED);
        CHECK(pthread_create(&threads[i], NULL, touch, at) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK(0, "all of it was there");
}

int main(int count, char **arguments)
{
    int rounds = count > 1 ? atoi(arguments[1]) : 100;
    /* The innocent one has something to lose. */
    unsigned char *own = map_pages(256);
    memset(own, 7, 256 * PAGE);
    for (int round = 0; round < rounds; round++) {
        int status = 0;
        pid_t child = fork();
        CHECK(child >= 0, "round %d", round);
        if (child == 0)
            take_all();
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "round %d: 0x%x", round, status);
    }
    for (size_t i = 0; i < 256 * PAGE; i++)
        CHECK(own[i] == 7);
    printf("oomstress: %d children killed\n", rounds);
    return 0;
}
