/* Pages that are merged, where the kernel's own task does so or may be told to. The setting is put back. */
#include "conform.h"
#include <sys/file.h>
#define GROUP "ksm"

static int run = -1;
static char before[16];

/* Lets pages be merged, and nobody else change that, in a child that does the rest. */
static pid_t merging_start(void)
{
    run = open("/sys/kernel/mm/ksm/run", O_RDWR);
    if (run < 0)
        absent("KSM that may be told to run");
    OK(flock(run, LOCK_EX));
    IS(pread(run, before, sizeof before - 1, 0) > 0);
    OK(pwrite(run, "1", 1, 0));
    return child_start();
}
static void merging_end(pid_t child)
{
    int status;
    if (child == 0)
        _exit(0);
    EQ(waitpid(child, &status, 0), child);
    EQ(pwrite(run, before, strlen(before), 0), strlen(before));
    EQ(status, 0);
}
#define MERGING for (pid_t child_ = merging_start(); child_ >= 0; merging_end(child_), child_ = -1) if (child_ == 0)

/* How many pages of this process are merged. */
static long merged(void)
{
    long number = -1;
    FILE *file = fopen("/proc/self/ksm_merging_pages", "r");
    if (!file)
        absent("ksm_merging_pages");
    EQ(fscanf(file, "%ld", &number), 1);
    fclose(file);
    return number;
}
/* Waits until it holds, for many sweeps. Whoever asks each millisecond is in the way: on a busy machine Linux
 * then takes seconds. */
#define UNTIL(holds)                                                                                 \
    do {                                                                                             \
        for (int i_ = 0; i_ < 500 && !(holds); i_++)                                                 \
            usleep(50000);                                                                           \
        IS(holds);                                                                                   \
    } while (0)
/* Four pages of one text that nobody else has, merged. */
static char *equals(void)
{
    char *at = island(4);
    SINGLY(at, 4);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 64; j++)
            sprintf(at + i * P + 64 * j, "conform %d %d", getpid(), j);
    if (madvise(at, 4 * P, MADV_MERGEABLE) && errno == EINVAL)
        absent("MADV_MERGEABLE");
    UNTIL(merged() == 4);
    return at;
}
static uint64_t frame(void *at)
{
    return pagemap(at) & ((1UL << 55) - 1);
}

CHECK("equal pages become one", "ksm_merging_pages and smaps count them; pagemap has one frame, which is nobody's alone")
{
    MERGING
    {
        char *at = equals();
        for (int i = 1; i < 4; i++) {
            EQ(frame(at + i * P), frame(at));
            EQ(memcmp(at, at + i * P, P), 0);
        }
        EQ(pagemap(at) >> 56 & 1, 0);
        IS(smaps(at, "KSM") == -1 || smaps(at, "KSM") == 4 * P / 1024);
    }
}
CHECK("a write to a merged page is nobody else's", "it is copied, as after fork, and merged again once it is equal again")
{
    MERGING
    {
        char *at = equals();
        EQ(writing(at + P), 0);
        EQ(at[P], 99);
        EQ(at[0], 'c');
        EQ(at[2 * P], 'c');
        IS(frame(at + P) != frame(at));
        at[P] = 'c';
        UNTIL(frame(at + P) == frame(at));
    }
}
CHECK("MADV_UNMERGEABLE takes merged pages apart", "at once; they are counted until the next sweep")
{
    MERGING
    {
        char *at = equals();
        OK(madvise(at, 4 * P, MADV_UNMERGEABLE));
        for (int i = 0; i < 4; i++) {
            EQ(strncmp(at + i * P, "conform ", 8), 0);
            EQ(pagemap(at + i * P) >> 56 & 1, 1);
        }
        UNTIL(merged() == 0);
    }
}
