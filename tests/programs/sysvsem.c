/* System V semaphores: all or none, waits and what ends them, what is undone, and who may. */
#include "common.h"
#include <pthread.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <time.h>

#define KEY 0x73656d61

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
    struct seminfo *info;
};

static int result(long value)
{
    return value == -1 ? -errno : (int)value;
}

static int ctl(int id, int number, int command, int value)
{
    return result(semctl(id, number, command, (union semun){.val = value}));
}

static int op(int id, int number, int change, int flags)
{
    struct sembuf one = {(unsigned short)number, (short)change, (short)flags};
    return result(semop(id, &one, 1));
}

static int timed(int id, int number, int change, int flags, long ns)
{
    struct sembuf one = {(unsigned short)number, (short)change, (short)flags};
    struct timespec time = {0, ns};
    return result(semtimedop(id, &one, 1, &time));
}

static int fresh(int count)
{
    int id = semget(IPC_PRIVATE, count, 0600);
    CHECK(id >= 0);
    return id;
}

static void finds(void)
{
    printf("none %d", result(semget(KEY, 1, 0)));
    printf(", no count %d", result(semget(KEY, 0, IPC_CREAT)));
    printf(", negative %d", result(semget(KEY, -1, IPC_CREAT)));
    printf(", too many %d", result(semget(KEY, 32001, IPC_CREAT)));
    int id = semget(KEY, 3, IPC_CREAT | IPC_EXCL | 0640);
    CHECK(id >= 0);
    printf(", again %d, fewer %d, more %d", semget(KEY, 3, IPC_CREAT) == id, semget(KEY, 0, 0) == id, result(semget(KEY, 4, 0)));
    printf(", exclusive %d\n", result(semget(KEY, 3, IPC_CREAT | IPC_EXCL)));
    struct semid_ds ds;
    CHECK(semctl(id, 0, IPC_STAT, (union semun){.buf = &ds}) == 0);
    printf("stat: key %x mode %o n %ld otime %d", ds.sem_perm.__key, ds.sem_perm.mode, (long)ds.sem_nsems, ds.sem_otime != 0);
    ds.sem_perm.mode = 0606;
    printf(", set %d", result(semctl(id, 0, IPC_SET, (union semun){.buf = &ds})));
    CHECK(op(id, 1, 0, 0) == 0 && semctl(id, 0, IPC_STAT, (union semun){.buf = &ds}) == 0);
    printf(" mode %o otime %d, command %d", ds.sem_perm.mode, ds.sem_otime != 0, ctl(id, 0, 99, 0));
    printf(", no such %d", ctl(id, 3, GETVAL, 0));
    printf(" %d", ctl(id, -1, GETVAL, 0));
    printf(", values %d", ctl(id, 0, SETVAL, 7));
    printf(" %d", ctl(id, 1, SETVAL, 32767));
    printf(" %d", ctl(id, 2, SETVAL, 32768));
    printf(" %d", ctl(id, 2, SETVAL, -1));
    unsigned short all[3] = {9, 9, 9};
    CHECK(semctl(id, 0, GETALL, (union semun){.array = all}) == 0);
    printf(": %u %u %u", all[0], all[1], all[2]);
    all[2] = 40000;
    printf(", set all %d", result(semctl(id, 0, SETALL, (union semun){.array = all})));
    all[2] = 5;
    printf(" %d", result(semctl(id, 0, SETALL, (union semun){.array = all})));
    printf(" %d", ctl(id, 2, GETVAL, 0));
    printf(", pid %d", ctl(id, 0, GETPID, 0) == getpid());
    printf(" %d", ctl(id, 1, GETPID, 0) == getpid());
    printf(", removed %d", ctl(id, 0, IPC_RMID, 0));
    printf(", gone %d", ctl(id, 0, GETVAL, 0));
    printf(" %d", op(id, 0, 1, 0));
    printf(", by key %d\n", result(semget(KEY, 1, 0)));
}

