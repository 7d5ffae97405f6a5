/* The memory of other processes: process_vm_readv and process_vm_writev, /proc/PID/mem, and who may.
 *
 * Prints a table; the host's Linux says what is right. */
#include "common.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/uio.h>

static void note(const char *what, long result)
{
    printf("%-58s %ld\n", what, result < 0 ? -(long)errno : result);
}

/* A child that has a copy of all, waits for a byte, and ends. */
struct child {
    pid_t pid;
    int go, ready;
};

static struct child start(void (*before)(void))
{
    int go[2], ready[2];
    CHECK(pipe(go) == 0 && pipe(ready) == 0);
    struct child child = {.go = go[1], .ready = ready[0]};
    fflush(stdout);
    child.pid = fork();
    CHECK(child.pid >= 0);
    if (child.pid == 0) {
        char byte;
        close(go[1]);
        if (before)
            before();
        CHECK(write(ready[1], "r", 1) == 1);
        CHECK(read(go[0], &byte, 1) >= 0);
        _exit(0);
    }
    close(go[0]);
    close(ready[1]);
    char byte;
    CHECK(read(child.ready, &byte, 1) == 1);
    return child;
}

static void stop(struct child child)
{
    CHECK(write(child.go, "g", 1) == 1);
    close(child.go);
    close(child.ready);
    wait_ok(child.pid);
}

static unsigned char *area; /* six pages of the child's: 0-2 as they were, 3 read-only, 4 without access, 5 a hole */
static unsigned char *shared; /* a page that is mapped shared, and read-only in the child */

static void arrange(void)
{
    CHECK(mprotect(area + 3 * PAGE, PAGE, PROT_READ) == 0);
    CHECK(mprotect(area + 4 * PAGE, PAGE, PROT_NONE) == 0);
    CHECK(munmap(area + 5 * PAGE, PAGE) == 0);
    CHECK(mprotect(shared, PAGE, PROT_READ) == 0);
}

static long vm_read(pid_t pid, void *to, size_t len, void *from, size_t remote)
{
    struct iovec local = {to, len}, other = {from, remote};
    return process_vm_readv(pid, &local, 1, &other, 1, 0);
}

static long vm_write(pid_t pid, void *from, size_t len, void *to, size_t remote)
{
    struct iovec local = {from, len}, other = {to, remote};
    return process_vm_writev(pid, &local, 1, &other, 1, 0);
}

