//! Addresses, frames and sizes as types, so that a byte is never taken for a page.
//!
//! The base page is 4 KiB on every architecture that anonmem knows ([`PAGE_SHIFT`]); larger units are
//! an [`Order`] of it.

use core::fmt;

/// log2 of the base page size in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// The base page size in bytes.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// The largest order of the frame allocator: 2^10 pages, 4 MiB.
pub const MAX_ORDER: u8 = 10;

/// A length in bytes, rounded up to whole pages. One that wraps around becomes 0, as on Linux (`PAGE_ALIGN`).
pub const fn page_align(len: u64) -> u64 {
    len.wrapping_add(PAGE_SIZE as u64 - 1) & !(PAGE_SIZE as u64 - 1)
}

/// A user virtual address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Va(pub u64);

impl Va {
    /// Rounds down to a page boundary.
    pub const fn page_down(self) -> Self {
        Self(self.0 & !(PAGE_SIZE as u64 - 1))
    }

    /// Rounds up to a page boundary; `None` if that is past the end of the address space.
    pub const fn page_up(self) -> Option<Self> {
        match self.0.checked_add(PAGE_SIZE as u64 - 1) {
            Some(v) => Some(Self(v).page_down()),
            None => None,
        }
    }

    /// Rounds down to a multiple of `align`, a power of two in bytes.
    pub const fn align_down(self, align: u64) -> Self {
        Self(self.0 & !(align - 1))
    }

    /// Whether this is the first byte of a page.
    pub const fn is_page_aligned(self) -> bool {
        self.0 & (PAGE_SIZE as u64 - 1) == 0
    }

    /// The number of the page that holds this address.
    pub const fn page(self) -> u64 {
        self.0 >> PAGE_SHIFT
    }

    /// The offset within the page, in bytes.
    pub const fn page_offset(self) -> usize {
        (self.0 & (PAGE_SIZE as u64 - 1)) as usize
    }

    /// The first byte of page number `page`.
    pub const fn from_page(page: u64) -> Self {
        Self(page << PAGE_SHIFT)
    }

    /// This address plus `bytes`; `None` on overflow.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(v) => Some(Self(v)),
            None => None,
        }
    }

    /// The page that follows the one at this address.
    pub const fn next_page(self) -> Self {
        self.page_after(1)
    }

    /// The address `pages` pages on.
    pub const fn page_after(self, pages: u64) -> Self {
        Self(self.0 + pages * PAGE_SIZE as u64)
    }
}

impl fmt::Debug for Va {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A half-open range of user virtual addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct VaRange {
    /// First byte.
    pub start: Va,
    /// One past the last byte.
    pub end: Va,
}

impl VaRange {
    /// The range from `start` to `end`.
    ///
    /// # Panics
    /// If `start > end`.
    #[inline(always)]
    pub const fn new(start: Va, end: Va) -> Self {
        assert!(start.0 <= end.0, "a range starts after its end");
        Self { start, end }
    }

    /// The `len` bytes from `start`; `None` on overflow.
    pub const fn of(start: Va, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// The one page at `va`.
    pub const fn page(va: Va) -> Self {
        Self { start: va.page_down(), end: va.page_down().next_page() }
    }

    /// Length in bytes.
    pub const fn len(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Length in pages; both ends must be page aligned.
    pub const fn pages(self) -> NrPages {
        NrPages(self.len() >> PAGE_SHIFT)
    }

    /// Whether the range has no byte.
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// Whether `va` lies in the range.
    pub const fn contains(self, va: Va) -> bool {
        self.start.0 <= va.0 && va.0 < self.end.0
    }

    /// Whether `other` lies wholly in this range.
    pub const fn covers(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// Whether the two have a byte in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end.0 && other.start.0 < self.end.0
    }

    /// The common part, if any.
    pub fn intersect(self, other: Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }

    /// The addresses of the pages in the range; both ends must be page aligned.
    pub fn iter_pages(self) -> impl Iterator<Item = Va> {
        (self.start.page()..self.end.page()).map(Va::from_page)
    }
}

impl fmt::Debug for VaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start.0, self.end.0)
    }
}

/// A page frame number: a physical address shifted by [`PAGE_SHIFT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Pfn(pub u64);

impl Pfn {
    /// The frame `pages` further on.
    pub const fn offset(self, pages: u64) -> Self {
        Self(self.0 + pages)
    }

    /// The physical address of the frame's first byte.
    pub const fn phys(self) -> u64 {
        self.0 << PAGE_SHIFT
    }
}

/// A number of base pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct NrPages(pub u64);

impl NrPages {
    /// The same in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 << PAGE_SHIFT
    }

    /// The number of pages that hold `bytes`, rounded up.
    pub const fn containing(bytes: u64) -> Self {
        Self(bytes.div_ceil(PAGE_SIZE as u64))
    }
}

/// log2 of a block size in base pages, at most [`MAX_ORDER`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Order(u8);

impl Order {
    /// One page.
    pub const ZERO: Self = Self(0);
    /// The largest block.
    pub const MAX: Self = Self(MAX_ORDER);

    /// The order `n`.
    ///
    /// # Panics
    /// If `n` exceeds [`MAX_ORDER`].
    #[inline(always)]
    pub const fn new(n: u8) -> Self {
        assert!(n <= MAX_ORDER, "order out of range");
        Self(n)
    }

    /// The exponent.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number of base pages of a block.
    pub const fn pages(self) -> u64 {
        1 << self.0
    }

    /// The size of a block in bytes.
    pub const fn bytes(self) -> usize {
        PAGE_SIZE << self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_up_past_the_end_is_none() {
        assert_eq!(Va(u64::MAX).page_up(), None);
        assert_eq!(Va(1).page_up(), Some(Va(4096)));
        assert_eq!(Va(4096).page_up(), Some(Va(4096)));
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let (a, b) = (VaRange::new(Va(0), Va(4096)), VaRange::new(Va(4096), Va(8192)));
        assert!(!a.overlaps(b));
        assert_eq!(a.intersect(b), None);
        assert!(VaRange::new(Va(0), Va(8192)).covers(b));
    }
}
