/* What a program can say and see of large folios: the settings of /sys, the counters of each size, smaps, meminfo,
 * vmstat, kpageflags and kpagecount, prctl, and debugfs's split_huge_pages.
 *
 * On a host the settings that it changes are put back, also when a check fails. Files that a host does not have are
 * passed over there; in the microVM (argument "all") none may be missing. */
#include "common.h"
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#ifndef PR_SET_THP_DISABLE
#define PR_SET_THP_DISABLE 41
#define PR_GET_THP_DISABLE 42
#endif
#define PR_THP_DISABLE_EXCEPT_ADVISED (1 << 1)

#define DIR_ "/sys/kernel/mm/transparent_hugepage"
#define SIZE64 (16 * PAGE)
#define SIZE2M (512 * PAGE)

enum { MMAP = 11, ANON = 12, SWAPBACKED = 14, HEAD = 15, TAIL = 16, NOPAGE = 20, THP = 22 };

static int all;

static int exists(const char *path)
{
    int there = access(path, F_OK) == 0;
    CHECK(there || !all, "%s", path);
    return there;
}

static int try_read(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, text, size - 1);
    CHECK(n >= 0, "%s", path);
    text[n] = 0;
    close(fd);
    return (int)n;
}

static const char *text_of(const char *path)
{
    static char text[4096];
    CHECK(try_read(path, text, sizeof text) > 0, "%s", path);
    return text;
}

static int try_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, strlen(text));
    int error = n < 0 ? -errno : 0;
    close(fd);
    return error;
}

/* Settings as they were. */
static struct { char path[128]; char word[32]; } saved[64];
static int nr_saved;

static void put_back(void)
{
    while (nr_saved > 0) {
        nr_saved--;
        try_write(saved[nr_saved].path, saved[nr_saved].word);
    }
}

static void chosen(const char *path, char *word)
{
    char text[256];
    CHECK(try_read(path, text, sizeof text) > 0, "%s", path);
    char *open_ = strchr(text, '[');
    if (open_ == NULL)
        sscanf(text, "%31s", word);
    else
        sscanf(open_ + 1, "%31[^]]", word);
}

static void set(const char *path, const char *word)
{
    strcpy(saved[nr_saved].path, path);
    chosen(path, saved[nr_saved].word);
    nr_saved++;
    int error = try_write(path, word);
    CHECK(error == 0, "%s to %s: %d", path, word, error);
    char now[32];
    chosen(path, now);
    CHECK(strcmp(now, word) == 0, "%s is %s and not %s", path, now, word);
}

static char *path_of(unsigned long bytes, const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, DIR_ "/hugepages-%lukB/%s", bytes >> 10, name);
    return path;
}

static unsigned long stat_of(unsigned long bytes, const char *name)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", path_of(bytes, "stats"), name);
    return strtoul(text_of(path), NULL, 10);
}

/* Every size off, and then some on. */
static void sizes(const char *mode64, const char *mode2m)
{
    for (unsigned long bytes = 2 * PAGE; bytes <= SIZE2M; bytes *= 2)
        if (access(path_of(bytes, "enabled"), F_OK) == 0)
            set(path_of(bytes, "enabled"), bytes == SIZE64 ? mode64 : bytes == SIZE2M ? mode2m : "never");
}

static unsigned long field_of(const char *file, const char *name)
{
    static char text[1 << 16];
    int fd = open(file, O_RDONLY), n = 0, got;
    CHECK(fd >= 0, "%s", file);
    while ((got = read(fd, text + n, sizeof text - 1 - n)) > 0)
        n += got;
    close(fd);
    text[n] = 0;
    size_t len = strlen(name);
    for (char *line = text; line != NULL; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, name, len) == 0 && (line[len] == ' ' || line[len] == ':'))
            return strtoul(line + len + 1, NULL, 10);
    CHECK(0, "no %s in %s", name, file);
    return 0;
}

/* A line of the smaps entry that starts at the address. */
static const char *smaps(const void *at, const char *name)
{
    static char line[1024];
    FILE *file = fopen("/proc/self/smaps", "r");
    int inside = 0;
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start == (uintptr_t)at;
        else if (inside && strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':') {
            fclose(file);
            return line + strlen(name) + 1;
        }
    }
    CHECK(0, "no %s at %p", name, at);
    return NULL;
}

static int has_flag(const void *at, const char *flag)
{
    char flags[512];
    snprintf(flags, sizeof flags, "%s", smaps(at, "VmFlags"));
    for (char *word = strtok(flags, " \n"); word != NULL; word = strtok(NULL, " \n"))
        if (strcmp(word, flag) == 0)
            return 1;
    return 0;
}

