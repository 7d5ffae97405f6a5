/* Touches so many MiB, page by page, and says how far it came every 16. */
#include "common.h"

int main(int argc, char **argv)
{
    size_t mib = argc > 1 ? (size_t)atoi(argv[1]) : 200;
    for (size_t n = 0; n < mib; n++) {
        unsigned char *at = map_pages(256);
        for (size_t page = 0; page < 256; page++)
            at[page * PAGE] = 1;
        if (n % 16 == 15) {
            printf("touch: %zu MiB\n", n + 1);
            fflush(stdout);
        }
    }
    printf("touch: done\n");
    return 0;
}
