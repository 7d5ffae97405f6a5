//! Mappings of the host.

use super::Folios;
use crate::PAGE;
use std::{io, ptr::NonNull};

/// Alignment of a region, so that large pages and whole page tables fit: 2 MiB.
const ALIGN: usize = 2 << 20;

/// A private anonymous mapping of the host, readable and writable, with address space that is not accessible
/// around it.
pub struct Region {
    start: NonNull<u8>,
    len: usize,
    /// What was reserved, to be unmapped in the end.
    reserved: (usize, usize),
}

/// The error of the system call that just failed.
fn failed(what: &str) -> io::Error {
    let error = io::Error::last_os_error();
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn check(status: i32, what: &str) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(failed(what)) }
}

/// Maps `len` bytes anywhere, as a program does that does not care where.
pub fn map_anywhere(len: usize) -> io::Result<*mut u8> {
    map(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, 0)
}

/// Unmaps what [`map_anywhere`] mapped.
pub fn unmap(start: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: the range came from `map_anywhere`; nothing refers to it.
    check(unsafe { libc::munmap(start.cast(), len) }, "munmap")
}

fn map(at: *mut u8, len: usize, prot: i32, flags: i32) -> io::Result<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: without MAP_FIXED no mapping is replaced; with it, the caller names a range of its own
    // reservation.
    let start = unsafe { libc::mmap(at.cast(), len, prot, flags, -1, 0) };
    if start == libc::MAP_FAILED { Err(failed("mmap")) } else { Ok(start.cast()) }
}

impl Region {
    /// Maps `len` bytes, aligned to 2 MiB: for base pages only (`MADV_NOHUGEPAGE`), or for what
    /// /sys/kernel/mm/transparent_hugepage allows now (`MADV_HUGEPAGE`).
    ///
    /// # Errors
    /// What the host says.
    pub fn new(len: usize, folios: Folios) -> io::Result<Self> {
        let around = len + 3 * ALIGN;
        let base = map(std::ptr::null_mut(), around, libc::PROT_NONE, libc::MAP_NORESERVE)?;
        let at = (base as usize + ALIGN).next_multiple_of(ALIGN);
        let start = map(at as *mut u8, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_FIXED)?;
        let start = NonNull::new(start).ok_or_else(|| io::Error::other("mapped at page 0"))?;
        let region = Self { start, len, reserved: (base as usize, around) };
        let advice = match folios {
            Folios::Base => libc::MADV_NOHUGEPAGE,
            Folios::Kib64 | Folios::Mib2 => libc::MADV_HUGEPAGE,
        };
        match region.advise(advice) {
            // A kernel without transparent huge pages has none to forbid.
            Err(e) if folios == Folios::Base && e.kind() == io::ErrorKind::InvalidInput => {}
            other => other?,
        }
        Ok(region)
    }

    /// Asks for three times `len` bytes, touches and returns them: the host's free lists then hold memory
    /// that is there.
    ///
    /// # Errors
    /// What the host says.
    pub fn warm(len: usize, folios: Folios) -> io::Result<()> {
        Self::new(3 * len, folios)?.populate()
    }

    /// The first byte.
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no byte: never.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of base pages.
    pub fn pages(&self) -> usize {
        self.len / PAGE
    }

    /// `madvise` of all of it.
    ///
    /// # Errors
    /// What the host says.
    pub fn advise(&self, advice: i32) -> io::Result<()> {
        // SAFETY: the range is ours; whatever advice does to its bytes, nobody relies on them.
        check(unsafe { libc::madvise(self.start().cast(), self.len, advice) }, "madvise")
    }

    /// How many of its pages are in memory (`mincore`).
    ///
    /// # Errors
    /// What the host says.
    pub fn resident(&self) -> io::Result<usize> {
        let mut there = vec![0_u8; self.pages()];
        // SAFETY: the range is ours, and there is a byte for each of its pages.
        check(unsafe { libc::mincore(self.start().cast(), self.len, there.as_mut_ptr()) }, "mincore")?;
        Ok(there.iter().filter(|&&page| page & 1 != 0).count())
    }

