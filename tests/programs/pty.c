// Pseudo-terminals, told as a table: doors, editing, raw reads, sizes, and what is refused.
#include "table.h"

#include <ctype.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>

static void bytes(const char *name, const char *what, ssize_t n)
{
    if (n < 0) {
        row(name, n);
        return;
    }
    printf("%-44s %zd \"", name, n);
    for (ssize_t i = 0; i < n; i++)
        if (isprint((unsigned char)what[i]))
            putchar(what[i]);
        else
            printf("\\%03o", (unsigned char)what[i]);
    puts("\"");
    fflush(stdout);
}

static int master, slave;

static void make(void)
{
    master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(master >= 0 && unlockpt(master) == 0);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    CHECK(slave >= 0);
}

static void drop(void)
{
    close(slave);
    close(master);
}

static void types(const char *text)
{
    CHECK(write(master, text, strlen(text)) == (ssize_t)strlen(text));
}

static void reads(const char *name, size_t most)
{
    char got[8192];
    bytes(name, got, read(slave, got, most));
}

// What is on the screen. A mark that a program writes comes after all that was shown of what was typed.
static void shows(const char *name)
{
    char got[8192];
    size_t n = 0;
    CHECK(write(slave, "~", 1) == 1);
    while (n == 0 || got[n - 1] != '~') {
        ssize_t more = read(master, got + n, sizeof(got) - n);
        CHECK(more > 0, "%zd", more);
        n += more;
    }
    bytes(name, got, n - 1);
}

static void set(tcflag_t iflag, tcflag_t not_iflag, tcflag_t lflag, tcflag_t not_lflag)
{
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    t.c_iflag = (t.c_iflag | iflag) & ~not_iflag;
    t.c_lflag = (t.c_lflag | lflag) & ~not_lflag;
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
}

static void raw(int min, int time)
{
    struct termios t;
    CHECK(tcgetattr(slave, &t) == 0);
    cfmakeraw(&t);
    t.c_cc[VMIN] = min;
    t.c_cc[VTIME] = time;
    CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
}

// Until so many bytes have come through: typing and reading need not be one step.
static void until(int n)
{
    int there = -1;
    while (there != n)
        CHECK(ioctl(slave, FIONREAD, &there) == 0);
}

static void doors(void)
{
    int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY), number = -1, locked = -1;
    row("TIOCGPTN", ioctl(fd, TIOCGPTN, &number));
    char path[32];
    snprintf(path, sizeof(path), "/dev/pts/%d", number);
    row("it is ptsname's", strcmp(path, ptsname(fd)) == 0);
    row("TIOCGPTLCK", ioctl(fd, TIOCGPTLCK, &locked) == 0 ? locked : -1);
    row("the slave while it is locked", open(path, O_RDWR | O_NOCTTY));
    row("unlockpt", unlockpt(fd));
    int other = open(path, O_RDWR | O_NOCTTY);
    row("the slave", other >= 0);
    row("isatty of the slave", isatty(other));
    row("isatty of the master", isatty(fd));
    row("ttyname", strcmp(ttyname(other), path) == 0);
    struct stat st;
    fstat(other, &st);
    row("its major number", major(st.st_rdev));
    row("its minor number", (int)minor(st.st_rdev) == number);
    row("its kind", S_ISCHR(st.st_mode));
    int peer = ioctl(fd, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    row("TIOCGPTPEER", peer >= 0);
    row("TIOCGPTN of the slave", ioctl(other, TIOCGPTN, &number));
    row("lseek", lseek(other, 0, SEEK_SET));
    row("pread", pread(other, path, 1, 0));
    int own = open("/dev/tty", O_RDWR);
    row("/dev/tty without a terminal", own);
    close(own);
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    struct termios t;
    row("tcgetattr of a pipe", tcgetattr(pipes[0], &t));
    row("an ioctl that nobody knows", ioctl(other, 0x5499, 0));
    close(peer);
    close(other);
    char c;
    row("the master once all have left", read(fd, &c, 1));
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};
    poll(&p, 1, 0);
    row("poll", p.revents);
    other = open(path, O_RDWR | O_NOCTTY);
    p.revents = 0;
    poll(&p, 1, 0);
    row("poll once somebody came back", p.revents);
    close(fd);
    row("the name without a master", open(path, O_RDWR | O_NOCTTY));
    close(other);
}

