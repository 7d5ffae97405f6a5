//! Who opens a generated file.

use crate::proc::thread::try_current;
use anonmem_oslib::vfs::Meta;

/// Whether the caller may read (4) and write (2) what `meta` says.
pub(super) fn caller_may(meta: &Meta, wanted: u32) -> bool {
    try_current().is_some_and(|thread| thread.cred().may(meta, wanted))
}
