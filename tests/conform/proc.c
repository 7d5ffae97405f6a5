/* What /proc says of memory: maps, smaps, pagemap, status, statm, clear_refs, mem. */
#include "conform.h"
#define GROUP "proc"

CHECK("maps is sorted and does not overlap", "by address")
{
    char line[512];
    unsigned long start, end, last = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    IS(file != NULL);
    while (fgets(line, sizeof line, file)) {
        EQ(sscanf(line, "%lx-%lx", &start, &end), 2);
        IS(start >= last && end > start);
        last = end;
    }
}
CHECK("maps names the stack", "[stack]")
{
    char line[512], here;
    unsigned long start, end;
    int found = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    IS(file != NULL);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start <= (unsigned long)&here && (unsigned long)&here < end)
            found = strstr(line, "[stack]") != NULL;
    EQ(found, 1);
}
CHECK("maps names a file", "the path at the end of the line")
{
    char line[512], self[256];
    int found = 0;
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    OK(length);
    self[length] = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    IS(file != NULL);
    while (fgets(line, sizeof line, file))
        found |= strstr(line, strrchr(self, '/')) != NULL;
    EQ(found, 1);
}
CHECK("smaps has the size", "of the mapping, in kB")
{
    EQ(smaps(island(10), "Size"), 40);
}
CHECK("smaps counts what is resident", "Rss")
{
    char *at = island(10);
    SINGLY(at, 10);
    at[0] = at[5 * P] = 1;
    EQ(smaps(at, "Rss"), 8);
}
CHECK("smaps counts zero pages nowhere", "they are nobody's")
{
    char *at = island(10);
    for (long i = 0; i < 10; i++)
        EQ(reading(at + i * P), 0);
    EQ(smaps(at, "Rss"), 0);
}
CHECK("smaps knows what is anonymous", "Anonymous")
{
    EQ(smaps(filled(4), "Anonymous"), 16);
}
CHECK("smaps knows what is private and dirty", "Private_Dirty")
{
    EQ(smaps(filled(4), "Private_Dirty"), 16);
}
CHECK("smaps knows what was used", "Referenced")
{
    EQ(smaps(filled(4), "Referenced"), 16);
}
CHECK("smaps has the share of each", "Pss: all of it where nobody shares")
{
    EQ(smaps(filled(4), "Pss"), 16);
}
CHECK("smaps has the size of a page", "KernelPageSize and MMUPageSize")
{
    char *at = filled(1);
    EQ(smaps(at, "KernelPageSize"), 4);
    EQ(smaps(at, "MMUPageSize"), 4);
}
CHECK("smaps says what is swapped", "Swap, 0 where nothing is")
{
    EQ(smaps(filled(4), "Swap"), 0);
}
CHECK("smaps has the flags of permissions", "rd wr mr mw me; no ex")
{
    char *at = island(1);
    EQ(vm_flag(at, "rd"), 1);
    EQ(vm_flag(at, "wr"), 1);
    EQ(vm_flag(at, "ex"), 0);
    EQ(vm_flag(at, "mr"), 1);
    EQ(vm_flag(at, "mw"), 1);
    EQ(vm_flag(at, "me"), 1);
}
CHECK("smaps has the flag of shared memory", "sh, and ms: may be shared")
{
    char *at = island_of(1, RW, SHARED);
    EQ(vm_flag(at, "sh"), 1);
    EQ(vm_flag(at, "ms"), 1);
}
CHECK("smaps has the flag of code", "ex")
{
    EQ(vm_flag(island_of(1, PROT_READ | PROT_EXEC, ANON), "ex"), 1);
}
CHECK("smaps has the flag of no reserve", "nr")
{
    EQ(vm_flag(island_of(1, RW, ANON | MAP_NORESERVE), "nr"), 1);
}
CHECK("smaps has the flag of a stack", "gd")
{
    EQ(vm_flag(island_of(1, RW, ANON | MAP_GROWSDOWN), "gd"), 1);
}
CHECK("smaps has the flag of accounting", "ac: private and writable")
{
    EQ(vm_flag(island(1), "ac"), 1);
    EQ(vm_flag(island_of(1, PROT_READ, ANON), "ac"), 0);
}
CHECK("smaps_rollup adds up", "Rss of all mappings")
{
    char line[256];
    long rss = -1;
    filled(256);
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    if (!file)
        absent("smaps_rollup");
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, "Rss:", 4))
            rss = strtol(line + 4, NULL, 10);
    long sum = 0;
    OK(fclose(file));
    file = fopen("/proc/self/smaps", "r");
    IS(file != NULL);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, "Rss:", 4))
            sum += strtol(line + 4, NULL, 10);
    // Reading on touches the program's own pages.
    IS(rss >= 1024 && labs(sum - rss) <= 512);
}
CHECK("pagemap of nothing is 0", "no page, no swap")
{
    EQ(pagemap(island(1)) >> 61, 0);
}
CHECK("pagemap of a page is present", "bit 63")
{
    EQ(pagemap(filled(1)) >> 63, 1);
}
CHECK("pagemap of two pages has two frames", "for those who may see frame numbers")
{
    char *at = filled(2);
    uint64_t one = pagemap(at) & ((1UL << 55) - 1), other = pagemap(at + P) & ((1UL << 55) - 1);
    IS(one != other || one == 0);
}
CHECK("pagemap of a page that is shared with a child", "the same frame in both")
{
    char *at = filled(1);
    uint64_t frame = pagemap(at) & ((1UL << 55) - 1);
    CHILD {
        EQ(pagemap(at) & ((1UL << 55) - 1), frame);
        at[0] = 5;
        IS((pagemap(at) & ((1UL << 55) - 1)) != frame || frame == 0);
    }
}
CHECK("pagemap of a private page says exclusive", "bit 56")
{
    EQ(pagemap(filled(1)) >> 56 & 1, 1);
}
CHECK("pagemap of shared memory says file", "bit 61: a page of a file or shared")
{
    char *at = island_of(1, RW, SHARED);
    at[0] = 1;
    EQ(pagemap(at) >> 61 & 1, 1);
}
CHECK("pagemap of private memory does not", "bit 61 is 0")
{
    EQ(pagemap(filled(1)) >> 61 & 1, 0);
}
CHECK("pagemap at an odd offset is refused", "EINVAL: entries are eight bytes")
{
    uint64_t entry;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    OK(fd);
    ERR(pread(fd, &entry, 8, 4), EINVAL);
    ERR(pread(fd, &entry, 4, 0), EINVAL);
}
CHECK("pagemap of a guard", "bit 58, since 6.15")
{
    char *at = filled(1);
    if (madvise(at, P, 102))
        absent("guards");
    EQ(pagemap(at) >> 58 & 1, 1);
    EQ(pagemap(at) >> 63, 0);
}
CHECK("status has VmSize", "all mappings")
{
    long before = status_kb("VmSize");
    island(1024);
    EQ(status_kb("VmSize") - before, 4096);
}
CHECK("status has VmRSS as the sum of its parts", "RssAnon, RssFile, RssShmem")
{
    filled(256);
    long sum = status_kb("RssAnon") + status_kb("RssFile") + status_kb("RssShmem");
    long rss = status_kb("VmRSS"), differs = rss > sum ? rss - sum : sum - rss;
    IS(differs <= 256);
}
CHECK("status counts shared memory apart", "RssShmem")
{
    char *at = island_of(512, RW, SHARED);
    long before = status_kb("RssShmem");
    memset(at, 1, 512 * P);
    long grown = status_kb("RssShmem") - before;
    IS(grown >= 1800 && grown <= 2300);
}
CHECK("status has a high-water mark", "VmHWM never falls")
{
    char *at = island(2048);
    memset(at, 1, 2048 * P);
    long high = status_kb("VmHWM");
    OK(munmap(at, 2048 * P));
    IS(status_kb("VmHWM") >= high - 256);
}
CHECK("status has the peak of sizes", "VmPeak never falls")
{
    char *at = island(2048);
    long high = status_kb("VmPeak");
    OK(munmap(at, 2048 * P));
    EQ(status_kb("VmPeak"), high);
}
CHECK("status has the stack", "VmStk: the size of its mapping")
{
    char here;
    EQ(status_kb("VmStk"), smaps(&here, "Size"));
}
CHECK("status has the page tables", "VmPTE grows by a page for 2 MiB")
{
    long before = status_kb("VmPTE");
    char *at = island(512 * 64);
    for (long i = 0; i < 64; i++)
        at[i * 512 * P] = 1;
    long grown = status_kb("VmPTE") - before;
    IS(grown >= 60 * 4 && grown <= 70 * 4);
}
CHECK("status has what is in swap", "VmSwap: 0 where nothing is")
{
    EQ(status_kb("VmSwap"), 0);
}
CHECK("statm agrees with status", "in pages")
{
    long size, rss;
    FILE *file = fopen("/proc/self/statm", "r");
    IS(file != NULL);
    EQ(fscanf(file, "%ld %ld", &size, &rss), 2);
    EQ(size * 4, status_kb("VmSize"));
}
CHECK("clear_refs forgets what was used", "1: Referenced is 0 then")
{
    char *at = filled(8);
    clear_refs("1");
    EQ(smaps(at, "Referenced"), 0);
}
CHECK("clear_refs of anonymous memory", "2: mappings of files are left alone")
{
    char *at = filled(8);
    clear_refs("2");
    EQ(smaps(at, "Referenced"), 0);
}
CHECK("clear_refs resets the high-water mark", "5")
{
    char *at = island(4096);
    memset(at, 1, 4096 * P);
    OK(munmap(at, 4096 * P));
    long high = status_kb("VmHWM");
    clear_refs("5");
    IS(high - status_kb("VmHWM") >= 8192);
}
CHECK("clear_refs with an unknown number is refused", "EINVAL")
{
    int fd = open("/proc/self/clear_refs", O_WRONLY);
    OK(fd);
    ERR(write(fd, "9", 1), EINVAL);
}
CHECK("soft-dirty says what was written since", "clear_refs 4, then bit 55 of pagemap")
{
    char *at = soft_clean(4);
    for (int i = 0; i < 4; i++)
        EQ(soft_dirty(at + i * P), 0);
    at[P] = 2;
    EQ(soft_dirty(at + P), 1);
    EQ(soft_dirty(at) + soft_dirty(at + 2 * P), 0);
    clear_refs("4");
    EQ(soft_dirty(at + P), 0);
    at[P] = 2;
    EQ(soft_dirty(at + P), 1);
}
CHECK("soft-dirty is all of a new mapping", "sd in VmFlags, and pages that are not there, until it is cleared")
{
    soft_clean(1);
    char *at = island(4);
    EQ(vm_flag(at, "sd"), 1);
    EQ(soft_dirty(at) + soft_dirty(at + 3 * P), 2);
    clear_refs("4");
    EQ(vm_flag(at, "sd"), 0);
    EQ(soft_dirty(at) + soft_dirty(at + 3 * P), 0);
}
CHECK("soft-dirty is not what was read", "a page, the zero page, memory that is shared")
{
    char *at = soft_clean(2), *empty = island(2), *shared = island_of(2, RW, SHARED);
    SINGLY(empty, 2);
    shared[0] = 1;
    clear_refs("4");
    EQ(reading(at) + reading(empty) + reading(shared) + reading(shared + P), 0);
    EQ(soft_dirty(at) + soft_dirty(empty) + soft_dirty(shared) + soft_dirty(shared + P), 0);
    empty[0] = 1;
    shared[P] = 1;
    EQ(soft_dirty(empty), 1);
    EQ(soft_dirty(shared + P), 1);
}
CHECK("soft-dirty stays through swap", "the bit is in the entry of a page that is out, too")
{
    char *at = soft_clean(2);
    at[P] = 9;
    for (int i = 0; i < 100 && resident(at, 2) > 0; i++)
        OK(madvise(at, 2 * P, MADV_PAGEOUT));
    EQ(soft_dirty(at), 0);
    EQ(soft_dirty(at + P), 1);
    EQ(at[0] + at[P], 10);
    EQ(soft_dirty(at), 0);
    EQ(soft_dirty(at + P), 1);
}
CHECK("soft-dirty notices a write that brings a page back", "from swap, after it was cleared there")
{
    char *at = soft_clean(2);
    for (int i = 0; i < 100 && resident(at, 2) > 0; i++)
        OK(madvise(at, 2 * P, MADV_PAGEOUT));
    clear_refs("4");
    at[P] = 9;
    EQ(soft_dirty(at), 0);
    EQ(soft_dirty(at + P), 1);
}
CHECK("soft-dirty is what it was for parent and child", "fork copies the bits; then each has its own")
{
    char *at = soft_clean(4);
    at[P] = 9;
    CHILD
    {
        EQ(soft_dirty(at), 0);
        EQ(soft_dirty(at + P), 1);
        at[2 * P] = 9;
        EQ(soft_dirty(at + 2 * P), 1);
    }
    EQ(soft_dirty(at + P), 1);
    EQ(soft_dirty(at + 2 * P), 0);
    at[0] = 9;
    EQ(soft_dirty(at), 1);
}
CHECK("soft-dirty is what mremap has moved", "a page is new at its place")
{
    char *at = soft_clean(4), *to = island(4);
    clear_refs("4");
    OK(mremap(at, 4 * P, 4 * P, MREMAP_MAYMOVE | MREMAP_FIXED, to));
    EQ(soft_dirty(to), 1);
    EQ(soft_dirty(to + 3 * P), 1);
    EQ(to[3 * P], 4);
}
CHECK("soft-dirty is a mapping that became one with a new one", "all of it: the bit is the mapping's")
{
    soft_clean(1);
    char *at = island(4);
    OK(munmap(at + 2 * P, 2 * P));
    clear_refs("4");
    EQ(soft_dirty(at), 0);
    EQ(mmap(at + 2 * P, 2 * P, RW, ANON | MAP_FIXED, -1, 0), at + 2 * P);
    EQ(soft_dirty(at + 2 * P), 1);
    EQ(mappings(at, 4), 1);
}
CHECK("soft-dirty notices writes after mprotect", "permission that comes back does not let the first one pass")
{
    char *at = soft_clean(4);
    OK(mprotect(at, 4 * P, PROT_READ));
    OK(mprotect(at, 4 * P, RW));
    OK(mprotect(at, 4 * P, PROT_NONE));
    OK(mprotect(at, 4 * P, RW));
    EQ(soft_dirty(at) + soft_dirty(at + P), 0);
    at[P] = 9;
    EQ(soft_dirty(at), 0);
    EQ(soft_dirty(at + P), 1);
}
CHECK("soft-dirty notices what a system call writes", "read() into a page")
{
    char *at = soft_clean(2);
    int ends[2];
    OK(pipe(ends));
    EQ(write(ends[1], "a", 1), 1);
    EQ(read(ends[0], at + P, 1), 1);
    EQ(soft_dirty(at), 0);
    EQ(soft_dirty(at + P), 1);
}
CHECK("soft-dirty notices what a debugger writes", "to a page that its program may not write")
{
    char byte = 8, *at = soft_clean(2);
    OK(mprotect(at, 2 * P, PROT_READ));
    int fd = open("/proc/self/mem", O_RDWR);
    OK(fd);
    if (pwrite(fd, &byte, 1, (long)at + P) != 1)
        absent("forced writes (proc_mem.force_override)");
    EQ(soft_dirty(at), 0);
    EQ(soft_dirty(at + P), 1);
}
CHECK("soft-dirty ends with the page", "what MADV_DONTNEED has dropped was not written")
{
    char *at = soft_clean(2);
    at[0] = at[P] = 9;
    OK(madvise(at, P, MADV_DONTNEED));
    EQ(soft_dirty(at), 0);
    EQ(soft_dirty(at + P), 1);
}
CHECK("soft-dirty of large pages", "a write is noticed; more than the page may be called written")
{
    soft_clean(1);
    char *at = island(1024);
    (void)madvise(at, 1024 * P, MADV_HUGEPAGE);
    memset(at, 1, 1024 * P);
    clear_refs("4");
    long written = 0;
    for (int i = 0; i < 1024; i++)
        written += soft_dirty(at + i * P) + at[i * P] - 1;
    EQ(written, 0);
    at[700 * P] = 9;
    EQ(soft_dirty(at + 700 * P), 1);
    OK(mprotect(at + 512 * P, P, PROT_READ));
    EQ(soft_dirty(at + 700 * P), 1);
}
CHECK("mem reads", "/proc/self/mem at an address")
{
    char byte, *at = filled(2);
    int fd = open("/proc/self/mem", O_RDWR);
    OK(fd);
    EQ(pread(fd, &byte, 1, (long)at + P), 1);
    EQ(byte, 2);
}
CHECK("mem writes", "as the program itself would")
{
    char byte = 8, *at = filled(1);
    int fd = open("/proc/self/mem", O_RDWR);
    OK(fd);
    EQ(pwrite(fd, &byte, 1, (long)at), 1);
    EQ(at[0], 8);
}
CHECK("mem writes what the program may not", "a debugger sets breakpoints in read-only code: FOLL_FORCE")
{
    char byte = 8, *at = filled(1);
    OK(mprotect(at, P, PROT_READ));
    int fd = open("/proc/self/mem", O_RDWR);
    OK(fd);
    if (pwrite(fd, &byte, 1, (long)at) != 1)
        absent("forced writes (proc_mem.force_override)");
    EQ(at[0], 8);
}
CHECK("mem of a hole is refused", "EIO")
{
    char byte;
    int fd = open("/proc/self/mem", O_RDONLY);
    OK(fd);
    ERR(pread(fd, &byte, 1, (long)(island(1) + P)), EIO);
}
CHECK("mem stops at a hole", "what comes before it was read")
{
    char bytes[3 * P], *at = filled(2);
    int fd = open("/proc/self/mem", O_RDONLY);
    OK(fd);
    EQ(pread(fd, bytes, 3 * P, (long)at), 2 * P);
}
CHECK("meminfo has total and available", "and the one is more than the other")
{
    char line[128];
    long total = 0, available = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    IS(file != NULL);
    while (fgets(line, sizeof line, file)) {
        sscanf(line, "MemTotal: %ld", &total);
        sscanf(line, "MemAvailable: %ld", &available);
    }
    IS(total > available && available > 0);
}
/* The number in a file of /proc/self. */
static long number(const char *name)
{
    char path[64], text[64] = "";
    snprintf(path, sizeof path, "/proc/self/%s", name);
    int fd = open(path, O_RDONLY);
    OK(fd);
    IS(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    return strtol(text, NULL, 10);
}
/* Writes text to a file of /proc/self: 0 or the error. */
static int put(const char *name, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/%s", name);
    int fd = open(path, O_WRONLY);
    OK(fd);
    int error = write(fd, text, strlen(text)) < 0 ? errno : 0;
    close(fd);
    return error;
}
CHECK("oom_score of a small program is two thirds of a thousand", "proc_oom_score: (1000 + badness) * 2 / 3")
{
    if (number("oom_score_adj") != 0)
        EQ(put("oom_score_adj", "0"), 0);
    IS(number("oom_score") >= 666 && number("oom_score") < 700);
}
CHECK("oom_score_adj moves the score", "by two thirds, less what memory / 1000 pages rounds down")
{
    EQ(put("oom_score_adj", "500"), 0);
    IS(number("oom_score") >= 999 && number("oom_score") < 1040);
    EQ(put("oom_score_adj", "1000\n"), 0);
    EQ(number("oom_score_adj"), 1000);
    IS(number("oom_score") >= 1332);
}
CHECK("oom_score_adj has ends", "EINVAL beyond -1000 and 1000, and for words")
{
    EQ(put("oom_score_adj", "1001"), EINVAL);
    EQ(put("oom_score_adj", "-1001"), EINVAL);
    EQ(put("oom_score_adj", "much"), EINVAL);
}
/* Lowers it, which few may. */
static void lower(const char *name, const char *text)
{
    int error = put(name, text);
    if (error == EACCES)
        absent("CAP_SYS_RESOURCE");
    EQ(error, 0);
}
CHECK("oom_score of who is never killed is 0", "-1000")
{
    lower("oom_score_adj", "-1000");
    EQ(number("oom_score"), 0);
}
CHECK("oom_adj is the older scale", "-17 to 15; 15 is all")
{
    EQ(put("oom_adj", "8"), 0);
    EQ(number("oom_score_adj"), 470);
    EQ(number("oom_adj"), 7);
    EQ(put("oom_adj", "15"), 0);
    EQ(number("oom_score_adj"), 1000);
    EQ(number("oom_adj"), 15);
    EQ(put("oom_adj", "16"), EINVAL);
    EQ(put("oom_adj", "-18"), EINVAL);
    lower("oom_adj", "-17");
    EQ(number("oom_score_adj"), -1000);
}
CHECK("oom_score_adj is inherited", "fork copies it")
{
    EQ(put("oom_score_adj", "77"), 0);
    CHILD EQ(number("oom_score_adj"), 77);
}
CHECK("oom_score_adj is raised by anybody and lowered by few", "EACCES without CAP_SYS_RESOURCE")
{
    EQ(put("oom_score_adj", "0"), 0);
    lower("oom_score_adj", "-1");
    EQ(put("oom_score_adj", "100"), 0);
    drop_capabilities();
    EQ(put("oom_score_adj", "200"), 0);
    EQ(put("oom_score_adj", "100"), 0);
    EQ(put("oom_score_adj", "99"), EACCES);
    EQ(number("oom_score_adj"), 100);
}
/* A setting of /proc/sys/vm: what it says, or -1. */
static long vm_setting(const char *name)
{
    char path[80], text[64] = "";
    snprintf(path, sizeof path, "/proc/sys/vm/%s", name);
    int fd = open(path, O_RDONLY);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    return length > 0 ? strtol(text, NULL, 10) : -1;
}
static int set_vm(const char *name, const char *text)
{
    char path[80];
    snprintf(path, sizeof path, "/proc/sys/vm/%s", name);
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        absent("root's settings of /proc/sys/vm");
    int error = write(fd, text, strlen(text)) < 0 ? errno : 0;
    close(fd);
    return error;
}
CHECK("settings of vm are there", "programs read them at their start")
{
    const char *names[] = {"max_map_count", "min_free_kbytes", "mmap_min_addr", "overcommit_kbytes", "overcommit_memory",
                           "overcommit_ratio", "swappiness", "panic_on_oom", "nr_hugepages", "admin_reserve_kbytes"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (vm_setting(names[i]) < 0)
            fail(__LINE__, "%s is not there", names[i]);
}
CHECK("overcommit_kbytes takes the place of overcommit_ratio", "one of them is 0; the limit follows")
{
    long ratio = vm_setting("overcommit_ratio"), kbytes = vm_setting("overcommit_kbytes");
    char old[32];
    EQ(set_vm("overcommit_kbytes", "1000000"), 0);
    EQ(vm_setting("overcommit_ratio"), 0);
    EQ(vm_setting("overcommit_kbytes"), 1000000);
    snprintf(old, sizeof old, "%ld", kbytes ? kbytes : ratio);
    EQ(set_vm(kbytes ? "overcommit_kbytes" : "overcommit_ratio", old), 0);
    EQ(vm_setting("overcommit_kbytes"), kbytes);
    EQ(vm_setting("overcommit_ratio"), ratio);
}
CHECK("swappiness goes up to 200", "EINVAL above, since 5.8")
{
    char old[32];
    snprintf(old, sizeof old, "%ld", vm_setting("swappiness"));
    EQ(set_vm("swappiness", "201"), EINVAL);
    EQ(set_vm("swappiness", "-1"), EINVAL);
    EQ(set_vm("swappiness", old), 0);
}
CHECK("drop_caches is only written", "1 to 4")
{
    EQ(set_vm("drop_caches", "0"), EINVAL);
    EQ(set_vm("drop_caches", "4"), 0);
    ERR(open("/proc/sys/vm/drop_caches", O_RDONLY), EACCES);
}
CHECK("CPUs have a topology", "/sys/devices/system/cpu/cpu0/topology")
{
    char text[64] = "";
    int fd = open("/sys/devices/system/cpu/cpu0/topology/core_id", O_RDONLY);
    OK(fd);
    IS(read(fd, text, sizeof text - 1) > 0);
    EQ(strtol(text, NULL, 10), 0);
    OK(open("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list", O_RDONLY));
    OK(open("/sys/devices/system/cpu/kernel_max", O_RDONLY));
    OK(open("/sys/devices/system/cpu/offline", O_RDONLY));
}