/* Fresh memory at a 2 MiB boundary, with nothing mapped beside it. */
static unsigned char *window(size_t bytes)
{
    size_t all_ = bytes + 2 * SIZE2M;
    unsigned char *at = mmap(NULL, all_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED);
    unsigned char *start = (unsigned char *)(((uintptr_t)at + SIZE2M) & ~(SIZE2M - 1));
    munmap(at, all_);
    CHECK(mmap(start, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == start);
    return start;
}

static uint64_t word_of(const char *file, uint64_t index)
{
    uint64_t word = 0;
    int fd = open(file, O_RDONLY);
    CHECK(fd >= 0, "%s", file);
    CHECK(pread(fd, &word, 8, index * 8) == 8, "%s at %lu", file, (unsigned long)index);
    close(fd);
    return word;
}

static uint64_t pfn_of(const void *at)
{
    uint64_t word = word_of("/proc/self/pagemap", (uintptr_t)at / PAGE);
    return word >> 63 ? word & ((1UL << 55) - 1) : 0;
}

static int flag_of(const void *at, int bit)
{
    return word_of("/proc/kpageflags", pfn_of(at)) >> bit & 1;
}

/* ---- settings ---- */

static void refuses(const char *path, const char *word)
{
    char before[4096];
    strcpy(before, text_of(path));
    CHECK(try_write(path, word) == -EINVAL, "%s takes \"%s\"", path, word);
    CHECK(strcmp(before, text_of(path)) == 0, "%s", path);
}

static void settings(void)
{
    set(DIR_ "/enabled", "always");
    CHECK(strcmp(text_of(DIR_ "/enabled"), "[always] madvise never\n") == 0);
    set(DIR_ "/enabled", "never");
    CHECK(strcmp(text_of(DIR_ "/enabled"), "always madvise [never]\n") == 0);
    set(DIR_ "/enabled", "madvise");
    CHECK(strcmp(text_of(DIR_ "/enabled"), "always [madvise] never\n") == 0);
    refuses(DIR_ "/enabled", "inherit");
    refuses(DIR_ "/enabled", "sometimes");
    CHECK(try_write(DIR_ "/enabled", "madvise\n") == 0);
    CHECK(strtoul(text_of(DIR_ "/hpage_pmd_size"), NULL, 10) == SIZE2M);
    CHECK(try_write(DIR_ "/hpage_pmd_size", "1") == -EACCES);
    for (unsigned long bytes = 4 * PAGE; bytes <= SIZE2M; bytes *= 2) {
        char *path = path_of(bytes, "enabled");
        if (!exists(path))
            continue;
        set(path, "inherit");
        CHECK(strcmp(text_of(path), "always [inherit] madvise never\n") == 0);
        set(path, "always");
        set(path, "madvise");
        set(path, "never");
        CHECK(strcmp(text_of(path), "always inherit madvise [never]\n") == 0);
        refuses(path, "auto madvise");
        put_back();
        set(DIR_ "/enabled", "madvise");
    }
    const char *files[] = {"defrag", "use_zero_page", "shmem_enabled", "shrink_underused"};
    for (int i = 0; i < 4; i++) {
        char path[128], word[32];
        snprintf(path, sizeof path, DIR_ "/%s", files[i]);
        if (!exists(path))
            continue;
        chosen(path, word);
        CHECK(try_write(path, word) == 0, "%s back to %s", path, word);
        refuses(path, "perhaps");
    }
    const char *numbers[] = {"alloc_sleep_millisecs", "scan_sleep_millisecs", "pages_to_scan", "max_ptes_none",
                             "max_ptes_swap", "max_ptes_shared", "defrag"};
    for (int i = 0; i < 7; i++) {
        char path[128];
        snprintf(path, sizeof path, DIR_ "/khugepaged/%s", numbers[i]);
        if (!exists(path))
            continue;
        set(path, "1");
        refuses(path, "many");
        refuses(path, "-1");
        if (strncmp(numbers[i], "max", 3) == 0)
            refuses(path, "512");
        if (strcmp(numbers[i], "pages_to_scan") == 0)
            refuses(path, "0");
        if (strcmp(numbers[i], "defrag") == 0)
            refuses(path, "2");
    }
    if (exists(DIR_ "/khugepaged/pages_collapsed"))
        CHECK(try_write(DIR_ "/khugepaged/pages_collapsed", "0") == -EACCES);
    const char *stats[] = {"anon_fault_alloc", "anon_fault_fallback", "anon_fault_fallback_charge", "nr_anon",
                           "nr_anon_partially_mapped", "shmem_alloc", "shmem_fallback", "shmem_fallback_charge", "split",
                           "split_deferred", "split_failed", "swpin", "swpin_fallback", "swpin_fallback_charge", "swpout",
                           "swpout_fallback", "zswpout"};
    for (int i = 0; i < 17; i++) {
        char path[160];
        snprintf(path, sizeof path, "%s/%s", path_of(SIZE64, "stats"), stats[i]);
        if (exists(path))
            CHECK(text_of(path)[strspn(text_of(path), "0123456789")] == '\n', "%s", path);
    }
    put_back();
}

/* ---- one size ---- */

static void one_size(unsigned long bytes)
{
    unsigned long pages = bytes / PAGE;
    int has_kpage = exists("/proc/kpageflags") && exists("/proc/kpagecount");
    set(DIR_ "/enabled", "never");
    sizes(bytes == SIZE64 ? "always" : "never", bytes == SIZE2M ? "always" : "never");
    unsigned long taken = stat_of(bytes, "anon_fault_alloc"), there = stat_of(bytes, "nr_anon");
    unsigned long split = stat_of(bytes, "split"), deferred = stat_of(bytes, "split_deferred");
    unsigned char *at = window(2 * SIZE2M);
    CHECK(atoi(smaps(at, "THPeligible")) == 1);
    at[5 * PAGE] = 7;
    CHECK(stat_of(bytes, "anon_fault_alloc") > taken, "a fault took none");
    CHECK(stat_of(bytes, "nr_anon") > there);
    CHECK(strtoul(smaps(at, "Rss"), NULL, 10) == bytes >> 10);
    CHECK(strtoul(smaps(at, "Anonymous"), NULL, 10) == bytes >> 10);
    for (unsigned long i = 0; i < pages; i++)
        CHECK(at[i * PAGE] == (i == 5 ? 7 : 0) && at[i * PAGE + 4095] == 0, "page %lu", i);
    uint64_t first = pfn_of(at);
    CHECK(first % pages == 0, "a folio at %lx", (unsigned long)first);
    for (unsigned long i = 0; i < pages; i++) {
        CHECK(pfn_of(at + i * PAGE) == first + i, "page %lu", i);
        if (!has_kpage)
            continue;
        unsigned char *page = at + i * PAGE;
        CHECK(flag_of(page, THP) && flag_of(page, ANON) && flag_of(page, MMAP) && flag_of(page, SWAPBACKED));
        CHECK(flag_of(page, HEAD) == (i == 0) && flag_of(page, TAIL) == (i != 0), "page %lu", i);
        CHECK(word_of("/proc/kpagecount", first + i) == 1, "page %lu", i);
    }
    if (bytes == SIZE64)
        CHECK(strtoul(smaps(at, "AnonHugePages"), NULL, 10) == 0, "only what leaves map");
    /* A child shares it, and each page is mapped twice. */
    int ready[2], done[2];
    CHECK(pipe(ready) == 0 && pipe(done) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char c = 0;
        nr_saved = 0;
        CHECK(write(ready[1], &c, 1) == 1);
        CHECK(read(done[0], &c, 1) == 1);
        CHECK(at[5 * PAGE] == 7);
        _exit(0);
    }
    char c = 0;
    CHECK(read(ready[0], &c, 1) == 1);
    if (has_kpage)
        CHECK(word_of("/proc/kpagecount", first) == 2 && word_of("/proc/kpagecount", first + pages - 1) == 2);
    CHECK(write(done[1], &c, 1) == 1);
    wait_ok(child);
    /* It is the parent's again: a write copies nothing, or what it has to. */
    at[6 * PAGE] = 8;
    CHECK(at[5 * PAGE] == 7 && at[6 * PAGE] == 8);
    /* A part of it is unmapped. */
    unsigned char *second = at + SIZE2M;
    second[0] = 9;
    CHECK(pfn_of(second + bytes - PAGE) == pfn_of(second) + pages - 1);
    CHECK(munmap(second + bytes / 2, bytes / 2) == 0);
    CHECK(stat_of(bytes, "split_deferred") > deferred);
    CHECK(second[0] == 9);
    /* And it is split because somebody says so. */
    char request[128];
    snprintf(request, sizeof request, "%d,0x%lx,0x%lx", (int)getpid(), (unsigned long)at, (unsigned long)(at + bytes));
    if (exists("/sys/kernel/debug/split_huge_pages")) {
        int error = try_write("/sys/kernel/debug/split_huge_pages", request);
        CHECK(error == 0, "%s: %d", request, error);
        CHECK(stat_of(bytes, "split") > split);
        if (has_kpage)
            CHECK(!flag_of(at, THP) && !flag_of(at, HEAD) && !flag_of(at + PAGE, TAIL));
        CHECK(at[5 * PAGE] == 7 && at[6 * PAGE] == 8 && at[7 * PAGE] == 0);
        CHECK(try_write("/sys/kernel/debug/split_huge_pages", "2") == -EINVAL);
        CHECK(try_write("/sys/kernel/debug/split_huge_pages", "1,0x1000") == -EINVAL);
        CHECK(try_write("/sys/kernel/debug/split_huge_pages", "4194303,0x1000,0x2000") == -ESRCH);
    }
    CHECK(munmap(at, SIZE2M) == 0 && munmap(second, bytes / 2) == 0);
    CHECK(munmap(second + bytes, SIZE2M - bytes) == 0 || bytes == SIZE2M);
    put_back();
}

/* ---- who wants none, and who wants some ---- */

static int takes_one(unsigned char *at)
{
    at[3 * PAGE] = 1;
    int large = pfn_of(at) != 0 && pfn_of(at + 15 * PAGE) == pfn_of(at) + 15;
    CHECK(madvise(at, SIZE64, MADV_DONTNEED) == 0);
    return large;
}

static void advice(void)
{
    set(DIR_ "/enabled", "never");
    sizes("madvise", "never");
    unsigned char *at = window(SIZE64);
    CHECK(!has_flag(at, "hg") && !has_flag(at, "nh"));
    CHECK(!takes_one(at) && atoi(smaps(at, "THPeligible")) == 0);
    CHECK(madvise(at, SIZE64, MADV_HUGEPAGE) == 0);
    CHECK(has_flag(at, "hg") && atoi(smaps(at, "THPeligible")) == 1);
    CHECK(takes_one(at));
    CHECK(madvise(at, SIZE64, MADV_NOHUGEPAGE) == 0);
    CHECK(!has_flag(at, "hg") && has_flag(at, "nh") && atoi(smaps(at, "THPeligible")) == 0);
    CHECK(!takes_one(at));
    sizes("always", "never");
    CHECK(!takes_one(at));
    CHECK(madvise(at, SIZE64, MADV_HUGEPAGE) == 0 && takes_one(at));
    sizes("inherit", "never");
    CHECK(!takes_one(at));
    set(DIR_ "/enabled", "madvise");
    CHECK(takes_one(at));
    sizes("always", "never");

    CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
    CHECK(!takes_one(at) && atoi(smaps(at, "THPeligible")) == 0);
    pid_t child = fork();
    if (child == 0) {
        nr_saved = 0;
        CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1 && !takes_one(at));
        execl("/proc/self/exe", "folios", "disabled", NULL);
        _exit(1);
    }
    wait_ok(child);
    if (prctl(PR_SET_THP_DISABLE, 1, PR_THP_DISABLE_EXCEPT_ADVISED, 0, 0) == 0) {
        CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 3);
        CHECK(takes_one(at));
        CHECK(madvise(at, SIZE64, MADV_NOHUGEPAGE) == 0 && !takes_one(at));
    } else {
        CHECK(!all && errno == EINVAL);
    }
    CHECK(prctl(PR_SET_THP_DISABLE, 0, PR_THP_DISABLE_EXCEPT_ADVISED, 0, 0) == -1 && errno == EINVAL);
    CHECK(prctl(PR_SET_THP_DISABLE, 1, 1, 0, 0) == -1 && errno == EINVAL);
    CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 1, 0) == -1 && errno == EINVAL);
    CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 1) == -1 && errno == EINVAL);
    CHECK(prctl(PR_GET_THP_DISABLE, 1, 0, 0, 0) == -1 && errno == EINVAL);
    CHECK(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0) == 0 && prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0);
    /* No window of that size lies in less. */
    unsigned char *less = window(SIZE64 - PAGE);
    CHECK(atoi(smaps(less, "THPeligible")) == 0);
    munmap(less, SIZE64 - PAGE);
    munmap(at, SIZE64);
    put_back();
}

