/* Two threads that want the same socket or pipe, and what a message may not bring: a table, the same on every
 * Linux. */
#include "ring.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

static int result(long value)
{
    return value == -1 ? -errno : (int)value;
}

static int named(int fd, const char *name, long number, int (*call)(int, const struct sockaddr *, socklen_t))
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int len = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "claims-%s%ld", name, number);
    return result(call(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + len));
}

static int fresh(int type)
{
    int fd = socket(AF_UNIX, type, 0);
    CHECK(fd >= 0);
    return fd;
}

struct task {
    pthread_t thread;
    int fd, to, result;
};

static void start(struct task *task, void *(*run)(void *))
{
    CHECK(pthread_create(&task->thread, NULL, run, task) == 0);
    /* Until it waits; whoever is slower sees the same, and tries less. */
    usleep(100000);
}

static int end(struct task *task)
{
    CHECK(pthread_join(task->thread, NULL) == 0);
    return task->result;
}

static void *connects(void *arg)
{
    struct task *task = arg;
    task->result = named(task->fd, "queue", 0, connect);
    return NULL;
}

static void *accepts(void *arg)
{
    struct task *task = arg;
    task->result = result(accept(task->fd, NULL, NULL)) >= 0;
    return NULL;
}

/* Connecting waits for room; meanwhile the socket begins to listen, or is connected by another. */
static void waits_to_connect(void)
{
    int listener = fresh(SOCK_STREAM), first = fresh(SOCK_STREAM), client = fresh(SOCK_STREAM);
    CHECK(named(listener, "queue", 0, bind) == 0 && listen(listener, 0) == 0 && named(first, "queue", 0, connect) == 0);
    struct task one = {.fd = fresh(SOCK_STREAM)}, other = {.fd = one.fd};
    start(&one, connects);
    CHECK(named(one.fd, "other", 0, bind) == 0 && listen(one.fd, 5) == 0);
    start(&other, accepts);
    CHECK(accept(listener, NULL, NULL) >= 0);
    printf("connect, then listen: %d", end(&one));
    printf(", connected %d", named(client, "other", 0, connect));
    printf(", accepted %d\n", end(&other));
    CHECK(named(fresh(SOCK_STREAM), "queue", 0, connect) == 0);
    struct task both[2] = {{.fd = fresh(SOCK_STREAM)}};
    both[1].fd = both[0].fd;
    start(&both[0], connects);
    start(&both[1], connects);
    CHECK(accept(listener, NULL, NULL) >= 0);
    usleep(100000);
    CHECK(accept(listener, NULL, NULL) >= 0);
    int results[2] = {end(&both[0]), end(&both[1])};
    printf("connect, then connect: %d, the other %d\n", results[0] > results[1] ? results[0] : results[1],
           results[0] > results[1] ? results[1] : results[0]);
    close(listener);
}

enum { ROUNDS = 5000 };
static pthread_barrier_t meet;
static int wanted, mine;

static void *binds(void *unused)
{
    for (long i = 0; i < ROUNDS; i++) {
        pthread_barrier_wait(&meet);
        mine = named(wanted, "b", i, bind);
        pthread_barrier_wait(&meet);
    }
    return unused;
}

/* Of two that name a socket, one does, and the other's name is free. */
static void two_names(void)
{
    pthread_t thread;
    int both = 0, kept = 0;
    CHECK(pthread_barrier_init(&meet, NULL, 2) == 0 && pthread_create(&thread, NULL, binds, NULL) == 0);
    for (long i = 0; i < ROUNDS; i++) {
        wanted = fresh(SOCK_STREAM);
        pthread_barrier_wait(&meet);
        int theirs = named(wanted, "a", i, bind);
        pthread_barrier_wait(&meet);
        both += theirs == 0 && mine == 0;
        int another = fresh(SOCK_STREAM);
        kept += named(another, theirs == 0 ? "b" : "a", i, bind) != 0;
        close(another);
        close(wanted);
    }
    pthread_join(thread, NULL);
    printf("two names: both %d, kept %d\n", both, kept);
}

