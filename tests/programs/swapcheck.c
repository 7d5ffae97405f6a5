// Touches more memory than there is, in random order and across forks, and checks every byte.
// Arguments: MiB, then rounds.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, FORKS = 3 };

static unsigned char *memory;
static uint32_t *stamps;
static size_t pages;

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

// What byte `at` of a page with this stamp is: a byte of 32 is noise. A stamp of 0 is a page of zeroes.
static unsigned char byte_of(size_t page, uint32_t stamp, unsigned at)
{
	if (stamp == 0)
		return 0;
	uint32_t mixed = (uint32_t)page * 2654435761u ^ stamp * 40503u;
	if (at % 32 == 0)
		mixed ^= (at * 2246822519u) ^ (at * 3266489917u >> 13);
	return (unsigned char)(mixed >> 11);
}

static void fill(size_t page, uint32_t stamp)
{
	for (unsigned at = 0; at < PAGE; at++)
		memory[page * PAGE + at] = byte_of(page, stamp, at);
	stamps[page] = stamp;
}

static unsigned long check(size_t page)
{
	unsigned long wrong = 0;
	for (unsigned at = 0; at < PAGE; at++)
		wrong += memory[page * PAGE + at] != byte_of(page, stamps[page], at);
	return wrong;
}

static unsigned long check_all(void)
{
	unsigned long wrong = 0;
	for (size_t page = 0; page < pages; page++)
		wrong += check(page);
	return wrong;
}

// Changes and checks pages in random order.
static unsigned long work(uint64_t seed, size_t accesses)
{
	unsigned long wrong = 0;
	for (size_t i = 0; i < accesses; i++) {
		size_t page = next(&seed) % pages;
		wrong += check(page);
		if (seed >> 60 < 6)
			fill(page, (uint32_t)(seed >> 32) % 16);
	}
	return wrong;
}

int main(int argc, char **argv)
{
	size_t mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 96;
	unsigned rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
	pages = mib << 8;
	memory = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stamps = calloc(pages, sizeof *stamps);
	if (memory == MAP_FAILED || !stamps)
		return 2;
	for (size_t page = 0; page < pages; page++)
		fill(page, (uint32_t)page % 16);
	unsigned long wrong = check_all();
	for (unsigned round = 0; round < rounds; round++) {
		pid_t children[FORKS];
		for (int n = 0; n < FORKS; n++) {
			children[n] = fork();
			if (children[n] == 0)
				_exit(work(round * 100 + n + 1, pages / 8) != 0);
			if (children[n] < 0)
				return 3;
		}
		wrong += work(round * 100 + 50, pages / 4);
		for (int n = 0; n < FORKS; n++) {
			int status;
			if (waitpid(children[n], &status, 0) < 0 || status != 0) {
				printf("swapcheck: child %d ended with %#x\n", n, status);
				wrong++;
			}
		}
	}
	wrong += check_all();
	printf("swapcheck: %zu MiB, %u rounds, %lu wrong\n", mib, rounds, wrong);
	return wrong != 0;
}
