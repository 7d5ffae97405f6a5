/* A fork tree ten deep: every process writes a page of its level, and its ancestors' pages stay as they
 * were written, whatever parents, siblings and children write meanwhile. The upper levels run at once. */
#include "common.h"

#define DEPTH 10
#define PARALLEL_LEVELS 4

static unsigned char *pages;
static uint32_t path[DEPTH + 1];

static uint32_t stamp(int level, uint32_t id, size_t word)
{
    return id * 2654435761u + (uint32_t)level * 977u + (uint32_t)word;
}

static void write_level(int level, uint32_t id)
{
    uint32_t *words = (uint32_t *)(pages + (size_t)level * PAGE);
    path[level] = id;
    for (size_t w = 0; w < PAGE / 4; w++)
        words[w] = stamp(level, id, w);
}

static void check_levels(int deepest)
{
    for (int level = 0; level <= deepest; level++) {
        uint32_t *words = (uint32_t *)(pages + (size_t)level * PAGE);
        for (size_t w = 0; w < PAGE / 4; w++)
            CHECK(words[w] == stamp(level, path[level], w), "level %d word %zu of a process at level %d", level, w, deepest);
    }
}

static void grow(int level, uint32_t id)
{
    write_level(level, id);
    check_levels(level);
    if (level == DEPTH)
        return;
    pid_t children[2];
    for (int side = 0; side < 2; side++) {
        children[side] = fork();
        CHECK(children[side] >= 0, "fork at level %d", level);
        if (children[side] == 0) {
            grow(level + 1, id * 2 + (uint32_t)side);
            _exit(0);
        }
        /* Write while the child reads: it must not see this. */
        write_level(level, id ^ (0x80000000u >> side));
        if (level >= PARALLEL_LEVELS)
            wait_ok(children[side]);
    }
    if (level < PARALLEL_LEVELS)
        for (int side = 0; side < 2; side++)
            wait_ok(children[side]);
    check_levels(level);
}

int main(void)
{
    pages = map_pages(DEPTH + 1);
    grow(0, 1);
    printf("forktree: %d levels, %d processes\n", DEPTH, (1 << (DEPTH + 1)) - 1);
    return 0;
}
