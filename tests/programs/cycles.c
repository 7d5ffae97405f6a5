/* Sockets that are on their way through themselves and each other, which nobody can receive: they go. What can
 * be received stays. Prints the same on every Linux. */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void need(int holds, const char *what)
{
    if (!holds) {
        perror(what);
        exit(1);
    }
}

/* Sends `count` descriptors. */
static int pass(int through, const int *fds, int count)
{
    char control[CMSG_SPACE(4 * sizeof(int))] = {0}, byte = 'x';
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    *c = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    return sendmsg(through, &message, 0) == 1;
}

/* Receives one. */
static int take(int from)
{
    char control[CMSG_SPACE(4 * sizeof(int))], byte;
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    need(recvmsg(from, &message, 0) == 1, "recvmsg");
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    need(c && c->cmsg_type == SCM_RIGHTS, "a descriptor");
    return *(int *)CMSG_DATA(c);
}

/* Waits for the end of a pipe. Linux looks for what nobody can receive when a socket goes. */
static void wait_for_end(int end)
{
    struct pollfd one = {end, POLLIN, 0};
    char byte;
    do {
        int ends[2];
        need(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
        close(ends[0]);
        close(ends[1]);
    } while (poll(&one, 1, 10) == 0);
    need(read(end, &byte, 1) == 0, "the pipe's end");
    close(end);
}

/* A socket in its own queue, with the end of a pipe; then two in each other's. The pipe's end says that they
 * are gone. */
static void gone(int kind, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        int a[2], b[2], ends[2];
        need(socketpair(AF_UNIX, kind, 0, a) == 0 && socketpair(AF_UNIX, kind, 0, b) == 0, "socketpair");
        need(pipe(ends) == 0, "pipe");
        if (i % 2) {
            need(pass(a[0], (int[]){a[1], ends[1]}, 2), "pass to itself");
        } else {
            need(pass(a[0], (int[]){b[1], ends[1]}, 2) && pass(b[0], (int[]){a[1]}, 1), "pass to each other");
        }
        for (int j = 0; j < 2; j++) {
            close(a[j]);
            close(b[j]);
        }
        close(ends[1]);
        wait_for_end(ends[0]);
    }
    printf("%d rounds\n", rounds);
}

/* More than may be on their way at a time. */
static void many(int rounds)
{
    for (int i = 0; i < rounds; i++) {
        int a[2];
        need(socketpair(AF_UNIX, SOCK_DGRAM, 0, a) == 0, "socketpair");
        need(pass(a[0], a, 2), "pass both to one");
        close(a[0]);
        close(a[1]);
    }
    printf("%d more\n", rounds);
}

/* A listener in the queue of a connection that nobody has accepted. */
static void listener(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0cycles"};
    socklen_t length = sizeof(sa_family_t) + 8;
    for (int i = 0; i < 50; i++) {
        /* The old name may go a moment after the pipe. */
        address.sun_path[7] = i;
        int there = socket(AF_UNIX, SOCK_STREAM, 0), here = socket(AF_UNIX, SOCK_STREAM, 0), ends[2];
        need(pipe(ends) == 0 && bind(there, (void *)&address, length) == 0 && listen(there, 5) == 0, "listen");
        need(connect(here, (void *)&address, length) == 0, "connect");
        need(pass(here, (int[]){there, ends[1]}, 2), "pass the listener");
        close(there);
        close(here);
        close(ends[1]);
        wait_for_end(ends[0]);
    }
    printf("listeners\n");
}

int main(void)
{
    int kept[2], chain[2], last[2];
    need(socketpair(AF_UNIX, SOCK_STREAM, 0, kept) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, chain) == 0, "socketpair");
    need(socketpair(AF_UNIX, SOCK_STREAM, 0, last) == 0, "socketpair");
    /* Through kept[1]: chain[1]; through that, last[1] and chain[0]; through that, a letter. */
    need(pass(chain[0], (int[]){last[1], chain[0]}, 2) && pass(kept[0], (int[]){chain[1]}, 1), "pass");
    need(write(last[0], "letter", 6) == 6, "write");
    close(chain[0]);
    close(chain[1]);
    close(last[1]);
    gone(SOCK_STREAM, 100);
    gone(SOCK_DGRAM, 100);
    gone(SOCK_SEQPACKET, 100);
    many(6000);
    listener();
    pid_t child = fork();
    if (child == 0) {
        many(100);
        _exit(0);
    }
    need(waitpid(child, NULL, 0) == child, "waitpid");
    char letter[10] = "";
    int inner = take(take(kept[1]));
    need(read(inner, letter, sizeof letter) == 6, "read");
    printf("kept: %s\n", letter);
    return 0;
}
