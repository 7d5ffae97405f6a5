/* KSM's files as the tests use them. */
#ifndef KSM_H
#define KSM_H

#include "common.h"
#include <fcntl.h>
#include <time.h>

#define DIR_ "/sys/kernel/mm/ksm/"

static inline int try_read(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return -1;
    size_t len = 0;
    ssize_t n;
    while ((n = read(fd, text + len, size - 1 - len)) > 0)
        len += n;
    CHECK(n == 0, "%s", path);
    text[len] = 0;
    close(fd);
    return (int)len;
}

static inline int try_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, strlen(text));
    int error = n < 0 ? -errno : 0;
    close(fd);
    return error;
}

static inline long number(const char *name)
{
    char path[128], text[64];
    snprintf(path, sizeof path, DIR_ "%s", name);
    CHECK(try_read(path, text, sizeof text) > 0, "%s", path);
    return atol(text);
}

static inline int set(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, DIR_ "%s", name);
    return try_write(path, text);
}

static inline void must_set(const char *name, const char *text)
{
    CHECK(set(name, text) == 0, "%s = %s: %d", name, text, set(name, text));
}

/* The sum of the numbers behind a name in a file of a process; without a name, the number that the file is. */
static inline long of_process(pid_t pid, const char *file, const char *name)
{
    static char text[1 << 20];
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    CHECK(try_read(path, text, sizeof text) > 0, "%s", path);
    if (!*name)
        return atol(text);
    long sum = -1;
    for (char *at = text; (at = strstr(at, name)); at += strlen(name)) {
        if (at == text || at[-1] == '\n')
            sum = (sum < 0 ? 0 : sum) + atol(at + strlen(name));
    }
    return sum;
}

/* Waits until the scanner has swept all memory so often from now on. */
static inline void sweeps(int times)
{
    long from = number("full_scans");
    for (int waited = 0; number("full_scans") < from + times; waited++) {
        CHECK(waited < 60000, "%ld sweeps", number("full_scans") - from);
        nanosleep(&(struct timespec){0, 2000000}, NULL);
    }
}

/* Does the work in a child, and puts the settings back that it may change, also when a check fails. 0 if it ended well. */
static inline int with_settings_kept(int (*work)(int, char **), int argc, char **argv)
{
    static const char *const kept[] = {"use_zero_pages", "sleep_millisecs", "pages_to_scan", "run"};
    long old[4];
    for (int i = 0; i < 4; i++)
        old[i] = number(kept[i]);
    fflush(stdout);
    pid_t worker = fork();
    CHECK(worker >= 0);
    if (worker == 0)
        exit(work(argc, argv));
    int status;
    CHECK(waitpid(worker, &status, 0) == worker);
    for (int i = 0; i < 4; i++) {
        char text[32];
        snprintf(text, sizeof text, "%ld\n", old[i]);
        must_set(kept[i], text);
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

#endif
