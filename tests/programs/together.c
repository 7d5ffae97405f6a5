/* mremap of a range that several mappings cover: they move together if nothing changes its size. Linux 6.17. */
#include "common.h"

#define FROM 0x100000000000UL
#define TO 0x200000000000UL
enum { SPAN = 12 };

static void map_at(unsigned long at, unsigned pages, int prot, unsigned char tag)
{
    CHECK(mmap((void *)at, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (void *)at);
    for (unsigned page = 0; tag != 0 && page < pages; page++)
        *(unsigned char *)(at + page * PAGE) = (unsigned char)(tag + page);
}

/* Pages 0-2 and 3-4 with other protections, 5-6 a hole, 7 shared, 8-11 private; the destination has pages of its own. */
static void build(void)
{
    CHECK(munmap((void *)FROM, 4 * SPAN * PAGE) == 0 && munmap((void *)TO, 4 * SPAN * PAGE) == 0);
    map_at(FROM, 3, PROT_READ | PROT_WRITE, 10);
    map_at(FROM + 3 * PAGE, 2, PROT_READ | PROT_WRITE, 20);
    CHECK(mprotect((void *)(FROM + 3 * PAGE), 2 * PAGE, PROT_READ) == 0);
    int fd = memfd_create("together", 0);
    CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
    void *shared = (void *)(FROM + 7 * PAGE);
    CHECK(mmap(shared, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == shared);
    close(fd);
    *(unsigned char *)shared = 30;
    map_at(FROM + 8 * PAGE, 4, PROT_READ | PROT_WRITE, 40);
    map_at(TO + 5 * PAGE, 3, PROT_READ | PROT_WRITE, 50);
}

/* What each page holds: its first byte, "-" if nothing is there, "." without a page. */
static void show(unsigned long at)
{
    unsigned char present;
    for (unsigned page = 0; page < SPAN; page++)
        if (mincore((void *)(at + page * PAGE), PAGE, &present) != 0)
            printf(" -");
        else if (!(present & 1))
            printf(" .");
        else
            printf(" %d", *(unsigned char *)(at + page * PAGE));
}

static void move(unsigned first, unsigned pages, unsigned new_pages, int flags, unsigned target)
{
    build();
    void *from = (void *)(FROM + first * PAGE), *to = (void *)(TO + target * PAGE);
    void *moved = mremap(from, pages * PAGE, new_pages * PAGE, flags, to);
    printf("%u+%u to %u, %u pages, flags %d: %d, from", first, pages, target, new_pages, flags,
           moved == MAP_FAILED ? errno : moved == to ? 0 : moved == from ? -1 : -2);
    show(FROM);
    printf(", to");
    show(TO);
    printf("\n");
    if (moved != MAP_FAILED && moved != to && moved != from)
        CHECK(munmap(moved, new_pages * PAGE) == 0);
}

int main(void)
{
    enum { MAY = 1, FIXED = 2, KEEP = 4 };
    static const struct {
        unsigned first, pages;
    } ranges[] = {{0, 12}, {0, 5}, {0, 7}, {1, 3}, {1, 7}, {2, 9}, {4, 8}, {5, 7}, {6, 3}, {7, 1}, {7, 5}, {9, 2}, {8, 8}, {0, 20}};
    static const int flags[] = {MAY | FIXED, MAY | FIXED | KEEP, MAY | KEEP, MAY, 0};
    for (unsigned f = 0; f < sizeof flags / sizeof *flags; f++)
        for (unsigned r = 0; r < sizeof ranges / sizeof *ranges; r++)
            for (int more = -1; more <= 1; more++) {
                unsigned pages = ranges[r].pages;
                if (flags[f] == (MAY | KEEP) && more == 0 && ranges[r].first + pages <= 5 && ranges[r].first >= 3)
                    continue;
                move(ranges[r].first, pages, pages + (unsigned)more, flags[f], ranges[r].first % 3);
            }
    return 0;
}
