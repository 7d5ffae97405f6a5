/* Forks and executes itself, again and again, with a growing environment; pipes carry what each says. */
#include "common.h"

#define LINKS 25

int main(int argc, char **argv)
{
    int left = argc > 1 ? atoi(argv[1]) : LINKS;
    if (left == 0) {
        CHECK(getenv("LINK") != NULL && strcmp(getenv("LINK"), "1") == 0);
        CHECK(write(1, "end", 3) == 3);
        return 0;
    }
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char number[16], value[16];
        snprintf(number, sizeof number, "%d", left - 1);
        snprintf(value, sizeof value, "%d", left);
        CHECK(setenv("LINK", value, 1) == 0);
        CHECK(dup2(pipes[1], 1) == 1);
        close(pipes[0]);
        close(pipes[1]);
        execl("/proc/self/exe", argv[0], number, (char *)NULL);
        CHECK(0, "exec");
    }
    close(pipes[1]);
    char answer[8] = "";
    size_t got = 0;
    ssize_t count;
    while (got < sizeof answer - 1 && (count = read(pipes[0], answer + got, sizeof answer - 1 - got)) > 0)
        got += (size_t)count;
    CHECK(strcmp(answer, "end") == 0, "\"%s\" at link %d", answer, left);
    wait_ok(child);
    if (argc > 1)
        CHECK(write(1, "end", 3) == 3);
    else
        printf("execchain: %d links\n", LINKS);
    return 0;
}
