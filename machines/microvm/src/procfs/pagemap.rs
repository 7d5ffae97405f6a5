//! `/proc/PID/pagemap`: a word a page, and PAGEMAP_SCAN.
//!
//! Who may open it is asked once, as for `/proc/PID/mem`; it is of the address space that the process had
//! then.
//!
//! Linux: fs/proc/task_mmu.c `pagemap_read`, `do_pagemap_scan`. Differs: `walk_end` is where to go on, also
//! when more regions were told than the kernel keeps at a time.

use crate::fs::file::Positioned;
use crate::fs::iov::{From, To};
use crate::machine::{self, Kernel};
use crate::proc::mm;
use crate::proc::process::Process;
use crate::proc::remote::{As, space_of};
use crate::proc::{Thread, current_thread};
use crate::sched::{self, UserThread};
use crate::usercopy::{self, USER_END};
use alloc::vec::Vec;
use anonmem::{MmGrab, PageCategories, PageRegion, PageScan, ScanEnd, ScanFlags};
use anonmem_hal::{PAGE_SIZE, Va, VaRange};
use anonmem_oslib::Result;
use anonmem_oslib::abi::{Fields, Packer};
use anonmem_oslib::errno::{EFAULT, EINTR, EINVAL, ENOMEM};
use core::mem::offset_of;
use linux_raw_sys::general as abi;

const PAGE: u64 = PAGE_SIZE as u64;
/// Words that are read at a time.
const WORDS: usize = 512;
/// Regions that are kept at a time.
const REGIONS: usize = 512;
const ARGUMENT: usize = size_of::<abi::pm_scan_arg>();

/// `_IOWR('f', 16, struct pm_scan_arg)`: macros of C are in no table of numbers.
const SCAN: u32 = 3 << 30 | (ARGUMENT as u32) << 16 | (b'f' as u32) << 8 | 16;

