//! A split virtqueue whose descriptors are used one by one: descriptor `i` always means buffer `i`.
//!
//! Virtio 1.2, section 2.7.

use core::mem::offset_of;
use core::sync::atomic::{Ordering::SeqCst, fence};

use crate::arch::mem::{PhysAddr, direct, phys_of};
use crate::heap;

/// Descriptors per queue.
pub(super) const SIZE: usize = 16;
const DEVICE_WRITES: u16 = 2;
const NO_INTERRUPT: u16 = 1;

#[repr(C)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

#[repr(C)]
struct UsedElement {
    id: u32,
    len: u32,
}

/// The memory that driver and device share: one page, in the order that virtio asks for.
#[repr(C)]
struct Shared {
    descriptors: [Descriptor; SIZE],
    avail_flags: u16,
    avail_index: u16,
    avail_ring: [u16; SIZE],
    _used_event: u16,
    _pad: u16,
    used_flags: u16,
    used_index: u16,
    used_ring: [UsedElement; SIZE],
    _avail_event: u16,
}

/// Who fills the buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The driver.
    ToDevice,
    /// The device.
    FromDevice,
}

/// A queue and its buffers, a page each.
pub(super) struct Queue {
    shared: *mut Shared,
    buffers: [PhysAddr; SIZE],
    direction: Direction,
    /// A set bit is a buffer that the device does not have.
    free: u32,
    avail: u16,
    last_used: u16,
}

// SAFETY: the memory is the queue's own.
unsafe impl Send for Queue {}

impl Queue {
    /// A queue in memory of its own.
    pub(super) fn new(direction: Direction) -> Option<Queue> {
        let shared = direct(heap::alloc_page()?).cast::<Shared>();
        let mut buffers = [0; SIZE];
        for buffer in &mut buffers {
            *buffer = heap::alloc_page()?;
        }
        Some(Queue { shared, buffers, direction, free: (1 << SIZE) - 1, avail: 0, last_used: 0 })
    }

    /// The physical addresses of descriptors, available ring, used ring.
    pub(super) fn addresses(&self) -> [PhysAddr; 3] {
        let base = phys_of(self.shared);
        let at = |offset: usize| base + offset as u64;
        [base, at(offset_of!(Shared, avail_flags)), at(offset_of!(Shared, used_flags))]
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
        direct(self.buffers[index])
    }

    /// A field of the shared memory.
    fn field<T>(&self, offset: usize) -> *mut T {
        self.shared.wrapping_byte_add(offset).cast()
    }

    /// Gives a buffer to the device: `len` bytes to read, or room for as many.
    pub(super) fn submit(&mut self, index: usize, len: usize) {
        let flags = if self.direction == Direction::FromDevice { DEVICE_WRITES } else { 0 };
        let descriptor = Descriptor { addr: self.buffers[index], len: len as u32, flags, next: 0 };
        let slot = self.avail as usize % SIZE;
        self.avail = self.avail.wrapping_add(1);
        let at = self.field::<Descriptor>(offset_of!(Shared, descriptors) + index * size_of::<Descriptor>());
        // SAFETY: the device does not read this descriptor before the index below says so.
        unsafe { at.write_volatile(descriptor) };
        let at = self.field::<u16>(offset_of!(Shared, avail_ring) + slot * 2);
        // SAFETY: as above.
        unsafe { at.write_volatile(index as u16) };
        fence(SeqCst);
        let at = self.field::<u16>(offset_of!(Shared, avail_index));
        // SAFETY: only the driver writes the index.
        unsafe { at.write_volatile(self.avail) };
        fence(SeqCst);
    }

    /// Whether the device has returned a buffer.
    pub(super) fn has_used(&self) -> bool {
        let at = self.field::<u16>(offset_of!(Shared, used_index));
        // SAFETY: the device writes it; volatile.
        let index = unsafe { at.read_volatile() };
        index != self.last_used
    }

    /// A buffer that the device returned, and how many bytes it wrote.
    pub(super) fn pop_used(&mut self) -> Option<(usize, usize)> {
        if !self.has_used() {
            return None;
        }
        fence(SeqCst);
        let slot = self.last_used as usize % SIZE;
        let at = self.field::<UsedElement>(offset_of!(Shared, used_ring) + slot * size_of::<UsedElement>());
        // SAFETY: the device wrote the element before the index.
        let element = unsafe { at.read_volatile() };
        self.last_used = self.last_used.wrapping_add(1);
        let index = element.id as usize % SIZE;
        Some((index, element.len as usize))
    }

    /// Takes the returned buffers back (a queue to the device).
    pub(super) fn reclaim(&mut self) {
        while let Some((index, _)) = self.pop_used() {
            self.free |= 1 << index;
        }
    }

    /// Asks the device to interrupt, or not, when it returns a buffer.
    pub(super) fn want_interrupts(&mut self, want: Interrupts) {
        let flags = if want == Interrupts::Wanted { 0 } else { NO_INTERRUPT };
        let at = self.field::<u16>(offset_of!(Shared, avail_flags));
        // SAFETY: only the driver writes the flags.
        unsafe { at.write_volatile(flags) };
        fence(SeqCst);
    }
}

/// Whether the driver waits for returned buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupts {
    /// It does.
    Wanted,
    /// It looks itself, later.
    Unwanted,
}
