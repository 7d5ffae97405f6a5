/* fork, vfork, clone: what a child has of its parent. */
#include "conform.h"
#define GROUP "fork"

CHECK("a child reads what its parent wrote", "memory is copied, as if at once")
{
    char *at = filled(16);
    CHILD for (long i = 0; i < 16; i++) EQ(at[i * P], i + 1);
}
CHECK("a child's store is its own", "copy on write")
{
    char *at = filled(2);
    CHILD at[0] = 9;
    EQ(at[0], 1);
}
CHECK("a parent's store is its own", "the child reads what was there at fork")
{
    int ends[2];
    char *at = filled(1), byte;
    OK(pipe(ends));
    pid_t child = child_start();
    if (child == 0) {
        EQ(read(ends[0], &byte, 1), 1);
        EQ(at[0], 1);
        _exit(0);
    }
    at[0] = 9;
    EQ(write(ends[1], "x", 1), 1);
    child_end(child);
}
CHECK("both write", "each has its own copy, byte for byte")
{
    char *at = filled(64);
    CHILD {
        for (long i = 0; i < 64; i += 2)
            at[i * P + 1] = 7;
        for (long i = 0; i < 64; i++) {
            EQ(at[i * P], i + 1);
            EQ(at[i * P + 1], i % 2 ? 0 : 7);
        }
    }
    for (long i = 0; i < 64; i++)
        EQ(at[i * P + 1], 0);
}
CHECK("ten generations", "each adds one, and the first has what it had")
{
    char *at = filled(1);
    at[0] = 0;
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        OK(child);
        if (child) {
            int status;
            EQ(waitpid(child, &status, 0), child);
            EQ(status, 0);
            EQ(at[0], i);
            if (i)
                _exit(0);
            return;
        }
        at[0]++;
    }
    EQ(at[0], 10);
    _exit(0);
}
CHECK("fifty children share a page", "and each may write to it")
{
    char *at = filled(1);
    pid_t children[50];
    for (int i = 0; i < 50; i++) {
        children[i] = child_start();
        if (children[i] == 0) {
            EQ(at[0], 1);
            at[0] = i;
            EQ(at[0], i);
            _exit(0);
        }
    }
    for (int i = 0; i < 50; i++)
        child_end(children[i]);
    EQ(at[0], 1);
}
CHECK("mappings are copied", "with their permissions")
{
    char *at = filled(3);
    OK(mprotect(at + P, P, PROT_READ));
    CHILD {
        EQ(mappings(at, 3), 3);
        EQ(writing(at + P), ACCERR);
    }
}
CHECK("a mapping of a child is its own", "the parent does not get it")
{
    char *at = island(1);
    OK(munmap(at, P));
    CHILD OK(mmap(at, P, RW, ANON | MAP_FIXED, -1, 0));
    EQ(reading(at), MAPERR);
}
CHECK("the zero page", "a page that was only read is zeroes in both")
{
    char *at = island(2);
    EQ(reading(at), 0);
    CHILD {
        EQ(at[0], 0);
        at[0] = 1;
    }
    EQ(at[0], 0);
}
CHECK("a page never touched", "is nobody's yet")
{
    char *at = island(2);
    CHILD at[P] = 1;
    EQ(at[P], 0);
    EQ(resident(at, 1), 0);
}
CHECK("a child that ends frees its copies", "the parent's pages stay")
{
    char *at = filled(256);
    for (int round = 0; round < 8; round++)
        CHILD memset(at, round, 256 * P);
    for (long i = 0; i < 256; i++)
        EQ(at[i * P], (char)(i + 1));
}
CHECK("a parent's page is exclusive after its child has ended", "pagemap bit 56: mapped exclusively")
{
    char *at = filled(1);
    CHILD (void)0;
    at[0] = 2;
    EQ(pagemap(at) >> 56 & 1, 1);
}
CHECK("a shared page is not exclusive", "pagemap bit 56 is 0 while a child maps it")
{
    char *at = filled(1);
    CHILD EQ(pagemap(at) >> 56 & 1, 0);
}
CHECK("Rss of a child", "what was present stays present")
{
    char *at = filled(512);
    CHILD EQ(smaps(at, "Rss"), 2048);
}
CHECK("Pss of two", "half of each page")
{
    char *at = filled(512);
    CHILD {
        long pss = smaps(at, "Pss");
        IS(pss >= 1024 && pss < 1100);
    }
}
CHECK("Shared_Dirty and Private_Dirty", "a page of two is shared, one's own is private")
{
    char *at = filled(4);
    CHILD {
        at[0] = 1;
        EQ(smaps(at, "Private_Dirty"), 4);
        EQ(smaps(at, "Shared_Dirty"), 12);
    }
}
CHECK("pending signals of a fault are not inherited", "a child starts clean")
{
    EQ(reading(NULL), MAPERR);
    CHILD EQ(reading(NULL), MAPERR);
}
CHECK("a fault that nobody handles ends the child", "SIGSEGV, and the parent lives")
{
    void crash(void) { *(volatile char *)0 = 1; }
    int status = status_of(crash);
    IS(WIFSIGNALED(status));
    EQ(WTERMSIG(status), SIGSEGV);
}
CHECK("vfork shares memory", "the child runs in its parent's until it ends")
{
    volatile char *at = filled(1);
    pid_t child = vfork();
    if (child == 0) {
        at[0] = 77;
        _exit(0);
    }
    OK(child);
    EQ(at[0], 77);
    EQ(waitpid(child, NULL, 0), child);
}
static char clone_stack[16 * 4096] __attribute__((aligned(16)));
static int stores(void *at)
{
    *(char *)at = 55;
    return 0;
}
CHECK("clone with CLONE_VM shares memory", "one address space, two tasks")
{
    char *at = filled(1);
    int pid = clone(stores, clone_stack + sizeof clone_stack, CLONE_VM | SIGCHLD, at);
    OK(pid);
    EQ(waitpid(pid, NULL, 0), pid);
    EQ(at[0], 55);
}
CHECK("clone without CLONE_VM copies memory", "as fork, on another stack")
{
    char *at = filled(1);
    int pid = clone(stores, clone_stack + sizeof clone_stack, SIGCHLD, at);
    OK(pid);
    EQ(waitpid(pid, NULL, 0), pid);
    EQ(at[0], 1);
}
static int maps_there(void *at)
{
    return mmap(at, P, RW, ANON | MAP_FIXED, -1, 0) == at ? 0 : 1;
}
CHECK("a mapping of a task with CLONE_VM is everybody's", "mappings belong to the address space")
{
    char *at = island(1);
    OK(munmap(at, P));
    int pid = clone(maps_there, clone_stack + sizeof clone_stack, CLONE_VM | SIGCHLD, at);
    OK(pid);
    EQ(waitpid(pid, NULL, 0), pid);
    EQ(writing(at), 0);
}
CHECK("a shared mapping stays shared for grandchildren", "one object, however deep")
{
    long *at = (long *)island_of(1, RW, SHARED);
    CHILD {
        __atomic_add_fetch(at, 1, __ATOMIC_SEQ_CST);
        CHILD __atomic_add_fetch(at, 1, __ATOMIC_SEQ_CST);
    }
    EQ(*at, 2);
}
CHECK("a private file's stored page", "is copied, and what was not stored is the file's")
{
    char *at = mmap(NULL, 2 * P, RW, MAP_PRIVATE, file_of(2), 0);
    at[0] = 'z';
    CHILD {
        EQ(at[0], 'z');
        EQ(at[P], 'b');
        at[P] = 'y';
    }
    EQ(at[P], 'b');
}
CHECK("minor faults are counted", "a store to a page that is shared is one")
{
    struct rusage before, after;
    char *at = filled(64);
    SINGLY(at, 64);
    CHILD {
        getrusage(RUSAGE_SELF, &before);
        for (long i = 0; i < 64; i++)
            at[i * P] = 1;
        getrusage(RUSAGE_SELF, &after);
        IS(after.ru_minflt - before.ru_minflt >= 64);
    }
}
CHECK("a hundred children one after the other", "nothing adds up")
{
    char *at = filled(8);
    for (int i = 0; i < 100; i++)
        CHILD at[(i % 8) * P] = 0;
    for (long i = 0; i < 8; i++)
        EQ(at[i * P], i + 1);
}
