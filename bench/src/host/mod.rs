//! The peer: the Linux kernel that this process runs on, doing the same work for a program.
//!
//! Every call is the system call itself, through the C library's thin wrapper, as a program would make it.
//! Memory that was given back is asked for again just before each sample ([`Region::warm`]): a virtual
//! machine may have returned idle memory to its host, and the first touch would then cost microseconds.
//!
//! - [`region`]: mappings of the host, touched and advised.
//! - [`child`]: forked children that do something and tell how long it took.
//! - [`entry`]: what an exception and a system call cost before any memory management happens.
//! - [`folios`]: sizes of folios, and whether the host used them.
//! - [`settings`]: transparent huge pages under /sys, set and put back.
//! - [`uffd`]: its userfaultfd.
//! - [`about`]: what machine this is.

pub mod about;
pub mod child;
pub mod cpus;
pub mod entry;
pub mod folios;
pub mod load;
pub mod region;
pub mod settings;
pub mod uffd;

pub use folios::Folios;
pub use region::Region;
