/* Sockets of one machine: names, connections, messages, descriptors that go along, and what is refused. */
#include "common.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static int result(long value)
{
    return value == -1 ? -errno : (int)value;
}

static socklen_t unix_name(struct sockaddr_un *to, const char *name)
{
    memset(to, 0, sizeof *to);
    to->sun_family = AF_UNIX;
    size_t len = strlen(name);
    memcpy(to->sun_path, name, len);
    if (name[0] == '@')
        to->sun_path[0] = 0;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (name[0] != '@'));
}

static int named(int fd, const char *name, int (*call)(int, const struct sockaddr *, socklen_t))
{
    struct sockaddr_un address;
    socklen_t len = unix_name(&address, name);
    return result(call(fd, (struct sockaddr *)&address, len));
}

static int fresh(int family, int type)
{
    int fd = socket(family, type, 0);
    CHECK(fd >= 0, "family %d type %x", family, type);
    return fd;
}

static int ready(int fd)
{
    struct pollfd one = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    CHECK(poll(&one, 1, 0) >= 0);
    return one.revents;
}

/* Prints a Unix address: its length, and its path or name. */
static void print_name(const char *what, int fd, int (*call)(int, struct sockaddr *, socklen_t *))
{
    struct sockaddr_un address;
    socklen_t len = sizeof address;
    memset(&address, 0, sizeof address);
    int got = result(call(fd, (struct sockaddr *)&address, &len));
    printf(", %s %d", what, got);
    if (got == 0)
        printf(" family %d len %u '%s'", address.sun_family, len, address.sun_path + (address.sun_path[0] == 0 && len > 2));
}

static int number(int fd, int level, int option)
{
    int value = -1;
    socklen_t len = sizeof value;
    return getsockopt(fd, level, option, &value, &len) ? -errno : value;
}

static void makes(void)
{
    static const int kinds[][3] = {
        {AF_UNIX, SOCK_STREAM, 0},  {AF_UNIX, SOCK_DGRAM, 0},   {AF_UNIX, SOCK_SEQPACKET, 0}, {AF_UNIX, SOCK_RAW, 0},
        {AF_UNIX, SOCK_RDM, 0},     {AF_UNIX, SOCK_STREAM, 1},  {AF_UNIX, SOCK_STREAM, 6},    {AF_INET, SOCK_STREAM, 0},
        {AF_INET, SOCK_STREAM, 6},  {AF_INET, SOCK_STREAM, 17}, {AF_INET, SOCK_DGRAM, 17},    {AF_INET, SOCK_DGRAM, 6},
        {AF_INET, SOCK_SEQPACKET, 0}, {AF_UNIX, SOCK_STREAM | 0x40, 0}, {99, SOCK_STREAM, 0},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int fd = socket(kinds[i][0], kinds[i][1], kinds[i][2]);
        printf("socket %d %x %d: %d", kinds[i][0], kinds[i][1], kinds[i][2], fd < 0 ? -errno : 0);
        if (fd >= 0) {
            printf(", type %d domain %d protocol %d", number(fd, SOL_SOCKET, SO_TYPE), number(fd, SOL_SOCKET, SO_DOMAIN),
                   number(fd, SOL_SOCKET, SO_PROTOCOL));
            printf(" error %d listens %d", number(fd, SOL_SOCKET, SO_ERROR), number(fd, SOL_SOCKET, SO_ACCEPTCONN));
            close(fd);
        }
        printf("\n");
    }
    int pair[2];
    printf("pairs of TCP %d", result(socketpair(AF_INET, SOCK_STREAM, 0, pair)));
    int fd = fresh(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC), file = open("/dev/null", O_RDWR);
    printf(", flags %x %d, of a file %d", fcntl(fd, F_GETFL) & O_NONBLOCK, fcntl(fd, F_GETFD), result(listen(file, 1)));
    printf(" %d\n", result(shutdown(file, 0)));
    close(fd);
    close(file);
}

