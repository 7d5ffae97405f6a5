/* Memory policies and moving pages on a machine of one node: what is refused, and with which error of several that would do. Prints the
 * same on every machine of one node. */
#include "common.h"
#include <signal.h>


static long mbind(void *at, unsigned long len, unsigned long mode, const unsigned long *mask, unsigned long bits, unsigned long flags) {
    return syscall(SYS_mbind, at, len, mode, mask, bits, flags);
}
static long set_policy(long mode, const unsigned long *mask, unsigned long bits) { return syscall(SYS_set_mempolicy, mode, mask, bits); }
static long get_policy(int *mode, unsigned long *mask, unsigned long bits, void *at, unsigned long flags) {
    return syscall(SYS_get_mempolicy, mode, mask, bits, at, flags);
}
static long move_pages(long pid, unsigned long n, void **pages, const int *nodes, int *status, int flags) {
    return syscall(SYS_move_pages, pid, n, pages, nodes, status, flags);
}
static long migrate_pages(long pid, unsigned long bits, const unsigned long *from, const unsigned long *to) {
    return syscall(SYS_migrate_pages, pid, bits, from, to);
}

static void say(const char *what, long result) { printf("%s: %ld %s\n", what, result, result < 0 ? strerrorname_np(errno) : ""); }

static char *fresh(unsigned long pages) {
    char *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static void policies(void) {
    static const unsigned long none[20], one[20] = {1}, two[20] = {2}, both[20] = {3}, far[20] = {[19] = 1};
    static const struct {
        const char *name;
        const unsigned long *mask;
        unsigned long bits;
    } masks[] = {{"null", NULL, 0}, {"null 64", NULL, 64}, {"none", none, 64}, {"one", one, 64}, {"two", two, 64},  {"both", both, 64},
                 {"1 bit", both, 2}, {"0 bits", one, 1}, {"no bits", one, 0}, {"far", far, 1280}, {"many", one, 32769}, {"too many", one, 32770},
                 {"bad", (void *)8, 64}};
    static const int modes[] = {0, 1, 2, 3, 4, 5, 6, 7, 100, -1, 1 << 15 | 1, 1 << 15 | 2, 1 << 14 | 3, 3 << 14 | 2, 1 << 13 | 2, 1 << 13 | 3,
                                1 << 13 | 5, 1 << 15 | 4, 1 << 15, 1 << 16 | 2};
    char *at = fresh(4);
    for (unsigned m = 0; m < sizeof modes / sizeof *modes; m++)
        for (unsigned k = 0; k < sizeof masks / sizeof *masks; k++) {
            char line[128];
            int mode = 77;
            unsigned long mask = 0;
            long set = set_policy(modes[m], masks[k].mask, masks[k].bits);
            snprintf(line, sizeof line, "set %d %s", modes[m], masks[k].name);
            say(line, set);
            if (set == 0) {
                say("  get", get_policy(&mode, &mask, 64, NULL, 0));
                printf("  mode %d nodes %lx\n", mode, mask);
                say("  node", get_policy(&mode, NULL, 0, NULL, 1));
            }
            set_policy(0, NULL, 0);
            long bound = mbind(at, PAGE, (unsigned)modes[m], masks[k].mask, masks[k].bits, 0);
            snprintf(line, sizeof line, "bind %d %s", modes[m], masks[k].name);
            say(line, bound);
            if (bound == 0) {
                say("  get", get_policy(&mode, &mask, 64, at, 2));
                printf("  mode %d nodes %lx\n", mode, mask);
            }
        }
}

static void ranges(void) {
    unsigned long one = 1;
    int mode;
    unsigned long mask;
    char *at = fresh(8);
    munmap(at + 4 * PAGE, PAGE);
    memset(at, 1, 2 * PAGE);
    say("unaligned", mbind(at + 1, PAGE, 2, &one, 64, 0));
    say("empty", mbind(at, 0, 2, &one, 64, 0));
    say("empty, nonsense", mbind(at, 0, 2, NULL, 0, 0));
    say("wraps", mbind(at, -1UL, 2, &one, 64, 0));
    say("wraps far", mbind(at, -2 * PAGE, 2, &one, 64, 0));
    say("unknown flag", mbind(at, PAGE, 2, &one, 64, 8));
    say("high flag", mbind(at, PAGE, 2, &one, 64, 1UL << 40));
    say("a hole", mbind(at, 8 * PAGE, 2, &one, 64, 0));
    say("a hole, by default", mbind(at, 8 * PAGE, 0, NULL, 0, 0));
    say("nothing", mbind(at + 4 * PAGE, PAGE, 2, &one, 64, 0));
    say("nothing, by default", mbind(at + 4 * PAGE, PAGE, 0, NULL, 0, 0));
    say("a hole at the end", mbind(at, 5 * PAGE, 2, &one, 64, 0));
    say("a hole at the beginning", mbind(at + 4 * PAGE, 2 * PAGE, 2, &one, 64, 0));
    say("beyond", mbind((void *)(1UL << 50), PAGE, 2, &one, 64, 0));
    say("strict", mbind(at, 4 * PAGE, 2, &one, 64, 1));
    say("strict, moves", mbind(at, 4 * PAGE, 2, &one, 64, 3));
    say("moves all", mbind(at, 4 * PAGE, 2, &one, 64, 4));
    say("strict over a hole", mbind(at, 8 * PAGE, 2, &one, 64, 1));
    say("of an address", get_policy(&mode, &mask, 64, at, 2));
    printf("mode %d nodes %lx\n", mode, mask);
    say("of a hole", get_policy(&mode, &mask, 64, at + 4 * PAGE, 2));
    say("of an address without saying so", get_policy(&mode, &mask, 64, at, 0));
    say("unknown", get_policy(&mode, &mask, 64, NULL, 8));
    say("allowed", get_policy(&mode, &mask, 64, NULL, 4));
    printf("mode %d nodes %lx\n", mode, mask);
    say("allowed at", get_policy(&mode, &mask, 64, at, 4));
    say("allowed and more", get_policy(&mode, &mask, 64, NULL, 5));
    say("no room", get_policy(&mode, &mask, 0, NULL, 0));
    say("little room", get_policy(&mode, &mask, 1, NULL, 0));
    say("bad room", get_policy(&mode, (void *)8, 64, NULL, 0));
    say("bad mode", get_policy((void *)8, NULL, 0, NULL, 0));
    say("nothing asked", get_policy(NULL, NULL, 0, NULL, 0));
    say("node of a page", get_policy(&mode, NULL, 0, at, 3));
    printf("node %d\n", mode);
    say("node of what is untouched", get_policy(&mode, NULL, 0, at + 3 * PAGE, 3));
    printf("node %d\n", mode);
    say("node of a hole", get_policy(&mode, NULL, 0, at + 4 * PAGE, 3));
    unsigned long room[600];
    memset(room, 0xff, sizeof room);
    say("much room", get_policy(&mode, room, 640, NULL, 4));
    printf("%lx %lx %lx %lx\n", room[0], room[1], room[9], room[10]);
    say("a page of room", get_policy(&mode, room, 32768, NULL, 4));
    say("more than a page", get_policy(&mode, room, 32770, NULL, 4));
    mprotect(at + PAGE, PAGE, PROT_NONE);
    say("node of what traps", get_policy(&mode, NULL, 0, at + PAGE, 3));
}

static void moving(void) {
    char *at = fresh(8);
    // With larger folios there are pages that nobody has touched.
    madvise(at, 8 * PAGE, MADV_NOHUGEPAGE);
    memset(at, 1, 2 * PAGE);
    volatile char zero = at[2 * PAGE];
    (void)zero;
    munmap(at + 7 * PAGE, PAGE);
    void *pages[] = {at, at + PAGE, at + 2 * PAGE, at + 3 * PAGE, at + 7 * PAGE, (void *)16, (void *)(1UL << 60), at + 100};
    int nodes[8] = {0}, status[8], bad[8] = {0, 0, 5};
    enum { N = 8 };
#define SHOW(what, call)                                                                                                                         \
    do {                                                                                                                                         \
        for (int i = 0; i < N; i++)                                                                                                              \
            status[i] = 99;                                                                                                                      \
        say(what, call);                                                                                                                         \
        for (int i = 0; i < N; i++)                                                                                                              \
            printf(" %d", status[i]);                                                                                                            \
        printf("\n");                                                                                                                            \
    } while (0)
    SHOW("query", move_pages(0, N, pages, NULL, status, 0));
    SHOW("query, moves", move_pages(0, N, pages, NULL, status, 2));
    SHOW("query of myself", move_pages(getpid(), N, pages, NULL, status, 0));
    SHOW("move", move_pages(0, N, pages, nodes, status, 2));
    SHOW("move all", move_pages(0, N, pages, nodes, status, 4));
    SHOW("move without a flag", move_pages(0, N, pages, nodes, status, 0));
    SHOW("unknown flag", move_pages(0, N, pages, nodes, status, 1));
    SHOW("unknown flag 8", move_pages(0, N, pages, nodes, status, 8));
    SHOW("to no node", move_pages(0, N, pages, bad, status, 2));
    bad[2] = -1;
    SHOW("to node -1", move_pages(0, N, pages, bad, status, 2));
    bad[0] = 1 << 30;
    SHOW("to node 2^30", move_pages(0, N, pages, bad, status, 2));
    SHOW("none", move_pages(0, 0, NULL, NULL, NULL, 0));
    SHOW("none to nodes", move_pages(0, 0, NULL, nodes, NULL, 2));
    SHOW("bad pages", move_pages(0, N, (void *)8, NULL, status, 0));
    SHOW("bad pages to move", move_pages(0, N, (void *)8, nodes, status, 2));
    SHOW("bad nodes", move_pages(0, N, pages, (void *)8, status, 2));
    SHOW("bad status", move_pages(0, N, pages, NULL, (void *)8, 0));
    SHOW("bad status to move", move_pages(0, N, pages, nodes, (void *)8, 2));
    SHOW("of nobody", move_pages(99999999, N, pages, NULL, status, 0));
    SHOW("of a negative", move_pages(-5, N, pages, NULL, status, 0));
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    SHOW("of a child", move_pages(child, N, pages, NULL, status, 0));
    SHOW("shared", move_pages(0, 2, pages, nodes, status, 2));
    unsigned long one = 1, two = 2, none = 0;
    say("migrate", migrate_pages(0, 64, &one, &one));
    say("migrate a child's", migrate_pages(child, 64, &one, &one));
    say("migrate from nowhere", migrate_pages(0, 64, &none, &one));
    say("migrate to nowhere", migrate_pages(0, 64, &one, &none));
    say("migrate to no node", migrate_pages(0, 64, &one, &two));
    say("migrate of nobody", migrate_pages(99999999, 64, &one, &one));
    say("migrate, bad from", migrate_pages(0, 64, (void *)8, &one));
    say("migrate, bad to", migrate_pages(0, 64, &one, (void *)8));
    say("migrate, null to", migrate_pages(0, 64, &one, NULL));
    say("migrate, many bits", migrate_pages(0, 32770, &one, &one));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    if (fork() == 0) {
        if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
            _exit(1);
        SHOW("nobody moves all", move_pages(0, N, pages, nodes, status, 4));
        SHOW("nobody asks init", move_pages(1, N, pages, NULL, status, 0));
        say("nobody binds all", mbind(at, PAGE, 2, &one, 64, 4));
        say("nobody migrates init", migrate_pages(1, 64, &one, &one));
        say("nobody migrates to no node", migrate_pages(0, 64, &one, &two));
            _exit(0);
    }
    wait(NULL);
}

/* The policy that numa_maps has for the mapping at an address. */
static void mapped(const char *what, char *at, const char *file) {
    char line[512];
    FILE *maps = fopen(file, "r");
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long start;
        char policy[64], *rest;
        if (sscanf(line, "%lx %63s", &start, policy) == 2 && start == (unsigned long)at) {
            rest = strstr(line, policy) + strlen(policy);
            /* Whether a page is on a list of active ones is nobody's to promise. */
            char *active = strstr(rest, " active="), *after = active ? strchr(active + 1, ' ') : NULL;
            if (after)
                memmove(active, after, strlen(after) + 1);
            printf("%s: %s%s", what, policy, rest);
        }
    }
    if (maps)
        fclose(maps);
}

