//! For whoever ports anonmem: the smallest machine, and checks of your own.
//!
//! [`VecMachine`] is the smallest machine that anonmem runs on: a `Vec` is the memory, a thread is a CPU. It
//! is for first steps and for examples. `vec_machine.rs` is a whole port of the library in two hundred lines
//! of code, to be read beside a port of your own. It has no TLB: [`Program`] walks the page tables for every
//! word that a program loads or stores. `anonmem-hosted` is the machine that tests use, with TLBs and
//! failures.
//!
//! ```
//! use anonmem::{Config, MmapRequest, Prot, Vm};
//! use anonmem_testkit::{Program, VecMachine};
//!
//! let vm = Vm::new(VecMachine::new(256), Config::default())?;
//! let mm = vm.new_mm()?;
//! let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
//! mm.store(start, 7)?;
//! assert_eq!(mm.load(start)?, 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A port of your own implements [`Port`] beside the seven traits. Then [`checks::check`] asks it for the
//! promises of its methods, and [`property::play`] does random operations on all its CPUs at once, next to a
//! plain model. Both run without `std` (`default-features = false`) and without a heap: in a kernel, too.

#![cfg_attr(not(feature = "std"), no_std)]

pub mod checks;
#[cfg(feature = "std")]
mod cpus;
mod port;
#[cfg(feature = "std")]
mod program;
pub mod property;
mod tally;
#[cfg(feature = "std")]
mod vec_machine;
#[cfg(feature = "std")]
mod vec_port;

pub use port::{MAX_TASKS, Port, Source};
#[cfg(feature = "std")]
pub use program::{Program, Signal, example};
#[cfg(feature = "std")]
pub use vec_machine::VecMachine;
