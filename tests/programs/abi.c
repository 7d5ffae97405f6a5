/* What the system side owes a program beyond memory: signals that interrupt and restart calls, threads and
 * robust mutexes, semaphores between processes, descriptors that are waited for, files and their mappings,
 * processes. */
#include "common.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>

static volatile sig_atomic_t got;
static volatile sig_atomic_t value;

static void note(int number)
{
    got = number;
}

static void note_value(int number, siginfo_t *info, void *context)
{
    (void)context;
    got = number;
    value = info->si_value.sival_int;
}

static void on(int number, int flags)
{
    struct sigaction action = {.sa_handler = note, .sa_flags = flags};
    CHECK(sigaction(number, &action, NULL) == 0);
    got = 0;
}

static void alarm_in_50_ms(void)
{
    struct itimerval soon = {.it_value = {0, 50000}};
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
}

/* Waits for a child; gives its status. */
static int status_of(pid_t child)
{
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static void signals_interrupt_and_restart_calls(void)
{
    int ends[2];
    char byte = 0;
    CHECK(pipe(ends) == 0);
    on(SIGALRM, 0);
    alarm_in_50_ms();
    CHECK(read(ends[0], &byte, 1) == -1 && errno == EINTR && got == SIGALRM);

    on(SIGALRM, SA_RESTART);
    pid_t child = fork();
    if (child == 0) {
        usleep(150000);
        CHECK(write(ends[1], "z", 1) == 1);
        _exit(3);
    }
    alarm_in_50_ms();
    CHECK(read(ends[0], &byte, 1) == 1 && byte == 'z' && got == SIGALRM);
    CHECK(WEXITSTATUS(status_of(child)) == 3);

    struct timespec second = {1, 0}, rest;
    alarm_in_50_ms();
    CHECK(nanosleep(&second, &rest) == -1 && errno == EINTR);
    CHECK(rest.tv_sec == 0 && rest.tv_nsec > 100000000);
    close(ends[0]);
    close(ends[1]);
}

static void signals_wait_to_be_taken(void)
{
    struct sigaction action = {.sa_sigaction = note_value, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGRTMIN, &action, NULL) == 0);
    sigset_t queued, old, now;
    siginfo_t info;
    struct timespec second = {1, 0}, moment = {0, 1000000};
    sigemptyset(&queued);
    sigaddset(&queued, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &queued, &old);
    for (int n = 77; n <= 78; n++)
        CHECK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = n}) == 0);
    CHECK(sigtimedwait(&queued, &info, &second) == SIGRTMIN && info.si_value.sival_int == 77);
    sigprocmask(SIG_SETMASK, &old, NULL);
    CHECK(got == SIGRTMIN && value == 78);
    sigprocmask(SIG_BLOCK, &queued, NULL);
    CHECK(sigtimedwait(&queued, &info, &moment) == -1 && errno == EAGAIN);
    sigprocmask(SIG_SETMASK, &old, NULL);

    on(SIGUSR1, 0);
    sigset_t user;
    sigemptyset(&user);
    sigaddset(&user, SIGUSR1);
    sigprocmask(SIG_BLOCK, &user, &old);
    kill(getpid(), SIGUSR1);
    CHECK(got == 0);
    CHECK(sigsuspend(&old) == -1 && errno == EINTR && got == SIGUSR1);
    sigprocmask(SIG_SETMASK, NULL, &now);
    CHECK(sigismember(&now, SIGUSR1));
    sigprocmask(SIG_SETMASK, &old, NULL);

    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 9};
    struct itimerspec soon = {.it_value = {0, 30000000}};
    sigprocmask(SIG_BLOCK, &queued, NULL);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &soon, NULL) == 0);
    CHECK(sigtimedwait(&queued, &info, &second) == SIGRTMIN && info.si_value.sival_int == 9);
    timer_delete(timer);
    sigprocmask(SIG_SETMASK, &old, NULL);
}

static void divide(void)
{
    volatile int zero = 0, one = 1;
    one = one / zero % 7;
}

static void no_opcode(void)
{
    __asm__ volatile("ud2");
}

static void breakpoint(void)
{
    __asm__ volatile("int3");
}

static void privileged(void)
{
    __asm__ volatile("hlt");
}

static void jump_nowhere(void)
{
    ((void (*)(void))0x12345670)();
}

