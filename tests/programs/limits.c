/* What a program is refused, and when: pipes' sizes, descriptors, processes of a user, namespaces, queued signals. */
#include "common.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static void pipe_sizes(void)
{
    int fd[2];
    char bytes[4096] = "";
    CHECK(pipe2(fd, O_NONBLOCK) == 0);
    CHECK(fcntl(fd[0], F_GETPIPE_SZ) == 65536);
    CHECK(fcntl(fd[1], F_SETPIPE_SZ, 1) == 4096);
    CHECK(write(fd[1], bytes, 4096) == 4096);
    CHECK(write(fd[1], bytes, 1) == -1 && errno == EAGAIN);
    CHECK(fcntl(fd[1], F_SETPIPE_SZ, 8193) == 16384 && fcntl(fd[0], F_GETPIPE_SZ) == 16384);
    for (int i = 0; i < 3; i++)
        CHECK(write(fd[1], bytes, 4096) == 4096);
    CHECK(write(fd[1], bytes, 1) == -1 && errno == EAGAIN);
    CHECK(fcntl(fd[1], F_SETPIPE_SZ, 8192) == -1 && errno == EBUSY);
    CHECK(fcntl(fd[1], F_SETPIPE_SZ, 1 << 20) == 1 << 20);
    long total = 4 * 4096, n;
    while ((n = write(fd[1], bytes, 4096)) > 0)
        total += n;
    CHECK(total == 1 << 20, "%ld bytes", total);
    while ((n = read(fd[0], bytes, 4096)) > 0)
        total -= n;
    CHECK(total == 0);
    CHECK(fcntl(fd[1], F_SETPIPE_SZ, 0) == 4096);
    int file = open("/dev/null", O_RDWR);
    CHECK(fcntl(file, F_SETPIPE_SZ, 4096) == -1 && errno == EBADF);
    CHECK(fcntl(file, F_GETPIPE_SZ) == -1 && errno == EBADF);
    close(file);
    close(fd[0]);
    close(fd[1]);
}

static void descriptors(void)
{
    struct rlimit limit = {20000, 20000};
    CHECK(syscall(SYS_close_range, 3, ~0U, 0) == 0);
    int fd = open("/dev/null", O_RDWR), last = 0;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (int n = 0; n < 20000 - 4; n++)
        CHECK((last = dup(fd)) >= 0, "%d", n);
    CHECK(last == 19999, "%d", last);
    CHECK(dup(fd) == -1 && errno == EMFILE);
    CHECK(fcntl(fd, F_DUPFD, 20000) == -1 && errno == EINVAL);
    CHECK(dup2(fd, 20000) == -1 && errno == EBADF);
    CHECK(close(12345) == 0 && dup(fd) == 12345);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(fcntl(19999, F_GETFD) == 0);
        _exit(0);
    }
    wait_ok(child);
    CHECK(syscall(SYS_close_range, 1000, ~0U, 0) == 0);
    CHECK(dup(fd) == 1000);
    limit.rlim_cur = 500;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(fcntl(999, F_GETFD) == 0, "what is open stays");
    CHECK(dup(fd) == -1 && errno == EMFILE);
    CHECK(syscall(SYS_close_range, 4, ~0U, 0) == 0);
    limit.rlim_max = 1UL << 40;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == -1 && errno == EPERM);
    limit.rlim_cur = 30000, limit.rlim_max = 20000;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == -1 && errno == EINVAL);
}

/* The rest is a user's. */
static void become(unsigned id)
{
    CHECK(setresgid(id, id, id) == 0 && setresuid(id, id, id) == 0);
}

static void processes(void)
{
    struct rlimit limit = {5, 5};
    pid_t children[8];
    int n = 0;
    CHECK(setrlimit(RLIMIT_NPROC, &limit) == 0);
    become(54321);
    while (n < 8 && (children[n] = fork()) > 0)
        n++;
    if (n < 8 && children[n] == 0) {
        pause();
        _exit(0);
    }
    CHECK(n == 4 && errno == EAGAIN, "%d children", n);
    for (int i = 0; i < n; i++) {
        CHECK(kill(children[i], SIGKILL) == 0);
        CHECK(waitpid(children[i], NULL, 0) == children[i]);
    }
    wait_ok(fork() ?: (_exit(0), 0));
}

static void namespaces(void)
{
    become(54322);
    int flags[] = {CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        long child = syscall(SYS_clone, flags[i] | SIGCHLD, 0, 0, 0, 0);
        if (child == 0)
            _exit(0);
        CHECK(child == -1 && errno == EPERM, "flag 0x%x: %ld", flags[i], child);
    }
}

static void signals(void)
{
    struct rlimit limit = {10, 10};
    union sigval value = {.sival_int = 1};
    sigset_t set;
    become(54323);
    CHECK(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    for (int i = 0; i < 10; i++)
        CHECK(sigqueue(getpid(), SIGRTMIN, value) == 0, "signal %d", i);
    CHECK(sigqueue(getpid(), SIGRTMIN, value) == -1 && errno == EAGAIN);
    CHECK(kill(getpid(), SIGUSR1) == 0, "standard signals always arrive");
    sigpending(&set);
    CHECK(sigismember(&set, SIGUSR1) == 1 && sigismember(&set, SIGRTMIN) == 1);
}

static void in_a_child(void (*part)(void))
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        part();
        _exit(0);
    }
    wait_ok(child);
}

int main(void)
{
    in_a_child(pipe_sizes);
    in_a_child(descriptors);
    in_a_child(processes);
    in_a_child(namespaces);
    in_a_child(signals);
    printf("limits: pipes, descriptors, processes, namespaces, signals\n");
    return 0;
}
