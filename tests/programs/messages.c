/* Messages that are looked at, lost, refused and signed: a table, the same on every Linux. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *outcome(ssize_t n)
{
    static char text[4][64];
    static int next;
    char *at = text[next++ % 4];
    if (n < 0)
        sprintf(at, "%s", strerrorname_np(errno));
    else
        sprintf(at, "%zd", n);
    return at;
}

static void look(const char *name, int receiver, size_t room, int flags)
{
    char bytes[200] = "";
    ssize_t n = recv(receiver, bytes, room, flags | MSG_DONTWAIT);
    printf("%s, %zu, %#x: %s \"%s\"\n", name, room, flags, outcome(n), n > 0 ? bytes : "");
}

static void looks(const char *name, int sender, int receiver)
{
    int waiting = -1;
    send(sender, "hello ", 6, 0);
    send(sender, "world", 5, 0);
    look(name, receiver, 3, MSG_PEEK);
    look(name, receiver, 3, MSG_PEEK | MSG_TRUNC);
    look(name, receiver, 100, MSG_PEEK);
    look(name, receiver, 4, 0);
    ioctl(receiver, FIONREAD, &waiting);
    printf("%s has %d\n", name, waiting);
    look(name, receiver, 100, MSG_PEEK);
    look(name, receiver, 100, 0);
    look(name, receiver, 100, MSG_PEEK);
    look(name, receiver, 100, 0);
    shutdown(sender, SHUT_WR);
    look(name, receiver, 100, MSG_PEEK);
}

static struct sockaddr_in port_of(int fd)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    bind(fd, (void *)&address, sizeof address);
    getsockname(fd, (void *)&address, &length);
    return address;
}

static int error_of(int fd)
{
    int error = -1;
    socklen_t length = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    return error;
}

static int polled(int fd)
{
    struct pollfd one = {fd, POLLIN | POLLOUT, 0};
    poll(&one, 1, 0);
    return one.revents;
}

/* Datagrams to a port that nobody has. */
static void nobody(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0), gone = socket(AF_INET, SOCK_DGRAM, 0), other = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in address = port_of(gone), here = port_of(other);
    char byte;
    close(gone);
    printf("write to nobody in particular: %s\n", outcome(write(fd, "x", 1)));
    printf("send to nobody: %s\n", outcome(sendto(fd, "x", 1, 0, (void *)&address, sizeof address)));
    printf("and again: %s\n", outcome(sendto(fd, "x", 1, 0, (void *)&address, sizeof address)));
    printf("connect to nobody: %s\n", outcome(connect(fd, (void *)&address, sizeof address)));
    printf("send: %s\n", outcome(send(fd, "x", 1, 0)));
    printf("poll: %#x\n", polled(fd));
    printf("send: %s\n", outcome(send(fd, "x", 1, 0)));
    printf("send: %s\n", outcome(send(fd, "x", 1, 0)));
    printf("receive: %s\n", outcome(recv(fd, &byte, 1, MSG_DONTWAIT)));
    printf("receive: %s\n", outcome(recv(fd, &byte, 1, MSG_DONTWAIT)));
    printf("send: %s\n", outcome(send(fd, "x", 1, 0)));
    printf("error: %d\n", error_of(fd));
    printf("then: %d\n", error_of(fd));
    printf("to somebody else: %s\n", outcome(sendto(fd, "y", 1, 0, (void *)&here, sizeof here)));
    printf("who has it: %s\n", outcome(recv(other, &byte, 1, MSG_DONTWAIT)));
    /* Who is connected hears nobody else. */
    printf("connect: %s\n", outcome(connect(other, (void *)&address, sizeof address)));
    printf("to the deaf: %s\n", outcome(sendto(fd, "y", 1, 0, (void *)&here, sizeof here)));
    printf("who has nothing: %s\n", outcome(recv(other, &byte, 1, MSG_DONTWAIT)));
    here.sin_port = 0;
    printf("to no port: %s\n", outcome(sendto(fd, "y", 1, 0, (void *)&here, sizeof here)));
    printf("too long: %s\n", outcome(sendto(fd, "", 1 << 20, 0, (void *)&address, sizeof address)));
    close(fd);
    close(other);
}

/* A receiver that does not receive: what finds no room is lost, and nobody waits. */
static void full(void)
{
    int sender = socket(AF_INET, SOCK_DGRAM, 0), receiver = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in address = port_of(receiver);
    char bytes[1000];
    int sent = 0, came = 0, first = -1;
    connect(sender, (void *)&address, sizeof address);
    for (int i = 0; i < 2000; i++) {
        memset(bytes, i, sizeof bytes);
        sent += send(sender, bytes, sizeof bytes, 0) == sizeof bytes;
    }
    while (recv(receiver, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
        if (came++ == 0)
            first = bytes[0];
    }
    printf("sent %d, some came: %d, some were lost: %d, the first: %d\n", sent, came > 50, came < 2000, first);
    printf("then: %s\n", outcome(send(sender, "z", 1, 0)));
    printf("comes: %s\n", outcome(recv(receiver, bytes, sizeof bytes, MSG_DONTWAIT)));
    close(sender);
    close(receiver);
}

/* Receives with control data, and says who has sent it. */
static void signed_by(const char *name, int fd, size_t room, pid_t child)
{
    char bytes[100], control[200];
    struct iovec piece = {bytes, sizeof bytes};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room};
    ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT);
    printf("%s: %s, flags %#x, control %zu", name, outcome(n), message.msg_flags, n < 0 ? 0 : message.msg_controllen);
    for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        printf(", type %d of %zu", c->cmsg_type, c->cmsg_len);
        if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len == CMSG_LEN(sizeof(struct ucred))) {
            struct ucred *who = (void *)CMSG_DATA(c);
            printf(" from %s, user %d", who->pid == getpid() ? "me" : who->pid == child ? "my child" : who->pid == 0 ? "nobody" : "somebody", who->uid);
        }
        if (c->cmsg_type == SCM_RIGHTS)
            close(*(int *)CMSG_DATA(c));
    }
    printf("\n");
}

