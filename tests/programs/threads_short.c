/* Threads are made while memory is short: a child writes to more memory than there is again and again. What a thread needs of the kernel
 * comes from pages that leave. So no call fails as long as swap has room.
 *
 * argv[1]: the MiB that the child writes to; without it nobody does. */
#include <pthread.h>

#include "uffd.h"

#define ROUNDS 8
#define THREADS 96

static int gate[2];

static void *waits(void *number)
{
    char byte;
    CHECK(read(gate[0], &byte, 1) == 1);
    return number;
}

int main(int argc, char **argv)
{
    pid_t ballast = press(argc, argv);
    pthread_attr_t small;
    CHECK(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 64 << 10) == 0);
    CHECK(pipe(gate) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t thread[THREADS];
        /* All at once: so many stacks the kernel keeps for nobody. */
        for (uintptr_t i = 0; i < THREADS; i++) {
            int error = pthread_create(&thread[i], &small, waits, (void *)i);
            CHECK(error == 0, "thread %lu of round %d: error %d", i, round, error);
        }
        char bytes[THREADS] = {0};
        CHECK(write(gate[1], bytes, THREADS) == THREADS);
        for (uintptr_t i = 0; i < THREADS; i++) {
            void *number;
            CHECK(pthread_join(thread[i], &number) == 0 && number == (void *)i);
        }
    }
    press_no_more(ballast);
    puts("threads_short: ok");
    return 0;
}
