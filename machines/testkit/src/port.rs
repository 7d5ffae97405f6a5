//! What the checks need of a port beside the seven traits: programs, and tasks that run at once.

use anonmem::{Machine, Mm, Va};
use anonmem_hal::SourceId;

/// A port, as the checks drive it.
///
/// A kernel implements it with what it has: [`within`](Self::within) is a switch of address spaces,
/// [`load`](Self::load) and [`store`](Self::store) are its copies from and to user memory without the call of
/// `handle_fault`, and [`at_once`](Self::at_once) starts tasks.
pub trait Port<'v, M: Machine>: Sync {
    /// Runs `program` on this CPU with `mm` loaded: activates `mm`, loads its root, runs, loads what was
    /// loaded before, and deactivates `mm`. Calls nest, each with another address space.
    fn within(&self, mm: &Mm<'v, M>, program: &mut dyn FnMut());

    /// One load of the word at `va` in the address space that is loaded, as the hardware makes it: through
    /// what this CPU has cached. `None` is a page fault, and the port does nothing about it.
    fn load(&self, mm: &Mm<'v, M>, va: Va) -> Option<u64>;

    /// One store to the word at `va`, as [`load`](Self::load). Says whether it was done; if not, it was a
    /// page fault.
    fn store(&self, mm: &Mm<'v, M>, va: Va, value: u64) -> bool;

    /// How many tasks can run at once, each on a CPU of its own. At most [`MAX_TASKS`] are used.
    fn cpus(&self) -> usize {
        1
    }

    /// Runs `job(0)` to `job(tasks - 1)` at once, each in a task on a CPU of its own; returns when all have
    /// returned. `tasks` is at most [`cpus`](Self::cpus).
    fn at_once(&self, tasks: usize, job: &(dyn Fn(usize) + Sync)) {
        assert_eq!(tasks, 1, "a port with more CPUs says how tasks run on them");
        job(0);
    }

    /// A source to map, if the machine has one.
    fn source(&self) -> Option<Source> {
        None
    }
}

/// The most tasks that a check runs at once.
pub const MAX_TASKS: usize = 16;

/// A source and what it holds.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its name. The check gives back no reference that it did not take.
    pub id: SourceId,
    /// Its length in bytes, at least one.
    pub len: u64,
    /// Its byte at an offset below the length.
    pub byte: fn(u64) -> u8,
}
