//! TLB shootdown.
//!
//! Each CPU has one request (it can issue only one at a time: kernel code is not preempted, and
//! handlers issue none) and an inbox: a bit per CPU that wants something from it. A CPU answers from
//! the interrupt, and from every spin loop ([`relax`]), so also with interrupts off.
//! Hence two CPUs that shoot at each other answer each other while they wait, and a CPU that spins
//! on a lock of a waiting CPU answers too.
//!
//! A CPU that runs on another top-level table holds no translation of the request's: loading CR3
//! drops them all (PCIDs are not used), and only kernel pages are global. Such a CPU acknowledges
//! without flushing.

use core::sync::atomic::{
    AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use x86_64::VirtAddr;
use x86_64::instructions::{interrupts, tlb};
use x86_64::registers::control::{Cr3, Cr4, Cr4Flags};

use super::mem::PAGE;
use super::percpu::{MAX_CPUS, cpu, this_cpu};
use super::{apic, idt, time};

/// Above this many pages the whole TLB goes (Linux: tlb_single_page_flush_ceiling).
const SINGLE_PAGE_CEILING: u64 = 33;
/// How long to spin for answers.
const SPIN_NS: u64 = 20_000;
/// The longest nap after that; any interrupt ends it.
const NAP_NS: u64 = 50_000;
/// `root` of a request for kernel mappings, which all address spaces share.
const KERNEL_ROOT: u64 = u64::MAX;

#[repr(align(64))]
struct Request {
    root: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    /// The CPUs that have not answered.
    pending: AtomicU64,
}

static REQUESTS: [Request; MAX_CPUS] = [const {
    Request {
        root: AtomicU64::new(0),
        start: AtomicU64::new(0),
        end: AtomicU64::new(0),
        pending: AtomicU64::new(0),
    }
}; MAX_CPUS];

static SHOOTDOWNS: AtomicU64 = AtomicU64::new(0);
static IPIS: AtomicU64 = AtomicU64::new(0);
static PAGES: AtomicU64 = AtomicU64::new(0);

/// What was flushed since boot.
#[derive(Debug, Clone, Copy, Default)]
pub struct TlbCounters {
    /// Flushes that involved another CPU.
    pub shootdowns: u64,
    /// Interrupts sent for them.
    pub ipis: u64,
    /// Pages flushed one by one (a full flush counts as one), by the CPU that asked.
    pub pages_flushed: u64,
}

/// The counters of all CPUs.
pub fn counters() -> TlbCounters {
    TlbCounters {
        shootdowns: SHOOTDOWNS.load(Relaxed),
        ipis: IPIS.load(Relaxed),
        pages_flushed: PAGES.load(Relaxed),
    }
}

/// Makes `cpus` (a bit each) forget the translations of `start..end` of the address space with the top
/// table `root` (physical); all of them for `0..u64::MAX`. Returns when all have.
pub fn flush(cpus: u64, root: u64, start: u64, end: u64) {
    shoot(cpus, root, start, end);
}

/// Makes all running CPUs forget kernel translations in `start..end`.
pub fn flush_kernel(start: u64, end: u64) {
    shoot(u64::MAX, KERNEL_ROOT, start, end);
}

fn shoot(cpus: u64, root: u64, start: u64, end: u64) {
    let me = this_cpu();
    let my_bit = 1u64 << me.id();
    PAGES.fetch_add(page_count(start, end), Relaxed);
    let others = cpus & !my_bit & online();
    let request = &REQUESTS[me.id()];
    if others != 0 {
        request.root.store(root, Relaxed);
        request.start.store(start, Relaxed);
        request.end.store(end, Relaxed);
        request.pending.store(others, Relaxed);
        SHOOTDOWNS.fetch_add(1, Relaxed);
        for id in bits(others) {
            // Release pairs with the Acquire in `answer`: who sees the bit sees the request, and the
            // page-table writes that came before this call.
            cpu(id).inbox.fetch_or(my_bit, AcqRel);
            IPIS.fetch_add(1, Relaxed);
            apic::send_ipi(cpu(id).apic_id.load(Relaxed), idt::vector::SHOOTDOWN);
        }
    }
    if cpus & my_bit != 0 {
        flush_here(root, start, end);
    }
    if others != 0 {
        wait_for_answers(request);
    }
}

/// Spins for a moment, then sleeps in short naps: where CPUs are threads of a busy host, the one that shall
/// answer may be waiting for the core that spins.
fn wait_for_answers(request: &Request) {
    let may_nap = interrupts::are_enabled();
    let spin_end = time::now_ns() + SPIN_NS;
    // Acquire pairs with the Release in `answer`: their flushes come before our return.
    while request.pending.load(Acquire) != 0 {
        if may_nap && time::now_ns() > spin_end {
            nap(request);
        } else {
            relax();
        }
    }
}

fn nap(request: &Request) {
    interrupts::disable();
    answer();
    if request.pending.load(Acquire) == 0 {
        interrupts::enable();
        return;
    }
    time::arm(time::now_ns() + NAP_NS);
    interrupts::enable_and_hlt();
}

/// Waits a moment in a spin loop: answers shootdowns.
#[inline]
pub fn relax() {
    answer();
    core::hint::spin_loop();
}

/// Answers the requests to this CPU, if there are any. Any context.
#[inline]
pub fn answer() {
    let me = this_cpu();
    if me.inbox.load(Relaxed) != 0 {
        answer_slowly();
    }
}

fn answer_slowly() {
    // With interrupts off: a handler that answered in the middle would be right, but the two would
    // share the requests out in confusing ways.
    let _interrupts = super::irq::IrqOff::new();
    let me = this_cpu();
    let my_bit = 1u64 << me.id();
    for id in bits(me.inbox.swap(0, AcqRel)) {
        let request = &REQUESTS[id];
        flush_here(request.root.load(Relaxed), request.start.load(Relaxed), request.end.load(Relaxed));
        request.pending.fetch_and(!my_bit, Release);
    }
}

fn flush_here(root: u64, start: u64, end: u64) {
    let kernel = root == KERNEL_ROOT;
    if !kernel && this_cpu().root.load(Relaxed) != root {
        return;
    }
    if (end - start) / PAGE > SINGLE_PAGE_CEILING {
        if kernel {
            flush_global()
        } else {
            tlb::flush_all()
        }
        return;
    }
    let mut page = start & !(PAGE - 1);
    while page < end {
        tlb::flush(VirtAddr::new_truncate(page));
        page += PAGE;
    }
}

/// Drops everything, global pages too.
fn flush_global() {
    let cr4 = Cr4::read();
    // SAFETY: switching global pages off and on again only flushes.
    unsafe { Cr4::write(cr4 - Cr4Flags::PAGE_GLOBAL) };
    // SAFETY: as above.
    unsafe { Cr4::write(cr4) };
}

/// Makes this CPU forget one page of the address space it runs on.
pub fn flush_local(root: u64, va: u64) {
    if this_cpu().root.load(Relaxed) == root {
        tlb::flush(VirtAddr::new_truncate(va));
    }
}

/// Loads a top-level table. Interrupts are off: a shootdown must not see the register and the note of
/// it disagree.
pub fn load_root(root: u64) {
    let _interrupts = super::irq::IrqOff::new();
    let frame = x86_64::structures::paging::PhysFrame::containing_address(x86_64::PhysAddr::new(root));
    let (_, flags) = Cr3::read();
    // SAFETY: the table maps the kernel like every top-level table.
    unsafe { Cr3::write(frame, flags) };
    this_cpu().root.store(root, Relaxed);
}

fn page_count(start: u64, end: u64) -> u64 {
    if (end - start) / PAGE > SINGLE_PAGE_CEILING { 1 } else { (end - start).div_ceil(PAGE) }
}

static ONLINE: AtomicU64 = AtomicU64::new(0);

/// The CPUs that answer requests, a bit each.
pub fn online() -> u64 {
    ONLINE.load(Acquire)
}

/// Makes this CPU one that answers. Nothing that it mapped before may be shot down before.
pub fn set_online() {
    ONLINE.fetch_or(1 << this_cpu().id(), AcqRel);
}

fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        (set != 0).then(|| {
            let bit = set.trailing_zeros() as usize;
            set &= set - 1;
            bit
        })
    })
}
