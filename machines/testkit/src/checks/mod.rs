//! Checks of somebody else's [`Machine`]: each asks for one promise of one method.
//!
//! [`check`] goes through [`all`]. A check that fails says what it found, and nothing panics on purpose: a
//! kernel can print the verdicts one after the other. A machine that breaks its promises may still hang or
//! end the kernel, so a port says each name before the check runs.
//!
//! ```
//! use anonmem::{Config, Vm};
//! use anonmem_testkit::{VecMachine, checks};
//!
//! let vm = Vm::new(VecMachine::new(4096), Config::default())?;
//! vm.swap_on(0, 256, 0)?;
//! let report = checks::check(&vm, vm.machine(), &mut |_, verdict| {
//!     assert!(!matches!(verdict, checks::Verdict::Broken(_)), "{verdict}");
//! });
//! assert_eq!(report.broken, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod flush;
mod memory;
mod swap;
mod tasks;

use crate::port::Port;
use anonmem::{Error, FaultAccess, FaultOutcome, Machine, MmapRequest, Prot, Va, VaRange, Vm};
use anonmem_hal::PAGE_SIZE;
use core::fmt;

/// A page in bytes.
pub(crate) const P: u64 = PAGE_SIZE as u64;
/// More faults than this for one access mean that it never comes to an end.
const MAX_FAULTS: u32 = 1_000;

/// What a check found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The promise was kept.
    Kept,
    /// This machine does not have what the promise is about.
    NotTried(&'static str),
    /// The promise was broken.
    Broken(Broken),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("kept"),
            Self::NotTried(why) => write!(f, "not tried: {why}"),
            Self::Broken(broken) => write!(f, "BROKEN: {broken}"),
        }
    }
}

/// How a promise was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// What was looked at.
    pub what: &'static str,
    /// What it should have been.
    pub expected: u64,
    /// What it was.
    pub found: u64,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {:#x}, found {:#x}", self.what, self.expected, self.found)
    }
}

impl core::error::Error for Broken {}

/// Why a check ends early.
pub(crate) enum Stop {
    /// Nothing to check.
    NotTried(&'static str),
    /// It was broken.
    Broken(Broken),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Broken(Broken {
            what: "a call failed with this errno, though there should be memory",
            expected: 0,
            found: error.errno() as u64,
        })
    }
}

pub(crate) type Checked = Result<(), Stop>;

/// Broken unless both are the same.
pub(crate) fn equal(what: &'static str, found: u64, expected: u64) -> Result<(), Broken> {
    if found == expected { Ok(()) } else { Err(Broken { what, expected, found }) }
}

/// Broken unless it holds.
pub(crate) fn holds(what: &'static str, found: bool) -> Result<(), Broken> {
    equal(what, found.into(), 1)
}

/// One promise.
pub struct Check<'v, M: Machine> {
    /// Its name: the method, then what is asked.
    pub name: &'static str,
    /// What goes wrong where it is broken.
    pub why: &'static str,
    run: fn(&World<'v, '_, M>) -> Checked,
}

impl<M: Machine> fmt::Debug for Check<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<'v, M: Machine> Check<'v, M> {
    /// Asks for the promise.
    pub fn run(&self, vm: &'v Vm<M>, port: &dyn Port<'v, M>) -> Verdict {
        match (self.run)(&World { vm, port }) {
            Ok(()) => Verdict::Kept,
            Err(Stop::NotTried(why)) => Verdict::NotTried(why),
            Err(Stop::Broken(broken)) => Verdict::Broken(broken),
        }
    }
}

/// How many verdicts of each kind there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Promises kept.
    pub kept: usize,
    /// Promises that this machine does not make.
    pub not_tried: usize,
    /// Promises broken.
    pub broken: usize,
}

/// Asks a machine for all its promises and tells each verdict.
///
/// `vm` is fresh: nothing else uses it meanwhile. 2,000 frames are enough.
pub fn check<'v, M: Machine>(
    vm: &'v Vm<M>,
    port: &dyn Port<'v, M>,
    tell: &mut dyn FnMut(&Check<'v, M>, &Verdict),
) -> Report {
    let mut report = Report::default();
    for check in all() {
        let verdict = check.run(vm, port);
        match verdict {
            Verdict::Kept => report.kept += 1,
            Verdict::NotTried(_) => report.not_tried += 1,
            Verdict::Broken(_) => report.broken += 1,
        }
        tell(&check, &verdict);
    }
    report
}