static void stream(const char *name)
{
    char byte[32] = "";
    int server = fresh(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK), client = fresh(AF_UNIX, SOCK_STREAM);
    printf("%s: fresh %x, read %d", name[0] == '@' ? "abstract" : "path", ready(client), result(recv(client, byte, 1, 0)));
    printf(", write %d", result(send(client, byte, 1, MSG_NOSIGNAL)));
    printf(", accept %d", result(accept(client, NULL, NULL)));
    printf(", nobody %d", named(client, name, connect));
    printf(", listen %d", result(listen(server, 1)));
    print_name("name", server, getsockname);
    print_name("peer", server, getpeername);
    printf("\n bind %d", named(server, name, bind));
    printf(", again %d", named(server, name, bind));
    int other = fresh(AF_UNIX, SOCK_STREAM);
    printf(", taken %d", named(other, name, bind));
    close(other);
    printf(", not listening %d", named(client, name, connect));
    printf(", listen %d, ready %x", result(listen(server, 1)), ready(server));
    printf(", accept %d", result(accept(server, NULL, NULL)));
    print_name("name", server, getsockname);
    other = fresh(AF_UNIX, SOCK_DGRAM);
    printf(", other kind %d", name[0] == '@' ? -111 : named(other, name, connect));
    close(other);
    printf("\n connect %d", named(client, name, connect));
    printf(", again %d, ready %x %x", named(client, name, connect), ready(server), ready(client));
    print_name("peer", client, getpeername);
    print_name("name", client, getsockname);
    /* Before anybody has accepted it. */
    printf(", write %d", result(write(client, "early", 5)));
    struct sockaddr_un from;
    socklen_t len = sizeof from;
    memset(&from, 'x', sizeof from);
    int served = accept4(server, (struct sockaddr *)&from, &len, SOCK_CLOEXEC);
    CHECK(served >= 0);
    printf(", from family %d len %u, flags %d %x", from.sun_family, len, fcntl(served, F_GETFD), fcntl(served, F_GETFL) & O_NONBLOCK);
    print_name("served", served, getsockname);
    struct ucred ucred = {0, 0, 0};
    len = sizeof ucred;
    CHECK(getsockopt(served, SOL_SOCKET, SO_PEERCRED, &ucred, &len) == 0);
    printf(", cred %d %u %u", ucred.pid == getpid(), ucred.uid, len);
    printf("\n read %d %s, ready %x %x", result(read(served, byte, sizeof byte)), byte, ready(served), ready(client));
    printf(", to somebody %d", result(sendto(client, "x", 1, 0, (struct sockaddr *)&from, sizeof from)));
    printf(", nothing %d", result(recv(served, byte, 1, MSG_DONTWAIT)));
    CHECK(shutdown(client, SHUT_WR) == 0);
    printf(", half closed %x %x, read %d", ready(served), ready(client), result(read(served, byte, 1)));
    printf(", write %d", result(send(client, "x", 1, MSG_NOSIGNAL)));
    printf(", back %d", result(write(served, "back", 4)));
    close(served);
    printf(", closed %x, read %d", ready(client), result(read(client, byte, sizeof byte)));
    printf(" then %d\n", result(read(client, byte, 1)));
    close(client);
    /* Two may wait; who waits after them is told so, or gets in when one is accepted. */
    int waiting[4];
    for (int i = 0; i < 4; i++)
        waiting[i] = fresh(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK);
    printf(" queue %d", named(waiting[0], name, connect));
    printf(" %d", named(waiting[1], name, connect));
    printf(" %d", named(waiting[2], name, connect));
    CHECK((served = accept(server, NULL, NULL)) >= 0);
    printf(" %d", named(waiting[2], name, connect));
    close(server);
    printf(", gone %d %x\n", named(waiting[3], name, connect), ready(waiting[1]) & (POLLIN | POLLHUP));
    for (int i = 0; i < 4; i++)
        close(waiting[i]);
    close(served);
}

