/* A compacting collector: a thread moves pages from one space to the other with UFFDIO_MOVE, while four mutators read and write through
 * a table of addresses and move, themselves, what they find gone (a SIGBUS tells them). No byte is lost. */
#include "uffd.h"
#include <setjmp.h>
#include <signal.h>

enum { PAGES = 256, MUTATORS = 4, ROUNDS = 20 };

static int fd;
static unsigned char *space[2];
static volatile int from;
static __thread sigjmp_buf back;

static void on_bus(int signal, siginfo_t *info, void *context)
{
    (void)context;
    (void)info;
    CHECK(signal == SIGBUS);
    siglongjmp(back, 1);
}

/* Moves a page of the old space to the new one; whoever is later finds it there. */
static void bring(unsigned page)
{
    unsigned char *dst = space[!from] + page * PAGE, *src = space[from] + page * PAGE;
    int error;
    do {
        error = uffd_move(fd, dst, src, PAGE, 0, NULL);
    } while (error == EAGAIN || error == EBUSY);
    CHECK(error == 0 || error == EEXIST || error == ENOENT, "move: %d", error);
}

static pthread_barrier_t begins, ends;
static unsigned counts[PAGES];

static void *mutator(void *which)
{
    unsigned n = (unsigned)(uintptr_t)which;
    for (unsigned round = 0; round < ROUNDS; round++) {
        pthread_barrier_wait(&begins);
        for (volatile unsigned i = 0; i < PAGES; i++) {
            unsigned page = (i * (2 * n + 1) + n * 61) % PAGES;
            if (sigsetjmp(back, 1))
                bring((i * (2 * n + 1) + n * 61) % PAGES);
            __atomic_fetch_add((unsigned *)(space[!from] + page * PAGE + 64 * n), 1, __ATOMIC_RELAXED);
        }
        pthread_barrier_wait(&ends);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pid_t ballast = press(argc, argv);
    struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_NODEFER};
    CHECK(sigaction(SIGBUS, &action, NULL) == 0);
    space[0] = map_pages(PAGES);
    unsigned char *gap = map_pages(16);
    space[1] = map_pages(PAGES);
    CHECK(mprotect(gap, 16 * PAGE, PROT_NONE) == 0);
    for (unsigned page = 0; page < PAGES; page++)
        space[0][page * PAGE + 4000] = (unsigned char)(page + 1);
    fd = uffd_open(UFFD_FEATURE_SIGBUS | FEATURE_MOVE, O_NONBLOCK);
    uffd_watch(fd, space[1], PAGES, UFFDIO_REGISTER_MODE_MISSING);
    CHECK(pthread_barrier_init(&begins, NULL, MUTATORS + 1) == 0);
    CHECK(pthread_barrier_init(&ends, NULL, MUTATORS + 1) == 0);
    pthread_t threads[MUTATORS];
    for (uintptr_t i = 0; i < MUTATORS; i++)
        CHECK(pthread_create(&threads[i], NULL, mutator, (void *)i) == 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        pthread_barrier_wait(&begins);
        for (unsigned page = 0; page < PAGES; page += 8) {
            int64_t moved;
            int error = uffd_move(fd, space[!from] + page * PAGE, space[from] + page * PAGE, 8 * PAGE,
                                  MOVE_ALLOW_SRC_HOLES, &moved);
            CHECK(error == 0 || error == EAGAIN || error == EEXIST || error == EBUSY, "round %u: %d", round, error);
        }
        for (unsigned page = 0; page < PAGES; page++)
            bring(page);
        pthread_barrier_wait(&ends);
        for (unsigned page = 0; page < PAGES; page++) {
            unsigned char *at = space[!from] + page * PAGE;
            CHECK(at[4000] == (unsigned char)(page + 1), "page %u after %u rounds", page, round);
            counts[page] = round + 1;
            for (unsigned n = 0; n < MUTATORS; n++)
                CHECK(*(unsigned *)(at + 64 * n) == counts[page], "page %u, thread %u", page, n);
        }
        /* The other way round. */
        struct uffdio_range old = {(uintptr_t)space[!from], PAGES * PAGE};
        CHECK(ioctl(fd, UFFDIO_UNREGISTER, &old) == 0);
        from = !from;
        uffd_watch(fd, space[!from], PAGES, UFFDIO_REGISTER_MODE_MISSING);
    }
    for (int i = 0; i < MUTATORS; i++)
        pthread_join(threads[i], NULL);
    printf("%d pages moved %d times\n", PAGES, ROUNDS);
    press_no_more(ballast);
    return 0;
}
