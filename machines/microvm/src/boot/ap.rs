//! The other CPUs: INIT, STARTUP, from real mode through the boot tables to the scheduler.
//!
//! They start one after the other: each uses the same trampoline page and tells when it is through.
//!
//! Intel SDM volume 3, 9.4.4 (the start-up sequence).

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use spin::Once;
use x86_64::instructions::interrupts;

use super::acpi::Platform;
use super::{early, paging};
use crate::arch::gdt::IST_SIZE;
use crate::arch::mem::{PAGE, PhysAddr, direct};
use crate::arch::percpu::{self, cpu, cpu_count, this_cpu};
use crate::arch::{apic, cpu as features, fpu, gdt, idt, time, tlb};
use crate::klog;

/// Where the trampoline runs: usable low memory that nothing else uses.
const TRAMPOLINE: PhysAddr = 0x8000;
/// The size of a CPU's scheduler stack.
const SCHEDULER_STACK: u64 = 64 * 1024;

global_asm!(
    r#"
    .section .trampoline, "a"
    .code16
    .global trampoline_start
trampoline_start:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl (0x8000 + trampoline_gdt_pointer - trampoline_start)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x8, $(0x8000 + trampoline_32 - trampoline_start)
    .code32
trampoline_32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x8ff0, %esp
    movl $enter_long_mode, %eax
    call *%eax
    # `enter_long_mode` loaded the boot GDT: 0x10 is 64-bit code there.
    ljmp $0x10, $(0x8000 + trampoline_64 - trampoline_start)
    .code64
trampoline_64:
    movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movabsq $ap_stack, %rax
    movq (%rax), %rsp
    xorl %ebp, %ebp
    movabsq $ap_entry, %rax
    call *%rax
    ud2
    .balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
trampoline_gdt_pointer:
    .word . - trampoline_gdt - 1
    .long 0x8000 + trampoline_gdt - trampoline_start
    .global trampoline_end
trampoline_end:
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

#[unsafe(no_mangle)]
static ap_stack: AtomicU64 = AtomicU64::new(0);
static STARTED: AtomicBool = AtomicBool::new(false);
static NEXT_ID: AtomicU64 = AtomicU64::new(0);
/// Set when the first CPU is done with boot: the others may take tasks.
static GO: AtomicBool = AtomicBool::new(false);

/// What a started CPU does after [`release`].
static RUN: Once<fn() -> !> = Once::new();

/// Starts all other CPUs; returns how many run in total. They wait for [`release`], and then `run`.
pub fn start_all(platform: &Platform, first_apic_id: u32, run: fn() -> !) -> usize {
    RUN.call_once(|| run);
    copy_trampoline();
    let mut count = 1;
    for &apic_id in platform.apic_ids().iter().filter(|id| **id != first_apic_id) {
        if start(count, apic_id) {
            count += 1;
        } else {
            klog!("cpu {count} (apic {apic_id}) does not start: left out");
        }
    }
    count
}

fn copy_trampoline() {
    let start = &raw const trampoline_start;
    let len = (&raw const trampoline_end) as usize - start as usize;
    assert!(len <= PAGE as usize / 2, "the trampoline outgrew its page");
    // SAFETY: the source is the section between the two symbols; the target is low memory that is never
    // given out.
    unsafe { core::ptr::copy_nonoverlapping(start, direct(TRAMPOLINE), len) };
}

fn start(id: usize, apic_id: u32) -> bool {
    let stack = direct(early::pages(SCHEDULER_STACK / PAGE)) as u64 + SCHEDULER_STACK;
    ap_stack.store(stack, Relaxed);
    NEXT_ID.store(id as u64, Relaxed);
    cpu(id).apic_id.store(apic_id, Relaxed);
    STARTED.store(false, Release);
    apic::send_init(apic_id);
    wait(200_000, &|| false);
    for _ in 0..2 {
        apic::send_startup(apic_id, TRAMPOLINE);
        // A busy host may leave an emulated CPU without time for long.
        if wait(200_000, &|| STARTED.load(Acquire)) {
            return true;
        }
    }
    wait(5_000_000_000, &|| STARTED.load(Acquire))
}

fn wait(ns: u64, done: &dyn Fn() -> bool) -> bool {
    let end = time::now_ns() + ns;
    while time::now_ns() < end {
        if done() {
            return true;
        }
        core::hint::spin_loop();
    }
    done()
}

/// Lets the started CPUs take tasks.
pub fn release() {
    GO.store(true, Release);
    for id in 1..cpu_count() {
        apic::send_ipi(cpu(id).apic_id.load(Relaxed), idt::vector::RESCHEDULE);
    }
}

/// What every CPU sets up for itself, the first one included.
pub fn init_cpu(id: usize, apic_id: u32) {
    let ist_stacks = direct(early::pages(3 * IST_SIZE / PAGE)) as u64 + 3 * IST_SIZE;
    gdt::init(&cpu(id).tables, ist_stacks);
    percpu::install(id, apic_id);
    idt::load();
    features::init();
    fpu::init_cpu();
    tlb::load_root(paging::kernel_root());
}

/// The first Rust code of another CPU, on its scheduler stack.
#[unsafe(no_mangle)]
extern "C" fn ap_entry() -> ! {
    let id = NEXT_ID.load(Relaxed) as usize;
    init_cpu(id, cpu(id).apic_id.load(Relaxed));
    apic::init();
    tlb::set_online();
    this_cpu().online.store(true, Release);
    STARTED.store(true, Release);
    while !GO.load(Acquire) {
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
    RUN.wait()()
}
