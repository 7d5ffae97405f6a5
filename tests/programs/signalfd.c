/* Signals that are read by descriptor: what a record tells, who is asked, who is woken. Every result is a line. */
#include "table.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <time.h>

typedef struct signalfd_siginfo record_t;

/* How many times two processes, or two threads, take turns: one of them sleeps by then. */
#define TURNS 300

static sigset_t set_of(int first, int second)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, first);
    if (second)
        sigaddset(&set, second);
    return set;
}

static int fresh(int first, int second, int flags)
{
    sigset_t set = set_of(first, second);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    int fd = signalfd(-1, &set, flags);
    CHECK(fd >= 0);
    return fd;
}

static short ready(int fd, int timeout)
{
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    int n = poll(&p, 1, timeout);
    return n < 0 ? -1 : p.revents;
}

/* Runs a part in a process of its own: signals and masks are nobody else's. */
static void part(const char *name, void (*run)(void))
{
    int how = 0;
    printf("-- %s\n", name);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        // Who sleeps for ever is a failure, and not a test without an end.
        alarm(60);
        run();
        _exit(0);
    }
    CHECK(waitpid(child, &how, 0) == child);
    status("it", how);
}

static void arguments(void)
{
    uint64_t all = ~0ULL, none = 0;
    unsigned char closed[2 * PAGE];
    int fd = (int)syscall(SYS_signalfd4, -1, &all, 8, 0), other = dup(1);
    CHECK(fd >= 0 && other >= 0);
    row("a mask of four bytes", syscall(SYS_signalfd4, -1, &all, 4, 0));
    row("a mask of sixteen bytes", syscall(SYS_signalfd4, -1, &all, 16, 0));
    row("a mask of no bytes", syscall(SYS_signalfd, -1, &all, 0));
    row("a mask nowhere", syscall(SYS_signalfd4, -1, 8L, 8, 0));
    row("a flag that is none", syscall(SYS_signalfd4, -1, &all, 8, 1));
    row("a flag that is none, and a descriptor", syscall(SYS_signalfd4, fd, &all, 8, 1));
    row("no descriptor", syscall(SYS_signalfd4, 99, &all, 8, 0));
    row("number -2", syscall(SYS_signalfd4, -2, &all, 8, 0));
    row("another descriptor", syscall(SYS_signalfd4, other, &all, 8, 0));
    row("the descriptor itself", syscall(SYS_signalfd4, fd, &none, 8, SFD_NONBLOCK | SFD_CLOEXEC) == fd);
    row("which waits as before", (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    row("and is kept as before", fcntl(fd, F_GETFD));
    row("the older call", close((int)syscall(SYS_signalfd, -1, &all, 8)));
    row("SFD_CLOEXEC", fcntl(fresh(SIGUSR1, 0, SFD_CLOEXEC), F_GETFD));
    int flags = fcntl(fresh(SIGUSR1, 0, SFD_NONBLOCK), F_GETFL);
    row("SFD_NONBLOCK", (flags & O_NONBLOCK) != 0);
    row("read and written", (flags & O_ACCMODE) == O_RDWR);
    char link[64] = "", path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(readlink(path, link, sizeof link - 1) > 0);
    row(link, 0);
    fd = fresh(SIGUSR1, 0, SFD_NONBLOCK);
    row("a record has", (long)sizeof(record_t));
    row("read of nothing", read(fd, closed, sizeof(record_t)));
    row("read of too little, with nothing there", read(fd, closed, sizeof(record_t) - 1));
    row("read of no bytes", read(fd, closed, 0));
    row("write", write(fd, closed, sizeof(record_t)));
    CHECK(kill(getpid(), SIGUSR1) == 0);
    row("read of too little, with one there", read(fd, closed, sizeof(record_t) - 1));
    row("it is there yet", ready(fd, 0));
    row("read of one", read(fd, closed, sizeof(record_t)));
}

static void many(void)
{
    record_t got[8];
    sigset_t pending;
    int fd = fresh(SIGUSR1, SIGUSR2, SFD_NONBLOCK);
    pid_t self = getpid();
    row("ready before", ready(fd, 0));
    CHECK(kill(self, SIGUSR2) == 0 && kill(self, SIGUSR1) == 0 && kill(self, SIGUSR1) == 0);
    row("ready", ready(fd, 0));
    row("read of one and a half", read(fd, got, sizeof *got * 3 / 2));
    row("the lower number first", got->ssi_signo == SIGUSR1);
    CHECK(sigpending(&pending) == 0);
    row("it waits no more", sigismember(&pending, SIGUSR1));
    row("the other one does", sigismember(&pending, SIGUSR2));
    CHECK(kill(self, SIGUSR1) == 0);
    row("read of eight", read(fd, got, sizeof got));
    row("first", got[0].ssi_signo == SIGUSR1);
    row("second", got[1].ssi_signo == SIGUSR2);
    row("ready after", ready(fd, 0));
    row("read after", read(fd, got, sizeof got));
    close(fd);
    fd = fresh(SIGRTMIN, SIGRTMIN + 1, SFD_NONBLOCK);
    for (int i = 0; i < 5; i++)
        CHECK(sigqueue(self, SIGRTMIN + 1 - i % 2, (union sigval){.sival_int = i}) == 0);
    row("queued signals, three at a time", read(fd, got, 3 * sizeof *got));
    row("in which the lower number is first", 100 * got[0].ssi_int + 10 * got[1].ssi_int + got[2].ssi_int);
    row("and the rest", read(fd, got, 3 * sizeof *got));
    row("in turn", 10 * got[0].ssi_int + got[1].ssi_int);
}

/* What has no place is lost, as far as it was taken. */
static void cliffs(void)
{
    unsigned char *at = map_pages(2), *cliff = at + PAGE;
    CHECK(munmap(cliff, PAGE) == 0);
    int fd = fresh(SIGUSR1, SIGUSR2, SFD_NONBLOCK);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    row("read beyond the cliff", read(fd, cliff, sizeof(record_t)));
    row("afterwards", read(fd, at, sizeof(record_t)));
    CHECK(kill(getpid(), SIGUSR1) == 0 && kill(getpid(), SIGUSR2) == 0);
    row("the second beyond the cliff", read(fd, cliff - sizeof(record_t), 2 * sizeof(record_t)));
    row("is the first", ((record_t *)(cliff - sizeof(record_t)))->ssi_signo == SIGUSR1);
    row("afterwards", read(fd, at, sizeof(record_t)));
}

static void masks(void)
{
    record_t got;
    sigset_t set, fatal = set_of(SIGKILL, SIGSTOP);
    int fd = fresh(SIGUSR1, SIGUSR2, SFD_NONBLOCK);
    sigaddset(&fatal, SIGUSR2);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    row("SIGKILL and SIGSTOP are left out", signalfd(fd, &fatal, 0) == fd);
    row("what waits is not in the new mask", ready(fd, 0));
    row("nor read", read(fd, &got, sizeof got));
    set = set_of(SIGUSR1, 0);
    row("it is again", signalfd(fd, &set, 0) == fd);
    row("ready", ready(fd, 0));
    row("a copy shares the mask", ready(dup(fd), 0));
    row("read", read(fd, &got, sizeof got));
    // What is ignored while it is blocked waits all the same.
    CHECK(signal(SIGUSR1, SIG_IGN) != SIG_ERR);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    row("blocked and ignored", read(fd, &got, sizeof got));
    CHECK(kill(getpid(), SIGUSR1) == 0 && signal(SIGUSR1, SIG_IGN) != SIG_ERR);
    row("ignored after it came", read(fd, &got, sizeof got));
    // A signal that is not blocked goes to its handler before anybody can read it.
    set = set_of(SIGUSR2, 0);
    CHECK(signalfd(fd, &set, 0) == fd && signal(SIGUSR2, SIG_IGN) != SIG_ERR);
    CHECK(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0 && kill(getpid(), SIGUSR2) == 0);
    row("not blocked and ignored", read(fd, &got, sizeof got));
}

static void tell(const char *name, const record_t *got)
{
    printf("%-20s errno %d code %d trapno %u fd %d band %u addr %llu\n", name, got->ssi_errno, got->ssi_code, got->ssi_trapno,
           got->ssi_fd, got->ssi_band, (unsigned long long)got->ssi_addr);
    fflush(stdout);
}

static void fields(void)
{
    record_t got;
    if (geteuid() == 0)
        CHECK(setuid(1000) == 0);
    int fd = fresh(SIGUSR1, SIGRTMIN, 0), children = fresh(SIGCHLD, 0, 0);
    pid_t self = getpid();
#define TAKE(from) CHECK(memset(&got, 0xff, sizeof got) && read(from, &got, sizeof got) == sizeof got)
    CHECK(kill(self, SIGUSR1) == 0);
    TAKE(fd);
    tell("kill", &got);
    row("process", got.ssi_pid == (unsigned)self);
    row("user", got.ssi_uid == getuid());
    row("value", got.ssi_int | (long)got.ssi_ptr);
    CHECK(syscall(SYS_tgkill, self, self, SIGUSR1) == 0);
    TAKE(fd);
    tell("tgkill", &got);
    row("process", got.ssi_pid == (unsigned)self);
    CHECK(sigqueue(self, SIGRTMIN, (union sigval){.sival_ptr = (void *)0x1234567890abL}) == 0);
    TAKE(fd);
    tell("sigqueue", &got);
    row("process", got.ssi_pid == (unsigned)self);
    row("user", got.ssi_uid == getuid());
    row("number", got.ssi_int);
    row("pointer", (long)got.ssi_ptr);
    for (int how = 0; how < 2; how++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            // Linux samples the time: many ticks are some.
            while (clock() < CLOCKS_PER_SEC / 5)
                ;
            if (how == 0)
                _exit(17);
            raise(SIGKILL);
        }
        TAKE(children);
        tell("SIGCHLD", &got);
        row("process", got.ssi_pid == (unsigned)child);
        row("status", got.ssi_status);
        row("some time", got.ssi_utime + got.ssi_stime >= 2 && got.ssi_utime + got.ssi_stime < 6000);
        wait(NULL);
    }
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1, .sigev_value.sival_int = 55};
    struct itimerspec soon = {.it_value.tv_nsec = 1000};
    timer_t timer;
    int timers = fresh(SIGALRM, SIGRTMIN + 1, 0);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &soon, NULL) == 0);
    TAKE(timers);
    tell("a timer", &got);
    row("value", got.ssi_int);
    row("overrun", got.ssi_overrun);
    CHECK(setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = 1000}, NULL) == 0);
    TAKE(timers);
    tell("an alarm", &got);
    unsigned char *rest = (unsigned char *)&got + 100, sum = 0;
    for (unsigned i = 100; i < sizeof got; i++)
        sum |= *rest++;
    row("nothing in the padding", sum);
}

