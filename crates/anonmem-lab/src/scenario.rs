//! Scenarios: a world, the CPUs that act on it, and what must hold in the end.
//!
//! ```
//! use anonmem_lab::{Exploration, Scenario, Sim, explore};
//! use anonmem_sync::{Atomic, Ordering::Relaxed};
//!
//! let lost_update = Scenario::new("lost-update", 1, || Atomic::<u64, Sim>::new(0))
//!     .cpu("increments", |n| n.store(n.load(Relaxed) + 1, Relaxed))
//!     .cpu("increments", |n| n.store(n.load(Relaxed) + 1, Relaxed))
//!     .check(|n| match n.peek() {
//!         2 => Ok(()),
//!         other => Err(format!("two increments made {other}")),
//!     });
//! let report = explore(&lost_update, &Exploration::default());
//! assert!(report.found.is_some());
//! ```

use crate::{
    names::Names,
    snapshot::{Region, Snapshot, Watch},
};
use core::cell::{Cell, UnsafeCell};

/// What the explorer runs.
///
/// An execution that is given up leaves its CPUs in the middle: what lives on their stacks is neither
/// dropped nor used again. So a CPU's code must not own what has to be dropped (memory on the heap leaks).
pub trait Program {
    /// The name, as on the command line.
    fn name(&self) -> &str;
    /// Changes whenever a replay id of an older version would mean something else.
    fn version(&self) -> u64;
    /// How many CPUs act.
    fn nr_cpus(&self) -> usize;
    /// What a CPU does, in a word or two.
    fn caption(&self, cpu: usize) -> &str;
    /// Whether everything that CPUs share is at the same address in every execution. Then what only one CPU
    /// ever touches need not take turns.
    fn is_in_place(&self) -> bool {
        false
    }
    /// The memory whose accesses are noted, to copy it back. Asked after [`reset`](Self::reset).
    fn watch(&self) -> Watch {
        Watch::NONE
    }
    /// Stands for the memory that [`check`](Self::check) looks at, if that is known: a check that passed
    /// passes again where the fingerprint is the same. Asked before `check`.
    fn fingerprint(&self) -> Option<u128> {
        None
    }
    /// Puts the world back to its beginning. `ended`: whether all CPUs of the last execution came to their
    /// end.
    fn reset(&self, ended: bool);
    /// Acts as CPU number `cpu`.
    fn run(&self, cpu: usize);
    /// Checks the world after all CPUs are done.
    ///
    /// # Errors
    /// The rule that does not hold.
    fn check(&self) -> Result<(), String>;
    /// Names objects of the world.
    fn names(&self, names: &mut Names);
}

type Body<W> = Box<dyn Fn(&W)>;
type Check<W> = Box<dyn Fn(&W) -> Result<(), String>>;
type Naming<W> = Box<dyn Fn(&W, &mut Names)>;

/// How the world gets back to its beginning.
enum Renewal<W> {
    /// It is built anew.
    Build,
    /// The bytes of these regions are copied back.
    Restore { regions: fn(&W, &mut Vec<Region>), snapshot: UnsafeCell<Snapshot> },
}

/// A [`Program`] made of closures.
pub struct Scenario<W> {
    name: String,
    version: u64,
    build: Box<dyn Fn() -> W>,
    renewal: Renewal<W>,
    cpus: Vec<(String, Body<W>)>,
    check: Check<W>,
    names: Naming<W>,
    world: UnsafeCell<Option<Box<W>>>,
    built: Cell<bool>,
    in_place: bool,
}

impl<W> Scenario<W> {
    /// A scenario without CPUs yet. Raise `version` when you change what the CPUs do.
    pub fn new(name: impl Into<String>, version: u64, build: impl Fn() -> W + 'static) -> Self {
        Self {
            name: name.into(),
            version,
            build: Box::new(build),
            renewal: Renewal::Build,
            cpus: Vec::new(),
            check: Box::new(|_| Ok(())),
            names: Box::new(|_, _| {}),
            world: UnsafeCell::new(None),
            built: Cell::new(false),
            in_place: false,
        }
    }

    /// Adds a CPU that does `body`.
    #[must_use]
    pub fn cpu(mut self, caption: impl Into<String>, body: impl Fn(&W) + 'static) -> Self {
        self.cpus.push((caption.into(), Box::new(body)));
        self
    }

    /// Checks the world after each execution.
    #[must_use]
    pub fn check(mut self, check: impl Fn(&W) -> Result<(), String> + 'static) -> Self {
        self.check = Box::new(check);
        self
    }

