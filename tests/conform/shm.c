/* Shared memory of System V. A segment stays when a process ends, so each is removed as soon as it is attached:
 * it goes with its last attachment, however the check ends. */
#include "conform.h"
#include <sys/ipc.h>
#include <sys/shm.h>
#define GROUP "shm"

static int segment(size_t bytes)
{
    int id = shmget(IPC_PRIVATE, bytes, IPC_CREAT | 0600);
    if (id < 0 && errno == ENOSYS)
        absent("shared memory of System V");
    OK(id);
    return id;
}
/* Where it is; removed then. */
static char *attached(int id, void *at, int flags)
{
    char *found = shmat(id, at, flags);
    int error = errno;
    shmctl(id, IPC_RMID, NULL);
    errno = error;
    OK(found);
    return found;
}
/* How often it is attached; -1 if it is gone. */
static long attachments(int id)
{
    struct shmid_ds ds;
    return shmctl(id, IPC_STAT, &ds) ? -1 : (long)ds.shm_nattch;
}
/* `n` pages where nothing is. */
static char *hole(long n)
{
    char *at = island(n);
    OK(munmap(at, n * P));
    return at;
}

CHECK("a segment has as many bytes as were asked for", "shm_segsz; its mapping has whole pages, of zeros")
{
    struct shmid_ds ds;
    int id = segment(P + 1);
    char *at = attached(id, hole(3), 0);
    OK(shmctl(id, IPC_STAT, &ds));
    EQ(ds.shm_segsz, P + 1);
    EQ(ds.shm_cpid, getpid());
    EQ(at[0] | at[2 * P - 1], 0);
    EQ(reading(at + 2 * P), MAPERR);
}
CHECK("a segment of no bytes is refused", "EINVAL; so is one of more than there can be")
{
    attached(segment(1), NULL, 0);
    ERR(shmget(IPC_PRIVATE, 0, IPC_CREAT | 0600), EINVAL);
    ERR(shmget(IPC_PRIVATE, -1L, IPC_CREAT | 0600), EINVAL);
}
CHECK("a key finds its segment", "ENOENT before; EEXIST with IPC_EXCL, EINVAL if it is smaller; none after IPC_RMID")
{
    key_t key = 0x63000000 | getpid();
    attached(segment(1), NULL, 0);
    ERR(shmget(key, 1, 0600), ENOENT);
    int id = shmget(key, P, IPC_CREAT | IPC_EXCL | 0600);
    int same = shmget(key, 1, 0), again = shmget(key, 1, IPC_CREAT | IPC_EXCL | 0600), why = errno;
    int larger = shmget(key, P + 1, 0), too = errno;
    attached(id, NULL, 0);
    EQ(same, id);
    EQ(again, -1);
    EQ(why, EEXIST);
    EQ(larger, -1);
    EQ(too, EINVAL);
    ERR(shmget(key, 1, 0), ENOENT);
}
CHECK("two attachments are one memory", "until shmdt, each is counted")
{
    int id = segment(P);
    char *one = shmat(id, NULL, 0), *other = attached(id, NULL, 0);
    OK(one);
    one[7] = 5;
    EQ(other[7], 5);
    EQ(attachments(id), 2);
    OK(shmdt(one));
    EQ(attachments(id), 1);
    EQ(reading(one), MAPERR);
    EQ(other[7], 5);
}
CHECK("a removed segment is there while it is attached", "SHM_DEST; then its number is nobody's: EINVAL")
{
    struct shmid_ds ds;
    int id = segment(P);
    char *at = attached(id, NULL, 0);
    at[0] = 5;
    OK(shmctl(id, IPC_STAT, &ds));
    EQ(ds.shm_perm.mode & 01777, 01600);
    char *again = shmat(id, NULL, 0);
    OK(again);
    EQ(again[0], 5);
    OK(shmdt(at));
    OK(shmdt(again));
    ERR(shmctl(id, IPC_STAT, &ds), EINVAL);
    // Whoever comes into its place has another number.
    attached(segment(P), NULL, 0);
    ERR(shmat(id, NULL, 0), EINVAL);
    ERR(shmctl(id, IPC_RMID, NULL), EINVAL);
}
CHECK("SHM_RDONLY is read only", "for stores, in maps, and for mprotect: EACCES")
{
    char *at = attached(segment(P), NULL, SHM_RDONLY);
    EQ(reading(at), 0);
    EQ(writing(at), ACCERR);
    IS(!strcmp(permissions(at), "r--s"));
    ERR(mprotect(at, P, RW), EACCES);
}
CHECK("an address is where a segment goes", "EINVAL if something is there, or if it begins no page")
{
    int id = segment(2 * P);
    char *there = filled(3), *at = hole(2), *found = shmat(id, at, 0);
    attached(id, NULL, 0);
    IS(found == at);
    ERR(shmat(id, there + P, 0), EINVAL);
    ERR(shmat(id, hole(3) + 5, 0), EINVAL);
    EQ(there[P], 2);
}
CHECK("SHM_RND rounds an address down", "to SHMLBA, which is a page here")
{
    char *at = hole(3);
    IS(attached(segment(2 * P), at + P + 5, SHM_RND) == at + P);
}
CHECK("SHM_REMAP takes the place of what is there", "as MAP_FIXED does; EINVAL without an address")
{
    int id = segment(P);
    char *there = filled(3), *at = attached(id, there + P, SHM_REMAP);
    IS(at == there + P);
    EQ(at[0], 0);
    EQ(there[0], 1);
    EQ(there[2 * P], 3);
    ERR(shmat(id, NULL, SHM_REMAP), EINVAL);
}
CHECK("a child has its parent's attachments", "they are counted, its bytes are theirs, and its end detaches")
{
    int id = segment(P);
    char *at = attached(id, NULL, 0);
    CHILD
    {
        EQ(attachments(id), 2);
        at[0] = 5;
    }
    EQ(at[0], 5);
    EQ(attachments(id), 1);
}
CHECK("an end detaches for the last time", "a removed segment goes with the process")
{
    int id = segment(P);
    CHILD
    {
        attached(id, NULL, 0)[0] = 5;
        EQ(attachments(id), 1);
    }
    EQ(attachments(id), -1);
}
CHECK("maps names a segment by its key", "/SYSV, eight digits; its inode is its number")
{
    char line[512], wanted[64], *rest;
    unsigned long start, inode;
    key_t key = 0x6d000000 | getpid();
    attached(segment(1), NULL, 0);
    int id = shmget(key, P, IPC_CREAT | 0600), found = 0;
    OK(id);
    char *at = attached(id, NULL, 0);
    snprintf(wanted, sizeof wanted, "/SYSV%08x (deleted)\n", key);
    FILE *file = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%lx-%*x rw-s 00000000 %*x:%*x %lu", &start, &inode) == 2 && start == (unsigned long)at) {
            rest = strchr(line, '/');
            found = rest && !strcmp(rest, wanted) && inode == (unsigned long)id;
        }
    EQ(found, 1);
}
CHECK("shmdt wants the start of an attachment", "EINVAL inside, twice, and for other memory")
{
    char *at = attached(segment(2 * P), NULL, 0);
    ERR(shmdt(at + P), EINVAL);
    ERR(shmdt(filled(1)), EINVAL);
    OK(shmdt(at));
    ERR(shmdt(at), EINVAL);
}
CHECK("shmdt takes all that is left of an attachment", "munmap has left two parts, and each is counted")
{
    int id = segment(3 * P);
    char *other = shmat(id, NULL, 0), *at = attached(id, hole(3), 0);
    OK(other);
    OK(munmap(at + P, P));
    EQ(attachments(id), 3);
    OK(shmdt(at));
    EQ(attachments(id), 1);
    EQ(mappings(at, 3), 0);
}
