/* The library that every program finds in its memory: where it is, what it has, what its calls give, and what becomes of it when a
 * program moves, protects, unmaps or forks it. Prints a table. */
#include "common.h"
#include <dlfcn.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <time.h>

struct mapping { uintptr_t start, end; char perms[5]; unsigned long ino; };

typedef int clock_call(clockid_t, struct timespec *);
typedef int day_call(struct timeval *, struct timezone *);
typedef time_t time_call(time_t *);
typedef int cpu_call(unsigned *, unsigned *, void *);

/* The last mapping whose name starts so; the start of the first in `first`. */
static struct mapping find(const char *name, uintptr_t *first)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    struct mapping found = {0}, now;
    char line[512];
    while (fgets(line, sizeof line, maps)) {
        char *bracket = strchr(line, '[');
        if (!bracket || strncmp(bracket, name, strlen(name)))
            continue;
        CHECK(sscanf(line, "%lx-%lx %4s %*x %*x:%*x %lu", &now.start, &now.end, now.perms, &now.ino) == 4);
        if (first && !found.end)
            *first = now.start;
        found = now;
    }
    fclose(maps);
    return found;
}

/* Whether the mapping at `start` has an attribute. */
static int has_flag(uintptr_t start, const char *flag)
{
    FILE *smaps = fopen("/proc/self/smaps", "r");
    CHECK(smaps);
    char line[512], wanted[32];
    int here = 0, has = 0;
    snprintf(wanted, sizeof wanted, "%lx-", start);
    while (fgets(line, sizeof line, smaps)) {
        if (!strncmp(line, wanted, strlen(wanted)))
            here = 1;
        if (here && !strncmp(line, "VmFlags:", 8)) {
            has = strstr(line, flag) != NULL;
            break;
        }
    }
    fclose(smaps);
    return has;
}

static int64_t ns(const struct timespec *at) { return at->tv_sec * 1000000000LL + at->tv_nsec; }

static int64_t asked(clockid_t id)
{
    struct timespec at;
    CHECK(syscall(SYS_clock_gettime, id, &at) == 0);
    return ns(&at);
}

/* Whether what the call gives lies between what the kernel says before and after, but for `slack`. */
static int agrees(clock_call *call, clockid_t id, int64_t slack)
{
    struct timespec at;
    int64_t before = asked(id);
    CHECK(call(id, &at) == 0);
    int64_t after = asked(id);
    CHECK(at.tv_nsec >= 0 && at.tv_nsec < 1000000000);
    return before - slack <= ns(&at) && ns(&at) <= after + slack;
}

static int is_seen(struct dl_phdr_info *info, size_t size, void *seen)
{
    (void)size;
    if (!strcmp(info->dlpi_name, "linux-vdso.so.1") && info->dlpi_phnum > 0)
        *(int *)seen = info->dlpi_addr == getauxval(AT_SYSINFO_EHDR);
    return 0;
}

static void in_child(const char *what, int (*act)(struct mapping, uintptr_t), struct mapping vdso, uintptr_t first)
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        int result = act(vdso, first);
        printf("%s: %d\n", what, result);
        fflush(stdout);
        _exit(0);
    }
    wait_ok(child);
}

static clock_call *clock_of;

static int calls(struct mapping vdso, uintptr_t first)
{
    (void)vdso, (void)first;
    return agrees(clock_of, CLOCK_MONOTONIC, 0);
}

/* All of it, at the same distances, somewhere else. */
static int moves(struct mapping vdso, uintptr_t first)
{
    uintptr_t call = (uintptr_t)clock_of, size = vdso.end - first;
    char *to = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(to != MAP_FAILED);
    for (uintptr_t at = first; at < vdso.end;) {
        /* The mappings before it are called [vvar] and the like; each has to be moved for itself. */
        FILE *maps = fopen("/proc/self/maps", "r");
        char line[512];
        uintptr_t start = 0, end = 0;
        while (fgets(line, sizeof line, maps))
            if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start == at)
                break;
        fclose(maps);
        CHECK(start == at, "%lx", at);
        CHECK(mremap((void *)start, end - start, end - start, MREMAP_MAYMOVE | MREMAP_FIXED, to + (start - first)) != MAP_FAILED);
        at = end;
    }
    return agrees((clock_call *)(call - first + (uintptr_t)to), CLOCK_REALTIME, 0) && find("[vdso]", NULL).start == vdso.start - first + (uintptr_t)to;
}

