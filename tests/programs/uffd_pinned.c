/* MOVE of what others hold: pinned for long by io_uring, and shared with a child and then paged out. A table, a line for each call; "no
 * io_uring" where the kernel has none for this program. */
#include "ring.h"
#include "uffd.h"
#include <sys/uio.h>

static int fd;

static void move(const char *what, unsigned char *dst, unsigned char *src, size_t pages)
{
    int64_t out;
    int error = uffd_move(fd, dst, src, pages * PAGE, 0, &out);
    printf("%-34s %3d %6ld\n", what, error, (long)(out > 0 ? out / (long)PAGE : out));
}

int main(void)
{
    struct ring ring;
    if (ring_make(&ring, 4, 0, 0) != 0) {
        printf("no io_uring\n");
        return 0;
    }
    unsigned char *to = map_pages(16), *from = map_pages(16);
    CHECK(madvise(to, 16 * PAGE, MADV_NOHUGEPAGE) == 0 && madvise(from, 16 * PAGE, MADV_NOHUGEPAGE) == 0);
    memset(from, 7, 16 * PAGE);
    fd = uffd_open(0, O_NONBLOCK);
    uffd_watch(fd, to, 16, UFFDIO_REGISTER_MODE_MISSING);
    struct iovec buffer = {from + 2 * PAGE, PAGE};
    CHECK(ring_register(&ring, IORING_REGISTER_BUFFERS, &buffer, 1) == 0);
    move("what is pinned", to + 2 * PAGE, from + 2 * PAGE, 1);
    move("up to what is pinned", to, from, 4);
    CHECK(ring_register(&ring, IORING_UNREGISTER_BUFFERS, NULL, 0) == 0);
    /* Linux lets go of the pin when the ring's work is done. */
    int64_t out;
    for (int tries = 0; tries < 1000 && uffd_move(fd, to + 2 * PAGE, from + 2 * PAGE, PAGE, 0, &out) == EBUSY; tries++)
        usleep(1000);
    printf("%-34s %3d\n", "what was pinned", to[2 * PAGE]);
    int hold[2];
    CHECK(pipe(hold) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char byte;
        close(hold[1]);
        _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(hold[0]);
    CHECK(madvise(from + 4 * PAGE, PAGE, 21) == 0);
    move("what a child has, too, paged out", to + 4 * PAGE, from + 4 * PAGE, 1);
    close(hold[1]);
    wait_ok(child);
    printf("%-34s %3d\n", "what stays where it was", from[4 * PAGE]);
    return 0;
}
