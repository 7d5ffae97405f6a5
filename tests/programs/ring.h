/* io_uring by raw system calls: a ring, one entry in and one completion out. */
#ifndef RING_H
#define RING_H

#include "common.h"
#include <linux/io_uring.h>

struct ring {
    int fd;
    struct io_uring_params params;
    unsigned char *rings, *sqes;
    size_t ring_bytes, sqe_bytes;
};

static inline int ring_setup(unsigned entries, struct io_uring_params *params)
{
    return (int)syscall(SYS_io_uring_setup, entries, params);
}

static inline int ring_enter(struct ring *ring, unsigned submit, unsigned wait, unsigned flags)
{
    return (int)syscall(SYS_io_uring_enter, ring->fd, submit, wait, flags, NULL, 0);
}

static inline int ring_register(struct ring *ring, unsigned opcode, const void *argument, unsigned count)
{
    return (int)syscall(SYS_io_uring_register, ring->fd, opcode, argument, count);
}

/* Gives -1 if the kernel has no io_uring for this program; everything else that fails ends it. */
static inline int ring_make(struct ring *ring, unsigned entries, unsigned flags, unsigned cq_entries)
{
    memset(ring, 0, sizeof *ring);
    ring->params.flags = flags;
    ring->params.cq_entries = cq_entries;
    ring->fd = ring_setup(entries, &ring->params);
    if (ring->fd < 0)
        return -1;
    struct io_uring_params *p = &ring->params;
    CHECK(p->features & IORING_FEAT_SINGLE_MMAP);
    size_t sq = p->sq_off.array + p->sq_entries * 4, cq = p->cq_off.cqes + p->cq_entries * 16;
    ring->ring_bytes = sq > cq ? sq : cq;
    ring->sqe_bytes = p->sq_entries * 64;
    ring->rings = mmap(NULL, ring->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
    CHECK((void *)ring->rings != MAP_FAILED);
    ring->sqes = mmap(NULL, ring->sqe_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQES);
    CHECK((void *)ring->sqes != MAP_FAILED);
    return 0;
}

static inline void ring_end(struct ring *ring)
{
    CHECK(munmap(ring->rings, ring->ring_bytes) == 0 && munmap(ring->sqes, ring->sqe_bytes) == 0 && close(ring->fd) == 0);
}

static inline unsigned *ring_word(struct ring *ring, unsigned offset)
{
    return (unsigned *)(void *)(ring->rings + offset);
}

/* The next free entry, zeroed; NULL if there is none. It is queued by ring_queue. */
static inline struct io_uring_sqe *ring_entry(struct ring *ring)
{
    struct io_uring_params *p = &ring->params;
    unsigned tail = *ring_word(ring, p->sq_off.tail), head = __atomic_load_n(ring_word(ring, p->sq_off.head), __ATOMIC_ACQUIRE);
    if (tail - head >= p->sq_entries)
        return NULL;
    struct io_uring_sqe *sqe = (struct io_uring_sqe *)(void *)ring->sqes + (tail & (p->sq_entries - 1));
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

static inline void ring_queue(struct ring *ring)
{
    struct io_uring_params *p = &ring->params;
    unsigned tail = *ring_word(ring, p->sq_off.tail), slot = tail & (p->sq_entries - 1);
    ring_word(ring, p->sq_off.array)[slot] = slot;
    __atomic_store_n(ring_word(ring, p->sq_off.tail), tail + 1, __ATOMIC_RELEASE);
}

/* Queues one transfer. */
static inline void ring_transfer(struct ring *ring, int opcode, int fd, void *at, size_t len, uint64_t offset, uint64_t data)
{
    struct io_uring_sqe *sqe = ring_entry(ring);
    CHECK(sqe);
    sqe->opcode = (unsigned char)opcode;
    sqe->fd = fd;
    sqe->addr = (uint64_t)(uintptr_t)at;
    sqe->len = (unsigned)len;
    sqe->off = offset;
    sqe->user_data = data;
    ring_queue(ring);
}

/* How many completions are there. */
static inline unsigned ring_ready(struct ring *ring)
{
    struct io_uring_params *p = &ring->params;
    return __atomic_load_n(ring_word(ring, p->cq_off.tail), __ATOMIC_ACQUIRE) - *ring_word(ring, p->cq_off.head);
}

struct completion {
    uint64_t data;
    int result;
    unsigned flags;
};

/* Takes a completion, waiting for it. */
static inline struct completion ring_take(struct ring *ring)
{
    struct io_uring_params *p = &ring->params;
    while (ring_ready(ring) == 0) {
        int done = ring_enter(ring, 0, 1, IORING_ENTER_GETEVENTS);
        CHECK(done == 0 || errno == EINTR);
    }
    unsigned head = *ring_word(ring, p->cq_off.head);
    struct completion cqe;
    memcpy(&cqe, ring->rings + p->cq_off.cqes + (head & (p->cq_entries - 1)) * sizeof cqe, sizeof cqe);
    __atomic_store_n(ring_word(ring, p->cq_off.head), head + 1, __ATOMIC_RELEASE);
    return cqe;
}

#endif