/// The file, opened.
pub(super) struct Pagemap(MmGrab<'static, Kernel>);

impl Pagemap {
    /// Opens it for the running thread.
    ///
    /// # Errors
    /// `EPERM`, `ESRCH`.
    pub(super) fn open(thread: &Thread, process: &Process) -> Result<Pagemap> {
        Ok(Pagemap(space_of(thread, process, As::Files)?.grab()))
    }
}

impl Positioned for Pagemap {
    /// Eight bytes a page: bit 63 present, bit 62 swapped, bit 57 write-protected, bit 56 exclusive, bit
    /// 55 soft-dirty, bits 0 to 54 the frame.
    fn read_at(&self, offset: u64, to: &mut To<'_>) -> Result<usize> {
        if !offset.is_multiple_of(8) || !to.left().is_multiple_of(8) {
            return Err(EINVAL);
        }
        let Some(space) = self.0.user(machine::vm()) else { return Ok(0) };
        to.fill_from(|done, bytes| {
            let first = (offset + done) / 8;
            let count =
                (bytes.len() as u64 / 8).min(WORDS as u64).min((USER_END / PAGE).saturating_sub(first));
            bytes[..count as usize * 8].fill(0);
            mm::pagemap(&space, first * PAGE, count, &mut |va, bits| {
                let at = (va / PAGE - first) as usize * 8;
                bytes[at..at + 8].copy_from_slice(&bits.to_le_bytes());
            });
            Ok(count as usize * 8)
        })
    }

    fn write_at(&self, _offset: u64, _from: &mut From<'_>) -> Result<usize> {
        Err(EINVAL)
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<usize> {
        if request != SCAN {
            return Err(EINVAL);
        }
        let mut bytes = [0; ARGUMENT];
        usercopy::copy_from_user(&mut bytes, argument)?;
        let mut look = Look::from_argument(&bytes)?;
        let told = match self.0.user(machine::vm()) {
            Some(space) => look.run(&space),
            None => Ok(0),
        };
        let walk_end = argument + offset_of!(abi::pm_scan_arg, walk_end) as u64;
        usercopy::copy_to_user(walk_end, &look.walk_end.to_le_bytes())?;
        told
    }
}

/// A PAGEMAP_SCAN under way.
struct Look {
    scan: PageScan,
    /// Where regions go, and how many there is room for.
    to: u64,
    room: u64,
    walk_end: u64,
}

impl Look {
    /// Reads and checks the argument.
    ///
    /// # Errors
    /// `EINVAL`, `EFAULT`.
    #[doc(alias = "pagemap_scan_get_args")]
    fn from_argument(bytes: &[u8; ARGUMENT]) -> Result<Look> {
        let field = |at: usize| Fields(bytes).u64(at);
        macro_rules! get {
            ($name:ident) => {
                field(offset_of!(abi::pm_scan_arg, $name))
            };
        }
        if get!(size) != ARGUMENT as u64 {
            return Err(EINVAL);
        }
        let flags = ScanFlags::from_bits(get!(flags)).ok_or(EINVAL)?;
        let categories = |bits: u64| PageCategories::from_bits(bits).ok_or(EINVAL);
        let (inverted, all_of) = (categories(get!(category_inverted))?, categories(get!(category_mask))?);
        let (any_of, told) = (categories(get!(category_anyof_mask))?, categories(get!(return_mask))?);
        let (start, end, to, room) = (get!(start), get!(end), get!(vec), get!(vec_len));
        if !start.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        let fits = |start: u64, len: u64| start.checked_add(len).is_some_and(|end| end <= USER_END);
        // An end before the start is a length that no memory has.
        if !fits(start, end.wrapping_sub(start)) {
            return Err(EFAULT);
        }
        if to == 0 && room > 0 {
            return Err(EINVAL);
        }
        let bytes = room.saturating_mul(size_of::<abi::page_region>() as u64);
        if to != 0 && !fits(to, bytes) {
            return Err(EFAULT);
        }
        let end = end.next_multiple_of(PAGE);
        let max_pages = if get!(max_pages) == 0 { u64::MAX } else { get!(max_pages) };
        let range = VaRange { start: Va(start), end: Va(end) };
        let scan = PageScan { range, flags, inverted, all_of, any_of, told, max_pages };
        Ok(Look { scan, to, room, walk_end: end })
    }

    /// Tells as many regions as there is room for; gives how many.
    ///
    /// # Errors
    /// `EPERM`, `EFAULT`, `ENOMEM`, `EINTR`.
    #[doc(alias = "do_pagemap_scan")]
    fn run(&mut self, space: &mm::Space) -> Result<usize> {
        if self.room == 0 {
            return mm::scan(space, &self.scan, None).map(|_| 0);
        }
        let mut regions: Vec<PageRegion> = Vec::new();
        let most = self.room.min(REGIONS as u64) as usize;
        regions.try_reserve_exact(most).map_err(|_| ENOMEM)?;
        regions.resize(most, PageRegion::default());
        let mut told = 0;
        loop {
            let most = self.room.min(REGIONS as u64) as usize;
            let scanned = mm::scan(space, &self.scan, Some(&mut regions[..most]))?;
            if scanned.end != ScanEnd::Range {
                self.walk_end = scanned.next.0;
            }
            self.put(&regions[..scanned.regions])?;
            told += scanned.regions;
            self.scan.range.start = scanned.next;
            self.scan.max_pages -= scanned.pages;
            match scanned.end {
                ScanEnd::Room if self.room > 0 => {}
                ScanEnd::Range => {
                    self.walk_end = self.scan.range.end.0;
                    return Ok(told);
                }
                ScanEnd::Room | ScanEnd::Pages => return Ok(told),
            }
            if sched::interrupt_pending() && current_thread().is_ending() {
                return Err(EINTR);
            }
        }
    }

    /// Copies regions to the program, after those of before.
    ///
    /// # Errors
    /// `EFAULT`.
    #[doc(alias = "pagemap_scan_flush_buffer")]
    fn put(&mut self, regions: &[PageRegion]) -> Result<()> {
        for region in regions {
            let (start, end) = (region.range.start.0, region.range.end.0);
            let bytes = Packer::new().u64(start).u64(end).u64(region.categories.bits());
            usercopy::copy_to_user(self.to, &bytes.0)?;
            self.to += bytes.0.len() as u64;
        }
        self.room -= regions.len() as u64;
        Ok(())
    }
}