static void counters(void)
{
    const char *names[] = {"thp_fault_alloc", "thp_fault_fallback", "thp_fault_fallback_charge", "thp_collapse_alloc",
                           "thp_collapse_alloc_failed", "thp_file_alloc", "thp_file_mapped", "thp_split_page",
                           "thp_split_page_failed", "thp_deferred_split_page", "thp_underused_split_page", "thp_split_pmd",
                           "thp_scan_exceed_none_pte", "thp_scan_exceed_swap_pte", "thp_scan_exceed_share_pte",
                           "thp_zero_page_alloc", "thp_zero_page_alloc_failed", "thp_swpout", "thp_swpout_fallback",
                           "thp_migration_success", "thp_migration_fail", "thp_migration_split",
                           "nr_anon_transparent_hugepages"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        field_of("/proc/vmstat", names[i]);
    set(DIR_ "/enabled", "never");
    sizes("never", "always");
    unsigned long taken = field_of("/proc/vmstat", "thp_fault_alloc");
    unsigned char *at = window(SIZE2M);
    at[0] = 1;
    CHECK(field_of("/proc/vmstat", "thp_fault_alloc") > taken);
    /* What leaves map; here runs of entries may do it, too. */
    unsigned long huge = strtoul(smaps(at, "AnonHugePages"), NULL, 10);
    CHECK(huge == 2048 || (all && huge == 0), "%lu", huge);
    CHECK(field_of("/proc/meminfo", "AnonHugePages") >= huge);
    CHECK(field_of("/proc/vmstat", "nr_anon_transparent_hugepages") >= huge / 2048);
    munmap(at, SIZE2M);
    put_back();
}

static void frames(void)
{
    if (!exists("/proc/kpageflags") || !exists("/proc/kpagecount"))
        return;
    uint64_t words[2];
    const char *files[] = {"/proc/kpageflags", "/proc/kpagecount"};
    for (int i = 0; i < 2; i++) {
        int fd = open(files[i], O_RDONLY);
        CHECK(fd >= 0);
        CHECK(pread(fd, words, 8, 4) == -1 && errno == EINVAL);
        CHECK(pread(fd, words, 12, 0) == -1 && errno == EINVAL);
        CHECK(pread(fd, words, 16, 0) == 16);
        CHECK(pread(fd, words, 16, 1L << 50) == 0);
        close(fd);
    }
    unsigned char *at = map_pages(2);
    at[0] = 1;
    CHECK(flag_of(at, ANON) && flag_of(at, MMAP) && flag_of(at, SWAPBACKED));
    CHECK(word_of("/proc/kpagecount", pfn_of(at)) == 1);
    munmap(at, 2 * PAGE);
}

/* Who is not root may read the settings and write none of them; the words of frames are root's alone. */
static void of_root(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(setgid(65534) == 0 && setuid(65534) == 0);
        char text[256];
        CHECK(try_read(DIR_ "/enabled", text, sizeof text) > 0);
        const char *settings[] = {DIR_ "/enabled", DIR_ "/khugepaged/pages_to_scan", "/sys/kernel/mm/ksm/run",
                                  "/sys/kernel/mm/ksm/pages_to_scan", "/proc/sys/vm/overcommit_memory"};
        for (int i = 0; i < 5; i++)
            if (access(settings[i], F_OK) == 0)
                CHECK(try_write(settings[i], "1") == -EACCES, "%s", settings[i]);
        CHECK(try_write(path_of(SIZE64, "enabled"), "never") == -EACCES);
        CHECK(open(path_of(SIZE64, "enabled"), O_RDWR) < 0 && errno == EACCES);
        for (int i = 0; i < 2; i++) {
            const char *words = i ? "/proc/kpagecount" : "/proc/kpageflags";
            if (access(words, F_OK) == 0)
                CHECK(open(words, O_RDONLY) < 0 && errno == EACCES, "%s", words);
        }
        _exit(0);
    }
    wait_ok(child);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "disabled") == 0)
        return prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1 ? 0 : 1;
    all = argc > 1 && strcmp(argv[1], "all") == 0;
    /* The checks are a child's; whatever becomes of it, the settings are put back. */
    char paths[32][128], words[32][32];
    int n = 0;
    strcpy(paths[n++], DIR_ "/enabled");
    for (unsigned long bytes = 2 * PAGE; bytes <= SIZE2M; bytes *= 2)
        if (access(path_of(bytes, "enabled"), F_OK) == 0)
            strcpy(paths[n++], path_of(bytes, "enabled"));
    const char *numbers[] = {"alloc_sleep_millisecs", "scan_sleep_millisecs", "pages_to_scan", "max_ptes_none",
                             "max_ptes_swap", "max_ptes_shared", "defrag"};
    for (int i = 0; i < 7; i++)
        snprintf(paths[n++], 128, DIR_ "/khugepaged/%s", numbers[i]);
    for (int i = 0; i < n; i++)
        chosen(paths[i], words[i]);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        settings();
        of_root();
        one_size(SIZE64);
        one_size(SIZE2M);
        advice();
        counters();
        frames();
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    for (int i = 0; i < n; i++)
        try_write(paths[i], words[i]);
    CHECK(status == 0, "0x%x", status);
    printf("folios: ok\n");
    return 0;
}
