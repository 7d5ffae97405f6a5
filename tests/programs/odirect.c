/* What takes O_DIRECT, by opening and by F_SETFL, in a file system in memory. Prints a table. */
#include "common.h"
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

static void row(const char *what, long result)
{
    printf("%-28s %s %d\n", what, result < 0 ? "no" : "yes", result < 0 ? errno : 0);
}

static void opened(const char *what, const char *path, int flags)
{
    int fd = open(path, flags | O_DIRECT, 0600);
    row(what, fd);
    if (fd >= 0) {
        printf("%-28s %d\n", "  told", (fcntl(fd, F_GETFL) & O_DIRECT) != 0);
        close(fd);
    }
}

static void set(const char *what, int fd)
{
    CHECK(fd >= 0, "%s", what);
    row(what, fcntl(fd, F_SETFL, O_DIRECT));
    printf("%-28s %d\n", "  told", (fcntl(fd, F_GETFL) & O_DIRECT) != 0);
    close(fd);
}

int main(void)
{
    char directory[] = "/dev/shm/odirectXXXXXX", bytes[4096];
    CHECK(mkdtemp(directory) && chdir(directory) == 0);
    opened("open: a new file", "file", O_RDWR | O_CREAT);
    opened("open: a file", "file", O_RDWR);
    opened("open: a directory", ".", O_RDONLY);
    opened("open: a nameless file", ".", O_RDWR | O_TMPFILE);
    opened("open: /dev/null", "/dev/null", O_RDWR);
    opened("open: /dev/zero", "/dev/zero", O_RDONLY);
    opened("open: a file of /proc", "/proc/self/status", O_RDONLY);
    opened("open: a file of /sys", "/sys/devices/system/cpu/online", O_RDONLY);
    opened("open: only the path", "/dev/null", O_PATH);
    CHECK(mkfifo("fifo", 0600) == 0);
    opened("open: a fifo", "fifo", O_RDWR);
    set("set: a file", open("file", O_RDWR));
    set("set: a directory", open(".", O_RDONLY));
    set("set: /dev/null", open("/dev/null", O_RDWR));
    set("set: a file of /proc", open("/proc/self/status", O_RDONLY));
    set("set: a fifo", open("fifo", O_RDWR));
    set("set: a memfd", memfd_create("odirect", 0));
    set("set: an eventfd", eventfd(0, 0));
    int pair[2];
    CHECK(pipe(pair) == 0);
    set("set: a pipe to read", pair[0]);
    set("set: a pipe to write", pair[1]);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    set("set: a socket", pair[0]);
    /* No rule of alignment holds in memory. */
    int fd = open("file", O_RDWR | O_DIRECT);
    memset(bytes, 'x', sizeof bytes);
    printf("odd write and read: %zd", pwrite(fd, bytes + 1, 777, 3));
    memset(bytes, 0, sizeof bytes);
    printf(" %zd", pread(fd, bytes + 3, 4000, 5));
    printf(" %d\n", bytes[3] == 'x' && bytes[3 + 774] == 'x' && bytes[3 + 775] == 0);
    CHECK(unlink("file") == 0 && unlink("fifo") == 0 && chdir("/") == 0 && rmdir(directory) == 0);
    return 0;
}