static void settings(void)
{
    struct termios t;
    make();
    CHECK(tcgetattr(slave, &t) == 0);
    printf("%-44s %o %o %o %o\n", "a new terminal", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag);
    for (int i = 0; i < 17; i++)
        printf("%d ", t.c_cc[i]);
    puts("");
    row("its speed", cfgetospeed(&t) == B38400);
    t.c_cflag = (t.c_cflag & ~(CSIZE | CREAD)) | CS5 | PARENB;
    cfsetspeed(&t, B9600);
    row("tcsetattr", tcsetattr(slave, TCSADRAIN, &t));
    tcgetattr(master, &t);
    printf("%-44s %o\n", "the same from the master", t.c_cflag);
    row("tcflush of nothing known", tcflush(slave, 7));
    row("tcflow of nothing known", tcflow(slave, 7));
    row("tcsendbreak", tcsendbreak(slave, 0));
    row("tcdrain", tcdrain(slave));
    row("tcgetattr to nowhere", ioctl(slave, TCGETS, 8));
    row("tcsetattr from nowhere", ioctl(slave, TCSETS, 8));
    int n = -1;
    row("TIOCOUTQ", ioctl(slave, TIOCOUTQ, &n) == 0 ? n : -1);
    row("TIOCGETD", ioctl(slave, TIOCGETD, &n) == 0 ? n : -1);
    row("TIOCGSID", ioctl(slave, TIOCGSID, &n));
    row("TIOCGPGRP", ioctl(slave, TIOCGPGRP, &n));
    row("TIOCGPGRP of the master", ioctl(master, TIOCGPGRP, &n) == 0 ? n : -1);
    row("TIOCNOTTY", ioctl(slave, TIOCNOTTY));
    drop();
}

// `struct termios2`, which the C library does not have.
struct settings {
    unsigned flags[4];
    unsigned char line, characters[19];
    unsigned input, output;
};

static void speed(const char *name, unsigned flags, unsigned input, unsigned output)
{
    struct settings s;
    CHECK(ioctl(slave, _IOR('T', 0x2a, s), &s) == 0);
    s.flags[2] = flags;
    s.input = input;
    s.output = output;
    row(name, ioctl(slave, _IOW('T', 0x2b, s), &s));
    CHECK(ioctl(slave, _IOR('T', 0x2a, s), &s) == 0);
    printf("%-44s %u %u %o\n", "input, output, flags", s.input, s.output, s.flags[2]);
}

static void speeds(void)
{
    make();
    speed("a speed of its own", 010000, 1234, 4321);
    struct termios t;
    row("the same settings again", ioctl(slave, TCGETS, &t) == 0 && ioctl(slave, TCSETS, &t) == 0);
    struct settings s;
    CHECK(ioctl(slave, _IOR('T', 0x2a, s), &s) == 0);
    row("the speed stays", s.output);
    speed("two of its own", 010000 | 010000 << 16, 1234, 4321);
    speed("input slower than output", B38400 | B9600 << 16, 1, 2);
    speed("all flags", ~0u, 7, 8);
    row("TIOCSBRK", ioctl(slave, TIOCSBRK));
    row("TIOCCBRK", ioctl(slave, TIOCCBRK));
    row("TCSBRKP", ioctl(slave, TCSBRKP, 1));
    drop();
}

static void sizes(void)
{
    make();
    struct winsize w = {1, 2, 3, 4}, is;
    ioctl(slave, TIOCGWINSZ, &is);
    row("rows of a new terminal", is.ws_row);
    row("TIOCSWINSZ of the master", ioctl(master, TIOCSWINSZ, &w));
    memset(&is, 0, sizeof(is));
    ioctl(slave, TIOCGWINSZ, &is);
    row("the slave has it", memcmp(&w, &is, sizeof(w)) == 0);
    w.ws_col = 80;
    row("TIOCSWINSZ of the slave", ioctl(slave, TIOCSWINSZ, &w));
    ioctl(master, TIOCGWINSZ, &is);
    row("the master has it", is.ws_col);
    drop();
}

