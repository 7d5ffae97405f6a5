//! Segments, the task state segment and the interrupt stacks.
//!
//! Every interrupt gate switches to an interrupt stack (IST), because the precompiled `core` library
//! uses the red zone below the stack pointer; entry code moves on from there ([`super::entry`]).

use core::cell::UnsafeCell;

use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, DescriptorFlags, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

/// Kernel code.
pub const KERNEL_CS: u16 = 0x10;
/// Kernel data.
pub const KERNEL_SS: u16 = 0x18;
/// 32-bit user code: only the base of the selectors that `sysret` computes.
pub const USER_CS32: u16 = 0x23;
const TSS: u16 = 0x40;

/// IST of ordinary exceptions and interrupts, as an index into the TSS's list.
pub const IST_COMMON: u16 = 0;
/// IST of the double fault.
pub const IST_DOUBLE_FAULT: u16 = 1;
/// IST of NMI and machine check.
pub const IST_NMI: u16 = 2;

/// The size of one interrupt stack.
pub const IST_SIZE: u64 = 16 * 1024;

/// Null, one that nobody uses, five segments, another one, and the two words of the TSS.
type Gdt = GlobalDescriptorTable<10>;

/// The descriptors. Programs see the selectors of user code and data: they are Linux's.
///
/// # Safety
/// `tss` lives as long as the table is loaded.
unsafe fn descriptors(tss: *const TaskStateSegment) -> Gdt {
    let unused = Descriptor::UserSegment(0);
    // SAFETY: the caller's.
    let tss = unsafe { Descriptor::tss_segment_unchecked(tss) };
    let mut gdt = Gdt::empty();
    gdt.append(unused);
    let kernel_code = gdt.append(Descriptor::kernel_code_segment());
    let kernel_data = gdt.append(Descriptor::kernel_data_segment());
    let user_code_32 = gdt.append(Descriptor::UserSegment(DescriptorFlags::USER_CODE32.bits()));
    gdt.append(Descriptor::user_data_segment());
    gdt.append(Descriptor::user_code_segment());
    gdt.append(unused);
    let state = gdt.append(tss);
    let found = [kernel_code.0, kernel_data.0, user_code_32.0, state.0];
    assert!(found == [KERNEL_CS, KERNEL_SS, USER_CS32, TSS], "descriptors are not at their selectors");
    gdt
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
    // SAFETY: this CPU's table, as above.
    let gdt = unsafe { &mut *gdt };
    // SAFETY: the TSS lives in the same static.
    *gdt = unsafe { descriptors(tss) };
    // SAFETY: the table lives in a static and holds valid descriptors.
    unsafe { gdt.load_unsafe() };
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
