/* PAGEMAP_SCAN as the tests use it: Linux's structures, which older headers lack. */
#ifndef PAGESCAN_H
#define PAGESCAN_H

#include "common.h"
#include <fcntl.h>
#include <sys/ioctl.h>

struct scan_region { uint64_t start, end, categories; };
struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t inverted, mask, anyof, returned;
};
#define IOC_SCAN _IOWR('f', 16, struct scan_arg)

enum {
    IS_WPALLOWED = 1 << 0, IS_WRITTEN = 1 << 1, IS_FILE = 1 << 2, IS_PRESENT = 1 << 3, IS_SWAPPED = 1 << 4,
    IS_PFNZERO = 1 << 5, IS_HUGE = 1 << 6, IS_SOFT_DIRTY = 1 << 7, IS_GUARD = 1 << 8,
};
enum { SCAN_WP = 1, SCAN_CHECK_WPASYNC = 2 };

#endif
