//! anonmem in an ordinary process: threads as CPUs, a software MMU with a TLB per CPU.
//!
//! [`Hosted`] is a [`Machine`](anonmem_hal::Machine) that can be wrong in the ways hardware is: a translation
//! that nobody flushed stays, accessed and dirty bits appear at any moment, and a freed frame is full of
//! poison. So a memory manager that forgets a flush, loses a reference or reuses a frame too early is caught
//! by the bytes that a program reads.
//!
//! - [`arena`], [`failures`]: physical memory; poison, allocation state, injected allocation failure.
//! - [`sched`]: threads that hold a CPU while they run and give it up while they sleep.
//! - [`tlb`]: the translations that each CPU remembers.
//! - [`sources`], [`swap`]: the bytes behind private mappings; swap devices.
//! - [`machine`]: all of the above put together: the traits of `anonmem-hal`.
//! - [`mmu`]: walks the page tables in the arena, fills the TLBs, answers flushes.
//! - [`user`]: what a program does: loads, stores, atomic instructions, faults.
//! - [`oracle`], [`ops`], [`generate`], [`runner`], [`system`]: random operations on anonmem and on a plain
//!   model of it, side by side; [`calls`] and [`inspect`] serve them.
//!
//! A test makes the machine, takes what it wants to keep a hold on ([`Hosted::cpus`], [`Hosted::sources`],
//! [`Hosted::failures`]), and gives it to the memory manager. Every thread that calls the memory manager
//! holds a CPU: [`sched::Cpus::enter`].

mod access;
pub mod arena;
pub mod calls;
pub mod failures;
pub mod generate;
pub mod inspect;
pub mod machine;
pub mod mmu;
pub mod ops;
pub mod oracle;
mod random;
pub mod runner;
pub mod sched;
pub mod sources;
pub mod swap;
pub mod system;
pub mod tlb;
pub mod user;
mod watched;

pub use arena::Arena;
pub use failures::{FailurePlan, Failures};
pub use machine::{Checked, Checks, Fast, FastFamilies, Hosted};
pub use mmu::Access;
pub use sched::{CpuGuard, Cpus};
pub use sources::SourceTable;
pub use swap::{Caching, SwapTable};
pub use tlb::{MmuStats, TlbModel};
pub use user::{Handled, Trap, UserCpu, UserSpace};
