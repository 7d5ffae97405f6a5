/* Large folios of which every second page is given back: their memory comes back before anybody is killed. */
#include "common.h"

#define SIZE2M (512 * PAGE)

int main(int argc, char **argv)
{
    size_t mib = argc > 1 ? (size_t)atoi(argv[1]) : 64, more = argc > 2 ? (size_t)atoi(argv[2]) : 40;
    size_t pages = mib << 8;
    unsigned char *all = map_pages(pages + 512);
    unsigned char *at = (unsigned char *)(((uintptr_t)all + SIZE2M - 1) & ~(SIZE2M - 1));
    CHECK(madvise(at, pages * PAGE, MADV_HUGEPAGE) == 0);
    for (size_t i = 0; i < pages; i++)
        at[i * PAGE] = (unsigned char)(i % 251 + 1);
    for (size_t i = 0; i < pages; i += 2)
        if (i % 4 == 0)
            CHECK(munmap(at + i * PAGE, PAGE) == 0);
        else
            CHECK(madvise(at + i * PAGE, PAGE, MADV_DONTNEED) == 0);
    /* What was given back is as much as is taken here, and more than is free. */
    unsigned char *other = map_pages(more << 8);
    CHECK(madvise(other, more << 20, MADV_NOHUGEPAGE) == 0);
    for (size_t i = 0; i < more << 8; i++)
        other[i * PAGE] = (unsigned char)i;
    for (size_t i = 1; i < pages; i += 2)
        CHECK(at[i * PAGE] == i % 251 + 1, "page %zu", i);
    for (size_t i = 2; i < pages; i += 4)
        CHECK(at[i * PAGE] == 0, "page %zu", i);
    for (size_t i = 0; i < more << 8; i++)
        CHECK(other[i * PAGE] == (unsigned char)i, "page %zu", i);
    printf("holes: %zu MiB with holes, %zu MiB more\n", mib, more);
    return 0;
}