static void vectors(void)
{
    struct child child = start(arrange);
    pid_t pid = child.pid;
    static unsigned char buffer[8 * 4096];
    unsigned char *cliff = map_pages(2);
    CHECK(munmap(cliff + PAGE, PAGE) == 0);
    cliff += PAGE;
    note("read of a page", vm_read(pid, buffer, PAGE, area, PAGE));
    note("its bytes", buffer[0] * 1000 + buffer[PAGE - 1]);
    note("read over pages, not aligned", vm_read(pid, buffer, 5000, area + 4000, 5000));
    note("its bytes", buffer[0] * 1000 + buffer[4999]);
    note("read into the page without access", vm_read(pid, buffer, 2 * PAGE, area + 3 * PAGE, 2 * PAGE));
    note("read from it", vm_read(pid, buffer, 10, area + 4 * PAGE, 10));
    note("read of the hole", vm_read(pid, buffer, 10, area + 5 * PAGE, 10));
    note("read of address 0", vm_read(pid, buffer, 10, NULL, 10));
    note("read of the last addresses", vm_read(pid, buffer, 10, (void *)-5L, 10));
    note("local is shorter", vm_read(pid, buffer, 7, area, PAGE));
    note("remote is shorter", vm_read(pid, buffer, PAGE, area, 9));
    note("local runs into a hole", vm_read(pid, cliff - 5, 10, area, 10));
    note("local is a hole", vm_read(pid, cliff, 10, area, 10));
    note("nothing local", vm_read(pid, buffer, 0, area, 10));
    note("nothing remote", vm_read(pid, buffer, 10, area, 0));
    note("nothing remote, no such process", vm_read(999999, buffer, 10, area, 0));
    note("no such process", vm_read(999999, buffer, 10, area, 10));
    struct iovec local[3] = {{buffer, 3}, {buffer + 100, 0}, {buffer + 200, 4000}};
    struct iovec other[3] = {{area, 1000}, {area + 3 * PAGE, 2 * PAGE}, {area, 1000}};
    note("several, the second half there", process_vm_readv(pid, local, 3, other, 3, 0));
    note("flags", process_vm_readv(pid, local, 1, other, 1, 1));
    note("no pieces", process_vm_readv(pid, local, 0, other, 1, 0));
    note("no pieces there", process_vm_readv(pid, local, 1, other, 0, 0));
    note("too many pieces", process_vm_readv(pid, local, 1025, other, 1, 0));
    note("too many pieces there", process_vm_readv(pid, local, 1, other, 1025, 0));
    note("pieces in a hole", process_vm_readv(pid, (void *)cliff, 1, other, 1, 0));
    note("pieces there in a hole", process_vm_readv(pid, local, 1, (void *)cliff, 1, 0));
    struct iovec negative = {buffer, (size_t)-1};
    note("a negative length", process_vm_readv(pid, &negative, 1, other, 1, 0));
    note("a negative length there", process_vm_readv(pid, local, 1, &negative, 1, 0));

    memset(buffer, 77, sizeof buffer);
    note("write over pages", vm_write(pid, buffer, 5000, area + 10, 5000));
    note("own memory is as before", area[10]);
    note("read back", vm_read(pid, buffer + 8192, 5000, area + 10, 5000));
    note("its bytes", memcmp(buffer, buffer + 8192, 5000));
    note("write into the read-only page", vm_write(pid, buffer, 2 * PAGE, area + 2 * PAGE, 2 * PAGE));
    note("write from it on", vm_write(pid, buffer, 10, area + 3 * PAGE, 10));
    note("write from a hole", vm_write(pid, cliff, 10, area, 10));
    note("write over one's own cliff", vm_write(pid, cliff - 6, 10, area, 10));
    note("write to what is shared and read-only", vm_write(pid, buffer, 10, shared, 10));
    note("to oneself", vm_write(getpid(), buffer, 10, area, 10));
    note("has come", area[9]);
    CHECK(kill(pid, SIGKILL) == 0);
    int status;
    siginfo_t info;
    CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
    note("of a zombie", vm_read(pid, buffer, 10, area, 10));
    CHECK(waitpid(pid, &status, 0) == pid);
    note("of one who was waited for", vm_read(pid, buffer, 10, area, 10));
    close(child.go);
    close(child.ready);
}

static int open_mem(pid_t pid, int flags)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    return open(path, flags);
}

