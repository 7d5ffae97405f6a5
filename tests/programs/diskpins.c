/* A disk, or a file of the host that stands for one, writes to pages of which the program uses the rest.
 *
 * diskpins FILE direct|fixed SECONDS PRESSURE_MIB [FOLIO_KIB]: FILE has 4 MiB, and what it holds is lost. Each of three readers has a
 * buffer; with FOLIO_KIB it lies where folios of that size may, and is dropped and touched again now and then. The disk
 * writes to the first seven sectors of each of its pages; another thread writes to the eighth meanwhile. All the while the program forks
 * and its children write to the pages, the pages' entries lose and get back the right to be written, and pages are swapped out: the
 * buffers' by madvise, others because memory is short. Every byte is looked at: one that is missing was written to a page that the
 * program does not see.
 *
 * direct: reads and writes with O_DIRECT, whose pages are pinned for a moment. fixed: io_uring with registered buffers. */
#include "ring.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/uio.h>
#include <time.h>

#define SIZE (4UL << 20)
#define PART (7 * 512UL)
#define WORDS (PART / 8)
enum { READERS = 3, PAGES = 24 };

struct reader {
    unsigned char *pages;
    uint64_t rounds, neighbours;
    int fd, ended;
    struct ring ring;
    /* Held by the neighbour while the pages are read-only, and by the reader while it changes the word. */
    pthread_mutex_t protecting;
    int is_moving;
    /* Held for writing while the buffer is made anew. */
    pthread_rwlock_t renewing;
};

static struct reader readers[READERS];
static const char *path;
static int is_fixed;
static uint64_t end_ns;
static size_t pressure_pages, folio_bytes;
static uint64_t *pressure;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int goes_on(void)
{
    return now_ns() < end_ns;
}

static uint64_t word_at(uint64_t offset, uint64_t version)
{
    uint64_t x = (offset + 1) * 0x9e3779b97f4a7c15 + version * 0xd1342543de82ef95;
    return x ^ x >> 29;
}

static size_t buffer_bytes(void)
{
    return folio_bytes > PAGES * PAGE ? folio_bytes : PAGES * PAGE;
}

/* A buffer whose first page is the first of a folio, if it gets one. */
static unsigned char *map_buffer(void)
{
    if (!folio_bytes)
        return (unsigned char *)map_pages(PAGES);
    unsigned char *all = (unsigned char *)map_pages((buffer_bytes() + folio_bytes) / PAGE);
    unsigned char *first = all + (folio_bytes - (uintptr_t)all % folio_bytes) % folio_bytes;
    CHECK(madvise(first, buffer_bytes(), MADV_HUGEPAGE) == 0);
    return first;
}

static uint64_t *words(struct reader *reader, size_t page)
{
    return (uint64_t *)(void *)(reader->pages + page * PAGE);
}

/* A place of a reader's own third of the disk. */
static uint64_t offset_of(struct reader *reader, uint64_t first)
{
    uint64_t third = SIZE / 512 / READERS;
    return ((uint64_t)(reader - readers) * third + first % (third - PAGES * PART / 512)) * 512;
}

static void set_moving(struct reader *reader, int is_moving)
{
    pthread_mutex_lock(&reader->protecting);
    reader->is_moving = is_moving;
    pthread_mutex_unlock(&reader->protecting);
}

/* Moves the first part of all pages. Gives 0 if the pages could not be had just then. */
static int try_transfer(struct reader *reader, int is_read, uint64_t first)
{
    if (!is_fixed) {
        struct iovec parts[PAGES];
        for (size_t page = 0; page < PAGES; page++)
            parts[page] = (struct iovec){reader->pages + page * PAGE, PART};
        off_t offset = (off_t)offset_of(reader, first);
        ssize_t n = is_read ? preadv(reader->fd, parts, PAGES, offset) : pwritev(reader->fd, parts, PAGES, offset);
        if (n < 0 && errno == EFAULT)
            return 0;
        /* The pages became read-only on the way. */
        if (n < (ssize_t)(PAGES * PART)) {
            CHECK(n > 0, "%zd", n);
            return 0;
        }
        return 1;
    }
    for (size_t page = 0; page < PAGES; page++)
        ring_transfer(&reader->ring, is_read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED, reader->fd, reader->pages + page * PAGE, PART,
                      offset_of(reader, first) + page * PART, page);
    CHECK(ring_enter(&reader->ring, PAGES, 0, 0) == PAGES);
    for (size_t page = 0; page < PAGES; page++) {
        struct completion done = ring_take(&reader->ring);
        CHECK(done.result == (int)PART, "%d", done.result);
    }
    return 1;
}

