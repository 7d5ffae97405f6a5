/* Edge-triggered epoll: what counts as an edge. Every result is a line of the table: how many files were told of, and how. */
#include "table.h"
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>

static int epoll;

/* What is told within a moment: events, or 0. Edges that are due come at once. */
static void told(const char *name)
{
    struct epoll_event event = {0};
    int n = epoll_wait(epoll, &event, 1, 100);
    row(name, n < 0 ? -1 : (n == 0 ? 0 : (long)event.events));
}

static void watch(int fd, unsigned events)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.fd = fd};
    if (epoll >= 0)
        close(epoll);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

static void arm(int fd, unsigned events)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.fd = fd};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) == 0);
}

static void put(int fd, size_t n)
{
    static char bytes[65536];
    CHECK(write(fd, bytes, n) == (ssize_t)n);
}

static void take(int fd, size_t most)
{
    static char bytes[65536];
    CHECK(read(fd, bytes, most) > 0);
}

/* Bytes that are read from one end and written to the other. */
static void stream(const char *what, int from, int to)
{
    printf("%s\n", what);
    watch(from, EPOLLIN);
    told("  empty");
    put(to, 4);
    told("  written");
    told("  nothing since");
    put(to, 4);
    told("  more, nothing read");
    take(from, 4);
    told("  some read");
    take(from, 64);
    told("  all read");
    put(to, 1);
    told("  written again");
    take(from, 64);
    put(to, 1);
    told("  read and written in one go");
    arm(from, EPOLLIN);
    told("  armed anew");
    told("  nothing since");
    arm(from, EPOLLIN | EPOLLONESHOT);
    told("  once");
    put(to, 1);
    told("  more after once");
    arm(from, EPOLLIN | EPOLLONESHOT);
    told("  once more");
}

static void writers(void)
{
    int ends[2];
    printf("a pipe's writer\n");
    CHECK(pipe2(ends, O_NONBLOCK) == 0);
    watch(ends[1], EPOLLOUT);
    told("  room");
    told("  nothing since");
    put(ends[1], 65536);
    told("  full");
    for (int i = 0; i < 16; i++)
        take(ends[0], 4096);
    told("  drained");
    told("  nothing since");
    close(ends[0]);
    told("  nobody reads");
    close(ends[1]);
}

static void ends_of_streams(void)
{
    int ends[2];
    printf("ends\n");
    CHECK(pipe2(ends, O_NONBLOCK) == 0);
    watch(ends[0], EPOLLIN);
    put(ends[1], 1);
    told("  written");
    close(ends[1]);
    told("  nobody writes, bytes are left");
    told("  nothing since");
    take(ends[0], 8);
    told("  all read");
    close(ends[0]);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
    watch(ends[0], EPOLLIN | EPOLLRDHUP);
    told("  a socket, empty");
    shutdown(ends[1], SHUT_WR);
    told("  shut down");
    close(ends[1]);
    told("  closed");
    close(ends[0]);
}

static void counters(void)
{
    uint64_t one = 1, n;
    printf("eventfd\n");
    int fd = eventfd(0, EFD_NONBLOCK | EFD_SEMAPHORE);
    watch(fd, EPOLLIN);
    told("  zero");
    for (int i = 0; i < 3; i++)
        CHECK(write(fd, &one, 8) == 8);
    told("  added thrice");
    CHECK(read(fd, &n, 8) == 8);
    told("  one taken");
    CHECK(write(fd, &one, 8) == 8);
    told("  added");
    for (int i = 0; i < 3; i++)
        CHECK(read(fd, &n, 8) == 8);
    told("  all taken");
    CHECK(write(fd, &one, 8) == 8);
    told("  added again");
    close(fd);
    printf("timerfd\n");
    fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    watch(fd, EPOLLIN);
    told("  not set");
    struct itimerspec soon = {.it_value.tv_nsec = 1000000};
    CHECK(timerfd_settime(fd, 0, &soon, NULL) == 0);
    usleep(50000);
    told("  over");
    told("  nothing since");
    CHECK(timerfd_settime(fd, 0, &soon, NULL) == 0);
    usleep(50000);
    told("  over again, not read");
    close(fd);
}

static void signals(void)
{
    sigset_t set;
    printf("signalfd\n");
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    int fd = signalfd(-1, &set, SFD_NONBLOCK);
    watch(fd, EPOLLIN);
    told("  none");
    kill(getpid(), SIGUSR1);
    told("  one");
    told("  nothing since");
    kill(getpid(), SIGUSR2);
    told("  another");
    close(fd);
}

static void listening(void)
{
    printf("a listening socket\n");
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    CHECK(bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 8) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    watch(fd, EPOLLIN);
    told("  nobody");
    int clients[2];
    for (int i = 0; i < 2; i++) {
        clients[i] = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(connect(clients[i], (struct sockaddr *)&at, sizeof at) == 0);
        told(i == 0 ? "  one connects" : "  another, none accepted");
    }
    int one = accept4(fd, NULL, NULL, SOCK_NONBLOCK);
    told("  one accepted");
    stream("TCP", one, clients[0]);
    close(fd);
}

int main(void)
{
    int ends[2];
    epoll = -1;
    CHECK(pipe2(ends, O_NONBLOCK) == 0);
    stream("a pipe", ends[0], ends[1]);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
    stream("a stream", ends[0], ends[1]);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends) == 0);
    stream("packets", ends[0], ends[1]);
    writers();
    ends_of_streams();
    counters();
    signals();
    listening();
    return 0;
}