static void datagrams(int type)
{
    char byte[32] = "";
    int a = fresh(AF_UNIX, type), b = fresh(AF_UNIX, type), c = fresh(AF_UNIX, type);
    struct sockaddr_un to, from;
    printf("datagrams: fresh %x", ready(a));
    printf(", write %d", result(send(a, "x", 1, 0)));
    printf(", nothing %d", result(recv(a, byte, 1, MSG_DONTWAIT)));
    CHECK(named(a, "@anonmem-a", bind) == 0 && named(b, "@anonmem-b", bind) == 0);
    socklen_t len = unix_name(&to, "@anonmem-a");
    printf(", to %d", result(sendto(b, "from b", 7, 0, (struct sockaddr *)&to, len)));
    printf(" %d", result(sendto(c, "from c, longer", 15, 0, (struct sockaddr *)&to, len)));
    int waits = 0;
    CHECK(ioctl(a, 0x541b, &waits) == 0);
    printf(", ready %x waits %d", ready(a), waits);
    len = sizeof from;
    memset(&from, 0, sizeof from);
    printf(", got %d", result(recvfrom(a, byte, sizeof byte, 0, (struct sockaddr *)&from, &len)));
    printf(" '%s' of '%s' %u", byte, from.sun_path + 1, len);
    len = sizeof from;
    printf(", cut %d", result(recvfrom(a, byte, 4, MSG_TRUNC, (struct sockaddr *)&from, &len)));
    printf(" %u", len);
    printf(", listen %d", result(listen(a, 1)));
    printf(", accept %d", result(accept(a, NULL, NULL)));
    printf("\n connect %d", named(b, "@anonmem-a", connect));
    print_name("peer", b, getpeername);
    printf(", write %d", result(write(b, "connected", 9)));
    printf(", read %d", result(read(a, byte, sizeof byte)));
    printf(", not connected %d", result(write(a, "x", 1)));
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    printf(", let go %d", result(connect(b, &none, sizeof none)));
    printf(", write %d", result(write(b, "x", 1)));
    CHECK(named(b, "@anonmem-a", connect) == 0);
    close(a);
    printf(", gone %d", result(write(b, "x", 1)));
    printf(" %d\n", named(c, "@anonmem-a", connect));
    close(b);
    close(c);
}

static void sequenced(void)
{
    char byte[32] = "";
    int server = fresh(AF_UNIX, SOCK_SEQPACKET), client = fresh(AF_UNIX, SOCK_SEQPACKET);
    CHECK(named(server, "@anonmem-seq", bind) == 0 && listen(server, 5) == 0 && named(client, "@anonmem-seq", connect) == 0);
    int served = accept(server, NULL, NULL);
    CHECK(served >= 0);
    printf("packets: %d", result(write(client, "one", 3)));
    printf(" %d", result(write(client, "three", 5)));
    printf(", read %d", result(read(served, byte, sizeof byte)));
    printf(" %d", result(read(served, byte, 2)));
    printf(", nothing %d", result(recv(served, byte, 2, MSG_DONTWAIT)));
    close(client);
    printf(", closed %x %d", ready(served), result(read(served, byte, 1)));
    printf(" %d\n", result(send(served, "x", 1, MSG_NOSIGNAL)));
    close(served);
    close(server);
}

static int send_files(int fd, const char *text, const int *files, int count)
{
    char control[CMSG_SPACE(sizeof(int) * 300)];
    struct iovec piece = {(void *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * count)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    memset(control, 0, sizeof control);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(header), files, sizeof(int) * count);
    return result(sendmsg(fd, &message, MSG_NOSIGNAL));
}

/* Receives with room for so many descriptors; closes all but the first, which it gives. */
static int receive_files(int fd, int room, int flags)
{
    char control[CMSG_SPACE(sizeof(int) * 300)], text[32] = "";
    struct iovec piece = {text, sizeof text - 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room ? CMSG_LEN(sizeof(int) * room) : 0};
    int got = result(recvmsg(fd, &message, flags)), first = -1, count = 0;
    struct cmsghdr *header = got >= 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header) {
        int fds[300];
        count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(header), count * sizeof(int));
        for (int i = 1; i < count; i++)
            close(fds[i]);
        first = fds[0];
    }
    printf(" %d '%s' with %d, flags %x", got, text, count, got >= 0 ? message.msg_flags : 0);
    return first;
}