static ssize_t send_signed(int fd, const char *text, struct ucred who, int with)
{
    char control[200] = {0};
    struct iovec piece = {(void *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    *c = (struct cmsghdr){CMSG_LEN(sizeof who), SOL_SOCKET, SCM_CREDENTIALS};
    memcpy(CMSG_DATA(c), &who, sizeof who);
    size_t length = CMSG_SPACE(sizeof who);
    if (with >= 0) {
        c = CMSG_NXTHDR(&message, c);
        *c = (struct cmsghdr){CMSG_LEN(sizeof with), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(c), &with, sizeof with);
        length += CMSG_SPACE(sizeof with);
    }
    message.msg_controllen = length;
    return sendmsg(fd, &message, 0);
}

static void set_passcred(int fd, int on)
{
    setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
}

static void credentials(int kind, const char *name)
{
    int ends[2];
    struct ucred me = {getpid(), getuid(), getgid()};
    printf("%s\n", name);
    socketpair(AF_UNIX, kind, 0, ends);
    send(ends[0], "early", 5, 0);
    signed_by("not asked", ends[1], 200, -1);
    send(ends[0], "early", 5, 0);
    set_passcred(ends[1], 1);
    signed_by("asked too late", ends[1], 200, -1);
    send(ends[0], "one", 3, 0);
    signed_by("asked", ends[1], 200, -1);
    pid_t child = fork();
    if (child == 0) {
        send(ends[0], "child", 5, 0);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    send(ends[0], "parent", 6, 0);
    signed_by("two senders", ends[1], 200, child);
    signed_by("two senders", ends[1], 200, child);
    printf("said so: %s\n", outcome(send_signed(ends[0], "me", me, 1)));
    signed_by("with a descriptor", ends[1], 200, -1);
    printf("a lie: %s\n", outcome(send_signed(ends[0], "me", (struct ucred){0x3ffffff, 0, 0}, -1)));
    send(ends[0], "cut", 3, 0);
    signed_by("with little room", ends[1], 20, -1);
    send(ends[0], "cut", 3, 0);
    signed_by("with no room", ends[1], 0, -1);
    set_passcred(ends[1], 0);
    set_passcred(ends[0], 1);
    send(ends[0], "sender asks", 11, 0);
    set_passcred(ends[1], 1);
    signed_by("the sender asks", ends[1], 200, -1);
    close(ends[0]);
    close(ends[1]);
}

/* What came before the connection was accepted is signed. */
static void accepted(void)
{
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0messages"};
    socklen_t length = sizeof(sa_family_t) + 9;
    bind(listener, (void *)&address, length);
    listen(listener, 5);
    connect(client, (void *)&address, length);
    send(client, "before", 6, 0);
    int server = accept(listener, NULL, NULL);
    set_passcred(server, 1);
    signed_by("before it was accepted", server, 200, -1);
    close(listener);
    close(client);
    close(server);
}

/* All that there is room for. */
static void all(void)
{
    int ends[2];
    char bytes[100];
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    pid_t child = fork();
    if (child == 0) {
        close(ends[1]);
        for (int i = 0; i < 10; i++) {
            send(ends[0], "0123456789", 10, 0);
            usleep(1000);
        }
        _exit(0);
    }
    close(ends[0]);
    printf("all of 70: %s\n", outcome(recv(ends[1], bytes, 70, MSG_WAITALL)));
    printf("all of the rest: %s\n", outcome(recv(ends[1], bytes, 100, MSG_WAITALL)));
    waitpid(child, NULL, 0);
    close(ends[1]);
}

int main(void)
{
    int ends[2];
    const int kinds[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    const char *names[] = {"stream", "datagrams", "packets"};
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 3; i++) {
        socketpair(AF_UNIX, kinds[i], 0, ends);
        looks(names[i], ends[0], ends[1]);
        close(ends[0]);
        close(ends[1]);
    }
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = port_of(listener);
    listen(listener, 5);
    connect(client, (void *)&address, sizeof address);
    int server = accept(listener, NULL, NULL);
    send(client, "hello ", 6, 0);
    while (recv(server, ends, 6, MSG_PEEK) < 6)
        ;
    look("tcp", server, 3, MSG_PEEK);
    look("tcp", server, 100, 0);
    look("tcp", server, 100, MSG_PEEK);
    nobody();
    full();
    for (int i = 0; i < 3; i++)
        credentials(kinds[i], names[i]);
    accepted();
    all();
    return 0;
}
