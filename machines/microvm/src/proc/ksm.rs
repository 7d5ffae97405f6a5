//! Merging equal pages: the kernel task that scans, and what the administrator tells it.
//!
//! Nothing runs until somebody writes 1 to `run`. The task looks at some pages, sleeps, and goes on. Writing
//! 2 ends that, and copies every merged page again before it returns.
//!
//! Linux: mm/ksm.c `ksm_scan_thread`, `run_store`.

use super::mm::Space;
use super::number::Number;
use super::worker::{Nap, OFF, Round, Worker};
use crate::arch::time;
use crate::machine;
use crate::sched;
use anonmem::{KsmSettings, KsmStats, KsmUsage, MergeAny, MergeDomains};
use anonmem_oslib::Result;
use anonmem_oslib::advisor::{Advisor, Sweep};
use anonmem_oslib::errno::{EBUSY, EINVAL, Errno};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

const U32: u64 = u32::MAX as u64;

/// Pages that are looked at before the task sleeps.
pub static PAGES_TO_SCAN: Number = Number::new(100, 0, U32);
/// How long it sleeps.
pub static SLEEP_MS: Number = Number::new(20, 0, U32);
/// Kept: nodes whose pages are gone are found by the sweep.
pub static PRUNE_MS: Number = Number::new(2000, 0, U32);
/// Kept: this machine has one node of memory.
pub static ACROSS_NODES: Number = Number::new(1, 0, 1);
/// What the advisor may use of a processor, in per cent.
pub static ADVISOR_MAX_CPU: Number = Number::new(70, 0, 100);
/// Seconds that a sweep should take.
pub static ADVISOR_TARGET: Number = Number::new(200, 1, U32);
/// The fewest pages that the advisor says.
pub static ADVISOR_MIN: Number = Number::new(500, 0, U32);
/// The most pages that the advisor says.
pub static ADVISOR_MAX: Number = Number::new(30_000, 0, U32);

/// Whether the number of pages follows how long a sweep takes.
static ADVISED: AtomicU64 = AtomicU64::new(0);

/// The words of `advisor_mode`.
pub const ADVISOR_MODES: &[&str] = &["none", "scan-time"];

/// The word that is chosen.
pub fn advisor_mode() -> &'static str {
    ADVISOR_MODES[ADVISED.load(SeqCst) as usize]
}

/// Chooses another.
///
/// # Errors
/// `EINVAL` if there is no such word.
pub fn set_advisor_mode(word: &str) -> Result<()> {
    let mode = ADVISOR_MODES.iter().position(|known| *known == word).ok_or(EINVAL)?;
    ADVISED.store(mode as u64, SeqCst);
    if mode != 0 {
        PAGES_TO_SCAN.set(ADVISOR_MIN.get())?;
    }
    Ok(())
}

/// Sets the pages that are looked at before the task sleeps.
///
/// # Errors
/// `EINVAL` if the advisor says them, or the number is out of bounds.
pub fn set_pages_to_scan(pages: u64) -> Result<()> {
    if ADVISED.load(SeqCst) != 0 {
        return Err(EINVAL);
    }
    PAGES_TO_SCAN.set(pages)
}

/// The task. What it is told are Linux's numbers.
static WORKER: Worker = Worker::new();
/// It is off, and all was unmerged.
const UNMERGE: u64 = 2;

/// What is being done: 0 nothing, 1 merging, 2 nothing, and all was unmerged.
pub fn run() -> u64 {
    WORKER.told()
}

/// Starts or stops merging; 2 also copies every merged page again.
///
/// # Errors
/// `EINVAL` for other numbers; `ENOMEM` if there is no memory for the task or for the copies: then nothing is
/// being done.
#[doc(alias = "run_store")]
pub fn set_run(run: u64) -> Result<()> {
    if run > UNMERGE {
        return Err(EINVAL);
    }
    let changing = WORKER.changing();
    WORKER.tell(run, ksmd, &changing)?;
    if run == UNMERGE
        && let Err(error) = machine::vm().ksm_unmerge_all()
    {
        WORKER.tell(OFF, ksmd, &changing)?;
        return Err(Errno(error.errno()));
    }
    Ok(())
}

/// The task.
fn ksmd(_: usize) {
    let (mut began, mut worked) = (0, 0);
    WORKER.work(|round| {
        let start = time::now_ns();
        if round == Round::First {
            (began, worked) = (start, 0);
        }
        // Without memory for its table it tries again when it has slept.
        let swept = scan(PAGES_TO_SCAN.get());
        let now = time::now_ns();
        worked += now - start;
        if swept {
            advise(Sweep { took_ms: (now - began) / 1_000_000, worked_ms: worked / 1_000_000 });
            (began, worked) = (now, 0);
        }
        Nap::of_millis(&SLEEP_MS)
    });
}

