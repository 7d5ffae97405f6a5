/* brk: the heap. */
#include "conform.h"
#define GROUP "brk"

/* The call itself: it returns the end, changed or not. */
static char *end_of_heap(void *to)
{
    return (char *)syscall(SYS_brk, to);
}
static char *page_after(char *at)
{
    return (char *)(((long)at + P - 1) & -P);
}

CHECK("of 0 says where it ends", "any address that is refused does")
{
    char *at = end_of_heap(NULL);
    IS(at != NULL);
    EQ(end_of_heap(NULL), at);
}
CHECK("grows", "zeroes to read and write")
{
    char *at = page_after(end_of_heap(NULL));
    EQ(end_of_heap(at + 4 * P), at + 4 * P);
    EQ(at[P], 0);
    EQ(writing(at + 4 * P - 1), 0);
}
CHECK("shrinks", "what is cut off is not mapped")
{
    char *at = page_after(end_of_heap(NULL));
    end_of_heap(at + 4 * P);
    at[3 * P] = 1;
    EQ(end_of_heap(at + P), at + P);
    EQ(reading(at + 3 * P), MAPERR);
}
CHECK("grows after it shrank as zeroes", "nothing comes back")
{
    char *at = page_after(end_of_heap(NULL));
    end_of_heap(at + 2 * P);
    at[P] = 7;
    end_of_heap(at);
    end_of_heap(at + 2 * P);
    EQ(at[P], 0);
}
CHECK("ends at any byte", "the mapping goes by pages, the end does not")
{
    char *at = page_after(end_of_heap(NULL));
    EQ(end_of_heap(at + 100), at + 100);
    EQ(writing(at + P - 1), 0);
    EQ(end_of_heap(at + 200), at + 200);
}
CHECK("below its start is refused", "the end stays")
{
    char *at = end_of_heap(NULL);
    EQ(end_of_heap((char *)P), at);
}
CHECK("into another mapping is refused", "the end stays, and nothing is replaced")
{
    char *at = page_after(end_of_heap(NULL));
    end_of_heap(at);
    OK(mmap(at + 4 * P, P, RW, ANON | MAP_FIXED, -1, 0));
    at[4 * P] = 5;
    EQ(end_of_heap(at + 8 * P), at);
    EQ(at[4 * P], 5);
}
CHECK("beyond RLIMIT_DATA is refused", "the end stays")
{
    char *at = page_after(end_of_heap(NULL));
    end_of_heap(at);
    limit(RLIMIT_DATA, 1 << 20);
    EQ(end_of_heap(at + (64L << 20)), at);
}
CHECK("beyond RLIMIT_AS is refused", "the end stays")
{
    char *at = page_after(end_of_heap(NULL));
    end_of_heap(at);
    limit(RLIMIT_AS, status_kb("VmSize") * 1024 + 16 * P);
    EQ(end_of_heap(at + 1024 * P), at);
}
CHECK("is called [heap] in maps", "so that people find it")
{
    char line[512], *at = page_after(end_of_heap(NULL));
    unsigned long start, end;
    int found = 0;
    end_of_heap(at + P);
    FILE *file = fopen("/proc/self/maps", "r");
    IS(file != NULL);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start <= (unsigned long)at && (unsigned long)at < end)
            found = strstr(line, "[heap]") != NULL;
    EQ(found, 1);
}
CHECK("a child has its own", "it starts with its parent's end")
{
    char *at = page_after(end_of_heap(NULL));
    end_of_heap(at + P);
    at[0] = 3;
    CHILD {
        EQ(end_of_heap(NULL), at + P);
        EQ(end_of_heap(at + 9 * P), at + 9 * P);
        at[0] = 4;
    }
    EQ(end_of_heap(NULL), at + P);
    EQ(at[0], 3);
}
CHECK("counts as data", "VmData grows by what the heap grows by")
{
    char *at = page_after(end_of_heap(NULL));
    end_of_heap(at);
    long before = status_kb("VmData");
    end_of_heap(at + 16 * P);
    EQ(status_kb("VmData") - before, 64);
}
