/* Memory system calls, direct reads and writes of a disk and rings, with odd arguments, by four threads and their children, for so many seconds (2) from a seed (1).
 *
 * Addresses and lengths are of both ends, misaligned and wrapping as often as not. Nothing is said about results: what must
 * hold is that everybody lives, or dies of a signal, that no call takes long (so none is asked to fill a gibibyte), and that the kernel's books are right at the end.
 * The calls are made by children that may lose their memory; each has a time limit. Prints the slowest call if it took over a second. */
#include "common.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>

#define AT 0x100000000000UL
#define TOP 0x7ffffffff000UL
enum { THREADS = 4, CALLS = 400 };

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static const unsigned long lengths[] = {
    0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE, 7 * PAGE, 16 * PAGE, 64 * PAGE, 513 * PAGE, 1UL << 30, 1UL << 46, TOP - AT,
    (1UL << 47) - PAGE, 1UL << 47, (1UL << 47) + 1, 1UL << 62, 1UL << 63, (1UL << 63) + PAGE, -AT, -2 * PAGE, -PAGE, -PAGE + 1, -1UL,
};
static const unsigned long ends[] = {0, 1, PAGE, TOP - PAGE, TOP, TOP + 1, 1UL << 47, 1UL << 63, -2 * PAGE, -PAGE, -1UL};
static const int advices[] = {0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 99, 102, 103, -1};
static const int map_flags[] = {
    0x22, 0x21, 0x32, 0x31, 0x100022, 0x4022, 0x4032, 0x8022, 0x18022, 0x2022, 0x122, 0x132, 0x62, 0x40022, 0x23, 0x20, 0x02, 0x01,
    0x03, 0x11, 0x12, 0x8001, 0x8032,
};

/* What everybody of a family shares. */
struct shared {
    uint64_t slowest_ns, calls;
    int slowest_call;
};
static struct shared *shared;
static int files[3];
/* A disk with O_DIRECT and a ring with its memory, where there are any. */
static int disk = -1, ring = -1;
static unsigned char *ring_memory[2];

static unsigned long pick_of(uint64_t *state, const unsigned long *list, unsigned long count)
{
    return list[next_random(state) % count];
}

static unsigned long address(uint64_t *state)
{
    uint64_t kind = next_random(state) % 16;
    if (kind == 0)
        return pick_of(state, ends, sizeof ends / sizeof *ends);
    unsigned long at = AT + next_random(state) % 96 * PAGE;
    if (kind == 1)
        at += next_random(state) % PAGE;
    if (kind == 2)
        at += 512 * PAGE * (next_random(state) % 4);
    return at;
}

static unsigned long length(uint64_t *state)
{
    if (next_random(state) % 3 != 0)
        return (1 + next_random(state) % 24) * PAGE;
    return pick_of(state, lengths, sizeof lengths / sizeof *lengths);
}

/* Whether the range holds this program's own memory, which it must not give up by a long length alone. */
static int is_own(unsigned long start, unsigned long len)
{
    unsigned long end = start + len;
    return end < start ? start < TOP : end > AT + (1UL << 40) || start < AT - (1UL << 30);
}

/* What fills so much takes its time on any kernel. */
static int is_long(unsigned long len)
{
    return len >= 1UL << 30;
}