static int grows(struct mapping vdso, uintptr_t first)
{
    (void)first;
    size_t size = vdso.end - vdso.start;
    CHECK(mremap((void *)vdso.start, size, size + PAGE, MREMAP_MAYMOVE) == MAP_FAILED);
    return errno;
}

static int is_had_twice(struct mapping vdso, uintptr_t first)
{
    (void)first;
    size_t size = vdso.end - vdso.start;
    CHECK(mremap((void *)vdso.start, size, size, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL) == MAP_FAILED);
    return errno;
}

static int is_patched(struct mapping vdso, uintptr_t first)
{
    (void)first;
    CHECK(mprotect((void *)vdso.start, vdso.end - vdso.start, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    /* Return at once. */
    *(volatile unsigned char *)clock_of = 0xc3;
    struct timespec at = {1, 2};
    clock_of(CLOCK_MONOTONIC, &at);
    return at.tv_sec == 1 && at.tv_nsec == 2;
}

static int is_numbers_patched(struct mapping vdso, uintptr_t first)
{
    (void)vdso;
    return mprotect((void *)first, PAGE, PROT_READ | PROT_WRITE) ? errno : 0;
}

static int is_locked(struct mapping vdso, uintptr_t first)
{
    (void)first;
    CHECK(mlock((void *)vdso.start, vdso.end - vdso.start) == 0);
    return has_flag(vdso.start, " lo");
}

static int is_dumped(struct mapping vdso, uintptr_t first)
{
    (void)first;
    return madvise((void *)vdso.start, vdso.end - vdso.start, MADV_DODUMP) ? errno : 0;
}

static int is_forgotten(struct mapping vdso, uintptr_t first)
{
    CHECK(madvise((void *)vdso.start, vdso.end - vdso.start, MADV_DONTNEED) == 0);
    return calls(vdso, first);
}

static int goes(struct mapping vdso, uintptr_t first)
{
    CHECK(munmap((void *)first, vdso.end - first) == 0);
    CHECK(asked(CLOCK_MONOTONIC) > 0);
    return find("[vdso]", NULL).end == 0 && find("[vvar", NULL).end == 0;
}

static int is_read_by_a_call(struct mapping vdso, uintptr_t first)
{
    (void)first;
    int pipes[2];
    char magic[4];
    CHECK(pipe(pipes) == 0);
    CHECK(write(pipes[1], (void *)vdso.start, 4) == 4);
    return read(pipes[0], magic, 4) == 4 && !memcmp(magic, "\177ELF", 4);
}

int main(int argc, char **argv)
{
    uintptr_t first = 0, at = getauxval(AT_SYSINFO_EHDR);
    struct mapping vdso = find("[vdso]", NULL);
    find("[vvar", &first);
    if (argc > 1) {
        printf("after exec: %d\n", at != 0 && vdso.start == at);
        return 0;
    }
    printf("AT_SYSINFO_EHDR: %d\n", at != 0 && at % PAGE == 0 && !memcmp((void *)at, ELFMAG, SELFMAG));
    printf("[vdso]: %d %s %lu\n", vdso.start == at, vdso.perms, vdso.ino);
    printf("[vvar] is before it: %d %s\n", first && first < at, find("[vvar]", NULL).perms);
    printf("attributes: de %d mr %d mw %d me %d sh %d ac %d\n", has_flag(at, " de"), has_flag(at, " mr"), has_flag(at, " mw"),
           has_flag(at, " me"), has_flag(at, " sh"), has_flag(at, " ac"));

    int seen = 0;
    dl_iterate_phdr(is_seen, &seen);
    printf("dl_iterate_phdr: %d\n", seen);
    void *library = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
    CHECK(library, "%s", dlerror());
    printf("without the version: %d\n", dlvsym(library, "__vdso_time", "LINUX_9.9") != NULL);
    clock_of = (clock_call *)dlvsym(library, "__vdso_clock_gettime", "LINUX_2.6");
    clock_call *getres = (clock_call *)dlvsym(library, "__vdso_clock_getres", "LINUX_2.6");
    day_call *day = (day_call *)dlvsym(library, "__vdso_gettimeofday", "LINUX_2.6");
    time_call *now = (time_call *)dlvsym(library, "__vdso_time", "LINUX_2.6");
    cpu_call *cpu = (cpu_call *)dlvsym(library, "__vdso_getcpu", "LINUX_2.6");
    printf("symbols: %d %d %d %d %d\n", clock_of != NULL, getres != NULL, day != NULL, now != NULL, cpu != NULL);
    CHECK(clock_of && getres && day && now && cpu);
    printf("by the short names: %d\n", dlvsym(library, "clock_gettime", "LINUX_2.6") == (void *)clock_of);

    int64_t second = 1000000000;
    printf("clocks: %d %d %d\n", agrees(clock_of, CLOCK_REALTIME, 0), agrees(clock_of, CLOCK_MONOTONIC, 0), agrees(clock_of, CLOCK_BOOTTIME, 0));
    printf("more clocks: %d %d %d %d\n", agrees(clock_of, CLOCK_MONOTONIC_RAW, 0), agrees(clock_of, CLOCK_REALTIME_COARSE, second),
           agrees(clock_of, CLOCK_MONOTONIC_COARSE, second), agrees(clock_of, CLOCK_TAI, 0));
    printf("processor time: %d %d\n", agrees(clock_of, CLOCK_PROCESS_CPUTIME_ID, 0), agrees(clock_of, CLOCK_THREAD_CPUTIME_ID, 0));
    struct timespec time_now;
    printf("no clock: %d %d\n", clock_of(99, &time_now), clock_of(-1, &time_now));
    printf("resolution: %d\n", getres(CLOCK_MONOTONIC, &time_now));
    int64_t last = 0, back = 0;
    for (int i = 0; i < 100000; i++) {
        clock_of(CLOCK_MONOTONIC, &time_now);
        back += ns(&time_now) < last;
        last = ns(&time_now);
    }
    printf("went back: %ld\n", (long)back);

    struct timeval of_day;
    struct timezone zone = {7, 7};
    int64_t before = asked(CLOCK_REALTIME) / 1000;
    int status = day(&of_day, &zone);
    int64_t after = asked(CLOCK_REALTIME) / 1000, micros = of_day.tv_sec * 1000000LL + of_day.tv_usec;
    printf("time of day: %d %d, zone %d %d\n", status, before <= micros && micros <= after, zone.tz_minuteswest, zone.tz_dsttime);
    printf("of nothing: %d\n", day(NULL, NULL));
    time_t stored = 0, given = now(&stored);
    printf("time: %d %d\n", given == stored, llabs(asked(CLOCK_REALTIME) / second - now(NULL)) <= 1);
    unsigned which = 9999, node = 9999;
    status = cpu(&which, &node, NULL);
    /* Which node it is depends on the machine. */
    printf("cpu: %d %d %d %d\n", status, which < 4096, node < 1024, cpu(NULL, NULL, NULL));

    in_child("a child calls", calls, vdso, first);
    in_child("moved", moves, vdso, first);
    in_child("grown", grows, vdso, first);
    in_child("had twice", is_had_twice, vdso, first);
    in_child("patched", is_patched, vdso, first);
    in_child("its numbers patched", is_numbers_patched, vdso, first);
    in_child("not patched here", calls, vdso, first);
    in_child("locked", is_locked, vdso, first);
    in_child("dumped", is_dumped, vdso, first);
    in_child("forgotten", is_forgotten, vdso, first);
    in_child("written to a pipe", is_read_by_a_call, vdso, first);
    in_child("unmapped", goes, vdso, first);
    fflush(stdout);
    execv("/proc/self/exe", (char *[]){argv[0], "again", NULL});
    return 1;
}
