/* A process with as many mappings as are allowed, and what /proc tells about them: all of it, and anew after a rewind. */
#include "common.h"
#include <fcntl.h>

enum { MAPPINGS = 65000 };

static char text[1 << 16];

/* Reads a file of /proc/self to its end in pieces of `piece` bytes; counts the lines that start with a digit and a
 * dash after the address, and the bytes. */
static long lines_of(int fd, size_t piece, long *bytes)
{
    long lines = 0;
    ssize_t n;
    char last = '\n';
    *bytes = 0;
    while ((n = read(fd, text, piece)) > 0) {
        *bytes += n;
        for (ssize_t i = 0; i < n; i++) {
            lines += text[i] == '\n';
            last = text[i];
        }
    }
    CHECK(n == 0);
    CHECK(last == '\n', "the text ends within a line");
    return lines;
}

static long field(const char *name)
{
    long value = -1;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    CHECK(file != NULL);
    char line[512];
    while (fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0)
            value = atol(line + strlen(name));
    fclose(file);
    return value;
}

int main(void)
{
    long bytes = 0, again = 0;
    int maps = open("/proc/self/maps", O_RDONLY), smaps = open("/proc/self/smaps", O_RDONLY);
    CHECK(maps >= 0 && smaps >= 0);
    long before = lines_of(maps, sizeof text, &bytes);
    CHECK(before > 3);

    /* More than there may be memory for. */
    unsigned char *at = mmap(NULL, MAPPINGS * PAGE, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED);
    for (size_t page = 0; page < MAPPINGS; page += 2)
        CHECK(mprotect(at + page * PAGE, PAGE, PROT_READ) == 0, "page %zu", page);
    for (size_t page = 1; page < 1000; page += 2)
        at[page * PAGE] = 1;

    /* The same descriptor: what it tells is made anew. */
    CHECK(lseek(maps, 0, SEEK_SET) == 0);
    long after = lines_of(maps, sizeof text, &bytes);
    CHECK(after >= before + MAPPINGS - 2 && after <= before + MAPPINGS + 2, "%ld and %ld lines", before, after);
    CHECK(lseek(maps, 0, SEEK_SET) == 0);
    CHECK(lines_of(maps, 77, &again) == after && again == bytes, "in odd pieces: %ld bytes, not %ld", again, bytes);
    /* From the middle, back, and beyond the end. */
    char here[100], there[100];
    CHECK(pread(maps, here, 100, bytes / 2) == 100 && pread(maps, there, 100, 10) == 100);
    CHECK(pread(maps, there, 100, bytes / 2) == 100 && memcmp(here, there, 100) == 0);
    CHECK(pread(maps, here, 100, bytes + 5) == 0);

    long paragraphs = 0;
    ssize_t n;
    while ((n = read(smaps, text, sizeof text)) > 0)
        for (ssize_t i = 0; i + 8 < n; i++)
            paragraphs += memcmp(text + i, "\nVmFlags", 8) == 0;
    CHECK(n == 0);
    /* One that falls between two reads is missed here. */
    CHECK(paragraphs > MAPPINGS * 9 / 10, "%ld paragraphs", paragraphs);
    long dirty = field("Private_Dirty:");
    CHECK(dirty >= 500 * 4, "%ld kB", dirty);

    CHECK(munmap(at, MAPPINGS * PAGE) == 0);
    CHECK(lseek(maps, 0, SEEK_SET) == 0);
    CHECK(labs(lines_of(maps, sizeof text, &bytes) - before) <= 2);
    printf("manymaps: %d mappings told\n", MAPPINGS);
    return 0;
}