static void broken_pipe(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    close(ends[0]);
    CHECK(write(ends[1], "x", 1) == 1);
}

static void exceptions_become_signals(void)
{
    struct {
        void (*act)(void);
        int signal;
    } cases[] = {
        {no_opcode, SIGILL}, {breakpoint, SIGTRAP}, {privileged, SIGSEGV}, {jump_nowhere, SIGSEGV},
        {broken_pipe, SIGPIPE}, {abort, SIGABRT}, {divide, SIGFPE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pid_t child = fork();
        if (child == 0) {
            cases[i].act();
            _exit(0);
        }
        int status = status_of(child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == cases[i].signal, "case %zu: 0x%x", i, status);
    }
}

static int sum;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t done = PTHREAD_COND_INITIALIZER;
static __thread int own = 5;

static void *add(void *unused)
{
    (void)unused;
    own++;
    for (int n = 0; n < 5000; n++) {
        pthread_mutex_lock(&mutex);
        sum++;
        pthread_mutex_unlock(&mutex);
    }
    pthread_cond_signal(&done);
    return (void *)(long)own;
}

static void *lock_and_leave(void *robust)
{
    pthread_mutex_lock(robust);
    return NULL;
}

static void take_over(pthread_mutex_t *robust)
{
    CHECK(pthread_mutex_lock(robust) == EOWNERDEAD);
    pthread_mutex_consistent(robust);
    pthread_mutex_unlock(robust);
}

static void threads_share_and_mutexes_outlive_them(void)
{
    pthread_t threads[4];
    void *result;
    for (int n = 0; n < 4; n++)
        CHECK(pthread_create(&threads[n], NULL, add, NULL) == 0);
    pthread_mutex_lock(&mutex);
    while (sum < 20000)
        pthread_cond_wait(&done, &mutex);
    pthread_mutex_unlock(&mutex);
    for (int n = 0; n < 4; n++)
        CHECK(pthread_join(threads[n], &result) == 0 && (long)result == 6);
    CHECK(own == 5);

    pthread_mutex_t *robust = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(robust, &attributes);
    CHECK(pthread_create(&threads[0], NULL, lock_and_leave, robust) == 0 && pthread_join(threads[0], NULL) == 0);
    take_over(robust);
    pid_t child = fork();
    if (child == 0) {
        pthread_mutex_lock(robust);
        _exit(0);
    }
    wait_ok(child);
    take_over(robust);
}

static void processes_share_a_semaphore(void)
{
    char name[32];
    snprintf(name, sizeof name, "/abi-%d", (int)getpid());
    sem_t *semaphore = sem_open(name, O_CREAT, 0600, 0);
    CHECK(semaphore != SEM_FAILED);
    pid_t child = fork();
    if (child == 0) {
        sem_t *other = sem_open(name, 0);
        usleep(20000);
        _exit(sem_post(other) != 0);
    }
    CHECK(sem_wait(semaphore) == 0);
    wait_ok(child);
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec = (soon.tv_nsec + 20000000) % 1000000000;
    CHECK(sem_timedwait(semaphore, &soon) == -1 && errno == ETIMEDOUT);
    sem_close(semaphore);
    sem_unlink(name);
}

static void descriptors_are_waited_for(void)
{
    int counter = eventfd(0, EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, 0), set = epoll_create1(0);
    struct epoll_event event = {EPOLLIN, {.u64 = 1}}, ready[4];
    struct itimerspec soon = {.it_value = {0, 30000000}};
    uint64_t count = 5;
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, counter, &event) == 0);
    event.data.u64 = 2;
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, timer, &event) == 0 && epoll_wait(set, ready, 4, 0) == 0);
    CHECK(write(counter, &count, 8) == 8 && epoll_wait(set, ready, 4, 1000) == 1 && ready[0].data.u64 == 1);
    CHECK(read(counter, &count, 8) == 8 && count == 5);
    CHECK(timerfd_settime(timer, 0, &soon, NULL) == 0);
    CHECK(epoll_wait(set, ready, 4, 1000) == 1 && ready[0].data.u64 == 2);
    CHECK(read(timer, &count, 8) == 8 && count == 1);

    int pair[2];
    char bytes[16];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(send(pair[0], "hey", 3, 0) == 3 && recv(pair[1], bytes, 16, 0) == 3);
    struct pollfd polled = {pair[1], POLLIN, 0};
    CHECK(poll(&polled, 1, 10) == 0);
    shutdown(pair[0], SHUT_WR);
    CHECK(poll(&polled, 1, 1000) == 1 && read(pair[1], bytes, 1) == 0);
}

