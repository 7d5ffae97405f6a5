/* Takes all there is of one thing after the other, each in a child that then ends: what it is refused with is in
 * machines/microvm/README.md, and neither the kernel nor the parent minds. Not for the host. */
#include "ring.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>

static long count_proc(void)
{
    long n = 0;
    DIR *dir = opendir("/proc");
    CHECK(dir != NULL);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += entry->d_name[0] >= '0' && entry->d_name[0] <= '9';
    closedir(dir);
    return n;
}

static void processes(void)
{
    long n = 0;
    int hold[2];
    pid_t child;
    CHECK(pipe(hold) == 0);
    while ((child = fork()) > 0)
        n++;
    if (child == 0) {
        char byte;
        close(hold[1]);
        CHECK(read(hold[0], &byte, 1) == 0);
        _exit(0);
    }
    CHECK(n > 100 && (errno == EAGAIN || errno == ENOMEM), "%ld processes", n);
    CHECK(count_proc() >= n);
    close(hold[1]);
    while (wait(NULL) > 0)
        n--;
    CHECK(n == 0);
}

static void zombies(void)
{
    long n = 0;
    pid_t child;
    while ((child = fork()) > 0)
        n++;
    if (child == 0)
        _exit(0);
    CHECK(n > 100 && (errno == EAGAIN || errno == ENOMEM), "%ld zombies", n);
}

static int doze(void *unused)
{
    while (unused == NULL)
        pause();
    return 0;
}

static void threads(void)
{
    long n = 0;
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    char *stacks = mmap(NULL, 1UL << 28, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(stacks != MAP_FAILED);
    while (clone(doze, stacks + 4096 * (n + 1), flags, NULL) > 0)
        n++;
    CHECK(n > 100 && (errno == EAGAIN || errno == ENOMEM), "%ld threads", n);
    CHECK(count_proc() > 0);
}

static void allow_descriptors(void)
{
    struct rlimit limit = {1 << 20, 1 << 20};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void descriptors(void)
{
    long n = 0;
    allow_descriptors();
    while (eventfd(0, 0) >= 0)
        n++;
    CHECK(n > 1000 && (errno == EMFILE || errno == ENOMEM), "%ld eventfds", n);
}

static void pipes(void)
{
    long n = 0;
    int fd[2];
    static char bytes[65536];
    allow_descriptors();
    while (pipe2(fd, O_NONBLOCK) == 0 && write(fd[1], bytes, sizeof bytes) > 0)
        n++;
    CHECK(n > 50, "%ld pipes", n);
    /* One that there is goes on working. */
    CHECK(read(3, bytes, 4096) == 4096 && write(4, bytes, 4096) == 4096);
}

static void messages(void)
{
    long n = 0;
    int fd[2];
    static char bytes[100000];
    allow_descriptors();
    while (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, fd) == 0 && write(fd[1], bytes, sizeof bytes) > 0)
        n++;
    CHECK(n > 20 && (errno == ENOBUFS || errno == ENFILE || errno == EMFILE), "%ld messages", n);
}

static void interests(void)
{
    long n = 0;
    allow_descriptors();
    int files[512];
    for (int i = 0; i < 512; i++)
        CHECK((files[i] = eventfd(0, 0)) >= 0);
    for (int epoll; (epoll = epoll_create1(0)) >= 0;)
        for (int i = 0; i < 512; i++) {
            struct epoll_event event = {.events = EPOLLIN};
            if (epoll_ctl(epoll, EPOLL_CTL_ADD, files[i], &event) != 0)
                goto full;
            n++;
        }
full:
    CHECK(n > 1000 && (errno == ENOMEM || errno == EMFILE), "%ld interests", n);
}

static void mappings(void)
{
    long n = 0;
    while (mmap(NULL, PAGE, n & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED)
        n++;
    CHECK(n > 30000 && errno == ENOMEM, "%ld mappings", n);
    int maps = open("/proc/self/maps", O_RDONLY);
    static char text[65536];
    while (read(maps, text, sizeof text) > 0)
        ;
}

static void files(void)
{
    long n = 0;
    char name[64];
    int fd = -1;
    CHECK(mkdir("/tmp/many", 0700) == 0);
    for (;; n++) {
        snprintf(name, sizeof name, "/tmp/many/%ld", n);
        if ((fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) < 0)
            break;
        close(fd);
    }
    CHECK(n > 1000 && (errno == ENOSPC || errno == ENOMEM), "%ld files", n);
    for (long i = 0; i < n; i++) {
        snprintf(name, sizeof name, "/tmp/many/%ld", i);
        CHECK(unlink(name) == 0);
    }
    CHECK(rmdir("/tmp/many") == 0);
}

static void bytes_of_files(void)
{
    long n = 0;
    static char bytes[65536];
    int fd = open("/tmp/large", O_CREAT | O_RDWR, 0600);
    CHECK(fd >= 0);
    while (write(fd, bytes, sizeof bytes) > 0)
        n++;
    CHECK(n > 100 && (errno == ENOSPC || errno == ENOMEM), "%ld pieces", n);
    CHECK(unlink("/tmp/large") == 0);
}

static void deep_directories(void)
{
    long n = 0;
    char path[PATH_MAX];
    CHECK(mkdir("/tmp/deep", 0700) == 0 && chdir("/tmp/deep") == 0);
    for (; n < 3000 && mkdir("a-directory-with-a-long-name", 0700) == 0; n++)
        CHECK(chdir("a-directory-with-a-long-name") == 0);
    CHECK(n > 100, "%ld levels", n);
    CHECK(syscall(SYS_getcwd, path, sizeof path) == -1 && errno == ENAMETOOLONG);
    /* They stay, for the kernel to take apart at the end. */
}

static void queued_signals(void)
{
    long n = 0;
    sigset_t set;
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
    sigfillset(&set);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    while (n < 200000 && sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 1}) == 0)
        n++;
    CHECK(n > 1000, "%ld signals", n);
}

