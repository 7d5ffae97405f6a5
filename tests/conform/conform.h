/* What the checks share. A check is a function with a name and a reason; it runs in a process of its own, and
 * passes if it returns. On Linux all pass: Linux says what is right. */
#ifndef CONFORM_H
#define CONFORM_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define P 4096L
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED (MAP_SHARED | MAP_ANONYMOUS)

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 3
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 8
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

struct check {
    const char *name, *why;
    void (*run)(void);
};

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define CHECK_(id, name_, why_)                                                                      \
    static void JOIN(run_, id)(void);                                                                \
    static const struct check JOIN(check_, id) = {name_, why_, JOIN(run_, id)};                      \
    static const struct check *const JOIN(entry_, id) __attribute__((used, section("checks"))) =     \
        &JOIN(check_, id);                                                                           \
    static void JOIN(run_, id)(void)
/* CHECK("group/what holds", "why Linux does so") { body } */
#define CHECK(name, why) CHECK_(__COUNTER__, GROUP "/" name, why)

void fail(int line, const char *text, ...) __attribute__((noreturn, format(printf, 2, 3)));
void absent(const char *what) __attribute__((noreturn));

/* The expression is this number. */
#define EQ(expression, wanted)                                                                       \
    do {                                                                                             \
        long found_ = (long)(expression), wanted_ = (long)(wanted);                                  \
        if (found_ != wanted_)                                                                       \
            fail(__LINE__, "%s is %#lx, not %s = %#lx", #expression, found_, #wanted, wanted_);      \
    } while (0)
/* It holds. */
#define IS(condition)                                                                                \
    do {                                                                                             \
        if (!(condition))                                                                            \
            fail(__LINE__, "%s does not hold (errno %d)", #condition, errno);                        \
    } while (0)
/* The call succeeds. */
#define OK(call)                                                                                     \
    do {                                                                                             \
        if ((long)(call) == -1)                                                                      \
            fail(__LINE__, "%s fails with errno %d", #call, errno);                                  \
    } while (0)
/* The call fails so. */
#define ERR(call, error)                                                                             \
    do {                                                                                             \
        errno = 0;                                                                                   \
        long result_ = (long)(call);                                                                 \
        if (result_ != -1)                                                                           \
            fail(__LINE__, "%s returns %#lx and does not fail with " #error, #call, result_);        \
        if (errno != (error))                                                                        \
            fail(__LINE__, "%s fails with errno %d, not " #error " (%d)", #call, errno, error);      \
    } while (0)

/* What an access comes to: 0, or one of these. */
enum { MAPERR = SIGSEGV << 8 | 1, ACCERR = SIGSEGV << 8 | 2, PKUERR = SIGSEGV << 8 | 4, BUS = SIGBUS << 8 | 2 };
int reading(const volatile void *at);
int writing(volatile void *at);
int running(void *at);

/* `n` pages with a page on each side where nothing is mapped. */
char *island_of(long n, int protection, int flags);
char *island(long n);
/* The same, written: the first byte of page i is i + 1. */
char *filled(long n);
/* How many of `n` pages mincore calls resident; -1 if it fails. */
long resident(void *at, long n);
/* Keeps large folios out, which a kernel may be set to take: a fault brings one page then. */
#define SINGLY(at, n) (void)madvise((at), (n) * P, MADV_NOHUGEPAGE)
/* How many mappings lie in `n` pages. */
long mappings(void *at, long n);
/* What smaps says of the mapping at `at`: a number of kB, or -1. */
long smaps(void *at, const char *field);
/* Whether its VmFlags have `flag`. */
int vm_flag(void *at, const char *flag);
/* What maps says: "rw-p" and so on, in a static buffer. "" where nothing is mapped. */
const char *permissions(void *at);
/* A number of kB in /proc/self/status. */
long status_kb(const char *field);
/* The entry of /proc/self/pagemap. */
uint64_t pagemap(void *at);
#define PRESENT (1UL << 63)
/* Writes to /proc/self/clear_refs. */
void clear_refs(const char *what);
/* Whether the page was written, or mapped, since "4" was. */
int soft_dirty(void *at);
/* `n` pages that were written before it. Ends the check where no kernel would tell. */
char *soft_clean(long n);
/* Sets a soft limit. */
void limit(int resource, rlim_t soft);
/* Gives up all capabilities: limits hold for root, too. */
void drop_capabilities(void);
/* Runs a child: returns its status as waitpid has it. */
int status_of(void (*child)(void));
pid_t child_start(void);
void child_end(pid_t child);
/* A child that must end with 0. In it, EQ and its like end the check. */
#define CHILD for (pid_t child_ = child_start(); child_ >= 0; child_end(child_), child_ = -1) if (child_ == 0)
/* A file of `pages` pages that is gone when it is closed: page i is full of the letter 'a' + i. */
int file_of(long pages);

#endif
