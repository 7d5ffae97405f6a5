//! Which operations that commute conflict all the same, by cache line.
//!
//! Two operations that commute can run without talking to one another, and do so exactly if neither writes a
//! cache line that the other reads or writes (Clements and others, "The scalable commutativity rule", SOSP
//! 2013). Two cores cannot show what 64 do; cache lines can. So every pair of operations (`ops`) runs here
//! on two simulated CPUs, one after the other, in both orders, from the same state (`world`). The probe of
//! the production code says what each touches, and `pair` compares the lines of 64 bytes.
//!
//! `study` compares all pairs, `table` the result with the table that is committed, and `model` says
//! what the conflicts of an operation with itself cost at 1 to 256 CPUs. That is a bound by arithmetic from
//! simulated accesses, and no measurement. `docs/scale.md` says what remains, and why.

pub mod model;
mod ops;
pub mod pair;
mod side;
pub mod study;
pub mod table;
mod world;

pub use ops::{OPS, Op, find};
pub use pair::{Conflict, Pair};
pub use study::{Study, study};

pub use anonmem::LockMode;

/// How the two sides are related.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Relation {
    /// Threads of one process: one address space, other pages of it.
    Threads,
    /// A process and its child: pages of their own, and families of anon_vmas that they share.
    Family,
    /// Two processes that have nothing to do with one another.
    Strangers,
}

impl Relation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Threads, Self::Family, Self::Strangers];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Family => "family",
            Self::Strangers => "strangers",
        }
    }
}

/// The lock modes, weakest promise first.
pub const MODES: [LockMode; 3] = [LockMode::Mmap, LockMode::Vma, LockMode::Speculative];

/// The name of a lock mode in tables.
pub const fn mode_name(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Mmap => "mmap",
        LockMode::Vma => "vma",
        LockMode::Speculative => "spec",
    }
}