static void transfer(struct reader *reader, int is_read, uint64_t first)
{
    set_moving(reader, 1);
    while (!try_transfer(reader, is_read, first))
        ;
    set_moving(reader, 0);
}

static void register_buffer(struct reader *reader)
{
    struct iovec buffer = {reader->pages, PAGES * PAGE};
    CHECK(ring_register(&reader->ring, IORING_REGISTER_BUFFERS, &buffer, 1) == 0);
}

/* Swap and split make small pages of large ones: drops all, and touches it again, so that new folios come. */
static void renew(struct reader *reader)
{
    unsigned char kept[PAGES][512];
    pthread_rwlock_wrlock(&reader->renewing);
    if (is_fixed)
        CHECK(ring_register(&reader->ring, IORING_UNREGISTER_BUFFERS, NULL, 0) == 0);
    for (size_t page = 0; page < PAGES; page++)
        memcpy(kept[page], reader->pages + page * PAGE + PART, 512);
    CHECK(madvise(reader->pages, buffer_bytes(), MADV_DONTNEED) == 0);
    for (size_t page = 0; page < PAGES; page++)
        memcpy(reader->pages + page * PAGE + PART, kept[page], 512);
    if (is_fixed)
        register_buffer(reader);
    pthread_rwlock_unlock(&reader->renewing);
}

