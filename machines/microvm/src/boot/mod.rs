//! From the boot loader to a machine whose memory is mapped and whose CPUs run.
//!
//! `entry` (assembly) calls `kernel_entry` in `start.rs`, which uses what is here: `info` reads the loader's
//! message, `early` gives memory before there is a heap, `paging` builds the kernel's page tables, `acpi` and
//! `ap` find and start the other CPUs.

pub mod acpi;
pub mod ap;
pub mod config;
pub mod early;
pub mod entry;
pub mod image;
pub mod info;
pub mod paging;

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::arch::mem::{PhysAddr, direct};

static INITRD_START: AtomicU64 = AtomicU64::new(0);
static INITRD_LEN: AtomicU64 = AtomicU64::new(0);

/// Says where the loader has put the archive.
pub fn set_initrd(range: Range<PhysAddr>) {
    INITRD_START.store(range.start, Relaxed);
    INITRD_LEN.store(range.end - range.start, Relaxed);
}

/// The initial archive (cpio newc), all of it.
pub fn initrd() -> &'static [u8] {
    let (start, len) = (INITRD_START.load(Relaxed), INITRD_LEN.load(Relaxed));
    if len == 0 {
        return &[];
    }
    // SAFETY: the loader put the archive there, `Layout::divide` keeps the range out of all other use, and
    // it is mapped (by the boot tables below 4 GiB, by the direct map afterwards).
    unsafe { core::slice::from_raw_parts(direct(start), len as usize) }
}
