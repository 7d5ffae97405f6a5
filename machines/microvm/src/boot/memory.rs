//! How physical memory is divided.
//!
//! From the loader's RAM ranges, in this order: the first MiB and the kernel image stay as they are; so does
//! the archive; then one block for the kernel itself ([`KERNEL_RESERVE`] and the frame metadata), then one
//! contiguous block of frames for the memory manager, as large as `ram=` says (or all that is left).

use core::ops::Range;

use super::info::{BootInfo, MAX_RANGES};
use crate::arch::mem::{PAGE, PhysAddr, page_down, page_up};

/// What the kernel keeps for itself besides its image: page tables, stacks of the CPUs, the early heap,
/// which is also the heap's reserve when memory is short.
pub const KERNEL_RESERVE: u64 = 16 << 20;
/// Metadata per frame of the memory manager.
pub const FRAME_METADATA: u64 = 32;
const LOW_MEMORY: u64 = 1 << 20;

/// The division.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The end of RAM, for the direct map.
    pub ram_end: PhysAddr,
    /// For the kernel itself.
    pub kernel: Range<PhysAddr>,
    /// The frame metadata.
    pub metadata: Range<PhysAddr>,
    /// The memory manager's frames.
    pub frames: Range<PhysAddr>,
}

struct Free {
    ranges: [Range<PhysAddr>; MAX_RANGES],
    len: usize,
}

impl Free {
    fn push(&mut self, range: Range<PhysAddr>) {
        if range.start < range.end && self.len < MAX_RANGES {
            self.ranges[self.len] = range;
            self.len += 1;
        }
    }

    fn remove(&mut self, hole: Range<PhysAddr>) {
        let hole = page_down(hole.start)..page_up(hole.end);
        let mut left = Free { ranges: [const { 0..0 }; MAX_RANGES], len: 0 };
        for range in &self.ranges[..self.len] {
            left.push(range.start..range.end.min(hole.start.max(range.start)));
            left.push(range.start.max(hole.end.min(range.end))..range.end);
        }
        *self = left;
    }

    fn largest(&self) -> Range<PhysAddr> {
        self.ranges[..self.len].iter().max_by_key(|range| range.end - range.start).cloned().unwrap_or(0..0)
    }

    /// Cuts `size` bytes from the start of the smallest range below 4 GiB that has them (the boot tables
    /// map no more), so that the largest stays whole where there is a choice.
    fn take_low(&mut self, size: u64) -> Range<PhysAddr> {
        let fits = |range: &&mut Range<PhysAddr>| range.end.min(1 << 32) >= range.start + size;
        let range =
            self.ranges[..self.len].iter_mut().filter(fits).min_by_key(|range| range.end - range.start);
        let range =
            range.unwrap_or_else(|| panic!("not enough memory for the kernel: give QEMU a larger -m"));
        let start = range.start;
        range.start += size;
        start..start + size
    }
}

impl Layout {
    /// Divides the memory; `ram` is what the memory manager shall get.
    pub fn divide(info: &BootInfo, image: Range<PhysAddr>, ram: Option<u64>) -> Layout {
        let mut free = Free { ranges: [const { 0..0 }; MAX_RANGES], len: 0 };
        for range in info.ram() {
            free.push(page_up(range.start)..page_down(range.end));
        }
        let ram_end = free.ranges[..free.len].iter().map(|range| range.end).max().unwrap_or(0);
        free.remove(0..LOW_MEMORY);
        free.remove(image);
        free.remove(info.initrd.clone());
        let most = ram.unwrap_or(u64::MAX).min(free.largest().end - free.largest().start);
        let metadata_size = page_up(most / PAGE * FRAME_METADATA) + PAGE;
        let own = free.take_low(KERNEL_RESERVE + metadata_size);
        let kernel = own.start..own.start + KERNEL_RESERVE;
        let metadata = kernel.end..own.end;
        let frames = free.largest();
        let end = frames.end.min(frames.start.saturating_add(page_down(most)));
        Layout { ram_end, kernel, metadata, frames: frames.start..end }
    }
}
