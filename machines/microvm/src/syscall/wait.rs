//! Waiting for children.

use super::call::{Call, only};
use super::user;
use crate::proc::wait::{self, Change, Who};
use anonmem_oslib::errno::EINVAL;
use anonmem_oslib::sigframe::{Detail, SigInfo};
use anonmem_oslib::signal::{SIGCHLD, SIGCONT, code};
use anonmem_oslib::{Result, structure};
use core::sync::atomic::Ordering::SeqCst;
use linux_raw_sys::general as abi;

/// Options that say whose children and of which kind: all are alike here.
const KINDS: u32 = abi::__WALL | abi::__WCLONE | abi::__WNOTHREAD;

fn put_rusage(address: u64, cpu_ns: u64) -> Result<()> {
    let usage = structure!(abi::rusage {
        ru_utime.tv_sec: cpu_ns / 1_000_000_000,
        ru_utime.tv_usec: cpu_ns % 1_000_000_000 / 1_000,
    });
    user::write_unless_null(address, &usage)
}

pub(super) fn wait4(c: &mut Call<'_>) -> Result<usize> {
    let options = only(c.u32(2), abi::WNOHANG | abi::WUNTRACED | abi::WCONTINUED | KINDS)?;
    let who = match c.i32(0) {
        -1 => Who::Any,
        0 => Who::Group(c.thread.process.pgid.load(SeqCst)),
        pid if pid > 0 => Who::Pid(pid as u32),
        pgid => Who::Group(pgid.unsigned_abs()),
    };
    let Some(found) = wait::wait(&c.thread, who, options & !KINDS)? else { return Ok(0) };
    let status = match found.change {
        Change::Ended(status) => status.0,
        Change::Stopped(signal) | Change::Trapped(signal) => signal << 8 | 0x7f,
        Change::Continued => 0xffff,
    };
    user::write_unless_null(c.args[1], &status.to_le_bytes())?;
    put_rusage(c.args[3], found.cpu_ns)?;
    Ok(found.pid as usize)
}

pub(super) fn waitid(c: &mut Call<'_>) -> Result<usize> {
    const P_ALL: u32 = 0;
    const P_PID: u32 = 1;
    const P_PGID: u32 = 2;
    const P_PIDFD: u32 = 3;
    let wanted = abi::WEXITED | abi::WSTOPPED | abi::WCONTINUED;
    let options = only(c.u32(3), wanted | abi::WNOHANG | abi::WNOWAIT | KINDS)? & !KINDS;
    let named;
    let who = match (c.u32(0), c.u32(1)) {
        (P_ALL, _) => Who::Any,
        (P_PID, pid) => Who::Pid(pid),
        (P_PIDFD, fd) => {
            named = super::pidfd::named(c, fd)?;
            Who::This(&named)
        }
        (P_PGID, 0) => Who::Group(c.thread.process.pgid.load(SeqCst)),
        (P_PGID, pgid) => Who::Group(pgid),
        _ => return Err(EINVAL),
    };
    if options & wanted == 0 {
        return Err(EINVAL);
    }
    let found = wait::wait(&c.thread, who, options | wait::WAITID)?;
    let info = match found {
        None => alloc::vec![0; anonmem_oslib::sigframe::SIGINFO],
        Some(found) => {
            let (code, status) = match found.change {
                Change::Ended(status) if status.0 & 0x7f == 0 => (code::CLD_EXITED, (status.0 >> 8) as i32),
                Change::Ended(status) => (code::CLD_KILLED, (status.0 & 0x7f) as i32),
                Change::Stopped(signal) => (code::CLD_STOPPED, signal as i32),
                Change::Trapped(signal) => (code::CLD_TRAPPED, signal as i32),
                Change::Continued => (code::CLD_CONTINUED, SIGCONT as i32),
            };
            put_rusage(c.args[4], found.cpu_ns)?;
            // Linux tells `waitid` no times here.
            let detail = Detail::Child { pid: found.pid, status, cpu_ns: 0 };
            SigInfo { signal: SIGCHLD, code, detail }.to_bytes()
        }
    };
    user::write_unless_null(c.args[2], &info)?;
    Ok(0)
}
