/* One open file, many readers and writers: every byte is read once, every record is written once. */
#include "common.h"
#include <fcntl.h>
#include <pthread.h>

enum { PROCESSES = 8, EACH = 1000 };

static int fd;
static unsigned char *seen; /* shared: how often a byte of the file was read */

static void read_some(void)
{
    for (int i = 0; i < EACH; i++) {
        uint16_t number;
        CHECK(read(fd, &number, 2) == 2);
        __atomic_fetch_add(&seen[number], 1, __ATOMIC_RELAXED);
    }
}

static void *read_in_a_thread(void *unused)
{
    read_some();
    return unused;
}

static void check_all_seen(const char *who)
{
    CHECK(lseek(fd, 0, SEEK_CUR) == PROCESSES * EACH * 2, "%s", who);
    for (int i = 0; i < PROCESSES * EACH; i++)
        CHECK(seen[i] == 1, "%s read %d %d times", who, i, seen[i]);
    memset(seen, 0, PROCESSES * EACH);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
}

static void processes(void (*work)(void))
{
    pid_t children[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] == 0) {
            work();
            _exit(0);
        }
    }
    for (int i = 0; i < PROCESSES; i++)
        wait_ok(children[i]);
}

/* Records of an odd size, each written with its writer's tag: none is torn or lost. */
static void write_some(void)
{
    unsigned char record[113];
    memset(record, getpid() & 0xff, sizeof record);
    for (int i = 0; i < EACH; i++)
        CHECK(write(fd, record, sizeof record) == sizeof record);
}

static void check_records(const char *who)
{
    unsigned char record[113];
    off_t size = lseek(fd, 0, SEEK_END);
    CHECK(size == (off_t)(PROCESSES * EACH * sizeof record), "%s wrote %ld bytes", who, (long)size);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    while (read(fd, record, sizeof record) == sizeof record)
        for (size_t i = 1; i < sizeof record; i++)
            CHECK(record[i] == record[0], "%s: a torn record", who);
}

int main(void)
{
    seen = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(seen != MAP_FAILED);
    /* No memfd: Linux does not keep its offset together. */
    char path[] = "/tmp/offsets-XXXXXX";
    fd = mkstemp(path);
    CHECK(fd >= 0 && unlink(path) == 0);
    for (int i = 0; i < PROCESSES * EACH; i++) {
        uint16_t number = (uint16_t)i;
        CHECK(write(fd, &number, 2) == 2);
    }
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    processes(read_some);
    check_all_seen("processes");

    pthread_t threads[PROCESSES];
    for (int i = 0; i < PROCESSES; i++)
        CHECK(pthread_create(&threads[i], NULL, read_in_a_thread, NULL) == 0);
    for (int i = 0; i < PROCESSES; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    check_all_seen("threads");

    CHECK(ftruncate(fd, 0) == 0);
    processes(write_some);
    check_records("writers at a position");
    CHECK(ftruncate(fd, 0) == 0 && lseek(fd, 0, SEEK_SET) == 0);
    CHECK(fcntl(fd, F_SETFL, O_APPEND) == 0);
    processes(write_some);
    check_records("writers at the end");
    printf("offsets: %d processes, %d threads, every byte once\n", PROCESSES, PROCESSES);
    return 0;
}
