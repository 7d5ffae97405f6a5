// Job control through a pseudo-terminal, told as a table: whose terminal it is, who may read and write, the
// characters that are signals, and hanging up.
#include "table.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>

static int master, slave;

// What the parts do: as the leader of a session that has the terminal, while somebody types.
static void with_terminal(void (*leads)(void), void (*typist)(pid_t leader))
{
    master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(master >= 0 && unlockpt(master) == 0);
    pid_t leader = fork();
    if (leader == 0) {
        setsid();
        slave = open(ptsname(master), O_RDWR);
        close(master);
        leads();
        _exit(0);
    }
    if (typist)
        typist(leader);
    int how;
    CHECK(waitpid(leader, &how, 0) == leader);
    status("the leader", how);
    close(master);
}

static pid_t job(void (*does)(void))
{
    int gate[2];
    CHECK(pipe(gate) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        char c;
        close(gate[1]);
        if (read(gate[0], &c, 1) == 0)
            does();
        _exit(0);
    }
    setpgid(pid, pid);
    // It begins once its group is set.
    close(gate[0]);
    close(gate[1]);
    return pid;
}

static void waits_for(const char *name, pid_t pid)
{
    int how;
    CHECK(waitpid(pid, &how, WUNTRACED | WCONTINUED) == pid);
    status(name, how);
}

static void sleeps(void)
{
    for (;;)
        pause();
}

