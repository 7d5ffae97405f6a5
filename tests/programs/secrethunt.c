/* One process writes a secret over many pages and exits; another takes all the memory that it can get and
 * looks for the secret, for the pattern that freed frames are filled with, and for any byte that is not
 * zero. Fresh memory comes four ways: mmap, brk, the stack, and the unwritten part of a shared page. */
#include "common.h"

#define SECRET 0x5ec2e75ec2e7f00dULL
#define POISON_BYTE 0xa5

static size_t free_mib(void)
{
    FILE *meminfo = fopen("/proc/meminfo", "r");
    char line[128];
    unsigned long kib = 64 * 1024;
    CHECK(meminfo != NULL);
    while (fgets(line, sizeof line, meminfo))
        if (sscanf(line, "MemFree: %lu", &kib) == 1)
            break;
    fclose(meminfo);
    return kib / 1024;
}

/* Looks through fresh pages. One byte of each is written first, so that each is a frame of its own. */
static void hunt(unsigned char *from, size_t pages, const char *kind)
{
    for (size_t page = 0; page < pages; page++) {
        unsigned char *at = from + page * PAGE;
        at[page % PAGE] = 1;
        for (size_t i = 0; i < PAGE; i += 8) {
            uint64_t word;
            memcpy(&word, at + i, 8);
            if (page % PAGE / 8 == i / 8)
                memset((unsigned char *)&word + page % 8, 0, 1);
            CHECK(word != SECRET, "the secret is in %s page %zu at %zu", kind, page, i);
            CHECK(word != POISON_BYTE * 0x0101010101010101ULL, "poison is in %s page %zu at %zu", kind, page, i);
            CHECK(word == 0, "%s page %zu holds 0x%llx at %zu", kind, page, (unsigned long long)word, i);
        }
    }
}

static void keep_secret(size_t mib)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        uint64_t secret = SECRET;
        size_t pages = mib * 256;
        unsigned char *memory = map_pages(pages);
        for (size_t i = 0; i < pages * PAGE; i += 8)
            memcpy(memory + i, &secret, 8);
        _exit(0);
    }
    wait_ok(child);
}

static __attribute__((noinline)) void hunt_stack(void)
{
    /* Below what was ever used: the kernel grows the stack with fresh pages. */
    unsigned char room[PAGE];
    unsigned char *top = (unsigned char *)((uintptr_t)room & ~(PAGE - 1));
    size_t pages = 256;
    for (size_t n = 4; n < pages; n++) {
        volatile unsigned char *at = top - n * PAGE;
        for (size_t i = 0; i < PAGE; i++) {
            CHECK(at[i] != (SECRET & 0xff) || at[i] == 0, "the secret's byte is on the stack");
            CHECK(at[i] == 0, "stack page %zu holds 0x%x at %zu", n, at[i], i);
        }
    }
}

int main(int argc, char **argv)
{
    size_t mib = argc > 1 ? (size_t)atoi(argv[1]) : free_mib() * 3 / 4;
    if (mib > 192)
        mib = 192;
    for (int round = 0; round < 2; round++) {
        keep_secret(mib / 2);
        pid_t hunter = fork();
        CHECK(hunter >= 0);
        if (hunter == 0) {
            hunt(map_pages(mib * 256), mib * 256, "mmap");
            _exit(0);
        }
        wait_ok(hunter);
    }
    keep_secret(mib / 2);
    hunt_stack();
    unsigned char *heap = sbrk(0);
    heap = (unsigned char *)(((uintptr_t)heap + PAGE - 1) & ~(PAGE - 1));
    CHECK(brk(heap + 512 * PAGE) == 0);
    hunt(heap, 512, "brk");

    /* A child that writes one byte of a page that it shares gets a copy of that page, not of another. */
    unsigned char *shared = map_pages(256);
    for (size_t page = 0; page < 256; page++)
        memset(shared + page * PAGE, 0x11, PAGE);
    pid_t child = fork();
    CHECK(child >= 0);
    for (size_t page = 0; page < 256; page++) {
        shared[page * PAGE] = 0x22;
        for (size_t i = 1; i < PAGE; i++)
            CHECK(shared[page * PAGE + i] == 0x11, "copied page %zu holds 0x%x at %zu", page, shared[page * PAGE + i], i);
    }
    if (child == 0)
        _exit(0);
    wait_ok(child);
    printf("secrethunt: fresh memory is zero\n");
    return 0;
}
