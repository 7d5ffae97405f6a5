/* Equal pages of many processes become one, and a write parts them: madvise, prctl, the files of /sys/kernel/mm/ksm, of
 * /proc/PID, and smaps.
 *
 * On a host the settings that it changes are put back, also when a check fails. It is given how many processes there
 * are to be, and the pages of each; "large" after that lets these be pages of large folios. */
#include "ksm.h"
#include <sys/prctl.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

static int large;

static void consent(void)
{
    CHECK(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_MEMORY_MERGE, 1, 1, 0, 0) == -1 && errno == EINVAL);
    CHECK(prctl(PR_GET_MEMORY_MERGE, 1, 0, 0, 0) == -1 && errno == EINVAL);
    CHECK(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1);
    unsigned char *at = map_pages(1);
    CHECK(of_process(getpid(), "ksm_stat", "ksm_merging_pages ") >= 0);
    pid_t child = fork();
    if (child == 0)
        _exit(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1 ? 0 : 1);
    wait_ok(child);
    CHECK(prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0) == 0 && prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 0);
    CHECK(madvise(at, PAGE, MADV_MERGEABLE) == 0 && madvise(at, PAGE, MADV_UNMERGEABLE) == 0);
    CHECK(madvise(at + 1, PAGE, MADV_MERGEABLE) == -1 && errno == EINVAL);
    CHECK(munmap(at, PAGE) == 0 && madvise(at, PAGE, MADV_MERGEABLE) == -1 && errno == ENOMEM);
    void *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(madvise(shared, PAGE, MADV_MERGEABLE) == 0, "silently nothing");
}

static void settings(void)
{
    CHECK(set("run", "3\n") == -EINVAL && set("run", "x\n") == -EINVAL);
    CHECK(set("max_page_sharing", "1\n") == -EINVAL && set("use_zero_pages", "x\n") == -EINVAL);
    CHECK(set("pages_shared", "1\n") < 0);
    must_set("pages_to_scan", "20000\n");
    must_set("sleep_millisecs", "1\n");
    CHECK(number("pages_to_scan") == 20000 && number("sleep_millisecs") == 1);
}

static void say(int to, char c)
{
    CHECK(write(to, &c, 1) == 1);
}

static void hear(int from, char c)
{
    char got;
    CHECK(read(from, &got, 1) == 1 && got == c, "%c", got);
}

static int here(size_t pages, const unsigned char *at, size_t but)
{
    for (size_t n = 0; n < pages; n++) {
        uint32_t word;
        memcpy(&word, at + n * PAGE + 64, 4);
        if (n != but && word != n + 1)
            return 0;
    }
    return 1;
}

