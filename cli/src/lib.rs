//! What the `anonmem` command is made of.
//!
//! `anonmem run` takes four steps, one module each: [`pack`] finds what the program needs and writes
//! the initial archive; [`vm`] finds the kernel and QEMU, chooses the accelerator and boots;
//! [`channel`] carries the standard streams, signals, the exit status and the bill; [`bill`] prints
//! the memory bill. [`run`] puts them together. [`guest`] measures one program in the microVM and on Linux
//! beside it. [`lab`] explores the catalogue of cases; [`scale`] compares operations by the cache lines that
//! each touches. [`conform`] compares a kernel's memory calls with Linux's. [`families`] is the bench over
//! the other reverse map.
//!
//! Without the feature `measure` there are no explorer and no bench: `anonmem run`, which is what
//! `make demo` needs, and conform, doctor, completions and man.

pub mod args;
pub mod bill;
pub mod cc;
pub mod channel;
pub mod conform;
pub mod doctor;
pub mod error;
#[cfg(feature = "measure")]
pub mod families;
#[cfg(feature = "measure")]
pub mod guest;
#[cfg(feature = "measure")]
pub mod lab;
pub mod out;
pub mod pack;
pub mod progress;
pub mod run;
#[cfg(feature = "measure")]
pub mod scale;
pub mod shell;
pub mod size;
pub mod values;
pub mod vm;
pub mod watch;
