/* A SIGSEGV handler that learns the address and the reason, repairs the mapping and returns; a handler on
 * its own stack; floating-point state that survives. */
#include "common.h"
#include <setjmp.h>
#include <signal.h>

static unsigned char *pages;
static volatile sig_atomic_t faults;
static volatile sig_atomic_t usr1;
static sigjmp_buf escape;
static volatile int last_code;
static void *volatile last_addr;

static void repair(int number, siginfo_t *info, void *context)
{
    (void)context;
    CHECK(number == SIGSEGV);
    volatile double noise = 1.0;
    for (int n = 0; n < 40; n++)
        noise = noise * 1.0001 + n;
    unsigned char *at = info->si_addr;
    CHECK(at >= pages && at < pages + 16 * PAGE, "si_addr is %p", info->si_addr);
    CHECK(info->si_code == SEGV_ACCERR, "si_code is %d", info->si_code);
    faults++;
    CHECK(mprotect((void *)((uintptr_t)at & ~(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE) == 0);
}

static void leave(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    last_code = info->si_code;
    last_addr = info->si_addr;
    siglongjmp(escape, 1);
}

static void count(int number)
{
    (void)number;
    usr1++;
}

static void handle(int number, void (*action)(int, siginfo_t *, void *), int flags)
{
    struct sigaction sa = {.sa_sigaction = action, .sa_flags = SA_SIGINFO | flags};
    sigemptyset(&sa.sa_mask);
    CHECK(sigaction(number, &sa, NULL) == 0);
}

int main(void)
{
    pages = map_pages(16);
    memset(pages, 0x33, 16 * PAGE);
    CHECK(mprotect(pages, 16 * PAGE, PROT_READ) == 0);
    handle(SIGSEGV, repair, 0);
    double sum = 0.5;
    for (int n = 0; n < 16; n++) {
        sum = sum * 3.0 + n;
        pages[n * PAGE + 17] = (unsigned char)n;
        sum = sum / 2.0;
    }
    CHECK(faults == 16, "%d faults", (int)faults);
    double again = 0.5;
    for (int n = 0; n < 16; n++)
        again = (again * 3.0 + n) / 2.0;
    CHECK(sum == again, "%f is not %f", sum, again);
    for (int n = 0; n < 16; n++)
        CHECK(pages[n * PAGE + 17] == n && pages[n * PAGE + 18] == 0x33);

    /* PROT_NONE, read; then a repaired page that was never touched. */
    CHECK(mprotect(pages, PAGE, PROT_NONE) == 0);
    CHECK(((volatile unsigned char *)pages)[17] == 0);
    CHECK(faults == 17);

    /* No mapping at all: another reason, the exact address. */
    handle(SIGSEGV, leave, SA_NODEFER);
    unsigned char *gone = map_pages(1);
    CHECK(munmap(gone, PAGE) == 0);
    if (sigsetjmp(escape, 1) == 0) {
        gone[123] = 1;
        CHECK(0, "a write to nothing went through");
    }
    CHECK(last_code == SEGV_MAPERR && last_addr == gone + 123, "code %d at %p", last_code, last_addr);

    /* Executing data: not allowed. */
    pages[0] = 0xc3;
    if (sigsetjmp(escape, 1) == 0) {
        ((void (*)(void))(uintptr_t)pages)();
        CHECK(0, "data was executed");
    }
    CHECK(last_code == SEGV_ACCERR && last_addr == pages, "code %d at %p", last_code, last_addr);

    /* A system call with a bad pointer fails; no signal. */
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    CHECK(write(pipes[1], gone, 1) == -1 && errno == EFAULT);
    CHECK(write(pipes[1], "x", 1) == 1);
    CHECK(read(pipes[0], gone, 1) == -1 && errno == EFAULT);

    /* A handler on its own stack, blocked and delivered later. */
    stack_t stack = {.ss_sp = map_pages(16), .ss_size = 16 * PAGE};
    CHECK(sigaltstack(&stack, NULL) == 0);
    struct sigaction sa = {.sa_handler = count, .sa_flags = SA_ONSTACK};
    sigemptyset(&sa.sa_mask);
    CHECK(sigaction(SIGUSR1, &sa, NULL) == 0);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &set, &old) == 0);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    CHECK(usr1 == 0);
    CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
    CHECK(usr1 == 1, "%d", (int)usr1);

    /* A child that dies by its own fault is seen to. */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        gone = map_pages(1);
        CHECK(munmap(gone, PAGE) == 0);
        gone[0] = 1;
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "status 0x%x", status);
    printf("signals: %d faults repaired\n", (int)faults);
    return 0;
}