/* Fills its pages, lets them be merged, writes to one, and looks at all. */
static void child(int from, int to, size_t pages, unsigned me)
{
    /* Whoever fails must not leave processes behind that wait, and keep the output open. */
    CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0);
    unsigned char *at = map_pages(pages);
    CHECK(large || madvise(at, pages * PAGE, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
    CHECK(madvise(at, pages * PAGE, MADV_MERGEABLE) == 0);
    for (size_t n = 0; n < pages; n++) {
        uint32_t word = n + 1;
        memcpy(at + n * PAGE + 64, &word, 4);
    }
    say(to, 'f');
    hear(from, 'w');
    size_t mine = me % pages;
    CHECK(here(pages, at, pages));
    at[mine * PAGE + 64] ^= 0x80;
    at[mine * PAGE + 65] = me;
    CHECK(here(pages, at, mine) && at[mine * PAGE + 65] == (unsigned char)me);
    say(to, 'd');
    hear(from, 'e');
    CHECK(here(pages, at, mine) && at[mine * PAGE + 65] == (unsigned char)me);
    _exit(0);
}

static void many(size_t processes, size_t pages)
{
    int (*down)[2] = calloc(processes, sizeof *down), (*up)[2] = calloc(processes, sizeof *up);
    pid_t *pids = calloc(processes, sizeof *pids);
    for (size_t i = 0; i < processes; i++) {
        CHECK(pipe(down[i]) == 0 && pipe(up[i]) == 0);
        pids[i] = fork();
        CHECK(pids[i] >= 0);
        if (pids[i] == 0)
            child(down[i][0], up[i][1], pages, i);
        close(down[i][0]);
        close(up[i][1]);
        hear(up[i][0], 'f');
    }
    /* While nobody scans, pages that are gone are still counted. */
    must_set("run", "2\n");
    long shared = number("pages_shared"), sharing = number("pages_sharing");
    must_set("run", "1\n");
    /* One that may be under way, and two whole ones; before those, two that say what is worth splitting. */
    sweeps(large ? 5 : 3);
    CHECK(number("pages_shared") - shared >= (long)pages, "%ld", number("pages_shared") - shared);
    long saved = (long)((processes - 1) * pages);
    CHECK(number("pages_sharing") - sharing >= saved * 98 / 100, "%ld of %ld", number("pages_sharing") - sharing, saved);
    CHECK(number("general_profit") > 0);
    CHECK(of_process(pids[0], "ksm_merging_pages", "") == (long)pages);
    CHECK(of_process(pids[0], "ksm_stat", "ksm_merging_pages ") == (long)pages);
    CHECK(of_process(pids[0], "ksm_stat", "ksm_process_profit ") > 0);
    CHECK(of_process(pids[0], "smaps", "KSM:") == (long)(pages * PAGE / 1024));
    CHECK(set("max_page_sharing", "17\n") == -EBUSY);
    for (size_t i = 0; i < processes; i++) {
        say(down[i][1], 'w');
        hear(up[i][0], 'd');
    }
    must_set("run", "2\n");
    CHECK(number("run") == 2 && number("pages_shared") == 0 && number("pages_sharing") == 0);
    CHECK(of_process(pids[0], "ksm_merging_pages", "") == 0);
    for (size_t i = 0; i < processes; i++) {
        say(down[i][1], 'e');
        wait_ok(pids[i]);
        close(down[i][1]);
        close(up[i][0]);
    }
}

static void zeroes(void)
{
    must_set("use_zero_pages", "1\n");
    unsigned char *at = map_pages(64);
    CHECK(madvise(at, 64 * PAGE, MADV_MERGEABLE) == 0);
    for (size_t n = 0; n < 64; n++)
        *(volatile unsigned char *)(at + n * PAGE) = 0;
    must_set("run", "1\n");
    sweeps(large ? 5 : 3);
    CHECK(number("ksm_zero_pages") >= 64, "%ld", number("ksm_zero_pages"));
    CHECK(of_process(getpid(), "ksm_stat", "ksm_zero_pages ") == 64);
    at[5 * PAGE] = 1;
    CHECK(at[4 * PAGE] == 0 && at[5 * PAGE] == 1);
    /* A write over zeroes may take a large folio, as it may where there never was a page. */
    long left = of_process(getpid(), "ksm_stat", "ksm_zero_pages ");
    CHECK(large ? left < 64 : left == 63, "%ld", left);
    CHECK(madvise(at, 64 * PAGE, MADV_UNMERGEABLE) == 0);
    CHECK(of_process(getpid(), "ksm_stat", "ksm_zero_pages ") == 0);
    must_set("run", "2\n");
}

static int work(int argc, char **argv)
{
    large = argc == 4 && !strcmp(argv[3], "large");
    CHECK(argc == 3 + large, "how many processes, and pages of each, and if they are large");
    consent();
    settings();
    many(strtoul(argv[1], NULL, 0), strtoul(argv[2], NULL, 0));
    zeroes();
    return 0;
}

int main(int argc, char **argv)
{
    if (with_settings_kept(work, argc, argv) != 0)
        return 1;
    puts("ksm: ok");
    return 0;
}
