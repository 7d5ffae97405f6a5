//! The smallest machine that anonmem runs on: a `Vec` is the memory, a thread is a CPU.
//!
//! For first steps and for examples. `vec_machine.rs` is a whole port of the library in two hundred lines, to
//! be read beside a port of your own. [`VecMachine`] has no TLB: [`Program`] walks the page tables for every
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

mod cpus;
mod program;
mod vec_machine;

pub use program::{Program, Signal, example};
pub use vec_machine::VecMachine;