static void files_are_bytes_and_memory(void)
{
    char name[32], bytes[16];
    struct stat stat;
    snprintf(name, sizeof name, "/tmp/abi-%d", (int)getpid());
    int file = open(name, O_RDWR | O_CREAT | O_EXCL, 0640);
    CHECK(file >= 0 && open(name, O_RDWR | O_CREAT | O_EXCL, 0640) == -1 && errno == EEXIST);
    CHECK(pwrite(file, "abc", 3, 5000) == 3 && fstat(file, &stat) == 0 && stat.st_size == 5003);
    CHECK(pread(file, bytes, 4, 4999) == 4 && bytes[0] == 0 && bytes[1] == 'a');

    char *shared = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    char *copy = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    CHECK(shared != MAP_FAILED && copy != MAP_FAILED && shared[5000] == 'a' && copy[5000] == 'a');
    copy[5000] = 'n';
    shared[1] = 'Q';
    CHECK(shared[5000] == 'a' && pread(file, bytes, 1, 1) == 1 && bytes[0] == 'Q');
    CHECK(pwrite(file, "W", 1, 2) == 1 && shared[2] == 'W');
    pid_t child = fork();
    if (child == 0) {
        shared[3] = 'C';
        _exit(0);
    }
    wait_ok(child);
    CHECK(shared[3] == 'C' && ftruncate(file, 100) == 0 && ftruncate(file, 6000) == 0);
    CHECK(shared[5000] == 0 && shared[3] == 'C');
    CHECK(unlink(name) == 0 && open(name, O_RDONLY) == -1 && errno == ENOENT && shared[1] == 'Q');
    close(file);

    file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    struct iovec pieces[] = {{"xab", 3}, {"", 0}, {"cd", 2}};
    CHECK(file >= 0 && writev(file, pieces, 3) == 5 && lseek(file, 0, SEEK_SET) == 0);
    CHECK(read(file, bytes, 16) == 5 && memcmp(bytes, "xabcd", 5) == 0);
    volatile char *beyond = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 8192);
    child = fork();
    if (child == 0)
        _exit(*beyond);
    CHECK(WTERMSIG(status_of(child)) == SIGBUS);
    close(file);
}

static void *wait_for_ever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void *execute(void *path)
{
    char pid[16];
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    execl(path, path, pid, NULL);
    _exit(1);
}

static void processes_end_stop_and_execute(const char *self)
{
    pthread_t thread;
    siginfo_t info;
    pid_t child = fork();
    if (child == 0) {
        setsid();
        if (fork() == 0)
            wait_for_ever(NULL);
        kill(0, SIGTERM);
        wait_for_ever(NULL);
    }
    CHECK(WTERMSIG(status_of(child)) == SIGTERM);

    child = fork();
    if (child == 0) {
        raise(SIGSTOP);
        _exit(9);
    }
    int status;
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    kill(child, SIGCONT);
    CHECK(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0 && info.si_status == 9);
    CHECK(WEXITSTATUS(status_of(child)) == 9 && waitpid(-1, &status, 0) == -1 && errno == ECHILD);

    /* From a thread that is not the first, while others wait. */
    child = fork();
    if (child == 0) {
        CHECK(pthread_create(&thread, NULL, wait_for_ever, NULL) == 0);
        CHECK(pthread_create(&thread, NULL, execute, (void *)(uintptr_t)self) == 0);
        wait_for_ever(NULL);
    }
    CHECK(WEXITSTATUS(status_of(child)) == 42);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return getpid() == atoi(argv[1]) ? 42 : 1;
    signals_interrupt_and_restart_calls();
    signals_wait_to_be_taken();
    exceptions_become_signals();
    threads_share_and_mutexes_outlive_them();
    processes_share_a_semaphore();
    descriptors_are_waited_for();
    files_are_bytes_and_memory();
    processes_end_stop_and_execute(argv[0]);
    puts("abi: signals, threads, descriptors, files, processes");
    return 0;
}
