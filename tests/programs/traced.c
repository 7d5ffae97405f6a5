/* ptrace: stops, memory and registers of another process.
 *
 * Prints a table; the host's Linux says what is right. */
#include "common.h"
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/user.h>

static void note(const char *what, long result)
{
    printf("%-58s %ld\n", what, result < 0 ? -(long)errno : result);
}

static volatile long word = 4711;
static long *constant; /* a page that may only be read */

static long peek(pid_t pid, void *at)
{
    errno = 0;
    long value = ptrace(PTRACE_PEEKDATA, pid, at, NULL);
    return errno ? -1 : value;
}

static int wait_for(pid_t pid)
{
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

/* Stops itself once, as one who asked to be traced; then ends with a byte of the word. */
static pid_t start(void)
{
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == -1 && errno == EPERM);
        raise(SIGSTOP);
        _exit((int)(word & 0x7f));
    }
    return pid;
}

static void memory_and_registers(void)
{
    pid_t pid = start();
    note("traceme: stopped", wait_for(pid));
    note("peek", peek(pid, (void *)&word));
    note("peek of nothing", peek(pid, NULL));
    note("peek over an edge", peek(pid, (char *)constant + PAGE - 4));
    note("poke", ptrace(PTRACE_POKEDATA, pid, &word, 33));
    note("poke of what may only be read", ptrace(PTRACE_POKEDATA, pid, constant, 5));
    note("peek of it", peek(pid, constant));
    note("own memory is as before", word * 10 + constant[0]);
    note("poke of nothing", ptrace(PTRACE_POKETEXT, pid, NULL, 1));
    struct user_regs_struct regs, again;
    memset(&regs, 0, sizeof regs);
    note("registers", ptrace(PTRACE_GETREGS, pid, NULL, &regs));
    note("the stack is where the child's is", regs.rsp - (unsigned long)&regs < 1 << 20 || (unsigned long)&regs - regs.rsp < 1 << 20);
    note("segments", (long)(regs.cs * 1000 + regs.ss));
    regs.r15 = 77;
    note("set registers", ptrace(PTRACE_SETREGS, pid, NULL, &regs));
    note("registers", ptrace(PTRACE_GETREGS, pid, NULL, &again));
    note("a register", (long)again.r15);
    errno = 0;
    note("one register", ptrace(PTRACE_PEEKUSER, pid, (void *)0, NULL));
    note("no register", ptrace(PTRACE_PEEKUSER, pid, (void *)3, NULL));
    siginfo_t info;
    note("signal", ptrace(PTRACE_GETSIGINFO, pid, NULL, &info));
    note("its number", info.si_signo);
    note("no such request", ptrace(0x3fff, pid, NULL, NULL));
    note("continue with no signal", ptrace(PTRACE_CONT, pid, NULL, 999));
    note("continue", ptrace(PTRACE_CONT, pid, NULL, NULL));
    note("ended", wait_for(pid));
    note("peek of one who has ended", peek(pid, (void *)&word));
}

static volatile sig_atomic_t heard;

static void hear(int number)
{
    heard = number;
}

static void signals(void)
{
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        signal(SIGUSR1, hear);
        signal(SIGUSR2, hear);
        signal(SIGWINCH, SIG_IGN);
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        raise(SIGUSR1);
        CHECK(heard == 0);
        raise(SIGUSR1);
        CHECK(heard == SIGUSR1);
        raise(SIGUSR1);
        CHECK(heard == SIGUSR2);
        raise(SIGWINCH);
        raise(SIGTERM);
        _exit(3);
    }
    note("signal: stopped", wait_for(pid));
    note("signal: it is kept from the child", ptrace(PTRACE_CONT, pid, NULL, NULL));
    note("signal: stopped", wait_for(pid));
    note("signal: it is passed on", ptrace(PTRACE_CONT, pid, NULL, SIGUSR1));
    note("signal: stopped", wait_for(pid));
    note("signal: another one", ptrace(PTRACE_CONT, pid, NULL, SIGUSR2));
    note("signal: one that is ignored", wait_for(pid));
    note("signal: it is passed on", ptrace(PTRACE_CONT, pid, NULL, SIGWINCH));
    note("signal: stopped", wait_for(pid));
    note("signal: it is passed on", ptrace(PTRACE_CONT, pid, NULL, SIGTERM));
    note("signal: and ends the child", wait_for(pid));
}