static void *read_and_compare(void *argument)
{
    struct reader *reader = argument;
    uint64_t state = 77 + (uint64_t)(reader - readers), version = 0, base = 0;
    while (goes_on()) {
        uint64_t first = next_random(&state);
        if (folio_bytes && reader->rounds % 4 == 0)
            renew(reader);
        if (reader->rounds % 8 == 0) {
            /* New contents for the pages that are read next. */
            version = reader->rounds + 1, base = first;
            for (size_t page = 0; page < PAGES; page++)
                for (size_t i = 0; i < WORDS; i++)
                    words(reader, page)[i] = word_at(offset_of(reader, base) + page * PART + 8 * i, version);
            transfer(reader, 0, base);
        }
        for (size_t page = 0; page < PAGES; page++)
            memset(reader->pages + page * PAGE, 0x5a, PART);
        transfer(reader, 1, base);
        for (size_t page = 0; page < PAGES; page++)
            for (size_t i = 0; i < WORDS; i++)
                CHECK(words(reader, page)[i] == word_at(offset_of(reader, base) + page * PART + 8 * i, version),
                      "reader %d round %lu page %zu word %zu: 0x%lx", (int)(reader - readers), (unsigned long)reader->rounds, page, i,
                      (unsigned long)words(reader, page)[i]);
        reader->rounds++;
    }
    __atomic_store_n(&reader->ended, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* While the pages are on their way, their entries become read-only: whoever writes next finds pages that the disk may have. */
static void protect_and_back(struct reader *reader)
{
    pthread_mutex_lock(&reader->protecting);
    if (reader->is_moving) {
        CHECK(mprotect(reader->pages, PAGES * PAGE, PROT_READ) == 0);
        CHECK(mprotect(reader->pages, PAGES * PAGE, PROT_READ | PROT_WRITE) == 0);
    }
    pthread_mutex_unlock(&reader->protecting);
}

/* The last sector of each page is this thread's. */
static void *write_beside(void *argument)
{
    struct reader *reader = argument;
    uint64_t count = 0;
    while (!__atomic_load_n(&reader->ended, __ATOMIC_ACQUIRE)) {
        if (count % 2)
            protect_and_back(reader);
        pthread_rwlock_rdlock(&reader->renewing);
        for (size_t page = 0; page < PAGES; page++) {
            volatile uint64_t *at = words(reader, page) + WORDS + count % 64;
            CHECK(at[0] == (count < 64 ? 0 : count - 64), "page %zu count %lu: %lu", page, (unsigned long)count, (unsigned long)at[0]);
            at[0] = count;
        }
        pthread_rwlock_unlock(&reader->renewing);
        count++;
    }
    reader->neighbours = count;
    return NULL;
}

static void *swap_buffers_out(void *unused)
{
    (void)unused;
    while (goes_on())
        for (int i = 0; i < READERS; i++)
            madvise(readers[i].pages, PAGES * PAGE, 21);
    return NULL;
}

/* More memory than there is. */
static void *press(void *unused)
{
    (void)unused;
    uint64_t *at = pressure;
    for (uint64_t round = 2; goes_on(); round++)
        for (size_t page = 0; page < pressure_pages && goes_on(); page++) {
            uint64_t *word = at + page * (PAGE / 8);
            CHECK(*word == word_at(page, round - 1), "page %zu", page);
            for (size_t i = 0; i < PAGE / 8; i += 8)
                word[i] = word_at(page, round);
        }
    return NULL;
}

/* What a child sees of the eighth sectors stays as it was when it was born, whatever it and its parent write. */
static void child(void)
{
    static uint64_t seen[READERS * PAGES];
    for (int i = 0; i < READERS; i++)
        CHECK(mprotect(readers[i].pages, PAGES * PAGE, PROT_READ | PROT_WRITE) == 0);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < READERS; i++)
            for (size_t page = 0; page < PAGES; page++) {
                uint64_t *at = words(&readers[i], page), sum = 0;
                for (size_t word = WORDS; word < PAGE / 8; word++)
                    sum = sum * 31 + at[word];
                if (round == 0)
                    seen[(size_t)i * PAGES + page] = sum;
                CHECK(seen[(size_t)i * PAGES + page] == sum, "reader %d page %zu", i, page);
                if (page % 2)
                    at[0] = 0xc0ffee;
            }
    _exit(0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 5 || argc == 6);
    folio_bytes = argc == 6 ? strtoul(argv[5], NULL, 10) * 1024 : 0;
    path = argv[1];
    is_fixed = strcmp(argv[2], "fixed") == 0;
    pressure_pages = strtoul(argv[4], NULL, 10) * 256;
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0, "%s", path);
    CHECK(lseek(fd, 0, SEEK_END) == (off_t)SIZE);
    for (int i = 0; i < READERS; i++) {
        struct reader *reader = &readers[i];
        reader->pages = map_buffer();
        pthread_mutex_init(&reader->protecting, NULL);
        pthread_rwlock_init(&reader->renewing, NULL);
        reader->fd = open(path, O_RDWR | O_DIRECT);
        CHECK(reader->fd >= 0);
        if (is_fixed) {
            if (ring_make(&reader->ring, 32, 0, 0) != 0) {
                printf("diskpins: no io_uring here (errno %d)\n", errno);
                return 0;
            }
            register_buffer(reader);
        }
    }
    /* Memory is short from the beginning. Children do without: forks are to be many. */
    pressure = (uint64_t *)(void *)map_pages(pressure_pages + 1);
    CHECK(madvise(pressure, pressure_pages * PAGE, MADV_DONTFORK) == 0);
    for (size_t page = 0; page < pressure_pages; page++)
        for (size_t i = 0; i < PAGE / 8; i += 8)
            pressure[page * (PAGE / 8) + i] = word_at(page, 1);
    end_ns = now_ns() + strtoul(argv[3], NULL, 10) * 1000000000;
    pthread_t threads[2 * READERS + 2];
    int count = 0;
    for (int i = 0; i < READERS; i++) {
        CHECK(pthread_create(&threads[count++], NULL, read_and_compare, &readers[i]) == 0);
        CHECK(pthread_create(&threads[count++], NULL, write_beside, &readers[i]) == 0);
    }
    CHECK(pthread_create(&threads[count++], NULL, swap_buffers_out, NULL) == 0);
    if (pressure_pages)
        CHECK(pthread_create(&threads[count++], NULL, press, NULL) == 0);
    unsigned long forks = 0, rounds = 0;
    while (goes_on()) {
        pid_t born = fork();
        if (born == 0)
            child();
        CHECK(born > 0 || errno == ENOMEM);
        if (born > 0)
            wait_ok(born);
        forks += born > 0;
    }
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < READERS; i++)
        rounds += readers[i].rounds;
    CHECK(forks > 0 && rounds > 0, "%lu forks, %lu rounds", forks, rounds);
    fprintf(stderr, "diskpins: %lu rounds, %lu forks\n", rounds, forks);
    printf("diskpins: %s, 0 wrong\n", argv[2]);
    return 0;
}