/// All checks, in the order in which a port comes up. The direct map is asked first and last.
pub fn all<'v, M: Machine>() -> [Check<'v, M>; 37] {
    macro_rules! table {
        ($($name:literal, $why:literal, $run:path;)*) => {
            [$(Check { name: $name, why: $why, run: $run }),*]
        };
    }
    table![
        "base_pfn, nr_frames: frames that exist", "frame 0 means no frame", memory::frames;
        "memmap: aligned to 64", "two frames' counts share a cache line with a third's", memory::memmap;
        "direct_map: one run, at the same place", "page tables are read from the wrong place", memory::direct_map;
        "zero: all of a block, and no more", "programs read what others left", memory::zero;
        "copy: all of a block, and no more", "a child reads what its parent never wrote", memory::copy;
        "read_bytes, write_bytes: these bytes and no others", "a read of another program's memory lies", memory::bytes;
        "is_zero: never true of a page with a bit set", "a page with data is dropped as empty", memory::is_zero;
        "same_bytes, hash_page: equal where the bytes are", "a page is given up for another one", memory::same_bytes;
        "now_ns: never back", "waits end early or never", tasks::clock;
        "current_cpu: below nr_cpus, below Cpus::MAX", "per-CPU data is read past its end", tasks::cpu_numbers;
        "current_cpu: no two tasks at once", "two CPUs write one list of free pages", tasks::one_task_a_cpu;
        "contended: runs its wait once", "a lock is taken twice, or not at all", tasks::contended;
        "optimistic_spin: comes to an end", "a task spins for a lock whose holder sleeps", tasks::spin_ends;
        "with_held_locks: a list for each task", "the order of locks is checked against another's", tasks::held_locks;
        "park: returns when there is nothing to wait for", "a wake-up that came first is lost", tasks::park_returns;
        "park, unpark: no wake-up is lost", "a task sleeps for ever", tasks::no_lost_wake_up;
        "park, unpark: a wake-up for each", "one of several sleepers sleeps for ever", tasks::everybody_wakes;
        "init_root: the user half is empty", "a new program has somebody's pages", flush::init_root;
        "activate: flushes reach this CPU", "nobody flushes the CPU that runs a program", flush::active;
        "flush: this CPU, one page", "a program goes on writing to a freed page", flush::own_page;
        "flush: this CPU, many pages", "the same, where all translations go at once", flush::own_many;
        "flush: after fork", "a child reads its parent's later stores", flush::after_fork;
        "flush: a page that was copied", "a store goes to the page of before", flush::after_copy;
        "flush: tables that were freed", "a walk goes through a page of another program", flush::own_tables;
        "flush: other CPUs", "a program goes on writing to a freed page", flush::others;
        "flush: other CPUs, after fork", "a child reads its parent's later stores", flush::others_after_fork;
        "flush: other CPUs, tables that were freed", "a walk goes through freed memory", flush::others_tables;
        "flush: over when it returns", "a store comes after the page was given away", flush::over_on_return;
        "flush: from two CPUs at each other", "both wait for ever", flush::at_each_other;
        "flush_local: drops what denies", "an access faults for ever", flush::spurious;
        "deactivate: an address space ends", "an ended address space is walked", flush::ends;
        "a store sets the dirty bit", "a page that comes back has old bytes", swap::dirty;
        "swap_write, swap_read: each slot its page", "programs read each other's pages", swap::slots;
        "swap: a page of two programs", "one of them gets another page", swap::shared_slot;
        "fill: the bytes of the source", "a program runs other code", swap::source;
        "fill: past the end", "a program reads what was in the frame", swap::source_end;
        "direct_map: still at the same place", "page tables are read from the wrong place", memory::direct_map;
    ]
}

/// What a check works with.
pub(crate) struct World<'v, 'p, M: Machine> {
    pub(crate) vm: &'v Vm<M>,
    pub(crate) port: &'p dyn Port<'v, M>,
}

pub(crate) type Mm<'v, M> = anonmem::Mm<'v, M>;

impl<'v, M: Machine> World<'v, '_, M> {
    pub(crate) fn machine(&self) -> &'v M {
        self.vm.machine()
    }

    /// Runs a program that ends with a verdict.
    pub(crate) fn within(&self, mm: &Mm<'v, M>, mut program: impl FnMut() -> Checked) -> Checked {
        let mut result = Ok(());
        self.port.within(mm, &mut || result = program());
        result
    }

    /// A new address space with `pages` pages that may be written to.
    pub(crate) fn space(&self, pages: u64) -> Result<(Mm<'v, M>, Va), Stop> {
        let mm = self.vm.new_mm()?;
        let start = mm.mmap(MmapRequest::anonymous(pages * P, Prot::READ | Prot::WRITE))?;
        Ok((mm, start))
    }

    /// A load that is repeated after each fault, of the address space that is loaded.
    pub(crate) fn load(&self, mm: &Mm<'v, M>, va: Va) -> Result<u64, Stop> {
        self.until_done(mm, va, FaultAccess::Read, || self.port.load(mm, va))
    }

    /// A store that is repeated after each fault.
    pub(crate) fn store(&self, mm: &Mm<'v, M>, va: Va, value: u64) -> Checked {
        self.until_done(mm, va, FaultAccess::Write, || self.port.store(mm, va, value).then_some(()))
    }

    fn until_done<R>(
        &self,
        mm: &Mm<'v, M>,
        va: Va,
        access: FaultAccess,
        attempt: impl Fn() -> Option<R>,
    ) -> Result<R, Stop> {
        for _ in 0..MAX_FAULTS {
            if let Some(done) = attempt() {
                return Ok(done);
            }
            match mm.handle_fault(va, access) {
                FaultOutcome::Done => {}
                outcome @ (FaultOutcome::Oom
                | FaultOutcome::NodesFull(_)
                | FaultOutcome::SegvMaperr
                | FaultOutcome::SegvAccerr
                | FaultOutcome::Bus
                | FaultOutcome::Lost) => return Err(refused(outcome)),
            }
        }
        Err(Broken { what: "an access faults again and again", expected: 1, found: MAX_FAULTS.into() }.into())
    }
}

fn refused(outcome: FaultOutcome) -> Stop {
    let what = match outcome {
        FaultOutcome::Done => "an access was refused",
        FaultOutcome::Oom | FaultOutcome::NodesFull(_) => "an access found no memory",
        FaultOutcome::SegvMaperr => "an access found no mapping",
        FaultOutcome::SegvAccerr => "an access found no permission",
        FaultOutcome::Bus => "an access found no page",
        FaultOutcome::Lost => "an access found a page that is lost",
    };
    Stop::Broken(Broken { what, expected: 0, found: 1 })
}

/// The range of `pages` pages.
pub(crate) fn range(start: Va, pages: u64) -> VaRange {
    VaRange { start, end: Va(start.0 + pages * P) }
}

/// The address of a page.
pub(crate) fn page(start: Va, n: u64) -> Va {
    Va(start.0 + n * P)
}
