//! What all generated files share: their numbers and their time.

use alloc::string::String;
use anonmem_oslib::Errno;

/// A path of `/proc` or `/sys` at which something is already, or another reason why it could not be made.
pub struct Taken(pub String, pub Errno);

/// Inode numbers of `/proc`: a process's directory is this plus its number times [`PER_PROCESS`].
pub(super) const FIRST_INO: u64 = 1 << 32;

/// Inode numbers of one process.
pub(super) const PER_PROCESS: u64 = 1 << 16;

/// The time that generated files show.
pub(super) fn now() -> u64 {
    crate::arch::time::wall_ns()
}
