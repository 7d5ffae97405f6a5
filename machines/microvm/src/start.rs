//! The first Rust code: from the boot loader's message to the first task.
//!
//! Divides the memory, builds the kernel's page tables, measures clocks, starts the other CPUs, makes the
//! memory manager, then runs [`init`] (or the self-test) as the first task. It stands on the top floor
//! because it hands each floor what comes from above: the heap its frames, the other CPUs the scheduler, the
//! console whoever takes its frames.

use crate::arch::mem::PhysAddr;
use crate::arch::{apic, idt, percpu, serial, time, tlb};
use crate::boot::acpi::Platform;
use crate::boot::config::BootConfig;
use crate::boot::info::BootInfo;
use crate::boot::{ap, early, entry, image, initrd, paging, set_initrd};
use crate::fs::sources;
use crate::{console, heap, init, klog, machine, sched, selftest};
use anonmem_oslib::memory::Layout;

/// On the boot stack, with the boot tables.
#[unsafe(no_mangle)]
extern "C" fn kernel_entry(start_info: PhysAddr) -> ! {
    percpu::install(0, 0);
    serial::init();
    let info = BootInfo::read(start_info);
    set_initrd(info.initrd.clone());
    let config = BootConfig::read(initrd());
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
    let cpus = ap::start_all(&platform, apic_id, sched::run_scheduler);
    percpu::set_cpu_count(cpus);
    heap::init(early::take_rest());
    sched::init_stacks();
    klog!(
        "{cpus} cpus, {} MiB for programs, {} KiB archive, booted in {} ms",
        (layout.frames.end - layout.frames.start) >> 20,
        initrd().len() >> 10,
        time::now_ns() / 1_000_000
    );
    machine::init(&layout, &config);
    sources::make_vdso();
    entry::check_stack();
    console::init(&platform, apic_id, init::channel_frame);
    sched::init_reaper();
    let main: fn(usize) = if info.has_word("selftest") { selftest::run } else { |_| init::run() };
    let task = sched::Task::new_kernel(main, 0).expect("memory for the first task");
    sched::start(&task);
    drop(task);
    ap::release();
    sched::run_scheduler()
}