static long call(uint64_t *state, int number)
{
    unsigned long at = address(state), len = length(state), other = address(state), more = length(state);
    unsigned long word = next_random(state);
    int prot = (int)(word % 8) | (word % 64 == 8 ? 0x1000000 : 0) | (word % 64 == 9 ? 0x2000000 : 0);
    switch (number) {
    case SYS_mmap: {
        int flags = map_flags[next_random(state) % (sizeof map_flags / sizeof *map_flags)];
        if ((flags & 0x10) && is_own(at, len))
            return 0;
        if (is_long(len))
            flags &= ~(MAP_POPULATE | MAP_LOCKED);
        return syscall(SYS_mmap, at, len, prot & 7, flags, word % 8 == 7 ? -1 : files[word % 3], word % 16 == 5 ? word : word % 8 * PAGE);
    }
    case SYS_munmap:
        return is_own(at, len) ? 0 : syscall(SYS_munmap, at, len);
    case SYS_mprotect:
        return is_own(at, len) && at < AT ? 0 : syscall(SYS_mprotect, at, len, prot);
    case SYS_mremap: {
        int flags = (int)(word % 9);
        if ((flags & 2) && is_own(other, more))
            return 0;
        return is_own(at, len) ? 0 : syscall(SYS_mremap, at, len, more, flags, other);
    }
    case SYS_madvise: {
        if (is_own(at, len))
            return 0;
        int advice = advices[word % (sizeof advices / sizeof *advices)];
        return is_long(len) && (advice == 22 || advice == 23) ? 0 : syscall(SYS_madvise, at, len, advice);
    }
    case SYS_mlock:
        return word % 2 ? syscall(SYS_mlock, at, len) : syscall(SYS_mlock2, at, len, word / 2 % 3);
    case SYS_munlock:
        return syscall(SYS_munlock, at, len);
    case SYS_msync:
        return syscall(SYS_msync, at, len, word % 9);
    case SYS_mincore:
        return syscall(SYS_mincore, at, len, word % 2 ? other : AT + 200 * PAGE);
    case SYS_brk:
        return syscall(SYS_brk, word % 4 ? (unsigned long)sbrk(0) + (word % 64 - 16) * PAGE : at);
    case SYS_mlockall:
        return word % 4 ? syscall(SYS_munlockall) : syscall(SYS_mlockall, word / 4 % 9);
    case SYS_read:
        /* The kernel reads and writes memory on the program's behalf, with a length that it looks at first. */
        return word % 2 ? pread(files[0], (void *)at, len > 1UL << 20 ? 1UL << 20 : len, 0)
                        : pwrite(files[0], (void *)at, len > 1UL << 16 ? 1UL << 16 : len, 0);
    case SYS_pread64: {
        /* A disk of 1 MiB. Offsets and lengths are whole sectors as often as not. */
        unsigned long odd = word % 4 ? 0 : word % 512, offset = next_random(state) % 2056 * 512 + odd;
        unsigned long part = len > 1UL << 20 ? len : len - odd;
        return word % 2 ? pread(disk, (void *)at, part, (off_t)offset) : pwrite(disk, (void *)at, part, (off_t)offset);
    }
    case SYS_io_uring_setup: {
        uint32_t params[30] = {0};
        params[1] = (uint32_t)more;
        params[2] = (uint32_t)(word % 3 ? word % 32 * 8 : word);
        long fd = syscall(SYS_io_uring_setup, word % 5 ? word % 70 : word, word % 7 ? params : (void *)at);
        if (fd >= 0) {
            mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, word % 2 ? 0 : 0x10000000);
            syscall(SYS_io_uring_register, fd, 0, at, word % 4);
            close((int)fd);
        }
        return fd;
    }
    case SYS_io_uring_enter: {
        /* What the kernel is given is any bytes at all, but for the operation and the file, which are good as often as not. */
        uint32_t *entries = (uint32_t *)(void *)ring_memory[1], *rings = (uint32_t *)(void *)ring_memory[0];
        if (ring < 0)
            return 0;
        for (int i = 0; i < 8; i++) {
            uint32_t *entry = entries + i * 16;
            uint64_t place = next_random(state), memory = address(state), size = length(state);
            entry[0] = (uint32_t)(place % 4 ? place % 3 + 22 : place % 2 ? place % 6 : place);
            entry[1] = (uint32_t)(place % 5 ? disk : (int)(3 + place % 9));
            entry[2] = (uint32_t)(place % 2048 * 512), entry[3] = place % 7 ? 0 : (uint32_t)place;
            memcpy(entry + 4, &memory, 8);
            entry[6] = (uint32_t)(size > 1UL << 20 ? 1UL << 16 : size), entry[7] = place % 11 ? 0 : (uint32_t)place;
            entry[10] = place % 3 ? 0 : (uint32_t)(place % 4);
        }
        rings[16] += (uint32_t)(word % 16 ? word % 9 : word);
        if (word % 3)
            rings[32] = rings[48];
        return syscall(SYS_io_uring_enter, ring, word % 16, 0, word % 13 ? 1 : word, word % 17 ? 0 : at, word % 2 ? 8 : more);
    }
    case SYS_io_uring_register: {
        uint64_t vectors[4] = {at, len, other, more};
        unsigned long where = word % 4 ? (unsigned long)vectors : at;
        return ring < 0 ? 0 : syscall(SYS_io_uring_register, ring, word % 5 ? word % 4 : word % 40, word % 5 % 2 ? 0 : where, word % 5 % 2 ? 0 : word % 3);
    }
    case SYS_ftruncate:
        return ftruncate(files[word % 2], (long)(word % 24 * PAGE + word % 3));
    default: {
        struct rlimit limit = {word % 3 ? RLIM_INFINITY : word % 256 * PAGE, RLIM_INFINITY};
        return setrlimit(word % 2 ? RLIMIT_DATA : RLIMIT_AS, &limit);
    }
    }
}

