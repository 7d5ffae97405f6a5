//! What the memory manager sees of this machine.

pub use anonmem_hal::HeldLocks;

use crate::arch::mem::PhysAddr;
use crate::boot::memory::Layout;

/// An address space of this kernel.
#[derive(Clone, Debug)]
pub struct Mm;

/// Makes the memory manager.
pub fn init(_layout: &Layout) {}

/// The top-level table of an address space.
pub fn root_of(_mm: &Mm) -> PhysAddr {
    0
}

/// This CPU is about to use the address space.
pub fn activate(_mm: &Mm, _cpu: usize) {}

/// This CPU has left the address space.
pub fn deactivate(_mm: &Mm, _cpu: usize) {}

/// A block of frames for the kernel heap.
pub fn alloc_frames(_order: u32) -> Option<PhysAddr> {
    None
}

/// Gives a block back.
pub fn free_frames(_block: PhysAddr, _order: u32) {}
