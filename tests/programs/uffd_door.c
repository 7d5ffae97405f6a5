/* Who may have a userfaultfd that is told of the kernel's faults: by the device, by the call, and by vm.unprivileged_userfaultfd. A table, a
 * line for each try. */
#include "uffd.h"
#include <sys/stat.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#define DOOR "/dev/userfaultfd"
#define SETTING "/proc/sys/vm/unprivileged_userfaultfd"

static void line(const char *what, long result)
{
    printf("%-40s %3d\n", what, result < 0 ? errno : 0);
}

/* 0, or the error number. */
static int set(const char *text)
{
    int setting = open(SETTING, O_WRONLY);
    int error = setting < 0 || write(setting, text, strlen(text)) < 0 ? errno : 0;
    if (setting >= 0)
        close(setting);
    return error;
}

static void handshake(const char *what, int fd)
{
    struct uffdio_api api = {.api = UFFD_API, .features = 0};
    line(what, ioctl(fd, UFFDIO_API, &api));
    struct uffdio_api fork_too = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK};
    int again = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1);
    CHECK(again >= 0);
    line("  with events of forks", ioctl(again, UFFDIO_API, &fork_too));
    close(again);
    close(fd);
}

static void by_user(int door)
{
    CHECK(setgid(1000) == 0 && setuid(1000) == 0);
    line("a user opens the device", open(DOOR, O_RDWR));
    line("a user who was given it", ioctl(door, USERFAULTFD_IOC_NEW, O_CLOEXEC));
    line("a user calls", syscall(SYS_userfaultfd, 0));
    line("a user calls for its own faults", syscall(SYS_userfaultfd, 1));
    printf("%-40s %3d\n", "a user changes the setting", set("1"));
}

static void in_child(void (*what)(int), int door)
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        what(door);
        fflush(stdout);
        _exit(0);
    }
    wait_ok(child);
}

static void by_user_allowed(int door)
{
    (void)door;
    CHECK(setgid(1000) == 0 && setuid(1000) == 0);
    line("the setting is on: a user calls", syscall(SYS_userfaultfd, 0));
    line("  and opens the device", open(DOOR, O_RDWR));
}

static void by_user_of_mode(int door)
{
    (void)door;
    CHECK(setgid(1000) == 0 && setuid(1000) == 0);
    line("the device is for all: a user reads", open(DOOR, O_RDONLY));
    line("  and writes", open(DOOR, O_RDWR));
}

/* A fault of the kernel, in a range that only the program's own faults are told of. */
static void kernels_faults(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
    CHECK(fd >= 0);
    struct uffdio_api api = {.api = UFFD_API};
    CHECK(ioctl(fd, UFFDIO_API, &api) == 0);
    unsigned char *at = map_pages(1);
    uffd_watch(fd, at, 1, UFFDIO_REGISTER_MODE_MISSING);
    int ends[2];
    CHECK(pipe(ends) == 0 && write(ends[1], "x", 1) == 1);
    line("the kernel faults, and nobody is told", read(ends[0], at, 1));
    close(fd);
}

int main(void)
{
    struct stat is;
    CHECK(stat(DOOR, &is) == 0);
    printf("%-40s %o %lx\n", "the device", is.st_mode, (unsigned long)is.st_rdev);
    int door = open(DOOR, O_RDWR | O_CLOEXEC);
    CHECK(door >= 0);
    line("unknown flags", ioctl(door, USERFAULTFD_IOC_NEW, 4));
    line("an unknown request", ioctl(door, _IO(0xAA, 1), 0));
    char byte;
    line("reading the device", read(door, &byte, 1));
    line("writing it", write(door, "a", 1));
    int fd = ioctl(door, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    CHECK(fd >= 0);
    printf("%-40s %d %d\n", "flags of what it made", !!(fcntl(fd, F_GETFD) & FD_CLOEXEC), !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
    handshake("the handshake", fd);
    in_child(by_user, door);
    kernels_faults();
    struct { char text[8]; } wrong[] = {{"2"}, {"-1"}, {"x"}};
    for (int i = 0; i < 3; i++)
        printf("%-40s %3d\n", "a setting that there is not", set(wrong[i].text));
    char old[8] = {0};
    int setting = open(SETTING, O_RDONLY);
    CHECK(setting >= 0 && read(setting, old, sizeof old - 1) > 0);
    close(setting);
    CHECK(set("1") == 0);
    in_child(by_user_allowed, door);
    CHECK(set(old) == 0);
    CHECK(chmod(DOOR, 0604) == 0);
    in_child(by_user_of_mode, door);
    CHECK(chmod(DOOR, is.st_mode & 07777) == 0);
    return 0;
}