static const int numbers[] = {
    SYS_mmap, SYS_mmap, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_mremap, SYS_madvise, SYS_madvise, SYS_mlock,
    SYS_munlock, SYS_msync, SYS_mincore, SYS_brk, SYS_mlockall, SYS_read, SYS_ftruncate, SYS_setrlimit,
    SYS_pread64, SYS_pread64, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_enter, SYS_io_uring_register,
};

static void timed(uint64_t *state)
{
    int number = numbers[next_random(state) % (sizeof numbers / sizeof *numbers)];
    uint64_t before = now_ns();
    call(state, number);
    uint64_t took = now_ns() - before;
    __atomic_fetch_add(&shared->calls, 1, __ATOMIC_RELAXED);
    if (took > __atomic_load_n(&shared->slowest_ns, __ATOMIC_RELAXED)) {
        __atomic_store_n(&shared->slowest_ns, took, __ATOMIC_RELAXED);
        shared->slowest_call = number;
    }
}

static void *work(void *argument)
{
    uint64_t state = (uint64_t)(uintptr_t)argument | 1;
    for (int i = 0; i < CALLS; i++) {
        timed(&state);
        if (i % 64 == 63) {
            pid_t child = (pid_t)syscall(SYS_fork);
            if (child == 0) {
                alarm(20);
                state ^= 0x9e3779b97f4a7c15;
                for (int j = 0; j < 32; j++)
                    timed(&state);
                _exit(0);
            }
            int status;
            if (child > 0)
                waitpid(child, &status, 0);
        }
    }
    return NULL;
}

/* One family: four threads that share an address space, and their children. Memory that is touched is small: few pages are mapped
 * with contents at once. */
static void family(uint64_t seed)
{
    struct rlimit locked = {64 * PAGE, 64 * PAGE}, none = {0, 0};
    setrlimit(RLIMIT_MEMLOCK, &locked);
    setrlimit(RLIMIT_CORE, &none);
    drop_capabilities();
    alarm(30);
    files[0] = memfd_create("odd", 0);
    files[1] = memfd_create("odder", 0);
    files[2] = open("/proc/self/exe", O_RDONLY);
    /* Only a disk that was given for this. */
    if (getenv("ODDCALLS_DISK"))
        disk = open(getenv("ODDCALLS_DISK"), O_RDWR | O_DIRECT);
    uint32_t params[30] = {0};
    ring = (int)syscall(SYS_io_uring_setup, 8, params);
    if (ring >= 0) {
        ring_memory[0] = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
        ring_memory[1] = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0x10000000);
        if ((void *)ring_memory[0] == MAP_FAILED || (void *)ring_memory[1] == MAP_FAILED)
            _exit(1);
        for (uint32_t i = 0; i < 8; i++)
            ((uint32_t *)(void *)ring_memory[0])[params[16] / 4 + i] = i;
    }
    if (ftruncate(files[0], 12 * (long)PAGE) != 0)
        _exit(1);
    pthread_t threads[THREADS];
    int count = 0;
    for (; count < THREADS; count++)
        if (pthread_create(&threads[count], NULL, work, (void *)(uintptr_t)(seed * 1000003 + (unsigned)count * 7919)) != 0)
            break;
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    _exit(0);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t seconds = argc > 2 ? strtoull(argv[2], NULL, 10) : 1, first = seed, end = now_ns() + seconds * 1000000000;
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    unsigned long exited = 0, killed = 0, late = 0;
    while (now_ns() < end) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            family(seed);
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        exited += WIFEXITED(status);
        killed += WIFSIGNALED(status);
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
            late++;
            fprintf(stderr, "oddcalls: family %lu did not end in time\n", (unsigned long)seed);
        }
        seed++;
    }
    printf("oddcalls: %lu families from %lu, %lu calls, %lu families ended, %lu killed, slowest call %d with %lu ms\n",
           (unsigned long)(seed - first), (unsigned long)first, (unsigned long)shared->calls, exited, killed, shared->slowest_call,
           (unsigned long)(shared->slowest_ns / 1000000));
    return late != 0;
}