static void memory(void)
{
    struct child child = start(arrange);
    static unsigned char buffer[4 * 4096];
    unsigned char *cliff = map_pages(2);
    CHECK(munmap(cliff + PAGE, PAGE) == 0);
    cliff += PAGE;
    int fd = open_mem(child.pid, O_RDWR);
    CHECK(fd >= 0);
    off_t at = (off_t)(uintptr_t)area;
    note("mem: read", pread(fd, buffer, 100, at));
    note("mem: its bytes", buffer[0] * 1000 + buffer[99]);
    note("mem: read over all that is there", pread(fd, buffer, 3 * PAGE, at + 3 * (off_t)PAGE));
    note("mem: read what may not be touched", pread(fd, buffer, 10, at + 4 * (off_t)PAGE));
    note("mem: its bytes", buffer[0]);
    note("mem: read the hole", pread(fd, buffer, 10, at + 5 * (off_t)PAGE));
    note("mem: read address 0", pread(fd, buffer, 10, 0));
    note("mem: read of nothing", pread(fd, buffer, 0, 0));
    note("mem: read into a hole", pread(fd, cliff, 10, at));
    note("mem: write", pwrite(fd, "hello", 5, at + 3));
    note("mem: force", pwrite(fd, "there", 5, at + 3 * (off_t)PAGE));
    note("mem: force where nobody may", pwrite(fd, "again", 5, at + 4 * (off_t)PAGE));
    note("mem: write to what is shared and read-only", pwrite(fd, "s", 1, (off_t)(uintptr_t)shared));
    note("mem: write to the hole", pwrite(fd, "hello", 5, at + 5 * (off_t)PAGE));
    note("mem: write over the edge", pwrite(fd, buffer, 100, at + 5 * (off_t)PAGE - 7));
    note("mem: write from a hole", pwrite(fd, cliff, 10, at));
    note("mem: read back", pread(fd, buffer, 5, at + 3));
    note("mem: its bytes", memcmp(buffer, "hello", 5));
    note("mem: forced bytes", pread(fd, buffer, 5, at + 3 * (off_t)PAGE) == 5 && memcmp(buffer, "there", 5) == 0);
    note("mem: own bytes are as before", area[3 * PAGE] * 1000 + area[4 * PAGE]);
    note("mem: seek", lseek(fd, at, SEEK_SET) == at);
    note("mem: read at the position", read(fd, buffer, 3));
    note("mem: seek on", lseek(fd, 1, SEEK_CUR) == at + 4);
    note("mem: read at the position", read(fd, buffer, 1) == 1 && buffer[0] == 'e');
    note("mem: write at the position", write(fd, "LLO", 3));
    note("mem: position", lseek(fd, 0, SEEK_CUR) == at + 8);
    note("mem: seek from the end", lseek(fd, 0, SEEK_END));
    int reader = open_mem(child.pid, O_RDONLY);
    note("mem: write where it was opened to be read", pwrite(reader, "x", 1, at));
    close(reader);
    CHECK(kill(child.pid, SIGKILL) == 0);
    siginfo_t info;
    int status;
    CHECK(waitid(P_PID, (id_t)child.pid, &info, WEXITED | WNOWAIT) == 0);
    note("mem: read when it has ended", pread(fd, buffer, 10, at));
    note("mem: write when it has ended", pwrite(fd, buffer, 10, at));
    CHECK(waitpid(child.pid, &status, 0) == child.pid);
    note("mem: open when nobody is there", open_mem(child.pid, O_RDONLY));
    note("mem: read when nobody is there", pread(fd, buffer, 10, at));
    close(fd);
    close(child.go);
    close(child.ready);
}

/* Read-only memory stays read-only for the program: a forced write is no right. */
static void force_leaves_the_right(void)
{
    unsigned char *page = map_pages(1);
    page[0] = 5;
    CHECK(mprotect(page, PAGE, PROT_READ) == 0);
    int fd = open_mem(getpid(), O_RDWR);
    note("self: force", pwrite(fd, "\6", 1, (off_t)(uintptr_t)page));
    note("self: seen", page[0]);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        page[0] = 7; /* SIGSEGV */
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    note("self: a store is still refused", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    CHECK(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0);
    page[0] = 8;
    note("self: and allowed again", page[0]);
    close(fd);
}

static void become_somebody(void)
{
    CHECK(setgid(4242) == 0 && setuid(4242) == 0);
}

/* Who may: somebody else may not, root may. */
static void permissions(void)
{
    struct child root = start(NULL), other = start(become_somebody);
    unsigned char byte;
    note("root reads somebody's", vm_read(other.pid, &byte, 1, area, 1));
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        become_somebody();
        note("somebody reads root's", vm_read(root.pid, &byte, 1, area, 1));
        note("somebody writes root's", vm_write(root.pid, &byte, 1, area, 1));
        note("somebody reads his own", vm_read(getpid(), &byte, 1, area, 1));
        note("somebody opens root's", open_mem(root.pid, O_RDONLY));
        fflush(stdout);
        _exit(0);
    }
    wait_ok(child);
    stop(root);
    stop(other);
}

int main(void)
{
    area = map_pages(6);
    for (size_t i = 0; i < 6 * PAGE; i++)
        area[i] = (unsigned char)(i * 7 + i / PAGE + 1);
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    shared[0] = 1;
    vectors();
    memory();
    force_leaves_the_right();
    permissions();
    return 0;
}