static void editing(void)
{
    make();
    types("hello\n");
    reads("a line", 100);
    shows("shown");
    types("one\rtwo\n");
    reads("a line that ended with return", 100);
    reads("a part of the next", 2);
    reads("the rest", 100);
    types("abc\177\177d\n");
    reads("erased characters", 100);
    shows("shown");
    types("one two_3  \027x\n");
    reads("an erased word", 100);
    shows("shown");
    types("a\001b\025c\n");
    reads("a killed line", 100);
    shows("shown");
    types("\026\003\026\004x\n");
    reads("quoted characters", 100);
    shows("shown");
    types("a\026\nb\n");
    reads("a quoted new line", 100);
    shows("shown");
    types("abc \303\244\327 \027x\n");
    reads("an erased word of letters that are not ASCII", 100);
    shows("shown");
    types("a\tb\177\177c\n");
    reads("an erased tab", 100);
    shows("shown");
    types("ab\022c\n");
    reads("a line that is shown again", 100);
    shows("shown");
    types("ab\004cd\n");
    reads("up to an end of file", 100);
    reads("after it", 100);
    types("\004");
    reads("an end of file alone", 100);
    types("xy\004z\n");
    reads("a buffer that ends before it", 2);
    reads("the next", 100);
    shows("shown");
    set(0, 0, 0, ECHO);
    types("secret\n");
    reads("without echo", 100);
    shows("shown");
    set(0, 0, ECHONL, 0);
    types("secret\n");
    reads("with new lines alone", 100);
    shows("shown");
    set(0, 0, ECHO, ECHOCTL | ECHOE | ECHOK);
    types("a\001\177b\025c\n");
    reads("with less to see", 100);
    shows("shown");
    set(0, 0, ECHO | ECHOCTL | ECHOE | ECHOK | ECHOPRT, ECHOKE);
    types("abc\177\177d\025e\n");
    reads("as on paper", 100);
    shows("shown");
    set(0, 0, 0, ECHOPRT);
    set(INLCR | IGNCR, ICRNL, 0, 0);
    types("a\rb\nc\004");
    reads("returns and new lines changed", 100);
    shows("shown");
    set(ICRNL | IUTF8, INLCR | IGNCR, 0, 0);
    types("\303\244\342\202\254\177\n");
    reads("characters of several bytes", 100);
    shows("shown");
    types("\023ab\021c\n");
    reads("stopped and started", 100);
    shows("shown");
    drop();
    make();
    char line[5000];
    memset(line, 'a', sizeof(line));
    set(0, 0, 0, ECHO);
    CHECK(write(master, line, sizeof(line)) == sizeof(line));
    types("\n");
    row("a line that is too long", read(slave, line, sizeof(line)));
    row("its end", line[4095]);
    drop();
}

// The line discipline has taken all of `text`, which ends a line.
static void through(const char *text)
{
    char got[100];
    types(text);
    CHECK(read(slave, got, sizeof(got)) > 0);
}

static void flow(void)
{
    make();
    set(0, 0, 0, ECHO);
    int out = open(ptsname(master), O_WRONLY | O_NOCTTY | O_NONBLOCK);
    row("TCOOFF", tcflow(slave, TCOOFF));
    through("\021a\n");
    row("a write that is held, whatever is typed", write(out, "1", 1));
    set(IXANY, 0, 0, 0);
    through("a\n");
    row("the same with IXANY", write(out, "2", 1));
    set(0, IXON, 0, 0);
    row("the same without IXON", write(out, "3", 1));
    set(IXON, IXANY, 0, 0);
    row("TCOON", tcflow(slave, TCOON));
    row("a write", write(out, "4", 1));
    through("\023a\n");
    row("TCOON of what was typed", tcflow(slave, TCOON));
    row("a write that is stopped", write(out, "5", 1));
    through("\021a\n");
    row("a write", write(out, "6", 1));
    through("\023a\n");
    set(0, IXON, 0, 0);
    row("a write without IXON", write(out, "7", 1));
    shows("shown");
    close(out);
    drop();
}

// What several write at once is not mixed.
static void turns(void)
{
    make();
    raw(1, 0);
    for (int i = 0; i < 3; i++)
        if (fork() == 0) {
            char line[101];
            memset(line, 'a' + i, 100);
            line[100] = '\n';
            close(master);
            for (int n = 0; n < 200; n++)
                CHECK(write(slave, line, sizeof(line)) == sizeof(line));
            _exit(0);
        }
    close(slave);
    // Until there is no more room.
    usleep(100000);
    char got[777], first = '\n';
    int lines = 0, mixed = 0;
    ssize_t n;
    while ((n = read(master, got, sizeof(got))) > 0)
        for (ssize_t i = 0; i < n; i++) {
            lines += got[i] == '\n';
            mixed += got[i] != '\n' && first != '\n' && got[i] != first;
            first = got[i];
        }
    row("lines", lines);
    row("places at which they are mixed", mixed);
    while (wait(NULL) > 0)
        ;
    close(master);
}

static void output(void)
{
    make();
    struct termios t;
    tcgetattr(slave, &t);
    t.c_oflag |= OLCUC;
    tcsetattr(slave, TCSANOW, &t);
    row("a write of letters", write(slave, "a\344\367\377\337", 5));
    shows("shown as large ones");
    tcflag_t flags[] = {0, OPOST, OPOST | ONLCR, OPOST | OCRNL, OPOST | ONOCR, OPOST | ONLRET, OPOST | XTABS | ONLCR};
    for (unsigned i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
        tcgetattr(slave, &t);
        t.c_oflag = flags[i];
        tcsetattr(slave, TCSANOW, &t);
        row("a write", write(slave, "\ra\tbc\r\n\b\td\n", 11));
        shows("shown");
    }
    drop();
}

