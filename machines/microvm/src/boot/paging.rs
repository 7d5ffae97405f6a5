//! The kernel's own page tables.
//!
//! All top-level tables share the upper half: the direct map of physical memory, the kernel stacks, the
//! kernel image. Those three top-level entries are set once, here, before any other table is made.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anonmem_oslib::memory::Layout;

use super::{early, image};
use crate::arch::cpu::has_gigabyte_pages;
use crate::arch::lock::SpinLock;
use crate::arch::mem::{DIRECT_MAP, KERNEL_VMA, PAGE, PhysAddr, STACK_AREA, direct, page_up};
use crate::arch::tlb;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const TABLE: u64 = PRESENT | WRITE | 1 << 5;
const DATA: u64 = PRESENT | WRITE | ACCESSED_DIRTY | GLOBAL | NO_EXECUTE;
const READ_ONLY: u64 = PRESENT | ACCESSED_DIRTY | GLOBAL | NO_EXECUTE;
const TEXT: u64 = PRESENT | ACCESSED_DIRTY | GLOBAL;
const DEVICE: u64 = DATA | WRITE_THROUGH | CACHE_DISABLE;

const TWO_MIB: u64 = 2 << 20;
const ONE_GIB: u64 = 1 << 30;
const FOUR_GIB: u64 = 4 << 30;
/// From here to 4 GiB: I/O APIC, virtio transports, local APIC.
const DEVICES: u64 = 0xfe00_0000;

static ROOT: AtomicU64 = AtomicU64::new(0);
static LOCK: SpinLock<()> = SpinLock::new(());

/// The top-level table of CPUs that run no program.
pub fn kernel_root() -> PhysAddr {
    ROOT.load(Relaxed)
}

/// Builds the kernel's tables and switches the first CPU to them.
pub fn init(layout: &Layout) {
    let root = early::page();
    map_physical_memory(root, layout.ram_end);
    map_image(root);
    // The entry for kernel stacks exists before it is copied to other top-level tables.
    slot(root, STACK_AREA, 2, &mut || Some(early::page()));
    ROOT.store(root, Relaxed);
    tlb::load_root(root);
}

/// Fills the kernel's half of a new top-level table.
pub fn copy_kernel_half(root: PhysAddr) {
    const HALF: u64 = PAGE / 2;
    let (from, to) = (direct(kernel_root() + HALF), direct(root + HALF));
    // SAFETY: both are top-level tables of 512 entries; the new one is not in use yet, the upper
    // half of the kernel's does not change after boot.
    unsafe { core::ptr::copy_nonoverlapping(from, to, HALF as usize) };
}

fn map_physical_memory(root: PhysAddr, ram_end: PhysAddr) {
    let end = ram_end.max(FOUR_GIB).next_multiple_of(TWO_MIB);
    let gigabytes = has_gigabyte_pages();
    let mut pa = 0;
    while pa < end {
        let devices_in_gigabyte = pa < FOUR_GIB && pa + ONE_GIB > DEVICES;
        let whole = gigabytes && pa % ONE_GIB == 0 && pa + ONE_GIB <= end && !devices_in_gigabyte;
        let flags = if (DEVICES..FOUR_GIB).contains(&pa) { DEVICE } else { DATA };
        let (level, size) = if whole { (2, ONE_GIB) } else { (1, TWO_MIB) };
        set(slot(root, DIRECT_MAP + pa, level, &mut || Some(early::page())), pa | flags | LARGE);
        pa += size;
    }
}

fn map_image(root: PhysAddr) {
    for (range, flags) in [(image::text(), TEXT), (image::rodata(), READ_ONLY), (image::data(), DATA)] {
        let Range { start, end } = range;
        for va in (start..page_up(end)).step_by(PAGE as usize) {
            set(slot(root, va, 0, &mut || Some(early::page())), (va - KERNEL_VMA) | flags);
        }
    }
}

fn set(slot: Option<*mut u64>, entry: u64) {
    let slot = slot.expect("boot has memory for its page tables");
    // SAFETY: `slot` points to an entry of a table that this module made.
    unsafe { slot.write_volatile(entry) };
}

/// The place of the entry for `va` at `level` (0: 4 KiB pages); makes missing tables from `alloc`.
fn slot(
    root: PhysAddr,
    va: u64,
    level: u32,
    alloc: &mut dyn FnMut() -> Option<PhysAddr>,
) -> Option<*mut u64> {
    let mut table = root;
    let mut at = 3;
    loop {
        let index = (va >> (12 + 9 * at) & 511) as usize;
        // SAFETY: tables are pages in the direct map; the index is below 512.
        let entry = unsafe { direct(table).cast::<u64>().add(index) };
        if at == level {
            return Some(entry);
        }
        // SAFETY: as above. Volatile: the CPU reads it too.
        let mut value = unsafe { entry.read_volatile() };
        if value & PRESENT == 0 {
            value = alloc()? | TABLE;
            // SAFETY: as above.
            unsafe { entry.write_volatile(value) };
        }
        table = value & ADDRESS;
        at -= 1;
    }
}

/// Maps one page of kernel data in the stack area, with tables from `alloc`; false when it has none.
pub fn map_page(va: u64, pa: PhysAddr, alloc: &mut dyn FnMut() -> Option<PhysAddr>) -> bool {
    let _guard = LOCK.lock();
    let Some(entry) = slot(kernel_root(), va, 0, alloc) else { return false };
    // SAFETY: an entry of the stack area's tables, under their lock.
    unsafe { entry.write_volatile(pa | DATA) };
    true
}

/// Unmaps a page that [`map_page`] mapped and returns it. The caller flushes.
pub fn unmap_page(va: u64) -> PhysAddr {
    let _guard = LOCK.lock();
    let entry = slot(kernel_root(), va, 0, &mut || None).expect("the page is mapped");
    // SAFETY: as in `map_page`.
    let old = unsafe { entry.read_volatile() };
    // SAFETY: as above.
    unsafe { entry.write_volatile(0) };
    old & ADDRESS
}
