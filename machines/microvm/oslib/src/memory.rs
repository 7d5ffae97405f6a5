//! How physical memory is divided.
//!
//! Of the loader's RAM ranges the first MiB, the kernel image and the archive stay as they are. From the rest
//! come one block for the kernel itself ([`KERNEL_RESERVE`]), the frame metadata, and one contiguous block of
//! frames for the memory manager, as large as it was asked for (or as there is).

use core::ops::Range;

/// What the kernel keeps for itself besides its image: page tables, stacks of the CPUs, the early heap,
/// which is also the heap's reserve when memory is short.
pub const KERNEL_RESERVE: u64 = 16 << 20;
/// Metadata per frame of the memory manager.
pub const FRAME_METADATA: u64 = 32;
/// The most RAM ranges that are looked at.
pub const MAX_RANGES: usize = 32;

const PAGE: u64 = 4096;
const LOW_MEMORY: u64 = 1 << 20;
/// The kernel's own block lies below: the boot page tables map no more.
const BOOT_LIMIT: u64 = 1 << 32;

/// The division.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The end of RAM, for the direct map.
    pub ram_end: u64,
    /// For the kernel itself.
    pub kernel: Range<u64>,
    /// The frame metadata.
    pub metadata: Range<u64>,
    /// The memory manager's frames.
    pub frames: Range<u64>,
}

#[derive(Default)]
struct Free {
    list: [Range<u64>; MAX_RANGES],
    len: usize,
}

impl Free {
    fn ranges(&self) -> &[Range<u64>] {
        &self.list[..self.len]
    }

    fn push(&mut self, range: Range<u64>) {
        if range.start < range.end && self.len < MAX_RANGES {
            self.list[self.len] = range;
            self.len += 1;
        }
    }

    fn remove(&mut self, hole: Range<u64>) {
        if hole.is_empty() {
            return;
        }
        let hole = page_down(hole.start)..page_up(hole.end);
        let mut left = Free::default();
        for range in self.ranges() {
            left.push(range.start..range.end.min(hole.start));
            left.push(range.start.max(hole.end)..range.end);
        }
        *self = left;
    }

    fn largest(&self) -> Range<u64> {
        self.ranges().iter().max_by_key(|range| range.end - range.start).cloned().unwrap_or(0..0)
    }

    /// Cuts `size` bytes from the start of the smallest range that has them below [`BOOT_LIMIT`], so that
    /// the largest stays whole where there is a choice.
    fn take_low(&mut self, size: u64) -> Option<Range<u64>> {
        let fits = |range: &&mut Range<u64>| range.end.min(BOOT_LIMIT) >= range.start.saturating_add(size);
        let ranges = self.list[..self.len].iter_mut();
        let range = ranges.filter(fits).min_by_key(|range| range.end - range.start)?;
        let start = range.start;
        range.start += size;
        Some(start..start + size)
    }
}

/// There is no room for the kernel and at least one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooSmall;

impl Layout {
    /// Divides `ranges`. `wanted` is what the memory manager shall get; it gets less if there is less in one
    /// piece.
    ///
    /// # Errors
    /// [`TooSmall`].
    pub fn divide(
        ranges: &[Range<u64>],
        image: Range<u64>,
        archive: Range<u64>,
        wanted: Option<u64>,
    ) -> Result<Layout, TooSmall> {
        let mut free = Free::default();
        for range in ranges {
            free.push(page_up(range.start)..page_down(range.end));
        }
        let ram_end = free.ranges().iter().map(|range| range.end).max().unwrap_or(0);
        for taken in [0..LOW_MEMORY, image, archive] {
            free.remove(taken);
        }
        let most = wanted.unwrap_or(u64::MAX).min(free.largest().end - free.largest().start);
        let metadata_size = page_up(most / PAGE * FRAME_METADATA) + PAGE;
        let own = free.take_low(KERNEL_RESERVE + metadata_size).ok_or(TooSmall)?;
        let kernel = own.start..own.start + KERNEL_RESERVE;
        let metadata = kernel.end..own.end;
        let frames = free.largest();
        let end = frames.end.min(frames.start.saturating_add(page_down(most)));
        if frames.start >= end {
            return Err(TooSmall);
        }
        Ok(Layout { ram_end, kernel, metadata, frames: frames.start..end })
    }
}

fn page_up(addr: u64) -> u64 {
    addr.next_multiple_of(PAGE)
}

fn page_down(addr: u64) -> u64 {
    addr / PAGE * PAGE
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one range of memory is a list of one")]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const IMAGE: Range<u64> = MIB..2 * MIB;

    fn check(layout: &Layout, taken: &[Range<u64>], ram: &[Range<u64>]) {
        let mut all = std::vec![layout.kernel.clone(), layout.metadata.clone(), layout.frames.clone()];
        for part in &all {
            assert!(
                ram.iter().any(|ram| ram.start <= part.start && part.end <= ram.end),
                "{part:x?} is no RAM"
            );
        }
        all.extend_from_slice(taken);
        all.sort_by_key(|range| range.start);
        assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "parts overlap: {all:x?}");
        let frames = (layout.frames.end - layout.frames.start) / PAGE;
        assert!(layout.metadata.end - layout.metadata.start >= frames * FRAME_METADATA + 64);
    }

    #[test]
    fn the_memory_manager_gets_what_was_asked_for() {
        let ram = [0..0x9_fc00, MIB..256 * MIB];
        let archive = 250 * MIB..255 * MIB + 17;
        let layout = Layout::divide(&ram, IMAGE, archive.clone(), Some(64 * MIB)).unwrap();
        check(&layout, &[IMAGE, archive], &ram);
        assert_eq!(layout.frames.end - layout.frames.start, 64 * MIB);
        assert_eq!(layout.ram_end, 256 * MIB);
    }

    #[test]
    fn without_a_wish_it_gets_the_largest_piece() {
        let ram = [MIB..256 * MIB];
        let archive = 100 * MIB..110 * MIB;
        let layout = Layout::divide(&ram, IMAGE, archive.clone(), None).unwrap();
        check(&layout, &[IMAGE, archive], &ram);
        assert_eq!(layout.frames, 110 * MIB..256 * MIB);
    }

    #[test]
    fn a_large_block_lies_above_four_gib_and_the_kernel_below() {
        let ram = [MIB..3 * GIB, 4 * GIB..12 * GIB];
        let layout = Layout::divide(&ram, IMAGE, 2 * GIB..2 * GIB + 5, Some(8 * GIB)).unwrap();
        check(&layout, &[IMAGE, 2 * GIB..2 * GIB + 5], &ram);
        assert_eq!(layout.frames, 4 * GIB..12 * GIB);
        assert!(layout.metadata.end <= 4 * GIB);
    }

    #[test]
    fn too_little_is_an_error() {
        assert_eq!(Layout::divide(&[MIB..10 * MIB], IMAGE, 0..0, None).unwrap_err(), TooSmall);
        assert_eq!(Layout::divide(&[], IMAGE, 0..0, None).unwrap_err(), TooSmall);
    }
}