static void timers(void)
{
    long n = 0;
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    while (n < 100000 && syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) == 0)
        n++;
    CHECK(n == 256 && errno == EAGAIN, "%ld timers", n);
}

/* Takes a step after the other until the kernel's heap has its share; gives their number. */
static long until_full(int (*step)(long))
{
    long n = 0;
    allow_descriptors();
    while (step(n) == 0)
        n++;
    CHECK(n > 1000 && (errno == ENOMEM || errno == EMFILE), "%ld", n);
    return n;
}

static int name_socket(long n)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return -1;
    snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "e%07ld", n);
    return bind(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 9);
}

/* What comes after everything is there takes memory too, and is refused or done. */
static void listeners(void)
{
    long refused = 0, n = until_full(name_socket);
    for (long fd = 3; fd < n; fd++) {
        int done = listen(fd, 1);
        CHECK(done == 0 || errno == ENOMEM);
        refused += done != 0;
    }
    CHECK(refused > 0, "%ld sockets listen", n);
}

/* A terminal brings its memory along when it is made: whoever types or writes never needs more. */
static void terminals(void)
{
    static char text[32768];
    int fd, n = 0;
    while ((fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK)) >= 0) {
        CHECK(write(fd, text, sizeof(text)) > 0);
        n++;
    }
    CHECK(n > 3 && (errno == ENOSPC || errno == ENOMEM), "%d terminals", n);
}

static int make_timer(long n)
{
    return n < 1 << 20 && timerfd_create(CLOCK_MONOTONIC, 0) >= 0 ? 0 : -1;
}

static void armed_timers(void)
{
    struct itimerspec later = {.it_value = {.tv_sec = 1000}}, never = {.it_value = {0}};
    long refused = 0, n = until_full(make_timer);
    for (long fd = 3; fd < n; fd++) {
        int done = timerfd_settime(fd, 0, &later, NULL);
        CHECK(done == 0 || errno == ENOMEM);
        refused += done != 0;
        CHECK(timerfd_settime(fd, 0, &never, NULL) == 0);
    }
    CHECK(refused > 0, "%ld timers are armed", n);
    struct itimerval soon = {.it_value = {.tv_sec = 1000}}, off = {.it_value = {0}};
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == -1 && errno == ENOMEM);
    CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
}

