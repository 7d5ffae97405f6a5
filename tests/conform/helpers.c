/* What checks ask the kernel for, over and over. */
#include "conform.h"

static sigjmp_buf back;

static void caught(int signal, siginfo_t *info, void *context)
{
    (void)context;
    siglongjmp(back, signal << 8 | (info->si_code & 0xff));
}

static void catch_faults(void)
{
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_NODEFER};
    OK(sigaction(SIGSEGV, &action, NULL));
    OK(sigaction(SIGBUS, &action, NULL));
}

int reading(const volatile void *at)
{
    catch_faults();
    int signal = sigsetjmp(back, 1);
    if (signal == 0)
        (void)*(const volatile char *)at;
    return signal;
}

int writing(volatile void *at)
{
    catch_faults();
    int signal = sigsetjmp(back, 1);
    if (signal == 0)
        *(volatile char *)at = 99;
    return signal;
}

int running(void *at)
{
    catch_faults();
    int signal = sigsetjmp(back, 1);
    if (signal == 0)
        ((void (*)(void))at)();
    return signal;
}

char *island_of(long n, int protection, int flags)
{
    char *at = mmap(NULL, (n + 2) * P, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
    IS(at != MAP_FAILED);
    OK(mmap(at + P, n * P, protection, flags | MAP_FIXED, -1, 0));
    OK(munmap(at, P));
    OK(munmap(at + (n + 1) * P, P));
    return at + P;
}

char *island(long n)
{
    return island_of(n, RW, ANON);
}

char *filled(long n)
{
    char *at = island(n);
    for (long i = 0; i < n; i++)
        at[i * P] = i + 1;
    return at;
}

long resident(void *at, long n)
{
    unsigned char vector[1024];
    long count = 0;
    IS(n <= 1024);
    if (mincore(at, n * P, vector))
        return -1;
    for (long i = 0; i < n; i++)
        count += vector[i] & 1;
    return count;
}

/* The line of /proc/self/maps or smaps that is about `at`; the file stays open behind it. */
static FILE *mapping(const char *path, const void *at, char *line, int size)
{
    unsigned long start, end;
    FILE *file = fopen(path, "r");
    IS(file != NULL);
    while (fgets(line, size, file))
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2 && start <= (unsigned long)at && (unsigned long)at < end)
            return file;
    fclose(file);
    return NULL;
}

long mappings(void *at, long n)
{
    char line[512];
    unsigned long start, end, from = (unsigned long)at;
    long count = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    IS(file != NULL);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            count += start < from + n * P && end > from;
    fclose(file);
    return count;
}

long smaps(void *at, const char *field)
{
    char line[512];
    long number = -1;
    FILE *file = mapping("/proc/self/smaps", at, line, sizeof line);
    size_t length = strlen(field);
    if (!file)
        return -1;
    while (fgets(line, sizeof line, file) && strncmp(line, "VmFlags", 7))
        if (!strncmp(line, field, length) && line[length] == ':') {
            number = strtol(line + length + 1, NULL, 10);
            break;
        }
    fclose(file);
    return number;
}

int vm_flag(void *at, const char *flag)
{
    char line[512], word[8];
    int has = 0;
    FILE *file = mapping("/proc/self/smaps", at, line, sizeof line);
    if (!file)
        return -1;
    snprintf(word, sizeof word, " %s ", flag);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, "VmFlags:", 8)) {
            has = strstr(line, word) != NULL;
            break;
        }
    fclose(file);
    return has;
}

const char *permissions(void *at)
{
    static char text[8];
    char line[512];
    FILE *file = mapping("/proc/self/maps", at, line, sizeof line);
    if (!file)
        return "";
    sscanf(line, "%*s %4s", text);
    fclose(file);
    return text;
}

long status_kb(const char *field)
{
    char line[256];
    long number = -1;
    FILE *file = fopen("/proc/self/status", "r");
    IS(file != NULL);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, field, strlen(field)) && line[strlen(field)] == ':')
            number = strtol(line + strlen(field) + 1, NULL, 10);
    fclose(file);
    return number;
}

uint64_t pagemap(void *at)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    IS(fd >= 0);
    EQ(pread(fd, &entry, 8, (unsigned long)at / P * 8), 8);
    close(fd);
    return entry;
}

void clear_refs(const char *what)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY);
    OK(fd);
    OK(write(fd, what, 1));
    close(fd);
}

int soft_dirty(void *at)
{
    return pagemap(at) >> 55 & 1;
}

char *soft_clean(long n)
{
    char *at = island(n);
    SINGLY(at, n);
    for (long i = 0; i < n; i++)
        at[i * P] = i + 1;
    if (!soft_dirty(at) && !vm_flag(at, "sd"))
        absent("soft-dirty bits");
    clear_refs("4");
    return at;
}

void limit(int resource, rlim_t soft)
{
    struct rlimit old;
    OK(getrlimit(resource, &old));
    old.rlim_cur = soft;
    OK(setrlimit(resource, &old));
}

void drop_capabilities(void)
{
    uint32_t header[2] = {0x20080522, 0}, sets[6] = {0};
    OK(syscall(SYS_capget, header, sets));
    sets[0] = sets[3] = 0;
    OK(syscall(SYS_capset, header, sets));
}

int status_of(void (*child)(void))
{
    int status;
    pid_t pid = fork();
    OK(pid);
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        child();
        _exit(0);
    }
    EQ(waitpid(pid, &status, 0), pid);
    return status;
}

pid_t child_start(void)
{
    pid_t pid = fork();
    OK(pid);
    return pid;
}

void child_end(pid_t child)
{
    int status;
    if (child == 0)
        _exit(0);
    EQ(waitpid(child, &status, 0), child);
    EQ(status, 0);
}

int file_of(long pages)
{
    char block[P];
    int fd = memfd_create("conform", 0);
    OK(fd);
    for (long i = 0; i < pages; i++) {
        memset(block, 'a' + i, P);
        EQ(write(fd, block, P), P);
    }
    return fd;
}
