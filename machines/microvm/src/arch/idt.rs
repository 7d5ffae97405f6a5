//! The interrupt descriptor table: one for all CPUs, the stacks differ by each CPU's TSS.

use core::cell::UnsafeCell;

use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::structures::idt::{Entry, HandlerFunc};
use x86_64::{PrivilegeLevel, VirtAddr};

use super::entry::trap_stubs;
use super::gdt::{IST_COMMON, IST_DOUBLE_FAULT, IST_NMI, KERNEL_CS};

/// Vectors of this kernel. The first 32 are the CPU's.
pub mod vector {
    #![allow(missing_docs, reason = "the names of the exceptions")]
    pub const NMI: u64 = 2;
    pub const DOUBLE_FAULT: u64 = 8;
    pub const PAGE_FAULT: u64 = 14;
    pub const MACHINE_CHECK: u64 = 18;
    pub const FIRST_INTERRUPT: u64 = 32;
    /// All pins of the I/O APICs: the virtio transports.
    pub const DEVICE: u64 = 0x40;
    pub const TIMER: u64 = 0xf0;
    pub const RESCHEDULE: u64 = 0xf1;
    pub const SHOOTDOWN: u64 = 0xf2;
    pub const SPURIOUS: u64 = 0xff;
}

/// A gate whose stub saves all registers itself.
type Gate = Entry<HandlerFunc>;

#[repr(C, align(16))]
struct Idt(UnsafeCell<[Gate; 256]>);

// SAFETY: written once by the first CPU before interrupts and other CPUs are on, then read by hardware.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([Gate::missing(); 256]));

/// Fills the table. First CPU, once.
pub fn fill() {
    let stubs = trap_stubs as *const () as u64;
    for vector in 0..256u64 {
        let ist = match vector {
            vector::DOUBLE_FAULT => IST_DOUBLE_FAULT,
            vector::NMI | vector::MACHINE_CHECK => IST_NMI,
            _ => IST_COMMON,
        };
        // Breakpoint and overflow may be raised by user code.
        let raised_by = if matches!(vector, 3 | 4) { PrivilegeLevel::Ring3 } else { PrivilegeLevel::Ring0 };
        let mut gate = Gate::missing();
        // SAFETY: the stub of this vector, which leaves as `iretq` wants it.
        let options = unsafe { gate.set_handler_addr(VirtAddr::new(stubs + 16 * vector)) };
        options.set_privilege_level(raised_by);
        // SAFETY: each CPU has this segment.
        unsafe { options.set_code_selector(SegmentSelector(KERNEL_CS)) };
        // SAFETY: each CPU's TSS has these stacks, and nothing else uses them.
        unsafe { options.set_stack_index(ist) };
        // SAFETY: only this CPU runs, the table is not loaded yet.
        unsafe { (*IDT.0.get())[vector as usize] = gate };
    }
}

/// Loads the table on this CPU.
pub fn load() {
    let pointer = DescriptorTablePointer {
        limit: (size_of::<Idt>() - 1) as u16,
        base: VirtAddr::new(IDT.0.get() as u64),
    };
    // SAFETY: the table is a static, filled with gates to existing stubs.
    unsafe { lidt(&pointer) };
}
