//! Segments, the task state segment and the interrupt stacks.
//!
//! Every interrupt gate switches to an interrupt stack (IST), because the precompiled `core` library
//! uses the red zone below the stack pointer; entry code moves on from there ([`super::entry`]).

use core::cell::UnsafeCell;

use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::{lgdt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

/// Kernel code.
pub const KERNEL_CS: u16 = 0x10;
/// Kernel data.
pub const KERNEL_SS: u16 = 0x18;
/// 32-bit user code: only the base of the selectors that `sysret` computes.
pub const USER_CS32: u16 = 0x23;
const TSS: u16 = 0x40;

/// IST of ordinary exceptions and interrupts (1-based, as in a gate).
pub const IST_COMMON: u8 = 1;
/// IST of the double fault.
pub const IST_DOUBLE_FAULT: u8 = 2;
/// IST of NMI and machine check.
pub const IST_NMI: u8 = 3;

/// The size of one interrupt stack.
pub const IST_SIZE: u64 = 16 * 1024;

/// A descriptor table.
#[repr(C, align(16))]
struct Gdt([u64; 10]);

impl Gdt {
    /// All null.
    const fn empty() -> Gdt {
        Gdt([0; 10])
    }

    fn fill(&mut self, tss: u64) {
        let limit = size_of::<TaskStateSegment>() as u64 - 1;
        self.0 = [
            0,
            0,
            0x00af_9b00_0000_ffff, // 0x10 kernel code
            0x00cf_9300_0000_ffff, // 0x18 kernel data
            0x00cf_fb00_0000_ffff, // 0x20 user code, 32 bit
            0x00cf_f300_0000_ffff, // 0x28 user data
            0x00af_fb00_0000_ffff, // 0x30 user code
            0,
            limit | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56,
            tss >> 32,
        ];
    }
}

/// The CPU's descriptor tables.
pub struct Tables {
    gdt: UnsafeCell<Gdt>,
    /// It names the interrupt stacks.
    tss: UnsafeCell<TaskStateSegment>,
}

// SAFETY: the tables are written by their own CPU before it takes interrupts and only read (by the
// hardware) afterwards.
unsafe impl Sync for Tables {}

impl Tables {
    /// All null.
    #[allow(clippy::new_without_default, reason = "must be const")]
    pub const fn new() -> Tables {
        Tables { gdt: UnsafeCell::new(Gdt::empty()), tss: UnsafeCell::new(TaskStateSegment::new()) }
    }
}

/// Loads this CPU's tables. `ist_stacks_top` is the top of three stacks of [`IST_SIZE`] each.
pub fn init(tables: &'static Tables, ist_stacks_top: u64) {
    let (gdt, tss) = (tables.gdt.get(), tables.tss.get());
    // SAFETY: this CPU's table, before it takes interrupts: nobody else looks at it.
    let tss_ref = unsafe { &mut *tss };
    for i in 0..3u64 {
        tss_ref.interrupt_stack_table[i as usize] = VirtAddr::new(ist_stacks_top - i * IST_SIZE);
    }
    // SAFETY: as above.
    unsafe { (*gdt).fill(tss as u64) };
    let pointer =
        DescriptorTablePointer { limit: size_of::<Gdt>() as u16 - 1, base: VirtAddr::new(gdt as u64) };
    // SAFETY: the table lives in a static and holds valid descriptors.
    unsafe { lgdt(&pointer) };
    let kernel_data = SegmentSelector(KERNEL_SS);
    // SAFETY: a 64-bit code segment with the attributes of the current one.
    unsafe { CS::set_reg(SegmentSelector(KERNEL_CS)) };
    // SAFETY: a flat data segment.
    unsafe { SS::set_reg(kernel_data) };
    // SAFETY: as above.
    unsafe { DS::set_reg(kernel_data) };
    // SAFETY: as above.
    unsafe { ES::set_reg(kernel_data) };
    // SAFETY: the null selector; the base comes from an MSR.
    unsafe { FS::set_reg(SegmentSelector::new(0, PrivilegeLevel::Ring0)) };
    // SAFETY: as above; `percpu::install` sets the base afterwards.
    unsafe { GS::set_reg(SegmentSelector::new(0, PrivilegeLevel::Ring0)) };
    // SAFETY: entry 0x40 is the descriptor of this CPU's TSS, not loaded yet.
    unsafe { load_tss(SegmentSelector(TSS)) };
}