    /// Names the objects that the columns show.
    #[must_use]
    pub fn names(mut self, names: impl Fn(&W, &mut Names) + 'static) -> Self {
        self.names = Box::new(names);
        self
    }

    /// Promises that all that CPUs share lies in `W` itself: nothing of it is behind a `Box` or in a `Vec`.
    /// Then what turns out to be touched by one CPU alone takes no turns, which is faster.
    #[must_use]
    pub fn in_place(mut self) -> Self {
        self.in_place = true;
        self
    }

    /// Builds the world once, and copies it back before every execution: for worlds that are dear to build.
    /// `regions` lists what the CPUs may change, apart from `W` itself.
    ///
    /// # Safety
    /// Copying `W` and the regions back must undo all that the CPUs did: no memory of the heap is allocated
    /// or freed by them, and nothing outside changes, nor does the scenario's check look at anything else.
    /// The regions stay valid and in place as long as `W` lives.
    #[must_use]
    pub unsafe fn restored_by_copy(mut self, regions: fn(&W, &mut Vec<Region>)) -> Self {
        self.renewal = Renewal::Restore { regions, snapshot: UnsafeCell::default() };
        self.in_place = true;
        self
    }

    fn snapshot(&self) -> Option<&Snapshot> {
        match &self.renewal {
            Renewal::Build => None,
            // SAFETY: only `reset` changes it, and nobody who has it from here calls `reset`.
            Renewal::Restore { snapshot, .. } => Some(unsafe { &*snapshot.get() }),
        }
    }

    fn world(&self) -> &W {
        // SAFETY: the world is only replaced in `reset`, when no CPU runs and no borrow of it is left.
        let world = unsafe { &*self.world.get() };
        world.as_ref().expect("reset comes first")
    }

    fn rebuild(&self, ended: bool) {
        // SAFETY: `reset` is called when no CPU runs; nobody else has a reference to the world.
        let slot = unsafe { &mut *self.world.get() };
        match slot {
            // In place, so that addresses stay the same.
            Some(world) if ended => **world = (self.build)(),
            Some(world) => {
                // What abandoned CPUs were in the middle of cannot be dropped.
                // SAFETY: the old value is forgotten, the new one is written over it.
                unsafe { core::ptr::write(&raw mut **world, (self.build)()) };
            }
            None => *slot = Some(Box::new((self.build)())),
        }
    }
}

impl<W> Drop for Scenario<W> {
    fn drop(&mut self) {
        // A world that is copied back may have been left in the middle of an execution: it is not dropped.
        if let (Renewal::Restore { .. }, Some(world)) = (&self.renewal, self.world.get_mut().take()) {
            core::mem::forget(world);
        }
    }
}

impl<W> Program for Scenario<W> {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn nr_cpus(&self) -> usize {
        self.cpus.len()
    }

    fn caption(&self, cpu: usize) -> &str {
        &self.cpus[cpu].0
    }

    fn is_in_place(&self) -> bool {
        self.in_place
    }

    fn reset(&self, ended: bool) {
        let Renewal::Restore { regions, snapshot } = &self.renewal else { return self.rebuild(ended) };
        if self.built.replace(true) {
            // SAFETY: only `reset` touches it, and it does not call itself.
            let snapshot = unsafe { &mut *snapshot.get() };
            // SAFETY: no CPU runs, so nobody borrows from the world.
            return unsafe { snapshot.restore() };
        }
        self.rebuild(true);
        let world = self.world();
        let mut all = vec![Region::new((&raw const *world).cast_mut().cast(), size_of::<W>())];
        regions(world, &mut all);
        // SAFETY: `restored_by_copy` promises that the regions live as long as the world, which `self` keeps.
        let taken = unsafe { Snapshot::take(all) };
        // SAFETY: as above.
        unsafe { *snapshot.get() = taken };
    }

    fn watch(&self) -> Watch {
        self.snapshot().map_or(Watch::NONE, Snapshot::watch)
    }

    fn fingerprint(&self) -> Option<u128> {
        // SAFETY: asked at the end of an execution: no CPU runs.
        self.snapshot().map(|snapshot| unsafe { snapshot.fingerprint() })
    }

    fn run(&self, cpu: usize) {
        (self.cpus[cpu].1)(self.world());
    }

    fn check(&self) -> Result<(), String> {
        (self.check)(self.world())
    }

    fn names(&self, names: &mut Names) {
        (self.names)(self.world(), names);
    }
}