static void passes(int type)
{
    int pair[2], ends[2], many[254];
    char byte[8] = "";
    CHECK(socketpair(AF_UNIX, type, 0, pair) == 0 && pipe(ends) == 0);
    printf("passed:");
    CHECK(write(pair[0], "before", 6) == 6);
    printf(" sent %d", send_files(pair[0], "one", ends, 1));
    CHECK(write(pair[0], "after", 5) == 5);
    /* A stream gives what was sent before along with it, and stops behind it. */
    if (type != SOCK_STREAM)
        CHECK(receive_files(pair[1], 4, 0) == -1);
    int fd = receive_files(pair[1], 4, MSG_CMSG_CLOEXEC);
    CHECK(fd >= 0);
    printf(" cloexec %d", fcntl(fd, F_GETFD));
    receive_files(pair[1], 4, 0);
    close(ends[0]);
    CHECK(write(ends[1], "through", 7) == 7);
    printf(", works %d %.7s", result(read(fd, byte, 7)), byte);
    close(fd);
    printf(", gone %d\n ", result(write(ends[1], "x", 1)));
    CHECK(pipe(many) == 0);
    for (int i = 2; i < 254; i++)
        many[i] = many[0];
    printf(" all %d", send_files(pair[0], "many", many, 253));
    close(receive_files(pair[1], 300, 0));
    printf(", too many %d", send_files(pair[0], "many", many, 254));
    printf(", cut %d", send_files(pair[0], "cut", many, 3));
    close(receive_files(pair[1], 2, 0));
    printf(", no room %d", send_files(pair[0], "none", many, 1));
    receive_files(pair[1], 0, 0);
    printf(", by read %d", send_files(pair[0], "read", many, 1));
    printf(" %d", result(read(pair[1], byte, sizeof byte)));
    int bad = 12345;
    printf(", no such %d", send_files(pair[0], "bad", &bad, 1));
    /* Sent and not received: who sent it has closed it, and it is gone with its socket. */
    printf(", left %d", send_files(pair[0], "left", &many[0], 1));
    close(many[0]);
    printf(", still there %d", result(write(many[1], "x", 1)));
    close(pair[1]);
    printf(", then %d\n", result(write(many[1], "x", 1)));
    close(pair[0]);
    close(many[1]);
    /* Sockets that are on their way through themselves. */
    CHECK(socketpair(AF_UNIX, type, 0, pair) == 0);
    CHECK(send_files(pair[0], "self", &pair[1], 1) == 4 && send_files(pair[1], "self", &pair[0], 1) == 4);
    close(pair[0]);
    close(pair[1]);
}

static void *echoes(void *arg)
{
    int server = *(int *)arg;
    for (int i = 0; i < 8; i++) {
        int fd = accept(server, NULL, NULL);
        CHECK(fd >= 0);
        char bytes[5000];
        ssize_t got;
        while ((got = read(fd, bytes, sizeof bytes)) > 0)
            for (ssize_t done = 0; done < got;) {
                ssize_t n = write(fd, bytes + done, got - done);
                CHECK(n > 0);
                done += n;
            }
        close(fd);
    }
    return NULL;
}