static void operations(void)
{
    int id = fresh(4);
    struct sembuf many[501];
    memset(many, 0, sizeof many);
    printf("n: none %d", result(semop(id, many, 0)));
    printf(", 500 %d", result(semop(id, many, 500)));
    printf(", 501 %d", result(semop(id, many, 501)));
    printf(", number %d", op(id, 4, 1, 0));
    printf(", bad address %d", result(semop(id, (void *)8, 1)));
    printf(", negative %d\n", op(-1, 0, 1, 0));
    printf("wait: less %d", op(id, 0, -1, IPC_NOWAIT));
    printf(", more %d", op(id, 0, 1, 0));
    printf(", zero %d", op(id, 0, 0, IPC_NOWAIT));
    printf(", timed %d", timed(id, 0, -2, 0, 1000000));
    printf(" %d", timed(id, 0, 0, 0, 1));
    printf(", bad time %d", timed(id, 0, 1, 0, 2000000000));
    struct sembuf both[3] = {{1, 5, 0}, {0, -3, IPC_NOWAIT}, {2, 1, 0}};
    printf(", all or none %d", result(semop(id, both, 3)));
    printf(" -> %d", ctl(id, 0, GETVAL, 0));
    printf(" %d", ctl(id, 1, GETVAL, 0));
    printf(" %d", ctl(id, 2, GETVAL, 0));
    struct sembuf chain[4] = {{1, 5, 0}, {1, -5, 0}, {1, 0, 0}, {1, 2, 0}};
    printf(", in order %d", result(semop(id, chain, 4)));
    printf(" -> %d", ctl(id, 1, GETVAL, 0));
    printf(", too large %d", op(id, 1, 32766, 0));
    printf(" -> %d\n", ctl(id, 1, GETVAL, 0));
    CHECK(ctl(id, 0, IPC_RMID, 0) == 0);
}

static void undone(void)
{
    int id = fresh(3);
    CHECK(ctl(id, 0, SETVAL, 10) == 0 && ctl(id, 1, SETVAL, 10) == 0 && ctl(id, 2, SETVAL, 10) == 0);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(op(id, 0, -3, SEM_UNDO) == 0 && op(id, 0, -1, 0) == 0 && op(id, 1, 5, SEM_UNDO) == 0);
        CHECK(op(id, 2, -4, SEM_UNDO) == 0 && ctl(id, 2, SETVAL, 1) == 0);
        /* What does not happen is not undone. */
        struct sembuf fails[2] = {{0, -2, SEM_UNDO}, {1, -99, IPC_NOWAIT}};
        CHECK(result(semop(id, fails, 2)) == -EAGAIN);
        printf("in it: %d", ctl(id, 0, GETVAL, 0));
        printf(" %d", ctl(id, 1, GETVAL, 0));
        printf(" %d", ctl(id, 2, GETVAL, 0));
        fflush(stdout);
        pid_t grandchild = fork();
        if (grandchild == 0)
            _exit(0);
        wait_ok(grandchild);
        printf(", its child's end %d", ctl(id, 0, GETVAL, 0));
        fflush(stdout);
        _exit(0);
    }
    wait_ok(child);
    printf(", after it: %d", ctl(id, 0, GETVAL, 0));
    printf(" %d", ctl(id, 1, GETVAL, 0));
    printf(" %d", ctl(id, 2, GETVAL, 0));
    printf(", pid %d", ctl(id, 0, GETPID, 0) == child);
    /* Below zero it does not go. */
    CHECK(ctl(id, 0, SETVAL, 0) == 0);
    fflush(stdout);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(op(id, 0, 4, SEM_UNDO) == 0 && op(id, 0, -3, 0) == 0);
        kill(getpid(), SIGKILL);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    printf(", killed %d", ctl(id, 0, GETVAL, 0));
    int much = op(id, 0, 32767, SEM_UNDO), back = op(id, 0, -32767, 0);
    printf(", much %d %d, more %d", much, back, op(id, 0, 2, SEM_UNDO));
    /* Taken back in the order in which they were done, the first two would leave the range on the way. */
    struct sembuf turn[3] = {{0, -2, SEM_UNDO}, {0, 2, SEM_UNDO}, {1, -99, IPC_NOWAIT}};
    CHECK(op(id, 0, 2, 0) == 0);
    printf(", back in turn %d", result(semop(id, turn, 3)));
    printf(" %d", ctl(id, 0, GETVAL, 0));
    printf(", then %d\n", op(id, 0, 1, SEM_UNDO | IPC_NOWAIT));
    CHECK(ctl(id, 0, IPC_RMID, 0) == 0);
}

