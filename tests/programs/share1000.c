/* A thousand children share one page at the same time; each checks it, every tenth writes its own copy. */
#include "common.h"

int main(int argc, char **argv)
{
    int children = argc > 1 ? atoi(argv[1]) : 1000;
    unsigned char *page = map_pages(1);
    for (size_t i = 0; i < PAGE; i++)
        page[i] = (unsigned char)(i * 7 + 3);

    int gate[2];
    CHECK(pipe(gate) == 0);
    pid_t *pids = calloc((size_t)children, sizeof *pids);
    CHECK(pids != NULL);
    for (int n = 0; n < children; n++) {
        pid_t pid = fork();
        CHECK(pid >= 0, "fork %d of %d", n, children);
        if (pid == 0) {
            char byte;
            close(gate[1]);
            /* The gate opens when all are there: end of file for everyone. */
            CHECK(read(gate[0], &byte, 1) == 0);
            for (size_t i = 0; i < PAGE; i++)
                CHECK(page[i] == (unsigned char)(i * 7 + 3), "child %d reads %d at %zu", n, page[i], i);
            if (n % 10 == 0) {
                memset(page, n & 0xff, PAGE);
                for (size_t i = 0; i < PAGE; i++)
                    CHECK(page[i] == (n & 0xff), "child %d wrote and reads %d at %zu", n, page[i], i);
            }
            _exit(0);
        }
        pids[n] = pid;
    }
    close(gate[0]);
    close(gate[1]);
    for (int n = 0; n < children; n++)
        wait_ok(pids[n]);
    for (size_t i = 0; i < PAGE; i++)
        CHECK(page[i] == (unsigned char)(i * 7 + 3), "parent reads %d at %zu", page[i], i);
    page[0] = 1;
    printf("share1000: %d children shared one page\n", children);
    return 0;
}
