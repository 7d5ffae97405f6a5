//! anonmem as a kernel: a vehicle that makes the memory manager real.
//!
//! It boots in QEMU through PVH, starts all CPUs, runs unmodified Linux programs in ring 3 on real
//! page tables, and reports the memory bill when the program ends. Its parts:
//!
//! - `boot`, `arch`, `sched`, `usercopy`, `heap`, `console`: the machine;
//! - `machine`: what the memory manager sees of it (the `Machine` trait);
//! - `fs`, `proc`, `syscall`, `elf`, `procfs`, `bill`: what a Linux program sees of it.
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
pub mod log;
pub mod machine;
pub mod proc;
pub mod procfs;
pub mod sched;
pub mod swap;
pub mod syscall;
pub mod usercopy;
pub mod virtio;
