//! Results that say how an interrupted system call goes on. User code never sees them.
//!
//! Linux: include/linux/errno.h.

use crate::Errno;

/// Run it again, unless a handler ran that was installed without `SA_RESTART`.
pub const ERESTARTSYS: Errno = Errno(512);
/// Run it again, whatever handler ran: nobody is to know that it was interrupted.
pub const ERESTARTNOINTR: Errno = Errno(513);
/// Run it again, unless a handler ran.
pub const ERESTARTNOHAND: Errno = Errno(514);
/// As [`ERESTARTNOHAND`], with the deadline that the first run had (the thread keeps it).
pub const ERESTART_RESTARTBLOCK: Errno = Errno(516);

/// Says whether `result` of a system call is one of these.
pub fn is_restart(result: u64) -> bool {
    let errno = (result as i64).wrapping_neg();
    [ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK]
        .iter()
        .any(|e| errno == i64::from(e.0))
}
