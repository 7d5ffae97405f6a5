//! What an operating system needs and no hardware: the division of memory, the archive, the RAM file system,
//! pipes' rings, ELF files, the layouts of the Linux ABI, and the texts of `/proc`.
//!
//! The microVM kernel stands on this crate; because nothing here touches a machine, all of it is
//! tested on the host with `cargo test`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
pub mod address;
pub mod advisor;
pub mod bill;
pub mod choice;
pub mod cpio;
pub mod cred;
pub mod elf;
pub mod errno;
pub mod latency;
pub mod memory;
pub mod nodes;
pub mod oom;
pub mod proactive;
pub mod restart;
pub mod ring;
pub mod runfile;
pub mod sigframe;
pub mod signal;
pub mod stack;
pub mod strings;
pub mod text;
pub mod tty;
pub mod vdso;
pub mod vfs;

pub use errno::{Errno, Result};
