/* Memory policies and pages that move between nodes, as on a machine of one node. */
#include "conform.h"
#define GROUP "nodes"

enum { DEFAULT, PREFERRED, BIND, AT_ADDRESS = 2, MOVE = 2 };

/* What a call comes to; absent where the kernel is built without nodes. */
static long asked(long result)
{
    if (result == -1 && errno == ENOSYS)
        absent("nodes (CONFIG_NUMA)");
    return result;
}
static long set_policy(int mode, unsigned long nodes)
{
    return asked(syscall(SYS_set_mempolicy, mode, nodes ? &nodes : NULL, nodes ? 64 : 0));
}
static long bind_to(void *at, long length, int mode, unsigned long nodes)
{
    return asked(syscall(SYS_mbind, at, length, mode, nodes ? &nodes : NULL, nodes ? 64 : 0, 0));
}
/* The mode and the nodes that hold, of an address or of the task: mode | nodes << 8. */
static long policy(void *at)
{
    int mode = 77;
    unsigned long nodes = 0;
    OK(asked(syscall(SYS_get_mempolicy, &mode, &nodes, 64, at, at ? AT_ADDRESS : 0)));
    return mode | nodes << 8;
}

CHECK("a task has no policy at first", "get_mempolicy: MPOL_DEFAULT, no nodes")
{
    EQ(policy(NULL), DEFAULT);
    EQ(policy(filled(1)), DEFAULT);
}
CHECK("set_mempolicy is told", "the mode and the nodes")
{
    OK(set_policy(BIND, 1));
    EQ(policy(NULL), BIND | 1 << 8);
    OK(set_policy(DEFAULT, 0));
    EQ(policy(NULL), DEFAULT);
}
CHECK("set_mempolicy is a child's, too", "fork copies it")
{
    OK(set_policy(PREFERRED, 1));
    CHILD EQ(policy(NULL), PREFERRED | 1 << 8);
}
CHECK("set_mempolicy of an unknown mode is refused", "EINVAL")
{
    ERR(set_policy(100, 1), EINVAL);
}
CHECK("mbind is told of its address", "MPOL_F_ADDR")
{
    char *at = filled(1);
    OK(bind_to(at, P, BIND, 1));
    EQ(policy(at), BIND | 1 << 8);
    EQ(policy(NULL), DEFAULT);
}
CHECK("mbind of a part splits", "a mapping has one policy; without it, it is one again")
{
    char *at = filled(3);
    OK(bind_to(at + P, P, BIND, 1));
    EQ(mappings(at, 3), 3);
    EQ(policy(at), DEFAULT);
    OK(bind_to(at + P, P, DEFAULT, 0));
    EQ(mappings(at, 3), 1);
}
CHECK("mbind is a child's, too", "the mappings are")
{
    char *at = filled(1);
    OK(bind_to(at, P, BIND, 1));
    CHILD EQ(policy(at), BIND | 1 << 8);
}
CHECK("mbind of a hole is refused", "EFAULT")
{
    char *at = filled(3);
    OK(munmap(at + P, P));
    ERR(bind_to(at, 3 * P, BIND, 1), EFAULT);
}
CHECK("mbind at an odd address is refused", "EINVAL")
{
    ERR(bind_to(filled(2) + 1, P, BIND, 1), EINVAL);
}
CHECK("mbind of an unknown mode is refused", "EINVAL")
{
    ERR(bind_to(filled(1), P, 100, 1), EINVAL);
}
CHECK("mbind to a node that is not there is refused", "EINVAL")
{
    ERR(bind_to(filled(1), P, BIND, 1UL << 62), EINVAL);
}
CHECK("move_pages says where pages are", "a node, ENOENT where nothing is, EFAULT of a hole")
{
    char *at = filled(1), *empty = island(1);
    void *pages[] = {at, empty, empty + P};
    int status[] = {99, 99, 99};
    EQ(asked(syscall(SYS_move_pages, 0, 3, pages, NULL, status, 0)), 0);
    EQ(status[0], 0);
    EQ(status[1], -ENOENT);
    EQ(status[2], -EFAULT);
}
CHECK("move_pages to where they are", "the node, and the bytes stay")
{
    void *at = filled(1);
    int node = 0, status = 99;
    EQ(asked(syscall(SYS_move_pages, 0, 1, &at, &node, &status, MOVE)), 0);
    EQ(status, 0);
    EQ(*(char *)at, 1);
}
CHECK("move_pages with unknown flags is refused", "EINVAL")
{
    void *at = filled(1);
    int status;
    ERR(asked(syscall(SYS_move_pages, 0, 1, &at, NULL, &status, 64)), EINVAL);
}
CHECK("move_pages of nobody is refused", "ESRCH")
{
    void *at = filled(1);
    int status;
    ERR(asked(syscall(SYS_move_pages, 0x3ffffff, 1, &at, NULL, &status, 0)), ESRCH);
}
CHECK("migrate_pages leaves what is there already", "0 pages could not be moved")
{
    unsigned long one = 1;
    char *at = filled(2);
    EQ(asked(syscall(SYS_migrate_pages, 0, 64, &one, &one)), 0);
    EQ(at[P], 2);
}
CHECK("migrate_pages of nobody is refused", "ESRCH")
{
    unsigned long one = 1;
    ERR(asked(syscall(SYS_migrate_pages, 0x3ffffff, 64, &one, &one)), ESRCH);
}
