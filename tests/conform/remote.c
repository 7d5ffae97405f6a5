/* Memory of other programs, and pages that the kernel holds: process_vm_*, vmsplice, pipes, O_DIRECT. */
#include "conform.h"
#include <linux/futex.h>
#define GROUP "remote"

static char bytes[4 * 4096];

#define VECTOR(name, at, length) struct iovec name = {at, length}

/* A child that waits until it is killed. */
static pid_t sleeper(void)
{
    pid_t child = fork();
    OK(child);
    while (child == 0)
        pause();
    return child;
}
static void end(pid_t child)
{
    kill(child, SIGKILL);
    EQ(waitpid(child, NULL, 0), child);
}

CHECK("process_vm_readv reads a child's memory", "what the child has at that address")
{
    char *at = filled(2);
    pid_t child = sleeper();
    at[P] = 99;
    VECTOR(local, bytes, P);
    VECTOR(remote, at + P, P);
    EQ(process_vm_readv(child, &local, 1, &remote, 1, 0), P);
    EQ(bytes[0], 2);
    end(child);
}
CHECK("process_vm_writev writes a child's memory", "and not its parent's, though they shared the page")
{
    char *at = filled(1);
    pid_t child = sleeper();
    bytes[0] = 77;
    VECTOR(local, bytes, 1);
    VECTOR(remote, at, 1);
    EQ(process_vm_writev(child, &local, 1, &remote, 1, 0), 1);
    EQ(at[0], 1);
    VECTOR(back, bytes + 1, 1);
    EQ(process_vm_readv(child, &back, 1, &remote, 1, 0), 1);
    EQ(bytes[1], 77);
    end(child);
}
CHECK("process_vm_readv of itself", "allowed")
{
    char *at = filled(1);
    VECTOR(local, bytes, 1);
    VECTOR(remote, at, 1);
    EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), 1);
    EQ(bytes[0], 1);
}
CHECK("process_vm_readv stops at a hole", "the bytes before it count")
{
    char *at = filled(2);
    VECTOR(local, bytes, 4 * P);
    VECTOR(remote, at, 4 * P);
    EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), 2 * P);
}
CHECK("process_vm_readv of a hole is refused", "EFAULT")
{
    VECTOR(local, bytes, 1);
    VECTOR(remote, island(1) + P, 1);
    ERR(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), EFAULT);
}
CHECK("process_vm_writev heeds permissions", "EFAULT: no force here")
{
    char *at = filled(1);
    OK(mprotect(at, P, PROT_READ));
    VECTOR(local, bytes, 1);
    VECTOR(remote, at, 1);
    ERR(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), EFAULT);
}
CHECK("process_vm_readv of nobody is refused", "ESRCH")
{
    VECTOR(local, bytes, 1);
    ERR(process_vm_readv(0x3ffffff, &local, 1, &local, 1, 0), ESRCH);
}
CHECK("process_vm_readv with flags is refused", "EINVAL")
{
    VECTOR(local, bytes, 1);
    ERR(process_vm_readv(getpid(), &local, 1, &local, 1, 1), EINVAL);
}
CHECK("process_vm_readv of nothing", "0 bytes")
{
    VECTOR(local, bytes, 0);
    EQ(process_vm_readv(getpid(), &local, 1, &local, 1, 0), 0);
}
CHECK("process_vm_readv faults pages in", "a page that was never touched reads as zeroes")
{
    char *at = island(1);
    memset(bytes, 1, 8);
    VECTOR(local, bytes, 8);
    VECTOR(remote, at, 8);
    EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), 8);
    EQ(bytes[7], 0);
}
CHECK("process_vm_readv of several pieces", "gathered in order")
{
    char *at = filled(3);
    VECTOR(local, bytes, 3);
    struct iovec remote[3] = {{at, 1}, {at + P, 1}, {at + 2 * P, 1}};
    EQ(process_vm_readv(getpid(), &local, 1, remote, 3, 0), 3);
    EQ(bytes[2], 3);
}
CHECK("a write to a pipe copies", "what is stored afterwards is not read")
{
    int ends[2];
    char byte, *at = filled(1);
    OK(pipe(ends));
    EQ(write(ends[1], at, 1), 1);
    at[0] = 9;
    EQ(read(ends[0], &byte, 1), 1);
    EQ(byte, 1);
}
CHECK("vmsplice does not copy", "what is stored afterwards is read: the page itself is in the pipe")
{
    int ends[2];
    char byte, *at = filled(1);
    OK(pipe(ends));
    VECTOR(page, at, P);
    EQ(vmsplice(ends[1], &page, 1, 0), P);
    at[0] = 9;
    EQ(read(ends[0], &byte, 1), 1);
    EQ(byte, 9);
}
CHECK("vmsplice keeps the page", "munmap leaves it to the pipe")
{
    int ends[2];
    char byte, *at = filled(1);
    OK(pipe(ends));
    VECTOR(page, at, P);
    EQ(vmsplice(ends[1], &page, 1, 0), P);
    OK(munmap(at, P));
    EQ(read(ends[0], &byte, 1), 1);
    EQ(byte, 1);
}
CHECK("vmsplice and fork: a child's store is not seen", "CVE-2020-29374: the child copies, the pipe keeps")
{
    int ends[2];
    char byte, *at = filled(1);
    OK(pipe(ends));
    VECTOR(page, at, P);
    EQ(vmsplice(ends[1], &page, 1, 0), P);
    CHILD at[0] = 66;
    EQ(read(ends[0], &byte, 1), 1);
    EQ(byte, 1);
}
CHECK("vmsplice in a child: its parent's store is not seen", "CVE-2020-29374 itself")
{
    int ends[2], go[2];
    char byte, *at = filled(1);
    OK(pipe(ends));
    OK(pipe(go));
    pid_t child = child_start();
    if (child == 0) {
        VECTOR(page, at, P);
        EQ(vmsplice(ends[1], &page, 1, 0), P);
        OK(munmap(at, P));
        EQ(write(go[1], "x", 1), 1);
        EQ(read(ends[0], &byte, 1), 1);
        EQ(byte, 1);
        _exit(0);
    }
    EQ(read(go[0], &byte, 1), 1);
    usleep(1000);
    at[0] = 99;
    child_end(child);
}
CHECK("vmsplice of a hole is refused", "EFAULT")
{
    int ends[2];
    OK(pipe(ends));
    VECTOR(page, island(1) + P, P);
    ERR(vmsplice(ends[1], &page, 1, 0), EFAULT);
}
CHECK("vmsplice into no pipe is refused", "EBADF")
{
    VECTOR(page, filled(1), P);
    ERR(vmsplice(open("/dev/null", O_WRONLY), &page, 1, 0), EBADF);
}
CHECK("a read into memory that may not be written is refused", "EFAULT, and the bytes stay in the pipe")
{
    int ends[2];
    char *at = filled(1), byte;
    OK(pipe(ends));
    OK(mprotect(at, P, PROT_READ));
    EQ(write(ends[1], "x", 1), 1);
    ERR(read(ends[0], at, 1), EFAULT);
    EQ(at[0], 1);
    (void)byte;
}
CHECK("a read into a page that a child shares", "is a store: it copies")
{
    int ends[2];
    char *at = filled(1);
    OK(pipe(ends));
    EQ(write(ends[1], "x", 1), 1);
    CHILD {
        EQ(read(ends[0], at, 1), 1);
        EQ(at[0], 'x');
    }
    EQ(at[0], 1);
}
CHECK("a write from a hole is refused", "EFAULT")
{
    int ends[2];
    OK(pipe(ends));
    ERR(write(ends[1], island(1) + P, 1), EFAULT);
}
CHECK("a write that runs into a hole is shorter", "the bytes before it are written")
{
    int ends[2];
    OK(pipe(ends));
    long written = write(ends[1], island(1) + P - 10, 20);
    IS(written == 10 || (written == -1 && errno == EFAULT));
}
CHECK("futex words are found in shared memory by their page", "a wake-up from another process")
{
    int *word = (int *)island_of(1, RW, SHARED);
    struct timespec seconds = {10, 0};
    pid_t child = child_start();
    if (child == 0) {
        OK(syscall(SYS_futex, word, FUTEX_WAIT, 0, &seconds, NULL, 0));
        _exit(0);
    }
    long woken = 0;
    /* It may not sleep yet. */
    for (int i = 0; i < 5000 && woken == 0; i++) {
        usleep(1000);
        woken = syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
    EQ(woken, 1);
    child_end(child);
}
CHECK("a futex of a hole is refused", "EFAULT")
{
    ERR(syscall(SYS_futex, island(1) + P, FUTEX_WAIT, 0, NULL, NULL, 0), EFAULT);
}