/* A child that counts until it is told to end. */
static pid_t counter(volatile long *shared)
{
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        while (shared[1] == 0)
            shared[0]++;
        _exit(5);
    }
    return pid;
}

static void attached(int seize)
{
    volatile long *shared =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    pid_t pid = counter(shared);
    note("attach: not yet", peek(pid, (void *)&word));
    if (seize) {
        note("seize", ptrace(PTRACE_SEIZE, pid, NULL, NULL));
        note("seize: does not wait", peek(pid, (void *)&word));
        note("interrupt", ptrace(PTRACE_INTERRUPT, pid, NULL, NULL));
    } else {
        note("attach", ptrace(PTRACE_ATTACH, pid, NULL, NULL));
    }
    note("attach: stopped", wait_for(pid));
    note("attach: again", ptrace(PTRACE_ATTACH, pid, NULL, NULL));
    long before = shared[0];
    for (int i = 0; i < 100; i++)
        sched_yield();
    note("attach: it stands still", shared[0] - before);
    note("attach: peek", peek(pid, (void *)&word));
    note("attach: poke", ptrace(PTRACE_POKEDATA, pid, (void *)&word, 1));
    note("detach", ptrace(PTRACE_DETACH, pid, NULL, NULL));
    note("detach: it is gone", ptrace(PTRACE_CONT, pid, NULL, NULL));
    while (shared[0] == before)
        sched_yield();
    shared[1] = 1;
    note("detach: ended", wait_for(pid));
    shared[1] = 0;
    pid = counter(shared);
    CHECK(ptrace(seize ? PTRACE_SEIZE : PTRACE_ATTACH, pid, NULL, NULL) == 0);
    if (!seize)
        CHECK(WIFSTOPPED(wait_for(pid)));
    note("kill", kill(pid, SIGKILL));
    note("kill: ended", wait_for(pid));
    note("attach: to oneself", ptrace(PTRACE_ATTACH, getpid(), NULL, NULL));
    note("attach: to nobody", ptrace(PTRACE_ATTACH, 999999, NULL, NULL));
}

/* execve of one who is traced. */
static void executed(const char *self)
{
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        execl(self, self, "again", NULL);
        _exit(9);
    }
    note("exec: stopped", wait_for(pid));
    note("exec: continue", ptrace(PTRACE_CONT, pid, NULL, NULL));
    note("exec: ended", wait_for(pid));
}

/* A tracer that ends lets go. */
static void abandoned(void)
{
    volatile long *shared =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    pid_t pid = counter(shared);
    pid_t tracer = fork();
    CHECK(tracer >= 0);
    if (tracer == 0) {
        CHECK(ptrace(PTRACE_ATTACH, pid, NULL, NULL) == 0);
        CHECK(WIFSTOPPED(wait_for(pid)));
        _exit(0);
    }
    wait_ok(tracer);
    long before = shared[0];
    while (shared[0] == before)
        sched_yield();
    shared[1] = 1;
    note("abandoned: goes on, and ends", wait_for(pid));
}

int main(int count, char **arguments)
{
    if (count > 1)
        return 6;
    setvbuf(stdout, NULL, _IOLBF, 0);
    constant = (long *)map_pages(2);
    CHECK(munmap((char *)constant + PAGE, PAGE) == 0);
    constant[0] = 2;
    CHECK(mprotect(constant, PAGE, PROT_READ) == 0);
    memory_and_registers();
    signals();
    attached(0);
    attached(1);
    executed(arguments[0]);
    abandoned();
    return 0;
}
