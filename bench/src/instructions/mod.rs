//! Hot paths counted in instructions, under callgrind: a number that does not depend on who else uses the
//! machine.
//!
//! Each case prepares what it needs and then runs its hot path inside [`counted`]; callgrind collects there
//! and nowhere else. One process a case, so that a case cannot warm another one's lists. The count includes
//! everything that the memory manager executes, and leaves out the zeroing and copying of pages, which is
//! subtracted as it was counted (`cases.rs`).
//!
//! Nothing that is counted asks what processor this is: the code is compiled for every x86-64, valgrind
//! presents a processor of its own, and the C library is told to use no more than the baseline
//! (`valgrind.rs`). Another compiler makes other code: counts of another one than the table's are shown and
//! not judged.
//!
//! The committed counts are in `bench/instructions.toml`; `check` fails when one grows by more than
//! [`LIMIT_PERCENT`].

pub mod cases;
mod moving;
pub mod table;
pub mod valgrind;

pub use table::Table;

/// By how much a count may grow.
pub const LIMIT_PERCENT: f64 = 3.0;

/// Runs `f` where callgrind collects.
#[inline(never)]
pub fn counted(f: &mut dyn FnMut()) {
    f();
}