static void tcp(void)
{
    char byte[32] = "";
    int server = fresh(AF_INET, SOCK_STREAM), client = fresh(AF_INET, SOCK_STREAM), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}}, name;
    socklen_t len = sizeof name;
    CHECK(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    printf("tcp: reuse %d, nodelay %d", number(server, SOL_SOCKET, SO_REUSEADDR), result(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one)));
    printf(" %d, write %d", number(client, IPPROTO_TCP, TCP_NODELAY), result(send(client, "x", 1, MSG_NOSIGNAL)));
    printf(", read %d", result(recv(client, byte, 1, 0)));
    CHECK(getsockname(server, (struct sockaddr *)&name, &len) == 0);
    printf(", no name %d %u port %d", name.sin_family, len, name.sin_port);
    struct sockaddr_in far = {.sin_family = AF_INET, .sin_port = htons(1), .sin_addr = {htonl(0xc0000201)}};
    printf(", bind far %d", result(bind(server, (struct sockaddr *)&far, sizeof far)));
    printf(", short %d", result(bind(server, (struct sockaddr *)&at, 8)));
    printf(", family %d", result(bind(server, (struct sockaddr *)&(struct sockaddr_in){.sin_family = 77}, sizeof at)));
    printf(", bind %d", result(bind(server, (struct sockaddr *)&at, sizeof at)));
    len = sizeof at;
    CHECK(getsockname(server, (struct sockaddr *)&at, &len) == 0);
    printf(", port %d, refused %d", at.sin_port != 0, result(connect(client, (struct sockaddr *)&at, sizeof at)));
    close(client);
    client = fresh(AF_INET, SOCK_STREAM);
    printf(", listen %d", result(listen(server, 4)));
    int other = fresh(AF_INET, SOCK_STREAM);
    printf(", taken %d", result(bind(other, (struct sockaddr *)&at, sizeof at)));
    close(other);
    printf("\n connect %d", result(connect(client, (struct sockaddr *)&at, sizeof at)));
    printf(", again %d", result(connect(client, (struct sockaddr *)&at, sizeof at)));
    len = sizeof name;
    int served = accept(server, (struct sockaddr *)&name, &len);
    CHECK(served >= 0);
    struct sockaddr_in mine, theirs;
    socklen_t mine_len = sizeof mine, theirs_len = sizeof theirs;
    CHECK(getsockname(client, (struct sockaddr *)&mine, &mine_len) == 0 && getpeername(served, (struct sockaddr *)&theirs, &theirs_len) == 0);
    printf(", from %x %d %d", ntohl(name.sin_addr.s_addr), name.sin_port == mine.sin_port, theirs.sin_port == mine.sin_port);
    CHECK(getpeername(client, (struct sockaddr *)&theirs, &theirs_len) == 0 && getsockname(served, (struct sockaddr *)&mine, &mine_len) == 0);
    printf(", to %x %d %d", ntohl(theirs.sin_addr.s_addr), theirs.sin_port == at.sin_port, mine.sin_port == at.sin_port);
    printf(", write %d", result(write(client, "hello", 5)));
    printf(", read %d %s", result(read(served, byte, sizeof byte)), byte);
    printf(", nothing %d", result(recv(served, byte, 1, MSG_DONTWAIT)));
    CHECK(shutdown(client, SHUT_WR) == 0);
    printf(", end %d", result(read(served, byte, 1)));
    printf(", back %d", result(write(served, "bye", 3)));
    printf(", read %d", result(read(client, byte, sizeof byte)));
    close(served);
    printf(", closed %d\n", result(read(client, byte, 1)));
    close(client);
    /* Without waiting, and by epoll. */
    client = fresh(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
    int epoll = epoll_create1(0);
    struct epoll_event event = {EPOLLIN | EPOLLOUT, {.u64 = 7}};
    printf(" not waiting %d", result(connect(client, (struct sockaddr *)&at, sizeof at)));
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, client, &event) == 0);
    printf(", epoll %d", result(epoll_wait(epoll, &event, 1, 5000)));
    printf(" %x %d, error %d", event.events, (int)event.data.u64, number(client, SOL_SOCKET, SO_ERROR));
    printf(", read %d\n", result(read(client, byte, 1)));
    CHECK((served = accept(server, NULL, NULL)) >= 0);
    close(served);
    close(client);
    close(epoll);
    /* Eight clients, one after the other accepted, all at once served. */
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, echoes, &server) == 0);
    long sum = 0;
    for (int i = 0; i < 8; i++) {
        static char out[200000], in[200000];
        memset(out, 'a' + i, sizeof out);
        client = fresh(AF_INET, SOCK_STREAM);
        CHECK(connect(client, (struct sockaddr *)&at, sizeof at) == 0);
        fflush(stdout);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            for (size_t done = 0; done < sizeof out;)
                done += (size_t)write(client, out + done, sizeof out - done);
            shutdown(client, SHUT_WR);
            _exit(0);
        }
        ssize_t got;
        size_t all = 0;
        while ((got = read(client, in + all, sizeof in - all)) > 0)
            all += (size_t)got;
        wait_ok(child);
        CHECK(all == sizeof out && memcmp(in, out, all) == 0, "%zu bytes", all);
        sum += (long)all;
        close(client);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    close(server);
    printf(" echoed %ld, refused %d\n", sum, result(connect(fresh(AF_INET, SOCK_STREAM), (struct sockaddr *)&at, sizeof at)));
}