    /// Faults everything in for writing with one call (`MADV_POPULATE_WRITE`).
    ///
    /// # Errors
    /// What the host says.
    pub fn populate(&self) -> io::Result<()> {
        self.advise(libc::MADV_POPULATE_WRITE)
    }

    /// Drops all pages (`MADV_DONTNEED`).
    ///
    /// # Errors
    /// What the host says.
    pub fn dont_need(&self) -> io::Result<()> {
        self.advise(libc::MADV_DONTNEED)
    }

    /// Changes the access rights of everything.
    ///
    /// # Errors
    /// What the host says.
    pub fn protect(&self, prot: i32) -> io::Result<()> {
        self.protect_part(0, self.len, prot)
    }

    /// Changes the access rights of `len` bytes from `offset` on.
    ///
    /// # Errors
    /// What the host says.
    pub fn protect_part(&self, offset: usize, len: usize, prot: i32) -> io::Result<()> {
        let at = self.at(offset);
        // SAFETY: the part is in the region, which is ours.
        check(unsafe { libc::mprotect(at.cast(), len, prot) }, "mprotect")
    }

    /// Writes a byte of every page from `offset` in steps of `stride` bytes.
    pub fn touch_write(&self, offset: usize, stride: usize) {
        for at in (offset..self.len).step_by(stride) {
            // SAFETY: in the region, which is writable and has no references into it.
            unsafe { self.at(at).write_volatile(1) };
        }
    }

    /// Reads a byte of every page.
    pub fn touch_read(&self) {
        for at in (0..self.len).step_by(PAGE) {
            // SAFETY: in the region, which is readable.
            unsafe { self.at(at).read_volatile() };
        }
    }

    /// Unmaps all of it now (`munmap`); what was reserved around it goes later.
    ///
    /// # Errors
    /// What the host says.
    pub fn unmap(&self) -> io::Result<()> {
        unmap(self.start(), self.len)
    }

    /// Moves all of it to `to` (`mremap`), which the caller reserved.
    ///
    /// # Errors
    /// What the host says.
    ///
    /// # Safety
    /// `to .. to + len` is address space that the caller owns and nothing refers to.
    pub unsafe fn move_to(&mut self, to: *mut u8) -> io::Result<()> {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let from = self.start().cast();
        // SAFETY: the source is ours, and the caller vouches for the target.
        let moved = unsafe { libc::mremap(from, self.len, self.len, flags, to) };
        if moved == libc::MAP_FAILED {
            return Err(failed("mremap"));
        }
        self.start = NonNull::new(moved.cast()).ok_or_else(|| io::Error::other("moved to page 0"))?;
        Ok(())
    }

    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < self.len);
        self.start().wrapping_add(offset)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let outside = (self.start() as usize).wrapping_sub(self.reserved.0) >= self.reserved.1;
        // The region may have been moved out of its reservation, or unmapped: unmapping nothing is no error.
        let _ = unmap(self.reserved.0 as *mut u8, self.reserved.1);
        if outside {
            let _ = unmap(self.start(), self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_aligned_zero_and_writable() {
        let region = Region::new(4 * PAGE, Folios::Base).unwrap();
        assert!((region.start() as usize).is_multiple_of(ALIGN));
        region.touch_read();
        region.touch_write(0, PAGE);
        region.protect_part(PAGE, PAGE, libc::PROT_READ).unwrap();
        region.dont_need().unwrap();
        region.unmap().unwrap();
    }

    #[test]
    fn a_region_moves() {
        let mut region = Region::new(2 * PAGE, Folios::Base).unwrap();
        region.touch_write(0, PAGE);
        let target = map_anywhere(2 * PAGE).unwrap();
        // SAFETY: just mapped, and nobody knows it.
        unsafe { region.move_to(target) }.unwrap();
        assert_eq!(region.start(), target);
        region.touch_read();
    }
}