/* Each sends the other a signal and waits for the answer. `wait_for` sleeps until it is ready. */
static void turns(const char *name, int (*wait_for)(int))
{
    int fd = fresh(SIGUSR1, 0, 0), n = 0;
    pid_t parent = getpid(), child = fork();
    CHECK(child >= 0);
    pid_t other = child ? child : parent;
    for (; n < TURNS; n++) {
        record_t got;
        if (child)
            CHECK(kill(other, SIGUSR1) == 0);
        CHECK(!wait_for || wait_for(fd) == 1);
        CHECK(read(fd, &got, sizeof got) == sizeof got && got.ssi_pid == (unsigned)other);
        if (!child)
            CHECK(kill(other, SIGUSR1) == 0);
    }
    if (!child)
        _exit(0);
    wait_ok(child);
    row(name, n);
    close(fd);
}

static int by_poll(int fd)
{
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, -1);
}

static int by_select(int fd)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    return select(fd + 1, &set, NULL, NULL, NULL);
}

/* Made by whoever asks first: on Linux signals wake the process that has added it. */
static int by_epoll(int fd)
{
    static int epoll;
    static pid_t maker;
    struct epoll_event event = {.events = EPOLLIN};
    if (maker != getpid()) {
        CHECK((epoll = epoll_create1(0)) >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
        maker = getpid();
    }
    return epoll_wait(epoll, &event, 1, -1);
}

static void sleepers(void)
{
    turns("a read is woken", NULL);
    turns("poll is woken", by_poll);
    turns("select is woken", by_select);
    turns("epoll is woken", by_epoll);
    int fd = fresh(SIGUSR2, 0, 0);
    row("poll in vain", ready(fd, 10));
}

static int shared_fd, first_tid;
static pthread_barrier_t step;

/* The second of two threads. */
static void *second(void *unused)
{
    record_t got;
    pthread_barrier_wait(&step);
    row("not ready for the other", ready(shared_fd, 0));
    row("nor read by the other", read(shared_fd, &got, sizeof got));
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    row("what is the process's is ready for the other", ready(shared_fd, 0));
    row("and read by the other", read(shared_fd, &got, sizeof got));
    pthread_barrier_wait(&step);
    // Each of the two is woken by what is its own.
    CHECK(fcntl(shared_fd, F_SETFL, 0) == 0);
    pthread_barrier_wait(&step);
    int n = 0;
    for (; n < TURNS; n++) {
        CHECK(read(shared_fd, &got, sizeof got) == sizeof got);
        CHECK(syscall(SYS_tgkill, getpid(), first_tid, SIGUSR1) == 0);
    }
    for (; n > 0; n--) {
        pthread_barrier_wait(&step);
        CHECK(read(shared_fd, &got, sizeof got) == sizeof got && got.ssi_signo == SIGUSR2);
        pthread_barrier_wait(&step);
    }
    return unused;
}

static void threads(void)
{
    record_t got;
    pthread_t other;
    sigset_t set = set_of(SIGUSR1, 0);
    close(fresh(SIGUSR2, 0, 0));
    shared_fd = fresh(SIGUSR1, 0, SFD_NONBLOCK);
    first_tid = getpid();
    CHECK(pthread_barrier_init(&step, NULL, 2) == 0 && pthread_create(&other, NULL, second, NULL) == 0);
    CHECK(syscall(SYS_tgkill, getpid(), first_tid, SIGUSR1) == 0);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    row("ready for whom it is sent to", ready(shared_fd, 0));
    CHECK(kill(getpid(), SIGUSR1) == 0);
    row("its own first", read(shared_fd, &got, sizeof got));
    row("which is from tgkill", got.ssi_code == SI_TKILL);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    row("ready", ready(shared_fd, 0));
    pthread_barrier_wait(&step);
    int n = 0;
    for (; n < TURNS; n++) {
        CHECK(pthread_kill(other, SIGUSR1) == 0);
        CHECK(read(shared_fd, &got, sizeof got) == sizeof got && got.ssi_code == SI_TKILL);
    }
    // What waits already is read as soon as the mask has it.
    sigset_t both = set_of(SIGUSR1, SIGUSR2);
    for (int i = 0; i < n; i++) {
        CHECK(signalfd(shared_fd, &set, 0) == shared_fd && kill(first_tid, SIGUSR2) == 0);
        pthread_barrier_wait(&step);
        sched_yield();
        CHECK(signalfd(shared_fd, &both, 0) == shared_fd);
        pthread_barrier_wait(&step);
    }
    CHECK(pthread_join(other, NULL) == 0);
    row("threads wake one another", n);
    CHECK(sigpending(&set) == 0);
    row("nothing waits", sigismember(&set, SIGUSR1));
}

static void inherited(void)
{
    record_t got;
    int fd = fresh(SIGUSR1, 0, SFD_NONBLOCK);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        row("the parent's is not the child's", ready(fd, 0));
        row("nor read", read(fd, &got, sizeof got));
        CHECK(kill(getpid(), SIGUSR1) == 0);
        row("the child's own", read(fd, &got, sizeof got));
        row("from itself", got.ssi_pid == (unsigned)getpid());
        _exit(0);
    }
    wait_ok(child);
    row("the parent's is there yet", read(fd, &got, sizeof got));
    row("from itself", got.ssi_pid == (unsigned)getpid());
}

