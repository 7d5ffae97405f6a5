//! A queue whose descriptors are used one by one: descriptor `i` always means buffer `i`, a page.

use crate::arch::mem::{PAGE, PhysAddr, direct};
use crate::heap;
use crate::virtio::queue::{Direction, Interrupts, Part, Queue};

/// Descriptors per queue.
pub(super) const SIZE: usize = 16;

/// A queue and its buffers.
pub(super) struct Buffers {
    queue: Queue<SIZE>,
    pages: [PhysAddr; SIZE],
    direction: Direction,
    /// A set bit is a buffer that the device does not have.
    free: u32,
}

impl Buffers {
    /// A queue in memory of its own.
    pub(super) fn new(direction: Direction) -> Option<Buffers> {
        let queue = Queue::new()?;
        let mut pages = [0; SIZE];
        for page in &mut pages {
            *page = heap::alloc_page()?;
        }
        Some(Buffers { queue, pages, direction, free: (1 << SIZE) - 1 })
    }

    /// The physical addresses of descriptors, available ring, used ring.
    pub(super) fn addresses(&self) -> [PhysAddr; 3] {
        self.queue.addresses()
    }

    /// A buffer that the device does not have; it stays the caller's until [`submit`](Self::submit).
    pub(super) fn take_buffer(&mut self) -> Option<usize> {
        if self.free == 0 {
            return None;
        }
        let index = self.free.trailing_zeros() as usize;
        self.free &= !(1 << index);
        Some(index)
    }

    /// Whether the device has none of the buffers.
    pub(super) fn is_quiet(&self) -> bool {
        self.free.count_ones() as usize == SIZE
    }

    /// Where a buffer is.
    pub(super) fn buffer(&self, index: usize) -> *mut u8 {
        direct(self.pages[index])
    }

    /// Gives a buffer to the device: `len` bytes to read, or room for as many.
    pub(super) fn submit(&mut self, index: usize, len: usize) {
        let len = len.min(PAGE as usize) as u32;
        let part = Part { at: self.pages[index], len, direction: self.direction };
        self.queue.submit(index, core::iter::once(part));
    }

    /// Whether the device has returned a buffer.
    pub(super) fn has_used(&self) -> bool {
        self.queue.has_used()
    }

    /// A buffer that the device returned, and how many bytes it wrote.
    pub(super) fn pop_used(&mut self) -> Option<(usize, usize)> {
        self.queue.pop_used()
    }

    /// Takes the returned buffers back (a queue to the device).
    pub(super) fn reclaim(&mut self) {
        while let Some((index, _)) = self.queue.pop_used() {
            self.free |= 1 << index;
        }
    }

    /// Asks the device to interrupt, or not, when it returns a buffer.
    pub(super) fn want_interrupts(&mut self, want: Interrupts) {
        self.queue.want_interrupts(want);
    }
}
