//! Results that say how an interrupted system call goes on. User code never sees them.
//!
//! Linux: include/linux/errno.h.

use crate::Errno;

/// Run it again, unless a handler ran that was installed without `SA_RESTART`.
pub const ERESTARTSYS: Errno = Errno(512);
/// Run it again, unless a handler ran.
pub const ERESTARTNOHAND: Errno = Errno(514);
/// As [`ERESTARTNOHAND`], with the deadline that the first run had (the thread keeps it).
pub const ERESTART_RESTARTBLOCK: Errno = Errno(516);

/// Says whether `result` of a system call is one of these.
pub fn is_restart(result: u64) -> bool {
    let errno = (result as i64).wrapping_neg();
    errno == i64::from(ERESTARTSYS.0)
        || errno == i64::from(ERESTARTNOHAND.0)
        || errno == i64::from(ERESTART_RESTARTBLOCK.0)
}
