/* The program that `anonmem bench --guest` runs in each guest: small loops over one operation of the
 * memory manager each, in the manner of will-it-scale (own text), by 1 to N tasks that are threads of
 * one process or processes.
 *
 *   program WINDOW_MS WARM_MS TASKS REGION_PAGES KINDS MODES
 *
 * KINDS and MODES are names with commas between them; every kind is measured in every mode for 1 to TASKS
 * tasks. What it prints is for a program to read, one line each, after the word "@bench":
 *
 *   begin SYSNAME RELEASE CPUS
 *   ticks TICKS INSTRUCTIONS                     a loop of known length: tells whether ticks are instructions
 *   row KIND MODE TASKS OPERATIONS NS TICKS      NS and TICKS: summed over the tasks
 *   failed KIND MODE TASKS WHAT ERRNO
 *   end
 *
 * As a kernel's first process it switches the machine off afterwards. It needs no files. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/reboot.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define PAGE 4096UL
#define MAX_TASKS 64
/* Calls between two looks at the clock, where a call is short. */
#define BATCH 128

/* What one task reports; a cache line of its own. */
struct result {
	_Alignas(64) uint64_t operations;
	uint64_t ns;
	uint64_t ticks;
	const char *failed;
	int error;
};

/* Shared by all tasks, also if they are processes. */
struct board {
	atomic_int ready;
	atomic_int go;
	struct result results[MAX_TASKS];
};

static struct board *board;
static uint64_t window_ns, warm_ns;
static size_t region_bytes;
static char *brk_base;

struct task {
	int index;
	int tasks;
	const struct kind *kind;
	struct result own;
	uint64_t from_ns, from_ticks;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* The time from here on counts, until `stop`. */
static void start(struct task *task)
{
	task->from_ns = now_ns();
	task->from_ticks = __rdtsc();
}

static void stop(struct task *task, uint64_t operations)
{
	task->own.ticks += __rdtsc() - task->from_ticks;
	task->own.ns += now_ns() - task->from_ns;
	task->own.operations += operations;
}

static int fail(struct task *task, const char *what)
{
	task->own.failed = what;
	task->own.error = errno;
	return -1;
}

static char *map(size_t bytes, int flags)
{
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

/* One store to each page of a fresh region, then the region goes: per page. */
static int page_fault1(struct task *task)
{
	char *region;

	start(task);
	region = map(region_bytes, 0);
	if (region == MAP_FAILED)
		return fail(task, "mmap");
	for (size_t at = 0; at < region_bytes; at += PAGE)
		*(volatile char *)(region + at) = 1;
	if (munmap(region, region_bytes))
		return fail(task, "munmap");
	stop(task, region_bytes / PAGE);
	return 0;
}

/* mmap and munmap of a region that nobody touches: per pair. */
static int mmap1(struct task *task)
{
	start(task);
	for (int i = 0; i < BATCH; i++) {
		char *region = map(region_bytes, 0);

		if (region == MAP_FAILED)
			return fail(task, "mmap");
		if (munmap(region, region_bytes))
			return fail(task, "munmap");
	}
	stop(task, BATCH);
	return 0;
}

/* The break one page up and down again, untouched: per pair. Threads move the same break, each to a
 * place of its own. */
static int brk1(struct task *task)
{
	char *up = brk_base + PAGE * (size_t)(task->index + 1);

	start(task);
	for (int i = 0; i < BATCH; i++) {
		if (syscall(SYS_brk, up) == -1 || syscall(SYS_brk, brk_base) == -1)
			return fail(task, "brk");
	}
	stop(task, BATCH);
	return 0;
}

/* A child that ends at once and is waited for: per child. */
static int fork1(struct task *task)
{
	start(task);
	/* Not the library's fork: that takes its own locks and runs its own handlers. */
	pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (child == -1)
		return fail(task, "clone");
	if (child == 0)
		syscall(SYS_exit_group, 0);
	if (waitpid(child, NULL, __WALL) != child)
		return fail(task, "waitpid");
	stop(task, 1);
	return 0;
}

/* munmap of a region whose pages are all there; mapping it is not counted: per page. */
static int munmap1(struct task *task)
{
	char *region = map(region_bytes, MAP_POPULATE);

	if (region == MAP_FAILED)
		return fail(task, "mmap");
	start(task);
	if (munmap(region, region_bytes))
		return fail(task, "munmap");
	stop(task, region_bytes / PAGE);
	return 0;
}

struct kind {
	const char *name;
	int (*once)(struct task *);
};

static const struct kind kinds[] = {
	{ "page_fault1", page_fault1 }, { "mmap1", mmap1 },	{ "brk1", brk1 },
	{ "fork", fork1 },		{ "munmap", munmap1 },
};

/* Does the work again and again for some time. */
static int repeat(struct task *task, uint64_t ns)
{
	uint64_t end = now_ns() + ns;

	memset(&task->own, 0, sizeof(task->own));
	do {
		if (task->kind->once(task))
			return -1;
	} while (now_ns() < end);
	return 0;
}

static void *run_task(void *argument)
{
	struct task *task = argument;
	int warm = repeat(task, warm_ns);

	/* All of them measure at the same time. */
	atomic_fetch_add(&board->ready, 1);
	while (atomic_load(&board->ready) < task->tasks)
		sched_yield();
	if (!warm)
		repeat(task, window_ns);
	board->results[task->index] = task->own;
	return NULL;
}

static int run_threads(struct task *tasks, int count)
{
	pthread_t threads[MAX_TASKS];

	for (int i = 0; i < count; i++) {
		int error = pthread_create(&threads[i], NULL, run_task, &tasks[i]);

		if (error) {
			/* The others would wait for this one. */
			atomic_fetch_add(&board->ready, count - i);
			for (int other = 0; other < i; other++)
				pthread_join(threads[other], NULL);
			errno = error;
			return -1;
		}
	}
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	return 0;
}

static int run_processes(struct task *tasks, int count)
{
	pid_t children[MAX_TASKS];
	int started, failed = 0;

	for (started = 0; started < count; started++) {
		children[started] = fork();
		if (children[started] == -1) {
			failed = errno;
			atomic_fetch_add(&board->ready, count - started);
			break;
		}
		if (children[started] == 0) {
			run_task(&tasks[started]);
			_exit(0);
		}
	}
	for (int i = 0; i < started; i++) {
		int status;

		if (waitpid(children[i], &status, 0) != children[i])
			failed = errno;
		else if (status)
			failed = ECHILD;
	}
	errno = failed;
	return failed ? -1 : 0;
}

static void measure(const struct kind *kind, const char *mode, int count)
{
	struct task tasks[MAX_TASKS];
	struct result sum;
	int done;

	memset(board, 0, sizeof(*board));
	memset(tasks, 0, sizeof(tasks));
	memset(&sum, 0, sizeof(sum));
	for (int i = 0; i < count; i++) {
		tasks[i].index = i;
		tasks[i].tasks = count;
		tasks[i].kind = kind;
	}
	done = strcmp(mode, "threads") ? run_processes(tasks, count) : run_threads(tasks, count);
	if (done) {
		printf("@bench failed %s %s %d starting %d\n", kind->name, mode, count, errno);
		return;
	}
	for (int i = 0; i < count; i++) {
		struct result *one = &board->results[i];

		if (one->failed || !one->ns) {
			printf("@bench failed %s %s %d %s %d\n", kind->name, mode, count,
			       one->failed ? one->failed : "task", one->error);
			return;
		}
		sum.operations += one->operations;
		sum.ns += one->ns;
		sum.ticks += one->ticks;
	}
	printf("@bench row %s %s %d %llu %llu %llu\n", kind->name, mode, count,
	       (unsigned long long)sum.operations, (unsigned long long)sum.ns,
	       (unsigned long long)sum.ticks);
}

/* In a process of its own, so that what earlier rows left behind (stacks of threads, page tables) does not matter. */
static void measure_apart(const struct kind *kind, const char *mode, int count)
{
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		measure(kind, mode, count);
		fflush(stdout);
		_exit(0);
	}
	if (child == -1 || waitpid(child, &status, 0) != child)
		printf("@bench failed %s %s %d starting %d\n", kind->name, mode, count, errno);
	else if (status)
		printf("@bench failed %s %s %d process %d\n", kind->name, mode, count, ECHILD);
}

/* A loop of two instructions, a million times. */
static void tell_ticks(void)
{
	uint64_t from, rounds = 1000000;

	from = __rdtsc();
	__asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(rounds) : : "cc");
	printf("@bench ticks %llu 2000000\n", (unsigned long long)(__rdtsc() - from));
}

