//! From the boot loader to the first task.
//!
//! `entry` (assembly) → [`kernel_entry`]: read the loader's message, divide the memory, build the kernel's
//! page tables, measure clocks, start the other CPUs, make the memory manager, then run
//! `proc::hooks::kernel_main` as the first task.

pub mod acpi;
pub mod ap;
pub mod config;
pub mod early;
pub mod entry;
pub mod image;
pub mod info;
pub mod paging;
mod selftest;

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::arch::mem::{PhysAddr, direct};
use crate::arch::{apic, idt, percpu, serial, time, tlb};
use crate::{console, heap, klog, machine, sched};
use acpi::Platform;
use anonmem_oslib::memory::Layout;
use config::Config;
use info::BootInfo;

static INITRD_START: AtomicU64 = AtomicU64::new(0);
static INITRD_LEN: AtomicU64 = AtomicU64::new(0);
static CPUS: AtomicUsize = AtomicUsize::new(1);

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

/// The number of CPUs that run.
pub fn cpu_count() -> usize {
    CPUS.load(Relaxed)
}

/// The first Rust code, on the boot stack, with the boot tables.
#[unsafe(no_mangle)]
extern "C" fn kernel_entry(start_info: PhysAddr) -> ! {
    percpu::install(0, 0);
    serial::init();
    let info = BootInfo::read(start_info);
    INITRD_START.store(info.initrd.start, Relaxed);
    INITRD_LEN.store(info.initrd.end - info.initrd.start, Relaxed);
    let config = Config::read(initrd());
    let layout = Layout::divide(info.ram(), image::physical(), info.initrd.clone(), config.ram)
        .expect("not enough memory for the kernel: give QEMU a larger -m");
    early::init(layout.kernel.clone());
    idt::fill();
    paging::init(&layout);
    let platform = Platform::read(info.rsdp);
    apic::set_base(platform.lapic);
    let apic_id = apic::id();
    ap::init_cpu(0, apic_id);
    apic::init();
    time::init();
    tlb::set_online();
    let cpus = ap::start_all(&platform, apic_id);
    CPUS.store(cpus, Relaxed);
    heap::init(early::take_rest());
    sched::init_stacks();
    klog!(
        "{cpus} cpus, {} MiB for programs, {} KiB archive, booted in {} ms",
        (layout.frames.end - layout.frames.start) >> 20,
        initrd().len() >> 10,
        time::now_ns() / 1_000_000
    );
    machine::init(&layout, config.poison, config.lock_mode);
    console::init(&platform, apic_id);
    sched::init_reaper();
    let main: fn(usize) = if info.has_word("selftest") { selftest::run } else { kernel_main };
    let task = sched::Task::new_kernel(main, 0).expect("memory for the first task");
    sched::start(&task);
    drop(task);
    ap::release();
    sched::run_scheduler()
}

fn kernel_main(_: usize) {
    crate::proc::hooks::kernel_main()
}

/// The first code of a kernel task. Called by `new_kernel_task` with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn kernel_task_main(entry: *const (), argument: usize) -> ! {
    // SAFETY: `Task::new_kernel` put a `fn(usize)` there.
    let entry = unsafe { core::mem::transmute::<*const (), fn(usize)>(entry) };
    x86_64::instructions::interrupts::enable();
    entry(argument);
    sched::exit()
}
