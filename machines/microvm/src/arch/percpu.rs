//! One area per CPU, found through GS.
//!
//! In the kernel GS points to the CPU's [`PerCpu`]; in user mode it belongs to the program. Entry code
//! swaps the two. A reference from [`this_cpu`] is good until the task parks or yields.

use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use x86_64::registers::model_specific::Msr;

use anonmem_hal::HeldLocks;

use super::gdt::Tables;

/// The most CPUs: one bit each in a `u64`.
pub const MAX_CPUS: usize = 64;

const IA32_GS_BASE: u32 = 0xc000_0101;
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// What one CPU knows of itself. Entry code addresses the first three fields by offset.
#[repr(C, align(64))]
pub struct PerCpu {
    this: AtomicPtr<PerCpu>,
    /// Where entry from user mode puts the stack pointer.
    pub kernel_stack_top: AtomicU64,
    /// Entry code's scratch place for the user's stack pointer.
    pub user_rsp: AtomicU64,
    /// The CPU's number, from 0.
    pub id: AtomicUsize,
    /// The number of its local APIC.
    pub apic_id: AtomicU32,
    /// Set once the CPU takes interrupts and tasks.
    pub online: AtomicBool,
    /// The id of the task whose floating-point state the registers hold; 0 for none.
    pub fpu_owner: AtomicU64,
    /// The top-level page table that CR3 points to.
    pub root: AtomicU64,
    /// The scheduler loop's saved stack pointer.
    pub scheduler_rsp: AtomicU64,
    /// A return to user mode should first let others run.
    pub need_resched: AtomicBool,
    /// Inside a user copy that must not fault pages in.
    pub nofault: AtomicBool,
    /// When the one-shot timer fires (nanoseconds, `u64::MAX` when it is off).
    pub timer_armed: AtomicU64,
    /// When the running task got the CPU.
    pub slice_start: AtomicU64,
    /// Shootdown requests to this CPU (`tlb`): a bit for each CPU that made one.
    pub inbox: AtomicU64,
    /// The memory-manager locks that code without a task holds (boot, the scheduler loop).
    pub held_locks: LooseHeldLocks,
    /// Its descriptor table and task state, written once while the CPU starts.
    pub tables: Tables,
}

/// The lock list of a CPU that runs no task.
pub struct LooseHeldLocks(UnsafeCell<HeldLocks>);

// SAFETY: only its own CPU uses it, outside of interrupt handlers.
unsafe impl Sync for LooseHeldLocks {}

impl LooseHeldLocks {
    /// Calls `f` with the list.
    pub fn with(&self, f: &mut dyn FnMut(&mut HeldLocks)) {
        // SAFETY: as above, and `f` does not come back here.
        f(unsafe { &mut *self.0.get() });
    }
}

/// How many CPUs run; the first one until boot has started the others.
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// The number of CPUs that run.
pub fn cpu_count() -> usize {
    COUNT.load(Relaxed)
}

/// Says how many CPUs run. Once, by boot.
pub fn set_cpu_count(count: usize) {
    COUNT.store(count, Relaxed);
}

static AREAS: [PerCpu; MAX_CPUS] = [const { PerCpu::new() }; MAX_CPUS];

impl PerCpu {
    const fn new() -> PerCpu {
        PerCpu {
            this: AtomicPtr::new(null_mut()),
            kernel_stack_top: AtomicU64::new(0),
            user_rsp: AtomicU64::new(0),
            id: AtomicUsize::new(0),
            apic_id: AtomicU32::new(0),
            online: AtomicBool::new(false),
            fpu_owner: AtomicU64::new(0),
            root: AtomicU64::new(0),
            scheduler_rsp: AtomicU64::new(0),
            need_resched: AtomicBool::new(false),
            nofault: AtomicBool::new(false),
            timer_armed: AtomicU64::new(u64::MAX),
            slice_start: AtomicU64::new(0),
            inbox: AtomicU64::new(0),
            held_locks: LooseHeldLocks(UnsafeCell::new(HeldLocks::NONE)),
            tables: Tables::new(),
        }
    }

    /// The CPU's number.
    pub fn id(&self) -> usize {
        self.id.load(Relaxed)
    }
}

/// The area of CPU `id`.
pub fn cpu(id: usize) -> &'static PerCpu {
    &AREAS[id]
}

/// Points GS of the running CPU to its area.
pub fn install(id: usize, apic_id: u32) {
    let area = cpu(id);
    area.this.store(core::ptr::from_ref(area).cast_mut(), Relaxed);
    area.id.store(id, Relaxed);
    area.apic_id.store(apic_id, Relaxed);
    let base = core::ptr::from_ref(area) as u64;
    // SAFETY: GS is the kernel's to use; the area lives forever.
    unsafe { Msr::new(IA32_GS_BASE).write(base) };
    set_user_gs_base(0);
}

/// Sets the GS base that user mode will see (the swapped-out one).
pub fn set_user_gs_base(base: u64) {
    // SAFETY: while in the kernel this register only holds the user's value; `base` is canonical
    // because callers check it.
    unsafe { Msr::new(IA32_KERNEL_GS_BASE).write(base) };
}

/// The area of the running CPU.
#[inline]
pub fn this_cpu() -> &'static PerCpu {
    let area: *const PerCpu;
    // SAFETY: in the kernel GS points to the area, whose first field is its own address.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) area, options(nostack, preserves_flags, readonly));
    }
    // SAFETY: areas are statics and all their fields may be shared.
    unsafe { &*area }
}