/* A pipe is filled from another while there is room; what is read out of it comes out without any. */
static void lent_pages(void)
{
    static char bytes[4096];
    struct iovec piece = {bytes, sizeof bytes};
    int from[2], to[2], file = open("/dev/null", O_WRONLY);
    CHECK(file >= 0 && pipe2(from, O_NONBLOCK) == 0 && pipe2(to, O_NONBLOCK) == 0);
    CHECK(write(from[1], bytes, sizeof bytes) == sizeof bytes);
    until_full(make_timer);
    CHECK(tee(from[0], to[1], sizeof bytes, 0) == -1 && errno == ENOMEM);
    CHECK(splice(from[0], NULL, to[1], NULL, 100, 0) == -1 && errno == ENOMEM);
    CHECK(vmsplice(to[1], &piece, 1, 0) == -1 && errno == ENOMEM);
    CHECK(vmsplice(from[0], &piece, 1, 0) == sizeof bytes);
    CHECK(write(from[1], bytes, sizeof bytes) == sizeof bytes);
    CHECK(splice(from[0], NULL, file, NULL, sizeof bytes, 0) == sizeof bytes);
}

/* Rings of the largest size, then of the smallest; and more completions than are kept. */
static void rings(void)
{
    struct ring ring;
    CHECK(ring_make(&ring, 1, 0, 0) == 0);
    enum { NOPS = 70000 };
    for (int i = 0; i < NOPS; i++) {
        ring_transfer(&ring, IORING_OP_NOP, -1, NULL, 0, 0, 0);
        CHECK(ring_enter(&ring, 1, 0, 0) == 1);
    }
    unsigned lost = *ring_word(&ring, ring.params.cq_off.overflow);
    CHECK(lost > 0 && lost < NOPS - 2, "%u lost", lost);
    CHECK(ring_enter(&ring, 0, 1, IORING_ENTER_GETEVENTS) == -1 && errno == EBADR);
    long n = 0;
    allow_descriptors();
    for (unsigned entries = 32768; entries > 0; entries /= 8) {
        struct io_uring_params params = {0};
        while (ring_setup(entries, &params) >= 0) {
            n++;
            memset(&params, 0, sizeof params);
        }
        CHECK(errno == ENOMEM || errno == EMFILE);
    }
    CHECK(n > 4, "%ld rings", n);
    ring_transfer(&ring, IORING_OP_NOP, -1, NULL, 0, 0, 0);
    CHECK(ring_enter(&ring, 1, 0, 0) == 1);
}

static void unknown_calls(void)
{
    for (long n = 0; n < 100000; n++)
        CHECK(syscall(1000000 + n) == -1 && errno == ENOSYS);
}

static void memory(void)
{
    for (;;) {
        unsigned char *at = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at != MAP_FAILED)
            memset(at, 1, 1 << 20);
    }
}

static const struct {
    const char *what;
    void (*take)(void);
} things[] = {
    {"processes", processes}, {"zombies", zombies}, {"threads", threads}, {"descriptors", descriptors},
    {"pipes", pipes}, {"messages", messages}, {"interests", interests}, {"mappings", mappings},
    {"files", files}, {"bytes", bytes_of_files}, {"directories", deep_directories}, {"signals", queued_signals},
    {"timers", timers}, {"listeners", listeners}, {"terminals", terminals}, {"armed", armed_timers}, {"lent", lent_pages},
    {"rings", rings}, {"calls", unknown_calls}, {"memory", memory},
};

int main(int count, char **arguments)
{
    printf("exhaust:");
    for (size_t i = 0; i < sizeof things / sizeof *things; i++) {
        int status = 0;
        if (count > 1 && strcmp(arguments[1], things[i].what) != 0)
            continue;
        fflush(stdout);
        pid_t child = fork();
        CHECK(child >= 0, "%s", things[i].what);
        if (child == 0) {
            things[i].take();
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child);
        /* Who takes all of memory is killed for it. */
        int killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        CHECK(killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0), "%s: 0x%x", things[i].what, status);
        printf(" %s%s", things[i].what, killed ? " (killed)" : "");
    }
    printf("\n");
    return 0;
}