/// Pages that are looked at in one piece: others want the processor, and KSM's settings, too.
const PIECE: u64 = 256;

/// Looks at `pages` pages, or to the end of the sweep; says whether that has come.
fn scan(pages: u64) -> bool {
    for piece in 0..pages.div_ceil(PIECE) {
        let done = machine::vm().ksm_scan(PIECE.min(pages - piece * PIECE)).unwrap_or_default();
        if done.swept || !WORKER.is_on() {
            return done.swept;
        }
        sched::yield_now();
    }
    false
}

/// Sets how long the task sleeps, from now on.
///
/// # Errors
/// As [`Number::set`].
pub fn set_sleep(value: u64) -> Result<()> {
    SLEEP_MS.set(value)?;
    WORKER.wake();
    Ok(())
}

fn advise(sweep: Sweep) {
    if ADVISED.load(SeqCst) == 0 {
        return;
    }
    let advisor = Advisor {
        target_ms: ADVISOR_TARGET.get() * 1000,
        max_cpu: ADVISOR_MAX_CPU.get(),
        min_pages: ADVISOR_MIN.get(),
        max_pages: ADVISOR_MAX.get(),
    };
    let pages = advisor.pages_after(PAGES_TO_SCAN.get(), sweep);
    // Within the bounds of both.
    let _ = PAGES_TO_SCAN.set(pages.min(U32));
}

/// Ends merging after all processes are gone, and gives its memory back.
pub fn finish() {
    WORKER.finish();
    // Nobody is left who has a merged page.
    let _ = machine::vm().ksm_unmerge_all();
}

/// What has been saved, and what was done.
pub fn stats() -> KsmStats {
    machine::vm().ksm_stats()
}

/// What the memory manager was told.
pub fn settings() -> KsmSettings {
    machine::vm().ksm_settings()
}

/// Changes what the memory manager was told.
///
/// # Errors
/// `EBUSY` if pages are merged already and it matters to them, `EINVAL` if the number makes no sense.
pub fn change(change: impl FnOnce(KsmSettings) -> KsmSettings) -> Result<()> {
    let _changing = WORKER.changing();
    machine::vm().set_ksm(change(settings())).map_err(|error| Errno(error.errno()))
}

/// Kept, but only while nothing is merged, as on Linux.
///
/// # Errors
/// `EBUSY` if pages are merged, `EINVAL` for other numbers than 0 and 1.
pub fn set_across_nodes(value: u64) -> Result<()> {
    if value != ACROSS_NODES.get() && value <= 1 && stats().pages_shared > 0 {
        return Err(EBUSY);
    }
    ACROSS_NODES.set(value)
}

/// The words of `merge_domains`, which Linux does not have.
pub const DOMAINS: &[&str] = &["families", "one"];

/// The word that is chosen.
pub fn domains() -> &'static str {
    match settings().domains {
        MergeDomains::Families => DOMAINS[0],
        MergeDomains::One => DOMAINS[1],
    }
}

/// Chooses another.
///
/// # Errors
/// `EINVAL` if there is no such word, `EBUSY` if pages are merged.
pub fn set_domains(word: &str) -> Result<()> {
    let domains = match DOMAINS.iter().position(|known| *known == word).ok_or(EINVAL)? {
        0 => MergeDomains::Families,
        _ => MergeDomains::One,
    };
    change(|settings| KsmSettings { domains, ..settings })
}

/// What has been saved of a program.
pub fn usage(mm: &Space) -> KsmUsage {
    mm.ksm_usage()
}

/// Whether all of a program's memory may be merged (`PR_GET_MEMORY_MERGE`).
pub fn merges_any(mm: &Space) -> bool {
    mm.merge_any() == MergeAny::Yes
}

/// Lets all of a program's memory be merged, or ends that (`PR_SET_MEMORY_MERGE`).
///
/// # Errors
/// `ENOMEM` if there is no memory to copy what is merged.
pub fn set_merges_any(mm: &Space, any: u64) -> Result<()> {
    let any = if any == 0 { MergeAny::No } else { MergeAny::Yes };
    mm.set_merge_any(any).map_err(|error| Errno(error.errno()))
}

/// Lets a new program have what the old one said.
///
/// # Errors
/// `ENOMEM`.
pub fn inherit(old: &Space, new: &Space) -> Result<()> {
    if merges_any(old) { set_merges_any(new, 1) } else { Ok(()) }
}
