/* System V shared memory: who finds it, who maps it where, how many have it, and when it goes. */
#include "common.h"
#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#define KEY 0x616e6f6e

static int result(long value)
{
    return value == -1 ? -errno : 0;
}

static int at(int id, const void *addr, int flags)
{
    void *where = shmat(id, addr, flags);
    if (where == (void *)-1)
        return -errno;
    int same = addr == NULL || ((uintptr_t)addr & ~(PAGE - 1)) == (uintptr_t)where;
    return same ? result(shmdt(where)) : 1;
}

static unsigned long attached(int id)
{
    struct shmid_ds ds;
    CHECK(shmctl(id, IPC_STAT, &ds) == 0);
    return ds.shm_nattch;
}

static void finds(void)
{
    printf("none: %d", result(shmget(KEY, 100, 0)));
    printf(", no bytes %d", result(shmget(KEY, 0, IPC_CREAT | 0600)));
    printf(", too many %d", result(shmget(KEY, ~0UL, IPC_CREAT | 0600)));
    int id = shmget(KEY, 10000, IPC_CREAT | IPC_EXCL | 0640);
    CHECK(id >= 0);
    printf(", again %d", shmget(KEY, 10000, IPC_CREAT) == id);
    printf(", exclusive %d", result(shmget(KEY, 100, IPC_CREAT | IPC_EXCL)));
    printf(", smaller %d", shmget(KEY, 1, 0) == id);
    printf(", nothing %d", shmget(KEY, 0, 0) == id);
    printf(", larger %d\n", result(shmget(KEY, 10001, 0)));
    struct shmid_ds ds;
    CHECK(shmctl(id, IPC_STAT, &ds) == 0);
    printf("stat: key %x mode %o bytes %zu nattch %ld", ds.shm_perm.__key, ds.shm_perm.mode, ds.shm_segsz, (long)ds.shm_nattch);
    printf(" mine %d %d, attached %d, changed %d\n", ds.shm_cpid == getpid(), ds.shm_lpid, ds.shm_atime != 0, ds.shm_ctime != 0);
    ds.shm_perm.mode = 0604;
    printf("set %d", result(shmctl(id, IPC_SET, &ds)));
    ds.shm_perm.uid = (uid_t)-1;
    printf(", nobody %d", result(shmctl(id, IPC_SET, &ds)));
    CHECK(shmctl(id, IPC_STAT, &ds) == 0);
    printf(" mode %o", ds.shm_perm.mode);
    printf(", lock %d", result(shmctl(id, SHM_LOCK, NULL)));
    CHECK(shmctl(id, IPC_STAT, &ds) == 0);
    printf(" mode %o, unlock %d", ds.shm_perm.mode, result(shmctl(id, SHM_UNLOCK, NULL)));
    printf(", bad address %d", result(shmctl(id, IPC_STAT, (void *)8)));
    printf(", command %d", result(shmctl(id, 99, &ds)));
    printf(", removed %d", result(shmctl(id, IPC_RMID, NULL)));
    printf(", gone %d", result(shmctl(id, IPC_STAT, &ds)));
    printf(" %d", result(shmget(KEY, 1, 0)));
    printf(", negative %d", result(shmctl(-1, IPC_STAT, &ds)));
    printf(" %d\n", at(-1, NULL, 0));
}

