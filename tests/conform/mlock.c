/* mlock, mlock2, munlock, mlockall, munlockall. */
#include "conform.h"
#define GROUP "mlock"

CHECK("fills", "every page is resident when it returns")
{
    char *at = island(8);
    OK(mlock(at, 8 * P));
    EQ(resident(at, 8), 8);
}
CHECK("is an attribute", "VmFlags has lo, and Locked counts")
{
    char *at = island(4);
    OK(mlock(at, 4 * P));
    EQ(vm_flag(at, "lo"), 1);
    EQ(smaps(at, "Locked"), 16);
}
CHECK("counts", "VmLck")
{
    OK(mlock(island(4), 4 * P));
    EQ(status_kb("VmLck"), 16);
}
CHECK("twice counts once", "locks do not nest")
{
    char *at = island(4);
    OK(mlock(at, 4 * P));
    OK(mlock(at, 4 * P));
    EQ(status_kb("VmLck"), 16);
    OK(munlock(at, 4 * P));
    EQ(status_kb("VmLck"), 0);
}
CHECK("of a part splits", "a mapping is locked or not")
{
    char *at = island(3);
    OK(mlock(at + P, P));
    EQ(mappings(at, 3), 3);
    EQ(status_kb("VmLck"), 4);
}
CHECK("munlock of a part splits", "what is left stays locked")
{
    char *at = island(3);
    OK(mlock(at, 3 * P));
    OK(munlock(at + P, P));
    EQ(mappings(at, 3), 3);
    EQ(status_kb("VmLck"), 8);
}
CHECK("munlock merges", "one mapping, as before")
{
    char *at = island(3);
    OK(mlock(at + P, P));
    OK(munlock(at, 3 * P));
    EQ(mappings(at, 3), 1);
}
CHECK("rounds to pages", "a byte locks its page, and an odd address is no error")
{
    char *at = island(3);
    OK(mlock(at + P + 5, 1));
    EQ(status_kb("VmLck"), 4);
}
CHECK("two bytes in two pages lock two", "start down, end up")
{
    char *at = island(3);
    OK(mlock(at + P - 1, 2));
    EQ(status_kb("VmLck"), 8);
}
CHECK("a length of 0", "no error")
{
    OK(mlock(island(1), 0));
    EQ(status_kb("VmLck"), 0);
}
CHECK("a hole is refused", "ENOMEM")
{
    char *at = island(3);
    OK(munmap(at + P, P));
    ERR(mlock(at, 3 * P), ENOMEM);
}
CHECK("before a hole it is locked", "mapping by mapping")
{
    char *at = island(3);
    OK(munmap(at + P, P));
    ERR(mlock(at, 3 * P), ENOMEM);
    EQ(vm_flag(at, "lo"), 1);
}
CHECK("munlock over a hole is refused", "ENOMEM")
{
    char *at = island(3);
    OK(munmap(at + P, P));
    ERR(munlock(at, 3 * P), ENOMEM);
}
CHECK("a range that wraps around is refused", "EINVAL")
{
    ERR(mlock(island(1), -P), EINVAL);
}
CHECK("PROT_NONE is locked and not filled", "ENOMEM: the pages cannot be had; the mapping is locked")
{
    char *at = island_of(2, PROT_NONE, ANON);
    ERR(mlock(at, 2 * P), ENOMEM);
    EQ(vm_flag(at, "lo"), 1);
}
CHECK("a read-only mapping is filled", "with zero pages")
{
    char *at = island_of(2, PROT_READ, ANON);
    OK(mlock(at, 2 * P));
    EQ(resident(at, 2), 2);
}
CHECK("of a writable mapping allocates", "the first store after it does not fault memory in")
{
    char *at = island(64);
    long before = status_kb("RssAnon");
    OK(mlock(at, 64 * P));
    IS(status_kb("RssAnon") - before >= 240);
}
CHECK("beyond the limit is refused", "ENOMEM: RLIMIT_MEMLOCK")
{
    char *at = island(8);
    drop_capabilities();
    limit(RLIMIT_MEMLOCK, 4 * P);
    ERR(mlock(at, 8 * P), ENOMEM);
    OK(mlock(at, 4 * P));
}
CHECK("with a limit of 0 is refused", "EPERM: not allowed at all")
{
    char *at = island(1);
    drop_capabilities();
    limit(RLIMIT_MEMLOCK, 0);
    ERR(mlock(at, P), EPERM);
}
CHECK("what is locked already does not count twice", "the limit is about pages, not calls")
{
    char *at = island(4);
    drop_capabilities();
    limit(RLIMIT_MEMLOCK, 4 * P);
    OK(mlock(at, 4 * P));
    OK(mlock(at, 4 * P));
}
CHECK("with the capability there is no limit", "CAP_IPC_LOCK")
{
    limit(RLIMIT_MEMLOCK, P);
    OK(mlock(island(16), 16 * P));
}
CHECK("a child has no locks", "fork does not inherit them")
{
    char *at = island(4);
    OK(mlock(at, 4 * P));
    CHILD {
        EQ(vm_flag(at, "lo"), 0);
        EQ(status_kb("VmLck"), 0);
    }
}
CHECK("on fault fills nothing", "mlock2(MLOCK_ONFAULT)")
{
    char *at = island(4);
    SINGLY(at, 4);
    OK(syscall(SYS_mlock2, at, 4 * P, MLOCK_ONFAULT));
    EQ(resident(at, 4), 0);
    EQ(status_kb("VmLck"), 16);
    at[P] = 1;
    EQ(resident(at, 4), 1);
}
CHECK("on fault is no second lock", "lo is set, and lf beside it since smaps has it")
{
    char *at = island(4);
    OK(syscall(SYS_mlock2, at, 4 * P, MLOCK_ONFAULT));
    EQ(vm_flag(at, "lo"), 1);
}
CHECK("after on fault fills", "the plain lock is the stronger one")
{
    char *at = island(4);
    OK(syscall(SYS_mlock2, at, 4 * P, MLOCK_ONFAULT));
    OK(mlock(at, 4 * P));
    EQ(resident(at, 4), 4);
}
CHECK("mlock2 with unknown flags is refused", "EINVAL")
{
    ERR(syscall(SYS_mlock2, island(1), P, 2), EINVAL);
}
CHECK("mlock2 without flags is mlock", "fills")
{
    char *at = island(2);
    OK(syscall(SYS_mlock2, at, 2 * P, 0));
    EQ(resident(at, 2), 2);
}
CHECK("mlockall with nothing is refused", "EINVAL")
{
    ERR(mlockall(0), EINVAL);
}
CHECK("mlockall with on fault alone is refused", "EINVAL: it says how, not what")
{
    ERR(mlockall(4), EINVAL);
}
CHECK("mlockall with unknown flags is refused", "EINVAL")
{
    ERR(mlockall(8), EINVAL);
}
CHECK("mlockall locks what there is", "MCL_CURRENT")
{
    char *at = island(4);
    OK(mlockall(MCL_CURRENT));
    EQ(resident(at, 4), 4);
    EQ(vm_flag(at, "lo"), 1);
}
CHECK("mlockall of the present leaves the future", "a new mapping is not locked")
{
    OK(mlockall(MCL_CURRENT));
    EQ(vm_flag(island(2), "lo"), 0);
}
CHECK("mlockall of the future locks what comes", "MCL_FUTURE: a new mapping is locked and filled")
{
    OK(mlockall(MCL_FUTURE));
    char *at = island(4);
    EQ(vm_flag(at, "lo"), 1);
    EQ(resident(at, 4), 4);
}
CHECK("mlockall of the future leaves the present", "what there is stays as it is")
{
    char *at = island(2);
    OK(mlockall(MCL_FUTURE));
    EQ(vm_flag(at, "lo"), 0);
}
CHECK("mlockall on fault", "MCL_ONFAULT: locked, not filled")
{
    char *at = island(4);
    OK(mlockall(MCL_CURRENT | 4));
    EQ(vm_flag(at, "lo"), 1);
    EQ(resident(at, 4), 0);
}
CHECK("the heap is locked in the future", "brk heeds MCL_FUTURE")
{
    OK(mlockall(MCL_FUTURE));
    char *at = sbrk(0);
    at = (char *)(((long)at + P - 1) & -P);
    OK(brk(at + 4 * P));
    EQ(resident(at, 4), 4);
}
CHECK("munlockall unlocks", "and the future is as before")
{
    char *at = island(4);
    OK(mlockall(MCL_CURRENT | MCL_FUTURE));
    OK(munlockall());
    EQ(status_kb("VmLck"), 0);
    EQ(vm_flag(at, "lo"), 0);
    EQ(vm_flag(island(2), "lo"), 0);
}
CHECK("mlockall beyond the limit is refused", "ENOMEM")
{
    drop_capabilities();
    limit(RLIMIT_MEMLOCK, 4 * P);
    ERR(mlockall(MCL_CURRENT), ENOMEM);
}
CHECK("of shared memory", "fills the object")
{
    char *at = island_of(4, RW, SHARED);
    OK(mlock(at, 4 * P));
    EQ(resident(at, 4), 4);
}
CHECK("munlock keeps the pages", "they may leave now, and have not")
{
    char *at = filled(4);
    OK(mlock(at, 4 * P));
    OK(munlock(at, 4 * P));
    EQ(resident(at, 4), 4);
    EQ(at[3 * P], 4);
}
