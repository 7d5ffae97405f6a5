/* Two nodes of memory: pages come from where policies want them, move between nodes, and stay where they cannot go; by the manual pages
 * mbind(2), set_mempolicy(2), move_pages(2), migrate_pages(2), numa(7). Needs a machine of two nodes. */
#include "common.h"
#include <dirent.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>

enum { DEFAULT, PREFERRED, BIND, INTERLEAVE, LOCAL };
enum { STRICT = 1, MOVE = 2, MOVE_ALL = 4 };
static const unsigned long first = 1, second = 2, both = 3;

static long bind_to(void *at, unsigned long pages, int mode, const unsigned long *mask, int flags) {
    return syscall(SYS_mbind, at, pages * PAGE, (long)mode, mask, mask ? 64L : 0L, (long)flags);
}
static void task(int mode, const unsigned long *mask) { CHECK(syscall(SYS_set_mempolicy, (long)mode, mask, mask ? 64L : 0L) == 0); }

/* The node of a page, or what move_pages says instead. */
static int node_of(void *at) {
    int status = 99;
    CHECK(syscall(SYS_move_pages, 0L, 1L, &at, NULL, &status, 0L) == 0);
    return status;
}
static int move_to(void *at, int node, int flags, long *result) {
    int status = 99;
    *result = syscall(SYS_move_pages, 0L, 1L, &at, &node, &status, (long)flags);
    return status;
}
static int all_on(unsigned char *at, unsigned long pages, int node) {
    for (unsigned long i = 0; i < pages; i++)
        if (node_of(at + i * PAGE) != node)
            return 0;
    return 1;
}
static void fill(unsigned char *at, unsigned long pages) {
    for (unsigned long i = 0; i < pages; i++)
        memset(at + i * PAGE, (int)(i % 251) + 1, PAGE);
}
static int is_right(unsigned char *at, unsigned long pages) {
    for (unsigned long i = 0; i < pages; i++)
        for (unsigned long b = 0; b < PAGE; b += 1021)
            if (at[i * PAGE + b] != i % 251 + 1)
                return 0;
    return 1;
}

/* Memory whose pages come one by one. */
static unsigned char *small_pages(unsigned long pages) {
    unsigned char *at = map_pages(pages);
    CHECK(madvise(at, pages * PAGE, MADV_NOHUGEPAGE) == 0);
    return at;
}

static void tree(void) {
    char text[256];
    static const struct {
        const char *path, *says;
    } files[] = {{"online", "0-1\n"},       {"possible", "0-1\n"},        {"has_memory", "0-1\n"},
                 {"has_cpu", "0-1\n"},      {"node0/distance", "10 20\n"}, {"node1/distance", "20 10\n"},
                 {"node0/cpulist", "0\n"},  {"node1/cpulist", "1\n"},     {"node0/cpumap", "1\n"},
                 {"node1/cpumap", "2\n"}};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(text, sizeof text, "/sys/devices/system/node/%s", files[i].path);
        FILE *file = fopen(text, "r");
        CHECK(file && fgets(text, sizeof text, file), "%s", files[i].path);
        CHECK(strcmp(text, files[i].says) == 0, "%s says %s", files[i].path, text);
        fclose(file);
    }
    long total = 0;
    for (int node = 0; node < 2; node++) {
        long kib = 0, was;
        snprintf(text, sizeof text, "/sys/devices/system/node/node%d/meminfo", node);
        FILE *file = fopen(text, "r");
        CHECK(file != NULL);
        while (fgets(text, sizeof text, file)) {
            int of;
            if (sscanf(text, "Node %d MemTotal: %ld kB", &of, &kib) == 2)
                CHECK(of == node);
            if (sscanf(text, "Node %d MemFree: %ld kB", &of, &was) == 2)
                CHECK(was > 0 && was < kib, "%ld of %ld free", was, kib);
        }
        CHECK(kib > 0);
        total += kib;
        fclose(file);
    }
    CHECK(total >= 250 * 1024 && total <= 256 * 1024, "%ld KiB on both nodes", total);
}