static void handler(int signal)
{
    (void)signal;
}

/* A child that waits in a way, and what ends its wait. */
static void ends(void)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    for (int way = 0; way < 4; way++) {
        int id = fresh(2);
        CHECK(ctl(id, 1, SETVAL, 1) == 0);
        fflush(stdout);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            int got = way == 3 ? op(id, 1, 0, 0) : op(id, 0, -2, 0);
            printf("way %d: %d\n", way, got);
            fflush(stdout);
            _exit(0);
        }
        while ((way == 3 ? ctl(id, 1, GETZCNT, 0) : ctl(id, 0, GETNCNT, 0)) == 0)
            usleep(1000);
        printf("waiting %d", ctl(id, 0, GETNCNT, 0));
        printf(" %d", ctl(id, 0, GETZCNT, 0));
        printf(" %d, ", ctl(id, 1, GETZCNT, 0));
        fflush(stdout);
        if (way == 0)
            CHECK(op(id, 0, 1, 0) == 0 && op(id, 0, 1, 0) == 0);
        if (way == 1)
            CHECK(kill(child, SIGUSR1) == 0);
        if (way == 2)
            CHECK(ctl(id, 0, IPC_RMID, 0) == 0);
        if (way == 3)
            CHECK(ctl(id, 1, SETVAL, 0) == 0);
        wait_ok(child);
        if (way != 2)
            CHECK(ctl(id, 0, GETNCNT, 0) == 0 && ctl(id, 0, IPC_RMID, 0) == 0);
    }
}

/* Eight processes count under one semaphore. */
static void counts(void)
{
    int id = fresh(1);
    volatile long *sum = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(sum != MAP_FAILED && ctl(id, 0, SETVAL, 1) == 0);
    pid_t children[8];
    fflush(stdout);
    for (int i = 0; i < 8; i++) {
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] == 0) {
            for (int n = 0; n < 200; n++) {
                CHECK(op(id, 0, -1, n % 2 ? SEM_UNDO : 0) == 0);
                *sum = *sum + 1;
                CHECK(op(id, 0, 1, n % 2 ? SEM_UNDO : 0) == 0);
            }
            _exit(0);
        }
    }
    for (int i = 0; i < 8; i++)
        wait_ok(children[i]);
    printf("counted %ld, value %d\n", *sum, ctl(id, 0, GETVAL, 0));
    CHECK(ctl(id, 0, IPC_RMID, 0) == 0);
}

static void who(void)
{
    int id = semget(KEY, 1, IPC_CREAT | 0604);
    CHECK(id >= 0);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(setgid(1234) == 0 && setuid(1234) == 0);
        printf("others: zero %d", op(id, 0, 0, IPC_NOWAIT));
        printf(", more %d", op(id, 0, 1, IPC_NOWAIT));
        printf(", get %d", ctl(id, 0, GETVAL, 0));
        printf(", set %d", ctl(id, 0, SETVAL, 1));
        printf(", remove %d", ctl(id, 0, IPC_RMID, 0));
        printf(", find %d %d\n", semget(KEY, 1, 0604) == id, result(semget(KEY, 1, 0666)));
        fflush(stdout);
        _exit(0);
    }
    wait_ok(child);
    CHECK(ctl(id, 0, IPC_RMID, 0) == 0);
}

int main(void)
{
    finds();
    operations();
    undone();
    ends();
    counts();
    who();
    struct seminfo info;
    CHECK(semctl(0, 0, IPC_INFO, (union semun){.info = &info}) >= 0);
    printf("limits: of a set %d, operations %d, value %d\n", info.semmsl, info.semopm, info.semvmx);
    return 0;
}
