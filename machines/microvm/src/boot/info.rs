//! What the loader says: memory map, command line, the initial archive.

use core::ops::Range;

use anonmem_oslib::memory::MAX_RANGES;

use crate::arch::mem::{PhysAddr, direct};

const START_MAGIC: u32 = 0x336e_c578;
const MEMMAP_RAM: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist: u64,
    cmdline: u64,
    rsdp: u64,
    memmap: u64,
    memmap_entries: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Module {
    addr: u64,
    size: u64,
    cmdline: u64,
    reserved: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MemmapEntry {
    addr: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// The loader's message, copied out of loader memory.
#[derive(Clone)]
pub struct BootInfo {
    ranges: [Range<PhysAddr>; MAX_RANGES],
    nr_ranges: usize,
    /// The initial archive; empty when there is none.
    pub initrd: Range<PhysAddr>,
    /// The root pointer of the ACPI tables, or 0.
    pub rsdp: PhysAddr,
    cmdline: [u8; 256],
    cmdline_len: usize,
}

impl BootInfo {
    /// Reads what the loader left at `start_info`.
    pub fn read(start_info: PhysAddr) -> BootInfo {
        let info: StartInfo = read_phys(start_info);
        assert!(info.magic == START_MAGIC, "no PVH start info: boot with QEMU's -kernel");
        let mut boot = BootInfo {
            ranges: [const { 0..0 }; MAX_RANGES],
            nr_ranges: 0,
            initrd: 0..0,
            rsdp: info.rsdp,
            cmdline: [0; 256],
            cmdline_len: 0,
        };
        assert!(info.version >= 1, "PVH start info without a memory map (version 0)");
        for i in 0..u64::from(info.memmap_entries) {
            let entry: MemmapEntry = read_phys(info.memmap + i * size_of::<MemmapEntry>() as u64);
            if entry.kind == MEMMAP_RAM && boot.nr_ranges < MAX_RANGES {
                boot.ranges[boot.nr_ranges] = entry.addr..entry.addr + entry.size;
                boot.nr_ranges += 1;
            }
        }
        if info.nr_modules > 0 {
            let module: Module = read_phys(info.modlist);
            boot.initrd = module.addr..module.addr + module.size;
        }
        if info.cmdline != 0 {
            while boot.cmdline_len < boot.cmdline.len() {
                let byte: u8 = read_phys(info.cmdline + boot.cmdline_len as u64);
                if byte == 0 {
                    break;
                }
                boot.cmdline[boot.cmdline_len] = byte;
                boot.cmdline_len += 1;
            }
        }
        boot
    }

    /// The RAM ranges as the loader reports them.
    pub fn ram(&self) -> &[Range<PhysAddr>] {
        &self.ranges[..self.nr_ranges]
    }

    /// Whether `word` is on the kernel command line.
    pub fn has_word(&self, word: &str) -> bool {
        self.cmdline[..self.cmdline_len].split(|b| *b == b' ').any(|w| w == word.as_bytes())
    }
}

fn read_phys<T: Copy>(addr: PhysAddr) -> T {
    // SAFETY: the loader's structures lie below 4 GiB, which the boot tables map; every bit pattern
    // of the integer structures read here is a value.
    unsafe { direct(addr).cast::<T>().read_unaligned() }
}