static void placed(void) {
    unsigned char *at = small_pages(64);
    CHECK(bind_to(at, 16, BIND, &second, 0) == 0);
    CHECK(bind_to(at + 16 * PAGE, 16, PREFERRED, &first, 0) == 0);
    CHECK(bind_to(at + 32 * PAGE, 16, INTERLEAVE, &both, 0) == 0);
    fill(at, 64);
    CHECK(all_on(at, 16, 1) && all_on(at + 16 * PAGE, 16, 0));
    int on_first = 0;
    for (int i = 32; i < 48; i++)
        on_first += node_of(at + i * PAGE) == 0;
    CHECK(on_first == 8, "%d of 16 interleaved pages on the first node", on_first);
    CHECK(is_right(at, 64));
    /* A task's policy is for what says nothing, and goes to its children. */
    task(BIND, &second);
    unsigned char *own = map_pages(16);
    pid_t child = fork();
    if (child == 0) {
        fill(own, 16);
        _exit(all_on(own, 16, 1) ? 0 : 1);
    }
    wait_ok(child);
    fill(own, 16);
    CHECK(all_on(own, 16, 1) && node_of(at + 16 * PAGE) == 0);
    task(DEFAULT, NULL);
    /* Without one it is the node of the CPU. */
    for (int cpu = 0; cpu < 2; cpu++) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
        unsigned on, node;
        do {
            sched_yield();
            CHECK(syscall(SYS_getcpu, &on, &node, NULL) == 0);
            CHECK(node == on);
        } while (0);
        unsigned char *local = map_pages(8);
        fill(local, 8);
        unsigned now;
        CHECK(syscall(SYS_getcpu, &now, &node, NULL) == 0);
        if (now == on)
            CHECK(all_on(local, 8, (int)on), "on CPU %u", on);
    }
    /* A page of a copy goes where the mapping wants it. */
    child = fork();
    if (child == 0) {
        fill(at, 64);
        _exit(all_on(at, 16, 1) && all_on(at + 16 * PAGE, 16, 0) ? 0 : 1);
    }
    wait_ok(child);
    /* Shared memory, too. */
    unsigned char *shared = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(bind_to(shared, 8, BIND, &second, 0) == 0);
    fill(shared, 8);
    CHECK(all_on(shared, 8, 1) && is_right(shared, 8));
}

static void moves(void) {
    long result;
    unsigned char *at = small_pages(32);
    CHECK(bind_to(at, 32, PREFERRED, &first, 0) == 0);
    fill(at, 16);
    for (int node = 1; node >= 0; node--) {
        void *pages[16];
        int nodes[16], status[16];
        for (int i = 0; i < 16; i++) {
            pages[i] = at + i * PAGE;
            nodes[i] = node;
            status[i] = 99;
        }
        CHECK(syscall(SYS_move_pages, 0L, 16L, pages, nodes, status, (long)MOVE) == 0);
        for (int i = 0; i < 16; i++)
            CHECK(status[i] == node, "page %d: %d", i, status[i]);
        CHECK(all_on(at, 16, node) && is_right(at, 16));
    }
    volatile unsigned char zero = at[20 * PAGE];
    (void)zero;
    CHECK(move_to(at + 20 * PAGE, 1, MOVE, &result) == -EFAULT && result == 0);
    CHECK(move_to(at + 21 * PAGE, 1, MOVE, &result) == -ENOENT && result == 0);
    CHECK(move_to((void *)(1UL << 40), 1, MOVE, &result) == -EFAULT && result == 0);
    CHECK(move_to(at, 2, MOVE, &result) == 99 && result == -1 && errno == ENODEV);
    /* What two have stays, unless everybody's pages move. */
    int stop[2], ready[2];
    CHECK(pipe(stop) == 0 && pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(stop[1]);
        CHECK(write(ready[1], "", 1) == 1);
        CHECK(read(stop[0], &byte, 1) >= 0);
        _exit(is_right(at, 16) && node_of(at) == 1 ? 0 : 1);
    }
    char byte;
    CHECK(read(ready[0], &byte, 1) == 1);
    CHECK(move_to(at, 1, MOVE, &result) == -EACCES && result == 0);
    CHECK(move_to(at, 1, MOVE_ALL, &result) == 1 && result == 0);
    close(stop[1]);
    wait_ok(child);
    /* mbind with pages that lie elsewhere. */
    CHECK(bind_to(at, 16, BIND, &both, STRICT) == 0);
    CHECK(bind_to(at, 16, BIND, &second, STRICT) == -1 && errno == EIO);
    int mode = 99;
    unsigned long mask = 0;
    CHECK(syscall(SYS_get_mempolicy, &mode, &mask, 64L, at, 2L) == 0 && mode == BIND && mask == 3, "mode %d, mask %lx", mode, mask);
    CHECK(bind_to(at, 16, BIND, &second, STRICT | MOVE) == 0);
    CHECK(all_on(at, 16, 1) && is_right(at, 16));
    CHECK(bind_to(at, 16, INTERLEAVE, &both, 0) == 0 && all_on(at, 16, 1));
    CHECK(bind_to(at, 16, BIND, &first, MOVE_ALL) == 0 && all_on(at, 16, 0));
    CHECK(is_right(at, 16));
    /* All pages of a process. */
    CHECK(syscall(SYS_migrate_pages, 0L, 64L, &first, &second) >= 0);
    CHECK(all_on(at, 16, 1) && is_right(at, 16));
    CHECK(syscall(SYS_migrate_pages, 0L, 64L, &both, &first) >= 0);
    CHECK(all_on(at, 16, 0) && is_right(at, 16));
}