static void raw_reads(void)
{
    make();
    raw(0, 0);
    reads("nothing, at once", 10);
    types("a\003\r\004\n");
    until(5);
    reads("two of five", 2);
    reads("the rest", 10);
    raw(0, 1);
    reads("nothing, after a while", 10);
    types("x");
    reads("something, before that", 10);
    raw(3, 0);
    struct pollfd p = {.fd = slave, .events = POLLIN};
    types("ab");
    until(2);
    row("poll with too little", poll(&p, 1, 0));
    int flags = fcntl(slave, F_GETFL);
    fcntl(slave, F_SETFL, flags | O_NONBLOCK);
    reads("what is there, without a wait", 10);
    reads("nothing, without a wait", 10);
    fcntl(slave, F_SETFL, flags);
    types("abc");
    until(3);
    row("poll with enough", poll(&p, 1, 0));
    reads("all of it", 10);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 4; i++) {
            types("z");
            usleep(10000);
        }
        _exit(0);
    }
    reads("three that come one by one, and no fourth", 3);
    waitpid(child, NULL, 0);
    until(1);
    raw(4, 1);
    reads("one, and then no more", 10);
    types("left");
    until(4);
    row("tcflush", tcflush(slave, TCIFLUSH));
    until(0);
    types("left");
    until(4);
    char many[6000];
    memset(many, 'x', sizeof(many));
    CHECK(write(master, many, sizeof(many)) == sizeof(many));
    until(4095);
    row("tcflush of more than there is room for", tcflush(slave, TCIFLUSH));
    until(0);
    types("left");
    until(4);
    struct termios t;
    tcgetattr(slave, &t);
    t.c_lflag |= ICANON;
    t.c_cc[VEOF] = 4;
    tcsetattr(slave, TCSANOW, &t);
    reads("raw bytes become a line", 10);
    types("more\npart");
    until(5);
    t.c_lflag &= ~ICANON;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    tcsetattr(slave, TCSANOW, &t);
    until(9);
    reads("a line becomes raw bytes", 20);
    drop();
}

static void rooms(void)
{
    make();
    raw(1, 0);
    int flags = fcntl(slave, F_GETFL);
    fcntl(slave, F_SETFL, flags | O_NONBLOCK);
    fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
    char page[4096];
    memset(page, 'x', sizeof(page));
    ssize_t n;
    long written = 0;
    while ((n = write(slave, page, sizeof(page))) > 0)
        written += n;
    row("a full screen", n);
    while (written > 0 && (n = read(master, page, sizeof(page))) != 0)
        if (n > 0)
            written -= n;
    row("bytes that did not come", written);
    row("an empty screen", read(master, page, 1));
    row("room again", write(slave, "x", 1));
    written = 0;
    while ((n = write(master, page, sizeof(page))) > 0)
        written += n;
    row("too much typed", n);
    while (written > 0 && (n = read(slave, page, sizeof(page))) != 0)
        if (n > 0)
            written -= n;
    row("bytes that did not come", written);
    row("nothing more", read(slave, page, 1));
    row("a read of nothing", read(slave, page, 0));
    row("a write of nothing", write(slave, page, 0));
    types("q");
    until(1);
    row("a read to nowhere", syscall(SYS_read, slave, 8L, 1L));
    row("a write from nowhere", syscall(SYS_write, slave, 8L, 1L));
    drop();
}

// Who sleeps in a read while the master goes learns of it. Who comes too late to sleep tries again.
static void goes(void)
{
    int how = 0;
    for (int tenths = 1; how == 0 && tenths < 100; tenths *= 2) {
        make();
        pid_t reader = fork();
        if (reader == 0) {
            close(master);
            char c;
            ssize_t n = read(slave, &c, 1);
            _exit(n == 0 ? 0 : errno);
        }
        usleep(tenths * 100000);
        drop();
        waitpid(reader, &how, 0);
    }
    row("a read that sleeps while the master goes", WEXITSTATUS(how) == EIO);
}

int main(void)
{
    // In a session of its own, which has no terminal.
    pid_t leader = fork();
    if (leader == 0) {
        setsid();
        doors();
        settings();
        speeds();
        sizes();
        editing();
        flow();
        turns();
        output();
        raw_reads();
        rooms();
        goes();
        _exit(0);
    }
    int how;
    waitpid(leader, &how, 0);
    row("the end", how);
    return how != 0;
}
