//! Large folios made of small pages in the background: the kernel task, and what the administrator tells it.
//!
//! Nothing runs until somebody writes 1 to `run`, which Linux does not have: there the task runs while any
//! size is enabled. It makes the sizes that faults may take, and those of `sizes` everywhere.
//!
//! Linux: mm/khugepaged.c `khugepaged`.

use super::number::Number;
use super::worker::{Nap, ON, Worker};
use crate::machine;
use crate::sched;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use anonmem::{BlockEffort, CollapseLimits, CollapseSettings, CollapseTask, Effort, MAX_FOLIO_ORDER};
use anonmem_hal::Order;
use anonmem_oslib::Result;
use anonmem_oslib::errno::EINVAL;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

const U32: u64 = u32::MAX as u64;
/// The most entries of a table that may be of some kind: one must be another.
const MOST_ENTRIES: u64 = 511;

/// Pages that are looked at before the task sleeps.
pub static PAGES_TO_SCAN: Number = Number::new(4096, 1, U32);
/// How long it sleeps.
pub static SCAN_SLEEP_MS: Number = Number::new(10_000, 0, U32);
/// How long it sleeps when there was no block of frames.
pub static ALLOC_SLEEP_MS: Number = Number::new(60_000, 0, U32);
/// Pages of a leaf's window that need not be there (Linux: 511; here nobody pays for what was not touched).
pub static MAX_PTES_NONE: Number = Number::new(0, 0, MOST_ENTRIES);
/// Pages of a leaf's window that may be others' as well.
pub static MAX_PTES_SHARED: Number = Number::new(256, 0, MOST_ENTRIES);
/// Pages of a leaf's window that may be in swap.
pub static MAX_PTES_SWAP: Number = Number::new(64, 0, MOST_ENTRIES);
/// Whether pages move to make room for a block.
pub static DEFRAG: Number = Number::new(1, 0, 1);

/// Sweeps that are done, and folios that were made.
static FULL_SCANS: AtomicU64 = AtomicU64::new(0);
static COLLAPSED: AtomicU64 = AtomicU64::new(0);

/// A bit for each order that is made everywhere.
static EVERYWHERE: AtomicU64 = AtomicU64::new(0);

/// The task.
static WORKER: Worker = Worker::new();

/// Whether the task works: 1 if so.
pub fn run() -> u64 {
    WORKER.told()
}

/// How many sweeps are done.
pub fn full_scans() -> u64 {
    FULL_SCANS.load(SeqCst)
}

/// How many folios the task has made.
pub fn pages_collapsed() -> u64 {
    COLLAPSED.load(SeqCst)
}

/// The sizes that are made everywhere, in KiB.
pub fn sizes() -> String {
    let bits = EVERYWHERE.load(SeqCst);
    let orders = (1..=MAX_FOLIO_ORDER).filter(|order| bits >> order & 1 != 0);
    let sizes: Vec<_> = orders.map(|order| (Order::new(order).bytes() >> 10).to_string()).collect();
    sizes.join(" ") + "\n"
}

/// Sets the sizes that are made everywhere: numbers of KiB, `all`, or nothing.
///
/// # Errors
/// `EINVAL` if a folio has no such size.
pub fn set_sizes(text: &str) -> Result<()> {
    let order = |word: &str| {
        let kib: usize = word.parse().or(Err(EINVAL))?;
        (1..=MAX_FOLIO_ORDER).find(|&order| Order::new(order).bytes() >> 10 == kib).ok_or(EINVAL)
    };
    let bits = match text {
        "all" => ((1 << (MAX_FOLIO_ORDER + 1)) - 1) & !1,
        sizes => {
            let add = |bits: u64, word| order(word).map(|order| bits | 1 << order);
            sizes.split_whitespace().try_fold(0, add)?
        }
    };
    EVERYWHERE.store(bits, SeqCst);
    Ok(())
}

/// Starts or stops the task's work.
///
/// # Errors
/// `EINVAL` for other numbers than 0 and 1; `ENOMEM` if there is no memory for the task.
pub fn set_run(run: u64) -> Result<()> {
    if run > ON {
        return Err(EINVAL);
    }
    WORKER.tell(run, khugepaged, &WORKER.changing())
}

/// Sets how long the task sleeps, one way or the other, from now on.
///
/// # Errors
/// As [`Number::set`].
pub fn set_sleep(sleep: &Number, value: u64) -> Result<()> {
    sleep.set(value)?;
    WORKER.wake();
    Ok(())
}

fn settings() -> CollapseSettings {
    CollapseSettings {
        everywhere: EVERYWHERE.load(SeqCst) as u16,
        limits: CollapseLimits {
            none: MAX_PTES_NONE.get(),
            swapped: MAX_PTES_SWAP.get(),
            shared: MAX_PTES_SHARED.get(),
        },
        effort: match DEFRAG.get() {
            0 => BlockEffort::Free,
            _ => BlockEffort::Compact(Effort::Light),
        },
    }
}

/// The task.
fn khugepaged(_: usize) {
    let mut task = CollapseTask::default();
    WORKER.work(|_| match scan(&mut task, PAGES_TO_SCAN.get()) {
        Scanned::Enough => Nap::of_millis(&SCAN_SLEEP_MS),
        Scanned::NoMemory => Nap::of_millis(&ALLOC_SLEEP_MS),
    });
}

/// How a round ended.
enum Scanned {
    /// It has looked at enough, or at everything.
    Enough,
    /// There was no block of frames.
    NoMemory,
}

/// Pages that are looked at in one piece: others want the processor, too.
const PIECE: u64 = 512;

/// Looks at `pages` pages, or to the end of the sweep.
fn scan(task: &mut CollapseTask, pages: u64) -> Scanned {
    let mut left = pages;
    while left > 0 && WORKER.is_on() {
        let step = task.step(machine::vm(), left.min(PIECE), &settings());
        FULL_SCANS.store(task.full_scans, SeqCst);
        COLLAPSED.store(task.collapsed, SeqCst);
        if step.no_memory {
            return Scanned::NoMemory;
        }
        if step.swept {
            break;
        }
        left = left.saturating_sub(step.scanned.max(1));
        sched::yield_now();
    }
    Scanned::Enough
}

/// Ends the task after all processes are gone.
pub fn finish() {
    WORKER.finish();
}
