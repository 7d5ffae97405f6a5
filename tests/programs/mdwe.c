/* Memory that was writable does not become executable once a program has said so (PR_SET_MDWE): which calls are refused,
 * what is mapped already, and who inherits it. */
#include "common.h"
#include <sys/prctl.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#define REFUSE 1UL
#define NO_INHERIT 2UL

static const int RW = PROT_READ | PROT_WRITE, RX = PROT_READ | PROT_EXEC, RWX = PROT_READ | PROT_WRITE | PROT_EXEC;

static int result(long value)
{
    return value == -1 ? errno : 0;
}

static int set(unsigned long bits)
{
    return result(prctl(PR_SET_MDWE, bits, 0, 0, 0));
}

static int get(void)
{
    return prctl(PR_GET_MDWE, 0, 0, 0, 0);
}

static void *map(int prot, int flags)
{
    return mmap(NULL, 4 * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static void calls(const char *who)
{
    void *both = map(RWX, 0), *code = map(RX, 0), *data = map(RW, 0), *nothing = map(PROT_NONE, 0);
    printf("%s: mdwe %d, rwx %d, rx %d", who, get(), result((long)both), result((long)code));
    printf(", rw to rx %d, rw to rwx %d", result(mprotect(data, PAGE, RX)), result(mprotect(data, PAGE, RWX)));
    printf(", none to rx %d, none to x %d", result(mprotect(nothing, PAGE, RX)), result(mprotect(nothing, PAGE, PROT_EXEC)));
    printf(", rx to rwx %d, rx to r %d", result(mprotect(code, PAGE, RWX)), result(mprotect(code, PAGE, PROT_READ)));
    printf(", back %d", result(mprotect(code, 2 * PAGE, RX)));
    printf(", fixed %d", result((long)mmap(data, PAGE, RWX, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)));
    printf(", is there %d\n", result(msync(data, PAGE, MS_ASYNC)));
}

static void in_child(const char *who, const char *program)
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (program) {
            execl(program, program, who, NULL);
            CHECK(!"exec");
        }
        calls(who);
        fflush(stdout);
        _exit(0);
    }
    wait_ok(child);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        calls(argv[1]);
        return 0;
    }
    unsigned char *before = map(RWX, 0);
    calls("before");
    printf("bits: 2 %d, 4 %d, all %d", set(NO_INHERIT), set(4), set(~0UL));
    printf(", arguments %d", result(prctl(PR_SET_MDWE, REFUSE, 1, 0, 0)));
    printf(" %d %d", result(prctl(PR_SET_MDWE, REFUSE, 0, 0, 1)), result(prctl(PR_GET_MDWE, 1, 0, 0, 0)));
    printf(", nothing %d\n", set(0));
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        printf("here only: %d, get %d", set(REFUSE | NO_INHERIT), get());
        printf(", again %d, other %d, off %d\n", set(REFUSE | NO_INHERIT), set(REFUSE), set(0));
        calls("here only");
        in_child("its child", NULL);
        in_child("its child's program", argv[0]);
        fflush(stdout);
        execl(argv[0], argv[0], "its own program", NULL);
        CHECK(!"exec");
    }
    wait_ok(child);
    printf("for good: %d, get %d", set(REFUSE), get());
    printf(", again %d, other %d, off %d\n", set(REFUSE), set(REFUSE | NO_INHERIT), set(0));
    calls("for good");
    /* What was there stays what it was, and may lose one or the other. */
    before[0] = 1;
    printf("there before: rwx %d, rx %d, rwx %d\n", result(mprotect(before, PAGE, RWX)),
           result(mprotect(before, PAGE, RX)), result(mprotect(before, PAGE, RWX)));
    in_child("a child", NULL);
    in_child("a child's program", argv[0]);
    return 0;
}
