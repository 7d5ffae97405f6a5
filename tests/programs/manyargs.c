/* execve with as many arguments as the stack's limit allows, and with more. */
#include "common.h"
#include <sys/resource.h>

static char **arguments_of(size_t count, char *one)
{
    char **all = malloc((count + 1) * sizeof *all);
    CHECK(all != NULL);
    for (size_t i = 0; i < count; i++)
        all[i] = one;
    all[count] = NULL;
    return all;
}

/* What execve says to `count` arguments and `more` strings of environment: 0 if the program ran and found them all. */
static int run(char *self, size_t count, char *one, size_t more, size_t stack)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct rlimit limit;
        CHECK(getrlimit(RLIMIT_STACK, &limit) == 0);
        limit.rlim_cur = stack;
        CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
        char **arguments = arguments_of(count, one), **environment = arguments_of(more, one);
        char number[32];
        if (count > 1) {
            snprintf(number, sizeof number, "%zu", count);
            arguments[1] = number;
        }
        execve(self, arguments, environment);
        _exit(errno == E2BIG ? 100 : errno == EFAULT ? 101 : errno);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status), "%zu arguments: 0x%x", count, status);
    return WEXITSTATUS(status);
}

int main(int count, char **arguments)
{
    if (count != 1) {
        for (int i = 2; i < count; i++)
            if (arguments[i][0] != 'x')
                return 50;
        return count == 0 || count == atoi(arguments[1]) ? 0 : 51;
    }
    char *self = "/proc/self/exe", x[] = "x", nothing[] = "";
    static char longest[131072 + 1];
    memset(longest, 'x', sizeof longest - 1);
    size_t mega = 1 << 20, usual = 8 * mega;
    printf("manyargs:");
    printf(" %d", run(self, 1000, x, 10, usual));
    printf(" %d", run(self, 131073, x, 1, usual));
    printf(" %d", run(self, 150000, x, 0, usual));
    printf(" %d", run(self, 400000, x, 0, usual));
    printf(" %d", run(self, 2, x, 400000, usual));
    printf(" %d", run(self, 100000, x, 60000, usual));
    printf(" %d", run(self, 500000, x, 0, 64 * mega));
    printf(" %d", run(self, 700000, x, 0, 64 * mega));
    printf(" %d", run(self, 10000, x, 0, mega));
    printf(" %d", run(self, 40000, x, 0, mega));
    printf(" %d", run(self, 2, nothing, 200000, usual));
    printf(" %d", run(self, 10, longest, 0, usual));
    longest[131071] = 0;
    printf(" %d", run(self, 10, longest, 0, usual));
    printf(" %d", run(self, 20, longest, 0, usual));
    printf(" %d", run("/tmp/does not exist", 400000, x, 0, usual));
    printf(" %d\n", run(self, 2, (char *)8, 0, usual));
    return 0;
}