/* Threads write while their pages go to and fro. */
static void under_load(void) {
    enum { N = 64, ROUNDS = 10 };
    unsigned char *at = map_pages(N);
    fill(at, N);
    pid_t mover = fork();
    if (mover == 0) {
        long pid = getppid();
        for (int round = 0; round < ROUNDS; round++)
            for (int i = 0; i < N; i++) {
                void *page = at + i * PAGE;
                int node = round % 2, status;
                CHECK(syscall(SYS_move_pages, pid, 1L, &page, &node, &status, (long)MOVE_ALL) >= 0);
            }
        _exit(0);
    }
    unsigned long writes = 0;
    int status;
    while (waitpid(mover, &status, WNOHANG) == 0)
        for (int i = 0; i < N; i++, writes++) {
            volatile unsigned *word = (unsigned *)(at + i * PAGE);
            unsigned was = *word;
            *word = was + 1;
            CHECK(*word == was + 1, "a store was lost in page %d", i);
            *word = was;
        }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(is_right(at, N), "after %lu stores", writes);
}

/* More than a node holds: a preference gives way. */
static void full(void) {
    enum { N = 140 * 256 };
    unsigned char *at = map_pages(N);
    CHECK(bind_to(at, N, PREFERRED, &second, 0) == 0);
    fill(at, N);
    int elsewhere = 0;
    for (int i = 0; i < N; i += 64)
        elsewhere += node_of(at + (unsigned long)i * PAGE) == 0;
    CHECK(elsewhere > 0 && elsewhere < N / 64 / 2, "%d of %d samples elsewhere", elsewhere, N / 64);
    CHECK(is_right(at, N));
    munmap(at, N * PAGE);
}

static volatile int code, shift;
static void *volatile lost_at;
static sigjmp_buf back;

static void on_bus(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    code = info->si_code;
    shift = info->si_addr_lsb;
    lost_at = info->si_addr;
    siglongjmp(back, 1);
}

/* A page that root declares lost: who touches it is told that it was there. */
static void lost(void) {
    struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGBUS, &action, NULL) == 0);
    unsigned char *at = small_pages(2);
    fill(at, 2);
    CHECK(madvise(at, PAGE, MADV_HWPOISON) == 0);
    if (sigsetjmp(back, 1) == 0) {
        volatile unsigned char gone = at[100];
        CHECK(0, "read %d of a page that is lost", gone);
    }
    CHECK(code == BUS_MCEERR_AR && shift == 12 && lost_at == at + 100, "code %d, shift %d, at %p", code, shift, lost_at);
    CHECK(at[PAGE] == 2);
    munmap(at, 2 * PAGE);
}

int main(void) {
    tree();
    placed();
    moves();
    under_load();
    full();
    lost();
    printf("twonodes: ok\n");
    return 0;
}
