/* CVE-2020-29374 and its variants: one of two relatives keeps a page in a pipe (vmsplice), unmaps it, and later
 * reads what the other has written since. He must read nothing of it.
 *
 * Linux: tools/testing/selftests/mm/cow.c has the same list. */
#include "common.h"
#include <fcntl.h>
#include <sys/uio.h>

#define OLD 0x11
#define NEW 0x77

/* Whether the writer takes its right to write away and gets it back before. */
enum right { KEPT, TAKEN_AND_GIVEN };
/* Who keeps the page, and since when. */
enum who { CHILD, PARENT_BEFORE, PARENT_AFTER };

static void put_page(int pipe, unsigned char *page)
{
    struct iovec piece = {page, PAGE};
    CHECK(vmsplice(pipe, &piece, 1, 0) == (ssize_t)PAGE);
}

/* Writes as the one who did not keep the page. */
static void overwrite(unsigned char *page, enum right right)
{
    if (right == TAKEN_AND_GIVEN) {
        CHECK(mprotect(page, PAGE, PROT_READ) == 0);
        CHECK(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0);
    }
    memset(page, NEW, PAGE);
}

/* What the pipe says. */
static int first_kept(int pipe)
{
    static unsigned char bytes[4096];
    size_t got = 0;
    while (got < sizeof bytes) {
        ssize_t n = read(pipe, bytes + got, sizeof bytes - got);
        CHECK(n > 0);
        got += (size_t)n;
    }
    for (size_t i = 1; i < sizeof bytes; i++)
        CHECK(bytes[i] == bytes[0], "byte %zu", i);
    return bytes[0];
}

static void tell(int fd)
{
    CHECK(write(fd, "x", 1) == 1);
}

static void hear(int fd)
{
    char byte;
    CHECK(read(fd, &byte, 1) == 1);
}

static void variant(enum who who, enum right right)
{
    int page_pipe[2], to_child[2], to_parent[2];
    CHECK(pipe(page_pipe) == 0 && pipe(to_child) == 0 && pipe(to_parent) == 0);
    unsigned char *page = map_pages(1);
    memset(page, OLD, PAGE);
    if (who == PARENT_BEFORE)
        put_page(page_pipe[1], page);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (who == CHILD) {
            put_page(page_pipe[1], page);
            CHECK(munmap(page, PAGE) == 0);
            tell(to_parent[1]);
            hear(to_child[0]);
            _exit(first_kept(page_pipe[0]) == OLD ? 0 : 9);
        }
        hear(to_child[0]);
        overwrite(page, right);
        tell(to_parent[1]);
        hear(to_child[0]);
        _exit(page[PAGE - 1] == NEW ? 0 : 8);
    }
    if (who == CHILD) {
        hear(to_parent[0]);
        overwrite(page, right);
        tell(to_child[1]);
        wait_ok(child);
    } else {
        if (who == PARENT_AFTER)
            put_page(page_pipe[1], page);
        CHECK(munmap(page, PAGE) == 0);
        tell(to_child[1]);
        hear(to_parent[0]);
        CHECK(first_kept(page_pipe[0]) == OLD, "the parent reads what its child wrote");
        tell(to_child[1]);
        wait_ok(child);
    }
    for (int i = 0; i < 2; i++) {
        close(page_pipe[i]);
        close(to_child[i]);
        close(to_parent[i]);
    }
    if (who == CHILD)
        CHECK(munmap(page, PAGE) == 0);
}

int main(void)
{
    int tried = 0;
    for (int round = 0; round < 20; round++)
        for (int who = CHILD; who <= PARENT_AFTER; who++)
            for (int right = KEPT; right <= TAKEN_AND_GIVEN; right++, tried++)
                variant((enum who)who, (enum right)right);
    printf("pinleak: %d times, nothing was read that was written later\n", tried);
    return 0;
}