static int send_file(int fd, int file)
{
    char control[CMSG_SPACE(sizeof file)] = "";
    struct iovec piece = {"x", 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof file)};
    memcpy(CMSG_DATA(header), &file, sizeof file);
    return result(sendmsg(fd, &message, MSG_NOSIGNAL));
}

/* The number that the next descriptor gets: one that nobody was told of would move it. */
static int next_number(int fd)
{
    int next = dup(fd);
    close(next);
    return next;
}

static void bad_places(void)
{
    int pair[2], file = open("/dev/null", O_RDONLY);
    CHECK(file >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    for (int told = 0; told < 2; told++) {
        CHECK(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &told, sizeof told) == 0);
        for (long at = 0; at <= 8; at += 8) {
            char byte = 0;
            struct iovec piece = {&byte, 1};
            struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = (void *)at, .msg_controllen = 64};
            CHECK(send_file(pair[0], file) == 1);
            int before = next_number(file), got = result(recvmsg(pair[1], &message, MSG_DONTWAIT));
            printf("control at %ld, credentials %d: %d \"%c\", flags %#x, control %zu, descriptors %d\n", at, told, got, byte,
                   message.msg_flags, message.msg_controllen, next_number(file) - before);
        }
    }
    struct ring ring;
    CHECK(ring_make(&ring, 1, 0, 0) == 0);
    printf("a ring: %d\n", send_file(pair[0], ring.fd));
    close(pair[0]);
    close(pair[1]);
}

/* Datagrams to who has ended receiving, has gone, or hears another. */
static void deaf(void)
{
    int pair[2], one = fresh(SOCK_DGRAM), other = fresh(SOCK_DGRAM), third = fresh(SOCK_DGRAM);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0claims-one0"};
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0 && shutdown(pair[1], SHUT_RD) == 0);
    printf("who has ended receiving: %d", result(send(pair[0], "x", 1, MSG_NOSIGNAL)));
    close(pair[1]);
    printf(", has gone: %d", result(send(pair[0], "x", 1, MSG_NOSIGNAL)));
    printf(" %d\n", result(send(pair[0], "x", 1, MSG_NOSIGNAL)));
    CHECK(named(one, "one", 0, bind) == 0 && named(other, "two", 0, bind) == 0 && named(one, "two", 0, connect) == 0);
    printf("who hears another: %d", result(sendto(third, "x", 1, 0, (void *)&address, offsetof(struct sockaddr_un, sun_path) + 12)));
    printf(", connect %d", named(third, "one", 0, connect));
    printf(", the one that he hears %d\n", named(other, "one", 0, connect));
}

static void *splices(void *arg)
{
    struct task *task = arg;
    task->result = result(splice(task->fd, NULL, task->to, NULL, PAGE, 0));
    return NULL;
}

/* A splice that cannot write what it has in hand puts it back before what another takes. */
static void in_order(void)
{
    static char bytes[PAGE];
    int pipes[2], pair[2], file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    CHECK(file >= 0 && pipe(pipes) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    while (send(pair[0], bytes, sizeof bytes, MSG_DONTWAIT) > 0)
        ;
    for (int c = 'A'; c <= 'B'; c++) {
        memset(bytes, c, sizeof bytes);
        CHECK(write(pipes[1], bytes, sizeof bytes) == sizeof bytes);
    }
    struct task one = {.fd = pipes[0], .to = pair[0]}, other = {.fd = pipes[0], .to = file};
    start(&one, splices);
    start(&other, splices);
    CHECK(shutdown(pair[1], SHUT_RD) == 0);
    printf("splice: %d", end(&one));
    printf(", the other %d", end(&other));
    CHECK(pread(file, bytes, 1, 0) == 1);
    printf(" of %c", bytes[0]);
    CHECK(read(pipes[0], bytes, 1) == 1);
    printf(", left %c\n", bytes[0]);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    waits_to_connect();
    two_names();
    bad_places();
    deaf();
    in_order();
    return 0;
}