static volatile sig_atomic_t handled, wanted;

static void on_alarm(int number)
{
    (void)number;
    // Late enough that whoever waited in vain has begun to wait.
    if (++handled == wanted)
        kill(getpid(), SIGUSR1);
}

static void handlers(void)
{
    record_t got;
    struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = on_alarm};
    struct pollfd p = {fresh(SIGUSR1, 0, 0), POLLIN, 0};
    int fd = p.fd;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
    row("a read that a handler interrupts", read(fd, &got, sizeof got));
    row("poll that a handler interrupts", poll(&p, 1, -1));
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    wanted = handled + 5;
    row("one that goes on", read(fd, &got, sizeof got));
    row("with what the handler sent", got.ssi_signo == SIGUSR1);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

/* The same program, by execve: `argv[1]` is the descriptor that was kept, `argv[2]` the one that was not. */
static int after_exec(char **argv)
{
    record_t got;
    int kept = atoi(argv[1]), gone = atoi(argv[2]);
    row("kept, and ready", ready(kept, 0));
    row("read", read(kept, &got, sizeof got));
    row("from before", got.ssi_signo == SIGUSR1 && got.ssi_pid == (unsigned)getpid());
    row("SFD_CLOEXEC is gone", fcntl(gone, F_GETFD));
    return 0;
}

