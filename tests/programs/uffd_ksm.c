/* MOVE of pages that were merged: they are somebody else's, too, until a write or MADV_UNMERGEABLE parts them. A table, a line for each
 * call. */
#include "ksm.h"
#include "uffd.h"

static int fd;

static void move(const char *what, unsigned char *dst, unsigned char *src, size_t pages)
{
    int64_t out;
    int error = uffd_move(fd, dst, src, pages * PAGE, 0, &out);
    printf("%-34s %3d %6ld\n", what, error, (long)(out > 0 ? out / (long)PAGE : out));
}

static int work(int argc, char **argv)
{
    (void)argc, (void)argv;
    unsigned char *to = map_pages(16), *from = map_pages(16);
    CHECK(madvise(to, 16 * PAGE, MADV_NOHUGEPAGE) == 0 && madvise(from, 16 * PAGE, MADV_NOHUGEPAGE) == 0);
    /* All may be merged; only pages 2, 4, 6 and 8 are equal. */
    for (size_t n = 0; n < 10; n++)
        memset(from + n * PAGE, n % 2 == 0 && n > 0 ? 77 : 100 + (int)n, PAGE);
    CHECK(madvise(from, 16 * PAGE, MADV_MERGEABLE) == 0);
    must_set("use_zero_pages", "0\n");
    must_set("pages_to_scan", "20000\n");
    must_set("sleep_millisecs", "1\n");
    must_set("run", "1\n");
    for (int waited = 0; of_process(getpid(), "ksm_merging_pages", "") < 4; waited++) {
        CHECK(waited < 600, "%ld", of_process(getpid(), "ksm_merging_pages", ""));
        sweeps(1);
    }
    /* Nothing is merged again from here on. */
    must_set("run", "0\n");
    fd = uffd_open(0, O_NONBLOCK);
    uffd_watch(fd, to, 16, UFFDIO_REGISTER_MODE_MISSING);
    move("what is merged", to + 2 * PAGE, from + 2 * PAGE, 1);
    move("up to what is merged", to, from, 4);
    move("what may be merged, and is not", to + 5 * PAGE, from + 5 * PAGE, 1);
    from[4 * PAGE] = 5;
    move("what a write has parted", to + 4 * PAGE, from + 4 * PAGE, 1);
    from[6 * PAGE] = 6, from[8 * PAGE] = 8;
    move("what all others have left", to + 2 * PAGE, from + 2 * PAGE, 1);
    CHECK(madvise(from + 2 * PAGE, PAGE, MADV_UNMERGEABLE) == 0);
    move("what is not to be merged any more", to + 2 * PAGE, from + 2 * PAGE, 1);
    printf("%-34s %3d %3d %3d %3d\n", "what has moved", to[2 * PAGE], to[4 * PAGE], to[4 * PAGE + 1], to[5 * PAGE]);
    printf("%-34s %3d %3d\n", "what stays where it was", from[6 * PAGE + 1], from[8 * PAGE]);
    return 0;
}

int main(int argc, char **argv)
{
    return with_settings_kept(work, argc, argv);
}