static void udp(void)
{
    char byte[32] = "";
    int a = fresh(AF_INET, SOCK_DGRAM), b = fresh(AF_INET, SOCK_DGRAM);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}}, from;
    socklen_t len = sizeof at;
    CHECK(bind(a, (struct sockaddr *)&at, sizeof at) == 0 && getsockname(a, (struct sockaddr *)&at, &len) == 0);
    printf("udp: nobody %d", result(write(b, "x", 1)));
    printf(", to %d", result(sendto(b, "hello", 5, 0, (struct sockaddr *)&at, sizeof at)));
    len = sizeof from;
    printf(", got %d", result(recvfrom(a, byte, sizeof byte, 0, (struct sockaddr *)&from, &len)));
    printf(" %s %x %u", byte, ntohl(from.sin_addr.s_addr), len);
    printf(", back %d", result(sendto(a, "there", 5, 0, (struct sockaddr *)&from, sizeof from)));
    printf(" %d", result(recv(b, byte, sizeof byte, 0)));
    printf(", connect %d", result(connect(b, (struct sockaddr *)&at, sizeof at)));
    printf(", write %d", result(write(b, "x", 1)));
    printf(", read %d", result(read(a, byte, 1)));
    printf(", nothing %d\n", result(recv(a, byte, 1, MSG_DONTWAIT)));
    close(a);
    close(b);
}

struct waiter {
    int fd, result;
    void *(*call)(void *);
};

static void *waits_to_receive(void *arg)
{
    struct waiter *waiter = arg;
    char byte;
    waiter->result = result(recv(waiter->fd, &byte, 1, 0));
    return NULL;
}

static void *waits_to_send(void *arg)
{
    static char much[1 << 20];
    struct waiter *waiter = arg;
    long sent;
    while ((sent = send(waiter->fd, much, sizeof much, MSG_NOSIGNAL)) > 0)
        ;
    waiter->result = result(sent);
    return NULL;
}

/* A shutdown ends the wait of another thread, whichever side asks for it. */
static void hang_up(void)
{
    printf("shutdown while one waits:");
    for (int i = 0; i < 5; i++) {
        static const int how[] = {SHUT_RD, SHUT_WR, SHUT_RDWR, SHUT_WR, SHUT_RD};
        int pair[2];
        pthread_t thread;
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        struct waiter waiter = {pair[0], 0, i < 3 ? waits_to_receive : waits_to_send};
        CHECK(pthread_create(&thread, NULL, waiter.call, &waiter) == 0);
        usleep(20000);
        /* The last two: its own end, and the other's. */
        CHECK(shutdown(pair[i == 1 || i == 4], how[i]) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        printf(" %d", waiter.result);
        close(pair[0]);
        close(pair[1]);
    }
    int pair[2];
    char bytes[4] = "";
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && write(pair[1], "ab", 2) == 2 && shutdown(pair[0], SHUT_RD) == 0);
    printf(", left %d", result(read(pair[0], bytes, 4)));
    printf(" %d\n", result(read(pair[0], bytes, 4)));
    close(pair[0]);
    close(pair[1]);
}

/* A shutdown before there is a connection: Unix sockets take it, those of the Internet do not. */
static void too_early(void)
{
    static const int kinds[][2] = {{AF_UNIX, SOCK_STREAM}, {AF_UNIX, SOCK_SEQPACKET}, {AF_INET, SOCK_STREAM}, {AF_INET, SOCK_DGRAM}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        printf("shutdown too early, %d %d:", kinds[i][0], kinds[i][1]);
        for (int how = SHUT_RD; how <= SHUT_RDWR; how++) {
            struct pollfd p = {.fd = fresh(kinds[i][0], kinds[i][1]), .events = POLLIN | POLLOUT | POLLRDHUP};
            printf(" %d", result(shutdown(p.fd, how)));
            if (kinds[i][0] == AF_UNIX) {
                CHECK(poll(&p, 1, 0) == 1);
                printf(" ready for %x", p.revents);
            }
            close(p.fd);
        }
        printf("\n");
    }
}