static void shown(void) {
    unsigned long one = 1;
    char *at = fresh(6);
    mbind(at + PAGE, PAGE, 2, &one, 64, 0);
    mbind(at + 2 * PAGE, PAGE, 3, &one, 64, 0);
    mbind(at + 3 * PAGE, PAGE, 1 | 1 << 15, &one, 64, 0);
    mbind(at + 4 * PAGE, PAGE, 4, NULL, 0, 0);
    memset(at + PAGE, 1, PAGE);
    for (int i = 1; i < 5; i++)
        mapped("shown", at + i * PAGE, "/proc/self/numa_maps");
    /* The policy goes with the pages, to a child, and to a thread. */
    char *moved = mremap(at + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at);
    mapped("moved", moved, "/proc/self/numa_maps");
    set_policy(3, &one, 64);
    if (fork() == 0) {
        int mode = 77;
        get_policy(&mode, NULL, 0, NULL, 0);
        printf("of a child: %d\n", mode);
        get_policy(&mode, NULL, 0, at, 2);
        printf("of a child's mapping: %d\n", mode);
        get_policy(&mode, NULL, 0, at + 5 * PAGE, 2);
        printf("of a child's mapping that says nothing: %d\n", mode);
            _exit(0);
    }
    wait(NULL);
    set_policy(0, NULL, 0);
    static const char *files[] = {"online", "has_memory", "has_cpu", "has_normal_memory", "node0/distance"};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128], text[64] = "";
        snprintf(path, sizeof path, "/sys/devices/system/node/%s", files[i]);
        FILE *file = fopen(path, "r");
        if (file && fgets(text, sizeof text, file))
            printf("%s: %s", files[i], text);
        if (file)
            fclose(file);
    }
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    policies();
    ranges();
    moving();
    shown();
    printf("nodes: ok\n");
    return 0;
}
