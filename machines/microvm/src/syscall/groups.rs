//! Process groups and sessions. Linux: kernel/sys.c `setpgid`, `setsid`.

use super::call::Call;
use crate::proc::process::Process;
use crate::proc::{groups, table};
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EACCES, EINVAL, EPERM, ESRCH};
use core::sync::atomic::Ordering::SeqCst;

/// Gives the process that a number argument means, which may be any of its threads'; zero is the caller's.
fn process_of(c: &Call<'_>, number: i32) -> Result<Arc<Process>> {
    if number == 0 {
        return Ok(c.thread.process.clone());
    }
    let number = u32::try_from(number).map_err(|_| ESRCH)?;
    // A zombie has no threads any more.
    let of_thread = || table::thread(number).map(|thread| thread.process.clone());
    table::process(number).or_else(of_thread).ok_or(ESRCH)
}

pub(super) fn getpgrp(c: &mut Call<'_>) -> Result<usize> {
    Ok(c.thread.process.pgid.load(SeqCst) as usize)
}

pub(super) fn getpgid(c: &mut Call<'_>) -> Result<usize> {
    Ok(process_of(c, c.i32(0))?.pgid.load(SeqCst) as usize)
}

pub(super) fn getsid(c: &mut Call<'_>) -> Result<usize> {
    Ok(process_of(c, c.i32(0))?.sid.load(SeqCst) as usize)
}

pub(super) fn setpgid(c: &mut Call<'_>) -> Result<usize> {
    let own = &c.thread.process;
    let asked = if c.i32(1) == 0 { c.i32(0) } else { c.i32(1) };
    let pgid = u32::try_from(asked).map_err(|_| EINVAL)?;
    let process = process_of(c, c.i32(0))?;
    if c.i32(0) != 0 && c.u32(0) != process.pid {
        // A thread that is not its process's first.
        return Err(EINVAL);
    }
    let sid = own.sid.load(SeqCst);
    if process.parent.load(SeqCst) == own.pid {
        if process.sid.load(SeqCst) != sid {
            return Err(EPERM);
        }
        if process.executed.load(SeqCst) {
            return Err(EACCES);
        }
    } else if process.pid != own.pid {
        return Err(ESRCH);
    }
    if process.sid.load(SeqCst) == process.pid {
        return Err(EPERM);
    }
    let pgid = if pgid == 0 { process.pid } else { pgid };
    if pgid != process.pid && groups::session_of(pgid) != Some(sid) {
        return Err(EPERM);
    }
    process.pgid.store(pgid, SeqCst);
    Ok(0)
}

pub(super) fn setsid(c: &mut Call<'_>) -> Result<usize> {
    let process = &c.thread.process;
    // Its number may be a group's that it has left itself.
    if process.sid.load(SeqCst) == process.pid || groups::session_of(process.pid).is_some() {
        return Err(EPERM);
    }
    process.sid.store(process.pid, SeqCst);
    process.pgid.store(process.pid, SeqCst);
    let terminal = process.terminal.lock().take();
    drop(terminal);
    Ok(process.pid as usize)
}