static void places(void)
{
    int id = shmget(IPC_PRIVATE, 3 * PAGE - 1, 0600);
    CHECK(id >= 0);
    char *room = mmap(NULL, 16 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(room != MAP_FAILED && munmap(room + 4 * PAGE, 8 * PAGE) == 0);
    char *hole = room + 4 * PAGE;
    printf("at: anywhere %d", at(id, NULL, 0));
    printf(", hole %d", at(id, hole, 0));
    printf(", inside %d", at(id, hole + 5, 0));
    printf(", rounded %d", at(id, hole + 5, SHM_RND));
    printf(", over %d", at(id, room + 2 * PAGE, 0));
    printf(", over and in place %d", at(id, room + 2 * PAGE, SHM_REMAP));
    printf(", in place of anything %d", at(id, NULL, SHM_REMAP));
    printf(", rounded to nothing %d", at(id, (void *)5, SHM_RND | SHM_REMAP));
    printf(" %d", at(id, (void *)5, SHM_RND) > -2);
    printf(", high %d", at(id, (void *)-4096UL, 0));
    printf(", exec %d", at(id, NULL, SHM_EXEC));
    printf(", read %d\n", at(id, NULL, SHM_RDONLY));
    char *rw = shmat(id, NULL, 0), *r = shmat(id, NULL, SHM_RDONLY);
    CHECK(rw != (void *)-1 && r != (void *)-1);
    memcpy(rw + 8000, "shared", 7);
    printf("read %s, n %lu", r + 8000, attached(id));
    printf(", writable %d", result(mprotect(r, PAGE, PROT_READ | PROT_WRITE)));
    CHECK(mprotect(rw + PAGE, PAGE, PROT_READ) == 0);
    printf(", split %lu", attached(id));
    CHECK(munmap(rw + PAGE, PAGE) == 0);
    printf(", a hole %lu", attached(id));
    printf(", not the start %d", result(shmdt(rw + 2 * PAGE)));
    printf(", inside %d", result(shmdt(rw + 5)));
    printf(", detached %d", result(shmdt(rw)));
    printf(", left %lu", attached(id));
    printf(", again %d", result(shmdt(rw)));
    char *place = (char *)map_pages(3);
    char *moved = mremap(r, 3 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    CHECK(moved == place);
    printf(", moved %s %lu", moved + 8000, attached(id));
    printf(" %d", result(shmdt(r)));
    printf(" %d", result(shmdt(moved)));
    printf(", other memory %d", result(shmdt(room)));
    printf(", nobody %lu\n", attached(id));
    CHECK(shmctl(id, IPC_RMID, NULL) == 0);
}

static void lives(void)
{
    int id = shmget(KEY, 4 * PAGE, IPC_CREAT | 0600), pipe_fds[2], back[2];
    char *mine = shmat(id, NULL, 0), byte;
    CHECK(id >= 0 && mine != (void *)-1 && pipe(pipe_fds) == 0 && pipe(back) == 0);
    mine[0] = 1;
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        mine[1] = 2;
        CHECK(write(back[1], "x", 1) == 1 && read(pipe_fds[0], &byte, 1) == 1);
        mine[2] = (char)attached(id);
        _exit(0);
    }
    CHECK(read(back[0], &byte, 1) == 1);
    printf("inherited: n %lu", attached(id));
    CHECK(shmctl(id, IPC_RMID, NULL) == 0);
    struct shmid_ds ds;
    CHECK(shmctl(id, IPC_STAT, &ds) == 0);
    printf(", removed mode %o key %x, by key %d", ds.shm_perm.mode, ds.shm_perm.__key, result(shmget(KEY, 1, 0)));
    printf(", again %d", result(shmctl(id, IPC_RMID, NULL)));
    int other = shmget(KEY, PAGE, IPC_CREAT | IPC_EXCL | 0600);
    char *second = shmat(id, NULL, 0);
    printf(", key is free %d, mapped again %d", other >= 0, second == (void *)-1 ? -errno : 0);
    CHECK(shmctl(other, IPC_RMID, NULL) == 0 && shmdt(second) == 0);
    CHECK(write(pipe_fds[1], "x", 1) == 1);
    wait_ok(child);
    printf(", after its end %lu, bytes %d %d %d", attached(id), mine[0], mine[1], mine[2]);
    CHECK(munmap(mine, 4 * PAGE) == 0);
    printf(", gone %d\n", result(shmctl(id, IPC_STAT, &ds)));
    /* By an end, by a new program, by something in its place, by moving over it. */
    for (int way = 0; way < 4; way++) {
        id = shmget(IPC_PRIVATE, PAGE, 0600);
        fflush(stdout);
        child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            char *it = shmat(id, NULL, 0), *page = (char *)map_pages(1);
            CHECK(it != (void *)-1 && shmctl(id, IPC_RMID, NULL) == 0 && shmctl(id, IPC_STAT, &ds) == 0);
            it[0] = 1;
            if (way == 1)
                execl("/proc/self/exe", "sysvshm", "nothing", NULL);
            if (way == 2)
                CHECK(mmap(it, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == it);
            if (way == 3)
                CHECK(mremap(page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, it) == it);
            if (way >= 2)
                CHECK(shmctl(id, IPC_STAT, &ds) == -1);
            _exit(0);
        }
        wait_ok(child);
        printf("way %d: %d\n", way, result(shmctl(id, IPC_STAT, &ds)));
    }
}

static void who(void)
{
    int id = shmget(KEY, PAGE, IPC_CREAT | 0604), secret = shmget(KEY + 1, PAGE, IPC_CREAT | 0600);
    CHECK(id >= 0 && secret >= 0);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct shmid_ds ds;
        CHECK(setgid(1234) == 0 && setuid(1234) == 0);
        printf("others: read %d", at(id, NULL, SHM_RDONLY));
        printf(", write %d", at(id, NULL, 0));
        printf(", get %d", result(shmget(KEY, 1, 0604)));
        printf(" %d", result(shmget(KEY, 1, 0666)));
        printf(", get with nothing %d", shmget(KEY, 1, 0) == id);
        printf(", remove %d", result(shmctl(id, IPC_RMID, NULL)));
        printf(", stat %d", result(shmctl(id, IPC_STAT, &ds)));
        printf(", set %d", result(shmctl(id, IPC_SET, &ds)));
        printf(", lock %d", result(shmctl(id, SHM_LOCK, NULL)));
        printf("; secret %d", at(secret, NULL, SHM_RDONLY));
        printf(" %d", result(shmctl(secret, IPC_STAT, &ds)));
        printf(" %d\n", result(shmget(KEY + 1, 1, 0400)));
        fflush(stdout);
        _exit(0);
    }
    wait_ok(child);
    CHECK(shmctl(id, IPC_RMID, NULL) == 0 && shmctl(secret, IPC_RMID, NULL) == 0);
}

/* A part that was made longer than the segment goes whole. */
static void longer(void)
{
    int id = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);
    char *at = shmat(id, NULL, 0);
    CHECK(id >= 0 && at != (void *)-1);
    char *moved = mremap(at, PAGE, 3 * PAGE, MREMAP_MAYMOVE);
    printf("made longer: %d", moved == MAP_FAILED ? -errno : 0);
    printf(", detached %d", result(shmdt(moved)));
    printf(", then %d, has it %lu\n", result(shmdt(moved)), attached(id));
    CHECK(shmctl(id, IPC_RMID, NULL) == 0);
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return 0;
    finds();
    places();
    longer();
    lives();
    who();
    struct shminfo limits;
    CHECK(shmctl(0, IPC_INFO, (struct shmid_ds *)&limits) >= 0);
    printf("limits: min %lu\n", limits.shmmin);
    return 0;
}