/* Parcels of nothing, one parcel at a time by splice, and sockets that are on their way through one another. */
static void parcels(void)
{
    int pair[2], ends[2], pipes[2];
    char bytes[32] = "";
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(ends) == 0 && pipe(pipes) == 0);
    printf("parcels: of nothing %d", send_files(pair[0], "", ends, 1));
    close(ends[0]);
    printf(", gone %d", result(write(ends[1], "x", 1)));
    close(ends[1]);
    CHECK(pipe(ends) == 0);
    CHECK(send_files(pair[0], "one", ends, 1) == 3 && send_files(pair[0], "second", ends, 1) == 6);
    printf(", two by read %d", result(read(pair[1], bytes, sizeof bytes)));
    printf(" %d", result(read(pair[1], bytes, sizeof bytes)));
    close(ends[0]);
    printf(", gone %d", result(write(ends[1], "x", 1)));
    close(ends[1]);
    /* What comes along is the last end of the pipe that the bytes go to. */
    CHECK(send_files(pair[0], "last", &pipes[0], 1) == 4);
    close(pipes[0]);
    printf(", splice %d", result(splice(pair[1], NULL, pipes[1], NULL, 100, 0)));
    printf(", gone %d", result(write(pipes[1], "x", 1)));
    close(pipes[1]);
    close(pair[0]);
    close(pair[1]);
    CHECK(pipe(ends) == 0);
    int before = ends[0];
    for (int i = 0; i < 1000; i++) {
        CHECK(socketpair(AF_UNIX, i & 1 ? SOCK_DGRAM : SOCK_STREAM, 0, pair) == 0);
        CHECK(send_files(pair[1], "x", &before, 1) == 1);
        close(before);
        close(pair[1]);
        before = pair[0];
    }
    printf(", chain there %d", result(write(ends[1], "x", 1)));
    close(before);
    /* Whoever lets it go may be late. */
    int gone;
    while ((gone = result(write(ends[1], "x", 1))) > 0)
        usleep(1000);
    printf(", gone %d\n", gone);
    close(ends[1]);
}

/* A connection stays in the queue while there is no descriptor for it. */
static void no_descriptor(void)
{
    int server = fresh(AF_UNIX, SOCK_STREAM), client = fresh(AF_UNIX, SOCK_STREAM);
    CHECK(named(server, "@anonmem-full", bind) == 0 && listen(server, 5) == 0 && named(client, "@anonmem-full", connect) == 0);
    int free_fd = dup(server);
    CHECK(free_fd >= 0);
    close(free_fd);
    struct rlimit old, limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    limit = (struct rlimit){free_fd, old.rlim_max};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    printf("no descriptor: %d", result(accept(server, NULL, NULL)));
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
    int served = accept4(server, NULL, NULL, SOCK_NONBLOCK);
    printf(", then %d", served == free_fd);
    int next = dup(server);
    close(next);
    CHECK(fcntl(server, F_SETFL, O_NONBLOCK) == 0);
    printf(", nothing waits %d", result(accept(server, NULL, NULL)));
    int again = dup(server);
    printf(", free again %d\n", again == next);
    close(again);
    close(served);
    close(client);
    close(server);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    makes();
    unlink("/tmp/anonmem-sockets");
    stream("/tmp/anonmem-sockets");
    struct stat st;
    CHECK(stat("/tmp/anonmem-sockets", &st) == 0);
    printf("left: mode %o, open %d", st.st_mode & S_IFMT, result(open("/tmp/anonmem-sockets", O_RDWR)));
    printf(", no directory %d\n", named(fresh(AF_UNIX, SOCK_STREAM), "/no/such/place", bind));
    printf("to a file %d", named(fresh(AF_UNIX, SOCK_STREAM), "/dev/null", connect));
    printf(", to nothing %d", named(fresh(AF_UNIX, SOCK_STREAM), "/tmp/no-such", connect));
    printf(", no path %d\n", named(fresh(AF_UNIX, SOCK_STREAM), "", connect));
    unlink("/tmp/anonmem-sockets");
    stream("@anonmem-sockets");
    datagrams(SOCK_DGRAM);
    sequenced();
    passes(SOCK_STREAM);
    passes(SOCK_DGRAM);
    passes(SOCK_SEQPACKET);
    hang_up();
    too_early();
    parcels();
    no_descriptor();
    tcp();
    udp();
    return 0;
}