static void ends(pid_t pid)
{
    kill(-pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void says(const char *text)
{
    CHECK(write(slave, text, strlen(text)) == (ssize_t)strlen(text));
}

// Types `text` once the screen shows a question mark.
static void answers(const char *text)
{
    char c = 0;
    while (c != '?')
        CHECK(read(master, &c, 1) == 1);
    CHECK(write(master, text, strlen(text)) == (ssize_t)strlen(text));
}

static void owns(void)
{
    pid_t number;
    row("TIOCGSID is this session", ioctl(slave, TIOCGSID, &number) == 0 && number == getpid());
    row("tcgetpgrp is this group", tcgetpgrp(slave) == getpid());
    int own = open("/dev/tty", O_RDWR);
    row("/dev/tty", own >= 0);
    row("it is the same", tcgetpgrp(own) == getpid());
    row("TIOCSCTTY again", ioctl(slave, TIOCSCTTY, 0));
    int other = posix_openpt(O_RDWR | O_NOCTTY);
    unlockpt(other);
    int second = open(ptsname(other), O_RDWR);
    row("a second terminal is not taken", tcgetpgrp(second));
    row("TIOCSCTTY of a second", ioctl(second, TIOCSCTTY, 0));
    row("tcsetpgrp of a group that is not there", tcsetpgrp(slave, 1 << 21));
    pid_t member = fork();
    if (member == 0)
        sleeps();
    row("tcsetpgrp of a process that leads no group", tcsetpgrp(slave, member));
    row("it is the one", tcgetpgrp(slave) == member);
    // Now this group is in the background.
    signal(SIGTTOU, SIG_IGN);
    row("tcsetpgrp of the own group", tcsetpgrp(slave, getpid()));
    signal(SIGTTOU, SIG_DFL);
    kill(member, SIGKILL);
    waitpid(member, NULL, 0);
    row("tcsetpgrp of a negative group", tcsetpgrp(slave, -1));
    row("tcsetpgrp of another session's group", tcsetpgrp(slave, getppid()));
    row("tcsetpgrp of a terminal that is another's", tcsetpgrp(second, getpid()));
    pid_t child = fork();
    if (child == 0) {
        row("a child's TIOCSCTTY", ioctl(second, TIOCSCTTY, 0));
        row("a child's setsid", setsid() == getpid());
        row("it has no terminal", open("/dev/tty", O_RDWR));
        row("TIOCSCTTY of its father's", ioctl(slave, TIOCSCTTY, 0));
        row("TIOCSCTTY of the second", ioctl(second, TIOCSCTTY, 0));
        row("it is its own", tcgetpgrp(second) == getpid());
        signal(SIGHUP, SIG_IGN);
        row("TIOCNOTTY", ioctl(second, TIOCNOTTY));
        row("it is no more", tcgetpgrp(second));
        row("TIOCNOTTY again", ioctl(second, TIOCNOTTY));
        _exit(0);
    }
    waitpid(child, NULL, 0);
    child = fork();
    if (child == 0) {
        row("a member's TIOCNOTTY", ioctl(slave, TIOCNOTTY));
        row("it has no terminal", open("/dev/tty", O_RDWR));
        _exit(0);
    }
    waitpid(child, NULL, 0);
    row("the leader still has it", tcgetpgrp(slave) == getpid());
}

static void reads_once(void)
{
    char got[16];
    ssize_t n = read(slave, got, sizeof(got));
    row("the job reads", n);
}

static void writes_once(void)
{
    row("the job writes", write(slave, "!", 1));
}

static void takes_over(void)
{
    row("the job takes the terminal", tcsetpgrp(slave, getpgrp()));
}

static void sets(void)
{
    struct termios t;
    tcgetattr(slave, &t);
    row("the job sets the terminal", tcsetattr(slave, TCSANOW, &t));
}

static void background(void)
{
    signal(SIGTTOU, SIG_IGN);
    pid_t pid = job(reads_once);
    waits_for("a job reads in the background", pid);
    row("it gets the terminal", tcsetpgrp(slave, pid));
    kill(-pid, SIGCONT);
    waits_for("and goes on", pid);
    says("?");
    waits_for("to its end", pid);
    row("the shell takes it back", tcsetpgrp(slave, getpid()));
    signal(SIGTTOU, SIG_DFL);
    pid = job(writes_once);
    waits_for("a job writes in the background", pid);
    struct termios t;
    tcgetattr(slave, &t);
    t.c_lflag |= TOSTOP;
    tcsetattr(slave, TCSANOW, &t);
    pid = job(writes_once);
    waits_for("the same with TOSTOP", pid);
    t.c_lflag &= ~TOSTOP;
    tcsetattr(slave, TCSANOW, &t);
    kill(-pid, SIGCONT);
    // It may have ended before anybody learns that it went on.
    int how;
    CHECK(waitpid(pid, &how, 0) == pid);
    status("and goes on to its end", how);
    pid = job(sets);
    waits_for("a job sets the terminal", pid);
    ends(pid);
    pid = job(takes_over);
    waits_for("a job takes the terminal", pid);
    ends(pid);
    signal(SIGTTOU, SIG_IGN);
    pid = job(takes_over);
    waits_for("the same, and ignores SIGTTOU", pid);
    row("the shell takes it back", tcsetpgrp(slave, getpid()));
    signal(SIGTTIN, SIG_IGN);
    pid = job(reads_once);
    waits_for("a job reads, and ignores SIGTTIN", pid);
    signal(SIGTTIN, SIG_DFL);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGTTIN);
    sigprocmask(SIG_BLOCK, &set, &old);
    pid = job(reads_once);
    waits_for("a job reads, and blocks SIGTTIN", pid);
    sigprocmask(SIG_SETMASK, &old, NULL);
}

static void types_line(pid_t leader)
{
    (void)leader;
    answers("line\n");
}

// The group in the background has nobody left who would make it go on.
static void orphaned(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        if (fork() == 0) {
            // Its father has ended by then, and was waited for.
            while (kill(getpgrp(), 0) == 0)
                usleep(1000);
            reads_once();
            struct termios t;
            tcgetattr(slave, &t);
            row("an orphan sets the terminal", tcsetattr(slave, TCSANOW, &t));
            row("an orphan takes the terminal", tcsetpgrp(slave, getpgrp()));
            _exit(0);
        }
        _exit(0);
    }
    setpgid(pid, pid);
    waitpid(pid, NULL, 0);
    // Until the orphan has ended, too.
    while (kill(-pid, 0) == 0)
        usleep(1000);
}

static void on_signal(int signal)
{
    (void)signal;
}

static void characters(void)
{
    signal(SIGTTOU, SIG_IGN);
    static const char *names[] = {"^C", "^\\", "^Z", "^Z, and then ^C"};
    for (int i = 0; i < 4; i++) {
        pid_t pid = job(sleeps);
        tcsetpgrp(slave, pid);
        says("?");
        waits_for(names[i], pid);
        if (i >= 2) {
            kill(-pid, SIGCONT);
            waits_for("it goes on", pid);
        }
        if (i == 3) {
            says("?");
            waits_for("^C", pid);
        } else {
            ends(pid);
        }
        tcsetpgrp(slave, getpid());
    }
    // Who waits is told, and what was typed before is gone. The signal comes while it waits, and not before.
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, &old);
    char got[16];
    struct pollfd p = {.fd = slave, .events = POLLIN};
    says("?");
    row("a wait that ^C ends", ppoll(&p, 1, NULL, &old));
    sigprocmask(SIG_SETMASK, &old, NULL);
    says("?");
    ssize_t n = read(slave, got, sizeof(got));
    row("and what is read then", n);
    row("the line", n == 4 && memcmp(got, "new\n", 4) == 0);
}

