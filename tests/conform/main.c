/* Runs the checks: conform [-l] [WORD...]. A line each, fields apart by tabs: what became of it (ok, FAILED,
 * absent), its name, why Linux does so, what was found; then their number. The exit status is 1 if one failed. */
#include "conform.h"

extern const struct check *const __start_checks[], *const __stop_checks[];

/* What a child found out, shared with it. */
static struct {
    int failed, absent;
    char text[480];
} *found;

/* How long a check may take. */
enum { SECONDS = 60 };

void fail(int line, const char *text, ...)
{
    va_list arguments;
    char *at = found->text;
    if (!found->failed) {
        found->failed = 1;
        at += sprintf(at, "line %d: ", line);
        va_start(arguments, text);
        vsnprintf(at, sizeof found->text - (at - found->text), text, arguments);
        va_end(arguments);
    }
    _exit(1);
}

void absent(const char *what)
{
    found->absent = 1;
    snprintf(found->text, sizeof found->text, "%s", what);
    _exit(0);
}

static int is_wanted(const struct check *check, char **words)
{
    for (; *words; words++)
        if (!strstr(check->name, *words))
            return 0;
    return 1;
}

static const char *run(const struct check *check)
{
    int status;
    memset(found, 0, sizeof *found);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        alarm(SECONDS);
        check->run();
        _exit(0);
    }
    if (child < 0)
        return "FAILED";
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    kill(-child, SIGKILL);
    if (WIFSIGNALED(status) && !found->failed)
        snprintf(found->text, sizeof found->text, "ended by signal %d%s", WTERMSIG(status),
                 WTERMSIG(status) == SIGALRM ? " after a minute" : "");
    else if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && !found->failed)
        return found->absent ? "absent" : "ok";
    return "FAILED";
}

int main(int argc, char **argv)
{
    int only_list = argc > 1 && !strcmp(argv[1], "-l"), failed = 0, count = 0;
    char **words = argv + 1 + only_list;
    found = mmap(NULL, P, RW, SHARED, -1, 0);
    for (const struct check *const *at = __start_checks; at < __stop_checks; at++) {
        if (!is_wanted(*at, words))
            continue;
        const char *outcome = only_list ? "check" : run(*at);
        failed |= *outcome == 'F';
        count++;
        for (char *c = found->text; *c; c++)
            if (*c == '\n' || *c == '\t')
                *c = ' ';
        printf("%s\t%s\t%s\t%s\n", outcome, (*at)->name, (*at)->why, found->text);
    }
    printf("end\t%d\n", count);
    fflush(stdout);
    return failed;
}