static const char *self;

static void executed(void)
{
    char kept[16], gone[16];
    snprintf(kept, sizeof kept, "%d", fresh(SIGUSR1, 0, SFD_NONBLOCK));
    snprintf(gone, sizeof gone, "%d", fresh(SIGUSR1, 0, SFD_CLOEXEC));
    CHECK(kill(getpid(), SIGUSR1) == 0);
    execl(self, self, kept, gone, NULL);
    CHECK(0, "execl");
}

/* Edges: told once, and again after the next one came. */
static void edges(void)
{
    record_t got;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int fd = fresh(SIGUSR1, 0, SFD_NONBLOCK), epoll = epoll_create1(0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
    row("nothing yet", epoll_wait(epoll, &event, 1, 0));
    CHECK(kill(getpid(), SIGUSR1) == 0);
    row("an edge", epoll_wait(epoll, &event, 1, -1));
    row("once", epoll_wait(epoll, &event, 1, 0));
    row("read", read(fd, &got, sizeof got));
    row("nothing", epoll_wait(epoll, &event, 1, 0));
    CHECK(kill(getpid(), SIGUSR1) == 0);
    row("another", epoll_wait(epoll, &event, 1, -1));
}

int main(int argc, char **argv)
{
    if (argc > 2)
        return after_exec(argv);
    self = argv[0];
    part("arguments", arguments);
    part("many", many);
    part("cliffs", cliffs);
    part("masks", masks);
    part("fields", fields);
    part("sleepers", sleepers);
    part("threads", threads);
    part("inherited", inherited);
    part("handlers", handlers);
    part("executed", executed);
    part("edges", edges);
    return 0;
}
