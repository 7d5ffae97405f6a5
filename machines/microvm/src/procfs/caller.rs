//! Who opens a generated file, and who writes to one.

use crate::proc::thread::try_current;
use anonmem_oslib::vfs::Meta;

/// Whether the caller may read (4) and write (2) what `meta` says.
pub(super) fn caller_may(meta: &Meta, wanted: u32) -> bool {
    try_current().is_some_and(|thread| thread.cred().may(meta, wanted))
}

/// Whether the caller may read (4) and write (2) a setting of root's with the bits of `mode`. Only the user
/// counts, and what he has been allowed otherwise does not: nobody can read what is only written.
#[doc(alias("sysctl_perm", "test_perm"))]
pub(super) fn caller_may_set(mode: u32, wanted: u32) -> bool {
    try_current().is_some_and(|thread| {
        let cred = thread.cred();
        let in_group = cred.group.effective == 0 || cred.groups.contains(&0);
        let bits = match cred.user.effective {
            0 => mode >> 6,
            _ if in_group => mode >> 3,
            _ => mode,
        };
        bits & wanted == wanted
    })
}