/* Tells whether a list with commas names something. */
static int lists(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
		if (!strncmp(at, name, len) && (at[len] == ',' || !at[len]))
			return 1;
	}
	return 0;
}

static void measure_all(int tasks, const char *wanted, const char *modes)
{
	static const char *const all_modes[] = { "processes", "threads" };

	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		for (size_t m = 0; m < 2; m++) {
			if (!lists(wanted, kinds[k].name) || !lists(modes, all_modes[m]))
				continue;
			for (int count = 1; count <= tasks; count++)
				measure_apart(&kinds[k], all_modes[m], count);
		}
	}
}

int main(int argc, char **argv)
{
	struct utsname name;
	int tasks;

	/* Line by line, also where standard output is no terminal; and no buffer in a child to be written twice. */
	setvbuf(stdout, NULL, _IOLBF, 4096);
	if (argc != 8) {
		printf("@bench failed - - 0 arguments %d\n", argc);
		return 2;
	}
	window_ns = strtoull(argv[1], NULL, 10) * 1000000;
	warm_ns = strtoull(argv[2], NULL, 10) * 1000000;
	tasks = atoi(argv[3]);
	region_bytes = strtoull(argv[4], NULL, 10) * PAGE;
	if (tasks < 1 || tasks > MAX_TASKS || !region_bytes) {
		printf("@bench failed - - 0 arguments %d\n", EINVAL);
		return 2;
	}
	/* Pages of 4 KiB everywhere, unless others are wanted; a kernel without large pages does not know this. */
	if (!strcmp(argv[7], "4K"))
		prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED) {
		printf("@bench failed - - 0 mmap %d\n", errno);
		return 1;
	}
	brk_base = (char *)(((uintptr_t)sbrk(0) + PAGE - 1) & ~(PAGE - 1));
	uname(&name);
	printf("@bench begin %s %s %ld\n", name.sysname, name.release, sysconf(_SC_NPROCESSORS_ONLN));
	tell_ticks();
	measure_all(tasks, argv[5], argv[6]);
	printf("@bench end\n");
	fflush(stdout);
	if (getpid() == 1) {
		reboot(RB_POWER_OFF);
		/* A machine without a switch: with QEMU's -no-reboot this ends it too. */
		reboot(RB_AUTOBOOT);
	}
	return 0;
}