static void types_characters(pid_t leader)
{
    (void)leader;
    answers("\003");
    answers("\034");
    answers("\032");
    answers("\032");
    answers("\003");
    answers("old\003");
    answers("new\n");
}

static volatile sig_atomic_t sized;

static void on_size(int signal)
{
    (void)signal;
    sized++;
}

static void window(void)
{
    signal(SIGWINCH, on_size);
    says("?");
    while (!sized)
        usleep(1000);
    struct winsize w;
    ioctl(slave, TIOCGWINSZ, &w);
    row("rows of the window", w.ws_row);
    row("columns", w.ws_col);
    sized = 0;
    ioctl(slave, TIOCSWINSZ, &w);
    row("the same size again tells nobody", sized);
    w.ws_row = 7;
    ioctl(slave, TIOCSWINSZ, &w);
    row("another size does", sized);
}

static void sizes(pid_t leader)
{
    (void)leader;
    char c = 0;
    while (c != '?')
        CHECK(read(master, &c, 1) == 1);
    struct winsize w = {50, 132, 0, 0};
    ioctl(master, TIOCSWINSZ, &w);
}

static volatile sig_atomic_t hung_up, went_on;

static void on_hangup(int signal)
{
    if (signal == SIGHUP)
        hung_up = 1;
    else
        went_on = 1;
}

static void hangup(void)
{
    signal(SIGHUP, on_hangup);
    signal(SIGCONT, on_hangup);
    pid_t pid = job(sleeps);
    signal(SIGTTOU, SIG_IGN);
    tcsetpgrp(slave, pid);
    says("?");
    while (!hung_up || !went_on)
        usleep(1000);
    row("SIGHUP and SIGCONT", 2);
    char c;
    struct pollfd p = {.fd = slave, .events = POLLIN | POLLOUT};
    row("poll", poll(&p, 1, -1));
    row("what it tells", p.revents);
    row("a read", read(slave, &c, 1));
    row("a write", write(slave, "x", 1));
    struct termios t;
    row("tcgetattr", tcgetattr(slave, &t));
    row("tcsetpgrp", tcsetpgrp(slave, getpid()));
    int n;
    row("FIONREAD", ioctl(slave, FIONREAD, &n));
    row("/dev/tty", open("/dev/tty", O_RDWR));
    // The job in the foreground lives until the leader ends.
    row("the job lives", waitpid(pid, NULL, WNOHANG));
    ends(pid);
}

static void hangs_up(pid_t leader)
{
    (void)leader;
    char c = 0;
    while (c != '?')
        CHECK(read(master, &c, 1) == 1);
    close(master);
    master = -1;
}

static int told;

static void tells(int signal)
{
    char c = signal == SIGHUP ? 'h' : 'c';
    if (write(told, &c, 1) == 1 && signal == SIGHUP)
        _exit(0);
}

// The leader ends: the group in the foreground is hung up on, and nobody of the session has the terminal.
static void leaves(void)
{
    signal(SIGTTOU, SIG_IGN);
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        signal(SIGHUP, tells);
        tcsetpgrp(slave, getpid());
        char c = 'r';
        CHECK(write(told, &c, 1) == 1);
        sleeps();
    }
    setpgid(pid, pid);
    // It is ready once it has taken the terminal, and said so.
    while (tcgetpgrp(slave) != pid)
        usleep(1000);
    usleep(1000);
}

static void leaving(void)
{
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    told = pipes[1];
    with_terminal(leaves, NULL);
    close(pipes[1]);
    char got[8];
    ssize_t n, all = 0;
    while ((n = read(pipes[0], got + all, sizeof(got) - all)) > 0)
        all += n;
    row("what the foreground says", all);
    row("it was hung up on", all == 2 && got[1] == 'h');
}

int main(void)
{
    // Who starts it in the background may have told it to ignore them.
    signal(SIGINT, SIG_DFL);
    signal(SIGQUIT, SIG_DFL);
    // In a session of its own, whoever started it, which has no terminal.
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        with_terminal(owns, NULL);
        with_terminal(background, types_line);
        with_terminal(orphaned, NULL);
        with_terminal(characters, types_characters);
        with_terminal(window, sizes);
        with_terminal(hangup, hangs_up);
        leaving();
        _exit(0);
    }
    int how;
    waitpid(pid, &how, 0);
    status("all", how);
    return how != 0;
}
