// Process groups, sessions and stops, told as a table: the same on the host and in the microVM.
#include "table.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static pid_t start(void (*what)(void)) {
    pid_t pid = fork();
    if (pid == 0) {
        what();
        _exit(0);
    }
    return pid;
}

static void waits(void) {
    for (;;)
        pause();
}

static void refusals(void) {
    int gate[2];
    pipe(gate);
    pid_t child = start(waits);
    row("getpgid of a number that nobody has", getpgid(1 << 21));
    row("getpgid of a negative number", getpgid(-5));
    row("getsid of a negative number", getsid(-5));
    row("setpgid to a negative group", setpgid(0, -1));
    row("setpgid of a number that nobody has", setpgid(1 << 21, 0));
    row("setpgid of a negative number", setpgid(-3, 0));
    row("setpgid of a session's leader", setpgid(0, 0));
    row("setpgid of a parent", setpgid(getppid(), 0));
    row("setpgid to a group that is not there", setpgid(child, 1 << 21));
    row("setpgid of a child to its own", setpgid(child, child));
    row("and it is", getpgid(child) == child);
    row("setpgid of a child back to mine", setpgid(child, 0) == 0 && getpgid(child) == child);
    row("setpgid of a child into my group", setpgid(child, getpid()));
    row("and it is", getpgid(child) == getpid());
    row("setsid of a leader", setsid());
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    child = fork();
    if (child == 0) {
        close(gate[0]);
        execl("/proc/self/exe", "groups", "sleep", NULL);
        _exit(1);
    }
    // The new program's copy of the pipe is closed by its end only: it says a byte when it runs.
    close(gate[1]);
    char said;
    row("the new program says", read(gate[0], &said, 1));
    row("setpgid of a child after execve", setpgid(child, child));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    child = fork();
    if (child == 0) {
        row("a child's setsid", setsid() == getpid());
        row("its group and session", getpgrp() == getpid() && getsid(0) == getpid());
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

static volatile sig_atomic_t told_code;

static void on_child(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    told_code = info->si_code;
}

// A group of its own whose parent, in another group of the session, could make it go on.
static void in_own_group(void) {
    setpgid(0, 0);
    waits();
}

static void stops(void) {
    struct sigaction action = {.sa_sigaction = on_child, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGCHLD, &action, NULL);
    int how;
    static const int signals[] = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
    for (int i = 0; i < 4; i++) {
        pid_t child = start(in_own_group);
        setpgid(child, child);
        kill(-child, signals[i]);
        row("waitpid WUNTRACED", waitpid(child, &how, WUNTRACED) == child);
        status("a stop", how);
        row("waitpid again, WNOHANG", waitpid(child, &how, WUNTRACED | WNOHANG));
        // The signal may come after the wait is over.
        while (told_code != CLD_STOPPED)
            usleep(1000);
        kill(child, SIGCONT);
        row("waitpid WCONTINUED", waitpid(child, &how, WCONTINUED) == child);
        status("it goes on", how);
        while (told_code != CLD_CONTINUED)
            usleep(1000);
        siginfo_t info = {0};
        kill(child, SIGSTOP);
        row("waitid WSTOPPED | WNOWAIT", waitid(P_PGID, child, &info, WSTOPPED | WNOWAIT));
        row("its code and status", info.si_code == CLD_STOPPED ? info.si_status : -1);
        row("waitid WSTOPPED", waitid(P_PID, child, &info, WSTOPPED));
        kill(child, SIGKILL);
        row("waitpid 0 finds no child of this group", waitpid(0, &how, 0));
        row("waitpid of the group", waitpid(-child, &how, 0) == child);
        status("killed while it is stopped", how);
    }
    signal(SIGCHLD, SIG_DFL);
}

// Its group has nobody outside: a stop by the terminal would be for ever.
static void orphans(void) {
    int how;
    static const int signals[] = {SIGTSTP, SIGTTIN, SIGTTOU};
    for (int i = 0; i < 3; i++) {
        pid_t child = start(waits);
        kill(child, signals[i]);
        kill(child, SIGTERM);
        row("waitpid of an orphaned group", waitpid(child, &how, WUNTRACED) == child);
        status("not stopped", how);
    }
    pid_t child = start(waits);
    kill(child, SIGSTOP);
    waitpid(child, &how, WUNTRACED);
    status("SIGSTOP stops it all the same", how);
    kill(child, SIGKILL);
    waitpid(child, &how, 0);
}

static int report;

static void on_hangup(int signal) {
    char c = signal == SIGHUP ? 'h' : signal == SIGCONT ? 'c' : '?';
    write(report, &c, 1);
}

// The one who could make a stopped group go on ends: the group is hung up on.
static void left_behind(void) {
    int pipes[2];
    pipe(pipes);
    pid_t shell = fork();
    if (shell == 0) {
        close(pipes[0]);
        report = pipes[1];
        setpgid(0, 0);
        pid_t job = fork();
        if (job == 0) {
            setpgid(0, 0);
            signal(SIGHUP, on_hangup);
            signal(SIGCONT, on_hangup);
            raise(SIGSTOP);
            // Both have come by the time that it runs again.
            _exit(0);
        }
        setpgid(job, job);
        int how;
        waitpid(job, &how, WUNTRACED);
        status("the job", how);
        _exit(0);
    }
    setpgid(shell, shell);
    waitpid(shell, NULL, 0);
    close(pipes[1]);
    char said[8] = {0};
    int n = 0, got;
    while (n < 7 && (got = read(pipes[0], said + n, 7 - n)) > 0)
        n += got;
    row("signals that the job got", n);
    row("SIGHUP and SIGCONT", strchr(said, 'h') && strchr(said, 'c'));
}

// A stop and SIGCONT that meet: whoever comes last wins, and nobody sleeps for ever.
static void meet(void) {
    pid_t child = start(in_own_group);
    setpgid(child, child);
    int ok = 1;
    for (int i = 0; i < 2000; i++) {
        kill(child, SIGTSTP);
        kill(child, SIGCONT);
    }
    kill(child, SIGTERM);
    int how;
    ok = waitpid(child, &how, 0) == child && WIFSIGNALED(how) && WTERMSIG(how) == SIGTERM;
    row("2000 stops that SIGCONT took back", ok);
}

// Whoever is just being forked is told what its group is told, or lives on where all were to end.
static void told_while_forking(void) {
    unsigned char *memory = map_pages(1024);
    memset(memory, 1, 1024 * PAGE);
    uint64_t seed = 1;
    int survived = 0;
    for (int i = 0; i < 20; i++) {
        int pipes[2];
        CHECK(pipe(pipes) == 0);
        pid_t forks = fork();
        if (forks == 0) {
            setpgid(0, 0);
            CHECK(write(pipes[1], "r", 1) == 1);
            for (int k = 0; k < 60 && fork() != 0; k++)
                ;
            for (;;)
                pause();
        }
        close(pipes[1]);
        char c;
        CHECK(read(pipes[0], &c, 1) == 1);
        usleep(next_random(&seed) % 4000);
        kill(-forks, SIGKILL);
        waitpid(forks, NULL, 0);
        // All of them have the other end.
        struct pollfd p = {.fd = pipes[0], .events = 0};
        if (poll(&p, 1, 10000) != 1) {
            survived++;
            while (kill(-forks, SIGKILL) == 0 && poll(&p, 1, 10) != 1)
                ;
        }
        close(pipes[0]);
    }
    munmap(memory, 1024 * PAGE);
    row("groups that one survived", survived);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "sleep") == 0) {
        for (int fd = 3; fd < 16; fd++)
            write(fd, "x", 1);
        waits();
    }
    // In a session of its own, whoever started it.
    pid_t leader = fork();
    if (leader == 0) {
        setsid();
        refusals();
        stops();
        orphans();
        left_behind();
        meet();
        told_while_forking();
        _exit(0);
    }
    int how;
    waitpid(leader, &how, 0);
    status("all", how);
    return 0;
}
