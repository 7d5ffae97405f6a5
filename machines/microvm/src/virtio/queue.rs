//! A split virtqueue: descriptors, and the two rings by which they go to the device and come back.
//!
//! Whose a descriptor is, the queue's user says: the console gives each one a buffer, the disk gives each
//! request sixteen in a row. So the queue has no list of free ones, and a chain is always of neighbours.
//!
//! Virtio 1.2, section 2.7.

use crate::arch::mem::{PAGE, PhysAddr, direct};
use crate::heap;
use core::mem::offset_of;
use core::sync::atomic::{Ordering::SeqCst, fence};

const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;
const NO_INTERRUPT: u16 = 1;

/// Who writes the memory that a descriptor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The driver: the device reads it.
    ToDevice,
    /// The device.
    FromDevice,
}

/// Memory for one descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Where it is.
    pub at: PhysAddr,
    /// How many bytes.
    pub len: u32,
    /// Who writes it.
    pub direction: Direction,
}

/// Whether the driver waits for descriptors to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// It does.
    Wanted,
    /// It looks itself, later.
    Unwanted,
}

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

/// The rings, in a page of their own.
#[repr(C)]
struct Rings<const SIZE: usize> {
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

/// A queue of `SIZE` descriptors. Whoever has it is the only one who writes the driver's side.
pub struct Queue<const SIZE: usize> {
    descriptors: PhysAddr,
    rings: PhysAddr,
    avail: u16,
    last_used: u16,
}

impl<const SIZE: usize> Queue<SIZE> {
    /// Each half fits into its page, and indices that wrap stay in step.
    const FITS: () = assert!(
        SIZE.is_power_of_two()
            && SIZE * size_of::<Descriptor>() <= PAGE as usize
            && size_of::<Rings<SIZE>>() <= PAGE as usize
    );

    /// A queue in memory of its own.
    pub fn new() -> Option<Self> {
        const { Self::FITS };
        let descriptors = heap::alloc_page()?;
        let rings = heap::alloc_page()?;
        Some(Queue { descriptors, rings, avail: 0, last_used: 0 })
    }

    /// The physical addresses of descriptors, available ring, used ring.
    pub fn addresses(&self) -> [PhysAddr; 3] {
        let at = |offset: usize| self.rings + offset as u64;
        [self.descriptors, at(offset_of!(Rings<SIZE>, avail_flags)), at(offset_of!(Rings<SIZE>, used_flags))]
    }

    /// A field of the rings.
    fn field<T>(&self, offset: usize) -> *mut T {
        direct(self.rings).wrapping_add(offset).cast()
    }

    /// Gives the device a chain of descriptors from `first` on, one for each part. The device has none of
    /// them now, and the parts' memory is its own until the chain comes back.
    pub fn submit(&mut self, first: usize, parts: impl ExactSizeIterator<Item = Part>) {
        let last = parts.len().saturating_sub(1);
        for (step, part) in parts.enumerate() {
            let index = (first + step) % SIZE;
            let next = if step < last { NEXT } else { 0 };
            let direction = if part.direction == Direction::FromDevice { DEVICE_WRITES } else { 0 };
            let at = direct(self.descriptors).cast::<Descriptor>().wrapping_add(index);
            let next_index = (index + 1) as u16;
            let value =
                Descriptor { addr: part.at, len: part.len, flags: next | direction, next: next_index };
            // SAFETY: within the queue's page; the device does not read it before the index below says so.
            unsafe { at.write_volatile(value) };
        }
        let slot = self.avail as usize % SIZE;
        self.avail = self.avail.wrapping_add(1);
        let at = self.field::<u16>(offset_of!(Rings<SIZE>, avail_ring) + slot * 2);
        // SAFETY: as above.
        unsafe { at.write_volatile(first as u16) };
        fence(SeqCst);
        let at = self.field::<u16>(offset_of!(Rings<SIZE>, avail_index));
        // SAFETY: only the driver writes the index.
        unsafe { at.write_volatile(self.avail) };
        fence(SeqCst);
    }

    /// Whether the device has returned a chain.
    pub fn has_used(&self) -> bool {
        let at = self.field::<u16>(offset_of!(Rings<SIZE>, used_index));
        // SAFETY: the device writes it; volatile.
        let index = unsafe { at.read_volatile() };
        index != self.last_used
    }

    /// The first descriptor of a chain that the device returned, and how many bytes it wrote.
    pub fn pop_used(&mut self) -> Option<(usize, usize)> {
        if !self.has_used() {
            return None;
        }
        fence(SeqCst);
        let slot = self.last_used as usize % SIZE;
        let offset = offset_of!(Rings<SIZE>, used_ring) + slot * size_of::<UsedElement>();
        let at = self.field::<UsedElement>(offset);
        // SAFETY: the device wrote the element before the index.
        let element = unsafe { at.read_volatile() };
        self.last_used = self.last_used.wrapping_add(1);
        Some((element.id as usize % SIZE, element.len as usize))
    }

    /// Asks the device to interrupt, or not, when it returns a chain.
    pub fn want_interrupts(&mut self, want: Interrupts) {
        let flags = if want == Interrupts::Wanted { 0 } else { NO_INTERRUPT };
        let at = self.field::<u16>(offset_of!(Rings<SIZE>, avail_flags));
        // SAFETY: only the driver writes the flags.
        unsafe { at.write_volatile(flags) };
        fence(SeqCst);
    }
}
