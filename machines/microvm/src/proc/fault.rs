//! Page faults and other exceptions of user code.
//!
//! The memory manager decides what a page fault is; here its answer becomes a retry, a signal, or the
//! choice of a victim. Linux: arch/x86/mm/fault.c.

use super::mm::{self, Access, Outcome};
use super::{nodes, oom, signal};
use crate::arch::percpu::{MAX_CPUS, this_cpu};
use crate::arch::time;
use crate::arch::trap::TrapFrame;
use crate::sched;
use alloc::vec::Vec;
use anonmem_hal::NodeSet;
use anonmem_oslib::latency::{self, Histogram};
use anonmem_oslib::sigframe::{Detail, SigInfo, Trap};
use anonmem_oslib::signal::{SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV, SIGTRAP, code};
use core::sync::atomic::Ordering::Relaxed;

/// Error code: the access was a write.
const WRITE: u64 = 1 << 1;
/// Error code: the access was an instruction fetch.
const FETCH: u64 = 1 << 4;
const PAGE_FAULT: u64 = 14;

fn access(error_code: u64) -> Access {
    match error_code {
        e if e & WRITE != 0 => Access::Write,
        e if e & FETCH != 0 => Access::Exec,
        _ => Access::Read,
    }
}

/// A page fault of user code.
pub fn user(va: u64, error_code: u64) {
    let thread = super::current_thread();
    thread.faults.fetch_add(1, Relaxed);
    *thread.trap.lock() = Trap { error: error_code, number: PAGE_FAULT, cr2: va };
    let info = match resolve(va, error_code, mm::handle_fault) {
        Ok(()) => return,
        Err(End::Signal(signal, code)) => SigInfo { signal, code, detail: Detail::Fault { addr: va } },
        Err(End::Killed) => SigInfo { signal: SIGKILL, code: code::SI_KERNEL, detail: Detail::None },
    };
    if info.signal == SIGKILL {
        super::exit::kill_self();
    } else {
        signal::force(info);
    }
}

/// A page fault of the kernel at a user address; says whether to try again.
pub fn kernel(va: u64, error_code: u64) -> bool {
    resolve(va, error_code, mm::handle_kernel_fault).is_ok()
}

/// How a fault ended that could not be resolved.
enum End {
    /// The address or the access is wrong: signal and code.
    Signal(u32, i32),
    /// The process was chosen to die.
    Killed,
}

/// How long each CPU's faults took that were resolved.
static LATENCY: [Histogram; MAX_CPUS] = [const { Histogram::new() }; MAX_CPUS];

/// How long faults took, waits for locks and devices included.
pub fn latency() -> Vec<(&'static str, u64)> {
    let of = |(name, permille)| Some((name, latency::percentile(&LATENCY, permille)?));
    [("p50_ns", 500), ("p99_ns", 990), ("max_ns", 1000)].into_iter().filter_map(of).collect()
}

fn resolve(va: u64, error_code: u64, handle: fn(&mm::Space, u64, Access) -> Outcome) -> Result<(), End> {
    let mm = sched::current_mm().ok_or(End::Signal(SIGSEGV, code::SEGV_MAPERR))?;
    let start = time::now_ns();
    let mut tries = 0;
    loop {
        match handle(&mm, va, access(error_code)) {
            Outcome::Done => {
                LATENCY[this_cpu().id()].record(time::now_ns() - start);
                return Ok(());
            }
            Outcome::SegvMaperr => return Err(End::Signal(SIGSEGV, code::SEGV_MAPERR)),
            Outcome::SegvAccerr => return Err(End::Signal(SIGSEGV, code::SEGV_ACCERR)),
            Outcome::Bus => return Err(End::Signal(SIGBUS, code::BUS_ADRERR)),
            Outcome::Lost => return Err(End::Signal(SIGBUS, code::BUS_MCEERR_AR)),
            Outcome::Oom => make_room(&mut tries, nodes::all())?,
            Outcome::NodesFull(nodes) => make_room(&mut tries, nodes)?,
        }
    }
}

/// Has somebody give memory of some nodes back, and counts how often.
fn make_room(tries: &mut u32, nodes: NodeSet) -> Result<(), End> {
    *tries += 1;
    oom::make_room(*tries - 1, nodes).map_err(|oom::Chosen| End::Killed)
}

/// Any other exception of user code.
pub fn exception(frame: &mut TrapFrame, vector: u64, error_code: u64) {
    let (signal, code, addr) = match vector {
        0 => (SIGFPE, code::FPE_INTDIV, frame.rip),
        1 | 3 => (SIGTRAP, code::TRAP_BRKPT, frame.rip),
        6 => (SIGILL, code::ILL_ILLOPN, frame.rip),
        16 | 19 => (SIGFPE, 0, frame.rip),
        17 => (SIGBUS, 1, 0),
        _ => (SIGSEGV, code::SI_KERNEL, 0),
    };
    let thread = super::current_thread();
    *thread.trap.lock() = Trap { error: error_code, number: vector, cr2: 0 };
    signal::force(SigInfo { signal, code, detail: Detail::Fault { addr } });
}

/// Gives the processor's account of the exception that `info` is about; zeros for other signals.
pub fn last_trap(info: &SigInfo) -> Trap {
    match info.detail {
        Detail::Fault { .. } => *super::current_thread().trap.lock(),
        _ => Trap::default(),
    }
}
