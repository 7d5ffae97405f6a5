//! anonmem as a kernel: a vehicle that makes the memory manager real.
//!
//! It boots in QEMU through PVH, starts all CPUs, runs unmodified Linux programs in ring 3 on real
//! page tables, and reports the memory bill when the program ends. README.md draws its floors.
//!
//! The kernel is not preempted in kernel mode: a task gives up its CPU only where it parks or
//! yields. Interrupt handlers take only [`arch::lock::IrqLock`]s, and never allocate.
#![no_std]
#![no_main]

extern crate alloc;

pub mod arch;
pub mod bill;
pub mod boot;
pub mod console;
pub mod elf;
pub mod fs;
pub mod heap;
pub mod init;
pub mod log;
pub mod machine;
mod panic;
pub mod proc;
pub mod procfs;
pub mod sched;
mod selftest;
mod start;
pub mod swap;
pub mod syscall;
mod traps;
pub mod usercopy;
pub mod virtio;
pub mod watch;
